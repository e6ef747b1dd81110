//! A table of equal slots that grows in chunks and never moves a slot.
//!
//! Growing by doubling would copy gigabytes at once on the core's loop; a chunk is one allocation.
//! Keeps true: a slot is taken where the lowest number is free, so that what is in use gathers at
//! the front, and chunks at the end become empty; [`Slab::shrink`] gives those back.
//!
//! Which slots are free is a bit of each, an eighth of a byte: a list of the free slots would take
//! four bytes of each, just when nothing else is needed of them.

/// Slots per chunk, as a power of two: 4,096 blocks of 64 bytes are 256 KiB, which the allocator
/// maps and unmaps by themselves (see `sys::heap`).
const CHUNK_BITS: u32 = 12;
const CHUNK_SLOTS: usize = 1 << CHUNK_BITS;
const WORD_BITS: usize = 64;

/// The number of a slot. `NONE` marks "no slot" in links.
pub(crate) type SlotId = u32;

/// No slot. A slab refuses to grow up to this number.
pub(crate) const NONE: SlotId = u32::MAX;

/// The free slots of a chunk.
#[derive(Debug)]
struct Free {
    slots: [u64; CHUNK_SLOTS / WORD_BITS],
    /// Which words of `slots` are not 0.
    words: u64,
}

const _: () = assert!(CHUNK_SLOTS == WORD_BITS * WORD_BITS, "a word says which words have bits");

impl Free {
    const ALL: Free = Free { slots: [u64::MAX; CHUNK_SLOTS / WORD_BITS], words: u64::MAX };

    fn is_all(&self) -> bool {
        self.words == u64::MAX && self.slots.iter().all(|&word| word == u64::MAX)
    }

    /// Takes the first free slot; there is one.
    fn take(&mut self) -> usize {
        let word = self.words.trailing_zeros() as usize;
        let bit = self.slots[word].trailing_zeros() as usize;
        self.slots[word] &= !(1 << bit);
        if self.slots[word] == 0 {
            self.words &= !(1 << word);
        }
        word * WORD_BITS + bit
    }

    fn give(&mut self, slot: usize) {
        let (word, bit) = (slot / WORD_BITS, slot % WORD_BITS);
        debug_assert!(self.slots[word] & 1 << bit == 0, "slot {slot} is not taken");
        self.slots[word] |= 1 << bit;
        self.words |= 1 << word;
    }
}

/// A growing table of `T`, addressed by [`SlotId`].
#[derive(Debug)]
pub(crate) struct Slab<T> {
    chunks: Vec<Box<[T; CHUNK_SLOTS]>>,
    free: Vec<Free>,
    /// Which chunks have a free slot, as bits.
    open: Vec<u64>,
    /// No word of `open` before this one has a bit.
    open_from: usize,
    used: usize,
    peak: usize,
    end: u32,
}

impl<T: Default> Slab<T> {
    /// An empty slab; allocates nothing.
    pub(crate) fn new() -> Slab<T> {
        Slab {
            chunks: Vec::new(),
            free: Vec::new(),
            open: Vec::new(),
            open_from: 0,
            used: 0,
            peak: 0,
            end: 0,
        }
    }

    /// Takes the first free slot; its content is what its last user left, or the default.
    pub(crate) fn take(&mut self) -> SlotId {
        while self.open.get(self.open_from).is_some_and(|&word| word == 0) {
            self.open_from += 1;
        }
        if self.open_from == self.open.len() {
            self.grow();
        }
        let word = &mut self.open[self.open_from];
        let bit = word.trailing_zeros() as usize;
        let chunk = self.open_from * WORD_BITS + bit;
        let slot = chunk << CHUNK_BITS | self.free[chunk].take();
        if self.free[chunk].words == 0 {
            *word &= !(1 << bit);
        }
        let id = u32::try_from(slot).expect("a slab grows up to 32 bits");
        self.used += 1;
        self.peak = self.peak.max(self.used);
        self.end = self.end.max(id + 1);
        id
    }

    /// Gives a slot back. The caller has dropped all references to it.
    pub(crate) fn give(&mut self, id: SlotId) {
        debug_assert!(id < self.end, "slot {id} was never taken");
        let chunk = id as usize >> CHUNK_BITS;
        self.free[chunk].give(id as usize & (CHUNK_SLOTS - 1));
        self.open[chunk / WORD_BITS] |= 1 << (chunk % WORD_BITS);
        self.open_from = self.open_from.min(chunk / WORD_BITS);
        self.used -= 1;
    }

