//! The cache against a model: plain lists per metric, and the order of sweeps.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

/// splitmix64: a seed repeats a failure.
pub(super) fn noise(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[derive(Debug, Clone)]
enum Op {
    Insert(u8, u32, f64),
    /// The clock shows another time.
    Clock(u32),
    Take(u8, u32),
    Confirm(u8),
    ConfirmFirst(u8, usize),
    Restore(u8, u32),
    Forget(u8),
    /// The log has no room for the next points.
    Overflow,
    /// The log takes the points it had no room for.
    Late,
    Carry(u8),
}

impl Op {
    /// The metric whose points are on their way to their file.
    fn flushed(&self) -> Option<u8> {
        match *self {
            Op::Take(m, _)
            | Op::Confirm(m)
            | Op::ConfirmFirst(m, _)
            | Op::Restore(m, _)
            | Op::Carry(m) => Some(m),
            _ => None,
        }
    }
}

/// Mostly regular, now and then far apart.
fn times() -> impl Strategy<Value = u32> {
    prop_oneof![6 => 0u32..40, 6 => (0u32..200).prop_map(|n| n * 10), 1 => any::<u32>()]
}

fn values() -> impl Strategy<Value = f64> {
    prop_oneof![
        any::<i32>().prop_map(f64::from),
        (-9_999i32..9_999).prop_map(|n| f64::from(n) / 100.0),
        any::<f64>().prop_filter("compared with ==", |value| !value.is_nan()),
    ]
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        16 => (0u8..5, times(), values()).prop_map(|(m, t, v)| Op::Insert(m, t, v)),
        2 => (0u8..5, 60u32..90).prop_map(|(m, n)| Op::Take(m, n)),
        6 => times().prop_map(Op::Clock),
        1 => (0u8..5).prop_map(Op::Confirm),
        1 => (0u8..5, 0usize..90).prop_map(|(m, n)| Op::ConfirmFirst(m, n)),
        1 => (0u8..5, 0u32..30).prop_map(|(m, n)| Op::Restore(m, n)),
        1 => (0u8..5).prop_map(Op::Forget),
        1 => Just(Op::Overflow),
        1 => Just(Op::Late),
        1 => (0u8..5).prop_map(Op::Carry),
    ];
    prop::collection::vec(op, 0..800)
}

#[derive(Default, Clone)]
struct Model {
    waiting: Vec<Arrival>,
    writing: Vec<Arrival>,
    /// Where in the log the points of the two chains are, those that were replaced too.
    waiting_in: BTreeSet<u32>,
    writing_in: BTreeSet<u32>,
}

/// The log's side: what the cache has said of its holds.
#[derive(Default)]
struct Holds {
    reported: BTreeMap<u32, i64>,
    segment: u32,
    is_full: bool,
    now_s: u32,
    /// Metrics with a point that is not in the log.
    late: Vec<u8>,
}

impl Holds {
    fn hold(&mut self, segment: u32, count: u32) {
        *self.reported.entry(segment).or_default() += i64::from(count);
    }

    fn release(&mut self, segments: impl IntoIterator<Item = u32>) {
        for segment in segments {
            *self.reported.entry(segment).or_default() -= 1;
        }
    }

    /// What was said adds up to what the chains hold, and no chain holds too little.
    fn check(&mut self, cache: &Cache, models: &[Model; 5]) {
        let mut held: BTreeMap<u32, i64> = BTreeMap::new();
        for (m, model) in models.iter().enumerate() {
            let Some(metric) = cache.lookup(format!("metric.{m}").as_bytes()) else { continue };
            let entry = cache.entries.get(metric.0);
            let chains =
                [(entry.waiting_hold, &model.waiting_in), (entry.writing_hold, &model.writing_in)];
            for (hold, segments) in chains {
                if hold != NO_HOLD {
                    *held.entry(hold).or_default() += 1;
                }
                let oldest = segments.first().copied().unwrap_or(NO_HOLD);
                assert!(hold <= oldest, "{hold} is held, points are in {segments:?}");
            }
            assert!(!model.waiting.is_empty() || entry.waiting_hold == NO_HOLD);
            assert!(!model.writing.is_empty() || entry.writing_hold == NO_HOLD);
        }
        self.reported.retain(|_, count| *count != 0);
        assert_eq!(self.reported, held);
    }
}

