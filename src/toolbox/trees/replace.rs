//! A file exchanged for a new one under its name, while a node may be running.
//!
//! 1. The old file's exclusive `flock` is taken, and that it still has its name is looked up
//!    after that. Writers that lock wait or come back: a node with `flock = true`, carbon-cache
//!    with `WHISPER_LOCK_WRITES`, go-carbon with `flock`.
//! 2. The new file is made beside it as `NAME.wsp.carbyne-resize`, which no Graphite program reads
//!    as a metric, with the old one's mode, owner and time of modification, and is synced.
//! 3. If the old file's bytes are other than those the new file was made of, somebody writes
//!    without the lock: nothing is exchanged.
//! 4. The new file is renamed over the old one, and the directory synced.
//!
//! At every moment there is one whole file under the name. A node opens each file for each update
//! and sees by the inode that this is another one. What an interruption can leave is a file of
//! step 2; its maker held a lock on it, so that whoever finds it unlocked may remove it.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use crate::sys::files::try_lock;
use crate::whisper::{HEADER_BYTES_MAX, Header, HeaderError};

/// What the name of an unfinished file ends in.
pub(super) const UNFINISHED: &str = ".wsp.carbyne-resize";

/// Longest wait for a lock. A node holds one for the milliseconds of one batch.
const LOCK_WAIT: Duration = Duration::from_secs(10);

/// How long between two attempts.
const LOCK_RETRY: Duration = Duration::from_millis(5);

/// Why a file stays as it is.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It is no Whisper file that can be used.
    Header(HeaderError),
    /// It cannot be opened, locked, read or replaced: what was tried, and why not.
    Io(&'static str, io::Error),
    /// Somebody changed it without taking the lock.
    Disturbed,
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Refusal::Header(error) => error.fmt(f),
            Refusal::Io(action, error) => write!(f, "{action}: {error}"),
            Refusal::Disturbed => f.write_str("changed meanwhile by a writer that takes no lock"),
        }
    }
}

/// The header of a file, by its first bytes alone.
pub(super) fn read_header(file: &File) -> Result<Header, Refusal> {
    let refuse = |error| Refusal::Io("read", error);
    let file_bytes = file.metadata().map_err(refuse)?.len();
    let mut head = [0; HEADER_BYTES_MAX];
    let mut count = 0;
    while count < head.len() {
        match file.read_at(&mut head[count..], u64::try_from(count).expect("a few hundred")) {
            Ok(0) => break,
            Ok(more) => count += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(refuse(error)),
        }
    }
    Header::parse(&head[..count], file_bytes).map_err(Refusal::Header)
}

/// Opens a regular file for reading, without waiting for the other end of a pipe.
pub(super) fn open(path: &Path) -> Result<File, Refusal> {
    let refuse = |error| Refusal::Io("open", error);
    if !fs::metadata(path).map_err(refuse)?.is_file() {
        let text = "not a regular file";
        return Err(refuse(io::Error::new(io::ErrorKind::InvalidInput, text)));
    }
    File::open(path).map_err(refuse)
}

/// A file that nobody else changes who asks first, and that has its name.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    file: File,
}

impl Held {
    /// Opens a file and waits for its lock.
    pub(super) fn open(path: &Path) -> Result<Held, Refusal> {
        let refuse = |error| Refusal::Io("lock", error);
        let begun = Instant::now();
        while begun.elapsed() < LOCK_WAIT {
            let file = open(path)?;
            if try_lock(&file).map_err(refuse)? {
                let (open, named) = (file.metadata(), fs::metadata(path));
                let (open, named) = (open.map_err(refuse)?, named.map_err(refuse)?);
                if (open.dev(), open.ino()) == (named.dev(), named.ino()) {
                    return Ok(Held { path: path.to_owned(), file });
                }
                continue;
            }
            thread::sleep(LOCK_RETRY);
        }
        Err(refuse(io::Error::new(io::ErrorKind::WouldBlock, "somebody else keeps the lock")))
    }

