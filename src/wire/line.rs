//! The plaintext protocol: `name value timestamp`, one point a line.
//!
//! The grammar is carbon's over bytes: three fields between runs of blanks, numbers as Python's
//! `float()` reads them in ASCII. Two things differ on purpose: bytes that are not UTF-8 cost
//! their own line (the name is refused later) instead of the connection, and only ASCII blanks
//! separate. Lines come from a receive buffer; what leaves is a [`RawLine`], whose name is to be
//! brought into canonical form and whose numbers are to be admitted by `metric`.
//!
//! Sketch of the cost of a usual line of 56 bytes: one search for the LF in 32-byte steps, four
//! 8-byte steps over the name, a loop over some 5 digits of the value and 10 of the timestamp.

use std::fmt;

use memchr::Memchr;

use crate::limits::LINE_BYTES_MAX;
use crate::wire::number::parse_python_float;

/// Earliest timestamp that an unterminated last line of a datagram may carry.
///
/// The sender may have cut the line short, and a number cut short is still a number. A timestamp
/// of today has ten digits; with one missing it lies before this one (2001-09-09 01:46:40), so a
/// line at or after it cannot have lost a digit.
pub const UNTERMINATED_TIMESTAMP_MIN: f64 = 1_000_000_000.0;

/// The fields of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RawLine<'a> {
    /// The name as received: not empty, without blanks, otherwise any bytes.
    pub name: &'a [u8],
    /// The value; may be NaN or infinite.
    pub value: f64,
    /// Seconds since the Unix epoch; any number, also NaN.
    pub timestamp: f64,
}

/// Why a line is not a point. Counted under this reason; the connection goes on, except for
/// [`LineError::TooLong`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum LineError {
    /// Nothing but blanks. Not worth a counter: every peer ignores such lines.
    Empty = 0,
    /// Fewer or more than three fields.
    FieldCount = 1,
    /// The second field is no number.
    BadValue = 2,
    /// The third field is no number.
    BadTimestamp = 3,
    /// More than [`LINE_BYTES_MAX`] bytes without an LF.
    TooLong = 4,
    /// The last line of a datagram, without its LF and possibly without its last digits.
    CutShort = 5,
}

impl LineError {
    /// All reasons, in the order of their numbers.
    pub const ALL: [LineError; 6] = [
        LineError::Empty,
        LineError::FieldCount,
        LineError::BadValue,
        LineError::BadTimestamp,
        LineError::TooLong,
        LineError::CutShort,
    ];

    /// The reason as a word for counters: lower case, no blanks, never changed.
    pub fn label(self) -> &'static str {
        match self {
            LineError::Empty => "line_empty",
            LineError::FieldCount => "line_field_count",
            LineError::BadValue => "line_bad_value",
            LineError::BadTimestamp => "line_bad_timestamp",
            LineError::TooLong => "line_too_long",
            LineError::CutShort => "line_cut_short",
        }
    }
}

impl fmt::Display for LineError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for LineError {}

/// The complete lines of a buffer, each without its LF or CRLF.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    buffer: &'a [u8],
    ends: Memchr<'a>,
    consumed_bytes: usize,
}

impl<'a> Lines<'a> {
    /// The lines of `buffer`, which begins at the start of a line.
    pub fn new(buffer: &'a [u8]) -> Lines<'a> {
        Lines { buffer, ends: memchr::memchr_iter(b'\n', buffer), consumed_bytes: 0 }
    }

    /// Bytes of the lines yielded so far, with their ends.
    pub fn consumed_bytes(&self) -> usize {
        self.consumed_bytes
    }

    /// What follows the lines yielded so far. After the last line this is an unterminated one: a
    /// stream keeps it for the next read, a datagram hands it to [`parse_unterminated`].
    ///
    /// # Errors
    /// [`LineError::TooLong`] when these bytes can no longer become a line that is short enough.
    pub fn rest(&self) -> Result<&'a [u8], LineError> {
        let rest = &self.buffer[self.consumed_bytes..];
        // One more for the CR that may stand before the LF.
        if rest.len() > LINE_BYTES_MAX + 1 { Err(LineError::TooLong) } else { Ok(rest) }
    }
}

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = self.ends.next()?;
        let line = &self.buffer[self.consumed_bytes..end];
        self.consumed_bytes = end + 1;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    }
}

