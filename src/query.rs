//! The points that a running cache has and its files have not: for `carbyne query`, and for
//! `carbyne whisper fetch`, which lays them over a file's.
//!
//! One connection, one question at a time (go-carbon answers no bulk queries), over blocking
//! sockets. The peer may be anything that listens on a mistyped port, so the length of a reply is
//! limited, memory is taken for what has come, and each answer has one deadline however slowly it
//! trickles in. Points leave in the form of the line protocol, so they can be sent to a node again.

use std::fmt;
use std::io::{self, BufWriter, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

use crate::limits::REPLY_BYTES_MAX;
use crate::metric::point::{Point, admit};
use crate::wire::carbonlink_reply::{Datapoints, Reply, ReplyError, cache_query};
use crate::wire::pickle::{HEADER_BYTES, PickleDecoder, frame_bytes};

/// Exit status when the cache cannot be reached: EX_UNAVAILABLE of sysexits.h.
pub const EXIT_UNAVAILABLE: u8 = 69;
/// Exit status when it answers no points: EX_PROTOCOL of sysexits.h.
pub const EXIT_PROTOCOL: u8 = 76;

/// Where a cache answers if nothing else is said: carbon's port.
pub const CARBONLINK: &str = "127.0.0.1:7002";
/// Wait for the connection and for each answer: a busy node answers within milliseconds.
pub const TIMEOUT: Duration = Duration::from_secs(5);

/// What to ask and whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// Host and port of the cache.
    pub carbonlink: String,
    /// Longest wait for the connection, and for each answer.
    pub timeout: Duration,
    /// The metrics, asked for as they are written; each at most
    /// [`crate::limits::NAME_BYTES_MAX`] bytes.
    pub names: Vec<String>,
}

/// Prints the cached points of each metric to `out`, everything else to `err`. Gives the exit
/// status.
///
/// # Errors
/// `out` cannot be written.
pub fn run(query: &Query, out: &mut dyn Write, err: &mut dyn Write) -> io::Result<u8> {
    let mut out = BufWriter::new(out);
    let mut link = match Link::open(&query.carbonlink, query.timeout) {
        Ok(link) => link,
        Err(failure) => return Ok(failure.tell(&query.carbonlink, err)),
    };
    let mut status = 0;
    for name in &query.names {
        match link.ask(name) {
            Ok(Reply::Datapoints(points)) => {
                if print(name, points, &mut out)? == 0 {
                    tell(err, format_args!("{name}: no cached points; others are in its file"));
                }
            }
            Ok(Reply::Error(text)) => {
                tell(err, format_args!("{name}: the cache says: {}", printable(&text)));
                status = EXIT_PROTOCOL;
            }
            Err(failure) => {
                out.flush()?;
                return Ok(failure.tell(&query.carbonlink, err));
            }
        }
    }
    out.flush()?;
    Ok(status)
}

/// The cached points of one metric in the order of the answer, whole seconds; those with a
/// timestamp that no file can hold are left out.
///
/// # Errors
/// Why there is no answer, in words that name the cache.
pub fn cached_points(
    carbonlink: &str,
    timeout: Duration,
    name: &str,
) -> Result<Vec<Point>, String> {
    let say = |failure: Failure| format!("{carbonlink}: {failure}");
    let mut link = Link::open(carbonlink, timeout).map_err(say)?;
    match link.ask(name).map_err(say)? {
        Reply::Datapoints(points) => {
            let points = points.map(|point| admit(point.timestamp, point.value, 0, u32::MAX));
            Ok(points.filter_map(Result::ok).collect())
        }
        Reply::Error(text) => Err(format!("{carbonlink}: the cache says: {}", printable(&text))),
    }
}

/// Prints a line a point and returns how many.
fn print(name: &str, points: Datapoints<'_>, out: &mut dyn Write) -> io::Result<usize> {
    let mut count = 0;
    for point in points {
        writeln!(out, "{name} {} {}", point.value, point.timestamp)?;
        count += 1;
    }
    Ok(count)
}

/// Prints a message to standard error. An error of that has no place to go, and is ignored.
pub(crate) fn tell(err: &mut dyn Write, text: fmt::Arguments<'_>) {
    let _ = writeln!(err, "carbyne: {text}");
}

/// A stranger's text without what a terminal would obey.
fn printable(text: &str) -> String {
    let is_shown = |&character: &char| character == '\n' || !character.is_control();
    text.trim_end().chars().filter(is_shown).collect()
}

