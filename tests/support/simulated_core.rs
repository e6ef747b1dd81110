//! One core of a simulated node: a real shard, and what its tasks do with it, a step at a time.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use carbyne::metric::batch;
use carbyne::metric::owner::owner;
use carbyne::shard::flush::{FlushJob, NextJob, Outcome, Written};
use carbyne::shard::{Replayed, Shard};
use carbyne::stats::DropReason;
use carbyne::wal::{self, Commit, FileName, Kind, SegmentId};

use crate::simulated_disk::SimulatedDisk;
use crate::simulated_model::{Key, Model, whole};
use crate::simulated_node::{Ground, Plant};
use crate::simulated_wal_writer::{Late, WalWriter};

/// Batches with the file writer.
const BATCHES_MAX: usize = 3;

/// Times in a row that a sweep may have nothing yet: each of its phases looks at a slice.
const BUSY_MAX: u32 = 100;

/// Files with points of a log at rest: the one that is written to, and the one prepared.
const POINTS_FILES_MAX: usize = 2;

/// How often, in a thousand, commits that are acknowledged too early are gone on with.
const LATE_SHARE: usize = 80;

/// What the WAL writer is asked for.
#[derive(Debug)]
enum WalRequest {
    Commit(Box<Commit>),
    Retire(SegmentId),
}

/// How far the core's checkpoint is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Checkpoint {
    None,
    Asked,
    Covered,
    Answered(bool),
}

/// Files to write. The jobs before `next` are done.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    jobs: Vec<FlushJob>,
    next: usize,
    /// The shard has been told already that these are written, which is wrong.
    is_ghost: bool,
}

/// A part of a commit that is acknowledged and not written yet, which is wrong.
#[derive(Debug)]
pub(crate) struct LatePart {
    pub(crate) id: SegmentId,
    pub(crate) is_new: bool,
    pub(crate) offset: usize,
    pub(crate) bytes: Vec<u8>,
}

/// One core.
pub(crate) struct Core {
    pub(crate) shard: Shard,
    pub(crate) index: usize,
    count: u16,
    is_power: bool,
    plant: Plant,
    requests: VecDeque<WalRequest>,
    answers: VecDeque<(WalRequest, bool)>,
    late_parts: VecDeque<(Vec<LatePart>, usize)>,
    pub(crate) writer: WalWriter,
    is_sweeping: bool,
    batches: VecDeque<Batch>,
    done: Vec<Batch>,
    pub(crate) checkpoint: Checkpoint,
    /// A checkpoint was asked for in this run.
    pub(crate) has_asked: bool,
    /// Points of earlier runs that have not come yet.
    pub(crate) inheritance: VecDeque<Replayed>,
    pub(crate) is_read: bool,
    pub(crate) has_told: bool,
    pub(crate) is_gone_ordered: bool,
    /// Accepted points that are not acknowledged, in their order.
    unacknowledged: VecDeque<(Key, u64)>,
    acknowledged: u64,
    /// Points accepted as the simulation knows it.
    accepted: u64,
    quarantined: u64,
}

impl Core {
    pub(crate) fn new(
        shard: Shard,
        writer: WalWriter,
        (is_power, plant): (bool, Plant),
        inheritance: VecDeque<Replayed>,
        is_heir: bool,
    ) -> Core {
        Core {
            index: shard.id().index(),
            count: shard.shard_count(),
            shard,
            is_power,
            plant,
            requests: VecDeque::new(),
            answers: VecDeque::new(),
            late_parts: VecDeque::new(),
            writer,
            is_sweeping: false,
            batches: VecDeque::new(),
            done: Vec::new(),
            checkpoint: Checkpoint::None,
            has_asked: false,
            inheritance,
            is_read: !is_heir,
            has_told: !is_heir,
            is_gone_ordered: false,
            unacknowledged: VecDeque::new(),
            acknowledged: 0,
            accepted: 0,
            quarantined: 0,
        }
    }

    pub(crate) fn log(&mut self) -> &mut wal::Log {
        self.shard.log().expect("every shard has one")
    }

    pub(crate) fn owns(&self, name: &[u8]) -> bool {
        owner(name, self.count).index() == self.index
    }

    /// The shard has accepted this point if it is its own.
    pub(crate) fn note(&mut self, model: &mut Model, key: Key, value: u64) {
        if self.owns(&model.names[key.0]) {
            self.accepted += 1;
            model.accept(key, value, self.shard.now_s());
            self.unacknowledged.push_back((key, value));
        }
    }

