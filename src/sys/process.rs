//! Telling another process something.

use std::io;

/// Sends a signal to a process.
pub fn send_signal(process: u32, signal: i32) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: `kill` takes any two numbers.
    let status = unsafe { libc::kill(process, signal) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
