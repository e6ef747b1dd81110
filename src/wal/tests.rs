//! Logs written by [`Log`], kept as bytes, damaged in every way, and read back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;
use crate::metric::point::Point;

const SEGMENT_BYTES: u32 = 64 << 10;

/// Segments by name, whole.
type Files = BTreeMap<SegmentId, Vec<u8>>;

/// A point found or written: name, timestamp, bits of the value.
type Found = (Vec<u8>, u32, u64);

fn log(run: u64) -> Log {
    Log::new(Options {
        run,
        shard: 2,
        shard_count: 4,
        segment_bytes: SEGMENT_BYTES,
        segments_max: 100,
        buffer_bytes: 32 << 10,
        inherited_segments: None,
    })
}

/// Commits everything into `files`.
fn commit(log: &mut Log, files: &mut Files) {
    while let Some(mut commit) = log.take_commit(Instant::now(), 1_700_000_000) {
        for part in commit.parts() {
            let file = files.entry(part.id()).or_default();
            file.resize(SEGMENT_BYTES as usize, 0);
            let at = usize::try_from(part.offset()).unwrap();
            assert_eq!(part.bytes().as_ptr().align_offset(BLOCK_BYTES), 0);
            file[at..at + part.bytes().len()].copy_from_slice(part.bytes());
            part.outcome = Outcome::Synced;
        }
        log.committed(commit, Instant::now());
    }
}

/// A small log: `commits` of a few points each, of a few metrics.
fn sample(run: u64, commits: u32) -> (Files, Vec<Vec<Found>>) {
    let (mut log, mut files, mut written) = (log(run), Files::new(), Vec::new());
    let mut marks = [Mark::default(); 3];
    for index in 0..commits {
        let mut points = Vec::new();
        for (metric, mark) in marks.iter_mut().enumerate() {
            let name = format!("run{run}.metric{metric}").into_bytes();
            let point = Point { timestamp_s: 1_700_000_000 + index, value: f64::from(index) / 3.0 };
            log.append(mark, || &name, point).unwrap();
            points.push((name, point.timestamp_s, point.value.to_bits()));
        }
        commit(&mut log, &mut files);
        written.push(points);
    }
    (files, written)
}

fn read(files: &Files) -> (Vec<Found>, Vec<Report>) {
    let names: Vec<FileName> = files.keys().map(|&id| FileName::Segment(id)).collect();
    let (mut found, mut reports) = (Vec::new(), Vec::new());
    for log in logs(&names) {
        let mut replay = Replay::new(log.clone());
        log.names.iter().for_each(|id| replay.add_names(*id, &files[id]));
        let _ = log.points.iter().rev().any(|id| replay.look(*id, &files[id]));
        for id in &log.points {
            let mut cursor = replay.begin(*id, &files[id]);
            while replay.next_frame(&mut cursor, &files[id], |name, point| {
                found.push((name.to_vec(), point.timestamp_s, point.value.to_bits()));
            }) {}
        }
        reports.push(replay.finish());
    }
    (found, reports)
}

fn problems(reports: &[Report]) -> Vec<Damage> {
    reports.iter().flat_map(|report| report.problems.iter().map(|p| p.damage)).collect()
}

fn points_file(files: &Files, number: u32) -> SegmentId {
    *files.keys().find(|id| id.kind == Kind::Points && id.number == number).unwrap()
}

#[test]
fn a_whole_log_comes_back_in_order() {
    let (mut files, written) = sample(1, 20);
    let (later, written_later) = sample(2, 3);
    files.extend(later);
    assert_eq!(files.keys().filter(|id| id.kind == Kind::Points && id.run == 1).count(), 2);
    let (found, reports) = read(&files);
    let want: Vec<Found> = written.into_iter().chain(written_later).flatten().collect();
    assert_eq!(found, want);
    let first = &reports[0];
    assert_eq!((first.points, first.names, first.frames, first.problem_count), (60, 3, 20, 0));
    assert_eq!((first.lost_points, first.unresolved_points, first.cut_bytes), (0, 0, 0));
}

