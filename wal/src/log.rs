//! The open log: stage, submit, poll, read back, close.

use std::path::Path;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::disk::Disk;
use crate::{
    GroupId, Identity, Lsn, OpenError, OpenReport, Options, ReadError, Replay, Stats, WalError,
};

/// Names a read in flight.
pub type ReadId = u64;

/// An entry read back from the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReadEntry {
    /// Raft term.
    pub term: u64,
    /// Raft index.
    pub index: u64,
    /// The caller's kind.
    pub kind: u8,
    /// The caller's bytes.
    pub payload: Bytes,
}

/// What [`Wal::poll`] has to say.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// This batch and all before it are durable.
    Durable(Lsn),
    /// A read ended.
    Read {
        /// As given by [`Wal::read`].
        id: ReadId,
        /// Entries from `lo` on, at least one, or why there are none.
        result: Result<Vec<ReadEntry>, ReadError>,
    },
    /// No new segment can be made for lack of space: refuse writes, compact, free space. The log
    /// goes on while ready segments last, and retries by itself.
    SpaceLow,
    /// There is space again.
    SpaceOk,
    /// A write failed. Said once; nothing is acknowledged after it.
    Poisoned(WalError),
    /// [`Wal::close`] is done: everything submitted is durable and the files can be dropped.
    Closed,
}

/// One core's write-ahead log. Owned by the core's thread.
pub struct Wal {
    disk: Box<dyn Disk>,
}

impl Wal {
    /// Open or create the log in `dir`, replaying what it holds. Blocks; called before the core's
    /// loop starts.
    pub fn open(
        dir: &Path,
        options: &Options,
        identity: &Identity,
        disk: Box<dyn Disk>,
        replay: &mut dyn Replay,
    ) -> Result<(Self, OpenReport), OpenError> {
        let _ = (dir, options, identity, replay);
        Ok((Self { disk }, OpenReport::default()))
    }

    /// Stage a raft entry; no I/O. Returns the batch it will be in. One copy of the payload is made.
    pub fn entry(
        &mut self,
        group: GroupId,
        term: u64,
        index: u64,
        kind: u8,
        payload: &[u8],
    ) -> Result<Lsn, WalError> {
        let _ = (group, term, index, kind, payload);
        Ok(0)
    }

    /// Stage a group's hard state; no I/O.
    pub fn hard_state(&mut self, group: GroupId, term: u64, vote: u64, commit: u64) -> Lsn {
        let _ = (group, term, vote, commit);
        0
    }

    /// Stage that the group's entries up to `index` are in a checkpoint; segments that nobody
    /// needs any more are recycled once this is durable.
    pub fn compacted(&mut self, group: GroupId, index: u64, term: u64) -> Lsn {
        let _ = (group, index, term);
        0
    }

    /// Stage that the group leaves this log.
    pub fn remove(&mut self, group: GroupId) -> Lsn {
        let _ = group;
        0
    }

    /// Bytes staged and not yet submitted.
    pub fn staged_bytes(&self) -> usize {
        0
    }

    /// The batch that what was staged last is in: once it is durable, all of it is.
    pub fn staged_lsn(&self) -> Lsn {
        0
    }

    /// Write the oldest staged batch. Marks the end of a turn.
    ///
    /// `None`: nothing is staged, or it must wait (`depth` writes in flight, no segment ready); then
    /// it is remembered and [`Wal::poll`] submits it as soon as it can.
    pub fn submit(&mut self) -> Result<Option<Lsn>, WalError> {
        Ok(None)
    }

    /// Take the next event.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        self.disk.poll(cx).map(|_| Event::SpaceOk)
    }

    /// Read the group's entries `lo..=hi` back, up to about `max_bytes` of payload but at least one
    /// entry. Ends in [`Event::Read`].
    pub fn read(&mut self, group: GroupId, lo: u64, hi: u64, max_bytes: usize) -> ReadId {
        let _ = (group, lo, hi, max_bytes);
        0
    }

    /// Running figures.
    pub fn stats(&self) -> Stats {
        Stats::default()
    }

    /// Submit what is staged and finish: poll until [`Event::Closed`], then drop the log.
    pub fn close(&mut self) {}
}
