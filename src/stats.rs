//! The counters of a shard, and the metric names of the published values.
//!
//! Counters are plain numbers of one core; [`Counters::add`] sums those of several. Every received
//! point is in exactly one of them:
//!
//! ```text
//! received = accepted + dropped before acceptance + on the way between cores
//! accepted + recovered = replaced + waiting + writing + committed + dropped after acceptance
//! ```

use std::fmt;

/// Where points come in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Receiver {
    /// Lines over TCP.
    Tcp,
    /// Lines in datagrams.
    Udp,
    /// Pickled batches over TCP.
    Pickle,
    /// The node's own statistics.
    Own,
}

/// Number of [`Receiver`]s.
pub const RECEIVERS: usize = 4;

impl Receiver {
    /// All receivers, in the order of the counters.
    pub const ALL: [Receiver; RECEIVERS] =
        [Receiver::Tcp, Receiver::Udp, Receiver::Pickle, Receiver::Own];

    /// Position in the counters.
    pub fn index(self) -> usize {
        self as usize
    }

    /// go-carbon's name of the receiver.
    pub fn name(self) -> &'static str {
        match self {
            Receiver::Tcp => "tcp",
            Receiver::Udp => "udp",
            Receiver::Pickle => "pickle",
            Receiver::Own => "own",
        }
    }
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $text:literal,)*) => {
        /// Why a point (or, where it says so, a message) was dropped.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum DropReason { $($(#[doc = $doc])* $name,)* }

        impl DropReason {
            /// All reasons, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$name,)*];

            /// The last component of the metric `<prefix>.dropped.<name>`.
            pub fn name(self) -> &'static str {
                match self { $(DropReason::$name => $text,)* }
            }
        }
    };
}

reasons! {
    /// A line without exactly three fields.
    LineFields = "line_fields",
    /// A line or pickled item whose value is no number.
    BadValue = "bad_value",
    /// A line or pickled item whose timestamp is no number.
    BadTimestamp = "bad_timestamp",
    /// A line beyond the limit; its connection is closed.
    LineTooLong = "line_too_long",
    /// An unfinished line, given up because such lines had used up their share of the memory; its
    /// connection is closed.
    LineNoMemory = "line_no_memory",
    /// An unfinished last line of a connection.
    LineUnfinished = "line_unfinished",
    /// The last line of a datagram, without LF, that may have been cut short.
    DatagramCut = "datagram_cut",
    /// A pickled item that is no (name, (timestamp, value)).
    PickleItem = "pickle_item",
    /// A pickled message that cannot be decoded, is too long, or was cut off; counted as one. After
    /// a too long one the connection is closed.
    PickleMessage = "pickle_message",
    /// An unfinished pickled message, given up because such messages had used up their share of the
    /// memory; counted as one, and its connection is closed.
    PickleNoMemory = "pickle_no_memory",
    /// A name without content.
    NameEmpty = "name_empty",
    /// A name longer than the limit.
    NameTooLong = "name_too_long",
    /// A name with a component that no file system takes.
    NameComponent = "name_component",
    /// A name with more components than the limit.
    NameTooDeep = "name_too_deep",
    /// A name with NUL or another control character.
    NameControl = "name_control",
    /// A name that is not UTF-8.
    NameUtf8 = "name_utf8",
    /// A name that would take a path the node keeps for other things.
    NameReserved = "name_reserved",
    /// A value that is not a number.
    ValueNan = "value_nan",
    /// A timestamp that is infinite or not a number.
    TimestampNotFinite = "timestamp_not_finite",
    /// A timestamp at or before the epoch.
    TimestampNegative = "timestamp_negative",
    /// A timestamp too far in the future.
    TimestampFuture = "timestamp_future",
    /// A datagram's point that came while the cache was full.
    CacheFull = "cache_full",
    /// A point of a metric without a file, beyond the share of memory of those that wait for the
    /// limit on new files.
    NewNames = "new_names",
    /// A waiting point of a metric that the operator had the node forget.
    Forgotten = "forgotten",
    /// A point older than its file's retention, found when it was to be written.
    TooOld = "too_old",
    /// The oldest points of a metric whose file cannot be written, beyond the limit.
    Quarantine = "quarantine",
    /// A point whose file could not be written before the node stopped.
    Stopped = "stopped",
}

