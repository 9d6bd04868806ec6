//! What happens in a node, as values: for metrics, for checkers, for following one entry through a group.
//!
//! Promises: every change of role, term, vote, leader, commit index, log end and configuration is told
//! when it happens, in order, so that a listener who heard everything knows the node's state; so is every
//! append, snapshot and read. Without a tracer an event is not even put together.
//! Must never know: what becomes of an event. Nothing in this crate reads them.
//! Tests: `tests/trace.rs` rebuilds each node's state from its events alone.

use std::fmt;
use std::sync::Arc;

use crate::error::Fault;
use crate::message::{ConfState, EntryId, RoleKind};

/// Something that happened in a node.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TraceEvent {
    /// It goes on from what was stored; its role is follower. A [`TraceEvent::ConfChanged`] precedes it.
    Started {
        /// Its term.
        term: u64,
        /// Its vote in that term, or [`NONE`](crate::NONE).
        vote: u64,
        /// What it knows to be committed.
        commit: u64,
        /// The end of its log.
        last: EntryId,
    },
    /// A new term. Its vote is not given yet.
    TermChanged {
        /// Which.
        term: u64,
    },
    /// A new role; again the same one at the start of a term, too.
    RoleChanged {
        /// Which.
        role: RoleKind,
    },
    /// It believes in another leader.
    LeaderChanged {
        /// Which, or [`NONE`](crate::NONE).
        leader: u64,
    },
    /// It gave its vote in its term.
    Voted {
        /// To whom; to itself as a candidate.
        candidate: u64,
    },
    /// Its log has other entries at the end: a leader's own, or what an append brought.
    LogChanged {
        /// The first that is new.
        first: u64,
        /// The end of the log.
        last: EntryId,
    },
    /// It knows of more that is committed.
    Committed {
        /// Up to where.
        index: u64,
    },
    /// As leader, it sent an append.
    AppendSent {
        /// To whom.
        to: u64,
        /// The entry before those that are sent.
        before: EntryId,
        /// How many are sent.
        count: usize,
        /// The commit index that goes with them.
        commit: u64,
    },
    /// An append came in.
    AppendReceived {
        /// From whom.
        from: u64,
        /// The entry before those that were sent.
        before: EntryId,
        /// How many were sent.
        count: usize,
        /// The commit index that came with them.
        commit: u64,
    },
    /// As leader, it heard that a member (or its own storage) has everything up to an index.
    AppendAcknowledged {
        /// From whom.
        from: u64,
        /// Up to where.
        index: u64,
    },
    /// As leader, it heard that a follower could not append.
    AppendRejected {
        /// From whom.
        from: u64,
        /// Behind which entry.
        index: u64,
        /// Where the follower's log may match.
        hint: EntryId,
    },
    /// As leader, it sent a snapshot.
    SnapshotSent {
        /// To whom.
        to: u64,
        /// The last entry it contains.
        last: EntryId,
    },
    /// A snapshot took the place of its log; all of it is committed.
    SnapshotRestored {
        /// The last entry it contains.
        last: EntryId,
    },
    /// It uses another configuration.
    ConfChanged {
        /// Which.
        state: ConfState,
    },
    /// As leader, it made sure that a read may be served.
    ReadConfirmed {
        /// Who asked: a member, or [`NONE`](crate::NONE) for its own host.
        from: u64,
        /// As soon as this index is applied.
        index: u64,
    },
    /// It stopped for good.
    Stopped {
        /// Why.
        fault: Fault,
    },
}

/// Takes events. Called in the middle of what happens: it must return soon, and cannot ask the node.
pub trait Tracer: Send + Sync {
    /// `event` happened in node `id`.
    fn trace(&self, id: u64, event: TraceEvent);
}

/// A tracer or none; what the rest of the crate holds.
#[derive(Clone, Default)]
pub(crate) struct Trace {
    pub(crate) id: u64,
    pub(crate) tracer: Option<Arc<dyn Tracer>>,
}

impl Trace {
    #[inline]
    pub(crate) fn emit(&self, event: impl FnOnce() -> TraceEvent) {
        if let Some(tracer) = &self.tracer {
            tracer.trace(self.id, event());
        }
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = if self.tracer.is_some() { "on" } else { "off" };
        write!(f, "Trace({state})")
    }
}
