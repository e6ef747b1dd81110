//! An upgrade: a new process takes over from the one that runs, under load.

use std::collections::HashSet;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use crate::support::{NodeOptions, NodeProcess, WAL, comes_to_hold, wait_for};
use carbyne::sys::clock::now_s;

/// Metrics of each sender; each of its connections brings one point of each.
const METRICS: u32 = 20;

/// What each sender is to send before, between and after the nodes that follow each other.
const STEP: u32 = 25;

/// What the senders of a run look at, and tell.
#[derive(Default)]
struct Run {
    is_over: AtomicBool,
    /// Connections that were taken whole, by sender, and at last the datagrams.
    sent: [AtomicU32; 4],
}

impl Run {
    fn goes_on(&self) -> bool {
        !self.is_over.load(Ordering::Relaxed)
    }

    /// Waits until each sender has sent so much more.
    fn wait_for_more(&self) {
        let sent = || self.sent.each_ref().map(|count| count.load(Ordering::Relaxed));
        let before = sent();
        wait_for("the senders", || {
            sent().iter().zip(before).all(|(count, before)| count - before >= STEP)
        });
    }
}

/// Connections come one after the other, and each must be taken whole: a refused or reset one is
/// an error here. Returns their number.
fn send_connections(to: SocketAddr, sender: u32, first_s: u32, run: &Run) -> u32 {
    let mut count = 0;
    while run.goes_on() {
        let line = |metric| format!("tcp{sender}.m{metric} {count} {}\n", first_s + count);
        let lines: String = (0..METRICS).map(line).collect();
        let sent = TcpStream::connect(to).and_then(|mut stream| {
            stream.set_read_timeout(Some(Duration::from_mins(1)))?;
            stream.write_all(lines.as_bytes())?;
            stream.shutdown(Shutdown::Write)?;
            stream.read_to_end(&mut Vec::new())
        });
        sent.unwrap_or_else(|error| panic!("connection {count} of sender {sender}: {error}"));
        count += 1;
        run.sent[sender as usize].store(count, Ordering::Relaxed);
    }
    count
}

fn send_datagrams(to: SocketAddr, first_s: u32, run: &Run) -> u32 {
    let mut count = 0;
    while run.goes_on() {
        // Another port each time, so that the kernel's hash goes everywhere.
        let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
        let line = format!("udp.m {count} {}\n", first_s + count);
        socket.send_to(line.as_bytes(), to).expect("send");
        count += 1;
        run.sent[3].store(count, Ordering::Relaxed);
        // A node that waits for the processor drops none.
        std::thread::sleep(Duration::from_millis(2));
    }
    count
}

#[test]
fn nothing_is_refused_or_lost_while_one_node_takes_over_from_another() {
    // Nothing is written by itself: what is found has come through the log.
    let options =
        NodeOptions { shards: 2, whisper: "flush-interval = \"1h\"", cache: "", schemas: SCHEMAS };
    let mut node = NodeProcess::start_with("take-over", &options, WAL);
    let first_s = now_s() - 30_000;
    let run = Arc::new(Run::default());
    let senders: Vec<_> = (0..3)
        .map(|sender| {
            let (to, run) = (node.line, Arc::clone(&run));
            std::thread::spawn(move || send_connections(to, sender, first_s, &run))
        })
        .collect();
    let datagrams = {
        let (to, run) = (node.udp, Arc::clone(&run));
        std::thread::spawn(move || send_datagrams(to, first_s, &run))
    };
    for _ in 0..3 {
        run.wait_for_more();
        assert_eq!(node.take_over(), Some(0), "{}", node.log());
    }
    run.wait_for_more();
    run.is_over.store(true, Ordering::Relaxed);
    let counts: Vec<u32> =
        senders.into_iter().map(|sender| sender.join().expect("a sender")).collect();
    let datagram_count = datagrams.join().expect("the sender of datagrams");

    let mut client = node.client();
    let mut check = |metric: &str, count: u32| {
        // The last ones may be on their way still.
        let mut found = Vec::new();
        comes_to_hold(|| {
            found = client.query(metric);
            found.len() >= count as usize
        });
        found.sort_unstable_by_key(|(time, _)| *time);
        let expected: Vec<(u32, f64)> = (0..count).map(|n| (first_s + n, f64::from(n))).collect();
        assert!(count >= 4 * STEP, "{metric}: only {count} were sent");
        let times: HashSet<u32> = found.iter().map(|(time, _)| *time).collect();
        let missing: Vec<u32> = (0..count).filter(|n| !times.contains(&(first_s + n))).collect();
        assert!(
            missing.is_empty(),
            "{metric}: {} of {count} are missing: {missing:?}",
            missing.len()
        );
        assert_eq!(found, expected, "{metric}");
    };
    for (sender, &count) in counts.iter().enumerate() {
        for metric in 0..METRICS {
            check(&format!("tcp{sender}.m{metric}"), count);
        }
    }
    check("udp.m", datagram_count);
    assert_eq!(node.end("-TERM").0, Some(0));
}

#[test]
fn without_a_node_to_take_over_from_it_just_starts() {
    let options = NodeOptions { shards: 1, whisper: "", cache: "", schemas: SCHEMAS };
    let mut node = NodeProcess::start_with("take-over-none", &options, WAL);
    assert_eq!(node.end("-TERM").0, Some(0));
    node.take_over();
    assert!(node.log().contains("no node to take over from"), "{}", node.log());
    assert_eq!(node.end("-TERM").0, Some(0));
}

const SCHEMAS: &str = "[all]\npattern = .*\nretentions = 1s:1d\n";
