//! A thread of ours that waits for a future by parking: what wakes it.
//!
//! Promises: a wake-up between the look and the parking is not lost; parking may end early, so who waits
//! looks again. Must never know: what is waited for.

use std::sync::Arc;
use std::task::{Wake, Waker};
use std::thread::Thread;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// Wakes the thread that calls this.
pub(crate) fn waker() -> Waker {
    Waker::from(Arc::new(Unpark(std::thread::current())))
}
