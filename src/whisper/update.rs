//! Points into one file: a job that asks for reads, then for writes, and does neither itself.
//!
//! ```text
//! begin_* --> [Read bases] --> [Read slots] --> Write --> Done
//! ```
//!
//! The first read happens only when a base is not known, the second only when a coarser archive
//! needs slots that this job does not itself overwrite. One point in a `10s:6h,60s:7d,10m:1y` file
//! costs two reads of 6 and 10 slots and three writes of one slot; sixty points in a row cost the
//! same number.
//!
//! Points come in one of two ways:
//! - [`Update::begin_arrivals`], the node's: the file is left as if each point had been written
//!   alone, in the second of its arrival. The points are cut into runs that go to one archive and
//!   follow each other in arrival; each run is written, and then propagated, before the next. As
//!   the points do not lap a ring (see `reach`), within a run only the last point of each slot
//!   counts, and a coarser point is made once, after the last of its finer ones.
//! - [`Update::begin_many`], for tools: the file is left as Python's `update_many` leaves it, which
//!   writes one archive, propagates slot by slot through all coarser ones, and only then turns to
//!   the older points of the next archive.
//!
//! Both work on an [`Image`] of the slots concerned. Known departures from Python, none of which a
//! receiver's points can reach:
//!
//! - a run of future points longer than its ring leaves the ring's last `slot_count` intervals,
//!   where Python writes over the next archive;
//! - an archive whose slot 0 holds interval 0 counts as empty throughout: slots behind it are not
//!   read, and a second write in the same job does not take slot 0 again. Python differs only for
//!   points in the first step after the epoch, or when slot 0 alone was wiped.

use std::fmt;
use std::ops::Range;

use crate::limits::ARCHIVES_MAX;
use crate::metric::point::{Arrival, Point};

use super::archive::{Archive, SLOT_BYTES, decode_known, encode_slot, index};
use super::header::Header;
use super::image::{Image, Transfer};
use super::pyset::PySet;
use super::rollup::Rollup;

/// The interval in slot 0 of each archive, as far as remembered; 0 means the archive is empty.
/// An archive whose base is not known is read first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bases([Option<u32>; ARCHIVES_MAX]);

impl Bases {
    /// Nothing is known, as after opening a file.
    pub const UNKNOWN: Bases = Bases([None; ARCHIVES_MAX]);

    /// Every archive is empty, as after creating a file.
    pub const EMPTY: Bases = Bases([Some(0); ARCHIVES_MAX]);

    /// The base of the archive at this position in its header, in seconds.
    pub fn get(&self, archive_index: usize) -> Option<u32> {
        self.0[archive_index]
    }

    /// Remembers, or with `None` forgets, the base of an archive.
    pub fn set(&mut self, archive_index: usize, base_s: Option<u32>) {
        self.0[archive_index] = base_s;
    }
}

/// What the caller does before it calls [`Update::step`] again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Fill the transfers of [`Update::reads`] from the file, each completely.
    Read,
    /// Write the transfers of [`Update::writes`] to the file.
    Write,
    /// Nothing: [`Update::bases`] and [`Update::outcome`] are final.
    Done,
}

/// What one job did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcome {
    /// Points that some archive covers, those replaced by another of the same interval included.
    pub points_used: usize,
    /// Points older than every archive, dropped.
    pub points_too_old: usize,
    /// Reads asked for.
    pub read_count: usize,
    /// Writes asked for.
    pub write_count: usize,
}

/// A single point lies in the future or is as old as the file's retention, or older.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotCovered;

impl fmt::Display for NotCovered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("timestamp not covered by any archive")
    }
}

impl std::error::Error for NotCovered {}

