//! The state of one node, and the one door through which everything reaches it: a message.
//!
//! Promises: deterministic: the same messages and ticks in the same order give the same outputs. A
//! message of a peer cannot stop the node; a broken invariant, or storage that breaks its contract,
//! stops this group only (see [`Fault`]).
//! Must never know: time beyond ticks, sockets, files, threads.
//! Tests: `tests/cluster.rs`, `tests/transcripts`.
//!
//! The other files of this crate extend [`Raft`] by one concern each: `election`, `replication`,
//! `reads`, `membership::switch`, and one file per role under `role/`.

use crate::check::NUMBER_MAX;
use crate::config::Config;
use crate::dice::Dice;
use crate::election::Campaign;
use crate::error::{ConfigError, Fault, StepError};
use crate::log::RaftLog;
use crate::logger::{Log, info};
use crate::membership;
use crate::message::{
    EntryId, HardState, Message, MessageKind, NONE, RoleKind, Snapshot, SoftState,
};
use crate::planted::{Bug, planted};
use crate::progress::ProgressMap;
use crate::ready::ReadState;
use crate::role::{Leadership, Role};
use crate::status::Membership;
use crate::storage::{Storage, StorageError};
use crate::trace::{Trace, TraceEvent};

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Raft<S: Storage> {
    pub(crate) config: Config,
    pub(crate) id: u64,
    pub(crate) term: u64,
    pub(crate) vote: u64,
    /// The leader this node believes in, or [`NONE`].
    pub(crate) leader: u64,
    pub(crate) role: Role,
    pub(crate) log: RaftLog<S>,
    pub(crate) membership: Membership,
    /// While a snapshot is on its way to storage, `membership` is already the snapshot's; entries from
    /// before it may still be applied, and this is the configuration that their changes are about.
    pub(crate) membership_applied: Option<Membership>,
    /// Only a leader's is up to date; on others it says who is a member, and who a learner.
    pub(crate) progress: ProgressMap,
    /// To be sent at once, to others.
    pub(crate) messages: Vec<Message>,
    /// To be delivered, to others and to ourselves, when all that is unstable now is durable: votes,
    /// requests for votes and append acknowledgements, and nothing else (thesis, 3.8).
    pub(crate) messages_after_append: Vec<Message>,
    pub(crate) read_states: Vec<ReadState>,
    /// Ticks since this timer was last reset: by a word from the leader, a vote, a change of role; on
    /// a leader, by itself.
    pub(crate) election_elapsed: u32,
    /// In `election_tick..2 * election_tick`, drawn anew at each change of role.
    pub(crate) randomized_timeout: u32,
    dice: Dice,
    pub(crate) logger: Log,
    pub(crate) trace: Trace,
    /// Set once, never cleared.
    pub(crate) fault: Option<Fault>,
}

impl<S: Storage> Raft<S> {
    pub(crate) fn new(config: Config, storage: S) -> Result<Raft<S>, ConfigError> {
        config.validate()?;
        let logger = Log(config.logger.clone());
        let trace = Trace {
            id: config.id,
            tracer: config.tracer.clone(),
        };
        let (hard_state, conf_state) = storage.initial_state()?;
        let log = RaftLog::new(
            storage,
            config.committed_size_max(),
            logger.clone(),
            trace.clone(),
        )?;
        let inflight = (config.max_inflight_msgs, config.max_inflight_bytes);
        let (membership, progress) = membership::restore(&conf_state, log.last().index, inflight)
            .map_err(ConfigError::ConfState)?;
        let mut raft = Raft {
            id: config.id,
            term: 0,
            vote: NONE,
            leader: NONE,
            role: Role::Follower,
            log,
            membership: Membership::default(),
            membership_applied: None,
            progress: ProgressMap::default(),
            messages: Vec::new(),
            messages_after_append: Vec::new(),
            read_states: Vec::new(),
            election_elapsed: 0,
            randomized_timeout: 0,
            dice: Dice::new(config.random_seed),
            logger,
            trace,
            fault: None,
            config,
        };
        raft.switch_to(membership, progress);
        raft.load(hard_state)?;
        raft.become_follower(raft.term, NONE);
        raft.log_start();
        raft.trace.emit(|| TraceEvent::Started {
            term: raft.term,
            vote: raft.vote,
            commit: raft.log.committed,
            last: raft.log.last(),
        });
        Ok(raft)
    }

