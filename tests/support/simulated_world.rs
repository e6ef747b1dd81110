//! What happens in a simulation: chance chooses one step after the other, and the faults.

use std::sync::Arc;
use std::time::Duration;

use carbyne::cache::WriteStrategy;
use carbyne::metric::owner::owner;
use carbyne::schema::{Rules, Source};
use carbyne::stats::Counters;
use carbyne::wal::{Damage, Kind, Pressure, Problem};

use crate::seeds::Chance;
use crate::simulated_core::Core;
use crate::simulated_disk::{SimulatedDisk, Weather};
use crate::simulated_model::{Key, Model};
use crate::simulated_node::{Ground, Node, Plant, SEGMENT_BYTES, Setup, Stage, read_logs};
use crate::simulated_tree::{SimulatedTree, TreeWeather};

const STEPS: usize = 3_000;

/// Some seeds go on for longer, so that logs grow old.
const STEPS_LONG: usize = 15_000;
const LONG_SHARE: usize = 100;

/// Room for all segments that any run may leave.
const SPACE: usize = 200 * SEGMENT_BYTES as usize;

/// What the clock shows at first.
const BASE_S: u32 = 1_700_000_000;

/// A point too many for the log's buffers, in one go.
const FLOOD: usize = 16_000;

/// How many seeds in a thousand end beside a core whose files stay broken.
const BESIDE_SHARE: usize = 300;

/// Rounds in which a mended node must come to rest.
const ROUNDS_MAX: usize = 6_000;

/// Files beyond those that a shard's log may have and those that it has inherited: what the log
/// allows itself when writes fail, and to get free when it is full of names.
const FILES_MORE: u32 = 12;

/// What files look like, and how far they reach back: rings that are lapped in no time, and such
/// that are not.
const ARCHIVES: [(&str, u32); 6] = [
    ("1s:5m", 300),
    ("1s:30s,10s:10m", 600),
    ("1s:5m,10s:1h", 3_600),
    ("1s:1m,1m:1h", 3_600),
    ("10s:10m,1m:2h,10m:1d", 86_400),
    ("5s:20m,1m:6h", 21_600),
];

/// What can happen, and how often.
#[derive(Debug, Clone, Copy)]
enum Act {
    Receive,
    Flood,
    Send,
    Take,
    TakeSpent,
    Commit,
    WriteLog,
    Collect,
    Sweep,
    Fill,
    WriteFiles,
    Complete,
    BeginCheckpoint,
    BeginSync,
    EndSync,
    EndCheckpoint,
    Retire,
    Carry,
    Inherit,
    Govern,
    Hear,
    Age,
    Change,
    Clock,
    End,
    Stop,
}

const ACTS: [(Act, usize); 26] = [
    (Act::Receive, 300),
    (Act::Flood, 8),
    (Act::Send, 80),
    (Act::Take, 240),
    (Act::TakeSpent, 120),
    (Act::Commit, 200),
    (Act::WriteLog, 320),
    (Act::Collect, 260),
    (Act::Sweep, 30),
    (Act::Fill, 100),
    (Act::WriteFiles, 140),
    (Act::Complete, 120),
    (Act::BeginCheckpoint, 60),
    (Act::BeginSync, 40),
    (Act::EndSync, 60),
    (Act::EndCheckpoint, 80),
    (Act::Retire, 80),
    (Act::Carry, 40),
    (Act::Inherit, 150),
    (Act::Govern, 80),
    (Act::Hear, 40),
    (Act::Age, 6),
    (Act::Change, 12),
    (Act::Clock, 10),
    (Act::End, 3),
    (Act::Stop, 1),
];

/// How much of what can happen has happened.
#[derive(Debug, Default)]
pub(crate) struct Done {
    crashes: u64,
    seals: u64,
    drains: u64,
    late: u64,
    waits: u64,
    renewals: u64,
    retired: u64,
    asides: u64,
    compared: u64,
    tainted: u64,
    confirmed: u64,
    replayed_crashes: u64,
    rests_beside: u64,
    running: u64,
    counters: Counters,
}

