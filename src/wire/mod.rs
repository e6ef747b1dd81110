//! Grammars: bytes to values and back.