    pub(crate) fn role_kind(&self) -> RoleKind {
        self.role.kind()
    }

    pub(crate) fn hard_state(&self) -> HardState {
        HardState {
            term: self.term,
            vote: self.vote,
            commit: self.log.committed,
        }
    }

    pub(crate) fn soft_state(&self) -> SoftState {
        SoftState {
            leader: self.leader,
            role: self.role_kind(),
        }
    }

    /// The leader's own data, while this node leads.
    pub(crate) fn leadership(&mut self) -> Option<&mut Leadership> {
        match &mut self.role {
            Role::Leader(leadership) => Some(leadership),
            _ => None,
        }
    }

    pub(crate) fn is_leader(&self) -> bool {
        matches!(self.role, Role::Leader(_))
    }

    /// One tick of whatever clock the host has.
    pub(crate) fn tick(&mut self) {
        match self.role {
            Role::Leader(_) => self.tick_leader(),
            _ => self.tick_election(),
        }
    }

    /// Takes a message that has passed `check`.
    pub(crate) fn step(&mut self, message: Message) -> Result<(), StepError> {
        use MessageKind::{PreVote, PreVoteResp, Vote, VoteResp};
        if matches!(message.kind, Vote | PreVote | VoteResp | PreVoteResp) {
            self.learn_from_election(&message);
        }
        // Term 0: local, or a request that was forwarded.
        if message.term > self.term {
            if self.is_in_lease(&message) {
                return Ok(());
            }
            self.meet_higher_term(&message);
        } else if message.term != 0 && message.term < self.term {
            return self.answer_lower_term(message);
        }
        match message.kind {
            MessageKind::Hup => {
                let campaign = if self.config.pre_vote {
                    Campaign::PreElection
                } else {
                    Campaign::Election
                };
                self.hup(campaign);
                Ok(())
            }
            MessageKind::StorageAppendResp => {
                if message.index != 0 {
                    let id = EntryId {
                        term: message.log_term,
                        index: message.index,
                    };
                    self.log.unstable.stable_to(id);
                }
                self.snapshot_stored(message.snapshot)
            }
            MessageKind::StorageApplyResp => self.entries_applied(&message),
            MessageKind::Vote | MessageKind::PreVote => {
                self.answer_vote(&message);
                Ok(())
            }
            _ => match self.role {
                Role::Leader(_) => self.step_leader(message),
                Role::Candidate(_) | Role::PreCandidate(_) => self.step_candidate(message),
                Role::Follower => self.step_follower(message),
            },
        }
    }

    /// Schedules `message`, completed by sender and term. Votes, requests for votes and acknowledgements
    /// of appends wait until what they rest on is durable; rejections too, to be on the safe side.
    pub(crate) fn send(&mut self, mut message: Message) {
        use MessageKind::*;
        if message.from == NONE {
            message.from = self.id;
        }
        match message.kind {
            // The sender knows which term these are about; it need not be ours.
            Vote | VoteResp | PreVote | PreVoteResp => {}
            // Requests on their way to the leader, whatever its term.
            Prop | ReadIndex => {}
            _ => message.term = self.term,
        }
        let waits = match message.kind {
            AppResp => message.to == self.id || !planted(Bug::AcknowledgeBeforeDurable),
            VoteResp | PreVoteResp => message.to == self.id || !planted(Bug::VoteBeforeDurable),
            // A vote is asked for with our term and our log: see `dangerous_early_vote_requests`.
            Vote => !self.config.dangerous_early_vote_requests && !planted(Bug::LeadBeforeDurable),
            _ => false,
        };
        if waits {
            self.messages_after_append.push(message);
        } else if message.to == self.id {
            self.poison(Fault::Invariant(
                "a message to ourselves that does not wait for storage",
            ));
        } else {
            self.messages.push(message);
        }
    }

    /// Starts over in `term` with a fresh timer; the caller sets the role.
    pub(crate) fn reset(&mut self, term: u64) {
        if self.term != term {
            self.term = term;
            self.vote = NONE;
            self.trace.emit(|| TraceEvent::TermChanged { term });
        }
        self.set_leader(NONE);
        self.election_elapsed = 0;
        self.draw_timeout();
        let last = self.log.last().index;
        for (id, progress) in self.progress.iter_mut() {
            progress.reset(last + 1);
            if id == self.id {
                progress.matched = last;
            }
        }
    }

