//! Grammars: bytes to values and back.

pub mod carbonlink;
pub mod line;
pub mod number;
pub mod pickle;
