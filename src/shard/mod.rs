//! One core's whole state and all its decisions, synchronous.
//!
//! A shard owns the metrics whose names hash to it. Tasks borrow it, call one method and let go;
//! nothing here waits, reads a clock or touches a file: jobs describe their I/O as data.
//!
//! - `ingest`: points come in, are checked, and go to the cache or to their owner's batch.
//! - `journal`: points go into the log; its segments are held until they are in their files.
//! - `flush`: which file is written next, and what its outcome means.
//! - `unsynced`: which files may be written before the next sync of all.
//! - `new_names`: metrics without a file, and those whose file was not looked for yet.
//! - `forget`: drops points that need not be written.
//! - `series`: what is known about each metric's file.
//! - `query`: questions and answers between cores.
//! - `memory`: what connections hold, of unfinished messages and of unread answers.

pub mod flush;
pub mod forget;
mod ingest;
mod journal;
pub mod memory;
mod new_names;
pub mod query;
pub mod route;
mod series;
mod throttle;
mod unsynced;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::cache::{Cache, FlushOrder, MetricId, WriteStrategy};
use crate::metric::owner::ShardId;
use crate::schema::Rules;
use crate::stats::{Counters, Gauges};
use crate::wal::{self, Pressure};
pub use ingest::Intake;
use journal::Journal;
pub use journal::Replayed;
use memory::{Held, Share};
use new_names::NewNames;
use route::Outbox;
use series::SeriesFiles;
use throttle::Throttle;
use unsynced::Unsynced;

/// Receivers start again when the memory in use has fallen to this share of the budget (carbon
/// resumes below 95 %): far enough that they do not stop again at once.
const RESUME_PERCENT: usize = 90;

/// Knowing metrics may take this share of the budget; beyond it metrics without points are
/// forgotten, and their files are opened anew when points come again.
const INDEX_PERCENT: usize = 40;

/// Metrics that wait for the limit on new files may take this share, with their names and points;
/// beyond it their points are dropped, see `new_names`. A quarter leaves known metrics room for
/// three times as much, and of a budget of 1 GiB holds a million names.
pub const NEW_PERCENT: usize = 25;

/// Buffers of the links may take this share.
pub const LINKS_PERCENT: usize = 9;

const _: () = assert!(
    INDEX_PERCENT + Share::sum_percent() + LINKS_PERCENT < RESUME_PERCENT,
    "what is there without points must leave room to resume"
);
const _: () = assert!(
    NEW_PERCENT + Share::sum_percent() + LINKS_PERCENT < RESUME_PERCENT,
    "new names that wait for hours must leave room to resume"
);

/// Options of a shard.
#[derive(Debug, Clone)]
pub struct ShardOptions {
    /// Which shard this is.
    pub id: ShardId,
    /// Number of shards of the node.
    pub shard_count: u16,
    /// This shard's share of the memory budget, in bytes.
    pub budget_bytes: usize,
    /// Limit on points not in their file; 0 is none.
    pub points_max: u64,
    /// Order of writing.
    pub strategy: WriteStrategy,
    /// File updates per second; 0 is no limit.
    pub updates_per_s: f64,
    /// New files per second; 0 is no limit.
    pub creates_per_s: f64,
    /// Points further ahead of the clock than this many seconds are refused.
    pub future_s_max: u32,
    /// Files of tagged metrics are named by their hash.
    pub hash_tagged: bool,
    /// Points kept of a metric whose file cannot be written for a reason of its own.
    pub quarantined_points_max: u32,
    /// Buffers per link to another shard.
    pub link_buffers: usize,
    /// Size of each in bytes.
    pub batch_bytes: usize,
    /// The log; `None`: what is in the cache is lost with the process.
    pub log: Option<wal::Options>,
}

