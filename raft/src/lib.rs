//! henge-raft
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod check;
mod config;
pub mod describe;
mod dice;
mod election;
mod error;
mod log;
mod logger;
pub mod membership;
mod message;
mod node;
pub mod progress;
pub mod quorum;
mod raft;
mod reads;
mod replication;
mod role;
mod status;
mod storage;
mod unstable;
pub mod wire;

pub use config::{Config, NO_LIMIT, ReadOnly};
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
pub use node::{RawNode, ReadState, Ready, SnapshotStatus};
pub use status::{Membership, Status};
pub use storage::{MemoryStorage, Storage, StorageError, limit_size};
