//! The writer: one thread a core that touches Whisper files, and may block.
//!
//! Files whose pages are in memory are written one after another by plain calls: open, `fstat`, one
//! read where a coarser point needs values of an earlier write, the writes, close. That costs two
//! thirds of the same through io_uring, whose buffered writes go to kernel threads. Cold files go
//! through the ring a batch at a time, in stages: all are opened, then all that must be read is
//! read, the pages that the writes will change included, and then the writes find their pages in
//! memory. [`WriteModeSelector`] says which.
//!
//! Files of one directory mostly follow each other, new ones in the order of their arrival and
//! others in the order of inode numbers. So the directory is opened once for those of a batch, and
//! each from there. A new file is given its points before it is given its name.
//!
//! The memory of a file's geometry is compared with its inode, its length and the time of its last
//! change each time, by one `fstat` before the update and one after it (a twentieth of an update
//! each): a file replaced or changed behind our back must not be written by the old one's geometry
//! and bases. A file's trouble is its own outcome; the others of the batch go on.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use rtrb::{Consumer, Producer};

use crate::disk::metadata::{self, MetadataRequest};
use crate::disk::path_of;
pub use crate::disk::write_mode::WriteMode;
use crate::disk::write_mode::WriteModeSelector;
use crate::limits::{FLUSH_BATCH, FLUSH_BATCHES};
use crate::shard::flush::{FlushJob, Known, Outcome, Written};
use crate::sys::at::{FileIdentity, adopt, identify};
use crate::sys::clock;
use crate::sys::doorbell::Doorbell;
use crate::sys::file_systems::Newcomers;
use crate::sys::files::{Tree, expect_scattered_reads};
use crate::sys::kept_directory::KeptDirectory;
use crate::sys::lock::try_lock;
use crate::sys::new_file::Layout;
use crate::sys::ring::{FileOp, FileRing};
use crate::sys::schedule::times_waited;
use crate::whisper::{
    Bases, HEADER_BYTES_MAX, Header, HeaderError, Step, Transfer, Update, unlapped,
};

/// Bytes of a page of the page cache.
const PAGE_BYTES: u64 = 4_096;

/// Pages read ahead of the writes of one batch at most; the writes to any others wait for theirs.
/// An update of three archives writes to three or four.
const PREFETCH_MAX: usize = 8 * FLUSH_BATCH;

/// Files written before the core's loop, on the same processor, may run: some 150 us. Linux would
/// take the processor away at its next tick only, after up to 4 ms.
const FILES_IN_A_ROW: usize = 16;

/// Files in a row of a directory from which on it pays to open that first and each from there.
const FILES_IN_A_DIRECTORY: usize = 3;

/// How the writer treats files.
#[derive(Debug, Clone, Copy)]
pub struct WriterOptions {
    /// How new files are laid out.
    pub layout: Layout,
    /// Each file is locked while it is written.
    pub flock: bool,
    /// Symbolic links may lead out of the data directory.
    pub follow_symlinks: bool,
}

/// Files to write together, and small requests beside them.
#[derive(Debug)]
pub struct WriteBatch {
    /// Jobs; those beyond `used` are kept for their buffers.
    pub jobs: Vec<FlushJob>,
    /// How many jobs there are.
    pub used: usize,
    /// Metadata requests.
    pub requests: Vec<MetadataRequest>,
    /// Time the batch took, in microseconds.
    pub micros: u64,
    /// How it was written.
    pub mode: WriteMode,
}

impl WriteBatch {
    /// A batch without jobs.
    pub fn empty() -> WriteBatch {
        WriteBatch {
            jobs: Vec::new(),
            used: 0,
            requests: Vec::new(),
            micros: 0,
            mode: WriteMode::Plain,
        }
    }
}

