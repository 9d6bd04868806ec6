//! Describing and opening an engine.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use henge_mvcc as mvcc;
use henge_raft::ConfState;
use henge_wal::{Identity, Wal, checkpoint};

use super::directory::{Asked, Directory};
use super::layout::{Layout, Router};
use super::{CoreHandle, Engine, Inner, OpenError, ShardHandle};
use crate::api::{CoreMetrics, Member, Metrics};
use crate::core::gauges::Stopwatch;
use crate::core::inbox::{Inbox, Input};
use crate::core::recover::Recovery;
use crate::core::{Core, CoreConfig, Peers};
use crate::host::clock::{Clock, wall_clock_ms};
use crate::host::place::disk_cpu;
use crate::host::{CoreBuilder, HostHandle, HostKind, HostOptions};
use crate::machine::Machine;
use crate::peer::{PeerConfig, PeerHandler, PeerNet};
use crate::shard::{Shard, ShardConfig};

/// Most shards of one engine: their ids and buffers are laid out at open.
const SHARDS_MAX: usize = 65_536;

/// Starts a core: host, name, options, builder.
pub(crate) type StartCore<'a> =
    &'a mut dyn FnMut(HostKind, &str, HostOptions, CoreBuilder) -> Result<HostHandle, OpenError>;

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

/// Settings of an engine. Defaults are safe; each says why it is what it is.
#[derive(Clone, Debug)]
pub struct EngineBuilder {
    dir: PathBuf,
    asked: Asked,
    host: HostKind,
    busy_poll_micros: u64,
    pin: bool,
    cluster: ClusterConfig,
    tick_ms: u64,
    election_ticks: u64,
    request_bytes_max: usize,
    txn_ops_max: usize,
    pending_bytes_max: usize,
    quota_bytes: u64,
    progress_notify_ms: u64,
    checkpoint_bytes: u64,
    wal: henge_wal::Options,
}

impl EngineBuilder {
    pub(super) fn new(dir: impl Into<PathBuf>) -> Self {
        EngineBuilder {
            dir: dir.into(),
            asked: Asked::default(),
            host: HostKind::Auto,
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
            request_bytes_max: 3 << 19,
            txn_ops_max: 128,
            pending_bytes_max: 64 << 20,
            quota_bytes: 0,
            progress_notify_ms: 600_000,
            checkpoint_bytes: 1 << 30,
            wal: henge_wal::Options::default(),
        }
    }

    /// Threads that hold shards, each with its own log. Default: as the directory was opened last, 1 for a
    /// new one; more pays only with as many shards. Another number than last time moves shards to other
    /// cores' logs before the engine starts, which copies those logs once.
    pub fn cores(mut self, cores: usize) -> Self {
        self.asked.cores = Some(cores);
        self
    }

    /// Shards, each with its own revision order. Fixed when the directory is made, as keys are spread over
    /// them. Default: as the directory was made; 1 for a new one, which keeps one revision order over all
    /// keys.
    pub fn shards(mut self, shards: usize) -> Self {
        self.asked.shards = Some(shards);
        self
    }

    /// The core of each shard, in shard order. Default: as the directory has it, by turns for a new one or
    /// another number of cores.
    pub fn place(mut self, homes: impl IntoIterator<Item = usize>) -> Self {
        self.asked.homes = homes.into_iter().collect();
        self
    }

    /// How keys find their shard. Fixed when the directory is made. Default: as the directory was made;
    /// [`Router::Hash`] for a new one.
    pub fn router(mut self, router: Router) -> Self {
        self.asked.router = Some(router);
        self
    }

    /// What drives the cores. Default [`HostKind::Auto`].
    pub fn host(mut self, host: HostKind) -> Self {
        self.host = host;
        self
    }

    /// Longest time in microseconds that a core's thread looks for new work before it sleeps; 0 is
    /// never. Default 200, about two durable writes of a good disk: waking up costs tens of
    /// microseconds of every request of a lone client. It is spent only while work keeps coming in
    /// shorter gaps than this, and the processor is offered to others meanwhile. Used by
    /// [`HostKind::Ring`].
    pub fn busy_poll_micros(mut self, micros: u64) -> Self {
        self.busy_poll_micros = micros;
        self
    }

