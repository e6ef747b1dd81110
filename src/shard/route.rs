//! Which core owns a metric, and the batches on their way to the other cores.

use std::collections::VecDeque;

use crate::limits::LINE_BYTES_MAX;
use crate::metric::batch::{self, Batch, Content};
use crate::metric::name::NameHash;
use crate::metric::point::Point;
use crate::shard::lend::Lending;

/// The number of a shard: 0 up to the number of cores in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Position in tables of shards.
    pub fn index(self) -> usize {
        usize::from(self.0)
    }
}

/// The owner of a name among `count` shards: the hash's high bits, scaled (Lemire's reduction).
/// The hash is xxh3-64 of the canonical name, the same on every machine and in every release.
pub fn owner(name: &[u8], count: u16) -> ShardId {
    let scaled = (u128::from(NameHash::of(name).0) * u128::from(count)) >> 64;
    ShardId(u16::try_from(scaled).expect("a 64-bit hash scaled to a u16 stays below it"))
}

/// Open and full batches for the other shards.
///
/// Each lane has a fixed number of buffers; a buffer is free, open, ready or at its owner. A lane
/// without a free buffer is full, and receivers then wait before they read on. What one read
/// brings beyond that goes into extra buffers, which are freed when they come back.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
    lending: Lending,
    batch_bytes: usize,
    buffers_max: usize,
}

#[derive(Debug, Default)]
struct Lane {
    open: Option<Vec<u8>>,
    ready: VecDeque<Batch>,
    free: Vec<Vec<u8>>,
    /// Buffers that exist for this lane, wherever they are.
    buffers: usize,
}

impl Lane {
    /// The batch being filled.
    fn open(&mut self, batch_bytes: usize) -> &mut Vec<u8> {
        if self.open.is_none() {
            self.open = Some(self.empty(batch_bytes));
        }
        self.open.as_mut().expect("just opened")
    }

    /// An empty buffer, a new one if none is free.
    fn empty(&mut self, batch_bytes: usize) -> Vec<u8> {
        self.free.pop().unwrap_or_else(|| {
            self.buffers += 1;
            Vec::with_capacity(batch_bytes)
        })
    }

    /// Buffers that are not free.
    fn used(&self) -> usize {
        self.buffers - self.free.len()
    }

    /// Has the open batch sent; nothing is open then.
    fn close(&mut self) {
        let batch = self.open.take().map(|bytes| Batch { content: Content::Points, bytes });
        self.ready.extend(batch);
    }
}

impl Outbox {
    /// Lanes to `shard_count` shards, of `buffers_max` buffers of `batch_bytes` bytes each. The
    /// buffers are made when they are first needed.
    pub fn new(shard_count: u16, buffers_max: usize, batch_bytes: usize) -> Outbox {
        assert!(batch_bytes >= batch::RECORD_BYTES_MAX, "a batch holds at least one record");
        let lanes = (0..shard_count).map(|_| Lane::default()).collect();
        Outbox { lanes, lending: Lending::new(batch_bytes), batch_bytes, buffers_max }
    }

    /// Adds a point to the open batch of its owner.
    pub fn push(&mut self, owner: ShardId, name: &[u8], point: Point) {
        let lane = &mut self.lanes[owner.index()];
        let open = lane.open(self.batch_bytes);
        batch::push(open, name, point);
        if open.len() + batch::RECORD_BYTES_MAX > self.batch_bytes {
            lane.close();
        }
    }

    /// Lends whole lines to another shard, if it has not enough of them already; returns how many
    /// bytes of `lines` it gets. They follow all points for that shard.
    pub fn lend(&mut self, helper: ShardId, lines: &[u8]) -> Option<usize> {
        let end = lines_end(&lines[..lines.len().min(self.batch_bytes)])?;
        let lane = &mut self.lanes[helper.index()];
        if lane.used() >= self.buffers_max || !self.lending.may_lend(helper) {
            return None;
        }
        self.lending.lend(helper);
        lane.close();
        let mut bytes = lane.empty(self.batch_bytes);
        bytes.extend_from_slice(&lines[..end]);
        lane.ready.push_back(Batch { content: Content::Lines, bytes });
        Some(end)
    }

