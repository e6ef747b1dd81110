//! `kill -9` again and again on one data directory that lives on: after each, every point that was
//! readable for longer than the commit interval is there with its value, nothing else is, and what
//! is lost came last. Beside them come points that outlive their finest archive: whatever was
//! rolled up of them stays as it was.
//!
//! `cargo test` does 16 lives, `tests/run` 52. `CRASH_LIVES=1000 CRASH_SEED=7 cargo test --test
//! node crash::` does more, and repeats the choices of a run; `CRASH_ALLOWANCE_MS` is what busy
//! processors are allowed beyond the commit interval; what they and the disk are allowed besides is
//! measured.

use std::collections::HashMap;
use std::fs::File;
use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use crate::support::rolled::{self, Rolled};
use crate::support::seeds::Chance;
use crate::support::sent::{Ledger, Points, Sent};
use crate::support::{NodeOptions, NodeProcess, WAL, stored, stored_archives};
use carbyne::metric::owner::owner;
use carbyne::wal::{FileName, Kind, SegmentId};

const METRICS: usize = 100;

/// Times of a metric; when all have a point, they get new values.
const TIMES: usize = 2_000;

/// Points of one write, and of one under heavy load.
const BATCH: usize = 100;
const BATCH_MAX: usize = 1_000;

const SCHEMAS: &str = "[all]\npattern = .*\nretentions = 1s:1h\n";

/// What the configuration promises.
const INTERVAL: Duration = Duration::from_millis(50);

/// A commit may wait for so many operations as the disk is probed with: the files of two segments
/// are named, and the commit before it may have begun just then.
const DISK_FACTOR: u32 = 4;

/// Longest that a heavy life waits for the node to give up a segment.
const RETIRED_WAIT: Duration = Duration::from_secs(20);

/// Factor between the values of two lives.
const LIFE: usize = 10_000_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

fn name_of(metric: usize) -> String {
    format!("crash.group{}.metric{metric:03}", metric % 7)
}

/// How a life ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// Killed while points come in.
    Loaded,
    /// Killed when nothing has come in for the commit interval.
    Idle,
    /// Killed while it stops or drains.
    Stopping(&'static str),
}

/// How a life goes.
#[derive(Debug, Clone)]
struct Plan {
    life: usize,
    shards: u16,
    whisper: String,
    cache: &'static str,
    schemas: String,
    wal: String,
    end: End,
    /// As much as the node takes, until segments have filled up and one was given up.
    is_heavy: bool,
    /// Time with load, at least.
    load: Duration,
    /// Kills of the next starts, so long after they began.
    early_kills: Vec<Duration>,
}

impl Plan {
    fn new(life: usize, chance: &mut Chance) -> Plan {
        let is_heavy = life % 13 == 1;
        let updates = chance.of(if is_heavy { &["0"] } else { &["0", "20", "300"] });
        let mode = chance.of(&["power", "process"]);
        // Each commit takes a block at least: the short interval turns segments over.
        let intervals = if is_heavy { &["1ms"][..] } else { &["50ms", "50ms", "50ms", "1ms"] };
        let interval = chance.of(intervals);
        let end = match chance.below(10) {
            0..6 => End::Loaded,
            6..8 => End::Idle,
            8 => End::Stopping("-TERM"),
            _ => End::Stopping("-USR1"),
        };
        let early_kills = if chance.below(6) == 0 { 3 } else { 0 };
        let (load, shards_max) = if is_heavy { (1_000, 2) } else { (60, 4) };
        Plan {
            life,
            shards: u16::try_from(1 + chance.below(shards_max)).expect("small"),
            whisper: format!("max-updates-per-second = {updates}\nsparse-create = true"),
            // With both limits a start would take a minute to write what the log holds.
            cache: if chance.below(4) == 0 && updates != "20" { "max-size = 20000" } else { "" },
            schemas: [rolled::SCHEMA, SCHEMAS].concat(),
            wal: format!(
                "{WAL}\nsync-mode = \"{mode}\"\ncommit-interval = \"{interval}\"\n\
                 checkpoint-interval = \"100ms\""
            ),
            end,
            is_heavy,
            load: Duration::from_millis(load) + chance.millis(500),
            early_kills: (0..early_kills).map(|_| chance.millis(120)).collect(),
        }
    }