    /// Whether the first core's thread may be kept on the processor that hears from the disk, where the
    /// disk has only one (see `host::place`). Default: yes. Used by [`HostKind::Ring`].
    pub fn pin(mut self, pin: bool) -> Self {
        self.pin = pin;
        self
    }

    /// Makes it a member of a replicated cluster. Default: alone.
    pub fn cluster(mut self, cluster: ClusterConfig) -> Self {
        self.cluster = cluster;
        self
    }

    /// Milliseconds between heartbeats, and the election timeout; etcd's defaults are 100 and 1,000.
    pub fn timeouts(mut self, heartbeat_ms: u64, election_ms: u64) -> Self {
        self.tick_ms = heartbeat_ms;
        self.election_ticks = election_ms / heartbeat_ms.max(1);
        self
    }

    /// Largest encoded request in bytes. Default 1.5 MiB, as etcd.
    pub fn request_bytes_max(mut self, bytes: usize) -> Self {
        self.request_bytes_max = bytes;
        self
    }

    /// Most compares or operations in a transaction. Default 128, as etcd.
    pub fn txn_ops_max(mut self, ops: usize) -> Self {
        self.txn_ops_max = ops;
        self
    }

    /// Bytes of requests a shard may hold between admission and answer. Default 64 MiB: what a core
    /// writes in well under a second, so that a caller is refused rather than kept waiting.
    pub fn pending_bytes_max(mut self, bytes: usize) -> Self {
        self.pending_bytes_max = bytes;
        self
    }

    /// Bytes each shard's store may hold before writes that add are refused; 0 is no limit (the default
    /// for embedding; the server passes etcd's 2 GiB).
    pub fn quota_bytes(mut self, bytes: u64) -> Self {
        self.quota_bytes = bytes;
        self
    }

    /// Milliseconds between the progress notes of idle watchers that asked for them. Default 10 minutes.
    pub fn progress_notify_ms(mut self, millis: u64) -> Self {
        self.progress_notify_ms = millis;
        self
    }

    /// Bytes of log after which a member that is alone writes a checkpoint and lets the log go. Default
    /// 1 GiB: a restart replays at most about that much, a few seconds.
    pub fn checkpoint_bytes(mut self, bytes: u64) -> Self {
        self.checkpoint_bytes = bytes;
        self
    }

    /// Sizes and depths of the logs.
    pub fn wal(mut self, options: henge_wal::Options) -> Self {
        self.wal = options;
        self
    }

    /// Opens or creates the engine: takes the directory, replays the logs, starts the cores. Blocks.
    pub fn open(self) -> Result<Engine, OpenError> {
        self.open_on(&mut |host, name, options, build| host.start(name, options, build))
    }

