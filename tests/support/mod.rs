//! A node as a process, for tests that drive the real binary on loopback.

#![allow(dead_code, reason = "each test binary uses its own part of this module")]

pub(crate) mod log_dir;
pub(crate) mod rolled;
pub(crate) mod seeds;
pub(crate) mod sent;
pub(crate) mod whisper_file;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use carbyne::whisper::{Archive, HEADER_BYTES_MAX, Header};
use socket2::{Domain, Socket, Type};

/// A running node in a directory of its own, removed at the end.
pub(crate) struct NodeProcess {
    child: Child,
    /// Directory with the node's configuration, files and log.
    pub(crate) directory: PathBuf,
    /// Lines over TCP.
    pub(crate) line: SocketAddr,
    /// Lines in datagrams.
    pub(crate) udp: SocketAddr,
    /// Pickles.
    pub(crate) pickle: SocketAddr,
    /// Queries.
    pub(crate) carbonlink: SocketAddr,
    /// The command that the node prints for sending a line.
    pub(crate) send_command: String,
    /// The command that the node prints for reading a metric.
    pub(crate) read_command: String,
}

/// What to vary: sections of TOML appended to the base configuration, and the schemas.
pub(crate) struct NodeOptions<'a> {
    /// Number of shards.
    pub(crate) shards: usize,
    /// Lines below `[whisper]`.
    pub(crate) whisper: &'a str,
    /// Lines below `[cache]`.
    pub(crate) cache: &'a str,
    /// storage-schemas.conf.
    pub(crate) schemas: &'a str,
}

/// Longest wait for anything: far beyond what a busy machine takes. A test that is past it hangs.
const WAIT_MAX: Duration = Duration::from_mins(3);

/// The same for the end of a node, which may have much to write.
const END_MAX: Duration = Duration::from_mins(5);

/// The log of a node in a test: small, so that it turns over.
pub(crate) const WAL: &str = "max-size = \"64MiB\"\nsegment-size = \"1MiB\"";

impl NodeProcess {
    /// Starts a node and waits until it listens.
    pub(crate) fn start(name: &str, options: &NodeOptions<'_>) -> NodeProcess {
        NodeProcess::start_with(name, options, WAL)
    }

