//! A shard with a writer that is only a map: what is accepted, routed, flushed and counted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::flush::{FlushJob, Known, NextJob, Outcome, Written};
use super::*;
use crate::limits::BATCH_BYTES_MAX;
use crate::metric::point::Received;
use crate::schema::Rules;
use crate::stats::{DropReason, Receiver};
use crate::whisper::{Bases, Header};

pub(super) const NOW_S: u32 = 1_800_000_000;

pub(super) fn options() -> ShardOptions {
    ShardOptions {
        id: ShardId(0),
        shard_count: 1,
        budget_bytes: 8 << 20,
        points_max: 0,
        strategy: WriteStrategy::Max,
        updates_per_s: 0.0,
        creates_per_s: 0.0,
        future_s_max: 600,
        hash_tagged: true,
        quarantined_points_max: 10,
        link_buffers: 2,
        batch_bytes: BATCH_BYTES_MAX,
        log: None,
    }
}

pub(super) struct World {
    pub(super) shard: Shard,
    pub(super) now: Instant,
    pub(super) files: BTreeMap<String, BTreeMap<u32, f64>>,
    /// What the shard told of outcomes.
    told: usize,
}

impl World {
    pub(super) fn new(options: ShardOptions) -> World {
        let now = Instant::now();
        let mut shard = Shard::new(options, Arc::new(Rules::default()), now);
        shard.set_time(NOW_S);
        World { shard, now, files: BTreeMap::new(), told: 0 }
    }

    pub(super) fn send(&mut self, name: &str, timestamp: f64, value: f64) {
        let received = Received { name: name.as_bytes(), value, timestamp };
        self.shard.ingest(Receiver::Tcp, received);
    }

    /// One sweep; `fault` says what becomes of a path, `None` that it is written.
    pub(super) fn sweep(&mut self, fault: impl Fn(&str) -> Option<Outcome>) -> usize {
        self.shard.begin_sweep();
        let mut job = FlushJob::empty();
        let mut written = 0;
        loop {
            match self.shard.next_flush(self.now, &mut job) {
                NextJob::Ready => {
                    written += usize::from(self.work(&mut job, &fault));
                    let news = self.shard.complete(&mut job, self.now);
                    self.told += usize::from(news.is_some());
                }
                NextJob::Busy => {}
                NextJob::Wait(_) | NextJob::SweepOver => return written,
            }
        }
    }

    fn work(&mut self, job: &mut FlushJob, fault: &impl Fn(&str) -> Option<Outcome>) -> bool {
        let path = String::from_utf8(job.path[..job.path.len() - 1].to_vec()).unwrap();
        if let Some(outcome) = fault(&path) {
            job.outcome = outcome;
            return false;
        }
        let created = job.create.is_some();
        if !created && !self.files.contains_key(&path) {
            job.outcome = Outcome::Missing;
            return false;
        }
        if job.known.is_none() {
            let found = || Rules::default().resolve("").spec;
            let header = Header::new(&job.create.clone().unwrap_or_else(found)).unwrap();
            // Later files lie in front of earlier ones.
            let inode = 1_000_000 - self.files.len() as u64;
            job.known = Some(Known { header, inode, bases: Bases::EMPTY, changed: 0 });
        }
        let file = self.files.entry(path).or_default();
        file.extend(job.points.iter().map(|point| (point.timestamp_s, point.value)));
        let count = job.points.len();
        let written = Written { count, is_near: true, checked: created, created, too_old_count: 0 };
        job.outcome = Outcome::Written(written);
        true
    }

    pub(super) fn check_accounts(&self) {
        let counters = &self.shard.counters;
        let gauges = self.shard.gauges();
        let received: u64 = counters.received.iter().sum();
        let refused: u64 = counters.refused.iter().sum();
        let dropped: u64 = counters.dropped.iter().sum::<u64>() - refused;
        assert_eq!(received, refused + counters.accepted, "{counters:?}");
        let placed = counters.replaced + counters.committed + dropped;
        assert_eq!(counters.accepted, placed + gauges.waiting + gauges.writing, "{counters:?}");
    }
}

pub(super) fn failed(is_own_fault: bool) -> Outcome {
    Outcome::Failed { action: "write series file", reason: "no".to_owned(), is_own_fault }
}

