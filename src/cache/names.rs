//! The names of all metrics, one behind the other.
//!
//! ```text
//! chunk := record*                        64 KiB, filled from the front
//! record := length u16 | the name's bytes          (the length's top bit: the name is forgotten)
//! ```
//! Keeps true: what is forgotten, and what is left at the ends of chunks, takes at most a third of
//! what lives and a chunk, as soon as the caller has emptied each chunk that
//! [`Names::begin_to_empty`] gives it.
//!
//! Sketch: a name of 38 bytes takes 40. As an allocation of its own it took 48, and with its
//! pointer and length 64; the place of a name here takes 8. Metrics that come and go leave up to
//! a quarter of the chunks in forgotten names: 13 bytes for each name of 38. To reclaim a byte, at
//! most three are moved.

use crate::limits::NAME_BYTES_MAX;

/// A chunk is emptied in one go: the names of a chunk of which a quarter is forgotten take some
/// 0.2 ms, as each of their entries is sought.
pub(crate) const CHUNK_BYTES: usize = 64 << 10;

/// Bytes in front of a name.
pub(crate) const HEADER_BYTES: usize = 2;

/// In a record's length: the name is forgotten.
const FORGOTTEN: u16 = 1 << 15;

const _: () = assert!(CHUNK_BYTES <= 1 << 16, "a name's offset in its chunk has 16 bits");
const _: () = assert!(NAME_BYTES_MAX < 1 << 15, "a name's length has 15 bits");
const _: () = assert!(16 * NAME_BYTES_MAX < CHUNK_BYTES, "the rest of a chunk is a small part");

/// Where a name lies. The default is that of no name, which is empty.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct NameAt {
    chunk: u32,
    offset: u16,
    len: u16,
}

impl NameAt {
    /// Whether it is the place of no name.
    pub(crate) fn is_none(self) -> bool {
        self.len == 0
    }
}

/// How full a chunk is.
#[derive(Debug, Clone, Copy, Default)]
struct Filling {
    /// Bytes filled with records.
    end: usize,
    /// Bytes of forgotten records, and those that stay unused at the end.
    dead: usize,
}

type Chunk = Box<[u8; CHUNK_BYTES]>;

/// Names that grow and shrink in number.
#[derive(Debug, Default)]
pub(crate) struct Names {
    chunks: Vec<Option<Chunk>>,
    fillings: Vec<Filling>,
    /// Numbers of chunks that have no memory.
    vacant: Vec<u32>,
    /// The chunk that is filled now.
    open: u32,
    live_bytes: usize,
    dead_bytes: usize,
}

/// A chunk whose names are to be added again.
#[derive(Debug)]
pub(crate) struct Emptied {
    number: u32,
    chunk: Chunk,
    end: usize,
}

impl Names {
    /// The name's bytes.
    #[inline]
    pub(crate) fn get(&self, at: NameAt) -> &[u8] {
        let start = usize::from(at.offset);
        let chunk = self.chunks[at.chunk as usize].as_ref();
        &chunk.expect("a chunk with a name has memory")[start..start + usize::from(at.len)]
    }

    /// Adds a name.
    pub(crate) fn add(&mut self, name: &[u8]) -> NameAt {
        assert!(name.len() <= NAME_BYTES_MAX, "a name of {} bytes", name.len());
        let record_bytes = HEADER_BYTES + name.len();
        let has_room = |filling: &Filling| filling.end + record_bytes <= CHUNK_BYTES;
        if !self.fillings.get(self.open as usize).is_some_and(has_room) {
            self.open_another();
        }
        let chunk = self.chunks[self.open as usize].as_mut().expect("the open chunk has memory");
        let filling = &mut self.fillings[self.open as usize];
        let len = u16::try_from(name.len()).expect("a name's length has 15 bits");
        let start = filling.end + HEADER_BYTES;
        let offset = u16::try_from(start).expect("a name does not begin at its chunk's end");
        chunk[filling.end..start].copy_from_slice(&len.to_le_bytes());
        chunk[start..][..name.len()].copy_from_slice(name);
        filling.end += record_bytes;
        self.live_bytes += record_bytes;
        NameAt { chunk: self.open, offset, len }
    }

