//! Names without a file: found out soon, and kept from taking the memory of the others.
//!
//! A metric is *undecided* until somebody has looked for its file, *known* when it has one, and
//! *new* when it has none and must wait for the limit on new files. Keeps true:
//! - Undecided metrics are looked for in the order of their arrival, in turn with the files of the
//!   sweep: neither a flood of names that have no file nor many files hold the other up. Looking
//!   costs the writer one call that fails; the limits on updates and on new files do not count it.
//! - New metrics take [`NEW_PERCENT`] of the memory at most, with their entries, names and points.
//!   Beyond it the points of those that come are dropped and counted; that a name was found without
//!   a file is remembered for a while, so that it is not looked for at each of its points.
//! - Receiving for a known metric costs nothing more: new ones are hidden from the receive path
//!   (see `cache::hidden`), and come through here.
//!
//! Without a limit on new files none waits longer than the disk takes to make them; then there is
//! no share, and senders wait as they do for any slow disk. The node's own metrics are exempt: they
//! are few, and tell of the flood.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::cache::{MetricId, NEW_METRIC_BYTES};
use crate::metric::point::Point;
use crate::shard::{NEW_PERCENT, Shard};
use crate::stats::DropReason;

/// Undecided metrics that a sweep looks for when there is a limit on new files: a tenth of a
/// second's work. Then, as soon as it has nothing else to do, the next one begins, with what has
/// come meanwhile for known metrics. Without a limit it looks for all that were there when it
/// began.
const REST_MAX: usize = 16_384;

/// Names remembered that have been found without a file, 8 bytes each: as many as this part of the
/// budget holds, and no more than a million.
const ABSENT_SHARE: usize = 16;
const ABSENT_MAX: usize = 1 << 20;

/// A name that had no file may have got one by another program after this many seconds, and is
/// looked for again.
const ABSENT_S: u32 = 60;

/// Least time between two lines in the log about dropped points.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// What a shard keeps to deal with new names.
#[derive(Debug, Default)]
pub(super) struct NewNames {
    /// Undecided metrics in the order of their arrival, 4 bytes each. One that was forgotten
    /// meanwhile may be among them until its turn comes.
    undecided: VecDeque<MetricId>,
    /// The sweep has had its turn.
    is_turn: bool,
    /// Undecided metrics that the sweep is still to look for.
    rest: usize,
    absent: Absent,
    dropped: Dropped,
}

/// Points dropped since the last line in the log, and the first name.
#[derive(Debug, Default)]
struct Dropped {
    count: u64,
    example: Vec<u8>,
    told: Option<Instant>,
}

/// Names that were found without a file and had no room. One slot for each place that a hash has:
/// what is forgotten is looked for once more.
#[derive(Debug, Default)]
struct Absent {
    /// 32 bits of the hash, and the second in which it was found so.
    slots: Vec<(u32, u32)>,
}

impl Absent {
    fn place(&self, hash: u64) -> Option<(usize, u32)> {
        let place = usize::try_from(hash >> 32).ok()?.checked_rem(self.slots.len())?;
        Some((place, u32::try_from(hash & 0xffff_ffff).ok()?))
    }

    fn add(&mut self, hash: u64, now_s: u32, budget_bytes: usize) {
        if self.slots.is_empty() {
            let count = budget_bytes / ABSENT_SHARE / size_of::<(u32, u32)>();
            self.slots = vec![(0, 0); count.min(ABSENT_MAX)];
        }
        if let Some((place, check)) = self.place(hash) {
            self.slots[place] = (check, now_s);
        }
    }

    fn holds(&self, hash: u64, now_s: u32) -> bool {
        self.place(hash).is_some_and(|(place, check)| {
            let (held, found_s) = self.slots[place];
            // A clock that was set back makes everything old.
            held == check && now_s.wrapping_sub(found_s) < ABSENT_S
        })
    }
}

impl NewNames {
    /// Memory of the names found without a file.
    pub(super) fn bytes(&self) -> usize {
        self.absent.slots.len() * size_of::<(u32, u32)>()
    }

    /// A sweep begins.
    pub(super) fn begin_sweep(&mut self, is_limited: bool) {
        let count = self.undecided.len();
        self.rest = if is_limited { count.min(REST_MAX) } else { count };
    }

    /// The sweep had its turn, or can do nothing now.
    pub(super) fn end_turn(&mut self) {
        self.is_turn = true;
    }

    /// Whether undecided metrics are left for this sweep, which has nothing else to do.
    pub(super) fn has_rest(&self) -> bool {
        !self.undecided.is_empty() && self.rest > 0
    }
}

impl Shard {
    /// A metric got an entry: somebody must look for its file.
    pub(super) fn begin(&mut self, metric: MetricId) {
        self.files.begin(metric);
        self.new_names.undecided.push_back(metric);
    }

    /// Takes a point of a name that the receive path does not find.
    pub(super) fn accept_named(&mut self, name: &[u8], point: Point) {
        if self.refuse_new(name) {
            self.counters.accepted += 1;
            return;
        }
        let (metric, is_added) = self.cache.find_or_add(name);
        if is_added {
            self.begin(metric);
            return self.accept(metric, point);
        }
        self.accept(metric, point);
        self.charge(metric);
    }

