//! The write-ahead log: its format, its state, its recovery. No file is touched here.
//!
//! Each shard has a log of its own, and each life of the process (a *run*, numbered upwards) begins
//! a new one. A log is two chains of *segments*: one with points, and one with the names that the
//! numbers in them stand for. Segments are files of one length, written once from front to back
//! and then recycled. A segment is a header block and *frames*, each beginning on a block of 4,096
//! bytes; a frame is good or bad as a whole. A group commit is one write of one or more frames to
//! each chain.
//!
//! Why names have a chain of their own: a metric that sends once a minute writes 13 bytes a minute.
//! If each segment of 64 MiB repeated the name (60 bytes) of each metric in it, a million metrics
//! would log their names with nearly every point, and five times the volume. Here a name is written
//! once, with the first point, into the current dictionary (an *epoch*), which stays as long as
//! points refer to it. A frame of names is written twice, because much depends on it. When most
//! names of an epoch belong to forgotten metrics, the next one begins, and with it new segments of
//! both kinds.
//!
//! # Bytes (version 2; all numbers little-endian)
//! ```text
//! file    RUN-SHARD-NUMBER.points | .names | .spare      e.g. 000007-000-00000012.points
//!         RUN.settled: nothing of earlier runs is needed
//!
//! segment | header: 1 block | frame: 1..256 blocks | frame | ... | zeros or an earlier use |
//!
//! header   0 "CBYNELOG"       8 version u16      10 kind u8 (1 names, 2 points)   11 0
//!         12 checksum u32 (of 0..12 and 16..72)  16 run u64     24 shard u16   26 shards u16
//!         28 number u32      32 epoch u32        36 number of the segment before, 0: none
//!         40 begun u32 (Unix seconds)            48 length of the file u64
//!         56 boot id, 16 bytes: the kernel's start and its mounts, zeros: unknown      72 zeros
//!
//! frame    0 "CBL" 2          4 checksum u32 (of the other bytes to 64)
//!          8 run u64   16 shard u16   18 kind u8
//!         20 number u32      24 block u32 (its place)    28 length of the records u32
//!         32 checksum of the records u32                 36 count of the records u32
//!         40 number of the first record u64 (points of this run and shard, from 1; names: 0)
//!         48 segments of points below this number are retired    52 epoch u32
//!         56 checkpoints up to this number had succeeded u32     60 zeros
//!         64 records, then zeros to the end of the block
//!
//! point   control u8 = value bytes 0..8 | (number bytes - 1) << 4 | time code << 6
//!         number: zigzag of the difference to the record before in the frame, 1..4 bytes
//!         time: zigzag of the difference, in 0, 1, 2 or 4 bytes by its code 0..3
//!         value: the first bytes of the big-endian double; those left out are zero
//! note    control u8 = 9..13 | time code or (number bytes - 1) above it, as in a point
//!      9  arrival: the points behind have arrived in this second; zigzag of the difference to the
//!         arrival before in the frame
//!     10  confirm: number, then how many records back the metric's points are in its file
//!     11  confirm, from farther: number, 0, then the position: run u64, shard u16, record u64
//!     12  rewrite: number, then how many points behind it are logged again
//!     13  checkpoint: a sync of the Whisper files begins, the one of this number
//! name    number u32 | length u16 | bytes
//! ```
//! Checksums are CRC-32. A frame's checksum covers run, shard, kind, number and block, and no two
//! uses of a file share those, so a frame of an earlier use is never taken for new, and a frame
//! in the wrong place is damage. A header of another version is refused.
//!
//! # What a crash leaves
//! A commit that was acknowledged is whole. One under way may be there in any part: each frame of
//! it is taken or cut off. Segments are retired in order, and a frame tells so before their files
//! go, so what is replayed is always the latest part of the log.
//!
//! # Why replay changes nothing that a file says right
//! Each point is replayed with the second of its arrival, in the order of arrival, so it goes to
//! the archive and slot that it went to. Two things could still do harm: to repeat a point that a
//! later one of the same slot has overwritten, and to repeat one whose ring has moved on.
//!
//! - A *note* says up to where a metric's points are in its file. It counts when a checkpoint that
//!   began behind it has succeeded and a later frame says so, or while the kernel and its mounts
//!   are still the same and no sync has failed. Points up to there are not handed out.
//! - What no note covers is handed out from the first such point on, and nothing after it is left
//!   out, so the last one for each slot is repeated last.
//! - An update is *near* when it reaches no farther from the last two syncs than a quarter of each
//!   ring. Near updates may be repeated in any number: none laps another. Any other update is made
//!   alone between two syncs (`shard/unsynced.rs`), so there is nothing behind it to be lapped.
//!
//! For the notes all logs are read twice: a note may stand in the log of a later run than its
//! points.
//!
//! # Use
//! ```
//! # use std::time::Instant;
//! # use carbyne::metric::point::Point;
//! # use carbyne::wal::{BootId, Log, Mark, Options, Outcome};
//! let mut log = Log::new(Options {
//!     run: 1,
//!     shard: 0,
//!     shard_count: 1,
//!     segment_bytes: 64 << 20,
//!     segments_max: 64,
//!     buffer_bytes: 4 << 20,
//!     inherited_segments: None,
//!     boot_id: BootId::default(),
//! });
//! // The cache's entry: a mark for the metric, and the segment that its waiting points hold.
//! let mut mark = Mark::default();
//! let point = Point { timestamp_s: 1_700_000_000, value: 1.5 };
//! // Receivers ask `is_full` before they read; what they have read fits.
//! assert!(!log.is_full());
//! let segment = log.append(&mut mark, || b"a.b.c", point).expect("there is room");
//! log.hold(segment); // its chain was empty
//!
//! // Once an interval, and again after each commit while there is something: to the WAL writer.
//! let mut commit = log.take_commit(Instant::now(), 1_700_000_000).expect("a point waits");
//! for part in commit.parts() {
//!     // write part.bytes() at part.offset() of part.id(), and sync
//!     part.outcome = Outcome::Synced;
//! }
//! log.committed(commit, Instant::now());
//! assert_eq!(log.counters().synced_points, 1);
//!
//! // When the flush of the chain is confirmed, and then now and again:
//! log.confirm(&mut mark, || b"a.b.c", log.position()).expect("there is room");
//! log.release(segment);
//! if log.checkpoint_wanted() {
//!     assert!(log.checkpoint_begun());
//!     // sync the file system with the Whisper files
//!     log.checkpoint_done(true);
//! }
//! // After a commit that tells it, empty if need be:
//! while let Some(id) = log.take_retired() {
//!     // rename the file of `id` to a spare, sync the directory
//!     log.retired(id, true);
//! }
//! ```

mod buffer;
mod commit;
mod confirmed;
mod frame;
mod log;
mod position;
mod record;
mod replay;
mod segment;
mod segments;

pub use crate::metric::mark::Mark;
pub use commit::{Commit, Counters, Full, Options, Outcome, Part};
pub use confirmed::Confirmed;
pub use log::Log;
pub use position::Position;
pub use record::POINT_BYTES_MAX;
pub use replay::{Cursor, Damage, LogFiles, Problem, Replay, Report, logs};
pub(crate) use segment::HeaderError;
pub use segment::{BootId, FileName, Kind, SegmentHeader, SegmentId, VERSION};
pub use segments::{INHERITANCE, Pressure};

/// What every write is a multiple of: the greatest logical block of common devices, and a page.
pub const BLOCK_BYTES: usize = 4096;

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(*bytes[at..].first_chunk().expect("the caller has checked the length"))
}

#[cfg(test)]
mod tests;
