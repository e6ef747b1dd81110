//! A tree of Whisper files in memory that forgets what was not synced, and a writer of it that
//! follows `disk/writer` with the real planning code.
//!
//! As on the log's disk there are two states of everything: what the process sees, and what a loss
//! of power leaves. Only the sync of the whole file system moves all from the first to the second,
//! and it takes its time: what is written meanwhile may be in it or not. The kernel writes pages;
//! of a page, what survives or not is a slot, or the header: the device writes sectors, and a slot
//! that lies across two of them could be torn; that is Whisper's format and no matter of the log.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use carbyne::metric::series::SeriesSpec;
use carbyne::shard::flush::{FlushJob, Known, Outcome, Written};
use carbyne::whisper::{
    Bases, HEADER_BYTES_MAX, Header, METADATA_BYTES, SLOT_BYTES, Step, Transfer, Update, unlapped,
};

use crate::seeds::Chance;
use crate::simulated_disk::Fault;

/// What the kernel writes as a whole when any of it has changed.
const PAGE_BYTES: usize = 4096;

/// How often operations fail, in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TreeWeather {
    /// A file is not opened or made.
    pub(crate) open: usize,
    /// A read fails.
    pub(crate) read: usize,
    /// A write ends early.
    pub(crate) write: usize,
}

#[derive(Debug, Clone, Default)]
struct File {
    seen: Vec<u8>,
    kept: Vec<u8>,
    /// The length is on stable storage.
    is_sized: bool,
    /// Units that differ in the two and will be written.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Link(Vec<u8>, usize),
    Rename(Vec<u8>, Vec<u8>),
}

impl File {
    /// Bytes were written: their pages will be, whole, with whatever in them differs.
    fn soil(&mut self, bytes: Range<usize>) {
        let first = bytes.start / PAGE_BYTES * PAGE_BYTES;
        let end = bytes.end.next_multiple_of(PAGE_BYTES).min(self.seen.len());
        if self.seen[first..end] != self.kept[first..end] {
            let units = unit_of(first)..=unit_of(end - 1);
            let differs = |unit: &usize| self.seen[range(*unit)] != self.kept[range(*unit)];
            self.dirty.extend(units.filter(differs));
        }
    }
}

/// What a sync has found to do when it began.
#[derive(Debug, Default)]
struct Sync {
    units: Vec<(usize, usize, Vec<u8>)>,
    changes: usize,
    files: usize,
}

/// The tree. Inode numbers are positions and one.
#[derive(Debug)]
pub(crate) struct SimulatedTree {
    files: Vec<File>,
    seen: BTreeMap<Vec<u8>, usize>,
    kept: BTreeMap<Vec<u8>, usize>,
    changes: Vec<Change>,
    sync: Option<Sync>,
    /// Files that may be made; as others use and free space.
    pub(crate) has_space: bool,
    /// Paths that cannot be opened, each for a reason of its own.
    pub(crate) broken: BTreeSet<Vec<u8>>,
    /// Those that could not be at any time.
    pub(crate) ever_broken: BTreeSet<Vec<u8>>,
    /// A path whose lock somebody else has.
    pub(crate) locked: Option<Vec<u8>>,
    pub(crate) weather: TreeWeather,
    fuse: Option<usize>,
    asides: usize,
    update: Update,
    chance: Chance,
}

impl SimulatedTree {
    pub(crate) fn new(seed: u64) -> SimulatedTree {
        SimulatedTree {
            files: Vec::new(),
            seen: BTreeMap::new(),
            kept: BTreeMap::new(),
            changes: Vec::new(),
            sync: None,
            has_space: true,
            broken: BTreeSet::new(),
            ever_broken: BTreeSet::new(),
            locked: None,
            weather: TreeWeather::default(),
            fuse: None,
            asides: 0,
            update: Update::new(),
            chance: Chance::new(seed),
        }
    }

    /// The end comes after so many more operations.
    pub(crate) fn light_fuse(&mut self, operations: usize) {
        self.fuse = Some(operations);
    }

    /// Nothing works any more until [`SimulatedTree::kill`] or [`SimulatedTree::lose_power`].
    pub(crate) fn is_dead(&self) -> bool {
        self.fuse == Some(0)
    }

    /// Files that were set aside.
    pub(crate) fn asides(&self) -> usize {
        self.asides
    }

