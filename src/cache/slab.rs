//! A table of equal slots that grows in chunks and never moves a slot.
//!
//! Growing by doubling would copy gigabytes at once on the core's loop; a chunk is one allocation.
//! Freed slots are reused first. Memory goes back to the system only when the slab is dropped.

/// Slots per chunk, as a power of two: 4,096 blocks of 64 bytes are 256 KiB.
const CHUNK_BITS: u32 = 12;
const CHUNK_SLOTS: usize = 1 << CHUNK_BITS;

/// The number of a slot. `NONE` marks "no slot" in links.
pub(crate) type SlotId = u32;

/// No slot. A slab refuses to grow up to this number.
pub(crate) const NONE: SlotId = u32::MAX;

/// A growing table of `T`, addressed by [`SlotId`].
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[T; CHUNK_SLOTS]>>,
    free: Vec<SlotId>,
    len: u32,
}

impl<T: Default> Slab<T> {
    /// An empty slab; allocates nothing.
    pub(crate) fn new() -> Slab<T> {
        Slab { chunks: Vec::new(), free: Vec::new(), len: 0 }
    }

    /// Takes a slot; its content is what its last user left, or the default.
    pub(crate) fn take(&mut self) -> SlotId {
        if let Some(id) = self.free.pop() {
            return id;
        }
        let id = self.len;
        assert!(id < NONE, "slab is full: {id} slots");
        if id as usize >> CHUNK_BITS == self.chunks.len() {
            let mut chunk = Vec::with_capacity(CHUNK_SLOTS);
            chunk.resize_with(CHUNK_SLOTS, T::default);
            let Ok(chunk) = chunk.into_boxed_slice().try_into() else {
                unreachable!("the chunk was just made with so many slots");
            };
            self.chunks.push(chunk);
        }
        self.len += 1;
        id
    }

    /// Gives a slot back. The caller holds no reference to it any more.
    pub(crate) fn give(&mut self, id: SlotId) {
        debug_assert!(id < self.len, "slot {id} was never taken");
        self.free.push(id);
    }

    /// Number of slots ever taken: every id is below it.
    pub(crate) fn id_end(&self) -> u32 {
        self.len
    }

    /// Number of slots in use.
    pub(crate) fn used(&self) -> usize {
        self.len as usize - self.free.len()
    }

    /// The slot's content.
    #[inline]
    pub(crate) fn get(&self, id: SlotId) -> &T {
        &self.chunks[id as usize >> CHUNK_BITS][id as usize & (CHUNK_SLOTS - 1)]
    }

    /// The slot's content, to change.
    #[inline]
    pub(crate) fn get_mut(&mut self, id: SlotId) -> &mut T {
        &mut self.chunks[id as usize >> CHUNK_BITS][id as usize & (CHUNK_SLOTS - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_reused_and_stay_put() {
        let mut slab: Slab<u64> = Slab::new();
        let ids: Vec<SlotId> = (0..10_000).map(|_| slab.take()).collect();
        for &id in &ids {
            *slab.get_mut(id) = u64::from(id) * 3;
        }
        assert!(ids.iter().all(|&id| *slab.get(id) == u64::from(id) * 3));
        slab.give(17);
        assert_eq!(slab.used(), 9_999);
        assert_eq!(slab.take(), 17);
        assert_eq!(slab.id_end(), 10_000);
    }
}
