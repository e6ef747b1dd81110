//! The tree of Whisper files: opening below the data directory, creating, setting aside, locking.
//!
//! Every path is relative to the data directory and resolved with `openat2`, so that no name and
//! no symbolic link (unless the operator allows links) leads out of it. A new file appears under
//! its name complete or not at all (see `new_file`).

use std::ffi::{CStr, CString};
use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use io_uring::types::OpenHow;

use crate::sys::file_systems::Newcomers;
use crate::sys::kept_directory::KeptDirectory;
use crate::sys::new_file::create_in;

const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_BENEATH: u64 = 0x08;

/// Bytes kept of the name of a file that is set aside: with what is added it stays below 255.
const ASIDE_STEM_BYTES_MAX: usize = 200;

/// What tells a file apart from another one under the same name.
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
    /// Stands for the time of the last change of the file or of its attributes, which no program
    /// can set back: another one after every change.
    pub changed: u32,
}

/// How new files are laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Layout {
    /// Space is reserved up front; a full disk shows at creation.
    Reserved,
    /// Only written parts take space.
    Sparse,
}

/// An open data directory.
#[derive(Debug)]
pub struct Tree {
    root: OwnedFd,
    resolve: u64,
    how: OpenHow,
    how_to_foreign: OpenHow,
    how_beside: OpenHow,
    newcomers: Option<Newcomers>,
}

impl Tree {
    /// Opens the data directory. Without `follow_symlinks` a symbolic link may only lead to
    /// another place inside it.
    pub fn open(directory: &Path, follow_symlinks: bool) -> io::Result<Tree> {
        let root = OwnedFd::from(File::open(directory)?);
        let resolve = if follow_symlinks { 0 } else { RESOLVE_BENEATH } | RESOLVE_NO_MAGICLINKS;
        let flags = libc::O_RDWR | libc::O_NONBLOCK | libc::O_NOCTTY;
        // A read after a write would change the access time and with it the inode: a tenth of an
        // update.
        let quiet = how(flags | libc::O_NOATIME, 0, resolve);
        let how_to_foreign = how(flags, 0, resolve);
        let how_beside = how(flags | libc::O_NOATIME | libc::O_NOFOLLOW, 0, 0);
        Ok(Tree { root, resolve, how: quiet, how_to_foreign, how_beside, newcomers: None })
    }

    /// Tells of each file system that it makes something on from now on, before that.
    pub fn telling(self, newcomers: Option<Newcomers>) -> Tree {
        Tree { newcomers, ..self }
    }

    /// To be called before the first write to an open file with this path and device: tells of its
    /// file system. An error says that it must not be written.
    pub fn meet(&self, path: &CStr, device: u64) -> io::Result<()> {
        let Some(newcomers) = &self.newcomers else { return Ok(()) };
        newcomers.meet(device, || {
            let (parent, _) = split(path);
            let place = place_of(parent);
            let parent = if parent.is_empty() { c".".to_owned() } else { c_path(parent) };
            // Rather the directory, since an open file keeps its space when it is deleted; but the
            // file's name may be a link to elsewhere.
            let flags = libc::O_RDONLY | libc::O_NONBLOCK | libc::O_NOCTTY;
            for path in [&parent, path] {
                let Ok(file) = self.open_at(path, &how(flags, 0, self.resolve)) else { continue };
                let file = File::from(file);
                if identify(&file)?.device == device {
                    return Ok((file, place));
                }
            }
            Err(io::Error::other("its file system cannot be opened for a sync"))
        })
    }

    fn meet_directory(&self, directory: &OwnedFd, path: &[u8]) -> io::Result<()> {
        let Some(newcomers) = &self.newcomers else { return Ok(()) };
        let device = identify(directory)?.device;
        newcomers.meet(device, || Ok((File::from(directory.try_clone()?), place_of(path))))
    }

    /// The directory that paths start from.
    pub fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// How existing files are opened for an update. Of another user's file this may be refused
    /// where [`Tree::open_file`] is not.
    pub fn how_to_open(&self) -> &OpenHow {
        &self.how
    }

    /// Opens an existing file for an update, without a ring.
    pub fn open_file(&self, path: &CStr) -> io::Result<File> {
        let opened = match self.open_at(path, &self.how) {
            // Only the owner may keep the access time from changing.
            Err(error) if error.raw_os_error() == Some(libc::EPERM) => {
                self.open_at(path, &self.how_to_foreign)
            }
            opened => opened,
        };
        opened.map(File::from)
    }

