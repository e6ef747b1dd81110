//! `carbyne whisper`, on the real binary and on the functions below it: what it prints, which bytes
//! it leaves, what it refuses. tests/interop holds it beside Python's tools.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use carbyne::metric::point::Point;
use carbyne::metric::series::{Aggregation, Retention, SeriesSpec};
use carbyne::whisper::{self, Header, UnlikeArchives, WholeFile};

const NOW_S: u32 = 1_700_000_000;
const NOW: &str = "1700000000";

/// A folder of one test, in which the program runs.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("tools-{test}"));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        Folder(folder)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_carbyne"));
        command.arg("whisper").args(line.split_whitespace()).current_dir(&self.0);
        command.env("TZ", "UTC");
        command
    }

    /// Runs a command line and compares everything that it gives.
    fn check(&self, line: &str, status: i32, out: &str, err: &str) {
        same(&self.command(line).output().unwrap(), line, status, out, err);
    }

    fn ok(&self, line: &str, out: &str) {
        self.check(line, 0, out, "");
    }

    /// Runs a command line with a standard input and compares everything that it gives.
    fn feed(&self, line: &str, input: &str, status: i32, err: &str) {
        let mut command = self.command(line);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        same(&child.wait_with_output().unwrap(), line, status, "", err);
    }

    fn bytes(&self, name: &str) -> Vec<u8> {
        fs::read(self.0.join(name)).unwrap()
    }
}

