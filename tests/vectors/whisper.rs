//! Our Whisper files against the ones Python whisper 1.1.10 wrote (`tests/data/whisper*.json`,
//! `corrupt.json`), and against bytes nobody would write on purpose.
//!
//! A file is a `Vec<u8>` here (`support/whisper_file.rs`).

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::collections::BTreeSet;

use crate::support::seeds::Chance;
use crate::support::whisper_file::{Fetched, File, to_u64, to_usize};
use carbyne::metric::point::Point;
use carbyne::metric::series::Aggregation;
use carbyne::whisper::{
    Bases, Fetch, FetchError, HEADER_BYTES_MAX, Header, HeaderError, METADATA_BYTES, Resample,
    Update, migrate, overlay, resize,
};
use serde_json::Value;

/// Vectors that are not run, and why.
const NOT_RUN: [(&str, &str); 3] = [
    ("W62-negative-ts", "timestamps are u32: a receiver refuses negative ones"),
    ("W63-big-ts", "timestamps are u32: a receiver refuses greater ones"),
    ("W65-overrun", "whisper's overrun into the next archive is clipped; see its own test"),
];

fn vectors(text: &str) -> Vec<Value> {
    let file: Value = serde_json::from_str(text).unwrap();
    file["vectors"].as_array().unwrap().clone()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// A timestamp as whisper takes it: the integer part.
fn seconds(value: &Value) -> i64 {
    let whole = || format!("{:.0}", value.as_f64().unwrap().trunc());
    value.as_i64().unwrap_or_else(|| whole().parse().unwrap())
}

fn seconds_u32(value: &Value) -> u32 {
    u32::try_from(seconds(value)).unwrap()
}

/// `[bits in hexadecimal, repr]`.
fn float(value: &Value) -> f64 {
    f64::from_bits(u64::from_str_radix(text(&value[0]), 16).unwrap())
}

fn f32_of(value: &Value) -> f32 {
    value.as_number().unwrap().to_string().parse().unwrap()
}

fn create(vector: &Value) -> File {
    let create = &vector["create"];
    let pair = |pair: &Value| (seconds_u32(&pair[0]), seconds_u32(&pair[1]));
    let mut shape: Vec<(u32, u32)> =
        create["archives"].as_array().unwrap().iter().map(pair).collect();
    shape.sort_unstable();
    let aggregation = Aggregation::from_name(text(&create["agg"])).unwrap();
    File::create(&shape, f32_of(&create["xff"]), aggregation)
}

/// Rewrites method and xFilesFactor in place, as `setAggregationMethod` and `setXFilesFactor` do.
fn rewrite_metadata(file: &mut File, op: &Value) {
    let old = file.header.clone();
    if op["op"] == "set_agg" {
        assert_eq!(
            op["returned"].as_str().unwrap_or(old.aggregation.name()),
            old.aggregation.name()
        );
        match Aggregation::from_name(text(&op["agg"])) {
            Some(aggregation) => file.header.aggregation = aggregation,
            None => assert_eq!(op["error"], "InvalidAggregationMethod"),
        }
    }
    if !op["xff"].is_null() {
        let x_files_factor = f32_of(&op["xff"]);
        if (0.0..=1.0).contains(&x_files_factor) {
            file.header.x_files_factor = x_files_factor;
        } else {
            assert_eq!(op["error"], "InvalidXFilesFactor");
        }
    }
    file.bytes[..METADATA_BYTES].copy_from_slice(&file.header.encode_metadata16());
    assert_eq!(Header::parse(&file.bytes, to_u64(file.bytes.len())), Ok(file.header.clone()));
}

fn apply(file: &mut File, job: &mut Update, op: &Value) {
    match text(&op["op"]) {
        "update" => {
            let timestamp_s = seconds_u32(&op["timestamp"]);
            let point = Point { timestamp_s, value: float(&op["value"]) };
            let begun = file.update(job, point, seconds_u32(&op["now"]));
            assert_eq!(begun.is_err(), op["error"] == "TimestampNotCovered", "{op}");
        }
        "update_many" => {
            let point =
                |pair: &Value| Point { timestamp_s: seconds_u32(&pair[0]), value: float(&pair[1]) };
            let points: Vec<Point> = op["points"].as_array().unwrap().iter().map(point).collect();
            let outcome = file.update_many(job, &points, seconds_u32(&op["now"]));
            assert_eq!(outcome.points_used + outcome.points_too_old, points.len());
        }
        _ => rewrite_metadata(file, op),
    }
}

/// `10s`, `60s`, `1min`.
fn granularity(value: &Value) -> Option<u32> {
    let text = value.as_str()?;
    let unit_s = if text.ends_with("min") { 60 } else { 1 };
    Some(text.trim_end_matches(char::is_alphabetic).parse::<u32>().unwrap() * unit_s)
}

fn check_fetch(id: &str, file: &File, want: &Value) {
    let (from_s, until_s) = (seconds(&want["from"]), seconds(&want["until"]));
    let step_s = granularity(&want["archiveToSelect"]);
    let got = file.fetch(from_s, until_s, seconds_u32(&want["now"]), step_s);
    let error = match got {
        Ok(_) => None,
        Err(FetchError::FromAfterUntil) => Some("InvalidTimeInterval"),
        Err(FetchError::NoSuchStep) => Some("ValueError"),
    };
    assert_eq!(error, want["error"].as_str(), "{id}: {want}");
    let Ok(got) = got else { return };
    assert_eq!(got.is_none(), want["result"].is_null(), "{id}: {want}");
    let Some((fetch, values)) = got else { return };
    let times = [fetch.from_s(), fetch.until_s(), i64::from(fetch.step_s())];
    let want_times: Vec<i64> =
        want["result"]["time_info"].as_array().unwrap().iter().map(seconds).collect();
    assert_eq!(times[..], want_times, "{id}: {want}");
    let want_bits = |value: &Value| (!value.is_null()).then(|| float(value).to_bits());
    let want_values: Vec<Option<u64>> =
        want["result"]["values"].as_array().unwrap().iter().map(want_bits).collect();
    let values: Vec<Option<u64>> = values.iter().map(|value| value.map(f64::to_bits)).collect();
    assert_eq!(values, want_values, "{id}: {want}");
}

/// Runs a vector; with `forget`, no base is remembered from one call to the next.
fn run(vector: &Value, job: &mut Update, forget: bool) {
    let id = text(&vector["id"]);
    let mut file = create(vector);
    assert_eq!(file.sha256(), text(&vector["sha256_after_create"]), "{id}");
    for (n, op) in vector["ops"].as_array().unwrap().iter().enumerate() {
        if forget {
            file.bases = Bases::UNKNOWN;
        }
        apply(&mut file, job, op);
        assert_eq!(file.sha256(), text(&op["sha256"]), "{id} after call {n}, forget {forget}");
    }
    assert_eq!(file.sha256(), text(&vector["final_sha256"]), "{id}");
    for want in vector["fetches"].as_array().unwrap() {
        check_fetch(id, &file, want);
    }
}

fn run_all(json: &str) -> (usize, Vec<String>) {
    let (mut ran, mut not_run) = (0, Vec::new());
    let mut job = Update::new();
    for vector in vectors(json) {
        let id = text(&vector["id"]);
        if NOT_RUN.iter().any(|(other, _)| *other == id) {
            not_run.push(id.to_owned());
            continue;
        }
        run(&vector, &mut job, false);
        run(&vector, &mut job, true);
        ran += 1;
    }
    (ran, not_run)
}

#[test]
fn named_vectors() {
    let (ran, not_run) = run_all(include_str!("../data/whisper.json"));
    assert_eq!(ran, 106);
    assert_eq!(not_run, NOT_RUN.map(|(id, _)| id));
}

#[test]
fn random_vectors() {
    let (ran, not_run) = run_all(include_str!("../data/whisper-fuzz.json"));
    assert_eq!((ran, not_run.len()), (200, 0));
}

#[test]
fn random_batches() {
    let (ran, not_run) = run_all(include_str!("../data/whisper-batch.json"));
    assert_eq!((ran, not_run.len()), (80, 0));
}

#[test]
fn a_run_longer_than_its_ring_is_clipped() {
    let now_s = 1_700_000_000;
    let mut file = File::create(&[(60, 4), (240, 6)], 1.0, Aggregation::Average);
    let points: Vec<Point> = (0_u32..11)
        .map(|n| Point { timestamp_s: now_s + 60 * n, value: f64::from(n + 1) })
        .collect();
    let outcome = file.update_many(&mut Update::new(), &points, now_s);
    assert_eq!((outcome.points_used, file.bytes.len()), (11, 160));
    let now_s = now_s + 600;
    let (_, values) =
        file.fetch(i64::from(now_s) - 240, i64::from(now_s), now_s, None).unwrap().unwrap();
    assert_eq!(values, [Some(8.0), Some(9.0), Some(10.0), Some(11.0)]);
    let (fetch, values) =
        file.fetch(i64::from(now_s) - 960, i64::from(now_s), now_s, None).unwrap().unwrap();
    // Only the last window of four minutes is still held by the ring.
    assert_eq!((fetch.from_s(), values), (1_699_999_680, vec![None, None, None, Some(9.5)]));
}

/// graphite-web's `merge_with_cache`, whose arguments the vectors name.
#[test]
fn cached_points_over_fetched_values() {
    // Where graphite-web raises, the answer that the method's name asks for.
    let raised = [
        ("lower-absmax", [Some(3.0), Some(7.0), Some(30.0), None, Some(50.0)]),
        ("lower-absmin", [Some(1.0), Some(7.0), Some(30.0), None, Some(50.0)]),
    ];
    let (mut ran, mut raised_count) = (0, 0);
    for vector in vectors(include_str!("../data/merge.json")) {
        let id = text(&vector["id"]);
        let (start_s, step_s) = (seconds(&vector["start"]), seconds_u32(&vector["step"]));
        // Nothing is rolled up without a method and a finest step; we always know both.
        let finest_s =
            if vector["raw_step"].is_null() { step_s } else { seconds_u32(&vector["raw_step"]) };
        let aggregation = vector["func"]
            .as_str()
            .map_or(Aggregation::Average, |name| Aggregation::from_name(name).unwrap());
        let shape: &[(u32, u32)] =
            if finest_s == step_s { &[(step_s, 99)] } else { &[(finest_s, 99), (step_s, 99)] };
        let header = File::create(shape, 0.5, aggregation).header;
        let values = vector["values"].as_array().unwrap();
        let until_s = start_s + i64::from(step_s) * (i64::try_from(values.len()).unwrap() - 1);
        let fetch =
            Fetch::of_archive(&header, shape.len() - 1, start_s - i64::from(step_s), until_s);
        assert_eq!((fetch.from_s(), fetch.step_s()), (start_s, step_s), "{id}");
        let mut values: Vec<Option<f64>> = values.iter().map(Value::as_f64).collect();
        // No cache has a point without a value: the carbonlink client refuses such an answer.
        let cached = vector["cached"].as_array().unwrap().iter().filter(|pair| !pair[1].is_null());
        let cached: Vec<Point> = cached
            .map(|pair| Point {
                timestamp_s: seconds_u32(&pair[0]),
                value: pair[1].as_f64().unwrap(),
            })
            .collect();
        overlay(&mut values, &fetch, &header, &cached);
        if let Some((_, want)) = raised.iter().find(|(other, _)| *other == id) {
            assert!(vector["raised"].is_string(), "{id}");
            assert_eq!(values, want, "{id}");
            raised_count += 1;
            continue;
        }
        let want = vector["result"].as_array().unwrap().iter().map(Value::as_f64);
        assert_eq!(values, want.collect::<Vec<Option<f64>>>(), "{id}");
        ran += 1;
    }
    assert_eq!((ran, raised_count), (16, raised.len()));
}

/// Python's `repr` of a fetch.
fn repr(got: Fetched) -> String {
    let Some((fetch, values)) = got.unwrap() else { return "None".to_owned() };
    let value = |value: &Option<f64>| value.map_or("None".to_owned(), |value| format!("{value:?}"));
    let values: Vec<String> = values.iter().map(value).collect();
    let (from_s, until_s, step_s) = (fetch.from_s(), fetch.until_s(), fetch.step_s());
    format!("(({from_s}, {until_s}, {step_s}), [{}])", values.join(", "))
}

fn base64(text: &str) -> Vec<u8> {
    let digit = |byte: u8| match byte {
        b'A'..=b'Z' => byte - b'A',
        b'a'..=b'z' => byte - b'a' + 26,
        b'0'..=b'9' => byte - b'0' + 52,
        b'+' => 62,
        b'/' => 63,
        _ => panic!("{byte} in base64"),
    };
    let digits: Vec<u8> = text.trim_end_matches('=').bytes().map(digit).collect();
    let bytes = digits.chunks(4).flat_map(|chunk| {
        let bits = chunk.iter().fold(0_u32, |bits, digit| bits << 6 | u32::from(*digit));
        let bits = bits << (6 * (4 - chunk.len()));
        bits.to_be_bytes()[1..chunk.len()].to_vec()
    });
    bytes.collect()
}

#[test]
fn damaged_files() {
    use HeaderError::*;
    // What Python opens and we refuse: bytes it would lose, invent or misplace.
    let stricter = [
        ("40-bytes", FileTooShort { needed: 148, found: 40 }),
        ("45-bytes", FileTooShort { needed: 148, found: 45 }),
        ("52-bytes", FileTooShort { needed: 148, found: 52 }),
        ("57-bytes", FileTooShort { needed: 148, found: 57 }),
        ("one-byte-short", FileTooShort { needed: 148, found: 147 }),
        ("one-point-short", FileTooShort { needed: 148, found: 136 }),
        ("zero-archives", NoArchives),
        ("step-0", ZeroStep),
        ("points-0", ZeroPoints),
        ("offset-beyond-end", Overlapping),
        ("offset-in-header", Overlapping),
        ("archives-swapped", StepsNotAscending),
    ];
    let now_s = 1_700_000_000;
    let (mut read_alike, mut refused_alike) = (0, 0);
    for vector in vectors(include_str!("../data/corrupt.json")) {
        let id = text(&vector["id"]);
        let opened = File::open(base64(text(&vector["file_b64"])));
        if let Some((_, want)) = stricter.iter().find(|(other, _)| *other == id) {
            assert!(vector["info"]["ok"].is_string(), "{id}");
            assert_eq!(opened.map(|file| file.header), Err(*want), "{id}");
            continue;
        }
        if vector["info"]["error"].is_string() {
            assert!(opened.is_err(), "{id}");
            refused_alike += 1;
            continue;
        }
        let mut file = opened.unwrap();
        let until_s = i64::from(now_s);
        for (key, from_s) in [("fetch_300s", until_s - 300), ("fetch_1200s", until_s - 1_200)] {
            let got = repr(file.fetch(from_s, until_s, now_s, None));
            assert_eq!(got, text(&vector[key]["ok"]), "{id} {key}");
        }
        let point = Point { timestamp_s: now_s - 120, value: 5.0 };
        file.update_many(&mut Update::new(), &[point], now_s);
        assert_eq!(file.bytes, base64(text(&vector["bytes_after_b64"])), "{id}");
        read_alike += 1;
    }
    assert_eq!((read_alike, refused_alike, stricter.len()), (9, 13, 12));
}

const SHAPES: [&[(u32, u32)]; 4] = [
    &[(60, 5)],
    &[(10, 6), (60, 10)],
    &[(10, 13), (20, 14), (60, 15), (120, 16)],
    &[(1, 60), (60, 60), (3_600, 24)],
];

/// Overwrites a few bytes, mostly of the header and the first slots, with noise or with the
/// numbers that break arithmetic, and now and then cuts or extends the file.
fn damage(bytes: &mut Vec<u8>, random: &mut Chance) {
    for _ in 0..=random.below(4) {
        let near = if random.below(3) > 0 { 88.min(bytes.len()) } else { bytes.len() };
        let at = random.below(near - 4);
        let word = match random.below(5) {
            0 => [0; 4],
            1 => [0xff; 4],
            2 => [0, 0, 0, random.byte()],
            3 => [0x7f, 0xff, 0xff, 0xff],
            _ => [random.byte(), random.byte(), random.byte(), random.byte()],
        };
        let (aligned, single) = (at - at % 4, random.below(2) == 0);
        if single {
            bytes[at] = word[3];
        } else {
            bytes[aligned..aligned + 4].copy_from_slice(&word);
        }
    }
    match random.below(24) {
        0 | 1 => bytes.truncate(random.below(bytes.len())),
        2 | 3 => bytes.resize(bytes.len() + random.below(1_000), 0xa5),
        4 if random.below(8) == 0 => bytes.clear(),
        5 if random.below(8) == 0 => bytes[..18].copy_from_slice(b"whisper_compressed"),
        _ => {}
    }
}

fn some_points(random: &mut Chance, now_s: u32) -> Vec<Point> {
    let reach_s = [30, 600, 5_000, 100_000, now_s][random.below(5)];
    let count = random.below(40);
    let timestamp_s = |random: &mut Chance| match random.below(8) {
        0 => now_s.saturating_add(random.below_u32(reach_s)),
        1 => random.below_u32(u32::MAX),
        _ => now_s.saturating_sub(random.below_u32(reach_s)),
    };
    (0..count).map(|_| Point { timestamp_s: timestamp_s(random), value: 1.5 }).collect()
}

#[test]
fn damaged_files_stay_within_bounds() {
    let (mut opened, mut refused, mut reasons) = (0_u32, 0_u32, BTreeSet::new());
    let mut job = Update::new();
    for seed in 0..20_000 {
        let mut random = Chance::new(seed);
        let shape = SHAPES[to_usize(seed % 4)];
        let now_s = [1_700_000_000, 90, u32::MAX][random.below(3)];
        let mut file = File::create(shape, 0.3, Aggregation::ALL[to_usize(seed / 4 % 8)]);
        file.update_many(&mut job, &some_points(&mut random, now_s), now_s);
        let mut bytes = file.bytes;
        damage(&mut bytes, &mut random);
        let file_bytes = bytes.len();
        let mut file = match File::open(bytes) {
            Ok(file) => file,
            Err(error) => {
                refused += 1;
                reasons.insert(format!("{error:?}").split(['(', ' ']).next().unwrap().to_owned());
                continue;
            }
        };
        opened += 1;
        for _ in 0..3 {
            let points = some_points(&mut random, now_s);
            let outcome = file.update_many(&mut job, &points, now_s);
            assert_eq!(outcome.points_used + outcome.points_too_old, points.len(), "seed {seed}");
            for point in points.iter().take(3) {
                let _ = file.update(&mut job, *point, now_s);
            }
            let from_s = i64::from(now_s) - i64::from(random.below_u32(u32::MAX));
            let step_s = (random.below(2) == 0).then_some(60);
            let _ = file.fetch(from_s, i64::from(now_s), now_s, step_s);
        }
        assert_eq!(file.bytes.len(), file_bytes, "seed {seed}");
        if seed % 16 == 0 {
            let new = File::create(SHAPES[random.below(4)], 0.5, Aggregation::Sum);
            let migrated = migrate(&file.bytes, &file.header, &new.header, now_s);
            assert_eq!(migrated.len(), new.bytes.len(), "seed {seed}");
            for how in [Resample::Keep, Resample::Aggregate(0.5)] {
                let resized = resize(&file.bytes, &file.header, &new.header, how, now_s);
                assert_eq!(resized.len(), new.bytes.len(), "seed {seed}");
            }
        }
    }
    assert!(opened > 5_000 && refused > 5_000, "{opened} opened, {refused} refused");
    // Every reason but that of files beyond 4 GiB, for which `Header` has a test.
    let want = [
        "BadAggregation",
        "BadXFilesFactor",
        "Compressed",
        "Empty",
        "FileTooShort",
        "NoArchives",
        "Overlapping",
        "RetentionTooLong",
        "StepsNotAscending",
        "TooManyArchives",
        "TooShort",
        "ZeroPoints",
        "ZeroStep",
    ];
    assert_eq!(reasons.into_iter().collect::<Vec<String>>(), want);
}

#[test]
fn noise_is_no_header() {
    for seed in 0..100_000 {
        let mut random = Chance::new(seed);
        let mut bytes = vec![0; random.below(240)];
        bytes
            .iter_mut()
            .for_each(|byte| *byte = if random.below(2) == 0 { 0 } else { random.byte() });
        if bytes.len() > 16 {
            bytes[..4].copy_from_slice(&[0, 0, 0, 1]);
            bytes[8..16].copy_from_slice(&[0x3f, 0, 0, 0, 0, 0, 0, random.byte() % 20]);
        }
        let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
        let file_bytes = random.next();
        if let Ok(header) = Header::parse(head, file_bytes) {
            assert!(header.file_bytes() <= file_bytes, "seed {seed}");
            assert!(header.header_bytes() < header.file_bytes(), "seed {seed}");
        }
    }
}

#[test]
fn batches_cost_few_transfers() {
    let now_s = 1_700_000_000;
    // The oldest point of each batch is at this many seconds in its window of ten minutes. With
    // the geometry known nothing is read but slots: `drive` checks that no transfer touches the
    // header. `pythons` are whisper 1.1.10's data reads and writes for the same batch; it reads
    // the header too, four times.
    let check = |count: u32, phase_s: u32, wanted: (usize, usize), pythons: (usize, usize)| {
        let shape = [(10, 2_160), (60, 10_080), (600, 52_560)];
        let mut file = File::create(&shape, 0.5, Aggregation::Average);
        let mut job = Update::new();
        let points = |from_s: u32, count: u32| -> Vec<Point> {
            let point = |n: u32| Point { timestamp_s: from_s + 10 * n, value: f64::from(n) };
            (0..count).map(point).collect()
        };
        let start_s = now_s - now_s % 600 + phase_s;
        file.update_many(&mut job, &points(start_s - 3_600, 360), start_s);
        let batch = points(start_s, count);
        let outcome = file.update_many(&mut job, &batch, start_s + 10 * count);
        let got = (outcome.read_count, outcome.write_count);
        assert_eq!(got, wanted, "{count} points, phase {phase_s}");
        assert!(got.0 < pythons.0 && got.1 <= pythons.1, "{count} points, phase {phase_s}");
    };
    check(1, 0, (2, 1), (3, 1));
    check(1, 10, (2, 1), (3, 1));
    check(1, 50, (2, 2), (6, 2));
    check(1, 590, (2, 3), (7, 3));
    check(6, 0, (1, 2), (6, 2));
    check(6, 330, (2, 3), (10, 4));
    check(60, 0, (1, 3), (34, 12));
    check(60, 30, (2, 3), (39, 13));
    check(60, 310, (2, 3), (39, 13));
    check(360, 0, (1, 3), (199, 67));
    check(360, 310, (3, 3), (204, 68));
}
