//! One text with `*`, `?` or `[...]`, as Python's `fnmatch` reads it.
//!
//! Classes follow Python 3.11, which graphite-web runs on:
//! - `]` in the first place is a member, so `[]` opens a class;
//! - `[` without a following `]` is a literal;
//! - `-` in the first or last place, or right after a range, is a literal;
//! - a descending range is dropped, and an empty class matches nothing;
//! - `^` is a literal; `!` negates if it comes first after descending ranges are dropped:
//!   `[z-a!b]` is `[!b]`.

/// A parsed text of a pattern.
#[derive(Debug)]
pub(super) enum Text {
    /// Matches only itself; `[*]` has become a star.
    Literal(Box<[u8]>),
    /// Has wildcards.
    Wild(Wild),
}

/// A text with wildcards. The common forms with one `*` need no search.
#[derive(Debug, Clone)]
pub(super) enum Wild {
    /// `*`.
    Any,
    /// `a*`, `*z`, `a*z`: prefix and suffix.
    Affixes(Box<[u8]>, Box<[u8]>),
    /// Anything else.
    Tokens(Box<[Token]>),
}

/// An element of a text.
#[derive(Debug, Clone)]
pub(super) enum Token {
    Literal(Box<[u8]>),
    /// Any text.
    Star,
    /// Any character.
    One,
    /// One character of a class.
    Class(Box<Class>),
}

/// A character class, `[...]`.
#[derive(Debug, Clone)]
pub(super) struct Class {
    is_negated: bool,
    /// The ASCII members, one bit each.
    ascii: u128,
    /// The other members, as ranges: first and last.
    ranges: Vec<(u32, u32)>,
}

impl Text {
    /// Parses UTF-8 text without braces.
    pub(super) fn read(text: &[u8]) -> Text {
        if !text.iter().any(|byte| matches!(byte, b'*' | b'?' | b'[')) {
            return Text::Literal(text.into());
        }
        let mut tokens = tokens(text);
        match tokens.as_mut_slice() {
            [Token::Literal(text)] => Text::Literal(std::mem::take(text)),
            [Token::Star] => Text::Wild(Wild::Any),
            [Token::Literal(prefix), Token::Star] => {
                Text::Wild(Wild::Affixes(std::mem::take(prefix), Box::default()))
            }
            [Token::Star, Token::Literal(suffix)] => {
                Text::Wild(Wild::Affixes(Box::default(), std::mem::take(suffix)))
            }
            [Token::Literal(prefix), Token::Star, Token::Literal(suffix)] => {
                Text::Wild(Wild::Affixes(std::mem::take(prefix), std::mem::take(suffix)))
            }
            _ => Text::Wild(Wild::Tokens(tokens.into())),
        }
    }
}

impl Wild {
    /// Whether it matches this part of a name.
    pub(super) fn matches(&self, part: &[u8]) -> bool {
        match self {
            Wild::Any => true,
            Wild::Affixes(prefix, suffix) => {
                part.len() >= prefix.len() + suffix.len()
                    && part.starts_with(prefix)
                    && part.ends_with(suffix)
            }
            Wild::Tokens(tokens) => search(tokens, part),
        }
    }
}

/// Whether tokens match a text. After a mismatch only the last star is extended: extending an
/// earlier one would only leave less text for the rest. So each token is tried at most once for
/// each byte of the text.
fn search(tokens: &[Token], text: &[u8]) -> bool {
    let (mut at, mut rest) = (0, text);
    // The token after the last star, and the next place to try it.
    let mut retry: Option<(usize, &[u8])> = None;
    loop {
        match tokens.get(at) {
            None if rest.is_empty() => return true,
            Some(Token::Star) if at + 1 == tokens.len() => return true,
            Some(Token::Star) => retry = Some((at + 1, rest)),
            token => {
                if let Some(left) = token.and_then(|token| token.strip(rest)) {
                    (at, rest) = (at + 1, left);
                    continue;
                }
            }
        }
        let Some((behind, from)) = retry else { return false };
        let Some(from) = tokens[behind].place(from) else { return false };
        (at, rest) = (behind, from);
        retry = character(from).map(|(_, bytes)| (behind, &from[bytes..]));
    }
}

impl Token {
    /// The rest of a text that begins with this token.
    fn strip<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            Token::Literal(literal) => text.strip_prefix(&**literal),
            Token::Star => Some(text),
            Token::One => character(text).map(|(_, bytes)| &text[bytes..]),
            Token::Class(class) => character(text)
                .filter(|(code, _)| class.has(*code))
                .map(|(_, bytes)| &text[bytes..]),
        }
    }

    /// The text from the first place where this token may begin.
    fn place<'a>(&self, text: &'a [u8]) -> Option<&'a [u8]> {
        match self {
            // A substring search costs more to set up than it saves on one component.
            Token::Literal(literal) => {
                memchr::memchr(*literal.first()?, text).map(|start| &text[start..])
            }
            _ => Some(text),
        }
    }
}

