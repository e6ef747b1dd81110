//! Metric names: canonical form and file path.
