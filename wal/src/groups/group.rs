//! One group: the ends of its log, and its *runs*, which say where its entries lie.
//!
//! Promises: runs are in index order and do not overlap; none is at or below what is compacted, none ends
//! behind the last entry; the group never ends below its own compaction. Counts its runs in the caller's
//! count per segment. Tested by the parent's tests and by every test that opens a log.

use std::collections::{BTreeMap, VecDeque};

use super::touches::Touch;
use crate::batch::Mark;
use crate::record::HardState;
use crate::{GroupId, Lsn};

/// Where a batch lies.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) lsn: Lsn,
    pub(crate) seq: u64,
    pub(crate) offset: u64,
    /// Bytes to read for it: at least its length (before sealing only a bound is known).
    pub(crate) len: u32,
}

/// Consecutive entries of one group in one batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) first: u64,
    pub(crate) last: u64,
    /// Bytes of their payloads.
    pub(crate) bytes: u64,
    pub(crate) place: Place,
    /// They were acknowledged and cannot be read: the group is damaged until they are compacted or
    /// replaced.
    pub(crate) lost: bool,
}

/// One group.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Group {
    pub(crate) hard: HardState,
    pub(crate) last: u64,
    pub(crate) last_term: u64,
    pub(crate) compacted: u64,
    pub(crate) compacted_term: u64,
    /// In index order, without overlap.
    pub(super) runs: VecDeque<Run>,
    /// Of the batch that touched it last: its number, smallest index and number of entries.
    pub(super) batch: (Lsn, u64, u64),
    /// Of the segment being written: the same.
    pub(super) segment: (u64, u64),
}

impl Group {
    pub(super) fn mark(&self, group: GroupId, lsn: Lsn) -> Mark {
        // What an earlier batch held is none of this one's.
        let (_, first, count) = if self.batch.0 == lsn {
            self.batch
        } else {
            (0, 0, 0)
        };
        Mark {
            group,
            hard: self.hard,
            first,
            last: self.last,
            last_term: self.last_term,
            compacted: self.compacted,
            compacted_term: self.compacted_term,
            count,
        }
    }

    pub(super) fn compact(&mut self, index: u64, term: u64, live: &mut BTreeMap<u64, u64>) {
        if index < self.compacted {
            return;
        }
        (self.compacted, self.compacted_term) = (index, term);
        while let Some(run) = self.runs.front().filter(|run| run.last <= index) {
            release(live, run.place.seq);
            self.runs.pop_front();
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(index.saturating_add(1));
        }
        if self.last <= index {
            (self.last, self.last_term) = (index, term);
        }
    }

    /// Entries `first..=last` were in a batch that cannot be read.
    pub(super) fn lose(
        &mut self,
        first: u64,
        last: u64,
        place: Place,
        live: &mut BTreeMap<u64, u64>,
    ) {
        let first = first.max(self.compacted.saturating_add(1));
        if last < first {
            return;
        }
        self.keep_until(first.saturating_sub(1), live);
        *live.entry(place.seq).or_default() += 1;
        self.runs.push_back(Run {
            first,
            last,
            bytes: 0,
            place,
            lost: true,
        });
        self.last = last;
    }

    /// Forget entries after `index`.
    pub(super) fn keep_until(&mut self, index: u64, live: &mut BTreeMap<u64, u64>) {
        while let Some(run) = self.runs.back().filter(|run| run.first > index) {
            release(live, run.place.seq);
            self.runs.pop_back();
        }
        if let Some(run) = self.runs.back_mut() {
            run.last = run.last.min(index);
        }
    }

    pub(super) fn append(&mut self, touch: &Touch, place: Place, live: &mut BTreeMap<u64, u64>) {
        // Raft never replaces what is compacted (it is committed); replay ignores it, so do we.
        let first = touch.first.max(self.compacted.saturating_add(1));
        let last = touch.last;
        if last < first {
            return;
        }
        self.keep_until(first.saturating_sub(1), live);
        if let Some(run) = self
            .runs
            .back()
            .filter(|run| run.last.saturating_add(1) < first)
            .copied()
        {
            if self.runs.iter().any(|run| run.lost) {
                // What is missing went with what is known to be lost.
                self.lose(run.last + 1, first - 1, run.place, live);
            } else {
                // A gap: what lies before it was purged, and is compacted further on in the log.
                self.keep_until(0, live);
            }
        }
        match self.runs.back_mut() {
            Some(run) if run.place == place && !run.lost => {
                run.last = last;
                run.bytes += touch.bytes;
            }
            _ => {
                *live.entry(place.seq).or_default() += 1;
                self.runs.push_back(Run {
                    first,
                    last,
                    bytes: touch.bytes,
                    place,
                    lost: false,
                });
            }
        }
        (self.last, self.last_term) = (last, touch.last_term);
        if self.batch.0 != place.lsn {
            self.batch = (place.lsn, first, 0);
        }
        self.batch.1 = self.batch.1.min(first);
        self.batch.2 = self.batch.2.saturating_add(touch.count);
        self.segment.0 = if self.segment.1 == 0 {
            first
        } else {
            self.segment.0.min(first)
        };
        self.segment.1 = self.segment.1.saturating_add(touch.count);
    }
}

fn release(live: &mut BTreeMap<u64, u64>, seq: u64) {
    if let Some(count) = live.get_mut(&seq) {
        *count -= 1;
        if *count == 0 {
            live.remove(&seq);
        }
    }
}
