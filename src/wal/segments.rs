//! Which segments must stay: what is held in them, what a checkpoint has covered, and how much
//! room is left.
//!
//! A segment of points goes when it and every one before it hold nothing that waits, and a
//! checkpoint that began after that has succeeded: never one out of the middle, because the points
//! of an older one would then win over those that followed. For the same reason none goes before
//! what earlier runs left behind is gone. And a frame that says so must have been committed before:
//! then a file that is still there is not replayed, and one that is not there is not missed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::wal::segment::{Kind, SegmentId};

/// The number that stands for everything earlier runs left behind, in holds.
pub const INHERITANCE: u32 = 0;

/// Files that are kept for points already received or logged again: while the last ones before
/// the limit fill, receivers wait.
pub(crate) const RESERVE_SEGMENTS: u32 = 2;

/// Files beyond the limit for what had been let in before it was reached, when writes fail.
const BROKEN_FILES_MAX: u32 = 8;

/// This long after the inheritance was read, what is still held of it is logged again. No shard can
/// retire anything before all shards have let go of it: one with files that cannot be written, or
/// may not be created yet, would stop all others for good. Most shards have flushed theirs by then
/// and log nothing again.
pub(crate) const INHERITANCE_TIME_MAX: Duration = Duration::from_secs(60);

/// Segments that may follow the oldest one while only points that cannot be written hold it.
const PINNED_SEGMENTS: u32 = 2;

/// What the log asks of the shard so that it does not fill up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pressure {
    /// Nothing.
    None,
    /// Flush metrics that hold this segment first.
    Flush {
        /// The oldest segment that is held.
        oldest: u32,
    },
    /// Flushing is too slow: log the points of metrics that hold this segment again, see
    /// [`crate::wal::Log::rewrite`], those first whose files cannot be written.
    Rewrite {
        /// The oldest segment that is held.
        oldest: u32,
    },
}

/// How far what earlier runs left behind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Inheritance {
    /// It is being read; more holds will come.
    Reading,
    /// All of it is in the cache or confirmed.
    Read,
    /// There is none, or no more.
    Gone,
}

/// A segment of points.
#[derive(Debug, Clone, Copy)]
struct Live {
    epoch: u32,
    holds: u64,
    has_file: bool,
}

/// All segments of this run.
#[derive(Debug)]
pub(crate) struct Segments {
    run: u64,
    shard: u16,
    files_max: u32,
    /// By number, from `first` on; the last is the one that is written to, or will be.
    points: VecDeque<Live>,
    first: u32,
    /// Number and epoch, in ascending order.
    names: VecDeque<(u32, u32)>,
    inheritance: Inheritance,
    inherited_files: u32,
    inherited_holds: u64,
    /// What is held of the inheritance then is logged again.
    inheritance_due: Option<Instant>,
    /// What the checkpoint under way covers.
    checkpoint: Option<u32>,
    /// Points up to this segment are in their files and on stable storage.
    safe: Option<u32>,
    checkpoint_failed: bool,
    /// Frames say that segments below this one are retired.
    told: u32,
    retiring: Option<SegmentId>,
}

impl Segments {
    pub(crate) fn new(
        run: u64,
        shard: u16,
        files_max: u32,
        inherited_files: Option<u32>,
    ) -> Segments {
        let is_heir = inherited_files.is_some();
        Segments {
            run,
            shard,
            files_max,
            points: VecDeque::from([Live { epoch: 0, holds: 0, has_file: false }]),
            first: 1,
            names: VecDeque::new(),
            inheritance: if is_heir { Inheritance::Reading } else { Inheritance::Gone },
            inherited_files: inherited_files.unwrap_or(0),
            inherited_holds: 0,
            inheritance_due: None,
            checkpoint: None,
            safe: (!is_heir).then_some(0),
            checkpoint_failed: false,
            told: 1,
            retiring: None,
        }
    }

    /// The segment that points are appended to, or to one after it.
    pub(crate) fn current(&self) -> u32 {
        self.first + self.count() - 1
    }

    pub(crate) fn hold(&mut self, segment: u32) {
        let safe = self.safe.map_or(0, |safe| safe + 1);
        assert!(segment >= safe, "segment {segment} was released, those below {safe} may be gone");
        *self.holds_of(segment) += 1;
    }

    pub(crate) fn release(&mut self, segment: u32) {
        let holds = self.holds_of(segment);
        assert!(*holds > 0, "segment {segment} is released more often than held");
        *holds -= 1;
    }

    fn holds_of(&mut self, segment: u32) -> &mut u64 {
        if segment == INHERITANCE {
            assert!(self.inheritance != Inheritance::Gone, "nothing is inherited any more");
            return &mut self.inherited_holds;
        }
        let (first, end) = (self.first, self.first + self.count());
        assert!(first <= segment && segment < end, "{segment} is not in {first}..{end}");
        &mut self.points[(segment - first) as usize].holds
    }

