//! The stack machine: one pass over a frame that fills the arena.
//!
//! Every byte that the arena, the stack or the memo grows by is paid from one budget before it is
//! taken, so the answer to a frame does not depend on buffers left over from others. A length is
//! compared with the rest of the frame before it is used.

use super::arena::{Arena, INDEX_END, Tag, Value, arena_bytes_max, fill_bytes_max, reserve};
use super::error::{FrameError, FrameFault};
use super::plain::Plain;
use super::points::Points;
use super::read::{NUMBER_BYTES_MAX, Pickle, check_number, line};
use super::{opcode, text};

/// Longest frame in bytes that can be decoded at all: the greatest limit of any peer
/// (carbon-relay-ng's). Ports set lower limits; a longer frame is refused.
pub const FRAME_BYTES_MAX: usize = 500 << 20;

/// Most marks open at once; one more refuses the frame. Senders nest three: items, item, point.
const MARKS_MAX: usize = 64;

/// Buffers up to this size in bytes are kept although the next frame is too short for them.
const RETAINED_BYTES_MAX: usize = 4 << 20;

const VALUE_BYTES: usize = size_of::<Value>();

// Any index into a frame or its cells fits into a value.
const _: () = assert!(FRAME_BYTES_MAX < INDEX_END - 1);
const _: () = assert!(fill_bytes_max(FRAME_BYTES_MAX) / VALUE_BYTES < INDEX_END - 1);

/// Decodes one frame after the other and keeps its buffers in between: after the first frames of a
/// connection, decoding allocates nothing. A new decoder holds no memory.
#[derive(Debug, Default)]
pub struct PickleDecoder {
    arena: Arena,
    stack: Vec<Value>,
    /// Length of the stack at each open mark, the innermost last.
    marks: Vec<usize>,
    memo: Vec<Value>,
}

impl PickleDecoder {
    /// A decoder without buffers.
    pub fn new() -> PickleDecoder {
        PickleDecoder::default()
    }

    /// Decodes `frame`, the pickle of a sequence of `(name, (timestamp, value))`, for reading one
    /// point at a time.
    ///
    /// Bytes after STOP are ignored.
    ///
    /// # Errors
    /// A frame that is not a pickle of plain data, or whose object is not a list, tuple, set or
    /// frozen set. Nothing of such a frame is used.
    pub fn points<'a>(&'a mut self, frame: &'a [u8]) -> Result<Points<'a>, FrameError> {
        if frame.len() <= FRAME_BYTES_MAX
            && let Some(plain) = Plain::new(frame)
        {
            self.shrink(frame);
            return Ok(Points::plain(plain));
        }
        self.any_points(frame)
    }

    /// The same by the stack machine, whatever the frame's shape.
    pub(super) fn any_points<'a>(&'a mut self, frame: &'a [u8]) -> Result<Points<'a>, FrameError> {
        let pickle = self.decode(frame)?;
        let not_a_sequence =
            FrameError { fault: FrameFault::NotASequence, opcode: None, offset: 0 };
        Points::new(pickle).ok_or(not_a_sequence)
    }

    /// Bytes that the buffers take now: after a frame at most [`arena_bytes_max`] of its length if
    /// the decoder was new, else that or what earlier frames left, at most 4 MiB more.
    pub fn arena_bytes(&self) -> usize {
        self.arena.capacity_bytes()
            + (self.stack.capacity() + self.memo.capacity()) * VALUE_BYTES
            + self.marks.capacity() * size_of::<usize>()
    }

    /// Gives up buffers that are too large for this frame.
    fn shrink(&mut self, frame: &[u8]) {
        if self.arena_bytes() > arena_bytes_max(frame.len()).max(RETAINED_BYTES_MAX) {
            *self = PickleDecoder::default();
        }
    }

    /// Decodes one pickle of any shape.
    pub(in crate::wire) fn decode<'a>(
        &'a mut self,
        frame: &'a [u8],
    ) -> Result<Pickle<'a>, FrameError> {
        if frame.len() > FRAME_BYTES_MAX {
            let fault = FrameFault::FrameTooLarge;
            return Err(FrameError { fault, opcode: None, offset: 0 });
        }
        self.shrink(frame);
        self.arena.clear();
        self.stack.clear();
        self.marks.clear();
        self.memo.clear();
        let mut run = Run {
            decoder: self,
            frame,
            at: 0,
            opcode_at: 0,
            fence: 0,
            stack_peak: 0,
            memo_count: 0,
            bytes_left: fill_bytes_max(frame.len()),
        };
        let root = run.run().map_err(|fault| FrameError {
            fault,
            opcode: frame.get(run.opcode_at).copied(),
            offset: run.opcode_at,
        })?;
        Ok(Pickle::new(frame, &self.arena, root))
    }
}

