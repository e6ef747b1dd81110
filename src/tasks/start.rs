//! One core from its first task to its last.

use std::cell::RefCell;
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rtrb::{Consumer, RingBuffer};
use socket2::Socket;
use std::sync::mpsc::Sender;

use crate::disk::writer::{self, WriterOptions};
use crate::limits::FLUSH_BATCHES;
use crate::schema::Rules;
use crate::shard::query::{ShardRequest, ShardResponse};
use crate::shard::{Shard, ShardOptions};
use crate::sys::cpu::pin_thread;
use crate::sys::doorbell::Doorbell;
use crate::sys::executor::{Task, sleep};
use crate::sys::file_systems::Newcomers;
use crate::sys::mesh::Links;
use crate::sys::schedule;
use crate::sys::socket::Stream;
use crate::tasks::admin_line::AdminEnd;
use crate::tasks::core::{
    ConnectionOptions, Core, CoreCommand, CoreEvent, CoreParts, Protocol, Stage,
};
use crate::tasks::flush::Writer;
use crate::tasks::listen::Acceptor;
use crate::tasks::report::ReportOptions;
use crate::tasks::wal_handle::{WalHandle, WalPlan};
use crate::tasks::{commit, exchange, flush, links, listen, receive_udp, report, stall};

/// Time for connections, after receiving has ended, to read what the kernel holds for them.
const LAST_READ_TIME: Duration = Duration::from_secs(1);

/// Before that, connections that always bring more are read for so long, looked at so often.
const READ_ON_TIME: Duration = Duration::from_millis(300);
const READ_ON_PAUSE: Duration = Duration::from_millis(20);

/// With a log: time at the stop for the batches that the writer has.
const LAST_WRITE_TIME: Duration = Duration::from_millis(500);

/// Then a sync of the files is waited for so long. After a loss of power the log repeats what was
/// not synced.
const LAST_SYNC_TIME: Duration = Duration::from_millis(800);

/// Everything one core is started with.
pub struct CorePlan {
    /// The processor it is pinned to, with its writer.
    pub processor: usize,
    /// Its shard.
    pub shard: ShardOptions,
    /// Rules for new files.
    pub rules: Arc<Rules>,
    /// Its ends of all links.
    pub links: Links<ShardRequest, ShardResponse>,
    /// Orders of the main thread.
    pub commands: Consumer<CoreCommand>,
    /// Where reports to the main thread go.
    pub reports: Sender<CoreEvent>,
    /// TCP listeners, and how their connections are treated.
    pub listeners: Vec<(Socket, Protocol, ConnectionOptions)>,
    /// Connections of all kinds that this core may have open.
    pub connections_max: usize,
    /// The UDP socket.
    pub datagrams: Option<Socket>,
    /// The data directory.
    pub directory: PathBuf,
    /// How files are treated; `None`: nothing is written.
    pub writer: Option<WriterOptions>,
    /// Is told of file systems in the data directory; `None`: there are no checkpoints.
    pub newcomers: Option<Newcomers>,
    /// Least time between two sweeps.
    pub flush_interval: Duration,
    /// The log; the shard's options of it are in `shard`.
    pub log: Option<WalPlan>,
    /// Where the admin thread asks this core.
    pub admin: AdminEnd,
    /// Publishes the node's statistics; on one core.
    pub report: Option<ReportOptions>,
}

/// Runs one core to its end. To be called on its executor.
pub async fn run(plan: CorePlan) {
    let index = plan.shard.id.index();
    let bell = plan.links.own_bell.clone();
    let start_log = |log| WalHandle::start(index, plan.processor, log, bell.clone());
    let core = Rc::new(Core::new(CoreParts {
        shard: Shard::new(plan.shard, plan.rules, Instant::now()),
        peers: plan.links.peers,
        listening: plan.links.ear.listen(),
        own_bell: plan.links.own_bell,
        commands: plan.commands,
        reports: plan.reports,
        connections_max: plan.connections_max,
        log: plan.log.map(start_log),
        admin: plan.admin,
    }));
    let is_writing = plan.writer.is_some();
    let writing = (plan.writer, plan.newcomers);
    let writer = start_writer((index, plan.processor), plan.directory, writing, bell);
    // After the start of the threads that are not to inherit it.
    tell_refusal(index, "short time slices", schedule::ask_for_short_slices());
    let exchanging = exchange::start(&core, &writer);
    let sending = links::start_sending(&core);
    let flushing = is_writing.then(|| flush::start(&core, &writer, plan.flush_interval));
    let keeping = core.log.is_some().then(|| commit::start(&core));
    core.changed.until(|| core.stage.get() != Stage::Recovering).await;

    let reporting = plan.report.map(|options| report::start(&core, options));
    let datagrams =
        plan.datagrams.map(|socket| Rc::new(RefCell::new(Stream::adopt_datagrams(socket))));
    let receiving = datagrams.as_ref().map(|socket| receive_udp::start(&core, Rc::clone(socket)));
    let acceptors: Vec<Rc<Acceptor>> =
        plan.listeners.into_iter().map(|parts| Rc::new(Acceptor::new(parts))).collect();
    let accepting: Vec<Task<()>> =
        acceptors.iter().map(|acceptor| listen::start(&core, acceptor)).collect();
    let watching = stall::start(&core);
    core.report(CoreEvent::Ready);

    core.changed.until(|| core.stage.get() != Stage::Running).await;
    for task in accepting.into_iter().chain(reporting).chain(receiving).chain([watching]) {
        task.cancel().await;
    }
    for acceptor in acceptors {
        listen::take_rest(&core, &acceptor);
    }
    if let Some(socket) = &datagrams {
        receive_udp::take_rest(&core, &socket.borrow());
    }
    end_connections(&core).await;
    core.outgoing.notify();
    core.changed.until(|| core.shard.borrow_mut().outbox().is_settled()).await;
    core.report(CoreEvent::Quiet);

    core.changed.until(|| core.stage.get() >= Stage::Draining).await;
    match flushing {
        Some(task) => task.await,
        None => {
            let left = core.with_shard(Shard::give_up);
            core.report(CoreEvent::Drained(left, Box::new(core.stats().0)));
        }
    }
    if core.stage.get() == Stage::Sealing {
        seal(&core, &writer).await;
    }
    for task in keeping.into_iter().flatten() {
        task.cancel().await;
    }
    sending.cancel().await;
    exchanging.cancel().await;
    commit::end(&core);
}

