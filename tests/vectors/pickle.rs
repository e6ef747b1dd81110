//! The pickle decoder against captured frames, mutated frames and bombs.
//!
//! `pickle.json` says what carbon-cache stored for each payload and `relay.json` holds what
//! carbon-relay sent. Where Carbyne deliberately differs, [`DEVIATIONS`] says why.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::collections::BTreeMap;

use carbyne::metric::point::Received;
use carbyne::wire::number::parse_python_float;
use carbyne::wire::pickle::{
    FrameError, FrameFault, ItemError, PickleDecoder, arena_bytes_max, frame_bytes,
};
use serde_json::Value;

use crate::support::seeds::Chance;

/// Points by name, in order of arrival.
type Stored = BTreeMap<Vec<u8>, Vec<(String, String)>>;

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().map(|digit| digit.to_digit(16).unwrap().try_into().unwrap()).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn load(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

/// The number in Python's words, as the vectors spell it.
fn spell(number: f64) -> String {
    if number == -1.0 { "<now>".to_owned() } else { format!("{number:?}") }
}

fn decode<'a>(
    decoder: &'a mut PickleDecoder,
    frame: &'a [u8],
) -> Result<Vec<Result<Received<'a>, ItemError>>, FrameError> {
    decoder.points(frame).map(Iterator::collect)
}

/// What a receiver with carbon's policy stores: NaN values are dropped, -1 means now.
fn store(frame: &[u8]) -> (Stored, usize, Option<FrameFault>) {
    let mut stored = Stored::new();
    let mut error_count = 0;
    match decode(&mut PickleDecoder::new(), frame) {
        Err(error) => return (stored, 0, Some(error.fault)),
        Ok(items) => {
            for item in items {
                match item {
                    Ok(item) if item.value.is_nan() => {}
                    Ok(item) => {
                        let point = (spell(item.timestamp), format!("{:?}", item.value));
                        stored.entry(item.name.to_vec()).or_default().push(point);
                    }
                    Err(_) => error_count += 1,
                }
            }
        }
    }
    (stored, error_count, None)
}

/// What carbon stored; a name cut by the generator ends in "...".
fn carbon_stored(vector: &Value) -> Stored {
    let mut stored = Stored::new();
    for (name, points) in vector["carbon_stored"].as_object().unwrap() {
        let number = |text: &Value| {
            let text = text.as_str().unwrap();
            let spelled = parse_python_float(text.as_bytes()).map(|n| format!("{n:?}"));
            spelled.unwrap_or(text.to_owned())
        };
        let points = points.as_array().unwrap();
        let points = points.iter().map(|point| (number(&point[0]), number(&point[1]))).collect();
        stored.insert(name.clone().into_bytes(), points);
    }
    stored
}

