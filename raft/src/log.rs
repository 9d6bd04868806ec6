//! The log: storage with the unstable tail over it, and how far it is committed and applied.
//!
//! Promises: `applied <= applying <= committed <= last index`. The last entry's id is kept here, so
//! that asking for it never touches storage. Whoever would break this is told so by an error.
//! Must never know: peers, roles, messages.
//! Tests: below; the matching rules of the raft paper's 5.3 in `tests/cluster.rs`.

use std::{fmt, iter};

use crate::check::NUMBER_MAX;
use crate::entries::Entries;
use crate::logger::{Log, info};
use crate::message::{Entry, EntryId, Snapshot};
use crate::planted::{Bug, planted};
use crate::storage::{Storage, StorageError, limit_size};
use crate::trace::{Trace, TraceEvent};
use crate::unstable::Unstable;

/// See the file's head.
#[derive(Debug)]
pub(crate) struct RaftLog<S: Storage> {
    pub(crate) storage: S,
    pub(crate) unstable: Unstable,
    last: EntryId,
    /// Known to be stored by a quorum.
    pub(crate) committed: u64,
    /// Handed out to be applied.
    pub(crate) applying: u64,
    /// Reported applied.
    pub(crate) applied: u64,
    /// Bytes handed out and not reported applied: the limit, and how many there are.
    applying_size_max: u64,
    applying_size: u64,
    /// No more is handed out until something is reported applied.
    applying_paused: bool,
    /// Storage said that it has to fetch what is to be applied next.
    pub(crate) waits_for_storage: bool,
    log: Log,
    trace: Trace,
}

/// What became of an append.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Appended {
    /// The log now ends a match with the leader's at this index.
    To(u64),
    /// The entry before does not match.
    Mismatch,
    /// The entry at this index is committed here, and another one was named.
    ConflictsWithCommitted(u64),
}

impl<S: Storage> RaftLog<S> {
    pub(crate) fn new(
        storage: S,
        applying_size_max: u64,
        log: Log,
        trace: Trace,
    ) -> Result<Self, StorageError> {
        let first = storage.first_index()?;
        let last = storage.last_index()?;
        let before = first.saturating_sub(1);
        let term = storage.term(last)?;
        if last < before || last > NUMBER_MAX || term > NUMBER_MAX {
            return Err(StorageError::Other(format!(
                "the stored log {first}..={last} ends in term {term}: that cannot be"
            )));
        }
        Ok(RaftLog {
            unstable: Unstable::new(last + 1, log.clone()),
            last: EntryId { term, index: last },
            storage,
            committed: before,
            applying: before,
            applied: before,
            applying_size_max,
            applying_size: 0,
            applying_paused: false,
            waits_for_storage: false,
            log,
            trace,
        })
    }

    /// The last entry, or the last one of the snapshot if there is nothing after it.
    pub(crate) fn last(&self) -> EntryId {
        self.last
    }

    pub(crate) fn first_index(&self) -> Result<u64, StorageError> {
        match &self.unstable.snapshot {
            Some(snapshot) => Ok(snapshot.meta.index + 1),
            None => self.storage.first_index(),
        }
    }

    /// The term of entry `index`: known from the one before the first to the last.
    pub(crate) fn term(&self, index: u64) -> Result<u64, StorageError> {
        if index == self.last.index {
            return Ok(self.last.term);
        }
        if let Some(term) = self.unstable.term(index) {
            return Ok(term);
        }
        if index > self.last.index {
            return Err(StorageError::Unavailable);
        }
        if index.saturating_add(1) < self.first_index()? {
            return Err(StorageError::Compacted);
        }
        self.storage.term(index)
    }

    pub(crate) fn matches(&self, id: EntryId) -> bool {
        self.term(id.index) == Ok(id.term)
    }

    /// Whether a log that ends with `their` has at least what ours has (raft paper, 5.4.1).
    pub(crate) fn is_up_to_date(&self, their: EntryId) -> bool {
        (their.term, their.index) >= (self.last.term, self.last.index)
    }

