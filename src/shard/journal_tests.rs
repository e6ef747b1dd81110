//! A shard with a log whose commits all succeed: what is held, logged again, late, confirmed and
//! retired.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flush::{FlushJob, Known, NextJob, Outcome, Written};
use super::*;
use crate::metric::batch;
use crate::metric::point::{Arrival, Received};
use crate::stats::Receiver;
use crate::wal::{BootId, Options, Position};
use crate::whisper::{Bases, Header};

const NOW_S: u32 = 1_800_000_000;
const SEGMENT_BYTES: u32 = 256 << 10;

pub(super) struct World {
    pub(super) shard: Shard,
    now: Instant,
}

impl World {
    pub(super) fn new(inherited_segments: Option<u32>, updates_per_s: f64) -> World {
        let options = ShardOptions { updates_per_s, ..tests::options() };
        let log = Options {
            run: 1,
            shard: 0,
            shard_count: 1,
            segment_bytes: SEGMENT_BYTES,
            segments_max: 12,
            buffer_bytes: 64 << 10,
            inherited_segments,
            boot_id: BootId::default(),
        };
        let now = Instant::now();
        let options = ShardOptions { log: Some(log), ..options };
        let mut shard = Shard::new(options, Arc::new(Rules::default()), now);
        shard.set_time(NOW_S);
        World { shard, now }
    }

    pub(super) fn send(&mut self, name: &str, age_s: u32) {
        let timestamp = f64::from(NOW_S - age_s);
        let received = Received { name: name.as_bytes(), value: timestamp / 3.0, timestamp };
        self.shard.ingest(Receiver::Tcp, received);
    }

    /// One commit, if there is something to commit.
    pub(super) fn commit(&mut self) {
        let log = self.shard.log().expect("it has one");
        let Some(mut commit) = log.take_commit(self.now, NOW_S) else { return };
        commit.parts().for_each(|part| part.outcome = wal::Outcome::Synced);
        log.committed(commit, self.now);
        self.shard.log_late();
    }

    /// Commits, makes a checkpoint, and gives up what can go.
    pub(super) fn tidy(&mut self) {
        self.commit();
        self.shard.begin_checkpoint();
        self.shard.end_checkpoint();
        let log = self.shard.log().expect("it has one");
        if log.is_inheritance_released() {
            log.inheritance_gone();
        }
        self.commit();
        let log = self.shard.log().expect("it has one");
        while let Some(id) = log.take_retired() {
            log.retired(id, true);
        }
    }

    /// One sweep; files whose path begins with `bad` fail by their own fault, or for want of disk.
    fn sweep(&mut self, bad: &str, is_own_fault: bool) {
        self.shard.begin_sweep();
        let mut job = FlushJob::empty();
        loop {
            match self.shard.next_flush(self.now, &mut job) {
                NextJob::Ready => {}
                NextJob::Busy => continue,
                NextJob::Wait(_) | NextJob::SweepOver => return,
            }
            let reason = "no".to_owned();
            job.outcome = match &job.create {
                _ if job.path.starts_with(bad.as_bytes()) => {
                    Outcome::Failed { action: "write", reason, is_own_fault }
                }
                None if job.known.is_none() => Outcome::Missing,
                spec => {
                    if let Some(spec) = spec {
                        let header = Header::new(spec).expect("a good schema");
                        let bases = Bases::EMPTY;
                        job.known = Some(Known { header, inode: 1, bases, changed: 0 });
                    }
                    let (count, created) = (job.points.len(), spec.is_some());
                    let (is_near, checked) = (true, true);
                    let too_old_count = 0;
                    Outcome::Written(Written { count, is_near, checked, created, too_old_count })
                }
            };
            self.shard.complete(&mut job, self.now);
        }
    }

    pub(super) fn files(&mut self) -> u32 {
        self.shard.log().expect("it has one").file_count()
    }
}

fn replayed(bytes: Vec<u8>) -> Replayed {
    Replayed { bytes, through: Position { run: 1, shard: 0, record: 100 } }
}

#[test]
fn flushed_points_let_their_segments_go() {
    let mut world = World::new(None, 0.0);
    let mut most = 0;
    for round in 0..400u32 {
        for n in 0..200 {
            world.send(&format!("m.{}", n * 7 % 300), 1_000 - round);
        }
        world.commit();
        if round % 10 == 0 {
            world.sweep("-", false);
            world.tidy();
            most = most.max(world.files());
        }
    }
    world.sweep("-", false);
    world.tidy();
    let counters = world.shard.all_counters();
    assert_eq!((counters.wal_synced, counters.committed), (80_000, 80_000));
    assert_eq!((counters.wal_rewritten, world.shard.unwritten_count()), (0, 0));
    assert!(counters.wal_bytes > 4 * u64::from(SEGMENT_BYTES) && most <= 5, "{most} files");
}

