//! The WAL writer: one thread a core that writes the log's commits, and may block.
//!
//! It takes requests in order, does each with the kernel's own answer as its outcome, and rings the
//! core. Between requests it prepares the file that will be needed next: made of its full length,
//! written with zeros once (so that later writes change no metadata), and already under the name
//! of the next segment of points, so that a rotation costs one write. A spare that was a segment
//! before needs no zeros: stale frames have another segment's identity and are ignored. The first
//! segment of a run is not named ahead: runs that end before they have committed would each leave
//! a file that looks like a log.
//!
//! A file whose write or sync failed is never written to again. The log tries again, and for long
//! if its disk is full: it logs one failure a second, and the end of them.

use std::io;
use std::path::Path;
use std::time::Instant;

use log::Level;
use rtrb::{Consumer, Producer};

use crate::disk::log_limit::LogLimit;
use crate::sys::doorbell::Doorbell;
use crate::sys::log_files::{Durability, LogDirectory, LogFile, SyncMode};
use crate::sys::ring::{FileOp, FileRing};
use crate::wal::{BLOCK_BYTES, Commit, FileName, Kind, Outcome, Part, SegmentId};

/// Bytes of zeros written at once while a file is prepared: a millisecond, which a commit that
/// comes meanwhile waits.
const FILL_BYTES: usize = 1 << 20;

/// Files kept for their next use; more are deleted.
const SPARES_MAX: usize = 2;

/// How a shard's log is written.
#[derive(Debug, Clone)]
pub struct WalWriterOptions {
    /// This life of the process.
    pub run: u64,
    /// The shard.
    pub shard: u16,
    /// Length of a segment in bytes.
    pub segment_bytes: u64,
    /// What a commit must survive.
    pub durability: Durability,
    /// Spares of earlier runs that this shard may use.
    pub spares: Vec<FileName>,
}

/// What the core asks for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each commit")]
pub enum WalRequest {
    /// Write this.
    Commit(Commit),
    /// Take the name from this segment's file.
    Retire(SegmentId),
}

/// What has become of it.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "a box would be an allocation for each commit")]
pub enum WalResponse {
    /// Each part has its outcome.
    Committed(Commit),
    /// The segment, and whether it is gone.
    Retired(SegmentId, bool),
}

/// Runs until the core's end of `from` is gone. To be called on a thread of its own, which is to
/// be unparked after each request.
pub fn run(
    directory: &Path,
    options: WalWriterOptions,
    mut from: Consumer<WalRequest>,
    mut to: Producer<WalResponse>,
    bell: &Doorbell,
) -> io::Result<()> {
    let mut writer = WalWriter::open(directory, options)?;
    loop {
        let answer = match from.pop() {
            Ok(WalRequest::Commit(mut commit)) => {
                writer.commit(&mut commit)?;
                WalResponse::Committed(commit)
            }
            Ok(WalRequest::Retire(id)) => WalResponse::Retired(id, writer.retire(id)),
            Err(_) if from.is_abandoned() => return Ok(()),
            Err(_) if writer.prepare()? => continue,
            Err(_) => {
                std::thread::park();
                continue;
            }
        };
        to.push(answer).expect("as many places for answers as for requests");
        bell.ring();
    }
}

/// The file for the next segment.
struct Prepared {
    name: FileName,
    file: LogFile,
    /// Bytes written with zeros.
    filled: u64,
}

struct WalWriter {
    directory: LogDirectory,
    options: WalWriterOptions,
    ring: FileRing,
    results: Vec<i32>,
    /// The segments that are written to.
    open: Vec<(SegmentId, LogFile)>,
    spares: Vec<FileName>,
    serial: u32,
    prepared: Option<Prepared>,
    /// Number of the segment of points that comes next.
    next_points: u32,
    /// Preparing failed; it is not tried again before something has changed.
    is_prepare_vain: bool,
    /// Commits that failed since one has succeeded.
    failures: u64,
    zeros: Vec<u8>,
    log: LogLimit,
}

fn error_of(result: i32) -> io::Error {
    if result < 0 {
        io::Error::from_raw_os_error(-result)
    } else {
        io::Error::new(io::ErrorKind::WriteZero, format!("only {result} bytes were written"))
    }
}

impl WalWriter {
    fn open(directory: &Path, mut options: WalWriterOptions) -> io::Result<WalWriter> {
        let spares = std::mem::take(&mut options.spares);
        let mut writer = WalWriter {
            directory: LogDirectory::open(directory)?,
            options,
            ring: FileRing::new()?,
            results: Vec::new(),
            open: Vec::new(),
            spares: Vec::new(),
            serial: 0,
            prepared: None,
            next_points: 1,
            is_prepare_vain: false,
            failures: 0,
            zeros: Vec::new(),
            log: LogLimit::default(),
        };
        for spare in spares {
            writer.adopt(spare);
        }
        Ok(writer)
    }

