//! The points that are not in their file yet, by metric.
//!
//! Owns: one entry per metric the shard has seen lately (its name and two chains of points), the
//! table from names to entries, and the bytes all of it takes.
//! Keeps true:
//! - One point per metric and second; the one received last wins.
//! - A point is readable from [`Cache::insert`] until [`Cache::confirm`]; while a flush is under
//!   way its points sit in the entry's *writing* chain and new ones gather in *waiting*.
//! - Inserting a point of a known metric allocates nothing once its blocks exist.
//!
//! Points come from `shard::ingest`; `shard::flush` takes them and confirms or restores them.

mod code;
mod order;
mod points;
mod slab;
mod table;

use crate::metric::point::Point;
use crate::sys::prefetch::prefetch;
pub use order::{FlushOrder, NextFlush, WriteStrategy};
use points::{Chain, FrozenChain, Points, sort_last_wins};
use slab::Slab;
use table::Table;

/// A metric's entry in the cache of its shard. Stable until the entry is forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct MetricId(u32);

impl MetricId {
    /// Position in tables kept beside the cache.
    pub fn index(self) -> usize {
        self.0 as usize
    }
}

/// Names that [`Cache::find_many`] looks for together. Each step needs memory that is in no cache
/// and has it fetched for all names before the next step. More than 32 gain nothing.
pub const FIND_TOGETHER: usize = 32;

/// Memory charged for a metric beside its name: its entry, its place in the name table at the
/// table's usual load, the allocator's header and the shard's knowledge of its file.
const ENTRY_BYTES: usize = size_of::<Entry>() + table::NAME_BYTES + 16 + 32;

#[derive(Debug, Default)]
#[repr(align(64))]
struct Entry {
    name: Box<[u8]>,
    waiting: Chain,
    writing: FrozenChain,
}

const _: () = assert!(size_of::<Entry>() == 64, "an entry is one cache line");

/// Points by metric.
pub struct Cache {
    entries: Slab<Entry>,
    table: Table,
    points: Points,
    hasher: ahash::RandomState,
    names_bytes: usize,
    waiting_count: u64,
    writing_count: u64,
}

impl Default for Cache {
    fn default() -> Self {
        Self::new()
    }
}

impl Cache {
    /// An empty cache. Its name table is keyed with random numbers of this process, so that
    /// strangers cannot choose names that collide.
    pub fn new() -> Cache {
        Cache {
            entries: Slab::new(),
            table: Table::new(),
            points: Points::new(),
            hasher: ahash::RandomState::new(),
            names_bytes: 0,
            waiting_count: 0,
            writing_count: 0,
        }
    }

