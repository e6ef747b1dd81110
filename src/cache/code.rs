//! How a waiting point is written down: 1 to 13 bytes, most often 3 or 4.
//!
//! ```text
//! record  := control u8 | time | value                                     (little endian)
//! control := time kind, 2 bits | value kind, 3 bits | value length, 3 bits
//! time    := 0: nothing, as long after the record before as that one was after its own
//!            1: seconds after the record before, u8     2: the same, u16
//!            3: seconds since the epoch, u32
//! value   := kind k = 0 to 6: an integer n of 0 to 7 bytes; the value is n / 10^k
//!            (zigzag: n is stored as 2n, or -2n - 1 if negative; no bytes only with kind 0)
//!            kind 7: the upper 1 to 8 bytes of the f64's bits, the others are 0
//! mark    := control u8, of a value of kind 1 without bytes | arrival
//! arrival := by the time kind, 1 and 2: seconds from a point's time to its arrival, i8 or i16;
//!            3: the second of the arrival, u32
//! ```
//! A mark holds for the points behind it, up to the next mark or the end of the block. Without a
//! mark a point has arrived in the second that it is of. Most senders are always equally late, so
//! that few points need one.
//!
//! Graphite's values are measured quantities printed with few digits, so they are decimals; what
//! is not, keeps its bits. A value comes back bit by bit: an encoding is only used after it was
//! decoded again and compared.

/// Longest record: control, an absolute time, all bits of a value.
pub(crate) const RECORD_BYTES_MAX: usize = 13;

/// Longest mark: control, the second of an arrival.
pub(crate) const MARK_BYTES_MAX: usize = 5;

/// In a control byte: the kind and the length of a value.
const VALUE_BITS: u8 = 0b11_1111;

/// The value's bits of a mark.
const MARK: u8 = 1 << 3;

/// Kinds of value that are decimals: with 0 to 6 digits after the point.
const DECIMALS: u8 = 7;

/// The kind of value that keeps its bits.
const BITS: u8 = 7;

/// 10^k of each decimal kind, and no more for the kind of bits.
const POWERS: [f64; 8] = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e0];

/// Below this an integer and a half are exact as f64; it takes at most seven bytes in zigzag form.
const INTEGER_MAX: u64 = 1 << 52;

/// A record under construction.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Record {
    bytes: u128,
    pub(crate) len: u8,
}

impl Record {
    /// Puts the record's bytes at the beginning of `out`; whatever stands behind them is lost.
    pub(crate) fn write(self, out: &mut [u8]) {
        let bytes = self.bytes.to_le_bytes();
        match out.first_chunk_mut() {
            // What follows the record is free.
            Some(all) => *all = bytes,
            None => {
                let len = usize::from(self.len);
                out[..len].copy_from_slice(&bytes[..len]);
            }
        }
    }
}

/// The time of a record, as its kind and its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TimeCode {
    kind: u8,
    bytes: u32,
}

/// Bytes that a time of each kind takes.
const TIME_BYTES: [u8; 4] = [0, 1, 2, 4];

impl TimeCode {
    /// A time that needs no record before it.
    pub(crate) fn absolute(timestamp_s: u32) -> TimeCode {
        TimeCode { kind: 3, bytes: timestamp_s }
    }

    /// A time `delta_s` after that of the record before, which was `step_s` after its own.
    pub(crate) fn after(delta_s: u16, step_s: u16) -> TimeCode {
        if delta_s == step_s {
            TimeCode { kind: 0, bytes: 0 }
        } else if delta_s < 1 << 8 {
            TimeCode { kind: 1, bytes: u32::from(delta_s) }
        } else {
            TimeCode { kind: 2, bytes: u32::from(delta_s) }
        }
    }

    /// The time of a record that is written already.
    pub(crate) fn of(record: &[u8]) -> TimeCode {
        let kind = record[0] >> 6;
        let mut bytes = [0; 4];
        let len = usize::from(TIME_BYTES[usize::from(kind)]);
        bytes[..len].copy_from_slice(&record[1..=len]);
        TimeCode { kind, bytes: u32::from_le_bytes(bytes) }
    }
}

/// When the points behind a mark have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lateness {
    /// They arrived this many seconds after their timestamp, modulo 2^32.
    After(u32),
    /// In this second.
    At(u32),
}

impl Lateness {
    /// What holds at the beginning of a block.
    pub(crate) const NONE: Lateness = Lateness::After(0);

    /// When a point of this time has arrived.
    pub(crate) fn arrived_s(self, timestamp_s: u32) -> u32 {
        match self {
            Lateness::After(late_s) => timestamp_s.wrapping_add(late_s),
            Lateness::At(arrived_s) => arrived_s,
        }
    }

