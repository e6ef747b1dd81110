//! One connection, two cores: lines of a full read buffer are lent to a core that has time.
//!
//! A core that reads does nearly all the work of its connections: it receives, takes lines apart,
//! and caches its own points. When its read buffer comes full, the sender waits for it, and
//! another core may do better than that. So of each full buffer it lends as many lines as the
//! helper gets done meanwhile, in pieces of one batch, and takes the others itself. `shard/lend`
//! keeps the points in order. Lent lines are counted by the helper, as received over TCP.
//!
//! What keeps it bounded: at most two pieces are lent at a time, and points held for them lie in
//! buffers of the link to the helper. The helper takes lines even if its links have no buffer left,
//! so that two cores that lend to each other never wait for each other; the points of the two
//! pieces then go into extra buffers.

use std::cell::Cell;

use crate::shard::Shard;
use crate::shard::route::ShardId;
use crate::tasks::core::Core;
use crate::tasks::exchange;
use crate::tasks::receive_tcp::{LineTooLong, take_lines};

/// Bytes taken here before the helper is looked after again: about what a batch carries.
const PIECE_BYTES: usize = 32 << 10;

/// Full buffers that are not shared after the helper was found to fill its own.
const ALONE_READS: u64 = 64;

/// How busy this core's connections are, and what is known of its helper.
#[derive(Debug, Default)]
pub struct Sharing {
    /// Full buffers read since the start.
    full_reads: Cell<u64>,
    /// How many there were when another core was last told.
    told: Cell<u64>,
    /// Full buffers that are still to be taken alone.
    alone: Cell<u64>,
    /// How many cores further than the next one the helper is.
    further: Cell<u16>,
}

impl Sharing {
    /// Whether connections of this core have filled the read buffer since the last call.
    pub fn is_busy(&self) -> bool {
        self.told.replace(self.full_reads.get()) != self.full_reads.get()
    }

    /// The helper has taken lines. If it is busy itself the next core is tried, some time later.
    pub fn lines_taken(&self, is_busy: bool) {
        if is_busy {
            self.alone.set(ALONE_READS);
            self.further.set(self.further.get().wrapping_add(1));
        }
    }

    /// Counts a full buffer; the core to lend some of its lines to, if any.
    fn full_read(&self, shard: &Shard) -> Option<ShardId> {
        self.full_reads.set(self.full_reads.get() + 1);
        let others = shard.shard_count() - 1;
        if others == 0 {
            return None;
        }
        if self.alone.get() > 0 {
            self.alone.set(self.alone.get() - 1);
            return None;
        }
        let distance = 1 + self.further.get() % others;
        Some(ShardId((shard.id().0 + distance) % shard.shard_count()))
    }
}

/// Takes a full read buffer: all complete lines of `carry` followed by `bytes`; the unfinished
/// rest is left in `carry`.
pub(crate) fn take_full(core: &Core, carry: &mut Vec<u8>, bytes: &[u8]) -> Result<(), LineTooLong> {
    let Some(helper) = core.with_shard(|shard| core.sharing.full_read(shard)) else {
        return core.with_shard(|shard| take_lines(shard, carry, bytes));
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let lent = if carry.is_empty() { lend(core, helper, rest) } else { 0 };
        rest = &rest[lent..];
        let piece = &rest[..piece_bytes(rest)];
        core.with_shard(|shard| take_lines(shard, carry, piece))?;
        rest = &rest[piece.len()..];
        exchange::look(core);
    }
    Ok(())
}

/// Bytes to take here: whole lines, unless there is none, so that the next ones can be lent.
fn piece_bytes(rest: &[u8]) -> usize {
    let piece = &rest[..rest.len().min(PIECE_BYTES)];
    memchr::memrchr(b'\n', piece).map_or(piece.len(), |at| at + 1)
}

