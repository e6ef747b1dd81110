//! The command line: parses it, and runs every command that prints and exits.
//!
//! go-carbon's flags are accepted with one dash or two and in any order, so that its service
//! units and scripts start this node unchanged.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use lexopt::{Arg, Parser};

use crate::admin;
use crate::config::{self, Config, ConfigError, Notice, nearest};
use crate::limits::{GLOB_BYTES_MAX, NAME_BYTES_MAX};
use crate::loadgen;
use crate::query::{self, Query};
use crate::toolbox;
use crate::wire::admin::Forget;

/// Exit status of an invalid command line: EX_USAGE of sysexits.h.
pub const EXIT_USAGE: u8 = 64;
/// Exit status when the output cannot be written: EX_IOERR of sysexits.h.
pub const EXIT_IO: u8 = 74;
/// Exit status of a configuration with errors: EX_CONFIG of sysexits.h.
pub const EXIT_CONFIG: u8 = 78;

/// What the command line asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    /// Run a node.
    Serve {
        /// Its configuration. `None` = the embedded one.
        config: Option<PathBuf>,
        /// Stop the node that runs on the same data directory and take its place.
        takes_over: bool,
    },
    /// Make a running node write every point to its file and stop. `None` = the node of the
    /// embedded configuration.
    Drain(Option<PathBuf>),
    /// Make a running node drop points that wait for their files.
    Forget {
        /// Of which metrics.
        forget: Forget,
        /// The node's configuration. `None` = the embedded one.
        config: Option<PathBuf>,
    },
    /// Ask a running node for cached points.
    Query(Query),
    /// Something that runs without a node.
    Offline(Offline),
}

/// A command that prints and exits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Offline {
    /// Check a configuration file and the rules it names.
    Check(PathBuf),
    /// Print the commented reference.
    ConfigDefault,
    /// Print the effective values. `None` = of the embedded configuration.
    ConfigShow(Option<PathBuf>),
    /// Print the version.
    Version,
    /// `carbyne whisper` with these arguments.
    Whisper(Vec<OsString>),
    /// `carbyne loadgen` with these arguments.
    Loadgen(Vec<OsString>),
    /// Print help.
    Help(Topic),
}

/// What help was asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Topic {
    /// The program.
    Carbyne,
    /// `carbyne serve`
    Serve,
    /// `carbyne drain`
    Drain,
    /// `carbyne forget`
    Forget,
    /// `carbyne check`
    Check,
    /// `carbyne config`
    Config,
    /// `carbyne query`
    Query,
    /// `carbyne whisper`
    Whisper,
    /// `carbyne loadgen`
    Loadgen,
}

/// An invalid command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageError {
    /// What is wrong.
    pub problem: String,
    /// The nearest valid spelling.
    pub suggestion: Option<String>,
}

impl fmt::Display for UsageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.problem)?;
        if let Some(suggestion) = &self.suggestion {
            write!(f, "; did you mean `{suggestion}`?")?;
        }
        Ok(())
    }
}

impl std::error::Error for UsageError {}

impl UsageError {
    fn new(problem: impl Into<String>) -> UsageError {
        UsageError { problem: problem.into(), suggestion: None }
    }

    /// Prints the error and a hint to the help; returns the exit status.
    pub fn report(&self, err: &mut dyn Write) -> ExitCode {
        // Without standard error there is no other place for the message.
        let _ = writeln!(err, "carbyne: {self}\nSee `carbyne --help`.");
        ExitCode::from(EXIT_USAGE)
    }
}

const HELP: &str = "\
Carbyne, a Graphite storage node.

Usage:
  carbyne                        run a node for this machine, data in ./carbyne-data
  carbyne serve -c FILE          run a node
  carbyne drain [-c FILE]        stop a running node after it has written every point
  carbyne forget [-c FILE] GLOB  drop points of a running node that are not in files
  carbyne check -c FILE          check a configuration and the rules it names
  carbyne config default         print the commented configuration
  carbyne config show [-c FILE]  print every effective value and its source
  carbyne query NAME...          print the points that a running node has in its cache
  carbyne whisper COMMAND ...    read and change Whisper files
  carbyne loadgen ...            send points as fast as a node takes them

Options:
  -c, --config FILE              configuration, TOML; a go-carbon.conf works
  -h, --help                     help, also of each command
  -V, --version                  version

go-carbon's -config, -check-config, -config-print-default and -version work too.
";

