//! Pickle, as data only: a frame of bytes becomes objects that can be read, and nothing else.
//!
//! ```text
//! frame on the wire    u32 big-endian length | pickle
//! pickle               opcodes of protocols 0 to 5 | STOP | ignored
//! points               sequence of (name, (timestamp, value), ...)
//! ```
//!
//! A pickle is a program for a stack machine. Ours knows the opcodes that build numbers, strings,
//! lists, tuples, sets and dicts; each opcode that could name or call code is refused, so there is
//! nothing to escape from. What it keeps true for any frame:
//!
//! - no recursion, and time linear in the frame; reading is linear too, because objects shared
//!   through the memo are charged each time they are read ([`read_bytes_max`]);
//! - memory below [`arena_bytes_max`], whatever lengths, indices and counts the frame claims;
//! - scalars and strings stay in the frame: a value is 4 bytes, mostly the offset of its opcode;
//! - the same bytes get the same answer, whatever was decoded before.
//!
//! CPU sketch: an item of carbon-relay is 11 opcodes, which become 5 cells and 3 memo slots of 4
//! bytes; frames of that shape alone are read without any of it (`plain`), in half the time.
//! [`PickleDecoder::points`] feeds the pickle port, [`super::carbonlink`] the cache queries.

mod arena;
mod decode;
mod error;
mod opcode;
mod plain;
mod points;
mod read;
mod text;

pub use arena::arena_bytes_max;
pub use decode::{FRAME_BYTES_MAX, PickleDecoder};
pub use error::{FrameError, FrameFault, ItemError};
pub use points::Points;
pub use read::read_bytes_max;

pub(super) use arena::Value;
pub(super) use read::{Elements, Pickle};

/// Bytes of the header in front of each frame.
pub const HEADER_BYTES: usize = 4;

/// The length in bytes of the pickle that follows a frame's header.
///
/// Zero: the frame holds no pickle; the pickle port skips it.
/// The caller compares the length with its own limit before it receives the frame.
pub fn frame_bytes(header: [u8; HEADER_BYTES]) -> u32 {
    u32::from_be_bytes(header)
}
