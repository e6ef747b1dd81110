//! How the log of a shard calls a metric.

/// Kept with the metric by whoever holds its points, given and read by the log alone. The default
/// is the mark of a metric that the log has never met.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Mark {
    pub(crate) number: u32,
    pub(crate) epoch: u32,
}