    /// Keeps a file's directory open for [`Tree::open_beside`].
    pub fn keep_parent(&self, kept: &mut KeptDirectory, path: &CStr) {
        let (parent, _) = split(path);
        let how = how(libc::O_PATH | libc::O_DIRECTORY, 0, self.resolve);
        // What hinders it shows when the file is opened by its path.
        if let Ok(descriptor) = self.open_at(&c_path(parent), &how) {
            kept.keep(parent, descriptor);
        }
    }

    /// As [`Tree::open_file`], and does not go the whole path if the file's directory is kept.
    pub fn open_beside(&self, kept: &KeptDirectory, path: &CStr) -> io::Result<File> {
        if let Some((parent, name)) = kept.split(path)
            && let Ok(file) = open_raw(parent.as_raw_fd(), name, &self.how_beside)
        {
            return Ok(File::from(file));
        }
        // A link perhaps, or another user's file, or there is none: the path decides.
        self.open_file(path)
    }

    /// Creates a file of `bytes` bytes, zero but for what `write` writes, with its directories; its
    /// file system is told of before. Fails with `AlreadyExists` if the name is taken; never leaves
    /// a part of it. The parent is kept open in `kept` for the next file.
    pub fn create_file(
        &self,
        kept: &mut KeptDirectory,
        path: &CStr,
        bytes: u64,
        layout: Layout,
        write: impl Fn(&File) -> io::Result<()>,
    ) -> io::Result<(File, FileIdentity)> {
        let (parent_path, name) = split(path);
        let fill = |file: &File| {
            // Before the writes, since the first one after a look at the times must change them.
            let identity = identify(file)?;
            self.meet_new(file, identity.device, parent_path)?;
            match layout {
                Layout::Sparse => file.set_len(bytes)?,
                Layout::Reserved => reserve(file, bytes)?,
            }
            write(file)?;
            Ok(FileIdentity { bytes, ..identity })
        };
        if let Some((parent, name)) = kept.split(path) {
            match create_in(parent, name, fill) {
                Err(error) if may_be_removed(&error) => {}
                result => return result,
            }
        }
        let parent = kept.keep(parent_path, self.open_directory(parent_path)?);
        create_in(parent, name, fill)
    }

    /// Tells of the file system of a file that has no name yet. It is its directory's, which was
    /// told of, unless several are laid over each other.
    fn meet_new(&self, file: &File, device: u64, parent_path: &[u8]) -> io::Result<()> {
        let Some(newcomers) = &self.newcomers else { return Ok(()) };
        newcomers.meet(device, || Ok((file.try_clone()?, place_of(parent_path))))
    }

    /// Gives a file a new name, making its directory; `Ok(false)` when there is none under the old
    /// name or the new one is taken.
    pub fn rename_file(&self, from: &CStr, to: &CStr) -> io::Result<bool> {
        if let Err(error) = self.open_at(from, &how(libc::O_PATH, 0, self.resolve)) {
            let is_missing = error.kind() == io::ErrorKind::NotFound;
            return if is_missing { Ok(false) } else { Err(error) };
        }
        let (old_parent, old_name) = split(from);
        let (new_parent, new_name) = split(to);
        let (old, new) = (self.open_directory(old_parent)?, self.open_directory(new_parent)?);
        match rename_new(&old, old_name, &new, new_name) {
            Ok(()) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Renames a damaged file to `NAME.damaged-EPOCH`, which no Graphite program reads as a
    /// metric. Returns the new path.
    pub fn set_aside(&self, path: &CStr, now_s: u32) -> io::Result<String> {
        let (parent_path, name) = split(path);
        let parent = self.open_directory(parent_path)?;
        for attempt in 0..100u32 {
            let suffix = if attempt == 0 { String::new() } else { format!("-{attempt}") };
            let stem = &name.to_bytes()[..name.to_bytes().len().min(ASIDE_STEM_BYTES_MAX)];
            let stem = String::from_utf8_lossy(stem);
            let label = format!("{}.damaged-{now_s}{suffix}", stem.trim_end_matches('\u{fffd}'));
            let aside = CString::new(label).expect("a file name holds no NUL");
            match rename_new(&parent, name, &parent, &aside) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
                Ok(()) => {
                    let parent_path = String::from_utf8_lossy(parent_path);
                    return Ok(format!("{parent_path}/{}", aside.to_string_lossy()));
                }
            }
        }
        Err(io::Error::from(io::ErrorKind::AlreadyExists))
    }

    /// Opens a directory of the tree to change something in it, making it and its parents if they
    /// are missing.
    fn open_directory(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let flags = libc::O_RDONLY | libc::O_DIRECTORY;
        let how = how(flags, 0, self.resolve);
        if path.is_empty() {
            return self.root.try_clone();
        }
        let directory = match self.open_at(&c_path(path), &how) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let cut = path.iter().rposition(|&byte| byte == b'/');
                let (parent, name) =
                    cut.map_or((&path[..0], path), |at| (&path[..at], &path[at + 1..]));
                let parent = self.open_directory(parent)?;
                make_directory(&parent, &c_path(name))?;
                self.open_at(&c_path(path), &how)?
            }
            result => result?,
        };
        self.meet_directory(&directory, path)?;
        Ok(directory)
    }

    fn open_at(&self, path: &CStr, how: &OpenHow) -> io::Result<OwnedFd> {
        open_raw(self.root.as_raw_fd(), path, how)
    }
}

