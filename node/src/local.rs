//! An engine on its caller's own thread: no thread of its own, no hop to reach it.
//!
//! [`EngineBuilder::open_local`] builds the core on the calling thread and returns a handle that stays
//! there and a [`Driver`], a future that the caller spawns on its executor: a tokio current-thread
//! runtime, tokio-uring, or (with the feature `glommio`) glommio. A request then goes from the caller's
//! task into the core's inbox and from there, in the next turn of the same thread, into the log.
//!
//! Promises: the same operations, errors and cancel-safety as [`Engine`]'s; whoever waits is answered
//! even if the driver is dropped half-way. The only helper threads (but for [`HostKind::Thread`], whose
//! purpose they are) do what the kernel blocks on anyhow, off every operation's path: they make,
//! name and sync files. Must never know: what executor it runs in (the hosts do). Tested by
//! `tests/own_thread.rs` and `tests/cancel`.

mod sharded;

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use henge_api::{CoreMetrics, LeaseGranted, LeaseTtl, Metrics, Reply, WatchCreate};
use henge_mvcc as mvcc;

use crate::engine::{
    Batch, BatchReport, Engine, EngineBuilder, OpenError, Operation, Snapshot, Stats, Watcher,
};
use crate::failure::{
    CompactError, DeleteError, LeaseError, PutError, RangeError, TxnError, WatchError,
};
use crate::host::{Ending, HostHandle, HostKind, LocalFuture, here};

/// A handle to an engine on this thread. Cheap to clone, and neither `Send` nor `Sync`:
///
/// ```compile_fail
/// fn elsewhere(local: henge::Local) {
///     std::thread::spawn(move || drop(local));
/// }
/// ```
///
/// When the last handle is dropped the engine stops: its [`Driver`] ends once the log is closed.
#[derive(Clone)]
pub struct Local {
    engine: Engine,
    here: PhantomData<Rc<()>>,
}

/// Runs the engine while it is polled; spawn it. Ends when the engine has stopped and its directory is
/// free again.
///
/// Dropping it is a hard stop: waiting callers are told *stopped* (with an unknown outcome for what was
/// proposed), and what was acknowledged is durable as always.
#[must_use = "nothing happens unless it is spawned or awaited"]
pub struct Driver(LocalFuture);

impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl EngineBuilder {
    /// As [`EngineBuilder::open`], on the calling thread and for its executor. Blocks while logs are
    /// replayed.
    ///
    /// [`EngineBuilder::host`] says how the log is written: [`HostKind::Auto`] is a ring of our own
    /// watched by the caller's tokio runtime (tokio-uring's is one too), or helper threads where
    /// io_uring is refused; [`HostKind::TokioUring`] and `HostKind::Glommio` use the ring of the
    /// executor they name. A local engine is one core with any number of shards; a service with several
    /// executors opens one on each. The thread is not kept on a processor.
    ///
    /// ```
    /// # let dir = std::env::temp_dir().join(format!("henge-doc-local-{}", std::process::id()));
    /// # std::fs::create_dir_all(&dir)?;
    /// let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// tokio::task::LocalSet::new().block_on(&runtime, async {
    ///     let (db, driver) = henge::Engine::builder(dir.join("data.henge")).open_local()?;
    ///     let driver = tokio::task::spawn_local(driver);
    ///     db.put("greeting", "hello").await?;
    ///     assert_eq!(db.get("greeting").await?.expect("just written").value, "hello");
    ///     db.stop().await;
    ///     driver.await?;
    ///     Ok::<(), Box<dyn std::error::Error>>(())
    /// })?;
    /// # std::fs::remove_dir_all(&dir)?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    /// As [`EngineBuilder::open`]'s; [`OpenError::Host`] if the calling thread is not in the executor
    /// that the host needs.
    pub fn open_local(self) -> Result<(Local, Driver), OpenError> {
        let mut driven = None;
        let engine = self.open_on(&mut |host, _, options, build| {
            if driven.is_some() {
                return Err(OpenError::Config {
                    setting: "cores",
                    why: "a local engine is one core, on the thread that opens it".to_owned(),
                });
            }
            let (ending, ended) = Ending::new();
            driven = Some(here::start(host, options, build, ending)?);
            // Nobody takes tasks: the caller owns the executor and can spawn them there.
            let (tasks, _) = tokio::sync::mpsc::channel(1);
            Ok(HostHandle {
                thread: None,
                tasks,
                ended,
            })
        })?;
        engine.note_driver();
        let local = Local {
            engine,
            here: PhantomData,
        };
        driven
            .map(|driven| (local, Driver(driven)))
            .ok_or(OpenError::HostDied)
    }
}

