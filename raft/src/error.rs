//! What can go wrong, and whose fault it is.
//!
//! Promises: one enum per operation; a variant names who misbehaved (caller, peer, storage, us), the
//! thing and the place. Nothing here aborts: a [`Fault`] poisons one group and the process goes on.
//! Must never know: how errors are shown to people beyond their one line.
//! Tests: by those who return them.

use std::fmt;

use crate::membership::{ChangeError, DecodeError};
use crate::message::MessageKind;
use crate::storage::StorageError;

/// A configuration or a storage that no node can start from. The caller's fault.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ConfigError {
    /// Ids 0 and the two local targets are taken.
    ReservedId(u64),
    /// See [`Config::heartbeat_tick`](crate::Config::heartbeat_tick).
    HeartbeatTick,
    /// See [`Config::election_tick`](crate::Config::election_tick).
    ElectionTick {
        /// The given election timeout, in ticks.
        election: u32,
        /// The given heartbeat interval, in ticks.
        heartbeat: u32,
    },
    /// See [`Config::max_inflight_msgs`](crate::Config::max_inflight_msgs).
    InflightMsgs,
    /// See [`Config::max_inflight_bytes`](crate::Config::max_inflight_bytes).
    InflightBytes {
        /// The given window.
        inflight: u64,
        /// The given message size.
        message: u64,
    },
    /// A lease without CheckQuorum is no lease.
    LeaseNeedsCheckQuorum,
    /// The stored commit index lies outside the stored log: part of the log is lost.
    CommitOutOfRange {
        /// What the stored hard state says.
        commit: u64,
        /// The index before the first stored entry.
        low: u64,
        /// The last stored entry.
        high: u64,
    },
    /// The host says it applied what was never stored, or has not applied what is compacted away.
    AppliedOutOfRange {
        /// [`Config::applied`](crate::Config::applied).
        applied: u64,
        /// The index before the first stored entry.
        low: u64,
        /// The last stored entry.
        high: u64,
    },
    /// The stored membership configuration contradicts itself.
    ConfState(ChangeError),
    /// Storage could not be read.
    Storage(StorageError),
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ConfigError::ReservedId(inner) => {
                write!(f, "node id {inner} is reserved: choose another")
            }
            ConfigError::HeartbeatTick => f.write_str("heartbeat_tick must be greater than 0"),
            ConfigError::ElectionTick {
                election,
                heartbeat,
            } => write!(
                f,
                "election_tick {election} must be greater than heartbeat_tick {heartbeat}"
            ),
            ConfigError::InflightMsgs => f.write_str("max_inflight_msgs must be greater than 0"),
            ConfigError::InflightBytes { inflight, message } => write!(
                f,
                "max_inflight_bytes {inflight} must be at least max_size_per_msg {message}"
            ),
            ConfigError::LeaseNeedsCheckQuorum => {
                f.write_str("check_quorum must be on when read_only is LeaseBased")
            }
            ConfigError::CommitOutOfRange { commit, low, high } => write!(
                f,
                "stored commit index {commit} is outside the stored log {low}..={high}: was the log \
                truncated or lost?"
            ),
            ConfigError::AppliedOutOfRange { applied, low, high } => write!(
                f,
                "applied index {applied} is outside the stored log {low}..={high}: does the state belong to \
                this log?"
            ),
            ConfigError::ConfState(inner) => {
                write!(f, "stored configuration cannot be restored: {inner}")
            }
            ConfigError::Storage(inner) => write!(f, "storage failed at start: {inner}"),
        }
    }
}

impl std::error::Error for ConfigError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ConfigError::Storage(error) => Some(error),
            _ => None,
        }
    }
}

impl From<StorageError> for ConfigError {
    fn from(error: StorageError) -> ConfigError {
        ConfigError::Storage(error)
    }
}

/// Why a proposal was not taken. It is certain that it was not done.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProposeError {
    /// Try again later, or elsewhere.
    Dropped(DropReason),
    /// The caller proposed nothing.
    Empty,
    /// The caller (or a peer) proposed a membership change that does not decode.
    ConfChange(DecodeError),
    /// This group has stopped; see [`Fault`].
    Poisoned(Fault),
}

impl fmt::Display for ProposeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ProposeError::Dropped(inner) => write!(f, "raft proposal dropped: {inner}"),
            ProposeError::Empty => f.write_str("a proposal needs at least one entry"),
            ProposeError::ConfChange(inner) => {
                write!(f, "proposed configuration change does not decode: {inner}")
            }
            ProposeError::Poisoned(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for ProposeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ProposeError::ConfChange(error) => Some(error),
            ProposeError::Poisoned(error) => Some(error),
            _ => None,
        }
    }
}

impl From<DecodeError> for ProposeError {
    fn from(error: DecodeError) -> ProposeError {
        ProposeError::ConfChange(error)
    }
}

impl From<Fault> for ProposeError {
    fn from(error: Fault) -> ProposeError {
        ProposeError::Poisoned(error)
    }
}

