//! Verifies that the sent points are in the node's cache or in its Whisper files.
//!
//! The cache is queried before the file is read, because points move from the cache to the file.
//! Points may still be in transit, so incomplete metrics are checked again until the timeout;
//! points missing then are lost. A file keeps one point of an interval, so the last one sent is
//! expected.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::limits::NAME_BYTES_MAX;
use crate::loadgen::agent::Agent;
use crate::loadgen::options::Verify;
use crate::loadgen::plan::{Plan, value};
use crate::metric::name::file_path;
use crate::query::Link;
use crate::sys::clock;
use crate::whisper::{Archive, HEADER_BYTES_MAX, Header};
use crate::wire::carbonlink_reply::Reply;

/// Longest wait for one answer of the cache.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// Pause before incomplete metrics are looked at again.
const PAUSE: Duration = Duration::from_millis(100);

/// Examples of missing and wrong points that are kept.
const EXAMPLES_MAX: usize = 20;

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// Metrics looked for.
    pub(super) metrics: u64,
    /// Points looked for.
    pub(super) points: u64,
    /// Points found nowhere.
    pub(super) missing: u64,
    /// Points found with another value.
    pub(super) wrong: u64,
    /// Points older than the finest archive of their file reaches, which are not told apart.
    pub(super) unseen: u64,
    /// Some of the missing and wrong ones.
    pub(super) examples: Vec<String>,
}

impl Findings {
    /// Whether every point is where it belongs.
    pub(super) fn is_good(&self) -> bool {
        self.missing == 0 && self.wrong == 0
    }

    fn add(&mut self, verdict: &Verdict) {
        self.missing += verdict.missing;
        self.wrong += verdict.wrong;
        self.unseen += verdict.unseen;
        if let Some(example) = &verdict.example
            && self.examples.len() < EXAMPLES_MAX
        {
            self.examples.push(example.clone());
        }
    }
}

/// What was found of one metric.
#[derive(Debug, Default, PartialEq, Eq)]
struct Verdict {
    missing: u64,
    wrong: u64,
    unseen: u64,
    example: Option<String>,
}

impl Verdict {
    fn is_complete(&self) -> bool {
        self.missing == 0 && self.wrong == 0
    }
}

/// Points by timestamp.
type Points = BTreeMap<u32, f64>;

/// A metric: the agent it is from, by position, its slot, and its number.
type Key = (usize, u32, u64);

/// Looks for everything that the agents have sent.
///
/// # Errors
/// The cache cannot be queried or a file cannot be read: the points cannot be verified.
pub(super) fn run(plan: &Plan, agents: &[Agent], options: &Verify) -> Result<Findings, String> {
    let mut seeker = Seeker {
        link: Link::open(&options.carbonlink, ANSWER_TIMEOUT)
            .map_err(|failure| format!("{}: {failure}", options.carbonlink))?,
        carbonlink: &options.carbonlink,
        data_dir: &options.data_dir,
        name: Vec::new(),
        path: Vec::new(),
    };
    let until = Instant::now() + options.timeout;
    let mut findings = Findings::default();
    let mut incomplete: Vec<(Key, Verdict)> = Vec::new();
    for (position, agent) in agents.iter().enumerate() {
        for slot in 0..plan.slots {
            for (metric, points) in expected(plan, agent, slot) {
                findings.metrics += 1;
                findings.points += points.len() as u64;
                let verdict = seeker.look(plan, agent.index, metric, &points)?;
                if verdict.is_complete() {
                    findings.add(&verdict);
                } else {
                    incomplete.push(((position, slot, metric), verdict));
                }
            }
        }
    }
    while !incomplete.is_empty() && Instant::now() < until {
        std::thread::sleep(PAUSE);
        let mut still = Vec::new();
        for ((position, slot, metric), _) in incomplete {
            let agent = &agents[position];
            let points = expected(plan, agent, slot).remove(&metric).unwrap_or_default();
            let verdict = seeker.look(plan, agent.index, metric, &points)?;
            if verdict.is_complete() {
                findings.add(&verdict);
            } else {
                still.push(((position, slot, metric), verdict));
            }
        }
        incomplete = still;
    }
    for (_, verdict) in &incomplete {
        findings.add(verdict);
    }
    Ok(findings)
}

/// The metrics that a slot has sent, and their points; of equal timestamps the last counts.
fn expected(plan: &Plan, agent: &Agent, slot: u32) -> BTreeMap<u64, Points> {
    let mut metrics: BTreeMap<u64, Points> = BTreeMap::new();
    for round in 0..agent.rounds_of(slot) {
        let metric = plan.metric(slot, round);
        let timestamp_s = agent.timestamp_s(plan, round);
        let points = metrics.entry(metric).or_default();
        points.insert(timestamp_s, value(agent.index, metric, round));
    }
    metrics
}

/// Asks the cache and reads files.
struct Seeker<'a> {
    link: Link,
    carbonlink: &'a str,
    data_dir: &'a Path,
    name: Vec<u8>,
    path: Vec<u8>,
}

