//! `carbyne forget` on a running node, and whatever else comes to its admin socket.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Output};

use crate::support::{NodeOptions, NodeProcess, WAL, counter, wait_for};
use carbyne::sys::clock::now_s;

/// No point is written by itself, and so each one waits.
const OPTIONS: NodeOptions<'_> = NodeOptions {
    shards: 2,
    whisper: "flush-interval = \"1h\"",
    cache: "",
    schemas: "[all]\npattern = .*\nretentions = 1s:1h\n",
};

fn socket(node: &NodeProcess) -> PathBuf {
    node.directory.join("whisper.admin")
}

fn command(node: &NodeProcess, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carbyne"));
    command.arg("forget").arg("-c").arg(node.directory.join("node.toml")).args(args);
    command
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("UTF-8")
}

/// Runs `carbyne forget` and compares all that it gives.
fn check(node: &NodeProcess, args: &[&str], status: i32, out: &str, err: &str) {
    let output: Output = command(node, args).output().expect("run carbyne");
    assert_eq!(text(&output.stderr), err, "errors of {args:?}");
    assert_eq!(text(&output.stdout), out, "output of {args:?}");
    assert_eq!(output.status.code(), Some(status), "status of {args:?}");
}

/// Sends two points of each metric, and waits until the node has them.
fn send(node: &NodeProcess, prefix: &str, count: u32) {
    let first_s = now_s() - 100;
    let line = |n: u32| format!("{prefix}.m{} {n} {}\n", n / 2, first_s + n % 2);
    let lines: String = (0..2 * count).map(line).collect();
    let mut stream = TcpStream::connect(node.line).expect("connect");
    stream.write_all(lines.as_bytes()).expect("send");
    stream.shutdown(Shutdown::Write).expect("end");
    stream.read_to_end(&mut Vec::new()).expect("wait for the node");
    let mut client = node.client();
    wait_for("the points", || {
        (0..count).all(|n| client.query(&format!("{prefix}.m{n}")).len() >= 2)
    });
}

/// Sends bytes to the admin socket and returns the whole answer.
fn exchange(node: &NodeProcess, bytes: &[u8]) -> String {
    let mut stream = UnixStream::connect(socket(node)).expect("connect");
    // It may answer and close before it has read everything.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    text(&answer)
}

#[test]
fn waiting_points_are_forgotten_on_all_shards() {
    let mut node = NodeProcess::start("forget", &OPTIONS);
    let mode = std::fs::metadata(socket(&node)).expect("there is a socket").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    send(&node, "junk.of", 300);
    send(&node, "good", 20);
    let sum = "300 metrics (300 without a file) with 600 waiting points";
    check(&node, &["--dry-run", "junk.**"], 0, &format!("would forget {sum}\n"), "");
    check(&node, &["junk.**"], 0, &format!("forgot {sum}\n"), "");
    let nothing = "forgot 0 metrics (0 without a file) with 0 waiting points\n";
    check(&node, &["junk.**"], 0, nothing, "");
    assert!(node.client().query("junk.of.m7").is_empty());
    assert_eq!(node.client().query("good.m7").len(), 2);
    wait_for("the count", || node.own("dropped.forgotten") == Some(600.0));
    assert!(node.log().contains("forget done pattern=\"junk.**\""), "{}", node.log());

    // A successor answers at the same place, also after a crash.
    assert_eq!(node.take_over(), Some(0), "{}", node.log());
    let two = "forgot 2 metrics (2 without a file) with 4 waiting points\n";
    check(&node, &["good.m{1,2}"], 0, two, "");
    node.kill();
    let text = format!(
        "carbyne: connect to {}: Connection refused (os error 111); does a node run with this \
         configuration?\n",
        socket(&node).display()
    );
    check(&node, &["good.*"], 69, "", &text);
    node.restart(&OPTIONS, WAL);
    let some = "forgot 1 metrics (1 without a file) with 2 waiting points\n";
    check(&node, &["good.m10"], 0, some, "");
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("do not add up"), "{log}");
    assert!(counter(&log, "dropped") >= 2);
    assert!(!socket(&node).exists(), "the socket goes with the node");
    let written = |name: &str| !crate::support::stored(&node.directory, name).is_empty();
    assert!(written("good.m7") && !written("good.m10"));
}