fn read_model(model: &Model) -> Vec<(u32, f64)> {
    let all = model.writing.iter().chain(&model.waiting);
    let last: BTreeMap<u32, f64> = all.map(|it| (it.timestamp_s, it.value)).collect();
    last.into_iter().collect()
}

fn pairs(points: &[Point]) -> Vec<(u32, f64)> {
    points.iter().map(|point| (point.timestamp_s, point.value)).collect()
}

fn read(cache: &Cache, name: &[u8]) -> Vec<(u32, f64)> {
    let mut out = Vec::new();
    if let Some(metric) = cache.lookup(name) {
        cache.read(metric, &mut out);
    }
    pairs(&out)
}

fn insert(cache: &mut Cache, name: &[u8], point: Point) -> bool {
    insert_at(cache, name, Arrival::new(point, point.timestamp_s))
}

fn insert_at(cache: &mut Cache, name: &[u8], arrival: Arrival) -> bool {
    let (metric, _) = cache.find_or_add(name);
    let mut found = [None; FIND_TOGETHER];
    cache.find_many(std::iter::once(name), &mut found);
    assert_eq!(found[0], Some(metric));
    cache.push(metric, arrival)
}

fn name_of(m: u8) -> Vec<u8> {
    format!("metric.{m}").into_bytes()
}

fn apply(cache: &mut Cache, models: &mut [Model; 5], log: &mut Holds, op: &Op) {
    match *op {
        Op::Insert(m, timestamp_s, value) => {
            let model = &mut models[usize::from(m)];
            let (metric, _) = cache.find_or_add(&name_of(m));
            log.segment += u32::from(timestamp_s.is_multiple_of(3));
            if log.is_full {
                log.late.push(m);
            } else {
                log.hold(log.segment, u32::from(cache.hold(metric, log.segment)));
                model.waiting_in.insert(log.segment);
            }
            let arrival = Arrival { timestamp_s, arrived_s: log.now_s, value };
            let is_same = |last: &Arrival| {
                (last.timestamp_s, last.arrived_s) == (timestamp_s, arrival.arrived_s)
            };
            let is_replacing = model.waiting.last().is_some_and(is_same);
            assert_eq!(insert_at(cache, &name_of(m), arrival), is_replacing);
            model.waiting.truncate(model.waiting.len() - usize::from(is_replacing));
            model.waiting.push(arrival);
        }
        Op::Forget(m) => {
            let Some(metric) = cache.lookup(&name_of(m)) else { return };
            let empty = read_model(&models[usize::from(m)]).is_empty();
            if log.late.is_empty() {
                let forgotten = cache.forget(metric).map(|(_, name)| name.to_vec());
                assert_eq!(forgotten, empty.then(|| name_of(m)));
            }
        }
        Op::Clock(now_s) => log.now_s = now_s,
        Op::Overflow => log.is_full = true,
        Op::Late => {
            log.is_full = false;
            for m in std::mem::take(&mut log.late) {
                let metric = cache.lookup(&name_of(m)).expect("not forgotten meanwhile");
                log.hold(log.segment, cache.hold_late(metric, log.segment));
                let model = &mut models[usize::from(m)];
                let chains = [
                    (&model.waiting, &mut model.waiting_in),
                    (&model.writing, &mut model.writing_in),
                ];
                for (points, segments) in chains {
                    segments.extend((!points.is_empty()).then_some(log.segment));
                }
            }
        }
        Op::Take(..) | Op::Confirm(_) | Op::ConfirmFirst(..) | Op::Restore(..) | Op::Carry(_) => {
            flush(cache, models, log, op);
        }
    }
}

