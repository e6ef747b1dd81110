//! Recovery: from the bytes of segments back to names and points.
//!
//! Any bytes are taken: what is not a whole frame of its own place is skipped and told about. The
//! order is ascending runs, and within the log of one shard ascending segments and frames, so that
//! of equal timestamps the one received last comes last. Two shards of one run never have a metric
//! in common.
//!
//! There are two passes over all logs. The first gathers what is confirmed ([`Replay::survey`]),
//! the second hands out the points that are not. In each pass, for each log: all segments of names;
//! then segments of points from the last one back until one tells what was retired; then all
//! segments of points in ascending order. Only one segment's bytes are needed at a time, and a step
//! is one frame, so the taker of the points can make it wait.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

use crate::metric::point::Arrival;
use crate::wal::BLOCK_BYTES;
use crate::wal::confirmed::Confirmed;
use crate::wal::frame::FrameHeader;
use crate::wal::position::Position;
use crate::wal::record::{Previous, Record, take_name, take_record};
use crate::wal::segment::{FileName, HeaderError, Kind, SegmentHeader, SegmentId};

/// Most problems kept with their place; more are only counted.
const PROBLEMS_MAX: usize = 1_000;

/// Most lost points that are counted for one log: more than any disk holds. Their numbers come from
/// the file and may be any, and the counts of all logs are added up.
const LOST_MAX: u64 = 1 << 48;

/// The segments of one shard's log in one run, each kind in ascending order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogFiles {
    /// The run.
    pub run: u64,
    /// The shard.
    pub shard: u16,
    /// Segments of names.
    pub names: Vec<SegmentId>,
    /// Segments of points.
    pub points: Vec<SegmentId>,
}

/// Sorts the files of a log directory into logs, in the order in which they must be replayed.
/// Segments of runs that are settled are in none: they can be deleted.
pub fn logs(files: &[FileName]) -> Vec<LogFiles> {
    let settled = files.iter().filter(|file| matches!(file, FileName::Settled { .. }));
    let first_run = settled.map(FileName::run).max().unwrap_or(0);
    let mut logs: BTreeMap<(u64, u16), LogFiles> = BTreeMap::new();
    for &file in files {
        let FileName::Segment(id) = file else { continue };
        let SegmentId { run, shard, kind, .. } = id;
        if run < first_run {
            continue;
        }
        let empty = || LogFiles { run, shard, names: Vec::new(), points: Vec::new() };
        let log = logs.entry((run, shard)).or_insert_with(empty);
        match kind {
            Kind::Names => log.names.push(id),
            Kind::Points => log.points.push(id),
        }
    }
    for log in logs.values_mut() {
        log.names.sort_unstable();
        log.points.sort_unstable();
    }
    logs.into_values().collect()
}

/// What is wrong with a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// The file is empty.
    Empty,
    /// The file is shorter than it was made.
    Short {
        /// Its length.
        bytes: u64,
    },
    /// A segment that a later one says was before it is not there.
    Missing,
    /// The header block is damaged; the frames speak for themselves.
    Header,
    /// A format of another version. Nothing of it was read, and it must not be deleted.
    Version(u16),
    /// The header is whole and of this segment, which the file's name denies.
    Foreign(SegmentId),
    /// What lies between two good frames.
    Range {
        /// First damaged byte.
        from: u64,
        /// First good byte after it.
        to: u64,
    },
    /// A frame at the end that is not whole: what was being written when the end came.
    Torn {
        /// Its first byte.
        from: u64,
        /// Bytes cut off.
        bytes: u64,
    },
    /// A frame whose checksum holds and whose records do not.
    Malformed {
        /// Its first byte.
        from: u64,
    },
    /// A part of the file cannot be read, now or for good; zeros stand for it.
    Unreadable {
        /// How much.
        bytes: u64,
    },
    /// Two names for one number; its points are not resolved.
    Ambiguous {
        /// The number.
        number: u32,
    },
}

