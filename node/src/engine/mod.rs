//! The engine: what a service embeds.
//!
//! An [`Engine`] is a handle to cores that run on threads of their own. It is `Clone + Send + Sync`, and
//! its futures work on any runtime: they only wait for an answer. An operation starts when its method is
//! called and belongs to its shard from then on: dropping the future abandons the answer, never the
//! operation.
//!
//! `builder` opens it, `ticket` is the waiting, `keyspace` shows one shard as a whole etcd, `route`
//! decides which shard holds a key, `blocking` serves callers without a runtime.

pub mod blocking;
pub mod builder;
mod directory;
pub mod keyspace;
pub mod layout;
pub mod rehome;
pub mod revisions;
pub mod route;
pub mod sharded;
pub mod ticket;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use henge_mvcc as mvcc;

pub use self::blocking::Blocking;
pub use self::builder::{ClusterConfig, EngineBuilder};
pub use self::keyspace::Keyspace;
pub use self::layout::Router;
pub use self::revisions::Revisions;
pub use self::sharded::{Sharded, ShardedWatcher};
pub use self::ticket::Operation;
use self::ticket::Ticket;
use crate::api::{
    CoreMetrics, Error, Header, LeaseGranted, LeaseTtl, Member, Metrics, Reply, WatchCommand,
    WatchCreate, WatchResponse, WatchSession,
};
use crate::core::inbox::{Inbox, Input};
use crate::host::{HostKind, LocalTask};
use crate::machine::{Command, Response};
use crate::peer::PeerNet;
use crate::shard::request::{Answer, Request, RequestKind};
use crate::shard::session::WatchStream;

/// A replicated, revisioned key-value store inside this process.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// let engine = henge::Engine::builder("data.henge").open()?;
/// let written = engine.put("greeting", "hello").await?;
/// let found = engine.get("greeting").await?;
/// assert_eq!(found.map(|kv| kv.mod_revision), Some(written.header.revision));
/// engine.stop().await;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Engine {
    inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) cores: Vec<CoreHandle>,
    pub(crate) shards: Vec<ShardHandle>,
    pub(crate) members: Vec<Member>,
    pub(crate) router: Router,
    pub(crate) limits: mvcc::check::Limits,
    pub(crate) host: HostKind,
    next_session: AtomicU64,
    next_lease: AtomicU64,
    peers: Option<Arc<PeerNet>>,
}

pub(crate) struct CoreHandle {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) metrics: Arc<Mutex<CoreMetrics>>,
    pub(crate) tasks: tokio::sync::mpsc::UnboundedSender<LocalTask>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    ended: tokio::sync::watch::Receiver<bool>,
}

pub(crate) struct ShardHandle {
    pub(crate) core: usize,
    pub(crate) group: u64,
    pub(crate) metrics: Arc<Mutex<Metrics>>,
}

/// Why an engine could not be opened. Nothing was changed on disk unless the variant says so.
#[non_exhaustive]
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The log refused (locked, foreign, damaged, not writable, …); the text names file and remedy.
    #[error(transparent)]
    Wal(#[from] henge_wal::OpenError),
    /// A checkpoint file cannot be read.
    #[error(transparent)]
    CheckpointFile(#[from] henge_wal::checkpoint::CheckpointError),
    /// A checkpoint's content is not a store.
    #[error(
        "{path}: {error}; the log before it is gone: restore the directory from a copy, or let the member rejoin empty"
    )]
    Checkpoint {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: mvcc::SnapshotError,
    },
    /// A checkpoint of another cluster, member or group.
    #[error(
        "{path}: belongs to another cluster or member; move it away if it was copied here by mistake"
    )]
    ForeignCheckpoint {
        /// The file.
        path: PathBuf,
    },
    /// What the log holds cannot be turned into shards.
    #[error(transparent)]
    Recover(#[from] crate::core::recover::RecoverFault),
    /// A setting makes no sense.
    #[error("{setting}: {why}")]
    Config {
        /// Which setting.
        setting: &'static str,
        /// What is wrong with it.
        why: String,
    },
    /// The directory was made with another number of shards, or another router.
    #[error(
        "{path} was made with {found}, not with {asked}: keys lie where that put them; open it as it was \
         made"
    )]
    Layout {
        /// The layout file.
        path: PathBuf,
        /// What it says.
        found: String,
        /// What was asked for.
        asked: String,
    },
    /// The layout file cannot be understood.
    #[error("{path}: {why}")]
    BadLayout {
        /// The layout file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A core's log is not there.
    #[error(
        "{path} is missing or has no IDENTITY: the shards of this core would be empty; put it back, or \
         restore the data directory from a copy"
    )]
    MissingLog {
        /// Its directory.
        path: PathBuf,
    },
    /// Shards could not be moved to another core's log. What they held is safe; opening again goes on.
    #[error("moving shards between logs, {path}: {why}")]
    Move {
        /// The log's directory.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The data directory cannot be used.
    #[error("data directory {path}: {error}")]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// The peer port cannot be listened on.
    #[error("peers: {0}")]
    Peers(String),
    /// A thread could not be started.
    #[error("cannot start a thread: {0}; check the process and thread limits")]
    Thread(std::io::Error),
    /// The host cannot run on this machine, or not on this thread. A new directory may have been laid
    /// out already; opening it again goes on.
    #[error("host {host}: {why}")]
    Host {
        /// Which.
        host: HostKind,
        /// Why.
        why: String,
    },
    /// A host thread ended while it opened its core.
    #[error("the host thread ended while it opened its core; its panic message is on stderr")]
    HostDied,
}