/// The fields of a line, given without its end.
///
/// # Errors
/// The first of [`LineError`] that applies: length, then field count, then value, then timestamp.
pub fn parse(line: &[u8]) -> Result<RawLine<'_>, LineError> {
    if line.len() > LINE_BYTES_MAX {
        return Err(LineError::TooLong);
    }
    match parse_plain(line) {
        Some(raw) => Ok(raw),
        None => parse_general(line),
    }
}

/// The fields of the unterminated last line of a datagram. `is_truncated` says that the datagram
/// was longer than what was received of it.
///
/// # Errors
/// As [`parse`], and [`LineError::CutShort`] where the last digits may be missing: see
/// [`UNTERMINATED_TIMESTAMP_MIN`].
pub fn parse_unterminated(line: &[u8], is_truncated: bool) -> Result<RawLine<'_>, LineError> {
    let raw = parse(line.strip_suffix(b"\r").unwrap_or(line))?;
    if is_truncated || raw.timestamp < UNTERMINATED_TIMESTAMP_MIN {
        return Err(LineError::CutShort);
    }
    Ok(raw)
}

/// Most digits of a number that is read by hand: 10^15 is below 2^53, so the digits are an exact
/// f64, as is a power of ten up to 10^22. One division of two exact numbers rounds correctly.
const PLAIN_DIGITS_MAX: usize = 15;

/// 10^i.
const POWERS_OF_TEN: [f64; PLAIN_DIGITS_MAX + 1] =
    [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15];

/// A line with single spaces, a short decimal value and a timestamp of digits only. Everything
/// else, right or wrong, is left to [`parse_general`].
fn parse_plain(line: &[u8]) -> Option<RawLine<'_>> {
    let name_end = control_or_space(line)?;
    if name_end == 0 || line[name_end] != b' ' {
        return None;
    }
    let (name, rest) = line.split_at(name_end);
    let (value, timestamp) = plain_value(&rest[1..])?;
    Some(RawLine { name, value, timestamp: plain_timestamp(timestamp)? })
}

/// A short decimal number and what follows the one space behind it.
fn plain_value(text: &[u8]) -> Option<(f64, &[u8])> {
    let (is_negative, number) = match text.strip_prefix(b"-") {
        Some(number) => (true, number),
        None => (false, text),
    };
    let mut digits: u64 = 0;
    let mut point = None;
    // The digits, a point and the space.
    for (at, &byte) in number.iter().enumerate().take(PLAIN_DIGITS_MAX + 2) {
        let digit = byte.wrapping_sub(b'0');
        if digit < 10 {
            digits = digits * 10 + u64::from(digit);
        } else if byte == b'.' && point.is_none() {
            point = Some(at);
        } else if byte == b' ' {
            let fraction_digits = point.map_or(0, |point| at - point - 1);
            let digit_count = at - usize::from(point.is_some());
            if digit_count == 0 || digit_count > PLAIN_DIGITS_MAX {
                return None;
            }
            let magnitude = digits as f64 / POWERS_OF_TEN[fraction_digits];
            let value = if is_negative { -magnitude } else { magnitude };
            return Some((value, &number[at + 1..]));
        } else {
            return None;
        }
    }
    None
}

/// A timestamp of digits only.
fn plain_timestamp(text: &[u8]) -> Option<f64> {
    if text.is_empty() || text.len() > PLAIN_DIGITS_MAX {
        return None;
    }
    let mut digits: u64 = 0;
    for &byte in text {
        let digit = byte.wrapping_sub(b'0');
        if digit >= 10 {
            return None;
        }
        digits = digits * 10 + u64::from(digit);
    }
    Some(digits as f64)
}

