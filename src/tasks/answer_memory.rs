//! Memory for the answers of a core's carbonlink connections.
//!
//! An answer takes its memory before its points are looked for, and gives it back as its client
//! reads it. When its share of the budget is used up it waits for those that hold it, each of which
//! is written out or gives up within bounded time: see [`crate::tasks::reply`]. Only one task of a
//! core, the one that gathers a bulk answer, waits for more while it holds some; nobody waits for
//! that one without it going on, so none waits for ever.

use std::time::Instant;

use crate::limits::ANSWER_WAIT_MAX;
use crate::shard::memory::Share;
use crate::tasks::core::{Core, Stage};

/// Why a question is not answered with points.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoMemory {
    /// The answer is larger than the whole share.
    TooLarge { share_bytes: usize },
    /// Other answers hold the share, and have for long.
    PutOff,
}

impl NoMemory {
    /// The text of the reply.
    pub(crate) fn text(self) -> String {
        match self {
            NoMemory::TooLarge { share_bytes } => format!(
                "answer too large, ask for fewer metrics: a core's answers may take {share_bytes} \
                 bytes of memory, {} % of its [cache] memory-budget",
                Share::LargeAnswers.percent()
            ),
            NoMemory::PutOff => format!(
                "answer put off, ask again: the memory for answers, {} % of a core's [cache] \
                 memory-budget, is held by answers that other clients have not read",
                Share::LargeAnswers.percent()
            ),
        }
    }
}

/// Memory of a share, given back when this is dropped.
pub(crate) struct Held<'c> {
    core: &'c Core,
    share: Share,
    bytes: usize,
}

impl<'c> Held<'c> {
    /// Waits until the share has this many bytes left, and takes them.
    pub(crate) async fn take(
        core: &'c Core,
        share: Share,
        bytes: usize,
    ) -> Result<Held<'c>, NoMemory> {
        let mut held = Held { core, share, bytes: 0 };
        held.grow(bytes).await?;
        Ok(held)
    }

    /// Counts memory that is taken whatever else there is.
    pub(crate) fn count(core: &'c Core, share: Share, bytes: usize) -> Held<'c> {
        core.with_shard(|shard| shard.account_connection(share, 0, bytes));
        Held { core, share, bytes }
    }

    /// Sets what is taken to this many bytes, even beyond the share.
    pub(crate) fn recount(&mut self, bytes: usize) {
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.core.with_shard(|shard| shard.account_connection(self.share, before, bytes));
    }

    /// Takes more as soon as it is there.
    pub(crate) async fn grow(&mut self, more_bytes: usize) -> Result<(), NoMemory> {
        let share_bytes = self.core.shard.borrow().share_bytes_max(self.share);
        if self.bytes + more_bytes > share_bytes {
            return Err(NoMemory::TooLarge { share_bytes });
        }
        if !self.core.shard.borrow_mut().take_memory(self.share, more_bytes) {
            self.wait_for(more_bytes).await?;
        }
        self.bytes += more_bytes;
        Ok(())
    }

    async fn wait_for(&self, more_bytes: usize) -> Result<(), NoMemory> {
        let (core, since) = (self.core, Instant::now());
        core.answers_waiting.set(core.answers_waiting.get() + 1);
        let mut is_taken = false;
        core.answer_room
            .until(|| {
                is_taken = core.shard.borrow_mut().take_memory(self.share, more_bytes);
                let is_over = since.elapsed() >= ANSWER_WAIT_MAX;
                is_taken || is_over || core.stage.get() > Stage::Running
            })
            .await;
        core.answers_waiting.set(core.answers_waiting.get() - 1);
        if is_taken { Ok(()) } else { Err(NoMemory::PutOff) }
    }

    /// Gives back what is taken beyond this many bytes.
    pub(crate) fn shrink_to(&mut self, bytes: usize) {
        if bytes >= self.bytes {
            return;
        }
        let before = std::mem::replace(&mut self.bytes, bytes);
        self.core.with_shard(|shard| shard.account_connection(self.share, before, bytes));
        if self.core.answers_waiting.get() > 0 {
            self.core.answer_room.notify();
        }
        self.core.memory_freed();
    }

    /// So many bytes are held.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.shrink_to(0);
    }
}