    /// Does what a job asks for, and says what has become of it; nothing when the end comes.
    pub(crate) fn write(&mut self, job: &mut FlushJob) {
        if let Err(outcome) = self.try_write(job) {
            job.outcome = outcome;
        }
        if self.is_dead() {
            job.outcome = Outcome::Pending;
        }
    }

    fn try_write(&mut self, job: &mut FlushJob) -> Result<(), Outcome> {
        let path = job.path.clone();
        let created = match &job.create {
            Some(spec) => self.create(&path, spec)?,
            None => None,
        };
        let inode = match &created {
            Some((inode, _)) => *inode,
            None => self.open(&path, job.create.is_some())?,
        };
        // Nobody has the lock of a file that has no name yet.
        if created.is_none() && self.locked.as_ref() == Some(&path) {
            return Err(Outcome::Locked);
        }
        let bytes = self.files[inode].seen.len() as u64;
        let number = inode as u64 + 1;
        let is_same = |known: &Known| known.inode == number && known.header.file_bytes() == bytes;
        let mut checked = false;
        let (header, bases) = match (created, &job.known) {
            (Some((_, header)), _) => {
                job.known = None;
                (header, Bases::EMPTY)
            }
            (None, Some(known)) if is_same(known) => (known.header.clone(), known.bases),
            (None, _) => {
                checked = true;
                job.known = None;
                (self.read_header(&path, inode)?, Bases::UNKNOWN)
            }
        };
        let created = job.create.is_some() && !checked;
        let (count, reach) = unlapped(&header, &job.points);
        let is_near = reach.is_near(&header, job.limit.near);
        if !is_near && !job.limit.is_alone && !created {
            return Err(Outcome::TooFar);
        }
        let mut update = std::mem::take(&mut self.update);
        update.begin_arrivals(&header, &bases, &job.points[..count]);
        let mut result = self.transfer(inode, &mut update);
        let (bases, too_old) = (*update.bases(), update.outcome().points_too_old);
        self.update = update;
        if created {
            result = result.and_then(|()| self.name(inode, &path));
        }
        if result.is_err() && created {
            // Nothing is left of a file without a name.
            self.files[inode] = File::default();
        }
        result?;
        job.known = Some(Known { header, inode: number, bases, changed: 0 });
        let too_old_count = u32::try_from(too_old).expect("few points");
        job.outcome = Outcome::Written(Written { count, is_near, checked, created, too_old_count });
        Ok(())
    }

    fn transfer(&mut self, inode: usize, update: &mut Update) -> Result<(), Outcome> {
        loop {
            match update.step() {
                Step::Done => return Ok(()),
                Step::Read => {
                    self.burn(self.weather.read).map_err(|_| failed("read", false))?;
                    let (list, arena) = update.reads();
                    for transfer in list {
                        let at = usize::try_from(transfer.offset).expect("a small file");
                        let bytes = &self.files[inode].seen[at..at + transfer.len];
                        arena[transfer.start..][..transfer.len].copy_from_slice(bytes);
                    }
                }
                Step::Write => {
                    let (list, arena) = update.writes();
                    for transfer in list {
                        let bytes = &arena[transfer.start..][..transfer.len];
                        self.write_some(inode, *transfer, bytes)
                            .map_err(|_| failed("write", false))?;
                    }
                }
            }
        }
    }

    /// A new file, which has no name yet; `None` when the name is taken.
    fn create(
        &mut self,
        path: &[u8],
        spec: &SeriesSpec,
    ) -> Result<Option<(usize, Header)>, Outcome> {
        if self.broken.contains(path) {
            return Err(failed("create", true));
        }
        self.burn(self.weather.open).map_err(|_| failed("create", false))?;
        if !self.has_space {
            return Err(failed("create", false));
        }
        if self.seen.contains_key(path) {
            return Ok(None);
        }
        let header = Header::new(spec).expect("a good schema");
        let mut seen = Vec::new();
        header.encode(&mut seen);
        let dirty = (0..seen.len()).map(unit_of).collect();
        seen.resize(usize::try_from(header.file_bytes()).expect("a small file"), 0);
        let kept = vec![0; seen.len()];
        self.files.push(File { seen, kept, is_sized: false, dirty });
        Ok(Some((self.files.len() - 1, header)))
    }

