//! Grammars: bytes to values and back.

pub mod carbonlink;
pub mod carbonlink_reply;
pub mod line;
pub mod number;
pub mod pickle;
