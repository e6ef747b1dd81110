//! A buffer of whole frames, aligned for direct I/O.
//!
//! Records are encoded straight into the place they are written from. Block 0 is kept free for a
//! segment's header, so that a new segment's first write is one write. A frame's header is filled
//! in when its place is known, and again when the frame has to move to another segment: nothing
//! else in it depends on the place.

use std::fmt;

use crate::metric::point::{Arrival, Point};
use crate::wal::BLOCK_BYTES;
use crate::wal::frame::{FRAME_HEADER_BYTES, FRAME_PAYLOAD_MAX, FrameHeader};
use crate::wal::record::{
    ARRIVAL_BYTES_MAX, NAME_RECORD_BYTES_MAX, NOTE_BYTES_MAX, POINT_BYTES_MAX, Previous,
    name_record_bytes, put_arrival, put_name, put_point,
};
use crate::wal::segment::SegmentId;

/// What a buffer begins with; it doubles from there.
const BYTES_FIRST: usize = 64 << 10;

const _: () = assert!(BYTES_FIRST > BLOCK_BYTES + 2 * (FRAME_HEADER_BYTES + NAME_RECORD_BYTES_MAX));

/// One frame of a buffer.
#[derive(Debug, Clone, Copy)]
struct Frame {
    at: usize,
    payload_bytes: usize,
    payload_checksum: u32,
    record_count: u32,
    first_record: u64,
}

/// Frames on their way to a segment.
pub(crate) struct Buffer {
    /// Longer than `limit` by less than a block, because a `Vec` begins where it likes.
    memory: Vec<u8>,
    /// Where the aligned part begins.
    start: usize,
    /// Bytes of the aligned part that may be used now, and at most.
    capacity: usize,
    limit: usize,
    /// End of what is written, counted from `start`.
    used: usize,
    /// Start of the open frame; 0 is none.
    open_at: usize,
    open_count: u32,
    open_first: u64,
    previous: Previous,
    /// The clock's time, and what the open frame says of the arrival of its next point.
    clock_s: u32,
    arrived_s: u32,
    frames: Vec<Frame>,
    /// The dictionary that the records belong to.
    pub(crate) epoch: u32,
    /// Records that came from outside and not from the log itself.
    pub(crate) received_count: u64,
}

impl fmt::Debug for Buffer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = formatter.debug_struct("Buffer");
        out.field("used", &self.used).field("capacity", &self.capacity);
        out.field("frames", &self.frames.len()).field("epoch", &self.epoch).finish()
    }
}

impl Buffer {
    /// An empty buffer that grows up to `limit` bytes.
    pub(crate) fn new(limit: usize) -> Buffer {
        assert!(limit >= BYTES_FIRST, "a buffer of {limit} bytes holds no frame");
        let mut buffer = Buffer {
            memory: Vec::new(),
            start: 0,
            capacity: 0,
            limit,
            used: BLOCK_BYTES,
            open_at: 0,
            open_count: 0,
            open_first: 0,
            previous: Previous::default(),
            clock_s: 0,
            arrived_s: 0,
            frames: Vec::new(),
            epoch: 0,
            received_count: 0,
        };
        buffer.grow(BYTES_FIRST);
        buffer
    }

    /// Forgets what it holds and keeps its memory.
    pub(crate) fn clear(&mut self) {
        self.used = BLOCK_BYTES;
        self.open_at = 0;
        self.frames.clear();
        self.received_count = 0;
    }

    /// It holds no frame, not even one without records.
    pub(crate) fn is_empty(&self) -> bool {
        self.used == BLOCK_BYTES
    }

    /// Bytes of frames, without the block that is kept free.
    pub(crate) fn frames_bytes(&self) -> usize {
        self.used - BLOCK_BYTES
    }

