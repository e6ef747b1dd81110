//! The hot functions with inputs for them: the same for times (`hot`) and for instructions
//! (`instructions`). Every run returns what it did, and its input knows what that must be.

#![allow(missing_docs, reason = "shared by two benchmarks, no library")]
#![allow(unreachable_pub, reason = "a module of two benchmarks, each of which uses all of it")]

use std::fmt::Write;
use std::sync::Arc;
use std::time::Instant;

use carbyne::cache::WriteStrategy;
use carbyne::limits::BATCH_BYTES_MAX;
use carbyne::metric::glob::Glob;
use carbyne::metric::owner::{ShardId, owner};
use carbyne::metric::point::{Arrival, Point};
use carbyne::metric::series::{Aggregation, Retention, SeriesSpec};
use carbyne::schema::Rules;
use carbyne::shard::{Shard, ShardOptions};
use carbyne::tasks::receive_pickle::take_message;
use carbyne::tasks::receive_tcp::take_lines;
use carbyne::wal;
use carbyne::whisper::{Bases, Header, Step, Update};
use carbyne::wire::line::Lines;
use carbyne::wire::pickle::PickleDecoder;

const NOW_S: u32 = 1_800_000_000;

/// A number of the sequence that a seed begins (splitmix64).
fn noise(seed: u64) -> u64 {
    let mut mixed = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// Names of metrics as an agent of collectd or haggar sends them: 33 bytes.
pub fn names(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("haggar.agent.{:03}.metrics.m{n:08}", n % 100)).collect()
}

/// A line for each name, some 56 bytes long, with values of several lengths.
fn lines(names: &[String], round: u32) -> Vec<u8> {
    let mut text = String::new();
    for (name, number) in names.iter().zip(0..) {
        let value = noise(number + u64::from(round)) % 1_000_000;
        let (whole, cents) = (value / 100, value % 100);
        writeln!(text, "{name} {whole}.{cents:02} {}", NOW_S - 600 + round).expect("into memory");
    }
    text.into_bytes()
}

fn shard(id: u16, shard_count: u16) -> Shard {
    shard_with(id, shard_count, None)
}

fn shard_with(id: u16, shard_count: u16, log: Option<wal::Options>) -> Shard {
    let options = ShardOptions {
        id: ShardId(id),
        shard_count,
        budget_bytes: 4 << 30,
        points_max: 0,
        strategy: WriteStrategy::Max,
        updates_per_s: 0.0,
        creates_per_s: 0.0,
        future_s_max: 600,
        hash_tagged: true,
        quarantined_points_max: 10,
        link_buffers: 1_024,
        batch_bytes: BATCH_BYTES_MAX,
        log,
    };
    let mut shard = Shard::new(options, Arc::new(Rules::default()), Instant::now());
    shard.set_time(NOW_S);
    shard
}

/// Lines to be taken apart.
pub struct LineParse {
    text: Vec<u8>,
}

impl LineParse {
    pub fn prepare(count: usize) -> LineParse {
        LineParse { text: lines(&names(count), 0) }
    }

    /// Points found.
    pub fn run(&mut self) -> usize {
        let points = Lines::new(&self.text).map_while(Result::ok);
        points.filter(|point| point.timestamp == f64::from(NOW_S - 600)).count()
    }
}

/// A pickle of the shape that senders write, or of one for the stack machine.
pub struct PickleDecode {
    frame: Vec<u8>,
    decoder: PickleDecoder,
}

impl PickleDecode {
    pub fn plain(count: usize) -> PickleDecode {
        PickleDecode::prepare(count, b"G\x3f\xf8\0\0\0\0\0\0")
    }

    pub fn other(count: usize) -> PickleDecode {
        PickleDecode::prepare(count, b"\x88")
    }

    fn prepare(count: usize, number: &[u8]) -> PickleDecode {
        let frame = pickle(&names(count), number, 0);
        PickleDecode { frame, decoder: PickleDecoder::new() }
    }