impl Local {
    /// A handle for other threads. They pay a hop to this one; its blocking calls fail on this thread, where
    /// they would wait for themselves ([`Error::OwnThread`](henge_api::Error::OwnThread)).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// let remote = db.remote();
    /// let elsewhere = std::thread::spawn(move || remote.put("greeting", "from another thread"));
    /// elsewhere.join().expect("it ends").await?;
    /// assert!(db.get("greeting").await?.is_some());
    /// # Ok(()) }) }
    /// ```
    pub fn remote(&self) -> Engine {
        self.engine.clone()
    }

    /// See [`Engine::put`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.put("greeting", "hello").await?;
    /// # Ok(()) }) }
    /// ```
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Operation<Reply<mvcc::PutResponse>, PutError> {
        self.engine.put(key, value)
    }

    /// See [`Engine::put_with`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// use henge::mvcc::PutRequest;
    ///
    /// let put = PutRequest { key: b"greeting", value: b"hello", prev_kv: true, ..PutRequest::default() };
    /// assert_eq!(db.put_with(&put).await?.body.prev_kv, None);
    /// # Ok(()) }) }
    /// ```
    pub fn put_with(
        &self,
        request: &mvcc::PutRequest<'_>,
    ) -> Operation<Reply<mvcc::PutResponse>, PutError> {
        self.engine.put_with(request)
    }

    /// See [`Engine::get`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.get("greeting").await?, None);
    /// # Ok(()) }) }
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Operation<Option<mvcc::KeyValue>, RangeError> {
        self.engine.get(key)
    }

    /// See [`Engine::range`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// db.put("greeting", "hello").await?;
    /// let all = RangeRequest { range: KeyRange::all(), ..RangeRequest::default() };
    /// assert_eq!(db.range(&all).await?.body.count, 1);
    /// # Ok(()) }) }
    /// ```
    pub fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, RangeError>> + Send + use<> {
        self.engine.range(request)
    }

    /// See [`Engine::delete`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.delete("greeting").await?.body.deleted, 0);
    /// # Ok(()) }) }
    /// ```
    pub fn delete(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Operation<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        self.engine.delete(key)
    }

