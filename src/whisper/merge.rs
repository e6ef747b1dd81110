//! Merges the points of one file over those of another with the same archives.
//!
//! Each archive is read for what it covers and written into the same archive, the archive with
//! the shortest retention first, and from each the coarser ones follow as after any write. So a
//! coarse point is computed from merged finer ones first and replaced by the source's own
//! afterwards, where it has one. What is left is what Python whisper's `merge` leaves.

use std::fmt;

use super::fetch::Fetch;
use super::header::Header;
use super::whole::WholeFile;

/// Two files whose archives differ in offset, step or number of points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UnlikeArchives;

impl fmt::Display for UnlikeArchives {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the archives of the two files differ")
    }
}

impl std::error::Error for UnlikeArchives {}

/// Puts the known points of `source` from `from_s` (its interval left out) to `until_s` (its
/// interval included) over those of `target`; gives the number of points written, those of all
/// archives together. `from_s` is not after `until_s`.
///
/// # Errors
/// Archives that differ; nothing is written then.
pub fn merge(
    source: &WholeFile,
    target: &mut WholeFile,
    from_s: i64,
    until_s: i64,
    now_s: u32,
) -> Result<usize, UnlikeArchives> {
    assert!(from_s <= until_s, "from {from_s} until {until_s}");
    let header = source.header();
    if header.archives() != target.header().archives() {
        return Err(UnlikeArchives);
    }
    let mut point_count = 0;
    for archive_index in by_span(header) {
        let oldest_s = header.archives()[archive_index].oldest_s(now_s);
        if until_s < oldest_s {
            continue;
        }
        let fetch = Fetch::of_archive(header, archive_index, from_s.max(oldest_s), until_s);
        let points = source.points(&fetch);
        if !points.is_empty() {
            target.update_archive(archive_index, &points);
            point_count += points.len();
        }
    }
    Ok(point_count)
}

/// The archives in the order of what they cover. In files that whisper made it is the file's.
pub(super) fn by_span(header: &Header) -> Vec<usize> {
    let mut order: Vec<usize> = (0..header.archives().len()).collect();
    order.sort_by_key(|archive_index| header.archives()[*archive_index].span_s());
    order
}
