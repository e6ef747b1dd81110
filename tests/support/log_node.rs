//! Shards with real logs on a simulated disk: a cache that is plain maps, a log writer that follows
//! the protocol of the log, and a tree of Whisper files that is a map with stable and lost values.
//!
//! A `Plant` is a bug on purpose, to see that a simulation would find it.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use carbyne::metric::point::Point;
use carbyne::wal::{
    Commit, FileName, INHERITANCE, Log, Mark, Options, Outcome, Part, Replay, Report, SegmentId,
    logs,
};

use crate::seeds::Chance;
use crate::simulated_disk::{Fault, SimulatedDisk};

/// Length of a segment: a rotation every 15 commits at most.
pub(crate) const SEGMENT_BYTES: u32 = 64 << 10;
const BUFFER_BYTES: usize = 32 << 10;
pub(crate) const SEGMENTS_MAX: u32 = 12;
const SPARES_MAX: usize = 2;

/// A metric's number in the simulation, and a timestamp.
pub(crate) type Key = (usize, u32);

/// A bug on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    None,
    /// Commits are said to be synced and are not.
    SkipSync,
    /// A checkpoint is said to be done and is not.
    SkipCheckpoint,
    /// A failed checkpoint is said to have succeeded.
    HideFailedCheckpoint,
    /// Marks of the run before are taken for this one's: names are not defined again.
    KeepMarks,
    /// A run has the number of the one before: old frames look like new ones.
    SameRun,
    /// Inherited files go when one shard needs them no more.
    DropInheritance,
    /// Segments are released when a write begins and not when it is confirmed.
    ReleaseEarly,
    /// A part whose write failed is said to be written.
    HideFailedWrite,
}

/// Whisper files: what is seen, what is stable, what is still to be written.
#[derive(Debug, Default)]
pub(crate) struct Files {
    pub(crate) seen: BTreeMap<Key, u64>,
    kept: BTreeMap<Key, u64>,
    dirty: BTreeSet<Key>,
    /// What the sync under way has found to do: nothing written after its start.
    syncing: BTreeMap<Key, u64>,
}

impl Files {
    /// The value is in the file, at least until power is lost.
    pub(crate) fn holds(&self, key: Key, value: u64) -> bool {
        [&self.seen, &self.kept].iter().any(|values| values.get(&key) == Some(&value))
    }

    fn write(&mut self, key: Key, value: u64) {
        self.seen.insert(key, value);
        self.dirty.insert(key);
    }

    fn write_back(&mut self, key: Key) {
        self.kept.insert(key, self.seen[&key]);
    }

    fn begin_sync(&mut self) {
        self.syncing = self.dirty.iter().map(|key| (*key, self.seen[key])).collect();
    }

    /// A failed sync drops what was to be kept; what is seen does not change.
    fn end_sync(&mut self, is_ok: bool) {
        for (key, value) in std::mem::take(&mut self.syncing) {
            // What is not dirty any more was written meanwhile, maybe in a later state.
            let is_dirty = self.dirty.contains(&key);
            if is_dirty && is_ok {
                self.kept.insert(key, value);
            }
            if self.seen[&key] == value {
                self.dirty.remove(&key);
            }
        }
    }

    /// The kernel writes some of it when it likes.
    pub(crate) fn age(&mut self, chance: &mut Chance) {
        for key in std::mem::take(&mut self.dirty) {
            if chance.permille(300) {
                self.write_back(key);
            } else {
                self.dirty.insert(key);
            }
        }
    }

    pub(crate) fn lose_power(&mut self, chance: &mut Chance) {
        self.age(chance);
        self.dirty.clear();
        self.syncing.clear();
        self.seen = self.kept.clone();
    }
}

/// Waiting points of one metric.
#[derive(Debug, Default)]
struct Entry {
    mark: Mark,
    waiting: Vec<(u32, u64)>,
    waiting_hold: Option<u32>,
    writing: Vec<(u32, u64)>,
    writing_hold: Option<u32>,
}

