//! Compaction: forgetting old versions.
//!
//! The logical part is at once: revisions below the compact revision can no longer be read. The
//! physical part walks the revision log from its old end in slices, so it costs what was compacted
//! and not what is stored. What stays at compact revision C, exactly (etcd 3.5.16 and later):
//!
//! | version of a key                  | stays                                        |
//! |-----------------------------------|----------------------------------------------|
//! | above C                           | yes                                          |
//! | newest at or below C, a put       | yes                                          |
//! | newest at or below C, a tombstone | only if its revision is C itself             |
//! | older than that                   | no                                           |
//!
//! (The tombstone at C is what a watcher that starts at C must still see: etcd #18089, #19179.)
//! The log keeps revision C for the same reason: changes at C are walked once more by the next
//! compaction, which is what removes such a tombstone. Physical removal waits while a cursor
//! (snapshot or hash) is open. Tested by `tests/compaction.rs` and the model.

use std::sync::Arc;

use crate::error::Error;
use crate::keys::KeyId;
use crate::revlog::LogOp;
use crate::store::Store;
use crate::version::Version;

/// How far physical compaction is with the changes at the compact revision, which come last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CompactEdge {
    /// So many of revision `main` are done.
    Walking {
        /// The compact revision.
        main: i64,
        /// Changes done.
        seen: usize,
    },
    /// All is compacted up to `main`.
    Done {
        /// The compact revision.
        main: i64,
    },
}

impl Store {
    /// Makes revisions below `revision` unreadable; `revision` itself stays readable. The memory
    /// comes back through [`Store::compact_step`].
    pub fn compact(&mut self, revision: i64) -> Result<(), Error> {
        if revision <= self.compacted {
            return Err(Error::Compacted {
                requested: revision,
                compacted: self.compacted,
            });
        }
        if revision > self.revision {
            return Err(Error::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        self.compacted = revision;
        Ok(())
    }

    /// Does up to `budget` changes' worth of physical compaction; returns whether to call again.
    /// Does nothing and returns false while a cursor is open; see
    /// [`Store::compaction_pending`]. A change costs well under a microsecond.
    pub fn compact_step(&mut self, budget: usize) -> bool {
        if self.pinned() {
            return false;
        }
        for left in (1..=budget).rev() {
            match self.log.front().filter(|op| op.main < self.compacted) {
                Some(op) => self.compact_change(op),
                None => {
                    self.compact_edge(left);
                    break;
                }
            }
            self.log.pop_front();
        }
        self.compaction_pending()
    }

    /// Is there physical work left, even if a cursor holds it up?
    pub fn compaction_pending(&self) -> bool {
        self.compact_edge
            != CompactEdge::Done {
                main: self.compacted,
            }
    }

    /// Is a cursor open?
    pub(crate) fn pinned(&self) -> bool {
        Arc::strong_count(&self.pin) > 1
    }

    /// Changes at the compact revision itself: what is older of their keys goes, they stay.
    fn compact_edge(&mut self, budget: usize) {
        let main = self.compacted;
        let seen = match self.compact_edge {
            CompactEdge::Walking { main: at, seen } if at == main => seen,
            _ => 0,
        };
        let at_edge = self.log.since(main).take_while(|op| op.main == main);
        let slice: Vec<_> = at_edge.skip(seen).take(budget).map(|op| op.id).collect();
        slice.iter().for_each(|&id| {
            self.keys.drop_older_than(id, main);
        });
        self.compact_edge = if slice.len() < budget {
            CompactEdge::Done { main }
        } else {
            CompactEdge::Walking {
                main,
                seen: seen + slice.len(),
            }
        };
    }

    /// One change below the compact revision: it hides everything older of its key. If it is a
    /// delete, it hides itself too.
    fn compact_change(&mut self, op: LogOp) {
        self.keys.drop_older_than(op.id, op.main);
        let Some(version) = self.keys.at(op.id, op.main) else {
            return;
        };
        // The same key changed again in this revision: the later change decides.
        if !version.tombstone || version.main != op.main || version.sub != op.sub {
            return;
        }
        if self.keys.latest(op.id).main == op.main {
            self.index.remove(&self.keys, self.keys.key(op.id));
            self.keys.remove(op.id);
        } else {
            self.keys.drop_older_than(op.id, op.main + 1);
        }
    }

    /// The versions of a key that can be read at some revision from `compacted` to `upto`, plus a
    /// tombstone at `compacted`: the logical content, whatever physical compaction has done. Only
    /// those with a main revision of at least `from`.
    pub(crate) fn readable(
        &self,
        id: KeyId,
        compacted: i64,
        upto: i64,
        from: i64,
    ) -> impl Iterator<Item = Version<'_>> {
        let base = self
            .keys
            .at(id, compacted)
            .filter(|version| version.main >= from);
        let lowest = match base {
            Some(version) if version.main == compacted => compacted,
            _ => compacted.saturating_add(1),
        };
        let survivor = base.filter(|version| version.main < compacted && !version.tombstone);
        let later = self.keys.since(id, lowest.max(from));
        survivor
            .into_iter()
            .chain(later.take_while(move |version| version.main <= upto))
    }
}