const HELP_SERVE: &str = "\
Usage: carbyne serve [--take-over] [-c FILE]

Runs a node until a signal ends it.

--take-over               stops the node that runs on the same data directory and takes its place.
                          New connections queue at this node's sockets meanwhile, so an upgrade
                          refuses none. Open connections are closed, as at any stop.

SIGTERM, SIGINT, SIGUSR2  stop within two seconds; points that are not in their files stay in the
                          log and are replayed at the next start
SIGUSR1                   write every point to its file, then stop; see `carbyne drain`
SIGHUP                    read the schema files again, reopen the log file

Without FILE the node listens on 127.0.0.1 only, on ports 2003 (lines over TCP and UDP), 2004
(pickle) and 7002 (carbonlink), or on free ports if these are taken, and stores its data in
./carbyne-data.
";

const HELP_DRAIN: &str = "\
Usage: carbyne drain [-c FILE]

Makes the node that runs with this configuration write every point to its Whisper file and stop,
and waits for its end. Then another program can take over the files.

Exit status: 0 = every point is in its file, 69 = no node runs, 75 = not all could be written.
";

const HELP_FORGET: &str = "\
Usage: carbyne forget [--dry-run] [--all] [-c FILE] GLOB

Makes the node that runs with this configuration drop, for all metrics that match GLOB, the points
that are not in files, and the names without a file. Files do not change, and new points of these
metrics are accepted. GLOB is a quoted pattern as in graphite-web:
'servers.web*.cpu.{user,sys}', 'junk.**'.

--dry-run  only counts them
--all      GLOB may match all metrics, as '**' does

Metrics that are being written are retried for two seconds and then skipped.

Exit status: 0 = done, 69 = no node answers, 75 = refused or not completed.
";

const HELP_CHECK: &str = "\
Usage: carbyne check -c FILE

Checks a configuration and the schema and aggregation rules it names.

Prints the settings that have less effect than the file says, and \"ok\". Errors go to standard
error, one a line, with their line numbers. Exit status: 0 = ok, 78 = errors.
";

const HELP_CONFIG: &str = "\
Usage: carbyne config default
       carbyne config show [-c FILE]

default  prints every key with its meaning and default, as a template.
show     prints the effective value of every key and its source.
";

const HELP_QUERY: &str = "\
Usage: carbyne query [--carbonlink HOST:PORT] [--timeout SECONDS] NAME...

Queries a running carbyne, carbon-cache or go-carbon for points that are not in their files yet, and
prints each as `name value timestamp`, the format of a line port.

--carbonlink  address of the cache; default 127.0.0.1:7002
--timeout     longest wait for the connection and for each answer; default 5

A name without cached points is no error. Exit status: 0 = answered, 69 = not reached, 76 = the
answer is an error or invalid.
";

/// go-carbon's flags, accepted with one dash or two.
const GO_FLAGS: [&str; 10] = [
    "config",
    "check-config",
    "config-print-default",
    "version",
    "check-policies",
    "print-inconsistent-metrics",
    "cat",
    "print-file-list-cache",
    "daemon",
    "pidfile",
];

/// Our long options.
const LONG_OPTIONS: [&str; 10] = [
    "--config",
    "--help",
    "--version",
    "--check-config",
    "--config-print-default",
    "--carbonlink",
    "--timeout",
    "--take-over",
    "--dry-run",
    "--all",
];

/// Our command words.
const WORDS: [&str; 8] =
    ["serve", "drain", "forget", "check", "config", "query", "whisper", "loadgen"];

/// Longest `--timeout`: a day. A longer one is taken for a typing error.
const TIMEOUT_MAX: Duration = Duration::from_hours(24);

/// The words and options of a command line, before they are checked.
#[derive(Default)]
struct Given {
    words: Vec<String>,
    config: Option<PathBuf>,
    carbonlink: Option<String>,
    timeout: Option<Duration>,
    takes_over: bool,
    is_dry_run: bool,
    is_all: bool,
    check: bool,
    config_default: bool,
    version: bool,
    help: bool,
}