/// Payload, what Carbyne makes of it (name, timestamp, value), and why carbon stored something
/// else.
type Deviation =
    (&'static str, &'static [(&'static [u8], &'static str, &'static str)], &'static str);

const DEVIATIONS: &[Deviation] = &[
    (
        "py2-latin1-name",
        &[(b"pk.\xe9", "1700000000.0", "1.5")],
        "carbon loses the whole message; here the name alone is refused, by the check of names",
    ),
    (
        "ogrek-multi",
        &[(b"pk.a", "1700000000.0", "1.5"), (b"pk.a", "1700000060.0", "2.5")],
        "carbon skips items with several points; go-carbon documents them",
    ),
    (
        "name-is-int",
        &[(b"pk.b", "1700000000.0", "1.0")],
        "carbon closes the connection and loses the rest; one bad item costs only itself",
    ),
    (
        "name-bytes-proto3",
        &[(b"pk.a", "1700000000.0", "1.5"), (b"pk.b", "1700000000.0", "1.0")],
        "carbon closes the connection; bytes are as good a name as a string",
    ),
    (
        "name-tagged",
        &[(b"pk.a;z=1;b=2", "1700000000.0", "1.5")],
        "carbon stores the name in canonical form, which is made behind the decoder",
    ),
];

/// The payloads that are refused as a whole, with the reason.
const REFUSED: &[(&str, FrameFault)] = &[
    ("empty-dict", FrameFault::NotASequence),
    ("dict", FrameFault::NotASequence),
    ("not-a-list", FrameFault::NotASequence),
    ("string", FrameFault::NotASequence),
    ("none", FrameFault::NotASequence),
    ("name-bytes-proto2", FrameFault::Refused),
    ("decimal", FrameFault::Refused),
    ("global-os-system", FrameFault::Refused),
    ("global-builtin-eval", FrameFault::Refused),
    ("stack-global", FrameFault::Refused),
    ("inst", FrameFault::Refused),
    ("obj", FrameFault::Refused),
    ("global-allowed-object", FrameFault::Refused),
    ("global-copy-reg", FrameFault::Refused),
    ("persid", FrameFault::Refused),
    ("binpersid", FrameFault::Refused),
    ("ext1", FrameFault::Refused),
    ("build", FrameFault::Refused),
    ("newobj", FrameFault::Refused),
    ("truncated", FrameFault::Truncated),
    ("no-stop", FrameFault::Truncated),
    ("empty-frame", FrameFault::Truncated),
    ("only-stop", FrameFault::StackUnderflow),
    ("bad-opcode", FrameFault::UnknownOpcode),
    ("proto-6", FrameFault::UnknownProtocol),
    ("memo-missing", FrameFault::MemoMissing),
    ("huge-binunicode", FrameFault::Truncated),
    ("binunicode8-huge", FrameFault::Truncated),
    ("long4-huge", FrameFault::LongNumber),
    ("frame-huge", FrameFault::Truncated),
    ("stack-underflow", FrameFault::StackUnderflow),
    ("mark-missing", FrameFault::NoMark),
    ("deep-lists", FrameFault::ArenaFull),
    ("put-huge-index", FrameFault::MemoIndex),
];

#[test]
fn captured_payloads_store_what_carbon_stored() {
    let data = load(include_str!("../data/pickle.json"));
    let vectors = data["vectors"].as_array().unwrap();
    let (mut deviation_count, mut refused_count) = (0, 0);
    for vector in vectors {
        let id = vector["id"].as_str().unwrap();
        let frame = unhex(vector["payload_hex"].as_str().unwrap());
        let (mut got, _, fault) = store(&frame);
        let refused = REFUSED.iter().find(|(refused, _)| *refused == id);
        assert_eq!(fault, refused.map(|(_, fault)| *fault), "{id}");
        refused_count += usize::from(refused.is_some());

        let mut want = carbon_stored(vector);
        if let Some((_, points, _)) = DEVIATIONS.iter().find(|(deviating, ..)| *deviating == id) {
            assert_ne!(got, want, "{id} does not deviate");
            want.clear();
            for (name, timestamp, value) in *points {
                let point = ((*timestamp).to_owned(), (*value).to_owned());
                want.entry(name.to_vec()).or_default().push(point);
            }
            deviation_count += 1;
        }
        if id.starts_with("many-") {
            // The vectors list some of the names.
            got.retain(|name, _| want.contains_key(name));
        }
        if let Some((name, points)) = want.first_key_value()
            && let Some(prefix) = name.strip_suffix(b"...")
        {
            let (got_name, got_points) = got.first_key_value().unwrap();
            assert!(got_name.starts_with(prefix), "{id}");
            assert_eq!((got.len(), got_name.len()), (1, 303), "{id}");
            assert_eq!(got_points, points, "{id}");
            continue;
        }
        assert_eq!(got, want, "{id}");
    }
    assert_eq!(vectors.len(), 87);
    assert_eq!(deviation_count, DEVIATIONS.len());
    assert_eq!(refused_count, REFUSED.len());
}

#[test]
fn bad_items_are_counted() {
    let data = load(include_str!("../data/pickle.json"));
    for (id, want) in [
        ("py3-proto2", 0),
        ("none-value", 1),
        ("name-is-int", 1),
        // Two numbers stand where points should.
        ("three-tuple", 2),
        ("self-referencing-list", 1),
        ("empty-list", 0),
    ] {
        let vectors = data["vectors"].as_array().unwrap();
        let vector = vectors.iter().find(|vector| vector["id"] == id).unwrap();
        let (_, error_count, _) = store(&unhex(vector["payload_hex"].as_str().unwrap()));
        assert_eq!(error_count, want, "{id}");
    }
}

#[test]
fn frames_of_carbon_relay() {
    let data = load(include_str!("../data/relay.json"));
    let frames = data["pickle"]["frames"].as_array().unwrap();
    assert_eq!(frames.len(), 1);
    let frame = unhex(frames[0]["hex"].as_str().unwrap());
    let length = u32::try_from(frame.len()).unwrap();
    assert_eq!(frames[0]["length"], length);
    assert_eq!(frame_bytes(length.to_be_bytes()), length);

    let mut decoder = PickleDecoder::new();
    let mut got = decode(&mut decoder, &frame).unwrap().into_iter().map(Result::unwrap);
    let mut line_count = 0;
    for line in data["input_lines"].as_array().unwrap() {
        let fields: Vec<&str> = line.as_str().unwrap().split(' ').collect();
        if fields[1] == "nan" {
            continue; // the relay drops it
        }
        let item = got.next().unwrap();
        assert_eq!(item.name, fields[0].as_bytes());
        assert_eq!(Some(item.value), parse_python_float(fields[1].as_bytes()));
        assert_eq!(Some(item.timestamp), parse_python_float(fields[2].as_bytes()));
        line_count += 1;
    }
    assert!(got.next().is_none());
    assert_eq!(line_count, 10);
}

/// Decodes with a decoder that has seen other frames, and with a new one: same answer, in bounds.
fn survive(used: &mut PickleDecoder, frame: &[u8]) {
    let mut fresh = PickleDecoder::new();
    let summary = |decoder: &mut PickleDecoder| -> Result<(usize, usize, usize), FrameError> {
        let mut counts = (0, 0, 0);
        for item in decoder.points(frame)? {
            match item {
                Ok(item) => {
                    counts.0 += 1;
                    counts.1 += item.name.len();
                }
                Err(_) => counts.2 += 1,
            }
        }
        Ok(counts)
    };
    let want = summary(&mut fresh);
    assert!(fresh.arena_bytes() <= arena_bytes_max(frame.len()), "{}", frame.escape_ascii());
    assert_eq!(summary(used), want, "{}", frame.escape_ascii());
    if let Ok((point_count, _, error_count)) = want {
        assert!(point_count + error_count <= frame.len(), "{}", frame.escape_ascii());
    }
    if let Err(error) = want {
        assert!(error.offset <= frame.len(), "{error}");
    }
}

#[test]
fn prefixes_and_mutations_do_no_harm() {
    let data = load(include_str!("../data/pickle.json"));
    let mut noise = Chance::new(0x00c0_ffee);
    let mut used = PickleDecoder::new();
    for vector in data["vectors"].as_array().unwrap() {
        let frame = unhex(vector["payload_hex"].as_str().unwrap());
        if frame.is_empty() || frame.len() > 1_000 {
            continue;
        }
        for length in 0..frame.len() {
            survive(&mut used, &frame[..length]);
        }
        for _ in 0..2_000 {
            let mut mutated = frame.clone();
            for _ in 0..=noise.below(4) {
                let at = noise.below(mutated.len());
                match noise.below(4) {
                    0 => mutated.insert(at, noise.byte()),
                    1 if mutated.len() > 1 => drop(mutated.remove(at)),
                    // Swapping in a byte of the frame makes more opcodes than noise does.
                    2 => mutated[at] = frame[noise.below(frame.len())],
                    _ => mutated[at] = noise.byte(),
                }
            }
            survive(&mut used, &mutated);
        }
    }
}

#[test]
fn random_opcodes_do_no_harm() {
    const OPCODES: &[u8] = b"(.012NI\x88\x89KJMLGFSTUVX\x8cCB]lae)t\x85\x86\x87}dsu\x8f\x90\x91\
        pqrghj\x94\x80\x95\x00\x01\x02\x03\n'";
    let mut noise = Chance::new(0xdead_beef);
    let mut used = PickleDecoder::new();
    for _ in 0..100_000 {
        let length = 1 + noise.below(60);
        let mut frame: Vec<u8> = (0..length).map(|_| OPCODES[noise.below(OPCODES.len())]).collect();
        frame.push(b'.');
        survive(&mut used, &frame);
    }
}

#[track_caller]
fn check_bomb(frame: &[u8], want: Result<usize, FrameFault>) {
    let mut decoder = PickleDecoder::new();
    let got = decoder.points(frame).map(Iterator::count).map_err(|error| error.fault);
    assert_eq!(got, want);
    let arena_bytes = decoder.arena_bytes();
    assert!(arena_bytes <= arena_bytes_max(frame.len()), "{arena_bytes}");
}

fn repeat(parts: &[(&[u8], usize)]) -> Vec<u8> {
    parts.iter().flat_map(|(part, count)| part.repeat(*count)).collect()
}

#[test]
fn bombs_of_nesting_and_marks() {
    const MILLION: usize = 1_000_000;
    check_bomb(
        &repeat(&[(b"]", MILLION), (b"a", MILLION - 1), (b".", 1)]),
        Err(FrameFault::ArenaFull),
    );
    check_bomb(&repeat(&[(b"(", MILLION)]), Err(FrameFault::TooManyMarks));
    check_bomb(&repeat(&[(b"](", MILLION)]), Err(FrameFault::TooManyMarks));
    check_bomb(&repeat(&[(b"N", 1), (b"\x85", MILLION), (b".", 1)]), Err(FrameFault::ArenaFull));
    check_bomb(&repeat(&[(b"N", 1), (b"2", MILLION), (b".", 1)]), Err(FrameFault::ArenaFull));
    check_bomb(&repeat(&[(b"]", 1), (b"2a", MILLION), (b".", 1)]), Err(FrameFault::ArenaFull));
    check_bomb(&repeat(&[(b")0", MILLION), (b"].", 1)]), Ok(0));
    check_bomb(&repeat(&[(b"(1", MILLION), (b"].", 1)]), Ok(0));
    // 64 KB of nesting fit; nobody goes down there.
    check_bomb(&repeat(&[(b"]", 4_000), (b"a", 3_999), (b".", 1)]), Ok(1));
}

#[test]
fn bombs_of_shared_objects() {
    // Each list holds the one before twice: 2^100,000 elements for who follows them.
    let mut frame = b"]q\0".to_vec();
    for _ in 0..100_000 {
        frame.extend_from_slice(b"](h\0h\0eq\0");
    }
    frame.push(b'.');
    check_bomb(&frame, Err(FrameFault::ArenaFull));
    let mut frame = b"]q\0".to_vec();
    for _ in 0..1_000 {
        frame.extend_from_slice(b"](h\0h\0eq\0");
    }
    frame.push(b'.');
    check_bomb(&frame, Ok(2));
    check_bomb(b"]q\0h\0a.", Ok(1));
    check_bomb(b"]q\0(h\0h\0h\0e.", Ok(3));
    check_bomb(b"](]q\0h\0h\0\x86ae.", Ok(1));
}

/// A frame that reads longer than it is: `count` references to one item of `count` points.
#[test]
fn reading_stays_linear() {
    let count = 20_000;
    let item =
        repeat(&[(b"](U\x01n", 1), (b"J\0\xf1\x53\x65J\x01\0\0\0\x86", count), (b"tq\0", 1)]);
    let frame = repeat(&[(&item, 1), (b"a(", 1), (b"h\0", count), (b"e.", 1)]);
    let mut decoder = PickleDecoder::new();
    let results: Vec<_> = match decoder.points(&frame) {
        Ok(points) => points.collect(),
        Err(error) => panic!("{error}"),
    };
    assert!(results.len() <= frame.len());
    assert_eq!(results.last(), Some(&Err(ItemError::Repeated)));

    // One long name for many small points is charged by its bytes.
    let name = repeat(&[(b"](T\xa0\x0f\0\0", 1), (b"n", 4_000), (b"q\0", 1)]);
    let first = repeat(&[(&name, 1), (b"K\x01K\x01\x86\x86", 1)]);
    let frame =
        repeat(&[(&first, 1), (b"h\0J\0\xf1\x53\x65J\x01\0\0\0\x86\x86", count), (b"e.", 1)]);
    let points = decoder.points(&frame).unwrap();
    let name_bytes: usize = points.flatten().map(|item| item.name.len()).sum();
    assert!(name_bytes > 4_000 && name_bytes < 64 * frame.len());
}

#[test]
fn bombs_of_lengths_and_indices() {
    for (frame, want) in [
        (&b"T\xff\xff\xff\xffab."[..], FrameFault::NegativeLength),
        (b"T\xff\xff\xff\x7fab.", FrameFault::Truncated),
        (b"X\xff\xff\xff\xffab.", FrameFault::Truncated),
        (b"B\xff\xff\xff\x7fab.", FrameFault::Truncated),
        (b"\x8d\0\0\0\0\0\0\0\x40ab.", FrameFault::Truncated),
        (b"\x8e\xff\xff\xff\xff\xff\xff\xff\xffab.", FrameFault::Truncated),
        (b"\x96\0\0\0\0\0\0\0\x40ab.", FrameFault::Refused),
        (b"\x8b\xff\xff\xff\x7f.", FrameFault::LongNumber),
        (b"\x8b\xff\xff\xff\xff.", FrameFault::LongNumber),
        (b"\x95\0\0\0\0\0\0\0\x40.", FrameFault::Truncated),
        (b"]r\xff\xff\xff\x3f.", FrameFault::MemoIndex),
        (b"]r\xff\xff\xff\x0f.", FrameFault::MemoIndex),
        (b"]r\xff\xff\xff\xff.", FrameFault::MemoIndex),
        (b"]p4294967296\n.", FrameFault::MemoIndex),
        (b"]p99999999999999999999999\n.", FrameFault::BadNumber),
        (b"]p-1\n.", FrameFault::BadNumber),
        (b"j\xff\xff\xff\x3f.", FrameFault::MemoMissing),
        (b"U\xffab.", FrameFault::Truncated),
        (b"\x80", FrameFault::Truncated),
        (b"\x80\x04", FrameFault::Truncated),
    ] {
        check_bomb(frame, Err(want));
    }
    let digits = repeat(&[(b"L", 1), (b"9", 1_000_000), (b"L\n.", 1)]);
    check_bomb(&digits, Err(FrameFault::LongNumber));
    // A late index makes the table as long as the frame, not longer.
    let frame = repeat(&[(b"]", 1), (b"N0", 500_000), (b"r\x00\x42\x0f\x00.", 1)]);
    check_bomb(&frame, Err(FrameFault::ArenaFull));
}

/// Frames as senders make them, large: they must fit into the arena.
#[test]
fn large_frames_of_real_senders_fit() {
    let mut decoder = PickleDecoder::new();
    // Text before, item, text after each 1,000 items, text after all.
    for (before, item, between, after) in [
        // og-rek with tuples and with lists.
        (&b"]("[..], &b"(U\x05pk.ab(J\0\xf1\x53\x65K\x05tt"[..], &b""[..], &b"e."[..]),
        (b"](", b"](U\x05pk.ab](J\0\xf1\x53\x65G\0\0\0\0\0\0\0\0ee", b"", b"e."),
        // Protocol 4 with the shortest numbers; a name shared by all points, with and without its
        // tuples in the memo.
        (b"](", b"\x8c\x05pk.ab\x94J\0\xf1\x53\x65K\x05\x86\x94\x86\x94", b"e(", b"e."),
        (b"\x8c\x05pk.ab\x940](", b"h\0J\0\xf1\x53\x65K\x05\x86\x94\x86\x94", b"e(", b"e."),
        (b"\x8c\x05pk.ab\x940](", b"h\0J\0\xf1\x53\x65K\x05\x86\x86", b"e(", b"e."),
        // Protocol 0 appends one by one.
        (b"(lp0\n", b"(Vpk.ab\np1\n(I1700000000\nF1.5\ntp2\ntp3\na", b"", b"."),
    ] {
        let batch = repeat(&[(item, 1_000), (between, 1)]);
        let frame = repeat(&[(before, 1), (&batch, 200), (after, 1)]);
        let points = decoder.points(&frame).unwrap_or_else(|error| panic!("{error}"));
        assert_eq!(points.filter(Result::is_ok).count(), 200_000);
        check_bomb(&frame, Ok(200_000));
    }
    // The buffers of a large frame do not stay for small ones.
    assert!(decoder.points(b"].").is_ok());
    assert!(decoder.arena_bytes() <= 4 << 20);
}

#[test]
fn steady_state_keeps_its_buffers() {
    let data = load(include_str!("../data/relay.json"));
    let frame = unhex(data["pickle"]["frames"][0]["hex"].as_str().unwrap());
    let mut decoder = PickleDecoder::new();
    assert_eq!(decoder.arena_bytes(), 0);
    assert_eq!(decoder.points(&frame).unwrap().count(), 10);
    let arena_bytes = decoder.arena_bytes();
    for _ in 0..1_000 {
        assert_eq!(decoder.points(&frame).unwrap().count(), 10);
    }
    assert_eq!(decoder.arena_bytes(), arena_bytes);
}
