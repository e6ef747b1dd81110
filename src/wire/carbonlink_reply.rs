//! Carbonlink from the asking side: a question about one metric, and what a cache answers.
//!
//! ```text
//! question  graphite-web's dict in protocol 2, byte for byte; go-carbon reads none below that
//! reply     dict with "datapoints": [(timestamp, value), ...], or with "error": text
//! ```
//!
//! Replies come from this node, carbon-cache or go-carbon, or from whatever listens on a mistyped
//! port. The whole reply is checked before a point of it is handed out, and reading it takes no
//! memory besides the decoder's. Points keep the order of the reply: carbon's is that of arrival.

use std::borrow::Cow;
use std::fmt;

use crate::limits::NAME_BYTES_MAX;
use crate::wire::pickle::{Elements, FrameError, HEADER_BYTES, Pickle, PickleDecoder, Value};

/// What a cache answers about one metric, borrowed from its frame.
#[derive(Debug, Clone)]
pub enum Reply<'a> {
    /// The points that are not in the metric's file yet; none for an unknown metric.
    Datapoints(Datapoints<'a>),
    /// Why there is no answer, in the server's words: any text, carbon sends tracebacks.
    Error(Cow<'a, str>),
}

/// Why a frame's body is no reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplyError {
    /// The body is not a pickle of plain data.
    Pickle(FrameError),
    /// The object is not a dict.
    NotADict,
    /// The dict has neither a list of datapoints nor the text of an error.
    NoAnswer,
    /// A datapoint is not a pair of numbers.
    Datapoint,
}

impl fmt::Display for ReplyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ReplyError::Pickle(error) => write!(f, "decode reply: {error}"),
            ReplyError::NotADict => f.write_str("reply is not a dict"),
            ReplyError::NoAnswer => f.write_str("reply has neither datapoints nor an error"),
            ReplyError::Datapoint => {
                f.write_str("reply has a datapoint that is no pair of numbers")
            }
        }
    }
}

impl std::error::Error for ReplyError {}

/// One point as the cache has it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Datapoint {
    /// Seconds since the Unix epoch; carbon keeps fractions and whatever else it was sent.
    pub timestamp: f64,
    /// The value.
    pub value: f64,
}

/// The points of a reply in its order.
#[derive(Debug, Clone)]
pub struct Datapoints<'a> {
    pickle: Pickle<'a>,
    elements: Elements<'a>,
}

impl Iterator for Datapoints<'_> {
    type Item = Datapoint;

    fn next(&mut self) -> Option<Datapoint> {
        let element = self.elements.next()?;
        Some(datapoint(self.pickle, element).expect("parsing the reply has read each point"))
    }
}

impl<'a> Reply<'a> {
    /// Reads the reply in a frame's `body`, the bytes behind the length. Keys that are not known
    /// are ignored, and where a key comes twice the last one counts, as in a dict.
    ///
    /// # Errors
    /// Anything else than an answer to [`cache_query`].
    pub fn parse(decoder: &'a mut PickleDecoder, body: &'a [u8]) -> Result<Reply<'a>, ReplyError> {
        let pickle = decoder.decode(body).map_err(ReplyError::Pickle)?;
        let mut entries = pickle.dict(pickle.root()).ok_or(ReplyError::NotADict)?;
        let (mut points, mut error) = (None, None);
        while let (Some(key), Some(value)) = (entries.next(), entries.next()) {
            match pickle.bytes(key) {
                Some(b"datapoints") => points = Some(value),
                Some(b"error") => error = Some(value),
                _ => {}
            }
        }
        if let Some(elements) = points.and_then(|points| pickle.sequence(points)) {
            if elements.clone().any(|element| datapoint(pickle, element).is_none()) {
                return Err(ReplyError::Datapoint);
            }
            return Ok(Reply::Datapoints(Datapoints { pickle, elements }));
        }
        let text = error.and_then(|error| pickle.bytes(error)).ok_or(ReplyError::NoAnswer)?;
        Ok(Reply::Error(String::from_utf8_lossy(text)))
    }
}

fn datapoint(pickle: Pickle<'_>, element: Value) -> Option<Datapoint> {
    let (timestamp, value) = pickle.sequence(element).and_then(Elements::pair)?;
    let timestamp = unsigned(pickle.number(timestamp)?);
    Some(Datapoint { timestamp, value: pickle.number(value)? })
}

/// go-carbon puts the 32 unsigned bits of a timestamp into an opcode whose integer is signed, so
/// what comes after January 2038 arrives as negative. No cache has points from before 1970.
fn unsigned(timestamp: f64) -> f64 {
    let is_wrapped = (f64::from(i32::MIN)..0.0).contains(&timestamp);
    if is_wrapped { timestamp + (f64::from(u32::MAX) + 1.0) } else { timestamp }
}