#[test]
fn bad_points_are_counted_under_their_reason_and_cost_nothing_else() {
    let mut world = World::new(options());
    let now = f64::from(NOW_S);
    let long = "x".repeat(252);
    let deep = "a.".repeat(70) + "b";
    let cases = [
        ("a.b", now, f64::NAN, DropReason::ValueNan),
        ("a.b", f64::INFINITY, 1.0, DropReason::TimestampNotFinite),
        ("a.b", -5.0, 1.0, DropReason::TimestampNegative),
        ("a.b", now * 1_000.0, 1.0, DropReason::TimestampFuture),
        ("a.b", now + 601.0, 1.0, DropReason::TimestampFuture),
        ("a\0b", now, 1.0, DropReason::NameControl),
        ("...", now, 1.0, DropReason::NameEmpty),
        (&long, now, 1.0, DropReason::NameComponent),
        (&deep, now, 1.0, DropReason::NameTooDeep),
    ];
    for (name, timestamp, value, reason) in cases {
        let before = world.shard.counters.dropped_for(reason);
        world.send(name, timestamp, value);
        assert_eq!(world.shard.counters.dropped_for(reason), before + 1, "{name:?} {reason:?}");
        world.send("a.b", now, 1.0);
        assert_eq!(world.shard.points_of(b"a.b").len(), 1);
    }
    world.check_accounts();
}

#[test]
fn spellings_of_one_file_are_one_metric() {
    let mut world = World::new(options());
    for (offset, name) in ["a.b", ".a.b", "a..b", "a/b"].iter().enumerate() {
        world.send(name, f64::from(NOW_S) - offset as f64, 1.0);
    }
    assert_eq!(world.shard.gauges().metrics, 1);
    assert_eq!(world.shard.points_of(b"a.b").len(), 4);
    world.sweep(|_| None);
    assert_eq!(world.files.keys().collect::<Vec<_>>(), ["a/b.wsp"]);
}

#[test]
fn a_sweep_writes_everything_once_and_new_files_follow_in_it() {
    let mut world = World::new(options());
    for n in 0..5_000 {
        world.send(&format!("m.{n}"), f64::from(NOW_S - n % 3), f64::from(n));
    }
    assert_eq!(world.sweep(|_| None), 5_000);
    assert_eq!((world.files.len(), world.shard.unwritten_count()), (5_000, 0));
    assert_eq!(world.shard.counters.creates, 5_000);
    assert_eq!(world.sweep(|_| None), 0);
    world.check_accounts();
}

#[test]
fn limits_on_updates_coalesce_and_limits_on_creates_delay() {
    let mut world = World::new(ShardOptions { updates_per_s: 50.0, ..options() });
    for round in 0..4u32 {
        for n in 0..100 {
            world.send(&format!("m.{n}"), f64::from(NOW_S + round), 1.0);
        }
        world.now += Duration::from_secs(1);
        assert!(world.sweep(|_| None) <= 50);
    }
    for _ in 0..10 {
        world.now += Duration::from_secs(1);
        world.sweep(|_| None);
    }
    assert_eq!(world.shard.counters.committed, 400);
    assert!(world.shard.counters.updates < 350, "{}", world.shard.counters.updates);
    world.check_accounts();

    let mut world = World::new(ShardOptions { creates_per_s: 10.0, ..options() });
    for n in 0..100 {
        world.send(&format!("m.{n}"), f64::from(NOW_S), 1.0);
    }
    let mut created = vec![world.sweep(|_| None)];
    while world.files.len() < 100 {
        world.now += Duration::from_secs(1);
        created.push(world.sweep(|_| None));
    }
    assert_eq!(created, [10; 10]);
    world.check_accounts();
}

#[test]
fn a_failing_file_keeps_its_points_within_the_limit_and_others_go_on() {
    let mut world = World::new(options());
    let bad = |path: &str| (path == "bad.wsp").then(|| failed(true));
    for second in 0..100 {
        world.send("bad", f64::from(NOW_S + second), 1.0);
        world.send("good", f64::from(NOW_S + second), 1.0);
        world.sweep(bad);
    }
    assert_eq!(world.files["good.wsp"].len(), 100);
    let kept = world.shard.points_of(b"bad");
    assert!(kept.len() <= 20, "{} points of a file that fails by itself", kept.len());
    assert_eq!(kept.last().map(|point| point.timestamp_s), Some(NOW_S + 99));
    assert_eq!(world.shard.gauges().quarantined, 1);
    world.check_accounts();
    world.now += Duration::from_secs(400);
    world.sweep(|_| None);
    assert_eq!(world.files["bad.wsp"].len(), kept.len());
    assert_eq!(world.shard.gauges().quarantined, 0);
    world.check_accounts();

    let mut world = World::new(options());
    for second in 0..100 {
        world.send("m", f64::from(NOW_S + second), 1.0);
        world.sweep(|_| Some(failed(false)));
    }
    assert_eq!(world.shard.points_of(b"m").len(), 100, "a full disk costs no point");
    world.check_accounts();
}

