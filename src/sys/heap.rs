//! Makes the C library's allocator return large allocations to the system.

/// Allocations of at least this size get a mapping of their own: the chunks of the cache's slabs.
const MAPPED_BYTES: libc::c_int = 256 << 10;

/// Free bytes that may stay at the end of a heap: the allocator's own ratio to the threshold above.
const TRIM_BYTES: libc::c_int = 2 * MAPPED_BYTES;

/// Fixes the mapping threshold, so that freed large allocations return to the system. By default
/// the allocator raises the threshold when the first one is freed, and serves later ones from its
/// heaps, which shrink only at their ends: the process would keep the memory of written points for
/// ever.
pub fn give_back_large_pieces() {
    #[cfg(target_env = "gnu")]
    for (option, value) in
        [(libc::M_MMAP_THRESHOLD, MAPPED_BYTES), (libc::M_TRIM_THRESHOLD, TRIM_BYTES)]
    {
        // SAFETY: `mallopt` takes any two numbers, and locks what it changes.
        let taken = unsafe { libc::mallopt(option, value) };
        assert!(taken == 1, "the allocator refuses {value} for option {option}");
    }
}
