//! Text arguments of protocol 0: escapes of STRING and UNICODE.

use super::error::FrameFault;

/// The inside of STRING's quotes; as in CPython both ends must be the same quote.
pub(super) fn unquote(line: &[u8]) -> Result<&[u8], FrameFault> {
    match line {
        [first @ (b'\'' | b'"'), inside @ .., last] if first == last => Ok(inside),
        _ => Err(FrameFault::BadText),
    }
}

/// Appends what Python's `codecs.escape_decode` makes of `text`: never longer than `text`.
pub(super) fn unescape_string(text: &[u8], out: &mut Vec<u8>) -> Result<(), FrameFault> {
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            out.push(byte);
            continue;
        }
        let (&escape, after) = rest.split_first().ok_or(FrameFault::BadText)?;
        rest = after;
        match escape {
            b'\\' | b'\'' | b'"' => out.push(escape),
            b'a' => out.push(0x07),
            b'b' => out.push(0x08),
            b'f' => out.push(0x0c),
            b'n' => out.push(b'\n'),
            b'r' => out.push(b'\r'),
            b't' => out.push(b'\t'),
            b'v' => out.push(0x0b),
            b'x' => {
                let (code, after) = take_hex(rest, 2)?;
                out.push(u8::try_from(code).expect("two hexadecimal digits are one byte"));
                rest = after;
            }
            b'0'..=b'7' => {
                let mut code = u32::from(escape - b'0');
                for _ in 0..2 {
                    let Some((&digit @ b'0'..=b'7', after)) = rest.split_first() else { break };
                    code = code * 8 + u32::from(digit - b'0');
                    rest = after;
                }
                out.push(code.to_le_bytes()[0]);
            }
            // Python keeps an escape that it does not know.
            _ => out.extend_from_slice(&[b'\\', escape]),
        }
    }
    Ok(())
}

/// Appends what Python's codec `raw_unicode_escape` makes of `text`, as UTF-8: at most twice as
/// long as `text`. A lone surrogate becomes its three bytes, which a later check of UTF-8 refuses.
pub(super) fn unescape_unicode(text: &[u8], out: &mut Vec<u8>) -> Result<(), FrameFault> {
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte != b'\\' {
            push_code_point(u32::from(byte), out)?;
            continue;
        }
        let digit_count = match rest.first() {
            Some(b'u') => 4,
            Some(b'U') => 8,
            // The backslash stands for itself and hides a second one from this loop.
            Some(&next) => {
                out.push(b'\\');
                push_code_point(u32::from(next), out)?;
                rest = &rest[1..];
                continue;
            }
            None => {
                out.push(b'\\');
                continue;
            }
        };
        let (code, after) = take_hex(&rest[1..], digit_count)?;
        push_code_point(code, out)?;
        rest = after;
    }
    Ok(())
}

/// The value of the next `digit_count` (at most 8) hexadecimal digits and what follows them.
fn take_hex(text: &[u8], digit_count: usize) -> Result<(u32, &[u8]), FrameFault> {
    let (digits, rest) = text.split_at_checked(digit_count).ok_or(FrameFault::BadText)?;
    let mut code = 0;
    for &digit in digits {
        let nibble = char::from(digit).to_digit(16).ok_or(FrameFault::BadText)?;
        code = code << 4 | nibble;
    }
    Ok((code, rest))
}

/// Appends UTF-8, extended to surrogates as in CPython's "surrogatepass".
fn push_code_point(code: u32, out: &mut Vec<u8>) -> Result<(), FrameFault> {
    if let Some(character) = char::from_u32(code) {
        let mut utf8 = [0; 4];
        out.extend_from_slice(character.encode_utf8(&mut utf8).as_bytes());
        return Ok(());
    }
    if code > 0x10_ffff {
        return Err(FrameFault::BadText);
    }
    let low_bits = |bits: u32| bits.to_le_bytes()[0] & 0x3f;
    out.extend_from_slice(&[0xed, 0x80 | low_bits(code >> 6), 0x80 | low_bits(code)]);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    type Unescape = fn(&[u8], &mut Vec<u8>) -> Result<(), FrameFault>;

    #[track_caller]
    fn check(unescape: Unescape, text: &[u8], want: Option<&[u8]>) {
        let mut out = Vec::new();
        let got = unescape(text, &mut out).ok().map(|()| out.as_slice());
        assert_eq!(got, want, "{}", text.escape_ascii());
    }

    #[test]
    fn strings_like_escape_decode() {
        for (text, want) in [
            (&b"plain"[..], Some(&b"plain"[..])),
            (br"a\'b\\c\n\x41\101", Some(b"a'b\\c\nAA")),
            (br"\a\b\f\r\t\v", Some(b"\x07\x08\x0c\r\t\x0b")),
            (br"\q", Some(br"\q")),
            (br"\0\18\777", Some(b"\0\x018\xff")),
            (br"\xe9", Some(b"\xe9")),
            (br"\x4", None),
            (br"\xg0", None),
            (b"a\\", None),
        ] {
            check(unescape_string, text, want);
        }
    }

    #[test]
    fn unicode_like_raw_unicode_escape() {
        for (text, want) in [
            (&b"caf\xe9"[..], Some("caf\u{e9}".as_bytes())),
            (br"caf\u00e9", Some("caf\u{e9}".as_bytes())),
            (br"\U0001f600", Some("\u{1f600}".as_bytes())),
            (br"\\u0041\n\x41", Some(br"\\u0041\n\x41")),
            (br"\u005cu0041", Some(br"\u0041")),
            (br"\ud83d", Some(b"\xed\xa0\xbd")),
            (br"\udfff", Some(b"\xed\xbf\xbf")),
            (br"\u12", None),
            (br"\U00110000", None),
            (br"\UFFFFFFFF", None),
            (b"a\\", Some(b"a\\")),
        ] {
            check(unescape_unicode, text, want);
        }
    }

    #[test]
    fn quotes() {
        assert_eq!(unquote(b"'a'"), Ok(&b"a"[..]));
        assert_eq!(unquote(b"\"\""), Ok(&b""[..]));
        for line in [&b""[..], b"'", b"'a", b"'a\"", b"aba", b"a"] {
            assert_eq!(unquote(line), Err(FrameFault::BadText));
        }
    }
}
