//! Every hard bound of the node, with its reason and what "full" does.
//!
//! A bound that an operator may change has its default here and its key in `config`.

use std::time::Duration;

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

/// Longest pattern of metric names in bytes: a thousand host names of thirty bytes in braces. A
/// longer one is refused.
pub const GLOB_BYTES_MAX: usize = 32 << 10;

/// Most segments of a pattern; more are refused. A name of the deepest kind with a `**` in front of
/// each of its components but the first fits; at the end `**` takes two.
pub const GLOB_SEGMENTS_MAX: usize = 2 * NAME_DEPTH_MAX - 1;
const _: () = assert!(GLOB_SEGMENTS_MAX < 128, "where a walk stands in a pattern is 128 bits");

/// Most texts that the braces of a pattern may come to, all segments together; a pattern with more
/// is refused. Thirteen pairs such as `{a,b}` in one segment would be 8,192.
pub const GLOB_ALTERNATIVES_MAX: usize = 4_096;

/// Most bytes that are written while braces are expanded: eight times the longest pattern. It
/// bounds the memory and the time of reading a pattern; a pattern that needs more is refused.
/// Matching takes at most this many steps for each byte of a name.
pub const GLOB_EXPANDED_BYTES_MAX: usize = 256 << 10;

/// Longest accepted line in bytes, without its LF; carbon's limit. A longer line closes its
/// connection.
pub const LINE_BYTES_MAX: usize = 16_384;

/// Most archives in one Whisper file; a header that claims more is refused as damaged.
pub const ARCHIVES_MAX: usize = 16;

/// Bytes read from a socket at once, into one buffer per core: larger than any datagram (65,507),
/// and large enough that a busy connection costs few calls, but small enough that what a call has
/// brought is still in the processor's second cache when its end is taken.
pub const READ_BYTES: usize = 128 << 10;

/// Longest carbonlink request in bytes; go-carbon's limit. A longer one closes its connection.
pub const REQUEST_BYTES_MAX: usize = 1 << 20;

/// Bytes that are read of a carbonlink request before its length is known: the longest request for
/// one metric, a name and some 100 bytes. A connection may hold this much in addition to the share
/// of memory for unfinished requests: when the share is used up, questions for one metric are still
/// answered, and longer requests are given up and counted.
pub const REQUEST_BEGINNING_BYTES: usize = NAME_BYTES_MAX + 608;

/// A longer carbonlink request is read beyond its beginning, and taken apart, when no other one on
/// its core is: the next waits. 16 KiB are some 500 names.
pub const REQUEST_SMALL_BYTES: usize = 16 << 10;

/// Names whose points are looked for at once: other tasks of the core have their turn after each
/// such slice of some 100 us. They have at most as many owners.
pub const SHARD_REQUEST_NAMES_MAX: usize = 128;
const _: () =
    assert!(SHARD_REQUEST_NAMES_MAX <= SHARD_REQUESTS_MAX, "one slice's requests may be open");

/// Points that one core sends another in one answer, in bytes, unless it has been granted more; an
/// answer that is full ends before the next metric, for which is asked again. The answers to one
/// slice's questions share it.
pub const ANSWER_PAGE_BYTES: usize = 128 << 10;

/// Points in an answer to a carbonlink question, in bytes of 12 a point, that may be looked for
/// without knowing how many there are: 682 points, eleven hours of a metric at a point a minute.
/// Larger answers are found out to be so, and wait for their share of the memory.
pub const SMALL_ANSWER_BYTES: usize = 8 << 10;

/// A carbonlink reply is written in pieces of this size: some 30 us of encoding, and few calls.
/// A reply to a client that reads slowly holds one such piece beside its points.
pub const REPLY_PIECE_BYTES: usize = 64 << 10;

/// Memory for a small answer while it is looked for: its points, and its reply, which has twice as
/// many bytes. While it is written only the reply is held.
pub const SMALL_REPLY_BYTES: usize = 4 * SMALL_ANSWER_BYTES;
const _: () = assert!(SMALL_REPLY_BYTES > 2 * NAME_BYTES_MAX + 1_024, "an error names its cause");