    /// Follower: puts `entries`, which follow `before`, into the log, and commits as far as the
    /// leader's commit index and these entries reach. What is already there is left alone: a late
    /// append must not cut off what came after it. What is committed is known to match every leader's
    /// log, so that nothing before its end needs to be looked for.
    pub(crate) fn append(&mut self, before: EntryId, entries: Entries, commit: u64) -> Appended {
        if let Some(index) = self.conflict_with_committed(before, &entries) {
            return Appended::ConflictsWithCommitted(index);
        }
        if before.index < self.committed {
            return Appended::To(self.committed);
        }
        if !self.matches(before) {
            return Appended::Mismatch;
        }
        let end = before.index + entries.len() as u64;
        let known = entries
            .iter()
            .take_while(|entry| self.matches(entry.id()))
            .count();
        if let (Some(new), Some(last)) = (entries.get(known), entries.last()) {
            let (new, last) = (new.id(), last.id());
            if new.index <= self.last.index {
                let existing = self.term(new.index).unwrap_or(0);
                info!(
                    self.log,
                    "found conflict at index {} [existing term: {existing}, conflicting term: {}]",
                    new.index,
                    new.term
                );
            }
            self.unstable
                .truncate_and_append(entries.slice(known..entries.len()));
            self.last = last;
            self.trace_change(new.index);
        } else if planted(Bug::CutAfterAppend)
            && end >= self.committed
            && end >= self.unstable.offset
        {
            let term = self.term(end).unwrap_or(0);
            self.unstable.cut_to(end + 1);
            self.last = EntryId { term, index: end };
        }
        self.commit_to(commit.min(end));
        Appended::To(end)
    }

    /// The first index, of those named, at which another entry is committed here. A leader has all that
    /// is committed: one that names something else is of another group, or lost its log, or we did.
    fn conflict_with_committed(&self, before: EntryId, entries: &[Entry]) -> Option<u64> {
        let named = iter::once(before).chain(entries.iter().map(Entry::id));
        named
            .take_while(|id| id.index <= self.committed)
            .find(|id| self.contradicts(*id))
            .map(|id| id.index)
    }

    /// Whether there is another entry at this index. (What is compacted away cannot be told.)
    pub(crate) fn contradicts(&self, id: EntryId) -> bool {
        self.term(id.index).is_ok_and(|term| term != id.term)
    }

    /// Leader: adds entries at the end.
    pub(crate) fn push(&mut self, entries: Entries) {
        if let (Some(first), Some(last)) = (entries.first(), entries.last()) {
            self.last = last.id();
            self.trace_change(first.index);
        }
        self.unstable.push(entries);
    }

    /// A guess where this log ends to match another one that has (`index`, `term`): the highest index
    /// not above it whose term is not above `term`, or not known (then with term 0).
    pub(crate) fn find_conflict_by_term(&self, index: u64, term: u64) -> (u64, u64) {
        for guess in (1..=index).rev() {
            match self.term(guess) {
                Err(_) => return (guess, 0),
                Ok(ours) if ours <= term => return (guess, ours),
                Ok(_) => {}
            }
        }
        (0, 0)
    }

    /// Moves the commit index forward, never past the log: callers check that before.
    pub(crate) fn commit_to(&mut self, index: u64) {
        let index = index.min(self.last.index);
        if index > self.committed {
            self.committed = index;
            self.trace.emit(|| TraceEvent::Committed { index });
        }
    }

    /// Whether `next_committed` would return something.
    pub(crate) fn has_next_committed(&self, allow_unstable: bool) -> bool {
        // With a snapshot to apply, nothing else is handed out: what would come first?
        !self.applying_paused
            && !self.waits_for_storage
            && self.unstable.snapshot.is_none()
            && self.applying < self.appliable(allow_unstable)
    }

    /// Committed entries to apply next. With `allow_unstable` they need not be stored here yet (they
    /// are stored by a quorum).
    pub(crate) fn next_committed(&self, allow_unstable: bool) -> Result<Entries, StorageError> {
        if !self.has_next_committed(allow_unstable) {
            return Ok(Entries::new());
        }
        let (lo, hi) = (self.applying + 1, self.appliable(allow_unstable) + 1);
        self.slice(
            lo,
            hi,
            self.applying_size_max.saturating_sub(self.applying_size),
        )
    }

    /// The entries up to `index`, of `size` bytes, were handed out.
    pub(crate) fn accept_applying(&mut self, index: u64, size: u64, allow_unstable: bool) {
        self.applying = index;
        self.applying_size = self.applying_size.saturating_add(size);
        // Also when fewer entries were handed out than there are: the limit cut them.
        self.applying_paused =
            self.applying_size >= self.applying_size_max || index < self.appliable(allow_unstable);
    }

