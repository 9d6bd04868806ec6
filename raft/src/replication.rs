//! The leader's side of replication: taking entries, sending them, committing them.
//!
//! Promises: only entries of the leader's own term are committed by counting (raft paper, 5.4.2). A
//! follower is never told to commit what it was not seen to have. Storage that is still fetching what
//! a follower needs only delays that follower: it tries again when storage says that it has them, and at
//! the next heartbeat response.
//! Must never know: how followers decide.
//! Tests: `tests/cluster.rs`; the `probe_and_replicate`, `replicate_pause` and snapshot transcripts.

use bytes::Bytes;

use crate::entries::Entries;
use crate::error::DropReason;
use crate::logger::{debug, info, warning};
use crate::message::{Entry, EntryId, EntryKind, Message, MessageKind, NONE};
use crate::planted::{Bug, planted};
use crate::progress::ProgressState;
use crate::quorum::VoteResult;
use crate::raft::Raft;
use crate::storage::{Storage, StorageError};
use crate::trace::TraceEvent;

impl<S: Storage> Raft<S> {
    pub(crate) fn tick_leader(&mut self) {
        self.election_elapsed += 1;
        if self.election_elapsed >= self.config.election_tick {
            self.election_elapsed = 0;
            if self.config.check_quorum {
                self.check_quorum();
            }
            // A transfer that takes longer than an election is given up.
            if let Some(leadership) = self.leadership() {
                leadership.transferee = NONE;
            }
        }
        let interval = self.config.heartbeat_tick;
        let Some(leadership) = self.leadership() else {
            return;
        };
        leadership.heartbeat_elapsed += 1;
        if leadership.heartbeat_elapsed >= interval {
            leadership.heartbeat_elapsed = 0;
            self.broadcast_heartbeat();
        }
    }

    /// Steps down if no quorum was heard from since the last time.
    pub(crate) fn check_quorum(&mut self) {
        let progress = &self.progress;
        let active = |id| {
            let member = progress.get(id).filter(|member| !member.is_learner);
            member.map(|member| member.recent_active)
        };
        if self.membership.voters.vote_result(active) != VoteResult::Won {
            let id = self.id;
            warning!(
                self.logger,
                "{id:x} stepped down to follower since quorum is not active"
            );
            self.become_follower(self.term, NONE);
        }
        for (id, progress) in self.progress.iter_mut() {
            progress.recent_active = id == self.id;
        }
    }

    /// Adds entries to our log, to be sent and stored.
    ///
    /// # Errors
    /// `UncommittedFull`; nothing is added then. Empty payloads are always taken: a new leader's first
    /// entry, and leaving a joint configuration, must not fail. So is whatever comes while nothing is
    /// uncommitted, however large.
    pub(crate) fn append_as_leader(
        &mut self,
        payloads: impl IntoIterator<Item = (EntryKind, Bytes)>,
    ) -> Result<(), DropReason> {
        let (term, first) = (self.term, self.log.last().index + 1);
        let numbered = payloads.into_iter().zip(first..);
        let entries: Entries = numbered
            .map(|((kind, data), index)| Entry {
                term,
                index,
                kind,
                data,
            })
            .collect();
        let size = entries.iter().map(|entry| entry.data.len() as u64).sum();
        let limit = self.config.uncommitted_size_max();
        let uncommitted = self
            .leadership()
            .map_or(0, |leadership| leadership.uncommitted_bytes);
        if uncommitted > 0 && size > 0 && uncommitted.saturating_add(size) > limit {
            warning!(
                self.logger,
                "{:x} appending new entries to log would exceed uncommitted entry size limit; dropping \
                proposal",
                self.id
            );
            return Err(DropReason::UncommittedFull);
        }
        if let Some(leadership) = self.leadership() {
            leadership.uncommitted_bytes = uncommitted + size;
        }
        self.log.push(entries);
        let index = self.log.last().index;
        // We acknowledge like everybody else: when it is durable.
        let (kind, to) = (MessageKind::AppResp, self.id);
        self.send(Message {
            kind,
            to,
            index,
            ..Message::default()
        });
        Ok(())
    }

    /// Sends everyone what they lack, or at least the commit index.
    pub(crate) fn broadcast_append(&mut self) {
        for position in 0..self.progress.len() {
            if let Some(to) = self.progress.id_at(position).filter(|to| *to != self.id) {
                self.send_append(to, true);
            }
        }
    }

    /// Sends on to everyone whose window has room. For storage that was asked for entries it had to
    /// fetch first, and has them now.
    pub(crate) fn send_on(&mut self) {
        if self.leadership().is_none() {
            return;
        }
        for position in 0..self.progress.len() {
            if let Some(to) = self.progress.id_at(position).filter(|to| *to != self.id) {
                while self.send_append(to, false) {}
            }
        }
    }

