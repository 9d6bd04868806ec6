//! Checkpoints written by the log, beside its own operations on its disk.
//!
//! Nothing here waits: the owner hands chunks in, tells the time ([`Wal::set_time`]), asks in its turns to go
//! on, and is told by [`Event::Checkpoint`] when one of them takes chunks again or has ended. A log that
//! closes gives up those that are not whole and is closed when nothing is left of them; one that is dropped
//! has their files removed by its disk, which ends before anybody else can have the directory.
//! Must never know: what comes first on the disk is the disk's business, when to begin one its owner's.

use std::collections::BTreeMap;
use std::io;
use std::task::Poll;

use bytes::Bytes;

use super::writer::Writer;
use super::{CHUNK_BYTES_MAX, CheckpointError, Finished, Meta, Plan};
use crate::disk::{Op, Output};
use crate::log::Errand;
use crate::log::Phase;
use crate::{Event, Wal};

/// A checkpoint that a log writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CheckpointId(u64);

/// Why a chunk was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// The disk is behind: keep the chunk and try again after [`Event::Checkpoint`].
    #[error("the checkpoint is behind")]
    Full,
    /// Longer than [`CHUNK_BYTES_MAX`].
    #[error("a chunk of {0} bytes is too large")]
    TooLarge(usize),
    /// It has failed, which [`Wal::poll_checkpoint`] tells; or was given up, or its last chunk is there.
    #[error("the checkpoint has ended")]
    Ended,
}

/// Those being written.
#[derive(Debug, Default)]
pub(crate) struct Checkpoints {
    writers: BTreeMap<CheckpointId, Writer>,
    last: u64,
}

impl Checkpoints {
    pub(crate) fn is_empty(&self) -> bool {
        self.writers.is_empty()
    }

    /// An earlier one of the same group is not gone yet.
    fn must_wait(&self, id: CheckpointId) -> bool {
        let Some(writer) = self.writers.get(&id) else {
            return false;
        };
        let mut earlier = self.writers.range(..id).map(|(_, earlier)| earlier);
        earlier.any(|earlier| {
            earlier.meta.group == writer.meta.group
                && earlier.folder == writer.folder
                && !earlier.is_ended()
        })
    }

    /// Names that a log which ends now would leave behind.
    pub(crate) fn left_over(&self) -> impl Iterator<Item = String> {
        self.writers.values().filter_map(Writer::left_over)
    }
}

impl Wal {
    /// Begin a checkpoint in a folder of the disk, as [`Op`] names it; made if absent.
    pub fn begin_checkpoint(&mut self, folder: &str, meta: Meta, plan: Plan) -> CheckpointId {
        self.checkpoints.last += 1;
        let id = CheckpointId(self.checkpoints.last);
        let writer = Writer::new(self.disk.path().to_path_buf(), folder, meta, plan);
        self.checkpoints.writers.insert(id, writer);
        self.go_on_with(id);
        id
    }

    /// Hand over a checkpoint's next chunk, without waiting.
    pub fn push_chunk(&mut self, id: CheckpointId, chunk: Bytes) -> Result<(), PushError> {
        if chunk.len() > CHUNK_BYTES_MAX {
            return Err(PushError::TooLarge(chunk.len()));
        }
        let writer = self.checkpoints.writers.get_mut(&id);
        let Some(writer) = writer.filter(|writer| !writer.is_closed()) else {
            return Err(PushError::Ended);
        };
        if !writer.push(chunk) {
            return Err(PushError::Full);
        }
        self.go_on_with(id);
        Ok(())
    }

    /// That was the last chunk.
    pub fn end_checkpoint(&mut self, id: CheckpointId) {
        if let Some(writer) = self.checkpoints.writers.get_mut(&id) {
            writer.finish();
            self.go_on_with(id);
        }
    }

    /// Whether the room for [`Plan::bytes_min`] is taken.
    pub fn checkpoint_has_room(&self, id: CheckpointId) -> bool {
        let writer = self.checkpoints.writers.get(&id);
        writer.is_some_and(Writer::has_room)
    }

    /// How it ended: ready, once, when it is durable under its name, or has failed.
    pub fn poll_checkpoint(&mut self, id: CheckpointId) -> Poll<Result<Finished, CheckpointError>> {
        let writer = self.checkpoints.writers.get(&id);
        match writer.and_then(Writer::outcome) {
            Some(outcome) => {
                self.checkpoints.writers.remove(&id);
                Poll::Ready(outcome)
            }
            None => Poll::Pending,
        }
    }

    /// Nobody wants it any more: if it is not finished, nothing is left of it soon.
    pub fn give_up_checkpoint(&mut self, id: CheckpointId) {
        if let Some(writer) = self.checkpoints.writers.get_mut(&id) {
            writer.abandon();
            self.go_on_with(id);
        }
    }

    /// Everything that may be written by now is: after [`Wal::set_time`], in every turn.
    pub fn go_on_with_checkpoints(&mut self) {
        let ids: Vec<_> = self.checkpoints.writers.keys().copied().collect();
        for id in ids {
            self.go_on_with(id);
        }
    }

    /// When the next piece of a checkpoint is due, by the owner's clock; `u64::MAX`: none waits for a time.
    pub fn checkpoint_due_micros(&self) -> u64 {
        if self.phase != Phase::Running {
            return u64::MAX;
        }
        let writers = self.checkpoints.writers.values();
        let dues = writers.filter_map(|writer| writer.due_micros(self.now_micros));
        dues.min().unwrap_or(u64::MAX)
    }

    /// The log ends: what is not whole goes.
    pub(crate) fn give_up_checkpoints(&mut self) {
        let ids: Vec<_> = self.checkpoints.writers.keys().copied().collect();
        for id in ids {
            self.give_up_checkpoint(id);
        }
    }

    pub(crate) fn checkpoint_went_on(
        &mut self,
        id: CheckpointId,
        is_write: bool,
        result: io::Result<Output>,
    ) {
        let Some(writer) = self.checkpoints.writers.get_mut(&id) else {
            return;
        };
        match is_write {
            true => writer.landed(result, self.now_micros),
            false => writer.done(result),
        }
        match writer.is_ended() {
            // One may have waited for it.
            true => self.go_on_with_checkpoints(),
            false => self.go_on_with(id),
        }
    }

    fn go_on_with(&mut self, id: CheckpointId) {
        if self.checkpoints.must_wait(id) {
            return;
        }
        let now_micros = self.now_micros;
        loop {
            let Some(writer) = self.checkpoints.writers.get_mut(&id) else {
                return;
            };
            let Some(op) = writer.next(now_micros) else {
                break;
            };
            let is_write = matches!(op, Op::Write { .. });
            self.errand(Errand::Checkpoint { id, is_write }, op);
        }
        let Some(writer) = self.checkpoints.writers.get_mut(&id) else {
            return;
        };
        let gone = writer.is_ended() && writer.is_abandoned();
        if gone {
            self.checkpoints.writers.remove(&id);
        } else if writer.take_news() {
            self.events.push_back(Event::Checkpoint(id));
        }
    }
}

/// Dropped before it was closed: whoever has the directory next finds nothing unfinished, as the disk ends
/// what it was given before it lets go.
impl Drop for Wal {
    fn drop(&mut self) {
        // A disk that panicked is not asked again: its left-overs go with the next start.
        if std::thread::panicking() {
            return;
        }
        let left_over: Vec<String> = self.checkpoints.left_over().collect();
        for name in left_over {
            self.next_token += 1;
            self.disk.submit(self.next_token, Op::Remove { name });
        }
    }
}