    /// The entries up to `index`, of `size` bytes, are applied.
    pub(crate) fn applied_to(&mut self, index: u64, size: u64) {
        self.applied = self.applied.max(index);
        self.applying = self.applying.max(index);
        self.applying_size = self.applying_size.saturating_sub(size);
        self.applying_paused = self.applying_size >= self.applying_size_max;
    }

    /// The entries from `index` to the end, up to `max_bytes`.
    pub(crate) fn entries(&self, index: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        if index > self.last.index {
            return Ok(Entries::new());
        }
        self.slice(index, self.last.index + 1, max_bytes)
    }

    pub(crate) fn restore(&mut self, snapshot: Box<Snapshot>) {
        let (index, term) = (snapshot.meta.index, snapshot.meta.term);
        info!(
            self.log,
            "log [{self}] starts to restore snapshot [index: {index}, term: {term}]"
        );
        self.committed = index;
        self.last = EntryId { term, index };
        self.unstable.restore(snapshot);
        let last = self.last;
        self.trace.emit(|| TraceEvent::SnapshotRestored { last });
    }

    /// Entries in `lo..hi`, which lie within the log: as many as fit, at least one.
    pub(crate) fn slice(&self, lo: u64, hi: u64, max_bytes: u64) -> Result<Entries, StorageError> {
        if lo >= self.unstable.offset {
            return Ok(self.unstable.slice(lo, hi, max_bytes));
        }
        if lo < self.first_index()? {
            return Err(StorageError::Compacted);
        }
        let cut = hi.min(self.unstable.offset);
        let mut entries = self.storage.entries(lo, cut, max_bytes)?;
        check_stored(&entries, lo, cut)?;
        let size: u64 = entries.iter().map(Entry::size).sum();
        if hi <= cut || (entries.len() as u64) < cut - lo || size >= max_bytes {
            return Ok(entries.into());
        }
        let tail = self.unstable.slice(cut, hi, max_bytes - size);
        // `slice` returns at least one, whether it fits or not.
        if limit_size(&tail, 0).iter().map(Entry::size).sum::<u64>() <= max_bytes - size {
            entries.extend_from_slice(&tail);
        }
        Ok(entries.into())
    }

    fn trace_change(&self, first: u64) {
        let last = self.last;
        self.trace.emit(|| TraceEvent::LogChanged { first, last });
    }

    fn appliable(&self, allow_unstable: bool) -> u64 {
        match allow_unstable {
            true => self.committed,
            false => self.committed.min(self.unstable.offset - 1),
        }
    }
}

impl<S: Storage> fmt::Display for RaftLog<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "committed={}, applied={}, applying={}, unstable.offset={}, unstable.offsetInProgress={}, \
            len(unstable.Entries)={}",
            self.committed,
            self.applied,
            self.applying,
            self.unstable.offset,
            self.unstable.offset_in_progress,
            self.unstable.len()
        )
    }
}

