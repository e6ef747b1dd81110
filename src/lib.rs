//! Carbyne: one process that is a Graphite storage node.
//!
//! Graphite users send `name value timestamp` lines (TCP, UDP) or pickled batches. The node keeps
//! the points in memory, writes them into Whisper files, and answers carbonlink queries for points
//! that are not on disk yet. It replaces carbon-cache or go-carbon and uses the same files.
//!
//! # The one idea
//! *Nouns decide, tasks await, `sys` touches the kernel.* The state and the decisions of a core are
//! synchronous Rust over plain data; a job that needs I/O describes it as data. Each activity that
//! waits is one small file in [`tasks`]. System calls, and every `unsafe`, are in [`sys`].
//!
//! # A datapoint's way
//! ```text
//! socket --> tasks/receive_* --> wire/line|pickle --> shard/ingest --+--> wal, then cache
//!                                                                    |
//!               outbox per other core --> tasks/links ==SPSC==> tasks/exchange --> owner's shard
//! cache --> shard/flush: FlushJob --> tasks/flush ==SPSC==> disk/writer (a thread, own ring)
//!       <-- shard/flush: confirm  <-- tasks/flush <==SPSC==   whisper/update + sys/ring
//! wal --> tasks/commit ==SPSC==> disk/wal_writer (a thread, own ring), every 50 ms
//! old segments <-- disk/checkpoint (syncs the files) <-- their points are confirmed
//! question --> tasks/carbonlink --> owner's shard/query --> wire/carbonlink --> socket
//! ```
//! The core that receives the bytes parses them and makes the name canonical. With several shards
//! it hashes the name (xxh3) to find the owner, and puts the point into its own cache or into the
//! batch for the other core. The owner's cache finds the metric by a keyed hash of its own. From
//! then on the point is readable: from memory until its write is confirmed, and it stays in the log
//! until its file is on stable storage.
//!
//! # Code map, in reading order
//! | module | owns |
//! |---|---|
//! | [`limits`] | every hard limit, and what happens when it is reached |
//! | [`metric`] | names, points, batches, series; patterns of names |
//! | [`wire`] | grammars, bytes to values and back: line, pickle, carbonlink, admin |
//! | [`schema`] | storage-schemas and storage-aggregation rules |
//! | [`cache`] | points that are not in their file yet; the order of writing |
//! | [`wal`] | the write-ahead log: format, state, recovery; it touches no file |
//! | [`whisper`] | the .wsp format as pure functions over bytes |
//! | [`stats`] | the counters of a shard, and the metric names of their values |
//! | [`shard`] | one core's whole state and all its decisions |
//! | [`tasks`] | all code that awaits, one activity a file |
//! | [`disk`] | the threads that block on files: they write, sync and recover |
//! | [`sys`] | sockets, rings, files, links, clock, processors: glommio, io_uring, libc |
//! | [`toolbox`] | offline commands on Whisper files, for scripts and operators |
//! | [`loadgen`] | the load generator, and the verification of what it sent |
//! | [`config`], [`cli`] | the configuration, the command line |
//! | [`query`], [`admin`] | clients of a node's carbonlink port and of its admin socket |
//! | [`node`], [`logging`], [`fatal`] | assembly, log, and reasons to stop |
//!
//! Imports point down, never sideways: `node -> tasks -> disk -> { shard, sys }` and
//! `shard -> { cache, wal, whisper, schema } -> metric -> limits`; `tests/tidy.rs` holds the table.
//!
//! # Invariants
//! 1. A metric has one owner shard; only that core touches its cache entry, and only its writer
//!    touches its file.
//! 2. Only `tasks`, `sys` and `node` await or name the runtime; only `sys` is unsafe.
//! 3. No lock and no shared mutable state on the data path; cores meet in bounded SPSC links.
//!    Accepting a batch never waits for room in another link, so cores cannot wait for each other
//!    in a circle.
//! 4. Every queue, table, buffer, name, batch, connection, retry and wait is bounded. Memory has
//!    one budget in bytes, split evenly among the cores. Metrics that wait for the limit on new
//!    files have a share of it, so that those with files go on beside any flood of new names.
//! 5. Full means back-pressure for TCP (reading stops) and a counted drop for UDP.
//! 6. Parsers accept any bytes without panicking, allocating without bound, or taking more than
//!    linear time. All input is untrusted, our own files included.
//! 7. A bad file, metric or client affects no other: it is set aside, counted and logged.
//! 8. Two spellings of one file are one metric.
//! 9. Files are whisper's, byte for byte, for each point written alone in the second it arrived in,
//!    in the order of arrival: also when it waited, or was replayed. Stopping Carbyne and starting
//!    carbon-cache or go-carbon on the same tree works.
//! 10. Every point that is dropped is counted under a reason: received = refused + accepted, and
//!     accepted + recovered = replaced + stored + waiting + dropped.
//! 11. A segment of the log is deleted only when each of its points is confirmed in its file or
//!     logged again, a sync of the files has begun after that and succeeded, and a later segment
//!     records it. A failed sync ends the process: the next one replays.
//! 12. Replay hands out no point that the log knows to be in its file, and repeats none that a
//!     later one could have lapped (see [`wal`]). Where that cannot be kept it is counted:
//!     `wal.unsynced_updates`, `wal.unnoted_updates`.

pub mod limits;
pub mod metric;
pub mod wire;

pub mod cache;
pub mod schema;
pub mod stats;
pub mod wal;
pub mod whisper;

pub mod shard;

pub mod sys;

pub mod disk;
pub mod tasks;

pub mod loadgen;
pub mod toolbox;

pub mod admin;
pub mod cli;
pub mod config;
pub mod fatal;
pub mod logging;
pub mod node;
pub mod query;