/// One shard.
pub(crate) struct Shard {
    pub(crate) log: Log,
    entries: BTreeMap<usize, Entry>,
    commit: Option<Commit>,
    spares: Vec<String>,
    serial: u32,
    /// Points received and not acknowledged yet.
    unacknowledged: VecDeque<(Key, u64)>,
    acknowledged: u64,
}

/// All shards of one run.
pub(crate) struct Node {
    pub(crate) shards: Vec<Shard>,
    /// Replayed points that are not in the cache yet.
    pub(crate) replayed: VecDeque<(Key, u64)>,
    is_read: bool,
    inherited: Vec<String>,
    run: u64,
    is_checkpoint_begun: bool,
    is_power: bool,
    plant: Plant,
    now: Instant,
}

fn text(id: SegmentId) -> String {
    FileName::Segment(id).to_string()
}

/// What is found at a start: points in order, and what the replay says.
pub(crate) fn read_back(disk: &SimulatedDisk, names: &[Vec<u8>]) -> (Vec<(Key, u64)>, Vec<Report>) {
    let files: Vec<FileName> =
        disk.names().iter().filter_map(|name| FileName::parse(name)).collect();
    let mut found = Vec::new();
    let mut reports = Vec::new();
    let bytes_of = |id: SegmentId| disk.read(&text(id)).expect("a file that was listed");
    for log in logs(&files) {
        let mut replay = Replay::new(log.clone());
        for &id in &log.names {
            replay.add_names(id, bytes_of(id));
        }
        let _ = log.points.iter().rev().find(|&&id| replay.look(id, bytes_of(id)));
        for &id in &log.points {
            let mut cursor = replay.begin(id, bytes_of(id));
            while replay.next_frame(&mut cursor, bytes_of(id), |name, point| {
                let metric = names.iter().position(|known| known == name);
                let metric = metric.expect("no name is invented");
                #[allow(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "an id"
                )]
                found.push(((metric, point.timestamp_s), point.value as u64));
            }) {}
        }
        reports.push(replay.finish());
    }
    (found, reports)
}

impl Node {
    /// Starts a run; what is replayed waits in `replayed`.
    pub(crate) fn start(
        disk: &SimulatedDisk,
        before: Option<Node>,
        shard_count: usize,
        (is_power, plant): (bool, Plant),
        replayed: Vec<(Key, u64)>,
    ) -> Node {
        let files: Vec<FileName> =
            disk.names().iter().filter_map(|name| FileName::parse(name)).collect();
        let greatest = files.iter().map(FileName::run).max().unwrap_or(0);
        let run = match &before {
            Some(node) if plant == Plant::SameRun => node.run,
            _ => greatest + 1,
        };
        let mut inherited = Vec::new();
        let mut spares = vec![Vec::new(); shard_count];
        for (index, file) in files.iter().enumerate() {
            match file {
                FileName::Segment(_) | FileName::Settled { .. } => inherited.push(file.to_string()),
                FileName::Spare { .. } => spares[index % shard_count].push(file.to_string()),
            }
        }
        let share = u32::try_from(inherited.len().div_ceil(shard_count)).expect("few");
        let mut old = before.map_or_else(Vec::new, |node| node.shards);
        let shards = spares.into_iter().enumerate().map(|(index, spares)| {
            let log = Log::new(Options {
                run,
                shard: u16::try_from(index).expect("few"),
                shard_count: u16::try_from(shard_count).expect("few"),
                segment_bytes: SEGMENT_BYTES,
                segments_max: SEGMENTS_MAX,
                buffer_bytes: BUFFER_BYTES,
                inherited_segments: (share > 0).then_some(share),
            });
            let mut entries = BTreeMap::new();
            if plant == Plant::KeepMarks && index < old.len() {
                entries = std::mem::take(&mut old[index].entries);
                entries.values_mut().for_each(|entry| {
                    *entry = Entry { mark: entry.mark, ..Entry::default() };
                });
            }
            let unacknowledged = VecDeque::new();
            Shard { log, entries, commit: None, spares, serial: 0, unacknowledged, acknowledged: 0 }
        });
        Node {
            shards: shards.collect(),
            replayed: replayed.into(),
            is_read: share == 0,
            inherited,
            run,
            is_checkpoint_begun: false,
            is_power,
            plant,
            now: Instant::now(),
        }
    }

