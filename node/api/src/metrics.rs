//! What an engine counts: per shard and per core, as of its last turn.
//!
//! Promises: plain numbers that are true at the end of a turn; what grows large is shared and counted in
//! place.
//! Must never know: the names that they are shown under (docs/metrics.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use henge_mvcc as mvcc;

use super::{Histogram, STAGES, Scale};

/// Members beside the leader whose lag is shown: a cluster of seven.
pub const FOLLOWERS_MAX: usize = 6;

/// Buckets of round trips, in microseconds: etcd's, 0.1 ms to 3 s.
pub const RTT_SCALE: Scale = Scale::new(100, 16);
/// Buckets of the times that compactions take, in milliseconds: etcd's.
pub const COMPACTION_SCALE: Scale = Scale::new(100, 14);

/// What the transport counted of another member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerStats {
    /// Whether a session is up.
    pub connected: bool,
    /// Bytes written, frame headers included.
    pub sent_bytes: u64,
    /// Bytes read, frame headers included.
    pub received_bytes: u64,
    /// Frames written, pings included.
    pub sent_frames: u64,
    /// Frames read, pings included.
    pub received_frames: u64,
    /// Frames dropped from the queue when a session ended.
    pub dropped_frames: u64,
    /// Bytes queued or being written now.
    pub queue_bytes: usize,
    /// Messages not taken because the queue was full.
    pub full: u64,
    /// Round trip of the last ping, in microseconds. None before the first.
    pub rtt_us: Option<u64>,
    /// Round trips by length, in the buckets of [`RTT_SCALE`].
    pub round_trips: Vec<u64>,
    /// Sum of them, in microseconds.
    pub round_trips_us: u64,
    /// Sessions that came up.
    pub sessions: u64,
    /// Attempts and sessions that ended in an error; a peer's orderly goodbye is none.
    pub failures: u64,
    /// Of these, because of bytes that are not a sound frame.
    pub bad_frames: u64,
    /// Why the last attempt or session failed.
    pub last_failure: Option<String>,
}

/// Another member as this one's transport sees it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerView {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Its first peer URL.
    pub url: String,
    /// What was counted.
    pub stats: PeerStats,
}

