//! Which files may be written without care for what a crash makes the log repeat.
//!
//! What is in a file and not known to be on stable storage may be replayed after a loss of power,
//! over a file that has any part of it. That changes nothing as long as the updates since the last
//! sync do not lap a ring of the file (see `whisper::Reach`). Most updates are *near* the last
//! syncs in time, by a quarter of each ring: these never lap each other, whatever their number.
//! Any other update is made alone: a sync that succeeds comes before it and one after it. Only
//! metrics with such an update have an entry here.
//!
//! A checkpoint is a sync of all files; numbers are of checkpoints since the start.

use std::collections::HashMap;

use crate::cache::MetricId;
use crate::whisper::Near;

/// A metric with more waiting points than this is written even so, and counted: one whose senders
/// keep on lapping its ring must not fill the memory that all share. At a sync for a few points
/// each it would not come to an end.
const WAITING_MAX: u32 = 1_024;

/// Memory of one entry in bytes, with its share of the table.
const ENTRY_BYTES: usize = 2 * size_of::<(MetricId, Entry)>();

/// How far an update of a file may reach.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limit {
    /// What it is near to, or not.
    pub near: Near,
    /// It need not be near: nothing before it can be repeated, or nothing ever is.
    pub is_alone: bool,
}

/// An update that was not near, made or waiting.
#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The checkpoint after which nothing of the metric can be repeated.
    covered_by: u64,
    note: Note,
}

/// Whether the log says which of a metric's points are in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    Logged,
    /// The log has no room now.
    Pending,
    /// It never will: too many of the metric's points wait.
    Impossible,
}

/// What a shard knows of updates since the last syncs.
#[derive(Debug, Default)]
pub(super) struct Unsynced {
    begun: u64,
    begun_s: u32,
    succeeded: u64,
    near: Near,
    /// A file was written since the last checkpoint began.
    has_written: bool,
    /// The node drains: nothing waits.
    is_lifted: bool,
    /// The latest checkpoint that an entry waits for.
    wanted: u64,
    entries: HashMap<MetricId, Entry, ahash::RandomState>,
}

impl Unsynced {
    /// Sets the first time: nothing of this run is written yet.
    pub(super) fn begin(&mut self, now_s: u32) {
        self.near = Near { before_s: now_s, last_s: now_s };
    }

    /// From now on nothing waits for a sync.
    pub(super) fn lift(&mut self) {
        self.is_lifted = true;
    }

    pub(super) fn checkpoint_begun(&mut self, now_s: u32) {
        self.begun += 1;
        self.begun_s = now_s;
        self.has_written = false;
    }

    pub(super) fn checkpoint_succeeded(&mut self) {
        if self.succeeded < self.begun {
            self.succeeded = self.begun;
            self.near = Near { before_s: self.near.last_s, last_s: self.begun_s };
        }
    }

    /// Whether an update waits for a checkpoint that has not begun.
    pub(super) fn wants_checkpoint(&self) -> bool {
        self.wanted > self.begun
    }

    /// Whether something waits for a checkpoint.
    pub(super) fn waits(&self) -> bool {
        self.wanted > self.succeeded
    }

    pub(super) fn has_written(&self) -> bool {
        self.has_written
    }

    /// The limit of the metric's next update; `None`: it has to wait for a checkpoint.
    pub(super) fn limit(&self, metric: MetricId, waiting_count: u32) -> Option<Limit> {
        let near = self.near;
        let entry = if self.entries.is_empty() { None } else { self.entries.get(&metric) };
        match entry {
            None => Some(Limit { near, is_alone: false }),
            Some(entry) => {
                let may_go_on = self.is_covered(entry)
                    || entry.note == Note::Impossible
                    || self.is_lifted
                    || waiting_count > WAITING_MAX;
                may_go_on.then_some(Limit { near, is_alone: true })
            }
        }
    }

    /// Whether the metric's next update is made although one before it may be repeated and lap it.
    pub(super) fn is_forced(&self, metric: MetricId) -> bool {
        self.entries.get(&metric).is_some_and(|entry| !self.is_covered(entry))
    }

    /// The metric's update would reach too far and was not made.
    pub(super) fn refused(&mut self, metric: MetricId, note: Note) {
        self.add(metric, note);
    }

    /// The metric's file was written, or may have been in part, by an update with this limit.
    pub(super) fn written(&mut self, metric: MetricId, limit: Limit, is_near: bool, note: Note) {
        self.has_written = true;
        // An update that was long on its way is near to what is past.
        let last_s = limit.near.last_s;
        let is_current = last_s == self.near.last_s || last_s == self.near.before_s;
        if !is_near || !is_current || self.is_forced(metric) {
            self.add(metric, note);
        } else if limit.is_alone {
            self.entries.remove(&metric);
        }
    }

    /// What has become of a note of the metric that the log had no room for before.
    pub(super) fn noted(&mut self, metric: MetricId, note: Note) {
        if let Some(entry) = self.entries.get_mut(&metric) {
            *entry = Entry { covered_by: self.begun + 1, note };
            self.want(note);
        }
    }

    /// The metric is forgotten, or has nothing to write: no update waits.
    pub(super) fn forget(&mut self, metric: MetricId) {
        self.entries.remove(&metric);
    }

    /// Drops entries of metrics for which `has_points` is false and that nothing is left to know
    /// of.
    pub(super) fn prune(&mut self, has_points: impl Fn(MetricId) -> bool) {
        let succeeded = self.succeeded;
        self.entries.retain(|&metric, entry| {
            entry.note == Note::Pending || entry.covered_by > succeeded || has_points(metric)
        });
        if self.entries.is_empty() {
            self.entries = HashMap::default();
        }
    }

    /// Memory taken, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.entries.capacity() * ENTRY_BYTES
    }

    fn add(&mut self, metric: MetricId, note: Note) {
        let covered_by = self.begun + 1;
        self.entries.insert(metric, Entry { covered_by, note });
        self.want(note);
    }

    /// Wants a checkpoint, if one can cover an entry with this note.
    fn want(&mut self, note: Note) {
        if note != Note::Impossible {
            self.wanted = self.begun + 1;
        }
    }

    fn is_covered(&self, entry: &Entry) -> bool {
        entry.note == Note::Logged && entry.covered_by <= self.succeeded
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cache::Cache;

    #[test]
    fn only_an_update_that_a_checkpoint_can_cover_asks_for_one() {
        let (metric, _) = Cache::new().find_or_add(b"m");
        let mut unsynced = Unsynced::default();
        unsynced.refused(metric, Note::Impossible);
        assert!(!unsynced.wants_checkpoint());
        unsynced.noted(metric, Note::Impossible);
        assert!(!unsynced.wants_checkpoint());
        unsynced.noted(metric, Note::Logged);
        assert!(unsynced.wants_checkpoint());
        unsynced.checkpoint_begun(1);
        assert!(!unsynced.wants_checkpoint() && unsynced.waits());
    }
}
