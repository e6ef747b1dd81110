//! Sizes derived from the configuration and the machine, and each core's share of them.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use rtrb::Consumer;

use crate::cache::WriteStrategy;
use crate::config::{self, Config, Listener, SyncMode};
use crate::limits::{
    BATCH_BYTES_MAX, BATCH_BYTES_MIN, LINE_BYTES_MAX, LINKS_BYTES, REQUEST_BYTES_MAX,
};
use crate::node::listen::CoreSockets;
use crate::node::log_directory::{BUFFERS, LogSizes};
use crate::node::machine::{Budget, Machine, Processors};
use crate::schema::Rules;
use crate::shard::memory::Share;
use crate::shard::query::{Answer, Question};
use crate::shard::route::ShardId;
use crate::shard::{LINKS_PERCENT, ShardOptions};
use crate::sys::file_systems::Newcomers;
use crate::sys::mesh::Links;
use crate::sys::new_file::Layout;
use crate::tasks::admin::AdminEnd;
use crate::tasks::commit::LogPlan;
use crate::tasks::core::{ConnectionOptions, Order, Report, Speech};
use crate::tasks::report::ReportOptions;
use crate::tasks::start::CorePlan;
use crate::tasks::writer::WriterOptions;
use crate::wal;

/// Least budget of one core: its cache must hold more than its fixed buffers.
const CORE_BUDGET_MIN: usize = 8 << 20;

/// Descriptors per core beside its connections: rings, listeners, files of the batch in work.
const CORE_DESCRIPTORS: u64 = 128;

/// Numbers every core's plan is made from.
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
    connections_max: usize,
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
    fn shard_budget(&self) -> usize {
        let log_bytes = self.log.map_or(0, |log| BUFFERS * log.buffer_bytes);
        let budget = core_budget(self.budget_bytes, self.shards());
        budget.saturating_sub(log_bytes).max(CORE_BUDGET_MIN)
    }

    pub(crate) fn shards(&self) -> usize {
        self.processors.len()
    }

    /// One core's share of a number of connections.
    fn share_of(&self, connections: usize) -> usize {
        connections.div_ceil(self.shards()).max(1)
    }
}

fn core_budget(budget_bytes: u64, shards: usize) -> usize {
    let share = usize::try_from(budget_bytes / shards as u64).unwrap_or(usize::MAX);
    let links = (shards - 1) * 2 * BATCH_BYTES_MIN;
    share.max(CORE_BUDGET_MIN).max(links * 100 / LINKS_PERCENT)
}

/// What a core gets beside numbers.
pub(crate) struct Ends {
    pub(crate) rules: Arc<Rules>,
    pub(crate) links: Links<Question, Answer>,
    pub(crate) orders: Consumer<Order>,
    pub(crate) reports: Sender<Report>,
    pub(crate) sockets: CoreSockets,
    pub(crate) log: Option<(wal::Options, LogPlan)>,
    pub(crate) newcomers: Option<Newcomers>,
    pub(crate) admin: AdminEnd,
}

/// The plan of one core.
pub(crate) fn core_plan(config: &Config, sizes: &Sizes, number: u16, ends: Ends) -> CorePlan {
    let listeners = ends
        .sockets
        .listeners
        .into_iter()
        .map(|(socket, speech)| (socket, speech, connection_options(config, sizes, speech)))
        .collect();
    let shard_count = u16::try_from(sizes.shards()).expect("the configuration limits the shards");
    let (shard_log, log) = ends.log.unzip();
    CorePlan {
        processor: sizes.processors[usize::from(number)],
        shard: ShardOptions { log: shard_log, ..shard_options(config, sizes, number, shard_count) },
        rules: ends.rules,
        links: ends.links,
        orders: ends.orders,
        reports: ends.reports,
        listeners,
        connections_max: sizes.share_of(sizes.connections_max),
        datagrams: ends.sockets.datagrams,
        directory: config.whisper.data_dir.clone(),
        writer: config.whisper.enabled.then(|| writer_options(config)),
        newcomers: ends.newcomers,
        flush_interval: config.whisper.flush_interval,
        log,
        admin: ends.admin,
        report: (number == 0 && !config.common.metric_interval.is_zero()).then(|| ReportOptions {
            prefix: config.common.graph_prefix.clone(),
            interval: config.common.metric_interval,
            shard_count,
            updates_per_s_max: u64::from(config.whisper.max_updates_per_second),
        }),
    }
}

fn shard_options(config: &Config, sizes: &Sizes, number: u16, shard_count: u16) -> ShardOptions {
    let share = |rate: u32| f64::from(rate) / f64::from(shard_count);
    let future_s_max = config
        .cache
        .max_future
        .map_or(u32::MAX, |time| u32::try_from(time.as_secs()).unwrap_or(u32::MAX));
    ShardOptions {
        id: ShardId(number),
        shard_count,
        budget_bytes: sizes.shard_budget(),
        points_max: config.cache.max_size.div_ceil(u64::from(shard_count)),
        strategy: match config.cache.write_strategy {
            config::WriteStrategy::Max => WriteStrategy::Max,
            config::WriteStrategy::Sorted => WriteStrategy::Sorted,
            config::WriteStrategy::Noop => WriteStrategy::Noop,
        },
        updates_per_s: share(config.whisper.max_updates_per_second),
        creates_per_s: share(config.whisper.max_creates_per_second),
        future_s_max,
        hash_tagged: config.whisper.hash_filenames,
        quarantined_points_max: config.whisper.quarantined_points_max,
        link_buffers: sizes.link_buffers,
        batch_bytes: sizes.batch_bytes,
        log: None,
    }
}

fn writer_options(config: &Config) -> WriterOptions {
    let sparse = config.whisper.sparse_create;
    WriterOptions {
        layout: if sparse { Layout::Sparse } else { Layout::Reserved },
        flock: config.whisper.flock,
        follow_symlinks: config.whisper.follow_symlinks,
    }
}

fn connection_options(config: &Config, sizes: &Sizes, speech: Speech) -> ConnectionOptions {
    let (listener, message_bytes_max): (&Listener, usize) = match speech {
        Speech::Lines => (&config.tcp, LINE_BYTES_MAX),
        Speech::Pickles => {
            let bytes = usize::try_from(config.pickle.max_message_size).unwrap_or(usize::MAX);
            (&config.pickle.listener, bytes)
        }
        Speech::Carbonlink => (&config.carbonlink, REQUEST_BYTES_MAX),
    };
    ConnectionOptions {
        connections_max: sizes.share_of(listener.max_connections),
        idle_timeout: listener.idle_timeout,
        message_timeout: listener.message_timeout,
        message_bytes_max,
    }
}
