//! The waiting points of all metrics: short chains of blocks in one slab.
//!
//! A block is one cache line: records of points (see `code`) and the number of the next block. A
//! block can be read without the ones before it: its first record has an absolute time, behind a
//! mark of its arrival if need be. A chain keeps points in the order of their arrival, and when
//! each arrived, since both decide what becomes of it in its file. Only a point that follows one of
//! the same timestamp and arrival takes its place.
//!
//! Sketch: 60 points of four digits at equal distances, always as late, take 4 blocks, 4.3 bytes a
//! point; 60 random f64 take 11, 11.7 bytes a point. 16 would be the bare numbers. Each change of
//! the lateness takes 2 bytes.

use crate::cache::code::{
    Decoder, Lateness, MARK_BYTES_MAX, RECORD_BYTES_MAX, Record, TimeCode, encode,
};
use crate::cache::slab::{NONE, Slab, SlotId};
use crate::metric::point::{Arrival, Point};
use crate::sys::prefetch::prefetch;

const RECORDS_BYTES: usize = 59;
const _: () =
    assert!(RECORDS_BYTES >= MARK_BYTES_MAX + RECORD_BYTES_MAX, "a block holds any record");

/// Memory of one block.
pub(crate) const BLOCK_BYTES: usize = size_of::<Block>();
const _: () = assert!(BLOCK_BYTES == 64, "a block is one cache line");

/// In the value kind of a chain: its last point stands behind a mark of the second of its arrival.
const AT_SECOND: u8 = 1 << 7;

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
    last_s: u32,
    /// What the last mark says: seconds from a point's time to its arrival, modulo 2^32, or with
    /// [`AT_SECOND`] the second of the arrival.
    mark_s: u32,
    /// Seconds between the last two points of the tail block; 0 if it has one.
    step_s: u16,
    /// How the last value was written down, and [`AT_SECOND`].
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
            // No point is newer: the first one takes the slow way.
            last_s: u32::MAX,
            mark_s: 0,
            step_s: 0,
            value_kind: 0,
            last_bytes: 0,
        }
    }
}

impl Chain {
    /// Number of points.
    pub(crate) fn count(&self) -> u32 {
        self.count
    }

    fn lateness(&self) -> Lateness {
        let is_at_second = self.value_kind & AT_SECOND != 0;
        if is_at_second { Lateness::At(self.mark_s) } else { Lateness::After(self.mark_s) }
    }

    fn set_lateness(&mut self, lateness: Lateness) {
        let kind = self.value_kind & !AT_SECOND;
        (self.mark_s, self.value_kind) = match lateness {
            Lateness::After(late_s) => (late_s, kind),
            Lateness::At(arrived_s) => (arrived_s, kind | AT_SECOND),
        };
    }
}

/// Points that are complete: they are only read and freed.
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
}

