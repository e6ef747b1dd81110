//! A disk in memory that forgets what was not synced, for simulations.
//!
//! It keeps two states of everything: what the process sees, and what a loss of power leaves. A
//! write reaches the first; a sync, the second. When power is lost, each sector that was not synced
//! survives or not, in any combination; of the changes to the directory that were not synced, the
//! first few survive, as on a file system with a journal. A sync that fails drops what it should
//! have kept and, as on Linux, a later one says that all is well.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, BTreeSet};

use crate::seeds::Chance;

/// What a device keeps or loses as a whole.
pub(crate) const SECTOR_BYTES: usize = 512;

/// Why an operation failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    /// No space left on the device.
    NoSpace,
    /// Input/output error.
    Io,
    /// Power was lost, or the process killed, before or during the operation.
    Dead,
}

/// How often operations fail, in a thousand.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Weather {
    /// Writes that end early.
    pub(crate) write: usize,
    /// Syncs that drop what they should keep.
    pub(crate) sync: usize,
    /// Changes to the directory.
    pub(crate) directory: usize,
}

#[derive(Debug, Clone, Default)]
struct File {
    seen: Vec<u8>,
    kept: Vec<u8>,
    /// Sectors that differ in the two and will be written.
    dirty: BTreeSet<usize>,
}

#[derive(Debug, Clone)]
enum Change {
    Link(String, usize),
    Rename(String, String),
    Remove(String),
}

/// The disk, with one directory.
#[derive(Debug, Clone)]
pub(crate) struct SimulatedDisk {
    files: Vec<File>,
    seen: BTreeMap<String, usize>,
    kept: BTreeMap<String, usize>,
    changes: Vec<Change>,
    capacity_bytes: usize,
    /// Operations until the end; `None`: none is near.
    fuse: Option<usize>,
    pub(crate) weather: Weather,
    pub(crate) chance: Chance,
}

impl SimulatedDisk {
    pub(crate) fn new(seed: u64, capacity_bytes: usize) -> SimulatedDisk {
        SimulatedDisk {
            files: Vec::new(),
            seen: BTreeMap::new(),
            kept: BTreeMap::new(),
            changes: Vec::new(),
            capacity_bytes,
            fuse: None,
            weather: Weather::default(),
            chance: Chance::new(seed),
        }
    }

    /// The end comes after so many more operations.
    pub(crate) fn light_fuse(&mut self, operations: usize) {
        self.fuse = Some(operations);
    }

    /// Nothing works any more until [`SimulatedDisk::lose_power`] or [`SimulatedDisk::kill`].
    pub(crate) fn is_dead(&self) -> bool {
        self.fuse == Some(0)
    }

    /// Space changes, as others use and free it.
    pub(crate) fn set_capacity(&mut self, bytes: usize) {
        self.capacity_bytes = bytes;
    }

    pub(crate) fn names(&self) -> Vec<String> {
        self.seen.keys().cloned().collect()
    }

    pub(crate) fn read(&self, name: &str) -> Option<&[u8]> {
        self.seen.get(name).map(|&file| &self.files[file].seen[..])
    }

    /// Flips bits in both states of a file.
    pub(crate) fn damage(&mut self, name: &str, at: usize, mask: u8) {
        let file = &mut self.files[self.seen[name]];
        file.seen[at] ^= mask;
        file.kept[at] ^= mask;
    }

    /// Makes a file of zeros.
    pub(crate) fn create(&mut self, name: &str, bytes: usize) -> Result<(), Fault> {
        self.burn(self.weather.directory)?;
        let used: usize = self.seen.values().map(|&file| self.files[file].seen.len()).sum();
        if used + bytes > self.capacity_bytes {
            return Err(Fault::NoSpace);
        }
        let zeros = vec![0; bytes];
        self.files.push(File { seen: zeros.clone(), kept: zeros, dirty: BTreeSet::new() });
        self.change(Change::Link(name.to_owned(), self.files.len() - 1));
        Ok(())
    }