    fn options(&self) -> NodeOptions<'_> {
        NodeOptions {
            shards: self.shards.into(),
            whisper: &self.whisper,
            cache: self.cache,
            schemas: &self.schemas,
        }
    }
}

/// What the sender knows when its node is gone.
struct Record {
    sent: Vec<Sent>,
    rolled: Vec<rolled::Sent>,
    /// Times of each metric that were used.
    used: Vec<usize>,
}

/// Sends batches, each followed by a marker for each shard, and asks which markers are readable:
/// what a shard took before its marker, it had before.
struct Sender {
    line: TcpStream,
    client: crate::support::Client,
    directory: std::path::PathBuf,
    chance: Chance,
    life: usize,
    is_heavy: bool,
    base_s: u32,
    shards: u16,
    markers: Vec<String>,
    used: Vec<usize>,
    batches: Vec<Vec<Sent>>,
    /// Points of the same batches that are to be rolled up.
    rolled: Vec<Vec<rolled::Sent>>,
    /// By shard: when each batch was seen, as far as it was.
    seen: Vec<Vec<Instant>>,
}

impl Sender {
    fn new(node: &NodeProcess, plan: &Plan, base_s: u32, used: Vec<usize>, seed: usize) -> Sender {
        let shards = plan.shards;
        let marker = |shard: u16| {
            let names = (0..).map(|salt| format!("marker.of{shards}.shard{shard}.n{salt}"));
            names.into_iter().find(|name| owner(name.as_bytes(), shards).0 == shard)
        };
        Sender {
            line: TcpStream::connect(node.line).expect("connect"),
            client: node.client(),
            directory: node.directory.clone(),
            chance: Chance::new(seed as u64),
            life: plan.life,
            is_heavy: plan.is_heavy,
            base_s,
            shards,
            markers: (0..shards).filter_map(marker).collect(),
            used,
            batches: Vec::new(),
            rolled: Vec::new(),
            seen: vec![Vec::new(); shards.into()],
        }
    }

    fn marker_time_s(&self) -> u32 {
        self.base_s + u32::try_from(self.life).expect("few lives")
    }

    /// Sends one batch; false when the node is gone.
    fn send(&mut self) -> bool {
        let count = if self.is_heavy { BATCH_MAX } else { BATCH };
        let (mut text, mut batch) = (Vec::new(), Vec::with_capacity(count));
        for n in 0..count {
            let metric = self.chance.below(METRICS);
            let used = &mut self.used[metric];
            let is_new = *used < TIMES && (*used == 0 || self.chance.below(8) > 0);
            let index = if is_new { *used } else { self.chance.below(*used) };
            *used += usize::from(is_new);
            let name = name_of(metric);
            let value = (self.life * LIFE + self.batches.len() * BATCH_MAX + n) as f64;
            let time_s = self.base_s + u32::try_from(index).expect("few times");
            writeln!(text, "{name} {value} {time_s}").expect("into memory");
            let shard = owner(name.as_bytes(), self.shards).index();
            batch.push(Sent { place: (metric, time_s), value, shard, seen: None });
        }
        let rolled = self.add_rolled(&mut text);
        self.rolled.push(rolled);
        let number = self.batches.len();
        for marker in &self.markers {
            writeln!(text, "{marker} {number} {}", self.marker_time_s()).expect("into memory");
        }
        self.batches.push(batch);
        self.line.write_all(&text).is_ok()
    }

    /// Adds points of this second and a few before it to a batch.
    fn add_rolled(&mut self, text: &mut Vec<u8>) -> Vec<rolled::Sent> {
        let (mut batch, now_s) = (Vec::new(), now_s());
        for metric in 0..rolled::METRICS {
            if self.chance.permille(500) {
                continue;
            }
            let late_s = self.chance.below(rolled::LATE_S_MAX + 1);
            let time_s = now_s - u32::try_from(late_s).expect("few seconds");
            let value = (self.life * LIFE + self.batches.len() * BATCH_MAX + metric) as f64;
            writeln!(text, "{} {value} {time_s}", rolled::name_of(metric)).expect("into memory");
            let at = Instant::now();
            batch.push(rolled::Sent { metric, time_s, value, at, seen: None });
        }
        batch
    }