    /// Points found.
    pub fn run(&mut self) -> usize {
        let points = self.decoder.points(&self.frame).expect("a good frame");
        points.map_while(Result::ok).filter(|point| point.value > 0.0).count()
    }
}

fn pickle(names: &[String], number: &[u8], round: u32) -> Vec<u8> {
    let mut frame = b"\x80\x02]q\x00(".to_vec();
    for name in names {
        frame.push(b'X');
        frame.extend(u32::try_from(name.len()).expect("short").to_le_bytes());
        frame.extend(name.as_bytes());
        frame.extend(b"r\x01\x01\0\0J");
        frame.extend((NOW_S - 600 + round).to_le_bytes());
        frame.extend(number);
        frame.extend(b"\x86r\x02\x01\0\0\x86r\x03\x01\0\0");
    }
    frame.extend(b"e.");
    frame
}

/// Names whose owners are asked for.
pub struct HashRoute {
    names: Vec<String>,
}

impl HashRoute {
    pub fn prepare(count: usize) -> HashRoute {
        HashRoute { names: names(count) }
    }

    /// Names of which one of all shards is the owner.
    pub fn run(&mut self) -> usize {
        self.names.iter().filter(|name| owner(name.as_bytes(), 16).0 < 16).count()
    }
}

/// Names that are compared with patterns.
pub struct GlobMatch {
    globs: Vec<Glob>,
    names: Vec<String>,
    matches: usize,
}

impl GlobMatch {
    /// What most patterns are made of: literals, and stars before, behind and between them.
    pub fn plain(count: usize) -> GlobMatch {
        let patterns = ["haggar.agent.*.metrics.m0*", "*.a*t.*7.metrics.*", "haggar.agent.003.*.*"];
        GlobMatch::prepare(count, &patterns, count + count / 10 + count / 100)
    }

    /// A thousand names in braces.
    pub fn list(count: usize) -> GlobMatch {
        let texts: Vec<String> = (0..1_000).map(|n| format!("m{:08}", n * 2)).collect();
        let pattern = format!("haggar.agent.*.metrics.{{{}}}", texts.join(","));
        GlobMatch::prepare(count, &[&pattern], count.div_ceil(2).min(1_000))
    }

    /// Characters one by one, several stars, and any depth.
    pub fn wild(count: usize) -> GlobMatch {
        let patterns =
            ["haggar.*g?nt.[0-9][!5-9]?.metrics.*0*[02468]", "**.agent.**.metrics.**.m*[13579]"];
        GlobMatch::prepare(count, &patterns, count / 4 + count / 2)
    }

    fn prepare(count: usize, patterns: &[&str], matches: usize) -> GlobMatch {
        let read = |pattern: &&str| Glob::parse(pattern.as_bytes()).expect("a good pattern");
        GlobMatch { globs: patterns.iter().map(read).collect(), names: names(count), matches }
    }

    /// Names looked at.
    pub fn run(&mut self) -> usize {
        let matches =
            |glob: &Glob| self.names.iter().filter(|name| glob.matches(name.as_bytes())).count();
        assert_eq!(self.globs.iter().map(matches).sum::<usize>(), self.matches);
        self.names.len()
    }
}

/// Lines on their way into a shard.
pub struct Ingest {
    shard: Shard,
    text: Vec<u8>,
}

impl Ingest {
    /// Of metrics that the shard knows.
    pub fn known(count: usize) -> Ingest {
        let (names, mut shard) = (names(count), shard(0, 1));
        for round in 0..8 {
            take_round(&mut shard, &names, round);
        }
        shard.set_time(NOW_S + 8);
        shard.counters.accepted = 0;
        Ingest { shard, text: lines(&names, 8) }
    }

    /// Of metrics that the shard and its log know.
    pub fn logged(count: usize) -> Ingest {
        let (names, mut shard) = (names(count), shard_with(0, 1, Some(log_options())));
        for round in 0..8 {
            take_round(&mut shard, &names, round);
            commit(&mut shard);
        }
        shard.set_time(NOW_S + 8);
        shard.counters.accepted = 0;
        Ingest { shard, text: lines(&names, 8) }
    }

