//! One pinned executor per core, and the few runtime calls that tasks need.

use std::cell::{Cell, OnceCell};
use std::future::Future;
use std::time::{Duration, Instant};

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

/// A running core; joining returns when its main future has ended.
pub type CoreHandle = glommio::ExecutorJoinHandle<()>;

/// A task of this core. Dropping it cancels it; see [`detach`].
pub type Task<T> = glommio::Task<T>;

/// Memory that glommio registers with the kernel for its own file I/O, which we do not use; its
/// default would pin 30 MB per core.
const RUNTIME_IO_BYTES: usize = 64 << 10;

/// How long a busy core runs its tasks before it looks at its sockets and timers again; a look
/// costs some 5 us.
const TURN: Duration = Duration::from_micros(500);

/// glommio's own way of ending a turn is a timer, and it is never to fire. glommio 0.9.0 goes to
/// sleep with tasks ready to run when the kernel takes the processor away between setting that
/// timer and running the first task, for longer than the timer: `run_task_queues` then says that
/// nothing ran, and its caller takes that for nothing to run. On a machine with more to do than
/// processors a timer of a millisecond stops a core for good within seconds.
const NEVER: Duration = Duration::from_secs(366 * 86_400);

/// Sleeping so long lets everything run that is ready, and then has the core look at its sockets:
/// it is over before the core could fall asleep.
const LOOK: Duration = Duration::from_micros(1);

thread_local! {
    static BULK: OnceCell<TaskQueueHandle> = const { OnceCell::new() };
    /// When a task of this core last had the core look.
    static LOOKED: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Starts a core's executor on its own thread, pinned to `core`.
pub fn start_core<F, Fut>(name: &str, core: usize, main: F) -> Result<CoreHandle, String>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(name)
        .io_memory(RUNTIME_IO_BYTES)
        .preempt_timer(NEVER)
        .spawn(main)
        .map_err(|error| error.to_string())
}

/// Starts a task on the calling core.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    glommio::spawn_local(future)
}

/// Starts a task that may always have more to do, such as a receiver: it shares one half of the
/// core's time with its like, and all other tasks have the other half when they need it.
pub fn spawn_bulk<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    let queue = BULK.with(|bulk| {
        *bulk.get_or_init(|| {
            let shares = Shares::default();
            glommio::executor().create_task_queue(shares, Latency::NotImportant, "bulk")
        })
    });
    glommio::spawn_local_into(future, queue).expect("the queue lives as long as the executor")
}

/// Lets other tasks of this core run if the core's turn is over.
pub async fn yield_if_needed() {
    if LOOKED.get().is_none_or(|looked| looked.elapsed() >= TURN) {
        glommio::timer::sleep(LOOK).await;
        LOOKED.set(Some(Instant::now()));
    }
}

/// Lets every other task of this core that is ready run once.
pub async fn yield_now() {
    if LOOKED.get().is_none_or(|looked| looked.elapsed() >= TURN) {
        yield_if_needed().await;
    } else {
        glommio::executor().yield_task_queue_now().await;
    }
}

/// Waits at least this long. Idle cores should not use less than 10 ms: a wake-up costs 28 us.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}