    /// Memory it takes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.capacity() + self.frames.capacity() * size_of::<Frame>()
    }

    /// The clock shows this time: points that are put from now on have arrived then. `first` as for
    /// [`Buffer::put_point`]. When there is no room to say so, there is none for a point either.
    pub(crate) fn set_clock(&mut self, now_s: u32, first: u64) {
        if self.clock_s == now_s {
            return;
        }
        self.clock_s = now_s;
        if self.open_at != 0 {
            self.say_arrival(now_s, first);
        }
    }

    /// The clock's time.
    pub(crate) fn clock_s(&self) -> u32 {
        self.clock_s
    }

    fn say_arrival(&mut self, arrived_s: u32, first: u64) {
        // A frame that is opened for it says what the clock shows.
        if self.make_room(ARRIVAL_BYTES_MAX, first) && self.arrived_s != arrived_s {
            let at = self.start + self.used;
            self.used += put_arrival(&mut self.memory[at..], &mut self.previous, arrived_s);
            self.arrived_s = arrived_s;
        }
    }

    /// Adds a point that arrived before; `first` as for [`Buffer::put_point`]. The caller has seen
    /// that there is room for all of them, and calls [`Buffer::end_former`] behind the last.
    pub(crate) fn put_former(&mut self, number: u32, arrival: Arrival, first: u64) {
        // Both in one frame: a new one would begin with the clock's time.
        let has_room = self.make_room(ARRIVAL_BYTES_MAX + POINT_BYTES_MAX, first);
        assert!(has_room, "room was made for points that are logged again");
        self.say_arrival(arrival.arrived_s, first);
        let is_put = self.put_point(number, arrival.point(), first);
        assert!(is_put, "room was made for an arrival and its point");
    }

    /// Points that are put from now on arrive as the clock says.
    pub(crate) fn end_former(&mut self, first: u64) {
        self.say_arrival(self.clock_s, first);
    }

    /// Adds a record that says something of a metric; false: the limit is reached.
    pub(crate) fn put_note(
        &mut self,
        first: u64,
        put: impl FnOnce(&mut [u8], &mut Previous) -> usize,
    ) -> bool {
        if !self.make_room(NOTE_BYTES_MAX, first) {
            return false;
        }
        let at = self.start + self.used;
        self.used += put(&mut self.memory[at..], &mut self.previous);
        true
    }

    /// Whether `count` points that arrived before fit, with some notes.
    pub(crate) fn has_room_for(&self, count: usize) -> bool {
        self.used + former_bytes(count) <= self.limit
    }

    /// Whether they would fit if it was empty.
    pub(crate) fn could_take(&self, count: usize) -> bool {
        BLOCK_BYTES + former_bytes(count) <= self.limit
    }

    /// Adds a point; `first` is its number if it begins a frame. False: the limit is reached.
    pub(crate) fn put_point(&mut self, number: u32, point: Point, first: u64) -> bool {
        if !self.make_room(POINT_BYTES_MAX, first) {
            return false;
        }
        let at = self.start + self.used;
        let out = self.memory[at..].first_chunk_mut().expect("room was made");
        self.used += put_point(out, &mut self.previous, number, point);
        self.open_count += 1;
        true
    }

    /// Adds a name; false: the limit is reached.
    pub(crate) fn put_name(&mut self, number: u32, name: &[u8]) -> bool {
        let bytes = name_record_bytes(name);
        if !self.make_room(bytes, 0) {
            return false;
        }
        let at = self.start + self.used;
        put_name(&mut self.memory[at..at + bytes], number, name);
        self.used += bytes;
        self.open_count += 1;
        true
    }

    /// Opens a frame that is written even if no record comes.
    pub(crate) fn put_nothing(&mut self, first: u64) {
        assert!(self.is_empty(), "a frame is there already");
        let is_open = self.make_room(0, first);
        assert!(is_open, "an empty buffer has room for a frame");
    }

    /// Closes the open frame.
    pub(crate) fn close_frame(&mut self) {
        if self.open_at == 0 {
            return;
        }
        let body = self.open_at + FRAME_HEADER_BYTES;
        let end = self.used.next_multiple_of(BLOCK_BYTES);
        self.frames.push(Frame {
            at: self.open_at,
            payload_bytes: self.used - body,
            payload_checksum: crc32fast::hash(self.part(body, self.used)),
            record_count: self.open_count,
            first_record: self.open_first,
        });
        let (from, to) = (self.start + self.used, self.start + end);
        self.memory[from..to].fill(0);
        self.used = end;
        self.open_at = 0;
    }

    /// Closes the open frame and puts a second copy of all frames behind them, if there is room.
    pub(crate) fn close_twice(&mut self) {
        self.close_frame();
        let (bytes, count) = (self.frames_bytes(), self.frames.len());
        if !self.grow(self.used + bytes) {
            return;
        }
        let from = self.start + BLOCK_BYTES;
        self.memory.copy_within(from..from + bytes, from + bytes);
        for index in 0..count {
            let frame = self.frames[index];
            self.frames.push(Frame { at: frame.at + bytes, ..frame });
        }
        self.used += bytes;
    }

    /// Fills in the headers for frames that go to `segment` from `block` on, and say what was
    /// retired and synced.
    pub(crate) fn place(
        &mut self,
        segment: SegmentId,
        block: u32,
        (oldest_live, synced_checkpoint): (u32, u32),
    ) {
        assert!(self.open_at == 0, "only closed frames have a place");
        for frame in &self.frames {
            let skipped = (frame.at - BLOCK_BYTES) / BLOCK_BYTES;
            let narrow = |bytes: usize| u32::try_from(bytes).expect("a buffer is below 4 GiB");
            let header = FrameHeader {
                id: segment,
                block: block + narrow(skipped),
                payload_bytes: narrow(frame.payload_bytes),
                payload_checksum: frame.payload_checksum,
                record_count: frame.record_count,
                first_record: frame.first_record,
                oldest_live,
                epoch: self.epoch,
                synced_checkpoint,
            };
            header.encode(&mut self.memory[self.start + frame.at..]);
        }
    }

    /// The block in front of the frames, for a segment's header.
    pub(crate) fn header_block(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + BLOCK_BYTES]
    }

    /// The bytes to write: all frames, and the header block before them if asked for.
    pub(crate) fn bytes(&self, with_header: bool) -> &[u8] {
        self.part(if with_header { 0 } else { BLOCK_BYTES }, self.used)
    }

    fn part(&self, from: usize, to: usize) -> &[u8] {
        &self.memory[self.start + from..self.start + to]
    }

    /// Room for a record in the open frame, or in a new one.
    fn make_room(&mut self, bytes: usize, first: u64) -> bool {
        // The next block boundary has to be within the capacity as well.
        let is_within = self.used + bytes + FRAME_HEADER_BYTES + BLOCK_BYTES <= self.capacity;
        let fits_frame = self.used + bytes - self.open_at <= FRAME_HEADER_BYTES + FRAME_PAYLOAD_MAX;
        if self.open_at != 0 && is_within && fits_frame {
            return true;
        }
        self.make_room_slowly(bytes, first)
    }

    #[cold]
    fn make_room_slowly(&mut self, bytes: usize, first: u64) -> bool {
        let worst = bytes + FRAME_HEADER_BYTES + ARRIVAL_BYTES_MAX + 2 * BLOCK_BYTES;
        if !self.grow(self.used + worst) {
            return false;
        }
        let open = self.used - self.open_at;
        if self.open_at != 0 && open + bytes > FRAME_HEADER_BYTES + FRAME_PAYLOAD_MAX {
            self.close_frame();
        }
        if self.open_at == 0 {
            self.open_at = self.used;
            self.open_count = 0;
            self.open_first = first;
            self.previous = Previous::default();
            self.used += FRAME_HEADER_BYTES;
            if first != 0 {
                let at = self.start + self.used;
                self.used += put_arrival(&mut self.memory[at..], &mut self.previous, self.clock_s);
                self.arrived_s = self.clock_s;
            }
        }
        true
    }

    /// Grows the aligned part to this length at least; false beyond the limit.
    fn grow(&mut self, bytes: usize) -> bool {
        if bytes <= self.capacity {
            return true;
        }
        if bytes > self.limit {
            return false;
        }
        let capacity = bytes.next_power_of_two().min(self.limit);
        let mut memory = vec![0; capacity + BLOCK_BYTES];
        let start = memory.as_ptr().align_offset(BLOCK_BYTES);
        assert!(start < BLOCK_BYTES, "bytes can be aligned to a block");
        let used = self.used.min(self.capacity);
        memory[start..start + used].copy_from_slice(self.part(0, used));
        (self.memory, self.start, self.capacity) = (memory, start, capacity);
        true
    }
}

