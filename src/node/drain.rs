//! `carbyne drain`: makes the running node write every point to its file and stop, so that another
//! program can take over the files.

use std::io::{self, Write};
use std::path::Path;
use std::time::Duration;

use signal_hook::consts::SIGUSR1;

use crate::sys::lock::{LockState, look_at_lock};
use crate::sys::process::send_signal;

/// No node runs: EX_UNAVAILABLE of sysexits.h.
const EXIT_UNAVAILABLE: u8 = 69;

/// The node could not write every point: the same status as its own.
const EXIT_UNWRITTEN: u8 = 75;

/// Time between two reads of the lock file.
const PAUSE: Duration = Duration::from_millis(100);

/// The last line in the lock file when every point is written.
pub(crate) const NOTHING_LEFT: &str = "0 points left";

/// Drains the node of this data directory; returns the exit status.
pub(crate) fn drain(directory: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let place = directory.display();
    let process = match look_at_lock(directory) {
        Ok(LockState::Held(process, _)) => process,
        Ok(LockState::Free(_)) => {
            writeln!(err, "carbyne: no node runs on {place}")?;
            return Ok(EXIT_UNAVAILABLE);
        }
        Err(error) => {
            writeln!(err, "carbyne: no node runs on {place}: {error}")?;
            return Ok(EXIT_UNAVAILABLE);
        }
    };
    if let Err(error) = send_signal(process, SIGUSR1) {
        writeln!(err, "carbyne: signal process {process} to drain: {error}")?;
        return Ok(EXIT_UNAVAILABLE);
    }
    writeln!(out, "draining process {process}")?;
    let mut told = String::new();
    loop {
        std::thread::sleep(PAUSE);
        let (is_over, said) = match look_at_lock(directory)? {
            LockState::Held(_, said) => (false, said),
            LockState::Free(said) => (true, said),
        };
        if is_over {
            return finish(&said, out, err);
        }
        if said != told {
            writeln!(out, "{said}")?;
            told = said;
        }
    }
}

fn finish(said: &str, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    if said == NOTHING_LEFT {
        writeln!(out, "drained")?;
        return Ok(0);
    }
    let said = if said.is_empty() { "the node ended before every point was written" } else { said };
    writeln!(err, "carbyne: not drained: {said}; see the node's log")?;
    Ok(EXIT_UNWRITTEN)
}
