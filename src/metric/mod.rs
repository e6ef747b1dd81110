//! The nouns that flow through the node.
//!
//! - *metric*: a named series of datapoints.
//! - *name*: the canonical bytes of a metric name; two spellings of one file are one name.
//! - *point*: one timestamp with one value.
//! - *glob*: a pattern of names, as `find` takes it.
//! - *mark*: how the log calls a metric.
//! - *owner*: the shard that keeps a metric.
//! - *series spec*: what a new Whisper file looks like (archives, xFilesFactor, method).

pub mod batch;
pub mod glob;
pub mod mark;
pub mod name;
pub mod name_error;
pub mod owner;
pub mod point;
pub mod series;
mod tag;
