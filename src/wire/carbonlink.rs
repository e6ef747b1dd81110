//! Carbonlink: questions to the cache and their answers, as carbon-cache speaks it.
//!
//! ```text
//! frame     u32 big-endian length | pickle
//! request   dict with "type" and the keys of that type, in any protocol up to 5
//! reply     dict in protocol 2, byte for byte what CPython's pickler writes
//! ```
//!
//! Any number of requests come on one connection and are answered in order. A body that is no
//! request closes the connection without an answer; metrics without waiting points are answered
//! with an empty list. Points go out in the order given, which is to be by time; timestamps are
//! floats, because Python reads go-carbon's integers as signed.
//!
//! Replies are appended as whole frames to a buffer that the caller keeps. CPU sketch: a point is
//! 21 to 24 bytes.

use std::fmt;

use crate::limits::NAME_BYTES_MAX;
use crate::metric::point::Point;
use crate::wire::pickle::{Elements, FrameError, HEADER_BYTES, Pickle, PickleDecoder, Value};

/// A question, borrowed from its frame.
#[derive(Debug, Clone)]
pub enum Request<'a> {
    /// The waiting points of one metric; answered by [`datapoints_reply`].
    CacheQuery {
        /// Name as received, to be looked up as it is.
        metric: &'a str,
    },
    /// The waiting points of several metrics; answered by [`BulkReply`].
    CacheQueryBulk {
        /// Names as received, repeated if the client repeated them.
        metrics: Metrics<'a>,
    },
    /// One property of a metric's file; answered by [`value_reply`].
    GetMetadata {
        /// Name as received.
        metric: &'a str,
        /// Name of the property; carbon knows `aggregationMethod`.
        key: &'a str,
    },
    /// A new value for one property of a metric's file; answered by [`set_reply`].
    SetMetadata {
        /// Name as received.
        metric: &'a str,
        /// Name of the property.
        key: &'a str,
        /// The new value.
        value: &'a str,
    },
    /// A type that carbon does not know; answered by [`unknown_type_reply`].
    Unknown {
        /// The type as received.
        kind: &'a str,
    },
}

/// Why a frame's body is no request: its connection is closed without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestError {
    /// The body is not a pickle of plain data.
    Pickle(FrameError),
    /// The object is not a dict.
    NotADict,
    /// The dict lacks this key, or its value is not what the type needs: UTF-8 of at most
    /// [`NAME_BYTES_MAX`] bytes, or for `metrics` a list, tuple or set of such.
    Key(&'static str),
    /// `metrics` repeats shared names beyond [`crate::wire::pickle::read_bytes_max`].
    Repeated,
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Pickle(error) => write!(f, "decode request: {error}"),
            RequestError::NotADict => f.write_str("request is not a dict"),
            RequestError::Key(key) => write!(f, "request has no usable key {key:?}"),
            RequestError::Repeated => f.write_str("request repeats its metrics too often"),
        }
    }
}

impl std::error::Error for RequestError {}

/// The names of a bulk query in the order of the request.
#[derive(Debug, Clone)]
pub struct Metrics<'a> {
    pickle: Pickle<'a>,
    elements: Elements<'a>,
}

impl<'a> Iterator for Metrics<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let name = self.pickle.bytes(self.elements.next()?)?;
        Some(std::str::from_utf8(name).expect("the request's parser has checked each name"))
    }
}

impl<'a> Request<'a> {
    /// Reads the request in a frame's `body`, the bytes behind the length.
    ///
    /// Keys come in any order, keys that the type does not need are ignored, and where a key comes
    /// twice the last one counts, as in a dict.
    ///
    /// # Errors
    /// Anything else than a request; the caller closes the connection.
    pub fn parse(
        decoder: &'a mut PickleDecoder,
        body: &'a [u8],
    ) -> Result<Request<'a>, RequestError> {
        let pickle = decoder.decode(body).map_err(RequestError::Pickle)?;
        let fields = Fields::find(pickle).ok_or(RequestError::NotADict)?;
        match fields.text("type")? {
            "cache-query" => Ok(Request::CacheQuery { metric: fields.text("metric")? }),
            "cache-query-bulk" => Ok(Request::CacheQueryBulk { metrics: fields.metrics()? }),
            "get-metadata" => Ok(Request::GetMetadata {
                metric: fields.text("metric")?,
                key: fields.text("key")?,
            }),
            "set-metadata" => Ok(Request::SetMetadata {
                metric: fields.text("metric")?,
                key: fields.text("key")?,
                value: fields.text("value")?,
            }),
            kind => Ok(Request::Unknown { kind }),
        }
    }
}

