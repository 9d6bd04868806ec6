//! The tail of the log that storage does not have for sure: entries and at most one snapshot.
//!
//! Promises: what is here overrides storage; an entry stays until storage is known to have exactly it.
//! Part of it may be on its way to storage ("in progress") and is not handed out twice.
//! Must never know: storage, commit indexes, terms of office.
//! Tests: below, against the cases of an append that overtakes itself.

use std::collections::VecDeque;

use crate::logger::{Log, info};
use crate::message::{Entry, EntryId, Snapshot};

/// An emptied tail keeps room for this many entries, so that a busy group does not allocate for every
/// batch; more is given back, for there may be many thousand idle groups.
const CAPACITY_KEPT_MAX: usize = 256;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct Unstable {
    /// The snapshot that was received, until storage has it.
    pub(crate) snapshot: Option<Box<Snapshot>>,
    snapshot_in_progress: bool,
    /// `entries[i]` has index `offset + i`.
    entries: VecDeque<Entry>,
    pub(crate) offset: u64,
    /// Entries before this index are being written. `offset <= offset_in_progress`.
    pub(crate) offset_in_progress: u64,
    log: Log,
}

impl Unstable {
    pub(crate) fn new(offset: u64, log: Log) -> Unstable {
        Unstable {
            snapshot: None,
            snapshot_in_progress: false,
            entries: VecDeque::new(),
            offset,
            offset_in_progress: offset,
            log,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The term of entry `index`, if it (or a snapshot that ends there) is here.
    pub(crate) fn term(&self, index: u64) -> Option<u64> {
        if index >= self.offset {
            return self
                .entries
                .get((index - self.offset) as usize)
                .map(|entry| entry.term);
        }
        let meta = &self.snapshot.as_ref()?.meta;
        (meta.index == index).then_some(meta.term)
    }

    /// How many entries are not yet on their way to storage.
    pub(crate) fn new_count(&self) -> usize {
        self.entries.len() - self.in_progress_count()
    }

    /// The entries that are not yet on their way to storage.
    pub(crate) fn new_entries(&self) -> Vec<Entry> {
        self.entries
            .range(self.in_progress_count()..)
            .cloned()
            .collect()
    }

    /// The snapshot, if it is not yet on its way to storage.
    pub(crate) fn new_snapshot(&self) -> Option<&Snapshot> {
        self.snapshot
            .as_deref()
            .filter(|_| !self.snapshot_in_progress)
    }

    /// All that is here is now on its way to storage.
    pub(crate) fn accept_in_progress(&mut self) {
        self.offset_in_progress = self.offset + self.entries.len() as u64;
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
                "entry at (index,term)=({},{}) mismatched with entry at ({},{term}) in unstable log; ignoring",
                id.index,
                id.term,
                id.index
            );
            return;
        }
        self.entries.drain(..(id.index + 1 - self.offset) as usize);
        self.offset = id.index + 1;
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
        self.entries.clear();
        self.release_memory();
        self.snapshot = Some(snapshot);
        self.snapshot_in_progress = false;
    }

    /// Adds one entry at the end. The caller knows that it is the next one.
    pub(crate) fn push(&mut self, entry: Entry) {
        self.entries.push_back(entry);
    }

    /// Takes the last `count` entries back, which nobody has seen.
    pub(crate) fn pop(&mut self, count: usize) {
        self.entries
            .truncate(self.entries.len().saturating_sub(count));
    }

    /// Puts `entries` in place of all from the first of them on. They are consecutive and not empty.
    pub(crate) fn truncate_and_append(&mut self, first: u64, entries: impl Iterator<Item = Entry>) {
        let end = self.offset + self.entries.len() as u64;
        if first == end {
            // The common case: nothing to replace.
        } else if first <= self.offset {
            info!(self.log, "replace the unstable entries from index {first}");
            self.entries.clear();
            self.offset = first;
            self.offset_in_progress = first;
        } else {
            info!(
                self.log,
                "truncate the unstable entries before index {first}"
            );
            self.entries.truncate((first - self.offset) as usize);
            // What replaces them is not being written yet.
            self.offset_in_progress = self.offset_in_progress.min(first);
        }
        self.entries.extend(entries);
    }

    /// The entries in `lo..hi`, as far as they are here, up to `max_bytes` but at least one.
    pub(crate) fn slice(&self, lo: u64, hi: u64, max_bytes: u64) -> Vec<Entry> {
        let from = (lo.saturating_sub(self.offset) as usize).min(self.entries.len());
        let to = (hi.saturating_sub(self.offset) as usize).clamp(from, self.entries.len());
        let mut size = 0u64;
        let fitting = self.entries.range(from..to).take_while(|entry| {
            let is_first = size == 0;
            size = size.saturating_add(entry.size());
            is_first || size <= max_bytes
        });
        let count = fitting.count();
        self.entries.range(from..from + count).cloned().collect()
    }

    fn in_progress_count(&self) -> usize {
        (self.offset_in_progress - self.offset) as usize
    }

    fn release_memory(&mut self) {
        if self.entries.is_empty() {
            self.entries.shrink_to(CAPACITY_KEPT_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::SnapshotMeta;

    fn entries(range: std::ops::Range<u64>, term: u64) -> impl Iterator<Item = Entry> {
        range.map(move |index| Entry {
            index,
            term,
            ..Entry::default()
        })
    }

    fn unstable(offset: u64, end: u64) -> Unstable {
        let mut unstable = Unstable::new(offset, Log::default());
        unstable.truncate_and_append(offset, entries(offset..end, 1));
        unstable
    }

    #[test]
    fn what_is_in_progress_is_handed_out_once() {
        let mut unstable = unstable(5, 8);
        assert_eq!(unstable.new_entries().len(), 3);
        unstable.accept_in_progress();
        assert_eq!(unstable.new_count(), 0);
        unstable.truncate_and_append(8, entries(8..9, 1));
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
        unstable.truncate_and_append(6, entries(6..7, 2));
        assert_eq!((unstable.offset_in_progress, unstable.new_count()), (6, 1));
        // The acknowledgement of the replaced entry proves nothing about the new one.
        unstable.stable_to(EntryId { term: 1, index: 6 });
        assert_eq!(unstable.len(), 2);
        unstable.truncate_and_append(3, entries(3..4, 3));
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
        let unstable = unstable(5, 8);
        let size = unstable.new_entries()[0].size();
        assert_eq!(unstable.slice(5, 8, u64::MAX).len(), 3);
        assert_eq!(unstable.slice(5, 8, 2 * size).len(), 2);
        assert_eq!(unstable.slice(5, 8, 0).len(), 1);
        assert_eq!(unstable.slice(7, 100, u64::MAX).len(), 1);
        assert_eq!(unstable.slice(9, 100, u64::MAX).len(), 0);
    }
}
