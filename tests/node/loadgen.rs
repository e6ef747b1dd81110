//! `carbyne loadgen` against a real node, and what it refuses.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use crate::support::{NodeOptions, NodeProcess, closed_port, stored, tell_time};

/// Steps of a second, long enough for every point of a test.
const SCHEMAS: &str = "[all]\npattern = .*\nretentions = 1s:1h\n";

fn loadgen(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carbyne"))
        .arg("loadgen")
        .args(args)
        .output()
        .expect("run carbyne")
}

/// Runs it and gives its exit status, output and errors.
fn outcome(args: &[&str]) -> (Option<i32>, String, String) {
    let output = loadgen(args);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn start(name: &str, whisper: &str) -> NodeProcess {
    let options = NodeOptions { shards: 2, whisper, cache: "", schemas: SCHEMAS };
    NodeProcess::start(name, &options)
}

/// Arguments for looking up what was sent.
fn verify_args(node: &NodeProcess) -> Vec<String> {
    let data = node.directory.join("whisper").display().to_string();
    vec!["--carbonlink".into(), node.carbonlink.to_string(), "--data-dir".into(), data]
}

fn run(args: &[&str], more: &[String]) -> (Option<i32>, String, String) {
    let all: Vec<&str> = args.iter().copied().chain(more.iter().map(String::as_str)).collect();
    outcome(&all)
}

/// A count in the summary as JSON.
fn number(json: &str, path: &[&str]) -> u64 {
    let value: serde_json::Value = serde_json::from_str(json).expect("one JSON object");
    let found = path.iter().fold(&value, |value, key| &value[key]);
    found.as_u64().unwrap_or_else(|| panic!("no number {path:?} in {json}"))
}

#[test]
fn every_protocol_is_found_again() {
    let node = start("loadgen-protocols", "");
    for (protocol, target, more) in [
        ("line", node.line, &["--leaves", "7"][..]),
        ("pickle", node.pickle, &["--churn", "0.1"]),
        // Slowly: what the kernel drops would be missing.
        ("udp", node.udp, &["--rate", "20000"]),
        ("line", node.line, &["-flush-interval", "200ms", "--reconnect"]),
    ] {
        let target = target.to_string();
        let prefix = format!("{protocol}{}", more.len());
        let args = ["--protocol", protocol, "-carbon", &target, "-prefix", &prefix, "--verify"];
        let sizes = ["--agents", "3", "--metrics", "301", "--rounds", "4", "--json"];
        let (status, out, err) = run(&[&args[..], &sizes, more].concat(), &verify_args(&node));
        assert_eq!((status, err.as_str()), (Some(0), ""), "{protocol} {more:?}: {out}");
        assert_eq!(number(&out, &["points"]), 3 * 301 * 4);
        assert_eq!(number(&out, &["verified", "missing"]), 0);
        assert!(number(&out, &["verified", "points"]) >= 3 * 301, "{out}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_found() {
    let now_s = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let start_s = (now_s.expect("after 1970").as_secs() - 600).to_string();
    for (name, whisper) in [
        ("loadgen-missing-cache", "flush-interval = \"1h\""),
        ("loadgen-missing-file", "flush-interval = \"50ms\""),
    ] {
        let node = start(name, whisper);
        let line = node.line.to_string();
        let base = ["--carbon", &line, "--agents", "2", "--metrics", "50", "--start", &start_s];
        let with = |more: &[&str]| run(&[&base[..], more].concat(), &verify_args(&node));
        let (status, out, err) = with(&["--rounds", "2", "--verify"]);
        assert_eq!(status, Some(0), "{out}{err}");
        if whisper.contains("50ms") {
            crate::support::wait_for("the files", || {
                stored(&node.directory, "carbyne.loadgen.agent.1.metrics.49").len() == 2
            });
        }
        let look = ["--verify-only", "--verify-timeout", "0", "--json", "--rounds"];
        let (status, out, _) = with(&[&look[..], &["2"]].concat());
        assert_eq!((status, number(&out, &["verified", "missing"])), (Some(0), 0), "{out}");
        // The third round was never sent.
        let (status, out, err) = with(&[&look[..], &["3"]].concat());
        assert_eq!(status, Some(1), "{out}");
        assert_eq!(number(&out, &["verified", "points"]), 300);
        assert_eq!(number(&out, &["verified", "missing"]), 100, "{out}");
        assert_eq!(number(&out, &["verified", "wrong"]), 0, "{out}");
        assert!(err.contains("carbyne.loadgen.agent.0.metrics.0 at ") && err.contains("missing"));
        // With timestamps that begin anew, the second round has the first one's timestamp.
        let (status, out, _) = with(&[&look[..], &["2", "--window", "1"]].concat());
        assert_eq!(status, Some(1), "{out}");
        assert_eq!(number(&out, &["verified", "wrong"]), 100, "{out}");
    }
}

#[test]
fn it_keeps_to_its_rate_and_duration_and_tells_what_it_sent() {
    let node = start("loadgen-stops", "flush-interval = \"100ms\"");
    let line = node.line.to_string();
    let begun = Instant::now();
    let args = ["--carbon", &line, "--metrics", "500", "--rate", "50000", "--duration", "1"];
    let (status, out, err) =
        run(&[&args[..], &["--json", "--verify"]].concat(), &verify_args(&node));
    assert_eq!(status, Some(0), "{out}{err}");
    let points = number(&out, &["points"]);
    // A busy machine sends less than asked for, and none sends more: as much as is due by the time
    // that all this took, and a batch of a hundredth of a second.
    let took = begun.elapsed();
    let most = 50_000.0 * (took.as_secs_f64() + 0.01);
    assert!(points > 0 && points as f64 <= most, "{points} points in {took:?}");
    assert!(took >= Duration::from_secs(1));
    tell_time("a second of sending", begun);

    // A receiver that takes nothing does not keep it from stopping.
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    let mut child = Command::new(env!("CARGO_BIN_EXE_carbyne"))
        .args(["loadgen", "--carbon", &address, "--agents", "2"])
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("start the sender");
    let _connections = [listener.accept().expect("accept"), listener.accept().expect("accept")];
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("run kill").success());
    let out = BufReader::new(child.stdout.take().expect("standard output is piped"));
    let first = out.lines().next().expect("a summary").expect("text");
    assert!(first.starts_with("sent ") && first.contains("over 2 connections"), "{first}");
    assert_eq!(child.wait().expect("wait").code(), Some(0));
}

#[test]
fn a_node_that_hangs_up_is_told() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("bound").to_string();
    let hang_up = std::thread::spawn(move || drop(listener.accept().expect("accept")));
    let (status, _, err) = outcome(&["--carbon", &address, "--agents", "1"]);
    hang_up.join().expect("no panic");
    assert_eq!(status, Some(69));
    assert!(err.contains(&format!("agent 0: {address}: send: ")), "{err}");
    // The port is closed.
    let (_socket, address) = closed_port();
    let (status, _, err) = outcome(&["--carbon", &address.to_string(), "--agents", "1"]);
    assert_eq!(status, Some(69));
    assert!(err.contains("connect: "), "{err}");
}

#[test]
fn only_this_machine_is_flooded_without_leave() {
    let check = |args: &[&str], problem: &str| {
        let (status, out, err) = outcome(args);
        let want = format!("carbyne: loadgen: {problem}\n");
        assert_eq!((status, out.as_str(), err.as_str()), (Some(64), "", want.as_str()), "{args:?}");
    };
    let far = |address: &str| {
        format!("{address} is not this machine; --yes-remote if its owner agreed to be flooded")
    };
    check(&["--carbon", "192.0.2.1:2003"], &far("192.0.2.1:2003"));
    check(&["-carbon=192.0.2.1:2003", "--protocol", "udp"], &far("192.0.2.1:2003"));
    let remote = ["--verify", "--data-dir", ".", "--carbonlink", "192.0.2.1:7002"];
    check(&remote, &far("192.0.2.1:7002"));
    // With leave it goes on: datagrams to an address of documentation reach nobody.
    let socket = UdpSocket::bind("127.0.0.1:0").expect("bind");
    let address = socket.local_addr().expect("bound").to_string();
    let args = ["--yes-remote", "--protocol", "udp", "--rounds", "1", "--metrics", "1", "--carbon"];
    let (status, _, err) = outcome(&[&args[..], &[address.as_str()]].concat());
    assert_eq!(status, Some(0), "{err}");
}

#[test]
fn bad_arguments_and_help() {
    let (status, _, err) = outcome(&["--nonsense"]);
    assert_eq!(status, Some(64));
    assert!(err.contains("unknown option `--nonsense`") && err.contains("loadgen --help"), "{err}");
    for args in [&["--help"][..], &["-h"]] {
        let (status, out, _) = outcome(args);
        assert_eq!(status, Some(0));
        assert!(out.starts_with("Usage: carbyne loadgen"), "{out}");
        assert!(out.lines().all(|line| line.len() <= 100), "{out}");
    }
    let nowhere = Path::new("/nonexistent");
    let args = ["--verify", "--data-dir", nowhere.to_str().expect("ASCII"), "--rounds", "1"];
    let (status, _, err) = outcome(&[&args[..], &["--carbon", "127.0.0.1:1"]].concat());
    assert_eq!(status, Some(69));
    assert!(!err.is_empty());
}
