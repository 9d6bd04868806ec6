//! The engine: what a service embeds.
//!
//! An [`Engine`] is a handle to cores that run on threads of their own. It is `Clone + Send + Sync`, and
//! its futures work on any runtime: they only wait for an answer. An operation starts when its method is
//! called and belongs to its shard from then on: dropping the future abandons the answer, never the
//! operation.
//!
//! `builder` describes it, `opening` makes it, `kv`, `batch`, `watch`, `lease`, `alarm` and `snapshot` are
//! its operations, `sharded` those over several shards; `route` decides which shard holds a key, `submit`
//! hands a request over, `ticket` is the waiting; `keyspace` shows one shard as a whole etcd, `blocking`
//! serves callers without a runtime, `inspect` and `stats` tell how it fares, `lifecycle` ends it.

mod alarm;
pub mod batch;
pub mod blocking;
pub mod builder;
mod directory;
mod inspect;
pub mod keyspace;
mod kv;
pub mod layout;
mod lease;
mod lifecycle;
mod open_error;
mod opening;
pub mod rehome;
pub mod revisions;
pub mod route;
pub mod sharded;
pub mod snapshot;
pub mod stats;
mod submit;
pub mod ticket;
mod watch;

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::ThreadId;

use henge_api::{CoreMetrics, Member, SharedVitals};
use henge_core::door::ShardDoor;
use henge_core::inbox::Inbox;
use henge_mvcc as mvcc;

pub use self::batch::{Batch, BatchPart, BatchReport};
pub use self::blocking::{Blocking, BlockingIter};
pub use self::builder::{ClusterConfig, EngineBuilder};
pub use self::keyspace::Keyspace;
pub use self::layout::Router;
pub use self::open_error::OpenError;
pub use self::revisions::Revisions;
pub use self::sharded::{Sharded, ShardedWatcher};
pub use self::snapshot::{Snapshot, SnapshotPiece};
pub use self::stats::Stats;
pub(crate) use self::submit::owned;
pub use self::ticket::Operation;
use self::ticket::Ticket;
pub use self::watch::{WatchEnd, Watcher};
use crate::cluster::mesh::Mesh;
use crate::host::{HostKind, LocalTask};

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
    pub(crate) cores: Cores,
    pub(crate) shards: Vec<ShardHandle>,
    /// Of the others, client URLs are known once they told.
    pub(crate) members: Arc<Mutex<Vec<Member>>>,
    pub(crate) router: Router,
    pub(crate) limits: mvcc::check::Limits,
    /// Largest encoded request: what is larger is refused before it is encoded.
    request_bytes_max: usize,
    /// The directory is in memory: nothing is durable.
    in_memory: bool,
    /// The thread that drives it, if that is its caller's own.
    own_thread: OnceLock<ThreadId>,
    pub(crate) host: HostKind,
    next_session: AtomicU64,
    next_lease: AtomicU64,
    peers: Option<Mesh>,
}

/// Cores that run; they end with it.
pub(crate) struct Cores(Vec<CoreHandle>);

impl Deref for Cores {
    type Target = [CoreHandle];

    fn deref(&self) -> &[CoreHandle] {
        &self.0
    }
}

pub(crate) struct CoreHandle {
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) metrics: Arc<Mutex<CoreMetrics>>,
    pub(crate) vitals: Arc<SharedVitals>,
    pub(crate) tasks: tokio::sync::mpsc::Sender<LocalTask>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    ended: tokio::sync::watch::Receiver<bool>,
}

pub(crate) struct ShardHandle {
    pub(crate) core: usize,
    pub(crate) group: u64,
    pub(crate) door: ShardDoor,
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
}
