//! What an operator has a running node do, asked over its admin socket.
//!
//! One thread for the node takes one connection at a time, with one request. It has a ring of one
//! place to each core, whose exchange task answers with [`collect`] between its other work; what
//! takes long, such as matching a pattern, is done on the thread. When its client has gone, which
//! shows within a second, a request is given up.

use std::fmt::Display;
use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::RecvTimeoutError;
use std::time::{Duration, Instant};

use crate::limits::NAME_DEPTH_MAX;
use crate::metric::glob::Glob;
use crate::shard::forget::{Forgotten, LogIsFull, Names, Page};
use crate::tasks::admin_line::{CoreLine, Question, Reply};
use crate::tasks::core::{Core, Stage};
use crate::wire::admin::{Answer, Facts, Forget, REQUEST_BYTES_MAX, Request};

/// A client's request must be here, and what it is sent must be taken, in so long: it keeps others
/// waiting.
const CLIENT_TIME: Duration = Duration::from_secs(5);

/// A core that does not answer for this long hangs.
const CORE_TIME: Duration = Duration::from_secs(30);

/// Time between two progress reports to the client.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// Metrics whose points are with the writer, or that wait for the log's disk, are tried again so
/// often and after so long: a write of many files takes milliseconds.
const TRIES: u32 = 40;
const TRY_PAUSE: Duration = Duration::from_millis(50);

/// Bytes of names of metrics that are to be tried again, of each core; more are left alone at once.
const AGAIN_BYTES_MAX: usize = 1 << 20;

/// Pause after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers what the thread asks this core. Called by the exchange task, which its doorbell wakes.
pub fn collect(core: &Core) -> bool {
    let Ok(question) = core.admin.questions.borrow_mut().pop() else { return false };
    let reply = match question {
        _ if core.stage.get() != Stage::Running => Reply::Stopping,
        Question::Names(from) => Reply::Names(core.shard.borrow().unwritten_names(from)),
        Question::Forget(names, is_dry_run) => {
            Reply::Forgotten(core.with_shard(|shard| shard.forget_names(&names, is_dry_run)))
        }
    };
    // The thread ends with the process only.
    let _ = core.admin.replies.send(reply);
    true
}

/// Whether [`collect`] would find something.
pub fn has_question(core: &Core) -> bool {
    !core.admin.questions.borrow().is_empty()
}

/// Why a request is not done, or not to its end.
enum Failure {
    /// The client gets this text.
    Told(String),
    /// The client is gone.
    Gone,
}

impl From<io::Error> for Failure {
    fn from(_: io::Error) -> Failure {
        Failure::Gone
    }
}

fn told(text: impl Display) -> Failure {
    Failure::Told(text.to_string())
}

/// Serves one client after the other; never returns.
pub fn run(listener: &UnixListener, mut cores: Vec<CoreLine>) -> ! {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => serve(&mut stream, &mut cores),
            Err(error) => {
                log::debug!("accept on the admin socket failed error={error}");
                std::thread::sleep(ACCEPT_PAUSE);
            }
        }
    }
}

fn serve(stream: &mut UnixStream, cores: &mut [CoreLine]) {
    let result = read_request(stream).and_then(|line| {
        let Request::Forget(forget) = Request::parse(&line).map_err(told)?;
        Job { stream, told: Instant::now(), facts: Facts::default() }.forget(&forget, cores)
    });
    let answer = match result {
        Ok(facts) => Answer::Done(facts),
        Err(Failure::Told(text)) => Answer::Error(text),
        Err(Failure::Gone) => return log::debug!("a client of the admin socket has gone"),
    };
    if let Err(error) = send(stream, &answer) {
        log::debug!("answer on the admin socket failed error={error}");
    }
}

/// A line, however slowly it comes within the time.
fn read_request(stream: &mut UnixStream) -> Result<Vec<u8>, Failure> {
    let deadline = Instant::now() + CLIENT_TIME;
    let mut line = Vec::new();
    let mut buffer = [0; 4_096];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(told("no whole request in time"));
        }
        stream.set_read_timeout(Some(left))?;
        let count = match stream.read(&mut buffer) {
            Ok(0) => return Err(Failure::Gone),
            Ok(count) => count,
            Err(error) if is_timeout(&error) => continue,
            Err(error) => return Err(error.into()),
        };
        let end = buffer[..count].iter().position(|&byte| byte == b'\n');
        line.extend_from_slice(&buffer[..end.unwrap_or(count)]);
        if line.len() >= REQUEST_BYTES_MAX {
            return Err(told(format_args!("a request has less than {REQUEST_BYTES_MAX} bytes")));
        }
        if end.is_some() {
            return Ok(line);
        }
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut | io::ErrorKind::Interrupted
    )
}

fn send(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    stream.set_write_timeout(Some(CLIENT_TIME))?;
    stream.write_all(answer.to_string().as_bytes())
}

/// A request that is being done.
struct Job<'s> {
    stream: &'s mut UnixStream,
    /// When the client was last told how far it is.
    told: Instant,
    facts: Facts,
}

