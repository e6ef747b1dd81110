//! One shard's log: points in, commits out, and what has become of them back in.
//!
//! Nothing here waits, reads a clock or touches a file. A commit has everything gathered since
//! the one before it, and there is one at a time: the order on disk is the order of arrival. What
//! a commit carries stays in memory until it has succeeded. When a write fails, its file is never
//! written to again, and the same frames go to a new file under new headers: the next segment, or,
//! if the segment was new, the same segment, whose file the new one replaces.

use std::time::{Duration, Instant};

use crate::metric::mark::Mark;
use crate::metric::point::{Arrival, Point};
use crate::wal::BLOCK_BYTES;
use crate::wal::buffer::Buffer;
use crate::wal::commit::{Commit, Counters, Full, Options, Outcome, Part, Told};
use crate::wal::position::Position;
use crate::wal::record::{put_checkpoint, put_confirm, put_rewrite};
use crate::wal::segment::{Kind, SegmentHeader, SegmentId};
use crate::wal::segments::{Pressure, RESERVE_SEGMENTS, Segments};

/// After a failed commit the first retry comes at once, in a new segment; then the wait doubles.
const RETRY_TIME_FIRST: Duration = Duration::from_millis(100);

/// Longest wait before a retry: when space returns, the log goes on so soon.
const RETRY_TIME_MAX: Duration = Duration::from_secs(5);

/// A dictionary is begun anew when it has this many names; two billion stay within 32 bits.
const NAMES_MAX: u32 = 1 << 31;

/// Files that the names of a dictionary may be in however few they are.
const NAMES_FILES_MIN: u64 = 4;

/// One of the two chains of segments.
#[derive(Debug)]
struct Stream {
    kind: Kind,
    /// Gathers.
    open: Buffer,
    /// Takes its place while a commit is under way; `None` meanwhile.
    spare: Option<Buffer>,
    /// Waits to be written, for the first time or after a failure.
    ready: Option<Buffer>,
    /// The segment that is written to; `None`: the next commit begins a new one.
    place: Option<Place>,
    /// Number of the last segment tried, and of the last that a commit succeeded in.
    last_tried: u32,
    last_good: u32,
    /// The dictionary of `last_good`.
    last_epoch: u32,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    number: u32,
    epoch: u32,
    next_block: u32,
}

impl Stream {
    fn new(kind: Kind, buffer_bytes: usize) -> Stream {
        let mut open = Buffer::new(2 * buffer_bytes);
        open.epoch = 1;
        Stream {
            kind,
            open,
            spare: Some(Buffer::new(2 * buffer_bytes)),
            ready: None,
            place: None,
            last_tried: 0,
            last_good: 0,
            last_epoch: 0,
        }
    }

    /// Closes what was gathered and takes it for the next commit.
    fn gather(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let spare = self.spare.take().expect("nothing is ready or in flight");
        let mut full = std::mem::replace(&mut self.open, spare);
        match self.kind {
            // A name stands for all points of its metric: one bad sector must not cost it.
            Kind::Names => full.close_twice(),
            Kind::Points => full.close_frame(),
        }
        self.ready = Some(full);
    }

    /// Whether what is ready needs a new segment.
    fn needs_segment(&self, segment_bytes: u32) -> bool {
        let Some(ready) = &self.ready else { return false };
        let Some(place) = self.place else { return true };
        let end = place.next_block as usize * BLOCK_BYTES + ready.frames_bytes();
        place.epoch != ready.epoch || end > segment_bytes as usize
    }

    fn memory_bytes(&self) -> usize {
        let others = self.spare.iter().chain(&self.ready);
        self.open.memory_bytes() + others.map(Buffer::memory_bytes).sum::<usize>()
    }
}