impl Damage {
    /// Whether the file may hold more than was read. One that is not whole at its end is what a
    /// crash leaves.
    fn is_to_be_kept(self) -> bool {
        !matches!(self, Damage::Empty | Damage::Missing | Damage::Torn { .. })
    }
}

/// A segment with something wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Problem {
    /// The segment; its file bears this name.
    pub segment: SegmentId,
    /// What is wrong.
    pub damage: Damage,
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}: ", self.segment)?;
        match self.damage {
            Damage::Empty => write!(formatter, "empty"),
            Damage::Short { bytes } => write!(formatter, "cut to {bytes} bytes"),
            Damage::Missing => write!(formatter, "missing"),
            Damage::Header => write!(formatter, "header damaged"),
            Damage::Version(version) => write!(formatter, "unknown version {version}"),
            Damage::Foreign(id) => write!(formatter, "is {id} by its header"),
            Damage::Range { from, to } => write!(formatter, "bytes {from} to {to} damaged"),
            Damage::Torn { from, bytes } => {
                write!(formatter, "torn at {from}, {bytes} bytes cut off")
            }
            Damage::Malformed { from } => write!(formatter, "frame at {from} malformed"),
            Damage::Unreadable { bytes } => write!(formatter, "{bytes} bytes cannot be read"),
            Damage::Ambiguous { number } => write!(formatter, "two names for number {number}"),
        }
    }
}

/// What a replay has found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Points handed out.
    pub points: u64,
    /// Points not handed out, because they are in their file or in the log again.
    pub confirmed_points: u64,
    /// The clock's time when the last point of all arrived, in seconds since the epoch.
    pub last_arrived_s: u32,
    /// Points whose number has no name; not handed out.
    pub unresolved_points: u64,
    /// Points known to be lost, by the gaps in their numbering.
    pub lost_points: u64,
    /// Points met a second time because their commit was written again.
    pub repeated_points: u64,
    /// Names found.
    pub names: u64,
    /// Frames of points that were good.
    pub frames: u64,
    /// Segments of points left out because they had been retired.
    pub retired_segments: u64,
    /// Segments that were prepared and never written to.
    pub unbegun_segments: u64,
    /// Bytes cut off at the ends of segments.
    pub cut_bytes: u64,
    /// The first problems.
    pub problems: Vec<Problem>,
    /// All problems.
    pub problem_count: u64,
    /// Segments whose files may hold more than was read of them.
    pub damaged: BTreeSet<SegmentId>,
}

impl Report {
    /// Counts lost points, up to [`LOST_MAX`].
    fn lose(&mut self, count: u64) {
        self.lost_points = self.lost_points.saturating_add(count).min(LOST_MAX);
    }

    fn add(&mut self, segment: SegmentId, damage: Damage) {
        self.problem_count += 1;
        if let Damage::Torn { bytes, .. } = damage {
            self.cut_bytes += bytes;
        }
        if damage.is_to_be_kept() {
            self.damaged.insert(segment);
        }
        if self.problems.len() < PROBLEMS_MAX {
            self.problems.push(Problem { segment, damage });
        }
    }
}

/// Names by dictionary and number.
#[derive(Debug, Default)]
struct Dictionary {
    names: HashMap<u64, Known, ahash::RandomState>,
    bytes: Vec<u8>,
}

/// A name of a dictionary.
#[derive(Debug)]
struct Known {
    start: usize,
    length: usize,
    /// Points of this log up to this record are confirmed.
    confirmed: u64,
}

impl Dictionary {
    fn key(epoch: u32, number: u32) -> u64 {
        u64::from(epoch) << 32 | u64::from(number)
    }

    /// Whether the name is new; `None`: the number has another name, and now has none.
    fn add(&mut self, epoch: u32, number: u32, name: &[u8]) -> Option<bool> {
        let start = self.bytes.len();
        let new = || Known { start, length: name.len(), confirmed: 0 };
        let known = self.names.entry(Self::key(epoch, number)).or_insert_with(new);
        if known.start == start {
            self.bytes.extend_from_slice(name);
            return Some(true);
        }
        if self.bytes[known.start..][..known.length] == *name {
            return Some(false);
        }
        known.length = 0;
        None
    }

