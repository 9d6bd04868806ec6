//! The raft consensus algorithm as a library that does nothing but think.
//!
//! A [`RawNode`] is one member of one group. It gets messages, proposals and ticks, and gives a
//! [`Ready`]: what to store, what to send, what to apply. It has no clock, no thread, no socket and no
//! file, and the same inputs always give the same outputs. So it runs wherever its host runs it, and a
//! whole cluster fits into one test.
//!
//! It behaves as etcd's raft library does: the same messages, the same state machine, the same log
//! lines; etcd's own interaction transcripts test it. What it adds: no message of a peer and no answer
//! of storage makes it panic ([`StepError`], [`Fault`]), payloads are [`bytes::Bytes`] and are never
//! copied, and messages have a compact [`wire`] form.
//!
//! # What it does
//!
//! Elections with randomized timeouts, [pre-vote](Config::pre_vote) and
//! [quorum checks](Config::check_quorum); replication with flow control and snapshots;
//! [membership] changes one by one or several at once through joint consensus; learners;
//! [leadership transfer](RawNode::transfer_leader); linearizable [reads](RawNode::read_index) at the
//! leader or a follower; storage writes that overlap each other ([`Ready`], asynchronous mode).
//!
//! # What the host must do
//!
//! - Call [`RawNode::tick`] at a steady pace, [`RawNode::step`] with every message that arrives, and
//!   handle each [`Ready`] in the order it describes.
//! - Store what is to be stored, *durably*, before it sends what rests on it. A node that forgets its
//!   vote or its log breaks the promises of the whole group.
//! - Know who it talks to: a forged message of a valid form is believed.
//! - Never give the id of a removed member to a new one.
//!
//! # Three nodes in memory
//!
//! ```
//! use std::collections::{BTreeMap, VecDeque};
//!
//! use bytes::Bytes;
//! use henge_raft::{Config, MemoryStorage, Message, RawNode};
//!
//! /// Handles one Ready in synchronous mode; returns the messages for others.
//! fn handle(node: &mut RawNode<MemoryStorage>, applied: &mut Vec<Bytes>) -> Vec<Message> {
//!     let ready = node.ready();
//!     // 1. Store. Memory is not durable; a real storage syncs here if `ready.must_sync`.
//!     let storage = node.storage_mut();
//!     if let Some(snapshot) = ready.snapshot {
//!         storage.apply_snapshot(snapshot).unwrap();
//!     }
//!     storage.append(&ready.entries).unwrap();
//!     storage.set_hard_state(ready.hard_state);
//!     // 3. Apply. New leaders start their term with an empty entry.
//!     let commands = ready.committed_entries.iter().map(|entry| entry.data.clone());
//!     applied.extend(commands.filter(|data| !data.is_empty()));
//!     // 4. Done.
//!     node.advance();
//!     // 2. Send.
//!     ready.messages
//! }
//!
//! let ids = [1, 2, 3];
//! let mut nodes = BTreeMap::new();
//! let mut applied = BTreeMap::new();
//! for id in ids {
//!     nodes.insert(id, RawNode::new(Config::new(id), MemoryStorage::with_voters(&ids)).unwrap());
//!     applied.insert(id, Vec::new());
//! }
//! let mut wire: VecDeque<Message> = VecDeque::new();
//! let mut is_proposed = false;
//! while applied.values().any(Vec::is_empty) {
//!     for (id, node) in &mut nodes {
//!         node.tick();
//!         if node.leader() != 0 && !is_proposed {
//!             is_proposed = node.propose(Bytes::from_static(b"hello")).is_ok();
//!         }
//!         while node.has_ready() {
//!             wire.extend(handle(node, applied.get_mut(id).unwrap()));
//!         }
//!     }
//!     while let Some(message) = wire.pop_front() {
//!         // What is refused here was late, or someone is wrong: the group goes on.
//!         let _ = nodes.get_mut(&message.to).unwrap().step(message);
//!     }
//! }
//! assert!(applied.values().all(|commands| commands == &[Bytes::from_static(b"hello")]));
//! ```
//!
//! `examples/three_nodes.rs` is the same with reads, a leader that dies, and its return.
//!
//! # Where etcd's library would stop the process, and this one does not
//!
//! | what happens | answer here |
//! |---|---|
//! | a leader names a commit index past our log | [`StepError::CommitBeyondLog`], and a reject with a hint |
//! | a leader, or its snapshot, contradicts a committed entry | [`StepError::ConflictsWithCommitted`], and no answer |
//! | a follower acknowledges entries that do not exist | [`StepError::AckBeyondLog`] |
//! | entries with gaps, terms that go back | [`StepError::Malformed`] |
//! | a snapshot with an impossible configuration | [`StepError::BadSnapshot`] |
//! | a membership change that cannot be applied | [`ChangeError`], the same on every member |
//! | storage fails, or contradicts itself | [`Fault::Storage`]: this group stops, others go on |
//!
//! And some differences that a user should not notice:
//!
//! - With asynchronous writes, a candidate asks for votes only when its own term is durable, and leads
//!   only when its own vote is. Otherwise it could lead, crash, and lead the same term again with other
//!   entries ([`Config::dangerous_early_vote_requests`] restores etcd's order).
//! - A request for a vote and its refusal say what is committed; a node whose log has a committed
//!   membership change that it did not know of learns of it this way (a group could come to a standstill
//!   else).
//! - A request for a vote in an earlier term is refused, so that its sender learns of ours (paper, 5.1).
//! - A lone voter answers reads only after the first commit of its term: its stored commit index may lag
//!   behind what it acknowledged before a restart.
//! - Reads that wait on a leader are dropped when it steps down.
//! - A follower that rejects what it had acknowledged is tried again at the next heartbeat, not at once
//!   and for ever.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod check;
mod config;
pub mod describe;
mod dice;
mod election;
mod entries;
mod error;
mod invariants;
mod log;
mod logger;
pub mod membership;
mod message;
mod node;
#[allow(unexpected_cfgs)] // `henge_planted` is only ever set by hand.
#[doc(hidden)]
pub mod planted;
pub mod progress;
pub mod quorum;
mod raft;
mod reads;
mod ready;
mod replication;
mod role;
#[cfg(test)]
mod seeded;
mod status;
mod storage;
mod trace;
mod unstable;
pub mod wire;

pub use config::{Config, NO_LIMIT, ReadOnly};
pub use entries::Entries;
pub use error::{ConfigError, DropReason, Fault, ProposeError, StepError};
pub use logger::{Level, Logger};
pub use membership::{
    ChangeError, ConfChange, ConfChangeKind, ConfChangeSingle, ConfChangeV2, Transition,
};
pub use message::{
    ConfState, ENTRY_OVERHEAD_BYTES, Entry, EntryId, EntryKind, HardState, LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD, Message, MessageKind, NONE, RoleKind, Snapshot, SnapshotMeta, SoftState,
    is_local_target,
};
pub use node::{RawNode, SnapshotStatus};
pub use ready::{ReadState, Ready};
pub use status::{Membership, Status};
pub use storage::{MemoryStorage, Storage, StorageError, limit_size};
pub use trace::{TraceEvent, Tracer};
