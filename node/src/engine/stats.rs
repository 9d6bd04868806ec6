//! All counters of an engine at once, and summed up.
//!
//! Promises: sums are of exactly what is listed beside them; to read them takes no turn of a core. What a
//! core or a shard counts is described at [`CoreMetrics`] and [`Metrics`].

use henge_api::{CoreMemory, CoreMetrics, Metrics};

use super::Engine;

/// What an engine holds and has done, as of the last turn of each core.
#[derive(Clone, Debug, Default)]
pub struct Stats {
    /// Per core, in core order.
    pub cores: Vec<CoreMetrics>,
    /// Per shard, in shard order. What stands here of a log is its core's.
    pub shards: Vec<Metrics>,
    /// Bytes held by all cores, by what for.
    pub memory: CoreMemory,
    /// Live keys.
    pub keys: u64,
    /// Versions held, tombstones included.
    pub versions: u64,
    /// Watchers.
    pub watchers: u64,
    /// Leases.
    pub leases: u64,
    /// Entries applied since the shards were made.
    pub applied: u64,
    /// Requests proposed or queued, not yet answered.
    pub pending: u64,
    /// Requests that ended without being done for certain, or were refused by a shard.
    pub failed: u64,
    /// Requests refused on their callers' threads: a shard or a core held all it may.
    pub refused: u64,
    /// Log batches made durable.
    pub wal_batches: u64,
    /// Bytes of those batches, padding included.
    pub wal_bytes: u64,
    /// Bytes of entry payloads in them.
    pub wal_payload_bytes: u64,
    /// Shards that know a leader; fewer than all means that some do not serve.
    pub led_shards: usize,
    /// A core's log failed: its shards acknowledge nothing any more.
    pub poisoned: bool,
    /// A disk has no room for the next segment: writes there are refused.
    pub space_low: bool,
    /// The data directory is in memory (tmpfs, ramfs, an overlay on one): nothing is durable.
    pub in_memory: bool,
}

impl Stats {
    /// Bytes held, all uses together.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let stats = engine.stats();
    /// assert!(stats.memory_bytes() >= stats.memory.stores);
    /// # Ok(()) }) }
    /// ```
    pub fn memory_bytes(&self) -> u64 {
        let memory = &self.memory;
        let log = memory.log_staged + memory.log_index;
        memory.stores + memory.log_tails + memory.pending + memory.inbox + log
    }

    fn add_core(&mut self, core: CoreMetrics) {
        self.memory.stores += core.memory.stores;
        self.memory.log_tails += core.memory.log_tails;
        self.memory.pending += core.memory.pending;
        self.memory.inbox += core.memory.inbox;
        self.memory.log_staged += core.memory.log_staged;
        self.memory.log_index += core.memory.log_index;
        self.refused += core.inbox_refused;
        self.wal_batches += core.wal_batches;
        self.wal_bytes += core.wal_bytes;
        self.wal_payload_bytes += core.wal_payload_bytes;
        self.poisoned |= core.poisoned;
        self.cores.push(core);
    }

    fn add_shard(&mut self, shard: Metrics) {
        self.keys += shard.keys;
        self.versions += shard.versions;
        self.watchers += shard.watchers;
        self.leases += shard.leases;
        self.applied += shard.applied;
        self.pending += shard.pending;
        self.failed += shard.failed;
        self.led_shards += usize::from(shard.has_leader);
        self.space_low |= shard.space_low;
        self.in_memory |= shard.in_memory;
        self.shards.push(shard);
    }
}

impl Engine {
    /// All counters at once: of each core and each shard, and summed up. Each is as of the last turn of its
    /// core, so that two cores' may be some milliseconds apart.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// let stats = engine.stats();
    /// assert_eq!((stats.cores.len(), stats.shards.len(), stats.led_shards), (1, 1, 1));
    /// assert!(stats.wal_bytes >= stats.wal_payload_bytes);
    /// println!("{} bytes in memory, {} of them the store's", stats.memory_bytes(), stats.memory.stores);
    /// # Ok(()) }) }
    /// ```
    pub fn stats(&self) -> Stats {
        let mut stats = Stats::default();
        (0..self.cores())
            .filter_map(|core| self.core_metrics(core))
            .for_each(|core| stats.add_core(core));
        (0..self.shards())
            .filter_map(|shard| self.metrics(shard))
            .for_each(|shard| stats.add_shard(shard));
        stats
    }
}
