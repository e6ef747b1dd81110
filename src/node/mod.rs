//! Starts a node from its configuration: checks the machine, binds the sockets, starts the cores.

mod admin;
mod announce;
mod drain;
mod listen;
mod log_directory;
mod log_note;
mod machine;
mod plan;
mod rules;
mod running;
mod sizes;
mod stop;
mod take_over;

use std::io::Write;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::mpsc::{self, Sender};

use rtrb::RingBuffer;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};

use crate::config::{Config, Notice, SyncMode};
use crate::fatal::{Fatal, die};
use crate::logging;
use crate::sys::executor::start_core;
use crate::sys::heap;
use crate::sys::lock::{DirectoryLock, lock_directory};
use crate::sys::mesh;
use crate::sys::preflight;
use crate::sys::socket::Sharing;
use crate::tasks::admin_line::{CoreLine as AdminLine, line as admin_line};
use crate::tasks::core::{CoreCommand, CoreEvent};
use crate::tasks::start;
use log_directory::NodeLog;
use machine::Machine;
use rules::RuleFiles;
use running::{CoreLine, Node};
use sizes::Sizes;
use take_over::Predecessor;

/// Orders queued for one core at most.
const COMMANDS_MAX: usize = 16;

/// Signals that the main thread handles. SIGUSR1 drains; SIGUSR2 is go-carbon's dump and stop.
const SIGNALS: [i32; 5] = [SIGTERM, SIGINT, SIGUSR2, SIGUSR1, SIGHUP];

/// File descriptors that a node needs beside those of its connections.
const DESCRIPTORS_RESERVED: u64 = 1_024;

/// Both lines to each core.
type Lines = (Vec<CoreLine>, Vec<AdminLine>);

/// Runs a node until a signal stops it. With `takes_over`, it first stops the node that runs on the
/// same data directory and takes its place.
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
    let predecessor = if takes_over { Predecessor::find(config) } else { None };
    let early_lock = predecessor.is_none().then(|| lock(config));
    let mut rule_files = RuleFiles::of(config);
    let rules = match rule_files.load() {
        Ok((rules, texts)) => {
            texts.iter().for_each(|text| log::warn!("{text}"));
            Arc::new(rules)
        }
        Err(errors) => {
            errors.iter().for_each(|error| log::error!("{error}"));
            die(Fatal::Config, "the rules for new files have errors")
        }
    };
    let sizes = Sizes::of(config, &Machine::found(), open_files)
        .unwrap_or_else(|error| die(Fatal::Config, &error));
    let sharing = if predecessor.is_some() { Sharing::Wanted } else { Sharing::Refused };
    let sockets =
        listen::bind(config, &sizes, sharing).unwrap_or_else(|error| die(Fatal::Listen, &error));
    if let Err(text) = log_directory::examine(config) {
        die(Fatal::Preflight, &text);
    }
    if let Some(predecessor) = predecessor {
        predecessor.end(&config.whisper.data_dir);
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
    node.command_all(|| CoreCommand::Serve);
    let mut early = None;
    // A signal may come while some cores receive already.
    node.wait_for_all(&CoreEvent::Ready, |signal| early = early.or(Some(signal)));
    let admin_socket = admin::start(&config.common.admin_socket, admin_lines);
    announce::announce(config, &sizes, &announced);
    let signal = early.unwrap_or_else(|| node.watch(&mut rule_files));
    drop(admin_socket);
    stop::stop(node, signal, config.whisper.enabled)
}

/// Makes the running node of the configured data directory write every point and stop.
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

fn forward_signals(sender: Sender<CoreEvent>) {
    let mut signals = signal_hook::iterator::Signals::new(SIGNALS)
        .unwrap_or_else(|error| die(Fatal::Preflight, &format!("catch signals: {error}")));
    std::thread::spawn(move || {
        for signal in signals.forever() {
            if sender.send(CoreEvent::Signal(signal)).is_err() {
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
    sender: &Sender<CoreEvent>,
    mut log: Option<&mut NodeLog>,
) -> Lines {
    let links = mesh::build(sizes.shards(), sizes.link_buffers, crate::limits::SHARD_REQUESTS_MAX)
        .unwrap_or_else(|error| die(Fatal::Writer, &format!("link the cores: {error}")));
    let mut cores = Vec::with_capacity(sizes.shards());
    let mut admin_lines = Vec::with_capacity(sizes.shards());
    for ((number, links), sockets) in (0u16..).zip(links).zip(sockets.per_core) {
        let bell = links.own_bell.clone();
        let (commands, from_main) = RingBuffer::new(COMMANDS_MAX);
        let (admin_line, admin) = admin_line(bell.clone());
        admin_lines.push(admin_line);
        let plan = plan::core_plan(
            config,
            sizes,
            number,
            plan::Ends {
                rules: Arc::clone(rules),
                links,
                commands: from_main,
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
        cores.push(CoreLine { commands, bell, handle });
    }
    if let Some(log) = log {
        log.start_checkpoints();
    }
    (cores, admin_lines)
}
