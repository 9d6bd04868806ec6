//! The revisioned store of Henge: keys with history, transactions, leases, watchers.
//!
//! A single-writer, in-memory, ordered, multi-version map with etcd's v3 semantics. It is the state
//! machine that a replicated log drives: the same commands in the same order give the same answers
//! and the same [`Store::hash_kv`] everywhere. It does no I/O, reads no clock (time comes in as
//! milliseconds), starts no thread, and has no `unsafe`.
//!
//! ```
//! use henge_mvcc::{KeyRange, PutRequest, RangeRequest, Store};
//!
//! let mut store = Store::new();
//! store.put(&PutRequest { key: b"k", value: b"1", ..PutRequest::default() })?;
//! store.put(&PutRequest { key: b"k", value: b"2", ..PutRequest::default() })?;
//! assert_eq!(store.revision(), 3);
//! let request = RangeRequest { range: KeyRange::one(b"k"), revision: 2, ..RangeRequest::default() };
//! assert_eq!(store.range(&request)?.kvs[0].value, &b"1"[..]);
//! # Ok::<(), henge_mvcc::Error>(())
//! ```
#![forbid(unsafe_code)]

mod account;
mod arena;
pub mod check;
mod compact;
mod cursor;
mod error;
mod hash;
mod index;
mod keys;
mod lease;
mod long;
mod names;
mod pins;
mod range;
mod revlog;
mod slots;
mod snapshot;
mod sorter;
mod store;
mod tally;
#[cfg(test)]
mod testing;
mod txn;
mod types;
mod usual;
mod varint;
mod version;
mod watch;
mod work;
mod write;

pub use account::{MemoryBytes, Stats};
pub use cursor::{EARLY_BYTES, RangeCursor, RangeEnd, RangeSlice, SliceLimits};
pub use error::{Error, SnapshotError};
pub use hash::HashCursor;
pub use long::{
    LongAnswer, LongLeaseKeys, LongLeases, LongRequest, LongTxnRead, LongWrite, let_go,
};
pub use snapshot::{Restorer, SnapshotCursor};
pub use store::{Config, Store};
pub use tally::{LEASE_TTL_BUCKETS, Tally};
pub use types::*;
pub use work::Work;