fn same(output: &Output, line: &str, status: i32, out: &str, err: &str) {
    assert_eq!(String::from_utf8_lossy(&output.stderr), err, "errors of {line}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), out, "output of {line}");
    assert_eq!(output.status.code(), Some(status), "status of {line}");
}

#[test]
fn create_and_info() {
    let folder = Folder::new("create_and_info");
    folder.ok("create a.wsp 1h:2d 60:120", "Created: a.wsp (2056 bytes)\n");
    let info = "aggregationMethod: average\nmaxRetention: 172800\nxFilesFactor: 0.5\n\
                fileSize: 2056\n\nArchive 0\noffset: 40\nsecondsPerPoint: 60\npoints: 120\n\
                retention: 7200\nsize: 1440\n\nArchive 1\noffset: 1480\nsecondsPerPoint: 3600\n\
                points: 48\nretention: 172800\nsize: 576\n\n";
    folder.ok("info a.wsp", info);
    folder.ok("info a.wsp fileSize", "2056\n");
    folder.check("create a.wsp 60:1", 1, "", "carbyne: a.wsp: File exists (os error 17)\n");
    let create = "create --over a.wsp 5min:1hour --xFiles=0.3 --aggregationMethod absmax";
    folder.ok(create, "Overwriting existing file: a.wsp\nCreated: a.wsp (172 bytes)\n");
    folder.ok("info a.wsp xFilesFactor", "0.30000001192092896\n");
    let archives = "[{'offset': 28, 'secondsPerPoint': 300, 'points': 12, 'retention': 3600, \
                    'size': 144}]\n";
    folder.ok("info a.wsp archives", archives);
    folder.ok("info --json a.wsp aggregationMethod", "\"absmax\"\n");
    folder.ok("info --json a.wsp maxRetention", "3600\n");
    let json = "{\n  \"aggregationMethod\": \"absmax\",\n  \"maxRetention\": 3600,\n  \
                \"xFilesFactor\": 0.30000001192092896,\n  \"archives\": [\n    {\n      \
                \"offset\": 28,\n      \"secondsPerPoint\": 300,\n      \"points\": 12,\n      \
                \"retention\": 3600,\n      \"size\": 144\n    }\n  ],\n  \"fileSize\": 172\n}\n";
    folder.ok("info --json a.wsp", json);
    let mut want = vec![0; 172];
    want[..16].copy_from_slice(&[0, 0, 0, 7, 0, 0, 14, 16, 0x3e, 0x99, 0x99, 0x9a, 0, 0, 0, 1]);
    want[16..28].copy_from_slice(&[0, 0, 0, 28, 0, 0, 1, 44, 0, 0, 0, 12]);
    assert_eq!(folder.bytes("a.wsp"), want);
    for how in ["--sparse", "--fallocate"] {
        let line = format!("create b.wsp {how} --overwrite 300:12 --xFilesFactor .3 --agg absmax");
        assert!(folder.command(&line).status().unwrap().success(), "{line}");
        assert_eq!(folder.bytes("b.wsp"), want, "{how}");
    }
}

#[test]
fn create_refuses_before_it_touches_anything() {
    let folder = Folder::new("create_refuses");
    folder.ok("create a.wsp 60:10", "Created: a.wsp (148 bytes)\n");
    let before = folder.bytes("a.wsp");
    let check = |rest: &str, status: i32, err: &str| {
        let err = format!("carbyne: {err}\n");
        folder.check(&format!("create --overwrite a.wsp {rest}"), status, "", &err);
        assert_eq!(folder.bytes("a.wsp"), before, "{rest}");
    };
    check("60:10 60:20", 1, "a.wsp: two archives with the same step");
    check("60:0", 1, "a.wsp: an archive with a step of 0 s or with 0 points");
    check(
        "60:9 600:10",
        1,
        "a.wsp: an archive has too few points to fill one of the coarser archive",
    );
    check(
        "1s:400y",
        64,
        "whisper create: retention `1s:400y`: a number is greater than \
                          4294967295\nSee `carbyne whisper --help`.",
    );
    let usage = |problem: &str| format!("whisper create: {problem}\nSee `carbyne whisper --help`.");
    check(
        "60:x",
        64,
        &usage("retention `60:x`: the points are not a number with an optional unit"),
    );
    check("", 64, &usage("needs a retention such as 60:1440"));
    check("60:9 --xFilesFactor nan", 64, &usage("xFilesFactor `nan` is not a number from 0 to 1"));
    check("60:9 --aggregationMethod avg", 64, &usage("unknown aggregation method `avg`"));
    check("60:9 --spars --sprase", 64, &usage("invalid option '--sprase'"));
}

#[test]
fn estimate() {
    let folder = Folder::new("estimate");
    let want = "Archive 0: 1440 points of 60s precision\nArchive 1: 168 points of 3600s precision\n\
                \nEstimated Whisper DB Size: 18.883KB (20480 bytes on disk with 4k blocks)\n\n\
                Estimated storage requirement for 1k metrics: 19.531MB\n\
                Estimated storage requirement for 5k metrics: 97.656MB\n\
                Estimated storage requirement for 10k metrics: 195.312MB\n\
                Estimated storage requirement for 50k metrics: 976.562MB\n\
                Estimated storage requirement for 100k metrics: 1.907GB\n\
                Estimated storage requirement for 500k metrics: 9.537GB\n";
    folder.ok("create --estimate 60:1440 1h:7d", want);
    folder.ok("create --estimate 60:1440,1h:7d", want);
    let json = "{\n  \"points\": 1,\n  \"fileSize\": 40,\n  \"diskSize\": 4096\n}\n";
    folder.ok("create --estimate --json 60:1", json);
}

#[test]
fn update_fetch_and_dump() {
    let folder = Folder::new("update_fetch_and_dump");
    folder.ok("create a.wsp 60:5 300:4", "Created: a.wsp (148 bytes)\n");
    folder.ok("update a.wsp --now 1700000000 1699999990:1.5", "");
    folder.ok("update a.wsp --now 1700000000 N:2 1699999920:3 1699999860:0", "");
    let fetch = |rest: &str, want: &str| {
        folder.ok(&format!("fetch --now {NOW} --from 1699999800 {rest} a.wsp"), want);
    };
    fetch("", "1699999860\t0.000000\n1699999920\t3.000000\n1699999980\t2.000000\n");
    fetch("--drop zeroes", "1699999920\t3.000000\n1699999980\t2.000000\n");
    fetch("--until 1699999860", "1699999860\t0.000000\n");
    fetch("--until 1699999860 --pretty", "Tue Nov 14 22:11:00 2023\t0.000000\n");
    fetch("--until 1699999860 --pretty -t %H.%M", "22.11\t0.000000\n");
    let json = "{\n    \"start\" : 1699999860,\n    \"end\" : 1700000040,\n    \"step\" : 60,\n    \
                \"values\" : [0.0, 3.0, 2.0]\n  }\n";
    fetch("--json", json);
    let dump = "1699999980:2\n0:0\n0:0\n1699999860:0\n1699999920:3\n\
                1699999800:1.6666666666666667406815349750104360\n0:0\n0:0\n0:0\n";
    folder.ok("dump --raw a.wsp", &dump.replace("4360\n", "436\n"));
    let nothing = "carbyne: a.wsp: no data in the range of time\n";
    folder.check("fetch --now 1700000000 --from 1 --until 2 a.wsp", 1, "", nothing);
    let after = "carbyne: a.wsp: start of the range after its end\n";
    folder.check("fetch --from 2 --until 1 a.wsp", 1, "", after);
}

#[test]
fn update_says_what_it_drops() {
    let folder = Folder::new("update_drops");
    folder.ok("create a.wsp 60:5", "Created: a.wsp (88 bytes)\n");
    let before = folder.bytes("a.wsp");
    let not_covered = "carbyne: a.wsp: timestamp not covered by any archive\n";
    folder.check("update a.wsp --now 1700000000 1700000001:1", 1, "", not_covered);
    folder.check("update a.wsp --now 1700000000 1699999700:1", 1, "", not_covered);
    let wrong = "carbyne: whisper update: `1:x` is not TIME:VALUE\nSee `carbyne whisper --help`.\n";
    folder.check("update a.wsp N:1 1:x", 64, "", wrong);
    folder.feed(
        "update a.wsp",
        "N:1\nN\n",
        1,
        "carbyne: standard input: line 2: `N` is not \
                                                TIME:VALUE\n",
    );
    assert_eq!(folder.bytes("a.wsp"), before);
    let dropped = "carbyne: a.wsp: 1 of 2 points dropped, older than every archive\n";
    folder.feed("update a.wsp --now 1700000000", "1699999699:1\n1700000050:2", 0, dropped);
    let stored = [0x65, 0x53, 0xf1, 0x28, 0x40, 0, 0, 0, 0, 0, 0, 0];
    assert_eq!(folder.bytes("a.wsp")[28..40], stored);
}

#[test]
fn settings_change_the_first_bytes_alone() {
    let folder = Folder::new("settings");
    folder.ok("create a.wsp 60:5", "Created: a.wsp (88 bytes)\n");
    folder.ok("update a.wsp --now 1700000000 N:1", "");
    let before = folder.bytes("a.wsp");
    folder.ok("set-xff a.wsp 0.1", "Updated xFilesFactor: a.wsp (0.5 -> 0.1)\n");
    let want = "Updated xFilesFactor: a.wsp (0.10000000149011612 -> 1.0)\n";
    folder.ok("set-xff a.wsp 1", want);
    folder
        .ok("set-aggregation a.wsp sum .5", "Updated aggregation method: a.wsp (average -> sum)\n");
    let json = "{\n  \"path\": \"a.wsp\",\n  \"old\": \"sum\",\n  \"new\": \"avg_zero\"\n}\n";
    folder.ok("set-aggregation --json a.wsp avg_zero", json);
    let mut want = before;
    want[3] = 6;
    assert_eq!(folder.bytes("a.wsp"), want);
}

#[test]
fn merge_fill_and_diff() {
    let folder = Folder::new("merge_fill_and_diff");
    for name in ["a.wsp", "b.wsp"] {
        let created = format!("Created: {name} (148 bytes)\n");
        folder.ok(&format!("create {name} 60:10"), &created);
    }
    folder.ok("update a.wsp --now 1700000000 N:1 1699999740:2 1699999680:3 1699999620:4", "");
    folder.ok("update b.wsp --now 1700000000 N:5", "");
    let diff = "archive   timestamp       value_a       value_b\n\
                Archive 0 (4 of 4 datapoints differ)\n\
                \u{20}         timestamp       value_a       value_b\n\
                \u{20}        1699999620           4.0          None\n\
                \u{20}        1699999680           3.0          None\n\
                \u{20}        1699999740           2.0          None\n\
                \u{20}        1699999980           1.0           5.0\n";
    folder.ok("diff --now 1700000000 a.wsp b.wsp", diff);
    folder.ok("fill --now 1700000000 --until 1699999680 a.wsp b.wsp", "");
    let columns = "0 1699999740 2.0 None\n0 1699999980 1.0 5.0\n";
    folder.ok("diff --now 1700000000 --columns --no-headers a.wsp b.wsp", columns);
    folder.ok("merge --now 1700000000 --from 1699999740 a.wsp b.wsp", "");
    folder.ok("diff --now 1700000000 --col --no-h --sum a.wsp b.wsp", "0 4 1\n");
    let json = "{\n  \"from\": \"a.wsp\",\n  \"to\": \"b.wsp\",\n  \"pointsWritten\": 4\n}\n";
    folder.ok("merge --now 1700000000 --json a.wsp b.wsp", json);
    assert_eq!(folder.bytes("a.wsp").len(), folder.bytes("b.wsp").len());
    folder.ok("diff --now 1700000000 --col --no-h a.wsp b.wsp", "");
    folder.ok("create c.wsp 60:11", "Created: c.wsp (160 bytes)\n");
    let unlike = "carbyne: c.wsp: the archives of the two files differ\n";
    folder.check("merge a.wsp c.wsp", 1, "", unlike);
    folder.check("diff a.wsp c.wsp", 1, "", unlike);
}

#[test]
fn paths_and_names() {
    let folder = Folder::new("paths");
    let hashed = folder.command("path cpu.load;host=a.b").output().unwrap();
    let hashed = String::from_utf8(hashed.stdout).unwrap();
    assert!(hashed.starts_with("_tagged/") && hashed.len() == 8 + 4 + 4 + 64 + 5, "{hashed}");
    folder.ok("path a.b a..c x/y", "a/b.wsp\na/c.wsp\nx/y.wsp\n");
    folder.ok("path --reverse a/b.wsp", "a.b\n");
    let refused = "carbyne: ~: refused: name_empty\n";
    folder.check("path ~", 1, "", refused);
    let none = |path: &str| format!("carbyne: {path}: no metric name can be read from this path\n");
    for path in ["a.b.wsp", "a/b", "/a.wsp", hashed.trim_end()] {
        folder.check(&format!("path --reverse {path}"), 1, "", &none(path));
    }
    let output = folder.command("path --unhashed cpu.load;host=a.b").output().unwrap();
    let path = String::from_utf8(output.stdout).unwrap();
    assert!(path.ends_with("/cpu_DOT_load;host=a_DOT_b.wsp\n"), "{path}");
    folder.ok(&format!("path --reverse {path}"), "cpu.load;host=a.b\n");
    let moved = path.replace("_tagged/", "_tagged/x");
    folder.check(&format!("path --reverse {moved}"), 1, "", &none(moved.trim_end()));
    let json = "[\n  {\n    \"name\": \"a.b\",\n    \"path\": \"a/b.wsp\"\n  }\n]\n";
    folder.ok("path --json a..b", json);
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let folder = Folder::new("bad_files");
    fs::write(folder.0.join("empty.wsp"), "").unwrap();
    fs::write(folder.0.join("text.wsp"), "not a Whisper file").unwrap();
    fs::create_dir(folder.0.join("folder.wsp")).unwrap();
    let huge = File::create(folder.0.join("huge.wsp")).unwrap();
    huge.set_len((4 << 30) + 1).unwrap();
    let check = |line: &str, err: &str| folder.check(line, 1, "", &format!("carbyne: {err}\n"));
    check("info empty.wsp", "empty.wsp: empty file");
    check("dump text.wsp", "text.wsp: unknown aggregation code 1852797984");
    check("fetch folder.wsp", "folder.wsp: open: not a regular file");
    check("update gone.wsp 1:1", "gone.wsp: open: No such file or directory (os error 2)");
    check("set-xff text.wsp 0", "text.wsp: unknown aggregation code 1852797984");
    check("dump huge.wsp", "huge.wsp: 4294967297 bytes, more than the 4294967296 allowed");
}

#[test]
fn command_lines_without_sense() {
    let folder = Folder::new("usage");
    let check = |line: &str, problem: &str| {
        let err = format!("carbyne: {problem}\nSee `carbyne whisper --help`.\n");
        folder.check(line, 64, "", &err);
    };
    check("", "`whisper` needs a command");
    check("inof a", "unknown command `whisper inof`");
    check("info", "whisper info: needs a file");
    check("merge a", "whisper merge: takes 2 files, not 1");
    check("dump", "whisper dump: takes 1 file, not 0");
    check("merge a b --from 5 --until 4", "whisper merge: --from 5 is after --until 4");
    check("fetch a --from x", "whisper fetch: --from takes seconds since 1970, not `x`");
    check(
        "fetch a --from 9223372036854775807",
        "whisper fetch: --from takes seconds since 1970, \
                                                 not `9223372036854775807`",
    );
    check("fetch a --now -1", "whisper fetch: --now is not within 32 bits");
    check("fetch a --drop all", "whisper fetch: --drop takes nulls, zeroes or empty");
    check("fetch a --until", "whisper fetch: missing argument for option '--until'");
    check("set-xff a 2", "whisper set-xff: xFilesFactor `2` is not a number from 0 to 1");
    check("path", "whisper path: needs a name");
}

#[test]
fn every_command_has_help() {
    let folder = Folder::new("help");
    let text = |line: &str| {
        let output = folder.command(line).output().unwrap();
        assert!(output.status.success(), "{line}");
        String::from_utf8(output.stdout).unwrap()
    };
    let help = text("--help");
    let names = ["info", "fetch", "dump", "create", "update", "merge", "fill", "diff"];
    for name in
        names.into_iter().chain(["set-xff", "set-aggregation", "path", "find", "verify", "resize"])
    {
        assert!(help.contains(&format!("\n  {name} ")), "{name}");
        let usage = format!("Usage: carbyne whisper {name} ");
        assert!(text(&format!("{name} --help")).starts_with(&usage), "{name}");
        assert!(text(&format!("{name} -h")).contains("--json"), "{name}");
    }
    for name in ["update", "merge", "fill", "set-xff", "set-aggregation", "verify", "resize"] {
        assert!(text(&format!("{name} --help")).contains("flock"), "{name}");
    }
}

#[test]
fn changes_wait_for_the_lock() {
    let folder = Folder::new("lock");
    folder.ok("create a.wsp 60:5", "Created: a.wsp (88 bytes)\n");
    folder.ok("create b.wsp 60:5", "Created: b.wsp (88 bytes)\n");
    let commands = ["update a.wsp N:1", "merge b.wsp a.wsp", "fill b.wsp a.wsp", "set-xff a.wsp 1"];
    for line in commands {
        let file = File::open(folder.0.join("a.wsp")).unwrap();
        file.lock().unwrap();
        let mut child = folder.command(line).stdout(Stdio::null()).spawn().unwrap();
        // A process that waits for a flock sleeps between two attempts.
        let call = format!("/proc/{}/syscall", child.id());
        let sleep = format!("{} ", libc::SYS_clock_nanosleep);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !fs::read_to_string(&call).is_ok_and(|text| text.starts_with(&sleep)) {
            assert!(child.try_wait().unwrap().is_none(), "{line} did not wait");
            assert!(Instant::now() < deadline, "{line} does not come to the lock");
            thread::yield_now();
        }
        drop(file);
        assert!(child.wait().unwrap().success(), "{line}");
    }
}

fn whole(shape: &[(u32, u32)], points: &[(u32, f64)]) -> WholeFile {
    let retention = |&(step_s, slot_count): &(u32, u32)| Retention { step_s, slot_count };
    let retentions = shape.iter().map(retention).collect();
    let spec = SeriesSpec { retentions, x_files_factor: 0.0, aggregation: Aggregation::Sum };
    let header = Header::new(&spec).unwrap();
    let mut bytes = Vec::new();
    header.encode(&mut bytes);
    bytes.resize(usize::try_from(header.file_bytes()).unwrap(), 0);
    let mut whole = WholeFile::parse(bytes).unwrap();
    whole.update_many(&at_ages(points), NOW_S);
    WholeFile::parse(whole.bytes().to_vec()).unwrap()
}

/// Points of (age, value).
fn at_ages(points: &[(u32, f64)]) -> Vec<Point> {
    let point = |&(age_s, value): &(u32, f64)| Point { timestamp_s: NOW_S - age_s, value };
    points.iter().map(point).collect()
}

/// The used slots of an archive as (age, value), youngest first.
fn ages(whole: &WholeFile, archive_index: usize) -> Vec<(u32, f64)> {
    let used = whole.slots(archive_index).filter(|(interval_s, _)| *interval_s != 0);
    let mut ages: Vec<(u32, f64)> = used.map(|(at_s, value)| (NOW_S - at_s, value)).collect();
    ages.sort_by_key(|(age_s, _)| *age_s);
    ages
}

/// NOW_S is a multiple of 10, so steps of 1, 5 and 10 put it on an interval.
const SHAPE: [(u32, u32); 2] = [(1, 20), (10, 6)];

#[test]
fn only_what_changed_is_written() {
    let mut file = whole(&SHAPE, &[(19, 1.0)]);
    assert_eq!(file.written().count(), 0);
    file.update_many(&at_ages(&[(9, 2.0), (8, 3.0), (5, 4.0)]), NOW_S);
    file.update_many(&at_ages(&[(8, 5.0)]), NOW_S);
    let before = file.bytes().to_vec();
    let written: Vec<(u64, Vec<u8>)> = file.written().map(|(at, b)| (at, b.to_vec())).collect();
    let pieces: Vec<(u64, usize)> = written.iter().map(|(at, b)| (at - 40, b.len())).collect();
    assert_eq!(pieces, [(10 * 12, 24), (14 * 12, 12), (21 * 12, 12)]);
    for (at, bytes) in written {
        let at = usize::try_from(at).unwrap();
        assert_eq!(before[at..at + bytes.len()], bytes);
    }
}

#[test]
fn merge_table() {
    type Range = (i64, i64);
    let check = |from: &[(u32, f64)], to: &[(u32, f64)], range: Range, want: [&[(u32, f64)]; 2]| {
        let source = whole(&SHAPE, from);
        let mut target = whole(&SHAPE, to);
        let now = i64::from(NOW_S);
        whisper::merge(&source, &mut target, now - range.0, now - range.1, NOW_S).unwrap();
        assert_eq!([ages(&target, 0), ages(&target, 1)], want, "{from:?} {to:?} {range:?}");
    };
    let all = (i64::from(NOW_S), 0);
    check(&[], &[(3, 1.0)], all, [&[(3, 1.0)], &[(10, 1.0)]]);
    check(&[(3, 2.0)], &[], all, [&[(3, 2.0)], &[(10, 2.0)]]);
    check(&[(3, 2.0)], &[(3, 1.0), (4, 1.0)], all, [&[(3, 2.0), (4, 1.0)], &[(10, 2.0)]]);
    check(&[(30, 2.0)], &[(5, 1.0)], all, [&[(5, 1.0)], &[(10, 1.0), (30, 2.0)]]);
    let from: &[(u32, f64)] = &[(3, 2.0), (4, 2.0), (5, 2.0)];
    check(from, &[], (4, 3), [&[(3, 2.0)], &[(10, 2.0)]]);
    check(from, &[], (6, 5), [&[(5, 2.0)], &[(10, 2.0)]]);
    check(&[(60, 7.0)], &[], all, [&[], &[]]);
}

#[test]
fn merge_and_diff_want_the_same_archives() {
    let source = whole(&[(1, 20)], &[]);
    let mut target = whole(&[(1, 21)], &[]);
    assert_eq!(whisper::merge(&source, &mut target, 0, 1, NOW_S), Err(UnlikeArchives));
    assert_eq!(whisper::diff(&source, &target, false, 1, NOW_S), Err(UnlikeArchives));
}

#[test]
fn fill_table() {
    let check = |from: &[(u32, f64)], to: &[(u32, f64)], want: &[(u32, f64)]| {
        let source = whole(&[(1, 20)], from);
        let mut target = whole(&[(1, 20)], to);
        whisper::fill(&source, &mut target, 0, i64::from(NOW_S), NOW_S);
        assert_eq!(ages(&target, 0), want, "{from:?} {to:?}");
    };
    let known: Vec<(u32, f64)> = (0..20).map(|age_s| (age_s, 1.0)).collect();
    let without = |gap: &[u32]| -> Vec<(u32, f64)> {
        known.iter().filter(|(age_s, _)| !gap.contains(age_s)).copied().collect()
    };
    let with = |changed: &[u32]| -> Vec<(u32, f64)> {
        let value = |age_s: u32| if changed.contains(&age_s) { 2.0 } else { 1.0 };
        (0..20).map(|age_s| (age_s, value(age_s))).collect()
    };
    let source: Vec<(u32, f64)> = (0..20).map(|age_s| (age_s, 2.0)).collect();
    check(&source, &known, &known);
    check(&source, &without(&[7]), &without(&[7]));
    check(&source, &without(&[7, 8]), &with(&[6, 7, 8]));
    check(&source, &without(&[0]), &without(&[0]));
    check(&source, &without(&[0, 1]), &with(&[0, 1]));
    check(
        &[(8, 2.0)],
        &without(&[7, 8]),
        &[&without(&[7, 8])[..7], &[(8, 2.0)], &known[9..]].concat(),
    );
    let mut zeros = known.clone();
    (zeros[7].1, zeros[8].1) = (0.0, 0.0);
    check(&source, &zeros, &with(&[6, 7, 8]));
}

#[test]
fn diff_compares_each_time_once() {
    let a = whole(&SHAPE, &[(3, 1.0), (4, 2.0), (35, f64::NAN)]);
    let b = whole(&SHAPE, &[(3, 1.0), (4, 3.0), (5, 4.0), (35, f64::NAN)]);
    let count = |ignore_empty: bool, age_s: u32| -> Vec<(usize, usize)> {
        let until_s = i64::from(NOW_S - age_s);
        let found = whisper::diff(&a, &b, ignore_empty, until_s, NOW_S).unwrap();
        found.iter().map(|archive| (archive.differences.len(), archive.point_count)).collect()
    };
    assert_eq!(count(false, 0), [(2, 3), (1, 1)]);
    assert_eq!(count(true, 0), [(1, 2), (1, 1)]);
    assert_eq!(count(false, 4), [(2, 2), (1, 1)]);
    assert_eq!(count(false, 30), [(0, 0), (1, 1)]);
    assert_eq!(count(false, 45), [(0, 0), (0, 0)]);
}

#[test]
fn any_bytes_are_safe() {
    let good = whole(&SHAPE, &[(3, 1.0), (14, 2.0), (35, 5.0)]).bytes().to_vec();
    let mut source = whole(&SHAPE, &[(1, 1.0), (19, 4.0), (50, 2.0)]);
    for at in 0..good.len() {
        for byte in [0, 1, 0x7f, 0xff] {
            let mut bytes = good.clone();
            bytes[at] = byte;
            let Ok(mut damaged) = WholeFile::parse(bytes) else { continue };
            let now_s = i64::from(NOW_S);
            let _ = whisper::diff(&source, &damaged, false, now_s, NOW_S);
            let _ = whisper::merge(&source, &mut damaged, 0, now_s + 99, NOW_S);
            whisper::fill(&source, &mut damaged, 0, now_s, NOW_S);
            whisper::fill(&damaged, &mut source, 0, now_s, NOW_S);
            let written: usize = damaged.written().map(|(_, bytes)| bytes.len()).sum();
            assert!(written <= good.len(), "{at} {byte}");
        }
    }
}