    /// The shard has taken these records.
    pub(crate) fn note_batch(&mut self, model: &mut Model, bytes: &[u8]) {
        for (name, point) in batch::records(bytes) {
            let key = (model.metric(name), point.timestamp_s);
            self.note(model, key, whole(point.value));
        }
    }

    /// Takes the next commit and sends it to the WAL writer.
    pub(crate) fn commit(&mut self, now: Instant, now_s: u32) {
        let Some(commit) = self.log().take_commit(now, now_s) else { return };
        if self.plant == Plant::CarryEarly {
            return self.commit_early(commit, now);
        }
        self.requests.push_back(WalRequest::Commit(Box::new(commit)));
    }

    /// Plants a bug: what was logged again counts as committed before it is. What was received is
    /// not acknowledged.
    fn commit_early(&mut self, mut commit: Commit, now: Instant) {
        let mut parts = Vec::new();
        for part in commit.parts() {
            let offset = usize::try_from(part.offset()).expect("a small file");
            let (id, is_new, bytes) = (part.id(), part.is_new(), part.bytes().to_vec());
            parts.push(LatePart { id, is_new, offset, bytes });
            part.outcome = wal::Outcome::Synced;
        }
        self.log().committed(commit, now);
        self.shard.log_late();
        let counted = self.log().counters().written_points;
        let count = usize::try_from(counted - self.acknowledged).expect("few");
        self.acknowledged = counted;
        self.late_parts.push_back((parts, count));
    }

    /// The WAL writer does its next request, or prepares a file.
    pub(crate) fn write_log(&mut self, disk: &mut SimulatedDisk, model: &mut Model) {
        // It comes to them late, when segments may have gone.
        if !self.late_parts.is_empty() && disk.chance.permille(LATE_SHARE) {
            let (parts, count) = self.late_parts.pop_front().expect("it is not empty");
            match self.writer.write_late(&parts, disk) {
                Late::Written => self.acknowledge(model, count),
                Late::Failed => self.late_parts.push_front((parts, count)),
                // Nobody was told that these are committed, and nobody will be.
                Late::Gone => drop(self.unacknowledged.drain(..count)),
            }
            return;
        }
        let is_ok = match self.requests.front_mut() {
            None => return self.writer.prepare(disk),
            Some(WalRequest::Commit(commit)) => {
                self.writer.commit(commit, disk);
                true
            }
            Some(WalRequest::Retire(id)) => self.writer.retire(*id, disk),
        };
        if !disk.is_dead() {
            let request = self.requests.pop_front().expect("it is there");
            self.answers.push_back((request, is_ok));
        }
    }

    /// The core takes what the WAL writer has answered.
    pub(crate) fn collect(&mut self, model: &mut Model, now: Instant) {
        match self.answers.pop_front() {
            None => {}
            Some((WalRequest::Retire(id), is_ok)) => self.log().retired(id, is_ok),
            Some((WalRequest::Commit(commit), _)) => {
                self.log().committed(*commit, now);
                self.shard.log_late();
                let counters = self.log().counters();
                if self.is_power {
                    assert_eq!(counters.written_points, counters.synced_points);
                }
                let count = usize::try_from(counters.written_points - self.acknowledged);
                self.acknowledged = counters.written_points;
                self.acknowledge(model, count.expect("few"));
            }
        }
    }

    fn acknowledge(&mut self, model: &mut Model, count: usize) {
        for (key, value) in self.unacknowledged.drain(..count) {
            model.acknowledge(key, value, self.is_power);
        }
    }

    /// Asks for the next segment to be given up.
    pub(crate) fn retire(&mut self) {
        self.has_told |= self.log().is_inheritance_released();
        if let Some(id) = self.log().take_retired() {
            self.requests.push_back(WalRequest::Retire(id));
        }
    }

    pub(crate) fn begin_checkpoint(&mut self) {
        if self.checkpoint == Checkpoint::None && self.shard.wants_checkpoint() {
            self.ask_checkpoint();
        }
    }

    fn ask_checkpoint(&mut self) {
        self.has_asked = true;
        if self.shard.begin_checkpoint() {
            self.checkpoint = Checkpoint::Asked;
        }
    }

    /// The stop brings to stable storage what was written; true when the log says so.
    pub(crate) fn settle(&mut self) -> bool {
        if self.checkpoint != Checkpoint::None || !self.is_committed() {
            return false;
        }
        if self.plant == Plant::SettleEarly && self.shard.has_written() {
            self.shard.begin_checkpoint();
            self.shard.end_checkpoint();
        }
        if self.shard.has_written() {
            self.ask_checkpoint();
            return false;
        }
        self.log().tell_checkpoint();
        self.is_committed()
    }

