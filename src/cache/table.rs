//! From the hash of a name to the number of its entry.
//!
//! Open addressing with linear probing, in parts that grow one by one. Keeps true: the slots from
//! where a hash's search begins up to its own are all taken, so that a free one ends every search.
//!
//! A search begins at a place that the hash alone determines, and nearly always ends in the same
//! cache line: one access to memory, where a table with its marks apart from its slots takes two,
//! the second after the first. Growing needs no names: what chooses the place is kept in the slot.
//!
//! Sketch: a part grows by a quarter when five eighths of it are taken, so that 50 to 62 % are: an
//! entry takes 12.8 to 16 bytes. Doubling at three quarters, it would take up to 21. A new entry
//! pays with four moves of others instead of two. Three quarters taken would save two bytes more,
//! for longer searches.

/// Parts of a table. Growing one moves only its share of the slots, so that no insert stalls the
/// core for the whole table: at a million metrics it moves 4,000 slots.
const PARTS: usize = 256;

/// Slots of a part at the beginning, and what their number is a multiple of: a cache line of them.
const SLOTS_FIRST: usize = 8;

/// The number that marks a free slot; no entry has it.
const FREE_ID: u32 = super::slab::NONE;

/// A place in the table: an entry's number, and bits of the hash of its name other than those that
/// choose the part.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slot {
    check: u32,
    id: u32,
}

impl Slot {
    const FREE: Slot = Slot { check: 0, id: FREE_ID };

    fn is_free(self) -> bool {
        self.id == FREE_ID
    }
}

/// Memory that an entry takes at the table's usual load, in bytes.
pub(crate) const ENTRY_BYTES: usize = size_of::<Slot>() * 7 / 4;

#[derive(Debug)]
struct Part {
    slots: Vec<Slot>,
    used: usize,
}

/// The numbers of entries by the hashes of their names.
#[derive(Debug)]
pub(crate) struct Table {
    parts: Box<[Part; PARTS]>,
}

impl Table {
    pub(crate) fn new() -> Table {
        let part = |_| Part { slots: vec![Slot::FREE; SLOTS_FIRST], used: 0 };
        Table { parts: Box::new(std::array::from_fn(part)) }
    }

    /// The slot where the search for a hash begins.
    #[inline]
    pub(crate) fn first(&self, hash: u64) -> &Slot {
        let slots = &self.parts[part_of(hash)].slots;
        &slots[place(check_of(hash), slots.len())]
    }

    /// The first entry with this hash that `is_it` takes.
    #[inline]
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let part = &self.parts[part_of(hash)];
        part.find(check_of(hash), |slot| is_it(slot.id)).map(|(_, slot)| slot.id)
    }

    /// Adds an entry that is not in the table.
    pub(crate) fn insert(&mut self, hash: u64, id: u32) {
        let part = &mut self.parts[part_of(hash)];
        // Beyond that searches soon leave their cache line.
        if part.used >= part.slots.len() / 8 * 5 {
            part.grow();
        }
        part.put(Slot { check: check_of(hash), id });
        part.used += 1;
    }

    /// Removes an entry; false if it was not there.
    pub(crate) fn remove(&mut self, hash: u64, id: u32) -> bool {
        let part = &mut self.parts[part_of(hash)];
        let found = part.find(check_of(hash), |slot| slot.id == id);
        let Some((at, _)) = found else { return false };
        part.clear(at);
        part.used -= 1;
        true
    }
}

impl Part {
    #[inline]
    fn find(&self, check: u32, mut is_it: impl FnMut(Slot) -> bool) -> Option<(usize, Slot)> {
        let mut at = place(check, self.slots.len());
        loop {
            let slot = self.slots[at];
            if slot.is_free() {
                return None;
            }
            if slot.check == check && is_it(slot) {
                return Some((at, slot));
            }
            at = self.next(at);
        }
    }

    fn next(&self, at: usize) -> usize {
        if at + 1 == self.slots.len() { 0 } else { at + 1 }
    }

