//! The protocol of the admin socket: one request a connection, in lines of text.
//!
//! ```text
//! request:  COMMAND OPTION* "--" ARGUMENT LF       forget dry-run -- servers.web*.cpu
//! answer:   ("progress" FACT* LF)*                 progress checked=512000 metrics=12
//!           ("ok" FACT* | "error" TEXT) LF         ok metrics=12 names=3 points=40
//! ```
//! A FACT is `key=number`. The argument is everything after the first `--`, any text without LF. A
//! reader ignores unknown facts, so that new ones can be added.

use std::fmt;

use crate::limits::GLOB_BYTES_MAX;

/// Longest request in bytes, with its LF: the longest pattern, and room for the words around it. A
/// longer one is refused.
pub const REQUEST_BYTES_MAX: usize = GLOB_BYTES_MAX + 1_024;

/// Longest line of an answer in bytes. A client takes no longer one.
pub const ANSWER_BYTES_MAX: usize = 64 << 10;

/// What a node is asked to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Drop the waiting points of metrics.
    Forget(Forget),
}

/// Which metrics to forget, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forget {
    /// The pattern of their names.
    pub pattern: String,
    /// Only count them.
    pub is_dry_run: bool,
    /// A pattern that matches whatever there is is meant so.
    pub is_all: bool,
}

/// Why a request is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestError {
    /// No UTF-8.
    Utf8,
    /// No `--` with an argument behind it.
    Argument,
    /// A command that this node does not know.
    Command(String),
    /// An option that the command does not have.
    Option(String),
}

impl fmt::Display for RequestError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RequestError::Utf8 => f.write_str("the request is not UTF-8"),
            RequestError::Argument => {
                f.write_str("the request has no argument: COMMAND OPTION... -- ARGUMENT")
            }
            RequestError::Command(word) => {
                write!(f, "unknown command `{}`; this node knows: forget", printable(word))
            }
            RequestError::Option(word) => {
                write!(f, "unknown option `{}`; forget has: dry-run, all", printable(word))
            }
        }
    }
}

impl std::error::Error for RequestError {}

/// The beginning of an unknown word, with `?` for control characters.
fn printable(word: &str) -> String {
    word.chars().take(40).map(|it| if it.is_control() { '?' } else { it }).collect()
}

impl Request {
    /// Reads a request without its LF.
    ///
    /// # Errors
    /// What is wrong with it, to be sent back.
    pub fn parse(line: &[u8]) -> Result<Request, RequestError> {
        let line = std::str::from_utf8(line).map_err(|_| RequestError::Utf8)?;
        let (head, argument) = line.split_once("-- ").unwrap_or((line, ""));
        let mut words = head.split_whitespace();
        match words.next().unwrap_or_default() {
            "forget" => {
                let pattern = argument.to_owned();
                let mut forget = Forget { pattern, is_dry_run: false, is_all: false };
                for word in words {
                    match word {
                        "dry-run" => forget.is_dry_run = true,
                        "all" => forget.is_all = true,
                        other => return Err(RequestError::Option(other.to_owned())),
                    }
                }
                if argument.is_empty() {
                    return Err(RequestError::Argument);
                }
                Ok(Request::Forget(forget))
            }
            word => Err(RequestError::Command(word.to_owned())),
        }
    }
}

impl fmt::Display for Request {
    /// The line with its LF.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Request::Forget(Forget { pattern, is_dry_run, is_all }) = self;
        let dry_run = if *is_dry_run { " dry-run" } else { "" };
        let all = if *is_all { " all" } else { "" };
        writeln!(f, "forget{dry_run}{all} -- {pattern}")
    }
}

/// How far a `forget` is, or what it has done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Facts {
    /// Metrics looked at.
    pub checked: u64,
    /// Metrics that match and were forgotten.
    pub metrics: u64,
    /// Of these, those without a file, whose names are gone too.
    pub names: u64,
    /// Points of them that waited.
    pub points: u64,
    /// Metrics that match and are being written.
    pub kept_metrics: u64,
    /// Their points, which stay.
    pub kept_points: u64,
}

