//! The keys of go-carbon's sections that the node does not honour: known by name and type, so
//! that a file written for go-carbon loads, and a slip in one is still found.

use super::key::{Key, key};
use super::value::{ANY_DURATION, ANY_INT, Kind};

/// A key of a section without effect, which needs no explanation of its own.
const fn plain(name: &'static str, kind: Kind, default: &'static str) -> Key {
    key(name, kind, default, "")
}

pub(super) const CARBONSERVER: &[Key] = &[
    plain("listen", Kind::Listen, "127.0.0.1:8080"),
    plain("enabled", Kind::Bool, "false"),
    plain("read-timeout", ANY_DURATION, "1m"),
    plain("idle-timeout", ANY_DURATION, "1m"),
    plain("write-timeout", ANY_DURATION, "1m"),
    plain("request-timeout", ANY_DURATION, "0s"),
    plain("scan-frequency", ANY_DURATION, "5m"),
    plain("query-cache-enabled", Kind::Bool, "true"),
    plain("query-cache-size-mb", ANY_INT, "0"),
    plain("streaming-query-cache-enabled", Kind::Bool, "false"),
    plain("find-cache-enabled", Kind::Bool, "true"),
    plain("find-cache-size-mb", ANY_INT, "0"),
    plain("glob-cache-enabled", Kind::Bool, "true"),
    plain("glob-cache-size-mb", ANY_INT, "0"),
    plain("buckets", ANY_INT, "10"),
    plain("max-globs", ANY_INT, "100"),
    plain("fail-on-max-globs", Kind::Bool, "false"),
    plain("empty-result-ok", Kind::Bool, "false"),
    plain("do-not-log-404s", Kind::Bool, "false"),
    plain("metrics-as-counters", Kind::Bool, "false"),
    plain("trigram-index", Kind::Bool, "true"),
    plain("trie-index", Kind::Bool, "false"),
    plain("concurrent-index", Kind::Bool, "false"),
    plain("realtime-index", ANY_INT, "0"),
    plain("cache-scan", Kind::Bool, "false"),
    plain("file-list-cache", Kind::OptionalPath, ""),
    plain("file-list-cache-version", ANY_INT, "1"),
    plain("max-metrics-globbed", ANY_INT, "10000000"),
    plain("max-metrics-rendered", ANY_INT, "1000000"),
    plain("max-fetch-data-goroutines", ANY_INT, "0"),
    plain("internal-stats-dir", Kind::OptionalPath, ""),
    plain("stats-percentiles", Kind::Ints, "[]"),
    plain("quota-usage-report-frequency", ANY_DURATION, "1m"),
    plain("max-creates-per-second", ANY_INT, "0"),
    plain("no-service-when-index-is-not-ready", Kind::Bool, "false"),
    plain("max-inflight-requests", ANY_INT, "0"),
    plain(
        "heavy-glob-query-rate-limiters",
        Kind::Tables(&[("pattern", Kind::Text), ("max-inflight-requests", ANY_INT)]),
        "[]",
    ),
    plain(
        "api-per-path-rate-limiters",
        Kind::Tables(&[
            ("path", Kind::Text),
            ("max-inflight-requests", ANY_INT),
            ("request-timeout", ANY_DURATION),
        ]),
        "[]",
    ),
    plain("render-trace-logging-enabled", Kind::Bool, "false"),
    plain("graphite-web-10-strict-mode", Kind::Bool, "false"),
];

pub(super) const CARBONSERVER_GRPC: &[Key] =
    &[plain("listen", Kind::Text, ""), plain("enabled", Kind::Bool, "false")];

pub(super) const DUMP: &[Key] = &[
    plain("enabled", Kind::Bool, "false"),
    plain("path", Kind::Path, "/var/lib/graphite/dump/"),
    plain("restore-per-second", ANY_INT, "0"),
];

pub(super) const PROMETHEUS: &[Key] = &[
    plain("enabled", Kind::Bool, "false"),
    plain("endpoint", Kind::Text, "/metrics"),
    plain("labels", Kind::Labels, "{}"),
];

pub(super) const TAGS: &[Key] = &[
    plain("enabled", Kind::Bool, "false"),
    plain("tagdb-url", Kind::Text, "http://127.0.0.1:8000"),
    plain("tagdb-timeout", ANY_DURATION, "1s"),
    plain("tagdb-chunk-size", ANY_INT, "32"),
    plain("tagdb-update-interval", ANY_INT, "100"),
    plain("local-dir", Kind::Path, "/var/lib/graphite/tagging/"),
];

pub(super) const PPROF: &[Key] =
    &[plain("listen", Kind::Listen, "127.0.0.1:7007"), plain("enabled", Kind::Bool, "false")];

pub(super) const TRACING: &[Key] = &[
    plain("enabled", Kind::Bool, "false"),
    plain("jaegerEndpoint", Kind::Text, ""),
    plain("stdout", Kind::Bool, "false"),
    plain("send_timeout", ANY_DURATION, "10s"),
];

pub(super) const GRPC: &[Key] =
    &[plain("listen", Kind::Listen, "127.0.0.1:7003"), plain("enabled", Kind::Bool, "true")];

/// Protocols of `[receiver.NAME]` for which the node has a section of its own.
pub(super) const RECEIVER_PROTOCOLS_LATER: [&str; 3] = ["tcp", "udp", "pickle"];

/// Protocols of `[receiver.NAME]` that the node does not speak.
pub(super) const RECEIVER_PROTOCOLS_REFUSED: [&str; 4] = ["protobuf", "http", "kafka", "pubsub"];

/// The keys of every protocol together.
pub(super) const RECEIVER: &[Key] = &[
    plain("protocol", Kind::Text, ""),
    plain("enabled", Kind::Bool, "true"),
    plain("listen", Kind::Listen, ":2007"),
    plain("buffer-size", ANY_INT, "0"),
    plain("log-incomplete", Kind::Bool, "false"),
    plain("compression", Kind::Text, ""),
    plain("max-message-size", ANY_INT, "67108864"),
    plain("brokers", Kind::Texts, "[\"localhost:9092\"]"),
    plain("topic", Kind::Text, "graphite"),
    plain("partition", ANY_INT, "0"),
    plain("parse-protocol", Kind::Text, "plain"),
    plain("state-file", Kind::OptionalPath, ""),
    plain("initial-offset", Kind::Text, "oldest"),
    plain("state-save-interval", ANY_DURATION, "1m"),
    plain("reconnect-interval", ANY_DURATION, "1m"),
    plain("fetch-interval", ANY_DURATION, "250ms"),
    plain("kafka-version", Kind::Text, "0.11.0.0"),
    plain("project", Kind::Text, ""),
    plain("subscription", Kind::Text, ""),
    plain("receiver_go_routines", ANY_INT, "4"),
    plain("receiver_max_messages", ANY_INT, "1000"),
    plain("receiver_max_bytes", ANY_INT, "100000000"),
];
