//! The waiting points of all metrics: short chains of blocks in one slab.
//!
//! A block is one cache line: records of points (see `code`) and the number of the next block. A
//! block can be read without the ones before it: its first record has an absolute time. Points in
//! ascending time, the usual case, are recognised and cost no sorting; a chain with older points
//! among them is sorted when it is read, and in place each time its length doubles, so that
//! repeated timestamps cannot make it grow for ever.
//!
//! Sketch: 60 points of four digits at equal distances take 4 blocks, 4.3 bytes a point; 60 random
//! f64 take 11, 11.7 bytes a point. 12 would be the bare numbers.

use crate::cache::code::{Decoder, RECORD_BYTES_MAX, Record, TimeCode, encode};
use crate::cache::slab::{NONE, Slab, SlotId};
use crate::metric::point::Point;
use crate::sys::prefetch::prefetch;

const RECORDS_BYTES: usize = 59;
const _: () = assert!(RECORDS_BYTES >= RECORD_BYTES_MAX, "a block holds any record");

/// Memory of one block.
pub(crate) const BLOCK_BYTES: usize = size_of::<Block>();
const _: () = assert!(BLOCK_BYTES == 64, "a block is one cache line");

/// A chain with points out of order is sorted in place when it reaches this length.
const SORT_LENGTH_FIRST: u32 = 64;

#[derive(Debug)]
#[repr(C, align(64))]
struct Block {
    next: SlotId,
    /// Bytes of `records` in use.
    used: u8,
    records: [u8; RECORDS_BYTES],
}

impl Default for Block {
    fn default() -> Block {
        Block { next: NONE, used: 0, records: [0; RECORDS_BYTES] }
    }
}

/// The points of one metric that gather, as a chain of blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    head: SlotId,
    tail: SlotId,
    count: u32,
    newest_s: u32,
    /// Length at which an unsorted chain is sorted in place; 0 while it is in ascending order.
    sort_at: u32,
    /// Seconds between the last two points of the tail block; 0 if it has one.
    step_s: u16,
    /// How the last value was written down.
    value_kind: u8,
    /// Bytes of the last record.
    last_bytes: u8,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain {
            head: NONE,
            tail: NONE,
            count: 0,
            newest_s: 0,
            sort_at: 0,
            step_s: 0,
            value_kind: 0,
            last_bytes: 0,
        }
    }
}

impl Chain {
    /// Number of points, repeated timestamps included as long as they are not merged.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

/// Points that are only read and freed any more.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FrozenChain {
    head: SlotId,
    count: u32,
}

impl Default for FrozenChain {
    fn default() -> FrozenChain {
        FrozenChain { head: NONE, count: 0 }
    }
}

impl FrozenChain {
    /// Number of points.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }
}

/// All chains' blocks.
#[derive(Debug)]
pub(crate) struct Points {
    blocks: Slab<Block>,
    /// For sorting a chain; kept so that sorting allocates rarely.
    sort_buffer: Vec<Point>,
}

impl Points {
    pub(crate) fn new() -> Points {
        Points { blocks: Slab::new(), sort_buffer: Vec::new() }
    }