    fn owner(&self, metric: usize) -> usize {
        metric * 7 % self.shards.len()
    }

    /// Puts some replayed points into the cache; the last says that all are there.
    pub(crate) fn replay_some(&mut self, count: usize) {
        for _ in 0..count {
            let Some(((metric, timestamp_s), value)) = self.replayed.pop_front() else { break };
            let owner = self.owner(metric);
            let shard = &mut self.shards[owner];
            let entry = shard.entries.entry(metric).or_default();
            entry.waiting.push((timestamp_s, value));
            if entry.waiting_hold.is_none() {
                shard.log.hold(INHERITANCE);
                entry.waiting_hold = Some(INHERITANCE);
            }
        }
        if self.replayed.is_empty() && !self.is_read {
            self.is_read = true;
            let now = self.now;
            self.shards.iter_mut().for_each(|shard| shard.log.inheritance_read(now));
        }
    }

    /// Receives a point; false: the node makes its sender wait.
    pub(crate) fn receive(&mut self, name: &[u8], key: Key, value: u64) -> bool {
        let owner = self.owner(key.0);
        let shard = &mut self.shards[owner];
        if !self.is_read || shard.log.is_full() {
            return false;
        }
        let entry = shard.entries.entry(key.0).or_default();
        #[allow(clippy::cast_precision_loss, reason = "values are small whole numbers")]
        let point = Point { timestamp_s: key.1, value: value as f64 };
        let segment = shard.log.append(&mut entry.mark, || name, point).expect("it was not full");
        entry.waiting.push((key.1, value));
        if entry.waiting_hold.is_none() {
            shard.log.hold(segment);
            entry.waiting_hold = Some(segment);
        }
        shard.unacknowledged.push_back((key, value));
        true
    }

    /// A tick of the commit interval: takes the next commit.
    pub(crate) fn commit(&mut self, shard: usize) {
        self.now += Duration::from_millis(50);
        let shard = &mut self.shards[shard];
        if shard.commit.is_none() {
            shard.commit = shard.log.take_commit(self.now, 1_700_000_000);
        }
    }

    /// The log writer does the commit under way; returns what is acknowledged now.
    pub(crate) fn write_commit(
        &mut self,
        index: usize,
        disk: &mut SimulatedDisk,
    ) -> Vec<(Key, u64)> {
        let shard = &mut self.shards[index];
        let Some(mut commit) = shard.commit.take() else { return Vec::new() };
        for part in commit.parts() {
            let outcome = write_part(disk, shard_writer(shard), part, (self.run, index));
            part.outcome = match outcome {
                Ok(()) if !self.is_power => Outcome::Written,
                Ok(()) => sync_part(disk, part, self.plant),
                Err(Outcome::Broken) if self.plant == Plant::HideFailedWrite => Outcome::Synced,
                Err(outcome) => outcome,
            };
            if part.outcome == Outcome::Broken && part.is_new() {
                let is_gone =
                    disk.remove(&text(part.id())).is_ok() && disk.sync_directory().is_ok();
                part.outcome = if is_gone { Outcome::NotBegun } else { Outcome::Broken };
            }
        }
        if disk.is_dead() {
            return Vec::new();
        }
        shard.log.committed(commit, self.now);
        let counters = shard.log.counters();
        if self.is_power {
            assert_eq!(counters.written_points, counters.synced_points);
        }
        let count = counters.written_points - shard.acknowledged;
        shard.acknowledged = counters.written_points;
        shard.unacknowledged.drain(..usize::try_from(count).expect("few")).collect()
    }

