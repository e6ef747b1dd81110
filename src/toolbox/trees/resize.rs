//! `carbyne whisper resize`: files in another layout, one like `whisper-resize.py`, or a tree
//! brought to the current rules.
//!
//! A tree may belong to a running node; [`super::replace`] says how a file is exchanged under it.
//! The work may be broken off at any moment and started again: what is done fits and is passed
//! over, and unfinished files are removed. Each thread holds one file and its successor in memory.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use lexopt::{Arg, Parser};

use super::replace::{self, Held, Refusal, UNFINISHED};
use super::tree::{self, Options};
use super::{EXIT_FAILED, Failure, job_count, quote};
use crate::metric::name::name_of_path;
use crate::metric::series::{Aggregation, Retention, SeriesSpec, check_archives};
use crate::schema::retention::read_as_carbon;
use crate::schema::{Rules, Source};
use crate::sys::clock;
use crate::whisper::{Header, HeaderError, Resample, migrate, resize};

const HELP: &str = "\
Usage: carbyne whisper resize FILE RETENTION... [--xFilesFactor X] [--aggregationMethod METHOD]
                       [--aggregate] [--newfile FILE] [--nobackup] [--force] [--now TIME]
       carbyne whisper resize TREE --schemas FILE [--aggregation FILE] [--root DIR] [--dry-run]
                       [--json] [--jobs N] [--progress] [--now TIME]

One file, with the flags and the result of whisper-resize.py:
  --aggregate       values of the new archives are made of windows of old ones
  --newfile FILE    writes a new file and leaves the old one alone
  --nobackup        keeps no copy in FILE.bak
  --force           accepted and without effect, as in whisper-resize.py

A tree, so that each file has the archives that storage-schemas.conf gives its name now:
  --schemas FILE      storage-schemas.conf
  --aggregation FILE  storage-aggregation.conf; without it files keep method and xFilesFactor
  --root DIR          the data directory, where names begin, if TREE is only a part of it
  --dry-run           lists what would be resized, and changes nothing
Archives of the same step are copied; coarser ones are rolled up from finer ones with the file's
method and xFilesFactor; coarse points stay where nothing finer is known. Left alone and counted
are files that fit, that no section matches, that are compressed or damaged, and files without a
name (hashed tags).

Both:
  --now TIME        seconds since 1970 from which ages count, by default the clock
  --json            a JSON object a line
  --jobs N          threads, by default one a processor; each holds two files in memory
  --progress        progress on standard error even if it is no terminal

With a running node: the node must have `flock = true`, and so must every other writer. Each file
is rebuilt beside the old one under its lock, synced, and renamed over it; the node finds the new
file at its next update. A file that changes under its lock all the same is left as it is. The
command may be interrupted and started again.

Exit status: 0 = done, 1 = a file is damaged or could not be resized, 64 = bad arguments.
";

/// Longest rules file in bytes; a longer one is refused.
const RULES_BYTES_MAX: u64 = 16 << 20;

/// How often a file is begun anew that changed meanwhile.
const ATTEMPTS: usize = 3;

#[derive(Default)]
struct Asked {
    words: Vec<OsString>,
    x_files_factor: Option<f64>,
    method: Option<Aggregation>,
    aggregate: bool,
    newfile: Option<PathBuf>,
    nobackup: bool,
    schemas: Option<PathBuf>,
    aggregation: Option<PathBuf>,
    root: Option<PathBuf>,
    dry_run: bool,
    json: bool,
    jobs: usize,
    progress: bool,
    now_s: u32,
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
    let Some((path, rest)) = asked.words.split_first() else {
        return Err(Failure::Usage("resize needs a file or a tree".to_owned()));
    };
    let path = Path::new(path);
    if let Err(error) = fs::metadata(path) {
        return Err(Failure::Failed(format!("{}: {error}", path.display())));
    }
    match &asked.schemas {
        Some(schemas) if rest.is_empty() => resize_tree(&asked, path, schemas, out, err),
        Some(_) => Err(Failure::Usage("--schemas and retentions exclude each other".to_owned())),
        None if path.is_dir() => Err(Failure::Usage("a tree needs --schemas".to_owned())),
        None => resize_file(&asked, path, rest, out),
    }
}

