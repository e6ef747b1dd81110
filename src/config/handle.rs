//! Typed handles: how the node reads a key of the table.
//!
//! A handle is made at compile time. A name that the table lacks does not compile, nor does a type
//! that is not the key's or cannot hold all of its range. Inside of functions `cargo build` finds
//! it; `cargo check` does not evaluate their constants.

use std::marker::PhantomData;
use std::path::PathBuf;
use std::time::Duration;

use super::key::Section;
use super::table::SECTIONS;
use super::value::{ANY_DURATION, Kind, Value, YEAR};

/// A key that the node reads as a `T`.
pub(super) struct Handle<T> {
    /// Its place among all keys of the table.
    pub(super) index: usize,
    read_as: PhantomData<T>,
}

/// The handle of a key, from the names of its section and of itself.
macro_rules! key {
    ($section:literal, $key:literal) => {
        const { &$crate::config::handle::Handle::new($section, $key) }
    };
}
pub(super) use key;

impl<T: Read> Handle<T> {
    /// For the macro `key`, which calls it at compile time.
    pub(super) const fn new(section: &str, key: &str) -> Handle<T> {
        let (mut index, mut in_sections) = (0, 0);
        while in_sections < SECTIONS.len() {
            let Section { name, keys, .. } = &SECTIONS[in_sections];
            let mut in_keys = 0;
            while in_keys < keys.len() {
                if same(name.as_bytes(), section.as_bytes())
                    && same(keys[in_keys].name.as_bytes(), key.as_bytes())
                {
                    assert!(keys[in_keys].kind.is_within(T::KIND), "the key has another type");
                    return Handle { index, read_as: PhantomData };
                }
                (index, in_keys) = (index + 1, in_keys + 1);
            }
            in_sections += 1;
        }
        panic!("the table has no such key")
    }
}

/// `==`, which constants lack for text.
const fn same(a: &[u8], b: &[u8]) -> bool {
    match (a, b) {
        ([], []) => true,
        ([first, a @ ..], [second, b @ ..]) => *first == *second && same(a, b),
        _ => false,
    }
}

/// A type that the node reads a value as.
pub(super) trait Read: Sized {
    /// The widest kind whose values the type holds.
    const KIND: Kind;

    /// The value, or `None` if it is not of that kind.
    fn read(value: &Value) -> Option<Self>;
}

macro_rules! read {
    ($type:ty, $kind:expr, $($value:pat => $read:expr),+) => {
        impl Read for $type {
            const KIND: Kind = $kind;

            fn read(value: &Value) -> Option<$type> {
                match value {
                    $($value => Some($read),)+
                    _ => None,
                }
            }
        }
    };
}

read!(bool, Kind::Bool, Value::Bool(is_on) => *is_on);
read!(u32, Kind::Int(0, u32::MAX as u64),
    Value::Int(n) | Value::Size(n) => (*n).try_into().ok()?);
read!(u64, Kind::Int(0, u64::MAX), Value::Int(n) | Value::Size(n) => *n);
read!(usize, Kind::Int(0, usize::MAX as u64),
    Value::Int(n) | Value::Size(n) => (*n).try_into().ok()?);
read!(Option<u64>, Kind::AutoSize(0, u64::MAX), Value::Auto => None, Value::Size(n) => Some(*n));
read!(String, Kind::Text, Value::Text(text) => text.clone());
read!(PathBuf, Kind::Text, Value::Text(path) => path.into());
read!(Option<PathBuf>, Kind::Text, Value::Text(p) => (!p.is_empty()).then(|| p.into()));
read!(Duration, ANY_DURATION, Value::Duration(time) => *time);
read!(Option<Duration>, Kind::OptionalDuration(Duration::ZERO, YEAR),
    Value::Duration(time) => (!time.is_zero()).then_some(*time));
