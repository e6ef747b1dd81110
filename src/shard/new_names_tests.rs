//! New names beside known ones, with a limit on new files: who is written, and whose points go.

use std::cell::{Cell, RefCell};
use std::time::Duration;

use super::flush::{FlushJob, NextJob};
use super::tests::{NOW_S, World, failed, options};
use super::*;
use crate::stats::{DropReason, Receiver};

const KNOWN: u32 = 50;

fn slow(creates_per_s: f64) -> World {
    World::new(ShardOptions { creates_per_s, ..options() })
}

fn known(number: u32) -> String {
    format!("known.{number}")
}

fn send_known(world: &mut World, timestamp_s: u32) {
    (0..KNOWN).for_each(|number| world.send(&known(number), f64::from(timestamp_s), 1.0));
}

/// How many known metrics have this point in their file.
fn stored(world: &World, timestamp_s: u32) -> usize {
    let file = |number| world.files.get(&format!("known/{number}.wsp"));
    let has_point = |number: &u32| file(*number).is_some_and(|it| it.contains_key(&timestamp_s));
    (0..KNOWN).filter(has_point).count()
}

/// Sends new names as a receiver does, which waits for room. Returns how many sweeps it took.
fn flood(world: &mut World, numbers: std::ops::Range<u32>, timestamp_s: u32) -> u32 {
    let mut sweeps = 0;
    for number in numbers {
        while world.shard.must_wait() {
            world.sweep(|_| None);
            world.shard.forget_idle();
            sweeps += 1;
            assert!(sweeps < 1_000, "the shard stays full");
        }
        world.send(&format!("flood.of.names.{number}"), f64::from(timestamp_s), 1.0);
    }
    sweeps
}

/// Sweeps until every file has been looked for.
fn decide_all(world: &mut World) {
    while world.shard.must_decide() {
        world.sweep(|_| None);
    }
    world.sweep(|_| None);
}

fn dropped(world: &World) -> u64 {
    world.shard.counters.dropped_for(DropReason::NewNames)
}

#[test]
fn known_metrics_are_received_and_written_beside_a_flood_of_new_names() {
    let mut world = slow(100.0);
    send_known(&mut world, NOW_S - 10);
    world.sweep(|_| None);
    assert_eq!(stored(&world, NOW_S - 10), 50);
    // Three times what the whole budget holds, in no time at all: no file more may be created.
    flood(&mut world, 0..120_000, NOW_S);
    let mut count = 120_000;
    while !world.shard.must_wait() {
        flood(&mut world, count..count + 1, NOW_S);
        count += 1;
    }
    send_known(&mut world, NOW_S);
    let looks = Cell::new(0);
    world.sweep(|_| {
        looks.set(looks.get() + 1);
        None
    });
    assert_eq!(stored(&world, NOW_S), 50);
    assert!(looks.get() < 20_000, "the sweep goes on for {} files", looks.get());
    decide_all(&mut world);
    let gauges = world.shard.gauges();
    let share = 8 << 20;
    assert!(gauges.new_bytes > share / 5 && gauges.new_bytes < share / 4 + 100, "{gauges:?}");
    assert!(gauges.bytes < share / 2, "{gauges:?}");
    let created = world.shard.counters.creates;
    assert_eq!(dropped(&world) + gauges.new_metrics + created, 50 + u64::from(count));
    world.check_accounts();
    let news = world.shard.take_new_names_news(world.now).unwrap();
    assert!(news.contains(&format!("dropped={}", dropped(&world))), "{news}");
    assert!(news.contains("example=flood.of.names."), "{news}");

    // A metric that waits for its file keeps its points and can be read.
    assert_eq!(world.shard.points_of(b"flood.of.names.200").len(), 1);
    let before = world.shard.counters.creates;
    for _ in 0..10 {
        world.now += Duration::from_secs(1);
        world.sweep(|_| None);
    }
    assert_eq!(world.shard.counters.creates - before, 1_000);
    assert!(world.files.contains_key("flood/of/names/200.wsp"));
    assert_eq!(world.shard.gauges().new_metrics, gauges.new_metrics - 1_000);
    // They are known now, and there is room for as many others.
    world.send("flood.of.names.200", f64::from(NOW_S - 1), 2.0);
    world.send("late.name", f64::from(NOW_S), 1.0);
    world.sweep(|_| None);
    assert_eq!(world.files["flood/of/names/200.wsp"].len(), 2);
    assert_eq!(world.shard.points_of(b"late.name").len(), 1);
    world.check_accounts();
}

