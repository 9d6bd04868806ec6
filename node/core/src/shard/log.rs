//! A group's log as raft reads it: the tail in memory, the rest known to be on disk.
//!
//! The write-ahead log owns durability; this is the view `henge_raft::Storage` asks for. Entries enter
//! when they are handed to the log writer (raft itself does not read them from here before they are
//! durable) and leave from the front once applied, within a byte budget. An older entry that a slow
//! follower needs is answered *temporarily unavailable* and noted as wanted; the core reads it back
//! from disk and has the leader try again. Terms are known for all of it.
//! Must never know: files, offsets, other groups.

mod read_back;
mod terms;

use std::cell::RefCell;
use std::collections::VecDeque;

use henge_raft::{ConfState, Entry, HardState, Snapshot, Storage, StorageError};

use self::read_back::ReadBack;
pub use self::read_back::Wanted;
pub use self::terms::TermRuns;

/// Bytes of applied entries kept for followers that are a little behind.
pub const TAIL_BYTES_MAX: usize = 32 << 20;

/// The tail of one group's log.
#[derive(Debug)]
pub struct TailLog {
    hard_state: HardState,
    conf_state: ConfState,
    /// Everything up to here is in a checkpoint and may be gone from disk.
    compacted: Position,
    /// The entry before the first cached one.
    before: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
    /// The terms of all entries after `compacted`, in memory or not.
    terms: TermRuns,
    /// Older entries, read back from disk. Raft asks through a shared reference.
    read_back: RefCell<ReadBack>,
}

/// An entry's place in the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
}

impl TailLog {
    /// A log whose entries up to `compacted` are in a checkpoint.
    pub fn new(conf_state: ConfState, compacted: Position) -> Self {
        TailLog {
            hard_state: HardState::default(),
            conf_state,
            compacted,
            before: compacted,
            entries: VecDeque::new(),
            bytes: 0,
            terms: TermRuns::new(compacted),
            read_back: RefCell::default(),
        }
    }

    /// A log whose entries up to `before` are on disk and not in memory: an index above its checkpoint
    /// is then *wanted*, never *compacted*, so that a follower which lags can still be served.
    /// `terms` begins at `compacted` and reaches to `before`.
    pub fn recovered(
        conf_state: ConfState,
        compacted: Position,
        before: Position,
        terms: TermRuns,
    ) -> Self {
        TailLog {
            before,
            terms,
            ..TailLog::new(conf_state, compacted)
        }
    }

    /// Sets what raft will find at its start.
    pub fn set_hard_state(&mut self, hard_state: HardState) {
        self.hard_state = hard_state;
    }

    /// Adds entries at their place; what they replace (a suffix that lost to another leader) goes.
    pub fn append(&mut self, entries: &[Entry]) {
        // Entries up to `before` are applied: raft never sends another version of them.
        let known = entries.partition_point(|entry| entry.index <= self.before.index);
        let entries = &entries[known..];
        let Some(first) = entries.first() else { return };
        let keep = usize::try_from(first.index - self.before.index - 1).unwrap_or(usize::MAX);
        while self.entries.len() > keep {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes -= weight(&gone);
            }
        }
        self.read_back.get_mut().cut_from(first.index);
        for entry in entries {
            self.terms.push(entry.index, entry.term);
            self.bytes += weight(entry);
            self.entries.push_back(entry.clone());
        }
    }

    /// Drops entries up to `applied` from memory until `keep_bytes` are left.
    pub fn trim(&mut self, applied: u64, keep_bytes: usize) {
        while self.bytes > keep_bytes {
            match self.entries.front() {
                Some(front) if front.index <= applied => {
                    self.before = Position {
                        index: front.index,
                        term: front.term,
                    };
                    self.bytes -= weight(front);
                    self.entries.pop_front();
                }
                _ => break,
            }
        }
    }

    /// Everything up to `position` is in a durable checkpoint.
    pub fn compact(&mut self, position: Position) {
        if position.index <= self.compacted.index {
            return;
        }
        self.compacted = position;
        while self
            .entries
            .front()
            .is_some_and(|front| front.index <= position.index)
        {
            if let Some(gone) = self.entries.pop_front() {
                self.bytes -= weight(&gone);
            }
        }
        if self.before.index < position.index {
            self.before = position;
        }
        self.terms.begin_at(position);
        self.read_back.get_mut().cut_through(position.index);
    }

    /// Takes a span that raft asked for in vain; its read ends in [`TailLog::fetched`].
    pub fn take_wanted(&mut self) -> Option<Wanted> {
        self.read_back.get_mut().take()
    }

    /// The last index that is in a checkpoint.
    pub fn compacted_index(&self) -> u64 {
        self.compacted.index
    }

    /// Bytes of entries held in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Hands in what was read back from `low` on: nothing, if the read failed.
    pub fn fetched(&mut self, low: u64, entries: Vec<Entry>) {
        self.read_back.get_mut().put(low, entries);
    }
}

