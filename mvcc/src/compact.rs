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
//! more to catch up with. What an open cursor (snapshot, hash, long read) may read stays, and nothing else
//! does, older or newer: of each key the version at a range's revision, and all between the two ends of a
//! snapshot or hash. The log is given up as without cursors; keys of which a cursor holds something are
//! listed (see `pins`) and looked at again when cursors have gone.
//! Tested by `tests/compaction.rs`, `tests/cursors.rs` and the model.

use std::hint::black_box;

use crate::error::Error;
use crate::keys::{Cut, Needs};
use crate::names::KeyId;
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
        self.keep_hash(revision);
        self.compacted = revision;
        Ok(())
    }

    /// Does physical compaction for a budget of versions looked at or removed; returns whether to call
    /// again. What open cursors read stays until they have gone. A version costs well under a microsecond.
    pub fn compact_step(&mut self, budget: usize) -> bool {
        let left = self.keys.bury(budget);
        let left = self.keep_hash_step(left);
        self.pins.look(self.compacted);
        let spans = self.pins.take_spans();
        let needs = Needs {
            from: self.compacted,
            spans: &spans,
        };
        let left = self.compact_log(needs, left);
        let left = self.sweep(needs, left);
        self.pins.give_back(spans);
        if !self.has_to_walk() {
            self.keys.give_back(left);
        }
        self.compaction_pending()
    }

    /// The changes below the compact revision, and those at it. Returns what is left of the budget.
    fn compact_log(&mut self, needs: Needs<'_>, budget: usize) -> usize {
        let mut left = budget;
        while left > 0 && self.is_log_pending() {
            let group = left.min(AHEAD_CHANGES);
            let mut next = [0; AHEAD_CHANGES];
            let count = self.front_ids(&mut next[..group]);
            if count == 0 {
                return self.compact_edge(needs, left);
            }
            self.load(&next[..count]);
            for _ in 0..count {
                let Some(op) = self.log.front() else { break };
                let cut;
                (left, cut) = self.cut(op.id, Some(op.main), needs, left);
                let Some(cut) = cut else { return 0 };
                self.hold_or_forget(op.id, cut, Some(op));
                self.log.pop_front();
            }
        }
        left
    }

    /// Looks again at keys of which something was held for cursors that may have gone.
    fn sweep(&mut self, needs: Needs<'_>, budget: usize) -> usize {
        let mut left = budget;
        while left > 0
            && let Some(id) = self.pins.next()
        {
            let cut;
            (left, cut) = self.cut(id, None, needs, left);
            match cut {
                None => {
                    self.pins.put_back(id);
                    return 0;
                }
                Some(cut) if cut.held => self.pins.keep(id),
                Some(cut) => {
                    self.keys.set_held(id, false);
                    self.hold_or_forget(id, cut, None);
                }
            }
        }
        left
    }

    /// Removes what nobody reads of a key, for its change at `main` if that is why. Returns what is left of
    /// the budget; without a result removal has to go on.
    fn cut(
        &mut self,
        id: KeyId,
        main: Option<i64>,
        needs: Needs<'_>,
        budget: usize,
    ) -> (usize, Option<Cut>) {
        let mut left = budget;
        loop {
            let cut = self.keys.cut(id, main, needs);
            self.meter.look(cost(cut.looked_at));
            left = self.keys.bury(left.saturating_sub(cost(cut.looked_at)));
            if self.keys.has_to_bury() || cut.more && left == 0 {
                return (0, None);
            }
            if !cut.more {
                return (left, Some(cut));
            }
        }
    }

    /// Lists a key of which a cursor holds something; forgets one that is deleted, with its last change, as
    /// neither the log nor that list may name a key that is none.
    fn hold_or_forget(&mut self, id: KeyId, cut: Cut, change: Option<LogOp>) {
        let is_listed = self.keys.is_held(id);
        if cut.held {
            self.keys.set_held(id, true);
            return self.pins.hold(id, !is_listed);
        }
        if !cut.dead || is_listed {
            return;
        }
        let latest = self.keys.latest(id);
        let is_last = match change.or_else(|| self.log.front()) {
            Some(op) if change.is_some() => (latest.main, latest.sub) == (op.main, op.sub),
            Some(next) => latest.main < next.main,
            None => true,
        };
        if is_last {
            self.index.remove(&self.keys, self.keys.key(id));
            self.keys.remove(id);
        }
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

    /// Is there physical work left that can be done now?
    pub fn compaction_pending(&self) -> bool {
        self.has_to_walk() || self.keys.has_to_give_back()
    }

    /// Up to which compact revision everything is removed that no open cursor reads.
    pub fn compacted_physically(&self) -> i64 {
        let oldest = self.log.front().filter(|_| self.is_log_pending());
        oldest.map_or(self.compacted, |op| op.main - 1)
    }

    pub(crate) fn has_to_walk(&self) -> bool {
        self.is_log_pending() || self.pins.has_to_sweep()
    }

    fn is_log_pending(&self) -> bool {
        let main = self.compacted;
        self.compact_edge != CompactEdge::Done { main }
    }

    /// Changes at the compact revision itself: what is older of their keys goes, they stay. Returns
    /// what is left of the budget.
    fn compact_edge(&mut self, needs: Needs<'_>, budget: usize) -> usize {
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
            let cut;
            (left, cut) = self.cut(id, Some(main), needs, left);
            let Some(cut) = cut else { break };
            self.hold_or_forget(id, cut, None);
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
