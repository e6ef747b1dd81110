//! Schemas, aggregation rules and retentions against carbon's and go-carbon's own answers.
//!
//! `tests/data/retention.json` was written by carbon 1.1.10 on Python 3.11 and by go-carbon's
//! parser.
//! Repeated: `cargo test --test vectors schema::`.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use carbyne::metric::series::{Aggregation, Retention, check_archives};
use carbyne::schema::retention::{read_as_carbon, read_as_go_carbon};
use carbyne::schema::{Rules, Source};
use serde_json::Value;

/// Retention strings that carbon takes and this node refuses: digits that are not ASCII.
const REFUSED_RETENTIONS: [&str; 1] = ["\u{661}\u{660}s:1d"];

/// A schema file that carbon takes though its step of zero can make no file: skipped here.
const ZERO_STEP_SCHEMA: &str = "S30-zero-precision";

fn vectors(list: &str) -> Vec<Value> {
    let data: Value = serde_json::from_str(include_str!("../data/retention.json")).unwrap();
    data[list].as_array().unwrap().clone()
}

fn source(text: &str) -> Source<'_> {
    Source { file: "test.conf", text }
}

fn pair(value: &Value) -> Option<(i64, i64)> {
    Some((value[0].as_i64()?, value[1].as_i64()?))
}

fn retention(value: &Value) -> Retention {
    let narrow = |value: &Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    Retention { step_s: narrow(&value[0]), slot_count: narrow(&value[1]) }
}

#[test]
fn retentions_are_read_as_carbon_reads_them_and_differences_are_told() {
    let (mut compared, mut told) = (0, 0);
    for vector in vectors("retention_defs") {
        let text = vector["in"].as_str().unwrap();
        let go_carbon = pair(&vector["go_carbon"]["ok"]);
        assert_eq!(read_as_go_carbon(text), go_carbon, "go-carbon's reading of {text:?}");
        let carbon = read_as_carbon(text);
        let want = pair(&vector["carbon"]["ok"]);
        if REFUSED_RETENTIONS.contains(&text) {
            assert!(carbon.is_err() && want.is_some(), "{text:?}");
        } else {
            let got = carbon.map(|it| (i64::from(it.step_s), i64::from(it.slot_count)));
            assert_eq!(got.ok(), want, "carbon's reading of {text:?}");
        }
        compared += 1;

        let file = format!("[a]\npattern = .\nretentions = {text}\n");
        match Rules::parse(&source(&file), None) {
            Err(error) => {
                // A trailing comma makes two retentions of one, the second of them empty.
                assert!(carbon.is_err(), "{error}");
                let mentions = error.reason.contains("go-carbon reads");
                assert_eq!(mentions, go_carbon.is_some(), "{error}");
            }
            Ok((_, notices)) => {
                let mentions = notices.iter().any(|it| it.reason.contains("go-carbon reads"));
                assert_eq!(mentions, go_carbon != want, "{text:?}: {notices:?}");
                told += usize::from(mentions);
            }
        }
    }
    assert_eq!((compared, told), (47, 1), "retentions compared, differences told");
}

#[test]
fn archive_lists_are_checked_as_whisper_checks_them() {
    let (mut same, mut stricter) = (0, 0);
    for vector in vectors("archive_lists") {
        let mut archives: Vec<Retention> =
            vector["archives"].as_array().unwrap().iter().map(retention).collect();
        archives.sort_by_key(|archive| archive.step_s);
        let is_valid = check_archives(&archives).is_ok();
        // Whisper lets a step or a count of zero pass in the last archive.
        if archives.iter().any(|archive| archive.step_s == 0 || archive.slot_count == 0) {
            assert!(!is_valid, "{archives:?}");
            stricter += 1;
        } else {
            assert_eq!(is_valid, vector["valid"].as_bool().unwrap(), "{archives:?}");
            same += 1;
        }
    }
    assert_eq!((same, stricter), (15, 3), "lists compared");
}

#[test]
fn schema_files_are_read_as_carbon_reads_them() {
    let (mut compared, mut refused) = (0, 0);
    for vector in vectors("storage_schemas") {
        let id = vector["id"].as_str().unwrap();
        let Some(names) = vector["match"].as_object() else {
            // The text of these vectors is carbon's error; what it was given stands here.
            let (file, place) = refused_schema_file(id);
            let error = Rules::parse(&source(file), None).unwrap_err().to_string();
            assert!(error.starts_with(&format!("test.conf:{place}")), "{id}: {error}");
            refused += 1;
            continue;
        };
        let (rules, notices) = Rules::parse(&source(vector["text"].as_str().unwrap()), None)
            .unwrap_or_else(|error| panic!("{id}: {error}"));
        if id == ZERO_STEP_SCHEMA {
            assert_eq!(rules.resolve("a").schema, "default");
            assert!(notices[0].reason.starts_with("skipped: "), "{notices:?}");
            compared += 1;
            continue;
        }
        for (name, want) in names {
            let got = rules.resolve(name);
            let mut archives: Vec<Retention> =
                want["archives"].as_array().unwrap().iter().map(retention).collect();
            archives.sort_by_key(|archive| archive.step_s);
            assert_eq!(got.schema, want["schema"], "{id}: {name}");
            assert_eq!(got.spec.retentions, archives, "{id}: {name}");
        }
        compared += 1;
    }
    assert_eq!((compared, refused), (22, 9), "schema files compared");
}

