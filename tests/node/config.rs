//! The configuration file: what is accepted, what is refused with which words, and that the
//! shipped reference is what the table says.

use std::time::Duration;

use carbyne::config::{
    self, Config, Kind, LogTarget, Origin, SECTIONS, SchemasSource, SectionStatus, Setting, Status,
    SyncMode, Value, WriteStrategy, listen_address,
};
use log::LevelFilter;

/// Everything a file can change, without the origins.
fn groups(config: &Config) -> String {
    let Config { common, whisper, cache, wal, tcp, udp, pickle, carbonlink, logging, .. } = config;
    format!(
        "{common:?} {whisper:?} {cache:?} {wal:?} {tcp:?} {udp:?} {pickle:?} {carbonlink:?} \
         {logging:?}"
    )
}

fn accepted(text: &str) -> (Config, Vec<String>) {
    match Config::parse("f", text) {
        Ok((config, notices)) => (config, notices.iter().map(ToString::to_string).collect()),
        Err(errors) => {
            let lines: Vec<String> = errors.iter().map(ToString::to_string).collect();
            panic!("{text}\nis refused:\n{}", lines.join("\n"))
        }
    }
}

fn refused(text: &str) -> Vec<String> {
    match Config::parse("f", text) {
        Ok(_) => panic!("{text}\nis accepted"),
        Err(errors) => errors.iter().map(ToString::to_string).collect(),
    }
}

fn setting<'a>(config: &'a Config, section: &str, key: &str) -> &'a Setting {
    let mut settings = config.settings.iter();
    settings.find(|s| s.section.name == section && s.key.name == key).expect("a key of the table")
}

#[test]
fn shipped_reference_is_the_table() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tuning/carbyne.toml");
    if std::env::var_os("WRITE_REFERENCE").is_some() {
        std::fs::write(path, config::reference()).unwrap();
    }
    let shipped = std::fs::read_to_string(path).unwrap();
    let repeat = "WRITE_REFERENCE=1 cargo test --test node config::shipped_reference";
    assert!(shipped == config::reference(), "tuning/carbyne.toml is not the table: {repeat}");

    let (from_reference, notices) = accepted(&shipped);
    let (from_nothing, _) = accepted("");
    assert_eq!(groups(&from_reference), groups(&from_nothing));
    assert!(notices.is_empty(), "{notices:?}");
}

#[test]
fn defaults() {
    let (config, notices) = accepted("");
    assert!(notices.is_empty());
    assert!(!config.embedded);
    assert_eq!(config.common.metric_interval, Duration::from_secs(60));
    assert!(config.common.graph_prefix.starts_with("carbon.agents."));
    assert!(!config.common.graph_prefix.contains('{'));
    assert_eq!(config.common.shards, 0);
    assert_eq!(config.whisper.data_dir.to_str(), Some("/var/lib/graphite/whisper/"));
    assert_eq!(config.whisper.aggregation_file, None);
    assert_eq!(config.whisper.flush_interval, Duration::from_secs(1));
    assert_eq!(config.whisper.quarantined_points_max, 10_000);
    assert_eq!(config.cache.max_size, 0);
    assert_eq!(config.cache.memory_budget, None);
    assert_eq!(config.cache.write_strategy, WriteStrategy::Max);
    assert_eq!(config.cache.max_future, Some(Duration::from_secs(600)));
    assert_eq!(config.wal.sync_mode, SyncMode::Power);
    assert_eq!(config.wal.commit_interval, Duration::from_millis(50));
    assert_eq!(config.wal.directory.to_str(), Some("/var/lib/graphite/whisper.wal"));
    assert_eq!(config.wal.max_size, 8 << 30);
    assert_eq!(config.tcp.listen, ":2003");
    assert_eq!(config.tcp.idle_timeout, Some(Duration::from_secs(7_200)));
    assert_eq!(config.tcp.max_connections, 16_384);
    assert_eq!(config.udp.receive_buffer, 8 << 20);
    assert_eq!(config.pickle.max_message_size, 64 << 20);
    assert_eq!(config.carbonlink.listen, "127.0.0.1:7002");
    assert_eq!(config.carbonlink.idle_timeout, None);
    assert_eq!(config.carbonlink.message_timeout, Duration::from_secs(30));
    assert_eq!(config.logging.level, LevelFilter::Info);
    assert_eq!(config.logging.target, LogTarget::Stderr);
}

