//! Frames as nearly all senders write them, read straight from their bytes.
//!
//! ```text
//! frame   [PROTO p] [FRAME n] EMPTY_LIST memo? batch* STOP | ignored
//! batch   MARK item+ APPENDS | item APPEND
//! item    name memo? number number TUPLE2 memo? TUPLE2 memo?
//! name    BINUNICODE | SHORT_BINUNICODE | SHORT_BINSTRING
//! number  BININT | BININT1 | BININT2 | BINFLOAT
//! memo    BINPUT | LONG_BINPUT | MEMOIZE
//! ```
//!
//! Nothing here is loaded from the memo, so stores have no effect. A frame is looked through before
//! its first point is handed out: one that leaves this shape anywhere, or comes near a limit of the
//! stack machine, is left to it whole. So both ways give the same answer to every frame.
//!
//! Sketch: an item of 60 bytes is ten bytes looked at, twice; the stack machine took eleven turns
//! of its loop for it, and 32 bytes of memory.

use super::arena::{fill_bytes_max, to_index};
use super::opcode;
use crate::metric::point::Received;

/// Memory in bytes that the stack machine takes at most for an item: two pairs of two cells, a cell
/// of the list, a place on the stack.
const ITEM_BYTES: usize = 24;

/// The same for a batch: the head of its chunk, and the places on the stack above the list.
const BATCH_BYTES: usize = 32;

/// The points of a frame of the plain shape.
#[derive(Debug, Clone)]
pub(super) struct Plain<'a> {
    frame: &'a [u8],
    at: usize,
}

impl<'a> Plain<'a> {
    /// None if the frame must be decoded by the stack machine.
    pub(super) fn new(frame: &'a [u8]) -> Option<Plain<'a>> {
        let start = after_preamble(frame)?;
        check(frame, start)?;
        Some(Plain { frame, at: start })
    }
}

impl<'a> Iterator for Plain<'a> {
    type Item = Received<'a>;

    #[inline]
    fn next(&mut self) -> Option<Received<'a>> {
        loop {
            match *self.frame.get(self.at)? {
                opcode::STOP => return None,
                // Between items these have no meaning of their own: the shape has been checked.
                opcode::MARK | opcode::APPENDS | opcode::APPEND => self.at += 1,
                _ => {
                    let (received, at, _) = item(self.frame, self.at)?;
                    self.at = at;
                    return Some(received);
                }
            }
        }
    }
}

/// Where the first batch begins.
fn after_preamble(frame: &[u8]) -> Option<usize> {
    let mut at = 0;
    if let [opcode::PROTO, protocol, ..] = *frame {
        if protocol > 5 {
            return None;
        }
        at = 2;
    }
    if *frame.get(at)? == opcode::FRAME {
        let length = u64::from_le_bytes(*frame[at + 1..].first_chunk()?);
        at += 9;
        if length > (frame.len() - at) as u64 {
            return None;
        }
    }
    if *frame.get(at)? != opcode::EMPTY_LIST {
        return None;
    }
    Some(memo(frame, at + 1)?.0)
}

/// Whether all batches and the end have the plain shape, and the stack machine would have room.
fn check(frame: &[u8], start: usize) -> Option<()> {
    let mut at = start;
    let mut bytes = BATCH_BYTES;
    // Stores may leave gaps in the memo; a slot takes 4 bytes, also an empty one.
    let mut slots = 1;
    loop {
        match *frame.get(at)? {
            opcode::STOP => break,
            opcode::MARK => {
                at += 1;
                loop {
                    let (_, next, store) = item(frame, at)?;
                    at = next;
                    bytes += ITEM_BYTES;
                    slots = (slots + 3).max(store);
                    if *frame.get(at)? == opcode::APPENDS {
                        break;
                    }
                }
            }
            _ => {
                let (_, next, store) = item(frame, at)?;
                at = next;
                bytes += ITEM_BYTES;
                slots = (slots + 3).max(store);
                if *frame.get(at)? != opcode::APPEND {
                    return None;
                }
            }
        }
        at += 1;
        bytes += BATCH_BYTES;
    }
    (bytes + slots * 4 <= fill_bytes_max(frame.len())).then_some(())
}

