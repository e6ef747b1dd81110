//! Stopping a node: end receiving, let every point reach its owner, then either commit every point
//! to the log or write it to its file.

use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use signal_hook::consts::{SIGHUP, SIGUSR1, SIGUSR2};

use crate::fatal::Fatal;
use crate::node::drain::NOTHING_LEFT;
use crate::node::running::Node;
use crate::stats::{Counters, Receiver};
use crate::tasks::core::{CoreCommand, CoreEvent};

/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Longest wait for the log's disk at a stop.
const SEAL_TIME: Duration = Duration::from_secs(30);

/// Added to the number of a second signal: the status that a shell reports for an uncaught one.
const STATUS_SIGNAL: i32 = 128;

/// Stops the node in order; a second SIGTERM or SIGINT ends it at once. With a log, only SIGUSR1
/// has everything written out first.
pub(crate) fn stop(mut node: Node, signal: i32, is_writing: bool) -> ExitCode {
    let begun = Instant::now();
    let count = node.cores.len();
    log::info!("stopping: receiving ends");
    node.command_all(|| CoreCommand::StopReceiving);
    let is_drain = node.log.is_none() || signal == SIGUSR1;
    let mut progress = Progress { waiting: vec![0; count], told: begun, is_drain };
    collect(&node, None, &mut progress, |report| matches!(report, CoreEvent::Quiet));
    let status = if is_drain {
        drain(&mut node, begun, progress, is_writing)
    } else {
        seal(&mut node, begun, progress)
    };
    // The locks end with the process: a thread may still be in a system call that writes.
    std::mem::forget(node);
    status
}

/// Commits every point that is not in its file to the log.
fn seal(node: &mut Node, begun: Instant, mut progress: Progress) -> ExitCode {
    log::info!("stopping: committing everything to the log");
    node.command_all(|| CoreCommand::Seal);
    let mut total = Counters::default();
    let deadline = Instant::now() + SEAL_TIME;
    let is_sealed = collect(node, Some(deadline), &mut progress, |report| match report {
        CoreEvent::Sealed(counters) => {
            total.add(counters);
            true
        }
        _ => false,
    });
    if !is_sealed {
        let left = progress.waiting.iter().sum::<u64>();
        log::error!("stopped with points that could not be committed to the log count={left}");
        return ExitCode::from(Fatal::Unwritten.status());
    }
    join(node);
    tell_totals(&total, begun.elapsed());
    ExitCode::SUCCESS
}

/// Writes every point to its file.
fn drain(node: &mut Node, begun: Instant, mut progress: Progress, is_writing: bool) -> ExitCode {
    log::info!("stopping: writing everything out");
    node.command_all(|| CoreCommand::Drain);
    let mut unwritten = 0;
    let mut total = Counters::default();
    collect(node, None, &mut progress, |report| match report {
        CoreEvent::Drained(left, counters) => {
            unwritten += left;
            total.add(counters);
            true
        }
        _ => false,
    });
    join(node);
    tell_totals(&total, begun.elapsed());
    if unwritten == 0
        && let Some(log) = &mut node.log
        && let Err(error) = log.drop_all()
    {
        log::error!("sync and delete the log failed, the next start replays it error={error}");
        node.lock.tell("the log could not be deleted");
        return ExitCode::from(Fatal::Unwritten.status());
    }
    node.lock.tell(&points_left(unwritten));
    if unwritten > 0 && is_writing {
        log::error!("stopped with points that could not be written count={unwritten}");
        return ExitCode::from(Fatal::Unwritten.status());
    }
    if unwritten > 0 {
        log::warn!("stopped, writing is off and points are gone count={unwritten}");
    }
    ExitCode::SUCCESS
}

/// The line of the lock file that `carbyne drain` reads; "0" only at the end.
fn points_left(count: u64) -> String {
    if count == 0 { NOTHING_LEFT.to_owned() } else { format!("{count} points left") }
}

fn join(node: &mut Node) {
    for core in node.cores.drain(..) {
        let _ = core.handle.join();
    }
}

/// Logs the totals: what became of every received point.
fn tell_totals(total: &Counters, elapsed: Duration) {
    let of = |receiver: Receiver| total.received[receiver.index()];
    let received: u64 = total.received.iter().sum();
    let refused: u64 = total.refused.iter().sum();
    let dropped: u64 = total.dropped.iter().sum::<u64>() - refused;
    log::info!(
        "stopped received={received} received_tcp={} received_udp={} received_pickle={} \
         received_own={} refused={refused} accepted={} recovered={} replaced={} stored={} \
         dropped={dropped} logged={} elapsed_s={:.1}",
        of(Receiver::Tcp),
        of(Receiver::Udp),
        of(Receiver::Pickle),
        of(Receiver::Own),
        total.accepted,
        total.recovered,
        total.replaced,
        total.committed,
        total.logged,
        elapsed.as_secs_f64(),
    );
    let placed = total.replaced + total.committed + dropped + total.logged;
    let is_sound =
        received == refused + total.accepted && total.accepted + total.recovered == placed;
    if !is_sound {
        log::error!("the counters do not add up, please report this");
    }
}

struct Progress {
    waiting: Vec<u64>,
    told: Instant,
    is_drain: bool,
}

impl Progress {
    fn tell(&mut self, node: &Node) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            let left = self.waiting.iter().sum::<u64>();
            log::info!("stopping: points left to write count={left}");
            // Only `carbyne drain` reads this; otherwise a hanging disk must not delay the stop.
            if self.is_drain {
                node.lock.tell(&points_left(left.max(1)));
            }
        }
    }
}

/// Waits until each core has sent a wanted report; false if the deadline passes first.
fn collect(
    node: &Node,
    deadline: Option<Instant>,
    progress: &mut Progress,
    mut is_wanted: impl FnMut(&CoreEvent) -> bool,
) -> bool {
    let mut wanted = 0;
    while wanted < node.cores.len() {
        if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
            return false;
        }
        match node.reports.recv_timeout(PROGRESS_INTERVAL) {
            // Sent by `carbyne drain` or by a node that takes over, independently of each other.
            Ok(CoreEvent::Signal(signal @ (SIGUSR1 | SIGUSR2))) => {
                log::info!("stopping already, going on signal={signal}");
            }
            Ok(CoreEvent::Signal(signal)) if signal != SIGHUP => {
                log::warn!("second signal, stopping at once signal={signal}");
                std::process::exit(STATUS_SIGNAL + signal);
            }
            Ok(CoreEvent::Draining(shard, left)) => progress.waiting[shard.index()] = left,
            Ok(report) => wanted += usize::from(is_wanted(&report)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return true,
        }
        progress.tell(node);
    }
    true
}
