//! The slots of one file that an update holds in memory, and the transfers that move them.
//!
//! An update first *includes* every slot it may read or write, then *lays out* the image: one arena
//! with the included ranges of all archives, sorted and merged. Reads fill the arena, the update
//! puts its values over it and marks them, and the marked slots are written from the same arena.
//! So each slot is held once, read at most once and written at most once, and a value put later
//! replaces an earlier one by lying in the same place.
//!
//! Slots here may be *turned*: the slot 0 of an archive that was empty is only known once a value
//! was put. Its ring is therefore held from an arbitrary origin and turned when it is written.

use std::ops;

use super::archive::{Archive, SLOT_BYTES, decode_interval, index, slots_bytes};

/// Arena bytes kept from one update to the next; a greater arena is given back. An update of a
/// minute or an hour of points needs a few kilobytes, one of a year's gap may need the whole file.
const ARENA_BYTES_KEPT: usize = 1 << 20;

/// The longest stretch of slots about to be overwritten that is read anyway when slots on both
/// sides are needed: 4 KiB, less than what a second read costs.
const OVERREAD_SLOTS: usize = 4_096 / SLOT_BYTES;

/// One contiguous piece of the file and where it lies in the arena.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transfer {
    /// Byte offset in the file.
    pub offset: u64,
    /// Byte index of the piece in the arena.
    pub start: usize,
    /// Bytes to move, never 0.
    pub len: usize,
}

/// Slots `first` to `end`, exclusive, of one archive; they begin at slot `start` of the arena.
#[derive(Debug)]
struct Stretch {
    archive: usize,
    first: u32,
    end: u32,
    start: usize,
}

/// The included slots and the transfers of the current phase.
#[derive(Debug, Default)]
pub(super) struct Image {
    stretches: Vec<Stretch>,
    bytes: Vec<u8>,
    changed: Vec<bool>,
    transfers: Vec<Transfer>,
}

