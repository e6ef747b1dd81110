//! Keeping the log: commits at an interval, checkpoints, and what old segments ask for.
//!
//! Nothing runs while nothing waits. The first point after a commit starts the clock of the next
//! one; a full mebibyte does not wait for it. The WAL writer and the checkpoint thread do what may
//! block; the exchange task collects their answers with [`collect`].

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::disk::checkpoint::Request;
use crate::disk::recovery::ReplayFeed;
use crate::disk::wal_writer::{WalRequest, WalResponse};
use crate::fatal::{Fatal, die};
use crate::shard::Shard;
use crate::sys::clock;
use crate::sys::executor::{Task, sleep, spawn, yield_now};
use crate::tasks::core::{Core, CoreEvent};
use crate::tasks::wal_handle::WalHandle;
use crate::wal::Pressure;

/// This many bytes are committed without waiting for the interval: the WAL writer's cost per byte
/// is at its lowest then.
const COMMIT_BYTES: usize = 1 << 20;

/// Least time between two checkpoints while the log is short of room, and between two checks of
/// whether it still is.
const PRESSURE_INTERVAL: Duration = Duration::from_millis(250);

/// Files that were written are synced after this time even if nothing waits for it: what a loss of
/// power makes the log repeat must lie within a quarter of each file's finest archive.
const CHECKPOINT_TIME_MAX: Duration = Duration::from_secs(300);

/// Pause after a segment could not be given up.
const RETIRE_PAUSE: Duration = Duration::from_secs(1);

/// How often a stop looks whether everything is committed.
const SETTLE_PAUSE: Duration = Duration::from_millis(2);

impl WalHandle {
    /// Commits what waits, now or when the commit under way has ended.
    fn commit(&self, core: &Core) {
        let mut shard = core.shard.borrow_mut();
        let Some(log) = shard.log() else { return };
        let commit = log.take_commit(Instant::now(), clock::now_s());
        self.is_due.set(commit.is_none() && shard.has_uncommitted());
        drop(shard);
        if let Some(commit) = commit {
            self.send(WalRequest::Commit(commit));
        }
    }

    /// Gives up one segment that is not needed, and reports when nothing inherited is left.
    fn retire(&self, core: &Core) {
        let mut shard = core.shard.borrow_mut();
        let Some(log) = shard.log() else { return };
        if self.has_to_tell.get() && log.is_inheritance_released() {
            self.has_to_tell.set(false);
            core.report(CoreEvent::InheritanceReleased);
        }
        if Instant::now() < self.retire_not_before.get() {
            return;
        }
        if let Some(id) = log.take_retired() {
            self.send(WalRequest::Retire(id));
        }
    }

    fn take_answers(&self, core: &Core) -> bool {
        let mut found = false;
        while let Ok(answer) = self.from.borrow_mut().pop() {
            found = true;
            core.with_shard(|shard| match answer {
                WalResponse::Committed(commit) => {
                    let log = shard.log().expect("it has sent a commit");
                    log.committed(commit, Instant::now());
                    shard.log_late();
                }
                WalResponse::Retired(id, is_ok) => {
                    if !is_ok {
                        self.retire_not_before.set(Instant::now() + RETIRE_PAUSE);
                    }
                    shard.log().expect("it has segments").retired(id, is_ok);
                }
            });
        }
        found
    }

    fn take_checkpoint(&self, core: &Core) -> bool {
        let Ok(is_ok) = self.checkpointed.borrow_mut().pop() else { return false };
        if !is_ok {
            let text = "a sync of a file system of the data directory has failed: what was written \
                        may be lost there, and the next start writes it again from the log";
            die(Fatal::Checkpoint, text);
        }
        self.is_checkpointing.set(false);
        core.with_shard(|shard| {
            shard.counters.wal_checkpoints += 1;
            shard.end_checkpoint();
        });
        // Old segments go after a commit that says so.
        self.commit(core);
        true
    }