/// What happens to points on their way to their file.
fn flush(cache: &mut Cache, models: &mut [Model; 5], log: &mut Holds, op: &Op) {
    let Some(m) = op.flushed() else { return };
    let Some(metric) = cache.lookup(&name_of(m)) else { return };
    let model = &mut models[usize::from(m)];
    match *op {
        Op::Take(_, points_max) => {
            if cache.is_writing(metric) || cache.waiting_of(metric) == 0 {
                return;
            }
            let mut out = Vec::new();
            let taken = cache.take(metric, points_max, &mut out);
            taken.into_iter().for_each(|segment| log.hold(segment, 1));
            model.writing = std::mem::take(&mut model.waiting);
            assert!(!out.is_empty() && out.len() <= points_max as usize);
            assert!(out.len() == model.writing.len() || model.writing.len() > points_max as usize);
            model.waiting = model.writing.split_off(out.len());
            model.writing_in = model.waiting_in.clone();
            if model.waiting.is_empty() {
                model.waiting_in.clear();
            }
            assert_eq!(out, model.writing);
        }
        Op::ConfirmFirst(_, count) => {
            let written = count.min(model.writing.len());
            let freed = cache.confirm_first(metric, written).released;
            log.release(freed.into_iter().flatten());
            let mut kept = model.writing.split_off(written);
            kept.append(&mut model.waiting);
            model.waiting = replaced(&kept);
            model.writing.clear();
            model.waiting_in.append(&mut model.writing_in);
            if model.waiting.is_empty() {
                model.waiting_in.clear();
            }
        }
        Op::Confirm(_) => {
            log.release(cache.confirm(metric));
            model.writing.clear();
            model.writing_in.clear();
        }
        Op::Restore(_, points_max) => {
            let kept = cache.restore(metric, points_max);
            log.release(kept.released.into_iter().flatten());
            let mut all = std::mem::take(&mut model.writing);
            all.append(&mut model.waiting);
            let excess = all.len().saturating_sub(points_max as usize);
            assert_eq!(kept.dropped as usize, excess);
            model.waiting = replaced(&all[excess..]);
            model.waiting_in.append(&mut model.writing_in);
            if model.waiting.is_empty() {
                model.waiting_in.clear();
            }
        }
        Op::Carry(_) => {
            let Some(before) = cache.waiting_hold(metric) else { return };
            let mut points = Vec::new();
            cache.waiting_points(metric, &mut points);
            assert_eq!(points, model.waiting);
            log.segment += 1;
            log.hold(log.segment, 1);
            assert_eq!(cache.move_hold(metric, log.segment), Some(before));
            log.release([before]);
            model.waiting_in = BTreeSet::from([log.segment]);
        }
        Op::Insert(..) | Op::Clock(_) | Op::Forget(_) | Op::Overflow | Op::Late => {}
    }
}

/// Points without those that the next one replaces.
fn replaced(points: &[Arrival]) -> Vec<Arrival> {
    let key = |point: &Arrival| (point.timestamp_s, point.arrived_s);
    let is_last = |at: usize| points.get(at + 1).is_none_or(|next| key(next) != key(&points[at]));
    (0..points.len()).filter(|&at| is_last(at)).map(|at| points[at]).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_lists(ops in ops()) {
        let mut cache = Cache::new();
        let mut models: [Model; 5] = Default::default();
        let mut log = Holds::default();
        for op in &ops {
            apply(&mut cache, &mut models, &mut log, op);
            log.check(&cache, &models);
            for (m, model) in models.iter().enumerate() {
                let name = format!("metric.{m}").into_bytes();
                prop_assert_eq!(read(&cache, &name), read_model(model));
            }
            let writing: usize = models.iter().map(|model| model.writing.len()).sum();
            prop_assert_eq!(cache.writing_count(), writing as u64);
        }
        for index in 0..cache.id_end() {
            let Some(metric) = cache.metric_at(index) else { continue };
            cache.restore(metric, u32::MAX);
            let mut out = Vec::new();
            if cache.waiting_of(metric) > 0 { cache.take(metric, 500, &mut out); }
            cache.confirm(metric);
            prop_assert!(cache.forget(metric).is_some());
        }
        prop_assert_eq!((cache.bytes(), cache.waiting_count(), cache.writing_count()), (0, 0, 0));
    }
}

/// Metrics come and go, names of all lengths; the model is a map from names to last values.
#[test]
fn names_are_found_while_others_come_and_go() {
    let (mut cache, mut state) = (Cache::new(), 1_u64);
    let mut noise = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 33) % below
    };
    let (mut model, mut number) = (BTreeMap::new(), 0_u32);
    for round in 0..10 {
        for _ in 0..15_000 {
            number += 1;
            let dots = ".long".repeat(usize::try_from(noise(12)).unwrap());
            let name = format!("metric{dots}.{number}").into_bytes();
            insert(&mut cache, &name, Point { timestamp_s: 7, value: f64::from(number) });
            model.insert(name, f64::from(number));
        }
        let share = if round % 4 == 3 { 15 } else { 6 };
        let gone: Vec<Vec<u8>> = model.keys().filter(|_| noise(16) < share).cloned().collect();
        for name in gone {
            let metric = cache.lookup(&name).unwrap();
            assert!(cache.forget(metric).is_none(), "it has a point");
            cache.take(metric, 500, &mut Vec::new());
            cache.confirm(metric);
            assert_eq!(*cache.forget(metric).unwrap().1, *name);
            assert_eq!(cache.lookup(&name), None);
            model.remove(&name);
        }
        for (name, &value) in &model {
            assert_eq!(read(&cache, name), [(7, value)]);
            assert_eq!(cache.name(cache.lookup(name).unwrap()), name);
        }
        assert_eq!(cache.metric_count(), model.len());
        let names: usize = model.keys().map(Vec::len).sum();
        let counted = cache.index_bytes() - model.len() * ENTRY_BYTES;
        assert!(counted >= names && counted <= names / 2 * 3 + 2 * names::CHUNK_BYTES);
    }
}

