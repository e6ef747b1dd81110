//! What the log costs: bytes and CPU for each point of a million metrics, and the CPU of reading a
//! million points back.
//!
//! `cargo test --release --test node wal_cost:: -- --nocapture` shows the figures.

use std::time::{Duration, Instant};

use carbyne::metric::point::Point;
use carbyne::wal::{
    BootId, Confirmed, FileName, Log, Mark, Options, Outcome, Replay, SegmentId, logs,
};

const METRICS: usize = 1_000_000;
const SEGMENT_BYTES: u32 = 64 << 20;

/// Limits with room for a busy machine and a build without optimisation.
const APPEND_MAX: Duration = Duration::from_nanos(400);
const REPLAY_MAX: Duration = Duration::from_secs(1);

struct Disk(Vec<(SegmentId, Vec<u8>)>);

impl Disk {
    fn write(&mut self, id: SegmentId, offset: u64, bytes: &[u8]) {
        let index = self.0.iter().position(|(known, _)| *known == id).unwrap_or_else(|| {
            self.0.push((id, vec![0; SEGMENT_BYTES as usize]));
            self.0.len() - 1
        });
        let at = usize::try_from(offset).expect("small");
        self.0[index].1[at..at + bytes.len()].copy_from_slice(bytes);
    }

    fn read(&self, id: SegmentId) -> &[u8] {
        let found = self.0.iter().find(|(known, _)| *known == id);
        &found.expect("a file that was written").1
    }
}

/// CPU time of this thread.
fn cpu() -> Duration {
    let text =
        std::fs::read_to_string("/proc/thread-self/schedstat").expect("scheduler statistics");
    let nanoseconds = text.split(' ').next().expect("three numbers");
    Duration::from_nanos(nanoseconds.parse().expect("a number"))
}

fn commit(log: &mut Log, disk: &mut Disk) -> Duration {
    let begun = cpu();
    let Some(mut commit) = log.take_commit(Instant::now(), 1_700_000_000) else {
        return Duration::ZERO;
    };
    let taken = cpu() - begun;
    for part in commit.parts() {
        disk.write(part.id(), part.offset(), part.bytes());
        part.outcome = Outcome::Synced;
    }
    log.committed(commit, Instant::now());
    taken
}

/// One point for each metric; `stride` is the order. Returns bytes and CPU a point.
fn round(
    log: &mut Log,
    disk: &mut Disk,
    (marks, names): (&mut [Mark], &[String]),
    (round, stride): (u32, usize),
) -> (u64, Duration) {
    let before = log.counters().bytes;
    let (mut metric, mut time) = (0, Duration::ZERO);
    for chunk in 0..METRICS / 50_000 {
        let begun = cpu();
        for index in 0..50_000 {
            let number = u32::try_from(chunk * 50_000 + index).expect("small");
            let value = f64::from(number) * 0.37 + f64::from(round);
            let point = Point { timestamp_s: 1_700_000_000 + round * 60 + number / 20_000, value };
            log.append(&mut marks[metric], || names[metric].as_bytes(), point).expect("room");
            metric = (metric + stride) % METRICS;
        }
        time += cpu() - begun;
        time += commit(log, disk);
    }
    (log.counters().bytes - before, time / u32::try_from(METRICS).expect("small"))
}

#[test]
fn a_million_metrics() {
    let mut log = Log::new(Options {
        run: 1,
        shard: 0,
        shard_count: 1,
        segment_bytes: SEGMENT_BYTES,
        segments_max: 64,
        buffer_bytes: 16 << 20,
        inherited_segments: None,
        boot_id: BootId::default(),
    });
    let names: Vec<String> = (0..METRICS)
        .map(|index| format!("servers.host-{:05}.application.requests.{index:07}", index % 4_000))
        .collect();
    let mut marks = vec![Mark::default(); METRICS];
    let mut disk = Disk(Vec::new());
    let mut lines = Vec::new();
    // First with all names, then in another order, then in the same order again.
    for (index, stride) in [(0, 1), (1, 618_033), (2, 1)] {
        let parts = (&mut marks[..], &names[..]);
        let (bytes, time) = round(&mut log, &mut disk, parts, (index, stride));
        let each = bytes.div_ceil(METRICS as u64);
        lines.push(format!("round {index}: {each} bytes, {time:?} a point\n"));
        assert!(index == 0 || each <= 14, "{lines:?}");
        assert!(index == 0 || time <= APPEND_MAX, "{lines:?}");
    }
    let files: Vec<FileName> = disk.0.iter().map(|(id, _)| FileName::Segment(*id)).collect();
    let found = logs(&files).remove(0);
    let begun = cpu();
    let mut replay = Replay::new(found.clone());
    found.names.iter().for_each(|id| replay.add_names(*id, disk.read(*id)));
    let names_time = cpu() - begun;
    let _ = found.points.iter().rev().any(|id| replay.look(*id, disk.read(*id)));
    let (mut sum, nothing) = (0, Confirmed::new(BootId::default()));
    for id in &found.points {
        let mut cursor = replay.begin(*id, disk.read(*id));
        let mut take = |name: &[u8], _, _| sum += name.len();
        while replay.next_frame(&mut cursor, disk.read(*id), &nothing, &mut take) {}
    }
    let time = cpu() - begun;
    let report = replay.finish();
    assert_eq!((report.points, report.problem_count), (3 * METRICS as u64, 0));
    assert_eq!(sum, 3 * names.iter().map(String::len).sum::<usize>());
    let each = (time - names_time) / 3;
    lines.push(format!("replay: a million names {names_time:?}, a million points {each:?}\n"));
    assert!(names_time + each <= REPLAY_MAX, "{lines:?}");
    use std::io::Write;
    std::io::stderr().write_all(lines.concat().as_bytes()).expect("standard error");
}
