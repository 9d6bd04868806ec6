//! A shard's checkpoint: its store, written to a file in slices beside traffic, so that the log before
//! it can be recycled and a restart need not replay it.
//!
//! Only a member that is alone does this: in a cluster the log is what a lagging member catches up
//! from until snapshots travel between members (see docs/decisions/0001).
//! Promises: the log is told to forget only after the file is durable; a turn pays for one slice at
//! most; a failure leaves the log whole, and is tried again when the core says so: room that others make
//! is found by looking. Meanwhile nothing is taken in that adds to what has no room (see `admit`).
//! Must never know: what a snapshot holds, when the core lets it go on.

use std::collections::VecDeque;
use std::task::Poll;

use bytes::Bytes;
use henge_mvcc::SnapshotCursor;
use henge_wal::checkpoint::{
    BYTES_PER_SECOND, CHUNK_BYTES_MAX, CheckpointError, CheckpointId, Meta, Plan, PushError,
};
use henge_wal::{Shortage, Wal};

use super::Shard;
use super::log::Position;
use crate::restore::CHECKPOINTS;

/// Bytes of snapshot made per turn: about a tenth of a millisecond of work.
const SLICE_BYTES: usize = 128 * 1024;

/// Most that a version takes in memory beside its bytes.
const VERSION_BYTES_MAX: u64 = 64;
/// As fast as a checkpoint is written while writes are refused for want of it.
const HURRIED_BYTES_PER_SECOND: u64 = 4 * BYTES_PER_SECOND;

/// A checkpoint in the making.
pub struct Checkpointing {
    /// Holds up the removal of history; none once the store has given all.
    cursor: Option<SnapshotCursor>,
    id: CheckpointId,
    /// What it will have at least.
    bytes_min: u64,
    position: Position,
    /// Made, but not taken by the log yet.
    ready: VecDeque<Bytes>,
    /// The store has more to give.
    more: bool,
}

/// How a checkpoint got on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It can go on at once.
    More,
    /// It waits for the disk.
    Waits,
    /// It is durable.
    Written,
    /// It cannot be written now; `cheap`: nothing was.
    Failed {
        /// To try again costs next to nothing.
        cheap: bool,
    },
}

impl Shard {
    /// Goes on with the checkpoint that runs.
    pub fn checkpoint_slice(&mut self, wal: &mut Wal) -> Progress {
        let Some(mut running) = self.checkpointing.take() else {
            return Progress::Waits;
        };
        running.push(wal);
        let go_on = running.ready.is_empty() && running.more;
        if go_on {
            let pieces = self.make_slice(&mut running);
            running.ready.extend(pieces);
            running.push(wal);
        }
        match wal.poll_checkpoint(running.id) {
            Poll::Pending => {
                if running.bytes_min > 0 && wal.checkpoint_has_room(running.id) {
                    self.checkpoint_lacks = None;
                }
                self.checkpointing = Some(running);
                match go_on {
                    true => Progress::More,
                    false => Progress::Waits,
                }
            }
            Poll::Ready(Ok(finished)) => {
                let Position { index, term } = running.position;
                tracing::info!(
                    group = self.config.group,
                    index,
                    bytes = finished.bytes,
                    file = %finished.path.display(),
                    "wrote a checkpoint"
                );
                wal.compacted(self.config.group, index, term);
                self.raft.storage_mut().compact(running.position);
                self.checkpoint_lacks = None;
                self.checkpoint_fails = false;
                Progress::Written
            }
            Poll::Ready(Err(error)) => {
                // Descriptors and memory come back; what has no room keeps the log from ever being let go.
                let passes =
                    |lacks: &Shortage| matches!(lacks, Shortage::Descriptors | Shortage::Memory);
                self.checkpoint_lacks = error.shortage().filter(|lacks| !passes(lacks));
                self.note_failure(&error);
                if self.checkpoint_lacks.is_some() {
                    wal.release_spare();
                }
                let cheap = error.was_cheap();
                Progress::Failed { cheap }
            }
        }
    }

