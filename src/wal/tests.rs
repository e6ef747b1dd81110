//! Logs written by [`Log`], kept as bytes, damaged in every way, and read back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::*;
use crate::metric::point::{Arrival, Point};

const SEGMENT_BYTES: u32 = 64 << 10;

const BOOT_ID: BootId = BootId([7; 16]);

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
        boot_id: BOOT_ID,
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
    let (found, reports) = read_after(files, BOOT_ID);
    let plain =
        |(name, point): (Vec<u8>, Arrival)| (name, point.timestamp_s, point.value.to_bits());
    (found.into_iter().map(plain).collect(), reports)
}

/// Replays what is not confirmed, under the kernel start of this identity.
fn read_after(files: &Files, boot_id: BootId) -> (Vec<(Vec<u8>, Arrival)>, Vec<Report>) {
    let names: Vec<FileName> = files.keys().map(|&id| FileName::Segment(id)).collect();
    let (mut found, mut reports) = (Vec::new(), Vec::new());
    let mut confirmed = Confirmed::new(boot_id);
    let open = |log: &LogFiles| {
        let mut replay = Replay::new(log.clone());
        log.names.iter().for_each(|id| replay.add_names(*id, &files[id]));
        let _ = log.points.iter().rev().any(|id| replay.look(*id, &files[id]));
        replay
    };
    for log in logs(&names) {
        let mut replay = open(&log);
        log.points.iter().for_each(|id| replay.survey(*id, &files[id], &mut confirmed));
        replay.end_survey(&mut confirmed);
    }
    confirmed.end_survey();
    for log in logs(&names) {
        let mut replay = open(&log);
        replay.resolve(&confirmed);
        for id in &log.points {
            let mut cursor = replay.begin(*id, &files[id]);
            while replay.next_frame(&mut cursor, &files[id], &confirmed, |name, point, _| {
                found.push((name.to_vec(), point));
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
    block[8] = 1;
    block[100] = 1;
    block[12] ^= 1;
    let (_, reports) = read(&other);
    assert_eq!(reports[0].problems[0], Problem { segment: first, damage: Damage::Version(1) });
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
    assert_eq!(log.pressure(), Pressure::Rewrite { oldest: 1 });
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
    // Each name's first write fails in the segment of the one before it, and needs a new segment.
    for index in 0..7 {
        let (name, point) = (format!("a.{index}"), Point { timestamp_s: 1, value: 1.0 });
        log.append(&mut Mark::default(), || name.as_bytes(), point).unwrap();
        while !log.is_settled() && log.file_count() < 8 {
            now += Duration::from_secs(10);
            let mut commit = log.take_commit(now, 1_700_000_000).unwrap();
            commit.parts().for_each(|part| {
                let is_bad = part.id().kind == Kind::Names && !part.is_new();
                part.outcome = if is_bad { Outcome::Failed } else { Outcome::Synced };
            });
            log.committed(commit, now);
        }
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
    assert_eq!(log.file_count(), 2, "the segment of points that is written to, and its names");
}

#[test]
fn a_disk_on_which_every_write_fails_costs_one_file_of_each_kind() {
    let (mut log, mut files, mut now) = (log(1), Files::new(), Instant::now());
    let point = Point { timestamp_s: 1_700_000_000, value: 1.0 };
    log.append(&mut Mark::default(), || b"a", point).unwrap();
    commit(&mut log, &mut files);
    log.append(&mut Mark::default(), || b"b", point).unwrap();
    for _ in 0..100 {
        now += Duration::from_secs(10);
        let mut commit = log.take_commit(now, 1_700_000_000).unwrap();
        commit.parts().for_each(|part| part.outcome = Outcome::Failed);
        log.committed(commit, now);
    }
    assert_eq!((log.counters().failed_commits, log.file_count()), (100, 2));
    now += Duration::from_secs(10);
    let mut commit = log.take_commit(now, 1_700_000_000).unwrap();
    commit.parts().for_each(|part| {
        assert!(part.is_new() && part.id().number == 2, "{}", part.id());
        part.outcome = Outcome::Synced;
    });
    log.committed(commit, now);
    assert!(log.is_settled() && log.file_count() == 4);
}

#[test]
fn checkpoints_leave_the_files_that_let_the_inheritance_go() {
    let options =
        Options { segments_max: 8, inherited_segments: Some(2), ..log(2).options().clone() };
    let (mut log, mut files) = (Log::new(options), Files::new());
    log.hold(INHERITANCE);
    log.inheritance_read(Instant::now());
    // Each says that it begins, until the log has no room for more.
    for _ in 0..1_000 {
        log.checkpoint_begun();
        commit(&mut log, &mut files);
        log.checkpoint_done(true);
    }
    let full_count = log.file_count();
    log.release(INHERITANCE);
    log.checkpoint_begun();
    log.checkpoint_done(true);
    assert!(!log.is_inheritance_released(), "no frame says so yet");
    commit(&mut log, &mut files);
    assert!(log.is_inheritance_released(), "{full_count} files, then {}", log.file_count());
}

/// A log of one metric of each name; points are numbered by their timestamps.
struct Notes {
    log: Log,
    files: Files,
    marks: BTreeMap<&'static str, Mark>,
}

impl Notes {
    fn new(run: u64) -> Notes {
        let mut log = log(run);
        log.set_time(1_000);
        Notes { log, files: Files::new(), marks: BTreeMap::new() }
    }

    fn append(&mut self, name: &'static str, timestamp_s: u32) {
        let mark = self.marks.entry(name).or_default();
        let point = Point { timestamp_s, value: 1.0 };
        self.log.append(mark, || name.as_bytes(), point).unwrap();
    }

    fn confirm(&mut self, name: &'static str, through: Position) {
        let mark = self.marks.entry(name).or_default();
        self.log.confirm(mark, || name.as_bytes(), through).unwrap();
    }

    fn rewrite(&mut self, name: &'static str, points: &[(u32, u32)]) {
        let mark = self.marks.entry(name).or_default();
        let arrival = |&(timestamp_s, arrived_s)| Arrival { timestamp_s, arrived_s, value: 1.0 };
        let points: Vec<Arrival> = points.iter().map(arrival).collect();
        self.log.rewrite(mark, || name.as_bytes(), &points).unwrap();
    }

    fn commit(&mut self) {
        commit(&mut self.log, &mut self.files);
    }

    /// What is replayed, as "name timestamp@arrival", after a kill and after a loss of power.
    fn replayed(&self, files: &[&Files]) -> [String; 2] {
        let mut all = self.files.clone();
        files.iter().for_each(|more| all.extend((*more).clone()));
        [BOOT_ID, BootId([8; 16])].map(|boot_id| {
            let (found, reports) = read_after(&all, boot_id);
            assert!(reports.iter().all(|report| report.problem_count == 0), "{reports:?}");
            let text = |(name, it): &(Vec<u8>, Arrival)| {
                let name = String::from_utf8_lossy(name);
                format!("{name}{}@{}", it.timestamp_s, it.arrived_s)
            };
            found.iter().map(text).collect::<Vec<_>>().join(" ")
        })
    }
}

#[test]
fn arrivals_come_back_whatever_the_clock_does() {
    let mut notes = Notes::new(1);
    notes.append("a", 1);
    notes.log.set_time(1_001);
    notes.log.set_time(1_002);
    notes.append("a", 2);
    notes.commit();
    notes.append("a", 3);
    notes.log.set_time(5);
    notes.append("b", 4);
    notes.commit();
    notes.log.set_time(2_000_000_000);
    notes.append("a", 5);
    notes.commit();
    let want = "a1@1000 a2@1002 a3@1002 b4@5 a5@2000000000";
    assert_eq!(notes.replayed(&[]), [want, want]);
}

#[test]
fn what_is_confirmed_is_not_replayed() {
    let mut notes = Notes::new(1);
    notes.append("a", 1);
    notes.append("b", 2);
    let through = notes.log.position();
    notes.append("a", 3);
    notes.confirm("a", through);
    notes.commit();
    // Nothing is synced: after a loss of power all may be missing in its file.
    let all = "a1@1000 b2@1000 a3@1000";
    assert_eq!(notes.replayed(&[]), ["b2@1000 a3@1000", all]);
    notes.confirm("a", notes.log.position());
    assert!(notes.log.checkpoint_begun());
    notes.confirm("b", notes.log.position());
    notes.commit();
    assert_eq!(notes.replayed(&[]), [all, all], "it may have failed");
    notes.log.checkpoint_done(true);
    notes.append("b", 4);
    assert_eq!(notes.replayed(&[]), [all, all], "no frame tells of the sync yet");
    notes.commit();
    let kill = "b4@1000";
    assert_eq!(notes.replayed(&[]), [kill, "b2@1000 b4@1000"], "what was confirmed before it");
    assert!(notes.log.checkpoint_begun());
    notes.log.checkpoint_done(true);
    notes.log.tell_checkpoint();
    notes.commit();
    assert_eq!(notes.replayed(&[]), [kill, kill], "a frame of its own tells of it");
    assert!(notes.log.is_settled());
}

#[test]
fn a_failed_sync_confirms_nothing() {
    let mut notes = Notes::new(1);
    notes.append("a", 1);
    notes.confirm("a", notes.log.position());
    assert!(notes.log.checkpoint_begun());
    notes.log.checkpoint_done(false);
    notes.commit();
    assert!(notes.log.checkpoint_begun());
    notes.log.checkpoint_done(true);
    notes.log.tell_checkpoint();
    notes.commit();
    assert_eq!(notes.replayed(&[]), ["a1@1000", "a1@1000"]);
}

#[test]
fn a_later_run_confirms_points_of_an_earlier_one() {
    let mut first = Notes::new(1);
    first.append("a", 1);
    let part = first.log.position();
    first.append("a", 2);
    first.append("b", 3);
    first.commit();
    let mut second = Notes::new(2);
    second.confirm("a", part);
    second.commit();
    assert_eq!(second.replayed(&[&first.files])[0], "a2@1000 b3@1000");
    second.append("b", 4);
    second.confirm("b", second.log.position());
    second.commit();
    assert_eq!(second.replayed(&[&first.files])[0], "a2@1000", "with all that was before");
}

#[test]
fn points_logged_again_stand_for_those_before_as_soon_as_that_is_sure() {
    let mut notes = Notes::new(1);
    notes.append("a", 1);
    notes.append("b", 2);
    notes.append("a", 3);
    notes.commit();
    notes.rewrite("a", &[(1, 900), (3, 1_000)]);
    notes.append("a", 4);
    notes.commit();
    let (before, after) = ("a1@1000 b2@1000 a3@1000 a4@1000", "b2@1000 a1@900 a3@1000 a4@1000");
    assert_eq!(notes.replayed(&[]), [after, before]);
    assert!(notes.log.checkpoint_begun());
    notes.log.checkpoint_done(true);
    notes.log.tell_checkpoint();
    notes.commit();
    assert_eq!(notes.replayed(&[]), [after, after]);
    // And again, once more: only the last time counts.
    notes.rewrite("a", &[(1, 900), (3, 1_000), (4, 1_000)]);
    notes.commit();
    let again = "b2@1000 a1@900 a3@1000 a4@1000";
    assert_eq!(notes.replayed(&[]), [again, after]);
}

/// The end comes in a commit that logs many points again: the ones before are replayed, and none
/// twice.
#[test]
fn points_logged_again_in_part_are_void() {
    let mut log = Log::new(Options {
        segment_bytes: 32 << 20,
        buffer_bytes: 8 << 20,
        ..log(1).options().clone()
    });
    let (mut mark, name) = (Mark::default(), b"a".as_slice());
    let points: Vec<Arrival> = (0..150_000_u32)
        .map(|n| Arrival { timestamp_s: 7 * n, arrived_s: 1_000 + n, value: f64::from(n) / 7.0 })
        .collect();
    let mut file = Vec::new();
    let mut names = Vec::new();
    let mut put = |log: &mut Log, keep_bytes: usize| {
        let mut commit = log.take_commit(Instant::now(), 1_700_000_000).unwrap();
        for part in commit.parts() {
            let bytes = &part.bytes()[..part.bytes().len().min(keep_bytes)];
            let target = if part.id().kind == Kind::Names { &mut names } else { &mut file };
            target.resize(usize::try_from(part.offset()).unwrap(), 0);
            target.extend_from_slice(bytes);
            part.outcome = Outcome::Synced;
        }
        log.committed(commit, Instant::now());
        (names.clone(), file.clone())
    };
    for point in &points {
        log.set_time(point.arrived_s);
        log.append(&mut mark, || name, point.point()).unwrap();
    }
    put(&mut log, usize::MAX);
    log.rewrite(&mut mark, || name, &points).unwrap();
    let (names, whole) = put(&mut log, usize::MAX);
    let id = |kind| SegmentId { run: 1, shard: 2, kind, number: 1 };
    let check = |length: usize, is_whole: bool| {
        let mut bytes = whole[..length].to_vec();
        bytes.resize(32 << 20, 0);
        let mut files = Files::from([(id(Kind::Points), bytes)]);
        let mut names = names.clone();
        names.resize(32 << 20, 0);
        files.insert(id(Kind::Names), names);
        let (found, reports) = read_after(&files, BOOT_ID);
        let found: Vec<Arrival> = found.into_iter().map(|(_, point)| point).collect();
        assert!(found == points, "{} points at {length}", found.len());
        let passed_over = reports[0].confirmed_points;
        assert_eq!(passed_over == points.len() as u64, is_whole, "{passed_over} at {length}");
        passed_over
    };
    check(whole.len(), true);
    assert!(check(whole.len() - BLOCK_BYTES, false) > 0, "the first frame's are void");
    check(whole.len() * 3 / 4, false);
}
