//! The line between the admin thread and a core: a question at a time, and its answer.

use std::cell::RefCell;
use std::sync::mpsc::{self, Receiver, Sender};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::shard::forget::{Forgotten, LogIsFull, Names, Page};
use crate::sys::doorbell::Doorbell;

/// What the thread asks a core.
#[derive(Debug)]
pub enum Question {
    /// The names of metrics that may be forgotten, from this entry on.
    Names(u32),
    /// Forget these metrics; with `true` only count them.
    Forget(Names, bool),
}

/// What a core answers.
#[derive(Debug)]
pub enum Reply {
    /// Some names.
    Names(Page),
    /// What became of the metrics.
    Forgotten(Result<Forgotten, LogIsFull>),
    /// The node stops and takes no more requests.
    Stopping,
}

/// The thread's end of its line to one core.
pub struct CoreLine {
    pub(super) to: Producer<Question>,
    pub(super) from: Receiver<Reply>,
    pub(super) bell: Doorbell,
}

/// A core's end of it.
pub struct AdminEnd {
    pub(super) questions: RefCell<Consumer<Question>>,
    pub(super) replies: Sender<Reply>,
}

/// Makes the line to the core that has this doorbell.
pub fn line(bell: Doorbell) -> (CoreLine, AdminEnd) {
    let (to, questions) = RingBuffer::new(1);
    let (replies, from) = mpsc::channel();
    (CoreLine { to, from, bell }, AdminEnd { questions: RefCell::new(questions), replies })
}