/// Runs until the core's end of `from` is gone. To be called on a thread of its own. The core is
/// woken when half of its batches are done, when all are, and when one of them carries an answer.
/// `newcomers` is told of each file system before the first write to it.
pub fn run(
    directory: &Path,
    options: WriterOptions,
    newcomers: Option<Newcomers>,
    mut from: Consumer<WriteBatch>,
    mut to: Producer<WriteBatch>,
    bell: &Doorbell,
) -> io::Result<()> {
    let mut writer = FileWriter::new(directory, options, newcomers)?;
    loop {
        match from.pop() {
            Ok(mut batch) => {
                let begun = Instant::now();
                writer.write(&mut batch)?;
                batch.micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                let is_awaited = !batch.requests.is_empty();
                to.push(batch).expect("as many places as batches");
                let left = from.slots();
                if is_awaited || left == 0 || left == FLUSH_BATCHES / 2 {
                    bell.ring();
                }
            }
            Err(_) if from.is_abandoned() => return Ok(()),
            Err(_) => std::thread::park(),
        }
    }
}

/// What the writer's thread works with.
pub struct FileWriter {
    tree: Tree,
    /// Where the batch's last new file was made.
    made_in: KeptDirectory,
    /// Where the batch's last files in a row were opened.
    opened_in: KeptDirectory,
    ring: FileRing,
    options: WriterOptions,
    mode_selector: WriteModeSelector,
    slots: Vec<UpdateSlot>,
    results: Vec<i32>,
    /// Where the ring reads to what is only to be in memory.
    unread: Vec<u8>,
}

/// Where one job of a batch is worked on; its buffers are kept for the next batch.
struct UpdateSlot {
    file: Option<File>,
    inode: u64,
    file_bytes: u64,
    changed: u32,
    header: Option<Header>,
    header_bytes: Vec<u8>,
    checked: bool,
    created: bool,
    update: Update,
    /// Points of the job that the update takes, and whether it is near what the job names.
    taken: usize,
    is_near: bool,
    step: Step,
}

impl UpdateSlot {
    fn new() -> UpdateSlot {
        UpdateSlot {
            file: None,
            inode: 0,
            file_bytes: 0,
            changed: 0,
            header: None,
            header_bytes: Vec::new(),
            checked: false,
            created: false,
            update: Update::new(),
            taken: 0,
            is_near: false,
            step: Step::Done,
        }
    }

    fn clear(&mut self) {
        self.file = None;
        self.header = None;
        self.checked = false;
        self.created = false;
        self.step = Step::Done;
    }

    fn file(&self) -> &File {
        self.file.as_ref().expect("a pending job has its file open")
    }
}

/// A failure of one file: what, why, and whether it is the file's own.
fn failure(action: &'static str, error: &io::Error) -> Outcome {
    let is_own_fault = matches!(
        error.raw_os_error(),
        Some(
            libc::EACCES
                | libc::EPERM
                | libc::EISDIR
                | libc::ENOTDIR
                | libc::ELOOP
                | libc::EXDEV
                | libc::ENAMETOOLONG
                | libc::EFBIG
                | libc::ETXTBSY
                | libc::EINVAL
                | libc::ENXIO
                | libc::ENOENT
        )
    );
    Outcome::Failed { action, reason: error.to_string(), is_own_fault }
}

/// Lets the core's loop run if it has something to do. Called before each file of a batch.
fn give_way(number: usize) {
    if number.is_multiple_of(FILES_IN_A_ROW) {
        std::thread::yield_now();
    }
}

fn is_pending(job: &FlushJob) -> bool {
    matches!(job.outcome, Outcome::Pending)
}

impl FileWriter {
    /// A writer of the files below a data directory, to be used by the calling thread.
    pub fn new(
        directory: &Path,
        options: WriterOptions,
        newcomers: Option<Newcomers>,
    ) -> io::Result<FileWriter> {
        Ok(FileWriter {
            tree: Tree::open(directory, options.follow_symlinks)?.telling(newcomers),
            made_in: KeptDirectory::default(),
            opened_in: KeptDirectory::default(),
            ring: FileRing::new()?,
            options,
            mode_selector: WriteModeSelector::new(),
            slots: Vec::new(),
            results: Vec::new(),
            unread: Vec::new(),
        })
    }

