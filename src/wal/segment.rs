//! What a segment is: its identity, its file name, and the header block it begins with.
//!
//! An identity is used once, or again after a file that was deleted with nothing acknowledged in
//! it: run numbers ascend over the lives of the process, and numbers within a run. It goes into
//! the checksum of every frame, so what an earlier use left in a recycled file can never be taken
//! for new.

use std::fmt;

use crate::wal::{BLOCK_BYTES, u16_at, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"CBYNELOG";

/// The only version of the format that is read. Version 1, which knew no arrivals and no
/// confirmations, must be drained by the release that wrote it.
pub const VERSION: u16 = 2;

/// Bytes of the header block that mean something; the others are zero.
const FIELDS_BYTES: usize = 72;

/// What a segment holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Names of metrics and the numbers that stand for them.
    Names,
    /// Points, by the numbers of their metrics.
    Points,
}

impl Kind {
    /// Both kinds.
    pub const ALL: [Kind; 2] = [Kind::Names, Kind::Points];

    pub(crate) fn code(self) -> u8 {
        match self {
            Kind::Names => 1,
            Kind::Points => 2,
        }
    }

    fn extension(self) -> &'static str {
        match self {
            Kind::Names => "names",
            Kind::Points => "points",
        }
    }
}

/// Which segment: used for one file in the whole life of a log directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SegmentId {
    /// The life of the process that wrote it, from 1.
    pub run: u64,
    /// The shard that wrote it.
    pub shard: u16,
    /// What it holds.
    pub kind: Kind,
    /// Its number among those of its run, shard and kind, from 1.
    pub number: u32,
}

/// A file of the log directory, by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FileName {
    /// `RUN-SHARD-NUMBER.points` or `.names`.
    Segment(SegmentId),
    /// `RUN-SHARD-SERIAL.spare`: waits for its next use. It bears the run that gave it up, which is
    /// no earlier than any run whose frames are still in it.
    Spare {
        /// The run that made it or gave it up.
        run: u64,
        /// The shard that did.
        shard: u16,
        /// Its number among the spares of that run and shard.
        serial: u32,
    },
    /// `RUN.settled`, empty: nothing of the runs before this one is needed. It is there before
    /// their files go, so that a part of them is never replayed.
    Settled {
        /// The run that says so.
        run: u64,
    },
}

impl FileName {
    /// The run in the name; the next run is one above the greatest of all files.
    pub fn run(&self) -> u64 {
        match *self {
            FileName::Segment(id) => id.run,
            FileName::Spare { run, .. } | FileName::Settled { run } => run,
        }
    }

    /// Reads a file name; `None` when it is none of ours.
    pub fn parse(text: &str) -> Option<FileName> {
        let (stem, extension) = text.split_once('.')?;
        if extension == "settled" {
            let name = FileName::Settled { run: stem.parse().ok()? };
            return (name.to_string() == text).then_some(name);
        }
        let mut parts = stem.splitn(3, '-');
        let run = parts.next()?.parse().ok()?;
        let shard = parts.next()?.parse().ok()?;
        let number = parts.next()?.parse().ok()?;
        let segment = |kind| FileName::Segment(SegmentId { run, shard, kind, number });
        let name = match extension {
            "points" => segment(Kind::Points),
            "names" => segment(Kind::Names),
            "spare" => FileName::Spare { run, shard, serial: number },
            _ => return None,
        };
        // One spelling for each file: "01-2-3.points" is somebody else's.
        (name.to_string() == text).then_some(name)
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            FileName::Segment(id) => id.fmt(formatter),
            FileName::Spare { run, shard, serial } => {
                write!(formatter, "{run:06}-{shard:03}-{serial:08}.spare")
            }
            FileName::Settled { run } => write!(formatter, "{run:06}.settled"),
        }
    }
}

impl fmt::Display for SegmentId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let SegmentId { run, shard, kind, number } = self;
        write!(formatter, "{run:06}-{shard:03}-{number:08}.{}", kind.extension())
    }
}

/// The first block of a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Which segment this is.
    pub id: SegmentId,
    /// Shards of the node that wrote it.
    pub shard_count: u16,
    /// The dictionary its numbers belong to.
    pub epoch: u32,
    /// The segment of its kind before it, 0 for none: tells that one is missing. Names look back
    /// within their epoch only.
    pub previous: u32,
    /// Seconds since the Unix epoch when it was begun, for people who look at the file.
    pub begun_s: u32,
    /// Length of the file.
    pub segment_bytes: u64,
    /// The start of the machine's kernel, and its mounts, that it was written under.
    pub boot_id: BootId,
}

