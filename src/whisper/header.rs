//! The header of a file: parsing, validation, encoding.
//!
//! Every `Header` satisfies: 1 to `ARCHIVES_MAX` archives, no zero step or count, steps ascend,
//! archives follow the header in order without overlap and end within the file. So no later code
//! checks offsets. Python whisper opens files that break these rules, but writes none.

use std::fmt;

use crate::limits::ARCHIVES_MAX;
use crate::metric::series::{Aggregation, ArchiveListError, SeriesSpec, check_archives};

use super::archive::Archive;

/// Bytes in front of the list of archives.
pub const METADATA_BYTES: usize = 16;

/// Bytes of one entry in the list of archives.
const ENTRY_BYTES: usize = 12;

/// Bytes of the longest accepted header: reading this many from the start of a file is enough for
/// [`Header::parse`].
pub const HEADER_BYTES_MAX: usize = METADATA_BYTES + ENTRY_BYTES * ARCHIVES_MAX;

/// Longest file that is made ([`check_archives`]), so also the longest that is accepted: what an
/// update or a fetch may hold in memory is bounded by it, and a file with holes costs its author
/// nothing, however long it claims to be.
const FILE_BYTES_MAX: u64 = u32::MAX as u64;

/// How go-whisper's compressed files begin.
const COMPRESSED_MAGIC: &[u8] = b"whisper_compressed";

const NO_ARCHIVE: Archive = Archive { offset: 0, step_s: 0, slot_count: 0 };

/// What a file says about itself. Plain data of about 210 bytes, no heap.
#[derive(Debug, Clone, PartialEq)]
pub struct Header {
    /// How coarser points are computed.
    pub aggregation: Aggregation,
    /// Seconds covered by the file as its header says, which is not checked against the archives:
    /// it bounds single updates and fetches, as in whisper.
    pub retention_s_max: u32,
    /// Share of known points a coarser point needs, 0 to 1.
    pub x_files_factor: f32,
    archives: [Archive; ARCHIVES_MAX],
    archive_count: usize,
}

impl Header {
    /// Stands where no file is named yet: the only header without archives.
    pub(super) const BLANK: Header = Header {
        aggregation: Aggregation::Average,
        retention_s_max: 0,
        x_files_factor: 0.0,
        archives: [NO_ARCHIVE; ARCHIVES_MAX],
        archive_count: 0,
    };

    /// The archive that a point of this age goes to: the finest that reaches back to it.
    pub fn archive_of_age(&self, age_s: u32) -> Option<usize> {
        self.archives().iter().position(|archive| archive.span_s() >= u64::from(age_s))
    }

    /// The header of a new file; archives follow one another in ascending step order. Errors when
    /// the list of archives is one whisper would refuse (see `check_archives`).
    pub fn new(spec: &SeriesSpec) -> Result<Header, ArchiveListError> {
        check_archives(&spec.retentions)?;
        debug_assert!((0.0..=1.0).contains(&spec.x_files_factor), "{}", spec.x_files_factor);
        let mut archives = [NO_ARCHIVE; ARCHIVES_MAX];
        let mut offset = header_bytes(spec.retentions.len());
        let mut retention_s_max = 0;
        for (archive, retention) in archives.iter_mut().zip(&spec.retentions) {
            *archive = Archive {
                offset: u32::try_from(offset).map_err(|_| ArchiveListError::TooLarge)?,
                step_s: retention.step_s,
                slot_count: retention.slot_count,
            };
            offset = archive.end();
            retention_s_max = retention_s_max.max(retention.span_s());
        }
        Ok(Header {
            aggregation: spec.aggregation,
            retention_s_max: u32::try_from(retention_s_max)
                .map_err(|_| ArchiveListError::TooLarge)?,
            x_files_factor: spec.x_files_factor,
            archives,
            archive_count: spec.retentions.len(),
        })
    }

