//! How the log of a shard calls a metric.

/// Stored beside the points of the metric; only the log gives and reads it. The default
/// is the mark of a metric that the log has never met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    pub(crate) number: u32,
    pub(crate) epoch: u32,
}
