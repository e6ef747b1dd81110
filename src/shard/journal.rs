//! The shard's log: points go into it before they go into the cache, and its segments are held as
//! long as points in the cache are in them and nowhere else.
//!
//! Receivers do not read while the log is full. What they had read already may be more than the
//! log's buffers take: those points wait here, in their order, and everything after them waits
//! behind them, until a commit has made room.

use std::collections::VecDeque;
use std::time::Instant;

use crate::cache::MetricId;
use crate::limits::REWRITE_POINTS_MAX;
use crate::metric::batch;
use crate::metric::point::{Arrival, Point};
use crate::shard::Shard;
use crate::shard::flush::{FlushJob, Limit};
use crate::shard::unsynced::Note;
use crate::stats::{Counters, DropReason};
use crate::wal::{Full, INHERITANCE, Log, Options, POINT_BYTES_MAX, Position, Pressure};

/// Points that may wait for room in the log, 24 bytes each. One read brings some 40,000, and each
/// shard asks before each read; beyond this a point is dropped and counted.
const LATE_MAX: usize = 1 << 20;

/// Memory of one of them.
const LATE_BYTES: usize = size_of::<(MetricId, Arrival)>();

/// Entries looked at before the core gets its turn back.
const SLICE: u32 = 4_096;

/// Points are logged again while no more than this waits for a commit: 1 MiB.
const REWRITE_BYTES: usize = 1 << 20;

/// Notes that wait for room in the log, 40 bytes each. A write that is under way may add one; none
/// is begun while there are more.
const NOTES_MAX: usize = 4_096;

/// The log with what belongs to it.
pub(super) struct Journal {
    pub(super) log: Log,
    /// Points that are in the cache and found no room in the log.
    late: VecDeque<(MetricId, Arrival)>,
    /// Metrics whose points are in their file, and the log had no room to say so: up to a position;
    /// or all points but those that wait, and the shard logs these again.
    notes: VecDeque<(MetricId, Option<Position>)>,
    /// Up to where points of earlier runs have come.
    replayed: Position,
    /// Looks for points to log again.
    rewrite: Search,
    /// Looks for metrics to flush.
    urgent: Search,
    points: Vec<Arrival>,
}

/// Points of earlier runs for one core, see [`batch::arrivals`].
#[derive(Debug, Default)]
pub struct Replayed {
    /// The points.
    pub bytes: Vec<u8>,
    /// Where the last of them is; all points of this core up to there have come with it.
    pub through: Position,
}

/// A walk over the entries for those that hold one segment.
#[derive(Debug, Default)]
struct Search {
    oldest: Option<u32>,
    cursor: u32,
    /// Only those whose files cannot be written.
    only_stuck: bool,
}

impl Journal {
    pub(super) fn new(options: Options) -> Journal {
        Journal {
            log: Log::new(options),
            late: VecDeque::new(),
            notes: VecDeque::new(),
            replayed: Position::default(),
            rewrite: Search::default(),
            urgent: Search::default(),
            points: Vec::new(),
        }
    }

    /// Whether `count` points of a metric may be logged again together.
    fn may_rewrite(&self, count: u32) -> bool {
        let count = count as usize;
        // While more of its points may come out of old logs, those that have come stay where they
        // are.
        let is_whole = !self.log.is_reading();
        is_whole && count <= REWRITE_POINTS_MAX && self.log.may_rewrite(count)
    }

    /// What is taken out of the cache now is in the logs up to here, or will be: those that wait
    /// for room come next, since nothing else is logged meanwhile.
    fn position(&self) -> Position {
        if self.log.is_reading() {
            return self.replayed;
        }
        let logged = self.log.position();
        Position { record: logged.record + self.late_count(), ..logged }
    }

    pub(super) fn is_full(&self) -> bool {
        !self.late.is_empty() || self.log.is_full()
    }

    /// Points that may be in the cache: logged again in new segments, they take half of the log.
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

    /// Whether metrics are named here that must not be forgotten.
    pub(super) fn has_late(&self) -> bool {
        !self.late.is_empty() || !self.notes.is_empty()
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
        let is_waiting = |journal: &Journal| !journal.log.is_settled() || journal.has_late();
        self.journal.as_ref().is_some_and(is_waiting)
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
        journal.late.push_back((metric, Arrival::new(point, self.now_s)));
        true
    }

    /// Puts points that found no room into the log, as far as there is some now.
    pub fn log_late(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        while let Some(&(metric, point)) = journal.late.front() {
            let (mark, name) = self.cache.mark_and_name(metric);
            let Ok(segment) = journal.log.append_late(mark, name, point) else { return };
            for _ in 0..self.cache.hold_late(metric, segment) {
                journal.log.hold(segment);
            }
            journal.late.pop_front();
        }
        // One flood must not take a part of the budget for ever.
        journal.late.shrink_to(0);
        self.note_again();
    }

