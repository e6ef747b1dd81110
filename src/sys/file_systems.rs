//! The file systems that the Whisper tree lies on, and their syncs.
//!
//! A tree may span several: others can be mounted in it, and symbolic links may lead to them. Each
//! writer tells of a file system before it writes there for the first time, and the checkpoint
//! thread, which has the other end, syncs all it was told of. What a writer has told before a sync
//! begins is covered by it, because a point is confirmed after its write, and asked about after
//! that.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};

use crate::limits::FILE_SYSTEMS_MAX;
use crate::sys::at::identify;

/// One file system, as somebody met it.
///
/// It is opened before anything is written to it and kept open: the kernel reports a failed
/// write-back once to everybody who had the file system open then.
#[derive(Debug)]
struct FileSystem {
    device: u64,
    file: File,
    /// A path on it, for whoever reads of its failure.
    place: PathBuf,
}

impl FileSystem {
    fn sync(&self) -> io::Result<()> {
        // SAFETY: the descriptor is open for the call.
        let status = unsafe { libc::syncfs(self.file.as_raw_fd()) };
        if status == 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        Err(io::Error::new(error.kind(), format!("{}: {error}", self.place.display())))
    }
}

/// All file systems that were met so far.
#[derive(Debug)]
pub struct FileSystems {
    met: Vec<FileSystem>,
    news: Receiver<FileSystem>,
}

/// One writer's end, which tells of file systems that it has not met before. A copy must be made
/// before anything is written.
#[derive(Debug, Clone)]
pub struct Newcomers {
    to: Sender<FileSystem>,
    known: RefCell<Vec<u64>>,
    /// The device met last: most files lie on one.
    last: Cell<u64>,
}

/// Begins with the file system of this directory, to which nothing has been written yet.
pub fn file_systems(directory: &Path) -> io::Result<(FileSystems, Newcomers)> {
    let file = File::open(directory)?;
    let device = identify(&file)?.device;
    let (to, news) = mpsc::channel();
    let met = vec![FileSystem { device, file, place: directory.to_owned() }];
    let known = RefCell::new(vec![device]);
    Ok((FileSystems { met, news }, Newcomers { to, known, last: Cell::new(device) }))
}

impl FileSystems {
    /// Brings everything written so far to stable storage, on all file systems that were told of
    /// before this call.
    pub fn sync(&mut self) -> io::Result<()> {
        while let Ok(new) = self.news.try_recv() {
            // Of two writers the one that comes first has opened it before the other one's tale
            // could follow, and so before anybody wrote.
            if self.met.iter().all(|met| met.device != new.device) {
                log::info!("file system met in the tree place={}", new.place.display());
                self.met.push(new);
            }
        }
        self.met.iter().try_for_each(FileSystem::sync)
    }
}

impl Newcomers {
    /// To be called before a write to this device; `open` gives a descriptor of anything on it,
    /// and a path to name it by. An error says that nothing may be written there.
    pub fn meet(
        &self,
        device: u64,
        open: impl FnOnce() -> io::Result<(File, PathBuf)>,
    ) -> io::Result<()> {
        if self.last.get() == device {
            return Ok(());
        }
        let mut known = self.known.borrow_mut();
        if !known.contains(&device) {
            if known.len() == FILE_SYSTEMS_MAX {
                return Err(io::Error::from_raw_os_error(libc::EXDEV));
            }
            let (file, place) = open()?;
            let gone = "nobody syncs file systems any more";
            let new = FileSystem { device, file, place };
            self.to.send(new).map_err(|_| io::Error::other(gone))?;
            known.push(device);
        }
        self.last.set(device);
        Ok(())
    }
}

#[cfg(test)]
impl FileSystems {
    /// The devices that were met.
    pub(crate) fn devices(&self) -> Vec<u64> {
        self.met.iter().map(|met| met.device).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::OpenOptionsExt;

    /// A descriptor that cannot be synced.
    fn broken(place: &str) -> io::Result<(File, PathBuf)> {
        let file = File::options().read(true).custom_flags(libc::O_PATH).open("/")?;
        Ok((file, PathBuf::from(place)))
    }

    #[test]
    fn a_sync_covers_what_was_met_before_it_once() {
        let (mut all, one) = file_systems(&std::env::temp_dir()).unwrap();
        let other = one.clone();
        all.sync().unwrap();
        let opened = Cell::new(0);
        let open = || {
            opened.set(opened.get() + 1);
            Ok((File::open("/").unwrap(), PathBuf::from("/")))
        };
        let root = one.last.get();
        for device in [root, 7, 8, 7, root, 8] {
            one.meet(device, open).unwrap();
        }
        assert_eq!(opened.get(), 2, "one descriptor for each new device");
        other.meet(7, || broken("second")).unwrap();
        all.sync().unwrap();
        assert_eq!(all.devices(), [root, 7, 8]);
        other.meet(9, || broken("bad")).unwrap();
        let error = all.sync().unwrap_err().to_string();
        assert!(error.starts_with("bad: "), "{error}");
        assert!(all.sync().is_err(), "and again");
    }

    #[test]
    fn what_cannot_be_opened_or_told_of_is_not_known() {
        let (all, one) = file_systems(&std::env::temp_dir()).unwrap();
        let refuse = || Err(io::Error::from_raw_os_error(libc::EMFILE));
        assert!(one.meet(7, refuse).is_err() && one.meet(7, refuse).is_err());
        drop(all);
        assert!(one.meet(7, || broken("x")).is_err());
        let (_all, one) = file_systems(&std::env::temp_dir()).unwrap();
        let first = one.last.get() + 1;
        for device in (first..).take(FILE_SYSTEMS_MAX - 1) {
            one.meet(device, || broken("x")).unwrap();
        }
        let error = one.meet(first + 1_000_000, || broken("x")).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EXDEV));
    }
}
