//! Carbonlink against captured requests and replies of carbon-cache and go-carbon, against
//! CPython's pickler, and against mutated requests.

#![allow(clippy::unwrap_used, reason = "a helper of a test may fail the test")]

use std::collections::BTreeMap;

use carbyne::metric::point::Point;
use carbyne::wire::carbonlink::{
    POINT_BYTES_MAX, Reply, ReplySize, Request, RequestError, error_reply, set_reply,
    unknown_type_reply, value_reply,
};
use carbyne::wire::carbonlink_reply::{self, ReplyError, cache_query};
use carbyne::wire::pickle::{HEADER_BYTES, PickleDecoder, arena_bytes_max, frame_bytes};
use serde_json::Value;
use sha2::{Digest, Sha256};

fn unhex(hex: &str) -> Vec<u8> {
    let digits: Vec<u8> =
        hex.chars().map(|digit| digit.to_digit(16).unwrap().try_into().unwrap()).collect();
    digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn load(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}

fn captured() -> [Value; 2] {
    [
        load(include_str!("../data/carbonlink-carbon-cache.json")),
        load(include_str!("../data/carbonlink-go-carbon.json")),
    ]
}

fn point(timestamp_s: u32, value: f64) -> Point {
    Point { timestamp_s, value }
}

/// The cache that the captures were made with, by time.
fn cache() -> BTreeMap<&'static str, Vec<Point>> {
    BTreeMap::from([
        ("cl.one", vec![point(1_700_000_000, 1.5)]),
        (
            "cl.three",
            vec![point(1_699_999_940, 3.0), point(1_700_000_000, 1.0), point(1_700_000_060, 2.0)],
        ),
        ("cl.tag;a=1;b=2", vec![point(1_700_000_000, 7.0)]),
        ("carbon.one", vec![point(1_700_000_000, 1.0)]),
        ("carbon.two", vec![point(1_700_000_000, 1.0), point(1_700_000_060, 2.0)]),
        ("cl.big", vec![point(u32::MAX, 1.0)]),
        ("cl.frac", vec![point(1_700_000_000, 1.0)]),
        // A pickle with an empty name had reached that cache.
        ("", vec![point(1_700_000_000, 1.5)]),
    ])
}

/// The frames of a stream, without their headers; the last may be short of its length.
fn bodies(mut stream: &[u8]) -> Vec<&[u8]> {
    let mut bodies = Vec::new();
    while let Some((header, rest)) = stream.split_first_chunk::<HEADER_BYTES>() {
        let length = usize::try_from(frame_bytes(*header)).unwrap();
        let (body, rest) = rest.split_at(length.min(rest.len()));
        bodies.push(body);
        stream = rest;
    }
    bodies
}

/// Takes what is written of a reply whenever that is more than `piece_bytes`.
fn take(reply: &mut Reply, out: &mut Vec<u8>, piece_bytes: usize) {
    if reply.written().len() > piece_bytes {
        out.extend_from_slice(reply.written());
        reply.taken();
    }
}

fn write_points(reply: &mut Reply, points: &[Point], out: &mut Vec<u8>, piece_bytes: usize) {
    for &point in points {
        let before = reply.written().len();
        reply.point(point);
        assert!(reply.written().len() - before <= POINT_BYTES_MAX);
        take(reply, out, piece_bytes);
    }
}

/// The answer to a cache query, taken in pieces.
fn datapoints_reply(points: &[Point], piece_bytes: usize) -> Vec<u8> {
    let count = u32::try_from(points.len()).unwrap();
    let mut reply = Reply::begin(ReplySize::datapoints(count)).unwrap();
    let mut out = Vec::new();
    reply.datapoints(count);
    write_points(&mut reply, points, &mut out, piece_bytes);
    reply.end();
    take(&mut reply, &mut out, 0);
    out
}

/// The answer to a bulk query, taken in pieces.
fn bulk_reply(metrics: &[(String, Vec<Point>)], piece_bytes: usize) -> Vec<u8> {
    let count = |points: &[Point]| u32::try_from(points.len()).unwrap();
    let mut size = ReplySize::bulk();
    for (name, points) in metrics {
        size.list(name.len(), count(points));
    }
    let mut reply = Reply::begin(size).unwrap();
    let mut out = Vec::new();
    for (name, points) in metrics {
        reply.metric(name, count(points));
        write_points(&mut reply, points, &mut out, piece_bytes);
    }
    reply.end();
    take(&mut reply, &mut out, 0);
    out
}

