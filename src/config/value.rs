//! The types a configuration key may have: how each is read from TOML and printed as TOML.
//!
//! A value is checked completely here, so whoever holds a [`Value`] of a [`Kind`] holds one
//! inside that kind's range. Durations are Go's ("1m0s", "250ms"); sizes are bytes, as an
//! integer or as "512MB" or "8GiB".

use std::fmt;
use std::time::Duration;

use toml_edit::Item;

use super::problem::nearest;

/// The type of a key, with its range.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// `true` or `false`.
    Bool,
    /// An integer between the two bounds, both included.
    Int(u64, u64),
    /// A number from 0 to 1.
    Fraction,
    /// Any string.
    Text,
    /// The first part of a metric name.
    Prefix,
    /// A file or directory.
    Path,
    /// A file or directory, or "" for none.
    OptionalPath,
    /// One of these words.
    Choice(&'static [&'static str]),
    /// A Go duration between the two bounds, both included.
    Duration(Duration, Duration),
    /// As `Duration`, or 0, which means "no limit".
    OptionalDuration(Duration, Duration),
    /// Bytes between the two bounds, both included.
    Size(u64, u64),
    /// As `Size`, or 0 or "auto": the node chooses.
    AutoSize(u64, u64),
    /// `host:port`, `:port` or `[v6]:port`.
    Listen,
    /// Where self metrics go: "", "local", "tcp://host:port" or "udp://host:port".
    Endpoint,
    /// A list of strings.
    Texts,
    /// A list of integers.
    Ints,
    /// A table of strings.
    Labels,
    /// An array of tables, each with these keys only.
    Tables(&'static [(&'static str, Kind)]),
}

impl Kind {
    /// Whether a type that holds the values of the wide kind holds those of this one.
    pub(super) const fn is_within(self, wide: Kind) -> bool {
        match (self, wide) {
            (Kind::Int(_, max) | Kind::Size(_, max), Kind::Int(_, wide_max)) => max <= wide_max,
            (Kind::Text | Kind::Prefix | Kind::Path | Kind::OptionalPath, Kind::Text)
            | (Kind::Choice(_) | Kind::Listen, Kind::Text)
            | (Kind::Bool, Kind::Bool)
            | (Kind::AutoSize(..), Kind::AutoSize(..))
            | (Kind::Duration(..), Kind::Duration(..))
            | (Kind::OptionalDuration(..), Kind::OptionalDuration(..)) => true,
            _ => false,
        }
    }
}

/// Longer than any wait that makes sense, short enough for every clock and timer.
pub(super) const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Any duration up to a year.
pub(super) const ANY_DURATION: Kind = Kind::Duration(Duration::ZERO, YEAR);
/// Any integer that go-carbon could hold.
pub(super) const ANY_INT: Kind = Kind::Int(0, 0xffff_ffff);

/// A value read from a file or from the key's default.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// See [`Kind::Bool`].
    Bool(bool),
    /// See [`Kind::Int`].
    Int(u64),
    /// See [`Kind::Fraction`].
    Float(f64),
    /// Strings, paths, addresses and the canonical spelling of a choice.
    Text(String),
    /// See [`Kind::Duration`].
    Duration(Duration),
    /// Bytes.
    Size(u64),
    /// The size is left to the node.
    Auto,
    /// A list or table of a kind whose content nothing reads, as TOML.
    Raw(String),
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Bool(value) => write!(f, "{value}"),
            Value::Int(value) => write!(f, "{value}"),
            Value::Float(value) => write!(f, "{value:?}"),
            Value::Text(text) => write!(f, "{}", toml_edit::Value::from(text.as_str())),
            Value::Duration(duration) => write!(f, "\"{}\"", duration_text(*duration)),
            Value::Size(bytes) => match size_text(*bytes) {
                Some(text) => write!(f, "\"{text}\""),
                None => write!(f, "{bytes}"),
            },
            Value::Auto => f.write_str("\"auto\""),
            Value::Raw(toml) => f.write_str(toml),
        }
    }
}

/// Why a value was refused.
#[derive(Debug, PartialEq)]
pub(super) struct BadValue {
    /// What was expected and what was found.
    pub(super) problem: String,
    /// The nearest accepted word.
    pub(super) suggestion: Option<String>,
}

