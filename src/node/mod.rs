//! Assembly of a node from its configuration: checks, sockets, cores, and the main thread that
//! passes signals on, watches the schema files and conducts the stop.

mod admin;
mod announce;
mod drain;
mod listen;
mod log_directory;
mod log_note;
mod machine;
mod plan;
mod rules;
mod stop;
mod take_over;

use std::cell::Cell;
use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

use rtrb::{Producer, RingBuffer};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::config::{Config, Notice, SyncMode};
use crate::fatal::{Fatal, die};
use crate::logging;
use crate::sys::clock;
use crate::sys::doorbell::Doorbell;
use crate::sys::executor::{CoreHandle, start_core};
use crate::sys::heap;
use crate::sys::lock::{DirectoryLock, lock_directory};
use crate::sys::mesh;
use crate::sys::preflight;
use crate::sys::socket::Sharing;
use crate::tasks::admin::{CoreLine as AdminLine, line as admin_line};
use crate::tasks::core::{Order, Report};
use crate::tasks::start;
use log_directory::NodeLog;
use machine::Machine;
use plan::Sizes;
use rules::RuleFiles;
use take_over::Former;

/// How often the schema files are looked at for changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Orders that may be under way to one core.
const ORDERS_MAX: usize = 16;

/// A clock this far behind the last point of the log is wrong, or was.
const CLOCK_BEHIND_S: u32 = 600;

/// The node tells of a clock this far ahead of the last point of the log.
const CLOCK_AHEAD_S: u32 = 7 * 86_400;

/// How long a start waits for a clock that is behind the log to be set, and how often it looks.
const CLOCK_WAIT: Duration = Duration::from_secs(60);
const CLOCK_PAUSE: Duration = Duration::from_millis(50);

/// What the main thread is told of. SIGUSR1 asks for a drain, SIGUSR2 is go-carbon's dump and stop.
const SIGNALS: [i32; 5] = [SIGTERM, SIGINT, SIGUSR2, SIGUSR1, SIGHUP];

/// Descriptors a node needs beside those of its connections.
const DESCRIPTORS_RESERVED: u64 = 1_024;

/// The main thread's line to one core.
struct CoreLine {
    orders: Producer<Order>,
    bell: Doorbell,
    handle: CoreHandle,
}

/// Both lines to each core.
type Lines = (Vec<CoreLine>, Vec<AdminLine>);

/// A running node, as the main thread holds it.
struct Node {
    cores: Vec<CoreLine>,
    reports: Receiver<Report>,
    log: Option<NodeLog>,
    lock: DirectoryLock,
    /// Cores that need nothing of earlier runs any more.
    released_count: usize,
}

/// Runs a node until it is told to stop. With `takes_over`, from the node that runs on the same
/// data directory, which is stopped.
pub fn serve(config: &Config, notices: &[Notice], takes_over: bool) -> ExitCode {
    if let Err(error) = logging::start(&config.logging) {
        let _ = writeln!(std::io::stderr(), "carbyne: open the log file: {error}");
        return ExitCode::from(Fatal::Config.status());
    }
    heap::give_back_large_pieces();
    for notice in notices {
        log::warn!("{notice}");
    }
    let open_files = preflight(config);
    let former = if takes_over { Former::find(config) } else { None };
    let early_lock = former.is_none().then(|| lock(config));
    let mut rule_files = RuleFiles::of(config);
    let rules = match rule_files.load() {
        Ok((rules, texts)) => {
            texts.iter().for_each(|text| log::warn!("{text}"));
            Arc::new(rules)
        }
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            die(Fatal::Config, "the rules for new files cannot be used")
        }
    };
    let sizes = Sizes::of(config, &Machine::found(), open_files)
        .unwrap_or_else(|error| die(Fatal::Config, &error));
    let sharing = if former.is_some() { Sharing::Wanted } else { Sharing::Refused };
    let sockets =
        listen::bind(config, &sizes, sharing).unwrap_or_else(|error| die(Fatal::Listen, &error));
    if let Err(text) = log_directory::examine(config) {
        die(Fatal::Preflight, &text);
    }
    if let Some(former) = former {
        former.end(&config.whisper.data_dir);
        sockets.be_alone();
    }
    let lock = early_lock.unwrap_or_else(|| lock(config));
    let mut log = NodeLog::open(config, &sizes);
    let announced = sockets.announced.clone();

    let (sender, reports) = mpsc::channel();
    forward_signals(sender.clone());
    let (cores, admin_lines) = start_cores(config, &sizes, &rules, sockets, &sender, log.as_mut());
    let mut node = Node { cores, reports, log, lock, released_count: 0 };
    node.recover();
    node.order_all(|| Order::Serve);
    let mut early = None;
    // Some cores receive already.
    node.wait_for_all(&Report::Ready, |signal| early = early.or(Some(signal)));
    let admin_socket = admin::start(&config.common.admin_socket, admin_lines);
    announce::announce(config, &sizes, &announced);
    let signal = early.unwrap_or_else(|| node.watch(&mut rule_files));
    drop(admin_socket);
    stop::stop(node, signal, config.whisper.enabled)
}

