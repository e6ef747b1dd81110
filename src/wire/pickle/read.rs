//! Reading a decoded pickle: sequences, strings and numbers.
//!
//! Numbers and strings are read from the frame again each time, at the offset of an opcode whose
//! arguments decoding has checked; so slicing here cannot fail. One reading costs at most
//! [`NUMBER_BYTES_MAX`], however often an object is shared.

use super::arena::{Arena, Tag, Value, to_index};
use super::error::FrameFault;
use super::opcode;
use crate::wire::number::parse_python_float;

/// Charge in bytes for reading one point or name, besides the bytes of its name.
const READ_POINT_BYTES: usize = 64;

/// Longest text or integer that is read as a number, in bytes.
///
/// The greatest finite float has 309 digits; the bound keeps shared numbers cheap to read again.
pub(super) const NUMBER_BYTES_MAX: usize = 512;

/// Greatest total charge for reading one frame, in bytes; a point costs 64 and its name's length.
///
/// A frame of 1 MB can hold one name of 4,000 bytes and name it 200,000 times, or one item of
/// 100,000 points and list it 100,000 times. 64 times the frame lets a name of 640 bytes be shared
/// by points of 11 bytes each, the smallest, and keeps reading linear.
pub const fn read_bytes_max(frame_bytes: usize) -> usize {
    frame_bytes.saturating_mul(READ_POINT_BYTES)
}

/// What remains of [`read_bytes_max`] while a frame is read.
#[derive(Debug, Clone)]
pub(in crate::wire) struct ReadBudget {
    bytes_left: usize,
}

impl ReadBudget {
    /// Pays for one use of `name`; false if the frame has used up its share.
    pub(in crate::wire) fn spend(&mut self, name: &[u8]) -> bool {
        let left = self.bytes_left.checked_sub(READ_POINT_BYTES + name.len());
        self.bytes_left = left.unwrap_or(0);
        left.is_some()
    }
}

/// A decoded pickle: its root and everything that hangs on it, borrowed from frame and decoder.
#[derive(Debug, Clone, Copy)]
pub(in crate::wire) struct Pickle<'a> {
    frame: &'a [u8],
    cells: &'a [u32],
    text: &'a [u8],
    root: Value,
}

