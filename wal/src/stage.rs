//! Where records wait, encoded, until they are written: a queue of batches, of which the last is
//! open. Each payload is copied once, into the very buffer the disk will be given.
//!
//! A turn's records stay in one batch. When a turn ends and the batch has reached
//! `batch_bytes_max`, the next turn opens another one; while writes must wait, turns share a batch
//! (that is the group commit). Only a turn that does not fit into a segment is split. An entry that fits
//! into none is alone in its batch, for which a segment is made that is large enough.

use std::collections::VecDeque;

use crate::batch::{HEADER_BYTES, batch_bytes};
use crate::disk::AlignedBuf;
use crate::groups::{Change, Touches};
use crate::record::{self, HardState};
use crate::{ENTRY_BYTES_MAX, GroupId, Lsn, ReadEntry, WalError};

/// Buffers kept for reuse.
const POOL_MAX: usize = 16;
/// A buffer larger than this is given back to the allocator.
const POOLED_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a new buffer can hold without moving. Beyond it lie huge pages.
const BUF_BYTES: usize = 32 * 1024;

/// A batch before it is sealed.
#[derive(Debug)]
pub(crate) struct Batch {
    pub(crate) lsn: Lsn,
    /// 128 bytes of room for the header, then the records.
    pub(crate) buf: AlignedBuf,
    pub(crate) records: u32,
    pub(crate) entries: u64,
    pub(crate) payload_bytes: u64,
    pub(crate) touches: Touches,
}

/// The staged batches.
#[derive(Debug)]
pub(crate) struct Stage {
    /// Closed ones, oldest first.
    closed: VecDeque<Batch>,
    open: Batch,
    /// The records of the open batch are all of ended turns.
    turn_ended: bool,
    batch_bytes_max: usize,
    /// Most bytes of a batch on disk, so that it fits into a segment.
    fit_bytes_max: usize,
    pool: Vec<AlignedBuf>,
    spare: Vec<Touches>,
}

impl Stage {
    /// `fit_bytes_max`: what a segment can hold beside its headers.
    pub(crate) fn new(lsn: Lsn, batch_bytes_max: usize, fit_bytes_max: usize) -> Self {
        let mut stage = Self {
            closed: VecDeque::new(),
            open: Batch {
                lsn,
                buf: AlignedBuf::default(),
                records: 0,
                entries: 0,
                payload_bytes: 0,
                touches: Touches::default(),
            },
            turn_ended: true,
            batch_bytes_max,
            fit_bytes_max,
            pool: Vec::new(),
            spare: Vec::new(),
        };
        stage.open = stage.fresh(lsn);
        stage
    }

    pub(crate) fn entry(
        &mut self,
        group: GroupId,
        term: u64,
        index: u64,
        kind: u8,
        payload: &[u8],
    ) -> Result<Lsn, WalError> {
        let (bytes, max) = (payload.len(), ENTRY_BYTES_MAX);
        if bytes > max {
            return Err(WalError::EntryTooLarge { bytes, max });
        }
        let batch = self.room(record::entry_bytes(bytes));
        record::put_entry(&mut batch.buf, group, term, index, kind, payload);
        batch.touches.entry(group, term, index, bytes);
        batch.records += 1;
        batch.entries += 1;
        batch.payload_bytes += bytes as u64;
        Ok(batch.lsn)
    }

    pub(crate) fn hard(&mut self, group: GroupId, hard: HardState) -> Lsn {
        let batch = self.room(record::HEAD_BYTES + 32);
        record::put_hard_state(&mut batch.buf, group, hard);
        batch.touches.hard(group, hard);
        batch.records += 1;
        batch.lsn
    }

    pub(crate) fn change(&mut self, group: GroupId, change: Change) -> Lsn {
        let batch = self.room(record::HEAD_BYTES + 24);
        let buf = &mut batch.buf;
        match change {
            Change::None => return batch.lsn,
            Change::Compacted(index, term) => record::put_compacted(buf, group, index, term),
            Change::Restored(index, term) => record::put_restored(buf, group, index, term),
            Change::Removed => record::put_removed(buf, group),
        }
        batch.touches.change(group, change);
        batch.records += 1;
        batch.lsn
    }

    /// The caller's turn is over.
    pub(crate) fn end_turn(&mut self) {
        self.turn_ended = true;
    }

    /// Something is staged.
    pub(crate) fn has_any(&self) -> bool {
        !self.closed.is_empty() || self.open.records > 0
    }

    /// Everything staged belongs to ended turns.
    pub(crate) fn is_turn_ended(&self) -> bool {
        self.turn_ended
    }

    pub(crate) fn lsn(&self) -> Lsn {
        self.open.lsn
    }

    pub(crate) fn bytes(&self) -> usize {
        let closed: usize = self.closed.iter().map(|b| b.buf.len()).sum();
        let open = if self.open.records > 0 {
            self.open.buf.len()
        } else {
            0
        };
        closed + open
    }

