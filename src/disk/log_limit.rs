//! The node's log while something fails all the time: a line a second for each cause.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use log::Level;

/// One line per cause and this interval.
const INTERVAL: Duration = Duration::from_secs(1);

/// Causes remembered for that; beyond it the table starts anew.
const CAUSES_MAX: usize = 256;

/// One line per cause and second; how many were held back is said with the next one.
#[derive(Debug, Default)]
pub struct LogLimit {
    causes: HashMap<String, (Instant, u64)>,
}

impl LogLimit {
    /// Writes the line, unless its cause has had one within the second.
    pub fn tell(&mut self, level: Level, cause: String, text: &str, now: Instant) {
        if self.causes.len() >= CAUSES_MAX {
            self.causes.clear();
        }
        match self.causes.get_mut(&cause) {
            Some((last, held_back)) if now.duration_since(*last) < INTERVAL => *held_back += 1,
            Some((last, held_back)) => {
                log::log!(level, "{text} also_held_back={held_back}");
                (*last, *held_back) = (now, 0);
            }
            None => {
                log::log!(level, "{text}");
                self.causes.insert(cause, (now, 0));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_has_a_line_a_second_and_the_rest_is_counted() {
        let mut limit = LogLimit::default();
        let begun = Instant::now();
        let mut tell = |cause: &str, millis: u64| {
            let now = begun + Duration::from_millis(millis);
            limit.tell(Level::Warn, cause.to_owned(), "text", now);
            let (last, held_back) = limit.causes[cause];
            (last == now, held_back)
        };
        assert_eq!(tell("a", 0), (true, 0));
        assert_eq!(tell("a", 10), (false, 1));
        assert_eq!(tell("b", 20), (true, 0), "causes do not know of each other");
        assert_eq!(tell("a", 999), (false, 2));
        assert_eq!(tell("a", 1_000), (true, 0));
        for cause in 0..CAUSES_MAX {
            tell(&format!("c{cause}"), 1_100);
        }
        assert!(limit.causes.len() <= CAUSES_MAX);
    }
}
