//! The tail of the log that storage does not have for sure: entries and at most one snapshot.
//!
//! Promises: what is here overrides storage; an entry stays until storage is known to have exactly it.
//! Part of it may be on its way to storage ("in progress") and is not handed out twice.
//! Must never know: storage, commit indexes, terms of office.
//! Tests: below, against the cases of an append that overtakes itself.

use std::collections::VecDeque;

use crate::entries::Entries;
use crate::logger::{Log, info};
use crate::message::{Entry, EntryId, Snapshot};

/// An emptied tail keeps room for this many runs, so that a busy group does not allocate for every
/// batch; more is given back, for there may be many thousand idle groups.
const CAPACITY_KEPT_MAX: usize = 16;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Unstable {
    /// The snapshot that was received, until storage has it.
    pub(crate) snapshot: Option<Box<Snapshot>>,
    snapshot_in_progress: bool,
    /// Runs as they came, each following the one before, none empty. They are shared with the messages
    /// that carry them.
    runs: VecDeque<Entries>,
    /// Index of the first entry, and the index after the last one.
    pub(crate) offset: u64,
    end: u64,
    /// Entries before this index are being written. `offset <= offset_in_progress`.
    pub(crate) offset_in_progress: u64,
    log: Log,
}

impl Unstable {
    pub(crate) fn new(offset: u64, log: Log) -> Unstable {
        Unstable {
            snapshot: None,
            snapshot_in_progress: false,
            runs: VecDeque::new(),
            offset,
            end: offset,
            offset_in_progress: offset,
            log,
        }
    }

    pub(crate) fn len(&self) -> usize {
        (self.end - self.offset) as usize
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.end == self.offset
    }

    /// Whether the tail is in order, and `last` is the last index of the log, with it or without.
    pub(crate) fn ends_at(&self, last: u64) -> bool {
        let is_ordered =
            self.offset <= self.offset_in_progress && self.offset_in_progress <= self.end;
        let first = self.runs.front().map_or(self.end, |run| run[0].index);
        let end = |run: &Entries| run[0].index + run.len() as u64;
        let end = self.runs.back().map_or(self.offset, end);
        is_ordered && self.end == last + 1 && (first, end) == (self.offset, self.end)
    }