    /// Writes the batch's files the way that suits them, and runs its requests.
    pub fn write(&mut self, batch: &mut WriteBatch) -> io::Result<()> {
        for request in &mut batch.requests {
            request.result = Some(metadata::run(&self.tree, request, self.options.flock));
        }
        batch.mode = self.mode_selector.next();
        let before = times_waited();
        self.write_by(batch.mode, &mut batch.jobs[..batch.used])?;
        if batch.mode == WriteMode::Plain {
            self.mode_selector.judge(batch.used, times_waited().saturating_sub(before));
        }
        Ok(())
    }

    /// Writes files the way that is asked for.
    pub fn write_by(&mut self, mode: WriteMode, jobs: &mut [FlushJob]) -> io::Result<()> {
        let slot_count = if mode == WriteMode::Plain { 1 } else { jobs.len() };
        while self.slots.len() < slot_count {
            self.slots.push(UpdateSlot::new());
        }
        let result = match mode {
            WriteMode::Plain => {
                self.write_plainly(jobs);
                Ok(())
            }
            WriteMode::Ring => self.write_through_ring(jobs),
        };
        self.made_in.forget();
        self.opened_in.forget();
        result
    }

    /// File after file at one slot, whose buffers stay in the processor's nearest cache.
    fn write_plainly(&mut self, jobs: &mut [FlushJob]) {
        let FileWriter { tree, made_in, opened_in, options, slots, .. } = self;
        let Some(slot) = slots.first_mut() else { return };
        for number in 0..jobs.len() {
            give_way(number);
            let (job, later) = jobs[number..].split_first_mut().expect("there is this one");
            create(tree, made_in, *options, job, slot);
            if must_open(job, slot) {
                let path = path_of(&job.path);
                if !opened_in.holds(path) && is_row(&job.path, later) {
                    tree.keep_parent(opened_in, path);
                }
                take_opened(job, slot, tree.open_beside(opened_in, path));
            }
            look_at(tree, *options, job, slot);
            if must_read_header(job, slot) {
                expect_scattered_reads(slot.file());
                let file = slot.file.as_ref().expect("a pending job has its file open");
                let result = file.read_at(&mut slot.header_bytes, 0);
                take_header(tree, job, slot, result);
            }
            begin(job, slot);
            while slot.step != Step::Done {
                let result = transfer(slot);
                go_on(job, slot, result);
            }
            slot.clear();
        }
    }

    /// All files together, stage by stage.
    fn write_through_ring(&mut self, jobs: &mut [FlushJob]) -> io::Result<()> {
        for (number, (job, slot)) in jobs.iter_mut().zip(&mut self.slots).enumerate() {
            give_way(number);
            create(&self.tree, &mut self.made_in, self.options, job, slot);
        }
        self.open(jobs)?;
        for (job, slot) in jobs.iter_mut().zip(&mut self.slots) {
            look_at(&self.tree, self.options, job, slot);
            if is_pending(job) {
                expect_scattered_reads(slot.file());
            }
        }
        self.read_headers(jobs)?;
        for (job, slot) in jobs.iter_mut().zip(&mut self.slots) {
            begin(job, slot);
        }
        while self.read(jobs)? {}
        self.prefetch(jobs)?;
        for (number, (job, slot)) in jobs.iter_mut().zip(&mut self.slots).enumerate() {
            give_way(number);
            while slot.step != Step::Done {
                let result = transfer(slot);
                go_on(job, slot, result);
            }
            slot.clear();
        }
        Ok(())
    }

