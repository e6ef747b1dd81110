//! `carbyne whisper resize` on trees: every file to the archives it should have.
//!
//! A tree may belong to a running node: [`crate::toolbox::tree::replace`] replaces a file under it.
//! The work may be broken off at any moment and started again: what is done fits and is passed
//! over, and unfinished files are removed. Each thread holds one file and its successor in memory.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::metric::name::name_of_path;
use crate::schema::{Rules, Source};
use crate::whisper::{Header, HeaderError, migrate};

use crate::toolbox::args::Args;
use crate::toolbox::commands::set::Methods;
use crate::toolbox::file::{self, Access, Held, Refusal};
use crate::toolbox::output::json::Json;
use crate::toolbox::output::shown::shown;
use crate::toolbox::session::{EXIT_FAILED, Failure, Session};
use crate::toolbox::tree::replace::{UNFINISHED, is_unfinished, remove_unfinished, replace};
use crate::toolbox::tree::walk::Scope;
use crate::toolbox::tree::wanted::{Wanted, names_root};
use crate::toolbox::tree::workers::{self, Options};

/// Longest rules file in bytes; a longer one is refused.
const RULES_BYTES_MAX: u64 = 16 << 20;

/// How often a file is begun anew that changed meanwhile.
const ATTEMPTS: usize = 3;

/// What becomes of a file of the tree.
#[derive(Debug)]
enum State {
    Resized {
        old_bytes: u64,
        new_bytes: u64,
    },
    Fits,
    NoName,
    NoRule,
    Compressed,
    Damaged(HeaderError),
    Failed(String),
    /// What an interrupted run left, removed.
    Removed,
}

/// By [`State::number`]: for people, and as a key of JSON.
const LABELS: [(&str, &str); 8] = [
    ("resized", "resized"),
    ("fit", "fit"),
    ("no name", "noName"),
    ("no rule", "noRule"),
    ("compressed", "compressed"),
    ("damaged", "damaged"),
    ("failed", "failed"),
    ("unfinished", "unfinished"),
];

impl State {
    fn number(&self) -> usize {
        match self {
            State::Resized { .. } => 0,
            State::Fits => 1,
            State::NoName => 2,
            State::NoRule => 3,
            State::Compressed => 4,
            State::Damaged(_) => 5,
            State::Failed(_) => 6,
            State::Removed => 7,
        }
    }

    fn is_bad(&self) -> bool {
        matches!(self, State::Damaged(_) | State::Failed(_))
    }
}

struct Finding {
    path: PathBuf,
    state: State,
}

/// Where the archives of a file come from.
enum Layouts<'a> {
    /// By its name.
    Rules { rules: &'a Rules, root: &'a Path, with_methods: bool },
    /// All files have the same.
    Same { header: &'a Header, methods: &'a Methods },
}

/// What every thread needs to know.
struct Task<'a> {
    layouts: Layouts<'a>,
    dry_run: bool,
    now_s: u32,
}

/// Brings the files of a tree to what the rules say of their names.
pub(crate) fn by_rules(
    args: &Args,
    path: &Path,
    schemas: &Path,
    session: &mut Session<'_>,
) -> Result<u8, Failure> {
    let root = names_root(args, path)?;
    let aggregation = args.path_of("aggregation");
    let rules = read_rules(schemas, aggregation.as_deref(), session)?;
    let with_methods = aggregation.is_some();
    migrate_tree(args, path, Layouts::Rules { rules: &rules, root: &root, with_methods }, session)
}

/// Brings all files of a tree to the same archives, those of `header`.
pub(crate) fn to_archives(
    args: &Args,
    path: &Path,
    header: &Header,
    methods: &Methods,
    session: &mut Session<'_>,
) -> Result<u8, Failure> {
    migrate_tree(args, path, Layouts::Same { header, methods }, session)
}