impl Done {
    pub(crate) fn add(&mut self, other: &Done) {
        self.crashes += other.crashes;
        self.seals += other.seals;
        self.drains += other.drains;
        self.late += other.late;
        self.waits += other.waits;
        self.renewals += other.renewals;
        self.retired += other.retired;
        self.asides += other.asides;
        self.compared += other.compared;
        self.tainted += other.tainted;
        self.confirmed += other.confirmed;
        self.replayed_crashes += other.replayed_crashes;
        self.rests_beside += other.rests_beside;
        self.running += other.running;
        self.counters.add(&other.counters);
    }

    /// What, how often, and how often at least in a thousand seeds.
    pub(crate) fn reached(&self) -> Vec<(&'static str, u64, u64)> {
        let of = |reason| self.counters.dropped_for(reason);
        vec![
            ("steps of a node that receives", self.running, 1),
            ("crashes", self.crashes, 1),
            ("crashes during replay", self.replayed_crashes, 1),
            ("rests beside a broken core with points", self.rests_beside, 20),
            ("seals", self.seals, 1),
            ("drains", self.drains, 1),
            ("steps with late points", self.late, 1),
            ("receivers that wait", self.waits, 1),
            ("dictionaries renewed", self.renewals, 1),
            ("segments retired", self.retired, 1),
            ("files set aside", self.asides, 1),
            ("files compared", self.compared, 5_000),
            ("notes of written points", self.counters.wal_confirmations, 1_000),
            ("points confirmed in logs", self.confirmed, 1_000),
            ("updates that lap an unsynced one", self.counters.unsynced_updates, 0),
            ("points too old", of(carbyne::stats::DropReason::TooOld), 1),
            ("commits", self.counters.wal_commits, 1),
            ("failed commits", self.counters.wal_failed_commits, 1),
            ("points logged again", self.counters.wal_rewritten, 1),
            ("points recovered", self.counters.recovered, 1),
            ("failed writes", self.counters.write_errors, 1),
            ("points quarantined", of(carbyne::stats::DropReason::Quarantine), 1),
            ("points refused", of(carbyne::stats::DropReason::TimestampFuture), 1),
        ]
    }
}

/// A node, what it stands on, and the chance that governs both.
pub(crate) struct World {
    ground: Ground,
    setup: Setup,
    node: Node,
    chance: Chance,
    /// How often what happens, in this seed.
    weights: Vec<(Act, usize)>,
    weights_sum: usize,
    sync_faults: usize,
    count_max: usize,
    pub(crate) done: Done,
}

impl World {
    pub(crate) fn new(seed: u64, plant: Plant) -> World {
        let mut chance = Chance::new(seed);
        let has_long_names = chance.permille(250);
        let metrics = if has_long_names { 120 } else { 1 + chance.below(40) };
        let names = (0..metrics).map(|index| {
            let parts = if has_long_names { 5 } else { 0 };
            let last = "x".repeat(chance.below(60));
            format!("metric.{index}.{}z{last}", ("y".repeat(230) + ".").repeat(parts)).into_bytes()
        });
        let names = names.collect();
        let setup = setup(&mut chance, plant, has_long_names);
        let mut disk = SimulatedDisk::new(chance.next(), SPACE);
        let mut tree = SimulatedTree::new(chance.next());
        let weather = match chance.below(3) {
            0 => (Weather::default(), TreeWeather::default()),
            1 => (
                Weather { write: 10, sync: 10, directory: 10 },
                TreeWeather { open: 10, read: 10, write: 10 },
            ),
            _ => (
                Weather { write: 80, sync: 80, directory: 40 },
                TreeWeather { open: 100, read: 50, write: 100 },
            ),
        };
        (disk.weather, tree.weather) = weather;
        let weights: Vec<(Act, usize)> =
            ACTS.iter().map(|&(act, weight)| (act, weight * factor(&mut chance, act))).collect();
        let mut ground = Ground { disk, tree, model: Model::new(names), boots: 0 };
        let count_max = 1 + chance.below(3);
        let found = read_logs(&ground, plant, BASE_S);
        let count = 1 + chance.below(count_max);
        let mut node = Node::start(&mut ground, &setup, None, count, &found);
        node.now_s = BASE_S;
        World {
            ground,
            setup,
            node,
            weights_sum: weights.iter().map(|(_, weight)| weight).sum(),
            weights,
            sync_faults: chance.below(3) * 100,
            count_max,
            chance,
            done: Done::default(),
        }
    }