    fn open(&mut self, jobs: &mut [FlushJob]) -> io::Result<()> {
        let tree = &self.tree;
        let waiting = jobs.iter().zip(&self.slots).filter(|(job, slot)| must_open(job, slot));
        let ops = waiting.map(|(job, _)| FileOp::Open {
            root: tree.root(),
            path: path_of(&job.path),
            how: tree.how_to_open(),
        });
        self.ring.run(ops, &mut self.results)?;
        let mut results = self.results.iter();
        for (job, slot) in jobs.iter_mut().zip(&mut self.slots) {
            if !must_open(job, slot) {
                continue;
            }
            let result = *results.next().expect("one result for each operation");
            let opened = match error_of(result) {
                None => Ok(adopt(result)),
                // Another user's file, perhaps: there is a second way to open it.
                Some(error) if error.raw_os_error() == Some(libc::EPERM) => {
                    tree.open_file(path_of(&job.path))
                }
                Some(error) => Err(error),
            };
            take_opened(job, slot, opened);
        }
        Ok(())
    }

    fn read_headers(&mut self, jobs: &mut [FlushJob]) -> io::Result<()> {
        for (job, slot) in jobs.iter_mut().zip(&mut self.slots) {
            slot.checked = must_read_header(job, slot);
        }
        let waiting = self.slots[..jobs.len()].iter_mut().filter(|slot| slot.checked);
        let ops = waiting.map(|slot| FileOp::Read {
            file: slot.file.as_ref().expect("a pending job has its file open").as_fd(),
            offset: 0,
            buffer: &mut slot.header_bytes,
        });
        self.ring.run(ops, &mut self.results)?;
        let mut results = self.results.iter();
        for (job, slot) in jobs.iter_mut().zip(&mut self.slots).filter(|(_, slot)| slot.checked) {
            let result = *results.next().expect("one result for each operation");
            take_header(&self.tree, job, slot, counted(result));
        }
        Ok(())
    }

    /// Does the reads that the updates ask for now; false when none asks.
    fn read(&mut self, jobs: &mut [FlushJob]) -> io::Result<bool> {
        let reading = self.slots[..jobs.len()].iter_mut().filter(|slot| slot.step == Step::Read);
        let ops = reading.flat_map(|slot| {
            let file = slot.file.as_ref().expect("a pending job has its file open");
            read_ops(file, &mut slot.update)
        });
        self.ring.run(ops, &mut self.results)?;
        let mut results = self.results.iter();
        let reading = jobs.iter_mut().zip(&mut self.slots);
        for (job, slot) in reading.filter(|(_, slot)| slot.step == Step::Read) {
            let mut result = Ok(());
            for transfer in slot.update.reads().0 {
                let count = *results.next().expect("one result for each operation");
                let count = counted(count);
                result = result.and_then(|()| check(transfer, count, "read series file"));
            }
            go_on(job, slot, result);
        }
        Ok(!self.results.is_empty())
    }

    /// Brings the pages that the updates will write to a part of into memory. What cannot be read
    /// shows when it is written.
    fn prefetch(&mut self, jobs: &[FlushJob]) -> io::Result<()> {
        self.unread.clear();
        self.unread.resize(PREFETCH_MAX, 0);
        let writing = self.slots[..jobs.len()].iter().filter(|slot| slot.step == Step::Write);
        let ends = writing.flat_map(|slot| {
            let file = slot.file().as_fd();
            let ends = slot.update.writes().0.iter().flat_map(|transfer| {
                let last = transfer.offset + transfer.len as u64 - 1;
                let is_other_page = last / PAGE_BYTES != transfer.offset / PAGE_BYTES;
                [Some(transfer.offset), is_other_page.then_some(last)]
            });
            ends.flatten().map(move |offset| (file, offset))
        });
        let ops = ends
            .zip(self.unread.chunks_exact_mut(1))
            .map(|((file, offset), buffer)| FileOp::Read { file, offset, buffer });
        self.ring.run(ops, &mut self.results)
    }
}

