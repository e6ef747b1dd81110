//! The way down: everything received is written, whatever the limits and however full the cache.

mod support;

use std::io::Write;
use std::net::TcpStream;
use std::time::{Duration, Instant, SystemTime};

use support::{NodeOptions, NodeProcess, counter, stored, wait_for};

const SCHEMAS: &str = "[all]\npattern = .*\nretentions = 1s:1h\n";

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn start(name: &str, whisper: &str, cache: &str) -> NodeProcess {
    NodeProcess::start(name, &NodeOptions { shards: 2, whisper, cache, schemas: SCHEMAS })
}

fn send(node: &NodeProcess, lines: &str) {
    let mut stream = TcpStream::connect(node.line).expect("connect");
    stream.write_all(lines.as_bytes()).expect("send");
}

/// All accounts of a node that has stopped: what was received is somewhere.
fn check_accounts(log: &str) {
    assert!(!log.contains("do not add up"), "{log}");
    let of = |name: &str| counter(log, name);
    assert_eq!(of("received"), of("refused") + of("accepted"), "{log}");
    assert_eq!(of("accepted"), of("replaced") + of("stored") + of("dropped"), "{log}");
}

#[test]
fn a_limit_on_updates_does_not_delay_the_stop() {
    let mut node = start("throttled", "max-updates-per-second = 10", "");
    let now = now_s();
    let lines: String = (0..5_000).map(|n| format!("m.{n} {n} {now}\n")).collect();
    send(&node, &lines);
    wait_for("the points", || node.own("accounting.received_tcp") == Some(5_000.0));
    let begun = Instant::now();
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(begun.elapsed() < Duration::from_secs(60), "at 10 a second it would take 500 s");
    assert_eq!(counter(&log, "received_tcp"), 5_000);
    check_accounts(&log);
    for n in [0, 1, 2_500, 4_999] {
        assert_eq!(stored(&node.directory, &format!("m.{n}")).len(), 1, "m.{n}");
    }
}

#[test]
fn a_full_cache_and_a_sender_that_goes_on_do_not_hold_up_the_stop() {
    let mut node = start("full", "max-updates-per-second = 10", "max-size = 1000");
    let address = node.line;
    let sender = std::thread::spawn(move || {
        let mut stream = TcpStream::connect(address).expect("connect");
        let now = now_s();
        for n in 0..10_000_000u64 {
            let line = format!("some.metric.{} {n} {}\n", n % 3_000, now - n / 3_000 % 600);
            if stream.write_all(line.as_bytes()).is_err() {
                return;
            }
        }
    });
    wait_for("a full cache", || node.own("accounting.stalls").is_some_and(|stalls| stalls > 0.0));
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    check_accounts(&log);
    sender.join().expect("the sender");
}

#[test]
fn one_bad_file_and_one_impossible_name_cost_only_themselves() {
    let mut node = start("bad-file", "hash-filenames = false", "");
    let tree = node.directory.join("whisper");
    std::os::unix::fs::symlink("gone.wsp", tree.join("dangling.wsp")).expect("make a link");
    let (now, long) = (now_s(), "x".repeat(300));
    let tagged = format!("m;a={long} 1 {now}\n");
    send(&node, &format!("{tagged}dangling 1 {now}\ngood;a=b 2 {now}\ngood 3 {now}\n"));
    wait_for("the good point", || stored(&node.directory, "good").len() == 1);
    assert!(node.is_alive());
    let (code, log) = node.stop();
    assert_eq!(code, Some(75), "a point is left unwritten: {log}");
    assert!(log.contains("metric=dangling"), "{log}");
    assert_eq!((counter(&log, "refused"), counter(&log, "dropped")), (1, 1), "{log}");
    check_accounts(&log);
}
