//! The plaintext protocol: `name value timestamp`, one point a line.
//!
//! The grammar is carbon's over bytes: three fields between runs of blanks, numbers as Python's
//! `float()` reads them in ASCII. Two things differ on purpose: bytes that are not UTF-8 cost
//! their own line (the name is refused later) instead of the connection, and only ASCII blanks
//! separate. Lines come from a receive buffer and leave as a [`Received`]; `metric` then makes the
//! name canonical and checks the numbers.
//!
//! The usual line, with single spaces and short numbers, is split at its three blanks (see
//! `blanks`); every other line is parsed by the whole grammar.

use std::fmt;

use crate::limits::LINE_BYTES_MAX;
use crate::metric::point::Received;
use crate::wire::blanks::Blanks;
use crate::wire::decimal::{TenDigits, short_decimal};
use crate::wire::number::parse_python_float;

/// Earliest timestamp that an unterminated last line of a datagram may carry.
///
/// The sender may have cut the line short, and a number cut short is still a number. A timestamp
/// of today has ten digits; with one missing it lies before this one (2001-09-09 01:46:40), so a
/// line at or after it cannot have lost a digit.
pub const UNTERMINATED_TIMESTAMP_MIN: f64 = 1_000_000_000.0;

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

/// The points of the complete lines of a buffer; what [`parse`] makes of each.
#[derive(Debug, Clone)]
pub struct Lines<'a> {
    buffer: &'a [u8],
    blanks: Blanks<'a>,
    consumed_bytes: usize,
    /// The lines of one sender at one time have the same timestamp.
    timestamps: TenDigits,
}

impl<'a> Lines<'a> {
    /// The lines of `buffer`, which begins at the start of a line.
    pub fn new(buffer: &'a [u8]) -> Lines<'a> {
        Lines {
            buffer,
            blanks: Blanks::new(buffer),
            consumed_bytes: 0,
            timestamps: TenDigits::default(),
        }
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
    type Item = Result<Received<'a>, LineError>;

    fn next(&mut self) -> Option<Result<Received<'a>, LineError>> {
        let start = self.consumed_bytes;
        let name_end = self.blanks.next()?;
        if self.buffer[name_end] != b' ' || name_end == start {
            return self.whole(start, name_end);
        }
        let value_end = self.blanks.next()?;
        if self.buffer[value_end] != b' ' {
            return self.whole(start, value_end);
        }
        let timestamp_end = self.blanks.next()?;
        let end_bytes = match self.buffer[timestamp_end..] {
            [b'\n', ..] => 1,
            [b'\r', b'\n', ..] => 2,
            _ => return self.whole(start, timestamp_end),
        };
        if end_bytes == 2 {
            self.blanks.next();
        }
        let has_empty = name_end + 1 == value_end || value_end + 1 == timestamp_end;
        if has_empty || timestamp_end - start > LINE_BYTES_MAX {
            return self.known(start, timestamp_end, end_bytes);
        }
        self.consumed_bytes = timestamp_end + end_bytes;
        let name = &self.buffer[start..name_end];
        // Not `or_else`, which the compiler does not take into this function.
        let value = match short_decimal(self.buffer, name_end + 1, value_end) {
            Some(value) => Some(value),
            None => parse_python_float(&self.buffer[name_end + 1..value_end]),
        };
        let timestamp = &self.buffer[value_end + 1..timestamp_end];
        let timestamp = match self.timestamps.read(timestamp) {
            Some(timestamp) => Some(timestamp),
            None => parse_python_float(timestamp),
        };
        Some(match (value, timestamp) {
            (Some(value), Some(timestamp)) => Ok(Received { name, value, timestamp }),
            (None, _) => Err(LineError::BadValue),
            (_, None) => Err(LineError::BadTimestamp),
        })
    }
}

impl<'a> Lines<'a> {
    /// Reads the line from `start` by the whole grammar; its first blanks, up to `at`, are known.
    fn whole(&mut self, start: usize, at: usize) -> Option<Result<Received<'a>, LineError>> {
        let mut end = at;
        while self.buffer[end] != b'\n' {
            end = self.blanks.next()?;
        }
        if end > start && self.buffer[end - 1] == b'\r' {
            return self.known(start, end - 1, 2);
        }
        self.known(start, end, 1)
    }

    /// Parses the line between two offsets by the whole grammar, given the length of its end.
    fn known(
        &mut self,
        start: usize,
        end: usize,
        end_bytes: usize,
    ) -> Option<Result<Received<'a>, LineError>> {
        self.consumed_bytes = end + end_bytes;
        Some(parse(&self.buffer[start..end]))
    }
}

/// The fields of a line, given without its end.
///
/// # Errors
/// The first of [`LineError`] that applies: length, then field count, then value, then timestamp.
pub fn parse(line: &[u8]) -> Result<Received<'_>, LineError> {
    if line.len() > LINE_BYTES_MAX {
        return Err(LineError::TooLong);
    }
    let mut fields = line.split(|&byte| is_blank(byte)).filter(|field| !field.is_empty());
    let name = fields.next().ok_or(LineError::Empty)?;
    let value = fields.next().ok_or(LineError::FieldCount)?;
    let timestamp = fields.next().ok_or(LineError::FieldCount)?;
    if fields.next().is_some() {
        return Err(LineError::FieldCount);
    }
    let value = parse_python_float(value).ok_or(LineError::BadValue)?;
    let timestamp = parse_python_float(timestamp).ok_or(LineError::BadTimestamp)?;
    Ok(Received { name, value, timestamp })
}

/// The fields of the unterminated last line of a datagram. `is_truncated` says that the datagram
/// was longer than what was received of it.
///
/// # Errors
/// As [`parse`], and [`LineError::CutShort`] where the last digits may be missing: see
/// [`UNTERMINATED_TIMESTAMP_MIN`].
pub fn parse_unterminated(line: &[u8], is_truncated: bool) -> Result<Received<'_>, LineError> {
    let raw = parse(line.strip_suffix(b"\r").unwrap_or(line))?;
    if is_truncated || raw.timestamp < UNTERMINATED_TIMESTAMP_MIN {
        return Err(LineError::CutShort);
    }
    Ok(raw)
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
        for end in ["\n", "\r\n"] {
            let buffer = format!("{line}{end}next.line 1 1700000000\n");
            let in_buffer = Lines::new(buffer.as_bytes()).next().unwrap();
            if !line.contains('\n') {
                assert_eq!(in_buffer, got, "{buffer:?}");
            }
        }
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
        let mut lines = Lines::new(b"a 1 2\nb 1 2\r\n\n\r\nc 1 2 \r\r\nrest\r");
        let got: Vec<Option<&[u8]>> =
            lines.by_ref().map(|line| line.ok().map(|received| received.name)).collect();
        let name = |name: &'static str| Some(name.as_bytes());
        assert_eq!(got, [name("a"), name("b"), None, None, name("c")]);
        assert_eq!(lines.consumed_bytes(), 25);
        assert_eq!(lines.rest(), Ok(b"rest\r".as_slice()));
        let mut lines = Lines::new(b"a\nb\n");
        let first = lines.next();
        assert_eq!((first, lines.consumed_bytes()), (Some(Err(LineError::FieldCount)), 2));
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
