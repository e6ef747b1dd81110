//! The points that are not in their file yet, by metric.
//!
//! Owns: one entry per metric the shard has seen lately (two chains of points), the names, the
//! table from names to entries, and the bytes all of it takes.
//! Keeps true:
//! - Points are kept in the order of their arrival, with the second of it; a reader sees one point
//!   per metric and second, the one received last.
//! - A point is readable from [`Cache::push`] until [`Cache::confirm`]; while a flush is under
//!   way its points sit in the entry's *writing* chain and new ones gather in *waiting*.
//! - Inserting a point of a known metric allocates nothing once its blocks exist.
//! - A chain with points that are in the log holds the segment that the oldest of them is in, or an
//!   older one. The cache returns what is held anew and what is released; the shard tells the log.
//!
//! Points come from `shard::ingest`; `shard::flush` takes them and confirms or restores them.
//!
//! Sketch: a metric without points, whose name has 38 bytes, takes 149 bytes: its entry 64, its
//! name 40, its slot in the table 14 (12.8 to 16), what `shard::series` remembers of its file 28,
//! and 3 that the allocator adds to all these, with the bits that say which are free. While points
//! wait, a block of 64 bytes comes to it for every 15 or so. The blocks of points that are written
//! are kept for the next as long as they were needed lately (see [`Cache::begin_period`]).

mod code;
mod hidden;
mod names;
mod order;
mod points;
mod slab;
mod table;

use crate::metric::mark::Mark;
use crate::metric::point::{Arrival, Point};
use crate::sys::prefetch::prefetch;
pub use hidden::NEW_METRIC_BYTES;
use names::{NameAt, Names};
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

/// Memory that `shard` keeps beside the cache for each metric: what it knows of its file.
pub const FILE_STATE_BYTES: usize = 28;

/// What the allocator adds to a metric's share of each chunk, a page to one of 256 KiB, and what
/// the parts of the table leave behind that have grown.
const OVERHEAD_BYTES: usize = 3;

/// Memory charged for a metric beside its name.
const ENTRY_BYTES: usize =
    size_of::<Entry>() + table::ENTRY_BYTES + FILE_STATE_BYTES + OVERHEAD_BYTES;

/// Chunks of blocks given back at once: each costs the kernel some 10 us.
const RELEASE_CHUNKS: usize = 8;

#[derive(Debug)]
#[repr(align(64))]
struct Entry {
    /// Where the metric's file lies on its device; 0 if that is not known.
    place: u64,
    name: NameAt,
    mark: Mark,
    waiting: Chain,
    writing: FrozenChain,
    /// Segments of the log that the chains hold, or [`NO_HOLD`].
    waiting_hold: u32,
    writing_hold: u32,
}

/// A chain without points in the log. As it is greater than any segment's number, the lesser of two
/// holds is the older one.
const NO_HOLD: u32 = u32::MAX;

impl Default for Entry {
    fn default() -> Entry {
        Entry {
            place: 0,
            name: NameAt::default(),
            mark: Mark::default(),
            waiting: Chain::default(),
            writing: FrozenChain::default(),
            waiting_hold: NO_HOLD,
            writing_hold: NO_HOLD,
        }
    }
}

const _: () = assert!(size_of::<Entry>() == 64, "an entry is one cache line");

/// What became of points that wait again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Kept {
    /// Points replaced by the next one, which has their timestamp and arrival.
    pub replaced: u32,
    /// Points dropped.
    pub dropped: u32,
    /// Segments of the log that are held once less.
    pub released: [Option<u32>; 2],
}

