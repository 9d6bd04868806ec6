//! What a follower does with a message: believe its leader, as far as its own log allows.
//!
//! Promises: never replaces a committed entry, never commits beyond its log, whatever a leader says.
//! Tests: `tests/cluster.rs`, `tests/misbehaviour.rs`, and most transcripts.

use crate::config::ReadOnly;
use crate::election::Campaign;
use crate::error::{DropReason, ProposeError, StepError};
use crate::log::Appended;
use crate::logger::{debug, error, info, warning};
use crate::membership;
use crate::message::{EntryId, Message, MessageKind, NONE, Snapshot};
use crate::raft::Raft;
use crate::ready::ReadState;
use crate::storage::Storage;
use crate::trace::TraceEvent;

impl<S: Storage> Raft<S> {
    pub(crate) fn step_follower(&mut self, message: Message) -> Result<(), StepError> {
        let (id, term, from) = (self.id, self.term, message.from);
        match message.kind {
            MessageKind::App => {
                self.heard_from_leader(from);
                return self.append(message);
            }
            MessageKind::Heartbeat => {
                self.heard_from_leader(from);
                return self.heartbeat(message);
            }
            MessageKind::Snap => {
                self.heard_from_leader(from);
                return self.receive_snapshot(message);
            }
            MessageKind::Prop => return self.forward_proposal(message),
            MessageKind::TransferLeader if self.leader == NONE => {
                info!(
                    self.logger,
                    "{id:x} no leader at term {term}; dropping leader transfer msg"
                );
            }
            MessageKind::ReadIndex if self.leader == NONE => {
                info!(
                    self.logger,
                    "{id:x} no leader at term {term}; dropping index reading msg"
                );
            }
            MessageKind::TransferLeader | MessageKind::ReadIndex => self.forward(message),
            MessageKind::ForgetLeader if self.config.read_only == ReadOnly::LeaseBased => {
                // The leader's lease rests on followers that do not vote while they have a leader.
                error!(
                    self.logger,
                    "ignoring MsgForgetLeader due to ReadOnlyLeaseBased"
                );
            }
            MessageKind::ForgetLeader if self.leader != NONE => {
                let leader = self.leader;
                info!(
                    self.logger,
                    "{id:x} forgetting leader {leader:x} at term {term}"
                );
                self.set_leader(NONE);
            }
            MessageKind::TimeoutNow => {
                info!(
                    self.logger,
                    "{id:x} [term {term}] received MsgTimeoutNow from {from:x} and starts an election to \
                    get leadership."
                );
                // Without pre-vote: the leader itself says that it is time.
                self.hup(Campaign::Transfer);
            }
            MessageKind::ReadIndexResp => {
                let index = message.index;
                if let Some(entry) = message.entries.first() {
                    self.read_states.push(ReadState {
                        index,
                        context: entry.data.clone(),
                    });
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn heard_from_leader(&mut self, leader: u64) {
        self.election_elapsed = 0;
        self.set_leader(leader);
    }

    fn forward_proposal(&mut self, message: Message) -> Result<(), StepError> {
        let (id, term, leader) = (self.id, self.term, self.leader);
        let reason = if leader == NONE {
            info!(
                self.logger,
                "{id:x} no leader at term {term}; dropping proposal"
            );
            DropReason::NoLeader
        } else if self.config.disable_proposal_forwarding {
            info!(
                self.logger,
                "{id:x} not forwarding to leader {leader:x} at term {term}; dropping proposal"
            );
            DropReason::ForwardingDisabled
        } else {
            self.forward(message);
            return Ok(());
        };
        Err(StepError::Proposal(ProposeError::Dropped(reason)))
    }

    fn forward(&mut self, mut message: Message) {
        message.to = self.leader;
        self.send(message);
    }

    fn append(&mut self, message: Message) -> Result<(), StepError> {
        let Message {
            from,
            index,
            log_term,
            entries,
            commit,
            ..
        } = message;
        let committed = self.log.committed;
        self.trace.emit(|| TraceEvent::AppendReceived {
            from,
            before: EntryId {
                term: log_term,
                index,
            },
            count: entries.len(),
            commit,
        });
        let before = EntryId {
            term: log_term,
            index,
        };
        match self.log.append(before, entries, commit) {
            // Also when it was late, or the leader probes too low: it learns where to go on.
            Appended::To(index) => {
                let kind = MessageKind::AppResp;
                self.send(Message {
                    kind,
                    to: from,
                    index,
                    ..Message::default()
                });
                Ok(())
            }
            // No answer: it would take one for a proof that its log matches ours.
            Appended::ConflictsWithCommitted(index) => Err(StepError::ConflictsWithCommitted {
                index,
                committed,
                from,
            }),
            Appended::Mismatch => {
                debug!(
                    self.logger,
                    "{:x} [logterm: {}, index: {index}] rejected MsgApp [logterm: {log_term}, index: \
                    {index}] from {from:x}",
                    self.id,
                    self.log.term(index).unwrap_or(0)
                );
                self.reject(from, index, log_term);
                Ok(())
            }
        }
    }

    /// Says where our log may match the leader's, which has `log_term` at `index`: not where our term
    /// is higher than that. See `append_rejected` for the other half.
    fn reject(&mut self, to: u64, index: u64, log_term: u64) {
        let hint = index.min(self.log.last().index);
        let (reject_hint, log_term) = self.log.find_conflict_by_term(hint, log_term);
        let (kind, reject) = (MessageKind::AppResp, true);
        self.send(Message {
            kind,
            to,
            index,
            reject,
            reject_hint,
            log_term,
            ..Message::default()
        });
    }

    fn heartbeat(&mut self, message: Message) -> Result<(), StepError> {
        let Message {
            from,
            commit,
            context,
            ..
        } = message;
        let last = self.log.last();
        let is_beyond = commit > last.index;
        if is_beyond {
            // A leader only names what we acknowledged: we have lost it. etcd's library stops the
            // process here. We say what we have and stay a follower that commits nothing new.
            warning!(
                self.logger,
                "tocommit({commit}) is out of range [lastIndex({})]. Was the raft log corrupted, truncated, \
                or lost?",
                last.index
            );
            self.reject(from, commit, last.term);
        } else {
            self.log.commit_to(commit);
        }
        let kind = MessageKind::HeartbeatResp;
        self.send(Message {
            kind,
            to: from,
            context,
            ..Message::default()
        });
        match is_beyond {
            true => Err(StepError::CommitBeyondLog {
                from,
                commit,
                last: last.index,
            }),
            false => Ok(()),
        }
    }

    fn receive_snapshot(&mut self, message: Message) -> Result<(), StepError> {
        let from = message.from;
        let snapshot = message.snapshot.unwrap_or_default();
        let (index, term) = (snapshot.meta.index, snapshot.meta.term);
        let committed = self.log.committed;
        if self.conflicts_with_committed(EntryId { term, index }) {
            return Err(StepError::ConflictsWithCommitted {
                index: index.min(committed),
                committed,
                from,
            });
        }
        let is_restored = self
            .restore(snapshot)
            .map_err(|error| StepError::BadSnapshot { from, index, error })?;
        let (verb, acknowledged) = match is_restored {
            true => ("restored", self.log.last().index),
            false => ("ignored", self.log.committed),
        };
        info!(
            self.logger,
            "{:x} [commit: {}] {verb} snapshot [index: {index}, term: {term}]",
            self.id,
            self.log.committed
        );
        let kind = MessageKind::AppResp;
        self.send(Message {
            kind,
            to: from,
            index: acknowledged,
            ..Message::default()
        });
        Ok(())
    }

    /// Whether a snapshot that ends with `id` tells another history than the one that is committed here:
    /// another entry within it, or terms that would go backward after it.
    fn conflicts_with_committed(&self, id: EntryId) -> bool {
        if id.index <= self.log.committed {
            return self.log.contradicts(id);
        }
        let committed = self.log.term(self.log.committed);
        committed.is_ok_and(|term| term > id.term)
    }

    /// Puts `snapshot` in place of log and configuration, unless we have as much without it.
    fn restore(&mut self, snapshot: Box<Snapshot>) -> Result<bool, membership::ChangeError> {
        let meta = &snapshot.meta;
        let (index, term) = (meta.index, meta.term);
        if index <= self.log.committed {
            return Ok(false);
        }
        if !meta.conf_state.contains(self.id) {
            // A snapshot without us can only be misrouted: with it we could not even follow.
            warning!(
                self.logger,
                "{:x} attempted to restore snapshot but it is not in the ConfState {:?}; should never happen",
                self.id,
                meta.conf_state
            );
            return Ok(false);
        }
        let last = self.log.last();
        if self.log.matches(EntryId { term, index }) {
            info!(
                self.logger,
                "{:x} [commit: {}, lastindex: {}, lastterm: {}] fast-forwarded commit to snapshot [index: \
                {index}, term: {term}]",
                self.id,
                self.log.committed,
                last.index,
                last.term
            );
            self.log.commit_to(index);
            return Ok(false);
        }
        let inflight = (
            self.config.max_inflight_msgs,
            self.config.max_inflight_bytes,
        );
        let (membership, progress) = membership::restore(&meta.conf_state, index, inflight)?;
        self.log.restore(snapshot);
        // With several snapshots in a row, what is applied is still what was before the first.
        self.membership_applied
            .get_or_insert_with(|| self.membership.clone());
        self.switch_to(membership, progress);
        info!(
            self.logger,
            "{:x} [commit: {}, lastindex: {index}, lastterm: {term}] restored snapshot [index: {index}, \
            term: {term}]",
            self.id,
            self.log.committed
        );
        Ok(true)
    }
}
