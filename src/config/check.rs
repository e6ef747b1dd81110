//! The checks that need more than one key.

use std::path::Path;
use std::time::Duration;

use super::document::Reading;
use super::handle::{Handle, key};
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
    let settings = &reading.settings;
    let read_timeout = settings.setting::<Duration>(key!("carbonlink", "read-timeout"));
    let idle_timeout = settings.setting::<Option<Duration>>(key!("carbonlink", "idle-timeout"));
    if read_timeout.origin != Origin::Default && idle_timeout.origin == Origin::Default {
        let text = "ends half-received questions only; idle connections stay open unless \
                    idle-timeout is set";
        reading.notices.push(Notice { place: place(label, read_timeout), text: text.to_owned() });
        reading.notices.sort_by_key(|notice| notice.place.line);
    }
}

/// In the data directory every file is a metric to other programs.
fn paths_in_tree(label: &str, reading: &mut Reading) {
    let settings = &reading.settings;
    let data_dir: String = settings.get(key!("whisper", "data-dir"));
    for key in [key!("wal", "directory"), key!("common", "admin-socket")] {
        let path: String = settings.get(key);
        if !path.is_empty() && Path::new(&path).starts_with(&data_dir) {
            let place = place(label, settings.setting(key));
            let problem = format!("\"{path}\" is inside of data-dir \"{data_dir}\"");
            reading.errors.push(ConfigError { place, problem, suggestion: None });
        }
    }
}

/// Two enabled TCP listeners cannot have one port of one address.
fn shared_ports(label: &str, reading: &mut Reading) {
    let settings = &reading.settings;
    let listeners: [(&Handle<bool>, &Handle<String>); 3] = [
        (key!("tcp", "enabled"), key!("tcp", "listen")),
        (key!("pickle", "enabled"), key!("pickle", "listen")),
        (key!("carbonlink", "enabled"), key!("carbonlink", "listen")),
    ];
    let enabled = listeners.into_iter().filter(|(enabled, _)| settings.get(*enabled));
    let address = |(_, listen)| {
        let text: String = settings.get(listen);
        let (host, port) = listen_address(&text)?;
        Some((settings.setting(listen), host.to_owned(), port))
    };
    let listeners: Vec<(&Setting, String, u16)> = enabled.filter_map(address).collect();
    for (index, (second, host, port)) in listeners.iter().enumerate() {
        for (first, first_host, first_port) in &listeners[..index] {
            let meet = is_wildcard(host) || is_wildcard(first_host) || host == first_host;
            if *port != 0 && port == first_port && meet {
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