    /// Everything goes wrong, then in some seeds the files of one core, then nothing; then power is
    /// lost, and nothing goes wrong again.
    pub(crate) fn run(&mut self) {
        let steps = if self.chance.permille(LONG_SHARE) { STEPS_LONG } else { STEPS };
        for _ in 0..steps {
            self.step();
        }
        // What takes no more than so many points may not even come to serve.
        if self.setup.points_max == 0 && self.chance.permille(BESIDE_SHARE) {
            self.end(true);
            self.settle_beside();
        }
        self.settle();
        self.end(true);
        self.settle();
        self.check_disk();
        self.note();
    }

    fn step(&mut self) {
        let mut left = self.chance.below(self.weights_sum);
        let chosen = self.weights.iter().find(|(_, weight)| {
            let is_it = left < *weight;
            left = left.saturating_sub(*weight);
            is_it
        });
        let act = chosen.expect("the weights have a sum").0;
        self.act(act);
        self.node.pass(Duration::from_micros(self.chance.next() % 50_000));
        let is_dead = self.ground.disk.is_dead() || self.ground.tree.is_dead();
        if is_dead {
            let is_power_lost = self.chance.permille(600);
            self.end(is_power_lost);
        } else if let Stage::Ended { is_empty, is_settled } = self.node.stage {
            self.begin_anew(is_empty, is_settled);
        }
        self.check();
    }

    fn act(&mut self, act: Act) {
        let at = self.chance.below(self.node.cores.len());
        let World { ground, node, chance, .. } = self;
        let (now, now_s) = (node.now, node.now_s);
        match act {
            Act::Receive => self.receive(at),
            Act::Flood => self.flood(at),
            Act::Send => node.send(at, chance.permille(500)),
            Act::Take => {
                let from = chance.below(node.cores.len());
                node.take(at, from, &mut ground.model);
            }
            Act::TakeSpent => node.take_spent(at),
            Act::Commit => node.cores[at].commit(now, now_s),
            Act::WriteLog => node.cores[at].write_log(&mut ground.disk, &mut ground.model),
            Act::Collect => node.cores[at].collect(&mut ground.model, now),
            Act::Sweep if node.stage != Stage::Sealing => node.cores[at].begin_sweep(),
            Act::Fill if node.stage != Stage::Sealing => {
                node.cores[at].shard.set_time(now_s);
                node.cores[at].fill(ground, 1 + chance.below(8), now);
            }
            Act::Sweep | Act::Fill => {}
            Act::WriteFiles => node.cores[at].write_files(ground, 1 + chance.below(8)),
            Act::Complete => {
                let index = chance.below(8);
                node.cores[at].complete(ground, index, now);
            }
            Act::BeginCheckpoint => node.cores[at].begin_checkpoint(),
            Act::BeginSync => node.begin_sync(ground),
            Act::EndSync => {
                let is_ok = !chance.permille(self.sync_faults);
                node.end_sync(ground, is_ok);
            }
            Act::EndCheckpoint => {
                if !node.cores[at].end_checkpoint(now, now_s) {
                    self.end(false);
                }
            }
            Act::Retire => node.cores[at].retire(),
            Act::Carry => {
                // One piece, to be followed by anything, or what a commit takes.
                let turns = if chance.permille(500) { 1 } else { 1 + chance.below(60) };
                let shard = &mut node.cores[at].shard;
                (0..turns).all(|_| shard.rewrite_some(now));
            }
            Act::Inherit => node.inherit(at),
            Act::Govern => node.govern(ground),
            Act::Hear => node.hear(at),
            Act::Age => ground.tree.age(),
            Act::Change => self.change(),
            Act::Clock => self.set_clock(),
            Act::End => self.light_fuse(),
            Act::Stop if node.stage == Stage::Running => {
                node.stage = Stage::Stopping { is_drain: chance.permille(500) };
            }
            Act::Stop => {}
        }
    }

