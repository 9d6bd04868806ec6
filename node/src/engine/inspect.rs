//! What an engine says about itself: its cores, its shards, and the counters they last published.
//!
//! Promises: reading them takes no turn of a core. Must never know: how the counters are shown.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use henge_api::{CoreMetrics, Metrics};

use super::Engine;
use crate::host::HostKind;

impl Engine {
    /// Number of shards.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// assert_eq!(engine.shards(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn shards(&self) -> usize {
        self.inner.shards.len()
    }

    /// What drives the cores.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// assert_ne!(engine.host(), henge::HostKind::Auto);
    /// # Ok(()) }) }
    /// ```
    pub fn host(&self) -> HostKind {
        self.inner.host
    }

    /// Counters of one shard and of the log of its core, as of their last turn.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// let metrics = engine.metrics(0).expect("it has one shard");
    /// assert!(metrics.wal_batches > 0);
    /// # Ok(()) }) }
    /// ```
    pub fn metrics(&self, shard: usize) -> Option<Metrics> {
        let shard = self.inner.shards.get(shard)?;
        let core = locked(&self.inner.cores[shard.core].metrics);
        let mut metrics = locked(&shard.door.metrics);
        metrics.refused = shard.door.budget.refused();
        metrics.in_memory = self.inner.in_memory;
        metrics.wal_batches = core.wal_batches;
        metrics.wal_bytes = core.wal_bytes;
        metrics.wal_payload_bytes = core.wal_payload_bytes;
        metrics.io_backend = core.io_backend;
        metrics.direct_io = core.direct_io;
        metrics.poisoned = core.poisoned;
        metrics.log_stuck = core.log_stuck;
        metrics.wal_write_seconds = core.wal_write_seconds;
        metrics.wal_write_seconds_sum = core.wal_write_seconds_sum;
        Some(metrics)
    }

    /// Number of cores.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// assert_eq!(engine.cores(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn cores(&self) -> usize {
        self.inner.cores.len()
    }

    /// The core that holds a shard.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// assert_eq!((engine.core_of(0), engine.core_of(1)), (Some(0), None));
    /// # Ok(()) }) }
    /// ```
    pub fn core_of(&self, shard: usize) -> Option<usize> {
        Some(self.inner.shards.get(shard)?.core)
    }

    /// Counters of one core, as of its last turn; its memory is summed up over its shards here.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// let core = engine.core_metrics(0).expect("it has one core");
    /// assert!(core.wal_batches > 0);
    /// println!("half of its turns took less than {} µs", core.turn_micros.permille(500));
    /// # Ok(()) }) }
    /// ```
    pub fn core_metrics(&self, core: usize) -> Option<CoreMetrics> {
        let mut metrics = locked(&self.inner.cores.get(core)?.metrics);
        for shard in self.inner.shards.iter().filter(|shard| shard.core == core) {
            metrics.inbox_refused += shard.door.budget.refused();
            let shard = shard
                .door
                .metrics
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            metrics.memory.stores += shard.db_bytes;
            metrics.memory.log_tails += shard.tail_bytes;
            metrics.memory.pending += shard.pending_bytes;
        }
        Some(metrics)
    }
}

impl fmt::Debug for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Engine")
            .field("cores", &self.cores())
            .field("shards", &self.shards())
            .field("host", &self.host())
            .finish_non_exhaustive()
    }
}

/// A copy of what a core last published.
fn locked<T: Clone>(published: &Mutex<T>) -> T {
    published
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}