    /// The term of entry `index`, if it (or a snapshot that ends there) is here.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index >= self.offset {
            let run = self.runs.get(self.run_of(index))?;
            return Some(run[(index - run[0].index) as usize].term);
        }
        let meta = &self.snapshot.as_ref()?.meta;
        (meta.index == index).then_some(meta.term)
    }

    /// How many entries are not yet on their way to storage.
    pub(crate) fn new_count(&self) -> usize {
        (self.end - self.offset_in_progress) as usize
    }

    /// The entries that are not yet on their way to storage: from now on, one run.
    pub(crate) fn new_entries(&mut self) -> Entries {
        let (first, end) = (self.offset_in_progress, self.end);
        let new = self.slice(first, end, u64::MAX);
        if !new.is_empty() {
            self.cut_to(first);
            self.push(new.clone());
        }
        new
    }

    /// The snapshot, if it is not yet on its way to storage.
    pub(crate) fn new_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot
            .as_deref()
            .filter(|_| !self.snapshot_in_progress)
    }

    /// All that is here is now on its way to storage.
    pub(crate) fn accept_in_progress(&mut self) {
        self.offset_in_progress = self.end;
        self.snapshot_in_progress = self.snapshot.is_some();
    }

    /// Storage has the entries up to `id`; nothing on its way there can overwrite them.
    pub(crate) fn stable_to(&mut self, id: EntryId) {
        let Some(term) = self.term(id.index) else {
            let index = id.index;
            info!(
                self.log,
                "entry at index {index} missing from unstable log; ignoring"
            );
            return;
        };
        if id.index < self.offset {
            let index = id.index;
            info!(
                self.log,
                "entry at index {index} matched unstable snapshot; ignoring"
            );
            return;
        }
        if term != id.term {
            // Replaced while its predecessor was being written.
            info!(
                self.log,
                "entry at (index,term)=({},{}) mismatched with entry at ({},{term}) in unstable log; \
                ignoring",
                id.index,
                id.term,
                id.index
            );
            return;
        }
        self.offset = id.index + 1;
        while let Some(run) = self.runs.pop_front() {
            let known = (self.offset - run[0].index) as usize;
            if known < run.len() {
                self.runs.push_front(run.slice(known..run.len()));
                break;
            }
        }
        self.offset_in_progress = self.offset_in_progress.max(self.offset);
        self.release_memory();
    }

    /// Storage has the snapshot that ends at `index`.
    pub(crate) fn stable_snapshot_to(&mut self, index: u64) {
        if self
            .snapshot
            .as_ref()
            .is_some_and(|snapshot| snapshot.meta.index == index)
        {
            self.snapshot = None;
            self.snapshot_in_progress = false;
        }
    }

    /// Everything is replaced by `snapshot`.
    pub(crate) fn restore(&mut self, snapshot: Box<Snapshot>) {
        self.offset = snapshot.meta.index + 1;
        self.offset_in_progress = self.offset;
        self.end = self.offset;
        self.runs.clear();
        self.release_memory();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Adds entries at the end. The caller knows that they are the next ones.
    pub(crate) fn push(&mut self, entries: Entries) {
        if !entries.is_empty() {
            self.end += entries.len() as u64;
            self.runs.push_back(entries);
        }
    }

    /// Drops the entries from `index` on.
    pub(crate) fn cut_to(&mut self, index: u64) {
        self.end = self.end.min(index.max(self.offset));
        while let Some(run) = self.runs.pop_back() {
            let kept = self.end.saturating_sub(run[0].index) as usize;
            if kept > 0 {
                self.runs.push_back(run.slice(0..kept));
                break;
            }
        }
    }

    /// Puts `entries` in place of all from the first of them on. They are consecutive and not empty.
    pub(crate) fn truncate_and_append(&mut self, entries: Entries) {
        let first = entries.first().map_or(self.end, |entry| entry.index);
        if first == self.end {
            // The common case: nothing to replace.
        } else if first <= self.offset {
            info!(self.log, "replace the unstable entries from index {first}");
            self.runs.clear();
            self.offset = first;
            self.offset_in_progress = first;
            self.end = first;
        } else {
            info!(
                self.log,
                "truncate the unstable entries before index {first}"
            );
            self.cut_to(first);
            // What replaces them is not being written yet.
            self.offset_in_progress = self.offset_in_progress.min(first);
        }
        self.push(entries);
    }

    /// The entries in `lo..hi`, as far as they are here, up to `max_bytes` but at least one. Not copied
    /// if they are in one run, as batches are that are sent as they came.
    pub(crate) fn slice(&self, lo: u64, hi: u64, max_bytes: u64) -> Entries {
        let (lo, hi) = (lo.max(self.offset), hi.min(self.end));
        let at = self.run_of(lo);
        let Some(run) = self.runs.get(at).filter(|_| lo < hi) else {
            return Entries::new();
        };
        let skipped = (lo - run[0].index) as usize;
        let wanted = (hi - lo) as usize;
        let mut size = 0u64;
        let mut fits = |entry: &&Entry| {
            let is_first = size == 0;
            size = size.saturating_add(entry.size());
            is_first || size <= max_bytes
        };
        let first: usize = run[skipped..]
            .iter()
            .take(wanted)
            .take_while(&mut fits)
            .count();
        if first == wanted || skipped + first < run.len() {
            return run.slice(skipped..skipped + first);
        }
        let more = self.runs.range(at + 1..).flat_map(|run| run.iter());
        let more = more.take(wanted - first).take_while(fits);
        run[skipped..].iter().chain(more).cloned().collect()
    }

    /// The position of the run that has `index`, or would have it.
    fn run_of(&self, index: u64) -> usize {
        let is_before = |run: &Entries| run[0].index + run.len() as u64 <= index;
        match self.runs.front() {
            // The common case: a batch or two are under way.
            Some(front) if !is_before(front) => 0,
            _ => self.runs.partition_point(is_before),
        }
    }

    fn release_memory(&mut self) {
        if self.runs.is_empty() {
            self.runs.shrink_to(CAPACITY_KEPT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SnapshotMeta;

    fn entries(range: std::ops::Range<u64>, term: u64) -> Entries {
        let entries = range.map(|index| Entry {
            index,
            term,
            ..Entry::default()
        });
        entries.collect()
    }

    fn unstable(offset: u64, end: u64) -> Unstable {
        let mut unstable = Unstable::new(offset, Log::default());
        unstable.truncate_and_append(entries(offset..end, 1));
        unstable
    }

    #[test]
    fn what_is_in_progress_is_handed_out_once() {
        let mut unstable = unstable(5, 8);
        assert_eq!(unstable.new_entries().len(), 3);
        unstable.accept_in_progress();
        assert_eq!(unstable.new_count(), 0);
        unstable.truncate_and_append(entries(8..9, 1));
        assert_eq!(unstable.new_entries()[0].index, 8);
        unstable.stable_to(EntryId { term: 1, index: 7 });
        assert_eq!(
            (unstable.offset, unstable.len(), unstable.new_count()),
            (8, 1, 1)
        );
    }

    #[test]
    fn replaced_entries_are_new_again() {
        let mut unstable = unstable(5, 8);
        unstable.accept_in_progress();
        unstable.truncate_and_append(entries(6..7, 2));
        assert_eq!((unstable.offset_in_progress, unstable.new_count()), (6, 1));
        // The acknowledgement of the replaced entry proves nothing about the new one.
        unstable.stable_to(EntryId { term: 1, index: 6 });
        assert_eq!(unstable.len(), 2);
        unstable.truncate_and_append(entries(3..4, 3));
        assert_eq!(
            (unstable.offset, unstable.offset_in_progress, unstable.len()),
            (3, 3, 1)
        );
    }

    #[test]
    fn a_snapshot_replaces_all_and_answers_for_its_last_entry() {
        let mut unstable = unstable(5, 8);
        let meta = SnapshotMeta {
            index: 20,
            term: 4,
            ..SnapshotMeta::default()
        };
        unstable.restore(Box::new(Snapshot {
            meta,
            ..Snapshot::default()
        }));
        assert_eq!((unstable.term(20), unstable.term(19)), (Some(4), None));
        assert!(unstable.new_snapshot().is_some());
        unstable.accept_in_progress();
        assert!(unstable.new_snapshot().is_none());
        unstable.stable_to(EntryId { term: 4, index: 20 });
        assert_eq!(unstable.offset, 21, "the snapshot is not an entry");
        unstable.stable_snapshot_to(19);
        assert!(unstable.snapshot.is_some());
        unstable.stable_snapshot_to(20);
        assert!(unstable.snapshot.is_none());
    }

    #[test]
    fn slices_are_clipped_and_limited() {
        let mut unstable = unstable(5, 8);
        let size = unstable.new_entries()[0].size();
        assert_eq!(unstable.slice(5, 8, u64::MAX).len(), 3);
        assert_eq!(unstable.slice(5, 8, 2 * size).len(), 2);
        assert_eq!(unstable.slice(5, 8, 0).len(), 1);
        assert_eq!(unstable.slice(7, 100, u64::MAX).len(), 1);
        assert_eq!(unstable.slice(9, 100, u64::MAX).len(), 0);
    }
}
