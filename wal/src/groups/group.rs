//! One group: the ends of its log, and its runs, which say where its entries lie.
//!
//! Promises: runs are in index order and do not overlap; none is at or below what is compacted, none ends
//! behind the last entry; the group never ends below its own compaction; at most one run per segment
//! beside those that are lost, and of these at most [`HOLES_MAX`]. Counts its runs in the caller's
//! account. Tested by the parent's tests and by every test that opens a log.

use std::collections::VecDeque;

use super::runs::{Account, Run};
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

/// Holes of a group that are told apart; of more, the last one takes in what lies between.
pub(super) const HOLES_MAX: usize = 1_024;
/// Room for so many runs at a time: one per segment is no reason to double.
const RUNS_STEP: usize = 4;

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

    pub(super) fn compact(&mut self, index: u64, term: u64, account: &mut Account) {
        if index < self.compacted {
            return;
        }
        (self.compacted, self.compacted_term) = (index, term);
        while let Some(run) = self.runs.pop_front_if(|run| run.last <= index) {
            account.release(&run);
        }
        if let Some(run) = self.runs.front_mut() {
            run.first = run.first.max(index.saturating_add(1));
        }
        if self.last <= index {
            (self.last, self.last_term) = (index, term);
        }
    }

    /// Entries `first..=last` were in a batch that cannot be read.
    pub(super) fn lose(&mut self, first: u64, last: u64, place: Place, account: &mut Account) {
        let mut first = first.max(self.compacted.saturating_add(1));
        if last < first {
            return;
        }
        self.keep_until(first.saturating_sub(1), account);
        self.last = last;
        let full = self.runs.iter().filter(|run| run.lost).count() >= HOLES_MAX;
        while full && let Some(run) = self.runs.pop_back_if(|run| !run.lost) {
            first = first.min(run.first);
            account.release(&run);
        }
        let joins = |run: &Run| run.lost && run.last.checked_add(1) == Some(first);
        match self.runs.back_mut().filter(|run| joins(run)) {
            Some(run) if full || run.seq == place.seq => run.last = last,
            _ => self.push(Run::new(first, last, 0, place, true), account),
        }
    }

    /// Entries that are neither compacted nor anywhere: a purged segment held them, and the batch that said
    /// them again (or that they are compacted) cannot be read. They are lost; says which.
    pub(super) fn miss(&mut self, place: Place, account: &mut Account) -> Vec<(u64, u64)> {
        let mut missing = Vec::new();
        let mut next = self.compacted.saturating_add(1);
        for run in &self.runs {
            if run.first > next {
                missing.push((next, run.first - 1));
            }
            next = run.last.saturating_add(1);
        }
        if next <= self.last {
            missing.push((next, self.last));
        }
        let holes = self.runs.iter().filter(|run| run.lost).count();
        if holes + missing.len() > HOLES_MAX
            && let Some((first, _)) = missing.first().copied()
        {
            missing = vec![(first, self.last)];
            self.lose(first, self.last, place, account);
            return missing;
        }
        for (first, last) in &missing {
            self.insert_lost(*first, *last, place, account);
        }
        missing
    }

    /// Entries `first..=last`, which no run has, are lost; a hole behind or before them takes them in.
    fn insert_lost(&mut self, first: u64, last: u64, place: Place, account: &mut Account) {
        let at = self.runs.partition_point(|run| run.last < first);
        if let Some(behind) = self.runs.get_mut(at)
            && behind.lost
            && last.checked_add(1) == Some(behind.first)
        {
            behind.first = first;
            return;
        }
        if let Some(before) = at.checked_sub(1).and_then(|at| self.runs.get_mut(at))
            && before.lost
            && before.last.checked_add(1) == Some(first)
        {
            before.last = last;
            return;
        }
        account.add(place.seq);
        self.runs.insert(at, Run::new(first, last, 0, place, true));
    }

    /// Forget entries after `index`.
    pub(super) fn keep_until(&mut self, index: u64, account: &mut Account) {
        while let Some(run) = self.runs.pop_back_if(|run| run.first > index) {
            account.release(&run);
        }
        if let Some(run) = self.runs.back_mut() {
            run.keep_until(index, account);
        }
    }

    pub(super) fn append(&mut self, touch: &Touch, place: Place, account: &mut Account) {
        // Raft never replaces what is compacted (it is committed); replay ignores it, so do we.
        let first = touch.first.max(self.compacted.saturating_add(1));
        let last = touch.last;
        if last < first {
            return;
        }
        self.keep_until(first.saturating_sub(1), account);
        let before = self.runs.back().map(|run| run.last.saturating_add(1));
        if let Some(missing) = before.filter(|missing| *missing < first) {
            if self.runs.iter().any(|run| run.lost) {
                // What is missing went with what is known to be lost.
                self.lose(missing, first - 1, place, account);
            } else {
                // A gap: what lies before it was purged, and is compacted further on in the log.
                self.keep_until(0, account);
            }
        }
        match self.runs.back_mut() {
            Some(run) if run.takes(first, place) => run.extend(last, touch.bytes, place, account),
            _ => self.push(Run::new(first, last, touch.bytes, place, false), account),
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

    fn push(&mut self, run: Run, account: &mut Account) {
        account.add(run.seq);
        if let Some(run) = self.runs.back_mut() {
            run.finish();
        }
        if self.runs.len() == self.runs.capacity() {
            self.runs.reserve_exact(RUNS_STEP);
        }
        self.runs.push_back(run);
    }
}