impl Engine {
    /// Starts describing an engine whose data lives in `dir`.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// # let dir = std::env::temp_dir().join(format!("henge-doc-builder-{}", std::process::id()));
    /// let second = henge::Engine::builder(&dir)
    ///     .shards(4)
    ///     .host(henge::HostKind::Thread)
    ///     .busy_poll_micros(0)
    ///     .open()?;
    /// assert_eq!(second.shards(), 4);
    /// # drop((engine, second));
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok(()) }) }
    /// ```
    pub fn builder(dir: impl Into<PathBuf>) -> EngineBuilder {
        EngineBuilder::new(dir)
    }

    /// Writes one key and waits until that is durable (on a quorum).
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let first = engine.put("greeting", "hello").await?;
    /// let second = engine.put("greeting", "hello again").await?;
    /// assert_eq!(second.header.revision, first.header.revision + 1);
    /// # Ok(()) }) }
    /// ```
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Operation<Reply<mvcc::PutResponse>> {
        let request = mvcc::PutRequest {
            key: key.as_ref(),
            value: value.as_ref(),
            ..mvcc::PutRequest::default()
        };
        self.put_with(&request)
    }

    /// As [`Engine::put`], with a lease or the previous value.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::PutRequest;
    ///
    /// engine.put("greeting", "hello").await?;
    /// let request = PutRequest {
    ///     key: b"greeting",
    ///     value: b"good-bye",
    ///     prev_kv: true,
    ///     ..PutRequest::default()
    /// };
    /// let reply = engine.put_with(&request).await?;
    /// assert_eq!(reply.body.prev_kv.map(|kv| kv.value), Some("hello".into()));
    /// # Ok(()) }) }
    /// ```
    pub fn put_with(&self, request: &mvcc::PutRequest<'_>) -> Operation<Reply<mvcc::PutResponse>> {
        let ticket = match mvcc::check::put(request, &self.inner.limits) {
            Ok(()) => match self.check_lease(request.key, request.lease) {
                Ok(()) => self.write(self.route(request.key), &Command::Put(request.clone())),
                Err(error) => Ticket::failed(error),
            },
            Err(error) => Ticket::failed(error.into()),
        };
        Operation::new(ticket, Reply::put)
    }

    /// Reads one key, linearizably.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// assert_eq!(engine.get("greeting").await?, None);
    /// engine.put("greeting", "hello").await?;
    /// let found = engine.get("greeting").await?.expect("just written");
    /// assert_eq!((found.value, found.version), ("hello".into(), 1));
    /// # Ok(()) }) }
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Operation<Option<mvcc::KeyValue>> {
        let range = mvcc::KeyRange::one(key.as_ref());
        let request = mvcc::RangeRequest {
            range,
            ..mvcc::RangeRequest::default()
        };
        let ticket = match mvcc::check::range(&request, &self.inner.limits) {
            Ok(()) => {
                let encoded = Command::Range(request).encode();
                let kind = RequestKind::Read {
                    encoded,
                    serializable: false,
                };
                self.submit(self.route(key.as_ref()), kind)
            }
            Err(error) => Ticket::failed(error.into()),
        };
        Operation::new(ticket, |reply| {
            Ok(reply.range()?.body.kvs.into_iter().next())
        })
    }

    /// Reads a range, linearizably. Over several shards the answer is merged in key order and its header
    /// carries the highest revision; a past revision or another order needs one shard. To read on in the
    /// same state, use [`Engine::range_at`].
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// for name in ["ada", "bob", "cleo"] {
    ///     engine.put(format!("users/{name}"), name).await?;
    /// }
    /// let request = RangeRequest {
    ///     range: KeyRange { key: b"users/", end: b"users0" },
    ///     limit: 2,
    ///     ..RangeRequest::default()
    /// };
    /// let reply = engine.range(&request).await?;
    /// assert_eq!((reply.body.kvs.len(), reply.body.count, reply.body.more), (2, 3, true));
    /// # Ok(()) }) }
    /// ```
    pub fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, Error>> + Send + use<> {
        let parts = self.range_parts(request, None);
        let limit = request.limit;
        let descending = request.sort_order == mvcc::SortOrder::Descend;
        async move {
            let mut header = Header::default();
            let mut found = Vec::new();
            for (_, ticket) in parts? {
                let part = ticket.await?.range()?;
                if part.header.revision >= header.revision {
                    header = part.header;
                }
                found.push(part.body);
            }
            let body = sharded::merge(found, limit, descending);
            Ok(Reply { header, body })
        }
    }

    /// Deletes one key.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// assert_eq!(engine.delete("greeting").await?.body.deleted, 1);
    /// assert_eq!(engine.delete("greeting").await?.body.deleted, 0);
    /// # Ok(()) }) }
    /// ```
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Operation<Reply<mvcc::DeleteRangeResponse>> {
        let range = mvcc::KeyRange::one(key.as_ref());
        self.delete_range(&mvcc::DeleteRangeRequest {
            range,
            prev_kv: false,
        })
    }

    /// Deletes a range that lies in one shard.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{DeleteRangeRequest, KeyRange};
    ///
    /// engine.put("users/ada", "1").await?;
    /// engine.put("users/bob", "2").await?;
    /// let request = DeleteRangeRequest {
    ///     range: KeyRange { key: b"users/", end: b"users0" },
    ///     prev_kv: true,
    /// };
    /// let reply = engine.delete_range(&request).await?;
    /// assert_eq!(reply.body.prev_kvs.len(), 2);
    /// # Ok(()) }) }
    /// ```
    pub fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> Operation<Reply<mvcc::DeleteRangeResponse>> {
        let checked = mvcc::check::delete_range(request, &self.inner.limits).map_err(Error::from);
        let shard = checked.and_then(|()| self.route_range(&request.range, "a range delete"));
        let ticket = match shard {
            Ok(shard) => self.write(shard, &Command::DeleteRange(request.clone())),
            Err(error) => Ticket::failed(error),
        };
        Operation::new(ticket, Reply::delete)
    }

    /// Compares, then executes one of two lists of operations, atomically.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{
    ///     Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest,
    /// };
    ///
    /// // Created only if it does not exist.
    /// let create = TxnRequest {
    ///     compare: vec![Compare {
    ///         range: KeyRange::one(b"leader"),
    ///         result: CompareResult::Equal,
    ///         target: CompareTarget::CreateRevision(0),
    ///     }],
    ///     success: vec![RequestOp::Put(PutRequest {
    ///         key: b"leader",
    ///         value: b"me",
    ///         ..PutRequest::default()
    ///     })],
    ///     failure: vec![],
    /// };
    /// assert!(engine.txn(&create).await?.body.succeeded);
    /// assert!(!engine.txn(&create).await?.body.succeeded);
    /// # Ok(()) }) }
    /// ```
    pub fn txn(&self, request: &mvcc::TxnRequest<'_>) -> Operation<Reply<mvcc::TxnResponse>> {
        let checked = mvcc::check::txn(request, &self.inner.limits).map_err(Error::from);
        let ticket = match checked.and_then(|()| self.route_txn(request)) {
            Ok(shard) => self.txn_ticket(shard, request, false),
            Err(error) => Ticket::failed(error),
        };
        Operation::new(ticket, Reply::txn)
    }

    /// Watches a key or a range from a revision on, in one shard. For a range over several, use
    /// [`Engine::watch_after`].
    ///
    /// Cancel safety: dropping the watcher ends the watch.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let create = WatchCreate { key: "greeting".into(), ..WatchCreate::default() };
    /// let mut watcher = engine.watch(create)?;
    /// assert!(watcher.next().await.expect("it runs").created);
    /// engine.put("greeting", "hello").await?;
    /// let response = watcher.next().await.expect("it runs");
    /// assert_eq!(response.events[0].kv.value, "hello");
    /// # Ok(()) }) }
    /// ```
    pub fn watch(&self, create: WatchCreate) -> Result<Watcher, Error> {
        let range = mvcc::KeyRange {
            key: &create.key,
            end: &create.range_end,
        };
        let shard = self.route_range(&range, "watching a range")?;
        let mut stream = self.session(shard);
        stream.command(WatchCommand::Create(create));
        Ok(Watcher { stream })
    }

    /// Creates a lease of `ttl_s` seconds; id 0 lets the engine pick.
    ///
    /// With several shards a lease lives in one of them, which its id says, and only keys of that shard can
    /// be attached to it: grant one for a key with [`Engine::lease_grant_for`].
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::PutRequest;
    ///
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// let request = PutRequest {
    ///     key: b"sessions/ada",
    ///     value: b"here",
    ///     lease,
    ///     ..PutRequest::default()
    /// };
    /// engine.put_with(&request).await?;
    /// # Ok(()) }) }
    /// ```
    pub fn lease_grant(&self, id: i64, ttl_s: i64) -> Operation<Reply<LeaseGranted>> {
        self.lease_grant_on(self.lease_shard(id), id, ttl_s)
    }

    /// Deletes a lease and the keys attached to it.
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// engine.lease_revoke(lease).await?;
    /// assert!(engine.lease_revoke(lease).await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub fn lease_revoke(&self, id: i64) -> Operation<Reply<()>> {
        let ticket = self.write(self.lease_shard(id), &Command::LeaseRevoke { id });
        Operation::new(ticket, Reply::done)
    }

    /// Renews a lease; its time to live in seconds, 0 if there is none.
    ///
    /// Cancel safety: dropping the future gives up the answer, never the renewal.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// assert_eq!(engine.lease_keep_alive(lease).await?.body, 60);
    /// assert_eq!(engine.lease_keep_alive(lease + 1).await?.body, 0);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_keep_alive(&self, id: i64) -> Operation<Reply<i64>> {
        let ticket = self.submit(self.lease_shard(id), RequestKind::LeaseKeepAlive(id));
        Operation::new(ticket, Reply::renewed)
    }

    /// How long a lease still lives, and its keys if asked for.
    ///
    /// Cancel safety: dropping the future gives up the answer; nothing else happens.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// let lease = engine.lease_grant(0, 60).await?.body.id;
    /// let left = engine.lease_time_to_live(lease, true).await?.body;
    /// assert_eq!((left.granted_ttl_s, left.keys.len()), (60, 0));
    /// # Ok(()) }) }
    /// ```
    pub fn lease_time_to_live(&self, id: i64, keys: bool) -> Operation<Reply<LeaseTtl>> {
        let kind = RequestKind::LeaseTimeToLive { id, keys };
        Operation::new(self.submit(self.lease_shard(id), kind), Reply::ttl)
    }

    /// Forgets history below `revision`; `physical` waits until it is gone. One shard only, as
    /// revisions are per shard: for several, use [`Engine::compact_to`].
    ///
    /// Cancel safety: the write starts when this is called; dropping the future gives up the answer,
    /// never the write.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// engine.put("greeting", "hello").await?;
    /// let now = engine.put("greeting", "again").await?.header.revision;
    /// engine.compact(now, true).await?;
    /// let old = RangeRequest {
    ///     range: KeyRange::one(b"greeting"),
    ///     revision: now - 1,
    ///     ..RangeRequest::default()
    /// };
    /// assert!(engine.range(&old).await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub fn compact(&self, revision: i64, physical: bool) -> Operation<Reply<()>> {
        let ticket = match self.one_shard("compaction at a revision") {
            Ok(shard) => self.write(shard, &Command::Compact { revision, physical }),
            Err(error) => Ticket::failed(error),
        };
        Operation::new(ticket, Reply::done)
    }

    /// The same operations for callers without a runtime; each blocks its thread.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.put("greeting", "hello")?;
    /// # Ok(()) }) }
    /// ```
    pub fn blocking(&self) -> Blocking {
        Blocking::new(self.clone())
    }

    /// One shard as a complete etcd: what the server's edge is given.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::api::Backend as _;
    ///
    /// let keyspace = engine.keyspace(0).expect("it has one shard");
    /// // A write is answered only once there is a leader.
    /// engine.put("greeting", "hello").await?;
    /// assert!(keyspace.status().await?.body.leader > 0);
    /// assert!(engine.keyspace(1).is_none());
    /// # Ok(()) }) }
    /// ```
    pub fn keyspace(&self, shard: usize) -> Option<Keyspace> {
        (shard < self.inner.shards.len()).then(|| Keyspace::new(self.clone(), shard))
    }

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
        let mut metrics = locked(&shard.metrics);
        metrics.wal_batches = core.wal_batches;
        metrics.wal_bytes = core.wal_bytes;
        metrics.wal_payload_bytes = core.wal_payload_bytes;
        metrics.io_backend = core.io_backend;
        metrics.direct_io = core.direct_io;
        metrics.poisoned = core.poisoned;
        metrics.wal_write_seconds = core.wal_write_seconds;
        metrics.wal_write_seconds_sum = core.wal_write_seconds_sum;
        Some(metrics)
    }

    /// Number of cores.
    pub fn cores(&self) -> usize {
        self.inner.cores.len()
    }

    /// The core that holds a shard.
    pub fn core_of(&self, shard: usize) -> Option<usize> {
        Some(self.inner.shards.get(shard)?.core)
    }

    /// Counters of one core, as of its last turn; its memory is summed up over its shards here.
    pub fn core_metrics(&self, core: usize) -> Option<CoreMetrics> {
        let mut metrics = locked(&self.inner.cores.get(core)?.metrics);
        for shard in self.inner.shards.iter().filter(|shard| shard.core == core) {
            let shard = shard.metrics.lock().unwrap_or_else(PoisonError::into_inner);
            metrics.memory.stores += shard.db_bytes;
            metrics.memory.log_tails += shard.tail_bytes;
            metrics.memory.pending += shard.pending_bytes;
        }
        Some(metrics)
    }

    /// Runs a task beside a core: on its thread where the host has a runtime there.
    ///
    /// False if that core has ended, if there is none of that number, or if the engine is a local one.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let (say, heard) = std::sync::mpsc::channel();
    /// let task = move || Box::pin(async move { drop(say.send("from beside the core")) }) as _;
    /// assert!(engine.spawn_beside(0, Box::new(task)));
    /// assert_eq!(heard.recv()?, "from beside the core");
    /// # Ok(()) }) }
    /// ```
    pub fn spawn_beside(&self, core: usize, task: LocalTask) -> bool {
        self.inner
            .cores
            .get(core)
            .is_some_and(|core| core.tasks.send(task).is_ok())
    }

    /// Answers every waiting caller with *stopped*, makes durable what was accepted, ends the cores.
    ///
    /// Cancel safety: it begins at the first poll and goes on when the future is dropped; calling it
    /// again waits for the same end.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// engine.put("greeting", "hello").await?;
    /// engine.stop().await;
    /// assert!(engine.put("greeting", "too late").await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub async fn stop(&self) {
        self.inner.ask_to_stop();
        for core in &self.inner.cores {
            let mut ended = core.ended.clone();
            // An error means that the thread is gone: ended too.
            let _ = ended.wait_for(|ended| *ended).await;
        }
    }

    /// Whether a core has ended, by [`Engine::stop`] or by a panic.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// assert!(!engine.has_ended());
    /// engine.stop().await;
    /// assert!(engine.has_ended());
    /// # Ok(()) }) }
    /// ```
    pub fn has_ended(&self) -> bool {
        self.inner
            .cores
            .iter()
            .any(|core| core.ended.has_changed().is_err())
    }

    pub(crate) fn inner(&self) -> &Inner {
        &self.inner
    }

    pub(crate) fn session(&self, shard: usize) -> WatchStream {
        let id = self.inner.next_session.fetch_add(1, Ordering::Relaxed);
        let shard = &self.inner.shards[shard];
        WatchStream::open(id, shard.group, self.inner.cores[shard.core].inbox.clone())
    }

    pub(crate) fn write(&self, shard: usize, command: &Command<'_>) -> Ticket {
        self.submit(shard, RequestKind::Write(command.encode()))
    }

    pub(crate) fn txn_ticket(
        &self,
        shard: usize,
        request: &mvcc::TxnRequest<'_>,
        serializable: bool,
    ) -> Ticket {
        let encoded = Command::Txn(request.clone()).encode();
        let kind = if request.is_read_only() {
            RequestKind::Read {
                encoded,
                serializable,
            }
        } else {
            RequestKind::Write(encoded)
        };
        self.submit(shard, kind)
    }

    pub(crate) fn submit(&self, shard: usize, kind: RequestKind) -> Ticket {
        let shard = &self.inner.shards[shard];
        let bytes = kind.bytes();
        let (answer, receiver) = Answer::channel();
        match self.inner.cores[shard.core].inbox.request(
            shard.group,
            Request { kind, answer },
            bytes,
        ) {
            Ok(()) => Ticket::waiting(receiver),
            Err((error, _)) => Ticket::failed(error),
        }
    }
}

