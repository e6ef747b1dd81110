//! `carbyne whisper path`: which file a metric name has, and which name a file.

use std::path::Path;

use crate::metric::name;
use crate::metric::name_error::NameError;

use crate::toolbox::args::{Args, flag};
use crate::toolbox::output::json::Json;
use crate::toolbox::session::{Failure, Session};
use crate::toolbox::subcommand::Subcommand;

pub(crate) const PATH: Subcommand = Subcommand {
    name: "path",
    help: "\
Usage: carbyne whisper path [--unhashed] [--json] NAME...
       carbyne whisper path --reverse [--json] PATH...

Prints the file of each metric name, as a path below the data directory, one a line. Names are
read as the node reads them: `a..b` is `a.b`, and tags are sorted.

  --unhashed  files of tagged names keep the name (carbon's TAG_HASH_FILENAMES = False)
  --reverse   prints the name of each file; one that is hashed, or of no name, is an error
  --json      JSON, a list
",
    options: &[flag("unhashed"), flag("reverse"), flag("json")],
    run,
};

fn run(args: &Args, session: &mut Session<'_>) -> Result<u8, Failure> {
    let texts = args.texts(0)?;
    if texts.is_empty() {
        return Err(Failure::Usage("needs a name".to_owned()));
    }
    let mut pairs = Vec::new();
    for text in texts {
        let (name, path) = if args.has("reverse") {
            let name = name_of(text.as_bytes()).ok_or_else(|| {
                Failure::at(Path::new(text))("no metric name can be read from this path")
            })?;
            (shown(&name), text.to_owned())
        } else {
            file_of(text, !args.has("unhashed"))
                .map_err(|error| Failure::at(Path::new(text))(format!("refused: {error}")))?
        };
        pairs.push((name, path));
    }
    if args.has("json") {
        let pairs = pairs.into_iter().map(|(name, path)| {
            Json::Object(vec![("name", Json::Text(name)), ("path", Json::Text(path))])
        });
        session.out.write_all(Json::List(pairs.collect()).to_text(": ").as_bytes())?;
        return Ok(0);
    }
    for (name, path) in pairs {
        writeln!(session.out, "{}", if args.has("reverse") { name } else { path })?;
    }
    Ok(0)
}

/// The canonical form of a name and the path of its file.
fn file_of(text: &str, hash_tagged: bool) -> Result<(String, String), NameError> {
    let (mut scratch, mut path) = (Vec::new(), Vec::new());
    let name = name::canonical(text.as_bytes(), &mut scratch)?;
    name::file_path(name, hash_tagged, &mut path)?;
    Ok((shown(name), shown(&path)))
}

/// The name of a file: an untagged one, or a tagged one whose file keeps the name.
fn name_of(path: &[u8]) -> Option<Vec<u8>> {
    name::name_of_path(path).or_else(|| tagged_name_of(path))
}

/// Such a file lies two directories below that of all tagged names. Its dots were made to words,
/// which names may hold themselves: what is read must have this very path.
fn tagged_name_of(path: &[u8]) -> Option<Vec<u8>> {
    let text = std::str::from_utf8(path).ok()?;
    let (_, stem) = text.strip_suffix(".wsp")?.split_once("_tagged/")?;
    let stem = stem.splitn(3, '/').nth(2)?;
    let mut found = Vec::new();
    [stem.replace("_DOT_", "."), stem.to_owned()].into_iter().map(String::into_bytes).find(|name| {
        let mut scratch = Vec::new();
        let is_canonical = name::canonical(name, &mut scratch).is_ok_and(|form| form == *name);
        is_canonical && name::file_path(name, false, &mut found).is_ok() && found == path
    })
}

fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
