//! A running node as its main thread holds it: waits for its cores, follows the schema files, and
//! deletes the logs of earlier runs.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use rtrb::Producer;
use signal_hook::consts::{SIGHUP, SIGTERM};

use crate::logging;
use crate::node::log_directory::NodeLog;
use crate::node::rules::RuleFiles;
use crate::sys::clock;
use crate::sys::doorbell::Doorbell;
use crate::sys::executor::CoreHandle;
use crate::sys::lock::DirectoryLock;
use crate::tasks::core::{Order, Report};

/// How often the schema files are looked at for changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// A clock this far behind the last point of the log is wrong, or was.
const CLOCK_BEHIND_S: u32 = 600;

/// The node tells of a clock this far ahead of the last point of the log.
const CLOCK_AHEAD_S: u32 = 7 * 86_400;

/// How long a start waits for a clock that is behind the log to be set, and how often it looks.
const CLOCK_WAIT: Duration = Duration::from_secs(60);
const CLOCK_PAUSE: Duration = Duration::from_millis(50);

/// The main thread's line to one core.
pub(crate) struct CoreLine {
    pub(crate) orders: Producer<Order>,
    pub(crate) bell: Doorbell,
    pub(crate) handle: CoreHandle,
}

/// A running node, as the main thread holds it.
pub(crate) struct Node {
    pub(crate) cores: Vec<CoreLine>,
    pub(crate) reports: Receiver<Report>,
    pub(crate) log: Option<NodeLog>,
    pub(crate) lock: DirectoryLock,
    /// Cores that need nothing of earlier runs any more.
    pub(crate) released_count: usize,
}

impl Node {
    /// Reads what earlier runs left in the log, before anything is received. A signal ends the
    /// process at once: nothing is lost, and the next start reads it again.
    pub(crate) fn recover(&mut self) {
        let Some(log) = self.log.as_mut().filter(|log| log.is_heir()) else { return };
        let reports = &self.reports;
        let recovered = log.recover(|pause| {
            if let Ok(Report::Signal(signal)) = reports.recv_timeout(pause)
                && signal != SIGHUP
            {
                log::info!("stopped while replaying the log signal={signal}");
                std::process::exit(0);
            }
        });
        // One core counts them.
        let lost_points = Cell::new(recovered.lost_points);
        self.order_all(|| Order::InheritanceRead(lost_points.take()));
        self.wait_for_all(&Report::Recovered, |_| std::process::exit(0));
        self.wait_for_clock(recovered.last_arrived_s);
    }

    /// Receives nothing while the clock is far behind the last point of the log: most likely it is
    /// about to be set. Points of the log are written meanwhile, at the age they had when they
    /// came, whatever the clock says. After a minute the clock is believed.
    fn wait_for_clock(&mut self, last_arrived_s: u32) {
        let begun = Instant::now();
        let behind_s = || last_arrived_s.saturating_sub(clock::now_s());
        let ahead_s = clock::now_s().saturating_sub(last_arrived_s);
        if last_arrived_s > 0 && ahead_s > CLOCK_AHEAD_S {
            log::warn!("the clock is ahead of the last point in the log seconds={ahead_s}");
        }
        let mut is_told = false;
        while behind_s() > CLOCK_BEHIND_S {
            if !is_told {
                log::warn!(
                    "the clock is behind the last point in the log seconds={}, receiving nothing \
                     for {} s unless it is set",
                    behind_s(),
                    CLOCK_WAIT.as_secs()
                );
                is_told = true;
            }
            if begun.elapsed() >= CLOCK_WAIT {
                log::warn!("the clock is still behind the log, going on with what it says");
                return;
            }
            match self.reports.recv_timeout(CLOCK_PAUSE) {
                Ok(Report::Signal(SIGHUP)) | Err(_) => {}
                // All points are in the log.
                Ok(Report::Signal(_)) => std::process::exit(0),
                Ok(Report::InheritanceReleased) => self.released_count += 1,
                Ok(_) => {}
            }
        }
        if is_told {
            log::info!("the clock was set");
        }
    }

    pub(crate) fn wait_for_all(&mut self, wanted: &Report, mut on_signal: impl FnMut(i32)) {
        let mut count = 0;
        while count < self.cores.len() {
            match self.reports.recv() {
                Ok(Report::Signal(SIGHUP)) => {}
                Ok(Report::Signal(signal)) => on_signal(signal),
                Err(_) => std::process::exit(0),
                Ok(Report::InheritanceReleased) => self.released_count += 1,
                Ok(report) => count += usize::from(report == *wanted),
            }
        }
    }

    /// Follows the schema files until a signal says to stop; returns it.
    pub(crate) fn watch(&mut self, rule_files: &mut RuleFiles) -> i32 {
        loop {
            let must_read = match self.reports.recv_timeout(WATCH_INTERVAL) {
                Ok(Report::Signal(SIGHUP)) => {
                    logging::reopen();
                    true
                }
                Ok(Report::Signal(signal)) => return signal,
                Err(RecvTimeoutError::Disconnected) => return SIGTERM,
                Ok(Report::InheritanceReleased) => {
                    self.released_count += 1;
                    false
                }
                Ok(_) => false,
                Err(RecvTimeoutError::Timeout) => rule_files.have_changed(),
            };
            self.drop_inheritance();
            if must_read {
                self.reload(rule_files);
            }
        }
    }

    /// Deletes the logs of earlier runs when no core needs them any more.
    fn drop_inheritance(&mut self) {
        let Some(log) = self.log.as_mut().filter(|log| log.is_heir()) else { return };
        if self.released_count == self.cores.len() && log.drop_inheritance() {
            self.order_all(|| Order::InheritanceGone);
        }
    }

    fn reload(&mut self, rule_files: &mut RuleFiles) {
        match rule_files.load() {
            Ok((rules, texts)) => {
                texts.iter().for_each(|text| log::warn!("{text}"));
                log::info!("rules for new files read again");
                let rules = Arc::new(rules);
                self.order_all(|| Order::Rules(Arc::clone(&rules)));
            }
            Err(errors) => {
                errors.iter().for_each(|error| log::error!("{error}"));
                log::error!("rules for new files not usable, the old ones stay");
            }
        }
    }

    /// Gives every core an order. A core that has not taken the last sixteen hangs: it is named in
    /// the log, and only a second signal ends such a node.
    pub(crate) fn order_all(&mut self, order: impl Fn() -> Order) {
        for core in &mut self.cores {
            if core.orders.push(order()).is_err() {
                log::warn!("a core does not take orders");
            }
            core.bell.ring();
        }
    }
}
