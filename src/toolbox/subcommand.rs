//! The table entry of a command: name, help, options, function.

use crate::toolbox::args::{Args, Opt};
use crate::toolbox::session::{Failure, Session};

/// A command: its name, what it understands, and what it does.
pub(crate) struct Subcommand {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) options: &'static [Opt],
    pub(crate) run: fn(&Args, &mut Session<'_>) -> Result<u8, Failure>,
}
