//! The cache against a model: a plain map per metric, and the order of sweeps.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Op {
    Insert(u8, u32, f64),
    Take(u8, u32),
    Confirm(u8),
    Restore(u8, u32),
    Forget(u8),
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
        1 => (0u8..5).prop_map(Op::Confirm),
        1 => (0u8..5, 1u32..30).prop_map(|(m, n)| Op::Restore(m, n)),
        1 => (0u8..5).prop_map(Op::Forget),
    ];
    prop::collection::vec(op, 0..800)
}

#[derive(Default, Clone)]
struct Model {
    waiting: BTreeMap<u32, f64>,
    writing: BTreeMap<u32, f64>,
}

fn read_model(model: &Model) -> Vec<(u32, f64)> {
    let mut all = model.writing.clone();
    all.extend(model.waiting.iter());
    all.into_iter().collect()
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

fn insert(cache: &mut Cache, name: &[u8], point: Point) -> u32 {
    let (metric, _) = cache.find_or_add(name);
    let mut found = [None; FIND_TOGETHER];
    cache.find_many(std::iter::once(name), &mut found);
    assert_eq!(found[0], Some(metric));
    cache.push(metric, point)
}

fn apply(cache: &mut Cache, models: &mut [Model; 5], op: &Op) {
    let name_of = |m: u8| format!("metric.{m}").into_bytes();
    match *op {
        Op::Insert(m, timestamp_s, value) => {
            insert(cache, &name_of(m), Point { timestamp_s, value });
            models[usize::from(m)].waiting.insert(timestamp_s, value);
        }
        Op::Take(m, points_max) => {
            let model = &mut models[usize::from(m)];
            let Some(metric) = cache.lookup(&name_of(m)) else { return };
            if cache.is_writing(metric) || cache.waiting_of(metric) == 0 {
                return;
            }
            let mut out = Vec::new();
            cache.take(metric, points_max, &mut out);
            model.writing = std::mem::take(&mut model.waiting);
            let rest = model.writing.keys().nth(out.len()).copied();
            assert!(!out.is_empty() && out.len() <= points_max as usize);
            assert!(rest.is_none() || model.writing.len() > points_max as usize);
            model.waiting = rest.map(|rest| model.writing.split_off(&rest)).unwrap_or_default();
            assert_eq!(pairs(&out), model.writing.clone().into_iter().collect::<Vec<_>>());
        }
        Op::Confirm(m) => {
            let Some(metric) = cache.lookup(&name_of(m)) else { return };
            cache.confirm(metric);
            models[usize::from(m)].writing.clear();
        }
        Op::Restore(m, points_max) => {
            let Some(metric) = cache.lookup(&name_of(m)) else { return };
            let model = &mut models[usize::from(m)];
            let (_, dropped) = cache.restore(metric, points_max);
            let mut all = read_model(model);
            let excess = all.len().saturating_sub(points_max as usize);
            assert_eq!(dropped as usize, excess);
            model.waiting = all.drain(excess..).collect();
            model.writing.clear();
        }
        Op::Forget(m) => {
            let Some(metric) = cache.lookup(&name_of(m)) else { return };
            let empty = read_model(&models[usize::from(m)]).is_empty();
            assert_eq!(cache.forget(metric), empty);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn behaves_like_a_map(ops in ops()) {
        let mut cache = Cache::new();
        let mut models: [Model; 5] = Default::default();
        for op in &ops {
            apply(&mut cache, &mut models, op);
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
            prop_assert!(cache.forget(metric));
        }
        prop_assert_eq!((cache.bytes(), cache.waiting_count(), cache.writing_count()), (0, 0, 0));
    }
}

#[test]
fn counts_what_a_point_replaces() {
    let mut cache = Cache::new();
    let point = |timestamp_s, value| Point { timestamp_s, value };
    assert!(cache.find_or_add(b"a").1 && !cache.find_or_add(b"a").1);
    assert_eq!(insert(&mut cache, b"a", point(10, 1.0)), 0);
    assert_eq!(insert(&mut cache, b"a", point(10, 2.0)), 1);
    assert_eq!(insert(&mut cache, b"a", point(5, 3.0)), 0);
    assert_eq!(insert(&mut cache, b"a", point(5, 4.0)), 0);
    let mut out = Vec::new();
    let metric = cache.lookup(b"a").unwrap();
    assert_eq!(cache.take(metric, 500, &mut out), 1);
    assert_eq!(pairs(&out), [(5, 4.0), (10, 2.0)]);
    assert_eq!((cache.waiting_count(), cache.writing_count()), (0, 2));
}

#[test]
fn repeated_old_timestamps_do_not_grow_a_chain() {
    let mut cache = Cache::new();
    for round in 0..100_000u32 {
        insert(&mut cache, b"a", Point { timestamp_s: 100 + round % 2, value: 1.0 });
    }
    assert!(cache.waiting_count() < 200, "{} points of two seconds", cache.waiting_count());
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