/// One item, where it ends, and one more than the highest memo slot that it fills by number.
#[inline]
fn item(frame: &[u8], at: usize) -> Option<(Received<'_>, usize, usize)> {
    let rest = frame.get(at..)?;
    let (head_bytes, name_bytes) = match *rest {
        [opcode::BINUNICODE, a, b, c, d, ..] => (5, to_index(u32::from_le_bytes([a, b, c, d]))),
        [opcode::SHORT_BINUNICODE | opcode::SHORT_BINSTRING, length, ..] => {
            (2, usize::from(length))
        }
        _ => return None,
    };
    let (name, tail) = rest.get(head_bytes..)?.split_at_checked(name_bytes)?;
    if let Some((timestamp, value, store)) = relay_tail(tail) {
        if store > frame.len() {
            return None;
        }
        let at = at + head_bytes + name_bytes + RELAY_TAIL_BYTES;
        return Some((Received { name, value, timestamp }, at, store + 1));
    }
    let (at, first) = memo(frame, at + head_bytes + name_bytes)?;
    let (timestamp, at) = number(frame, at)?;
    let (value, at) = number(frame, at)?;
    let (at, second) = memo(frame, tuple(frame, at)?)?;
    let (at, third) = memo(frame, tuple(frame, at)?)?;
    Some((Received { name, value, timestamp }, at, first.max(second).max(third)))
}

/// Bytes of an item of carbon-relay behind its name, once its memo has 256 slots.
const RELAY_TAIL_BYTES: usize = 31;

/// The numbers of such an item, which are at fixed places, and the highest memo slot it fills.
#[inline]
fn relay_tail(tail: &[u8]) -> Option<(f64, f64, usize)> {
    let [
        opcode::LONG_BINPUT,
        a0,
        a1,
        a2,
        a3,
        opcode::BININT,
        t0,
        t1,
        t2,
        t3,
        opcode::BINFLOAT,
        v0,
        v1,
        v2,
        v3,
        v4,
        v5,
        v6,
        v7,
        opcode::TUPLE2,
        opcode::LONG_BINPUT,
        b0,
        b1,
        b2,
        b3,
        opcode::TUPLE2,
        opcode::LONG_BINPUT,
        c0,
        c1,
        c2,
        c3,
    ] = *tail.first_chunk::<RELAY_TAIL_BYTES>()?
    else {
        return None;
    };
    let store = u32::from_le_bytes([a0, a1, a2, a3])
        .max(u32::from_le_bytes([b0, b1, b2, b3]))
        .max(u32::from_le_bytes([c0, c1, c2, c3]));
    let timestamp = f64::from(i32::from_le_bytes([t0, t1, t2, t3]));
    let value = f64::from_be_bytes([v0, v1, v2, v3, v4, v5, v6, v7]);
    Some((timestamp, value, to_index(store)))
}

#[inline]
fn tuple(frame: &[u8], at: usize) -> Option<usize> {
    (*frame.get(at)? == opcode::TUPLE2).then_some(at + 1)
}

#[inline]
fn number(frame: &[u8], at: usize) -> Option<(f64, usize)> {
    match *frame.get(at..)? {
        [opcode::BINFLOAT, a, b, c, d, e, f, g, h, ..] => {
            Some((f64::from_be_bytes([a, b, c, d, e, f, g, h]), at + 9))
        }
        [opcode::BININT, a, b, c, d, ..] => {
            Some((f64::from(i32::from_le_bytes([a, b, c, d])), at + 5))
        }
        [opcode::BININT1, a, ..] => Some((f64::from(a), at + 2)),
        [opcode::BININT2, a, b, ..] => Some((f64::from(u16::from_le_bytes([a, b])), at + 3)),
        _ => None,
    }
}

