//! The arguments of `carbyne loadgen`: haggar's flags with one dash or two, and our own.

use std::ffi::{OsStr, OsString};
use std::net::{SocketAddr, ToSocketAddrs};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::{Arg, Parser};

use crate::limits::NAME_BYTES_MAX;
use crate::loadgen::plan::Plan;
use crate::loadgen::stream::{Encoding, PICKLE_POINTS_MAX};
use crate::query::CARBONLINK;
use crate::sys::clock;

/// What travels where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Protocol {
    /// Lines over TCP.
    Line,
    /// Pickle frames over TCP.
    Pickle,
    /// Lines in datagrams.
    Udp,
}

impl Protocol {
    /// How points become bytes.
    pub(super) fn encoding(self) -> Encoding {
        if self == Protocol::Pickle { Encoding::Pickles } else { Encoding::Lines }
    }

    /// carbon's port.
    fn target(self) -> &'static str {
        if self == Protocol::Pickle { "127.0.0.1:2004" } else { "127.0.0.1:2003" }
    }

    /// Points in a message. Sixteen lines are few enough to stop at once and many enough to keep
    /// the list of messages short; 25 lines are a datagram of 1,400 bytes; relays send 500 a frame.
    fn points_per_message(self) -> u32 {
        match self {
            Protocol::Line => 16,
            Protocol::Pickle => 500,
            Protocol::Udp => 25,
        }
    }
}

/// How fast points are sent.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Pace {
    /// As fast as they are taken.
    Full,
    /// Points a second of all agents together.
    Rate(f64),
    /// A round of each agent in this time; timestamps are the clock's.
    Interval(Duration),
}

/// Everything that was asked for.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Options {
    pub(super) protocol: Protocol,
    pub(super) target: String,
    pub(super) agents: u32,
    pub(super) threads: u32,
    pub(super) plan: Plan,
    pub(super) points_per_message: u32,
    pub(super) pace: Pace,
    /// Rounds of each agent; `None`: until the duration is over.
    pub(super) rounds: Option<u32>,
    pub(super) duration: Option<Duration>,
    pub(super) spawn_interval: Duration,
    pub(super) jitter: Duration,
    /// A connection for each round.
    pub(super) reconnect: bool,
    pub(super) verify: Option<Verify>,
    /// Nothing is sent: what an earlier run with the same numbers sent is looked for.
    pub(super) verify_only: bool,
    pub(super) yes_remote: bool,
    pub(super) json: bool,
}

/// Where sent points are looked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Verify {
    pub(super) carbonlink: String,
    pub(super) data_dir: PathBuf,
    /// How long points may take to appear.
    pub(super) timeout: Duration,
}

/// What the arguments ask for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Asked {
    Help,
    Run(Box<Options>),
}

/// Flags that haggar has, with one dash.
const HAGGAR_FLAGS: [&str; 8] = [
    "agents",
    "cache_connections",
    "carbon",
    "flush-interval",
    "jitter",
    "metrics",
    "prefix",
    "spawn-interval",
];

/// Most agents: each is a connection.
const AGENTS_MAX: u32 = 100_000;
/// Most slots of an agent: about 4 GiB of pickles.
const SLOTS_MAX: u32 = 50_000_000;
/// Most metrics in a directory; names with churn have four digits for it.
const LEAVES_MAX: u32 = 9_999;
/// Most lines in a datagram: 65,507 bytes are 4,094 lines of 16 bytes, the shortest.
const DATAGRAM_POINTS_MAX: u32 = 4_094;
/// Most threads.
const THREADS_MAX: u32 = 512;
/// Default number of threads: enough to keep every shard of a small node busy.
const THREADS: u32 = 8;
/// Longest duration.
const YEAR: Duration = Duration::from_secs(365 * 86_400);
/// Default number of rounds before timestamps repeat: an hour of seconds.
const WINDOW: u32 = 3_600;
/// Bytes that the numbers of a name may take: agent, metric and what stands between.
const NAME_BYTES_LEFT: usize = 100;

