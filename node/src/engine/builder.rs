//! Describing an engine: its settings, each with its default and why. `opening` makes it one.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use henge_api::Member;
use henge_core::shard::retention::AutoCompaction;
use henge_wal::disk::Disk;

use super::directory::{Asked, Cores};
use super::layout::Router;
use super::{Engine, OpenError};
use crate::host::{CoreBuilder, HostKind};

/// Who this member is, and who the others are. The membership is static in this version.
#[derive(Clone, Debug, Default)]
pub struct ClusterConfig {
    /// Equal on all members; another cluster's directory or peer is refused.
    pub cluster_id: u64,
    /// This member; not 0.
    pub member_id: u64,
    /// All members, this one included.
    pub members: Vec<Member>,
    /// Where peers reach this member.
    pub listen: Vec<SocketAddr>,
    /// The other members' ids and `host:port`s.
    pub peers: Vec<(u64, Vec<String>)>,
}

/// Makes the disk of a core's log, by the core's number.
#[derive(Clone)]
pub(super) struct Disks(Arc<dyn Fn(usize) -> Box<dyn Disk> + Send + Sync>);

impl Disks {
    /// `build` with such a disk instead of the host's.
    pub(super) fn under(self, core: usize, build: CoreBuilder) -> CoreBuilder {
        Box::new(move |_, clock| build((self.0)(core), clock))
    }
}

impl std::fmt::Debug for Disks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Disks")
    }
}

/// Settings of an engine. Defaults are safe; each says why it is what it is.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    pub(super) dir: PathBuf,
    pub(super) asked: Asked,
    pub(super) host: HostKind,
    pub(super) disks: Option<Disks>,
    pub(super) busy_poll_micros: u64,
    pub(super) pin: bool,
    pub(super) cluster: ClusterConfig,
    pub(super) tick_ms: u64,
    pub(super) election_ticks: u64,
    pub(super) request_bytes_max: Option<usize>,
    pub(super) txn_ops_max: usize,
    pub(super) pending_bytes_max: Option<usize>,
    pub(super) quota_bytes: u64,
    pub(super) progress_notify_ms: u64,
    pub(super) auto_compaction: AutoCompaction,
    pub(super) checkpoint_bytes: u64,
    pub(super) wal: henge_wal::Options,
}

/// Largest encoded request, as etcd's.
const REQUEST_BYTES_MAX: usize = 3 << 19;

impl EngineBuilder {
    pub(super) fn new(dir: impl Into<PathBuf>) -> Self {
        EngineBuilder {
            dir: dir.into(),
            asked: Asked::default(),
            host: HostKind::Auto,
            disks: None,
            busy_poll_micros: 200,
            pin: true,
            cluster: ClusterConfig {
                cluster_id: 1,
                member_id: 1,
                members: vec![Member {
                    id: 1,
                    name: "default".to_owned(),
                    ..Member::default()
                }],
                ..ClusterConfig::default()
            },
            tick_ms: 100,
            election_ticks: 10,
            request_bytes_max: None,
            txn_ops_max: 128,
            pending_bytes_max: None,
            quota_bytes: 0,
            progress_notify_ms: 600_000,
            auto_compaction: AutoCompaction::DEFAULT,
            checkpoint_bytes: 1 << 30,
            wal: henge_wal::Options::default(),
        }
    }

    /// Threads that hold shards, each with its own log. Default: as the directory was opened last, 1 for a
    /// new one; more pays only with as many shards. Another number than last time moves shards to other
    /// cores' logs before the engine starts, which copies those logs once.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").shards(8).cores(2);
    /// # drop(builder);
    /// ```
    pub fn cores(mut self, cores: usize) -> Self {
        self.asked.cores = Some(Cores::Are(cores));
        self
    }