impl fmt::Display for Facts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Facts { checked, metrics, names, points, kept_metrics, kept_points } = self;
        write!(
            f,
            "checked={checked} metrics={metrics} names={names} points={points} \
             kept_metrics={kept_metrics} kept_points={kept_points}"
        )
    }
}

impl Facts {
    fn parse(text: &str) -> Facts {
        let mut facts = Facts::default();
        for (key, value) in text.split_whitespace().filter_map(|fact| fact.split_once('=')) {
            let place = match key {
                "checked" => &mut facts.checked,
                "metrics" => &mut facts.metrics,
                "names" => &mut facts.names,
                "points" => &mut facts.points,
                "kept_metrics" => &mut facts.kept_metrics,
                "kept_points" => &mut facts.kept_points,
                _ => continue,
            };
            *place = value.parse().unwrap_or_default();
        }
        facts
    }
}

/// A line of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// More comes; how far the node is.
    Progress(Facts),
    /// It is done.
    Done(Facts),
    /// It cannot be done, or not to its end.
    Error(String),
}

impl Answer {
    /// Reads a line without its LF; `None` if it is no answer.
    pub fn parse(line: &str) -> Option<Answer> {
        let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
        match word {
            "progress" => Some(Answer::Progress(Facts::parse(rest))),
            "ok" => Some(Answer::Done(Facts::parse(rest))),
            "error" => Some(Answer::Error(rest.to_owned())),
            _ => None,
        }
    }
}

impl fmt::Display for Answer {
    /// The line with its LF.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Answer::Progress(facts) => writeln!(f, "progress {facts}"),
            Answer::Done(facts) => writeln!(f, "ok {facts}"),
            Answer::Error(text) => writeln!(f, "error {}", text.replace('\n', " ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn forget(pattern: &str, is_dry_run: bool, is_all: bool) -> Request {
        Request::Forget(Forget { pattern: pattern.to_owned(), is_dry_run, is_all })
    }

    #[test]
    fn requests_are_read_as_they_are_written() {
        for (line, request) in [
            ("forget -- a.*", forget("a.*", false, false)),
            ("forget dry-run -- a.b", forget("a.b", true, false)),
            ("forget all -- **", forget("**", false, true)),
            ("forget dry-run all -- -- {a,b} ;c=d", forget("-- {a,b} ;c=d", true, true)),
        ] {
            assert_eq!(Request::parse(line.as_bytes()), Ok(request.clone()), "{line}");
            assert_eq!(request.to_string(), format!("{line}\n"));
        }
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let check = |line: &[u8], error: &str| {
            assert_eq!(Request::parse(line).unwrap_err().to_string(), error);
        };
        check(b"\xff", "the request is not UTF-8");
        check(b"", "unknown command ``; this node knows: forget");
        check(b"GET / HTTP/1.1\r", "unknown command `GET`; this node knows: forget");
        check(b"a\x1b[2J", "unknown command `a?[2J`; this node knows: forget");
        check(b"forget -- ", "the request has no argument: COMMAND OPTION... -- ARGUMENT");
        check(b"forget", "the request has no argument: COMMAND OPTION... -- ARGUMENT");
        check(b"forget a.b", "unknown option `a.b`; forget has: dry-run, all");
    }

    #[test]
    fn answers_are_read_as_they_are_written_and_facts_may_be_added() {
        let facts = Facts {
            checked: 1,
            metrics: 2,
            names: 3,
            points: 4,
            kept_metrics: 5,
            kept_points: u64::MAX,
        };
        for answer in
            [Answer::Progress(facts), Answer::Done(facts), Answer::Error("no: a b=c".to_owned())]
        {
            assert_eq!(Answer::parse(answer.to_string().trim_end()), Some(answer));
        }
        let newer = Facts { points: 7, ..Facts::default() };
        assert_eq!(Answer::parse("ok new=1 points=7 odd"), Some(Answer::Done(newer)));
        for line in ["", "okay", "HTTP/1.1 400", "ok\n"] {
            assert_eq!(Answer::parse(line), None, "{line}");
        }
    }
}
