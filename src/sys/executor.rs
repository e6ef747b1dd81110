//! One pinned executor per core, and the few runtime calls that tasks need.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use glommio::{Latency, LocalExecutorBuilder, Placement, Shares, TaskQueueHandle};

/// A running core; joining returns when its main future has ended.
pub type CoreHandle = glommio::ExecutorJoinHandle<()>;

/// A task of this core. Dropping it cancels it; after `detach` it runs to its end.
pub type Task<T> = glommio::Task<T>;

/// Memory that glommio registers with the kernel for its own file I/O, which we do not use; its
/// default would pin 30 MB per core.
const RUNTIME_IO_BYTES: usize = 64 << 10;

/// How long a busy core runs its tasks before it polls its sockets and timers again. A query waits
/// for the end of a turn, of three turns if another core has the answer; a poll costs some 5 us.
const TURN: Duration = Duration::from_micros(250);

/// glommio ends a turn by a timer; this one never fires. If the kernel preempts the core between
/// setting the timer and running the first task, for longer than the timer, glommio 0.9.0 sleeps
/// with ready tasks: `run_task_queues` returns that nothing ran, and its caller concludes that
/// nothing is ready. On an overloaded machine, a timer of a millisecond stops a core permanently
/// within seconds.
const NEVER: Duration = Duration::from_secs(366 * 86_400);

/// A sleep of this length lets all ready tasks run and makes the core poll its sockets; it ends
/// before the core can go to sleep.
const LOOK: Duration = Duration::from_micros(1);

thread_local! {
    static BULK: OnceCell<TaskQueueHandle> = const { OnceCell::new() };
    /// When the turn began that the core is in, as far as its tasks have asked.
    static BEGAN: Cell<Option<Instant>> = const { Cell::new(None) };
    static TAKERS: Takers = const { Takers::new() };
}

/// Tasks that have something to take and wait for their turn, first come, first served. Only the
/// first looks whether the turn is over, so a turn costs no more when thousands wait.
struct Takers {
    /// Number of the one who may go.
    first: Cell<u64>,
    /// Number of the next to come.
    next: Cell<u64>,
    /// Those behind the first.
    waiting: RefCell<VecDeque<Waker>>,
}

impl Takers {
    const fn new() -> Takers {
        Takers { first: Cell::new(0), next: Cell::new(0), waiting: RefCell::new(VecDeque::new()) }
    }

    fn come(&self) -> u64 {
        self.next.replace(self.next.get() + 1)
    }

    fn is_empty(&self) -> bool {
        self.first.get() == self.next.get()
    }

    fn poll_first(&self, number: u64, waker: &Waker, is_new: &mut bool) -> Poll<()> {
        if self.first.get() == number {
            return Poll::Ready(());
        }
        if std::mem::take(is_new) {
            self.waiting.borrow_mut().push_back(waker.clone());
        }
        Poll::Pending
    }

    fn go(&self) {
        self.first.set(self.first.get() + 1);
        if let Some(waker) = self.waiting.borrow_mut().pop_front() {
            waker.wake();
        }
    }
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

/// Whether a task may take work now: the core's turn is not over, and no task has waited longer.
/// Otherwise the task must [`wait_for_turn`].
pub fn may_take() -> bool {
    TAKERS.with(Takers::is_empty) && !is_turn_over()
}

/// Waits for the turn of this task to take work, which must follow at once. Must not be cancelled:
/// other tasks wait behind it.
pub async fn wait_for_turn() {
    let number = TAKERS.with(Takers::come);
    let mut is_new = true;
    poll_fn(|cx| TAKERS.with(|takers| takers.poll_first(number, cx.waker(), &mut is_new))).await;
    while is_turn_over() {
        glommio::timer::sleep(LOOK).await;
    }
    TAKERS.with(Takers::go);
}

/// Waits for the core's turn unless the task [`may_take`] something now. What it does then takes
/// some 100 us; however many tasks do so, the core looks at its sockets in between.
pub async fn take_turn() {
    if !may_take() {
        wait_for_turn().await;
    }
}

/// Whether the core has run its tasks long enough and should look at its sockets.
fn is_turn_over() -> bool {
    // The executor adds to the time it has run whenever it looks, and asking sets that to zero.
    let has_looked = glommio::executor().executor_stats().total_runtime() > Duration::ZERO;
    let now = Instant::now();
    match BEGAN.get() {
        Some(began) if !has_looked => now.duration_since(began) >= TURN,
        _ => {
            BEGAN.set(Some(now));
            false
        }
    }
}

/// Lets other tasks of this core run if the core's turn is over.
pub async fn yield_if_needed() {
    if is_turn_over() {
        glommio::timer::sleep(LOOK).await;
    }
}

/// Lets every other task of this core that is ready run once.
pub async fn yield_now() {
    if is_turn_over() {
        glommio::timer::sleep(LOOK).await;
    } else {
        glommio::executor().yield_task_queue_now().await;
    }
}

/// Waits at least this long. Idle cores should not use less than 10 ms: a wake-up costs 28 us.
pub async fn sleep(duration: Duration) {
    glommio::timer::sleep(duration).await;
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use super::*;
    use crate::sys::cpu::usable_cores;

    /// Work of one piece: more than a third of a turn.
    const PIECE: Duration = Duration::from_micros(100);

    fn on_a_core(test: impl AsyncFnOnce() + Send + 'static) {
        let core = usable_cores()[0];
        start_core("test", core, move || async move { test().await })
            .expect("a core can be started")
            .join()
            .expect("the test holds");
    }

    fn work(time: Duration) {
        let began = Instant::now();
        while began.elapsed() < time {}
    }

    #[test]
    fn a_turn_is_over_when_the_core_has_worked_so_long_and_not_when_it_has_slept() {
        on_a_core(async || {
            assert!(!is_turn_over(), "it begins when it is asked after");
            sleep(TURN * 4).await;
            assert!(!is_turn_over(), "the core has slept, so it has looked");
            work(TURN);
            assert!(is_turn_over());
            assert!(is_turn_over(), "asking is not looking");
            // A sleep that is over before it has begun is none, and then there is another one.
            let mut looks = 0;
            while is_turn_over() {
                yield_if_needed().await;
                looks += 1;
                assert!(looks < 100, "the core looks and is not believed");
            }
            assert!(looks > 0);
        });
    }

    #[test]
    fn however_many_tasks_have_work_the_core_looks_and_each_gets_its_turn() {
        on_a_core(async || {
            let pieces = Rc::new(RefCell::new([0; 50]));
            let start = |task: usize| {
                let pieces = Rc::clone(&pieces);
                spawn_bulk(async move {
                    for _ in 0..4 {
                        if !may_take() {
                            wait_for_turn().await;
                        }
                        work(PIECE);
                        pieces.borrow_mut()[task] += 1;
                        yield_now().await;
                    }
                })
            };
            let tasks: Vec<Task<()>> = (0..50).map(start).collect();
            let (mut before, mut most, mut ahead) = (0, 0, 0);
            while before < 200 {
                // Over at the first look from now on.
                glommio::timer::sleep(LOOK).await;
                let done: i32 = pieces.borrow().iter().sum();
                most = most.max(done - before);
                before = done;
                let all = pieces.borrow();
                ahead = ahead.max(all.iter().max().unwrap_or(&0) - all.iter().min().unwrap_or(&0));
            }
            // This task may come first in one turn and last in the next. Three begin in a turn.
            assert!(most <= 6, "{most} pieces of work between two looks");
            assert!(ahead <= 2, "one task is {ahead} pieces ahead of another");
            for task in tasks {
                task.await;
            }
        });
    }
}
