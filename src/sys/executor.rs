//! One pinned executor per core, and the few runtime calls that tasks need.

use std::future::Future;
use std::time::Duration;

use glommio::{LocalExecutorBuilder, Placement};

/// A running core; joining returns when its main future has ended.
pub type CoreHandle = glommio::ExecutorJoinHandle<()>;

/// A task of this core. Dropping it cancels it; see [`detach`].
pub type Task<T> = glommio::Task<T>;

/// Memory that glommio registers with the kernel for its own file I/O, which we do not use; its
/// default would pin 30 MB per core.
const RUNTIME_IO_BYTES: usize = 64 << 10;

/// Starts a core's executor on its own thread, pinned to `core`.
pub fn start_core<F, Fut>(name: &str, core: usize, main: F) -> Result<CoreHandle, String>
where
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    LocalExecutorBuilder::new(Placement::Fixed(core))
        .name(name)
        .io_memory(RUNTIME_IO_BYTES)
        .spawn(main)
        .map_err(|error| error.to_string())
}

/// Starts a task on the calling core.
pub fn spawn<T: 'static>(future: impl Future<Output = T> + 'static) -> Task<T> {
    glommio::spawn_local(future)
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
