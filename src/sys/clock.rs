//! The wall clock, for timestamps. Everything that waits uses `std::time::Instant`, which never
//! jumps when the clock is set.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Seconds since the Unix epoch; 0 when the clock is set before it, `u32::MAX` after 2106.
pub fn now_s() -> u32 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    u32::try_from(since.as_secs()).unwrap_or(u32::MAX)
}
