//! Grammars: bytes to values and back.

mod blanks;
pub mod carbonlink;
pub mod carbonlink_reply;
mod decimal;
pub mod line;
pub mod number;
pub mod pickle;
