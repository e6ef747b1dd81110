//! A node of several cores on a simulated log disk and a simulated tree: links, the main thread's
//! part in recovery and stop, and the sync that all cores share. Each method is a step of what the
//! tasks do, so that a simulation can put any other step, or the end, between two of them.
//!
//! A `Plant` is a bug on purpose, put where the shard meets the simulation, to see that it is
//! found.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use carbyne::cache::WriteStrategy;
use carbyne::metric::batch;
use carbyne::metric::owner::{ShardId, owner};
use carbyne::metric::point::{Arrival, admit};
use carbyne::schema::Rules;
use carbyne::shard::{Replayed, Shard, ShardOptions};
use carbyne::tasks::receive_tcp::take_lines;
use carbyne::wal::{
    self, BootId, Confirmed, FileName, LogFiles, Position, Replay, Report, SegmentId, logs,
};

use crate::simulated_core::{Checkpoint, Core};
use crate::simulated_disk::{Fault, SimulatedDisk};
use crate::simulated_model::{Key, Model, whole};
use crate::simulated_tree::SimulatedTree;
use crate::simulated_wal_writer::{WalWriter, Wrongs};

/// Length of a segment: a rotation every 15 commits at most.
pub(crate) const SEGMENT_BYTES: u32 = 64 << 10;
const BUFFER_BYTES: usize = 32 << 10;

/// Points further ahead than this are refused.
const FUTURE_S_MAX: u32 = 600;

/// Batches that a link takes.
const LINK_BATCHES: usize = 2;

/// Points of a metric that is set aside.
const QUARANTINED_MAX: u32 = 2;

/// A bug on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Plant {
    None,
    /// Commits are said to be synced and are not.
    SkipSync,
    /// A part of a commit whose write failed is said to be written.
    HideFailedWrite,
    /// A checkpoint is said to be done and is not: segments go too early.
    SkipCheckpoint,
    /// A failed checkpoint is said to have succeeded.
    HideFailedCheckpoint,
    /// What is taken for a write is released, and not when the write is confirmed.
    ReleaseAtTake,
    /// What waits again after a failed write is not held again.
    ReleaseAtFailure,
    /// Replayed points come in the wrong order: the older one wins.
    ReplayBackwards,
    /// What is logged again counts as committed before it is written.
    CarryEarly,
    /// Inherited files go when one shard needs them no more.
    DropInheritance,
    /// Inherited points hold nothing: the files go when all points have come.
    ForgetInherited,
    /// A run has the number of the one before: old frames look like new ones.
    SameRun,
    /// What is in its file is replayed all the same.
    ReplayConfirmed,
    /// What is replayed arrives anew.
    WrongNow,
    /// Points are written in the order of their timestamps.
    GreatestTimestamp,
    /// A stop says that the files are synced before they are.
    SettleEarly,
}

/// How a node is set up; the same for all its runs.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) is_power: bool,
    pub(crate) plant: Plant,
    pub(crate) segments_max: u32,
    pub(crate) budget_bytes: usize,
    pub(crate) points_max: u64,
    pub(crate) updates_per_s: f64,
    pub(crate) creates_per_s: f64,
    pub(crate) strategy: WriteStrategy,
    pub(crate) batch_bytes: usize,
    pub(crate) rules: Arc<Rules>,
    /// How far files reach back, in seconds.
    pub(crate) retention_s: u32,
}

/// What outlives a run: both disks, and what is known of every point.
pub(crate) struct Ground {
    pub(crate) disk: SimulatedDisk,
    pub(crate) tree: SimulatedTree,
    pub(crate) model: Model,
    /// Losses of power so far.
    pub(crate) boots: u8,
}

/// How far a node is on its way down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Stage {
    Recovering,
    Running,
    /// Everything received goes to its owner; then the node seals its log, or drains.
    Stopping {
        is_drain: bool,
    },
    Sealing,
    Draining,
    /// It has ended as it should.
    Ended {
        is_empty: bool,
        /// The log says what is in files, and they are on stable storage.
        is_settled: bool,
    },
}

