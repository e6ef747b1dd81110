//! What is known of every point sent: for each metric the points that its owner accepted, in their
//! order, and how far they are acknowledged, written and confirmed. From them follows what its file
//! must be: what whisper makes of each point alone, in the second of its arrival.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, BTreeSet, HashMap};

use carbyne::metric::name::file_path;
use carbyne::metric::point::{Arrival, Point};
use carbyne::whisper::{Header, WholeFile};

/// A metric's number in the simulation, and a timestamp.
pub(crate) type Key = (usize, u32);

/// Cores whose points can be told apart.
pub(crate) const CORES_MAX: usize = 4;

/// The points of one metric. Counts are of the first points in `accepted`.
#[derive(Debug, Default)]
struct Series {
    accepted: Vec<Arrival>,
    /// Acknowledged, for a crash of the process and for a loss of power.
    written: usize,
    synced: usize,
    /// Points that a start found in a log and nobody was told to be safe: the sync of their commit
    /// may have failed, and lost them without a word.
    unpromised: BTreeSet<u64>,
    /// A writer may have put them into the file.
    touched: usize,
    /// The shard knows them to be in the file.
    confirmed: usize,
    /// Of these, those that the shard has known from the start of its run.
    confirmed_before: usize,
    /// Points were dropped on purpose, or came to the file and not to the log before a crash: the
    /// file is no more known.
    is_tainted: bool,
    /// The last value that came by each core: one sender's points must not overtake each other.
    by_core: [u64; CORES_MAX],
}

impl Series {
    /// Points that an earlier start found in a log, and that a failed sync of it had lost, are
    /// gone now; nobody was told that they are safe. All others are there.
    fn has_hole(&mut self, found: &[Arrival], from: usize) -> bool {
        let (found, points) = (unreplaced(found), &self.accepted[from..]);
        let wanted = unreplaced(points);
        let mut rest = found.iter().peekable();
        // One that is gone no longer replaces the one before it, but the next one may.
        let mut all_known = true;
        for (at, point) in points.iter().enumerate() {
            let is_there = rest.next_if_eq(&point).is_some();
            let mut followers = points.get(at + 1).into_iter().chain(rest.peek().copied());
            let is_replaced = followers.any(|next| key_of(next) == key_of(point));
            all_known &= is_there || is_replaced || self.unpromised.contains(&whole(point.value));
        }
        let is_hole = found != wanted && rest.next().is_none() && all_known;
        self.is_tainted |= is_hole;
        is_hole
    }

    /// Whether of the first points some were replayed and written by a run that had not synced its
    /// files, and were never promised: they are gone from the log, and may be gone from the file.
    fn may_lack_first(&self, count: usize) -> bool {
        let is_unpromised = |point: &Arrival| self.unpromised.contains(&whole(point.value));
        self.accepted[..count].iter().any(is_unpromised)
    }
}

/// All points.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) names: Vec<Vec<u8>>,
    paths: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, usize>,
    series: Vec<Series>,
    /// Where a value is among its metric's points.
    places: HashMap<u64, usize>,
    last_value: u64,
    /// Points of this run that were let in, and accepted by their owners.
    pub(crate) admitted: u64,
    pub(crate) accepted: u64,
    /// Files compared with what they must be, and those that nobody can know.
    pub(crate) compared: u64,
    pub(crate) tainted: u64,
}

impl Model {
    pub(crate) fn new(names: Vec<Vec<u8>>) -> Model {
        let path = |name: &Vec<u8>| {
            let mut path = Vec::new();
            file_path(name, true, &mut path).expect("a good name");
            path.push(0);
            path
        };
        Model {
            paths: names.iter().map(path).collect(),
            numbers: names.iter().cloned().zip(0..).collect(),
            series: names.iter().map(|_| Series::default()).collect(),
            names,
            places: HashMap::new(),
            last_value: 0,
            admitted: 0,
            accepted: 0,
            compared: 0,
            tainted: 0,
        }
    }

    /// The number of a metric; none is ever invented.
    pub(crate) fn metric(&self, name: &[u8]) -> usize {
        *self.numbers.get(name).unwrap_or_else(|| panic!("{name:?} was never sent"))
    }

    pub(crate) fn metric_of_path(&self, path: &[u8]) -> usize {
        self.paths.iter().position(|known| known == path).expect("a path of ours")
    }

    pub(crate) fn path(&self, metric: usize) -> &[u8] {
        &self.paths[metric]
    }

