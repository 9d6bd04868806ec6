//! Henge: a replicated, revisioned key-value storage engine.
//!
//! One thread per core, every raft group of a core committing through one write-ahead log, embeddable
//! in a Linux service and usable by any etcd v3 client. Start at [`Engine`]; ARCHITECTURE.md in the
//! repository shows how the rooms fit together.

// A stream that nobody reads, or a full disk, would end the process.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod cluster;
pub mod engine;
pub mod failure;
pub mod host;
pub mod local;
mod unpark;

pub use engine::{
    Batch, BatchReport, Blocking, BlockingIter, ClusterConfig, Engine, EngineBuilder, Keyspace,
    OpenError, Revisions, Router, Sharded, ShardedWatcher, Snapshot, Stats, WatchEnd, Watcher,
};
pub use failure::{
    AlarmError, AlarmMistake, BatchError, BatchMistake, CompactError, CompactMistake, DeleteError,
    DeleteMistake, Failure, LeaseError, LeaseMistake, PutError, PutMistake, RangeError,
    RangeMistake, TxnError, TxnMistake, Unavailable, Unknown, WatchError, WatchMistake,
};
pub use henge_api as api;
pub use henge_api::{BUILD, VERSION};
pub use henge_core::shard::retention::AutoCompaction;
/// Commands and their application, for tools that read a log offline.
#[doc(hidden)]
pub use henge_core::{machine, restore};
pub use henge_mvcc as mvcc;
pub use henge_wal as wal;
pub use host::HostKind;
pub use local::{Driver, Local};
