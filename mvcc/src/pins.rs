//! Cursors that are open, and up to which revision they may read.
//!
//! A cursor holds a count and says nothing when it goes; so those that began between two looks share
//! one, with the newest revision that any of them may read.
//! Knows nothing of what is read. Tested by `tests/compaction.rs`.

use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

/// What a cursor holds: the newest revision that those who share it may read.
pub(crate) type Pin = Arc<AtomicI64>;

/// Counts of cursors.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// Shared by those that began since the last look.
    recent: Pin,
    /// Earlier ones, ascending. Each is held by a cursor at least.
    older: Vec<Pin>,
}

impl Pins {
    /// What a cursor that begins now, at the current revision or an older one, has to hold.
    pub fn pin(&self, current: i64) -> Pin {
        // One thread writes and reads: it is atomic for cursors to be given to others.
        self.recent.fetch_max(current, Ordering::Relaxed);
        Arc::clone(&self.recent)
    }

    /// The newest revision that an open cursor may read; `None` if none is open.
    pub fn newest(&mut self) -> Option<i64> {
        let is_held = |pin: &Pin| Arc::strong_count(pin) > 1;
        self.older.retain(is_held);
        if is_held(&self.recent) {
            self.older.push(mem::take(&mut self.recent));
        }
        self.older.last().map(|pin| pin.load(Ordering::Relaxed))
    }
}
