//! The four roles, each with the data only it has, and what each does with a message.

mod candidate;
mod follower;
mod leader;

use crate::message::{NONE, RoleKind};
use crate::reads::Reads;

/// What a node is now. Leaving a role forgets its data.
#[derive(Debug)]
pub(crate) enum Role {
    Follower,
    PreCandidate(Votes),
    Candidate(Votes),
    Leader(Box<Leadership>),
}

impl Role {
    pub(crate) fn kind(&self) -> RoleKind {
        match self {
            Role::Follower => RoleKind::Follower,
            Role::PreCandidate(_) => RoleKind::PreCandidate,
            Role::Candidate(_) => RoleKind::Candidate,
            Role::Leader(_) => RoleKind::Leader,
        }
    }
}

/// The answers a (pre-)candidate got.
#[derive(Debug, Default)]
pub(crate) struct Votes(Vec<(u64, bool)>);

impl Votes {
    pub(crate) fn record(&mut self, from: u64, granted: bool) {
        if self.of(from).is_none() {
            self.0.push((from, granted));
        }
    }

    pub(crate) fn of(&self, id: u64) -> Option<bool> {
        self.0
            .iter()
            .find(|(from, _)| *from == id)
            .map(|(_, granted)| *granted)
    }
}

/// What only a leader has.
#[derive(Debug)]
pub(crate) struct Leadership {
    pub(crate) heartbeat_elapsed: u32,
    /// Whom leadership is being handed to (thesis, 3.10), or [`NONE`].
    pub(crate) transferee: u64,
    /// Not below the index of the last proposed membership change; while it is not applied, no other
    /// may be proposed.
    pub(crate) pending_conf_index: u64,
    /// Index of the first entry of this term. What is not below it is of this term, and only that may
    /// be committed by counting (raft paper, 5.4.2).
    pub(crate) term_start: u64,
    /// Payload bytes appended in this term and not yet applied. Can be too low, never too high.
    pub(crate) uncommitted_bytes: u64,
    pub(crate) reads: Reads,
    /// Another node was told to campaign at once: it may be elected while our followers still hear from
    /// us, and our lease says nothing any more (thesis, 6.4.1).
    pub(crate) is_lease_void: bool,
}

impl Leadership {
    /// For a leader whose log ends at `last` before it appends anything.
    pub(crate) fn new(last: u64) -> Leadership {
        Leadership {
            heartbeat_elapsed: 0,
            transferee: NONE,
            pending_conf_index: last,
            term_start: last + 1,
            uncommitted_bytes: 0,
            reads: Reads::default(),
            is_lease_void: false,
        }
    }
}