/// Answers as a node would that knows aggregation methods only.
fn answer(request: &Request<'_>) -> Vec<u8> {
    let cache = cache();
    let lookup = |name: &str| cache.get(name).map_or(&[][..], Vec::as_slice);
    match request {
        Request::CacheQuery { metric } => datapoints_reply(lookup(metric), usize::MAX),
        Request::CacheQueryBulk { metrics } => {
            let points = |metric: &str| (metric.to_owned(), lookup(metric).to_vec());
            bulk_reply(&metrics.clone().map(points).collect::<Vec<_>>(), usize::MAX)
        }
        Request::GetMetadata { metric: "cl.one", key: "aggregationMethod" } => value_reply("max"),
        Request::SetMetadata { metric: "cl.one", key: "aggregationMethod", value: "min" } => {
            set_reply("max", "min")
        }
        Request::GetMetadata { .. } | Request::SetMetadata { .. } => error_reply("refused"),
        Request::Unknown { kind } => unknown_type_reply(kind),
    }
}

/// Answers the frames of a stream up to the first that is no request.
fn serve(stream: &[u8]) -> (Vec<u8>, Option<RequestError>) {
    let mut decoder = PickleDecoder::new();
    let mut out = Vec::new();
    for body in bodies(stream) {
        match Request::parse(&mut decoder, body) {
            Ok(request) => out.extend(answer(&request)),
            Err(error) => return (out, Some(error)),
        }
    }
    (out, None)
}

/// Replies that differ from carbon-cache's, and why.
const DEVIATIONS: &[(&str, &str)] = &[
    ("query-three", "carbon answers in order of arrival, we by time"),
    ("query-three-proto2", "carbon answers in order of arrival, we by time"),
    ("bulk", "carbon answers in order of arrival, we by time"),
    ("query-fractional-ts", "we keep whole seconds, as files do"),
    ("get-metadata-other-key", "carbon sends its traceback"),
    ("get-metadata-no-file", "carbon sends its traceback"),
    ("set-metadata-bad-value", "carbon sends its traceback"),
    ("bytes-metric", "carbon finds no metric of that type; bytes are a name here"),
];

/// Frames that close the connection without an answer.
const CLOSING: &[&str] = &[
    "no-type",
    "no-metric",
    "not-a-dict",
    "hostile-global",
    "garbage",
    "empty-frame",
    "frame-2GiB",
];

#[test]
fn captured_requests_of_carbon_cache() {
    let [data, _] = captured();
    let vectors = data["vectors"].as_array().unwrap();
    let (mut deviation_count, mut closing_count) = (0, 0);
    for vector in vectors {
        let id = vector["id"].as_str().unwrap();
        let (got, error) = serve(&unhex(vector["request_hex"].as_str().unwrap()));
        let want = vector["response_hex"].as_str().unwrap();
        assert_eq!(error.is_some(), CLOSING.contains(&id), "{id}: {error:?}");
        closing_count += usize::from(error.is_some());
        if DEVIATIONS.iter().any(|(deviating, _)| *deviating == id) {
            assert_ne!(hex(&got), want, "{id} does not deviate");
            deviation_count += 1;
        } else {
            assert_eq!(hex(&got), want, "{id}");
        }
    }
    assert_eq!(vectors.len(), 40);
    assert_eq!(deviation_count, DEVIATIONS.len());
    assert_eq!(closing_count, CLOSING.len());
}

/// go-carbon pickles its replies differently, so only the requests count: we understand each that
/// it understands.
#[test]
fn captured_requests_of_go_carbon() {
    let [_, data] = captured();
    let vectors = data["vectors"].as_array().unwrap();
    for vector in vectors {
        let id = vector["id"].as_str().unwrap();
        let (got, error) = serve(&unhex(vector["request_hex"].as_str().unwrap()));
        assert_eq!(error.is_some(), CLOSING.contains(&id), "{id}: {error:?}");
        let theirs = unhex(vector["response_hex"].as_str().unwrap());
        assert!(bodies(&got).len() >= bodies(&theirs).len(), "{id}");
    }
    assert_eq!(vectors.len(), 40);
}

/// The vectors above were captured in order of arrival; in that order the bytes agree too.
#[test]
fn reply_in_order_of_arrival() {
    let [data, _] = captured();
    let vectors = data["vectors"].as_array().unwrap();
    let points = [point(1_700_000_000, 1.0), point(1_700_000_060, 2.0), point(1_699_999_940, 3.0)];
    let out = datapoints_reply(&points, 0);
    let query = vectors.iter().find(|vector| vector["id"] == "query-three").unwrap();
    assert_eq!(hex(&out), query["response_hex"]);

    let metrics = [
        ("cl.one".to_owned(), vec![point(1_700_000_000, 1.5)]),
        ("cl.nope".to_owned(), Vec::new()),
        ("cl.three".to_owned(), points.to_vec()),
    ];
    let out = bulk_reply(&metrics, 0);
    let bulk = vectors.iter().find(|vector| vector["id"] == "bulk").unwrap();
    assert_eq!(hex(&out), bulk["response_hex"]);
}