/// Number of [`DropReason`]s.
pub const REASONS: usize = DropReason::ALL.len();

macro_rules! counters {
    ($($(#[doc = $doc:literal])* $name:ident,)*) => {
        /// What one shard has counted since it started.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Counters {
            /// Points, good or bad, by receiver.
            pub received: [u64; RECEIVERS],
            /// Of these, the ones refused at once, by receiver.
            pub refused: [u64; RECEIVERS],
            /// Dropped points by reason.
            pub dropped: [u64; REASONS],
            $($(#[doc = $doc])* pub $name: u64,)*
        }

        impl Default for Counters {
            fn default() -> Counters {
                Counters {
                    received: [0; RECEIVERS],
                    refused: [0; RECEIVERS],
                    dropped: [0; REASONS],
                    $($name: 0,)*
                }
            }
        }

        impl Counters {
            fn zip(&mut self, other: &Counters, join: impl Fn(u64, u64) -> u64) {
                for (mine, theirs) in self.received.iter_mut().zip(other.received) {
                    *mine = join(*mine, theirs);
                }
                for (mine, theirs) in self.refused.iter_mut().zip(other.refused) {
                    *mine = join(*mine, theirs);
                }
                for (mine, theirs) in self.dropped.iter_mut().zip(other.dropped) {
                    *mine = join(*mine, theirs);
                }
                $(self.$name = join(self.$name, other.$name);)*
            }
        }
    };
}

counters! {
    /// Points accepted into the cache of the shard that owns their metric.
    accepted,
    /// Points replaced by a later one with the same timestamp.
    replaced,
    /// Points written into their file.
    committed,
    /// Files updated.
    updates,
    /// Files created.
    creates,
    /// Updates and creations that failed and were put off.
    write_errors,
    /// Damaged files set aside.
    damaged_files,
    /// Time spent in updates, in microseconds.
    update_micros,
    /// Batches of files that had to be read from the disk to be updated.
    cold_batches,
    /// Carbonlink queries for one metric.
    queries,
    /// Carbonlink bulk queries.
    bulk_queries,
    /// Metrics asked for in bulk queries.
    bulk_query_metrics,
    /// Carbonlink requests that could not be understood.
    bad_requests,
    /// Unfinished carbonlink requests, given up because such requests had used up their share of
    /// the memory; their connections are closed.
    requests_given_up,
    /// Carbonlink questions refused because their answer is larger than its share of the memory.
    answers_too_large,
    /// Carbonlink questions refused because other answers held their share of the memory for long.
    answers_put_off,
    /// Carbonlink connections closed because the client did not take its answer.
    slow_readers,
    /// Connections closed because a message took too long or nothing came for too long.
    timeouts,
    /// Datagrams the kernel dropped because the socket's buffer was full.
    kernel_drops,
    /// Times a receiver had to wait because the cache or a link was full.
    stalls,
    /// Sweeps over the cache that were begun.
    sweeps,
    /// Accepts that failed for want of descriptors.
    accept_errors,
    /// Schema patterns that took too many steps on a name and were passed over.
    patterns_given_up,
    /// Points of earlier runs, found in their logs.
    recovered,
    /// Points that are in the cache at the stop, and in the log.
    logged,
    /// Points received by the log.
    wal_received,
    /// Of them, those that survive the end of the process.
    wal_written,
    /// Of them, those that survive a loss of power.
    wal_synced,
    /// Points written to the log again so that an old segment could go.
    wal_rewritten,
    /// Notes in the log that a metric's points are in its file.
    wal_confirmations,
    /// Updates that the log has no room to take a note of: their points are replayed.
    unnoted_updates,
    /// Updates made although one before them could be repeated after a crash and lap them.
    unsynced_updates,
    /// Bytes written to the log.
    wal_bytes,
    /// Commits to the log.
    wal_commits,
    /// Commits that failed and were written again.
    wal_failed_commits,
    /// Checkpoints.
    wal_checkpoints,
    /// Points of earlier runs that their logs are known to have lost.
    wal_lost,
}

impl Counters {
    /// Adds another shard's counters.
    pub fn add(&mut self, other: &Counters) {
        self.zip(other, |mine, theirs| mine + theirs);
    }

    /// What was counted since `earlier`.
    pub fn since(&self, earlier: &Counters) -> Counters {
        let mut difference = *self;
        difference.zip(earlier, |now, then| now.saturating_sub(then));
        difference
    }

    /// Counts points dropped.
    pub fn drop_points(&mut self, reason: DropReason, count: u64) {
        self.dropped[reason as usize] += count;
    }

    /// How many points were dropped for this reason.
    pub fn dropped_for(&self, reason: DropReason) -> u64 {
        self.dropped[reason as usize]
    }

    fn accepted_from(&self, receiver: Receiver) -> u64 {
        self.received[receiver.index()].saturating_sub(self.refused[receiver.index()])
    }
}

/// What a shard holds right now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Points no flush has taken yet.
    pub waiting: u64,
    /// Points of flushes under way.
    pub writing: u64,
    /// Metrics the cache knows.
    pub metrics: u64,
    /// Bytes of the memory budget in use.
    pub bytes: u64,
    /// Of them, bytes of unfinished messages and unread answers.
    pub connection_bytes: u64,
    /// The memory budget in bytes.
    pub budget_bytes: u64,
    /// Limit on waiting points; 0 is none.
    pub points_max: u64,
    /// Metrics whose file cannot be written.
    pub quarantined: u64,
    /// Open connections: lines, pickles, carbonlink.
    pub connections: [u64; 3],
    /// Files of the log.
    pub wal_segments: u64,
    /// Points that found no room in the log yet.
    pub wal_unlogged: u64,
    /// Metrics that wait for the limit on new files.
    pub new_metrics: u64,
    /// The memory that they take, in bytes.
    pub new_bytes: u64,
}

impl Gauges {
    /// Adds another shard's gauges.
    pub fn add(&mut self, other: &Gauges) {
        self.waiting += other.waiting;
        self.writing += other.writing;
        self.metrics += other.metrics;
        self.bytes += other.bytes;
        self.connection_bytes += other.connection_bytes;
        self.budget_bytes += other.budget_bytes;
        self.points_max += other.points_max;
        self.quarantined += other.quarantined;
        self.wal_segments += other.wal_segments;
        self.wal_unlogged += other.wal_unlogged;
        self.new_metrics += other.new_metrics;
        self.new_bytes += other.new_bytes;
        for (mine, theirs) in self.connections.iter_mut().zip(other.connections) {
            *mine += theirs;
        }
    }
}

/// The whole node at one moment and what happened since the last report.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Counters since the start.
    pub total: Counters,
    /// Counters since the last report.
    pub delta: Counters,
    /// The state now.
    pub gauges: Gauges,
    /// Share of one core used since the last report, in percent.
    pub cpu_percent: f64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
    /// Number of shards.
    pub shards: u64,
    /// Updates allowed per second; 0 is no limit.
    pub updates_per_s_max: u64,
}

/// Calls `emit` with the name (below the prefix) and the value of every metric of a report:
/// carbon-cache's flat names, go-carbon's nested ones, and our own accounting. Events are counts
/// per interval as carbon's and go-carbon's are; `accounting` and `dropped` count since the start.
pub fn publish(report: &Report, mut emit: impl FnMut(fmt::Arguments<'_>, f64)) {
    carbon_names(report, &mut emit);
    go_carbon_names(report, &mut emit);
    accounting(report, &mut emit);
    log(report, &mut emit);
}

/// A count as a metric's value: exact up to 2^53.
#[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 may be rounded")]
fn value(count: u64) -> f64 {
    count as f64
}

fn ratio(dividend: u64, divisor: u64) -> Option<f64> {
    (divisor > 0).then(|| value(dividend) / value(divisor))
}

fn carbon_names(report: &Report, emit: &mut impl FnMut(fmt::Arguments<'_>, f64)) {
    let (delta, gauges) = (&report.delta, &report.gauges);
    let accepted = [Receiver::Tcp, Receiver::Udp, Receiver::Pickle]
        .iter()
        .map(|&receiver| delta.accepted_from(receiver))
        .sum();
    emit(format_args!("metricsReceived"), value(accepted));
    emit(format_args!("committedPoints"), value(delta.committed));
    emit(format_args!("updateOperations"), value(delta.updates));
    if let Some(points) = ratio(delta.committed, delta.updates) {
        emit(format_args!("pointsPerUpdate"), points);
    }
    if let Some(micros) = ratio(delta.update_micros, delta.updates) {
        emit(format_args!("avgUpdateTime"), micros / 1e6);
    }
    emit(format_args!("creates"), value(delta.creates));
    // New files are put off as long as there is room for their points.
    emit(format_args!("droppedCreates"), 0.0);
    emit(format_args!("errors"), value(delta.write_errors + delta.damaged_files));
    emit(format_args!("activeConnections"), value(gauges.connections.iter().sum()));
    emit(format_args!("blacklistMatches"), 0.0);
    emit(format_args!("whitelistRejects"), 0.0);
    emit(format_args!("cpuUsage"), report.cpu_percent);
    emit(format_args!("memUsage"), value(report.resident_bytes));
    emit(format_args!("cache.size"), value(gauges.waiting + gauges.writing));
    emit(format_args!("cache.queues"), value(gauges.metrics));
    emit(format_args!("cache.queries"), value(delta.queries));
    emit(format_args!("cache.bulk_queries"), value(delta.bulk_queries));
    if let Some(metrics) = ratio(delta.bulk_query_metrics, delta.bulk_queries) {
        emit(format_args!("cache.bulk_queries_average_size"), metrics);
    }
    emit(format_args!("cache.overflow"), value(delta.dropped_for(DropReason::CacheFull)));
}

fn go_carbon_names(report: &Report, emit: &mut impl FnMut(fmt::Arguments<'_>, f64)) {
    let (delta, gauges) = (&report.delta, &report.gauges);
    emit(format_args!("cache.metrics"), value(gauges.metrics));
    emit(format_args!("cache.maxSize"), value(gauges.points_max));
    emit(format_args!("cache.notConfirmed"), value(gauges.writing));
    emit(format_args!("cache.queueBuildCount"), value(delta.sweeps));
    emit(format_args!("persister.updateOperations"), value(delta.updates));
    emit(format_args!("persister.committedPoints"), value(delta.committed));
    if let Some(points) = ratio(delta.committed, delta.updates) {
        emit(format_args!("persister.pointsPerUpdate"), points);
    }
    emit(format_args!("persister.created"), value(delta.creates));
    emit(format_args!("persister.maxUpdatesPerSecond"), value(report.updates_per_s_max));
    emit(format_args!("persister.workers"), value(report.shards));
    let active = [gauges.connections[0], 0, gauges.connections[1]];
    for (receiver, active) in
        [Receiver::Tcp, Receiver::Udp, Receiver::Pickle].into_iter().zip(active)
    {
        let name = receiver.name();
        emit(format_args!("{name}.metricsReceived"), value(delta.accepted_from(receiver)));
        emit(format_args!("{name}.errors"), value(delta.refused[receiver.index()]));
        if receiver != Receiver::Udp {
            emit(format_args!("{name}.active"), value(active));
        }
    }
    emit(format_args!("runtime.GOMAXPROCS"), value(report.shards));
}

/// How far the log is. `received_points` less `synced_points` is what a loss of power costs now,
/// less `written_points` what the end of the process does.
fn log(report: &Report, emit: &mut impl FnMut(fmt::Arguments<'_>, f64)) {
    let (total, gauges) = (&report.total, &report.gauges);
    emit(format_args!("wal.received_points"), value(total.wal_received));
    emit(format_args!("wal.written_points"), value(total.wal_written));
    emit(format_args!("wal.synced_points"), value(total.wal_synced));
    emit(format_args!("wal.unlogged_points"), value(gauges.wal_unlogged));
    emit(format_args!("wal.carried_points"), value(total.wal_rewritten));
    emit(format_args!("wal.confirmations"), value(total.wal_confirmations));
    emit(format_args!("wal.unnoted_updates"), value(total.unnoted_updates));
    emit(format_args!("wal.unsynced_updates"), value(total.unsynced_updates));
    emit(format_args!("wal.bytes"), value(total.wal_bytes));
    emit(format_args!("wal.segments"), value(gauges.wal_segments));
    emit(format_args!("wal.commits"), value(total.wal_commits));
    emit(format_args!("wal.failed_commits"), value(total.wal_failed_commits));
    emit(format_args!("wal.checkpoints"), value(total.wal_checkpoints));
    emit(format_args!("wal.lost_points"), value(total.wal_lost));
}

fn accounting(report: &Report, emit: &mut impl FnMut(fmt::Arguments<'_>, f64)) {
    let (total, gauges) = (&report.total, &report.gauges);
    let received: u64 = total.received.iter().sum();
    emit(format_args!("accounting.received"), value(received));
    for receiver in Receiver::ALL {
        let count = total.received[receiver.index()];
        emit(format_args!("accounting.received_{}", receiver.name()), value(count));
    }
    emit(format_args!("accounting.refused"), value(total.refused.iter().sum()));
    emit(format_args!("accounting.accepted"), value(total.accepted));
    emit(format_args!("accounting.recovered"), value(total.recovered));
    emit(format_args!("accounting.replaced"), value(total.replaced));
    emit(format_args!("accounting.stored"), value(total.committed));
    emit(format_args!("accounting.waiting"), value(gauges.waiting));
    emit(format_args!("accounting.writing"), value(gauges.writing));
    emit(format_args!("accounting.stalls"), value(total.stalls));
    emit(format_args!("accounting.timeouts"), value(total.timeouts));
    emit(format_args!("accounting.bad_requests"), value(total.bad_requests));
    emit(format_args!("accounting.requests_given_up"), value(total.requests_given_up));
    emit(format_args!("accounting.answers_too_large"), value(total.answers_too_large));
    emit(format_args!("accounting.answers_put_off"), value(total.answers_put_off));
    emit(format_args!("accounting.slow_readers"), value(total.slow_readers));
    emit(format_args!("accounting.damaged_files"), value(total.damaged_files));
    emit(format_args!("accounting.write_errors"), value(total.write_errors));
    emit(format_args!("accounting.cold_batches"), value(total.cold_batches));
    emit(format_args!("accounting.accept_errors"), value(total.accept_errors));
    emit(format_args!("accounting.patterns_given_up"), value(total.patterns_given_up));
    emit(format_args!("accounting.quarantined_metrics"), value(gauges.quarantined));
    emit(format_args!("accounting.new_metrics"), value(gauges.new_metrics));
    emit(format_args!("accounting.new_bytes"), value(gauges.new_bytes));
    emit(format_args!("accounting.memory_bytes"), value(gauges.bytes));
    emit(format_args!("accounting.connection_bytes"), value(gauges.connection_bytes));
    emit(format_args!("accounting.memory_budget_bytes"), value(gauges.budget_bytes));
    emit(format_args!("dropped.kernel_datagrams"), value(total.kernel_drops));
    for &reason in DropReason::ALL {
        emit(format_args!("dropped.{}", reason.name()), value(total.dropped_for(reason)));
    }
}
