//! Carbyne: a Graphite storage node.

pub mod cache;
pub mod cli;
pub mod config;
pub mod fatal;
pub mod limits;
pub mod logging;
pub mod metric;
pub mod node;
pub mod query;
pub mod schema;
pub mod shard;
pub mod stats;
pub mod sys;
pub mod tasks;
pub mod whisper;
pub mod wire;