/// A shard's log.
#[derive(Debug)]
pub struct Log {
    options: Options,
    names: Stream,
    points: Stream,
    segments: Segments,
    /// The dictionary that new names go to, and the last number it gave.
    epoch: u32,
    last_number: u32,
    /// Bytes of names in the dictionary, and of those whose metric was forgotten.
    epoch_bytes: u64,
    epoch_dead_bytes: u64,
    /// Points given a place in the order, received or logged again.
    last_record: u64,
    /// The last of them when the commit under way was gathered, in a commit that succeeded, and of
    /// those that were logged again.
    commit_record: u64,
    committed_record: u64,
    rewritten_record: u64,
    /// The last sync of the Whisper files that the log says to have begun, the one under way, the
    /// last that succeeded, and the last that a committed frame says has succeeded.
    last_checkpoint: u32,
    open_checkpoint: Option<u32>,
    commit_checkpoint: u32,
    committed_checkpoint: u32,
    synced_checkpoint: u32,
    told_checkpoint: u32,
    /// A frame is due that says what has succeeded, even without a record.
    must_tell: bool,
    is_in_flight: bool,
    /// Received points of the commit under way, and whether all of it so far is synced.
    commit_points: u64,
    commit_synced: bool,
    failures_in_a_row: u32,
    not_before: Option<Instant>,
    counters: Counters,
}

impl Log {
    /// A log that has written nothing yet.
    pub fn new(options: Options) -> Log {
        let segment_bytes = options.segment_bytes as usize;
        assert!(options.run > 0, "runs are counted from 1");
        assert!(segment_bytes.is_multiple_of(BLOCK_BYTES), "a segment is whole blocks");
        assert!(
            2 * options.buffer_bytes <= segment_bytes,
            "a commit of 2 x {} bytes must fit into a segment of {segment_bytes}",
            options.buffer_bytes
        );
        assert!(
            options.segments_max >= 2 * RESERVE_SEGMENTS + 2,
            "{} segments are too few to go on with while one is retired",
            options.segments_max
        );
        let Options { run, shard, segments_max, inherited_segments, .. } = options;
        Log {
            names: Stream::new(Kind::Names, options.buffer_bytes),
            points: Stream::new(Kind::Points, options.buffer_bytes),
            segments: Segments::new(run, shard, segments_max, inherited_segments),
            options,
            epoch: 1,
            last_number: 0,
            epoch_bytes: 0,
            epoch_dead_bytes: 0,
            last_record: 0,
            commit_record: 0,
            committed_record: 0,
            rewritten_record: 0,
            last_checkpoint: 0,
            open_checkpoint: None,
            commit_checkpoint: 0,
            committed_checkpoint: 0,
            synced_checkpoint: 0,
            told_checkpoint: 0,
            must_tell: false,
            is_in_flight: false,
            commit_points: 0,
            commit_synced: true,
            failures_in_a_row: 0,
            not_before: None,
            counters: Counters::default(),
        }
    }

    /// The options it was made with.
    pub fn options(&self) -> &Options {
        &self.options
    }

