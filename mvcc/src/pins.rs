//! Cursors that are open, and up to which revision they may read.
//!
//! A cursor holds a count and says nothing when it goes; so those that began between two looks share
//! one, and it is known of them that they read nothing newer than the revision at the second look.
//! Knows nothing of what is read. Tested by `tests/compaction.rs`.

use std::mem;
use std::sync::Arc;

/// Counts of cursors.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// Shared by those that began since the last look.
    recent: Arc<()>,
    /// Earlier ones with the revision at the look after they began, ascending. Each is held by a cursor at
    /// least.
    older: Vec<(Arc<()>, i64)>,
}

impl Pins {
    /// What a cursor that begins now has to hold.
    pub fn pin(&self) -> Arc<()> {
        Arc::clone(&self.recent)
    }

    /// A revision that no open cursor reads past; `None` if none is open. `revision` is the current one.
    pub fn newest(&mut self, revision: i64) -> Option<i64> {
        self.older.retain(|(pin, _)| Arc::strong_count(pin) > 1);
        if Arc::strong_count(&self.recent) > 1 {
            self.older.push((mem::take(&mut self.recent), revision));
        }
        self.older.last().map(|(_, revision)| *revision)
    }
}
