//! Whole trees of Whisper files.
//!
//! [`walk`] lists the files of a tree, [`wanted`] selects those whose metric matches a pattern,
//! [`workers`] shares them among threads, [`progress`] shows how many are done, and [`replace`]
//! replaces a file under a running node.

pub(crate) mod progress;
pub(crate) mod replace;
pub(crate) mod walk;
pub(crate) mod wanted;
pub(crate) mod workers;
