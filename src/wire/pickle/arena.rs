//! The objects of one decoded pickle, and the memory they may take.
//!
//! ```text
//! value      u32: tag << 29 | index         (Scalar: index = offset of its opcode in the frame)
//! pair       [element, element]             a tuple of two, because points are made of them
//! tuple      [count, element, ...]
//! list       [last chunk or 0]              each chunk: [next, count, element, ...]
//! text       [offset, length]               in the frame, or in the buffer of unescaped text
//! ```
//!
//! The chunks of a list form a ring, so the last one also names the first. Objects refer to each
//! other by index: a list that contains itself costs nothing, and readers do not loop, because
//! they descend a fixed number of levels.

/// Bytes that a frame of any length may fill, so that the smallest pickles fit.
const ARENA_FIXED_BYTES: usize = 64 * 1024;

/// Spare capacity of the four growing buffers together: each grows by a quarter, at least 1 KiB.
const ARENA_SPARE_BYTES: usize = ARENA_FIXED_BYTES / 4 + 4 * 1024;

/// Greatest memory in bytes that decoding a frame of this length takes, the frame not counted.
///
/// Three times the frame and a constant. Real senders need 1 to 2.3 times: an item of carbon-relay
/// has over 40 bytes and takes 8 words of 4 bytes, the tightest one in protocol 4 (a shared name,
/// values below 256) has 13 and takes 7. A frame of smaller objects than any sender has, such as a
/// million empty lists, is refused when it is full.
pub const fn arena_bytes_max(frame_bytes: usize) -> usize {
    frame_bytes.saturating_mul(3).saturating_add(ARENA_FIXED_BYTES + ARENA_SPARE_BYTES)
}

/// Bytes that a frame may fill: capacity exceeds it by at most a quarter and `ARENA_SPARE_BYTES`.
pub(super) const fn fill_bytes_max(frame_bytes: usize) -> usize {
    frame_bytes / 5 * 12 + ARENA_FIXED_BYTES
}

/// What a value's index means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag {
    /// Number, None, empty tuple, or string with a binary length: read from its opcode.
    Scalar = 0,
    Tuple = 1,
    Pair = 2,
    List = 3,
    /// A set, frozen or not.
    Set = 4,
    Dict = 5,
    TextInFrame = 6,
    TextUnescaped = 7,
}

const TAGS: [Tag; 8] = [
    Tag::Scalar,
    Tag::Tuple,
    Tag::Pair,
    Tag::List,
    Tag::Set,
    Tag::Dict,
    Tag::TextInFrame,
    Tag::TextUnescaped,
];

const INDEX_BITS: u32 = 29;

/// One more than the greatest index of a value.
pub(super) const INDEX_END: usize = 1 << INDEX_BITS;

/// One object: its tag and index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::wire) struct Value(pub(super) u32);

impl Value {
    /// No object: the mark of an empty memo slot.
    pub(super) const NONE: Value = Value(u32::MAX);

    /// The index must be below [`INDEX_END`] - 1.
    pub(super) fn new(tag: Tag, index: usize) -> Value {
        assert!(index < INDEX_END - 1, "index={index} of a pickled value is too large");
        Value((tag as u32) << INDEX_BITS | cell(index))
    }

    pub(super) fn tag(self) -> Tag {
        TAGS[to_index(self.0 >> INDEX_BITS)]
    }

    pub(super) fn index(self) -> usize {
        to_index(self.0 & ((1 << INDEX_BITS) - 1))
    }
}

pub(super) fn to_index(cell: u32) -> usize {
    usize::try_from(cell).expect("u32 fits into usize on the machines that io_uring runs on")
}

fn cell(index: usize) -> u32 {
    u32::try_from(index).expect("counts, offsets and indices of a frame are below 2^29")
}

/// Makes room for `extra` more, growing by a quarter so that capacity stays near the length.
pub(super) fn reserve<T>(buffer: &mut Vec<T>, extra: usize, step_min: usize) {
    let capacity = buffer.capacity();
    let needed = buffer.len() + extra;
    if needed > capacity {
        let wanted = needed.max(capacity + capacity / 4).max(capacity + step_min);
        buffer.reserve_exact(wanted - buffer.len());
    }
}

/// The cells of containers and the unescaped text. The caller pays for the room before it fills it.
#[derive(Debug, Default)]
pub(super) struct Arena {
    pub(super) cells: Vec<u32>,
    pub(super) text: Vec<u8>,
}

impl Arena {
    pub(super) fn clear(&mut self) {
        self.cells.clear();
        self.text.clear();
        // Cell 0 is unused: 0 means "no chunk".
        self.reserve_cells(1);
        self.cells.push(0);
    }

    pub(super) fn capacity_bytes(&self) -> usize {
        self.cells.capacity() * size_of::<u32>() + self.text.capacity()
    }

    fn reserve_cells(&mut self, extra: usize) {
        reserve(&mut self.cells, extra, 256);
    }

    /// A tuple of these elements: takes a cell for each and, unless there are two, one more.
    pub(super) fn add_tuple(&mut self, elements: &[Value]) -> Value {
        self.reserve_cells(1 + elements.len());
        let index = self.cells.len();
        let is_pair = elements.len() == 2;
        if !is_pair {
            self.cells.push(cell(elements.len()));
        }
        self.cells.extend(elements.iter().map(|element| element.0));
        Value::new(if is_pair { Tag::Pair } else { Tag::Tuple }, index)
    }

    /// An empty list, set or dict: takes a cell.
    pub(super) fn add_growing(&mut self, tag: Tag) -> Value {
        self.reserve_cells(1);
        self.cells.push(0);
        Value::new(tag, self.cells.len() - 1)
    }

    /// Adds elements at the end of a list, set or dict (a dict's are key, value, key, value): takes
    /// a cell for each and two more.
    pub(super) fn extend(&mut self, container: Value, elements: &[Value]) {
        if elements.is_empty() {
            return;
        }
        self.reserve_cells(2 + elements.len());
        let chunk = self.cells.len();
        let last = to_index(self.cells[container.index()]);
        let first = if last == 0 { chunk } else { to_index(self.cells[last]) };
        if last != 0 {
            self.cells[last] = cell(chunk);
        }
        self.cells[container.index()] = cell(chunk);
        self.cells.extend([cell(first), cell(elements.len())]);
        self.cells.extend(elements.iter().map(|element| element.0));
    }

    /// A string of `length` bytes at `offset` of the frame or of the unescaped text: two cells.
    pub(super) fn add_text(&mut self, tag: Tag, offset: usize, length: usize) -> Value {
        self.reserve_cells(2);
        let index = self.cells.len();
        self.cells.extend([cell(offset), cell(length)]);
        Value::new(tag, index)
    }
}