    /// As [`EngineBuilder::open`], with each core started by `start`.
    pub(crate) fn open_on(self, start: StartCore<'_>) -> Result<Engine, OpenError> {
        self.check()?;
        let directory = Directory::open(&self.dir, &self.asked, &self.wal, &self.identity())?;
        let layout = directory.layout.clone();
        let cores = layout.placement.cores;
        if self.cluster.members.len() > 1 && cores > 1 {
            return Err(OpenError::Config {
                setting: "cores",
                why: "a replicated engine has one core in this version".to_owned(),
            });
        }
        let (host, refused) = self.host.resolve();
        if let Some(reason) = refused {
            tracing::warn!(%reason, "io_uring is not available: log writes use a thread");
        }
        let inboxes: Vec<_> = (0..cores).map(|_| Arc::new(Inbox::new())).collect();
        let metrics: Vec<_> = (0..layout.shards)
            .map(|_| Arc::new(Mutex::new(Metrics::default())))
            .collect();
        // The cores come first: a peer that connects finds somebody to talk to.
        let net = Arc::new(OnceLock::new());
        let mut cores = Vec::with_capacity(cores);
        let disk_cpu = self.pin.then(|| disk_cpu(&self.dir)).flatten();
        for (at, inbox) in inboxes.iter().enumerate() {
            let core_metrics = Arc::new(Mutex::new(CoreMetrics::default()));
            let doors = (inbox.clone(), core_metrics.clone());
            let build = self.core_builder(at, &layout, doors, &metrics, net.clone());
            let (build, ended) = noting_the_end(build);
            let options = HostOptions {
                busy_poll_micros: self.busy_poll_micros,
                cpu: disk_cpu.filter(|_| at == 0),
            };
            let HostHandle { thread, tasks } =
                start(host, &format!("henge-core-{at}"), options, build)?;
            let thread = Mutex::new(thread);
            cores.push(CoreHandle {
                inbox: inbox.clone(),
                metrics: core_metrics,
                tasks,
                thread,
                ended,
            });
        }
        directory.opened()?;
        let mut engine = Inner {
            cores,
            shards: metrics
                .into_iter()
                .enumerate()
                .map(|(at, metrics)| ShardHandle {
                    core: layout.placement.home(at),
                    group: group_id(at),
                    metrics,
                })
                .collect(),
            members: self.cluster.members.clone(),
            router: layout.router,
            limits: mvcc::check::Limits {
                txn_ops_max: self.txn_ops_max,
            },
            host,
            next_session: AtomicU64::new(1),
            next_lease: AtomicU64::new(wall_clock_ms() << 20),
            peers: None,
        };
        engine.peers = self.start_peers(&inboxes, &net)?;
        Ok(Engine {
            inner: Arc::new(engine),
        })
    }

    fn check(&self) -> Result<(), OpenError> {
        let bad = |setting, why: &str| {
            Err(OpenError::Config {
                setting,
                why: why.to_owned(),
            })
        };
        if self
            .asked
            .shards
            .is_some_and(|shards| shards == 0 || shards > SHARDS_MAX)
        {
            return bad("shards", "must be between 1 and 65,536");
        }
        if self.tick_ms == 0 || self.election_ticks < 5 {
            return bad(
                "timeouts",
                "the election timeout must be at least 5 heartbeat intervals",
            );
        }
        let cluster = &self.cluster;
        if cluster.member_id == 0 || !cluster.members.iter().any(|m| m.id == cluster.member_id) {
            return bad("cluster", "this member's id must be one of the members'");
        }
        // Larger ones could be taken in and never be logged.
        if self.request_bytes_max > henge_wal::ENTRY_BYTES_MAX {
            return bad(
                "request_bytes_max",
                "must be at most 16 MiB, the log's largest entry",
            );
        }
        self.wal.check().map_err(|why| OpenError::Config {
            setting: "wal",
            why: why.to_owned(),
        })
    }

    fn identity(&self) -> Identity {
        Identity {
            cluster_id: self.cluster.cluster_id,
            member_id: self.cluster.member_id,
        }
    }

    fn shard_config(&self, group: u64, first_request_id: u64) -> ShardConfig {
        ShardConfig {
            group,
            cluster_id: self.cluster.cluster_id,
            member_id: self.cluster.member_id,
            voters: self.voters(),
            election_ticks: self.election_ticks,
            tick_ms: self.tick_ms,
            // etcd: 5 s and two election timeouts.
            request_timeout_ms: 5_000 + 2 * self.election_ticks * self.tick_ms,
            request_bytes_max: self.request_bytes_max,
            pending_bytes_max: self.pending_bytes_max,
            apply_gap_max: 5_000,
            quota_bytes: self.quota_bytes,
            progress_notify_ms: self.progress_notify_ms,
            checkpoint_bytes: self.checkpoint_bytes,
            log_bytes_replayed: 0,
            seed: first_request_id,
            first_request_id,
        }
    }

    fn voters(&self) -> Vec<u64> {
        let mut voters: Vec<_> = self
            .cluster
            .members
            .iter()
            .map(|member| member.id)
            .collect();
        voters.sort_unstable();
        voters
    }

