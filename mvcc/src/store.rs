//! Signatures only, so that others can compile; the real store follows in the next commits.
#![allow(missing_docs, clippy::missing_panics_doc, unused_variables)]
use crate::error::{Error, SnapshotError};
use crate::types::*;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Leases shorter than this are raised to it (must be equal on all replicas), seconds.
    pub lease_ttl_s_min: i64,
    /// Most bytes of undelivered events kept for one synced watcher.
    pub watch_buffer_bytes_max: usize,
}
impl Default for Config {
    fn default() -> Self {
        Config {
            lease_ttl_s_min: 2,
            watch_buffer_bytes_max: 1 << 20,
        }
    }
}
#[derive(Debug, Default)]
pub struct Store {}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    pub keys: u64,
    pub versions: u64,
    pub watchers: u64,
    pub leases: u64,
    pub bytes: MemoryBytes,
}
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBytes {
    pub records: u64,
    pub history: u64,
    pub index: u64,
    pub log: u64,
    pub leases: u64,
    pub watch: u64,
}
impl MemoryBytes {
    pub fn total(&self) -> u64 {
        self.records + self.history + self.index + self.log + self.leases + self.watch
    }
}
#[derive(Debug)]
pub struct SnapshotCursor {}
#[derive(Debug, Default)]
pub struct Restorer {}
impl Restorer {
    pub fn new() -> Self {
        Restorer::default()
    }
    pub fn with_config(config: Config) -> Self {
        Restorer::default()
    }
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), SnapshotError> {
        unreachable!("signature only")
    }
    pub fn finish(self) -> Result<Store, SnapshotError> {
        unreachable!("signature only")
    }
}
macro_rules! signatures { ($($(#[$m:meta])* fn $name:ident $args:tt -> $ret:ty;)*) => {
    impl Store { $(signatures!(@ $name $args $ret);)* }
}; (@ $name:ident ($($args:tt)*) $ret:ty) => {
    pub fn $name($($args)*) -> $ret { unreachable!("signature only") }
}; }
signatures! {
    fn new() -> Store;
    fn with_config(config: Config) -> Store;
    fn revision(&self) -> i64;
    fn compacted_revision(&self) -> i64; // -1 before the first compaction, as etcd
    fn range(&self, request: &RangeRequest<'_>) -> Result<RangeResponse, Error>;
    fn put(&mut self, request: &PutRequest<'_>) -> Result<PutResponse, Error>;
    fn delete_range(&mut self, request: &DeleteRangeRequest<'_>) -> Result<DeleteRangeResponse, Error>;
    fn txn(&mut self, request: &TxnRequest<'_>) -> Result<TxnResponse, Error>;
    fn txn_read(&self, request: &TxnRequest<'_>) -> Result<TxnResponse, Error>;
    fn compact(&mut self, revision: i64) -> Result<(), Error>;
    fn compact_step(&mut self, budget: usize) -> bool;
    fn lease_grant(&mut self, id: i64, ttl_s: i64, now_ms: u64) -> Result<i64, Error>; // granted ttl
    fn lease_revoke(&mut self, id: i64) -> Result<i64, Error>; // keys deleted
    fn lease_keep_alive(&mut self, id: i64, now_ms: u64) -> Option<i64>; // granted ttl; None: unknown or expired
    fn lease_time_to_live(&self, id: i64, now_ms: u64, keys: bool) -> Option<LeaseStatus>;
    fn leases(&self) -> Vec<i64>;
    fn leases_expired(&mut self, now_ms: u64, max: usize) -> Vec<i64>; // each reported again only after 3 s
    fn leases_extend(&mut self, now_ms: u64, extra_ms: u64) -> ();
    fn leases_next_due_ms(&self) -> Option<u64>;
    fn watch(&mut self, spec: WatchSpec) -> WatcherId;
    fn unwatch(&mut self, id: WatcherId) -> bool;
    fn watch_ready(&mut self) -> Option<WatcherId>;
    fn watch_next(&mut self, id: WatcherId, max_bytes: usize) -> Option<WatchBatch>;
    fn watch_synced(&self, id: WatcherId) -> bool;
    fn snapshot_begin(&self) -> SnapshotCursor; // dropping it releases the pin
    fn snapshot_next(&self, cursor: &mut SnapshotCursor, max_bytes: usize, out: &mut Vec<u8>) -> bool;
    fn hash_kv(&self, revision: i64) -> Result<(u32, i64), Error>;
    fn stats(&self) -> Stats;
}
