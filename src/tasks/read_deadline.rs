//! How long a connection may take for its next bytes.

use std::time::{Duration, Instant};

use crate::tasks::core::ConnectionOptions;

/// The time a connection may still take for what it is waiting for.
#[derive(Debug)]
pub(crate) struct ReadDeadline {
    options: ConnectionOptions,
    /// When the first byte of the unfinished message came.
    message_since: Option<Instant>,
}

impl ReadDeadline {
    pub(crate) fn new(options: ConnectionOptions) -> ReadDeadline {
        ReadDeadline { options, message_since: None }
    }

    /// How long to wait for the next bytes, after `stalled` time in which we did not read.
    pub(crate) fn timeout(&mut self, stalled: Duration) -> Option<Duration> {
        let Some(since) = &mut self.message_since else { return self.options.idle_timeout };
        *since += stalled;
        let left = self.options.message_timeout.saturating_sub(since.elapsed());
        Some(left.max(Duration::from_millis(1)))
    }

    /// Whether an unfinished message is left over now; its first byte came with the last read if
    /// `is_new`.
    pub(crate) fn unfinished(&mut self, unfinished: bool, is_new: bool) {
        if !unfinished {
            self.message_since = None;
        } else if is_new || self.message_since.is_none() {
            self.message_since = Some(Instant::now());
        }
    }
}