/// Has the node that runs on the configured data directory write everything out and stop.
pub fn drain(config: &Config, out: &mut dyn Write, err: &mut dyn Write) -> ExitCode {
    let status = drain::drain(&config.whisper.data_dir, out, err);
    status.map_or(ExitCode::FAILURE, ExitCode::from)
}

/// Checks the machine; returns how many files may be open.
fn preflight(config: &Config) -> u64 {
    let directory = &config.whisper.data_dir;
    let checked = preflight::check_io_uring()
        .and_then(|()| preflight::raise_memlock())
        .and_then(|()| {
            preflight::check_directory("data directory", "[whisper] data-dir", directory)
        })
        .and_then(|()| match config.wal.sync_mode {
            SyncMode::Off => Ok(()),
            SyncMode::Power | SyncMode::Process => {
                let directory = &config.wal.directory;
                preflight::check_directory("log directory", "[wal] directory", directory)
            }
        })
        .and_then(|()| preflight::raise_open_files(DESCRIPTORS_RESERVED));
    checked.unwrap_or_else(|obstacle| {
        let _ = writeln!(std::io::stderr(), "error: {obstacle}");
        std::process::exit(i32::from(Fatal::Preflight.status()))
    })
}

fn lock(config: &Config) -> DirectoryLock {
    let directory = &config.whisper.data_dir;
    lock_directory(directory).unwrap_or_else(|error| {
        let text = format!("data directory {}: {error}", directory.display());
        die(Fatal::Locked, &text)
    })
}

fn forward_signals(sender: Sender<Report>) {
    let mut signals = signal_hook::iterator::Signals::new(SIGNALS)
        .unwrap_or_else(|error| die(Fatal::Preflight, &format!("catch signals: {error}")));
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if sender.send(Report::Signal(signal)).is_err() {
                return;
            }
        }
    });
}

fn start_cores(
    config: &Config,
    sizes: &Sizes,
    rules: &Arc<crate::schema::Rules>,
    sockets: listen::Sockets,
    sender: &Sender<Report>,
    mut log: Option<&mut NodeLog>,
) -> Lines {
    let links = mesh::build(sizes.shards(), sizes.link_buffers, crate::limits::QUESTIONS_MAX)
        .unwrap_or_else(|error| die(Fatal::Writer, &format!("link the cores: {error}")));
    let mut cores = Vec::with_capacity(sizes.shards());
    let mut admin_lines = Vec::with_capacity(sizes.shards());
    for ((number, links), sockets) in (0u16..).zip(links).zip(sockets.per_core) {
        let bell = links.own_bell.clone();
        let (orders, from_main) = RingBuffer::new(ORDERS_MAX);
        let (admin_line, admin) = admin_line(bell.clone());
        admin_lines.push(admin_line);
        let plan = plan::core_plan(
            config,
            sizes,
            number,
            plan::Ends {
                rules: Arc::clone(rules),
                links,
                orders: from_main,
                reports: sender.clone(),
                sockets,
                log: log
                    .as_mut()
                    .map(|log| (log.shard_options(number), log.core_plan(number, bell.clone()))),
                newcomers: log.as_ref().map(|log| log.newcomers()),
                admin,
            },
        );
        let name = format!("core-{number}");
        let handle = start_core(&name, plan.processor, move || start::run(plan))
            .unwrap_or_else(|error| die(Fatal::Writer, &format!("start core {number}: {error}")));
        cores.push(CoreLine { orders, bell, handle });
    }
    if let Some(log) = log {
        log.start_checkpoints();
    }
    (cores, admin_lines)
}

