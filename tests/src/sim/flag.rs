//! What a core's turn is given to wake: its world looks whether anybody did.
//!
//! Must never know: who wakes it, or why.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

/// Whether the core of it was woken.
pub(super) struct Flag(AtomicBool);

impl Flag {
    /// Raised, as for a core that has not begun.
    pub(super) fn raised() -> Arc<Self> {
        Arc::new(Flag(AtomicBool::new(true)))
    }

    /// Lowers it; what is returned raises it.
    pub(super) fn lower(self: &Arc<Self>) -> Waker {
        self.0.store(false, Ordering::Relaxed);
        Waker::from(self.clone())
    }

    /// Whether it is raised.
    pub(super) fn is_raised(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl Wake for Flag {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}