/// The arguments before they are made sense of.
#[derive(Default)]
struct Given {
    protocol: Option<Protocol>,
    target: Option<String>,
    agents: Option<u32>,
    slots: Option<u32>,
    prefix: Option<String>,
    leaves: Option<u32>,
    churn: f64,
    threads: Option<u32>,
    points_per_message: Option<u32>,
    rate: Option<f64>,
    flush_interval: Option<Duration>,
    rounds: Option<u32>,
    duration: Option<Duration>,
    start_s: Option<u32>,
    step_s: Option<u32>,
    window: Option<u32>,
    spawn_interval: Duration,
    jitter: Duration,
    reconnect: bool,
    verify: bool,
    verify_only: bool,
    carbonlink: Option<String>,
    data_dir: Option<PathBuf>,
    verify_timeout: Option<Duration>,
    yes_remote: bool,
    json: bool,
    help: bool,
}

/// Reads the arguments behind `loadgen`.
pub(super) fn parse(args: &[OsString]) -> Result<Asked, String> {
    let mut given = Given::default();
    let mut parser = Parser::from_args(args.iter().map(with_two_dashes));
    while let Some(arg) = parser.next().map_err(|error| error.to_string())? {
        match arg {
            Arg::Short('h') => given.help = true,
            Arg::Long(name) => {
                let name = name.to_owned();
                given.take(&name, &mut parser)?;
            }
            Arg::Short(letter) => return Err(format!("unknown option `-{letter}`")),
            Arg::Value(word) => return Err(format!("unexpected argument `{}`", word.display())),
        }
    }
    if given.help {
        return Ok(Asked::Help);
    }
    given.settle().map(|options| Asked::Run(Box::new(options)))
}

/// Checks that an address leads to this machine, and resolves it.
pub(super) fn resolve(address: &str, yes_remote: bool) -> Result<SocketAddr, String> {
    let mut found = address.to_socket_addrs().map_err(|error| format!("{address}: {error}"))?;
    let first = found.next().ok_or_else(|| format!("{address}: the host has no address"))?;
    if yes_remote || first.ip().to_canonical().is_loopback() {
        return Ok(first);
    }
    Err(format!("{address} is not this machine; --yes-remote if its owner agreed to be flooded"))
}

fn with_two_dashes(arg: &OsString) -> OsString {
    let name = arg.to_str().and_then(|arg| arg.strip_prefix('-'));
    let name = name.and_then(|name| name.split('=').next());
    if !name.is_some_and(|name| HAGGAR_FLAGS.contains(&name)) {
        return arg.clone();
    }
    let mut long = OsString::from("-");
    long.push(arg);
    long
}

impl Given {
    fn take(&mut self, name: &str, parser: &mut Parser) -> Result<(), String> {
        if self.take_switch(name, parser)? {
            return Ok(());
        }
        let is_known = VALUES.contains(&name);
        if !is_known {
            return Err(format!("unknown option `--{name}`"));
        }
        let value = parser.value().map_err(|error| error.to_string())?;
        let count = |range| count(name, &value, range);
        let time = || time(name, &value);
        match name {
            "protocol" => self.protocol = Some(protocol(&value)?),
            "carbon" | "target" => self.target = Some(text(name, &value)?),
            "agents" | "connections" => self.agents = Some(count(1..=AGENTS_MAX)?),
            "metrics" => self.slots = Some(count(1..=SLOTS_MAX)?),
            "prefix" => self.prefix = Some(prefix(&value)?),
            "leaves" => self.leaves = Some(count(0..=LEAVES_MAX)?),
            "churn" => self.churn = fraction(name, &value)?,
            "threads" => self.threads = Some(count(1..=THREADS_MAX)?),
            "points-per-message" => self.points_per_message = Some(count(1..=SLOTS_MAX)?),
            "rate" => self.rate = Some(rate(&value)?),
            "flush-interval" => self.flush_interval = Some(time()?),
            "rounds" => self.rounds = Some(count(1..=u32::MAX)?),
            "duration" => self.duration = Some(time()?),
            "start" => self.start_s = Some(count(0..=u32::MAX)?),
            "step" => self.step_s = Some(count(0..=u32::MAX)?),
            "window" => self.window = Some(count(1..=u32::MAX)?),
            "spawn-interval" => self.spawn_interval = time()?,
            "jitter" => self.jitter = time()?,
            "carbonlink" => self.carbonlink = Some(text(name, &value)?),
            "data-dir" => self.data_dir = Some(PathBuf::from(&value)),
            "verify-timeout" => self.verify_timeout = Some(time()?),
            _ => unreachable!("every option in VALUES is taken"),
        }
        Ok(())
    }

