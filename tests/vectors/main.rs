//! Formats and grammars against the bytes and answers of the reference programs, against models,
//! and against random bytes: pure functions and files, without a node.
//!
//! Nothing here starts a process. That is what [`writer`] needs: a lock on a file that this process
//! has closed lives on in a child until the child runs its program.

/// Points in one update leave the bytes of each point alone in the second of its arrival.
mod arrivals;
/// Questions and answers are those of carbon-cache, go-carbon and CPython's pickler.
mod carbonlink;
/// The bodies of `tests/run fuzz` stand their seeds and some thousands of changes to them.
mod fuzz_seeds;
/// Lines are read as carbon reads them, and any bytes harmlessly.
mod line;
/// Names become what carbon stores, in the file where carbon stores it.
mod names;
/// Pickles give the points that carbon stored, and any bytes do no harm.
mod pickle;
/// Schemas, aggregation rules and retentions are read as carbon and go-carbon read them.
mod schema;
/// Random updates and fetches leave the bytes that Python whisper left; interop makes new ones.
mod sequences;
/// Whisper files are those that Python whisper wrote, and damaged ones do no harm.
mod whisper;
/// The writer's two ways leave the same bytes in real files, and say the same about each.
mod writer;

#[path = "../support"]
mod support {
    pub(crate) mod seeds;
    pub(crate) mod whisper_file;
}