    /// A value that no other point has, to be received by this core.
    pub(crate) fn new_value(&mut self, core: usize) -> u64 {
        self.last_value += 1;
        self.last_value * CORES_MAX as u64 + core as u64
    }

    /// The metric's owner has accepted the point.
    pub(crate) fn accept(&mut self, (metric, timestamp_s): Key, value: u64, arrived_s: u32) {
        self.accepted += 1;
        let series = &mut self.series[metric];
        self.places.insert(value, series.accepted.len());
        series.accepted.push(Arrival { timestamp_s, arrived_s, value: wide(value) });
        let before = &mut series.by_core[usize::try_from(value % CORES_MAX as u64).expect("few")];
        assert!(*before < value, "{metric}: {value} was overtaken by {before}");
        *before = value;
    }

    /// The point's commit was acknowledged.
    pub(crate) fn acknowledge(&mut self, (metric, _): Key, value: u64, is_synced: bool) {
        let Some(count) = self.count_to(value) else { return };
        let series = &mut self.series[metric];
        series.written = series.written.max(count);
        if is_synced {
            series.synced = series.synced.max(count);
        }
    }

    /// How many points there are up to this one.
    fn count_to(&self, value: u64) -> Option<usize> {
        self.places.get(&value).map(|place| place + 1)
    }

    /// A writer has tried to write these points, the last of which has this value.
    pub(crate) fn touch(&mut self, metric: usize, last: f64) {
        let count = self.count_to(whole(last)).expect("it was accepted");
        self.series[metric].touched = self.series[metric].touched.max(count);
    }

    /// The shard was told that the points up to this value are in their file.
    pub(crate) fn confirm(&mut self, metric: usize, last: f64) {
        let count = self.count_to(whole(last)).expect("it was accepted");
        self.series[metric].confirmed = self.series[metric].confirmed.max(count);
    }

    /// Nobody knows the metric's file any more.
    pub(crate) fn taint(&mut self, metric: usize) {
        self.series[metric].is_tainted = true;
    }

    pub(crate) fn taint_all(&mut self) {
        self.series.iter_mut().for_each(|series| series.is_tainted = true);
    }

    /// The points that must be in memory: of each second the last. `None`: nobody knows.
    pub(crate) fn unconfirmed(&self, metric: usize) -> Option<BTreeMap<u32, u64>> {
        let series = &self.series[metric];
        let pair = |point: &Arrival| (point.timestamp_s, whole(point.value));
        let waiting = || series.accepted[series.confirmed..].iter().map(pair).collect();
        (!series.is_tainted).then(waiting)
    }

    /// After a drain everything is in its file and on stable storage.
    pub(crate) fn acknowledge_all(&mut self) {
        for series in &mut self.series {
            let count = series.accepted.len();
            (series.written, series.synced, series.confirmed) = (count, count, count);
        }
    }

    /// The process has ended. `logged` are the values of each metric that the logs have,
    /// `replayed` what they hand out, in order. What is neither in a log nor acknowledged is lost;
    /// all else must come back, or be confirmed.
    pub(crate) fn end(
        &mut self,
        logged: &BTreeMap<usize, Vec<u64>>,
        replayed: &BTreeMap<usize, Vec<Arrival>>,
        is_power_lost: bool,
        is_settled: bool,
    ) {
        (self.admitted, self.accepted) = (0, 0);
        for (metric, series) in self.series.iter_mut().enumerate() {
            let acknowledged = if is_power_lost { series.synced } else { series.written };
            let values = logged.get(&metric).into_iter().flatten();
            let in_log = values.map(|value| self.places[value] + 1).max().unwrap_or(0);
            let count = acknowledged.max(in_log);
            for lost in series.accepted.drain(count..) {
                self.places.remove(&whole(lost.value));
            }
            series.is_tainted |= series.touched > count;
            (series.written, series.synced) = (count, series.synced.min(count));
            let unpromised = series.accepted[series.synced..].iter();
            series.unpromised.extend(unpromised.map(|point| whole(point.value)));
            series.touched = series.touched.min(count);
            let found = replayed.get(&metric).map_or(&[][..], Vec::as_slice);
            let first = found.first().map_or(count, |first| self.places[&whole(first.value)]);
            // Those that it replaces belong to it.
            let is_replaced = |at: &usize| {
                first < count && key_of(&series.accepted[*at]) == key_of(&series.accepted[first])
            };
            let from = first - (0..first).rev().take_while(is_replaced).count();
            series.by_core = [0; CORES_MAX];
            if series.is_tainted {
                series.confirmed = series.confirmed.min(count);
                series.confirmed_before = series.confirmed;
                continue;
            }
            // Those in front may be in the file, or gone.
            let from_confirmed = from.min(series.confirmed);
            if is_power_lost && series.has_hole(found, from_confirmed) {
                continue;
            }
            series.is_tainted |= is_power_lost && series.may_lack_first(from);
            assert!(
                unreplaced(found) == unreplaced(&series.accepted[from..]),
                "acknowledged points of {metric} are not replayed as they came: {found:?} of {:?}, \
                 lost power {is_power_lost}, synced {}, confirmed {}, from {from}",
                &series.accepted,
                series.synced,
                series.confirmed
            );
            assert!(
                from <= series.confirmed,
                "acknowledged points of {metric} are not replayed: from {from}, confirmed {} of \
                 {:?}",
                series.confirmed,
                series.accepted
            );
            // A stop syncs what its own run has written. What an earlier run wrote before a kill
            // may be gone with the power.
            let is_of_this_run = series.confirmed > series.confirmed_before;
            assert!(
                !is_settled
                    || (is_power_lost && !is_of_this_run)
                    || (from..=first).contains(&series.confirmed.min(count)),
                "acknowledged points of {metric} that are in the file are replayed: from {from} \
                 of {} {found:?} {:?}",
                series.confirmed,
                &series.accepted
            );
            (series.confirmed, series.confirmed_before) = (from, from);
        }
    }

