//! The summary of a run, as text and as JSON.

use std::fmt::Write as _;
use std::time::Duration;

use crate::loadgen::verify::Findings;

/// Failures and examples that are spelled out; of more only the number is given.
const EXAMPLES_MAX: usize = 10;

/// The result of a run.
#[derive(Debug, Default)]
pub(super) struct Summary {
    /// Points sent.
    pub(super) points: u64,
    /// Bytes sent.
    pub(super) bytes: u64,
    /// Agents, each with a connection.
    pub(super) agents: u32,
    /// From the first launch to the last byte.
    pub(super) elapsed: Duration,
    /// CPU time of the sending threads.
    pub(super) cpu: Duration,
    /// Why agents ended early.
    pub(super) failures: Vec<String>,
    /// The result of the verification, if there was one.
    pub(super) findings: Option<Findings>,
}

#[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 may be rounded")]
fn ratio(dividend: f64, divisor: u64) -> f64 {
    if divisor == 0 { 0.0 } else { dividend / divisor as f64 }
}

#[expect(clippy::cast_precision_loss, reason = "a count beyond 2^53 may be rounded")]
fn per_s(count: u64, time: Duration) -> f64 {
    if time.is_zero() { 0.0 } else { count as f64 / time.as_secs_f64() }
}

impl Summary {
    /// For people.
    pub(super) fn text(&self) -> String {
        let mut text = format!(
            "sent {} points, {} bytes in {:.3} s over {} connections\n\
             {:.0} points/s, {:.1} MB/s, {:.4} us of own CPU a point\n",
            self.points,
            self.bytes,
            self.elapsed.as_secs_f64(),
            self.agents,
            per_s(self.points, self.elapsed),
            per_s(self.bytes, self.elapsed) / 1e6,
            ratio(self.cpu.as_secs_f64() * 1e6, self.points),
        );
        if let Some(findings) = &self.findings {
            let Findings { metrics, points, missing, wrong, unseen, .. } = findings;
            let _ = writeln!(
                text,
                "looked for {points} points of {metrics} metrics: \
                 {missing} missing, {wrong} wrong, {unseen} too old to tell",
            );
        }
        text
    }

    /// For programs: one object.
    pub(super) fn json(&self) -> String {
        let mut text = format!(
            "{{\"points\": {}, \"bytes\": {}, \"connections\": {}, \"seconds\": {:.6}, \
             \"points_per_s\": {:.1}, \"cpu_s\": {:.9}, \"cpu_us_per_point\": {:.6}, \
             \"failures\": {}",
            self.points,
            self.bytes,
            self.agents,
            self.elapsed.as_secs_f64(),
            per_s(self.points, self.elapsed),
            self.cpu.as_secs_f64(),
            ratio(self.cpu.as_secs_f64() * 1e6, self.points),
            self.failures.len(),
        );
        if let Some(findings) = &self.findings {
            let Findings { metrics, points, missing, wrong, unseen, .. } = findings;
            let _ = write!(
                text,
                ", \"verified\": {{\"metrics\": {metrics}, \"points\": {points}, \"missing\": \
                 {missing}, \"wrong\": {wrong}, \"too_old\": {unseen}}}",
            );
        }
        text.push_str("}\n");
        text
    }

    /// What went wrong, a line each.
    pub(super) fn complaints(&self) -> Vec<String> {
        let examples = self.findings.iter().flat_map(|findings| &findings.examples);
        let all: Vec<&String> = self.failures.iter().chain(examples).collect();
        let mut lines: Vec<String> =
            all.iter().take(EXAMPLES_MAX).map(|line| (*line).clone()).collect();
        if all.len() > EXAMPLES_MAX {
            lines.push(format!("and {} more", all.len() - EXAMPLES_MAX));
        }
        lines
    }
}