/// A file on which carbon exits, and where the error stands.
fn refused_schema_file(id: &str) -> (&'static str, &'static str) {
    match id {
        "S06-bad-retention-exits" => {
            ("[a]\npattern = .*\nretentions = 10q:10\n", "3: [a] retentions: ")
        }
        "S13-inline-comment-is-part-of-value" => {
            ("[a]\npattern = .*\nretentions = 60:10 ; one\n", "3: [a] retentions: ")
        }
        "S19-percent-sign" => {
            ("[a]\npattern = ^servers%x\nretentions = 60:10\n", "2: [a] pattern: ")
        }
        "S20-bad-regex" => ("[a]\npattern = (\nretentions = 60:10\n", "2: [a] pattern: "),
        "S21-duplicate-section" => (
            "[a]\npattern = ^a\nretentions = 60:10\n[a]\npattern = .*\nretentions = 10:10\n",
            "4: [a] the section exists already",
        ),
        "S22-duplicate-option" => {
            ("[a]\npattern = ^a\npattern = .*\nretentions = 60:10\n", "3: [a] pattern: ")
        }
        "S24-garbage-line" => {
            ("[a]\npattern = .*\nretentions = 60:10\nnonsense\n", "4: [a] neither a [section]")
        }
        "S28-trailing-comma" => ("[a]\npattern = .*\nretentions = 60:10,\n", "3: [a] retentions: "),
        "S31-zero-second" => ("[a]\npattern = .*\nretentions = 0s:1d\n", "3: [a] retentions: "),
        _ => panic!("{id} is not known to be refused"),
    }
}

#[test]
fn aggregation_files_are_read_as_carbon_reads_them() {
    let (mut compared, mut refused) = (0, 0);
    for vector in vectors("storage_aggregation") {
        let id = vector["id"].as_str().unwrap();
        let Some(names) = vector["match"].as_object() else {
            if id == "A99-missing-file" {
                let (rules, notices) = Rules::parse(&source(""), None).unwrap();
                assert_eq!((rules.resolve("a").aggregation, notices.len()), ("default", 0));
                compared += 1;
                continue;
            }
            let (file, place) = refused_aggregation_file(id);
            let error = Rules::parse(&source(""), Some(&source(file))).unwrap_err().to_string();
            assert!(error.starts_with(&format!("test.conf:{place}")), "{id}: {error}");
            refused += 1;
            continue;
        };
        let file = source(vector["text"].as_str().unwrap());
        let (rules, _) = Rules::parse(&source(""), Some(&file)).unwrap();
        for (name, want) in names {
            let got = rules.resolve(name);
            let factor = want["xff"].as_f64().unwrap_or(0.5);
            let method = want["method"].as_str().unwrap_or("average");
            assert_eq!(got.aggregation, want["schema"], "{id}: {name}");
            assert_eq!(Some(got.spec.aggregation), Aggregation::from_name(method), "{id}: {name}");
            assert!((f64::from(got.spec.x_files_factor) - factor).abs() < 1e-7, "{id}: {name}");
        }
        compared += 1;
    }
    assert_eq!((compared, refused), (7, 4), "aggregation files compared");
}

/// As [`refused_schema_file`].
fn refused_aggregation_file(id: &str) -> (&'static str, &'static str) {
    match id {
        "A04-xff-out-of-range" => {
            ("[c]\npattern = .*\nxFilesFactor = 1.1\n", "3: [c] xfilesfactor: ")
        }
        "A06-unknown-method" => {
            ("[c]\npattern = .*\naggregationMethod = avg\n", "3: [c] aggregationmethod: ")
        }
        "A09-method-case" => {
            ("[c]\npattern = .*\naggregationMethod = Sum\n", "3: [c] aggregationmethod: ")
        }
        "A10-nan-xff" => ("[c]\npattern = .*\nxFilesFactor = nan\n", "3: [c] xfilesfactor: "),
        _ => panic!("{id} is not known to be refused"),
    }
}
