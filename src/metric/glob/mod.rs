//! Patterns of metric names, as in a `find` request: `servers.web*.cpu.{user,sys}`.
//!
//! ```text
//! pattern --split at dots--> segments --braces--> texts --> literals, `*` `?` `[...]`, or `**`
//! ```
//! Patterns match exactly what they match in graphite-web 1.1:
//! - Dots split segments first: `{a.b,c}` is the two segments
//!   `{a` and `b,c}`, and `[a.b]` is no class.
//! - Braces may be nested. They are expanded before `*`, `?` and `[` are read: `[{a,b}]` is `[a]`
//!   or `[b]`. An unpaired brace is a literal.
//! - `*` matches any text within a segment, `?` one character, `[a-c]` one of these, `[!a-c]` one
//!   of the others, as Python's `fnmatch` (details in `wild.rs`). Case counts. Characters are
//!   UTF-8; a byte that is not UTF-8 is a character of its own.
//! - `**` as a whole segment matches zero or more segments; at the end of a pattern, one or more.
//! - Backslashes are removed and quote nothing; `[*]` is a wildcard star.
//!
//! The trie of go-carbon 0.19 differs: its braces may hold dots, `?` and classes take bytes, a
//! class is negated by `^` and has `!` as a member, `**` is `*`, and a brace or bracket without its
//! partner is an error, as is a range that is upside down.
//!
//! As in names, `/` separates like a dot, and empty segments except the last are dropped: `a..b` is
//! `a.b`. Only an empty segment matches the empty end of a name such as `a.`, whose file name
//! begins with a dot and which graphite-web never finds. One difference to graphite-web: with a
//! second `**` it cuts off the beginnings of directory names and finds too little.
//!
//! A walk of a tree carries a [`State`], one step for each segment; [`Glob::literals`] tells when
//! looking up a few names replaces listing a directory. Matching allocates nothing and takes at
//! most [`crate::limits::GLOB_EXPANDED_BYTES_MAX`] steps for each byte of a name: within a segment
//! only the last `*` is tried again.

mod braces;
mod error;
mod wild;

#[cfg(test)]
mod tests;

use crate::limits::{GLOB_BYTES_MAX, GLOB_SEGMENTS_MAX};

use braces::Room;
pub use error::GlobError;
use wild::{Text, Wild};

/// A parsed pattern.
#[derive(Debug, Clone)]
pub struct Glob {
    segments: Box<[Segment]>,
    /// A bit for each segment that is `**`: it also matches what it matches again.
    deep: u128,
    /// A bit for each segment that may be left out: `**`, and `{,b}`.
    optional: u128,
    shrinks: bool,
}

/// Position in a pattern after some segments of a name: one bit for each segment that may come
/// next, and one after the last for a complete match.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State(u128);

/// No continuation of the name can match.
const DEAD: State = State(0);

/// What one segment of a pattern matches; empty for `**`, which [`Glob::deep`] marks.
#[derive(Debug, Clone, Default)]
struct Segment {
    /// Sorted, each once.
    literals: Box<[Box<[u8]>]>,
    wild: Box<[Wild]>,
}

impl Glob {
    /// Reads a pattern.
    ///
    /// # Errors
    /// A pattern that is empty, no UTF-8 or over a limit.
    pub fn parse(pattern: &[u8]) -> Result<Glob, GlobError> {
        if pattern.len() > GLOB_BYTES_MAX {
            return Err(GlobError::TooLong(pattern.len()));
        }
        if let Err(error) = std::str::from_utf8(pattern) {
            return Err(GlobError::InvalidUtf8 { at: error.valid_up_to() });
        }
        let mut room = Room::default();
        let mut builder = Builder::default();
        let mut at = 0;
        for part in pattern.split(|byte| matches!(byte, b'.' | b'/')) {
            let is_last = at + part.len() == pattern.len();
            builder.push(braces::expand(part, at, &mut room)?, is_last, at)?;
            at += part.len() + 1;
        }
        builder.finish()
    }

    /// The pattern that matches this dotted name and nothing else: all it holds stands for itself.
    ///
    /// # Errors
    /// A name that is empty, or deeper than a pattern may be.
    pub fn literal(name: &[u8]) -> Result<Glob, GlobError> {
        let mut builder = Builder::default();
        let mut at = 0;
        for part in name.split(|byte| *byte == b'.') {
            builder.add(Segment::of(vec![part.into()], Vec::new()), at)?;
            at += part.len() + 1;
        }
        builder.finish()
    }

    /// Whether a segment other than `**` is left out or may be, as in `a..b` and `a.{,b}.c`: who
    /// has written an empty one may have meant something else.
    pub fn shrinks(&self) -> bool {
        self.shrinks
    }

