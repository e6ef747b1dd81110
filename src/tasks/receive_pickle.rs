//! Pickled batches over TCP.
//!
//! A message that lies whole in the core's read buffer is decoded there. Only the beginning of a
//! message whose end has not come is kept with its connection; its memory is part of the budget.

use crate::limits::READ_BYTES;
use crate::shard::memory::Share;
use crate::shard::{Intake, Shard};
use crate::stats::{DropReason, Receiver};
use crate::sys::executor::{yield_if_needed, yield_now};
use crate::sys::socket::Stream;
use crate::tasks::core::{ConnectionOptions, Core};
use crate::tasks::links;
use crate::tasks::read_deadline::ReadDeadline;
use crate::wire::pickle::{HEADER_BYTES, ItemError, PickleDecoder, Points, frame_bytes};

/// Points of a large message taken before other tasks have their turn and room is looked for.
const SLICE_POINTS: usize = 512;

/// Receives messages until the connection ends.
pub async fn receive(core: &Core, mut stream: Stream, options: ConnectionOptions) {
    let mut carry = Carry::default();
    let mut deadline = ReadDeadline::new(options);
    loop {
        let stalled = core.wait_for_room().await;
        match core.read(&mut stream, deadline.timeout(stalled)).await {
            Ok(0) => break,
            Ok(_) if core.is_closed() => break,
            Ok(count) => {
                let taken = take(core, &mut carry, count, options).await;
                let accounted = account(core, &mut carry);
                let taken = taken.map_err(|MessageTooLong| DropReason::PickleMessage);
                if let Err(reason) = taken.and(accounted) {
                    core.with_shard(|shard| shard.refuse(Receiver::Pickle, reason));
                    carry.bytes = Vec::new();
                    break;
                }
                deadline.unfinished(!carry.bytes.is_empty(), carry.bytes.len() <= count);
                if count == READ_BYTES {
                    // This connection has more to say; the others' turn comes first.
                    yield_now().await;
                }
            }
            Err(error) => {
                core.count_if_timeout(&error);
                break;
            }
        }
        yield_if_needed().await;
    }
    core.with_shard(|shard| {
        if !carry.bytes.is_empty() {
            shard.refuse(Receiver::Pickle, DropReason::PickleMessage);
        }
        shard.account_connection(Share::Pickles, carry.accounted_bytes, 0);
    });
    core.memory_freed();
}

/// Takes everything a read brought. On an error the caller closes the connection.
async fn take(
    core: &Core,
    carry: &mut Carry,
    count: usize,
    options: ConnectionOptions,
) -> Result<(), MessageTooLong> {
    let bytes_max = options.message_bytes_max;
    let mut rest = take_messages(core, carry, &core.read_buffer.borrow()[..count], bytes_max)?;
    while let Some(behind) = rest.take() {
        take_large(core, carry).await;
        carry.bytes = Vec::new();
        if core.is_closed() {
            return Ok(());
        }
        rest = take_messages(core, carry, &behind, bytes_max)?;
    }
    links::send_soon(core);
    Ok(())
}

/// Accounts for a connection's unfinished message; an error when there is no memory for it.
fn account(core: &Core, carry: &mut Carry) -> Result<(), DropReason> {
    let (before, after) = (carry.accounted_bytes, carry.bytes.len());
    carry.accounted_bytes = after;
    core.with_shard(|shard| {
        shard.account_connection(Share::Pickles, before, after);
        let is_too_much = after > before && shard.has_too_much_unfinished(Share::Pickles);
        if is_too_much { Err(DropReason::PickleNoMemory) } else { Ok(()) }
    })
}

/// The beginning of one message, with its header: never more than that message.
#[derive(Debug, Default)]
pub(crate) struct Carry {
    pub(crate) bytes: Vec<u8>,
    /// What the shard was told of it.
    accounted_bytes: usize,
}

/// A message is longer than allowed: the caller closes its connection.
#[derive(Debug)]
pub(crate) struct MessageTooLong;

impl Carry {
    /// Takes from `input` what is missing of the message; the rest of `input` stays.
    pub(crate) fn fill(
        &mut self,
        input: &mut &[u8],
        bytes_max: usize,
    ) -> Result<(), MessageTooLong> {
        while !input.is_empty() {
            let missing = self.missing();
            if missing == 0 {
                return Ok(());
            }
            let (now, later) = input.split_at(missing.min(input.len()));
            // Memory is taken for what has come, not for what a header promises.
            if self.bytes.len() + now.len() >= missing / 4 {
                self.bytes.reserve_exact(missing);
            }
            self.bytes.extend_from_slice(now);
            *input = later;
            check_length(&self.bytes, bytes_max)?;
        }
        Ok(())
    }

    /// Whether a whole message is here.
    pub(crate) fn is_complete(&self) -> bool {
        self.bytes.len() >= HEADER_BYTES && self.missing() == 0
    }