/// Leaves everything to the log, for the next start: what is not in its file, and what is.
async fn seal(core: &Rc<Core>, writer: &Rc<Writer>) {
    commit::settle(core).await;
    // A write cut short would harm nothing; but what is written need not be written again.
    let deadline = Instant::now() + LAST_WRITE_TIME;
    while !writer.is_idle() && Instant::now() < deadline {
        sleep(LAST_WRITE_TIME / 100).await;
    }
    commit::settle(core).await;
    commit::sync_files(core, LAST_SYNC_TIME).await;
    core.with_shard(Shard::give_up);
    core.report(CoreEvent::Sealed(Box::new(core.stats().0)));
}

/// Reads on as long as there is always more: what a sender has sent before the stop may still lie
/// on its side, where nobody sees it.
async fn read_on(core: &Rc<Core>) {
    let received = || core.shard.borrow().counters.received.iter().sum::<u64>();
    let until = Instant::now() + READ_ON_TIME;
    let mut before = received();
    while core.connection_count() > 0 && Instant::now() < until {
        sleep(READ_ON_PAUSE).await;
        let now = received();
        if now == before {
            break;
        }
        before = now;
    }
}

/// Lets connections read what has arrived and waits for their end.
async fn end_connections(core: &Rc<Core>) {
    read_on(core).await;
    core.end_connections();
    let deadline = Rc::new(std::cell::Cell::new(false));
    let timer = {
        let (core, deadline) = (Rc::clone(core), Rc::clone(&deadline));
        crate::sys::executor::spawn(async move {
            sleep(LAST_READ_TIME).await;
            deadline.set(true);
            core.changed.notify();
        })
    };
    core.changed.until(|| core.connection_count() == 0 || deadline.get()).await;
    timer.cancel().await;
    core.stage.set(Stage::Closed);
    core.room.notify();
    if core.connection_count() > 0 {
        log::warn!("connections still open at the stop count={}", core.connection_count());
    }
}

/// Says once for all cores that the kernel's scheduler does not take a wish: then answers take
/// longer, and nothing else is different.
fn tell_refusal(core: usize, wish: &str, granted: io::Result<()>) {
    if let Err(error) = granted
        && core == 0
    {
        log::info!("the kernel's scheduler refuses wish=\"{wish}\" error={error}");
    }
}

/// Starts the core's writer thread, or a stand-in that is never given anything.
fn start_writer(
    (number, processor): (usize, usize),
    directory: PathBuf,
    (options, newcomers): (Option<WriterOptions>, Option<Newcomers>),
    bell: Doorbell,
) -> Rc<Writer> {
    let (to, from_core) = RingBuffer::new(FLUSH_BATCHES);
    let (to_core, from) = RingBuffer::new(FLUSH_BATCHES);
    let options = options.unwrap_or(WriterOptions {
        layout: crate::sys::new_file::Layout::Reserved,
        flock: false,
        follow_symlinks: false,
    });
    let thread = std::thread::Builder::new()
        .name(format!("writer-{processor}"))
        .spawn(move || {
            if let Err(error) = pin_thread(processor) {
                log::warn!("pin writer to processor failed processor={processor} error={error}");
            }
            tell_refusal(number, "writer gives way", schedule::give_way());
            let done = writer::run(&directory, options, newcomers, from_core, to_core, &bell);
            if let Err(error) = done {
                crate::fatal::die(crate::fatal::Fatal::Writer, &error.to_string());
            }
        })
        .unwrap_or_else(|error| crate::fatal::die(crate::fatal::Fatal::Writer, &error.to_string()));
    Rc::new(Writer::new(to, from, thread.thread().clone()))
}