    /// Slots from one to another behind it, around the end if need be.
    fn distance(&self, from: usize, to: usize) -> usize {
        if to >= from { to - from } else { to + self.slots.len() - from }
    }

    fn put(&mut self, slot: Slot) {
        let mut at = place(slot.check, self.slots.len());
        while !self.slots[at].is_free() {
            at = self.next(at);
        }
        self.slots[at] = slot;
    }

    fn grow(&mut self) {
        let count = (self.slots.len() + self.slots.len() / 4 + 1).next_multiple_of(SLOTS_FIRST);
        for slot in std::mem::replace(&mut self.slots, vec![Slot::FREE; count]) {
            if !slot.is_free() {
                self.put(slot);
            }
        }
    }

    /// Frees a slot: each one behind it that may lie there moves up, up to the next free one.
    fn clear(&mut self, at: usize) {
        let (mut hole, mut next) = (at, self.next(at));
        while !self.slots[next].is_free() {
            let begin = place(self.slots[next].check, self.slots.len());
            if self.distance(begin, next) >= self.distance(hole, next) {
                self.slots[hole] = self.slots[next];
                hole = next;
            }
            next = self.next(next);
        }
        self.slots[hole] = Slot::FREE;
    }
}

#[inline]
fn part_of(hash: u64) -> usize {
    (hash >> 48) as usize % PARTS
}

/// The bits of a hash that a slot keeps.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "32 bits are what is kept")]
fn check_of(hash: u64) -> u32 {
    (hash >> 16) as u32
}

/// Maps all checks evenly to the slots, whatever their number.
#[inline]
fn place(check: u32, slots: usize) -> usize {
    (check as usize).wrapping_mul(slots) >> 32
}

const _: () = assert!(usize::BITS == 64, "the product of two numbers of 32 bits does not wrap");

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::cache::tests::noise;

    /// All entries are found, and nothing else, after any inserts and removals. `mask` makes
    /// hashes collide: in their part, in their place, wholly.
    fn check(mask: u64, seed: u64, count: u32) {
        let mut state = seed;
        let mut table = Table::new();
        let mut model: HashMap<u32, u64> = HashMap::new();
        for id in 0..count {
            let hash = noise(&mut state) & mask;
            table.insert(hash, id);
            model.insert(id, hash);
            if noise(&mut state).is_multiple_of(3) {
                let victim = u32::try_from(noise(&mut state) % u64::from(id + 1)).unwrap();
                let hash = model.remove(&victim);
                assert_eq!(hash.is_some_and(|hash| table.remove(hash, victim)), hash.is_some());
                assert!(hash.is_none_or(|hash| !table.remove(hash, victim)));
            }
        }
        for id in 0..count {
            let hash = model.get(&id).copied();
            assert_eq!(table.find(hash.unwrap_or(0), |found| found == id), hash.map(|_| id));
        }
        let used: usize = table.parts.iter().map(|part| part.used).sum();
        let taken = |part: &Part| part.slots.iter().filter(|slot| !slot.is_free()).count();
        assert_eq!((used, model.len()), (table.parts.iter().map(taken).sum(), used));
    }

    #[test]
    fn entries_are_found_until_they_are_removed() {
        for seed in 0..4 {
            check(u64::MAX, seed, 20_000);
            check(0x0003_0000_ffff_0000, seed, 4_000);
            check(0x0000_0000_0007_0000, seed, 300);
            check(0x0000_8000_0000_0000, seed, 300);
        }
    }

    #[test]
    fn a_search_begins_at_its_first_slot() {
        let mut table = Table::new();
        let hash = 5 << 16;
        assert!(table.first(hash).is_free());
        table.insert(hash, 7);
        assert_eq!(table.first(hash).id, 7);
        let same_place = hash | 1 << 40;
        table.insert(same_place, 8);
        assert_eq!(table.first(same_place).id, 7);
        assert_eq!(table.find(same_place, |_| true), Some(8));
        assert_eq!(table.find(hash | 1 << 41, |_| true), None);
    }
}
