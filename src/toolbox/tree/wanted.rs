//! Selects the metrics of a tree that match at least one pattern.
//!
//! A tagged series has a file whose path says nothing of its name. It is found as graphite-web
//! finds it: as the path, `_tagged.eff.aae.` and the hash; and a pattern with a `;` that is not
//! such a path is the name of one series, whose two possible files are looked for.

use std::fmt::Display;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use crate::metric::glob::{Glob, State};
use crate::metric::name;

use crate::toolbox::args::Args;
use crate::toolbox::output::shown::shown;
use crate::toolbox::session::Failure;

/// Extension of a Whisper file.
pub(crate) const SUFFIX: &str = ".wsp";

/// How much of a wrong pattern an error shows.
const SHOWN_CHARACTERS: usize = 60;

/// Patterns, and how far into them the names of a tree's top directory are.
#[derive(Debug)]
pub(crate) struct Wanted {
    globs: Vec<Glob>,
    /// The tagged names that were asked for, by pattern.
    tagged: Vec<Option<String>>,
    start: Vec<State>,
}

impl Wanted {
    /// Reads the patterns for names that begin at `root`; `path` is the tree or file below it.
    pub(crate) fn read(texts: &[&str], path: &Path, root: &Path) -> Result<Wanted, Failure> {
        let mut wanted = Wanted { globs: Vec::new(), tagged: Vec::new(), start: Vec::new() };
        for text in texts {
            if text.contains(';') && !text.starts_with("_tagged.") {
                wanted.push_tagged(text)?;
            } else {
                let glob = Glob::parse(text.as_bytes());
                let glob = glob.map_err(|error| refused(text, &error))?;
                wanted.push(glob, None);
            }
        }
        let relative = path.strip_prefix(root).unwrap_or(path);
        let directory = if path.is_dir() { Some(relative) } else { relative.parent() };
        for component in directory.into_iter().flat_map(Path::components) {
            match component {
                Component::Normal(part) if is_component(part.as_bytes()) => {
                    wanted.start = wanted.below(&wanted.start, part.as_bytes());
                }
                _ => {
                    let path = shown(relative);
                    return Err(Failure::Usage(format!("no metric lies in {path} below --root")));
                }
            }
        }
        Ok(wanted)
    }

    /// What `--match` and `--root` ask for, if they do. Files are moved and written by it, so that
    /// a pattern which means more than it seems to is refused: with an empty component, as an unset
    /// variable leaves behind, or a backslash.
    pub(crate) fn of(args: &Args, path: &Path) -> Result<Option<Wanted>, Failure> {
        let texts = args.texts_of("match")?;
        if texts.is_empty() {
            return Ok(None);
        }
        for text in &texts {
            if text.contains('\\') {
                return Err(refused(text, &"a backslash protects nothing; [*] is a star"));
            }
            if !text.contains(';') && Glob::parse(text.as_bytes()).is_ok_and(|glob| glob.shrinks())
            {
                return Err(refused(text, &"a component is empty or may be"));
            }
        }
        let root = names_root(args, path)?;
        Wanted::read(&texts, path, &root).map(Some)
    }

    /// That nothing matched is a slip more often than not, and an error.
    pub(crate) fn check_found(wanted: Option<&Wanted>, files: u64) -> Result<(), Failure> {
        match wanted {
            Some(_) if files == 0 => Err(Failure::Failed("no file matches --match".to_owned())),
            _ => Ok(()),
        }
    }

    fn push(&mut self, glob: Glob, tagged: Option<&str>) {
        self.start.push(glob.start());
        self.globs.push(glob);
        self.tagged.push(tagged.map(str::to_owned));
    }

    fn push_tagged(&mut self, text: &str) -> Result<(), Failure> {
        let (mut scratch, mut path) = (Vec::new(), Vec::new());
        let name = name::canonical(text.as_bytes(), &mut scratch)
            .map_err(|error| refused(text, &error))?;
        let shown = String::from_utf8_lossy(name).into_owned();
        for hash_tagged in [true, false] {
            // Of some names only the hash fits into a path.
            if name::file_path(name, hash_tagged, &mut path).is_ok() {
                let dotted: Vec<u8> = path[..path.len() - SUFFIX.len()]
                    .iter()
                    .map(|&byte| if byte == b'/' { b'.' } else { byte })
                    .collect();
                self.push(
                    Glob::literal(&dotted).map_err(|error| refused(text, &error))?,
                    Some(&shown),
                );
            }
        }
        Ok(())
    }

    /// Where names stand in each pattern when they have come to the top directory.
    pub(crate) fn start(&self) -> &[State] {
        &self.start
    }

    /// The same one directory further down.
    pub(crate) fn below(&self, states: &[State], part: &[u8]) -> Vec<State> {
        let pairs = self.globs.iter().zip(states);
        pairs.map(|(glob, state)| glob.step(*state, part)).collect()
    }

    /// Whether there may be names that match below a directory.
    pub(crate) fn goes_on(&self, states: &[State]) -> bool {
        self.globs.iter().zip(states).any(|(glob, state)| glob.goes_on(*state))
    }

    /// The number of the first pattern that matches a name which ends here.
    pub(crate) fn matched(&self, states: &[State]) -> Option<usize> {
        self.globs.iter().zip(states).position(|(glob, state)| glob.is_whole(*state))
    }

    /// The same for one with another component.
    pub(crate) fn matched_below(&self, states: &[State], part: &[u8]) -> Option<usize> {
        let mut pairs = self.globs.iter().zip(states);
        pairs.position(|(glob, state)| glob.is_whole(glob.step(*state, part)))
    }

    /// The only components that are worth a look, sorted, if all patterns name theirs.
    pub(crate) fn literals(&self, states: &[State]) -> Option<Vec<&[u8]>> {
        let mut found = Vec::new();
        for (glob, state) in self.globs.iter().zip(states) {
            found.extend(glob.literals(*state)?.iter().map(|text| &**text));
        }
        found.sort_unstable();
        found.dedup();
        Some(found)
    }

    /// The name of the series that this pattern asks for, if it is a tagged one.
    pub(crate) fn tagged(&self, number: usize) -> Option<&str> {
        self.tagged[number].as_deref()
    }
}

/// What is wrong with a pattern, of which the beginning is shown.
fn refused(text: &str, error: &dyn Display) -> Failure {
    let mut beginning: String = text.chars().take(SHOWN_CHARACTERS).collect();
    if beginning.len() < text.len() {
        beginning.push_str("...");
    }
    Failure::Usage(format!("`{}`: {error}", shown(Path::new(&beginning))))
}

/// Whether a file or directory may be a component of a name: a dot would make two of it.
pub(crate) fn is_component(part: &[u8]) -> bool {
    memchr::memchr(b'.', part).is_none()
}

/// The directory where the names of a tree begin: `--root`, or the tree.
pub(crate) fn names_root(args: &Args, path: &Path) -> Result<PathBuf, Failure> {
    let root = args.path_of("root").unwrap_or_else(|| path.to_owned());
    if root.as_os_str().is_empty() {
        return Err(Failure::Usage("--root is empty".to_owned()));
    }
    if path.strip_prefix(&root).is_err() {
        let (path, root) = (shown(path), shown(&root));
        return Err(Failure::Usage(format!("{path} does not begin with {root}")));
    }
    if path.is_file() && path == root {
        let problem = "a single file needs --root, so that its name is known";
        return Err(Failure::Usage(problem.to_owned()));
    }
    Ok(root)
}
