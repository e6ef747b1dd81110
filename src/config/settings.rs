//! The effective value of every key, and where it came from.

use super::handle::{Handle, Read};
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
        for section in &SECTIONS {
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

    /// The setting of a key.
    pub(super) fn setting<T>(&self, key: &Handle<T>) -> &Setting {
        &self.all[key.index]
    }

    /// The value of a key. It has the key's kind, and the handle a type that reads it.
    pub(super) fn get<T: Read>(&self, key: &Handle<T>) -> T {
        let value = &self.setting(key).value;
        T::read(value).unwrap_or_else(|| panic!("{value:?} is not of its key's kind"))
    }

    /// Replaces the value of a key of the table.
    pub(super) fn set(&mut self, section: &Section, key: &Key, value: Value, origin: Origin) {
        let is_it = |s: &&mut Setting| s.section.name == section.name && s.key.name == key.name;
        let setting = self.all.iter_mut().find(is_it).expect("there is a setting for each key");
        (setting.value, setting.origin) = (value, origin);
    }
}

/// The default of a key as a value.
pub(super) fn default_value(section: &Section, key: &Key) -> Value {
    match value::from_text(key.kind, key.default) {
        Some(value) => value,
        None => panic!("BUG: {}.{} refuses its own default", section.name, key.name),
    }
}
