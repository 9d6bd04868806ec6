//! The engine for callers without an async runtime: each call blocks its thread until the answer is there.
//!
//! Promises: every operation of [`Engine`] is here, under its name (`tests/surface.rs` compares them).

mod lease;
mod sharded;

use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{Thread, ThreadId};
use std::time::Duration;

use futures_core::Stream;
use henge_mvcc as mvcc;

use super::{Batch, BatchReport, Engine, Snapshot, Stats};
use crate::api::{Error, Reply};
use crate::failure::{DeleteError, PutError, RangeError, TxnError};

/// Blocking forms of [`Engine`]'s operations. Do not call them on an async runtime's thread. On the thread
/// that drives a local engine ([`Local::remote`](crate::Local::remote)) they fail with
/// [`Error::OwnThread`], nothing done, as nothing would ever end there.
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
            true => Err(Error::OwnThread),
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
    /// for piece in db.iter(snapshot) {
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
    /// # Panics
    /// Its `next`, where it would have to wait on the thread that drives the engine.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/common/doc.rs"));
    /// # fn main() -> Outcome { with_scratch(|engine| {
    /// use henge::api::WatchCreate;
    ///
    /// let db = engine.blocking();
    /// let watcher = engine.watch(WatchCreate { key: "k".into(), ..WatchCreate::default() })?;
    /// db.put("k", "1")?;
    /// let mut changes = db.iter(watcher).flat_map(|response| response.events);
    /// assert_eq!(changes.next().expect("it was put").kv.value, "1");
    /// # Ok(()) }) }
    /// ```
    pub fn iter<S: Stream + Unpin>(&self, mut stream: S) -> impl Iterator<Item = S::Item> + use<S> {
        // Not the engine: an iterator over a watcher does not keep it from its end.
        let driver = self.engine.driver_thread();
        std::iter::from_fn(move || {
            let mut next = poll_fn(|cx| Pin::new(&mut stream).poll_next(cx));
            wait_elsewhere(driver, &mut next)
        })
    }

    /// Any future, awaited on this thread: for operations that were begun before.
    ///
    /// # Panics
    /// Where it would have to wait on the thread that drives the engine, which would be for ever.
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
    pub fn wait<T>(&self, operation: impl Future<Output = T>) -> T {
        wait_elsewhere(self.engine.driver_thread(), pin!(operation))
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

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Waits for what the engine does, unless that is done by this thread.
fn wait_elsewhere<T>(
    driver: Option<ThreadId>,
    mut operation: impl Future<Output = T> + Unpin,
) -> T {
    if driver == Some(std::thread::current().id()) {
        let mut cx = Context::from_waker(Waker::noop());
        match Pin::new(&mut operation).poll(&mut cx) {
            Poll::Ready(value) => return value,
            // There is no value to say it with, and it would be for ever.
            Poll::Pending => panic!("{}", Error::OwnThread),
        }
    }
    wait(operation)
}

fn wait<T>(operation: impl Future<Output = T>) -> T {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut cx = Context::from_waker(&waker);
    let mut operation = pin!(operation);
    loop {
        match operation.as_mut().poll(&mut cx) {
            Poll::Ready(value) => return value,
            Poll::Pending => std::thread::park(),
        }
    }
}
