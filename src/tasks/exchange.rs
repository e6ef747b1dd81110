//! The core's loop: takes what other threads leave for this core.
//!
//! One task per core empties all links whenever the doorbell rings: batches of points for this
//! shard, buffers coming back, requests, responses, commands of the main thread. Accepting a batch
//! never waits for room in another link.

use std::rc::Rc;
use std::time::Instant;

use crate::metric::owner::ShardId;
use crate::shard::Shard;
use crate::sys::clock;
use crate::sys::executor::{Task, spawn, yield_now};
use crate::tasks::admin;
use crate::tasks::commit;
use crate::tasks::core::{Core, CoreCommand, CoreEvent, Stage};
use crate::tasks::flush::Writer;
use crate::tasks::links::{respond_here, send};

/// Starts emptying this core's links.
pub fn start(core: &Rc<Core>, writer: &Rc<Writer>) -> Task<()> {
    let (core, writer) = (Rc::clone(core), Rc::clone(writer));
    spawn(async move {
        loop {
            let mut found = writer.collect(&core);
            found |= commit::collect(&core);
            found |= admin::collect(&core);
            found |= take_commands(&core);
            found |= take_spent(&core);
            found |= take_batch(&core);
            found |= take_requests(&core);
            found |= take_responses(&core);
            if found {
                if !core.shard.borrow_mut().must_wait() {
                    core.room.notify();
                }
                commit::schedule_commit(&core);
                core.loggable.notify();
                yield_now().await;
            } else {
                core.listening.sleep_unless(|| something_waits(&core, &writer)).await;
            }
        }
    })
}

fn take_commands(core: &Core) -> bool {
    let mut found = false;
    while let Ok(command) = core.commands.borrow_mut().pop() {
        found = true;
        match command {
            CoreCommand::Rules(rules) => core.shard.borrow_mut().set_rules(rules),
            CoreCommand::InheritanceRead(lost_points) => {
                let mut shard = core.shard.borrow_mut();
                shard.counters.wal_lost += lost_points;
                if let Some(log) = shard.log() {
                    log.inheritance_read(Instant::now());
                }
                drop(shard);
                core.report(CoreEvent::Recovered);
            }
            CoreCommand::Serve => core.stage.set(Stage::Running),
            CoreCommand::InheritanceGone => commit::inheritance_gone(core),
            CoreCommand::Seal => {
                core.stage.set(Stage::Sealing);
                core.flushable.notify();
            }
            CoreCommand::StopReceiving => core.stage.set(Stage::Stopping),
            CoreCommand::Drain => {
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

/// Responds with what the shard has. Batches that wait in its links are some milliseconds old while
/// the shard is not full, and taking them first made the slowest responses slower by half.
fn take_requests(core: &Core) -> bool {
    let mut found = false;
    let count = core.peers.borrow().len();
    for number in 0..count {
        loop {
            let request = match &mut core.peers.borrow_mut()[number] {
                Some(peer) => peer.ask_rx.pop(),
                None => break,
            };
            let Ok(request) = request else { break };
            let asker = ShardId(u16::try_from(number).expect("shards are numbered in 16 bits"));
            if let Some(metadata) = respond_here(core, Some(asker), request) {
                core.metadata_requests.borrow_mut().push_back(metadata);
            }
            found = true;
        }
    }
    found
}

fn take_responses(core: &Core) -> bool {
    let mut responses = Vec::new();
    for peer in core.peers.borrow_mut().iter_mut().flatten() {
        while let Ok(response) = peer.answer_rx.pop() {
            responses.push(response);
        }
    }
    let found = !responses.is_empty();
    for response in responses {
        core.keep_response(response);
    }
    found
}

/// Whether another look at the links would find something to do.
fn something_waits(core: &Core, writer: &Writer) -> bool {
    let has_answers = writer.has_finished() || commit::has_answers(core);
    if has_answers || admin::has_question(core) || !core.commands.borrow().is_empty() {
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
