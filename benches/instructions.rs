//! Instructions of each hot function under valgrind; `tests/instructions.py` runs this and compares
//! with `benches/instructions.json`.

#![allow(missing_docs, reason = "the macros of gungraun write items without any")]

mod work;

use std::hint::black_box;

use gungraun::prelude::*;
use work::{
    AcceptBatch, GlobMatch, HashRoute, Ingest, IngestPickle, LineParse, LogEncode, PickleDecode,
    WhisperUpdate,
};

/// Points of one run: their cost stands out from that of the first allocations.
const COUNT: usize = 2_000;

#[library_benchmark]
#[bench::points(args = (COUNT), setup = LineParse::prepare)]
fn line_parse(mut work: LineParse) -> (usize, LineParse) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = PickleDecode::plain)]
fn pickle_plain(mut work: PickleDecode) -> (usize, PickleDecode) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = PickleDecode::other)]
fn pickle_other(mut work: PickleDecode) -> (usize, PickleDecode) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = HashRoute::prepare)]
fn hash_route(mut work: HashRoute) -> (usize, HashRoute) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = Ingest::known)]
fn ingest_known(mut work: Ingest) -> (usize, Ingest) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = Ingest::logged)]
fn ingest_logged(mut work: Ingest) -> (usize, Ingest) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = Ingest::new)]
fn ingest_new(mut work: Ingest) -> (usize, Ingest) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = Ingest::foreign)]
fn ingest_foreign(mut work: Ingest) -> (usize, Ingest) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = IngestPickle::prepare)]
fn ingest_pickle(mut work: IngestPickle) -> (usize, IngestPickle) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = LogEncode::prepare)]
fn log_encode(mut work: LogEncode) -> (usize, LogEncode) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::points(args = (COUNT), setup = AcceptBatch::prepare)]
fn accept_batch(mut work: AcceptBatch) -> (usize, AcceptBatch) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::names(args = (COUNT), setup = GlobMatch::plain)]
fn glob_plain(mut work: GlobMatch) -> (usize, GlobMatch) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::names(args = (COUNT), setup = GlobMatch::list)]
fn glob_list(mut work: GlobMatch) -> (usize, GlobMatch) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::names(args = (COUNT), setup = GlobMatch::wild)]
fn glob_wild(mut work: GlobMatch) -> (usize, GlobMatch) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::updates(args = (200), setup = WhisperUpdate::plan)]
fn whisper_plan(mut work: WhisperUpdate) -> (usize, WhisperUpdate) {
    (black_box(work.run()), work)
}

#[library_benchmark]
#[bench::updates(args = (10), setup = WhisperUpdate::rollup)]
fn whisper_rollup(mut work: WhisperUpdate) -> (usize, WhisperUpdate) {
    (black_box(work.run()), work)
}

library_benchmark_group!(
    name = hot,
    benchmarks = [
        line_parse,
        pickle_plain,
        pickle_other,
        hash_route,
        ingest_known,
        ingest_logged,
        ingest_new,
        ingest_foreign,
        ingest_pickle,
        log_encode,
        accept_batch,
        glob_plain,
        glob_list,
        glob_wild,
        whisper_plan,
        whisper_rollup
    ]
);

// tests/instructions.py pins the C library's choice of functions with it.
gungraun::main!(
    config = LibraryBenchmarkConfig::default().pass_through_env("GLIBC_TUNABLES"),
    library_benchmark_groups = hot
);
