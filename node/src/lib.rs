//! Henge: a replicated, revisioned key-value storage engine.
//!
//! One thread per core, every raft group of a core committing through one write-ahead log, embeddable
//! in a Linux service and usable by any etcd v3 client. Start at [`Engine`]; ARCHITECTURE.md in the
//! repository shows how the rooms fit together.

// A stream that nobody reads, or a full disk, would end the process: `cli::output` and `host::log_lines`
// are the ways out.
#![deny(clippy::print_stdout, clippy::print_stderr)]

/// This crate's version.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// How it was built: what `HENGE_BUILD` said at compile time (a commit, a package), else the profile.
pub const BUILD: &str = match option_env!("HENGE_BUILD") {
    Some(build) => build,
    None if cfg!(debug_assertions) => "dev",
    None => "release",
};

pub mod api;
pub mod cli;
pub mod core;
pub mod engine;
pub mod etcd;
pub mod failure;
pub mod host;
pub mod http;
pub mod local;
pub mod machine;
pub mod peer;
pub mod shard;

pub use engine::{
    Batch, BatchReport, Blocking, BlockingIter, ClusterConfig, Engine, EngineBuilder, Keyspace,
    OpenError, Revisions, Router, Sharded, ShardedWatcher, Snapshot, Stats, WatchEnd, Watcher,
};
pub use failure::{
    AlarmError, AlarmMistake, BatchError, BatchMistake, CompactError, CompactMistake, DeleteError,
    DeleteMistake, Failure, LeaseError, LeaseMistake, PutError, PutMistake, RangeError,
    RangeMistake, TxnError, TxnMistake, Unavailable, Unknown, WatchError, WatchMistake,
};
pub use henge_mvcc as mvcc;
pub use henge_wal as wal;
pub use host::HostKind;
pub use local::{Driver, Local};
pub use shard::retention::AutoCompaction;