    /// The bytes of a mark that says so, and how many they are.
    pub(crate) fn mark(self) -> ([u8; MARK_BYTES_MAX], usize) {
        let (kind, bytes, len) = match self {
            Lateness::At(arrived_s) => (3, arrived_s, 4),
            Lateness::After(late_s) if i8::try_from(late_s.cast_signed()).is_ok() => (1, late_s, 1),
            Lateness::After(late_s) => {
                debug_assert!(i16::try_from(late_s.cast_signed()).is_ok(), "late by {late_s} s");
                (2, late_s, 2)
            }
        };
        let mut mark = [0; MARK_BYTES_MAX];
        mark[0] = kind << 6 | MARK;
        mark[1..].copy_from_slice(&bytes.to_le_bytes());
        (mark, 1 + len)
    }

    /// The mark at the beginning of `bytes`, if there is one, and its length.
    pub(crate) fn read_mark(bytes: &[u8]) -> Option<(Lateness, usize)> {
        if bytes[0] & VALUE_BITS != MARK {
            return None;
        }
        Some(match bytes[0] >> 6 {
            1 => (Lateness::After(i32::from(bytes[1].cast_signed()).cast_unsigned()), 2),
            2 => {
                let late_s = i16::from_le_bytes([bytes[1], bytes[2]]);
                (Lateness::After(i32::from(late_s).cast_unsigned()), 3)
            }
            3 => (Lateness::At(u32::from_le_bytes([bytes[1], bytes[2], bytes[3], bytes[4]])), 5),
            kind => panic!("there is no mark of kind {kind}"),
        })
    }
}

/// A value as its kind, length and bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct ValueCode {
    kind: u8,
    /// Bytes stored, 0 to 8.
    len: u8,
    bytes: u64,
}

/// The record of a point. `kind` is the kind of the value before, which most often fits again;
/// with `search` all kinds are tried. It is set to the kind used.
pub(crate) fn encode(time: TimeCode, value: f64, kind: &mut u8, search: bool) -> Record {
    let value = encode_value(value, *kind, search);
    *kind = value.kind;
    let stored_len = if value.kind == BITS { value.len - 1 } else { value.len };
    // The other kinds of a value without bytes are marks.
    let stored_kind = if value.len == 0 { 0 } else { value.kind };
    let control = time.kind << 6 | stored_kind << 3 | stored_len;
    let time_len = TIME_BYTES[usize::from(time.kind)];
    let bytes = u128::from(control)
        | u128::from(time.bytes) << 8
        | u128::from(value.bytes) << (8 + 8 * time_len);
    Record { bytes, len: 1 + time_len + value.len }
}

fn encode_value(value: f64, kind: u8, search: bool) -> ValueCode {
    if kind < DECIMALS
        && let Some(code) = encode_decimal(value, kind)
    {
        return code;
    }
    if kind < DECIMALS || search {
        for kind in 0..DECIMALS {
            if let Some(code) = encode_decimal(value, kind) {
                return code;
            }
        }
    }
    encode_bits(value)
}

/// `None` if the value is not such a decimal.
#[expect(
    clippy::cast_possible_truncation,
    reason = "the cast saturates, and what it makes of a value too great is not taken"
)]
fn encode_decimal(value: f64, kind: u8) -> Option<ValueCode> {
    let scaled = value * POWERS[usize::from(kind)];
    let integer = (scaled + 0.5_f64.copysign(scaled)) as i64;
    let code = ((integer << 1) ^ (integer >> 63)).cast_unsigned();
    if integer.unsigned_abs() >= INTEGER_MAX || decimal(integer, kind).to_bits() != value.to_bits()
    {
        return None;
    }
    Some(ValueCode { kind, len: bytes_of(code), bytes: code })
}

fn decimal(integer: i64, kind: u8) -> f64 {
    integer as f64 / POWERS[usize::from(kind)]
}

fn encode_bits(value: f64) -> ValueCode {
    let bits = value.to_bits();
    // An f64 of all zero bits is the integer 0, so there is at least one byte to keep.
    let len = 8 - (bits.trailing_zeros().min(56) / 8) as u8;
    ValueCode { kind: BITS, len, bytes: bits >> (64 - 8 * u32::from(len)) }
}

/// Bytes that an integer takes without its leading zeros.
#[expect(clippy::cast_possible_truncation, reason = "at most 8")]
fn bytes_of(integer: u64) -> u8 {
    ((64 - integer.leading_zeros()).div_ceil(8)) as u8
}

/// What is remembered from one record of a block to the next.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Decoder {
    timestamp_s: u32,
    step_s: u32,
}

