//! What the tasks of one core share.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::RawFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use rtrb::Consumer;

use crate::disk::metadata::MetadataRequest;
use crate::limits::READ_BYTES;
use crate::metric::owner::ShardId;
use crate::schema::Rules;
use crate::shard::Shard;
use crate::shard::query::{RequestId, ShardRequest, ShardResponse};
use crate::stats::{Counters, Gauges};
use crate::sys::clock;
use crate::sys::doorbell::{Doorbell, Listening};
use crate::sys::executor::{may_take, wait_for_turn};
use crate::sys::mesh::Peer;
use crate::sys::socket::{self, Stream, end_reading};
use crate::tasks::admin_line::AdminEnd;
use crate::tasks::event::{Event, Turns};
use crate::tasks::wal_handle::WalHandle;
use crate::wire::pickle::PickleDecoder;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// Plaintext lines.
    Lines,
    /// Pickled batches.
    Pickles,
    /// Queries of the cache.
    Carbonlink,
}

/// How connections of one kind are treated.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionOptions {
    /// Connections open at a time on one core; more wait in the kernel's queue.
    pub connections_max: usize,
    /// An idle connection is closed after this time; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// A message must be complete this long after its first byte.
    pub message_timeout: Duration,
    /// Longest message in bytes.
    pub message_bytes_max: usize,
}

/// What the main thread asks of a core.
#[derive(Debug)]
pub enum CoreCommand {
    /// Use these rules for new files from now on.
    Rules(Arc<Rules>),
    /// All points of earlier runs have come, except this number of lost ones, which this core
    /// counts; report [`CoreEvent::Recovered`].
    InheritanceRead(u64),
    /// Take points and requests; report [`CoreEvent::Ready`].
    Serve,
    /// The files of earlier runs are gone.
    InheritanceGone,
    /// Stop receiving; report [`CoreEvent::Quiet`] when every received point is with its owner.
    StopReceiving,
    /// Write everything out; report [`CoreEvent::Drained`].
    Drain,
    /// Commit everything to the log; report [`CoreEvent::Sealed`].
    Seal,
}

/// What a core tells the main thread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CoreEvent {
    /// The core has all points of earlier runs.
    Recovered,
    /// The core receives.
    Ready,
    /// This core no longer needs the files of earlier runs.
    InheritanceReleased,
    /// The core has stopped receiving, and what it received is with its owners.
    Quiet,
    /// This number of points of this shard still has to be written, or committed to the log.
    Draining(ShardId, u64),
    /// Everything is written except this number of points; all that the core has counted.
    Drained(u64, Box<Counters>),
    /// Everything received is in the log or in its file; all that the core has counted.
    Sealed(Box<Counters>),
    /// Not from a core: the process got this signal.
    Signal(i32),
}

/// The stages of a core's life, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd)]
pub enum Stage {
    /// Taking points of earlier runs.
    Recovering,
    /// Receiving.
    Running,
    /// Taking no new connections; the open ones are read until the kernel holds nothing.
    Stopping,
    /// Taking nothing from receivers.
    Closed,
    /// Writing everything out.
    Draining,
    /// Committing everything to the log.
    Sealing,
}

/// The state that all tasks of a core share. Borrowed for one call at a time, never over an await.
pub struct Core {
    /// The shard.
    pub shard: RefCell<Shard>,
    /// Links to the other cores, by their number.
    pub peers: RefCell<Vec<Option<Peer<ShardRequest, ShardResponse>>>>,
    /// What wakes this core.
    pub listening: Listening,
    /// This core's own doorbell.
    pub own_bell: Doorbell,
    /// Commands of the main thread.
    pub commands: RefCell<Consumer<CoreCommand>>,
    /// Where events for the main thread go.
    pub reports: Sender<CoreEvent>,
    /// Where all connections read into.
    pub read_buffer: RefCell<Vec<u8>>,
    /// Decodes messages that fit into the read buffer.
    pub decoder: RefCell<PickleDecoder>,
    /// Whether a message larger than the read buffer is being taken.
    pub is_decoding: Cell<bool>,
    /// The cache or a link may have room again.
    pub room: Event,
    /// A receiver has begun to wait for room, or has found some.
    pub stalled: Event,
    /// Since when no receiver has found room.
    pub waiting_since: Cell<Option<Instant>>,
    /// There are points for other cores.
    pub outgoing: Event,
    /// A response has come, or a request may be sent.
    pub answered: Event,
    /// Large carbonlink requests are received one at a time, up to their answer.
    pub large_requests: Turns,
    /// The answers of bulk requests are gathered one at a time.
    pub bulk_questions: Turns,
    /// Memory of answers has come back, or the stage has changed.
    pub answer_room: Event,
    /// Answers that wait for memory.
    pub answers_waiting: Cell<usize>,
    /// A connection has ended, or the stage has changed.
    pub changed: Event,
    /// A batch has come back from the writer, or there is a reason to flush now.
    pub flushable: Event,
    /// The log has something to commit or to maintain.
    pub loggable: Event,
    /// This core's end of its log, if there is one.
    pub log: Option<WalHandle>,
    /// Where the admin thread asks this core.
    pub admin: AdminEnd,
    /// Requests for the writer to do beside its batches.
    pub metadata_requests: RefCell<VecDeque<MetadataRequest>>,
    /// The stage of this core's life.
    pub stage: Cell<Stage>,
    /// The UDP socket's descriptor, for its drop counter.
    pub datagrams: Cell<Option<RawFd>>,
    connections_max: usize,
    next_request_id: Cell<u64>,
    responses: RefCell<HashMap<RequestId, Option<ShardResponse>>>,
    open: RefCell<HashMap<u64, RawFd>>,
    connections: [Cell<u64>; 3],
}