impl Job<'_> {
    fn forget(mut self, forget: &Forget, cores: &mut [CoreLine]) -> Result<Facts, Failure> {
        let glob = Glob::parse(forget.pattern.as_bytes())
            .map_err(|error| told(format_args!("pattern `{}`: {error}", forget.pattern)))?;
        if matches_everything(&glob) && !forget.is_all {
            return Err(told(format_args!(
                "pattern `{}` matches every name of some length; with --all it is taken",
                forget.pattern
            )));
        }
        for core in cores {
            let result = self.forget_of(core, &glob, forget.is_dry_run);
            if result.is_err() {
                self.log(forget, "cut short");
            }
            result?;
        }
        self.log(forget, if forget.is_dry_run { "dry run" } else { "done" });
        Ok(self.facts)
    }

    fn log(&self, forget: &Forget, outcome: &str) {
        log::info!("forget {outcome} pattern={:?} {}", forget.pattern, self.facts);
    }

    fn forget_of(
        &mut self,
        core: &mut CoreLine,
        glob: &Glob,
        is_dry_run: bool,
    ) -> Result<(), Failure> {
        let mut again = Again::default();
        let mut from = Some(0);
        while let Some(start) = from {
            let page = core.names(start)?;
            from = page.next;
            let mut matching = Names::default();
            for name in page.names.iter() {
                self.facts.checked += 1;
                if glob.matches(name) {
                    matching.push(name);
                }
            }
            if !matching.is_empty() {
                let kept = self.forget_page(core, matching, is_dry_run)?;
                again.push(kept);
            }
            self.tell_progress()?;
        }
        for kept in again.pages {
            self.forget_kept(core, kept, is_dry_run)?;
        }
        Ok(())
    }

    /// Forgets metrics and returns those that are being written.
    fn forget_page(
        &mut self,
        core: &mut CoreLine,
        names: Names,
        is_dry_run: bool,
    ) -> Result<Forgotten, Failure> {
        for _ in 0..TRIES {
            if let Ok(forgotten) = core.forget(names.clone(), is_dry_run)? {
                self.facts.metrics += forgotten.metrics;
                self.facts.names += forgotten.names;
                self.facts.points += forgotten.points;
                self.facts.kept_metrics += forgotten.kept_metrics;
                self.facts.kept_points += forgotten.kept_points;
                return Ok(forgotten);
            }
            std::thread::sleep(TRY_PAUSE);
            self.tell_progress()?;
        }
        Err(told("points wait for room in the log, whose disk takes none: try again later"))
    }

    /// Forgets metrics that were being written, when their write has ended.
    fn forget_kept(
        &mut self,
        core: &mut CoreLine,
        mut kept: Forgotten,
        is_dry_run: bool,
    ) -> Result<(), Failure> {
        for _ in 0..TRIES {
            self.facts.kept_metrics -= kept.kept_metrics;
            self.facts.kept_points -= kept.kept_points;
            kept = self.forget_page(core, kept.kept, is_dry_run)?;
            if kept.kept_metrics == 0 {
                break;
            }
            std::thread::sleep(TRY_PAUSE);
            self.tell_progress()?;
        }
        Ok(())
    }

    fn tell_progress(&mut self) -> Result<(), Failure> {
        if self.told.elapsed() >= PROGRESS_INTERVAL {
            self.told = Instant::now();
            send(self.stream, &Answer::Progress(self.facts))?;
        }
        Ok(())
    }
}

/// Metrics of one core to be tried again.
#[derive(Default)]
struct Again {
    pages: Vec<Forgotten>,
    bytes: usize,
}

impl Again {
    fn push(&mut self, kept: Forgotten) {
        let bytes = self.bytes + kept.kept.bytes();
        if !kept.kept.is_empty() && bytes <= AGAIN_BYTES_MAX {
            self.bytes = bytes;
            self.pages.push(kept);
        }
    }
}

impl CoreLine {
    fn ask(&mut self, question: Question) -> Result<Reply, Failure> {
        self.to.push(question).map_err(|_| told("a core does not answer"))?;
        self.bell.ring();
        match self.from.recv_timeout(CORE_TIME) {
            Ok(Reply::Stopping) | Err(RecvTimeoutError::Disconnected) => {
                Err(told("the node is stopping"))
            }
            Ok(reply) => Ok(reply),
            // Its answer would be taken for that to the next question.
            Err(RecvTimeoutError::Timeout) => {
                log::error!("a core does not answer, the admin socket does nothing any more");
                loop {
                    std::thread::park();
                }
            }
        }
    }

    fn names(&mut self, from: u32) -> Result<Page, Failure> {
        match self.ask(Question::Names(from))? {
            Reply::Names(page) => Ok(page),
            reply => unreachable!("names are answered with names, not {reply:?}"),
        }
    }

    fn forget(
        &mut self,
        names: Names,
        is_dry_run: bool,
    ) -> Result<Result<Forgotten, LogIsFull>, Failure> {
        match self.ask(Question::Forget(names, is_dry_run))? {
            Reply::Forgotten(result) => Ok(result),
            reply => unreachable!("forgetting is answered with its result, not {reply:?}"),
        }
    }
}

/// Whether the pattern says nothing about names but how many components they have: it takes one
/// that nobody has thought of.
fn matches_everything(glob: &Glob) -> bool {
    const PART: &str = "\u{2603}~ ^0";
    (1..=NAME_DEPTH_MAX).any(|depth| glob.matches(vec![PART; depth].join(".").as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_that_match_whatever_there_is_are_known() {
        let check = |pattern: &str, want: bool| {
            let glob = Glob::parse(pattern.as_bytes()).unwrap();
            assert_eq!(matches_everything(&glob), want, "{pattern}");
        };
        for pattern in ["*", "**", "*.*", "**.*", "*.**", "?*", "{*,a}", "[!a]*", "*.*.*.{a,*}"] {
            check(pattern, true);
        }
        for pattern in ["a", "a.**", "**.a", "*.a", "*a*", "[a-z]*", "{a,b}.*", "*.a.*"] {
            check(pattern, false);
        }
    }
}
