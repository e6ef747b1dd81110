//! A core's end of its WAL writer and of the checkpoint thread; `commit` works with it.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::sync::mpsc::Sender;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rtrb::{Consumer, Producer, RingBuffer};

use crate::disk::checkpoint::Request;
use crate::disk::recovery::ReplayFeed;
use crate::disk::wal_writer::{self, WalRequest, WalResponse, WalWriterOptions};
use crate::fatal::{Fatal, die};
use crate::sys::cpu::pin_thread;
use crate::sys::doorbell::Doorbell;

/// Commit and retirement; one of each is under way at most.
const REQUESTS_MAX: usize = 2;

/// What a core needs to keep its log.
pub struct WalPlan {
    /// The log directory.
    pub directory: PathBuf,
    /// How the log is written.
    pub writer: WalWriterOptions,
    /// Longest time from the arrival of a point to the end of its commit, on a disk that keeps up.
    pub interval: Duration,
    /// Least time between two checkpoints.
    pub checkpoint_interval: Duration,
    /// Where to ask for a checkpoint, with the number of this core.
    pub checkpoints: Sender<Request>,
    /// Where its answers come.
    pub checkpointed: Consumer<bool>,
    /// Points of earlier runs come here.
    pub inheritance: Option<ReplayFeed>,
}

/// This core's end of its WAL writer and of the checkpoint thread.
pub struct WalHandle {
    pub(super) index: usize,
    pub(super) to: RefCell<Option<Producer<WalRequest>>>,
    pub(super) from: RefCell<Consumer<WalResponse>>,
    pub(super) thread: RefCell<Option<JoinHandle<()>>>,
    /// Time until a commit is begun: a fifth of the interval is left for the write itself.
    pub(super) pause: Duration,
    pub(super) checkpoint_interval: Duration,
    pub(super) checkpoints: Sender<Request>,
    pub(super) checkpointed: RefCell<Consumer<bool>>,
    pub(super) feed: RefCell<Option<ReplayFeed>>,
    /// A commit was due while another one was under way.
    pub(super) is_due: Cell<bool>,
    pub(super) is_checkpointing: Cell<bool>,
    /// The log does not say durably yet that a checkpoint begins.
    pub(super) is_checkpoint_due: Cell<bool>,
    /// When the last checkpoint began.
    pub(super) checkpoint_begun: Cell<Instant>,
    pub(super) retire_not_before: Cell<Instant>,
    /// The main thread does not know yet that nothing inherited is left.
    pub(super) has_to_tell: Cell<bool>,
}

impl WalHandle {
    /// Starts the core's WAL writer.
    pub fn start(index: usize, processor: usize, plan: WalPlan, bell: Doorbell) -> WalHandle {
        let (to, from_core) = RingBuffer::new(REQUESTS_MAX);
        let (to_core, from) = RingBuffer::new(REQUESTS_MAX);
        let WalPlan { directory, writer, .. } = plan;
        let thread = std::thread::Builder::new()
            .name(format!("log-writer-{index}"))
            .spawn(move || {
                if let Err(error) = pin_thread(processor) {
                    log::warn!("pin WAL writer failed processor={processor} error={error}");
                }
                if let Err(error) = wal_writer::run(&directory, writer, from_core, to_core, &bell) {
                    die(Fatal::Writer, &format!("WAL writer: {error}"));
                }
            })
            .unwrap_or_else(|error| die(Fatal::Writer, &error.to_string()));
        let now = Instant::now();
        WalHandle {
            index,
            to: RefCell::new(Some(to)),
            from: RefCell::new(from),
            thread: RefCell::new(Some(thread)),
            pause: plan.interval * 4 / 5,
            checkpoint_interval: plan.checkpoint_interval,
            checkpoints: plan.checkpoints,
            checkpointed: RefCell::new(plan.checkpointed),
            has_to_tell: Cell::new(plan.inheritance.is_some()),
            feed: RefCell::new(plan.inheritance),
            is_due: Cell::new(false),
            is_checkpointing: Cell::new(false),
            is_checkpoint_due: Cell::new(false),
            checkpoint_begun: Cell::new(now),
            retire_not_before: Cell::new(now),
        }
    }

    /// Asks the WAL writer.
    pub(super) fn send(&self, request: WalRequest) {
        let mut to = self.to.borrow_mut();
        let to = to.as_mut().expect("requests are sent while the core runs");
        to.push(request).expect("as many places as requests");
        if let Some(thread) = &*self.thread.borrow() {
            thread.thread().unpark();
        }
    }
}