    /// A metric, and a second that a sender may send now: mostly this one or a little late, now and
    /// then very late, or ahead of the clock.
    fn key(&mut self) -> Key {
        let now_s = self.node.now_s;
        let some = |chance: &mut Chance, most: usize| {
            u32::try_from(chance.below(most + 1)).expect("small")
        };
        let chance = &mut self.chance;
        let second = match chance.below(20) {
            0 => now_s - some(chance, 4_000),
            1 => now_s - some(chance, 700),
            2 => now_s + some(chance, 610),
            3..=5 => now_s - some(chance, 60),
            _ => now_s - some(chance, 4),
        };
        (self.metric(), second)
    }

    fn metric(&mut self) -> usize {
        self.chance.below(self.ground.model.names.len())
    }

    fn receive(&mut self, at: usize) {
        if self.node.stage != Stage::Running {
            return;
        }
        if self.node.cores[at].shard.must_wait() {
            self.done.waits += 1;
            return;
        }
        let keys: Vec<Key> = (0..1 + self.chance.below(12)).map(|_| self.key()).collect();
        self.node.receive(at, &keys, &mut self.ground.model);
    }

    /// What many connections read before any of them asks again whether there is room.
    fn flood(&mut self, at: usize) {
        if self.node.stage != Stage::Running || self.node.cores[at].shard.must_wait() {
            return;
        }
        // Real budgets are a hundred times what one read brings; so it is here.
        let has_room = self.node.cores[at].shard.outbox().is_settled();
        let is_big = has_room && self.setup.budget_bytes > 1 << 20 && self.chance.permille(150);
        let count = if is_big { FLOOD } else { 12 };
        let mut keys: Vec<Key> = (0..count).map(|_| self.key()).collect();
        if is_big {
            // Each point that laps a ring would wait for a sync.
            let now_s = self.node.now_s;
            for key in &mut keys {
                key.1 = now_s - u32::try_from(self.chance.below(5)).expect("few");
            }
            // Those of other cores would take thousands of batches, which are small here.
            let names = &self.ground.model.names;
            keys.retain(|&(metric, _)| self.node.cores[at].owns(&names[metric]));
        }
        for keys in keys.chunks(100) {
            self.node.receive(at, keys, &mut self.ground.model);
        }
    }

    /// A file breaks or heals, a lock is taken or let go, space ends or returns.
    fn change(&mut self) {
        let metric = self.chance.below(self.ground.model.names.len());
        let is_on = self.chance.permille(500);
        let path = is_on.then(|| self.ground.model.path(metric).to_vec());
        match self.chance.below(4) {
            0 => self.ground.tree.break_paths(path.into_iter().collect()),
            1 => self.ground.tree.locked = path,
            2 => self.ground.tree.has_space = self.chance.permille(700),
            _ => {
                let capacity = if self.chance.permille(200) { 0 } else { SPACE };
                self.ground.disk.set_capacity(capacity);
            }
        }
    }

    /// The clock goes on, now and then by far, and is set back.
    fn set_clock(&mut self) {
        self.node.pass(Duration::from_secs(self.chance.next() % 20));
        let some = |chance: &mut Chance, most: usize| {
            u32::try_from(chance.below(most + 1)).expect("small")
        };
        let chance = &mut self.chance;
        match chance.below(24) {
            0 => self.node.now_s += some(chance, 40_000),
            1 => self.node.now_s -= some(chance, 3_000),
            2 => self.node.now_s += some(chance, 1_000),
            _ => self.node.now_s += some(chance, 15),
        }
    }