impl Seeker<'_> {
    fn look(
        &mut self,
        plan: &Plan,
        agent: u32,
        metric: u64,
        wanted: &Points,
    ) -> Result<Verdict, String> {
        self.name.clear();
        plan.write_name(agent, metric, &mut self.name);
        debug_assert!(self.name.len() <= NAME_BYTES_MAX, "{}", self.name.len());
        let name = String::from_utf8_lossy(&self.name).into_owned();
        let cached = self.cached(&name)?;
        if wanted.iter().all(|(timestamp_s, value)| cached.get(timestamp_s) == Some(value)) {
            return Ok(Verdict::default());
        }
        file_path(&self.name, true, &mut self.path).map_err(|error| format!("{name}: {error}"))?;
        let path: PathBuf = self.data_dir.join(String::from_utf8_lossy(&self.path).as_ref());
        let stored = match Stored::open(&path) {
            Ok(stored) => stored,
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        judge(&name, wanted, &cached, stored.as_ref())
            .map_err(|error| format!("{}: {error}", path.display()))
    }

    fn cached(&mut self, name: &str) -> Result<Points, String> {
        let reply =
            self.link.ask(name).map_err(|failure| format!("{}: {failure}", self.carbonlink))?;
        match reply {
            Reply::Datapoints(points) => Ok(points
                .filter_map(|point| Some((whole(point.timestamp)?, point.value)))
                .collect()),
            Reply::Error(text) => Err(format!("{}: {name}: {text}", self.carbonlink)),
        }
    }
}

/// A timestamp that is whole, as all ours are.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole and in range")]
fn whole(timestamp: f64) -> Option<u32> {
    let is_whole = timestamp.fract() == 0.0 && (0.0..=f64::from(u32::MAX)).contains(&timestamp);
    is_whole.then_some(timestamp as u32)
}

/// Compares what was sent with what the cache and the file have.
fn judge(
    name: &str,
    wanted: &Points,
    cached: &Points,
    stored: Option<&Stored>,
) -> io::Result<Verdict> {
    let mut verdict = Verdict::default();
    let now_s = clock::now_s();
    let interval = |timestamp_s| stored.map_or(timestamp_s, |it| it.archive.interval(timestamp_s));
    let mut next = wanted.keys().skip(1);
    for (&timestamp_s, &value) in wanted {
        let is_replaced =
            next.next().is_some_and(|&later_s| interval(later_s) == interval(timestamp_s));
        let in_cache = cached.get(&timestamp_s).copied();
        if is_replaced || in_cache == Some(value) {
            continue;
        }
        let in_file = match stored {
            Some(stored) => stored.value(timestamp_s)?,
            None => None,
        };
        if in_file == Some(value) && in_cache.is_none() {
            continue;
        }
        let reach = stored.map_or(u64::MAX, |stored| stored.archive.span_s());
        if u64::from(now_s.saturating_sub(timestamp_s)) >= reach {
            verdict.unseen += 1;
        } else if let Some(other) = in_cache.or(in_file) {
            verdict.wrong += 1;
            let text = || format!("{name} at {timestamp_s}: {other} instead of {value}");
            verdict.example.get_or_insert_with(text);
        } else {
            verdict.missing += 1;
            verdict.example.get_or_insert_with(|| format!("{name} at {timestamp_s}: missing"));
        }
    }
    Ok(verdict)
}

/// The finest archive of a file.
struct Stored {
    file: File,
    archive: Archive,
    base_s: u32,
}

impl Stored {
    /// `None` when there is no file.
    fn open(path: &Path) -> io::Result<Option<Stored>> {
        let file = match File::open(path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let file_bytes = file.metadata()?.len();
        let head_bytes = usize::try_from(file_bytes).unwrap_or(usize::MAX).min(HEADER_BYTES_MAX);
        let mut head = vec![0; head_bytes];
        file.read_exact_at(&mut head, 0)?;
        let header = Header::parse(&head, file_bytes)
            .map_err(|error| io::Error::other(error.to_string()))?;
        let archive = header.archives()[0];
        let mut stored = Stored { file, archive, base_s: 0 };
        stored.base_s = stored.slot(0)?.0;
        Ok(Some(stored))
    }

    /// Interval and value of a slot.
    fn slot(&self, slot: u32) -> io::Result<(u32, f64)> {
        let mut bytes = [0; 12];
        self.file.read_exact_at(&mut bytes, self.archive.slot_offset(slot))?;
        let [i0, i1, i2, i3, value @ ..] = bytes;
        Ok((u32::from_be_bytes([i0, i1, i2, i3]), f64::from_be_bytes(value)))
    }

    /// The value of the interval that contains a timestamp.
    fn value(&self, timestamp_s: u32) -> io::Result<Option<f64>> {
        if self.base_s == 0 {
            return Ok(None);
        }
        let interval_s = self.archive.interval(timestamp_s);
        let (found_s, value) = self.slot(self.archive.slot(i64::from(interval_s), self.base_s))?;
        Ok((found_s == interval_s).then_some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn points(list: &[(u32, f64)]) -> Points {
        list.iter().copied().collect()
    }

    #[test]
    fn points_are_sought_in_the_cache() {
        let now_s = clock::now_s();
        let wanted = points(&[(now_s - 2, 1.0), (now_s - 1, 2.0), (now_s, 3.0)]);
        let check = |cached: &[(u32, f64)], missing, wrong| {
            let verdict = judge("a", &wanted, &points(cached), None).expect("no file is read");
            assert_eq!((verdict.missing, verdict.wrong), (missing, wrong), "{cached:?}");
            assert_eq!(verdict.example.is_some(), missing + wrong > 0);
        };
        check(&[(now_s - 2, 1.0), (now_s - 1, 2.0), (now_s, 3.0)], 0, 0);
        check(&[(now_s - 2, 1.0), (now_s, 3.0)], 1, 0);
        check(&[(now_s - 2, 1.0), (now_s - 1, 2.5), (now_s, 3.0)], 0, 1);
        check(&[], 3, 0);
    }

    #[test]
    fn only_whole_timestamps_of_32_bits_are_ours() {
        assert_eq!(whole(1.0), Some(1));
        assert_eq!(whole(4_294_967_295.0), Some(u32::MAX));
        for strange in [1.5, -1.0, 4_294_967_296.0, f64::NAN, f64::INFINITY] {
            assert_eq!(whole(strange), None, "{strange}");
        }
    }
}
