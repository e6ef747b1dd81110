//! Questions that any core can be asked and only a metric's owner can answer.

use crate::metric::name::{canonical, file_path};
use crate::metric::owner::{ShardId, owner};
use crate::metric::point::Point;
use crate::metric::series::Aggregation;
use crate::shard::Shard;
use crate::stats::{Counters, Gauges};

/// Tells the answers of a core's open questions apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestId(pub u64);

/// What one core asks another.
#[derive(Debug)]
pub enum ShardRequest {
    /// The points not in their file yet, of these metrics from the first on, as far as they fit
    /// into this many bytes: the asker has memory for them.
    Points(RequestId, Vec<Vec<u8>>, usize),
    /// The aggregation method of a metric's file; changed to another one if given.
    Metadata(RequestId, Vec<u8>, Option<Aggregation>),
    /// What the shard has counted and holds.
    Stats(RequestId),
    /// Take these points of the node's own metrics, also when full: a full node must be seen.
    Own(RequestId, Vec<u8>),
}

/// What the owner says.
#[derive(Debug)]
pub enum ShardResponse {
    /// Points of the first ones of the metrics asked for.
    Points(RequestId, Page),
    /// The method before the change, or why there is none.
    Metadata(RequestId, Result<Aggregation, String>),
    /// Counters and gauges.
    Stats(RequestId, Box<(Counters, Gauges)>),
    /// The points were taken.
    Own(RequestId),
}

/// Bytes of a point in a [`Page`].
pub const POINT_BYTES: usize = 12;

/// Points of several metrics, packed: the timestamp's 4 bytes and the value's 8, little-endian.
#[derive(Debug, Default)]
pub struct Page {
    bytes: Vec<u8>,
    /// Number of points of each metric that is here, in the order of the question.
    counts: Vec<u32>,
    needed_bytes: usize,
}

impl Page {
    /// Metrics whose points are here, all of them; fewer than asked for if there was no room.
    pub fn metric_count(&self) -> usize {
        self.counts.len()
    }

    /// What the points of the next metric take if there was no room for them.
    pub fn needed_bytes(&self) -> usize {
        self.needed_bytes
    }

    /// Bytes of all points that are here.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The packed points of each metric, in ascending order of time.
    pub fn metrics(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.counts.iter().map(move |&count| {
            let end = start + count as usize * POINT_BYTES;
            let packed = &self.bytes[start..end];
            start = end;
            packed
        })
    }
}

/// The points in a metric's part of a page.
pub fn unpacked(packed: &[u8]) -> impl ExactSizeIterator<Item = Point> {
    packed.as_chunks::<POINT_BYTES>().0.iter().map(|bytes| {
        let (timestamp, value) = bytes.split_at(4);
        Point {
            timestamp_s: u32::from_le_bytes(timestamp.try_into().expect("4 of 12 bytes")),
            value: f64::from_le_bytes(value.try_into().expect("8 of 12 bytes")),
        }
    })
}

impl ShardResponse {
    /// The question's request_id.
    pub fn request_id(&self) -> RequestId {
        match self {
            ShardResponse::Points(request_id, _)
            | ShardResponse::Metadata(request_id, _)
            | ShardResponse::Stats(request_id, _)
            | ShardResponse::Own(request_id) => *request_id,
        }
    }
}

impl Shard {
    /// The canonical spelling of a metric that was asked for and its owner; `None` for a name
    /// that cannot exist.
    pub fn locate(&mut self, name: &[u8]) -> Option<(Vec<u8>, ShardId)> {
        let mut scratch = std::mem::take(&mut self.name_scratch);
        let located = canonical(name, &mut scratch)
            .and_then(|name| self.check_path(name))
            .ok()
            .map(|name| (name.to_vec(), owner(name, self.options.shard_count)));
        self.name_scratch = scratch;
        located
    }

    /// All points of a metric of this shard that are not in its file, ascending.
    pub fn points_of(&self, name: &[u8]) -> Vec<Point> {
        let mut points = Vec::new();
        if let Some(metric) = self.cache.lookup(name) {
            self.cache.read(metric, &mut points);
        }
        points
    }

