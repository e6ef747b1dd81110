//! Converts a file to another layout exactly as `whisper-resize.py` of whisper 1.1.10 does.
//!
//! For scripts that rely on the tool, faults included: both ways replay points through updates, so
//! that recent coarse points land in the finest archive; `--aggregate` cuts time into windows that
//! begin at `now - retention + now % step` and so are seldom whole steps. All other callers use
//! [`super::migrate()`].

use super::archive::Archive;
use super::fetch::Fetch;
use super::header::Header;
use super::rollup::Rollup;
use super::whole::WholeFile;
use crate::metric::point::Point;

/// What becomes of the points on their way.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Resample {
    /// They are written as they are, coarsest archive first.
    Keep,
    /// `--aggregate`: each new archive gets values made of windows in which at least this share
    /// of the old values is known.
    Aggregate(f64),
}

/// A point of the old file, or a gap.
type Reading = (i64, Option<f64>);

/// The new file, whose header is `new`; `old` are the bytes of a file with this header.
pub fn resize(old: &[u8], header: &Header, new: &Header, how: Resample, now_s: u32) -> Vec<u8> {
    let read = |archive: &Archive| readings(old, header, archive, now_s);
    let mut file = WholeFile::parse(blank(new)).expect("a new file can be used");
    match how {
        Resample::Keep => {
            for archive in header.archives().iter().rev() {
                let known = read(archive).into_iter();
                let points = known.filter_map(|(time_s, value)| point(time_s, value?));
                file.update_many(&points.collect::<Vec<Point>>(), now_s);
            }
        }
        Resample::Aggregate(share_min) => {
            let all = join(header.archives().iter().map(read));
            let times: Vec<i64> = all.iter().map(|(time_s, _)| *time_s).collect();
            for archive in new.archives() {
                let windows = windows(archive, now_s);
                let value = |(start_s, end_s): (i64, i64)| {
                    let first = bisect_left(&times, start_s, 0);
                    let end = bisect_left(&times, end_s, first);
                    point(start_s, roll_up(&all[first..end], new, share_min)?)
                };
                file.update_many(&windows.filter_map(value).collect::<Vec<Point>>(), now_s);
            }
        }
    }
    file.into_bytes()
}

/// A point, if the time fits into a file; all times of known values do.
fn point(time_s: i64, value: f64) -> Option<Point> {
    Some(Point { timestamp_s: u32::try_from(time_s).ok()?, value })
}

/// What `whisper.fetch` gives for all of an archive. It may choose a finer archive instead, which
/// is part of what is followed here.
fn readings(old: &[u8], header: &Header, archive: &Archive, now_s: u32) -> Vec<Reading> {
    let now = i64::from(now_s);
    let from_s = now - span(archive) + i64::from(archive.step_s);
    let Ok(Some(fetch)) = Fetch::plan(header, from_s, now, now_s, None) else {
        return Vec::new();
    };
    let part = |offset: u64, len: usize| {
        let start = usize::try_from(offset).expect("a parsed header's slots lie in memory");
        &old[start..start + len]
    };
    let base = part(fetch.base_read().offset, 4);
    let base_s = u32::from_be_bytes(base.try_into().expect("4 bytes were cut"));
    let reads = fetch.reads(base_s);
    let parts = reads.transfers().iter().flat_map(|read| part(read.offset, read.len));
    let bytes: Vec<u8> = parts.copied().collect();
    let mut values = Vec::new();
    fetch.decode(&bytes, &mut values);
    let step = usize::try_from(fetch.step_s()).expect("usize has at least 32 bits");
    (fetch.from_s()..fetch.until_s()).step_by(step).zip(values).collect()
}

/// Seconds covered, at most 2^62.
fn span(archive: &Archive) -> i64 {
    i64::try_from(archive.span_s().min(1 << 62)).expect("2^62 is an i64")
}

/// Readings of all archives, finest first, as one list, oldest first: of each coarser archive what
/// lies before the finer ones, or, as in Python, everything if nothing does.
fn join(archives: impl Iterator<Item = Vec<Reading>>) -> Vec<Reading> {
    let mut all: Vec<Reading> = Vec::new();
    for mut readings in archives {
        readings.reverse();
        let older = match all.last() {
            None => 0,
            Some((last_s, _)) => {
                readings.iter().position(|(time_s, _)| time_s < last_s).unwrap_or(0)
            }
        };
        all.extend_from_slice(&readings[older..]);
    }
    all.reverse();
    all
}