/// Blocks that are free go back, but not those that one of the last two periods needed.
#[test]
fn blocks_are_kept_for_the_next_round() {
    const COUNT: u32 = 50_000;
    let mut cache = Cache::new();
    let metrics: Vec<MetricId> =
        (0..COUNT).map(|m| cache.find_or_add(format!("m.{m}").as_bytes()).0).collect();
    let round = |cache: &mut Cache, timestamp_s| {
        for &metric in &metrics {
            cache.push(metric, Arrival { timestamp_s, arrived_s: 9, value: 1.0 });
        }
        cache.begin_period();
        for &metric in &metrics {
            cache.take(metric, 500, &mut Vec::new());
            cache.confirm(metric);
        }
    };
    let release = |cache: &mut Cache, is_short| {
        (0..100).for_each(|_| cache.release_some(is_short));
        cache.spare_bytes() / points::BLOCK_BYTES
    };
    for timestamp_s in 0..4 {
        round(&mut cache, timestamp_s);
        assert!(release(&mut cache, false) >= COUNT as usize);
    }
    cache.begin_period();
    assert!(release(&mut cache, false) >= COUNT as usize, "needed in the last period");
    let before = cache.spare_bytes();
    cache.begin_period();
    cache.release_some(false);
    assert!(cache.spare_bytes() > before / 3, "some at once");
    assert_eq!(release(&mut cache, false), 0);
    round(&mut cache, 4);
    assert_eq!(release(&mut cache, true), 0, "memory is short");
    assert_eq!(cache.points.bytes(), 0);
}

#[test]
fn only_a_point_of_the_same_second_and_arrival_is_replaced() {
    let mut cache = Cache::new();
    let at = |timestamp_s, arrived_s, value| Arrival { timestamp_s, arrived_s, value };
    assert!(cache.find_or_add(b"a").1 && !cache.find_or_add(b"a").1);
    let sent = [at(10, 12, 1.0), at(10, 12, 2.0), at(5, 12, 3.0), at(10, 12, 4.0), at(10, 13, 5.0)];
    let replaced: Vec<bool> = sent.iter().map(|&it| insert_at(&mut cache, b"a", it)).collect();
    assert_eq!(replaced, [false, true, false, false, false]);
    assert_eq!(read(&cache, b"a"), [(5, 3.0), (10, 5.0)]);
    let mut out = Vec::new();
    let metric = cache.lookup(b"a").unwrap();
    assert_eq!(cache.take(metric, 500, &mut out), None);
    assert_eq!(out, sent[1..]);
    assert_eq!((cache.waiting_count(), cache.writing_count()), (0, 4));
}

/// Bytes of a chain of 60 points; `late_s` gives the lateness of each in seconds.
fn chain_bytes(late_s: impl Fn(u32) -> u32) -> usize {
    let mut cache = Cache::new();
    let (metric, _) = cache.find_or_add(b"a");
    for n in 0..60 {
        let (timestamp_s, value) = (1_700_000_000 + 10 * n, f64::from(1_000 + n));
        cache.push(metric, Arrival { timestamp_s, arrived_s: timestamp_s + late_s(n), value });
    }
    cache.points.bytes()
}

#[test]
fn arrivals_take_little_memory() {
    assert_eq!(chain_bytes(|_| 0), 4 * points::BLOCK_BYTES);
    assert_eq!(chain_bytes(|_| 3), 4 * points::BLOCK_BYTES);
    let spread = chain_bytes(|n| n * 7 % 5);
    assert!(spread <= 60 * 8, "{spread} bytes for 60 points, each otherwise late");
    let together = chain_bytes(|n| 100_000 - 10 * n);
    assert!(together <= 60 * 5, "{together} bytes for 60 points that came at once");
}

