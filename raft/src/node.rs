//! The node a host drives, and the [`Ready`] it gets its work from.
//!
//! Promises: between two calls nothing happens. Whatever needs doing is in the next Ready, and whoever
//! does it in the order written there keeps raft's promises.
//! Must never know: how the host does it.
//! Tests: `tests/cluster.rs`, `tests/transcripts.rs`.

use bytes::Bytes;

use crate::config::Config;
use crate::entries::Entries;
use crate::error::{ConfigError, Fault, ProposeError, StepError};
use crate::membership::{ChangeError, ConfChange, ConfChangeV2};
use crate::message::{
    ConfState, Entry, EntryKind, HardState, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message,
    MessageKind, NONE, RoleKind, Snapshot, SoftState,
};
use crate::progress::ProgressMap;
use crate::raft::Raft;
use crate::role::Role;
use crate::status::Status;
use crate::storage::{Storage, StorageError};

/// A read that was asked for with [`RawNode::read_index`] may be served.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// As soon as this index is applied.
    pub index: u64,
    /// What was given to `read_index`.
    pub context: Bytes,
}

/// Everything the host must do now. It is handed out once: what is in it is not repeated.
///
/// **Synchronous** (`async_storage_writes` off). In this order:
/// 1. Store `entries` (one at index i replaces all stored ones from i on), `hard_state` unless it is
///    empty, and `snapshot`; durably, if `must_sync`.
/// 2. Send `messages`. A leader's [`MessageKind::App`]s may be sent before step 1 is done (thesis,
///    10.2.1); everything else only after. Report snapshots that were sent with
///    [`RawNode::report_snapshot`].
/// 3. Apply `snapshot`, then `committed_entries`. Membership changes among them go to
///    [`RawNode::apply_conf_change`] (one that the host decides against: with node 0).
/// 4. Call [`RawNode::advance`], before the next Ready is taken.
///
/// **Asynchronous** (`async_storage_writes` on). `messages` also has messages to two local threads, and
/// there is no `advance`. `entries` and `committed_entries` stay empty: they are in those messages.
/// - [`MessageKind::StorageAppend`] to [`LOCAL_APPEND_THREAD`]: store its entries, its
///   [hard state](Message::hard_state) unless that is empty, and its snapshot; when all that is
///   durable, deliver its `responses` (to peers, or to our own [`RawNode::step`]). Without responses
///   there is no hurry; but responses of a later one rest on everything before it, too. Only a commit
///   index may be lost (a hard state whose term and vote are those stored before).
/// - [`MessageKind::StorageApply`] to [`LOCAL_APPLY_THREAD`]: apply its entries, then deliver its
///   `responses`. It need not be durable. A snapshot can overtake it: entries up to the index of a
///   snapshot that is applied already are skipped.
/// - Messages to one thread are handled in order, and none is ever dropped. The two threads do not
///   wait for each other. All other messages may be sent at once.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Leader and role, if they changed. Need not be stored.
    pub soft_state: Option<SoftState>,
    /// To be stored; empty if unchanged.
    pub hard_state: HardState,
    /// Reads that can be served, each as soon as its index is applied.
    pub read_states: Vec<ReadState>,
    /// To be stored. Synchronous mode only.
    pub entries: Entries,
    /// To be stored and applied.
    pub snapshot: Option<Snapshot>,
    /// To be applied. Synchronous mode only.
    pub committed_entries: Entries,
    /// To be sent; in asynchronous mode, also to the local threads.
    pub messages: Vec<Message>,
    /// Whether entries, term or vote are to be stored. A commit index alone can be lost.
    pub must_sync: bool,
}

/// How sending a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// It arrived and was applied.
    Finish,
    /// It did not; the leader will try again.
    Failure,
}

/// One member of one group. Not thread-safe, and nothing in it waits.
#[derive(Debug)]
pub struct RawNode<S: Storage> {
    raft: Raft<S>,
    is_async: bool,
    soft_before: SoftState,
    hard_before: HardState,
    /// What the last Ready's completion will be answered with. Synchronous mode only.
    steps_on_advance: Vec<Message>,
}