/// One frame being decoded.
struct Run<'d, 'a> {
    decoder: &'d mut PickleDecoder,
    frame: &'a [u8],
    /// Offset of the next byte.
    at: usize,
    /// Offset of the opcode being executed.
    opcode_at: usize,
    /// Length of the stack at the innermost mark: nothing is taken from below it.
    fence: usize,
    /// Greatest length that the stack has had and paid for.
    stack_peak: usize,
    /// Used slots of the memo: MEMOIZE fills the slot of this number.
    memo_count: usize,
    /// Bytes that arena, stack and memo may still grow by.
    bytes_left: usize,
}

impl Run<'_, '_> {
    /// Executes opcodes up to STOP and returns the object on top of the stack.
    fn run(&mut self) -> Result<Value, FrameFault> {
        loop {
            self.opcode_at = self.at;
            let [code] = self.take_array()?;
            match code {
                opcode::STOP => return self.pop(),
                opcode::MARK => self.mark()?,
                opcode::POP => self.pop_or_unmark()?,
                opcode::POP_MARK => {
                    let start = self.unmark()?;
                    self.decoder.stack.truncate(start);
                }
                opcode::DUP => {
                    let top = self.top()?;
                    self.push(top)?;
                }
                opcode::APPEND => self.append()?,
                opcode::APPENDS => self.extend(Tag::List)?,
                opcode::ADDITEMS => self.extend(Tag::Set)?,
                opcode::SETITEM => self.set_item()?,
                opcode::SETITEMS => self.extend(Tag::Dict)?,
                opcode::EMPTY_LIST => self.push_growing(Tag::List)?,
                opcode::EMPTY_SET => self.push_growing(Tag::Set)?,
                opcode::EMPTY_DICT => self.push_growing(Tag::Dict)?,
                opcode::TUPLE => self.collect(Tag::Tuple)?,
                opcode::TUPLE1 => self.tuple(1)?,
                opcode::TUPLE2 => self.tuple(2)?,
                opcode::TUPLE3 => self.tuple(3)?,
                opcode::LIST => self.collect(Tag::List)?,
                opcode::DICT => self.collect(Tag::Dict)?,
                opcode::FROZENSET => self.collect(Tag::Set)?,
                opcode::PROTO | opcode::FRAME => self.preamble(code)?,
                _ if self.scalar(code)? || self.memo(code)? => {}
                _ => return Err(refusal(code)),
            }
        }
    }

    /// Executes an opcode that pushes one number or string; false if `code` is none of these.
    fn scalar(&mut self, code: u8) -> Result<bool, FrameFault> {
        use opcode::*;
        let length = match code {
            NONE | NEWTRUE | NEWFALSE | EMPTY_TUPLE => 0,
            BININT1 => 1,
            BININT2 => 2,
            BININT => 4,
            BINFLOAT => 8,
            LONG1 | SHORT_BINSTRING | SHORT_BINUNICODE | SHORT_BINBYTES => {
                let [length] = self.take_array()?;
                usize::from(length)
            }
            BINUNICODE | BINBYTES => self.take_u32()?,
            LONG4 => {
                // CPython reads the length as signed; a negative one is far beyond the cap.
                let length = self.take_u32()?;
                if length > NUMBER_BYTES_MAX {
                    return Err(FrameFault::LongNumber);
                }
                length
            }
            BINSTRING => {
                let length = i32::from_le_bytes(self.take_array()?);
                usize::try_from(length).map_err(|_| FrameFault::NegativeLength)?
            }
            BINUNICODE8 | BINBYTES8 => self.take_u64()?,
            INT | LONG | FLOAT => {
                let text = self.take_line()?;
                check_number(code, text)?;
                0
            }
            STRING => {
                self.string()?;
                return Ok(true);
            }
            UNICODE => {
                self.unicode()?;
                return Ok(true);
            }
            _ => return Ok(false),
        };
        self.skip(length)?;
        self.push(Value::new(Tag::Scalar, self.opcode_at))?;
        Ok(true)
    }

