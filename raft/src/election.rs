//! Elections: asking for votes, and giving them (raft paper, 5.2 and 5.4.1; thesis, 9.6 for PreVote).
//!
//! Promises: at most one vote per term, and only for a log that has at least what ours has. A node
//! with committed membership changes it has not applied does not campaign: it might count votes in a
//! configuration that is gone.
//! Must never know: how entries are replicated.
//! Tests: `tests/cluster.rs`, the `campaign`, `prevote` and `checkquorum` transcripts.

use bytes::Bytes;

use crate::logger::{debug, info, warning};
use crate::message::{EntryId, EntryKind, Message, MessageKind, NONE};
use crate::planted::{Bug, planted};
use crate::quorum::VoteResult;
use crate::raft::Raft;
use crate::role::{Leadership, Role, Votes};
use crate::storage::{Storage, StorageError};
use crate::trace::TraceEvent;

/// In a vote request's context: the leader itself asked for this election, so the lease is no excuse.
pub(crate) const TRANSFER_CONTEXT: &[u8] = b"CampaignTransfer";

/// Why a node campaigns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Campaign {
    /// To find out whether it could win.
    PreElection,
    /// To win.
    Election,
    /// To win, because the leader said so.
    Transfer,
}

impl<S: Storage> Raft<S> {
    /// Followers and candidates: campaign when nobody was heard from for long enough.
    pub(crate) fn tick_election(&mut self) {
        self.election_elapsed += 1;
        if self.is_promotable() && self.election_elapsed >= self.randomized_timeout {
            self.election_elapsed = 0;
            let message = Message {
                from: self.id,
                kind: MessageKind::Hup,
                ..Message::default()
            };
            if let Err(error) = self.step(message) {
                debug!(self.logger, "error occurred during election: {error}");
            }
        }
    }

    /// Campaigns, if that makes sense.
    pub(crate) fn hup(&mut self, campaign: Campaign) {
        let (id, term) = (self.id, self.term);
        if self.is_leader() {
            debug!(self.logger, "{id:x} ignoring MsgHup because already leader");
            return;
        }
        if !self.is_promotable() {
            warning!(self.logger, "{id:x} is unpromotable and can not campaign");
            return;
        }
        match self.has_unapplied_conf_changes() {
            Ok(false) => {}
            // While storage fetches entries, one of them may be a change: try again next time.
            Ok(true) | Err(StorageError::Unavailable) => {
                warning!(
                    self.logger,
                    "{id:x} cannot campaign at term {term} since there are still pending configuration \
                    changes to apply"
                );
                return;
            }
            Err(error) => return self.poison_storage("read unapplied entries", error),
        }
        info!(
            self.logger,
            "{id:x} is starting a new election at term {term}"
        );
        self.campaign(campaign);
    }

    pub(crate) fn campaign(&mut self, campaign: Campaign) {
        let (kind, term) = match campaign {
            Campaign::PreElection => {
                self.become_pre_candidate();
                // About the term it would be: ours stays as it is.
                (MessageKind::PreVote, self.term + 1)
            }
            Campaign::Election | Campaign::Transfer => {
                self.become_candidate();
                (MessageKind::Vote, self.term)
            }
        };
        let last = self.log.last();
        for to in self.membership.voters.ids().iter() {
            if to == self.id {
                // Our own vote counts like any other: when it is durable.
                let kind = response_to(kind);
                self.send(Message {
                    kind,
                    to,
                    term,
                    ..Message::default()
                });
                continue;
            }
            info!(
                self.logger,
                "{:x} [logterm: {}, index: {}] sent {kind} request to {to:x} at term {}",
                self.id,
                last.term,
                last.index,
                self.term
            );
            let context = match campaign {
                Campaign::Transfer => Bytes::from_static(TRANSFER_CONTEXT),
                _ => self.committed_context(),
            };
            let (log_term, index) = (last.term, last.index);
            self.send(Message {
                kind,
                to,
                term,
                log_term,
                index,
                context,
                ..Message::default()
            });
        }
    }

    /// Whether this node could lead: it is a voter and its log is not being replaced.
    pub(crate) fn is_promotable(&self) -> bool {
        let is_voter = self
            .progress
            .get(self.id)
            .is_some_and(|progress| !progress.is_learner);
        is_voter && self.log.unstable.snapshot.is_none()
    }