    fn name(&self, key: u64) -> Option<&[u8]> {
        let known = self.names.get(&key).filter(|known| known.length > 0)?;
        Some(&self.bytes[known.start..][..known.length])
    }

    fn confirm(&self, key: u64, through: Position, confirmed: &mut Confirmed) {
        if let Some(name) = self.name(key) {
            confirmed.raise(name, through);
        }
    }

    /// The name of a number, and the record up to which its points are confirmed.
    fn get(&self, epoch: u32, number: u32) -> Option<(&[u8], u64)> {
        let known = self.names.get(&Self::key(epoch, number))?;
        (known.length > 0).then(|| (&self.bytes[known.start..][..known.length], known.confirmed))
    }
}

/// Where in a segment of points a replay is.
#[derive(Debug)]
pub struct Cursor {
    id: SegmentId,
    at: usize,
}

/// The replay of one log.
#[derive(Debug)]
pub struct Replay {
    files: LogFiles,
    dictionary: Dictionary,
    oldest_live: u32,
    /// Number of the record that comes next; 0 while unknown.
    next_record: u64,
    /// Names that are said to have been there, with their dictionary.
    missing_names: Vec<(SegmentId, u32)>,
    oldest_epoch: u32,
    /// Points before this record are logged again and must not be handed out.
    void_until: u64,
    /// The last sync that succeeded, as far as frames tell.
    synced_checkpoint: u32,
    survey: Surveyed,
    report: Report,
}

/// What a survey of one log remembers on its way.
#[derive(Debug, Default)]
struct Surveyed {
    is_same_boot: bool,
    /// What notes behind the last checkpoint say, by the key of the metric.
    open_notes: HashMap<u64, Position, ahash::RandomState>,
    /// Points that were logged again, by the key of their metric: the last time of each.
    rewrites: HashMap<u64, Rewrite, ahash::RandomState>,
    /// The times before.
    earlier_rewrites: Vec<(u64, Rewrite)>,
}

/// Points that were logged again together.
#[derive(Debug)]
struct Rewrite {
    /// The record before the first of them.
    record: u64,
    segment: SegmentId,
    /// The note behind them was found.
    has_note: bool,
}

impl Replay {
    /// A replay of these files.
    pub fn new(files: LogFiles) -> Replay {
        Replay {
            files,
            dictionary: Dictionary::default(),
            oldest_live: 1,
            next_record: 0,
            missing_names: Vec::new(),
            oldest_epoch: u32::MAX,
            void_until: 0,
            synced_checkpoint: 0,
            survey: Surveyed::default(),
            report: Report::default(),
        }
    }

    /// First pass: takes a segment of points for what it says to be confirmed.
    pub fn survey(&mut self, id: SegmentId, bytes: &[u8], confirmed: &mut Confirmed) {
        assert!(id.kind == Kind::Points, "{id} holds no points");
        if id.number < self.oldest_live {
            return;
        }
        if let Ok(header) = SegmentHeader::decode(bytes, id) {
            self.survey.is_same_boot |= confirmed.is_same_boot(header.boot_id);
        }
        let mut at = BLOCK_BYTES;
        while let Some((from, header, payload)) = find_good(id, at, bytes) {
            self.survey_frame(&header, payload, confirmed);
            at = from + header.frame_bytes();
        }
    }

