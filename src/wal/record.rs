//! Records: a point in 5 to 17 bytes, a name in 6 more than it has, and what is said of points.
//!
//! A point is coded against the one before it in its frame: senders send metrics in the same order
//! and seconds again and again. Of a value only the bytes up to its last that is not zero are
//! kept, which leaves one to three of small whole numbers. Lengths stand in the first byte, so
//! that coding has no loop and hardly a branch.

use crate::limits::NAME_BYTES_MAX;
use crate::metric::point::{Arrival, Point};
use crate::wal::position::Position;

/// Longest point: control byte, number, time, value.
pub const POINT_BYTES_MAX: usize = 1 + 4 + 4 + 8;

/// Longest arrival: control byte, time.
pub(crate) const ARRIVAL_BYTES_MAX: usize = 1 + 4;

/// Longest record that says something of a metric: control byte, number, field, position.
pub(crate) const NOTE_BYTES_MAX: usize = 1 + 4 + 4 + Position::BYTES;

/// Longest name: number, length, bytes.
pub(crate) const NAME_RECORD_BYTES_MAX: usize = NAME_HEAD_BYTES + NAME_BYTES_MAX;

const NAME_HEAD_BYTES: usize = 6;

/// Bytes of a difference of times, by its code.
const TIME_BYTES: [usize; 4] = [0, 1, 2, 4];

/// The low bits of the control byte of a record that is no point.
const ARRIVAL: u8 = 9;
const CONFIRM: u8 = 10;
const CONFIRM_FAR: u8 = 11;
const REWRITE: u8 = 12;
const CHECKPOINT: u8 = 13;

/// What stood before, in the same frame.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Previous {
    number: u32,
    timestamp_s: u32,
    arrived_s: u32,
}

/// A record of the chain of points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Record {
    /// A point of the metric of this number.
    Point(u32, Arrival),
    /// All points of the metric up to this many records before here are in its file, or logged
    /// again behind them.
    Confirm(u32, u32),
    /// The same, up to a record of any log.
    ConfirmFar(u32, Position),
    /// This many points that follow are of this metric and logged again.
    Rewrite(u32, u32),
    /// A sync of the Whisper files has begun, the one of this number.
    Checkpoint(u32),
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
    (previous.number, previous.timestamp_s) = (number, point.timestamp_s);
    let bits = point.value.to_bits();
    let number_bytes = bytes_of(number_step).max(1);
    let time_code = time_code(time_step);
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

/// Writes that the points behind have arrived in this second; returns the length.
pub(crate) fn put_arrival(out: &mut [u8], previous: &mut Previous, arrived_s: u32) -> usize {
    let step = fold(arrived_s.wrapping_sub(previous.arrived_s));
    previous.arrived_s = arrived_s;
    put_field(out, ARRIVAL, step)
}

/// Writes that a sync begins; returns the length.
pub(crate) fn put_checkpoint(out: &mut [u8], sequence: u32) -> usize {
    put_field(out, CHECKPOINT, sequence)
}

/// Writes [`Record::Confirm`], or the far one where the distance is too great; returns the length.
pub(crate) fn put_confirm(
    out: &mut [u8],
    previous: &mut Previous,
    number: u32,
    (through, back): (Position, Option<u32>),
) -> usize {
    match back {
        Some(back) => put_note(out, previous, CONFIRM, (number, back)),
        None => {
            let length = put_note(out, previous, CONFIRM_FAR, (number, 0));
            through.encode(&mut out[length..]);
            length + Position::BYTES
        }
    }
}

/// Writes [`Record::Rewrite`]; returns the length.
pub(crate) fn put_rewrite(
    out: &mut [u8],
    previous: &mut Previous,
    number: u32,
    count: u32,
) -> usize {
    put_note(out, previous, REWRITE, (number, count))
}

fn put_field(out: &mut [u8], kind: u8, field: u32) -> usize {
    let code = time_code(field);
    out[0] = kind | u8::try_from(code << 6).expect("2 bits above 6");
    let bytes = TIME_BYTES[code];
    out[1..1 + bytes].copy_from_slice(&field.to_le_bytes()[..bytes]);
    1 + bytes
}

fn put_note(
    out: &mut [u8],
    previous: &mut Previous,
    kind: u8,
    (number, field): (u32, u32),
) -> usize {
    let number_step = fold(number.wrapping_sub(previous.number));
    previous.number = number;
    let number_bytes = bytes_of(number_step).max(1);
    let code = time_code(field);
    let control = usize::from(kind) | (number_bytes - 1) << 4 | code << 6;
    out[0] = u8::try_from(control).expect("4, 2 and 2 bits are a byte");
    let field_at = 1 + number_bytes;
    out[1..field_at].copy_from_slice(&number_step.to_le_bytes()[..number_bytes]);
    let length = field_at + TIME_BYTES[code];
    out[field_at..length].copy_from_slice(&field.to_le_bytes()[..length - field_at]);
    length
}