/// Reads a command line without the program's name.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Command, UsageError> {
    let mut args = args.into_iter().peekable();
    if args.next_if(|arg| arg == "whisper").is_some() {
        return Ok(Command::Offline(Offline::Whisper(args.collect())));
    }
    if args.next_if(|arg| arg == "loadgen").is_some() {
        return Ok(Command::Offline(Offline::Loadgen(args.collect())));
    }
    let given = options(args)?;
    let words: Vec<&str> = given.words.iter().map(String::as_str).collect();
    if given.help || words.first() == Some(&"help") {
        let topic = words.iter().find_map(|word| match *word {
            "serve" => Some(Topic::Serve),
            "drain" => Some(Topic::Drain),
            "forget" => Some(Topic::Forget),
            "check" => Some(Topic::Check),
            "config" => Some(Topic::Config),
            "query" => Some(Topic::Query),
            "whisper" => Some(Topic::Whisper),
            "loadgen" => Some(Topic::Loadgen),
            _ => None,
        });
        return Ok(Command::Offline(Offline::Help(topic.unwrap_or(Topic::Carbyne))));
    }
    if given.version {
        return Ok(Command::Offline(Offline::Version));
    }
    if given.config_default {
        return Ok(Command::Offline(Offline::ConfigDefault));
    }
    if let ["query", names @ ..] = words.as_slice() {
        return query(&given, names).map(Command::Query);
    }
    if let ["forget", patterns @ ..] = words.as_slice() {
        let forget = forget(&given, patterns)?;
        return Ok(Command::Forget { forget, config: given.config });
    }
    if given.is_dry_run || given.is_all {
        return Err(UsageError::new("--dry-run and --all belong to `forget`"));
    }
    if given.carbonlink.is_some() || given.timeout.is_some() {
        return Err(UsageError::new("--carbonlink and --timeout belong to `query`"));
    }
    match words.as_slice() {
        [] | ["serve"] if !given.check => {
            Ok(Command::Serve { config: given.config, takes_over: given.takes_over })
        }
        _ if given.takes_over => Err(UsageError::new("--take-over belongs to `serve`")),
        ["drain"] if !given.check => Ok(Command::Drain(given.config)),
        [] | ["serve" | "drain" | "check"] => match given.config {
            Some(path) => Ok(Command::Offline(Offline::Check(path))),
            None => Err(UsageError::new("checking needs a file: carbyne check -c FILE")),
        },
        ["config", "default"] => Ok(Command::Offline(Offline::ConfigDefault)),
        ["config", "show"] => Ok(Command::Offline(Offline::ConfigShow(given.config))),
        ["version"] => Ok(Command::Offline(Offline::Version)),
        ["config"] => Err(UsageError::new("`config` needs `default` or `show`")),
        ["config", word] => {
            Err(unknown("command", &format!("config {word}"), &["default", "show"]))
        }
        ["config", "default" | "show", extra, ..] => {
            Err(UsageError::new(format!("unexpected argument `{extra}`")))
        }
        [known, extra, ..] if WORDS.contains(known) => Err(UsageError {
            problem: format!("unexpected argument `{extra}`"),
            suggestion: Path::new(extra).is_file().then(|| format!("{known} -c {extra}")),
        }),
        [word, ..] => Err(unknown("command", word, &WORDS)),
    }
}

fn query(given: &Given, names: &[&str]) -> Result<Query, UsageError> {
    if given.config.is_some() || given.check {
        return Err(UsageError::new("`query` reads no configuration: use --carbonlink HOST:PORT"));
    }
    if names.is_empty() {
        return Err(UsageError::new("`query` needs a name: carbyne query NAME..."));
    }
    if let Some(name) = names.iter().find(|name| !(1..=NAME_BYTES_MAX).contains(&name.len())) {
        let problem = format!("a name has 1 to {NAME_BYTES_MAX} bytes, not {}", name.len());
        return Err(UsageError::new(problem));
    }
    Ok(Query {
        carbonlink: given.carbonlink.clone().unwrap_or_else(|| query::CARBONLINK.to_owned()),
        timeout: given.timeout.unwrap_or(query::TIMEOUT),
        names: names.iter().map(|name| (*name).to_owned()).collect(),
    })
}

fn forget(given: &Given, patterns: &[&str]) -> Result<Forget, UsageError> {
    let is_of_others = given.carbonlink.is_some() || given.timeout.is_some();
    if is_of_others || given.takes_over || given.check {
        return Err(UsageError::new("`forget` takes --dry-run, --all and -c FILE"));
    }
    let [pattern] = patterns else {
        let problem = format!(
            "`forget` takes one pattern, in quotes, not {}: carbyne forget 'servers.web*'",
            patterns.len()
        );
        return Err(UsageError::new(problem));
    };
    if pattern.is_empty() || pattern.len() > GLOB_BYTES_MAX || pattern.contains('\n') {
        let problem = format!("a pattern is one line of 1 to {GLOB_BYTES_MAX} bytes");
        return Err(UsageError::new(problem));
    }
    let pattern = (*pattern).to_owned();
    Ok(Forget { pattern, is_dry_run: given.is_dry_run, is_all: given.is_all })
}