    pub(crate) fn become_follower(&mut self, term: u64, leader: u64) {
        self.reset(term);
        self.set_role(Role::Follower);
        self.set_leader(leader);
        info!(
            self.logger,
            "{:x} became follower at term {}", self.id, self.term
        );
    }

    pub(crate) fn set_role(&mut self, role: Role) {
        self.role = role;
        let role = self.role_kind();
        self.trace.emit(|| TraceEvent::RoleChanged { role });
    }

    pub(crate) fn set_leader(&mut self, leader: u64) {
        if self.leader != leader {
            self.leader = leader;
            self.trace.emit(|| TraceEvent::LeaderChanged { leader });
        }
    }

    pub(crate) fn set_vote(&mut self, candidate: u64) {
        self.vote = candidate;
        self.trace.emit(|| TraceEvent::Voted { candidate });
    }

    pub(crate) fn draw_timeout(&mut self) {
        let ticks = self.config.election_tick;
        self.randomized_timeout = ticks + self.dice.below(ticks);
    }

    /// Storage has applied up to `index`. A leader in a joint configuration that is to be left by
    /// itself proposes that as soon as the entry that entered it is applied.
    pub(crate) fn applied_to(&mut self, index: u64, size: u64) {
        self.log.applied_to(index, size);
        let applied = self.log.applied;
        if self.membership.auto_leave
            && let Role::Leader(leadership) = &self.role
            && applied >= leadership.pending_conf_index
        {
            self.propose_leaving_joint();
        }
    }

    /// Stops this group. The first reason stands.
    pub(crate) fn poison(&mut self, fault: Fault) {
        crate::logger::error!(self.logger, "{:x} {fault}", self.id);
        if self.fault.is_none() {
            self.fault = Some(fault.clone());
            self.trace.emit(|| TraceEvent::Stopped { fault });
        }
    }

    /// Stops this group because storage cannot `what`.
    pub(crate) fn poison_storage(&mut self, what: &'static str, error: StorageError) {
        self.poison(Fault::Storage { what, error });
    }

    /// Goes on from what was stored. The stored commit index may lag: behind a snapshot, and behind what
    /// the host has applied, for nothing waits until it is durable.
    fn load(&mut self, state: HardState) -> Result<(), ConfigError> {
        let (low, high) = (self.log.committed, self.log.last().index);
        let applied = match self.config.applied {
            0 => low,
            applied => applied,
        };
        if state.term > NUMBER_MAX {
            let what = format!("the stored term {} is beyond all terms", state.term);
            return Err(StorageError::Other(what).into());
        }
        if state.commit > high {
            return Err(ConfigError::CommitOutOfRange {
                commit: state.commit,
                low,
                high,
            });
        }
        if applied < low || applied > high {
            return Err(ConfigError::AppliedOutOfRange { applied, low, high });
        }
        self.log.committed = state.commit.max(applied);
        self.log.applied_to(applied, 0);
        self.term = state.term;
        self.vote = if planted(Bug::ForgetVote) {
            NONE
        } else {
            state.vote
        };
        Ok(())
    }

    fn log_start(&self) {
        let voters = self.membership.voters.ids();
        let voters: Vec<String> = voters.iter().map(|id| format!("{id:x}")).collect();
        let last = self.log.last();
        info!(
            self.logger,
            "newRaft {:x} [peers: [{}], term: {}, commit: {}, applied: {}, lastindex: {}, lastterm: {}]",
            self.id,
            voters.join(","),
            self.term,
            self.log.committed,
            self.log.applied,
            last.index,
            last.term
        );
    }

    /// Someone is in a later term: so are we. Only pre-votes do not count: they ask about a term that
    /// nobody is in yet.
    fn meet_higher_term(&mut self, message: &Message) {
        let kind = message.kind;
        let is_granted_pre_vote = kind == MessageKind::PreVoteResp && !message.reject;
        if kind == MessageKind::PreVote || is_granted_pre_vote {
            return;
        }
        info!(
            self.logger,
            "{:x} [term: {}] received a {kind} message with higher term from {:x} [term: {}]",
            self.id,
            self.term,
            message.from,
            message.term
        );
        // These only a leader sends.
        use MessageKind::{App, Heartbeat, Snap};
        let leader = if matches!(kind, App | Heartbeat | Snap) {
            message.from
        } else {
            NONE
        };
        self.become_follower(message.term, leader);
    }

