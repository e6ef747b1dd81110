//! Activities: everything that awaits, one a file.
//!
//! Every task of a core borrows the shard, calls one method, lets go, and then waits. On each core
//! run, from its start to its stop:
//!
//! - *receive* ([`receive_tcp`], [`receive_udp`], [`receive_pickle`]): one task a listener and one
//!   a connection. Before each read it waits for room in the cache and the links.
//! - *carbonlink*: the same for queries. `gather` finds the points, `answer_memory` takes the
//!   memory for them, `reply` writes them out.
//! - *exchange*: one task; empties everything other threads leave for this core: batches,
//!   questions, answers, finished writes, commands of the main thread.
//! - *links*: one task; sends points to their owners, and questions and answers.
//! - *flush*: one task; hands jobs to the writer thread, at most eight batches at a time.
//! - *writer*: a thread of its own on the same core, the only one that touches Whisper files, with
//!   its own ring. It may block on the disk. `write_mode` chooses how it writes.
//! - *commit*: two tasks; have the log's buffers written at an interval, and its old segments
//!   given up.
//! - *WAL writer*: a thread of its own on the same core that writes the log, with its own ring.
//! - *log limit*: no task; keeps the node's log readable while a disk fails.
//! - *checkpoint*: one thread for the node; syncs the file system with the Whisper files.
//! - *report*: on the first core only; publishes the node's statistics.
//! - *stall*: one task; tells the operator when senders have waited for long.
//! - *admin*: one thread for the node; does what an operator asks over the admin socket.
//! - *recovery*: the main thread, before anything is received; reads the logs of earlier runs.
//!
//! Stop order: listeners, datagrams, connections, links, cache or log, writer.

pub mod admin;
pub mod admin_line;
mod answer_memory;
pub mod carbonlink;
pub mod checkpoint;
pub mod commit;
pub mod core;
pub mod event;
pub mod exchange;
pub mod flush;
mod gather;
pub mod links;
pub mod listen;
pub mod log_limit;
mod read_deadline;
pub mod receive_pickle;
pub mod receive_tcp;
pub mod receive_udp;
pub mod recovery;
mod reply;
pub mod report;
pub mod stall;
pub mod start;
pub mod wal_handle;
pub mod wal_writer;
mod write_mode;
pub mod writer;