    /// Reads the header of a file of `file_bytes` bytes from its first bytes, as many as there are
    /// up to [`HEADER_BYTES_MAX`]. Any bytes are safe. Errors say why the file cannot be used.
    pub fn parse(bytes: &[u8], file_bytes: u64) -> Result<Header, HeaderError> {
        if bytes.is_empty() {
            return Err(HeaderError::Empty);
        }
        if bytes.starts_with(COMPRESSED_MAGIC) {
            return Err(HeaderError::Compressed);
        }
        if bytes.len() < METADATA_BYTES {
            return Err(HeaderError::TooShort);
        }
        let code = u32_at(bytes, 0);
        let aggregation = Aggregation::from_code(code).ok_or(HeaderError::BadAggregation(code))?;
        let x_files_factor = f32::from_bits(u32_at(bytes, 8));
        if !(0.0..=1.0).contains(&x_files_factor) {
            return Err(HeaderError::BadXFilesFactor);
        }
        let (archives, archive_count) = parse_archives(bytes)?;
        let header = Header {
            aggregation,
            retention_s_max: u32_at(bytes, 4),
            x_files_factor,
            archives,
            archive_count,
        };
        if header.file_bytes() > file_bytes {
            let needed = header.file_bytes();
            return Err(HeaderError::FileTooShort { needed, found: file_bytes });
        }
        if header.file_bytes() > FILE_BYTES_MAX {
            return Err(HeaderError::TooLarge(header.file_bytes()));
        }
        Ok(header)
    }

    /// The archives, finest first; at least one.
    pub fn archives(&self) -> &[Archive] {
        &self.archives[..self.archive_count]
    }

    /// Bytes in front of the first slot of a file this header is written to.
    pub fn header_bytes(&self) -> u64 {
        header_bytes(self.archive_count)
    }

    /// Bytes up to the end of the last archive: the length of a new file, and at most the length
    /// of a parsed one. No transfer of this module reaches beyond it.
    pub fn file_bytes(&self) -> u64 {
        self.archives().last().map_or(0, Archive::end)
    }

    /// Appends the whole header, [`Header::header_bytes`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.encode_metadata16());
        for archive in self.archives() {
            for field in [archive.offset, archive.step_s, archive.slot_count] {
                out.extend_from_slice(&field.to_be_bytes());
            }
        }
    }

    /// The bytes in front of the list of archives. Writing them at offset 0 changes the method and
    /// the xFilesFactor of a file and nothing else.
    pub fn encode_metadata16(&self) -> [u8; METADATA_BYTES] {
        let archive_count = u32::try_from(self.archive_count).expect("at most ARCHIVES_MAX");
        let mut bytes = [0; METADATA_BYTES];
        bytes[0..4].copy_from_slice(&self.aggregation.code().to_be_bytes());
        bytes[4..8].copy_from_slice(&self.retention_s_max.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.x_files_factor.to_be_bytes());
        bytes[12..16].copy_from_slice(&archive_count.to_be_bytes());
        bytes
    }
}

