//! The log under crashes: real logs on a disk that forgets, against a model that is a map.
//!
//! What must hold after every end, by kill or by loss of power, at any operation, also during
//! replay and with another number of shards: of each metric and second the value found is one that
//! was received, and none older than the last that was acknowledged.
//!
//! `SEED=7 cargo test --test wal_simulation seeds` repeats a failure; `SIMULATE_SECONDS=600`
//! explores new seeds so long.

#[path = "support/log_node.rs"]
mod log_node;
#[path = "support/seeds.rs"]
mod seeds;
#[path = "support/simulated_disk.rs"]
mod simulated_disk;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use carbyne::wal::{Counters, Damage, Kind, Problem};

use log_node::{Files, Key, Node, Plant, SEGMENT_BYTES, read_back};
use seeds::Chance;
use simulated_disk::{SimulatedDisk, Weather};

const SEEDS: u64 = 1_500;
const CANARY_SEEDS: u64 = 400;
const STEPS: usize = 2_000;
const SPACE: usize = 100 * SEGMENT_BYTES as usize;

/// What is known of one metric and second.
#[derive(Debug, Default)]
struct History {
    /// Values received, ascending; lost ones are removed when that is known.
    received: Vec<u64>,
    written: u64,
    synced: u64,
}

struct World {
    disk: SimulatedDisk,
    files: Files,
    names: Vec<Vec<u8>>,
    model: BTreeMap<Key, History>,
    node: Node,
    chance: Chance,
    is_power: bool,
    plant: Plant,
    last_value: u64,
    /// A metric whose file cannot be written.
    broken: Option<usize>,
    weather: Weather,
    sync_faults: usize,
    crash_share: usize,
    /// What the logs of all runs have done together.
    done: Done,
}

/// How much of what can happen has happened.
#[derive(Debug, Default)]
struct Done {
    crashes: u64,
    counters: Vec<Counters>,
}

impl Done {
    fn note(&mut self, node: &Node) {
        self.counters.extend(node.shards.iter().map(|shard| shard.log.counters()));
    }

    fn sum(&self, count: impl Fn(&Counters) -> u64) -> u64 {
        self.counters.iter().map(count).sum()
    }
}

impl World {
    fn new(seed: u64, plant: Plant) -> World {
        let mut chance = Chance::new(seed);
        let mut disk = SimulatedDisk::new(chance.next(), SPACE);
        let is_power = plant != Plant::None || !chance.permille(200);
        let has_long_names = chance.permille(300);
        let metrics = 1 + chance.below(30);
        let names = (0..metrics).map(|index| {
            let length = if has_long_names { 2_000 } else { chance.below(80) };
            format!("metric.{index}{}", "x".repeat(length)).into_bytes()
        });
        let names = names.collect();
        let weather = match chance.below(3) {
            0 => Weather::default(),
            1 => Weather { write: 10, sync: 10, directory: 10 },
            _ => Weather { write: 100, sync: 100, directory: 50 },
        };
        disk.weather = weather;
        let shards = 1 + chance.below(3);
        let node = Node::start(&disk, None, shards, (is_power, plant), Vec::new());
        World {
            disk,
            files: Files::default(),
            names,
            model: BTreeMap::new(),
            node,
            is_power,
            plant,
            last_value: 0,
            broken: None,
            weather,
            crash_share: [30, 150, 500][chance.below(3)],
            sync_faults: chance.below(3) * 100,
            chance,
            done: Done::default(),
        }
    }

    fn run(&mut self) {
        for _ in 0..STEPS {
            self.step();
            if self.disk.is_dead() {
                let is_power_lost = self.chance.permille(600);
                self.crash(is_power_lost);
            }
        }
        self.settle();
        self.crash(true);
        self.settle();
    }

