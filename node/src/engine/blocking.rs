//! The engine for callers without an async runtime: each call blocks its thread until the answer is there.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use henge_mvcc as mvcc;

use super::Engine;
use crate::api::{Error, Reply};

/// Blocking forms of [`Engine`]'s operations. Do not call them on an async runtime's thread.
#[derive(Clone)]
pub struct Blocking {
    engine: Engine,
}

impl Blocking {
    pub(crate) fn new(engine: Engine) -> Self {
        Blocking { engine }
    }

    /// See [`Engine::put`].
    pub fn put(
        &self,
        key: impl AsRef<[u8]>,
        value: impl AsRef<[u8]>,
    ) -> Result<Reply<mvcc::PutResponse>, Error> {
        wait(self.engine.put(key, value))
    }

    /// See [`Engine::get`].
    pub fn get(&self, key: impl AsRef<[u8]>) -> Result<Option<mvcc::KeyValue>, Error> {
        wait(self.engine.get(key))
    }

    /// See [`Engine::delete`].
    pub fn delete(&self, key: impl AsRef<[u8]>) -> Result<Reply<mvcc::DeleteRangeResponse>, Error> {
        wait(self.engine.delete(key))
    }

    /// See [`Engine::range`].
    pub fn range(
        &self,
        request: &mvcc::RangeRequest<'_>,
    ) -> Result<Reply<mvcc::RangeResponse>, Error> {
        wait(self.engine.range(request))
    }

    /// See [`Engine::txn`].
    pub fn txn(&self, request: &mvcc::TxnRequest<'_>) -> Result<Reply<mvcc::TxnResponse>, Error> {
        wait(self.engine.txn(request))
    }

    /// Any other operation of the engine, awaited on this thread: `blocking.wait(engine.compact(7, true))`.
    pub fn wait<T>(&self, operation: impl Future<Output = T>) -> T {
        wait(operation)
    }

    /// See [`Engine::stop`].
    pub fn stop(&self) {
        wait(self.engine.stop());
    }
}

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
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
