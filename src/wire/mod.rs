//! Grammars: bytes to values and back.

pub mod line;
pub mod number;
