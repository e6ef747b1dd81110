//! Carbonlink, carbon-cache's query protocol: requests to the cache and their replies.
//!
//! ```text
//! frame     u32 big-endian length | pickle
//! request   dict with "type" and the keys of that type, in any protocol up to 5
//! reply     dict in protocol 2, byte for byte what CPython's pickler writes
//! ```
//!
//! A connection carries any number of requests, answered in order. A body that is no request closes
//! it without an answer; for a metric without waiting points the answer is an empty list. Callers
//! pass points sorted by time; timestamps are floats, because Python reads go-carbon's integers as
//! signed.
//!
//! A reply with points is counted first, then written piece by piece: see [`ReplySize`] and
//! [`Reply`]. Sketch: a point is 21 to 24 bytes.

use std::fmt;

use crate::limits::NAME_BYTES_MAX;
use crate::metric::point::Point;
use crate::wire::pickle::{Elements, FrameError, HEADER_BYTES, Pickle, PickleDecoder, Value};

/// A question, borrowed from its frame.
#[derive(Debug, Clone)]
pub enum Request<'a> {
    /// The waiting points of one metric; answered by [`ReplySize::datapoints`].
    CacheQuery {
        /// Name as received, to be looked up as it is.
        metric: &'a str,
    },
    /// The waiting points of several metrics; answered by [`ReplySize::bulk`].
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

/// A reply whose pickle would exceed the 32 bits of the frame's length. Nothing was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTooLarge;

impl fmt::Display for ReplyTooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("reply exceeds 4 GiB")
    }
}

impl std::error::Error for ReplyTooLarge {}

/// CPython's pickler closes a batch of list elements or dict entries at this number.
const BATCH_COUNT: u32 = 1_000;

/// Most bytes that [`Reply::point`] appends: two floats of 9 bytes, TUPLE2, LONG_BINPUT, MARK and
/// APPENDS.
pub const POINT_BYTES_MAX: usize = POINT_BYTES + 5 + 2;

/// Bytes of a point without its memo number.
const POINT_BYTES: usize = 2 * 9 + 1;

const DATAPOINTS: &str = "datapoints";
const DATAPOINTS_BY_METRIC: &str = "datapointsByMetric";

/// What a reply will consist of. It is counted before the first byte is written, because a frame
/// begins with its length.
#[derive(Debug, Clone, Copy)]
pub struct ReplySize {
    pickle_bytes: u64,
    /// Objects that get a memo number.
    memo_count: u64,
    list_count: u32,
    is_bulk: bool,
}

impl ReplySize {
    /// The answer to a cache query, `{'datapoints': [(timestamp, value), ...]}`.
    pub fn datapoints(point_count: u32) -> ReplySize {
        let mut size = ReplySize::dict(false);
        size.list(DATAPOINTS.len(), point_count);
        size
    }

    /// The answer to a bulk query, `{'datapointsByMetric': {name: [...], ...}}`, to which
    /// [`ReplySize::list`] adds the metrics.
    pub fn bulk() -> ReplySize {
        let mut size = ReplySize::dict(true);
        size.text(DATAPOINTS_BY_METRIC.len());
        size.pickle_bytes += 1;
        size.memoize(1);
        size
    }

    fn dict(is_bulk: bool) -> ReplySize {
        // The protocol and EMPTY_DICT, SETITEM and STOP.
        let mut size = ReplySize { pickle_bytes: 3 + 2, memo_count: 0, list_count: 0, is_bulk };
        size.memoize(1);
        size
    }

    /// Adds a list of `point_count` points under a key of `key_bytes` bytes.
    pub fn list(&mut self, key_bytes: usize, point_count: u32) {
        self.text(key_bytes);
        self.pickle_bytes += 1;
        self.memoize(1);
        self.pickle_bytes += POINT_BYTES as u64 * u64::from(point_count);
        self.memoize(u64::from(point_count));
        self.pickle_bytes += match point_count {
            1 => 1,
            count => 2 * u64::from(count.div_ceil(BATCH_COUNT)),
        };
        self.list_count += 1;
    }