#[test]
fn embedded() {
    let config = Config::embedded();
    assert!(config.embedded);
    assert_eq!(config.whisper.schemas, SchemasSource::Embedded);
    for listen in [&config.tcp.listen, &config.udp.listen, &config.pickle.listener.listen] {
        assert_eq!(listen_address(listen).unwrap().0, "127.0.0.1");
    }
    assert_eq!(setting(&config, "tcp", "listen").origin, Origin::Embedded);
}

/// A value of the key's kind that is not its default.
fn other_value(kind: Kind, default: &str) -> String {
    match kind {
        Kind::Bool => (default == "false").to_string(),
        Kind::Int(_, max) => (max - 1).to_string(),
        Kind::Fraction => "0.5".to_owned(),
        Kind::Text | Kind::Prefix | Kind::Path | Kind::OptionalPath => "\"other\"".to_owned(),
        Kind::Choice(words) => {
            format!("{:?}", words.iter().find(|word| **word != default).expect("two words"))
        }
        Kind::Duration(_, max) | Kind::OptionalDuration(_, max) => {
            format!("\"{}ms\"", max.as_millis() - 1)
        }
        Kind::Size(_, max) | Kind::AutoSize(_, max) => (max - 1).to_string(),
        Kind::Listen => "\"[::1]:4711\"".to_owned(),
        Kind::Endpoint => "\"tcp://graphite:2003\"".to_owned(),
        Kind::Texts => "[\"a\", \"b\"]".to_owned(),
        Kind::Ints => "[1, 2]".to_owned(),
        Kind::Labels => "{ a = \"b\" }".to_owned(),
        Kind::Tables(_) => "[]".to_owned(),
    }
}

#[test]
fn each_key_does_what_its_status_says() {
    let (defaults, _) = accepted("");
    for section in SECTIONS.iter().filter(|section| section.name != "receiver.NAME") {
        for key in section.keys {
            let value = other_value(key.kind, key.default);
            let text = format!("[{}]\n{} = {value}\n", section.name, key.name);
            if matches!(key.status, Status::NotSupported(_)) {
                let errors = refused(&text);
                assert!(errors[0].contains("not supported"), "{text}{errors:?}");
                continue;
            }
            let (config, notices) = accepted(&text);
            let works = section.status == SectionStatus::Works
                && matches!(key.status, Status::Works | Status::Deprecated(_));
            assert_eq!(groups(&config) != groups(&defaults), works, "{text}");
            if section.status == SectionStatus::Works && key.status != Status::Works {
                assert_eq!(notices.len(), 1, "{text}{notices:?}");
                assert!(notices[0].contains(key.name), "{text}{notices:?}");
            }
            let origin = setting(&config, section.name, key.name).origin;
            assert_eq!(origin, Origin::File { line: 2 }, "{text}");
        }
    }
}

#[test]
fn each_key_refuses_a_wrong_type() {
    for section in SECTIONS.iter().filter(|section| section.name != "receiver.NAME") {
        for key in section.keys {
            let text = format!("[{}]\n{} = 1979-05-27\n", section.name, key.name);
            let errors = refused(&text);
            let start = format!("f:2: [{}] {}: expected ", section.name, key.name);
            assert!(errors.len() == 1 && errors[0].starts_with(&start), "{text}{errors:?}");
        }
    }
}

#[test]
fn each_key_is_found_by_a_slip() {
    for section in SECTIONS.iter().filter(|section| section.name != "receiver.NAME") {
        for key in section.keys {
            let slip = format!("{}x", key.name);
            let errors = refused(&format!("[{}]\n{slip} = 1\n", section.name));
            let want = format!(
                "f:2: [{}] {slip}: unknown key; did you mean `{}`?",
                section.name, key.name
            );
            assert_eq!(errors, [want]);
        }
    }
}

