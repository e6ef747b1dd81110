//! Rates per second: how many updates and creations may still begin.

use std::time::{Duration, Instant};

/// The last tokens are for those who most often give theirs back within milliseconds: so many, and
/// they come round often enough.
const RESERVE: f64 = 256.0;

/// A token bucket over monotonic time: at most one second's worth may be saved up.
#[derive(Debug)]
pub(crate) struct Throttle {
    per_s: f64,
    tokens: f64,
    refilled: Instant,
}

impl Throttle {
    /// `per_s` 0 is no limit.
    pub(crate) fn new(per_s: f64, now: Instant) -> Throttle {
        Throttle { per_s, tokens: per_s.max(1.0), refilled: now }
    }

    /// Whether there is a limit.
    pub(crate) fn is_limited(&self) -> bool {
        self.per_s != 0.0
    }

    /// Takes one token if there is one.
    pub(crate) fn take(&mut self, now: Instant) -> bool {
        if self.per_s == 0.0 {
            return true;
        }
        let elapsed = now.saturating_duration_since(self.refilled);
        self.tokens = (self.tokens + elapsed.as_secs_f64() * self.per_s).min(self.per_s.max(1.0));
        self.refilled = now;
        if self.tokens < 1.0 {
            return false;
        }
        self.tokens -= 1.0;
        true
    }

    /// Whether fewer tokens are left than [`RESERVE`], or than half a second's worth.
    pub(crate) fn is_short(&self) -> bool {
        self.is_limited() && self.tokens < RESERVE.min(self.per_s / 2.0)
    }

    /// Gives a token back that was not needed.
    pub(crate) fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    /// How long until there is a token.
    pub(crate) fn wait(&self) -> Duration {
        if self.per_s == 0.0 || self.tokens >= 1.0 {
            return Duration::ZERO;
        }
        Duration::from_secs_f64((1.0 - self.tokens) / self.per_s)
    }

    /// Removes the limit, for the last flush before the node stops.
    pub(crate) fn lift(&mut self) {
        self.per_s = 0.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_brings_its_tokens_and_no_more_than_a_second_is_saved() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut throttle = Throttle::new(10.0, start);
        let taken =
            |throttle: &mut Throttle, ms| (0..100).filter(|_| throttle.take(at(ms))).count();
        assert_eq!(taken(&mut throttle, 0), 10);
        assert_eq!(taken(&mut throttle, 50), 0);
        assert_eq!(throttle.wait(), Duration::from_millis(50));
        assert_eq!(taken(&mut throttle, 500), 5);
        assert_eq!(taken(&mut throttle, 60_000), 10);
        throttle.lift();
        assert_eq!(taken(&mut throttle, 60_000), 100);
        let mut slow = Throttle::new(0.5, start);
        assert_eq!(
            (slow.take(at(0)), slow.take(at(1_000)), slow.take(at(2_000))),
            (true, false, true)
        );
    }
}
