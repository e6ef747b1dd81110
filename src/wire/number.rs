//! Numbers as Python reads them, in ASCII.

/// What Python's `float()` makes of the text, without surrounding blanks and non-ASCII digits.
pub fn parse_python_float(text: &[u8]) -> Option<f64> {
    if memchr::memchr(b'_', text).is_none() {
        return fast_float2::parse(text).ok();
    }
    let is_digit = |at: usize| text.get(at).is_some_and(u8::is_ascii_digit);
    let mut digits = Vec::with_capacity(text.len());
    for (at, &byte) in text.iter().enumerate() {
        if byte != b'_' {
            digits.push(byte);
        } else if at == 0 || !is_digit(at - 1) || !is_digit(at + 1) {
            return None;
        }
    }
    fast_float2::parse(&digits).ok()
}