    /// Memory of the blocks in use, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.blocks.used() * BLOCK_BYTES
    }

    /// Memory of the blocks that are free, in bytes.
    pub(crate) fn spare_bytes(&self) -> usize {
        (self.blocks.capacity() - self.blocks.used()) * BLOCK_BYTES
    }

    /// Most blocks that were in use at once since the last period began.
    pub(crate) fn peak(&self) -> usize {
        self.blocks.peak()
    }

    /// Begins a period.
    pub(crate) fn begin_period(&mut self) {
        self.blocks.begin_period();
    }

    /// Gives the memory of free blocks back, of so many chunks at most, as long as there is memory
    /// for `keep` blocks.
    pub(crate) fn release(&mut self, keep: usize, chunks_max: usize) {
        self.blocks.shrink(keep, chunks_max);
    }

    /// Adds a point; returns how many earlier points it replaced (same timestamp, last wins).
    pub(crate) fn push(&mut self, chain: &mut Chain, point: Point) -> u32 {
        if chain.count == 0 {
            chain.newest_s = point.timestamp_s;
            self.append_first(chain, point);
            return 0;
        }
        if chain.sort_at == 0 {
            if point.timestamp_s > chain.newest_s {
                self.append_next(chain, point);
                return 0;
            }
            if point.timestamp_s == chain.newest_s {
                self.replace_last(chain, point);
                return 1;
            }
            chain.sort_at = SORT_LENGTH_FIRST.max(chain.count.saturating_mul(2));
        }
        chain.newest_s = chain.newest_s.max(point.timestamp_s);
        self.append_absolute(chain, point);
        if chain.count >= chain.sort_at { self.sort_in_place(chain) } else { 0 }
    }

    /// Has the block fetched that the chain's next point goes to.
    #[inline]
    pub(crate) fn prefetch(&self, chain: &Chain) {
        if chain.count > 0 {
            prefetch(self.blocks.get(chain.tail));
        }
    }

    /// Appends the chain's points to `out` in order of arrival.
    pub(crate) fn collect(&self, chain: &Chain, out: &mut Vec<Point>) {
        self.collect_from(chain.head, chain.count, out);
    }

    /// Appends the points to `out`, in ascending order.
    pub(crate) fn collect_frozen(&self, chain: &FrozenChain, out: &mut Vec<Point>) {
        self.collect_from(chain.head, chain.count, out);
    }

    /// The oldest timestamp of a chain in order, else that of its first arrival; a sort key.
    pub(crate) fn first_time_s(&self, chain: &Chain) -> u32 {
        if chain.count == 0 {
            return u32::MAX;
        }
        Decoder::default().decode(&self.blocks.get(chain.head).records).0
    }

    /// Frees the chain's blocks and leaves it empty.
    pub(crate) fn clear(&mut self, chain: &mut Chain) {
        self.free(chain.head);
        *chain = Chain::default();
    }

    /// Frees the points.
    pub(crate) fn clear_frozen(&mut self, chain: &mut FrozenChain) {
        self.free(chain.head);
        *chain = FrozenChain::default();
    }

    /// Takes the first points of a chain that is in order: all, or as many whole blocks as hold
    /// at most `count_max` points. A block holds fewer points than `count_max`.
    pub(crate) fn freeze(&mut self, chain: &mut Chain, count_max: u32) -> FrozenChain {
        debug_assert!(chain.sort_at == 0, "only a chain in order has first points");
        if chain.count <= count_max {
            let frozen = FrozenChain { head: chain.head, count: chain.count };
            *chain = Chain::default();
            return frozen;
        }
        let head = chain.head;
        let (mut count, mut last) = (0, NONE);
        let mut next = head;
        loop {
            let block_count = self.records_of(next);
            if count + block_count > count_max {
                break;
            }
            count += block_count;
            (last, next) = (next, self.blocks.get(next).next);
        }
        assert!(count > 0, "a block holds more than the {count_max} points that may be taken");
        self.blocks.get_mut(last).next = NONE;
        chain.head = next;
        chain.count -= count;
        FrozenChain { head, count }
    }

    /// Puts the chain in order, merging equal timestamps; returns how many were merged away.
    pub(crate) fn sort(&mut self, chain: &mut Chain) -> u32 {
        if chain.sort_at == 0 { 0 } else { self.sort_in_place(chain) }
    }

    /// Replaces the chain's content by `points`, which are in ascending order without repeats.
    pub(crate) fn refill(&mut self, chain: &mut Chain, points: &[Point]) {
        self.clear(chain);
        for &point in points {
            let replaced = self.push(chain, point);
            debug_assert!(replaced == 0 && chain.sort_at == 0, "the points are ascending");
        }
    }

    fn sort_in_place(&mut self, chain: &mut Chain) -> u32 {
        let mut points = std::mem::take(&mut self.sort_buffer);
        points.clear();
        self.collect(chain, &mut points);
        let replaced = sort_last_wins(&mut points);
        self.refill(chain, &points);
        self.sort_buffer = points;
        replaced
    }

    fn collect_from(&self, head: SlotId, count: u32, out: &mut Vec<Point>) {
        out.reserve(count as usize);
        let mut id = head;
        while id != NONE {
            let block = self.blocks.get(id);
            let mut rest = &block.records[..usize::from(block.used)];
            let mut decoder = Decoder::default();
            while !rest.is_empty() {
                let (timestamp_s, value, bytes) = decoder.decode(rest);
                out.push(Point { timestamp_s, value });
                rest = &rest[bytes..];
            }
            id = block.next;
        }
    }

    fn records_of(&self, id: SlotId) -> u32 {
        let block = self.blocks.get(id);
        let mut rest = &block.records[..usize::from(block.used)];
        let mut count = 0;
        while !rest.is_empty() {
            rest = &rest[Decoder::default().decode(rest).2..];
            count += 1;
        }
        count
    }

    fn free(&mut self, head: SlotId) {
        let mut id = head;
        while id != NONE {
            let next = self.blocks.get(id).next;
            self.blocks.give(id);
            id = next;
        }
    }

    /// Adds the first point of a block that is the chain's new tail.
    fn append_first(&mut self, chain: &mut Chain, point: Point) {
        let id = self.blocks.take();
        let time = TimeCode::absolute(point.timestamp_s);
        let record = encode(time, point.value, &mut chain.value_kind, true);
        let block = self.blocks.get_mut(id);
        (block.next, block.used) = (NONE, record.len);
        record.write(&mut block.records);
        if chain.count == 0 {
            chain.head = id;
        } else {
            self.blocks.get_mut(chain.tail).next = id;
        }
        chain.tail = id;
        chain.step_s = 0;
        chain.last_bytes = record.len;
        chain.count += 1;
    }

    /// Adds a point that is newer than all others of a chain in order.
    #[inline]
    fn append_next(&mut self, chain: &mut Chain, point: Point) {
        let delta_s = point.timestamp_s - chain.newest_s;
        chain.newest_s = point.timestamp_s;
        let Ok(delta_s) = u16::try_from(delta_s) else {
            return self.append_absolute(chain, point);
        };
        let time = TimeCode::after(delta_s, chain.step_s);
        let record = encode(time, point.value, &mut chain.value_kind, false);
        chain.step_s = delta_s;
        self.append(chain, record, point);
    }

    /// Adds a point whatever its time.
    fn append_absolute(&mut self, chain: &mut Chain, point: Point) {
        let time = TimeCode::absolute(point.timestamp_s);
        let record = encode(time, point.value, &mut chain.value_kind, false);
        chain.step_s = 0;
        self.append(chain, record, point);
    }

    /// Adds the point's record to the tail, or begins a new block with the point.
    #[inline]
    fn append(&mut self, chain: &mut Chain, record: Record, point: Point) {
        let block = self.blocks.get_mut(chain.tail);
        let used = usize::from(block.used);
        if used + usize::from(record.len) > RECORDS_BYTES {
            return self.append_first(chain, point);
        }
        record.write(&mut block.records[used..]);
        block.used += record.len;
        chain.last_bytes = record.len;
        chain.count += 1;
    }

    /// Gives the last point another value.
    fn replace_last(&mut self, chain: &mut Chain, point: Point) {
        let block = self.blocks.get_mut(chain.tail);
        block.used -= chain.last_bytes;
        chain.count -= 1;
        let time = TimeCode::of(&block.records[usize::from(block.used)..]);
        let record = encode(time, point.value, &mut chain.value_kind, false);
        self.append(chain, record, point);
    }
}

/// Sorts by time and keeps, of equal timestamps, the one that came last in `points`.
/// Returns how many were merged away.
pub(crate) fn sort_last_wins(points: &mut Vec<Point>) -> u32 {
    let ascending = points.windows(2).all(|pair| pair[0].timestamp_s < pair[1].timestamp_s);
    if ascending {
        return 0;
    }
    points.sort_by_key(|point| point.timestamp_s);
    let before = points.len();
    let mut kept = 0;
    for at in 0..before {
        if kept > 0 && points[kept - 1].timestamp_s == points[at].timestamp_s {
            kept -= 1;
        }
        points[kept] = points[at];
        kept += 1;
    }
    points.truncate(kept);
    u32::try_from(before - kept).expect("a chain counts its points in 32 bits")
}