    /// Sends `to` an append. Without entries to send only if `even_empty` (for the commit index).
    /// Returns whether something was sent.
    pub(crate) fn send_append(&mut self, to: u64, even_empty: bool) -> bool {
        let Some(progress) = self.progress.get(to) else {
            return false;
        };
        if progress.is_paused() {
            return false;
        }
        let (next, state) = (progress.next, progress.state);
        let is_full = progress.inflights.is_full();
        let log_term = match self.log.term(next - 1) {
            Ok(term) => term,
            Err(error) => return self.cannot_read_for(to, error),
        };
        // With a full window, an empty append keeps the flow alive: should all that is in flight be
        // lost, its answer is what frees the window (etcd issue 14633).
        let entries = if state == ProgressState::Replicate && is_full {
            Entries::new()
        } else {
            match self.log.entries(next, self.config.max_size_per_msg) {
                Ok(entries) => entries,
                Err(_) if !even_empty => return false,
                Err(error) => return self.cannot_read_for(to, error),
            }
        };
        if entries.is_empty() && !even_empty {
            return false;
        }
        let commit = self.log.committed;
        let bytes = entries.iter().map(|entry| entry.data.len() as u64).sum();
        if let Some(progress) = self.progress.get_mut(to) {
            progress.sent_entries(entries.len() as u64, bytes);
            progress.record_sent_commit(commit);
        }
        let kind = MessageKind::App;
        let index = next - 1;
        self.trace.emit(|| TraceEvent::AppendSent {
            to,
            before: EntryId {
                term: log_term,
                index,
            },
            count: entries.len(),
            commit,
        });
        self.send(Message {
            kind,
            to,
            index,
            log_term,
            entries,
            commit,
            ..Message::default()
        });
        true
    }

    /// What `to` needs is not in the log: gone, or not in memory now.
    fn cannot_read_for(&mut self, to: u64, error: StorageError) -> bool {
        match error {
            StorageError::Compacted => self.send_snapshot(to),
            StorageError::Unavailable => {
                let id = self.id;
                debug!(
                    self.logger,
                    "{id:x} waits for storage to send entries to {to:x}"
                );
                false
            }
            error => {
                self.poison_storage("read entries for a follower", error);
                false
            }
        }
    }

    fn send_snapshot(&mut self, to: u64) -> bool {
        let id = self.id;
        let Some(progress) = self.progress.get_mut(to) else {
            return false;
        };
        if !progress.recent_active {
            debug!(
                self.logger,
                "ignore sending snapshot to {to:x} since it is not recently active"
            );
            return false;
        }
        let snapshot = match self.log.storage.snapshot() {
            Ok(snapshot) if !snapshot.is_empty() => snapshot,
            Ok(_)
            | Err(StorageError::SnapshotTemporarilyUnavailable | StorageError::Unavailable) => {
                debug!(
                    self.logger,
                    "{id:x} failed to send snapshot to {to:x} because snapshot is temporarily unavailable"
                );
                return false;
            }
            Err(error) => {
                self.poison_storage("read a snapshot", error);
                return false;
            }
        };
        let (index, term) = (snapshot.meta.index, snapshot.meta.term);
        let (end, last) = (EntryId { term, index }, self.log.last().index);
        if index > last || self.log.contradicts(end) {
            let what = format!(
                "the snapshot at index {index}, term {term}, is not of this log, which ends at {last}"
            );
            self.poison_storage("read a snapshot", StorageError::Other(what));
            return false;
        }
        debug!(
            self.logger,
            "{id:x} [firstindex: {}, commit: {}] sent snapshot[index: {index}, term: {term}] to {to:x} \
            [{progress}]",
            self.log.first_index().unwrap_or(0),
            self.log.committed
        );
        progress.become_snapshot(index);
        self.trace
            .emit(|| TraceEvent::SnapshotSent { to, last: end });
        debug!(
            self.logger,
            "{id:x} paused sending replication messages to {to:x} [{progress}]"
        );
        let snapshot = Some(Box::new(snapshot));
        self.send(Message {
            kind: MessageKind::Snap,
            to,
            snapshot,
            ..Message::default()
        });
        true
    }

    /// A heartbeat to everyone, with the position of the newest unconfirmed read, if there is one.
    pub(crate) fn broadcast_heartbeat(&mut self) {
        let Some(leadership) = self.leadership() else {
            return;
        };
        let context = leadership.reads.heartbeat_context();
        for position in 0..self.progress.len() {
            let Some(to) = self.progress.id_at(position).filter(|to| *to != self.id) else {
                continue;
            };
            let Some(progress) = self.progress.get_mut(to) else {
                continue;
            };
            // Not beyond what it is known to have.
            let commit = match planted(Bug::CommitUnmatched) {
                false => progress.matched.min(self.log.committed),
                true => self.log.committed,
            };
            progress.record_sent_commit(commit);
            let (kind, context) = (MessageKind::Heartbeat, context.clone());
            self.send(Message {
                kind,
                to,
                commit,
                context,
                ..Message::default()
            });
        }
    }

