//! Reads and changes the aggregation method of one file, for carbonlink's metadata requests.

use std::os::unix::fs::FileExt;

use crate::disk::path_of;
use crate::metric::owner::ShardId;
use crate::metric::series::Aggregation;
use crate::shard::query::RequestId;
use crate::sys::at::identify;
use crate::sys::files::Tree;
use crate::sys::lock::try_lock;
use crate::whisper::{HEADER_BYTES_MAX, Header, METADATA_BYTES};

/// Reads, and changes if asked to, the aggregation method in a file's header.
#[derive(Debug)]
pub struct MetadataRequest {
    /// The core that asked; `None` for this one.
    pub asker: Option<ShardId>,
    /// The id that it gave.
    pub request_id: RequestId,
    /// The metric.
    pub name: Vec<u8>,
    /// Its file, ending in NUL.
    pub path: Vec<u8>,
    /// The new method.
    pub change: Option<Aggregation>,
    /// The method found, or what went wrong.
    pub result: Option<Result<Aggregation, String>>,
}

/// Does the request; the method found, or what went wrong.
pub(super) fn run(
    tree: &Tree,
    request: &MetadataRequest,
    flock: bool,
) -> Result<Aggregation, String> {
    let name = String::from_utf8_lossy(&request.name);
    let say = |error: &dyn std::fmt::Display| format!("{name}: {error}");
    let file = tree.open_file(path_of(&request.path)).map_err(|error| say(&error))?;
    if flock && request.change.is_some() && !try_lock(&file).map_err(|error| say(&error))? {
        return Err(say(&"locked by another process, try again"));
    }
    let identity = identify(&file).map_err(|error| say(&error))?;
    let mut bytes = vec![0; HEADER_BYTES_MAX];
    let count = file.read_at(&mut bytes, 0).map_err(|error| say(&error))?;
    let mut header = Header::parse(&bytes[..count], identity.bytes).map_err(|error| say(&error))?;
    let old = header.aggregation;
    if let Some(method) = request.change {
        header.aggregation = method;
        let metadata: [u8; METADATA_BYTES] = header.encode_metadata16();
        file.write_all_at(&metadata, 0).map_err(|error| say(&error))?;
    }
    Ok(old)
}
