//! Points come in: checked, named canonically, and put where they belong.

use crate::metric::batch;
use crate::metric::name::{NameError, canonical};
use crate::metric::point::{Point, PointError, admit};
use crate::shard::Shard;
use crate::shard::route::owner;
use crate::stats::{DropReason, Receiver};

impl Shard {
    /// Takes one point from a receiver: into this shard's cache, or into the batch for its owner.
    /// A bad one is counted under its reason. Never waits: receivers ask [`Shard::must_wait`]
    /// before they read.
    pub fn ingest(&mut self, receiver: Receiver, name: &[u8], timestamp: f64, value: f64) {
        self.counters.received[receiver.index()] += 1;
        let point = match admit(timestamp, value, self.now_s, self.options.future_s_max) {
            Ok(point) => point,
            Err(error) => return self.refuse_received(receiver, reason_of_point(error)),
        };
        let mut scratch = std::mem::take(&mut self.name_scratch);
        match canonical(name, &mut scratch) {
            Ok(name) => self.route(name, point),
            Err(error) => self.refuse_received(receiver, reason_of_name(error)),
        }
        self.name_scratch = scratch;
    }

    /// Counts a point or message that never became one.
    pub fn refuse(&mut self, receiver: Receiver, reason: DropReason) {
        self.counters.received[receiver.index()] += 1;
        self.refuse_received(receiver, reason);
    }

    /// Takes another shard's batch of points for metrics of this shard.
    pub fn accept_batch(&mut self, batch: &[u8]) {
        for (name, point) in batch::records(batch) {
            debug_assert_eq!(owner(name, self.options.shard_count), self.options.id);
            self.accept(name, point);
        }
    }

    fn refuse_received(&mut self, receiver: Receiver, reason: DropReason) {
        self.counters.refused[receiver.index()] += 1;
        self.counters.drop_points(reason, 1);
    }

    fn route(&mut self, name: &[u8], point: Point) {
        if self.options.shard_count > 1 {
            let owner = owner(name, self.options.shard_count);
            if owner != self.options.id {
                return self.outbox.push(owner, name, point);
            }
        }
        self.accept(name, point);
    }

    fn accept(&mut self, name: &[u8], point: Point) {
        let inserted = self.cache.insert(name, point);
        if inserted.is_new {
            self.files.begin(inserted.metric);
        }
        self.counters.accepted += 1;
        self.counters.replaced += u64::from(inserted.replaced_count);
    }
}

fn reason_of_point(error: PointError) -> DropReason {
    match error {
        PointError::ValueNan => DropReason::ValueNan,
        PointError::TimestampNotFinite => DropReason::TimestampNotFinite,
        PointError::TimestampNegative => DropReason::TimestampNegative,
        PointError::TimestampFuture => DropReason::TimestampFuture,
    }
}

fn reason_of_name(error: NameError) -> DropReason {
    match error {
        NameError::Empty => DropReason::NameEmpty,
        NameError::TooLong => DropReason::NameTooLong,
        NameError::ComponentTooLong => DropReason::NameComponent,
        NameError::TooDeep => DropReason::NameTooDeep,
        NameError::ControlCharacter => DropReason::NameControl,
        NameError::InvalidUtf8 => DropReason::NameUtf8,
        NameError::Reserved => DropReason::NameReserved,
    }
}
