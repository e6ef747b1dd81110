//! Every fuzz target in the everyday run: its seeds, and some thousands of changes to them.
//!
//! The bodies are those of `tests/run fuzz`. Here the choices come from a seed, the same in each
//! run; `SEED` gives others, and `FUZZ_ROUNDS` that many times as many. What libFuzzer found goes
//! into `tests/fuzz/seeds`, one file each, and so is tried for ever.

#[path = "../fuzz/bodies"]
mod bodies {
    pub(crate) mod carbonlink;
    pub(crate) mod config;
    pub(crate) mod glob;
    pub(crate) mod line;
    pub(crate) mod pattern;
    pub(crate) mod pickle;
    pub(crate) mod reply;
    pub(crate) mod schema;
    pub(crate) mod wal;
    pub(crate) mod whisper;
}

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::support::seeds::{Chance, outcome};
use carbyne::metric::point::{Arrival, Point};
use carbyne::wal::{BLOCK_BYTES, BootId, Kind, Log, Mark, Options, Outcome, SegmentId};

/// Bytes that mean something to some parser.
const SPECIAL: &[u8] =
    b"\0\x01\x7f\x80\xff\n\r \t.,;:=~/{}\"'-+*?|^$%<>!eE_()[].#tabcdlsuKJMGIFNUTXBCqhrjwx0159";

/// Longest input that changes lead to, as in `tests/run fuzz`.
const INPUT_BYTES_MAX: usize = 16_384;

fn directory(target: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/seeds").join(target)
}

/// The seeds of a target, in the order of their names.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let entries = fs::read_dir(directory(target)).expect("the target has seeds");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("read a seed")).collect()
}

/// A few changes at random places, or a piece of another seed.
fn changed(chance: &mut Chance, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = seeds[chance.below(seeds.len())].clone();
    for _ in 0..1 + chance.below(5) {
        let at = chance.below(bytes.len() + 1);
        let end = at + chance.below((bytes.len() - at).min(64) + 1);
        let any = chance.next().to_le_bytes();
        match chance.below(9) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, any[0]),
            3 => bytes.insert(at, SPECIAL[chance.below(SPECIAL.len())]),
            4 => {
                let copy = bytes[at..end].repeat(1 + chance.below(40));
                bytes.splice(at..at, copy);
            }
            5 => {
                let other = &seeds[chance.below(seeds.len())];
                let from = chance.below(other.len() + 1);
                let to = from + chance.below(other.len() - from + 1);
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            6 => drop(bytes.splice(at..end, any)),
            _ if at == bytes.len() => {}
            7 => bytes[at] ^= 1 << chance.below(8),
            _ => bytes[at] = SPECIAL[chance.below(SPECIAL.len())],
        }
    }
    bytes.truncate(INPUT_BYTES_MAX);
    bytes
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number in the environment"))
}

/// The seeds of a target, and `rounds` changed ones; a failure names the input and repeats itself.
fn check(target: &str, run: fn(&[u8]), rounds: u64) {
    let seed = setting("SEED").unwrap_or(1);
    let rounds = rounds * setting("FUZZ_ROUNDS").unwrap_or(1);
    let seeds = seeds(target);
    assert!(!seeds.is_empty());
    let mut chance = Chance::new(seed);
    let begun = Instant::now();
    let changes = (0..rounds).map(|_| changed(&mut chance, &seeds));
    for (round, input) in seeds.iter().cloned().chain(changes).enumerate() {
        if let Err(reason) = outcome(|| run(&input)) {
            let shown = input[..input.len().min(2_000)].escape_ascii();
            panic!(
                "{target}, input {round}: {reason}\nb\"{shown}\"\nrepeat with: SEED={seed} cargo \
                 test --test vectors fuzz_seeds::{target}"
            );
        }
    }
    println_time(target, rounds, begun);
}

/// Seen with --nocapture only.
fn println_time(target: &str, rounds: u64, begun: Instant) {
    use std::io::Write;
    let say = format!("{target}: {rounds} changes in {:?}\n", begun.elapsed());
    std::io::stdout().write_all(say.as_bytes()).expect("write to standard output");
}

#[test]
fn carbonlink() {
    check("carbonlink", bodies::carbonlink::run, 300_000);
}

#[test]
fn config() {
    check("config", bodies::config::run, 3_000);
}

#[test]
fn glob() {
    check("glob", bodies::glob::run, 50_000);
}

#[test]
fn line() {
    check("line", bodies::line::run, 50_000);
}

