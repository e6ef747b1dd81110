//! Garbage on all four ports of a running node, while good points go in and are read back.
//!
//! `SEED` repeats what each port is sent, though not the timing; `FUZZ_SECONDS` makes it longer.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use crate::support::seeds::Chance;
use crate::support::{NodeOptions, NodeProcess, comes_to_hold, counter, stored, wait_for};
use serde_json::Value;

/// Most bytes that a connection sends: more than the node reads at once.
const CONNECTION_BYTES_MAX: usize = 1 << 20;

/// Rest between connections: more would only make more files, which take long to remove.
const PAUSE: Duration = Duration::from_millis(10);

/// Wait for a node that does not read, or does not answer garbage.
const PATIENCE: Duration = Duration::from_millis(200);

/// Bytes that mean something to some parser.
const SPECIAL: &[u8] =
    b"\0\x01\x7f\x80\xff\n\r \t.;=~/{}\"-+eE_()[].tabcdlsuKJMGIFNUTXBCqhrj\x8c\x94\x95";

/// Changes a few places.
fn mutate(noise: &mut Chance, bytes: &mut Vec<u8>) {
    for _ in 0..1 + noise.below(4) {
        let at = noise.below(bytes.len() + 1);
        let end = at + noise.below((bytes.len() - at).min(32) + 1);
        match noise.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, noise.byte()),
            3 => bytes.insert(at, SPECIAL[noise.below(SPECIAL.len())]),
            4 => {
                let copy = bytes[at..end].repeat(1 + noise.below(40));
                bytes.splice(at..at, copy);
            }
            _ if at == bytes.len() => {}
            5 => bytes[at] ^= 1 << noise.below(8),
            _ => bytes[at] = SPECIAL[noise.below(SPECIAL.len())],
        }
    }
}

/// Valid messages of one port, without the length that goes before each.
struct Corpus {
    messages: Vec<Vec<u8>>,
    is_framed: bool,
}

impl Corpus {
    /// Random bytes, or one of the messages, mostly changed and mostly with the right length.
    fn message(&self, noise: &mut Chance) -> Vec<u8> {
        let mut message = match noise.below(8) {
            0 => {
                let count = noise.below(600);
                noise.bytes(count)
            }
            _ => self.messages[noise.below(self.messages.len())].clone(),
        };
        if !noise.one_in(8) {
            mutate(noise, &mut message);
        }
        if self.is_framed {
            let length = match noise.below(32) {
                0 => u32::from_le_bytes(noise.bytes(4).try_into().expect("four bytes")),
                1 => u32::from(noise.byte()) * 16,
                _ => u32::try_from(message.len()).expect("short"),
            };
            message.splice(0..0, length.to_be_bytes());
        }
        message
    }
}

fn unhex(hex: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let digit = |byte: u8| digit(byte).expect("a hexadecimal digit");
    hex.as_bytes().chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// The byte strings of a file of captures.
fn captured(text: &str, key: &str) -> Vec<Vec<u8>> {
    let data: Value = serde_json::from_str(text).expect("captures are JSON");
    let vectors = data["vectors"].as_array().expect("captures have vectors");
    let messages = vectors.iter().filter_map(|vector| vector[key].as_str()).map(unhex);
    messages.filter(|message| message.len() < 8_192).collect()
}

fn lines(now_s: u64) -> Corpus {
    let messages = [
        format!("fuzz.a 1 {now_s}\n"),
        format!("fuzz.b.c -2.5e3 {now_s}\r\nfuzz.b.d inf {now_s}\n"),
        format!("fuzz.t;b=2;a=1 7 {now_s}\n"),
        format!("fuzz.o{{a=\"b\",c=\"d\"}} 1_0 {}.75\n", now_s - 3),
        format!("fuzz/slash..dots.~tilde NaN {now_s}\n"),
        "fuzz.now 3 -1\nfuzz.old 3 1\nfuzz.far 3 99999999999\n\n".to_owned(),
        format!("{} 1 {now_s}\n", "deep.".repeat(70)),
        format!("{} 1 {now_s}\n", "wide".repeat(70)),
        format!("{} 1 {now_s}\n", "x".repeat(17_000)),
    ];
    Corpus { messages: messages.map(String::into_bytes).into(), is_framed: false }
}

fn pickles() -> Corpus {
    let mut messages = captured(include_str!("../data/pickle.json"), "payload_hex");
    // Larger than one read: taken in slices, with whatever follows it on its connection.
    messages.push([&b"]("[..], &b"U\x06fuzz.zK\x01K\x02\x86\x86".repeat(25_000), b"e."].concat());
    assert!(messages.len() > 50);
    Corpus { messages, is_framed: true }
}

fn questions() -> Corpus {
    let mut messages =
        captured(include_str!("../data/carbonlink-carbon-cache.json"), "request_hex");
    for message in &mut messages {
        message.drain(..4.min(message.len()));
    }
    assert!(messages.len() > 30);
    Corpus { messages, is_framed: true }
}

/// What all threads look at.
#[derive(Default)]
struct Run {
    is_over: AtomicBool,
    /// Messages sent.
    count: AtomicU64,
    /// Good points that were found again.
    good_count: AtomicU64,
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }
}

