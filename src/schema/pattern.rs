//! Patterns of rules: Python's regular expressions over metric names.
//!
//! Patterns match as in Python's `re.search`. They are rewritten into the syntax of the `regex`
//! crate, whose time is linear in the name; only look-around, back-references, atomic groups and
//! possessive quantifiers go to the backtracking `fancy-regex`, under a limit. Patterns that Python
//! refuses are errors, since carbon would not start with them; so are those that cannot be
//! rewritten, and those that would take too long: the time is the name's bytes times the size of
//! the compiled pattern, and a core's points wait for the search. Metric names hold no line breaks,
//! so `$` and `.` mean the same in both languages.

use regex::{Regex, RegexBuilder};

/// Most steps back of one search by the backtracking engine. A search that needs more gives up
/// and counts as no match. Running into the limit took 1.7 ms (release build, 2-core VM), which a
/// core can spare for the creation of a file; a look-ahead or look-behind that is tried at each
/// byte of a name of 4,000 bytes stays below it.
const BACKTRACK_STEPS_MAX: usize = 25_000;

/// Most positions of a pattern that repetitions may lead to: `(ab){1,50}` leads to 100, `a*` to
/// one. A search may have to follow all of them at each byte, at 17 ns (release build, 2-core VM):
/// 0.14 s for a name of 4,000 bytes, where the engine's own limit allows a minute.
const REPEATED_MAX: usize = 2_000;

/// The same where the backtracking engine may begin such a search anew at each byte: 0.9 s at the
/// worst that was found, `(?>[ab]*a[ab]{200})c`.
const REPEATED_BACKTRACKING_MAX: usize = 200;

/// Bytes that a compiled pattern may take, tried in this order and charged to [`Room`]. A pattern
/// of plain letters takes 1,000 bytes and each `\w` takes 50,000; the last is the engine's default,
/// beyond which a pattern is refused.
const COMPILED_BYTES: [usize; 4] = [16 << 10, 256 << 10, 2 << 20, 10 << 20];

/// Most bytes that the patterns of one file may take: 16,384 plain ones, 1,024 with a few `\w`.
const ROOM_BYTES: usize = 256 << 20;

/// What the patterns of a file may still take. The pattern that finds too little is refused.
#[derive(Debug)]
pub(super) struct Room {
    left_bytes: usize,
}

impl Default for Room {
    fn default() -> Room {
        Room { left_bytes: ROOM_BYTES }
    }
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Pattern {
    engine: Engine,
}

#[derive(Debug)]
enum Engine {
    Linear(Regex),
    Backtracking(Box<fancy_regex::Regex>),
}

/// What a search came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Search {
    Found,
    NotFound,
    /// The backtracking engine ran into its limit.
    GaveUp,
}

impl Pattern {
    /// Compiles a pattern in Python's syntax; an error says what is wrong with it.
    pub(super) fn compile(python: &str, room: &mut Room) -> Result<Pattern, String> {
        let translated = Translator::new(python).run()?;
        let (is_linear, repeated) = (!translated.needs_backtracking, translated.repeated);
        let repeated_max = if is_linear { REPEATED_MAX } else { REPEATED_BACKTRACKING_MAX };
        if repeated > repeated_max {
            return Err(format!(
                "its repetitions lead to {repeated} positions, at most {repeated_max} are allowed: \
                 a search would take too long"
            ));
        }
        // The backtracking engine cuts a pattern into programs at its groups and alternatives.
        let programs = if is_linear { 1 } else { 2 * translated.parts + 1 };
        let mut refusal = String::new();
        for bytes in COMPILED_BYTES {
            let Some(left_bytes) = room.left_bytes.checked_sub(bytes.saturating_mul(programs))
            else {
                let all = ROOM_BYTES >> 20;
                return Err(format!("the patterns of a file may take {all} MiB in all; too large"));
            };
            match Engine::build(&translated.out, is_linear, bytes) {
                Ok(engine) => {
                    room.left_bytes = left_bytes;
                    return Ok(Pattern { engine });
                }
                Err(reason) => refusal = reason,
            }
        }
        Err(refusal)
    }

