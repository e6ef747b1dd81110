//! The description of every configuration key: the one table behind parsing, the unknown-key
//! check, `config default` and `config show`.
//!
//! Names, types and defaults are go-carbon's; a key of our own is marked so, and the text of a
//! key whose default differs says why. This file has the sections that work; the sections of
//! go-carbon that do not are in [`super::foreign`].

use std::time::Duration;

use super::foreign;
use super::key::Status::{Deprecated, Later, NoEffect, NotSupported};
use super::key::{Key, Section, SectionStatus, Status, key};
use super::value::{ANY_INT, Kind, YEAR};

/// The section of this name.
pub(super) fn find(name: &str) -> Option<&'static Section> {
    SECTIONS.iter().find(|section| section.name == name)
}

/// Every section, in the order in which the reference prints them.
pub static SECTIONS: [Section; 18] = [
    section("common", "The node as a whole.", COMMON),
    section("whisper", "The Whisper files and how they are written.", WHISPER),
    section("cache", "Points that are not in their file yet.", CACHE),
    section(
        "wal",
        "(own) The write-ahead log: points that are not in their file yet, so that no end of the \
         process or of the power loses them. At a stop it keeps them for the next start; \
         `carbyne drain` writes everything into the files, for another program to take over.",
        WAL,
    ),
    section("tcp", "Receives lines over TCP.", TCP),
    section("udp", "Receives lines over UDP.", UDP),
    section("pickle", "Receives pickled lists of points over TCP.", PICKLE),
    section(
        "carbonlink",
        "Answers graphite-web's questions about points that are not in their file yet.",
        CARBONLINK,
    ),
    section(
        "logging",
        "The node's own log. Several [[logging]] tables are accepted; one log is written.",
        LOGGING,
    ),
    later("carbonserver", "Find and render over HTTP.", foreign::CARBONSERVER),
    later("carbonserver.grpc", "The same over gRPC.", foreign::CARBONSERVER_GRPC),
    later("dump", "Dump of the cache at a stop, and its restore.", foreign::DUMP),
    later("prometheus", "The node's own metrics for Prometheus.", foreign::PROMETHEUS),
    later("tags", "Tells a tag database about tagged metrics.", foreign::TAGS),
    later("pprof", "Profiles over HTTP.", foreign::PPROF),
    later("tracing", "Traces of requests.", foreign::TRACING),
    Section {
        status: SectionStatus::NotSupported("carbonlink answers the same questions"),
        ..later("grpc", "Questions to the cache over gRPC.", foreign::GRPC)
    },
    RECEIVER,
];

/// The name stands for whatever the file says after "receiver.".
pub(super) const RECEIVER: Section = later(
    "receiver.NAME",
    "More receivers. A file that enables one is refused: its points would be lost.",
    foreign::RECEIVER,
);

/// A section that works.
const fn section(name: &'static str, doc: &'static str, keys: &'static [Key]) -> Section {
    Section { name, doc, status: SectionStatus::Works, keys }
}

/// A section that the node cannot serve yet.
const fn later(name: &'static str, doc: &'static str, keys: &'static [Key]) -> Section {
    Section { status: SectionStatus::Later, ..section(name, doc, keys) }
}

/// A key that go-carbon does not have.
const fn own(name: &'static str, kind: Kind, default: &'static str, doc: &'static str) -> Key {
    Key { own: true, ..key(name, kind, default, doc) }
}

/// A key of go-carbon that does not work, or that has a successor.
const fn other(name: &'static str, kind: Kind, default: &'static str, status: Status) -> Key {
    Key { status, ..key(name, kind, default, "") }
}

const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3_600);
const U32_MAX: u64 = 0xffff_ffff;
const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

const ALLOW_NONE: Kind = Kind::OptionalDuration(SECOND, YEAR);

/// Most shards: more cores than any machine that this was thought through for.
const SHARDS_MAX: u64 = 512;
/// Most connections: what one process may have open as files on a default kernel (`nr_open`).
const CONNECTIONS: Kind = Kind::Int(1, 1_048_576);
/// Accepted backlog: the kernel keeps it in 16 bits on older versions.
const BACKLOG: Kind = Kind::Int(1, 65_535);
const MESSAGE_TIMEOUT: Kind = Kind::Duration(MILLISECOND, HOUR);

const LEVELS: Kind = Kind::Choice(&["debug", "info", "warn", "error", "dpanic", "panic", "fatal"]);

const ONE_FORM: Status = NoEffect("lines have one form");
const MIGRATION: Status = Later("changing the schema of existing files");
const NO_QUEUE: &str = "points go straight into the cache; there is no queue between";
const CONNECTIONS_DOC: &str = "Most open connections of this listener on the node; a further \
     client waits in the backlog.";
