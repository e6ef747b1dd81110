//! Fills the gaps of one file with the points of another, whose archives may differ.
//!
//! Unlike a merge this leaves the target's points alone, with two exceptions, both whisper-fill.py
//! 1.1.10's, whose files these are byte for byte: a zero counts as missing, and the point right
//! behind a gap is replaced by the source's. It walks the archives of the target from now
//! backwards, looks for gaps, and for each gap walks the archives of the source likewise, so
//! every gap gets the finest points that there are.
//!
//! Python takes the time of day with its fraction, which shows in the bytes: where an archive of
//! the source ends in the second in which a gap begins, that archive's end lies inside the gap.
//! So `now_s` is taken as a moment within its second; Python's clock moves on during its walk,
//! ours does not.

use super::archive::Archive;
use super::fetch::Fetch;
use super::header::Header;
use super::merge::by_span;
use super::whole::WholeFile;

/// Fills the gaps of `target` between `from_s` and `until_s`; gives the number of points written.
/// `from_s` is not after `until_s`. A gap of one step is left alone.
pub fn fill(
    source: &WholeFile,
    target: &mut WholeFile,
    from_s: i64,
    until_s: i64,
    now_s: u32,
) -> usize {
    assert!(from_s <= until_s, "from {from_s} until {until_s}");
    let header = target.header().clone();
    let mut archive_until_s = i64::from(now_s);
    let mut point_count = 0;
    for archive in by_span(&header).into_iter().map(|at| header.archives()[at]) {
        let oldest_s = archive.oldest_s(now_s);
        if oldest_s >= archive_until_s {
            continue;
        }
        for (gap_from_s, gap_until_s) in gaps(target, &archive, archive_until_s, now_s) {
            let (gap_from_s, gap_until_s) = (gap_from_s.max(from_s), gap_until_s.min(until_s));
            if gap_from_s < gap_until_s {
                point_count += fill_gap(source, target, gap_from_s, gap_until_s, now_s);
            }
        }
        archive_until_s = oldest_s;
    }
    point_count
}

/// Where an archive lacks points before `until_s`: from the interval in front of a gap to the
/// interval behind it, or to the last one.
fn gaps(target: &WholeFile, archive: &Archive, until_s: i64, now_s: u32) -> Vec<(i64, i64)> {
    let mut gaps = Vec::new();
    let Some(fetch) = plan(target.header(), archive.oldest_s(now_s), until_s, now_s) else {
        return gaps;
    };
    let step_s = i64::from(fetch.step_s());
    let mut gap_start_s = None;
    let mut interval_s = fetch.from_s();
    for value in target.values(&fetch) {
        let is_missing = value.is_none_or(|value| value == 0.0);
        match gap_start_s {
            // A gap that starts at interval 0 is not seen to have started.
            None if is_missing => gap_start_s = Some(interval_s).filter(|start_s| *start_s != 0),
            Some(start_s) if !is_missing => {
                if interval_s - start_s > i64::from(archive.step_s) {
                    gaps.push((start_s - step_s, interval_s));
                }
                gap_start_s = None;
            }
            Some(start_s) if interval_s == fetch.until_s() - step_s => {
                gaps.push((start_s - step_s, interval_s));
            }
            _ => {}
        }
        interval_s += step_s;
    }
    gaps
}

/// Writes what the source knows of a gap, newest archive first.
fn fill_gap(
    source: &WholeFile,
    target: &mut WholeFile,
    from_s: i64,
    mut until_s: i64,
    now_s: u32,
) -> usize {
    let header = source.header();
    let oldest_s = i64::from(now_s) - i64::from(header.retention_s_max);
    let mut point_count = 0;
    if from_s < oldest_s && until_s < oldest_s {
        return point_count;
    }
    for archive in by_span(header).into_iter().map(|at| header.archives()[at]) {
        let archive_from_s = archive.oldest_s(now_s);
        if until_s <= archive_from_s {
            continue;
        }
        let piece_from_s = archive_from_s.max(from_s);
        if let Some(fetch) = plan(header, piece_from_s, until_s, now_s) {
            let points = source.points(&fetch);
            target.update_many(&points, now_s);
            point_count += points.len();
        }
        if archive_from_s < from_s {
            break;
        }
        until_s = piece_from_s;
    }
    point_count
}

/// A range that does not start after its end; `None` when the file cannot know any of it.
fn plan(header: &Header, from_s: i64, until_s: i64, now_s: u32) -> Option<Fetch> {
    Fetch::plan(header, from_s, until_s, now_s, None).ok().flatten()
}