    /// Whether the pattern is found anywhere in the name.
    pub(super) fn search(&self, name: &str) -> Search {
        let found = match &self.engine {
            Engine::Linear(regex) => regex.is_match(name),
            Engine::Backtracking(regex) => match regex.is_match(name) {
                Ok(found) => found,
                Err(_) => return Search::GaveUp,
            },
        };
        if found { Search::Found } else { Search::NotFound }
    }
}

impl Engine {
    /// Compiles a pattern in the engines' syntax into programs of at most `bytes` bytes.
    fn build(text: &str, is_linear: bool, bytes: usize) -> Result<Engine, String> {
        if is_linear {
            let built = RegexBuilder::new(text).size_limit(bytes).build();
            return built.map(Engine::Linear).map_err(|error| last_line(&error.to_string()));
        }
        let built = fancy_regex::RegexBuilder::new(text)
            .backtrack_limit(BACKTRACK_STEPS_MAX)
            .delegate_size_limit(bytes)
            .build();
        built
            .map(|regex| Engine::Backtracking(Box::new(regex)))
            .map_err(|error| last_line(&error.to_string()))
    }
}

/// The engines draw the pattern over several lines; the last one names the error.
fn last_line(message: &str) -> String {
    let line = message.lines().last().unwrap_or(message).trim();
    line.strip_prefix("error: ").unwrap_or(line).to_string()
}

/// Rewrites one pattern from left to right.
struct Translator {
    python: Vec<char>,
    /// The next character to read.
    at: usize,
    out: String,
    needs_backtracking: bool,
    /// Whether a quantifier may follow what was written last.
    is_repeatable: bool,
    /// Length of the global flags at the start of `out`.
    flags_bytes: usize,
    /// Groups, alternatives and references to groups so far.
    parts: usize,
    /// Positions in each open group and, first, outside of all; repetitions are multiplied out.
    positions: Vec<usize>,
    /// Positions of what was written last, which a quantifier repeats.
    last: usize,
    /// Positions that repetitions lead to, the sum over all of them.
    repeated: usize,
}

/// What an escape stands for.
enum Escape {
    Literal(char),
    /// A class like `\d`, as both languages write it.
    Set(char),
    /// A position like `\b`, in the syntax of the engines.
    Position(&'static str),
    BackReference(u32),
}

impl Translator {
    fn new(python: &str) -> Translator {
        Translator {
            python: python.chars().collect(),
            at: 0,
            out: String::with_capacity(python.len()),
            needs_backtracking: false,
            is_repeatable: false,
            flags_bytes: 0,
            parts: 0,
            positions: vec![0],
            last: 0,
            repeated: 0,
        }
    }

    fn run(mut self) -> Result<Translator, String> {
        while let Some(c) = self.take() {
            match c {
                '\\' => self.escape()?,
                '[' => self.class()?,
                '(' => self.group()?,
                '*' | '+' | '?' => self.quantifier(c.to_string(), 1)?,
                '{' => match self.counted() {
                    Some((quantifier, times)) => self.quantifier(quantifier, times)?,
                    None => self.literal('{'),
                },
                '|' | '^' | '$' => self.write(&c.to_string(), false),
                '.' | ')' => self.write(&c.to_string(), true),
                _ => self.literal(c),
            }
        }
        Ok(self)
    }

    fn take(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += 1;
        Some(c)
    }

    fn peek(&self) -> Option<char> {
        self.python.get(self.at).copied()
    }

    fn take_if(&mut self, wanted: char) -> bool {
        let is_next = self.peek() == Some(wanted);
        self.at += usize::from(is_next);
        is_next
    }

    /// Everything up to `end`, which is taken too.
    fn take_until(&mut self, end: char) -> Result<String, String> {
        let mut taken = String::new();
        loop {
            match self.take() {
                None => return Err(format!("missing {end}")),
                Some(c) if c == end => return Ok(taken),
                Some(c) => taken.push(c),
            }
        }
    }

    fn write(&mut self, text: &str, is_repeatable: bool) {
        self.out.push_str(text);
        self.is_repeatable = is_repeatable;
        match text {
            "|" => self.parts += 1,
            ")" => self.close(),
            _ if text.starts_with('(') && !text.ends_with(')') => {
                self.parts += 1;
                self.positions.push(0);
            }
            _ if is_repeatable => self.count(1),
            _ => {}
        }
    }

