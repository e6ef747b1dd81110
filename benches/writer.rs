//! The Whisper writer against its floor, in one run.
//!
//! The floor of an update is what no program that opens its files can go below: `openat` relative
//! to the data directory, `pwrite` of the points, `pwrite` of one coarser point, `close`, in the
//! order of inode numbers. Floor and writer take turns on the same files, and CPU time is the
//! process's, kernel included, around the writer's calls alone. Files are those of
//! `1m:1d,5m:7d`, six directories deep, ten to a directory; an update brings five points.
//!
//! Creation has a floor too: `openat` of the directory, `O_TMPFILE`, `fallocate`, `pwrite` of the
//! header, `linkat`, `close` of both, and `mkdirat` where a directory lacks. The core's share of an
//! update, taking the points out of the cache and confirming them, is measured on a shard without
//! a writer; its longest call is what the core's other tasks may have to wait for.
//!
//! ```text
//! cargo bench --bench writer -- [--files N] [--metrics N] [--rounds N]
//!     [--points N] [--dir DIRECTORY]
//! ```
//!
//! In a memory control group that is smaller than the files' pages the same shows cold files; wall
//! time is then what counts, and *auto* should be near the better of the two ways.
//!
//! Without `--bench`, as under `cargo test --benches`, it runs on a few files and only checks that
//! what was written is there.

#![allow(
    unsafe_code,
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a program for a terminal; the floor is made of plain system calls"
)]

use std::ffi::CString;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use carbyne::cache::WriteStrategy;
use carbyne::disk::writer::{FileWriter, WriteBatch, WriteMode, WriterOptions};
use carbyne::limits::{BATCH_BYTES_MAX, FLUSH_BATCH};
use carbyne::metric::owner::ShardId;
use carbyne::metric::point::{Arrival, Point, Received};
use carbyne::metric::series::{Aggregation, Retention, SeriesSpec};
use carbyne::schema::Rules;
use carbyne::shard::flush::{FlushJob, Known, Limit, NextJob, Outcome, Written};
use carbyne::shard::{Shard, ShardOptions};
use carbyne::stats::Receiver;
use carbyne::sys::new_file::Layout;
use carbyne::whisper::{Bases, Header};

const BEGIN_S: u32 = 1_800_000_120;
const STEP_S: u32 = 60;
const ARCHIVE_SLOTS: [u32; 2] = [1_440, 2_016];
const COARSE_STEP_S: u32 = 300;

struct Options {
    files: usize,
    /// For the core's share.
    metrics: usize,
    rounds: u32,
    points: u32,
    directory: PathBuf,
}

/// A file and what the shard would remember of it.
#[derive(Default)]
struct Series {
    path: CString,
    inode: u64,
    known: Option<Known>,
}