    fn light_fuse(&mut self) {
        let operations = 1 + self.chance.below(30);
        match self.chance.below(3) {
            0 => self.ground.disk.light_fuse(operations),
            1 => self.ground.tree.light_fuse(operations),
            _ => {
                let is_power_lost = self.chance.permille(600);
                self.end(is_power_lost);
            }
        }
    }

    fn check(&mut self) {
        let metric = self.metric();
        self.node.check_readable(&self.ground, metric);
        let at = self.chance.below(self.node.cores.len());
        let core = &mut self.node.cores[at];
        core.check_accounts();
        let files = core.log().file_count();
        let files_max = self.setup.segments_max + self.node.share + FILES_MORE;
        assert!(files <= files_max, "{files} files of {files_max}: the log grows without bound");
        self.done.running += u64::from(self.node.stage == Stage::Running);
        self.done.late += u64::from(core.shard.gauges().wal_unlogged > 0);
        self.node.check_way(&self.ground.model);
    }

    /// The process ends, is started again, and everything it must have is looked for.
    fn end(&mut self, is_power_lost: bool) {
        self.done.crashes += 1;
        self.done.replayed_crashes += u64::from(self.node.stage == Stage::Recovering);
        self.restart(is_power_lost, false);
    }

    /// The process has ended as it should.
    fn begin_anew(&mut self, is_empty: bool, is_settled: bool) {
        let count = if is_empty { &mut self.done.drains } else { &mut self.done.seals };
        *count += 1;
        let is_power_lost = self.chance.permille(500);
        let found = self.restart(is_power_lost, is_settled);
        if is_empty && self.setup.plant == Plant::None {
            assert_eq!(found, 0, "a drain leaves points in the log");
        }
    }

    /// Starts the process anew; returns how many points it replays.
    fn restart(&mut self, is_power_lost: bool, is_settled: bool) -> usize {
        self.note();
        if self.setup.plant == Plant::None {
            // Else a node that ends again and again while it starts fills the disk.
            let left = self.node.early_segments(&self.ground.disk);
            assert!(left.is_empty(), "a run that could log nothing leaves {left:?}");
        }
        if is_power_lost {
            self.ground.disk.lose_power();
            self.ground.tree.lose_power();
            self.ground.boots = (self.ground.boots + 1) % 250;
            if !self.setup.is_power {
                // Nothing is promised: any part of the log may be gone.
                self.ground.model.taint_all();
            }
        } else {
            self.ground.disk.kill();
            self.ground.tree.kill();
        }
        // The node may be down for long, and its clock be set meanwhile.
        if self.chance.permille(300) {
            self.node.now_s += u32::try_from(self.chance.below(200_000)).expect("small");
        }
        self.ground.disk.sync_all();
        let found = read_logs(&self.ground, self.setup.plant, self.node.now_s);
        let replayed = found.by_metric();
        self.ground.model.end(&found.logged, &replayed, is_power_lost, is_settled);
        let confirmed = found.reports.iter().map(|report| report.confirmed_points);
        self.done.confirmed += confirmed.sum::<u64>();
        if self.setup.is_power {
            for report in &found.reports {
                assert_eq!(report.lost_points, 0, "acknowledged points are missing: {report:?}");
                let is_of_a_crash = report.problems.iter().all(is_of_a_crash);
                assert!(is_of_a_crash, "acknowledged frames are damaged: {report:?}");
            }
        }
        let count = 1 + self.chance.below(self.count_max);
        let before = Some(&self.node);
        self.node = Node::start(&mut self.ground, &self.setup, before, count, &found);
        found.points.len()
    }

    /// All faults are mended: everything must find its way into its file, and the logs shrink.
    fn settle(&mut self) {
        self.mend();
        for _ in 0..ROUNDS_MAX {
            let World { ground, node, .. } = self;
            let is_small = node.cores.iter().all(|core| core.is_small(&ground.disk));
            if node.is_idle() && is_small {
                return self.check_rest(|_| true);
            }
            self.round();
            self.check();
        }
        let cores = self.node.cores.iter_mut();
        let state: Vec<_> = cores
            .map(|core| {
                let is_idle = core.is_idle();
                let wants = (core.shard.wants_checkpoint(), core.checkpoint, core.has_told);
                (core.shard.gauges(), core.log().pressure(), is_idle, wants, core.is_committed())
            })
            .collect();
        panic!("the node does not come to rest: {:?} {state:?}", self.node.stage);
    }