    /// Said once, however often it is tried again.
    fn note_failure(&mut self, error: &CheckpointError) {
        let group = self.config.group;
        match std::mem::replace(&mut self.checkpoint_fails, true) {
            false => {
                tracing::warn!(group, %error, "a checkpoint failed; the log is kept, and it is tried again")
            }
            true => tracing::debug!(group, %error, "a checkpoint failed again"),
        }
    }

    /// Least size of a checkpoint made now: what versions take in memory without what they take beside their
    /// bytes; what compaction is about to remove counts for nothing.
    fn checkpoint_bytes_min(&self) -> u64 {
        let stats = self.machine.store.stats();
        match self.machine.store.compaction_pending() {
            true => 0,
            false => (stats.bytes.versions).saturating_sub(stats.versions * VERSION_BYTES_MAX),
        }
    }

    /// Says at the end of a checkpoint how much log there is. One that finds no room may find it soon, so the
    /// log goes on for as much as usually lies between two, unless it is down to its ballast; then it would
    /// take what the checkpoint of a smaller store needs.
    pub fn note_checkpoint_end(&mut self, log_bytes: u64, every: u64, log_lacks: bool) {
        if self.checkpoint_lacks.is_none() {
            (self.lacks_since_bytes, self.checkpoint_presses) = (None, false);
            return;
        }
        let since = *self.lacks_since_bytes.get_or_insert(log_bytes);
        self.checkpoint_presses = log_lacks || log_bytes >= since.saturating_add(every);
    }

    /// Whether there is anything to write a checkpoint of, and somebody to write it for.
    pub fn has_checkpoint_to_write(&self) -> bool {
        let compacted = self.raft.storage().compacted_index();
        !self.corrupt && self.is_alone() && self.machine.applied_index > compacted
    }

    /// Begins a checkpoint; how that went.
    pub fn begin_checkpoint(&mut self, wal: &mut Wal) -> Progress {
        let position = Position {
            index: self.machine.applied_index,
            term: self.machine.applied_term,
        };
        if !self.has_checkpoint_to_write() {
            return Progress::Written;
        }
        let meta = Meta {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            group: self.config.group,
            index: position.index,
            term: position.term,
        };
        let bytes_min = self.checkpoint_bytes_min();
        let plan = Plan {
            bytes_min,
            // Nobody writes meanwhile, and everybody waits for it.
            bytes_per_second: match self.lacks() {
                Some(_) => HURRIED_BYTES_PER_SECOND,
                None => BYTES_PER_SECOND,
            },
        };
        // What is not the store's comes first.
        let own = self.machine.alarms.image().map(Bytes::from);
        self.checkpointing = Some(Checkpointing {
            cursor: Some(self.machine.store.snapshot_begin()),
            id: wal.begin_checkpoint(CHECKPOINTS, meta, plan),
            bytes_min,
            position,
            ready: own.into_iter().collect(),
            more: true,
        });
        Progress::More
    }

    /// The next slice, in pieces that the log takes.
    fn make_slice(&self, running: &mut Checkpointing) -> impl Iterator<Item = Bytes> + use<> {
        let mut slice = Vec::with_capacity(SLICE_BYTES + SLICE_BYTES / 2);
        running.more = running.cursor.as_mut().is_some_and(|cursor| {
            self.machine
                .store
                .snapshot_next(cursor, SLICE_BYTES, &mut slice)
        });
        if !running.more {
            running.cursor = None;
        }
        let slice = Bytes::from(slice);
        // One very large value can make a slice longer than a chunk may be.
        let pieces = (0..slice.len()).step_by(CHUNK_BYTES_MAX);
        pieces.map(move |at| slice.slice(at..slice.len().min(at + CHUNK_BYTES_MAX)))
    }
}