/// Creates the job's file, with its points, if it is a new one. One whose name is taken meanwhile
/// is opened as an existing one.
fn create(
    tree: &Tree,
    kept: &mut KeptDirectory,
    options: WriterOptions,
    job: &mut FlushJob,
    slot: &mut UpdateSlot,
) {
    slot.clear();
    let Some(spec) = &job.create else { return };
    let path = path_of(&job.path);
    if !job.former_path.is_empty() {
        match tree.rename_file(path_of(&job.former_path), path) {
            Ok(true) => return,
            Ok(false) => {}
            Err(error) => {
                job.outcome = failure("rename series file", &error);
                return;
            }
        }
    }
    let header = Header::new(spec).expect("the schema's archives were checked");
    // Nothing was written to it before, that could be repeated.
    begin_update(&header, &Bases::EMPTY, job, slot);
    assert!(slot.update.step() != Step::Read, "nothing is read of empty archives");
    slot.header_bytes.clear();
    header.encode(&mut slot.header_bytes);
    let rest = join_first(&slot.update, &mut slot.header_bytes);
    let (_, arena) = slot.update.writes();
    let write = |file: &File| {
        file.write_all_at(&slot.header_bytes, 0)?;
        rest.iter().try_for_each(|transfer| {
            file.write_all_at(&arena[transfer.start..][..transfer.len], transfer.offset)
        })
    };
    match tree.create_file(kept, path, header.file_bytes(), options.layout, write) {
        Ok((file, identity)) => {
            (slot.inode, slot.file_bytes) = (identity.inode, identity.bytes);
            slot.file = Some(file);
            slot.header = Some(header);
            slot.created = true;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => job.outcome = failure("create series file", &error),
    }
}

/// Appends an update's first write to a new file's header if it goes right behind it, which the
/// finest archive's first points do: one call writes both. Returns the other writes. More than a
/// page stays apart, since ext4 would give it a large folio, and each later small write to one is
/// dearer.
fn join_first<'u>(update: &'u Update, header_bytes: &mut Vec<u8>) -> &'u [Transfer] {
    let (list, arena) = update.writes();
    if let [first, rest @ ..] = list
        && first.offset == header_bytes.len() as u64
        && first.offset + first.len as u64 <= PAGE_BYTES
    {
        header_bytes.extend_from_slice(&arena[first.start..][..first.len]);
        return rest;
    }
    list
}

/// Whether enough of the next files are in this one's directory to open that first.
fn is_row(path: &[u8], later: &[FlushJob]) -> bool {
    let Some(cut) = memchr::memrchr(b'/', path) else { return false };
    let parent = &path[..=cut];
    let is_beside =
        |job: &FlushJob| job.path.strip_prefix(parent).is_some_and(|name| !name.contains(&b'/'));
    later.get(..FILES_IN_A_DIRECTORY - 1).is_some_and(|next| next.iter().all(is_beside))
}

fn must_open(job: &FlushJob, slot: &UpdateSlot) -> bool {
    is_pending(job) && slot.file.is_none()
}

fn take_opened(job: &mut FlushJob, slot: &mut UpdateSlot, opened: io::Result<File>) {
    match opened {
        Ok(file) => slot.file = Some(file),
        // A taken name without a file behind it is a link that leads nowhere.
        Err(error) if error.kind() == io::ErrorKind::NotFound && job.create.is_none() => {
            job.outcome = Outcome::Missing;
        }
        Err(error) => job.outcome = failure("open series file", &error),
    }
}

/// Identifies the open file, tells of its file system, and locks it where files are locked.
fn look_at(tree: &Tree, options: WriterOptions, job: &mut FlushJob, slot: &mut UpdateSlot) {
    let Some(file) = &slot.file else { return };
    // A new file was complete before it had its name.
    if slot.created {
        return;
    }
    let path = path_of(&job.path);
    match inspect(tree, path, file) {
        Ok(identity) => {
            (slot.inode, slot.file_bytes) = (identity.inode, identity.bytes);
            slot.changed = identity.changed;
        }
        Err(outcome) => job.outcome = outcome,
    }
    if is_pending(job) && options.flock {
        match try_lock(file) {
            Ok(true) => {}
            Ok(false) => job.outcome = Outcome::Locked,
            Err(error) => job.outcome = failure("lock series file", &error),
        }
    }
}

