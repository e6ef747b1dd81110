//! `carbyne whisper verify`: which files of a tree can be used.
//!
//! A file is damaged when [`Header::parse`] refuses it: the node
//! would set it aside at its next update. Compressed go-whisper files are whole, only not ours:
//! they are counted. `--slots` also reads every slot and names files with points that no program
//! will find; such files still work and are never moved.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::whisper::{Header, HeaderError, misplaced_slots};

use crate::toolbox::args::{Args, flag, value};
use crate::toolbox::file::{self, Access, Held, Refusal};
use crate::toolbox::output::json::Json;
use crate::toolbox::output::shown::shown;
use crate::toolbox::session::{EXIT_FAILED, Failure, Session};
use crate::toolbox::subcommand::Subcommand;
use crate::toolbox::tree::replace::sync_directory_of;
use crate::toolbox::tree::walk::Scope;
use crate::toolbox::tree::wanted::Wanted;
use crate::toolbox::tree::workers::{self, Options};

pub(crate) const VERIFY: Subcommand = Subcommand {
    name: "verify",
    help: "\
Usage: carbyne whisper verify [OPTION...] PATH

Opens PATH, or every .wsp file below it, and checks that it can be used. Lists damaged files with
the reason, one a line, and ends with a count. Symbolic links are not followed.

  --quarantine DIR  moves damaged files to DIR, keeping their paths below PATH; DIR must be on the
                    same file system. A file is checked again under its lock before it is moved
  --dry-run         says what --quarantine would move, and moves nothing
  --slots           also reads every slot and lists files with points that cannot be found; these
                    files still work and are not moved
  --match GLOB      only files of metrics that match, see `carbyne whisper find --help`; may be
                    given several times. Other directories are not read. A pattern with an empty
                    component or a backslash is refused
  --root DIR        the data directory, where names begin, if PATH is only a part of it
  --json            a JSON object a line
  --jobs N          threads, by default one a processor; with --slots each holds a file in memory
  --progress        progress on standard error even if it is no terminal

A node may be running: a file is read without its lock, and a damaged one moved under it. Only a
node with `flock = true` respects that, but no node writes into a file that it finds damaged.

Exit status: 0 = all can be used, 1 = damaged or unreadable files were found, or none that match,
64 = bad arguments.
",
    options: &[
        value("quarantine"),
        flag("dry-run"),
        flag("slots"),
        value("match"),
        value("root"),
        flag("json"),
        value("jobs"),
        flag("progress"),
    ],
    run,
};

struct Asked {
    path: PathBuf,
    quarantine: Option<PathBuf>,
    dry_run: bool,
    slots: bool,
    json: bool,
}

/// The finding about one file.
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

/// By the numbers of [`State`].
const LABELS: [&str; 5] = ["good", "suspect", "damaged", "compressed", "unreadable"];

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let [path] = args.paths()?;
    let asked = Asked {
        path,
        quarantine: args.path_of("quarantine"),
        dry_run: args.has("dry-run"),
        slots: args.has("slots"),
        json: args.has("json"),
    };
    let jobs = workers::jobs(args)?;
    fs::metadata(&asked.path).map_err(Failure::at(&asked.path))?;
    let wanted = Wanted::of(args, &asked.path)?;
    if wanted.is_none() && args.has("root") {
        return Err(Failure::Usage("--root has no meaning without --match".to_owned()));
    }
    if let Some(place) = asked.quarantine.as_deref().filter(|_| !asked.dry_run) {
        fs::create_dir_all(place).map_err(Failure::at(place))?;
    }
    let skip = asked.quarantine.as_deref().and_then(|place| below(&asked.path, place));
    let scope = Scope { skip: skip.as_deref(), wanted: wanted.as_ref(), ..Scope::of(&asked.path) };
    let options = Options { scope, jobs, progress: args.has("progress") };
    let mut counts = [0_u64; LABELS.len()];
    let work = |entry: Result<&Path, (&Path, io::Error)>| Some(check(&asked, entry));
    let out = &mut *session.out;
    let tell = |finding: Finding| {
        counts[finding.state as usize] += 1;
        if finding.state == State::Good {
            return Ok(());
        }
        out.write_all(text_of(&asked, &finding).as_bytes())?;
        // Flushed, so that the line appears at once.
        out.flush()
    };
    options.for_each(work, tell, session.err)?;
    let files: u64 = counts.iter().sum();
    if asked.json {
        let mut fields = vec![("files", Json::Integer(files))];
        fields.extend(LABELS.into_iter().zip(counts.map(Json::Integer)));
        session.out.write_all(Json::Object(fields).to_line().as_bytes())?;
    } else {
        let parts = counts.iter().zip(LABELS).map(|(count, label)| format!("{count} {label}"));
        writeln!(session.out, "{files} files: {}", parts.collect::<Vec<_>>().join(", "))?;
    }
    Wanted::check_found(wanted.as_ref(), files)?;
    let is_bad = [State::Suspect, State::Damaged, State::Unreadable];
    Ok(if is_bad.iter().any(|state| counts[*state as usize] > 0) { EXIT_FAILED } else { 0 })
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
    let problem = match asked.slots {
        true => file::read(path).map(|whole| slot_problem(whole.header(), whole.bytes())),
        false => file::read_header(path).map(|_| None),
    };
    match problem {
        Ok(None) => finding(path, State::Good, String::new()),
        Ok(Some(reason)) => finding(path, State::Suspect, reason),
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
fn slot_problem(header: &Header, bytes: &[u8]) -> Option<String> {
    let counts = header.archives().iter().map(|archive| misplaced_slots(bytes, archive));
    let problems = counts.enumerate().filter(|(_, count)| *count > 0);
    let texts: Vec<String> =
        problems.map(|(at, count)| format!("archive {at}: {count} misplaced slots")).collect();
    (!texts.is_empty()).then(|| texts.join(", "))
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
    let held = Held::open(path, Access::Read).map_err(|refusal| refusal.to_string())?;
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
            Ok(()) if !held.is(&target).map_err(say)? => {
                fs::remove_file(&target).map_err(say)?;
                return Err("somebody put another file in its place".to_owned());
            }
            Ok(()) => {
                sync_directory_of(&target).map_err(say)?;
                fs::remove_file(path).map_err(say)?;
                return Ok(target);
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(say(error)),
        }
    }
    Err("a hundred files of this name are there".to_owned())
}

fn text_of(asked: &Asked, finding: &Finding) -> String {
    let label = LABELS[finding.state as usize];
    if asked.json {
        let mut fields = vec![
            ("path", Json::path(&finding.path)),
            ("state", Json::Text(label.to_owned())),
            ("reason", Json::Text(finding.reason.clone())),
        ];
        let key = if asked.dry_run { "wouldMoveTo" } else { "movedTo" };
        fields.extend(finding.moved_to.as_ref().map(|target| (key, Json::path(target))));
        return Json::Object(fields).to_line();
    }
    let verb = if asked.dry_run { "would move" } else { "moved" };
    let moved = finding.moved_to.as_ref().map(|target| format!("; {verb} to {}", shown(target)));
    let path = shown(&finding.path);
    format!("{path}: {label}: {}{}\n", finding.reason, moved.unwrap_or_default())
}