    /// Executes an opcode that stores into the memo or loads from it; false if `code` is neither.
    fn memo(&mut self, code: u8) -> Result<bool, FrameFault> {
        use opcode::*;
        let index = match code {
            MEMOIZE => self.memo_count,
            BINPUT | BINGET => {
                let [index] = self.take_array()?;
                usize::from(index)
            }
            LONG_BINPUT | LONG_BINGET => self.take_u32()?,
            PUT | GET => self.take_index()?,
            _ => return Ok(false),
        };
        if matches!(code, GET | BINGET | LONG_BINGET) {
            let value = self.decoder.memo.get(index).copied();
            let value = value.filter(|value| *value != Value::NONE);
            self.push(value.ok_or(FrameFault::MemoMissing)?)?;
        } else {
            self.store(index)?;
        }
        Ok(true)
    }

    /// PROTO and FRAME: checked, otherwise without effect.
    fn preamble(&mut self, code: u8) -> Result<(), FrameFault> {
        if code == opcode::PROTO {
            let [protocol] = self.take_array()?;
            return if protocol <= 5 { Ok(()) } else { Err(FrameFault::UnknownProtocol) };
        }
        let length = self.take_u64()?;
        if length > self.frame.len() - self.at { Err(FrameFault::Truncated) } else { Ok(()) }
    }

    fn take_array<const N: usize>(&mut self) -> Result<[u8; N], FrameFault> {
        let array = self.frame[self.at..].first_chunk().ok_or(FrameFault::Truncated)?;
        self.at += N;
        Ok(*array)
    }

    fn take_u32(&mut self) -> Result<usize, FrameFault> {
        let number = u32::from_le_bytes(self.take_array()?);
        usize::try_from(number).map_err(|_| FrameFault::Truncated)
    }

    fn take_u64(&mut self) -> Result<usize, FrameFault> {
        let number = u64::from_le_bytes(self.take_array()?);
        usize::try_from(number).map_err(|_| FrameFault::Truncated)
    }