fn main() {
    let options = options();
    let directory = options.directory.join(format!("carbyne-bench-writer-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    run(&options, &directory);
    std::fs::remove_dir_all(&directory).unwrap();
}

fn options() -> Options {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let at = arguments.iter().position(|argument| argument == name)?;
        arguments.get(at + 1).cloned()
    };
    let is_bench = arguments.iter().any(|argument| argument == "--bench");
    let files = if is_bench { 16_000 } else { 100 };
    let directory = value("--dir").map_or_else(std::env::temp_dir, PathBuf::from);
    Options {
        files: value("--files").map_or(files, |text| text.parse().unwrap()),
        metrics: value("--metrics").map_or(files, |text| text.parse().unwrap()),
        rounds: value("--rounds").map_or(5, |text| text.parse().unwrap()),
        points: value("--points").map_or(5, |text| text.parse().unwrap()),
        directory,
    }
}

fn run(options: &Options, directory: &Path) {
    let writing = WriterOptions { layout: Layout::Reserved, flock: false, follow_symlinks: false };
    let mut writer = FileWriter::new(directory, writing, None).unwrap();
    let mut series = create(options, directory, &mut writer);
    for one in &mut series {
        one.inode = std::fs::metadata(directory.join(one.path.to_str().unwrap())).unwrap().ino();
    }
    series.sort_by_key(|one| one.inode);
    let mut shuffled: Vec<usize> = (0..series.len()).collect();
    shuffle(&mut shuffled);
    let sorted: Vec<usize> = (0..series.len()).collect();
    let root = File::open(directory).unwrap();

    let mut samples: Vec<(String, Vec<Cost>)> = Vec::new();
    let mut note =
        |name: String, cost: Cost| match samples.iter_mut().find(|(known, _)| *known == name) {
            Some((_, list)) => list.push(cost),
            None => samples.push((name, vec![cost])),
        };
    let mut turn = 1;
    for round in 0..=options.rounds {
        for (label, order) in [("inode order", &sorted), ("random order", &shuffled)] {
            let floor = floor_pass(options, &root, &series, order, turn);
            turn += 1;
            let mut results = vec![(format!("floor, {label}"), floor)];
            for mode in [None, Some(WriteMode::Plain), Some(WriteMode::Ring)] {
                let cost = pass(options, &mut writer, &mut series, order, turn, mode);
                turn += 1;
                let name = mode.map_or_else(|| "auto".to_owned(), |mode| format!("{mode:?}"));
                results.push((format!("writer {name}, {label}"), cost));
            }
            // The first round warms the page cache and lets the writer learn the bases.
            if round > 0 {
                results.into_iter().for_each(|(name, cost)| note(name, cost));
            }
        }
    }
    check(options, directory, &series, turn - 1);
    println!("{:28} {:>8} {:>8} {:>8}   us per update, medians", "", "CPU", "x floor", "wall");
    let floor = median(samples[0].1.iter().map(|cost| cost.cpu));
    for (name, list) in &samples {
        let cpu = median(list.iter().map(|cost| cost.cpu));
        let wall = median(list.iter().map(|cost| cost.wall));
        println!("{name:28} {cpu:8.2} {:8.2} {wall:8.2}", cpu / floor);
    }
    sweep(options);
}

/// Microseconds per file.
#[derive(Clone, Copy, Default)]
struct Cost {
    cpu: f64,
    wall: f64,
}

/// Adds up what calls cost.
#[derive(Default)]
struct Clock {
    total: Cost,
    longest: f64,
}

impl Clock {
    fn time<T>(&mut self, call: impl FnOnce() -> T) -> T {
        let (cpu, wall) = (cpu_micros(), Instant::now());
        let result = call();
        let cpu = cpu_micros() - cpu;
        self.total.cpu += cpu;
        self.total.wall += wall.elapsed().as_nanos() as f64 / 1e3;
        self.longest = self.longest.max(cpu);
        result
    }

    fn each(&self, count: usize) -> Cost {
        Cost { cpu: self.total.cpu / count as f64, wall: self.total.wall / count as f64 }
    }
}

fn median(list: impl Iterator<Item = f64>) -> f64 {
    let mut list: Vec<f64> = list.collect();
    list.sort_by(f64::total_cmp);
    list[list.len() / 2]
}

/// Fisher and Yates with a generator that needs no crate.
fn shuffle(list: &mut [usize]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for end in (1..list.len()).rev() {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let place = usize::try_from(state >> 33).unwrap() % (end + 1);
        list.swap(end, place);
    }
}

fn spec() -> SeriesSpec {
    let retention = |step_s, slot_count| Retention { step_s, slot_count };
    SeriesSpec {
        retentions: vec![
            retention(STEP_S, ARCHIVE_SLOTS[0]),
            retention(COARSE_STEP_S, ARCHIVE_SLOTS[1]),
        ],
        x_files_factor: 0.0,
        aggregation: Aggregation::Average,
    }
}

/// Creates the files through the writer, in an order of names that spreads over directories as
/// arrival does, and says what one costs.
fn create(options: &Options, directory: &Path, writer: &mut FileWriter) -> Vec<Series> {
    let mut series = Vec::with_capacity(options.files);
    for number in 0..options.files {
        let (leaf, leaves) = (number % 10, number / 10);
        let (host, service) = (leaves / 8, leaves % 8);
        let text = format!("carbyne/bench/dc{}/host{host}/service{service}/m{leaf}.wsp", host % 4);
        series.push(Series { path: CString::new(text).unwrap(), inode: 0, known: None });
    }
    let root = File::open(directory).unwrap();
    let mut header = Vec::new();
    Header::new(&spec()).unwrap().encode(&mut header);
    let (mut floor, mut ours) = (Clock::default(), Clock::default());
    let mut batch = WriteBatch::empty();
    batch.jobs.resize_with(FLUSH_BATCH, FlushJob::empty);
    for chunk in series.chunks_mut(FLUSH_BATCH) {
        floor.time(|| chunk.iter().for_each(|one| create_raw(&root, &one.path, &header)));
        fill(options, &mut batch, chunk.iter_mut(), 0, true);
        ours.time(|| writer.write(&mut batch)).unwrap();
        keep(&mut batch, chunk.iter_mut());
    }
    let (floor, ours) = (floor.each(series.len()).cpu, ours.each(series.len()).cpu);
    println!(
        "create {ours:.2} us CPU, {:.0} a second of CPU, with the first update; floor {floor:.2}, \
         ratio {:.2}",
        1e6 / ours,
        ours / floor
    );
    series
}

/// Creates a file beside the writer's, in a tree of its own.
fn create_raw(root: &File, path: &CString, header: &[u8]) {
    let path = format!("floor/{}", path.to_str().unwrap());
    let (parent, name) = path.rsplit_once('/').unwrap();
    let (directory, name) = (CString::new(parent).unwrap(), CString::new(name).unwrap());
    let flags = libc::O_RDONLY | libc::O_DIRECTORY | libc::O_CLOEXEC;
    let root = root.as_raw_fd();
    // SAFETY: the path is a C string that outlives the call.
    let mut parent_fd = unsafe { libc::openat(root, directory.as_ptr(), flags) };
    if parent_fd < 0 {
        for (end, _) in parent.match_indices('/').chain([(parent.len(), "")]) {
            let path = CString::new(&parent[..end]).unwrap();
            // SAFETY: the path is a C string that outlives the call.
            unsafe { libc::mkdirat(root, path.as_ptr(), 0o755) };
        }
        // SAFETY: the path is a C string that outlives the call.
        parent_fd = unsafe { libc::openat(root, directory.as_ptr(), flags) };
    }
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    // SAFETY: the path is a C string that outlives the call.
    let file = unsafe { libc::openat(parent_fd, c".".as_ptr(), flags, 0o644) };
    // SAFETY: plain numbers.
    let reserved = unsafe { libc::fallocate(file, 0, 0, 41_512) };
    // SAFETY: the buffer is as long as the call is told.
    let written = unsafe { libc::pwrite(file, header.as_ptr().cast(), header.len(), 0) };
    let (from, flags) = (c"".as_ptr(), libc::AT_EMPTY_PATH);
    // SAFETY: both paths are C strings that outlive the call.
    let linked = unsafe { libc::linkat(file, from, parent_fd, name.as_ptr(), flags) };
    assert!(reserved == 0 && written > 0 && linked == 0, "{path}");
    // SAFETY: the descriptors were opened above and are used by nobody else.
    unsafe { libc::close(file) };
    // SAFETY: as above.
    unsafe { libc::close(parent_fd) };
}

/// One sweep over the files in this order.
fn pass(
    options: &Options,
    writer: &mut FileWriter,
    series: &mut [Series],
    order: &[usize],
    turn: u32,
    mode: Option<WriteMode>,
) -> Cost {
    let mut batch = WriteBatch::empty();
    batch.jobs.resize_with(FLUSH_BATCH, FlushJob::empty);
    let mut clock = Clock::default();
    for chunk in order.chunks(FLUSH_BATCH) {
        let mut files: Vec<Series> =
            chunk.iter().map(|&at| std::mem::take(&mut series[at])).collect();
        fill(options, &mut batch, files.iter_mut(), turn, false);
        clock
            .time(|| match mode {
                None => writer.write(&mut batch),
                Some(mode) => writer.write_by(mode, &mut batch.jobs[..batch.used]),
            })
            .unwrap();
        keep(&mut batch, files.iter_mut());
        files.into_iter().zip(chunk).for_each(|(file, &at)| series[at] = file);
    }
    clock.each(order.len())
}

fn fill<'s>(
    options: &Options,
    batch: &mut WriteBatch,
    files: impl Iterator<Item = &'s mut Series>,
    turn: u32,
    is_create: bool,
) {
    batch.used = 0;
    for (job, one) in batch.jobs.iter_mut().zip(files) {
        job.path.clear();
        job.path.extend_from_slice(one.path.as_bytes_with_nul());
        job.points.clear();
        job.points.extend(
            points_of(options, turn)
                .into_iter()
                .map(|point| Arrival::new(point, point.timestamp_s)),
        );
        job.known = one.known.take();
        job.create = is_create.then(spec);
        job.limit = Limit { is_alone: true, ..Limit::default() };
        job.outcome = Outcome::Pending;
        batch.used += 1;
    }
}

