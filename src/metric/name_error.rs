//! Why a name is refused.

use std::fmt;

/// Why a name is refused. The point that carried it is counted under this reason and dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum NameError {
    /// Nothing is left once leading separators and `~` are gone.
    Empty = 0,
    /// More than [`crate::limits::NAME_BYTES_MAX`] bytes, or a path beyond the kernel's limit.
    TooLong = 1,
    /// A component that does not fit into a file name.
    ComponentTooLong = 2,
    /// More than [`crate::limits::NAME_DEPTH_MAX`] components, or more tags than that.
    TooDeep = 3,
    /// NUL, another byte below 0x20, or 0x7f.
    ControlCharacter = 4,
    /// Not UTF-8.
    InvalidUtf8 = 5,
    /// An untagged name that spells the file of a tagged one (`_tagged.` and a hash).
    Reserved = 6,
}

impl NameError {
    /// All reasons, in the order of their numbers.
    pub const ALL: [NameError; 7] = [
        NameError::Empty,
        NameError::TooLong,
        NameError::ComponentTooLong,
        NameError::TooDeep,
        NameError::ControlCharacter,
        NameError::InvalidUtf8,
        NameError::Reserved,
    ];

    /// The reason as a word for counters: lower case, no blanks, never changed.
    pub fn label(self) -> &'static str {
        match self {
            NameError::Empty => "name_empty",
            NameError::TooLong => "name_too_long",
            NameError::ComponentTooLong => "name_component_too_long",
            NameError::TooDeep => "name_too_deep",
            NameError::ControlCharacter => "name_control_character",
            NameError::InvalidUtf8 => "name_invalid_utf8",
            NameError::Reserved => "name_reserved",
        }
    }
}

impl fmt::Display for NameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for NameError {}
