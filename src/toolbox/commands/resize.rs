//! `carbyne whisper resize`: one file in other archives, byte for byte as `whisper-resize.py`
//! leaves it; [`super::resize_tree`] does trees.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::metric::series::{Aggregation, SeriesSpec};
use crate::whisper::{Header, Resample, WholeFile, resize};

use crate::toolbox::args::{Args, flag, value};
use crate::toolbox::commands::create::read_archives;
use crate::toolbox::commands::resize_tree;
use crate::toolbox::commands::set::Methods;
use crate::toolbox::file::{self, Access, Held, Refusal};
use crate::toolbox::output::json::Json;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;
use crate::toolbox::tree::replace::{keep_copy, replace, sync_directory_of, unfinished_of};

pub(crate) const RESIZE: Subcommand = Subcommand {
    name: "resize",
    help: "\
Usage: carbyne whisper resize [OPTION...] FILE RETENTION...
       carbyne whisper resize [OPTION...] TREE RETENTION...
       carbyne whisper resize [OPTION...] TREE --schemas FILE [--aggregation FILE]

One FILE, with the flags and the result of whisper-resize.py:
  --xFilesFactor NUMBER     another xFilesFactor
  --aggregationMethod NAME  another aggregation method
  --aggregate               values of the new archives are made of windows of old ones
  --newfile FILE            writes a new file and leaves the old one alone
  --nobackup                keeps no copy in FILE.bak
  --force                   accepted and without effect, as in whisper-resize.py

A TREE, all its files to the same archives, with --xFilesFactor and --aggregationMethod if given;
or each file to the archives that storage-schemas.conf gives its name now:
  --schemas FILE      storage-schemas.conf; TREE may be a single file
  --aggregation FILE  storage-aggregation.conf; without it files keep method and xFilesFactor
In both ways:
  --match GLOB        only files of metrics that match, see `carbyne whisper find --help`; may be
                      given several times. Other directories are not read. A pattern with an
                      empty component or a backslash is refused
  --root DIR          the data directory, where names begin, if TREE is only a part of it
Archives of the same step are copied; coarser ones are rolled up from finer ones with the new
method and xFilesFactor; coarse points stay where nothing finer is known. No copies are kept. Left
alone and counted are files that fit, that no section matches, that are compressed or damaged, and
files without a name (hashed tags).

All:
  --dry-run         says what would be resized, and changes nothing
  --now TIME        seconds since 1970 from which ages count, by default the clock
  --json            a JSON object a line
  --jobs N          threads, by default one a processor; each holds two files in memory
  --progress        progress on standard error even if it is no terminal

With a running node: the node must have `flock = true`, and so must every other writer. Each file
is rebuilt beside the old one under its lock, synced, and renamed over it; the node finds the new
file at its next update. A file that changes under its lock all the same is left as it is. The
command may be interrupted and started again.

Exit status: 0 = done, 1 = a file is damaged or could not be resized, or none matches, 64 = bad
arguments.
",
    options: &[
        value("xFilesFactor"),
        value("aggregationMethod"),
        flag("aggregate"),
        value("newfile"),
        flag("nobackup"),
        flag("force"),
        value("schemas"),
        value("aggregation"),
        value("match"),
        value("root"),
        flag("dry-run"),
        value("now"),
        flag("json"),
        value("jobs"),
        flag("progress"),
    ],
    run,
};

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let path = args.path()?;
    let words = args.texts(1)?;
    let is_tree = path.is_dir() || args.has("schemas");
    let foreign: &[&str] = match (is_tree, args.has("schemas")) {
        (true, true) => &["xFilesFactor", "aggregationMethod", "aggregate", "newfile", "nobackup"],
        (true, false) => &["aggregation", "aggregate", "newfile", "nobackup"],
        (false, _) => &["aggregation", "root", "match"],
    };
    if let Some(option) = foreign.iter().find(|option| args.has(option)) {
        let what = match (is_tree, args.has("schemas")) {
            (true, true) => "with --schemas",
            (true, false) => "with a tree and retentions",
            (false, _) => "without --schemas",
        };
        return Err(Failure::Usage(format!("--{option} has no meaning {what}")));
    }
    if is_tree && args.has("root") && !args.has("schemas") && !args.has("match") {
        let problem = "--root has no meaning without --schemas or --match";
        return Err(Failure::Usage(problem.to_owned()));
    }
    fs::metadata(&path).map_err(Failure::at(&path))?;
    match args.path_of("schemas") {
        Some(schemas) if words.is_empty() => resize_tree::by_rules(args, &path, &schemas, session),
        Some(_) => Err(Failure::Usage("--schemas and retentions exclude each other".to_owned())),
        None if words.is_empty() => {
            let what = if is_tree { "a tree needs --schemas or" } else { "needs" };
            Err(Failure::Usage(format!("{what} retentions behind it, such as 60:1440")))
        }
        None => {
            // Whatever method a file has: these are its archives.
            let spec = SeriesSpec {
                retentions: read_archives(&words)?,
                x_files_factor: 0.5,
                aggregation: Aggregation::Average,
            };
            let header = Header::new(&spec).map_err(|error| {
                Failure::Usage(format!("no file can have these archives: {error}"))
            })?;
            let methods = Methods::read(args)?;
            match is_tree {
                true => resize_tree::to_archives(args, &path, &header, &methods, session),
                false => resize_file(args, &path, header, &methods, session),
            }
        }
    }
}

