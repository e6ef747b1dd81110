//! Compares two files with the same archives, point by point.
//!
//! Each archive is compared only where no archive with a shorter retention reaches, which is
//! where its points matter to a reader, as Python whisper's `diff` does.

use super::archive::{Archive, index};
use super::fetch::Fetch;
use super::merge::{UnlikeArchives, by_span};
use super::whole::WholeFile;

/// What one archive shows.
#[derive(Debug, Clone, PartialEq)]
pub struct ArchiveDiff {
    /// Position of the archive in the order of retentions.
    pub archive_index: usize,
    /// Points compared.
    pub point_count: usize,
    /// Points that differ, oldest first. A NaN differs from everything.
    pub differences: Vec<Difference>,
}

/// A point that differs; `None` is a value that is not known.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Difference {
    /// Its interval.
    pub timestamp_s: i64,
    /// Its value in the first file.
    pub value_a: Option<f64>,
    /// Its value in the second file.
    pub value_b: Option<f64>,
}

/// Compares all that two files know up to `until_s`. With `ignore_empty` a point counts only when
/// both know it, otherwise when one does.
///
/// # Errors
/// Archives that differ.
pub fn diff(
    a: &WholeFile,
    b: &WholeFile,
    ignore_empty: bool,
    mut until_s: i64,
    now_s: u32,
) -> Result<Vec<ArchiveDiff>, UnlikeArchives> {
    let header = a.header();
    if header.archives() != b.header().archives() {
        return Err(UnlikeArchives);
    }
    let mut found = Vec::new();
    for (archive_index, at) in by_span(header).into_iter().enumerate() {
        let archive = &header.archives()[at];
        let oldest_s = archive.oldest_s(now_s);
        let fetch = Fetch::of_archive(header, at, oldest_s, until_s);
        let mut differences = Vec::new();
        let mut point_count = 0;
        for point in pairs(a, b, &fetch, archive) {
            let is_compared = match (point.value_a, point.value_b) {
                (Some(_), Some(_)) => true,
                (None, None) => false,
                _ => !ignore_empty,
            };
            point_count += usize::from(is_compared);
            if is_compared && point.value_a != point.value_b {
                differences.push(point);
            }
        }
        found.push(ArchiveDiff { archive_index, point_count, differences });
        until_s = until_s.min(oldest_s);
    }
    Ok(found)
}

/// The values of both files side by side. A range that ends before it begins has none, and none
/// has more than its archive has slots.
fn pairs(a: &WholeFile, b: &WholeFile, fetch: &Fetch, archive: &Archive) -> Vec<Difference> {
    let timestamps = (fetch.from_s()..fetch.until_s()).step_by(index(fetch.step_s()));
    let (values_a, values_b) = (a.values(fetch), b.values(fetch));
    let value = |values: &[Option<f64>], at: usize| values.get(at).copied().flatten();
    let pairs = timestamps.take(index(archive.slot_count)).enumerate();
    let pairs = pairs.map(|(at, timestamp_s)| Difference {
        timestamp_s,
        value_a: value(&values_a, at),
        value_b: value(&values_b, at),
    });
    pairs.collect()
}
