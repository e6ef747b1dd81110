//! Any bytes as a frame of the pickle port; memory stays in proportion to the frame.

use carbyne::wire::pickle::{PickleDecoder, arena_bytes_max};

/// One input.
pub(crate) fn run(data: &[u8]) {
    let mut decoder = PickleDecoder::new();
    if let Ok(points) = decoder.points(data) {
        for _ in points {}
    }
    assert!(decoder.arena_bytes() <= arena_bytes_max(data.len()));
}
