//! Memory of connections: what clients have sent of messages that are not complete, and what is
//! held for answers that clients have not read.
//!
//! Keeps true: each kind of port has a share of the budget of its own, so that a flood at one port
//! takes nothing from another; everything held is in [`Shard::bytes`]; what is taken comes back
//! when its connection ends.

use crate::shard::Shard;

/// What memory of connections is held for, each with its own share of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Lines whose end has not come.
    Lines,
    /// Pickles whose end has not come.
    Pickles,
    /// Carbonlink requests that are not complete, or not answered yet.
    Requests,
    /// Answers of no more than [`crate::limits::SMALL_ANSWER_BYTES`].
    SmallAnswers,
    /// All other answers.
    LargeAnswers,
    /// A large request being parsed, one at a time: it is counted, and limits no other.
    Work,
}

/// Number of [`Share`]s.
const SHARES: usize = 6;

impl Share {
    /// All shares, in the order of their accounts.
    const ALL: [Share; SHARES] = [
        Share::Lines,
        Share::Pickles,
        Share::Requests,
        Share::SmallAnswers,
        Share::LargeAnswers,
        Share::Work,
    ];

    /// Part of a core's budget in percent. A connection that finds the share of its unfinished
    /// messages used up gives up its own message and is closed; an answer that finds its share used
    /// up waits, see [`crate::limits::ANSWER_WAIT_MAX`].
    pub const fn percent(self) -> usize {
        match self {
            // A sender's cut between two packets leaves the beginning of one line, some 50 bytes.
            Share::Lines => 2,
            // Also the longest pickle: relays send up to a few MB.
            Share::Pickles => 25,
            // Three of the longest requests in a core's budget of 64 MiB.
            Share::Requests => 5,
            Share::SmallAnswers => 2,
            // Also the largest answer: five million points in a core's budget of a GiB.
            Share::LargeAnswers => 6,
            Share::Work => 0,
        }
    }

    /// The sum of all shares, in percent.
    pub(super) const fn sum_percent() -> usize {
        let mut sum = 0;
        let mut number = 0;
        while number < SHARES {
            sum += Share::ALL[number].percent();
            number += 1;
        }
        sum
    }
}

/// The memory of one core's connections, in bytes.
#[derive(Debug)]
pub(super) struct Held {
    budget_bytes: usize,
    bytes: [usize; SHARES],
}

impl Held {
    pub(super) fn new(budget_bytes: usize) -> Held {
        Held { budget_bytes, bytes: [0; SHARES] }
    }

    /// All that is held. Unfinished messages count up to their share: they alone never stop the
    /// receivers that their ends must come through.
    pub(super) fn bytes(&self) -> usize {
        let counted = Share::ALL.into_iter().map(|share| {
            let held = self.bytes[share as usize];
            match share {
                Share::Lines | Share::Pickles | Share::Requests => held.min(self.bytes_max(share)),
                Share::SmallAnswers | Share::LargeAnswers | Share::Work => held,
            }
        });
        counted.sum()
    }

    fn bytes_max(&self, share: Share) -> usize {
        self.budget_bytes / 100 * share.percent()
    }

    fn account(&mut self, share: Share, before_bytes: usize, after_bytes: usize) {
        let held = &mut self.bytes[share as usize];
        assert!(*held >= before_bytes, "{before_bytes} of {held} bytes of {share:?} come back");
        *held = *held - before_bytes + after_bytes;
    }

    fn has_too_much(&self, share: Share) -> bool {
        self.bytes[share as usize] > self.bytes_max(share)
    }

    fn take(&mut self, share: Share, bytes: usize) -> bool {
        let has_room = self.bytes[share as usize] + bytes <= self.bytes_max(share);
        if has_room {
            self.account(share, 0, bytes);
        }
        has_room
    }
}

impl Shard {
    /// A connection's buffer grew or shrank.
    pub fn account_connection(&mut self, share: Share, before_bytes: usize, after_bytes: usize) {
        self.held.account(share, before_bytes, after_bytes);
    }

