//! The engine for callers without an async runtime: each call blocks its thread until the answer is there.
//!
//! Promises: every operation of [`Engine`] is here, under its name (`tests/surface.rs` compares them); a call
//! that would wait for its own thread fails instead, and none ends its caller's thread.

mod iter;
mod lease;
mod sharded;

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use futures_core::Stream;
use henge_mvcc as mvcc;

pub use self::iter::BlockingIter;
use super::{Batch, BatchReport, Engine, Snapshot, Stats};
use crate::failure::{DeleteError, PutError, RangeError, TxnError};
use henge_api::{Error, Outcome, Reply};

/// Blocking forms of [`Engine`]'s operations. Do not call them on an async runtime's thread. On the thread
/// that drives a local engine ([`Local::remote`](crate::Local::remote)) they fail with
/// [`Error::OwnThread`], nothing done, as nothing would ever end there; [`Blocking::wait`], which is given
/// what was begun before, fails with the same and an outcome that is unknown.
#[derive(Clone)]
pub struct Blocking {
    engine: Engine,
}

impl Blocking {
    pub(crate) fn new(engine: Engine) -> Self {
        Blocking { engine }
    }

    fn check_thread(&self) -> Result<(), Error> {
        match self.engine.driver_thread() == Some(std::thread::current().id()) {
            true => Err(Error::OwnThread {
                outcome: Outcome::NotDone,
            }),
            false => Ok(()),
        }
    }

    /// Begins an operation and waits for it.
    fn run<T, E, F>(&self, begin: impl FnOnce(&Engine) -> F) -> Result<T, E>
    where
        E: From<Error>,
        F: Future<Output = Result<T, E>>,
    {
        self.check_thread()?;
        wait(begin(&self.engine))
    }

    /// See [`Engine::put`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let reply = engine.blocking().put("greeting", "hello")?;
    /// assert_eq!(reply.header.revision, 2);
    /// # Ok(()) }) }
    /// ```
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Reply<mvcc::PutResponse>, PutError> {
        self.run(|engine| engine.put(key, value))
    }

    /// See [`Engine::get`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.put("greeting", "hello")?;
    /// assert_eq!(db.get("greeting")?.map(|kv| kv.value), Some("hello".into()));
    /// # Ok(()) }) }
    /// ```
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<mvcc::KeyValue>, RangeError> {
        self.run(|engine| engine.get(key))
    }

    /// See [`Engine::delete`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.put("greeting", "hello")?;
    /// assert_eq!(db.delete("greeting")?.body.deleted, 1);
    /// # Ok(()) }) }
    /// ```
    pub fn delete(
        &self,
        key: impl AsRef<[u8]>,
    ) -> Result<Reply<mvcc::DeleteRangeResponse>, DeleteError> {
        self.run(|engine| engine.delete(key))
    }

