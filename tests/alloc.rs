//! Receiving points of metrics that are known allocates nothing, whichever way they come; and what
//! a metric without points takes, is as little as promised and what the shard says. Nor does
//! comparing a name with a pattern.
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
use carbyne::metric::glob::Glob;
use carbyne::metric::owner::ShardId;
use carbyne::metric::series::{Aggregation, Retention, SeriesSpec};
use carbyne::schema::Rules;
use carbyne::shard::flush::{FlushJob, Known, NextJob, Outcome, Written};
use carbyne::shard::{Shard, ShardOptions};
use carbyne::stats::Receiver;
use carbyne::tasks::receive_pickle::take_message;
use carbyne::tasks::receive_tcp::take_lines;
use carbyne::tasks::receive_udp::take_datagrams;
use carbyne::whisper::{Bases, Header};
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
    /// Bytes allocated less bytes freed, some of which another thread has allocated.
    static BYTES: Cell<isize> = const { Cell::new(0) };
}

/// The system's allocator, counting the calls and bytes of each thread.
struct Counting;

fn count(freed: usize, allocated: usize) {
    BYTES.set(BYTES.get() + allocated.cast_signed() - freed.cast_signed());
    COUNT.set(COUNT.get() + usize::from(allocated > 0));
}

// SAFETY: every call goes to the system's allocator as it came; the counters are plain cells of the
// calling thread, whose access does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(0, layout.size());
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        count(layout.size(), bytes);
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.realloc(block, layout, bytes) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        count(layout.size(), 0);
        // SAFETY: the caller keeps the contract of this same method.
        unsafe { System.dealloc(block, layout) }
    }
}