impl<S: Storage> RawNode<S> {
    /// A node that goes on from what `storage` has.
    ///
    /// To start a group, give each of its first members a storage that begins behind the same snapshot,
    /// at an index of at least 1, which holds the voters (see
    /// [`MemoryStorage::with_voters`](crate::MemoryStorage::with_voters) for why). A member that joins
    /// later starts with an empty storage and is added by a membership change.
    ///
    /// # Errors
    /// [`ConfigError`] if the configuration is no good, or storage cannot be read or contradicts itself.
    pub fn new(config: Config, storage: S) -> Result<RawNode<S>, ConfigError> {
        let is_async = config.async_storage_writes;
        let raft = Raft::new(config, storage)?;
        let (soft_before, hard_before) = (raft.soft_state(), raft.hard_state());
        Ok(RawNode {
            raft,
            is_async,
            soft_before,
            hard_before,
            steps_on_advance: Vec::new(),
        })
    }

    /// The storage this node reads.
    pub fn storage(&self) -> &S {
        &self.raft.log.storage
    }

    /// The storage this node reads, to be written. Tells the node that storage may now have what it
    /// called [`Unavailable`](StorageError::Unavailable) before.
    pub fn storage_mut(&mut self) -> &mut S {
        self.raft.log.waits_for_storage = false;
        &mut self.raft.log.storage
    }

    /// One tick of the host's clock: see [`Config::election_tick`].
    pub fn tick(&mut self) {
        if self.raft.fault.is_none() {
            self.raft.log.waits_for_storage = false;
            self.raft.tick();
        }
    }

    /// Starts an election now.
    ///
    /// # Errors
    /// `Poisoned` only: whether it is won shows later.
    pub fn campaign(&mut self) -> Result<(), StepError> {
        self.local(Message {
            kind: MessageKind::Hup,
            ..Message::default()
        })
    }