    /// Takes over a spare of an earlier run, or deletes it.
    fn adopt(&mut self, spare: FileName) {
        let name = spare.to_string();
        let file = self.directory.open_file(&name, self.options.durability);
        let is_whole = file
            .and_then(|file| file.bytes())
            .is_ok_and(|bytes| bytes == self.options.segment_bytes);
        if is_whole && self.spares.len() < SPARES_MAX {
            self.spares.push(spare);
        } else if let Err(error) = self.directory.remove(&name) {
            log::warn!("delete spare log file failed file={name} error={error}");
        }
    }

    fn commit(&mut self, commit: &mut Commit) -> io::Result<()> {
        for part in commit.parts().filter(|part| part.is_new()) {
            if let Err(error) = self.begin(part.id()) {
                self.tell("begin log segment failed", part.id(), &error);
                part.outcome = Outcome::Failed;
            }
        }
        let ready: Vec<&mut Part> = commit.parts().filter(|part| is_pending(part)).collect();
        let file_of = |open: &[(SegmentId, LogFile)], id| open.iter().position(|(of, _)| *of == id);
        let open = &self.open;
        let writes = ready.iter().filter_map(|part| {
            let (_, file) = &open[file_of(open, part.id())?];
            Some(FileOp::Write { file: file.as_fd(), offset: part.offset(), buffer: part.bytes() })
        });
        self.ring.run(writes, &mut self.results)?;
        let written = self.results.clone();
        let syncs = ready.iter().filter_map(|part| {
            let (_, file) = &open[file_of(open, part.id())?];
            (file.mode() == SyncMode::After).then_some(FileOp::Sync { file: file.as_fd() })
        });
        self.ring.run(syncs, &mut self.results)?;
        let (mut written, mut synced) = (written.into_iter(), self.results.clone().into_iter());
        for part in ready {
            let Some(index) = file_of(&self.open, part.id()) else {
                part.outcome = Outcome::Failed;
                continue;
            };
            let count = written.next().expect("one result for each write");
            let is_written = usize::try_from(count) == Ok(part.bytes().len());
            let (error, outcome) = match self.open[index].1.mode() {
                SyncMode::None => (None, Outcome::Written),
                SyncMode::WithWrite => (None, Outcome::Synced),
                SyncMode::After => {
                    let result = synced.next().expect("one result for each sync");
                    ((result < 0).then(|| error_of(result)), Outcome::Synced)
                }
            };
            let error = if is_written { error } else { Some(error_of(count)) };
            part.outcome = match error {
                None => outcome,
                Some(error) => {
                    self.tell("write log failed", part.id(), &error);
                    self.drop_broken(part);
                    Outcome::Failed
                }
            };
        }
        self.count(commit);
        Ok(())
    }

    /// A disk that takes nothing fails every try, of which the first come quickly.
    fn tell(&mut self, what: &str, id: SegmentId, error: &io::Error) {
        let text = format!("{what} segment={id} error={error}");
        self.log.tell(Level::Error, format!("{what}: {error}"), &text, Instant::now());
    }

    /// Counts commits that failed, and says when they have ended.
    fn count(&mut self, commit: &mut Commit) {
        let is_bad = |part: &mut Part| part.outcome == Outcome::Failed;
        if commit.parts().any(is_bad) {
            self.failures += 1;
        } else if self.failures > 0 {
            let shard = self.options.shard;
            log::info!("log goes on shard={shard} failed_commits={}", self.failures);
            self.failures = 0;
        }
    }

    /// Never writes to the part's file again. A new one is deleted: nothing in it is acknowledged,
    /// and replay need not read it. If that fails, too, the next try replaces it.
    fn drop_broken(&mut self, part: &Part) {
        let id = part.id();
        self.open.retain(|(of, _)| *of != id);
        if !part.is_new() {
            return;
        }
        let name = FileName::Segment(id).to_string();
        if let Err(error) = self.directory.remove(&name).and_then(|()| self.directory.sync()) {
            self.tell("delete broken log segment failed", id, &error);
        }
    }

