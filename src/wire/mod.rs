//! Grammars: bytes to values and back.

pub mod number;