    /// Forgets a name. Its place must not be used after this.
    pub(crate) fn forget(&mut self, at: NameAt) {
        let chunk = self.chunks[at.chunk as usize].as_mut();
        let chunk = chunk.expect("a chunk with a name has memory");
        let record_bytes = HEADER_BYTES + usize::from(at.len);
        let start = usize::from(at.offset) - HEADER_BYTES;
        let header = (at.len | FORGOTTEN).to_le_bytes();
        chunk[start..][..HEADER_BYTES].copy_from_slice(&header);
        self.fillings[at.chunk as usize].dead += record_bytes;
        self.live_bytes -= record_bytes;
        self.dead_bytes += record_bytes;
        if self.live_bytes == 0 {
            *self = Names::default();
        }
    }

    /// A chunk that must be emptied because too much is forgotten: each name of [`Emptied::names`]
    /// is to be added again, and then the chunk given to [`Names::end_emptied`].
    pub(crate) fn begin_to_empty(&mut self) -> Option<Emptied> {
        if self.dead_bytes <= self.live_bytes / 3 + CHUNK_BYTES {
            return None;
        }
        let closed = (0..).zip(&self.fillings).filter(|(number, _)| *number != self.open);
        let (number, _) = closed.max_by_key(|(_, filling)| filling.dead)?;
        let filling = std::mem::take(&mut self.fillings[number as usize]);
        let chunk = self.chunks[number as usize].take().expect("only with memory can it be dead");
        self.dead_bytes -= filling.dead;
        self.live_bytes -= CHUNK_BYTES - filling.dead;
        Some(Emptied { number, chunk, end: filling.end })
    }

    /// The chunk has no name left.
    pub(crate) fn end_emptied(&mut self, emptied: Emptied) {
        self.vacant.push(emptied.number);
    }

    /// Bytes of names, with those that are forgotten and not yet gone.
    pub(crate) fn bytes(&self) -> usize {
        self.live_bytes + self.dead_bytes
    }

    fn open_another(&mut self) {
        if let Some(filling) = self.fillings.get_mut(self.open as usize) {
            let rest = CHUNK_BYTES - filling.end;
            filling.dead += rest;
            self.dead_bytes += rest;
        }
        let Ok(chunk) = vec![0; CHUNK_BYTES].into_boxed_slice().try_into() else {
            unreachable!("the chunk was just made with so many bytes");
        };
        if let Some(number) = self.vacant.pop() {
            self.chunks[number as usize] = Some(chunk);
            self.open = number;
        } else {
            self.open = u32::try_from(self.chunks.len()).expect("fewer chunks than entries");
            self.chunks.push(Some(chunk));
            self.fillings.push(Filling::default());
        }
    }
}