    fn survey_frame(&mut self, header: &FrameHeader, payload: &[u8], confirmed: &mut Confirmed) {
        let (mut rest, mut previous) = (payload, Previous::default());
        let mut last = header.first_record.saturating_sub(1);
        let SegmentId { run, shard, .. } = header.id;
        while let Ok(Some(record)) = take_record(&mut rest, &mut previous) {
            let (number, through) = match record {
                Record::Point(..) => {
                    last = last.saturating_add(1);
                    continue;
                }
                Record::Rewrite(number, _) => {
                    let key = Dictionary::key(header.epoch, number);
                    let rewrite = Rewrite { record: last, segment: header.id, has_note: false };
                    let earlier = self.survey.rewrites.insert(key, rewrite);
                    self.survey.earlier_rewrites.extend(earlier.map(|earlier| (key, earlier)));
                    continue;
                }
                Record::Checkpoint(sequence) => {
                    if sequence <= self.synced_checkpoint {
                        for (key, through) in self.survey.open_notes.drain() {
                            self.dictionary.confirm(key, through, confirmed);
                        }
                    } else {
                        confirmed.set_open_checkpoint();
                    }
                    continue;
                }
                Record::Confirm(number, back) => {
                    (number, Position { run, shard, record: last.saturating_sub(u64::from(back)) })
                }
                Record::ConfirmFar(number, through) => (number, through),
            };
            let key = Dictionary::key(header.epoch, number);
            if let Some(rewrite) = self.survey.rewrites.get_mut(&key) {
                rewrite.has_note |= rewrite.record == through.record;
            }
            let known = self.survey.open_notes.entry(key).or_default();
            *known = through.max(*known);
        }
    }

    /// Ends the first pass over this log. What it says to be in files and does not know to be
    /// synced counts for as long as the kernel runs, if no sync has failed.
    pub fn end_survey(mut self, confirmed: &mut Confirmed) {
        let Surveyed { is_same_boot, open_notes, rewrites, earlier_rewrites } = self.survey;
        for (key, through) in open_notes.into_iter().filter(|_| is_same_boot) {
            if let Some(name) = self.dictionary.name(key) {
                confirmed.add_open(name, through);
            }
        }
        let LogFiles { run, shard, .. } = self.files;
        let last = self.files.points.pop();
        for (key, rewrite) in rewrites.into_iter().chain(earlier_rewrites) {
            let Rewrite { record, segment, has_note } = rewrite;
            let Some(name) = self.dictionary.name(key) else { continue };
            // A note that is missing in the middle of the log was damaged, and was there.
            let may_be_void = has_note || Some(segment) == last;
            confirmed.add_rewrite(name, Position { run, shard, record }, may_be_void);
        }
    }

    /// Second pass, after all names: takes what is confirmed.
    pub fn resolve(&mut self, confirmed: &Confirmed) {
        let own = (self.files.run, self.files.shard);
        let Dictionary { names, bytes } = &mut self.dictionary;
        for known in names.values_mut() {
            let name = &bytes[known.start..][..known.length];
            let Some(through) = confirmed.through(name) else { continue };
            known.confirmed = match (through.run, through.shard).cmp(&own) {
                Ordering::Less => 0,
                Ordering::Equal => through.record,
                Ordering::Greater => u64::MAX,
            };
        }
    }

    /// Takes a segment of names.
    pub fn add_names(&mut self, id: SegmentId, bytes: &[u8]) {
        assert!(id.kind == Kind::Names, "{id} holds no names");
        let Some(header) = self.open(id, bytes) else { return };
        if let Some(SegmentHeader { previous, epoch, .. }) = header {
            let previous = SegmentId { number: previous, ..id };
            if previous.number > 0 && self.files.names.binary_search(&previous).is_err() {
                self.missing_names.push((previous, epoch));
            }
        }
        let mut at = BLOCK_BYTES;
        while let Some((header, payload)) = self.next_good(id, &mut at, bytes) {
            let mut rest = payload;
            loop {
                match take_name(&mut rest) {
                    Ok(None) => break,
                    Ok(Some((number, name))) => {
                        match self.dictionary.add(header.epoch, number, name) {
                            Some(is_new) => self.report.names += u64::from(is_new),
                            None => self.report.add(id, Damage::Ambiguous { number }),
                        }
                    }
                    Err(_) => {
                        let from = header.block as usize * BLOCK_BYTES;
                        self.report.add(id, Damage::Malformed { from: from as u64 });
                        break;
                    }
                }
            }
        }
    }

