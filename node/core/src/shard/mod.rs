//! A shard: one raft group, its state machine, and the callers that wait for it.
//!
//! The life of a write passes through these files in order: `request` (what a caller hands in), `admit`
//! (refuse or queue; leases' `renewals` apart), `propose` (hand the batch to raft, and take back what nobody
//! appended), `persist` (what raft wants on disk and on the wire), `apply` (committed entries change the
//! store and answer `waiters`). `reads` holds linearizable reads until their ReadIndex is applied, `times`
//! asks their leader what is left of a lease; `watch` and `session` feed watch streams, whose `words` have an
//! order; `log` is the tail of the log that raft reads; `checkpoint` lets the log forget. `turns` is all that
//! whoever turns a shard asks of it.
//!
//! Invariant: a caller is answered exactly once, with done, not done, or unknown.
//! Invariant: nothing here reads a clock, blocks, or touches a file or socket: a turn gives it the time
//! and takes its outputs.
//! Must never know: its core, other shards, addresses, protobuf.

pub mod admit;
pub mod answer;
pub mod apply;
pub mod checkpoint;
pub(crate) mod counts;
pub mod cursor;
pub mod hashing;
pub mod log;
pub mod long_reads;
pub mod persist;
pub mod propose;
pub mod reads;
pub mod recover;
pub mod removal;
pub mod renewals;
pub mod request;
pub mod retention;
pub mod role;
pub mod session;
pub mod times;
pub mod turns;
pub mod waiters;
pub mod watch;
pub(crate) mod words;

#[cfg(test)]
mod handover;
#[cfg(test)]
mod shares;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use henge_api::{AlarmMember, Error, FOLLOWERS_MAX, Header, Outcome, Status};
use henge_raft::{ConfState, Config, HardState, Message, RawNode};
use henge_wal::Shortage;

use self::apply::Applying;
use self::counts::Counts;
use self::hashing::Hashes;
use self::log::TailLog;
use self::long_reads::LongReads;
use self::propose::{Pending, Returned};
use self::reads::Reads;
use self::recover::RecoveredGroup;
use self::removal::Removals;
use self::renewals::Renewals;
use self::retention::{AutoCompaction, Retention};
use self::waiters::Waiters;
use self::watch::Watches;
use self::words::Words;
use crate::machine::Machine;
use crate::work::TurnWork;

/// Memory that compaction emptied is given back so much per tick, 10 MB/s: the binary's allocator does a
/// second's worth at a time, in some call of this core, at 0.1 to 0.3 µs for each 4 KiB.
const TRIM_BYTES: usize = 1 << 20;

/// What a shard has to know about itself and its limits.
#[derive(Clone, Debug)]
pub struct ShardConfig {
    /// The group's id, equal on all members.
    pub group: u64,
    /// Id of the cluster.
    pub cluster_id: u64,
    /// This member.
    pub member_id: u64,
    /// All voting members.
    pub voters: Vec<u64>,
    /// The members' names and URLs, for people; may be empty.
    pub members: std::sync::Arc<[henge_api::Member]>,
    /// Ticks without a leader until an election; one tick is a heartbeat interval.
    pub election_ticks: u64,
    /// Milliseconds per tick.
    pub tick_ms: u64,
    /// How long a request may wait, in milliseconds (etcd: 5 s + 2 election timeouts).
    pub request_timeout_ms: u64,
    /// Largest encoded request.
    pub request_bytes_max: usize,
    /// Bytes of queued and proposed requests the shard may hold.
    pub pending_bytes_max: usize,
    /// Entries that committed may be ahead of applied before requests are refused (etcd: 5,000; why more here
    /// is said where engines set it).
    pub apply_gap_max: u64,
    /// Bytes the store may hold before writes that add are refused; 0 is no limit.
    pub quota_bytes: u64,
    /// Milliseconds between progress notes of idle watchers (etcd: 10 minutes).
    pub progress_notify_ms: u64,
    /// History that is given up without being asked.
    pub auto_compaction: AutoCompaction,
    /// Bytes of log between two checkpoints of a member that is alone.
    pub checkpoint_bytes: u64,
    /// Bytes of log replayed at the start.
    pub log_bytes_replayed: u64,
    /// Seed of raft's election timeouts.
    pub seed: u64,
    /// First request id of this run: larger than any of an earlier run (see `machine::Stamp`).
    pub first_request_id: u64,
}

