//! What a candidate and a pre-candidate do with a message: count votes, or give up.
//!
//! Tests: `tests/cluster.rs` and the `campaign` and `prevote` transcripts.

use crate::election::Campaign;
use crate::error::{DropReason, ProposeError, StepError};
use crate::logger::{debug, info};
use crate::message::{Message, MessageKind, NONE, RoleKind};
use crate::planted::{Bug, planted};
use crate::quorum::VoteResult;
use crate::raft::Raft;
use crate::role::Role;
use crate::storage::Storage;

impl<S: Storage> Raft<S> {
    pub(crate) fn step_candidate(&mut self, message: Message) -> Result<(), StepError> {
        let role = self.role_kind();
        match message.kind {
            MessageKind::Prop => {
                let (id, term) = (self.id, self.term);
                info!(
                    self.logger,
                    "{id:x} no leader at term {term}; dropping proposal"
                );
                return Err(StepError::Proposal(ProposeError::Dropped(
                    DropReason::NoLeader,
                )));
            }
            // Somebody else won this term.
            MessageKind::App | MessageKind::Heartbeat | MessageKind::Snap => {
                self.become_follower(message.term, message.from);
                return self.step_follower(message);
            }
            // Answers to the campaign before this one (pre-votes, once we are a candidate) are late.
            MessageKind::PreVoteResp if role == RoleKind::PreCandidate => self.count(&message),
            MessageKind::VoteResp if role == RoleKind::Candidate => self.count(&message),
            MessageKind::TimeoutNow => debug!(
                self.logger,
                "{:x} [term {} state {role}] ignored MsgTimeoutNow from {:x}",
                self.id,
                self.term,
                message.from
            ),
            _ => {}
        }
        Ok(())
    }

    fn count(&mut self, message: &Message) {
        let role = self.role_kind();
        match self.poll(message.from, message.kind, !message.reject) {
            VoteResult::Won if role == RoleKind::PreCandidate => self.campaign(Campaign::Election),
            // The others' votes may suffice before our own term and vote are durable. Were we to lead
            // and crash now, we would come back without knowing of this term, campaign in it again,
            // get the same votes again, and put other entries under the same indexes and term. (Found
            // by `tests/network`, seed 16742; etcd's library, with async storage writes, does that.)
            VoteResult::Won if !self.has_voted_for_itself() => {}
            VoteResult::Won => {
                self.become_leader();
                self.broadcast_append();
            }
            VoteResult::Lost => self.become_follower(self.term, NONE),
            VoteResult::Pending => {}
        }
    }

    fn has_voted_for_itself(&self) -> bool {
        matches!(&self.role, Role::Candidate(votes) if votes.of(self.id) == Some(true))
            || planted(Bug::LeadBeforeDurable)
    }
}
