//! Receiving points of metrics that are known allocates nothing, whichever way they come.
//!
//! What may allocate, and is kept out of the measured rounds: a new metric (its entry, its name),
//! the first buffer of each lane between cores, and a further chunk of the slab from which all
//! metrics take the blocks of their points. And in front of all this the beginning of a line or
//! message whose end has not come: its connection keeps it, and holds no memory otherwise.

#![allow(unsafe_code, reason = "a global allocator is unsafe to implement; this one only counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use carbyne::cache::WriteStrategy;
use carbyne::limits::BATCH_BYTES_MAX;
use carbyne::metric::batch::{Batch, Content};
use carbyne::schema::Rules;
use carbyne::shard::route::ShardId;
use carbyne::shard::{Shard, ShardOptions};
use carbyne::stats::Receiver;
use carbyne::tasks::receive_pickle::take_message;
use carbyne::tasks::receive_tcp::take_lines;
use carbyne::tasks::receive_udp::take_datagrams;
use carbyne::wire::pickle::PickleDecoder;

const NOW_S: u32 = 1_800_000_000;
const METRICS: usize = 500;

/// Rounds that may allocate: afterwards each metric has points in a block with room for more.
const WARM_ROUNDS: u32 = 40;
const ROUNDS: u32 = 40;

/// Fewest chunks that the slab may take meanwhile; see [`check`].
const CHUNKS_MAX: usize = 2;

thread_local! {
    static COUNT: Cell<usize> = const { Cell::new(0) };
}

/// The system's allocator, counting the calls of each thread.
struct Counting;

// SAFETY: every call goes to the system's allocator as it came; the counter is a plain cell of the
// calling thread, whose access does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        COUNT.set(COUNT.get() + 1);
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn shard(id: u16, shard_count: u16) -> Shard {
    let options = ShardOptions {
        id: ShardId(id),
        shard_count,
        budget_bytes: 1 << 30,
        points_max: 0,
        strategy: WriteStrategy::Max,
        updates_per_s: 0.0,
        creates_per_s: 0.0,
        future_s_max: 600,
        hash_tagged: true,
        quarantined_points_max: 10,
        carry_points_max: carbyne::limits::CARRY_POINTS_MAX,
        link_buffers: 4,
        batch_bytes: BATCH_BYTES_MAX,
        log: None,
    };
    let mut shard = Shard::new(options, Arc::new(Rules::default()), Instant::now());
    shard.set_time(NOW_S);
    shard
}

fn name_of(metric: usize) -> String {
    format!("servers.host{metric:04}.cpu.user")
}

fn timestamp_s(round: u32) -> u32 {
    NOW_S - 10 * (WARM_ROUNDS + ROUNDS) + 10 * round
}

fn lines(round: u32) -> Vec<u8> {
    let mut text = String::new();
    for metric in 0..METRICS {
        let value = (metric * 7 + round as usize) % 1_000;
        writeln!(text, "{} {value}.25 {}", name_of(metric), timestamp_s(round)).expect("in memory");
    }
    text.into_bytes()
}

fn pickle(round: u32, number: &[u8]) -> Vec<u8> {
    let mut frame = b"\x80\x02]q\x00(".to_vec();
    for metric in 0..METRICS {
        let name = name_of(metric);
        frame.push(b'X');
        frame.extend(u32::try_from(name.len()).expect("short").to_le_bytes());
        frame.extend(name.as_bytes());
        frame.push(b'J');
        frame.extend(timestamp_s(round).to_le_bytes());
        frame.extend(number);
        frame.extend(b"\x86q\x01\x86q\x02");
    }
    frame.extend(b"e.");
    frame
}

/// Runs `take` for rounds that may allocate, and then for as many that may not. Blocks of points
/// come from a slab that grows by a chunk for thousands of metrics: these few, and nothing for
/// each metric, are let through.
fn check(what: &str, mut take: impl FnMut(u32)) {
    let mut count_round = |round| {
        let before = COUNT.get();
        take(round);
        COUNT.get() - before
    };
    let _: usize = (0..WARM_ROUNDS).map(&mut count_round).sum();
    let counts: Vec<usize> = (WARM_ROUNDS..WARM_ROUNDS + ROUNDS).map(count_round).collect();
    let total: usize = counts.iter().sum();
    assert!(total <= CHUNKS_MAX, "{what}: {total} allocations in {ROUNDS} rounds: {counts:?}");
}

