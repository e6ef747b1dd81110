//! Reading the logs of earlier runs, on the main thread, before anything is received.
//!
//! All segments are read twice: first for what is in files already, then for the points that are
//! not. One segment at a time is in memory. Its points go in batches to the cores that own them
//! now, over one bounded link each whose buffers come back: a core that has no room takes none
//! until its flush has made some, and the reading waits.

use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::fatal::{Fatal, die};
use crate::metric::batch;
use crate::metric::owner::owner;
use crate::shard::Replayed;
use crate::sys::doorbell::Doorbell;
use crate::sys::log_files::LogDirectory;
use crate::wal::{
    BootId, Confirmed, FileName, Kind, LogFiles, Position, Replay, Report, SegmentId, logs,
};

/// Buffers of one link, and when one is sent.
const BUFFERS: usize = 4;
const BATCH_BYTES: usize = 64 << 10;

/// Time between two looks for a buffer that comes back.
const LINK_PAUSE: Duration = Duration::from_millis(1);

/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Problems that are named in the log, of each log that was read; all are counted.
const PROBLEMS_TOLD: usize = 20;

/// The main thread's end of the link to one core.
pub struct Feeder {
    to: Producer<Replayed>,
    spent: Consumer<Replayed>,
    bell: Doorbell,
    open: Replayed,
    /// Buffers that are with the core.
    out: usize,
}

/// Makes the link to the core that has this doorbell.
pub fn link(bell: Doorbell) -> (Feeder, ReplayFeed) {
    let (to, batches) = RingBuffer::new(BUFFERS);
    let (back, spent) = RingBuffer::new(BUFFERS);
    let open = Replayed::default();
    (Feeder { to, spent, bell, open, out: 0 }, ReplayFeed { batches, spent: back })
}

impl Feeder {
    fn send(&mut self, pause: &mut impl FnMut(Duration)) {
        if self.open.bytes.is_empty() {
            return;
        }
        let next = loop {
            if let Ok(spent) = self.spent.pop() {
                self.out -= 1;
                break spent;
            }
            if self.out < BUFFERS {
                let bytes = Vec::with_capacity(BATCH_BYTES + 2 * batch::RECORD_BYTES_MAX);
                break Replayed { bytes, through: Position::default() };
            }
            pause(LINK_PAUSE);
        };
        let full = std::mem::replace(&mut self.open, next);
        self.to.push(full).expect("as many places as buffers");
        self.out += 1;
        self.bell.ring();
    }

    /// Waits until the core has taken everything.
    fn settle(&mut self, pause: &mut impl FnMut(Duration)) {
        self.send(pause);
        while self.out > 0 {
            match self.spent.pop() {
                Ok(_) => self.out -= 1,
                Err(_) => pause(LINK_PAUSE),
            }
        }
    }
}

/// The end of the link on which points of earlier runs come.
pub struct ReplayFeed {
    /// Batches of points.
    pub batches: Consumer<Replayed>,
    /// The same buffers, emptied.
    pub spent: Producer<Replayed>,
}

/// What a recovery leaves to do.
#[derive(Debug, Default)]
pub struct Recovered {
    /// Points known to be lost: those that are missing in between, and those whose name is.
    pub lost_points: u64,
    /// The clock's time when the last point arrived, in seconds since the epoch; 0: there is none.
    pub last_arrived_s: u32,
    /// Segments whose files may hold more than was read of them, and those with the names of their
    /// points.
    pub damaged: Vec<SegmentId>,
}

/// What all logs together had.
#[derive(Debug, Default)]
struct Totals {
    logs: u64,
    points: u64,
    confirmed: u64,
    last_arrived_s: u32,
    names: u64,
    problems: u64,
    lost: u64,
    unresolved: u64,
    cut_bytes: u64,
}

struct Reader<'a> {
    directory: &'a LogDirectory,
    confirmed: Confirmed,
    files: usize,
    files_read: usize,
    begun: Instant,
    told: Instant,
    totals: Totals,
    damaged: Vec<SegmentId>,
}

/// Hands every point of these files that is not in its Whisper file to its owner, and returns when
/// all are taken. `pause` waits, and looks whether the process is to end.
pub fn recover(
    directory: &LogDirectory,
    files: &[FileName],
    boot_id: BootId,
    feeders: &mut [Feeder],
    mut pause: impl FnMut(Duration),
) -> Recovered {
    let logs = logs(files);
    let now = Instant::now();
    let files: usize = logs.iter().map(|log| log.names.len() + log.points.len()).sum();
    let mut reader = Reader {
        directory,
        confirmed: Confirmed::new(boot_id),
        files: 2 * files,
        files_read: 0,
        begun: now,
        told: now,
        totals: Totals::default(),
        damaged: Vec::new(),
    };
    log::info!("replaying log logs={} files={files}", logs.len());
    for log in &logs {
        reader.sync(log);
        reader.survey(log, &mut pause);
    }
    reader.confirmed.end_survey();
    for log in logs {
        reader.read(log, feeders, &mut pause);
    }
    feeders.iter_mut().for_each(|feeder| feeder.settle(&mut pause));
    reader.tell_end();
    let Totals { lost, unresolved, last_arrived_s, .. } = reader.totals;
    Recovered { lost_points: lost + unresolved, last_arrived_s, damaged: reader.damaged }
}