    /// Someone is in an earlier term. Most of that is a late message; two cases need an answer.
    fn answer_lower_term(&mut self, message: Message) -> Result<(), StepError> {
        let from = message.from;
        match message.kind {
            // With CheckQuorum or PreVote nobody's term goes up by a mere vote request, so a node that
            // got ahead alone would be stuck: neither is it followed nor does it follow. This answer,
            // in our term, makes that leader step down and a new election settles it.
            MessageKind::Heartbeat | MessageKind::App
                if self.config.check_quorum || self.config.pre_vote =>
            {
                let kind = MessageKind::AppResp;
                self.send(Message {
                    kind,
                    to: from,
                    ..Message::default()
                });
            }
            // A pre-candidate with an old term must learn of ours, or a cluster that switched PreVote
            // on while terms differed could deadlock.
            MessageKind::PreVote => {
                self.log_vote("rejected", &message);
                let (kind, term) = (MessageKind::PreVoteResp, self.term);
                self.send(Message {
                    kind,
                    to: from,
                    term,
                    reject: true,
                    ..Message::default()
                });
            }
            // As the paper has it (5.1); etcd's library says nothing here. Two that campaign on in
            // configurations that do not need each other's votes then raise their terms side by side, and
            // the one that is behind, whom only the other could elect, may never get ahead
            // (`tests/network`, seed 3786).
            MessageKind::Vote => {
                self.log_vote("rejected", &message);
                self.refuse_vote(MessageKind::VoteResp, from);
            }
            // See `node::append_response`: entries of this index and term may be replaced by an
            // append that is still under way. A snapshot, though, holds in every term.
            MessageKind::StorageAppendResp => {
                if planted(Bug::SkipTermOfStorage) && message.index != 0 {
                    let id = EntryId {
                        term: message.log_term,
                        index: message.index,
                    };
                    self.log.unstable.stable_to(id);
                } else if message.index != 0 {
                    info!(
                        self.logger,
                        "{:x} [term: {}] ignored entry appends from a {} message with lower term [term: {}]",
                        self.id,
                        self.term,
                        message.kind,
                        message.term
                    );
                }
                return self.snapshot_stored(message.snapshot);
            }
            kind => info!(
                self.logger,
                "{:x} [term: {}] ignored a {kind} message with lower term from {from:x} [term: {}]",
                self.id,
                self.term,
                message.term
            ),
        }
        Ok(())
    }

    fn snapshot_stored(&mut self, snapshot: Option<Box<Snapshot>>) -> Result<(), StepError> {
        let Some(snapshot) = snapshot else {
            return Ok(());
        };
        let index = snapshot.meta.index;
        let (committed, applied) = (self.log.committed, self.log.applied);
        if index > committed {
            return Err(StepError::AppliedOutOfRange {
                index,
                committed,
                applied,
            });
        }
        self.log.unstable.stable_snapshot_to(index);
        if self.log.unstable.snapshot.is_none() {
            self.membership_applied = None;
        }
        self.applied_to(index, 0);
        Ok(())
    }

    fn entries_applied(&mut self, message: &Message) -> Result<(), StepError> {
        let Some(last) = message.entries.last() else {
            return Ok(());
        };
        let index = last.index;
        if index > self.log.applying {
            let (committed, applied) = (self.log.committed, self.log.applied);
            return Err(StepError::AppliedOutOfRange {
                index,
                committed,
                applied,
            });
        }
        let payload: u64 = message
            .entries
            .iter()
            .map(|entry| entry.data.len() as u64)
            .sum();
        let overhead = crate::message::ENTRY_OVERHEAD_BYTES * message.entries.len() as u64;
        self.applied_to(index, payload + overhead);
        if let Some(leadership) = self.leadership() {
            // An underestimate (entries of earlier terms were not counted) must not wrap around.
            leadership.uncommitted_bytes = leadership.uncommitted_bytes.saturating_sub(payload);
        }
        Ok(())
    }
}