/// One job after another on any files. Its buffers are kept, so that a job no greater than earlier
/// ones allocates nothing; they are bounded by the points of the greatest batch, and the image of
/// the file's slots by 1 MiB between jobs and by the file's size within one.
#[derive(Debug)]
pub struct Update {
    header: Header,
    bases: Bases,
    samples: Vec<Sample>,
    placed: Vec<Placed>,
    cells: Vec<Cell>,
    runs: Vec<Run>,
    /// The finest archive with points of its own.
    finest: usize,
    /// Points count in the order of their arrival, not as a batch.
    is_by_arrival: bool,
    rings: [Ring; ARCHIVES_MAX],
    keys: Vec<u32>,
    set: PySet,
    image: Image,
    phase: Phase,
    outcome: Outcome,
}

/// A point of the batch; of equal timestamps the one with the greatest rank counts.
#[derive(Debug)]
struct Sample {
    timestamp_s: u32,
    rank: u32,
    value: f64,
}

impl Sample {
    fn pair(&self) -> (u32, f64) {
        (self.timestamp_s, self.value)
    }
}

/// A point aligned to its archive.
#[derive(Debug)]
struct Cell {
    interval_s: u32,
    value: f64,
}

/// A point with the archive that its age at its arrival gives it to.
#[derive(Debug)]
struct Placed {
    archive: usize,
    timestamp_s: u32,
    value: f64,
}

/// Cells that go straight into one archive: `start` to `end`, exclusive, oldest first.
#[derive(Debug, Clone, Copy)]
struct Run {
    archive: usize,
    start: usize,
    end: usize,
}

impl Run {
    fn range(self) -> Range<usize> {
        self.start..self.end
    }
}

/// How an archive's intervals map to slots of the image: slot 0 of the image is `origin_s`'s.
#[derive(Debug, Clone, Copy, Default)]
struct Ring {
    origin_s: u32,
    /// Slots to turn the image by to get the file's; `None` while the archive is empty.
    turn: Option<u32>,
}

/// How far a job is: what its last step asked for, or would have if anything was needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begun,
    Bases,
    Slots,
    Writes,
    Done,
}

impl Default for Update {
    fn default() -> Update {
        Update::new()
    }
}

impl Update {
    /// A job without a file: its first step is `Done`.
    pub fn new() -> Update {
        Update {
            header: Header::BLANK,
            bases: Bases::UNKNOWN,
            samples: Vec::new(),
            placed: Vec::new(),
            cells: Vec::new(),
            runs: Vec::new(),
            finest: ARCHIVES_MAX,
            is_by_arrival: false,
            rings: [Ring::default(); ARCHIVES_MAX],
            keys: Vec::new(),
            set: PySet::default(),
            image: Image::default(),
            phase: Phase::Done,
            outcome: Outcome::default(),
        }
    }

    /// Begins points for one file, in the order of their arrival, forgetting any former job. They
    /// must not lap a ring, see [`super::unlapped`].
    ///
    /// Each goes to the finest archive that reaches back to it from its arrival; points older than
    /// all are dropped, those ahead of the clock go to the finest. In one interval the last to
    /// arrive counts.
    pub fn begin_arrivals(&mut self, header: &Header, bases: &Bases, points: &[Arrival]) {
        self.reset(header, bases);
        self.is_by_arrival = true;
        if self.is_plain(points) {
            let archive = &self.header.archives()[0];
            let points = points.iter().map(|point| (point.timestamp_s, point.value));
            let (start, end) = align(points, archive, &mut self.cells);
            self.add_run(0, start, end);
        } else {
            self.place(points);
        }
        self.outcome.points_used = points.len() - self.outcome.points_too_old;
    }