    /// As [`EngineBuilder::cores`], as many as this process may keep busy: as its affinity and its control
    /// group's quota of processor time allow at this moment, and no more than there are shards. Where those
    /// differ from start to start, each such start copies logs.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("henge-doc-available-{}", std::process::id()));
    /// let engine = henge::Engine::builder(&dir).shards(2).cores_available().open()?;
    /// assert!((1..=2).contains(&engine.cores()));
    /// # drop(engine);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn cores_available(mut self) -> Self {
        self.asked.cores = Some(Cores::Available);
        self
    }

    /// Shards, each with its own revision order. Fixed when the directory is made, as keys are spread over
    /// them. Default: as the directory was made; 1 for a new one, which keeps one revision order over all
    /// keys.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").shards(8);
    /// # drop(builder);
    /// ```
    pub fn shards(mut self, shards: usize) -> Self {
        self.asked.shards = Some(shards);
        self
    }

    /// The core of each shard, in shard order. Default: as the directory has it, by turns for a new one or
    /// another number of cores.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").shards(3).cores(2).place([0, 1, 1]);
    /// # drop(builder);
    /// ```
    pub fn place(mut self, homes: impl IntoIterator<Item = usize>) -> Self {
        self.asked.homes = homes.into_iter().collect();
        self
    }

    /// How keys find their shard. Fixed when the directory is made. Default: as the directory was made;
    /// [`Router::Hash`] for a new one.
    ///
    /// ```
    /// let router = henge::Router::Ranges(vec!["m".into()]);
    /// let builder = henge::Engine::builder("data.henge").shards(2).router(router);
    /// # drop(builder);
    /// ```
    pub fn router(mut self, router: Router) -> Self {
        self.asked.router = Some(router);
        self
    }

    /// What drives the cores. Default [`HostKind::Auto`].
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").host(henge::HostKind::Thread);
    /// # drop(builder);
    /// ```
    pub fn host(mut self, host: HostKind) -> Self {
        self.host = host;
        self
    }

    /// Has the logs written through disks of the caller's making, one for each core by its number, instead
    /// of the host's: for tests on a simulated disk, or on one that fails as the test says. `make` is
    /// called on the core's own thread. What a directory holds beside its logs is still in the file
    /// system, and so are logs while they move to another number of cores.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("henge-doc-disks-{}", std::process::id()));
    /// use henge::wal::disk::sim::{Fault, SimHandle};
    ///
    /// let machine = SimHandle::new(1, 1);
    /// let disks = machine.clone();
    /// let engine = henge::Engine::builder(&dir)
    ///     .disks(move |_core| Box::new(disks.disk()))
    ///     .open()?
    ///     .blocking();
    /// engine.put("a", "1")?;
    /// machine.fail(0, Fault::ErrorForEver(5)); // EIO
    /// assert!(engine.put("a", "2").is_err());
    /// # drop(engine);
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn disks(mut self, make: impl Fn(usize) -> Box<dyn Disk> + Send + Sync + 'static) -> Self {
        self.disks = Some(Disks(Arc::new(make)));
        self
    }

    /// Longest time in microseconds that a core's thread looks for new work before it sleeps; 0 is
    /// never. Default 200, about two durable writes of a good disk: waking up costs tens of
    /// microseconds of every request of a lone client. It is spent only while work keeps coming in
    /// shorter gaps than this, and the processor is offered to others meanwhile. Used by
    /// [`HostKind::Ring`].
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").busy_poll_micros(0);
    /// # drop(builder);
    /// ```
    pub fn busy_poll_micros(mut self, micros: u64) -> Self {
        self.busy_poll_micros = micros;
        self
    }

    /// Whether the first core's thread may be kept on the processor that hears from the disk, where the
    /// disk has only one (see `host::place`). Default: yes. Used by [`HostKind::Ring`].
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").pin(false);
    /// # drop(builder);
    /// ```
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Makes it a member of a replicated cluster. Default: alone.
    ///
    /// ```
    /// use henge::ClusterConfig;
    ///
    /// let alone = henge::Engine::builder("data.henge").cluster(ClusterConfig {
    ///     cluster_id: 7,
    ///     member_id: 1,
    ///     members: vec![henge::api::Member { id: 1, name: "one".to_owned(), ..Default::default() }],
    ///     ..ClusterConfig::default()
    /// });
    /// # drop(alone);
    /// ```
    pub fn cluster(mut self, cluster: ClusterConfig) -> Self {
        self.cluster = cluster;
        self
    }

    /// Milliseconds between heartbeats, and the election timeout; etcd's defaults are 100 and 1,000.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").timeouts(100, 1_000);
    /// # drop(builder);
    /// ```
    pub fn timeouts(mut self, heartbeat_ms: u64, election_ms: u64) -> Self {
        self.tick_ms = heartbeat_ms;
        self.election_ticks = election_ms / heartbeat_ms.max(1);
        self
    }

    /// Largest encoded request in bytes, up to 16 MiB; the log's segments must hold it. Default 1.5 MiB, as
    /// etcd, also where smaller segments were asked for: a request that fits into none gets one of its own.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").request_bytes_max(4 << 20);
    /// # drop(builder);
    /// ```
    pub fn request_bytes_max(mut self, bytes: usize) -> Self {
        self.request_bytes_max = Some(bytes);
        self
    }

    /// Most compares or operations in a transaction. Default 128, as etcd.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").txn_ops_max(1_000);
    /// # drop(builder);
    /// ```
    pub fn txn_ops_max(mut self, ops: usize) -> Self {
        self.txn_ops_max = ops;
        self
    }

    /// Bytes of writes a shard's callers may wait for, 256 for each beside its key and value; what goes
    /// beyond is refused as [`crate::Unavailable::TooManyRequests`] before it costs anything. The shards of
    /// a core hold together no more than the larger of this and 64 MiB, what a core writes in well under a
    /// second. Default: 64 MiB for an engine with one shard, a quarter of it for each of several, so that
    /// one shard's callers leave room for the others'. A queue that refuses callers is kept at 4 MiB until it
    /// has refused nobody for a tenth of a second: a longer one would only make everybody wait.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").pending_bytes_max(8 << 20);
    /// # drop(builder);
    /// ```
    pub fn pending_bytes_max(mut self, bytes: usize) -> Self {
        self.pending_bytes_max = Some(bytes);
        self
    }

    /// History that each shard gives up by itself. Default: all but the last 100,000 revisions
    /// ([`AutoCompaction::DEFAULT`]), so that memory is bounded by what is live and some tens of megabytes
    /// of small values for each shard; a reader or watcher that falls back farther is told that what it
    /// needs is compacted. [`AutoCompaction::Off`] keeps everything until [`Engine::compact`] or
    /// [`Engine::compact_to`] is called, and memory grows with every write: what etcd, and the server, do
    /// without `--auto-compaction-retention`.
    ///
    /// ```
    /// use std::time::Duration;
    /// use henge::AutoCompaction;
    ///
    /// let builder = henge::Engine::builder("data.henge")
    ///     .auto_compaction(AutoCompaction::Periodic(Duration::from_secs(3_600)));
    /// # drop(builder);
    /// ```
    pub fn auto_compaction(mut self, rule: AutoCompaction) -> Self {
        self.auto_compaction = rule;
        self
    }

    /// Bytes each shard's store may hold before writes that add are refused; 0 is no limit (the default
    /// for embedding; the server passes etcd's 2 GiB).
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").quota_bytes(2 << 30);
    /// # drop(builder);
    /// ```
    pub fn quota_bytes(mut self, bytes: u64) -> Self {
        self.quota_bytes = bytes;
        self
    }

    /// Milliseconds between the progress notes of idle watchers that asked for them. Default 10 minutes.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").progress_notify_ms(60_000);
    /// # drop(builder);
    /// ```
    pub fn progress_notify_ms(mut self, millis: u64) -> Self {
        self.progress_notify_ms = millis;
        self
    }

    /// Bytes of log after which a member that is alone writes a checkpoint and lets the log go. Default
    /// 1 GiB: a restart replays at most about that much, a few seconds.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").checkpoint_bytes(256 << 20);
    /// # drop(builder);
    /// ```
    pub fn checkpoint_bytes(mut self, bytes: u64) -> Self {
        self.checkpoint_bytes = bytes;
        self
    }

    /// Largest segment of the logs, in bytes: a multiple of 4,096 from 64 KiB to 1 GiB that holds the largest
    /// request. New logs begin with 8 MiB, or this, if it is less. Default: 64 MiB, or a sixteenth of the
    /// room there is, if that is less. Logs with segments of any other sizes open, and take these from then
    /// on.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").wal_segment_bytes(16 << 20);
    /// # drop(builder);
    /// ```
    pub fn wal_segment_bytes(mut self, bytes: u64) -> Self {
        self.wal.segment_bytes = bytes;
        self.wal.segment_bytes_first = self.wal.segment_bytes_first.min(bytes);
        self.wal.fit_room = false;
        self
    }

    /// Sizes and depths of the logs.
    ///
    /// ```
    /// let builder = henge::Engine::builder("data.henge").wal(henge::wal::Options {
    ///     segment_bytes: 16 << 20,
    ///     ..Default::default()
    /// });
    /// # drop(builder);
    /// ```
    pub fn wal(mut self, options: henge_wal::Options) -> Self {
        self.wal = options;
        self
    }

    /// Largest encoded request.
    pub(super) fn request_bytes(&self) -> usize {
        self.request_bytes_max.unwrap_or(REQUEST_BYTES_MAX)
    }

    /// The logs' options, with what they are to hold.
    pub(super) fn wal_options(&self) -> henge_wal::Options {
        henge_wal::Options {
            payload_bytes: self.request_bytes(),
            ..self.wal.clone()
        }
    }

    /// Opens or creates the engine: takes the directory, replays the logs, starts the cores. Blocks.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("henge-doc-open-{}", std::process::id()));
    /// let engine = henge::Engine::builder(&dir).open()?;
    /// // The directory is this engine's until it has stopped.
    /// assert!(henge::Engine::builder(&dir).open().is_err());
    /// engine.blocking().stop();
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn open(self) -> Result<Engine, OpenError> {
        self.open_on(&mut |host, name, options, build| Ok(host.start(name, options, build)?))
    }
}
