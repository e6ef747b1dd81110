//! Publishing the node's statistics into its own ingest, on the first core.

use std::fmt::Write as _;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::metric::owner::ShardId;
use crate::shard::query::{ShardRequest, ShardResponse};
use crate::stats::{Counters, Gauges, Report, publish};
use crate::sys::cpu;
use crate::sys::executor::{Task, sleep, spawn};
use crate::tasks::carbonlink::ask;
use crate::tasks::core::{Core, Stage};

/// How statistics are published.
#[derive(Debug, Clone)]
pub struct ReportOptions {
    /// Prefix of all names, without the last dot.
    pub prefix: String,
    /// Time between two reports.
    pub interval: Duration,
    /// Number of shards.
    pub shard_count: u16,
    /// Updates allowed per second; 0 is no limit.
    pub updates_per_s_max: u64,
}

/// Starts publishing every interval.
pub fn start(core: &Rc<Core>, options: ReportOptions) -> Task<()> {
    let core = Rc::clone(core);
    spawn(async move {
        let mut before = Counters::default();
        let mut cpu_before = cpu::process_cpu_time();
        let mut since = Instant::now();
        while core.stage.get() == Stage::Running {
            sleep(options.interval).await;
            let (total, gauges) = gather(&core, options.shard_count).await;
            let cpu_now = cpu::process_cpu_time();
            let elapsed = since.elapsed().as_secs_f64().max(0.001);
            let report = Report {
                total,
                delta: total.since(&before),
                gauges,
                cpu_percent: (cpu_now - cpu_before).as_secs_f64() / elapsed * 100.0,
                resident_bytes: cpu::resident_bytes(),
                shards: u64::from(options.shard_count),
                updates_per_s_max: options.updates_per_s_max,
            };
            (before, cpu_before, since) = (total, cpu_now, Instant::now());
            store(&core, &options, &report).await;
        }
    })
}

/// All shards' counters and gauges, asked for one after the other.
async fn gather(core: &Core, shard_count: u16) -> (Counters, Gauges) {
    let mut counters = Counters::default();
    let mut gauges = Gauges::default();
    for shard in 0..shard_count {
        let request_id = ask(core, ShardId(shard), ShardRequest::Stats).await;
        let ShardResponse::Stats(_, stats) = core.response_to(request_id).await else {
            unreachable!("a question for statistics is answered with statistics")
        };
        counters.add(&stats.0);
        gauges.add(&stats.1);
    }
    (counters, gauges)
}

/// Gives each shard its own metrics' points.
async fn store(core: &Core, options: &ReportOptions, report: &Report) {
    let mut batches: Vec<Vec<u8>> = (0..options.shard_count).map(|_| Vec::new()).collect();
    let mut name = String::new();
    core.with_shard(|shard| {
        publish(report, |suffix, value| {
            name.clear();
            write!(name, "{}.{suffix}", options.prefix).expect("a String takes any text");
            shard.ingest_own(name.as_bytes(), value, &mut batches);
        });
    });
    for (shard, batch) in (0u16..).zip(batches) {
        if !batch.is_empty() {
            let request_id =
                ask(core, ShardId(shard), |request_id| ShardRequest::Own(request_id, batch)).await;
            core.response_to(request_id).await;
        }
    }
}