/// One shard on its core.
pub struct Shard {
    config: ShardConfig,
    raft: RawNode<TailLog>,
    machine: Machine,
    watches: Watches,
    words: Words,
    waiters: Waiters,
    reads: Reads,
    /// Other members' questions about leases.
    times: times::Times,
    long_reads: LongReads,
    /// Answers of this turn, not sent yet.
    answers: Vec<(
        request::Answer,
        Result<henge_api::Reply<crate::machine::Response>, Error>,
    )>,
    /// Writes that are not proposed yet.
    queue: VecDeque<Pending>,
    /// Writes that were proposed and came back: before the queue.
    returned: VecDeque<Returned>,
    /// Renewals and ends of leases that are not proposed yet: before both.
    renewals: Renewals,
    /// Nothing is proposed before, as what was proposed came back; 0: at once.
    hold_until_ms: u64,
    /// Messages of the shard's own to peers, beside raft's.
    outbox: Vec<Message>,
    /// Who was to lead instead of this member when it was asked last.
    handed_to: u64,
    /// Bytes of requests between admission and answer.
    pending_bytes: usize,
    /// What this shard's callers have taken of the budgets and the core has not given back.
    held_bytes: usize,
    /// Callers of physical compactions that are still running.
    removals: Removals,
    /// Hashes under way.
    hashes: Hashes,
    /// Committed entries on their way into the store.
    applying: Applying,
    /// What this turn of the core may do yet.
    turn: TurnWork,
    /// The store's work that was counted towards it.
    charged: u64,
    /// The checkpoint that is being written.
    checkpointing: Option<checkpoint::Checkpointing>,
    /// Log written, by all groups of the core, at which the first checkpoint is due: what was replayed at
    /// the start counts as written.
    checkpoint_due_bytes: u64,
    /// Committed entries could not be understood, or the log lost entries: serves nothing, does not vote
    /// or campaign.
    corrupt: bool,
    /// The log cannot get another segment, for lack of this.
    shortage: Option<Shortage>,
    /// Everyone was answered for good: the log failed, or the engine stops.
    ended: bool,
    /// Nor is there more left of it than votes and checkpoints need.
    log_full: bool,
    /// The last checkpoint had no room.
    checkpoint_lacks: Option<Shortage>,
    /// And so did those before it, since the log had so many bytes.
    lacks_since_bytes: Option<u64>,
    /// The log must not grow any more meanwhile.
    checkpoint_presses: bool,
    /// It failed, and so did all since then.
    checkpoint_fails: bool,
    /// The alarms of which the log of this process has told.
    alarms_seen: Vec<AlarmMember>,
    /// Not before this time is the same alarm asked for again.
    alarm_again_ms: u64,
    /// Where everyone sees the revision of the store, at the latest when they hear of it otherwise.
    shown_revision: Arc<AtomicI64>,
    /// Term and vote of the last hard state handed to the log.
    persisted_vote: (u64, u64),
    /// Sizes of the store as of the last tick: counting them costs more than a write may.
    stats: henge_mvcc::Stats,
    /// What was applied when they were taken.
    stats_applied: u64,
    /// When idle watchers get their next progress note.
    progress_ms: u64,
    leader_seen: u64,
    /// Role, term and leader as they were last logged.
    said: role::Said,
    /// How far the others are behind, if this member leads.
    follower_lag: [(u64, u64); FOLLOWERS_MAX],
    leader_changes: u64,
    failed: u64,
    /// What is counted for metrics alone.
    counts: Counts,
    next_tick_ms: u64,
    retention: Retention,
}