/// The points of a bulk answer are kept in chunks of this size, which are freed one by one as the
/// reply is written. Memory of this size goes back to the system, see [`crate::sys::heap`].
pub const ANSWER_CHUNK_BYTES: usize = 256 << 10;

/// An answer waits this long for others that hold its share of the memory; then the question is
/// refused with an error that says so, and counted.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(30);

/// A client that reads nothing of its answer for this long is gone: its connection is closed.
pub const REPLY_STALL_MAX: Duration = Duration::from_secs(30);

/// The same when other answers wait for the memory that this one holds, or the node stops. A client
/// that works takes something all the time.
pub const REPLY_STALL_CONTENDED: Duration = Duration::from_secs(1);

/// A client that has not read the whole answer after this time is closed too, however it
/// takes it: 64 MiB, at 256 KiB a second, have come by then.
pub const REPLY_TIME_MAX: Duration = Duration::from_secs(256);

/// Longest time for a large request, and longest time without a byte of it, while others wait for
/// their turn. Then the next one has its turn.
pub const REQUEST_TURN_MAX: Duration = Duration::from_secs(2);
/// See [`REQUEST_TURN_MAX`].
pub const REQUEST_TURN_STALL: Duration = Duration::from_millis(250);

/// Longest carbonlink reply that `carbyne query` takes in bytes: 2.7 million points, a month of one
/// metric at a point a second. A longer one is refused; decoding takes three times as much again.
pub const REPLY_BYTES_MAX: u32 = 64 << 20;

/// Open requests from one core to another. A further one waits.
pub const SHARD_REQUESTS_MAX: usize = 256;

/// Memory for the batches of one core to all others, in bytes; shared out among the links.
pub const LINKS_BYTES: usize = 8 << 20;

/// Most bytes in one batch between cores. The queue is never the cost, waking a sleeping core is
/// (80 us): 64 KiB carry about a thousand points.
pub const BATCH_BYTES_MAX: usize = 64 << 10;

/// Least bytes in one batch between cores: it must hold the longest record.
pub const BATCH_BYTES_MIN: usize = 8 << 10;
const _: () = assert!(BATCH_BYTES_MIN > 2 * NAME_BYTES_MAX, "a batch holds its longest record");

/// Files in one batch for the writer: io_uring gains up to 64 (cold) and 32 to 64 (hot).
pub const FLUSH_BATCH: usize = 64;

/// Batches with the writer or on their way. The writer wakes its core when half of them are left:
/// a wake-up costs both sides some 80 us, shared so by the files of four batches, and the writer
/// has work until the core has come.
pub const FLUSH_BATCHES: usize = 8;

/// Points of one metric written at once; more wait for the next update. Bounds the writer's memory
/// whatever one metric has gathered, and is a multiple of the cache's block.
pub const UPDATE_POINTS_MAX: u32 = 16_380;

/// Waiting points of one metric that are logged again together, some 1 MiB: they are one piece, so
/// that a crash leaves all of them or those that they stand for. More stay where they are, in a
/// segment that cannot be given up, until they are written.
pub const REWRITE_POINTS_MAX: usize = 1 << 16;

/// Largest file that a tool takes into memory, in bytes; a greater one is refused. No archive of a
/// Whisper file begins beyond it, and real files are a thousand times smaller.
pub const TOOL_FILE_BYTES_MAX: u64 = 4 << 30;

/// Most points that one `whisper update` takes, 256 MiB of them; more are refused. A node's
/// yearly file at one point a second holds twice as many.
pub const TOOL_POINTS_MAX: usize = 1 << 24;

/// A batch for the writer is closed early when it holds this many points.
pub const FLUSH_BATCH_POINTS: usize = 65_536;

/// File systems that the Whisper tree may span. Each keeps one descriptor open for each core at
/// most; files on one more are not written, and told about as files of a kind we do not take.
pub const FILE_SYSTEMS_MAX: usize = 64;