fn parse(args: &[OsString]) -> Result<Option<Asked>, Failure> {
    let mut asked = Asked { jobs: tree::jobs_default(), now_s: clock::now_s(), ..Asked::default() };
    let mut parser = Parser::from_args(args);
    while let Some(arg) = parser.next()? {
        match arg {
            Arg::Short('h') | Arg::Long("help") => return Ok(None),
            Arg::Long("xFilesFactor") => asked.x_files_factor = Some(share(&mut parser)?),
            Arg::Long("aggregationMethod") => {
                let name = parser.value()?.to_string_lossy().into_owned();
                let method = Aggregation::from_name(&name);
                let unknown = || Failure::Usage(format!("unknown aggregation method `{name}`"));
                asked.method = Some(method.ok_or_else(unknown)?);
            }
            Arg::Long("aggregate") => asked.aggregate = true,
            Arg::Long("newfile") => asked.newfile = Some(parser.value()?.into()),
            Arg::Long("nobackup") => asked.nobackup = true,
            Arg::Long("force") => {}
            Arg::Long("schemas") => asked.schemas = Some(parser.value()?.into()),
            Arg::Long("aggregation") => asked.aggregation = Some(parser.value()?.into()),
            Arg::Long("root") => asked.root = Some(parser.value()?.into()),
            Arg::Long("dry-run") => asked.dry_run = true,
            Arg::Long("json") => asked.json = true,
            Arg::Long("jobs") => asked.jobs = job_count(&mut parser)?,
            Arg::Long("progress") => asked.progress = true,
            Arg::Long("now") => {
                let text = parser.value()?.to_string_lossy().into_owned();
                let bad =
                    |_| Failure::Usage(format!("--now takes seconds since 1970, not `{text}`"));
                asked.now_s = text.parse().map_err(bad)?;
            }
            Arg::Value(word) => asked.words.push(word),
            other => return Err(other.unexpected().into()),
        }
    }
    Ok(Some(asked))
}

fn share(parser: &mut Parser) -> Result<f64, Failure> {
    let text = parser.value()?.to_string_lossy().into_owned();
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| Failure::Usage(format!("--xFilesFactor takes 0 to 1, not `{text}`")))
}

// --- one file

fn resize_file(
    asked: &Asked,
    path: &Path,
    retentions: &[OsString],
    out: &mut dyn Write,
) -> Result<u8, Failure> {
    if retentions.is_empty() {
        return Err(Failure::Usage("resize needs retentions behind the file".to_owned()));
    }
    let retentions = read_retentions(retentions)?;
    let fail = |refusal: Refusal| Failure::Failed(format!("{}: {refusal}", path.display()));
    let held = Held::open(path).map_err(fail)?;
    let old_header = held.read_header().map_err(fail)?;
    let old = held.read(&old_header).map_err(fail)?;
    let old_share = f64::from(old_header.x_files_factor);
    let spec = SeriesSpec {
        retentions,
        x_files_factor: asked.x_files_factor.map_or(old_header.x_files_factor, narrow),
        aggregation: asked.method.unwrap_or(old_header.aggregation),
    };
    let header = new_header(&spec).map_err(Failure::Usage)?;
    let how = match asked.aggregate {
        true => Resample::Aggregate(asked.x_files_factor.unwrap_or(old_share)),
        false => Resample::Keep,
    };
    let new = resize(&old, &old_header, &header, how, asked.now_s);
    let kept = match &asked.newfile {
        Some(newfile) => {
            create(newfile, &new)
                .map_err(|error| Failure::Failed(format!("{}: {error}", newfile.display())))?;
            format!("written to {}", newfile.display())
        }
        None => {
            let mut backup = path.as_os_str().to_owned();
            backup.push(".bak");
            if !asked.nobackup {
                held.copy_to(Path::new(&backup)).map_err(fail)?;
            }
            held.replace(&old, &new).map_err(fail)?;
            match asked.nobackup {
                true => "no copy of the old file".to_owned(),
                false => format!("old file kept as {}", backup.to_string_lossy()),
            }
        }
    };
    let (old_bytes, new_bytes) = (old.len(), new.len());
    if asked.json {
        let path = quote(&path.to_string_lossy());
        writeln!(
            out,
            "{{\"path\":{path},\"state\":\"resized\",\"old_bytes\":{old_bytes},\
             \"new_bytes\":{new_bytes}}}"
        )?;
    } else {
        writeln!(out, "{}: {old_bytes} to {new_bytes} bytes; {kept}", path.display())?;
    }
    Ok(0)
}

