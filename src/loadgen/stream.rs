//! The bytes of one agent's round, prepared once; each round only changes their digits.
//!
//! ```text
//! line     name SP 123.45 SP 1700000000 LF          value and timestamp have a fixed width
//! pickle   length u32 | 80 02 ] q 0 ( item* e .     carbon-relay's frames, byte for byte:
//! item     X length name q n | G timestamp G value | 86 q n+1 | 86 q n+2
//! ```
//! A *message* is what must not be torn apart: a few lines, one datagram, or one pickle frame.
//!
//! Cost of a line in a later round: 17 bytes written at a known offset, one multiplication and two
//! table look-ups for the value: some 3 ns, while the kernel takes 15 to 50 ns to send it.

use std::ops::Range;

use crate::loadgen::plan::{Plan, cents};

/// How points become bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Encoding {
    /// Plaintext lines.
    Lines,
    /// Pickle frames.
    Pickles,
}

/// Most points in one pickle frame: what Python's pickler puts between two marks.
pub(super) const PICKLE_POINTS_MAX: u32 = 1_000;

/// Bytes of `123.45 1700000000`.
const TAIL_BYTES: usize = 17;

/// Bytes of a timestamp and a value in a pickle, from the first digit to the last: G stands
/// between them.
const FLOATS_BYTES: usize = 17;

/// One agent's round.
#[derive(Debug)]
pub(super) struct Stream {
    encoding: Encoding,
    agent: u32,
    per_message: u32,
    slot_count: u32,
    bytes: Vec<u8>,
    /// Where the numbers of each slot begin.
    numbers: Vec<u32>,
    /// Where the name of each slot begins; only with churn.
    names: Vec<u32>,
    /// Where each message ends.
    message_ends: Vec<usize>,
    scratch: Vec<u8>,
}

/// A round of one agent has more than 4 GiB.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct TooLarge;

impl Stream {
    /// Prepares the messages of one agent, `per_message` points in each but the last.
    pub(super) fn new(
        plan: &Plan,
        agent: u32,
        encoding: Encoding,
        per_message: u32,
    ) -> Result<Stream, TooLarge> {
        let mut stream = Stream {
            encoding,
            agent,
            per_message,
            slot_count: plan.slots,
            bytes: Vec::new(),
            numbers: Vec::new(),
            names: Vec::new(),
            message_ends: Vec::new(),
            scratch: Vec::new(),
        };
        let mut first = 0;
        while first < plan.slots {
            let slots = first..plan.slots.min(first.saturating_add(per_message));
            match encoding {
                Encoding::Lines => stream.add_lines(plan, slots.clone())?,
                Encoding::Pickles => stream.add_frame(plan, slots.clone())?,
            }
            stream.message_ends.push(stream.bytes.len());
            first = slots.end;
        }
        Ok(stream)
    }

    /// Number of messages.
    pub(super) fn message_count(&self) -> usize {
        self.message_ends.len()
    }

    /// Messages from `first` on with about this total length; at least one.
    pub(super) fn messages(&self, first: usize, bytes: usize) -> Range<usize> {
        let until = self.start(first) + bytes;
        let end = self.message_ends.partition_point(|&end| end <= until);
        first..end.max(first + 1).min(self.message_count())
    }

    /// The slots whose points are in these messages.
    pub(super) fn slots(&self, messages: &Range<usize>) -> Range<u32> {
        self.first_slot(messages.start)..self.first_slot(messages.end)
    }

    /// The bytes of these messages.
    pub(super) fn bytes(&self, messages: &Range<usize>) -> &[u8] {
        &self.bytes[self.start(messages.start)..self.start(messages.end)]
    }

    /// How many of these messages are complete in the first `sent` bytes of them.
    pub(super) fn complete(&self, messages: &Range<usize>, sent: usize) -> usize {
        let until = self.start(messages.start) + sent;
        self.message_ends[messages.clone()].partition_point(|&end| end <= until)
    }

    /// Brings these messages to a round.
    pub(super) fn set_round(
        &mut self,
        plan: &Plan,
        messages: &Range<usize>,
        round: u32,
        timestamp_s: u32,
    ) {
        let slots = self.slots(messages);
        if !self.names.is_empty() {
            self.set_names(plan, slots.clone(), round);
        }
        match self.encoding {
            Encoding::Lines => self.set_lines(plan, slots, round, timestamp_s),
            Encoding::Pickles => self.set_pickles(plan, slots, round, timestamp_s),
        }
    }

    fn start(&self, message: usize) -> usize {
        if message == 0 { 0 } else { self.message_ends[message - 1] }
    }

    fn first_slot(&self, message: usize) -> u32 {
        let before = u64::try_from(message).unwrap_or(u64::MAX);
        let slot = before.saturating_mul(u64::from(self.per_message));
        u32::try_from(slot).unwrap_or(u32::MAX).min(self.slot_count)
    }