impl Shard {
    /// Starts a group from what its log held.
    pub fn start(
        config: ShardConfig,
        recovered: RecoveredGroup,
        now_ms: u64,
    ) -> Result<Self, henge_raft::ConfigError> {
        let RecoveredGroup {
            mut machine,
            hard_state,
            log,
            lost,
        } = recovered;
        let raft_config = raft_config(&config, machine.applied_index);
        // A shard that gives its history up all the time would be hashed all the time.
        let keeps_hashes = !matches!(config.auto_compaction, AutoCompaction::Revisions(_));
        machine.store.keep_compaction_hashes(keeps_hashes);
        let mut log =
            log.unwrap_or_else(|| TailLog::new(conf_state(&config), log::Position::default()));
        let is_alone = config.voters == [config.member_id];
        log.set_hard_state(clamp(hard_state, &log, is_alone));
        let replayed_index = henge_raft::Storage::last_index(&log).unwrap_or(0);
        let counts = Counts::new(replayed_index, &machine);
        let raft = RawNode::new(raft_config, log)?;
        let mut shard = Shard {
            waiters: Waiters::new(config.first_request_id),
            raft,
            machine,
            watches: Watches::default(),
            words: Words::default(),
            reads: Reads::new(config.first_request_id),
            times: times::Times::default(),
            long_reads: LongReads::default(),
            answers: Vec::new(),
            queue: VecDeque::new(),
            returned: VecDeque::new(),
            renewals: Renewals::default(),
            hold_until_ms: 0,
            outbox: Vec::new(),
            handed_to: henge_raft::NONE,
            pending_bytes: 0,
            held_bytes: 0,
            removals: Removals::default(),
            hashes: Hashes::default(),
            applying: Applying::default(),
            turn: TurnWork::default(),
            charged: 0,
            checkpointing: None,
            checkpoint_due_bytes: config
                .checkpoint_bytes
                .saturating_sub(config.log_bytes_replayed),
            corrupt: lost.is_some(),
            shortage: None,
            ended: false,
            log_full: false,
            checkpoint_lacks: None,
            lacks_since_bytes: None,
            checkpoint_presses: false,
            checkpoint_fails: false,
            alarms_seen: Vec::new(),
            alarm_again_ms: 0,
            shown_revision: Arc::default(),
            persisted_vote: (hard_state.term, hard_state.vote),
            stats: henge_mvcc::Stats::default(),
            // Unlike any index: the first tick takes them.
            stats_applied: u64::MAX,
            progress_ms: u64::MAX,
            leader_seen: 0,
            said: role::Said::default(),
            follower_lag: Default::default(),
            leader_changes: 0,
            failed: 0,
            counts,
            next_tick_ms: now_ms + config.tick_ms,
            retention: Retention::default(),
            config,
        };
        if shard.corrupt {
            shard.watches.close(Error::Corrupt);
        } else if shard.is_alone() {
            // Nobody else could be leader: waiting for an election timeout would only delay the start.
            let _ = shard.raft.campaign();
        }
        Ok(shard)
    }

    /// Before anybody hears of what was applied.
    fn show_revision(&self) {
        let revision = self.machine.store.revision();
        self.shown_revision.store(revision, Ordering::Release);
    }

    /// Whether this member is the group's only voter.
    pub fn is_alone(&self) -> bool {
        self.config.voters == [self.config.member_id]
    }

    /// Whether there is something to do for callers that the turn had no time for.
    fn is_behind(&self) -> bool {
        let tells = self.times.is_due(self.machine.applied_index);
        let renews = self.may_renew_alone();
        !self.corrupt && (!self.applying.is_empty() || self.reads.has_due() || tells || renews)
    }

    /// Whether this member leads the group.
    pub fn is_leader(&self) -> bool {
        self.leader() == self.config.member_id
    }

    /// Who leads the group, as far as this member knows. One that has ended is not told any more.
    fn leader(&self) -> u64 {
        match self.is_over() {
            true => henge_raft::NONE,
            false => self.raft.leader(),
        }
    }

