//! One archive of a file: which slot an interval belongs to, and the bytes of a slot.
//!
//! Distances may be negative (an interval older than the base), so the arithmetic is Euclidean.

/// Bytes of one slot: a `u32` interval and an `f64` value.
pub const SLOT_BYTES: usize = 12;

/// Where an archive lies in its file, and its shape. `step_s` and `slot_count` are never 0 in an
/// archive that belongs to a [`Header`](super::Header).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Archive {
    /// Byte offset of slot 0 in the file.
    pub offset: u32,
    /// Seconds between two points.
    pub step_s: u32,
    /// Number of slots.
    pub slot_count: u32,
}

impl Archive {
    /// Seconds covered by the archive.
    pub fn span_s(&self) -> u64 {
        u64::from(self.step_s) * u64::from(self.slot_count)
    }

    /// The time that lies as far before `now_s` as the archive reaches back; at least -2^62.
    pub(super) fn oldest_s(&self, now_s: u32) -> i64 {
        let span_s = i64::try_from(self.span_s().min(1 << 62)).expect("2^62 is an i64");
        i64::from(now_s) - span_s
    }

    /// Byte offset of the end of the archive.
    pub fn end(&self) -> u64 {
        self.slot_offset(self.slot_count)
    }

    /// Byte offset of a slot.
    pub fn slot_offset(&self, slot: u32) -> u64 {
        u64::from(self.offset) + slots_bytes_u64(slot)
    }

    /// The interval that contains a timestamp.
    pub fn interval(&self, timestamp_s: u32) -> u32 {
        timestamp_s - timestamp_s % self.step_s
    }

    /// The slot of an interval when slot 0 holds `base_s`, which is not 0 or is the interval that
    /// is about to be the first.
    pub fn slot(&self, interval_s: i64, base_s: u32) -> u32 {
        // The usual case, in the cheap width: an update divides a few times per coarser point.
        if let Ok(ahead_s) = u32::try_from(interval_s - i64::from(base_s)) {
            return ahead_s / self.step_s % self.slot_count;
        }
        let steps = (interval_s - i64::from(base_s)).div_euclid(i64::from(self.step_s));
        let slot = steps.rem_euclid(i64::from(self.slot_count));
        u32::try_from(slot).expect("a remainder of a u32 is a u32")
    }

    /// How many slots a ring is turned to bring a slot to its front, and back again.
    pub(super) fn turn_to_front(&self, slot: u32) -> u32 {
        if slot == 0 { 0 } else { self.slot_count - slot }
    }

    /// How many slots are read to make one point of an archive with steps of `coarse_step_s`,
    /// at least `step_s` seconds: those of the point's interval, or fewer when the ring is shorter.
    pub fn window_slot_count(&self, coarse_step_s: u32) -> u32 {
        (coarse_step_s / self.step_s - 1) % self.slot_count + 1
    }
}

/// Bytes of `count` slots in a file.
fn slots_bytes_u64(count: u32) -> u64 {
    u64::from(count) * 12
}

/// Bytes of `count` slots in memory.
pub(super) fn slots_bytes(count: u32) -> usize {
    index(count) * SLOT_BYTES
}

/// A count or slot as an index into memory.
pub(super) fn index(count: u32) -> usize {
    usize::try_from(count).expect("usize has at least 32 bits")
}

/// Writes a slot into its 12 bytes.
pub(super) fn encode_slot(bytes: &mut [u8], interval_s: u32, value: f64) {
    bytes[..4].copy_from_slice(&interval_s.to_be_bytes());
    bytes[4..SLOT_BYTES].copy_from_slice(&value.to_be_bytes());
}

/// The interval of a slot, from its 12 bytes.
pub(super) fn decode_interval(bytes: &[u8]) -> u32 {
    u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]])
}

/// The value of a slot, from its 12 bytes.
pub(super) fn decode_value(bytes: &[u8]) -> f64 {
    let value: [u8; 8] = bytes[4..SLOT_BYTES].try_into().expect("8 bytes were cut");
    f64::from_be_bytes(value)
}