    /// The text up to the next LF, which is taken too.
    fn take_line(&mut self) -> Result<&'_ [u8], FrameFault> {
        let text = line(&self.frame[self.at..]).ok_or(FrameFault::Truncated)?;
        self.at += text.len() + 1;
        Ok(text)
    }

    /// The decimal memo index of PUT and GET.
    fn take_index(&mut self) -> Result<usize, FrameFault> {
        let text = self.take_line()?;
        let digits = std::str::from_utf8(text).map_err(|_| FrameFault::BadNumber)?;
        digits.parse().map_err(|_| FrameFault::BadNumber)
    }

    fn skip(&mut self, length: usize) -> Result<(), FrameFault> {
        if length > self.frame.len() - self.at {
            return Err(FrameFault::Truncated);
        }
        self.at += length;
        Ok(())
    }

    fn spend(&mut self, bytes: usize) -> Result<(), FrameFault> {
        self.bytes_left = self.bytes_left.checked_sub(bytes).ok_or(FrameFault::ArenaFull)?;
        Ok(())
    }

    fn push(&mut self, value: Value) -> Result<(), FrameFault> {
        if self.decoder.stack.len() == self.stack_peak {
            self.spend(VALUE_BYTES)?;
            self.stack_peak += 1;
        }
        reserve(&mut self.decoder.stack, 1, 256);
        self.decoder.stack.push(value);
        Ok(())
    }

    /// The place on the stack of the `count` objects on top.
    fn last(&self, count: usize) -> Result<usize, FrameFault> {
        let start = self.decoder.stack.len().checked_sub(count);
        start.filter(|start| *start >= self.fence).ok_or(FrameFault::StackUnderflow)
    }

    fn top(&self) -> Result<Value, FrameFault> {
        Ok(self.decoder.stack[self.last(1)?])
    }

    fn pop(&mut self) -> Result<Value, FrameFault> {
        let top = self.top()?;
        self.decoder.stack.pop();
        Ok(top)
    }

    fn mark(&mut self) -> Result<(), FrameFault> {
        if self.decoder.marks.len() == MARKS_MAX {
            return Err(FrameFault::TooManyMarks);
        }
        reserve(&mut self.decoder.marks, 1, MARKS_MAX);
        self.fence = self.decoder.stack.len();
        self.decoder.marks.push(self.fence);
        Ok(())
    }

    /// Removes the innermost mark and returns where on the stack its objects start.
    fn unmark(&mut self) -> Result<usize, FrameFault> {
        let start = self.decoder.marks.pop().ok_or(FrameFault::NoMark)?;
        self.fence = self.decoder.marks.last().copied().unwrap_or(0);
        Ok(start)
    }

    /// POP takes a mark if one is on top, like CPython's.
    fn pop_or_unmark(&mut self) -> Result<(), FrameFault> {
        if self.decoder.marks.last() == Some(&self.decoder.stack.len()) {
            self.unmark()?;
        } else {
            self.pop()?;
        }
        Ok(())
    }

    fn push_growing(&mut self, tag: Tag) -> Result<(), FrameFault> {
        self.spend(VALUE_BYTES)?;
        let value = self.decoder.arena.add_growing(tag);
        self.push(value)
    }

    /// Replaces the `count` objects on top by a tuple of them.
    fn tuple(&mut self, count: usize) -> Result<(), FrameFault> {
        let start = self.last(count)?;
        self.fold(Tag::Tuple, start)
    }

    /// Replaces the objects above the mark by a container of them.
    fn collect(&mut self, tag: Tag) -> Result<(), FrameFault> {
        let start = self.unmark()?;
        self.fold(tag, start)
    }

    /// Replaces the objects from `start` on by a container of them.
    fn fold(&mut self, tag: Tag, start: usize) -> Result<(), FrameFault> {
        let count = self.decoder.stack.len() - start;
        let head_count = match (tag, count) {
            (Tag::Tuple, 2) => 0,
            (Tag::Tuple, _) => 1,
            _ => 3,
        };
        self.spend((head_count + count) * VALUE_BYTES)?;
        let PickleDecoder { arena, stack, .. } = &mut *self.decoder;
        let value = match tag {
            Tag::Tuple => arena.add_tuple(&stack[start..]),
            _ => {
                check_elements(tag, count)?;
                let container = arena.add_growing(tag);
                arena.extend(container, &stack[start..]);
                container
            }
        };
        self.decoder.stack.truncate(start);
        self.push(value)
    }

    /// Moves the object on top into the list below it.
    fn append(&mut self) -> Result<(), FrameFault> {
        let start = self.last(2)? + 1;
        self.extend_below(Tag::List, start)
    }

    /// Moves the key and value on top into the dict below them.
    fn set_item(&mut self) -> Result<(), FrameFault> {
        let start = self.last(3)? + 1;
        self.extend_below(Tag::Dict, start)
    }

    /// Moves the objects above the mark into the container below it.
    fn extend(&mut self, tag: Tag) -> Result<(), FrameFault> {
        let start = self.unmark()?;
        if start <= self.fence {
            return Err(FrameFault::StackUnderflow);
        }
        self.extend_below(tag, start)
    }

    /// Moves the objects from `start` on into the container just below `start`.
    fn extend_below(&mut self, tag: Tag, start: usize) -> Result<(), FrameFault> {
        let count = self.decoder.stack.len() - start;
        let container = self.decoder.stack[start - 1];
        if container.tag() != tag {
            return Err(FrameFault::WrongContainer);
        }
        check_elements(tag, count)?;
        self.spend((2 + count) * VALUE_BYTES)?;
        let PickleDecoder { arena, stack, .. } = &mut *self.decoder;
        arena.extend(container, &stack[start..]);
        stack.truncate(start);
        Ok(())
    }

    /// Stores the object on top under `index`. Picklers number from 0 or 1 without gaps, and even
    /// where unused stores were taken out, each index below belonged to an object of the frame. So
    /// an index beyond the frame's length is hostile; those of one byte are too cheap to refuse.
    fn store(&mut self, index: usize) -> Result<(), FrameFault> {
        let top = self.top()?;
        if index > self.frame.len().max(usize::from(u8::MAX)) {
            return Err(FrameFault::MemoIndex);
        }
        let length = self.decoder.memo.len();
        if index >= length {
            let extra = index + 1 - length;
            self.spend(extra * VALUE_BYTES)?;
            reserve(&mut self.decoder.memo, extra, 256);
            self.decoder.memo.resize(index + 1, Value::NONE);
        }
        let slot = &mut self.decoder.memo[index];
        if *slot == Value::NONE {
            self.memo_count += 1;
        }
        *slot = top;
        Ok(())
    }

    fn string(&mut self) -> Result<(), FrameFault> {
        let start = self.at + 1;
        let frame = self.frame;
        let length = text::unquote(self.take_line()?)?.len();
        let inside = &frame[start..start + length];
        if memchr::memchr(b'\\', inside).is_none() {
            return self.push_text(Tag::TextInFrame, start, length);
        }
        self.push_unescaped(inside, length, text::unescape_string)
    }

    fn unicode(&mut self) -> Result<(), FrameFault> {
        let start = self.at;
        let frame = self.frame;
        let length = self.take_line()?.len();
        let inside = &frame[start..start + length];
        if inside.is_ascii() && memchr::memchr(b'\\', inside).is_none() {
            return self.push_text(Tag::TextInFrame, start, length);
        }
        self.push_unescaped(inside, 2 * length, text::unescape_unicode)
    }

    /// Pushes what `unescape` makes of `inside`, which has at most `length_max` bytes.
    fn push_unescaped(
        &mut self,
        inside: &[u8],
        length_max: usize,
        unescape: fn(&[u8], &mut Vec<u8>) -> Result<(), FrameFault>,
    ) -> Result<(), FrameFault> {
        self.spend(length_max)?;
        let buffer = &mut self.decoder.arena.text;
        reserve(buffer, length_max, 1024);
        let start = buffer.len();
        unescape(inside, buffer)?;
        let length = buffer.len() - start;
        self.push_text(Tag::TextUnescaped, start, length)
    }

    fn push_text(&mut self, tag: Tag, offset: usize, length: usize) -> Result<(), FrameFault> {
        self.spend(2 * VALUE_BYTES)?;
        let value = self.decoder.arena.add_text(tag, offset, length);
        self.push(value)
    }
}