    /// Whether unfinished messages of this kind take more than their share of the budget: the
    /// connection that finds it so gives up its message.
    pub fn has_too_much_unfinished(&self, share: Share) -> bool {
        self.held.has_too_much(share)
    }

    /// Takes so much of a share if it has that left.
    pub fn take_memory(&mut self, share: Share, bytes: usize) -> bool {
        self.held.take(share, bytes)
    }

    /// All of a share, in bytes.
    pub fn share_bytes_max(&self, share: Share) -> usize {
        self.held.bytes_max(share)
    }

    /// Bytes held for connections, of all kinds.
    pub fn held_bytes(&self) -> usize {
        self.held.bytes.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 100_000;

    /// splitmix64: a seed repeats a failure.
    fn next(seed: &mut u64) -> usize {
        *seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (*seed ^ (*seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((mixed ^ (mixed >> 27)) >> 33).expect("31 bits")
    }

    /// Connections of every kind come, grow, shrink and go; the accounts are the sums over them.
    fn check(seed: u64) {
        let mut noise = seed;
        let mut held = Held::new(BUDGET);
        let mut connections: Vec<(Share, usize)> = Vec::new();
        let mut refused_count = 0;
        for _ in 0..2_000 {
            let share = Share::ALL[next(&mut noise) % SHARES];
            let bytes = next(&mut noise) % 3_000;
            match next(&mut noise) % 4 {
                0 | 1 if held.take(share, bytes) => connections.push((share, bytes)),
                0 | 1 => refused_count += 1,
                2 if !connections.is_empty() => {
                    let at = next(&mut noise) % connections.len();
                    let (share, before) = connections[at];
                    held.account(share, before, bytes);
                    connections[at].1 = bytes;
                }
                _ if !connections.is_empty() => {
                    let at = next(&mut noise) % connections.len();
                    let (share, bytes) = connections.swap_remove(at);
                    held.account(share, bytes, 0);
                }
                _ => {}
            }
            let mut counted = 0;
            for share in Share::ALL {
                let of_share = connections.iter().filter(|it| it.0 == share).map(|it| it.1);
                let (sum, max) = (of_share.sum::<usize>(), BUDGET / 100 * share.percent());
                assert_eq!(held.bytes[share as usize], sum, "seed {seed} {share:?}");
                assert_eq!(held.has_too_much(share), sum > max, "seed {seed} {share:?}");
                let is_capped = matches!(share, Share::Lines | Share::Pickles | Share::Requests);
                counted += if is_capped { sum.min(max) } else { sum };
            }
            assert_eq!(held.bytes(), counted, "seed {seed}");
        }
        assert!(refused_count > 100, "seed {seed}: {refused_count} times no room");
        for (share, bytes) in connections {
            held.account(share, bytes, 0);
        }
        assert_eq!((held.bytes(), held.bytes), (0, [0; SHARES]), "seed {seed}");
    }

    #[test]
    fn accounts_are_the_sums_over_connections_and_end_at_nothing() {
        for seed in 0..20 {
            check(seed);
        }
    }

    #[test]
    fn a_flood_takes_its_own_share_only() {
        for flooded in [Share::Lines, Share::Pickles, Share::Requests] {
            let mut held = Held::new(BUDGET);
            held.account(flooded, 0, 10 * BUDGET);
            assert!(held.has_too_much(flooded));
            assert_eq!(held.bytes(), held.bytes_max(flooded), "it alone stops no receiver");
            for other in Share::ALL.into_iter().filter(|&share| share != flooded) {
                let all_of_it = held.bytes_max(other);
                assert!(held.take(other, all_of_it), "{other:?} beside {flooded:?}");
                assert!(!held.has_too_much(other), "{other:?} beside {flooded:?}");
                assert!(!held.take(other, 1), "{other:?} is all taken");
            }
        }
    }
}