/// Reads the TOML value of a key of this kind.
pub(super) fn from_toml(kind: Kind, item: &Item) -> Result<Value, BadValue> {
    let found = || found(item);
    let read = match kind {
        Kind::Texts => list_of(item, |value| value.is_str()),
        Kind::Ints => list_of(item, |value| value.is_integer()),
        Kind::Labels => return labels(item).ok_or_else(|| expected(kind, &found())),
        Kind::Tables(keys) => return tables(keys, item),
        _ => scalar(kind, item),
    };
    read.ok_or_else(|| {
        let mut bad = expected(kind, &found());
        if let (Kind::Choice(words), Some(text)) = (kind, item.as_str()) {
            bad.suggestion = nearest(text, words.iter().copied()).map(str::to_owned);
        }
        bad
    })
}

/// Reads a value of this kind from plain text, as the table writes defaults.
pub(super) fn from_text(kind: Kind, text: &str) -> Option<Value> {
    match kind {
        Kind::Bool => text.parse().ok().map(Value::Bool),
        Kind::Int(min, max) => {
            text.parse().ok().filter(|value| (min..=max).contains(value)).map(Value::Int)
        }
        Kind::Fraction => {
            text.parse().ok().filter(|value| (0.0..=1.0).contains(value)).map(Value::Float)
        }
        Kind::Texts | Kind::Ints | Kind::Labels | Kind::Tables(_) => {
            Some(Value::Raw(text.to_owned()))
        }
        _ => from_string(kind, text),
    }
}

/// A value as it stands in the file, short and in one line.
fn found(item: &Item) -> String {
    match literal(item) {
        Some(text) => {
            let line = text.chars().map(|c| if c.is_control() { ' ' } else { c });
            line.take(60).collect()
        }
        None => format!("a {}", item.type_name()),
    }
}

/// A value's TOML without the blanks and comments around it.
fn literal(item: &Item) -> Option<String> {
    item.as_value().map(|value| value.clone().decorated("", "").to_string())
}

fn scalar(kind: Kind, item: &Item) -> Option<Value> {
    if let Some(text) = item.as_str() {
        // "true", "5" and "0.5" in quotes are strings, not what the key wants.
        let quoted = !matches!(kind, Kind::Bool | Kind::Int(..) | Kind::Fraction);
        return quoted.then(|| from_string(kind, text)).flatten();
    }
    if let Some(value) = item.as_bool() {
        return matches!(kind, Kind::Bool).then_some(Value::Bool(value));
    }
    if let Some(value) = item.as_float() {
        return matches!(kind, Kind::Fraction).then(|| from_text(kind, &value.to_string()))?;
    }
    let integer = item.as_integer()?;
    match kind {
        Kind::Int(..) | Kind::Fraction | Kind::Size(..) | Kind::AutoSize(..) => {
            from_text(kind, &integer.to_string())
        }
        // Go reads a bare 0 as a duration; every other number needs its unit.
        Kind::Duration(..) | Kind::OptionalDuration(..) if integer == 0 => from_string(kind, "0"),
        _ => None,
    }
}

fn from_string(kind: Kind, text: &str) -> Option<Value> {
    let accepted = match kind {
        Kind::Text => true,
        Kind::Prefix => is_prefix(text),
        Kind::Path => !text.is_empty() && !text.contains('\0'),
        Kind::OptionalPath => !text.contains('\0'),
        Kind::Listen => listen_address(text).is_some(),
        Kind::Endpoint => is_endpoint(text),
        Kind::Choice(words) => {
            let word = words.iter().find(|word| word.eq_ignore_ascii_case(text))?;
            return Some(Value::Text((*word).to_owned()));
        }
        Kind::Duration(min, max) => {
            let duration = parse_duration(text)?;
            return (min..=max).contains(&duration).then_some(Value::Duration(duration));
        }
        Kind::OptionalDuration(min, max) => {
            let duration = parse_duration(text)?;
            let inside = duration.is_zero() || (min..=max).contains(&duration);
            return inside.then_some(Value::Duration(duration));
        }
        Kind::Size(min, max) => {
            return parse_size(text).filter(|n| (min..=max).contains(n)).map(Value::Size);
        }
        Kind::AutoSize(..) if text == "auto" => return Some(Value::Auto),
        Kind::AutoSize(min, max) => match parse_size(text)? {
            0 => return Some(Value::Auto),
            bytes => return (min..=max).contains(&bytes).then_some(Value::Size(bytes)),
        },
        _ => false,
    };
    accepted.then(|| Value::Text(text.to_owned()))
}

