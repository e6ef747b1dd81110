//! Default number of shards, their processors, and the default memory budget.
//!
//! Shards: one for each processor in the affinity mask, but at most the CPU quota of the control
//! groups, rounded up. Budget: half of the machine's memory, or of the tightest memory limit of the
//! control groups. The line `ready` in the log names the limit that decided.

use std::path::Path;

use crate::sys::cgroup::{self, Limit, Limits};
use crate::sys::cpu;

/// The budget is the memory divided by this. The rest is for code, stacks, socket buffers and the
/// page cache.
const BUDGET_SHARE: u64 = 2;

/// What the process may use.
#[derive(Debug, Clone)]
pub(crate) struct Machine {
    /// The processors that the process may run on; not empty.
    cores: Vec<usize>,
    /// The one that it runs on now.
    current_core: Option<usize>,
    /// Memory of the machine.
    memory_bytes: u64,
    /// What its control groups allow.
    limits: Limits,
}

/// The processor of each shard.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Processors {
    pub(crate) numbers: Vec<usize>,
    pub(crate) decided_by: String,
}

/// The memory of the node.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) bytes: u64,
    pub(crate) decided_by: String,
}

impl Machine {
    /// Reads the limits of this machine; logs those that cannot be read.
    pub(crate) fn found() -> Machine {
        let limits = cgroup::limits(Path::new("/"));
        for problem in &limits.problems {
            log::warn!("limits of memory and processors may be missing: {problem}");
        }
        let (cores, current_core) = (cpu::usable_cores(), cpu::current_core());
        Machine { cores, current_core, memory_bytes: cpu::machine_memory_bytes(), limits }
    }

    /// The processors of `shards` shards; 0 = one for each usable processor, within the quota.
    ///
    /// A CPU quota allows all processors. If every node took the first ones, all nodes of a machine
    /// would share them, so with a quota the first shard takes the current processor.
    pub(crate) fn processors(&self, shards: usize) -> Processors {
        let own = |count: usize| format!("the {count} processors that the process may use");
        let mut cores = self.cores.clone();
        let (count, decided_by) = match (shards, &self.limits.cpu_millis) {
            (0, Some(limit)) if allowed_shards(limit) < cores.len() => {
                let at = cores.iter().position(|core| Some(*core) == self.current_core);
                cores.rotate_left(at.unwrap_or(0));
                let (whole, part) = (limit.amount / 1_000, limit.amount % 1_000);
                let text = format!("{whole}.{part:03} processors by {}", limit.file.display());
                (allowed_shards(limit), text)
            }
            (0, _) => (cores.len(), own(cores.len())),
            (count, _) => (count, "[common] shards".to_owned()),
        };
        let numbers = (0..count).map(|shard| cores[shard % cores.len()]).collect();
        Processors { numbers, decided_by }
    }

    /// The configured budget, or the default.
    pub(crate) fn budget(&self, configured: Option<u64>) -> Budget {
        let limit = self.limits.memory_bytes.as_ref();
        let limit = limit.filter(|limit| limit.amount < self.memory_bytes);
        let (memory_bytes, origin) = match limit {
            Some(limit) => (limit.amount, limit.file.display().to_string()),
            None => (self.memory_bytes, "the machine".to_owned()),
        };
        let Some(bytes) = configured else {
            let decided_by = format!("half of {memory_bytes} bytes by {origin}");
            return Budget { bytes: memory_bytes / BUDGET_SHARE, decided_by };
        };
        if bytes >= memory_bytes {
            log::warn!(
                "[cache] memory-budget is {bytes} bytes, but {origin} allows the process \
                 {memory_bytes}: the kernel may end it before the budget is used up"
            );
        }
        Budget { bytes, decided_by: "[cache] memory-budget".to_owned() }
    }
}

/// Shards for a CPU quota, rounded up so that the whole quota can be used.
fn allowed_shards(limit: &Limit) -> usize {
    usize::try_from(limit.amount.div_ceil(1_000)).unwrap_or(usize::MAX).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(cores: &[usize], memory: Option<u64>, cpu_millis: Option<u64>) -> Machine {
        let limit = |amount, file: &str| Limit { amount, file: file.into() };
        Machine {
            cores: cores.to_vec(),
            current_core: Some(5),
            memory_bytes: 1 << 30,
            limits: Limits {
                memory_bytes: memory.map(|amount| limit(amount, "/g/memory.max")),
                cpu_millis: cpu_millis.map(|amount| limit(amount, "/g/cpu.max")),
                problems: Vec::new(),
            },
        }
    }

    #[test]
    fn processors() {
        let cores = [1, 3, 5, 7];
        let check = |quota, shards, want: &[usize], by: &str| {
            let got = machine(&cores, None, quota).processors(shards);
            let want = Processors { numbers: want.to_vec(), decided_by: by.to_owned() };
            assert_eq!(got, want, "{quota:?} {shards}");
        };
        let own = "the 4 processors that the process may use";
        check(None, 0, &[1, 3, 5, 7], own);
        check(Some(4_000), 0, &[1, 3, 5, 7], own);
        check(Some(3_001), 0, &[1, 3, 5, 7], own);
        check(Some(u64::MAX), 0, &[1, 3, 5, 7], own);
        check(Some(3_000), 0, &[5, 7, 1], "3.000 processors by /g/cpu.max");
        check(Some(1_001), 0, &[5, 7], "1.001 processors by /g/cpu.max");
        check(Some(1_000), 0, &[5], "1.000 processors by /g/cpu.max");
        check(Some(1), 0, &[5], "0.001 processors by /g/cpu.max");
        check(Some(0), 0, &[5], "0.000 processors by /g/cpu.max");
        // What is configured counts, and may be more than there are processors.
        check(Some(1_000), 2, &[1, 3], "[common] shards");
        check(None, 6, &[1, 3, 5, 7, 1, 3], "[common] shards");
        let elsewhere = machine(&[1, 3], None, Some(500)).processors(0);
        assert_eq!(elsewhere.numbers, [1], "the current processor is none of ours");
    }

    #[test]
    fn budget() {
        let check = |limit, configured, bytes, by: &str| {
            let got = machine(&[0], limit, None).budget(configured);
            assert_eq!(
                got,
                Budget { bytes, decided_by: by.to_owned() },
                "{limit:?} {configured:?}"
            );
        };
        let machine_bytes = 1 << 30;
        let by_machine = "half of 1073741824 bytes by the machine";
        check(None, None, machine_bytes / 2, by_machine);
        check(Some(machine_bytes), None, machine_bytes / 2, by_machine);
        check(Some(u64::MAX), None, machine_bytes / 2, by_machine);
        check(Some(1 << 20), None, 1 << 19, "half of 1048576 bytes by /g/memory.max");
        check(Some(0), None, 0, "half of 0 bytes by /g/memory.max");
        check(Some(1 << 20), Some(64 << 20), 64 << 20, "[cache] memory-budget");
    }
}
