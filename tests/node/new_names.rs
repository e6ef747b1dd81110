//! A flood of new names, whose files may only be created slowly, beside metrics that have files.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::support::{NodeOptions, NodeProcess, stored, wait_for};
use carbyne::sys::clock::now_s;

/// Metrics that have files before the flood.
const KNOWN: u32 = 50;

/// New names: twice what the memory of the node below can hold.
const NEW: u32 = 500_000;

const WAL: &str = "max-size = \"512MiB\"\nsegment-size = \"8MiB\"";

/// At a hundred files a second the flood would wait for more than an hour.
const OPTIONS: NodeOptions<'_> = NodeOptions {
    shards: 1,
    whisper: "max-creates-per-second = 100\nflush-interval = \"100ms\"",
    cache: "memory-budget = \"64MiB\"",
    schemas: "[all]\npattern = .*\nretentions = 1s:1h\n",
};

fn known(number: u32) -> String {
    format!("known.metric{number}")
}

/// A point of each known metric.
fn send_known(node: &NodeProcess, timestamp_s: u32) {
    let line = |number| format!("{} {timestamp_s} {timestamp_s}\n", known(number));
    let lines: String = (0..KNOWN).map(line).collect();
    let mut stream = TcpStream::connect(node.line).expect("connect");
    stream.write_all(lines.as_bytes()).expect("send");
}

fn wait_until_stored(node: &NodeProcess, timestamp_s: u32) {
    let point = (timestamp_s, f64::from(timestamp_s));
    wait_for("known metrics to be written", || {
        (0..KNOWN).all(|number| stored(&node.directory, &known(number)).contains(&point))
    });
}

#[test]
fn metrics_with_files_are_received_and_written_beside_a_flood_of_new_names() {
    let mut node = NodeProcess::start_with("new-names", &OPTIONS, WAL);
    let first_s = now_s() - 1_000;
    send_known(&node, first_s);
    wait_until_stored(&node, first_s);

    let mut stream = TcpStream::connect(node.line).expect("connect");
    stream.set_write_timeout(Some(Duration::from_mins(1))).expect("set a timeout");
    let mut lines = Vec::new();
    for number in 0..NEW {
        writeln!(lines, "flood.of.new.names.metric{number} 1 {first_s}").expect("a Vec takes it");
    }
    stream.write_all(&lines).expect("the node takes the whole flood");
    send_known(&node, first_s + 1);
    wait_until_stored(&node, first_s + 1);
    wait_for("new names to be dropped", || {
        node.own("dropped.new_names").is_some_and(|count| count > f64::from(NEW) / 2.0)
    });
    let log = node.log();
    assert!(
        log.contains("new names") && log.contains("example=flood.of.new.names.metric"),
        "{log}"
    );
    // Those within the share wait for their files and can be read.
    assert_eq!(node.client().query("flood.of.new.names.metric30000"), [(first_s, 1.0)]);

    // The log brings the flood back, and it must not be in the way then either.
    node.kill();
    node.restart(&OPTIONS, WAL);
    send_known(&node, first_s + 2);
    wait_until_stored(&node, first_s + 2);
    let (code, log) = node.end("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(!log.contains("do not add up"), "{log}");
}
