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
//! compaction, which is what removes such a tombstone.
//!
//! At its first change a key loses all that the compact revision hides, so what is far behind costs no
//! more to catch up with. While a cursor (snapshot, hash, long read) is open, what it may read stays:
//! only versions newer than its revision go. Without that a checkpoint of a few seconds would leave a
//! backlog of all that was overwritten meanwhile.
//! Tested by `tests/compaction.rs` and the model.

use std::hint::black_box;

use crate::error::Error;
use crate::keys::{FLOOR_NONE, KeyId, Reach};
use crate::revlog::LogOp;
use crate::store::Store;
use crate::version::Version;

/// Changes whose keys are loaded together.
const AHEAD_CHANGES: usize = 16;

/// What looking at so many versions of a key costs, in versions removed: most changes look at two or
/// three, which are somewhere in memory each.
fn cost(looked_at: usize) -> usize {
    looked_at.div_ceil(2)
}

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

    /// Does physical compaction for a budget of versions looked at or removed; returns whether to call
    /// again. While a cursor is open only what is newer than its revision goes; see
    /// [`Store::compaction_pending`]. A version costs well under a microsecond.
    pub fn compact_step(&mut self, budget: usize) -> bool {
        let mut left = self.keys.bury(budget);
        if let Some(floor) = self.pins.newest() {
            return self.thin(left, floor);
        }
        while left > 0 && self.is_log_pending() {
            let group = left.min(AHEAD_CHANGES);
            let mut next = [0; AHEAD_CHANGES];
            let count = self.front_ids(&mut next[..group]);
            if count == 0 {
                left = self.compact_edge(left);
                break;
            }
            self.load(&next[..count]);
            for _ in 0..count {
                let Some(op) = self.log.front() else { break };
                left = self.cut(op.id, op.main, FLOOR_NONE, left);
                if self.keys.has_to_bury() {
                    return true;
                }
                self.remove_if_dead(op);
                self.log.pop_front();
            }
        }
        if !self.is_log_pending() {
            self.keys.give_back(left);
        }
        self.compaction_pending()
    }

    /// Compacts between what open cursors may read, which ends at `floor`, and the compact revision; the
    /// log stays, as what is older still has to be done. Returns whether there is more.
    fn thin(&mut self, budget: usize, floor: i64) -> bool {
        let from = self.thinned.max(floor).saturating_add(1);
        let changes = self.log.since(from);
        let slice: Vec<_> = changes
            .take_while(|op| op.main < self.compacted)
            .take(budget)
            .collect();
        let mut left = budget;
        for group in slice.chunks(AHEAD_CHANGES) {
            let mut ids = [0; AHEAD_CHANGES];
            ids.iter_mut().zip(group).for_each(|(id, op)| *id = op.id);
            self.load(&ids[..group.len()]);
            for op in group {
                // Of a revision with more changes than a slice the rest waits for the cursor's end.
                self.thinned = op.main;
                left = self.cut(op.id, op.main, floor, left);
                if left == 0 {
                    return true;
                }
            }
        }
        // Cursors know keys, not places.
        self.keys.give_back(left) == 0
    }

    /// Removes what cannot be read of a key that changed at `main`. Returns what is left of the budget; if
    /// nothing is, removal may have to go on.
    fn cut(&mut self, id: KeyId, main: i64, floor: i64, budget: usize) -> usize {
        let at = self.compacted;
        let looked_at = self.keys.cut(id, main, Reach { floor, at });
        self.keys.bury(budget.saturating_sub(cost(looked_at)))
    }

    /// The keys of the next changes below the compact revision.
    fn front_ids(&self, ids: &mut [KeyId]) -> usize {
        let changes = self.log.iter().take_while(|op| op.main < self.compacted);
        let into = ids.iter_mut().zip(changes);
        into.map(|(id, op)| *id = op.id).count()
    }

    /// Loads what compacting these keys reads, for all of them at once, so that the waits for memory
    /// overlap.
    fn load(&self, ids: &[KeyId]) {
        let heads = ids.iter().fold(0, |sum, &id| sum ^ self.keys.touch(id));
        black_box(heads);
        black_box(self.keys.touch_chains(ids));
    }

    /// Is there physical work left, even if a cursor holds it up?
    pub fn compaction_pending(&self) -> bool {
        self.is_log_pending() || self.keys.has_to_give_back()
    }

    fn is_log_pending(&self) -> bool {
        let main = self.compacted;
        self.compact_edge != CompactEdge::Done { main }
    }

    /// Changes at the compact revision itself: what is older of their keys goes, they stay. Returns
    /// what is left of the budget.
    fn compact_edge(&mut self, budget: usize) -> usize {
        let main = self.compacted;
        let seen = match self.compact_edge {
            CompactEdge::Walking { main: at, seen } if at == main => seen,
            _ => 0,
        };
        let slice: Vec<_> = self.log.of_revision(main, seen).take(budget).collect();
        let (mut left, mut done) = (budget, 0);
        for &id in &slice {
            if left == 0 {
                break;
            }
            left = self.cut(id, main, FLOOR_NONE, left);
            if self.keys.has_to_bury() {
                break;
            }
            done += 1;
        }
        if done == slice.len() && slice.len() < budget {
            self.keys.compacted();
            self.compact_edge = CompactEdge::Done { main };
        } else {
            let seen = seen + done;
            self.compact_edge = CompactEdge::Walking { main, seen };
        }
        left
    }

    /// A key whose last change, below the compact revision, is a delete is forgotten: with that change, as
    /// the log must not name a key that is none.
    fn remove_if_dead(&mut self, op: LogOp) {
        if !self.keys.newest(op.id).tombstone {
            return;
        }
        let latest = self.keys.latest(op.id);
        if (latest.main, latest.sub) == (op.main, op.sub) {
            self.index.remove(&self.keys, self.keys.key(op.id));
            self.keys.remove(op.id);
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