#[test]
fn every_flipped_bit_costs_its_frame_at_most() {
    let (files, written) = sample(1, 4);
    let all: Vec<Found> = written.iter().flatten().cloned().collect();
    for &id in files.keys() {
        let used = 9 * BLOCK_BYTES;
        for at in 0..used {
            // In zeros a bit is like the others; elsewhere each one counts.
            let bits = if files[&id][at] == 0 && at % 64 != 0 { 1 } else { 8 };
            for bit in 0..bits {
                let mut damaged = files.clone();
                damaged.get_mut(&id).unwrap()[at] ^= 1 << bit;
                let (found, reports) = read(&damaged);
                let frame = at / BLOCK_BYTES;
                let is_hit = id.kind == Kind::Points && (1..=4).contains(&frame);
                let others: Vec<Found> = written
                    .iter()
                    .enumerate()
                    .filter(|(index, _)| *index + 1 != frame)
                    .flat_map(|(_, points)| points.clone())
                    .collect();
                let is_whole = found == all;
                // A version that is not ours refuses the segment; a flip does not make one.
                assert!(is_whole || (is_hit && found == others), "{id} {at} {bit}: {found:?}");
                if !is_whole {
                    assert!(reports[0].problem_count > 0, "{id} {at} {bit}: silent");
                    let is_told = reports[0].lost_points == 3 || frame == 4;
                    assert!(is_told, "{id} {at} {bit}: {:?}", reports[0]);
                }
            }
        }
    }
}

#[test]
fn every_length_gives_what_lies_before_it() {
    let (files, written) = sample(1, 4);
    let points = points_file(&files, 1);
    for length in 0..6 * BLOCK_BYTES {
        let mut cut = files.clone();
        cut.get_mut(&points).unwrap().truncate(length);
        let (found, reports) = read(&cut);
        // A frame is whole when its records are; what follows in its block is padding.
        let whole = written.iter().enumerate().filter(|(index, _)| {
            let frame = &files[&points][(index + 1) * BLOCK_BYTES..];
            let payload = u32_at(frame, 28) as usize;
            (index + 1) * BLOCK_BYTES + 64 + payload <= length
        });
        let want: Vec<Found> = whole.flat_map(|(_, points)| points.clone()).collect();
        assert_eq!(found, want, "cut to {length}");
        let is_told = problems(&reports)
            .iter()
            .any(|damage| matches!(damage, Damage::Empty | Damage::Short { .. } | Damage::Header));
        assert!(is_told, "cut to {length}: {reports:?}");
    }
}

#[test]
fn each_missing_or_foreign_file_is_named() {
    let (files, _) = sample(1, 40);
    let (_, whole) = read(&files);
    assert_eq!(whole[0].problem_count, 0);
    for number in 1..3 {
        let mut fewer = files.clone();
        let id = points_file(&files, number);
        fewer.remove(&id);
        let (_, reports) = read(&fewer);
        assert_eq!(reports[0].problems, [Problem { segment: id, damage: Damage::Missing }]);
        assert_eq!(reports[0].lost_points, 45, "15 commits of 3 points");
    }
    let (first, second) = (points_file(&files, 1), points_file(&files, 2));
    let mut swapped = files.clone();
    swapped.insert(first, files[&second].clone());
    let (found, reports) = read(&swapped);
    assert_eq!(reports[0].problems[0], Problem { segment: first, damage: Damage::Foreign(second) });
    assert_eq!(found.len(), 75, "nothing is taken twice");
    let mut other = files.clone();
    let block = &mut other.get_mut(&first).unwrap()[..BLOCK_BYTES];
    block[8] = 2;
    block[100] = 1;
    block[12] ^= 1;
    let (_, reports) = read(&other);
    assert_eq!(reports[0].problems[0], Problem { segment: first, damage: Damage::Version(2) });
}

#[test]
fn problems_name_their_file() {
    let check = |damage, want: &str| {
        let segment = SegmentId { run: 7, shard: 1, kind: Kind::Points, number: 12 };
        let text = Problem { segment, damage }.to_string();
        assert_eq!(text, format!("000007-001-00000012.points: {want}"));
    };
    check(Damage::Empty, "empty");
    check(Damage::Short { bytes: 70 }, "cut to 70 bytes");
    check(Damage::Missing, "missing");
    check(Damage::Header, "header damaged");
    check(Damage::Version(2), "unknown version 2");
    check(Damage::Range { from: 4096, to: 8192 }, "bytes 4096 to 8192 damaged");
    check(Damage::Torn { from: 4096, bytes: 8192 }, "torn at 4096, 8192 bytes cut off");
    check(Damage::Malformed { from: 4096 }, "frame at 4096 malformed");
    check(Damage::Ambiguous { number: 3 }, "two names for number 3");
    let other = SegmentId { run: 8, shard: 0, kind: Kind::Names, number: 1 };
    check(Damage::Foreign(other), "is 000008-000-00000001.names by its header");
}