/// Behind a store into the memo, if one is here, and one more than its number. The stack machine
/// refuses numbers beyond the frame's length.
#[inline]
fn memo(frame: &[u8], at: usize) -> Option<(usize, usize)> {
    match *frame.get(at..)? {
        [opcode::BINPUT, a, ..] => Some((at + 2, usize::from(a) + 1)),
        [opcode::LONG_BINPUT, a, b, c, d, ..] => {
            let index = to_index(u32::from_le_bytes([a, b, c, d]));
            (index <= frame.len()).then_some((at + 5, index + 1))
        }
        [opcode::MEMOIZE, ..] => Some((at + 1, 0)),
        _ => Some((at, 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::pickle::PickleDecoder;

    /// splitmix64: a seed repeats a failure.
    struct Noise(u64);

    impl Noise {
        fn next(&mut self) -> u64 {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }

        fn below(&mut self, end: usize) -> usize {
            usize::try_from(self.next() % end as u64).expect("below a usize")
        }

        fn byte(&mut self) -> u8 {
            self.next().to_le_bytes()[0]
        }

        fn bytes(&mut self, count: usize) -> Vec<u8> {
            (0..count).map(|_| self.byte()).collect()
        }

        fn memo(&mut self, frame: &mut Vec<u8>, style: usize) {
            match if style == 4 { self.below(4) } else { style } {
                0 => {}
                1 => frame.extend([opcode::BINPUT, self.byte()]),
                2 => frame.extend([opcode::LONG_BINPUT, self.byte(), self.byte() & 1, 0, 0]),
                _ => frame.push(opcode::MEMOIZE),
            }
        }

        fn number(&mut self, frame: &mut Vec<u8>) {
            match self.below(4) {
                0 => frame.extend([opcode::BININT1, self.byte()]),
                1 => frame.extend([opcode::BININT2, self.byte(), self.byte()]),
                2 => {
                    frame.push(opcode::BININT);
                    frame.extend(self.bytes(4));
                }
                _ => {
                    frame.push(opcode::BINFLOAT);
                    frame.extend(self.bytes(8));
                }
            }
        }

        fn name(&mut self, frame: &mut Vec<u8>) {
            let length = self.below(30);
            let byte = u8::try_from(length).expect("below 30");
            match self.below(3) {
                0 => frame.extend([opcode::BINUNICODE, byte, 0, 0, 0]),
                1 => frame.extend([opcode::SHORT_BINUNICODE, byte]),
                _ => frame.extend([opcode::SHORT_BINSTRING, byte]),
            }
            frame.extend(self.bytes(length));
        }

        /// The tail of an item at its fixed places, with numbers of slots that may be too high.
        fn relay_tail(&mut self, frame: &mut Vec<u8>) {
            self.memo(frame, 2);
            frame.push(opcode::BININT);
            frame.extend(self.bytes(4));
            frame.push(opcode::BINFLOAT);
            frame.extend(self.bytes(8));
            for _ in 0..2 {
                frame.push(opcode::TUPLE2);
                self.memo(frame, 2);
            }
        }

        fn frame(&mut self) -> Vec<u8> {
            let mut frame = Vec::new();
            if self.below(2) == 0 {
                frame.extend([opcode::PROTO, u8::try_from(self.below(5)).expect("below 5")]);
            }
            if self.below(4) == 0 {
                frame.extend([opcode::FRAME, 1, 0, 0, 0, 0, 0, 0, 0]);
            }
            let style = self.below(5);
            frame.push(opcode::EMPTY_LIST);
            self.memo(&mut frame, style);
            for _ in 0..self.below(4) {
                let count = 1 + self.below(6);
                if count > 1 {
                    frame.push(opcode::MARK);
                }
                for _ in 0..count {
                    self.name(&mut frame);
                    if style == 2 && self.below(2) == 0 {
                        self.relay_tail(&mut frame);
                        continue;
                    }
                    self.memo(&mut frame, style);
                    self.number(&mut frame);
                    self.number(&mut frame);
                    frame.push(opcode::TUPLE2);
                    self.memo(&mut frame, style);
                    frame.push(opcode::TUPLE2);
                    self.memo(&mut frame, style);
                }
                frame.push(if count > 1 { opcode::APPENDS } else { opcode::APPEND });
            }
            frame.push(opcode::STOP);
            frame
        }

        /// Changes, takes out or puts in a few bytes, mostly opcodes.
        fn mutate(&mut self, frame: &mut Vec<u8>) {
            const OPCODES: &[u8] = b"](eaU.XJKMGqrh\x86\x85\x94\x8c\x80\x95tlN0)";
            for _ in 0..1 + self.below(3) {
                let at = self.below(frame.len() + 1);
                let byte = OPCODES[self.below(OPCODES.len())];
                match self.below(5) {
                    0 => frame.truncate(at),
                    1 => frame.insert(at, byte),
                    2 => frame.insert(at, self.byte()),
                    _ if at == frame.len() => frame.push(byte),
                    3 => drop(frame.remove(at)),
                    _ => frame[at] = byte,
                }
            }
        }
    }

    /// Both ways' answers to a frame, numbers by their bits.
    fn check(frame: &[u8]) -> bool {
        let mut decoder = PickleDecoder::new();
        let bits = |received: Received<'_>| {
            (received.name.to_vec(), received.timestamp.to_bits(), received.value.to_bits())
        };
        let any: Result<Vec<_>, _> =
            decoder.any_points(frame).map(|points| points.map(|item| item.map(bits)).collect());
        let Some(plain) = Plain::new(frame) else { return false };
        let plain: Vec<_> = plain.map(|received| Ok(bits(received))).collect();
        assert_eq!(Ok(plain), any, "{}", frame.escape_ascii());
        true
    }

    #[test]
    fn both_ways_give_the_same_answer() {
        let mut noise = Noise(1);
        let (mut plain, mut mutated) = (0, 0);
        for _ in 0..20_000 {
            let mut frame = noise.frame();
            plain += usize::from(check(&frame));
            noise.mutate(&mut frame);
            mutated += usize::from(check(&frame));
        }
        // All frames but those with a store beyond their length are plain; most changes show.
        assert!(plain > 13_000 && (1_000..3_000).contains(&mutated), "{plain} {mutated}");
    }

    #[test]
    fn what_fills_the_stack_machine_is_left_to_it() {
        let frame = |item: &[u8], count: usize| [b"](", &item.repeat(count)[..], b"e."].concat();
        assert!(check(&frame(b"U\x01aK\x01K\x02\x86\x86", 1_000)));
        assert!(!check(&frame(b"U\x01aK\x01K\x02\x86\x86", 60_000)));
        // Names of a usual length leave room for any number of items.
        assert!(check(&frame(b"U\x0caaaabbbbccccq\x01K\x01K\x02\x86q\x02\x86q\x03", 60_000)));
    }

    #[test]
    fn senders_write_the_plain_shape() {
        for frame in [
            &b"\x80\x02]q\x00(X\x03\0\0\0a.bq\x01J\x80\xf2\xb0jG?\xf8\0\0\0\0\0\0\x86q\x02\
               \x86q\x03e."[..],
            b"\x80\x04\x95\x11\0\0\0\0\0\0\0]\x94\x8c\x03a.b\x94K\x01K\x02\x86\x94\x86\x94a.",
            b"](U\x03a.bK\x01M\x02\0\x86\x86e.what follows is ignored",
            b"].",
        ] {
            assert!(check(frame), "{}", frame.escape_ascii());
        }
        for other in
            [&b")."[..], b"](e.", b"](U\x01aK\x01K\x02\x86\x86", b"]U\x01aK\x01K\x02\x86\x86."]
        {
            assert!(!check(other), "{}", other.escape_ascii());
        }
    }
}