    /// Counts positions of something that a quantifier may follow.
    fn count(&mut self, positions: usize) {
        self.last = positions;
        if let Some(sum) = self.positions.last_mut() {
            *sum = sum.saturating_add(positions);
        }
    }

    /// Ends a group. One that was never opened is for the engines to refuse.
    fn close(&mut self) {
        let inside = if self.positions.len() > 1 { self.positions.pop() } else { None };
        self.count(inside.unwrap_or(0));
    }

    fn literal(&mut self, c: char) {
        if r"\.+*?()|[]{}^$".contains(c) {
            self.out.push('\\');
        }
        self.out.push(c);
        self.is_repeatable = true;
        self.count(1);
    }

    fn escape(&mut self) -> Result<(), String> {
        match self.escaped(false)? {
            Escape::Literal(c) => self.literal(c),
            Escape::Set(letter) => self.write(&format!("\\{letter}"), true),
            Escape::Position(text) => self.write(text, false),
            Escape::BackReference(group) => {
                self.needs_backtracking = true;
                self.parts += 1;
                self.write(&format!("(?:\\{group})"), true);
            }
        }
        Ok(())
    }

    /// Reads what follows a backslash.
    fn escaped(&mut self, in_class: bool) -> Result<Escape, String> {
        let c = self.take().ok_or("a backslash at the end")?;
        let literal = match c {
            'd' | 'D' | 's' | 'S' | 'w' | 'W' => return Ok(Escape::Set(c)),
            'A' if !in_class => return Ok(Escape::Position(r"\A")),
            'Z' if !in_class => return Ok(Escape::Position(r"\z")),
            'b' if !in_class => return Ok(Escape::Position(r"\b")),
            'B' if !in_class => return Ok(Escape::Position(r"\B")),
            'b' => '\u{8}',
            'a' => '\u{7}',
            'f' => '\u{c}',
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'v' => '\u{b}',
            'x' => self.code_point(2)?,
            'u' => self.code_point(4)?,
            'U' => self.code_point(8)?,
            '0'..='9' => return self.number(c, in_class),
            _ if c.is_ascii_alphabetic() => return Err(format!("bad escape \\{c}")),
            _ => c,
        };
        Ok(Escape::Literal(literal))
    }

    /// The character of a fixed number of hexadecimal digits.
    fn code_point(&mut self, digit_count: usize) -> Result<char, String> {
        let mut code = 0;
        for _ in 0..digit_count {
            let digit = self.take().and_then(|c| c.to_digit(16));
            code = code * 16 + digit.ok_or("an escape with too few hexadecimal digits")?;
        }
        char::from_u32(code).ok_or_else(|| format!("no character has the code {code:#x}"))
    }

    /// `\0`, `\012` and `\123` are octal codes, `\1` and `\12` refer to groups.
    fn number(&mut self, first: char, in_class: bool) -> Result<Escape, String> {
        let digit = |c: Option<char>, radix: u32| c.and_then(|c| c.to_digit(radix));
        let value = digit(Some(first), 10).unwrap_or(0);
        let second = digit(self.peek(), 8);
        let third = digit(self.python.get(self.at + 1).copied(), 8);
        let is_octal = first == '0'
            || (in_class && value < 8)
            || (value < 8 && second.is_some() && third.is_some());
        if !is_octal {
            if in_class {
                return Err(format!("bad escape \\{first}"));
            }
            let Some(second) = digit(self.peek(), 10) else {
                return Ok(Escape::BackReference(value));
            };
            self.at += 1;
            return Ok(Escape::BackReference(value * 10 + second));
        }
        let mut code = value;
        for _ in 0..2 {
            let Some(next) = digit(self.peek(), 8) else { break };
            code = code * 8 + next;
            self.at += 1;
        }
        let literal = u8::try_from(code).map_err(|_| "an octal escape above \\377")?;
        Ok(Escape::Literal(char::from(literal)))
    }