impl Decoder {
    /// The point of the record at the beginning of `bytes`, and the record's length.
    pub(crate) fn decode(&mut self, bytes: &[u8]) -> (u32, f64, usize) {
        let control = bytes[0];
        let time = TimeCode::of(bytes);
        let time_len = usize::from(TIME_BYTES[usize::from(time.kind)]);
        match time.kind {
            3 => (self.timestamp_s, self.step_s) = (time.bytes, 0),
            0 => self.timestamp_s = self.timestamp_s.wrapping_add(self.step_s),
            _ => {
                self.step_s = time.bytes;
                self.timestamp_s = self.timestamp_s.wrapping_add(self.step_s);
            }
        }
        let kind = control >> 3 & 7;
        let len = usize::from(control & 7) + usize::from(kind == BITS);
        let mut stored = [0; 8];
        stored[..len].copy_from_slice(&bytes[1 + time_len..1 + time_len + len]);
        let stored = u64::from_le_bytes(stored);
        let value = if kind == BITS {
            f64::from_bits(stored << (64 - 8 * len))
        } else {
            decimal((stored >> 1).cast_signed() ^ -(stored & 1).cast_signed(), kind)
        };
        (self.timestamp_s, value, 1 + time_len + len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(value: f64, want_len: u8) {
        for hint in 0..=7 {
            let mut kind = hint;
            let record = encode(TimeCode::absolute(77), value, &mut kind, true);
            let mut bytes = [0; RECORD_BYTES_MAX];
            record.write(&mut bytes);
            let (timestamp_s, got, len) = Decoder::default().decode(&bytes);
            assert_eq!((timestamp_s, got.to_bits()), (77, value.to_bits()), "{value} as {kind}");
            assert_eq!(len, usize::from(record.len));
            if hint == 7 {
                assert_eq!(record.len, 5 + want_len, "{value} as {kind}");
            }
        }
    }

    #[test]
    fn values_come_back_bit_by_bit() {
        check(0.0, 0);
        check(1.0, 1);
        check(-1.0, 1);
        check(127.0, 1);
        check(-128.0, 1);
        check(128.0, 2);
        check(1e6, 3);
        check(12.34, 2);
        check(-0.5, 1);
        check(99.999_999, 4);
        check(4_503_599_627_370_495.0, 7);
        check(4_503_599_627_370_496.0, 2);
        check(-0.0, 1);
        check(f64::INFINITY, 2);
        check(f64::NEG_INFINITY, 2);
        check(f64::NAN, 2);
        check(f64::MIN_POSITIVE, 2);
        check(5e-324, 8);
        check(f64::MAX, 8);
        check(1.0 / 3.0, 8);
        check(0.1 + 0.2, 8);
        let mut state = 1_u64;
        for _ in 0..50_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let value = f64::from_bits(state);
            let mut kind = 7;
            let record = encode(TimeCode::after(5, 6), value, &mut kind, true);
            let mut bytes = [0; RECORD_BYTES_MAX];
            record.write(&mut bytes);
            assert_eq!(Decoder::default().decode(&bytes).1.to_bits(), value.to_bits());
        }
    }

    #[test]
    fn marks_come_back_and_no_point_looks_like_one() {
        let check = |lateness: Lateness, want_len: usize| {
            let (mark, len) = lateness.mark();
            assert_eq!(len, want_len, "{lateness:?}");
            assert_eq!(Lateness::read_mark(&mark[..len]), Some((lateness, len)));
        };
        let after = |late_s: i32| Lateness::After(late_s.cast_unsigned());
        for (late_s, len) in [(0, 2), (127, 2), (-128, 2), (128, 3), (-129, 3), (32_767, 3)] {
            check(after(late_s), len);
        }
        check(Lateness::At(0), 5);
        check(Lateness::At(u32::MAX), 5);
        assert_eq!(after(-5).arrived_s(3), u32::MAX - 1);
        for value in [0.0, 1.0, -0.0, 0.5, f64::NAN, 1.0 / 3.0] {
            for time in [TimeCode::absolute(7), TimeCode::after(1, 1), TimeCode::after(300, 1)] {
                for mut kind in 0..=7 {
                    let record = encode(time, value, &mut kind, false);
                    let mut bytes = [0; 16];
                    record.write(&mut bytes);
                    assert_eq!(Lateness::read_mark(&bytes), None, "{value} {time:?} {kind}");
                }
            }
        }
    }

    #[test]
    fn times() {
        let mut bytes = Vec::new();
        let times = [
            (TimeCode::absolute(1_000), 1_000),
            (TimeCode::after(10, 0), 1_010),
            (TimeCode::after(10, 10), 1_020),
            (TimeCode::after(10, 10), 1_030),
            (TimeCode::after(65_535, 10), 66_565),
            (TimeCode::after(0, 65_535), 66_565),
            (TimeCode::absolute(5), 5),
            (TimeCode::after(0, 0), 5),
        ];
        for (time, _) in times {
            let record = encode(time, 1.0, &mut 0, false);
            let start = bytes.len();
            bytes.resize(start + usize::from(record.len), 0);
            record.write(&mut bytes[start..]);
            assert_eq!(TimeCode::of(&bytes[start..]), time);
        }
        assert_eq!(bytes.len(), 8 * 2 + 4 + 1 + 2 + 1 + 4);
        let (mut decoder, mut at) = (Decoder::default(), 0);
        for (_, want) in times {
            let (timestamp_s, _, len) = decoder.decode(&bytes[at..]);
            assert_eq!(timestamp_s, want);
            at += len;
        }
        assert_eq!(at, bytes.len());
    }
}
