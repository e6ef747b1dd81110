//! How far an update reaches in the rings of its file.
//!
//! An update reads a window of slots for each coarser point it makes. A ring is *lapped* when one
//! update writes a slot that another one, or an earlier point of the same, needs the older
//! interval of. Two promises rest on updates that do not lap:
//!
//! - one update of many points leaves what each point alone would leave, in the order of arrival,
//!   because no slot is overwritten before the points made of it are final ([`unlapped`]);
//! - a set of updates that do not lap each other may be repeated, wholly or from any one on, over
//!   a file that has any part of their writes, and leaves the same: each slot written is written
//!   again, and each slot only read is as it was. So what the log cannot tell to be in the file
//!   may be replayed ([`Reach::is_near`]).
//!
//! The coarsest archive is never read for another one, so it cannot be lapped.

use std::ops::Range;

use crate::limits::ARCHIVES_MAX;
use crate::metric::point::Arrival;

use super::header::Header;

/// The intervals that updates read or write in each archive but the coarsest, as seconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reach {
    /// Empty where nothing is touched.
    ranges: [(u64, u64); ARCHIVES_MAX],
}

/// Reference times for updates that need no care: the beginnings of the last two syncs that
/// succeeded, in seconds since the epoch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Near {
    /// Of the one before.
    pub before_s: u32,
    /// Of the last one.
    pub last_s: u32,
}

impl Reach {
    /// Adds a point; false, and nothing is changed, if the updates would lap a ring then.
    fn add(&mut self, header: &Header, arrival: Arrival) -> bool {
        let Some(finest) = header.archive_of_age(arrival.age_s()) else { return true };
        self.add_range(header, finest, arrival.timestamp_s..arrival.timestamp_s)
    }

    /// Adds all points between two timestamps, both included, which come to `finest` first.
    fn add_range(&mut self, header: &Header, finest: usize, times: Range<u32>) -> bool {
        let mut next = *self;
        for (at, pair) in header.archives().windows(2).enumerate().skip(finest) {
            let step_s = u64::from(pair[1].step_s);
            let first = u64::from(times.start) / step_s * step_s;
            let end = u64::from(times.end) / step_s * step_s + step_s;
            let range = &mut next.ranges[at];
            *range = if range.0 == range.1 {
                (first, end)
            } else {
                (range.0.min(first), range.1.max(end))
            };
            if range.1 - range.0 > pair[0].span_s() {
                return false;
            }
        }
        *self = next;
        true
    }

    /// Whether this update may follow, and be followed by, any others that were near then or are
    /// near now, without lapping: each stays within a quarter of each ring before and after its
    /// reference, and the references are half a ring apart at most.
    pub fn is_near(&self, header: &Header, near: Near) -> bool {
        let (before_s, last_s) = (u64::from(near.before_s), u64::from(near.last_s));
        let archives = header.archives().iter().zip(&self.ranges);
        archives.filter(|(_, range)| range.0 < range.1).all(|(archive, &(first, end))| {
            let span_s = archive.span_s();
            last_s.abs_diff(before_s) * 2 <= span_s
                && first + span_s / 4 >= last_s
                && end <= last_s + span_s / 4
        })
    }
}

/// How many of the points, which are in the order of their arrival, one update may write without
/// lapping a ring, and what it touches then; one at least, if there is any.
pub fn unlapped(header: &Header, points: &[Arrival]) -> (usize, Reach) {
    let mut reach = Reach::default();
    let Some(first) = points.first() else { return (0, reach) };
    // The usual case, without a division for each point: all are of the finest archive.
    let start = (first.timestamp_s, first.timestamp_s, 0);
    let (least_s, most_s, age_s) = points.iter().fold(start, |(least, most, age), point| {
        let time_s = point.timestamp_s;
        (least.min(time_s), most.max(time_s), age.max(point.age_s()))
    });
    let is_fresh = header.archive_of_age(age_s) == Some(0);
    if is_fresh && reach.add_range(header, 0, least_s..most_s) {
        return (points.len(), reach);
    }
    let count = points.iter().take_while(|&&point| reach.add(header, point)).count();
    if count == 0 {
        // A ring too short for its own window, in a header that no whisper writes.
        return (1, whole(header));
    }
    (count, reach)
}

