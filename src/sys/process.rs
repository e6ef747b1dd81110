//! Telling another process something, and what outlives a process.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::io;

/// Sends a signal to a process.
pub fn send_signal(process: u32, signal: i32) -> io::Result<()> {
    let process = libc::pid_t::try_from(process).map_err(io::Error::other)?;
    // SAFETY: `kill` takes any two numbers.
    let status = unsafe { libc::kill(process, signal) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What stays the same as long as the page cache holds what was written into files: the identity of
/// this start of the machine's kernel, and of all mounts that this process sees. What the page
/// cache of an unmounted file system held is gone when a sync could not write it. Zeros when the
/// kernel, older than Linux 6.8, does not give it.
pub fn page_cache_id() -> [u8; 16] {
    let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let digits: String = text.chars().filter(char::is_ascii_hexdigit).collect();
    let (Ok(boot), Ok(mounts)) = (u128::from_str_radix(&digits, 16), mount_ids()) else {
        return [0; 16];
    };
    let mut hasher = DefaultHasher::new();
    mounts.hash(&mut hasher);
    (boot ^ u128::from(hasher.finish())).to_be_bytes()
}

/// The identities of all mounts below the root of this process; none is ever used again.
fn mount_ids() -> io::Result<Vec<u64>> {
    /// `struct mnt_id_req` of linux/mount.h, in its first version.
    #[repr(C)]
    struct Request {
        size: u32,
        spare: u32,
        mount: u64,
        after: u64,
    }
    /// `listmount` has this number on all architectures but alpha.
    const LISTMOUNT: libc::c_long = 458;
    const ROOT: u64 = u64::MAX;
    const SIZE: u32 = 24;
    let mut all = Vec::new();
    let mut ids = [0u64; 256];
    loop {
        let after = all.last().copied().unwrap_or(0);
        let request = Request { size: SIZE, spare: 0, mount: ROOT, after };
        let (from, to) = (std::ptr::from_ref(&request), ids.as_mut_ptr());
        // SAFETY: the kernel reads `size` bytes of the request, and writes at most as many
        // identities as there is room for.
        let count = unsafe { libc::syscall(LISTMOUNT, from, to, ids.len(), 0) };
        let count = usize::try_from(count).map_err(|_| io::Error::last_os_error())?;
        all.extend_from_slice(&ids[..count]);
        if count < ids.len() {
            return Ok(all);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_cache_has_one_identity_while_nothing_is_mounted() {
        let Ok(mounts) = mount_ids() else {
            assert_eq!(page_cache_id(), [0; 16], "it cannot be known");
            return;
        };
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let listed = table.lines().count();
        assert!(mounts.len().abs_diff(listed) <= 1, "{mounts:?} and not the {listed} of {table}");
        assert!(mounts.is_sorted(), "{mounts:?}");
        assert_ne!(page_cache_id(), [0; 16]);
    }
}