#[test]
fn what_cannot_be_written_is_logged_again_and_does_not_stop_the_others() {
    for is_own_fault in [true, false] {
        let mut world = World::new(None, 0.0);
        for round in 0..2_000u32 {
            for n in 0..20 {
                world.send(&format!("good.{n}"), 3_000 - round);
            }
            world.send("bad", 3_000 - round / 500);
            world.commit();
            if round % 20 == 0 {
                world.now += Duration::from_secs(1);
                world.sweep("bad", is_own_fault);
                while world.shard.rewrite_some(world.now) {}
                world.tidy();
            }
            assert!(!world.shard.must_wait(), "round {round}: {} files", world.files());
        }
        let counters = world.shard.all_counters();
        assert!(counters.wal_rewritten > 0 && counters.wal_rewritten < 1_000, "{counters:?}");
        assert_eq!(counters.committed, 40_000 - 380, "up to the last sweep");
        let values: Vec<f64> =
            world.shard.points_of(b"bad").iter().map(|point| point.value * 3.0).collect();
        assert_eq!(values, [3_000, 2_999, 2_998, 2_997].map(|age| f64::from(NOW_S - age)));
        world.now += Duration::from_secs(400);
        world.sweep("-", false);
        world.tidy();
        assert_eq!(world.shard.unwritten_count(), 0);
    }
}

#[test]
fn points_beyond_the_logs_buffers_follow_in_their_order() {
    let mut world = World::new(None, 0.0);
    let mut sent: u64 = 0;
    // One read's worth for each of many connections, none of which asks in between.
    for round in 0..100u32 {
        for n in 0..200 {
            world.send(&format!("m.{n}"), 1_000 - round);
            sent += 1;
        }
    }
    assert!(world.shard.must_wait() && world.shard.gauges().wal_unlogged > 0);
    // Some are written to their files before the log has them.
    world.sweep("m/1", false);
    while world.shard.has_uncommitted() {
        world.commit();
    }
    assert_eq!(world.shard.all_counters().wal_synced, sent);
    assert_eq!((world.shard.gauges().wal_unlogged, world.shard.must_wait()), (0, false));
    // Nothing is held twice or for ever.
    world.now += Duration::from_secs(400);
    world.sweep("-", false);
    for _ in 0..2 {
        world.tidy();
    }
    let files = world.files();
    assert!(files <= 3, "{files} files with nothing in the cache");
    let bytes = world.shard.bytes();
    assert!(bytes < 64 << 10, "{bytes} bytes for 200 metrics: the flood's memory is kept");
}

#[test]
fn an_urgent_metric_that_is_being_written_does_not_stop_the_sweep() {
    let mut world = World::new(None, 1_000.0);
    world.send("slow", 9_000);
    world.shard.begin_sweep();
    let mut slow = FlushJob::empty();
    while world.shard.next_flush(world.now, &mut slow) != NextJob::Ready {}
    // It gets a point more in the segment that will be the oldest.
    world.send("slow", 8_999);
    for round in 0..1_000u32 {
        for n in 0..20 {
            world.send(&format!("m.{n}"), 4_000 - round);
        }
        world.commit();
        if world.shard.log_pressure() != Pressure::None {
            break;
        }
    }
    assert!(matches!(world.shard.log_pressure(), Pressure::Flush { oldest: 1 }));
    world.now += Duration::from_secs(1);
    world.shard.begin_sweep();
    let (mut job, mut found, mut busy_count) = (FlushJob::empty(), 0, 0);
    loop {
        match world.shard.next_flush(world.now, &mut job) {
            NextJob::Ready => found += 1,
            NextJob::Busy => busy_count += 1,
            NextJob::Wait(_) | NextJob::SweepOver => break,
        }
        assert!(busy_count < 100, "the sweep never ends, and its batch is never sent");
    }
    assert_eq!(found, 20, "the others are written");
}

#[test]
fn a_limit_on_updates_does_not_keep_an_old_segment() {
    let mut world = World::new(None, 5.0);
    world.send("old", 5_000);
    for round in 0..3_000u32 {
        // The others always have more points: the order of writing would come to "old" last.
        for n in 0..20 {
            world.send(&format!("m.{n}"), 4_000 - round);
        }
        world.commit();
        if round % 20 == 0 {
            world.now += Duration::from_secs(1);
            world.sweep("-", false);
            world.tidy();
        }
    }
    assert!(world.shard.points_of(b"old").is_empty(), "it is in its file");
    assert!(!world.shard.must_wait(), "{} files", world.files());
}

#[test]
fn inherited_points_are_held_until_they_are_in_their_files() {
    let mut world = World::new(Some(3), 0.0);
    assert!(world.shard.must_wait(), "nothing may come before what is older");
    let mut points = Vec::new();
    for n in 0..100u32 {
        let point = Arrival { timestamp_s: NOW_S - n, arrived_s: NOW_S, value: 1.0 };
        batch::push_arrival(&mut points, format!("m.{}", n % 10).as_bytes(), point);
    }
    world.shard.accept_replayed(&replayed(points));
    world.shard.log().expect("it has one").inheritance_read(world.now);
    assert!(!world.shard.must_wait());
    world.send("m.1", 11);
    world.sweep("m/3", false);
    world.tidy();
    let log = world.shard.log().expect("it has one");
    assert!(!log.is_inheritance_released(), "m.3 is not written");
    world.now += Duration::from_secs(400);
    world.sweep("-", false);
    world.tidy();
    let log = world.shard.log().expect("it has one");
    assert!(log.is_inheritance_released());
    assert_eq!(log.counters().received_points, 1, "what is replayed is not logged again");
    let counters = world.shard.all_counters();
    assert_eq!((counters.recovered, counters.accepted, counters.committed), (100, 1, 101));
}

