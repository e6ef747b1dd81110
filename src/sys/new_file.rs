//! New files and directories: each appears under its name complete or not at all.
//!
//! A file is made without a name (`O_TMPFILE`), filled, and linked. File systems without
//! `O_TMPFILE` get it under a name that no Graphite program reads, and then renamed.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sys::at::{FileIdentity, how, open_raw, remove, rename_new};

/// How new files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Space is reserved up front; a full disk shows at creation.
    Reserved,
    /// Only written parts take space.
    Sparse,
}

/// Makes a file that appears under its name after `fill` has written it.
pub(super) fn create_in<F: Fn(&File) -> io::Result<FileIdentity>>(
    parent: &OwnedFd,
    name: &CStr,
    fill: F,
) -> io::Result<(File, FileIdentity)> {
    let flags = libc::O_TMPFILE | libc::O_RDWR | libc::O_CLOEXEC;
    match open_raw(parent.as_raw_fd(), c".", &how(flags, 0o644, 0)) {
        Ok(fd) => {
            let file = File::from(fd);
            let identity = fill(&file)?;
            link_nameless(&file, parent, name)?;
            Ok((file, identity))
        }
        Err(error) if lacks_tmpfile(&error) => create_and_rename(parent, name, fill),
        Err(error) => Err(error),
    }
}

fn lacks_tmpfile(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::EISDIR | libc::EINVAL))
}

fn link_nameless(file: &File, parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let (from, to) = (file.as_raw_fd(), parent.as_raw_fd());
    let flags = libc::AT_EMPTY_PATH;
    // SAFETY: both paths are valid C strings and both descriptors are open for the call.
    let status = unsafe { libc::linkat(from, c"".as_ptr(), to, name.as_ptr(), flags) };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    // Before Linux 6.10 only the privileged may; others go a longer way round.
    if error.kind() == io::ErrorKind::NotFound {
        link_through_proc(file, parent, name)
    } else {
        Err(error)
    }
}

fn link_through_proc(file: &File, parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    let source =
        CString::new(format!("/proc/self/fd/{}", file.as_raw_fd())).expect("a number holds no NUL");
    // SAFETY: both paths are valid C strings and both descriptors are open for the call.
    let status = unsafe {
        libc::linkat(
            libc::AT_FDCWD,
            source.as_ptr(),
            parent.as_raw_fd(),
            name.as_ptr(),
            libc::AT_SYMLINK_FOLLOW,
        )
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// For file systems without `O_TMPFILE`: fills the file under a temporary name.
fn create_and_rename<F: Fn(&File) -> io::Result<FileIdentity>>(
    parent: &OwnedFd,
    name: &CStr,
    fill: F,
) -> io::Result<(File, FileIdentity)> {
    let (file, temporary) = open_temporary(parent)?;
    let result = fill(&file).and_then(|identity| {
        rename_new(parent, &temporary, parent, name)?;
        Ok(identity)
    });
    if result.is_err() {
        remove(parent, &temporary);
    }
    result.map(|identity| (file, identity))
}

/// A new file under an unused name. An earlier process of the same number may have left files,
/// which may be linked as series.
fn open_temporary(parent: &OwnedFd) -> io::Result<(File, CString)> {
    // Several writers may create files in one directory.
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let flags = libc::O_CREAT | libc::O_EXCL | libc::O_RDWR;
    loop {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let label = format!(".{:x}-{number:x}.carbyne", std::process::id());
        let temporary = CString::new(label).expect("a number holds no NUL");
        match open_raw(parent.as_raw_fd(), &temporary, &how(flags, 0o644, 0)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            opened => return opened.map(|fd| (File::from(fd), temporary)),
        }
    }
}

/// Sets the length and allocates blocks; only the length where the file system cannot allocate.
pub fn reserve(file: &File, bytes: u64) -> io::Result<()> {
    let length = i64::try_from(bytes).expect("a Whisper file is shorter than 2^63 bytes");
    // SAFETY: plain numbers and a descriptor that is open for the call.
    let status = unsafe { libc::fallocate(file.as_raw_fd(), 0, 0, length) };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => file.set_len(bytes),
        _ => Err(error),
    }
}

/// Creates a directory and its parents, durably, if they are missing.
pub fn make_directories(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if parent != path {
        make_directories(parent)?;
    }
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists || !path.is_dir() => {
            return Err(error);
        }
        _ => {}
    }
    File::open(parent)?.sync_all()
}

/// Whether the disk or a quota is full: later tries may succeed.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt;

    use super::*;
    use crate::sys::at::identify;

    #[test]
    fn a_file_gets_its_name_with_all_that_is_in_it_and_takes_nobody_elses() {
        let name = format!("carbyne-new-file-{}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(&directory).unwrap();
        let parent = OwnedFd::from(File::open(&directory).unwrap());
        let fill = |file: &File| {
            file.write_all_at(b"twenty bytes in all.", 0)?;
            identify(file)
        };
        let broken = |_: &File| Err(io::Error::from(io::ErrorKind::StorageFull));
        // Left by an earlier process of the same number.
        let left = |number: u64| format!(".{:x}-{number:x}.carbyne", std::process::id());
        (0..100).for_each(|number| fs::write(directory.join(left(number)), "a series").unwrap());
        for make in [create_in::<fn(&File) -> _>, create_and_rename::<fn(&File) -> _>] {
            assert!(make(&parent, c"broken.wsp", broken).is_err());
            let (file, identity) = make(&parent, c"new.wsp", fill).unwrap();
            // The name that it gets is a change, too.
            let named = identify(&file).unwrap();
            let changed = named.changed;
            assert_eq!((identity.bytes, named), (20, FileIdentity { changed, ..identity }));
            let taken = make(&parent, c"new.wsp", fill).unwrap_err();
            assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read_dir(&directory).unwrap().count(), 101);
            fs::remove_file(directory.join("new.wsp")).unwrap();
        }
        for number in 0..100 {
            assert_eq!(fs::read(directory.join(left(number))).unwrap(), b"a series");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
