//! The points of a decoded pickle, one at a time.
//!
//! What carbon and go-carbon accept together: items and points are tuples or lists in any mix, an
//! item may carry several points, numbers are whatever Python's `float()` takes, names are strings
//! or bytes. Names and numbers are handed on as they are: whether a name is valid, and what NaN,
//! infinity and a timestamp of -1 mean, the caller decides.

use super::arena::Value;
use super::error::ItemError;
use super::plain::Plain;
use super::read::{Elements, Pickle, ReadBudget};
use crate::metric::point::Received;

/// The points of one frame. An error costs its item or point only; the next call goes on, except
/// after [`ItemError::Repeated`], which is the last.
///
/// Nothing is done ahead: an async caller may stop after any point and go on later.
#[derive(Debug, Clone)]
pub struct Points<'a> {
    source: Source<'a>,
}

/// Where points are read from.
#[derive(Debug, Clone)]
enum Source<'a> {
    /// The bytes of a frame that has been looked through.
    Plain(Plain<'a>),
    /// What the stack machine has made of any other frame.
    Decoded(Decoded<'a>),
}

impl<'a> Points<'a> {
    /// The points of a frame of the plain shape.
    pub(super) fn plain(plain: Plain<'a>) -> Points<'a> {
        Points { source: Source::Plain(plain) }
    }

    /// None if the pickle is not a list, tuple, set or frozen set.
    pub(super) fn new(pickle: Pickle<'a>) -> Option<Points<'a>> {
        let items = pickle.collection(pickle.root())?;
        let budget = pickle.read_budget();
        let decoded = Decoded { pickle, items, item: None, budget, is_spent: false };
        Some(Points { source: Source::Decoded(decoded) })
    }
}

impl<'a> Iterator for Points<'a> {
    type Item = Result<Received<'a>, ItemError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        match &mut self.source {
            Source::Plain(plain) => plain.next().map(Ok),
            Source::Decoded(decoded) => decoded.next(),
        }
    }
}

/// Points of a decoded frame.
#[derive(Debug, Clone)]
struct Decoded<'a> {
    pickle: Pickle<'a>,
    items: Elements<'a>,
    /// Name and remaining points of the item being read.
    item: Option<(&'a [u8], Elements<'a>)>,
    budget: ReadBudget,
    is_spent: bool,
}

impl<'a> Decoded<'a> {
    /// The name and points of an item; an item without points is no item.
    fn open(&self, item: Value) -> Result<(&'a [u8], Elements<'a>), ItemError> {
        let mut elements = self.pickle.sequence(item).ok_or(ItemError::Shape)?;
        let name = elements.next().ok_or(ItemError::Shape)?;
        let name = self.pickle.bytes(name).ok_or(ItemError::Name)?;
        if elements.is_at_end() { Err(ItemError::Shape) } else { Ok((name, elements)) }
    }

    fn point(&self, name: &'a [u8], point: Value) -> Result<Received<'a>, ItemError> {
        let pair = self.pickle.sequence(point).and_then(Elements::pair);
        let (timestamp, value) = pair.ok_or(ItemError::Shape)?;
        let timestamp = self.pickle.number(timestamp).ok_or(ItemError::Timestamp)?;
        let value = self.pickle.number(value).ok_or(ItemError::Value)?;
        Ok(Received { name, timestamp, value })
    }

    /// Opens items until one has a point or is bad.
    fn read(&mut self) -> Option<Result<Received<'a>, ItemError>> {
        loop {
            if let Some((name, points)) = &mut self.item {
                let name = *name;
                if let Some(point) = points.next() {
                    return Some(self.point(name, point));
                }
            }
            let item = self.items.next()?;
            match self.open(item) {
                Ok(item) => self.item = Some(item),
                Err(error) => {
                    self.item = None;
                    return Some(Err(error));
                }
            }
        }
    }
}

impl<'a> Iterator for Decoded<'a> {
    type Item = Result<Received<'a>, ItemError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_spent {
            return None;
        }
        let result = self.read()?;
        let name = result.map_or(&[][..], |item| item.name);
        if self.budget.spend(name) {
            return Some(result);
        }
        self.is_spent = true;
        Some(Err(ItemError::Repeated))
    }
}

#[cfg(test)]
mod tests {
    use crate::wire::pickle::PickleDecoder;

    #[track_caller]
    fn check(frame: &[u8], want: &[&str]) {
        let mut decoder = PickleDecoder::new();
        let got: Vec<_> = decoder
            .points(frame)
            .unwrap()
            .map(|result| match result {
                Ok(item) => {
                    format!("{} {} {}", item.name.escape_ascii(), item.timestamp, item.value)
                }
                Err(error) => format!("{error:?}"),
            })
            .collect();
        assert_eq!(got, want, "{}", frame.escape_ascii());
    }

    #[test]
    fn shapes() {
        let one = &["a 1 2"];
        for frame in [
            // List, tuple, set and frozen set of items; tuples and lists in items.
            &b"](U\x01aK\x01K\x02\x86\x86e."[..],
            b"U\x01aK\x01K\x02\x86\x86\x85.",
            b"\x8f(U\x01aK\x01K\x02\x86\x86\x90.",
            b"(U\x01aK\x01K\x02\x86\x86\x91.",
            b"](](U\x01a](K\x01K\x02eee.",
            b"](](U\x01aK\x01K\x02\x86ee.",
            b"](U\x01a](K\x01K\x02e\x86e.",
            // Numbers in text and bytes, names in bytes.
            b"](C\x01aU\x03 1 C\x032.0\x86\x86e.",
        ] {
            check(frame, one);
        }
        check(b").", &[]);
        check(
            b"]((U\x01aK\x01K\x02\x86](K\x03\x88etU\x01bK\x04K\x05\x86\x86e.",
            &["a 1 2", "a 3 1", "b 4 5"],
        );
    }

    #[test]
    fn a_bad_item_costs_only_itself() {
        check(
            b"](NU\x01a)]U\x01a\x85K\x05K\x01K\x02\x86\x86(U\x01b(NK\x02tK\x01N\x86K\x01K\x02\x86t\
              U\x01cK\x01K\x02K\x03\x87\x86U\x01dK\x01K\x02\x86\x86e.",
            &[
                "Shape",
                "Shape",
                "Shape",
                "Shape",
                "Shape",
                "Name",
                "Timestamp",
                "Value",
                "b 1 2",
                "Shape",
                "d 1 2",
            ],
        );
        // Sets have no order, so they are no items, and dicts are none either.
        check(b"](\x8f(U\x01aK\x01\x90}U\x01aK\x01se.", &["Shape", "Shape"]);
    }

    #[test]
    fn numbers_of_any_kind() {
        for (number, want) in [
            (&b"N"[..], "Value"),
            (b"]", "Value"),
            (b")", "Value"),
            (b"U\x040x10", "Value"),
            (b"U\x00", "Value"),
            (b"U\x031_0", "a 1 10"),
            (b"U\x03inf", "a 1 inf"),
            (b"V1e400\n", "a 1 inf"),
            (b"\x89", "a 1 0"),
            (b"J\xff\xff\xff\xff", "a 1 -1"),
            (b"G\x7f\xf8\0\0\0\0\0\0", "a 1 NaN"),
        ] {
            let mut frame = b"](U\x01aK\x01".to_vec();
            frame.extend_from_slice(number);
            frame.extend_from_slice(b"\x86\x86e.");
            check(&frame, &[want]);
        }
    }
}