/// What the asking side reads out of a reply, as Python prints it; timestamps are all integers.
fn told(body: &[u8]) -> String {
    match carbonlink_reply::Reply::parse(&mut PickleDecoder::new(), body) {
        Ok(carbonlink_reply::Reply::Datapoints(points)) => {
            let points = points.map(|point| format!("({}, {:?})", point.timestamp, point.value));
            format!("[{}]", points.collect::<Vec<_>>().join(", "))
        }
        Ok(carbonlink_reply::Reply::Error(text)) => format!("error: {text}"),
        Err(ReplyError::Pickle(error)) => format!("{:?}", error.fault),
        Err(error) => format!("{error:?}"),
    }
}

/// Replies that graphite-web was not asked for, or reads otherwise: server, request, what we read.
const READ_OTHERWISE: &[(&str, &str, &str)] = &[
    ("carbon-cache", "query-carbon-prefix-1-point", "[(1700000000, 1.0)]"),
    ("carbon-cache", "query-carbon-prefix-2-points", "[(1700000000, 1.0), (1700000060, 2.0)]"),
    ("carbon-cache", "get-metadata", "NoAnswer"),
    ("carbon-cache", "set-metadata", "NoAnswer"),
    // The captures of tracebacks end after 64 bytes.
    ("carbon-cache", "get-metadata-other-key", "Truncated"),
    ("carbon-cache", "get-metadata-no-file", "Truncated"),
    ("carbon-cache", "set-metadata-bad-value", "Truncated"),
    ("carbon-cache", "py2-cpickle-proto2", "[(1700000000, 1.5)]"),
    ("carbon-cache", "py2-pickle-proto2", "[(1700000000, 1.5)]"),
    ("carbon-cache", "py2-unicode-metric", "[(1700000000, 1.5)]"),
    ("carbon-cache", "py2-proto0", "[(1700000000, 1.5)]"),
    ("carbon-cache", "bulk", "NoAnswer"),
    ("carbon-cache", "bulk-empty", "NoAnswer"),
    ("carbon-cache", "unknown-type", "error: Invalid request type \"foo\""),
    ("carbon-cache", "extra-keys", "[(1700000000, 1.5)]"),
    ("carbon-cache", "empty-metric", "[(1700000000, 1.5)]"),
    ("carbon-cache", "bytes-metric", "[]"),
    ("carbon-cache", "pipelined", "([(1700000000, 1.5)], [])"),
    ("go-carbon", "query-ts-2pow32-1", "[(4294967295, 1.0)]"),
    ("go-carbon", "query-carbon-prefix-1-point", "[(1700000000, 1.0)]"),
    ("go-carbon", "query-carbon-prefix-2-points", "[(1700000000, 1.0), (1700000060, 2.0)]"),
    // go-carbon gives the length of its text for a type of three letters, whatever the type is.
    ("go-carbon", "get-metadata", "UnknownOpcode"),
    ("go-carbon", "get-metadata-other-key", "UnknownOpcode"),
    ("go-carbon", "get-metadata-no-file", "UnknownOpcode"),
    ("go-carbon", "set-metadata", "UnknownOpcode"),
    ("go-carbon", "set-metadata-bad-value", "UnknownOpcode"),
    ("go-carbon", "py2-cpickle-proto2", "[(1700000000, 1.5)]"),
    ("go-carbon", "py2-pickle-proto2", "[(1700000000, 1.5)]"),
    ("go-carbon", "py2-unicode-metric", "[(1700000000, 1.5)]"),
    ("go-carbon", "unknown-type", "error: Invalid request type \"foo\""),
    ("go-carbon", "extra-keys", "[(1700000000, 1.5)]"),
    ("go-carbon", "empty-metric", "[]"),
    ("go-carbon", "pipelined", "([(1700000000, 1.5)], [])"),
];

#[test]
fn questions_are_graphite_webs() {
    let [carbon, go_carbon] = captured();
    for data in [carbon, go_carbon] {
        let vectors = data["vectors"].as_array().unwrap();
        let vector = vectors.iter().find(|vector| vector["id"] == "query-one-proto2").unwrap();
        let mut out = Vec::new();
        cache_query(&mut out, "cl.one");
        assert_eq!(hex(&out), vector["request_hex"]);
    }
}

