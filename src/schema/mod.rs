//! storage-schemas.conf and storage-aggregation.conf: what a new file looks like.