    /// Whether nothing will happen here any more: it serves nobody, and what its raft would say does not
    /// leave. So it is told nothing either, not even that time passes, or its words would pile up (two
    /// requests for votes a second: 24 MB a day).
    fn is_over(&self) -> bool {
        self.corrupt || self.ended
    }

    /// Whether the group stopped serving: an entry could not be understood, or raft found itself broken.
    pub fn is_corrupt(&self) -> bool {
        self.corrupt
    }

    /// The header of an answer given now.
    pub fn header(&self) -> Header {
        Header {
            cluster_id: self.config.cluster_id,
            member_id: self.config.member_id,
            revision: self.machine.store.revision(),
            raft_term: self.raft.term(),
        }
    }

    /// Passes time to raft, to waiting callers and to leases. Ask [`Shard::next_look_ms`] afterwards.
    fn advance_time(&mut self, now_ms: u64) {
        if self.is_over() {
            return;
        }
        // After a long pause one tick per missed interval would only storm the peers; raft needs to
        // know that time passed, not how often.
        if now_ms >= self.next_tick_ms {
            // One that is alone and waits for the log to take its own vote wins nothing by another term.
            let waits = self.is_alone() && !self.is_leader() && self.shortage.is_some();
            self.note_heartbeat(now_ms);
            if !waits {
                self.raft.tick();
            }
            self.next_tick_ms = (self.next_tick_ms + self.config.tick_ms).max(now_ms + 1);
            // Before the look at expired leases: a leader that is new since the last turn gives them
            // their full time first.
            self.note_leader(now_ms);
            self.expire_leases(now_ms);
            self.give_up_history(now_ms);
            self.machine.store.trim(TRIM_BYTES);
            self.stats = self.machine.store.stats();
            self.counts
                .note_versions(&self.machine.store, self.stats.versions);
            self.stats_applied = self.machine.applied_index;
            self.note_lag();
        }
        self.note_leader(now_ms);
        self.say_role();
        self.note_alarms();
        if now_ms >= self.hold_until_ms {
            self.hold_until_ms = 0;
        }
        self.pending_bytes -= self.waiters.expire(now_ms);
        self.expire_queue(now_ms);
        self.reads.expire(now_ms);
        self.drop_abandoned_reads();
        self.hashes.drop_abandoned();
        self.removals.expire(now_ms, self.config.request_timeout_ms);
        let header = self.header();
        let interval = self.config.progress_notify_ms;
        self.progress_ms = self
            .watches
            .notify_progress(&self.machine.store, now_ms, interval, header)
            .unwrap_or(u64::MAX);
    }

    /// When the shard has to be looked at again if nothing arrives for it, in milliseconds.
    ///
    /// A group that is alone, leads and has nothing under way needs no ticks: no peer waits to hear from
    /// it, and it cannot lose its lead. It costs nothing until a lease runs out or a request comes.
    fn next_look_ms(&self) -> u64 {
        if self.is_over() {
            return u64::MAX;
        }
        let rests = self.applying.is_empty()
            && self.is_alone()
            && self.is_leader()
            && self.waiting() == 0
            && self.renewals.waiting() == 0
            && self.reads.is_empty()
            && self.long_reads.is_empty()
            && self.hashes.is_empty()
            && self.removals.is_empty()
            && self.stats_applied == self.machine.applied_index
            && self.stats.bytes.idle == 0
            && !self.machine.store.leases_are_extending()
            && !self.machine.store.compaction_pending();
        let tick_ms = if rests {
            let due = self.machine.store.leases_next_due_ms();
            let due = due.unwrap_or(u64::MAX).min(self.history_due_ms());
            due.max(self.next_tick_ms)
        } else {
            self.next_tick_ms
        };
        let expiry_ms = self.waiters.next_expiry_ms().unwrap_or(u64::MAX);
        let hold_ms = match self.hold_until_ms {
            hold_ms if hold_ms > 0 && self.has_proposals() => hold_ms,
            _ => u64::MAX,
        };
        tick_ms.min(expiry_ms).min(self.progress_ms).min(hold_ms)
    }