/// The first character of a text and its length in bytes. A byte that is not UTF-8 is a character
/// of its own, with the code that Python gives it (`surrogateescape`).
fn character(text: &[u8]) -> Option<(u32, usize)> {
    let &first = text.first()?;
    let bytes = match first {
        0..0x80 => return Some((u32::from(first), 1)),
        0xc0..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    let whole = text.get(..bytes).and_then(|bytes| std::str::from_utf8(bytes).ok());
    let code = whole.and_then(|text| text.chars().next());
    Some(code.map_or((0xdc00 + u32::from(first), 1), |code| (u32::from(code), bytes)))
}

impl Class {
    fn has(&self, code: u32) -> bool {
        let is_member = match code {
            0..128 => self.ascii & (1 << code) != 0,
            _ => self.ranges.iter().any(|(first, last)| (*first..=*last).contains(&code)),
        };
        is_member != self.is_negated
    }

    fn add(&mut self, first: u32, last: u32) {
        if first < 128 {
            let below = |end: u32| 1_u128.checked_shl(end).map_or(u128::MAX, |bit| bit - 1);
            self.ascii |= below(last + 1) & !below(first);
        }
        if last >= 128 {
            self.ranges.push((first.max(128), last));
        }
    }
}

/// Parses a text into tokens; adjacent literals are joined, adjacent stars too.
fn tokens(text: &[u8]) -> Vec<Token> {
    // No class ends after this: searching for `]` from each `[` would take quadratic time.
    let last_end = text.iter().rposition(|&byte| byte == b']').unwrap_or(0);
    let mut tokens = Vec::new();
    let mut literal = Vec::new();
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        let (token, bytes) = match byte {
            b'*' => (Token::Star, 1),
            b'?' => (Token::One, 1),
            b'[' => match class_bytes(&text[at..=last_end.max(at)]) {
                Some(bytes) => (class(&text[at + 1..at + bytes - 1]), bytes),
                None => (Token::Literal([b'['].into()), 1),
            },
            _ => (Token::Literal([byte].into()), 1),
        };
        at += bytes;
        if let Token::Literal(text) = token {
            literal.extend_from_slice(&text);
            continue;
        }
        if !literal.is_empty() {
            tokens.push(Token::Literal(std::mem::take(&mut literal).into()));
        }
        if !matches!((tokens.last(), &token), (Some(Token::Star), Token::Star)) {
            tokens.push(token);
        }
    }
    if !literal.is_empty() {
        tokens.push(Token::Literal(literal.into()));
    }
    tokens
}

/// Length of the class at the start of the text, if it is closed.
fn class_bytes(text: &[u8]) -> Option<usize> {
    let mut start = 1;
    start += usize::from(text.get(start) == Some(&b'!'));
    start += usize::from(text.get(start) == Some(&b']'));
    let end = text.get(start..)?.iter().position(|&byte| byte == b']')?;
    Some(start + end + 1)
}

/// Parses the text between the brackets of a class.
fn class(inside: &[u8]) -> Token {
    let inside = std::str::from_utf8(inside).expect("patterns are UTF-8 and brackets are ASCII");
    let codes: Vec<u32> = inside.chars().map(u32::from).collect();
    let mut members = members(&codes);
    const BANG: u32 = 0x21;
    let is_negated = members.first().is_some_and(|(first, _)| *first == BANG);
    if is_negated {
        match members[0] {
            (_, None) => drop(members.remove(0)),
            // Without the `!`, the range leaves a hyphen and its last character.
            (_, Some(last)) => {
                members[0] = (u32::from(b'-'), None);
                members.push((last, None));
            }
        }
    }
    match members.as_slice() {
        [] if is_negated => return Token::One,
        [(code, None)] if !is_negated => {
            let text = char::from_u32(*code).expect("it came from a text").to_string();
            return Token::Literal(text.into_bytes().into());
        }
        _ => {}
    }
    let mut class = Class { is_negated, ascii: 0, ranges: Vec::new() };
    for (first, last) in members {
        class.add(first, last.unwrap_or(first));
    }
    Token::Class(Box::new(class))
}

/// Members of a class in their order: single characters, and ranges with their last character.
fn members(codes: &[u32]) -> Vec<(u32, Option<u32>)> {
    let is_hyphen = |at: usize| codes.get(at) == Some(&u32::from(b'-'));
    let mut members = Vec::new();
    let mut at = 0;
    // The first place that may hold the hyphen of a range.
    let mut free = if codes.first() == Some(&u32::from(b'!')) { 2 } else { 1 };
    while at < codes.len() {
        let hyphen = at + 1;
        if hyphen >= free && is_hyphen(hyphen) && hyphen + 1 < codes.len() {
            let (first, last) = (codes[at], codes[hyphen + 1]);
            if first <= last {
                members.push((first, Some(last)));
            }
            (at, free) = (hyphen + 2, hyphen + 3);
        } else {
            members.push((codes[at], None));
            at += 1;
        }
    }
    members
}
