//! The numbers of a node: shards, memory, links, connections and log, from the configuration and
//! the machine.

use crate::config::{Config, SyncMode};
use crate::limits::{BATCH_BYTES_MAX, BATCH_BYTES_MIN, LINKS_BYTES, READ_BYTES};
use crate::node::machine::{Budget, Machine, Processors};
use crate::shard::LINKS_PERCENT;
use crate::shard::memory::Share;
use crate::wal::BLOCK_BYTES;

/// Least budget of one core: its cache must hold more than its fixed buffers.
const CORE_BUDGET_MIN: usize = 8 << 20;

/// Descriptors per core beside its connections: rings, listeners, files of the batch in work.
const CORE_DESCRIPTORS: u64 = 128;

/// Least length of a segment: it holds the largest commit.
const SEGMENT_BYTES_MIN: u64 = 1 << 20;

/// Least number of files of a shard: some being written, some waiting for deletion, the reserve.
const SEGMENTS_MIN: u64 = 8;

/// Buffers in the memory of a core's log: two of points and two of names, and each may grow to
/// twice its limit.
const BUFFERS: usize = 8;

/// Least and greatest limit of a buffer. The least holds the points of one read ([`READ_BYTES`]),
/// the greatest those of two commits.
const BUFFER_BYTES_MIN: usize = 4 * READ_BYTES;
const BUFFER_BYTES_MAX: usize = 2 << 20;

/// The budget of a core divided by the limit of one buffer.
const BUFFER_SHARE: usize = 64;

/// What the plans of all cores are derived from.
#[derive(Debug, Clone)]
pub(crate) struct Sizes {
    /// The processor of each shard.
    pub(crate) processors: Vec<usize>,
    /// What decided the number of shards.
    pub(crate) shards_by: String,
    /// The memory budget of the node in bytes.
    pub(crate) budget_bytes: u64,
    /// What decided the budget.
    pub(crate) budget_by: String,
    /// Buffers per link between two cores, and their size.
    pub(crate) link_buffers: usize,
    pub(crate) batch_bytes: usize,
    /// The lengths of each core's log, if there is one.
    pub(crate) log: Option<LogSizes>,
    /// Connections of all kinds that the limit on open files allows the node.
    pub(crate) connections_max: usize,
}

impl Sizes {
    pub(crate) fn of(config: &Config, machine: &Machine, open_files: u64) -> Result<Sizes, String> {
        let Processors { numbers: processors, decided_by: shards_by } =
            machine.processors(config.common.shards);
        let Budget { bytes: budget_bytes, decided_by: budget_by } =
            machine.budget(config.cache.memory_budget);
        let shards = processors.len();
        let budget = core_budget(budget_bytes, shards);
        let links_bytes = LINKS_BYTES.min(budget / 100 * LINKS_PERCENT);
        let per_link = links_bytes / (shards - 1).max(1);
        let batch_bytes = (per_link / 2).clamp(BATCH_BYTES_MIN, BATCH_BYTES_MAX);
        if (budget * shards) as u64 > budget_bytes {
            let used = budget * shards;
            log::warn!("memory budget is too small for the cores, using {used} bytes");
        }
        let reserved = CORE_DESCRIPTORS * shards as u64;
        let connections_max = open_files.saturating_sub(reserved).max(64);
        let message_bytes = u64::from(config.pickle.max_message_size);
        let allowed = (budget / 100 * Share::Pickles.percent()) as u64;
        if config.pickle.listener.enabled && message_bytes > allowed {
            log::info!("pickles beyond {allowed} bytes are refused: a core's share of the memory");
        }
        let log = match config.wal.sync_mode {
            SyncMode::Off => None,
            SyncMode::Process | SyncMode::Power => Some(LogSizes::of(config, shards, budget)?),
        };
        Ok(Sizes {
            processors,
            shards_by,
            budget_bytes,
            budget_by,
            log,
            link_buffers: (per_link / batch_bytes).clamp(2, 16),
            batch_bytes,
            connections_max: usize::try_from(connections_max).unwrap_or(usize::MAX),
        })
    }

    /// A shard's budget: its core's, less what the buffers of its log may take.
    pub(crate) fn shard_budget(&self) -> usize {
        let log_bytes = self.log.map_or(0, |log| BUFFERS * log.buffer_bytes);
        let budget = core_budget(self.budget_bytes, self.shards());
        budget.saturating_sub(log_bytes).max(CORE_BUDGET_MIN)
    }

    pub(crate) fn shards(&self) -> usize {
        self.processors.len()
    }

    /// One core's share of a number of connections.
    pub(crate) fn share_of(&self, connections: usize) -> usize {
        connections.div_ceil(self.shards()).max(1)
    }
}

/// The lengths of a shard's log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct LogSizes {
    pub(crate) segment_bytes: u32,
    pub(crate) segments_max: u32,
    pub(crate) buffer_bytes: usize,
}

impl LogSizes {
    /// Divides the configured log size among the shards; `budget` is the memory of one core.
    pub(crate) fn of(config: &Config, shards: usize, budget: usize) -> Result<LogSizes, String> {
        let share = config.wal.max_size / shards as u64;
        if share < SEGMENTS_MIN * SEGMENT_BYTES_MIN {
            let least = (SEGMENTS_MIN * SEGMENT_BYTES_MIN * shards as u64) >> 20;
            let given = config.wal.max_size >> 20;
            return Err(format!(
                "[wal] max-size of {given} MiB is too small for {shards} shards: at least \
                 {least} MiB"
            ));
        }
        let segment_bytes = config.wal.segment_size.min(share / SEGMENTS_MIN);
        let segment_bytes = segment_bytes - segment_bytes % BLOCK_BYTES as u64;
        let segments_max = share / segment_bytes;
        let buffer_bytes = (budget / BUFFER_SHARE).clamp(BUFFER_BYTES_MIN, BUFFER_BYTES_MAX);
        let half = usize::try_from(segment_bytes / 2).expect("a segment is below 4 GiB");
        Ok(LogSizes {
            segment_bytes: u32::try_from(segment_bytes).expect("the configuration limits it"),
            segments_max: u32::try_from(segments_max).unwrap_or(u32::MAX),
            buffer_bytes: buffer_bytes.min(half),
        })
    }
}

fn core_budget(budget_bytes: u64, shards: usize) -> usize {
    let share = usize::try_from(budget_bytes / shards as u64).unwrap_or(usize::MAX);
    let links = (shards - 1) * 2 * BATCH_BYTES_MIN;
    share.max(CORE_BUDGET_MIN).max(links * 100 / LINKS_PERCENT)
}
