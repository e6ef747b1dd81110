//! The ways down: a drain writes everything, whatever the limits and however full the cache; a stop
//! leaves it to the log, and the next start has it again.

use std::io::Write;
use std::net::TcpStream;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use crate::support::{NodeOptions, NodeProcess, WAL, counter, stored, tell_time, wait_for};

const SCHEMAS: &str = "[all]\npattern = .*\nretentions = 1s:1h\n";

fn now_s() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.expect("after 1970").as_secs()
}

fn options<'a>(whisper: &'a str, cache: &'a str) -> NodeOptions<'a> {
    NodeOptions { shards: 2, whisper, cache, schemas: SCHEMAS }
}

fn start(name: &str, whisper: &str, cache: &str) -> NodeProcess {
    NodeProcess::start(name, &options(whisper, cache))
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
    let placed = of("replaced") + of("stored") + of("dropped") + of("logged");
    assert_eq!(of("accepted") + of("recovered"), placed, "{log}");
}

#[test]
fn a_limit_on_updates_does_not_delay_a_drain() {
    let mut node = start("throttled", "max-updates-per-second = 1", "");
    let now = now_s();
    let lines: String = (0..1_000).map(|n| format!("m.{n} {n} {now}\n")).collect();
    send(&node, &lines);
    wait_for("the points", || node.own("accounting.received_tcp") == Some(1_000.0));
    let begun = Instant::now();
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    // At one a second it would take 1,000 s.
    assert!(begun.elapsed() < Duration::from_secs(500), "the limit holds: {:?}", begun.elapsed());
    tell_time("the drain", begun);
    assert_eq!((counter(&log, "received_tcp"), counter(&log, "logged")), (1_000, 0));
    check_accounts(&log);
    for n in [0, 1, 500, 999] {
        assert_eq!(stored(&node.directory, &format!("m.{n}")).len(), 1, "m.{n}");
    }
    node.restart(&options("", ""), WAL);
    let (_, log) = node.end("-TERM");
    assert_eq!(counter(&log, "recovered"), 0, "a drained node leaves nothing to replay: {log}");
}

#[test]
fn what_was_sent_before_the_stop_is_taken() {
    const COUNT: u64 = 400_000;
    for signal in ["-TERM", "-USR1"] {
        let mut node = start("sent", "flush-interval = \"1h\"", "");
        let now = now_s() - COUNT / 1_000;
        let lines: String = (0..COUNT)
            .map(|n| format!("some.metric.{} {n} {}\n", n % 1_000, now + n / 1_000))
            .collect();
        send(&node, &lines);
        let (code, log) = node.end(signal);
        assert_eq!(code, Some(0), "{log}");
        assert_eq!(counter(&log, "received_tcp"), COUNT, "{signal}");
        check_accounts(&log);
    }
}

#[test]
fn a_node_comes_back_at_once_to_its_ports() {
    let mut node = start("back", "flush-interval = \"1h\"", "");
    for signal in ["-KILL", "-TERM", "-KILL", "-KILL", "-TERM", "-KILL"] {
        let address = node.line;
        send(&node, &format!("m.{} 1 {}\n", signal.len(), now_s()));
        node.come_back(signal);
        assert_eq!(node.line, address);
    }
}

#[test]
fn drains_do_not_end_each_other() {
    let mut node = start("twice", "max-updates-per-second = 10", "");
    let now = now_s();
    let lines: String = (0..4_000).map(|n| format!("m.{n} {n} {now}\n")).collect();
    send(&node, &lines);
    wait_for("the points", || node.own("accounting.received_tcp") == Some(4_000.0));
    let drain = || {
        let config = node.directory.join("node.toml");
        let mut command = Command::new(env!("CARGO_BIN_EXE_carbyne"));
        command.args(["drain", "-c"]).arg(config).spawn().expect("start drain")
    };
    let mut drains = [drain(), drain(), drain()];
    for drain in &mut drains {
        assert_eq!(drain.wait().expect("wait for drain").code(), Some(0));
    }
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(counter(&log, "logged"), 0, "{log}");
    check_accounts(&log);
}

