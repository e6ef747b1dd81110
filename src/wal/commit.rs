//! What goes into a log and out of it: options, commits, counters.

use crate::wal::BLOCK_BYTES;
use crate::wal::buffer::Buffer;
use crate::wal::segment::{BootId, SegmentId};

/// Options of a log.
#[derive(Debug, Clone)]
pub struct Options {
    /// This life of the process: one above the greatest run of any file in the log directory,
    /// spares included.
    pub run: u64,
    /// The shard.
    pub shard: u16,
    /// Shards of the node.
    pub shard_count: u16,
    /// Length of a segment, a multiple of [`BLOCK_BYTES`].
    pub segment_bytes: u32,
    /// Files of this shard, those of earlier runs included, beyond which nothing is received. When
    /// they come near it the shard flushes harder, then carries points forward, then receivers
    /// wait. All points that may be in the cache take
    /// less than half of what these files hold, or waiting would not end.
    pub segments_max: u32,
    /// Bytes that may wait for a commit, of points and of names each. Full: receivers wait; what
    /// they have read already still fits in the same again.
    pub buffer_bytes: usize,
    /// Files that earlier runs left and that are replayed, this shard's share of them; `None`:
    /// there are none.
    pub inherited_segments: Option<u32>,
    /// The start of the kernel that this process runs under.
    pub boot_id: BootId,
}

/// The log has no room for this point. It is not in the log: the caller waits or counts a drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// How a write of a commit ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Not yet.
    Pending,
    /// The kernel has it: survives the process.
    Written,
    /// It is on stable storage: survives a loss of power.
    Synced,
    /// A new segment's file could not be made, or a write or sync failed. The file holds what was
    /// synced before, and maybe more.
    Failed,
}

/// One write of a commit: whole blocks into one segment.
#[derive(Debug)]
pub struct Part {
    pub(super) id: SegmentId,
    pub(super) block: u32,
    pub(super) told: Told,
    pub(super) buffer: Buffer,
    /// Set by the writer.
    pub outcome: Outcome,
}

/// What the frames of a commit say beside their records.
#[derive(Debug, Clone, Copy)]
pub(super) struct Told {
    /// Segments of points below this number are retired.
    pub(super) oldest_live: u32,
    /// The last sync of the Whisper files that succeeded.
    pub(super) synced_checkpoint: u32,
}

impl Part {
    /// The segment to write to.
    pub fn id(&self) -> SegmentId {
        self.id
    }

    /// The segment is new: the writer makes its file, of its full length. A file of this name is
    /// left from a try that failed; the writer replaces it durably before it writes anything.
    pub fn is_new(&self) -> bool {
        self.block == 0
    }

    /// Where to write, in bytes.
    pub fn offset(&self) -> u64 {
        u64::from(self.block) * BLOCK_BYTES as u64
    }

    /// What to write: whole blocks, aligned to a block in memory.
    pub fn bytes(&self) -> &[u8] {
        self.buffer.bytes(self.is_new())
    }
}

/// Writes that belong together. They are committed when all parts have succeeded.
#[derive(Debug)]
pub struct Commit {
    /// New names.
    pub names: Option<Part>,
    /// Points.
    pub points: Option<Part>,
}

impl Commit {
    /// The writes, which may be done in any order or at once.
    pub fn parts(&mut self) -> impl Iterator<Item = &mut Part> {
        self.names.iter_mut().chain(&mut self.points)
    }
}

/// What the log has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Points received.
    pub received_points: u64,
    /// Of them, those that survive the end of the process.
    pub written_points: u64,
    /// Of them, those that survive a loss of power.
    pub synced_points: u64,
    /// Points appended again so that an old segment could go.
    pub rewritten_points: u64,
    /// Notes that a metric's points are in its file.
    pub confirmations: u64,
    /// Names written.
    pub names: u64,
    /// Dictionaries begun after the first.
    pub renewals: u64,
    /// Segments given up.
    pub retired_segments: u64,
    /// Bytes of commits, headers and padding included.
    pub bytes: u64,
    /// Commits that succeeded.
    pub commits: u64,
    /// Commits that failed and were written again.
    pub failed_commits: u64,
    /// Checkpoints that failed.
    pub failed_checkpoints: u64,
}