    /// At rest each file is what whisper makes of each point alone, in the second of its arrival.
    pub(crate) fn check_file(&mut self, metric: usize, bytes: Option<&[u8]>, retention_s: u32) {
        let series = &self.series[metric];
        if series.is_tainted || series.accepted.is_empty() {
            self.tainted += u64::from(series.is_tainted);
            return;
        }
        // Nothing is written into a file for points too old for it, nor written again.
        if series.accepted.iter().all(|point| point.age_s() > retention_s) {
            return;
        }
        let bytes = bytes.unwrap_or_else(|| panic!("acknowledged points of {metric} have no file"));
        let header = Header::parse(&bytes[..bytes.len().min(4_096)], bytes.len() as u64);
        let header = header.unwrap_or_else(|error| {
            panic!("acknowledged points of {metric} are in a damaged file: {error:?} {series:?}")
        });
        let mut head = Vec::new();
        header.encode(&mut head);
        head.resize(bytes.len(), 0);
        let mut want = WholeFile::parse(head).expect("a new file");
        for &Arrival { timestamp_s, arrived_s, value } in &series.accepted {
            want.update_many(&[Point { timestamp_s, value }], arrived_s);
        }
        let got = WholeFile::parse(bytes.to_vec()).expect("it was just parsed");
        for at in 0..header.archives().len() {
            let (got, want) = (content(&got, at), content(&want, at));
            assert!(
                got == want,
                "acknowledged points of {metric} are not in its file as they came: archive {at} \
                 of {:?} has {got:?} and not {want:?} of {series:?}",
                header.archives()
            );
        }
        self.compared += 1;
    }
}

/// What an archive has: whatever interval is in slot 0, which the first point after a crash may
/// choose, each interval has its slot, and what is in another's is not there.
fn content(file: &WholeFile, at: usize) -> BTreeMap<u32, u64> {
    let archive = file.header().archives()[at];
    let slots: Vec<(u32, f64)> = file.slots(at).collect();
    let base_s = slots[0].0;
    let is_placed = |(slot, (interval_s, _)): &(u32, (u32, f64))| {
        base_s != 0 && *interval_s != 0 && archive.slot(i64::from(*interval_s), base_s) == *slot
    };
    let placed = (0..).zip(slots).filter(is_placed);
    placed.map(|(_, (interval_s, value))| (interval_s, value.to_bits())).collect()
}

fn key_of(point: &Arrival) -> (u32, u32) {
    (point.timestamp_s, point.arrived_s)
}

/// Points without those that the next one replaces.
fn unreplaced(points: &[Arrival]) -> Vec<Arrival> {
    let is_last =
        |at: usize| points.get(at + 1).is_none_or(|next| key_of(next) != key_of(&points[at]));
    (0..points.len()).filter(|&at| is_last(at)).map(|at| points[at]).collect()
}

/// A value as it is stored.
#[allow(clippy::cast_precision_loss, reason = "values are small whole numbers")]
pub(crate) fn wide(value: u64) -> f64 {
    value as f64
}

/// A value as the model knows it.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are small whole numbers"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}
