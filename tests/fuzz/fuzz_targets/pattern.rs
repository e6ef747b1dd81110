//! libFuzzer's entry; what is done with the bytes stands in the body.
#![no_main]

#[path = "../bodies/pattern.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::run(data));