    /// The message without its header.
    pub(crate) fn body(&self) -> &[u8] {
        &self.bytes[HEADER_BYTES..]
    }

    fn missing(&self) -> usize {
        match message_bytes(&self.bytes) {
            Some(bytes) => bytes - self.bytes.len(),
            None => HEADER_BYTES - self.bytes.len(),
        }
    }
}

/// Length of the message that begins here, with its header; `None` before the header is whole.
pub(crate) fn message_bytes(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER_BYTES>()?;
    Some(HEADER_BYTES + usize::try_from(frame_bytes(*header)).expect("usize has 64 bits"))
}

pub(crate) fn check_length(bytes: &[u8], bytes_max: usize) -> Result<(), MessageTooLong> {
    match message_bytes(bytes) {
        Some(bytes) if bytes - HEADER_BYTES > bytes_max => Err(MessageTooLong),
        _ => Ok(()),
    }
}

/// Takes the messages that `carry` and then `input` hold; the beginning of the next one is carried.
/// Stops when `carry` holds a whole large message, and then returns what is behind it.
fn take_messages(
    core: &Core,
    carry: &mut Carry,
    mut input: &[u8],
    bytes_max: usize,
) -> Result<Option<Vec<u8>>, MessageTooLong> {
    core.with_shard(|shard| {
        let mut decoder = core.decoder.borrow_mut();
        if !carry.bytes.is_empty() {
            carry.fill(&mut input, bytes_max)?;
            if !carry.is_complete() {
                return Ok(None);
            }
            if is_large(carry) {
                return Ok(Some(input.to_vec()));
            }
            take_message(shard, &mut decoder, carry.body());
            carry.bytes = Vec::new();
        }
        take_whole(shard, &mut decoder, carry, &mut input, bytes_max)?;
        Ok(None)
    })
}

/// Takes the messages that lie whole in `input`, and carries the beginning of the next one.
fn take_whole(
    shard: &mut Shard,
    decoder: &mut PickleDecoder,
    carry: &mut Carry,
    input: &mut &[u8],
    bytes_max: usize,
) -> Result<(), MessageTooLong> {
    loop {
        check_length(input, bytes_max)?;
        match message_bytes(input) {
            Some(bytes) if bytes <= input.len() => {
                let (message, rest) = input.split_at(bytes);
                take_message(shard, decoder, &message[HEADER_BYTES..]);
                *input = rest;
            }
            _ => return carry.fill(input, bytes_max),
        }
    }
}

/// Messages beyond this are taken in slices.
fn is_large(carry: &Carry) -> bool {
    carry.bytes.len() > READ_BYTES
}

/// Takes the points of one message.
pub fn take_message(shard: &mut Shard, decoder: &mut PickleDecoder, body: &[u8]) {
    if body.is_empty() {
        return;
    }
    match decoder.points(body) {
        Ok(mut points) => {
            let mut intake = shard.intake(Receiver::Pickle);
            while take_point(&mut intake, &mut points) {}
        }
        Err(_) => shard.refuse(Receiver::Pickle, DropReason::PickleMessage),
    }
}

/// Takes one point; false at the end.
fn take_point<'a>(intake: &mut Intake<'_, 'a>, points: &mut Points<'a>) -> bool {
    match points.next() {
        None => return false,
        Some(Ok(received)) => intake.take(received),
        Some(Err(error)) => intake.refuse(reason_of(error)),
    }
    true
}

fn reason_of(error: ItemError) -> DropReason {
    match error {
        ItemError::Timestamp => DropReason::BadTimestamp,
        ItemError::Value => DropReason::BadValue,
        ItemError::Shape | ItemError::Name | ItemError::Repeated => DropReason::PickleItem,
    }
}

/// Takes a message larger than the read buffer in slices, waiting for room between them. One at a
/// time: decoded it takes up to three times its length.
async fn take_large(core: &Core, carry: &Carry) {
    core.room.until(|| core.is_closed() || !core.is_decoding.get()).await;
    core.is_decoding.set(true);
    take_slices(core, carry).await;
    core.is_decoding.set(false);
    core.room.notify();
}

async fn take_slices(core: &Core, carry: &Carry) {
    let mut decoder = PickleDecoder::new();
    match decoder.points(carry.body()) {
        Err(_) => {
            core.with_shard(|shard| shard.refuse(Receiver::Pickle, DropReason::PickleMessage));
        }
        Ok(mut points) => loop {
            let more = core.with_shard(|shard| {
                let mut intake = shard.intake(Receiver::Pickle);
                (0..SLICE_POINTS).all(|_| take_point(&mut intake, &mut points))
            });
            links::send_soon(core);
            if !more {
                break;
            }
            core.wait_for_room().await;
            yield_if_needed().await;
            if core.is_closed() {
                break;
            }
        },
    }
}
