//! Points that wait for their file are dropped: of one metric, or of those that an operator names.
//!
//! To forget many metrics, a thread takes the names in pages ([`Shard::unwritten_names`]), matches
//! them itself, and hands those that match back ([`Shard::forget_names`]): a pattern costs a core
//! nothing, however long it takes, and each call is short.

use crate::cache::MetricId;
use crate::shard::Shard;
use crate::shard::unsynced::Note;
use crate::stats::DropReason;

/// Entries looked at in one call, and bytes of names after which it ends: a tenth of a millisecond
/// for a look at each, less than one for forgetting all of them.
const PAGE_ENTRIES: u32 = 1_024;
const PAGE_BYTES: usize = 32 << 10;

/// Names of metrics, each with a LF behind it, which no name contains.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Names {
    bytes: Vec<u8>,
}

impl Names {
    /// Adds a name.
    pub fn push(&mut self, name: &[u8]) {
        self.bytes.extend_from_slice(name);
        self.bytes.push(b'\n');
    }

    /// The names.
    pub fn iter(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes.split(|&byte| byte == b'\n').filter(|name| !name.is_empty())
    }

    /// The memory they take.
    pub fn bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// Some of the metrics that [`Shard::forget_names`] may be called with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// Their names.
    pub names: Names,
    /// Where the next page begins; `None` if this is the last.
    pub next: Option<u32>,
}

/// What [`Shard::forget_names`] has done, or would do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// Metrics forgotten.
    pub metrics: u64,
    /// Of these, those without a file, whose names are gone too.
    pub names: u64,
    /// Points of them that waited.
    pub points: u64,
    /// Metrics left alone, because their points are with the writer.
    pub kept: Names,
    /// How many they are.
    pub kept_metrics: u64,
    /// Their points.
    pub kept_points: u64,
}

/// Nothing can be forgotten now: points wait for room in the log, whose disk takes none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIsFull;

impl Shard {
    /// Whether [`Shard::forget_waiting`] may be called for the metric. While a flush of it is under
    /// way its points are with the writer; and while points wait for room in the log, they call
    /// their metrics by numbers that another metric must not get.
    pub(super) fn can_forget(&self, metric: MetricId) -> bool {
        !self.cache.is_writing(metric) && !self.has_late()
    }

    /// Drops all points of a metric that are not in its file; if nobody has seen a file of it, also
    /// its name. Returns how many points. This is the one place where points that are in the log
    /// are given up although they may still be written.
    pub(super) fn forget_waiting(&mut self, metric: MetricId, reason: DropReason) -> u64 {
        assert!(self.can_forget(metric), "points with the writer or on their way into the log");
        let kept = self.cache.trim(metric, 0);
        self.release_segments(kept.released.into_iter().flatten());
        self.counters.replaced += u64::from(kept.replaced);
        let points = u64::from(kept.dropped);
        self.counters.drop_points(reason, points);
        // They must not come back with the next start. Until the log has room to say so, the entry
        // stays.
        let note = if points > 0 { self.note_written(metric, None) } else { Note::Logged };
        if note == Note::Logged && !self.files.has_file(metric) {
            self.forget_entry(metric);
        }
        points
    }

    /// Metrics with points that are not in their file, and those without a file, from this entry
    /// on. Those that come while the pages are taken may not be among them.
    pub fn unwritten_names(&self, from: u32) -> Page {
        let mut names = Names::default();
        let end = self.cache.id_end();
        let slice_end = end.min(from.saturating_add(PAGE_ENTRIES));
        for index in from..slice_end {
            let Some(metric) = self.cache.metric_at(index) else { continue };
            if self.cache.unwritten_of(metric) == 0 && self.files.has_file(metric) {
                continue;
            }
            names.push(self.cache.name(metric));
            if names.bytes.len() >= PAGE_BYTES {
                return Page { names, next: Some(index + 1) };
            }
        }
        Page { names, next: (slice_end < end).then_some(slice_end) }
    }

    /// Forgets the points of these metrics that are not in their files, and the names of those
    /// without a file. Metrics whose points are with the writer are left alone.
    ///
    /// # Errors
    /// Nothing was done, because points wait for room in the log: try again.
    pub fn forget_names(
        &mut self,
        names: &Names,
        is_dry_run: bool,
    ) -> Result<Forgotten, LogIsFull> {
        if self.has_late() {
            return Err(LogIsFull);
        }
        let mut all = Forgotten::default();
        for name in names.iter() {
            let Some(metric) = self.cache.lookup(name) else { continue };
            let points = u64::from(self.cache.unwritten_of(metric));
            if !self.can_forget(metric) {
                all.kept.push(name);
                all.kept_metrics += 1;
                all.kept_points += points;
                continue;
            }
            all.metrics += 1;
            all.points += points;
            all.names += u64::from(!self.files.has_file(metric));
            if !is_dry_run {
                self.forget_waiting(metric, DropReason::Forgotten);
            }
        }
        Ok(all)
    }

    /// Forgets a metric without points; false if it has some.
    pub(super) fn forget_entry(&mut self, metric: MetricId) -> bool {
        let Some((mark, name)) = self.cache.forget(metric) else { return false };
        if let Some(journal) = &mut self.journal {
            journal.log.forget(mark, &name);
        }
        self.files.forget(metric);
        self.unsynced.forget(metric);
        true
    }

    /// Whether points wait for room in the log.
    pub(super) fn has_late(&self) -> bool {
        self.journal.as_ref().is_some_and(super::Journal::has_late)
    }
}