    /// Whether points make one run whatever the file has, as most updates do: all are young enough
    /// for the finest archive, none is older than the one before it, and no two of them meet in a
    /// slot of the coarsest archive.
    fn is_plain(&self, points: &[Arrival]) -> bool {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return false };
        let (mut before_s, mut age_s, mut is_ascending) = (0, 0, true);
        for point in points {
            is_ascending &= before_s <= point.timestamp_s;
            before_s = point.timestamp_s;
            age_s = age_s.max(point.age_s());
        }
        is_ascending
            && self.header.archive_of_age(age_s) == Some(0)
            && !self.may_meet(first.timestamp_s, last.timestamp_s)
    }

    /// Whether points between these times may meet in a slot of the coarsest archive.
    fn may_meet(&self, least_s: u32, most_s: u32) -> bool {
        let spread_s = u64::from(most_s - least_s);
        let coarsest = self.header.archives().last();
        coarsest.is_none_or(|archive| spread_s + u64::from(archive.step_s) >= archive.span_s())
    }

    /// Gives each point its archive.
    fn place(&mut self, points: &[Arrival]) {
        for point in points {
            let Some(archive) = self.header.archive_of_age(point.age_s()) else {
                self.outcome.points_too_old += 1;
                continue;
            };
            self.finest = self.finest.min(archive);
            let Arrival { timestamp_s, value, .. } = *point;
            self.placed.push(Placed { archive, timestamp_s, value });
        }
    }

    /// Begins a batch for one file, forgetting any former job. Points may come in any order.
    ///
    /// Each point goes to the finest archive that reaches back to it; points older than all are
    /// dropped, future ones go to the finest. In one interval the greatest timestamp counts, and
    /// of equal timestamps the first in `points`.
    pub fn begin_many(&mut self, header: &Header, bases: &Bases, points: &[Point], now_s: u32) {
        self.reset(header, bases);
        self.sort(points);
        self.assign(now_s);
    }

    /// Begins a single point for one file, forgetting any former job. Unlike a batch it must not
    /// lie in the future and must be younger than the retention in the file's header; after the
    /// error the next step is `Done`.
    pub fn begin_one(
        &mut self,
        header: &Header,
        bases: &Bases,
        point: Point,
        now_s: u32,
    ) -> Result<(), NotCovered> {
        self.reset(header, bases);
        let age_s = now_s.checked_sub(point.timestamp_s).ok_or(NotCovered)?;
        let reaches = |archive: &Archive| archive.span_s() >= u64::from(age_s);
        if age_s >= header.retention_s_max || !header.archives().iter().any(reaches) {
            return Err(NotCovered);
        }
        self.sort(&[point]);
        self.assign(now_s);
        Ok(())
    }

    /// Begins points that all go straight into one archive, whatever their age, forgetting any
    /// former job. From there they reach the coarser archives as those of a batch do.
    pub fn begin_archive(
        &mut self,
        header: &Header,
        bases: &Bases,
        archive_index: usize,
        points: &[Point],
    ) {
        self.reset(header, bases);
        self.sort(points);
        let archive = &self.header.archives()[archive_index];
        let samples = self.samples.iter().map(Sample::pair);
        let (start, end) = align(samples, archive, &mut self.cells);
        self.add_run(archive_index, start, end);
        self.outcome.points_used = self.samples.len();
    }

    /// Goes on, after what the former step asked for is done. A job may be left at any step.
    pub fn step(&mut self) -> Step {
        if self.phase == Phase::Begun {
            self.phase = Phase::Bases;
            self.ask_bases();
            if self.count_reads() > 0 {
                return Step::Read;
            }
        }
        if self.phase == Phase::Bases {
            self.phase = Phase::Slots;
            self.take_bases();
            self.cut_runs();
            self.plan();
            if self.count_reads() > 0 {
                return Step::Read;
            }
        }
        if self.phase == Phase::Slots {
            self.phase = Phase::Writes;
            self.compute();
            self.outcome.write_count = self.writes().0.len();
            if self.outcome.write_count > 0 {
                return Step::Write;
            }
        }
        self.phase = Phase::Done;
        Step::Done
    }

    /// The transfers to fill after `Step::Read`, and the arena they lie in.
    pub fn reads(&mut self) -> (&[Transfer], &mut [u8]) {
        self.image.transfers_mut()
    }

    /// The transfers to write after `Step::Write`, and the arena they lie in: archive by archive,
    /// in slot order, no two adjacent within an archive's turn of the ring.
    pub fn writes(&self) -> (&[Transfer], &[u8]) {
        self.image.transfers()
    }

    /// The bases to remember. True of the file once the writes of `Step::Write` are in it.
    pub fn bases(&self) -> &Bases {
        &self.bases
    }

    /// What was done so far.
    pub fn outcome(&self) -> Outcome {
        self.outcome
    }

    fn reset(&mut self, header: &Header, bases: &Bases) {
        self.header = header.clone();
        self.bases = *bases;
        self.samples.clear();
        self.placed.clear();
        self.cells.clear();
        self.runs.clear();
        self.finest = ARCHIVES_MAX;
        self.is_by_arrival = false;
        self.rings = [Ring::default(); ARCHIVES_MAX];
        self.image.clear();
        self.phase = Phase::Begun;
        self.outcome = Outcome::default();
    }

    /// Oldest first, and of equal timestamps the first of the input last, where it counts.
    fn sort(&mut self, points: &[Point]) {
        let ranks = (0..=u32::MAX).rev();
        self.samples.extend(points.iter().zip(ranks).map(|(point, rank)| Sample {
            timestamp_s: point.timestamp_s,
            rank,
            value: point.value,
        }));
        assert!(self.samples.len() == points.len(), "{} points in one batch", points.len());
        if !points.is_sorted_by(|a, b| a.timestamp_s < b.timestamp_s) {
            self.samples.sort_unstable_by_key(|sample| (sample.timestamp_s, sample.rank));
        }
    }

    /// Gives each archive its samples, aligned, one cell an interval.
    fn assign(&mut self, now_s: u32) {
        let mut sample_end = self.samples.len();
        for at in 0..self.header.archives().len() {
            let archive = &self.header.archives()[at];
            // A future point has no age and is the finest archive's.
            let too_old = |sample: &Sample| {
                u64::from(now_s.saturating_sub(sample.timestamp_s)) > archive.span_s()
            };
            let first = self.samples[..sample_end].partition_point(too_old);
            let samples = self.samples[first..sample_end].iter().map(Sample::pair);
            let (start, end) = align(samples, archive, &mut self.cells);
            self.add_run(at, start, end);
            sample_end = first;
        }
        self.outcome.points_too_old = sample_end;
        self.outcome.points_used = self.samples.len() - sample_end;
    }

    fn add_run(&mut self, archive: usize, start: usize, end: usize) {
        if start < end {
            self.finest = self.finest.min(archive);
            self.runs.push(Run { archive, start, end });
        }
    }

    /// Cuts points in the order of their arrival into runs of one archive each. While an archive is
    /// empty a run ascends: the first point that comes to an archive becomes its slot 0. No two of
    /// a run meet in a slot of the coarsest archive, which may be lapped, as nothing is made of it.
    fn cut_runs(&mut self) {
        let must_ascend = self.touched().any(|at| self.bases.get(at) == Some(0));
        let Some(&coarsest) = self.header.archives().last() else { return };
        let times = self.placed.iter().map(|point| point.timestamp_s);
        let Some((least_s, most_s)) = times.clone().min().zip(times.max()) else { return };
        let may_meet = self.may_meet(least_s, most_s);
        let mut from = 0;
        while let Some(Placed { archive, .. }) = self.placed.get(from) {
            let (at, start) = (*archive, self.cells.len());
            let archive = &self.header.archives()[at];
            let mut is_ascending = true;
            let (mut least_s, mut most_s) = (u32::MAX, 0);
            for point in self.placed[from..].iter().take_while(|point| point.archive == at) {
                if may_meet {
                    let coarse_s = coarsest.interval(point.timestamp_s);
                    (least_s, most_s) = (least_s.min(coarse_s), most_s.max(coarse_s));
                    if u64::from(most_s - least_s) >= coarsest.span_s() {
                        break;
                    }
                }
                let interval_s = archive.interval(point.timestamp_s);
                let cell = Cell { interval_s, value: point.value };
                match self.cells[start..].last_mut() {
                    Some(last) if last.interval_s == interval_s => *last = cell,
                    Some(last) if last.interval_s > interval_s && must_ascend => break,
                    last => {
                        is_ascending &= last.is_none_or(|last| last.interval_s < interval_s);
                        self.cells.push(cell);
                    }
                }
                from += 1;
            }
            if !is_ascending {
                sort_last_wins(&mut self.cells, start);
            }
            self.add_run(at, start, self.cells.len());
        }
    }

    /// The archives this job may touch: from the finest with points of its own to the coarsest.
    fn touched(&self) -> Range<usize> {
        let archive_count = self.header.archives().len();
        self.finest.min(archive_count)..archive_count
    }

    fn count_reads(&mut self) -> usize {
        let count = self.image.transfers().0.len();
        self.outcome.read_count += count;
        count
    }

    fn ask_bases(&mut self) {
        for at in self.touched() {
            if self.bases.get(at).is_none() {
                self.image.ask_base(&self.header.archives()[at]);
            }
        }
    }

    fn take_bases(&mut self) {
        let mut asked = 0;
        for at in self.touched() {
            if self.bases.get(at).is_none() {
                self.bases.set(at, Some(self.image.asked_base(asked)));
                asked += 1;
            }
        }
    }

    /// Lays out every slot that may be read or written and asks for those that must be read.
    fn plan(&mut self) {
        let touched = self.touched();
        for at in touched.clone() {
            self.rings[at] = self.ring(at);
        }
        for number in 0..self.runs.len() {
            let run = self.runs[number];
            let archive = &self.header.archives()[run.archive];
            let cells = &self.cells[run.range()];
            for_each_piece(archive, self.rings[run.archive].origin_s, cells, |slot, piece| {
                self.image.include(run.archive, archive, slot, count(piece));
            });
            for coarse_at in run.archive + 1..touched.end {
                self.include_windows(run, coarse_at);
            }
        }
        self.image.lay_out();
        // The first run's own cells are put before anything is made of their slots. Those of the
        // others are not: what was put before propagates first and looks at the slots as they were.
        if let Some(run) = self.runs.first() {
            let archive = &self.header.archives()[run.archive];
            let cells = &self.cells[run.range()];
            for_each_piece(archive, self.rings[run.archive].origin_s, cells, |slot, piece| {
                self.image.change(run.archive, slot, count(piece));
            });
        }
        // Nothing is made of the coarsest archive's slots, so they are never read.
        let is_read = |at: usize| self.bases.get(at) != Some(0) && at + 1 < touched.end;
        self.image.ask_slots(self.header.archives(), is_read);
    }

    /// The mapping of an archive's intervals to slots of the image. An empty archive is laid out
    /// from the oldest interval that may reach it, so that its image seldom wraps.
    fn ring(&self, at: usize) -> Ring {
        let base_s = self.bases.get(at).expect("bases of touched archives were read");
        if base_s != 0 {
            return Ring { origin_s: base_s, turn: Some(0) };
        }
        let coming = self.runs.iter().filter(|run| run.archive <= at);
        let oldest = coming.map(|run| self.cells[run.start].interval_s).min();
        let interval_s = oldest.expect("a touched archive has cells of its own or finer ones");
        Ring { origin_s: self.header.archives()[at].interval(interval_s), turn: None }
    }

    /// Includes the slots that the cells of a run change in a coarser archive, and those in the
    /// archive in front of that one which the changes are made of.
    fn include_windows(&mut self, run: Run, coarse_at: usize) {
        let archives = self.header.archives();
        let (fine_at, coarse) = (coarse_at - 1, &archives[coarse_at]);
        let fine = &archives[fine_at];
        let count = fine.window_slot_count(coarse.step_s);
        coarse_intervals(&self.cells[run.range()], coarse, &mut self.keys);
        for interval_s in &self.keys {
            let first = fine.slot(i64::from(*interval_s), self.rings[fine_at].origin_s);
            self.image.include(fine_at, fine, first, count);
        }
        for interval_s in &self.keys {
            let slot = coarse.slot(i64::from(*interval_s), self.rings[coarse_at].origin_s);
            self.image.include(coarse_at, coarse, slot, 1);
        }
    }

    /// Works on the image as Python works on the file, then asks for what changed.
    fn compute(&mut self) {
        let touched = self.touched();
        for number in 0..self.runs.len() {
            let run = self.runs[number];
            let archive = &self.header.archives()[run.archive];
            let cells = &self.cells[run.range()];
            let ring = &mut self.rings[run.archive];
            for_each_piece(archive, ring.origin_s, cells, |slot, piece| {
                ring.turn.get_or_insert(archive.turn_to_front(slot));
                let bytes = self.image.change(run.archive, slot, count(piece));
                for (bytes, cell) in bytes.chunks_exact_mut(SLOT_BYTES).zip(piece) {
                    encode_slot(bytes, cell.interval_s, cell.value);
                }
            });
            for coarse_at in run.archive + 1..touched.end {
                if !self.propagate(run, coarse_at) {
                    break;
                }
            }
        }
        for at in touched {
            let archive = &self.header.archives()[at];
            let turn = self.rings[at].turn.unwrap_or(0);
            if let Some(base_s) = self.image.put_interval(at, archive.turn_to_front(turn)) {
                self.bases.set(at, Some(base_s));
            }
        }
        let turn_of = |at: usize| self.rings[at].turn.unwrap_or(0);
        self.image.ask_writes(self.header.archives(), self.header.file_bytes(), turn_of);
    }

    /// Makes the points of one coarser archive that the cells of a run fall into; whether any could
    /// be made. If none could, no coarser archive is tried.
    fn propagate(&mut self, run: Run, coarse_at: usize) -> bool {
        let coarse = self.header.archives()[coarse_at];
        let mut keys = std::mem::take(&mut self.keys);
        if self.is_by_arrival && coarse_at > run.archive + 1 {
            // What was made in the archive before goes on, and nothing else: each point alone
            // stops where no coarser one can be made.
            coarsen(&mut keys, &coarse);
        } else {
            coarse_intervals(&self.cells[run.range()], &coarse, &mut keys);
        }
        if !self.is_by_arrival && self.order_shows(&keys, coarse_at) {
            self.set.order(&mut keys);
        }
        keys.retain(|&interval_s| {
            let Some(value) = self.roll_up(coarse_at - 1, interval_s, &coarse) else {
                return false;
            };
            let ring = &mut self.rings[coarse_at];
            let slot = coarse.slot(i64::from(interval_s), ring.origin_s);
            ring.turn.get_or_insert(coarse.turn_to_front(slot));
            encode_slot(self.image.change(coarse_at, slot, 1), interval_s, value);
            true
        });
        self.keys = keys;
        !self.keys.is_empty()
    }

    /// Whether the order in which ascending intervals are written shows in the file: the first one
    /// becomes the base of an empty archive, and the later one stays where two share a slot.
    fn order_shows(&self, keys: &[u32], coarse_at: usize) -> bool {
        let [first, .., last] = keys else { return false };
        let span_s = self.header.archives()[coarse_at].span_s();
        self.rings[coarse_at].turn.is_none() || u64::from(last - first) >= span_s
    }

    /// The coarser value of the window that starts at an interval, if enough of it is known.
    fn roll_up(&self, fine_at: usize, interval_s: u32, coarse: &Archive) -> Option<f64> {
        let fine = &self.header.archives()[fine_at];
        let mut expected_s = i64::from(interval_s);
        let first = fine.slot(expected_s, self.rings[fine_at].origin_s);
        let count = fine.window_slot_count(coarse.step_s);
        let mut rollup = Rollup::new(self.header.aggregation);
        for part in self.image.window(fine_at, fine, first, count) {
            for slot in part.chunks_exact(SLOT_BYTES) {
                rollup.push(decode_known(slot, expected_s));
                expected_s += i64::from(fine.step_s);
            }
        }
        rollup.finish(self.header.x_files_factor)
    }
}