    /// The header, read under the lock.
    pub(super) fn read_header(&self) -> Result<Header, Refusal> {
        read_header(&self.file)
    }

    /// The file up to the end of its last archive.
    pub(super) fn read(&self, header: &Header) -> Result<Vec<u8>, Refusal> {
        let refuse = |error| Refusal::Io("read", error);
        let length = usize::try_from(header.file_bytes()).expect("usize has 64 bits");
        let mut bytes = vec![0; length];
        self.file.read_exact_at(&mut bytes, 0).map_err(refuse)?;
        Ok(bytes)
    }

    /// Keeps a copy of the file under another name, replacing what is there.
    pub(super) fn copy_to(&self, copy: &Path) -> Result<(), Refusal> {
        let refuse = |error| Refusal::Io("keep a copy", error);
        fs::copy(&self.path, copy).map_err(refuse)?;
        let copied = File::open(copy).map_err(refuse)?;
        self.dress(&copied).map_err(refuse)?;
        copied.sync_all().map_err(refuse)
    }

    /// Puts new bytes under the file's name; `made_of` is what [`Held::read`] gave.
    pub(super) fn replace(self, made_of: &[u8], new: &[u8]) -> Result<(), Refusal> {
        let refuse = |error| Refusal::Io("replace", error);
        let unfinished = unfinished_of(&self.path);
        match fs::remove_file(&unfinished) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refuse(error)),
            _ => {}
        }
        let done = self.make(&unfinished, new).map_err(refuse).and_then(|_lock| {
            if !self.still_holds(made_of).map_err(refuse)? {
                return Err(Refusal::Disturbed);
            }
            fs::rename(&unfinished, &self.path).map_err(refuse)
        });
        if done.is_err() {
            // It is an error already; what is left is removed by the next run.
            let _ = fs::remove_file(&unfinished);
        }
        done?;
        sync_directory_of(&self.path).map_err(refuse)
    }

    /// Writes and syncs the new file, and keeps it locked.
    fn make(&self, unfinished: &Path, new: &[u8]) -> io::Result<File> {
        let mut file = File::options().write(true).create_new(true).open(unfinished)?;
        if !try_lock(&file)? {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        file.write_all(new)?;
        self.dress(&file)?;
        file.sync_all()?;
        Ok(file)
    }

    /// Gives another file this one's mode, owner and time of modification.
    fn dress(&self, other: &File) -> io::Result<()> {
        let (ours, theirs) = (self.file.metadata()?, other.metadata()?);
        if (ours.uid(), ours.gid()) != (theirs.uid(), theirs.gid()) {
            fchown(other, Some(ours.uid()), Some(ours.gid()))?;
        }
        other.set_permissions(fs::Permissions::from_mode(ours.mode() & 0o7777))?;
        other.set_times(fs::FileTimes::new().set_modified(ours.modified()?))
    }

    fn still_holds(&self, bytes: &[u8]) -> io::Result<bool> {
        let mut part = [0; 1 << 16];
        for (at, known) in bytes.chunks(part.len()).enumerate() {
            let offset = u64::try_from(at * part.len()).expect("a file's length is a u64");
            self.file.read_exact_at(&mut part[..known.len()], offset)?;
            if part[..known.len()] != *known {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Removes what an interruption left; `Ok(false)` when somebody is still working on it.
pub(super) fn remove_unfinished(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    if !try_lock(&file)? {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

/// Whether a path is that of an unfinished file.
pub(super) fn is_unfinished(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(UNFINISHED.as_bytes())
}

fn unfinished_of(path: &Path) -> PathBuf {
    let suffix = UNFINISHED.trim_start_matches(".wsp");
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

/// Syncs the directory that a path lies in.
pub(super) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Reads a text file of at most this many bytes.
pub(super) fn read_text(path: &Path, bytes_max: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes_max + 1).read_to_string(&mut text)?;
    if text.len() as u64 > bytes_max {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("over {bytes_max} bytes")));
    }
    Ok(text)
}
