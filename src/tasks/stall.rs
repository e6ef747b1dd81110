//! Tells the operator when senders have waited for long, and for what.
//!
//! Short waits are normal back-pressure, and are only counted. When all senders wait for seconds, a
//! disk is in trouble or a limit is too small. Then the node's log gets a line, and another one at
//! the end, at most once a minute.

use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::sys::executor::{Task, sleep, spawn};
use crate::tasks::core::Core;

/// Receivers wait this long before the log says so.
const WAIT_MIN: Duration = Duration::from_secs(2);

/// Least time between two such lines.
const TELL_INTERVAL: Duration = Duration::from_secs(60);

/// Starts watching a core's receivers.
pub fn start(core: &Rc<Core>) -> Task<()> {
    let core = Rc::clone(core);
    spawn(async move {
        loop {
            let since = long_wait(&core).await;
            let told = Instant::now();
            tell(&core);
            core.stalled.until(|| core.waiting_since.get() != Some(since)).await;
            let (shard, waited_s) = (core.shard.borrow().id().0, since.elapsed().as_secs());
            log::info!("there is room again shard={shard} waited_s={waited_s}");
            sleep(TELL_INTERVAL.saturating_sub(told.elapsed())).await;
        }
    })
}

/// Waits until all receivers have waited for long; since when they do.
async fn long_wait(core: &Core) -> Instant {
    loop {
        core.stalled.until(|| core.waiting_since.get().is_some()).await;
        sleep(WAIT_MIN).await;
        let waiting = core.waiting_since.get();
        if let Some(since) = waiting.filter(|since| since.elapsed() >= WAIT_MIN) {
            return since;
        }
    }
}

fn tell(core: &Core) {
    let mut shard = core.shard.borrow_mut();
    let (number, gauges) = (shard.id().0, shard.gauges());
    let Some(full) = shard.what_is_full() else { return };
    log::warn!(
        "full, TCP is not read until there is room shard={number} full=\"{full}\" points={} \
         bytes={} budget_bytes={} log_files={}",
        gauges.waiting + gauges.writing,
        gauges.bytes,
        gauges.budget_bytes,
        gauges.wal_segments
    );
}