/// Most bytes that `count` points that arrived before take, with the notes around them.
fn former_bytes(count: usize) -> usize {
    let bytes = count * (ARRIVAL_BYTES_MAX + POINT_BYTES_MAX) + 4 * NOTE_BYTES_MAX;
    let frames = 2 + bytes / (FRAME_PAYLOAD_MAX / 2);
    bytes + frames * (FRAME_HEADER_BYTES + 2 * BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wal::segment::Kind;

    const ID: SegmentId = SegmentId { run: 3, shard: 1, kind: Kind::Points, number: 9 };

    fn point(timestamp_s: u32) -> Point {
        Point { timestamp_s, value: f64::from(timestamp_s) / 7.0 }
    }

    #[test]
    fn frames_begin_on_blocks_and_end_in_zeros() {
        let mut buffer = Buffer::new(8 << 20);
        let mut count = 0;
        // Stale bytes of a fuller use must not show.
        for use_count in [400_000, 300_000] {
            buffer.clear();
            for number in 0..use_count {
                assert!(buffer.put_point(number, point(number), u64::from(number) + 1));
            }
            count = use_count;
        }
        buffer.close_frame();
        buffer.place(ID, 5, (2, 0));
        let bytes = buffer.bytes(false);
        assert_eq!(bytes.as_ptr().align_offset(BLOCK_BYTES), 0);
        let (mut at, mut records, mut frames) = (0, 0, 0);
        while at < bytes.len() {
            let block = u32::try_from(5 + at / BLOCK_BYTES).unwrap();
            let header = FrameHeader::decode(&bytes[at..], ID, block).unwrap();
            assert_eq!((header.first_record, header.oldest_live), (records + 1, 2));
            assert!(header.payload(&bytes[at..]).is_some());
            let end = FRAME_HEADER_BYTES + header.payload_bytes as usize;
            assert!(bytes[at + end..at + header.frame_bytes()].iter().all(|&byte| byte == 0));
            records += u64::from(header.record_count);
            at += header.frame_bytes();
            frames += 1;
        }
        assert_eq!(records, u64::from(count));
        assert!(frames > 2, "{frames} frames");
        assert!(FrameHeader::decode(bytes, ID, 6).is_none(), "a frame in another place");
    }

    #[test]
    fn the_limit_holds_and_leaves_a_whole_buffer() {
        let limit = 100_000;
        let mut buffer = Buffer::new(limit);
        let mut count = 0;
        while buffer.put_point(count, point(count), 1) {
            count += 1;
        }
        assert!(count > 3_000, "{count}");
        buffer.close_frame();
        assert!(buffer.frames_bytes() + BLOCK_BYTES <= limit);
        assert!(!buffer.put_name(1, &[b'x'; 4_000]));
        buffer.close_twice();
        assert_eq!(buffer.frames.len(), 1, "no room for a second copy, and no harm");
    }

    #[test]
    fn names_are_there_twice() {
        let mut buffer = Buffer::new(1 << 20);
        assert!(buffer.put_name(1, b"a.b.c"));
        buffer.close_twice();
        let id = SegmentId { kind: Kind::Names, ..ID };
        buffer.place(id, 1, (0, 0));
        for (at, block) in [(0, 1), (BLOCK_BYTES, 2)] {
            let bytes = &buffer.bytes(false)[at..];
            let header = FrameHeader::decode(bytes, id, block).unwrap();
            assert!(header.payload(bytes).unwrap().ends_with(b"a.b.c"));
        }
        assert_eq!(buffer.bytes(false).len(), 2 * BLOCK_BYTES);
    }
}
