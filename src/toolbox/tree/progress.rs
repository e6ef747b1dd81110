//! Progress of a long command: files, files a second, and the remaining time.
//!
//! On a terminal one line is rewritten five times a second; with `--progress` into a file or pipe
//! a line appears every ten seconds. The time left is known once all files are counted, which a
//! thread of its own does meanwhile.

use std::io::{IsTerminal, Write};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often a terminal's line is rewritten.
pub(crate) const TICK: Duration = Duration::from_millis(200);

/// How often a line appears elsewhere.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What the threads of a command count together.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Files done.
    pub(crate) done: AtomicU64,
    /// Files found so far by the counting thread.
    pub(crate) found: AtomicU64,
    /// The counting thread has seen all.
    pub(crate) all_found: AtomicBool,
    /// The output is closed: all threads end.
    pub(crate) stop: AtomicBool,
}

/// The line that tells of it.
#[derive(Debug)]
pub(crate) struct Progress {
    is_terminal: bool,
    is_shown: bool,
    begun: Instant,
    told: Instant,
}

impl Progress {
    /// Shown when standard error is a terminal, or `is_wanted`.
    pub(crate) fn new(is_wanted: bool) -> Progress {
        let is_terminal = std::io::stderr().is_terminal();
        let now = Instant::now();
        Progress { is_terminal, is_shown: is_wanted || is_terminal, begun: now, told: now }
    }

    /// Whether anything is shown, so that the files are worth counting first.
    pub(crate) fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Shows the line if it is time to. A standard error that is gone is not worth an error.
    pub(crate) fn tick(&mut self, counters: &Counters, err: &mut dyn Write) {
        let every = if self.is_terminal { TICK } else { LINE_EVERY };
        if self.is_shown && self.told.elapsed() >= every {
            self.told = Instant::now();
            self.show(counters, err);
        }
    }

    /// Shows the last state; on a terminal, clears the line for what follows.
    pub(crate) fn finish(&mut self, counters: &Counters, err: &mut dyn Write) {
        if self.is_terminal {
            let _ = write!(err, "\r\x1b[K");
        } else if self.is_shown {
            self.show(counters, err);
        }
        let _ = err.flush();
    }

    fn show(&self, counters: &Counters, err: &mut dyn Write) {
        let done = counters.done.load(Ordering::Relaxed);
        let all_found = counters.all_found.load(Ordering::Acquire);
        let total = all_found.then(|| counters.found.load(Ordering::Relaxed));
        let text = line(done, total, self.begun.elapsed());
        let _ = match self.is_terminal {
            true => write!(err, "\r{text}\x1b[K"),
            false => writeln!(err, "{text}"),
        };
        let _ = err.flush();
    }
}

fn line(done: u64, total: Option<u64>, elapsed: Duration) -> String {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
    let rate = done.saturating_mul(1_000) / millis;
    let Some(total) = total else { return format!("{done} files, {rate}/s, counting") };
    let left_s = total.saturating_sub(done).checked_div(rate);
    let left = left_s.map_or("unknown time".to_owned(), duration);
    format!("{done} of {total} files, {rate}/s, {left} left")
}

fn duration(seconds: u64) -> String {
    let (hours, minutes) = (seconds / 3_600, seconds / 60 % 60);
    match (hours, minutes) {
        (0, 0) => format!("{seconds}s"),
        (0, _) => format!("{minutes}m{:02}s", seconds % 60),
        _ => format!("{hours}h{minutes:02}m"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_say_rate_and_remaining_time() {
        let check = |done, total, seconds, want: &str| {
            assert_eq!(line(done, total, Duration::from_secs(seconds)), want);
        };
        check(0, None, 0, "0 files, 0/s, counting");
        check(0, Some(10), 2, "0 of 10 files, 0/s, unknown time left");
        check(600, Some(1_000), 2, "600 of 1000 files, 300/s, 1s left");
        check(100, Some(12_700), 1, "100 of 12700 files, 100/s, 2m06s left");
        check(100, Some(1_000_100), 1, "100 of 1000100 files, 100/s, 2h46m left");
        check(10, Some(9), 1, "10 of 9 files, 10/s, 0s left");
    }
}