    /// Takes a point of one of the node's own metrics, which are exempt.
    pub(super) fn accept_own(&mut self, name: &[u8], point: Point) {
        let (metric, is_added) = self.cache.find_or_add(name);
        if is_added {
            self.files.begin_own(metric);
        }
        self.accept(metric, point);
    }

    /// Whether a point of this name is dropped, because it has no file and there is no room for
    /// more of its kind.
    pub(super) fn refuse_new(&mut self, name: &[u8]) -> bool {
        if self.has_room_for_new() {
            return false;
        }
        let is_new = match self.cache.lookup(name) {
            Some(metric) => self.files.is_new(metric),
            None => self.new_names.absent.holds(self.cache.hash_of(name), self.now_s),
        };
        if is_new {
            self.counters.drop_points(DropReason::NewNames, 1);
            self.note_dropped(name, 1);
        }
        is_new
    }

    /// A new metric has got a point: what it takes is counted again.
    pub(super) fn charge(&mut self, metric: MetricId) {
        if self.files.is_new(metric) {
            self.files.set_new_bytes(metric, self.cache.bytes_of(metric));
        }
    }

    fn has_room_for_new(&self) -> bool {
        let used = self.files.new_bytes() + NEW_METRIC_BYTES;
        !self.creates.is_limited() || used <= self.options.budget_bytes / 100 * NEW_PERCENT
    }

    /// The metric has no file: it waits until one may be created, if there is room for it.
    pub(super) fn found_missing(&mut self, metric: MetricId) {
        // Looking is no update.
        self.updates.give_back();
        if self.files.is_own(metric) {
            return self.create_first(metric);
        }
        let was_new = self.files.is_new(metric);
        self.files.missing(metric);
        if !was_new && !self.has_room_for_new() && self.can_forget(metric) {
            let name = self.cache.name(metric).to_vec();
            let hash = self.cache.hash_of(&name);
            self.new_names.absent.add(hash, self.now_s, self.options.budget_bytes);
            let count = self.forget_waiting(metric, DropReason::NewNames);
            return self.note_dropped(&name, count);
        }
        if !was_new && self.creates.is_limited() {
            self.cache.hide(metric);
            self.files.set_new_bytes(metric, self.cache.bytes_of(metric));
        }
        self.creations.push_back(metric);
    }

    /// The metric's file is created before all others, and takes nothing of the share.
    pub(super) fn create_first(&mut self, metric: MetricId) {
        self.files.missing(metric);
        self.creations.push_front(metric);
    }

    /// The metric has a file: it no longer takes anything of the share.
    pub(super) fn no_longer_new(&mut self, metric: MetricId) {
        if self.files.is_new(metric) {
            self.files.set_new_bytes(metric, 0);
            self.cache.reveal(metric);
        }
    }

    /// The next undecided metric, if it is their turn. While few updates are allowed it always is:
    /// looking for a file that is not there takes nothing of the limit.
    pub(super) fn next_undecided(&mut self) -> Option<MetricId> {
        if !self.new_names.is_turn && !self.updates.is_short() {
            return None;
        }
        while let Some(metric) = self.new_names.undecided.pop_front() {
            if self.files.take_queued(metric) {
                self.new_names.is_turn = false;
                self.new_names.rest = self.new_names.rest.saturating_sub(1);
                return Some(metric);
            }
        }
        // A flood is over: its queue is of no more use.
        self.new_names.undecided = VecDeque::new();
        None
    }

    /// Whether the next sweep should begin at once, because there is a limit on new files and many
    /// metrics are undecided. Without one it is to come at its time: points gather for fewer
    /// writes.
    pub fn must_decide(&self) -> bool {
        self.creates.is_limited() && self.has_many_undecided()
    }

    /// Whether more metrics are undecided than one sweep has time for.
    pub(super) fn has_many_undecided(&self) -> bool {
        self.new_names.undecided.len() >= REST_MAX
    }

    fn note_dropped(&mut self, name: &[u8], count: u64) {
        let dropped = &mut self.new_names.dropped;
        if dropped.count == 0 {
            dropped.example.clear();
            dropped.example.extend_from_slice(name);
        }
        dropped.count += count;
    }

    /// What the operator should know about dropped points of new names, once a minute at most.
    pub fn take_new_names_news(&mut self, now: Instant) -> Option<String> {
        let dropped = &mut self.new_names.dropped;
        let is_early = dropped.told.is_some_and(|told| now < told + TELL_INTERVAL);
        if dropped.count == 0 || is_early {
            return None;
        }
        let count = std::mem::take(&mut dropped.count);
        dropped.told = Some(now);
        let example = String::from_utf8_lossy(&dropped.example);
        Some(format!(
            "points of new names dropped: too many names wait for [whisper] max-creates-per-second \
             shard={} dropped={count} example={example} waiting_names={} waiting_bytes={}",
            self.options.id.0,
            self.files.new_count(),
            self.files.new_bytes(),
        ))
    }
}
