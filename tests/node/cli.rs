//! The program's commands, flags and exit statuses, on the real binary.

use std::path::PathBuf;
use std::process::{Command, Output};

const REFERENCE: &str = include_str!("../../tuning/carbyne.toml");

/// Runs the program in the folder of the test data.
fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_carbyne"))
        .args(args)
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/conf"))
        .output()
        .expect("run carbyne")
}

/// Runs the program and compares everything that it gives.
fn check(args: &[&str], status: i32, out: &str, err: &str) {
    let output = run(args);
    assert_eq!(String::from_utf8_lossy(&output.stdout), out, "output of {args:?}");
    assert_eq!(String::from_utf8_lossy(&output.stderr), err, "errors of {args:?}");
    assert_eq!(output.status.code(), Some(status), "status of {args:?}");
}

/// A configuration whose rules exist, in a folder of its own.
fn complete_config(test: &str, more: &str) -> PathBuf {
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(test);
    std::fs::create_dir_all(&folder).expect("create the folder");
    let schemas = folder.join("schemas.conf");
    std::fs::write(&schemas, carbyne::config::EMBEDDED_SCHEMAS).expect("write the rules");
    let text = format!("[whisper]\nschemas-file = {schemas:?}\n{more}");
    let path = folder.join("carbyne.toml");
    std::fs::write(&path, text).expect("write the configuration");
    path
}

#[test]
fn version_in_every_spelling() {
    for arg in ["--version", "-V", "-version", "version", "-version=true"] {
        check(&[arg], 0, "carbyne 0.1.0\n", "");
    }
}

#[test]
fn reference_in_every_spelling() {
    check(&["config", "default"], 0, REFERENCE, "");
    for arg in ["-config-print-default", "--config-print-default"] {
        check(&[arg], 0, REFERENCE, "");
        check(&["-config", "wrong.toml", arg], 0, REFERENCE, "");
    }
}

#[test]
fn check_accepts() {
    let path = complete_config("check_accepts", "workers = 8\n");
    let path = path.to_str().expect("a path of this test is UTF-8");
    let out = format!("{path}:3: [whisper] workers: no effect: each shard has one writer\nok\n");
    for args in [
        &["check", "-c", path][..],
        &["check", "--config", path],
        &["-c", path, "check"],
        &["-check-config", "-config", path],
        &["--config", path, "--check-config"],
        &["serve", "-check-config=1", &format!("-config={path}")],
    ] {
        check(args, 0, &out, "");
    }
}

#[test]
fn check_refuses() {
    let err = "\
wrong.toml:3: [common] max-cpuu: unknown key; did you mean `max-cpu`?
wrong.toml:6: [whisper] data-dir: expected a path in quotes, found 5
wrong.toml:7: [whisper] compressed: not supported: compressed files can be read by go-carbon \
alone; this node writes plain Whisper
wrong.toml:10: [tcp] listen: expected an address with a port from 0 to 65535, such as \":2003\" \
or \"127.0.0.1:2003\", found \":70000\"
wrong.toml:12: [chache]: unknown section; did you mean `[cache]`?
";
    check(&["check", "-c", "wrong.toml"], 78, "", err);
    check(&["-config", "wrong.toml", "-check-config"], 78, "", err);
    check(&["config", "show", "-c", "wrong.toml"], 78, "", err);
    check(&["serve", "-c", "wrong.toml"], 78, "", err);
    let none = "none.toml: read the configuration: No such file or directory (os error 2)\n";
    check(&["check", "-c", "none.toml"], 78, "", none);
}

#[test]
fn check_reads_the_rules() {
    let path = complete_config("check_reads_the_rules", "aggregation-file = \"/none/agg.conf\"\n");
    let output = run(&["check", "-c", path.to_str().expect("a path of this test is UTF-8")]);
    let err = String::from_utf8_lossy(&output.stderr);
    assert!(err.starts_with("/none/agg.conf: "), "{err}");
    assert_eq!(output.status.code(), Some(78));
}

