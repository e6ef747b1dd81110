//! carbon's INI dialect: that of Python's ConfigParser, with carbon's order of sections.
//!
//! `key = value` or `key: value` below `[section]`, comments only on lines of their own, values
//! continued by indentation, `%%` and `%(key)s` in values, keys of `[DEFAULT]` in every section.
//! What leaves are sections in file order with their final values and the line of each key.

use std::collections::HashMap;

use super::{Place, SchemaError, Source};

/// Name of the section whose keys all others inherit.
const DEFAULT_SECTION: &str = "DEFAULT";

/// How deep `%(key)s` may refer to values that refer to others; Python's limit.
const REFERENCE_DEPTH_MAX: usize = 10;

/// Longest value in bytes after `%(key)s` is filled in: references to references could otherwise
/// grow a few lines without bound. A longer value is an error.
const VALUE_BYTES_MAX: usize = 65_536;

/// Most bytes of values that are read to fill in the references of a file, those of `[DEFAULT]` in
/// each section included: a few lines could otherwise take for ever without growing, or fill the
/// memory. A file needs its own length, and its keys of `[DEFAULT]` once for each section.
const FILLED_BYTES_MAX: usize = 64 << 20;

/// Most sections of a file. Each new metric tries their patterns one after the other.
const SECTIONS_MAX: usize = 10_000;

/// Most keys of a section, of which carbon knows three.
const KEYS_MAX: usize = 64;

/// A section with its keys.
#[derive(Debug)]
pub(super) struct Section {
    /// What stands between the brackets.
    pub(super) name: String,
    /// Line of the header, from 1.
    pub(super) line: usize,
    /// Whether carbon uses the section: it reads one whose header line goes on after the `]`,
    /// but leaves it out of its list. Values of such a section are as they stand in the file.
    pub(super) is_listed: bool,
    /// Own keys first, then those of `[DEFAULT]` that it does not have itself.
    pub(super) entries: Vec<Entry>,
}

impl Section {
    /// The entry of a key, given in lower case.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.key == key)
    }

    /// Whether this is `[DEFAULT]`, whose keys may be there for others to refer to.
    pub(super) fn is_default(&self) -> bool {
        self.name == DEFAULT_SECTION
    }
}

/// A key and its value.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// In lower case.
    pub(super) key: String,
    /// Trimmed; continuation lines are joined by LF.
    pub(super) value: String,
    /// Line of the key, from 1.
    pub(super) line: usize,
    /// Whether it comes from `[DEFAULT]`.
    pub(super) is_inherited: bool,
}

/// The sections of a file.
pub(super) fn parse(source: &Source<'_>) -> Result<Vec<Section>, SchemaError> {
    let mut reader = Reader {
        file: source.file,
        sections: Vec::new(),
        places: HashMap::default(),
        current: None,
        in_value: false,
        key_indent: 0,
    };
    // Python opens the file with universal newlines.
    let text = source.text.replace("\r\n", "\n").replace('\r', "\n");
    for (index, line) in text.split('\n').enumerate() {
        reader.read(line, index + 1)?;
    }
    let mut sections = reader.sections;
    for entry in sections.iter_mut().flat_map(|section| &mut section.entries) {
        entry.value.truncate(entry.value.trim_end().len());
    }
    let defaults: Vec<Entry> = sections
        .iter()
        .find(|section| section.is_default())
        .map_or_else(Vec::new, |section| section.entries.clone());
    let mut room = Room { left_bytes: FILLED_BYTES_MAX };
    for section in sections.iter_mut().filter(|section| section.is_listed) {
        inherit(source.file, section, &defaults, &mut room)?;
        fill_in(source.file, section, &mut room)?;
    }
    Ok(sections)
}

/// What has been read so far.
struct Reader<'a> {
    file: &'a str,
    sections: Vec<Section>,
    /// Where in `sections` a name is.
    places: HashMap<String, usize, ahash::RandomState>,
    /// The section that keys belong to.
    current: Option<usize>,
    /// Whether an indented line continues a value.
    in_value: bool,
    /// Indentation of the last line that was not a continuation.
    key_indent: usize,
}

