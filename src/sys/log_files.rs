//! The files of the write-ahead log: one directory of segments, all of one length.
//!
//! A segment is opened for writes that reach stable storage before they return, past the page cache
//! (`O_DIRECT|O_DSYNC`); where the file system has no direct I/O, for buffered ones that a
//! `fdatasync` follows. What is made, renamed or deleted is durable after
//! [`LogDirectory::sync`].

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use crate::sys::new_file::{make_directories, reserve};

/// What a write must survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// The end of the process: the page cache is enough.
    Process,
    /// A loss of power.
    Power,
    /// The same, without direct I/O even where there is.
    PowerBuffered,
}

/// How writes to an open file become durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// They do not have to.
    None,
    /// They are when they return.
    WithWrite,
    /// By a sync of the file's data after them.
    After,
}

/// An open segment.
#[derive(Debug)]
pub struct LogFile {
    file: File,
    mode: SyncMode,
}

impl LogFile {
    /// The file, for the ring.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    /// How its writes become durable.
    pub fn mode(&self) -> SyncMode {
        self.mode
    }

    /// Its length in bytes.
    pub fn bytes(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }
}

/// The log directory.
#[derive(Debug)]
pub struct LogDirectory {
    path: PathBuf,
    directory: File,
}

impl LogDirectory {
    /// Opens the directory; creates it durably if it is missing.
    pub fn open(path: &Path) -> io::Result<LogDirectory> {
        make_directories(path)?;
        Ok(LogDirectory { path: path.to_owned(), directory: File::open(path)? })
    }

    /// The names of its files; names that are not UTF-8 are not ours.
    pub fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(&self.path)? {
            names.extend(entry?.file_name().into_string());
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Reads a whole file. What the disk cannot read of it comes as zeros; the second number is how
    /// many bytes these are.
    pub fn read(&self, name: &str) -> io::Result<(Vec<u8>, u64)> {
        let path = self.path.join(name);
        match std::fs::read(&path) {
            Err(error) if error.raw_os_error() == Some(libc::EIO) => read_around(&path),
            result => result.map(|bytes| (bytes, 0)),
        }
    }

    /// Brings a whole file to stable storage.
    pub fn sync_file(&self, name: &str) -> io::Result<()> {
        File::open(self.path.join(name))?.sync_all()
    }

    /// Reads no more than the first bytes of a file.
    pub fn read_first(&self, name: &str, bytes_max: usize) -> io::Result<Vec<u8>> {
        let file = File::open(self.path.join(name))?;
        let (mut bytes, mut count) = (vec![0; bytes_max], 0);
        while count < bytes_max {
            match file.read_at(&mut bytes[count..], count as u64)? {
                0 => break,
                more => count += more,
            }
        }
        bytes.truncate(count);
        Ok(bytes)
    }

    /// Creates a file of this length with allocated blocks. It must not exist; when the disk is
    /// full none is left behind.
    pub fn create(&self, name: &str, bytes: u64) -> io::Result<()> {
        let path = self.path.join(name);
        let file = OpenOptions::new().write(true).create_new(true).mode(0o644).open(&path)?;
        reserve(&file, bytes).inspect_err(|_| {
            // The name is a spare's: a file that stays is found and deleted at the next start.
            let _ = std::fs::remove_file(&path);
        })
    }

    /// Opens a file for writes of whole blocks.
    pub fn open_file(&self, name: &str, durability: Durability) -> io::Result<LogFile> {
        let path = self.path.join(name);
        let open = |flags| OpenOptions::new().write(true).custom_flags(flags).open(&path);
        if durability == Durability::Power {
            match open(libc::O_DIRECT | libc::O_DSYNC) {
                Ok(file) => return Ok(LogFile { file, mode: SyncMode::WithWrite }),
                Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
                Err(error) => return Err(error),
            }
        }
        let mode = match durability {
            Durability::Process => SyncMode::None,
            Durability::Power | Durability::PowerBuffered => SyncMode::After,
        };
        Ok(LogFile { file: open(0)?, mode })
    }

    /// Gives a file another name, in place of any file that has it.
    pub fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        std::fs::rename(self.path.join(from), self.path.join(to))
    }

    /// Deletes a file.
    pub fn remove(&self, name: &str) -> io::Result<()> {
        std::fs::remove_file(self.path.join(name))
    }

    /// Deletes files atomically as a set: creates the empty file `word`, which marks the others as
    /// void, deletes them, and then the mark. After a failure or a crash it can be repeated. Files
    /// in `kept` stay under a second name.
    pub fn remove_all(
        &self,
        word: &str,
        names: &[String],
        kept: &[(String, String)],
    ) -> io::Result<()> {
        // Before the mark, because after it they are not read; as a link, because before it they
        // must not be missing.
        for (name, aside) in kept {
            let linked = std::fs::hard_link(self.path.join(name), self.path.join(aside));
            // Done before, or not possible here.
            if let Err(error) = linked.as_ref()
                && error.kind() != io::ErrorKind::AlreadyExists
            {
                log::debug!("link log segment failed file={name} error={error}");
            }
        }
        let path = self.path.join(word);
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
        self.sync()?;
        for (name, aside) in kept {
            if !self.path.join(aside).exists() {
                self.rename(name, aside)?;
            }
        }
        for name in names.iter().filter(|name| *name != word) {
            match self.remove(name) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                result => result?,
            }
        }
        self.sync()?;
        self.remove(word)
    }

    /// Brings all changes of names to stable storage.
    pub fn sync(&self) -> io::Result<()> {
        self.directory.sync_all()
    }
}

