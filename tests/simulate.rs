//! The whole node under crashes: real shards with their caches and logs, on a disk that forgets and
//! a tree of Whisper files that forgets, against a model that is a map. The tasks between them (who
//! commits, writes, syncs, checkpoints and recovers, and when) are played by the simulation, in any
//! order that the real ones may take; `crash` and `recovery` in tests/node run the real ones.
//!
//! What must hold after every step: the points of a metric that its file does not have are readable
//! in memory; and the accounts balance. After every end, by kill or by loss of power, at any step,
//! also during replay, stop and drain, after any time, and with another number of shards: what was
//! acknowledged is replayed, each point once, in its order and as of its arrival, or is in its
//! file; after a clean stop just what is not in its file. And when all faults are mended everything
//! gets into its file, the logs shrink, so that nobody waits, and each file is, byte by byte in
//! every archive, what whisper makes of each point alone in the second of its arrival.
//!
//! `SEED=7 cargo test --test simulate seeds` repeats a failure; `SIMULATE_SECONDS=600` explores new
//! seeds so long.

#[path = "support/seeds.rs"]
mod seeds;
#[path = "support/simulated_core.rs"]
mod simulated_core;
#[path = "support/simulated_disk.rs"]
mod simulated_disk;
#[path = "support/simulated_model.rs"]
mod simulated_model;
#[path = "support/simulated_node.rs"]
mod simulated_node;
#[path = "support/simulated_tree.rs"]
mod simulated_tree;
#[path = "support/simulated_wal_writer.rs"]
mod simulated_wal_writer;
#[path = "support/simulated_world.rs"]
mod simulated_world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use simulated_node::Plant;
use simulated_world::{Done, World};

const SEEDS: u64 = 2_000;
const CANARY_SEEDS: u64 = 400;

/// Seeds run beside each other.
const THREADS: u64 = 2;

/// Runs one seed; what went wrong, if anything.
fn outcome(seed: u64, plant: Plant) -> Result<Done, String> {
    seeds::outcome(|| {
        let mut world = World::new(seed, plant);
        world.run();
        world.done
    })
}

/// What a seed has done, if nothing went wrong.
fn sound(seed: u64, outcome: Result<Done, String>) -> Done {
    outcome.unwrap_or_else(|text| {
        panic!("{text}\nrepeat: SEED={seed} cargo test --test simulate seeds")
    })
}

/// Runs seeds from 1 on, all up to `least` and more until the deadline, on several threads; how
/// many, and what they did. The first failure ends it.
fn check_many(least: u64, deadline: Option<Instant>) -> (u64, Done) {
    let next = AtomicU64::new(1);
    let has_failed = AtomicBool::new(false);
    let is_late = || deadline.is_none_or(|deadline| Instant::now() >= deadline);
    let work = || {
        let (mut count, mut all) = (0, Done::default());
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if has_failed.load(Ordering::Relaxed) || (seed > least && is_late()) {
                return (count, all);
            }
            let done = outcome(seed, Plant::None);
            has_failed.fetch_or(done.is_err(), Ordering::Relaxed);
            all.add(&sound(seed, done));
            count += 1;
        }
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(work)).collect();
        let (mut count, mut all) = (0, Done::default());
        for thread in threads {
            let done = thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            count += done.0;
            all.add(&done.1);
        }
        (count, all)
    })
}

#[test]
fn seeds() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    if let Some(seed) = number("SEED") {
        sound(seed, outcome(seed, Plant::None));
        return;
    }
    let begun = Instant::now();
    let deadline = number("SIMULATE_SECONDS").map(|s| begun + Duration::from_secs(s));
    let (count, all) = check_many(SEEDS, deadline);
    // A simulation in which little happens finds nothing.
    let reached = all.reached();
    tell(&format!("{count} seeds in {:?}: {reached:?}", begun.elapsed()));
    for &(what, done, per_thousand) in &reached {
        let least = per_thousand * count / 1_000;
        assert!(done >= least, "only {done} {what} in {count} seeds: {reached:?}");
    }
}

#[allow(clippy::print_stdout, reason = "with --nocapture it says how much was explored")]
fn tell(text: &str) {
    println!("{text}");
}

/// A bug on purpose must be found.
fn check_found(plant: Plant) {
    // The promise is what must be seen to break: some seeds stumble over the bug elsewhere before.
    let is_promise = |text: &String| text.contains("acknowledged");
    let broken = |seed| outcome(seed, plant).err().filter(is_promise);
    let found = (1..=CANARY_SEEDS).find_map(|seed| Some((seed, broken(seed)?)));
    let Some((seed, text)) = found else { panic!("{CANARY_SEEDS} seeds do not find {plant:?}") };
    tell(&format!("{plant:?} is found by seed {seed}: {text}"));
}

#[test]
fn planted_bugs_of_the_log_are_found() {
    check_found(Plant::SkipSync);
    check_found(Plant::HideFailedWrite);
    check_found(Plant::ReplayBackwards);
    check_found(Plant::CarryEarly);
    check_found(Plant::SameRun);
}

#[test]
fn planted_bugs_of_what_is_held_are_found() {
    check_found(Plant::SkipCheckpoint);
    check_found(Plant::HideFailedCheckpoint);
    check_found(Plant::ReleaseAtTake);
    check_found(Plant::ReleaseAtFailure);
    check_found(Plant::DropInheritance);
    check_found(Plant::ForgetInherited);
}

#[test]
fn planted_bugs_of_exactness_are_found() {
    check_found(Plant::ReplayConfirmed);
    check_found(Plant::WrongNow);
    check_found(Plant::GreatestTimestamp);
    check_found(Plant::SettleEarly);
}