#[test]
#[should_panic(expected = "may be gone")]
fn what_was_released_and_covered_is_not_held_again() {
    let (mut log, mut files, mut mark) = (log(1), Files::new(), Mark::default());
    for _ in 0..40 {
        log.append(&mut mark, || b"a", Point { timestamp_s: 1, value: 1.0 }).unwrap();
        commit(&mut log, &mut files);
    }
    log.checkpoint_begun();
    log.checkpoint_done(true);
    log.hold(1);
}

#[test]
fn a_torn_end_is_cut_and_counted() {
    let (mut files, written) = sample(1, 4);
    let points = points_file(&files, 1);
    // The records of the last frame did not reach the disk.
    files.get_mut(&points).unwrap()[4 * BLOCK_BYTES + 68..5 * BLOCK_BYTES].fill(0);
    let (found, reports) = read(&files);
    assert_eq!(found, written[..3].concat());
    assert_eq!(problems(&reports), [Damage::Torn { from: 16_384, bytes: 4_096 }]);
    assert_eq!(reports[0].cut_bytes, 4_096);
}

#[test]
fn a_middle_that_is_damaged_costs_itself() {
    let (mut files, written) = sample(1, 6);
    let points = points_file(&files, 1);
    files.get_mut(&points).unwrap()[2 * BLOCK_BYTES..4 * BLOCK_BYTES].fill(0xee);
    let (found, reports) = read(&files);
    assert_eq!(found, [&written[..1], &written[3..]].concat().concat());
    assert_eq!(problems(&reports), [Damage::Range { from: 8_192, to: 16_384 }]);
    assert_eq!(reports[0].lost_points, 6);
}

#[test]
fn a_damaged_name_is_healed_by_its_copy_and_a_lost_one_counted() {
    let (files, _) = sample(1, 2);
    let names = *files.keys().find(|id| id.kind == Kind::Names).unwrap();
    let mut damaged = files.clone();
    damaged.get_mut(&names).unwrap()[BLOCK_BYTES + 70] ^= 4;
    let (found, reports) = read(&damaged);
    assert_eq!(found.len(), 6);
    assert!(matches!(problems(&reports)[..], [Damage::Range { from: 4096, to: 8192 }]));
    let mut lost = files;
    lost.remove(&names);
    let (found, reports) = read(&lost);
    assert_eq!((found.len(), reports[0].unresolved_points), (0, 6));
}

#[test]
fn what_a_recycled_file_held_before_is_never_taken_for_new() {
    let (old, _) = sample(1, 15);
    let (new, written) = sample(2, 3);
    let mut files = Files::new();
    for (&id, bytes) in &new {
        let used = if id.kind == Kind::Points { 4 } else { 3 } * BLOCK_BYTES;
        let former = old.keys().find(|former| former.kind == Kind::Points).unwrap();
        let mut mixed = old[former].clone();
        mixed[..used].copy_from_slice(&bytes[..used]);
        files.insert(id, mixed);
    }
    let (found, reports) = read(&files);
    assert_eq!(found, written.into_iter().flatten().collect::<Vec<_>>());
    assert_eq!((reports[0].problem_count, reports[0].cut_bytes), (0, 0), "{reports:?}");
    // Prepared under its new name and never begun.
    let former = *old.keys().find(|id| id.kind == Kind::Points).unwrap();
    let id = SegmentId { run: 3, ..former };
    let (found, reports) = read(&Files::from([(id, old[&former].clone())]));
    assert!(found.is_empty());
    assert_eq!((reports[0].unbegun_segments, reports[0].problem_count), (1, 0));
}

#[test]
fn any_bytes_are_taken() {
    let (files, written) = sample(1, 20);
    let real: Vec<Found> = written.into_iter().flatten().collect();
    let mut state = 7_u64;
    let mut next = move |end: usize| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % end
    };
    for round in 0..3_000 {
        let mut mutated = files.clone();
        for bytes in mutated.values_mut() {
            for _ in 0..next(20) {
                let (at, length) = (next(bytes.len()), 1 + next(600));
                let end = (at + length).min(bytes.len());
                match next(3) {
                    0 => bytes[at..end].fill(u8::try_from(next(256)).unwrap()),
                    1 => bytes[at] ^= 1 << next(8),
                    _ => {
                        let from = next(bytes.len() - (end - at) + 1);
                        bytes.copy_within(from..from + (end - at), at);
                    }
                }
            }
            if next(4) == 0 {
                bytes.truncate(next(SEGMENT_BYTES as usize));
            }
        }
        let (found, _) = read(&mutated);
        assert!(found.iter().all(|point| real.contains(point)), "round {round}: invented");
    }
}

