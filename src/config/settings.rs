//! The effective value of every key, and where it came from.

use std::time::Duration;

use super::key::{Key, Section};
use super::table::SECTIONS;
use super::value::{self, Value};

/// Where an effective value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// The key's default.
    Default,
    /// The file.
    File {
        /// The line, counted from 1.
        line: usize,
    },
    /// The configuration of a node that was started without a file.
    Embedded,
}

/// One key with its effective value.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The section of the key.
    pub section: &'static Section,
    /// The key's description.
    pub key: &'static Key,
    /// The value.
    pub value: Value,
    /// Where the value came from.
    pub origin: Origin,
}

/// One setting for each key of the table, in the table's order.
#[derive(Debug, Clone)]
pub struct Settings {
    all: Vec<Setting>,
}

impl Settings {
    /// Every key at its default.
    pub(super) fn defaults() -> Settings {
        let mut all = Vec::new();
        for section in SECTIONS {
            for key in section.keys {
                let value = default_value(section, key);
                all.push(Setting { section, key, value, origin: Origin::Default });
            }
        }
        Settings { all }
    }

    /// All settings in the table's order.
    pub fn iter(&self) -> impl Iterator<Item = &Setting> {
        self.all.iter()
    }

    /// The setting of a key that the table has.
    ///
    /// # Panics
    /// When the table has no such key: the caller is wrong, not the file.
    pub fn get(&self, section: &str, key: &str) -> &Setting {
        let found = self.all.iter().find(|s| s.section.name == section && s.key.name == key);
        match found {
            Some(setting) => setting,
            None => panic!("BUG: the table has no key {section}.{key}"),
        }
    }

    /// Replaces the value of a key that the table has.
    pub(super) fn set(&mut self, section: &str, key: &str, value: Value, origin: Origin) {
        let found = self.all.iter_mut().find(|s| s.section.name == section && s.key.name == key);
        match found {
            Some(setting) => {
                setting.value = value;
                setting.origin = origin;
            }
            None => panic!("BUG: the table has no key {section}.{key}"),
        }
    }

    pub(super) fn bool(&self, section: &str, key: &str) -> bool {
        match self.get(section, key).value {
            Value::Bool(value) => value,
            ref other => wrong_kind(section, key, other),
        }
    }

    /// An integer or a size. The kind's range keeps it inside of `T`.
    pub(super) fn number<T: TryFrom<u64>>(&self, section: &str, key: &str) -> T {
        let number = match self.get(section, key).value {
            Value::Int(number) | Value::Size(number) => T::try_from(number).ok(),
            _ => None,
        };
        match number {
            Some(number) => number,
            None => wrong_kind(section, key, &self.get(section, key).value),
        }
    }

    pub(super) fn size_or_auto(&self, section: &str, key: &str) -> Option<u64> {
        match self.get(section, key).value {
            Value::Auto => None,
            _ => Some(self.number(section, key)),
        }
    }

    pub(super) fn text(&self, section: &str, key: &str) -> &str {
        match &self.get(section, key).value {
            Value::Text(text) => text,
            other => wrong_kind(section, key, other),
        }
    }

    pub(super) fn duration(&self, section: &str, key: &str) -> Duration {
        match self.get(section, key).value {
            Value::Duration(duration) => duration,
            ref other => wrong_kind(section, key, other),
        }
    }

    /// A duration of which 0 means "no limit".
    pub(super) fn limit(&self, section: &str, key: &str) -> Option<Duration> {
        Some(self.duration(section, key)).filter(|duration| !duration.is_zero())
    }
}

fn wrong_kind(section: &str, key: &str, value: &Value) -> ! {
    panic!("BUG: {section}.{key} holds {value:?}, which its reader does not take")
}

/// The default of a key as a value.
pub(super) fn default_value(section: &Section, key: &Key) -> Value {
    match value::from_text(key.kind, key.default) {
        Some(value) => value,
        None => panic!("BUG: {}.{} refuses its own default", section.name, key.name),
    }
}
