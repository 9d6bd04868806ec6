//! The node a host drives (signatures only; the body follows).

use bytes::Bytes;

use crate::config::Config;
use crate::error::{ConfigError, ProposeError, StepError};
use crate::membership::{ChangeError, ConfChangeV2};
use crate::message::{ConfState, Entry, HardState, Message, RoleKind, Snapshot, SoftState};
use crate::status::Status;
use crate::storage::Storage;

/// A read that may be served once `index` is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReadState {
    /// Apply this first.
    pub index: u64,
    /// What was given to `read_index`.
    pub context: Bytes,
}

/// Work for the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ready {
    /// Changed leader or role.
    pub soft_state: Option<SoftState>,
    /// To store; empty if unchanged.
    pub hard_state: HardState,
    /// Reads that may go on.
    pub read_states: Vec<ReadState>,
    /// To store (sync mode).
    pub entries: Vec<Entry>,
    /// To store and apply.
    pub snapshot: Option<Snapshot>,
    /// To apply (sync mode).
    pub committed_entries: Vec<Entry>,
    /// To send, and (async mode) to hand to the local threads.
    pub messages: Vec<Message>,
    /// Whether what is to be stored must be durable.
    pub must_sync: bool,
}

/// How sending a snapshot ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SnapshotStatus {
    /// It arrived.
    Finish,
    /// It did not.
    Failure,
}

/// A node of one group.
#[derive(Debug)]
pub struct RawNode<S: Storage> {
    storage: S,
}

#[allow(missing_docs, unused_variables)]
impl<S: Storage> RawNode<S> {
    pub fn new(config: Config, storage: S) -> Result<RawNode<S>, ConfigError> {
        config.validate()?;
        Ok(RawNode { storage })
    }
    pub fn storage(&self) -> &S {
        &self.storage
    }
    pub fn storage_mut(&mut self) -> &mut S {
        &mut self.storage
    }
    pub fn tick(&mut self) {}
    pub fn campaign(&mut self) -> Result<(), StepError> {
        Ok(())
    }
    pub fn propose(&mut self, data: Bytes) -> Result<(), ProposeError> {
        Ok(())
    }
    pub fn propose_batch<I>(&mut self, payloads: I) -> Result<(), ProposeError>
    where
        I: IntoIterator<Item = Bytes>,
    {
        Ok(())
    }
    pub fn propose_conf_change(&mut self, change: &ConfChangeV2) -> Result<(), ProposeError> {
        Ok(())
    }
    pub fn apply_conf_change(&mut self, change: &ConfChangeV2) -> Result<ConfState, ChangeError> {
        Ok(ConfState::default())
    }
    pub fn step(&mut self, message: Message) -> Result<(), StepError> {
        Ok(())
    }
    pub fn has_ready(&self) -> bool {
        false
    }
    pub fn ready(&mut self) -> Ready {
        Ready::default()
    }
    pub fn advance(&mut self) {}
    pub fn read_index(&mut self, context: Bytes) {}
    pub fn transfer_leader(&mut self, id: u64) {}
    pub fn forget_leader(&mut self) {}
    pub fn report_unreachable(&mut self, id: u64) {}
    pub fn report_snapshot(&mut self, id: u64, status: SnapshotStatus) {}
    pub fn leader(&self) -> u64 {
        0
    }
    pub fn term(&self) -> u64 {
        0
    }
    pub fn role(&self) -> RoleKind {
        RoleKind::Follower
    }
    pub fn commit_index(&self) -> u64 {
        0
    }
    pub fn applied_index(&self) -> u64 {
        0
    }
    pub fn status(&self) -> Option<Status> {
        None
    }
}
