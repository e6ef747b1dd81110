//! Lines over TCP.
//!
//! A connection holds no buffer of its own while it is between lines: it reads into the core's
//! shared buffer, and keeps only the beginning of a line whose end has not come.

use crate::limits::{LINE_BYTES_MAX, READ_BYTES};
use crate::metric::point::Received;
use crate::shard::memory::Share;
use crate::shard::{Intake, Shard};
use crate::stats::{DropReason, Receiver};
use crate::sys::executor::{yield_if_needed, yield_now};
use crate::sys::socket::Stream;
use crate::tasks::core::{ConnectionOptions, Core};
use crate::tasks::links;
use crate::tasks::read_deadline::ReadDeadline;
use crate::wire::line::{LineError, Lines, parse};

/// Receives lines until the connection ends.
pub async fn receive(core: &Core, mut stream: Stream, options: ConnectionOptions) {
    let mut carry = Vec::new();
    let mut deadline = ReadDeadline::new(options);
    loop {
        let stalled = core.wait_for_room().await;
        let timeout = deadline.timeout(stalled);
        match core.read(&mut stream, timeout).await {
            Ok(0) => break,
            Ok(_) if core.is_closed() => break,
            Ok(count) => {
                if take(core, &mut carry, count).is_err() {
                    break;
                }
                deadline.unfinished(!carry.is_empty(), carry.len() <= count);
                links::send_soon(core);
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
        if !carry.is_empty() {
            shard.refuse(Receiver::Tcp, DropReason::LineUnfinished);
        }
        shard.account_connection(Share::Lines, carry.len(), 0);
    });
    core.memory_freed();
}

/// Takes what a read brought. On an error the caller closes the connection.
fn take(core: &Core, carry: &mut Vec<u8>, count: usize) -> Result<(), LineTooLong> {
    let buffer = core.read_buffer.borrow();
    let carried = carry.len();
    core.with_shard(|shard| {
        let taken = take_lines(shard, carry, &buffer[..count]);
        shard.account_connection(Share::Lines, carried, carry.len());
        if carry.len() > carried && shard.has_too_much_unfinished(Share::Lines) {
            shard.refuse(Receiver::Tcp, DropReason::LineNoMemory);
            shard.account_connection(Share::Lines, carry.len(), 0);
            *carry = Vec::new();
            return Err(LineTooLong);
        }
        taken
    })
}

/// A line is longer than allowed, or than memory allows: the caller closes its connection.
#[derive(Debug, PartialEq, Eq)]
pub struct LineTooLong;

/// Takes all complete lines of `carry` followed by `bytes`; the unfinished rest is left in
/// `carry`.
///
/// # Errors
/// A line is too long; those before it are taken.
pub fn take_lines(shard: &mut Shard, carry: &mut Vec<u8>, bytes: &[u8]) -> Result<(), LineTooLong> {
    let mut bytes = bytes;
    if !carry.is_empty() {
        let end = memchr::memchr(b'\n', bytes);
        carry.extend_from_slice(&bytes[..end.unwrap_or(bytes.len())]);
        let Some(end) = end else { return check_unfinished(shard, carry) };
        let line = carry.strip_suffix(b"\r").unwrap_or(carry);
        let taken = take_line(&mut shard.intake(Receiver::Tcp), parse(line));
        carry.clear();
        taken?;
        carry.shrink_to(0);
        bytes = &bytes[end + 1..];
    }
    let mut lines = Lines::new(bytes);
    let mut intake = shard.intake(Receiver::Tcp);
    for line in &mut lines {
        take_line(&mut intake, line)?;
    }
    drop(intake);
    carry.extend_from_slice(&bytes[lines.consumed_bytes()..]);
    check_unfinished(shard, carry)
}

fn check_unfinished(shard: &mut Shard, carry: &mut Vec<u8>) -> Result<(), LineTooLong> {
    if carry.len() <= LINE_BYTES_MAX {
        return Ok(());
    }
    carry.clear();
    shard.refuse(Receiver::Tcp, DropReason::LineTooLong);
    Err(LineTooLong)
}

fn take_line<'a>(
    intake: &mut Intake<'_, 'a>,
    line: Result<Received<'a>, LineError>,
) -> Result<(), LineTooLong> {
    match line {
        Ok(received) => intake.take(received),
        Err(LineError::TooLong) => {
            intake.refuse(DropReason::LineTooLong);
            return Err(LineTooLong);
        }
        Err(error) => refuse_line(intake, error),
    }
    Ok(())
}

/// Counts a bad line; an empty one is nothing.
pub(crate) fn refuse_line(intake: &mut Intake<'_, '_>, error: LineError) {
    let reason = match error {
        LineError::Empty => return,
        LineError::FieldCount => DropReason::LineFields,
        LineError::BadValue => DropReason::BadValue,
        LineError::BadTimestamp => DropReason::BadTimestamp,
        LineError::TooLong => DropReason::LineTooLong,
        LineError::CutShort => DropReason::DatagramCut,
    };
    intake.refuse(reason);
}