/// How many slots of an archive hold an interval that no reader looks for there: not a multiple of
/// the step, another slot's, or any at all in an archive that counts as empty. `file` reaches at
/// least to the archive's end.
pub fn misplaced_slots(file: &[u8], archive: &Archive) -> u32 {
    let start = index(archive.offset);
    let slots = &file[start..start + slots_bytes(archive.slot_count)];
    let base_s = decode_interval(slots);
    let is_misplaced = |(slot, bytes): &(u32, &[u8])| {
        let interval_s = decode_interval(bytes);
        interval_s != 0
            && (base_s == 0
                || !interval_s.is_multiple_of(archive.step_s)
                || archive.slot(i64::from(interval_s), base_s) != *slot)
    };
    let count = (0..).zip(slots.chunks_exact(SLOT_BYTES)).filter(is_misplaced).count();
    u32::try_from(count).expect("at most the archive's slots")
}

/// The value of a slot if it holds the expected interval; a slot of another lap, or one never
/// written, is null.
pub(super) fn decode_known(bytes: &[u8], expected_s: i64) -> Option<f64> {
    (i64::from(decode_interval(bytes)) == expected_s).then(|| decode_value(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHIVE: Archive = Archive { offset: 28, step_s: 60, slot_count: 5 };

    #[test]
    fn slots_count_from_the_base_in_both_directions() {
        let check = |interval_s: i64, base_s: u32, want: u32| {
            assert_eq!(ARCHIVE.slot(interval_s, base_s), want, "{interval_s} from {base_s}");
        };
        check(6_000, 6_000, 0);
        check(6_060, 6_000, 1);
        check(6_240, 6_000, 4);
        check(6_300, 6_000, 0);
        check(5_940, 6_000, 4);
        check(5_700, 6_000, 0);
        check(0, u32::MAX, 1);
        check(6_000, 6_007, 4);
        check(6_060, 6_007, 0);
        check(-60, 60, 3);
        check(i64::from(u32::MAX) + 61, 6_000, ARCHIVE.slot(4_294_967_356, 0));
    }

    #[test]
    fn windows_never_exceed_the_ring() {
        let check = |coarse_step_s: u32, want: u32| {
            assert_eq!(ARCHIVE.window_slot_count(coarse_step_s), want, "{coarse_step_s}");
        };
        check(60, 1);
        check(119, 1);
        check(240, 4);
        check(300, 5);
        check(360, 1);
        check(u32::MAX, 3);
    }

    #[test]
    fn misplaced_slots_are_counted() {
        let check = |slots: [u32; 5], want: u32| {
            let mut file = vec![0; 28];
            slots.iter().for_each(|interval_s| {
                file.extend_from_slice(&interval_s.to_be_bytes());
                file.extend_from_slice(&1.0_f64.to_be_bytes());
            });
            assert_eq!(misplaced_slots(&file, &ARCHIVE), want, "{slots:?}");
        };
        check([0, 0, 0, 0, 0], 0);
        check([6_000, 6_060, 0, 0, 6_240], 0);
        check([6_000, 5_760, 6_420, 0, 6_240], 0);
        check([6_000, 6_000, 0, 0, 0], 1);
        check([6_000, 6_061, 0, 6_240, 0], 2);
        check([0, 6_060, 6_120, 0, 0], 2);
        check([6_001, 6_060, 0, 0, 0], 2);
    }

    #[test]
    fn slots_are_big_endian() {
        let mut bytes = [0; SLOT_BYTES];
        encode_slot(&mut bytes, 1_699_999_980, 1.5);
        assert_eq!(bytes, [0x65, 0x53, 0xf0, 0xec, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0]);
        assert_eq!(decode_known(&bytes, 1_699_999_980), Some(1.5));
        assert_eq!(decode_known(&bytes, 1_699_999_920), None);
        assert_eq!(decode_known(&bytes, 1_699_999_980 - (1 << 32)), None);
    }
}
