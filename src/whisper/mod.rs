//! The Whisper file format (`.wsp`) as pure functions over bytes: no file, no clock, no await.
//!
//! The owner of the file does the I/O that a job requests (`Step::Read`, `Step::Write`) and calls
//! it again, so one writer thread drives many files in lock-step. The files are those of the
//! reference, Python whisper 1.1.10, byte for byte.
//!
//! All numbers are big-endian. No magic number, no padding, no checksum:
//!
//! ```text
//! offset                  bytes  field
//! 0                           4  u32 aggregation code, 1 to 8
//! 4                           4  u32 retention of the file in seconds: the greatest step x slots
//! 8                           4  f32 xFilesFactor, 0 to 1
//! 12                          4  u32 archive count, n
//! 16 + 12 i                  12  archive i, finest step first:
//!                                  u32 offset of its slot 0, u32 step in seconds, u32 slot count
//! 16 + 12 n                  12  slot 0 of archive 0, the *base slot*:
//!                                  u32 interval in seconds, f64 value
//! offset(0) + 12 slots(0)    12  slot 0 of archive 1, and so on to the end of the file
//! ```
//!
//! An *interval* is a timestamp that is a multiple of its archive's step. An archive is a ring:
//! an interval's slot is its distance from the *base*, the interval in slot 0, in steps, modulo
//! the slot count. A base of 0 means the archive is empty, and the first write takes slot 0. A
//! slot of an earlier lap is told apart by its stored interval alone.
//!
//! - `header`: the first bytes, and what a file must hold to be trusted;
//! - `archive`: interval and slot arithmetic, the bytes of a slot;
//! - `rollup`: how one coarser value is made of finer ones;
//! - `update`: points into archives, and from each archive into the coarser ones;
//! - `reach`: how far an update reaches in its rings, and which may be repeated;
//! - `image`: the slots that an update holds in memory, its reads and its writes;
//! - `pyset`: the order in which Python propagates, which shows in the bytes;
//! - `fetch`: a range of one archive, read; `overlay`: what only the cache has, laid over it;
//! - `migrate`, `resize`: a file in another layout, exactly or as whisper's tool does it.
//! - `whole`: a file in memory from end to end, for tools;
//! - `merge`, `fill`, `diff`: two such files brought together or compared.

mod archive;
mod diff;
mod fetch;
mod fill;
mod header;
mod image;
mod merge;
mod migrate;
mod overlay;
mod pyset;
mod reach;
mod resize;
mod rollup;
mod update;
mod whole;

pub use archive::{Archive, SLOT_BYTES, misplaced_slots};
pub use diff::{ArchiveDiff, Difference, diff};
pub use fetch::{Fetch, FetchError, FetchReads};
pub use fill::fill;
pub use header::{HEADER_BYTES_MAX, Header, HeaderError, METADATA_BYTES};
pub use image::Transfer;
pub use merge::{UnlikeArchives, merge};
pub use migrate::migrate;
pub use overlay::overlay;
pub use reach::{Near, Reach, unlapped};
pub use resize::{Resample, resize};
pub use update::{Bases, NotCovered, Outcome, Step, Update};
pub use whole::WholeFile;
