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
use crate::tasks::core::{CoreCommand, CoreEvent};

/// Time between two checks of the schema files for changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// A clock this far behind the last point of the log is wrong, or was when the point arrived.
const CLOCK_BEHIND_S: u32 = 600;

/// The node warns of a clock this far ahead of the last point of the log.
const CLOCK_AHEAD_S: u32 = 7 * 86_400;

/// How long a start waits for a clock that is behind the log to be set, and how often it looks.
const CLOCK_WAIT: Duration = Duration::from_secs(60);
const CLOCK_PAUSE: Duration = Duration::from_millis(50);

/// The main thread's line to one core.
pub(crate) struct CoreLine {
    pub(crate) commands: Producer<CoreCommand>,
    pub(crate) bell: Doorbell,
    pub(crate) handle: CoreHandle,
}

/// A running node, as the main thread holds it.
pub(crate) struct Node {
    pub(crate) cores: Vec<CoreLine>,
    pub(crate) reports: Receiver<CoreEvent>,
    pub(crate) log: Option<NodeLog>,
    pub(crate) lock: DirectoryLock,
    /// Cores that have released the segments of earlier runs.
    pub(crate) released_count: usize,
}

impl Node {
    /// Replays the log of earlier runs before anything is received. A signal ends the process at
    /// once: nothing is lost, the next start replays again.
    pub(crate) fn recover(&mut self) {
        let Some(log) = self.log.as_mut().filter(|log| log.is_heir()) else { return };
        let reports = &self.reports;
        let recovered = log.recover(|pause| {
            if let Ok(CoreEvent::Signal(signal)) = reports.recv_timeout(pause)
                && signal != SIGHUP
            {
                log::info!("stopped while replaying the log signal={signal}");
                std::process::exit(0);
            }
        });
        // The first core counts the lost points of all.
        let lost_points = Cell::new(recovered.lost_points);
        self.command_all(|| CoreCommand::InheritanceRead(lost_points.take()));
        self.wait_for_all(&CoreEvent::Recovered, |_| std::process::exit(0));
        self.wait_for_clock(recovered.last_arrived_s);
    }

    /// Waits up to [`CLOCK_WAIT`] while the clock is far behind the last point of the log: most
    /// likely it will be set soon. Points of the log are written meanwhile; their age counts from
    /// their arrival, not from the clock.
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
                log::warn!("the clock is still behind the log, starting with it");
                return;
            }
            match self.reports.recv_timeout(CLOCK_PAUSE) {
                Ok(CoreEvent::Signal(SIGHUP)) | Err(_) => {}
                // All points are in the log.
                Ok(CoreEvent::Signal(_)) => std::process::exit(0),
                Ok(CoreEvent::InheritanceReleased) => self.released_count += 1,
                Ok(_) => {}
            }
        }
        if is_told {
            log::info!("the clock was set");
        }
    }

    pub(crate) fn wait_for_all(&mut self, wanted: &CoreEvent, mut on_signal: impl FnMut(i32)) {
        let mut count = 0;
        while count < self.cores.len() {
            match self.reports.recv() {
                Ok(CoreEvent::Signal(SIGHUP)) => {}
                Ok(CoreEvent::Signal(signal)) => on_signal(signal),
                Err(_) => std::process::exit(0),
                Ok(CoreEvent::InheritanceReleased) => self.released_count += 1,
                Ok(report) => count += usize::from(report == *wanted),
            }
        }
    }

    /// Follows the schema files until a signal says to stop; returns it.
    pub(crate) fn watch(&mut self, rule_files: &mut RuleFiles) -> i32 {
        loop {
            let must_read = match self.reports.recv_timeout(WATCH_INTERVAL) {
                Ok(CoreEvent::Signal(SIGHUP)) => {
                    logging::reopen();
                    true
                }
                Ok(CoreEvent::Signal(signal)) => return signal,
                Err(RecvTimeoutError::Disconnected) => return SIGTERM,
                Ok(CoreEvent::InheritanceReleased) => {
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

    /// Deletes the segments of earlier runs when every core has released them.
    fn drop_inheritance(&mut self) {
        let Some(log) = self.log.as_mut().filter(|log| log.is_heir()) else { return };
        if self.released_count == self.cores.len() && log.drop_inheritance() {
            self.command_all(|| CoreCommand::InheritanceGone);
        }
    }

    fn reload(&mut self, rule_files: &mut RuleFiles) {
        match rule_files.load() {
            Ok((rules, texts)) => {
                texts.iter().for_each(|text| log::warn!("{text}"));
                log::info!("rules for new files read again");
                let rules = Arc::new(rules);
                self.command_all(|| CoreCommand::Rules(Arc::clone(&rules)));
            }
            Err(errors) => {
                errors.iter().for_each(|error| log::error!("{error}"));
                log::error!("rules for new files have errors, the old ones stay");
            }
        }
    }

    /// Sends every core a command. A core that has not taken the last sixteen hangs: the log says
    /// so, and only a second signal ends such a node.
    pub(crate) fn command_all(&mut self, command: impl Fn() -> CoreCommand) {
        for core in &mut self.cores {
            if core.commands.push(command()).is_err() {
                log::warn!("a core does not respond");
            }
            core.bell.ring();
        }
    }
}