    /// Takes an option that stands alone; false when it is none.
    fn take_switch(&mut self, name: &str, parser: &mut Parser) -> Result<bool, String> {
        match name {
            "help" => self.help = true,
            "verify" => self.verify = true,
            "verify-only" => self.verify_only = true,
            "yes-remote" => self.yes_remote = true,
            "json" => self.json = true,
            "reconnect" => self.reconnect = true,
            "cache_connections" => {
                let kept = parser.optional_value();
                self.reconnect = kept.is_some_and(|kept| kept == "false" || kept == "0");
            }
            _ => return Ok(false),
        }
        Ok(true)
    }

    fn settle(self) -> Result<Options, String> {
        let protocol = self.protocol.unwrap_or(Protocol::Line);
        let agents = self.agents.unwrap_or(4);
        let pace = self.pace()?;
        let plan = self.plan()?;
        let points_per_message = self.points_per_message(protocol)?;
        let verify = self.verify()?;
        if self.verify_only && (self.rounds.is_none() || self.start_s.is_none()) {
            return Err("--verify-only needs --rounds and --start of the earlier run".to_owned());
        }
        if self.verify_only && matches!(pace, Pace::Interval(_)) {
            return Err("--verify-only cannot know the timestamps of --flush-interval".to_owned());
        }
        Ok(Options {
            protocol,
            target: self.target.unwrap_or_else(|| protocol.target().to_owned()),
            agents,
            threads: self.threads.unwrap_or(THREADS).min(agents),
            plan,
            points_per_message,
            pace,
            rounds: self.rounds,
            duration: self.duration,
            spawn_interval: self.spawn_interval,
            jitter: self.jitter,
            reconnect: self.reconnect,
            verify,
            verify_only: self.verify_only,
            yes_remote: self.yes_remote,
            json: self.json,
        })
    }

    fn pace(&self) -> Result<Pace, String> {
        match (self.rate, self.flush_interval) {
            (Some(_), Some(_)) => Err("--rate and --flush-interval exclude each other".to_owned()),
            (Some(rate), None) => Ok(Pace::Rate(rate)),
            (None, Some(interval)) if !interval.is_zero() => Ok(Pace::Interval(interval)),
            (None, _) => Ok(Pace::Full),
        }
    }

    fn plan(&self) -> Result<Plan, String> {
        let slots = self.slots.unwrap_or(25_000);
        let step_s = self.step_s.unwrap_or(1);
        let window = self.window.or(self.rounds).unwrap_or(WINDOW);
        let now_s = clock::now_s();
        let start_s = self.start_s.unwrap_or_else(|| {
            // The last round is the present; aligned, so that each falls into a step of its own.
            let start_s = now_s.saturating_sub(window.saturating_mul(step_s));
            start_s - start_s.checked_rem(step_s).unwrap_or(0)
        });
        if u64::from(start_s) + u64::from(window - 1) * u64::from(step_s) > u64::from(u32::MAX) {
            return Err("--start, --step and --window lead beyond the year 2106".to_owned());
        }
        Ok(Plan {
            prefix: self.prefix.clone().unwrap_or_else(|| "carbyne.loadgen".to_owned()),
            slots,
            leaves: self.leaves.unwrap_or(0),
            churn: share(self.churn, slots),
            start_s,
            step_s,
            window,
        })
    }

