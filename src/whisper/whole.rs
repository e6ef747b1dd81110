//! A whole file in memory, for tools: read once, changed, and its changed pieces written back.
//!
//! The node never holds a whole file. A tool that walks every archive does: it reads the file once,
//! in order, and compares or merges two files without I/O. The caller opens, reads and writes the
//! file.

use std::ops::Range;

use crate::metric::point::Point;

use super::archive::{SLOT_BYTES, decode_interval, decode_value, index};
use super::fetch::Fetch;
use super::header::{HEADER_BYTES_MAX, Header, HeaderError};
use super::image::Transfer;
use super::update::{Bases, Outcome, Step, Update};

/// A file that can be trusted, and what was written to it here.
#[derive(Debug)]
pub struct WholeFile {
    header: Header,
    bytes: Vec<u8>,
    written: Vec<Range<usize>>,
    job: Update,
}

impl WholeFile {
    /// Takes all bytes of a file. Any bytes are safe; errors say why the file cannot be used.
    pub fn parse(bytes: Vec<u8>) -> Result<WholeFile, HeaderError> {
        let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let header = Header::parse(head, to_u64(bytes.len()))?;
        Ok(WholeFile { header, bytes, written: Vec::new(), job: Update::new() })
    }

    /// What the file says about itself.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The file as it is now.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The file as it is now, to keep.
    pub fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// Interval and value of every slot of an archive, in slot order; slots never written too.
    pub fn slots(&self, archive_index: usize) -> impl Iterator<Item = (u32, f64)> {
        let archive = &self.header.archives()[archive_index];
        let ring = &self.bytes[to_index(archive.slot_offset(0))..to_index(archive.end())];
        ring.chunks_exact(SLOT_BYTES).map(|slot| (decode_interval(slot), decode_value(slot)))
    }

    /// The values of a range, which was planned with this file's header. As many as there are
    /// steps, except for a range that is longer than its archive.
    pub fn values(&self, fetch: &Fetch) -> Vec<Option<f64>> {
        let base_s = decode_interval(self.piece(&fetch.base_read()));
        let mut bytes = Vec::new();
        for transfer in fetch.reads(base_s).transfers() {
            bytes.extend_from_slice(self.piece(transfer));
        }
        let mut values = Vec::new();
        fetch.decode(&bytes, &mut values);
        values
    }

    /// The known values of a range as points, oldest first.
    pub fn points(&self, fetch: &Fetch) -> Vec<Point> {
        let step = index(fetch.step_s());
        let timestamps = (fetch.from_s()..fetch.until_s()).step_by(step);
        let known = timestamps.zip(self.values(fetch)).filter_map(|(timestamp_s, value)| {
            // A known value was found under its interval, which is a u32 in the file.
            Some(Point { timestamp_s: u32::try_from(timestamp_s).ok()?, value: value? })
        });
        known.collect()
    }

    /// Writes points as a batch, see [`Update::begin_many`].
    pub fn update_many(&mut self, points: &[Point], now_s: u32) -> Outcome {
        self.job.begin_many(&self.header, &Bases::UNKNOWN, points, now_s);
        self.drive()
    }

    /// Writes points into one archive and the coarser ones, see [`Update::begin_archive`].
    pub fn update_archive(&mut self, archive_index: usize, points: &[Point]) -> Outcome {
        self.job.begin_archive(&self.header, &Bases::UNKNOWN, archive_index, points);
        self.drive()
    }

    /// What was written since the file was taken, as offsets in the file and their bytes: in
    /// order, each byte once.
    pub fn written(&mut self) -> impl Iterator<Item = (u64, &[u8])> {
        self.written.sort_unstable_by_key(|piece| piece.start);
        self.written.dedup_by(|next, kept| {
            let joins = next.start <= kept.end;
            if joins {
                kept.end = kept.end.max(next.end);
            }
            joins
        });
        self.written.iter().map(|piece| (to_u64(piece.start), &self.bytes[piece.clone()]))
    }

    fn drive(&mut self) -> Outcome {
        loop {
            match self.job.step() {
                Step::Read => {
                    let (transfers, arena) = self.job.reads();
                    for t in transfers {
                        let start = to_index(t.offset);
                        arena[t.start..][..t.len].copy_from_slice(&self.bytes[start..][..t.len]);
                    }
                }
                Step::Write => {
                    let (transfers, arena) = self.job.writes();
                    for t in transfers {
                        let start = to_index(t.offset);
                        self.bytes[start..][..t.len].copy_from_slice(&arena[t.start..][..t.len]);
                        note(&mut self.written, start..start + t.len);
                    }
                }
                Step::Done => return self.job.outcome(),
            }
        }
    }

    fn piece(&self, transfer: &Transfer) -> &[u8] {
        &self.bytes[to_index(transfer.offset)..][..transfer.len]
    }
}

/// Remembers a written piece. A row of small updates mostly writes beside or over its last piece.
fn note(written: &mut Vec<Range<usize>>, piece: Range<usize>) {
    match written.last_mut() {
        Some(last) if last.start <= piece.start && piece.start <= last.end => {
            last.end = last.end.max(piece.end);
        }
        _ => written.push(piece),
    }
}

/// An offset of a file that lies in memory.
fn to_index(offset: u64) -> usize {
    usize::try_from(offset).expect("the file lies in memory")
}

fn to_u64(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("memory is smaller than 2^64 bytes")
}
