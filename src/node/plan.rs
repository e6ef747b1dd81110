//! The plan of each core: its share of the configuration and of the node's sizes.

use std::sync::Arc;
use std::sync::mpsc::Sender;

use rtrb::Consumer;

use crate::cache::WriteStrategy;
use crate::config::{self, Config, Listener};
use crate::disk::writer::WriterOptions;
use crate::limits::{LINE_BYTES_MAX, REQUEST_BYTES_MAX};
use crate::metric::owner::ShardId;
use crate::node::listen::CoreSockets;
use crate::node::sizes::Sizes;
use crate::schema::Rules;
use crate::shard::ShardOptions;
use crate::shard::query::{ShardRequest, ShardResponse};
use crate::sys::file_systems::Newcomers;
use crate::sys::mesh::Links;
use crate::sys::new_file::Layout;
use crate::tasks::admin_line::AdminEnd;
use crate::tasks::core::{ConnectionOptions, CoreCommand, CoreEvent, Protocol};
use crate::tasks::report::ReportOptions;
use crate::tasks::start::CorePlan;
use crate::tasks::wal_handle::WalPlan;
use crate::wal;

/// What a core gets beside numbers.
pub(crate) struct Ends {
    pub(crate) rules: Arc<Rules>,
    pub(crate) links: Links<ShardRequest, ShardResponse>,
    pub(crate) commands: Consumer<CoreCommand>,
    pub(crate) reports: Sender<CoreEvent>,
    pub(crate) sockets: CoreSockets,
    pub(crate) log: Option<(wal::Options, WalPlan)>,
    pub(crate) newcomers: Option<Newcomers>,
    pub(crate) admin: AdminEnd,
}

/// The plan of one core.
pub(crate) fn core_plan(config: &Config, sizes: &Sizes, number: u16, ends: Ends) -> CorePlan {
    let listeners = ends
        .sockets
        .listeners
        .into_iter()
        .map(|(socket, protocol)| (socket, protocol, connection_options(config, sizes, protocol)))
        .collect();
    let shard_count = u16::try_from(sizes.shards()).expect("the configuration limits the shards");
    let (shard_log, log) = ends.log.unzip();
    CorePlan {
        processor: sizes.processors[usize::from(number)],
        shard: ShardOptions { log: shard_log, ..shard_options(config, sizes, number, shard_count) },
        rules: ends.rules,
        links: ends.links,
        commands: ends.commands,
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

fn connection_options(config: &Config, sizes: &Sizes, protocol: Protocol) -> ConnectionOptions {
    let (listener, message_bytes_max): (&Listener, usize) = match protocol {
        Protocol::Lines => (&config.tcp, LINE_BYTES_MAX),
        Protocol::Pickles => {
            let bytes = usize::try_from(config.pickle.max_message_size).unwrap_or(usize::MAX);
            (&config.pickle.listener, bytes)
        }
        Protocol::Carbonlink => (&config.carbonlink, REQUEST_BYTES_MAX),
    };
    ConnectionOptions {
        connections_max: sizes.share_of(listener.max_connections),
        idle_timeout: listener.idle_timeout,
        message_timeout: listener.message_timeout,
        message_bytes_max,
    }
}