/// Why a question has no answer.
#[derive(Debug)]
pub enum Failure {
    /// There is no connection.
    Connect(io::Error),
    /// The connection fails.
    Exchange(io::Error),
    /// Nothing, or not all, came in this time.
    Timeout(Duration),
    /// The connection ended before the answer did.
    Closed,
    /// The length of the answer is beyond [`REPLY_BYTES_MAX`].
    TooLong(u32),
    /// What came is no answer.
    Reply(ReplyError),
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Failure::Connect(error) => write!(f, "connect: {error}; does a node run there?"),
            Failure::Exchange(error) => write!(f, "ask for points: {error}"),
            Failure::Timeout(timeout) => {
                let seconds = timeout.as_secs_f64();
                write!(f, "no answer within {seconds} s; is this the carbonlink port?")
            }
            Failure::Closed => {
                f.write_str("closed the connection without an answer; is this the carbonlink port?")
            }
            Failure::TooLong(bytes) => write!(
                f,
                "answers with {bytes} bytes, more than {REPLY_BYTES_MAX}; is this the carbonlink \
                 port?"
            ),
            Failure::Reply(error) => write!(f, "{error}; is this the carbonlink port?"),
        }
    }
}

impl Failure {
    /// What a failed read or write comes to.
    fn of(error: io::Error, timeout: Duration) -> Failure {
        match error.kind() {
            // A socket's timeout is EAGAIN, which is WouldBlock.
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Failure::Timeout(timeout),
            io::ErrorKind::UnexpectedEof => Failure::Closed,
            _ => Failure::Exchange(error),
        }
    }

    /// Says what failed and gives the exit status.
    fn tell(&self, carbonlink: &str, err: &mut dyn Write) -> u8 {
        tell(err, format_args!("{carbonlink}: {self}"));
        match self {
            Failure::Connect(_) | Failure::Exchange(_) | Failure::Timeout(_) => EXIT_UNAVAILABLE,
            Failure::Closed | Failure::TooLong(_) | Failure::Reply(_) => EXIT_PROTOCOL,
        }
    }
}

/// Reads a cache's answers off a stream, and keeps the buffers of the last one.
#[derive(Debug)]
pub struct Answers {
    timeout: Duration,
    decoder: PickleDecoder,
    reply: Vec<u8>,
}

impl Answers {
    /// Nothing has been read. The stream fails when an answer takes longer than `timeout`.
    pub fn new(timeout: Duration) -> Answers {
        Answers { timeout, decoder: PickleDecoder::new(), reply: Vec::new() }
    }

    /// Reads the next answer: its length, then a pickle. Takes memory for the bytes that
    /// have come, whatever the length says.
    ///
    /// # Errors
    /// The stream ends or fails, or what comes is no answer.
    pub fn read(&mut self, stream: &mut dyn Read) -> Result<Reply<'_>, Failure> {
        let failure = |error| Failure::of(error, self.timeout);
        let mut header = [0; HEADER_BYTES];
        stream.read_exact(&mut header).map_err(failure)?;
        let length = frame_bytes(header);
        if length > REPLY_BYTES_MAX {
            return Err(Failure::TooLong(length));
        }
        self.reply.clear();
        stream.take(u64::from(length)).read_to_end(&mut self.reply).map_err(failure)?;
        if u32::try_from(self.reply.len()) != Ok(length) {
            return Err(Failure::Closed);
        }
        Reply::parse(&mut self.decoder, &self.reply).map_err(Failure::Reply)
    }
}

/// A connection to a cache, and the buffers of one question and its answer.
pub(crate) struct Link {
    stream: TcpStream,
    question: Vec<u8>,
    answers: Answers,
}

impl Link {
    /// Connects to the first address of the host that answers. Looking up the host's name is in
    /// the system's hands and its time limit.
    pub(crate) fn open(carbonlink: &str, timeout: Duration) -> Result<Link, Failure> {
        let mut failed = io::Error::other("the host has no address");
        let addresses = carbonlink.to_socket_addrs().map_err(Failure::Connect)?;
        let deadline = Instant::now() + timeout;
        for address in addresses {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match TcpStream::connect_timeout(&address, left) {
                Ok(stream) => {
                    let (question, answers) = (Vec::new(), Answers::new(timeout));
                    return Ok(Link { stream, question, answers });
                }
                Err(error) => failed = error,
            }
        }
        Err(Failure::Connect(failed))
    }

    /// Asks for one metric and waits for the answer.
    pub(crate) fn ask(&mut self, name: &str) -> Result<Reply<'_>, Failure> {
        let timeout = self.answers.timeout;
        let mut stream = Timed { stream: &self.stream, deadline: Instant::now() + timeout };
        self.question.clear();
        cache_query(&mut self.question, name);
        stream.write_all(&self.question).map_err(|error| Failure::of(error, timeout))?;
        self.answers.read(&mut stream)
    }
}

/// A stream on which everything together is done by the deadline.
struct Timed<'s> {
    stream: &'s TcpStream,
    deadline: Instant,
}

impl Timed<'_> {
    fn left(&self) -> io::Result<Option<Duration>> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(Some(left)) }
    }
}

impl Read for Timed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.set_read_timeout(self.left()?)?;
        self.stream.read(buffer)
    }
}

impl Write for Timed<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.stream.set_write_timeout(self.left()?)?;
        self.stream.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.stream.flush()
    }
}