/// Lends the first lines if the helper has time for them; returns how many bytes.
fn lend(core: &Core, helper: ShardId, lines: &[u8]) -> usize {
    let lent = core.shard.borrow_mut().outbox().lend(helper, lines).unwrap_or(0);
    if lent > 0 {
        exchange::send(core, false);
    }
    lent
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, VecDeque};
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;
    use crate::limits::BATCH_BYTES_MIN;
    use crate::metric::batch::{Batch, Content};
    use crate::schema::Rules;
    use crate::shard::ShardOptions;
    use crate::stats::Receiver;
    use crate::tasks::receive_tcp::take_lent;

    const NOW_S: u32 = 1_800_000_000;

    /// splitmix64: a seed repeats a failure.
    struct Noise(u64);

    impl Noise {
        fn below(&mut self, end: usize) -> usize {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut mixed = self.0;
            mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            usize::try_from((mixed ^ (mixed >> 31)) % end as u64).expect("below a usize")
        }

        fn number(&mut self, count: u16) -> u16 {
            u16::try_from(self.below(usize::from(count))).expect("below a u16")
        }
    }

    /// Shards without tasks: their links are queues, emptied in any order of links.
    struct World {
        shards: Vec<Shard>,
        links: BTreeMap<(u16, u16), VecDeque<Batch>>,
    }

    impl World {
        fn new(shard_count: u16) -> World {
            let options = |id| ShardOptions {
                id: ShardId(id),
                shard_count,
                budget_bytes: 64 << 20,
                points_max: 0,
                strategy: crate::cache::WriteStrategy::Max,
                updates_per_s: 0.0,
                creates_per_s: 0.0,
                future_s_max: 600,
                hash_tagged: true,
                quarantined_points_max: 10,
                link_buffers: 8,
                batch_bytes: BATCH_BYTES_MIN,
                log: None,
            };
            let rules = Arc::new(Rules::default());
            let shard = |id| {
                let mut shard = Shard::new(options(id), Arc::clone(&rules), Instant::now());
                shard.set_time(NOW_S);
                shard
            };
            World { shards: (0..shard_count).map(shard).collect(), links: BTreeMap::new() }
        }

        fn count(&self) -> u16 {
            self.shards[0].shard_count()
        }

        fn send(&mut self, from: u16, also_open: bool) {
            for to in 0..self.count() {
                let outbox = self.shards[usize::from(from)].outbox();
                while let Some(batch) = outbox.pop(ShardId(to), also_open) {
                    self.links.entry((from, to)).or_default().push_back(batch);
                }
            }
        }

        /// Takes one batch of a link; false if it is empty.
        fn take(&mut self, from: u16, to: u16) -> bool {
            let link = self.links.entry((from, to)).or_default();
            let Some(batch) = link.pop_front() else { return false };
            let shard = &mut self.shards[usize::from(to)];
            match batch.content {
                Content::Points => shard.accept_batch(&batch.bytes),
                Content::Lines => {
                    take_lent(shard, ShardId(from), &batch.bytes);
                    shard.outbox().end_lent(ShardId(from), false);
                }
                Content::LinesTaken { .. } => {
                    shard.accept_batch(&batch.bytes);
                    shard.lines_taken();
                }
            }
            self.shards[usize::from(from)].outbox().give_back(ShardId(to), batch.bytes);
            self.send(to, false);
            true
        }

        /// Takes what is under way until everything has arrived.
        fn settle(&mut self) {
            let count = self.count();
            for _ in 0..8 {
                for from in 0..count {
                    self.send(from, true);
                    for to in 0..count {
                        while self.take(from, to) {}
                    }
                }
            }
            assert!(self.shards.iter_mut().all(|shard| shard.outbox().is_settled()));
        }

        fn sum(&self, count: impl Fn(&Shard) -> u64) -> u64 {
            self.shards.iter().map(count).sum()
        }
    }

    /// A stream in which each metric has many points for the same few seconds, under several
    /// spellings, and the last one of each.
    fn stream(noise: &mut Noise, lines: usize) -> (Vec<u8>, BTreeMap<(String, u32), f64>) {
        let (mut text, mut last) = (Vec::new(), BTreeMap::new());
        for number in 0..lines {
            let (metric, second) = (noise.below(30), NOW_S - u32::from(noise.number(3)));
            let dots = if noise.below(8) == 0 { ".." } else { "." };
            text.extend(format!("m{dots}{metric} {number} {second}\n").bytes());
            last.insert((format!("m.{metric}"), second), number as f64);
        }
        (text, last)
    }

    /// One connection at shard 0 that lends lines whenever chance says so, with links of any
    /// speed: the last point wins, and each is counted once. Returns how often lines were lent.
    fn check(shard_count: u16, seed: u64) -> u64 {
        let mut noise = Noise(seed);
        let mut world = World::new(shard_count);
        let lines = 4_000;
        let (text, last) = stream(&mut noise, lines);
        let mut carry = Vec::new();
        let mut rest = &text[..];
        let mut lent_count = 0;
        while !rest.is_empty() {
            let helper = ShardId(1 + noise.number(shard_count - 1));
            let mut length = rest.len().min(1 + noise.below(1_500));
            if noise.below(4) > 0 {
                length = piece_bytes(&rest[..length]);
            }
            let lends = carry.is_empty() && noise.below(2) == 0;
            let shard = &mut world.shards[0];
            let lent = if lends { shard.outbox().lend(helper, &rest[..length]) } else { None };
            lent_count += u64::from(lent.is_some());
            if lent.is_none() {
                take_lines(shard, &mut carry, &rest[..length]).expect("short lines");
            }
            rest = &rest[lent.unwrap_or(length)..];
            world.send(0, noise.below(4) == 0);
            for _ in 0..noise.below(4) {
                let from = noise.number(shard_count);
                world.take(from, noise.number(shard_count));
            }
        }
        world.settle();
        let tcp = Receiver::Tcp.index();
        assert_eq!(world.sum(|shard| shard.counters.received[tcp]), lines as u64, "seed {seed}");
        assert_eq!(world.sum(|shard| shard.counters.accepted), lines as u64, "seed {seed}");
        for ((name, second), value) in last {
            let (_, owner) = world.shards[0].locate(name.as_bytes()).expect("a good name");
            let points = world.shards[owner.index()].points_of(name.as_bytes());
            let found = points.iter().find(|point| point.timestamp_s == second);
            let found = found.map(|point| point.value);
            assert_eq!(found, Some(value), "seed {seed}: {name} at {second}");
        }
        lent_count
    }

    #[test]
    fn the_point_received_last_wins_whoever_takes_its_line() {
        let lent_count: u64 = (0..60).map(|seed| check(2, seed) + check(3, seed)).sum();
        assert!(lent_count > 1_000, "lines were lent {lent_count} times");
    }
}