/// Why a good proposal was dropped.
#[non_exhaustive]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Nobody leads, as far as this node knows.
    NoLeader,
    /// [`Config::disable_proposal_forwarding`](crate::Config::disable_proposal_forwarding) is on.
    ForwardingDisabled,
    /// Leadership is being handed over; the new leader will take proposals.
    TransferInProgress,
    /// This leader is no longer a member.
    Removed,
    /// [`Config::max_uncommitted_entries_size`](crate::Config::max_uncommitted_entries_size) is reached.
    UncommittedFull,
}

impl fmt::Display for DropReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DropReason::NoLeader => f.write_str("no leader"),
            DropReason::ForwardingDisabled => {
                f.write_str("not the leader, and forwarding is disabled")
            }
            DropReason::TransferInProgress => f.write_str("leadership transfer in progress"),
            DropReason::Removed => f.write_str("this leader was removed from the configuration"),
            DropReason::UncommittedFull => f.write_str("too many uncommitted bytes"),
        }
    }
}

impl std::error::Error for DropReason {}

/// Why a message was refused. Unless it is `Poisoned`, the node goes on: it may have taken the message's
/// later term, and the sign that its sender is alive, but nothing of what was wrong with it.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StepError {
    /// A peer sent what only this node may say to itself.
    LocalMessage {
        /// What was sent.
        kind: MessageKind,
        /// By whom.
        from: u64,
    },
    /// An answer came from a node that is not in the configuration.
    PeerNotFound {
        /// What was sent.
        kind: MessageKind,
        /// By whom.
        from: u64,
    },
    /// The message is for another node: the host's routing is wrong.
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
    Malformed {
        /// What was sent.
        kind: MessageKind,
        /// By whom.
        from: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// A peer, as leader, names another entry than the one that is committed here, in an append or as the
    /// end of a snapshot. It gets no answer. One of the two lost its log, or two clusters share ids:
    /// compare both logs at this index before doing anything.
    ConflictsWithCommitted {
        /// Where.
        index: u64,
        /// Our commit index.
        committed: u64,
        /// The leader.
        from: u64,
    },
    /// A peer acknowledges entries we do not have.
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
    CommitBeyondLog {
        /// The leader.
        from: u64,
        /// What it says is committed.
        commit: u64,
        /// Our last index.
        last: u64,
    },
    /// A peer sent a snapshot whose configuration contradicts itself.
    BadSnapshot {
        /// The leader.
        from: u64,
        /// The snapshot's index.
        index: u64,
        /// What is wrong.
        error: ChangeError,
    },
    /// Local storage answered for entries it was never given.
    AppliedOutOfRange {
        /// What it says.
        index: u64,
        /// Our commit index.
        committed: u64,
        /// Our applied index.
        applied: u64,
    },
    /// A (forwarded) proposal was not taken.
    Proposal(ProposeError),
    /// This group has stopped; see [`Fault`].
    Poisoned(Fault),
}

impl fmt::Display for StepError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StepError::LocalMessage { .. } => f.write_str("raft: cannot step raft local message"),
            StepError::PeerNotFound { .. } => f.write_str("raft: cannot step as peer not found"),
            StepError::WrongTarget { kind, from, to, id } => {
                write!(f, "{kind} from {from} is for node {to}, not for {id}")
            }
            StepError::Malformed { kind, from, what } => {
                write!(f, "malformed {kind} from {from}: {what}")
            }
            StepError::ConflictsWithCommitted {
                index,
                committed,
                from,
            } => write!(
                f,
                "entry {index} from leader {from} conflicts with the committed log (committed {committed})"
            ),
            StepError::AckBeyondLog { from, index, last } => write!(
                f,
                "{from} acknowledged index {index}, but our log ends at {last}"
            ),
            StepError::CommitBeyondLog { from, commit, last } => write!(
                f,
                "leader {from} says index {commit} is committed, but our log ends at {last}: was the log \
                truncated or lost?"
            ),
            StepError::BadSnapshot { from, index, error } => write!(
                f,
                "snapshot at index {index} from {from} carries an invalid configuration: {error}"
            ),
            StepError::AppliedOutOfRange {
                index,
                committed,
                applied,
            } => write!(
                f,
                "storage says index {index} is applied, but commit is {committed} and applied {applied}"
            ),
            StepError::Proposal(error) => fmt::Display::fmt(error, f),
            StepError::Poisoned(error) => fmt::Display::fmt(error, f),
        }
    }
}

impl std::error::Error for StepError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            StepError::Poisoned(error) => Some(error),
            _ => None,
        }
    }
}

impl From<Fault> for StepError {
    fn from(error: Fault) -> StepError {
        StepError::Poisoned(error)
    }
}

/// What stopped this group for good: every later call answers with it, and no Ready has work. Other
/// groups of the process are not touched. The safe next step is to restart the group from storage.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Storage broke its contract.
    Storage {
        /// What was asked of it.
        what: &'static str,
        /// What it said.
        error: StorageError,
    },
    /// We did: a bug in this crate. The group refuses to act on a state it does not understand.
    Invariant(&'static str),
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Storage { what, error } => {
                write!(f, "raft group stopped: storage failed to {what}: {error}")
            }
            Fault::Invariant(inner) => write!(f, "raft group stopped: invariant broken: {inner}"),
        }
    }
}

impl std::error::Error for Fault {}
