//! The writer: one thread a core that touches Whisper files, and may block.
//!
//! A batch of files goes through its stages together, each stage one run of the ring: open all,
//! read the headers that are not remembered, then whatever reads and writes the updates ask for.
//! Creations, `fstat`, locks and closing are plain calls, which measure cheaper than their ring
//! forms. A file's trouble is its own outcome; the others of the batch go on.

use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Instant;

use rtrb::{Consumer, Producer};

use crate::metric::series::Aggregation;
use crate::shard::flush::{FlushJob, Known, Outcome};
use crate::shard::query::Ticket;
use crate::shard::route::ShardId;
use crate::sys::clock;
use crate::sys::doorbell::Doorbell;
use crate::sys::files::{Layout, Tree, adopt, identify, try_lock};
use crate::sys::ring::{FileOp, FileRing};
use crate::whisper::{
    Bases, HEADER_BYTES_MAX, Header, HeaderError, METADATA_BYTES, Step, Transfer, Update,
};

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

/// Files to write together, and small errands beside them.
#[derive(Debug)]
pub struct WriteBatch {
    /// Jobs; those beyond `used` are kept for their buffers.
    pub jobs: Vec<FlushJob>,
    /// How many jobs there are.
    pub used: usize,
    /// Errands.
    pub errands: Vec<Errand>,
    /// Time the batch took, in microseconds.
    pub micros: u64,
}

impl WriteBatch {
    /// A batch without jobs.
    pub fn empty() -> WriteBatch {
        WriteBatch { jobs: Vec::new(), used: 0, errands: Vec::new(), micros: 0 }
    }
}

/// Reads, and changes if asked to, the aggregation method in a file's header.
#[derive(Debug)]
pub struct Errand {
    /// The core that asked; `None` for this one.
    pub asker: Option<ShardId>,
    /// Its ticket.
    pub ticket: Ticket,
    /// The metric.
    pub name: Vec<u8>,
    /// Its file, ending in NUL.
    pub path: Vec<u8>,
    /// The new method.
    pub change: Option<Aggregation>,
    /// The method found, or what went wrong.
    pub result: Option<Result<Aggregation, String>>,
}

/// Runs until the core's end of `from` is gone. To be called on a thread of its own.
pub fn run(
    directory: &Path,
    options: WriterOptions,
    mut from: Consumer<WriteBatch>,
    mut to: Producer<WriteBatch>,
    bell: &Doorbell,
) -> io::Result<()> {
    let mut writer = Writer {
        tree: Tree::open(directory, options.follow_symlinks)?,
        ring: FileRing::new()?,
        options,
        desks: Vec::new(),
        results: Vec::new(),
    };
    loop {
        match from.pop() {
            Ok(mut batch) => {
                let begun = Instant::now();
                writer.write(&mut batch)?;
                batch.micros = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX);
                to.push(batch).expect("as many places as batches");
                bell.ring();
            }
            Err(_) if from.is_abandoned() => return Ok(()),
            Err(_) => std::thread::park(),
        }
    }
}

struct Writer {
    tree: Tree,
    ring: FileRing,
    options: WriterOptions,
    desks: Vec<Desk>,
    results: Vec<i32>,
}

/// Where one job of a batch is worked on; its buffers are kept for the next batch.
struct Desk {
    file: Option<File>,
    inode: u64,
    file_bytes: u64,
    header: Option<Header>,
    header_bytes: Vec<u8>,
    checked: bool,
    created: bool,
    update: Update,
    step: Step,
}

