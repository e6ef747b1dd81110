//! Which metric is written next.
//!
//! A *sweep* visits every metric with waiting points once. When nothing limits the updates, the
//! whole sweep is done whatever its order, so it goes by the *place* of the files (their inode
//! numbers): neighbours share directory entries and inode blocks, which saves a fifth to a third
//! of an update. When updates are limited, the strategy says who is written before the limit is
//! reached.
//!
//! The order is made by a sample sort, in slices, so that a million metrics never hold up the core:
//! one pass over the entries samples their keys, one counts them into buckets between sampled keys,
//! one puts them there. A bucket is sorted when the sweep reaches it, unless too many metrics share
//! it that their keys must be nearly all equal. `Noop` needs none of this: it walks the entries as
//! they lie.

use crate::cache::{Cache, MetricId};

/// Keys sampled, at least half as many when there are enough metrics: four for each bucket keep
/// the buckets of a million metrics at about 1,000, whatever the keys' distribution. Inode numbers
/// of XFS lie in a few dense groups far from each other.
const SAMPLES: usize = 4_096;
const SAMPLES_PER_BUCKET: usize = 4;

/// A bucket with more metrics is handed out as it is: finding the keys of this many and sorting
/// them takes half a millisecond.
const SORTED_BUCKET_MAX: usize = 4_096;

/// Entries looked at before the core gets its turn back: a cache miss or two each.
const SLICE: u32 = 2_048;

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

/// What a sweep goes by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Key {
    Strategy(WriteStrategy),
    Place,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Between sweeps.
    Idle,
    /// Sampling keys.
    Sample,
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
    key: Key,
    phase: Phase,
    cursor: u32,
    end: u32,
    /// Sampled keys; sorted and thinned out, they are the first keys of the buckets but one.
    samples: Vec<u64>,
    /// On average one of this many waiting metrics is sampled.
    stride: u32,
    /// A sequence of numbers that meets no pattern of metrics: Knuth's and Lewis's.
    noise: u32,
    /// Waiting metrics until the next sample.
    until_sample: u32,
    /// Per bucket: metrics counted, then the place of its next metric.
    buckets: Vec<u32>,
    bucket_ends: Vec<u32>,
    /// The bucket that is handed out next.
    bucket: usize,
    /// Entry numbers in their places; `u32::MAX` where a counted metric has no points left.
    queue: Vec<u32>,
    sort_buffer: Vec<(u64, u32)>,
}

impl FlushOrder {
    /// An order between sweeps.
    pub fn new(strategy: WriteStrategy) -> FlushOrder {
        FlushOrder {
            strategy,
            key: Key::Strategy(strategy),
            phase: Phase::Idle,
            cursor: 0,
            end: 0,
            samples: Vec::with_capacity(SAMPLES),
            stride: 1,
            noise: 1,
            until_sample: 1,
            buckets: Vec::new(),
            bucket_ends: Vec::new(),
            bucket: 0,
            queue: Vec::new(),
            sort_buffer: Vec::new(),
        }
    }

    /// Starts a sweep over the metrics the cache holds now, in the strategy's order.
    pub fn begin(&mut self, cache: &Cache) {
        self.start(cache, Key::Strategy(self.strategy));
    }

    /// Starts a sweep over the metrics the cache holds now, in the order of their files' places.
    pub fn begin_by_place(&mut self, cache: &Cache) {
        self.start(cache, Key::Place);
    }

    fn start(&mut self, cache: &Cache, key: Key) {
        self.key = key;
        self.cursor = 0;
        self.end = cache.id_end();
        self.samples.clear();
        (self.stride, self.until_sample) = (1, 1);
        self.queue.clear();
        self.bucket_ends.clear();
        let is_unsorted = key == Key::Strategy(WriteStrategy::Noop);
        self.phase = if is_unsorted { Phase::Serve } else { Phase::Sample };
    }

