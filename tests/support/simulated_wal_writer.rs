//! The WAL writer on a simulated disk: the protocol of `disk/wal_writer`, file after file.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use carbyne::wal::{Commit, FileName, Kind, Outcome, Part, SegmentId};

use crate::simulated_core::LatePart;
use crate::simulated_disk::{Fault, SimulatedDisk};

/// Files kept for their next use.
const SPARES_MAX: usize = 2;

/// What is done wrong on purpose.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wrongs {
    /// Commits are said to be synced and are not.
    pub(crate) skip_sync: bool,
    /// A part whose write or sync failed is said to be synced.
    pub(crate) hide_failures: bool,
}

/// What has become of a commit that was acknowledged too early.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Late {
    Written,
    /// It is to be tried again.
    Failed,
    /// The segment has been given up meanwhile.
    Gone,
}

/// One shard's.
#[derive(Debug)]
pub(crate) struct WalWriter {
    run: u64,
    shard: u16,
    segment_bytes: usize,
    is_power: bool,
    wrongs: Wrongs,
    spares: Vec<String>,
    serial: u32,
    /// The file for the next segment, by the name it has now.
    prepared: Option<String>,
    next_points: u32,
    /// The segments that are written to.
    open: Vec<SegmentId>,
}

impl WalWriter {
    pub(crate) fn new(
        (run, shard): (u64, u16),
        segment_bytes: u32,
        is_power: bool,
        wrongs: Wrongs,
        mut spares: Vec<String>,
        disk: &mut SimulatedDisk,
    ) -> WalWriter {
        while spares.len() > SPARES_MAX {
            let spare = spares.pop().expect("there are some");
            let _ = disk.remove(&spare);
        }
        WalWriter {
            run,
            shard,
            segment_bytes: segment_bytes as usize,
            is_power,
            wrongs,
            spares,
            serial: 0,
            prepared: None,
            next_points: 1,
            open: Vec::new(),
        }
    }

    /// Files that are there for later.
    pub(crate) fn waiting_files(&self) -> usize {
        self.spares.len() + usize::from(self.prepared.is_some())
    }

    /// Does a commit and gives each part its outcome.
    pub(crate) fn commit(&mut self, commit: &mut Commit, disk: &mut SimulatedDisk) {
        for part in commit.parts().filter(|part| part.is_new()) {
            if self.begin(part.id(), disk).is_err() {
                part.outcome = Outcome::Failed;
            }
        }
        let mut parts: Vec<&mut Part> =
            commit.parts().filter(|part| part.outcome == Outcome::Pending).collect();
        if disk.chance.permille(500) {
            parts.reverse();
        }
        for part in parts {
            part.outcome = self.write(part, disk);
        }
    }

    fn write(&mut self, part: &Part, disk: &mut SimulatedDisk) -> Outcome {
        let id = part.id();
        if !self.open.contains(&id) {
            return Outcome::Failed;
        }
        let offset = usize::try_from(part.offset()).expect("a small file");
        let written = disk.write(&text(id), offset, part.bytes());
        let done = match written {
            Ok(()) if !self.is_power => return Outcome::Written,
            Ok(()) if self.wrongs.skip_sync => Ok(()),
            Ok(()) => disk.sync(&text(id)),
            Err(fault) => Err(fault),
        };
        if done.is_ok() || self.wrongs.hide_failures {
            return if self.is_power { Outcome::Synced } else { Outcome::Written };
        }
        self.open.retain(|open| *open != id);
        if part.is_new() {
            let _ = disk.remove(&text(id)).and_then(|()| disk.sync_directory());
        }
        Outcome::Failed
    }

    /// Makes the file of a new segment ready to be written to.
    fn begin(&mut self, id: SegmentId, disk: &mut SimulatedDisk) -> Result<(), Fault> {
        let wanted = text(id);
        let name = match self.prepared.take() {
            Some(name) => name,
            None => self.find_file(disk)?,
        };
        if name != wanted {
            let renamed = disk.rename(&name, &wanted).and_then(|()| disk.sync_directory());
            if let Err(fault) = renamed {
                let _ = disk.remove(&wanted);
                let _ = disk.remove(&name);
                return Err(fault);
            }
        }
        self.open.retain(|open| open.kind != id.kind);
        self.open.push(id);
        if id.kind == Kind::Points {
            self.next_points = id.number + 1;
        }
        Ok(())
    }

    /// A step towards the next segment's file: it is there, then it bears the segment's name.
    pub(crate) fn prepare(&mut self, disk: &mut SimulatedDisk) {
        let wanted = text(SegmentId {
            run: self.run,
            shard: self.shard,
            kind: Kind::Points,
            number: self.next_points,
        });
        match self.prepared.take() {
            None => self.prepared = self.find_file(disk).ok(),
            // The first segment of a run has no name ahead.
            Some(name) if name == wanted || self.next_points == 1 => self.prepared = Some(name),
            Some(name) => {
                let renamed = disk.rename(&name, &wanted).and_then(|()| disk.sync_directory());
                self.prepared = renamed.ok().map(|()| wanted);
            }
        }
    }

    fn find_file(&mut self, disk: &mut SimulatedDisk) -> Result<String, Fault> {
        if let Some(spare) = self.spares.pop() {
            return Ok(spare);
        }
        let name = self.spare_name();
        disk.create(&name, self.segment_bytes)?;
        Ok(name)
    }

    fn spare_name(&mut self) -> String {
        self.serial += 1;
        FileName::Spare { run: self.run, shard: self.shard, serial: self.serial }.to_string()
    }

    /// Writes what was acknowledged before it was written.
    pub(crate) fn write_late(&mut self, parts: &[LatePart], disk: &mut SimulatedDisk) -> Late {
        let mut has_gone = false;
        for part in parts {
            if part.is_new && self.begin(part.id, disk).is_err() {
                return Late::Failed;
            }
            // It may have been given up under its name before it was begun.
            if !self.open.contains(&part.id) || disk.read(&text(part.id)).is_none() {
                has_gone = true;
                continue;
            }
            let written = disk.write(&text(part.id), part.offset, &part.bytes);
            if written.and_then(|()| disk.sync(&text(part.id))).is_err() {
                return Late::Failed;
            }
        }
        if has_gone { Late::Gone } else { Late::Written }
    }

    /// Takes the name from a segment's file; false when that failed.
    pub(crate) fn retire(&mut self, id: SegmentId, disk: &mut SimulatedDisk) -> bool {
        self.open.retain(|open| *open != id);
        if disk.read(&text(id)).is_some() {
            let spare = (self.spares.len() < SPARES_MAX).then(|| self.spare_name());
            let changed = match &spare {
                Some(spare) => disk.rename(&text(id), spare),
                None => disk.remove(&text(id)),
            };
            if changed.is_err() {
                return false;
            }
            self.spares.extend(spare);
        }
        disk.sync_directory().is_ok()
    }
}

fn text(id: SegmentId) -> String {
    FileName::Segment(id).to_string()
}
