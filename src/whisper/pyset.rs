//! The order in which CPython iterates a `set` of integers.
//!
//! Python whisper propagates a batch in that order, and the first interval that reaches an empty
//! archive becomes its base, so the order shows in the bytes. This is the table of CPython 3.7 and
//! later: open addressing with runs of ten cells, then a perturbed jump; an int is its own hash.

/// Cells of a new table.
const CELL_COUNT_MIN: usize = 8;

/// Cells looked at behind the first before jumping.
const LINEAR_PROBES: usize = 9;

/// A table, reused so that ordering a usual batch allocates nothing.
#[derive(Debug, Default)]
pub(super) struct PySet {
    cells: Vec<Option<u32>>,
    former_cells: Vec<Option<u32>>,
    key_count: usize,
}

impl PySet {
    /// Rearranges distinct keys from the order of insertion to the order of iteration.
    pub(super) fn order(&mut self, keys: &mut Vec<u32>) {
        self.cells.clear();
        self.cells.resize(CELL_COUNT_MIN, None);
        self.key_count = 0;
        for key in keys.iter() {
            self.insert(*key);
        }
        keys.clear();
        keys.extend(self.cells.iter().flatten());
    }

    fn insert(&mut self, key: u32) {
        place(&mut self.cells, key);
        self.key_count += 1;
        let mask = self.cells.len() - 1;
        if self.key_count * 5 >= mask * 3 {
            self.grow();
        }
    }

    fn grow(&mut self) {
        let factor = if self.key_count > 50_000 { 2 } else { 4 };
        let cell_count = (self.key_count * factor + 1).next_power_of_two().max(CELL_COUNT_MIN);
        std::mem::swap(&mut self.cells, &mut self.former_cells);
        self.cells.clear();
        self.cells.resize(cell_count, None);
        for key in self.former_cells.iter().flatten() {
            place(&mut self.cells, *key);
        }
    }
}

/// Puts a key that is not in the table into its first free cell.
fn place(cells: &mut [Option<u32>], key: u32) {
    let mask = cells.len() - 1;
    let hash = usize::try_from(key).expect("usize has at least 32 bits");
    let (mut first, mut perturb) = (hash & mask, hash);
    loop {
        let last = if first + LINEAR_PROBES <= mask { first + LINEAR_PROBES } else { first };
        if let Some(free) = (first..=last).find(|cell| cells[*cell].is_none()) {
            cells[free] = Some(key);
            return;
        }
        perturb >>= 5;
        first = (first * 5 + 1 + perturb) & mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_is_cpythons() {
        let mut set = PySet::default();
        let mut check = |keys: &[u32], want: &[u32]| {
            let mut got = keys.to_vec();
            set.order(&mut got);
            assert_eq!(got, want, "set({keys:?})");
        };
        check(&[], &[]);
        check(&[1_699_999_800], &[1_699_999_800]);
        check(&[7, 15, 23, 31, 39], &[39, 7, 15, 23, 31]);
        check(
            &[0, 60, 120, 180, 240, 300, 360, 420, 480, 540, 600, 660, 720],
            &[0, 480, 420, 360, 600, 300, 240, 720, 180, 660, 120, 60, 540],
        );
        check(
            &[275_012_945, 646_892_613, 1_006_443_827, 2_045_921_456, 3_717_411_168],
            &[3_717_411_168, 646_892_613, 2_045_921_456, 275_012_945, 1_006_443_827],
        );
    }
    #[test]
    fn big_sets_keep_cpythons_order() {
        let mut set = PySet::default();
        let mut check = |count: u32, step: u32, want: u64| {
            let mut keys: Vec<u32> = (0..count).map(|n| n * step).collect();
            set.order(&mut keys);
            let digest = |sum: u64, key: &u32| sum.wrapping_mul(31).wrapping_add(u64::from(*key));
            assert_eq!(keys.iter().fold(0, digest), want, "{count} keys every {step}");
        };
        check(1_000, 60, 3_540_191_451_101_609_072);
        check(60_000, 600, 16_667_972_721_131_290_432);
        check(60_000, 65_536, 14_871_991_480_761_057_280);
    }
}
