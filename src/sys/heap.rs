//! How the C library's allocator treats large pieces of memory.

/// Pieces of at least this size are mapped by themselves: the chunks of the cache's slabs.
const MAPPED_BYTES: libc::c_int = 256 << 10;

/// So much may stay free at the end of a heap: what the allocator would take twice a mapped piece
/// to be worth.
const TRIM_BYTES: libc::c_int = 2 * MAPPED_BYTES;

/// From now on a large piece goes back to the system when it is freed. Left alone, the allocator
/// takes the first such piece that is freed for a sign that there will be more, keeps it, and takes
/// all further ones from its heaps, which shrink from their ends only: the memory of points that
/// are written would stay with the process for ever.
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
