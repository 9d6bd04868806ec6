//! A node's own view of itself and its group, copied out for people and metrics.
//!
//! Promises: a copy; looking changes nothing.
//! Must never know: how the copy is shown.
//! Tests: through the transcripts (`status`, `raft-state`).

use std::fmt;

use crate::message::{ConfState, HardState, SoftState};
use crate::progress::ProgressMap;
use crate::quorum::{JointConfig, MajorityConfig};

/// Who is in the group, as the running node keeps it ([`ConfState`] is the stored form).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Membership {
    /// Those who decide.
    pub voters: JointConfig,
    /// Those who get the log and do not decide. Never also voters.
    pub learners: MajorityConfig,
    /// Outgoing voters that become learners when the joint configuration is left.
    pub learners_next: MajorityConfig,
    /// Whether the leader leaves the joint configuration by itself.
    pub auto_leave: bool,
}

impl Membership {
    /// Whether two majorities are needed now.
    pub fn is_joint(&self) -> bool {
        !self.voters.outgoing.is_empty()
    }

    /// Whether one node decides alone.
    pub fn is_singleton(&self) -> bool {
        self.voters.incoming.len() == 1 && !self.is_joint()
    }

    /// Voters of either half and learners.
    pub fn member_count(&self) -> usize {
        self.voters.ids().len() + self.learners.len()
    }

    /// The stored form.
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: self.voters.incoming.as_slice().to_vec(),
            learners: self.learners.as_slice().to_vec(),
            voters_outgoing: self.voters.outgoing.as_slice().to_vec(),
            learners_next: self.learners_next.as_slice().to_vec(),
            auto_leave: self.auto_leave,
        }
    }
}

impl fmt::Display for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "voters={}", self.voters)?;
        if !self.learners.is_empty() {
            write!(f, " learners={}", self.learners)?;
        }
        if !self.learners_next.is_empty() {
            write!(f, " learners_next={}", self.learners_next)?;
        }
        f.write_str(if self.auto_leave { " autoleave" } else { "" })
    }
}

/// Everything there is to know about a node.
#[derive(Clone, Debug)]
pub struct Status {
    /// This node.
    pub id: u64,
    /// Term, vote and commit index, as they will be stored.
    pub hard_state: HardState,
    /// Leader and role.
    pub soft_state: SoftState,
    /// The last applied index.
    pub applied: u64,
    /// The last index of the log.
    pub last_index: u64,
    /// Whom leadership is being handed to, or [`NONE`](crate::NONE).
    pub transferee: u64,
    /// Who is in the group.
    pub membership: Membership,
    /// What the leader knows of each member; empty on others.
    pub progress: ProgressMap,
}
