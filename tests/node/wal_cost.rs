//! What the log costs: bytes for each point of a million metrics, in any order; and all of them are
//! read back. Its time is measured by `cargo bench --bench hot`.

use std::time::Instant;

use carbyne::metric::point::Point;
use carbyne::wal::{
    BootId, Confirmed, FileName, Log, Mark, Options, Outcome, Replay, SegmentId, logs,
};

const METRICS: usize = 1_000_000;
const SEGMENT_BYTES: u32 = 64 << 20;

/// Bytes a point of a metric whose name is in the log.
const BYTES_MAX: u64 = 14;

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

fn commit(log: &mut Log, disk: &mut Disk) {
    let Some(mut commit) = log.take_commit(Instant::now(), 1_700_000_000) else { return };
    for part in commit.parts() {
        disk.write(part.id(), part.offset(), part.bytes());
        part.outcome = Outcome::Synced;
    }
    log.committed(commit, Instant::now());
}

/// One point for each metric; `stride` is the order. Returns the bytes.
fn round(
    log: &mut Log,
    disk: &mut Disk,
    (marks, names): (&mut [Mark], &[String]),
    (round, stride): (u32, usize),
) -> u64 {
    let before = log.counters().bytes;
    let mut metric = 0;
    for chunk in 0..METRICS / 50_000 {
        for index in 0..50_000 {
            let number = u32::try_from(chunk * 50_000 + index).expect("small");
            let value = f64::from(number) * 0.37 + f64::from(round);
            let point = Point { timestamp_s: 1_700_000_000 + round * 60 + number / 20_000, value };
            log.append(&mut marks[metric], || names[metric].as_bytes(), point).expect("room");
            metric = (metric + stride) % METRICS;
        }
        commit(log, disk);
    }
    log.counters().bytes - before
}

#[test]
fn a_million_metrics_take_few_bytes_a_point_and_are_read_back() {
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
    // First with all names, then in another order, then in the same order again.
    for (index, stride) in [(0, 1), (1, 618_033), (2, 1)] {
        let parts = (&mut marks[..], &names[..]);
        let each = round(&mut log, &mut disk, parts, (index, stride)).div_ceil(METRICS as u64);
        assert!(index == 0 || each <= BYTES_MAX, "round {index}: {each} bytes a point");
    }
    let files: Vec<FileName> = disk.0.iter().map(|(id, _)| FileName::Segment(*id)).collect();
    let found = logs(&files).remove(0);
    let mut replay = Replay::new(found.clone());
    found.names.iter().for_each(|id| replay.add_names(*id, disk.read(*id)));
    let _ = found.points.iter().rev().any(|id| replay.look(*id, disk.read(*id)));
    let (mut sum, nothing) = (0, Confirmed::new(BootId::default()));
    for id in &found.points {
        let mut cursor = replay.begin(*id, disk.read(*id));
        let mut take = |name: &[u8], _, _| sum += name.len();
        while replay.next_frame(&mut cursor, disk.read(*id), &nothing, &mut take) {}
    }
    let report = replay.finish();
    assert_eq!((report.points, report.problem_count), (3 * METRICS as u64, 0));
    assert_eq!(sum, 3 * names.iter().map(String::len).sum::<usize>());
}
