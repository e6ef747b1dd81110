//! Metric names against carbon's own answers, and their properties over made-up names.
//!
//! `tests/data/paths.json` was written by carbon 1.1.10: what it stores each name as and in which
//! file.
//! Repeated: `cargo test --test vectors names::`; the made-up names are the same in each run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::collections::HashMap;

use carbyne::metric::name::{canonical, file_path, name_of_path};
use carbyne::metric::name_error::NameError;
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

/// Why a name of the vectors is refused here though carbon takes it. Of these names carbon stores
/// `~` as received, the other empty ones all in one file `.wsp`, and the rest in no file at all,
/// because the kernel refuses to create it.
fn refusal(name: &str) -> Option<NameError> {
    match (name, name.len()) {
        ("." | "..." | "/" | "~", _) => Some(NameError::Empty),
        ("a\0b", _) => Some(NameError::ControlCharacter),
        // A component of 260 or 300 bytes; the tagged one of 254 only if it is not hashed.
        (_, 254 | 260 | 302) => Some(NameError::ComponentTooLong),
        _ => None,
    }
}

/// A tagged name that carbon sorts only when it reads its own result again: here at once.
const SETTLED: (&str, &str) = (r#"m;x=y{a="b"}"#, "m;a=b;x=y");

fn canonical_of(raw: &str) -> Result<Vec<u8>, NameError> {
    canonical(raw.as_bytes(), &mut Vec::new()).map(<[u8]>::to_vec)
}

fn path_of(name: &[u8], hash_tagged: bool) -> Result<String, NameError> {
    let mut path = Vec::new();
    file_path(name, hash_tagged, &mut path)?;
    Ok(String::from_utf8(path).unwrap())
}

/// carbon's absolute path as the kernel reads it, without the data directory.
fn without_directory(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    parts[1..].join("/")
}

#[test]
fn files_are_carbons() {
    let data: Value = serde_json::from_str(include_str!("../data/paths.json")).unwrap();
    let (mut same, mut refused, mut settled) = (0, 0, 0);
    for vector in data["vectors"].as_array().unwrap() {
        let text = |key: &str| vector[key].as_str().unwrap();
        let name = text("in");
        if name == SETTLED.0 {
            assert_eq!(canonical_of(name).unwrap(), SETTLED.1.as_bytes());
            settled += 1;
            continue;
        }
        let form = canonical_of(name);
        let hashed = form.clone().and_then(|form| path_of(&form, true));
        let plain = form.clone().and_then(|form| path_of(&form, false));
        if let Some(error) = refusal(name) {
            let want = if name.contains(';') { &plain } else { &hashed };
            assert_eq!(want, &Err(error), "{name}");
            refused += 1;
            if !name.contains(';') {
                continue;
            }
        } else {
            assert_eq!(plain, Ok(without_directory(text("carbon_path_plain"))), "{name}");
            same += 1;
        }
        assert_eq!(hashed, Ok(without_directory(text("carbon_path_hashed"))), "{name}");
        if name.contains(';') {
            assert_eq!(form.unwrap(), text("carbon_stored_as").as_bytes(), "{name}");
        }
    }
    assert_eq!((same, refused, settled), (77, 8, 1), "vectors compared");
}

/// Runs a property over the same `cases` names in each run.
fn for_names(cases: u32, name: impl Strategy<Value = String>, mut check: impl FnMut(&str)) {
    let config = Config { cases, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let check = std::cell::RefCell::new(&mut check);
    TestRunner::new_with_rng(config, rng)
        .run(&name, |name| {
            (*check.borrow_mut())(&name);
            Ok(())
        })
        .unwrap();
}

/// Names of few letters, so that the grammars of tags and paths are met often.
fn dense_name() -> impl Strategy<Value = String> {
    "[ab./~;={}\",\\\\:!]{0,14}"
}

/// Names made of pieces of the grammars.
fn pieced_name() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("."),
        Just("/"),
        Just("~"),
        Just("a"),
        Just("é"),
        Just(" "),
        Just(";"),
        Just("="),
        Just(";a=b"),
        Just(";b=1"),
        Just(";name=x"),
        Just(";c={x=\"y\"}"),
        Just("{a=\"b\"}"),
        Just("{b=\"1\",a=\"2\"}"),
        Just("{name=\"x\"}"),
        Just("_tagged."),
        Just("\\\""),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

#[test]
fn a_canonical_name_is_its_own_canonical_form() {
    let mut accepted = 0;
    let mut check = |name: &str| {
        if let Ok(form) = canonical_of(name) {
            let form = String::from_utf8(form).unwrap();
            assert_eq!(canonical_of(&form), Ok(form.clone().into_bytes()), "form of {name:?}");
            accepted += 1;
        }
    };
    for_names(30_000, dense_name(), &mut check);
    for_names(30_000, pieced_name(), &mut check);
    assert!(accepted > 50_000, "{accepted} names were accepted");
}

#[test]
fn a_path_stays_below_the_data_directory() {
    let check = |name: &str| {
        // Also of names that are not canonical: the path does not rely on it.
        let form = canonical_of(name).ok();
        for name in form.iter().map(Vec::as_slice).chain([name.as_bytes()]) {
            for hash_tagged in [true, false] {
                let Ok(path) = path_of(name, hash_tagged) else { continue };
                let stem = path.strip_suffix(".wsp").unwrap();
                let directories = stem.rsplit_once('/').map_or("", |(directories, _)| directories);
                assert!(!path.contains(['\0', '\n']) && !path.starts_with('/'), "{path:?}");
                assert!(!stem.contains('.'), "{path:?}");
                assert!(directories.is_empty() || directories.split('/').all(|d| !d.is_empty()));
            }
        }
    };
    for_names(20_000, dense_name(), check);
    for_names(20_000, pieced_name(), check);
    for_names(5_000, any::<String>(), check);
}

#[test]
fn names_of_one_file_are_one_name() {
    let mut names_by_path: HashMap<(bool, String), Vec<u8>> = HashMap::new();
    let mut check = |name: &str| {
        let Ok(form) = canonical_of(name) else { return };
        for hash_tagged in [true, false] {
            let Ok(path) = path_of(&form, hash_tagged) else { continue };
            if !path.starts_with("_tagged/") {
                assert_eq!(name_of_path(path.as_bytes()).as_ref(), Some(&form), "name of {path}");
            }
            let known = names_by_path.entry((hash_tagged, path)).or_insert_with(|| form.clone());
            assert_eq!(known, &form, "two names of one file, met at {name:?}");
        }
    };
    for_names(30_000, dense_name(), &mut check);
    for_names(30_000, pieced_name(), &mut check);
    for_names(30_000, "[a./~]{0,7}", &mut check);
    assert!(names_by_path.len() > 20_000, "{} files", names_by_path.len());
}

#[test]
fn any_bytes_are_a_name_or_an_error() {
    let config = Config { cases: 20_000, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let bytes = prop::collection::vec(any::<u8>(), 0..300);
    TestRunner::new_with_rng(config, rng)
        .run(&bytes, |bytes| {
            let mut scratch = Vec::new();
            if let Ok(form) = canonical(&bytes, &mut scratch) {
                prop_assert!(std::str::from_utf8(form).is_ok());
            }
            let _ = file_path(&bytes, false, &mut Vec::new());
            let _ = name_of_path(&bytes);
            Ok(())
        })
        .unwrap();
}