    /// Says in the log what it had no room for before.
    fn note_again(&mut self) {
        while let Some(journal) = &mut self.journal
            && let Some((metric, through)) = journal.notes.pop_front()
        {
            match self.try_to_note(metric, through) {
                Note::Pending => {
                    let journal = self.journal.as_mut().expect("it has notes");
                    journal.notes.push_front((metric, through));
                    return;
                }
                note => {
                    self.counters.unnoted_updates += u64::from(note == Note::Impossible);
                    self.unsynced.noted(metric, note);
                }
            }
        }
    }

    fn try_to_note(&mut self, metric: MetricId, through: Option<Position>) -> Note {
        let Some(journal) = &mut self.journal else { return Note::Logged };
        let Some(through) = through else {
            // A log without a file left gets one back only when points are written.
            let may_rewrite = !journal.log.is_out_of_files()
                && journal.may_rewrite(self.cache.waiting_of(metric));
            if !may_rewrite {
                return Note::Impossible;
            }
            let is_done = !self.cache.is_writing(metric) && self.rewrite(metric);
            return if is_done { Note::Logged } else { Note::Pending };
        };
        let (mark, name) = self.cache.mark_and_name(metric);
        match journal.log.confirm(mark, name, through) {
            Ok(()) => Note::Logged,
            Err(Full) => Note::Pending,
        }
    }

    /// The metric's points are in its file up to a position, or if none is given all but those that
    /// wait, which are logged again then. Says so in the log, at once or when it has room.
    pub(super) fn note_written(&mut self, metric: MetricId, through: Option<Position>) -> Note {
        let is_idle = self.cache.waiting_of(metric) == 0;
        let Some(journal) = &mut self.journal else { return Note::Logged };
        // When nothing waits all that the log has is written.
        let through = if is_idle { Some(journal.position()) } else { through };
        let may_be_first = journal.notes.is_empty() && journal.late.is_empty();
        let note = if may_be_first { self.try_to_note(metric, through) } else { Note::Pending };
        if note == Note::Pending
            && let Some(journal) = &mut self.journal
        {
            journal.notes.push_back((metric, through));
        }
        self.counters.unnoted_updates += u64::from(note == Note::Impossible);
        note
    }