/// Appends the question for the waiting points of one metric, as a whole frame. The name has at
/// most [`NAME_BYTES_MAX`] bytes.
pub fn cache_query(out: &mut Vec<u8>, metric: &str) {
    assert!(metric.len() <= NAME_BYTES_MAX, "a name of {} bytes is too long", metric.len());
    let start = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    out.extend_from_slice(b"\x80\x02}q\0(");
    for (memo, text) in (1..).zip(["type", "cache-query", "metric", metric]) {
        out.push(b'X');
        out.extend_from_slice(&u32_of(text.len()).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        out.extend_from_slice(&[b'q', memo]);
    }
    out.extend_from_slice(b"u.");
    let pickle_bytes = u32_of(out.len() - start - HEADER_BYTES);
    out[start..start + HEADER_BYTES].copy_from_slice(&pickle_bytes.to_be_bytes());
}

fn u32_of(length: usize) -> u32 {
    u32::try_from(length).expect("a question is little longer than a name")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a reply says, in a line.
    #[track_caller]
    fn check(body: &[u8], want: Result<&str, ReplyError>) {
        let mut decoder = PickleDecoder::new();
        let got = Reply::parse(&mut decoder, body).map(|reply| match reply {
            Reply::Datapoints(points) => {
                points.map(|point| format!("{} {};", point.timestamp, point.value)).collect()
            }
            Reply::Error(text) => format!("error {text}"),
        });
        assert_eq!(got, want.map(str::to_owned), "{}", body.escape_ascii());
    }

    #[test]
    fn shapes() {
        let one = Ok("1 2;");
        for body in [
            // Points in lists and tuples, strings of any kind, unknown keys, the last of equals.
            &b"}U\x0adatapoints]K\x01K\x02\x86as."[..],
            b"}C\x0adatapoints(K\x01K\x02t\x85s.",
            b"}(X\x0a\0\0\0datapointsNU\x01xNU\x0adatapoints](](K\x01K\x02eeu.",
            b"(dVdatapoints\n(lp0\n(I1\nF2.0\ntas.",
        ] {
            check(body, one);
        }
        check(b"}U\x0adatapoints]s.", Ok(""));
        check(b"}U\x0adatapoints)s.", Ok(""));
        check(b"}U\x05errorU\x03no\xffs.", Ok("error no\u{fffd}"));
        check(b"}(U\x05errorU\x01xU\x0adatapoints]u.", Ok(""));
    }

    #[test]
    fn timestamps() {
        for (timestamp, want) in [
            (&b"J\x00\xf1Se"[..], "1700000000 2;"),
            (b"GA\xd9T\xfc@\x10\0\0", "1700000000.25 2;"),
            (b"\x8a\x05\xff\xff\xff\xff\0", "4294967295 2;"),
            // go-carbon's integers are unsigned, whatever the opcode says.
            (b"J\xff\xff\xff\xff", "4294967295 2;"),
            (b"J\0\0\0\x80", "2147483648 2;"),
            (b"GA\xef\xff\xff\xff\xe0\0\0", "4294967295 2;"),
            (b"G\x7f\xf0\0\0\0\0\0\0", "inf 2;"),
        ] {
            let body = [b"}U\x0adatapoints]", timestamp, b"K\x02\x86as."].concat();
            check(&body, Ok(want));
        }
    }

    #[test]
    fn refusals() {
        check(b"].", Err(ReplyError::NotADict));
        check(b"}.", Err(ReplyError::NoAnswer));
        check(b"}U\x12datapointsByMetric}s.", Err(ReplyError::NoAnswer));
        check(b"}U\x0adatapoints}s.", Err(ReplyError::NoAnswer));
        check(b"}U\x05errorNs.", Err(ReplyError::NoAnswer));
        for point in [&b"N"[..], b"K\x01\x85", b"K\x01K\x02K\x03\x87", b"K\x01N\x86", b"NK\x02\x86"]
        {
            let body = [b"}U\x0adatapoints]K\x01K\x02\x86a", point, b"as."].concat();
            check(&body, Err(ReplyError::Datapoint));
        }
        for body in [&b""[..], b"}", b"cos\nsystem\n.", b"HTTP/1.1 400"] {
            let got = Reply::parse(&mut PickleDecoder::new(), body).map(drop);
            assert!(matches!(got, Err(ReplyError::Pickle(_))), "{got:?}");
        }
    }
}