impl<'a> Pickle<'a> {
    pub(super) fn new(frame: &'a [u8], arena: &'a Arena, root: Value) -> Pickle<'a> {
        Pickle { frame, cells: &arena.cells, text: &arena.text, root }
    }

    /// The object left on the stack at STOP.
    pub(in crate::wire) fn root(&self) -> Value {
        self.root
    }

    /// The budget for reading this pickle once.
    pub(in crate::wire) fn read_budget(&self) -> ReadBudget {
        ReadBudget { bytes_left: read_bytes_max(self.frame.len()) }
    }

    /// The elements of a tuple or list.
    pub(in crate::wire) fn sequence(&self, value: Value) -> Option<Elements<'a>> {
        match value.tag() {
            Tag::Tuple | Tag::Pair | Tag::List => Some(self.elements(value)),
            Tag::Scalar if self.frame[value.index()] == opcode::EMPTY_TUPLE => {
                Some(Elements::fixed(self.cells, 0, 0))
            }
            _ => None,
        }
    }

    /// The elements of a tuple, list or set.
    pub(in crate::wire) fn collection(&self, value: Value) -> Option<Elements<'a>> {
        match value.tag() {
            Tag::Set => Some(self.elements(value)),
            _ => self.sequence(value),
        }
    }

    /// The keys and values of a dict in turn, as they were set: the last of equal keys counts.
    pub(in crate::wire) fn dict(&self, value: Value) -> Option<Elements<'a>> {
        (value.tag() == Tag::Dict).then(|| self.elements(value))
    }

    fn elements(&self, value: Value) -> Elements<'a> {
        let at = value.index();
        match value.tag() {
            Tag::Pair => Elements::fixed(self.cells, at, 2),
            Tag::Tuple => Elements::fixed(self.cells, at + 1, to_index(self.cells[at])),
            _ => Elements::growing(self.cells, to_index(self.cells[at])),
        }
    }

    /// The bytes of a string or bytes object, not checked for UTF-8.
    pub(in crate::wire) fn bytes(&self, value: Value) -> Option<&'a [u8]> {
        let at = value.index();
        let buffer = match value.tag() {
            Tag::Scalar => return self.scalar_bytes(at),
            Tag::TextInFrame => self.frame,
            Tag::TextUnescaped => self.text,
            _ => return None,
        };
        let offset = to_index(self.cells[at]);
        Some(&buffer[offset..offset + to_index(self.cells[at + 1])])
    }

    /// The string or bytes whose opcode is at `at`; decoding has checked that all of it is there.
    fn scalar_bytes(&self, at: usize) -> Option<&'a [u8]> {
        use opcode::*;
        let (length_bytes, length) = match self.frame[at] {
            SHORT_BINSTRING | SHORT_BINUNICODE | SHORT_BINBYTES => {
                (1, usize::from(self.frame[at + 1]))
            }
            BINSTRING | BINUNICODE | BINBYTES => {
                (4, to_index(u32::from_le_bytes(self.argument(at))))
            }
            BINUNICODE8 | BINBYTES8 => {
                let length = u64::from_le_bytes(self.argument(at));
                (8, usize::try_from(length).expect("decoding compared it with the frame"))
            }
            _ => return None,
        };
        let start = at + 1 + length_bytes;
        Some(&self.frame[start..start + length])
    }

    /// What Python's `float()` makes of a number, boolean, string or bytes object.
    pub(in crate::wire) fn number(&self, value: Value) -> Option<f64> {
        if let Some(text) = self.bytes(value) {
            return if text.len() <= NUMBER_BYTES_MAX { parse_python_float(text) } else { None };
        }
        if value.tag() != Tag::Scalar {
            return None;
        }
        use opcode::*;
        let at = value.index();
        match self.frame[at] {
            NEWTRUE => Some(1.0),
            NEWFALSE => Some(0.0),
            BININT1 => Some(f64::from(self.frame[at + 1])),
            BININT2 => Some(f64::from(u16::from_le_bytes(self.argument(at)))),
            BININT => Some(f64::from(i32::from_le_bytes(self.argument(at)))),
            BINFLOAT => Some(f64::from_be_bytes(self.argument(at))),
            LONG1 => long_to_f64(self.slice(at + 2, usize::from(self.frame[at + 1]))),
            LONG4 => {
                let length = to_index(u32::from_le_bytes(self.argument(at)));
                long_to_f64(self.slice(at + 5, length))
            }
            code @ (INT | LONG) => parse_integer(code, line(&self.frame[at + 1..])?),
            FLOAT => parse_python_float(line(&self.frame[at + 1..])?),
            _ => None,
        }
    }

    fn slice(&self, start: usize, length: usize) -> &'a [u8] {
        &self.frame[start..start + length]
    }

    /// The `N` bytes behind the opcode at `at`.
    fn argument<const N: usize>(&self, at: usize) -> [u8; N] {
        *self.frame[at + 1..].first_chunk().expect("decoding has seen the argument")
    }
}

/// The elements of one object in order.
#[derive(Debug, Clone)]
pub(in crate::wire) struct Elements<'a> {
    cells: &'a [u32],
    /// Cell of the next element.
    next: usize,
    /// Elements left in this chunk.
    count: usize,
    /// This chunk and the last; equal for an object of one piece.
    chunk: usize,
    chunk_last: usize,
}