#[test]
fn file_names_have_one_spelling() {
    let check = |text: &str, is_ours: bool| {
        let name = FileName::parse(text);
        assert_eq!(name.is_some(), is_ours, "{text}");
        name.into_iter().for_each(|name| assert_eq!(name.to_string(), text));
    };
    check("000001-000-00000001.points", true);
    check("123456789-65535-4294967295.names", true);
    check("000007-003-00000012.spare", true);
    check("000007.settled", true);
    check("1-0-1.points", false);
    check("000001-000-00000001.wal", false);
    check("000001-000-00000001.points.old", false);
    check("000001-70000-00000001.points", false);
    check("", false);
}

#[test]
fn a_full_log_makes_wait_and_goes_on() {
    let mut log = Log::new(Options { segments_max: 6, ..log(1).options().clone() });
    let (mut files, mut mark) = (Files::new(), Mark::default());
    let point = Point { timestamp_s: 1, value: 0.1 };
    let mut holds = Vec::new();
    while !log.is_full() {
        holds.push(log.append(&mut mark, || b"a", point).unwrap());
        log.hold(*holds.last().unwrap());
        commit(&mut log, &mut files);
    }
    assert_eq!(log.file_count(), 5);
    assert_eq!(log.pressure(), Pressure::Carry { oldest: 1 });
    assert!(!log.checkpoint_wanted(), "everything is held");
    for &segment in &holds {
        log.release(segment);
    }
    assert_eq!(log.pressure(), Pressure::None);
    log.checkpoint_begun();
    log.checkpoint_done(true);
    assert_eq!(log.take_retired(), None, "no frame tells it yet");
    commit(&mut log, &mut files);
    while let Some(id) = log.take_retired() {
        files.remove(&id);
        log.retired(id, true);
    }
    assert_eq!(log.file_count(), 2);
    assert!(!log.is_full());
    let (found, reports) = read(&files);
    assert_eq!(reports[0].problem_count, 0, "{reports:?}");
    assert!(found.len() <= 15);
}

#[test]
fn a_failed_checkpoint_retires_nothing_ever() {
    let (mut log, mut files, mut mark) = (log(1), Files::new(), Mark::default());
    for _ in 0..40 {
        log.append(&mut mark, || b"a", Point { timestamp_s: 1, value: 1.0 }).unwrap();
        commit(&mut log, &mut files);
    }
    assert!(log.checkpoint_wanted());
    log.checkpoint_begun();
    log.checkpoint_done(false);
    assert!(log.counters().failed_checkpoints == 1 && !log.checkpoint_wanted());
    log.checkpoint_begun();
    log.checkpoint_done(true);
    commit(&mut log, &mut files);
    assert_eq!(log.take_retired(), None);
}

#[test]
fn a_log_full_of_names_makes_room_though_nothing_comes() {
    let options = Options { segments_max: 8, ..log(1).options().clone() };
    let (mut log, mut now) = (Log::new(options), Instant::now());
    let point = Point { timestamp_s: 1_700_000_000, value: 1.0 };
    log.append(&mut Mark::default(), || b"a.b", point).unwrap();
    // The point is written at once; the name takes one file after the other, and they all break.
    for attempt in 0..8 {
        now += Duration::from_secs(10);
        let mut commit = log.take_commit(now, 1_700_000_000).unwrap();
        commit.parts().for_each(|part| {
            let is_broken = part.id().kind == Kind::Names && attempt < 7;
            part.outcome = if is_broken { Outcome::Broken } else { Outcome::Synced };
        });
        log.committed(commit, now);
    }
    assert!(log.is_full(), "{} files", log.file_count());
    // Nothing is held. Nobody may send.
    for _ in 0..10 {
        now += Duration::from_secs(10);
        if log.checkpoint_wanted() {
            log.checkpoint_begun();
            log.checkpoint_done(true);
        }
        if let Some(mut commit) = log.take_commit(now, 1_700_000_000) {
            commit.parts().for_each(|part| part.outcome = Outcome::Synced);
            log.committed(commit, now);
        }
        while let Some(id) = log.take_retired() {
            log.retired(id, true);
        }
    }
    assert!(!log.is_full() && log.is_settled(), "{} files", log.file_count());
    assert_eq!(log.file_count(), 1, "the segment of points that is written to");
}
