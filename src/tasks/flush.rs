//! Keeping the writer busy: sweeps over the cache, in batches of files.
//!
//! A sweep begins when the last one has ended and the interval has passed, or at once when the
//! cache is full or the node drains. At most [`FLUSH_BATCHES`] batches are with the writer; their
//! buffers go round, so a sweep over known files allocates nothing.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use log::Level;
use rtrb::{Consumer, Producer};

use crate::disk::log_limit::LogLimit;
use crate::disk::writer::{WriteBatch, WriteMode};
use crate::limits::{FLUSH_BATCH, FLUSH_BATCH_POINTS, FLUSH_BATCHES};
use crate::shard::Shard;
use crate::shard::flush::{FlushJob, FlushNews, NextJob};
use crate::shard::query::ShardResponse;
use crate::sys::executor::{Task, sleep, spawn, yield_now};
use crate::tasks::core::{Core, CoreEvent, Stage};
use crate::tasks::{commit, links};

/// Longest sleep for the limit on updates, so that a drain is noticed.
const THROTTLE_SLEEP_MAX: Duration = Duration::from_millis(100);

/// Sweeps without any success before a drain gives up on what is left.
const DRAIN_ATTEMPTS: u32 = 3;

/// Points copied out of the cache before the core gets its turn back: some 100 us.
const SLICE_POINTS: usize = 4_096;

/// A job's buffer for points is kept up to this capacity: 8 KiB, over all jobs 4 MiB a core.
const JOB_POINTS_KEPT: usize = 512;

/// This core's end of its writer thread.
pub struct Writer {
    to: RefCell<Producer<WriteBatch>>,
    from: RefCell<Consumer<WriteBatch>>,
    thread: std::thread::Thread,
    idle: RefCell<Vec<WriteBatch>>,
    log: RefCell<LogLimit>,
    sent_jobs: Cell<u64>,
}

impl Writer {
    /// Connects to a writer thread. Both rings have [`FLUSH_BATCHES`] places.
    pub fn new(
        to: Producer<WriteBatch>,
        from: Consumer<WriteBatch>,
        thread: std::thread::Thread,
    ) -> Writer {
        let idle = (0..FLUSH_BATCHES).map(|_| WriteBatch::empty()).collect();
        Writer {
            to: RefCell::new(to),
            from: RefCell::new(from),
            thread,
            idle: RefCell::new(idle),
            log: RefCell::new(LogLimit::default()),
            sent_jobs: Cell::new(0),
        }
    }

    /// Whether no batch is with the writer.
    pub fn is_idle(&self) -> bool {
        self.idle.borrow().len() == FLUSH_BATCHES
    }

    /// Whether a finished batch waits to be collected.
    pub fn has_finished(&self) -> bool {
        !self.from.borrow().is_empty()
    }

    /// Takes what the writer has finished; says whether there was anything. Called by the
    /// exchange task, which the writer's doorbell wakes.
    pub fn collect(&self, core: &Core) -> bool {
        let mut found = false;
        while let Ok(mut batch) = self.from.borrow_mut().pop() {
            found = true;
            self.finish(core, &mut batch);
            self.idle.borrow_mut().push(batch);
        }
        self.send_metadata_requests(core);
        if found && core.stage.get() == Stage::Draining {
            let shard = core.shard.borrow();
            core.report(CoreEvent::Draining(shard.id(), shard.unwritten_count()));
        }
        if found {
            // The log says what is written, and updates may wait for a checkpoint.
            commit::schedule_commit(core);
            core.flushable.notify();
        }
        found
    }

    /// Hands waiting requests to the writer, if a batch is idle.
    fn send_metadata_requests(&self, core: &Core) {
        if core.metadata_requests.borrow().is_empty() {
            return;
        }
        let Some(mut batch) = self.idle.borrow_mut().pop() else { return };
        batch.requests.extend(core.metadata_requests.borrow_mut().drain(..));
        self.send(batch);
    }

    fn send(&self, batch: WriteBatch) {
        self.sent_jobs.set(self.sent_jobs.get() + batch.used as u64);
        self.to.borrow_mut().push(batch).expect("as many places as batches");
        self.thread.unpark();
    }

    fn tell(&self, news: FlushNews, now: Instant) {
        let (cause, text) = match news {
            FlushNews::SetAside(text) => ("set aside".to_owned(), text),
            FlushNews::Failing { cause, text } => (cause, text),
        };
        self.log.borrow_mut().tell(Level::Warn, cause, &text, now);
    }

    fn finish(&self, core: &Core, batch: &mut WriteBatch) {
        let now = Instant::now();
        core.with_shard(|shard| {
            shard.counters.update_micros += batch.micros;
            shard.counters.cold_batches += u64::from(batch.mode == WriteMode::Ring);
            for job in &mut batch.jobs[..batch.used] {
                if let Some(news) = shard.complete(job, now) {
                    self.tell(news, now);
                }
                if job.points.capacity() > JOB_POINTS_KEPT {
                    job.points = Vec::new();
                }
            }
        });
        batch.used = 0;
        for request in batch.requests.drain(..) {
            let result = request.result.expect("an request comes back with a result");
            if request.change.is_some() {
                core.shard.borrow_mut().header_changed(&request.name);
            }
            links::reply(core, request.asker, ShardResponse::Metadata(request.request_id, result));
        }
    }
}