    /// See [`Engine::range`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::mvcc::{KeyRange, RangeRequest};
    ///
    /// let everything = KeyRange { key: b"\0", end: b"\0" };
    /// let request = RangeRequest { range: everything, ..RangeRequest::default() };
    /// assert_eq!(engine.blocking().range(&request)?.body.count, 0);
    /// # Ok(()) }) }
    /// ```
    pub fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
    ) -> Result<Reply<mvcc::RangeResponse>, RangeError> {
        self.run(|engine| engine.range(request))
    }

    /// See [`Engine::txn`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::mvcc::{PutRequest, RequestOp, TxnRequest};
    ///
    /// let put = |key| RequestOp::Put(PutRequest { key, value: b"1", ..PutRequest::default() });
    /// let both = TxnRequest { success: vec![put(b"a"), put(b"b")], ..TxnRequest::default() };
    /// assert_eq!(engine.blocking().txn(&both)?.body.responses.len(), 2);
    /// # Ok(()) }) }
    /// ```
    pub fn txn(
        &self,
        request: &mvcc::TxnRequest<'_>,
    ) -> Result<Reply<mvcc::TxnResponse>, TxnError> {
        self.run(|engine| engine.txn(request))
    }

    /// See [`Engine::batch`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let mut batch = henge::Batch::new();
    /// batch.put("a", "1").put("b", "2");
    /// engine.blocking().batch(&batch).all()?;
    /// # Ok(()) }) }
    /// ```
    pub fn batch(&self, batch: &Batch) -> BatchReport {
        match self.check_thread() {
            Ok(()) => wait(self.engine.batch(batch)),
            Err(error) => self.engine.refuse_batch(batch, &error),
        }
    }

    /// See [`Engine::snapshot`]; read it with [`Blocking::iter`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.put("greeting", "hello")?;
    /// let snapshot = db.snapshot()?;
    /// db.put("greeting", "too late for it")?;
    /// for piece in db.iter(snapshot)? {
    ///     assert_eq!(piece?.kvs[0].value, "hello");
    /// }
    /// # Ok(()) }) }
    /// ```
    pub fn snapshot(&self) -> Result<Snapshot, RangeError> {
        self.run(|engine| engine.snapshot())
    }

    /// See [`Engine::stats`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// assert_eq!(engine.blocking().stats().shards.len(), 1);
    /// # Ok(()) }) }
    /// ```
    pub fn stats(&self) -> Stats {
        self.engine.stats()
    }

    /// A stream of the engine's, a watcher or a snapshot, as an iterator that blocks its thread.
    ///
    /// # Errors
    /// [`Error::OwnThread`] on the thread that drives the engine.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let db = engine.blocking();
    /// let watcher = engine.watch(WatchCreate { key: "k".into(), ..WatchCreate::default() })?;
    /// db.put("k", "1")?;
    /// let mut changes = db.iter(watcher)?.flat_map(|response| response.events);
    /// assert_eq!(changes.next().expect("it was put").kv.value, "1");
    /// # Ok(()) }) }
    /// ```
    pub fn iter<S: Stream + Unpin>(&self, stream: S) -> Result<BlockingIter<S>, Error> {
        self.check_thread()?;
        // Not the engine: an iterator over a watcher does not keep it from its end.
        Ok(BlockingIter::new(stream, self.engine.driver_thread()))
    }

    /// An operation that was begun before, awaited on this thread.
    ///
    /// # Errors
    /// The operation's own; [`Error::OwnThread`], outcome unknown, where it would have to wait on the thread
    /// that drives the engine: it goes on once that thread does.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// // Two operations in flight at once, on one thread.
    /// let (first, second) = (engine.put("a", "1"), engine.put("b", "2"));
    /// assert!(db.wait(first)?.header.revision < db.wait(second)?.header.revision);
    /// # Ok(()) }) }
    /// ```
    pub fn wait<T, E: From<Error>>(
        &self,
        operation: impl Future<Output = Result<T, E>>,
    ) -> Result<T, E> {
        self.wait_for(operation)?
    }

    /// Any future, awaited on this thread: as [`Blocking::wait`], for what is no result.
    ///
    /// # Errors
    /// [`Error::OwnThread`] where it would have to wait on the thread that drives the engine.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let db = engine.blocking();
    /// let mut watcher = engine.watch(WatchCreate { key: "k".into(), ..WatchCreate::default() })?;
    /// let first = db.wait_for(watcher.next())?;
    /// assert!(first.expect("the engine runs").created);
    /// # Ok(()) }) }
    /// ```
    pub fn wait_for<T>(&self, future: impl Future<Output = T>) -> Result<T, Error> {
        wait_elsewhere(self.engine.driver_thread(), future)
    }

    /// See [`Engine::stop_after_drain`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let under_way = engine.put("greeting", "hello");
    /// let db = engine.blocking();
    /// db.stop_after_drain(std::time::Duration::from_secs(10));
    /// db.wait(under_way)?;
    /// # Ok(()) }) }
    /// ```
    pub fn stop_after_drain(&self, deadline: Duration) {
        match self.check_thread() {
            Ok(()) => wait(self.engine.stop_after_drain(deadline)),
            // It goes on once this thread drives it again.
            Err(_) => self.engine.begin_drain(deadline),
        }
    }

    /// See [`Engine::stop`].
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// let db = engine.blocking();
    /// db.stop();
    /// assert!(db.put("greeting", "too late").is_err());
    /// # Ok(()) }) }
    /// ```
    pub fn stop(&self) {
        match self.check_thread() {
            Ok(()) => wait(self.engine.stop()),
            // It goes on once this thread drives it again.
            Err(_) => self.engine.begin_stop(),
        }
    }
}

/// Waits for what the engine does, unless that is done by this thread: then it has to be there already.
fn wait_elsewhere<T>(
    driver: Option<ThreadId>,
    operation: impl Future<Output = T>,
) -> Result<T, Error> {
    let mut operation = pin!(operation);
    if driver == Some(std::thread::current().id()) {
        let mut cx = Context::from_waker(Waker::noop());
        return match operation.as_mut().poll(&mut cx) {
            Poll::Ready(value) => Ok(value),
            Poll::Pending => Err(Error::OwnThread {
                outcome: Outcome::Unknown,
            }),
        };
    }
    Ok(wait(operation))
}

fn wait<T>(operation: impl Future<Output = T>) -> T {
    let waker = crate::unpark::waker();
    let mut cx = Context::from_waker(&waker);
    let mut operation = pin!(operation);
    loop {
        match operation.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