/// Why a file cannot be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeaderError {
    /// The file has no bytes; a create that was cut off leaves such a file.
    Empty,
    /// The file ends inside its header.
    TooShort,
    /// A file in go-whisper's compressed format, which only go-carbon reads.
    Compressed,
    /// An aggregation code that whisper does not know.
    BadAggregation(u32),
    /// An xFilesFactor outside 0 to 1, or NaN.
    BadXFilesFactor,
    /// The header lists no archive.
    NoArchives,
    /// The header claims more archives than `ARCHIVES_MAX`.
    TooManyArchives(u32),
    /// An archive with a step of 0 seconds.
    ZeroStep,
    /// An archive without slots.
    ZeroPoints,
    /// An archive whose step is not greater than that of the archive in front of it.
    StepsNotAscending,
    /// An archive reaches back further than 32 bits of seconds: none of its slots can be valid.
    RetentionTooLong,
    /// An archive that starts inside the header or inside the archive in front of it.
    Overlapping,
    /// The archives end behind what 32-bit offsets reach.
    TooLarge(u64),
    /// The file ends before its last archive does.
    FileTooShort {
        /// Bytes up to the end of the last archive.
        needed: u64,
        /// Bytes in the file.
        found: u64,
    },
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Empty => f.write_str("empty file"),
            HeaderError::TooShort => f.write_str("end of file inside the header"),
            HeaderError::Compressed => f.write_str("compressed go-whisper file"),
            HeaderError::BadAggregation(code) => write!(f, "unknown aggregation code {code}"),
            HeaderError::BadXFilesFactor => f.write_str("xFilesFactor outside 0 to 1"),
            HeaderError::NoArchives => f.write_str("header without archives"),
            HeaderError::TooManyArchives(count) => {
                write!(f, "{count} archives, more than the {ARCHIVES_MAX} allowed")
            }
            HeaderError::ZeroStep => f.write_str("archive with a step of 0 seconds"),
            HeaderError::ZeroPoints => f.write_str("archive with 0 points"),
            HeaderError::StepsNotAscending => f.write_str("archives not in ascending step order"),
            HeaderError::RetentionTooLong => f.write_str("archive longer than 32 bits of seconds"),
            HeaderError::Overlapping => {
                f.write_str("archive offset inside the header or another archive")
            }
            HeaderError::TooLarge(end) => write!(f, "archives up to byte {end}, beyond 32 bits"),
            HeaderError::FileTooShort { needed, found } => {
                write!(f, "file of {found} bytes with archives up to byte {needed}")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

/// The list of archives, checked against everything but the length of the file.
fn parse_archives(bytes: &[u8]) -> Result<([Archive; ARCHIVES_MAX], usize), HeaderError> {
    let claimed_count = u32_at(bytes, 12);
    let archive_count = usize::try_from(claimed_count)
        .ok()
        .filter(|count| *count <= ARCHIVES_MAX)
        .ok_or(HeaderError::TooManyArchives(claimed_count))?;
    if archive_count == 0 {
        return Err(HeaderError::NoArchives);
    }
    let entries = bytes
        .get(METADATA_BYTES..METADATA_BYTES + ENTRY_BYTES * archive_count)
        .ok_or(HeaderError::TooShort)?;
    let mut archives = [NO_ARCHIVE; ARCHIVES_MAX];
    let (mut step_s_min, mut offset_min) = (0, header_bytes(archive_count));
    for (archive, entry) in archives.iter_mut().zip(entries.chunks_exact(ENTRY_BYTES)) {
        *archive = Archive {
            offset: u32_at(entry, 0),
            step_s: u32_at(entry, 4),
            slot_count: u32_at(entry, 8),
        };
        if archive.step_s == 0 {
            return Err(HeaderError::ZeroStep);
        }
        if archive.slot_count == 0 {
            return Err(HeaderError::ZeroPoints);
        }
        if archive.step_s <= step_s_min {
            return Err(HeaderError::StepsNotAscending);
        }
        if archive.span_s() > u64::from(u32::MAX) {
            return Err(HeaderError::RetentionTooLong);
        }
        if u64::from(archive.offset) < offset_min {
            return Err(HeaderError::Overlapping);
        }
        (step_s_min, offset_min) = (archive.step_s, archive.end());
    }
    Ok((archives, archive_count))
}

fn header_bytes(archive_count: usize) -> u64 {
    let bytes = METADATA_BYTES + ENTRY_BYTES * archive_count;
    u64::try_from(bytes).expect("at most HEADER_BYTES_MAX")
}

fn u32_at(bytes: &[u8], start: usize) -> u32 {
    let field: [u8; 4] = bytes[start..start + 4].try_into().expect("4 bytes were cut");
    u32::from_be_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metric::series::Retention;

    fn header(shape: &[(u32, u32)]) -> Header {
        let retentions = shape
            .iter()
            .map(|(step_s, slot_count)| Retention { step_s: *step_s, slot_count: *slot_count });
        let spec = SeriesSpec {
            retentions: retentions.collect(),
            x_files_factor: 0.3,
            aggregation: Aggregation::Sum,
        };
        Header::new(&spec).expect("valid archives")
    }

    fn encoded(header: &Header) -> Vec<u8> {
        let mut bytes = Vec::new();
        header.encode(&mut bytes);
        bytes
    }

    #[test]
    fn new_files_are_laid_out_back_to_back() {
        let header = header(&[(10, 6), (60, 5), (300, 4)]);
        let offsets: Vec<u32> = header.archives().iter().map(|archive| archive.offset).collect();
        assert_eq!(offsets, [52, 124, 184]);
        assert_eq!((header.header_bytes(), header.file_bytes()), (52, 232));
        assert_eq!(header.retention_s_max, 1_200);
        let bytes = encoded(&header);
        assert_eq!(bytes[..16], [0, 0, 0, 2, 0, 0, 4, 0xb0, 0x3e, 0x99, 0x99, 0x9a, 0, 0, 0, 3]);
        assert_eq!(Header::parse(&bytes, 232), Ok(header));
    }

    #[test]
    fn parse_refuses_what_cannot_be_used() {
        let good = encoded(&header(&[(10, 6), (60, 5)]));
        let file_bytes = header(&[(10, 6), (60, 5)]).file_bytes();
        let check = |patches: &[(usize, u32)], want: Result<(), HeaderError>| {
            let mut bytes = good.clone();
            for (start, field) in patches {
                bytes[*start..start + 4].copy_from_slice(&field.to_be_bytes());
            }
            assert_eq!(Header::parse(&bytes, file_bytes).map(|_| ()), want, "{patches:?}");
        };
        check(&[], Ok(()));
        check(&[(0, 0)], Err(HeaderError::BadAggregation(0)));
        check(&[(0, 8)], Ok(()));
        check(&[(0, 9)], Err(HeaderError::BadAggregation(9)));
        check(&[(4, 0)], Ok(()));
        check(&[(8, 1.0_f32.to_bits())], Ok(()));
        check(&[(8, 1.000_001_f32.to_bits())], Err(HeaderError::BadXFilesFactor));
        check(&[(8, (-0.0_f32).to_bits())], Ok(()));
        check(&[(8, f32::NAN.to_bits())], Err(HeaderError::BadXFilesFactor));
        check(&[(12, 0)], Err(HeaderError::NoArchives));
        check(&[(12, 3)], Err(HeaderError::TooShort));
        check(&[(12, 17)], Err(HeaderError::TooManyArchives(17)));
        check(&[(12, u32::MAX)], Err(HeaderError::TooManyArchives(u32::MAX)));
        check(&[(16, 39)], Err(HeaderError::Overlapping));
        check(&[(16, 41)], Err(HeaderError::Overlapping));
        check(&[(20, 0)], Err(HeaderError::ZeroStep));
        check(&[(24, 0)], Err(HeaderError::ZeroPoints));
        check(&[(32, 10)], Err(HeaderError::StepsNotAscending));
        check(&[(32, 11)], Ok(()));
        check(&[(36, 4)], Ok(()));
        let needed = file_bytes + 12;
        check(&[(36, 6)], Err(HeaderError::FileTooShort { needed, found: file_bytes }));
        check(&[(28, u32::MAX), (36, u32::MAX)], Err(HeaderError::RetentionTooLong));
        check(&[(32, u32::MAX / 5 + 1)], Err(HeaderError::RetentionTooLong));
        check(&[(32, u32::MAX / 5)], Ok(()));
    }

    #[test]
    fn what_a_file_with_holes_claims_is_bounded() {
        let mut bytes = encoded(&header(&[(1, 5)]));
        let mut check = |slot_count: u32, want: Result<(), HeaderError>| {
            bytes[24..28].copy_from_slice(&slot_count.to_be_bytes());
            assert_eq!(Header::parse(&bytes, u64::MAX).map(|_| ()), want, "{slot_count}");
        };
        check(357_913_938, Ok(()));
        check(357_913_939, Err(HeaderError::TooLarge(4_294_967_296)));
        check(u32::MAX, Err(HeaderError::TooLarge(51_539_607_568)));
    }

    #[test]
    fn parse_needs_the_whole_header() {
        let good = encoded(&header(&[(10, 6), (60, 5)]));
        assert_eq!(Header::parse(&[], 0), Err(HeaderError::Empty));
        for cut in 1..good.len() {
            assert_eq!(Header::parse(&good[..cut], 1_000), Err(HeaderError::TooShort), "{cut}");
        }
        let magic = b"whisper_compressed\0\0";
        assert_eq!(Header::parse(magic, 1_000), Err(HeaderError::Compressed));
    }

    #[test]
    fn the_longest_header_fits() {
        let shape: Vec<(u32, u32)> = (0..16).map(|level| (1 << level, 100)).collect();
        let header = header(&shape);
        assert_eq!(encoded(&header).len(), HEADER_BYTES_MAX);
        assert_eq!(Header::parse(&encoded(&header), header.file_bytes()), Ok(header));
    }
}
