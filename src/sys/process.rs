//! Telling another process something.

use std::io;

/// Sends a signal to a process.
pub fn send_signal(process: u32, signal: i32) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: `kill` takes any two numbers.
    let status = unsafe { libc::kill(process, signal) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// The identity of this start of the machine's kernel, as the kernel gives it; zeros when it does
/// not.
pub fn boot_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    u128::from_str_radix(&digits, 16).unwrap_or(0).to_be_bytes()
}