    fn text(&mut self, bytes: usize) {
        self.pickle_bytes += 5 + bytes as u64;
        self.memoize(1);
    }

    /// BINPUT takes 2 bytes and has numbers up to 255, LONG_BINPUT takes 5.
    fn memoize(&mut self, count: u64) {
        let short = count.min(256_u64.saturating_sub(self.memo_count));
        self.pickle_bytes += 2 * short + 5 * (count - short);
        self.memo_count += count;
    }

    fn pickle_bytes(self) -> Result<u32, ReplyTooLarge> {
        let batches = match self.list_count {
            _ if !self.is_bulk => 0,
            0 => 0,
            1 => 1,
            count => 2 * u64::from(count.div_ceil(BATCH_COUNT)) + rest_of_full_batches(count),
        };
        u32::try_from(self.pickle_bytes + batches).map_err(|_| ReplyTooLarge)
    }
}

/// After a full batch of dict entries CPython looks for more, finds none and leaves an empty batch.
fn rest_of_full_batches(count: u32) -> u64 {
    if count.is_multiple_of(BATCH_COUNT) { 2 } else { 0 }
}

/// A reply under way: what is written of it gathers in a buffer, from which the caller takes it as
/// often as it likes, so that no reply is ever in memory as a whole.
///
/// Its lists and their points are those that its [`ReplySize`] counted, in the same order.
#[derive(Debug)]
pub struct Reply {
    pickler: Pickler,
    size: ReplySize,
    /// Bytes of the frame that were taken, and all that there will be.
    taken_bytes: u64,
    frame_bytes: u64,
    list_written: u32,
    /// Points of the list that was begun last, and how many of them are written.
    point_count: u32,
    point_written: u32,
}

impl Reply {
    /// Begins a reply of this size.
    ///
    /// # Errors
    /// More points than a frame holds, about 170 million.
    pub fn begin(size: ReplySize) -> Result<Reply, ReplyTooLarge> {
        let pickle_bytes = size.pickle_bytes()?;
        let mut pickler = Pickler::default();
        pickler.begin(pickle_bytes);
        if size.is_bulk {
            pickler.text(DATAPOINTS_BY_METRIC);
            pickler.empty_dict();
        }
        let frame_bytes = HEADER_BYTES as u64 + u64::from(pickle_bytes);
        Ok(Reply {
            pickler,
            size,
            taken_bytes: 0,
            frame_bytes,
            list_written: 0,
            point_count: 0,
            point_written: 0,
        })
    }

    /// Begins the list of a cache query's answer.
    pub fn datapoints(&mut self, point_count: u32) {
        self.begin_list(DATAPOINTS, point_count);
    }

    /// Begins the list of one metric of a bulk query's answer; an unknown metric has no points.
    pub fn metric(&mut self, name: &str, point_count: u32) {
        let count = self.size.list_count;
        if count > 1 && self.list_written.is_multiple_of(BATCH_COUNT) {
            if self.list_written > 0 {
                self.pickler.byte(b'u');
            }
            self.pickler.byte(b'(');
        }
        self.begin_list(name, point_count);
    }

    fn begin_list(&mut self, key: &str, point_count: u32) {
        assert!(
            self.list_written < self.size.list_count && self.point_written == self.point_count,
            "list {} of {} begins after {} of {} points",
            self.list_written,
            self.size.list_count,
            self.point_written,
            self.point_count
        );
        self.pickler.text(key);
        self.pickler.byte(b']');
        self.pickler.memoize();
        self.list_written += 1;
        (self.point_count, self.point_written) = (point_count, 0);
    }

    /// Writes the next point of the list: APPEND for a single one, else batches between MARK and
    /// APPENDS.
    pub fn point(&mut self, point: Point) {
        let (count, number) = (self.point_count, self.point_written);
        assert!(number < count, "a list of {count} points gets one more");
        if count > 1 && number.is_multiple_of(BATCH_COUNT) {
            self.pickler.byte(b'(');
        }
        self.pickler.point(point);
        self.point_written = number + 1;
        if count == 1 {
            self.pickler.byte(b'a');
        } else if (number + 1).is_multiple_of(BATCH_COUNT) || number + 1 == count {
            self.pickler.byte(b'e');
        }
    }

