//! Reads a range of one archive: chooses the slots and decodes them.
//!
//! A fetch first chooses its archive ([`Fetch::plan`]), then needs the base of that archive, which
//! gives at most two reads ([`Fetch::reads`]); their bytes decode to values ([`Fetch::decode`]).

use std::fmt;

use super::archive::{Archive, SLOT_BYTES, decode_known, index};
use super::header::Header;
use super::image::Transfer;

/// A range of one archive. The values of a fetch belong to the intervals `from_s`,
/// `from_s + step_s` and so on, before `until_s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    archive_index: usize,
    archive: Archive,
    from_s: i64,
    until_s: i64,
}

/// At most two reads, in the order in which [`Fetch::decode`] wants their bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FetchReads {
    transfers: [Transfer; 2],
    count: usize,
}

impl FetchReads {
    /// The reads; none when the archive is empty.
    pub fn transfers(&self) -> &[Transfer] {
        &self.transfers[..self.count]
    }

    /// Bytes of all reads together.
    pub fn total_bytes(&self) -> usize {
        self.transfers().iter().map(|transfer| transfer.len).sum()
    }
}

/// Why a range cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FetchError {
    /// The range starts after its end.
    FromAfterUntil,
    /// No archive has the step asked for.
    NoSuchStep,
}

impl fmt::Display for FetchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            FetchError::FromAfterUntil => "start of the range after its end",
            FetchError::NoSuchStep => "no archive with the step asked for",
        })
    }
}

impl std::error::Error for FetchError {}

impl Fetch {
    /// Chooses the archive and aligns the range to it; times are seconds since the Unix epoch.
    ///
    /// The interval that contains `from_s` is left out, the one that contains `until_s` is
    /// included, and an empty range still has one point. The archive is the finest that reaches
    /// back to `from_s`, or the one with `step_s` when given. `None` when the range lies in the
    /// future or before everything the file covers.
    pub fn plan(
        header: &Header,
        from_s: i64,
        until_s: i64,
        now_s: u32,
        step_s: Option<u32>,
    ) -> Result<Option<Fetch>, FetchError> {
        if from_s > until_s {
            return Err(FetchError::FromAfterUntil);
        }
        let now_s = i64::from(now_s);
        let oldest_s = now_s - i64::from(header.retention_s_max);
        if from_s > now_s || until_s < oldest_s {
            return Ok(None);
        }
        let (from_s, until_s) = (from_s.max(oldest_s), until_s.min(now_s));
        let archives = header.archives();
        let archive_index = match step_s {
            Some(step_s) => archives
                .iter()
                .position(|archive| archive.step_s == step_s)
                .ok_or(FetchError::NoSuchStep)?,
            None => archives
                .iter()
                .position(|archive| archive.span_s() >= (now_s - from_s).unsigned_abs())
                .unwrap_or(archives.len() - 1),
        };
        Ok(Some(Fetch::of_archive(header, archive_index, from_s, until_s)))
    }

    /// A range of a given archive, aligned to it and not clamped; both times lie within 2^62
    /// seconds of the epoch. A range longer than the archive has fewer values than steps.
    pub fn of_archive(header: &Header, archive_index: usize, from_s: i64, until_s: i64) -> Fetch {
        let archive = header.archives()[archive_index];
        let step_s = i64::from(archive.step_s);
        let from_s = from_s - from_s.rem_euclid(step_s) + step_s;
        let mut until_s = until_s - until_s.rem_euclid(step_s) + step_s;
        if from_s == until_s {
            until_s += step_s;
        }
        Fetch { archive_index, archive, from_s, until_s }
    }

    /// The position of the chosen archive in its header.
    pub fn archive_index(&self) -> usize {
        self.archive_index
    }

    /// Seconds between two values.
    pub fn step_s(&self) -> u32 {
        self.archive.step_s
    }

    /// The interval of the first value. Negative only when the file reaches back before 1970.
    pub fn from_s(&self) -> i64 {
        self.from_s
    }

    /// The interval after the range, as in Python's answers. The values may end earlier, when a
    /// step was asked for whose archive is shorter than the range.
    pub fn until_s(&self) -> i64 {
        self.until_s
    }

    /// The read of the archive's base slot, for a caller that does not know the base. The base is
    /// the `u32` in its first four bytes.
    pub fn base_read(&self) -> Transfer {
        Transfer { offset: self.archive.slot_offset(0), start: 0, len: SLOT_BYTES }
    }

