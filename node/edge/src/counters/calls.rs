//! Calls under way on one connection.
//!
//! Promises: a call counts until all of its answer has left, however it ends.
//! Must never know: what is called, over what.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Calls under way on one connection: until their answers have left.
#[derive(Clone, Debug, Default)]
pub struct Calls(Arc<AtomicUsize>);

/// One of them, for as long as it lives.
#[derive(Debug)]
pub(crate) struct Call(Calls);

impl Calls {
    /// One more, until what comes out is dropped.
    pub(crate) fn begin(&self) -> Call {
        self.0.fetch_add(1, Ordering::Relaxed);
        Call(self.clone())
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.0.load(Ordering::Relaxed) > 0
    }
}

impl Call {
    /// Counts once more, for as long as what comes out lives.
    pub(crate) fn again(&self) -> Call {
        self.0.begin()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}
