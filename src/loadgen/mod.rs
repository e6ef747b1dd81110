//! `carbyne loadgen`: sends points to a node as fast as it takes them, and verifies that they
//! arrived.
//!
//! It must cost less than any node, so that it measures the node's limit: the bytes of a round are
//! prepared once, later rounds change only digits in place ([`stream`]), and each system call sends
//! many of them ([`connection`]). Threads with blocking sockets drive the agents ([`agent`]); an
//! agent is one connection with its own metrics, as in haggar, whose flags are accepted. The points
//! are a pure function of the arguments ([`plan`]), so another process can verify them too
//! ([`verify`]).

mod agent;
mod connection;
mod options;
mod plan;
mod stream;
mod summary;
mod verify;

use std::ffi::OsString;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use agent::{Agent, Run, drive};
use options::{Asked, Options, resolve};
use summary::Summary;

/// Exit status when points are missing or wrong.
const EXIT_FAILED: u8 = 1;
/// Exit status of an invalid command line: EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;
/// Exit status when the node cannot be reached or closes the connection: EX_UNAVAILABLE of
/// sysexits.h.
const EXIT_UNAVAILABLE: u8 = 69;

const HELP: &str = "\
Usage: carbyne loadgen [OPTION]...

Sends points to a Graphite node, at full speed unless told otherwise, until SIGINT.

What is sent:
  --protocol P            line, pickle or udp (lines in datagrams); default line
  --metrics N             metrics of each agent; default 25000
  --prefix NAME           metrics are NAME.agent.A.metrics.M; default carbyne.loadgen
  --leaves N              at most N metrics in a directory: ...metrics.D.M; default 0 = no limit
  --churn SHARE           share of the metrics replaced by new ones in each round; default 0
  --points-per-message N  points in a frame (500) or datagram (25)
  --start EPOCH, --step S, --window N
                          timestamps: EPOCH, S seconds more each round, again after N rounds;
                          default: steps of a second that end in the present

Where to and how fast:
  --carbon HOST:PORT      the node; default 127.0.0.1:2003, with pickle 127.0.0.1:2004
  --agents N              agents, each a connection; default 4
  --threads N             threads that drive them; default one an agent, at most 8
  --rate N                points a second, all together
  --flush-interval TIME   a round of each agent in this time, stamped by the clock
  --rounds N              rounds of each agent; default no end
  --duration TIME         longest time
  --spawn-interval TIME   time between the starts of two agents; default 0
  --jitter TIME           starts are up to this earlier or later; default 0
  --reconnect             a connection for each round
  --yes-remote            allow a node on another machine

Result:
  --json                  the summary as one object
  --verify                look for every point afterwards; exit status 1 if one is missing or wrong
  --verify-only           send nothing: look for what a run with the same arguments sent
  --carbonlink HOST:PORT  where the node's cache answers; default 127.0.0.1:7002
  --data-dir PATH         the node's Whisper files
  --verify-timeout TIME   how long points may take to appear; default 30s

haggar's flags take one dash: -carbon -agents -metrics -prefix -flush-interval -spawn-interval
-jitter -cache_connections=false. Times are written 10s, 500ms or 1m30s.
Exit status: 0 = done, 1 = points missing or wrong, 64 = bad arguments, 69 = node not reached.
";

/// Why a run has no result: the message and the exit status.
type Failure = (String, u8);

/// Runs `carbyne loadgen` with these arguments and gives the exit status.
///
/// # Errors
/// The answer cannot be written.
pub fn run(args: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let options = match options::parse(args) {
        Ok(Asked::Help) => {
            out.write_all(HELP.as_bytes())?;
            return Ok(0);
        }
        Ok(Asked::Run(options)) => options,
        Err(problem) => {
            writeln!(err, "carbyne: loadgen: {problem}\nSee `carbyne loadgen --help`.")?;
            return Ok(EXIT_USAGE);
        }
    };
    match send_and_verify(&options) {
        Ok(summary) => {
            let text = if options.json { summary.json() } else { summary.text() };
            out.write_all(text.as_bytes())?;
            for line in summary.complaints() {
                writeln!(err, "carbyne: loadgen: {line}")?;
            }
            Ok(status(&summary))
        }
        Err((problem, status)) => {
            writeln!(err, "carbyne: loadgen: {problem}")?;
            Ok(status)
        }
    }
}

