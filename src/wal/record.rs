//! Records: a point in 5 to 17 bytes, a name in 6 more than it has.
//!
//! A point is coded against the one before it in its frame: senders send metrics in the same order
//! and seconds again and again. Of a value only the bytes up to its last that is not zero are
//! kept, which leaves one to three of small whole numbers. Lengths stand in the first byte, so
//! that coding has no loop and hardly a branch.

use crate::limits::NAME_BYTES_MAX;
use crate::metric::point::Point;

/// Longest point: control byte, number, time, value.
pub const POINT_BYTES_MAX: usize = 1 + 4 + 4 + 8;

/// Longest name: number, length, bytes.
pub(crate) const NAME_RECORD_BYTES_MAX: usize = NAME_HEAD_BYTES + NAME_BYTES_MAX;

const NAME_HEAD_BYTES: usize = 6;

/// Bytes of a difference of times, by its code.
const TIME_BYTES: [usize; 4] = [0, 1, 2, 4];

/// The point before, in the same frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Previous {
    number: u32,
    timestamp_s: u32,
}

/// Not a record: the frame was not written by this format, whatever its checksum says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Writes a point; returns its length.
pub(crate) fn put_point(
    out: &mut [u8; POINT_BYTES_MAX],
    previous: &mut Previous,
    number: u32,
    point: Point,
) -> usize {
    let number_step = fold(number.wrapping_sub(previous.number));
    let time_step = fold(point.timestamp_s.wrapping_sub(previous.timestamp_s));
    *previous = Previous { number, timestamp_s: point.timestamp_s };
    let bits = point.value.to_bits();
    let number_bytes = bytes_of(number_step).max(1);
    let time_code = match bytes_of(time_step) {
        3 => 3,
        4 => 3,
        short => short,
    };
    let value_bytes = 8 - bits.trailing_zeros() as usize / 8;
    let control = value_bytes | (number_bytes - 1) << 4 | time_code << 6;
    out[0] = u8::try_from(control).expect("4, 2 and 2 bits are a byte");
    out[1..5].copy_from_slice(&number_step.to_le_bytes());
    let time_at = 1 + number_bytes;
    out[time_at..time_at + 4].copy_from_slice(&time_step.to_le_bytes());
    let value_at = time_at + TIME_BYTES[time_code];
    out[value_at..value_at + 8].copy_from_slice(&bits.to_be_bytes());
    value_at + value_bytes
}

/// Takes the next point off the front of `rest`; `None` at the end.
pub(crate) fn take_point(
    rest: &mut &[u8],
    previous: &mut Previous,
) -> Result<Option<(u32, Point)>, Malformed> {
    let Some((&control, _)) = rest.split_first() else { return Ok(None) };
    let control = usize::from(control);
    let value_bytes = control & 15;
    let number_bytes = (control >> 4 & 3) + 1;
    let time_bytes = TIME_BYTES[control >> 6];
    let length = 1 + number_bytes + time_bytes + value_bytes;
    if value_bytes > 8 || length > rest.len() {
        return Err(Malformed);
    }
    let (record, later) = rest.split_at(length);
    *rest = later;
    let number_step = little_endian(&record[1..1 + number_bytes]);
    let time_step = little_endian(&record[1 + number_bytes..1 + number_bytes + time_bytes]);
    let mut value = [0; 8];
    value[..value_bytes].copy_from_slice(&record[length - value_bytes..]);
    previous.number = previous.number.wrapping_add(unfold(number_step));
    previous.timestamp_s = previous.timestamp_s.wrapping_add(unfold(time_step));
    let value = f64::from_bits(u64::from_be_bytes(value));
    Ok(Some((previous.number, Point { timestamp_s: previous.timestamp_s, value })))
}

/// Bytes that a name's record takes.
pub(crate) fn name_record_bytes(name: &[u8]) -> usize {
    NAME_HEAD_BYTES + name.len()
}

/// Writes a name and the number that stands for it.
pub(crate) fn put_name(out: &mut [u8], number: u32, name: &[u8]) {
    let length = u16::try_from(name.len()).expect("a name has at most NAME_BYTES_MAX bytes");
    out[0..4].copy_from_slice(&number.to_le_bytes());
    out[4..6].copy_from_slice(&length.to_le_bytes());
    out[NAME_HEAD_BYTES..NAME_HEAD_BYTES + name.len()].copy_from_slice(name);
}