    /// See [`Engine::delete_range`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// use henge::mvcc::{DeleteRangeRequest, KeyRange};
    ///
    /// db.put("greeting", "hello").await?;
    /// let all = DeleteRangeRequest { range: KeyRange::all(), prev_kv: false };
    /// assert_eq!(db.delete_range(&all).await?.body.deleted, 1);
    /// # Ok(()) }) }
    /// ```
    pub fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> Operation<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        self.engine.delete_range(request)
    }

    /// See [`Engine::txn`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// use henge::mvcc::{KeyRange, RangeRequest, RequestOp, TxnRequest};
    ///
    /// let read = RangeRequest { range: KeyRange::all(), ..RangeRequest::default() };
    /// let txn = TxnRequest { success: vec![RequestOp::Range(read)], ..TxnRequest::default() };
    /// assert!(db.txn(&txn).await?.body.succeeded);
    /// # Ok(()) }) }
    /// ```
    pub fn txn(
        &self,
        request: &mvcc::TxnRequest<'_>,
    ) -> Operation<Reply<mvcc::TxnResponse>, TxnError> {
        self.engine.txn(request)
    }

    /// See [`Engine::batch`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.batch(henge::Batch::new().put("a", "1").put("b", "2")).await.all()?;
    /// # Ok(()) }) }
    /// ```
    pub fn batch(&self, batch: &Batch) -> impl Future<Output = BatchReport> + Send + use<> {
        self.engine.batch(batch)
    }

    /// See [`Engine::snapshot`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.put("greeting", "hello").await?;
    /// let mut snapshot = db.snapshot().await?;
    /// assert_eq!(snapshot.next().await.expect("a piece")?.kvs.len(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot, RangeError>> + Send + use<> {
        self.engine.snapshot()
    }

    /// See [`Engine::watch`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// use henge::api::WatchCreate;
    ///
    /// let mut watcher = db.watch(WatchCreate { key: "greeting".into(), ..WatchCreate::default() })?;
    /// assert!(watcher.next().await.expect("the engine runs").created);
    /// # Ok(()) }) }
    /// ```
    pub fn watch(&self, create: WatchCreate) -> Result<Watcher, WatchError> {
        self.engine.watch(create)
    }

    /// See [`Engine::lease_grant`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.lease_grant(7, 60).await?.body.id, 7);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_grant(&self, id: i64, ttl_s: i64) -> Operation<Reply<LeaseGranted>, LeaseError> {
        self.engine.lease_grant(id, ttl_s)
    }

    /// See [`Engine::lease_revoke`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.lease_grant(7, 60).await?;
    /// db.lease_revoke(7).await?;
    /// # Ok(()) }) }
    /// ```
    pub fn lease_revoke(&self, id: i64) -> Operation<Reply<()>, LeaseError> {
        self.engine.lease_revoke(id)
    }

    /// See [`Engine::lease_keep_alive`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.lease_grant(7, 60).await?;
    /// assert_eq!(db.lease_keep_alive(7).await?.body, 60);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_keep_alive(&self, id: i64) -> Operation<Reply<i64>, LeaseError> {
        self.engine.lease_keep_alive(id)
    }

    /// See [`Engine::lease_time_to_live`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.lease_grant(7, 60).await?;
    /// assert_eq!(db.lease_time_to_live(7, true).await?.body.granted_ttl_s, 60);
    /// # Ok(()) }) }
    /// ```
    pub fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Operation<Reply<LeaseTtl>, LeaseError> {
        self.engine.lease_time_to_live(id, keys)
    }

    /// See [`Engine::compact`]; cancel safety as there.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// let now = db.put("greeting", "hello").await?.header.revision;
    /// db.compact(now, true).await?;
    /// # Ok(()) }) }
    /// ```
    pub fn compact(&self, revision: i64, physical: bool) -> Operation<Reply<()>, CompactError> {
        self.engine.compact(revision, physical)
    }

    /// See [`Engine::cores`]: always one.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.cores(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn cores(&self) -> usize {
        self.engine.cores()
    }

    /// See [`Engine::core_metrics`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert!(db.core_metrics(0).is_some() && db.core_metrics(1).is_none());
    /// # Ok(()) }) }
    /// ```
    pub fn core_metrics(&self, core: usize) -> Option<CoreMetrics> {
        self.engine.core_metrics(core)
    }

    /// See [`Engine::has_ended`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert!(!db.has_ended());
    /// # Ok(()) }) }
    /// ```
    pub fn has_ended(&self) -> bool {
        self.engine.has_ended()
    }

    /// See [`Engine::shards`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.shards(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn shards(&self) -> usize {
        self.engine.shards()
    }

    /// See [`Engine::host`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_ne!(db.host(), henge::HostKind::Auto);
    /// # Ok(()) }) }
    /// ```
    pub fn host(&self) -> HostKind {
        self.engine.host()
    }

    /// See [`Engine::metrics`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert!(db.metrics(0).is_some() && db.metrics(1).is_none());
    /// # Ok(()) }) }
    /// ```
    pub fn metrics(&self, shard: usize) -> Option<Metrics> {
        self.engine.metrics(shard)
    }

    /// See [`Engine::stats`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// assert_eq!(db.stats().shards.len(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// See [`Engine::stop_after_drain`]; cancel safety as there. The driver has to run meanwhile.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// let under_way = db.put("greeting", "hello");
    /// db.stop_after_drain(std::time::Duration::from_secs(10)).await;
    /// under_way.await?;
    /// # Ok(()) }) }
    /// ```
    pub async fn stop_after_drain(&self, deadline: Duration) {
        self.engine.stop_after_drain(deadline).await;
    }

    /// See [`Engine::stop`]; cancel safety as there. The driver has to run meanwhile.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { on_local(async |db| {
    /// db.stop().await;
    /// assert!(db.put("greeting", "too late").await.is_err());
    /// # Ok(()) }) }
    /// ```
    pub async fn stop(&self) {
        self.engine.stop().await;
    }
}