/// Tells one start of a kernel, with the file systems mounted as they are, from another: what a
/// process wrote into files is in the page cache until the next one, also when it was killed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BootId(pub [u8; 16]);

/// Why a header block is not one of the segment that its file name claims.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HeaderError {
    /// Nothing but zeros, or whole and of an earlier use: the segment was never begun.
    Unbegun,
    /// Neither magic nor checksum hold.
    Damaged,
    /// A format of another version.
    Version(u16),
    /// Whole, but of another segment that is no earlier one.
    Foreign(SegmentId),
}

impl SegmentHeader {
    pub(crate) fn encode(&self, block: &mut [u8]) {
        assert!(block.len() == BLOCK_BYTES, "a header is a block, not {} bytes", block.len());
        block.fill(0);
        block[0..8].copy_from_slice(&MAGIC);
        block[8..10].copy_from_slice(&VERSION.to_le_bytes());
        block[10] = self.id.kind.code();
        block[16..24].copy_from_slice(&self.id.run.to_le_bytes());
        block[24..26].copy_from_slice(&self.id.shard.to_le_bytes());
        block[26..28].copy_from_slice(&self.shard_count.to_le_bytes());
        block[28..32].copy_from_slice(&self.id.number.to_le_bytes());
        block[32..36].copy_from_slice(&self.epoch.to_le_bytes());
        block[36..40].copy_from_slice(&self.previous.to_le_bytes());
        block[40..44].copy_from_slice(&self.begun_s.to_le_bytes());
        block[48..56].copy_from_slice(&self.segment_bytes.to_le_bytes());
        block[56..72].copy_from_slice(&self.boot_id.0);
        let checksum = checksum(block);
        block[12..16].copy_from_slice(&checksum.to_le_bytes());
    }

    /// Reads the first block of the file that bears the name of `want`.
    pub(crate) fn decode(block: &[u8], want: SegmentId) -> Result<SegmentHeader, HeaderError> {
        if block.len() < BLOCK_BYTES {
            return Err(HeaderError::Damaged);
        }
        if block[..BLOCK_BYTES].iter().all(|&byte| byte == 0) {
            return Err(HeaderError::Unbegun);
        }
        if block[0..8] != MAGIC {
            return Err(HeaderError::Damaged);
        }
        // Another version may keep its checksum elsewhere: this is one unless all but the version
        // is ours, which then has a flipped bit.
        let version = u16_at(block, 8);
        let is_whole = u32_at(block, 12) == checksum(block);
        if version != VERSION && !is_whole {
            return Err(HeaderError::Version(version));
        }
        if version != VERSION || !is_whole {
            return Err(HeaderError::Damaged);
        }
        let kind = match block[10] {
            1 => Kind::Names,
            2 => Kind::Points,
            _ => return Err(HeaderError::Damaged),
        };
        let (run, shard, number) = (u64_at(block, 16), u16_at(block, 24), u32_at(block, 28));
        let id = SegmentId { run, shard, kind, number };
        if id != want {
            return Err(if is_former_use(id, want) {
                HeaderError::Unbegun
            } else {
                HeaderError::Foreign(id)
            });
        }
        Ok(SegmentHeader {
            id,
            shard_count: u16_at(block, 26),
            epoch: u32_at(block, 32),
            previous: u32_at(block, 36),
            begun_s: u32_at(block, 40),
            segment_bytes: u64_at(block, 48),
            boot_id: BootId(*block[56..].first_chunk().expect("the length was checked")),
        })
    }
}

/// Whether a file that is `now` this segment may have been `then` before it was recycled.
fn is_former_use(then: SegmentId, now: SegmentId) -> bool {
    let is_other_kind = then.kind != now.kind;
    then.run < now.run
        || (then.run == now.run
            && then.shard == now.shard
            && (is_other_kind || then.number < now.number))
}

/// The checksum of a header with these fields in this version.
fn checksum(block: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&block[..8]);
    hasher.update(&VERSION.to_le_bytes());
    hasher.update(&block[10..12]);
    hasher.update(&block[16..FIELDS_BYTES]);
    hasher.finalize()
}
