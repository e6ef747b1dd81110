//! What a test has sent to a node that crashes again and again, and what it may find afterwards.
//!
//! Every point has a value of its own, so a wrong one is seen. A point that was readable longer
//! than the window before a crash must be there after it; a younger one may be; nothing else may.
//! What was found once stays.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// A metric and one of its times.
pub(crate) type Place = (usize, u32);

/// A point that was sent in the last life.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    /// Where it belongs.
    pub(crate) place: Place,
    /// Its value, which no other point has.
    pub(crate) value: f64,
    /// Whoever takes it: points of one shard are taken in the order in which they were sent.
    pub(crate) shard: usize,
    /// When the node was known to have it; `None`: that is not known.
    pub(crate) seen: Option<Instant>,
}

/// The points of one metric by their times.
pub(crate) type Points = HashMap<u32, f64>;

/// How a crash went.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Loss {
    /// Points sent in the life that ended.
    pub(crate) sent: usize,
    /// Of them, those whose value is gone, without a later one in its place.
    pub(crate) lost: usize,
    /// The longest that one of them had been readable before the crash.
    pub(crate) age_max: Duration,
}

/// What must be in the node.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// What was found after the last crash, by metric.
    settled: Vec<Points>,
    /// What was sent since, in order.
    sent: Vec<Sent>,
}

impl Ledger {
    pub(crate) fn new(metrics: usize) -> Ledger {
        Ledger { settled: vec![Points::new(); metrics], sent: Vec::new() }
    }

    /// Adds what was sent in the life that has just ended.
    pub(crate) fn add(&mut self, sent: Vec<Sent>) {
        self.sent.extend(sent);
    }

    /// How many points there are.
    pub(crate) fn count(&self) -> usize {
        self.settled.iter().map(Points::len).sum()
    }

    /// Compares what is found with what was sent before the crash, and settles on it. `files` is
    /// what the files held between the crash and the next start.
    pub(crate) fn settle(
        &mut self,
        found: Vec<Points>,
        files: &[Points],
        crash: Instant,
        window: Duration,
    ) -> Result<Loss, String> {
        let mut by_place: HashMap<Place, Vec<&Sent>> = HashMap::new();
        for sent in &self.sent {
            by_place.entry(sent.place).or_default().push(sent);
        }
        let age = |sent: &Sent| sent.seen.map_or(Duration::ZERO, |at| crash.duration_since(at));
        for (&(metric, time_s), sent) in &by_place {
            let value = found[metric].get(&time_s).copied();
            // The last that must be there, and whatever followed it.
            let must = sent.iter().rposition(|sent| age(sent) > window);
            let before = self.settled[metric].get(&time_s).copied();
            let is_right = sent[must.unwrap_or(0)..].iter().any(|sent| value == Some(sent.value))
                || (must.is_none() && value == before);
            if !is_right {
                let ages: Vec<_> = sent.iter().map(|sent| (sent.value, age(sent))).collect();
                return Err(format!(
                    "metric {metric} time {time_s}: found {value:?}, before {before:?}, sent with \
                     ages {ages:?}"
                ));
            }
        }
        for (metric, (found, settled)) in found.iter().zip(&self.settled).enumerate() {
            let is_sent = |time_s: u32| by_place.contains_key(&(metric, time_s));
            for (&time_s, &value) in found {
                let before = settled.get(&time_s).copied();
                if !is_sent(time_s) && before != Some(value) {
                    return Err(format!(
                        "metric {metric} time {time_s}: found {value}, before {before:?}"
                    ));
                }
            }
            let gone = settled.iter().find(|(time_s, _)| !found.contains_key(time_s));
            if let Some((time_s, value)) = gone {
                return Err(format!("metric {metric} time {time_s}: {value} is gone"));
            }
        }
        let loss = self.loss(&found, files, &age)?;
        (self.settled, self.sent) = (found, Vec::new());
        Ok(loss)
    }

    /// Counts what is lost, and sees that the log has kept a beginning of what each shard took:
    /// nothing that it has kept came after something that is lost.
    fn loss(
        &self,
        found: &[Points],
        files: &[Points],
        age: &impl Fn(&Sent) -> Duration,
    ) -> Result<Loss, String> {
        let mut loss = Loss { sent: self.sent.len(), ..Loss::default() };
        // From the last to the first: what the log has kept of a shard, and of a metric.
        let mut kept_after: HashMap<usize, &Sent> = HashMap::new();
        let mut is_named = vec![false; found.len()];
        let mut is_kept = HashMap::new();
        for sent in self.sent.iter().rev() {
            let (metric, time_s) = sent.place;
            let of = |points: &[Points]| points[metric].get(&time_s).copied();
            if of(found) == Some(sent.value) {
                is_kept.insert(sent.place, true);
                if of(files) != Some(sent.value) {
                    is_named[metric] = true;
                    kept_after.entry(sent.shard).or_insert(sent);
                }
            } else if !is_kept.contains_key(&sent.place) {
                loss.lost += 1;
                loss.age_max = loss.age_max.max(age(sent));
                // A new metric's name is written beside its points, and may be lost alone.
                if let Some(later) = kept_after.get(&sent.shard)
                    && is_named[metric]
                {
                    return Err(format!("{sent:?} is lost, and {later:?}, sent later, is not"));
                }
            }
        }
        Ok(loss)
    }
}
