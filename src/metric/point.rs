//! One datapoint, and which timestamps and values are let in.
//!
//! Every receiver (lines, pickles) passes through [`admit`], so a point means the same however it
//! came. What is refused is counted by reason and dropped.

use std::fmt;

/// A value at a second. 12 bytes of information, 16 in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Seconds since the Unix epoch, as Whisper stores them.
    pub timestamp_s: u32,
    /// The value; never NaN when it came from a receiver.
    pub value: f64,
}

/// A point and the second in which it arrived, by the node's clock. 16 bytes in memory.
///
/// The arrival decides which archive of a Whisper file the point belongs to: its age counts from
/// then, however long the point waits before it is written.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Arrival {
    /// Seconds since the Unix epoch, as Whisper stores them.
    pub timestamp_s: u32,
    /// When the point arrived, in seconds since the Unix epoch.
    pub arrived_s: u32,
    /// The value; never NaN when it came from a receiver.
    pub value: f64,
}

impl Arrival {
    /// A point that arrived at `arrived_s`.
    pub fn new(point: Point, arrived_s: u32) -> Arrival {
        Arrival { timestamp_s: point.timestamp_s, arrived_s, value: point.value }
    }

    /// The point alone.
    pub fn point(self) -> Point {
        Point { timestamp_s: self.timestamp_s, value: self.value }
    }

    /// How old the point was when it arrived, in seconds; 0 for a point ahead of the clock.
    pub fn age_s(self) -> u32 {
        self.arrived_s.saturating_sub(self.timestamp_s)
    }
}

/// A point as a receiver found it: nothing is checked yet.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Received<'a> {
    /// The metric's name as received: any bytes.
    pub name: &'a [u8],
    /// The value; may be NaN or infinite.
    pub value: f64,
    /// Seconds since the Unix epoch; any number, also NaN.
    pub timestamp: f64,
}

/// Why a point is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum PointError {
    /// The value is not a number.
    ValueNan = 0,
    /// The timestamp is infinite or not a number.
    TimestampNotFinite = 1,
    /// The timestamp is in or before the first second of the epoch. Whisper marks an empty slot
    /// with 0, so no point can lie there.
    TimestampNegative = 2,
    /// The timestamp is further ahead than allowed: milliseconds, or 32 bits overflown. Stored,
    /// it would take the ring slot of a point that is still wanted.
    TimestampFuture = 3,
}

impl PointError {
    /// All reasons, in the order of their numbers.
    pub const ALL: [PointError; 4] = [
        PointError::ValueNan,
        PointError::TimestampNotFinite,
        PointError::TimestampNegative,
        PointError::TimestampFuture,
    ];

    /// The reason as a word for counters: lower case, no blanks, never changed.
    pub fn label(self) -> &'static str {
        match self {
            PointError::ValueNan => "value_nan",
            PointError::TimestampNotFinite => "timestamp_not_finite",
            PointError::TimestampNegative => "timestamp_negative",
            PointError::TimestampFuture => "timestamp_future",
        }
    }
}

impl fmt::Display for PointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.label())
    }
}

impl std::error::Error for PointError {}

/// The point that a received pair makes, with the clock at `now_s` seconds.
///
/// Fractions of a second are cut off. A timestamp of -1, up to -2 exclusive, means now, as carbon
/// has it. Infinite values are kept.
///
/// # Errors
/// A NaN value, and a timestamp that is not finite, not after the first second of the epoch, or
/// more than `future_s_max` seconds after `now_s`.
pub fn admit(
    timestamp: f64,
    value: f64,
    now_s: u32,
    future_s_max: u32,
) -> Result<Point, PointError> {
    if value.is_nan() {
        return Err(PointError::ValueNan);
    }
    let latest_s = now_s.saturating_add(future_s_max);
    if timestamp >= 1.0 && timestamp < f64::from(latest_s) + 1.0 {
        return Ok(Point { timestamp_s: whole_seconds(timestamp), value });
    }
    if !timestamp.is_finite() {
        Err(PointError::TimestampNotFinite)
    } else if timestamp > -2.0 && timestamp <= -1.0 {
        Ok(Point { timestamp_s: now_s, value })
    } else if timestamp < 1.0 {
        Err(PointError::TimestampNegative)
    } else {
        Err(PointError::TimestampFuture)
    }
}

/// The timestamp without its fraction; the caller has seen that it fits.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "cutting the fraction off is the purpose, and the range is checked: 1 <= t < 2^32"
)]
fn whole_seconds(timestamp: f64) -> u32 {
    debug_assert!((1.0..4_294_967_296.0).contains(&timestamp));
    timestamp as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_S: u32 = 1_700_000_000;
    const FUTURE_S_MAX: u32 = 600;

    fn check(timestamp: f64, want: Result<u32, PointError>) {
        let got = admit(timestamp, 1.5, NOW_S, FUTURE_S_MAX);
        assert_eq!(got, want.map(|timestamp_s| Point { timestamp_s, value: 1.5 }), "{timestamp}");
    }

    #[test]
    fn timestamps() {
        check(1_000_000_000.0, Ok(1_000_000_000));
        check(1_000_000_000.75, Ok(1_000_000_000));
        check(1.0, Ok(1));
        check(1_700_000_600.0, Ok(1_700_000_600));
        check(1_700_000_600.9, Ok(1_700_000_600));
        check(1_700_000_601.0, Err(PointError::TimestampFuture));
        check(1_700_000_000_000.0, Err(PointError::TimestampFuture));
        check(4_294_967_296.0 + 1_700_000_000.0, Err(PointError::TimestampFuture));
        check(1e300, Err(PointError::TimestampFuture));
        check(-1.0, Ok(NOW_S));
        check(-1.99, Ok(NOW_S));
        check(-2.0, Err(PointError::TimestampNegative));
        check(-0.5, Err(PointError::TimestampNegative));
        check(0.0, Err(PointError::TimestampNegative));
        check(0.99, Err(PointError::TimestampNegative));
        check(-1e300, Err(PointError::TimestampNegative));
        check(f64::NAN, Err(PointError::TimestampNotFinite));
        check(f64::INFINITY, Err(PointError::TimestampNotFinite));
        check(f64::NEG_INFINITY, Err(PointError::TimestampNotFinite));
    }

    #[test]
    fn the_last_second_of_32_bits_is_the_limit_of_any_future() {
        let far = |timestamp| admit(timestamp, 0.0, u32::MAX - 1, 600).map(|p| p.timestamp_s);
        assert_eq!(far(4_294_967_295.5), Ok(u32::MAX));
        assert_eq!(far(4_294_967_296.0), Err(PointError::TimestampFuture));
    }

    #[test]
    fn values() {
        let value = |value| admit(1e9, value, NOW_S, FUTURE_S_MAX).map(|point| point.value);
        assert_eq!(value(f64::INFINITY), Ok(f64::INFINITY));
        assert_eq!(value(-0.0).map(f64::to_bits), Ok((-0.0_f64).to_bits()));
        assert_eq!(value(f64::NAN), Err(PointError::ValueNan));
        assert_eq!(value(-f64::NAN), Err(PointError::ValueNan));
    }
}