    fn begin_checkpoint(&self, core: &Core) {
        if !core.with_shard(Shard::begin_checkpoint) {
            return;
        }
        self.is_checkpointing.set(true);
        self.is_checkpoint_due.set(true);
        self.checkpoint_begun.set(Instant::now());
        self.commit(core);
        self.ask_checkpoint(core);
    }

    /// Asks for the sync of a checkpoint that has begun, when it may begin.
    fn ask_checkpoint(&self, core: &Core) {
        let may_sync = || core.shard.borrow_mut().log().is_some_and(|log| log.may_sync());
        if !self.is_checkpoint_due.get() || !may_sync() {
            return;
        }
        self.is_checkpoint_due.set(false);
        if self.checkpoints.send(Request::Shard(self.index)).is_err() {
            die(Fatal::Checkpoint, "the checkpoint thread has ended");
        }
    }

    fn wants_checkpoint(&self, core: &Core) -> bool {
        let shard = core.shard.borrow();
        let is_due =
            shard.has_written() && self.checkpoint_begun.get().elapsed() >= CHECKPOINT_TIME_MAX;
        !self.is_checkpointing.get() && (shard.wants_checkpoint() || is_due)
    }

    /// Time until the next checkpoint may begin.
    fn checkpoint_wait(&self, core: &Core) -> Duration {
        let shard = core.shard.borrow();
        let is_pressed = shard.log_pressure() != Pressure::None || shard.is_checkpoint_urgent();
        let interval = if is_pressed {
            self.checkpoint_interval.min(PRESSURE_INTERVAL)
        } else {
            self.checkpoint_interval
        };
        interval.saturating_sub(self.checkpoint_begun.get().elapsed())
    }

    /// Takes a batch of points of earlier runs, unless the cache is full.
    fn take_inheritance(&self, core: &Core) -> bool {
        let mut feed = self.feed.borrow_mut();
        let Some(ReplayFeed { batches, spent }) = &mut *feed else { return false };
        let mut shard = core.shard.borrow_mut();
        if batches.is_empty() || shard.is_cache_full() {
            drop(shard);
            core.flushable.notify();
            return false;
        }
        let Ok(mut batch) = batches.pop() else { return false };
        shard.accept_replayed(&batch);
        batch.bytes.clear();
        spent.push(batch).expect("as many places as buffers");
        true
    }

    fn has_inheritance(&self, core: &Core) -> bool {
        let feed = self.feed.borrow();
        let waits = feed.as_ref().is_some_and(|feed| !feed.batches.is_empty());
        waits && !core.shard.borrow_mut().is_cache_full()
    }
}

/// Schedules the commit of what the log has taken. Called after points are taken.
pub fn schedule_commit(core: &Core) {
    let Some(keeper) = &core.log else { return };
    let shard = core.shard.borrow();
    let bytes = shard.uncommitted_bytes();
    let waits = shard.has_uncommitted() || shard.wants_checkpoint();
    drop(shard);
    if bytes >= COMMIT_BYTES {
        keeper.commit(core);
    }
    if waits {
        core.loggable.notify();
    }
}

/// Takes the responses of the WAL writer and the checkpoint thread, and points of earlier runs.
/// Called by the exchange task, which their doorbell wakes.
pub fn collect(core: &Core) -> bool {
    let Some(keeper) = &core.log else { return false };
    let answered = keeper.take_answers(core) | keeper.take_checkpoint(core);
    if answered {
        let bytes = core.shard.borrow().uncommitted_bytes();
        if keeper.is_due.get() || bytes >= COMMIT_BYTES {
            keeper.commit(core);
        }
        keeper.ask_checkpoint(core);
        keeper.retire(core);
        core.flushable.notify();
    }
    answered | keeper.take_inheritance(core)
}

/// Whether [`collect`] would find something.
pub fn has_answers(core: &Core) -> bool {
    core.log.as_ref().is_some_and(|keeper| {
        !keeper.from.borrow().is_empty()
            || !keeper.checkpointed.borrow().is_empty()
            || keeper.has_inheritance(core)
    })
}

