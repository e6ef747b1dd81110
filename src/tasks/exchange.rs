//! Everything that passes between this core and other threads.
//!
//! One task per core empties all links whenever the doorbell rings: batches of points for this
//! shard, buffers coming back, questions, answers, orders of the main thread. Accepting a batch
//! never waits for room in another link, and an answer always has a place in its ring, so no core
//! ever waits for another one in here.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::metric::owner::ShardId;
use crate::shard::Shard;
use crate::shard::query::{Answer, Question};
use crate::sys::clock;
use crate::sys::executor::{Task, sleep, spawn, yield_now};
use crate::tasks::admin;
use crate::tasks::commit;
use crate::tasks::core::{Core, Order, Report, Stage};
use crate::tasks::flush::Writer;
use crate::tasks::writer::Errand;

/// How long points may wait for their batch to fill up: a wake-up of a sleeping core costs 80 us,
/// at 500 a second 4 % of a core.
const BATCH_AGE_MAX: Duration = Duration::from_millis(2);

/// Starts emptying this core's links.
pub fn start(core: &Rc<Core>, writer: &Rc<Writer>) -> Task<()> {
    let (core, writer) = (Rc::clone(core), Rc::clone(writer));
    spawn(async move {
        loop {
            let mut found = writer.collect(&core);
            found |= commit::collect(&core);
            found |= admin::collect(&core);
            found |= take_orders(&core);
            found |= take_spent(&core);
            found |= take_batch(&core);
            found |= take_questions(&core);
            found |= take_answers(&core);
            if found {
                if !core.shard.borrow_mut().must_wait() {
                    core.room.notify();
                }
                commit::soon(&core);
                core.loggable.notify();
                yield_now().await;
            } else {
                core.listening.sleep_unless(|| something_waits(&core, &writer)).await;
            }
        }
    })
}

/// Sends full batches at once, and has the rest sent when its points have waited long enough. To be
/// called when a receiver has taken points.
pub fn send_soon(core: &Core) {
    commit::soon(core);
    let mut shard = core.shard.borrow_mut();
    let (has_ready, has_unsent) = (shard.outbox().has_ready(), shard.outbox().has_unsent());
    drop(shard);
    if has_ready {
        send(core, false);
    }
    if has_unsent {
        core.outgoing.notify();
    }
}

/// Starts sending what is left over in open batches.
pub fn start_sending(core: &Rc<Core>) -> Task<()> {
    let core = Rc::clone(core);
    spawn(async move {
        loop {
            core.outgoing.until(|| core.shard.borrow_mut().outbox().has_unsent()).await;
            sleep(BATCH_AGE_MAX).await;
            send(&core, true);
        }
    })
}

/// Sends what the links have room for.
pub fn send(core: &Core, also_open: bool) {
    let mut shard = core.shard.borrow_mut();
    let mut peers = core.peers.borrow_mut();
    for (number, peer) in (0u16..).zip(peers.iter_mut()) {
        let Some(peer) = peer else { continue };
        let mut sent = false;
        while let Some(batch) = shard.outbox().pop(ShardId(number), also_open) {
            match peer.data_tx.push(batch) {
                Ok(()) => sent = true,
                Err(rtrb::PushError::Full(batch)) => {
                    shard.outbox().unpop(ShardId(number), batch);
                    break;
                }
            }
        }
        if sent {
            peer.bell.ring();
        }
    }
}

/// Asks a shard; the answer is kept in the core. The caller has made sure that no more than
/// `QUESTIONS_MAX` questions are open. Points that wait to be sent are sent first, but the
/// answer does not wait for them.
pub fn ask(core: &Core, owner: ShardId, question: Question) {
    let is_own = core.shard.borrow().id() == owner;
    if is_own {
        if let Some(errand) = answer_here(core, None, question) {
            core.errands.borrow_mut().push_back(errand);
            core.own_bell.ring();
        }
        // It may have been points: the node's own.
        commit::soon(core);
        return;
    }
    send(core, true);
    let mut peers = core.peers.borrow_mut();
    let peer = peers[owner.index()].as_mut().expect("every other shard is a peer");
    peer.ask_tx.push(question).expect("no more questions are open than the ring has places");
    peer.bell.ring();
}

/// Sends an answer to the core that asked.
pub fn reply(core: &Core, asker: Option<ShardId>, answer: Answer) {
    let Some(asker) = asker else { return core.keep_answer(answer) };
    let mut peers = core.peers.borrow_mut();
    let peer = peers[asker.index()].as_mut().expect("every other shard is a peer");
    peer.answer_tx.push(answer).expect("no more answers are owed than the ring has places");
    peer.bell.ring();
}

/// Answers a question at once, or says what the writer must do for it.
fn answer_here(core: &Core, asker: Option<ShardId>, question: Question) -> Option<Errand> {
    let answer = match question {
        Question::Points(ticket, names, bytes_max) => {
            Answer::Points(ticket, core.shard.borrow().page_of(&names, bytes_max))
        }
        Question::Own(ticket, batch) => {
            core.with_shard(|shard| shard.accept_own_batch(&batch));
            Answer::Own(ticket)
        }
        Question::Stats(ticket) => Answer::Stats(ticket, Box::new(core.stats())),
        Question::Metadata(ticket, name, change) => {
            let path = core.shard.borrow().path_of(&name);
            return Some(Errand { asker, ticket, name, path, change, result: None });
        }
    };
    reply(core, asker, answer);
    None
}