    /// A character class. Brackets, `&`, `~` and `-` that Python takes literally are escaped, for
    /// the engines know nested classes and operations on them.
    fn class(&mut self) -> Result<(), String> {
        self.out.push('[');
        if self.take_if('^') {
            self.out.push('^');
        }
        let mut is_first = true;
        loop {
            let c = self.take().ok_or("missing ]")?;
            if c == ']' && !is_first {
                break;
            }
            is_first = false;
            let low = self.class_item(c)?;
            let after_dash = self.python.get(self.at + 1).copied();
            if self.peek() != Some('-') || matches!(after_dash, None | Some(']')) {
                continue;
            }
            self.at += 1;
            self.out.push('-');
            let c = self.take().ok_or("missing ]")?;
            let high = self.class_item(c)?;
            if !(low && high) {
                return Err("a range in [] has a class at one end".to_string());
            }
        }
        self.write("]", true);
        Ok(())
    }

    /// Writes one member of a class; whether it is a single character.
    fn class_item(&mut self, c: char) -> Result<bool, String> {
        let literal = if c != '\\' {
            c
        } else {
            match self.escaped(true)? {
                Escape::Literal(c) => c,
                Escape::Set(letter) => {
                    self.write(&format!("\\{letter}"), true);
                    return Ok(false);
                }
                Escape::Position(_) | Escape::BackReference(_) => {
                    return Err("an escape that has no meaning in []".to_string());
                }
            }
        };
        if r"\[]^-&~".contains(literal) {
            self.out.push('\\');
        }
        self.out.push(literal);
        Ok(true)
    }

    /// A group or one of Python's extensions `(?...)`.
    fn group(&mut self) -> Result<(), String> {
        if !self.take_if('?') {
            self.write("(", false);
            return Ok(());
        }
        match self.take().ok_or("missing )")? {
            ':' => self.write("(?:", false),
            '#' => {
                self.take_until(')')?;
            }
            'P' => self.named()?,
            '=' => self.look("(?="),
            '!' => self.look("(?!"),
            '>' => self.look("(?>"),
            '<' => match self.take() {
                Some('=') => self.look("(?<="),
                Some('!') => self.look("(?<!"),
                _ => return Err("a named group is written (?P<name>...)".to_string()),
            },
            '(' => return Err("conditional groups are not supported".to_string()),
            c if c == '-' || c.is_ascii_alphabetic() => {
                self.at -= 1;
                self.flags()?;
            }
            c => return Err(format!("unknown extension (?{c}")),
        }
        Ok(())
    }

    /// Opens a group that only the backtracking engine knows.
    fn look(&mut self, text: &str) {
        self.needs_backtracking = true;
        self.write(text, false);
    }

    /// `(?P<name>` and `(?P=name)`.
    fn named(&mut self) -> Result<(), String> {
        if self.take_if('<') {
            let name = self.take_until('>')?;
            self.write(&format!("(?P<{name}>"), false);
        } else if self.take_if('=') {
            let name = self.take_until(')')?;
            self.needs_backtracking = true;
            self.parts += 1;
            self.write(&format!("(?P={name})"), true);
        } else {
            return Err("unknown extension (?P".to_string());
        }
        Ok(())
    }

    /// `(?i)` and `(?i-s:`.
    fn flags(&mut self) -> Result<(), String> {
        let mut flags = String::new();
        let is_global = loop {
            match self.take() {
                Some(')') => break true,
                Some(':') => break false,
                // Unicode is the default.
                Some('u') => {}
                Some(c @ ('i' | 'm' | 's' | '-')) => flags.push(c),
                Some(c) => return Err(format!("the flag {c} is not supported")),
                None => return Err("missing )".to_string()),
            }
        };
        if is_global && flags.contains('-') {
            return Err("flags are turned off only in a group (?-i:...)".to_string());
        }
        if !is_global {
            self.write(&format!("(?{flags}:"), false);
            return Ok(());
        }
        if self.out.len() != self.flags_bytes {
            return Err("global flags must stand at the start of the pattern".to_string());
        }
        if !flags.is_empty() {
            self.write(&format!("(?{flags})"), false);
            self.flags_bytes = self.out.len();
        }
        Ok(())
    }