impl Reader<'_> {
    /// A replay of one log that knows its names, and what was retired and synced.
    fn open(&mut self, files: &LogFiles, pause: &mut impl FnMut(Duration)) -> Replay {
        let mut replay = Replay::new(files.clone());
        for &id in &files.names {
            let (bytes, bad_bytes) = self.bytes(id);
            if bad_bytes > 0 {
                replay.add_unreadable(id, bad_bytes);
            }
            replay.add_names(id, &bytes);
            self.read_one(pause);
        }
        let tells = |&&id: &&SegmentId| replay.look(id, &self.bytes(id).0);
        let _ = files.points.iter().rev().find(tells);
        replay
    }

    /// Brings a log to stable storage: what is read of it now counts, and must be there again after
    /// a loss of power.
    fn sync(&self, files: &LogFiles) {
        for &id in files.names.iter().chain(&files.points) {
            if let Err(error) = self.directory.sync_file(&FileName::Segment(id).to_string()) {
                log::warn!("sync log segment {id} failed error={error}");
            }
        }
    }

    fn survey(&mut self, files: &LogFiles, pause: &mut impl FnMut(Duration)) {
        let mut replay = self.open(files, pause);
        for &id in &files.points {
            let (bytes, _) = self.bytes(id);
            replay.survey(id, &bytes, &mut self.confirmed);
            self.read_one(pause);
        }
        replay.end_survey(&mut self.confirmed);
    }

    fn read(&mut self, files: LogFiles, feeders: &mut [Feeder], pause: &mut impl FnMut(Duration)) {
        let shards = u16::try_from(feeders.len()).expect("shards are numbered in 16 bits");
        let mut replay = self.open(&files, pause);
        replay.resolve(&self.confirmed);
        let LogFiles { run, shard, .. } = files;
        for &id in &files.points {
            let (bytes, bad_bytes) = self.bytes(id);
            if bad_bytes > 0 {
                replay.add_unreadable(id, bad_bytes);
            }
            let mut cursor = replay.begin(id, &bytes);
            while replay.next_frame(
                &mut cursor,
                &bytes,
                &self.confirmed,
                |name, arrival, record| {
                    let feeder = &mut feeders[owner(name, shards).index()];
                    batch::push_arrival(&mut feeder.open.bytes, name, arrival);
                    feeder.open.through = Position { run, shard, record };
                    if feeder.open.bytes.len() >= BATCH_BYTES {
                        feeder.send(pause);
                    }
                },
            ) {
                self.tell_progress();
            }
            self.read_one(pause);
        }
        let report = replay.finish();
        self.tell(&files, &report);
        let mut kept = report.damaged;
        if kept.iter().any(|id| id.kind == Kind::Points) {
            kept.extend(files.names);
        }
        self.damaged.extend(kept);
    }

    /// A segment's bytes, and how many of them the disk cannot give: zeros. But a file that is
    /// there and cannot be opened is whole perhaps, and would be deleted with the others last.
    fn bytes(&self, id: SegmentId) -> (Vec<u8>, u64) {
        let name = FileName::Segment(id).to_string();
        self.directory.read(&name).unwrap_or_else(|error| {
            let text = format!(
                "read log segment {id}: {error}; make it readable, or move it away and lose what \
                 is in it"
            );
            die(Fatal::Preflight, &text)
        })
    }

    fn read_one(&mut self, pause: &mut impl FnMut(Duration)) {
        self.files_read += 1;
        self.tell_progress();
        pause(Duration::ZERO);
    }

    fn tell_progress(&mut self) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            let percent = self.files_read * 100 / self.files.max(1);
            log::info!("replaying log percent={percent} files={}", self.files_read);
        }
    }

    fn tell(&mut self, files: &LogFiles, report: &Report) {
        for problem in report.problems.iter().take(PROBLEMS_TOLD) {
            log::warn!("log damaged {problem}");
        }
        let told = report.problems.len().min(PROBLEMS_TOLD) as u64;
        if report.problem_count > told {
            let more = report.problem_count - told;
            log::warn!("log damaged run={} shard={} more={more}", files.run, files.shard);
        }
        let totals = &mut self.totals;
        totals.logs += 1;
        totals.points += report.points;
        totals.confirmed += report.confirmed_points;
        totals.last_arrived_s = totals.last_arrived_s.max(report.last_arrived_s);
        totals.names += report.names;
        totals.problems += report.problem_count;
        totals.lost += report.lost_points;
        totals.unresolved += report.unresolved_points;
        totals.cut_bytes += report.cut_bytes;
    }

    fn tell_end(&self) {
        let Totals {
            logs, points, confirmed, names, problems, lost, unresolved, cut_bytes, ..
        } = self.totals;
        let is_damaged = lost + unresolved > 0 || !self.damaged.is_empty();
        let level = if is_damaged { log::Level::Warn } else { log::Level::Info };
        log::log!(
            level,
            "replayed log logs={logs} files={} points={points} confirmed={confirmed} \
             names={names} problems={problems} lost={lost} unresolved={unresolved} \
             cut_bytes={cut_bytes} elapsed_s={:.2}",
            self.files / 2,
            self.begun.elapsed().as_secs_f64(),
        );
    }
}
