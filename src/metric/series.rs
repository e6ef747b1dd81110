//! What a Whisper file looks like: archives, xFilesFactor and aggregation method.

use std::fmt;

use crate::limits::ARCHIVES_MAX;

/// How the points of a coarser archive are computed from the finer one.
/// Codes and names are Python whisper's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aggregation {
    /// Sum of the known values divided by their number.
    Average,
    /// Sum of the known values.
    Sum,
    /// The last known value.
    Last,
    /// The greatest known value.
    Max,
    /// The smallest known value.
    Min,
    /// Sum of the known values divided by the length of the window.
    AvgZero,
    /// The known value with the greatest absolute value.
    AbsMax,
    /// The known value with the smallest absolute value.
    AbsMin,
}

impl Aggregation {
    /// All methods in the order of their codes 1 to 8.
    pub const ALL: [Aggregation; 8] = [
        Aggregation::Average,
        Aggregation::Sum,
        Aggregation::Last,
        Aggregation::Max,
        Aggregation::Min,
        Aggregation::AvgZero,
        Aggregation::AbsMax,
        Aggregation::AbsMin,
    ];

    /// The number stored in a file's header.
    pub fn code(self) -> u32 {
        match self {
            Aggregation::Average => 1,
            Aggregation::Sum => 2,
            Aggregation::Last => 3,
            Aggregation::Max => 4,
            Aggregation::Min => 5,
            Aggregation::AvgZero => 6,
            Aggregation::AbsMax => 7,
            Aggregation::AbsMin => 8,
        }
    }

    /// The method with this code, if whisper knows it.
    pub fn from_code(code: u32) -> Option<Aggregation> {
        Self::ALL.into_iter().find(|method| method.code() == code)
    }

    /// Whisper's name of the method, as in storage-aggregation.conf.
    pub fn name(self) -> &'static str {
        match self {
            Aggregation::Average => "average",
            Aggregation::Sum => "sum",
            Aggregation::Last => "last",
            Aggregation::Max => "max",
            Aggregation::Min => "min",
            Aggregation::AvgZero => "avg_zero",
            Aggregation::AbsMax => "absmax",
            Aggregation::AbsMin => "absmin",
        }
    }

    /// The method with this (case-sensitive) name.
    pub fn from_name(name: &str) -> Option<Aggregation> {
        Self::ALL.into_iter().find(|method| method.name() == name)
    }
}

/// One archive: a point every `step_s` seconds, `slot_count` of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Seconds between two points.
    pub step_s: u32,
    /// Number of points kept.
    pub slot_count: u32,
}

impl Retention {
    /// Seconds covered by the archive.
    pub fn span_s(self) -> u64 {
        u64::from(self.step_s) * u64::from(self.slot_count)
    }
}

/// What a new file looks like.
#[derive(Debug, Clone, PartialEq)]
pub struct SeriesSpec {
    /// Archives in ascending step order; they satisfy [`check_archives`].
    pub retentions: Vec<Retention>,
    /// Share of known points a coarser point needs, 0 to 1.
    pub x_files_factor: f32,
    /// How coarser points are computed.
    pub aggregation: Aggregation,
}

/// Why a list of archives cannot make a Whisper file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ArchiveListError {
    /// The list is empty.
    Empty,
    /// More than [`ARCHIVES_MAX`] archives.
    TooMany,
    /// A zero step in front of another archive, or zero anywhere (stricter than whisper).
    Zero,
    /// Two archives with the same step.
    EqualSteps,
    /// A step that is no multiple of the finer one.
    NotAMultiple,
    /// A coarser archive that does not reach further back than the finer one.
    NotLonger,
    /// A finer archive with too few points to fill one point of the coarser one.
    TooFewPoints,
    /// The file would need offsets or a retention beyond 32 bits.
    TooLarge,
}

impl fmt::Display for ArchiveListError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ArchiveListError::Empty => "no archive",
            ArchiveListError::TooMany => return write!(f, "more than {ARCHIVES_MAX} archives"),
            ArchiveListError::Zero => "an archive with a step of 0 s or with 0 points",
            ArchiveListError::EqualSteps => "two archives with the same step",
            ArchiveListError::NotAMultiple => {
                "the step of an archive is no multiple of the step of the finer one"
            }
            ArchiveListError::NotLonger => {
                "an archive does not reach further back than the finer one"
            }
            ArchiveListError::TooFewPoints => {
                "an archive has too few points to fill one of the coarser archive"
            }
            ArchiveListError::TooLarge => "the file would be too large for whisper",
        })
    }
}

impl std::error::Error for ArchiveListError {}

/// Checks a list sorted by step against whisper's rules of creation (whisper.py
/// `validateArchiveList`), and against zero steps and counts, which whisper lets pass.
pub fn check_archives(retentions: &[Retention]) -> Result<(), ArchiveListError> {
    if retentions.is_empty() {
        return Err(ArchiveListError::Empty);
    }
    if retentions.len() > ARCHIVES_MAX {
        return Err(ArchiveListError::TooMany);
    }
    if retentions.iter().any(|retention| retention.step_s == 0 || retention.slot_count == 0) {
        return Err(ArchiveListError::Zero);
    }
    for pair in retentions.windows(2) {
        let (fine, coarse) = (pair[0], pair[1]);
        if fine.step_s >= coarse.step_s {
            return Err(ArchiveListError::EqualSteps);
        }
        if coarse.step_s % fine.step_s != 0 {
            return Err(ArchiveListError::NotAMultiple);
        }
        if coarse.span_s() <= fine.span_s() {
            return Err(ArchiveListError::NotLonger);
        }
        if fine.slot_count < coarse.step_s / fine.step_s {
            return Err(ArchiveListError::TooFewPoints);
        }
    }
    let slot_total: u64 = retentions.iter().map(|r| u64::from(r.slot_count)).sum();
    let file_bytes = 16 + 12 * retentions.len() as u64 + 12 * slot_total;
    let span_s_max = retentions.iter().map(|r| r.span_s()).max().unwrap_or(0);
    if file_bytes > u64::from(u32::MAX) || span_s_max > u64::from(u32::MAX) {
        return Err(ArchiveListError::TooLarge);
    }
    Ok(())
}
