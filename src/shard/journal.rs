//! The shard's log: points go into it before they go into the cache, and its segments are held as
//! long as points in the cache are in them and nowhere else.
//!
//! Receivers do not read while the log is full. What they had read already may be more than the
//! log's buffers take: those points wait here, in their order, and everything after them waits
//! behind them, until a commit has made room.

use std::collections::VecDeque;
use std::time::Instant;

use crate::cache::MetricId;
use crate::metric::batch;
use crate::metric::point::Point;
use crate::shard::Shard;
use crate::stats::{Counters, DropReason};
use crate::wal::{INHERITANCE, Log, Options, POINT_BYTES_MAX, Pressure};

/// Points that may wait for room in the log, 24 bytes each. One read brings some 40,000, and each
/// shard asks before each read; beyond this a point is dropped and counted.
const LATE_MAX: usize = 1 << 20;

/// Memory of one of them.
const LATE_BYTES: usize = size_of::<(MetricId, Point)>();

/// Entries looked at before the core gets its turn back.
const SLICE: u32 = 4_096;

/// Points are carried while no more than this waits for a commit: 1 MiB.
const CARRY_BYTES: usize = 1 << 20;

/// The log with what belongs to it.
pub(super) struct Journal {
    pub(super) log: Log,
    /// Points that are in the cache and found no room in the log.
    late: VecDeque<(MetricId, Point)>,
    /// Looks for points to carry.
    carry: Search,
    /// Looks for metrics to flush.
    urgent: Search,
    points: Vec<Point>,
}

/// A walk over the entries for those that hold one segment.
#[derive(Debug, Default)]
struct Search {
    oldest: Option<u32>,
    cursor: u32,
    /// Only those whose files cannot be written.
    only_failing: bool,
}

impl Journal {
    pub(super) fn new(options: Options) -> Journal {
        Journal {
            log: Log::new(options),
            late: VecDeque::new(),
            carry: Search::default(),
            urgent: Search::default(),
            points: Vec::new(),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        !self.late.is_empty() || self.log.is_full()
    }

    /// Points that may be in the cache: carried into new segments, they take half of the log.
    pub(super) fn points_max(&self) -> u64 {
        let options = self.log.options();
        u64::from(options.segments_max) * u64::from(options.segment_bytes)
            / 2
            / POINT_BYTES_MAX as u64
    }

    /// Memory of the points that wait for room; that of the log's buffers is no part of the
    /// shard's budget.
    pub(super) fn late_bytes(&self) -> usize {
        self.late.capacity() * LATE_BYTES
    }

    pub(super) fn has_late(&self) -> bool {
        !self.late.is_empty()
    }

    pub(super) fn late_count(&self) -> u64 {
        self.late.len() as u64
    }
}

impl Shard {
    /// The log, if there is one.
    pub fn log(&mut self) -> Option<&mut Log> {
        self.journal.as_mut().map(|journal| &mut journal.log)
    }

    /// Whether something waits for a commit.
    pub fn has_uncommitted(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| !journal.log.is_settled() || journal.has_late())
    }

    /// Bytes that wait for the next commit.
    pub fn uncommitted_bytes(&self) -> usize {
        self.journal.as_ref().map_or(0, |journal| journal.log.waiting_bytes())
    }

    /// What the log asks for so that it does not fill up.
    pub fn log_pressure(&self) -> Pressure {
        self.journal.as_ref().map_or(Pressure::None, |journal| journal.log.pressure())
    }

    /// Puts a point into the log, to be followed by its push into the cache. False: it is to be
    /// dropped.
    pub(super) fn log_point(&mut self, metric: MetricId, point: Point) -> bool {
        let Some(journal) = &mut self.journal else { return true };
        if journal.late.is_empty() {
            let (mark, name) = self.cache.mark_and_name(metric);
            if let Ok(segment) = journal.log.append(mark, name, point) {
                if self.cache.hold(metric, segment) {
                    journal.log.hold(segment);
                }
                return true;
            }
        }
        if journal.late.len() >= LATE_MAX {
            self.counters.drop_points(DropReason::CacheFull, 1);
            return false;
        }
        journal.late.push_back((metric, point));
        true
    }

    /// Puts points that found no room into the log, as far as there is some now.
    pub fn log_late(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        while let Some(&(metric, point)) = journal.late.front() {
            let (mark, name) = self.cache.mark_and_name(metric);
            let Ok(segment) = journal.log.append(mark, name, point) else { return };
            for _ in 0..self.cache.hold_late(metric, segment) {
                journal.log.hold(segment);
            }
            journal.late.pop_front();
        }
        // One flood must not take a part of the budget for ever.
        journal.late.shrink_to(0);
    }

