//! A shard's checkpoint: its store, written to a file in slices beside traffic, so that the log before
//! it can be recycled and a restart need not replay it.
//!
//! Only a member that is alone does this: in a cluster the log is what a lagging member catches up
//! from until snapshots travel between members (see docs/decisions/0001).
//! Promises: the log is told to forget only after the file is durable; a turn pays for one slice at
//! most; a failure leaves the log whole and is tried again after as much log as it took to start.

use std::collections::VecDeque;
use std::path::Path;
use std::task::{Context, Poll};

use bytes::Bytes;
use henge_mvcc::SnapshotCursor;
use henge_wal::Wal;
use henge_wal::checkpoint::{CHUNK_BYTES_MAX, Meta, PushError, Writer};

use super::Shard;
use super::log::Position;

/// Bytes of snapshot made per turn: about a tenth of a millisecond of work.
const SLICE_BYTES: usize = 128 * 1024;

/// A checkpoint in the making.
pub struct Checkpointing {
    /// Holds up the removal of history; none once the store has given all.
    cursor: Option<SnapshotCursor>,
    writer: Writer,
    position: Position,
    /// Made, but not taken by the writer yet.
    ready: VecDeque<Bytes>,
    /// The store has more to give.
    more: bool,
}

impl Shard {
    /// Goes on with the checkpoint that runs. Returns whether it could go on at once.
    pub fn checkpoint_slice(&mut self, wal: &mut Wal, cx: &mut Context<'_>) -> bool {
        let Some(mut running) = self.checkpointing.take() else {
            return false;
        };
        running.push();
        let go_on = running.ready.is_empty() && running.more;
        if go_on {
            let pieces = self.make_slice(&mut running);
            running.ready.extend(pieces);
            running.push();
        }
        match running.writer.poll(cx) {
            Poll::Pending => {
                self.checkpointing = Some(running);
                go_on
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
                true
            }
            Poll::Ready(Err(error)) => {
                tracing::warn!(group = self.config.group, %error, "a checkpoint failed; the log is kept");
                // Most likely for lack of room.
                wal.release_spare();
                false
            }
        }
    }

    /// Begins a checkpoint; false if there is none to be written, or it cannot be begun now.
    pub fn begin_checkpoint(&mut self, dir: &Path) -> bool {
        let position = Position {
            index: self.machine.applied_index,
            term: self.machine.applied_term,
        };
        let compacted = self.raft.storage().compacted_index();
        if self.corrupt || !self.is_alone() || position.index <= compacted {
            return false;
        }
        let meta = Meta {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            group: self.config.group,
            index: position.index,
            term: position.term,
        };
        match Writer::create(dir, meta) {
            Ok(writer) => {
                let cursor = Some(self.machine.store.snapshot_begin());
                let ready = VecDeque::new();
                let running = Checkpointing {
                    cursor,
                    writer,
                    position,
                    ready,
                    more: true,
                };
                self.checkpointing = Some(running);
                true
            }
            Err(error) => {
                tracing::warn!(group = self.config.group, %error, "a checkpoint cannot be begun");
                false
            }
        }
    }

    /// The next slice, in pieces that the writer takes.
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
    /// Gives the writer what it takes; after the last chunk it is told so.
    fn push(&mut self) {
        while let Some(chunk) = self.ready.pop_front() {
            // An ended writer takes nothing, and says why when it is polled.
            if let Err(PushError::Full) = self.writer.try_push(chunk.clone()) {
                self.ready.push_front(chunk);
                return;
            }
        }
        if !self.more {
            self.writer.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::tests::start;
    use henge_mvcc::{PutRequest, Restorer};

    fn put(shard: &mut Shard, n: u32, value: &[u8]) {
        let request = PutRequest {
            key: &n.to_be_bytes(),
            value,
            ..PutRequest::default()
        };
        shard.machine.store.put(&request).expect("valid");
    }

    /// A turn is held for one slice, however large the store; what is written in between is not in it, and
    /// history waits no longer than the store has something to give.
    #[test]
    fn a_checkpoint_is_made_in_slices_of_the_moment_it_began() {
        let dir = std::env::temp_dir().join(format!("henge-checkpoint-{}", std::process::id()));
        std::fs::create_dir_all(&dir).expect("made");
        let mut shard = start(&[1], 1);
        let value = [7; 1_000];
        (0..2_000).for_each(|n| put(&mut shard, n, &value));
        // One that is larger than a chunk may be.
        put(&mut shard, 5_000, &vec![8; CHUNK_BYTES_MAX + 1]);
        let hash = shard.machine.store.hash_kv(0);
        shard.machine.applied_index = 7;
        assert!(shard.begin_checkpoint(&dir));
        assert!(!start(&[1], 1).begin_checkpoint(&dir), "nothing applied");
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
        drop(running);
        std::fs::remove_dir_all(&dir).expect("there");
    }
}
