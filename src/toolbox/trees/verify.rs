//! `carbyne whisper verify`: which files of a tree can be used.
//!
//! A file is damaged when [`Header::parse`] refuses it: the node would set it aside at its next
//! update. Compressed go-whisper files are whole, only not ours: they are counted. `--slots` also
//! reads every slot and names files with points that no program will find; such files still work
//! and are never moved.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use super::replace::{self, Held, Refusal};
use super::tree::{self, Options};
use super::{EXIT_FAILED, Failure, job_count, quote};
use crate::whisper::{Header, HeaderError, misplaced_slots};

const HELP: &str = "\
Usage: carbyne whisper verify PATH [--quarantine DIR] [--dry-run] [--slots] [--json]
                                   [--jobs N] [--progress]

Opens PATH, or every .wsp file below it, and checks that it can be used. Lists damaged files with
the reason, one a line, and ends with a count. Symbolic links are not followed.

  --quarantine DIR  moves damaged files to DIR, keeping their paths below PATH; DIR must be on the
                    same file system. A file is checked again under its lock before it is moved
  --dry-run         says what --quarantine would move, and moves nothing
  --slots           also reads every slot and lists files with points that cannot be found; these
                    files still work and are not moved
  --json            a JSON object a line
  --jobs N          threads, by default one a processor
  --progress        progress on standard error even if it is no terminal

Exit status: 0 = all can be used, 1 = damaged or unreadable files were found, 64 = bad arguments.
";

struct Asked {
    path: PathBuf,
    quarantine: Option<PathBuf>,
    dry_run: bool,
    slots: bool,
    json: bool,
    jobs: usize,
    progress: bool,
}

/// What is to be said about one file.
struct Finding {
    path: PathBuf,
    state: State,
    reason: String,
    moved_to: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Good,
    /// Usable, with points in wrong slots.
    Suspect,
    Damaged,
    Compressed,
    /// Nothing is known about it.
    Unreadable,
}

impl State {
    fn label(self) -> &'static str {
        match self {
            State::Good => "good",
            State::Suspect => "suspect",
            State::Damaged => "damaged",
            State::Compressed => "compressed",
            State::Unreadable => "unreadable",
        }
    }
}

/// Runs the command.
pub(super) fn run(
    args: &[OsString],
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Failure> {
    let Some(asked) = parse(args)? else {
        out.write_all(HELP.as_bytes())?;
        return Ok(0);
    };
    if let Err(error) = fs::metadata(&asked.path) {
        return Err(Failure::Failed(format!("{}: {error}", asked.path.display())));
    }
    if let Some(place) = asked.quarantine.as_deref().filter(|_| !asked.dry_run) {
        let fail = |error| Failure::Failed(format!("{}: {error}", place.display()));
        fs::create_dir_all(place).map_err(fail)?;
    }
    let skip = asked.quarantine.as_deref().and_then(|place| below(&asked.path, place));
    let options = Options {
        path: &asked.path,
        skip: skip.as_deref(),
        other_suffix: None,
        jobs: asked.jobs,
        progress: asked.progress,
    };
    let mut counts = [0_u64; 5];
    let work = |entry: Result<&Path, (&Path, io::Error)>| Some(check(&asked, entry));
    let tell = |finding: Finding| {
        counts[finding.state as usize] += 1;
        print(&asked, &finding, out)
    };
    options.for_each(work, tell, err)?;
    let [good, suspect, damaged, compressed, unreadable] = counts;
    let files: u64 = counts.iter().sum();
    if asked.json {
        writeln!(
            out,
            "{{\"files\":{files},\"good\":{good},\"suspect\":{suspect},\"damaged\":{damaged},\
             \"compressed\":{compressed},\"unreadable\":{unreadable}}}"
        )?;
    } else {
        writeln!(
            out,
            "{files} files: {good} good, {suspect} suspect, {damaged} damaged, \
             {compressed} compressed, {unreadable} unreadable"
        )?;
    }
    Ok(if suspect + damaged + unreadable > 0 { EXIT_FAILED } else { 0 })
}

fn parse(args: &[OsString]) -> Result<Option<Asked>, Failure> {
    let mut asked = Asked {
        path: PathBuf::new(),
        quarantine: None,
        dry_run: false,
        slots: false,
        json: false,
        jobs: tree::jobs_default(),
        progress: false,
    };
    let mut paths = Vec::new();
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Long("quarantine") => asked.quarantine = Some(parser.value()?.into()),
            Arg::Long("dry-run") => asked.dry_run = true,
            Arg::Long("slots") => asked.slots = true,
            Arg::Long("json") => asked.json = true,
            Arg::Long("jobs") => asked.jobs = job_count(&mut parser)?,
            Arg::Long("progress") => asked.progress = true,
            Arg::Value(path) => paths.push(PathBuf::from(path)),
            other => return Err(other.unexpected().into()),
        }
    }
    let [path] = <[PathBuf; 1]>::try_from(paths)
        .map_err(|paths| Failure::Usage(format!("verify takes one path, not {}", paths.len())))?;
    asked.path = path;
    Ok(Some(asked))
}