fn resize_file(
    args: &Args,
    path: &Path,
    mut header: Header,
    methods: &Methods,
    session: &mut Session<'_>,
) -> Result<u8, Failure> {
    let now_s = args.now_s()?;
    let (is_json, dry_run) = (args.has("json"), args.has("dry-run"));
    let fail = Failure::at(path);
    let held = Held::open(path, Access::Read).map_err(&fail)?;
    let old = held.read().map_err(&fail)?;
    methods.apply(&mut header, old.header());
    if !dry_run {
        let how = match (args.has("aggregate"), methods.x_files_factor) {
            (false, _) => Resample::Keep,
            (true, Some(share)) => Resample::Aggregate(share.given),
            (true, None) => Resample::Aggregate(f64::from(old.header().x_files_factor)),
        };
        let new = resize(old.bytes(), old.header(), &header, how, now_s);
        let mut silent = io::sink();
        let out: &mut dyn Write = if is_json { &mut silent } else { &mut *session.out };
        match args.path_of("newfile") {
            Some(newfile) => {
                create(&newfile, &new).map_err(Failure::at(&newfile))?;
                tell_made(&newfile, &new, how, out)?;
            }
            None => {
                tell_made(&unfinished_of(path), &new, how, out)?;
                exchange(args, &held, &old, &new, out).map_err(&fail)?;
            }
        }
    }
    let (old_bytes, new_bytes) = (old.bytes().len(), header.file_bytes());
    if is_json {
        let state = if dry_run { "wouldResize" } else { "resized" };
        let mut fields = vec![
            ("path", Json::path(path)),
            ("state", Json::Text(state.to_owned())),
            ("oldBytes", Json::count(old_bytes)),
            ("newBytes", Json::Integer(new_bytes)),
        ];
        fields.extend(args.path_of("newfile").map(|newfile| ("newFile", Json::path(&newfile))));
        session.out.write_all(Json::Object(fields).to_line().as_bytes())?;
    } else if dry_run {
        let shown = path.display();
        writeln!(session.out, "{shown}: would be resized: {old_bytes} to {new_bytes} bytes")?;
    }
    Ok(0)
}

/// The first lines of whisper-resize.py.
fn tell_made(newfile: &Path, new: &[u8], how: Resample, out: &mut dyn Write) -> io::Result<()> {
    let (shown, bytes) = (newfile.display(), new.len());
    let with = if how == Resample::Keep { "without" } else { "with" };
    writeln!(out, "Retrieving all data from the archives")?;
    writeln!(out, "Creating new whisper database: {shown}\nCreated: {shown} ({bytes} bytes)")?;
    writeln!(out, "Migrating data {with} aggregation...")
}

fn exchange(
    args: &Args,
    held: &Held,
    old: &WholeFile,
    new: &[u8],
    out: &mut dyn Write,
) -> Result<(), Refusal> {
    let told = file::refuse("write the answer");
    if !args.has("nobackup") {
        let mut backup = held.path().as_os_str().to_owned();
        backup.push(".bak");
        let backup = PathBuf::from(backup);
        keep_copy(held, &backup)?;
        writeln!(out, "Renaming old database to: {}", backup.display()).map_err(&told)?;
    }
    replace(held, old.bytes(), new)?;
    writeln!(out, "Renaming new database to: {}", held.path().display()).map_err(&told)
}

/// Makes a file that did not exist, all of it or nothing.
fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    let written = file.write_all(bytes).and_then(|()| file.sync_all());
    if written.is_err() {
        // The first error is the one to report.
        let _ = fs::remove_file(path);
    }
    written.and_then(|()| sync_directory_of(path))
}