fn check(text: &str, want: &str) {
    let errors = refused(text);
    assert!(errors.len() == 1 && errors[0].contains(want), "{text}\n{want}\n{errors:?}");
}

#[test]
fn bad_values() {
    check("[common]\nshards = 513", "f:2: [common] shards: expected an integer from 0 to 512");
    check("[common]\nshards = -1 # none", "found -1");
    check("[common.shards]\nx = 1", "shards: expected an integer from 0 to 512, found a table");
    check("[common]\nshards = [\n1]", "found [1]");
    check("[common]\nshards = \"4\"", "shards: expected an integer");
    check("[common]\nshards = 1.5", "shards: expected an integer");
    check("[common]\nmetric-interval = 60", "expected a duration such as \"1m30s\"");
    check("[common]\nmetric-interval = \"60\"", "metric-interval: expected a duration");
    check("[common]\nmetric-interval = \"1 m\"", "metric-interval: expected a duration");
    check("[common]\nmetric-interval = \"-1m\"", "metric-interval: expected a duration");
    check("[common]\nmetric-interval = \"1m30\"", "metric-interval: expected a duration");
    check("[common]\nmetric-interval = \"1d\"", "metric-interval: expected a duration");
    check("[common]\nmetric-interval = \".s\"", "metric-interval: expected a duration");
    check("[common]\nmetric-interval = \"0s\"", "metric-interval: expected a duration");
    check("[common]\ngraph-prefix = \"a b\"", "graph-prefix: expected a metric name");
    check("[common]\ngraph-prefix = \"\"", "graph-prefix: expected a metric name");
    check("[common]\nmetric-endpoint = \"udp://x\"", "metric-endpoint: expected \"local\"");
    check("[whisper]\ndata-dir = \"\"", "data-dir: expected a path");
    check("[whisper]\nschemas-file = \"\"", "schemas-file: expected a path");
    check("[whisper]\nenabled = \"true\"", "enabled: expected true or false, found \"true\"");
    check("[whisper]\ncompressed = true", "compressed: not supported: compressed files");
    check("[whisper]\nflush-interval = \"1ms\"", "from \"10ms\" to \"1h\"");
    check("[cache]\nwrite-strategy = \"sortd\"", "did you mean `sorted`?");
    check("[cache]\nmax-size = 4294967296", "max-size: expected an integer from 0 to 4294967295");
    check("[cache]\nmemory-budget = \"8G\"", "memory-budget: expected bytes");
    check("[cache]\nmemory-budget = 8", "memory-budget: expected bytes");
    check("[cache]\nmemory-budget = \"1.5\"", "memory-budget: expected bytes");
    check("[cache]\nmemory-budget = \"99999999TiB\"", "memory-budget: expected bytes");
    check("[tcp]\nlisten = \"2003\"", "[tcp] listen: expected an address with a port");
    check("[tcp]\nlisten = \":65536\"", "[tcp] listen: expected an address with a port");
    check("[tcp]\nlisten = \"::1:2003\"", "[tcp] listen: expected an address with a port");
    check("[tcp]\nlisten = \":http\"", "[tcp] listen: expected an address with a port");
    check("[tcp]\nlisten = \"\"", "[tcp] listen: expected an address with a port");
    check("[tcp]\nlisten = 2003", "[tcp] listen: expected an address with a port");
    check("[tcp]\ncompression = \"gzip\"", "compression: not supported");
    check("[tcp]\nidle-timeout = \"1ms\"", "to \"8760h\" or 0");
    check("[tcp]\nmax-connections = 0", "expected an integer from 1 to");
    check("[pickle]\nmax-message-size = 0", "max-message-size: expected bytes");
    check("[pickle]\nlisten = \"127.0.0.1:2003\"", "port 2003 is already that of [tcp]");
    check("[logging]\nlevel = \"warning\"", "did you mean `warn`?");
    check("[carbonserver]\nstats-percentiles = [\"99\"]", "expected a list of integers");
    check("[prometheus]\nlabels = { a = 1 }", "labels: expected a table of strings");
    check(
        "[[carbonserver.api-per-path-rate-limiters]]\npth = \"/\"",
        "unknown key `pth` in an entry; did you mean `path`?",
    );
    check("[receiver.x]\nprotocol = \"kafka\"", "f:2: [receiver.x] protocol: not supported: kafka");
    check("[receiver.x]\nprotocol = \"pubsub\"", "not supported: pubsub");
    check("[receiver.x]\nprotocol = \"http\"", "not supported: http");
    check("[receiver.x]\nprotocol = \"protobuf\"", "not supported: protobuf");
    check("[receiver.x]\nprotocol = \"tcp\"", "not available yet: a second listener beside [tcp]");
    check(
        "[receiver.x]\nprotocol = \"kafak\"",
        "unknown protocol \"kafak\"; did you mean `kafka`?",
    );
    check("[receiver.x]\nenabled = false\nbroker = 1", "unknown key; did you mean `brokers`?");
    check("[wisper]\nflock = true", "f:1: [wisper]: unknown section; did you mean `[whisper]`?");
    check("max-size = 5", "f:1: max-size: unknown key outside of any section; did you mean");
    check("[whisper]\nmax-size = 5", "did you mean `max-size in [cache]`?");
    check("[whisper]\nmax-creates = 5", "did you mean `max-creates-per-second`?");
    check("[cache]\nMax_Size = 5", "did you mean `max-size`?");
    check("[cache]\nzzz = 5", "[cache] zzz: unknown key");
    check("cache = 5", "f:1: [cache]: expected a table of keys");
    check("[[cache]]\nmax-size = 5", "f:1: [cache]: expected a table of keys");
    check("[cache]\nmax-size = = 5", "f:2: not TOML: ");
    check("[cache]\n[cache]", "f:2: not TOML: ");
}

