//! Lines in datagrams.
//!
//! Datagrams cannot be held back, so when the cache or a link is full their points are counted
//! and dropped. What the kernel drops before that shows in the socket's own counter.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::metric::point::Received;
use crate::shard::{Intake, Shard};
use crate::stats::{DropReason, Receiver};
use crate::sys::datagrams::{RECEIVED_MAX, Received as Datagrams};
use crate::sys::executor::{Task, sleep, spawn_bulk, yield_if_needed};
use crate::sys::socket::Stream;
use crate::tasks::core::Core;
use crate::tasks::links;
use crate::tasks::receive_tcp::refuse_line;
use crate::wire::line::{LineError, Lines, parse_unterminated};

/// Calls, each for many datagrams, before other tasks have their turn.
const BURST: usize = 4;

/// Time for what the kernel holds at the stop.
const REST_TIME: Duration = Duration::from_millis(200);

/// Pause after a read that failed.
const ERROR_PAUSE: Duration = Duration::from_millis(100);

/// Starts receiving datagrams. The task is cancelled at the stop, after which [`take_rest`] takes
/// what the kernel still holds.
pub fn start(core: &Rc<Core>, socket: Rc<RefCell<Stream>>) -> Task<()> {
    let core = Rc::clone(core);
    core.datagrams.set(Some(socket.borrow().descriptor()));
    spawn_bulk(async move {
        let mut received = Datagrams::default();
        loop {
            let Ok(count) = wait(&core, &socket).await else {
                // An error that stays would otherwise take a whole core.
                sleep(ERROR_PAUSE).await;
                continue;
            };
            core.with_shard(|shard| {
                take_datagrams(shard, std::iter::once(&core.read_buffer.borrow()[..count]));
            });
            take_more(&core, &socket.borrow(), &mut received, BURST);
            links::send_soon(&core);
            yield_if_needed().await;
        }
    })
}

/// Takes the datagrams that the kernel still holds, for a limited time: senders may go on.
pub fn take_rest(core: &Core, socket: &Stream) {
    let until = Instant::now() + REST_TIME;
    let mut received = Datagrams::default();
    while take_more(core, socket, &mut received, BURST) && Instant::now() < until {}
}

#[expect(clippy::await_holding_refcell_ref, reason = "no other task borrows the socket meanwhile")]
async fn wait(core: &Core, socket: &RefCell<Stream>) -> std::io::Result<usize> {
    socket.borrow_mut().read_into(&core.read_buffer, None).await
}

/// Takes the datagrams of a limited number of calls; false when there are no more.
fn take_more(core: &Core, socket: &Stream, received: &mut Datagrams, calls_max: usize) -> bool {
    for _ in 0..calls_max {
        let count = received.receive(socket.descriptor()).unwrap_or(0);
        if count > 0 {
            core.with_shard(|shard| take_datagrams(shard, received.iter()));
        }
        if count < RECEIVED_MAX {
            return false;
        }
    }
    true
}

/// Takes the lines of datagrams, none of which has been cut by us. If the shard or a link is full
/// the points of all of them are dropped.
pub fn take_datagrams<'a>(shard: &mut Shard, datagrams: impl Iterator<Item = &'a [u8]>) {
    let is_full = shard.must_wait();
    let mut intake = shard.intake(Receiver::Udp);
    for datagram in datagrams {
        let mut lines = Lines::new(datagram);
        for line in &mut lines {
            take_line(&mut intake, line, is_full);
        }
        let rest = &datagram[lines.consumed_bytes()..];
        if !rest.is_empty() {
            take_line(&mut intake, parse_unterminated(rest, false), is_full);
        }
    }
}

fn take_line<'a>(
    intake: &mut Intake<'_, 'a>,
    line: Result<Received<'a>, LineError>,
    is_full: bool,
) {
    match line {
        Ok(_) if is_full => intake.refuse(DropReason::CacheFull),
        Ok(received) => intake.take(received),
        Err(error) => refuse_line(intake, error),
    }
}