    /// Gives a new file its name, when it has its points.
    fn name(&mut self, inode: usize, path: &[u8]) -> Result<(), Outcome> {
        self.burn(self.weather.open).map_err(|_| failed("create", false))?;
        self.change(Change::Link(path.to_vec(), inode));
        Ok(())
    }

    fn open(&mut self, path: &[u8], is_creating: bool) -> Result<usize, Outcome> {
        if self.broken.contains(path) {
            return Err(failed("open", true));
        }
        self.burn(self.weather.open).map_err(|_| failed("open", false))?;
        match self.seen.get(path) {
            Some(&inode) => Ok(inode),
            None if is_creating => Err(failed("open", true)),
            None => Err(Outcome::Missing),
        }
    }

    fn read_header(&mut self, path: &[u8], inode: usize) -> Result<Header, Outcome> {
        self.burn(self.weather.read).map_err(|_| failed("read", false))?;
        match header_of(&self.files[inode].seen) {
            Ok(header) => Ok(header),
            Err(reason) => {
                self.burn(self.weather.open).map_err(|_| failed("set aside", false))?;
                self.asides += 1;
                let aside = format!("aside.{}", self.asides);
                self.change(Change::Rename(path.to_vec(), aside.clone().into_bytes()));
                Err(Outcome::SetAside { reason, aside })
            }
        }
    }

    /// Writes slots; after a fault, or at the end, any of them are written.
    fn write_some(&mut self, inode: usize, transfer: Transfer, bytes: &[u8]) -> Result<(), Fault> {
        let result = self.burn(self.weather.write);
        let at = usize::try_from(transfer.offset).expect("a small file");
        for (index, slot) in bytes.chunks(SLOT_BYTES).enumerate() {
            if result.is_ok() || self.chance.permille(500) {
                let from = at + index * SLOT_BYTES;
                let file = &mut self.files[inode];
                file.seen[from..from + slot.len()].copy_from_slice(slot);
                file.soil(from..from + slot.len());
            }
        }
        result
    }

    /// A sync of the whole file system begins.
    pub(crate) fn begin_sync(&mut self) {
        let all = self.files.iter().enumerate();
        let units = all.flat_map(|(inode, file)| {
            file.dirty.iter().map(move |&unit| (inode, unit, file.seen[range(unit)].to_vec()))
        });
        let units = units.collect();
        self.sync = Some(Sync { units, changes: self.changes.len(), files: self.files.len() });
    }

    pub(crate) fn is_syncing(&self) -> bool {
        self.sync.is_some()
    }

    /// The sync ends. One that fails drops what it should have kept, as Linux does: a later one
    /// says that all is well. The next run writes slots again, from the log, and with each the page
    /// it is in: the header of a file that is new since the last good sync, and the first slot of
    /// its finest archive, which tells where the others are, lie in the page of its first points.
    pub(crate) fn end_sync(&mut self, is_ok: bool) {
        let Some(Sync { units, changes, files }) = self.sync.take() else { return };
        for (inode, unit, bytes) in units {
            let file = &mut self.files[inode];
            let is_same = file.seen[range(unit)] == bytes;
            let is_dirty = file.dirty.contains(&unit);
            let is_kept = is_ok || self.chance.permille(500);
            if is_dirty && is_kept {
                let takes_later = self.chance.permille(500);
                let now = if takes_later { file.seen[range(unit)].to_vec() } else { bytes };
                file.kept[range(unit)].copy_from_slice(&now);
            }
            if is_same {
                file.dirty.remove(&unit);
            }
        }
        // Writing back between the two has made some of the changes already.
        let changes = changes.min(self.changes.len());
        let survivors = if is_ok { changes } else { self.chance.below(changes + 1) };
        self.keep_changes(survivors);
        if is_ok {
            self.files[..files].iter_mut().for_each(|file| file.is_sized = true);
        }
    }

    /// These paths cannot be opened, and no others.
    pub(crate) fn break_paths(&mut self, paths: BTreeSet<Vec<u8>>) {
        self.ever_broken.extend(paths.iter().cloned());
        self.broken = paths;
    }

    /// Nothing fails any more.
    pub(crate) fn mend(&mut self) {
        self.weather = TreeWeather::default();
        self.fuse = None;
        self.has_space = true;
        self.broken.clear();
        self.locked = None;
    }

