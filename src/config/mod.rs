//! The node's configuration: one TOML file, read once, a superset of go-carbon's.
//!
//! - Every key is described once, in [`SECTIONS`]; parsing, the unknown-key check, the printed
//!   reference and `config show` all come from it.
//! - What the node reads, it reads by a handle that is checked against the table at compile time.
//! - A [`Config`] that exists is complete and inside of every range.
//! - A key that is unknown, of the wrong type or out of its range is an error with its line, and
//!   all errors are reported together. A key that is accepted and changes nothing is a notice.
//!
//! Modules take their own options from the groups below; none reads the file.

mod check;
mod document;
mod foreign;
mod handle;
mod key;
mod problem;
mod reference;
mod rules;
mod settings;
mod table;
mod value;

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use log::LevelFilter;

use handle::{Handle, key};
pub use key::{Key, Section, SectionStatus, Status};
pub(crate) use problem::nearest;
pub use problem::{ConfigError, Notice, Place};
pub use reference::{REFERENCE, reference, show};
pub use rules::load_rules;
pub use settings::{Origin, Setting, Settings};
pub use table::SECTIONS;
pub use value::{Kind, Value, listen_address};

/// storage-schemas.conf of a node that was started without a file.
pub const EMBEDDED_SCHEMAS: &str = "\
[default]
pattern = .*
retentions = 10s:6h,1m:7d,10m:1y
";

/// Longest configuration file in bytes; a longer one is refused. The reference has 10,000.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The whole configuration of a node.
#[derive(Debug, Clone)]
pub struct Config {
    /// The node as a whole.
    pub common: Common,
    /// Whisper files.
    pub whisper: Whisper,
    /// Points that are not in their file yet.
    pub cache: Cache,
    /// The write-ahead log.
    pub wal: Wal,
    /// Lines over TCP.
    pub tcp: Listener,
    /// Lines over UDP.
    pub udp: Udp,
    /// Pickles over TCP.
    pub pickle: Pickle,
    /// Questions about the cache.
    pub carbonlink: Listener,
    /// The node's own log.
    pub logging: Logging,
    /// Whether the node was started without a file. A listening port that is taken is then
    /// replaced by a free one.
    pub embedded: bool,
    /// Every key with its value and origin.
    pub settings: Settings,
}

/// `[common]`
#[derive(Debug, Clone, PartialEq)]
pub struct Common {
    /// First part of the names of self metrics, the host name filled in.
    pub graph_prefix: String,
    /// Time between two points of a self metric.
    pub metric_interval: Duration,
    /// Cores to use; 0 = every core the process may use.
    pub shards: usize,
    /// Where the node takes commands of its own user.
    pub admin_socket: PathBuf,
}

/// Where the rules for new files come from.
#[derive(Debug, Clone, PartialEq)]
pub enum SchemasSource {
    /// A storage-schemas.conf.
    File(PathBuf),
    /// [`EMBEDDED_SCHEMAS`].
    Embedded,
}

/// `[whisper]`
#[derive(Debug, Clone, PartialEq)]
pub struct Whisper {
    /// Root of the tree of files.
    pub data_dir: PathBuf,
    /// Which metric gets which retentions.
    pub schemas: SchemasSource,
    /// Which metric gets which xFilesFactor and method; `None` = 0.5 and average.
    pub aggregation_file: Option<PathBuf>,
    /// Whether files are written at all.
    pub enabled: bool,
    /// Most file updates a second of the whole node; 0 = no limit.
    pub max_updates_per_second: u32,
    /// Most new files a second of the whole node; 0 = no limit.
    pub max_creates_per_second: u32,
    /// Least time between the starts of two sweeps over the cache.
    pub flush_interval: Duration,
    /// Whether new files take disk space as they are filled.
    pub sparse_create: bool,
    /// Whether each file is locked while it is updated.
    pub flock: bool,
    /// Whether files of tagged metrics are named by a hash.
    pub hash_filenames: bool,
    /// Whether symbolic links below the data directory are followed.
    pub follow_symlinks: bool,
    /// Points kept for each metric whose file cannot be written.
    pub quarantined_points_max: u32,
}

/// Which metrics are written first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteStrategy {
    /// Those with the most points.
    Max,
    /// Those waiting longest.
    Sorted,
    /// No order.
    Noop,
}

/// `[cache]`
#[derive(Debug, Clone, PartialEq)]
pub struct Cache {
    /// Most points in the cache of the whole node; 0 = the memory budget alone decides.
    pub max_size: u64,
    /// Bytes for the cache and everything beside it; `None` = half of the machine's or the
    /// control group's.
    pub memory_budget: Option<u64>,
    /// Which metrics are written first.
    pub write_strategy: WriteStrategy,
    /// A point further ahead of the clock than this is dropped; `None` = no limit.
    pub max_future: Option<Duration>,
}

