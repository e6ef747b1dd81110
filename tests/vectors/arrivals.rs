//! Exactness of updates: many points in one update leave the bytes that each point alone leaves in
//! the second of its arrival, and updates that the log may repeat change nothing when repeated.
//!
//! The oracle is `update_many` with one point, which `sequences` and the interop tests hold against
//! Python whisper byte by byte. `SEED=7 cargo test --test vectors arrivals::` repeats a failure.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::support::seeds::Chance;
use crate::support::whisper_file::File;
use carbyne::metric::point::{Arrival, Point};
use carbyne::metric::series::Aggregation;
use carbyne::whisper::{Bases, Near, Update, unlapped};

const BASE_S: u32 = 1_700_000_000;
const SEEDS: u64 = 3_000;

const SHAPES: [&[(u32, u32)]; 8] = [
    &[(1, 30), (10, 60)],
    &[(1, 60), (60, 60), (3_600, 48)],
    &[(10, 6), (60, 60)],
    &[(10, 360), (60, 240), (600, 200)],
    &[(1, 20), (5, 12), (10, 12), (60, 10)],
    &[(60, 10)],
    &[(1, 40)],
    &[(5, 30), (25, 20), (100, 1_000)],
];

fn seeds() -> std::ops::RangeInclusive<u64> {
    match std::env::var("SEED") {
        Ok(text) => {
            let seed = text.parse().expect("a number");
            seed..=seed
        }
        Err(_) => 1..=SEEDS,
    }
}

fn new_file(chance: &mut Chance) -> File {
    let x_files_factor = [0.0, 0.0, 0.3, 0.5, 1.0][chance.below(5)];
    let methods = Aggregation::ALL;
    File::create(SHAPES[chance.below(SHAPES.len())], x_files_factor, methods[chance.below(8)])
}

/// Seconds as far as `most`, most often few.
fn some_s(chance: &mut Chance, most: u32) -> u32 {
    let most = [3, 20, 100, most][chance.below(4)].min(most);
    u32::try_from(chance.below(most as usize + 1)).expect("small")
}

/// Points as senders send them: mostly in order, some late, twice, ahead of the clock, or with the
/// clock set back; the clock goes on slowly or in leaps.
fn history(chance: &mut Chance, file: &File, count: usize) -> Vec<Arrival> {
    let retention_s = file.header.retention_s_max;
    let pace_s = [1, 2, 10, 60][chance.below(4)];
    let is_wild = chance.permille(400);
    let mut now_s = BASE_S + some_s(chance, 100);
    let mut points: Vec<Arrival> = Vec::new();
    for number in 0..count {
        if !chance.permille(200) {
            now_s += some_s(chance, pace_s);
        }
        let mut timestamp_s = now_s - now_s % pace_s;
        if is_wild || chance.permille(100) {
            match chance.below(8) {
                0 => now_s += some_s(chance, retention_s),
                1 => now_s -= some_s(chance, 100),
                2 | 3 => timestamp_s = now_s - some_s(chance, retention_s + 10),
                4 => timestamp_s = now_s + some_s(chance, 600),
                5 if !points.is_empty() => {
                    timestamp_s = points[chance.below(points.len())].timestamp_s;
                }
                _ => timestamp_s = now_s - some_s(chance, 40),
            }
        }
        let value = f64::from(u32::try_from(number).expect("small")) + 0.5;
        points.push(Arrival { timestamp_s, arrived_s: now_s, value });
    }
    points
}

fn write_alone(file: &mut File, job: &mut Update, point: Arrival) {
    let Arrival { timestamp_s, value, arrived_s } = point;
    file.update_many(job, &[Point { timestamp_s, value }], arrived_s);
}

/// Writes all points in as few updates as may be, from updates of any sizes asked for.
fn write_together(file: &mut File, job: &mut Update, points: &[Arrival], chance: &mut Chance) {
    let mut rest = points;
    while !rest.is_empty() {
        let asked = (1 + chance.below(rest.len())).min(1 + chance.below(80));
        let (count, _) = unlapped(&file.header, &rest[..asked]);
        let outcome = file.update_arrivals(job, &rest[..count]);
        assert_eq!(outcome.points_used + outcome.points_too_old, count);
        rest = &rest[count..];
        if chance.permille(300) {
            file.bases = Bases::UNKNOWN;
        }
    }
}

#[test]
fn points_together_leave_what_each_alone_leaves() {
    let (mut job, mut together, mut updates) = (Update::new(), 0, 0);
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let mut file = new_file(&mut chance);
        let mut oracle = File::open(file.bytes.clone()).expect("a new file");
        let count = 1 + chance.below(300);
        let points = history(&mut chance, &file, count);
        for &point in &points {
            write_alone(&mut oracle, &mut job, point);
        }
        write_together(&mut file, &mut job, &points, &mut chance);
        let is_equal = file.bytes == oracle.bytes;
        assert!(is_equal, "seed {seed}: {:?} {points:?}", file.header);
        together += points.len();
        updates += 1;
    }
    assert!(together > 50 * updates);
}

/// What a crash leaves of updates that may be repeated: any of their bytes, twelve at a time, which
/// are not just those of a slot, so that slots are torn as well.
fn mix(chance: &mut Chance, before: &[u8], after: &[u8]) -> Vec<u8> {
    let share = chance.below(1_001);
    let pieces = before.chunks(12).zip(after.chunks(12));
    pieces.flat_map(|(a, b)| if chance.permille(share) { b } else { a }).copied().collect()
}

/// Updates near a reference may be repeated from any one on, after a crash that left any of their
/// slots in the file, and leave what they left before.
#[test]
fn near_updates_may_be_repeated() {
    let (mut job, mut repeated) = (Update::new(), 0);
    for seed in seeds() {
        let mut chance = Chance::new(seed);
        let mut file = new_file(&mut chance);
        let count = 1 + chance.below(200);
        let points = history(&mut chance, &file, count);
        let settled = chance.below(points.len());
        write_together(&mut file, &mut job, &points[..settled], &mut chance);
        let before = file.bytes.clone();
        let last_s = points[settled].arrived_s;
        let near = Near { before_s: last_s - some_s(&mut chance, 50), last_s };
        let mut end = settled;
        while end < points.len() {
            let asked = 1 + chance.below(points.len() - end);
            let (count, reach) = unlapped(&file.header, &points[end..end + asked]);
            if !reach.is_near(&file.header, near) {
                break;
            }
            file.update_arrivals(&mut job, &points[end..end + count]);
            end += count;
        }
        if end == settled {
            // One that is not near may be repeated if it is made alone.
            let (count, _) = unlapped(&file.header, &points[end..]);
            file.update_arrivals(&mut job, &points[end..end + count]);
            end += count;
        }
        let want = file.bytes.clone();
        // The same, from the beginning on a part, or from any point on the whole.
        let mut partly = File::open(mix(&mut chance, &before, &want)).expect("a file");
        write_together(&mut partly, &mut job, &points[settled..end], &mut chance);
        assert!(partly.bytes == want, "seed {seed}: partly {:?} {points:?}", file.header);
        let from = settled + chance.below(end - settled);
        let mut again = File::open(want.clone()).expect("a file");
        write_together(&mut again, &mut job, &points[from..end], &mut chance);
        assert!(again.bytes == want, "seed {seed}: again {:?} {points:?}", file.header);
        repeated += end - settled;
    }
    assert!(repeated as u64 > 2 * SEEDS || std::env::var("SEED").is_ok(), "{repeated}");
}