    /// Everything that must happen on the core's own thread.
    fn core_builder(
        &self,
        at: usize,
        layout: &Layout,
        (inbox, core_metrics): (Arc<Inbox>, Arc<Mutex<CoreMetrics>>),
        metrics: &[Arc<Mutex<Metrics>>],
        net: Arc<OnceLock<Arc<PeerNet>>>,
    ) -> CoreBuilder {
        // Ids start from the wall clock, with room for a million requests per millisecond, so that those
        // of a later run are always larger.
        let first_request_id = wall_clock_ms() << 20;
        let mine = (0..layout.shards).filter(|shard| layout.placement.home(*shard) == at);
        let configs: Vec<_> = mine
            .clone()
            .map(|shard| self.shard_config(group_id(shard), first_request_id))
            .collect();
        let metrics = mine.map(|shard| metrics[shard].clone()).collect();
        let conf_state = ConfState {
            voters: self.voters(),
            ..ConfState::default()
        };
        let dir = self.dir.join(format!("core-{at}"));
        let checkpoint_dir = self.dir.join("checkpoints");
        let checkpoint_bytes = self.checkpoint_bytes;
        let options = self.wal.clone();
        let all_here = layout.placement.cores == 1;
        let identity = self.identity();
        Box::new(move |disk, clock: Clock| {
            let now_ms = clock.now().millis();
            let mut recovery = Recovery::new(conf_state, now_ms);
            recovery.only(configs.iter().map(|config| config.group));
            recovery.refuse_if_nothing_is_left(all_here);
            for config in &configs {
                if let Some(machine) = restore(&checkpoint_dir, &identity, config.group)? {
                    recovery.restored(config.group, machine);
                }
            }
            let (wal, report) = Wal::open(&dir, &options, &identity, disk, &mut recovery)?;
            report_open(&dir, &report);
            let mut groups = recovery.finish()?;
            let mut shards = Vec::with_capacity(configs.len());
            for mut config in configs {
                config.log_bytes_replayed = report.bytes;
                let recovered = groups.remove(&config.group).unwrap_or_default();
                if recovered.lost.is_some() {
                    report_damage(config.group, &report);
                }
                let member_id = config.member_id;
                let shard =
                    Shard::start(config, recovered, now_ms).map_err(|error| OpenError::Config {
                        setting: "cluster",
                        why: format!("{member_id:x}: {error}"),
                    })?;
                shards.push(shard);
            }
            let config = CoreConfig {
                inbox,
                checkpoint_dir,
                checkpoint_bytes,
                metrics,
                core_metrics,
                stopwatch: Stopwatch::new(move || clock.now().micros),
            };
            let peers: Box<dyn Peers> = Box::new(NetPeers { net });
            Ok((Core::new(config, shards, wal), peers))
        })
    }

    fn start_peers(
        &self,
        inboxes: &[Arc<Inbox>],
        net: &OnceLock<Arc<PeerNet>>,
    ) -> Result<Option<Arc<PeerNet>>, OpenError> {
        let cluster = &self.cluster;
        if cluster.members.len() == 1 {
            return Ok(None);
        }
        let mut config = PeerConfig::new(cluster.cluster_id, cluster.member_id, wall_clock_ms());
        config.listen = cluster.listen.clone();
        config.peers = cluster.peers.clone();
        let handler = Arc::new(Door {
            inbox: inboxes[0].clone(),
        });
        let started =
            PeerNet::start(config, handler).map_err(|error| OpenError::Peers(error.to_string()))?;
        let started = Arc::new(started);
        // Set once, here: `open` runs once per builder.
        let _ = net.set(started.clone());
        Ok(Some(started))
    }
}

/// A group's state machine from its newest checkpoint, if it has one.
fn restore(dir: &Path, identity: &Identity, group: u64) -> Result<Option<Machine>, OpenError> {
    let Some(path) = checkpoint::latest(dir, group)? else {
        return Ok(None);
    };
    let mut reader = checkpoint::Reader::open(&path)?;
    let meta = *reader.meta();
    let theirs = (meta.cluster_id, meta.member_id, meta.group);
    if theirs != (identity.cluster_id, identity.member_id, group) {
        return Err(OpenError::ForeignCheckpoint { path });
    }
    let unreadable = |error: mvcc::SnapshotError| OpenError::Checkpoint {
        path: path.clone(),
        error,
    };
    let mut restorer = mvcc::Restorer::new();
    while let Some(chunk) = reader.next_chunk()? {
        restorer.push(&chunk).map_err(unreadable)?;
    }
    let store = restorer.finish().map_err(unreadable)?;
    Ok(Some(Machine {
        store,
        applied_index: meta.index,
        applied_term: meta.term,
    }))
}