fn status(summary: &Summary) -> u8 {
    if !summary.failures.is_empty() {
        EXIT_UNAVAILABLE
    } else if summary.findings.as_ref().is_none_or(verify::Findings::is_good) {
        0
    } else {
        EXIT_FAILED
    }
}

fn send_and_verify(options: &Options) -> Result<Summary, Failure> {
    let usage = |problem: String| (problem, EXIT_USAGE);
    let target = resolve(&options.target, options.yes_remote).map_err(usage)?;
    if let Some(verify) = &options.verify {
        resolve(&verify.carbonlink, options.yes_remote).map_err(usage)?;
    }
    let stop = stop_flag().map_err(|error| (format!("catch signals: {error}"), EXIT_FAILED))?;
    let (mut summary, agents) =
        if options.verify_only { sent_before(options) } else { send(options, target, &stop) }?;
    if let Some(verify) = &options.verify {
        let findings = verify::run(&options.plan, &agents, verify);
        summary.findings = Some(findings.map_err(|problem| (problem, EXIT_UNAVAILABLE))?);
    }
    Ok(summary)
}

/// Set by the first SIGINT or SIGTERM; a second one ends the process.
fn stop_flag() -> io::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_default(signal, Arc::clone(&stop))?;
        signal_hook::flag::register(signal, Arc::clone(&stop))?;
    }
    Ok(stop)
}

fn too_large(_: stream::TooLarge) -> Failure {
    ("a round of one agent has more than 4 GiB".to_owned(), EXIT_USAGE)
}

/// Agents as they are after a run of another process.
fn sent_before(options: &Options) -> Result<(Summary, Vec<Agent>), Failure> {
    let rounds = options.rounds.unwrap_or(0);
    let agents: Result<Vec<Agent>, _> =
        (0..options.agents).map(|index| Agent::after(options, index, rounds)).collect();
    Ok((Summary { agents: 0, ..Summary::default() }, agents.map_err(too_large)?))
}

/// Sends until everything is sent or the stop is set.
fn send(
    options: &Options,
    target: SocketAddr,
    stop: &AtomicBool,
) -> Result<(Summary, Vec<Agent>), Failure> {
    // Preparing takes time; agents are launched when all are prepared.
    let prepared = Instant::now();
    let agents: Result<Vec<Agent>, _> =
        (0..options.agents).map(|index| Agent::new(options, index, prepared)).collect();
    let mut agents = agents.map_err(too_large)?;
    let start = Instant::now();
    for agent in &mut agents {
        agent.postpone(start - prepared);
    }
    let run = Run { options, target, start, stop };
    let per_thread = agents.len().div_ceil(options.threads as usize);
    let cpu: Duration = std::thread::scope(|scope| {
        let drives: Vec<_> =
            agents.chunks_mut(per_thread).map(|part| scope.spawn(|| drive(part, &run))).collect();
        drives.into_iter().map(|drive| drive.join().unwrap_or_default()).sum()
    });
    let failures = agents.iter().filter_map(|agent| {
        let failure = agent.failure.as_ref()?;
        Some(format!("agent {}: {}: {failure}", agent.index, options.target))
    });
    let summary = Summary {
        points: agents.iter().map(|agent| agent.points(&options.plan)).sum(),
        bytes: agents.iter().map(|agent| agent.bytes).sum(),
        agents: options.agents,
        elapsed: start.elapsed(),
        cpu,
        failures: failures.collect(),
        findings: None,
    };
    Ok((summary, agents))
}
