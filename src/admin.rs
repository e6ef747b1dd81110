//! `carbyne forget`: has a running node drop points that wait for their files, over its admin
//! socket.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use crate::query::tell;
use crate::sys::admin_socket::connect;
use crate::wire::admin::{ANSWER_BYTES_MAX, Answer, Facts, Forget, Request};

/// Exit status when no node answers: EX_UNAVAILABLE of sysexits.h.
const EXIT_UNAVAILABLE: u8 = 69;
/// Exit status when the node refuses, or goes away before it is done: EX_TEMPFAIL.
const EXIT_REFUSED: u8 = 75;

/// A node that is silent for this long hangs, or serves others: it tells its progress every
/// second.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Asks the node at this socket and prints what it has done to `out`, everything else to `err`.
/// Gives the exit status.
///
/// # Errors
/// `out` cannot be written.
pub fn run(
    socket: &Path,
    forget: &Forget,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> io::Result<u8> {
    let place = socket.display();
    let mut stream = match connect(socket) {
        Ok(stream) => stream,
        Err(error) => {
            let hint = match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                    "; does a node run with this configuration?"
                }
                io::ErrorKind::PermissionDenied => "; only its own user, and root, may do that",
                _ => "",
            };
            tell(err, format_args!("connect to {place}: {error}{hint}"));
            return Ok(EXIT_UNAVAILABLE);
        }
    };
    if let Err(error) = send(&mut stream, forget) {
        tell(err, format_args!("{place}: {error}"));
        return Ok(EXIT_UNAVAILABLE);
    }
    let mut lines = BufReader::new(stream);
    loop {
        match next(&mut lines) {
            Ok(Answer::Progress(facts)) => {
                tell(err, format_args!("{} metrics looked at, {}", facts.checked, sum(facts)));
            }
            Ok(Answer::Done(facts)) => return print(forget, facts, out).map(|()| 0),
            Ok(Answer::Error(text)) => {
                tell(err, format_args!("{}", printable(&text)));
                return Ok(EXIT_REFUSED);
            }
            Err(error) => {
                tell(err, format_args!("{place}: {error}; it may have forgotten a part"));
                return Ok(EXIT_REFUSED);
            }
        }
    }
}

fn send(stream: &mut UnixStream, forget: &Forget) -> io::Result<()> {
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    stream.write_all(Request::Forget(forget.clone()).to_string().as_bytes())
}

fn next(lines: &mut BufReader<UnixStream>) -> io::Result<Answer> {
    let mut line = String::new();
    match lines.by_ref().take(ANSWER_BYTES_MAX as u64).read_line(&mut line) {
        Ok(_) => {}
        // A socket's timeout is EAGAIN, which is WouldBlock.
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            let text = format!("no answer within {} s", TIMEOUT.as_secs());
            return Err(io::Error::new(io::ErrorKind::TimedOut, text));
        }
        Err(error) => return Err(error),
    }
    let line = line.strip_suffix('\n').ok_or_else(|| io::Error::other("the node has gone away"))?;
    Answer::parse(line).ok_or_else(|| io::Error::other("this is not the admin socket of a node"))
}

fn print(forget: &Forget, facts: Facts, out: &mut dyn Write) -> io::Result<()> {
    let would = if forget.is_dry_run { "would forget" } else { "forgot" };
    writeln!(out, "{would} {}", sum(facts))?;
    if facts.kept_metrics > 0 {
        let Facts { kept_metrics, kept_points, .. } = facts;
        writeln!(
            out,
            "left alone {kept_metrics} metrics with {kept_points} points, which are just being \
             written"
        )?;
    }
    out.flush()
}

fn sum(facts: Facts) -> String {
    let Facts { metrics, names, points, .. } = facts;
    format!("{metrics} metrics ({names} without a file) with {points} waiting points")
}

/// A text without what a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|it| if it.is_control() { '?' } else { it }).collect()
}
