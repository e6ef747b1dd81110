//! Converts a file to another layout; each point keeps the precision that the old file has.
//!
//! Every slot of the new file is taken from the first of these sources that has a value:
//!
//! 1. the old archive with the same step: its value;
//! 2. the next finer old archive: its values in the slot's time, rolled up as the node would with
//!    the new method and xFilesFactor;
//! 3. coarser old archives: a value whose interval begins in the slot, if nothing finer is known
//!    anywhere in the time the value stands for. It stays one value and is not spread out.
//!
//! What counts as known is what a reader of the old file could see: nothing that is older than its
//! archive. So nothing is lost that the new layout has a place for, no coarse value hides or
//! alters finer ones, and a file brought to the layout it has keeps its points. Points ahead of
//! the clock are kept, and push out as many of the oldest, as they did in the ring they come from.

use super::archive::{Archive, SLOT_BYTES, decode_interval, decode_known, encode_slot, index};
use super::header::Header;
use super::resize::blank;
use super::rollup::Rollup;

/// The new file, whose header is `new`; `old` are the bytes of a file with this header.
pub fn migrate(old: &[u8], header: &Header, new: &Header, now_s: u32) -> Vec<u8> {
    let mut rings: Vec<Ring<'_>> =
        header.archives().iter().map(|archive| Ring::new(old, archive)).collect();
    let ahead_s = rings.iter().filter_map(|ring| ring.newest_s(now_s)).max();
    let end_s = ahead_s.unwrap_or(0).max(i64::from(now_s));
    rings.iter_mut().for_each(|ring| ring.oldest_s = end_s - ring.span());
    let source = Source { rings, new, end_s };
    let mut bytes = blank(new);
    for archive in new.archives() {
        source.fill(archive, &mut bytes);
    }
    bytes
}

/// One archive of the old file.
struct Ring<'a> {
    archive: Archive,
    slots: &'a [u8],
    base_s: u32,
    /// What lies before is not there for any reader.
    oldest_s: i64,
}

impl<'a> Ring<'a> {
    fn new(old: &'a [u8], archive: &Archive) -> Ring<'a> {
        let start = index(archive.offset);
        let slots = &old[start..start + index(archive.slot_count) * SLOT_BYTES];
        Ring { archive: *archive, slots, base_s: decode_interval(slots), oldest_s: 0 }
    }

    fn step(&self) -> i64 {
        i64::from(self.archive.step_s)
    }

    fn span(&self) -> i64 {
        i64::try_from(self.archive.span_s().min(1 << 62)).expect("2^62 is an i64")
    }

    /// The value at an interval. An archive whose base is 0 is empty, whatever its slots hold.
    fn at(&self, interval_s: i64) -> Option<f64> {
        if self.base_s == 0 || interval_s < self.oldest_s {
            return None;
        }
        let slot = index(self.archive.slot(interval_s, self.base_s));
        decode_known(&self.slots[slot * SLOT_BYTES..], interval_s)
    }

    /// The newest interval that can be read, if it is not further ahead of the clock than the
    /// archive is long: more is damage.
    fn newest_s(&self, now_s: u32) -> Option<i64> {
        let limit_s = u64::from(now_s) + self.archive.span_s();
        let intervals = self.slots.chunks_exact(SLOT_BYTES).map(decode_interval);
        let readable = intervals.filter(|interval_s| {
            *interval_s > now_s
                && u64::from(*interval_s) <= limit_s
                && interval_s % self.archive.step_s == 0
                && self.at(i64::from(*interval_s)).is_some()
        });
        readable.max().map(i64::from)
    }

    /// The first interval at or after a time.
    fn first_in(&self, start_s: i64) -> i64 {
        start_s + (-start_s).rem_euclid(self.step())
    }

    /// Feeds the values from `start_s` to before `until_s`. Only what the ring can hold is looked
    /// up, so that all windows together cost at most one pass over its slots.
    fn push_window(&self, start_s: i64, until_s: i64, end_s: i64, rollup: &mut Rollup) {
        let first_s = self.first_in(start_s);
        let oldest_s = self.first_in(self.oldest_s);
        let steps = |from_s: i64, to_s: i64| {
            let count = (self.first_in(to_s) - from_s) / self.step();
            u32::try_from(count.max(0)).unwrap_or(u32::MAX)
        };
        let from_s = first_s.max(oldest_s).min(self.first_in(until_s).max(first_s));
        let to_s = until_s.min(end_s + 1).max(from_s);
        rollup.push_unknown(steps(first_s, from_s));
        let mut interval_s = from_s;
        while interval_s < to_s {
            rollup.push(self.at(interval_s));
            interval_s += self.step();
        }
        rollup.push_unknown(steps(interval_s, until_s));
    }
}

/// The old file, and the layout of the new one.
struct Source<'a> {
    /// Finest first.
    rings: Vec<Ring<'a>>,
    new: &'a Header,
    /// The clock, or the newest point ahead of it.
    end_s: i64,
}

