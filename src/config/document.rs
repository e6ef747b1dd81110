//! Reads a TOML document against the table: every key is recognised or refused, every value
//! checked, and nothing stops at the first error.

use std::ops::Range;

use toml_edit::{Document, Item, TableLike};

use super::foreign::{RECEIVER_PROTOCOLS_LATER, RECEIVER_PROTOCOLS_REFUSED};
use super::key::{Key, Section, SectionStatus, Status};
use super::problem::{ConfigError, Notice, Place, nearest};
use super::settings::{Origin, Settings, default_value};
use super::table::{self, RECEIVER, SECTIONS};
use super::value::{self, Value};

/// Most errors that are listed: in a file of another kind every line is one.
const ERRORS_MAX: usize = 100;

/// What a document said.
pub(super) struct Reading {
    pub(super) settings: Settings,
    pub(super) errors: Vec<ConfigError>,
    pub(super) notices: Vec<Notice>,
}

/// Reads a document. `label` names it in errors and notices.
pub(super) fn read(label: &str, text: &str) -> Reading {
    let text = logging_as_array(text);
    let line_ends = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
    let mut reader = Reader {
        label,
        line_ends: line_ends.map(|(at, _)| at).collect(),
        settings: Settings::defaults(),
        errors: Vec::new(),
        notices: Vec::new(),
    };
    match Document::parse(text.as_str()) {
        Ok(document) => reader.document(document.as_table()),
        Err(error) => {
            let problem = format!("not TOML: {}", error.message().trim().replace('\n', "; "));
            let span = error.span().or_else(|| too_deep(&text, &reader.line_ends));
            reader.error(span, "", "", problem, None);
        }
    }
    let Reader { settings, mut errors, mut notices, .. } = reader;
    errors.sort_by_key(|error| error.place.line);
    notices.sort_by_key(|notice| notice.place.line);
    Reading { settings, errors, notices }
}

/// The line on which tables or lists become nested too deeply, which the parser does not tell: the
/// first that it refuses in this way if the text ends behind it.
fn too_deep(text: &str, line_ends: &[usize]) -> Span {
    let is_refused =
        |end: usize| Document::parse(&text[..end]).is_err_and(|error| error.span().is_none());
    let line = line_ends.partition_point(|end| !is_refused(*end));
    let start = line.checked_sub(1).map_or(0, |before| line_ends[before] + 1);
    Some(start..start)
}

/// go-carbon reads each `[logging]` as `[[logging]]`; so do we. Line numbers stay.
fn logging_as_array(text: &str) -> String {
    let lines = text.split_inclusive('\n');
    let rewritten = lines.map(|line| match line.trim() {
        "[logging]" => line.replace("[logging]", "[[logging]]"),
        _ => line.to_owned(),
    });
    rewritten.collect()
}

struct Reader<'a> {
    label: &'a str,
    /// Where the lines end, in ascending order.
    line_ends: Vec<usize>,
    settings: Settings,
    errors: Vec<ConfigError>,
    notices: Vec<Notice>,
}