    /// Points of segments below this number are safe in their files.
    pub(crate) fn oldest_live(&self) -> u32 {
        if self.inheritance == Inheritance::Gone { self.safe.map_or(1, |safe| safe + 1) } else { 1 }
    }

    /// A commit has succeeded whose frames say that segments below `oldest_live` are retired.
    pub(crate) fn told(&mut self, oldest_live: u32) {
        self.told = self.told.max(oldest_live);
    }

    /// Segments could go if a frame said so.
    pub(crate) fn has_to_tell(&self) -> bool {
        let untold = (self.oldest_live() - self.first) as usize;
        self.told < self.oldest_live() && self.points.iter().take(untold).any(|live| live.has_file)
    }

    /// The segment that is written to has a file; returns its number.
    pub(crate) fn begin_points(&mut self, epoch: u32) -> u32 {
        let last = self.points.back_mut().expect("there is always a current segment");
        assert!(!last.has_file, "a segment is begun once");
        (last.has_file, last.epoch) = (true, epoch);
        self.current()
    }

    /// The file that was to be begun is not there after all.
    pub(crate) fn unbegin_points(&mut self) {
        self.points.back_mut().expect("there is always a current segment").has_file = false;
    }

    /// Points go to the next segment from now on.
    pub(crate) fn rotate_points(&mut self) {
        self.points.push_back(Live { epoch: 0, holds: 0, has_file: false });
    }

    pub(crate) fn begin_names(&mut self, number: u32, epoch: u32) {
        self.names.push_back((number, epoch));
    }

    pub(crate) fn unbegin_names(&mut self) {
        self.names.pop_back();
    }

    /// Files that the names of this dictionary are in.
    pub(crate) fn names_files(&self, epoch: u32) -> u64 {
        self.names.iter().filter(|&&(_, of)| of == epoch).count() as u64
    }

    /// Files of this run and of earlier ones.
    pub(crate) fn file_count(&self) -> u32 {
        self.own_file_count() + self.inherited_files
    }

    fn own_file_count(&self) -> u32 {
        let points = self.points.iter().filter(|live| live.has_file).count() + self.names.len();
        u32::try_from(points).expect("there are at most `files_max` files")
    }

    /// Whether this many files may be added. What has been let in must get out of the buffers, or
    /// nothing would ever be retired: the limit is held where points come in, and this one only by
    /// a disk on which file after file breaks. What lets others go may always.
    pub(crate) fn has_room(&self, files: u32, is_stuck: bool) -> bool {
        let more = if is_stuck { RESERVE_SEGMENTS } else { 0 };
        let max = self.files_max + BROKEN_FILES_MAX + more;
        self.has_to_tell() || self.own_file_count() + files <= max
    }

    /// Whether only names keep receivers waiting: nothing else is held or inherited.
    pub(crate) fn is_full_of_names(&self) -> bool {
        let is_alone = self.points.len() == 1 && self.points[0].holds == 0;
        self.inheritance == Inheritance::Gone && is_alone && self.names.len() > 1 && self.is_full()
    }

    /// Whether the segment that points are appended to belongs to an earlier dictionary.
    pub(crate) fn is_before_epoch(&self, epoch: u32) -> bool {
        self.points.back().is_some_and(|live| live.has_file && live.epoch < epoch)
    }

    /// Whether no more points may be logged again.
    pub(crate) fn is_beyond(&self) -> bool {
        self.own_file_count() > self.files_max
    }

    /// Whether only the reserve is left, or nothing may come yet.
    pub(crate) fn is_full(&self) -> bool {
        self.is_reading() || self.file_count() + RESERVE_SEGMENTS > self.files_max
    }

    /// Whether points of earlier runs are still to come.
    pub(crate) fn is_reading(&self) -> bool {
        self.inheritance == Inheritance::Reading
    }

    pub(crate) fn pressure(&self) -> Pressure {
        let Some(oldest) = self.oldest_held() else { return Pressure::None };
        let (files, max) = (self.file_count(), self.files_max);
        // While more of a metric's points may come out of old files, those that have come must not
        // be put behind them.
        let may_rewrite = !self.is_reading();
        if files * 4 >= max * 3 && may_rewrite {
            Pressure::Rewrite { oldest }
        } else if files * 2 >= max {
            Pressure::Flush { oldest }
        } else {
            Pressure::None
        }
    }

    /// The segment whose points the shard should log again, if there is one.
    pub(crate) fn rewrite_wanted(&self, now: Instant) -> Option<u32> {
        if let Pressure::Rewrite { oldest } = self.pressure() {
            return Some(oldest);
        }
        let is_due = self.inheritance_due.is_some_and(|due| now >= due);
        (is_due && self.inherited_holds > 0).then_some(INHERITANCE)
    }