/// One core's state.
pub struct Shard {
    options: ShardOptions,
    cache: Cache,
    order: FlushOrder,
    files: SeriesFiles,
    /// Metrics found without a file, in the order they were found.
    creations: VecDeque<MetricId>,
    new_names: NewNames,
    updates: Throttle,
    creates: Throttle,
    outbox: Outbox,
    rules: Arc<Rules>,
    journal: Option<Journal>,
    unsynced: Unsynced,
    /// Counters since the start.
    pub counters: Counters,
    now_s: u32,
    started: Instant,
    is_full: bool,
    held: Held,
    forget_cursor: u32,
    name_scratch: Vec<u8>,
    path_scratch: Vec<u8>,
}

impl Shard {
    /// An empty shard.
    pub fn new(options: ShardOptions, rules: Arc<Rules>, now: Instant) -> Shard {
        let outbox = Outbox::new(options.shard_count, options.link_buffers, options.batch_bytes);
        Shard {
            cache: Cache::new(),
            order: FlushOrder::new(options.strategy),
            files: SeriesFiles::default(),
            creations: VecDeque::new(),
            new_names: NewNames::default(),
            updates: Throttle::new(options.updates_per_s, now),
            creates: Throttle::new(options.creates_per_s, now),
            outbox,
            rules,
            journal: options.log.clone().map(Journal::new),
            unsynced: Unsynced::default(),
            counters: Counters::default(),
            now_s: 0,
            started: now,
            is_full: false,
            held: Held::new(options.budget_bytes),
            forget_cursor: 0,
            name_scratch: Vec::new(),
            path_scratch: Vec::new(),
            options,
        }
    }

    /// Tells the shard the wall clock's time.
    pub fn set_time(&mut self, now_s: u32) {
        if self.now_s == now_s {
            return;
        }
        if self.now_s == 0 {
            self.unsynced.begin(now_s);
        }
        self.now_s = now_s;
        if let Some(journal) = &mut self.journal {
            journal.log.set_time(now_s);
        }
    }

    /// The wall clock's time the shard was last told.
    pub fn now_s(&self) -> u32 {
        self.now_s
    }

    /// The shard's number.
    pub fn id(&self) -> ShardId {
        self.options.id
    }

    /// Number of shards of the node.
    pub fn shard_count(&self) -> u16 {
        self.options.shard_count
    }

    /// New rules for new files.
    pub fn set_rules(&mut self, rules: Arc<Rules>) {
        self.rules = rules;
    }