/// Whether the header must be read: it is not remembered, or the file is not the remembered one
/// (any more).
fn must_read_header(job: &mut FlushJob, slot: &mut UpdateSlot) -> bool {
    if !is_pending(job) || slot.created {
        return false;
    }
    let is_same = job.known.as_ref().is_some_and(|known| {
        known.inode == slot.inode
            && known.header.file_bytes() == slot.file_bytes
            && known.changed == slot.changed
    });
    if is_same {
        return false;
    }
    job.known = None;
    slot.header_bytes.resize(HEADER_BYTES_MAX, 0);
    true
}

fn take_header(tree: &Tree, job: &mut FlushJob, slot: &mut UpdateSlot, result: io::Result<usize>) {
    slot.checked = true;
    let parsed = match result {
        Ok(count) => Header::parse(&slot.header_bytes[..count], slot.file_bytes),
        Err(error) => {
            job.outcome = failure("read series header", &error);
            return;
        }
    };
    match parsed {
        Ok(header) => slot.header = Some(header),
        Err(error) => job.outcome = put_aside(tree, &job.path, error),
    }
}

fn begin(job: &mut FlushJob, slot: &mut UpdateSlot) {
    if !is_pending(job) {
        return;
    }
    if !slot.created {
        let (header, bases) = match (&job.known, &slot.header) {
            (Some(known), _) => (&known.header, &known.bases),
            (None, Some(header)) => (header, &Bases::UNKNOWN),
            (None, None) => unreachable!("a pending job has its header"),
        };
        let (header, bases) = (header.clone(), *bases);
        begin_update(&header, &bases, job, slot);
        if !slot.is_near && !job.limit.is_alone {
            return go_on(job, slot, Err(Outcome::TooFar));
        }
    }
    go_on(job, slot, Ok(()));
}

/// Begins the update of as many of the job's points as may be written together.
fn begin_update(header: &Header, bases: &Bases, job: &FlushJob, slot: &mut UpdateSlot) {
    let (taken, reach) = unlapped(header, &job.points);
    (slot.taken, slot.is_near) = (taken, reach.is_near(header, job.limit.near));
    slot.update.begin_arrivals(header, bases, &job.points[..taken]);
}

/// Takes the update's next step, unless its last one failed.
fn go_on(job: &mut FlushJob, slot: &mut UpdateSlot, result: Result<(), Outcome>) {
    if let Err(outcome) = result {
        job.outcome = outcome;
        slot.step = Step::Done;
        return;
    }
    slot.step = slot.update.step();
    if slot.step != Step::Done {
        return;
    }
    let bases = *slot.update.bases();
    match &mut job.known {
        Some(known) => known.bases = bases,
        None => {
            let header = slot.header.take().expect("an update has its header");
            job.known = Some(Known { header, inode: slot.inode, bases, changed: 0 });
        }
    }
    if let Some(known) = &mut job.known {
        // A file whose times cannot be had is looked at again.
        known.changed = identify(slot.file()).map_or(0, |identity| identity.changed);
    }
    let too_old = slot.update.outcome().points_too_old;
    job.outcome = Outcome::Written(Written {
        count: slot.taken,
        is_near: slot.is_near,
        checked: slot.checked,
        created: slot.created,
        too_old_count: u32::try_from(too_old).expect("a chain counts its points in 32 bits"),
    });
}

/// Does the transfers of the update's step by plain calls.
fn transfer(slot: &mut UpdateSlot) -> Result<(), Outcome> {
    let UpdateSlot { file, update, step, .. } = slot;
    let file = file.as_ref().expect("a pending job has its file open");
    match step {
        Step::Done => Ok(()),
        Step::Read => {
            let (list, arena) = update.reads();
            list.iter().try_for_each(|transfer| {
                let buffer = &mut arena[transfer.start..][..transfer.len];
                let result = file.read_at(buffer, transfer.offset);
                check(transfer, result, "read series file")
            })
        }
        Step::Write => {
            let (list, arena) = update.writes();
            list.iter().try_for_each(|transfer| {
                let buffer = &arena[transfer.start..][..transfer.len];
                let result = file.write_at(buffer, transfer.offset);
                check(transfer, result, "write series file")
            })
        }
    }
}