/// Appends the cells that ascending samples make in an archive, one an interval; where they are.
fn align(
    samples: impl Iterator<Item = (u32, f64)>,
    archive: &Archive,
    cells: &mut Vec<Cell>,
) -> (usize, usize) {
    let start = cells.len();
    for (timestamp_s, value) in samples {
        let interval_s = archive.interval(timestamp_s);
        let cell = Cell { interval_s, value };
        match cells[start..].last_mut() {
            Some(last) if last.interval_s == interval_s => *last = cell,
            _ => cells.push(cell),
        }
    }
    (start, cells.len())
}

/// Sorts the cells from `start` on; of one interval the last is kept.
fn sort_last_wins(cells: &mut Vec<Cell>, start: usize) {
    // Stable: equal intervals stay in the order of their arrival.
    cells[start..].sort_by_key(|cell| cell.interval_s);
    let mut kept = start;
    for at in start..cells.len() {
        if kept > start && cells[kept - 1].interval_s == cells[at].interval_s {
            kept -= 1;
        }
        cells.swap(kept, at);
        kept += 1;
    }
    cells.truncate(kept);
}

/// Turns ascending intervals into those of a coarser archive that they fall into, each once.
fn coarsen(intervals: &mut Vec<u32>, coarse: &Archive) {
    intervals.iter_mut().for_each(|interval_s| *interval_s = coarse.interval(*interval_s));
    intervals.dedup();
}