#[test]
fn the_points_of_the_node_itself_are_committed_though_nobody_sends() {
    let one_shard = NodeOptions { shards: 1, ..options("flush-interval = \"1h\"", "") };
    let node = NodeProcess::start("quiet", &one_shard);
    for _ in 0..3 {
        wait_for("a report", || node.own("wal.received_points").is_some());
        let received = node.own("wal.received_points").unwrap_or(0.0);
        let is_more = |count: f64| count > received;
        wait_for("another one", || node.own("wal.received_points").is_some_and(is_more));
        wait_for("its commit", || node.own("wal.synced_points").is_some_and(is_more));
    }
}

#[test]
fn a_start_with_another_log_directory_does_not_forget_what_is_in_the_former() {
    let mut node = start("moved", "flush-interval = \"1h\"", "");
    let now = now_s();
    send(&node, &format!("m.a 7 {now}\n"));
    wait_for("the point", || node.own("accounting.received_tcp") == Some(1.0));
    assert_eq!(node.end("-TERM").0, Some(0));
    let moved = node.directory.join("elsewhere");
    let wal = format!("{WAL}\ndirectory = \"{}\"", moved.display());
    for wal in [wal.clone(), format!("{wal}\nsync-mode = \"off\"")] {
        let from = node.log().len();
        node.launch(&options("", ""), &wal);
        wait_for("the refusal", || !node.is_alive());
        let (code, log) = node.wait();
        assert_eq!(code, Some(71), "{log}");
        let former = node.wal().display().to_string();
        assert!(log[from..].contains(&former), "{}", &log[from..]);
        assert!(log[from..].contains("carbyne drain"), "{}", &log[from..]);
    }
    // Moved as a whole it is found there, and from then on no longer looked for where it was.
    let _ = std::fs::remove_dir_all(&moved);
    std::fs::rename(node.wal(), &moved).expect("move the log");
    node.restart(&options("flush-interval = \"1h\"", ""), &wal);
    assert_eq!(node.end("-TERM").0, Some(0));
    node.launch(&options("", ""), WAL);
    wait_for("the refusal", || !node.is_alive());
    assert_eq!(node.wait().0, Some(71));
    // After a drain it may be anywhere.
    node.restart(&options("", ""), &wal);
    assert_eq!(node.stop().0, Some(0));
    let second = u32::try_from(now).expect("before 2106");
    assert_eq!(stored(&node.directory, "m.a"), [(second, 7.0)]);
    node.restart(&options("", ""), WAL);
    assert_eq!(node.stop().0, Some(0));
}