/// The keys that some request needs, with their values.
const KEYS: [&str; 5] = ["type", "metric", "metrics", "key", "value"];

/// The entries of a request's dict that have one of [`KEYS`].
struct Fields<'a> {
    pickle: Pickle<'a>,
    values: [Option<Value>; KEYS.len()],
}

impl<'a> Fields<'a> {
    fn find(pickle: Pickle<'a>) -> Option<Fields<'a>> {
        let mut entries = pickle.dict(pickle.root())?;
        let mut values = [None; KEYS.len()];
        while let (Some(key), Some(value)) = (entries.next(), entries.next()) {
            let key = pickle.bytes(key);
            if let Some(slot) = KEYS.iter().position(|known| key == Some(known.as_bytes())) {
                values[slot] = Some(value);
            }
        }
        Some(Fields { pickle, values })
    }

    fn value(&self, key: &'static str) -> Result<Value, RequestError> {
        let slot = KEYS.iter().position(|known| *known == key);
        slot.and_then(|slot| self.values[slot]).ok_or(RequestError::Key(key))
    }

    fn text(&self, key: &'static str) -> Result<&'a str, RequestError> {
        let bytes = self.pickle.bytes(self.value(key)?).ok_or(RequestError::Key(key))?;
        check_text(bytes).ok_or(RequestError::Key(key))
    }

    fn metrics(&self) -> Result<Metrics<'a>, RequestError> {
        let key = "metrics";
        let elements = self.pickle.collection(self.value(key)?).ok_or(RequestError::Key(key))?;
        let mut budget = self.pickle.read_budget();
        for element in elements.clone() {
            let name = self.pickle.bytes(element).ok_or(RequestError::Key(key))?;
            check_text(name).ok_or(RequestError::Key(key))?;
            if !budget.spend(name) {
                return Err(RequestError::Repeated);
            }
        }
        Ok(Metrics { pickle: self.pickle, elements })
    }
}

/// The text of a name, key or value; replies need UTF-8, which Python checks when it reads them.
fn check_text(bytes: &[u8]) -> Option<&str> {
    if bytes.len() > NAME_BYTES_MAX { None } else { std::str::from_utf8(bytes).ok() }
}

/// A reply whose pickle would exceed the 32 bits of the frame's length. Nothing was appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTooLarge;

impl fmt::Display for ReplyTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reply exceeds 4 GiB")
    }
}

impl std::error::Error for ReplyTooLarge {}

/// Appends the answer to a cache query: `{'datapoints': [(timestamp, value), ...]}`.
///
/// # Errors
/// More points than a frame holds, about 170 million.
pub fn datapoints_reply(out: &mut Vec<u8>, points: &[Point]) -> Result<(), ReplyTooLarge> {
    let mut reply = Pickler::begin(out);
    reply.text("datapoints");
    reply.points(points);
    reply.byte(b's');
    reply.end()
}

/// The answer to a bulk query, metric by metric: `{'datapointsByMetric': {name: [...], ...}}`.
///
/// [`BulkReply::metric`] is called once for each of the metrics announced, each name once.
#[derive(Debug)]
pub struct BulkReply<'o> {
    pickler: Pickler<'o>,
    metric_count: usize,
    written_count: usize,
}

/// CPython's pickler closes a batch of list elements or dict entries at this number.
const BATCH_COUNT: usize = 1_000;

