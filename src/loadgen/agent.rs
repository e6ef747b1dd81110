//! One agent: its stream, its connection, and when it sends next. A thread drives several.
//!
//! Agents of a thread take turns by their due times, a batch of messages each, so that no agent of
//! a thread runs ahead of the others.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::loadgen::connection::Connection;
use crate::loadgen::options::{Options, Pace, Protocol};
use crate::loadgen::plan::Plan;
use crate::loadgen::stream::{Stream, TooLarge};
use crate::sys::{clock, cpu};

/// Bytes changed and sent at once: they stay in the second cache between the two.
const BATCH_BYTES: usize = 256 << 10;

/// With a rate, each agent sends a batch about this often.
const BATCHES_PER_S: f64 = 100.0;

/// Longest sleep before the stop is looked at.
const SLEEP_MAX: Duration = Duration::from_millis(50);

/// One agent, and what it has sent.
#[derive(Debug)]
pub(super) struct Agent {
    /// Its number, which is part of its names.
    pub(super) index: u32,
    /// Rounds it has finished.
    pub(super) rounds: u32,
    /// Points of the round it is in.
    pub(super) slots_sent: u32,
    /// The timestamps of its rounds, where the clock gave them.
    pub(super) clock_times: Vec<u32>,
    /// Bytes sent.
    pub(super) bytes: u64,
    /// Why it ended early.
    pub(super) failure: Option<String>,
    stream: Stream,
    connection: Option<Connection>,
    next_message: usize,
    launch: Instant,
    due: Instant,
}

/// What all agents share.
#[derive(Debug)]
pub(super) struct Run<'a> {
    /// What was asked for.
    pub(super) options: &'a Options,
    /// Where the bytes go.
    pub(super) target: SocketAddr,
    /// When everything begins.
    pub(super) start: Instant,
    /// Set when the sender is to stop.
    pub(super) stop: &'a AtomicBool,
}

impl Agent {
    /// An agent that is launched when its time has come.
    pub(super) fn new(options: &Options, index: u32, start: Instant) -> Result<Agent, TooLarge> {
        let encoding = options.protocol.encoding();
        let stream = Stream::new(&options.plan, index, encoding, options.points_per_message)?;
        let launch = start + launch_delay(options, index);
        Ok(Agent {
            index,
            rounds: 0,
            slots_sent: 0,
            clock_times: Vec::new(),
            bytes: 0,
            failure: None,
            stream,
            connection: None,
            next_message: 0,
            launch,
            due: launch,
        })
    }

    /// Launches it later.
    pub(super) fn postpone(&mut self, time: Duration) {
        self.launch += time;
        self.due = self.launch;
    }

    /// Points sent.
    pub(super) fn points(&self, plan: &Plan) -> u64 {
        u64::from(self.rounds) * u64::from(plan.slots) + u64::from(self.slots_sent)
    }

    /// Rounds in which this slot's point was sent.
    pub(super) fn rounds_of(&self, slot: u32) -> u32 {
        self.rounds + u32::from(slot < self.slots_sent)
    }

    /// The timestamp of a round.
    pub(super) fn timestamp_s(&self, plan: &Plan, round: u32) -> u32 {
        let stamped = self.clock_times.get(round as usize);
        stamped.copied().unwrap_or_else(|| plan.timestamp_s(round))
    }

    /// An agent as it was after these rounds, to verify the points of an earlier run.
    pub(super) fn after(options: &Options, index: u32, rounds: u32) -> Result<Agent, TooLarge> {
        let nothing =
            Options { plan: Plan { slots: 1, ..options.plan.clone() }, ..options.clone() };
        Ok(Agent { rounds, ..Agent::new(&nothing, index, Instant::now())? })
    }

    fn is_done(&self, options: &Options) -> bool {
        self.failure.is_some() || options.rounds.is_some_and(|rounds| self.rounds >= rounds)
    }