    /// Makes the file of a new segment ready to be written to.
    fn begin(&mut self, id: SegmentId) -> io::Result<()> {
        let wanted = FileName::Segment(id);
        self.is_prepare_vain = false;
        let Prepared { name, file, .. } = match self.prepared.take() {
            Some(prepared) => prepared,
            None => self.find_file()?,
        };
        if name != wanted {
            let renamed = self
                .directory
                .rename(&name.to_string(), &wanted.to_string())
                .and_then(|()| self.directory.sync());
            if let Err(error) = renamed {
                // Under whichever name, nothing was written to it.
                let _ = self.directory.remove(&wanted.to_string());
                let _ = self.directory.remove(&name.to_string());
                return Err(error);
            }
        }
        self.open.retain(|(of, _)| of.kind != id.kind);
        self.open.push((id, file));
        if id.kind == Kind::Points {
            self.next_points = id.number + 1;
        }
        Ok(())
    }

    /// A spare, or a new file without zeros.
    fn find_file(&mut self) -> io::Result<Prepared> {
        let durability = self.options.durability;
        while let Some(name) = self.spares.pop() {
            match self.directory.open_file(&name.to_string(), durability) {
                Ok(file) => return Ok(Prepared { name, file, filled: self.options.segment_bytes }),
                Err(error) => log::warn!("open spare log file failed file={name} error={error}"),
            }
        }
        let name = self.spare_name();
        self.directory.create(&name.to_string(), self.options.segment_bytes)?;
        let file = self.directory.open_file(&name.to_string(), durability)?;
        Ok(Prepared { name, file, filled: 0 })
    }

    fn spare_name(&mut self) -> FileName {
        self.serial += 1;
        FileName::Spare { run: self.options.run, shard: self.options.shard, serial: self.serial }
    }

    /// Does the next step towards the next segment's file; false when there is none to do.
    fn prepare(&mut self) -> io::Result<bool> {
        if self.is_prepare_vain {
            return Ok(false);
        }
        let result = match self.prepared.take() {
            None => self.find_file().map(|prepared| (prepared, true)),
            Some(prepared) if prepared.filled < self.options.segment_bytes => self.fill(prepared),
            Some(prepared) => self.name_ahead(prepared),
        };
        match result {
            Ok((prepared, has_more)) => {
                self.prepared = Some(prepared);
                Ok(has_more)
            }
            Err(error) => {
                // The next commit that needs the file will find out whether it matters.
                let text = format!("prepare log segment failed error={error}");
                self.log.tell(Level::Warn, text.clone(), &text, Instant::now());
                self.is_prepare_vain = true;
                Ok(false)
            }
        }
    }

    fn fill(&mut self, mut prepared: Prepared) -> io::Result<(Prepared, bool)> {
        self.zeros.resize(FILL_BYTES + BLOCK_BYTES, 0);
        let start = self.zeros.as_ptr().align_offset(BLOCK_BYTES);
        let left = self.options.segment_bytes - prepared.filled;
        let count = usize::try_from(left).map_or(FILL_BYTES, |left| left.min(FILL_BYTES));
        let buffer = &self.zeros[start..start + count];
        let file = prepared.file.as_fd();
        let write = FileOp::Write { file, offset: prepared.filled, buffer };
        self.ring.run([write], &mut self.results)?;
        let mut result = self.results[0];
        prepared.filled += u64::try_from(result).unwrap_or(0);
        let is_full = prepared.filled >= self.options.segment_bytes;
        if is_full && prepared.file.mode() == SyncMode::After {
            self.ring.run([FileOp::Sync { file: prepared.file.as_fd() }], &mut self.results)?;
            result = self.results[0];
        }
        if result < 0 {
            self.directory.remove(&prepared.name.to_string())?;
            return Err(error_of(result));
        }
        Ok((prepared, true))
    }

    /// Gives a prepared file the name of the next segment of points, if there was one before.
    fn name_ahead(&mut self, mut prepared: Prepared) -> io::Result<(Prepared, bool)> {
        let WalWriterOptions { run, shard, .. } = self.options;
        let id = SegmentId { run, shard, kind: Kind::Points, number: self.next_points };
        let wanted = FileName::Segment(id);
        if prepared.name == wanted || self.next_points == 1 {
            return Ok((prepared, false));
        }
        self.directory.rename(&prepared.name.to_string(), &wanted.to_string())?;
        prepared.name = wanted;
        self.directory.sync()?;
        Ok((prepared, false))
    }