impl<'o> BulkReply<'o> {
    /// Begins the reply at the end of `out` for exactly `metric_count` metrics.
    pub fn begin(out: &'o mut Vec<u8>, metric_count: usize) -> BulkReply<'o> {
        let mut pickler = Pickler::begin(out);
        pickler.text("datapointsByMetric");
        pickler.empty_dict();
        BulkReply { pickler, metric_count, written_count: 0 }
    }

    /// Adds one metric with its points in order of time; an unknown metric has none.
    pub fn metric(&mut self, name: &str, points: &[Point]) {
        assert!(
            self.written_count < self.metric_count,
            "bulk reply announced {} metrics and gets more",
            self.metric_count
        );
        if self.metric_count > 1 && self.written_count.is_multiple_of(BATCH_COUNT) {
            self.pickler.byte(b'(');
        }
        self.pickler.text(name);
        self.pickler.points(points);
        self.written_count += 1;
        if self.metric_count > 1
            && (self.written_count.is_multiple_of(BATCH_COUNT)
                || self.written_count == self.metric_count)
        {
            self.pickler.byte(b'u');
        }
    }

    /// Bytes of the frame so far, for the caller's own limit.
    pub fn reply_bytes(&self) -> usize {
        self.pickler.out.len() - self.pickler.start
    }

    /// Ends the reply after the last metric.
    ///
    /// # Errors
    /// More points than a frame holds; the whole reply is taken back.
    pub fn end(mut self) -> Result<(), ReplyTooLarge> {
        assert!(
            self.written_count == self.metric_count,
            "bulk reply announced {} metrics and got {}",
            self.metric_count,
            self.written_count
        );
        match self.metric_count {
            0 => {}
            1 => self.pickler.byte(b's'),
            // After a full batch CPython looks for more, finds none and leaves an empty batch.
            count if count.is_multiple_of(BATCH_COUNT) => self.pickler.bytes(b"(u"),
            _ => {}
        }
        self.pickler.byte(b's');
        self.pickler.end()
    }
}

/// Appends the answer to a metadata query: `{'value': value}`.
pub fn value_reply(out: &mut Vec<u8>, value: &str) {
    dict_of_text(out, &[("value", value)]);
}

/// Appends the answer to a metadata change: `{'old_value': old, 'new_value': new}`.
pub fn set_reply(out: &mut Vec<u8>, old: &str, new: &str) {
    dict_of_text(out, &[("old_value", old), ("new_value", new)]);
}

/// Appends the answer to a request that failed: `{'error': text}`.
pub fn error_reply(out: &mut Vec<u8>, text: &str) {
    dict_of_text(out, &[("error", text)]);
}

/// Appends the answer to a request of unknown type, in carbon's words.
pub fn unknown_type_reply(out: &mut Vec<u8>, kind: &str) {
    error_reply(out, &format!("Invalid request type \"{kind}\""));
}

/// Appends a dict of one or two short texts.
fn dict_of_text(out: &mut Vec<u8>, entries: &[(&str, &str)]) {
    let mut reply = Pickler::begin(out);
    if entries.len() > 1 {
        reply.byte(b'(');
    }
    for (key, value) in entries {
        reply.text(key);
        reply.text(value);
    }
    reply.byte(if entries.len() > 1 { b'u' } else { b's' });
    reply.end().expect("a few texts of bounded length fit into a frame");
}

/// Writes one frame as CPython's pickler does in protocol 2, memo numbers included.
#[derive(Debug)]
struct Pickler<'o> {
    out: &'o mut Vec<u8>,
    /// Where the frame starts in `out`.
    start: usize,
    /// The next memo number; each string, tuple and container gets one.
    memo_next: u32,
}

