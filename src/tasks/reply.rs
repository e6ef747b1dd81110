//! Writing a reply to a carbonlink client, within bounded time.
//!
//! A client that does not read is closed: after half a minute, or after a second when others wait
//! for the memory that its answer holds. One that reads a little now and then is closed too when
//! its answer takes minutes.

use std::io;
use std::time::{Duration, Instant};

use crate::limits::{REPLY_PIECE_BYTES, REPLY_STALL_CONTENDED, REPLY_STALL_MAX, REPLY_TIME_MAX};
use crate::metric::point::Point;
use crate::sys::executor::take_turn;
use crate::sys::socket::Stream;
use crate::tasks::core::{Core, Stage};
use crate::wire::carbonlink::{POINT_BYTES_MAX, Reply};

/// The caller closes the connection: the client broke the protocol, does not read, or is gone.
#[derive(Debug)]
pub(crate) struct Closed;

/// One reply on its way to the client.
pub(crate) struct Writing<'c> {
    core: &'c Core,
    stream: &'c mut Stream,
    began: Instant,
}

impl<'c> Writing<'c> {
    pub(crate) fn begin(core: &'c Core, stream: &'c mut Stream) -> Writing<'c> {
        Writing { core, stream, began: Instant::now() }
    }

    /// Writes all of it.
    pub(crate) async fn all(&mut self, mut bytes: &[u8]) -> Result<(), Closed> {
        let mut took = Instant::now();
        while !bytes.is_empty() {
            match self.stream.write(bytes, REPLY_STALL_CONTENDED).await {
                Ok(0) => return Err(Closed),
                Ok(count) => {
                    bytes = &bytes[count..];
                    took = Instant::now();
                }
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(_) => return Err(Closed),
            }
            if !bytes.is_empty() && self.is_over(took.elapsed()) {
                self.core.with_shard(|shard| shard.counters.slow_readers += 1);
                return Err(Closed);
            }
        }
        Ok(())
    }

    /// Whether a client that has read nothing for this long is out of time.
    fn is_over(&self, stalled: Duration) -> bool {
        let is_contended = self.core.answers_waiting.get() > 0;
        let stops = self.core.stage.get() > Stage::Running;
        let stall_max = if is_contended || stops { REPLY_STALL_CONTENDED } else { REPLY_STALL_MAX };
        stalled >= stall_max || self.began.elapsed() >= REPLY_TIME_MAX
    }

    /// Writes points of the list that the reply has begun, piece by piece.
    pub(crate) async fn points(
        &mut self,
        reply: &mut Reply,
        points: impl Iterator<Item = Point>,
    ) -> Result<(), Closed> {
        for point in points {
            if reply.written().len() + POINT_BYTES_MAX > REPLY_PIECE_BYTES {
                self.piece(reply).await?;
            }
            reply.point(point);
        }
        Ok(())
    }

    /// Writes what there is of the reply if it has come to a piece.
    pub(crate) async fn piece_if_full(&mut self, reply: &mut Reply) -> Result<(), Closed> {
        if reply.written().len() >= REPLY_PIECE_BYTES / 2 {
            self.piece(reply).await?;
        }
        Ok(())
    }

    async fn piece(&mut self, reply: &mut Reply) -> Result<(), Closed> {
        self.all(reply.written()).await?;
        reply.taken();
        take_turn().await;
        Ok(())
    }
}
