//! Which metric is written next.
//!
//! A *sweep* visits every metric with waiting points once. Its order is made by two passes over
//! the entries (range of the keys, then a counting sort into 1,024 buckets), done in slices so
//! that a million metrics never hold up the core; the order is therefore exact to 1/1,024 of the
//! range of keys. `Noop` needs no passes: it walks the entries as they lie.

use crate::cache::{Cache, MetricId};

const BUCKETS: usize = 1_024;

/// Entries looked at before the core gets its turn back.
const SLICE: u32 = 4_096;

/// go-carbon's `write-strategy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStrategy {
    /// Metrics with the most waiting points first.
    Max,
    /// Metrics with the oldest waiting point first.
    Sorted,
    /// As they lie in memory: the cheapest, and in the order of creation.
    Noop,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between sweeps.
    Idle,
    /// Looking for the smallest and greatest key.
    Range,
    /// Counting metrics per bucket.
    Count,
    /// Putting metrics into their buckets' places.
    Place,
    /// Handing them out.
    Serve,
}

/// What [`FlushOrder::next`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NextFlush {
    /// Write this metric next.
    Metric(MetricId),
    /// The order is still being made: let the core do something else and ask again.
    Busy,
    /// The sweep is over.
    Done,
}

/// The order of one sweep after the other.
#[derive(Debug)]
pub struct FlushOrder {
    strategy: WriteStrategy,
    phase: Phase,
    cursor: u32,
    end: u32,
    key_min: u32,
    key_max: u32,
    buckets: Vec<u32>,
    bucket_ends: Vec<u32>,
    queue: Vec<u32>,
}

impl FlushOrder {
    /// An order between sweeps.
    pub fn new(strategy: WriteStrategy) -> FlushOrder {
        FlushOrder {
            strategy,
            phase: Phase::Idle,
            cursor: 0,
            end: 0,
            key_min: u32::MAX,
            key_max: 0,
            buckets: vec![0; BUCKETS + 1],
            bucket_ends: Vec::new(),
            queue: Vec::new(),
        }
    }

    /// Starts a sweep over the metrics the cache holds now.
    pub fn begin(&mut self, cache: &Cache) {
        self.cursor = 0;
        self.end = cache.id_end();
        self.key_min = u32::MAX;
        self.key_max = 0;
        self.buckets.fill(0);
        self.queue.clear();
        self.phase = if self.strategy == WriteStrategy::Noop { Phase::Serve } else { Phase::Range };
    }

    /// The next metric of the sweep, or progress towards it.
    pub fn next(&mut self, cache: &Cache) -> NextFlush {
        match self.phase {
            Phase::Idle => NextFlush::Done,
            Phase::Range | Phase::Count | Phase::Place => {
                self.prepare(cache);
                NextFlush::Busy
            }
            Phase::Serve => self.serve(cache),
        }
    }

    fn serve(&mut self, cache: &Cache) -> NextFlush {
        let slice_end = self.end.min(self.cursor.saturating_add(SLICE));
        while self.cursor < slice_end {
            let index = match self.strategy {
                WriteStrategy::Noop => self.cursor,
                WriteStrategy::Max | WriteStrategy::Sorted => self.queue[self.cursor as usize],
            };
            self.cursor += 1;
            if let Some(metric) = cache.metric_at(index)
                && cache.waiting_of(metric) > 0
            {
                return NextFlush::Metric(metric);
            }
        }
        if self.cursor < self.end {
            return NextFlush::Busy;
        }
        self.phase = Phase::Idle;
        NextFlush::Done
    }

    fn prepare(&mut self, cache: &Cache) {
        let slice_end = self.end.min(self.cursor.saturating_add(SLICE));
        for index in self.cursor..slice_end {
            let Some(key) = self.key(cache, index) else { continue };
            match self.phase {
                Phase::Range => {
                    self.key_min = self.key_min.min(key);
                    self.key_max = self.key_max.max(key);
                }
                Phase::Count => {
                    let bucket = self.bucket(key);
                    self.buckets[bucket + 1] += 1;
                }
                Phase::Place => {
                    let bucket = self.bucket(key);
                    let place = self.buckets[bucket];
                    // A metric that got its first point after it was counted waits for the next
                    // sweep; its bucket has no place for it.
                    if place < self.bucket_ends[bucket] {
                        self.queue[place as usize] = index;
                        self.buckets[bucket] += 1;
                    }
                }
                Phase::Idle | Phase::Serve => unreachable!("only the passes prepare"),
            }
        }
        self.cursor = slice_end;
        if self.cursor == self.end {
            self.finish_pass();
        }
    }

    fn finish_pass(&mut self) {
        self.cursor = 0;
        self.phase = match self.phase {
            // Nothing waited: what has come since is for the next sweep.
            Phase::Range if self.key_min > self.key_max => Phase::Idle,
            Phase::Range => Phase::Count,
            Phase::Count => {
                for bucket in 1..=BUCKETS {
                    self.buckets[bucket] += self.buckets[bucket - 1];
                }
                self.bucket_ends.clear();
                self.bucket_ends.extend_from_slice(&self.buckets[1..]);
                self.queue.resize(self.buckets[BUCKETS] as usize, u32::MAX);
                Phase::Place
            }
            Phase::Place => {
                self.queue.retain(|&index| index != u32::MAX);
                self.end = u32::try_from(self.queue.len()).expect("metric ids have 32 bits");
                Phase::Serve
            }
            Phase::Idle | Phase::Serve => unreachable!("only the passes prepare"),
        };
    }

    /// The sort key of a metric with waiting points: smaller is earlier.
    fn key(&self, cache: &Cache, index: u32) -> Option<u32> {
        let metric = cache.metric_at(index)?;
        let (waiting, oldest_s) = cache.order_keys(metric);
        if waiting == 0 {
            return None;
        }
        Some(match self.strategy {
            WriteStrategy::Max => u32::MAX - waiting,
            WriteStrategy::Sorted => oldest_s,
            WriteStrategy::Noop => 0,
        })
    }

    fn bucket(&self, key: u32) -> usize {
        let range = u64::from(self.key_max.saturating_sub(self.key_min)) + 1;
        let place = u64::from(key.clamp(self.key_min, self.key_max) - self.key_min);
        usize::try_from(place * BUCKETS as u64 / range).expect("a bucket number is below 1,024")
    }
}
