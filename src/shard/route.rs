//! The batches on their way to the other cores.

use std::collections::VecDeque;

use crate::metric::batch;
use crate::metric::owner::ShardId;
use crate::metric::point::Point;

/// Open and full batches for the other shards.
///
/// Each lane has a fixed number of buffers; a buffer is free, open, ready or at its owner. A lane
/// without a free buffer is full, and receivers then wait before they read on. What one read
/// brings beyond that goes into extra buffers, which are freed when they come back.
#[derive(Debug)]
pub struct Outbox {
    lanes: Vec<Lane>,
    batch_bytes: usize,
    buffers_max: usize,
}

#[derive(Debug, Default)]
struct Lane {
    open: Option<Vec<u8>>,
    ready: VecDeque<Vec<u8>>,
    free: Vec<Vec<u8>>,
    /// Buffers that exist for this lane, wherever they are.
    buffers: usize,
}

impl Lane {
    /// The batch being filled.
    fn open(&mut self, batch_bytes: usize) -> &mut Vec<u8> {
        self.open.get_or_insert_with(|| {
            self.free.pop().unwrap_or_else(|| {
                self.buffers += 1;
                Vec::with_capacity(batch_bytes)
            })
        })
    }

    /// Buffers that are not free.
    fn used(&self) -> usize {
        self.buffers - self.free.len()
    }

    /// Has the open batch sent; nothing is open then.
    fn close(&mut self) {
        self.ready.extend(self.open.take());
    }
}

impl Outbox {
    /// Lanes to `shard_count` shards, of `buffers_max` buffers of `batch_bytes` bytes each. The
    /// buffers are made when they are first needed.
    pub fn new(shard_count: u16, buffers_max: usize, batch_bytes: usize) -> Outbox {
        assert!(batch_bytes >= batch::RECORD_BYTES_MAX, "a batch holds at least one record");
        let lanes = (0..shard_count).map(|_| Lane::default()).collect();
        Outbox { lanes, batch_bytes, buffers_max }
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

    /// A batch to send to this shard: a full one, or the open one if `also_open`.
    pub fn pop(&mut self, owner: ShardId, also_open: bool) -> Option<Vec<u8>> {
        let lane = &mut self.lanes[owner.index()];
        if also_open {
            lane.close();
        }
        lane.ready.pop_front()
    }

    /// Puts back a batch that did not fit into the link; it is the next to be popped.
    pub fn unpop(&mut self, owner: ShardId, batch: Vec<u8>) {
        self.lanes[owner.index()].ready.push_front(batch);
    }

    /// Takes back a buffer that the owner has emptied.
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
    /// accepted it.
    pub fn is_settled(&self) -> bool {
        self.lanes.iter().all(|lane| lane.used() == 0)
    }

    /// Memory of all buffers in bytes.
    pub fn bytes(&self) -> usize {
        let count: usize = self.lanes.iter().map(|lane| lane.buffers).sum();
        count * self.batch_bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
            got += batch::records(&batch).count();
            buffers.push(batch);
        }
        assert_eq!(got, sent + 100);
        assert!(buffers.len() > 2 && outbox.is_full() && !outbox.has_unsent());
        for buffer in buffers {
            outbox.give_back(to, buffer);
        }
        assert!(outbox.is_settled() && !outbox.is_full());
        assert_eq!(outbox.bytes(), 2 * bytes);
    }
}