    /// Looks which batches the shards have; false when the node is gone.
    fn look(&mut self) -> bool {
        let time_s = self.marker_time_s();
        let names: Vec<&str> = self.markers.iter().map(String::as_str).collect();
        let Ok(answers) = self.client.try_query_all(&names) else { return false };
        let now = Instant::now();
        for ((name, answer), seen) in names.iter().zip(answers).zip(&mut self.seen) {
            let marker = answer.into_iter().chain(stored(&self.directory, name));
            let marker = marker.into_iter().find(|&(time, _)| time == time_s);
            let Some((_, number)) = marker else { continue };
            while (seen.len() as f64) <= number {
                seen.push(now);
            }
        }
        true
    }

    fn has_seen_all(&self) -> bool {
        self.seen.iter().all(|seen| seen.len() == self.batches.len())
    }

    fn record(self) -> Record {
        let mut sent = Vec::new();
        for (number, batch) in self.batches.into_iter().enumerate() {
            for mut point in batch {
                point.seen = self.seen[point.shard].get(number).copied();
                sent.push(point);
            }
        }
        let mut rolled = Vec::new();
        for (number, batch) in self.rolled.into_iter().enumerate() {
            for mut point in batch {
                let name = rolled::name_of(point.metric);
                let shard = owner(name.as_bytes(), self.shards).index();
                point.seen = self.seen[shard].get(number).copied();
                rolled.push(point);
            }
        }
        Record { sent, rolled, used: self.used }
    }

    /// Sends until the node is gone, or it is told to be idle; then until all is seen.
    fn run(mut self, is_idle: &AtomicBool) -> Record {
        while !is_idle.load(Ordering::Relaxed) {
            // With more batches its values would be those of the next life.
            let has_room = self.batches.len() < LIFE / BATCH_MAX;
            if (has_room && !self.send()) || !self.look() {
                return self.record();
            }
            let pause = if self.is_heavy { 1 } else { 6 };
            std::thread::sleep(self.chance.millis(pause));
        }
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.look() && !self.has_seen_all() {
            assert!(Instant::now() < deadline, "the node does not take what was sent");
        }
        self.record()
    }
}

/// How slow the machine is meanwhile: makes a small file durable again and again, as the log does
/// with its segments, and sees how late it gets a processor after each rest. The commit interval is
/// promised for a disk and processors that keep up.
struct Disk {
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<Duration>,
}

impl Disk {
    fn watch(directory: &Path) -> Disk {
        let is_over = Arc::new(AtomicBool::new(false));
        let (told, directory) = (Arc::clone(&is_over), directory.to_owned());
        let thread = std::thread::spawn(move || {
            let mut worst = Duration::ZERO;
            while !told.load(Ordering::Relaxed) {
                let begun = Instant::now();
                Disk::touch(&directory).expect("write a file");
                std::thread::sleep(INTERVAL);
                worst = worst.max(begun.elapsed() - INTERVAL);
            }
            worst
        });
        Disk { is_over, thread }
    }

    fn touch(directory: &Path) -> std::io::Result<()> {
        let (made, named) = (directory.join("probe.new"), directory.join("probe"));
        let mut file = File::create(&made)?;
        file.write_all(&[1; 4_096])?;
        file.sync_all()?;
        std::fs::rename(made, named)?;
        File::open(directory)?.sync_all()
    }

    /// The longest that it took.
    fn worst(self) -> Duration {
        self.is_over.store(true, Ordering::Relaxed);
        self.thread.join().expect("the thread that watches the disk")
    }
}

/// The points in the files, and no other.
fn in_files(directory: &Path) -> Vec<Points> {
    (0..METRICS).map(|metric| stored(directory, &name_of(metric)).into_iter().collect()).collect()
}

/// The points that a node has, in memory or in files.
fn in_node(node: &NodeProcess) -> Vec<Points> {
    let names: Vec<String> = (0..METRICS).map(name_of).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // The cache first: a point may move to its file in between, never the other way.
    let mut client = node.client();
    let cached: Vec<_> = names.chunks(50).flat_map(|chunk| client.query_all(chunk)).collect();
    let mut found = in_files(&node.directory);
    for (found, cached) in found.iter_mut().zip(cached) {
        found.extend(cached);
    }
    found
}

/// The archives of a file of points that are rolled up.
fn rolled_file(directory: &Path, metric: usize) -> Option<rolled::Archives> {
    let archives = stored_archives(directory, &rolled::name_of(metric))?;
    Some(archives.into_iter().map(|slots| slots.into_iter().collect()).collect())
}