fn list_of(item: &Item, accepts: impl Fn(&toml_edit::Value) -> bool) -> Option<Value> {
    let array = item.as_array()?;
    array.iter().all(accepts).then(|| literal(item).map(Value::Raw))?
}

fn labels(item: &Item) -> Option<Value> {
    let table = item.as_table_like()?;
    let mut pairs = Vec::with_capacity(table.len());
    for (name, value) in table.iter() {
        pairs.push(format!("{name} = {}", toml_edit::Value::from(value.as_str()?)));
    }
    Some(Value::Raw(if pairs.is_empty() {
        "{}".to_owned()
    } else {
        format!("{{ {} }}", pairs.join(", "))
    }))
}

fn tables(keys: &'static [(&'static str, Kind)], item: &Item) -> Result<Value, BadValue> {
    let entries: Vec<&dyn toml_edit::TableLike> = match item {
        Item::ArrayOfTables(array) => array.iter().map(|table| table as _).collect(),
        Item::Value(toml_edit::Value::Array(array)) => {
            let inline = array.iter().filter_map(|value| value.as_inline_table());
            let entries: Vec<_> = inline.map(|table| table as _).collect();
            if entries.len() != array.len() {
                return Err(expected(Kind::Tables(keys), "a list of something else"));
            }
            entries
        }
        _ => return Err(expected(Kind::Tables(keys), item.type_name())),
    };
    for (name, value) in entries.iter().flat_map(|table| table.iter()) {
        let Some((_, kind)) = keys.iter().find(|(known, _)| *known == name) else {
            return Err(BadValue {
                problem: format!("unknown key `{name}` in an entry"),
                suggestion: nearest(name, keys.iter().map(|(known, _)| *known)).map(str::to_owned),
            });
        };
        from_toml(*kind, value)
            .map_err(|bad| BadValue { problem: format!("{name}: {}", bad.problem), ..bad })?;
    }
    Ok(Value::Raw(format!("[ {} entries ]", entries.len())))
}

fn expected(kind: Kind, found: &str) -> BadValue {
    BadValue { problem: format!("expected {}, found {found}", describe(kind)), suggestion: None }
}

/// What a key of this kind accepts, as the end of "expected ...".
fn describe(kind: Kind) -> String {
    match kind {
        Kind::Bool => "true or false".to_owned(),
        Kind::Int(min, max) => format!("an integer from {min} to {max}"),
        Kind::Fraction => "a number from 0 to 1".to_owned(),
        Kind::Text => "a string".to_owned(),
        Kind::Prefix => "a metric name without blanks and without a dot at its ends".to_owned(),
        Kind::Path => "a path in quotes".to_owned(),
        Kind::OptionalPath => "a path in quotes, or \"\" for none".to_owned(),
        Kind::Choice(words) => {
            let quoted: Vec<String> = words.iter().map(|word| format!("\"{word}\"")).collect();
            format!("one of {}", quoted.join(", "))
        }
        Kind::Duration(min, max) => format!(
            "a duration such as \"1m30s\", from \"{}\" to \"{}\"",
            duration_text(min),
            duration_text(max)
        ),
        Kind::OptionalDuration(min, max) => format!("{} or 0", describe(Kind::Duration(min, max))),
        Kind::Size(min, max) => format!(
            "bytes, as an integer or such as \"512MB\" or \"8GiB\", from {min} to {}",
            size_text(max).unwrap_or_else(|| max.to_string())
        ),
        Kind::AutoSize(min, max) => format!("{} or \"auto\"", describe(Kind::Size(min, max))),
        Kind::Listen => {
            "an address with a port from 0 to 65535, such as \":2003\" or \"127.0.0.1:2003\""
                .to_owned()
        }
        Kind::Endpoint => "\"local\", \"tcp://host:port\" or \"udp://host:port\"".to_owned(),
        Kind::Texts => "a list of strings".to_owned(),
        Kind::Ints => "a list of integers".to_owned(),
        Kind::Labels => "a table of strings".to_owned(),
        Kind::Tables(keys) => {
            let names: Vec<&str> = keys.iter().map(|(name, _)| *name).collect();
            format!("an array of tables with the keys {}", names.join(", "))
        }
    }
}

