//! Which file is written next, and what the outcome of a write means.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cache::{Kept, MetricId, NextFlush};
use crate::limits::UPDATE_POINTS_MAX;
use crate::metric::name::file_path;
use crate::metric::point::Arrival;
use crate::metric::series::SeriesSpec;
use crate::shard::Shard;
pub use crate::shard::series::Known;
use crate::shard::series::Readiness;
pub use crate::shard::unsynced::Limit;
use crate::shard::unsynced::Note;
use crate::stats::DropReason;
use crate::wal::Position;

/// How long nothing is written when the log does not take notes of what was.
const NOTES_WAIT: Duration = Duration::from_millis(20);

/// Metrics passed over in one call before the core gets its turn back.
const SKIPS_MAX: u32 = 1_024;

/// One file to write: all waiting points of one metric.
#[derive(Debug)]
pub struct FlushJob {
    /// The metric.
    pub metric: MetricId,
    /// Path below the data directory, ending in NUL.
    pub path: Vec<u8>,
    /// The points, in the order of their arrival.
    pub points: Vec<Arrival>,
    /// What is remembered of the file; after a write, what to remember of it.
    pub known: Option<Known>,
    /// Set when there is no file: what the new one looks like.
    pub create: Option<SeriesSpec>,
    /// With `create`: a path, ending in NUL, that the file may have from a time when tagged series
    /// were not hashed; carbon renames such a file. Empty if there is none.
    pub former_path: Vec<u8>,
    /// How far the update may reach.
    pub limit: Limit,
    /// Where the log was when the points were taken: all points of the metric up to there are among
    /// them, or in the file.
    pub through: Option<Position>,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a [`FlushJob`].
#[derive(Debug)]
pub enum Outcome {
    /// Not tried yet.
    Pending,
    /// The points are in the file (except those that were older than it reaches when they came).
    Written(Written),
    /// The points would reach further in the file's rings than the job's limit allows.
    TooFar,
    /// There is no file and the job did not say how to create one.
    Missing,
    /// The file is no Whisper file and was renamed.
    SetAside {
        /// Why it is damaged.
        reason: String,
        /// Where it is now.
        aside: String,
    },
    /// Somebody else holds the file's lock.
    Locked,
    /// It could not be written.
    Failed {
        /// What failed, as "open series file".
        action: &'static str,
        /// Why.
        reason: String,
        /// The fault is this file's, not the disk's or the process's: others may still be fine.
        is_own_fault: bool,
    },
}

/// What an update has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Written {
    /// Points of the job that it took, from the first on. More would have lapped a ring.
    pub count: usize,
    /// It was near what the job's limit names.
    pub is_near: bool,
    /// The header was read, not remembered.
    pub checked: bool,
    /// The file is new.
    pub created: bool,
    /// Points that were older than the file's retention when they came.
    pub too_old_count: u32,
}

/// What [`Shard::next_flush`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextJob {
    /// The job is filled in.
    Ready,
    /// Nothing yet, ask again after other tasks had their turn.
    Busy,
    /// The limit on updates per second is reached.
    Wait(Duration),
    /// The sweep is over.
    SweepOver,
}

/// Something an operator should read, once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FlushNews {
    /// A damaged file was renamed; it is created anew.
    SetAside(String),
    /// A file cannot be written; it is tried again later.
    Failing {
        /// Groups lines of one cause.
        cause: String,
        /// The line.
        text: String,
    },
}

impl FlushJob {
    /// An empty job to be filled by [`Shard::next_flush`].
    pub fn empty() -> FlushJob {
        FlushJob {
            metric: MetricId::default(),
            path: Vec::new(),
            points: Vec::new(),
            known: None,
            create: None,
            former_path: Vec::new(),
            limit: Limit::default(),
            through: None,
            outcome: Outcome::Pending,
        }
    }
}

impl Shard {
    /// Starts a sweep over all metrics with waiting points. Without a limit on updates all of them
    /// are written in this sweep, and the order of the files on their device is the cheapest; with
    /// a limit the write strategy says who comes first.
    pub fn begin_sweep(&mut self) {
        self.counters.sweeps += 1;
        self.begin_urgent();
        self.new_names.begin_sweep(self.creates.is_limited());
        self.cache.begin_period();
        self.release_some();
        if self.updates.is_limited() {
            self.order.begin(&self.cache);
        } else {
            self.order.begin_by_place(&self.cache);
        }
    }

