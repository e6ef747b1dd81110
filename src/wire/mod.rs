//! Grammars: bytes to values and back.

pub mod admin;
mod blanks;
pub mod carbonlink;
pub mod carbonlink_reply;
mod decimal;
pub mod line;
pub mod number;
pub mod pickle;
