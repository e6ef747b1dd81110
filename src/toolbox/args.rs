//! The arguments of one command: options in any place, one or two words an option, the last wins
//! unless a command asks for all.
//!
//! A long option may be cut short as long as it stays the only one, as in the Python tools.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use lexopt::{Arg, Parser};

use crate::sys::clock;

use crate::toolbox::session::Failure;

/// An option that a command knows.
#[derive(Debug)]
pub(crate) struct Opt {
    long: &'static str,
    short: Option<char>,
    takes_value: bool,
}

/// An option that stands alone.
pub(crate) const fn flag(long: &'static str) -> Opt {
    Opt { long, short: None, takes_value: false }
}

/// An option with a value.
pub(crate) const fn value(long: &'static str) -> Opt {
    Opt { long, short: None, takes_value: true }
}

impl Opt {
    /// The option with a short spelling too.
    pub(crate) const fn short(self, letter: char) -> Opt {
        Opt { short: Some(letter), ..self }
    }
}

/// Times that lie further than this from the epoch are refused: no sum of them overflows.
const TIME_S_MAX: i64 = 1 << 40;

/// What stands behind a command.
#[derive(Debug)]
pub(crate) struct Args {
    given: Vec<(&'static str, OsString)>,
    words: Vec<OsString>,
    is_help: bool,
}

impl Args {
    /// Reads the arguments of a command that knows these options, and `--help`.
    pub(crate) fn parse(args: &[OsString], known: &[Opt]) -> Result<Args, Failure> {
        let mut read = Args { given: Vec::new(), words: Vec::new(), is_help: false };
        let mut parser = Parser::from_args(args);
        while let Some(arg) = parser.next().map_err(usage)? {
            let option = match arg {
                Arg::Value(word) => {
                    read.words.push(word);
                    continue;
                }
                Arg::Short('h') | Arg::Long("help") => {
                    read.is_help = true;
                    continue;
                }
                Arg::Short(letter) => known.iter().find(|known| known.short == Some(letter)),
                Arg::Long(name) => find_long(known, name),
            };
            let option = option.ok_or_else(|| usage(arg.unexpected()))?;
            let value = match option.takes_value {
                true => value_of(&mut parser, option.long)?,
                false => OsString::new(),
            };
            read.given.push((option.long, value));
        }
        Ok(read)
    }

    /// Whether help was asked for.
    pub(crate) fn is_help(&self) -> bool {
        self.is_help
    }

    /// Whether an option is given.
    pub(crate) fn has(&self, long: &str) -> bool {
        self.given.iter().any(|(name, _)| *name == long)
    }

    /// The value of an option.
    pub(crate) fn text(&self, long: &str) -> Result<Option<&str>, Failure> {
        let given = self.given.iter().rfind(|(name, _)| *name == long);
        given.map(|(name, value)| text_of(value, &format!("--{name}"))).transpose()
    }

    /// All values of an option that may be given several times.
    pub(crate) fn texts_of(&self, long: &str) -> Result<Vec<&str>, Failure> {
        let given = self.given.iter().filter(|(name, _)| *name == long);
        given.map(|(name, value)| text_of(value, &format!("--{name}"))).collect()
    }

    /// The value of an option that is a time in seconds since the epoch.
    pub(crate) fn time_s(&self, long: &str) -> Result<Option<i64>, Failure> {
        let Some(text) = self.text(long)? else { return Ok(None) };
        let time_s = text.trim().parse().ok();
        match time_s.filter(|time_s| (-TIME_S_MAX..=TIME_S_MAX).contains(time_s)) {
            Some(time_s) => Ok(Some(time_s)),
            None => Err(Failure::Usage(format!("--{long} takes seconds since 1970, not `{text}`"))),
        }
    }

    /// The time to work at: `--now`, or the clock.
    pub(crate) fn now_s(&self) -> Result<u32, Failure> {
        let Some(now_s) = self.time_s("now")? else { return Ok(clock::now_s()) };
        u32::try_from(now_s).map_err(|_| Failure::Usage("--now is not within 32 bits".to_owned()))
    }

    /// `--from` and `--until`, by default from the epoch to `until_s`; in this order.
    pub(crate) fn range(&self, until_s: i64) -> Result<(i64, i64), Failure> {
        let from_s = self.time_s("from")?.unwrap_or(0);
        let until_s = self.time_s("until")?.unwrap_or(until_s);
        if from_s > until_s {
            return Err(Failure::Usage(format!("--from {from_s} is after --until {until_s}")));
        }
        Ok((from_s, until_s))
    }

    /// The value of an option that names a file or directory.
    pub(crate) fn path_of(&self, long: &str) -> Option<PathBuf> {
        let given = self.given.iter().rfind(|(name, _)| *name == long);
        given.map(|(_, value)| PathBuf::from(value))
    }

    /// The value of an option that is a count from 1 to `count_max`.
    pub(crate) fn count(&self, long: &str, count_max: usize) -> Result<Option<usize>, Failure> {
        let Some(text) = self.text(long)? else { return Ok(None) };
        match text.parse().ok().filter(|count| (1..=count_max).contains(count)) {
            Some(count) => Ok(Some(count)),
            None => Err(Failure::Usage(format!("--{long} takes 1 to {count_max}, not `{text}`"))),
        }
    }

    /// The arguments that are no options, from the `first` on, as text.
    pub(crate) fn texts(&self, first: usize) -> Result<Vec<&str>, Failure> {
        self.words.iter().skip(first).map(|word| text_of(word, "an argument")).collect()
    }

    /// The arguments of a command that takes a fixed number of files and nothing else.
    pub(crate) fn paths<const N: usize>(&self) -> Result<[PathBuf; N], Failure> {
        let paths: Vec<PathBuf> = self.words.iter().map(PathBuf::from).collect();
        let count = paths.len();
        let plural = if N == 1 { "" } else { "s" };
        paths.try_into().map_err(|_| Failure::Usage(format!("takes {N} file{plural}, not {count}")))
    }

    /// The first argument, which names the file.
    pub(crate) fn path(&self) -> Result<PathBuf, Failure> {
        let first = self.words.first().map(PathBuf::from);
        first.ok_or_else(|| Failure::Usage("needs a file".to_owned()))
    }
}

/// The value of an option. That the next option is none is what a forgotten value looks like; one
/// that begins so is given with `=`.
fn value_of(parser: &mut Parser, long: &str) -> Result<OsString, Failure> {
    if let Some(value) = parser.optional_value() {
        return Ok(value);
    }
    let value = parser.value().map_err(usage)?;
    match value.as_bytes().starts_with(b"--") {
        true => Err(Failure::Usage(format!(
            "--{long} needs a value, and `{}` is an option",
            value.to_string_lossy()
        ))),
        false => Ok(value),
    }
}

fn find_long<'a>(known: &'a [Opt], name: &str) -> Option<&'a Opt> {
    let exact = known.iter().find(|option| option.long == name);
    let mut longer = known.iter().filter(|option| option.long.starts_with(name));
    exact.or_else(|| longer.next().filter(|_| longer.next().is_none()))
}

fn text_of<'a>(value: &'a OsString, what: &str) -> Result<&'a str, Failure> {
    value.to_str().ok_or_else(|| Failure::Usage(format!("{what} is not UTF-8")))
}

fn usage(error: lexopt::Error) -> Failure {
    Failure::Usage(error.to_string())
}
