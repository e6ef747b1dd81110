//! Any bytes as what a cache sends to `carbyne query`: as they are, and with the length of the rest
//! before them, so that the pickle is reached.

use std::io::{self, Read};
use std::time::Duration;

use carbyne::limits::REPLY_BYTES_MAX;
use carbyne::metric::point::admit;
use carbyne::query::{Answers, Failure};
use carbyne::wire::carbonlink_reply::Reply;

/// A stream that gives a byte at a time.
struct Trickle<'a>(&'a [u8]);

impl Read for Trickle<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = buffer.len().min(1);
        self.0.read(&mut buffer[..count])
    }
}

/// What the answers of a stream come to, a text each.
fn answers(stream: &mut dyn Read) -> Vec<String> {
    let mut reader = Answers::new(Duration::from_secs(1));
    let mut told = Vec::new();
    // Each good answer takes at least its length off the stream.
    loop {
        match reader.read(stream) {
            Ok(Reply::Datapoints(points)) => {
                let points = points.map(|point| admit(point.timestamp, point.value, 0, u32::MAX));
                told.push(format!("{:?}", points.collect::<Vec<_>>()));
            }
            Ok(Reply::Error(text)) => told.push(text.into_owned()),
            Err(failure) => {
                if let Failure::TooLong(bytes) = failure {
                    assert!(bytes > REPLY_BYTES_MAX);
                }
                let shown = failure.to_string();
                assert!(!shown.is_empty(), "says why: {failure:?}");
                told.push(shown);
                return told;
            }
        }
    }
}

/// One input.
pub(crate) fn run(data: &[u8]) {
    let length = u32::try_from(data.len()).expect("a short input").to_be_bytes();
    for bytes in [data, &[&length[..], data].concat()] {
        let told = answers(&mut &*bytes);
        assert!(!told.is_empty() && told.len() <= bytes.len() / 4 + 1);
        assert_eq!(told, answers(&mut Trickle(bytes)), "a slow stream says the same");
    }
}