#[test]
fn bad_values_of_the_log() {
    let inside = "[whisper]\ndata-dir = \"/a/b/\"\n[wal]\ndirectory = \"/a/b/c\"";
    check(inside, "[wal] directory: \"/a/b/c\" is inside of data-dir \"/a/b/\"");
    let socket = "[whisper]\ndata-dir = \"/a\"\n[common]\nadmin-socket = \"/a/s\"";
    check(socket, "[common] admin-socket: \"/a/s\" is inside of data-dir \"/a\"");
    check("[wal]\nsync-mode = \"of\"", "sync-mode");
    check("[wal]\ncommit-interval = \"2s\"", "commit-interval");
}

#[test]
fn all_errors_come_at_once_in_the_order_of_the_file() {
    let text = "[common]\nshards = 1000\nmax-cpuu = 1\n\n[tcp]\nlisten = \"x\"\n[tpc]\n[cache]\n\
                max-size = true\n";
    let lines: Vec<String> =
        refused(text).iter().map(|line| line.split(": ").take(2).collect::<String>()).collect();
    let want = [
        "f:2[common] shards",
        "f:3[common] max-cpuu",
        "f:6[tcp] listen",
        "f:7[tpc]",
        "f:9[cache] max-size",
    ];
    assert_eq!(lines, want);
}

