//! Where a point is in the logs of a node, over all its runs.

/// The place of a record in the order in which logs are replayed: ascending runs, in a run
/// ascending shards, in a log ascending records. All points of one metric in one run are in one
/// log, so for a metric this is the order of arrival.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Position {
    /// The run of the log.
    pub run: u64,
    /// The shard of the log.
    pub shard: u16,
    /// Number of the record in the log, from 1; 0 is before the first.
    pub record: u64,
}

impl Position {
    /// Bytes in a record.
    pub(crate) const BYTES: usize = 18;

    pub(crate) fn encode(self, out: &mut [u8]) {
        out[0..8].copy_from_slice(&self.run.to_le_bytes());
        out[8..10].copy_from_slice(&self.shard.to_le_bytes());
        out[10..Self::BYTES].copy_from_slice(&self.record.to_le_bytes());
    }

    pub(crate) fn decode(bytes: &[u8]) -> Position {
        Position {
            run: super::u64_at(bytes, 0),
            shard: super::u16_at(bytes, 8),
            record: super::u64_at(bytes, 10),
        }
    }
}