fn read_retentions(texts: &[OsString]) -> Result<Vec<Retention>, Failure> {
    let read = |text: &OsString| {
        let text = text.to_string_lossy();
        read_as_carbon(&text).map_err(|error| Failure::Usage(format!("`{text}`: {error}")))
    };
    let mut retentions = texts.iter().map(read).collect::<Result<Vec<Retention>, Failure>>()?;
    retentions.sort_by_key(|retention| retention.step_s);
    Ok(retentions)
}

fn new_header(spec: &SeriesSpec) -> Result<Header, String> {
    check_archives(&spec.retentions)
        .and_then(|()| Header::new(spec))
        .map_err(|error| format!("no file can have these archives: {error}"))
}

/// As Python packs it.
#[allow(clippy::cast_possible_truncation, reason = "rounding to what the format holds is meant")]
fn narrow(share: f64) -> f32 {
    share as f32
}

fn create(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::options().write(true).create_new(true).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    replace::sync_directory_of(path)
}

// --- a tree

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

impl State {
    const LABELS: [&'static str; 8] =
        ["resized", "fit", "no name", "no rule", "compressed", "damaged", "failed", "unfinished"];

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
}

struct Finding {
    path: PathBuf,
    state: State,
}

/// What every thread needs to know.
struct Task<'a> {
    rules: Rules,
    root: &'a Path,
    with_methods: bool,
    dry_run: bool,
    now_s: u32,
}