    /// With CheckQuorum, a follower that hears from its leader takes no part in elections, unless the
    /// leader asked for them (thesis, 4.2.3). A candidate that is cut off, or removed and unaware of
    /// it, then cannot depose anyone.
    pub(crate) fn is_in_lease(&self, message: &Message) -> bool {
        let is_vote = matches!(message.kind, MessageKind::Vote | MessageKind::PreVote);
        if !is_vote || message.context == TRANSFER_CONTEXT {
            return false;
        }
        let timeout = self.config.election_tick;
        let has_lease =
            self.config.check_quorum && self.leader != NONE && self.election_elapsed < timeout;
        if has_lease {
            let last = self.log.last();
            info!(
                self.logger,
                "{:x} [logterm: {}, index: {}, vote: {:x}] ignored {} from {:x} [logterm: {}, index: {}] at \
                term {}: lease is not expired (remaining ticks: {})",
                self.id,
                last.term,
                last.index,
                self.vote,
                message.kind,
                message.from,
                message.log_term,
                message.index,
                self.term,
                timeout - self.election_elapsed
            );
        }
        has_lease
    }

    /// Votes, or not. Learners vote too: one that was promoted may be the last to know, and without
    /// its vote the others might never elect the leader who would tell it (etcd issue 7625). If the
    /// candidate's configuration is the outdated one, it will not win.
    pub(crate) fn answer_vote(&mut self, message: &Message) {
        let is_pre_vote = message.kind == MessageKind::PreVote;
        let can_vote = self.vote == message.from
            || (self.vote == NONE && self.leader == NONE)
            || (is_pre_vote && message.term > self.term);
        let theirs = EntryId {
            term: message.log_term,
            index: message.index,
        };
        let can_vote = can_vote || planted(Bug::VoteForEveryone);
        let is_up_to_date = self.log.is_up_to_date(theirs) || planted(Bug::VoteForShortLogs);
        let granted = can_vote && is_up_to_date;
        self.log_vote(if granted { "cast" } else { "rejected" }, message);
        let (kind, to) = (response_to(message.kind), message.from);
        if granted {
            // In the term of the request: a pre-candidate would take an answer in our older term for a
            // late one.
            let term = message.term;
            self.send(Message {
                kind,
                to,
                term,
                ..Message::default()
            });
        } else {
            self.refuse_vote(kind, to);
        }
        if granted && !is_pre_vote {
            self.election_elapsed = 0;
            self.set_vote(message.from);
        }
    }

    /// Says no, in our term so that the candidate can catch up, and says what is committed here.
    pub(crate) fn refuse_vote(&mut self, kind: MessageKind, to: u64) {
        let term = self.term;
        let context = self.committed_context();
        self.send(Message {
            kind,
            to,
            term,
            context,
            reject: true,
            ..Message::default()
        });
    }

    /// What is committed here, for the context of a request for a vote, or of its refusal.
    ///
    /// etcd's library does not say it, and can come to a standstill. The voters of a new configuration
    /// can only elect a node that has the change in its log but does not know that it is committed; in
    /// the old configuration, which it still uses, it needs votes of members that have more entries than
    /// it has: a refusal tells it. Or it is no voter there, and does not campaign; those who are and do
    /// need its vote and lack what it has: a request tells it (`tests/network`, seed 14152). (tikv's
    /// raft carries the commit index in votes for the same reason.)
    fn committed_context(&self) -> Bytes {
        let commit = self.log.committed;
        let Ok(term) = self.log.term(commit) else {
            return Bytes::new();
        };
        let context = [commit.to_le_bytes(), term.to_le_bytes()].concat();
        context.into()
    }

    /// A request or a refusal may show that a membership change in our log is committed. Then there is
    /// no point in counting votes in the configuration before it: we step back until it is applied.
    pub(crate) fn learn_from_election(&mut self, message: &Message) {
        // Of the same length, by chance.
        if message.context == TRANSFER_CONTEXT {
            return;
        }
        let Some((commit, term)) = message.context.split_first_chunk::<8>() else {
            return;
        };
        let Ok(term) = <[u8; 8]>::try_from(term) else {
            return;
        };
        let id = EntryId {
            index: u64::from_le_bytes(*commit),
            term: u64::from_le_bytes(term),
        };
        if self.is_leader() || id.index <= self.log.committed || !self.log.matches(id) {
            return;
        }
        let before = std::mem::replace(&mut self.log.committed, id.index);
        match self.has_unapplied_conf_changes() {
            Ok(true) => {
                let (own, index) = (self.id, id.index);
                info!(
                    self.logger,
                    "{own:x} learned from a vote that index {index} is committed"
                );
                self.trace.emit(|| TraceEvent::Committed { index });
                if !matches!(self.role, Role::Follower) {
                    self.become_follower(self.term, NONE);
                }
            }
            // As etcd's library: wait for a leader to say so.
            Ok(false) | Err(_) => self.log.committed = before,
        }
    }

