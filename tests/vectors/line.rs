//! Lines against carbon's own answers, and any bytes against the parser.
//!
//! `tests/data/line.json` was recorded from carbon-cache 1.1.10 over TCP and UDP: the metric `M` of
//! each input, its points, and whether the connection survived. Repeated:
//! `cargo test --test vectors line::`; the made-up lines are the same in each run.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use carbyne::limits::LINE_BYTES_MAX;
use carbyne::metric::name::canonical;
use carbyne::metric::point::{Point, Received, admit};

use carbyne::wire::line::{LineError, Lines, parse, parse_unterminated};
use proptest::prelude::*;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::Value;

const NOW_S: u32 = 1_700_000_000;
const FUTURE_S_MAX: u32 = 86_400;

/// Where this node answers otherwise than carbon: the vector, the points over TCP and over UDP.
/// Everywhere else a fraction of a second is cut off and the connection survives.
type Points = &'static [(u32, f64)];
const DEVIATIONS: [(&str, Points, Points); 13] = [
    // A timestamp that Whisper cannot hold is refused instead of waiting in the cache.
    ("neg2-ts", &[], &[]),
    ("zero-ts", &[], &[]),
    // Beyond the limit of the future it would overwrite points that are still wanted.
    ("huge-ts", &[], &[]),
    ("ms-ts", &[], &[]),
    // Whole seconds: both lines are one point, the later line wins.
    ("dup-ts-float", &[(1_000_000_000, 2.0)], &[(1_000_000_000, 2.0)]),
    // Bytes that are not UTF-8 cost their own line, not what follows.
    ("invalid-utf8", &[(1_000_000_060, 2.0)], &[(1_000_000_060, 2.0)]),
    // Only ASCII blanks separate and only LF ends a line, in datagrams too.
    ("nbsp", &[], &[]),
    ("cr-only", &[], &[]),
    ("line-sep", &[], &[]),
    ("vt", &[], &[]),
    // Only ASCII digits.
    ("arabic-digits", &[], &[]),
    // A datagram of this length is read whole here; Twisted cuts it at 8,192 bytes.
    ("long-16383", &[(1_000_000_000, 1.0)], &[(1_000_000_000, 1.0)]),
    ("long-16384", &[(1_000_000_000, 1.0)], &[(1_000_000_000, 1.0)]),
];

/// Takes a line as a receiver does: the point, if its name is `M`.
fn take(raw: Result<Received<'_>, LineError>, points: &mut Vec<(u32, f64)>) {
    let Ok(raw) = raw else { return };
    let mut scratch = Vec::new();
    // The over-long vectors are about lines: their name is longer than any name may be.
    let is_ours = raw.name.len() > 8_000 || canonical(raw.name, &mut scratch) == Ok(b"M");
    if let (true, Ok(point)) = (is_ours, admit(raw.timestamp, raw.value, NOW_S, FUTURE_S_MAX)) {
        let Point { timestamp_s, value } = point;
        points.retain(|(known_s, _)| *known_s != timestamp_s);
        points.push((timestamp_s, value));
    }
}

/// The points of a stream, and whether its connection survives.
fn over_tcp(input: &[u8]) -> (Vec<(u32, f64)>, bool) {
    let mut points = Vec::new();
    let mut lines = Lines::new(input);
    for raw in lines.by_ref() {
        if raw == Err(LineError::TooLong) {
            return (points, false);
        }
        take(raw, &mut points);
    }
    (points, lines.rest().is_ok())
}

/// The points of a datagram.
fn over_udp(input: &[u8]) -> Vec<(u32, f64)> {
    let mut points = Vec::new();
    let mut lines = Lines::new(input);
    for raw in lines.by_ref() {
        take(raw, &mut points);
    }
    take(lines.rest().and_then(|rest| parse_unterminated(rest, false)), &mut points);
    points
}

/// The input of a vector; the longest ones are described instead of given.
fn input(vector: &Value) -> Vec<u8> {
    let Some(digits) = vector["input_hex"].as_str() else {
        let length: usize =
            vector["id"].as_str().unwrap().strip_prefix("long-").unwrap().parse().unwrap();
        let fields = " 1 1000000000";
        return format!("{}{fields}\n", "M".repeat(length - fields.len())).into_bytes();
    };
    let byte = |at: usize| u8::from_str_radix(&digits[at..at + 2], 16).unwrap();
    (0..digits.len()).step_by(2).map(byte).collect()
}