    /// The reads of an archive whose slot 0 holds `base_s`; at most the whole ring.
    pub fn reads(&self, base_s: u32) -> FetchReads {
        let slot_count = self.archive.slot_count;
        let mut reads = FetchReads { transfers: [self.base_read(); 2], count: 0 };
        if base_s == 0 {
            return reads;
        }
        let first = self.archive.slot(self.from_s, base_s);
        let end = self.archive.slot(self.until_s, base_s);
        let pieces =
            if first < end { [(first, end), (0, 0)] } else { [(first, slot_count), (0, end)] };
        let mut start = 0;
        for (first, end) in pieces.into_iter().filter(|(first, end)| first < end) {
            let len = index(end - first) * SLOT_BYTES;
            let offset = self.archive.slot_offset(first);
            reads.transfers[reads.count] = Transfer { offset, start, len };
            reads.count += 1;
            start += len;
        }
        reads
    }

    /// Appends the values that the bytes of all reads, one after the other, hold; without bytes,
    /// those of an empty archive. `None` is a point that was never written: a stored NaN is a
    /// value. An empty archive gives at most `slot_count` nulls, so that a header or a step with a
    /// range of years cannot ask for gigabytes of them.
    pub fn decode(&self, bytes: &[u8], values: &mut Vec<Option<f64>>) {
        if bytes.is_empty() {
            let steps = (self.until_s - self.from_s) / i64::from(self.archive.step_s);
            let null_count = u32::try_from(steps).unwrap_or(u32::MAX).min(self.archive.slot_count);
            values.extend(std::iter::repeat_n(None, index(null_count)));
            return;
        }
        let mut expected_s = self.from_s;
        for slot in bytes.chunks_exact(SLOT_BYTES) {
            values.push(decode_known(slot, expected_s));
            expected_s += i64::from(self.archive.step_s);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::series::{Aggregation, Retention, SeriesSpec};

    fn header() -> Header {
        let retention = |step_s, slot_count| Retention { step_s, slot_count };
        let spec = SeriesSpec {
            retentions: vec![retention(10, 30), retention(60, 20)],
            x_files_factor: 0.5,
            aggregation: Aggregation::Average,
        };
        Header::new(&spec).expect("valid archives")
    }

    #[test]
    fn ranges_are_clamped_and_aligned() {
        type Range = (i64, i64, Option<u32>);
        let check = |(from_s, until_s, step_s): Range, want| {
            let got = Fetch::plan(&header(), from_s, until_s, 10_000, step_s);
            let got = got.map(|fetch| fetch.map(|f| (f.from_s(), f.until_s(), f.step_s())));
            assert_eq!(got, want, "{from_s} to {until_s} step {step_s:?}");
        };
        check((9_700, 10_000, None), Ok(Some((9_710, 10_010, 10))));
        check((9_699, 10_000, None), Ok(Some((9_720, 10_020, 60))));
        check((10_000, 10_000, None), Ok(Some((10_010, 10_020, 10))));
        check((10_001, 10_002, None), Ok(None));
        check((0, 8_799, None), Ok(None));
        check((0, 8_800, None), Ok(Some((8_820, 8_880, 60))));
        check((i64::MIN, i64::MAX, None), Ok(Some((8_820, 10_020, 60))));
        check((9_000, 10_000, Some(10)), Ok(Some((9_010, 10_010, 10))));
        check((9_000, 10_000, Some(7)), Err(FetchError::NoSuchStep));
        check((9_001, 9_000, None), Err(FetchError::FromAfterUntil));
    }

    #[test]
    fn reads_wrap_at_the_end_of_the_ring() {
        let check = |from_s: i64, base_s: u32, want: &[(u64, usize)]| {
            let fetch = Fetch::plan(&header(), from_s, 10_000, 10_000, None);
            let reads = fetch.expect("valid range").expect("covered").reads(base_s);
            let got: Vec<(u64, usize)> =
                reads.transfers().iter().map(|t| (t.offset, t.len / SLOT_BYTES)).collect();
            assert_eq!(got, want, "from {from_s} base {base_s}");
        };
        check(9_960, 0, &[]);
        check(9_960, 9_000, &[(40 + 7 * 12, 4)]);
        check(9_960, 9_690, &[(40 + 28 * 12, 2), (40, 2)]);
        check(9_960, 9_710, &[(40 + 26 * 12, 4)]);
        check(9_700, 9_710, &[(40, 30)]);
        check(9_700, 9_720, &[(40 + 29 * 12, 1), (40, 29)]);
    }
}