fn migrate_tree(
    args: &Args,
    path: &Path,
    layouts: Layouts<'_>,
    session: &mut Session<'_>,
) -> Result<u8, Failure> {
    let (is_json, dry_run) = (args.has("json"), args.has("dry-run"));
    let task = Task { layouts, dry_run, now_s: args.now_s()? };
    let wanted = Wanted::of(args, path)?;
    let scope =
        Scope { other_suffix: Some(UNFINISHED), wanted: wanted.as_ref(), ..Scope::of(path) };
    let options = Options { scope, jobs: workers::jobs(args)?, progress: args.has("progress") };
    let mut counts = [0_u64; LABELS.len()];
    let (mut old_bytes, mut new_bytes, mut is_bad) = (0, 0, false);
    let work = |entry: Result<&Path, (&Path, io::Error)>| {
        let (path, state) = match entry {
            Ok(path) => (path, task.state_of(path)),
            Err((path, error)) => (path, State::Failed(error.to_string())),
        };
        Some(Finding { path: path.to_owned(), state })
    };
    let out = &mut *session.out;
    let tell = |finding: Finding| {
        counts[finding.state.number()] += 1;
        is_bad |= finding.state.is_bad();
        if let State::Resized { old_bytes: old, new_bytes: new } = finding.state {
            (old_bytes, new_bytes) = (old_bytes + old, new_bytes + new);
        }
        let text = match is_json {
            true => json_of(&finding, dry_run),
            false => text_of(&finding, dry_run),
        };
        let Some(text) = text else { return Ok(()) };
        out.write_all(text.as_bytes())?;
        // Flushed, so that the line appears at once.
        out.flush()
    };
    options.for_each(work, tell, session.err)?;
    let summary = match is_json {
        true => {
            let counted = LABELS.iter().zip(counts);
            let counted = counted.map(|((_, key), count)| (*key, Json::Integer(count)));
            let mut fields: Vec<(&str, Json)> = counted.collect();
            fields.push(("oldBytes", Json::Integer(old_bytes)));
            fields.push(("newBytes", Json::Integer(new_bytes)));
            fields.push(("dryRun", Json::Bool(dry_run)));
            Json::Object(fields).to_line()
        }
        false => {
            let counted = LABELS.iter().zip(counts);
            let counted = counted.map(|((label, _), count)| format!("{count} {label}"));
            let counted = counted.collect::<Vec<_>>().join(", ");
            let hint = if dry_run { " (dry run, nothing was changed)" } else { "" };
            format!("{counted}; {old_bytes} to {new_bytes} bytes{hint}\n")
        }
    };
    session.out.write_all(summary.as_bytes())?;
    Wanted::check_found(wanted.as_ref(), counts.iter().sum())?;
    Ok(if is_bad { EXIT_FAILED } else { 0 })
}

fn read_rules(
    schemas: &Path,
    aggregation: Option<&Path>,
    session: &mut Session<'_>,
) -> Result<Rules, Failure> {
    let read = |path: &Path| {
        let text = read_text(path).map_err(Failure::at(path))?;
        Ok::<_, Failure>((path.display().to_string(), text))
    };
    let schemas_text = read(schemas)?;
    let aggregation = aggregation.map(read).transpose()?;
    let source = Source { file: &schemas_text.0, text: &schemas_text.1 };
    let aggregation = aggregation.as_ref().map(|(file, text)| Source { file, text });
    // The error says itself which of the two files it is in.
    let (rules, notices) = Rules::parse(&source, aggregation.as_ref())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    for notice in notices {
        writeln!(session.err, "carbyne: {notice}")?;
    }
    Ok(rules)
}