    pub(crate) fn rename(&mut self, from: &str, to: &str) -> Result<(), Fault> {
        self.burn(self.weather.directory)?;
        self.change(Change::Rename(from.to_owned(), to.to_owned()));
        Ok(())
    }

    pub(crate) fn remove(&mut self, name: &str) -> Result<(), Fault> {
        self.burn(self.weather.directory)?;
        self.change(Change::Remove(name.to_owned()));
        Ok(())
    }

    pub(crate) fn sync_directory(&mut self) -> Result<(), Fault> {
        self.burn(self.weather.directory)?;
        self.kept = self.seen.clone();
        self.changes.clear();
        Ok(())
    }

    /// Writes whole sectors; the end, or a fault, may come between any two.
    pub(crate) fn write(&mut self, name: &str, offset: usize, bytes: &[u8]) -> Result<(), Fault> {
        assert!(offset.is_multiple_of(SECTOR_BYTES) && bytes.len().is_multiple_of(SECTOR_BYTES));
        let result = self.burn(self.weather.write);
        let (first, count) = (offset / SECTOR_BYTES, bytes.len() / SECTOR_BYTES);
        let written: Vec<bool> =
            (0..count).map(|_| result.is_ok() || self.chance.permille(500)).collect();
        let file = &mut self.files[self.seen[name]];
        assert!(offset + bytes.len() <= file.seen.len(), "{name} is written beyond its end");
        for (index, sector) in bytes.chunks(SECTOR_BYTES).enumerate() {
            if written[index] {
                let at = offset + index * SECTOR_BYTES;
                file.seen[at..at + SECTOR_BYTES].copy_from_slice(sector);
                file.dirty.insert(first + index);
            }
        }
        result
    }

    /// Brings a file's data to stable storage; a failure drops it, and nobody hears of it again.
    pub(crate) fn sync(&mut self, name: &str) -> Result<(), Fault> {
        let result = self.burn(self.weather.sync);
        if result == Err(Fault::Dead) {
            return result;
        }
        let file = &mut self.files[self.seen[name]];
        for sector in std::mem::take(&mut file.dirty) {
            if result.is_ok() {
                file.keep(sector);
            }
        }
        result
    }

    /// A start brings to stable storage what it is about to read.
    pub(crate) fn sync_all(&mut self) {
        for file in &mut self.files {
            for sector in std::mem::take(&mut file.dirty) {
                file.keep(sector);
            }
        }
        self.kept = self.seen.clone();
        self.changes.clear();
    }

    /// The process ends; the disk does not.
    pub(crate) fn kill(&mut self) {
        self.fuse = None;
    }

    /// Power is lost and returns.
    pub(crate) fn lose_power(&mut self) {
        self.fuse = None;
        for file in &mut self.files {
            for sector in std::mem::take(&mut file.dirty) {
                if self.chance.permille(500) {
                    file.keep(sector);
                }
            }
            file.seen.clone_from(&file.kept);
        }
        let survivors = self.chance.below(self.changes.len() + 1);
        let changes = std::mem::take(&mut self.changes);
        for change in changes.into_iter().take(survivors) {
            apply(&mut self.kept, change);
        }
        self.seen = self.kept.clone();
        // What bears no name is gone.
        for (index, file) in self.files.iter_mut().enumerate() {
            if !self.seen.values().any(|&used| used == index) {
                *file = File::default();
            }
        }
    }

    fn change(&mut self, change: Change) {
        apply(&mut self.seen, change.clone());
        self.changes.push(change);
    }

    /// One operation more: it may be the last, or fail.
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

impl File {
    fn keep(&mut self, sector: usize) {
        let at = sector * SECTOR_BYTES;
        let end = at + SECTOR_BYTES;
        self.kept[at..end].copy_from_slice(&self.seen[at..end]);
    }
}

fn apply(names: &mut BTreeMap<String, usize>, change: Change) {
    match change {
        Change::Link(name, file) => drop(names.insert(name, file)),
        Change::Remove(name) => drop(names.remove(&name)),
        Change::Rename(from, to) => {
            if let Some(file) = names.remove(&from) {
                names.insert(to, file);
            }
        }
    }
}