    /// Of metrics that are new.
    pub fn new(count: usize) -> Ingest {
        Ingest { shard: shard(0, 1), text: lines(&names(count), 0) }
    }

    /// Of metrics that belong to another shard.
    pub fn foreign(count: usize) -> Ingest {
        Ingest { shard: shard(0, 2), text: lines(&foreign_names(count), 0) }
    }

    /// Points accepted, or on their way to another shard.
    pub fn run(&mut self) -> usize {
        take(&mut self.shard, &self.text);
        commit(&mut self.shard);
        let mut sent = 0;
        while let Some(batch) = self.shard.outbox().pop(ShardId(0), false) {
            sent += batch.len();
        }
        assert_eq!(sent, 0, "a shard sends itself nothing");
        let received: u64 = self.shard.counters.received.iter().sum();
        let refused: u64 = self.shard.counters.refused.iter().sum();
        let away = if self.shard.shard_count() > 1 { received - refused } else { 0 };
        usize::try_from(self.shard.counters.accepted + away).expect("64 bits")
    }
}

fn log_options() -> wal::Options {
    wal::Options {
        run: 1,
        shard: 0,
        shard_count: 1,
        segment_bytes: 64 << 20,
        segments_max: 64,
        buffer_bytes: 8 << 20,
        inherited_segments: None,
        boot_id: wal::BootId::default(),
    }
}

/// Makes what is in the shard's log, if it has one, ready to be written.
fn commit(shard: &mut Shard) {
    if let Some(log) = shard.log() {
        commit_log(log);
    }
}

/// Frames, pads and checksums what is in a log, and says that it is written.
fn commit_log(log: &mut wal::Log) {
    let mut commit = log.take_commit(Instant::now(), NOW_S).expect("points wait");
    commit.parts().for_each(|part| part.outcome = wal::Outcome::Synced);
    log.committed(commit, Instant::now());
}

fn take(shard: &mut Shard, text: &[u8]) {
    take_lines(shard, &mut Vec::new(), text).expect("short lines");
}

/// Names that belong to the second of two shards.
fn foreign_names(count: usize) -> Vec<String> {
    let mut names = names(3 * count);
    names.retain(|name| owner(name.as_bytes(), 2) == ShardId(1));
    names.truncate(count);
    names
}

/// A point of each name, a second after the round before: senders are always as late.
fn take_round(shard: &mut Shard, names: &[String], round: u32) {
    shard.set_time(NOW_S + round);
    take(shard, &lines(names, round));
}

/// Points on their way into a log that knows their metrics.
pub struct LogEncode {
    log: wal::Log,
    names: Vec<String>,
    marks: Vec<wal::Mark>,
    second: u32,
}

impl LogEncode {
    pub fn prepare(count: usize) -> LogEncode {
        let (log, names) = (wal::Log::new(log_options()), names(count));
        let marks = vec![wal::Mark::default(); count];
        let mut work = LogEncode { log, names, marks, second: 0 };
        work.run();
        work
    }

    /// Points added to the log.
    pub fn run(&mut self) -> usize {
        self.second += 1;
        let LogEncode { log, names, marks, second } = self;
        let before = log.counters().received_points;
        for ((name, mark), number) in names.iter().zip(marks).zip(0..) {
            let value = (noise(number + u64::from(*second)) % 1_000_000) as f64 / 100.0;
            let point = Point { timestamp_s: NOW_S + *second, value };
            log.append(mark, || name.as_bytes(), point).expect("there is room");
        }
        let added = log.counters().received_points - before;
        commit_log(log);
        usize::try_from(added).expect("64 bits")
    }
}

/// Batches from another shard, for metrics that are known.
pub struct AcceptBatch {
    shard: Shard,
    batches: Vec<Vec<u8>>,
}