    /// Takes the answer to a checkpoint; false: the process ends.
    pub(crate) fn end_checkpoint(&mut self, now: Instant, now_s: u32) -> bool {
        let Checkpoint::Answered(is_ok) = self.checkpoint else { return true };
        if !is_ok && self.plant != Plant::HideFailedCheckpoint {
            return false;
        }
        self.checkpoint = Checkpoint::None;
        self.shard.end_checkpoint();
        self.commit(now, now_s);
        true
    }

    pub(crate) fn begin_sweep(&mut self) {
        if !self.is_sweeping {
            self.shard.begin_sweep();
            self.is_sweeping = true;
        }
    }

    /// Fills a batch for the file writer, with so many jobs at most.
    pub(crate) fn fill(&mut self, ground: &mut Ground, jobs_max: usize, now: Instant) {
        if !self.is_sweeping || self.batches.len() + self.done.len() >= BATCHES_MAX {
            return;
        }
        self.shard.forget_idle();
        let mut batch = Batch::default();
        let mut busy_count = 0;
        while batch.jobs.len() < jobs_max {
            let mut job = FlushJob::empty();
            let forced = self.shard.counters.unsynced_updates;
            let found = self.shard.next_flush(now, &mut job);
            self.note_quarantined(ground);
            match found {
                NextJob::Ready => {
                    if self.shard.counters.unsynced_updates > forced {
                        ground.model.taint(ground.model.metric_of_path(&job.path));
                    }
                    if self.plant == Plant::GreatestTimestamp {
                        job.points.sort_by_key(|point| point.timestamp_s);
                    }
                    batch.jobs.push(job);
                }
                NextJob::Busy => {
                    // The real loop lets others go first and asks again; its batch waits.
                    busy_count += 1;
                    assert!(busy_count < BUSY_MAX, "the sweep comes to nothing");
                }
                NextJob::Wait(_) => break,
                NextJob::SweepOver => {
                    self.is_sweeping = false;
                    break;
                }
            }
        }
        if self.plant == Plant::ReleaseAtTake {
            self.confirm_early(ground, &mut batch, now);
        }
        if !batch.jobs.is_empty() {
            self.batches.push_back(batch);
        }
    }

    /// Plants a bug: what is taken is confirmed, and written later.
    fn confirm_early(&mut self, ground: &mut Ground, batch: &mut Batch, now: Instant) {
        let (known, other) = batch.jobs.drain(..).partition(|job| job.known.is_some());
        batch.jobs = other;
        let mut ghosts: Vec<FlushJob> = known;
        ghosts.iter_mut().for_each(|job| self.confirm(ground, job, now));
        if !ghosts.is_empty() {
            self.batches.push_back(Batch { jobs: ghosts, next: 0, is_ghost: true });
        }
    }

    /// Says of a job of a known file that it is written, and leaves it as it was.
    fn confirm(&mut self, ground: &mut Ground, job: &mut FlushJob, now: Instant) {
        let count = job.points.len();
        job.outcome = Outcome::Written(Written { count, is_near: true, ..Written::default() });
        note_confirmed(&mut ground.model, job);
        self.shard.complete(job, now);
    }

    /// The file writer does some jobs of its batch.
    pub(crate) fn write_files(&mut self, ground: &mut Ground, jobs_max: usize) {
        let Some(batch) = self.batches.front_mut() else { return };
        for _ in 0..jobs_max {
            let Some(job) = batch.jobs.get_mut(batch.next) else { break };
            ground.tree.write(job);
            note_touched(&mut ground.model, job);
            if ground.tree.is_dead() {
                return;
            }
            batch.next += 1;
        }
        if batch.next == batch.jobs.len() {
            let batch = self.batches.pop_front().expect("it is there");
            if !batch.is_ghost {
                self.done.push(batch);
            }
        }
    }

    /// The core takes a batch that the writer has done.
    pub(crate) fn complete(&mut self, ground: &mut Ground, index: usize, now: Instant) {
        if self.done.is_empty() {
            return;
        }
        let batch = self.done.swap_remove(index % self.done.len());
        for mut job in batch.jobs {
            let has_failed = matches!(job.outcome, Outcome::Failed { .. } | Outcome::Locked);
            if has_failed && self.plant == Plant::ReleaseAtFailure && job.known.is_some() {
                self.confirm(ground, &mut job, now);
                continue;
            }
            note_confirmed(&mut ground.model, &job);
            self.shard.complete(&mut job, now);
            self.note_quarantined(ground);
        }
    }