    /// Says that lent lines have been taken, behind the last of their points.
    pub fn end_lent(&mut self, lender: ShardId, is_busy: bool) {
        let lane = &mut self.lanes[lender.index()];
        let bytes = lane.open.take().unwrap_or_else(|| lane.empty(self.batch_bytes));
        lane.ready.push_back(Batch { content: Content::LinesTaken { is_busy }, bytes });
    }

    /// The shard that has lines of ours, if one has.
    pub(super) fn helper(&self) -> Option<ShardId> {
        self.lending.helper()
    }

    /// Holds a point until all lines lent so far have been taken.
    pub(super) fn hold(&mut self, name: &[u8], point: Point) {
        let Outbox { lanes, lending, batch_bytes, .. } = self;
        lending.hold(name, point, |helper| lanes[helper.index()].empty(*batch_bytes));
    }

    /// The helper has taken the oldest lines it had.
    pub(super) fn confirm_lent(&mut self) {
        self.lending.confirm();
    }

    /// A batch of points that need not be held any longer; its buffer is to be given back to this
    /// lane.
    pub(super) fn release(&mut self) -> Option<(ShardId, Vec<u8>)> {
        self.lending.release()
    }

    /// A batch to send to this shard: a full one, or the open one if `also_open`.
    pub fn pop(&mut self, owner: ShardId, also_open: bool) -> Option<Batch> {
        let lane = &mut self.lanes[owner.index()];
        if also_open {
            lane.close();
        }
        lane.ready.pop_front()
    }

    /// Puts back a batch that did not fit into the link; it is the next to be popped.
    pub fn unpop(&mut self, owner: ShardId, batch: Batch) {
        self.lanes[owner.index()].ready.push_front(batch);
    }

    /// Takes back a buffer that the owner has emptied, or that held points.
    pub fn give_back(&mut self, owner: ShardId, mut buffer: Vec<u8>) {
        let lane = &mut self.lanes[owner.index()];
        if lane.buffers > self.buffers_max {
            lane.buffers -= 1;
            return;
        }
        buffer.clear();
        lane.free.push(buffer);
    }

    /// Whether some shard's lane has no buffer left.
    pub fn is_full(&self) -> bool {
        self.lanes.iter().any(|lane| lane.used() >= self.buffers_max)
    }

    /// Whether some lane holds a full batch.
    pub fn has_ready(&self) -> bool {
        self.lanes.iter().any(|lane| !lane.ready.is_empty())
    }

    /// Whether some lane holds points that are not sent.
    pub fn has_unsent(&self) -> bool {
        self.lanes.iter().any(|lane| lane.open.is_some() || !lane.ready.is_empty())
    }

    /// Whether every point has been sent and every buffer has come back, so that its owner has
    /// accepted it, and no lines are lent.
    pub fn is_settled(&self) -> bool {
        self.lending.is_settled() && self.lanes.iter().all(|lane| lane.used() == 0)
    }

    /// Memory of all buffers in bytes, those of held points included.
    pub fn bytes(&self) -> usize {
        let count: usize = self.lanes.iter().map(|lane| lane.buffers).sum();
        count * self.batch_bytes
    }
}