impl Reader<'_> {
    fn read(&mut self, line: &str, number: usize) -> Result<(), SchemaError> {
        let text = line.trim();
        if text.starts_with(['#', ';']) {
            return Ok(());
        }
        if text.is_empty() {
            if let Some(entry) = self.open_entry() {
                entry.value.push('\n');
            }
            return Ok(());
        }
        let indent = line.chars().take_while(|c| c.is_whitespace()).count();
        if indent > self.key_indent && self.open_entry().is_some() {
            return self.read_continuation(text, number);
        }
        self.key_indent = indent;
        let header_bytes = text.rfind(']').filter(|&end| text.starts_with('[') && end > 1);
        match (header_bytes, self.current) {
            (Some(end), _) => self.read_header(text, end, number),
            (None, Some(section)) => self.read_key(section, text, number),
            (None, None) => Err(self.error(number, "", "stands before the first [section]")),
        }
    }

    /// The entry that an indented line would continue.
    fn open_entry(&mut self) -> Option<&mut Entry> {
        let section = self.current.filter(|_| self.in_value)?;
        self.sections[section].entries.last_mut()
    }

    fn read_continuation(&mut self, text: &str, number: usize) -> Result<(), SchemaError> {
        if text.starts_with('[') && text.ends_with(']') {
            let reason = "an indented [section] continues the value above; remove the indentation";
            return Err(self.error(number, "", reason));
        }
        if let Some(entry) = self.open_entry() {
            entry.value.push('\n');
            entry.value.push_str(text);
        }
        Ok(())
    }

    fn read_header(&mut self, text: &str, end: usize, number: usize) -> Result<(), SchemaError> {
        let name = &text[1..end];
        let is_listed = end + 1 == text.len();
        self.in_value = false;
        if let Some(&known) = self.places.get(name) {
            self.current = Some(known);
            if name == DEFAULT_SECTION {
                return Ok(());
            }
            let first = self.sections[known].line;
            let reason = format!("the section exists already, at line {first}");
            return Err(self.error(number, "", &reason));
        }
        if self.sections.len() == SECTIONS_MAX {
            return Err(self.error(number, "", &format!("more than {SECTIONS_MAX} sections")));
        }
        self.current = Some(self.sections.len());
        let name = name.to_string();
        self.places.insert(name.clone(), self.sections.len());
        self.sections.push(Section { name, line: number, is_listed, entries: Vec::new() });
        Ok(())
    }

    fn read_key(&mut self, section: usize, text: &str, number: usize) -> Result<(), SchemaError> {
        let Some((key, value)) = text.split_once(['=', ':']) else {
            return Err(self.error(number, "", "neither a [section] nor key = value"));
        };
        let key = key.trim_end().to_lowercase();
        if key.is_empty() {
            return Err(self.error(number, "", "a value without a key"));
        }
        if let Some(first) = self.sections[section].get(&key) {
            let reason = format!("the key is given already, at line {}", first.line);
            return Err(self.error(number, &key, &reason));
        }
        if self.sections[section].entries.len() == KEYS_MAX {
            let reason = format!("more than {KEYS_MAX} keys in a section");
            return Err(self.error(number, &key, &reason));
        }
        let value = value.trim_start().to_string();
        let entry = Entry { key, value, line: number, is_inherited: false };
        self.sections[section].entries.push(entry);
        self.in_value = true;
        Ok(())
    }

    fn error(&self, line: usize, key: &str, reason: &str) -> SchemaError {
        let section = self.current.map_or("", |section| &self.sections[section].name);
        error(self.file, line, section, key, reason)
    }
}

fn error(file: &str, line: usize, section: &str, key: &str, reason: &str) -> SchemaError {
    let (file, section) = (file.to_string(), section.to_string());
    let place = Place { file, line, section, key: key.to_string() };
    SchemaError { place, reason: reason.to_string() }
}

/// What may still be read to fill in the references of a file.
struct Room {
    left_bytes: usize,
}

impl Room {
    /// Takes the bytes of a text.
    fn take(&mut self, text: &str) -> Result<(), String> {
        /// What a text costs beside its bytes: a million of them take 0.1 s.
        const TEXT_BYTES: usize = 64;
        self.left_bytes =
            self.left_bytes.checked_sub(text.len() + TEXT_BYTES).ok_or_else(|| {
                format!("the values of all sections take more than {FILLED_BYTES_MAX} bytes")
            })?;
        Ok(())
    }
}