    fn points_per_message(&self, protocol: Protocol) -> Result<u32, String> {
        let count = self.points_per_message.unwrap_or_else(|| protocol.points_per_message());
        let limit = match protocol {
            Protocol::Line => SLOTS_MAX,
            Protocol::Pickle => PICKLE_POINTS_MAX,
            Protocol::Udp => DATAGRAM_POINTS_MAX,
        };
        if count > limit {
            return Err(format!("--points-per-message takes at most {limit} here"));
        }
        Ok(count)
    }

    fn verify(&self) -> Result<Option<Verify>, String> {
        if !self.verify && !self.verify_only {
            return Ok(None);
        }
        let Some(data_dir) = self.data_dir.clone() else {
            return Err("--verify needs --data-dir, the node's directory of Whisper files".into());
        };
        Ok(Some(Verify {
            carbonlink: self.carbonlink.clone().unwrap_or_else(|| CARBONLINK.to_owned()),
            data_dir,
            timeout: self.verify_timeout.unwrap_or(Duration::from_secs(30)),
        }))
    }
}

/// Options with a value.
const VALUES: [&str; 23] = [
    "agents",
    "carbon",
    "carbonlink",
    "churn",
    "connections",
    "data-dir",
    "duration",
    "flush-interval",
    "jitter",
    "leaves",
    "metrics",
    "points-per-message",
    "prefix",
    "protocol",
    "rate",
    "rounds",
    "spawn-interval",
    "start",
    "step",
    "target",
    "threads",
    "verify-timeout",
    "window",
];

fn text(name: &str, value: &OsStr) -> Result<String, String> {
    value.to_str().map(str::to_owned).ok_or_else(|| format!("--{name} takes UTF-8"))
}

fn protocol(value: &OsStr) -> Result<Protocol, String> {
    match value.to_str() {
        Some("line" | "tcp") => Ok(Protocol::Line),
        Some("pickle") => Ok(Protocol::Pickle),
        Some("udp") => Ok(Protocol::Udp),
        _ => Err(format!("--protocol takes line, pickle or udp, not `{}`", value.display())),
    }
}

/// A prefix as it may stand in a name: the rest of the name brings its canonical form.
fn prefix(value: &OsStr) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    value
        .to_str()
        .filter(|text| (1..=NAME_BYTES_MAX - NAME_BYTES_LEFT).contains(&text.len()))
        .filter(|text| text.bytes().all(is_plain) && !text.starts_with('.'))
        .filter(|text| !text.ends_with('.') && !text.contains(".."))
        .map(str::to_owned)
        .ok_or_else(|| format!("--prefix takes a plain metric name, not `{}`", value.display()))
}

fn count(name: &str, value: &OsStr, range: std::ops::RangeInclusive<u32>) -> Result<u32, String> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.filter(|number| range.contains(number)).ok_or_else(|| {
        let (least, most) = (range.start(), range.end());
        format!("--{name} takes a number from {least} to {most}, not `{}`", value.display())
    })
}

fn fraction(name: &str, value: &OsStr) -> Result<f64, String> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|number| (0.0..=1.0).contains(number))
        .ok_or_else(|| format!("--{name} takes a share from 0 to 1, not `{}`", value.display()))
}

fn rate(value: &OsStr) -> Result<f64, String> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|number| (0.001..=1e12).contains(number))
        .ok_or_else(|| format!("--rate takes points a second, not `{}`", value.display()))
}