#[test]
fn captured_replies_are_read_as_graphite_web_reads_them() {
    let (mut read_count, mut otherwise_count) = (0, 0);
    for data in captured() {
        let server = data["server"].as_str().unwrap();
        for vector in data["vectors"].as_array().unwrap() {
            let id = vector["id"].as_str().unwrap();
            let stream = unhex(vector["response_hex"].as_str().unwrap());
            let replies: Vec<String> = bodies(&stream).into_iter().map(told).collect();
            let got = match replies.as_slice() {
                [] => continue,
                [reply] => reply.clone(),
                several => format!("({})", several.join(", ")),
            };
            let otherwise = READ_OTHERWISE.iter().find(|row| row.0 == server && row.1 == id);
            if let Some((_, _, want)) = otherwise {
                assert_eq!(got, *want, "{server} {id}");
                otherwise_count += 1;
            } else {
                let returned = vector["returned"].as_str().unwrap_or_default();
                assert_eq!(got, returned.replace(".0, ", ", "), "{server} {id}");
                read_count += 1;
            }
        }
    }
    assert_eq!(otherwise_count, READ_OTHERWISE.len());
    assert_eq!(read_count, 27);
}

fn points(count: u32) -> Vec<Point> {
    (0..count).map(|i| point(1_700_000_000 + 60 * i, f64::from(i) * 0.5)).collect()
}

#[track_caller]
fn check_digest(frame: &[u8], want: &Value) {
    assert_eq!(frame.len(), usize::try_from(want["bytes"].as_u64().unwrap()).unwrap(), "{want}");
    assert_eq!(hex(&Sha256::digest(frame)), want["sha256"].as_str().unwrap(), "{want}");
}

#[test]
fn replies_are_cpythons_byte_for_byte() {
    let data = load(include_str!("../data/carbonlink-encoded.json"));
    let count_of = |want: &Value| u32::try_from(want["count"].as_u64().unwrap()).unwrap();
    for want in data["datapoints"].as_array().unwrap() {
        for piece_bytes in [0, 100, usize::MAX] {
            check_digest(&datapoints_reply(&points(count_of(want)), piece_bytes), want);
        }
    }
    for want in data["bulk"].as_array().unwrap() {
        let metric = |i: u32| (format!("cl.m{i}"), points(i % 3));
        let metrics: Vec<_> = (0..count_of(want)).map(metric).collect();
        for piece_bytes in [0, 100, usize::MAX] {
            check_digest(&bulk_reply(&metrics, piece_bytes), want);
        }
    }
    for want in data["texts"].as_array().unwrap() {
        let argument = |i: usize| want["args"][i].as_str().unwrap();
        let out = match want["reply"].as_str().unwrap() {
            "value" => value_reply(argument(0)),
            "set" => set_reply(argument(0), argument(1)),
            "error" => error_reply(argument(0)),
            "unknown" => unknown_type_reply(argument(0)),
            other => panic!("{other}"),
        };
        assert_eq!(hex(&out), want["hex"].as_str().unwrap());
    }
    assert_eq!(data["datapoints"].as_array().unwrap().len(), 14);
    assert_eq!(data["bulk"].as_array().unwrap().len(), 14);
    assert_eq!(data["texts"].as_array().unwrap().len(), 5);
}

/// Row 30 of the reliability score card: any prefix and any changed byte of any request.
#[test]
fn prefixes_and_changed_bytes_do_no_harm() {
    let [data, _] = captured();
    let mut decoder = PickleDecoder::new();
    let mut try_body = |body: &[u8]| {
        let is_request = match Request::parse(&mut decoder, body) {
            Ok(Request::CacheQueryBulk { metrics }) => metrics.count() <= body.len(),
            other => other.is_ok(),
        };
        assert!(decoder.arena_bytes() <= arena_bytes_max(body.len()), "{}", body.escape_ascii());
        is_request
    };
    let mut request_count = 0_u32;
    for vector in data["vectors"].as_array().unwrap() {
        let stream = unhex(vector["request_hex"].as_str().unwrap());
        for body in bodies(&stream) {
            for length in 0..body.len() {
                assert!(!try_body(&body[..length]), "{}", body[..length].escape_ascii());
            }
            let mut changed = body.to_vec();
            for at in 0..body.len() {
                for byte in 0..=u8::MAX {
                    changed[at] = byte;
                    request_count += u32::from(try_body(&changed));
                }
                changed[at] = body[at];
            }
        }
    }
    // Most changes of a name or a memo number still make a request.
    assert!(request_count > 100_000, "{request_count}");
}

#[test]
fn names_shared_without_end_are_refused() {
    let mut body = b"}(U\x04typeU\x10cache-query-bulkU\x07metrics](T\xa0\x0f\0\0".to_vec();
    body.extend_from_slice(&[b'n'; 4_000]);
    body.extend_from_slice(b"q\0");
    for _ in 0..10_000 {
        body.extend_from_slice(b"h\0");
    }
    body.extend_from_slice(b"eu.");
    let mut decoder = PickleDecoder::new();
    let got = Request::parse(&mut decoder, &body).map(drop);
    assert_eq!(got, Err(RequestError::Repeated));
}
