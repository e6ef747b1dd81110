//! Checkpoints: one thread a node that brings the Whisper files to stable storage.
//!
//! Shards ask when segments of their logs could go. All that have asked before a sync begins are
//! covered by it. One sync of the whole file system, because a file at a time would cost a
//! journal commit each, and a million files an interval.

use std::path::Path;
use std::sync::mpsc::Receiver;

use rtrb::Producer;

use crate::sys::doorbell::Doorbell;
use crate::sys::log_files::FileSystem;

/// Where a shard waits for the answer: whether the sync has succeeded.
#[derive(Debug)]
pub struct CheckpointAsker {
    /// The link; it has room for one answer.
    pub answers: Producer<bool>,
    /// The shard's core.
    pub bell: Doorbell,
}

/// Runs until nobody can ask any more. A request is the index of its asker, who has at most one
/// under way. To be called on a thread of its own, with the file system opened before anything is
/// written to it.
pub fn run(
    file_system: &FileSystem,
    directory: &Path,
    requests: &Receiver<usize>,
    mut askers: Vec<CheckpointAsker>,
) {
    let mut covered = vec![false; askers.len()];
    while let Ok(first) = requests.recv() {
        covered[first] = true;
        while let Ok(next) = requests.try_recv() {
            covered[next] = true;
        }
        let result = file_system.sync();
        if let Err(error) = &result {
            log::error!("checkpoint failed directory={} error={error}", directory.display());
        }
        for (asker, covered) in askers.iter_mut().zip(&mut covered) {
            if std::mem::take(covered) {
                asker.answers.push(result.is_ok()).expect("one question of a shard at a time");
                asker.bell.ring();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::doorbell::doorbell;
    use rtrb::RingBuffer;

    #[test]
    fn each_asker_is_answered_once() {
        let directory = std::env::temp_dir();
        let file_system = FileSystem::of(&directory).unwrap();
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
            to.send(asker).unwrap();
        }
        drop(to);
        run(&file_system, &directory, &requests, askers);
        let answers: Vec<Option<bool>> = ends.iter_mut().map(|end| end.pop().ok()).collect();
        assert_eq!(answers, [Some(true), None, Some(true)]);
    }
}
