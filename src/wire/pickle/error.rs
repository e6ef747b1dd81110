//! Why a pickle or one of its items is of no use.

use std::fmt;

use super::opcode;

/// A pickle that cannot be decoded; nothing of it is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameError {
    /// What is wrong.
    pub fault: FrameFault,
    /// The opcode at `offset`; none if the frame ended where an opcode should stand.
    pub opcode: Option<u8>,
    /// Offset of the opcode in the frame, in bytes.
    pub offset: usize,
}

/// The kinds of [`FrameError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameFault {
    /// The frame is longer than [`super::FRAME_BYTES_MAX`].
    FrameTooLarge,
    /// The frame ends before STOP, or inside the bytes that an opcode announces.
    Truncated,
    /// The opcode names, builds or calls code, or needs buffers from outside.
    Refused,
    /// No protocol up to 5 has this opcode.
    UnknownOpcode,
    /// The pickle declares a protocol above 5.
    UnknownProtocol,
    /// A length is negative.
    NegativeLength,
    /// An integer has more bytes or digits than any float needs.
    LongNumber,
    /// The text is not a number.
    BadNumber,
    /// A text string lacks its quotes or has a broken escape.
    BadText,
    /// The opcode needs more objects than the stack holds above the last mark.
    StackUnderflow,
    /// The opcode needs a mark and there is none.
    NoMark,
    /// More marks are open than any sender nests.
    TooManyMarks,
    /// The memo has nothing under this index.
    MemoMissing,
    /// A memo index beyond the length of the frame.
    MemoIndex,
    /// The opcode adds to an object that is not of its kind.
    WrongContainer,
    /// A dict gets a key without a value.
    KeyWithoutValue,
    /// The frame builds more objects than [`super::arena_bytes_max`] has room for.
    ArenaFull,
    /// The pickle is sound, but it is not a list, tuple or set of items.
    NotASequence,
}

impl FrameFault {
    fn text(self) -> &'static str {
        match self {
            FrameFault::FrameTooLarge => "frame is too large",
            FrameFault::Truncated => "frame ends too early",
            FrameFault::Refused => "opcode is not data",
            FrameFault::UnknownOpcode => "no such opcode",
            FrameFault::UnknownProtocol => "protocol is above 5",
            FrameFault::NegativeLength => "length is negative",
            FrameFault::LongNumber => "number is too long",
            FrameFault::BadNumber => "text is not a number",
            FrameFault::BadText => "text has bad quotes or escapes",
            FrameFault::StackUnderflow => "stack has too few objects",
            FrameFault::NoMark => "stack has no mark",
            FrameFault::TooManyMarks => "too many open marks",
            FrameFault::MemoMissing => "memo has no such object",
            FrameFault::MemoIndex => "memo index is beyond the frame",
            FrameFault::WrongContainer => "object cannot take elements of this kind",
            FrameFault::KeyWithoutValue => "key has no value",
            FrameFault::ArenaFull => "too many objects for the frame's length",
            FrameFault::NotASequence => "pickle is not a list of items",
        }
    }
}

impl fmt::Display for FrameError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = self.fault.text();
        match self.opcode {
            Some(byte) => {
                let name = opcode::name(byte);
                write!(f, "{text}: opcode {name} (0x{byte:02x}) at byte {}", self.offset)
            }
            None => write!(f, "{text}: at byte {}", self.offset),
        }
    }
}

impl std::error::Error for FrameError {}

/// Why one item or one of its points is not used; the others are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemError {
    /// The item is not a tuple or list of a name and points, or a point not a pair.
    Shape,
    /// The name is neither a string nor bytes.
    Name,
    /// The timestamp is nothing that `float()` takes.
    Timestamp,
    /// The value is nothing that `float()` takes.
    Value,
    /// The frame repeats shared objects beyond [`super::read_bytes_max`]; the rest of it is lost.
    Repeated,
}

impl fmt::Display for ItemError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ItemError::Shape => "item is not a name with points",
            ItemError::Name => "name is not a string",
            ItemError::Timestamp => "timestamp is not a number",
            ItemError::Value => "value is not a number",
            ItemError::Repeated => "frame repeats its objects too often",
        })
    }
}

impl std::error::Error for ItemError {}
