//! The way down: stop receiving, let every point reach its owner, write everything out.

use std::process::ExitCode;
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::fatal::Fatal;
use crate::node::Node;
use crate::stats::{Counters, Receiver};
use crate::tasks::core::{Order, Report};

/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Status of a node that was told twice to stop: as if the signal had not been caught.
const STATUS_SIGNAL: i32 = 128;

/// Stops the node in order; a second signal ends it at once.
pub(crate) fn stop(mut node: Node, is_writing: bool) -> ExitCode {
    let begun = Instant::now();
    let count = node.cores.len();
    log::info!("stopping: receiving ends");
    node.order_all(|| Order::StopReceiving);
    let mut progress = Progress { waiting: vec![0; count], told: begun };
    collect(&node, count, &mut progress, |report| matches!(report, Report::Quiet));
    log::info!("stopping: writing everything out");
    node.order_all(|| Order::Drain);
    let mut unwritten = 0;
    let mut total = Counters::default();
    collect(&node, count, &mut progress, |report| match report {
        Report::Drained(left, counters) => {
            unwritten += left;
            total.add(counters);
            true
        }
        _ => false,
    });
    for core in node.cores {
        let _ = core.handle.join();
    }
    tell_totals(&total, begun.elapsed());
    if unwritten > 0 && is_writing {
        log::error!("stopped with points that could not be written count={unwritten}");
        return ExitCode::from(Fatal::Unwritten.status());
    }
    if unwritten > 0 {
        log::warn!("stopped, writing is off and points are gone count={unwritten}");
    }
    ExitCode::SUCCESS
}

/// The node's last line: where every point it received has gone.
fn tell_totals(total: &Counters, elapsed: Duration) {
    let of = |receiver: Receiver| total.received[receiver.index()];
    let received: u64 = total.received.iter().sum();
    let refused: u64 = total.refused.iter().sum();
    let dropped: u64 = total.dropped.iter().sum::<u64>() - refused;
    log::info!(
        "stopped received={received} received_tcp={} received_udp={} received_pickle={} \
         received_own={} refused={refused} accepted={} replaced={} stored={} dropped={dropped} \
         elapsed_s={:.1}",
        of(Receiver::Tcp),
        of(Receiver::Udp),
        of(Receiver::Pickle),
        of(Receiver::Own),
        total.accepted,
        total.replaced,
        total.committed,
        elapsed.as_secs_f64(),
    );
    let is_sound = received == refused + total.accepted
        && total.accepted == total.replaced + total.committed + dropped;
    if !is_sound {
        log::error!("the counters do not add up, please report this");
    }
}

struct Progress {
    waiting: Vec<u64>,
    told: Instant,
}

impl Progress {
    fn tell(&mut self) {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            log::info!("stopping: points left to write count={}", self.waiting.iter().sum::<u64>());
        }
    }
}

/// Waits until `count` reports are what is waited for.
fn collect(
    node: &Node,
    count: usize,
    progress: &mut Progress,
    mut is_wanted: impl FnMut(&Report) -> bool,
) {
    let mut wanted = 0;
    while wanted < count {
        match node.reports.recv_timeout(PROGRESS_INTERVAL) {
            Ok(Report::Signal(signal)) if signal != signal_hook::consts::SIGHUP => {
                log::warn!("second signal, stopping at once signal={signal}");
                std::process::exit(STATUS_SIGNAL + signal);
            }
            Ok(Report::Draining(shard, left)) => progress.waiting[shard.index()] = left,
            Ok(report) => wanted += usize::from(is_wanted(&report)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        progress.tell();
    }
}