fn keep<'s>(batch: &mut WriteBatch, files: impl Iterator<Item = &'s mut Series>) {
    for (job, one) in batch.jobs[..batch.used].iter_mut().zip(files) {
        assert!(matches!(job.outcome, Outcome::Written { .. }), "{:?}", job.outcome);
        one.known = job.known.take();
    }
}

/// The core's share: what a sweep over waiting points costs without its files.
fn sweep(options: &Options) {
    let now = Instant::now();
    let mut shard = Shard::new(shard_options(), Arc::new(Rules::default()), now);
    shard.set_time(BEGIN_S);
    let name = |m: usize| format!("carbyne.bench.dc{}.host{}.service{}.m{m}", m % 4, m / 80, m % 8);
    let mut batch = WriteBatch::empty();
    batch.jobs.resize_with(FLUSH_BATCH, FlushJob::empty);
    let header = Header::new(&spec()).unwrap();
    for round in 0..3 {
        for m in 0..options.metrics {
            for point in points_of(options, round) {
                let timestamp = f64::from(point.timestamp_s - 86_400);
                let name = name(m);
                let received = Received { name: name.as_bytes(), value: point.value, timestamp };
                shard.ingest(Receiver::Tcp, received);
            }
        }
        let (mut take, mut confirm) = (Clock::default(), Clock::default());
        shard.begin_sweep();
        let mut count = 0;
        loop {
            let jobs = &mut batch.jobs;
            let (used, next) = take.time(|| {
                for (used, job) in jobs.iter_mut().enumerate() {
                    match shard.next_flush(now, job) {
                        NextJob::Ready => {}
                        next => return (used, next),
                    }
                }
                (jobs.len(), NextJob::Ready)
            });
            for job in &mut jobs[..used] {
                let inode = count as u64 * 7_919 % 1_000_003;
                let bases = Bases::EMPTY;
                job.known = Some(Known { header: header.clone(), inode, bases, changed: 0 });
                let written =
                    Written { count: job.points.len(), is_near: true, ..Written::default() };
                job.outcome = Outcome::Written(written);
                count += 1;
            }
            confirm.time(|| jobs[..used].iter_mut().for_each(|job| drop(shard.complete(job, now))));
            if next == NextJob::SweepOver {
                break;
            }
        }
        assert_eq!(count, options.metrics);
        println!(
            "core, sweep {round}: {:.2} us to take, {:.2} us to confirm an update; longest calls \
             {:.0} and {:.0} us",
            take.each(count).cpu,
            confirm.each(count).cpu,
            take.longest,
            confirm.longest
        );
    }
}