/// Finds out what is left of the points that are rolled up, and compares the files of which nothing
/// waits.
fn settle_rolled(
    rolled: &mut Rolled,
    node: &NodeProcess,
    crash: Instant,
    window: Duration,
) -> Result<(), String> {
    let names: Vec<String> = (0..rolled::METRICS).map(rolled::name_of).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    // The cache first, as in `in_node`.
    let cached = node.client().query_all(&names);
    let files: Vec<_> =
        (0..rolled::METRICS).map(|metric| rolled_file(&node.directory, metric)).collect();
    let found = cached.iter().zip(&files).map(|(cached, file)| {
        let finest = file.iter().flat_map(|archives| &archives[0]);
        let finest = finest.map(|(&time_s, &value)| (time_s, value));
        finest.chain(cached.iter().copied()).collect()
    });
    let found: Vec<Points> = found.collect();
    rolled.settle(&found, crash, window)?;
    for (metric, file) in files.into_iter().enumerate() {
        if cached[metric].is_empty() {
            rolled.compare(metric, file)?;
        }
    }
    Ok(())
}

/// The segments of points in a log directory.
fn segments(wal: &Path) -> Vec<SegmentId> {
    let names = std::fs::read_dir(wal).expect("a log directory");
    let names = names.map(|entry| entry.expect("a file").file_name().into_string().expect("text"));
    names
        .filter_map(|name| match FileName::parse(&name) {
            Some(FileName::Segment(id)) if id.kind == Kind::Points => Some(id),
            _ => None,
        })
        .collect()
}

/// The number of the first segment of each run and shard: those before it were given up.
fn first_numbers(segments: &[SegmentId]) -> HashMap<(u64, u16), u32> {
    let mut first = HashMap::new();
    for id in segments {
        let number = first.entry((id.run, id.shard)).or_insert(id.number);
        *number = id.number.min(*number);
    }
    first
}

/// Whether this life's node has given up a segment of its points.
fn has_retired(wal: &Path) -> bool {
    let segments = segments(wal);
    let newest = segments.iter().map(|id| id.run).max();
    let is_given_up = |(&(run, _), &first)| Some(run) == newest && first > 1;
    first_numbers(&segments).iter().any(is_given_up)
}

/// What a run of this test must have come by, or it would prove little.
#[derive(Debug, Default)]
struct Seen {
    rotations: usize,
    retired: usize,
    logs_max: usize,
    early_kills: usize,
    idle_kills: usize,
    stop_kills: usize,
    sent: usize,
    lost: usize,
    late: usize,
    /// Files with rolled up points that were compared, and metrics of which that is not possible.
    compared: usize,
    uncertain: usize,
    age_max: Duration,
    window_max: Duration,
}

impl Seen {
    fn look(&mut self, node: &NodeProcess) {
        let segments = segments(&node.wal());
        let first = first_numbers(&segments);
        self.rotations += segments.iter().filter(|id| id.number > 2).count();
        self.retired += first.values().filter(|&&number| number > 1).count();
        self.logs_max = self.logs_max.max(first.len());
    }
}

/// A life that has ended.
struct Death {
    at: Instant,
    /// Points that were readable for longer must be found again.
    window: Duration,
    record: Record,
}

/// One life: load, and its end.
fn live(node: &mut NodeProcess, plan: &Plan, sender: Sender, allowance: Duration) -> Death {
    let disk = Disk::watch(&node.directory);
    let is_idle = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&is_idle);
    let sending = std::thread::spawn(move || sender.run(&told));
    std::thread::sleep(plan.load);
    let deadline = Instant::now() + RETIRED_WAIT;
    while plan.is_heavy && !has_retired(&node.wal()) && Instant::now() < deadline {
        std::thread::sleep(INTERVAL);
    }
    let kill = |node: &mut NodeProcess| {
        let at = Instant::now();
        node.kill();
        at
    };
    let window = |disk: Disk| INTERVAL + allowance + disk.worst() * DISK_FACTOR;
    match plan.end {
        End::Loaded | End::Stopping(_) => {
            if let End::Stopping(signal) = plan.end {
                node.signal(signal);
                std::thread::sleep(plan.load / 20);
            }
            let at = kill(node);
            let window = window(disk);
            Death { at, window, record: sending.join().expect("the sender") }
        }
        End::Idle => {
            is_idle.store(true, Ordering::Relaxed);
            let record = sending.join().expect("the sender");
            // All that was sent was seen before now.
            let window = window(disk);
            std::thread::sleep(window);
            Death { at: kill(node), window, record }
        }
    }
}

