//! Numbers in text, as Python's `float()` reads ASCII.
//!
//! Both ports that take text (lines and numeric strings in pickles) share this one reading, so a
//! value means the same wherever it comes in. Digits go to `fast_float2`, which rounds correctly;
//! this file only decides which spellings are numbers. Non-ASCII digits and blanks, which Python
//! takes too, are not numbers here, nor is hexadecimal.

/// Longest spelling with underscores in bytes (sign and blanks not counted); a longer one is not a
/// number. 512 holds every digit of the greatest finite float (309) with room, and the copy
/// without underscores stays on the stack.
const UNDERSCORED_BYTES_MAX: usize = 512;

/// The float that Python's `float(text)` returns, or `None` where Python raises.
///
/// Blanks around, one sign, underscores between digits, exponents and `inf`, `infinity` and `nan`
/// in any case are understood; an overflow is infinite, as in Python. The time is linear in
/// `text`.
pub fn parse_python_float(text: &[u8]) -> Option<f64> {
    let text = trim_blanks(text);
    let (negative, digits) = match text.split_first()? {
        (b'-', rest) => (true, rest),
        (b'+', rest) => (false, rest),
        _ => (false, text),
    };
    let magnitude = match digits.first()? {
        b'0'..=b'9' | b'.' => parse_digits(digits)?,
        _ => parse_special(digits)?,
    };
    Some(if negative { -magnitude } else { magnitude })
}

/// Without C's white space around; `float()` does not take 0x1c to 0x1f, which `strip()` removes.
fn trim_blanks(text: &[u8]) -> &[u8] {
    let is_blank = |byte: &u8| matches!(byte, b'\t'..=b'\r' | b' ');
    let Some(start) = text.iter().position(|byte| !is_blank(byte)) else {
        return &[];
    };
    let end = text.iter().rposition(|byte| !is_blank(byte)).map_or(start, |last| last + 1);
    &text[start..end]
}

/// An unsigned decimal number, with underscores between digits.
fn parse_digits(digits: &[u8]) -> Option<f64> {
    if memchr::memchr(b'_', digits).is_none() {
        return parse_plain(digits);
    }
    if digits.len() > UNDERSCORED_BYTES_MAX {
        return None;
    }
    let mut plain = [0; UNDERSCORED_BYTES_MAX];
    let mut plain_bytes = 0;
    let mut previous = 0_u8;
    for &byte in digits {
        if byte == b'_' {
            if !previous.is_ascii_digit() {
                return None;
            }
        } else {
            if previous == b'_' && !byte.is_ascii_digit() {
                return None;
            }
            plain[plain_bytes] = byte;
            plain_bytes += 1;
        }
        previous = byte;
    }
    if previous == b'_' {
        return None;
    }
    parse_plain(&plain[..plain_bytes])
}

fn parse_plain(digits: &[u8]) -> Option<f64> {
    fast_float2::parse(digits).ok()
}

fn parse_special(word: &[u8]) -> Option<f64> {
    if word.eq_ignore_ascii_case(b"inf") || word.eq_ignore_ascii_case(b"infinity") {
        Some(f64::INFINITY)
    } else if word.eq_ignore_ascii_case(b"nan") {
        Some(f64::NAN)
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<f64>) {
        let got = parse_python_float(text.as_bytes());
        assert_eq!(got.map(f64::to_bits), want.map(f64::to_bits), "{text:?}: {got:?}");
    }

    // Each outcome is what float() of CPython 3.11 gave.
    #[test]
    fn spellings_that_python_takes() {
        for (text, want) in [
            ("1", 1.0),
            ("-1.5", -1.5),
            ("+.5", 0.5),
            ("5.", 5.0),
            ("1e3", 1000.0),
            ("1E+3", 1000.0),
            ("1e-3", 0.001),
            ("1_000", 1000.0),
            ("1_0.0_1e1_0", 10.01e10),
            ("007", 7.0),
            ("-0", -0.0),
            ("1e400", f64::INFINITY),
            ("-1e400", f64::NEG_INFINITY),
            ("1e-400", 0.0),
            ("inf", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("+INF", f64::INFINITY),
            ("nan", f64::NAN),
            ("-NaN", -f64::NAN),
            (" 1 ", 1.0),
            ("\t\n\x0b\x0c\r 1\t\n\x0b\x0c\r ", 1.0),
            ("0.1", 0.1),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("1.7976931348623157e308", f64::MAX),
            ("5e-324", 5e-324),
            ("1e99999999999999999999", f64::INFINITY),
        ] {
            check(text, Some(want));
        }
    }

    #[test]
    fn spellings_that_python_refuses() {
        for text in [
            "", " ", ".", "-", "+", "+-1", "--1", "- 1", "1 2", "1e", "1e+", "e5", ".e5", "0x10",
            "0x1p3", "1_", "_1", "1__0", "1_.0", "1._0", "1e_5", "1_e5", "in_f", "infi", "nan1",
            "1,5", "1f", "1L", "N", "1\0", "\u{661}", "\u{a0}1", "\x1c1", "1\x1f", "infinit", "-.",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn long_spellings() {
        let zeros = "0".repeat(100_000);
        check(&format!("{zeros}1"), Some(1.0));
        check(&format!("1{zeros}"), Some(f64::INFINITY));
        check(&format!("0.{zeros}"), Some(0.0));
        check(&format!("{}1", "0_".repeat(255)), Some(1.0));
        check(&format!("{}1", "0_".repeat(256)), None);
    }
}
