//! Carbyne: a Graphite storage node.

pub mod cli;
pub mod config;
pub mod limits;
pub mod metric;
pub mod schema;
pub mod whisper;
pub mod wire;