#[test]
fn good_values() {
    let check = |text: &str, section: &str, key: &str, want: Value| {
        let (config, _) = accepted(text);
        assert_eq!(setting(&config, section, key).value, want, "{text}");
    };
    let interval = |text: &str, want: Duration| {
        let file = format!("[common]\nmetric-interval = \"{text}\"");
        check(&file, "common", "metric-interval", Value::Duration(want));
    };
    interval("1m0s", Duration::from_secs(60));
    interval("1h", Duration::from_secs(3_600));
    interval("1.5m", Duration::from_secs(90));
    interval("+2s500ms", Duration::from_millis(2_500));
    interval("1s1us1\u{b5}s1\u{3bc}s5ns", Duration::from_nanos(1_000_003_005));
    interval("1.000000001s", Duration::from_nanos(1_000_000_001));
    interval(".5m", Duration::from_secs(30));
    let budget = |toml: &str, want: Value| {
        check(&format!("[cache]\nmemory-budget = {toml}"), "cache", "memory-budget", want);
    };
    budget("\"8GiB\"", Value::Size(8 << 30));
    budget("\"512MB\"", Value::Size(512_000_000));
    budget("\"1.5 gb\"", Value::Size(1_500_000_000));
    budget("\"1.5GiB\"", Value::Size(3 << 29));
    budget("1_073_741_824", Value::Size(1 << 30));
    budget("0", Value::Auto);
    budget("\"auto\"", Value::Auto);
    let none = Value::Duration(Duration::ZERO);
    check("[tcp]\nidle-timeout = 0", "tcp", "idle-timeout", none.clone());
    check("[tcp]\nidle-timeout = \"0\"", "tcp", "idle-timeout", none);
    check("whisper.flock = true", "whisper", "flock", Value::Bool(true));
    check("whisper = { flock = true }", "whisper", "flock", Value::Bool(true));
    let listen = |text: &str| {
        let file = format!("[tcp]\nlisten = \"{text}\"");
        check(&file, "tcp", "listen", Value::Text(text.to_owned()));
    };
    listen(":0");
    listen("[::]:2003");
    listen("[fe80::1%eth0]:2003");
    listen("graphite-1.example.org:2003");
    accepted("[pickle]\nlisten = \":2003\"\n[tcp]\nenabled = false");
    accepted("[pickle]\nlisten = \"127.0.0.2:2003\"\n[tcp]\nlisten = \"127.0.0.1:2003\"");
}

#[test]
fn listen_addresses() {
    assert_eq!(listen_address(":2003"), Some(("", 2003)));
    assert_eq!(listen_address("[::1]:2003"), Some(("::1", 2003)));
    assert_eq!(listen_address("localhost:0"), Some(("localhost", 0)));
    for bad in ["", ":", "2003", "a b:1", "[::1]", "[x]:1", "[::1:1", ":+1", ":-1", "::1:2003"] {
        assert_eq!(listen_address(bad), None, "{bad}");
    }
}

#[test]
fn notices() {
    let check = |text: &str, want: &[&str]| {
        let (_, notices) = accepted(text);
        assert_eq!(notices, want, "{text}");
    };
    check("[common]\nmax-cpu = 1", &[]);
    check(
        "[common]\nmax-cpu = 4",
        &["f:2: [common] max-cpu: no effect: `shards` says how many cores are used"],
    );
    check(
        "[whisper]\nquotas-file = \"q\"",
        &["f:2: [whisper] quotas-file: not available yet: quotas"],
    );
    check("[carbonserver]\nlisten = \":80\"", &[]);
    check("[carbonserver]\nenabled = true", &["f:1: [carbonserver]: not available yet; ignored"]);
    check("[carbonlink]\nread-timeout = \"1m\"\nidle-timeout = \"1m\"", &[]);
    check(
        "[carbonlink]\nread-timeout = \"30s\"",
        &["f:2: [carbonlink] read-timeout: ends half-received questions only; idle connections \
           stay open unless idle-timeout is set"],
    );
    check("[grpc]\nenabled = false", &[]);
    check(
        "[grpc]",
        &["f:1: [grpc]: not supported: carbonlink answers the same questions; ignored"],
    );
    check(
        "[common]\nlog-level = \"info\"",
        &["f:2: [common] log-level: deprecated: use `level` in [logging]"],
    );
}