    pub(crate) fn log_vote(&self, verdict: &str, message: &Message) {
        let last = self.log.last();
        let word = if verdict == "cast" { "for" } else { "from" };
        info!(
            self.logger,
            "{:x} [logterm: {}, index: {}, vote: {:x}] {verdict} {} {word} {:x} [logterm: {}, index: {}] at \
            term {}",
            self.id,
            last.term,
            last.index,
            self.vote,
            message.kind,
            message.from,
            message.log_term,
            message.index,
            self.term
        );
    }

    /// Counts an answer of `from`; the first one stands.
    pub(crate) fn poll(&mut self, from: u64, kind: MessageKind, granted: bool) -> VoteResult {
        let (id, term) = (self.id, self.term);
        let rejection = if granted { "" } else { " rejection" };
        info!(
            self.logger,
            "{id:x} received {kind}{rejection} from {from:x} at term {term}"
        );
        let (Role::Candidate(votes) | Role::PreCandidate(votes)) = &mut self.role else {
            return VoteResult::Pending;
        };
        votes.record(from, granted);
        // Who is no longer a voter may have answered all the same: do not show it.
        let voters = self
            .progress
            .iter()
            .filter(|(_, progress)| !progress.is_learner);
        let answers: Vec<bool> = voters.filter_map(|(id, _)| votes.of(id)).collect();
        let yes = answers.iter().filter(|granted| **granted).count();
        let no = answers.len() - yes;
        info!(
            self.logger,
            "{id:x} has received {yes} {kind} votes and {no} vote rejections"
        );
        self.membership.voters.vote_result(|id| votes.of(id))
    }

    pub(crate) fn become_leader(&mut self) {
        self.reset(self.term);
        self.set_leader(self.id);
        let last = self.log.last().index;
        if let Some(own) = self.progress.get_mut(self.id) {
            own.become_replicate();
            own.recent_active = true;
        }
        // There may be an unapplied membership change anywhere before our first entry: allow none
        // until all of that is applied, instead of searching for it.
        self.set_role(Role::Leader(Box::new(Leadership::new(last))));
        // Entries of earlier terms can only be committed through one of ours (raft paper, 5.4.2).
        if let Err(reason) = self.append_as_leader([(EntryKind::Normal, Bytes::new())]) {
            debug!(
                self.logger,
                "{:x} empty entry was dropped: {reason}", self.id
            );
        }
        info!(
            self.logger,
            "{:x} became leader at term {}", self.id, self.term
        );
    }

    fn become_candidate(&mut self) {
        self.reset(self.term + 1);
        self.set_role(Role::Candidate(Votes::default()));
        self.set_vote(self.id);
        info!(
            self.logger,
            "{:x} became candidate at term {}", self.id, self.term
        );
    }

    /// Changes neither term nor vote: nothing has happened yet.
    fn become_pre_candidate(&mut self) {
        self.set_role(Role::PreCandidate(Votes::default()));
        self.set_leader(NONE);
        info!(
            self.logger,
            "{:x} became pre-candidate at term {}", self.id, self.term
        );
    }

    fn has_unapplied_conf_changes(&self) -> Result<bool, StorageError> {
        let (mut lo, hi) = (self.log.applied + 1, self.log.committed + 1);
        // In pages: what is unapplied can be much more than should be in memory at once.
        while lo < hi {
            let page = self.log.slice(lo, hi, self.config.committed_size_max())?;
            if page.iter().any(|entry| entry.kind != EntryKind::Normal) {
                return Ok(true);
            }
            lo += (page.len() as u64).max(1);
        }
        Ok(false)
    }
}

fn response_to(kind: MessageKind) -> MessageKind {
    match kind {
        MessageKind::PreVote => MessageKind::PreVoteResp,
        _ => MessageKind::VoteResp,
    }
}
