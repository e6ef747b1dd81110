//! What a shard knows about each metric's file.
//!
//! A file is opened and validated once; then its geometry, inode and the base interval of each
//! archive are remembered, so that an update needs no header read. The memory is checked at every
//! update against the inode and the time of the file's last change, because operators copy, resize
//! and change files behind our back; and every ten minutes against the header, because a change
//! within the tick of the clock in which we have written shows no other time. The inode is in the
//! cache's entry, where the order of a sweep needs it.

use crate::cache::{FILE_STATE_BYTES, MetricId};
use crate::limits::ARCHIVES_MAX;
use crate::whisper::{Bases, Header};

/// Archives whose base is remembered; files with more have the other bases read again.
const BASES_KEPT: usize = 4;

/// No base remembered; whisper cannot store this interval in a file with a step above 1 s, and a
/// forgotten base only costs a read.
const BASE_UNKNOWN: u32 = u32::MAX;

/// A remembered header is read again after this many seconds.
const RECHECK_S: u32 = 600;

/// First and longest wait before a failed file is tried again, in seconds.
const RETRY_S_MIN: u32 = 1;
const RETRY_S_MAX: u32 = 300;

/// The remembered part of an open file, handed to its next update.
#[derive(Debug, Clone, PartialEq)]
pub struct Known {
    /// Geometry, method and xFilesFactor.
    pub header: Header,
    /// The file's inode.
    pub inode: u64,
    /// Base interval of each archive.
    pub bases: Bases,
    /// Stands for the time of the file's last change, which was ours.
    pub changed: u32,
}

#[derive(Debug, Clone, Copy, Default)]
enum FileState {
    /// Not looked at, or what was known of it is void.
    #[default]
    Unseen,
    /// Not looked at, and in the queue of those that are to be, see `shard::new_names`.
    Queued,
    /// Not looked at, and of one of the node's own metrics.
    Own,
    /// Opened and valid.
    Known { header: u16, checked_s: u32, changed: u32, bases: [u32; BASES_KEPT] },
    /// Its header was changed while a write was under way: what that write remembers is void.
    Changed,
    /// There is none: it must be created. What was to be done with it has failed so often in a row.
    /// `new_bytes`: what the metric takes of the share of new names; 0 if it needs none.
    Missing { failures: u8, is_told: bool, new_bytes: u32 },
    /// It could not be written, so often in a row. `is_told`: the operator knows why not.
    Failing { failures: u8, is_told: bool, is_own_fault: bool, retry_s: u32, new_bytes: u32 },
}

impl FileState {
    fn is_failing(self) -> u64 {
        u64::from(matches!(self, FileState::Failing { .. }))
    }

    /// What the metric takes of the share of new names.
    fn new_bytes(self) -> u32 {
        match self {
            FileState::Missing { new_bytes, .. } | FileState::Failing { new_bytes, .. } => {
                new_bytes
            }
            _ => 0,
        }
    }
}

/// Whether a metric's file may be written now, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Open it; geometry is known or will be read.
    Open,
    /// Create it.
    Create,
    /// It failed lately; try later. Of a file that fails by its own fault only so many points
    /// are kept.
    Later { is_own_fault: bool },
}

const _: () = assert!(size_of::<FileState>() == FILE_STATE_BYTES, "it is charged as so many");

/// The states grow by chunks of this size, as a power of two, and never move: doubling one table of
/// a million would copy it at once on the core's loop. A chunk is 96 KiB.
const CHUNK_BITS: u32 = 12;
const CHUNK_STATES: usize = 1 << CHUNK_BITS;

/// Knowledge by metric, beside the cache's entries.
#[derive(Debug, Default)]
pub(crate) struct SeriesFiles {
    chunks: Vec<Vec<FileState>>,
    /// Distinct headers; a tree has as many as it had schemas.
    headers: Vec<Header>,
    failing_count: u64,
    /// Metrics that take a part of the share of new names, and what all of them take.
    new_count: u64,
    new_bytes: usize,
}

impl SeriesFiles {
    /// A metric got an entry and is put into the queue of those to be looked at.
    pub(crate) fn begin(&mut self, metric: MetricId) {
        self.begin_as(metric, FileState::Queued);
    }

    /// One of the node's own metrics got an entry.
    pub(crate) fn begin_own(&mut self, metric: MetricId) {
        self.begin_as(metric, FileState::Own);
    }

    fn begin_as(&mut self, metric: MetricId, state: FileState) {
        while metric.index() >> CHUNK_BITS >= self.chunks.len() {
            self.chunks.push(vec![FileState::Unseen; CHUNK_STATES]);
        }
        self.set(metric, state);
    }