    /// A quarantine has dropped points: nobody knows the files any more that cannot be written.
    fn note_quarantined(&mut self, ground: &mut Ground) {
        let counted = self.shard.counters.dropped_for(DropReason::Quarantine);
        let dropped = counted - std::mem::replace(&mut self.quarantined, counted);
        if dropped > 0 {
            for path in &ground.tree.ever_broken {
                ground.model.taint(ground.model.metric_of_path(path));
            }
        }
    }

    /// What a question for this metric would be answered is what is not confirmed.
    pub(crate) fn check_readable(&self, model: &Model, metric: usize) {
        let is_ghostly = matches!(self.plant, Plant::ReleaseAtTake | Plant::ReleaseAtFailure);
        let Some(want) = model.unconfirmed(metric).filter(|_| !is_ghostly) else { return };
        let points = self.shard.points_of(&model.names[metric]).into_iter();
        let got: BTreeMap<u32, u64> =
            points.map(|point| (point.timestamp_s, whole(point.value))).collect();
        assert_eq!(got, want, "metric {metric} of shard {}", self.index);
    }

    /// Nothing is with the file writer.
    pub(crate) fn has_written(&self) -> bool {
        self.batches.is_empty() && self.done.is_empty()
    }

    /// Nothing waits for the log or is with its writer.
    pub(crate) fn is_committed(&self) -> bool {
        !self.shard.has_uncommitted()
            && self.requests.is_empty()
            && self.answers.is_empty()
            && self.late_parts.is_empty()
    }

    /// Nothing is left to do.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.is_committed()
            && self.has_written()
            && self.shard.unwritten_count() == 0
            && self.checkpoint == Checkpoint::None
            && !self.shard.wants_checkpoint()
            && self.inheritance.is_empty()
            && self.is_read
    }

    /// The log has shrunk to the segment that is written to, and the names.
    pub(crate) fn is_small(&self, disk: &SimulatedDisk) -> bool {
        let is_ours = |name: &String| match FileName::parse(name) {
            Some(FileName::Segment(id)) => {
                id.kind == Kind::Points && usize::from(id.shard) == self.index
            }
            _ => false,
        };
        disk.names().iter().filter(|name| is_ours(name)).count() <= POINTS_FILES_MAX
    }

    /// Everything that was accepted is acknowledged.
    pub(crate) fn check_sealed(&self) {
        let left = self.unacknowledged.len();
        assert_eq!(left, 0, "points of shard {} are not committed at the stop", self.index);
    }

    /// Every point that the shard has accepted is somewhere.
    pub(crate) fn check_accounts(&self) {
        let counters = &self.shard.counters;
        let gauges = self.shard.gauges();
        let refused: u64 = counters.refused.iter().sum();
        let dropped: u64 = counters.dropped.iter().sum::<u64>() - refused;
        let placed = counters.replaced + counters.committed + dropped;
        let taken = counters.accepted + counters.recovered;
        assert_eq!(taken, placed + gauges.waiting + gauges.writing, "{counters:?}");
        assert_eq!(counters.accepted, self.accepted, "{counters:?}");
    }

    /// Points received here that were let in and have not come to an owner that accepted them.
    pub(crate) fn surplus(&self) -> i128 {
        let counters = &self.shard.counters;
        let received: u64 = counters.received.iter().sum();
        let refused: u64 = counters.refused.iter().sum();
        i128::from(received) - i128::from(refused) - i128::from(counters.accepted)
    }
}

/// The writer has tried to write a job's points.
fn note_touched(model: &mut Model, job: &FlushJob) {
    let count = match job.outcome {
        Outcome::Written(Written { count, .. }) => count,
        Outcome::TooFar | Outcome::Missing | Outcome::Locked | Outcome::SetAside { .. } => return,
        Outcome::Pending | Outcome::Failed { .. } => job.points.len(),
    };
    model.touch(model.metric_of_path(&job.path), job.points[count - 1].value);
}

/// The shard is told that a job's points are in their file, or the first of them.
fn note_confirmed(model: &mut Model, job: &FlushJob) {
    if let Outcome::Written(Written { count, .. }) = job.outcome {
        model.confirm(model.metric_of_path(&job.path), job.points[count - 1].value);
    }
}