/// All cores of one run.
pub(crate) struct Node {
    pub(crate) cores: Vec<Core>,
    links: BTreeMap<(usize, usize), VecDeque<Vec<u8>>>,
    spent: BTreeMap<(usize, usize), Vec<Vec<u8>>>,
    inherited: Vec<String>,
    /// Inherited files, for each shard.
    pub(crate) share: u32,
    pub(crate) run: u64,
    pub(crate) stage: Stage,
    /// After a sync that failed no other one counts.
    has_sync_failed: bool,
    /// The stop waits until what is written is on stable storage.
    settles: bool,
    pub(crate) now: Instant,
    pub(crate) now_s: u32,
    plant: Plant,
}

/// What a start finds in the logs.
pub(crate) struct Found {
    /// What is replayed: its metric, where it is, and the point.
    pub(crate) points: Vec<(usize, Position, Arrival)>,
    /// The values of each metric that are in the logs.
    pub(crate) logged: BTreeMap<usize, Vec<u64>>,
    pub(crate) reports: Vec<Report>,
}

impl Found {
    /// What is replayed of each metric.
    pub(crate) fn by_metric(&self) -> BTreeMap<usize, Vec<Arrival>> {
        let mut all: BTreeMap<usize, Vec<Arrival>> = BTreeMap::new();
        for &(metric, _, point) in &self.points {
            all.entry(metric).or_default().push(point);
        }
        all
    }
}

/// Reads the logs as they are.
pub(crate) fn read_logs(ground: &Ground, plant: Plant, now_s: u32) -> Found {
    let logs = logs(&file_names(&ground.disk));
    let mut confirmed = Confirmed::new(boot_id(ground));
    let nothing = Confirmed::new(BootId::default());
    for log in logs.iter().filter(|_| plant != Plant::ReplayConfirmed) {
        let mut replay = open_log(ground, log);
        log.points.iter().for_each(|id| replay.survey(*id, bytes_of(ground, *id), &mut confirmed));
        replay.end_survey(&mut confirmed);
    }
    confirmed.end_survey();
    let mut found = Found { points: Vec::new(), logged: BTreeMap::new(), reports: Vec::new() };
    for log in &logs {
        read_log(ground, log, &nothing, |metric, _, point| {
            found.logged.entry(metric).or_default().push(whole(point.value));
        });
        let report = read_log(ground, log, &confirmed, |metric, position, mut point| {
            if plant == Plant::WrongNow {
                point.arrived_s = now_s;
            }
            found.points.push((metric, position, point));
        });
        found.reports.push(report);
    }
    if plant == Plant::ReplayBackwards {
        found.points.reverse();
    }
    found
}

fn open_log(ground: &Ground, log: &LogFiles) -> Replay {
    let mut replay = Replay::new(log.clone());
    log.names.iter().for_each(|id| replay.add_names(*id, bytes_of(ground, *id)));
    let _ = log.points.iter().rev().find(|&&id| replay.look(id, bytes_of(ground, id)));
    replay
}

fn read_log(
    ground: &Ground,
    log: &LogFiles,
    confirmed: &Confirmed,
    mut sink: impl FnMut(usize, Position, Arrival),
) -> Report {
    let mut replay = open_log(ground, log);
    replay.resolve(confirmed);
    let LogFiles { run, shard, .. } = *log;
    for &id in &log.points {
        let bytes = bytes_of(ground, id);
        let mut cursor = replay.begin(id, bytes);
        while replay.next_frame(&mut cursor, bytes, confirmed, |name, point, record| {
            sink(ground.model.metric(name), Position { run, shard, record }, point);
        }) {}
    }
    replay.finish()
}

fn bytes_of(ground: &Ground, id: SegmentId) -> &[u8] {
    ground.disk.read(&text(id)).expect("a file that was listed")
}

