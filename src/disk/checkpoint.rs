//! Checkpoints: one thread a node that brings the Whisper files to stable storage.
//!
//! Shards ask when segments of their logs could go. All that have asked before a sync begins are
//! covered by it. One sync of each whole file system that the tree spans, because a file at a time
//! would cost a journal commit each, and a million files an interval.

use std::io;
use std::sync::mpsc::{Receiver, Sender};

use rtrb::Producer;

use crate::sys::doorbell::Doorbell;
use crate::sys::file_systems::FileSystems;

/// Who asks for a sync.
#[derive(Debug)]
pub enum Request {
    /// The shard of this number, which has at most one question under way.
    Shard(usize),
    /// The main thread after a drain, when no shard is left.
    Last(Sender<io::Result<()>>),
}

/// Where a shard waits for the answer: whether the sync has succeeded.
#[derive(Debug)]
pub struct CheckpointAsker {
    /// The link; it has room for one answer.
    pub answers: Producer<bool>,
    /// The shard's core.
    pub bell: Doorbell,
}

/// Runs until all askers are gone. Call it on a thread of its own.
pub fn run(
    mut file_systems: FileSystems,
    requests: &Receiver<Request>,
    mut askers: Vec<CheckpointAsker>,
) {
    let mut covered = vec![false; askers.len()];
    let mut has_failed = false;
    while let Ok(first) = requests.recv() {
        let mut last = None;
        for request in std::iter::once(first).chain(requests.try_iter()) {
            match request {
                Request::Shard(index) => covered[index] = true,
                Request::Last(sender) => last = Some(sender),
            }
        }
        let result = if has_failed {
            // What the first one could not write is lost, whatever the next one says.
            Err(io::Error::other("an earlier sync has failed"))
        } else {
            file_systems.sync()
        };
        if let Err(error) = &result {
            has_failed = true;
            log::error!("checkpoint failed file_system={error}");
        }
        for (asker, covered) in askers.iter_mut().zip(&mut covered) {
            if std::mem::take(covered) {
                asker.answers.push(result.is_ok()).expect("one question of a shard at a time");
                asker.bell.ring();
            }
        }
        if let Some(last) = last {
            let _ = last.send(result);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::doorbell::doorbell;
    use crate::sys::file_systems::file_systems;
    use rtrb::RingBuffer;

    #[test]
    fn each_asker_is_answered_once() {
        let (file_systems, _newcomers) = file_systems(&std::env::temp_dir()).unwrap();
        let (to, requests) = std::sync::mpsc::channel();
        let (bell, _ear) = doorbell().unwrap();
        let mut ends = Vec::new();
        let askers = (0..3).map(|_| {
            let (answers, end) = RingBuffer::new(1);
            ends.push(end);
            CheckpointAsker { answers, bell: bell.clone() }
        });
        let askers = askers.collect();
        for asker in [2, 0] {
            to.send(Request::Shard(asker)).unwrap();
        }
        let (sender, last) = std::sync::mpsc::channel();
        to.send(Request::Last(sender)).unwrap();
        drop(to);
        run(file_systems, &requests, askers);
        let answers: Vec<Option<bool>> = ends.iter_mut().map(|end| end.pop().ok()).collect();
        assert_eq!(answers, [Some(true), None, Some(true)]);
        assert!(last.recv().unwrap().is_ok());
    }
}