    /// Answers everyone: the engine stops, or the log is poisoned.
    pub fn end(&mut self, proposed: &Error, queued: &Error) {
        self.ended = true;
        if let Some(chain) = self.flush_answers() {
            chain.release();
        }
        self.pending_bytes -= self.waiters.fail_all(proposed);
        let returned = std::mem::take(&mut self.returned);
        let returned = returned.into_iter().map(|returned| returned.pending);
        for pending in returned.chain(std::mem::take(&mut self.queue)) {
            self.pending_bytes -= pending.encoded.len();
            pending.answer.send(Err(queued.clone()));
        }
        self.removals.fail_all(proposed);
        self.hashes.fail_all(queued);
        self.renewals.fail_all(queued);
        self.applying.clear();
        self.times.clear();
        self.reads.fail_all(queued);
        self.long_reads.fail_all(queued);
        self.refuse_words(queued);
        self.watches.end(proposed);
    }

    /// Stops serving: a committed entry could not be understood.
    fn poison(&mut self) {
        self.corrupt = true;
        // First, with the reason: what ends without one has stopped.
        self.watches.close(Error::Corrupt);
        self.end(&Error::Corrupt, &Error::Corrupt);
    }

    /// This member's view of itself.
    pub fn status(&self) -> Status {
        let stats = self.machine.store.stats();
        Status {
            db_size: stats.bytes.total().cast_signed(),
            db_size_in_use: stats.bytes.in_use().cast_signed(),
            leader: self.leader(),
            raft_index: self.raft.commit_index(),
            raft_term: self.raft.term(),
            raft_applied_index: self.machine.applied_index,
            lacks_descriptors: self.lacks() == Some(Shortage::Descriptors),
            alarms: self.alarms(),
            is_learner: false,
        }
    }

    /// Callers whose writes were taken and not answered.
    pub fn waiting(&self) -> usize {
        self.waiters.open() + self.queue.len() + self.returned.len()
    }
}

fn conf_state(config: &ShardConfig) -> ConfState {
    ConfState {
        voters: config.voters.clone(),
        ..ConfState::default()
    }
}

/// A commit index learned from peers can be ahead of what this disk kept; the lost entries come again.
///
/// For a member that is alone every durable entry is committed, whether or not a later one said so before the
/// end: so it has all that it acknowledged, and can be read, before it can write.
fn clamp(hard_state: HardState, log: &TailLog, is_alone: bool) -> HardState {
    let last = henge_raft::Storage::last_index(log).unwrap_or(0);
    let commit = match is_alone {
        true => last,
        false => hard_state.commit.min(last),
    };
    HardState {
        commit,
        ..hard_state
    }
}

fn raft_config(config: &ShardConfig, applied: u64) -> Config {
    Config {
        election_tick: u32::try_from(config.election_ticks).unwrap_or(u32::MAX),
        heartbeat_tick: 1,
        applied,
        async_storage_writes: true,
        // etcd's figures: 1 MiB per message, 512 messages in flight.
        max_size_per_msg: 1 << 20,
        // A Ready's vectors stay small enough to be recycled by the allocator; a turn takes many Readys.
        max_committed_size_per_ready: 128 << 10,
        max_uncommitted_entries_size: 256 << 20,
        max_inflight_msgs: 512,
        check_quorum: true,
        pre_vote: true,
        random_seed: config.seed ^ config.member_id ^ config.group.rotate_left(32),
        ..Config::new(config.member_id)
    }
}

/// What a caller is told when the engine stops before its request was proposed.
pub(crate) const STOPPED_QUEUED: Error = Error::Stopped {
    outcome: Outcome::NotDone,
};
/// What a caller is told when the engine stops after its request was proposed.
pub(crate) const STOPPED_PROPOSED: Error = Error::Stopped {
    outcome: Outcome::Unknown,
};