/// Adds the keys of `[DEFAULT]` that the section does not have.
fn inherit(
    file: &str,
    section: &mut Section,
    defaults: &[Entry],
    room: &mut Room,
) -> Result<(), SchemaError> {
    for default in defaults {
        if section.get(&default.key).is_none() {
            room.take(&default.value).map_err(|reason| {
                error(file, section.line, &section.name, &default.key, &reason)
            })?;
            section.entries.push(Entry { is_inherited: true, ..default.clone() });
        }
    }
    Ok(())
}

/// Replaces `%%` and `%(key)s` in all values of a section, as carbon does even for keys that it
/// does not use.
fn fill_in(file: &str, section: &mut Section, room: &mut Room) -> Result<(), SchemaError> {
    let mut values = Vec::with_capacity(section.entries.len());
    for entry in &section.entries {
        let mut value = String::new();
        append_filled_in(&entry.value, section, 0, room, &mut value)
            .map_err(|reason| error(file, entry.line, &section.name, &entry.key, &reason))?;
        values.push(value);
    }
    for (entry, value) in section.entries.iter_mut().zip(values) {
        entry.value = value;
    }
    Ok(())
}

/// Appends a value with its references filled in, or says what is wrong with it.
fn append_filled_in(
    text: &str,
    section: &Section,
    depth: usize,
    room: &mut Room,
    out: &mut String,
) -> Result<(), String> {
    if depth > REFERENCE_DEPTH_MAX {
        return Err("references of %(key)s go too deep or in a circle".to_string());
    }
    room.take(text)?;
    let mut rest = text;
    while let Some(at) = rest.find('%') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix('%') {
            out.push('%');
            rest = after;
            continue;
        }
        let reference = rest.strip_prefix('(').and_then(|name| name.split_once(")s"));
        let Some((name, after)) = reference.filter(|(name, _)| !name.is_empty()) else {
            return Err("a single % begins a reference like %(key)s; for a percent sign write %%"
                .to_string());
        };
        let Some(entry) = section.get(&name.to_lowercase()) else {
            return Err(format!(
                "%({name})s refers to a key that is not there; for a percent sign write %%"
            ));
        };
        append_filled_in(&entry.value, section, depth + 1, room, out)?;
        rest = after;
    }
    out.push_str(rest);
    if out.len() > VALUE_BYTES_MAX {
        return Err(format!("the value is longer than {VALUE_BYTES_MAX} bytes"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prints sections as `name@line{key=value,...}`, inherited keys with a `^`.
    fn check(text: &str, want: &str) {
        let got = match parse(&Source { file: "f", text }) {
            Err(error) => error.to_string(),
            Ok(sections) => {
                let entry = |entry: &Entry| {
                    let mark = if entry.is_inherited { "^" } else { "" };
                    format!("{mark}{}={:?}", entry.key, entry.value)
                };
                let section = |section: &Section| {
                    let entries: Vec<String> = section.entries.iter().map(entry).collect();
                    let mark = if section.is_listed { "" } else { "!" };
                    format!("{mark}{}@{}{{{}}}", section.name, section.line, entries.join(","))
                };
                sections.iter().map(section).collect::<Vec<String>>().join(" ")
            }
        };
        assert_eq!(got, want, "{text}");
    }

    #[test]
    fn sections_and_keys() {
        check("", "");
        check("# x\n ; y\n\n[a]\nK = v ; w\nl: = #\n", r##"a@4{k="v ; w",l="= #"}"##);
        check("[a]\r\nk=v\r[b c]\rk =\n", r#"a@1{k="v"} b c@3{k=""}"#);
        check("[a] x\nk=v\n[b]]\n", r#"!a@1{k="v"} b]@3{}"#);
        check("  [a]\n  k=v\n  l=w\n", r#"a@1{k="v",l="w"}"#);
        check("[a]\nk = \"v\"\n", r#"a@1{k="\"v\""}"#);
    }

    #[test]
    fn continuation_lines() {
        check("[a]\nk = 1,\n  2,\n# x\n\n  3\n\nl=w\n", r#"a@1{k="1,\n2,\n\n3",l="w"}"#);
        check("[a]\n  k = 1\n    2\n  l = 3\n", r#"a@1{k="1\n2",l="3"}"#);
        check("[a]\nk =\n  v\n", r#"a@1{k="\nv"}"#);
        let reason = "an indented [section] continues the value above; remove the indentation";
        check("[a]\nk=v\n  [b]\n", &format!("f:3: [a] {reason}"));
    }

    #[test]
    fn defaults() {
        check(
            "[a]\nk=1\n[DEFAULT]\nk=2\nl=3\n[default]\n",
            r#"a@1{k="1",^l="3"} DEFAULT@3{k="2",l="3"} default@6{^k="2",^l="3"}"#,
        );
        check("[DEFAULT]\nk=1\n[DEFAULT]\nl=2\n", r#"DEFAULT@1{k="1",l="2"}"#);
        check(
            "[DEFAULT]\nk=1\n[DEFAULT]\nk=2\n",
            "f:4: [DEFAULT] k: the key is given already, at line 2",
        );
    }

    #[test]
    fn references() {
        check("[a]\nk=%%d%%%%\n", r#"a@1{k="%d%%"}"#);
        check(
            "[a]\nk=<%(L)s>\nl=%(m)s\n[DEFAULT]\nm=x\n",
            r#"a@1{k="<x>",l="x",^m="x"} DEFAULT@4{m="x"}"#,
        );
        let single = "a single % begins a reference like %(key)s; for a percent sign write %%";
        for value in ["5%", "%d", "%()s", "%(k)d"] {
            check(&format!("[a]\nk={value}\n"), &format!("f:2: [a] k: {single}"));
        }
        let missing = "refers to a key that is not there; for a percent sign write %%";
        check("[a]\nk=%(x)s\n", &format!("f:2: [a] k: %(x)s {missing}"));
        let circle = "references of %(key)s go too deep or in a circle";
        check("[a]\nk=%(k)s\n", &format!("f:2: [a] k: {circle}"));
        let mut growing = "[a]\nk0=xxxxxxxxxxxxxxxx\n".to_string();
        for i in 1..10 {
            growing += &format!("k{i}={}\n", format!("%(k{})s", i - 1).repeat(16));
        }
        check(&growing, "f:6: [a] k4: the value is longer than 65536 bytes");
    }

    #[test]
    fn files_that_would_take_for_ever_are_refused() {
        // References to nothing, each to a thousand others: no value ever grows.
        let mut growing = "[a]\nk0=\n".to_string();
        for i in 1..10 {
            growing += &format!("k{i}={}\n", format!("%(k{})s", i - 1).repeat(1_000));
        }
        let too_long = "the values of all sections take more than 67108864 bytes";
        check(&growing, &format!("f:4: [a] k2: {too_long}"));
        // A long value that each section inherits.
        let mut inherited = format!("[DEFAULT]\nd={}\n", "x".repeat(65_000));
        for i in 0..2_000 {
            inherited += &format!("[s{i}]\n");
        }
        check(&inherited, &format!("f:518: [s515] d: {too_long}"));
        let sections: String = (0..10_001).map(|i| format!("[s{i}]\n")).collect();
        check(&sections, "f:10001: [s9999] more than 10000 sections");
        let keys: String = (0..65).map(|i| format!("k{i}=\n")).collect();
        check(&format!("[a]\n{keys}"), "f:66: [a] k64: more than 64 keys in a section");
    }

    #[test]
    fn errors() {
        check("k=v\n", "f:1: stands before the first [section]");
        check("[a]\nnonsense\n", "f:2: [a] neither a [section] nor key = value");
        check("[a]\n[]\n", "f:2: [a] neither a [section] nor key = value");
        check("[a]\n=v\n", "f:2: [a] a value without a key");
        check("[a]\nk=v\nK: w\n", "f:3: [a] k: the key is given already, at line 2");
        check("[a]\n[b]\n[a]\n", "f:3: [a] the section exists already, at line 1");
    }
}
