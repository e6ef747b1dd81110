//! One connection that carries everything, on a node of two cores: they share the lines of it, and
//! still the point received last wins, every point is counted once, and a stop loses none.

mod support;

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, SystemTime};

use support::{NodeOptions, NodeProcess, counter, stored, wait_for};

const METRICS: usize = 200;

/// Lines between one second and the next: each metric gets hundreds of points for one second, over
/// many of the pieces in which lines are shared.
const LINES_PER_SECOND: usize = 50_000;

const SECONDS: usize = 25;

/// Lines of one write.
const CHUNK_LINES: usize = 20_000;

const SCHEMAS: &str = "[one]\npattern = ^one\\.\nretentions = 1s:1h\n";

fn base_s() -> usize {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    usize::try_from(now.as_secs()).expect("64 bits") - 600
}

fn name_of(metric: usize) -> String {
    format!("one.connection.host{metric:03}.cpu.user")
}

/// Metric and second of a line; its value is its number.
fn place_of(line: usize) -> (usize, usize) {
    (line * 7_919 % METRICS, line / LINES_PER_SECOND % SECONDS)
}

fn chunk(from: usize, base_s: usize) -> Vec<u8> {
    let mut text = Vec::with_capacity(CHUNK_LINES * 56);
    for line in from..from + CHUNK_LINES {
        let (metric, second) = place_of(line);
        writeln!(text, "{} {line} {}", name_of(metric), base_s + second).expect("into memory");
    }
    text
}

/// The last value of each metric at each second after so many lines.
fn last_values(lines: usize, base_s: usize) -> Vec<BTreeMap<u32, f64>> {
    let mut last = vec![BTreeMap::new(); METRICS];
    for line in 0..lines {
        let (metric, second) = place_of(line);
        let timestamp_s = u32::try_from(base_s + second).expect("before 2106");
        last[metric].insert(timestamp_s, line as f64);
    }
    last
}

fn node(name: &str, whisper: &str) -> NodeProcess {
    let cache = "memory-budget = \"1GiB\"";
    NodeProcess::start(name, &NodeOptions { shards: 2, whisper, cache, schemas: SCHEMAS })
}

#[test]
fn the_last_point_wins_and_all_are_counted() {
    const LINES: usize = 2_000_000;
    let mut node = node("one-connection", "enabled = false");
    let base_s = base_s();
    let mut stream = TcpStream::connect(node.line).expect("connect");
    for from in (0..LINES).step_by(CHUNK_LINES) {
        stream.write_all(&chunk(from, base_s)).expect("send");
    }
    wait_for("all points received", || node.own("accounting.received_tcp") == Some(LINES as f64));
    let wanted = last_values(LINES, base_s);
    let mut client = node.client();
    for (metric, wanted) in wanted.iter().enumerate() {
        // The last ones may be on their way to their core still.
        let mut found = BTreeMap::new();
        for _ in 0..100 {
            found = client.query(&name_of(metric)).into_iter().collect();
            if found == *wanted {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(found, *wanted, "{}", name_of(metric));
    }
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(counter(&log, "received_tcp"), LINES as u64);
    assert_eq!(counter(&log, "refused"), 0);
    assert_eq!(counter(&log, "accepted"), counter(&log, "received"));
}

/// Sends until the node ends the connection.
fn send_until_stopped(address: SocketAddr, base_s: usize) {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.set_write_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut from = 0;
    while stream.write_all(&chunk(from, base_s)).is_ok() {
        from += CHUNK_LINES;
    }
}

#[test]
fn a_stop_in_the_middle_loses_nothing_that_was_received() {
    let mut node = node("one-stopped", "sparse-create = true");
    let base_s = base_s();
    let address = node.line;
    let sender = std::thread::spawn(move || send_until_stopped(address, base_s));
    wait_for("many points received", || {
        node.own("accounting.received_tcp").is_some_and(|count| count > 300_000.0)
    });
    let (code, log) = node.stop();
    sender.join().expect("the sender ends with its connection");
    assert_eq!(code, Some(0), "{log}");
    // The only line that may be refused is the last one, cut short by the stop.
    let refused = counter(&log, "refused");
    assert!(refused <= 1, "{log}");
    assert_eq!(counter(&log, "accepted"), counter(&log, "received") - refused, "{log}");
    let placed = counter(&log, "replaced") + counter(&log, "stored");
    assert_eq!(counter(&log, "accepted"), placed, "{log}");
    let lines = usize::try_from(counter(&log, "received_tcp") - refused).expect("64 bits");
    for (metric, wanted) in last_values(lines, base_s).iter().enumerate() {
        let found: BTreeMap<u32, f64> =
            stored(&node.directory, &name_of(metric)).into_iter().collect();
        assert_eq!(found, *wanted, "{} after {lines} lines", name_of(metric));
    }
}