    /// Finds the entries of names as they were received, at most [`FIND_TOGETHER`]. A name that is
    /// not in canonical form has none.
    pub fn find_many<'a>(
        &self,
        names: impl Iterator<Item = &'a [u8]> + Clone,
        found: &mut [Option<MetricId>; FIND_TOGETHER],
    ) {
        let mut hashes = [0; FIND_TOGETHER];
        let mut count = 0;
        for (hash, name) in hashes.iter_mut().zip(names.clone()) {
            *hash = self.hasher.hash_one(name);
            prefetch(self.table.first(*hash));
            count += 1;
        }
        let mut candidates = [None; FIND_TOGETHER];
        for (candidate, &hash) in candidates.iter_mut().zip(&hashes[..count]) {
            *candidate = self.table.find(hash, |_| true);
            if let Some(id) = *candidate {
                prefetch(self.entries.get(id));
            }
        }
        for &id in candidates[..count].iter().flatten() {
            let entry = self.entries.get(id);
            self.points.prefetch(&entry.waiting);
            if let Some(start) = entry.name.first() {
                prefetch(start);
            }
        }
        for (((found, &candidate), name), &hash) in
            found.iter_mut().zip(&candidates).zip(names).zip(&hashes)
        {
            *found = match candidate {
                Some(id) if is_same(&self.entries.get(id).name, name) => Some(MetricId(id)),
                Some(_) => self.find(hash, name).map(MetricId),
                None => None,
            };
        }
    }

    /// The entry of the metric with this canonical name, made if there was none; whether it was.
    pub fn find_or_add(&mut self, name: &[u8]) -> (MetricId, bool) {
        let hash = self.hasher.hash_one(name);
        match self.find(hash, name) {
            Some(id) => (MetricId(id), false),
            None => (MetricId(self.add(hash, name)), true),
        }
    }

    /// Adds a point; returns how many earlier points it replaced (same timestamp).
    pub fn push(&mut self, metric: MetricId, point: Point) -> u32 {
        let entry = self.entries.get_mut(metric.0);
        let before = entry.waiting.count();
        let replaced_count = self.points.push(&mut entry.waiting, point);
        self.waiting_count =
            self.waiting_count + u64::from(entry.waiting.count()) - u64::from(before);
        replaced_count
    }

    /// The metric's entry, if the cache knows it.
    pub fn lookup(&self, name: &[u8]) -> Option<MetricId> {
        self.find(self.hasher.hash_one(name), name).map(MetricId)
    }

    /// The metric's canonical name.
    pub fn name(&self, metric: MetricId) -> &[u8] {
        &self.entries.get(metric.0).name
    }

    /// Appends all points that are not confirmed yet to `out`, in ascending order of time.
    pub fn read(&self, metric: MetricId, out: &mut Vec<Point>) {
        debug_assert!(out.is_empty(), "points of one metric only");
        let entry = self.entries.get(metric.0);
        self.points.collect_frozen(&entry.writing, out);
        self.points.collect(&entry.waiting, out);
        sort_last_wins(out);
    }

    /// Number of the metric's points that no flush has taken yet.
    pub fn waiting_of(&self, metric: MetricId) -> u32 {
        self.entries.get(metric.0).waiting.count()
    }

    /// Whether a flush of this metric is under way.
    pub fn is_writing(&self, metric: MetricId) -> bool {
        self.entries.get(metric.0).writing.count() > 0
    }

    /// Hands the metric's waiting points to a flush: appends them to `out` in ascending order and
    /// keeps them readable until [`Cache::confirm`] or [`Cache::restore`]. If there are more than
    /// `points_max` (at least a block's), it takes the oldest, somewhat fewer than that. Returns
    /// how many were merged away because of equal timestamps.
    pub fn take(&mut self, metric: MetricId, points_max: u32, out: &mut Vec<Point>) -> u32 {
        debug_assert!(out.is_empty(), "points of one metric only");
        let entry = self.entries.get_mut(metric.0);
        assert!(entry.writing.count() == 0, "one flush per metric at a time");
        let merged = self.points.sort(&mut entry.waiting);
        entry.writing = self.points.freeze(&mut entry.waiting, points_max);
        self.points.collect_frozen(&entry.writing, out);
        let moved = u64::from(entry.writing.count());
        self.waiting_count -= moved + u64::from(merged);
        self.writing_count += moved;
        merged
    }

    /// The points of the metric's flush are in its file: forgets them.
    pub fn confirm(&mut self, metric: MetricId) {
        let entry = self.entries.get_mut(metric.0);
        self.writing_count -= u64::from(entry.writing.count());
        self.points.clear_frozen(&mut entry.writing);
    }

    /// The metric's flush failed: its points wait again, behind nothing and before nothing; of
    /// equal timestamps the one received later wins. At most `points_max` are kept, the newest.
    /// Returns (merged, dropped) counts.
    pub fn restore(&mut self, metric: MetricId, points_max: u32) -> (u32, u32) {
        let entry = self.entries.get_mut(metric.0);
        let mut all = Vec::with_capacity((entry.writing.count() + entry.waiting.count()) as usize);
        self.points.collect_frozen(&entry.writing, &mut all);
        self.points.collect(&entry.waiting, &mut all);
        let merged = sort_last_wins(&mut all);
        let dropped = all.len().saturating_sub(points_max as usize);
        self.writing_count -= u64::from(entry.writing.count());
        self.waiting_count -= u64::from(entry.waiting.count());
        self.points.clear_frozen(&mut entry.writing);
        self.points.refill(&mut entry.waiting, &all[dropped..]);
        self.waiting_count += u64::from(entry.waiting.count());
        (merged, u32::try_from(dropped).expect("a chain counts its points in 32 bits"))
    }

    /// Drops all but the newest `points_max` waiting points; returns (merged, dropped) counts.
    pub fn trim(&mut self, metric: MetricId, points_max: u32) -> (u32, u32) {
        if self.waiting_of(metric) <= points_max || self.is_writing(metric) {
            return (0, 0);
        }
        self.restore(metric, points_max)
    }

    /// Drops a metric's entry if it has no points; its id may be given to another metric.
    pub fn forget(&mut self, metric: MetricId) -> bool {
        let entry = self.entries.get_mut(metric.0);
        if entry.waiting.count() > 0 || entry.writing.count() > 0 || entry.name.is_empty() {
            return false;
        }
        let name = std::mem::take(&mut entry.name);
        let hash = self.hasher.hash_one(&*name);
        let was_there = self.table.remove(hash, metric.0);
        assert!(was_there, "an entry with a name is in the name table");
        self.names_bytes -= name.len();
        self.entries.give(metric.0);
        true
    }

    /// Ids lie below this number; those without a metric have an empty name.
    pub fn id_end(&self) -> u32 {
        self.entries.id_end()
    }

    /// The metric with this number below [`Cache::id_end`], if there is one.
    pub fn metric_at(&self, index: u32) -> Option<MetricId> {
        (!self.entries.get(index).name.is_empty()).then_some(MetricId(index))
    }

    /// Number of metrics with an entry.
    pub fn metric_count(&self) -> usize {
        self.entries.used()
    }

    /// Points that no flush has taken yet.
    pub fn waiting_count(&self) -> u64 {
        self.waiting_count
    }

    /// Points of flushes under way.
    pub fn writing_count(&self) -> u64 {
        self.writing_count
    }

    /// Memory taken, in bytes: blocks of points, entries and names.
    pub fn bytes(&self) -> usize {
        self.points.bytes() + self.index_bytes()
    }

    /// The share of [`Cache::bytes`] that knowing the metrics takes, with or without points.
    pub fn index_bytes(&self) -> usize {
        self.entries.used() * ENTRY_BYTES + self.names_bytes
    }

    /// Sort keys of the flush order: (waiting points, oldest waiting second).
    pub(crate) fn order_keys(&self, metric: MetricId) -> (u32, u32) {
        let entry = self.entries.get(metric.0);
        (entry.waiting.count(), self.points.first_time_s(&entry.waiting))
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.table.find(hash, |id| is_same(&self.entries.get(id).name, name))
    }

    fn add(&mut self, hash: u64, name: &[u8]) -> u32 {
        assert!(!name.is_empty(), "a canonical name is not empty");
        let id = self.entries.take();
        *self.entries.get_mut(id) = Entry { name: name.into(), ..Entry::default() };
        self.names_bytes += name.len();
        self.table.insert(hash, id);
        id
    }
}

/// Whether two names are equal, without a call: names are short.
fn is_same(name: &[u8], other: &[u8]) -> bool {
    const WORD: usize = 16;
    if name.len() != other.len() {
        return false;
    }
    match (name.last_chunk::<WORD>(), other.last_chunk::<WORD>()) {
        (Some(last), Some(other_last)) => {
            let (words, _) = name.as_chunks::<WORD>();
            let (other_words, _) = other.as_chunks::<WORD>();
            words.iter().zip(other_words).all(|(word, other)| word == other) && last == other_last
        }
        _ => name == other,
    }
}

#[cfg(test)]
mod tests;