/// A place inside a tree, spelled from the tree's path as a walk spells it.
fn below(root: &Path, place: &Path) -> Option<PathBuf> {
    let whole = |path: &Path| path.canonicalize().ok();
    let relative = whole(place)?.strip_prefix(whole(root)?).ok()?.to_owned();
    Some(root.join(relative))
}

fn check(asked: &Asked, entry: Result<&Path, (&Path, io::Error)>) -> Finding {
    let finding = |path: &Path, state, reason: String| Finding {
        path: path.to_owned(),
        state,
        reason,
        moved_to: None,
    };
    let path = match entry {
        Ok(path) => path,
        Err((path, error)) => return finding(path, State::Unreadable, error.to_string()),
    };
    let header = replace::open(path).and_then(|file| Ok((replace::read_header(&file)?, file)));
    match header {
        Ok((header, file)) if asked.slots => match slot_problem(&header, &file) {
            Ok(None) => finding(path, State::Good, String::new()),
            Ok(Some(reason)) => finding(path, State::Suspect, reason),
            Err(error) => finding(path, State::Unreadable, error.to_string()),
        },
        Ok(_) => finding(path, State::Good, String::new()),
        Err(Refusal::Header(HeaderError::Compressed)) => {
            finding(path, State::Compressed, HeaderError::Compressed.to_string())
        }
        Err(Refusal::Header(error)) => {
            let mut found = finding(path, State::Damaged, error.to_string());
            if let Some(place) = &asked.quarantine {
                match quarantine(asked, place, path) {
                    Ok(target) => found.moved_to = Some(target),
                    Err(error) => found.reason += &format!("; not moved: {error}"),
                }
            }
            found
        }
        Err(error) => finding(path, State::Unreadable, error.to_string()),
    }
}

/// What is wrong with the slots of a file, if anything.
fn slot_problem(header: &Header, mut file: &File) -> io::Result<Option<String>> {
    let length = usize::try_from(header.file_bytes()).expect("usize has 64 bits");
    let mut bytes = Vec::with_capacity(length);
    io::Read::read_to_end(&mut file, &mut bytes)?;
    if bytes.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
    }
    let counts = header.archives().iter().map(|archive| misplaced_slots(&bytes, archive));
    let problems = counts.enumerate().filter(|(_, count)| *count > 0);
    let texts: Vec<String> =
        problems.map(|(at, count)| format!("archive {at}: {count} misplaced slots")).collect();
    Ok((!texts.is_empty()).then(|| texts.join(", ")))
}

/// Moves a file that is still damaged under its lock. Nothing is ever replaced at the other end.
fn quarantine(asked: &Asked, place: &Path, path: &Path) -> Result<PathBuf, String> {
    let say = |error: io::Error| error.to_string();
    let relative = match path.strip_prefix(&asked.path) {
        Ok(relative) if !relative.as_os_str().is_empty() => relative.to_owned(),
        _ => PathBuf::from(path.file_name().ok_or("no file name")?),
    };
    let target = place.join(relative);
    if asked.dry_run {
        return Ok(target);
    }
    let held = Held::open(path).map_err(|refusal| refusal.to_string())?;
    if held.read_header().is_ok() {
        return Err("it is whole now".to_owned());
    }
    let parent = target.parent().ok_or("no directory")?;
    fs::create_dir_all(parent).map_err(say)?;
    for attempt in 0..100_u32 {
        let mut target = target.clone().into_os_string();
        if attempt > 0 {
            target.push(format!("-{attempt}"));
        }
        let target = PathBuf::from(target);
        // A link never replaces a file, as a rename would.
        match fs::hard_link(path, &target) {
            Ok(()) => {
                replace::sync_directory_of(&target).map_err(say)?;
                fs::remove_file(path).map_err(say)?;
                return Ok(target);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(say(error)),
        }
    }
    Err("a hundred files of this name are there".to_owned())
}

fn print(asked: &Asked, finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    if finding.state == State::Good {
        return Ok(());
    }
    let path = finding.path.to_string_lossy();
    let label = finding.state.label();
    let target = finding.moved_to.as_ref().map(|target| target.to_string_lossy());
    if asked.json {
        let key = if asked.dry_run { "would_move_to" } else { "moved_to" };
        let moved = target.map(|target| format!(",\"{key}\":{}", quote(&target)));
        return writeln!(
            out,
            "{{\"path\":{},\"state\":\"{label}\",\"reason\":{}{}}}",
            quote(&path),
            quote(&finding.reason),
            moved.unwrap_or_default()
        );
    }
    let verb = if asked.dry_run { "would move" } else { "moved" };
    let moved = target.map(|target| format!("; {verb} to {target}")).unwrap_or_default();
    writeln!(out, "{path}: {label}: {}{moved}", finding.reason)
}
