//! One core of a simulated node: a real shard, and what its tasks do with it, a step at a time.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use carbyne::metric::batch;
use carbyne::metric::point::Point;
use carbyne::shard::Shard;
use carbyne::shard::flush::{FlushJob, NextJob, Outcome};
use carbyne::shard::route::owner;
use carbyne::stats::DropReason;
use carbyne::wal::{self, Commit, FileName, Kind, SegmentId};

use crate::simulated_disk::SimulatedDisk;
use crate::simulated_log_writer::{Late, LogWriter};
use crate::simulated_model::{Key, Model, whole};
use crate::simulated_node::{FINE_SPAN_S, Ground, Plant};

/// Batches with the file writer.
const BATCHES_MAX: usize = 3;

/// Times in a row that a sweep may have nothing yet: each of its phases looks at a slice.
const BUSY_MAX: u32 = 100;

/// Files with points of a log at rest: the one that is written to, and the one prepared.
const POINTS_FILES_MAX: usize = 2;

/// How often, in a thousand, commits that are acknowledged too early are gone on with.
const LATE_SHARE: usize = 80;

/// What the log writer is asked for.
#[derive(Debug)]
enum Errand {
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
    errands: VecDeque<Errand>,
    answers: VecDeque<(Errand, bool)>,
    late_parts: VecDeque<(Vec<LatePart>, usize)>,
    pub(crate) writer: LogWriter,
    is_sweeping: bool,
    batches: VecDeque<Batch>,
    done: Vec<Batch>,
    /// Jobs that failed, of which the shard has been told that they are done, which is wrong.
    ghosts: Vec<FlushJob>,
    pub(crate) checkpoint: Checkpoint,
    /// Points of earlier runs that have not come yet.
    pub(crate) inheritance: VecDeque<Vec<u8>>,
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
        writer: LogWriter,
        (is_power, plant): (bool, Plant),
        inheritance: VecDeque<Vec<u8>>,
        is_heir: bool,
    ) -> Core {
        Core {
            index: shard.id().index(),
            count: shard.shard_count(),
            shard,
            is_power,
            plant,
            errands: VecDeque::new(),
            answers: VecDeque::new(),
            late_parts: VecDeque::new(),
            writer,
            is_sweeping: false,
            batches: VecDeque::new(),
            done: Vec::new(),
            ghosts: Vec::new(),
            checkpoint: Checkpoint::None,
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
            model.accept(key, value);
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

    /// Takes the next commit and sends it to the log writer.
    pub(crate) fn commit(&mut self, now: Instant, now_s: u32) {
        let Some(commit) = self.log().take_commit(now, now_s) else { return };
        if self.plant == Plant::CarryEarly {
            return self.commit_early(commit, now);
        }
        self.errands.push_back(Errand::Commit(Box::new(commit)));
    }

    /// Plants a bug: what was carried counts as committed before it is. Nobody is told that what
    /// was received is.
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

    /// The log writer does its next errand, or prepares a file.
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
        let is_ok = match self.errands.front_mut() {
            None => return self.writer.prepare(disk),
            Some(Errand::Commit(commit)) => {
                self.writer.commit(commit, disk);
                true
            }
            Some(Errand::Retire(id)) => self.writer.retire(*id, disk),
        };
        if !disk.is_dead() {
            let errand = self.errands.pop_front().expect("it is there");
            self.answers.push_back((errand, is_ok));
        }
    }

    /// The core takes what the log writer has answered.
    pub(crate) fn collect(&mut self, model: &mut Model, now: Instant) {
        match self.answers.pop_front() {
            None => {}
            Some((Errand::Retire(id), is_ok)) => self.log().retired(id, is_ok),
            Some((Errand::Commit(commit), _)) => {
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
            self.errands.push_back(Errand::Retire(id));
        }
    }

    pub(crate) fn begin_checkpoint(&mut self) {
        if self.checkpoint == Checkpoint::None && self.log().checkpoint_wanted() {
            self.log().checkpoint_begun();
            self.checkpoint = Checkpoint::Asked;
        }
    }

    /// Takes the answer to a checkpoint; false: the process ends.
    pub(crate) fn end_checkpoint(&mut self, now: Instant, now_s: u32) -> bool {
        let Checkpoint::Answered(is_ok) = self.checkpoint else { return true };
        if !is_ok && self.plant != Plant::HideFailedCheckpoint {
            return false;
        }
        self.checkpoint = Checkpoint::None;
        self.log().checkpoint_done(true);
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
            let before = if self.shard.gauges().quarantined > 0 {
                self.held(&ground.model)
            } else {
                Vec::new()
            };
            let found = self.shard.next_flush(now, &mut job);
            self.note_quarantined(ground, &before);
            match found {
                NextJob::Ready => batch.jobs.push(job),
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
            self.confirm_early(&mut batch, now);
        }
        if !batch.jobs.is_empty() {
            self.batches.push_back(batch);
        }
    }

    /// Plants a bug: what is taken is confirmed, and written later.
    fn confirm_early(&mut self, batch: &mut Batch, now: Instant) {
        let (known, other) = batch.jobs.drain(..).partition(|job| job.known.is_some());
        batch.jobs = other;
        let mut ghosts: Vec<FlushJob> = known;
        ghosts.iter_mut().for_each(|job| self.confirm(job, now));
        if !ghosts.is_empty() {
            self.batches.push_back(Batch { jobs: ghosts, next: 0, is_ghost: true });
        }
    }

    /// Says of a job of a known file that it is written, and leaves it as it was.
    fn confirm(&mut self, job: &mut FlushJob, now: Instant) {
        job.outcome = Outcome::Written { checked: false, created: false, too_old_count: 0 };
        self.shard.complete(job, now);
    }

    /// The file writer does some jobs of its batch.
    pub(crate) fn write_files(&mut self, ground: &mut Ground, jobs_max: usize) {
        if !self.ghosts.is_empty() && ground.disk.chance.permille(LATE_SHARE) {
            return self.write_ghost(ground);
        }
        let Some(batch) = self.batches.front_mut() else { return };
        for _ in 0..jobs_max {
            let Some(job) = batch.jobs.get_mut(batch.next) else { break };
            ground.tree.write(job);
            if ground.tree.is_dead() {
                return;
            }
            let is_written = matches!(job.outcome, Outcome::Written { .. });
            if is_written {
                forget_ghosts(&mut self.ghosts, job);
            }
            if batch.is_ghost && !is_written {
                job.outcome = Outcome::Pending;
                return;
            }
            if batch.is_ghost {
                drop_unreachable(&mut ground.model, job);
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

    /// Tries a job again that failed and was confirmed.
    fn write_ghost(&mut self, ground: &mut Ground) {
        let mut job = self.ghosts.pop().expect("there is one");
        ground.tree.write(&mut job);
        if matches!(job.outcome, Outcome::Written { .. }) {
            drop_unreachable(&mut ground.model, &job);
        } else {
            self.ghosts.insert(0, job);
        }
    }

    /// A confirmed job has failed. What it has of the same seconds comes after what failed before.
    fn add_ghost(&mut self, job: FlushJob) {
        forget_ghosts(&mut self.ghosts, &job);
        self.ghosts.push(job);
    }

    /// The core takes a batch that the writer has done.
    pub(crate) fn complete(&mut self, ground: &mut Ground, index: usize, now: Instant) {
        if self.done.is_empty() {
            return;
        }
        let batch = self.done.swap_remove(index % self.done.len());
        for mut job in batch.jobs {
            match job.outcome {
                Outcome::Written { .. } => drop_unreachable(&mut ground.model, &job),
                Outcome::Failed { .. } | Outcome::Locked
                    if self.plant == Plant::ReleaseAtFailure && job.known.is_some() =>
                {
                    self.confirm(&mut job, now);
                    self.add_ghost(job);
                    continue;
                }
                _ => {}
            }
            let before = match job.outcome {
                Outcome::Failed { .. } => self.held(&ground.model),
                _ => Vec::new(),
            };
            self.shard.complete(&mut job, now);
            self.note_quarantined(ground, &before);
        }
    }

    /// What the shard has of each of its metrics.
    fn held(&self, model: &Model) -> Vec<(Key, u64)> {
        let names = model.names.iter().enumerate();
        let points = names.filter(|(_, name)| self.owns(name)).flat_map(|(metric, name)| {
            let points = self.shard.points_of(name).into_iter();
            points.map(move |point| ((metric, point.timestamp_s), whole(point.value)))
        });
        points.collect()
    }

    /// Finds the points that a quarantine has just dropped: just those that were counted. One that
    /// its file shows is dropped all the same: an earlier run may have written it there, and a
    /// failed sync lost it, so that only the page cache has it, and the log had to bring it back.
    fn note_quarantined(&mut self, ground: &mut Ground, before: &[(Key, u64)]) {
        let counted = self.shard.counters.dropped_for(DropReason::Quarantine);
        let dropped = counted - std::mem::replace(&mut self.quarantined, counted);
        if dropped == 0 {
            return;
        }
        let after: BTreeSet<(Key, u64)> = self.held(&ground.model).into_iter().collect();
        let gone: Vec<_> = before.iter().filter(|held| !after.contains(held)).collect();
        assert_eq!(gone.len() as u64, dropped, "points that nobody has counted are gone: {gone:?}");
        for &(key, value) in gone {
            let is_shown = self.readable(ground, key) == Some(value);
            ground.model.drop_point(key, value, is_shown);
        }
    }

    /// What a question for this point would be answered.
    pub(crate) fn readable(&self, ground: &Ground, (metric, timestamp_s): Key) -> Option<u64> {
        let name = &ground.model.names[metric];
        let is_it = |point: &&Point| point.timestamp_s == timestamp_s;
        let of_batch = |bytes: &Vec<u8>| {
            let records = batch::records(bytes).filter(|(of, _)| of == name);
            records.map(|(_, point)| point).filter(|point| is_it(&point)).last()
        };
        let in_memory = || self.shard.points_of(name).iter().find(is_it).copied();
        let to_come = self.inheritance.iter().rev().find_map(of_batch);
        let point = to_come.or_else(in_memory).or_else(|| {
            let ghosts = self.batches.iter().rev().filter(|batch| batch.is_ghost);
            let jobs = ghosts.flat_map(|batch| &batch.jobs[batch.next..]).chain(&self.ghosts);
            let mut of_metric = jobs.filter(|job| job.path == ground.model.path(metric));
            of_metric.find_map(|job| job.points.iter().find(is_it).copied())
        });
        let value = point.map(|point| point.value);
        value.or_else(|| ground.tree.value(ground.model.path(metric), timestamp_s)).map(whole)
    }

    /// Nothing is with the file writer.
    pub(crate) fn has_written(&self) -> bool {
        self.batches.is_empty() && self.done.is_empty() && self.ghosts.is_empty()
    }

    /// Nothing waits for the log or is with its writer.
    pub(crate) fn is_committed(&self) -> bool {
        !self.shard.has_uncommitted()
            && self.errands.is_empty()
            && self.answers.is_empty()
            && self.late_parts.is_empty()
    }

    /// Nothing is left to do.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.is_committed()
            && self.has_written()
            && self.shard.unwritten_count() == 0
            && self.checkpoint == Checkpoint::None
            && !self.log().checkpoint_wanted()
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

/// A job with later values is written, or takes the place of those that are confirmed and are not.
fn forget_ghosts(ghosts: &mut Vec<FlushJob>, job: &FlushJob) {
    let seconds: BTreeSet<u32> = job.points.iter().map(|point| point.timestamp_s).collect();
    for ghost in ghosts.iter_mut().filter(|ghost| ghost.path == job.path) {
        ghost.points.retain(|point| !seconds.contains(&point.timestamp_s));
    }
    ghosts.retain(|ghost| !ghost.points.is_empty());
}

/// Points that are written, and so old by the job's clock that the finest archive has no place for
/// them.
fn drop_unreachable(model: &mut Model, job: &FlushJob) {
    for point in &job.points {
        if job.now_s > point.timestamp_s + FINE_SPAN_S {
            let metric = model.metric_of_path(&job.path);
            model.drop_point((metric, point.timestamp_s), whole(point.value), false);
        }
    }
}
