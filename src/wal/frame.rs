//! The frame: what is good or bad as a whole. A header and a checksum for itself and for what it
//! carries, bound to the one place in the one segment it was written for.

use crate::wal::segment::{Kind, SegmentId};
use crate::wal::{BLOCK_BYTES, u16_at, u32_at, u64_at};

/// Ends in the version of the format, so that a frame can be judged without its segment's header.
const MAGIC: [u8; 4] = *b"CBL\x02";

/// Bytes in front of the records.
pub(crate) const FRAME_HEADER_BYTES: usize = 64;

/// Most bytes of records in one frame: what one damaged byte can cost.
pub(crate) const FRAME_PAYLOAD_MAX: usize = (1 << 20) - FRAME_HEADER_BYTES;

/// The head of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    /// The segment it is in.
    pub(crate) id: SegmentId,
    /// Where in the segment, in blocks.
    pub(crate) block: u32,
    /// Length of the records.
    pub(crate) payload_bytes: u32,
    /// Checksum of the records.
    pub(crate) payload_checksum: u32,
    /// Number of the records.
    pub(crate) record_count: u32,
    /// Number of the first record in its run and shard, from 1; 0 for names.
    pub(crate) first_record: u64,
    /// Segments of points below this number were retired when this was written.
    pub(crate) oldest_live: u32,
    /// The dictionary of the numbers.
    pub(crate) epoch: u32,
    /// The sync of the Whisper files of this number, and all before it, had succeeded.
    pub(crate) synced_checkpoint: u32,
}

impl FrameHeader {
    pub(crate) fn encode(&self, out: &mut [u8]) {
        let out = &mut out[..FRAME_HEADER_BYTES];
        out.fill(0);
        out[0..4].copy_from_slice(&MAGIC);
        out[8..16].copy_from_slice(&self.id.run.to_le_bytes());
        out[16..18].copy_from_slice(&self.id.shard.to_le_bytes());
        out[18] = self.id.kind.code();
        out[20..24].copy_from_slice(&self.id.number.to_le_bytes());
        out[24..28].copy_from_slice(&self.block.to_le_bytes());
        out[28..32].copy_from_slice(&self.payload_bytes.to_le_bytes());
        out[32..36].copy_from_slice(&self.payload_checksum.to_le_bytes());
        out[36..40].copy_from_slice(&self.record_count.to_le_bytes());
        out[40..48].copy_from_slice(&self.first_record.to_le_bytes());
        out[48..52].copy_from_slice(&self.oldest_live.to_le_bytes());
        out[52..56].copy_from_slice(&self.epoch.to_le_bytes());
        out[56..60].copy_from_slice(&self.synced_checkpoint.to_le_bytes());
        let checksum = checksum(out);
        out[4..8].copy_from_slice(&checksum.to_le_bytes());
    }

    /// The header of a frame of `id` at `block`, if there is one. Its records are not looked at.
    pub(crate) fn decode(bytes: &[u8], id: SegmentId, block: u32) -> Option<FrameHeader> {
        let bytes = bytes.get(..FRAME_HEADER_BYTES)?;
        let is_ours = bytes[0..4] == MAGIC
            && u64_at(bytes, 8) == id.run
            && u16_at(bytes, 16) == id.shard
            && bytes[18] == id.kind.code()
            && u32_at(bytes, 20) == id.number
            && u32_at(bytes, 24) == block;
        if !is_ours || u32_at(bytes, 4) != checksum(bytes) {
            return None;
        }
        let header = FrameHeader {
            id,
            block,
            payload_bytes: u32_at(bytes, 28),
            payload_checksum: u32_at(bytes, 32),
            record_count: u32_at(bytes, 36),
            first_record: u64_at(bytes, 40),
            oldest_live: u32_at(bytes, 48),
            epoch: u32_at(bytes, 52),
            synced_checkpoint: u32_at(bytes, 56),
        };
        // A segment is no more retired than it is written to.
        let is_sane = header.payload_bytes as usize <= FRAME_PAYLOAD_MAX
            && (id.kind == Kind::Names || header.oldest_live <= id.number);
        is_sane.then_some(header)
    }

    /// The length of the frame that `bytes` begin with, if it is of this place and not whole. One
    /// damaged field of five does not hide it; a frame of an earlier use is whole in its way.
    pub(crate) fn torn_bytes(bytes: &[u8], id: SegmentId, block: u32) -> Option<usize> {
        let Some(head) = bytes.get(..FRAME_HEADER_BYTES) else {
            return bytes.starts_with(&MAGIC).then_some(bytes.len());
        };
        let matches = [
            head[0..4] == MAGIC,
            u64_at(head, 8) == id.run,
            u16_at(head, 16) == id.shard && head[18] == id.kind.code(),
            u32_at(head, 20) == id.number,
            u32_at(head, 24) == block,
        ];
        let is_whole = u32_at(head, 4) == checksum(head);
        let is_ours = matches.iter().filter(|&&is_equal| is_equal).count();
        if is_ours < 4 || (is_whole && is_ours < 5) {
            return None;
        }
        let payload_bytes = (u32_at(head, 28) as usize).min(FRAME_PAYLOAD_MAX);
        Some((FRAME_HEADER_BYTES + payload_bytes).next_multiple_of(BLOCK_BYTES))
    }

    /// Bytes from the frame's start to the next one.
    pub(crate) fn frame_bytes(&self) -> usize {
        (FRAME_HEADER_BYTES + self.payload_bytes as usize).next_multiple_of(BLOCK_BYTES)
    }

    /// The records, if all are there and unharmed. `bytes` begin with the header.
    pub(crate) fn payload<'b>(&self, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let end = FRAME_HEADER_BYTES + self.payload_bytes as usize;
        let payload = bytes.get(FRAME_HEADER_BYTES..end)?;
        (crc32fast::hash(payload) == self.payload_checksum).then_some(payload)
    }
}

/// The checksum of a frame's header.
fn checksum(head: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&head[..4]);
    hasher.update(&head[8..FRAME_HEADER_BYTES]);
    hasher.finalize()
}