/// Sends all batches of shard 0 to shard 1, which takes them, and gives their buffers back.
fn exchange(from: &mut Shard, to: &mut Shard) {
    while let Some(Batch { content, bytes }) = from.outbox().pop(ShardId(1), true) {
        assert_eq!(content, Content::Points);
        to.accept_batch(&bytes);
        from.outbox().give_back(ShardId(1), bytes);
    }
}

#[test]
fn the_counter_counts() {
    let before = COUNT.get();
    drop(std::hint::black_box(vec![1_u8; 100]));
    assert_eq!(COUNT.get() - before, 1);
}

#[test]
fn lines_of_own_metrics() {
    let (mut shard, mut carry) = (shard(0, 1), Vec::new());
    let rounds: Vec<Vec<u8>> = (0..WARM_ROUNDS + ROUNDS).map(lines).collect();
    check("lines", |round| {
        take_lines(&mut shard, &mut carry, &rounds[round as usize]).expect("short lines");
    });
    let taken = METRICS as u64 * u64::from(WARM_ROUNDS + ROUNDS);
    assert_eq!(shard.counters.accepted, taken);
}

#[test]
fn lines_of_metrics_of_which_half_are_foreign() {
    let (mut near, mut far, mut carry) = (shard(0, 2), shard(1, 2), Vec::new());
    let rounds: Vec<Vec<u8>> = (0..WARM_ROUNDS + ROUNDS).map(lines).collect();
    check("lines and batches", |round| {
        take_lines(&mut near, &mut carry, &rounds[round as usize]).expect("short lines");
        exchange(&mut near, &mut far);
    });
    let taken = METRICS as u64 * u64::from(WARM_ROUNDS + ROUNDS);
    assert_eq!(near.counters.accepted + far.counters.accepted, taken);
    assert!(near.counters.accepted > taken / 3 && far.counters.accepted > taken / 3);
}

#[test]
fn lines_that_are_lent() {
    let (mut near, mut far, mut carry) = (shard(0, 2), shard(1, 2), Vec::new());
    let rounds: Vec<Vec<u8>> = (0..WARM_ROUNDS + ROUNDS).map(lines).collect();
    check("lent lines", |round| {
        let text = &rounds[round as usize];
        let lent = near.outbox().lend(ShardId(1), text).expect("nothing is lent");
        take_lines(&mut near, &mut carry, &text[..lent]).expect("short lines");
        let batch = near.outbox().pop(ShardId(1), false).expect("the lines");
        assert_eq!(batch.content, Content::Lines);
        far.set_time(NOW_S);
        carbyne::tasks::receive_tcp::take_lent(&mut far, ShardId(0), &batch.bytes);
        near.outbox().give_back(ShardId(1), batch.bytes);
        far.outbox().end_lent(ShardId(0), false);
        let back = far.outbox().pop(ShardId(0), false).expect("the points that come back");
        near.accept_batch(&back.bytes);
        near.lines_taken();
        far.outbox().give_back(ShardId(0), back.bytes);
        exchange(&mut near, &mut far);
    });
    assert!(near.outbox().is_settled() && far.outbox().is_settled());
    assert!(near.counters.replaced + far.counters.replaced > 0, "both took the same lines");
}

#[test]
fn datagrams() {
    let mut shard = shard(0, 1);
    let rounds: Vec<Vec<u8>> = (0..WARM_ROUNDS + ROUNDS).map(lines).collect();
    check("datagrams", |round| {
        let text = &rounds[round as usize];
        take_datagrams(&mut shard, text.chunk_by(|&byte, _| byte != b'\n'));
    });
    let udp = Receiver::Udp.index();
    let taken = METRICS as u64 * u64::from(WARM_ROUNDS + ROUNDS);
    assert_eq!((shard.counters.received[udp], shard.counters.accepted), (taken, taken));
}

#[test]
fn pickles_of_both_ways() {
    // A boolean is a number that only the stack machine takes.
    for number in [&b"G\x3f\xf8\0\0\0\0\0\0"[..], b"\x88"] {
        let (mut shard, mut decoder) = (shard(0, 1), PickleDecoder::new());
        let rounds: Vec<Vec<u8>> =
            (0..WARM_ROUNDS + ROUNDS).map(|round| pickle(round, number)).collect();
        check("pickles", |round| take_message(&mut shard, &mut decoder, &rounds[round as usize]));
        let taken = METRICS as u64 * u64::from(WARM_ROUNDS + ROUNDS);
        assert_eq!(shard.counters.accepted, taken);
    }
}
