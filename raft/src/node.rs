//! The node a host drives. The work it has for the host is in a [`Ready`](crate::Ready).
//!
//! Promises: between two calls nothing happens. Whatever needs doing is in the next Ready, and whoever
//! does it in the order written there keeps raft's promises.
//! Must never know: how the host does it.
//! Tests: `tests/cluster.rs`, `tests/transcripts`.

use bytes::Bytes;

use crate::config::Config;
use crate::entries::Entries;
use crate::error::{ConfigError, Fault, ProposeError, StepError};
use crate::membership::{ChangeError, ConfChange, ConfChangeV2};
use crate::message::{
    ConfState, Entry, EntryKind, HardState, Message, MessageKind, NONE, RoleKind, SoftState,
};
use crate::progress::ProgressMap;
use crate::raft::Raft;
use crate::role::Role;
use crate::status::Status;
use crate::storage::Storage;

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
    pub(crate) raft: Raft<S>,
    pub(crate) is_async: bool,
    /// As the last Ready had them.
    pub(crate) soft_before: SoftState,
    pub(crate) hard_before: HardState,
    /// What the last Ready's completion will be answered with. Synchronous mode only.
    pub(crate) steps_on_advance: Vec<Message>,
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
    /// called [`Unavailable`](crate::StorageError::Unavailable) before.
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

    /// Whether a proposal of so many payload bytes would be taken now, or passed on to the leader. The answer
    /// stands until the next message or tick.
    ///
    /// # Errors
    /// What [`RawNode::propose`] would refuse it with.
    pub fn may_propose(&self, bytes: u64) -> Result<(), ProposeError> {
        self.check_fault()?;
        self.raft
            .proposal_refusal(bytes)
            .map_or(Ok(()), |reason| Err(ProposeError::Dropped(reason)))
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

    /// Asks which index must be applied before a read that starts now may be served. The answer is a
    /// [`ReadState`](crate::ReadState) with the same context, or none (no leader, or the question got lost):
    /// ask again.
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

    /// Storage has entries in memory now that it answered `Unavailable` for: those who wait for them are
    /// sent to. Without this they wait for their next heartbeat response.
    pub fn entries_available(&mut self) {
        if self.check_fault().is_ok() {
            self.raft.send_on();
        }
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
    pub(crate) fn local(&mut self, message: Message) -> Result<(), StepError> {
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
}