impl Image {
    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.stretches.clear();
        self.transfers.clear();
        self.bytes.clear();
        self.bytes.shrink_to(ARENA_BYTES_KEPT);
        self.changed.clear();
        self.changed.shrink_to(ARENA_BYTES_KEPT / SLOT_BYTES);
    }

    /// The current transfers and their bytes.
    pub(super) fn transfers(&self) -> (&[Transfer], &[u8]) {
        (&self.transfers, &self.bytes)
    }

    /// The current transfers and their bytes, to be filled.
    pub(super) fn transfers_mut(&mut self) -> (&[Transfer], &mut [u8]) {
        (&self.transfers, &mut self.bytes)
    }

    /// Asks for slot 0 of an archive; only before the image is laid out.
    pub(super) fn ask_base(&mut self, archive: &Archive) {
        let start = self.bytes.len();
        self.bytes.resize(start + SLOT_BYTES, 0);
        let offset = archive.slot_offset(0);
        self.transfers.push(Transfer { offset, start, len: SLOT_BYTES });
    }

    /// The interval that the n-th asked base slot holds.
    pub(super) fn asked_base(&self, n: usize) -> u32 {
        decode_interval(&self.bytes[n * SLOT_BYTES..])
    }

    /// Includes `count` slots from `first` on, around the end of the ring; at most the whole ring.
    pub(super) fn include(&mut self, at: usize, archive: &Archive, first: u32, count: u32) {
        let count = count.min(archive.slot_count);
        let straight = count.min(archive.slot_count - first);
        self.include_straight(at, first, first + straight);
        self.include_straight(at, 0, count - straight);
    }

    fn include_straight(&mut self, at: usize, first: u32, end: u32) {
        if first == end {
            return;
        }
        if let Some(last) = self.stretches.last_mut()
            && last.archive == at
            && (last.first..=last.end).contains(&first)
        {
            last.end = last.end.max(end);
            return;
        }
        self.stretches.push(Stretch { archive: at, first, end, start: 0 });
    }

    /// Sorts and merges what was included and gives it zeroed room in the arena.
    pub(super) fn lay_out(&mut self) {
        self.transfers.clear();
        self.stretches.sort_unstable_by_key(|stretch| (stretch.archive, stretch.first));
        self.stretches.dedup_by(|next, kept| {
            let joins = next.archive == kept.archive && next.first <= kept.end;
            if joins {
                kept.end = kept.end.max(next.end);
            }
            joins
        });
        let mut slot_count = 0;
        for stretch in &mut self.stretches {
            stretch.start = slot_count;
            slot_count += index(stretch.end - stretch.first);
        }
        self.bytes.clear();
        self.bytes.resize(slot_count * SLOT_BYTES, 0);
        self.changed.clear();
        self.changed.resize(slot_count, false);
    }

    /// Asks for the included slots of the archives that `is_read` names, without those that
    /// [`Image::change`] named.
    pub(super) fn ask_slots(&mut self, archives: &[Archive], is_read: impl Fn(usize) -> bool) {
        self.transfers.clear();
        for stretch in &self.stretches {
            if !is_read(stretch.archive) {
                continue;
            }
            let archive = &archives[stretch.archive];
            let mut from = 0;
            let changed = flags_of(stretch, &self.changed);
            while let Some(run) = next_run(changed, from, false, OVERREAD_SLOTS) {
                from = run.end;
                let start = (stretch.start + run.start) * SLOT_BYTES;
                let offset = archive.slot_offset(stretch.first) + bytes_u64(run.start);
                self.transfers.push(Transfer { offset, start, len: run.len() * SLOT_BYTES });
            }
        }
    }

    /// The bytes of `count` included slots in a row, to be changed. Slots named here before
    /// [`Image::ask_slots`] are not read, so they must be put before anything looks at them.
    pub(super) fn change(&mut self, at: usize, slot: u32, count: u32) -> &mut [u8] {
        let place = self.place(at, slot);
        self.changed[place..][..index(count)].fill(true);
        &mut self.bytes[place * SLOT_BYTES..][..slots_bytes(count)]
    }

    /// The interval that was put into a slot, if any was.
    pub(super) fn put_interval(&self, at: usize, slot: u32) -> Option<u32> {
        let place = self.find(at, slot).filter(|place| self.changed[*place])?;
        Some(decode_interval(&self.bytes[place * SLOT_BYTES..]))
    }

    /// The bytes of `count` included slots from `first` on, in two parts where the ring ends.
    pub(super) fn window(
        &self,
        at: usize,
        archive: &Archive,
        first: u32,
        count: u32,
    ) -> [&[u8]; 2] {
        let straight = count.min(archive.slot_count - first);
        [self.straight(at, first, straight), self.straight(at, 0, count - straight)]
    }

    fn straight(&self, at: usize, first: u32, count: u32) -> &[u8] {
        if count == 0 {
            return &[];
        }
        &self.bytes[self.place(at, first) * SLOT_BYTES..][..slots_bytes(count)]
    }

    /// Makes transfers of all slots put, in slot order within each archive. `turn_of` says how many
    /// slots an archive's image is turned before it is written; every end is within `file_bytes`.
    pub(super) fn ask_writes(
        &mut self,
        archives: &[Archive],
        file_bytes: u64,
        turn_of: impl Fn(usize) -> u32,
    ) {
        self.transfers.clear();
        let same_archive = |a: &Stretch, b: &Stretch| a.archive == b.archive;
        for stretches in self.stretches.chunk_by(same_archive) {
            let archive = &archives[stretches[0].archive];
            let turn = turn_of(stretches[0].archive);
            let seam = archive.slot_count - turn;
            for (from, to) in [(seam, archive.slot_count), (0, seam)] {
                for stretch in stretches {
                    let cut = cut(stretch, from, to);
                    let slot = cut.first;
                    let file_slot = if slot < seam { slot + turn } else { slot - seam };
                    let mut next = 0;
                    while let Some(run) = next_run(flags_of(&cut, &self.changed), next, true, 0) {
                        next = run.end;
                        let start = (cut.start + run.start) * SLOT_BYTES;
                        let offset = archive.slot_offset(file_slot) + bytes_u64(run.start);
                        let len = run.len() * SLOT_BYTES;
                        let end = offset + bytes_u64(run.len());
                        assert!(end <= archive.end() && end <= file_bytes, "{end} {archive:?}");
                        self.transfers.push(Transfer { offset, start, len });
                    }
                }
            }
        }
    }

    /// The arena slot of an included slot.
    fn place(&self, at: usize, slot: u32) -> usize {
        self.find(at, slot).unwrap_or_else(|| panic!("slot {slot} of archive {at} not included"))
    }

    fn find(&self, at: usize, slot: u32) -> Option<usize> {
        let after = self.stretches.partition_point(|s| (s.archive, s.first) <= (at, slot));
        let stretch = &self.stretches[after.checked_sub(1)?];
        let holds = stretch.archive == at && slot < stretch.end;
        holds.then(|| stretch.start + index(slot - stretch.first))
    }
}

/// The flags of a stretch's slots.
fn flags_of<'a>(stretch: &Stretch, changed: &'a [bool]) -> &'a [bool] {
    &changed[stretch.start..][..index(stretch.end - stretch.first)]
}

