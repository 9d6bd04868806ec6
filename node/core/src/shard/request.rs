//! A request on its way into a shard.
//!
//! `answer` is the other direction: the handle that answers the caller.
//! Must never know: how it is carried out.

pub use super::answer::{Answer, AnswerReceiver};
use super::cursor::Cursor;

/// What a waiting write takes beside its own bytes: its places in queues, and its caller's slot.
pub const REQUEST_BYTES: usize = 256;

/// One request of one caller.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub kind: RequestKind,
    /// Whom to answer.
    pub answer: Answer,
}

/// What a caller can ask of a shard.
#[derive(Debug)]
pub enum RequestKind {
    /// An encoded command that goes through the log.
    Write(Vec<u8>),
    /// An encoded range or read-only transaction.
    Read {
        /// The command.
        encoded: Vec<u8>,
        /// Answer from this replica at once, maybe stale.
        serializable: bool,
    },
    /// Begin to read a range in slices, linearizably.
    CursorBegin {
        /// The range.
        encoded: Vec<u8>,
        /// Where to keep it.
        cursor: Cursor,
    },
    /// The next slice.
    CursorNext(Cursor),
    /// Renew a lease.
    LeaseKeepAlive(i64),
    /// Ask about a lease.
    LeaseTimeToLive {
        /// Which.
        id: i64,
        /// With its keys.
        keys: bool,
    },
    /// List leases.
    Leases,
    /// Hash the content at a revision.
    HashKv(i64),
    /// List the alarms.
    Alarms,
    /// This member's view of itself.
    Status,
    /// Answer once everything committed before is applied here.
    Barrier,
}

impl RequestKind {
    /// Bytes it occupies while it waits.
    pub fn bytes(&self) -> usize {
        match self {
            RequestKind::Write(encoded)
            | RequestKind::Read { encoded, .. }
            | RequestKind::CursorBegin { encoded, .. } => encoded.len(),
            _ => 0,
        }
    }

    /// What it takes of its core's and its shard's budgets until it is answered. Reads are answered in the
    /// turn that takes them, or wait for one that is: the inbox's own bound is theirs.
    pub fn held_bytes(&self) -> usize {
        match self {
            RequestKind::Write(encoded) => encoded.len() + REQUEST_BYTES,
            _ => 0,
        }
    }
}
