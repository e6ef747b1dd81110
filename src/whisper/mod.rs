//! The Whisper file format as pure functions over bytes.
