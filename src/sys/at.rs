//! System calls on paths below an open directory: `openat2`, `renameat2`, `linkat`, `fstat`.

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use io_uring::types::OpenHow;

/// Distinguishes a file from another one under the same name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileIdentity {
    /// The device that its file system is on.
    pub device: u64,
    /// The inode's number.
    pub inode: u64,
    /// The length in bytes.
    pub bytes: u64,
    /// A regular file; directories and devices are not.
    pub is_regular: bool,
    /// Hash of the inode change time, which no program can set back: differs after every change.
    pub changed: u32,
}

/// The identity of an open file.
pub fn identify(file: &impl AsRawFd) -> io::Result<FileIdentity> {
    // Not `File::metadata`: its `statx` costs more, and every update calls this.
    // SAFETY: an all-zero stat is a valid one.
    let mut stat: libc::stat = unsafe { std::mem::zeroed() };
    // SAFETY: the descriptor is open for the call, and the struct is the kernel's to fill.
    let status = unsafe { libc::fstat(file.as_raw_fd(), &raw mut stat) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(FileIdentity {
        device: stat.st_dev,
        inode: stat.st_ino,
        bytes: u64::try_from(stat.st_size).expect("a file is not shorter than nothing"),
        is_regular: stat.st_mode & libc::S_IFMT == libc::S_IFREG,
        changed: change_mark(stat.st_ctime, stat.st_ctime_nsec),
    })
}

/// 32 bits of a time: consecutive times always differ, any two with a chance of 1 to 2^-32.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the lower bits are what is kept"
)]
fn change_mark(seconds: i64, nanoseconds: i64) -> u32 {
    (nanoseconds as u32) ^ (seconds as u32).wrapping_mul(0x9e37_79b1)
}

pub(super) fn how(flags: i32, mode: u64, resolve: u64) -> OpenHow {
    let flags = u64::try_from(flags | libc::O_CLOEXEC).expect("open flags are positive");
    OpenHow::new().flags(flags).mode(mode).resolve(resolve)
}

pub(super) fn open_raw(directory: RawFd, path: &CStr, how: &OpenHow) -> io::Result<OwnedFd> {
    // SAFETY: path and how are valid for the call; openat2 reads `size_of::<OpenHow>()` bytes.
    let fd = unsafe {
        libc::syscall(libc::SYS_openat2, directory, path.as_ptr(), how, size_of::<OpenHow>())
    };
    let fd = i32::try_from(fd).expect("a descriptor has 32 bits");
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just returned this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Makes a descriptor that io_uring opened into an owned file.
pub fn adopt(descriptor: i32) -> File {
    assert!(descriptor >= 0, "{descriptor} is an error number, not a descriptor");
    // SAFETY: the descriptor was returned by an open of ours and has no other owner.
    File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A path as the kernel wants it. Names are free of NUL by validation.
pub fn c_path(path: &[u8]) -> CString {
    CString::new(path).expect("a validated name holds no NUL")
}

/// Splits a relative path into its directory (may be empty) and its last component.
pub(super) fn split(path: &CStr) -> (&[u8], &CStr) {
    let bytes = path.to_bytes_with_nul();
    let cut = memchr::memrchr(b'/', bytes);
    let (parent, name) = cut.map_or((&bytes[..0], bytes), |at| (&bytes[..at], &bytes[at + 1..]));
    (parent, CStr::from_bytes_with_nul(name).expect("a path ends in its only NUL"))
}

/// Renames; fails with `AlreadyExists` if the new name is taken.
pub(super) fn rename_new(old: &OwnedFd, from: &CStr, new: &OwnedFd, to: &CStr) -> io::Result<()> {
    // SAFETY: both paths are valid C strings and both descriptors are open for the call.
    let status = unsafe {
        libc::renameat2(
            old.as_raw_fd(),
            from.as_ptr(),
            new.as_raw_fd(),
            to.as_ptr(),
            libc::RENAME_NOREPLACE,
        )
    };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        // NFS and others cannot rename without replacing.
        Some(libc::EINVAL | libc::ENOSYS) => link_and_remove(old, from, new, to),
        _ => Err(error),
    }
}

fn link_and_remove(old: &OwnedFd, from: &CStr, new: &OwnedFd, to: &CStr) -> io::Result<()> {
    let (from_fd, to_fd) = (old.as_raw_fd(), new.as_raw_fd());
    // SAFETY: both paths are valid C strings and both descriptors are open for the call.
    let status = unsafe { libc::linkat(from_fd, from.as_ptr(), to_fd, to.as_ptr(), 0) };
    if status != 0 {
        return Err(io::Error::last_os_error());
    }
    remove(old, from);
    Ok(())
}

pub(super) fn remove(parent: &OwnedFd, name: &CStr) {
    // SAFETY: the path is a valid C string and the descriptor is open for the call.
    unsafe { libc::unlinkat(parent.as_raw_fd(), name.as_ptr(), 0) };
}

pub(super) fn make_directory(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    // SAFETY: the path is a valid C string and the descriptor is open for the call.
    let status = unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}