    /// Commits what a quorum has, if it is of our term. Returns whether the commit index moved.
    pub(crate) fn maybe_commit(&mut self) -> bool {
        let progress = &self.progress;
        let matched = |id| {
            let matched = progress.get(id)?.matched;
            if !planted(Bug::CountLearners) {
                return Some(matched);
            }
            let learners = progress.iter().filter(|(_, member)| member.is_learner);
            learners
                .map(|(_, learner)| learner.matched)
                .chain([matched])
                .max()
        };
        let voters = &self.membership.voters;
        let index = match planted(Bug::OneMajority) {
            false => voters.committed_index(matched),
            true => voters.incoming.committed_index(matched),
        };
        let Some(leadership) = self.leadership() else {
            return false;
        };
        let term_start = if planted(Bug::CommitOldTerms) {
            0
        } else {
            leadership.term_start
        };
        // Above the log: a configuration without voters, where everything is "agreed".
        if index < term_start || index > self.log.last().index || index <= self.log.committed {
            return false;
        }
        self.log.commit_to(index);
        true
    }

    pub(crate) fn send_timeout_now(&mut self, to: u64) {
        // Until the next term: the message may arrive late.
        if let Some(leadership) = self.leadership() {
            leadership.is_lease_void = true;
        }
        self.send(Message {
            kind: MessageKind::TimeoutNow,
            to,
            ..Message::default()
        });
    }

    /// Follower `from` does not have what we sent. It (and `find_conflict_by_term` on both sides)
    /// narrows down where our logs match to about one probe per term, instead of one per entry.
    pub(crate) fn append_rejected(&mut self, message: &Message) {
        let from = message.from;
        self.trace.emit(|| TraceEvent::AppendRejected {
            from,
            index: message.index,
            hint: EntryId {
                term: message.log_term,
                index: message.reject_hint,
            },
        });
        debug!(
            self.logger,
            "{:x} received MsgAppResp(rejected, hint: (index {}, term {})) from {from:x} for index {}",
            self.id,
            message.reject_hint,
            message.log_term,
            message.index
        );
        // The follower is at `log_term` at the hint, and terms only grow along a log: wherever ours
        // is higher, it cannot match.
        let hint = match message.log_term {
            0 => message.reject_hint,
            term => self.log.find_conflict_by_term(message.reject_hint, term).0,
        };
        let Some(progress) = self.progress.get_mut(from) else {
            return;
        };
        if progress.maybe_decrease(message.index, hint) {
            debug!(
                self.logger,
                "{:x} decreased progress of {from:x} to [{progress}]", self.id
            );
            if progress.state == ProgressState::Replicate {
                progress.become_probe();
            }
            self.send_append(from, true);
        }
    }

    /// Follower `from` (or our own storage) has everything up to `index`.
    pub(crate) fn append_acknowledged(&mut self, from: u64, index: u64) {
        self.trace
            .emit(|| TraceEvent::AppendAcknowledged { from, index });
        let first = self.log.first_index();
        let Some(progress) = self.progress.get_mut(from) else {
            return;
        };
        // An ack that is no news can still end probing: see heartbeat_resp_recovers_from_probing.
        let ends_probe = progress.matched == index && progress.state == ProgressState::Probe;
        if !progress.maybe_update(index) && !ends_probe {
            return;
        }
        match progress.state {
            ProgressState::Probe => progress.become_replicate(),
            // Whatever snapshot it got, from whomever: if our log connects to it, go on from there.
            ProgressState::Snapshot if first.is_ok_and(|first| progress.matched + 1 >= first) => {
                debug!(
                    self.logger,
                    "{:x} recovered from needing snapshot, resumed sending replication messages to {from:x} \
                    [{progress}]",
                    self.id
                );
                progress.become_probe();
                progress.become_replicate();
            }
            // It has the snapshot, and meanwhile our log was compacted beyond it: start over.
            ProgressState::Snapshot if index >= progress.pending_snapshot => {
                progress.become_probe()
            }
            ProgressState::Snapshot => {}
            ProgressState::Replicate => progress.inflights.free_to(index),
        }
        if self.maybe_commit() {
            self.release_pending_reads();
            self.broadcast_append();
        } else if from != self.id
            && self
                .progress
                .get(from)
                .is_some_and(|it| it.can_bump_commit(self.log.committed))
        {
            // The next heartbeat would tell it, too; this is sooner.
            self.send_append(from, true);
        }
        // The ack may have made room for several messages.
        if from != self.id {
            while self.send_append(from, false) {}
        }
        self.continue_transfer(from);
    }

    fn continue_transfer(&mut self, from: u64) {
        let last = self.log.last().index;
        let is_up_to_date = self.progress.get(from).is_some_and(|it| it.matched == last);
        let transferee = self
            .leadership()
            .map_or(NONE, |leadership| leadership.transferee);
        if transferee == from && is_up_to_date {
            let id = self.id;
            info!(
                self.logger,
                "{id:x} sent MsgTimeoutNow to {from:x} after received MsgAppResp"
            );
            self.send_timeout_now(from);
        }
    }
}