#[test]
fn an_inheritance_that_does_not_flush_does_not_stop_other_shards_for_ever() {
    let mut world = World::new(Some(1), 0.0);
    let mut points = Vec::new();
    for name in ["bad.a", "bad.b", "good"] {
        let point = Arrival { timestamp_s: NOW_S - 9, arrived_s: NOW_S, value: 3.0 };
        batch::push_arrival(&mut points, name.as_bytes(), point);
    }
    world.shard.accept_replayed(&replayed(points));
    world.shard.log().expect("it has one").inheritance_read(world.now);
    for _ in 0..59 {
        world.now += Duration::from_secs(1);
        world.sweep("bad", true);
        assert!(!world.shard.wants_to_rewrite(world.now), "there is time to flush");
        while world.shard.rewrite_some(world.now) {}
        world.tidy();
        let log = world.shard.log().expect("it has one");
        assert!(!log.is_inheritance_released());
    }
    world.now += Duration::from_secs(1);
    assert_eq!(world.shard.log_pressure(), Pressure::None, "nothing is short here");
    assert!(world.shard.wants_to_rewrite(world.now));
    while world.shard.rewrite_some(world.now) {}
    world.tidy();
    let log = world.shard.log().expect("it has one");
    assert!(log.is_inheritance_released());
    assert_eq!(log.counters().rewritten_points, 2, "just what was left");
    assert!(!world.shard.wants_to_rewrite(world.now));
    assert_eq!(world.shard.points_of(b"bad.a").len(), 1);
}

/// A chain as long as a commit takes is logged again as one piece, and not while it is written.
#[test]
fn a_long_chain_is_logged_again_as_a_whole_or_not_at_all() {
    let mut world = World::new(None, 0.0);
    let (mut round, length) = (0, 2_000);
    for age_s in 0..length {
        world.send("long", 100_000 - age_s);
    }
    for _ in 0..5_000 {
        world.send("longer", 90_000);
        world.send("longer", 80_000);
    }
    while !world.shard.wants_to_rewrite(world.now) {
        for n in 0..20 {
            world.send(&format!("m.{n}"), 50_000 - round);
        }
        world.commit();
        round += 1;
        assert!(round < 10_000, "the log never wants its segments back");
    }
    world.commit();
    world.shard.begin_sweep();
    let mut job = FlushJob::empty();
    while !job.path.starts_with(b"long.") {
        while world.shard.next_flush(world.now, &mut job) != NextJob::Ready {}
        if !job.path.starts_with(b"long.") {
            job.outcome = Outcome::Locked;
            world.shard.complete(&mut job, world.now);
        }
    }
    rewrite(&mut world);
    assert_eq!(rewrite(&mut world), 0, "what the write gives back would be left out");
    job.outcome = Outcome::Locked;
    world.shard.complete(&mut job, world.now);
    assert_eq!(rewrite(&mut world), u64::from(length));
    assert_eq!(world.shard.points_of(b"long").len(), length as usize);
    world.now += Duration::from_secs(400);
    for _ in 0..3 {
        world.sweep("-", false);
        world.tidy();
    }
    assert_eq!((world.shard.unwritten_count(), world.files() <= 3), (0, true));
}

/// Logs again what is to be, between commits; how many points.
fn rewrite(world: &mut World) -> u64 {
    let before = world.shard.all_counters().wal_rewritten;
    for _ in 0..10 {
        while world.shard.rewrite_some(world.now) {}
        world.commit();
    }
    world.shard.all_counters().wal_rewritten - before
}

/// One metric that cannot be written pins no segment, though the log is far from full.
#[test]
fn a_stuck_metric_pins_only_its_own_points() {
    let mut world = World::new(None, 0.0);
    world.send("bad", 4_000);
    for round in 0..3_000u32 {
        for n in 0..20 {
            world.send(&format!("good.{n}"), 3_000 - round);
        }
        world.commit();
        if round % 20 == 0 {
            world.now += Duration::from_secs(1);
            world.sweep("bad", true);
            while world.shard.rewrite_some(world.now) {}
            world.tidy();
            assert!(world.files() <= 5, "round {round}: {} files", world.files());
        }
    }
    let rewritten = world.shard.all_counters().wal_rewritten;
    assert!((1..50).contains(&rewritten), "{rewritten} points were logged again");
    assert_eq!(world.shard.points_of(b"bad").len(), 1);
}