/// Points by metric.
pub struct Cache {
    entries: Slab<Entry>,
    table: Table,
    points: Points,
    names: Names,
    hasher: ahash::RandomState,
    /// Entries that [`Cache::find_many`] passes over, see `hidden`.
    hidden_count: usize,
    /// Most blocks that were in use at once between the last two sweeps' beginnings.
    blocks_before: usize,
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
            names: Names::default(),
            hasher: ahash::RandomState::new(),
            hidden_count: 0,
            blocks_before: 0,
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
        let mut stored: [&[u8]; FIND_TOGETHER] = [&[]; FIND_TOGETHER];
        for (stored, &candidate) in stored.iter_mut().zip(&candidates[..count]) {
            let Some(id) = candidate else { continue };
            let entry = self.entries.get(id);
            self.points.prefetch(&entry.waiting);
            *stored = self.names.get(entry.name);
            if let Some(start) = stored.first() {
                prefetch(start);
            }
        }
        let candidates = candidates.iter().zip(&stored).zip(&hashes);
        for ((found, name), ((&candidate, stored), &hash)) in
            found.iter_mut().zip(names).zip(candidates)
        {
            *found = match candidate {
                Some(id) if is_same(stored, name) => Some(MetricId(id)),
                Some(_) => self.find(hash, name).map(MetricId),
                None => None,
            };
        }
    }

    /// The entry of the metric with this canonical name, made if there was none; whether it was.
    pub fn find_or_add(&mut self, name: &[u8]) -> (MetricId, bool) {
        let hash = self.hasher.hash_one(name);
        match self.find_also_hidden(hash, name) {
            Some(id) => (MetricId(id), false),
            None => (MetricId(self.add(hash, name)), true),
        }
    }

    /// Adds a point; true if it replaces the one before, which has its timestamp and arrival.
    pub fn push(&mut self, metric: MetricId, arrival: Arrival) -> bool {
        let entry = self.entries.get_mut(metric.0);
        let is_replacing = self.points.push(&mut entry.waiting, arrival);
        self.waiting_count += u64::from(!is_replacing);
        is_replacing
    }

    /// The metric's entry, if the cache knows it.
    pub fn lookup(&self, name: &[u8]) -> Option<MetricId> {
        self.find_also_hidden(self.hasher.hash_one(name), name).map(MetricId)
    }

    /// The metric's canonical name.
    pub fn name(&self, metric: MetricId) -> &[u8] {
        self.names.get(self.entries.get(metric.0).name)
    }

    /// Where the metric's file lies on its device: its inode number, or 0 while that is not known,
    /// so that new files come first in a sweep, in the order of their metrics' creation.
    pub fn place(&self, metric: MetricId) -> u64 {
        self.entries.get(metric.0).place
    }

    /// Keeps where the metric's file lies.
    pub fn set_place(&mut self, metric: MetricId, place: u64) {
        self.entries.get_mut(metric.0).place = place;
    }

    /// Appends all points that are not confirmed yet to `out`, in ascending order of time, of each
    /// second the one received last.
    pub fn read(&self, metric: MetricId, out: &mut Vec<Point>) {
        debug_assert!(out.is_empty(), "points of one metric only");
        let mut arrivals = Vec::new();
        self.unconfirmed_points(metric, &mut arrivals);
        out.extend(arrivals.into_iter().map(Arrival::point));
        sort_last_wins(out);
    }

    /// Appends all points that are not confirmed yet to `out`, in the order of their arrival.
    pub fn unconfirmed_points(&self, metric: MetricId, out: &mut Vec<Arrival>) {
        let entry = self.entries.get(metric.0);
        self.points.collect_frozen(&entry.writing, out);
        self.points.collect(&entry.waiting, out);
    }

    /// Number of the metric's points that no flush has taken yet.
    pub fn waiting_of(&self, metric: MetricId) -> u32 {
        self.entries.get(metric.0).waiting.count()
    }

    /// Whether a flush of this metric is under way.
    pub fn is_writing(&self, metric: MetricId) -> bool {
        self.entries.get(metric.0).writing.count() > 0
    }

    /// Hands the metric's waiting points to a flush: appends them to `out` in the order of their
    /// arrival and keeps them readable until they are confirmed or wait again. If there are more
    /// than `points_max` (at least a block's), it takes the first, somewhat fewer than that; then
    /// both parts hold what the whole held. Returns the segment of the log that is held once more.
    pub fn take(
        &mut self,
        metric: MetricId,
        points_max: u32,
        out: &mut Vec<Arrival>,
    ) -> Option<u32> {
        debug_assert!(out.is_empty(), "points of one metric only");
        let entry = self.entries.get_mut(metric.0);
        assert!(entry.writing.count() == 0, "one flush per metric at a time");
        entry.writing = self.points.freeze(&mut entry.waiting, points_max);
        self.points.collect_frozen(&entry.writing, out);
        let moved = u64::from(entry.writing.count());
        self.waiting_count -= moved;
        self.writing_count += moved;
        entry.writing_hold = entry.waiting_hold;
        if entry.waiting.count() == 0 {
            entry.waiting_hold = NO_HOLD;
            return None;
        }
        held(entry.waiting_hold)
    }

    /// The points of the metric's flush are in its file: forgets them. Returns the segment of the
    /// log that they held.
    pub fn confirm(&mut self, metric: MetricId) -> Option<u32> {
        let entry = self.entries.get_mut(metric.0);
        self.writing_count -= u64::from(entry.writing.count());
        self.points.clear_frozen(&mut entry.writing);
        held(std::mem::replace(&mut entry.writing_hold, NO_HOLD))
    }

    /// The metric's flush failed: its points wait again, in front of those that came meanwhile. At
    /// most `points_max` are kept, the last to arrive.
    pub fn restore(&mut self, metric: MetricId, points_max: u32) -> Kept {
        let entry = self.entries.get(metric.0);
        let count = entry.writing.count() as usize + entry.waiting.count() as usize;
        let dropped = count.saturating_sub(points_max as usize);
        let kept = self.keep_from(metric, dropped);
        Kept { dropped: count_u32(dropped), ..kept }
    }

    /// The first `written` points of the metric's flush are in its file: forgets them. The others
    /// wait again, in front of those that came meanwhile.
    pub fn confirm_first(&mut self, metric: MetricId, written: usize) -> Kept {
        let taken = self.entries.get(metric.0).writing.count() as usize;
        assert!(written <= taken, "{written} of {taken} points were written");
        self.keep_from(metric, written)
    }

    /// Lets all points wait but the first `gone`.
    fn keep_from(&mut self, metric: MetricId, gone: usize) -> Kept {
        let mut all = Vec::new();
        self.unconfirmed_points(metric, &mut all);
        let entry = self.entries.get_mut(metric.0);
        self.writing_count -= u64::from(entry.writing.count());
        self.waiting_count -= u64::from(entry.waiting.count());
        self.points.clear_frozen(&mut entry.writing);
        self.points.refill(&mut entry.waiting, &all[gone..]);
        self.waiting_count += u64::from(entry.waiting.count());
        let replaced = count_u32(all.len() - gone) - entry.waiting.count();
        let (mut older, newer) = (
            entry.waiting_hold.min(entry.writing_hold),
            entry.waiting_hold.max(entry.writing_hold),
        );
        entry.writing_hold = NO_HOLD;
        let mut released = [held(newer), None];
        if entry.waiting.count() == 0 {
            released[1] = held(std::mem::replace(&mut older, NO_HOLD));
        }
        entry.waiting_hold = older;
        Kept { replaced, dropped: 0, released }
    }

    /// Drops all waiting points but the `points_max` that arrived last.
    pub fn trim(&mut self, metric: MetricId, points_max: u32) -> Kept {
        if self.waiting_of(metric) <= points_max || self.is_writing(metric) {
            return Kept::default();
        }
        self.restore(metric, points_max)
    }

    /// What the log needs to take a point of the metric; it asks for the name once in a
    /// dictionary.
    pub fn mark_and_name<'c>(
        &'c mut self,
        metric: MetricId,
    ) -> (&'c mut Mark, impl Fn() -> &'c [u8]) {
        let entry = self.entries.get_mut(metric.0);
        let (names, at) = (&self.names, entry.name);
        (&mut entry.mark, move || names.get(at))
    }

    /// A waiting point of the metric, there or to come next, is in this segment of the log. True:
    /// the metric holds it now; false: an older one is held already.
    pub fn hold(&mut self, metric: MetricId, segment: u32) -> bool {
        let entry = self.entries.get_mut(metric.0);
        let is_first = entry.waiting_hold == NO_HOLD;
        if is_first {
            entry.waiting_hold = segment;
        }
        is_first
    }

    /// A point that was pushed some time ago is in this segment of the log now. Returns how often
    /// it is held more: once for each chain with points that holds nothing.
    pub fn hold_late(&mut self, metric: MetricId, segment: u32) -> u32 {
        let entry = self.entries.get_mut(metric.0);
        let mut count = 0;
        if entry.waiting.count() > 0 && entry.waiting_hold == NO_HOLD {
            entry.waiting_hold = segment;
            count += 1;
        }
        if entry.writing.count() > 0 && entry.writing_hold == NO_HOLD {
            entry.writing_hold = segment;
            count += 1;
        }
        count
    }

    /// The segment of the log that the metric's waiting points hold.
    pub fn waiting_hold(&self, metric: MetricId) -> Option<u32> {
        held(self.entries.get(metric.0).waiting_hold)
    }

    /// Appends the metric's waiting points to `out`, in the order of their arrival.
    pub fn waiting_points(&self, metric: MetricId, out: &mut Vec<Arrival>) {
        self.points.collect(&self.entries.get(metric.0).waiting, out);
    }

    /// All waiting points of the metric are in the log again, from this segment on. Returns the
    /// segment they held before.
    pub fn move_hold(&mut self, metric: MetricId, segment: u32) -> Option<u32> {
        held(std::mem::replace(&mut self.entries.get_mut(metric.0).waiting_hold, segment))
    }

    /// Drops a metric's entry if it has no points; its id may be given to another metric. Returns
    /// the mark and the name it had.
    pub fn forget(&mut self, metric: MetricId) -> Option<(Mark, Box<[u8]>)> {
        let entry = self.entries.get_mut(metric.0);
        if entry.waiting.count() > 0 || entry.writing.count() > 0 || entry.name.is_none() {
            return None;
        }
        assert!(
            entry.waiting_hold == NO_HOLD && entry.writing_hold == NO_HOLD,
            "a metric without points holds {} and {}",
            entry.waiting_hold,
            entry.writing_hold
        );
        let (mark, at) = (entry.mark, std::mem::take(&mut entry.name));
        let name: Box<[u8]> = self.names.get(at).into();
        let hash = self.hasher.hash_one(&*name);
        let was_there = self.table.remove(hash, metric.0) || self.remove_hidden(hash, metric.0);
        assert!(was_there, "an entry with a name is in the name table");
        self.entries.give(metric.0);
        self.names.forget(at);
        self.compact_names();
        Some((mark, name))
    }

    /// Ids lie below this number; those without a metric have an empty name.
    pub fn id_end(&self) -> u32 {
        self.entries.id_end()
    }

    /// The metric with this number below [`Cache::id_end`], if there is one.
    pub fn metric_at(&self, index: u32) -> Option<MetricId> {
        (!self.entries.get(index).name.is_none()).then_some(MetricId(index))
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
        self.entries.used() * ENTRY_BYTES + self.names.bytes()
    }

    /// Memory of blocks that hold no points now.
    pub fn spare_bytes(&self) -> usize {
        self.points.spare_bytes()
    }

    /// A sweep begins. The blocks that were needed at once since the one before are kept: giving
    /// those back that the next round of points takes again would cost a page fault for every 64.
    pub fn begin_period(&mut self) {
        self.blocks_before = self.points.peak();
        self.points.begin_period();
    }

    /// Gives some of the memory back that blocks needed once and not lately, or, when it
    /// `is_short`, that they do not need now.
    pub fn release_some(&mut self, is_short: bool) {
        let keep = if is_short { 0 } else { self.blocks_before.max(self.points.peak()) };
        self.points.release(keep, RELEASE_CHUNKS);
    }

    /// Sort keys of the flush order: (waiting points, oldest waiting second).
    pub(crate) fn order_keys(&self, metric: MetricId) -> (u32, u32) {
        let entry = self.entries.get(metric.0);
        (entry.waiting.count(), self.points.first_time_s(&entry.waiting))
    }

    fn find(&self, hash: u64, name: &[u8]) -> Option<u32> {
        self.table.find(hash, |id| self.is_named(id, name))
    }

    #[inline]
    fn is_named(&self, id: u32, name: &[u8]) -> bool {
        is_same(self.names.get(self.entries.get(id).name), name)
    }

    fn add(&mut self, hash: u64, name: &[u8]) -> u32 {
        assert!(!name.is_empty(), "a canonical name is not empty");
        let id = self.entries.take();
        *self.entries.get_mut(id) = Entry { name: self.names.add(name), ..Entry::default() };
        self.table.insert(hash, id);
        id
    }

    /// Moves names together when many between them are forgotten.
    fn compact_names(&mut self) {
        while let Some(emptied) = self.names.begin_to_empty() {
            for (at, name) in emptied.names() {
                let hash = self.hasher.hash_one(name);
                let is_at = |id| self.entries.get(id).name == at;
                let id = self.table.find(hash, is_at).or_else(|| self.table.find(!hash, is_at));
                let id = id.expect("a name that is not forgotten has an entry");
                self.entries.get_mut(id).name = self.names.add(name);
            }
            self.names.end_emptied(emptied);
        }
    }
}

fn count_u32(count: usize) -> u32 {
    u32::try_from(count).expect("a chain counts its points in 32 bits")
}

/// A hold as a caller sees it.
fn held(hold: u32) -> Option<u32> {
    (hold != NO_HOLD).then_some(hold)
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
