//! What the store holds and what it takes, by class.
//!
//! Bytes are those asked of the allocator (its own rounding comes on top, a few per cent); maps of
//! leases and watchers are estimated. Whoever enforces a quota reads [`MemoryBytes::total`].
//! Tested by `tests/account.rs`.

use std::fmt;

use crate::store::Store;

/// A store in numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Keys that exist at the current revision.
    pub keys: u64,
    /// Keys held, deleted ones that are not yet compacted included.
    pub keys_held: u64,
    /// Versions held, tombstones included.
    pub versions: u64,
    /// Watchers.
    pub watchers: u64,
    /// Watchers that are catching up.
    pub watchers_behind: u64,
    /// Leases.
    pub leases: u64,
    /// Memory.
    pub bytes: MemoryBytes,
}

/// Heap bytes by class.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryBytes {
    /// Keys, each with what the next put has to know.
    pub keys: u64,
    /// Versions, the newest and older ones.
    pub versions: u64,
    /// Kept for versions beside those: room to grow into, and versions that compaction removed and
    /// that are not yet given back (at most half of what lives, but for what compaction is about to
    /// give back).
    pub spare: u64,
    /// Emptied by compaction and kept for versions to come, until [`Store::trim`] gives it back.
    pub idle: u64,
    /// The ordered index and the table of keys.
    pub index: u64,
    /// The revision log.
    pub log: u64,
    /// Leases and their attachments.
    pub leases: u64,
    /// Watchers and events they have not been asked for.
    pub watch: u64,
}

impl MemoryBytes {
    /// All classes.
    pub fn total(&self) -> u64 {
        self.in_use() + self.idle
    }

    /// All classes but what is idle: what a quota should look at, as the next versions take no more.
    pub fn in_use(&self) -> u64 {
        self.keys + self.versions + self.spare + self.index + self.log + self.leases + self.watch
    }
}

/// A report for people: counts, then memory by class with its share.
impl fmt::Display for Stats {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let counts = [
            ("keys", self.keys),
            (
                "deleted, not yet compacted",
                self.keys_held.saturating_sub(self.keys),
            ),
            ("versions", self.versions),
            ("leases", self.leases),
            ("watchers", self.watchers),
            ("watchers catching up", self.watchers_behind),
        ];
        for (name, count) in counts {
            writeln!(f, "{name:<28}{count:>14}")?;
        }
        let MemoryBytes {
            keys,
            versions,
            spare,
            idle,
            index,
            log,
            leases,
            watch,
        } = self.bytes;
        let total = self.bytes.total();
        let classes = [
            ("bytes of keys", keys),
            ("bytes of versions", versions),
            ("bytes to give back or grow", spare),
            ("bytes idle", idle),
            ("bytes of index", index),
            ("bytes of revision log", log),
            ("bytes of leases", leases),
            ("bytes of watchers", watch),
        ];
        for (name, bytes) in classes {
            let share = bytes as f64 * 100.0 / total.max(1) as f64;
            writeln!(f, "{name:<28}{bytes:>14}{share:>6.1} %")?;
        }
        write!(f, "{:<28}{total:>14}", "bytes in all")
    }
}

impl Store {
    /// Gives up to about `bytes_max` of idle memory back to the allocator; returns whether there is more.
    /// Whoever has a clock calls it now and then with a little: an allocator may put giving back off and
    /// then do a second's worth of it in one call (mimalloc takes about 0.1 µs for a page).
    pub fn trim(&mut self, bytes_max: usize) -> bool {
        self.keys.trim(bytes_max)
    }

    /// Are the numbers that name keys and versions nearly used up (some 31 GiB of keys, or 512 GiB of
    /// versions)? That depends on how far physical compaction is, so it is to be asked before a command is
    /// agreed on, and changes nothing afterwards: a write that replicas have agreed on is not refused by one
    /// of them. If numbers should run out all the same, that write fails with [`crate::Error::NoSpace`], and
    /// whoever drives the store must not go on.
    pub fn is_full(&self) -> bool {
        self.keys.is_full()
    }

    /// Memory by class. A few additions: cheap enough to ask before every batch of writes.
    pub fn memory(&self) -> MemoryBytes {
        let totals = self.keys.totals();
        MemoryBytes {
            keys: totals.key_bytes,
            versions: totals.version_bytes,
            spare: totals.spare_bytes,
            idle: totals.idle_bytes,
            index: (self.index.heap_bytes() + self.keys.slot_bytes() + self.pins.heap_bytes())
                as u64,
            log: self.log.heap_bytes() as u64,
            leases: self.leases.heap_bytes() as u64,
            watch: self.watchers.heap_bytes() as u64,
        }
    }

    /// The store in numbers: a few additions.
    pub fn stats(&self) -> Stats {
        Stats {
            keys: self.index.live() as u64,
            keys_held: self.keys.len() as u64,
            versions: self.keys.totals().versions,
            watchers: self.watchers.len() as u64,
            watchers_behind: self.watchers.behind() as u64,
            leases: self.leases.len() as u64,
            bytes: self.memory(),
        }
    }
}