#[test]
fn pattern() {
    check("pattern", bodies::pattern::run, 3_000);
}

#[test]
fn pickle() {
    check("pickle", bodies::pickle::run, 300_000);
}

#[test]
fn reply() {
    check("reply", bodies::reply::run, 50_000);
}

#[test]
fn schema() {
    check("schema", bodies::schema::run, 3_000);
}

#[test]
fn wal() {
    check("wal", bodies::wal::run, 50_000);
}

#[test]
fn whisper() {
    check("whisper", bodies::whisper::run, 30_000);
}

/// What the body of `wal` reads: the blocks of some segments, without the zeros at their ends.
fn as_input(segments: &[(SegmentId, Vec<u8>)]) -> Vec<u8> {
    let mut input = Vec::new();
    for (id, bytes) in segments {
        for (index, block) in bytes.chunks(BLOCK_BYTES).enumerate() {
            let kind = u8::from(id.kind == Kind::Points);
            let length = block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            input.push(kind | u8::from(index == 0) << 1);
            input.extend(u16::try_from(length).expect("a block").to_be_bytes());
            input.extend(&block[..length]);
        }
    }
    for name in ["000001-000-00000001.points", "000001-000-00000001.names", "000002.settled"] {
        input.extend(name.as_bytes());
        input.push(b'\n');
    }
    input
}

/// The segments of a short life of a log: names, points, and several commits.
fn short_life(metric_count: u32, commit_count: u32) -> Vec<u8> {
    let mut log = Log::new(Options {
        run: 1,
        shard: 0,
        shard_count: 1,
        segment_bytes: 128 << 10,
        segments_max: 64,
        buffer_bytes: 32 << 10,
        inherited_segments: None,
        boot_id: BootId([1; 16]),
    });
    let begun = Instant::now();
    let mut marks = vec![Mark::default(); usize::try_from(metric_count).expect("few")];
    let mut segments: Vec<(SegmentId, Vec<u8>)> = Vec::new();
    for round in 0..commit_count {
        for (number, mark) in (0..).zip(&mut marks) {
            let name = format!("fuzz.m{number}");
            let point = Point { timestamp_s: 1_700_000_000 + round * 60, value: f64::from(number) };
            let segment = log.append(mark, || name.as_bytes(), point).expect("there is room");
            log.hold(segment);
            // Some are written, some are logged again, and now and then all is synced.
            log.set_time(1_700_000_000 + round * 61 + number);
            let through = log.position();
            let arrival = Arrival::new(point, 1_700_000_000);
            match number % 4 {
                1 => log.confirm(mark, || name.as_bytes(), through).expect("there is room"),
                2 => {
                    let rewritten = log.rewrite(mark, || name.as_bytes(), &[arrival; 3]);
                    rewritten.expect("there is room");
                }
                3 if log.checkpoint_begun() => log.checkpoint_done(true),
                _ => {}
            }
        }
        while let Some(mut commit) = log.take_commit(begun, 1_700_000_000) {
            for part in commit.parts() {
                let (id, offset) = (part.id(), usize::try_from(part.offset()).expect("small"));
                let known = segments.iter().position(|(known, _)| *known == id);
                let at = known.unwrap_or_else(|| {
                    segments.push((id, Vec::new()));
                    segments.len() - 1
                });
                let file = &mut segments[at].1;
                file.resize(file.len().max(offset + part.bytes().len()), 0);
                file[offset..offset + part.bytes().len()].copy_from_slice(part.bytes());
                part.outcome = Outcome::Synced;
            }
            log.committed(commit, begun);
        }
    }
    segments.sort_by_key(|(id, _)| *id);
    as_input(&segments)
}

/// The log's seeds are what a log writes today. They are made anew when its format changes.
#[test]
fn seeds_of_the_log_are_of_its_format() {
    for (name, metric_count, commit_count) in [("one", 1, 1), ("few", 3, 3), ("some", 40, 2)] {
        let path = directory("wal").join(name);
        let made = short_life(metric_count, commit_count);
        bodies::wal::run(&made);
        if setting("WRITE_SEEDS").is_some() {
            fs::write(&path, &made).expect("write a seed");
        }
        let repeat = "WRITE_SEEDS=1 cargo test --test vectors fuzz_seeds::seeds_of_the_log";
        let kept = fs::read(&path).unwrap_or_default();
        assert!(kept == made, "{} is of another format: {repeat}", path.display());
    }
}
