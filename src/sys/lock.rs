//! Exclusive locks (`flock`): of a data directory or log directory, and of one file.

use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::Duration;

use crate::sys::new_file::is_full;

/// The file whose lock is that of its directory.
const LOCK_NAME: &str = ".carbyne.lock";

/// Tries for a taken lock, and the time between two tries.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// A lock on a data directory; free again when dropped or when the process ends, however.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Writes a line after the process number, for [`look_at_lock`].
    pub fn tell(&self, text: &str) {
        let text = format!("{}\n{text}\n", std::process::id());
        // One write, so that the number is never missing.
        let written = self.file.write_all_at(text.as_bytes(), 0);
        let told = written.and_then(|()| self.file.set_len(text.len() as u64));
        if let Err(error) = told {
            log::debug!("write to the lock file failed error={error}");
        }
    }
}

/// What [`look_at_lock`] finds.
#[derive(Debug, PartialEq, Eq)]
pub enum LockState {
    /// No process holds it; the line of the last holder.
    Free(String),
    /// The process that holds it, and its last line.
    Held(u32, String),
}

/// Locks a data directory for this process. The error says who holds it.
pub fn lock_directory(directory: &Path) -> io::Result<DirectoryLock> {
    let path = directory.join(LOCK_NAME);
    let file = File::options().create(true).truncate(false).read(true).write(true).open(&path)?;
    if !try_lock_soon(&file)? {
        let holder = std::fs::read_to_string(&path).unwrap_or_default();
        let holder = holder.lines().next().unwrap_or_default();
        let text = format!("in use by process {holder}");
        return Err(io::Error::new(io::ErrorKind::WouldBlock, text));
    }
    // Not truncated first: on a full disk the block could not be allocated again.
    let text = format!("{}\n", std::process::id());
    let written = file.write_all_at(text.as_bytes(), 0);
    match written.and_then(|()| file.set_len(text.len() as u64)) {
        // The lock is held; only the process number is missing from the file.
        Err(error) if is_full(&error) => {
            log::error!("write lock file failed file={} error={error}", path.display());
        }
        result => result?,
    }
    Ok(DirectoryLock { file })
}

/// Reads the lock of a data directory without keeping it.
pub fn look_at_lock(directory: &Path) -> io::Result<LockState> {
    let path = directory.join(LOCK_NAME);
    let file = File::open(&path)?;
    let mut tries = 0;
    loop {
        tries += 1;
        let is_free = match file.try_lock_shared() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => false,
            Err(TryLockError::Error(error)) => return Err(error),
        };
        let text = std::fs::read_to_string(&path)?;
        let (holder, said) = text.split_once('\n').unwrap_or((&text, ""));
        let said = said.trim().to_owned();
        if is_free {
            return Ok(LockState::Free(said));
        }
        // Callers send signals to this process, so it must be the holder: process numbers are
        // reused and differ in a container. An ending process holds the lock for a moment longer.
        let process = holder.parse().ok();
        if let Some(process) = process.filter(|&process| has_open(process, &file)) {
            return Ok(LockState::Held(process, said));
        }
        if tries == LOCK_TRIES {
            let text = format!("{} names process {holder}, which does not hold it", path.display());
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        std::thread::sleep(LOCK_PAUSE);
    }
}

/// Whether a process has this file open.
fn has_open(process: u32, file: &File) -> bool {
    let identity = |metadata: std::fs::Metadata| (metadata.dev(), metadata.ino());
    let wanted = file.metadata().map(identity).ok();
    let Ok(entries) = std::fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    // Descriptors closed meanwhile are skipped.
    let found = entries.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok());
    found.map(identity).any(|identity| Some(identity) == wanted)
}

/// Takes the file's exclusive lock (`flock`, as whisper and go-carbon do) if it is free.
/// `Ok(false)`: another process holds it, or has replaced the file under its name, so that writes
/// to this one would be lost.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// Like [`try_lock`], for up to 80 ms: [`look_at_lock`] takes the lock for a moment, and a killed
/// process may hold its locks for a moment after its end.
pub fn try_lock_soon(file: &File) -> io::Result<bool> {
    for _ in 1..LOCK_TRIES {
        if try_lock(file)? {
            return Ok(true);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    try_lock(file)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn new_directory(name: &str) -> PathBuf {
        let directory = std::env::temp_dir().join(format!("carbyne-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).unwrap();
        directory
    }

    #[test]
    fn a_file_that_lost_its_name_cannot_be_locked() {
        let directory = new_directory("lock-file");
        let path = directory.join("a.wsp");
        let make = || File::create(&path).unwrap();
        let (first, other) = (make(), File::open(&path).unwrap());
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&other).unwrap(), "somebody holds it");
        std::fs::remove_file(&path).unwrap();
        make();
        drop(first);
        assert!(!try_lock(&other).unwrap(), "it was replaced");
        assert!(try_lock(&File::open(&path).unwrap()).unwrap());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_directory_is_locked_once() {
        let directory = new_directory("lock-directory");
        let lock = lock_directory(&directory).unwrap();
        let refused = lock_directory(&directory).unwrap_err().to_string();
        assert_eq!(refused, format!("in use by process {}", std::process::id()));
        lock.tell("7 points left");
        let said = "7 points left".to_owned();
        assert_eq!(
            look_at_lock(&directory).unwrap(),
            LockState::Held(std::process::id(), said.clone())
        );
        drop(lock);
        assert_eq!(look_at_lock(&directory).unwrap(), LockState::Free(said));
        lock_directory(&directory).unwrap();
        std::fs::remove_dir_all(directory).unwrap();
    }
}
