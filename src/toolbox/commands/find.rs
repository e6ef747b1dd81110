//! `carbyne whisper find`: the metrics of a tree that match patterns, as graphite-web finds them.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::toolbox::args::{Args, flag, value};
use crate::toolbox::output::json::Json;
use crate::toolbox::output::shown::shown;
use crate::toolbox::session::{EXIT_FAILED, Failure, Session};
use crate::toolbox::subcommand::Subcommand;
use crate::toolbox::tree::walk::{Found, Scope, Walk};
use crate::toolbox::tree::wanted::{SUFFIX, Wanted, names_root};

pub(crate) const FIND: Subcommand = Subcommand {
    name: "find",
    help: "\
Usage: carbyne whisper find [OPTION...] TREE GLOB...

Prints the metrics below TREE, the data directory, whose names match one of the patterns: one name
a line, in the order of their components. Quote patterns, so that the shell leaves them alone:

  carbyne whisper find /var/lib/graphite/whisper 'servers.web*.cpu.{user,sys}'

A GLOB is what graphite-web takes:
  *          any text between two dots
  ?          any one character there
  [a-f0-9]   one of these characters; [!a-f] one that is none of these
  {a,b*}     one of these texts, which may hold braces too, but no dot
  **         between two dots, any number of components, none too; at the end, one or more
Backslashes are ignored. A tagged series is found as graphite-web finds it: by its whole name with
`;`, which is no pattern, or as a file, `_tagged.*.*.*`.

  --paths     prints the paths of the files
  -0, --null  ends each with a NUL byte, as `xargs -0` takes it, and not with the end of a line;
              without it control characters are shown as escapes
  --branches  also prints directories whose names match, with a dot behind the name
  --json      a JSON object a line; values that are not UTF-8 are made so
  --root DIR  the data directory, where names begin, if TREE is only a part of it

Only directories are read below which a name can match, and none where all patterns name the few
components that come next. Symbolic links are not followed. Memory is taken for the entries of the
open directories that match.

Exit status: 0 = metrics were found, 1 = none, or a directory could not be read, 64 = bad arguments.
",
    options: &[
        flag("paths"),
        flag("null").short('0'),
        flag("branches"),
        flag("json"),
        value("root"),
    ],
    run,
};

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let path = args.path()?;
    let texts = args.texts(1)?;
    if texts.is_empty() {
        return Err(Failure::Usage("needs a pattern behind the tree, such as 'a.*.c'".to_owned()));
    }
    if let Some(other) = ["paths", "null"].iter().find(|other| args.has("json") && args.has(other))
    {
        return Err(Failure::Usage(format!("--{other} has no meaning with --json")));
    }
    if !fs::metadata(&path).map_err(Failure::at(&path))?.is_dir() {
        return Err(Failure::at(&path)("not a directory"));
    }
    let root = names_root(args, &path)?;
    let wanted = Wanted::read(&texts, &path, &root)?;
    let scope = Scope {
        wanted: Some(&wanted),
        branches: args.has("branches"),
        sorted: true,
        ..Scope::of(&path)
    };
    let (mut is_found, mut is_whole) = (false, true);
    for entry in Walk::new(scope) {
        match entry {
            Ok(found) => {
                is_found = true;
                session.out.write_all(&line_of(args, &found, &wanted, &root))?;
            }
            Err((path, error)) => {
                is_whole = false;
                writeln!(session.err, "carbyne: {}: {error}", shown(&path))?;
            }
        }
    }
    Ok(if is_found && is_whole { 0 } else { EXIT_FAILED })
}

fn line_of(args: &Args, found: &Found, wanted: &Wanted, root: &Path) -> Vec<u8> {
    let name = || match wanted.tagged(found.pattern) {
        Some(name) => name.as_bytes().to_vec(),
        None => name_of(&found.path, root),
    };
    if args.has("json") {
        let name = String::from_utf8_lossy(&name()).into_owned();
        let fields = vec![
            ("name", Json::Text(name)),
            ("isLeaf", Json::Bool(!found.is_branch)),
            ("path", Json::path(&found.path)),
        ];
        return Json::Object(fields).to_line().into_bytes();
    }
    let mut text = match args.has("paths") {
        true => found.path.as_os_str().as_bytes().to_vec(),
        false => name(),
    };
    if found.is_branch && !args.has("paths") {
        text.push(b'.');
    }
    match args.has("null") {
        true => text.push(0),
        false => text = (shown(Path::new(OsStr::from_bytes(&text))) + "\n").into_bytes(),
    }
    text
}

/// The dotted name of a file or directory below the data directory. Unlike
/// [`crate::metric::name::name_of_path`] it also names those that no node would create.
fn name_of(path: &Path, root: &Path) -> Vec<u8> {
    let relative = path.strip_prefix(root).unwrap_or(path).as_os_str().as_bytes();
    let stem = relative.strip_suffix(SUFFIX.as_bytes()).unwrap_or(relative);
    stem.iter().map(|&byte| if byte == b'/' { b'.' } else { byte }).collect()
}
