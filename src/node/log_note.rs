//! The note `.carbyne.log` in the data directory: which log directory belongs to it.
//!
//! Points may be in the log and in no Whisper file. A node started with another log directory would
//! lose them silently, so [`abandoned`] compares the configured directory with the note first.
//!
//! It holds the inode number of the log directory, a space, its absolute path, a newline. The inode
//! number excludes a directory of the same name on a machine to which the tree was copied.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

const NAME: &str = ".carbyne.log";

/// The name of the note until it is complete.
const NAME_UNFINISHED: &str = ".carbyne.log.new";

/// The log directory of the last run, if it still exists and is not the configured one.
pub(super) fn abandoned(data: &Path, configured: &Path) -> Option<PathBuf> {
    let note = match fs::read(data.join(NAME)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        // Only the check is lost: the node starts.
        Err(error) => {
            log::warn!("read note of the log directory failed file={NAME} error={error}");
            return None;
        }
        Ok(note) => note,
    };
    let Some((inode, path)) = decode(&note) else {
        log::warn!("note of the log directory is damaged file={NAME}");
        return None;
    };
    let identity = |path: &Path| fs::metadata(path).map(|metadata| metadata.ino()).ok();
    let is_there = identity(&path) == Some(inode);
    let is_configured = fs::canonicalize(configured).is_ok_and(|configured| configured == path);
    (is_there && !is_configured).then_some(path)
}

/// Notes where the log is, durably.
pub(super) fn note(data: &Path, log: &Path) -> io::Result<()> {
    let path = fs::canonicalize(log)?;
    let mut note = format!("{} ", fs::metadata(&path)?.ino()).into_bytes();
    note.extend_from_slice(path.as_os_str().as_bytes());
    note.push(b'\n');
    if fs::read(data.join(NAME)).is_ok_and(|before| before == note) {
        return Ok(());
    }
    let unfinished = data.join(NAME_UNFINISHED);
    let mut file = File::create(&unfinished)?;
    file.write_all(&note).and_then(|()| file.sync_all()).inspect_err(|_| {
        let _ = fs::remove_file(&unfinished);
    })?;
    fs::rename(&unfinished, data.join(NAME))?;
    File::open(data)?.sync_all()
}

fn decode(note: &[u8]) -> Option<(u64, PathBuf)> {
    let (inode, path) = note.strip_suffix(b"\n")?.split_at_checked(memchr::memchr(b' ', note)?)?;
    let inode = std::str::from_utf8(inode).ok()?.parse().ok()?;
    let path = PathBuf::from(std::ffi::OsString::from_vec(path[1..].to_vec()));
    path.is_absolute().then_some((inode, path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_is_read_as_it_was_written() {
        let check = |note: &[u8], want: Option<(u64, &str)>| {
            let want = want.map(|(inode, path)| (inode, PathBuf::from(path)));
            assert_eq!(decode(note), want, "{}", String::from_utf8_lossy(note));
        };
        check(b"12 /var/log of mine\n", Some((12, "/var/log of mine")));
        check(b"12 /a\nb\n", Some((12, "/a\nb")));
        check(b"12 /var/log", None);
        check(b"12 var\n", None);
        check(b"x /var\n", None);
        check(b"12\n", None);
        check(b" \n", None);
        check(b"", None);
    }
}
