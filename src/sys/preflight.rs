//! Checks of the machine before a node starts, each with the command that fixes a failure.

use std::fmt;
use std::io;
use std::path::Path;

use io_uring::{IoUring, squeue};

use crate::sys::new_file::{is_full, make_directories};

/// glommio refuses to start a core below this.
const MEMLOCK_BYTES_MIN: u64 = 512 << 10;

/// A failed check, and the command that fixes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Obstacle {
    /// What is wrong, with the value found.
    pub problem: String,
    /// What to do about it.
    pub fix: String,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}\n  fix: {}", self.problem, self.fix)
    }
}

/// Checks that this process may use io_uring.
pub fn check_io_uring() -> Result<(), Obstacle> {
    let error = match IoUring::<squeue::Entry>::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .build(8)
    {
        Ok(_) => return Ok(()),
        Err(error) => error,
    };
    let setting = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled").unwrap_or_default();
    Err(explain_io_uring(&error, setting.trim()))
}

fn explain_io_uring(error: &io::Error, setting: &str) -> Obstacle {
    let obstacle = |problem: String, fix: &str| Obstacle { problem, fix: fix.to_owned() };
    match (error.raw_os_error(), setting) {
        (_, "1" | "2") => obstacle(
            format!("io_uring is disabled on this host (kernel.io_uring_disabled = {setting})"),
            "sysctl -w kernel.io_uring_disabled=0",
        ),
        (Some(libc::ENOSYS | libc::EINVAL), _) => obstacle(
            format!("the kernel's io_uring is too old or absent: {error}"),
            "run Linux 6.1 or newer",
        ),
        (Some(libc::EPERM | libc::EACCES), _) => obstacle(
            format!("io_uring is refused to this process: {error}"),
            "allow io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp \
             profile (Docker: --security-opt seccomp=unconfined or a profile with the three calls)",
        ),
        (Some(libc::ENOMEM), _) => obstacle(
            format!("io_uring cannot lock memory: {error}"),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit",
        ),
        _ => obstacle(format!("io_uring does not work here: {error}"), "see dmesg for the cause"),
    }
}

/// Raises the limit on locked memory to what is allowed; fails when that is too little.
pub fn raise_memlock() -> Result<(), Obstacle> {
    let limit = raise(libc::RLIMIT_MEMLOCK);
    if limit >= MEMLOCK_BYTES_MIN {
        return Ok(());
    }
    Err(Obstacle {
        problem: format!("only {limit} bytes may be locked in memory, {MEMLOCK_BYTES_MIN} needed"),
        fix: "ulimit -l unlimited, or LimitMEMLOCK=infinity in the systemd unit".to_owned(),
    })
}

/// Raises the limit on open files to what is allowed and returns it; fails below `needed`.
pub fn raise_open_files(needed: u64) -> Result<u64, Obstacle> {
    let limit = raise(libc::RLIMIT_NOFILE);
    if limit >= needed {
        return Ok(limit);
    }
    Err(Obstacle {
        problem: format!("only {limit} files may be open, {needed} needed"),
        fix: format!("ulimit -n {needed}, or LimitNOFILE=1048576 in the systemd unit"),
    })
}

/// Creates a directory if it is missing and checks that files can be created in it. `what` and the
/// configuration `key` are for the message. A full disk is no obstacle: a node must be able to
/// restart on one, replay its log, and continue when there is room.
pub fn check_directory(what: &str, key: &str, directory: &Path) -> Result<(), Obstacle> {
    let probe = directory.join(format!(".carbyne.probe.{}", std::process::id()));
    let result = make_directories(directory).and_then(|()| {
        let written = std::fs::write(&probe, b"probe");
        let removed = std::fs::remove_file(&probe);
        written.and(removed)
    });
    if let Err(error) = &result
        && is_full(error)
    {
        log::error!("disk full, starting anyway directory={}", directory.display());
        return Ok(());
    }
    result.map_err(|error| Obstacle {
        problem: format!("the {what} {} cannot be written: {error}", directory.display()),
        fix: format!(
            "make it and give it to this user: install -d -o \"$(id -un)\" {}; or name another \
             one as {key}",
            directory.display()
        ),
    })
}

/// Raises a soft limit to the hard one and returns the soft limit then in force.
fn raise(resource: libc::__rlimit_resource_t) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the pointer describes `limit`, which outlives the call.
    unsafe { libc::getrlimit(resource, &raw mut limit) };
    let raised = libc::rlimit { rlim_cur: limit.rlim_max, rlim_max: limit.rlim_max };
    // SAFETY: the pointer describes `raised`, which outlives the call.
    let status = unsafe { libc::setrlimit(resource, &raw const raised) };
    if status == 0 { raised.rlim_cur } else { limit.rlim_cur }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_obstacle_names_its_fix() {
        let check = |errno, setting: &str, want: &str| {
            let got = explain_io_uring(&io::Error::from_raw_os_error(errno), setting).to_string();
            assert!(got.contains(want) && got.contains("fix: "), "{got}");
        };
        check(libc::EPERM, "2", "sysctl -w kernel.io_uring_disabled=0");
        check(libc::EPERM, "0", "seccomp");
        check(libc::ENOSYS, "", "Linux 6.1");
        check(libc::ENOMEM, "0", "LimitMEMLOCK");
        let path = Path::new("/proc/nowhere/data");
        assert!(
            check_directory("data directory", "key", path)
                .unwrap_err()
                .to_string()
                .contains("/proc/nowhere/data")
        );
        let needed = u64::MAX - 1;
        let obstacle = raise_open_files(needed).unwrap_err();
        assert!(obstacle.fix.contains("LimitNOFILE"), "{obstacle}");
    }
}