    /// The points of the first ones of these metrics, as many as fit into `bytes_max`. A metric is
    /// read only if its points that wait would fit, so beside the page no more points are in memory
    /// than a page's and an update's.
    pub fn page_of(&self, names: &[Vec<u8>], bytes_max: usize) -> Page {
        let mut page = Page::default();
        let mut points = Vec::new();
        for name in names {
            let before = page.bytes.len();
            points.clear();
            if let Some(metric) = self.cache.lookup(name) {
                let waiting_bytes = self.cache.waiting_of(metric) as usize * POINT_BYTES;
                let mut needed_bytes = waiting_bytes;
                if before + waiting_bytes <= bytes_max {
                    self.cache.read(metric, &mut points);
                    needed_bytes = points.len() * POINT_BYTES;
                }
                if before + needed_bytes > bytes_max {
                    page.needed_bytes = needed_bytes;
                    break;
                }
            }
            if before == 0 {
                page.bytes.reserve_exact(points.len() * POINT_BYTES);
            }
            for point in &points {
                page.bytes.extend_from_slice(&point.timestamp_s.to_le_bytes());
                page.bytes.extend_from_slice(&point.value.to_le_bytes());
            }
            let count = u32::try_from(points.len()).expect("a chain counts its points in 32 bits");
            page.counts.push(count);
        }
        page.bytes.shrink_to_fit();
        page
    }

    /// The path of a metric's file, ending in NUL.
    pub fn path_of(&self, name: &[u8]) -> Vec<u8> {
        let mut path = Vec::new();
        file_path(name, self.options.hash_tagged, &mut path).expect("a canonical name has a path");
        path.push(0);
        path
    }

    /// The header of a metric's file has changed: what is remembered of it is void.
    pub fn header_changed(&mut self, name: &[u8]) {
        if let Some(metric) = self.cache.lookup(name) {
            self.no_longer_new(metric);
            self.files.header_changed(metric, self.cache.is_writing(metric));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::metric::point::Received;
    use crate::schema::Rules;
    use crate::shard::tests::options;
    use crate::stats::Receiver;

    const NOW_S: u32 = 1_800_000_000;

    /// A shard with so many points of each metric `m.0`, `m.1`, ...
    fn shard_with(counts: &[u32]) -> (Shard, Vec<Vec<u8>>) {
        let mut shard = Shard::new(options(), Arc::new(Rules::default()), Instant::now());
        shard.set_time(NOW_S);
        let mut names = Vec::new();
        for (number, &count) in counts.iter().enumerate() {
            let name = format!("m.{number}").into_bytes();
            for age in 0..count {
                let timestamp = f64::from(NOW_S - age);
                let received = Received { name: &name, value: f64::from(age), timestamp };
                shard.ingest(Receiver::Tcp, received);
            }
            names.push(name);
        }
        (shard, names)
    }

    /// Asks for all names with this much memory, and for what is needed when that is more. Returns
    /// how many pages it took.
    #[track_caller]
    fn check(counts: &[u32], bytes_max: usize) -> usize {
        let (shard, mut names) = shard_with(counts);
        names.push(b"m.unknown".to_vec());
        let (mut found, mut page_count, mut granted) = (Vec::new(), 0, bytes_max);
        while found.len() < names.len() {
            let page = shard.page_of(&names[found.len()..], granted);
            assert!(page.bytes() <= granted, "{} bytes of {granted}", page.bytes());
            found.extend(page.metrics().map(|packed| unpacked(packed).collect::<Vec<_>>()));
            let is_whole = page.metric_count() > 0;
            assert!(is_whole || page.needed_bytes() > granted, "a page without use");
            granted = if is_whole { bytes_max } else { page.needed_bytes() };
            page_count += 1;
        }
        for (name, points) in names.iter().zip(&found) {
            assert_eq!(*points, shard.points_of(name), "{}", name.escape_ascii());
        }
        page_count
    }

    #[test]
    fn pages_are_bounded_and_together_are_all_points() {
        assert_eq!(check(&[], 0), 1, "a metric without points needs no memory");
        assert_eq!(check(&[3, 0, 4], 7 * POINT_BYTES), 1);
        assert_eq!(check(&[3, 0, 4], 7 * POINT_BYTES - 1), 2);
        assert_eq!(check(&[100], 10 * POINT_BYTES), 2, "told its need, then granted it");
        assert_eq!(check(&[5, 100, 5], 10 * POINT_BYTES), 4);
        assert!(check(&[10; 50], 35 * POINT_BYTES) > 50 / 4);
    }
}
