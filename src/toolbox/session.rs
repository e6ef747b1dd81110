//! What a command is given and gives back: streams to write to, an exit status, a failure.

use std::io::{self, Write};
use std::path::Path;

use crate::toolbox::output::shown::shown;

/// Exit status of a command that failed.
pub(crate) const EXIT_FAILED: u8 = 1;

/// The output streams of a command.
pub(crate) struct Session<'a> {
    pub(crate) out: &'a mut dyn Write,
    pub(crate) err: &'a mut dyn Write,
}

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line is invalid.
    Usage(String),
    /// The operation failed; the message names the file.
    Failed(String),
    /// The output cannot be written.
    Output(io::Error),
}

impl Failure {
    /// Makes failures that name a file.
    pub(crate) fn at<E: ToString>(path: &Path) -> impl Fn(E) -> Failure {
        move |reason| Failure::Failed(format!("{}: {}", shown(path), reason.to_string()))
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}
