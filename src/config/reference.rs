//! The configuration as text: the commented reference and the effective values.

use super::Config;
use super::key::{Key, Section, SectionStatus, Status};
use super::settings::{Origin, default_value};
use super::table::SECTIONS;

/// The commented reference, as shipped. A test holds it equal to [`reference()`].
pub const REFERENCE: &str = include_str!("../../tuning/carbyne.toml");

/// Columns of the reference's comments.
const COLUMNS: usize = 92;

const HEADER: &str = "Carbyne's configuration: every key that works, at its default. A \
    go-carbon.conf is accepted as it is; keys marked (own) are not in go-carbon. Durations are \
    numbers with units, such as \"1m30s\" or \"250ms\". Sizes are bytes, or such as \"64MiB\" or \
    \"8GB\". An unknown key, a wrong type or a value out of its range stops the start.";

/// Prints every section and key of the table as a TOML file of the defaults.
pub fn reference() -> String {
    let mut text = String::new();
    comment(&mut text, "# ", HEADER);
    let (working, others): (Vec<&Section>, Vec<&Section>) =
        SECTIONS.iter().partition(|section| section.status == SectionStatus::Works);
    for section in working {
        text.push('\n');
        comment(&mut text, "# ", section.doc);
        text.push_str(&format!("[{}]\n", section.name));
        for key in section.keys.iter().filter(|key| key.status == Status::Works) {
            let own = if key.own { "(own) " } else { "" };
            comment(&mut text, "# ", &format!("{own}{}", key.doc));
            text.push_str(&format!("{} = {}\n", key.name, default_value(section, key)));
        }
        let quiet = section.keys.iter().filter(|key| key.status != Status::Works);
        for (index, key) in quiet.enumerate() {
            if index == 0 {
                text.push_str("# Other keys of go-carbon:\n");
            }
            comment(&mut text, "#   ", &format!("{}: {}", key.name, fate(key)));
        }
    }
    text.push('\n');
    comment(
        &mut text,
        "# ",
        "Other sections of go-carbon. They are accepted and change nothing, except as noted.",
    );
    for section in others {
        let names: Vec<&str> = section.keys.iter().map(|key| key.name).collect();
        let fate = match section.status {
            SectionStatus::NotSupported(reason) => format!("Not supported: {reason}."),
            SectionStatus::Works | SectionStatus::Later => "Not available yet.".to_owned(),
        };
        text.push_str(&format!("#\n# [{}]\n", section.name));
        comment(&mut text, "#   ", &format!("{} {fate}", section.doc));
        comment(&mut text, "#   ", &format!("Keys: {}.", names.join(", ")));
    }
    text
}

fn fate(key: &Key) -> String {
    match key.status {
        Status::Works => key.doc.to_owned(),
        Status::Deprecated(successor) => format!("honoured; {successor} is its successor."),
        Status::NoEffect(reason) => format!("{reason}."),
        Status::Later(what) => format!("not available yet: {what}."),
        Status::NotSupported(reason) => format!("refused: {reason}."),
    }
}

/// Prints the effective value of every key that works and of every other that was set, one a
/// line with its origin.
pub fn show(config: &Config) -> String {
    let mut text = String::new();
    for setting in config.settings.iter() {
        let works = setting.section.status == SectionStatus::Works;
        let honoured = works && matches!(setting.key.status, Status::Works | Status::Deprecated(_));
        let origin = match setting.origin {
            Origin::Default if !honoured || setting.key.status != Status::Works => continue,
            Origin::Default => "default".to_owned(),
            Origin::File { line } => format!("line {line}"),
            Origin::Embedded => "embedded".to_owned(),
        };
        let effect = if honoured { "" } else { ", no effect" };
        let name = format!("{}.{}", setting.section.name, setting.key.name);
        text.push_str(&format!("{name} = {}   # {origin}{effect}\n", setting.value));
    }
    text
}

/// Appends a paragraph in lines of a readable length, each after `start`.
fn comment(text: &mut String, start: &str, paragraph: &str) {
    let mut column = 0;
    for word in paragraph.split_whitespace() {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > COLUMNS {
            text.push('\n');
            column = 0;
        }
        if column == 0 {
            text.push_str(start);
            column = start.len();
        } else {
            text.push(' ');
            column += 1;
        }
        text.push_str(word);
        column += length;
    }
    text.push('\n');
}