/// The parts a core is made of.
pub struct CoreParts {
    /// The shard.
    pub shard: Shard,
    /// Links to the other cores.
    pub peers: Vec<Option<Peer<ShardRequest, ShardResponse>>>,
    /// What wakes this core.
    pub listening: Listening,
    /// This core's own doorbell.
    pub own_bell: Doorbell,
    /// Commands of the main thread.
    pub commands: Consumer<CoreCommand>,
    /// Where events for the main thread go.
    pub reports: Sender<CoreEvent>,
    /// Connections of all kinds that may be open.
    pub connections_max: usize,
    /// This core's end of its log.
    pub log: Option<WalHandle>,
    /// Where the admin thread asks this core.
    pub admin: AdminEnd,
}

impl Core {
    /// Assembles a core.
    pub fn new(parts: CoreParts) -> Core {
        Core {
            shard: RefCell::new(parts.shard),
            peers: RefCell::new(parts.peers),
            listening: parts.listening,
            own_bell: parts.own_bell,
            commands: RefCell::new(parts.commands),
            reports: parts.reports,
            read_buffer: RefCell::new(vec![0; READ_BYTES]),
            decoder: RefCell::new(PickleDecoder::new()),
            is_decoding: Cell::new(false),
            room: Event::default(),
            stalled: Event::default(),
            waiting_since: Cell::new(None),
            outgoing: Event::default(),
            answered: Event::default(),
            large_requests: Turns::default(),
            bulk_questions: Turns::default(),
            answer_room: Event::default(),
            answers_waiting: Cell::new(0),
            changed: Event::default(),
            flushable: Event::default(),
            loggable: Event::default(),
            log: parts.log,
            admin: parts.admin,
            metadata_requests: RefCell::new(VecDeque::new()),
            stage: Cell::new(Stage::Recovering),
            datagrams: Cell::new(None),
            connections_max: parts.connections_max,
            next_request_id: Cell::new(0),
            responses: RefCell::new(HashMap::new()),
            open: RefCell::new(HashMap::new()),
            connections: Default::default(),
        }
    }

    /// Waits until the shard and the links take more points. Returns how long it waited.
    pub async fn wait_for_room(&self) -> Duration {
        if !self.shard.borrow_mut().must_wait() {
            return Duration::ZERO;
        }
        let since = Instant::now();
        self.shard.borrow_mut().counters.stalls += 1;
        self.waiting_since.set(self.waiting_since.get().or(Some(since)));
        self.stalled.notify();
        self.flushable.notify();
        self.room.until(|| self.is_closed() || !self.shard.borrow_mut().must_wait()).await;
        self.waiting_since.set(None);
        self.stalled.notify();
        since.elapsed()
    }