fn shard_options() -> ShardOptions {
    ShardOptions {
        id: ShardId(0),
        shard_count: 1,
        budget_bytes: 8 << 30,
        points_max: 0,
        strategy: WriteStrategy::Max,
        updates_per_s: 0.0,
        creates_per_s: 0.0,
        future_s_max: 0,
        hash_tagged: true,
        quarantined_points_max: 10,
        link_buffers: 2,
        batch_bytes: BATCH_BYTES_MAX,
        log: None,
    }
}

/// What the same update costs as four system calls that know where to write.
fn floor_pass(
    options: &Options,
    root: &File,
    series: &[Series],
    order: &[usize],
    turn: u32,
) -> Cost {
    let points = points_of(options, turn);
    let mut fine = Vec::new();
    points.iter().for_each(|point| fine.extend(slot_bytes(point.timestamp_s, point.value)));
    let coarse_s = points[0].timestamp_s - points[0].timestamp_s % COARSE_STEP_S;
    let coarse = slot_bytes(coarse_s, points[0].value);
    let (fine_at, coarse_at) = (fine_offset(points[0].timestamp_s), coarse_offset(coarse_s));
    let mut clock = Clock::default();
    clock.time(|| {
        for &at in order {
            let path = series[at].path.as_ptr();
            let flags = libc::O_RDWR | libc::O_CLOEXEC;
            // SAFETY: the path is a C string that outlives the call.
            let file = unsafe { libc::openat(root.as_raw_fd(), path, flags) };
            // SAFETY: the buffer is as long as the call is told.
            let first = unsafe { libc::pwrite(file, fine.as_ptr().cast(), fine.len(), fine_at) };
            // SAFETY: the buffer is as long as the call is told.
            let second =
                unsafe { libc::pwrite(file, coarse.as_ptr().cast(), coarse.len(), coarse_at) };
            // SAFETY: the descriptor was opened above and is used by nobody else.
            let closed = unsafe { libc::close(file) };
            assert!(first > 0 && second == 12 && closed == 0, "{:?}", series[at].path);
        }
    });
    clock.each(order.len())
}

