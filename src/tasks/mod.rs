//! Activities: everything that awaits, one a file.
//!
//! Every task of a core borrows the shard, calls one method, lets go, and then waits. On each core
//! run, from its start to its stop:
//!
//! - *receive* ([`receive_tcp`], [`receive_udp`], [`receive_pickle`]): one task a listener and one
//!   a connection. Before each read it waits for room in the cache and the links.
//! - *carbonlink*: the same for queries.
//! - *exchange*: one task; empties everything other threads leave for this core (batches,
//!   questions, answers, finished writes, orders of the main thread) and sends what is for them.
//! - *share*: no task; lends lines of a connection that fills its read buffer to another core.
//! - *flush*: one task; hands jobs to the writer thread, at most eight batches at a time.
//! - *writer*: a thread of its own on the same core, the only one that touches Whisper files, with
//!   its own ring. It may block as long as the disk likes. `pace` decides how it goes about it.
//! - *report*: on the first core only; publishes the node's statistics.
//!
//! Stop order: listeners, datagrams, connections, links, cache, writer.

pub mod carbonlink;
pub mod core;
pub mod event;
pub mod exchange;
pub mod flush;
pub mod listen;
mod pace;
pub mod receive_pickle;
pub mod receive_tcp;
pub mod receive_udp;
pub mod report;
pub mod share;
pub mod start;
pub mod writer;
