//! What a running node does when its configuration changes: on start, with a snapshot, or when a
//! committed change is applied.
//!
//! Promises: a change that cannot be made leaves everything as it was.
//! Must never know: how the new configuration came about.
//! Tests: `tests/cluster.rs` and the `confchange` transcripts.

use crate::logger::info;
use crate::membership::{ChangeError, Changer, ConfChangeV2, restore};
use crate::message::{ConfState, NONE};
use crate::progress::ProgressMap;
use crate::raft::Raft;
use crate::status::Membership;
use crate::storage::Storage;
use crate::trace::TraceEvent;

impl<S: Storage> Raft<S> {
    /// Applies a committed change.
    pub(crate) fn apply_conf_change(
        &mut self,
        change: &ConfChangeV2,
    ) -> Result<ConfState, ChangeError> {
        let last_index = self.log.last().index;
        let inflight_max = (
            self.config.max_inflight_msgs,
            self.config.max_inflight_bytes,
        );
        if let Some(applied) = &mut self.membership_applied {
            // A snapshot has overtaken this entry. Its configuration is in use already and must not be
            // changed by what it contains; but the host stores the one that belongs to this entry.
            let (membership, progress) = restore(&applied.conf_state(), last_index, inflight_max)?;
            let changer = Changer {
                membership,
                progress,
                last_index,
                inflight_max,
            };
            (*applied, _) = changer.change(change)?;
            return Ok(applied.conf_state());
        }
        let changer = Changer {
            membership: self.membership.clone(),
            progress: self.progress.clone(),
            last_index,
            inflight_max,
        };
        let (membership, progress) = changer.change(change)?;
        Ok(self.switch_to(membership, progress))
    }

    /// Uses the given configuration from now on.
    pub(crate) fn switch_to(&mut self, membership: Membership, progress: ProgressMap) -> ConfState {
        self.membership = membership;
        self.progress = progress;
        info!(
            self.logger,
            "{:x} switched to configuration {}", self.id, self.membership
        );
        let state = self.membership.conf_state();
        self.trace.emit(|| TraceEvent::ConfChanged {
            state: state.clone(),
        });
        if !self.is_leader() {
            return state;
        }
        let is_voter = self
            .progress
            .get(self.id)
            .is_some_and(|own| !own.is_learner);
        if !is_voter {
            if self.config.step_down_on_removal {
                self.become_follower(self.term, NONE);
            }
            return state;
        }
        if self.maybe_commit() {
            // A smaller quorum may agree to more.
            self.release_pending_reads();
            self.broadcast_append();
        } else {
            // New members need not wait for the next heartbeat or proposal.
            for position in 0..self.progress.len() {
                if let Some(to) = self.progress.id_at(position).filter(|to| *to != self.id) {
                    self.send_append(to, false);
                }
            }
        }
        let transferee = self
            .leadership()
            .map_or(NONE, |leadership| leadership.transferee);
        if transferee != NONE && !self.membership.voters.contains(transferee) {
            self.abort_transfer();
        }
        state
    }
}