    /// Proposes one command.
    ///
    /// # Errors
    /// [`ProposeError`]: it was not taken. When it was taken it still may never be committed.
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        self.propose_batch([data])
    }

    /// Proposes commands in this order, all or none.
    ///
    /// # Errors
    /// As [`RawNode::propose`].
    pub fn propose_batch<I>(&mut self, payloads: I) -> Result<(), ProposeError>
    where
        I: IntoIterator<Item = Bytes>,
        I::IntoIter: ExactSizeIterator,
    {
        self.check_fault()?;
        let payloads = payloads.into_iter();
        if payloads.len() == 0 {
            return Err(ProposeError::Empty);
        }
        if self.raft.is_leader() {
            return self
                .raft
                .propose_payloads(payloads)
                .map_err(ProposeError::Dropped);
        }
        let entries = payloads
            .map(|data| Entry {
                data,
                ..Entry::default()
            })
            .collect();
        self.propose_message(entries)
    }

    /// Proposes a membership change. One that may not be made now is replaced by an empty entry when
    /// it is appended (see [`Config::disable_conf_change_validation`]).
    ///
    /// # Errors
    /// As [`RawNode::propose`].
    pub fn propose_conf_change(&mut self, change: &ConfChangeV2) -> Result<(), ProposeError> {
        let (kind, data) = (EntryKind::ConfChangeV2, change.encode()?);
        self.propose_change(Entry {
            kind,
            data,
            ..Entry::default()
        })
    }

    /// Proposes a membership change in the older form, for groups with members that only know that.
    ///
    /// # Errors
    /// As [`RawNode::propose`].
    pub fn propose_conf_change_v1(&mut self, change: &ConfChange) -> Result<(), ProposeError> {
        let (kind, data) = (EntryKind::ConfChange, change.encode());
        self.propose_change(Entry {
            kind,
            data,
            ..Entry::default()
        })
    }

    /// Uses a committed membership change from now on. To be called for each one, in order, when it is
    /// applied. Returns the configuration to be stored with the state at that index.
    ///
    /// # Errors
    /// [`ChangeError`] if it cannot follow the present configuration; nothing changes then, here and on
    /// every other member, for all see the same changes in the same order.
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, ChangeError> {
        self.raft.apply_conf_change(change)
    }

    /// Takes a message of a peer, or a response of a local thread.
    ///
    /// # Errors
    /// [`StepError`]: the message was refused. A message that is merely late is no error.
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        self.check_fault()?;
        self.raft.check(&message)?;
        self.local(message)
    }

    /// Whether [`RawNode::ready`] would return work.
    pub fn has_ready(&self) -> bool {
        let raft = &self.raft;
        raft.fault.is_none()
            && (!raft.messages.is_empty()
                || !raft.messages_after_append.is_empty()
                || raft.log.unstable.new_count() > 0
                || raft.log.has_next_committed(!self.is_async)
                || !raft.read_states.is_empty()
                || raft.log.unstable.new_snapshot().is_some()
                || raft.soft_state() != self.soft_before
                || raft.hard_state() != self.hard_before)
    }

    /// All work there is, handed over: see [`Ready`]. Empty after a [`Fault`].
    pub fn ready(&mut self) -> Ready {
        let committed = self.next_committed();
        if self.raft.fault.is_some() {
            return Ready::default();
        }
        let entries = self.raft.log.unstable.new_entries();
        let mut ready = Ready {
            soft_state: self.changed_soft_state(),
            read_states: std::mem::take(&mut self.raft.read_states),
            snapshot: self.raft.log.unstable.new_snapshot().cloned(),
            messages: std::mem::take(&mut self.raft.messages),
            ..Ready::default()
        };
        let (before, now) = (self.hard_before, self.raft.hard_state());
        ready.must_sync = !entries.is_empty() || now.vote != before.vote || now.term != before.term;
        if now != before {
            ready.hard_state = now;
            self.hard_before = now;
        }
        let after_append = std::mem::take(&mut self.raft.messages_after_append);
        let answer = self.append_response(&ready);
        self.raft.log.unstable.accept_in_progress();
        self.accept_committed(&committed);
        if self.is_async {
            attach_append(&mut ready, self.raft.id, entries, after_append, answer);
            attach_apply(&mut ready, self.raft.id, committed);
        } else {
            self.keep_for_advance(&mut ready, after_append, answer, &committed);
            ready.entries = entries;
            ready.committed_entries = committed;
        }
        ready
    }

    /// Everything in the last Ready is done. Synchronous mode only; does nothing otherwise.
    pub fn advance(&mut self) {
        for message in std::mem::take(&mut self.steps_on_advance) {
            // These are our own answers to ourselves; what they can run into is logged there.
            let _ = self.local(message);
        }
    }

    /// Asks which index must be applied before a read that starts now may be served. The answer is a
    /// [`ReadState`] with the same context, or none (no leader, or the question got lost): ask again.
    pub fn read_index(&mut self, context: Bytes) {
        let entry = Entry {
            data: context,
            ..Entry::default()
        };
        self.report(Message {
            kind: MessageKind::ReadIndex,
            entries: entry.into(),
            ..Message::default()
        });
    }

    /// Hands leadership to `id`, if it catches up within an election timeout. Proposals are dropped
    /// meanwhile.
    pub fn transfer_leader(&mut self, id: u64) {
        self.report(Message {
            kind: MessageKind::TransferLeader,
            from: id,
            ..Message::default()
        });
    }

    /// Follower: forgets the leader, so that with CheckQuorum it may vote for another one. For hosts
    /// that know better than the timeout that the leader is gone.
    pub fn forget_leader(&mut self) {
        self.report(Message {
            kind: MessageKind::ForgetLeader,
            ..Message::default()
        });
    }

    /// The last messages to `id` did not get through.
    pub fn report_unreachable(&mut self, id: u64) {
        self.report(Message {
            kind: MessageKind::Unreachable,
            from: id,
            ..Message::default()
        });
    }

    /// How sending a snapshot to `id` ended. Without this a follower whose snapshot got lost gets
    /// nothing more.
    pub fn report_snapshot(&mut self, id: u64, status: SnapshotStatus) {
        let (kind, reject) = (MessageKind::SnapStatus, status == SnapshotStatus::Failure);
        self.report(Message {
            kind,
            from: id,
            reject,
            ..Message::default()
        });
    }

    /// This node's id.
    pub fn id(&self) -> u64 {
        self.raft.id
    }

    /// The leader this node believes in, or [`NONE`].
    pub fn leader(&self) -> u64 {
        self.raft.leader
    }

    /// The current term.
    pub fn term(&self) -> u64 {
        self.raft.term
    }

    /// The current role.
    pub fn role(&self) -> RoleKind {
        self.raft.role_kind()
    }

    /// The highest index known to be committed.
    pub fn commit_index(&self) -> u64 {
        self.raft.log.committed
    }

    /// The highest index reported applied.
    pub fn applied_index(&self) -> u64 {
        self.raft.log.applied
    }

    /// The last index of the log.
    pub fn last_index(&self) -> u64 {
        self.raft.log.last().index
    }

    /// The configuration as of what the host has applied, to be stored with that state.
    ///
    /// (While a received snapshot is on its way to storage, the one in use is already the snapshot's,
    /// see [`RawNode::status`]; a state machine that is stored in that moment must not get it.)
    pub fn conf_state(&self) -> ConfState {
        let raft = &self.raft;
        raft.membership_applied
            .as_ref()
            .unwrap_or(&raft.membership)
            .conf_state()
    }

    /// What stopped this group, if anything did.
    pub fn fault(&self) -> Option<&Fault> {
        self.raft.fault.as_ref()
    }

    /// Everything there is to know; allocates.
    pub fn status(&self) -> Status {
        let raft = &self.raft;
        let (transferee, progress) = match &raft.role {
            Role::Leader(leadership) => (leadership.transferee, raft.progress.clone()),
            _ => (NONE, ProgressMap::default()),
        };
        Status {
            id: raft.id,
            hard_state: raft.hard_state(),
            soft_state: raft.soft_state(),
            applied: raft.log.applied,
            last_index: raft.log.last().index,
            transferee,
            membership: raft.membership.clone(),
            progress,
        }
    }

    /// Sets the election timeout, in ticks, until the role changes next. For tests, and for hosts that
    /// know which node should campaign first.
    pub fn set_randomized_election_timeout(&mut self, ticks: u32) {
        self.raft.randomized_timeout = ticks;
    }

    fn check_fault(&self) -> Result<(), Fault> {
        self.raft.fault.clone().map_or(Ok(()), Err)
    }

    /// Steps a message that we vouch for.
    fn local(&mut self, message: Message) -> Result<(), StepError> {
        self.check_fault()?;
        self.raft.log.waits_for_storage = false;
        let outcome = self.raft.step(message);
        self.check_fault()?;
        outcome
    }

    /// Steps a message that has no answer.
    fn report(&mut self, message: Message) {
        let _ = self.local(message);
    }

    fn propose_change(&mut self, entry: Entry) -> Result<(), ProposeError> {
        self.check_fault()?;
        match self.raft.is_leader() {
            true => self.raft.propose_entries(entry.into()),
            false => self.propose_message(entry.into()),
        }
    }

    /// Not the leader: on its way there, if there is one.
    fn propose_message(&mut self, entries: Entries) -> Result<(), ProposeError> {
        let (kind, from) = (MessageKind::Prop, self.raft.id);
        match self.local(Message {
            kind,
            from,
            entries,
            ..Message::default()
        }) {
            Err(StepError::Proposal(error)) => Err(error),
            Err(StepError::Poisoned(fault)) => Err(ProposeError::Poisoned(fault)),
            // No other error can come of a proposal.
            Ok(()) | Err(_) => Ok(()),
        }
    }

    fn next_committed(&mut self) -> Entries {
        match self.raft.log.next_committed(!self.is_async) {
            Ok(entries) => entries,
            Err(StorageError::Unavailable) => {
                // Ask again when something happens, not over and over.
                self.raft.log.waits_for_storage = true;
                Entries::new()
            }
            Err(error) => {
                self.raft.poison_storage("read committed entries", error);
                Entries::new()
            }
        }
    }

    fn changed_soft_state(&mut self) -> Option<SoftState> {
        let now = self.raft.soft_state();
        let is_changed = now != self.soft_before;
        self.soft_before = now;
        is_changed.then_some(now)
    }

    fn accept_committed(&mut self, committed: &[Entry]) {
        if let Some(last) = committed.last() {
            let size = committed.iter().map(Entry::size).sum();
            self.raft
                .log
                .accept_applying(last.index, size, !self.is_async);
        }
    }

    /// What tells us, when all that is unstable now is durable, that it is.
    ///
    /// It carries our term, and an answer from an earlier term is ignored. Index and term of the last
    /// entry alone would not do (the ABA problem): entries 5/2 may be written, replaced by 5/3 from
    /// another leader, and replaced again by the same 5/2 from the first one. When the first write is
    /// reported, storage will still be overwritten twice, and must not be read yet. Replacing entries
    /// takes a new leader, so while the term is the same nobody has replaced anything.
    ///
    /// Since answers get ignored, each new term must produce one, or the tail would stay in memory for
    /// ever: hence it is asked for whenever there is a tail, not only when entries are new (a new term
    /// always has a hard state to store), and it is about the last entry.
    fn append_response(&self, ready: &Ready) -> Option<Message> {
        let log = &self.raft.log;
        if log.unstable.is_empty() && ready.snapshot.is_none() {
            return None;
        }
        let mut answer = Message {
            kind: MessageKind::StorageAppendResp,
            to: self.raft.id,
            from: LOCAL_APPEND_THREAD,
            term: self.raft.term,
            snapshot: ready.snapshot.clone().map(Box::new),
            ..Message::default()
        };
        if !log.unstable.is_empty() {
            answer.index = log.last().index;
            answer.log_term = log.last().term;
        }
        Some(answer)
    }

    fn keep_for_advance(
        &mut self,
        ready: &mut Ready,
        after_append: Vec<Message>,
        answer: Option<Message>,
        committed: &Entries,
    ) {
        let id = self.raft.id;
        let (own, others): (Vec<_>, Vec<_>) = after_append.into_iter().partition(|it| it.to == id);
        ready.messages.extend(others);
        self.steps_on_advance.extend(own);
        self.steps_on_advance.extend(answer);
        if !committed.is_empty() {
            self.steps_on_advance
                .push(apply_response(id, committed.clone()));
        }
    }
}