fn sweep(order: &mut FlushOrder, cache: &Cache) -> Vec<MetricId> {
    order.begin(cache);
    let mut metrics = Vec::new();
    loop {
        match order.next(cache, |_| 0) {
            NextFlush::Metric(metric) => metrics.push(metric),
            NextFlush::Busy => {}
            NextFlush::Done => return metrics,
        }
    }
}

#[test]
fn points_that_come_while_the_order_is_made_harm_nothing() {
    for strategy in [WriteStrategy::Max, WriteStrategy::Sorted, WriteStrategy::Noop] {
        let mut cache = Cache::new();
        let mut order = FlushOrder::new(strategy);
        for known in 0..40u32 {
            // Metrics without points, then with points; new ones and new points in each pass.
            order.begin(&cache);
            let mut count = 0;
            loop {
                match order.next(&cache, |_| 0) {
                    NextFlush::Metric(_) => count += 1,
                    NextFlush::Busy => {}
                    NextFlush::Done => break,
                }
                let timestamp_s = 1_000 - known * 7 + count;
                insert(
                    &mut cache,
                    format!("m.{known}.{count}").as_bytes(),
                    Point { timestamp_s, value: 0.0 },
                );
                insert(
                    &mut cache,
                    b"m.0.0",
                    Point { timestamp_s: 5_000 + timestamp_s, value: 0.0 },
                );
            }
            for index in 0..cache.id_end() {
                let Some(metric) = cache.metric_at(index) else { continue };
                if known % 3 == 0 && cache.waiting_of(metric) > 0 {
                    cache.take(metric, 5_000, &mut Vec::new());
                    cache.confirm(metric);
                }
            }
        }
    }
}

#[test]
fn sweeps_visit_each_metric_once_in_the_strategys_order() {
    let mut cache = Cache::new();
    for m in 0..10_000u32 {
        let newest = 1_000 + (m * 7) % 1_000;
        for age in 0..1 + m % 9 {
            let name = format!("m.{m}");
            insert(&mut cache, name.as_bytes(), Point { timestamp_s: newest + age, value: 0.0 });
        }
    }
    for strategy in [WriteStrategy::Max, WriteStrategy::Sorted, WriteStrategy::Noop] {
        let mut order = FlushOrder::new(strategy);
        for _ in 0..2 {
            let metrics = sweep(&mut order, &cache);
            let mut seen: Vec<usize> = metrics.iter().map(|metric| metric.index()).collect();
            let keys: Vec<(u32, u32)> = metrics.iter().map(|&m| cache.order_keys(m)).collect();
            match strategy {
                WriteStrategy::Max => assert!(keys.windows(2).all(|k| k[0].0 >= k[1].0)),
                WriteStrategy::Sorted => assert!(keys.windows(2).all(|k| k[0].1 <= k[1].1)),
                WriteStrategy::Noop => assert!(seen.windows(2).all(|k| k[0] < k[1])),
            }
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 10_000);
        }
    }
}

#[test]
fn a_sweep_by_place_visits_each_metric_once_and_neighbours_together() {
    // Few places and many, spread evenly and in groups far from each other, as XFS numbers inodes.
    let spreads: [fn(u64) -> u64; 3] =
        [|m| (m * 7_919) % 30_011, |m| (m % 4) << 40 | ((m * 7_919) % 30_011), |m| m % 3];
    let mut cache = Cache::new();
    for m in 0..30_000u32 {
        insert(&mut cache, format!("m.{m}").as_bytes(), Point { timestamp_s: 1_000, value: 0.0 });
    }
    for place_of in spreads {
        for strategy in [WriteStrategy::Max, WriteStrategy::Noop] {
            let mut order = FlushOrder::new(strategy);
            order.begin_by_place(&cache);
            let place = |metric: MetricId| place_of(metric.index() as u64);
            let mut keys = Vec::new();
            loop {
                match order.next(&cache, place) {
                    NextFlush::Metric(metric) => keys.push((place(metric), metric.index())),
                    NextFlush::Busy => {}
                    NextFlush::Done => break,
                }
            }
            assert_eq!(keys.len(), 30_000);
            let wrong = keys.windows(2).find(|pair| pair[0] >= pair[1]);
            assert_eq!(wrong, None, "in order of place, then id");
        }
    }
}