    /// Adds a point of the metric that `mark` belongs to, received now. Returns the number of the
    /// segment to hold as long as the point waits, if no older one is held for the metric. The
    /// metric's name is asked for when the dictionary lacks it.
    pub fn append<'n>(
        &mut self,
        mark: &mut Mark,
        name: impl FnOnce() -> &'n [u8],
        point: Point,
    ) -> Result<u32, Full> {
        let segment = self.put(mark, name, point)?;
        self.points.open.received_count += 1;
        self.counters.received_points += 1;
        Ok(segment)
    }

    /// Adds a received point that found no room when it came, as [`Log::append`] does.
    pub fn append_late<'n>(
        &mut self,
        mark: &mut Mark,
        name: impl FnOnce() -> &'n [u8],
        point: Arrival,
    ) -> Result<u32, Full> {
        if !self.points.open.has_room_for(1) {
            return Err(Full);
        }
        if mark.epoch != self.epoch {
            self.name(mark, name())?;
        }
        let first = self.last_record + 1;
        self.points.open.put_former(mark.number, point, first);
        self.points.open.end_former(first);
        self.last_record = first;
        self.points.open.received_count += 1;
        self.counters.received_points += 1;
        Ok(self.segments.current())
    }

    /// The clock shows this time: points appended from now on have arrived then.
    pub fn set_time(&mut self, now_s: u32) {
        self.points.open.set_clock(now_s, self.last_record + 1);
    }

    /// Where the last point is; what is taken out of the cache now is in the log up to here.
    pub fn position(&self) -> Position {
        let Options { run, shard, .. } = self.options;
        Position { run, shard, record: self.last_record }
    }

    /// Says that all points of a metric up to a position are in its file. After a kill that is
    /// known from when it is committed, after a loss of power from when a checkpoint that began
    /// later has succeeded, too.
    pub fn confirm<'n>(
        &mut self,
        mark: &mut Mark,
        name: impl FnOnce() -> &'n [u8],
        through: Position,
    ) -> Result<(), Full> {
        if mark.epoch != self.epoch {
            self.name(mark, name())?;
        }
        let position = self.position();
        let is_own = (through.run, through.shard) == (position.run, position.shard);
        let back = position.record.checked_sub(through.record).filter(|_| is_own);
        let back = back.and_then(|back| u32::try_from(back).ok());
        let put = |out: &mut [u8], previous: &mut _| {
            put_confirm(out, previous, mark.number, (through, back))
        };
        if !self.points.open.put_note(self.last_record + 1, put) {
            return Err(Full);
        }
        self.counters.confirmations += 1;
        Ok(())
    }

    /// Adds all waiting points of a metric again, in the order of their arrival, so that an old
    /// segment that holds them can go, or that those before them are known to be in their file.
    /// Returns the segment to hold; what was held can be released then. When it is full nothing
    /// has happened.
    pub fn rewrite<'n>(
        &mut self,
        mark: &mut Mark,
        name: impl FnOnce() -> &'n [u8],
        points: &[Arrival],
    ) -> Result<u32, Full> {
        if self.segments.is_beyond() || !self.points.open.has_room_for(points.len()) {
            return Err(Full);
        }
        if mark.epoch != self.epoch {
            self.name(mark, name())?;
        }
        let (number, through) = (mark.number, self.position());
        let count = u32::try_from(points.len()).expect("a chain counts its points in 32 bits");
        let open = &mut self.points.open;
        let first = self.last_record + 1;
        let mut is_put =
            open.put_note(first, |out, previous| put_rewrite(out, previous, number, count));
        for &point in points {
            open.put_former(number, point, self.last_record + 1);
            self.last_record += 1;
        }
        open.end_former(self.last_record + 1);
        let confirm = |out: &mut [u8], previous: &mut _| {
            put_confirm(out, previous, number, (through, Some(count)))
        };
        is_put &= open.put_note(self.last_record + 1, confirm);
        assert!(is_put, "room was made for the notes around points that are logged again");
        self.rewritten_record = self.last_record;
        self.counters.rewritten_points += u64::from(count);
        Ok(self.segments.current())
    }

    /// Whether `count` points of a metric can be logged again together, if the log has room.
    pub fn may_rewrite(&self, count: usize) -> bool {
        self.points.open.could_take(count)
    }

    fn put<'n>(
        &mut self,
        mark: &mut Mark,
        name: impl FnOnce() -> &'n [u8],
        point: Point,
    ) -> Result<u32, Full> {
        if mark.epoch != self.epoch {
            // Every metric comes by here once before it has a point in the log.
            assert!(!self.segments.is_reading(), "new points would be lost behind old ones");
            self.name(mark, name())?;
        }
        if !self.points.open.put_point(mark.number, point, self.last_record + 1) {
            return Err(Full);
        }
        self.last_record += 1;
        Ok(self.segments.current())
    }

    #[cold]
    fn name(&mut self, mark: &mut Mark, name: &[u8]) -> Result<(), Full> {
        let number = self.last_number + 1;
        if !self.names.open.put_name(number, name) {
            return Err(Full);
        }
        self.last_number = number;
        self.epoch_bytes += name.len() as u64;
        self.counters.names += 1;
        *mark = Mark { number, epoch: self.epoch };
        Ok(())
    }

    /// The metric of this mark is forgotten, and its name is dead. When most names of a dictionary
    /// are dead, a new dictionary begins.
    pub fn forget(&mut self, mark: Mark, name: &[u8]) {
        if mark.epoch == self.epoch {
            self.epoch_dead_bytes += name.len() as u64;
        }
    }

    /// Receivers must wait: commits or flushes are too slow.
    pub fn is_full(&self) -> bool {
        let bytes = self.names.open.frames_bytes().max(self.points.open.frames_bytes());
        bytes >= self.options.buffer_bytes || self.segments.is_full()
    }

    /// Whether only the reserve is left of its files.
    pub fn is_out_of_files(&self) -> bool {
        !self.segments.is_reading() && self.segments.is_full()
    }

    /// Bytes gathered for the next commit.
    pub fn waiting_bytes(&self) -> usize {
        self.names.open.frames_bytes() + self.points.open.frames_bytes()
    }

    /// Everything received is committed, and the log is not stuck.
    pub fn is_settled(&self) -> bool {
        let is_empty = |stream: &Stream| stream.open.is_empty() && stream.ready.is_none();
        let is_idle = !self.is_in_flight && is_empty(&self.names) && is_empty(&self.points);
        is_idle && !self.is_stuck() && !self.must_tell
    }

    /// No point waits for its file, and names fill the log: failed commits have left them in many
    /// files. Receivers wait until these go. So a new dictionary begins without a name, and a new
    /// segment without a point; then the old files are not needed.
    fn is_stuck(&self) -> bool {
        let is_old =
            self.segments.names_files(self.epoch) > 0 || self.segments.is_before_epoch(self.epoch);
        self.segments.is_full_of_names() && is_old
    }

    /// The next commit, unless one is under way, there is nothing to commit or to tell, a failure
    /// was too short ago, or there is no room for another segment. To be called once an interval,
    /// and after each commit for as long as there is something.
    pub fn take_commit(&mut self, now: Instant, now_s: u32) -> Option<Commit> {
        if self.is_in_flight || self.not_before.is_some_and(|time| now < time) {
            return None;
        }
        if self.names.ready.is_none() && self.points.ready.is_none() {
            self.gather();
        }
        let segment_bytes = self.options.segment_bytes;
        let streams = [&self.names, &self.points];
        let files = streams.iter().filter(|stream| stream.needs_segment(segment_bytes)).count();
        let files = u32::try_from(files).expect("two at most");
        // What lets files go may always be said.
        let is_heir_done =
            self.segments.has_inheritance() && self.segments.is_inheritance_released();
        let is_untold = self.told_checkpoint < self.synced_checkpoint;
        let has_to_tell = self.is_stuck() || (is_heir_done && is_untold);
        if !self.segments.has_room(files, has_to_tell) {
            return None;
        }
        let names = self.place(Kind::Names, now_s);
        let points = self.place(Kind::Points, now_s);
        self.is_in_flight = names.is_some() || points.is_some();
        self.is_in_flight.then_some(Commit { names, points })
    }

    /// Closes the open buffers for the next commit, and the dictionary if it is due.
    fn gather(&mut self) {
        self.commit_points = self.points.open.received_count;
        self.commit_record = self.last_record;
        self.commit_checkpoint = self.last_checkpoint;
        self.commit_synced = true;
        let is_stuck = self.is_stuck();
        let must_tell = std::mem::take(&mut self.must_tell);
        let has_to_tell = self.segments.has_to_tell() || must_tell;
        if self.points.open.is_empty() && (has_to_tell || is_stuck) {
            self.points.open.put_nothing(self.last_record + 1);
        }
        let clock_s = self.points.open.clock_s();
        self.names.gather();
        self.points.gather();
        self.points.open.set_clock(clock_s, self.last_record + 1);
        let segment_bytes = u64::from(self.options.segment_bytes);
        let is_mostly_dead =
            self.epoch_bytes >= segment_bytes && self.epoch_dead_bytes * 2 > self.epoch_bytes;
        // Each name is written twice, and files that broke hold little.
        let fair_files = NAMES_FILES_MIN + 4 * self.epoch_bytes / segment_bytes;
        let is_scattered = self.segments.names_files(self.epoch) > fair_files;
        let is_to_shrink = is_stuck && self.segments.names_files(self.epoch) > 0;
        if is_mostly_dead || is_scattered || is_to_shrink || self.last_number >= NAMES_MAX {
            self.epoch += 1;
            self.counters.renewals += 1;
            (self.last_number, self.epoch_bytes, self.epoch_dead_bytes) = (0, 0, 0);
        }
        (self.names.open.epoch, self.points.open.epoch) = (self.epoch, self.epoch);
    }

    /// Gives what is ready its place in a segment.
    fn place(&mut self, kind: Kind, now_s: u32) -> Option<Part> {
        let Options { run, shard, shard_count, segment_bytes, boot_id, .. } = self.options;
        let is_new = self.stream(kind).needs_segment(segment_bytes);
        let told = Told {
            oldest_live: self.segments.oldest_live(),
            synced_checkpoint: self.synced_checkpoint,
        };
        let mut buffer = self.stream(kind).ready.take()?;
        let number = if is_new { self.begin(kind, buffer.epoch) } else { 0 };
        let stream = self.stream(kind);
        let id = |number| SegmentId { run, shard, kind, number };
        let (id, block) = match stream.place {
            Some(place) if !is_new => (id(place.number), place.next_block),
            _ => (id(number), 0),
        };
        buffer.place(id, block.max(1), (told.oldest_live, told.synced_checkpoint));
        if is_new {
            let is_chained = kind == Kind::Points || stream.last_epoch == buffer.epoch;
            let header = SegmentHeader {
                id,
                shard_count,
                epoch: buffer.epoch,
                previous: if is_chained { stream.last_good } else { 0 },
                begun_s: now_s,
                segment_bytes: u64::from(segment_bytes),
                boot_id,
            };
            header.encode(buffer.header_block());
        }
        Some(Part { id, block, told, buffer, outcome: Outcome::Pending })
    }

    /// Counts a new segment in; returns its number.
    fn begin(&mut self, kind: Kind, epoch: u32) -> u32 {
        let is_used = self.stream(kind).last_tried;
        let number = match kind {
            Kind::Points => {
                if self.segments.current() == is_used {
                    self.segments.rotate_points();
                }
                self.segments.begin_points(epoch)
            }
            Kind::Names => {
                self.segments.begin_names(is_used + 1, epoch);
                is_used + 1
            }
        };
        let stream = self.stream(kind);
        stream.last_tried = number;
        stream.place = Some(Place { number, epoch, next_block: 0 });
        number
    }

    /// What became of the commit; each part has its outcome.
    pub fn committed(&mut self, commit: Commit, now: Instant) {
        assert!(self.is_in_flight, "a commit ends once");
        self.is_in_flight = false;
        let Commit { names, points } = commit;
        for part in [names, points].into_iter().flatten() {
            self.part_done(part);
        }
        if self.names.ready.is_some() || self.points.ready.is_some() {
            self.counters.failed_commits += 1;
            self.not_before = Some(now + retry_time(self.failures_in_a_row));
            self.failures_in_a_row = self.failures_in_a_row.saturating_add(1);
            return;
        }
        self.failures_in_a_row = 0;
        self.not_before = None;
        self.counters.commits += 1;
        self.committed_record = self.commit_record;
        self.committed_checkpoint = self.commit_checkpoint;
        self.counters.written_points += self.commit_points;
        if self.commit_synced {
            self.counters.synced_points += self.commit_points;
        }
    }

    fn part_done(&mut self, part: Part) {
        let Part { id, block, told, mut buffer, outcome } = part;
        let written_bytes = buffer.bytes(block == 0).len() as u64;
        let stream = self.stream(id.kind);
        match outcome {
            Outcome::Pending => panic!("{id} came back with nothing done"),
            Outcome::Written | Outcome::Synced => {
                let blocks = u32::try_from(buffer.frames_bytes() / BLOCK_BYTES);
                let next_block = block.max(1) + blocks.expect("a segment is below 4 GiB");
                stream.place = Some(Place { number: id.number, epoch: buffer.epoch, next_block });
                (stream.last_good, stream.last_epoch) = (id.number, buffer.epoch);
                buffer.clear();
                stream.spare = Some(buffer);
                self.commit_synced &= outcome == Outcome::Synced;
                self.counters.bytes += written_bytes;
                if id.kind == Kind::Points {
                    self.segments.told(told.oldest_live);
                    self.told_checkpoint = self.told_checkpoint.max(told.synced_checkpoint);
                }
            }
            Outcome::Failed => {
                stream.place = None;
                stream.ready = Some(buffer);
                if block == 0 {
                    // Nothing in a new segment is acknowledged: the next try takes its place, so
                    // that a disk that fails for long costs no more files.
                    stream.last_tried -= 1;
                    match id.kind {
                        Kind::Names => self.segments.unbegin_names(),
                        Kind::Points => self.segments.unbegin_points(),
                    }
                }
            }
        }
    }

    /// A chain of waiting points has its oldest in this segment ([`INHERITANCE`] for replayed
    /// ones). What is moved to another chain is held there before it is released here.
    ///
    /// [`INHERITANCE`]: crate::wal::INHERITANCE
    pub fn hold(&mut self, segment: u32) {
        self.segments.hold(segment);
    }

    /// All points of a chain that held this segment are confirmed, or held elsewhere.
    pub fn release(&mut self, segment: u32) {
        self.segments.release(segment);
    }

    /// What the shard should do so that the log does not fill up.
    pub fn pressure(&self) -> Pressure {
        self.segments.pressure()
    }

    /// The segment whose points the shard should log again now, see [`Log::rewrite`]: the one that
    /// [`Pressure::Rewrite`] names, or what is left of the inheritance after a minute.
    pub fn rewrite_wanted(&self, now: Instant) -> Option<u32> {
        self.segments.rewrite_wanted(now)
    }

    /// The oldest segment that is held, if at most `count` chains of points hold it and others
    /// could go with it.
    pub fn pinned_by(&self, count: u64) -> Option<u32> {
        self.segments.pinned_by(count)
    }

    /// Points of earlier runs are still to come.
    pub fn is_reading(&self) -> bool {
        self.segments.is_reading()
    }

    /// Segments could go after a checkpoint.
    pub fn checkpoint_wanted(&self) -> bool {
        self.is_rewrite_committed() && self.segments.checkpoint_wanted()
    }

    /// Whether a wanted checkpoint should not wait for its interval.
    pub fn is_checkpoint_urgent(&self) -> bool {
        self.segments.is_checkpoint_urgent()
    }

    /// To be called before the sync of the file system with the Whisper files begins: it will
    /// cover what is confirmed now. False: the log has no room to say so, and it covers nothing.
    pub fn checkpoint_begun(&mut self) -> bool {
        let sequence = self.last_checkpoint + 1;
        let put = |out: &mut [u8], _: &mut _| put_checkpoint(out, sequence);
        let is_said = self.points.open.put_note(self.last_record + 1, put);
        if is_said {
            self.last_checkpoint = sequence;
        }
        self.open_checkpoint = is_said.then_some(sequence);
        self.segments.checkpoint_begun(is_said && self.is_rewrite_committed());
        is_said
    }

    /// Whether the sync may begin: the log says durably that it does. If it fails, and the process
    /// ends, the next one must know that nothing written before is safe. Only a log that can take
    /// nothing before segments go does not wait.
    pub fn may_sync(&self) -> bool {
        let is_said =
            self.open_checkpoint.is_none_or(|sequence| sequence <= self.committed_checkpoint);
        is_said || !self.segments.has_room(2, false)
    }

    /// What was logged again is committed: only then may its former place go.
    fn is_rewrite_committed(&self) -> bool {
        self.rewritten_record <= self.committed_record
    }

    /// The sync has ended. After a failure the confirmed points may be on disk or not, and a later
    /// success does not tell. So no segment of this run is given up after it, and the process
    /// should end, loudly: the next one replays them.
    pub fn checkpoint_done(&mut self, is_ok: bool) {
        self.counters.failed_checkpoints += u64::from(!is_ok);
        self.segments.checkpoint_done(is_ok);
        if let Some(sequence) = self.open_checkpoint.take()
            && !self.segments.has_checkpoint_failed()
        {
            self.synced_checkpoint = sequence;
        }
        if self.segments.has_inheritance() && self.segments.is_inheritance_released() {
            self.tell_checkpoint();
        }
    }

    /// Has a commit say which checkpoint was the last, even if there is nothing else to commit.
    pub fn tell_checkpoint(&mut self) {
        self.must_tell = self.told_checkpoint < self.synced_checkpoint;
    }

    /// Every point of earlier runs that belongs to this shard has been put into the cache, with
    /// its hold. Until then the log is full, and takes nothing.
    pub fn inheritance_read(&mut self, now: Instant) {
        self.segments.inheritance_read(now);
    }

    /// This shard no longer needs the files of earlier runs. When all shards say so, these files
    /// are deleted, the oldest first, and the directory is synced.
    pub fn is_inheritance_released(&self) -> bool {
        // Notes that points of earlier runs are written, or logged again, count when a frame says
        // that the files were synced.
        let is_told = self.told_checkpoint >= self.synced_checkpoint;
        self.segments.is_inheritance_released() && (is_told || !self.segments.has_inheritance())
    }

    /// The files of earlier runs are gone for good. Until then no segment of this run goes: points
    /// in old files must not outlive newer ones.
    pub fn inheritance_gone(&mut self) {
        self.segments.inheritance_gone();
    }

    /// A segment whose file may be recycled or deleted; one at a time, in order, answered with
    /// [`Log::retired`].
    pub fn take_retired(&mut self) -> Option<SegmentId> {
        let is_busy =
            self.is_in_flight || self.names.ready.is_some() || self.points.ready.is_some();
        // Points on their way may need the names of an ended dictionary.
        let oldest_epoch = if is_busy { 0 } else { self.epoch };
        self.segments.take_retired(oldest_epoch)
    }

    /// The file has lost its name, durably; or that failed and must be tried again.
    pub fn retired(&mut self, id: SegmentId, is_ok: bool) {
        self.counters.retired_segments += u64::from(is_ok);
        self.segments.retired(id, is_ok);
    }

    /// Files of this run and of earlier ones.
    pub fn file_count(&self) -> u32 {
        self.segments.file_count()
    }

    /// What the log has done.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Memory of the buffers here; a commit under way takes as much again.
    pub fn memory_bytes(&self) -> usize {
        self.names.memory_bytes() + self.points.memory_bytes()
    }

    fn stream(&mut self, kind: Kind) -> &mut Stream {
        match kind {
            Kind::Names => &mut self.names,
            Kind::Points => &mut self.points,
        }
    }
}

/// How long to wait after this number of failures in a row.
fn retry_time(failures_before: u32) -> Duration {
    match failures_before.checked_sub(1) {
        None => Duration::ZERO,
        Some(count) => (RETRY_TIME_FIRST * 2_u32.pow(count.min(10))).min(RETRY_TIME_MAX),
    }
}
