//! `carbyne whisper verify`, `resize` and `find` on a small tree: good, damaged, compressed, empty,
//! foreign and unfinished files.

#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::whisper_file::File;
use carbyne::metric::point::Point;
use carbyne::metric::series::Aggregation;
use carbyne::whisper::Update;

const NOW_S: u32 = 1_700_000_000;

/// A directory of its own, removed at the end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("carbyne-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Place(path)
    }

    fn put(&self, path: &str, bytes: &[u8]) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, bytes).unwrap();
        path
    }

    fn has(&self, path: &str) -> bool {
        self.0.join(path).exists()
    }

    /// Paths of all files.
    fn files(&self) -> Vec<String> {
        files_below(&self.0)
    }
}

/// Paths of all files below a directory, from there.
fn files_below(root: &Path) -> Vec<String> {
    let (mut found, mut open) = (Vec::new(), vec![root.to_owned()]);
    while let Some(directory) = open.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                open.push(path);
            } else {
                found.push(path.strip_prefix(root).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    found.sort();
    found
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `carbyne whisper` in a directory; gives its status, its lines sorted, and its errors.
fn run(directory: &Path, args: &[&str]) -> (i32, Vec<String>, String) {
    let (status, text, errors) = run_unsorted(directory, args);
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    (status, lines, errors)
}

/// The same with the output as it came.
fn run_unsorted(directory: &Path, args: &[&str]) -> (i32, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_carbyne"))
        .arg("whisper")
        .args(args)
        .current_dir(directory)
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

/// An hour of points, every ten seconds, counted from 0.
fn file(shape: &[(u32, u32)]) -> File {
    let mut file = File::create(shape, 0.5, Aggregation::Sum);
    let point = |n: u32| Point { timestamp_s: NOW_S - 3_600 + 10 * n, value: f64::from(n) };
    file.update_many(&mut Update::new(), &(1..=360).map(point).collect::<Vec<Point>>(), NOW_S);
    file
}

const TENS: &[(u32, u32)] = &[(10, 360)];

/// `data/` with two good files and one of each other kind.
fn tree(name: &str) -> Place {
    let place = Place::new(name);
    let good = file(TENS).bytes;
    place.put("data/a/one.wsp", &good);
    place.put("data/a/b/two.wsp", &good);
    place.put("data/a/short.wsp", &good[..good.len() - 12]);
    place.put("data/a/b/empty.wsp", b"");
    place.put("data/packed.wsp", b"whisper_compressed\0\0\0\0");
    place.put(&format!("data/_tagged/012/345/{}.wsp", "0123456789abcdef".repeat(4)), &good);
    place.put("data/other/three.wsp", &good);
    place.put("data/notes.txt", b"no Whisper file");
    place.put("schemas", b"[ours]\npattern = ^a\\.\nretentions = 10s:10m,1m:1d\n");
    place
}

#[test]
fn verify_lists_what_is_damaged() {
    let place = tree("verify-list");
    place.put("data/a/line\nbreak.wsp", b"");
    let (status, lines, errors) = run(&place.0, &["verify", "data", "--jobs", "2"]);
    let want = [
        "8 files: 4 good, 0 suspect, 3 damaged, 1 compressed, 0 unreadable",
        "data/a/b/empty.wsp: damaged: empty file",
        "data/a/line\\nbreak.wsp: damaged: empty file",
        "data/a/short.wsp: damaged: file of 4336 bytes with archives up to byte 4348",
        "data/packed.wsp: compressed: compressed go-whisper file",
    ];
    assert_eq!((status, lines, errors.as_str()), (1, want.map(str::to_owned).to_vec(), ""));
    let (status, lines, errors) = run(&place.0, &["verify", "data/a/one.wsp", "--progress"]);
    assert_eq!((status, lines.len()), (0, 1));
    assert!(errors.contains("1 files, ") || errors.contains("1 of 1 files, "), "{errors}");
    let (status, lines, _) = run(&place.0, &["verify", "data/a/short.wsp", "--json"]);
    let want = [
        "{\"files\":1,\"good\":0,\"suspect\":0,\"damaged\":1,\"compressed\":0,\"unreadable\":0}",
        "{\"path\":\"data/a/short.wsp\",\"state\":\"damaged\",\
         \"reason\":\"file of 4336 bytes with archives up to byte 4348\"}",
    ];
    assert_eq!((status, lines), (1, want.map(str::to_owned).to_vec()));
}

#[test]
fn verify_quarantines_with_paths_kept() {
    let place = tree("verify-quarantine");
    let before = place.files();
    let dry = ["verify", "data", "--quarantine", "data/bad", "--dry-run"];
    let (status, lines, _) = run(&place.0, &dry);
    let want = "data/a/b/empty.wsp: damaged: empty file; would move to data/bad/a/b/empty.wsp";
    assert_eq!((status, lines[1].as_str()), (1, want));
    assert_eq!(place.files(), before);
    // A file of that name in the quarantine stays.
    place.put("data/bad/a/short.wsp", b"earlier");
    let (status, lines, _) = run(&place.0, &dry[..4]);
    assert_eq!(status, 1, "{lines:?}");
    assert_eq!(fs::read(place.0.join("data/bad/a/short.wsp")).unwrap(), b"earlier");
    for (path, is_there) in [
        ("data/bad/a/b/empty.wsp", true),
        ("data/bad/a/short.wsp-1", true),
        ("data/a/b/empty.wsp", false),
        ("data/a/short.wsp", false),
        ("data/packed.wsp", true),
    ] {
        assert_eq!(place.has(path), is_there, "{path}");
    }
    // Idempotent: what was moved is not seen again.
    let (status, lines, _) = run(&place.0, &dry[..4]);
    assert_eq!((status, lines.len()), (0, 2), "{lines:?}");
}

#[test]
fn verify_finds_misplaced_points_and_leaves_their_file() {
    let place = tree("verify-slots");
    let mut bytes = file(TENS).bytes;
    bytes[28 + 12 * 7..][..4].copy_from_slice(&(NOW_S - 3).to_be_bytes());
    place.put("data/a/odd.wsp", &bytes);
    let args = ["verify", "data/a/odd.wsp", "--quarantine", "bad", "--slots"];
    let (status, lines, _) = run(&place.0, &args);
    assert_eq!((status, lines.len()), (1, 2));
    assert_eq!(lines[1], "data/a/odd.wsp: suspect: archive 0: 1 misplaced slots");
    assert!(place.has("data/a/odd.wsp"));
    assert_eq!(run(&place.0, &args[..2]).0, 0);
}

fn resize<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut args = vec!["resize", "data", "--schemas", "schemas", "--now", "1700000000"];
    args.extend(more);
    args
}

#[test]
fn resize_brings_a_tree_to_the_rules_once() {
    let place = tree("resize");
    let one = place.0.join("data/a/one.wsp");
    fs::set_permissions(&one, fs::Permissions::from_mode(0o640)).unwrap();
    let old = fs::metadata(&one).unwrap();
    // What a run that was killed leaves: unfinished files, beside files done and not done.
    let unfinished = "data/a/one.wsp.carbyne-resize";
    place.put(unfinished, &[7; 1_000]);
    place.put("data/gone.wsp.carbyne-resize", b"");
    let before = place.files();
    let (status, lines, errors) = run(&place.0, &resize(&["--dry-run"]));
    let summary = "2 resized, 0 fit, 1 no name, 2 no rule, 0 compressed, 2 damaged, 0 failed, \
                   2 unfinished; 8696 to 36080 bytes (dry run, nothing was changed)";
    assert_eq!((status, lines[0].as_str(), errors.as_str()), (1, summary, ""));
    assert_eq!(lines[1], "data/a/b/empty.wsp: damaged: empty file");
    assert_eq!(lines[2], "data/a/b/two.wsp: would be resized: 4348 to 18040 bytes");
    assert_eq!(place.files(), before);
    let (status, lines, _) = run(&place.0, &resize(&["--jobs", "2"]));
    assert_eq!((status, lines.len()), (1, 3), "{lines:?}");
    assert_eq!(lines[0], summary.replace(" (dry run, nothing was changed)", ""));
    let kept: Vec<&String> =
        before.iter().filter(|path| !path.ends_with(".carbyne-resize")).collect();
    assert_eq!(place.files().iter().collect::<Vec<_>>(), kept);
    let new = fs::metadata(&one).unwrap();
    assert_eq!((new.mode(), new.mtime()), (old.mode(), old.mtime()));
    assert_ne!(new.ino(), old.ino(), "a node tells the new file by its inode");
    // The points: ten minutes of tens of seconds, and an hour of minutes.
    let resized = File::open(fs::read(&one).unwrap()).unwrap();
    let fetch = |from_s: u32| {
        resized.fetch(i64::from(from_s), i64::from(NOW_S), NOW_S, None).unwrap().unwrap()
    };
    let (finest, values) = fetch(NOW_S - 600);
    assert_eq!((finest.step_s(), values[59]), (10, Some(360.0)));
    assert!(values.iter().all(Option::is_some));
    let (minutes, values) = fetch(NOW_S - 3_000);
    let first = (minutes.from_s() - i64::from(NOW_S - 3_600)) / 10;
    let sum: i64 = (first..first + 6).sum();
    assert_eq!((minutes.step_s(), values[0]), (60, Some(sum as f64)));
    // Idempotent.
    let (status, lines, _) = run(&place.0, &resize(&["--json"]));
    assert_eq!((status, fs::metadata(&one).unwrap().ino()), (1, new.ino()));
    let summary = lines.last().unwrap();
    assert!(summary.contains("\"resized\":0,\"fit\":2,"), "{summary}");
    assert!(summary.contains("\"unfinished\":0,\"oldBytes\":0"), "{summary}");
}

/// Every file below a directory with its bytes, but what goes away meanwhile.
fn contents(directory: &Path) -> Vec<(String, Vec<u8>)> {
    let read = |path: String| Some((fs::read(directory.join(&path)).ok()?, path));
    let found = files_below(directory).into_iter().filter_map(read);
    found.map(|(bytes, path)| (path, bytes)).collect()
}

#[test]
fn a_migration_that_is_killed_again_and_again_ends_as_if_it_never_was() {
    // Files of 121 KB, so that one which is written in place is met half written.
    const FILES: u32 = 200;
    const KILLS: u32 = 12;
    let place = Place::new("resize-killed");
    let shapes: [&[(u32, u32)]; 3] = [TENS, &[(10, 180), (60, 600)], &[(60, 90)]];
    for number in 0..FILES {
        let shape = shapes[usize::try_from(number % 3).unwrap()];
        let bytes = file(shape).bytes;
        for tree in ["whole", "data"] {
            place.put(&format!("{tree}/d{}/m{number}.wsp", number % 7), &bytes);
        }
    }
    place.put("schemas", b"[all]\npattern = .*\nretentions = 10s:10m,1m:7d\n");
    let old = contents(&place.0.join("data"));
    let args = |tree| ["resize", tree, "--schemas", "schemas", "--now", "1700000000"];
    assert_eq!(run(&place.0, &args("whole")).0, 0);
    let want = contents(&place.0.join("whole"));
    assert!(old.iter().zip(&want).all(|(old, want)| old.0 == want.0 && old.1 != want.1));

    let done_of = |found: &[(String, Vec<u8>)]| {
        let found: Vec<_> = found.iter().filter(|(path, _)| path.ends_with(".wsp")).collect();
        assert_eq!(found.len(), old.len(), "a file is gone");
        let mut done = 0;
        for ((file, want), old) in found.into_iter().zip(&want).zip(&old) {
            assert!(file == want || file == old, "{} is neither old nor new", file.0);
            done += u32::from(file == want);
        }
        done
    };
    let mut kills_within = 0;
    for kill in 1..=KILLS {
        let mut running = Command::new(env!("CARGO_BIN_EXE_carbyne"))
            .arg("whisper")
            .args(args("data"))
            .args(["--jobs", "3"])
            .current_dir(&place.0)
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        // By the last file of the share that this run is given, wherever in its work that is.
        while done_of(&contents(&place.0.join("data"))) < FILES * kill / (KILLS + 1)
            && running.try_wait().unwrap().is_none()
        {}
        running.kill().unwrap();
        running.wait().unwrap();
        let done = done_of(&contents(&place.0.join("data")));
        kills_within += u32::from(0 < done && done < FILES);
    }
    assert!(kills_within >= 3, "only {kills_within} of {KILLS} kills met it at work");
    let (status, lines, errors) = run(&place.0, &args("data"));
    assert_eq!((status, errors.as_str()), (0, ""), "{lines:?}");
    assert_eq!(contents(&place.0.join("data")), want);
}

#[test]
fn a_tree_gets_the_archives_that_are_given() {
    let place = tree("resize-same");
    let args = ["resize", "data/other", "10s:10m", "1m:1d", "--now", "1700000000"];
    let before = place.files();
    let (status, lines, _) = run(&place.0, &[&args[..], &["--dry-run", "--json"]].concat());
    let summary = "{\"resized\":1,\"fit\":0,\"noName\":0,\"noRule\":0,\"compressed\":0,\
                   \"damaged\":0,\"failed\":0,\"unfinished\":0,\"oldBytes\":4348,\
                   \"newBytes\":18040,\"dryRun\":true}";
    let file = "{\"path\":\"data/other/three.wsp\",\"state\":\"wouldResize\",\"oldBytes\":4348,\
                \"newBytes\":18040}";
    assert_eq!((status, lines), (0, vec![file.to_owned(), summary.to_owned()]));
    let other = &[&args[..], &["--aggregationMethod", "max", "--xFilesFactor", "0.25"]].concat();
    assert_eq!(run(&place.0, other).0, 0);
    let resized = File::open(fs::read(place.0.join("data/other/three.wsp")).unwrap()).unwrap();
    assert_eq!(
        (resized.header.aggregation, resized.header.x_files_factor),
        (Aggregation::Max, 0.25)
    );
    assert_eq!(resized.header.file_bytes(), 18_040);
    assert_eq!(place.files(), before);
}

#[test]
fn one_file_is_not_touched_by_a_dry_run() {
    let place = tree("resize-dry");
    let before = contents(&place.0);
    let args = ["resize", "data/a/one.wsp", "10s:10m", "--dry-run"];
    let (status, lines, _) = run(&place.0, &args);
    let want = "data/a/one.wsp: would be resized: 4348 to 748 bytes";
    assert_eq!((status, lines), (0, vec![want.to_owned()]));
    let (_, lines, _) = run(&place.0, &[&args[..], &["--json"]].concat());
    let want = "{\"path\":\"data/a/one.wsp\",\"state\":\"wouldResize\",\"oldBytes\":4348,\
                \"newBytes\":748}";
    assert_eq!(lines, [want]);
    assert_eq!(contents(&place.0), before);
}

#[test]
fn resize_leaves_alone_what_others_hold() {
    let place = tree("resize-held");
    fs::remove_file(place.0.join("data/a/short.wsp")).unwrap();
    fs::remove_file(place.0.join("data/a/b/empty.wsp")).unwrap();
    // Another run is working on this one.
    let unfinished = place.put("data/a/else.wsp.carbyne-resize", b"");
    let held = fs::File::open(&unfinished).unwrap();
    held.lock().unwrap();
    let (status, lines, _) = run(&place.0, &resize(&[]));
    assert_eq!((status, lines.len()), (1, 2), "{lines:?}");
    assert!(lines[1].ends_with("failed: another resize is working on it"), "{lines:?}");
    assert!(unfinished.exists());
    drop(held);
    // A writer keeps a file for a moment: the exchange waits, and what was written is there.
    let one = place.put("data/a/one.wsp", &file(TENS).bytes);
    let writer = fs::File::options().write(true).open(&one).unwrap();
    writer.lock().unwrap();
    let mut running = Command::new(env!("CARGO_BIN_EXE_carbyne"))
        .arg("whisper")
        .args(resize(&[]))
        .current_dir(&place.0)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let newest = 28 + 12 * 359;
    writer.write_all_at(&999.0_f64.to_be_bytes(), newest + 4).unwrap();
    drop(writer);
    assert!(running.wait().unwrap().success());
    let resized = File::open(fs::read(&one).unwrap()).unwrap();
    let now_s = i64::from(NOW_S);
    let (_, values) = resized.fetch(now_s - 10, now_s, NOW_S, None).unwrap().unwrap();
    assert_eq!(values, [Some(999.0)]);
    assert!(!unfinished.exists());
}

#[test]
fn one_file_is_resized_with_a_copy() {
    let place = tree("resize-one");
    let old = fs::read(place.0.join("data/a/one.wsp")).unwrap();
    let one = ["resize", "data/a/one.wsp", "1m:1d", "10s:10m", "--now", "1700000000"];
    let (status, lines, errors) = run(&place.0, &one);
    let want = [
        "Created: data/a/one.wsp.carbyne-resize (18040 bytes)",
        "Creating new whisper database: data/a/one.wsp.carbyne-resize",
        "Migrating data without aggregation...",
        "Renaming new database to: data/a/one.wsp",
        "Renaming old database to: data/a/one.wsp.bak",
        "Retrieving all data from the archives",
    ];
    assert_eq!((status, lines, errors.as_str()), (0, want.map(str::to_owned).to_vec(), ""));
    assert_eq!(fs::read(place.0.join("data/a/one.wsp.bak")).unwrap(), old);
    let check = |args: &[&str], status: i32, problem: &str| {
        let (got, _, errors) = run(&place.0, args);
        assert_eq!(got, status, "{args:?}: {errors}");
        assert!(errors.contains(problem), "{args:?}: {errors}");
    };
    check(&["resize"], 64, "whisper resize: needs a file");
    check(&["resize", "data"], 64, "a tree needs --schemas");
    check(&["resize", "data/a/one.wsp"], 64, "needs retentions");
    check(&["resize", "data/a/one.wsp", "1m"], 64, "retention `1m`: ");
    check(&["resize", "data/a/one.wsp", "1s:4000000000"], 64, "too large");
    check(&["resize", "data", "1m:1d", "--nobackup"], 64, "--nobackup has no meaning with a tree");
    check(&["resize", "data/a/one.wsp", "1m:1d", "--aggregation", "x"], 64, "without --schemas");
    check(&["resize", "data", "--schemas", "schemas", "--xFilesFactor", "1"], 64, "with --schemas");
    check(&["resize", "data/a/one.wsp", "--schemas", "schemas"], 64, "needs --root");
    check(&["resize", "data/a/one.wsp", "1m:1d", "90s:2d"], 64, "no file can have these archives");
    check(&["resize", "data/a/one.wsp", "1m:1d", "--xFilesFactor", "2"], 64, "from 0 to 1");
    check(&["resize", "data/a/one.wsp", "1m:1d", "--newfile", "schemas"], 1, "exists");
    check(&["resize", "data/a/short.wsp", "1m:1d"], 1, "archives up to byte");
    check(&["resize", "nowhere.wsp", "1m:1d"], 1, "nowhere.wsp: No such file");
    check(&["resize", "data", "1m:1d", "--schemas", "schemas"], 64, "exclude each other");
    check(&["resize", "data", "--schemas", "data/notes.txt"], 1, "data/notes.txt");
    check(&["resize", "data", "--schemas", "schemas", "--root", "a"], 64, "does not begin with");
    check(&["verify"], 64, "takes 1 file, not 0");
    check(&["verify", "data", "--jobs", "0"], 64, "--jobs takes 1 to");
    check(&["verify", "data", "--nonsense"], 64, "--nonsense");
    check(&["frobnicate"], 64, "unknown command");
    assert_eq!(run(&place.0, &["verify", "--help"]).0, 0);
    assert_eq!(run(&place.0, &["resize", "--help"]).0, 0);
}

#[test]
fn find_prints_names_in_order() {
    let place = tree("find");
    for path in ["a/b.wsp", "a/b-x.wsp", "b/c/d.wsp", "b/.hidden.wsp", "b/.wsp", "b/x.y.wsp"] {
        place.put(&format!("data/{path}"), b"");
    }
    place.put("data/b/d.ir/e.wsp", b"");
    place.put("data/b/new\nline.wsp", b"");
    std::os::unix::fs::symlink(place.0.join("data/a"), place.0.join("data/link")).unwrap();
    std::os::unix::fs::symlink(place.0.join("data/packed.wsp"), place.0.join("data/other/l.wsp"))
        .unwrap();
    let check = |args: &[&str], want: &str| {
        let (status, text, errors) = run_unsorted(&place.0, &[&["find", "data"], args].concat());
        let want_status = i32::from(want.is_empty());
        assert_eq!((text.as_str(), errors.as_str(), status), (want, "", want_status), "{args:?}");
    };
    let hash = "0123456789abcdef".repeat(4);
    let all = "a.b\na.b.empty\na.b.two\na.b-x\na.one\na.short\nb.c.d\nb.new\\nline\n\
               other.three\npacked\n";
    check(&["**"], &format!("_tagged.012.345.{hash}\n{all}"));
    check(&["[!_]*.**", "packed"], all);
    check(&["a.b", "a.b", "a.b*"], "a.b\na.b-x\n");
    check(&["a.b*", "--branches"], "a.b\na.b.\na.b-x\n");
    check(&["{a,b}", "--branches"], "a.\nb.\n");
    check(&["{a,b}"], "");
    check(&["b.", "b.x", "b.x.y", "b.d.ir.e", "link.*", "other.l"], "b.\n");
    check(&["b.**.d"], "b.c.d\n");
    check(&["a.{one,b.two,nothing}"], "");
    check(&["a.{one,two}", "a.b.{one,two}", "--paths"], "data/a/b/two.wsp\ndata/a/one.wsp\n");
    check(&["b.n*", "-0"], "b.new\nline\0");
    check(&["b.n*", "--paths"], "data/b/new\\nline.wsp\n");
    let json = "{\"name\":\"a.b\",\"isLeaf\":true,\"path\":\"data/a/b.wsp\"}\n\
                {\"name\":\"a.b\",\"isLeaf\":false,\"path\":\"data/a/b\"}\n";
    check(&["a.b", "--json", "--branches"], json);
    // A tagged series by its name in any spelling, and by its file.
    let series = "_tagged/eff/aae/some_DOT_metric;tag1=value2;tag2=value_DOT_2";
    place.put(&format!("data/{series}.wsp"), b"");
    let name = "some.metric;tag1=value2;tag2=value.2\n";
    check(&["some.metric;tag2=value.2;tag1=value2"], name);
    check(&["some.*;tag1=value2;tag2=value.2"], "");
    check(&["_tagged.e*.*.*;tag?=*"], &(series.replace('/', ".") + "\n"));
    // A part of the tree, whose names begin above it.
    let (status, text, _) = run_unsorted(&place.0, &["find", "data/a", "a.*", "--root", "data"]);
    assert_eq!((status, text.as_str()), (0, "a.b\na.b-x\na.one\na.short\n"));
    assert_eq!(run(&place.0, &["find", "data/a", "other.*", "--root", "data"]).0, 1);
}

#[test]
fn find_says_what_it_cannot_do() {
    let place = tree("find-wrong");
    let check = |args: &[&str], status: i32, problem: &str| {
        let (got, lines, errors) = run(&place.0, args);
        assert_eq!((got, lines.len()), (status, 0), "{args:?}: {errors}");
        assert!(errors.contains(problem), "{args:?}: {errors}");
    };
    check(&["find"], 64, "whisper find: needs a file");
    check(&["find", "data"], 64, "needs a pattern");
    check(&["find", "data", "a", ""], 64, "``: the pattern is empty");
    let deep = "x.".repeat(200);
    check(&["find", "data", &deep], 64, "more than 127 segments at byte 254");
    check(&["find", "data", "a\n;b=c"], 64, "name_control_character");
    check(&["find", "data", "a", "--json", "-0"], 64, "--null has no meaning with --json");
    check(&["find", "data", "a", "--root", "a"], 64, "does not begin with a");
    check(&["find", "nowhere", "a"], 1, "nowhere: No such file");
    check(&["find", "data/a/one.wsp", "a"], 1, "not a directory");
    check(&["verify", "data", "--match", "."], 64, "`.`: the pattern is empty");
    // What an unset variable leaves behind, and a star that was to be none.
    for pattern in ["a..b", ".**", "a.{}.b", "a.{,b}.c"] {
        check(&["verify", "data", "--match", pattern], 64, "a component is empty or may be");
        check(&["resize", "data", "1m:1d", "--match", pattern], 64, "a component is empty");
    }
    check(&["verify", "data", "--match", "a.\\*"], 64, "a backslash protects nothing");
    check(&["find", "data", "a", "--root="], 64, "--root is empty");
    // A forgotten value does not swallow the next option.
    check(&["verify", "data", "--quarantine", "--dry-run"], 64, "`--dry-run` is an option");
    check(&["verify", "data", "--root", "data"], 64, "--root has no meaning without --match");
    check(&["verify", "data/a/one.wsp", "--match", "a.*"], 64, "needs --root");
    check(&["resize", "data", "1m:1d", "--root", "data"], 64, "without --schemas or --match");
    check(&["resize", "data/a/one.wsp", "1m:1d", "--match", "a"], 64, "--match has no meaning");
}

#[test]
fn trees_are_narrowed_to_what_matches() {
    let place = tree("match");
    let verify = ["verify", "data", "--match", "a.*", "--match", "packed"];
    let (status, lines, _) = run(&place.0, &verify);
    let want = [
        "3 files: 1 good, 0 suspect, 1 damaged, 1 compressed, 0 unreadable",
        "data/a/short.wsp: damaged: file of 4336 bytes with archives up to byte 4348",
        "data/packed.wsp: compressed: compressed go-whisper file",
    ];
    assert_eq!((status, lines), (1, want.map(str::to_owned).to_vec()));
    let one = ["verify", "data/a/b/two.wsp", "--root", "data", "--match"];
    for (pattern, want, count) in [("a.**", 0, "1 files"), ("a.*", 1, "0 files")] {
        let (status, lines, errors) = run(&place.0, &[&one[..], &[pattern]].concat());
        assert!(status == want && lines[0].starts_with(count), "{lines:?}");
        assert_eq!(errors.contains("no file matches --match"), want == 1, "{errors}");
    }
    let (status, _, errors) = run(&place.0, &["resize", "data", "1m:1d", "--match", "a.none"]);
    assert!(status == 1 && errors.contains("no file matches --match"), "{errors}");
    // Of the others, not even what an interrupted run has left is touched.
    for path in ["data/a/one.wsp.carbyne-resize", "data/other/three.wsp.carbyne-resize"] {
        place.put(path, b"");
    }
    let before = contents(&place.0);
    let resize = ["resize", "data", "10s:10m", "--now", "1700000000"];
    let only = ["--match", "a.one", "--match", "a.b.t[w]o"];
    let (status, lines, errors) = run(&place.0, &[&resize[..], &only].concat());
    let want = "2 resized, 0 fit, 0 no name, 0 no rule, 0 compressed, 0 damaged, 0 failed, \
                1 unfinished; 8696 to 1496 bytes";
    assert_eq!((status, lines, errors.as_str()), (0, vec![want.to_owned()], ""));
    let changed: Vec<String> = before
        .into_iter()
        .filter(|(path, bytes)| fs::read(place.0.join(path)).ok().as_ref() != Some(bytes))
        .map(|(path, _)| path)
        .collect();
    let want = ["data/a/b/two.wsp", "data/a/one.wsp", "data/a/one.wsp.carbyne-resize"];
    assert_eq!(changed, want);
    // With the rules of names, which begin at the root too.
    let part = ["resize", "data/a", "--schemas", "schemas", "--root", "data", "--match"];
    let (_, lines, _) = run(&place.0, &[&part[..], &["a.b.tw[o]", "--dry-run"]].concat());
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[1], "data/a/b/two.wsp: would be resized: 748 to 18040 bytes");
}

#[test]
fn a_directory_that_cannot_be_read_is_told() {
    let place = tree("match-closed");
    let closed = place.0.join("data/closed");
    fs::create_dir(&closed).unwrap();
    // Closed to all but root, who finds it empty.
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o000)).unwrap();
    let is_open = fs::read_dir(&closed).is_ok();
    let (status, text, errors) = run_unsorted(&place.0, &["find", "data", "other.*"]);
    assert_eq!((status, text.as_str(), errors.as_str()), (0, "other.three\n", ""));
    let (status, text, errors) = run_unsorted(&place.0, &["find", "data", "{closed,other}.**"]);
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!((status, text.as_str()), (i32::from(!is_open), "other.three\n"));
    assert_eq!(errors.contains("data/closed: Permission denied"), !is_open, "{errors}");
}