/// Kills the next starts that a plan says; how many of them while they replayed.
fn kill_early(node: &mut NodeProcess, plan: &Plan, next: &Plan) -> usize {
    let is_in_replay = |&&early: &&Duration| {
        let log_bytes = node.log().len();
        node.launch(&next.options(), &next.wal);
        std::thread::sleep(early);
        node.kill();
        let log = node.log();
        let said = &log[log_bytes..];
        said.contains("replaying") && !said.contains("ready")
    };
    plan.early_kills.iter().filter(is_in_replay).count()
}

fn now_s() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    u32::try_from(since.expect("after 1970").as_secs()).expect("before 2106")
}

#[test]
fn crashes_on_one_directory_cost_no_more_than_their_windows() {
    let seed = setting("CRASH_SEED").unwrap_or_else(|| u64::from(now_s()));
    let lives = setting("CRASH_LIVES").map_or(16, |lives| usize::try_from(lives).expect("few"));
    let allowance = Duration::from_millis(setting("CRASH_ALLOWANCE_MS").unwrap_or(200));
    let repeat = format!("CRASH_SEED={seed} CRASH_LIVES={lives} cargo test --test node crash::");
    let mut out = std::io::stdout();
    writeln!(out, "{repeat}").expect("write to standard output");

    let base_s = now_s() - 2_500;
    let mut chance = Chance::new(seed);
    let mut plan = Plan::new(1, &mut chance);
    let mut node = NodeProcess::start_with("crash", &plan.options(), &plan.wal);
    let (mut ledger, mut rolled) = (Ledger::new(METRICS), Rolled::new());
    let mut used = vec![0; METRICS];
    let mut seen = Seen::default();
    for life in 1..=lives {
        let sender = Sender::new(&node, &plan, base_s, used, chance.below(LIFE));
        let Death { at, window, record } = live(&mut node, &plan, sender, allowance);
        used = record.used;
        ledger.add(record.sent);
        rolled.add(record.rolled);
        seen.look(&node);
        let files = in_files(&node.directory);
        let next = Plan::new(life + 1, &mut chance);
        seen.early_kills += kill_early(&mut node, &plan, &next);
        node.restart(&next.options(), &next.wal);
        let settled = settle_rolled(&mut rolled, &node, at, window)
            .and_then(|()| ledger.settle(in_node(&node), &files, at, window));
        let loss = settled.unwrap_or_else(|error| {
            panic!("{error}\nafter {plan:?}\nthen {next:?}\nrepeat with {repeat}\n{}", node.log())
        });
        if plan.end == End::Idle {
            assert_eq!(loss.lost, 0, "{plan:?} {loss:?} {repeat}");
        }
        seen.idle_kills += usize::from(plan.end == End::Idle);
        seen.stop_kills += usize::from(matches!(plan.end, End::Stopping(_)));
        seen.sent += loss.sent;
        seen.lost += loss.lost;
        seen.late += usize::from(loss.age_max > INTERVAL);
        seen.age_max = seen.age_max.max(loss.age_max);
        seen.window_max = seen.window_max.max(window);
        plan = next;
    }

    // All lives together, in the files and nowhere else.
    let wanted = ledger.count();
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    let files = in_files(&node.directory);
    let settled = ledger.settle(files.clone(), &files, Instant::now(), Duration::ZERO);
    settled.unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(ledger.count(), wanted);
    let same = (0..rolled::METRICS)
        .try_for_each(|metric| rolled.compare(metric, rolled_file(&node.directory, metric)));
    same.unwrap_or_else(|error| panic!("at the end: {error}\n{repeat}"));
    (seen.compared, seen.uncertain) = (rolled.compared, rolled.uncertain_count());
    assert!(!log.contains("do not add up"), "{log}");
    writeln!(out, "{wanted} points, {seen:?}").expect("write to standard output");
    let is_thorough = seen.rotations > 0
        && seen.retired > 0
        && seen.logs_max > 4
        && seen.early_kills > 0
        && seen.idle_kills > 0
        && seen.stop_kills > 0
        && seen.compared > 0
        && seen.uncertain < rolled::METRICS;
    assert!(is_thorough || lives < 50, "too little was tried: {seen:?} {repeat}");
}
