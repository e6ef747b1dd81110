//! The checks that need more than one key.

use std::path::Path;

use super::document::Reading;
use super::problem::{ConfigError, Notice, Place};
use super::settings::{Origin, Setting};
use super::value::listen_address;

/// Adds what only several keys together show.
pub(super) fn across_keys(label: &str, reading: &mut Reading) {
    // A listen that could not be read still has its default, which nobody asked for.
    if !reading.errors.iter().any(|error| error.place.key == "listen") {
        shared_ports(label, reading);
    }
    paths_in_tree(label, reading);
    let read_timeout = reading.settings.get("carbonlink", "read-timeout");
    let idle_timeout = reading.settings.get("carbonlink", "idle-timeout");
    if read_timeout.origin != Origin::Default && idle_timeout.origin == Origin::Default {
        let text = "ends half-received questions only; idle connections stay open unless \
                    idle-timeout is set";
        reading.notices.push(Notice { place: place(label, read_timeout), text: text.to_owned() });
        reading.notices.sort_by_key(|notice| notice.place.line);
    }
}

/// In the data directory every file is a metric to other programs.
fn paths_in_tree(label: &str, reading: &mut Reading) {
    for (section, key) in [("wal", "directory"), ("common", "admin-socket")] {
        let settings = &reading.settings;
        let (path, data_dir) = (settings.text(section, key), settings.text("whisper", "data-dir"));
        if !path.is_empty() && Path::new(path).starts_with(data_dir) {
            let place = place(label, settings.get(section, key));
            let problem = format!("\"{path}\" is inside of data-dir \"{data_dir}\"");
            reading.errors.push(ConfigError { place, problem, suggestion: None });
        }
    }
}

/// Two enabled TCP listeners cannot have one port of one address.
fn shared_ports(label: &str, reading: &mut Reading) {
    let settings = &reading.settings;
    let sections = ["tcp", "pickle", "carbonlink"];
    let enabled = sections.into_iter().filter(|section| settings.bool(section, "enabled"));
    let listeners: Vec<&Setting> = enabled.map(|section| settings.get(section, "listen")).collect();
    let address = |setting: &Setting| {
        let text = settings.text(setting.section.name, "listen");
        listen_address(text).map(|(host, port)| (is_wildcard(host), host.to_owned(), port))
    };
    for (index, second) in listeners.iter().enumerate() {
        for first in &listeners[..index] {
            let (Some((first_any, first_host, first_port)), Some((any, host, port))) =
                (address(first), address(second))
            else {
                continue;
            };
            if port != 0 && port == first_port && (any || first_any || host == first_host) {
                let other = first.section.name;
                let problem = format!("port {port} is already that of [{other}]");
                let at = if second.origin == Origin::Default { first } else { second };
                let place = Place { section: second.section.name.to_owned(), ..place(label, at) };
                reading.errors.push(ConfigError { place, problem, suggestion: None });
            }
        }
    }
}

fn is_wildcard(host: &str) -> bool {
    matches!(host, "" | "0.0.0.0" | "::")
}

fn place(label: &str, setting: &Setting) -> Place {
    Place {
        file: label.to_owned(),
        line: match setting.origin {
            Origin::File { line } => Some(line),
            Origin::Default | Origin::Embedded => None,
        },
        section: setting.section.name.to_owned(),
        key: setting.key.name.to_owned(),
    }
}
