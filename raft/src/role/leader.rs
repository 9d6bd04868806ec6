//! What a leader does with a message: take proposals, watch its followers, hand over.
//!
//! Tests: `tests/cluster.rs` and most transcripts.

use bytes::Bytes;

use crate::entries::Entries;
use crate::error::{DropReason, ProposeError, StepError};
use crate::logger::{debug, info};
use crate::membership::{ConfChangeV2, DecodeError};
use crate::message::{Entry, EntryKind, Message, MessageKind, NONE};
use crate::planted::{Bug, planted};
use crate::progress::ProgressState;
use crate::raft::Raft;
use crate::role::Role;
use crate::storage::Storage;

impl<S: Storage> Raft<S> {
    pub(crate) fn step_leader(&mut self, message: Message) -> Result<(), StepError> {
        match message.kind {
            MessageKind::Beat => self.broadcast_heartbeat(),
            MessageKind::CheckQuorum => self.check_quorum(),
            MessageKind::Prop => {
                return self
                    .propose_entries(message.entries)
                    .map_err(StepError::Proposal);
            }
            MessageKind::ReadIndex => self.read_requested(message),
            _ => return self.step_leader_from_member(message),
        }
        Ok(())
    }

    /// Messages that are about one member.
    fn step_leader_from_member(&mut self, message: Message) -> Result<(), StepError> {
        let (id, from, last) = (self.id, message.from, self.log.last().index);
        if message.kind == MessageKind::ForgetLeader {
            return Ok(());
        }
        let Some(progress) = self.progress.get_mut(from) else {
            debug!(self.logger, "{id:x} no progress available for {from:x}");
            return Ok(());
        };
        match message.kind {
            MessageKind::AppResp => {
                progress.recent_active = true;
                if message.reject {
                    self.append_rejected(&message);
                } else if message.index > last {
                    // Believing it would commit entries that do not exist.
                    return Err(StepError::AckBeyondLog {
                        from,
                        index: message.index,
                        last,
                    });
                } else {
                    self.append_acknowledged(from, message.index);
                }
            }
            MessageKind::HeartbeatResp => {
                progress.recent_active = true;
                progress.append_paused = false;
                // Also with a full window (its appends may all be lost), and to a follower that has
                // everything but was reported unreachable: its answer ends the probing.
                if progress.matched < last || progress.state == ProgressState::Probe {
                    self.send_append(from, true);
                }
                self.read_acknowledged(from, &message.context);
            }
            MessageKind::SnapStatus => self.snapshot_reported(from, message.reject),
            MessageKind::Unreachable => {
                // What was sent ahead is probably lost.
                if progress.state == ProgressState::Replicate {
                    progress.become_probe();
                }
                debug!(
                    self.logger,
                    "{id:x} failed to send message to {from:x} because it is unreachable [{progress}]"
                );
            }
            MessageKind::TransferLeader => self.transfer_leadership(from),
            _ => {}
        }
        Ok(())
    }

    /// Appends and sends normal entries: the hot path.
    pub(crate) fn propose_payloads(
        &mut self,
        payloads: impl IntoIterator<Item = Bytes>,
    ) -> Result<(), DropReason> {
        self.check_may_propose()?;
        self.append_as_leader(payloads.into_iter().map(|data| (EntryKind::Normal, data)))?;
        self.broadcast_append();
        Ok(())
    }

    /// Appends and sends entries of any kind. A membership change that may not be made now becomes an
    /// empty entry: whoever proposed it sees it pass and nothing change.
    pub(crate) fn propose_entries(&mut self, entries: Entries) -> Result<(), ProposeError> {
        if entries.is_empty() {
            return Err(ProposeError::Empty);
        }
        self.check_may_propose().map_err(ProposeError::Dropped)?;
        let changes = entries
            .iter()
            .map(|entry| match entry.kind {
                EntryKind::Normal => Ok(None),
                kind => ConfChangeV2::from_entry(kind, &entry.data).map(Some),
            })
            .collect::<Result<Vec<_>, DecodeError>>()?;
        let mut payloads = Vec::with_capacity(entries.len());
        let pending_before = self
            .leadership()
            .map_or(0, |leadership| leadership.pending_conf_index);
        for (entry, change) in entries.iter().zip(changes) {
            let index = self.log.last().index + payloads.len() as u64 + 1;
            let is_refused = change.is_some_and(|change| !self.admit_change(&change, index));
            payloads.push(match is_refused {
                true => (EntryKind::Normal, Bytes::new()),
                false => (entry.kind, entry.data.clone()),
            });
        }
        if let Err(reason) = self.append_as_leader(payloads) {
            // The change was not appended after all, so nothing is pending.
            if let Some(leadership) = self.leadership() {
                leadership.pending_conf_index = pending_before;
            }
            return Err(ProposeError::Dropped(reason));
        }
        self.broadcast_append();
        Ok(())
    }

    pub(crate) fn propose_leaving_joint(&mut self) {
        let entry = Entry {
            kind: EntryKind::ConfChangeV2,
            ..Entry::default()
        };
        match self.propose_entries(entry.into()) {
            // A transfer is in progress. It succeeds, and the new leader does this, or it does not,
            // and we try again when the next entry is applied.
            Err(_) => debug!(
                self.logger,
                "not initiating automatic transition out of joint configuration {}: raft proposal dropped",
                self.membership
            ),
            Ok(()) => info!(
                self.logger,
                "initiating automatic transition out of joint configuration {}", self.membership
            ),
        }
    }