fn options(args: impl IntoIterator<Item = OsString>) -> Result<Given, UsageError> {
    let mut given = Given::default();
    let mut parser = Parser::from_args(args.into_iter().map(with_two_dashes));
    let plain = |error: lexopt::Error| UsageError::new(error.to_string());
    while let Some(arg) = parser.next().map_err(plain)? {
        match arg {
            Arg::Short('c') | Arg::Long("config") => {
                let path = PathBuf::from(parser.value().map_err(plain)?);
                if given.config.replace(path).is_some() {
                    return Err(UsageError::new("--config is given twice"));
                }
            }
            Arg::Long("carbonlink") => {
                given.carbonlink = Some(host_and_port(&parser.value().map_err(plain)?)?);
            }
            Arg::Long("timeout") => {
                given.timeout = Some(timeout(&parser.value().map_err(plain)?)?);
            }
            Arg::Long("take-over") => given.takes_over = true,
            Arg::Long("dry-run") => given.is_dry_run = true,
            Arg::Long("all") => given.is_all = true,
            Arg::Short('h') | Arg::Long("help") => given.help = true,
            Arg::Short('V') => given.version = true,
            Arg::Long("version") => given.version = switch(&mut parser, "version")?,
            Arg::Long("check-config") => given.check = switch(&mut parser, "check-config")?,
            Arg::Long("config-print-default") => {
                given.config_default = switch(&mut parser, "config-print-default")?;
            }
            Arg::Long(name @ ("daemon" | "pidfile")) => {
                let problem =
                    format!("-{name} is not supported: let a service manager run `serve`");
                return Err(UsageError::new(problem));
            }
            Arg::Long(name) if GO_FLAGS.contains(&name) => {
                return Err(UsageError::new(format!("-{name} of go-carbon is not available")));
            }
            Arg::Long(name) => {
                return Err(unknown("option", &format!("--{name}"), &LONG_OPTIONS));
            }
            Arg::Short(letter) => return Err(unknown("option", &format!("-{letter}"), &[])),
            Arg::Value(word) => given.words.push(word.to_string_lossy().into_owned()),
        }
    }
    Ok(given)
}

/// go-carbon's flags get their second dash; "-c" followed by letters would be read as one option
/// a letter.
fn with_two_dashes(arg: OsString) -> OsString {
    let name = arg.to_str().and_then(|arg| arg.strip_prefix('-'));
    let name = name.and_then(|name| name.split('=').next());
    if !name.is_some_and(|name| GO_FLAGS.contains(&name)) {
        return arg;
    }
    let mut long = OsString::from("-");
    long.push(arg);
    long
}

/// The value of a Go boolean flag: true when it stands alone.
fn switch(parser: &mut Parser, name: &str) -> Result<bool, UsageError> {
    let Some(value) = parser.optional_value() else {
        return Ok(true);
    };
    match value.to_str() {
        Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        _ => Err(UsageError::new(format!("--{name} takes true or false"))),
    }
}

/// An address whose host may be a name: it is looked up when it is used.
fn host_and_port(value: &OsStr) -> Result<String, UsageError> {
    let is_address = |text: &&str| {
        let Some((host, port)) = text.rsplit_once(':') else { return false };
        // An IPv6 address needs brackets: in "::1" the port would be ambiguous.
        let is_host = !host.is_empty() && (host.starts_with('[') || !host.contains(':'));
        is_host && port.parse::<u16>().is_ok()
    };
    value.to_str().filter(is_address).map(str::to_owned).ok_or_else(|| {
        UsageError::new(format!("--carbonlink takes HOST:PORT, not `{}`", value.display()))
    })
}

fn timeout(value: &OsStr) -> Result<Duration, UsageError> {
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .filter(|timeout| (Duration::from_millis(1)..=TIMEOUT_MAX).contains(timeout))
        .ok_or_else(|| {
            let problem = format!(
                "--timeout takes seconds from 0.001 to {}, not `{}`",
                TIMEOUT_MAX.as_secs(),
                value.display()
            );
            UsageError::new(problem)
        })
}

