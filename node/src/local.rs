//! An engine on its caller's own thread: no thread of its own, no hop to reach it.
//!
//! [`EngineBuilder::open_local`] builds the core on the calling thread and returns a handle that stays
//! there and a [`Driver`], a future that the caller spawns on its executor: a tokio current-thread
//! runtime, tokio-uring, or (with the feature `glommio`) glommio. A request then goes from the caller's
//! task into the core's inbox and from there, in the next turn of the same thread, into the log.
//!
//! Promises: the same operations, errors and cancel-safety as [`Engine`]'s; whoever waits is answered
//! even if the driver is dropped half-way. Must never know: what executor it runs in (the hosts do).

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use henge_mvcc as mvcc;

use crate::api::{LeaseGranted, LeaseTtl, Metrics, Reply, WatchCreate};
use crate::engine::{
    Batch, BatchReport, Engine, EngineBuilder, OpenError, Operation, Snapshot, Stats, Watcher,
};
use crate::failure::{
    CompactError, DeleteError, LeaseError, PutError, RangeError, TxnError, WatchError,
};
use crate::host::{HostHandle, HostKind, LocalFuture, here};

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
            driven = Some(here::start(host, options, build)?);
            // Nobody takes tasks: the caller owns the executor and can spawn them there.
            let (tasks, _) = tokio::sync::mpsc::unbounded_channel();
            Ok(HostHandle {
                thread: None,
                tasks,
            })
        })?;
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
    /// A handle for other threads. They pay a hop to this one; its blocking calls must not be used on
    /// this thread, where they would wait for themselves.
    pub fn remote(&self) -> Engine {
        self.engine.clone()
    }

    /// See [`Engine::put`].
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Operation<Reply<mvcc::PutResponse>, PutError> {
        self.engine.put(key, value)
    }

    /// See [`Engine::put_with`].
    pub fn put_with(
        &self,
        request: &mvcc::PutRequest<'_>,
    ) -> Operation<Reply<mvcc::PutResponse>, PutError> {
        self.engine.put_with(request)
    }

    /// See [`Engine::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Operation<Option<mvcc::KeyValue>, RangeError> {
        self.engine.get(key)
    }

    /// See [`Engine::range`].
    pub fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
    ) -> impl Future<Output = Result<Reply<mvcc::RangeResponse>, RangeError>> + Send + use<> {
        self.engine.range(request)
    }

    /// See [`Engine::delete`].
    pub fn delete(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Operation<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        self.engine.delete(key)
    }

    /// See [`Engine::delete_range`].
    pub fn delete_range(
        &self,
        request: &mvcc::DeleteRangeRequest<'_>,
    ) -> Operation<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        self.engine.delete_range(request)
    }

    /// See [`Engine::txn`].
    pub fn txn(
        &self,
        request: &mvcc::TxnRequest<'_>,
    ) -> Operation<Reply<mvcc::TxnResponse>, TxnError> {
        self.engine.txn(request)
    }

    /// See [`Engine::batch`].
    pub fn batch(&self, batch: &Batch) -> impl Future<Output = BatchReport> + Send + use<> {
        self.engine.batch(batch)
    }

    /// See [`Engine::snapshot`].
    pub fn snapshot(&self) -> impl Future<Output = Result<Snapshot, RangeError>> + Send + use<> {
        self.engine.snapshot()
    }

    /// See [`Engine::watch`].
    pub fn watch(&self, create: WatchCreate) -> Result<Watcher, WatchError> {
        self.engine.watch(create)
    }

    /// See [`Engine::lease_grant`].
    pub fn lease_grant(&self, id: i64, ttl_s: i64) -> Operation<Reply<LeaseGranted>, LeaseError> {
        self.engine.lease_grant(id, ttl_s)
    }

    /// See [`Engine::lease_revoke`].
    pub fn lease_revoke(&self, id: i64) -> Operation<Reply<()>, LeaseError> {
        self.engine.lease_revoke(id)
    }

    /// See [`Engine::lease_keep_alive`].
    pub fn lease_keep_alive(&self, id: i64) -> Operation<Reply<i64>, LeaseError> {
        self.engine.lease_keep_alive(id)
    }

    /// See [`Engine::lease_time_to_live`].
    pub fn lease_time_to_live(
        &self,
        id: i64,
        keys: bool,
    ) -> Operation<Reply<LeaseTtl>, LeaseError> {
        self.engine.lease_time_to_live(id, keys)
    }

    /// See [`Engine::compact`].
    pub fn compact(&self, revision: i64, physical: bool) -> Operation<Reply<()>, CompactError> {
        self.engine.compact(revision, physical)
    }

    /// See [`Engine::shards`].
    pub fn shards(&self) -> usize {
        self.engine.shards()
    }

    /// See [`Engine::host`].
    pub fn host(&self) -> HostKind {
        self.engine.host()
    }

    /// See [`Engine::metrics`].
    pub fn metrics(&self, shard: usize) -> Option<Metrics> {
        self.engine.metrics(shard)
    }

    /// See [`Engine::stats`].
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// See [`Engine::stop`]. The driver has to run meanwhile.
    pub async fn stop(&self) {
        self.engine.stop().await;
    }
}