/// Host and port of `:2003`, `host:2003`, `127.0.0.1:2003` or `[::1]:2003`. An empty host means
/// every address of the machine; port 0 means any free port. An IPv6 host comes without brackets.
pub fn listen_address(text: &str) -> Option<(&str, u16)> {
    let (host, port) = text.rsplit_once(':')?;
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let port = port.parse().ok()?;
    if let Some(inner) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        // A zone ("fe80::1%eth0") is for the resolver to judge.
        let address = inner.split('%').next()?;
        return address.parse::<std::net::Ipv6Addr>().is_ok().then_some((inner, port));
    }
    let is_plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    host.chars().all(is_plain).then_some((host, port))
}

fn is_endpoint(text: &str) -> bool {
    if matches!(text, "" | "local") {
        return true;
    }
    let address = text.strip_prefix("tcp://").or_else(|| text.strip_prefix("udp://"));
    address.and_then(listen_address).is_some_and(|(host, _)| !host.is_empty())
}

fn is_prefix(text: &str) -> bool {
    let printable = text.chars().all(|c| !c.is_whitespace() && !c.is_control());
    !text.is_empty() && printable && !text.starts_with('.') && !text.ends_with('.')
}

/// Units of a Go duration in nanoseconds. A unit stands before any that is its prefix.
const DURATION_UNITS: [(&str, u128); 8] = [
    ("ns", 1),
    ("us", 1_000),
    ("\u{b5}s", 1_000),
    ("\u{3bc}s", 1_000),
    ("ms", 1_000_000),
    ("s", 1_000_000_000),
    ("m", 60 * 1_000_000_000),
    ("h", 3_600 * 1_000_000_000),
];

/// Reads a Go duration: "0", or numbers each with a unit, such as "1h30m", "1.5s" or "250ms".
/// Negative durations are refused: no key has a use for one.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest == "0" {
        return Some(Duration::ZERO);
    }
    let mut total: u128 = 0;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let (whole, after) = rest.split_at(digits);
        let (fraction, after) = match after.strip_prefix('.') {
            Some(after) => {
                let digits = after.find(|c: char| !c.is_ascii_digit())?;
                after.split_at(digits)
            }
            None => ("", after),
        };
        if whole.is_empty() && fraction.is_empty() {
            return None;
        }
        let (name, unit) = DURATION_UNITS.iter().find(|(name, _)| after.starts_with(name))?;
        if !whole.is_empty() {
            total = total.checked_add(whole.parse::<u128>().ok()?.checked_mul(*unit)?)?;
        }
        let mut scale = *unit;
        for digit in fraction.bytes() {
            scale /= 10;
            total = total.checked_add(u128::from(digit - b'0') * scale)?;
        }
        rest = &after[name.len()..];
        if rest.is_empty() {
            let seconds = u64::try_from(total / 1_000_000_000).ok()?;
            let nanoseconds = u32::try_from(total % 1_000_000_000).ok()?;
            return Some(Duration::new(seconds, nanoseconds));
        }
    }
}

/// The shortest Go spelling: "2h", "1m30s", "250ms", "0s".
pub(super) fn duration_text(duration: Duration) -> String {
    let mut left = duration.as_nanos();
    let mut text = String::new();
    for (name, unit) in DURATION_UNITS.iter().rev().filter(|(name, _)| name.is_ascii()) {
        if left >= *unit {
            text.push_str(&format!("{}{name}", left / unit));
            left %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// Units of a size; the binary ones first, so that printing prefers them.
const SIZE_UNITS: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

/// Reads bytes: "1024", "64MiB", "1.5 GB". Units in any case; a plain letter is refused, because
/// "8G" means one thing to half of the readers and another to the rest.
fn parse_size(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = match unit.trim_start() {
        "" => 1,
        unit => SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit))?.1,
    };
    let Some((whole, fraction)) = number.split_once('.') else {
        return number.parse::<u64>().ok()?.checked_mul(unit);
    };
    // Nine digits are finer than a byte of a gigabyte, and the product stays within 128 bits.
    if unit == 1 || fraction.len() > 9 {
        return None;
    }
    let mut part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(unit);
    for _ in fraction.bytes() {
        part /= 10;
    }
    whole.parse::<u64>().ok()?.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

/// The size in its greatest unit of at least 1 KiB that divides it, or `None`.
fn size_text(bytes: u64) -> Option<String> {
    let (name, unit) =
        SIZE_UNITS[..4].iter().find(|(_, unit)| bytes >= *unit && bytes.is_multiple_of(*unit))?;
    Some(format!("{}{name}", bytes / unit))
}
