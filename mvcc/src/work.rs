//! What the store has done, counted: keys and versions looked at, changes made, bytes copied.
//!
//! Whoever shares a thread with the store bounds what it does at a time by this, not by a clock: the same
//! requests cost the same everywhere, so a test can say that none of them takes too long. Counting is three
//! plain additions; the counters are atomic only for the store to be shared.
//!
//! The weights are those of the reference machine (docs/performance.md: a put 0.6 to 1.0 µs, a key passed by
//! a range 0.1 to 0.4 µs, values copied at 4 to 6 GB/s), rounded up, once.
//! Knows nothing of what is counted. Tested by `tests/long.rs` and node's `tests/turns`.

use std::sync::atomic::{AtomicU64, Ordering};

/// A key or a version looked at.
pub const LOOK_NANOS: u64 = 250;
/// A key changed: found, written, counted, logged.
pub const CHANGE_NANOS: u64 = 1_000;
/// Bytes copied in a nanosecond.
pub const BYTES_PER_NANO: u64 = 4;

/// Work done, in counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Keys, versions and changes looked at.
    pub looks: u64,
    /// Changes made.
    pub changes: u64,
    /// Bytes copied or hashed.
    pub bytes: u64,
}

impl Work {
    /// About how long it takes.
    pub fn nanos(self) -> u64 {
        self.looks * LOOK_NANOS + self.changes * CHANGE_NANOS + self.bytes / BYTES_PER_NANO
    }
}

/// The counters of a store.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    looks: AtomicU64,
    changes: AtomicU64,
    bytes: AtomicU64,
}

impl Meter {
    pub fn look(&self, count: usize) {
        add(&self.looks, count);
    }

    pub fn change(&self, count: usize) {
        add(&self.changes, count);
    }

    pub fn bytes(&self, count: usize) {
        add(&self.bytes, count);
    }

    pub fn work(&self) -> Work {
        Work {
            looks: self.looks.load(Ordering::Relaxed),
            changes: self.changes.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
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