    /// Every slot in use has a number below this one.
    pub(crate) fn id_end(&self) -> u32 {
        self.end
    }

    /// Number of slots in use.
    pub(crate) fn used(&self) -> usize {
        self.used
    }

    /// Most slots that were in use at once since the last period began.
    pub(crate) fn peak(&self) -> usize {
        self.peak
    }

    /// Begins a period.
    pub(crate) fn begin_period(&mut self) {
        self.peak = self.used;
    }

    /// Number of slots that there is memory for.
    pub(crate) fn capacity(&self) -> usize {
        self.chunks.len() * CHUNK_SLOTS
    }

    /// Gives the memory of empty chunks at the end back, of `chunks_max` at most, as long as there
    /// is memory for `keep` slots.
    pub(crate) fn shrink(&mut self, keep: usize, chunks_max: usize) {
        for _ in 0..chunks_max {
            let is_needed = self.capacity() < keep + CHUNK_SLOTS;
            if is_needed || !self.free.last().is_some_and(Free::is_all) {
                return;
            }
            self.chunks.pop();
            self.free.pop();
            let chunk = self.chunks.len();
            self.open[chunk / WORD_BITS] &= !(1 << (chunk % WORD_BITS));
            self.end = self.end.min(u32::try_from(self.capacity()).expect("it was more"));
        }
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

    #[cold]
    fn grow(&mut self) {
        let number = self.chunks.len();
        assert!(self.capacity() + CHUNK_SLOTS <= NONE as usize, "slab is full: {number} chunks");
        let mut chunk = Vec::with_capacity(CHUNK_SLOTS);
        chunk.resize_with(CHUNK_SLOTS, T::default);
        let Ok(chunk) = chunk.into_boxed_slice().try_into() else {
            unreachable!("the chunk was just made with so many slots");
        };
        self.chunks.push(chunk);
        self.free.push(Free::ALL);
        if number / WORD_BITS == self.open.len() {
            self.open.push(0);
        }
        self.open[number / WORD_BITS] |= 1 << (number % WORD_BITS);
        self.open_from = number / WORD_BITS;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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

    /// Slots come and go, few and many; the model is the set of those in use.
    #[test]
    fn the_first_free_slot_is_taken_and_the_end_given_back() {
        let mut slab: Slab<u64> = Slab::new();
        let (mut model, mut state, mut peak) = (BTreeSet::new(), 1_u64, 0);
        for round in 0..60_u64 {
            let target = [300_000, 100, 20_000, 280_000, 0][usize::try_from(round % 5).unwrap()];
            while model.len() < target {
                let id = slab.take();
                assert!(model.insert(id), "{id} was in use");
                *slab.get_mut(id) = u64::from(id) + round;
                peak = peak.max(model.len());
            }
            let mut ids: Vec<SlotId> = model.iter().copied().collect();
            while ids.len() > target {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                let at = usize::try_from(state >> 33).unwrap() % ids.len();
                let id = ids.swap_remove(at);
                model.remove(&id);
                slab.give(id);
            }
            assert_eq!(slab.used(), model.len());
            assert!(model.last().is_none_or(|&last| last < slab.id_end()));
            if round % 3 == 0 {
                assert_eq!(slab.peak(), std::mem::replace(&mut peak, model.len()));
                slab.begin_period();
            }
            let before = slab.capacity();
            slab.shrink(model.len() + 5_000, 3);
            let kept = slab.capacity();
            let last = model.last().map_or(0, |&last| last as usize + 1);
            assert!(kept >= before.min(last.max(model.len() + 5_000)));
            let could_more = kept >= last.max(model.len() + 5_000) + CHUNK_SLOTS;
            assert!(before - kept == 3 * CHUNK_SLOTS || !could_more, "{before} became {kept}");
            let first = (0..).find(|id| !model.contains(id)).unwrap();
            let taken = slab.take();
            assert_eq!(taken, first);
            slab.give(taken);
            peak = peak.max(model.len() + 1);
        }
        slab.shrink(0, usize::MAX);
        assert_eq!((slab.capacity(), slab.used()), (0, 0));
    }
}
