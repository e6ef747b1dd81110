//! Full speed: every accepted point is found again, and the counters add up exactly.
//!
//! `cargo test` runs it for a few seconds; `SOAK_SECONDS=60 SOAK_METRICS=100000 cargo test
//! --release --test soak` is the long form.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use support::{Client, NodeOptions, NodeProcess, comes_to_hold, counter, stored, wait_for};

const CONNECTIONS: usize = 4;

/// Each metric's rounds go round over so many seconds; the last round of a second must be found.
const SECONDS: usize = 1_200;

fn setting(name: &str, default: usize) -> usize {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

fn name_of(metric: usize) -> String {
    format!("soak.group{:03}.host{:05}.cpu.usage.user_percent", metric % 100, metric)
}

/// Sends whole rounds over its share of the metrics; returns how many rounds.
fn send(address: std::net::SocketAddr, share: Vec<String>, base_s: u32, until: Instant) -> usize {
    let mut stream = TcpStream::connect(address).expect("connect");
    let mut rounds = 0;
    let mut buffer = Vec::with_capacity(1 << 20);
    while rounds == 0 || Instant::now() < until {
        let timestamp_s = base_s as usize + rounds % SECONDS;
        for name in &share {
            writeln!(buffer, "{name} {rounds} {timestamp_s}").expect("a Vec takes any bytes");
            if buffer.len() > (1 << 20) - 256 {
                stream.write_all(&buffer).expect("send");
                buffer.clear();
            }
        }
        stream.write_all(&buffer).expect("send");
        buffer.clear();
        rounds += 1;
    }
    rounds
}

/// The last round at each second of the ring; `None` where there was none.
fn expected(rounds: usize) -> Vec<Option<f64>> {
    (0..SECONDS)
        .map(|second| {
            let last = (rounds + SECONDS - 1 - second) / SECONDS;
            (last > 0).then(|| (second + (last - 1) * SECONDS) as f64)
        })
        .collect()
}

/// What a file holds at each second.
fn stored_from(directory: &Path, name: &str, base_s: u32) -> Vec<Option<f64>> {
    let mut values = vec![None; SECONDS];
    for (interval_s, value) in stored(directory, name) {
        let second = interval_s.checked_sub(base_s).map(|second| second as usize);
        if let Some(slot) = second.and_then(|second| values.get_mut(second)) {
            *slot = Some(value);
        }
    }
    values
}

/// What the node has of these metrics at each second, in memory or in files.
fn look(
    client: &mut Client,
    directory: &Path,
    names: &[String],
    base_s: u32,
) -> Vec<Vec<Option<f64>>> {
    // The cache first: a point may move to its file in between, never the other way.
    let asked: Vec<&str> = names.iter().map(String::as_str).collect();
    let cached = client.query_all(&asked);
    let merge = |(name, cached): (&String, Vec<(u32, f64)>)| {
        let mut found = stored_from(directory, name, base_s);
        for (timestamp_s, value) in cached {
            found[(timestamp_s - base_s) as usize] = Some(value);
        }
        found
    };
    names.iter().zip(cached).map(merge).collect()
}

fn compare(found: &[Option<f64>], wanted: &[Option<f64>], name: &str) {
    let wrong = found.iter().zip(wanted).position(|(found, wanted)| found != wanted);
    let Some(second) = wrong else { return };
    let count = found.iter().zip(wanted).filter(|(found, wanted)| found != wanted).count();
    let (found, wanted) = (found[second], wanted[second]);
    panic!("{name}: {count} seconds wrong, first {second}: found {found:?}, sent {wanted:?}");
}

#[test]
fn every_point_is_found_again_and_the_counters_add_up() {
    let seconds = setting("SOAK_SECONDS", 3) as u64;
    let metric_count = setting("SOAK_METRICS", 1_000);
    let mut node = NodeProcess::start(
        "soak",
        &NodeOptions {
            shards: 2,
            whisper: "sparse-create = true",
            cache: "memory-budget = \"2GiB\"",
            schemas: "[soak]\npattern = ^soak\\.\nretentions = 1s:40m\n",
        },
    );
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    let base_s = u32::try_from(now.as_secs()).expect("before 2106") - 1_300;
    let until = Instant::now() + Duration::from_secs(seconds);
    let senders: Vec<_> = (0..CONNECTIONS)
        .map(|sender| {
            let share = (sender..metric_count).step_by(CONNECTIONS).map(name_of).collect();
            let address = node.line;
            std::thread::spawn(move || send(address, share, base_s, until))
        })
        .collect();
    let rounds: Vec<usize> = senders.into_iter().map(|s| s.join().expect("a sender")).collect();
    let sent: u64 = (0..metric_count).map(|metric| rounds[metric % CONNECTIONS] as u64).sum();
    wait_for("all points received", || node.own("accounting.received_tcp") == Some(sent as f64));
    assert!(node.is_alive());

    let wanted: Vec<Vec<Option<f64>>> = rounds.iter().map(|&count| expected(count)).collect();
    let names: Vec<String> = (0..metric_count).map(name_of).collect();
    let mut client = node.client();
    for (chunk, first) in names.chunks(64).zip((0..).step_by(64)) {
        let wanted = |metric: usize| &wanted[metric % CONNECTIONS];
        let mut found = Vec::new();
        // The last ones may be on their way to their core still.
        comes_to_hold(|| {
            found = look(&mut client, &node.directory, chunk, base_s);
            found.iter().zip(first..).all(|(found, metric)| found == wanted(metric))
        });
        for ((name, found), metric) in chunk.iter().zip(&found).zip(first..) {
            compare(found, wanted(metric), name);
        }
    }

    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    let (received, refused) = (counter(&log, "received"), counter(&log, "refused"));
    let (accepted, replaced) = (counter(&log, "accepted"), counter(&log, "replaced"));
    let (stored_count, dropped) = (counter(&log, "stored"), counter(&log, "dropped"));
    assert_eq!((refused, dropped), (0, 0), "{log}");
    assert_eq!(received, accepted, "{log}");
    assert_eq!(accepted, replaced + stored_count, "{log}");
    assert_eq!(counter(&log, "received_tcp"), sent);
    let say = format!("sent {sent} points, rounds {rounds:?}, stored {stored_count}\n");
    std::io::stdout().write_all(say.as_bytes()).expect("write to standard output");
    for (metric, name) in names.iter().enumerate() {
        let found = stored_from(&node.directory, name, base_s);
        compare(&found, &wanted[metric % CONNECTIONS], name);
    }
}