fn boot_id(ground: &Ground) -> BootId {
    BootId([1 + ground.boots; 16])
}

impl Node {
    /// Starts a run over what the one before, if any, has left.
    pub(crate) fn start(
        ground: &mut Ground,
        setup: &Setup,
        before: Option<&Node>,
        count: usize,
        found: &Found,
    ) -> Node {
        let files = file_names(&ground.disk);
        let greatest = files.iter().map(FileName::run).max().unwrap_or(0);
        let (now, now_s, last_run) = match before {
            None => (Instant::now(), 0, greatest),
            Some(node) => (node.now, node.now_s, node.run),
        };
        let run = if setup.plant == Plant::SameRun { last_run.max(1) } else { greatest + 1 };
        let is_spare = |file: &&FileName| matches!(file, FileName::Spare { .. });
        let (spares, inherited): (Vec<&FileName>, Vec<&FileName>) =
            files.iter().partition(is_spare);
        let share = u32::try_from(inherited.len().div_ceil(count)).expect("few");
        let mut queues = inherited_batches(ground, count, found);
        let cores = (0..count).map(|index| {
            let mine = spares.iter().skip(index).step_by(count);
            let mine = mine.map(ToString::to_string).collect();
            let inherited = (share > 0).then_some(share);
            let options = options(setup, (index, count), (run, boot_id(ground)), inherited);
            let shard = Shard::new(options, Arc::clone(&setup.rules), now);
            let wrongs = Wrongs {
                skip_sync: setup.plant == Plant::SkipSync,
                hide_failures: setup.plant == Plant::HideFailedWrite,
            };
            let place = (run, u16::try_from(index).expect("few"));
            let disk = &mut ground.disk;
            let writer = WalWriter::new(place, SEGMENT_BYTES, setup.is_power, wrongs, mine, disk);
            let how = (setup.is_power, setup.plant);
            Core::new(shard, writer, how, std::mem::take(&mut queues[index]), share > 0)
        });
        Node {
            cores: cores.collect(),
            links: BTreeMap::new(),
            spent: BTreeMap::new(),
            inherited: inherited.iter().map(ToString::to_string).collect(),
            share,
            run,
            stage: if share > 0 { Stage::Recovering } else { Stage::Running },
            has_sync_failed: false,
            settles: false,
            now,
            now_s,
            plant: setup.plant,
        }
    }

    /// A receiver of this core takes lines with new points for these metrics and seconds.
    pub(crate) fn receive(&mut self, at: usize, keys: &[Key], model: &mut Model) {
        let mut points = Vec::with_capacity(keys.len());
        let mut lines = Vec::new();
        for &(metric, timestamp_s) in keys {
            let value = model.new_value(at);
            lines.extend_from_slice(&model.names[metric]);
            lines.extend_from_slice(format!(" {value} {timestamp_s}\n").as_bytes());
            points.push(((metric, timestamp_s), value));
        }
        self.set_time(at);
        let shard = &mut self.cores[at].shard;
        let mut carry = Vec::new();
        take_lines(shard, &mut carry, &lines).expect("short lines");
        for (key, value) in points {
            if self.is_admitted(at, key, model) {
                self.cores[at].note(model, key, value);
            }
        }
    }

    fn set_time(&mut self, at: usize) {
        self.cores[at].shard.set_time(self.now_s);
    }

    fn is_admitted(&self, at: usize, key: Key, model: &mut Model) -> bool {
        let now_s = self.cores[at].shard.now_s();
        let is_admitted = admit(f64::from(key.1), 1.0, now_s, FUTURE_S_MAX).is_ok();
        model.admitted += u64::from(is_admitted);
        is_admitted
    }

    /// Puts batches of this core into its links, as far as they have room.
    pub(crate) fn send(&mut self, at: usize, also_open: bool) {
        for to in (0..self.cores.len()).filter(|&to| to != at) {
            let id = ShardId(u16::try_from(to).expect("few"));
            let link = self.links.entry((at, to)).or_default();
            let outbox = self.cores[at].shard.outbox();
            while let Some(batch) = outbox.pop(id, also_open) {
                if link.len() == LINK_BATCHES {
                    outbox.unpop(id, batch);
                    break;
                }
                link.push_back(batch);
            }
        }
    }