    pub(super) fn has_too_many_notes(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.notes.len() > NOTES_MAX)
    }

    /// Whether points of earlier runs are still to come.
    pub(super) fn is_replaying(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.log.is_reading())
    }

    /// Where the log is now, if there is one.
    pub(super) fn log_position(&self) -> Option<Position> {
        self.journal.as_ref().map(Journal::position)
    }

    /// The limit of the metric's next update; `None`: a checkpoint comes before it.
    pub(super) fn update_limit(&mut self, metric: MetricId, waiting_count: u32) -> Option<Limit> {
        if self.journal.is_none() {
            return Some(Limit { is_alone: true, ..Limit::default() });
        }
        let limit = self.unsynced.limit(metric, waiting_count);
        self.counters.unsynced_updates +=
            u64::from(limit.is_some_and(|it| it.is_alone) && self.unsynced.is_forced(metric));
        limit
    }

    /// The job's file was written, or a part of it may have been.
    pub(super) fn file_written(&mut self, job: &FlushJob, is_near: bool, note: Note) {
        if self.journal.is_some() {
            self.unsynced.written(job.metric, job.limit, is_near, note);
        }
    }

    /// The metric's next update is made after a checkpoint.
    pub(super) fn wait_for_sync(&mut self, metric: MetricId) {
        let Some(journal) = &self.journal else { return };
        let is_pending = journal.notes.iter().any(|(waiting, _)| *waiting == metric);
        let note = if is_pending { Note::Pending } else { Note::Logged };
        self.unsynced.refused(metric, note);
    }

    /// Whether a sync of the files is wanted: segments of the log could go after it, or updates
    /// wait for it.
    pub fn wants_checkpoint(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.log.checkpoint_wanted())
            || self.unsynced.wants_checkpoint()
    }

    /// Whether such a sync should not wait for its interval.
    pub fn is_checkpoint_urgent(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.log.is_checkpoint_urgent())
            || self.unsynced.wants_checkpoint()
    }

    /// Whether files were written since the last checkpoint began.
    pub fn has_written(&self) -> bool {
        self.unsynced.has_written()
    }

    /// Whether updates wait for a checkpoint.
    pub fn waits_for_checkpoint(&self) -> bool {
        self.unsynced.waits()
    }

    /// To be called before the sync of all files, which may begin when [`Log::may_sync`] says so.
    /// False: the log has no room to say that it begins.
    pub fn begin_checkpoint(&mut self) -> bool {
        let Some(journal) = &mut self.journal else { return false };
        let is_begun = journal.log.checkpoint_begun();
        if is_begun {
            self.unsynced.checkpoint_begun(self.now_s);
        }
        is_begun
    }

    /// The sync has succeeded.
    pub fn end_checkpoint(&mut self) {
        let Some(journal) = &mut self.journal else { return };
        journal.log.checkpoint_done(true);
        self.unsynced.checkpoint_succeeded();
        let cache = &self.cache;
        self.unsynced.prune(|metric| cache.waiting_of(metric) > 0 || cache.is_writing(metric));
    }

    /// Takes points of earlier runs, found in their logs. They are there still, and not logged
    /// again.
    pub fn accept_replayed(&mut self, batch: &Replayed) {
        for (name, arrival) in batch::arrivals(&batch.bytes) {
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
            let is_replacing = self.cache.push(metric, arrival);
            self.counters.replaced += u64::from(is_replacing);
            self.charge(metric);
        }
        let journal = self.journal.as_mut().expect("only a log is inherited");
        journal.replayed = journal.replayed.max(batch.through);
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
        let (Pressure::Flush { oldest } | Pressure::Rewrite { oldest }) = journal.log.pressure()
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

    /// The segment that points are to be moved out of, and whether only those that cannot be
    /// written.
    fn rewrite_wanted(&self, now: Instant) -> Option<(u32, bool)> {
        let journal = self.journal.as_ref()?;
        if let Some(oldest) = journal.log.rewrite_wanted(now) {
            return Some((oldest, false));
        }
        let stuck_count = self.files.failing_count() + self.creations.len() as u64;
        journal.log.pinned_by(stuck_count).map(|oldest| (oldest, true))
    }

    /// Whether [`Shard::rewrite_some`] has something to do.
    pub fn wants_to_rewrite(&self, now: Instant) -> bool {
        self.rewrite_wanted(now).is_some()
    }

    /// Logs points again that are in a segment which the log wants to give up: those whose files
    /// cannot be written, as soon as they alone hold it; and, when flushing has not helped, all.
    /// Looks at a slice of the entries; false when there is no more to do now.
    pub fn rewrite_some(&mut self, now: Instant) -> bool {
        let wanted = self.rewrite_wanted(now);
        let Some(journal) = &mut self.journal else { return false };
        if journal.rewrite.oldest != wanted.map(|(oldest, _)| oldest) {
            let oldest = wanted.map(|(oldest, _)| oldest);
            journal.rewrite = Search { oldest, only_stuck: true, ..Search::default() };
        }
        let Some((oldest, only_stuck)) = wanted else { return false };
        for _ in 0..SLICE {
            let Some(journal) = &mut self.journal else { return false };
            let search = &mut journal.rewrite;
            search.only_stuck |= only_stuck;
            if search.cursor >= self.cache.id_end() {
                (search.cursor, search.only_stuck) = (0, !search.only_stuck);
                return false;
            }
            if !self.rewrite_next(oldest) {
                return false;
            }
            let Some(journal) = &mut self.journal else { return false };
            journal.rewrite.cursor += 1;
        }
        self.uncommitted_bytes() < REWRITE_BYTES
    }

    /// Logs what the walk has come to again, if it is to be; false: no more can be done now.
    fn rewrite_next(&mut self, oldest: u32) -> bool {
        let Some(journal) = &self.journal else { return false };
        let Search { cursor, only_stuck, .. } = journal.rewrite;
        let Some(metric) = self.cache.metric_at(cursor) else { return true };
        // What a failed write gives back may be older than all that was logged again meanwhile, and
        // would be held no more.
        let is_passed_over = self.cache.is_writing(metric)
            || (only_stuck && !self.files.is_stuck(metric))
            || self.cache.waiting_hold(metric) != Some(oldest)
            || !journal.may_rewrite(self.cache.waiting_of(metric));
        is_passed_over || self.rewrite(metric)
    }

    /// Logs the metric's waiting points again, at the log's end; false: there is no room.
    fn rewrite(&mut self, metric: MetricId) -> bool {
        let Some(journal) = &mut self.journal else { return true };
        let Journal { log, points, late, .. } = journal;
        // Points that are not in the log yet come into it in the order of their arrival.
        if !late.is_empty() || log.is_reading() {
            return false;
        }
        points.clear();
        self.cache.waiting_points(metric, points);
        if points.is_empty() {
            // They were written meanwhile.
            return true;
        }
        let (mark, name) = self.cache.mark_and_name(metric);
        let Ok(segment) = log.rewrite(mark, name, points) else { return false };
        log.hold(segment);
        let before = self.cache.move_hold(metric, segment);
        log.release(before.expect("points that are in the log hold a segment"));
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
            all.wal_rewritten = log.rewritten_points;
            all.wal_confirmations = log.confirmations;
            all.wal_bytes = log.bytes;
            all.wal_commits = log.commits;
            all.wal_failed_commits = log.failed_commits;
        }
        all
    }
}