/// A time with its unit as Go writes it, such as "10s"; seconds without.
fn time(name: &str, value: &OsStr) -> Result<Duration, String> {
    let text = value.to_str().unwrap_or_default();
    let seconds = text.parse().ok().and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    seconds
        .or_else(|| humantime::parse_duration(text).ok())
        .filter(|time| *time <= YEAR)
        .ok_or_else(|| format!("--{name} takes a time such as 10s, not `{}`", value.display()))
}

/// A share of the slots, rounded.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most `slots`")]
fn share(fraction: f64, slots: u32) -> u32 {
    (f64::from(slots) * fraction).round() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(args: &str) -> Result<Options, String> {
        let args: Vec<OsString> = args.split_whitespace().map(OsString::from).collect();
        match parse(&args)? {
            Asked::Run(options) => Ok(*options),
            Asked::Help => Err("help".to_owned()),
        }
    }

    #[test]
    fn flags_of_haggar_with_one_dash() {
        let options =
            run("-carbon 127.0.0.1:1 -agents=7 -metrics 9 -prefix=x -flush-interval=10s \
                           -jitter 500ms -spawn-interval=2s -cache_connections=false")
            .expect("fine");
        assert_eq!(options.target, "127.0.0.1:1");
        assert_eq!((options.agents, options.plan.slots, options.threads), (7, 9, 7));
        assert_eq!(options.plan.prefix, "x");
        assert_eq!(options.pace, Pace::Interval(Duration::from_secs(10)));
        assert_eq!(options.jitter, Duration::from_millis(500));
        assert_eq!(options.spawn_interval, Duration::from_secs(2));
        assert!(options.reconnect);
        assert!(!run("-cache_connections").expect("fine").reconnect);
    }

    #[test]
    fn timestamps_end_in_the_present() {
        let plan = run("--rounds 5 --step 60").expect("fine").plan;
        let last_s = plan.timestamp_s(4);
        assert_eq!((plan.window, last_s % 60), (5, 0));
        assert!((clock::now_s() - 200..=clock::now_s()).contains(&last_s), "{last_s}");
        let plan = run("--rounds 5 --start 1000000000").expect("fine").plan;
        assert_eq!(plan.timestamp_s(4), 1_000_000_004);
    }

    #[test]
    fn every_option_with_a_value_is_taken() {
        for name in VALUES {
            let problem = run(&format!("--{name}=\u{1}")).err().unwrap_or_default();
            assert!(!problem.contains("unknown"), "{name}: {problem}");
        }
    }

    #[test]
    fn wrong_arguments_are_named() {
        for (args, want) in [
            ("--agents 0", "--agents takes a number from 1 to 100000, not `0`"),
            ("--churn 2", "--churn takes a share from 0 to 1, not `2`"),
            ("--rate none", "--rate takes points a second, not `none`"),
            ("--duration soon", "--duration takes a time such as 10s, not `soon`"),
            ("--prefix a..b", "--prefix takes a plain metric name, not `a..b`"),
            ("--protocol smoke", "--protocol takes line, pickle or udp, not `smoke`"),
            (
                "--protocol pickle --points-per-message 1001",
                "--points-per-message takes at most \
              1000 here",
            ),
            ("--rate 5 -flush-interval 1s", "--rate and --flush-interval exclude each other"),
            ("--verify", "--verify needs --data-dir, the node's directory of Whisper files"),
            (
                "--verify-only --data-dir x",
                "--verify-only needs --rounds and --start of the \
              earlier run",
            ),
            ("--nonsense", "unknown option `--nonsense`"),
            ("word", "unexpected argument `word`"),
        ] {
            assert_eq!(run(args), Err(want.to_owned()), "{args}");
        }
    }

    #[test]
    fn other_machines_are_refused() {
        for near in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(resolve(near, false).is_ok(), "{near}");
        }
        for far in ["192.0.2.1:2003", "0.0.0.0:2003", "[2001:db8::1]:2003"] {
            assert!(resolve(far, false).is_err(), "{far}");
            assert!(resolve(far, true).is_ok(), "{far}");
        }
    }
}