/// The main thread has deleted what earlier runs left.
pub fn inheritance_gone(core: &Core) {
    let Some(keeper) = &core.log else { return };
    core.with_shard(|shard| shard.log().expect("it had heirs").inheritance_gone());
    keeper.feed.take();
    keeper.commit(core);
}

/// Starts the tasks that keep the log.
pub fn start(core: &Rc<Core>) -> [Task<()>; 2] {
    let (committing, maintaining) = (Rc::clone(core), Rc::clone(core));
    [
        spawn(async move { commit_in_time(&committing).await }),
        spawn(async move {
            maintain(&maintaining).await;
        }),
    ]
}

async fn commit_in_time(core: &Core) {
    let Some(keeper) = &core.log else { return };
    loop {
        core.loggable.until(|| core.shard.borrow().has_uncommitted()).await;
        sleep(keeper.pause).await;
        keeper.commit(core);
    }
}

/// Logs points of old segments again when there is no other way, has checkpoints made, and tries
/// again to give up what could not be given up.
async fn maintain(core: &Core) {
    let Some(keeper) = &core.log else { return };
    let must_rewrite = || core.shard.borrow().wants_to_rewrite(Instant::now());
    let is_urgent = || keeper.wants_checkpoint(core) || must_rewrite();
    let rewritten_count = || core.shard.borrow().all_counters().wal_rewritten;
    loop {
        // The shard logs inherited points again after a minute, even if no point comes.
        core.loggable.until(|| keeper.has_to_tell.get() || is_urgent()).await;
        let rewritten_before = rewritten_count();
        while core.with_shard(|shard| shard.rewrite_some(Instant::now())) {
            yield_now().await;
        }
        keeper.commit(core);
        keeper.retire(core);
        let wait = keeper.checkpoint_wait(core);
        if wait.is_zero() && keeper.wants_checkpoint(core) {
            keeper.begin_checkpoint(core);
        }
        // A walk over all metrics that logged nothing again is not repeated at once.
        let is_going_on = keeper.wants_checkpoint(core) || rewritten_count() > rewritten_before;
        let least = if is_going_on { Duration::from_millis(10) } else { PRESSURE_INTERVAL };
        sleep(wait.clamp(least, PRESSURE_INTERVAL)).await;
    }
}

/// Commits everything that waits; does not end while the log's disk takes nothing. What is left is
/// reported meanwhile.
pub async fn settle(core: &Core) {
    let Some(keeper) = &core.log else { return };
    let mut told = 0;
    while core.shard.borrow().has_uncommitted() {
        let counted = core.shard.borrow().all_counters();
        let left = counted.wal_received - counted.wal_written;
        if left != told {
            told = left;
            core.report(CoreEvent::Draining(core.shard.borrow().id(), left));
        }
        keeper.commit(core);
        sleep(SETTLE_PAUSE).await;
    }
    core.report(CoreEvent::Draining(core.shard.borrow().id(), 0));
}

/// Brings what is written into files to stable storage and has the log say so, if that takes no
/// longer than `limit`.
pub async fn sync_files(core: &Core, limit: Duration) {
    let Some(keeper) = &core.log else { return };
    let deadline = Instant::now() + limit;
    let is_over = || !keeper.is_checkpointing.get() || Instant::now() >= deadline;
    while !is_over() {
        sleep(SETTLE_PAUSE).await;
    }
    if !keeper.is_checkpointing.get() && core.shard.borrow().has_written() {
        keeper.begin_checkpoint(core);
        while !is_over() {
            sleep(SETTLE_PAUSE).await;
        }
    }
    core.with_shard(|shard| shard.log().expect("it has a keeper").tell_checkpoint());
    settle(core).await;
}

/// Ends the WAL writer and waits until it has closed its files.
pub fn end(core: &Core) {
    let Some(keeper) = &core.log else { return };
    keeper.to.take();
    if let Some(thread) = keeper.thread.take() {
        thread.thread().unpark();
        // A WAL writer that panics ends the process by itself.
        let _ = thread.join();
    }
}
