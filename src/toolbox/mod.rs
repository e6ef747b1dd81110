//! `carbyne whisper`: commands on Whisper files, which run without a node.
//!
//! Flags, default output and the bytes left in files are those of Python whisper's tools, so that
//! scripts keep working; every command also speaks JSON. Answers go to standard output; an error
//! is one line on standard error that names the file, with exit status 1, or 64 for an invalid
//! command line.
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

/// Exit status of an invalid command line: EX_USAGE of sysexits.h.
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

Reads and changes Whisper files, with the flags and the output of Python whisper's tools.

  info FILE [FIELD]                  the header
  fetch FILE                         values of a range of time
  dump FILE                          the header and every slot
  create FILE RETENTION...           create a file
  update FILE [TIME:VALUE...]        write points into a file
  merge FROM TO                      write the points of one file over those of another
  fill FROM TO                       fill the gaps of TO with the points of FROM
  diff FILE FILE                     the differing points of two files
  set-xff FILE XFF                   change the xFilesFactor
  set-aggregation FILE METHOD [XFF]  change the aggregation method
  path NAME...                       the file paths of metric names
  find TREE GLOB...                  the metrics that match a pattern
  verify PATH                        find the damaged files of a tree
  resize PATH ...                    change the archives of a file, or of a tree by its schemas

All take --json and --help. Times are seconds since 1970; --now sets the clock.

Commands that change a file hold its exclusive flock meanwhile. A node respects the lock only with
`flock = true`, and it caches headers for ten minutes: stop the node before you change files that it
writes.
";

/// Runs `carbyne whisper` with these arguments and returns the exit status; fails if the output
/// cannot be written.
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
