//! Points come in: checked, named canonically, and put where they belong.

use crate::metric::batch;
use crate::metric::name::{NameError, canonical, file_path};
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
        match canonical(name, &mut scratch).and_then(|name| self.check_path(name)) {
            Ok(name) => self.route(name, point),
            Err(error) => self.refuse_received(receiver, reason_of_name(error)),
        }
        self.name_scratch = scratch;
    }

    /// Takes a point of the node's own metrics: into this shard's cache, or into the batch of its
    /// owner among `batches`, one for each shard.
    pub fn ingest_own(&mut self, name: &[u8], value: f64, batches: &mut [Vec<u8>]) {
        self.counters.received[Receiver::Own.index()] += 1;
        let point = Point { timestamp_s: self.now_s, value };
        let mut scratch = std::mem::take(&mut self.name_scratch);
        match canonical(name, &mut scratch).and_then(|name| self.check_path(name)) {
            Ok(name) => match owner(name, self.options.shard_count) {
                owner if owner == self.options.id => self.accept(name, point),
                owner => batch::push(&mut batches[owner.index()], name, point),
            },
            Err(error) => self.refuse_received(Receiver::Own, reason_of_name(error)),
        }
        self.name_scratch = scratch;
    }

    /// Refuses a tagged name whose readable file name would be too long; every other canonical name
    /// has a path.
    pub(super) fn check_path<'a>(&mut self, name: &'a [u8]) -> Result<&'a [u8], NameError> {
        if !self.options.hash_tagged && name.contains(&b';') {
            self.path_scratch.clear();
            file_path(name, false, &mut self.path_scratch)?;
        }
        Ok(name)
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