    /// A core takes a batch of another one, unless it is full.
    pub(crate) fn take(&mut self, to: usize, from: usize, model: &mut Model) {
        if self.stage == Stage::Running && self.cores[to].shard.is_full() {
            return;
        }
        let Some(batch) = self.links.entry((from, to)).or_default().pop_front() else { return };
        self.set_time(to);
        let core = &mut self.cores[to];
        core.shard.accept_batch(&batch);
        core.note_batch(model, &batch);
        self.spent.entry((from, to)).or_default().push(batch);
    }

    /// A core takes its emptied buffers back.
    pub(crate) fn take_spent(&mut self, at: usize) {
        for to in 0..self.cores.len() {
            let Some(buffers) = self.spent.get_mut(&(at, to)) else { continue };
            for buffer in buffers.drain(..) {
                let id = ShardId(u16::try_from(to).expect("few"));
                self.cores[at].shard.outbox().give_back(id, buffer);
            }
        }
        self.send(at, false);
    }

    /// A core takes points of earlier runs, or hears that all have come.
    pub(crate) fn inherit(&mut self, at: usize) {
        let now = self.now;
        let is_all = self.cores.iter().all(|core| core.inheritance.is_empty());
        let core = &mut self.cores[at];
        if core.inheritance.is_empty() {
            if is_all && !core.is_read {
                core.is_read = true;
                core.log().inheritance_read(now);
            }
            return;
        }
        if !core.shard.is_cache_full() {
            let batch = core.inheritance.pop_front().expect("it is not empty");
            core.shard.accept_replayed(&batch);
        }
    }

    /// The sync of the tree begins for all cores that have asked for it.
    pub(crate) fn begin_sync(&mut self, ground: &mut Ground) {
        if ground.tree.is_syncing() {
            return;
        }
        let mut is_asked = false;
        for core in &mut self.cores {
            if core.checkpoint == Checkpoint::Asked && core.log().may_sync() {
                core.checkpoint = Checkpoint::Covered;
                is_asked = true;
            }
        }
        if is_asked {
            ground.tree.begin_sync();
        }
    }

    /// The sync ends.
    pub(crate) fn end_sync(&mut self, ground: &mut Ground, is_ok: bool) {
        if !ground.tree.is_syncing() {
            return;
        }
        self.has_sync_failed |= !is_ok;
        if self.plant == Plant::SkipCheckpoint {
            ground.tree.forget_sync();
        } else {
            ground.tree.end_sync(is_ok);
        }
        for core in &mut self.cores {
            if core.checkpoint == Checkpoint::Covered {
                core.checkpoint = Checkpoint::Answered(!self.has_sync_failed);
            }
        }
    }

    /// The main thread looks whether something is to be done.
    pub(crate) fn govern(&mut self, ground: &mut Ground) {
        let mut told = self.cores.iter().map(|core| core.has_told);
        let is_told = match self.plant {
            Plant::DropInheritance => self.cores.iter().all(|c| c.is_read) && told.any(|it| it),
            Plant::ForgetInherited => self.cores.iter().all(|core| core.is_read),
            _ => told.all(|it| it),
        };
        if is_told && !self.inherited.is_empty() && self.drop_inheritance(&mut ground.disk).is_ok()
        {
            self.cores.iter_mut().for_each(|core| core.is_gone_ordered = true);
        }
        let stage = self.stage;
        match stage {
            Stage::Recovering if self.cores.iter().all(|core| core.is_read) => {
                self.stage = Stage::Running;
            }
            Stage::Stopping { is_drain } if self.is_quiet() => {
                self.stage = if is_drain { Stage::Draining } else { Stage::Sealing };
                // A sync that takes too long is not waited for.
                self.settles = ground.disk.chance.permille(700);
            }
            Stage::Sealing if self.cores.iter().all(Core::is_committed) => {
                let is_settled = self.cores.iter_mut().all(|core| core.settle());
                if is_settled || !self.settles {
                    let unnoted = |core: &Core| core.shard.counters.unnoted_updates;
                    let is_noted = self.cores.iter().all(|core| unnoted(core) == 0);
                    self.end_sealed(is_settled && is_noted);
                }
            }
            Stage::Draining => self.drain(ground),
            _ => {}
        }
    }

