//! The store: one writer, all state in memory, etcd's revision rules.
//!
//! A write command is `write_begin`, changes, `write_end`: every change gets the next main revision
//! and its own sub-revision; if there was none, the revision stays. Reading at a revision needs no
//! copy: versions are kept until compaction removes them. The parts are in the modules beside this
//! one: `range`, `write`, `txn`, `long`, `compact`, `lease`, `watch`, `snapshot`, `hash`, `account`.
//!
//! Promise: same commands in the same order give the same answers, revisions and hashes on every
//! replica; there is no clock, no dice, no hasher with a seed. It does not panic on any request.
//! Tested by `tests/`: tables of etcd's semantics, and random histories against a naive model.

use crate::compact::CompactEdge;
use crate::hash::Kept;
use crate::index::Index;
use crate::keys::Keys;
use crate::lease::Leases;
use crate::pins::{Pin, Pins, Span};
use crate::revlog::RevLog;
use crate::tally::Counted;
use crate::watch::Watchers;
use crate::work::{Meter, Work};

/// Settings of a store. Those of leases must be equal on all replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Least time to live of a lease, in seconds; shorter grants are raised to it. etcd derives it
    /// from the election timeout; the default, 2, is what etcd's default timeouts give.
    pub lease_ttl_s_min: i64,
    /// Most bytes of undelivered events that a watcher in sync may hold; above it the watcher falls
    /// back to reading the revision log. Default 1 MiB.
    pub watch_buffer_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            lease_ttl_s_min: 2,
            watch_buffer_bytes_max: 1 << 20,
        }
    }
}

/// Revision of an empty store (etcd's; the first write makes 2).
const REVISION_FIRST: i64 = 1;
/// Compact revision before the first compaction (etcd's, so that `compact(0)` is accepted).
const COMPACTED_NONE: i64 = -1;

/// The revisioned store. See the crate's documentation for an example.
#[derive(Debug)]
pub struct Store {
    pub(crate) config: Config,
    pub(crate) keys: Keys,
    pub(crate) index: Index,
    pub(crate) log: RevLog,
    pub(crate) leases: Leases,
    pub(crate) watchers: Watchers,
    pub(crate) revision: i64,
    pub(crate) compacted: i64,
    pub(crate) compact_edge: CompactEdge,
    /// Changes made by the write command that is going on.
    pub(crate) changes: u32,
    /// Hashes of compact revisions.
    pub(crate) kept: Kept,
    /// Cursors that need what is there to stay.
    pub(crate) pins: Pins,
    /// A write is under way in slices; see `long`.
    pub(crate) open: bool,
    /// What was done so far.
    pub(crate) meter: Meter,
    /// What was asked for so far.
    pub(crate) counted: Counted,
}

/// A state of the store that is read, and what of the past could be read then.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Moment {
    pub revision: i64,
    pub compacted: i64,
}

impl Default for Store {
    fn default() -> Self {
        Store::new()
    }
}

impl Store {
    /// An empty store with the default settings.
    pub fn new() -> Self {
        Store::with_config(Config::default())
    }

    /// An empty store.
    pub fn with_config(config: Config) -> Self {
        Store {
            config,
            keys: Keys::default(),
            index: Index::default(),
            log: RevLog::default(),
            leases: Leases::default(),
            watchers: Watchers::default(),
            revision: REVISION_FIRST,
            compacted: COMPACTED_NONE,
            compact_edge: CompactEdge::Done {
                main: COMPACTED_NONE,
            },
            changes: 0,
            kept: Kept::default(),
            pins: Pins::default(),
            open: false,
            meter: Meter::default(),
            counted: Counted::default(),
        }
    }

    /// What was done since the store was made: the difference of two readings is what lies between them.
    pub fn work(&self) -> Work {
        self.meter.work()
    }

    /// Now, for everybody but the write that is going on.
    pub(crate) fn moment(&self) -> Moment {
        Moment {
            revision: self.revision,
            compacted: self.compacted,
        }
    }

    /// Keeps what a cursor may read that reads at these revisions and those between.
    pub(crate) fn pin(&self, first: i64, last: i64) -> Pin {
        self.pins.pin(Span { first, last })
    }

    /// The current revision: that of the last change; 1 while there was none.
    pub fn revision(&self) -> i64 {
        self.revision
    }

    /// The compact revision, which is the oldest that can be read; -1 before the first compaction,
    /// as etcd reports it.
    pub fn compacted_revision(&self) -> i64 {
        self.compacted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A store can be built or restored on one thread and moved to the core that owns it.
    #[test]
    fn a_store_can_be_sent_and_shared() {
        fn check<T: Send + Sync>(_: &T) {}
        check(&Store::new());
        check(&Store::new().snapshot_begin());
        check(&crate::Restorer::new());
    }
}