impl Desk {
    fn new() -> Desk {
        Desk {
            file: None,
            inode: 0,
            file_bytes: 0,
            header: None,
            header_bytes: Vec::new(),
            checked: false,
            created: false,
            update: Update::new(),
            step: Step::Done,
        }
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

fn path_of(path: &[u8]) -> &CStr {
    CStr::from_bytes_with_nul(path).expect("a path ends in its only NUL")
}

impl Writer {
    fn write(&mut self, batch: &mut WriteBatch) -> io::Result<()> {
        for errand in &mut batch.errands {
            errand.result = Some(run_errand(&self.tree, errand, self.options.flock));
        }
        let jobs = &mut batch.jobs[..batch.used];
        while self.desks.len() < jobs.len() {
            self.desks.push(Desk::new());
        }
        self.create(jobs);
        self.open(jobs)?;
        self.read_headers(jobs)?;
        self.begin(jobs);
        while self.advance(jobs)? {}
        for desk in &mut self.desks {
            desk.file = None;
        }
        Ok(())
    }

    /// Creates the new files. One whose name is taken meanwhile is opened as an existing one.
    fn create(&mut self, jobs: &mut [FlushJob]) {
        for (job, desk) in jobs.iter_mut().zip(&mut self.desks) {
            desk.file = None;
            desk.header = None;
            desk.checked = false;
            desk.created = false;
            let Some(spec) = &job.create else { continue };
            let path = path_of(&job.path);
            if !job.former_path.is_empty() {
                match self.tree.rename_file(path_of(&job.former_path), path) {
                    Ok(true) => continue,
                    Ok(false) => {}
                    Err(error) => {
                        job.outcome = failure("rename series file", &error);
                        continue;
                    }
                }
            }
            let header = Header::new(spec).expect("the schema's archives were checked");
            desk.header_bytes.clear();
            header.encode(&mut desk.header_bytes);
            let bytes = header.file_bytes();
            let layout = self.options.layout;
            match self.tree.create_file(path, &desk.header_bytes, bytes, layout) {
                Ok(file) => {
                    desk.file = Some(file);
                    desk.header = Some(header);
                    desk.created = true;
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => job.outcome = failure("create series file", &error),
            }
        }
    }

    /// Opens the existing files, and identifies and locks all.
    fn open(&mut self, jobs: &mut [FlushJob]) -> io::Result<()> {
        let tree = &self.tree;
        let wanted = |job: &FlushJob, desk: &Desk| {
            matches!(job.outcome, Outcome::Pending) && desk.file.is_none()
        };
        let ops =
            jobs.iter().zip(&self.desks).filter(|(job, desk)| wanted(job, desk)).map(|(job, _)| {
                FileOp::Open {
                    root: tree.root(),
                    path: path_of(&job.path),
                    how: tree.how_to_open(),
                }
            });
        self.ring.run(ops, &mut self.results)?;
        let mut results = self.results.iter();
        for (job, desk) in jobs.iter_mut().zip(&mut self.desks) {
            if wanted(job, desk) {
                let result = *results.next().expect("one result for each operation");
                match error_of(result) {
                    None => desk.file = Some(adopt(result)),
                    // A taken name without a file behind it is a link that leads nowhere.
                    Some(error)
                        if error.kind() == io::ErrorKind::NotFound && job.create.is_none() =>
                    {
                        job.outcome = Outcome::Missing;
                    }
                    Some(error) => job.outcome = failure("open series file", &error),
                }
            }
            if let Some(file) = &desk.file {
                if let Err(outcome) = inspect(file, &mut desk.inode, &mut desk.file_bytes) {
                    job.outcome = outcome;
                } else if self.options.flock {
                    match try_lock(file) {
                        Ok(true) => {}
                        Ok(false) => job.outcome = Outcome::Locked,
                        Err(error) => job.outcome = failure("lock series file", &error),
                    }
                }
            }
        }
        Ok(())
    }

    /// Reads and checks the headers that are not remembered.
    fn read_headers(&mut self, jobs: &mut [FlushJob]) -> io::Result<()> {
        for (job, desk) in jobs.iter_mut().zip(&mut self.desks) {
            if !matches!(job.outcome, Outcome::Pending) || desk.created {
                continue;
            }
            let is_same = job.known.as_ref().is_some_and(|known| {
                known.inode == desk.inode && known.header.file_bytes() == desk.file_bytes
            });
            if is_same {
                desk.header = job.known.as_ref().map(|known| known.header.clone());
            } else {
                job.known = None;
                desk.checked = true;
                desk.header_bytes.resize(HEADER_BYTES_MAX, 0);
            }
        }
        let wanted =
            |job: &FlushJob, desk: &Desk| matches!(job.outcome, Outcome::Pending) && desk.checked;
        let ops = jobs.iter().zip(&mut self.desks).filter(|(job, desk)| wanted(job, desk)).map(
            |(_, desk)| FileOp::Read {
                file: desk.file.as_ref().expect("a pending job has its file open").as_fd(),
                offset: 0,
                buffer: &mut desk.header_bytes,
            },
        );
        self.ring.run(ops, &mut self.results)?;
        let mut results = self.results.iter();
        for (job, desk) in jobs.iter_mut().zip(&mut self.desks) {
            if !wanted(job, desk) {
                continue;
            }
            let result = *results.next().expect("one result for each operation");
            let Ok(count) = usize::try_from(result) else {
                let error = error_of(result).expect("a negative result is an error");
                job.outcome = failure("read series header", &error);
                continue;
            };
            match Header::parse(&desk.header_bytes[..count], desk.file_bytes) {
                Ok(header) => desk.header = Some(header),
                Err(error) => job.outcome = put_aside(&self.tree, &job.path, error),
            }
        }
        Ok(())
    }

    fn begin(&mut self, jobs: &mut [FlushJob]) {
        for (job, desk) in jobs.iter_mut().zip(&mut self.desks) {
            desk.step = Step::Done;
            if !matches!(job.outcome, Outcome::Pending) {
                continue;
            }
            let header = desk.header.as_ref().expect("a pending job has its header");
            let bases = match &job.known {
                Some(known) => known.bases,
                None if desk.created => Bases::EMPTY,
                None => Bases::UNKNOWN,
            };
            desk.update.begin_many(header, &bases, &job.points, job.now_s);
            desk.step = desk.update.step();
            finish_if_done(job, desk);
        }
    }

    /// Does the reads and writes that the updates ask for now; false when none asks any more.
    fn advance(&mut self, jobs: &mut [FlushJob]) -> io::Result<bool> {
        let ops = self.desks[..jobs.len()].iter_mut().flat_map(|desk| {
            let Desk { file, update, step, .. } = desk;
            transfers(file.as_ref(), update, *step)
        });
        self.ring.run(ops, &mut self.results)?;
        if self.results.is_empty() {
            return Ok(false);
        }
        let mut results = self.results.iter();
        for (job, desk) in jobs.iter_mut().zip(&mut self.desks) {
            let (list, action) = match desk.step {
                Step::Read => (desk.update.reads().0, "read series file"),
                Step::Write => (desk.update.writes().0, "write series file"),
                Step::Done => continue,
            };
            let outcome = check_transfers(list, &mut results, action);
            if let Some(outcome) = outcome {
                job.outcome = outcome;
                desk.step = Step::Done;
                continue;
            }
            desk.step = desk.update.step();
            finish_if_done(job, desk);
        }
        Ok(true)
    }
}

fn finish_if_done(job: &mut FlushJob, desk: &mut Desk) {
    if desk.step != Step::Done {
        return;
    }
    let header = desk.header.take().expect("an update has its header");
    let too_old = desk.update.outcome().points_too_old;
    job.known = Some(Known { header, inode: desk.inode, bases: *desk.update.bases() });
    job.outcome = Outcome::Written {
        checked: desk.checked,
        created: desk.created,
        too_old_count: u32::try_from(too_old).expect("a chain counts its points in 32 bits"),
    };
}

/// The operations of one update's step.
fn transfers<'a>(
    file: Option<&'a File>,
    update: &'a mut Update,
    step: Step,
) -> Box<dyn Iterator<Item = FileOp<'a>> + 'a> {
    let Some(file) = file else { return Box::new(std::iter::empty()) };
    match step {
        Step::Done => Box::new(std::iter::empty()),
        Step::Read => {
            let (list, arena) = update.reads();
            let mut rest = arena;
            let mut at = 0;
            Box::new(list.iter().map(move |transfer| {
                let (_, from) = std::mem::take(&mut rest).split_at_mut(transfer.start - at);
                let (buffer, later) = from.split_at_mut(transfer.len);
                rest = later;
                at = transfer.start + transfer.len;
                FileOp::Read { file: file.as_fd(), offset: transfer.offset, buffer }
            }))
        }
        Step::Write => {
            let (list, arena) = update.writes();
            Box::new(list.iter().map(move |transfer| FileOp::Write {
                file: file.as_fd(),
                offset: transfer.offset,
                buffer: &arena[transfer.start..transfer.start + transfer.len],
            }))
        }
    }
}

/// Takes one result for each transfer; the first that failed or came short is the outcome.
fn check_transfers<'r>(
    list: &[Transfer],
    results: &mut impl Iterator<Item = &'r i32>,
    action: &'static str,
) -> Option<Outcome> {
    let mut outcome = None;
    for transfer in list {
        let result = *results.next().expect("one result for each operation");
        if outcome.is_some() {
            continue;
        }
        outcome = match usize::try_from(result) {
            Ok(count) if count == transfer.len => None,
            Ok(count) => {
                let reason = format!("{count} of {} bytes", transfer.len);
                Some(Outcome::Failed { action, reason, is_own_fault: false })
            }
            Err(_) => error_of(result).map(|error| failure(action, &error)),
        };
    }
    outcome
}

fn error_of(result: i32) -> Option<io::Error> {
    (result < 0).then(|| io::Error::from_raw_os_error(-result))
}

fn inspect(file: &File, inode: &mut u64, bytes: &mut u64) -> Result<(), Outcome> {
    let identity = identify(file).map_err(|error| failure("look at series file", &error))?;
    if !identity.is_regular {
        let reason = "not a regular file".to_owned();
        return Err(Outcome::Failed { action: "open series file", reason, is_own_fault: true });
    }
    (*inode, *bytes) = (identity.inode, identity.bytes);
    Ok(())
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

fn run_errand(tree: &Tree, errand: &Errand, flock: bool) -> Result<Aggregation, String> {
    let name = String::from_utf8_lossy(&errand.name);
    let say = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let file = tree.open_file(path_of(&errand.path)).map_err(|error| say(&error))?;
    if flock && errand.change.is_some() && !try_lock(&file).map_err(|error| say(&error))? {
        return Err(say(&"locked by another process, try again"));
    }
    let identity = identify(&file).map_err(|error| say(&error))?;
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let count = file.read_at(&mut bytes, 0).map_err(|error| say(&error))?;
    let mut header = Header::parse(&bytes[..count], identity.bytes).map_err(|error| say(&error))?;
    let old = header.aggregation;
    if let Some(method) = errand.change {
        header.aggregation = method;
        let metadata: [u8; METADATA_BYTES] = header.encode_metadata16();
        file.write_all_at(&metadata, 0).map_err(|error| say(&error))?;
    }
    Ok(old)
}