    /// A core hears that nothing is inherited any more.
    pub(crate) fn hear(&mut self, at: usize) {
        let core = &mut self.cores[at];
        if core.is_gone_ordered && core.log().is_inheritance_released() {
            core.is_gone_ordered = false;
            core.log().inheritance_gone();
        }
    }

    /// Deletes what earlier runs left: the word that it is settled comes first.
    fn drop_inheritance(&mut self, disk: &mut SimulatedDisk) -> Result<(), Fault> {
        settle(disk, self.run, &mut self.inherited.clone())?;
        self.inherited.clear();
        Ok(())
    }

    /// Everything received is with its owner.
    fn is_quiet(&mut self) -> bool {
        self.links.values().all(VecDeque::is_empty)
            && self.cores.iter_mut().all(|core| core.shard.outbox().is_settled())
    }

    fn end_sealed(&mut self, is_settled: bool) {
        self.cores.iter().for_each(Core::check_sealed);
        self.check_total();
        self.stage = Stage::Ended { is_empty: false, is_settled };
    }

    /// A drain is over when everything is written; then the logs go.
    fn drain(&mut self, ground: &mut Ground) {
        let is_written = |core: &Core| {
            let is_asking = core.checkpoint != Checkpoint::None;
            core.has_written() && core.shard.unwritten_count() == 0 && !is_asking
        };
        if !self.cores.iter().all(is_written) {
            self.cores.iter_mut().for_each(|core| core.shard.hurry());
            return;
        }
        self.check_total();
        ground.tree.begin_sync();
        ground.tree.end_sync(true);
        let mut names: Vec<String> = ground.disk.names();
        names.retain(|name| !matches!(FileName::parse(name), Some(FileName::Spare { .. })));
        let is_empty = settle(&mut ground.disk, self.run + 1, &mut names).is_ok();
        if !ground.disk.is_dead() {
            if is_empty {
                ground.model.acknowledge_all();
            }
            self.stage = Stage::Ended { is_empty, is_settled: is_empty };
        }
    }

    fn check_total(&mut self) {
        let surplus: i128 = self.cores.iter().map(Core::surplus).sum();
        assert_eq!(surplus, 0, "points that nobody has accepted are on no way");
        for core in &mut self.cores {
            let left = core.shard.give_up();
            assert_eq!(left, core.shard.counters.logged);
        }
    }

    /// The segments of this run that shards have whose logs take nothing yet, and that had no need
    /// to write files.
    pub(crate) fn early_segments(&self, disk: &SimulatedDisk) -> Vec<SegmentId> {
        let files = file_names(disk).into_iter();
        let segments = files.filter_map(|file| match file {
            FileName::Segment(id) if id.run == self.run => Some(id),
            _ => None,
        });
        let is_early = |id: &SegmentId| {
            let core = &self.cores[usize::from(id.shard)];
            !core.is_read && core.shard.counters.updates == 0 && !core.has_asked
        };
        segments.filter(is_early).collect()
    }

