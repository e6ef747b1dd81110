//! Files as tools meet them: read whole and bounded, or held under a lock while they change.
//!
//! The lock is flock's exclusive one, the same that a node with `flock = true`, go-carbon and
//! Python whisper with `LOCK` take. Only the slots that changed are written.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use crate::limits::TOOL_FILE_BYTES_MAX;
use crate::whisper::{HEADER_BYTES_MAX, Header, WholeFile};

use super::Failure;

/// Reads the header of a file, and its length.
pub(super) fn read_header(path: &Path) -> Result<(Header, u64), Failure> {
    let file = open(path, false)?;
    header_of(&file).map_err(Failure::at(path))
}

/// Reads a whole file; no lock is taken, as by Python's tools.
pub(super) fn read(path: &Path) -> Result<WholeFile, Failure> {
    let file = open(path, false)?;
    whole(&file).map_err(Failure::at(path))
}

/// A file that nobody else changes who asks first.
#[derive(Debug)]
pub(super) struct Held {
    path: PathBuf,
    file: File,
}

impl Held {
    /// Opens a file for changes and waits for its lock.
    pub(super) fn open(path: &Path) -> Result<Held, Failure> {
        let file = open(path, true)?;
        file.lock().map_err(Failure::at(path))?;
        Ok(Held { path: path.to_owned(), file })
    }

    /// Reads the whole file.
    pub(super) fn read(&self) -> Result<WholeFile, Failure> {
        whole(&self.file).map_err(Failure::at(&self.path))
    }

    /// Reads the header.
    pub(super) fn read_header(&self) -> Result<Header, Failure> {
        Ok(header_of(&self.file).map_err(Failure::at(&self.path))?.0)
    }

    /// Writes bytes at an offset.
    pub(super) fn write_at(&self, bytes: &[u8], offset: u64) -> Result<(), Failure> {
        self.file.write_all_at(bytes, offset).map_err(Failure::at(&self.path))
    }

    /// Writes what changed in memory.
    pub(super) fn write(&self, whole: &mut WholeFile) -> Result<(), Failure> {
        whole.written().try_for_each(|(offset, bytes)| self.write_at(bytes, offset))
    }
}

/// Opens a regular file: opening a pipe would wait for its other end.
fn open(path: &Path, is_changed: bool) -> Result<File, Failure> {
    let metadata = fs::metadata(path).map_err(Failure::at(path))?;
    if !metadata.is_file() {
        return Err(Failure::at(path)("not a regular file"));
    }
    File::options().read(true).write(is_changed).open(path).map_err(Failure::at(path))
}

fn header_of(file: &File) -> Result<(Header, u64), String> {
    let bytes = file.metadata().map_err(text)?.len();
    let mut head = Vec::new();
    let head_bytes = u64::try_from(HEADER_BYTES_MAX).expect("a few hundred bytes");
    file.take(head_bytes).read_to_end(&mut head).map_err(text)?;
    let header = Header::parse(&head, bytes).map_err(text)?;
    Ok((header, bytes))
}

fn whole(mut file: &File) -> Result<WholeFile, String> {
    let length = file.metadata().map_err(text)?.len();
    if length > TOOL_FILE_BYTES_MAX {
        return Err(format!("{length} bytes, more than the {TOOL_FILE_BYTES_MAX} allowed"));
    }
    let mut bytes = Vec::new();
    file.by_ref().take(TOOL_FILE_BYTES_MAX).read_to_end(&mut bytes).map_err(text)?;
    WholeFile::parse(bytes).map_err(text)
}

fn text(error: impl ToString) -> String {
    error.to_string()
}
