//! Opening an engine as it was described: the directory taken, the logs replayed, the cores started.
//!
//! Promises: a description that cannot work is refused before the directory is touched; what was started
//! before a failure ends with it, and what was made in the file system goes. Must never know: what drives
//! a core. Tested by `tests/engine`.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use henge_api::{CoreMetrics, SharedVitals};
use henge_core::Peers;
use henge_core::door::ShardDoor;
use henge_core::gauges::Stopwatch;
use henge_core::inbox::{self, Inbox};
use henge_core::open::{self, GroupOpening, Opening};
use henge_core::shard::ShardConfig;
use henge_mvcc as mvcc;
use henge_wal::Identity;

use super::builder::EngineBuilder;
use super::directory::Directory;
use super::layout::Layout;
use super::{CoreHandle, Cores, Engine, Inner, OpenError, ShardHandle};
use crate::cluster::demux::Demux;
use crate::cluster::mesh::{self, LateMesh};
use crate::host::clock::{Clock, wall_clock_ms};
use crate::host::mounts::memory_below;
use crate::host::place::disk_cpu;
use crate::host::{CoreBuilder, HostHandle, HostKind, HostOptions};

/// Most shards of one engine: their ids and buffers are laid out at open.
const SHARDS_MAX: usize = 65_536;

/// Starts a core: host, name, options, builder.
pub(crate) type StartCore<'a> =
    &'a mut dyn FnMut(HostKind, &str, HostOptions, CoreBuilder) -> Result<HostHandle, OpenError>;

/// Committed entries that may wait to be applied before writes are refused: as many as the inbox takes.
/// etcd's is 5,000, behind a goroutine that does nothing else; here one batch may commit twice that, of which
/// a turn applies some thousands, and the bytes of what waits have bounds of their own (see decision 16).
const APPLY_GAP_MAX: u64 = inbox::ITEMS_MAX as u64;