/// The part of a stretch between two slots; it may be empty.
fn cut(stretch: &Stretch, from: u32, to: u32) -> Stretch {
    let first = stretch.first.clamp(from, to);
    let end = stretch.end.clamp(first, to);
    let skipped = first.saturating_sub(stretch.first).min(stretch.end - stretch.first);
    Stretch { archive: stretch.archive, first, end, start: stretch.start + index(skipped) }
}

/// The next run of `wanted` flags from `from` on; other flags between two wanted ones belong to it
/// while there are at most `bridge` of them together.
fn next_run(flags: &[bool], from: usize, wanted: bool, bridge: usize) -> Option<ops::Range<usize>> {
    let start = from + flags[from..].iter().position(|flag| *flag == wanted)?;
    let mut end = start + 1;
    for (place, flag) in flags.iter().enumerate().skip(end) {
        if *flag == wanted {
            end = place + 1;
        } else if place - end >= bridge {
            break;
        }
    }
    Some(start..end)
}

/// Bytes of `count` slots as a distance in the file.
fn bytes_u64(count: usize) -> u64 {
    u64::try_from(count * SLOT_BYTES).expect("memory is smaller than 2^64 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    const ARCHIVES: [Archive; 2] = [
        Archive { offset: 40, step_s: 10, slot_count: 1_000 },
        Archive { offset: 12_040, step_s: 60, slot_count: 10 },
    ];

    fn pieces(image: &Image) -> Vec<(u64, usize, usize)> {
        let slots = |bytes: usize| bytes / SLOT_BYTES;
        let piece = |t: &Transfer| (t.offset, slots(t.start), slots(t.len));
        image.transfers.iter().map(piece).collect()
    }

    #[test]
    fn included_slots_merge() {
        let mut image = Image::default();
        let mut check = |included: &[(usize, u32, u32)], want: &[(u64, usize, usize)]| {
            image.clear();
            for (at, first, count) in included {
                image.include(*at, &ARCHIVES[*at], *first, *count);
            }
            image.lay_out();
            image.ask_slots(&ARCHIVES, |_| true);
            assert_eq!(pieces(&image), want, "{included:?}");
        };
        check(&[], &[]);
        check(&[(0, 0, 6), (0, 6, 6)], &[(40, 0, 12)]);
        check(&[(0, 6, 6), (0, 0, 6)], &[(40, 0, 12)]);
        check(&[(0, 6, 6), (1, 0, 1), (0, 8, 1)], &[(112, 0, 6), (12_040, 6, 1)]);
        check(&[(0, 7, 6), (0, 0, 6)], &[(40, 0, 6), (124, 6, 6)]);
        check(&[(1, 8, 4)], &[(12_040, 0, 2), (12_136, 2, 2)]);
        check(&[(1, 8, 99)], &[(12_040, 0, 10)]);
    }

    #[test]
    fn slots_about_to_change_are_not_read() {
        let check = |changed: ops::Range<u32>, want: &[(u64, usize, usize)]| {
            let mut image = Image::default();
            image.include(0, &ARCHIVES[0], 0, 700);
            image.lay_out();
            changed.clone().for_each(|slot| image.change(0, slot, 1).fill(1));
            image.ask_slots(&ARCHIVES, |_| true);
            assert_eq!(pieces(&image), want, "{changed:?}");
        };
        check(0..0, &[(40, 0, 700)]);
        check(0..700, &[]);
        check(0..699, &[(40 + 699 * 12, 699, 1)]);
        check(1..700, &[(40, 0, 1)]);
        check(300..641, &[(40, 0, 700)]);
        check(300..642, &[(40, 0, 300), (40 + 642 * 12, 642, 58)]);
    }

    #[test]
    fn writes_follow_the_turn() {
        let check = |turn: u32, put: &[u32], want: &[(u64, usize, usize)]| {
            let mut image = Image::default();
            image.include(1, &ARCHIVES[1], 0, 4);
            image.include(1, &ARCHIVES[1], 7, 3);
            image.lay_out();
            put.iter().for_each(|slot| image.change(1, *slot, 1).fill(1));
            image.ask_writes(&ARCHIVES, 12_160, |_| turn);
            assert_eq!(pieces(&image), want, "{put:?} turned {turn}");
        };
        check(0, &[], &[]);
        check(0, &[9, 8, 0], &[(12_040, 0, 1), (12_136, 5, 2)]);
        check(2, &[9, 8, 0], &[(12_040, 5, 2), (12_064, 0, 1)]);
        check(1, &[9, 8, 1], &[(12_040, 6, 1), (12_064, 1, 1), (12_148, 5, 1)]);
        check(8, &[2, 1, 3], &[(12_040, 2, 2), (12_148, 1, 1)]);
    }
}
