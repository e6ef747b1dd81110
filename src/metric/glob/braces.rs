//! Brace expansion of one segment: `{a,b{c,d}}` is `a`, `bc` and `bd`.
//!
//! A closing brace closes the last open one. An unpaired brace, and a comma outside of braces, is a
//! literal. graphite-web expands the innermost pair repeatedly, in time that doubles with each
//! level; this gives the same texts in one pass, in time proportional to their length, which
//! [`Room`] bounds.

use crate::limits::{GLOB_ALTERNATIVES_MAX, GLOB_EXPANDED_BYTES_MAX};

use super::error::GlobError;

/// Alternatives and bytes that the rest of a pattern may still expand to.
#[derive(Debug)]
pub(super) struct Room {
    alternatives: usize,
    bytes: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { alternatives: GLOB_ALTERNATIVES_MAX, bytes: GLOB_EXPANDED_BYTES_MAX }
    }
}

impl Room {
    /// Fails if `alternatives` exceed what earlier segments have left.
    fn check(&self, alternatives: usize, at: usize) -> Result<(), GlobError> {
        match alternatives <= self.alternatives {
            true => Ok(()),
            false => Err(GlobError::TooManyAlternatives { at }),
        }
    }

    /// Takes room for written bytes. Starting a text takes one byte, so that the number of empty
    /// texts is bounded too.
    fn write(&mut self, bytes: usize, at: usize) -> Result<(), GlobError> {
        self.bytes = self.bytes.checked_sub(bytes).ok_or(GlobError::TooMuchText { at })?;
        Ok(())
    }
}

/// An open pair of braces, or the whole segment.
#[derive(Debug)]
struct Open {
    /// Texts of the finished alternatives.
    done: Vec<Vec<u8>>,
    /// Texts of the current alternative so far.
    texts: Vec<Vec<u8>>,
}

impl Open {
    fn new() -> Open {
        Open { done: Vec::new(), texts: vec![Vec::new()] }
    }

    fn push(&mut self, byte: u8, at: usize, room: &mut Room) -> Result<(), GlobError> {
        room.write(self.texts.len(), at)?;
        self.texts.iter_mut().for_each(|text| text.push(byte));
        Ok(())
    }

    /// Ends an alternative.
    fn end(&mut self, at: usize, room: &Room) -> Result<(), GlobError> {
        room.check(self.done.len() + self.texts.len(), at)?;
        self.done.append(&mut self.texts);
        Ok(())
    }

    /// Continues each text with each of these.
    fn multiply(
        &mut self,
        others: Vec<Vec<u8>>,
        at: usize,
        room: &mut Room,
    ) -> Result<(), GlobError> {
        if let [text] = self.texts.as_slice()
            && text.is_empty()
        {
            self.texts = others;
            return Ok(());
        }
        let count = self.texts.len() * others.len();
        room.check(count, at)?;
        let other_bytes: usize = others.iter().map(Vec::len).sum();
        if let [other] = others.as_slice() {
            room.write(count * (other_bytes + 1), at)?;
            self.texts.iter_mut().for_each(|text| text.extend_from_slice(other));
            return Ok(());
        }
        let bytes: usize = self.texts.iter().map(Vec::len).sum();
        room.write(bytes * others.len() + other_bytes * self.texts.len() + count, at)?;
        let joined = |text: &Vec<u8>| -> Vec<Vec<u8>> {
            others.iter().map(|other| [text.as_slice(), other].concat()).collect()
        };
        self.texts = self.texts.iter().flat_map(joined).collect();
        Ok(())
    }
}

/// Expands a segment that begins at byte `at` of its pattern, to at least one text.
pub(super) fn expand(
    segment: &[u8],
    at: usize,
    room: &mut Room,
) -> Result<Vec<Vec<u8>>, GlobError> {
    let has_partner = partners(segment);
    let mut around: Vec<Open> = Vec::new();
    let mut open = Open::new();
    for (offset, &byte) in segment.iter().enumerate() {
        let at = at + offset;
        match byte {
            b'\\' => {}
            b'{' if has_partner[offset] => {
                room.write(1, at)?;
                around.push(std::mem::replace(&mut open, Open::new()));
            }
            b',' if !around.is_empty() => {
                room.write(1, at)?;
                open.end(at, room)?;
                open.texts.push(Vec::new());
            }
            b'}' if has_partner[offset] => {
                open.end(at, room)?;
                let outer = around.pop().expect("a brace with a partner closes an open one");
                let inner = std::mem::replace(&mut open, outer);
                open.multiply(inner.done, at, room)?;
            }
            _ => open.push(byte, at, room)?,
        }
    }
    room.check(open.texts.len(), at)?;
    room.alternatives -= open.texts.len();
    Ok(open.texts)
}

/// Marks the braces that have a partner.
fn partners(segment: &[u8]) -> Vec<bool> {
    let mut has_partner = vec![false; segment.len()];
    let mut open = Vec::new();
    for (offset, &byte) in segment.iter().enumerate() {
        match byte {
            b'{' => open.push(offset),
            b'}' => {
                if let Some(start) = open.pop() {
                    has_partner[start] = true;
                    has_partner[offset] = true;
                }
            }
            _ => {}
        }
    }
    has_partner
}