fn resize_tree(
    asked: &Asked,
    path: &Path,
    schemas: &Path,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> Result<u8, Failure> {
    let task = Task {
        rules: read_rules(schemas, asked.aggregation.as_deref(), err)?,
        root: asked.root.as_deref().unwrap_or(path),
        with_methods: asked.aggregation.is_some(),
        dry_run: asked.dry_run,
        now_s: asked.now_s,
    };
    if path.strip_prefix(task.root).is_err() {
        let (path, root) = (path.display(), task.root.display());
        return Err(Failure::Usage(format!("{path} does not begin with {root}")));
    }
    let options = Options {
        path,
        skip: None,
        other_suffix: Some(UNFINISHED),
        jobs: asked.jobs,
        progress: asked.progress,
    };
    let mut counts = [0_u64; State::LABELS.len()];
    let (mut old_bytes, mut new_bytes) = (0, 0);
    let work = |entry: Result<&Path, (&Path, io::Error)>| {
        let (path, state) = match entry {
            Ok(path) => (path, task.state_of(path)),
            Err((path, error)) => (path, State::Failed(error.to_string())),
        };
        Some(Finding { path: path.to_owned(), state })
    };
    let tell = |finding: Finding| {
        counts[finding.state.number()] += 1;
        if let State::Resized { old_bytes: old, new_bytes: new } = finding.state {
            (old_bytes, new_bytes) = (old_bytes + old, new_bytes + new);
        }
        print(asked, &finding, out)
    };
    options.for_each(work, tell, err)?;
    summarize(asked, &counts, (old_bytes, new_bytes), out)?;
    Ok(if counts[5] + counts[6] > 0 { EXIT_FAILED } else { 0 })
}

fn read_rules(
    schemas: &Path,
    aggregation: Option<&Path>,
    err: &mut dyn Write,
) -> Result<Rules, Failure> {
    let read = |path: &Path| {
        let text = replace::read_text(path, RULES_BYTES_MAX)
            .map_err(|error| Failure::Failed(format!("{}: {error}", path.display())))?;
        Ok::<_, Failure>((path.display().to_string(), text))
    };
    let schemas = read(schemas)?;
    let aggregation = aggregation.map(read).transpose()?;
    let schemas = Source { file: &schemas.0, text: &schemas.1 };
    let aggregation = aggregation.as_ref().map(|(file, text)| Source { file, text });
    let (rules, notices) = Rules::parse(&schemas, aggregation.as_ref())
        .map_err(|error| Failure::Failed(error.to_string()))?;
    for notice in notices {
        writeln!(err, "carbyne: {notice}")?;
    }
    Ok(rules)
}

impl Task<'_> {
    fn state_of(&self, path: &Path) -> State {
        if replace::is_unfinished(path) {
            return self.clear(path);
        }
        let relative = path.strip_prefix(self.root).unwrap_or(path).as_os_str().as_bytes();
        let Some(name) = name_of_path(relative).and_then(|name| String::from_utf8(name).ok())
        else {
            return State::NoName;
        };
        let resolved = self.rules.resolve(&name);
        if !resolved.is_listed || resolved.gave_up.is_some() {
            return State::NoRule;
        }
        for _ in 0..ATTEMPTS {
            match self.bring(path, &resolved.spec) {
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
    fn bring(&self, path: &Path, spec: &SeriesSpec) -> Result<State, Refusal> {
        let old = replace::read_header(&replace::open(path)?)?;
        let new = self.wanted(&old, spec);
        if old == new {
            return Ok(State::Fits);
        }
        let (old_bytes, new_bytes) = (old.file_bytes(), new.file_bytes());
        if !self.dry_run {
            let held = Held::open(path)?;
            let old = held.read_header()?;
            let new = self.wanted(&old, spec);
            let bytes = held.read(&old)?;
            held.replace(&bytes, &migrate(&bytes, &old, &new, self.now_s))?;
        }
        Ok(State::Resized { old_bytes, new_bytes })
    }

    fn wanted(&self, old: &Header, spec: &SeriesSpec) -> Header {
        let mut new = Header::new(spec).expect("the rules' archives were checked");
        if !self.with_methods {
            (new.aggregation, new.x_files_factor) = (old.aggregation, old.x_files_factor);
        }
        new
    }

    fn clear(&self, path: &Path) -> State {
        if self.dry_run {
            return State::Removed;
        }
        match replace::remove_unfinished(path) {
            Ok(true) => State::Removed,
            Ok(false) => State::Failed("another resize is working on it".to_owned()),
            // Finished or removed by its maker.
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::Removed,
            Err(error) => State::Failed(error.to_string()),
        }
    }
}

/// Files that were resized are listed where somebody wants to know beforehand, or in JSON.
fn print(asked: &Asked, finding: &Finding, out: &mut dyn Write) -> io::Result<()> {
    let path = finding.path.to_string_lossy();
    let label = State::LABELS[finding.state.number()];
    let (detail, json) = match &finding.state {
        State::Resized { old_bytes, new_bytes } if asked.dry_run || asked.json => (
            format!("{old_bytes} to {new_bytes} bytes"),
            format!("\"old_bytes\":{old_bytes},\"new_bytes\":{new_bytes}"),
        ),
        State::Damaged(error) => {
            (error.to_string(), format!("\"reason\":{}", quote(&error.to_string())))
        }
        State::Failed(reason) => (reason.clone(), format!("\"reason\":{}", quote(reason))),
        _ => return Ok(()),
    };
    if asked.json {
        return writeln!(out, "{{\"path\":{},\"state\":\"{label}\",{json}}}", quote(&path));
    }
    let label = match &finding.state {
        State::Resized { .. } => "would be resized",
        _ => label,
    };
    writeln!(out, "{path}: {label}: {detail}")
}

fn summarize(
    asked: &Asked,
    counts: &[u64; State::LABELS.len()],
    (old_bytes, new_bytes): (u64, u64),
    out: &mut dyn Write,
) -> io::Result<()> {
    let parts = counts.iter().zip(State::LABELS);
    if asked.json {
        let parts: Vec<String> = parts
            .map(|(count, label)| format!("\"{}\":{count}", label.replace(' ', "_")))
            .collect();
        return writeln!(
            out,
            "{{{},\"old_bytes\":{old_bytes},\"new_bytes\":{new_bytes},\"dry_run\":{}}}",
            parts.join(","),
            asked.dry_run
        );
    }
    let parts: Vec<String> = parts.map(|(count, label)| format!("{count} {label}")).collect();
    let hint = if asked.dry_run { " (dry run, nothing was changed)" } else { "" };
    writeln!(out, "{}; {old_bytes} to {new_bytes} bytes{hint}", parts.join(", "))
}
