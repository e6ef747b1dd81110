//! Any bytes as a question on the carbonlink port, and as a cache's answer to ours.

use carbyne::wire::carbonlink::Request;
use carbyne::wire::carbonlink_reply::{Reply, cache_query};
use carbyne::wire::pickle::PickleDecoder;

/// One input.
pub(crate) fn run(data: &[u8]) {
    let mut decoder = PickleDecoder::new();
    match Request::parse(&mut decoder, data) {
        Ok(Request::CacheQueryBulk { metrics }) => for _ in metrics {},
        Ok(Request::CacheQuery { metric }) if metric.len() <= 4_000 => {
            let mut question = Vec::new();
            cache_query(&mut question, metric);
            let parsed = Request::parse(&mut decoder, &question[4..]).expect("our own question");
            assert!(matches!(parsed, Request::CacheQuery { .. }));
        }
        _ => {}
    }
    if let Ok(Reply::Datapoints(points)) = Reply::parse(&mut decoder, data) {
        for _ in points {}
    }
}
