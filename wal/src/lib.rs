//! The write-ahead log of Henge: one log per core, shared by all raft groups of that core.
//!
//! What one turn of a core persists is one *batch*: one contiguous, 4 KiB-aligned, synchronous
//! write, acknowledged in log order. [`Wal::open`] replays what is there and cuts a torn tail;
//! [`Wal::entry`], [`Wal::hard_state`] and [`Wal::compacted`] stage records without I/O;
//! [`Wal::submit`] writes them; [`Wal::poll`] says what became durable.
//!
//! Promises: what was acknowledged is there after any crash; what recovery yields is a prefix of
//! what was staged; a damaged log is never cut below what was acknowledged; a failed write is never
//! retried on the same file. Must never know: raft, the clock, what an entry means.
//!
//! The formats are drawn byte by byte in `docs/format.md`. Tested by the unit tests beside the
//! code, by `tests/` (every crash point of small workloads on the simulated disk, a naive model,
//! flipped bytes, real disks), and by the simulator above this crate.
#![warn(missing_docs)]
#![deny(unsafe_code)]

pub mod checkpoint;
pub mod disk;

mod ahead;
mod batch;
mod chain;
mod collect;
mod commit;
mod error;
mod groups;
mod identity;
pub mod inspect;
mod le;
mod log;
mod mend;
mod options;
mod pipeline;
mod pulse;
mod reads;
mod record;
mod recover;
pub mod repair;
mod report;
mod rewrite;
mod scan;
mod scrub;
mod segment;
mod sizes;
mod stage;

pub use collect::{Collect, GroupLog};
pub use error::{Corruption, IoFault, OpenError, ReadError, Shortage, WalError};
pub use log::{Event, Wal};
pub use options::{Identity, Options};
pub use pulse::{BUCKETS, Histogram, Histograms, InFlight};
pub use reads::{ReadEntry, ReadId};
pub use record::{BatchInfo, Record, Replay};
pub use report::{Cut, Damage, Healed, OpenReport, Stats};
pub use rewrite::Pin;

/// Identifies a raft group within a core's log. Chosen by the caller; any value is legal.
pub type GroupId = u64;

/// Batch sequence number: the first batch of a log is 1, each batch is one more than the one before.
/// Batches become durable in this order.
pub type Lsn = u64;

/// Unit of everything the log writes, in bytes: the alignment `O_DIRECT` needs and the page size.
pub const BLOCK_BYTES: usize = 4096;

/// Largest payload of one entry, in bytes (16 MiB): ten times etcd's request limit of 1.5 MiB.
pub const ENTRY_BYTES_MAX: usize = 16 * 1024 * 1024;
