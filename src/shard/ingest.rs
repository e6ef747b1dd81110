//! Points come in: checked, named canonically, and put where they belong.

use crate::cache::{FIND_TOGETHER, MetricId};
use crate::metric::batch;
use crate::metric::name::{canonical, file_path};
use crate::metric::name_error::NameError;
use crate::metric::owner::{ShardId, owner};
use crate::metric::point::{Arrival, Point, PointError, Received, admit};
use crate::shard::Shard;
use crate::stats::{DropReason, Receiver};

/// Points that are looked up together.
const TOGETHER: usize = FIND_TOGETHER;

/// A point with its metric's name.
type Named<'a> = (&'a [u8], Point);

/// Fills the places of an array that have no point yet.
const NO_POINT: Point = Point { timestamp_s: 0, value: 0.0 };

/// A point of another shard, with its owner.
#[derive(Debug, Clone, Copy)]
struct Away<'a> {
    name: &'a [u8],
    point: Point,
    owner: ShardId,
    /// How many points that seem to be this shard's come before it.
    own_before: usize,
}

const NO_AWAY: Away<'static> =
    Away { name: &[], point: NO_POINT, owner: ShardId(0), own_before: 0 };

/// Points of one receiver on their way into a shard, taken some at a time.
pub struct Intake<'s, 'a> {
    shard: &'s mut Shard,
    receiver: Receiver,
    own: [Named<'a>; TOGETHER],
    own_count: usize,
    away: [Away<'a>; TOGETHER],
    away_count: usize,
}

impl<'a> Intake<'_, 'a> {
    /// Takes one point: into the shard's cache, or into the batch for its owner. A bad one is
    /// counted under its reason. Never waits: receivers ask [`Shard::must_wait`] before they read.
    pub fn take(&mut self, received: Received<'a>) {
        let shard = &mut *self.shard;
        shard.counters.received[self.receiver.index()] += 1;
        let Received { name, value, timestamp } = received;
        let point = match admit(timestamp, value, shard.now_s, shard.options.future_s_max) {
            Ok(point) => point,
            Err(error) => return shard.refuse_received(self.receiver, reason_of_point(error)),
        };
        // A name that is known here, as it was sent, needs no second look.
        let owner = shard.owner_of(name);
        if owner == shard.options.id {
            self.own[self.own_count] = (name, point);
            self.own_count += 1;
        } else {
            self.take_away(name, point, owner);
        }
        if self.own_count == TOGETHER || self.away_count == TOGETHER {
            self.settle();
        }
    }

    /// Counts a point or message that never became one.
    pub fn refuse(&mut self, reason: DropReason) {
        self.shard.refuse(self.receiver, reason);
    }

    /// Takes a point whose name, as it was sent, is another shard's.
    fn take_away(&mut self, name: &'a [u8], point: Point, owner: ShardId) {
        let mut scratch = std::mem::take(&mut self.shard.name_scratch);
        match self.shard.canonical_checked(name, &mut scratch) {
            Ok(canonical) if std::ptr::eq(canonical, name) => {
                let own_before = self.own_count;
                self.away[self.away_count] = Away { name, point, owner, own_before };
                self.away_count += 1;
            }
            Ok(canonical) => {
                // Earlier points of the same metric go first.
                self.settle();
                self.shard.route(canonical, point);
            }
            Err(error) => self.shard.refuse_received(self.receiver, reason_of_name(error)),
        }
        self.shard.name_scratch = scratch;
    }

    /// Puts all points taken so far where they belong. A name that is not known here may be another
    /// spelling of one that is away: from there on everything goes in its order.
    fn settle(&mut self) {
        let own = &self.own[..self.own_count];
        let mut away = self.away[..self.away_count].iter().peekable();
        let mut found = [None; TOGETHER];
        self.shard.cache.find_many(own.iter().map(|(name, _)| *name), &mut found);
        for (number, (&(name, point), &metric)) in own.iter().zip(&found).enumerate() {
            if let Some(metric) = metric {
                self.shard.accept(metric, point);
                continue;
            }
            while let Some(away) = away.next_if(|away| away.own_before <= number) {
                self.shard.send_away(away);
            }
            self.shard.take_unknown(self.receiver, name, point);
        }
        for away in away {
            self.shard.send_away(away);
        }
        self.own_count = 0;
        self.away_count = 0;
    }
}

impl Drop for Intake<'_, '_> {
    fn drop(&mut self) {
        self.settle();
    }
}

impl Shard {
    /// Begins to take points of a receiver, in their order. Those taken are all in the shard when
    /// the intake is dropped.
    pub fn intake<'a>(&mut self, receiver: Receiver) -> Intake<'_, 'a> {
        Intake {
            shard: self,
            receiver,
            own: [(&[], NO_POINT); TOGETHER],
            own_count: 0,
            away: [NO_AWAY; TOGETHER],
            away_count: 0,
        }
    }