impl Node {
    /// Reads what earlier runs left in the log, before anything is received. A signal ends the
    /// process at once: nothing is lost, and the next start reads it again.
    fn recover(&mut self) {
        let Some(log) = self.log.as_mut().filter(|log| log.is_heir()) else { return };
        let reports = &self.reports;
        let recovered = log.recover(|pause| {
            if let Ok(Report::Signal(signal)) = reports.recv_timeout(pause)
                && signal != SIGHUP
            {
                log::info!("stopped while replaying the log signal={signal}");
                std::process::exit(0);
            }
        });
        // One core counts them.
        let lost_points = Cell::new(recovered.lost_points);
        self.order_all(|| Order::InheritanceRead(lost_points.take()));
        self.wait_for_all(&Report::Recovered, |_| std::process::exit(0));
        self.wait_for_clock(recovered.last_arrived_s);
    }

    /// Receives nothing while the clock is far behind the last point of the log: most likely it is
    /// about to be set. Points of the log are written meanwhile, at the age they had when they
    /// came, whatever the clock says. After a minute the clock is believed.
    fn wait_for_clock(&mut self, last_arrived_s: u32) {
        let begun = Instant::now();
        let behind_s = || last_arrived_s.saturating_sub(clock::now_s());
        let ahead_s = clock::now_s().saturating_sub(last_arrived_s);
        if last_arrived_s > 0 && ahead_s > CLOCK_AHEAD_S {
            log::warn!("the clock is ahead of the last point in the log seconds={ahead_s}");
        }
        let mut is_told = false;
        while behind_s() > CLOCK_BEHIND_S {
            if !is_told {
                log::warn!(
                    "the clock is behind the last point in the log seconds={}, receiving nothing \
                     for {} s unless it is set",
                    behind_s(),
                    CLOCK_WAIT.as_secs()
                );
                is_told = true;
            }
            if begun.elapsed() >= CLOCK_WAIT {
                log::warn!("the clock is still behind the log, going on with what it says");
                return;
            }
            match self.reports.recv_timeout(CLOCK_PAUSE) {
                Ok(Report::Signal(SIGHUP)) | Err(_) => {}
                // All points are in the log.
                Ok(Report::Signal(_)) => std::process::exit(0),
                Ok(Report::InheritanceReleased) => self.released_count += 1,
                Ok(_) => {}
            }
        }
        if is_told {
            log::info!("the clock was set");
        }
    }

    fn wait_for_all(&mut self, wanted: &Report, mut on_signal: impl FnMut(i32)) {
        let mut count = 0;
        while count < self.cores.len() {
            match self.reports.recv() {
                Ok(Report::Signal(SIGHUP)) => {}
                Ok(Report::Signal(signal)) => on_signal(signal),
                Err(_) => std::process::exit(0),
                Ok(Report::InheritanceReleased) => self.released_count += 1,
                Ok(report) => count += usize::from(report == *wanted),
            }
        }
    }

    /// Follows the schema files until a signal says to stop; returns it.
    fn watch(&mut self, rule_files: &mut RuleFiles) -> i32 {
        loop {
            let must_read = match self.reports.recv_timeout(WATCH_INTERVAL) {
                Ok(Report::Signal(SIGHUP)) => {
                    logging::reopen();
                    true
                }
                Ok(Report::Signal(signal)) => return signal,
                Err(RecvTimeoutError::Disconnected) => return SIGTERM,
                Ok(Report::InheritanceReleased) => {
                    self.released_count += 1;
                    false
                }
                Ok(_) => false,
                Err(RecvTimeoutError::Timeout) => rule_files.have_changed(),
            };
            self.drop_inheritance();
            if must_read {
                self.reload(rule_files);
            }
        }
    }

    /// Deletes the logs of earlier runs when no core needs them any more.
    fn drop_inheritance(&mut self) {
        let Some(log) = self.log.as_mut().filter(|log| log.is_heir()) else { return };
        if self.released_count == self.cores.len() && log.drop_inheritance() {
            self.order_all(|| Order::InheritanceGone);
        }
    }

    fn reload(&mut self, rule_files: &mut RuleFiles) {
        match rule_files.load() {
            Ok((rules, texts)) => {
                texts.iter().for_each(|text| log::warn!("{text}"));
                log::info!("rules for new files read again");
                let rules = Arc::new(rules);
                self.order_all(|| Order::Rules(Arc::clone(&rules)));
            }
            Err(errors) => {
                errors.iter().for_each(|error| log::error!("{error}"));
                log::error!("rules for new files not usable, the old ones stay");
            }
        }
    }

    /// Gives every core an order. A core that has not taken the last sixteen hangs: it is named in
    /// the log, and only a second signal ends such a node.
    fn order_all(&mut self, order: impl Fn() -> Order) {
        for core in &mut self.cores {
            if core.orders.push(order()).is_err() {
                log::warn!("a core does not take orders");
            }
            core.bell.ring();
        }
    }
}
