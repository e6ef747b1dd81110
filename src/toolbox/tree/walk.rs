//! The files of a tree, depth first, holding one open directory a level.
//!
//! With patterns it enters only directories below which a name can match, and where all patterns
//! name the few components that come next it looks those up and lists nothing. Symbolic links are
//! not followed: a link out of the tree is none of its files, and one inside would name a file
//! twice.

use std::ffi::OsString;
use std::fs::{self, DirEntry, FileType, ReadDir};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::vec;

use crate::metric::glob::State;

use crate::toolbox::tree::wanted::{SUFFIX, Wanted, is_component};

/// Most components of a directory that are looked up one by one, each by a system call or two; more
/// are found by its list.
const LOOK_UPS_MAX: usize = 16;

/// What to walk, and how.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Scope<'a> {
    /// A tree, or one file.
    pub(crate) path: &'a Path,
    /// A directory inside that is left out.
    pub(crate) skip: Option<&'a Path>,
    /// What else than `.wsp` a file's name may end in to be looked at.
    pub(crate) other_suffix: Option<&'a str>,
    /// The metrics whose files are meant, if not all are.
    pub(crate) wanted: Option<&'a Wanted>,
    /// Also return directories whose own names match.
    pub(crate) branches: bool,
    /// In the order of names: by component, a file before the directory of the same name. Takes
    /// memory for the matching entries of the directories that are open.
    pub(crate) sorted: bool,
}

/// A file or directory that is meant.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) path: PathBuf,
    pub(crate) is_branch: bool,
    /// Which pattern it matches.
    pub(crate) pattern: usize,
}

/// What is found, or what cannot be read.
pub(crate) type Entry = Result<Found, (PathBuf, io::Error)>;

/// A walk under way; a file given by itself is a tree of one.
pub(crate) struct Walk<'a> {
    scope: Scope<'a>,
    first: Option<&'a Path>,
    open: Vec<Level>,
    /// Told before anything else.
    error: Option<Entry>,
}

/// An open directory.
struct Level {
    path: PathBuf,
    entries: Entries,
    /// Where its names stand in the patterns.
    states: Vec<State>,
}

enum Entries {
    Listed(ReadDir),
    Kept(vec::IntoIter<Listed>),
}

/// An entry that is meant.
struct Child {
    name: OsString,
    kind: Kind,
}

/// An entry that is meant, or what cannot be read.
type Listed = Result<Child, (PathBuf, io::Error)>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    File { pattern: usize },
    Directory { pattern: Option<usize>, goes_on: bool },
}

impl<'a> Walk<'a> {
    pub(crate) fn new(scope: Scope<'a>) -> Walk<'a> {
        Walk { scope, first: Some(scope.path), open: Vec::new(), error: None }
    }

    fn begin(&mut self, path: &Path) -> Option<Entry> {
        if path.is_dir() {
            let states = self.scope.wanted.map_or(Vec::new(), |wanted| wanted.start().to_vec());
            return self.enter(path.to_owned(), states);
        }
        let pattern = match self.scope.wanted {
            None => 0,
            Some(wanted) => {
                let stem = self.scope.stem(path.file_name()?.as_bytes())?;
                wanted.matched_below(wanted.start(), stem)?
            }
        };
        Some(Ok(Found { path: path.to_owned(), is_branch: false, pattern }))
    }

    fn enter(&mut self, path: PathBuf, states: Vec<State>) -> Option<Entry> {
        if self.scope.skip.is_some_and(|skip| skip == path) {
            return None;
        }
        match self.scope.entries(&path, &states) {
            Ok(entries) => {
                self.open.push(Level { path, entries, states });
                None
            }
            Err(error) => Some(Err((path, error))),
        }
    }

    /// The next entry of the innermost directory that is meant; `None` if there are no more.
    fn child(&mut self) -> Option<Listed> {
        let Level { path, entries, states } = self.open.last_mut()?;
        match entries {
            Entries::Kept(children) => children.next(),
            Entries::Listed(listed) => {
                for entry in listed {
                    match entry {
                        Ok(entry) => {
                            if let Some(child) = self.scope.child(&entry, states).transpose() {
                                return Some(child);
                            }
                        }
                        // What follows an error of the directory may be the same one for ever.
                        Err(error) => {
                            *entries = Entries::Kept(Vec::new().into_iter());
                            return Some(Err((path.clone(), error)));
                        }
                    }
                }
                None
            }
        }
    }
}

impl Iterator for Walk<'_> {
    type Item = Entry;

    fn next(&mut self) -> Option<Entry> {
        if let Some(path) = self.first.take()
            && let Some(entry) = self.begin(path)
        {
            return Some(entry);
        }
        if self.error.is_some() {
            return self.error.take();
        }
        loop {
            let child = match self.child() {
                Some(Ok(child)) => child,
                Some(Err(error)) => return Some(Err(error)),
                None => {
                    self.open.pop()?;
                    continue;
                }
            };
            let Level { path, states, .. } = self.open.last()?;
            let path = path.join(&child.name);
            let (is_branch, pattern, goes_on) = match child.kind {
                Kind::File { pattern } => (false, Some(pattern), false),
                Kind::Directory { pattern, goes_on } => (true, pattern, goes_on),
            };
            if goes_on {
                let below = |wanted: &Wanted| wanted.below(states, child.name.as_bytes());
                let states = self.scope.wanted.map_or(Vec::new(), below);
                // One that is gone since it was listed is none of the tree.
                let is_there = |entry: &Entry| !entry.as_ref().is_err_and(|(_, e)| is_missing(e));
                self.error = self.enter(path.clone(), states).filter(is_there);
            }
            if let Some(pattern) = pattern {
                return Some(Ok(Found { path, is_branch, pattern }));
            }
            if self.error.is_some() {
                return self.error.take();
            }
        }
    }
}