/// Sends garbage over one connection after the other. Errors are the node closing them.
fn attack_stream(address: SocketAddr, corpus: &Corpus, mut noise: Chance, run: &Run) {
    while run.goes_on() {
        let mut stream = TcpStream::connect(address).expect("the node accepts connections");
        stream.set_write_timeout(Some(PATIENCE)).expect("set a timeout");
        stream.set_read_timeout(Some(PATIENCE)).expect("set a timeout");
        let mut bytes = Vec::new();
        for _ in 0..1 + noise.below(40) {
            bytes.extend(corpus.message(&mut noise));
            run.count.fetch_add(1, Ordering::Relaxed);
        }
        bytes.truncate(CONNECTION_BYTES_MAX);
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // All at once, or cut anywhere.
            let count = if noise.one_in(2) { rest.len() } else { 1 + noise.below(rest.len()) };
            if stream.write_all(&rest[..count]).is_err() {
                break;
            }
            rest = &rest[count..];
        }
        if noise.one_in(4) {
            // Until the node closes, or has nothing to say for a while.
            let _ = stream.shutdown(std::net::Shutdown::Write);
            while stream.read(&mut [0; 4_096]).is_ok_and(|count| count > 0) {}
        }
        std::thread::sleep(PAUSE);
    }
}

fn attack_datagrams(address: SocketAddr, corpus: &Corpus, mut noise: Chance, run: &Run) {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    while run.goes_on() {
        let mut datagram = Vec::new();
        for _ in 0..noise.below(6) {
            datagram.extend(corpus.message(&mut noise));
        }
        datagram.truncate(noise.below(65_508));
        let _ = socket.send_to(&datagram, address);
        run.count.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(PAUSE);
    }
}

fn now_s() -> u32 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    u32::try_from(now.as_secs()).expect("before 2106")
}

/// A pickle of one point, with its length.
fn pickled(name: &str, timestamp_s: u32, value: f64) -> Vec<u8> {
    let length = u8::try_from(name.len()).expect("short");
    let name = [&[b'U', length], name.as_bytes()].concat();
    let timestamp = f64::from(timestamp_s).to_be_bytes();
    let value = value.to_be_bytes();
    let body = [b"](", &name[..], b"G", &timestamp, b"G", &value, b"\x86\x86e."].concat();
    [&u32::try_from(body.len()).expect("short").to_be_bytes()[..], &body].concat()
}

/// Sends a good point at a time and waits until it can be read, in the cache or in its file.
fn probe(node: &NodeProcess, run: &Run) -> Vec<(String, u32, f64)> {
    let mut line = TcpStream::connect(node.line).expect("connect");
    let mut pickle = TcpStream::connect(node.pickle).expect("connect");
    let mut client = node.client();
    let mut sent = Vec::new();
    let base_s = now_s() - 1_000;
    for round in 0..900_u32 {
        if !run.goes_on() {
            break;
        }
        for port in ["line", "pickle"] {
            let name = format!("probe.{port}.n{}", round % 7);
            let (timestamp_s, value) = (base_s + round, f64::from(round) + 0.5);
            if port == "line" {
                writeln!(line, "{name} {value} {timestamp_s}").expect("send a good line");
            } else {
                pickle.write_all(&pickled(&name, timestamp_s, value)).expect("send a good pickle");
            }
            wait_for("a good point", || {
                client.query(&name).contains(&(timestamp_s, value))
                    || stored(&node.directory, &name).contains(&(timestamp_s, value))
            });
            sent.push((name, timestamp_s, value));
            run.good_count.fetch_add(1, Ordering::Relaxed);
        }
    }
    sent
}