    /// Whether the metric is in the queue of those to be looked at.
    pub(crate) fn is_queued(&self, metric: MetricId) -> bool {
        matches!(self.state(metric), FileState::Queued)
    }

    /// The metric is taken out of that queue; false if it was not in it.
    pub(crate) fn take_queued(&mut self, metric: MetricId) -> bool {
        let was_queued = self.is_queued(metric);
        if was_queued {
            self.set(metric, FileState::Unseen);
        }
        was_queued
    }

    /// Whether it is one of the node's own metrics, never looked at.
    pub(crate) fn is_own(&self, metric: MetricId) -> bool {
        matches!(self.state(metric), FileState::Own)
    }

    /// Whether there is something under the file's name, as far as is known: a file, or what
    /// hinders us from having one.
    pub(crate) fn has_file(&self, metric: MetricId) -> bool {
        match self.state(metric) {
            FileState::Known { .. } | FileState::Changed => true,
            FileState::Failing { new_bytes, .. } => *new_bytes == 0,
            FileState::Unseen | FileState::Queued | FileState::Own => false,
            FileState::Missing { .. } => false,
        }
    }

    /// Whether the metric has no file and takes a part of the share of new names.
    pub(crate) fn is_new(&self, metric: MetricId) -> bool {
        self.state(metric).new_bytes() > 0
    }

    /// What new names take of their share, in bytes.
    pub(crate) fn new_bytes(&self) -> usize {
        self.new_bytes
    }

    /// How many they are.
    pub(crate) fn new_count(&self) -> u64 {
        self.new_count
    }

    /// Sets how many bytes of the share of new names a metric without a file takes; 0 = none.
    pub(crate) fn set_new_bytes(&mut self, metric: MetricId, bytes: usize) {
        let mut state = *self.state(metric);
        if let FileState::Missing { new_bytes, .. } | FileState::Failing { new_bytes, .. } =
            &mut state
        {
            *new_bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
            self.set(metric, state);
        }
    }

    /// A metric lost its entry.
    pub(crate) fn forget(&mut self, metric: MetricId) {
        self.set(metric, FileState::Unseen);
    }

    /// The header of the metric's file was changed by us.
    pub(crate) fn header_changed(&mut self, metric: MetricId, is_writing: bool) {
        self.set(metric, if is_writing { FileState::Changed } else { FileState::Unseen });
    }

    /// Files that could not be written at their last try.
    pub(crate) fn failing_count(&self) -> u64 {
        self.failing_count
    }

    /// Whether the metric's file could not be written at its last try.
    pub(crate) fn is_failing(&self, metric: MetricId) -> bool {
        matches!(self.state(metric), FileState::Failing { .. })
    }

    /// Whether the metric's file could not be written at its last try, or waits to be created.
    pub(crate) fn is_stuck(&self, metric: MetricId) -> bool {
        matches!(self.state(metric), FileState::Failing { .. } | FileState::Missing { .. })
    }

    /// What to do with the metric's file at `elapsed_s`; `known` is set to what is remembered,
    /// with the inode that the file had when it was last written.
    pub(crate) fn readiness(
        &self,
        metric: MetricId,
        inode: u64,
        elapsed_s: u32,
        known: &mut Option<Known>,
    ) -> Readiness {
        match *self.state(metric) {
            FileState::Unseen | FileState::Queued | FileState::Own | FileState::Changed => {
                Readiness::Open
            }
            FileState::Missing { .. } => Readiness::Create,
            FileState::Failing { retry_s, is_own_fault, .. } if elapsed_s < retry_s => {
                Readiness::Later { is_own_fault }
            }
            FileState::Failing { .. } => Readiness::Open,
            FileState::Known { checked_s, .. } if elapsed_s >= checked_s + RECHECK_S => {
                Readiness::Open
            }
            FileState::Known { header, changed, bases, .. } => {
                let mut remembered = Bases::UNKNOWN;
                for (archive, &base) in bases.iter().enumerate() {
                    if base != BASE_UNKNOWN {
                        remembered.set(archive, Some(base));
                    }
                }
                let header = self.headers[usize::from(header)].clone();
                *known = Some(Known { header, inode, bases: remembered, changed });
                Readiness::Open
            }
        }
    }

