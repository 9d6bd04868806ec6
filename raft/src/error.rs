//! What can go wrong, and whose fault it is.
//!
//! Promises: one enum per operation; a variant names who misbehaved (caller, peer, storage, us), the
//! thing and the place. Nothing here aborts: a [`Fault`] poisons one group and the process goes on.
//! Must never know: how errors are shown to people beyond their one line.
//! Tests: by those who return them.

use thiserror::Error;

use crate::membership::{ChangeError, DecodeError};
use crate::message::MessageKind;
use crate::storage::StorageError;

/// A configuration or a storage that no node can start from. The caller's fault.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ConfigError {
    /// Ids 0 and the two local targets are taken.
    #[error("node id {0} is reserved: choose another")]
    ReservedId(u64),
    /// See [`Config::heartbeat_tick`](crate::Config::heartbeat_tick).
    #[error("heartbeat_tick must be greater than 0")]
    HeartbeatTick,
    /// See [`Config::election_tick`](crate::Config::election_tick).
    #[error("election_tick {election} must be greater than heartbeat_tick {heartbeat}")]
    ElectionTick {
        /// The given election timeout, in ticks.
        election: u32,
        /// The given heartbeat interval, in ticks.
        heartbeat: u32,
    },
    /// See [`Config::max_inflight_msgs`](crate::Config::max_inflight_msgs).
    #[error("max_inflight_msgs must be greater than 0")]
    InflightMsgs,
    /// See [`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes).
    #[error("max_inflight_bytes {inflight} must be at least max_size_per_msg {message}")]
    InflightBytes {
        /// The given window.
        inflight: u64,
        /// The given message size.
        message: u64,
    },
    /// A lease without CheckQuorum is no lease.
    #[error("check_quorum must be on when read_only is LeaseBased")]
    LeaseNeedsCheckQuorum,
    /// The stored commit index lies outside the stored log: part of the log is lost.
    #[error(
        "stored commit index {commit} is outside the stored log {low}..={high}: was the log truncated or lost?"
    )]
    CommitOutOfRange {
        /// What the stored hard state says.
        commit: u64,
        /// The index before the first stored entry.
        low: u64,
        /// The last stored entry.
        high: u64,
    },
    /// The host says it applied what was never stored, or has not applied what is compacted away.
    #[error(
        "applied index {applied} is outside the stored log {low}..={high}: does the state belong to this log?"
    )]
    AppliedOutOfRange {
        /// [`Config::applied`](crate::Config::applied).
        applied: u64,
        /// The index before the first stored entry.
        low: u64,
        /// The last stored entry.
        high: u64,
    },
    /// The stored membership configuration contradicts itself.
    #[error("stored configuration cannot be restored: {0}")]
    ConfState(ChangeError),
    /// Storage could not be read.
    #[error("storage failed at start: {0}")]
    Storage(#[from] StorageError),
}

/// Why a proposal was not taken. It is certain that it was not done.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum ProposeError {
    /// Try again later, or elsewhere.
    #[error("raft proposal dropped: {0}")]
    Dropped(DropReason),
    /// The caller proposed nothing.
    #[error("a proposal needs at least one entry")]
    Empty,
    /// The caller (or a peer) proposed a membership change that does not decode.
    #[error("proposed configuration change does not decode: {0}")]
    ConfChange(#[from] DecodeError),
    /// This group has stopped; see [`Fault`].
    #[error(transparent)]
    Poisoned(#[from] Fault),
}

/// Why a good proposal was dropped.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum DropReason {
    /// Nobody leads, as far as this node knows.
    #[error("no leader")]
    NoLeader,
    /// [`Config::disable_proposal_forwarding`](crate::Config::disable_proposal_forwarding) is on.
    #[error("not the leader, and forwarding is disabled")]
    ForwardingDisabled,
    /// Leadership is being handed over; the new leader will take proposals.
    #[error("leadership transfer in progress")]
    TransferInProgress,
    /// This leader is no longer a member.
    #[error("this leader was removed from the configuration")]
    Removed,
    /// [`Config::max_uncommitted_entries_size`](crate::Config::max_uncommitted_entries_size) is reached.
    #[error("too many uncommitted bytes")]
    UncommittedFull,
}

/// Why a message was refused. Unless it is `Poisoned`, the node is as it was before, and goes on.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum StepError {
    /// A peer sent what only this node may say to itself.
    #[error("raft: cannot step raft local message")]
    LocalMessage {
        /// What was sent.
        kind: MessageKind,
        /// By whom.
        from: u64,
    },
    /// An answer came from a node that is not in the configuration.
    #[error("raft: cannot step as peer not found")]
    PeerNotFound {
        /// What was sent.
        kind: MessageKind,
        /// By whom.
        from: u64,
    },
    /// The message is for another node: the host's routing is wrong.
    #[error("{kind} from {from} is for node {to}, not for {id}")]
    WrongTarget {
        /// What was sent.
        kind: MessageKind,
        /// By whom.
        from: u64,
        /// To whom.
        to: u64,
        /// Who got it.
        id: u64,
    },
    /// A peer sent a message whose fields contradict each other.
    #[error("malformed {kind} from {from}: {what}")]
    Malformed {
        /// What was sent.
        kind: MessageKind,
        /// By whom.
        from: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A peer, as leader, wants to replace an entry that is committed here. One of the two lost its
    /// log, or two clusters share ids: compare both logs at this index before doing anything.
    #[error(
        "entry {index} from leader {from} conflicts with the committed log (committed {committed})"
    )]
    ConflictsWithCommitted {
        /// Where.
        index: u64,
        /// Our commit index.
        committed: u64,
        /// The leader.
        from: u64,
    },
    /// A peer acknowledges entries we do not have.
    #[error("{from} acknowledged index {index}, but our log ends at {last}")]
    AckBeyondLog {
        /// Who.
        from: u64,
        /// What it claims to hold.
        index: u64,
        /// Our last index.
        last: u64,
    },
    /// A peer, as leader, names a commit index past our log: our tail is lost. A reject with a hint
    /// was sent.
    #[error(
        "leader {from} says index {commit} is committed, but our log ends at {last}: was the log truncated or lost?"
    )]
    CommitBeyondLog {
        /// The leader.
        from: u64,
        /// What it says is committed.
        commit: u64,
        /// Our last index.
        last: u64,
    },
    /// A peer sent a snapshot whose configuration contradicts itself.
    #[error("snapshot at index {index} from {from} carries an invalid configuration: {error}")]
    BadSnapshot {
        /// The leader.
        from: u64,
        /// The snapshot's index.
        index: u64,
        /// What is wrong.
        error: ChangeError,
    },
    /// Local storage answered for entries it was never given.
    #[error(
        "storage says index {index} is applied, but commit is {committed} and applied {applied}"
    )]
    AppliedOutOfRange {
        /// What it says.
        index: u64,
        /// Our commit index.
        committed: u64,
        /// Our applied index.
        applied: u64,
    },
    /// A (forwarded) proposal was not taken.
    #[error(transparent)]
    Proposal(ProposeError),
    /// This group has stopped; see [`Fault`].
    #[error(transparent)]
    Poisoned(#[from] Fault),
}

/// What stopped this group for good: every later call answers with it, and no Ready has work. Other
/// groups of the process are not touched. The safe next step is to restart the group from storage.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Fault {
    /// Storage broke its contract.
    #[error("raft group stopped: storage failed to {what}: {error}")]
    Storage {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        error: StorageError,
    },
    /// We did: a bug in this crate. The group refuses to act on a state it does not understand.
    #[error("raft group stopped: invariant broken: {0}")]
    Invariant(&'static str),
}
