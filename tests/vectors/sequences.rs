//! Random updates and fetches that Python whisper carried out too: the same bytes after each.
//!
//! `CARBYNE_SEQUENCES` names a file of sequences, one JSON object a line, as
//! `tests/interop/sequences.py` writes them; `tests/interop/test_whisper_fuzz.py` makes thousands
//! of new ones and runs this. Without the variable the forty in `tests/data` are run.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::support::whisper_file::{Fetched, File};
use carbyne::metric::point::Point;
use carbyne::metric::series::Aggregation;
use carbyne::whisper::{Bases, FetchError, METADATA_BYTES, Update};
use serde_json::Value;

/// Sequences that went wrong and are told; of the others only the number.
const TOLD_MAX: usize = 5;

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().unwrap()).unwrap()
}

fn aggregation(value: &Value) -> Aggregation {
    Aggregation::from_name(value.as_str().unwrap()).unwrap()
}

fn points(op: &Value) -> Vec<Point> {
    let point = |pair: &Value| Point {
        timestamp_s: number(&pair[0]),
        value: f64::from_bits(u64::from_str_radix(pair[1].as_str().unwrap(), 16).unwrap()),
    };
    op["points"].as_array().unwrap().iter().map(point).collect()
}

fn apply(file: &mut File, job: &mut Update, op: &Value) {
    if op["forget"].as_bool().unwrap() {
        file.bases = Bases::UNKNOWN;
    }
    match op["op"].as_str().unwrap() {
        "many" => {
            file.update_many(job, &points(op), number(&op["now"]));
        }
        "one" => {
            let begun = file.update(job, points(op)[0], number(&op["now"]));
            assert_eq!(begun.is_ok(), op["covered"].as_bool().unwrap());
        }
        "meta" => {
            file.header.aggregation = aggregation(&op["method"]);
            file.header.x_files_factor = f32::from_bits(number(&op["xff"]));
            file.bytes[..METADATA_BYTES].copy_from_slice(&file.header.encode_metadata16());
        }
        other => panic!("unknown operation {other}"),
    }
}

/// An answer as `sequences.py` writes it.
fn text_of(fetched: Fetched) -> String {
    let (fetch, values) = match fetched {
        Err(FetchError::FromAfterUntil) => return "InvalidTimeInterval".to_owned(),
        Err(FetchError::NoSuchStep) => return "ValueError".to_owned(),
        Ok(None) => return "none".to_owned(),
        Ok(Some(answer)) => answer,
    };
    let text = |value: &Option<f64>| {
        value.map_or("-".to_owned(), |value| format!("{:016x}", value.to_bits()))
    };
    let values: Vec<String> = values.iter().map(text).collect();
    let (from_s, until_s) = (fetch.from_s(), fetch.until_s());
    format!("{from_s} {until_s} {} {}", fetch.step_s(), values.join(","))
}

/// Carries a sequence out; panics at the first difference.
fn run(sequence: &Value) {
    let pair = |pair: &Value| (number(&pair[0]), number(&pair[1]));
    let shape: Vec<(u32, u32)> =
        sequence["archives"].as_array().unwrap().iter().map(pair).collect();
    let x_files_factor = f32::from_bits(number(&sequence["xff"]));
    let mut file = File::create(&shape, x_files_factor, aggregation(&sequence["method"]));
    let mut job = Update::new();
    for (n, op) in sequence["ops"].as_array().unwrap().iter().enumerate() {
        apply(&mut file, &mut job, op);
        assert_eq!(file.sha256(), op["want"].as_str().unwrap(), "operation {n}");
    }
    for want in sequence["fetches"].as_array().unwrap() {
        let (from_s, until_s) = (want["from"].as_i64().unwrap(), want["until"].as_i64().unwrap());
        let step_s = (!want["step"].is_null()).then(|| number(&want["step"]));
        let got = text_of(file.fetch(from_s, until_s, number(&want["now"]), step_s));
        assert_eq!(got, want["want"].as_str().unwrap(), "{want}");
    }
}

#[test]
fn sequences_leave_the_bytes_that_whisper_leaves() {
    let text = match std::env::var("CARBYNE_SEQUENCES") {
        Ok(path) => std::fs::read_to_string(path).unwrap(),
        Err(_) => include_str!("../data/whisper-sequences.jsonl").to_owned(),
    };
    let (mut ran, mut wrong) = (0, Vec::new());
    for line in text.lines() {
        let sequence: Value = serde_json::from_str(line).unwrap();
        if catch_unwind(AssertUnwindSafe(|| run(&sequence))).is_err() {
            wrong.push(line);
        }
        ran += 1;
    }
    let told = wrong.iter().take(TOLD_MAX).copied().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} of {ran} sequences differ:\n{told}", wrong.len());
    assert!(ran >= 40, "only {ran} sequences");
}