    /// So much of a segment could not be read, and came as zeros. To be called before it is begun,
    /// and after all that tell what was retired.
    pub fn add_unreadable(&mut self, id: SegmentId, bytes: u64) {
        if id.kind == Kind::Names || id.number >= self.oldest_live {
            self.report.add(id, Damage::Unreadable { bytes });
        }
    }

    /// Looks for what was retired and synced in a segment of points; true when it tells.
    pub fn look(&mut self, id: SegmentId, bytes: &[u8]) -> bool {
        let mut at = BLOCK_BYTES;
        let mut is_told = false;
        while let Some((from, header, _)) = find_good(id, at, bytes) {
            is_told = true;
            self.oldest_live = self.oldest_live.max(header.oldest_live);
            self.synced_checkpoint = self.synced_checkpoint.max(header.synced_checkpoint);
            at = from + header.frame_bytes();
        }
        is_told
    }

    /// Begins with a segment of points.
    pub fn begin(&mut self, id: SegmentId, bytes: &[u8]) -> Cursor {
        assert!(id.kind == Kind::Points, "{id} holds no points");
        if id.number < self.oldest_live {
            self.report.retired_segments += 1;
            return Cursor { id, at: bytes.len() };
        }
        let Some(header) = self.open(id, bytes) else { return Cursor { id, at: bytes.len() } };
        if let Some(SegmentHeader { previous, .. }) = header {
            let previous = SegmentId { number: previous, ..id };
            if previous.number >= self.oldest_live
                && self.files.points.binary_search(&previous).is_err()
            {
                self.report.add(previous, Damage::Missing);
            }
        }
        Cursor { id, at: BLOCK_BYTES }
    }

    /// Hands out the points of the next good frame of the segment that are not confirmed, with the
    /// number of their record; false at its end.
    pub fn next_frame(
        &mut self,
        cursor: &mut Cursor,
        bytes: &[u8],
        confirmed: &Confirmed,
        mut sink: impl FnMut(&[u8], Arrival, u64),
    ) -> bool {
        if cursor.at >= bytes.len() {
            return false;
        }
        let next = self.next_good(cursor.id, &mut cursor.at, bytes);
        let Some((header, payload)) = next else {
            cursor.at = bytes.len();
            return false;
        };
        self.report.frames += 1;
        if self.number(&header) {
            self.hand_out(&header, payload, confirmed, &mut sink);
        }
        true
    }

    /// Compares the numbers of a frame's records with those expected; false: it was there before.
    fn number(&mut self, header: &FrameHeader) -> bool {
        let count = u64::from(header.record_count);
        if count == 0 {
            return true;
        }
        let end = header.first_record.saturating_add(count);
        if self.next_record == 0 && self.oldest_live == 1 {
            self.next_record = 1;
        }
        if self.next_record > 0 {
            if end <= self.next_record {
                self.report.repeated_points += count;
                return false;
            }
            self.report.lose(header.first_record.saturating_sub(self.next_record));
        }
        self.next_record = end;
        self.oldest_epoch = self.oldest_epoch.min(header.epoch);
        true
    }

    fn hand_out(
        &mut self,
        header: &FrameHeader,
        payload: &[u8],
        confirmed: &Confirmed,
        sink: &mut impl FnMut(&[u8], Arrival, u64),
    ) {
        let SegmentId { run, shard, .. } = header.id;
        let (mut rest, mut previous, mut count) = (payload, Previous::default(), 0);
        let is_whole = loop {
            let (number, point) = match take_record(&mut rest, &mut previous) {
                Ok(None) => break true,
                Err(_) => break false,
                Ok(Some(Record::Point(number, point))) => (number, point),
                Ok(Some(Record::Rewrite(_, copies))) => {
                    let next = header.first_record.saturating_add(u64::from(count));
                    let record = next.saturating_sub(1);
                    if confirmed.is_void(Position { run, shard, record }) {
                        self.void_until = next.saturating_add(u64::from(copies));
                    }
                    continue;
                }
                Ok(Some(_)) => continue,
            };
            let record = header.first_record.saturating_add(u64::from(count));
            if count == header.record_count {
                break false;
            }
            count += 1;
            self.report.last_arrived_s = self.report.last_arrived_s.max(point.arrived_s);
            match self.dictionary.get(header.epoch, number) {
                None => self.report.unresolved_points += 1,
                Some((_, through)) if record <= through || record < self.void_until => {
                    self.report.confirmed_points += 1;
                }
                Some((name, _)) => {
                    self.report.points += 1;
                    sink(name, point, record);
                }
            }
        };
        if count < header.record_count || !is_whole {
            self.report.lose(u64::from(header.record_count - count));
            let from = u64::from(header.block) * BLOCK_BYTES as u64;
            self.report.add(header.id, Damage::Malformed { from });
        }
    }

