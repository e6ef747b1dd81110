//! Any bytes as the configuration of a node, in our TOML or go-carbon's.

use carbyne::config::{self, Config, Place};

const FILE: &str = "node.toml";

/// Most errors of a file: a hundred and the one that says there are more.
const ERRORS_MAX: usize = 101;

fn check_place(place: &Place, shown: &str, line_count: usize) {
    assert!(shown.starts_with(&format!("{FILE}:")), "names the file: {shown}");
    assert!(!shown.chars().any(char::is_control), "one line: {shown:?}");
    if let Some(line) = place.line {
        assert!((1..=line_count).contains(&line), "{shown} of {line_count} lines");
    }
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let line_count = text.bytes().filter(|byte| *byte == b'\n').count() + 1;
    match Config::parse(FILE, &text) {
        Ok((config, notices)) => {
            let shown = config::show(&config);
            assert!(shown.lines().count() > 20, "every key that works is shown: {shown}");
            for notice in notices {
                check_place(&notice.place, &notice.to_string(), line_count);
            }
        }
        Err(errors) => {
            assert!((1..=ERRORS_MAX).contains(&errors.len()), "{} errors", errors.len());
            for (index, error) in errors.iter().enumerate() {
                check_place(&error.place, &error.to_string(), line_count);
                let is_located = error.place.line.is_some() || !error.place.key.is_empty();
                let is_rest = index == 0 && errors.len() == ERRORS_MAX;
                assert!(is_located || is_rest, "names a line or a key: {error}");
                assert!(!error.problem.is_empty(), "says what is wrong");
            }
        }
    }
}