    fn mend(&mut self) {
        let Ground { disk, tree, .. } = &mut self.ground;
        (disk.weather, tree.weather) = (Weather::default(), TreeWeather::default());
        disk.kill();
        disk.set_capacity(SPACE);
        tree.mend();
    }

    /// After a start no file of one core can be written. All others must come to rest all the
    /// same, and take what comes.
    fn settle_beside(&mut self) {
        self.mend();
        let World { ground: Ground { tree, model, .. }, node, .. } = self;
        let broken = self.chance.below(node.cores.len());
        let names = model.names.iter().enumerate();
        let own = names.filter(|(_, name)| node.cores[broken].owns(name));
        tree.break_paths(own.map(|(metric, _)| model.path(metric).to_vec()).collect());
        let is_other = |core: &Core| core.index != broken;
        for _ in 0..ROUNDS_MAX {
            let World { ground, node, .. } = self;
            let mut others = node.cores.iter().filter(|core| is_other(core));
            let is_small = others.all(|core| core.is_small(&ground.disk));
            if node.is_idle_but(Some(broken)) && is_small {
                let has_points = node.cores[broken].shard.unwritten_count() > 0;
                self.done.rests_beside += u64::from(has_points && node.cores.len() > 1);
                return self.check_rest(is_other);
            }
            self.round();
            self.check();
        }
        let cores = self.node.cores.iter_mut();
        let state: Vec<_> =
            cores.map(|core| (core.shard.gauges(), core.log().pressure(), core.has_told)).collect();
        panic!("nobody comes to rest beside the broken core {broken}: {state:?}");
    }

    /// Everything that can be done is done once.
    fn round(&mut self) {
        let World { ground, node, .. } = self;
        node.pass(Duration::from_secs(1));
        let (now, now_s, count) = (node.now, node.now_s, node.cores.len());
        for at in 0..count {
            (0..100).for_each(|_| node.inherit(at));
            node.hear(at);
            node.send(at, true);
            (0..count).for_each(|from| node.take(at, from, &mut ground.model));
            node.take_spent(at);
            let core = &mut node.cores[at];
            core.shard.set_time(now_s);
            core.commit(now, now_s);
            core.write_log(&mut ground.disk, &mut ground.model);
            core.collect(&mut ground.model, now);
            core.begin_sweep();
            core.fill(ground, 64, now);
            core.write_files(ground, 64);
            core.complete(ground, 0, now);
            while core.shard.rewrite_some(now) {}
            core.begin_checkpoint();
        }
        node.begin_sync(ground);
        node.end_sync(ground, true);
        let mut is_over = false;
        for at in 0..count {
            is_over |= !node.cores[at].end_checkpoint(now, now_s);
            node.cores[at].retire();
        }
        node.govern(ground);
        if is_over {
            self.end(false);
        } else if let Stage::Ended { is_empty, is_settled } = self.node.stage {
            self.begin_anew(is_empty, is_settled);
        }
    }

    /// Cores at rest have everything in their files, and take what comes.
    fn check_rest(&mut self, is_at_rest: impl Fn(&Core) -> bool) {
        for metric in 0..self.ground.model.names.len() {
            self.node.check_readable(&self.ground, metric);
            let count = u16::try_from(self.node.cores.len()).expect("few");
            let of = owner(&self.ground.model.names[metric], count).index();
            if is_at_rest(&self.node.cores[of]) {
                let path = self.ground.model.path(metric).to_vec();
                let bytes = self.ground.tree.bytes(&path);
                self.ground.model.check_file(metric, bytes, self.setup.retention_s);
            }
        }
        for core in self.node.cores.iter_mut().filter(|core| is_at_rest(core)) {
            let files = core.log().file_count();
            assert_eq!(core.log().pressure(), Pressure::None, "{files} files");
            assert!(!core.shard.must_wait(), "{files} files, {:?}", core.shard.gauges());
        }
    }