/// Whether enough was sent to prove anything.
fn is_enough(node: &NodeProcess, run: &Run) -> bool {
    let own = |name: &str| node.own(&format!("accounting.{name}")).unwrap_or(0.0);
    run.count.load(Ordering::Relaxed) > 1_000
        && run.good_count.load(Ordering::Relaxed) > 20
        && ["received_tcp", "received_udp", "received_pickle", "refused"]
            .iter()
            .all(|name| own(name) > 100.0)
}

/// Says how to repeat the run if it fails.
struct Repeat(u64, u64);

impl Drop for Repeat {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let Repeat(seed, seconds) = self;
            let command = "cargo test --test node fuzz_receivers::";
            let say = format!("repeat with: SEED={seed} FUZZ_SECONDS={seconds} {command}\n");
            let _ = std::io::stderr().write_all(say.as_bytes());
        }
    }
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number in the environment"))
}

#[test]
fn garbage_harms_nobody_else() {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let seed = setting("SEED").unwrap_or(u64::from(clock.subsec_nanos()));
    let seconds = setting("FUZZ_SECONDS").unwrap_or(5);
    let _repeat = Repeat(seed, seconds);
    let mut node = NodeProcess::start(
        "fuzz-receivers",
        &NodeOptions {
            shards: 2,
            whisper: "",
            cache: "memory-budget = \"256MiB\"",
            schemas: "[probe]\npattern = ^probe\\.\nretentions = 1s:40m\n\
                      [all]\npattern = .*\nretentions = 60s:1h\n",
        },
    );
    let run = Run::default();
    let (lines, pickles, questions) = (lines(now_s().into()), pickles(), questions());
    let mut noises = (0..4).map(|port| Chance::new(seed.wrapping_mul(4).wrapping_add(port)));
    let mut noise = || noises.next().expect("one for each port");
    let probes = std::thread::scope(|scope| {
        let attacks = [
            scope.spawn({
                let noise = noise();
                || attack_stream(node.line, &lines, noise, &run)
            }),
            scope.spawn({
                let noise = noise();
                || attack_datagrams(node.udp, &lines, noise, &run)
            }),
            scope.spawn({
                let noise = noise();
                || attack_stream(node.pickle, &pickles, noise, &run)
            }),
            scope.spawn({
                let noise = noise();
                || attack_stream(node.carbonlink, &questions, noise, &run)
            }),
        ];
        let probe = scope.spawn(|| probe(&node, &run));
        let until = Instant::now() + Duration::from_secs(seconds);
        while Instant::now() < until && !probe.is_finished() {
            std::thread::sleep(Duration::from_millis(20));
        }
        // A busy machine takes longer to get as far.
        comes_to_hold(|| probe.is_finished() || is_enough(&node, &run));
        run.is_over.store(true, Ordering::Relaxed);
        for attack in attacks {
            attack.join().expect("an attack goes on to the end");
        }
        probe.join().expect("every good point can be read")
    });
    assert!(node.is_alive());
    check_end(&mut node, &probes);
    let count = run.count.load(Ordering::Relaxed);
    let say = format!("seed {seed}: {count} bad messages, {} good points\n", probes.len());
    std::io::stdout().write_all(say.as_bytes()).expect("write to standard output");
    assert!(count > 1_000 && probes.len() > 20, "{say}");
}

/// Stops the node: all is accounted for, the good points are in their files, nothing lies
/// elsewhere.
fn check_end(node: &mut NodeProcess, probes: &[(String, u32, f64)]) {
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    let of = |name: &str| counter(&log, name);
    let received = ["tcp", "udp", "pickle", "own"].map(|port| of(&format!("received_{port}")));
    assert_eq!(of("received"), received.iter().sum::<u64>(), "{log}");
    assert_eq!(of("received"), of("refused") + of("accepted"), "{log}");
    assert_eq!(of("accepted"), of("replaced") + of("stored") + of("dropped"), "{log}");
    assert!(received[..3].iter().all(|&count| count > 100) && of("refused") > 100, "{log}");
    assert!(!log.contains("panicked") && !log.contains(" ERROR "), "{log}");
    for (name, timestamp_s, value) in probes {
        let found = stored(&node.directory, name);
        assert!(found.contains(&(*timestamp_s, *value)), "{name} {value} {timestamp_s}: {found:?}");
    }
    let mut names: Vec<_> = std::fs::read_dir(&node.directory)
        .expect("list the directory")
        .map(|entry| entry.expect("an entry").file_name())
        .collect();
    names.sort();
    assert_eq!(names, ["log", "node.toml", "schemas.conf", "whisper", "whisper.wal"]);
}
