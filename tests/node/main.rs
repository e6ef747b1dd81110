//! The real binary: nodes on loopback under load, damage and crashes, and each command.
//!
//! The tests run beside each other. Each has a directory of its own by a name that no other test
//! has, asks for free ports, and changes nothing of this process: no variable, no directory, no
//! signal. Those that end or limit a process do it to one that they started.

/// Commands, flags and exit statuses are what scripts rely on.
mod cli;
/// A configuration is accepted, or refused with words that help; the shipped one is the table.
mod config;
/// After each of many kills on one directory only the commit interval's points are gone.
mod crash;
/// `carbyne forget` drops what waits, and nothing harms its socket.
mod forget;
/// Garbage on all four ports harms no other client.
mod fuzz_receivers;
/// `carbyne loadgen` finds again what it sent, and says what it does not find.
mod loadgen;
/// A flood of new names holds up no metric that has its file.
mod new_names;
/// `carbyne query` prints what a node has, and sees through strangers on its port.
mod query;
/// Damaged, foreign and full logs cost themselves, and are named.
mod recovery;
/// A drain writes everything; a stop leaves it to the log, and the next start has it.
mod stop;
/// A new process takes over from the one that runs, and no connection notices.
mod take_over;
/// A point takes few bytes in the log, and is read back from there.
mod wal_cost;
/// `carbyne whisper` prints, leaves and refuses what whisper's own tools do.
mod whisper_tools;
/// `carbyne whisper verify`, `resize` and `find` go through a tree of all kinds of files.
mod whisper_tree;

#[path = "../support/mod.rs"]
mod support;
