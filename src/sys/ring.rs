//! Batches of file operations that may wait for a device, through io_uring.
//!
//! [`FileRing::run`] takes any number of operations, keeps the ring full, and returns when every
//! one of them has completed. Nothing is in flight between two calls, so the buffers may be plain
//! borrowed slices. The ring belongs to one thread (`SINGLE_ISSUER`), which may block; a core's
//! own thread never uses it. There are no writes: the kernel hands buffered ones to threads of its
//! own, which costs more than the call.

use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use io_uring::{IoUring, opcode, squeue, types};

/// Operations in flight at most. Cold updates gain up to a depth of 64 and only wait longer
/// beyond it; one more power of two leaves room for files with several transfers.
const DEPTH: u32 = 128;

/// One operation on a file.
#[derive(Debug)]
pub enum FileOp<'a> {
    /// Opens a path below a directory for reading and writing; the result is a descriptor that
    /// the caller must own.
    Open {
        /// The directory the path starts from.
        root: BorrowedFd<'a>,
        /// The path, relative.
        path: &'a CStr,
        /// How, see [`crate::sys::files::Tree::how_to_open`].
        how: &'a types::OpenHow,
    },
    /// Fills a buffer from an offset; the result is the number of bytes.
    Read {
        /// The file.
        file: BorrowedFd<'a>,
        /// Where in the file.
        offset: u64,
        /// What to fill.
        buffer: &'a mut [u8],
    },
    /// Writes a buffer at an offset; the result is the number of bytes.
    Write {
        /// The file.
        file: BorrowedFd<'a>,
        /// Where in the file.
        offset: u64,
        /// What to write.
        buffer: &'a [u8],
    },
    /// Brings a file's data to stable storage; the result is 0.
    Sync {
        /// The file.
        file: BorrowedFd<'a>,
    },
}

/// A ring for one thread.
pub struct FileRing {
    ring: IoUring,
}

impl FileRing {
    /// Sets a ring up for the calling thread.
    pub fn new() -> io::Result<FileRing> {
        let ring = IoUring::builder().setup_single_issuer().setup_defer_taskrun().build(DEPTH)?;
        Ok(FileRing { ring })
    }

    /// Runs all operations and waits for all of them. `results[i]` is the i-th operation's
    /// result: a descriptor or byte count, or a negative error number.
    pub fn run<'a>(
        &mut self,
        ops: impl IntoIterator<Item = FileOp<'a>>,
        results: &mut Vec<i32>,
    ) -> io::Result<()> {
        results.clear();
        let mut flight = Flight { ring: &mut self.ring, results, pending: 0 };
        for op in ops {
            while flight.pending == DEPTH as usize {
                flight.wait(1)?;
            }
            flight.push(&op);
        }
        while flight.pending > 0 {
            flight.wait(flight.pending)?;
        }
        Ok(())
    }
}

/// Operations under way; dropping it waits for them, whatever happened, because the kernel uses
/// their buffers until then.
struct Flight<'r> {
    ring: &'r mut IoUring,
    results: &'r mut Vec<i32>,
    pending: usize,
}

impl Flight<'_> {
    fn push(&mut self, op: &FileOp<'_>) {
        let entry = entry_of(op).user_data(self.results.len() as u64);
        self.results.push(0);
        // SAFETY: the operation's buffers are borrowed for as long as `run` runs, and neither
        // `run` nor the drop of `Flight` returns before the operation has completed.
        let pushed = unsafe { self.ring.submission().push(&entry) };
        pushed.expect("no more operations are pending than the queue has places");
        self.pending += 1;
    }

    fn wait(&mut self, want: usize) -> io::Result<()> {
        match self.ring.submit_and_wait(want) {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::EAGAIN | libc::EBUSY) => {}
                _ => return Err(error),
            },
        }
        for done in self.ring.completion() {
            let index = usize::try_from(done.user_data()).expect("user data is an index");
            self.results[index] = done.result();
            self.pending -= 1;
        }
        Ok(())
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        while self.pending > 0 {
            if let Err(error) = self.wait(self.pending) {
                // The kernel may still write into buffers that are about to be freed.
                log::error!("wait for file operations failed, aborting error={error}");
                std::process::abort();
            }
        }
    }
}

fn entry_of(op: &FileOp<'_>) -> squeue::Entry {
    let fd = |file: &BorrowedFd<'_>| types::Fd(file.as_raw_fd());
    let length = |bytes: usize| u32::try_from(bytes).expect("a transfer is shorter than 4 GiB");
    match op {
        FileOp::Open { root, path, how } => {
            opcode::OpenAt2::new(fd(root), path.as_ptr(), std::ptr::from_ref(*how)).build()
        }
        FileOp::Read { file, offset, buffer } => {
            opcode::Read::new(fd(file), buffer.as_ptr().cast_mut(), length(buffer.len()))
                .offset(*offset)
                .build()
        }
        FileOp::Write { file, offset, buffer } => {
            opcode::Write::new(fd(file), buffer.as_ptr(), length(buffer.len()))
                .offset(*offset)
                .build()
        }
        FileOp::Sync { file } => {
            opcode::Fsync::new(fd(file)).flags(types::FsyncFlags::DATASYNC).build()
        }
    }
}