    /// Fills `job` with the next file to write. New files go first, as far as their limit allows.
    pub fn next_flush(&mut self, now: Instant, job: &mut FlushJob) -> NextJob {
        // What a write would leave in the log is one more file to replay, if this start is cut off.
        if self.is_replaying() && !self.is_cache_full() {
            return NextJob::SweepOver;
        }
        if self.has_too_many_notes() {
            return NextJob::Wait(NOTES_WAIT);
        }
        if !self.updates.take(now) {
            return NextJob::Wait(self.updates.wait());
        }
        let found = self.find_flush(now, job);
        if found != NextJob::Ready {
            self.updates.give_back();
        }
        found
    }

    /// Removes the limits on updates and creations and the waits after failures and for syncs, for
    /// the last flush before the node stops.
    pub fn hurry(&mut self) {
        self.updates.lift();
        self.creates.lift();
        self.unsynced.lift();
        self.files.retry_all();
    }

    /// Points that are not in their file.
    pub fn unwritten_count(&self) -> u64 {
        self.cache.waiting_count() + self.cache.writing_count()
    }

    /// Counts the points that will not get into their file before the node stops. With a log they
    /// are kept for the next start.
    pub fn give_up(&mut self) -> u64 {
        let left = self.unwritten_count();
        if self.journal.is_some() {
            self.counters.logged = left;
        } else {
            self.counters.drop_points(DropReason::Stopped, left);
        }
        left
    }

    fn find_flush(&mut self, now: Instant, job: &mut FlushJob) -> NextJob {
        let elapsed_s = self.elapsed_s(now);
        for _ in 0..SKIPS_MAX {
            let first = self.next_creation(now).or_else(|| self.next_urgent());
            if let Some(metric) = first.or_else(|| self.next_undecided()) {
                if self.prepare(metric, now, elapsed_s, job) {
                    return NextJob::Ready;
                }
                continue;
            }
            match self.order.next(&self.cache, |metric| self.cache.place(metric)) {
                // It has a queue of its own.
                NextFlush::Metric(metric) if self.files.is_queued(metric) => {}
                NextFlush::Metric(metric) => {
                    if self.prepare(metric, now, elapsed_s, job) {
                        self.new_names.end_turn();
                        return NextJob::Ready;
                    }
                }
                NextFlush::Busy => {
                    self.new_names.end_turn();
                    self.release_some();
                    return NextJob::Busy;
                }
                NextFlush::Done if self.new_names.has_rest() => self.new_names.end_turn(),
                NextFlush::Done => return NextJob::SweepOver,
            }
        }
        self.new_names.end_turn();
        NextJob::Busy
    }

    fn next_creation(&mut self, now: Instant) -> Option<MetricId> {
        if !self.can_create(now) {
            return None;
        }
        let metric = self.creations.pop_front();
        if self.creations.is_empty() {
            // Once a million files have been created it is of no more use.
            self.creations = VecDeque::new();
        }
        metric
    }

    /// Gives memory of points that are written back.
    fn release_some(&mut self) {
        let is_short = self.bytes() + self.cache.spare_bytes() > self.options.budget_bytes;
        self.cache.release_some(is_short);
    }

    fn prepare(
        &mut self,
        metric: MetricId,
        now: Instant,
        elapsed_s: u32,
        job: &mut FlushJob,
    ) -> bool {
        let waiting_count = self.cache.waiting_of(metric);
        if self.cache.is_writing(metric) || waiting_count == 0 {
            return false;
        }
        let Some(limit) = self.update_limit(metric, waiting_count) else { return false };
        job.limit = limit;
        job.known = None;
        job.create = None;
        let inode = self.cache.place(metric);
        match self.files.readiness(metric, inode, elapsed_s, &mut job.known) {
            Readiness::Open => {}
            Readiness::Create if !self.creates.take(now) => return false,
            Readiness::Create => job.create = Some(self.new_series(metric)),
            Readiness::Later { is_own_fault } => {
                if is_own_fault {
                    self.trim(metric);
                }
                return false;
            }
        }
        job.metric = metric;
        job.outcome = Outcome::Pending;
        job.points.clear();
        job.path.clear();
        let hash_tagged = self.options.hash_tagged;
        file_path(self.cache.name(metric), hash_tagged, &mut job.path)
            .expect("a canonical name has a path");
        job.path.push(0);
        job.former_path.clear();
        if job.create.is_some() && hash_tagged && self.cache.name(metric).contains(&b';') {
            // The readable form may be too long for a file name; then there is no such file.
            match file_path(self.cache.name(metric), false, &mut job.former_path) {
                Ok(()) => job.former_path.push(0),
                Err(_) => job.former_path.clear(),
            }
        }
        let held = self.cache.take(metric, UPDATE_POINTS_MAX, &mut job.points);
        self.hold_segment(held);
        let is_all = self.cache.waiting_of(metric) == 0;
        job.through = self.log_position().filter(|_| is_all);
        true
    }