/// Reads a text file of bounded length.
fn read_text(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(RULES_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > RULES_BYTES_MAX {
        let problem = format!("over {RULES_BYTES_MAX} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}

impl Layouts<'_> {
    /// The header that a file is to have, before its own method and xFilesFactor are put into it;
    /// or why it stays as it is.
    fn header(&self, path: &Path) -> Result<Header, State> {
        let (rules, root) = match self {
            Layouts::Rules { rules, root, .. } => (rules, root),
            Layouts::Same { header, .. } => return Ok((*header).clone()),
        };
        let relative = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes();
        let name = name_of_path(relative).and_then(|name| String::from_utf8(name).ok());
        let resolved = rules.resolve(&name.ok_or(State::NoName)?);
        if !resolved.is_listed || resolved.gave_up.is_some() {
            return Err(State::NoRule);
        }
        Ok(Header::new(&resolved.spec).expect("the rules' archives were checked"))
    }

    /// Puts method and xFilesFactor into a header, if they are not those of the rules.
    fn complete(&self, header: &mut Header, old: &Header) {
        match self {
            Layouts::Rules { with_methods: true, .. } => {}
            Layouts::Rules { .. } => {
                header.aggregation = old.aggregation;
                header.x_files_factor = old.x_files_factor;
            }
            Layouts::Same { methods, .. } => methods.apply(header, old),
        }
    }
}

impl Task<'_> {
    fn state_of(&self, path: &Path) -> State {
        if is_unfinished(path) {
            return self.clear(path);
        }
        let mut header = match self.layouts.header(path) {
            Ok(header) => header,
            Err(state) => return state,
        };
        for _ in 0..ATTEMPTS {
            match self.bring(path, &mut header) {
                Ok(state) => return state,
                Err(Refusal::Disturbed) => {}
                Err(Refusal::Header(HeaderError::Compressed)) => return State::Compressed,
                Err(Refusal::Header(error)) => return State::Damaged(error),
                Err(refusal) => return State::Failed(refusal.to_string()),
            }
        }
        State::Failed(Refusal::Disturbed.to_string())
    }

    /// Brings one file to its layout. It is looked at without a lock first: most files fit.
    fn bring(&self, path: &Path, new: &mut Header) -> Result<State, Refusal> {
        let (old, _) = file::read_header(path)?;
        self.layouts.complete(new, &old);
        if old == *new {
            return Ok(State::Fits);
        }
        let (old_bytes, new_bytes) = (old.file_bytes(), new.file_bytes());
        if !self.dry_run {
            let held = Held::open(path, Access::Read)?;
            let old = held.read()?;
            self.layouts.complete(new, old.header());
            let bytes = migrate(old.bytes(), old.header(), new, self.now_s);
            replace(&held, old.bytes(), &bytes)?;
        }
        Ok(State::Resized { old_bytes, new_bytes })
    }

    fn clear(&self, path: &Path) -> State {
        if self.dry_run {
            return State::Removed;
        }
        match remove_unfinished(path) {
            Ok(true) => State::Removed,
            Ok(false) => State::Failed("another resize is working on it".to_owned()),
            // Finished or removed by its maker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::Removed,
            Err(error) => State::Failed(error.to_string()),
        }
    }
}

/// The line about a file, if it deserves one.
fn text_of(finding: &Finding, dry_run: bool) -> Option<String> {
    let path = shown(&finding.path);
    match &finding.state {
        State::Resized { old_bytes, new_bytes } if dry_run => {
            Some(format!("{path}: would be resized: {old_bytes} to {new_bytes} bytes\n"))
        }
        State::Damaged(error) => Some(format!("{path}: damaged: {error}\n")),
        State::Failed(reason) => Some(format!("{path}: failed: {reason}\n")),
        _ => None,
    }
}

/// The same as a line of JSON; there, files that were resized are listed too.
fn json_of(finding: &Finding, dry_run: bool) -> Option<String> {
    let more = match &finding.state {
        State::Resized { old_bytes, new_bytes } => {
            vec![("oldBytes", Json::Integer(*old_bytes)), ("newBytes", Json::Integer(*new_bytes))]
        }
        State::Damaged(error) => vec![("reason", Json::Text(error.to_string()))],
        State::Failed(reason) => vec![("reason", Json::Text(reason.clone()))],
        _ => return None,
    };
    let state = match &finding.state {
        State::Resized { .. } if dry_run => "wouldResize",
        state => LABELS[state.number()].1,
    };
    let mut fields =
        vec![("path", Json::path(&finding.path)), ("state", Json::Text(state.to_owned()))];
    fields.extend(more);
    Some(Json::Object(fields).to_line())
}