/// The end of the last whole line; none if there is no line, or one that may be too long and is not
/// to be lent: its connection is to be closed.
fn lines_end(bytes: &[u8]) -> Option<usize> {
    let mut end = 0;
    loop {
        let window = &bytes[end..bytes.len().min(end + LINE_BYTES_MAX + 1)];
        match memchr::memrchr(b'\n', window) {
            Some(at) => end += at + 1,
            None if window.len() > LINE_BYTES_MAX => return None,
            None => return (end > 0).then_some(end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn owners_are_stable_and_balanced() {
        assert_eq!(owner(b"servers.web1.cpu.user", 1), ShardId(0));
        let golden: Vec<u16> =
            ["a", "a.b.c", "servers.web1.cpu.user"].map(|n| owner(n.as_bytes(), 64).0).to_vec();
        assert_eq!(golden, [57, 18, 49]);
        let mut counts = [0usize; 7];
        for n in 0..70_000 {
            counts[owner(format!("metric.{n}").as_bytes(), 7).index()] += 1;
        }
        assert!(counts.iter().all(|&count| (9_500..10_500).contains(&count)), "{counts:?}");
    }

    #[test]
    fn a_lane_is_full_without_free_buffers_and_overflows_for_one_read() {
        let bytes = batch::RECORD_BYTES_MAX + 100;
        let mut outbox = Outbox::new(2, 2, bytes);
        let to = ShardId(1);
        let point = Point { timestamp_s: 1, value: 1.0 };
        let mut sent = 0;
        while !outbox.is_full() {
            outbox.push(to, b"name", point);
            sent += 1;
        }
        for _ in 0..100 {
            outbox.push(to, b"name", point);
        }
        assert!(outbox.has_unsent() && !outbox.is_settled());
        let mut got = 0;
        let mut buffers = Vec::new();
        while let Some(batch) = outbox.pop(to, true) {
            got += batch::records(&batch.bytes).count();
            buffers.push(batch.bytes);
        }
        assert_eq!(got, sent + 100);
        assert!(buffers.len() > 2 && outbox.is_full() && !outbox.has_unsent());
        for buffer in buffers {
            outbox.give_back(to, buffer);
        }
        assert!(outbox.is_settled() && !outbox.is_full());
        assert_eq!(outbox.bytes(), 2 * bytes);
    }

    #[test]
    fn lent_lines_follow_the_points_and_end_at_a_line() {
        let mut outbox = Outbox::new(2, 4, batch::RECORD_BYTES_MAX);
        let to = ShardId(1);
        outbox.push(to, b"name", Point { timestamp_s: 1, value: 1.0 });
        assert_eq!(outbox.lend(to, b"a 1 2\nb 1 2\nc 1"), Some(12));
        assert_eq!(outbox.pop(to, false).map(|batch| batch.content), Some(Content::Points));
        let lines = outbox.pop(to, false).expect("lines");
        assert_eq!((lines.content, &lines.bytes[..]), (Content::Lines, &b"a 1 2\nb 1 2\n"[..]));
        assert!(!outbox.is_settled() && !outbox.has_unsent());
        outbox.end_lent(to, true);
        let content = outbox.pop(to, false).map(|batch| batch.content);
        assert_eq!(content, Some(Content::LinesTaken { is_busy: true }));
    }

    #[test]
    fn held_points_take_the_buffers_of_the_helpers_lane() {
        let bytes = batch::RECORD_BYTES_MAX;
        let mut outbox = Outbox::new(3, 2, bytes);
        let helper = ShardId(2);
        let name = [b'x'; 4_000];
        assert_eq!(outbox.lend(helper, b"a 1 2\n"), Some(6));
        assert!(!outbox.is_full());
        for timestamp_s in 0..3 {
            outbox.hold(&name, Point { timestamp_s, value: 0.0 });
            assert!(outbox.is_full());
        }
        assert_eq!(outbox.lend(helper, b"a 1 2\n"), None);
        assert_eq!(outbox.bytes(), 4 * bytes);
        let lines = outbox.pop(helper, false).expect("lines");
        outbox.give_back(helper, lines.bytes);
        outbox.confirm_lent();
        let mut released = 0;
        while let Some((lane, buffer)) = outbox.release() {
            assert_eq!(lane, helper);
            outbox.give_back(lane, buffer);
            released += 1;
        }
        assert!(released == 3 && outbox.is_settled() && !outbox.is_full());
        assert_eq!(outbox.bytes(), 2 * bytes);
    }

    #[test]
    fn a_line_that_may_be_too_long_is_not_lent() {
        let line = |bytes: usize| format!("{}\n", "x".repeat(bytes));
        let short = line(10);
        let longest = line(LINE_BYTES_MAX);
        let check = |text: &str, want: Option<usize>| {
            assert_eq!(lines_end(text.as_bytes()), want);
        };
        check("", None);
        check("x", None);
        check(&short, Some(11));
        check(&longest, Some(LINE_BYTES_MAX + 1));
        check(&format!("{short}{longest}{short}"), Some(LINE_BYTES_MAX + 23));
        check(&format!("{short}{}{short}", line(LINE_BYTES_MAX + 1)), None);
        check(&format!("{short}{}", &longest[..LINE_BYTES_MAX]), Some(11));
        check(&format!("{short}x{}", &longest[..LINE_BYTES_MAX]), None);
    }
}
