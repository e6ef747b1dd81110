//! Every hard bound of the node, with its reason and what "full" does.
//!
//! A bound that an operator may change has its default here and its key in `config`.

/// Longest accepted metric name in bytes, as received and in canonical form.
///
/// A longer name is refused and counted. 4,000 keeps `name + ".wsp"` under the kernel's 4,096-byte
/// limit for one path (paths are opened relative to the data directory).
pub const NAME_BYTES_MAX: usize = 4_000;

/// Longest accepted component of an untagged name in bytes: a file name holds 255, ".wsp" takes 4.
pub const COMPONENT_BYTES_MAX: usize = 251;

/// Most components of an untagged name. Deeper names are refused: twenty names of 1,901
/// components made another server create 38,001 directories.
pub const NAME_DEPTH_MAX: usize = 64;

/// Longest accepted line in bytes, without its LF; carbon's limit. A longer line closes its
/// connection.
pub const LINE_BYTES_MAX: usize = 16_384;

/// Most archives in one Whisper file; a header that claims more is refused as damaged.
pub const ARCHIVES_MAX: usize = 16;