impl EngineBuilder {
    /// As [`EngineBuilder::open`], with each core started by `start`.
    pub(crate) fn open_on(self, start: StartCore<'_>) -> Result<Engine, OpenError> {
        self.check()?;
        let directory =
            Directory::open(&self.dir, &self.asked, &self.wal_options(), &self.cluster)?;
        let in_memory = memory_below(&self.dir);
        if let Some(kind) = &in_memory {
            tracing::warn!(
                dir = %self.dir.display(),
                kind,
                "the data directory is in memory: nothing is durable there, all is lost when the machine \
                restarts"
            );
        }
        let layout = directory.layout.clone();
        let cores = layout.placement.cores;
        let (host, refused) = self.host.resolve();
        if let Some(reason) = refused {
            tracing::warn!(%reason, "io_uring is not available: log writes use a thread");
        }
        let pending_max = self.pending_max(layout.shards);
        let inboxes: Vec<_> = (0..cores)
            .map(|_| Arc::new(Inbox::with_budget(inbox::BYTES_MAX.max(pending_max))))
            .collect();
        let doors: Vec<_> = (0..layout.shards)
            .map(|_| ShardDoor::new(pending_max))
            .collect();
        // The cores come first: a peer that connects finds somebody to talk to.
        let net = LateMesh::default();
        let mut cores = Cores(Vec::with_capacity(cores));
        let disk_cpu = self.pin.then(|| disk_cpu(&self.dir)).flatten();
        for (at, inbox) in inboxes.iter().enumerate() {
            let core_metrics = Arc::new(Mutex::new(CoreMetrics::default()));
            let vitals = Arc::<SharedVitals>::default();
            let door = (inbox.clone(), core_metrics.clone(), vitals.clone());
            let build = self.core_builder(at, &layout, door, &doors, net.clone());
            let build = match self.disks.clone() {
                Some(disks) => disks.under(at, build),
                None => build,
            };
            let options = HostOptions {
                busy_poll_micros: self.busy_poll_micros,
                cpu: disk_cpu.filter(|_| at == 0),
            };
            let started = start(host, &format!("henge-core-{at}"), options, build);
            let HostHandle {
                thread,
                tasks,
                ended,
            } = started.map_err(|error| directory.explain(error))?;
            let thread = Mutex::new(thread);
            cores.0.push(CoreHandle {
                inbox: inbox.clone(),
                metrics: core_metrics,
                vitals,
                tasks,
                thread,
                ended,
            });
        }
        let mut engine = Inner {
            cores,
            shards: doors
                .into_iter()
                .enumerate()
                .map(|(at, door)| ShardHandle {
                    core: layout.placement.home(at),
                    group: group_id(at),
                    door,
                })
                .collect(),
            members: Arc::new(Mutex::new(self.cluster.members.clone())),
            router: layout.router,
            limits: mvcc::check::Limits {
                txn_ops_max: self.txn_ops_max,
            },
            request_bytes_max: self.request_bytes(),
            in_memory: in_memory.is_some(),
            own_thread: OnceLock::new(),
            host,
            next_session: AtomicU64::new(1),
            next_lease: AtomicU64::new(wall_clock_ms() << 20),
            peers: None,
        };
        let demux = Demux::new(inboxes, layout.placement);
        engine.peers = mesh::start(&self.cluster, demux, &net, &engine.members)?;
        directory.opened()?;
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
        if self.progress_notify_ms == 0 {
            return bad("progress_notify_ms", "must be at least a millisecond");
        }
        let cluster = &self.cluster;
        if cluster.member_id == 0 || !cluster.members.iter().any(|m| m.id == cluster.member_id) {
            return bad("cluster", "this member's id must be one of the members'");
        }
        // Larger ones could be taken in and never be logged.
        let request = self.request_bytes();
        if request > henge_wal::ENTRY_BYTES_MAX {
            return bad(
                "request_bytes_max",
                "must be at most 16 MiB, the log's largest entry",
            );
        }
        let segment = self.wal.segment_bytes;
        let held = henge_wal::Options::payload_bytes_in(segment);
        // Where only one of the two was asked for, the other makes way: the log can hold it.
        if self.request_bytes_max.is_some() && request > held {
            let needed = henge_wal::Options::segment_bytes_for(request);
            let why = format!(
                "{segment} bytes do not hold a request of request_bytes_max, {request}: must be at least \
                 {needed}, or request_bytes_max at most {held}"
            );
            return bad("wal.segment_bytes", &why);
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

    fn pending_max(&self, shards: usize) -> usize {
        let default = match shards {
            1 => inbox::BYTES_MAX,
            _ => inbox::BYTES_MAX / 4,
        };
        self.pending_bytes_max.unwrap_or(default)
    }

    fn shard_config(&self, group: u64, first_request_id: u64, shards: usize) -> ShardConfig {
        ShardConfig {
            group,
            cluster_id: self.cluster.cluster_id,
            member_id: self.cluster.member_id,
            voters: self.voters(),
            members: self.cluster.members.clone().into(),
            election_ticks: self.election_ticks,
            tick_ms: self.tick_ms,
            // etcd: 5 s and two election timeouts.
            request_timeout_ms: 5_000 + 2 * self.election_ticks * self.tick_ms,
            request_bytes_max: self.request_bytes(),
            pending_bytes_max: self.pending_max(shards),
            apply_gap_max: APPLY_GAP_MAX,
            quota_bytes: self.quota_bytes,
            progress_notify_ms: self.progress_notify_ms,
            auto_compaction: self.auto_compaction,
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
        (inbox, core_metrics, vitals): (Arc<Inbox>, Arc<Mutex<CoreMetrics>>, Arc<SharedVitals>),
        doors: &[ShardDoor],
        mesh: LateMesh,
    ) -> CoreBuilder {
        // Ids start from the wall clock, with room for a million requests per millisecond, so that those
        // of a later run are always larger.
        let first_request_id = wall_clock_ms() << 20;
        let mine = (0..layout.shards).filter(|shard| layout.placement.home(*shard) == at);
        let group = |shard: usize| GroupOpening {
            config: self.shard_config(group_id(shard), first_request_id, layout.shards),
            door: doors[shard].clone(),
        };
        let groups: Vec<_> = mine.map(group).collect();
        let doors: Vec<_> = groups.iter().map(|group| group.door.clone()).collect();
        let cores = layout.placement.cores as u64;
        let mut opening = Opening {
            dir: self.dir.join(format!("core-{at}")),
            wal: self.wal_options(),
            identity: self.identity(),
            cores,
            holds_all: cores == 1,
            checkpoint_bytes: self.checkpoint_bytes,
            groups,
            inbox,
            metrics: core_metrics,
            vitals,
            stopwatch: Stopwatch::default(),
        };
        Box::new(move |disk, clock: Clock| {
            let now_ms = clock.now().millis();
            let clock_unix_ms = wall_clock_ms().saturating_sub(now_ms);
            opening.stopwatch = Stopwatch::new(move || clock.now().micros);
            let core = open::open(opening, disk, now_ms, &mut ())?;
            for door in &doors {
                let mut metrics = door.metrics.lock().unwrap_or_else(PoisonError::into_inner);
                metrics.clock_unix_ms = clock_unix_ms;
            }
            let peers: Box<dyn Peers> = Box::new(mesh);
            Ok((core, peers))
        })
    }
}

/// Groups are numbered from 1; 0 would be easy to write by accident.
pub(super) fn group_id(shard: usize) -> u64 {
    shard as u64 + 1
}