impl<'o> Pickler<'o> {
    /// Begins a frame whose object is a dict.
    fn begin(out: &'o mut Vec<u8>) -> Pickler<'o> {
        let start = out.len();
        out.extend_from_slice(&[0; HEADER_BYTES]);
        let mut pickler = Pickler { out, start, memo_next: 0 };
        pickler.bytes(&[0x80, 2]);
        pickler.empty_dict();
        pickler
    }

    /// Writes STOP and the frame's length.
    fn end(mut self) -> Result<(), ReplyTooLarge> {
        self.byte(b'.');
        let pickle_bytes = self.out.len() - self.start - HEADER_BYTES;
        let Ok(length) = u32::try_from(pickle_bytes) else {
            self.out.truncate(self.start);
            return Err(ReplyTooLarge);
        };
        self.out[self.start..self.start + HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
        Ok(())
    }

    fn byte(&mut self, byte: u8) {
        self.out.push(byte);
    }

    fn bytes(&mut self, bytes: &[u8]) {
        self.out.extend_from_slice(bytes);
    }

    fn empty_dict(&mut self) {
        self.byte(b'}');
        self.memoize();
    }

    /// Numbers the object just written: BINPUT, or LONG_BINPUT from 256 on.
    fn memoize(&mut self) {
        match u8::try_from(self.memo_next) {
            Ok(index) => self.bytes(&[b'q', index]),
            Err(_) => {
                self.byte(b'r');
                self.bytes(&self.memo_next.to_le_bytes());
            }
        }
        // A frame that could wrap this has more than 4 GiB and is taken back at its end.
        self.memo_next = self.memo_next.wrapping_add(1);
    }

    fn text(&mut self, text: &str) {
        let length = u32::try_from(text.len()).expect("names, keys and messages are short");
        self.byte(b'X');
        self.bytes(&length.to_le_bytes());
        self.bytes(text.as_bytes());
        self.memoize();
    }

    /// A list of points: APPEND for a single one, else batches between MARK and APPENDS.
    fn points(&mut self, points: &[Point]) {
        self.byte(b']');
        self.memoize();
        if let [point] = points {
            self.point(point);
            self.byte(b'a');
            return;
        }
        self.out.reserve(points.len() * POINT_BYTES_MAX);
        for batch in points.chunks(BATCH_COUNT) {
            self.byte(b'(');
            for point in batch {
                self.point(point);
            }
            self.byte(b'e');
        }
    }

    fn point(&mut self, point: &Point) {
        self.byte(b'G');
        self.bytes(&f64::from(point.timestamp_s).to_be_bytes());
        self.byte(b'G');
        self.bytes(&point.value.to_be_bytes());
        self.byte(0x86);
        self.memoize();
    }
}

/// Two floats of 9 bytes, TUPLE2 and LONG_BINPUT.
const POINT_BYTES_MAX: usize = 2 * 9 + 1 + 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(body: &[u8], want: Result<&str, RequestError>) {
        let mut decoder = PickleDecoder::new();
        let got = Request::parse(&mut decoder, body).map(|request| match request {
            Request::CacheQueryBulk { metrics } => {
                format!("bulk {:?}", metrics.collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        });
        assert_eq!(got, want.map(str::to_owned), "{}", body.escape_ascii());
    }

    #[test]
    fn requests() {
        let query = Ok("CacheQuery { metric: \"a\" }");
        for body in [
            // Keys in any order, strings of any kind, the last of equal keys, extra keys.
            &b"}(U\x04typeU\x0bcache-queryU\x06metricU\x01au."[..],
            b"}(C\x06metricC\x01aC\x04typeC\x0bcache-queryu.",
            b"}(U\x06metricNU\x04typeU\x0bcache-queryU\x06metricU\x01aK\x01K\x02u.",
            b"(dS'type'\nS'cache-query'\nsS'metric'\nS'\\x61'\ns.",
            b"(Vtype\nVcache-query\nVmetric\nVa\nd.trailing",
        ] {
            check(body, query);
        }
        let bulk = Ok("bulk [\"a\", \"b\"]");
        for metrics in [
            &b"](U\x01aC\x01be"[..],
            b"(U\x01aU\x01bt",
            b"\x8f(U\x01aU\x01b\x90",
            b"]U\x01aaU\x01ba",
        ] {
            let mut body = b"}(U\x04typeU\x10cache-query-bulkU\x07metrics".to_vec();
            body.extend_from_slice(metrics);
            body.extend_from_slice(b"u.");
            check(&body, bulk);
        }
        check(b"}U\x04typeU\x03foos.", Ok("Unknown { kind: \"foo\" }"));
    }

    #[test]
    fn refusals() {
        check(b"].", Err(RequestError::NotADict));
        check(b"}.", Err(RequestError::Key("type")));
        check(b"}U\x04typeK\x01s.", Err(RequestError::Key("type")));
        check(b"}U\x04typeU\x0bcache-querys.", Err(RequestError::Key("metric")));
        let odd = b"}(U\x04typeU\x0bcache-queryU\x06metricU\x01\xe9u.";
        check(odd, Err(RequestError::Key("metric")));
        let bulk = b"}(U\x04typeU\x10cache-query-bulkU\x07metricsU\x01au.";
        check(bulk, Err(RequestError::Key("metrics")));
        let bulk = b"}(U\x04typeU\x10cache-query-bulkU\x07metrics]Naau.";
        assert!(Request::parse(&mut PickleDecoder::new(), bulk).is_err());
    }

    #[test]
    fn long_names_are_refused() {
        for (length, is_request) in [(NAME_BYTES_MAX, true), (NAME_BYTES_MAX + 1, false)] {
            let mut body = b"}(U\x04typeU\x0bcache-queryU\x06metricX".to_vec();
            body.extend_from_slice(&u32::try_from(length).unwrap().to_le_bytes());
            body.extend(std::iter::repeat_n(b'n', length));
            body.extend_from_slice(b"u.");
            let mut decoder = PickleDecoder::new();
            let got = Request::parse(&mut decoder, &body);
            assert_eq!(got.is_ok(), is_request);
        }
    }
}