    fn add_lines(&mut self, plan: &Plan, slots: Range<u32>) -> Result<(), TooLarge> {
        for slot in slots {
            self.add_name(plan, slot)?;
            self.bytes.push(b' ');
            self.mark_numbers()?;
            self.bytes.extend_from_slice(b"000.00 0000000000\n");
        }
        Ok(())
    }

    fn add_frame(&mut self, plan: &Plan, slots: Range<u32>) -> Result<(), TooLarge> {
        debug_assert!(slots.len() <= 1_000, "{slots:?}");
        let head = self.bytes.len();
        self.bytes.extend_from_slice(b"\0\0\0\0\x80\x02]q\x00");
        let is_single = slots.len() == 1;
        if !is_single {
            self.bytes.push(b'(');
        }
        let mut memo = 1;
        for slot in slots {
            let mut name = std::mem::take(&mut self.scratch);
            name.clear();
            plan.write_name(self.agent, u64::from(slot), &mut name);
            let name_bytes = u32::try_from(name.len()).map_err(|_| TooLarge)?;
            self.scratch = name;
            self.bytes.push(b'X');
            self.bytes.extend_from_slice(&name_bytes.to_le_bytes());
            self.add_name(plan, slot)?;
            self.put_memo(&mut memo);
            self.bytes.push(b'G');
            self.mark_numbers()?;
            self.bytes.extend_from_slice(b"\0\0\0\0\0\0\0\0G\0\0\0\0\0\0\0\0\x86");
            self.put_memo(&mut memo);
            self.bytes.push(b'\x86');
            self.put_memo(&mut memo);
        }
        self.bytes.extend_from_slice(if is_single { b"a." } else { b"e." });
        let body = u32::try_from(self.bytes.len() - head - 4).map_err(|_| TooLarge)?;
        self.bytes[head..head + 4].copy_from_slice(&body.to_be_bytes());
        Ok(())
    }

    /// `BINPUT` or `LONG_BINPUT`: Python remembers every string, list and tuple.
    fn put_memo(&mut self, memo: &mut u32) {
        match u8::try_from(*memo) {
            Ok(short) => self.bytes.extend_from_slice(&[b'q', short]),
            Err(_) => {
                self.bytes.push(b'r');
                self.bytes.extend_from_slice(&memo.to_le_bytes());
            }
        }
        *memo += 1;
    }

    fn add_name(&mut self, plan: &Plan, slot: u32) -> Result<(), TooLarge> {
        if plan.churn > 0 {
            self.names.push(u32::try_from(self.bytes.len()).map_err(|_| TooLarge)?);
        }
        plan.write_name(self.agent, u64::from(slot), &mut self.bytes);
        Ok(())
    }

    fn mark_numbers(&mut self) -> Result<(), TooLarge> {
        self.numbers.push(u32::try_from(self.bytes.len()).map_err(|_| TooLarge)?);
        Ok(())
    }

    fn set_names(&mut self, plan: &Plan, slots: Range<u32>, round: u32) {
        for slot in slots {
            let metric = plan.metric(slot, round);
            if round == 0 || metric == plan.metric(slot, round - 1) {
                continue;
            }
            self.scratch.clear();
            plan.write_name(self.agent, metric, &mut self.scratch);
            let start = self.names[slot as usize] as usize;
            self.bytes[start..start + self.scratch.len()].copy_from_slice(&self.scratch);
        }
    }

    fn set_lines(&mut self, plan: &Plan, slots: Range<u32>, round: u32, timestamp_s: u32) {
        let mut tail = *b"000.00 0000000000";
        tail[7..].copy_from_slice(&digits(timestamp_s));
        let numbers = &self.numbers[slots.start as usize..slots.end as usize];
        for (slot, &start) in slots.zip(numbers) {
            let cents = cents(self.agent, plan.metric(slot, round), round);
            let (whole, rest) = (cents / 100 % 1_000, cents % 100);
            tail[..3].copy_from_slice(&THREE_DIGITS[whole as usize]);
            tail[4..6].copy_from_slice(&THREE_DIGITS[rest as usize][1..]);
            self.bytes[start as usize..][..TAIL_BYTES].copy_from_slice(&tail);
        }
    }

    fn set_pickles(&mut self, plan: &Plan, slots: Range<u32>, round: u32, timestamp_s: u32) {
        let timestamp = f64::from(timestamp_s).to_be_bytes();
        let numbers = &self.numbers[slots.start as usize..slots.end as usize];
        for (slot, &start) in slots.zip(numbers) {
            let cents = cents(self.agent, plan.metric(slot, round), round);
            let floats = &mut self.bytes[start as usize..][..FLOATS_BYTES];
            floats[..8].copy_from_slice(&timestamp);
            floats[9..].copy_from_slice(&(f64::from(cents) / 100.0).to_be_bytes());
        }
    }
}