impl Reader<'_> {
    fn document(&mut self, root: &dyn TableLike) {
        for (name, item) in root.iter() {
            let span = key_span(root, name);
            match (name, table::find(name), item.as_table_like()) {
                ("receiver", _, Some(receivers)) => self.receivers(receivers),
                ("logging", Some(section), _) => self.logging(section, item, span),
                (_, Some(section), Some(table)) => self.section(section, table, span),
                (_, Some(_), None) => {
                    let problem = "expected a table of keys".to_owned();
                    self.error(span, name, "", problem, None);
                }
                (_, None, Some(_)) => {
                    let known = SECTIONS.iter().map(|section| section.name);
                    let suggestion = nearest(name, known).map(|known| format!("[{known}]"));
                    self.error(span, name, "", "unknown section".to_owned(), suggestion);
                }
                (_, None, None) => {
                    let suggestion = home_of(name).map(|home| format!("{name} in [{home}]"));
                    let problem = "unknown key outside of any section".to_owned();
                    self.error(span, "", name, problem, suggestion);
                }
            }
        }
    }

    fn section(&mut self, section: &'static Section, table: &dyn TableLike, span: Span) {
        for (name, item) in table.iter() {
            let inner = table::find(&format!("{}.{name}", section.name));
            if let (Some(inner), Some(table)) = (inner, item.as_table_like()) {
                self.section(inner, table, key_span(table, name));
            } else if let Some(key) = self.known_key(section, section.name, table, name) {
                self.setting(section, key, item, key_span(table, name));
            }
        }
        self.section_notice(section, span);
    }

    /// One notice for a section without effect that the file turns on. A section inside of
    /// another is off without it.
    fn section_notice(&mut self, section: &'static Section, span: Span) {
        let is_on = || {
            let mut settings = self.settings.iter().filter(|s| s.section.name == section.name);
            settings.any(|s| s.key.name == "enabled" && s.value == Value::Bool(true))
        };
        let text = match section.status {
            SectionStatus::Works => return,
            _ if section.name.contains('.') || !is_on() => return,
            SectionStatus::Later => "not available yet; ignored".to_owned(),
            SectionStatus::NotSupported(reason) => format!("not supported: {reason}; ignored"),
        };
        self.notice(span, section.name, "", text);
    }

    fn setting(&mut self, section: &'static Section, key: &'static Key, item: &Item, span: Span) {
        let Some(value) = self.value(section.name, key, item, span.clone()) else {
            return;
        };
        let line = self.line(&span).unwrap_or(1);
        if section.status == SectionStatus::Works {
            self.status(section, key, &value, span);
        }
        self.settings.set(section, key, value, Origin::File { line });
    }

    /// Tells what a key that is set does not do.
    fn status(&mut self, section: &Section, key: &Key, value: &Value, span: Span) {
        let is_default = *value == default_value(section, key);
        let text = match key.status {
            Status::Works => return,
            Status::Deprecated(successor) => format!("deprecated: use {successor}"),
            _ if is_default => return,
            Status::NoEffect(reason) => format!("no effect: {reason}"),
            Status::Later(what) => format!("not available yet: {what}"),
            Status::NotSupported(reason) => {
                let problem = format!("not supported: {reason}");
                return self.error(span, section.name, key.name, problem, None);
            }
        };
        self.notice(span, section.name, key.name, text);
    }

    fn logging(&mut self, section: &'static Section, item: &Item, span: Span) {
        let entries: Vec<&dyn TableLike> = match item {
            Item::ArrayOfTables(array) => array.iter().map(|table| table as _).collect(),
            _ => item.as_table_like().into_iter().collect(),
        };
        if entries.is_empty() {
            let problem = "expected [logging] or [[logging]]".to_owned();
            return self.error(span, section.name, "", problem, None);
        }
        // The first entry gives everything; another for all loggers gives the level if the first
        // is for one logger only.
        let is_general = |entry: &dyn TableLike| match entry.get("logger") {
            Some(logger) => logger.as_str() == Some(""),
            None => true,
        };
        let level_from = entries.iter().position(|entry| is_general(*entry)).unwrap_or(0);
        for (index, entry) in entries.iter().enumerate() {
            for (name, item) in entry.iter() {
                let Some(key) = self.known_key(section, section.name, *entry, name) else {
                    continue;
                };
                let span = key_span(*entry, name);
                if index == if name == "level" { level_from } else { 0 } {
                    self.setting(section, key, item, span);
                } else {
                    self.value(section.name, key, item, span);
                }
            }
        }
        if let Some(second) = entries.get(1) {
            let span = second.iter().next().and_then(|(name, _)| key_span(*second, name));
            let text = "one log is written, as the first [[logging]] says".to_owned();
            self.notice(span, section.name, "", text);
        }
    }

    fn receivers(&mut self, receivers: &dyn TableLike) {
        for (name, item) in receivers.iter() {
            let section = format!("receiver.{name}");
            let span = key_span(receivers, name);
            let Some(table) = item.as_table_like() else {
                self.error(span, &section, "", "expected a table of keys".to_owned(), None);
                continue;
            };
            for (name, item) in table.iter() {
                if let Some(key) = self.known_key(&RECEIVER, &section, table, name) {
                    self.value(&section, key, item, key_span(table, name));
                }
            }
            if table.get("enabled").and_then(Item::as_bool) != Some(false) {
                self.receiver(&section, table, span);
            }
        }
    }

    /// An enabled receiver is an error whatever it speaks: its points would be lost unseen.
    fn receiver(&mut self, section: &str, table: &dyn TableLike, span: Span) {
        let protocol = table.get("protocol").and_then(Item::as_str).unwrap_or("");
        let span = key_span(table, "protocol").or(span);
        let (problem, suggestion) = if RECEIVER_PROTOCOLS_REFUSED.contains(&protocol) {
            (format!("not supported: {protocol}; send lines to [tcp] or pickles to [pickle]"), None)
        } else if RECEIVER_PROTOCOLS_LATER.contains(&protocol) {
            (format!("not available yet: a second listener beside [{protocol}]"), None)
        } else {
            let known = RECEIVER_PROTOCOLS_LATER.iter().chain(&RECEIVER_PROTOCOLS_REFUSED);
            let suggestion = nearest(protocol, known.copied()).map(str::to_owned);
            (format!("unknown protocol \"{protocol}\""), suggestion)
        };
        self.error(span, section, "protocol", problem, suggestion);
    }

    fn known_key(
        &mut self,
        section: &'static Section,
        shown: &str,
        table: &dyn TableLike,
        name: &str,
    ) -> Option<&'static Key> {
        let known = section.key(name);
        if known.is_none() && self.errors.len() <= ERRORS_MAX {
            let elsewhere = home_of(name).map(|home| format!("{name} in [{home}]"));
            let near = || nearest(name, section.keys.iter().map(|key| key.name));
            let suggestion = elsewhere.or_else(|| near().map(str::to_owned));
            self.error(key_span(table, name), shown, name, "unknown key".to_owned(), suggestion);
        }
        known
    }

    fn value(&mut self, section: &str, key: &Key, item: &Item, span: Span) -> Option<Value> {
        match value::from_toml(key.kind, item) {
            Ok(value) => Some(value),
            Err(bad) => {
                self.error(span, section, key.name, bad.problem, bad.suggestion);
                None
            }
        }
    }

    fn error(
        &mut self,
        span: Span,
        section: &str,
        key: &str,
        problem: String,
        suggestion: Option<String>,
    ) {
        let error = match self.errors.len() {
            0..ERRORS_MAX => {
                let place = self.place(&span, section, key);
                ConfigError { place, problem, suggestion }
            }
            // Without a line, so that it is read first.
            ERRORS_MAX => ConfigError {
                place: Place { file: self.label.to_owned(), ..Place::default() },
                problem: format!("more than {ERRORS_MAX} errors, the others are not listed"),
                suggestion: None,
            },
            _ => return,
        };
        self.errors.push(error);
    }

    fn notice(&mut self, span: Span, section: &str, key: &str, text: String) {
        let place = self.place(&span, section, key);
        self.notices.push(Notice { place, text });
    }

    fn place(&self, span: &Span, section: &str, key: &str) -> Place {
        Place {
            file: self.label.to_owned(),
            line: self.line(span),
            section: section.to_owned(),
            key: key.to_owned(),
        }
    }

    fn line(&self, span: &Span) -> Option<usize> {
        let start = span.as_ref()?.start;
        Some(self.line_ends.partition_point(|end| *end < start) + 1)
    }
}

/// Where a key stands in the text.
type Span = Option<Range<usize>>;

fn key_span(table: &dyn TableLike, name: &str) -> Span {
    table.key(name).and_then(toml_edit::Key::span)
}

/// The working section that has a key of this name.
fn home_of(name: &str) -> Option<&'static str> {
    let works = SECTIONS.iter().filter(|section| section.status == SectionStatus::Works);
    works.into_iter().find(|section| section.key(name).is_some()).map(|section| section.name)
}