#[test]
fn what_was_forgotten_does_not_come_back() {
    let mut node = NodeProcess::start("forget-restart", &OPTIONS);
    send(&node, "junk.of", 300);
    send(&node, "good", 5);
    check(
        &node,
        &["junk.**"],
        0,
        "forgot 300 metrics (300 without a file) with 600 waiting points\n",
        "",
    );
    let own = |name: &str| node.own(name).unwrap_or(0.0);
    wait_for("notes in the log", || own("wal.confirmations") >= 300.0);
    // What the node counts is logged behind them.
    let received = own("wal.received_points");
    wait_for("the log on its disk", || own("wal.synced_points") > received);
    node.kill();
    node.restart(&OPTIONS, WAL);
    assert!(node.client().query("junk.of.m7").is_empty());
    assert_eq!(node.client().query("good.m1").len(), 2);
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn patterns_that_are_a_slip_are_refused() {
    let node = NodeProcess::start("forget-slip", &OPTIONS);
    send(&node, "good", 5);
    for pattern in ["**", "*.*", "{*,a}.**"] {
        let err = format!(
            "carbyne: pattern `{pattern}` matches every name of some length; with --all it is \
             taken\n"
        );
        check(&node, &[pattern], 75, "", &err);
    }
    let long = "{a,b}".repeat(13);
    let err =
        format!("carbyne: pattern `{long}`: braces of more than 4096 alternatives at byte 64\n");
    check(&node, &[&long], 75, "", &err);
    assert_eq!(node.client().query("good.m1").len(), 2);
    let out = "forgot 5 metrics (5 without a file) with 10 waiting points\n";
    check(&node, &["--all", "good.**"], 0, out, "");
    send(&node, "good", 3);
    let output = command(&node, &["--all", "**"]).output().expect("run carbyne");
    assert!(output.status.success() && text(&output.stdout).starts_with("forgot "));
    assert!(node.client().query("good.m1").is_empty());
}

#[test]
fn garbage_and_clients_that_go_away_stop_nobody() {
    let node = NodeProcess::start("forget-garbage", &OPTIONS);
    send(&node, "good", 5);
    let unknown = |word| format!("error unknown command `{word}`; this node knows: forget\n");
    assert_eq!(exchange(&node, b"GET / HTTP/1.1\r\n\r\n"), unknown("GET"));
    assert_eq!(exchange(&node, b"\n"), unknown(""));
    assert_eq!(exchange(&node, b"\xff\xfe\n"), "error the request is not UTF-8\n");
    let option = "error unknown option `hard`; forget has: dry-run, all\n";
    assert_eq!(exchange(&node, b"forget hard -- a\n"), option);
    // Whoever sends too much is told, if it still listens.
    let answer = exchange(&node, &vec![b'x'; 1 << 20]);
    assert!(answer.is_empty() || answer.starts_with("error a request has less than"), "{answer}");
    // These go away before their request is whole, and before its answer comes.
    drop(UnixStream::connect(socket(&node)).expect("connect"));
    for half in [&b"forget -- go"[..], b"forget dry-run -- good.*\n"] {
        let mut stream = UnixStream::connect(socket(&node)).expect("connect");
        stream.write_all(half).expect("send");
    }
    // This one says nothing, and holds up the next ones for some seconds.
    let silent = UnixStream::connect(socket(&node)).expect("connect");
    let clients: Vec<_> =
        (0..2).map(|_| command(&node, &["--dry-run", "good.*"]).output()).collect();
    for output in clients {
        let output = output.expect("run carbyne");
        let out = "would forget 5 metrics (5 without a file) with 10 waiting points\n";
        assert_eq!((text(&output.stdout), text(&output.stderr)), (out.to_owned(), String::new()));
    }
    drop(silent);
}

#[test]
fn two_clients_at_once_are_both_served_while_points_are_received() {
    let mut node = NodeProcess::start("forget-both", &OPTIONS);
    let spawn = |node: &NodeProcess, pattern: &str| {
        let mut command = command(node, &[pattern]);
        command.stdout(std::process::Stdio::piped()).spawn().expect("run carbyne")
    };
    let mut forgotten = 0;
    for _ in 0..5 {
        send(&node, "a", 500);
        send(&node, "b", 500);
        let both = [spawn(&node, "a.*"), spawn(&node, "{a,b}.*")];
        send(&node, "c", 200);
        for client in both {
            let output = client.wait_with_output().expect("run carbyne");
            assert!(output.status.success());
            let out = text(&output.stdout);
            let words: Vec<&str> = out.split_whitespace().collect();
            forgotten += words[1].parse::<u32>().expect("a number of metrics");
        }
        let mut client = node.client();
        assert!(client.query("a.m1").is_empty() && client.query("b.m1").is_empty());
        assert!(client.query("c.m1").len() >= 2);
    }
    assert_eq!(forgotten, 5_000, "each is forgotten once");
    let (code, log) = node.end("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(counter(&log, "dropped"), 10_000);
    assert!(!log.contains("do not add up"), "{log}");
}