impl Emptied {
    /// The names that are not forgotten, and where they were.
    pub(crate) fn names(&self) -> impl Iterator<Item = (NameAt, &[u8])> {
        let mut start = 0;
        std::iter::from_fn(move || {
            while start < self.end {
                let records = &self.chunk[start..self.end];
                let (header, rest) = records.split_first_chunk().expect("a record has a header");
                let header = u16::from_le_bytes(*header);
                let len = header & !FORGOTTEN;
                let offset = start + HEADER_BYTES;
                start = offset + usize::from(len);
                if header & FORGOTTEN == 0 {
                    let offset = u16::try_from(offset).expect("it had 16 bits when it was added");
                    let at = NameAt { chunk: self.number, offset, len };
                    return Some((at, &rest[..usize::from(len)]));
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cache::tests::noise;

    fn name(number: u64, len: usize) -> Vec<u8> {
        let mut name = format!("{number}.").into_bytes();
        name.resize(len.max(name.len()), b'x');
        name
    }

    /// Empties what must be, as the cache does; the model says where each name lies.
    fn tidy(names: &mut Names, model: &mut BTreeMap<Vec<u8>, NameAt>) -> usize {
        let mut moved = 0;
        while let Some(emptied) = names.begin_to_empty() {
            for (at, name) in emptied.names() {
                let place = model.get_mut(name).expect("a name that lives");
                assert_eq!(*place, at);
                *place = names.add(name);
                moved += name.len();
            }
            names.end_emptied(emptied);
        }
        moved
    }

    fn check_all(names: &Names, model: &BTreeMap<Vec<u8>, NameAt>) {
        for (name, &at) in model {
            assert_eq!(names.get(at), name);
        }
        let live: usize = model.keys().map(|name| name.len() + HEADER_BYTES).sum();
        assert_eq!(names.live_bytes, live);
        let with_memory = names.chunks.iter().flatten().count();
        assert_eq!(with_memory + names.vacant.len(), names.chunks.len());
        // The open chunk's rest is neither live nor dead.
        let held = with_memory * CHUNK_BYTES;
        assert!((names.bytes()..=names.bytes() + CHUNK_BYTES).contains(&held));
        assert!(held <= live + live / 3 + 2 * CHUNK_BYTES, "{held} bytes for {live}");
    }

    /// Names of up to `len_max` bytes come and go; now and then most of them go.
    fn check(seed: u64, len_max: u64, count: usize) {
        let (mut state, mut names, mut model) = (seed, Names::default(), BTreeMap::new());
        let (mut number, mut added, mut moved) = (0, 0, 0);
        for round in 0..12 {
            while model.len() < count {
                number += 1;
                let name = name(number, 1 + usize::try_from(noise(&mut state) % len_max).unwrap());
                added += name.len();
                let at = names.add(&name);
                assert!(model.insert(name, at).is_none());
            }
            let share = if round % 4 == 3 { 15 } else { noise(&mut state) % 12 };
            let gone: Vec<Vec<u8>> =
                model.keys().filter(|_| noise(&mut state) % 16 < share).cloned().collect();
            for name in gone {
                names.forget(model.remove(&name).unwrap());
                moved += tidy(&mut names, &mut model);
            }
            check_all(&names, &model);
        }
        assert!(moved > 0 && moved < 4 * added, "{moved} bytes were moved, {added} added");
        for at in model.into_values() {
            names.forget(at);
        }
        assert_eq!(names.bytes(), 0);
    }

    #[test]
    fn names_come_and_go_and_leave_nothing() {
        for seed in 0..3 {
            check(seed, 80, 20_000);
            check(seed, NAME_BYTES_MAX as u64, 300);
        }
    }

    #[test]
    fn the_last_to_go_frees_all() {
        let mut names = Names::default();
        let places: Vec<NameAt> = (0..5_000).map(|n| names.add(&name(n, 40))).collect();
        assert_eq!(names.bytes() / CHUNK_BYTES, 3);
        for (n, &at) in (0..).zip(&places) {
            assert_eq!(names.get(at), name(n, 40));
            names.forget(at);
        }
        assert_eq!((names.bytes(), names.chunks.len()), (0, 0));
        assert!(NameAt::default().is_none() && !places[0].is_none());
    }

    #[test]
    fn a_chunk_is_filled_to_its_last_byte() {
        let mut names = Names::default();
        let whole = CHUNK_BYTES / 64;
        let places: Vec<NameAt> = (0..=whole as u64).map(|n| names.add(&name(n, 62))).collect();
        assert_eq!(names.fillings[0].end, CHUNK_BYTES);
        assert_eq!((places[whole - 1].chunk, places[whole].chunk), (0, 1));
        assert_eq!(names.get(places[whole - 1]), name(whole as u64 - 1, 62));
    }
}