#[test]
fn the_points_of_new_names_count_and_known_metrics_have_no_share() {
    let mut world = slow(1.0);
    world.send("known.0", f64::from(NOW_S - 100_000), 1.0);
    world.sweep(|_| None);
    for number in 0..100 {
        world.send(&format!("new.{number}"), f64::from(NOW_S), 1.0);
    }
    world.sweep(|_| None);
    assert_eq!(world.shard.gauges().new_metrics, 100);
    for age_s in 1..3_000 {
        for number in 0..100 {
            world.send(&format!("new.{number}"), f64::from(NOW_S - age_s), f64::from(age_s).sqrt());
        }
        world.send("known.0", f64::from(NOW_S - age_s), f64::from(age_s).sqrt());
    }
    let gauges = world.shard.gauges();
    assert!(gauges.new_bytes < (8 << 18) + 100, "{gauges:?}");
    assert!(gauges.bytes < 8 << 19, "{gauges:?}");
    assert!(dropped(&world) > 100_000);
    assert_eq!(world.shard.points_of(b"known.0").len(), 2_999);
    world.check_accounts();
    // At the stop every file is created, and what waits then goes into it.
    world.shard.hurry();
    world.sweep(|_| None);
    assert_eq!((world.files.len(), world.shard.unwritten_count()), (101, 0));
    assert_eq!((world.shard.gauges().new_bytes, world.shard.gauges().new_metrics), (0, 0));
    world.check_accounts();
}

#[test]
fn files_behind_a_flood_are_found_whatever_the_limits() {
    for updates_per_s in [0.0, 100.0] {
        let mut world = World::new(ShardOptions { creates_per_s: 1.0, updates_per_s, ..options() });
        // The files are there, as after a restart, and nobody has looked at them.
        for number in 0..KNOWN {
            world.files.insert(format!("known/{number}.wsp"), Default::default());
        }
        flood(&mut world, 0..20_000, NOW_S);
        send_known(&mut world, NOW_S);
        for _ in 0..3 {
            world.sweep(|_| None);
        }
        assert_eq!(stored(&world, NOW_S), 50, "{updates_per_s} updates a second");
        assert_eq!(world.shard.counters.updates, 50 + world.shard.counters.creates);
        world.check_accounts();
    }
}

#[test]
fn undecided_metrics_and_known_ones_take_turns_in_a_sweep() {
    let mut world = slow(30.0);
    (0..30).for_each(|number| world.send(&format!("known.{number}"), f64::from(NOW_S), 1.0));
    world.sweep(|_| None);
    for number in 0..30 {
        world.send(&format!("new.{number}"), f64::from(NOW_S), 1.0);
        world.send(&format!("known.{number}"), f64::from(NOW_S - 1), 1.0);
    }
    let order = RefCell::new(String::new());
    world.sweep(|path| {
        order.borrow_mut().push(path.chars().next().unwrap());
        Some(failed(false))
    });
    let order = order.into_inner();
    assert_eq!(order.len(), 60);
    assert!(order.contains("nknknknknk"), "{order}");
}