    fn step(&mut self) {
        let shard = self.chance.below(self.node.shards.len());
        let metric = self.chance.below(self.names.len());
        match self.chance.below(100) {
            0..40 => self.receive_some(metric),
            40..55 => self.node.commit(shard),
            55..70 => self.write(shard),
            70..80 => self.sweep(),
            80..84 => self.node.begin_checkpoint(&mut self.files),
            84..88 => self.end_checkpoint(),
            88..92 => self.node.retire(shard, &mut self.disk),
            92..94 => {
                let count = self.chance.below(400);
                self.node.replay_some(count);
            }
            94 => self.node.relieve(shard, &self.names, 3),
            95 => self.forget_some(),
            96 => self.files.age(&mut self.chance),
            97 => self.broken = self.chance.permille(500).then_some(metric),
            98 => {
                let segments = if self.chance.permille(150) { 0 } else { 100 };
                self.disk.set_capacity(segments * SEGMENT_BYTES as usize);
            }
            _ if self.chance.permille(self.crash_share) => {
                let operations = 1 + self.chance.below(20);
                self.disk.light_fuse(operations);
            }
            _ => {}
        }
        for shard in &self.node.shards {
            let files = shard.log.file_count();
            // The first two files of a run come on top of what it has inherited.
            assert!(files < 60, "{files} files: the log grows without bound");
            assert!(shard.log.memory_bytes() < 1 << 20, "{} bytes", shard.log.memory_bytes());
        }
    }

    fn receive_some(&mut self, metric: usize) {
        for _ in 0..1 + self.chance.below(8) {
            let time = 1_700_000_000 + u32::try_from(self.chance.below(5)).expect("small");
            self.last_value += 1;
            if self.node.receive(&self.names[metric], (metric, time), self.last_value) {
                self.model.entry((metric, time)).or_default().received.push(self.last_value);
            }
        }
    }

    fn write(&mut self, shard: usize) {
        for (key, value) in self.node.write_commit(shard, &mut self.disk) {
            let history = self.model.get_mut(&key).expect("a point that was received");
            history.written = history.written.max(value);
            if self.is_power {
                history.synced = history.synced.max(value);
            }
        }
    }

    fn flush(&mut self, metric: usize) {
        let is_ok = self.broken != Some(metric);
        self.node.flush(metric, &mut self.files, is_ok);
    }

    fn forget_some(&mut self) {
        for (metric, name) in self.names.iter().enumerate() {
            if self.chance.permille(500) {
                self.node.forget(metric, name);
            }
        }
    }

    /// Flushes of many metrics begin or end.
    fn sweep(&mut self) {
        let share = self.chance.below(1_000);
        for metric in 0..self.names.len() {
            if self.chance.permille(share) {
                self.flush(metric);
            }
        }
    }

    fn end_checkpoint(&mut self) {
        let is_ok = !self.chance.permille(self.sync_faults);
        if !self.node.end_checkpoint(&mut self.files, is_ok) {
            self.crash(false);
        }
    }

    /// The process ends, is started again, and everything it must have is looked for.
    fn crash(&mut self, is_power_lost: bool) {
        self.done.crashes += 1;
        self.done.note(&self.node);
        if is_power_lost {
            self.disk.lose_power();
            self.files.lose_power(&mut self.chance);
        } else {
            self.disk.kill();
        }
        let (found, reports) = read_back(&self.disk, &self.names);
        if self.is_power {
            for report in &reports {
                assert_eq!(report.lost_points, 0, "{report:?}");
                assert!(report.problems.iter().all(is_of_a_crash), "{:?}", report.problems);
            }
        }
        let replayed: BTreeMap<Key, u64> = found.iter().copied().collect();
        for (key, history) in &mut self.model {
            let got = replayed.get(key).or_else(|| self.files.seen.get(key)).copied().unwrap_or(0);
            let want = if is_power_lost { history.synced } else { history.written };
            assert!(got >= want, "{key:?}: found {got}, acknowledged {want}");
            let is_real = got == 0 || history.received.contains(&got);
            assert!(is_real, "{key:?}: found {got}, received {:?}", history.received);
            // A value may have reached its file and not its log, and be seen when the log is lost.
            let files = &self.files;
            history.received.retain(|&value| value <= got || files.holds(*key, value));
            history.written = history.written.min(got);
        }
        let shards = 1 + self.chance.below(3);
        let before = std::mem::replace(
            &mut self.node,
            Node::start(&self.disk, None, 1, (true, Plant::None), Vec::new()),
        );
        let how = (self.is_power, self.plant);
        self.node = Node::start(&self.disk, Some(before), shards, how, found);
    }