    /// Writes a quantifier with the `?` or `+` that makes it lazy or possessive. The engines write
    /// what is repeated out, `times` times.
    fn quantifier(&mut self, quantifier: String, times: usize) -> Result<(), String> {
        if !self.is_repeatable {
            return Err(format!("nothing to repeat before {quantifier}"));
        }
        let all = self.last.saturating_mul(times.max(1));
        self.repeated = self.repeated.saturating_add(all);
        self.count(all - self.last);
        self.last = all;
        self.write(&quantifier, false);
        if self.take_if('?') {
            self.out.push('?');
        } else if self.take_if('+') {
            self.needs_backtracking = true;
            self.out.push('+');
        }
        Ok(())
    }

    /// The rest of `{2}`, `{2,}`, `{,3}` or `{2,3}` as the engines write it. Nothing for any other
    /// brace, which Python takes literally. With it comes the greater number.
    fn counted(&mut self) -> Option<(String, usize)> {
        let rest = &self.python[self.at..];
        let end = rest.iter().position(|&c| c == '}')?;
        let inside: String = rest[..end].iter().collect();
        let (low, high) = match inside.split_once(',') {
            Some((low, high)) => (low, Some(high)),
            None => (inside.as_str(), None),
        };
        let is_number = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(low) || !high.is_none_or(is_number) || inside.is_empty() {
            return None;
        }
        self.at += end + 1;
        let low = if low.is_empty() { "0" } else { low };
        // Too many digits are too many times; nothing behind the comma is any number of times.
        let times = |text: &str| text.parse().unwrap_or(usize::MAX);
        Some(match high {
            None => (format!("{{{low}}}"), times(low)),
            Some("") => (format!("{{{low},}}"), times(low)),
            Some(high) => (format!("{{{low},{high}}}"), times(low).max(times(high))),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn compile(pattern: &str) -> Result<Pattern, String> {
        Pattern::compile(pattern, &mut Room::default())
    }

    const NAMES: [&str; 10] = [
        "servers.web1.cpu",
        "a;dc=x",
        "MiXed.case",
        "aa.bb",
        "a[b",
        "a&b",
        "a-b",
        "x{a,b}",
        "é.1",
        "",
    ];

    /// Patterns, and the names in which Python 3.11 finds them.
    const SEARCHES: &[(&str, &[&str])] = &[
        (r"^servers\.", &["servers.web1.cpu"]),
        (r"cpu$", &["servers.web1.cpu"]),
        (r"cpu\Z", &["servers.web1.cpu"]),
        (r"\Aserv", &["servers.web1.cpu"]),
        (
            r"^(?!servers)",
            &["a;dc=x", "MiXed.case", "aa.bb", "a[b", "a&b", "a-b", "x{a,b}", "é.1", ""],
        ),
        (r"(?<=web)\d", &["servers.web1.cpu"]),
        (r"(?i)mixed", &["MiXed.case"]),
        (r"(?i:MIXED)\.case", &["MiXed.case"]),
        (r"(?P<x>a)(?P=x)", &["aa.bb"]),
        (r"(\w)\1\.", &["aa.bb"]),
        (r";dc=x", &["a;dc=x"]),
        (r"[[:a]b]", &[]),
        (r"[[]", &["a[b"]),
        (r"[]a-]b", &["a-b"]),
        (r"[^]]-", &["a-b"]),
        (r"a[&&]b", &["a&b"]),
        (r"a[a&&b]b", &["a&b"]),
        (r"[+--]b", &["a-b", "x{a,b}"]),
        (r"[a~~]", &["a;dc=x", "MiXed.case", "aa.bb", "a[b", "a&b", "a-b", "x{a,b}"]),
        (r"\[b", &["a[b"]),
        (r"{a,b}", &["x{a,b}"]),
        (r"x{a", &["x{a,b}"]),
        (r"a{2}", &["aa.bb"]),
        (r"a{,2}\.bb$", &["aa.bb"]),
        (r"b{1,}$", &["aa.bb", "a[b", "a&b", "a-b"]),
        (r"^.{5}$", &["aa.bb"]),
        (r"{}", &[]),
        (r"\<", &[]),
        (r"a\-b", &["a-b"]),
        (r"\x61\&", &["a&b"]),
        (r"\u00e9\.", &["é.1"]),
        (r"[\W]1$", &["é.1"]),
        (r"\d$", &["é.1"]),
        (r"^$", &[""]),
        (
            r"a|",
            &[
                "servers.web1.cpu",
                "a;dc=x",
                "MiXed.case",
                "aa.bb",
                "a[b",
                "a&b",
                "a-b",
                "x{a,b}",
                "é.1",
                "",
            ],
        ),
        (r"(?#x)^aa", &["aa.bb"]),
        (r"\141\[", &["a[b"]),
        (r"[\141]\[", &["a[b"]),
        (r"^(?:a|é)", &["a;dc=x", "aa.bb", "a[b", "a&b", "a-b", "é.1"]),
        (r"^\w+?\.", &["servers.web1.cpu", "MiXed.case", "aa.bb", "é.1"]),
        (
            r"(?s).",
            &[
                "servers.web1.cpu",
                "a;dc=x",
                "MiXed.case",
                "aa.bb",
                "a[b",
                "a&b",
                "a-b",
                "x{a,b}",
                "é.1",
            ],
        ),
        (r"(?>a)\[", &["a[b"]),
        (r"(?u)^é", &["é.1"]),
        (r"[\]\[]", &["a[b"]),
        (r"\/|\_|\ |\%", &[]),
        (r"\bb", &["aa.bb", "a[b", "a&b", "a-b", "x{a,b}"]),
        (r"[\b]", &[]),
        (r"(?i)(?s)X", &["a;dc=x", "MiXed.case", "x{a,b}"]),
        (r"x\{", &["x{a,b}"]),
        (r"a}?", &["a;dc=x", "MiXed.case", "aa.bb", "a[b", "a&b", "a-b", "x{a,b}"]),
        (r"x\x7b[a]", &["x{a,b}"]),
        (r"(a)(?:\1){1}\.", &["aa.bb"]),
        (r"[é-ÿ]", &["é.1"]),
        (r"(?=a)a", &["a;dc=x", "MiXed.case", "aa.bb", "a[b", "a&b", "a-b", "x{a,b}"]),
        (r"(?=.*bb)^aa", &["aa.bb"]),
        (r"(?<!a)b$", &["aa.bb", "a[b", "a&b", "a-b"]),
    ];

    #[test]
    fn searches_find_what_pythons_find() {
        for (pattern, want) in SEARCHES {
            let compiled = compile(pattern).unwrap_or_else(|e| panic!("{pattern}: {e}"));
            let found = NAMES.into_iter().filter(|name| compiled.search(name) == Search::Found);
            assert_eq!(found.collect::<Vec<&str>>(), *want, "{pattern}");
        }
    }

    #[test]
    fn engines() {
        let check = |pattern: &str, want: bool| {
            let compiled = compile(pattern).unwrap();
            let got = matches!(compiled.engine, Engine::Backtracking(_));
            assert_eq!(got, want, "{pattern} needs backtracking");
        };
        check(r"^servers\.(web|db)\d+\.", false);
        check(r"(?i)(?P<host>x)", false);
        check(r"^(?!carbon)", true);
        check(r"(?<=a)b", true);
        check(r"(a)\1", true);
        check(r"(?P<x>a)(?P=x)", true);
    }

    #[test]
    fn errors() {
        let check = |pattern: &str, want: &str| {
            assert_eq!(compile(pattern).map(|_| ()), Err(want.to_string()), "{pattern}");
        };
        for of_engine in ["(", ")", "a{3,2}", "[z-a]", r"(a)\2", "((a{100}){100}){100}"] {
            assert!(compile(of_engine).is_err(), "{of_engine}");
        }
        check("(", "unclosed group");
        check("*.cpu", "nothing to repeat before *");
        check("a**", "nothing to repeat before *");
        check("^*", "nothing to repeat before *");
        check("a{2}{3}", "nothing to repeat before {3}");
        check("a+++", "nothing to repeat before +");
        check("[a", "missing ]");
        check(r"[\d-x]", "a range in [] has a class at one end");
        check("a\\", "a backslash at the end");
        check(r"\q", r"bad escape \q");
        check(r"\pL", r"bad escape \p");
        check(r"\xg1", "an escape with too few hexadecimal digits");
        check(r"\ud800", "no character has the code 0xd800");
        check(r"\777", r"an octal escape above \377");
        check("a(?i)b", "global flags must stand at the start of the pattern");
        check("(?x) a", "the flag x is not supported");
        check("(?-i)a", "flags are turned off only in a group (?-i:...)");
        check("(?<n>a)", "a named group is written (?P<name>...)");
        check("(a)?(?(1)b|c)", "conditional groups are not supported");
        check("(?&a)", "unknown extension (?&");
        check("(?P>a)", "unknown extension (?P");
    }

    #[test]
    fn a_search_that_explodes_gives_up() {
        let pattern = compile(r"^(?=(a|aa)+\1$)").unwrap();
        assert_eq!(pattern.search(&("a".repeat(60) + "b")), Search::GaveUp);
    }

    #[test]
    fn a_sensible_search_of_the_longest_name_does_not_give_up() {
        for pattern in [r"(?<!a)b$", r"(\w)\1z", r"a(?!b)", r"^(?=.*x)(?=.*y)", r"^(?!.*(x|y))"] {
            let compiled = compile(pattern).unwrap();
            for name in ["ab".repeat(2_000), "aa".repeat(2_000), "a.".repeat(2_000)] {
                assert_ne!(compiled.search(&name), Search::GaveUp, "{pattern}");
            }
        }
    }

    #[test]
    fn repetitions_that_would_take_too_long_are_refused() {
        let check = |pattern: &str, want: Option<(usize, usize)>| {
            let want = want.map(|(found, most)| {
                format!(
                    "its repetitions lead to {found} positions, at most {most} are allowed: a \
                     search would take too long"
                )
            });
            assert_eq!(compile(pattern).err(), want, "{pattern}");
        };
        check("a{2000}", None);
        check("a{2001}", Some((2_001, 2_000)));
        check("a{1,}b*c+d?", None);
        check("a{,2001}", Some((2_001, 2_000)));
        check("[ab]{1,1990}(?:cd)*", None);
        check("[ab]{1,1990}(?:cde){1,4}", Some((2_002, 2_000)));
        check("((a|b|ab|ba){1,40}){1,40}x", Some((240 + 9_600, 2_000)));
        check("(((a{50}){50}){50}){50}", Some((50 + 2_500 + 125_000 + 6_250_000, 2_000)));
        check("a{99999999999999999999}", Some((usize::MAX, 2_000)));
        check(&"a?".repeat(2_001), Some((2_001, 2_000)));
        // Not what stands there once, however long.
        check(&"a".repeat(5_000), None);
        check(&format!("^servers\\.({})\\.", ["web1"; 1_000].join("|")), None);
        check(r"^(?:[\w-]+\.){1,20}[\w-]+$", None);
        check(r"^[\w.-]{1,100}$", None);
        check("(?!x)[ab]{200}", None);
        check("(?!x)[ab]{201}", Some((201, 200)));
        check(r"(?P<x>[ab]{1,201})(?P=x)", Some((201, 200)));
    }

    #[test]
    fn patterns_of_a_file_share_their_room() {
        let mut room = Room { left_bytes: COMPILED_BYTES[0] + COMPILED_BYTES[1] };
        let mut check = |pattern: &str, want: Option<&str>| {
            let got = Pattern::compile(pattern, &mut room).err();
            assert_eq!(got.as_deref(), want, "{pattern}");
        };
        let full = Some("the patterns of a file may take 256 MiB in all; too large");
        check(&r"\w".repeat(6), full);
        check(r"\w", None);
        check(r"\w", full);
        check("(?!a)", full);
        check("abc", None);
        check("abc", full);
        let large = r"\w".repeat(300);
        let want = "Compiled regex exceeds size limit of 10485760 bytes.";
        assert_eq!(compile(&large).err().as_deref(), Some(want));
    }

    #[test]
    fn any_text_compiles_or_is_refused() {
        use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
        let config = Config { cases: 5_000, failure_persistence: None, ..Config::default() };
        let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
        let text = r"[ab\\\[\](){}|?*+^$.,:=!<>P\-0-9idwZxé&~]{0,12}";
        TestRunner::new_with_rng(config, rng)
            .run(&text, |text| {
                if let Ok(pattern) = compile(&text) {
                    pattern.search("ab0.é");
                }
                Ok(())
            })
            .unwrap();
    }
}