    /// The same with these lines below `[wal]`.
    pub(crate) fn start_with(name: &str, options: &NodeOptions<'_>, wal: &str) -> NodeProcess {
        let directory = std::env::temp_dir().join(format!("carbyne-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&directory);
        std::fs::create_dir_all(directory.join("whisper")).expect("make a directory");
        std::fs::write(directory.join("log"), "").expect("make the log");
        let child = launch(&directory, options, wal);
        listening(child, directory)
    }

    /// Starts the node again in its directory, after its end.
    pub(crate) fn restart(&mut self, options: &NodeOptions<'_>, wal: &str) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let child = launch(&self.directory, options, wal);
        let mut anew = listening(child, self.directory.clone());
        std::mem::swap(self, &mut anew);
        // What is dropped is the process that has ended, and not the directory.
        anew.directory = PathBuf::new();
    }

    /// A configuration with the ports that this node has.
    fn successor(&self) -> PathBuf {
        let mut config =
            std::fs::read_to_string(self.directory.join("node.toml")).expect("read configuration");
        for address in [self.line, self.udp, self.pickle, self.carbonlink] {
            config = config.replacen("127.0.0.1:0", &address.to_string(), 1);
        }
        let path = self.directory.join("successor.toml");
        std::fs::write(&path, config).expect("write configuration");
        path
    }

    /// Starts the node again with the ports that it has, right after its end by a signal.
    pub(crate) fn come_back(&mut self, signal: &str) {
        let path = self.successor();
        self.signal(signal);
        self.child.wait().expect("wait for the node");
        let child = spawn(&self.directory, &["serve", "-c"], &path);
        let mut anew = listening(child, self.directory.clone());
        std::mem::swap(self, &mut anew);
        anew.directory = PathBuf::new();
    }

    /// Has a new process take over from this one; returns the exit code of the old one.
    pub(crate) fn take_over(&mut self) -> Option<i32> {
        let path = self.successor();
        let child = spawn(&self.directory, &["serve", "--take-over", "-c"], &path);
        let mut anew = listening(child, self.directory.clone());
        std::mem::swap(self, &mut anew);
        anew.directory = PathBuf::new();
        anew.child.wait().expect("wait for the old node").code()
    }

    /// Starts the node again and does not wait; for a start that is to fail, or to be cut short.
    pub(crate) fn launch(&mut self, options: &NodeOptions<'_>, wal: &str) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.child = launch(&self.directory, options, wal);
    }

    /// A connection to the cache.
    pub(crate) fn client(&self) -> Client {
        Client { stream: TcpStream::connect(self.carbonlink).expect("connect") }
    }

    /// The newest value of one of the node's own metrics, if it is in the cache.
    pub(crate) fn own(&self, name: &str) -> Option<f64> {
        let points = self.client().query(&format!("self.{name}"));
        points.last().map(|&(_, value)| value)
    }

    /// Has the node write everything into the files and stop; returns the exit code and the log.
    pub(crate) fn stop(&mut self) -> (Option<i32>, String) {
        self.end("-USR1")
    }

    /// Sends a signal and waits for the end; returns the exit code and the log.
    pub(crate) fn end(&mut self, signal: &str) -> (Option<i32>, String) {
        self.signal(signal);
        self.wait()
    }

    /// Sends a signal.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.id().to_string();
        let sent = Command::new("kill").args([signal, &id]).status().expect("run kill");
        assert!(sent.success());
    }

    /// Ends the process as a crash does, with no time for anything.
    pub(crate) fn kill(&mut self) {
        self.child.kill().expect("kill the node");
        self.child.wait().expect("wait for the node");
    }

    /// Waits for the end; returns the exit code and the log.
    pub(crate) fn wait(&mut self) -> (Option<i32>, String) {
        let deadline = Instant::now() + END_MAX;
        loop {
            if let Some(status) = self.child.try_wait().expect("look at the node") {
                return (status.code(), read_log(&self.directory));
            }
            assert!(Instant::now() < deadline, "the node does not end: {}", self.log());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Everything the node has said so far, in all its lives.
    pub(crate) fn log(&self) -> String {
        read_log(&self.directory)
    }

    /// The directory of its log.
    pub(crate) fn wal(&self) -> PathBuf {
        self.directory.join("whisper.wal")
    }

    /// Whether the process still runs.
    pub(crate) fn is_alive(&mut self) -> bool {
        self.child.try_wait().expect("look at the node").is_none()
    }

    /// The process's number.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !std::thread::panicking() && self.directory.is_absolute() {
            let _ = std::fs::remove_dir_all(&self.directory);
        }
    }
}

fn launch(directory: &Path, options: &NodeOptions<'_>, wal: &str) -> Child {
    std::fs::write(directory.join("schemas.conf"), options.schemas).expect("write schemas");
    let config = directory.join("node.toml");
    std::fs::write(&config, config_text(directory, options, wal)).expect("write configuration");
    spawn(directory, &["serve", "-c"], &config)
}

fn spawn(directory: &Path, arguments: &[&str], config: &Path) -> Child {
    let log = std::fs::File::options().append(true).open(directory.join("log"));
    // A write beyond a limit on the length of files is to fail, and not to kill.
    Command::new("sh")
        .args(["-c", "trap '' XFSZ && exec \"$0\" \"$@\""])
        .arg(env!("CARGO_BIN_EXE_carbyne"))
        .args(arguments)
        .arg(config)
        .stdout(Stdio::piped())
        .stderr(log.expect("open the log"))
        .spawn()
        .expect("start the node")
}

/// Waits until the node listens.
fn listening(mut child: Child, directory: PathBuf) -> NodeProcess {
    let mut out = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let mut find = |label: &str| loop {
        let mut text = String::new();
        let count = out.read_line(&mut text).expect("read the start-up message");
        assert!(count > 0, "the node stopped: {}", read_log(&directory));
        if let Some(rest) = text.trim().strip_prefix(label) {
            return rest.trim().to_owned();
        }
    };
    let mut address = |label: &str| find(label).parse().expect("an address");
    let (line, udp) = (address("line tcp"), address("line udp"));
    let (pickle, carbonlink) = (address("pickle tcp"), address("carbonlink"));
    let (send_command, read_command) = (find("send"), find("read"));
    NodeProcess { child, directory, line, udp, pickle, carbonlink, send_command, read_command }
}

/// A carbonlink connection.
pub(crate) struct Client {
    stream: TcpStream,
}

impl Client {
    /// The cached points of a metric: (timestamp, value), ascending.
    pub(crate) fn query(&mut self, name: &str) -> Vec<(u32, f64)> {
        self.query_all(std::slice::from_ref(&name)).remove(0)
    }

    /// The cached points of several metrics, asked for at once.
    pub(crate) fn query_all(&mut self, names: &[&str]) -> Vec<Vec<(u32, f64)>> {
        self.try_query_all(names).expect("ask and read the answers")
    }