/// What the open file is.
pub fn identify(file: &impl AsRawFd) -> io::Result<FileIdentity> {
    // Not `File::metadata`, which asks for more, by `statx`: this is done for every update.
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

/// 32 bits of a time: two times in a row are told apart for sure, any two but for one pair in four
/// billions.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the lower bits are what is kept"
)]
fn change_mark(seconds: i64, nanoseconds: i64) -> u32 {
    (nanoseconds as u32) ^ (seconds as u32).wrapping_mul(0x9e37_79b1)
}

/// Tells the kernel that reads of this file jump about, so that it reads no more than it is asked
/// for. What reading ahead brings costs a cold disk its time, and on ext4 since Linux 6.16 makes
/// later small writes three to ten times dearer. A refusal changes nothing but the cost.
pub fn expect_scattered_reads(file: &File) {
    // SAFETY: plain numbers and a descriptor that is open for the call.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

/// Takes the file's exclusive lock (`flock`, as whisper and go-carbon do) if it is free.
/// `Ok(false)`: somebody else holds it, or gave its name to another file before the lock was
/// free, so that what is written now would be lost.
pub fn try_lock(file: &File) -> io::Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(file.metadata()?.nlink() > 0),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// As [`try_lock`], and tries again for a tenth of a second: looking at a lock takes it too, and a
/// killed process may hold its locks for a moment after its end.
pub fn try_lock_soon(file: &File) -> io::Result<bool> {
    for _ in 1..LOCK_TRIES {
        if try_lock(file)? {
            return Ok(true);
        }
        std::thread::sleep(LOCK_PAUSE);
    }
    try_lock(file)
}

/// Makes a descriptor that io_uring opened into an owned file.
pub fn adopt(descriptor: i32) -> File {
    assert!(descriptor >= 0, "{descriptor} is an error number, not a descriptor");
    // SAFETY: the descriptor was returned by an open of ours and is owned by nobody else.
    File::from(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// A path as the kernel wants it. Names are free of NUL by validation.
pub fn c_path(path: &[u8]) -> CString {
    CString::new(path).expect("a validated name holds no NUL")
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

/// Splits a relative path into its directory (may be empty) and its last component.
fn split(path: &CStr) -> (&[u8], &CStr) {
    let bytes = path.to_bytes_with_nul();
    let cut = memchr::memrchr(b'/', bytes);
    let (parent, name) = cut.map_or((&bytes[..0], bytes), |at| (&bytes[..at], &bytes[at + 1..]));
    (parent, CStr::from_bytes_with_nul(name).expect("a path ends in its only NUL"))
}

/// A directory's path for whoever reads of its file system.
fn place_of(path: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(path).into_owned())
}

/// Gives a file this length with blocks of its own, or only the length where that is not possible.
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

/// What making a file in a directory that was removed fails with: on ext4 `EPERM`, on NFS `ESTALE`.
fn may_be_removed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPERM | libc::ESTALE))
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

fn make_directory(parent: &OwnedFd, name: &CStr) -> io::Result<()> {
    // SAFETY: the path is a valid C string and the descriptor is open for the call.
    let status = unsafe { libc::mkdirat(parent.as_raw_fd(), name.as_ptr(), 0o755) };
    if status == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    if error.kind() == io::ErrorKind::AlreadyExists { Ok(()) } else { Err(error) }
}

/// Makes a directory that is missing, with those it is in. Each that is made stays after a loss of
/// power.
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

/// A lock on a data directory; free again when dropped or when the process ends, however.
#[derive(Debug)]
pub struct DirectoryLock {
    file: File,
}

impl DirectoryLock {
    /// Leaves a line for whoever looks at the lock, behind the number of this process.
    pub fn tell(&self, text: &str) {
        let text = format!("{}\n{text}\n", std::process::id());
        // The number is there at every moment.
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
    /// Nobody holds it; what the last holder said.
    Free(String),
    /// The process that holds it, and what it said last.
    Held(u32, String),
}

/// Looks at the lock of a data directory without taking it.
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
        // Whoever is to be sent a signal must be the one: numbers are used again, and mean
        // something else in a container. A process that ends holds the lock for a moment longer.
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
    // What is closed meanwhile is not the lock.
    let found = entries.flatten().filter_map(|entry| std::fs::metadata(entry.path()).ok());
    found.map(identity).any(|identity| Some(identity) == wanted)
}

/// The file whose lock is that of its directory.
const LOCK_NAME: &str = ".carbyne.lock";

/// Tries for a lock that is taken, and the time between two.
const LOCK_TRIES: u32 = 5;
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Whether there is no room, which may be different later.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
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
    // Not cut to nothing first: on a full disk its block would not come back.
    let text = format!("{}\n", std::process::id());
    let written = file.write_all_at(text.as_bytes(), 0);
    match written.and_then(|()| file.set_len(text.len() as u64)) {
        // The lock holds all the same; only its holder is not told to others.
        Err(error) if is_full(&error) => {
            log::error!("write lock file failed file={} error={error}", path.display());
        }
        result => result?,
    }
    Ok(DirectoryLock { file })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree() -> (std::path::PathBuf, Tree) {
        let name =
            format!("carbyne-files-{}-{:?}", std::process::id(), std::thread::current().id());
        let directory = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let tree = Tree::open(&directory, false).unwrap();
        (directory, tree)
    }

    fn create(
        tree: &Tree,
        path: &CStr,
        head: &[u8],
        bytes: u64,
        layout: Layout,
    ) -> io::Result<File> {
        let mut kept = KeptDirectory::default();
        let write = |file: &File| file.write_all_at(head, 0);
        tree.create_file(&mut kept, path, bytes, layout, write).map(|(file, _)| file)
    }

    #[test]
    fn creates_whole_files_and_refuses_taken_names_and_ways_out() {
        let (directory, tree) = tree();
        for layout in [Layout::Reserved, Layout::Sparse] {
            let path = c_path(format!("a/b/{layout:?}.wsp").as_bytes());
            create(&tree, &path, b"header", 4_096, layout).unwrap();
            let again = create(&tree, &path, b"other", 10, layout).unwrap_err();
            assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
            let file = tree.open_file(&path).unwrap();
            assert_eq!(identify(&file).unwrap().bytes, 4_096);
            let aside = tree.set_aside(&path, 7).unwrap();
            assert!(std::fs::read(directory.join(aside)).unwrap().starts_with(b"header"));
            assert_eq!(tree.open_file(&path).unwrap_err().kind(), io::ErrorKind::NotFound);
        }
        let broken = |_: &File| Err(io::Error::from(io::ErrorKind::StorageFull));
        let mut kept = KeptDirectory::default();
        tree.create_file(&mut kept, c"a/b/x.wsp", 10, Layout::Sparse, broken).unwrap_err();
        assert_eq!(std::fs::read_dir(directory.join("a/b")).unwrap().count(), 2);
        std::os::unix::fs::symlink("/tmp", directory.join("out")).unwrap();
        assert!(create(&tree, c"out/x.wsp", b"h", 10, Layout::Sparse).is_err());
        assert!(tree.open_file(&c_path(b"../x.wsp")).is_err());
        assert_eq!(std::fs::read_dir(directory.join("a")).unwrap().count(), 1);
        std::fs::remove_dir_all(directory).unwrap();
    }

    /// Where `place` is on another file system than the tree: one is met before something is made
    /// on it or written to it, whatever leads there.
    #[test]
    fn other_file_systems_are_told_of() {
        use crate::sys::file_systems::file_systems;
        let (directory, tree) = tree();
        let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
        let place = format!("/dev/shm/carbyne-files-{}", std::process::id());
        let place = Path::new(&place);
        std::fs::create_dir_all(place).unwrap();
        assert_ne!(device(place), device(&directory), "this test needs two file systems");
        std::fs::write(place.join("file.wsp"), b"h").unwrap();
        std::os::unix::fs::symlink(place, directory.join("out")).unwrap();
        std::os::unix::fs::symlink(place.join("file.wsp"), directory.join("a.wsp")).unwrap();
        drop(tree);
        let told = |work: &dyn Fn(&Tree)| {
            let (mut all, newcomers) = file_systems(&directory).unwrap();
            work(&Tree::open(&directory, true).unwrap().telling(Some(newcomers)));
            all.sync().unwrap();
            all.devices()
        };
        let make = |path: &'static [u8]| {
            move |tree: &Tree| {
                drop(create(tree, &c_path(path), b"h", 10, Layout::Sparse).unwrap());
            }
        };
        let meet = |path: &'static [u8]| {
            move |tree: &Tree| {
                let file = tree.open_file(&c_path(path)).unwrap();
                tree.meet(&c_path(path), identify(&file).unwrap().device).unwrap();
            }
        };
        let (home, both) = (vec![device(&directory)], vec![device(&directory), device(place)]);
        assert_eq!(told(&make(b"in/b.wsp")), home);
        assert_eq!(told(&meet(b"in/b.wsp")), home);
        assert_eq!(told(&make(b"out/c.wsp")), both);
        assert_eq!(told(&make(b"out/new/d.wsp")), both);
        assert_eq!(told(&meet(b"out/c.wsp")), both);
        assert_eq!(told(&meet(b"a.wsp")), both);
        // Of the new file's own, whatever its directory's is.
        let beside = |tree: &Tree| {
            let mut kept = KeptDirectory::default();
            kept.keep(b"kept", File::open(place).unwrap().into());
            let write = |_: &File| Ok(());
            tree.create_file(&mut kept, c"kept/e.wsp", 10, Layout::Sparse, write).map(drop)
        };
        assert_eq!(told(&|tree| beside(tree).unwrap()), both);
        std::fs::remove_file(place.join("e.wsp")).unwrap();
        let (_, newcomers) = file_systems(&directory).unwrap();
        let untold = Tree::open(&directory, true).unwrap().telling(Some(newcomers));
        assert!(beside(&untold).is_err() && !place.join("e.wsp").exists());
        std::fs::remove_dir_all(directory).unwrap();
        std::fs::remove_dir_all(place).unwrap();
    }

    #[test]
    fn a_file_that_lost_its_name_cannot_be_locked() {
        let (directory, tree) = tree();
        let path = c_path(b"a.wsp");
        let make = || create(&tree, &path, b"h", 10, Layout::Sparse).unwrap();
        let (first, other) = (make(), tree.open_file(&path).unwrap());
        assert!(try_lock(&first).unwrap());
        assert!(!try_lock(&other).unwrap(), "somebody holds it");
        std::fs::remove_file(directory.join("a.wsp")).unwrap();
        make();
        drop(first);
        assert!(!try_lock(&other).unwrap(), "it was replaced");
        assert!(try_lock(&tree.open_file(&path).unwrap()).unwrap());
        std::fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_directory_is_locked_once() {
        let (directory, _tree) = tree();
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

    #[test]
    fn a_writable_file_of_another_user_is_opened() {
        // On a thread of its own, because it becomes a user who owns nothing.
        let opened = std::thread::spawn(|| {
            // SAFETY: it changes what this thread may open, nothing else.
            unsafe { libc::setfsuid(54_321) };
            let tree = Tree::open(Path::new("/dev"), false).unwrap();
            let quiet = tree.open_at(c"null", tree.how_to_open()).unwrap_err();
            (quiet.raw_os_error(), tree.open_file(c"null").is_ok())
        });
        assert_eq!(opened.join().unwrap(), (Some(libc::EPERM), true));
    }
}
