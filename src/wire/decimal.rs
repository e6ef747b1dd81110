//! Short decimal numbers, read eight digits at a time.
//!
//! These are spellings that nearly every sender uses; whatever else `float()` takes is left to
//! [`crate::wire::number`]. Both give the same float: the digits are an exact f64, as is the power
//! of ten, and one division of two exact numbers rounds correctly.

const WORD: usize = 8;
const ONES: u64 = u64::from_ne_bytes([1; WORD]);
const ZEROS: u64 = ONES * b'0' as u64;
const POINTS: u64 = ONES * b'.' as u64;
const LOW_BITS: u64 = ONES * 0x7f;

/// 10^i.
const POWERS_OF_TEN: [f64; WORD] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7];

/// The number in `buffer[start..end]`: an optional minus, digits, at most one point among them,
/// eight bytes in all. `None` for any other text, also if it is a number, and where fewer than
/// eight bytes of the buffer follow `start`.
pub(crate) fn short_decimal(buffer: &[u8], start: usize, end: usize) -> Option<f64> {
    let length = end - start;
    if length == 0 || length > WORD {
        return None;
    }
    let word = u64::from_le_bytes(*buffer.get(start..)?.first_chunk::<WORD>()?);
    // The text's last byte becomes the word's last; zeros come in front.
    let missing_bits = (WORD - length) * 8;
    let filled = ZEROS & !(u64::MAX << missing_bits);
    let is_negative = buffer[start] == b'-';
    let sign = if is_negative { u64::from(b'-' ^ b'0') << missing_bits } else { 0 };
    let text = (word << missing_bits | filled) ^ sign;
    let (digits, fraction_digits, point_count) = without_point(text)?;
    if length <= usize::from(is_negative) + point_count || !are_digits(digits) {
        return None;
    }
    let magnitude = eight_digits(digits) as f64 / POWERS_OF_TEN[fraction_digits];
    Some(if is_negative { -magnitude } else { magnitude })
}

/// Takes the point out: what remains, the digits behind the point, and whether there was one.
/// `None` if there are two.
fn without_point(text: u64) -> Option<(u64, usize, usize)> {
    let differs = text ^ POINTS;
    // The high bit of each byte that is a point; no byte borrows from another.
    let points = !(((differs & LOW_BITS) + LOW_BITS) | differs | LOW_BITS);
    if points == 0 {
        return Some((text, 0, 0));
    }
    if points & (points - 1) != 0 {
        return None;
    }
    let at_bits = points.trailing_zeros() - 7;
    let before = text & !(u64::MAX << at_bits);
    let behind = text & (u64::MAX << at_bits) & !(0xff << at_bits);
    let digits = behind | before << 8 | u64::from(b'0');
    Some((digits, 7 - at_bits as usize / 8, 1))
}

/// Reads numbers of ten digits, the form of every timestamp of our time, and knows the last one
/// again.
#[derive(Debug, Clone)]
pub(crate) struct TenDigits {
    /// The last number's first eight bytes, its last two, and what it is.
    first: u64,
    last: u16,
    number: f64,
}

impl Default for TenDigits {
    fn default() -> TenDigits {
        TenDigits { first: ZEROS, last: u16::from_le_bytes([b'0'; 2]), number: 0.0 }
    }
}

impl TenDigits {
    /// The number, or `None` for any other text. The call would cost as much as it does.
    #[inline(always)]
    pub(crate) fn read(&mut self, text: &[u8]) -> Option<f64> {
        let (first, last) = text.split_first_chunk::<WORD>()?;
        let last: &[u8; 2] = last.try_into().ok()?;
        let (first, last) = (u64::from_le_bytes(*first), u16::from_le_bytes(*last));
        if (first, last) != (self.first, self.last) {
            let number = ten_digits(first, last)?;
            *self = TenDigits { first, last, number };
        }
        Some(self.number)
    }
}

fn ten_digits(first: u64, last: u16) -> Option<f64> {
    let [tens, ones] = last.to_le_bytes().map(|byte| byte.wrapping_sub(b'0'));
    if !are_digits(first) || tens > 9 || ones > 9 {
        return None;
    }
    let number = eight_digits(first) * 100 + u64::from(tens) * 10 + u64::from(ones);
    Some(number as f64)
}

/// Whether all bytes are digits: their upper half is 3, also when 6 is added.
fn are_digits(word: u64) -> bool {
    let upper = ONES * 0xf0;
    (word & upper) == ZEROS && (word.wrapping_add(ONES * 6) & upper) == ZEROS
}

/// The value of eight digits, the first one in the lowest byte: pairs, fours, eight.
fn eight_digits(word: u64) -> u64 {
    let digits = word & (ONES * 0x0f);
    let pairs = digits.wrapping_mul(10 << 8 | 1) >> 8 & 0x00ff_00ff_00ff_00ff;
    let fours = pairs.wrapping_mul(100 << 16 | 1) >> 16 & 0x0000_ffff_0000_ffff;
    fours.wrapping_mul(10_000 << 32 | 1) >> 32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, want: Option<f64>) {
        for rest in ["        ", "11111111", "........", "--------"] {
            let buffer = format!("xyz{text}{rest}");
            let got = short_decimal(buffer.as_bytes(), 3, 3 + text.len());
            assert_eq!(got.map(f64::to_bits), want.map(f64::to_bits), "{text:?} before {rest:?}");
        }
    }

    #[test]
    fn every_short_decimal_is_read_as_by_the_standard_library() {
        let mut state = 1_u64;
        for _ in 0..200_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let random = usize::try_from(state >> 33).unwrap();
            let digits = (state >> 20) % 10_u64.pow(1 + u32::try_from(random % 7).unwrap());
            let mut text = digits.to_string();
            if random & 0x100 != 0 {
                text.insert((random >> 10) % (text.len() + 1), '.');
            }
            if random & 0x200 != 0 {
                text.insert(0, '-');
            }
            let want = (text.len() <= 8).then(|| text.parse().unwrap());
            check(&text, want);
        }
    }

    #[test]
    fn other_texts_are_left_to_others() {
        for text in [
            "",
            ".",
            "-",
            "-.",
            "--1",
            "1-",
            "1..2",
            "1.2.3",
            ".1.",
            "+1",
            "1e3",
            "1_0",
            "nan",
            "inf",
            " 1",
            "1 ",
            "0x10",
            "1,5",
            "123456789",
            "1/",
            "1:",
            "\x001",
            "\u{e9}1",
        ] {
            check(text, None);
        }
        check("-0", Some(-0.0));
        check("-0.0", Some(-0.0));
        check("5.", Some(5.0));
        check(".5", Some(0.5));
        assert_eq!(short_decimal(b"1 2", 0, 1), None, "the buffer ends too early");
    }

    #[test]
    fn timestamps() {
        let texts = ["1700000000", "1700000001", "1700000100", "9999999999", "0000000000"];
        let others = ["", "170000000", "17000000000", "170000000x", "17000/0000", "1700000:00"];
        let mut reader = TenDigits::default();
        assert_eq!(reader.read(b"0000000000"), Some(0.0), "what it begins with");
        // Each behind every other one, itself included: none is taken for the one before.
        for before in texts.iter().chain(&others) {
            for text in texts.iter().chain(&others) {
                let mut reader = TenDigits::default();
                for (text, is_number) in [before, text].map(|text| (text, texts.contains(text))) {
                    let want = is_number.then(|| text.parse().unwrap());
                    assert_eq!(reader.read(text.as_bytes()), want, "{text} behind {before}");
                }
            }
        }
    }
}