impl Points {
    pub(crate) fn new() -> Points {
        Points { blocks: Slab::new() }
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

    /// Gives the memory of free blocks back, of `chunks_max` chunks at most, while there is memory
    /// for `keep` blocks.
    pub(crate) fn release(&mut self, keep: usize, chunks_max: usize) {
        self.blocks.shrink(keep, chunks_max);
    }

    /// Adds a point; true if it replaces the last one, which has its timestamp and its arrival.
    #[inline]
    pub(crate) fn push(&mut self, chain: &mut Chain, arrival: Arrival) -> bool {
        let Arrival { timestamp_s, arrived_s, value } = arrival;
        let late_s = arrived_s.wrapping_sub(timestamp_s);
        let delta_s = timestamp_s.wrapping_sub(chain.last_s);
        // The usual case: newer than the last one, and as late.
        if late_s == chain.mark_s
            && chain.value_kind & AT_SECOND == 0
            && timestamp_s > chain.last_s
            && let Ok(delta_s) = u16::try_from(delta_s)
        {
            let time = TimeCode::after(delta_s, chain.step_s);
            let record = encode(time, value, &mut chain.value_kind, false);
            (chain.last_s, chain.step_s) = (timestamp_s, delta_s);
            self.append(chain, record, arrival.point());
            return false;
        }
        self.push_slowly(chain, arrival)
    }

    /// Adds a point that arrived as the last mark says.
    fn push_marked(&mut self, chain: &mut Chain, point: Point) -> bool {
        if point.timestamp_s == chain.last_s {
            self.replace_last(chain, point);
            return true;
        }
        let record = record_behind(chain, point);
        self.append(chain, record, point);
        false
    }

    /// Adds the first point of a chain, one that is no newer than the last, or one that arrived
    /// otherwise than the last mark says.
    #[inline(never)]
    fn push_slowly(&mut self, chain: &mut Chain, arrival: Arrival) -> bool {
        let Arrival { timestamp_s, arrived_s, .. } = arrival;
        let late_s = arrived_s.wrapping_sub(timestamp_s);
        let lateness = chain.lateness();
        let is_marked = [Lateness::At(arrived_s), Lateness::After(late_s)].contains(&lateness);
        if chain.count > 0 && is_marked {
            return self.push_marked(chain, arrival.point());
        }
        let is_with_last = chain.count > 0 && lateness.arrived_s(chain.last_s) == arrived_s;
        let is_short = i16::try_from(late_s.cast_signed()).is_ok();
        // Points that come together are of several times: one mark does for all.
        chain.set_lateness(if is_with_last || !is_short {
            Lateness::At(arrived_s)
        } else {
            Lateness::After(late_s)
        });
        if chain.count > 0 {
            let (mark, mark_bytes) = chain.lateness().mark();
            let record = record_behind(chain, arrival.point());
            let block = self.blocks.get_mut(chain.tail);
            let used = usize::from(block.used);
            if used + mark_bytes + usize::from(record.len) <= RECORDS_BYTES {
                block.records[used..used + mark_bytes].copy_from_slice(&mark[..mark_bytes]);
                block.used += u8::try_from(mark_bytes).expect("a mark is short");
                self.append(chain, record, arrival.point());
                return false;
            }
        }
        self.append_first(chain, arrival.point());
        false
    }

    /// Has the block fetched that the chain's next point goes to.
    #[inline]
    pub(crate) fn prefetch(&self, chain: &Chain) {
        if chain.count > 0 {
            prefetch(self.blocks.get(chain.tail));
        }
    }

    /// Appends the chain's points to `out` in order of arrival.
    pub(crate) fn collect(&self, chain: &Chain, out: &mut Vec<Arrival>) {
        self.collect_from(chain.head, chain.count, out);
    }

    /// Appends the points to `out`, in order of arrival.
    pub(crate) fn collect_frozen(&self, chain: &FrozenChain, out: &mut Vec<Arrival>) {
        self.collect_from(chain.head, chain.count, out);
    }

    /// The timestamp of the point that arrived first; a sort key.
    pub(crate) fn first_time_s(&self, chain: &Chain) -> u32 {
        if chain.count == 0 {
            return u32::MAX;
        }
        let records = &self.blocks.get(chain.head).records;
        let mark_bytes = Lateness::read_mark(records).map_or(0, |(_, bytes)| bytes);
        Decoder::default().decode(&records[mark_bytes..]).0
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

    /// Takes the points of a chain that arrived first: all, or as many whole blocks as hold at most
    /// `count_max` points. A block holds fewer points than `count_max`.
    pub(crate) fn freeze(&mut self, chain: &mut Chain, count_max: u32) -> FrozenChain {
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

    /// Replaces the chain's content by `points`, which are in the order of their arrival.
    pub(crate) fn refill(&mut self, chain: &mut Chain, points: &[Arrival]) {
        self.clear(chain);
        for &arrival in points {
            self.push(chain, arrival);
        }
    }

    fn collect_from(&self, head: SlotId, count: u32, out: &mut Vec<Arrival>) {
        out.reserve(count as usize);
        let mut id = head;
        while id != NONE {
            self.for_each_record(id, |arrival| out.push(arrival));
            id = self.blocks.get(id).next;
        }
    }

    fn for_each_record(&self, id: SlotId, mut act: impl FnMut(Arrival)) {
        let block = self.blocks.get(id);
        let mut rest = &block.records[..usize::from(block.used)];
        let (mut decoder, mut lateness) = (Decoder::default(), Lateness::NONE);
        while !rest.is_empty() {
            if let Some((marked, bytes)) = Lateness::read_mark(rest) {
                lateness = marked;
                rest = &rest[bytes..];
                // The point behind it got a longer value, and went to the next block.
                if rest.is_empty() {
                    return;
                }
            }
            let (timestamp_s, value, bytes) = decoder.decode(rest);
            act(Arrival { timestamp_s, arrived_s: lateness.arrived_s(timestamp_s), value });
            rest = &rest[bytes..];
        }
    }

    fn records_of(&self, id: SlotId) -> u32 {
        let mut count = 0;
        self.for_each_record(id, |_| count += 1);
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
        let record = encode_in(chain, time, point.value, true);
        let lateness = chain.lateness();
        let (mark, mark_bytes) =
            if lateness == Lateness::NONE { Default::default() } else { lateness.mark() };
        let block = self.blocks.get_mut(id);
        block.next = NONE;
        block.records[..mark_bytes].copy_from_slice(&mark[..mark_bytes]);
        block.used = u8::try_from(mark_bytes).expect("a mark is short") + record.len;
        record.write(&mut block.records[mark_bytes..]);
        if chain.count == 0 {
            chain.head = id;
        } else {
            self.blocks.get_mut(chain.tail).next = id;
        }
        chain.tail = id;
        chain.last_s = point.timestamp_s;
        chain.step_s = 0;
        chain.last_bytes = record.len;
        chain.count += 1;
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
        let record = encode_in(chain, time, point.value, false);
        self.append(chain, record, point);
    }
}

/// The record of a point that follows the last one in its block.
#[inline]
fn record_behind(chain: &mut Chain, point: Point) -> Record {
    let delta_s = point.timestamp_s.wrapping_sub(chain.last_s);
    let delta_s = u16::try_from(delta_s).ok().filter(|_| point.timestamp_s > chain.last_s);
    let time = match delta_s {
        Some(delta_s) => TimeCode::after(delta_s, chain.step_s),
        None => TimeCode::absolute(point.timestamp_s),
    };
    chain.last_s = point.timestamp_s;
    chain.step_s = delta_s.unwrap_or(0);
    encode_in(chain, time, point.value, false)
}

/// The record of a value in a chain. The kind of the value before most often fits again.
#[inline]
fn encode_in(chain: &mut Chain, time: TimeCode, value: f64, search: bool) -> Record {
    let at_second = chain.value_kind & AT_SECOND;
    let mut kind = chain.value_kind & !AT_SECOND;
    let record = encode(time, value, &mut kind, search);
    chain.value_kind = kind | at_second;
    record
}

/// Sorts by time and keeps, of equal timestamps, the one that came last in `points`.
pub(crate) fn sort_last_wins(points: &mut Vec<Point>) {
    let ascending = points.windows(2).all(|pair| pair[0].timestamp_s < pair[1].timestamp_s);
    if ascending {
        return;
    }
    points.sort_by_key(|point| point.timestamp_s);
    let mut kept = 0;
    for at in 0..points.len() {
        if kept > 0 && points[kept - 1].timestamp_s == points[at].timestamp_s {
            kept -= 1;
        }
        points[kept] = points[at];
        kept += 1;
    }
    points.truncate(kept);
}
