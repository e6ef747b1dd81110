//! The links between cores: bounded single-producer single-consumer rings and a doorbell.
//!
//! Each ordered pair of cores has four rings:
//! - *data*: batches of points, from the receiving core to the owner, and of lines for another core
//!   to parse;
//! - *spent*: the same buffers, emptied, on their way back. A sender owns a fixed number of
//!   buffers per owner; when none is left, the link is full. Nothing is allocated once all buffers
//!   exist.
//! - *ask* and *answer*: queries to the owner of a metric and its answers. A core has at most as
//!   many open queries to another as the rings have places, so an answer never waits.

use rtrb::{Consumer, Producer, RingBuffer};

use crate::sys::doorbell::{Doorbell, DoorbellEar, doorbell};

/// One core's ends of all its links. `Q` and `A` are its questions and answers.
pub struct Links<Q, A> {
    /// What wakes this core.
    pub ear: DoorbellEar,
    /// This core's own doorbell, to hand to threads that work for it.
    pub own_bell: Doorbell,
    /// Links to the other cores, by their number; the core's own place is empty.
    pub peers: Vec<Option<Peer<Q, A>>>,
}

/// One core's ends of the links with one other core.
pub struct Peer<Q, A> {
    /// Wakes the other core.
    pub bell: Doorbell,
    /// Batches for the other core.
    pub data_tx: Producer<Vec<u8>>,
    /// Our buffers, emptied by the other core.
    pub spent_rx: Consumer<Vec<u8>>,
    /// Batches for this core.
    pub data_rx: Consumer<Vec<u8>>,
    /// The other core's buffers on their way back.
    pub spent_tx: Producer<Vec<u8>>,
    /// Questions to the other core.
    pub ask_tx: Producer<Q>,
    /// Its answers to ours.
    pub answer_rx: Consumer<A>,
    /// Its questions.
    pub ask_rx: Consumer<Q>,
    /// Our answers to its questions.
    pub answer_tx: Producer<A>,
}

/// Builds the links of `count` cores: `buffers` batches and `questions` open questions per
/// ordered pair.
pub fn build<Q, A>(
    count: usize,
    buffers: usize,
    questions: usize,
) -> std::io::Result<Vec<Links<Q, A>>> {
    let mut links = Vec::with_capacity(count);
    for _ in 0..count {
        let (own_bell, ear) = doorbell()?;
        let peers = (0..count).map(|_| None).collect();
        links.push(Links { ear, own_bell, peers });
    }
    for low in 0..count {
        for high in low + 1..count {
            let (near, far) = pair(&links[low], &links[high], buffers, questions);
            links[low].peers[high] = Some(near);
            links[high].peers[low] = Some(far);
        }
    }
    Ok(links)
}

fn pair<Q, A>(
    near: &Links<Q, A>,
    far: &Links<Q, A>,
    buffers: usize,
    questions: usize,
) -> (Peer<Q, A>, Peer<Q, A>) {
    let (near_data_tx, far_data_rx) = RingBuffer::new(buffers);
    let (far_data_tx, near_data_rx) = RingBuffer::new(buffers);
    let (far_spent_tx, near_spent_rx) = RingBuffer::new(buffers);
    let (near_spent_tx, far_spent_rx) = RingBuffer::new(buffers);
    let (near_ask_tx, far_ask_rx) = RingBuffer::new(questions);
    let (far_ask_tx, near_ask_rx) = RingBuffer::new(questions);
    let (far_answer_tx, near_answer_rx) = RingBuffer::new(questions);
    let (near_answer_tx, far_answer_rx) = RingBuffer::new(questions);
    let near_end = Peer {
        bell: far.own_bell.clone(),
        data_tx: near_data_tx,
        spent_rx: near_spent_rx,
        data_rx: near_data_rx,
        spent_tx: near_spent_tx,
        ask_tx: near_ask_tx,
        answer_rx: near_answer_rx,
        ask_rx: near_ask_rx,
        answer_tx: near_answer_tx,
    };
    let far_end = Peer {
        bell: near.own_bell.clone(),
        data_tx: far_data_tx,
        spent_rx: far_spent_rx,
        data_rx: far_data_rx,
        spent_tx: far_spent_tx,
        ask_tx: far_ask_tx,
        answer_rx: far_answer_rx,
        ask_rx: far_ask_rx,
        answer_tx: far_answer_tx,
    };
    (near_end, far_end)
}
