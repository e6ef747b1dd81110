//! A hint to the processor: memory that will be read soon.
//!
//! Reading it would do the same, but the processor keeps at most a few hundred instructions in
//! flight, and a read that misses its caches holds up all behind it. A hint holds up nothing.

/// Has the beginning of a value brought into the processor's caches, if it is one that can.
#[inline]
pub fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: a hint reads nothing and cannot fault, whatever the address.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
