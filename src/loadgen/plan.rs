//! What is sent, as pure functions: the name, value and timestamp of each point.
//!
//! A sender has agents, an agent has slots, and every slot sends one point a round. Nothing is
//! drawn by chance, so what a node must hold afterwards can be computed again from the same
//! numbers, in another process too.
//!
//! With churn, `churn` slots of each agent change to a metric never seen before at the start of
//! each round but the first; slots take turns. Names then have a fixed width, so that they can be
//! exchanged within prepared bytes.

/// Values have two decimals; this many hundredths of 1 are added to what the hash gives, so that
/// every value has three digits before the point.
const CENTS_MIN: u64 = 10_000;

/// Number of different values.
const CENTS_COUNT: u64 = 90_000;

/// Everything that decides which points exist.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Plan {
    /// First part of every name.
    pub(super) prefix: String,
    /// Slots of each agent.
    pub(super) slots: u32,
    /// Metrics in one directory; 0 = all of an agent, which gives haggar's names.
    pub(super) leaves: u32,
    /// Metrics of each agent that are replaced at the start of a round.
    pub(super) churn: u32,
    /// Timestamp of the first round.
    pub(super) start_s: u32,
    /// Seconds from one round's timestamp to the next.
    pub(super) step_s: u32,
    /// Rounds after which timestamps begin anew.
    pub(super) window: u32,
}

impl Plan {
    /// The metric that a slot sends in a round, as its number within the agent.
    pub(super) fn metric(&self, slot: u32, round: u32) -> u64 {
        let (slot, slots) = (u64::from(slot), u64::from(self.slots));
        let replaced = u64::from(round) * u64::from(self.churn);
        if replaced <= slot {
            return slot;
        }
        // The last replacement that was this slot's turn; replacement k brings metric slots + k.
        let turn = (replaced - 1 - slot) / slots;
        slots + slot + turn * slots
    }

    /// Appends the name of a metric.
    pub(super) fn write_name(&self, agent: u32, metric: u64, out: &mut Vec<u8>) {
        let width = if self.churn == 0 { 1 } else { 10 };
        let prefix = &self.prefix;
        let name = match u64::from(self.leaves) {
            0 => format!("{prefix}.agent.{agent}.metrics.{metric:0width$}"),
            leaves => {
                let leaf_width = if self.churn == 0 { 1 } else { 4 };
                let (directory, leaf) = (metric / leaves, metric % leaves);
                format!("{prefix}.agent.{agent}.metrics.{directory:0width$}.{leaf:0leaf_width$}")
            }
        };
        out.extend_from_slice(name.as_bytes());
    }

    /// The timestamp of a round that is not stamped by the clock.
    pub(super) fn timestamp_s(&self, round: u32) -> u32 {
        self.start_s.saturating_add((round % self.window).saturating_mul(self.step_s))
    }
}

/// A point's value in hundredths: five digits.
pub(super) fn cents(agent: u32, metric: u64, round: u32) -> u32 {
    let mixed = (metric ^ (u64::from(agent) << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
        ^ u64::from(round).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let spread = mixed.wrapping_mul(0xff51_afd7_ed55_8ccd) >> 32;
    let cents = CENTS_MIN + ((spread * CENTS_COUNT) >> 32);
    u32::try_from(cents).expect("less than 100,000")
}

/// A point's value.
pub(super) fn value(agent: u32, metric: u64, round: u32) -> f64 {
    f64::from(cents(agent, metric, round)) / 100.0
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A small plan.
    pub(in crate::loadgen) fn plan(slots: u32, churn: u32) -> Plan {
        let prefix = "load".to_owned();
        Plan { prefix, slots, leaves: 0, churn, start_s: 1_700_000_000, step_s: 60, window: 100 }
    }

    fn name(plan: &Plan, agent: u32, metric: u64) -> String {
        let mut name = Vec::new();
        plan.write_name(agent, metric, &mut name);
        String::from_utf8(name).expect("a name of this test is ASCII")
    }

    #[test]
    fn names() {
        assert_eq!(name(&plan(10, 0), 3, 7), "load.agent.3.metrics.7");
        assert_eq!(name(&plan(10, 1), 3, 7), "load.agent.3.metrics.0000000007");
        let tree = Plan { leaves: 10, ..plan(10, 0) };
        assert_eq!(name(&tree, 0, 123), "load.agent.0.metrics.12.3");
        let tree = Plan { leaves: 10, ..plan(10, 1) };
        assert_eq!(name(&tree, 0, 123), "load.agent.0.metrics.0000000012.0003");
    }

    #[test]
    fn churn_replaces_slots_in_turn() {
        for (slots, churn) in [(5, 0), (5, 2), (5, 5), (7, 3), (3, 8)] {
            let plan = plan(slots, churn);
            let mut metrics: Vec<u64> = (0..u64::from(slots)).collect();
            let (mut next_slot, mut next_metric) = (0, u64::from(slots));
            for round in 0..50 {
                let got: Vec<u64> = (0..slots).map(|slot| plan.metric(slot, round)).collect();
                assert_eq!(got, metrics, "{slots} slots, {churn} a round, round {round}");
                for _ in 0..churn {
                    metrics[next_slot] = next_metric;
                    next_slot = (next_slot + 1) % metrics.len();
                    next_metric += 1;
                }
            }
        }
    }

    #[test]
    fn values_have_five_digits_and_differ() {
        let mut seen = std::collections::HashSet::new();
        for metric in 0..1_000 {
            for round in 0..10 {
                let cents = cents(1, metric, round);
                assert!((10_000..100_000).contains(&cents), "{cents}");
                seen.insert(cents);
            }
        }
        // 10,000 draws from 90,000 values leave some 9,500 different ones.
        assert!(seen.len() > 9_000, "{}", seen.len());
        assert_ne!(cents(0, 1, 1), cents(1, 1, 1));
    }

    #[test]
    fn timestamps_begin_anew_after_the_window() {
        let plan = plan(1, 0);
        assert_eq!(plan.timestamp_s(0), 1_700_000_000);
        assert_eq!(plan.timestamp_s(99), 1_700_000_000 + 99 * 60);
        assert_eq!(plan.timestamp_s(100), 1_700_000_000);
    }
}