fn check(
    transfer: &Transfer,
    result: io::Result<usize>,
    action: &'static str,
) -> Result<(), Outcome> {
    match result {
        Ok(count) if count == transfer.len => Ok(()),
        Ok(count) => {
            let reason = format!("{count} of {} bytes", transfer.len);
            Err(Outcome::Failed { action, reason, is_own_fault: false })
        }
        Err(error) => Err(failure(action, &error)),
    }
}

/// The reads that an update asks for, as operations of the ring.
fn read_ops<'a>(file: &'a File, update: &'a mut Update) -> impl Iterator<Item = FileOp<'a>> {
    let (list, arena) = update.reads();
    let mut rest = arena;
    let mut at = 0;
    list.iter().map(move |transfer| {
        let (_, from) = std::mem::take(&mut rest).split_at_mut(transfer.start - at);
        let (buffer, later) = from.split_at_mut(transfer.len);
        rest = later;
        at = transfer.start + transfer.len;
        FileOp::Read { file: file.as_fd(), offset: transfer.offset, buffer }
    })
}

/// A number of bytes as the ring gives it.
fn counted(result: i32) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::from_raw_os_error(-result))
}

fn error_of(result: i32) -> Option<io::Error> {
    (result < 0).then(|| io::Error::from_raw_os_error(-result))
}

fn inspect(tree: &Tree, path: &CStr, file: &File) -> Result<FileIdentity, Outcome> {
    let identity = identify(file).map_err(|error| failure("look at series file", &error))?;
    if !identity.is_regular {
        let reason = "not a regular file".to_owned();
        return Err(Outcome::Failed { action: "open series file", reason, is_own_fault: true });
    }
    let met = tree.meet(path, identity.device);
    met.map_err(|error| failure("open file system of series file", &error))?;
    Ok(identity)
}

/// Renames a damaged file. A compressed one is whole, only not ours to read: it stays.
fn put_aside(tree: &Tree, path: &[u8], error: HeaderError) -> Outcome {
    if matches!(error, HeaderError::Compressed) {
        let reason = error.to_string();
        return Outcome::Failed { action: "open series file", reason, is_own_fault: true };
    }
    match tree.set_aside(path_of(path), clock::now_s()) {
        Ok(aside) => Outcome::SetAside { reason: error.to_string(), aside },
        Err(refusal) => failure("set aside damaged series file", &refusal),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::point::Arrival;
    use crate::metric::series::{Aggregation, Retention, SeriesSpec};

    #[test]
    fn the_first_points_join_the_header_within_a_page() {
        let retention = |step_s, slot_count| Retention { step_s, slot_count };
        let spec = SeriesSpec {
            retentions: vec![retention(1, 1_000), retention(1_000, 10)],
            x_files_factor: 0.0,
            aggregation: Aggregation::Average,
        };
        let header = Header::new(&spec).unwrap();
        let mut head = Vec::new();
        header.encode(&mut head);
        let slots = (4_096 - 40) / 12;
        // Points, the age of the first, slots that join the header, writes that are left.
        for (count, age_s, joined, rest) in
            [(1, 10, 1, 1), (slots, 800, slots, 1), (slots + 1, 800, 0, 2), (1, 2_000, 0, 1)]
        {
            let mut update = Update::new();
            let at = |n: usize| 1_800_000_000 - age_s + u32::try_from(n).unwrap();
            let arrived_s = 1_800_000_000;
            let points = (0..count).map(|n| Arrival { timestamp_s: at(n), arrived_s, value: 1.0 });
            let points: Vec<Arrival> = points.collect();
            update.begin_arrivals(&header, &Bases::EMPTY, &points);
            assert_eq!(update.step(), Step::Write);
            let mut bytes = head.clone();
            let left = join_first(&update, &mut bytes).len();
            assert_eq!((bytes.len(), left), (head.len() + 12 * joined, rest), "{count} {age_s}");
            assert!(bytes.starts_with(&head));
        }
    }
}