    /// Nothing is left to do, for anybody.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.is_idle_but(None)
    }

    /// Nothing is left to do, for anybody but this core.
    pub(crate) fn is_idle_but(&mut self, busy: Option<usize>) -> bool {
        let mut cores = self.cores.iter_mut();
        let is_idle =
            cores.all(|core| (busy == Some(core.index) || core.is_idle()) && !core.is_gone_ordered);
        is_idle && self.stage == Stage::Running && self.inherited.is_empty() && self.is_quiet()
    }

    /// Points that are on their way between cores, by the counters and by the model.
    pub(crate) fn check_way(&self, model: &Model) {
        let surplus: i128 = self.cores.iter().map(Core::surplus).sum();
        let expected = i128::from(model.admitted) - i128::from(model.accepted);
        assert_eq!(surplus, expected, "points on their way between cores");
    }

    /// What is not in its file must be readable.
    pub(crate) fn check_readable(&self, ground: &Ground, metric: usize) {
        let count = u16::try_from(self.cores.len()).expect("few");
        let core = &self.cores[owner(&ground.model.names[metric], count).index()];
        if core.inheritance.is_empty() {
            core.check_readable(&ground.model, metric);
        }
    }

    /// Time passes.
    pub(crate) fn pass(&mut self, time: Duration) {
        self.now += time;
    }
}

/// Deletes files that only together may be gone.
fn settle(disk: &mut SimulatedDisk, run: u64, names: &mut Vec<String>) -> Result<(), Fault> {
    let word = FileName::Settled { run }.to_string();
    if disk.read(&word).is_none() {
        disk.create(&word, 0)?;
    }
    disk.sync_directory()?;
    names.retain(|name| *name != word);
    while !names.is_empty() {
        let index = disk.chance.below(names.len());
        disk.remove(&names[index])?;
        names.swap_remove(index);
    }
    disk.sync_directory()?;
    disk.remove(&word)
}

/// What each core is to take of earlier runs.
fn inherited_batches(ground: &mut Ground, count: usize, found: &Found) -> Vec<VecDeque<Replayed>> {
    let shards = u16::try_from(count).expect("few");
    let mut queues: Vec<VecDeque<Replayed>> = (0..count).map(|_| VecDeque::new()).collect();
    let mut open: Vec<Replayed> = (0..count).map(|_| Replayed::default()).collect();
    let batch_bytes = 100 + ground.disk.chance.below(20_000);
    for &(metric, position, point) in &found.points {
        let name = &ground.model.names[metric];
        let to = owner(name, shards).index();
        batch::push_arrival(&mut open[to].bytes, name, point);
        open[to].through = position;
        if open[to].bytes.len() >= batch_bytes {
            queues[to].push_back(std::mem::take(&mut open[to]));
        }
    }
    for (queue, open) in queues.iter_mut().zip(open) {
        queue.extend((!open.bytes.is_empty()).then_some(open));
    }
    queues
}

fn options(
    setup: &Setup,
    (index, count): (usize, usize),
    (run, boot_id): (u64, BootId),
    inherited_segments: Option<u32>,
) -> ShardOptions {
    let (shard, shard_count) = (u16::try_from(index), u16::try_from(count));
    let (shard, shard_count) = (shard.expect("few"), shard_count.expect("few"));
    ShardOptions {
        id: ShardId(shard),
        shard_count,
        budget_bytes: setup.budget_bytes,
        points_max: setup.points_max,
        strategy: setup.strategy,
        updates_per_s: setup.updates_per_s,
        creates_per_s: setup.creates_per_s,
        future_s_max: FUTURE_S_MAX,
        hash_tagged: true,
        quarantined_points_max: QUARANTINED_MAX,
        link_buffers: 3,
        batch_bytes: setup.batch_bytes,
        log: Some(wal::Options {
            run,
            shard,
            shard_count,
            segment_bytes: SEGMENT_BYTES,
            segments_max: setup.segments_max,
            buffer_bytes: BUFFER_BYTES,
            inherited_segments,
            boot_id,
        }),
    }
}

fn file_names(disk: &SimulatedDisk) -> Vec<FileName> {
    disk.names().iter().filter_map(|name| FileName::parse(name)).collect()
}

fn text(id: SegmentId) -> String {
    FileName::Segment(id).to_string()
}