    /// Whether the pattern matches the whole name.
    pub fn matches(&self, name: &[u8]) -> bool {
        let mut parts = Parts(Some(name));
        if self.optional == 0 {
            let mut segments = self.segments.iter();
            return segments.all(|segment| parts.next().is_some_and(|part| segment.matches(part)))
                && parts.next().is_none();
        }
        let mut state = self.start();
        for part in parts {
            state = self.step(state, part);
            if state == DEAD {
                return false;
            }
        }
        self.is_whole(state)
    }

    /// Where every name begins.
    pub fn start(&self) -> State {
        self.closed(1)
    }

    /// Where a name is that has come here and has this segment next.
    pub fn step(&self, state: State, part: &[u8]) -> State {
        let mut next = state.0 & self.deep;
        let mut left = state.0 & !self.whole() & !self.deep;
        while left != 0 {
            let at = left.trailing_zeros();
            left &= left - 1;
            if self.segments[at as usize].matches(part) {
                next |= 1 << (at + 1);
            }
        }
        self.closed(next)
    }

    /// Whether a name that ends here is matched.
    pub fn is_whole(&self, state: State) -> bool {
        state.0 & self.whole() != 0
    }

    /// Whether a name that has more segments may be matched.
    pub fn goes_on(&self, state: State) -> bool {
        state.0 & !self.whole() != 0
    }

    /// The only segments that lead on from here, sorted, each once. `None` if there are others, or
    /// if the next segment may be left out.
    pub fn literals(&self, state: State) -> Option<&[Box<[u8]>]> {
        let next = state.0 & !self.whole();
        if next == 0 {
            return Some(&[]);
        }
        if next.count_ones() > 1 || next & self.deep != 0 {
            return None;
        }
        let segment = &self.segments[next.trailing_zeros() as usize];
        segment.wild.is_empty().then_some(&segment.literals)
    }

    /// The bit of a name that is matched.
    fn whole(&self) -> u128 {
        1 << self.segments.len()
    }

    /// With what comes behind segments that may be left out.
    fn closed(&self, mut bits: u128) -> State {
        loop {
            let more = bits | ((bits & self.optional) << 1);
            if more == bits {
                return State(bits);
            }
            bits = more;
        }
    }
}

/// The segments of a name; `None` behind the last.
struct Parts<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Parts<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0?;
        let end = memchr::memchr(b'.', rest);
        self.0 = end.map(|end| &rest[end + 1..]);
        Some(end.map_or(rest, |end| &rest[..end]))
    }
}

impl Segment {
    fn of(mut literals: Vec<Box<[u8]>>, wild: Vec<Wild>) -> Segment {
        literals.sort_unstable();
        literals.dedup();
        Segment { literals: literals.into(), wild: wild.into() }
    }

    fn matches(&self, part: &[u8]) -> bool {
        let is_literal = match &*self.literals {
            [] => false,
            [text] => **text == *part,
            texts => texts.binary_search_by(|text| (**text).cmp(part)).is_ok(),
        };
        is_literal || (!part.is_empty() && self.wild.iter().any(|wild| wild.matches(part)))
    }
}

/// A pattern in the making.
#[derive(Debug, Default)]
struct Builder {
    segments: Vec<Segment>,
    deep: u128,
    optional: u128,
    shrinks: bool,
}

impl Builder {
    /// Adds the segment that begins there and that the braces have made these texts of.
    fn push(&mut self, texts: Vec<Vec<u8>>, is_last: bool, at: usize) -> Result<(), GlobError> {
        let bit = 1 << self.segments.len();
        if texts.iter().any(|text| text == b"**") {
            // Two in a row are one, and it matches whatever stands beside it in braces.
            if self.deep & (bit >> 1) == 0 {
                self.add(Segment::default(), at)?;
                self.deep |= bit;
                self.optional |= bit;
            }
            let any = vec![Wild::Any];
            return if is_last { self.add(Segment::of(Vec::new(), any), at) } else { Ok(()) };
        }
        let count = texts.len();
        let (mut literals, mut wild) = (Vec::new(), Vec::new());
        for text in texts.into_iter().filter(|text| is_last || !text.is_empty()) {
            match Text::read(&text) {
                Text::Literal(text) => literals.push(text),
                Text::Wild(text) => wild.push(text),
            }
        }
        let kept = literals.len() + wild.len();
        self.shrinks |= kept < count;
        if kept == 0 {
            return Ok(());
        }
        if kept < count {
            self.optional |= bit;
        }
        self.add(Segment::of(literals, wild), at)
    }

    fn add(&mut self, segment: Segment, at: usize) -> Result<(), GlobError> {
        if self.segments.len() == GLOB_SEGMENTS_MAX {
            return Err(GlobError::TooDeep { at });
        }
        self.segments.push(segment);
        Ok(())
    }

    fn finish(self) -> Result<Glob, GlobError> {
        if let [Segment { literals, wild }] = self.segments.as_slice()
            && wild.is_empty()
            && literals.iter().all(|text| text.is_empty())
        {
            return Err(GlobError::Empty);
        }
        let Builder { segments, deep, optional, shrinks } = self;
        Ok(Glob { segments: segments.into(), deep, optional, shrinks })
    }
}