    /// The next metric of the sweep, or progress towards it. `place_of` says where a metric's file
    /// lies, small numbers first; metrics of one place stay in the order of their creation.
    pub fn next(&mut self, cache: &Cache, place_of: impl Fn(MetricId) -> u64) -> NextFlush {
        match self.phase {
            Phase::Idle => NextFlush::Done,
            Phase::Sample | Phase::Count | Phase::Place => {
                self.prepare(cache, &place_of);
                NextFlush::Busy
            }
            Phase::Serve if self.key == Key::Strategy(WriteStrategy::Noop) => {
                self.serve(cache, |index, _| index)
            }
            Phase::Serve => {
                self.sort_bucket(cache, &place_of);
                self.serve(cache, |cursor, queue| queue[cursor as usize])
            }
        }
    }

    fn serve(&mut self, cache: &Cache, entry_at: impl Fn(u32, &[u32]) -> u32) -> NextFlush {
        let bucket_end = self.bucket_ends.get(self.bucket).copied().unwrap_or(self.end);
        let slice_end = self.end.min(bucket_end).min(self.cursor.saturating_add(SLICE));
        while self.cursor < slice_end {
            let index = entry_at(self.cursor, &self.queue);
            self.cursor += 1;
            if index != u32::MAX
                && let Some(metric) = cache.metric_at(index)
                && cache.waiting_of(metric) > 0
            {
                return NextFlush::Metric(metric);
            }
        }
        if self.cursor < self.end {
            return NextFlush::Busy;
        }
        self.phase = Phase::Idle;
        // It is not needed between sweeps, and it takes four bytes of every metric.
        self.queue = Vec::new();
        NextFlush::Done
    }

    /// Sorts the bucket at the cursor when the cursor enters it.
    fn sort_bucket(&mut self, cache: &Cache, place_of: &impl Fn(MetricId) -> u64) {
        let starts = |bucket: usize| bucket.checked_sub(1).map_or(0, |at| self.bucket_ends[at]);
        while self.bucket < self.bucket_ends.len() && self.cursor >= self.bucket_ends[self.bucket] {
            self.bucket += 1;
        }
        if self.bucket == self.bucket_ends.len() || self.cursor != starts(self.bucket) {
            return;
        }
        let range = self.cursor as usize..self.bucket_ends[self.bucket] as usize;
        if range.len() > SORTED_BUCKET_MAX {
            return;
        }
        let mut buffer = std::mem::take(&mut self.sort_buffer);
        buffer.clear();
        for &index in &self.queue[range.clone()] {
            let key = if index == u32::MAX { None } else { self.key(cache, index, place_of) };
            buffer.push((key.unwrap_or(u64::MAX), index));
        }
        buffer.sort_unstable();
        for (place, &(_, index)) in self.queue[range].iter_mut().zip(&buffer) {
            *place = index;
        }
        self.sort_buffer = buffer;
    }

