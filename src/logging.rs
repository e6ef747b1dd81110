//! The node's log: one line an event, `LEVEL message key=value`, with the time in front unless
//! journald keeps it. Callers hold repetitions back; the data path counts instead.

use std::fs::File;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::SystemTime;

use log::{LevelFilter, Log, Metadata, Record};

use crate::config::{LogTarget, Logging};

/// Below our own crates only warnings are of interest.
const FOREIGN_LEVEL: LevelFilter = LevelFilter::Warn;

struct NodeLog {
    level: LevelFilter,
    with_time: bool,
    sink: Mutex<Sink>,
}

enum Sink {
    Stderr,
    Stdout,
    File(PathBuf, File),
}

/// Starts logging as configured. Fails when the file cannot be opened.
pub fn start(logging: &Logging) -> io::Result<()> {
    let sink = match &logging.target {
        LogTarget::Nowhere => return Ok(()),
        LogTarget::Stderr => Sink::Stderr,
        LogTarget::Stdout => Sink::Stdout,
        LogTarget::File(path) => {
            let file = File::options().create(true).append(true).open(path)?;
            Sink::File(path.clone(), file)
        }
    };
    let with_time = std::env::var_os("JOURNAL_STREAM").is_none();
    let log = NodeLog { level: logging.level, with_time, sink: Mutex::new(sink) };
    if log::set_boxed_logger(Box::new(log)).is_ok() {
        log::set_max_level(logging.level);
    }
    Ok(())
}

/// Opens the log file anew, after it has been rotated away.
pub fn reopen() {
    log::logger().flush();
}

impl Log for NodeLog {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        let ours = metadata.target().starts_with("carbyne");
        metadata.level() <= if ours { self.level } else { FOREIGN_LEVEL.min(self.level) }
    }

    fn log(&self, record: &Record<'_>) {
        if !self.enabled(record.metadata()) {
            return;
        }
        let mut line = String::new();
        if self.with_time {
            line = format!("{} ", humantime::format_rfc3339_seconds(SystemTime::now()));
        }
        line.push_str(&format!("{} {}\n", record.level(), printable(&record.args().to_string())));
        let Ok(mut sink) = self.sink.lock() else { return };
        // There is no other place to report a log that cannot be written.
        let _ = match &mut *sink {
            Sink::Stderr => io::stderr().write_all(line.as_bytes()),
            Sink::Stdout => io::stdout().write_all(line.as_bytes()),
            Sink::File(_, file) => file.write_all(line.as_bytes()),
        };
    }

    fn flush(&self) {
        let Ok(mut sink) = self.sink.lock() else { return };
        if let Sink::File(path, file) = &mut *sink
            && let Ok(anew) = File::options().create(true).append(true).open(&*path)
        {
            *file = anew;
        }
    }
}

/// Metric names come from strangers: no control character of theirs reaches a terminal, and no
/// line break makes two lines of one.
fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if character.is_control() {
            out.extend(character.escape_default());
        } else {
            out.push(character);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn control_characters_are_shown_not_sent() {
        assert_eq!(printable("metric=a\u{1b}[2J\nb é"), "metric=a\\u{1b}[2J\\nb é");
    }
}
