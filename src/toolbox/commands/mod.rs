//! The commands of `carbyne whisper`, one file for each or for a pair with common code.

pub(crate) mod create;
pub(crate) mod diff;
pub(crate) mod fetch_dump;
pub(crate) mod find;
pub(crate) mod info;
pub(crate) mod merge_fill;
pub(crate) mod path;
pub(crate) mod resize;
pub(crate) mod resize_tree;
pub(crate) mod set;
pub(crate) mod update;
pub(crate) mod verify;