/// Starts writing: sweeps begin at most once in `interval`.
pub fn start(core: &Rc<Core>, writer: &Rc<Writer>, interval: Duration) -> Task<()> {
    let is_due = Rc::new(Cell::new(false));
    start_ticking(core, &is_due, interval);
    let (core, writer) = (Rc::clone(core), Rc::clone(writer));
    spawn(async move {
        let mut sent_last = true;
        while core.stage.get() < Stage::Draining {
            let can_go_on = |core: &Core| {
                let mut shard = core.shard.borrow_mut();
                let has_work = shard.must_flush() || shard.must_decide();
                sent_last && (has_work || shard.can_create(Instant::now()))
            };
            core.flushable
                .until(|| is_due.get() || core.stage.get() >= Stage::Draining || can_go_on(&core))
                .await;
            is_due.set(false);
            sent_last = sweep(&core, &writer).await > 0;
        }
        if core.stage.get() == Stage::Draining {
            drain(&core, &writer).await;
        }
    })
}

/// Says every interval that a sweep is due.
fn start_ticking(core: &Rc<Core>, is_due: &Rc<Cell<bool>>, interval: Duration) {
    let (core, is_due) = (Rc::clone(core), Rc::clone(is_due));
    let ticking = async move {
        loop {
            sleep(interval).await;
            is_due.set(true);
            core.flushable.notify();
        }
    };
    spawn(ticking).detach();
}

/// Writes every metric that waits, once, unless the log keeps it for the next run. Returns how many
/// files were handed to the writer.
async fn sweep(core: &Core, writer: &Writer) -> u64 {
    let before = writer.sent_jobs.get();
    core.with_shard(Shard::begin_sweep);
    if let Some(text) = core.with_shard(|shard| shard.take_new_names_news(Instant::now())) {
        log::warn!("{text}");
    }
    loop {
        let is_sealing = || core.stage.get() == Stage::Sealing;
        core.flushable.until(|| is_sealing() || !writer.idle.borrow().is_empty()).await;
        if is_sealing() {
            return 0;
        }
        let mut batch = writer.idle.borrow_mut().pop().expect("waited until one was idle");
        core.with_shard(Shard::forget_idle);
        core.memory_freed();
        let next = fill(core, &mut batch).await;
        if batch.used > 0 {
            writer.send(batch);
        } else {
            writer.idle.borrow_mut().push(batch);
        }
        match next {
            NextJob::SweepOver => return writer.sent_jobs.get() - before,
            NextJob::Wait(time) => sleep(time.min(THROTTLE_SLEEP_MAX)).await,
            NextJob::Ready | NextJob::Busy => yield_now().await,
        }
    }
}

/// Fills a batch, in slices with a turn for other tasks between them; says why it stopped.
async fn fill(core: &Core, batch: &mut WriteBatch) -> NextJob {
    let mut points = 0;
    loop {
        let next = core.with_shard(|shard| fill_slice(shard, batch, &mut points));
        match next {
            NextJob::Busy => yield_now().await,
            NextJob::Ready | NextJob::Wait(_) | NextJob::SweepOver => return next,
        }
    }
}

/// Fills a batch until it is full, or holds so many points more that others must have a turn.
fn fill_slice(shard: &mut Shard, batch: &mut WriteBatch, points: &mut usize) -> NextJob {
    let now = Instant::now();
    let slice_end = *points + SLICE_POINTS;
    while batch.used < FLUSH_BATCH && *points < FLUSH_BATCH_POINTS {
        if *points >= slice_end {
            return NextJob::Busy;
        }
        if batch.jobs.len() == batch.used {
            batch.jobs.push(FlushJob::empty());
        }
        let job = &mut batch.jobs[batch.used];
        match shard.next_flush(now, job) {
            NextJob::Ready => {
                *points += job.points.len();
                batch.used += 1;
            }
            next => return next,
        }
    }
    NextJob::Ready
}

/// Writes everything out, whatever the limits, and reports how much could not be written.
async fn drain(core: &Core, writer: &Writer) {
    let mut fruitless = 0;
    while fruitless < DRAIN_ATTEMPTS {
        core.with_shard(|shard| shard.hurry());
        let before = core.shard.borrow().unwritten_count();
        sweep(core, writer).await;
        core.flushable.until(|| writer.is_idle()).await;
        let left = core.shard.borrow().unwritten_count();
        if left == 0 {
            break;
        }
        if left == before {
            let waits = core.shard.borrow().waits_for_checkpoint();
            fruitless += u32::from(!waits);
            core.loggable.notify();
            sleep(Duration::from_millis(300)).await;
        }
    }
    let left = core.with_shard(Shard::give_up);
    core.report(CoreEvent::Drained(left, Box::new(core.stats().0)));
}
