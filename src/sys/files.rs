//! The tree of Whisper files: opening below the data directory, creating, renaming, setting aside.
//!
//! Every path is relative to the data directory and resolved with `openat2`, so that no name and
//! no symbolic link (unless the operator allows links) leads out of it. A new file appears under
//! its name complete or not at all (see `new_file`).

use std::ffi::{CStr, CString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use io_uring::types::OpenHow;

use crate::sys::at::{
    FileIdentity, c_path, how, identify, make_directory, open_raw, rename_new, split,
};
use crate::sys::file_systems::Newcomers;
use crate::sys::kept_directory::KeptDirectory;
use crate::sys::new_file::{Layout, create_in, reserve};

const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
const RESOLVE_BENEATH: u64 = 0x08;

/// Bytes kept of the name of a file that is set aside: with what is added it stays below 255.
const ASIDE_STEM_BYTES_MAX: usize = 200;

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
        // Without `O_NOATIME` a read after a write changes the inode: a tenth of the cost of an
        // update.
        let quiet = how(flags | libc::O_NOATIME, 0, resolve);
        let how_to_foreign = how(flags, 0, resolve);
        let how_beside = how(flags | libc::O_NOATIME | libc::O_NOFOLLOW, 0, 0);
        Ok(Tree { root, resolve, how: quiet, how_to_foreign, how_beside, newcomers: None })
    }

    /// Registers each file system with `newcomers` before the first change on it.
    pub fn telling(self, newcomers: Option<Newcomers>) -> Tree {
        Tree { newcomers, ..self }
    }

    /// Registers the file system of an open file with this path and device; must be called before
    /// the first write. After an error the file must not be written.
    pub fn meet(&self, path: &CStr, device: u64) -> io::Result<()> {
        let Some(newcomers) = &self.newcomers else { return Ok(()) };
        newcomers.meet(device, || {
            let (parent, _) = split(path);
            let place = place_of(parent);
            let parent = if parent.is_empty() { c".".to_owned() } else { c_path(parent) };
            // The directory is preferred: an open file would keep its space after a deletion. But
            // the file's name may be a link to another file system.
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
        // An error shows again when the file is opened by its path.
        if let Ok(descriptor) = self.open_at(&c_path(parent), &how) {
            kept.keep(parent, descriptor);
        }
    }

    /// Like [`Tree::open_file`], but opens by name if the file's directory is kept.
    pub fn open_beside(&self, kept: &KeptDirectory, path: &CStr) -> io::Result<File> {
        if let Some((parent, name)) = kept.split(path)
            && let Ok(file) = open_raw(parent.as_raw_fd(), name, &self.how_beside)
        {
            return Ok(File::from(file));
        }
        // It is missing, a link, or another user's file: the path decides.
        self.open_file(path)
    }

    /// Creates a file of `bytes` bytes, zero except where `write` writes, and its directories,
    /// after registering the file system. Fails with `AlreadyExists` if the name is taken; never
    /// leaves an incomplete file. `kept` keeps the parent open for the next file.
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
            // Before the writes: the next one then changes the time of change.
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

    /// Registers the file system of a file that has no name yet. It is that of its directory, which
    /// is registered, except on overlays.
    fn meet_new(&self, file: &File, device: u64, parent_path: &[u8]) -> io::Result<()> {
        let Some(newcomers) = &self.newcomers else { return Ok(()) };
        newcomers.meet(device, || Ok((file.try_clone()?, place_of(parent_path))))
    }

    /// Renames a file and creates its new directory; `Ok(false)` if the file is missing or the new
    /// name is taken.
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

    /// Opens a directory of the tree for changes in it; creates it and its parents if missing.
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

/// Turns off read-ahead for this file (`POSIX_FADV_RANDOM`). Read-ahead costs a cold disk time, and
/// on ext4 since Linux 6.16 it makes later small writes three to ten times as expensive. Errors are
/// ignored: only the cost changes.
pub fn expect_scattered_reads(file: &File) {
    // SAFETY: plain numbers and a descriptor that is open for the call.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), 0, 0, libc::POSIX_FADV_RANDOM) };
}

/// A directory's path for messages about its file system.
fn place_of(path: &[u8]) -> PathBuf {
    PathBuf::from(String::from_utf8_lossy(path).into_owned())
}

/// What making a file in a directory that was removed fails with: on ext4 `EPERM`, on NFS `ESTALE`.
fn may_be_removed(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EPERM | libc::ESTALE))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{FileExt, MetadataExt};

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