/// A listener for connections: `[tcp]`, `[carbonlink]` and the first part of `[pickle]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Listener {
    /// Address and port, as [`listen_address`] takes it apart.
    pub listen: String,
    /// Whether to listen.
    pub enabled: bool,
    /// Most open connections on the node.
    pub max_connections: usize,
    /// Connections the kernel holds until they are accepted.
    pub backlog: u32,
    /// An idle connection is closed after this time; `None` = never.
    pub idle_timeout: Option<Duration>,
    /// Most time between the beginning and the end of a message.
    pub message_timeout: Duration,
}

/// `[pickle]`
#[derive(Debug, Clone, PartialEq)]
pub struct Pickle {
    /// The listener.
    pub listener: Listener,
    /// Longest message in bytes.
    pub max_message_size: u32,
}

/// What received points survive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncMode {
    /// A loss of power.
    Power,
    /// The end of the process.
    Process,
    /// Nothing: there is no log.
    Off,
}

/// `[wal]`
#[derive(Debug, Clone, PartialEq)]
pub struct Wal {
    /// What received points survive. Off where no files are written.
    pub sync_mode: SyncMode,
    /// Longest time until a point is in the log.
    pub commit_interval: Duration,
    /// Where the log is.
    pub directory: PathBuf,
    /// Most bytes of the log on the node.
    pub max_size: u64,
    /// Most bytes of one of its files.
    pub segment_size: u64,
    /// Least time between two checkpoints.
    pub checkpoint_interval: Duration,
}

/// `[udp]`
#[derive(Debug, Clone, PartialEq)]
pub struct Udp {
    /// Address and port, as [`listen_address`] takes it apart.
    pub listen: String,
    /// Whether to listen.
    pub enabled: bool,
    /// Bytes of receive buffer asked of the kernel.
    pub receive_buffer: usize,
}

/// Where the log is written.
#[derive(Debug, Clone, PartialEq)]
pub enum LogTarget {
    /// Standard error.
    Stderr,
    /// Standard output.
    Stdout,
    /// Nowhere.
    Nowhere,
    /// A file, appended to.
    File(PathBuf),
}

/// `[logging]`
#[derive(Debug, Clone, PartialEq)]
pub struct Logging {
    /// Least severity that is written.
    pub level: LevelFilter,
    /// Where the log is written.
    pub target: LogTarget,
}

/// The options of a listener. A macro, because its keys are found at compile time.
macro_rules! listener {
    ($s:ident, $section:literal, $message_timeout:literal) => {
        Listener {
            listen: $s.get(key!($section, "listen")),
            enabled: $s.get(key!($section, "enabled")),
            max_connections: $s.get(key!($section, "max-connections")),
            backlog: $s.get(key!($section, "backlog")),
            idle_timeout: $s.get(key!($section, "idle-timeout")),
            message_timeout: $s.get(key!($section, $message_timeout)),
        }
    };
}

impl Config {
    /// Reads a configuration from its text. `label` names the file in errors and notices.
    pub fn parse(label: &str, text: &str) -> Result<(Config, Vec<Notice>), Vec<ConfigError>> {
        let mut reading = document::read(label, text);
        check::across_keys(label, &mut reading);
        if reading.errors.is_empty() {
            Ok((Config::from_settings(reading.settings, false), reading.notices))
        } else {
            Err(reading.errors)
        }
    }

    /// Reads a configuration file.
    pub fn load(path: &Path) -> Result<(Config, Vec<Notice>), Vec<ConfigError>> {
        let label = path.display().to_string();
        match read_file(path) {
            Ok(text) => Config::parse(&label, &text),
            Err(error) => {
                let place = Place { file: label, ..Place::default() };
                let problem = format!("read the configuration: {error}");
                Err(vec![ConfigError { place, problem, suggestion: None }])
            }
        }
    }

    /// The configuration of a node that was started without a file: for this machine only, with
    /// its files below the working directory.
    pub fn embedded() -> Config {
        let mut settings = Settings::defaults();
        for (key, text) in EMBEDDED {
            let Setting { section, key, .. } = *settings.setting(key);
            settings.set(section, key, Value::Text(text.to_owned()), Origin::Embedded);
        }
        Config::from_settings(settings, true)
    }

    fn from_settings(settings: Settings, embedded: bool) -> Config {
        let s = &settings;
        let graph_prefix: String = s.get(key!("common", "graph-prefix"));
        let whisper = whisper(s, embedded);
        let wal = wal(s, &whisper);
        Config {
            common: Common {
                graph_prefix: graph_prefix.replace("{host}", &host_name()),
                metric_interval: s.get(key!("common", "metric-interval")),
                shards: s.get(key!("common", "shards")),
                admin_socket: s
                    .get::<Option<PathBuf>>(key!("common", "admin-socket"))
                    .unwrap_or_else(|| beside(&whisper.data_dir, ".admin")),
            },
            whisper,
            cache: Cache {
                max_size: s.get(key!("cache", "max-size")),
                memory_budget: s.get(key!("cache", "memory-budget")),
                write_strategy: match s.get::<String>(key!("cache", "write-strategy")).as_str() {
                    "sorted" => WriteStrategy::Sorted,
                    "noop" => WriteStrategy::Noop,
                    _ => WriteStrategy::Max,
                },
                max_future: s.get(key!("cache", "max-future")),
            },
            wal,
            tcp: listener!(s, "tcp", "message-timeout"),
            udp: Udp {
                listen: s.get(key!("udp", "listen")),
                enabled: s.get(key!("udp", "enabled")),
                receive_buffer: s.get(key!("udp", "receive-buffer")),
            },
            pickle: Pickle {
                listener: listener!(s, "pickle", "message-timeout"),
                max_message_size: s.get(key!("pickle", "max-message-size")),
            },
            carbonlink: listener!(s, "carbonlink", "read-timeout"),
            logging: logging(s),
            embedded,
            settings,
        }
    }
}

