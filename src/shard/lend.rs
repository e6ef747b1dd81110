//! Lines lent to another core, and the points that wait until it has taken them.
//!
//! A core whose connection brings more than it can take lends whole lines to a second one. That
//! core puts its own points into its cache and sends all others back. What the lender receives
//! behind lent lines must not overtake them: points of the helper follow the lines on the same
//! link, and all others are held here until the helper has said that it has taken the lines. So
//! for each metric the point received last comes last.
//!
//! Held points lie in buffers of the link to the helper and count as its buffers: the links' share
//! of the memory budget covers them.

use std::collections::VecDeque;

use crate::metric::batch::{self, RECORD_BYTES_MAX};
use crate::metric::point::Point;
use crate::shard::route::ShardId;

/// Batches of lines that may be lent at a time: one that the helper works on and the next.
const LENT_MAX: u64 = 2;

/// Points that wait for lent lines, and how many lines are lent.
#[derive(Debug)]
pub(crate) struct Lending {
    /// Who has the lines while some are lent.
    helper: ShardId,
    /// Batches of lines lent since the start, and those of them that have been taken.
    lent: u64,
    taken: u64,
    /// Held points, each batch with the number of lent batches to be taken before it.
    held: VecDeque<(u64, Vec<u8>)>,
    batch_bytes: usize,
}

impl Lending {
    pub(crate) fn new(batch_bytes: usize) -> Lending {
        Lending { helper: ShardId(0), lent: 0, taken: 0, held: VecDeque::new(), batch_bytes }
    }

    /// The core that has lines of ours, if one has.
    pub(crate) fn helper(&self) -> Option<ShardId> {
        (self.taken < self.lent).then_some(self.helper)
    }

    /// Whether lines may be lent to this core now.
    pub(crate) fn may_lend(&self, helper: ShardId) -> bool {
        self.lent - self.taken < LENT_MAX && self.helper().is_none_or(|current| current == helper)
    }

    /// Lines have been lent.
    pub(crate) fn lend(&mut self, helper: ShardId) {
        assert!(self.may_lend(helper), "lines are lent to one core, two batches at most");
        self.helper = helper;
        self.lent += 1;
    }

    /// The helper has taken the oldest lines it had.
    pub(crate) fn confirm(&mut self) {
        assert!(self.taken < self.lent, "lines were taken that nobody lent");
        self.taken += 1;
    }

    /// Holds a point until all lines lent so far have been taken. `new_buffer` gives an empty
    /// buffer of the helper's link.
    pub(crate) fn hold(
        &mut self,
        name: &[u8],
        point: Point,
        new_buffer: impl FnOnce(ShardId) -> Vec<u8>,
    ) {
        let has_room = self.held.back().is_some_and(|(after, bytes)| {
            *after == self.lent && bytes.len() + RECORD_BYTES_MAX <= self.batch_bytes
        });
        if !has_room {
            self.held.push_back((self.lent, new_buffer(self.helper)));
        }
        let (_, bytes) = self.held.back_mut().expect("there is one with room now");
        batch::push(bytes, name, point);
    }

    /// A batch of points that need not be held any longer, and the helper whose link its buffer
    /// goes back to.
    pub(crate) fn release(&mut self) -> Option<(ShardId, Vec<u8>)> {
        let (_, bytes) = self.held.pop_front_if(|(after, _)| *after <= self.taken)?;
        Some((self.helper, bytes))
    }

    /// Whether no lines are lent.
    pub(crate) fn is_settled(&self) -> bool {
        self.lent == self.taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELPER: ShardId = ShardId(1);

    fn timestamps(bytes: &[u8]) -> Vec<u32> {
        batch::records(bytes).map(|(_, point)| point.timestamp_s).collect()
    }

    #[test]
    fn points_wait_for_the_lines_lent_before_them() {
        let mut lending = Lending::new(2 * RECORD_BYTES_MAX);
        let mut buffers = 0;
        let mut hold = |lending: &mut Lending, timestamp_s| {
            lending.hold(b"a", Point { timestamp_s, value: 0.0 }, |helper| {
                assert_eq!(helper, HELPER);
                buffers += 1;
                Vec::new()
            });
        };
        assert!(lending.is_settled() && lending.helper().is_none());
        lending.lend(HELPER);
        assert_eq!(lending.helper(), Some(HELPER));
        hold(&mut lending, 1);
        hold(&mut lending, 2);
        assert!(lending.may_lend(HELPER) && !lending.may_lend(ShardId(2)));
        lending.lend(HELPER);
        hold(&mut lending, 3);
        assert!(!lending.may_lend(HELPER));
        assert_eq!(lending.release(), None);

        lending.confirm();
        let (_, first) = lending.release().expect("the first lines are taken");
        assert_eq!(timestamps(&first), [1, 2]);
        assert_eq!(lending.release(), None);
        lending.confirm();
        let (helper, second) = lending.release().expect("all lines are taken");
        assert_eq!((helper, timestamps(&second)), (HELPER, vec![3]));
        assert!(lending.is_settled());
        assert_eq!(buffers, 2);
    }
}