#[test]
fn show_tells_values_and_origins() {
    let path =
        complete_config("show", "flock = true\nworkers = 8\n[common]\nmetric-interval = \"90s\"\n");
    let output =
        run(&["config", "show", "-c", path.to_str().expect("a path of this test is UTF-8")]);
    let out = String::from_utf8_lossy(&output.stdout);
    for line in [
        "common.metric-interval = \"1m30s\"   # line 6",
        "whisper.flock = true   # line 3",
        "whisper.workers = 8   # line 4, no effect",
        "cache.max-size = 0   # default",
        "cache.memory-budget = \"auto\"   # default",
    ] {
        assert!(out.lines().any(|shown| shown == line), "{line}\n{out}");
    }
    let output = run(&["config", "show"]);
    let out = String::from_utf8_lossy(&output.stdout);
    let line = "tcp.listen = \"127.0.0.1:2003\"   # embedded";
    assert!(out.lines().any(|shown| shown == line), "{out}");
}

#[test]
fn help_is_short() {
    for args in [
        &["-h"][..],
        &["--help"],
        &["help"],
        &["serve", "-h"],
        &["check", "--help"],
        &["config", "-h"],
        &["config", "show", "-h"],
        &["query", "-h"],
        &["forget", "-h"],
        &["help", "query"],
    ] {
        let output = run(args);
        let out = String::from_utf8_lossy(&output.stdout);
        let usage = out.contains("carbyne") && out.contains("Usage:");
        assert!(usage && out.lines().count() <= 20, "{args:?}: {out}");
        assert!(out.lines().all(|line| line.len() <= 100), "{args:?}: {out}");
        assert_eq!(output.status.code(), Some(0));
    }
}

#[test]
fn usage_errors() {
    let refused = |args: &[&str], problem: &str| {
        check(args, 64, "", &format!("carbyne: {problem}\nSee `carbyne --help`.\n"));
    };
    refused(&["chekc"], "unknown command `chekc`; did you mean `check`?");
    refused(&["config", "shwo"], "unknown command `config shwo`; did you mean `show`?");
    refused(&["config"], "`config` needs `default` or `show`");
    refused(&["--confg", "x"], "unknown option `--confg`; did you mean `--config`?");
    refused(&["-x"], "unknown option `-x`");
    refused(&["--frobnicate"], "unknown option `--frobnicate`");
    refused(&["check"], "checking needs a file: carbyne check -c FILE");
    refused(&["-check-config"], "checking needs a file: carbyne check -c FILE");
    refused(
        &["check", "wrong.toml"],
        "unexpected argument `wrong.toml`; did you mean `check -c wrong.toml`?",
    );
    refused(&["config", "show", "x", "y"], "unexpected argument `x`");
    refused(&["query"], "`query` needs a name: carbyne query NAME...");
    refused(&["query", "a", ""], "a name has 1 to 4000 bytes, not 0");
    refused(&["query", &"n".repeat(4_001)], "a name has 1 to 4000 bytes, not 4001");
    for address in ["localhost", ":7002", "::1", "h:", "h:65536"] {
        let problem = format!("--carbonlink takes HOST:PORT, not `{address}`");
        refused(&["query", "--carbonlink", address, "a"], &problem);
    }
    for seconds in ["0", "0.0009", "86401", "-1", "nan", "inf", "5s", ""] {
        let problem = format!("--timeout takes seconds from 0.001 to 86400, not `{seconds}`");
        refused(&["query", &format!("--timeout={seconds}"), "a"], &problem);
    }
    refused(
        &["query", "-c", "wrong.toml", "a"],
        "`query` reads no configuration: use --carbonlink HOST:PORT",
    );
    refused(&["--timeout", "1"], "--carbonlink and --timeout belong to `query`");
    let one = |count| {
        format!("`forget` takes one pattern, in quotes, not {count}: carbyne forget 'servers.web*'")
    };
    refused(&["forget"], &one(0));
    refused(&["forget", "--all", "a", "b"], &one(2));
    refused(&["forget", ""], "a pattern is one line of 1 to 32768 bytes");
    refused(&["forget", "a\nb"], "a pattern is one line of 1 to 32768 bytes");
    refused(&["forget", "--take-over", "a"], "`forget` takes --dry-run, --all and -c FILE");
    refused(&["drain", "--all"], "--dry-run and --all belong to `forget`");
    refused(&["--carbonlnk", "x"], "unknown option `--carbonlnk`; did you mean `--carbonlink`?");
    refused(&["-c", "a", "-c", "b"], "--config is given twice");
    refused(&["-check-config=maybe"], "--check-config takes true or false");
    refused(&["-daemon"], "-daemon is not supported: let a service manager run `serve`");
    refused(&["-cat", "f"], "-cat of go-carbon is not available");
}
