//! What the store has done, counted: keys and versions looked at, changes made, bytes copied.
//!
//! Whoever shares a thread with the store bounds what it does at a time by this, not by a clock: the same
//! requests cost the same everywhere, so a test can say that none of them takes too long. Counting is three
//! plain additions; the counters are atomic only for the store to be shared.
//!
//! The weights are those of the reference machine (docs/performance.md, *Counted work*), for a store of a
//! million keys that does not fit into its caches; `mvcc --only weigh` measures what time each kind of work
//! takes. Knows nothing of what is counted. Tested by `tests/long.rs` and node's `node/tests/turns`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A key or a version looked at, in passing.
pub const LOOK_NANOS: u64 = 250;
/// A key looked for by itself. (Cold, it takes two to four times a look; of many that are announced together,
/// which a shard does with its reads, little more than one.)
pub const FIND_NANOS: u64 = 500;
/// A key changed: found, written, counted, logged.
pub const CHANGE_NANOS: u64 = 1_000;
/// Bytes copied in a nanosecond.
pub const BYTES_PER_NANO: u64 = 4;
/// Bytes of values stored in a nanosecond: their pages are new to the process, and the kernel clears them.
pub const STORED_PER_NANO: u64 = 1;

/// Work done, in counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Keys, versions and changes looked at.
    pub looks: u64,
    /// Keys looked for by themselves.
    pub finds: u64,
    /// Changes made.
    pub changes: u64,
    /// Bytes copied or hashed.
    pub bytes: u64,
    /// Bytes of values stored.
    pub stored: u64,
}

impl Work {
    /// About how long it takes.
    pub fn nanos(self) -> u64 {
        self.looks * LOOK_NANOS
            + self.finds * FIND_NANOS
            + self.changes * CHANGE_NANOS
            + self.bytes / BYTES_PER_NANO
            + self.stored / STORED_PER_NANO
    }
}

/// The counters of a store.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    looks: AtomicU64,
    finds: AtomicU64,
    changes: AtomicU64,
    bytes: AtomicU64,
    stored: AtomicU64,
}

impl Meter {
    pub fn look(&self, count: usize) {
        add(&self.looks, count);
    }

    pub fn find(&self, count: usize) {
        add(&self.finds, count);
    }

    pub fn change(&self, count: usize) {
        add(&self.changes, count);
    }

    pub fn bytes(&self, count: usize) {
        add(&self.bytes, count);
    }

    pub fn store(&self, bytes: usize) {
        add(&self.stored, bytes);
    }

    pub fn work(&self) -> Work {
        Work {
            looks: self.looks.load(Ordering::Relaxed),
            finds: self.finds.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
            stored: self.stored.load(Ordering::Relaxed),
        }
    }

    /// About how long all of it took.
    pub fn nanos(&self) -> u64 {
        self.work().nanos()
    }
}

/// No other thread adds at the same time, so this needs no locked instruction; if one did, it would only be
/// counted too little.
fn add(counter: &AtomicU64, count: usize) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(count as u64);
    counter.store(sum, Ordering::Relaxed);
}