const BACKLOG_DOC: &str = "Connections the kernel holds until they are accepted; it takes no more \
     than net.core.somaxconn.";
const IDLE_DOC: &str = "A connection on which nothing arrives for so long is closed; 0 = never. \
     go-carbon closes after 2 minutes.";
const MESSAGE_DOC: &str = "A message whose beginning arrived and whose end does not arrive in this \
     time ends its connection.";

const COMMON: &[Key] = &[
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
    other(
        "metric-endpoint",
        Kind::Endpoint,
        "local",
        Later("own metrics are stored on this node only, as with \"local\""),
    ),
    other("user", Kind::Text, "carbon", NoEffect("the service manager chooses the user")),
    other("max-cpu", ANY_INT, "1", NoEffect("`shards` says how many cores are used")),
    other("logfile", Kind::Text, "", Deprecated("`file` in [logging]")),
    other("log-level", LEVELS, "info", Deprecated("`level` in [logging]")),
];

const WHISPER: &[Key] = &[
    key("data-dir", Kind::Path, "/var/lib/graphite/whisper/", "Root of the tree of Whisper files."),
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
    other(
        "compressed",
        Kind::Bool,
        "false",
        NotSupported(
            "compressed files can be read by go-carbon alone; this node writes plain Whisper",
        ),
    ),
    other("quotas-file", Kind::OptionalPath, "", Later("quotas")),
    other("online-migration", Kind::Bool, "false", MIGRATION),
    other("online-migration-rate", ANY_INT, "5", MIGRATION),
    other("online-migration-global-scope", Kind::Text, "", MIGRATION),
    other("workers", ANY_INT, "1", NoEffect("each shard has one writer")),
    other("physical-size-factor", Kind::Fraction, "0.75", NoEffect("it serves quotas only")),
    other(
        "remove-empty-file",
        Kind::Bool,
        "false",
        NoEffect("an empty or damaged file is always set aside and replaced"),
    ),
];

const CACHE: &[Key] = &[
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
    other("bloom-size", ANY_INT, "0", NoEffect("each shard knows its metrics exactly")),
];

const WAL: &[Key] = &[
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
];

const TCP: &[Key] = &[
    key("listen", Kind::Listen, ":2003", "Address and port; no address = all of them."),
    key("enabled", Kind::Bool, "true", "Whether to listen."),
    own("max-connections", CONNECTIONS, "16384", CONNECTIONS_DOC),
    own("backlog", BACKLOG, "4096", BACKLOG_DOC),
    own("idle-timeout", ALLOW_NONE, "2h", IDLE_DOC),
    own("message-timeout", MESSAGE_TIMEOUT, "30s", MESSAGE_DOC),
    other("buffer-size", ANY_INT, "0", NoEffect(NO_QUEUE)),
    other(
        "compression",
        Kind::Choice(&["", "gzip", "snappy"]),
        "",
        NotSupported("compressed streams cannot be read; let the relay send plain lines"),
    ),
];

const UDP: &[Key] = &[
    key("listen", Kind::Listen, ":2003", "Address and port; no address = all of them."),
    key("enabled", Kind::Bool, "true", "Whether to listen."),
    own(
        "receive-buffer",
        Kind::Size(4 * KIB, GIB),
        "8MiB",
        "Buffer asked of the kernel for each socket; it gives no more than net.core.rmem_max.",
    ),
    other("buffer-size", ANY_INT, "0", NoEffect(NO_QUEUE)),
    other("log-incomplete", Kind::Bool, "false", NoEffect("incomplete lines are counted")),
];

const PICKLE: &[Key] = &[
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
    other("buffer-size", ANY_INT, "0", NoEffect(NO_QUEUE)),
];

const CARBONLINK: &[Key] = &[
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
];

const LOGGING: &[Key] = &[
    key("level", LEVELS, "info", "Least severity that is written: debug, info, warn or error."),
    key(
        "file",
        Kind::Text,
        "stderr",
        "\"stderr\", \"stdout\", \"none\" or a file; \"\" = \"stderr\".",
    ),
    other("logger", Kind::Text, "", NoEffect("all messages go to one log")),
    other("encoding", Kind::Choice(&["console", "json", "mixed"]), "console", ONE_FORM),
    other(
        "encoding-time",
        Kind::Choice(&["iso8601", "millis", "nanos", "epoch"]),
        "iso8601",
        ONE_FORM,
    ),
    other("encoding-duration", Kind::Choice(&["seconds", "nanos", "string"]), "seconds", ONE_FORM),
];
