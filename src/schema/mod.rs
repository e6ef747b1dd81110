//! storage-schemas.conf and storage-aggregation.conf: archives and aggregation of new files.
//!
//! The files are read as carbon reads them: its INI dialect (`ini`), its retention strings
//! ([`retention`]), its regular expressions (`pattern`), first match in file order ([`rules`]).
//! Where carbon skips a section, or where go-carbon would read the same text otherwise, a
//! [`Notice`] says so; where carbon exits, a [`SchemaError`] is returned and the caller decides.
//! Texts come from the configuration or a reload; [`Rules`] go to the shards, which ask them once
//! for each file they create.

mod ini;
mod pattern;
pub mod retention;
pub mod rules;

use std::fmt;

pub use rules::{Resolved, Rules};

/// A configuration file that was read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// What to call the file in messages, usually its path.
    pub file: &'a str,
    /// Its content.
    pub text: &'a str,
}

/// Where in a file something stands. Prints as `file:line: [section] key`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// As in [`Source::file`].
    pub file: String,
    /// Line number, from 1.
    pub line: usize,
    /// Name of the section; empty outside of any.
    pub section: String,
    /// Name of the key in lower case; empty if a whole section or line is meant.
    pub key: String,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.file, self.line)?;
        if !self.section.is_empty() {
            write!(f, " [{}]", self.section)?;
        }
        if !self.key.is_empty() {
            write!(f, " {}:", self.key)?;
        }
        Ok(())
    }
}

/// Why a file cannot be used; carbon would exit or keep its former rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SchemaError {
    /// Where the cause stands.
    pub place: Place,
    /// What is wrong, and what to write instead if that is known.
    pub reason: String,
}

impl fmt::Display for SchemaError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(format!("{} {}", self.place, self.reason)))
    }
}

impl std::error::Error for SchemaError {}

/// Something in a usable file that its author may not expect; to be logged as a warning.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// Where it stands.
    pub place: Place,
    /// What happens, and what other programs do.
    pub reason: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&printable(format!("{} {}", self.place, self.reason)))
    }
}

/// The text as one line that a terminal only shows: values may go over several lines, and hold any
/// character.
fn printable(text: String) -> String {
    text.replace(char::is_control, " ")
}