/// Counters and gauges of one shard and its core, as of its last turn.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    /// A leader is known.
    pub has_leader: bool,
    /// It is this member.
    pub is_leader: bool,
    /// It has no room on its disk to say who leads, but is alone: reads are answered all the same.
    pub reads_alone: bool,
    /// Times the leader changed.
    pub leader_changes: u64,
    /// Commit index.
    pub committed: u64,
    /// Applied index.
    pub applied: u64,
    /// Requests proposed or queued, not yet answered.
    pub pending: u64,
    /// Requests that ended without being done for certain.
    pub failed: u64,
    /// Requests refused on their callers' threads because the shard held all it may. Not counted as failed.
    pub refused: u64,
    /// Live keys.
    pub keys: u64,
    /// Versions held, tombstones included.
    pub versions: u64,
    /// Bytes held by the store.
    pub db_bytes: u64,
    /// Bytes of log entries kept in memory.
    pub tail_bytes: u64,
    /// Bytes of requests between admission and answer.
    pub pending_bytes: u64,
    /// Current revision.
    pub revision: i64,
    /// Compacted revision.
    pub compact_revision: i64,
    /// Watchers.
    pub watchers: u64,
    /// Leases.
    pub leases: u64,
    /// Log batches made durable.
    pub wal_batches: u64,
    /// Bytes of those batches, padding included.
    pub wal_bytes: u64,
    /// Bytes of entry payloads in them.
    pub wal_payload_bytes: u64,
    /// Which disk implementation writes the log.
    pub io_backend: &'static str,
    /// Whether the log bypasses the page cache.
    pub direct_io: bool,
    /// The log failed; nothing is acknowledged any more.
    pub poisoned: bool,
    /// The oldest log write does not complete: the core neither leads nor answers its peers.
    pub log_stuck: bool,
    /// The disk has no room for the next segment, or for a checkpoint; writes that add data are refused.
    pub space_low: bool,
    /// That, for want of file descriptors.
    pub lacks_descriptors: bool,
    /// Entries that other members do not have yet, by id, as the leader knows it; id 0 is nobody.
    pub follower_lag: [(u64, u64); FOLLOWERS_MAX],
    /// An alarm for space is raised: see [`Alarm::NoSpace`].
    pub alarm_nospace: bool,
    /// An alarm for corruption is raised: see [`Alarm::Corrupt`].
    pub alarm_corrupt: bool,
    /// Bytes the store may hold; 0 is no limit.
    pub quota_bytes: u64,
    /// The data directory is in memory (tmpfs, ramfs, an overlay on one): nothing is durable.
    pub in_memory: bool,
    /// Batches by write time, upper bounds 1 ms · 2^k for k < 14, then the rest (etcd's buckets).
    pub wal_write_seconds: [u64; 15],
    /// Sum of those times.
    pub wal_write_seconds_sum: f64,
    /// Bytes of `db_bytes` that hold something: the rest was emptied by compaction and is kept for what
    /// comes.
    pub db_bytes_in_use: u64,
    /// What was asked of the store, replay left out.
    pub asked: mvcc::Tally,
    /// Leases that ended because they ran out.
    pub leases_expired: u64,
    /// Renewals of leases while this member led.
    pub leases_renewed: u64,
    /// Versions that physical compaction removed.
    pub versions_compacted: u64,
    /// When the last compaction was through, by the core's clock.
    pub compacted_ms: Option<u64>,
    /// Unix time in milliseconds at which that clock began; 0 if nobody said.
    pub clock_unix_ms: u64,
    /// Milliseconds from each compaction to the end of what it removed.
    pub compaction_millis: Arc<Histogram>,
    /// Reads under way that keep history: long ranges and transactions, hashes, a checkpoint.
    pub open_reads: u64,
    /// Streams of watchers.
    pub watch_streams: u64,
    /// Watchers that read what happened before, as they are behind.
    pub watchers_behind: u64,
    /// Events on their way to clients.
    pub watched: Arc<Watched>,
    /// Times that committed entries took to apply.
    pub applied_times: Arc<AppliedTimes>,
    /// Rounds of linearizable reads that were given up, or whose confirmation came when nobody waited any
    /// more.
    pub slow_read_indexes: u64,
    /// Rounds whose leader was lost before it confirmed; they were asked again.
    pub failed_read_indexes: u64,
    /// Heartbeats that left later than after two intervals, each to one member.
    pub late_heartbeats: u64,
}

/// Events on their way from a shard to the clients of its streams.
#[derive(Debug, Default)]
pub struct Watched {
    /// Handed to streams.
    pub given: AtomicU64,
    /// Of those, taken by clients.
    pub taken: AtomicU64,
    /// And given up, as their client had gone.
    pub dropped: AtomicU64,
}

impl Watched {
    /// Events that clients took.
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Events that wait in streams.
    pub fn pending(&self) -> u64 {
        // What left is read first, or more could seem to have left than came.
        let left = self.taken() + self.dropped.load(Ordering::Relaxed);
        self.given.load(Ordering::Relaxed).saturating_sub(left)
    }
}

/// Times that committed entries took to apply, in microseconds, by kind of command and by whether it
/// succeeded.
///
/// A turn applies many entries in one go and looks at the clock before and after: each entry counts with the
/// mean of its go. One that takes slices counts with the sum of them.
#[derive(Debug, Default)]
pub struct AppliedTimes([[Histogram; 2]; AppliedTimes::KINDS.len()]);

impl AppliedTimes {
    /// Kinds of commands, by etcd's names.
    pub const KINDS: [&str; 8] = [
        "Put",
        "DeleteRange",
        "Txn",
        "Compaction",
        "LeaseGrant",
        "LeaseRevoke",
        "LeaseRenew",
        "Alarm",
    ];
    /// etcd's buckets: 0.1 ms to 52 s.
    pub const SCALE: Scale = Scale::new(100, 20);

    /// Those of a kind (its place in [`AppliedTimes::KINDS`]) that succeeded, or did not.
    pub fn of(&self, kind: usize, success: bool) -> Option<&Histogram> {
        self.0.get(kind).map(|both| &both[usize::from(success)])
    }
}