/// The recorded points, with whole seconds.
fn recorded(points: &Value) -> Vec<(u32, f64)> {
    let number = |value: &Value| match value.as_str().unwrap() {
        "<now>" => f64::from(NOW_S),
        text => text.parse::<f64>().unwrap(),
    };
    let point = |pair: &Value| (admit(number(&pair[0]), 0.0, NOW_S, 0).unwrap(), number(&pair[1]));
    points.as_array().unwrap().iter().map(point).map(|(p, value)| (p.timestamp_s, value)).collect()
}

#[test]
fn lines_are_read_as_carbon_reads_them() {
    let data: Value = serde_json::from_str(include_str!("../data/line.json")).unwrap();
    let (mut same, mut deviating) = (0, 0);
    for vector in data["vectors"].as_array().unwrap() {
        let id = vector["id"].as_str().unwrap();
        let input = input(vector);
        let (tcp, survives) = over_tcp(&input);
        let udp = over_udp(&input);
        // "no-newline" is recorded as closed because the sender closes.
        assert_eq!(survives, id != "long-16385", "{id}: connection");
        match DEVIATIONS.iter().find(|(listed, ..)| *listed == id) {
            Some((_, want_tcp, want_udp)) => {
                assert_eq!((tcp.as_slice(), udp.as_slice()), (*want_tcp, *want_udp), "{id}");
                deviating += 1;
            }
            None => {
                assert_eq!(tcp, recorded(&vector["tcp"]), "{id}: TCP");
                assert_eq!(udp, recorded(&vector["udp"]), "{id}: UDP");
                same += 1;
            }
        }
    }
    assert_eq!((same, deviating), (47, 13), "vectors compared");
}

#[test]
fn a_line_is_one_byte_too_long_at_its_limit() {
    for (length, want) in [(LINE_BYTES_MAX, 1), (LINE_BYTES_MAX + 1, 0)] {
        let fields = " 1 1000000000";
        let line = format!("{}{fields}\n", "M".repeat(length - fields.len()));
        let (points, survives) = over_tcp(line.as_bytes());
        assert_eq!((points.len(), survives), (want, want == 1), "{length} bytes");
    }
}

/// What can be compared also where it is NaN.
fn exact(line: Result<Received<'_>, LineError>) -> Result<(Vec<u8>, u64, u64), LineError> {
    line.map(|raw| (raw.name.to_vec(), raw.value.to_bits(), raw.timestamp.to_bits()))
}

#[test]
fn mutated_lines_never_panic_and_split_the_same_in_any_reads() {
    let config = Config { cases: 20_000, failure_persistence: None, ..Config::default() };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let good = b"servers.web-1.cpu_load 1.25 1700000000\nm;a=b -3e5 1700000060\r\n\nx 1 -1\n";
    let mutations = prop::collection::vec((0..good.len(), any::<u8>()), 0..6);
    TestRunner::new_with_rng(config, rng)
        .run(&(mutations, 0..good.len()), |(mutations, cut)| {
            let mut bytes = good.to_vec();
            for (at, byte) in mutations {
                bytes[at] = byte;
            }
            let whole: Vec<_> = Lines::new(&bytes).map(exact).collect();
            let mut first = Lines::new(&bytes[..cut]);
            let mut pieces: Vec<_> = first.by_ref().map(exact).collect();
            pieces.extend(Lines::new(&bytes[first.consumed_bytes()..]).map(exact));
            prop_assert_eq!(&whole, &pieces);
            let mut one_by_one: Vec<&[u8]> = bytes.split(|&byte| byte == b'\n').collect();
            one_by_one.pop();
            let without_cr = |line: &'_ [u8]| line.strip_suffix(b"\r").unwrap_or(line).to_vec();
            let lines: Vec<Vec<u8>> = one_by_one.into_iter().map(without_cr).collect();
            let parsed: Vec<_> = lines.iter().map(|line| exact(parse(line))).collect();
            prop_assert_eq!(&whole, &parsed);
            for raw in Lines::new(&bytes).flatten() {
                prop_assert!(!raw.name.is_empty());
                prop_assert!(!raw.name.iter().any(|byte| b" \t\x0b\x0c\r\n".contains(byte)));
                let _ = canonical(raw.name, &mut Vec::new());
                let _ = admit(raw.timestamp, raw.value, NOW_S, FUTURE_S_MAX);
            }
            Ok(())
        })
        .unwrap();
}