/// Takes the next name off the front of `rest`; `None` at the end.
pub(crate) fn take_name<'b>(rest: &mut &'b [u8]) -> Result<Option<(u32, &'b [u8])>, Malformed> {
    if rest.is_empty() {
        return Ok(None);
    }
    let (head, body) = rest.split_first_chunk::<NAME_HEAD_BYTES>().ok_or(Malformed)?;
    let number = u32::from_le_bytes([head[0], head[1], head[2], head[3]]);
    let length = usize::from(u16::from_le_bytes([head[4], head[5]]));
    if number == 0 || length == 0 || length > NAME_BYTES_MAX || length > body.len() {
        return Err(Malformed);
    }
    let (name, later) = body.split_at(length);
    *rest = later;
    Ok(Some((number, name)))
}

/// Small steps up and down become small numbers.
fn fold(step: u32) -> u32 {
    (step << 1) ^ (step.cast_signed() >> 31).cast_unsigned()
}

fn unfold(folded: u32) -> u32 {
    (folded >> 1) ^ (folded & 1).wrapping_neg()
}

fn bytes_of(number: u32) -> usize {
    (32 - number.leading_zeros() as usize).div_ceil(8)
}

fn little_endian(bytes: &[u8]) -> u32 {
    let mut all = [0; 4];
    all[..bytes.len()].copy_from_slice(bytes);
    u32::from_le_bytes(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(points: &[(u32, u32, f64)], want_bytes: &[usize]) {
        let mut bytes = Vec::new();
        let mut previous = Previous::default();
        for (&(number, timestamp_s, value), &want) in points.iter().zip(want_bytes) {
            let mut out = [0xaa; POINT_BYTES_MAX];
            let length = put_point(&mut out, &mut previous, number, Point { timestamp_s, value });
            assert_eq!(length, want, "{number} {timestamp_s} {value}");
            bytes.extend_from_slice(&out[..length]);
        }
        let (mut rest, mut previous) = (&bytes[..], Previous::default());
        for &(number, timestamp_s, value) in points {
            let (got, point) = take_point(&mut rest, &mut previous).unwrap().unwrap();
            assert_eq!((got, point.timestamp_s), (number, timestamp_s));
            assert_eq!(point.value.to_bits(), value.to_bits());
        }
        assert_eq!(take_point(&mut rest, &mut previous), Ok(None));
        for cut in 1..bytes.len() {
            let (mut rest, mut previous) = (&bytes[..cut], Previous::default());
            while let Ok(Some(_)) = take_point(&mut rest, &mut previous) {}
        }
    }

    #[test]
    fn points_come_back_and_take_what_they_must() {
        check(&[(1, 1_700_000_000, 0.0)], &[6]);
        check(&[(1, 100, 1.0), (2, 100, 1.0), (3, 101, 42.0), (2, 90, -1.5)], &[5, 4, 5, 5]);
        check(&[(u32::MAX, u32::MAX, 0.1), (0, 0, f64::INFINITY)], &[11, 5]);
        check(&[(1 << 31, 1 << 31, -0.0), (1, 1, f64::MIN_POSITIVE)], &[10, 11]);
        check(&[(1, 0x1_0000, f64::from_bits(1)), (1_000_000, 7, 1234.5678)], &[14, 16]);
        check(&[(900_000, 1_700_000_000, 0.1), (12_345, 1_700_000_060, 0.3)], &[16, 13]);
    }

    #[test]
    fn names_come_back_and_broken_ones_are_refused() {
        let longest = vec![b'x'; NAME_BYTES_MAX];
        for name in [&b"a"[..], b"servers.web01.cpu.user", &longest] {
            let mut bytes = vec![0; name_record_bytes(name)];
            put_name(&mut bytes, 7, name);
            let mut rest = &bytes[..];
            assert_eq!(take_name(&mut rest), Ok(Some((7, name))));
            assert_eq!(take_name(&mut rest), Ok(None));
            for cut in 1..bytes.len() {
                assert_eq!(take_name(&mut &bytes[..cut]), Err(Malformed));
            }
        }
        assert_eq!(take_name(&mut &[0, 0, 0, 0, 1, 0, b'a'][..]), Err(Malformed));
        assert_eq!(take_name(&mut &[1, 0, 0, 0, 0, 0][..]), Err(Malformed));
        let mut too_long = vec![b'x'; 6 + NAME_BYTES_MAX + 1];
        too_long[..6].copy_from_slice(&[1, 0, 0, 0, 0xa1, 0x0f]);
        assert_eq!(take_name(&mut &too_long[..]), Err(Malformed));
        assert_eq!(
            take_point(&mut &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..], &mut Previous::default()),
            Err(Malformed)
        );
    }
}