    /// What was found.
    pub fn finish(mut self) -> Report {
        for (id, epoch) in std::mem::take(&mut self.missing_names) {
            // Names of dictionaries that no point needs may be half retired.
            if epoch >= self.oldest_epoch {
                self.report.add(id, Damage::Missing);
            }
        }
        self.report
    }

    /// Judges the header. `None`: there is nothing to read in it; `Some(None)`: the frames may be
    /// good all the same.
    fn open(&mut self, id: SegmentId, bytes: &[u8]) -> Option<Option<SegmentHeader>> {
        if bytes.is_empty() {
            self.report.add(id, Damage::Empty);
            return None;
        }
        match SegmentHeader::decode(bytes, id) {
            Ok(header) => {
                if (bytes.len() as u64) < header.segment_bytes {
                    self.report.add(id, Damage::Short { bytes: bytes.len() as u64 });
                }
                Some(Some(header))
            }
            Err(HeaderError::Damaged) => {
                self.report.add(id, Damage::Header);
                Some(None)
            }
            // The header may have been lost with good frames behind it.
            Err(HeaderError::Unbegun) if find_good(id, BLOCK_BYTES, bytes).is_some() => {
                self.report.add(id, Damage::Header);
                Some(None)
            }
            Err(HeaderError::Unbegun) => {
                self.report.unbegun_segments += 1;
                None
            }
            Err(HeaderError::Version(version)) => {
                self.report.add(id, Damage::Version(version));
                None
            }
            Err(HeaderError::Foreign(other)) => {
                self.report.add(id, Damage::Foreign(other));
                None
            }
        }
    }

    /// The next good frame from `at` on, which is moved behind it. What is skipped is told about.
    fn next_good<'b>(
        &mut self,
        id: SegmentId,
        at: &mut usize,
        bytes: &'b [u8],
    ) -> Option<(FrameHeader, &'b [u8])> {
        let Some((from, header, payload)) = find_good(id, *at, bytes) else {
            while let Some(length) = torn_bytes(id, *at, bytes) {
                let (from, bytes) = (*at as u64, length as u64);
                self.report.add(id, Damage::Torn { from, bytes });
                *at += length;
            }
            return None;
        };
        if from > *at {
            self.report.add(id, Damage::Range { from: *at as u64, to: from as u64 });
        }
        *at = from + header.frame_bytes();
        Some((header, payload))
    }
}

/// The first good frame at or after `at`: where it begins, its header and its records.
fn find_good(id: SegmentId, at: usize, bytes: &[u8]) -> Option<(usize, FrameHeader, &[u8])> {
    let starts = (at..bytes.len()).step_by(BLOCK_BYTES);
    starts.into_iter().find_map(|from| {
        let header = FrameHeader::decode(&bytes[from..], id, block_at(from)?)?;
        let payload = header.payload(&bytes[from..])?;
        Some((from, header, payload))
    })
}

/// The length of a frame of this segment that is not whole, if there is one at `at`.
fn torn_bytes(id: SegmentId, at: usize, bytes: &[u8]) -> Option<usize> {
    let rest = bytes.get(at..).filter(|rest| !rest.is_empty())?;
    let length = FrameHeader::torn_bytes(rest, id, block_at(at)?)?;
    Some(length.min(rest.len()))
}

fn block_at(at: usize) -> Option<u32> {
    u32::try_from(at / BLOCK_BYTES).ok()
}