/// The windows of a new archive, start and end.
fn windows(archive: &Archive, now_s: u32) -> impl Iterator<Item = (i64, i64)> {
    let (now, step) = (i64::from(now_s), i64::from(archive.step_s));
    let from_s = now - span(archive) + now % step;
    let until_s = now + now % step + step;
    let starts = (0..).map(move |n| from_s + n * step);
    starts.map(move |start_s| (start_s, start_s + step)).take_while(move |(_, end)| *end < until_s)
}

/// Python's search, for lists that are not sorted either.
fn bisect_left(times: &[i64], wanted: i64, first: usize) -> usize {
    let (mut low, mut high) = (first, times.len());
    while low < high {
        let middle = low.midpoint(high);
        if times[middle] < wanted {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    low
}

fn roll_up(window: &[Reading], new: &Header, share_min: f64) -> Option<f64> {
    let as_f64 = |count: usize| f64::from(u32::try_from(count).expect("a file's slots"));
    let known = as_f64(window.iter().filter(|(_, value)| value.is_some()).count());
    if known == 0.0 || known / as_f64(window.len()) < share_min {
        return None;
    }
    let mut rollup = Rollup::new(new.aggregation);
    window.iter().for_each(|(_, value)| rollup.push(*value));
    rollup.finish(0.0)
}

/// A new file without points.
pub(super) fn blank(header: &Header) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    let length = usize::try_from(header.file_bytes()).expect("usize has 64 bits");
    bytes.resize(length, 0);
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::series::{Aggregation, Retention, SeriesSpec};

    fn header(shape: &[(u32, u32)]) -> Header {
        let retention = |&(step_s, slot_count): &(u32, u32)| Retention { step_s, slot_count };
        let retentions = shape.iter().map(retention).collect();
        let aggregation = Aggregation::Sum;
        Header::new(&SeriesSpec { retentions, x_files_factor: 0.5, aggregation }).expect("valid")
    }

    #[test]
    fn points_survive_and_windows_are_pythons() {
        let (now_s, old) = (1_700_000_010, header(&[(10, 12)]));
        let mut file = WholeFile::parse(blank(&old)).expect("a new file can be used");
        let points = |times: std::ops::Range<u32>| -> Vec<Point> {
            let times = times.step_by(10);
            times.map(|timestamp_s| Point { timestamp_s, value: 1.0 }).collect()
        };
        file.update_many(&points(now_s - 100..now_s), now_s);
        let new = header(&[(10, 30), (60, 10)]);
        let check = |how: Resample, want: [usize; 2]| {
            let bytes = resize(file.bytes(), &old, &new, how, now_s);
            assert_eq!(bytes.len(), 52 - 12 + 40 * 12);
            let count = |archive: &Archive| {
                let read = readings(&bytes, &new, archive, now_s);
                read.iter().filter(|(_, value)| value.is_some()).count()
            };
            assert_eq!([count(&new.archives()[0]), count(&new.archives()[1])], want, "{how:?}");
        };
        check(Resample::Keep, [10, 2]);
        // One of the minutes, which begin late, lands in a slot of the finest archive.
        check(Resample::Aggregate(0.5), [11, 2]);
        let starts: Vec<(i64, i64)> = windows(&header(&[(60, 2)]).archives()[0], 130).collect();
        assert_eq!(starts, [(20, 80), (80, 140), (140, 200)][..2]);
    }

    #[test]
    fn searches_are_pythons() {
        let check = |times: &[i64], wanted: i64, first: usize, want: usize| {
            assert_eq!(bisect_left(times, wanted, first), want, "{wanted} in {times:?}");
        };
        check(&[], 5, 0, 0);
        check(&[1, 3, 5], 3, 0, 1);
        check(&[1, 3, 5], 4, 0, 2);
        check(&[1, 3, 5], 0, 2, 2);
        check(&[1, 3, 5], 9, 0, 3);
        check(&[1, 9, 2, 8], 3, 0, 3);
    }
}