/// The intervals of a coarser archive that ascending cells fall into, each once.
fn coarse_intervals(cells: &[Cell], coarse: &Archive, intervals: &mut Vec<u32>) {
    intervals.clear();
    for cell in cells {
        let is_inside = |last: &u32| cell.interval_s - last < coarse.step_s;
        if !intervals.last().is_some_and(is_inside) {
            intervals.push(coarse.interval(cell.interval_s));
        }
    }
}

/// Cuts cells into pieces that take consecutive slots and calls `act` with the first slot of each,
/// counted from `origin_s`. A run of consecutive intervals is a piece, or more at the ring's end.
///
/// Python takes an interval of 0 for "none before", so what follows it joins its run, and the run
/// is placed by its last interval; this does the same.
fn for_each_piece(
    archive: &Archive,
    origin_s: u32,
    mut cells: &[Cell],
    mut act: impl FnMut(u32, &[Cell]),
) {
    let step_s = archive.step_s;
    let is_broken = |pair: &[Cell]| {
        pair[0].interval_s != 0 && pair[1].interval_s - pair[0].interval_s != step_s
    };
    while !cells.is_empty() {
        let run_len = cells.windows(2).position(is_broken).map_or(cells.len(), |at| at + 1);
        let (mut run, rest) = cells.split_at(run_len);
        let steps = i64::from(count(run) - 1);
        let start_s = i64::from(run[run_len - 1].interval_s) - steps * i64::from(step_s);
        let mut slot = archive.slot(start_s, origin_s);
        while !run.is_empty() {
            let (piece, next) = run.split_at(run.len().min(index(archive.slot_count - slot)));
            act(slot, piece);
            (run, slot) = (next, 0);
        }
        cells = rest;
    }
}

fn count(cells: &[Cell]) -> u32 {
    u32::try_from(cells.len()).expect("a batch has fewer than 2^32 points")
}
