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
//!   requests, responses, finished writes, commands of the main thread.
//! - *links*: one task; sends points to their owners, and requests and responses.
//! - *flush*: one task; hands jobs to the writer thread, at most eight batches at a time.
//! - *commit*: two tasks; have the log's buffers written at an interval, and its old segments
//!   given up.
//! - *report*: on the first core only; publishes the node's statistics.
//! - *stall*: one task; tells the operator when senders have waited for long.
//! - *admin*: one thread for the node; does what an operator asks over the admin socket.
//!
//! What blocks on files is in [`crate::disk`].
//!
//! Stop order: listeners, datagrams, connections, links, cache or log, writer.

pub mod admin;
pub mod admin_line;
mod answer_memory;
pub mod carbonlink;
pub mod commit;
pub mod core;
pub mod event;
pub mod exchange;
pub mod flush;
mod gather;
pub mod links;
pub mod listen;
mod read_deadline;
pub mod receive_pickle;
pub mod receive_tcp;
pub mod receive_udp;
mod reply;
pub mod report;
pub mod stall;
pub mod start;
pub mod wal_handle;