    fn check_may_propose(&mut self) -> Result<(), DropReason> {
        if self.progress.get(self.id).is_none() {
            return Err(DropReason::Removed);
        }
        let (id, term) = (self.id, self.term);
        let transferee = self
            .leadership()
            .map_or(NONE, |leadership| leadership.transferee);
        if transferee != NONE {
            debug!(
                self.logger,
                "{id:x} [term {term}] transfer leadership to {transferee:x} is in progress; dropping proposal"
            );
            return Err(DropReason::TransferInProgress);
        }
        Ok(())
    }

    /// Why a proposal of so many bytes would be dropped now, by whoever this node is.
    pub(crate) fn proposal_refusal(&self, bytes: u64) -> Option<DropReason> {
        let Role::Leader(leadership) = &self.role else {
            return match self.leader {
                NONE => Some(DropReason::NoLeader),
                _ if self.config.disable_proposal_forwarding => {
                    Some(DropReason::ForwardingDisabled)
                }
                // A candidate has no leader, so this is a follower's.
                _ => None,
            };
        };
        let uncommitted = leadership.uncommitted_bytes;
        let is_full = uncommitted > 0
            && bytes > 0
            && uncommitted.saturating_add(bytes) > self.config.uncommitted_size_max();
        if self.progress.get(self.id).is_none() {
            Some(DropReason::Removed)
        } else if leadership.transferee != NONE {
            Some(DropReason::TransferInProgress)
        } else {
            is_full.then_some(DropReason::UncommittedFull)
        }
    }

    /// Whether `change` may be proposed at `index`; if so, it is the pending one now. As good as can
    /// be told from here: the configuration that counts is the one when the change is applied.
    fn admit_change(&mut self, change: &ConfChangeV2, index: u64) -> bool {
        let (applied, is_joint) = (self.log.applied, self.membership.is_joint());
        let pending = self
            .leadership()
            .map_or(0, |leadership| leadership.pending_conf_index);
        let wants_to_leave = change.changes.is_empty();
        let refusal = if pending > applied && !planted(Bug::ChangesAtOnce) {
            Some(format!(
                "possible unapplied conf change at index {pending} (applied to {applied})"
            ))
        } else if is_joint && !wants_to_leave {
            Some("must transition out of joint config first".to_string())
        } else if !is_joint && wants_to_leave {
            Some("not in joint state; refusing empty conf change".to_string())
        } else {
            None
        };
        if let Some(refusal) = refusal.filter(|_| !self.config.disable_conf_change_validation) {
            info!(
                self.logger,
                "{:x} ignoring conf change {change} at config {}: {refusal}",
                self.id,
                self.membership
            );
            return false;
        }
        if let Some(leadership) = self.leadership() {
            leadership.pending_conf_index = index;
        }
        true
    }

    fn snapshot_reported(&mut self, from: u64, has_failed: bool) {
        let id = self.id;
        let Some(progress) = self.progress.get_mut(from) else {
            return;
        };
        if progress.state != ProgressState::Snapshot {
            return;
        }
        let outcome = if has_failed { "failed" } else { "succeeded" };
        if has_failed {
            // Before probing, or the probe would start behind a snapshot that never arrived.
            progress.snapshot_failed();
        }
        progress.become_probe();
        debug!(
            self.logger,
            "{id:x} snapshot {outcome}, resumed sending replication messages to {from:x} [{progress}]"
        );
        // After success, wait for the follower's own word; after failure, for a heartbeat interval.
        progress.append_paused = true;
    }

    fn transfer_leadership(&mut self, to: u64) {
        let (id, term, last) = (self.id, self.term, self.log.last().index);
        let Some(progress) = self.progress.get(to) else {
            return;
        };
        if progress.is_learner {
            debug!(
                self.logger,
                "{id:x} is learner. Ignored transferring leadership"
            );
            return;
        }
        let is_up_to_date = progress.matched == last;
        let before = self
            .leadership()
            .map_or(NONE, |leadership| leadership.transferee);
        if before == to {
            info!(
                self.logger,
                "{id:x} [term {term}] transfer leadership to {to:x} is in progress, ignores request to same \
                node {to:x}"
            );
            return;
        }
        if before != NONE {
            self.abort_transfer();
            info!(
                self.logger,
                "{id:x} [term {term}] abort previous transferring leadership to {before:x}"
            );
        }
        if to == id {
            debug!(
                self.logger,
                "{id:x} is already leader. Ignored transferring leadership to self"
            );
            return;
        }
        info!(
            self.logger,
            "{id:x} [term {term}] starts to transfer leadership to {to:x}"
        );
        // It has one election timeout to succeed.
        self.election_elapsed = 0;
        if let Some(leadership) = self.leadership() {
            leadership.transferee = to;
        }
        if is_up_to_date {
            self.send_timeout_now(to);
            info!(
                self.logger,
                "{id:x} sends MsgTimeoutNow to {to:x} immediately as {to:x} already has up-to-date log"
            );
        } else {
            self.send_append(to, true);
        }
    }

    pub(crate) fn abort_transfer(&mut self) {
        if let Some(leadership) = self.leadership() {
            leadership.transferee = NONE;
        }
    }
}