/// Groups are numbered from 1; 0 would be easy to write by accident.
pub(super) fn group_id(shard: usize) -> u64 {
    shard as u64 + 1
}

/// Frames from peers go to the core's inbox.
struct Door {
    inbox: Arc<Inbox>,
}

impl PeerHandler for Door {
    fn message(&self, from: u64, frame: Bytes) {
        self.inbox.push(Input::Peer { from, frame });
    }

    fn connected(&self, peer: u64) {
        tracing::info!(peer = %format_args!("{peer:x}"), "peer connected");
    }

    fn disconnected(&self, peer: u64, why: &str) {
        tracing::warn!(peer = %format_args!("{peer:x}"), why, "peer disconnected");
        self.inbox.push(Input::PeerLost { peer });
    }

    fn unreachable(&self, peer: u64, why: &str) {
        tracing::warn!(peer = %format_args!("{peer:x}"), why, "peer cannot be reached");
    }

    fn refused(&self, from: SocketAddr, why: &str) {
        tracing::warn!(%from, why, "refused a peer connection");
    }
}

/// Frames to peers go to the transport, once it runs.
struct NetPeers {
    net: Arc<OnceLock<Arc<PeerNet>>>,
}

impl Peers for NetPeers {
    fn send(&mut self, to: u64, frame: Bytes, urgent: bool) {
        if let Some(net) = self.net.get() {
            // A frame that is not taken is lost on the network's side: raft repeats what matters.
            let _ = if urgent {
                net.send_urgent(to, frame)
            } else {
                net.send(to, frame)
            };
        }
    }
}

/// Wraps a builder so that the end of its host thread can be awaited.
fn noting_the_end(build: CoreBuilder) -> (CoreBuilder, tokio::sync::watch::Receiver<bool>) {
    let (sender, receiver) = tokio::sync::watch::channel(false);
    let wrapped: CoreBuilder = Box::new(move |disk, clock| {
        let (core, peers) = build(disk, clock)?;
        Ok((
            core,
            Box::new(NotingPeers {
                peers,
                _ended: sender,
            }) as Box<dyn Peers>,
        ))
    });
    (wrapped, receiver)
}

/// Lives as long as its core; dropping the sender ends every wait for it.
struct NotingPeers {
    peers: Box<dyn Peers>,
    _ended: tokio::sync::watch::Sender<bool>,
}

impl Peers for NotingPeers {
    fn send(&mut self, to: u64, frame: Bytes, urgent: bool) {
        self.peers.send(to, frame, urgent);
    }
}

fn report_open(dir: &Path, report: &henge_wal::OpenReport) {
    tracing::info!(
        dir = %dir.display(),
        backend = report.backend,
        direct_io = report.direct_io,
        segments = report.segments,
        records = report.records,
        last_lsn = report.last_lsn,
        "opened the log"
    );
    if !report.direct_io {
        tracing::warn!(
            dir = %dir.display(),
            "this file system refuses O_DIRECT: the log uses write and fdatasync, which is slower"
        );
    }
    if let Some(cut) = &report.cut {
        tracing::warn!(
            file = %cut.file.display(),
            offset = cut.offset,
            bytes = cut.bytes,
            kept = %cut.kept.display(),
            "cut a torn tail: a write that was never acknowledged"
        );
    }
}

/// A group that does not start, and why; the others do.
fn report_damage(group: u64, report: &henge_wal::OpenReport) {
    for damage in report.damaged.iter().filter(|damage| damage.group == group) {
        tracing::error!(
            group,
            first = damage.first,
            last = damage.last,
            file = %damage.file.display(),
            offset = damage.offset,
            "acknowledged entries cannot be read: this group serves nothing; other members may have them \
             (docs/faults.md, a member that lost its log); `henge wal repair` says what it would give up"
        );
    }
}