fn take_orders(core: &Core) -> bool {
    let mut found = false;
    while let Ok(order) = core.orders.borrow_mut().pop() {
        found = true;
        match order {
            Order::Rules(rules) => core.shard.borrow_mut().set_rules(rules),
            Order::InheritanceRead(lost_points) => {
                let mut shard = core.shard.borrow_mut();
                shard.counters.wal_lost += lost_points;
                if let Some(log) = shard.log() {
                    log.inheritance_read(Instant::now());
                }
                drop(shard);
                core.report(Report::Recovered);
            }
            Order::Serve => core.stage.set(Stage::Running),
            Order::InheritanceGone => commit::inheritance_gone(core),
            Order::Seal => {
                core.stage.set(Stage::Sealing);
                core.flushable.notify();
            }
            Order::StopReceiving => core.stage.set(Stage::Stopping),
            Order::Drain => {
                // A sweep under way goes on without its limits.
                core.shard.borrow_mut().hurry();
                core.stage.set(Stage::Draining);
                core.flushable.notify();
            }
        }
        core.changed.notify();
        core.answer_room.notify();
    }
    found
}

/// Takes back emptied buffers.
fn take_spent(core: &Core) -> bool {
    let mut found = false;
    let mut shard = core.shard.borrow_mut();
    for (number, peer) in (0u16..).zip(core.peers.borrow_mut().iter_mut()) {
        let Some(peer) = peer else { continue };
        let mut taken = false;
        while let Ok(buffer) = peer.spent_rx.pop() {
            shard.outbox().give_back(ShardId(number), buffer);
            taken = true;
        }
        if taken {
            peer.bell.ring();
        }
        found |= taken;
    }
    drop(shard);
    if found {
        core.changed.notify();
        send(core, false);
    }
    found
}

/// Whether batches of other cores must wait: this shard is full. At the stop they need not, as no
/// more can come than the links hold, and their senders wait for them to be accepted.
fn is_held_back(core: &Core, shard: &mut Shard) -> bool {
    core.stage.get() == Stage::Running && shard.is_full()
}

/// Takes at most one batch of each core, unless this shard is full.
fn take_batch(core: &Core) -> bool {
    let mut found = false;
    for peer in core.peers.borrow_mut().iter_mut().flatten() {
        let mut shard = core.shard.borrow_mut();
        if is_held_back(core, &mut shard) {
            drop(shard);
            core.flushable.notify();
            break;
        }
        // With extra buffers under way there may be no place to send one back: its owner rings
        // when it has taken some out.
        if peer.spent_tx.is_full() {
            continue;
        }
        let Ok(mut batch) = peer.data_rx.pop() else { continue };
        // Points arrive when their owner has them.
        shard.set_time(clock::now_s());
        shard.accept_batch(&batch);
        batch.clear();
        peer.spent_tx.push(batch).expect("there was a place and only we fill it");
        peer.bell.ring();
        found = true;
    }
    found
}

/// Answers with what the shard has. Batches that wait in its links are some milliseconds old, as
/// long as the shard is not full, and taking them first made the slowest answers slower by half.
fn take_questions(core: &Core) -> bool {
    let mut found = false;
    let count = core.peers.borrow().len();
    for number in 0..count {
        loop {
            let question = match &mut core.peers.borrow_mut()[number] {
                Some(peer) => peer.ask_rx.pop(),
                None => break,
            };
            let Ok(question) = question else { break };
            let asker = ShardId(u16::try_from(number).expect("shards are numbered in 16 bits"));
            if let Some(errand) = answer_here(core, Some(asker), question) {
                core.errands.borrow_mut().push_back(errand);
            }
            found = true;
        }
    }
    found
}

fn take_answers(core: &Core) -> bool {
    let mut answers = Vec::new();
    for peer in core.peers.borrow_mut().iter_mut().flatten() {
        while let Ok(answer) = peer.answer_rx.pop() {
            answers.push(answer);
        }
    }
    let found = !answers.is_empty();
    for answer in answers {
        core.keep_answer(answer);
    }
    found
}

/// Whether another look at the links would find something to do.
fn something_waits(core: &Core, writer: &Writer) -> bool {
    let has_answers = writer.has_finished() || commit::has_answers(core);
    if has_answers || admin::has_question(core) || !core.orders.borrow().is_empty() {
        return true;
    }
    let takes_batches = !is_held_back(core, &mut core.shard.borrow_mut());
    core.peers.borrow().iter().flatten().any(|peer| {
        !peer.spent_rx.is_empty()
            || !peer.ask_rx.is_empty()
            || !peer.answer_rx.is_empty()
            || (takes_batches && !peer.data_rx.is_empty() && !peer.spent_tx.is_full())
    })
}