/// Our own acknowledgements come before the answer about stability: while entries are in the tail, their
/// terms are found there, without asking storage.
fn attach_append(
    ready: &mut Ready,
    id: u64,
    entries: Entries,
    after_append: Vec<Message>,
    answer: Option<Message>,
) {
    let has_work = !entries.is_empty()
        || !ready.hard_state.is_empty()
        || ready.snapshot.is_some()
        || !after_append.is_empty();
    if !has_work {
        return;
    }
    let mut responses = after_append;
    responses.extend(answer);
    ready.messages.push(Message {
        kind: MessageKind::StorageAppend,
        to: LOCAL_APPEND_THREAD,
        from: id,
        // All zero if unchanged: the host then finds an empty hard state.
        term: ready.hard_state.term,
        vote: ready.hard_state.vote,
        commit: ready.hard_state.commit,
        entries,
        snapshot: ready.snapshot.clone().map(Box::new),
        responses,
        ..Message::default()
    });
}

fn attach_apply(ready: &mut Ready, id: u64, committed: Entries) {
    if committed.is_empty() {
        return;
    }
    ready.messages.push(Message {
        kind: MessageKind::StorageApply,
        to: LOCAL_APPLY_THREAD,
        from: id,
        responses: vec![apply_response(id, committed.clone())],
        entries: committed,
        ..Message::default()
    });
}

/// Without a term: what is committed holds in every term.
fn apply_response(id: u64, entries: Entries) -> Message {
    let (kind, from) = (MessageKind::StorageApplyResp, LOCAL_APPLY_THREAD);
    Message {
        kind,
        to: id,
        from,
        entries,
        ..Message::default()
    }
}
