//! Why a pattern is refused, and the message that says so.

use std::fmt;

use crate::limits::{
    GLOB_ALTERNATIVES_MAX, GLOB_BYTES_MAX, GLOB_EXPANDED_BYTES_MAX, GLOB_SEGMENTS_MAX,
};

/// Why a pattern is refused; `at` counts bytes from its beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GlobError {
    /// The pattern has no segment.
    Empty,
    /// More than [`GLOB_BYTES_MAX`] bytes, with the count.
    TooLong(usize),
    /// A byte that is not UTF-8.
    InvalidUtf8 {
        /// Its place.
        at: usize,
    },
    /// More than [`GLOB_SEGMENTS_MAX`] segments.
    TooDeep {
        /// Start of the first segment beyond the limit.
        at: usize,
    },
    /// Segments and braces that expand to more than [`GLOB_ALTERNATIVES_MAX`] texts.
    TooManyAlternatives {
        /// The byte or segment that exceeds the limit.
        at: usize,
    },
    /// Braces that expand to more than [`GLOB_EXPANDED_BYTES_MAX`] bytes.
    TooMuchText {
        /// The byte that exceeds the limit.
        at: usize,
    },
}

impl fmt::Display for GlobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            GlobError::Empty => f.write_str("the pattern is empty"),
            GlobError::TooLong(bytes) => {
                write!(f, "the pattern has {bytes} bytes, more than {GLOB_BYTES_MAX}")
            }
            GlobError::InvalidUtf8 { at } => write!(f, "not UTF-8 at byte {at}"),
            GlobError::TooDeep { at } => {
                write!(f, "more than {GLOB_SEGMENTS_MAX} segments at byte {at}")
            }
            GlobError::TooManyAlternatives { at } => {
                write!(f, "braces of more than {GLOB_ALTERNATIVES_MAX} alternatives at byte {at}")
            }
            GlobError::TooMuchText { at } => {
                write!(
                    f,
                    "braces of more than {GLOB_EXPANDED_BYTES_MAX} bytes of text at byte {at}"
                )
            }
        }
    }
}

impl std::error::Error for GlobError {}