    fn new_series(&mut self, metric: MetricId) -> SeriesSpec {
        let name = std::str::from_utf8(self.cache.name(metric)).expect("a canonical name is UTF-8");
        let resolved = self.rules.resolve(name);
        self.counters.patterns_given_up += u64::from(resolved.gave_up.is_some());
        resolved.spec
    }

    /// Keeps no more than twice the limit of a metric whose file cannot be written.
    fn trim(&mut self, metric: MetricId) {
        let limit = self.options.quarantined_points_max;
        if self.cache.waiting_of(metric) > limit.saturating_mul(2) {
            let kept = self.cache.trim(metric, limit);
            self.count_restored(kept);
        }
    }

    fn count_restored(&mut self, kept: Kept) {
        self.release_segments(kept.released.into_iter().flatten());
        self.counters.replaced += u64::from(kept.replaced);
        self.counters.drop_points(DropReason::Quarantine, u64::from(kept.dropped));
    }

    /// Takes the outcome of a job: confirms its points or lets them wait again.
    pub fn complete(&mut self, job: &mut FlushJob, now: Instant) -> Option<FlushNews> {
        let elapsed_s = self.elapsed_s(now);
        let metric = job.metric;
        match std::mem::replace(&mut job.outcome, Outcome::Pending) {
            Outcome::Pending => unreachable!("a job comes back with an outcome"),
            Outcome::Written(written) => {
                let known = job.known.as_ref().expect("a written file is known");
                self.no_longer_new(metric);
                self.files.written(metric, known, written.checked, elapsed_s);
                self.cache.set_place(metric, known.inode);
                self.confirm(job, written);
                None
            }
            Outcome::TooFar => {
                self.keep_all(metric);
                self.wait_for_sync(metric);
                None
            }
            Outcome::Missing => {
                self.keep_all(metric);
                self.found_missing(metric);
                None
            }
            Outcome::SetAside { reason, aside } => {
                self.keep_all(metric);
                self.create_first(metric);
                self.counters.damaged_files += 1;
                let name = String::from_utf8_lossy(self.cache.name(metric));
                Some(FlushNews::SetAside(format!(
                    "damaged series file set aside metric={name} reason=\"{reason}\" to={aside}"
                )))
            }
            Outcome::Locked => {
                self.keep_all(metric);
                self.files.locked(metric, elapsed_s);
                None
            }
            Outcome::Failed { action, reason, is_own_fault } => {
                // A part of it may be written.
                self.file_written(job, !job.limit.is_alone, Note::Logged);
                self.failed(metric, elapsed_s, action, &reason, is_own_fault)
            }
        }
    }

    /// The job's points are in the file, or the first of them: those are forgotten, and the log
    /// says so.
    fn confirm(&mut self, job: &FlushJob, written: Written) {
        let metric = job.metric;
        let Written { count, is_near, created, too_old_count, .. } = written;
        self.counters.committed += count as u64 - u64::from(too_old_count);
        self.counters.drop_points(DropReason::TooOld, u64::from(too_old_count));
        self.counters.updates += 1;
        self.counters.creates += u64::from(created);
        let is_whole = count == job.points.len();
        if is_whole {
            let released = self.cache.confirm(metric);
            self.release_segments(released);
        } else {
            let kept = self.cache.confirm_first(metric, count);
            self.count_restored(kept);
        }
        // Of a long chain the rest is not taken yet: a near update needs no note.
        let note = if is_whole && is_near && job.through.is_none() {
            Note::Logged
        } else if !is_whole && self.unsynced.is_forced(metric) {
            // To log the rest again after every few points would have no end.
            Note::Impossible
        } else {
            self.note_written(metric, job.through.filter(|_| is_whole))
        };
        self.file_written(job, is_near, note);
    }

    fn keep_all(&mut self, metric: MetricId) {
        let kept = self.cache.restore(metric, u32::MAX);
        self.count_restored(kept);
    }

    fn failed(
        &mut self,
        metric: MetricId,
        elapsed_s: u32,
        action: &'static str,
        reason: &str,
        is_own_fault: bool,
    ) -> Option<FlushNews> {
        let limit = if is_own_fault { self.options.quarantined_points_max } else { u32::MAX };
        let kept = self.cache.restore(metric, limit);
        self.count_restored(kept);
        self.counters.write_errors += 1;
        if !self.files.failed(metric, is_own_fault, elapsed_s) {
            return None;
        }
        let name = String::from_utf8_lossy(self.cache.name(metric));
        Some(FlushNews::Failing {
            cause: format!("{action}: {reason}"),
            text: format!("{action} failed, retrying later metric={name} reason=\"{reason}\""),
        })
    }
}