    /// Ends the reply after the last point of the last list.
    ///
    /// # Panics
    /// The reply is not what was counted: its frame would have another length than its header says.
    pub fn end(&mut self) {
        match self.size.list_count {
            _ if !self.size.is_bulk => {}
            0 => {}
            1 => self.pickler.byte(b's'),
            count => {
                self.pickler.byte(b'u');
                if count.is_multiple_of(BATCH_COUNT) {
                    self.pickler.bytes(b"(u");
                }
            }
        }
        self.pickler.bytes(b"s.");
        let written = self.taken_bytes + self.pickler.out.len() as u64;
        assert!(
            written == self.frame_bytes && self.list_written == self.size.list_count,
            "a reply of {} bytes and {} lists got {written} and {}",
            self.frame_bytes,
            self.size.list_count,
            self.list_written
        );
    }

    /// What is written and was not taken yet.
    pub fn written(&self) -> &[u8] {
        &self.pickler.out
    }

    /// [`Reply::written`] was taken.
    pub fn taken(&mut self) {
        self.taken_bytes += self.pickler.out.len() as u64;
        self.pickler.out.clear();
    }
}

/// The answer to a metadata query: `{'value': value}`, as a whole frame.
pub fn value_reply(value: &str) -> Vec<u8> {
    dict_of_text(&[("value", value)])
}

/// The answer to a metadata change: `{'old_value': old, 'new_value': new}`, as a whole frame.
pub fn set_reply(old: &str, new: &str) -> Vec<u8> {
    dict_of_text(&[("old_value", old), ("new_value", new)])
}

/// The answer to a request that failed: `{'error': text}`, as a whole frame.
pub fn error_reply(text: &str) -> Vec<u8> {
    dict_of_text(&[("error", text)])
}

/// The answer to a request of unknown type, in carbon's words.
pub fn unknown_type_reply(kind: &str) -> Vec<u8> {
    error_reply(&format!("Invalid request type \"{kind}\""))
}

/// A dict of one or two short texts.
fn dict_of_text(entries: &[(&str, &str)]) -> Vec<u8> {
    let mut reply = Pickler::default();
    reply.begin(0);
    if entries.len() > 1 {
        reply.byte(b'(');
    }
    for (key, value) in entries {
        reply.text(key);
        reply.text(value);
    }
    reply.byte(if entries.len() > 1 { b'u' } else { b's' });
    reply.byte(b'.');
    let mut frame = reply.out;
    let pickle_bytes = u32::try_from(frame.len() - HEADER_BYTES);
    let length = pickle_bytes.expect("a few texts of bounded length fit into a frame");
    frame[..HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
    frame
}

/// Writes one frame as CPython's pickler does in protocol 2, memo numbers included.
#[derive(Debug, Default)]
struct Pickler {
    out: Vec<u8>,
    /// The next memo number; each string, tuple and container gets one.
    memo_next: u32,
}

impl Pickler {
    /// Begins a frame whose object is a dict.
    fn begin(&mut self, pickle_bytes: u32) {
        self.bytes(&pickle_bytes.to_be_bytes());
        self.bytes(&[0x80, 2]);
        self.empty_dict();
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
        // Each takes 2 bytes at least, of a frame whose length has 32 bits.
        self.memo_next += 1;
    }

    fn text(&mut self, text: &str) {
        let length = u32::try_from(text.len()).expect("names, keys and messages are short");
        self.byte(b'X');
        self.bytes(&length.to_le_bytes());
        self.bytes(text.as_bytes());
        self.memoize();
    }

    fn point(&mut self, point: Point) {
        let mut bytes = [b'G'; POINT_BYTES];
        bytes[1..9].copy_from_slice(&f64::from(point.timestamp_s).to_be_bytes());
        bytes[10..18].copy_from_slice(&point.value.to_be_bytes());
        bytes[18] = 0x86;
        self.bytes(&bytes);
        self.memoize();
    }
}

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