    /// Takes points of earlier runs, found in their logs. They are there still, and not logged
    /// again.
    pub fn accept_inherited(&mut self, batch: &[u8]) {
        for (name, point) in batch::records(batch) {
            self.counters.recovered += 1;
            if self.check_path(name).is_err() {
                // It was received under another rule for the names of files.
                self.counters.drop_points(DropReason::NameComponent, 1);
                continue;
            }
            let (metric, is_new) = self.cache.find_or_add(name);
            if is_new {
                self.files.begin(metric);
            }
            let journal = self.journal.as_mut().expect("only a log is inherited");
            if self.cache.hold(metric, INHERITANCE) {
                journal.log.hold(INHERITANCE);
            }
            let replaced_count = self.cache.push(metric, point);
            self.counters.replaced += u64::from(replaced_count);
        }
    }

    pub(super) fn hold_segment(&mut self, segment: Option<u32>) {
        if let (Some(journal), Some(segment)) = (&mut self.journal, segment) {
            journal.log.hold(segment);
        }
    }

    pub(super) fn release_segments(&mut self, segments: impl IntoIterator<Item = u32>) {
        if let Some(journal) = &mut self.journal {
            segments.into_iter().for_each(|segment| journal.log.release(segment));
        }
    }

    /// Under pressure, the next metric that holds the oldest segment and may be written: with a
    /// limit on updates a sweep could come to it too late. Each is looked at once a sweep: one that
    /// is being written, or may not be created yet, must not keep the sweep from going on.
    pub(super) fn next_urgent(&mut self) -> Option<MetricId> {
        if self.options.updates_per_s <= 0.0 {
            return None;
        }
        let journal = self.journal.as_mut()?;
        let (Pressure::Flush { oldest } | Pressure::Carry { oldest }) = journal.log.pressure()
        else {
            return None;
        };
        let search = &mut journal.urgent;
        if search.oldest != Some(oldest) {
            *search = Search { oldest: Some(oldest), cursor: 0, only_failing: false };
        }
        let end = self.cache.id_end().min(search.cursor.saturating_add(SLICE));
        while search.cursor < end {
            let metric = self.cache.metric_at(search.cursor);
            search.cursor += 1;
            let is_holder = |metric: &MetricId| self.cache.waiting_hold(*metric) == Some(oldest);
            if let Some(metric) = metric.filter(is_holder)
                && !self.files.is_failing(metric)
            {
                return Some(metric);
            }
        }
        None
    }

    /// The next sweep looks for urgent metrics from the first one on.
    pub(super) fn begin_urgent(&mut self) {
        if let Some(journal) = &mut self.journal {
            journal.urgent = Search::default();
        }
    }

    /// Whether [`Shard::carry_some`] has something to do.
    pub fn wants_to_carry(&self, now: Instant) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.log.carry_wanted(now).is_some())
    }

    /// Carries points out of the segment that the log asks for: first those whose files cannot be
    /// written, and later, when flushing has not helped either, all. Looks at a slice of the
    /// entries; false when there is no more to do now.
    pub fn carry_some(&mut self, now: Instant) -> bool {
        let wanted = self.journal.as_ref().and_then(|journal| journal.log.carry_wanted(now));
        let Some(oldest) = wanted else { return false };
        let end = self.cache.id_end();
        for _ in 0..SLICE {
            let Some(journal) = &mut self.journal else { return false };
            let search = &mut journal.carry;
            if search.oldest != Some(oldest) {
                *search = Search { oldest: Some(oldest), cursor: 0, only_failing: true };
            }
            if search.cursor >= end {
                (search.cursor, search.only_failing) = (0, !search.only_failing);
                return false;
            }
            let (metric, only_failing) = (self.cache.metric_at(search.cursor), search.only_failing);
            search.cursor += 1;
            let Some(metric) = metric else { continue };
            let is_holder = self.cache.waiting_hold(metric) == Some(oldest);
            if is_holder && (!only_failing || self.files.is_failing(metric)) && !self.carry(metric)
            {
                return false;
            }
        }
        self.uncommitted_bytes() < CARRY_BYTES
    }

    /// Moves the metric's waiting points to the log's end; false when the log is full.
    fn carry(&mut self, metric: MetricId) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        journal.points.clear();
        self.cache.waiting_points(metric, &mut journal.points);
        let (mark, name) = self.cache.mark_and_name(metric);
        let mut first = None;
        for &point in &journal.points {
            match journal.log.carry(mark, name, point) {
                Ok(segment) => first = first.or(Some(segment)),
                Err(_) => return false,
            }
        }
        let segment = first.expect("a chain that holds a segment has points");
        journal.log.hold(segment);
        let before = self.cache.move_hold(metric, segment);
        journal.log.release(before.expect("only a chain that holds a segment is carried"));
        true
    }

    /// The shard's counters with those of its log.
    pub fn all_counters(&self) -> Counters {
        let mut all = self.counters;
        if let Some(journal) = &self.journal {
            let log = journal.log.counters();
            all.wal_received = log.received_points + journal.late_count();
            all.wal_written = log.written_points;
            all.wal_synced = log.synced_points;
            all.wal_carried = log.carried_points;
            all.wal_bytes = log.bytes;
            all.wal_commits = log.commits;
            all.wal_failed_commits = log.failed_commits;
        }
        all
    }
}