    fn prepare(&mut self, cache: &Cache, place_of: &impl Fn(MetricId) -> u64) {
        let slice_end = self.end.min(self.cursor.saturating_add(SLICE));
        for index in self.cursor..slice_end {
            match self.phase {
                Phase::Sample => self.sample(cache, index, place_of),
                Phase::Count => {
                    if let Some(key) = self.key(cache, index, place_of) {
                        let bucket = self.bucket_of(key);
                        self.buckets[bucket] += 1;
                        self.queue.push(u32::MAX);
                    }
                }
                Phase::Place => {
                    let Some(key) = self.key(cache, index, place_of) else { continue };
                    let bucket = self.bucket_of(key);
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

    /// Samples every `stride`-th waiting metric on average. When there are too many samples, every
    /// other one goes and the stride doubles.
    fn sample(&mut self, cache: &Cache, index: u32, place_of: &impl Fn(MetricId) -> u64) {
        let Some(metric) = cache.metric_at(index) else { return };
        if cache.waiting_of(metric) == 0 {
            return;
        }
        self.until_sample -= 1;
        if self.until_sample > 0 {
            return;
        }
        if self.samples.len() == SAMPLES {
            let mut keeps = false;
            self.samples.retain(|_| {
                keeps = !keeps;
                keeps
            });
            self.stride *= 2;
        }
        // Even steps would meet only some of the metrics that arrive in a pattern.
        self.noise = self.noise.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        self.until_sample = 1 + (self.noise >> 8) % (2 * self.stride - 1);
        self.samples.extend(self.key(cache, index, place_of));
    }

    fn finish_pass(&mut self) {
        self.cursor = 0;
        self.phase = match self.phase {
            // Nothing waited: what has come since is for the next sweep.
            Phase::Sample if self.samples.is_empty() => Phase::Idle,
            Phase::Sample => {
                self.samples.sort_unstable();
                let mut at = 0;
                self.samples.retain(|_| {
                    at += 1;
                    at % SAMPLES_PER_BUCKET == 0
                });
                self.samples.dedup();
                self.buckets.clear();
                self.buckets.resize(self.samples.len() + 1, 0);
                Phase::Count
            }
            Phase::Count => {
                let mut end = 0;
                self.bucket_ends.clear();
                for place in &mut self.buckets {
                    let start = end;
                    end += std::mem::replace(place, start);
                    self.bucket_ends.push(end);
                }
                Phase::Place
            }
            Phase::Place => {
                self.end = u32::try_from(self.queue.len()).expect("metric ids have 32 bits");
                self.bucket = 0;
                Phase::Serve
            }
            Phase::Idle | Phase::Serve => unreachable!("only the passes prepare"),
        };
    }

    /// The sort key of a metric with waiting points: smaller is earlier.
    fn key(&self, cache: &Cache, index: u32, place_of: &impl Fn(MetricId) -> u64) -> Option<u64> {
        let metric = cache.metric_at(index)?;
        if cache.waiting_of(metric) == 0 {
            return None;
        }
        Some(match self.key {
            Key::Place => place_of(metric),
            Key::Strategy(WriteStrategy::Max) => u64::from(u32::MAX - cache.order_keys(metric).0),
            Key::Strategy(WriteStrategy::Sorted) => u64::from(cache.order_keys(metric).1),
            Key::Strategy(WriteStrategy::Noop) => 0,
        })
    }

    fn bucket_of(&self, key: u64) -> usize {
        self.samples.partition_point(|&first| first <= key)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::metric::point::Arrival;

    /// Keys asked for in one call at most.
    const STEPS_MAX: u32 = 4_096;

    /// A whole sweep over metrics at these places: what it found in which order, and the most keys
    /// that it asked for in one call.
    fn sweep(count: u32, place_of: impl Fn(u32) -> u64) -> (Vec<u64>, u32) {
        let mut cache = Cache::new();
        for number in 0..count {
            let (metric, _) = cache.find_or_add(format!("m.{number}").as_bytes());
            cache.push(metric, Arrival { timestamp_s: 1_000, arrived_s: 1_000, value: 0.0 });
        }
        let place_of = |metric: MetricId| place_of(u32::try_from(metric.index()).expect("few"));
        let mut order = FlushOrder::new(WriteStrategy::Max);
        order.begin_by_place(&cache);
        let (mut found, mut steps_max) = (Vec::new(), 0);
        loop {
            let steps = Cell::new(0);
            let next = order.next(&cache, |metric| {
                steps.set(steps.get() + 1);
                place_of(metric)
            });
            steps_max = steps_max.max(steps.get());
            match next {
                NextFlush::Metric(metric) => found.push(place_of(metric)),
                NextFlush::Busy => {}
                NextFlush::Done => return (found, steps_max),
            }
        }
    }

    #[test]
    fn a_sweep_over_many_metrics_is_ordered_in_small_steps() {
        const COUNT: u32 = 200_000;
        // Places in no order; half of them in dense groups far from each other, half spread out.
        let mixed = |number: u32| u64::from(number.wrapping_mul(0x9e37_79b1) >> 8);
        let grouped = |number: u32| mixed(number) << (number % 2 * 24);
        for place_of in [&mixed as &dyn Fn(u32) -> u64, &grouped, &|_| 7] {
            let (found, steps_max) = sweep(COUNT, place_of);
            assert_eq!(found.len(), 200_000);
            assert!(found.is_sorted());
            assert!(steps_max <= STEPS_MAX, "{steps_max} keys in one call");
        }
    }
}