/// Where the first byte up to 0x20 stands: all blanks are among them.
fn control_or_space(line: &[u8]) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([0x01; 8]);
    const HIGH_BITS: u64 = u64::from_ne_bytes([0x80; 8]);
    let (words, tail) = line.as_chunks::<8>();
    for (index, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // A byte borrows into its high bit if it is below 0x21; the lowest such bit is exact.
        let found = word.wrapping_sub(ONES * 0x21) & !word & HIGH_BITS;
        if found != 0 {
            return Some(index * 8 + found.trailing_zeros() as usize / 8);
        }
    }
    let at = tail.iter().position(|&byte| byte <= b' ')?;
    Some(words.len() * 8 + at)
}

/// The whole grammar.
fn parse_general(line: &[u8]) -> Result<RawLine<'_>, LineError> {
    let mut fields = line.split(|&byte| is_blank(byte)).filter(|field| !field.is_empty());
    let name = fields.next().ok_or(LineError::Empty)?;
    let value = fields.next().ok_or(LineError::FieldCount)?;
    let timestamp = fields.next().ok_or(LineError::FieldCount)?;
    if fields.next().is_some() {
        return Err(LineError::FieldCount);
    }
    let value = parse_python_float(value).ok_or(LineError::BadValue)?;
    let timestamp = parse_python_float(timestamp).ok_or(LineError::BadTimestamp)?;
    Ok(RawLine { name, value, timestamp })
}

