//! `carbyne query` on the real binary, against a running node and against strangers on its port.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Output};
use std::time::{Duration, Instant, SystemTime};

use crate::support::{NodeOptions, NodeProcess, closed_port, wait_for};

/// A node that keeps its points in the cache.
fn start(name: &str) -> NodeProcess {
    let whisper = "enabled = false";
    let schemas = "[all]\npattern = .*\nretentions = 1s:1h\n";
    NodeProcess::start(name, &NodeOptions { shards: 2, whisper, cache: "", schemas })
}

fn query(carbonlink: SocketAddr, args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carbyne"))
        .args(["query", "--carbonlink", &carbonlink.to_string()])
        .args(args)
        .output()
        .expect("run carbyne")
}

#[track_caller]
fn check(output: &Output, status: i32, out: &str, err: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stdout), out);
    assert_eq!(String::from_utf8_lossy(&output.stderr), err);
    assert_eq!(output.status.code(), Some(status));
}

fn now_s() -> u64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.expect("after 1970").as_secs()
}

#[test]
fn what_is_printed_can_be_sent_again() {
    let node = start("query-round-trip");
    let now_s = now_s();
    let lines = format!(
        "a.b 1.5 {now_s}\na.b -0.1 {}\na.b 1e300 {}\nm;b=2;a=1 7 {now_s}\n",
        now_s - 2,
        now_s - 1
    );
    let send = |lines: &[u8]| {
        let mut stream = TcpStream::connect(node.line).expect("connect");
        stream.write_all(lines).expect("send");
    };
    send(lines.as_bytes());
    wait_for("the points", || {
        node.client().query("m;a=1;b=2").len() == 1 && node.client().query("a.b").len() == 3
    });
    // By time, names in the order and spelling of the command, a hint for what is unknown.
    let huge = format!("1{}", "0".repeat(300));
    let want = format!(
        "m;b=2;a=1 7 {now_s}\na.b -0.1 {}\na.b {huge} {}\na.b 1.5 {now_s}\n",
        now_s - 2,
        now_s - 1
    );
    let output = query(node.carbonlink, &["m;b=2;a=1", "none", "a.b"]);
    let hint = "carbyne: none: no cached points; others are in its file\n";
    check(&output, 0, &want, hint);
    check(&query(node.carbonlink, &["none", "--timeout", "60"]), 0, "", hint);

    let renamed = want.replace("a.b", "again.b");
    send(renamed.as_bytes());
    wait_for("the points sent again", || node.client().query("again.b").len() == 3);
    let before = node.client().query("a.b");
    assert_eq!(node.client().query("again.b"), before);
    let bits = before.iter().map(|&(_, value)| value.to_bits());
    assert!(bits.eq([-0.1_f64, 1e300, 1.5].map(f64::to_bits)));
}

/// The two commands of the start-up message, as somebody would paste them.
#[test]
fn announced_commands_work() {
    let node = start("query-announced");
    let sent = Command::new("sh").args(["-c", &node.send_command]).status().expect("run sh");
    assert!(sent.success(), "{}", node.send_command);
    wait_for("the line", || !node.client().query("test.me").is_empty());
    let mut words = node.read_command.split(' ');
    assert_eq!(words.next(), Some("carbyne"));
    let output = Command::new(env!("CARGO_BIN_EXE_carbyne")).args(words).output();
    let output = output.expect("run carbyne");
    let (out, err) = (&output.stdout, &output.stderr);
    assert_eq!(String::from_utf8_lossy(err), "");
    let out = String::from_utf8_lossy(out);
    let timestamp_s = out.strip_prefix("test.me 42 ").and_then(|rest| rest.strip_suffix('\n'));
    let timestamp_s: u64 = timestamp_s.and_then(|text| text.parse().ok()).expect("one point");
    assert!(now_s() - timestamp_s < 120, "{out}");
}

#[test]
fn a_closed_port_is_unavailable() {
    let (_socket, address) = closed_port();
    let err = format!(
        "carbyne: {address}: connect: Connection refused (os error 111); does a node run there?\n"
    );
    check(&query(address, &["a"]), 69, "", &err);
}

/// Another port of the node understands nothing and says nothing.
#[test]
fn a_silent_port_ends_with_the_timeout() {
    let node = start("query-silent");
    let begun = Instant::now();
    let output = query(node.line, &["--timeout", "0.3", "a"]);
    let err =
        format!("carbyne: {}: no answer within 0.3 s; is this the carbonlink port?\n", node.line);
    check(&output, 69, "", &err);
    assert!(begun.elapsed() >= Duration::from_millis(300));
}

/// Runs a query against a server that reads a question and answers with these bytes.
fn against(answer: &[u8], args: &[&str]) -> (SocketAddr, Output) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let address = listener.local_addr().expect("an address");
    let answer = answer.to_vec();
    let server = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().expect("accept");
        let mut asked = [0; 1_024];
        assert!(stream.read(&mut asked).expect("read the question") > 0);
        // The client leaves early where the answer makes no sense.
        let _ = stream.write_all(&answer);
    });
    let output = query(address, args);
    server.join().expect("the server");
    (address, output)
}

#[test]
fn nonsense_is_a_protocol_error() {
    let port = "is this the carbonlink port?";
    let too_long = format!("answers with 1213486160 bytes, more than 67108864; {port}");
    let closed = format!("closed the connection without an answer; {port}");
    let no_dict = format!("reply is not a dict; {port}");
    let code = format!("decode reply: opcode is not data: opcode GLOBAL (0x63) at byte 0; {port}");
    for (answer, problem) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], &too_long),
        (b"", &closed),
        (b"\0\0", &closed),
        (b"\0\0\0\x20}", &closed),
        // Nothing is reserved for what a header promises.
        (b"\x04\0\0\0}", &closed),
        (b"\0\0\0\x02].", &no_dict),
        (b"\0\0\0\x0ccos\nsystem\n.", &code),
    ] {
        let (address, output) = against(answer, &["a", "b"]);
        check(&output, 76, "", &format!("carbyne: {address}: {problem}\n"));
    }
}

/// The server's words are shown without what would drive the terminal, and the next name is
/// asked for.
#[test]
fn errors_of_the_server_are_shown() {
    let refusal = b"\0\0\0\x18}U\x05errorU\x0cno\nsuch\x1b[31ms.";
    let points = b"\0\0\0\x17}U\x0adatapoints](K\x01K\x02\x86es.";
    let (_, output) = against(&[&refusal[..], points].concat(), &["a", "b"]);
    check(&output, 76, "b 2 1\n", "carbyne: a: the cache says: no\nsuch[31m\n");
}