/// A reach that is near nothing.
fn whole(header: &Header) -> Reach {
    let mut reach = Reach::default();
    for range in reach.ranges.iter_mut().take(header.archives().len()) {
        *range = (0, u64::from(u32::MAX));
    }
    reach
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::series::{Aggregation, Retention, SeriesSpec};

    fn header(archives: &[(u32, u32)]) -> Header {
        let retention = |&(step_s, slot_count)| Retention { step_s, slot_count };
        let spec = SeriesSpec {
            retentions: archives.iter().map(retention).collect(),
            x_files_factor: 0.0,
            aggregation: Aggregation::Sum,
        };
        Header::new(&spec).unwrap()
    }

    fn points(times: &[(u32, u32)]) -> Vec<Arrival> {
        let point = |&(timestamp_s, arrived_s)| Arrival { timestamp_s, arrived_s, value: 1.0 };
        times.iter().map(point).collect()
    }

    #[test]
    fn an_update_ends_before_it_laps() {
        let check = |archives: &[(u32, u32)], times: &[(u32, u32)], want: usize| {
            let (count, _) = unlapped(&header(archives), &points(times));
            assert_eq!(count, want, "{archives:?} {times:?}");
        };
        let fresh = |from: u32, to: u32| (from..to).map(|t| (t, t)).collect::<Vec<_>>();
        let short = [(1, 30), (10, 60)];
        check(&short, &[], 0);
        check(&short, &fresh(1_000, 1_030), 30);
        check(&short, &fresh(1_000, 1_070), 30);
        check(&short, &fresh(1_005, 1_070), 25);
        // One that is late for the finest archive touches the coarsest only.
        check(&short, &[(1_000, 1_000), (900, 1_000), (1_029, 1_029), (1_030, 1_030)], 3);
        check(&short, &[(100, 1_000), (1_000, 1_000)], 2);
        // The window of an old one that still is the finest's reaches too far back.
        check(&short, &[(1_000, 1_000), (971, 1_000)], 1);
        check(&[(1, 30)], &fresh(1_000, 1_070), 70);
        check(&[(10, 6), (60, 60)], &[(1_000, 1_000), (1_019, 1_019), (1_020, 1_020)], 2);
        // The middle ring is lapped by what comes to it late.
        let three = [(1, 60), (10, 30), (100, 1_000)];
        check(&three, &[(1_000, 1_000), (800, 1_000), (799, 1_000)], 2);
    }

    #[test]
    fn near_is_a_quarter_of_each_ring() {
        let header = header(&[(1, 400), (10, 400), (100, 400)]);
        let check = |times: &[(u32, u32)], before_s: u32, last_s: u32, want: bool| {
            let (count, reach) = unlapped(&header, &points(times));
            assert_eq!(count, times.len());
            let near = Near { before_s, last_s };
            assert_eq!(reach.is_near(&header, near), want, "{times:?} {near:?}");
        };
        check(&[(5_000, 5_000)], 5_000, 5_000, true);
        check(&[(5_000, 5_000)], 4_800, 5_000, true);
        check(&[(5_000, 5_000)], 4_799, 5_000, false);
        check(&[(5_099, 5_099)], 5_000, 5_000, true);
        check(&[(5_100, 5_100)], 5_000, 5_000, false);
        check(&[(4_900, 5_000)], 5_000, 5_000, true);
        check(&[(4_899, 5_000)], 5_000, 5_000, false);
        // Late for the finest ring, and so only asked about in the others.
        check(&[(4_500, 5_000)], 5_000, 5_000, true);
        check(&[(3_999, 5_000)], 5_000, 5_000, false);
        check(&[(10, 5_000)], 9_000, 5_000, true);
    }
}
