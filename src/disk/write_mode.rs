//! Which way the writer goes: system calls one after another, or the ring.
//!
//! While the pages of the files are in memory, plain calls cost the least. When they are not, each
//! plain call waits for the device alone; the ring reads what a whole batch needs at once, at twice
//! the rate and less CPU time. A program cannot ask which of the two holds, so it measures: a
//! plain batch in whose course the thread had to wait often was cold. The ring is then used for
//! some batches, after which a plain one looks again; how many doubles each time it finds the files
//! cold still. So a cold sweep spends a sixtieth of its batches looking, and a hot one after a cold
//! one is noticed within 64 batches, 4,096 files.

/// How the files of a batch are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteMode {
    /// File after file, by plain calls.
    Plain,
    /// All files together: what must be read goes through the ring first.
    Ring,
}

/// A batch is cold when the thread waited once for this many files or fewer. A cold file makes it
/// wait twice or more, and the ring pays from one cold file in twenty on.
const FILES_PER_WAIT: u64 = 8;

/// Fewer waits say nothing: the journal or the flusher may have been in the way.
const WAITS_MIN: u64 = 4;

/// Batches through the ring before a plain one looks again, at first and at most.
const RING_BATCHES_MIN: u32 = 8;
const RING_BATCHES_MAX: u32 = 64;

/// Decides the way of each batch.
#[derive(Debug)]
pub(super) struct WriteModeSelector {
    /// Batches through the ring still to come.
    ring_left: u32,
    /// How many the next cold batch brings.
    ring_next: u32,
}

impl WriteModeSelector {
    /// Files are taken to be hot until they show that they are not.
    pub(super) fn new() -> WriteModeSelector {
        WriteModeSelector { ring_left: 0, ring_next: RING_BATCHES_MIN }
    }

    /// The way of the next batch.
    pub(super) fn next(&mut self) -> WriteMode {
        if self.ring_left == 0 {
            return WriteMode::Plain;
        }
        self.ring_left -= 1;
        WriteMode::Ring
    }

    /// A plain batch of `files` files made the thread wait `waits` times.
    pub(super) fn judge(&mut self, files: usize, waits: u64) {
        if waits >= WAITS_MIN && waits.saturating_mul(FILES_PER_WAIT) >= files as u64 {
            self.ring_left = self.ring_next;
            self.ring_next = (self.ring_next * 2).min(RING_BATCHES_MAX);
        } else {
            self.ring_next = RING_BATCHES_MIN;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The lengths of the ring's turns between plain batches with these numbers of waits.
    fn turns(files: usize, waits: &[u64]) -> Vec<u32> {
        let mut selector = WriteModeSelector::new();
        let turn = |&waits: &u64| {
            assert_eq!(selector.next(), WriteMode::Plain);
            selector.judge(files, waits);
            let mut count = 0;
            while selector.ring_left > 0 {
                assert_eq!(selector.next(), WriteMode::Ring);
                count += 1;
            }
            count
        };
        waits.iter().map(turn).collect()
    }

    #[test]
    fn cold_batches_bring_the_ring_for_longer_and_longer_and_a_hot_one_ends_it() {
        assert_eq!(turns(64, &[0, 7, 0]), [0, 0, 0]);
        assert_eq!(turns(64, &[8, 128, 64, 64, 64]), [8, 16, 32, 64, 64]);
        assert_eq!(turns(64, &[64, 64, 7, 64]), [8, 16, 0, 8]);
        assert_eq!(turns(2, &[3, 4]), [0, 8]);
    }
}