    /// After a run without faults nothing is on the log's disk but what the logs know of.
    fn check_disk(&mut self) {
        let cores = self.node.cores.iter_mut();
        let known =
            cores.map(|core| core.log().file_count() as usize + core.writer.waiting_files());
        let names = self.ground.disk.names();
        assert_eq!(names.len(), known.sum::<usize>(), "{names:?}");
    }

    fn note(&mut self) {
        self.done.asides = self.ground.tree.asides() as u64;
        self.done.compared = self.ground.model.compared;
        self.done.tainted = self.ground.model.tainted;
        for core in &mut self.node.cores {
            let log = core.log().counters();
            self.done.renewals += log.renewals;
            self.done.retired += log.retired_segments;
            self.done.counters.add(&core.shard.all_counters());
        }
    }
}

/// How much more often than its weight says something happens in a seed. Ends are rare in some, or
/// no run would live to rotate its segments and give them up.
fn factor(chance: &mut Chance, act: Act) -> usize {
    match act {
        Act::End | Act::Stop => [0, 0, 1, 3, 6][chance.below(5)],
        _ => [1, 3, 3, 3, 6][chance.below(5)],
    }
}

fn setup(chance: &mut Chance, plant: Plant, has_long_names: bool) -> Setup {
    // A seed's world is the same with a bug and without.
    let is_power = !chance.permille(150) || plant != Plant::None;
    let (archives, retention_s) = ARCHIVES[chance.below(ARCHIVES.len())];
    let text = format!("[all]\npattern = .*\nretentions = {archives}\n");
    let source = Source { file: "storage-schemas.conf", text: &text };
    let method = ["average", "sum", "last", "max", "min"][chance.below(5)];
    let factor = ["0", "0", "0.3", "0.5", "1"][chance.below(5)];
    let text =
        format!("[all]\npattern = .*\nxFilesFactor = {factor}\naggregationMethod = {method}\n");
    let aggregation = Source { file: "storage-aggregation.conf", text: &text };
    let (rules, notices) = Rules::parse(&source, Some(&aggregation)).expect("good rules");
    assert!(notices.is_empty(), "{notices:?}");
    let segments_max = if has_long_names { 14 } else { [6, 8, 12][chance.below(3)] };
    // The links, with what one read brings in small batches, must leave room for the rest: a core
    // whose batches alone fill it would never take one. Real budgets are not that small.
    let budget_bytes =
        if has_long_names { 200 << 10 } else { [128 << 10, 4 << 20][chance.below(2)] };
    let batch_bytes = if budget_bytes > 1 << 20 { [4_200, 16_000][chance.below(2)] } else { 5_000 };
    // The model does not know of points that are dropped because names without a file have used up
    // their share: where new files are limited, the memory is large enough for all of them.
    let creates_per_s = [0.0, 0.0, if budget_bytes > 1 << 20 { 5.0 } else { 0.0 }];
    Setup {
        is_power,
        plant,
        segments_max,
        budget_bytes,
        points_max: [0, 0, 100][chance.below(3)],
        updates_per_s: [0.0, 0.0, 20.0][chance.below(3)],
        creates_per_s: creates_per_s[chance.below(3)],
        strategy: [WriteStrategy::Max, WriteStrategy::Sorted, WriteStrategy::Noop][chance.below(3)],
        batch_bytes,
        rules: Arc::new(rules),
        retention_s,
    }
}

/// What a commit under way leaves when the end comes: an end that is torn, a first block that is,
/// or one of the two copies of new names.
fn is_of_a_crash(problem: &Problem) -> bool {
    match problem.damage {
        Damage::Torn { .. } | Damage::Header => true,
        Damage::Range { .. } => problem.segment.kind == Kind::Names,
        _ => false,
    }
}