    /// Reads what a connection brings, when there is room and the core's turn is not over. Waking
    /// all connections at once would overrun the buffers and stall the core.
    pub async fn read(&self, stream: &mut Stream, timeout: Option<Duration>) -> io::Result<usize> {
        let is_its_turn = Cell::new(false);
        loop {
            let has_room = || self.is_closed() || !self.shard.borrow_mut().must_wait();
            let may_read = || has_room() && (is_its_turn.take() || may_take());
            match stream.read_when(&self.read_buffer, timeout, may_read).await {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait_for_room().await;
                    wait_for_turn().await;
                    is_its_turn.set(true);
                }
                result => return result,
            }
        }
    }

    /// Memory may have come free outside of a finished write: receivers that wait look again.
    pub fn memory_freed(&self) {
        if self.shard.borrow().was_full() {
            self.room.notify();
            self.own_bell.ring();
        }
    }

    /// Whether receivers have ended.
    pub fn is_closed(&self) -> bool {
        self.stage.get() >= Stage::Closed
    }

    /// Sets the shard's time and borrows the shard for one call.
    pub fn with_shard<T>(&self, call: impl FnOnce(&mut Shard) -> T) -> T {
        let mut shard = self.shard.borrow_mut();
        shard.set_time(clock::now_s());
        call(&mut shard)
    }

    /// An id for a request; [`Core::response_to`] waits for its response.
    pub fn new_request_id(&self) -> RequestId {
        let request_id = RequestId(self.next_request_id.get());
        self.next_request_id.set(request_id.0 + 1);
        self.responses.borrow_mut().insert(request_id, None);
        request_id
    }

    /// Keeps a response for the task that waits for it.
    pub fn keep_response(&self, answer: ShardResponse) {
        let waited_for =
            self.responses.borrow_mut().insert(answer.request_id(), Some(answer)).is_some();
        assert!(waited_for, "an answer came to a request that was not asked");
        self.answered.notify();
    }

    /// Waits for the response to a request.
    pub async fn response_to(&self, request_id: RequestId) -> ShardResponse {
        let mut answer = None;
        self.answered
            .until(|| {
                answer = self.responses.borrow_mut().get_mut(&request_id).and_then(Option::take);
                answer.is_some()
            })
            .await;
        self.responses.borrow_mut().remove(&request_id);
        self.answered.notify();
        answer.expect("waited until there was one")
    }

    /// Requests that have no response yet.
    pub fn open_requests(&self) -> usize {
        self.responses.borrow().len()
    }

    /// Counts a connection in for as long as the returned guard lives.
    pub fn register(self: &Rc<Self>, stream: &Stream, protocol: Protocol) -> Registration {
        let request_id = self.next_request_id.get();
        self.next_request_id.set(request_id + 1);
        self.open.borrow_mut().insert(request_id, stream.descriptor());
        let count = &self.connections[protocol as usize];
        count.set(count.get() + 1);
        if self.stage.get() != Stage::Running {
            end_reading(stream.descriptor());
        }
        Registration { core: Rc::clone(self), request_id, protocol }
    }

    /// Whether one more connection of this protocol may be accepted.
    pub fn may_accept(&self, protocol: Protocol, options: ConnectionOptions) -> bool {
        let of_kind = self.connections[protocol as usize].get();
        of_kind < options.connections_max as u64 && self.connection_count() < self.connections_max
    }

    /// Counts a connection that ends because its peer was silent for too long.
    pub fn count_if_timeout(&self, error: &io::Error) {
        if error.kind() == io::ErrorKind::TimedOut {
            self.shard.borrow_mut().counters.timeouts += 1;
        }
    }

    /// Open connections of all kinds.
    pub fn connection_count(&self) -> usize {
        self.open.borrow().len()
    }

    /// Lets every connection read what the kernel holds and then see its end.
    pub fn end_connections(&self) {
        for &descriptor in self.open.borrow().values() {
            end_reading(descriptor);
        }
    }

    /// Counters and gauges of this core.
    pub fn stats(&self) -> (Counters, Gauges) {
        let shard = self.shard.borrow();
        let mut gauges = shard.gauges();
        for (gauge, count) in gauges.connections.iter_mut().zip(&self.connections) {
            *gauge = count.get();
        }
        let mut counters = shard.all_counters();
        if let Some(descriptor) = self.datagrams.get() {
            counters.kernel_drops = socket::kernel_drops(descriptor);
        }
        (counters, gauges)
    }

    /// Sends an event to the main thread, which may have ended.
    pub fn report(&self, report: CoreEvent) {
        let _ = self.reports.send(report);
    }
}

/// A connection is counted and can be ended while this lives.
pub struct Registration {
    core: Rc<Core>,
    request_id: u64,
    protocol: Protocol,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.core.open.borrow_mut().remove(&self.request_id);
        let count = &self.core.connections[self.protocol as usize];
        count.set(count.get() - 1);
        self.core.changed.notify();
    }
}
