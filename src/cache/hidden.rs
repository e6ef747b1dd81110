//! Entries that the receive path does not find.
//!
//! What is received for a metric that may take only a share of the memory must be looked at before
//! it is accepted, and a look at every point of every metric would cost all of them. So the entry
//! of such a metric is *hidden*: it is in the table under the complement of its name's hash.
//! [`Cache::find_many`] does not meet it there, and its points go the way of points of unknown
//! names, where the look is made; [`Cache::lookup`] and [`Cache::find_or_add`] look in both places.

use super::points::BLOCK_BYTES;
use super::{Cache, ENTRY_BYTES, MetricId};

/// What a point takes at most on average: a time and a value that do not compress.
const POINT_BYTES: usize = 12;

/// What a metric with one point takes, whatever its name: less than that is no room for one.
pub const NEW_METRIC_BYTES: usize = ENTRY_BYTES + BLOCK_BYTES;

impl Cache {
    /// Hides a metric's entry, which is not hidden.
    pub fn hide(&mut self, metric: MetricId) {
        let hash = self.hash_of(self.name(metric));
        let was_there = self.table.remove(hash, metric.0);
        assert!(was_there, "only an entry that can be found is hidden");
        self.table.insert(!hash, metric.0);
        self.hidden_count += 1;
    }

    /// Lets a hidden entry be found again.
    pub fn reveal(&mut self, metric: MetricId) {
        let hash = self.hash_of(self.name(metric));
        let was_there = self.remove_hidden(hash, metric.0);
        assert!(was_there, "only a hidden entry is revealed");
        self.table.insert(hash, metric.0);
    }

    /// The hash of a name, keyed with random numbers of this process.
    pub fn hash_of(&self, name: &[u8]) -> u64 {
        self.hasher.hash_one(name)
    }

    /// Memory that a metric takes with its points, in bytes: at least nearly all of it.
    pub fn bytes_of(&self, metric: MetricId) -> usize {
        let points_bytes = self.unwritten_of(metric) as usize * POINT_BYTES;
        ENTRY_BYTES + self.name(metric).len() + points_bytes.max(BLOCK_BYTES)
    }

    /// Number of the metric's points that are not in its file.
    pub fn unwritten_of(&self, metric: MetricId) -> u32 {
        let entry = self.entries.get(metric.0);
        entry.waiting.count() + entry.writing.count()
    }

    pub(super) fn find_also_hidden(&self, hash: u64, name: &[u8]) -> Option<u32> {
        let found = self.find(hash, name);
        if found.is_some() || self.hidden_count == 0 {
            return found;
        }
        self.find(!hash, name)
    }

    pub(super) fn remove_hidden(&mut self, hash: u64, id: u32) -> bool {
        let was_there = self.table.remove(!hash, id);
        self.hidden_count -= usize::from(was_there);
        was_there
    }
}

#[cfg(test)]
mod tests {
    use super::super::FIND_TOGETHER;
    use super::*;
    use crate::metric::point::Arrival;

    fn is_found(cache: &Cache, name: &str) -> bool {
        let mut found = [None; FIND_TOGETHER];
        cache.find_many(std::iter::once(name.as_bytes()), &mut found);
        found[0].is_some()
    }

    #[test]
    fn a_hidden_entry_is_met_only_by_those_who_look_for_it() {
        let mut cache = Cache::new();
        let name = |number: u32| format!("some.metric.{number}");
        let metrics: Vec<MetricId> =
            (0..2_000).map(|number| cache.find_or_add(name(number).as_bytes()).0).collect();
        for &metric in metrics.iter().step_by(2) {
            cache.hide(metric);
        }
        for (number, &metric) in (0u32..).zip(&metrics) {
            assert_eq!(is_found(&cache, &name(number)), number % 2 == 1);
            assert_eq!(cache.lookup(name(number).as_bytes()), Some(metric));
            assert_eq!(cache.find_or_add(name(number).as_bytes()), (metric, false));
        }
        // Names are moved together when many are forgotten, those of hidden entries too.
        for &metric in metrics.iter().skip(1).step_by(2).chain(metrics.iter().step_by(4)) {
            assert!(cache.forget(metric).is_some());
        }
        assert_eq!(cache.hidden_count, 500);
        for (number, &metric) in (0u32..).zip(&metrics).skip(2).step_by(4) {
            assert!(!is_found(&cache, &name(number)));
            cache.reveal(metric);
            assert!(is_found(&cache, &name(number)));
            assert_eq!(cache.name(metric), name(number).as_bytes());
        }
        assert_eq!((cache.hidden_count, cache.metric_count()), (0, 500));
    }

    #[test]
    fn what_a_metric_takes_grows_with_its_points() {
        let mut cache = Cache::new();
        let (metric, _) = cache.find_or_add(b"m");
        let none = cache.bytes_of(metric);
        assert_eq!(none, NEW_METRIC_BYTES + 1);
        for timestamp_s in 1..=1_000 {
            let value = f64::from(timestamp_s).sqrt();
            cache.push(metric, Arrival { timestamp_s, arrived_s: timestamp_s, value });
        }
        let with_points = cache.bytes_of(metric);
        assert!(with_points - none >= cache.bytes() - cache.index_bytes() - BLOCK_BYTES);
    }
}