    /// Most bytes of a batch on disk.
    pub(crate) fn fit_bytes_max(&self) -> usize {
        self.fit_bytes_max
    }

    /// Something of the group is staged.
    pub(crate) fn touches(&self, group: GroupId) -> bool {
        let batches = self.closed.iter().chain([&self.open]);
        batches.into_iter().any(|batch| batch.touches.has(group))
    }

    /// See to it that these entries go into one batch.
    pub(crate) fn room_for(&mut self, entries: &[ReadEntry]) {
        let bytes = entries
            .iter()
            .map(|e| record::entry_bytes(e.payload.len()))
            .sum::<usize>();
        let records = self.open.buf.len() - HEADER_BYTES;
        let large = self.turn_ended && records >= self.batch_bytes_max;
        let full = batch_bytes(records + bytes, self.open.touches.len() + 1) > self.fit_bytes_max;
        if self.open.records > 0 && (large || full) {
            let next = self.fresh(self.open.lsn + 1);
            self.closed
                .push_back(std::mem::replace(&mut self.open, next));
        }
        self.turn_ended = false;
    }

    /// Record bytes and touches of the batch that [`Stage::take`] will give.
    pub(crate) fn next_size(&self) -> (usize, usize) {
        let next = self.closed.front().unwrap_or(&self.open);
        (next.buf.len() - HEADER_BYTES, next.touches.len())
    }

    /// The oldest batch, to be written. Also gives an empty one (a mark in the log).
    pub(crate) fn take(&mut self) -> Batch {
        if let Some(batch) = self.closed.pop_front() {
            return batch;
        }
        let next = self.fresh(self.open.lsn + 1);
        std::mem::replace(&mut self.open, next)
    }

    /// A buffer whose write is done.
    pub(crate) fn give_back(&mut self, mut buf: AlignedBuf) {
        if self.pool.len() < POOL_MAX && buf.capacity() <= POOLED_BYTES_MAX {
            buf.clear();
            self.pool.push(buf);
        }
    }

    /// The touches of a batch that was sealed.
    pub(crate) fn give_back_touches(&mut self, mut touches: Touches) {
        if self.spare.len() < POOL_MAX {
            touches.clear();
            self.spare.push(touches);
        }
    }

    /// The batch that takes the next record of `bytes` bytes.
    fn room(&mut self, bytes: usize) -> &mut Batch {
        let new_turn = std::mem::take(&mut self.turn_ended);
        let records = self.open.buf.len() - HEADER_BYTES;
        let large = new_turn && records >= self.batch_bytes_max;
        let full = batch_bytes(records + bytes, self.open.touches.len() + 1) > self.fit_bytes_max;
        if self.open.records > 0 && (large || full) {
            let next = self.fresh(self.open.lsn + 1);
            self.closed
                .push_back(std::mem::replace(&mut self.open, next));
        }
        &mut self.open
    }

    fn fresh(&mut self, lsn: Lsn) -> Batch {
        let mut buf = self
            .pool
            .pop()
            .unwrap_or_else(|| AlignedBuf::with_capacity(BUF_BYTES));
        buf.resize(HEADER_BYTES);
        let touches = self.spare.pop().unwrap_or_default();
        Batch {
            lsn,
            buf,
            records: 0,
            entries: 0,
            payload_bytes: 0,
            touches,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_share_a_batch_until_it_is_large() {
        let mut stage = Stage::new(5, 8192, 1 << 20);
        assert!(!stage.has_any());
        for turn in 0..3 {
            let lsn = stage.entry(1, 1, turn, 0, &[0; 5_000]).expect("small");
            // The second turn brings the batch over 8 KiB; the third opens the next.
            assert_eq!(lsn, if turn < 2 { 5 } else { 6 });
            stage.end_turn();
        }
        assert_eq!(stage.take().records, 2);
        assert_eq!(
            (stage.take().lsn, stage.has_any(), stage.lsn()),
            (6, false, 7)
        );
    }

    #[test]
    fn a_turn_is_split_only_where_a_segment_ends() {
        let mut stage = Stage::new(1, 4096, 40_960);
        for i in 0..4 {
            let lsn = stage.entry(1, 1, i, 0, &[0; 15_000]).expect("small");
            assert_eq!(lsn, 1 + i / 2);
        }
        // What fits into no segment is alone.
        assert_eq!(stage.entry(1, 1, 4, 0, &[0; 50_000]), Ok(3));
        assert_eq!(stage.entry(1, 1, 5, 0, &[0; 10]), Ok(4));
        let max = ENTRY_BYTES_MAX;
        assert!(stage.entry(1, 1, 9, 0, &vec![0; max]).is_ok());
        assert_eq!(
            stage.entry(1, 1, 9, 0, &vec![0; max + 1]),
            Err(WalError::EntryTooLarge {
                bytes: max + 1,
                max
            })
        );
    }
}