    /// The same of a node that may end at any time.
    pub(crate) fn try_query_all(&mut self, names: &[&str]) -> io::Result<Vec<Vec<(u32, f64)>>> {
        let requests: Vec<u8> = names.iter().flat_map(|name| request(name)).collect();
        self.stream.write_all(&requests)?;
        let mut answers = Vec::with_capacity(names.len());
        for _ in names {
            let mut length = [0; 4];
            self.stream.read_exact(&mut length)?;
            let mut body = vec![0; u32::from_be_bytes(length) as usize];
            self.stream.read_exact(&mut body)?;
            answers.push(datapoints(&body));
        }
        Ok(answers)
    }
}

fn request(name: &str) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(U\x04typeU\x0bcache-queryU\x06metricX".to_vec();
    pickle.extend(u32::try_from(name.len()).expect("short").to_le_bytes());
    pickle.extend(name.as_bytes());
    pickle.extend(b"u.");
    let length = u32::try_from(pickle.len()).expect("short").to_be_bytes();
    [&length[..], &pickle].concat()
}

fn config_text(directory: &Path, options: &NodeOptions<'_>, wal: &str) -> String {
    let path = directory.display();
    let (shards, whisper, cache) = (options.shards, options.whisper, options.cache);
    let listen = "listen = \"127.0.0.1:0\"";
    format!(
        "[common]\ngraph-prefix = \"self\"\nmetric-interval = \"1s\"\nshards = {shards}\n\
         [whisper]\ndata-dir = \"{path}/whisper\"\nschemas-file = \"{path}/schemas.conf\"\n\
         {whisper}\n\
         [cache]\n{cache}\n\
         [wal]\n{wal}\n\
         [tcp]\n{listen}\n[udp]\n{listen}\n[pickle]\n{listen}\n[carbonlink]\n{listen}\n"
    )
}

fn read_log(directory: &Path) -> String {
    std::fs::read_to_string(directory.join("log")).unwrap_or_default()
}

/// The points of an answer, which is always the same few opcodes.
fn datapoints(body: &[u8]) -> Vec<(u32, f64)> {
    let mut points = Vec::new();
    let mut at = 0;
    let float = |at: usize| {
        f64::from_bits(u64::from_be_bytes(body[at..at + 8].try_into().expect("eight bytes")))
    };
    while at + 18 <= body.len() {
        if body[at] == b'G' && body[at + 9] == b'G' && body[at + 18] == 0x86 {
            points.push((whole(float(at + 1)), float(at + 10)));
            at += 19;
            // Behind each pair comes its number in the memo, which may look like the next pair.
            at += match body.get(at) {
                Some(b'q') => 2,
                Some(b'r') => 5,
                _ => 0,
            };
        } else {
            at += 1;
        }
    }
    points
}

/// A timestamp of an answer as the integer it was sent as.
fn whole(timestamp: f64) -> u32 {
    format!("{timestamp:.0}").parse().expect("a timestamp of 32 bits")
}

/// The points in the finest archive of a metric's file, in no order; none without a file.
pub(crate) fn stored(directory: &Path, name: &str) -> Vec<(u32, f64)> {
    stored_archives(directory, name).map_or_else(Vec::new, |mut archives| archives.swap_remove(0))
}

/// The same of each archive; `None` without a file.
pub(crate) fn stored_archives(directory: &Path, name: &str) -> Option<Vec<Vec<(u32, f64)>>> {
    let path = directory.join("whisper").join(name.replace('.', "/") + ".wsp");
    let bytes = std::fs::read(path).ok()?;
    let head = &bytes[..bytes.len().min(HEADER_BYTES_MAX)];
    let header = Header::parse(head, bytes.len() as u64).expect("a Whisper file");
    Some(header.archives().iter().map(|archive| used_slots(&bytes, archive)).collect())
}

fn used_slots(bytes: &[u8], archive: &Archive) -> Vec<(u32, f64)> {
    bytes[archive.offset as usize..][..archive.slot_count as usize * 12]
        .chunks_exact(12)
        .map(|slot| {
            let interval_s = u32::from_be_bytes(slot[..4].try_into().expect("four bytes"));
            let value = f64::from_be_bytes(slot[4..].try_into().expect("eight bytes"));
            (interval_s, value)
        })
        .filter(|&(interval_s, _)| interval_s != 0)
        .collect()
}

/// A counter of the last line of a log.
pub(crate) fn counter(log: &str, name: &str) -> u64 {
    let line = log.lines().rfind(|line| line.contains("stopped received=")).expect("a last line");
    let rest = line.split(&format!("{name}=")).nth(1).expect("a field of the last line");
    rest.split_whitespace().next().and_then(|text| text.parse().ok()).expect("a number")
}

/// Polls until `holds`; how long it takes proves nothing.
pub(crate) fn wait_for(what: &str, holds: impl FnMut() -> bool) {
    assert!(comes_to_hold(holds), "gave up waiting for {what}");
}

/// Polls until `holds`; false when it does not in a long time.
pub(crate) fn comes_to_hold(mut holds: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

/// An address that refuses connections, and that no other program can get, while the socket lives.
pub(crate) fn closed_port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("make a socket");
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    socket.bind(&any.into()).expect("bind");
    let address = socket.local_addr().expect("bound").as_socket().expect("an IPv4 address");
    (socket, address)
}

/// Says how long something took, from which no test concludes anything; perf/ does.
#[allow(clippy::print_stdout, reason = "shown with --nocapture, and when the test fails")]
pub(crate) fn tell_time(what: &str, begun: Instant) {
    println!("{what} took {:?}", begun.elapsed());
}
