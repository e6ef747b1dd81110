//! Threads that block on files.
//!
//! - [`writer`]: one a core, on the core's processor, with its own ring; the only thread that
//!   touches Whisper files. `write_mode` chooses between plain calls and the ring, `metadata` reads
//!   and changes a header.
//! - [`wal_writer`]: one a core, on the core's processor, with its own ring; writes the log.
//! - [`checkpoint`]: one for the node; syncs the file systems with the Whisper files.
//! - [`recovery`]: the main thread, before anything is received; reads the logs of earlier runs.
//! - [`log_limit`]: no thread; keeps the node's text log readable while a disk fails.

pub mod checkpoint;
pub mod log_limit;
pub mod metadata;
pub mod recovery;
pub mod wal_writer;
mod write_mode;
pub mod writer;

use std::ffi::CStr;

/// The path of a job or a request for system calls.
fn path_of(path: &[u8]) -> &CStr {
    CStr::from_bytes_with_nul(path).expect("a path ends in its only NUL")
}