impl Checkpointing {
    /// Gives the log what it takes; after the last chunk it is told so.
    fn push(&mut self, wal: &mut Wal) {
        while let Some(chunk) = self.ready.pop_front() {
            // One that has ended takes nothing, and says why when it is asked.
            if let Err(PushError::Full) = wal.push_chunk(self.id, chunk.clone()) {
                self.ready.push_front(chunk);
                return;
            }
        }
        if !self.more {
            wal.end_checkpoint(self.id);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::start;
    use std::path::Path;

    use henge_mvcc::{PutRequest, Restorer};
    use henge_wal::disk::sim::SimHandle;
    use henge_wal::{Identity, Options};

    fn put(shard: &mut Shard, n: u32, value: &[u8]) {
        let request = PutRequest {
            key: &n.to_be_bytes(),
            value,
            ..PutRequest::default()
        };
        shard.machine.store.put(&request).expect("valid");
    }

    #[test]
    fn a_checkpoint_without_room_presses_once_the_log_has_none_or_has_grown() {
        let mut shard = start(&[1], 1);
        shard.checkpoint_lacks = Some(Shortage::Space);
        for (log_bytes, log_lacks, presses) in [
            (1_000, false, false),
            (1_099, false, false),
            (1_099, true, true),
            (1_100, false, true),
        ] {
            shard.note_checkpoint_end(log_bytes, 100, log_lacks);
            assert_eq!(shard.lacks().is_some(), presses, "{log_bytes} {log_lacks}");
        }
        shard.checkpoint_lacks = None;
        shard.note_checkpoint_end(5_000, 100, true);
        shard.checkpoint_lacks = Some(Shortage::Space);
        shard.note_checkpoint_end(5_000, 100, false);
        assert_eq!(shard.lacks(), None, "counted anew");
    }

    /// A turn is held for one slice, however large the store; what is written in between is not in it, and
    /// history waits no longer than the store has something to give.
    #[test]
    fn a_checkpoint_is_made_in_slices_of_the_moment_it_began() {
        let disk = Box::new(SimHandle::new(1, 1).disk());
        let options = Options::default();
        let us = Identity {
            cluster_id: 7,
            member_id: 1,
        };
        let opened = Wal::open(Path::new("core-0"), &options, &us, disk, &mut ());
        let (mut wal, _) = opened.expect("an empty disk");
        let mut shard = start(&[1], 1);
        let value = [7; 1_000];
        (0..2_000).for_each(|n| put(&mut shard, n, &value));
        // One that is larger than a chunk may be.
        put(&mut shard, 5_000, &vec![8; CHUNK_BYTES_MAX + 1]);
        let hash = shard.machine.store.hash_kv(0);
        shard.machine.applied_index = 7;
        assert_eq!(shard.begin_checkpoint(&mut wal), Progress::More);
        let begun = start(&[1], 1).begin_checkpoint(&mut wal);
        assert_eq!(begun, Progress::Written, "nothing applied");
        let mut running = shard.checkpointing.take().expect("begun");
        let (mut stream, mut slices) = (Vec::new(), 0);
        while running.more {
            assert!(running.cursor.is_some(), "it holds history up");
            let pieces: Vec<_> = shard.make_slice(&mut running).collect();
            assert!(pieces.iter().all(|piece| piece.len() <= CHUNK_BYTES_MAX));
            let bytes: usize = pieces.iter().map(Bytes::len).sum();
            let is_usual = bytes <= SLICE_BYTES + 2_000;
            assert!(is_usual || bytes > CHUNK_BYTES_MAX, "a slice of {bytes}");
            pieces
                .iter()
                .for_each(|piece| stream.extend_from_slice(piece));
            slices += 1;
            put(&mut shard, slices, b"later");
        }
        assert!(running.cursor.is_none(), "and no longer");
        assert!(
            slices as usize >= 2_000_000 / SLICE_BYTES,
            "{slices} slices"
        );
        let mut restorer = Restorer::new();
        restorer.push(&stream).expect("sound");
        let restored = restorer.finish().expect("complete");
        assert_eq!(restored.hash_kv(0), hash);
    }
}