    /// The oldest segment that is held, if so few chains hold it and it is followed by enough that
    /// moving their points gains something.
    pub(crate) fn pinned_by(&self, count: u64) -> Option<u32> {
        let oldest = self.oldest_held().filter(|&oldest| oldest != INHERITANCE)?;
        let holds = self.points[(oldest - self.first) as usize].holds;
        let is_followed = self.current() >= oldest + PINNED_SEGMENTS;
        (is_followed && (1..=count).contains(&holds) && !self.is_reading()).then_some(oldest)
    }

    fn oldest_held(&self) -> Option<u32> {
        if self.inherited_holds > 0 {
            return Some(INHERITANCE);
        }
        // Moving points out of the current segment would gain nothing.
        let numbers = self.first..self.current();
        numbers.zip(&self.points).find(|(_, live)| live.holds > 0).map(|(number, _)| number)
    }

    /// The greatest segment up to which nothing is held; `None`: the inheritance is.
    fn released(&self) -> Option<u32> {
        if self.is_reading() || self.inherited_holds > 0 {
            return None;
        }
        let closed = self.points.iter().take(self.points.len() - 1);
        let free = closed.take_while(|live| live.holds == 0).count();
        Some(self.first - 1 + u32::try_from(free).expect("segments are counted in 32 bits"))
    }

    pub(crate) fn checkpoint_wanted(&self) -> bool {
        self.checkpoint.is_none() && !self.checkpoint_failed && self.released() > self.safe
    }

    /// Whether files would go that somebody waits for: those of earlier runs, which a next crash
    /// would leave beside its own, or any when the log is half full.
    pub(crate) fn is_checkpoint_urgent(&self) -> bool {
        let is_heir = self.inheritance != Inheritance::Gone && self.safe.is_none();
        is_heir || self.file_count() * 2 >= self.files_max
    }

    /// A checkpoint begins; without `may_cover` nothing will be retired after it.
    pub(crate) fn checkpoint_begun(&mut self, may_cover: bool) {
        self.checkpoint = if may_cover { self.released() } else { None };
    }

    pub(crate) fn checkpoint_done(&mut self, is_ok: bool) {
        let covered = self.checkpoint.take();
        self.checkpoint_failed |= !is_ok;
        if !self.checkpoint_failed {
            self.safe = self.safe.max(covered);
        }
    }

    pub(crate) fn has_checkpoint_failed(&self) -> bool {
        self.checkpoint_failed
    }

    pub(crate) fn inheritance_read(&mut self, now: Instant) {
        assert!(self.is_reading(), "the inheritance is read once");
        self.inheritance = Inheritance::Read;
        self.inheritance_due = Some(now + INHERITANCE_TIME_MAX);
    }

    pub(crate) fn has_inheritance(&self) -> bool {
        self.inheritance != Inheritance::Gone
    }

    pub(crate) fn is_inheritance_released(&self) -> bool {
        self.inheritance == Inheritance::Gone || self.safe.is_some()
    }

    pub(crate) fn inheritance_gone(&mut self) {
        assert!(self.is_inheritance_released(), "the inheritance is still needed");
        self.inheritance = Inheritance::Gone;
        self.inherited_files = 0;
    }

    /// The next segment to give up. `oldest_epoch`: names from it on are needed by points that are
    /// in no segment yet.
    pub(crate) fn take_retired(&mut self, oldest_epoch: u32) -> Option<SegmentId> {
        if self.retiring.is_some() || self.inheritance != Inheritance::Gone {
            return None;
        }
        let oldest_live = self.oldest_live().min(self.told);
        while self.first < oldest_live && !self.points[0].has_file {
            self.points.pop_front();
            self.first += 1;
        }
        let (kind, number) = if self.first < oldest_live {
            (Kind::Points, self.first)
        } else {
            let epochs = self.points.iter().filter(|live| live.has_file).map(|live| live.epoch);
            let needed = epochs.min().map_or(oldest_epoch, |epoch| epoch.min(oldest_epoch));
            let &(number, epoch) = self.names.front()?;
            if epoch >= needed {
                return None;
            }
            (Kind::Names, number)
        };
        self.retiring = Some(SegmentId { run: self.run, shard: self.shard, kind, number });
        self.retiring
    }

    /// The segment was given up, or could not be and has to be handed out again.
    pub(crate) fn retired(&mut self, id: SegmentId, is_ok: bool) {
        assert!(self.retiring == Some(id), "{id} was not to be retired");
        self.retiring = None;
        match (is_ok, id.kind) {
            (false, _) => {}
            (true, Kind::Names) => drop(self.names.pop_front()),
            (true, Kind::Points) => {
                self.points.pop_front();
                self.first += 1;
            }
        }
    }

    fn count(&self) -> u32 {
        u32::try_from(self.points.len()).expect("segments are counted in 32 bits")
    }
}