impl<'a> Scope<'a> {
    /// All Whisper files of a tree.
    pub(crate) fn of(path: &'a Path) -> Scope<'a> {
        Scope { path, skip: None, other_suffix: None, wanted: None, branches: false, sorted: false }
    }

    /// The entries of a directory that are meant, or its reader.
    fn entries(&self, directory: &Path, states: &[State]) -> io::Result<Entries> {
        if let Some(wanted) = self.wanted
            && let Some(parts) = wanted.literals(states).filter(|parts| parts.len() <= LOOK_UPS_MAX)
        {
            let mut children = Vec::new();
            for part in parts {
                self.look_up(wanted, directory, part, states, &mut children)?;
            }
            return Ok(Entries::Kept(children.into_iter()));
        }
        let listed = fs::read_dir(directory)?;
        if !self.sorted {
            return Ok(Entries::Listed(listed));
        }
        let mut children = Vec::new();
        for entry in listed {
            match entry {
                Ok(entry) => children.extend(self.child(&entry, states).transpose()),
                Err(error) => {
                    children.push(Err((directory.to_owned(), error)));
                    break;
                }
            }
        }
        children.sort_unstable_by(|a, b| match (a, b) {
            (Ok(a), Ok(b)) => self.key(a).cmp(&self.key(b)),
            _ => a.is_ok().cmp(&b.is_ok()),
        });
        Ok(Entries::Kept(children.into_iter()))
    }

    /// What orders the entries of a directory.
    fn key<'c>(&self, child: &'c Child) -> (&'c [u8], bool) {
        let name = child.name.as_bytes();
        match child.kind {
            Kind::File { .. } => (self.stem(name).unwrap_or(name), false),
            Kind::Directory { .. } => (name, true),
        }
    }

    /// The files and the directory of one component, as far as they can be meant.
    fn look_up(
        &self,
        wanted: &Wanted,
        directory: &Path,
        part: &[u8],
        states: &[State],
        found: &mut Vec<Listed>,
    ) -> io::Result<()> {
        let below = wanted.below(states, part);
        let is_matched = wanted.matched(&below).is_some();
        let is_branch = wanted.goes_on(&below) || (is_matched && self.branches);
        let files = [Some(SUFFIX), self.other_suffix].into_iter().flatten().filter(|_| is_matched);
        for suffix in files.chain(is_branch.then_some("")) {
            let name = OsString::from_vec([part, suffix.as_bytes()].concat());
            if name.is_empty() {
                continue;
            }
            match fs::symlink_metadata(directory.join(&name)) {
                Ok(metadata) => {
                    found.extend(self.meant(name, metadata.file_type(), states).map(Ok));
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// The entry, if it is meant.
    fn child(
        &self,
        entry: &DirEntry,
        states: &[State],
    ) -> Result<Option<Child>, (PathBuf, io::Error)> {
        let kind = entry.file_type().map_err(|error| (entry.path(), error))?;
        Ok(self.meant(entry.file_name(), kind, states))
    }

    fn meant(&self, name: OsString, kind: FileType, states: &[State]) -> Option<Child> {
        if kind.is_file() {
            let stem = self.stem(name.as_bytes())?;
            let pattern = match self.wanted {
                None => 0,
                Some(wanted) => wanted.matched_below(states, stem)?,
            };
            return Some(Child { name, kind: Kind::File { pattern } });
        }
        if !kind.is_dir() {
            return None;
        }
        let Some(wanted) = self.wanted else {
            let kind = Kind::Directory { pattern: None, goes_on: true };
            return Some(Child { name, kind });
        };
        if !is_component(name.as_bytes()) {
            return None;
        }
        let below = wanted.below(states, name.as_bytes());
        let pattern = wanted.matched(&below).filter(|_| self.branches);
        let goes_on = wanted.goes_on(&below);
        let is_meant = goes_on || pattern.is_some();
        is_meant.then_some(Child { name, kind: Kind::Directory { pattern, goes_on } })
    }

    /// What a file's name is without its suffix, if it is one of those; with patterns, only a
    /// component of a name.
    fn stem<'n>(&self, name: &'n [u8]) -> Option<&'n [u8]> {
        let other = || name.strip_suffix(self.other_suffix?.as_bytes());
        let stem = name.strip_suffix(SUFFIX.as_bytes()).or_else(other)?;
        (self.wanted.is_none() || is_component(stem)).then_some(stem)
    }
}

/// Whether there is nothing of that name; one too long for a file is that of none.
fn is_missing(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidFilename, InvalidInput, NotADirectory, NotFound};
    matches!(error.kind(), NotFound | NotADirectory | InvalidFilename | InvalidInput)
}