    /// A flush of the metric begins, or ends: `is_ok` says how its write went.
    pub(crate) fn flush(&mut self, metric: usize, files: &mut Files, is_ok: bool) {
        let plant = self.plant;
        let owner = self.owner(metric);
        let shard = &mut self.shards[owner];
        let Some(entry) = shard.entries.get_mut(&metric) else { return };
        if entry.writing.is_empty() {
            std::mem::swap(&mut entry.waiting, &mut entry.writing);
            entry.writing_hold = entry.waiting_hold.take();
            if plant == Plant::ReleaseEarly {
                entry.writing_hold.take().into_iter().for_each(|hold| shard.log.release(hold));
            }
            return;
        }
        let points = std::mem::take(&mut entry.writing);
        let hold = entry.writing_hold.take();
        if is_ok {
            points.iter().for_each(|&(time, value)| files.write((metric, time), value));
            hold.into_iter().for_each(|hold| shard.log.release(hold));
            return;
        }
        entry.waiting.splice(0..0, points);
        let newer = entry.waiting_hold.take();
        if let (Some(_), Some(newer)) = (hold, newer) {
            shard.log.release(newer);
        }
        entry.waiting_hold = hold.or(newer);
    }

    /// Metrics whose points hold the segment.
    pub(crate) fn holders(&self, shard: usize, segment: u32) -> Vec<usize> {
        let entries = self.shards[shard].entries.iter();
        entries
            .filter(|(_, entry)| entry.waiting_hold == Some(segment))
            .map(|(&id, _)| id)
            .collect()
    }

    /// Does what the log asks for so that it does not fill up.
    pub(crate) fn relieve(&mut self, index: usize, names: &[Vec<u8>], metrics_max: usize) {
        let Some(oldest) = self.shards[index].log.carry_wanted(self.now) else { return };
        for metric in self.holders(index, oldest).into_iter().take(metrics_max) {
            let shard = &mut self.shards[index];
            let entry = shard.entries.get_mut(&metric).expect("a holder");
            let latest: BTreeMap<u32, u64> = entry.waiting.iter().copied().collect();
            let mut first = None;
            for (&timestamp_s, &value) in &latest {
                #[allow(clippy::cast_precision_loss, reason = "values are small whole numbers")]
                let point = Point { timestamp_s, value: value as f64 };
                let Ok(segment) = shard.log.carry(&mut entry.mark, || &names[metric], point) else {
                    return;
                };
                first.get_or_insert(segment);
            }
            let first = first.expect("a holder has points");
            shard.log.hold(first);
            shard.log.release(oldest);
            entry.waiting_hold = Some(first);
        }
    }

    /// Begins a checkpoint if a shard wants one.
    pub(crate) fn begin_checkpoint(&mut self, files: &mut Files) {
        if self.is_checkpoint_begun || !self.shards.iter().any(|s| s.log.checkpoint_wanted()) {
            return;
        }
        self.is_checkpoint_begun = true;
        self.shards.iter_mut().for_each(|shard| shard.log.checkpoint_begun());
        files.begin_sync();
    }

    /// The checkpoint ends. False: the process must end now.
    pub(crate) fn end_checkpoint(&mut self, files: &mut Files, is_ok: bool) -> bool {
        if !self.is_checkpoint_begun {
            return true;
        }
        self.is_checkpoint_begun = false;
        if self.plant != Plant::SkipCheckpoint {
            files.end_sync(is_ok);
        }
        let is_ok = is_ok || self.plant == Plant::HideFailedCheckpoint;
        self.shards.iter_mut().for_each(|shard| shard.log.checkpoint_done(is_ok));
        is_ok
    }

    /// Gives up what the logs need no more: one segment of the shard, or the inheritance.
    pub(crate) fn retire(&mut self, index: usize, disk: &mut SimulatedDisk) {
        let mut released = self.shards.iter().map(|shard| shard.log.is_inheritance_released());
        let is_released = match self.plant {
            Plant::DropInheritance => self.is_read && released.any(|is_released| is_released),
            _ => released.all(|is_released| is_released),
        };
        if is_released && !self.inherited.is_empty() && self.drop_inheritance(disk).is_err() {
            return;
        }
        if is_released {
            let shards = self.shards.iter_mut();
            let heirs = shards.filter(|shard| shard.log.is_inheritance_released());
            heirs.for_each(|shard| shard.log.inheritance_gone());
        }
        let shard = &mut self.shards[index];
        let Some(id) = shard.log.take_retired() else { return };
        let is_ok = give_up(disk, shard_writer(shard), id, (self.run, index)).is_ok();
        if !disk.is_dead() {
            shard.log.retired(id, is_ok);
        }
    }