fn points_of(options: &Options, turn: u32) -> Vec<Point> {
    let at = |n| BEGIN_S + (turn * options.points + n) * STEP_S;
    let value = f64::from(turn);
    (0..options.points).map(|n| Point { timestamp_s: at(n), value }).collect()
}

fn slot_bytes(timestamp_s: u32, value: f64) -> [u8; 12] {
    let mut bytes = [0; 12];
    bytes[..4].copy_from_slice(&timestamp_s.to_be_bytes());
    bytes[4..].copy_from_slice(&value.to_be_bytes());
    bytes
}

fn fine_offset(timestamp_s: u32) -> i64 {
    40 + i64::from((timestamp_s - BEGIN_S) / STEP_S % ARCHIVE_SLOTS[0]) * 12
}

fn coarse_offset(interval_s: u32) -> i64 {
    let base_s = BEGIN_S - BEGIN_S % COARSE_STEP_S;
    let slot = (interval_s - base_s) / COARSE_STEP_S % ARCHIVE_SLOTS[1];
    40 + i64::from(ARCHIVE_SLOTS[0]) * 12 + i64::from(slot) * 12
}

/// The last turn's points are in every file, and its coarser points in those the writer wrote.
fn check(options: &Options, directory: &Path, series: &[Series], turn: u32) {
    for one in series {
        let file = File::open(directory.join(one.path.to_str().unwrap())).unwrap();
        let mut found = [0; 12];
        let points = points_of(options, turn);
        for point in &points {
            let offset = fine_offset(point.timestamp_s).unsigned_abs();
            file.read_exact_at(&mut found, offset).unwrap();
            assert_eq!(found, slot_bytes(point.timestamp_s, point.value), "{:?}", one.path);
        }
        let newest_s = points[points.len() - 1].timestamp_s;
        let coarse_s = newest_s - newest_s % COARSE_STEP_S;
        file.read_exact_at(&mut found, coarse_offset(coarse_s).unsigned_abs()).unwrap();
        assert_eq!(found[..4], coarse_s.to_be_bytes(), "{:?}", one.path);
    }
}

fn cpu_micros() -> f64 {
    // SAFETY: an all-zero rusage is a valid one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel fills the struct that lives on this stack.
    unsafe { libc::getrusage(libc::RUSAGE_SELF, &raw mut usage) };
    let micros = |time: libc::timeval| time.tv_sec as f64 * 1e6 + time.tv_usec as f64;
    micros(usage.ru_utime) + micros(usage.ru_stime)
}
