//! The description of every configuration key: the one table behind parsing, the unknown-key
//! check, `config default` and `config show`.
//!
//! Names, types and defaults are go-carbon's; a key of our own is marked so, and the text of a
//! key whose default differs says why. This file has the sections that work; the sections of
//! go-carbon that do not are in [`super::foreign`].

use std::time::Duration;

use super::value::Kind;

/// One `[section]` of the file.
#[derive(Debug)]
pub struct Section {
    /// Its name between the brackets.
    pub name: &'static str,
    /// What it is for.
    pub doc: &'static str,
    /// Whether the node honours it.
    pub status: SectionStatus,
    /// Its keys, in the order in which the reference prints them.
    pub keys: &'static [Key],
}

impl Section {
    /// The key of this name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

/// Whether the node honours a section.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SectionStatus {
    /// Each key says for itself.
    Works,
    /// Accepted, with one notice when the file turns it on.
    Later,
    /// Accepted, with one notice and its reason when the file turns it on.
    NotSupported(&'static str),
}

/// One key of a section.
#[derive(Debug)]
pub struct Key {
    /// Its name left of the "=".
    pub name: &'static str,
    /// Its type and range.
    pub kind: Kind,
    /// Its default, as [`super::value::from_text`] reads it.
    pub default: &'static str,
    /// What it does.
    pub doc: &'static str,
    /// Whether the node honours it.
    pub status: Status,
    /// Whether go-carbon does not have it.
    pub own: bool,
}

/// Whether the node honours a key. Anything but `Works` is told only when the file sets the key
/// to something other than its default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Yes.
    Works,
    /// Yes, with a notice that names its successor.
    Deprecated(&'static str),
    /// Accepted with a notice: there is nothing for it to change.
    NoEffect(&'static str),
    /// Accepted with a notice: the node cannot do this yet.
    Later(&'static str),
    /// An error: going on without it would do the wrong thing to the data.
    NotSupported(&'static str),
}

/// The section of this name.
pub fn section(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().copied().find(|section| section.name == name)
}

/// Every section, in the order in which the reference prints them.
pub static SECTIONS: [&Section; 18] = [
    &COMMON,
    &WHISPER,
    &CACHE,
    &WAL,
    &TCP,
    &UDP,
    &PICKLE,
    &CARBONLINK,
    &LOGGING,
    &super::foreign::CARBONSERVER,
    &super::foreign::CARBONSERVER_GRPC,
    &super::foreign::DUMP,
    &super::foreign::PROMETHEUS,
    &super::foreign::TAGS,
    &super::foreign::PPROF,
    &super::foreign::TRACING,
    &super::foreign::GRPC,
    &super::foreign::RECEIVER,
];

/// A key that works as in go-carbon.
pub(super) const fn key(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    doc: &'static str,
) -> Key {
    Key { name, kind, default, doc, status: Status::Works, own: false }
}

/// A key that go-carbon does not have.
const fn own(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { own: true, ..key(name, kind, default, doc) }
}

/// A key of go-carbon that works and has a successor.
const fn deprecated(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    successor: &'static str,
) -> Key {
    Key { status: Status::Deprecated(successor), ..key(name, kind, default, "") }
}

/// A key of go-carbon that changes nothing here.
const fn no_effect(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    reason: &'static str,
) -> Key {
    Key { status: Status::NoEffect(reason), ..key(name, kind, default, "") }
}

/// A key of go-carbon for something the node cannot do yet.
const fn later(name: &'static str, kind: Kind, default: &'static str, what: &'static str) -> Key {
    Key { status: Status::Later(what), ..key(name, kind, default, "") }
}

/// A key of go-carbon that is refused unless it has its default.
const fn not_supported(
    name: &'static str,
    kind: Kind,
    default: &'static str,
    reason: &'static str,
) -> Key {
    Key { status: Status::NotSupported(reason), ..key(name, kind, default, "") }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
/// Longer than any wait that makes sense, short enough for every clock and timer.
const YEAR: Duration = Duration::from_secs(365 * 86_400);
const U32_MAX: u64 = 0xffff_ffff;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// Any duration up to a year.
pub(super) const ANY_DURATION: Kind = Kind::Duration(Duration::ZERO, YEAR);
/// Any integer that go-carbon could hold.
pub(super) const ANY_INT: Kind = Kind::Int(0, U32_MAX);
const ALLOW_NONE: Kind = Kind::OptionalDuration(SECOND, YEAR);

/// Most shards: more cores than any machine that this was thought through for.
const SHARDS_MAX: u64 = 512;
/// Most connections: what one process may have open as files on a default kernel (`nr_open`).
const CONNECTIONS: Kind = Kind::Int(1, 1_048_576);
/// Accepted backlog: the kernel keeps it in 16 bits on older versions.
const BACKLOG: Kind = Kind::Int(1, 65_535);
const MESSAGE_TIMEOUT: Kind = Kind::Duration(MILLISECOND, HOUR);

const LEVELS: Kind = Kind::Choice(&["debug", "info", "warn", "error", "dpanic", "panic", "fatal"]);

const NO_QUEUE: &str = "points go straight into the cache; there is no queue between";
const CONNECTIONS_DOC: &str = "Most open connections of this listener on the node; a further \
     client waits in the backlog.";
const BACKLOG_DOC: &str = "Connections the kernel holds until they are accepted; it takes no more \
     than net.core.somaxconn.";
const IDLE_DOC: &str = "A connection on which nothing arrives for so long is closed; 0 = never. \
     go-carbon closes after 2 minutes.";
const MESSAGE_DOC: &str = "A message whose beginning arrived and whose end does not arrive in this \
     time ends its connection.";

static COMMON: Section = Section {
    name: "common",
    doc: "The node as a whole.",
    status: SectionStatus::Works,
    keys: &[
        key(
            "graph-prefix",
            Kind::Prefix,
            "carbon.agents.{host}",
            "First part of the names of the node's own metrics; {host} is the host name with \
             dots turned into \"_\".",
        ),
        key(
            "metric-interval",
            Kind::Duration(SECOND, HOUR),
            "1m",
            "Time between two points of the node's own metrics.",
        ),
        own(
            "shards",
            Kind::Int(0, SHARDS_MAX),
            "0",
            "Cores to use; each has its part of the metrics. 0 = every core the process may run \
             on, but no more than the CPU quotas of its control groups give time for, rounded up. \
             The log says at the start what decided.",
        ),
        own(
            "admin-socket",
            Kind::OptionalPath,
            "",
            "Socket on which the node takes commands of its own user, such as `carbyne forget`; \
             \"\" = beside data-dir, under its name with \".admin\" appended.",
        ),
        later(
            "metric-endpoint",
            Kind::Endpoint,
            "local",
            "own metrics are stored on this node only, as with \"local\"",
        ),
        no_effect("user", Kind::Text, "carbon", "the service manager chooses the user"),
        no_effect("max-cpu", ANY_INT, "1", "`shards` says how many cores are used"),
        deprecated("logfile", Kind::Text, "", "`file` in [logging]"),
        deprecated("log-level", LEVELS, "info", "`level` in [logging]"),
    ],
};

static WHISPER: Section = Section {
    name: "whisper",
    doc: "The Whisper files and how they are written.",
    status: SectionStatus::Works,
    keys: &[
        key(
            "data-dir",
            Kind::Path,
            "/var/lib/graphite/whisper/",
            "Root of the tree of Whisper files.",
        ),
        key(
            "schemas-file",
            Kind::Path,
            "/etc/go-carbon/storage-schemas.conf",
            "Which metric gets which retentions. Required.",
        ),
        key(
            "aggregation-file",
            Kind::OptionalPath,
            "",
            "Which metric gets which xFilesFactor and aggregation method; \"\" = 0.5 and average.",
        ),
        key("enabled", Kind::Bool, "true", "Whether files are written at all."),
        key(
            "max-updates-per-second",
            Kind::Int(0, U32_MAX),
            "0",
            "Most file updates a second of the whole node; 0 = no limit.",
        ),
        own(
            "max-creates-per-second",
            Kind::Int(0, U32_MAX),
            "0",
            "Most new files a second of the whole node; 0 = no limit. A metric whose file must \
             wait is kept and can be read. go-carbon ignores this key here.",
        ),
        own(
            "flush-interval",
            Kind::Duration(Duration::from_millis(10), HOUR),
            "1s",
            "Least time between the starts of two sweeps over the cache. Longer means more \
             points in each update of a file, and more points in memory.",
        ),
        key("sparse-create", Kind::Bool, "false", "New files take disk space as they are filled."),
        key("flock", Kind::Bool, "false", "Lock each file while it is updated, for other writers."),
        key(
            "hash-filenames",
            Kind::Bool,
            "true",
            "Files of tagged metrics are named by a hash; false = by the metric's name.",
        ),
        own(
            "follow-symlinks",
            Kind::Bool,
            "false",
            "Follow symbolic links below data-dir; false = a link there is an error of its metric.",
        ),
        own(
            "quarantined-points-max",
            Kind::Int(0, U32_MAX),
            "10000",
            "Points kept for each metric whose file cannot be written; older ones are dropped and \
             counted.",
        ),
        not_supported(
            "compressed",
            Kind::Bool,
            "false",
            "compressed files can be read by go-carbon alone; this node writes plain Whisper",
        ),
        later("quotas-file", Kind::OptionalPath, "", "quotas"),
        later("online-migration", Kind::Bool, "false", "changing the schema of existing files"),
        later("online-migration-rate", ANY_INT, "5", "changing the schema of existing files"),
        later(
            "online-migration-global-scope",
            Kind::Text,
            "",
            "changing the schema of existing files",
        ),
        no_effect("workers", ANY_INT, "1", "each shard has one writer"),
        no_effect("physical-size-factor", Kind::Fraction, "0.75", "it serves quotas only"),
        no_effect(
            "remove-empty-file",
            Kind::Bool,
            "false",
            "an empty or damaged file is always set aside and replaced",
        ),
    ],
};

static CACHE: Section = Section {
    name: "cache",
    doc: "Points that are not in their file yet.",
    status: SectionStatus::Works,
    keys: &[
        key(
            "max-size",
            Kind::Int(0, U32_MAX),
            "0",
            "Most points in the cache; 0 = memory-budget alone decides. When it is full the node \
             stops reading from TCP and drops from UDP. go-carbon's default of 1000000 drops \
             points instead, so it is not ours.",
        ),
        own(
            "memory-budget",
            Kind::AutoSize(64 * MIB, 1 << 50),
            "auto",
            "Memory for the cache and everything beside it, such as \"8GiB\"; \"auto\" = half of \
             the machine's memory, or of the tightest limit of the process's control groups \
             (memory.max, memory.high or memory.limit_in_bytes of its own and all above) if that \
             is less. The log says at the start what decided.",
        ),
        key(
            "write-strategy",
            Kind::Choice(&["max", "sorted", "noop"]),
            "max",
            "Which metrics are written first while max-updates-per-second holds updates back: max \
             = those with the most points, sorted = those waiting longest, noop = no order. \
             Without that limit every sweep writes all of them, in the order of their files on \
             disk, which costs least.",
        ),
        own(
            "max-future",
            ALLOW_NONE,
            "10m",
            "A point further ahead of the clock than this is dropped and counted; 0 = no limit.",
        ),
        no_effect("bloom-size", ANY_INT, "0", "each shard knows its metrics exactly"),
    ],
};

static WAL: Section = Section {
    name: "wal",
    doc: "(own) The write-ahead log: points that are not in their file yet, so that no end of the \
          process or of the power loses them. At a stop it keeps them for the next start; \
          `carbyne drain` writes everything into the files, for another program to take over.",
    status: SectionStatus::Works,
    keys: &[
        own(
            "sync-mode",
            Kind::Choice(&["power", "process", "off"]),
            "power",
            "What received points survive: power = a loss of power, process = the end of the \
             process only, off = nothing: there is no log, and a stop writes everything first.",
        ),
        own(
            "commit-interval",
            Kind::Duration(MILLISECOND, SECOND),
            "50ms",
            "Received points are in the log after so long, on a disk that keeps up. It is what a \
             crash costs at most.",
        ),
        own(
            "directory",
            Kind::OptionalPath,
            "",
            "Where the log is; \"\" = beside data-dir, under its name with \".wal\" appended. Not \
             inside data-dir, and best on another disk.",
        ),
        own(
            "max-size",
            Kind::Size(8 * MIB, 1 << 50),
            "8GiB",
            "Most space of a run's log on the node, but for two spare files a core; what an \
             earlier run left is counted with it. Names of metrics take a part of it: their length \
             twice. When it fills up the node writes files harder, and then stops reading from TCP \
             and drops from UDP. Points in the cache may take half of it, at up to 17 bytes each.",
        ),
        own(
            "segment-size",
            Kind::Size(MIB, GIB),
            "64MiB",
            "Length of one file of the log; less if the log would have fewer than 8 a core.",
        ),
        own(
            "checkpoint-interval",
            Kind::Duration(Duration::from_millis(100), HOUR),
            "10s",
            "Least time between two syncs of the file system with data-dir, after which files of \
             the log are used again. When the log fills up they come sooner.",
        ),
    ],
};

static TCP: Section = Section {
    name: "tcp",
    doc: "Receives lines over TCP.",
    status: SectionStatus::Works,
    keys: &[
        key("listen", Kind::Listen, ":2003", "Address and port; no address = all of them."),
        key("enabled", Kind::Bool, "true", "Whether to listen."),
        own("max-connections", CONNECTIONS, "16384", CONNECTIONS_DOC),
        own("backlog", BACKLOG, "4096", BACKLOG_DOC),
        own("idle-timeout", ALLOW_NONE, "2h", IDLE_DOC),
        own("message-timeout", MESSAGE_TIMEOUT, "30s", MESSAGE_DOC),
        no_effect("buffer-size", ANY_INT, "0", NO_QUEUE),
        not_supported(
            "compression",
            Kind::Choice(&["", "gzip", "snappy"]),
            "",
            "compressed streams cannot be read; let the relay send plain lines",
        ),
    ],
};

static UDP: Section = Section {
    name: "udp",
    doc: "Receives lines over UDP.",
    status: SectionStatus::Works,
    keys: &[
        key("listen", Kind::Listen, ":2003", "Address and port; no address = all of them."),
        key("enabled", Kind::Bool, "true", "Whether to listen."),
        own(
            "receive-buffer",
            Kind::Size(4 * KIB, GIB),
            "8MiB",
            "Buffer asked of the kernel for each socket; it gives no more than net.core.rmem_max.",
        ),
        no_effect("buffer-size", ANY_INT, "0", NO_QUEUE),
        no_effect("log-incomplete", Kind::Bool, "false", "incomplete lines are counted"),
    ],
};

static PICKLE: Section = Section {
    name: "pickle",
    doc: "Receives pickled lists of points over TCP.",
    status: SectionStatus::Works,
    keys: &[
        key("listen", Kind::Listen, ":2004", "Address and port; no address = all of them."),
        key("enabled", Kind::Bool, "true", "Whether to listen."),
        key(
            "max-message-size",
            Kind::Size(KIB, GIB),
            "64MiB",
            "A message that claims to be longer ends its connection.",
        ),
        own("max-connections", CONNECTIONS, "16384", CONNECTIONS_DOC),
        own("backlog", BACKLOG, "4096", BACKLOG_DOC),
        own("idle-timeout", ALLOW_NONE, "2h", IDLE_DOC),
        own("message-timeout", MESSAGE_TIMEOUT, "30s", MESSAGE_DOC),
        no_effect("buffer-size", ANY_INT, "0", NO_QUEUE),
    ],
};

static CARBONLINK: Section = Section {
    name: "carbonlink",
    doc: "Answers graphite-web's questions about points that are not in their file yet.",
    status: SectionStatus::Works,
    keys: &[
        key("listen", Kind::Listen, "127.0.0.1:7002", "Address and port; no address = all."),
        key("enabled", Kind::Bool, "true", "Whether to listen."),
        key(
            "read-timeout",
            MESSAGE_TIMEOUT,
            "30s",
            "A question whose beginning arrived and whose end does not arrive in this time ends \
             its connection. go-carbon also closes idle connections after it; here idle-timeout \
             does.",
        ),
        own("max-connections", CONNECTIONS, "16384", CONNECTIONS_DOC),
        own("backlog", BACKLOG, "4096", BACKLOG_DOC),
        own(
            "idle-timeout",
            ALLOW_NONE,
            "0s",
            "A connection without a question for so long is closed; 0 = never: graphite-web keeps \
             its connections and fails the query that meets a closed one.",
        ),
    ],
};

static LOGGING: Section = Section {
    name: "logging",
    doc: "The node's own log. Several [[logging]] tables are accepted; one log is written.",
    status: SectionStatus::Works,
    keys: &[
        key("level", LEVELS, "info", "Least severity that is written: debug, info, warn or error."),
        key(
            "file",
            Kind::Text,
            "stderr",
            "\"stderr\", \"stdout\", \"none\" or a file; \"\" = \"stderr\".",
        ),
        no_effect("logger", Kind::Text, "", "all messages go to one log"),
        no_effect(
            "encoding",
            Kind::Choice(&["console", "json", "mixed"]),
            "console",
            "lines have one form",
        ),
        no_effect(
            "encoding-time",
            Kind::Choice(&["iso8601", "millis", "nanos", "epoch"]),
            "iso8601",
            "lines have one form",
        ),
        no_effect(
            "encoding-duration",
            Kind::Choice(&["seconds", "nanos", "string"]),
            "seconds",
            "lines have one form",
        ),
    ],
};
