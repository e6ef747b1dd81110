//! Merges points of the cache over values read from a file.
//!
//! This is what a reader of file and cache shows, as graphite-web does it (`merge_with_cache`):
//!
//! 1. of the points in one interval of the finest archive the last in the list counts;
//! 2. if a coarser archive was read, the points of each of its intervals are rolled up by the
//!    file's method, whatever the xFilesFactor;
//! 3. the outcome replaces what the file says, even where the cache has only a part of the
//!    interval.
//!
//! Departures: absmax and absmin are rolled up too, where graphite-web fails the whole answer, and
//! points that are rolled up are taken oldest first, whatever order they came in, as the file will
//! have them.

use crate::metric::point::Point;

use super::fetch::Fetch;
use super::header::Header;
use super::rollup::Rollup;

/// Lays cached points over `values`, which `fetch` gave from a file with this header. Points
/// outside the range change nothing.
pub fn overlay(values: &mut [Option<f64>], fetch: &Fetch, header: &Header, cached: &[Point]) {
    let finest = &header.archives()[0];
    let mut known: Vec<(u32, f64)> =
        cached.iter().map(|point| (finest.interval(point.timestamp_s), point.value)).collect();
    // Stable: of equal intervals the last in the list stays last.
    known.sort_by_key(|(interval_s, _)| *interval_s);
    let step_s = fetch.step_s();
    let interval_of = |timestamp_s: u32| timestamp_s - timestamp_s % step_s;
    for chunk in known.chunk_by(|a, b| interval_of(a.0) == interval_of(b.0)) {
        let steps = (i64::from(interval_of(chunk[0].0)) - fetch.from_s()) / i64::from(step_s);
        let is_before = i64::from(interval_of(chunk[0].0)) < fetch.from_s();
        let place = usize::try_from(steps).ok().filter(|_| !is_before);
        if let Some(value) = place.and_then(|place| values.get_mut(place)) {
            let mut rollup = Rollup::new(header.aggregation);
            for same in chunk.chunk_by(|a, b| a.0 == b.0) {
                rollup.push(same.last().map(|(_, value)| *value));
            }
            *value = rollup.finish(0.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::series::{Aggregation, Retention, SeriesSpec};

    fn check(aggregation: Aggregation, at: usize, cached: &[(u32, f64)], want: &[Option<f64>]) {
        let retention = |(step_s, slot_count)| Retention { step_s, slot_count };
        let retentions = [(10, 30), (60, 10)].map(retention).to_vec();
        let spec = SeriesSpec { retentions, x_files_factor: 1.0, aggregation };
        let header = Header::new(&spec).expect("valid archives");
        let step_s = i64::from(header.archives()[at].step_s);
        let fetch = Fetch::of_archive(&header, at, 6_000 - step_s, 6_000 + step_s);
        let mut values = vec![Some(1.0), None, Some(3.0)];
        let point = |&(timestamp_s, value)| Point { timestamp_s, value };
        overlay(&mut values, &fetch, &header, &cached.iter().map(point).collect::<Vec<Point>>());
        assert_eq!(values, want, "{aggregation:?} {at} {cached:?}");
    }

    #[test]
    fn cached_points_win_and_are_rolled_up() {
        use Aggregation::*;
        let old = [Some(1.0), None, Some(3.0)];
        check(Average, 0, &[], &old);
        check(Average, 0, &[(5_999, 9.0), (6_030, 9.0), (u32::MAX, 9.0), (0, 9.0)], &old);
        check(Average, 0, &[(6_019, 7.0)], &[Some(1.0), Some(7.0), Some(3.0)]);
        check(Sum, 0, &[(6_011, 7.0), (6_010, 8.0)], &[Some(1.0), Some(8.0), Some(3.0)]);
        let minute = [(6_055, 4.0), (6_001, 1.0), (6_002, -2.0), (6_120, 5.0)];
        check(Sum, 1, &minute, &[Some(2.0), None, Some(5.0)]);
        check(Last, 1, &minute, &[Some(4.0), None, Some(5.0)]);
        check(AbsMax, 1, &minute, &[Some(4.0), None, Some(5.0)]);
        check(AbsMin, 1, &minute, &[Some(-2.0), None, Some(5.0)]);
        check(AvgZero, 1, &minute, &[Some(1.0), None, Some(5.0)]);
    }
}
