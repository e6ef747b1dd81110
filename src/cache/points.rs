//! The waiting points of all metrics: short chains of blocks in one slab.
//!
//! A block is one cache line: five points and the number of the next block. A chain fills its
//! blocks in order of arrival, so the place of its last point follows from its count. Points in
//! ascending time, the usual case, are recognised and cost no sorting; a chain with older points
//! among them is sorted when it is read, and in place each time its length doubles, so that
//! repeated timestamps cannot make it grow for ever.

use crate::cache::slab::{NONE, Slab, SlotId};
use crate::metric::point::Point;

const BLOCK_POINTS: usize = 5;

/// Memory of one block.
pub(crate) const BLOCK_BYTES: usize = size_of::<Block>();
const _: () = assert!(BLOCK_BYTES == 64, "a block is one cache line");

/// A chain with points out of order is sorted in place when it reaches this length.
const SORT_LENGTH_FIRST: u32 = 64;

#[derive(Debug)]
struct Block {
    values: [f64; BLOCK_POINTS],
    times: [u32; BLOCK_POINTS],
    next: SlotId,
}

impl Default for Block {
    fn default() -> Block {
        Block { values: [0.0; BLOCK_POINTS], times: [0; BLOCK_POINTS], next: NONE }
    }
}

/// The points of one metric, as a chain of blocks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Chain {
    head: SlotId,
    tail: SlotId,
    count: u32,
    newest_s: u32,
    /// Length at which an unsorted chain is sorted in place; 0 while it is in ascending order.
    sort_at: u32,
}

impl Default for Chain {
    fn default() -> Chain {
        Chain { head: NONE, tail: NONE, count: 0, newest_s: 0, sort_at: 0 }
    }
}

impl Chain {
    /// Number of points, repeated timestamps included as long as they are not merged.
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

    /// Adds a point; returns how many earlier points it replaced (same timestamp, last wins).
    pub(crate) fn push(&mut self, chain: &mut Chain, point: Point) -> u32 {
        if chain.count > 0 && point.timestamp_s == chain.newest_s && chain.sort_at == 0 {
            let (block, place) = self.last(chain);
            self.blocks.get_mut(block).values[place] = point.value;
            return 1;
        }
        if chain.count == 0 || point.timestamp_s > chain.newest_s {
            chain.newest_s = point.timestamp_s;
        } else if chain.sort_at == 0 {
            chain.sort_at = SORT_LENGTH_FIRST.max(chain.count.saturating_mul(2));
        }
        self.append(chain, point);
        if chain.sort_at != 0 && chain.count >= chain.sort_at {
            return self.sort_in_place(chain);
        }
        0
    }

    /// Appends the chain's points to `out` in order of arrival.
    pub(crate) fn collect(&self, chain: &Chain, out: &mut Vec<Point>) {
        let mut id = chain.head;
        let mut left = chain.count as usize;
        while left > 0 {
            let block = self.blocks.get(id);
            for place in 0..left.min(BLOCK_POINTS) {
                out.push(Point { timestamp_s: block.times[place], value: block.values[place] });
            }
            left = left.saturating_sub(BLOCK_POINTS);
            id = block.next;
        }
    }

    /// The oldest timestamp of a chain in order, else that of its first arrival; a sort key.
    pub(crate) fn first_time_s(&self, chain: &Chain) -> u32 {
        if chain.count == 0 { u32::MAX } else { self.blocks.get(chain.head).times[0] }
    }

    /// Frees the chain's blocks and leaves it empty.
    pub(crate) fn clear(&mut self, chain: &mut Chain) {
        let mut id = chain.head;
        let mut left = chain.count as usize;
        while left > 0 {
            let next = self.blocks.get(id).next;
            self.blocks.give(id);
            left = left.saturating_sub(BLOCK_POINTS);
            id = next;
        }
        *chain = Chain::default();
    }

    /// Cuts off the first `count` points of a chain that is in order; the rest stays.
    /// `count` is a multiple of a block's points and less than the chain has.
    pub(crate) fn cut(&mut self, chain: &mut Chain, count: u32) -> Chain {
        assert!(count > 0 && (count as usize).is_multiple_of(BLOCK_POINTS) && count < chain.count);
        debug_assert!(chain.sort_at == 0, "only a chain in order has first points");
        let mut last = chain.head;
        for _ in 1..count as usize / BLOCK_POINTS {
            last = self.blocks.get(last).next;
        }
        let block = self.blocks.get(last);
        let newest_s = block.times[BLOCK_POINTS - 1];
        let first = Chain { head: chain.head, tail: last, count, newest_s, sort_at: 0 };
        chain.head = block.next;
        chain.count -= count;
        first
    }

    /// Puts the chain in order, merging equal timestamps; returns how many were merged away.
    pub(crate) fn sort(&mut self, chain: &mut Chain) -> u32 {
        if chain.sort_at == 0 { 0 } else { self.sort_in_place(chain) }
    }

    /// Replaces the chain's content by `points`, which are in ascending order without repeats.
    pub(crate) fn refill(&mut self, chain: &mut Chain, points: &[Point]) {
        self.clear(chain);
        for &point in points {
            debug_assert!(chain.count == 0 || point.timestamp_s > chain.newest_s);
            chain.newest_s = point.timestamp_s;
            self.append(chain, point);
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

    fn append(&mut self, chain: &mut Chain, point: Point) {
        let place = chain.count as usize % BLOCK_POINTS;
        if place == 0 {
            let id = self.blocks.take();
            if chain.count == 0 {
                chain.head = id;
            } else {
                self.blocks.get_mut(chain.tail).next = id;
            }
            chain.tail = id;
        }
        let block = self.blocks.get_mut(chain.tail);
        block.times[place] = point.timestamp_s;
        block.values[place] = point.value;
        chain.count += 1;
    }

    fn last(&self, chain: &Chain) -> (SlotId, usize) {
        (chain.tail, (chain.count as usize - 1) % BLOCK_POINTS)
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