impl Inner {
    fn ask_to_stop(&self) {
        for core in &self.cores {
            core.inbox.push(Input::Stop);
        }
        if let Some(peers) = &self.peers {
            peers.shutdown();
        }
    }
}

/// The last handle stops the engine and waits for its threads, so that a program that drops it and
/// opens the directory again finds it free.
impl Drop for Inner {
    fn drop(&mut self) {
        self.ask_to_stop();
        for core in &self.cores {
            let thread = core
                .thread
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take();
            if let Some(thread) = thread
                && thread.thread().id() != std::thread::current().id()
            {
                let _ = thread.join();
            }
        }
    }
}

/// A stream of one watcher's responses.
#[derive(Debug)]
pub struct Watcher {
    stream: WatchStream,
}

impl Watcher {
    /// The next response: first `created`, then events in revision order. `None` when the engine has
    /// stopped.
    ///
    /// Cancel safety: a response is taken by the poll that returns it; a future that is dropped before
    /// takes none.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_scratch(async |engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let create = WatchCreate { key: "k".into(), ..WatchCreate::default() };
    /// let mut watcher = engine.watch(create)?;
    /// engine.stop().await;
    /// while let Some(response) = watcher.next().await {
    ///     assert!(response.events.is_empty());
    /// }
    /// # Ok(()) }) }
    /// ```
    pub async fn next(&mut self) -> Option<WatchResponse> {
        self.stream.next().await
    }
}

