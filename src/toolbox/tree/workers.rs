//! Every file of a tree, shared among threads, in memory that does not grow with the tree.
//!
//! ```text
//! walk --batches--> worker ... worker --findings--> the calling thread: prints and counts
//! ```
//! One thread walks ([`super::walk`]) and sends batches of paths over bounded queues; it waits when
//! all are full. A worker sends a finding for each file that is worth one. The queue of findings
//! is bounded too, so a slow reader of the output slows the work down.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::thread;

use crate::toolbox::args::Args;
use crate::toolbox::session::Failure;
use crate::toolbox::tree::progress::{Counters, Progress, TICK};
use crate::toolbox::tree::walk::{Scope, Walk};

/// Most threads a command may be told to use.
const JOBS_MAX: usize = 1_024;

/// Paths handed out at once: enough that queues cost nothing beside opening a file.
const BATCH: usize = 64;

/// Batches that wait for one worker.
const BATCHES: usize = 4;

/// Findings that wait to be printed.
const FINDINGS: usize = 1_024;

/// As many threads as `--jobs` says, or one for each processor there is for us.
pub(crate) fn jobs(args: &Args) -> Result<usize, Failure> {
    let processors = || thread::available_parallelism().map_or(1, |count| count.get());
    Ok(args.count("jobs", JOBS_MAX)?.unwrap_or_else(|| processors().min(JOBS_MAX)))
}

/// What to walk, and how.
#[derive(Debug)]
pub(crate) struct Options<'a> {
    pub(crate) scope: Scope<'a>,
    /// Threads that work.
    pub(crate) jobs: usize,
    /// The progress is shown even where standard error is no terminal.
    pub(crate) progress: bool,
}

impl Options<'_> {
    /// Calls `work` for every file from several threads, and `tell` here for each finding. A
    /// directory or entry that cannot be read goes to `work` as an error.
    ///
    /// # Errors
    /// The first error of `tell`, which ends the work early.
    pub(crate) fn for_each<F: Send>(
        &self,
        work: impl Fn(Result<&Path, (&Path, io::Error)>) -> Option<F> + Sync,
        mut tell: impl FnMut(F) -> io::Result<()>,
        err: &mut dyn Write,
    ) -> io::Result<()> {
        let counters = Counters::default();
        let mut progress = Progress::new(self.progress);
        thread::scope(|scope| {
            let (finding_to, findings) = sync_channel::<F>(FINDINGS);
            let mut queues = Vec::new();
            for _ in 0..self.jobs {
                let (to, from) = sync_channel::<Vec<File>>(BATCHES);
                let (finding_to, counters, work) = (finding_to.clone(), &counters, &work);
                scope.spawn(move || run_worker(&from, &finding_to, counters, work));
                queues.push(to);
            }
            drop(finding_to);
            if progress.is_shown() {
                scope.spawn(|| count(self.walk(), &counters));
            }
            scope.spawn(|| hand_out(self.walk(), queues, &counters));
            let result = loop {
                match findings.recv_timeout(TICK) {
                    Ok(finding) => {
                        if let Err(error) = tell(finding) {
                            break Err(error);
                        }
                    }
                    Err(RecvTimeoutError::Timeout) => {}
                    Err(RecvTimeoutError::Disconnected) => break Ok(()),
                }
                progress.tick(&counters, err);
            };
            counters.stop.store(true, Ordering::Relaxed);
            progress.finish(&counters, err);
            result
        })
    }

    fn walk(&self) -> impl Iterator<Item = File> {
        Walk::new(self.scope).map(|entry| entry.map(|found| found.path))
    }
}

/// A file, or what cannot be read.
type File = Result<PathBuf, (PathBuf, io::Error)>;

fn count(walk: impl Iterator<Item = File>, counters: &Counters) {
    for _ in walk {
        counters.found.fetch_add(1, Ordering::Relaxed);
        if counters.stop.load(Ordering::Relaxed) {
            return;
        }
    }
    counters.all_found.store(true, Ordering::Release);
}

/// Gives each batch to a worker with room, or waits for the next in turn.
fn hand_out(
    walk: impl Iterator<Item = File>,
    queues: Vec<SyncSender<Vec<File>>>,
    counters: &Counters,
) {
    let mut walk = walk.fuse();
    let mut turn = 0;
    while !counters.stop.load(Ordering::Relaxed) {
        let mut batch: Vec<File> = walk.by_ref().take(BATCH).collect();
        if batch.is_empty() {
            return;
        }
        for _ in 0..queues.len() {
            turn = (turn + 1) % queues.len();
            match queues[turn].try_send(batch) {
                Ok(()) => {
                    batch = Vec::new();
                    break;
                }
                Err(TrySendError::Full(back) | TrySendError::Disconnected(back)) => batch = back,
            }
        }
        if !batch.is_empty() && queues[turn].send(batch).is_err() {
            return;
        }
    }
}

fn run_worker<F>(
    from: &Receiver<Vec<File>>,
    findings: &SyncSender<F>,
    counters: &Counters,
    work: &impl Fn(Result<&Path, (&Path, io::Error)>) -> Option<F>,
) {
    for entry in from.iter().flatten() {
        if counters.stop.load(Ordering::Relaxed) {
            return;
        }
        let finding = match entry {
            Ok(path) => work(Ok(&path)),
            Err((path, error)) => work(Err((&path, error))),
        };
        counters.done.fetch_add(1, Ordering::Relaxed);
        if finding.is_some_and(|finding| findings.send(finding).is_err()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn every_file_is_seen_once_and_links_and_skipped_places_never() {
        let root = std::env::temp_dir().join(format!("carbyne-walk-{}", std::process::id()));
        let skip = root.join("skipped");
        for place in ["a/b", "skipped"] {
            fs::create_dir_all(root.join(place)).expect("make a directory");
        }
        for number in 0..500 {
            fs::write(root.join(format!("a/b/{number}.wsp")), "").expect("write a file");
        }
        for path in ["x.wsp", "x.wsp.left", "skipped/y.wsp", "notes.txt"] {
            fs::write(root.join(path), "").expect("write a file");
        }
        std::os::unix::fs::symlink(&root, root.join("a/loop")).expect("make a link");
        std::os::unix::fs::symlink(root.join("x.wsp"), root.join("l.wsp")).expect("make a link");
        for jobs in [1, 3] {
            let scope =
                Scope { skip: Some(&skip), other_suffix: Some(".wsp.left"), ..Scope::of(&root) };
            let options = Options { scope, jobs, progress: false };
            let mut seen = Vec::new();
            let tell = |path: PathBuf| -> io::Result<()> {
                seen.push(path);
                Ok(())
            };
            let work = |entry: Result<&Path, (&Path, io::Error)>| entry.ok().map(Path::to_owned);
            options.for_each(work, tell, &mut io::sink()).expect("nothing fails");
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 502);
            assert!(seen.contains(&root.join("x.wsp.left")));
        }
        // A reader that has seen enough ends the work.
        let options = Options { scope: Scope::of(&root), jobs: 2, progress: false };
        let work = |entry: Result<&Path, (&Path, io::Error)>| entry.ok().map(Path::to_owned);
        let refuse = |_| Err(io::Error::from(io::ErrorKind::BrokenPipe));
        assert!(options.for_each(work, refuse, &mut io::sink()).is_err());
        fs::remove_dir_all(root).expect("remove the directory");
    }
}
