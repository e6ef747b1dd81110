//! What the table says about a section and about a key.

use super::value::Kind;

/// One `[section]` of the file.
#[derive(Debug)]
pub struct Section {
    /// Its name between the brackets.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Whether the node honours it.
    pub status: SectionStatus,
    /// Its keys, in the order in which the reference prints them.
    pub keys: &'static [Key],
}

impl Section {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// Whether the node honours a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionStatus {
    /// Each key says for itself.
    Works,
    /// Accepted, with one notice when the file turns it on.
    Later,
    /// Accepted, with one notice and its reason when the file turns it on.
    NotSupported(&'static str),
}

/// One key of a section.
#[derive(Debug)]
pub struct Key {
    /// Its name left of the "=".
    pub name: &'static str,
    /// Its type and range.
    pub kind: Kind,
    /// Its default, as [`super::value::from_text`] reads it.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Whether the node honours it.
    pub status: Status,
    /// Whether go-carbon does not have it.
    pub own: bool,
}

/// Whether the node honours a key. There is a notice of the others than `Works` only when the file
/// sets the key to a value that is not its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    Works,
    /// Yes, with a notice that names its successor.
    Deprecated(&'static str),
    /// Accepted with a notice: there is nothing for it to change.
    NoEffect(&'static str),
    /// Accepted with a notice: the node cannot do this yet.
    Later(&'static str),
    /// An error: going on without it would do the wrong thing to the data.
    NotSupported(&'static str),
}

/// A key that works as in go-carbon.
pub(super) const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, kind, default, doc, status: Status::Works, own: false }
}