#[test]
fn a_file_that_cannot_be_created_is_tried_less_and_less_often_and_told_of_once() {
    let mut world = World::new(options());
    world.send("new", f64::from(NOW_S), 1.0);
    // Each try looks for the file first, which is not there, and then creates it.
    let looks = std::cell::Cell::new(0);
    for _ in 0..600 {
        world.sweep(|_| {
            looks.set(looks.get() + 1);
            (looks.get() % 2 == 0).then(|| failed(false))
        });
        world.now += Duration::from_secs(1);
    }
    // At 0, 1, 3, 7 ... 511 s.
    assert_eq!(looks.get(), 2 * 10);
    assert_eq!(world.told, 1);
    world.now += Duration::from_secs(300);
    assert_eq!(world.sweep(|_| None), 1);
    world.send("new", f64::from(NOW_S + 60), 1.0);
    assert_eq!(world.sweep(|_| Some(failed(false))), 0);
    assert_eq!(world.told, 2, "after a write a failure is news again");
    world.check_accounts();

    // Another program has the file, which nobody is told, then removes it; and none can be made.
    let mut world = World::new(options());
    world.send("held", f64::from(NOW_S), 1.0);
    world.sweep(|_| Some(Outcome::Locked));
    assert_eq!(world.told, 0);
    world.now += Duration::from_secs(2);
    looks.set(0);
    world.sweep(|_| {
        looks.set(looks.get() + 1);
        (looks.get() % 2 == 0).then(|| failed(false))
    });
    assert_eq!((looks.get(), world.told), (2, 1));
}

#[test]
fn full_means_wait_until_there_is_room_again() {
    for points_max in [100, 20] {
        let mut world = World::new(ShardOptions { points_max, ..options() });
        let mut sent = 0;
        while !world.shard.must_wait() {
            world.send(&format!("m.{sent}"), f64::from(NOW_S), 1.0);
            sent += 1;
        }
        assert_eq!(sent, points_max);
        world.sweep(|path| (path >= "m/4").then(|| failed(false)));
        let unwritten = world.shard.unwritten_count();
        assert!(unwritten > 0 && unwritten <= points_max / 10 * 9, "{unwritten}");
        assert!(!world.shard.must_wait(), "{unwritten} of {points_max}");
    }

    let mut world = World::new(options());
    let mut metrics = 0;
    while !world.shard.must_wait() {
        world.send(&format!("some.long.metric.name.{metrics}"), f64::from(NOW_S), 1.0);
        metrics += 1;
    }
    assert!(world.shard.bytes() >= 8 << 20);
    world.sweep(|_| None);
    world.shard.begin_sweep();
    assert!(!world.shard.must_wait(), "idle metrics are forgotten: {}", world.shard.bytes());
}

#[test]
fn foreign_points_travel_to_their_owner() {
    let of = |id| ShardOptions { id: ShardId(id), shard_count: 2, ..options() };
    let mut worlds = [World::new(of(0)), World::new(of(1))];
    for n in 0..1_000 {
        worlds[0].send(&format!("m.{n}"), f64::from(NOW_S), f64::from(n));
    }
    assert!(worlds[0].shard.outbox().has_unsent());
    while let Some(batch) = worlds[0].shard.outbox().pop(ShardId(1), true) {
        worlds[1].shard.accept_batch(&batch);
        worlds[0].shard.outbox().give_back(ShardId(1), batch);
    }
    assert!(worlds[0].shard.outbox().is_settled());
    let counts: Vec<u64> = worlds.iter().map(|world| world.shard.gauges().waiting).collect();
    assert_eq!(counts.iter().sum::<u64>(), 1_000);
    assert!(counts.iter().all(|&count| count > 400), "{counts:?}");
    let (name, owner) = worlds[0].shard.locate(b"m..7").unwrap();
    assert_eq!(worlds[usize::from(owner.0)].shard.points_of(&name)[0].value, 7.0);
}

#[test]
fn a_sweep_goes_by_place_and_under_a_limit_by_strategy() {
    let order = |updates_per_s: f64| {
        let mut world = World::new(ShardOptions { updates_per_s, ..options() });
        for name in ["a", "b", "c"] {
            world.send(name, f64::from(NOW_S), 1.0);
            world.sweep(|_| None);
            world.sweep(|_| None);
        }
        for (name, count) in [("a", 2), ("b", 3), ("c", 1)] {
            (1..=count).for_each(|age| world.send(name, f64::from(NOW_S - age), 1.0));
        }
        let seen = std::cell::RefCell::new(Vec::new());
        world.sweep(|path| {
            seen.borrow_mut().push(path.to_owned());
            None
        });
        seen.into_inner().concat()
    };
    assert_eq!(order(0.0), "c.wspb.wspa.wsp", "the files' places");
    assert_eq!(order(1_000.0), "b.wspa.wspc.wsp", "most points first");
}
