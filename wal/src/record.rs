//! The records of a batch: what the caller staged, byte by byte, and how they are read back.
//!
//! A record is an 8-byte head (type, kind, length of the body) and a body padded to 8 bytes.
//! Decoding takes bytes whose checksum was right, and still believes nothing: lengths are checked
//! against what is there, and an odd record ends the decoding with a reason.

use crate::GroupId;

/// One record of the log, as replayed at open, in log order.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A raft entry. One that repeats an index replaces it and everything after it.
    Entry {
        /// The group.
        group: GroupId,
        /// Raft term.
        term: u64,
        /// Raft index.
        index: u64,
        /// The caller's kind of entry (normal, configuration change, …).
        kind: u8,
        /// The caller's bytes.
        payload: &'a [u8],
    },
    /// A group's hard state: the last one replayed counts.
    HardState {
        /// The group.
        group: GroupId,
        /// Current term.
        term: u64,
        /// Member voted for in that term; 0 for none.
        vote: u64,
        /// Commit index.
        commit: u64,
    },
    /// The group's entries up to `index` are in a checkpoint and no longer needed here.
    Compacted {
        /// The group.
        group: GroupId,
        /// Last compacted index.
        index: u64,
        /// Its term.
        term: u64,
    },
    /// The group left this log: whatever was replayed of it before does not count.
    Removed {
        /// The group.
        group: GroupId,
    },
}

/// Takes the records of a log as it is opened. Memory of the log itself is bounded by a segment.
pub trait Replay {
    /// The next record, in log order.
    fn record(&mut self, record: Record<'_>);
}

/// For callers that need no replay (tools, tests).
impl Replay for () {
    fn record(&mut self, _: Record<'_>) {}
}

impl<F: FnMut(Record<'_>)> Replay for F {
    fn record(&mut self, record: Record<'_>) {
        self(record);
    }
}
