//! What the logs of earlier runs say to be in files already, by metric.
//!
//! A first pass over all logs gathers it, before the second hands any point out: a point is
//! confirmed by a note that stands behind it, perhaps in the log of a later run.

use std::collections::{HashMap, HashSet};

use crate::wal::position::Position;
use crate::wal::segment::BootId;

/// Up to which position each metric's points are in its file.
#[derive(Debug)]
pub struct Confirmed {
    boot_id: BootId,
    /// By 128 bits of a keyed hash of the name: a collision would lose points, and names come from
    /// strangers.
    through: HashMap<(u64, u64), Position, ahash::RandomState>,
    hashers: [ahash::RandomState; 2],
    /// What notes say of files that were written and, as far as their log tells, not synced.
    open: Vec<((u64, u64), Position)>,
    /// A sync failed, or its end is not known.
    has_open_checkpoint: bool,
    rewrites: Vec<Rewrite>,
    /// Where points begin that were logged again and must not be replayed: those that they stand
    /// for are replayed instead.
    void: HashSet<Position>,
}

/// Points of one metric that were logged again together.
#[derive(Debug)]
struct Rewrite {
    key: (u64, u64),
    /// The record before the first of them.
    before: Position,
    /// They are void if the points they stand for are not confirmed: the note behind them was
    /// found, and does not count, or the end came before it.
    may_be_void: bool,
}

impl Confirmed {
    /// Nothing is confirmed. `boot_id` is of the kernel that runs now: what was written under
    /// another one is in its file only if it was synced.
    pub fn new(boot_id: BootId) -> Confirmed {
        let hashers = [ahash::RandomState::new(), ahash::RandomState::new()];
        Confirmed {
            boot_id,
            through: HashMap::default(),
            hashers,
            open: Vec::new(),
            has_open_checkpoint: false,
            rewrites: Vec::new(),
            void: HashSet::new(),
        }
    }

    /// All logs were surveyed. What was written under the kernel that runs now is in the page
    /// cache, unless a sync has failed since: of what it could not write, nobody can say what is
    /// left.
    pub fn end_survey(&mut self) {
        for (key, position) in std::mem::take(&mut self.open) {
            if !self.has_open_checkpoint {
                self.raise_key(key, position);
            }
        }
        for Rewrite { key, before, may_be_void } in std::mem::take(&mut self.rewrites) {
            let is_done = self.through.get(&key).is_some_and(|through| *through >= before);
            if !is_done && may_be_void {
                self.void.insert(before);
            }
        }
    }

    /// Up to where the points of this metric are in its file.
    pub fn through(&self, name: &[u8]) -> Option<Position> {
        self.through.get(&self.key(name)).copied()
    }

    /// Whether what a log of this kernel start has not synced is in its file all the same.
    pub(crate) fn is_same_boot(&self, boot_id: BootId) -> bool {
        self.boot_id == boot_id && boot_id != BootId::default()
    }

    pub(crate) fn raise(&mut self, name: &[u8], position: Position) {
        self.raise_key(self.key(name), position);
    }

    fn raise_key(&mut self, key: (u64, u64), position: Position) {
        let through = self.through.entry(key).or_default();
        *through = position.max(*through);
    }

    pub(crate) fn add_open(&mut self, name: &[u8], position: Position) {
        self.open.push((self.key(name), position));
    }

    pub(crate) fn set_open_checkpoint(&mut self) {
        self.has_open_checkpoint = true;
    }

    pub(crate) fn add_rewrite(&mut self, name: &[u8], before: Position, may_be_void: bool) {
        self.rewrites.push(Rewrite { key: self.key(name), before, may_be_void });
    }

    pub(crate) fn is_void(&self, position: Position) -> bool {
        self.void.contains(&position)
    }

    fn key(&self, name: &[u8]) -> (u64, u64) {
        let [one, other] = &self.hashers;
        (one.hash_one(name), other.hash_one(name))
    }
}