/// Takes the next record off the front of `rest`; `None` at the end.
pub(crate) fn take_record(
    rest: &mut &[u8],
    previous: &mut Previous,
) -> Result<Option<Record>, Malformed> {
    while let Some((&control, _)) = rest.split_first() {
        let time_bytes = TIME_BYTES[usize::from(control) >> 6];
        match control & 15 {
            ARRIVAL => {
                let step = little_endian(&take(rest, 1 + time_bytes)?[1..]);
                previous.arrived_s = previous.arrived_s.wrapping_add(unfold(step));
            }
            CHECKPOINT => {
                let sequence = little_endian(&take(rest, 1 + time_bytes)?[1..]);
                return Ok(Some(Record::Checkpoint(sequence)));
            }
            CONFIRM => {
                let (number, back) = take_note(rest, previous)?;
                return Ok(Some(Record::Confirm(number, back)));
            }
            CONFIRM_FAR => {
                let (number, _) = take_note(rest, previous)?;
                let through = Position::decode(take(rest, Position::BYTES)?);
                return Ok(Some(Record::ConfirmFar(number, through)));
            }
            REWRITE => {
                let (number, count) = take_note(rest, previous)?;
                return Ok(Some(Record::Rewrite(number, count)));
            }
            0..=8 => return take_point(rest, previous).map(Some),
            _ => return Err(Malformed),
        }
    }
    Ok(None)
}

fn take_point(rest: &mut &[u8], previous: &mut Previous) -> Result<Record, Malformed> {
    let control = usize::from(rest[0]);
    let value_bytes = control & 15;
    let number_bytes = (control >> 4 & 3) + 1;
    let time_bytes = TIME_BYTES[control >> 6];
    let length = 1 + number_bytes + time_bytes + value_bytes;
    let record = take(rest, length)?;
    let number_step = little_endian(&record[1..1 + number_bytes]);
    let time_step = little_endian(&record[1 + number_bytes..1 + number_bytes + time_bytes]);
    let mut value = [0; 8];
    value[..value_bytes].copy_from_slice(&record[length - value_bytes..]);
    previous.number = previous.number.wrapping_add(unfold(number_step));
    previous.timestamp_s = previous.timestamp_s.wrapping_add(unfold(time_step));
    let Previous { number, timestamp_s, arrived_s } = *previous;
    let value = f64::from_bits(u64::from_be_bytes(value));
    Ok(Record::Point(number, Arrival { timestamp_s, arrived_s, value }))
}

fn take_note(rest: &mut &[u8], previous: &mut Previous) -> Result<(u32, u32), Malformed> {
    let control = usize::from(rest[0]);
    let number_bytes = (control >> 4 & 3) + 1;
    let record = take(rest, 1 + number_bytes + TIME_BYTES[control >> 6])?;
    let number_step = little_endian(&record[1..1 + number_bytes]);
    previous.number = previous.number.wrapping_add(unfold(number_step));
    Ok((previous.number, little_endian(&record[1 + number_bytes..])))
}

fn take<'b>(rest: &mut &'b [u8], length: usize) -> Result<&'b [u8], Malformed> {
    let (record, later) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = later;
    Ok(record)
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

/// The code of the fewest bytes that a field fits into.
fn time_code(field: u32) -> usize {
    bytes_of(field).min(3)
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
            let record = take_record(&mut rest, &mut previous).unwrap().unwrap();
            let Record::Point(got, point) = record else { panic!("{record:?}") };
            assert_eq!((got, point.timestamp_s), (number, timestamp_s));
            assert_eq!(point.value.to_bits(), value.to_bits());
        }
        assert_eq!(take_record(&mut rest, &mut previous), Ok(None));
        for cut in 1..bytes.len() {
            let (mut rest, mut previous) = (&bytes[..cut], Previous::default());
            while let Ok(Some(_)) = take_record(&mut rest, &mut previous) {}
        }
    }

    #[test]
    fn notes_come_back_between_points() {
        let far = Position { run: u64::MAX, shard: 7, record: 1 << 40 };
        let mut bytes = vec![0; 500];
        let (mut previous, mut at) = (Previous::default(), 0);
        let mut point = [0; POINT_BYTES_MAX];
        let put = &mut |length: usize| at += length;
        put(put_arrival(&mut bytes, &mut previous, 1_700_000_000));
        put(put_confirm(&mut bytes[5..], &mut previous, 9, (far, Some(0))));
        put(put_confirm(&mut bytes[7..], &mut previous, 300, (far, Some(70_000))));
        let mut end = at;
        end += put_confirm(&mut bytes[end..], &mut previous, u32::MAX, (far, None));
        end += put_rewrite(&mut bytes[end..], &mut previous, 3, 65_536);
        let length = put_point(&mut point, &mut previous, 3, Point { timestamp_s: 12, value: 2.0 });
        bytes[end..end + length].copy_from_slice(&point[..length]);
        end += length;
        end += put_arrival(&mut bytes[end..], &mut previous, 1_699_999_999);
        let length = put_point(&mut point, &mut previous, 3, Point { timestamp_s: 13, value: 2.0 });
        bytes[end..end + length].copy_from_slice(&point[..length]);
        end += length;
        end += put_checkpoint(&mut bytes[end..], 77);
        let mut rest = &bytes[..end];
        let mut previous = Previous::default();
        let arrival = |timestamp_s, arrived_s| Arrival { timestamp_s, arrived_s, value: 2.0 };
        for want in [
            Record::Confirm(9, 0),
            Record::Confirm(300, 70_000),
            Record::ConfirmFar(u32::MAX, far),
            Record::Rewrite(3, 65_536),
            Record::Point(3, arrival(12, 1_700_000_000)),
            Record::Point(3, arrival(13, 1_699_999_999)),
            Record::Checkpoint(77),
        ] {
            assert_eq!(take_record(&mut rest, &mut previous), Ok(Some(want)));
        }
        assert_eq!(take_record(&mut rest, &mut previous), Ok(None));
        for control in [14, 15, 14 | 3 << 6] {
            let mut rest = &[control, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0][..];
            assert_eq!(take_record(&mut rest, &mut Previous::default()), Err(Malformed));
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
    }
}