    /// Sends a batch.
    fn send(&mut self, run: &Run<'_>) {
        let options = run.options;
        if self.connection.is_none() {
            match Connection::open(run.target, options.protocol == Protocol::Udp) {
                Ok(connection) => self.connection = Some(connection),
                Err(error) => {
                    self.failure = Some(format!("connect: {error}"));
                    return;
                }
            }
        }
        if self.next_message == 0 && matches!(options.pace, Pace::Interval(_)) {
            self.clock_times.push(clock::now_s());
        }
        let messages = self.stream.messages(self.next_message, batch_bytes(options));
        let timestamp_s = self.timestamp_s(&options.plan, self.rounds);
        self.stream.set_round(&options.plan, &messages, self.rounds, timestamp_s);
        let connection = self.connection.as_mut().expect("connected above");
        let sent = connection.send(&self.stream, &messages, run.stop);
        self.bytes += sent.bytes as u64;
        self.failure = sent.error.map(|error| format!("send: {error}"));
        self.next_message = messages.start + sent.messages;
        self.slots_sent = self.stream.slots(&(0..self.next_message)).end;
        if self.next_message == self.stream.message_count() {
            self.end_round(options);
        }
        self.due = self.next_due(options);
    }

    fn end_round(&mut self, options: &Options) {
        self.rounds += 1;
        (self.next_message, self.slots_sent) = (0, 0);
        if options.reconnect {
            self.connection = None;
        }
    }

    fn next_due(&self, options: &Options) -> Instant {
        match options.pace {
            Pace::Full => Instant::now(),
            Pace::Rate(rate) => {
                #[expect(clippy::cast_precision_loss, reason = "a time need not be exact")]
                let points = self.points(&options.plan) as f64;
                self.launch + Duration::from_secs_f64(points * f64::from(options.agents) / rate)
            }
            Pace::Interval(interval) if self.next_message == 0 => {
                self.launch + interval.saturating_mul(self.rounds)
            }
            Pace::Interval(_) => self.due,
        }
    }
}

/// How many bytes to send before looking at the clock again.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a small number")]
fn batch_bytes(options: &Options) -> usize {
    match options.pace {
        Pace::Rate(rate) => {
            // Some 56 bytes a point, whatever the encoding: only the number of steps depends on it.
            let bytes = rate / f64::from(options.agents) / BATCHES_PER_S * 56.0;
            (bytes as usize).min(BATCH_BYTES)
        }
        Pace::Full | Pace::Interval(_) => BATCH_BYTES,
    }
}

/// haggar's launches: one agent every interval, each up to the jitter earlier or later.
fn launch_delay(options: &Options, index: u32) -> Duration {
    let regular = options.spawn_interval.saturating_mul(index);
    let spread = f64::from(index.wrapping_mul(0x9e37_79b1) >> 8) / f64::from(1 << 24);
    (regular + options.jitter.mul_f64(2.0 * spread)).saturating_sub(options.jitter)
}

/// Lets agents send until they are done or the stop is set. Returns the CPU time this took.
pub(super) fn drive(agents: &mut [Agent], run: &Run<'_>) -> Duration {
    let cpu_before = cpu::thread_cpu_time();
    let end = run.options.duration.map(|duration| run.start + duration);
    while !run.stop.load(Ordering::Relaxed) {
        let waiting = agents.iter_mut().filter(|agent| !agent.is_done(run.options));
        let Some(agent) = waiting.min_by_key(|agent| agent.due) else { break };
        let now = Instant::now();
        if end.is_some_and(|end| now >= end) {
            break;
        }
        if agent.due > now {
            let rest = end.map_or(SLEEP_MAX, |end| end - now);
            std::thread::sleep((agent.due - now).min(SLEEP_MAX).min(rest));
        } else {
            agent.send(run);
        }
    }
    // A closed connection tells the node that nothing follows.
    for agent in agents {
        agent.connection = None;
    }
    cpu::thread_cpu_time().saturating_sub(cpu_before)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn launches_are_regular_but_for_the_jitter() {
        let options = crate::loadgen::options::parse(&["-spawn-interval=10s".into()]);
        let Ok(crate::loadgen::options::Asked::Run(mut options)) = options else {
            panic!("the arguments of this test are fine: {options:?}")
        };
        assert_eq!(launch_delay(&options, 3), Duration::from_secs(30));
        options.jitter = Duration::from_secs(5);
        let delays: Vec<Duration> = (1..100).map(|index| launch_delay(&options, index)).collect();
        for (index, delay) in (1u32..).zip(&delays) {
            let regular = i64::from(index) * 10;
            let off = i64::try_from(delay.as_secs()).expect("short") - regular;
            assert!((-5..=5).contains(&off), "agent {index}: {delay:?}");
        }
        assert!(delays.iter().any(|delay| delay.subsec_millis() != 0));
    }
}