impl<'a> Elements<'a> {
    fn fixed(cells: &'a [u32], start: usize, count: usize) -> Elements<'a> {
        Elements { cells, next: start, count, chunk: 0, chunk_last: 0 }
    }

    fn growing(cells: &'a [u32], chunk_last: usize) -> Elements<'a> {
        if chunk_last == 0 {
            return Elements::fixed(cells, 0, 0);
        }
        let chunk = to_index(cells[chunk_last]);
        let count = to_index(cells[chunk + 1]);
        Elements { cells, next: chunk + 2, count, chunk, chunk_last }
    }

    /// True if the next call of `next` gives nothing.
    pub(in crate::wire) fn is_at_end(&self) -> bool {
        self.count == 0 && self.chunk == self.chunk_last
    }

    /// Exactly two elements, or nothing.
    pub(in crate::wire) fn pair(mut self) -> Option<(Value, Value)> {
        let pair = (self.next()?, self.next()?);
        self.is_at_end().then_some(pair)
    }
}

impl Iterator for Elements<'_> {
    type Item = Value;

    fn next(&mut self) -> Option<Value> {
        if self.count == 0 {
            if self.chunk == self.chunk_last {
                return None;
            }
            // Chunks are never empty.
            self.chunk = to_index(self.cells[self.chunk]);
            self.count = to_index(self.cells[self.chunk + 1]);
            self.next = self.chunk + 2;
        }
        self.count -= 1;
        self.next += 1;
        Some(Value(self.cells[self.next - 1]))
    }
}

/// The text up to the next LF.
pub(super) fn line(text: &[u8]) -> Option<&[u8]> {
    memchr::memchr(b'\n', text).map(|end| &text[..end])
}

/// The decimal integer of INT or LONG as `float()` of it; none if it is beyond every float.
fn parse_integer(opcode: u8, text: &[u8]) -> Option<f64> {
    let value = parse_python_float(integer_digits(opcode, text)?)?;
    // An integer has no negative zero; adding zero takes the sign away.
    value.is_finite().then_some(value + 0.0)
}

/// `text` without LONG's final `L` if it is a sign and decimal digits. `01` and `00` are INT's
/// booleans; other leading zeros mean octal to CPython, which reads that and hexadecimal here but
/// never writes it, so they are refused.
fn integer_digits(opcode: u8, text: &[u8]) -> Option<&[u8]> {
    let is_long = opcode == opcode::LONG;
    let number = if is_long { text.strip_suffix(b"L").unwrap_or(text) } else { text };
    let digits = number.strip_prefix(b"-").or(number.strip_prefix(b"+")).unwrap_or(number);
    let is_octal = digits.len() > 1 && digits[0] == b'0' && !matches!(text, b"00" | b"01");
    let is_decimal = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) && !is_octal;
    is_decimal.then_some(number)
}

/// A little-endian two's complement integer as `float()` of it; none beyond every float.
pub(super) fn long_to_f64(bytes: &[u8]) -> Option<f64> {
    let negative = bytes.last().is_some_and(|top| top & 0x80 != 0);
    let mut magnitude = [0; NUMBER_BYTES_MAX];
    let magnitude = magnitude.get_mut(..bytes.len()).expect("decoding refuses longer integers");
    magnitude.copy_from_slice(bytes);
    if negative {
        let mut carry = true;
        for byte in magnitude.iter_mut() {
            (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
        }
    }
    let used = magnitude.iter().rposition(|byte| *byte != 0).map_or(0, |top| top + 1);
    let below = used.saturating_sub(8);
    // The highest 8 bytes hold at least 57 bits; the lowest of them stands for all below, so the
    // one rounding to 53 bits is the right one.
    let head =
        magnitude[below..used].iter().rev().fold(0, |head, byte| head << 8 | u64::from(*byte));
    let sticky = magnitude[..below].iter().any(|byte| *byte != 0);
    let shift = i32::try_from(below * 8).expect("an integer has at most 512 bytes");
    let value = (head | u64::from(sticky)) as f64 * 2_f64.powi(shift);
    value.is_finite().then_some(if negative { -value } else { value })
}

/// Checks the text argument of a number's opcode, so that reading it cannot fail.
pub(super) fn check_number(opcode: u8, text: &[u8]) -> Result<(), FrameFault> {
    if text.len() > NUMBER_BYTES_MAX {
        return Err(FrameFault::LongNumber);
    }
    let sound = match opcode {
        opcode::FLOAT => parse_python_float(text).is_some(),
        _ => integer_digits(opcode, text).is_some(),
    };
    if sound { Ok(()) } else { Err(FrameFault::BadNumber) }
}
