//! Files of tools: read whole within a limit, read in part, or locked for changes.
//!
//! The lock is flock's exclusive one, the same that a node with `flock = true`, go-carbon and
//! Python whisper with `LOCK` take. That the file still has its name is looked up under the lock:
//! what is written to a file that was just exchanged for another would be lost. Only the slots
//! that changed are written.

use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::limits::TOOL_FILE_BYTES_MAX;
use crate::sys::lock::try_lock;
use crate::whisper::{
    Fetch, HEADER_BYTES_MAX, Header, HeaderError, Outcome, Step, Update, WholeFile,
};

/// Longest wait for a lock. A node holds one for the milliseconds of one batch.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long between two attempts.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Why a file stays as it is.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// It is no Whisper file that can be used.
    Header(HeaderError),
    /// It has more bytes than a tool takes into memory.
    TooLong(u64),
    /// It cannot be opened, locked, read or changed: what was tried, and why not.
    Io(&'static str, io::Error),
    /// Another program changed it without taking the lock.
    Disturbed,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Header(error) => error.fmt(f),
            Refusal::TooLong(bytes) => {
                write!(f, "{bytes} bytes, more than the {TOOL_FILE_BYTES_MAX} allowed")
            }
            Refusal::Io(action, error) => write!(f, "{action}: {error}"),
            Refusal::Disturbed => f.write_str("changed meanwhile by a writer that takes no lock"),
        }
    }
}

/// Makes refusals of failed system calls.
pub(crate) fn refuse(action: &'static str) -> impl Fn(io::Error) -> Refusal {
    move |error| Refusal::Io(action, error)
}

/// What a file is opened for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Access {
    Read,
    Change,
}

/// Opens a regular file: opening a pipe would wait for its other end.
pub(crate) fn open(path: &Path, access: Access) -> Result<File, Refusal> {
    let refused = refuse("open");
    if !fs::metadata(path).map_err(&refused)?.is_file() {
        return Err(refused(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")));
    }
    File::options().read(true).write(access == Access::Change).open(path).map_err(refused)
}

/// Reads the header of a file, by its first bytes alone, and its length.
pub(crate) fn read_header(path: &Path) -> Result<(Header, u64), Refusal> {
    header_of(&open(path, Access::Read)?)
}

/// Reads a whole file; no lock is taken, as by Python's tools.
pub(crate) fn read(path: &Path) -> Result<WholeFile, Refusal> {
    whole(&open(path, Access::Read)?)
}

/// A file of which only what is needed is read, as by Python's tools without a lock.
#[derive(Debug)]
pub(crate) struct Opened {
    file: File,
    header: Header,
}

impl Opened {
    /// Opens a file and reads its header.
    pub(crate) fn open(path: &Path) -> Result<Opened, Refusal> {
        let file = open(path, Access::Read)?;
        let (header, _) = header_of(&file)?;
        Ok(Opened { file, header })
    }

    /// What the file says about itself.
    pub(crate) fn header(&self) -> &Header {
        &self.header
    }

    /// The values of a range, which was planned with this file's header.
    pub(crate) fn values(&self, fetch: &Fetch) -> Result<Vec<Option<f64>>, Refusal> {
        let read = |bytes: &mut [u8], offset| self.file.read_exact_at(bytes, offset);
        let mut base = [0; 4];
        read(&mut base, fetch.base_read().offset).map_err(refuse("read"))?;
        let reads = fetch.reads(u32::from_be_bytes(base));
        let mut bytes = vec![0; reads.total_bytes()];
        for transfer in reads.transfers() {
            let place = &mut bytes[transfer.start..transfer.start + transfer.len];
            read(place, transfer.offset).map_err(refuse("read"))?;
        }
        let mut values = Vec::new();
        fetch.decode(&bytes, &mut values);
        Ok(values)
    }
}

/// A file under its exclusive `flock` that still has its name.
#[derive(Debug)]
pub(crate) struct Held {
    path: PathBuf,
    file: File,
}

impl Held {
    /// Opens a file and waits for its lock.
    pub(crate) fn open(path: &Path, access: Access) -> Result<Held, Refusal> {
        let refused = refuse("lock");
        let begun = Instant::now();
        while begun.elapsed() < LOCK_WAIT {
            let file = open(path, access)?;
            if try_lock(&file).map_err(&refused)? {
                let held = Held { path: path.to_owned(), file };
                if held.is(path).map_err(&refused)? {
                    return Ok(held);
                }
                continue;
            }
            thread::sleep(LOCK_RETRY);
        }
        Err(refused(io::Error::new(io::ErrorKind::WouldBlock, "somebody else keeps the lock")))
    }

    /// Whether a path leads to this file.
    pub(crate) fn is(&self, path: &Path) -> io::Result<bool> {
        let (ours, theirs) = (self.file.metadata()?, fs::metadata(path)?);
        Ok((ours.dev(), ours.ino()) == (theirs.dev(), theirs.ino()))
    }

    /// Its name.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The open file.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    /// Reads the whole file.
    pub(crate) fn read(&self) -> Result<WholeFile, Refusal> {
        whole(&self.file)
    }

    /// Reads the header.
    pub(crate) fn read_header(&self) -> Result<Header, Refusal> {
        Ok(header_of(&self.file)?.0)
    }

    /// Does what a job that was begun with this file's header asks for.
    pub(crate) fn run(&self, job: &mut Update) -> Result<Outcome, Refusal> {
        loop {
            match job.step() {
                Step::Read => {
                    let (transfers, arena) = job.reads();
                    for t in transfers {
                        let place = &mut arena[t.start..t.start + t.len];
                        self.file.read_exact_at(place, t.offset).map_err(refuse("read"))?;
                    }
                }
                Step::Write => {
                    let (transfers, arena) = job.writes();
                    for t in transfers {
                        self.write_at(&arena[t.start..t.start + t.len], t.offset)?;
                    }
                }
                Step::Done => return Ok(job.outcome()),
            }
        }
    }

    /// Writes bytes at an offset.
    pub(crate) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Refusal> {
        self.file.write_all_at(bytes, offset).map_err(refuse("write"))
    }

    /// Writes what changed in memory.
    pub(crate) fn write(&self, whole: &mut WholeFile) -> Result<(), Refusal> {
        whole.written().try_for_each(|(offset, bytes)| self.write_at(bytes, offset))
    }
}

fn header_of(file: &File) -> Result<(Header, u64), Refusal> {
    let refused = refuse("read");
    let bytes = file.metadata().map_err(&refused)?.len();
    let mut head = [0; HEADER_BYTES_MAX];
    let mut count = 0;
    while count < head.len() {
        let offset = u64::try_from(count).expect("a few hundred");
        match file.read_at(&mut head[count..], offset) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refused(error)),
        }
    }
    let header = Header::parse(&head[..count], bytes).map_err(Refusal::Header)?;
    Ok((header, bytes))
}

/// Reads a whole file. The length is checked before memory is allocated, and bounds the read even
/// if the file grows meanwhile.
fn whole(file: &File) -> Result<WholeFile, Refusal> {
    let refused = refuse("read");
    let length = file.metadata().map_err(&refused)?.len();
    if length > TOOL_FILE_BYTES_MAX {
        return Err(Refusal::TooLong(length));
    }
    let (header, _) = header_of(file)?;
    let bytes_expected = usize::try_from(header.file_bytes()).expect("usize has 64 bits");
    let mut bytes = Vec::with_capacity(bytes_expected + 1);
    file.take(TOOL_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(refused)?;
    WholeFile::parse(bytes).map_err(Refusal::Header)
}
