//! Metrics whose points outlive their finest archive while the node crashes again and again: every
//! archive of their files must hold what Whisper makes of each point alone, as it arrives.
//!
//! Written from the format's description and not from the node's code: one point at a time, one
//! slot after the other. Points carry the second in which they are sent, or a few before it, and
//! the finest archive reaches back far enough: in which second exactly a point arrives changes
//! nothing. A metric of which that is not certain is not compared any more.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// Their rule for new files, in front of any other. Average and a half are the defaults.
pub(crate) const SCHEMA: &str = "[rolled]\npattern = ^rolled\\.\nretentions = 1s:20s,5s:1h,1m:1d\n";

/// The same: step and slots of each archive.
const ARCHIVES: [(u32, u32); 3] = [(1, 20), (5, 720), (60, 1_440)];
const X_FILES_FACTOR: f64 = 0.5;

/// Metrics.
pub(crate) const METRICS: usize = 20;

/// A point is sent at most this many seconds after its timestamp.
pub(crate) const LATE_S_MAX: usize = 3;

/// A point that is not known to have arrived so long after it was sent may have found its second
/// at the end of the finest archive: it reaches back 20 s, of which the point's own lateness and
/// the seconds that have begun are taken.
const ARRIVAL_MAX: Duration = Duration::from_secs(20 - LATE_S_MAX as u64 - 5);

/// Name of one of them.
pub(crate) fn name_of(metric: usize) -> String {
    format!("rolled.metric{metric:02}")
}

/// What the archives of a file hold: the value of each interval, of all laps of the ring.
pub(crate) type Archives = Vec<BTreeMap<u32, f64>>;

/// A file as a list of rings, each slot with the interval and value that were written last.
#[derive(Debug, Clone)]
struct Model(Vec<HashMap<u32, (u32, f64)>>);

impl Model {
    fn new() -> Model {
        Model(vec![HashMap::new(); ARCHIVES.len()])
    }

    fn put(&mut self, archive: usize, time_s: u32, value: f64) {
        let (step_s, slots) = ARCHIVES[archive];
        let number = time_s / step_s;
        self.0[archive].insert(number % slots, (number * step_s, value));
    }

    fn get(&self, archive: usize, time_s: u32) -> Option<f64> {
        let (step_s, slots) = ARCHIVES[archive];
        let number = time_s / step_s;
        let held = self.0[archive].get(&(number % slots));
        held.filter(|&&(interval_s, _)| interval_s == number * step_s).map(|&(_, value)| value)
    }

    /// A point that the finest archive reaches: it, and what it makes of the coarser ones.
    fn arrive(&mut self, time_s: u32, value: f64) {
        self.put(0, time_s, value);
        for coarse in 1..ARCHIVES.len() {
            let (fine_step_s, coarse_step_s) = (ARCHIVES[coarse - 1].0, ARCHIVES[coarse].0);
            let count = coarse_step_s / fine_step_s;
            let begin_s = time_s - time_s % coarse_step_s;
            let fine = (0..count).map(|n| self.get(coarse - 1, begin_s + n * fine_step_s));
            let known: Vec<f64> = fine.flatten().collect();
            if known.is_empty() || (known.len() as f64) / f64::from(count) < X_FILES_FACTOR {
                return;
            }
            // In the order of the slots, as the format adds them.
            let average = known.iter().sum::<f64>() / known.len() as f64;
            self.put(coarse, begin_s, average);
        }
    }

    fn archives(&self) -> Archives {
        self.0.iter().map(|ring| ring.values().copied().collect()).collect()
    }
}

/// A point that was sent.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) metric: usize,
    pub(crate) time_s: u32,
    /// No other point has it.
    pub(crate) value: f64,
    pub(crate) at: Instant,
    /// When the node was known to have it.
    pub(crate) seen: Option<Instant>,
}

/// What must be in the files.
#[derive(Debug)]
pub(crate) struct Rolled {
    models: Vec<Model>,
    /// Sent since the last crash, in order, by metric.
    sent: Vec<Vec<Sent>>,
    is_uncertain: Vec<bool>,
    /// Whole files that were compared.
    pub(crate) compared: usize,
}

impl Rolled {
    pub(crate) fn new() -> Rolled {
        Rolled {
            models: vec![Model::new(); METRICS],
            sent: vec![Vec::new(); METRICS],
            is_uncertain: vec![false; METRICS],
            compared: 0,
        }
    }

    /// Metrics of which nothing is known.
    pub(crate) fn uncertain_count(&self) -> usize {
        self.is_uncertain.iter().filter(|&&is_uncertain| is_uncertain).count()
    }

    /// Adds what was sent in the life that has just ended.
    pub(crate) fn add(&mut self, sent: Vec<Sent>) {
        for point in sent {
            self.sent[point.metric].push(point);
        }
    }

    /// Finds out how much of it a crash has left, and that it is as much as it must be. `found` is
    /// what can be read of a metric's finest points now, in memory or in its file.
    pub(crate) fn settle(
        &mut self,
        found: &[HashMap<u32, f64>],
        crash: Instant,
        window: Duration,
    ) -> Result<(), String> {
        for (metric, found) in found.iter().enumerate() {
            let sent = std::mem::take(&mut self.sent[metric]);
            let arrived = |point: &Sent| point.seen.unwrap_or(crash).duration_since(point.at);
            self.is_uncertain[metric] |= sent.iter().any(|point| arrived(point) > ARRIVAL_MAX);
            // Of a metric's points the log keeps a beginning, whose last one can be seen.
            let is_found = |point: &Sent| found.get(&point.time_s) == Some(&point.value);
            let kept = sent.iter().rposition(is_found).map_or(0, |last| last + 1);
            let is_old =
                |point: &Sent| point.seen.is_some_and(|seen| crash.duration_since(seen) > window);
            if let Some(lost) = sent[kept..].iter().rfind(|point| is_old(point))
                && !self.is_uncertain[metric]
            {
                return Err(format!("{} has lost {lost:?}, has {found:?}", name_of(metric)));
            }
            for point in &sent[..kept] {
                self.models[metric].arrive(point.time_s, point.value);
            }
        }
        Ok(())
    }

    /// Compares the file of a metric of which nothing waits. There is none before its first point.
    pub(crate) fn compare(&mut self, metric: usize, file: Option<Archives>) -> Result<(), String> {
        if self.is_uncertain[metric] {
            return Ok(());
        }
        let want = self.models[metric].archives();
        let got = file.unwrap_or_else(|| vec![BTreeMap::new(); ARCHIVES.len()]);
        self.compared += 1;
        for ((step_s, _), (got, want)) in ARCHIVES.iter().zip(got.iter().zip(&want)) {
            let mut times = got.keys().chain(want.keys());
            if let Some(time_s) = times.find(|time_s| got.get(time_s) != want.get(time_s)) {
                return Err(format!(
                    "{} archive {step_s}s interval {time_s}: got {:?}, want {:?}",
                    name_of(metric),
                    got.get(time_s),
                    want.get(time_s)
                ));
            }
        }
        Ok(())
    }
}