/// Bytes allocated since there were so many, and not freed.
fn bytes_since(before: isize) -> usize {
    usize::try_from(BYTES.get() - before).expect("what is freed was allocated since")
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

fn shard(id: u16, shard_count: u16) -> Shard {
    shard_with(id, shard_count, 1 << 30)
}

fn shard_with(id: u16, shard_count: u16, budget_bytes: usize) -> Shard {
    let options = ShardOptions {
        id: ShardId(id),
        shard_count,
        budget_bytes,
        points_max: 0,
        strategy: WriteStrategy::Max,
        updates_per_s: 0.0,
        creates_per_s: 0.0,
        future_s_max: 600,
        hash_tagged: true,
        quarantined_points_max: 10,
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
    while let Some(batch) = from.outbox().pop(ShardId(1), true) {
        to.accept_batch(&batch);
        from.outbox().give_back(ShardId(1), batch);
    }
}

#[test]
fn the_counter_counts() {
    let (count, bytes) = (COUNT.get(), BYTES.get());
    let kept = std::hint::black_box(vec![1_u8; 100]);
    assert_eq!((COUNT.get() - count, bytes_since(bytes)), (1, 100));
    drop(kept);
    assert_eq!((COUNT.get() - count, bytes_since(bytes)), (1, 0));
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

/// A sweep, as if each file were written at once, or created if it is new; returns how many.
fn sweep(shard: &mut Shard) -> u64 {
    let retentions = vec![Retention { step_s: 60, slot_count: 1_440 }];
    let aggregation = Aggregation::Average;
    let spec = SeriesSpec { retentions, x_files_factor: 0.0, aggregation };
    let known = Known {
        header: Header::new(&spec).expect("a good archive"),
        inode: 7,
        bases: Bases::EMPTY,
        changed: 0,
    };
    let (mut job, now, mut count) = (FlushJob::empty(), Instant::now(), 0);
    shard.begin_sweep();
    loop {
        shard.forget_idle();
        match shard.next_flush(now, &mut job) {
            NextJob::Ready => {
                let (checked, created) = (job.known.is_none(), job.create.is_some());
                job.outcome = if checked && !created {
                    Outcome::Missing
                } else {
                    count += 1;
                    job.known = Some(known.clone());
                    let count = job.points.len();
                    let is_near = true;
                    Outcome::Written(Written { count, is_near, checked, created, too_old_count: 0 })
                };
                assert!(shard.complete(&mut job, now).is_none());
            }
            NextJob::Busy => {}
            NextJob::SweepOver => return count,
            NextJob::Wait(_) => unreachable!("nothing limits the updates"),
        }
    }
}

/// Sends one point of each metric of a range, as `carbyne loadgen` names them.
fn send(shard: &mut Shard, metrics: std::ops::Range<usize>, round: u32) {
    let (mut text, mut carry) = (String::new(), Vec::new());
    for metric in metrics {
        let (node, leaf, time) = (metric / 10, metric % 10, timestamp_s(round));
        writeln!(text, "carbyne.loadgen.agent.0.metrics.{node:05}.{leaf} 1.5 {time}")
            .expect("in memory");
    }
    take_lines(shard, &mut carry, text.as_bytes()).expect("short lines");
}

/// Bytes that an idle metric takes, of which its name is 39. The sum is in `src/cache/mod.rs`.
const IDLE_BYTES_MAX: usize = 154;

#[test]
fn a_metric_without_points_takes_what_is_promised_and_counted() {
    // The table of names grows in steps of a quarter: what it takes differs from count to count.
    for count in [60_000, 70_000, 80_000] {
        let mut shard = shard(0, 1);
        let before = BYTES.get();
        for round in 0..20 {
            send(&mut shard, 0..count, round);
        }
        let waiting = bytes_since(before);
        assert_eq!(sweep(&mut shard), count as u64);
        // What the next round needs is kept, until no round came between two sweeps.
        let written = bytes_since(before);
        assert!(written > waiting / 10 * 9, "{waiting} fell to {written}");
        sweep(&mut shard);
        sweep(&mut shard);
        let idle = bytes_since(before);
        assert!(idle <= count * IDLE_BYTES_MAX, "{} bytes each", idle / count);
        let counted = usize::try_from(shard.gauges().bytes).expect("64 bits");
        let is_close = counted.abs_diff(idle) <= idle / 40;
        assert!(is_close, "{} bytes each, {} counted", idle / count, counted / count);
        send(&mut shard, 0..count, 20);
        assert_eq!(shard.gauges().metrics, count as u64, "no metric was forgotten");
    }
}

#[test]
fn metrics_that_come_and_go_take_no_more_than_their_share() {
    const BUDGET_BYTES: usize = 24 << 20;
    let mut shard = shard_with(0, 1, BUDGET_BYTES);
    let before = BYTES.get();
    for wave in 0..40 {
        send(&mut shard, wave * 15_000..(wave + 1) * 15_000, 0);
        sweep(&mut shard);
        for _ in 0..100 {
            shard.forget_idle();
        }
        let bytes = bytes_since(before);
        // 40 % for what is known of metrics, and for a wave: what is known of its metrics before
        // others are forgotten, and their blocks.
        assert!(bytes <= BUDGET_BYTES / 16 * 9, "{bytes} bytes after {wave} waves");
    }
    let metrics = usize::try_from(shard.gauges().metrics).expect("64 bits");
    assert!((60_000..90_000).contains(&metrics), "{metrics} metrics are known");
}

#[test]
fn a_pattern_that_is_read_allocates_nothing() {
    let globs = ["a.*.{b,c}[0-9].cpu*", "**.x*[!a]*b?.**", "{a,b*c,*[d-f]}.{,x}.c", "a.b.c"]
        .map(|pattern| Glob::parse(pattern.as_bytes()).expect("a good pattern"));
    let names = ["a.b.c", "a.x.b7.cpu0", "q.r.xyzzbc.d", "bac.c", "a.\u{e9}.c4.cpu"];
    let before = COUNT.get();
    let mut matches = 0;
    for glob in &globs {
        for name in names {
            matches += usize::from(glob.matches(name.as_bytes()));
            let parts = name.split('.').map(str::as_bytes);
            let state = parts.fold(glob.start(), |state, part| {
                matches += glob.literals(state).map_or(0, <[_]>::len);
                glob.step(state, part)
            });
            matches += usize::from(glob.is_whole(state));
        }
    }
    assert_eq!(COUNT.get() - before, 0);
    assert!(matches > 10, "only {matches}");
}