    /// All faults are mended: everything must find its way into its file, and the logs empty.
    fn settle(&mut self) {
        self.disk.weather = Weather::default();
        self.disk.set_capacity(SPACE);
        self.disk.kill();
        self.broken = None;
        for _ in 0..2_000 {
            if self.node.is_idle() {
                self.disk.weather = self.weather;
                return;
            }
            self.node.replay_some(100);
            for shard in 0..self.node.shards.len() {
                self.write(shard);
                self.node.commit(shard);
                self.node.retire(shard, &mut self.disk);
            }
            for metric in 0..self.names.len() {
                self.flush(metric);
            }
            self.node.begin_checkpoint(&mut self.files);
            assert!(self.node.end_checkpoint(&mut self.files, true), "a checkpoint without faults");
        }
        let logs: Vec<_> = self.node.shards.iter().map(|shard| &shard.log).collect();
        panic!("the logs do not empty: {logs:?}");
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

/// Runs one seed; what went wrong, if anything.
fn outcome(seed: u64, plant: Plant) -> Result<Done, String> {
    seeds::outcome(|| {
        let mut world = World::new(seed, plant);
        world.run();
        world.done
    })
}

fn check(seed: u64) -> Done {
    outcome(seed, Plant::None).unwrap_or_else(|text| {
        panic!("{text}\nrepeat: SEED={seed} cargo test --test wal_simulation seeds")
    })
}

#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    if let Some(seed) = number("SEED") {
        check(seed);
        return;
    }
    let deadline = number("SIMULATE_SECONDS").map(|s| Instant::now() + Duration::from_secs(s));
    let (mut seed, mut all) = (0, Done::default());
    while seed < SEEDS || deadline.is_some_and(|deadline| Instant::now() < deadline) {
        seed += 1;
        let done = check(seed);
        all.crashes += done.crashes;
        all.counters.extend(done.counters);
    }
    // A simulation in which little happens finds nothing.
    let reached = [
        ("crashes", all.crashes, 4 * SEEDS),
        ("commits", all.sum(|c| c.commits), 60 * SEEDS),
        ("failed commits", all.sum(|c| c.failed_commits), 5 * SEEDS),
        ("carried points", all.sum(|c| c.carried_points), SEEDS),
        ("retired segments", all.sum(|c| c.retired_segments), 4 * SEEDS),
        ("failed checkpoints", all.sum(|c| c.failed_checkpoints), SEEDS / 4),
        ("renewals", all.sum(|c| c.renewals), SEEDS / 50),
    ];
    for (what, count, least) in reached {
        assert!(count >= least, "only {count} {what} in {reached:?}");
    }
}

/// A bug on purpose must be found; returns how many seeds that took.
fn found_after(plant: Plant) -> u64 {
    (1..=CANARY_SEEDS)
        .find(|&seed| outcome(seed, plant).is_err())
        .unwrap_or_else(|| panic!("{CANARY_SEEDS} seeds do not find {plant:?}"))
}

#[test]
fn planted_bugs_are_found() {
    for plant in [
        Plant::SkipSync,
        Plant::SkipCheckpoint,
        Plant::HideFailedCheckpoint,
        Plant::KeepMarks,
        Plant::SameRun,
        Plant::DropInheritance,
        Plant::ReleaseEarly,
        Plant::HideFailedWrite,
    ] {
        let seeds = found_after(plant);
        assert!(seeds <= CANARY_SEEDS, "{plant:?} after {seeds} seeds");
    }
}