impl AcceptBatch {
    pub fn prepare(count: usize) -> AcceptBatch {
        let (mut near, mut far) = (Ingest::foreign(count), shard(1, 2));
        take(&mut far, &near.text);
        near.text = lines(&foreign_names(count), 1);
        far.set_time(NOW_S + 1);
        take(&mut near.shard, &near.text);
        let mut batches = Vec::new();
        while let Some(batch) = near.shard.outbox().pop(ShardId(1), true) {
            batches.push(batch);
        }
        far.counters.accepted = 0;
        AcceptBatch { shard: far, batches }
    }

    /// Points accepted.
    pub fn run(&mut self) -> usize {
        for batch in &self.batches {
            self.shard.accept_batch(batch);
        }
        usize::try_from(self.shard.counters.accepted).expect("64 bits")
    }
}

/// A pickle on its way into a shard that knows its metrics.
pub struct IngestPickle {
    shard: Shard,
    frame: Vec<u8>,
    decoder: PickleDecoder,
}

impl IngestPickle {
    pub fn prepare(count: usize) -> IngestPickle {
        let Ingest { shard, .. } = Ingest::known(count);
        let frame = pickle(&names(count), b"G\x3f\xf8\0\0\0\0\0\0", 8);
        IngestPickle { shard, frame, decoder: PickleDecoder::new() }
    }

    /// Points accepted.
    pub fn run(&mut self) -> usize {
        take_message(&mut self.shard, &mut self.decoder, &self.frame);
        usize::try_from(self.shard.counters.accepted).expect("64 bits")
    }
}

/// Points on their way into a Whisper file of three archives.
pub struct WhisperUpdate {
    header: Header,
    file: Vec<u8>,
    bases: Bases,
    job: Update,
    points: Vec<Arrival>,
    updates: usize,
}

impl WhisperUpdate {
    /// One point an update: the plan is what costs.
    pub fn plan(updates: usize) -> WhisperUpdate {
        WhisperUpdate::prepare(updates, 1)
    }

    /// An hour of points an update: the rollup is what costs.
    pub fn rollup(updates: usize) -> WhisperUpdate {
        WhisperUpdate::prepare(updates, 360)
    }

    fn prepare(updates: usize, points: u32) -> WhisperUpdate {
        let retentions = [(10, 2_160), (60, 10_080), (600, 52_560)]
            .map(|(step_s, slot_count)| Retention { step_s, slot_count })
            .to_vec();
        let spec =
            SeriesSpec { retentions, x_files_factor: 0.0, aggregation: Aggregation::Average };
        let header = Header::new(&spec).expect("good archives");
        let mut file = Vec::new();
        header.encode(&mut file);
        file.resize(usize::try_from(header.file_bytes()).expect("64 bits"), 0);
        let at = |n| {
            let timestamp_s = NOW_S - 10 * (points - n);
            Arrival { timestamp_s, arrived_s: timestamp_s, value: f64::from(n) }
        };
        let points = (0..points).map(at).collect();
        let (bases, job) = (Bases::EMPTY, Update::new());
        let mut work = WhisperUpdate { header, file, bases, job, points, updates: 1 };
        // The measured updates find a file that has been written before.
        work.run();
        work.updates = updates;
        work
    }

    /// Points written.
    pub fn run(&mut self) -> usize {
        (0..self.updates).map(|_| self.update()).sum()
    }

    fn update(&mut self) -> usize {
        self.job.begin_arrivals(&self.header, &self.bases, &self.points);
        loop {
            match self.job.step() {
                Step::Read => {
                    let (transfers, arena) = self.job.reads();
                    for t in transfers {
                        let from = usize::try_from(t.offset).expect("64 bits");
                        arena[t.start..][..t.len].copy_from_slice(&self.file[from..][..t.len]);
                    }
                }
                Step::Write => {
                    let (transfers, arena) = self.job.writes();
                    for t in transfers {
                        let to = usize::try_from(t.offset).expect("64 bits");
                        self.file[to..][..t.len].copy_from_slice(&arena[t.start..][..t.len]);
                    }
                }
                Step::Done => break,
            }
        }
        self.bases = *self.job.bases();
        self.job.outcome().points_used
    }
}