impl Storage for TailLog {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.hard_state, self.conf_state.clone()))
    }

    fn entries(&self, low: u64, high: u64, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        if low <= self.compacted.index {
            return Err(StorageError::Compacted);
        }
        if high > self.last_index()? + 1 {
            return Err(StorageError::Unavailable);
        }
        if low > self.before.index {
            let at = usize::try_from(low - self.before.index - 1).unwrap_or(usize::MAX);
            let count = usize::try_from(high - low).unwrap_or(usize::MAX);
            return Ok(within(self.entries.iter().skip(at).take(count), max_bytes));
        }
        let high = high.min(self.before.index + 1);
        let mut read_back = self.read_back.borrow_mut();
        if let Some(found) = read_back.from(low) {
            let count = usize::try_from(high - low).unwrap_or(usize::MAX);
            return Ok(within(found.iter().take(count), max_bytes));
        }
        read_back.want(Wanted { low, high });
        Err(StorageError::Unavailable)
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        if index < self.compacted.index {
            return Err(StorageError::Compacted);
        }
        if index > self.last_index()? {
            return Err(StorageError::Unavailable);
        }
        self.terms.term(index).ok_or(StorageError::Compacted)
    }

    fn first_index(&self) -> Result<u64, StorageError> {
        Ok(self.compacted.index + 1)
    }

    fn last_index(&self) -> Result<u64, StorageError> {
        Ok(self.before.index + self.entries.len() as u64)
    }

    /// Snapshots between nodes are not built yet; the leader asks again later, by when the entries it
    /// really wanted have been read back.
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Err(StorageError::SnapshotTemporarilyUnavailable)
    }
}

fn weight(entry: &Entry) -> usize {
    size_of::<Entry>() + entry.data.len()
}

/// The leading entries that fit, and always at least one.
fn within<'a>(entries: impl Iterator<Item = &'a Entry> + Clone, max_bytes: u64) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |entry: &&Entry| {
        let first = bytes == 0;
        bytes += entry.data.len() as u64 + 24;
        first || bytes <= max_bytes
    };
    // Counted first, so that the vector is allocated once at its size: growing it was a seventh of the
    // core's time, spent in the kernel clearing pages.
    let count = entries.clone().take_while(fits).count();
    let mut taken = Vec::with_capacity(count);
    taken.extend(entries.take(count).cloned());
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            data: vec![7; 100].into(),
            ..Entry::default()
        }
    }

    fn log(from: u64, to: u64) -> TailLog {
        let mut log = TailLog::new(ConfState::default(), Position::default());
        let entries: Vec<_> = (from..=to).map(|index| entry(index, 1)).collect();
        log.append(&entries);
        log
    }

    #[test]
    fn a_new_leader_replaces_the_suffix() {
        let mut log = log(1, 10);
        log.append(&[entry(6, 2), entry(7, 2)]);
        assert_eq!(log.last_index(), Ok(7));
        assert_eq!((log.term(5), log.term(6)), (Ok(1), Ok(2)));
        assert_eq!(log.term(8), Err(StorageError::Unavailable));
    }

    #[test]
    fn trimmed_entries_are_wanted_then_served_from_what_was_fetched() {
        let mut log = log(1, 10);
        log.trim(8, 0);
        assert_eq!(
            (log.first_index(), log.last_index(), log.term(8)),
            (Ok(1), Ok(10), Ok(1))
        );
        assert_eq!(log.entries(3, 11, u64::MAX), Err(StorageError::Unavailable));
        assert_eq!(log.take_wanted(), Some(Wanted { low: 3, high: 9 }));
        assert_eq!(log.take_wanted(), None);
        log.fetched(3, (3..9).map(|index| entry(index, 1)).collect());
        assert_eq!(
            log.entries(3, 11, u64::MAX).map(|entries| entries.len()),
            Ok(6)
        );
        assert_eq!(
            log.entries(9, 11, u64::MAX).map(|entries| entries.len()),
            Ok(2)
        );
        assert_eq!(log.entries(3, 11, 1).map(|entries| entries.len()), Ok(1));
    }

    #[test]
    fn unapplied_entries_are_never_trimmed() {
        let mut log = log(1, 10);
        log.trim(4, 0);
        assert_eq!(
            log.entries(5, 11, u64::MAX).map(|entries| entries.len()),
            Ok(6)
        );
    }

    #[test]
    fn below_a_checkpoint_is_compacted() {
        let mut log = log(1, 10);
        log.compact(Position { index: 4, term: 1 });
        assert_eq!(log.first_index(), Ok(5));
        assert_eq!(
            (log.term(4), log.term(3)),
            (Ok(1), Err(StorageError::Compacted))
        );
        assert_eq!(log.entries(4, 6, u64::MAX), Err(StorageError::Compacted));
        log.compact(Position { index: 12, term: 3 });
        assert_eq!((log.last_index(), log.term(12)), (Ok(12), Ok(3)));
    }

    #[test]
    fn after_recovery_what_is_on_disk_is_wanted_and_not_compacted() {
        let before = Position { index: 8, term: 1 };
        let mut terms = TermRuns::new(Position::default());
        terms.push(1, 1);
        let mut log = TailLog::recovered(ConfState::default(), Position::default(), before, terms);
        log.append(&[entry(9, 1)]);
        assert_eq!((log.first_index(), log.last_index()), (Ok(1), Ok(9)));
        assert_eq!(
            (log.term(0), log.term(8), log.term(9)),
            (Ok(0), Ok(1), Ok(1))
        );
        assert_eq!(log.entries(3, 10, u64::MAX), Err(StorageError::Unavailable));
        assert_eq!(log.take_wanted(), Some(Wanted { low: 3, high: 9 }));
    }
}