#[test]
fn logging_is_a_table_or_an_array() {
    let check = |text: &str, level: LevelFilter, target: LogTarget| {
        let (config, _) = accepted(text);
        assert_eq!(config.logging.level, level, "{text}");
        assert_eq!(config.logging.target, target, "{text}");
    };
    let file = || LogTarget::File("/l".into());
    check("[logging]\nlevel = \"WARN\"", LevelFilter::Warn, LogTarget::Stderr);
    check("[[logging]]\nfile = \"/l\"", LevelFilter::Info, file());
    check("[logging]\nfile = \"/l\"\n[logging]\nfile = \"/2\"", LevelFilter::Info, file());
    check("[logging]\nfile = \"\"\nlevel = \"fatal\"", LevelFilter::Error, LogTarget::Stderr);
    check("[logging]\nfile = \"stdout\"", LevelFilter::Info, LogTarget::Stdout);
    check("[logging]\nfile = \"none\"", LevelFilter::Info, LogTarget::Nowhere);
    check(
        "[[logging]]\nlogger = \"x\"\nlevel = \"error\"\nfile = \"/l\"\n\
         [[logging]]\nlevel = \"debug\"",
        LevelFilter::Debug,
        file(),
    );
    check(
        "[common]\nlogfile = \"/l\"\nlog-level = \"debug\"\n[[logging]]\nfile = \"stdout\"",
        LevelFilter::Debug,
        file(),
    );
    let (_, notices) = accepted("[[logging]]\n[[logging]]\nlevel = \"warn\"");
    assert_eq!(notices, ["f:3: [logging]: one log is written, as the first [[logging]] says"]);
}

#[test]
fn go_carbons_example_loads_with_notices_only() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/conf");
    let text = std::fs::read_to_string(format!("{folder}/go-carbon.conf")).unwrap();
    let want = std::fs::read_to_string(format!("{folder}/go-carbon.notices")).unwrap();
    let (config, notices) = accepted(&text);
    assert_eq!(notices.join("\n"), want.trim_end());
    assert_eq!(config.cache.max_size, 1_000_000);
    assert!(config.whisper.flock);
    assert_eq!(config.logging.target, LogTarget::File("/var/log/go-carbon/go-carbon.log".into()));
    for section in SECTIONS.iter().filter(|section| section.name != "receiver.NAME") {
        for key in section.keys.iter().filter(|key| !key.own) {
            let is_set = setting(&config, section.name, key.name).origin != Origin::Default;
            let is_old = matches!(key.status, Status::Deprecated(_));
            let is_table = matches!(key.kind, Kind::Tables(_));
            assert!(is_set || is_old || is_table, "{}.{} is not tried", section.name, key.name);
        }
    }
}

#[test]
fn damaged_files_are_answered_without_a_panic() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/conf/go-carbon.conf");
    let text = std::fs::read_to_string(path).unwrap();
    for at in (0..text.len()).step_by(5) {
        for byte in ["", "[", "\"", "0", "=", "\n", "\u{b5}"] {
            let damaged = format!("{}{byte}{}", &text[..at], &text[at + 1..]);
            if let Err(errors) = Config::parse("f", &damaged) {
                let one_line = errors.iter().all(|error| !error.to_string().contains('\n'));
                assert!(one_line, "byte {at} as {byte:?}: {errors:?}");
            }
        }
    }
}

#[test]
fn errors_of_odd_files_name_their_line_in_one_line() {
    check("# x\n[common]\n[\"a\\nb\\u001b\"]\n", "f:3: [a b ]: unknown section");
    let deep = format!("[common]\nshards = 1\n{}x = 1\n[tcp]\n", "a.".repeat(500));
    check(&deep, "f:3: not TOML: recursion limit");
    let lists = format!("# x\n\nq = {}\n", "[".repeat(500));
    check(&lists, "f:3: not TOML: ");
    // A file of another kind: every line is an error, and they are not all listed.
    let lines: String = (0..200_000).map(|number| format!("k{number}=1\n")).collect();
    let errors = refused(&lines);
    assert_eq!(errors.len(), 101);
    assert_eq!(errors[0], "f: more than 100 errors, the others are not listed");
    assert!(errors[100].starts_with("f:100: k99: unknown key"), "{}", errors[100]);
}
