//! Taking over from a running node, so that an upgrade refuses no connection.
//!
//! The new process joins the ports first: connections and datagrams that come from then on wait at
//! its sockets. Then it has the old one stop, which takes what waits at its own sockets, commits
//! it to the log and exits; the new one replays the log and serves. Connections that were open are
//! closed by the old process, as by any stop.

use std::path::Path;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGUSR2;

use crate::config::Config;
use crate::fatal::{Fatal, die};
use crate::sys::lock::{LockState, look_at_lock};
use crate::sys::process::send_signal;

/// Time between two looks at the lock.
const PAUSE: Duration = Duration::from_millis(5);

/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The process that has the data directory.
#[derive(Debug)]
pub(crate) struct Former {
    process: u32,
}

impl Former {
    /// Finds the node that runs on the configured data directory, if one does.
    pub(crate) fn find(config: &Config) -> Option<Former> {
        let directory = &config.whisper.data_dir;
        match look_at_lock(directory) {
            Ok(LockState::Held(process, _)) => Some(Former { process }),
            _ => {
                log::info!("no node to take over from directory={}", directory.display());
                None
            }
        }
    }

    /// Has it stop, and waits until it has.
    pub(crate) fn end(self, directory: &Path) {
        let begun = Instant::now();
        log::info!("taking over process={}", self.process);
        if let Err(error) = send_signal(self.process, SIGUSR2) {
            die(Fatal::Locked, &format!("stop process {}: {error}", self.process));
        }
        let mut told = begun;
        while let Ok(LockState::Held(process, _)) = look_at_lock(directory)
            && process == self.process
        {
            if told.elapsed() >= PROGRESS_INTERVAL {
                told = Instant::now();
                log::info!("taking over, the old node has not ended yet process={process}");
            }
            std::thread::sleep(PAUSE);
        }
        log::info!("taken over elapsed_s={:.2}", begun.elapsed().as_secs_f64());
    }
}
