//! `carbyne whisper`: commands on Whisper files, which run without a node.
//!
//! Flags, default output and the bytes left in files are those of Python whisper's tools, so that
//! scripts keep working; every command also speaks JSON. Answers go to standard output; an error
//! is one line on standard error that names the file, with exit status 1, or 64 for a command
//! line that makes no sense.
//!
//! A command is one [`Subcommand`] in a file below [`commands`] with its name. It reads its
//! arguments ([`args`]), opens files ([`mod@file`]), calls [`crate::whisper`] on bytes in memory,
//! and prints ([`output`]). Blocking calls are fine: nothing else runs in the process.
//!
//! `find`, `verify` and `resize` take whole trees ([`tree`]). `find` prints paths in order; the
//! other two print findings as they come, in no order, and a summary at the end.

mod args;
mod commands;
mod file;
mod output;
mod session;
mod subcommand;
mod tree;

use std::ffi::OsString;
use std::io::{self, BufWriter, Write};

use args::Args;
use commands::{
    create, diff, fetch_dump, find, info, merge_fill, path, resize, set, update, verify,
};
use session::{EXIT_FAILED, Failure, Session};
use subcommand::Subcommand;

/// Exit status of a command line that makes no sense: EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// All commands, in the order of the help.
const SUBCOMMANDS: [&Subcommand; 14] = [
    &info::INFO,
    &fetch_dump::FETCH,
    &fetch_dump::DUMP,
    &create::CREATE,
    &update::UPDATE,
    &merge_fill::MERGE,
    &merge_fill::FILL,
    &diff::DIFF,
    &set::SET_XFF,
    &set::SET_AGGREGATION,
    &path::PATH,
    &find::FIND,
    &verify::VERIFY,
    &resize::RESIZE,
];

const HELP: &str = "\
Usage: carbyne whisper COMMAND ...

Looks at Whisper files and changes them, with the flags and the output of Python whisper's tools.

  info FILE [FIELD]                  the header
  fetch FILE                         values of a range of time
  dump FILE                          the header and every slot
  create FILE RETENTION...           a new file
  update FILE [TIME:VALUE...]        points into a file
  merge FROM TO                      the points of one file over those of another
  fill FROM TO                       the gaps of one file with the points of another
  diff FILE FILE                     the points in which two files differ
  set-xff FILE XFF                   another xFilesFactor
  set-aggregation FILE METHOD [XFF]  another aggregation method
  path NAME...                       the files of metric names
  find TREE GLOB...                  the metrics that match patterns
  verify PATH                        damaged files of a tree
  resize PATH ...                    files in other archives: one file, or a tree by its schemas

All take --json and --help. Times are seconds since 1970; --now sets the clock.

Commands that change a file hold its exclusive flock while they do. A node respects that only with
`flock = true`, and it remembers for ten minutes what the header said: stop it before you change
files that it writes.
";

/// Runs `carbyne whisper` with these arguments and gives the exit status; an error means that
/// the answer could not be written.
pub fn run(args: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let mut out = BufWriter::new(out);
    let done = dispatch(args, &mut Session { out: &mut out, err });
    out.flush()?;
    match done {
        Ok(status) => Ok(status),
        Err(Failure::Output(error)) => Err(error),
        Err(Failure::Failed(problem)) => {
            writeln!(err, "carbyne: {problem}")?;
            Ok(EXIT_FAILED)
        }
        Err(Failure::Usage(problem)) => {
            writeln!(err, "carbyne: {problem}\nSee `carbyne whisper --help`.")?;
            Ok(EXIT_USAGE)
        }
    }
}

fn dispatch(args: &[OsString], session: &mut Session<'_>) -> Result<u8, Failure> {
    let Some((name, rest)) = args.split_first() else {
        return Err(Failure::Usage("`whisper` needs a command".to_owned()));
    };
    if name == "--help" || name == "-h" || name == "help" {
        session.out.write_all(HELP.as_bytes())?;
        return Ok(0);
    }
    let Some(command) = SUBCOMMANDS.iter().find(|command| name == command.name) else {
        let name = name.to_string_lossy();
        return Err(Failure::Usage(format!("unknown command `whisper {name}`")));
    };
    let args = Args::parse(rest, command.options).map_err(|failure| within(command, failure))?;
    if args.is_help() {
        session.out.write_all(command.help.as_bytes())?;
        return Ok(0);
    }
    (command.run)(&args, session).map_err(|failure| within(command, failure))
}

/// Says which command a problem with the command line belongs to.
fn within(command: &Subcommand, failure: Failure) -> Failure {
    match failure {
        Failure::Usage(problem) => Failure::Usage(format!("whisper {}: {problem}", command.name)),
        other => other,
    }
}