/// 000 to 999.
const THREE_DIGITS: [[u8; 3]; 1_000] = {
    let mut table = [*b"000"; 1_000];
    let mut number = 1;
    while number < 1_000 {
        let mut digits = table[number - 1];
        let mut place = 2;
        while digits[place] == b'9' {
            digits[place] = b'0';
            place -= 1;
        }
        digits[place] += 1;
        table[number] = digits;
        number += 1;
    }
    table
};

/// A timestamp in ten digits.
fn digits(timestamp_s: u32) -> [u8; 10] {
    let mut digits = [b'0'; 10];
    let text = timestamp_s.to_string();
    digits[10 - text.len()..].copy_from_slice(text.as_bytes());
    digits
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::loadgen::plan::tests::plan;
    use crate::loadgen::plan::value;
    use crate::wire::line;
    use crate::wire::pickle::PickleDecoder;

    type Sent = (String, u32, f64);

    /// What the plan says that a slot sends.
    fn wanted(plan: &Plan, slots: Range<u32>, round: u32) -> Vec<Sent> {
        let point = |slot| {
            let metric = plan.metric(slot, round);
            let mut name = Vec::new();
            plan.write_name(2, metric, &mut name);
            let name = String::from_utf8(name).expect("a name of this test is ASCII");
            (name, plan.timestamp_s(round), value(2, metric, round))
        };
        slots.map(point).collect()
    }

    /// The points in some bytes, read by the node's own parsers.
    fn parsed(encoding: Encoding, bytes: &[u8]) -> Vec<Sent> {
        let sent = |name: &[u8], timestamp: f64, value: f64| {
            let name = String::from_utf8(name.to_vec()).expect("a name of this test is ASCII");
            (name, timestamp.to_string().parse().expect("a whole timestamp"), value)
        };
        if encoding == Encoding::Lines {
            let mut lines = line::Lines::new(bytes);
            let points = lines
                .by_ref()
                .map(|line| line.expect("a line"))
                .map(|line| sent(line.name, line.timestamp, line.value))
                .collect();
            assert_eq!(lines.consumed_bytes(), bytes.len(), "bytes behind the last line");
            return points;
        }
        let mut points = Vec::new();
        let mut rest = bytes;
        while let Some((head, behind)) = rest.split_first_chunk::<4>() {
            let (body, behind) = behind.split_at(u32::from_be_bytes(*head) as usize);
            let mut decoder = PickleDecoder::new();
            for point in decoder.points(body).expect("a frame") {
                let point = point.expect("a point");
                points.push(sent(point.name, point.timestamp, point.value));
            }
            rest = behind;
        }
        points
    }

    #[test]
    fn bytes_are_the_points_of_the_plan() {
        for encoding in [Encoding::Lines, Encoding::Pickles] {
            for (slots, churn, per_message) in
                [(1, 0, 25), (100, 0, 25), (101, 0, 25), (101, 7, 25), (600, 0, 500), (3, 3, 1)]
            {
                let plan = plan(slots, churn);
                let mut stream = Stream::new(&plan, 2, encoding, per_message).expect("small");
                for round in [0, 1, 2, 3, 150] {
                    let all = 0..stream.message_count();
                    stream.set_round(&plan, &all, round, plan.timestamp_s(round));
                    let got = parsed(encoding, stream.bytes(&all));
                    // Names change from round to round, so rounds that were left out are missing.
                    if round < 4 || churn == 0 {
                        assert_eq!(got, wanted(&plan, 0..slots, round), "{slots} {churn} {round}");
                    }
                }
            }
        }
    }

    #[test]
    fn messages_are_whole_and_in_order() {
        let plan = plan(101, 0);
        let stream = Stream::new(&plan, 2, Encoding::Lines, 25).expect("small");
        assert_eq!(stream.message_count(), 5);
        assert_eq!(stream.messages(0, 1), 0..1);
        let two = stream.bytes(&(0..2)).len();
        assert_eq!(stream.messages(0, two), 0..2);
        assert_eq!(stream.messages(0, two - 1), 0..1);
        assert_eq!(stream.messages(3, usize::MAX >> 1), 3..5);
        assert_eq!(stream.slots(&(4..5)), 100..101);
        let last_two: Vec<Sent> = parsed(Encoding::Lines, stream.bytes(&(3..5)));
        assert_eq!(last_two.len(), 26);
        assert_eq!(stream.complete(&(0..5), two), 2);
        assert_eq!(stream.complete(&(0..5), two + 1), 2);
        assert_eq!(stream.complete(&(1..5), two - 1), 1);
    }

    #[test]
    fn a_default_line_has_56_bytes() {
        let plan = Plan { prefix: "carbyne.loadgen".to_owned(), ..plan(20_000, 0) };
        let stream = Stream::new(&plan, 2, Encoding::Lines, 1).expect("small");
        assert_eq!(stream.bytes(&(12_345..12_346)).len(), 56);
    }
}