#[cfg(test)]
mod tests {
    use super::super::flush::{FlushJob, NextJob, Outcome};
    use super::super::tests::{NOW_S, World, options};
    use super::super::{ShardOptions, journal_tests};
    use super::*;

    /// All names that may be forgotten, page by page.
    fn names(shard: &Shard) -> Vec<String> {
        let (mut found, mut from) = (Vec::new(), Some(0));
        while let Some(start) = from {
            let page = shard.unwritten_names(start);
            assert!(page.names.bytes() < PAGE_BYTES + 4_001);
            let texts = page.names.iter().map(|name| String::from_utf8(name.to_vec()).unwrap());
            found.extend(texts);
            from = page.next;
        }
        found
    }

    fn forget(shard: &mut Shard, wanted: &[&str], is_dry_run: bool) -> Forgotten {
        let mut all = Names::default();
        wanted.iter().for_each(|name| all.push(name.as_bytes()));
        shard.forget_names(&all, is_dry_run).unwrap()
    }

    #[test]
    fn waiting_points_go_and_names_without_a_file_go_with_them() {
        let mut world = World::new(ShardOptions { creates_per_s: 1.0, ..options() });
        world.send("known", f64::from(NOW_S - 9), 1.0);
        world.sweep(|_| None);
        for age_s in 0..3 {
            for name in ["known", "new", "kept"] {
                world.send(name, f64::from(NOW_S - age_s), 1.0);
            }
        }
        assert_eq!(names(&world.shard), ["known", "new", "kept"]);
        let dry = forget(&mut world.shard, &["known", "new", "strange"], true);
        assert_eq!((dry.metrics, dry.names, dry.points), (2, 1, 6));
        assert_eq!(world.shard.points_of(b"new").len(), 3);
        // Once undecided, once waiting for a file.
        for round in 1..=2 {
            assert_eq!(forget(&mut world.shard, &["known", "new", "strange"], false), dry);
            assert_eq!(world.shard.counters.dropped_for(DropReason::Forgotten), round * 6);
            assert_eq!(names(&world.shard), ["kept"]);
            assert_eq!(world.shard.gauges().metrics, 2);
            world.check_accounts();
            for age_s in 0..3 {
                world.send("known", f64::from(NOW_S - age_s), 1.0);
                world.send("new", f64::from(NOW_S - age_s), 1.0);
            }
            let _ = world.sweep(|path| {
                let is_kept = path.starts_with("known");
                is_kept.then(|| super::super::tests::failed(false))
            });
        }
        assert_eq!(world.shard.gauges().new_metrics, 2);
        world.shard.hurry();
        world.sweep(|_| None);
        assert_eq!(world.files["known.wsp"].len(), 4);
        assert_eq!(world.files["kept.wsp"].len(), 3);
        assert_eq!(world.shard.unwritten_count(), 0);
        world.check_accounts();
    }

    #[test]
    fn what_the_writer_has_is_left_alone() {
        let mut world = World::new(options());
        world.send("m", f64::from(NOW_S), 1.0);
        world.shard.begin_sweep();
        let mut job = FlushJob::empty();
        while world.shard.next_flush(world.now, &mut job) != NextJob::Ready {}
        world.send("m", f64::from(NOW_S - 1), 1.0);
        let kept = forget(&mut world.shard, &["m"], false);
        assert_eq!((kept.metrics, kept.kept_metrics, kept.kept_points), (0, 1, 2));
        assert_eq!(kept.kept.iter().collect::<Vec<_>>(), [b"m"]);
        assert_eq!(world.shard.points_of(b"m").len(), 2);
        job.outcome = Outcome::Missing;
        world.shard.complete(&mut job, world.now);
        let forgotten = forget(&mut world.shard, &["m"], false);
        assert_eq!((forgotten.metrics, forgotten.points, forgotten.kept_metrics), (1, 2, 0));
        world.check_accounts();
    }

    #[test]
    fn many_names_come_in_pages() {
        let mut world = World::new(options());
        let long = "x".repeat(200);
        for number in 0..5_000 {
            world.send(&format!("{long}.{number}"), f64::from(NOW_S), 1.0);
        }
        let mut found = names(&world.shard);
        found.sort_unstable();
        found.dedup();
        assert_eq!(found.len(), 5_000);
        world.sweep(|_| None);
        assert!(names(&world.shard).is_empty(), "there is nothing to forget of them");
    }

    #[test]
    fn forgotten_points_hold_no_segment_and_none_that_wait_for_the_log_are_forgotten() {
        let mut world = journal_tests::World::new(None, 0.0);
        for round in 0..400u32 {
            for number in 0..200 {
                world.send(&format!("some.metric.{number}"), round);
            }
            world.tidy();
        }
        let before = world.files();
        let wanted: Vec<String> = (0..200).map(|number| format!("some.metric.{number}")).collect();
        let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
        assert_eq!(forget(&mut world.shard, &wanted, false).points, 80_000);
        world.send("other", 0);
        world.tidy();
        world.tidy();
        assert!(world.files() < before, "{} of {before} files are left", world.files());

        // The log takes no more until a commit has been made.
        let mut number = 0;
        while !world.shard.has_late() {
            world.send(&format!("late.{number}"), 0);
            number += 1;
        }
        let mut names = Names::default();
        names.push(b"other");
        assert_eq!(world.shard.forget_names(&names, false), Err(LogIsFull));
        world.commit();
        assert_eq!(world.shard.forget_names(&names, false).unwrap().points, 1);
    }
}
