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
    /// How far the metric at the cursor is carried, if a part of it is.
    begun: Option<Begun>,
}

/// A chain that is carried in pieces, because it is longer than one, or than what a commit takes.
///
/// All that waits of it, up to a time, is in the log from one segment on, each timestamp with its
/// latest value last. It stays so: what is received is logged behind it. What a write takes out
/// and gives back was in the chain before, as none is begun while it is being written. What is
/// confirmed or dropped is no more to be carried.
#[derive(Debug, Clone, Copy)]
struct Begun {
    /// Where the first piece is; held until the metric holds it, or the chain is given up.
    segment: u32,
    /// The timestamp up to which it is carried.
    carried_s: u32,
    /// The newest timestamp when it was begun: what came later is in the log behind the first
    /// piece, and not carried.
    last_s: u32,
}

/// What became of a metric's points on the walk.
enum Carried {
    /// They are carried, or not to be carried.
    All,
    /// A part of them is.
    Piece,
    /// No more can be done now.
    Stopped,
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

    /// Gives up the chain that is carried in pieces, if one is: nobody needs it any more.
    fn give_up_begun(&mut self) {
        if let Some(begun) = self.carry.begun.take() {
            self.log.release(begun.segment);
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
            if self.refuse_new(name) {
                continue;
            }
            let (metric, is_added) = self.cache.find_or_add(name);
            if is_added {
                self.begin(metric);
            }
            let journal = self.journal.as_mut().expect("only a log is inherited");
            if self.cache.hold(metric, INHERITANCE) {
                journal.log.hold(INHERITANCE);
            }
            let replaced_count = self.cache.push(metric, point);
            self.counters.replaced += u64::from(replaced_count);
            self.charge(metric);
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
            *search = Search { oldest: Some(oldest), ..Search::default() };
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
        self.journal.as_ref().is_some_and(|journal| {
            journal.carry.begun.is_some() || journal.log.carry_wanted(now).is_some()
        })
    }

    /// Carries points out of the segment that the log asks for: first those whose files cannot be
    /// written, and later, when flushing has not helped either, all. Looks at a slice of the
    /// entries; false when there is no more to do now.
    pub fn carry_some(&mut self, now: Instant) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        let wanted = journal.log.carry_wanted(now);
        if journal.carry.oldest != wanted {
            journal.give_up_begun();
            journal.carry = Search { oldest: wanted, only_failing: true, ..Search::default() };
        }
        let Some(oldest) = wanted else { return false };
        for _ in 0..SLICE {
            let Some(journal) = &mut self.journal else { return false };
            let search = &mut journal.carry;
            if search.cursor >= self.cache.id_end() {
                (search.cursor, search.only_failing) = (0, !search.only_failing);
                return false;
            }
            match self.carry_next(oldest) {
                Carried::All => {}
                Carried::Piece => break,
                Carried::Stopped => return false,
            }
            let Some(journal) = &mut self.journal else { return false };
            journal.give_up_begun();
            journal.carry.cursor += 1;
        }
        self.uncommitted_bytes() < CARRY_BYTES
    }

    /// Carries what the walk has come to, if it is to be carried.
    fn carry_next(&mut self, oldest: u32) -> Carried {
        let Some(journal) = &self.journal else { return Carried::Stopped };
        let Search { cursor, only_failing, begun, .. } = journal.carry;
        let Some(metric) = self.cache.metric_at(cursor) else { return Carried::All };
        if self.cache.is_writing(metric) {
            // What a failed write gives back may be older than all that was carried meanwhile, and
            // would be held no more. A chain that was begun before loses nothing by it.
            return if begun.is_some() { Carried::Stopped } else { Carried::All };
        }
        let is_passed_over = only_failing && begun.is_none() && !self.files.is_failing(metric);
        if is_passed_over || self.cache.waiting_hold(metric) != Some(oldest) {
            return Carried::All;
        }
        self.carry(metric)
    }

    /// Moves the metric's waiting points to the log's end, or the next piece of them.
    fn carry(&mut self, metric: MetricId) -> Carried {
        let Some(journal) = &mut self.journal else { return Carried::Stopped };
        let Journal { log, points, carry, .. } = journal;
        points.clear();
        self.cache.waiting_points(metric, points);
        let newest = points.last().expect("a chain that holds a segment has points");
        let last_s = carry.begun.map_or(newest.timestamp_s, |begun| begun.last_s);
        let done = |begun: Begun| points.partition_point(|it| it.timestamp_s <= begun.carried_s);
        let from = carry.begun.map_or(0, done);
        let end = points.partition_point(|point| point.timestamp_s <= last_s);
        let piece_end = end.min(from + self.options.carry_points_max);
        for &point in &points[from..piece_end] {
            let (mark, name) = self.cache.mark_and_name(metric);
            let Ok(segment) = log.carry(mark, name, point) else { return Carried::Stopped };
            let carried_s = point.timestamp_s;
            match &mut carry.begun {
                Some(begun) => begun.carried_s = carried_s,
                None => {
                    log.hold(segment);
                    carry.begun = Some(Begun { segment, carried_s, last_s });
                }
            }
        }
        if piece_end < end {
            return Carried::Piece;
        }
        // The hold of the first piece becomes the metric's.
        let begun = carry.begun.take().expect("it was begun with the first point");
        let before = self.cache.move_hold(metric, begun.segment);
        log.release(before.expect("only a chain that holds a segment is carried"));
        Carried::All
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