    /// Batches for the other shards.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.outbox
    }

    /// Whether this shard must not take more points: its memory or its limit of points is used
    /// up, or the log has no room.
    pub fn is_full(&mut self) -> bool {
        self.is_cache_full() || self.journal.as_ref().is_some_and(Journal::is_full)
    }

    /// Whether memory or the limit of points is used up, with hysteresis.
    pub fn is_cache_full(&mut self) -> bool {
        let bytes = self.bytes();
        let points = self.cache.waiting_count() + self.cache.writing_count();
        let budget = self.options.budget_bytes;
        let points_max = self.points_max();
        self.is_full = if self.is_full {
            let points_low = points_max.saturating_mul(RESUME_PERCENT as u64) / 100;
            bytes > budget / 100 * RESUME_PERCENT || (points_max > 0 && points > points_low)
        } else {
            bytes >= budget || (points_max > 0 && points >= points_max)
        };
        self.is_full
    }

    /// Whether sweeps should follow each other without a pause.
    pub fn must_flush(&mut self) -> bool {
        self.is_cache_full() || self.log_pressure() != Pressure::None
    }

    /// Limit on points, by configuration and by what the log holds; 0 is none.
    fn points_max(&self) -> u64 {
        let by_log = self.journal.as_ref().map(Journal::points_max);
        match (self.options.points_max, by_log) {
            (configured, None) => configured,
            (0, Some(by_log)) => by_log,
            (configured, Some(by_log)) => configured.min(by_log),
        }
    }

    /// Whether the shard was full when it was last looked at.
    pub fn was_full(&self) -> bool {
        self.is_full
    }

    /// Whether receivers must wait: this shard is full, or the link to another one is.
    pub fn must_wait(&mut self) -> bool {
        self.is_full() || self.outbox.is_full()
    }

    /// Why [`Shard::must_wait`], in words of the configuration.
    pub fn what_is_full(&mut self) -> Option<&'static str> {
        const MEMORY: &str = "[cache] memory-budget";
        const POINTS: &str = "points, limited by [cache] max-size or half of [wal] max-size";
        let is_out = |journal: &Journal| journal.log.is_out_of_files();
        if self.journal.as_ref().is_some_and(is_out) {
            return Some("[wal] max-size");
        }
        if self.journal.as_ref().is_some_and(Journal::is_full) {
            return Some("commits, the disk of the log does not take them");
        }
        if self.is_cache_full() {
            let is_memory = self.bytes() >= self.options.budget_bytes / 100 * RESUME_PERCENT;
            return Some(if is_memory { MEMORY } else { POINTS });
        }
        self.outbox.is_full().then_some("links to other cores")
    }

    /// Memory of the budget in use, in bytes: cache, batches, and what connections hold.
    pub fn bytes(&self) -> usize {
        let late = self.journal.as_ref().map_or(0, Journal::late_bytes);
        let others = self.outbox.bytes() + self.held.bytes() + late + self.unsynced.bytes();
        self.cache.bytes() + others + self.new_names.bytes()
    }

    /// The shard's gauges; the caller knows the connections.
    pub fn gauges(&self) -> Gauges {
        Gauges {
            waiting: self.cache.waiting_count(),
            writing: self.cache.writing_count(),
            metrics: self.cache.metric_count() as u64,
            bytes: self.bytes() as u64,
            connection_bytes: self.held_bytes() as u64,
            budget_bytes: self.options.budget_bytes as u64,
            points_max: self.options.points_max,
            quarantined: self.files.failing_count(),
            connections: [0; 3],
            wal_segments: self.journal.as_ref().map_or(0, |it| u64::from(it.log.file_count())),
            wal_unlogged: self.journal.as_ref().map_or(0, Journal::late_count),
            new_metrics: self.files.new_count(),
            new_bytes: self.files.new_bytes() as u64,
        }
    }

    /// Forgets some metrics without points if knowing metrics takes too much of the budget.
    /// Looks at no more than a slice of the entries; called for every batch of a sweep.
    pub fn forget_idle(&mut self) {
        const SLICE: u32 = 2_048;
        // Each costs some 0.7 us, with the other names that are moved into its place.
        const FORGOTTEN_MAX: u32 = 512;
        let mut forgotten_count = 0;
        let limit = self.options.budget_bytes / 100 * INDEX_PERCENT;
        let end = self.cache.id_end();
        // A flood of names makes the index large until they are decided. Known metrics that have no
        // points at this moment would be forgotten for it, and then wait behind all of them.
        if self.has_late() || self.has_many_undecided() {
            return;
        }
        for _ in 0..SLICE.min(end) {
            if self.cache.index_bytes() <= limit || forgotten_count == FORGOTTEN_MAX {
                return;
            }
            self.forget_cursor = (self.forget_cursor + 1) % end;
            if let Some(metric) = self.cache.metric_at(self.forget_cursor)
                && self.forget_entry(metric)
            {
                forgotten_count += 1;
            }
        }
    }

    /// Whether a new file waits and may be created now.
    pub fn can_create(&mut self, now: Instant) -> bool {
        if self.creations.is_empty() || !self.creates.take(now) {
            return false;
        }
        self.creates.give_back();
        true
    }

    /// Seconds of monotonic time since the start.
    fn elapsed_s(&self, now: Instant) -> u32 {
        let elapsed: Duration = now.saturating_duration_since(self.started);
        u32::try_from(elapsed.as_secs()).unwrap_or(u32::MAX)
    }
}

#[cfg(test)]
mod journal_tests;
#[cfg(test)]
mod new_names_tests;
#[cfg(test)]
mod tests;