fn unknown(what: &str, given: &str, known: &[&'static str]) -> UsageError {
    let last = given.rsplit(' ').next().unwrap_or(given);
    let suggestion = nearest(last, known.iter().copied()).map(str::to_owned);
    UsageError { problem: format!("unknown {what} `{given}`"), suggestion }
}

/// Runs a command that needs no node. Answers go to `out`, errors to `err`.
pub fn run_offline(command: &Offline, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let run = match command {
        Offline::Check(path) => check(path, out, err),
        Offline::ConfigDefault => print(out, config::REFERENCE),
        Offline::ConfigShow(path) => show(path.as_deref(), out, err),
        Offline::Whisper(args) => toolbox::run(args, out, err),
        Offline::Loadgen(args) => loadgen::run(args, out, err),
        Offline::Version => print(out, concat!("carbyne ", env!("CARGO_PKG_VERSION"), "\n")),
        Offline::Help(Topic::Carbyne) => print(out, HELP),
        Offline::Help(Topic::Serve) => print(out, HELP_SERVE),
        Offline::Help(Topic::Drain) => print(out, HELP_DRAIN),
        Offline::Help(Topic::Forget) => print(out, HELP_FORGET),
        Offline::Help(Topic::Check) => print(out, HELP_CHECK),
        Offline::Help(Topic::Config) => print(out, HELP_CONFIG),
        Offline::Help(Topic::Query) => print(out, HELP_QUERY),
        Offline::Help(Topic::Whisper) => toolbox::run(&["--help".into()], out, err),
        Offline::Help(Topic::Loadgen) => loadgen::run(&["--help".into()], out, err),
    };
    finish(run, out, err)
}

/// Queries a running node for cached points. Prints points to `out`, messages to `err`.
pub fn run_query(query: &Query, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let run = query::run(query, out, err);
    finish(run, out, err)
}

/// Makes a running node drop points. Prints the counts to `out`, messages to `err`.
pub fn run_forget(
    config: &Config,
    forget: &Forget,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> ExitCode {
    let run = admin::run(&config.common.admin_socket, forget, out, err);
    finish(run, out, err)
}

/// The exit status of a command that has printed its answer.
fn finish(run: io::Result<u8>, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    match run.and_then(|status| out.flush().map(|()| status)) {
        Ok(status) => ExitCode::from(status),
        // The reader has closed the pipe, as in `carbyne config default | head`.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            // Without standard error there is no other place for the message.
            let _ = writeln!(err, "carbyne: write the answer: {error}");
            ExitCode::from(EXIT_IO)
        }
    }
}

/// Loads the configuration of a file, or the embedded one, which cannot fail.
pub fn load(path: Option<&Path>) -> Result<(Config, Vec<Notice>), Vec<ConfigError>> {
    match path {
        Some(path) => Config::load(path),
        None => Ok((Config::embedded(), Vec::new())),
    }
}

/// Prints errors, one a line, and returns the exit status.
pub fn report(errors: &[ConfigError], err: &mut dyn Write) -> io::Result<u8> {
    for error in errors {
        writeln!(err, "{error}")?;
    }
    Ok(EXIT_CONFIG)
}

/// Reads the rules for new files that a configuration names. Returns the notices, or every error.
pub fn check_schemas(config: &Config) -> Result<Vec<String>, Vec<String>> {
    config::load_rules(config).map(|(_, notices)| notices)
}

fn print(out: &mut dyn Write, text: &str) -> io::Result<u8> {
    out.write_all(text.as_bytes())?;
    Ok(0)
}

fn check(path: &Path, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let (config, notices) = match Config::load(path) {
        Ok(loaded) => loaded,
        Err(errors) => return report(&errors, err),
    };
    for notice in notices {
        writeln!(out, "{notice}")?;
    }
    match check_schemas(&config) {
        Ok(notes) => {
            for note in notes {
                writeln!(out, "{note}")?;
            }
            print(out, "ok\n")
        }
        Err(errors) => {
            for error in errors {
                writeln!(err, "{error}")?;
            }
            Ok(EXIT_CONFIG)
        }
    }
}

fn show(path: Option<&Path>, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    match load(path) {
        Ok((config, _)) => print(out, &config::show(&config)),
        Err(errors) => report(&errors, err),
    }
}