    /// Takes one point of a receiver.
    pub fn ingest(&mut self, receiver: Receiver, received: Received<'_>) {
        self.intake(receiver).take(received);
    }

    /// Brings a name into its canonical form and takes the point to the name's owner.
    fn take_unknown(&mut self, receiver: Receiver, name: &[u8], point: Point) {
        let mut scratch = std::mem::take(&mut self.name_scratch);
        match self.canonical_checked(name, &mut scratch) {
            Ok(name) => self.route(name, point),
            Err(error) => self.refuse_received(receiver, reason_of_name(error)),
        }
        self.name_scratch = scratch;
    }

    fn canonical_checked<'n>(
        &mut self,
        name: &'n [u8],
        scratch: &'n mut Vec<u8>,
    ) -> Result<&'n [u8], NameError> {
        canonical(name, scratch).and_then(|name| self.check_path(name))
    }

    /// The owner of a name, if it is canonical.
    fn owner_of(&self, name: &[u8]) -> ShardId {
        if self.options.shard_count == 1 {
            return self.options.id;
        }
        owner(name, self.options.shard_count)
    }

    fn send_away(&mut self, away: &Away<'_>) {
        self.outbox.push(away.owner, away.name, away.point);
    }

    /// Takes a point of the node's own metrics: into this shard's cache, or into the batch of its
    /// owner among `batches`, one for each shard.
    pub fn ingest_own(&mut self, name: &[u8], value: f64, batches: &mut [Vec<u8>]) {
        self.counters.received[Receiver::Own.index()] += 1;
        let point = Point { timestamp_s: self.now_s, value };
        let mut scratch = std::mem::take(&mut self.name_scratch);
        match self.canonical_checked(name, &mut scratch) {
            Ok(name) => match owner(name, self.options.shard_count) {
                owner if owner == self.options.id => self.accept_own(name, point),
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
        let mut records = batch::records(batch);
        loop {
            let mut points: [Named<'_>; TOGETHER] = [(&[], NO_POINT); TOGETHER];
            let mut count = 0;
            for (place, record) in points.iter_mut().zip(&mut records) {
                *place = record;
                count += 1;
            }
            if count == 0 {
                return;
            }
            let mut found = [None; TOGETHER];
            self.cache.find_many(points[..count].iter().map(|(name, _)| *name), &mut found);
            for (&(name, point), &metric) in points[..count].iter().zip(&found) {
                match metric {
                    Some(metric) => self.accept(metric, point),
                    None => self.accept_named(name, point),
                }
            }
        }
    }

    /// Takes points of the node's own metrics that another shard has gathered.
    pub fn accept_own_batch(&mut self, batch: &[u8]) {
        for (name, point) in batch::records(batch) {
            self.accept_own(name, point);
        }
    }

    fn refuse_received(&mut self, receiver: Receiver, reason: DropReason) {
        self.counters.refused[receiver.index()] += 1;
        self.counters.drop_points(reason, 1);
    }

    fn route(&mut self, name: &[u8], point: Point) {
        let owner = self.owner_of(name);
        if owner != self.options.id {
            return self.outbox.push(owner, name, point);
        }
        self.accept_named(name, point);
    }

    /// Takes a point into the cache, by way of the log.
    pub(super) fn accept(&mut self, metric: MetricId, point: Point) {
        self.counters.accepted += 1;
        if !self.log_point(metric, point) {
            return;
        }
        let is_replacing = self.cache.push(metric, Arrival::new(point, self.now_s));
        self.counters.replaced += u64::from(is_replacing);
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
