//! What is known of every point sent: a plain map, and what must be found of it.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

use std::collections::{BTreeMap, HashMap};

use carbyne::metric::name::file_path;

use crate::simulated_tree::SimulatedTree;

/// A metric's number in the simulation, and a timestamp.
pub(crate) type Key = (usize, u32);

/// Cores whose points can be told apart.
pub(crate) const CORES_MAX: usize = 4;

/// What has become of one metric and second. Orders are numbers that ascend with every point that
/// an owner accepts; 0 is before all.
#[derive(Debug, Default)]
struct History {
    /// Order and value of what its owner accepted; what is lost for good is removed.
    accepted: Vec<(u64, u64)>,
    /// The last that was acknowledged, for a crash of the process and for a loss of power.
    written: u64,
    synced: u64,
    /// The last that was dropped: it may be in the log, but need not be found.
    dropped: u64,
    /// What must be readable now; none is known after it was dropped.
    latest: Option<u64>,
    /// The last value that came by each core: one sender's points must not overtake each other.
    by_core: [u64; CORES_MAX],
}

impl History {
    fn order_of(&self, value: u64) -> Option<u64> {
        self.accepted.iter().rev().find(|(_, known)| *known == value).map(|&(order, _)| order)
    }
}

/// All points.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) names: Vec<Vec<u8>>,
    paths: Vec<Vec<u8>>,
    numbers: HashMap<Vec<u8>, usize>,
    histories: BTreeMap<Key, History>,
    last_value: u64,
    last_order: u64,
    /// Points of this run that were let in, and accepted by their owners.
    pub(crate) admitted: u64,
    pub(crate) accepted: u64,
}

impl Model {
    pub(crate) fn new(names: Vec<Vec<u8>>) -> Model {
        let path = |name: &Vec<u8>| {
            let mut path = Vec::new();
            file_path(name, true, &mut path).expect("a good name");
            path.push(0);
            path
        };
        Model {
            paths: names.iter().map(path).collect(),
            numbers: names.iter().cloned().zip(0..).collect(),
            names,
            histories: BTreeMap::new(),
            last_value: 0,
            last_order: 0,
            admitted: 0,
            accepted: 0,
        }
    }

    /// The number of a metric; none is ever invented.
    pub(crate) fn metric(&self, name: &[u8]) -> usize {
        *self.numbers.get(name).unwrap_or_else(|| panic!("{name:?} was never sent"))
    }

    pub(crate) fn metric_of_path(&self, path: &[u8]) -> usize {
        self.paths.iter().position(|known| known == path).expect("a path of ours")
    }

    pub(crate) fn path(&self, metric: usize) -> &[u8] {
        &self.paths[metric]
    }

    /// A value that no other point has, to be received by this core.
    pub(crate) fn new_value(&mut self, core: usize) -> u64 {
        self.last_value += 1;
        self.last_value * CORES_MAX as u64 + core as u64
    }

    /// The metric's owner has accepted the point.
    pub(crate) fn accept(&mut self, key: Key, value: u64) {
        self.accepted += 1;
        self.last_order += 1;
        let history = self.histories.entry(key).or_default();
        history.accepted.push((self.last_order, value));
        history.latest = Some(value);
        let before = &mut history.by_core[usize::try_from(value % CORES_MAX as u64).expect("few")];
        assert!(*before < value, "{key:?}: {value} was overtaken by {before}");
        *before = value;
    }

    /// The point's commit was acknowledged.
    pub(crate) fn acknowledge(&mut self, key: Key, value: u64, is_synced: bool) {
        let history = self.histories.get_mut(&key).expect("it was accepted");
        let order = history.order_of(value).expect("it was accepted");
        if order <= history.dropped {
            return;
        }
        history.written = history.written.max(order);
        if is_synced {
            history.synced = history.synced.max(order);
        }
    }

    /// The point, and whatever it replaced, was dropped and counted. `is_shown`: its file has it,
    /// but maybe only until power is lost.
    pub(crate) fn drop_point(&mut self, key: Key, value: u64, is_shown: bool) {
        let history = self.histories.get_mut(&key).expect("it was accepted");
        let order = history.order_of(value).expect("it was accepted");
        for floor in [&mut history.written, &mut history.synced] {
            *floor = if *floor <= order { 0 } else { *floor };
        }
        history.dropped = history.dropped.max(order);
        if history.latest == Some(value) && !is_shown {
            history.latest = None;
        }
    }

    /// What must be readable of a metric and second, if that is known.
    pub(crate) fn latest(&self, key: Key) -> Option<u64> {
        self.histories.get(&key)?.latest
    }

    pub(crate) fn keys(&self) -> Vec<Key> {
        self.histories.keys().copied().collect()
    }

    /// After a drain everything is on stable storage, in its file, but what was dropped.
    pub(crate) fn acknowledge_all(&mut self) {
        for history in self.histories.values_mut() {
            let latest = history.latest.and_then(|latest| history.order_of(latest));
            if let Some(order) = latest.filter(|&order| order > history.dropped) {
                (history.written, history.synced) = (order, order);
            }
        }
    }

    /// The process has ended. Looks for everything that must be found: `replayed`, or else in its
    /// file.
    pub(crate) fn check_found(
        &mut self,
        replayed: &BTreeMap<Key, u64>,
        tree: &SimulatedTree,
        is_power_lost: bool,
    ) {
        (self.admitted, self.accepted) = (0, 0);
        for (&key, history) in &mut self.histories {
            let path = &self.paths[key.0];
            let in_file = || tree.value(path, key.1).map(whole);
            let got = replayed.get(&key).copied().or_else(in_file);
            let want = if is_power_lost { history.synced } else { history.written };
            // A value that nobody has sent, or that was gone for good, has no number.
            let found = got.map_or(Some(0), |value| history.order_of(value));
            assert!(
                found.is_some_and(|found| found >= want),
                "{key:?}: found {got:?}, number {found:?}; acknowledged {want} of {:?}",
                history.accepted
            );
            let found = found.expect("just checked");
            // A value may have reached its file and not its log, and be seen when the log is gone.
            history.accepted.retain(|&(order, value)| {
                order <= found || tree.may_hold(path, key.1, wide(value))
            });
            history.written = history.written.min(found);
            history.latest = got;
            history.by_core = [0; CORES_MAX];
        }
    }
}

/// A value as it is stored.
#[allow(clippy::cast_precision_loss, reason = "values are small whole numbers")]
pub(crate) fn wide(value: u64) -> f64 {
    value as f64
}

/// A value as the model knows it.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "values are small whole numbers"
)]
pub(crate) fn whole(value: f64) -> u64 {
    value as u64
}