/// Reads a file with bad sectors, a page at a time.
fn read_around(path: &Path) -> io::Result<(Vec<u8>, u64)> {
    const PAGE_BYTES: usize = 4_096;
    let file = File::open(path)?;
    let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
    let mut bytes = vec![0; length];
    let mut bad_bytes = 0;
    for (page, offset) in bytes.chunks_mut(PAGE_BYTES).zip((0u64..).step_by(PAGE_BYTES)) {
        if file.read_exact_at(page, offset).is_err() {
            page.fill(0);
            bad_bytes += page.len() as u64;
        }
    }
    log::error!("read log segment failed in part file={} bad_bytes={bad_bytes}", path.display());
    Ok((bytes, bad_bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd;
    use std::os::unix::fs::MetadataExt;

    fn directory(name: &str) -> (PathBuf, LogDirectory) {
        let path = std::env::temp_dir().join(format!("carbyne-log-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        let log = LogDirectory::open(&path.join("deep")).unwrap();
        (path, log)
    }

    #[test]
    fn files_are_made_whole_renamed_and_deleted() {
        let (path, log) = directory("names");
        log.create("a", 1 << 20).unwrap();
        let made = std::fs::metadata(path.join("deep/a")).unwrap();
        assert_eq!((made.len(), made.blocks() * 512 >= 1 << 20), (1 << 20, true));
        assert_eq!(log.create("a", 4096).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        log.create("b", 4096).unwrap();
        log.rename("a", "b").unwrap();
        assert_eq!(log.names().unwrap(), ["b"]);
        let (bytes, bad_bytes) = log.read("b").unwrap();
        assert_eq!((bytes.len(), bad_bytes), (1 << 20, 0));
        assert_eq!(log.read_first("b", 4096).unwrap().len(), 4096);
        assert_eq!(log.read_first("b", 2 << 20).unwrap().len(), 1 << 20);
        log.remove("b").unwrap();
        log.sync().unwrap();
        assert!(log.names().unwrap().is_empty());
        assert_eq!(log.remove("b").unwrap_err().kind(), io::ErrorKind::NotFound);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn files_go_together_or_are_said_not_to_count() {
        let (path, log) = directory("together");
        let names = ["a", "b", "c"].map(str::to_owned);
        log.create("a", 4096).unwrap();
        log.create("c", 4096).unwrap();
        std::fs::create_dir(path.join("deep/b")).unwrap();
        let kept = [("c".to_owned(), "c.kept".to_owned())];
        assert!(log.remove_all("word", &names, &kept).is_err(), "a directory is not deleted");
        assert_eq!(log.names().unwrap(), ["b", "c", "c.kept", "word"]);
        std::fs::remove_dir(path.join("deep/b")).unwrap();
        log.remove_all("word", &names, &kept).unwrap();
        assert_eq!(log.names().unwrap(), ["c.kept"]);
        assert_eq!(log.read("c.kept").unwrap().0.len(), 4096);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn a_file_that_finds_no_room_leaves_no_name() {
        let (path, log) = directory("room");
        // More than any file system holds.
        assert!(log.create("a", 1 << 62).is_err());
        assert!(log.names().unwrap().is_empty());
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn each_durability_has_its_mode() {
        let (path, log) = directory("mode");
        log.create("a", 8192).unwrap();
        let mode = |durability| log.open_file("a", durability).unwrap().mode();
        assert_eq!(mode(Durability::Process), SyncMode::None);
        assert_eq!(mode(Durability::PowerBuffered), SyncMode::After);
        assert_ne!(mode(Durability::Power), SyncMode::None);
        assert!(log.open_file("b", Durability::Power).is_err());
        // A file system without direct I/O.
        let proc = LogDirectory::open(Path::new("/proc/self")).unwrap();
        assert_eq!(proc.open_file("comm", Durability::Power).unwrap().mode(), SyncMode::After);
        std::fs::remove_dir_all(path).unwrap();
    }

    #[test]
    fn the_kernel_knows_what_a_file_was_opened_for() {
        let (path, log) = directory("flags");
        log.create("a", 8192).unwrap();
        let flags = |durability| {
            let file = log.open_file("a", durability).unwrap();
            // SAFETY: it asks for the flags of a descriptor that is open for the call.
            unsafe { libc::fcntl(file.as_fd().as_raw_fd(), libc::F_GETFL) }
        };
        let both = libc::O_DIRECT | libc::O_DSYNC;
        let direct =
            File::options().write(true).custom_flags(libc::O_DIRECT).open(path.join("deep/a"));
        // A sync of the data follows the write where there is no direct I/O.
        let wanted = if direct.is_ok() { both } else { 0 };
        assert_eq!(flags(Durability::Power) & both, wanted);
        assert_eq!(flags(Durability::PowerBuffered) & both, 0);
        assert_eq!(flags(Durability::Process) & both, 0);
        std::fs::remove_dir_all(path).unwrap();
    }
}