impl Source<'_> {
    /// Writes one archive of the new file; its oldest point takes slot 0.
    fn fill(&self, archive: &Archive, bytes: &mut [u8]) {
        let step = i64::from(archive.step_s);
        let newest_s = self.end_s - self.end_s % step;
        let mut interval_s = newest_s - (i64::from(archive.slot_count) - 1) * step;
        // No file can hold an interval of 0: it marks an empty archive.
        interval_s = interval_s.max(step);
        let mut base_s = None;
        while interval_s <= newest_s {
            let known = u32::try_from(interval_s).ok().zip(self.value(interval_s, step));
            if let Some((stored_s, value)) = known {
                let slot = archive.slot(interval_s, *base_s.get_or_insert(stored_s));
                let start = usize::try_from(archive.slot_offset(slot)).expect("within the file");
                encode_slot(&mut bytes[start..start + SLOT_BYTES], stored_s, value);
            }
            interval_s += step;
        }
    }

    fn value(&self, interval_s: i64, step: i64) -> Option<f64> {
        let finer_count = self.rings.partition_point(|ring| ring.step() < step);
        let (finer, others) = self.rings.split_at(finer_count);
        let same = others.first().filter(|ring| ring.step() == step);
        if let Some(value) = same.and_then(|ring| ring.at(interval_s)) {
            return Some(value);
        }
        if let Some(value) = finer.last().and_then(|ring| self.roll_up(ring, interval_s, step)) {
            return Some(value);
        }
        let coarser = finer_count + usize::from(same.is_some());
        (coarser..self.rings.len()).find_map(|at| self.coarse_value(at, interval_s, step))
    }

    fn roll_up(&self, ring: &Ring<'_>, interval_s: i64, step: i64) -> Option<f64> {
        let mut rollup = Rollup::new(self.new.aggregation);
        ring.push_window(interval_s, interval_s + step, self.end_s, &mut rollup);
        rollup.finish(self.new.x_files_factor)
    }

    /// The value of a coarser archive that begins in a slot, if it is all that is known.
    fn coarse_value(&self, at: usize, interval_s: i64, step: i64) -> Option<f64> {
        let ring = &self.rings[at];
        let start_s = ring.first_in(interval_s);
        if start_s >= interval_s + step {
            return None;
        }
        let value = ring.at(start_s)?;
        let mut rollup = Rollup::new(self.new.aggregation);
        for finer in &self.rings[..at] {
            finer.push_window(start_s, start_s + ring.step(), self.end_s, &mut rollup);
        }
        rollup.finish(0.0).is_none().then_some(value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::series::{Aggregation, Retention, SeriesSpec};

    const NOW_S: u32 = 1_700_000_005;

    fn header(shape: &[(u32, u32)], x_files_factor: f32, aggregation: Aggregation) -> Header {
        let retention = |&(step_s, slot_count): &(u32, u32)| Retention { step_s, slot_count };
        let retentions = shape.iter().map(retention).collect();
        Header::new(&SeriesSpec { retentions, x_files_factor, aggregation }).expect("valid")
    }

    /// Age of an interval in seconds, and its value.
    type Known = (i64, f64);

    /// A file with these points in each archive.
    fn file(header: &Header, archives: &[&[Known]]) -> Vec<u8> {
        let mut bytes = blank(header);
        for (archive, points) in header.archives().iter().zip(archives) {
            let mut base_s = None;
            for (age_s, value) in *points {
                let time_s = u32::try_from(i64::from(NOW_S) - age_s).expect("a time");
                let interval_s = archive.interval(time_s);
                let slot = archive.slot(i64::from(interval_s), *base_s.get_or_insert(interval_s));
                let start = usize::try_from(archive.slot_offset(slot)).expect("within the file");
                encode_slot(&mut bytes[start..], interval_s, *value);
            }
        }
        bytes
    }

    /// All points of each archive, newest first, by the age of their interval.
    fn points(bytes: &[u8], header: &Header) -> Vec<Vec<Known>> {
        let of = |archive: &Archive| {
            let ring = Ring::new(bytes, archive);
            let newest_s = ring.newest_s(NOW_S).unwrap_or(i64::from(NOW_S));
            let newest_s = newest_s - newest_s % ring.step();
            let times = (0..i64::from(archive.slot_count)).map(|n| newest_s - n * ring.step());
            let age = |time_s: i64| i64::from(NOW_S) - time_s;
            times.filter_map(|time_s| Some((age(time_s), ring.at(time_s)?))).collect()
        };
        header.archives().iter().map(of).collect()
    }

    #[test]
    fn each_slot_takes_the_most_exact_that_is_known() {
        use Aggregation::*;
        type Shape<'a> = &'a [(u32, u32)];
        let check =
            |method, (from, to): (Shape<'_>, Shape<'_>), old: &[&[Known]], want: &[&[Known]]| {
                let (old_header, header) = (header(from, 0.5, method), header(to, 0.5, method));
                let bytes = migrate(&file(&old_header, old), &old_header, &header, NOW_S);
                assert_eq!(bytes.len(), usize::try_from(header.file_bytes()).expect("small"));
                assert_eq!(points(&bytes, &header), want, "{from:?} to {to:?}, {method:?}");
            };
        // The clock is 5 s into a step of 10 s and 25 s into one of 60 s.
        let minute: &[Known] = &[(35, 6.0), (45, 5.0), (55, 4.0), (65, 3.0), (75, 2.0), (85, 1.0)];
        let six: Shape<'_> = &[(10, 12)];
        check(Sum, (six, &[(10, 12)]), &[minute], &[minute]);
        check(Sum, (six, &[(10, 30)]), &[minute], &[minute]);
        check(Sum, (six, &[(10, 6)]), &[minute], &[&minute[..3]]);
        check(Sum, (six, &[(60, 4)]), &[minute], &[&[(85, 21.0)]]);
        check(Average, (six, &[(60, 4)]), &[minute], &[&[(85, 3.5)]]);
        check(Last, (six, &[(60, 4)]), &[minute], &[&[(85, 6.0)]]);
        check(Max, (six, &[(20, 6)]), &[minute], &[&[(45, 6.0), (65, 4.0), (85, 2.0)]]);
        check(Sum, (six, &[(10, 6), (60, 4)]), &[minute], &[&minute[..3], &[(85, 21.0)]]);
        // Two of six are too few; three are enough.
        check(Sum, (six, &[(60, 4)]), &[&minute[..2]], &[&[]]);
        check(Sum, (six, &[(60, 4)]), &[&minute[..3]], &[&[(85, 15.0)]]);
        // Coarse values keep their place where nothing finer is known.
        let two: Shape<'_> = &[(10, 12), (60, 10)];
        let hour: &[Known] = &[(85, 20.0), (145, 30.0), (265, 40.0)];
        let both: &[Known] = &[(35, 6.0), (145, 30.0), (265, 40.0)];
        check(Sum, (two, &[(10, 60)]), &[&[(35, 6.0)], hour], &[both]);
        check(Sum, (two, two), &[minute, hour], &[minute, hour]);
        check(
            Sum,
            (two, &[(120, 10)]),
            &[minute, hour],
            &[&[(85, 20.0), (205, 30.0), (325, 40.0)]],
        );
        check(Sum, (&[(60, 10)], &[(10, 60)]), &[hour], &[hour]);
        // Steps that are no multiples of each other.
        check(Sum, (&[(60, 10)], &[(90, 10)]), &[hour], &[&[(85, 20.0), (175, 30.0), (265, 40.0)]]);
        // A point ahead of the clock pushes out the oldest.
        let ahead: &[Known] = &[(-15, 9.0), (85, 1.0), (95, 0.5)];
        check(Sum, (six, six), &[ahead], &[ahead]);
        check(Sum, (six, &[(10, 11)]), &[ahead], &[&ahead[..2]]);
        check(Sum, (two, six), &[ahead, &[]], &[ahead]);
        check(Sum, (six, six), &[&[]], &[&[]]);
    }

    #[test]
    fn nonsense_in_slots_is_left_behind() {
        let shape = header(&[(10, 6), (60, 10)], 0.0, Aggregation::Last);
        let good = file(&shape, &[&[(15, 1.0), (25, 2.0)], &[]]);
        let want = points(&migrate(&good, &shape, &shape, NOW_S), &shape);
        let mut bad = good.clone();
        let third = usize::try_from(shape.archives()[0].slot_offset(2)).expect("small");
        for interval_s in [1, NOW_S, u32::MAX, NOW_S + 3_600] {
            encode_slot(&mut bad[third..], interval_s, 7.0);
            let got = migrate(&bad, &shape, &shape, NOW_S);
            assert_eq!(points(&got, &shape), want, "{interval_s}");
        }
        // An archive whose base is damaged counts as empty.
        encode_slot(&mut bad[usize::try_from(shape.header_bytes()).expect("small")..], 0, 7.0);
        assert_eq!(points(&migrate(&bad, &shape, &shape, NOW_S), &shape), [vec![], vec![]]);
        // Near the epoch there is less time than slots.
        let young = migrate(&blank(&shape), &shape, &shape, 90);
        assert_eq!(young, blank(&shape));
    }
}
