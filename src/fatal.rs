//! Reasons to stop at once, and the exit statuses (sysexits.h) that tell them apart.

/// Why the node cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fatal {
    /// A listener cannot be bound.
    Listen,
    /// A core or the ring of a writer cannot be started.
    Writer,
    /// The machine lacks something; the text says what and how to mend it.
    Preflight,
    /// The data directory is in use by another process.
    Locked,
    /// What was written to the data directory may not have reached its disk.
    Checkpoint,
    /// The configuration or the schemas are wrong.
    Config,
    /// Points could not be written before the end.
    Unwritten,
}

impl Fatal {
    /// The exit status.
    pub fn status(self) -> u8 {
        match self {
            Fatal::Listen => 69,
            Fatal::Writer => 70,
            Fatal::Preflight => 71,
            Fatal::Checkpoint => 74,
            Fatal::Locked | Fatal::Unwritten => 75,
            Fatal::Config => 78,
        }
    }
}

/// Says why, in one line, and ends the process.
pub fn die(fatal: Fatal, text: &str) -> ! {
    log::error!("stopping reason={fatal:?} error=\"{text}\"");
    std::process::exit(i32::from(fatal.status()))
}
