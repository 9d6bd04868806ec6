//! Callers' code on a core's thread: their wakers, their tasks, whatever those drop.
//!
//! Promises: a panic in it ends nothing of ours. It is its owner's: the panic hook has told of it, and the
//! core, the other callers and the other tasks go on. What callers hand in beside that is copied or encoded
//! on their own threads (keys, values, requests), so that nothing else of theirs is ever dropped here.
//! Must never know: what the code is for. Tested by `tests/engine/panics.rs`.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

/// A future that stays on its thread.
pub type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;
/// Makes a future on the thread that will run it.
pub type LocalTask = Box<dyn FnOnce() -> LocalFuture + Send>;

/// Runs a caller's code; `None` if it panicked.
pub fn guarded<T>(code: impl FnOnce() -> T) -> Option<T> {
    let payload = match catch_unwind(AssertUnwindSafe(code)) {
        Ok(value) => return Some(value),
        Err(payload) => payload,
    };
    // What it panicked with is the caller's, too. A payload whose drop panics is left where it is.
    if let Err(again) = catch_unwind(AssertUnwindSafe(|| drop(payload))) {
        std::mem::forget(again);
    }
    None
}

/// Wakes a caller.
pub fn wake(waker: Waker) {
    let _ = guarded(|| waker.wake());
}

/// A caller's task: ends where it panics.
pub struct Guarded(Option<LocalFuture>);

impl Guarded {
    /// Makes the task's future where it will run; `None` if that panics.
    pub fn make(task: LocalTask) -> Option<Self> {
        guarded(task).map(|future| Guarded(Some(future)))
    }
}

impl Future for Guarded {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(future) = &mut self.0 else {
            return Poll::Ready(());
        };
        match guarded(|| future.as_mut().poll(cx)) {
            Some(Poll::Pending) => Poll::Pending,
            // Its end is dropped here, guarded, like that of one that is given up.
            Some(Poll::Ready(())) | None => {
                let ended = self.0.take();
                let _ = guarded(|| drop(ended));
                Poll::Ready(())
            }
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        let left = self.0.take();
        let _ = guarded(|| drop(left));
    }
}
