//! Carbyne: a Graphite storage node.

pub mod cache;
pub mod cli;
pub mod config;
pub mod limits;
pub mod metric;
pub mod schema;
pub mod sys;
pub mod whisper;
pub mod wire;
