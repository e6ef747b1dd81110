//! The file systems that the Whisper tree lies on, and their syncs.
//!
//! A tree may span several: by mounts in it, or by symbolic links. Each writer registers a file
//! system before its first write there; the checkpoint thread, at the other end of the channel,
//! syncs all registered ones. A sync covers every point confirmed before it began, because the
//! writer registers before it writes, and a point is confirmed after its write.

use std::cell::{Cell, RefCell};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, Sender};

use crate::limits::FILE_SYSTEMS_MAX;
use crate::sys::at::identify;

/// One registered file system.
///
/// It is opened before the first write and stays open: the kernel reports a failed write-back once
/// to each descriptor that was open at the time.
#[derive(Debug)]
struct FileSystem {
    device: u64,
    file: File,
    /// A path on it, for messages.
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

/// All registered file systems.
#[derive(Debug)]
pub struct FileSystems {
    met: Vec<FileSystem>,
    news: Receiver<FileSystem>,
}

/// One writer's end: registers file systems that are new to it. A copy must be made before anything
/// is written.
#[derive(Debug, Clone)]
pub struct Newcomers {
    to: Sender<FileSystem>,
    known: RefCell<Vec<u64>>,
    /// The device of the last call: most files are on one.
    last: Cell<u64>,
}

/// Makes both ends; the file system of this directory, not written to yet, is registered.
pub fn file_systems(directory: &Path) -> io::Result<(FileSystems, Newcomers)> {
    let file = File::open(directory)?;
    let device = identify(&file)?.device;
    let (to, news) = mpsc::channel();
    let met = vec![FileSystem { device, file, place: directory.to_owned() }];
    let known = RefCell::new(vec![device]);
    Ok((FileSystems { met, news }, Newcomers { to, known, last: Cell::new(device) }))
}

impl FileSystems {
    /// Brings everything written so far to stable storage, on all file systems registered before
    /// this call.
    pub fn sync(&mut self) -> io::Result<()> {
        while let Ok(new) = self.news.try_recv() {
            // If two writers register it, the first descriptor was opened before either wrote.
            if self.met.iter().all(|met| met.device != new.device) {
                log::info!("the tree has another file system place={}", new.place.display());
                self.met.push(new);
            }
        }
        self.met.iter().try_for_each(FileSystem::sync)
    }
}

impl Newcomers {
    /// Must be called before a write to this device; `open` returns a descriptor of any file on it
    /// and a path for messages. After an error nothing may be written there.
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
            let gone = "the checkpoint thread has ended";
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
    /// The registered devices.
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
