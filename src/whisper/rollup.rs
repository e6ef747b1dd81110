//! Aggregates a window of finer values to one coarser value.
//!
//! Sums start at +0.0 and add oldest first without compensation, as CPython did before 3.12: a
//! compensated sum gives other bytes.

use crate::metric::series::Aggregation;

/// A window, fed slot by slot in time order. Constant size: no value is kept.
#[derive(Debug)]
pub(super) struct Rollup {
    method: Aggregation,
    slot_count: u32,
    known_count: u32,
    value: f64,
}

impl Rollup {
    /// An empty window.
    pub(super) fn new(method: Aggregation) -> Rollup {
        Rollup { method, slot_count: 0, known_count: 0, value: 0.0 }
    }

    /// Adds the next slot, `None` when its value is unknown.
    pub(super) fn push(&mut self, slot: Option<f64>) {
        self.slot_count += 1;
        let Some(value) = slot else { return };
        self.value = match self.method {
            // A zero in place of an unknown value changes no sum that started at +0.0.
            Aggregation::Average | Aggregation::Sum | Aggregation::AvgZero => self.value + value,
            Aggregation::Last => value,
            _ if self.known_count == 0 || self.prefers(value) => value,
            _ => self.value,
        };
        self.known_count += 1;
    }

    /// Adds slots whose values are unknown.
    pub(super) fn push_unknown(&mut self, slot_count: u32) {
        self.slot_count = self.slot_count.saturating_add(slot_count);
    }

    /// The coarser value, if at least one value is known and their share reaches `x_files_factor`.
    ///
    /// Both sides are compared as `f64`: 1 of 10 is less than the `f32` 0.1, as in whisper.
    pub(super) fn finish(self, x_files_factor: f32) -> Option<f64> {
        if self.known_count == 0 {
            return None;
        }
        let (known, all) = (f64::from(self.known_count), f64::from(self.slot_count));
        if known / all < f64::from(x_files_factor) {
            return None;
        }
        Some(match self.method {
            Aggregation::Average => self.value / known,
            Aggregation::AvgZero => self.value / all,
            _ => self.value,
        })
    }

    /// Whether a later value replaces the one held. False for every NaN on either side, so a NaN
    /// in first place stays and a later one is passed over; ties keep the first.
    fn prefers(&self, value: f64) -> bool {
        match self.method {
            Aggregation::Max => value > self.value,
            Aggregation::Min => value < self.value,
            Aggregation::AbsMax => value.abs() > self.value.abs(),
            Aggregation::AbsMin => value.abs() < self.value.abs(),
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Aggregation::*;

    fn roll(method: Aggregation, x_files_factor: f32, window: &[Option<f64>]) -> Option<f64> {
        let mut rollup = Rollup::new(method);
        window.iter().for_each(|slot| rollup.push(*slot));
        rollup.finish(x_files_factor)
    }

    #[test]
    fn methods_give_whispers_values() {
        let check = |method: Aggregation, window: &[Option<f64>], want: f64| {
            let got = roll(method, 0.0, window).expect("a value is known");
            assert_eq!(got.to_bits(), want.to_bits(), "{method:?} of {window:?}: {got}");
        };
        let mixed = [Some(3.0), Some(-7.0), Some(5.0), None, Some(7.0)];
        check(Average, &mixed, 2.0);
        check(Sum, &mixed, 8.0);
        check(Last, &mixed, 7.0);
        check(Max, &mixed, 7.0);
        check(Min, &mixed, -7.0);
        check(AvgZero, &mixed, 1.6);
        check(AbsMax, &mixed, -7.0);
        check(AbsMin, &mixed, 3.0);
        let zeros = [Some(-0.0), Some(-0.0)];
        check(Sum, &zeros, 0.0);
        check(AvgZero, &zeros, 0.0);
        check(Average, &zeros, 0.0);
        check(Last, &zeros, -0.0);
        check(Max, &[Some(-0.0), Some(0.0)], -0.0);
        check(Min, &[Some(0.0), Some(-0.0)], 0.0);
        check(AbsMax, &[Some(-1.0), Some(1.0)], -1.0);
        check(Sum, &[Some(1e16), Some(1.0), Some(-1e16)], 0.0);
        check(Sum, &[Some(0.1); 10], 0.999_999_999_999_999_9);
        check(Max, &[Some(1.0), Some(f64::NAN), Some(3.0)], 3.0);
        check(Min, &[Some(f64::NAN), Some(3.0)], f64::NAN);
    }

    #[test]
    fn x_files_factor_is_compared_as_f64() {
        let check = |x_files_factor: f32, known: usize, slots: usize, want: bool| {
            let mut window = vec![None; slots];
            window[..known].fill(Some(1.0));
            let got = roll(Last, x_files_factor, &window).is_some();
            assert_eq!(got, want, "{known} of {slots} against {x_files_factor}");
        };
        check(0.0, 0, 10, false);
        check(0.0, 1, 10, true);
        check(0.1, 1, 10, false);
        check(0.3, 3, 10, false);
        check(0.5, 1, 2, true);
        check(0.7, 7, 10, true);
        check(0.9, 9, 10, true);
        check(1.0, 4, 5, false);
        check(1.0, 5, 5, true);
    }
}
