//! Assembly of a node from its configuration: checks, sockets, cores, and the main thread that
//! passes signals on, watches the schema files and conducts the stop.

mod announce;
mod listen;
mod plan;
mod rules;
mod stop;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::Duration;

use rtrb::{Producer, RingBuffer};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

use crate::config::{Config, Notice};
use crate::fatal::{Fatal, die};
use crate::logging;
use crate::sys::cpu;
use crate::sys::doorbell::Doorbell;
use crate::sys::executor::{CoreHandle, start_core};
use crate::sys::files::{DirectoryLock, lock_directory};
use crate::sys::mesh;
use crate::sys::preflight;
use crate::tasks::core::{Order, Report};
use crate::tasks::start;
use plan::Sizes;
use rules::RuleFiles;

/// How often the schema files are looked at for changes.
const WATCH_INTERVAL: Duration = Duration::from_secs(2);

/// Orders that may be under way to one core.
const ORDERS_MAX: usize = 16;

/// Descriptors a node needs beside those of its connections.
const DESCRIPTORS_RESERVED: u64 = 1_024;

/// The main thread's line to one core.
struct CoreLine {
    orders: Producer<Order>,
    bell: Doorbell,
    handle: CoreHandle,
}

/// A running node, as the main thread holds it.
struct Node {
    cores: Vec<CoreLine>,
    reports: Receiver<Report>,
    _lock: DirectoryLock,
}

/// Runs a node until it is told to stop.
pub fn serve(config: &Config, notices: &[Notice]) -> ExitCode {
    if let Err(error) = logging::start(&config.logging) {
        let _ = writeln!(std::io::stderr(), "carbyne: open the log file: {error}");
        return ExitCode::from(Fatal::Config.status());
    }
    for notice in notices {
        log::warn!("{notice}");
    }
    let open_files = preflight(config);
    let lock = lock(config);
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
    let sizes = Sizes::of(config, &cpu::usable_cores(), cpu::memory_bytes(), open_files);
    let sockets = listen::bind(config, &sizes).unwrap_or_else(|error| die(Fatal::Listen, &error));
    let announced = sockets.announced.clone();

    let (sender, reports) = mpsc::channel();
    forward_signals(sender.clone());
    let cores = start_cores(config, &sizes, &rules, sockets, &sender);
    let mut node = Node { cores, reports, _lock: lock };
    node.wait_until_ready();
    announce::announce(config, &sizes, &announced);
    node.watch(&mut rule_files);
    stop::stop(node, config.whisper.enabled)
}

/// Checks the machine; returns how many files may be open.
fn preflight(config: &Config) -> u64 {
    let directory = &config.whisper.data_dir;
    let checked = preflight::check_io_uring()
        .and_then(|()| preflight::raise_memlock())
        .and_then(|()| preflight::check_directory(directory))
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
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT, SIGHUP])
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
) -> Vec<CoreLine> {
    let links = mesh::build(sizes.shards(), sizes.link_buffers, crate::limits::QUESTIONS_MAX)
        .unwrap_or_else(|error| die(Fatal::Writer, &format!("link the cores: {error}")));
    let mut cores = Vec::with_capacity(sizes.shards());
    for ((number, links), sockets) in (0u16..).zip(links).zip(sockets.per_core) {
        let bell = links.own_bell.clone();
        let (orders, from_main) = RingBuffer::new(ORDERS_MAX);
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
            },
        );
        let name = format!("core-{number}");
        let handle = start_core(&name, plan.processor, move || start::run(plan))
            .unwrap_or_else(|error| die(Fatal::Writer, &format!("start core {number}: {error}")));
        cores.push(CoreLine { orders, bell, handle });
    }
    cores
}

impl Node {
    fn wait_until_ready(&self) {
        let mut ready = 0;
        while ready < self.cores.len() {
            match self.reports.recv() {
                Ok(Report::Ready) => ready += 1,
                Ok(Report::Signal(_)) | Err(_) => std::process::exit(0),
                Ok(_) => {}
            }
        }
    }

    /// Follows the schema files until a signal says to stop.
    fn watch(&mut self, rule_files: &mut RuleFiles) {
        loop {
            let must_read = match self.reports.recv_timeout(WATCH_INTERVAL) {
                Ok(Report::Signal(SIGHUP)) => {
                    logging::reopen();
                    true
                }
                Ok(Report::Signal(_)) | Err(RecvTimeoutError::Disconnected) => return,
                Ok(_) => false,
                Err(RecvTimeoutError::Timeout) => rule_files.have_changed(),
            };
            if must_read {
                self.reload(rule_files);
            }
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