/// Blanks of the C locale other than the LF.
fn is_blank(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | 0x0b | 0x0c | b'\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(line: &str, want: Result<(&str, f64, f64), LineError>) {
        let got = parse(line.as_bytes());
        let want = want.map(|(name, value, timestamp)| (name.as_bytes(), value, timestamp));
        assert_eq!(got.map(|raw| (raw.name, raw.value, raw.timestamp)), want, "{line:?}");
    }

    #[test]
    fn fields() {
        check("a.b 1 2", Ok(("a.b", 1.0, 2.0)));
        check("  a.b\t 1\x0b2 \x0c\r", Ok(("a.b", 1.0, 2.0)));
        check("a\t1 2", Ok(("a", 1.0, 2.0)));
        check("a\t 1 2", Ok(("a", 1.0, 2.0)));
        check("a 1  2", Ok(("a", 1.0, 2.0)));
        check("a 1 2 ", Ok(("a", 1.0, 2.0)));
        check("a\0b 1 2", Ok(("a\0b", 1.0, 2.0)));
        check("a;b=c 1 2", Ok(("a;b=c", 1.0, 2.0)));
        check("", Err(LineError::Empty));
        check(" \t", Err(LineError::Empty));
        check("a", Err(LineError::FieldCount));
        check("a 1", Err(LineError::FieldCount));
        check("a 1 2 3", Err(LineError::FieldCount));
        check("a\tb 1 2", Err(LineError::FieldCount));
        check("a\u{a0}1\u{a0}2", Err(LineError::FieldCount));
        check("a x 2", Err(LineError::BadValue));
        check("a . 2", Err(LineError::BadValue));
        check("a - 2", Err(LineError::BadValue));
        check("a 1 x", Err(LineError::BadTimestamp));
        check("a 1 N", Err(LineError::BadTimestamp));
    }

    #[test]
    fn values() {
        for text in ["0", "7", "-7", "+7", "1.5", ".5", "5.", "-.5", "0.1", "0.3", "1e3", "1E-3"] {
            check(&format!("a {text} 2"), Ok(("a", text.parse().unwrap(), 2.0)));
        }
        let long = ["999999999999999", "0.99999999999999", "-99999999.9999999", ".999999999999999"];
        let longer = ["9999999999999999", "0.9999999999999999", "123456789012345678901234567890"];
        for text in long.iter().chain(&longer) {
            check(&format!("a {text} 2"), Ok(("a", text.parse().unwrap(), 2.0)));
        }
        check("a 1_000 2", Ok(("a", 1000.0, 2.0)));
        check("a inf 2", Ok(("a", f64::INFINITY, 2.0)));
        check("a -Infinity 2", Ok(("a", f64::NEG_INFINITY, 2.0)));
        check("a 1e400 2", Ok(("a", f64::INFINITY, 2.0)));
        for bad in ["0x10", "1,5", "\"1\"", "1..2", "1_", "_1", "1__0", "true", "1-", "--1"] {
            check(&format!("a {bad} 2"), Err(LineError::BadValue));
        }
        assert!(parse(b"a nan 2").is_ok_and(|raw| raw.value.is_nan()));
        assert!(parse(b"a -0 2").is_ok_and(|raw| raw.value.to_bits() == (-0.0_f64).to_bits()));
    }

    #[test]
    fn values_read_by_hand_are_those_of_the_standard_library() {
        let mut state = 1_u64;
        for _ in 0..20_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let digits = (state >> 14) % 10_u64.pow(1 + u32::try_from(state % 15).unwrap());
            let mut text = digits.to_string();
            text.insert(usize::try_from(state >> 33).unwrap() % (text.len() + 1), '.');
            check(&format!("a {text} 2"), Ok(("a", text.parse().unwrap(), 2.0)));
        }
    }

    #[test]
    fn timestamps() {
        check("a 1 1700000000", Ok(("a", 1.0, 1_700_000_000.0)));
        check("a 1 1700000000.75", Ok(("a", 1.0, 1_700_000_000.75)));
        check("a 1 1e9", Ok(("a", 1.0, 1e9)));
        check("a 1 -1", Ok(("a", 1.0, -1.0)));
        check("a 1 999999999999999", Ok(("a", 1.0, 999_999_999_999_999.0)));
        check("a 1 99999999999999999999", Ok(("a", 1.0, 1e20)));
    }

    #[test]
    fn the_end_of_the_name_is_found_at_every_offset() {
        for length in 1..40 {
            let name = "é".repeat(length / 2) + if length % 2 == 1 { "x" } else { "" };
            check(&format!("{name} 1 2"), Ok((&name, 1.0, 2.0)));
            check(&format!("{name}\x0c1\t2"), Ok((&name, 1.0, 2.0)));
        }
    }

    #[test]
    fn lines_of_a_buffer() {
        let mut lines = Lines::new(b"a\nb\r\n\n\r\nc\r\r\nrest\r");
        let got: Vec<&[u8]> = lines.by_ref().collect();
        assert_eq!(got, [b"a".as_slice(), b"b", b"", b"", b"c\r"]);
        assert_eq!(lines.consumed_bytes(), 12);
        assert_eq!(lines.rest(), Ok(b"rest\r".as_slice()));
        let mut lines = Lines::new(b"a\nb\n");
        assert_eq!((lines.next(), lines.consumed_bytes()), (Some(b"a".as_slice()), 2));
        assert_eq!(lines.rest(), Ok(b"b\n".as_slice()));
    }

    #[test]
    fn lengths() {
        let line = |length: usize| format!("{} 1 2", "x".repeat(length - 4));
        assert!(parse(line(LINE_BYTES_MAX).as_bytes()).is_ok());
        assert_eq!(parse(line(LINE_BYTES_MAX + 1).as_bytes()), Err(LineError::TooLong));
        let rest = |length: usize| vec![b'x'; length];
        assert!(Lines::new(&rest(LINE_BYTES_MAX + 1)).rest().is_ok());
        assert_eq!(Lines::new(&rest(LINE_BYTES_MAX + 2)).rest(), Err(LineError::TooLong));
    }

    #[test]
    fn the_last_line_of_a_datagram() {
        let check = |line: &str, is_truncated: bool, want: Result<f64, LineError>| {
            let got = parse_unterminated(line.as_bytes(), is_truncated).map(|raw| raw.timestamp);
            assert_eq!(got, want, "{line:?}");
        };
        check("a 1 1700000000", false, Ok(1_700_000_000.0));
        check("a 1 1700000000\r", false, Ok(1_700_000_000.0));
        check("a 1 1000000000", false, Ok(1_000_000_000.0));
        check("a 1 170000000", false, Err(LineError::CutShort));
        check("a 1 1700000000", true, Err(LineError::CutShort));
        check("a 1 -1", false, Err(LineError::CutShort));
        check("a 1", false, Err(LineError::FieldCount));
        check("", false, Err(LineError::Empty));
    }
}
