//! Time of each hot function: `cargo bench --bench hot`. `cargo test` runs each once, small, and
//! checks what it returns.

mod work;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use work::{
    AcceptBatch, GlobMatch, HashRoute, Ingest, IngestPickle, LineParse, LogEncode, PickleDecode,
    WhisperUpdate,
};

/// Points of one run: more metrics than the processor's caches hold, unless it is only a test.
fn points() -> usize {
    if std::env::args().any(|argument| argument == "--bench") { 50_000 } else { 500 }
}

/// Measures a function on inputs that it changes; each run must return `want`.
fn measure<T>(
    criterion: &mut Criterion,
    name: &str,
    want: usize,
    prepare: impl Fn() -> T,
    run: impl Fn(&mut T) -> usize,
) {
    let mut group = criterion.benchmark_group("hot");
    group.throughput(Throughput::Elements(want as u64)).sample_size(20);
    group.bench_function(name, |bencher| {
        bencher.iter_batched_ref(
            &prepare,
            |input| assert_eq!(run(input), want, "{name}"),
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

fn hot(criterion: &mut Criterion) {
    let count = points();
    let c = criterion;
    measure(c, "line_parse", count, || LineParse::prepare(count), LineParse::run);
    measure(c, "pickle_plain", count, || PickleDecode::plain(count), PickleDecode::run);
    measure(c, "pickle_other", count, || PickleDecode::other(count), PickleDecode::run);
    measure(c, "hash_route", count, || HashRoute::prepare(count), HashRoute::run);
    measure(c, "ingest_known", count, || Ingest::known(count), Ingest::run);
    measure(c, "ingest_logged", count, || Ingest::logged(count), Ingest::run);
    measure(c, "ingest_new", count, || Ingest::new(count), Ingest::run);
    measure(c, "ingest_foreign", count, || Ingest::foreign(count), Ingest::run);
    measure(c, "ingest_pickle", count, || IngestPickle::prepare(count), IngestPickle::run);
    measure(c, "log_encode", count, || LogEncode::prepare(count), LogEncode::run);
    measure(c, "accept_batch", count, || AcceptBatch::prepare(count), AcceptBatch::run);
    measure(c, "glob_plain", count, || GlobMatch::plain(count), GlobMatch::run);
    measure(c, "glob_list", count, || GlobMatch::list(count), GlobMatch::run);
    measure(c, "glob_wild", count, || GlobMatch::wild(count), GlobMatch::run);
    let updates = count / 50;
    measure(c, "whisper_plan", updates, || WhisperUpdate::plan(updates), WhisperUpdate::run);
    let (points, updates) = (updates / 10 * 360, updates / 10);
    measure(c, "whisper_rollup", points, || WhisperUpdate::rollup(updates), WhisperUpdate::run);
}

criterion_group!(benches, hot);
criterion_main!(benches);