    /// Deletes what earlier runs left, in any order: the word that it is settled comes first.
    fn drop_inheritance(&mut self, disk: &mut SimulatedDisk) -> Result<(), Fault> {
        let settled = FileName::Settled { run: self.run }.to_string();
        if disk.read(&settled).is_none() {
            disk.create(&settled, 0)?;
        }
        disk.sync_directory()?;
        while !self.inherited.is_empty() {
            let index = disk.chance.below(self.inherited.len());
            disk.remove(&self.inherited[index])?;
            self.inherited.swap_remove(index);
        }
        disk.sync_directory()?;
        disk.remove(&settled)
    }

    /// Forgets a metric without points.
    pub(crate) fn forget(&mut self, metric: usize, name: &[u8]) {
        let owner = self.owner(metric);
        let shard = &mut self.shards[owner];
        let is_idle = |entry: &Entry| entry.waiting.is_empty() && entry.writing.is_empty();
        if shard.entries.get(&metric).is_some_and(is_idle) {
            let entry = shard.entries.remove(&metric).expect("it is there");
            shard.log.forget(entry.mark, name);
        }
    }

    /// Everything is in its file, every log has given up what it can.
    pub(crate) fn is_idle(&self) -> bool {
        self.is_read
            && self.inherited.is_empty()
            && self.shards.iter().all(|shard| {
                let mut entries = shard.entries.values();
                shard.log.is_settled()
                    && entries.all(|entry| entry.waiting.is_empty() && entry.writing.is_empty())
                    && !shard.log.checkpoint_wanted()
                    && shard.log.file_count() < SEGMENTS_MAX
            })
    }
}

/// The log writer's own state in a shard.
fn shard_writer(shard: &mut Shard) -> (&mut Vec<String>, &mut u32) {
    (&mut shard.spares, &mut shard.serial)
}

fn spare_name(serial: &mut u32, (run, shard): (u64, usize)) -> String {
    *serial += 1;
    let shard = u16::try_from(shard).expect("few");
    FileName::Spare { run, shard, serial: *serial }.to_string()
}

/// What the log writer does with one part, up to the sync.
fn write_part(
    disk: &mut SimulatedDisk,
    (spares, serial): (&mut Vec<String>, &mut u32),
    part: &Part,
    place: (u64, usize),
) -> Result<(), Outcome> {
    let name = text(part.id());
    if part.is_new() {
        let spare = match spares.pop() {
            Some(spare) => spare,
            None => {
                let spare = spare_name(serial, place);
                let made = disk.create(&spare, SEGMENT_BYTES as usize);
                made.map_err(|_| Outcome::NotBegun)?;
                spare
            }
        };
        if disk.rename(&spare, &name).is_err() {
            spares.push(spare);
            return Err(Outcome::NotBegun);
        }
        disk.sync_directory().map_err(|_| Outcome::Broken)?;
    }
    let offset = usize::try_from(part.offset()).expect("small");
    disk.write(&name, offset, part.bytes()).map_err(|_| Outcome::Broken)
}

fn sync_part(disk: &mut SimulatedDisk, part: &Part, plant: Plant) -> Outcome {
    if plant == Plant::SkipSync {
        return Outcome::Synced;
    }
    match disk.sync(&text(part.id())) {
        Ok(()) => Outcome::Synced,
        Err(_) if plant == Plant::HideFailedWrite => Outcome::Synced,
        Err(_) => Outcome::Broken,
    }
}

/// What the log writer does with a retired segment.
fn give_up(
    disk: &mut SimulatedDisk,
    (spares, serial): (&mut Vec<String>, &mut u32),
    id: SegmentId,
    place: (u64, usize),
) -> Result<(), Fault> {
    let name = text(id);
    if disk.read(&name).is_some() {
        if spares.len() < SPARES_MAX {
            let spare = spare_name(serial, place);
            disk.rename(&name, &spare)?;
            spares.push(spare);
        } else {
            disk.remove(&name)?;
        }
    }
    disk.sync_directory()
}