/// A dict takes keys and values in pairs.
fn check_elements(tag: Tag, count: usize) -> Result<(), FrameFault> {
    let odd = tag == Tag::Dict && !count.is_multiple_of(2);
    if odd { Err(FrameFault::KeyWithoutValue) } else { Ok(()) }
}

/// Why an opcode outside the accepted ones ends the decoding.
fn refusal(code: u8) -> FrameFault {
    use opcode::*;
    match code {
        GLOBAL | STACK_GLOBAL | INST | OBJ | REDUCE | NEWOBJ | NEWOBJ_EX | BUILD | PERSID
        | BINPERSID | EXT1 | EXT2 | EXT4 | NEXT_BUFFER | READONLY_BUFFER | BYTEARRAY8 => {
            FrameFault::Refused
        }
        _ => FrameFault::UnknownOpcode,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the objects of a pickle look like, five levels deep.
    fn show(pickle: &Pickle<'_>, value: Value, depth: usize) -> String {
        if depth == 5 {
            return "...".to_owned();
        }
        let join = |elements: super::super::read::Elements<'_>| {
            let shown: Vec<_> = elements.map(|value| show(pickle, value, depth + 1)).collect();
            shown.join(" ")
        };
        if let Some(bytes) = pickle.bytes(value) {
            return format!("'{}'", bytes.escape_ascii());
        }
        if let Some(number) = pickle.number(value) {
            return number.to_string();
        }
        match value.tag() {
            Tag::Dict => format!("{{{}}}", join(pickle.dict(value).unwrap())),
            Tag::List => format!("[{}]", join(pickle.sequence(value).unwrap())),
            Tag::Set => format!("<{}>", join(pickle.collection(value).unwrap())),
            _ => match pickle.sequence(value) {
                Some(elements) => format!("({})", join(elements)),
                None => "None".to_owned(),
            },
        }
    }

    #[track_caller]
    fn check(frame: &[u8], want: Result<&str, FrameFault>) {
        let mut decoder = PickleDecoder::new();
        let got = decoder.decode(frame).map(|pickle| show(&pickle, pickle.root(), 0));
        let got = got.map_err(|error| error.fault);
        assert_eq!(got, want.map(str::to_owned), "{}", frame.escape_ascii());
    }

    #[test]
    fn numbers() {
        for (frame, want) in [
            (&b"K\xff."[..], "255"),
            (b"M\xff\xff.", "65535"),
            (b"J\xf1\xff\xff\xff.", "-15"),
            (b"J\xff\xff\xff\x7f.", "2147483647"),
            (b"I42\n.", "42"),
            (b"I-42\n.", "-42"),
            (b"I01\n.", "1"),
            (b"I00\n.", "0"),
            (b"L1700000000L\n.", "1700000000"),
            (b"L-5\n.", "-5"),
            (b"F1.5\n.", "1.5"),
            (b"F-inf\n.", "-inf"),
            (b"Fnan\n.", "NaN"),
            (b"G\x3f\xf8\0\0\0\0\0\0.", "1.5"),
            (b"\x88.", "1"),
            (b"\x89.", "0"),
            (b"\x8a\0.", "0"),
            (b"\x8a\x01\x80.", "-128"),
            (b"\x8a\x02\xff\0.", "255"),
            (b"\x8a\x06\0\0\0\0\0\xff.", "-1099511627776"),
            (b"\x8b\x04\0\0\0\0\xf1\x53\x65.", "1700000000"),
            // 2^64 - 1 and 2^53 + 1 round to even; one bit below makes the tie go up.
            (b"\x8a\x09\xff\xff\xff\xff\xff\xff\xff\xff\0.", "18446744073709552000"),
            (b"\x8a\x07\x01\0\0\0\0\0\x20.", "9007199254740992"),
            (b"\x8a\x09\x01\x10\0\0\0\0\0\0\x02.", "36893488147419110000"),
            (b"I-0\n.", "0"),
            (b"L5\n.", "5"),
            (b"I5L\n.", "bad"),
            (b"I017\n.", "bad"),
            (b"L1e5\n.", "bad"),
            (b"I0x10\n.", "bad"),
            (b"I\n.", "bad"),
            (b"F\n.", "bad"),
            (b"F0x1p3\n.", "bad"),
        ] {
            let want = if want == "bad" { Err(FrameFault::BadNumber) } else { Ok(want) };
            check(frame, want);
        }
    }

    #[test]
    fn integers_beyond_every_float_are_no_numbers() {
        let mut decoder = PickleDecoder::new();
        let mut number = |frame: &[u8]| {
            let pickle = decoder.decode(frame).unwrap();
            pickle.number(pickle.root())
        };
        let long = |top: u8, length: u8| {
            let mut frame = vec![opcode::LONG1, length];
            frame.resize(1 + usize::from(length), 0);
            frame.extend_from_slice(&[top, b'.']);
            frame
        };
        // 2^1016 * 64 = 2^1022, then 2^1024.
        assert_eq!(number(&long(0x40, 128)), Some(2_f64.powi(1022)));
        assert_eq!(number(&long(0x80, 128)), Some(-2_f64.powi(1023)));
        assert_eq!(number(&long(0x01, 129)), None);
        let text = |digits: usize| format!("L1{}\n.", "0".repeat(digits)).into_bytes();
        assert_eq!(number(&text(308)), Some(1e308));
        assert_eq!(number(&text(309)), None);
    }

    #[test]
    fn strings() {
        for (frame, want) in [
            (&b"U\x01a."[..], "'a'"),
            (b"T\x01\0\0\0a.", "'a'"),
            (b"X\x01\0\0\0a.", "'a'"),
            (b"\x8c\x01a.", "'a'"),
            (b"\x8d\x01\0\0\0\0\0\0\0a.", "'a'"),
            (b"C\x01a.", "'a'"),
            (b"B\x01\0\0\0a.", "'a'"),
            (b"\x8e\x01\0\0\0\0\0\0\0a.", "'a'"),
            (b"S'a'\n.", "'a'"),
            (b"S\"it's\"\n.", r"'it\'s'"),
            (b"S'\\x61\\n'\n.", r"'a\n'"),
            (b"S''\n.", "''"),
            (b"Va\n.", "'a'"),
            (b"V\\u0061\n.", "'a'"),
            (b"V\xe9\n.", r"'\xc3\xa9'"),
            (b"U\0.", "''"),
        ] {
            check(frame, Ok(want));
        }
        for frame in [&b"Sa\n."[..], b"S'a\n.", b"S'\\x6'\n.", b"S'a' \n.", b"V\\u006\n."] {
            check(frame, Err(FrameFault::BadText));
        }
    }

    #[test]
    fn containers() {
        for (frame, want) in [
            (&b")."[..], "()"),
            (b"(t.", "()"),
            (b"K\x01\x85.", "(1)"),
            (b"K\x01K\x02\x86.", "(1 2)"),
            (b"K\x01K\x02K\x03\x87.", "(1 2 3)"),
            (b"(K\x01K\x02K\x03K\x04t.", "(1 2 3 4)"),
            (b"].", "[]"),
            (b"(l.", "[]"),
            (b"(K\x01K\x02l.", "[1 2]"),
            (b"](e.", "[]"),
            (b"]K\x01a(K\x02K\x03e(eK\x04a.", "[1 2 3 4]"),
            (b"}.", "{}"),
            (b"(K\x01Nd.", "{1 None}"),
            (b"}K\x01K\x02s(K\x03K\x04u(u.", "{1 2 3 4}"),
            (b"\x8f(K\x01K\x02\x90(K\x03\x90.", "<1 2 3>"),
            (b"(K\x01\x91.", "<1>"),
            (b"]q\x05h\x05a.", "[[[[[...]]]]]"),
            (b"K\x01q\xff0h\xff.", "1"),
            (b"(K\x01q\x00h\x00g0\nj\0\0\0\0t.", "(1 1 1 1)"),
            (b"K\x01p7\n0K\x02\x940h\x01g7\n\x86.", "(2 1)"),
            (b"K\x01q\x000K\x02q\x00h\x00\x86.", "(2 2)"),
            (b"\x80\x04\x95\x04\0\0\0\0\0\0\0K\x01\x85.", "(1)"),
            (b"K\x01K\x020.", "1"),
            (b"K\x01(0.", "1"),
            (b"K\x01(NN1.", "1"),
            (b"K\x012\x86.", "(1 1)"),
            (b"](K\x01.", "1"),
        ] {
            check(frame, Ok(want));
        }
    }

    #[test]
    fn broken_programs() {
        use FrameFault::*;
        for (frame, want) in [
            (&b""[..], Truncated),
            (b"K", Truncated),
            (b"K\x01", Truncated),
            (b"I1", Truncated),
            (b".", StackUnderflow),
            (b"(.", StackUnderflow),
            (b"(2.", StackUnderflow),
            (b"0.", StackUnderflow),
            (b"N\x86.", StackUnderflow),
            (b"N(N\x86.", StackUnderflow),
            (b"(K\x01a.", StackUnderflow),
            (b"](a.", StackUnderflow),
            (b"(e.", StackUnderflow),
            (b"](((e.", StackUnderflow),
            (b"q\x00.", StackUnderflow),
            (b"t.", NoMark),
            (b"1.", NoMark),
            (b"]Ne.", NoMark),
            (b"NNa.", WrongContainer),
            (b")(Ne.", WrongContainer),
            (b"](NNu.", WrongContainer),
            (b"](N\x90.", WrongContainer),
            (b"(Nd.", KeyWithoutValue),
            (b"}(Nu.", KeyWithoutValue),
            (b"Nr\x00\x01\0\0.", MemoIndex),
            (b"h\x00.", MemoMissing),
            (b"Nq\x02h\x01.", MemoMissing),
            (b"\x80\x06N.", UnknownProtocol),
            (b"\x7f.", UnknownOpcode),
        ] {
            check(frame, Err(want));
        }
        for code in b"ciobRPQ\x81\x82\x83\x84\x92\x93\x96\x97\x98" {
            check(&[b'N', *code, b'.'], Err(Refused));
        }
    }

    #[test]
    fn errors_name_opcode_and_place() {
        let mut decoder = PickleDecoder::new();
        let mut message = |frame: &[u8]| decoder.decode(frame).unwrap_err().to_string();
        assert_eq!(message(b"]Nc"), "opcode is not data: opcode GLOBAL (0x63) at byte 2");
        assert_eq!(message(b"]"), "frame ends too early: at byte 1");
        assert_eq!(message(b"\xff"), "no such opcode: opcode unknown (0xff) at byte 0");
    }
}
