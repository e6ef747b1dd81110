//! Replaces a running node without refusing a connection, for upgrades.
//!
//! The new process binds the ports first (`SO_REUSEPORT`); from then on, connections and datagrams
//! queue at its sockets. Then it signals the old process, which reads what is queued at its own
//! sockets, commits it to the log and exits. The new process replays the log and serves. The old
//! process closes its open connections, as at any stop.

use std::path::Path;
use std::time::{Duration, Instant};

use signal_hook::consts::SIGUSR2;

use crate::config::Config;
use crate::fatal::{Fatal, die};
use crate::sys::lock::{LockState, look_at_lock};
use crate::sys::process::send_signal;

/// Time between two reads of the lock file.
const PAUSE: Duration = Duration::from_millis(5);

/// Time between two progress lines.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The process that holds the lock of the data directory.
#[derive(Debug)]
pub(crate) struct Predecessor {
    process: u32,
}

impl Predecessor {
    /// Finds the node that runs on the configured data directory, if one does.
    pub(crate) fn find(config: &Config) -> Option<Predecessor> {
        let directory = &config.whisper.data_dir;
        match look_at_lock(directory) {
            Ok(LockState::Held(process, _)) => Some(Predecessor { process }),
            _ => {
                log::info!("no node to take over from directory={}", directory.display());
                None
            }
        }
    }

    /// Stops it and waits for its end.
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
