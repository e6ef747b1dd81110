//! One datapoint.

/// A value at a second. 12 bytes of information, 16 in memory.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Seconds since the Unix epoch, as Whisper stores them.
    pub timestamp_s: u32,
    /// The value; never NaN when it came from a receiver.
    pub value: f64,
}