    /// Takes the name from a segment's file, for good.
    fn retire(&mut self, id: SegmentId) -> bool {
        let name = FileName::Segment(id).to_string();
        self.open.retain(|(of, _)| *of != id);
        let spare = (self.spares.len() < SPARES_MAX).then(|| self.spare_name());
        let changed = match spare {
            Some(spare) => self.directory.rename(&name, &spare.to_string()),
            None => self.directory.remove(&name),
        };
        match changed {
            Ok(()) => self.spares.extend(spare),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                self.tell("retire log segment failed", id, &error);
                return false;
            }
        }
        self.is_prepare_vain = false;
        let synced = self.directory.sync();
        synced.inspect_err(|error| log::error!("sync log directory failed error={error}")).is_ok()
    }
}

fn is_pending(part: &Part) -> bool {
    part.outcome == Outcome::Pending
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::point::{Arrival, Point};
    use crate::sys::doorbell::doorbell;
    use crate::wal::{BootId, Confirmed, Log, Mark, Options, Replay, logs};
    use rtrb::RingBuffer;
    use std::path::PathBuf;
    use std::thread::JoinHandle;
    use std::time::Duration;

    const SEGMENT_BYTES: u32 = 128 << 10;

    /// A log with its writer thread.
    struct Node {
        log: Log,
        requests: Producer<WalRequest>,
        answers: Consumer<WalResponse>,
        thread: JoinHandle<io::Result<()>>,
        mark: Mark,
    }

    fn place(name: &str) -> PathBuf {
        let path =
            std::env::temp_dir().join(format!("carbyne-writer-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    fn file_names(path: &Path) -> Vec<FileName> {
        let names = LogDirectory::open(path).unwrap().names().unwrap();
        names.iter().map(|name| FileName::parse(name).expect("only our files")).collect()
    }

    impl Node {
        fn start(path: &Path, durability: Durability) -> Node {
            let files = file_names(path);
            let run_number = files.iter().map(FileName::run).max().unwrap_or(0) + 1;
            let is_spare = |file: &&FileName| matches!(file, FileName::Spare { .. });
            let inherited = files.iter().filter(|file| !is_spare(file)).count();
            let log = Log::new(Options {
                run: run_number,
                shard: 0,
                shard_count: 1,
                segment_bytes: SEGMENT_BYTES,
                segments_max: 20,
                buffer_bytes: 32 << 10,
                inherited_segments: None,
                boot_id: BootId::default(),
            });
            assert!(inherited == 0 || run_number > 1);
            let (requests, from) = RingBuffer::new(4);
            let (to, answers) = RingBuffer::new(4);
            let options = WalWriterOptions {
                run: run_number,
                shard: 0,
                segment_bytes: u64::from(SEGMENT_BYTES),
                durability,
                spares: files.iter().filter(is_spare).copied().collect(),
            };
            let path = path.to_owned();
            let thread = std::thread::spawn(move || {
                let (bell, _ear) = doorbell().unwrap();
                run(&path, options, from, to, &bell)
            });
            Node { log, requests, answers, thread, mark: Mark::default() }
        }

        fn ask(&mut self, request: WalRequest) -> WalResponse {
            self.requests.push(request).unwrap();
            self.thread.thread().unpark();
            let deadline = Instant::now() + Duration::from_secs(30);
            loop {
                match self.answers.pop() {
                    Ok(answer) => return answer,
                    Err(_) => assert!(Instant::now() < deadline, "the writer does not answer"),
                }
                std::thread::yield_now();
            }
        }

        fn append(&mut self, timestamp_s: u32) -> Point {
            let point = Point { timestamp_s, value: f64::from(timestamp_s) };
            self.log.append(&mut self.mark, || b"a.b.c", point).unwrap();
            point
        }

        /// One commit; true when it succeeded.
        fn commit(&mut self, now: Instant) -> bool {
            let Some(commit) = self.log.take_commit(now, 1) else { return false };
            let before = self.log.counters().commits;
            match self.ask(WalRequest::Commit(commit)) {
                WalResponse::Committed(commit) => self.log.committed(commit, now),
                WalResponse::Retired(id, _) => panic!("{id} was not to be retired"),
            }
            self.log.counters().commits > before
        }

        fn retire_all(&mut self) {
            self.log.checkpoint_begun();
            self.log.checkpoint_done(true);
            assert!(self.commit(Instant::now()), "a frame tells what is retired");
            while let Some(id) = self.log.take_retired() {
                match self.ask(WalRequest::Retire(id)) {
                    WalResponse::Retired(gone, is_ok) => self.log.retired(gone, is_ok),
                    WalResponse::Committed(_) => panic!("nothing was to be committed"),
                }
            }
        }

        fn stop(self) {
            drop(self.requests);
            self.thread.thread().unpark();
            self.thread.join().unwrap().unwrap();
        }
    }

    fn read(path: &Path) -> Vec<Point> {
        let directory = LogDirectory::open(path).unwrap();
        let bytes = |id| directory.read(&FileName::Segment(id).to_string()).unwrap().0;
        let (mut found, confirmed) = (Vec::new(), Confirmed::new(BootId::default()));
        for log in logs(&file_names(path)) {
            let mut replay = Replay::new(log.clone());
            log.names.iter().for_each(|id| replay.add_names(*id, &bytes(*id)));
            let _ = log.points.iter().rev().any(|id| replay.look(*id, &bytes(*id)));
            for id in &log.points {
                let mut cursor = replay.begin(*id, &bytes(*id));
                let mut take = |_: &[u8], point: Arrival, _| found.push(point.point());
                while replay.next_frame(&mut cursor, &bytes(*id), &confirmed, &mut take) {}
            }
            let report = replay.finish();
            assert_eq!(report.problem_count, 0, "{:?}", report.problems);
        }
        found
    }

    fn writes_rotates_retires_and_reads_back(durability: Durability) {
        let path = place(&format!("{durability:?}"));
        let mut node = Node::start(&path, durability);
        let mut points = Vec::new();
        for time in 1..=100 {
            points.push(node.append(time));
            assert!(node.commit(Instant::now()));
        }
        let counters = node.log.counters();
        let is_power = durability != Durability::Process;
        assert_eq!((counters.written_points, counters.failed_commits), (100, 0));
        assert_eq!(counters.synced_points, if is_power { 100 } else { 0 });
        assert_eq!(read(&path), points);
        // 31 commits fill a segment: three go, two of them to be used again.
        node.retire_all();
        assert_eq!(node.log.counters().retired_segments, 3);
        for time in 101..=140 {
            points.push(node.append(time));
            assert!(node.commit(Instant::now()));
        }
        node.stop();
        assert_eq!(read(&path), points[93..]);
        let files = file_names(&path);
        let lengths =
            files.iter().map(|file| path.join(file.to_string()).metadata().unwrap().len());
        assert!(lengths.into_iter().all(|bytes| bytes == u64::from(SEGMENT_BYTES)));
        assert!(files.len() <= 6, "{files:?}");
        // The next run finds it all, and begins in files that were used before.
        let mut node = Node::start(&path, durability);
        points.push(node.append(141));
        assert!(node.commit(Instant::now()));
        node.stop();
        assert_eq!(read(&path), points[93..]);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn direct_writes_come_back() {
        writes_rotates_retires_and_reads_back(Durability::Power);
    }

    #[test]
    fn buffered_and_synced_writes_come_back() {
        writes_rotates_retires_and_reads_back(Durability::PowerBuffered);
    }

    #[test]
    fn writes_for_a_crash_of_the_process_come_back() {
        writes_rotates_retires_and_reads_back(Durability::Process);
    }

    #[test]
    fn runs_that_end_before_they_commit_leave_one_spare() {
        let path = place("early");
        std::fs::create_dir_all(&path).unwrap();
        for run in 1..=5 {
            let options = WalWriterOptions {
                run,
                shard: 0,
                segment_bytes: u64::from(SEGMENT_BYTES),
                durability: Durability::Process,
                spares: file_names(&path),
            };
            let mut writer = WalWriter::open(&path, options).unwrap();
            while writer.prepare().unwrap() {}
            let files = file_names(&path);
            assert!(matches!(files[..], [FileName::Spare { .. }]), "run {run}: {files:?}");
        }
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn nothing_is_lost_while_no_file_can_be_made() {
        let path = place("vanished");
        let mut node = Node::start(&path, Durability::Power);
        std::fs::create_dir_all(&path).unwrap();
        let aside = path.with_extension("aside");
        let _ = std::fs::remove_dir_all(&aside);
        while file_names(&path).is_empty() {
            std::thread::yield_now();
        }
        let mut points: Vec<Point> = (1..=40).map(|time| node.append(time)).collect();
        std::fs::rename(&path, &aside).unwrap();
        let mut now = Instant::now();
        for _ in 0..3 {
            assert!(!node.commit(now), "there is no directory");
            now += Duration::from_secs(10);
        }
        assert_eq!(node.log.counters().failed_commits, 3);
        std::fs::rename(&aside, &path).unwrap();
        points.push(node.append(41));
        // First what had failed, then what came meanwhile.
        assert!(node.commit(now) && node.commit(now));
        assert!(node.log.is_settled());
        node.stop();
        assert_eq!(read(&path), points);
        std::fs::remove_dir_all(path).unwrap();
    }
}