    /// The file was written; `checked` says that its header was read in doing so.
    pub(crate) fn written(&mut self, metric: MetricId, now: &Known, checked: bool, elapsed_s: u32) {
        if let FileState::Changed = *self.state(metric) {
            return self.set(metric, FileState::Unseen);
        }
        let same = match *self.state(metric) {
            FileState::Known { header, .. } => Some(header),
            _ => None,
        };
        let is_same = |number: &u16| self.headers[usize::from(*number)] == now.header;
        let Some(header) = same.filter(is_same).or_else(|| self.intern(&now.header)) else {
            return self.set(metric, FileState::Unseen);
        };
        let checked_s = match *self.state(metric) {
            FileState::Known { checked_s, .. } if !checked => checked_s,
            _ => elapsed_s,
        };
        let mut bases = [BASE_UNKNOWN; BASES_KEPT];
        for (archive, base) in bases.iter_mut().enumerate().take(ARCHIVES_MAX) {
            // An empty archive is looked at again: other tools may fill it meanwhile.
            *base = now.bases.get(archive).filter(|&base| base != 0).unwrap_or(BASE_UNKNOWN);
        }
        self.set(metric, FileState::Known { header, checked_s, changed: now.changed, bases });
    }

    /// There is no such file.
    pub(crate) fn missing(&mut self, metric: MetricId) {
        // It is looked for before each try to create it; that it is still missing is no news.
        let (failures, is_told) = self.failures(metric);
        let new_bytes = self.state(metric).new_bytes();
        self.set(metric, FileState::Missing { failures, is_told, new_bytes });
    }

    /// How often in a row the metric's file could not be written, and whether that was told.
    fn failures(&self, metric: MetricId) -> (u8, bool) {
        match *self.state(metric) {
            FileState::Failing { failures, is_told, .. }
            | FileState::Missing { failures, is_told, .. } => (failures, is_told),
            _ => (0, false),
        }
    }

    /// The file could not be written, which is told. Returns true if that is news: it has not been
    /// told since the file was written last.
    pub(crate) fn failed(&mut self, metric: MetricId, is_own_fault: bool, elapsed_s: u32) -> bool {
        let (_, was_told) = self.failures(metric);
        self.put_off(metric, is_own_fault, true, elapsed_s);
        !was_told
    }

    /// Another program has the file's lock, which is nobody's fault and told to nobody.
    pub(crate) fn locked(&mut self, metric: MetricId, elapsed_s: u32) {
        self.put_off(metric, false, false, elapsed_s);
    }

    /// One more failure in a row: the next try waits longer.
    fn put_off(&mut self, metric: MetricId, is_own_fault: bool, tells: bool, elapsed_s: u32) {
        let (failures, was_told) = self.failures(metric);
        let retry_s = elapsed_s + wait_s(failures);
        let failures = failures.saturating_add(1);
        let is_told = was_told || tells;
        let new_bytes = self.state(metric).new_bytes();
        let state = FileState::Failing { failures, is_told, is_own_fault, retry_s, new_bytes };
        self.set(metric, state);
    }

    /// Every failed file may be tried again at once.
    pub(crate) fn retry_all(&mut self) {
        if self.failing_count == 0 {
            return;
        }
        for state in self.chunks.iter_mut().flatten() {
            if let FileState::Failing { retry_s, .. } = state {
                *retry_s = 0;
            }
        }
    }

    fn state(&self, metric: MetricId) -> &FileState {
        &self.chunks[metric.index() >> CHUNK_BITS][metric.index() % CHUNK_STATES]
    }

    fn set(&mut self, metric: MetricId, state: FileState) {
        let place = &mut self.chunks[metric.index() >> CHUNK_BITS][metric.index() % CHUNK_STATES];
        let was = std::mem::replace(place, state);
        self.failing_count = self.failing_count + state.is_failing() - was.is_failing();
        self.new_bytes = self.new_bytes + state.new_bytes() as usize - was.new_bytes() as usize;
        let is_new = |state: FileState| u64::from(state.new_bytes() > 0);
        self.new_count = self.new_count + is_new(state) - is_new(was);
    }

    /// The header's number; `None` in a tree with more than 65,535 different headers.
    fn intern(&mut self, header: &Header) -> Option<u16> {
        let found = self.headers.iter().position(|known| known == header);
        let place = u16::try_from(found.unwrap_or(self.headers.len())).ok()?;
        if found.is_none() {
            self.headers.push(header.clone());
        }
        Some(place)
    }
}

/// How long a file waits for its next try after this number of failures.
fn wait_s(failures: u8) -> u32 {
    match RETRY_S_MIN.checked_shl(u32::from(failures)) {
        None | Some(0) => RETRY_S_MAX,
        Some(wait_s) => wait_s.min(RETRY_S_MAX),
    }
}