#[test]
fn a_name_without_a_file_is_not_looked_for_at_each_point() {
    let mut world = slow(1.0);
    flood(&mut world, 0..60_000, NOW_S - 1);
    decide_all(&mut world);
    let looks = Cell::new(0);
    let looks_after = |world: &mut World, wait_s: u32| {
        looks.set(0);
        world.shard.set_time(NOW_S + wait_s);
        // Of those that had no room last.
        for number in 59_000..60_000 {
            world.send(&format!("flood.of.names.{number}"), f64::from(NOW_S), 1.0);
        }
        world.sweep(|_| {
            looks.set(looks.get() + 1);
            None
        });
        looks.get()
    };
    let soon = looks_after(&mut world, 30);
    assert!(soon < 200, "{soon} of a thousand names share their place with another");
    // Another program may have created the file meanwhile.
    assert!(looks_after(&mut world, 100) > 900);
    world.check_accounts();
}

#[test]
fn without_a_limit_on_new_files_nothing_is_dropped() {
    let mut world = World::new(options());
    let sweeps = flood(&mut world, 0..120_000, NOW_S);
    assert!(sweeps > 0, "it waits for room");
    world.sweep(|_| None);
    assert_eq!((dropped(&world), world.files.len()), (0, 120_000));
    world.check_accounts();
}

#[test]
fn own_metrics_and_damaged_files_need_no_room() {
    let mut world = slow(1.0);
    world.send("damaged", f64::from(NOW_S), 1.0);
    world.sweep(|_| None);
    flood(&mut world, 0..60_000, NOW_S);
    decide_all(&mut world);
    assert!(dropped(&world) > 0);
    world.shard.ingest_own(b"self.dropped.new_names", 1.0, &mut []);
    let mut batch = Vec::new();
    crate::metric::batch::push(
        &mut batch,
        b"self.memUsage",
        crate::metric::point::Point { timestamp_s: NOW_S, value: 1.0 },
    );
    world.shard.accept_own_batch(&batch);
    world.send("damaged", f64::from(NOW_S - 1), 1.0);
    let aside = || super::flush::Outcome::SetAside { reason: String::new(), aside: String::new() };
    world.sweep(|path| (path == "damaged.wsp").then(aside));
    world.files.remove("damaged.wsp");
    world.now += Duration::from_secs(3);
    (0..3).for_each(|_| {
        world.now += Duration::from_secs(1);
        world.sweep(|_| None);
    });
    for path in ["self/dropped/new_names.wsp", "self/memUsage.wsp", "damaged.wsp"] {
        assert!(world.files.contains_key(path), "{path}");
    }
    let counters = &world.shard.counters;
    assert_eq!(counters.received[Receiver::Own.index()], 1);
}

#[test]
fn new_names_whose_files_cannot_be_created_stay_in_their_share() {
    let mut world = slow(1e6);
    send_known(&mut world, NOW_S - 10);
    world.sweep(|_| None);
    let disk_full = |path: &str| path.starts_with("flood").then(|| failed(false));
    // The first try finds no file, the second cannot create it.
    for number in 0..120_000 {
        if world.shard.must_wait() {
            world.now += Duration::from_secs(400);
            let creating = Cell::new(false);
            let mut job = FlushJob::empty();
            world.shard.begin_sweep();
            loop {
                match world.shard.next_flush(world.now, &mut job) {
                    NextJob::Ready => {
                        creating.set(job.create.is_some());
                        let path = String::from_utf8(job.path.clone()).unwrap();
                        job.outcome = match (job.create.is_some(), disk_full(&path)) {
                            (true, Some(outcome)) => outcome,
                            _ => super::flush::Outcome::Missing,
                        };
                        world.shard.complete(&mut job, world.now);
                    }
                    NextJob::Busy => {}
                    NextJob::Wait(_) | NextJob::SweepOver => break,
                }
            }
        }
        world.send(&format!("flood.of.names.{number}"), f64::from(NOW_S), 1.0);
    }
    assert!(!world.shard.must_wait());
    assert!(world.shard.gauges().quarantined > 0);
    assert!(dropped(&world) > 50_000);
    world.check_accounts();
}