/// Turns an answer into the type its question has. Another type would be a mistake of ours, and is
/// reported as corruption rather than as a panic in the caller's process.
macro_rules! answers {
    ($($name:ident: $variant:ident($body:ty);)*) => {
        impl Reply<Response> {
            $(pub(crate) fn $name(self) -> Result<Reply<$body>, Error> {
                match self.body {
                    Response::$variant(body) => Ok(Reply { header: self.header, body }),
                    _ => Err(Error::Corrupt),
                }
            })*
            pub(crate) fn done(self) -> Result<Reply<()>, Error> {
                Ok(Reply { header: self.header, body: () })
            }
        }
    };
}

answers! {
    range: Range(mvcc::RangeResponse);
    put: Put(mvcc::PutResponse);
    delete: Delete(mvcc::DeleteRangeResponse);
    txn: Txn(mvcc::TxnResponse);
    granted: Granted(LeaseGranted);
    renewed: Renewed(i64);
    ttl: Ttl(LeaseTtl);
    leases: Leases(Vec<i64>);
    hash: Hash(crate::api::HashKv);
    status: Status(Box<crate::api::Status>);
}

/// A copy of what a core last published.
fn locked<T: Clone>(published: &Mutex<T>) -> T {
    published
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone()
}

/// Builds a key from anything that has bytes; used where a key is named in an error.
pub(crate) fn owned(key: &[u8]) -> Bytes {
    Bytes::copy_from_slice(key)
}