/// Counts of values by size: bucket `k` holds values below `2^k` that no earlier one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buckets {
    /// The counts; the last bucket has no bound.
    pub counts: [u64; Buckets::COUNT],
    /// Sum of the values.
    pub sum: u64,
}

impl Default for Buckets {
    fn default() -> Self {
        Buckets {
            counts: [0; Buckets::COUNT],
            sum: 0,
        }
    }
}

impl Buckets {
    /// Number of buckets: microseconds up to 16 s.
    pub const COUNT: usize = 25;

    /// Counts one value.
    pub fn record(&mut self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket.min(Buckets::COUNT - 1)] += 1;
        self.sum += value;
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// An upper bound of the value that so many per thousand are below; 0 without values.
    pub fn permille(&self, permille: u64) -> u64 {
        let wanted = (self.total() * permille).div_ceil(1_000);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return 1 << bucket;
            }
        }
        0
    }
}

/// Bytes a core holds, by what for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CoreMemory {
    /// Keys, versions, indexes, leases and watchers of its shards.
    pub stores: u64,
    /// Log entries kept in memory for raft and for members that lag.
    pub log_tails: u64,
    /// Requests between admission and answer.
    pub pending: u64,
    /// Requests and frames in the inbox.
    pub inbox: u64,
    /// Log batches not handed to the disk yet.
    pub log_staged: u64,
    /// Where entries lie in the log.
    pub log_index: u64,
}

/// Counters and gauges of one core, as of its last turn.
#[derive(Clone, Debug, Default)]
pub struct CoreMetrics {
    /// Shards that live on it.
    pub shards: u64,
    /// Shards that its last turn looked at.
    pub shards_active: u64,
    /// Lengths of its turns in microseconds, those that found nothing to do left out.
    pub turn_micros: Buckets,
    /// Microseconds spent in each stage of a turn, in the order of [`super::STAGE_NAMES`].
    pub stage_micros: [u64; STAGES],
    /// Slow turns, by the stage that took longest.
    pub slow_turns: [u64; STAGES],
    /// Entries per log batch.
    pub batch_entries: Buckets,
    /// From handing a batch to the disk to hearing that it is durable, in microseconds.
    pub commit_micros: Buckets,
    /// Items that the last turn found in the inbox.
    pub inbox_items: u64,
    /// Requests refused on their callers' threads: the core or their shard held all it may, or the inbox was
    /// full.
    pub inbox_refused: u64,
    /// Callers that wait for an answer.
    pub waiting: u64,
    /// Shards with work left for slices of later turns.
    pub background: u64,
    /// Checkpoints being written.
    pub checkpoints: u64,
    /// Bytes held.
    pub memory: CoreMemory,
    /// Log batches made durable.
    pub wal_batches: u64,
    /// Bytes of those batches, padding included.
    pub wal_bytes: u64,
    /// Bytes of entry payloads in them.
    pub wal_payload_bytes: u64,
    /// Batches in flight.
    pub wal_in_flight: u64,
    /// Segments that hold log.
    pub wal_segments: u64,
    /// Places of the log where one of two copies is damaged, as found at the start and by the scrubber.
    pub wal_healed: u64,
    /// Which disk implementation writes the log.
    pub io_backend: &'static str,
    /// Whether the log bypasses the page cache.
    pub direct_io: bool,
    /// The log failed.
    pub poisoned: bool,
    /// The oldest log write does not complete.
    pub log_stuck: bool,
    /// Heartbeats that were not sent because of that, each to one member.
    pub heartbeats_kept: u64,
    /// Microseconds of each log write, by the turns that submitted it and heard of it.
    pub log_write_micros: Buckets,
    /// Bytes of each log batch, padding included.
    pub log_batch_bytes: Buckets,
    /// Log writes in flight as each was submitted, itself included.
    pub log_in_flight: Buckets,
    /// Batches by write time, as in [`Metrics`].
    pub wal_write_seconds: [u64; 15],
    /// Sum of those times.
    pub wal_write_seconds_sum: f64,
}