/// What differs from the defaults in a node that was started without a file.
const EMBEDDED: [(&Handle<String>, &str); 6] = [
    (key!("whisper", "data-dir"), "./carbyne-data/whisper"),
    (key!("whisper", "schemas-file"), "(embedded) 10s:6h,1m:7d,10m:1y"),
    (key!("tcp", "listen"), "127.0.0.1:2003"),
    (key!("udp", "listen"), "127.0.0.1:2003"),
    (key!("pickle", "listen"), "127.0.0.1:2004"),
    (key!("carbonlink", "listen"), "127.0.0.1:7002"),
];

fn whisper(s: &Settings, embedded: bool) -> Whisper {
    Whisper {
        data_dir: s.get(key!("whisper", "data-dir")),
        schemas: if embedded {
            SchemasSource::Embedded
        } else {
            SchemasSource::File(s.get(key!("whisper", "schemas-file")))
        },
        aggregation_file: s.get(key!("whisper", "aggregation-file")),
        enabled: s.get(key!("whisper", "enabled")),
        max_updates_per_second: s.get(key!("whisper", "max-updates-per-second")),
        max_creates_per_second: s.get(key!("whisper", "max-creates-per-second")),
        flush_interval: s.get(key!("whisper", "flush-interval")),
        sparse_create: s.get(key!("whisper", "sparse-create")),
        flock: s.get(key!("whisper", "flock")),
        hash_filenames: s.get(key!("whisper", "hash-filenames")),
        follow_symlinks: s.get(key!("whisper", "follow-symlinks")),
        quarantined_points_max: s.get(key!("whisper", "quarantined-points-max")),
    }
}

fn wal(s: &Settings, whisper: &Whisper) -> Wal {
    let sync_mode = match s.get::<String>(key!("wal", "sync-mode")).as_str() {
        _ if !whisper.enabled => SyncMode::Off,
        "off" => SyncMode::Off,
        "process" => SyncMode::Process,
        _ => SyncMode::Power,
    };
    Wal {
        sync_mode,
        commit_interval: s.get(key!("wal", "commit-interval")),
        directory: s
            .get::<Option<PathBuf>>(key!("wal", "directory"))
            .unwrap_or_else(|| beside(&whisper.data_dir, ".wal")),
        max_size: s.get(key!("wal", "max-size")),
        segment_size: s.get(key!("wal", "segment-size")),
        checkpoint_interval: s.get(key!("wal", "checkpoint-interval")),
    }
}

/// Where something is when the file does not say: beside the data directory, because in it every
/// file is a metric to other programs.
fn beside(data_dir: &Path, ending: &str) -> PathBuf {
    let mut name = data_dir.file_name().unwrap_or_default().to_owned();
    name.push(ending);
    data_dir.with_file_name(name)
}

/// go-carbon lets its old keys in `[common]` replace those of `[logging]`.
fn logging(s: &Settings) -> Logging {
    let of_two = |old: &'static Handle<String>, new| {
        let is_set = s.setting(old).origin != Origin::Default;
        s.get(if is_set { old } else { new })
    };
    let level = of_two(key!("common", "log-level"), key!("logging", "level"));
    let file = of_two(key!("common", "logfile"), key!("logging", "file"));
    Logging {
        level: match level.as_str() {
            "debug" => LevelFilter::Debug,
            "info" => LevelFilter::Info,
            "warn" => LevelFilter::Warn,
            _ => LevelFilter::Error,
        },
        target: match file.as_str() {
            "" | "stderr" => LogTarget::Stderr,
            "stdout" => LogTarget::Stdout,
            "none" => LogTarget::Nowhere,
            path => LogTarget::File(PathBuf::from(path)),
        },
    }
}

/// The host name as one component of a metric name.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "localhost".to_owned(),
        name => name.replace('.', "_"),
    }
}

fn read_file(path: &Path) -> std::io::Result<String> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let length = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    if u64::try_from(length).is_ok_and(|length| length > FILE_BYTES_MAX) {
        let problem = format!("longer than {FILE_BYTES_MAX} bytes");
        return Err(std::io::Error::new(std::io::ErrorKind::FileTooLarge, problem));
    }
    Ok(text)
}
