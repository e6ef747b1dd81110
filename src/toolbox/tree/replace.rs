//! Replaces a file with a new one under the same name, while a node may be running.
//!
//! 1. The old file is held: under its exclusive `flock`, with its name
//!    ([`crate::toolbox::file`]). Writers
//!    that lock wait or come back: a node with `flock = true`, carbon-cache with
//!    `WHISPER_LOCK_WRITES`, go-carbon with `flock`.
//! 2. The new file is made beside it as `NAME.wsp.carbyne-resize`, which no Graphite program reads
//!    as a metric, with the old one's mode, owner and time of modification, and is synced.
//! 3. If the old file's bytes are other than those the new file was made of, a program writes
//!    without the lock: the file is not replaced.
//! 4. The new file is renamed over the old one, and the directory synced.
//!
//! At every moment there is one whole file under the name. A node opens each file for each update
//! and sees by the inode that this is another one. What an interruption can leave is a file of
//! step 2; its maker held a lock on it, so an unlocked one can be removed.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};

use crate::sys::lock::{try_lock, try_lock_soon};

use crate::toolbox::file::{Held, Refusal, refuse};

/// What the name of an unfinished file ends in.
pub(crate) const UNFINISHED: &str = ".wsp.carbyne-resize";

/// Keeps a copy of a file under another name, replacing what is there.
pub(crate) fn keep_copy(held: &Held, copy: &Path) -> Result<(), Refusal> {
    let keep = || {
        fs::copy(held.path(), copy)?;
        let copied = File::open(copy)?;
        dress(held.file(), &copied)?;
        copied.sync_all()
    };
    keep().map_err(refuse("keep a copy"))
}

/// Puts new bytes under the name of a file; `made_of` is what it held when they were made.
pub(crate) fn replace(held: &Held, made_of: &[u8], new: &[u8]) -> Result<(), Refusal> {
    let refused = refuse("replace");
    let unfinished = unfinished_of(held.path());
    match fs::remove_file(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(refused(error)),
        _ => {}
    }
    let done = make(&unfinished, held.file(), new).map_err(&refused).and_then(|_lock| {
        if !still_holds(held.file(), made_of).map_err(&refused)? {
            return Err(Refusal::Disturbed);
        }
        fs::rename(&unfinished, held.path()).map_err(&refused)
    });
    if done.is_err() {
        // It is an error already; what is left is removed by the next run.
        let _ = fs::remove_file(&unfinished);
    }
    done?;
    sync_directory_of(held.path()).map_err(refused)
}

/// Writes and syncs the new file, and keeps it locked.
fn make(unfinished: &Path, old: &File, new: &[u8]) -> io::Result<File> {
    let mut file = File::options().write(true).create_new(true).open(unfinished)?;
    if !try_lock(&file)? {
        return Err(io::Error::from(io::ErrorKind::WouldBlock));
    }
    file.write_all(new)?;
    dress(old, &file)?;
    file.sync_all()?;
    Ok(file)
}

/// Gives another file the mode, owner and time of modification of this one.
fn dress(file: &File, other: &File) -> io::Result<()> {
    let (ours, theirs) = (file.metadata()?, other.metadata()?);
    if (ours.uid(), ours.gid()) != (theirs.uid(), theirs.gid()) {
        fchown(other, Some(ours.uid()), Some(ours.gid()))?;
    }
    other.set_permissions(fs::Permissions::from_mode(ours.mode() & 0o7777))?;
    other.set_times(fs::FileTimes::new().set_modified(ours.modified()?))
}

fn still_holds(file: &File, bytes: &[u8]) -> io::Result<bool> {
    let mut part = [0; 1 << 16];
    for (at, known) in bytes.chunks(part.len()).enumerate() {
        let offset = u64::try_from(at * part.len()).expect("a file's length is a u64");
        file.read_exact_at(&mut part[..known.len()], offset)?;
        if part[..known.len()] != *known {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Removes what an interruption left; `Ok(false)` while another process holds its lock.
pub(crate) fn remove_unfinished(path: &Path) -> io::Result<bool> {
    let file = File::open(path)?;
    if !try_lock_soon(&file)? {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

/// Whether a path is that of an unfinished file.
pub(crate) fn is_unfinished(path: &Path) -> bool {
    path.as_os_str().as_bytes().ends_with(UNFINISHED.as_bytes())
}

/// The file that is made beside another one to take its place.
pub(crate) fn unfinished_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(UNFINISHED.trim_start_matches(".wsp"));
    PathBuf::from(name)
}

/// Syncs the directory that a path lies in.
pub(crate) fn sync_directory_of(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}
