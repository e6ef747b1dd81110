//! One pinned executor per core, and the few runtime calls that tasks need.

use std::cell::OnceCell;
use std::future::Future;
use std::time::Duration;

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

/// A running core; joining returns when its main future has ended.
pub type CoreHandle = glommio::ExecutorJoinHandle<()>;

/// A task of this core. Dropping it cancels it; see [`detach`].
pub type Task<T> = glommio::Task<T>;

/// Memory that glommio registers with the kernel for its own file I/O, which we do not use; its
/// default would pin 30 MB per core.
const RUNTIME_IO_BYTES: usize = 64 << 10;

/// How long a busy core runs its tasks before it looks at its sockets and timers again. glommio's
/// 100 ms would be the least answering time of a core that never sleeps, and twice that where
/// another core is asked; a look costs some 3 us.
const TURN: Duration = Duration::from_millis(1);

thread_local! {
    static BULK: OnceCell<TaskQueueHandle> = const { OnceCell::new() };
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
        .preempt_timer(TURN)
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

/// Lets other tasks of this core run if this one has used up its turn.
pub async fn yield_if_needed() {
    glommio::yield_if_needed().await;
}

/// Lets every other task of this core that is ready run once.
pub async fn yield_now() {
    glommio::executor().yield_task_queue_now().await;
}

/// Waits at least this long. Idle cores should not use less than 10 ms: a wake-up costs 28 us.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}