    /// The sync under way comes to nothing.
    pub(crate) fn forget_sync(&mut self) {
        self.sync = None;
    }

    /// The kernel writes some of it when it likes.
    pub(crate) fn age(&mut self) {
        let share = self.chance.below(1_000);
        for file in &mut self.files {
            for unit in std::mem::take(&mut file.dirty) {
                if self.chance.permille(share) {
                    let bytes = &file.seen[range(unit)];
                    file.kept[range(unit)].copy_from_slice(bytes);
                } else {
                    file.dirty.insert(unit);
                }
            }
            file.is_sized |= self.chance.permille(share);
        }
        if self.sync.is_none() {
            let survivors = self.chance.below(self.changes.len() + 1);
            self.keep_changes(survivors);
        }
    }

    /// The process ends, the machine does not. A sync under way goes on without it.
    pub(crate) fn kill(&mut self) {
        self.fuse = None;
        self.end_sync(true);
    }

    /// Power is lost and returns.
    pub(crate) fn lose_power(&mut self) {
        self.fuse = None;
        self.sync = None;
        self.age();
        self.changes.clear();
        for file in &mut self.files {
            file.dirty.clear();
            if !file.is_sized {
                file.kept.clear();
                file.is_sized = true;
            }
            file.seen.clone_from(&file.kept);
        }
        self.seen.clone_from(&self.kept);
        for (index, file) in self.files.iter_mut().enumerate() {
            if !self.seen.values().any(|&used| used == index) {
                *file = File::default();
            }
        }
    }

    /// A file's bytes, as a reader sees them.
    pub(crate) fn bytes(&self, path: &[u8]) -> Option<&[u8]> {
        Some(&self.files[*self.seen.get(path)?].seen)
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.seen, change.clone());
        self.changes.push(change);
    }

    fn keep_changes(&mut self, count: usize) {
        for change in self.changes.drain(..count) {
            apply(&mut self.kept, change);
        }
    }

    fn burn(&mut self, share: usize) -> Result<(), Fault> {
        if let Some(left) = &mut self.fuse {
            *left = left.saturating_sub(1);
            if *left == 0 {
                return Err(Fault::Dead);
            }
        }
        if self.chance.permille(share) { Err(Fault::Io) } else { Ok(()) }
    }
}

fn apply(names: &mut BTreeMap<Vec<u8>, usize>, change: Change) {
    match change {
        Change::Link(name, inode) => drop(names.insert(name, inode)),
        Change::Rename(from, to) => {
            if let Some(inode) = names.remove(&from) {
                names.insert(to, inode);
            }
        }
    }
}

fn failed(action: &'static str, is_own_fault: bool) -> Outcome {
    Outcome::Failed { action, reason: "simulated".to_owned(), is_own_fault }
}

fn header_of(bytes: &[u8]) -> Result<Header, String> {
    let first = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    Header::parse(first, bytes.len() as u64).map_err(|error| error.to_string())
}

/// What is written as a whole: the metadata, an entry of the header, or a slot.
fn unit_of(at: usize) -> usize {
    if at < METADATA_BYTES { 0 } else { 1 + (at - METADATA_BYTES) / SLOT_BYTES }
}

fn range(unit: usize) -> Range<usize> {
    match unit.checked_sub(1) {
        None => 0..METADATA_BYTES,
        Some(slot) => {
            let from = METADATA_BYTES + slot * SLOT_BYTES;
            from..from + SLOT_BYTES
        }
    }
}

fn slot(bytes: &[u8], at: usize) -> (u32, f64) {
    let interval = u32::from_be_bytes(*bytes[at..].first_chunk().expect("within the file"));
    let bits = u64::from_be_bytes(*bytes[at + 4..].first_chunk().expect("within the file"));
    (interval, f64::from_bits(bits))
}

/// Whether any slot holds this point, wherever it is: an archive that seems empty may show it when
/// its first slot is written again.
fn holds(bytes: &[u8], timestamp_s: u32, value: f64) -> bool {
    if bytes.len() < METADATA_BYTES {
        return false;
    }
    let wanted = (timestamp_s, value);
    let mut slots = bytes[METADATA_BYTES..].chunks_exact(SLOT_BYTES);
    slots.any(|bytes| slot(bytes, 0) == wanted)
}
