//! `carbyne whisper` commands on trees of Whisper files, which run without a node.
//!
//! [`tree`] walks a directory and shares its files out among threads, [`verify`] and [`resize`]
//! are the commands, `replace` exchanges a file under a running node, `progress` tells how far
//! things are. Findings go to standard output as they come, in no order; a summary ends them.
//! Blocking calls are right here: nothing else runs in the process.

mod progress;
mod replace;
mod resize;
mod tree;
mod verify;

use std::ffi::OsString;
use std::fmt::Write as _;
use std::io::{self, Write};

/// Exit status when something is damaged or could not be done.
const EXIT_FAILED: u8 = 1;
/// Exit status of a command line that makes no sense: EX_USAGE of sysexits.h.
const EXIT_USAGE: u8 = 64;

/// Why a command ends early.
#[derive(Debug)]
enum Failure {
    /// A command line that makes no sense.
    Usage(String),
    /// What cannot be done.
    Failed(String),
    /// The answer cannot be written.
    Output(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Failure {
        Failure::Output(error)
    }
}

impl From<lexopt::Error> for Failure {
    fn from(error: lexopt::Error) -> Failure {
        Failure::Usage(error.to_string())
    }
}

/// Runs `verify` or `resize` with the arguments behind `carbyne whisper` and gives the exit status;
/// an error means that the answer could not be written.
pub(super) fn run(args: &[OsString], out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let done = match args.split_first() {
        Some((word, rest)) if word == "verify" => verify::run(rest, out, err),
        Some((word, rest)) if word == "resize" => resize::run(rest, out, err),
        _ => Err(Failure::Usage("`whisper` needs `verify` or `resize`".to_owned())),
    };
    match done {
        Ok(status) => Ok(status),
        Err(Failure::Output(error)) => Err(error),
        Err(Failure::Failed(reason)) => {
            writeln!(err, "carbyne: {reason}")?;
            Ok(EXIT_FAILED)
        }
        Err(Failure::Usage(problem)) => {
            writeln!(err, "carbyne: {problem}\nSee `carbyne whisper verify --help`.")?;
            Ok(EXIT_USAGE)
        }
    }
}

/// A text in JSON's quotes.
fn quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => quoted.extend(['\\', character]),
            '\0'..='\x1f' => {
                write!(quoted, "\\u{:04x}", u32::from(character)).expect("a string takes all");
            }
            _ => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}

/// An option's value as a number of threads.
fn job_count(parser: &mut lexopt::Parser) -> Result<usize, Failure> {
    use lexopt::ValueExt as _;
    match parser.value()?.parse() {
        Ok(count) if (1..=tree::JOBS_MAX).contains(&count) => Ok(count),
        _ => Err(Failure::Usage(format!("--jobs takes 1 to {}", tree::JOBS_MAX))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_quoted_for_json() {
        let check = |text: &str, want: &str| assert_eq!(quote(text), want);
        check("a/b.wsp", "\"a/b.wsp\"");
        check("a\"\\\n\u{e4}", "\"a\\\"\\\\\\u000a\u{e4}\"");
    }
}