/// Storage must return what it was asked for: other entries under these indexes would be replicated
/// and applied as if they were ours.
fn check_stored(entries: &[Entry], lo: u64, hi: u64) -> Result<(), StorageError> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
        return Err(StorageError::Unavailable);
    };
    let are_those = entries.iter().zip(lo..hi).all(|(it, at)| it.index == at);
    let terms_grow = entries.windows(2).all(|pair| pair[0].term <= pair[1].term);
    if are_those && terms_grow && entries.len() as u64 <= hi - lo {
        return Ok(());
    }
    let ([a, b], [s, t]) = (
        [first, last].map(|it| it.index),
        [first, last].map(|it| it.term),
    );
    Err(StorageError::Other(format!(
        "asked for entries {lo}..{hi}, got {} from {a} (term {s}) to {b} (term {t})",
        entries.len()
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::storage::MemoryStorage;

    /// Entries 1..=5 with terms 1 1 2 2 3; the first three stored.
    fn log() -> RaftLog<MemoryStorage> {
        let mut storage = MemoryStorage::new();
        let all = entries(1, &[1, 1, 2, 2, 3]);
        storage.append(&all[..3]).unwrap();
        let mut log = RaftLog::new(storage, u64::MAX, Log::default(), Trace::default()).unwrap();
        log.push(all.slice(3..5));
        log
    }

    fn entries(first: u64, terms: &[u64]) -> Entries {
        let ids = terms.iter().zip(first..);
        ids.map(|(&term, index)| Entry {
            term,
            index,
            ..Entry::default()
        })
        .collect()
    }

    fn id(term: u64, index: u64) -> EntryId {
        EntryId { term, index }
    }

    #[test]
    fn append_matches_skips_and_replaces() {
        let mut log = log();
        assert_eq!(log.append(id(9, 5), Entries::new(), 0), Appended::Mismatch);
        assert_eq!(log.append(id(3, 6), Entries::new(), 0), Appended::Mismatch);
        // Old news cuts nothing off, and commits only as far as it reaches.
        assert_eq!(
            log.append(id(1, 1), entries(2, &[1, 2]), 9),
            Appended::To(3)
        );
        assert_eq!((log.last(), log.committed), (id(3, 5), 3));
        // A conflict replaces everything from there on.
        assert_eq!(log.append(id(2, 3), entries(4, &[4]), 0), Appended::To(4));
        assert_eq!(log.last(), id(4, 4));
        let conflict = log.append(id(1, 1), entries(2, &[3]), 0);
        assert_eq!(conflict, Appended::ConflictsWithCommitted(2));
        let conflict = log.append(id(3, 3), Entries::new(), 0);
        assert_eq!(conflict, Appended::ConflictsWithCommitted(3));
        // What was committed long ago is no news.
        assert_eq!(log.append(id(1, 1), entries(2, &[1]), 0), Appended::To(3));
        assert_eq!(log.last(), id(4, 4));
    }

    #[test]
    fn conflicts_are_found_by_term() {
        let log = log();
        assert_eq!(log.find_conflict_by_term(5, 2), (4, 2));
        assert_eq!(log.find_conflict_by_term(5, 0), (0, 0));
        assert_eq!(
            log.find_conflict_by_term(9, 3),
            (9, 0),
            "past the log: unknown"
        );
    }

    #[test]
    fn up_to_date_is_by_term_first() {
        let log = log();
        assert!(log.is_up_to_date(id(4, 1)));
        assert!(log.is_up_to_date(id(3, 5)));
        assert!(!log.is_up_to_date(id(3, 4)));
        assert!(!log.is_up_to_date(id(2, 9)));
    }

    #[test]
    fn slices_join_storage_and_tail() {
        let log = log();
        let size = Entry::default().size();
        let indexes = |lo, hi, max| -> Vec<u64> {
            log.slice(lo, hi, max)
                .unwrap()
                .iter()
                .map(|entry| entry.index)
                .collect()
        };
        assert_eq!(indexes(2, 6, u64::MAX), [2, 3, 4, 5]);
        assert_eq!(indexes(2, 6, size * 3), [2, 3, 4]);
        assert_eq!(indexes(2, 6, size * 3 - 1), [2, 3]);
        assert_eq!(indexes(2, 6, 0), [2]);
        assert_eq!(indexes(4, 6, 0), [4]);
    }

    #[test]
    fn applying_pauses_at_the_limit() {
        let mut log = log();
        log.applying_size_max = Entry::default().size() * 2;
        log.commit_to(5);
        let first = log.next_committed(true).unwrap();
        assert_eq!(first.len(), 2);
        log.accept_applying(2, first.iter().map(Entry::size).sum(), true);
        assert!(!log.has_next_committed(true));
        log.applied_to(1, first[0].size());
        assert_eq!(log.next_committed(true).unwrap().len(), 1);
        assert!(log.has_next_committed(false), "3 is stored");
        log.accept_applying(3, first[0].size(), false);
        log.applied_to(3, u64::MAX);
        assert!(!log.has_next_committed(false), "4 and 5 are not stored yet");
        assert!(log.has_next_committed(true));
    }

    #[test]
    fn storage_that_returns_other_entries_is_caught() {
        assert!(check_stored(&entries(3, &[1, 1]), 3, 5).is_ok());
        assert!(check_stored(&entries(2, &[1, 1]), 3, 5).is_err());
        assert!(check_stored(&entries(3, &[1, 1]), 3, 4).is_err());
        assert!(check_stored(&entries(3, &[2, 1]), 3, 5).is_err());
        let hole = [entries(3, &[1]), entries(3, &[1]), entries(5, &[1])].map(|it| it[0].clone());
        assert!(check_stored(&hole, 3, 6).is_err());
        assert_eq!(check_stored(&[], 3, 4), Err(StorageError::Unavailable));
    }
}