#[test]
fn a_start_with_the_log_off_does_not_forget_what_is_in_the_log() {
    let mut node = start("off", "flush-interval = \"1h\"", "");
    let now = now_s();
    let lines: String = (0..100).map(|n| format!("m.{n} {n} {now}\n")).collect();
    send(&node, &lines);
    wait_for("the points", || node.own("accounting.received_tcp") == Some(100.0));
    let (code, log) = node.end("-TERM");
    assert_eq!(code, Some(0), "{log}");
    assert!(counter(&log, "logged") >= 100, "{log}");
    let off = format!("{WAL}\nsync-mode = \"off\"");
    let off_too = "enabled = false\nflush-interval = \"1h\"";
    for (whisper, wal) in [("flush-interval = \"1h\"", off.as_str()), (off_too, WAL)] {
        let from = node.log().len();
        node.launch(&options(whisper, ""), wal);
        wait_for("the refusal", || !node.is_alive());
        let (code, log) = node.wait();
        assert_eq!(code, Some(71), "{log}");
        assert!(log[from..].contains("the log is off now"), "{}", &log[from..]);
    }
    node.restart(&options("", ""), WAL);
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    let second = u32::try_from(now).expect("before 2106");
    for n in [0, 1, 50, 99] {
        assert_eq!(stored(&node.directory, &format!("m.{n}")), [(second, f64::from(n))]);
    }
    // A drained node's log may be turned off.
    node.restart(&options("", ""), &off);
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn a_full_cache_and_a_sender_that_goes_on_do_not_hold_up_the_stop() {
    for signal in ["-USR1", "-TERM", "-INT", "-USR2"] {
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
        wait_for("a full cache", || {
            node.own("accounting.stalls").is_some_and(|stalls| stalls > 0.0)
        });
        let begun = Instant::now();
        let (code, log) = node.end(signal);
        tell_time(signal, begun);
        assert_eq!(code, Some(0), "{log}");
        let is_drain = signal == "-USR1";
        assert_eq!(counter(&log, "logged") == 0, is_drain, "{log}");
        check_accounts(&log);
        sender.join().expect("the sender");
    }
}

#[test]
fn after_a_stop_with_a_million_points_the_next_start_has_them() {
    let wal = "max-size = \"256MiB\"\nsegment-size = \"4MiB\"";
    // Nothing is written by itself.
    let slow = options("flush-interval = \"1h\"", "");
    let mut node = NodeProcess::start_with("million", &slow, wal);
    let (metrics, seconds) = (2_000, 500);
    let now = now_s();
    for second in 0..seconds {
        let lines: String =
            (0..metrics).map(|n| format!("m.{n} {} {}\n", n + second, now - second)).collect();
        send(&node, &lines);
    }
    wait_for("the points", || node.own("accounting.received_tcp") == Some(1e6));
    let begun = Instant::now();
    let (code, log) = node.end("-TERM");
    assert_eq!(code, Some(0), "{log}");
    tell_time("the stop", begun);
    assert!(counter(&log, "logged") >= 1_000_000, "{log}");
    check_accounts(&log);
    assert!(stored(&node.directory, "m.7").is_empty());

    // Another number of shards: the owners are others.
    node.restart(&NodeOptions { shards: 3, ..slow }, wal);
    let mut client = node.client();
    for n in (0..metrics).step_by(37) {
        let points = client.query(&format!("m.{n}"));
        let value = |time: u32| f64::from(u32::try_from(n + now - u64::from(time)).expect("small"));
        assert_eq!(points.len(), usize::try_from(seconds).expect("small"), "m.{n}");
        assert!(points.iter().all(|&(time, found)| found == value(time)), "m.{n}: {points:?}");
    }
    let (code, log) = node.stop();
    assert_eq!(code, Some(0), "{log}");
    assert!(counter(&log, "recovered") >= 1_000_000, "{log}");
    check_accounts(&log);
    assert_eq!(stored(&node.directory, "m.7").len(), 500);
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
    assert_eq!((counter(&log, "refused"), counter(&log, "logged")), (1, 1), "{log}");
    check_accounts(&log);
    // The log has kept it for better times.
    std::fs::remove_file(tree.join("dangling.wsp")).expect("delete the link");
    node.restart(&options("hash-filenames = false", ""), WAL);
    wait_for("the bad point", || stored(&node.directory, "dangling").len() == 1);
    assert_eq!(node.end("-TERM").0, Some(0));
}

#[test]
fn the_command_drains_a_running_node_and_says_so() {
    let mut node = start("drain", "flush-interval = \"1h\"", "");
    let now = now_s();
    let lines: String = (0..500).map(|n| format!("m.{n} {n} {now}\n")).collect();
    send(&node, &lines);
    wait_for("the points", || node.own("accounting.received_tcp") == Some(500.0));
    let drain = || {
        let config = node.directory.join("node.toml");
        let command = env!("CARGO_BIN_EXE_carbyne");
        let ran = Command::new(command).args(["drain", "-c"]).arg(config).output();
        ran.expect("run the command")
    };
    let ran = drain();
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert_eq!(ran.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    assert!(said.contains("drained"), "{said}");
    assert_eq!(stored(&node.directory, "m.499").len(), 1);
    let again = drain();
    assert_eq!(again.status.code(), Some(69), "no node runs any more");
    assert!(String::from_utf8_lossy(&again.stderr).contains("no node"), "{again:?}");
    let (code, log) = node.wait();
    assert_eq!(code, Some(0), "{log}");
}

#[test]
fn without_a_log_a_stop_writes_everything() {
    let mut node = NodeProcess::start_with("logless", &options("", ""), "sync-mode = \"off\"");
    let now = now_s();
    send(&node, &(0..500).map(|n| format!("m.{n} {n} {now}\n")).collect::<String>());
    wait_for("the points", || node.own("accounting.received_tcp") == Some(500.0));
    let (code, log) = node.end("-TERM");
    assert_eq!((code, counter(&log, "logged")), (Some(0), 0), "{log}");
    check_accounts(&log);
    assert_eq!(stored(&node.directory, "m.499").len(), 1);
    assert!(!node.wal().exists());
}
