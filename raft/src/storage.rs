//! What raft reads from storage, and a storage in memory.
//!
//! Promises: raft only reads through [`Storage`]; everything it wants written is in a
//! [`Ready`](crate::Ready). Reads are synchronous and must not wait: a storage that has to fetch old
//! entries from disk answers [`StorageError::Unavailable`] and fetches meanwhile; raft asks again.
//! Must never know: files, clocks, or raft's state machine.
//! Tests: [`MemoryStorage`] below; the trait's use by the tests of `log`.

use std::fmt;

use bytes::Bytes;

use crate::message::{ConfState, Entry, HardState, Snapshot, SnapshotMeta};

/// Why storage does not have what was asked for.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StorageError {
    /// Older than the first index: only a snapshot has it.
    Compacted,
    /// Newer than the last index, or not in memory now and being fetched: ask again later.
    Unavailable,
    /// A snapshot is being prepared: ask again later.
    SnapshotTemporarilyUnavailable,
    /// The given snapshot is older than the one there is.
    SnapshotOutOfDate,
    /// Appending would leave a hole.
    Gap {
        /// The first entry that was to be appended.
        index: u64,
        /// The last entry there is.
        last: u64,
    },
    /// Anything else; stops the group.
    Other(String),
}

impl fmt::Display for StorageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StorageError::Compacted => {
                f.write_str("requested index is unavailable due to compaction")
            }
            StorageError::Unavailable => f.write_str("requested entry at index is unavailable"),
            StorageError::SnapshotTemporarilyUnavailable => {
                f.write_str("snapshot is temporarily unavailable")
            }
            StorageError::SnapshotOutOfDate => {
                f.write_str("requested index is older than the existing snapshot")
            }
            StorageError::Gap { index, last } => write!(
                f,
                "entry {index} would leave a hole: the log ends at {last}"
            ),
            StorageError::Other(inner) => write!(f, "{inner}"),
        }
    }
}

impl std::error::Error for StorageError {}

/// What raft reads. Whatever was handed out for writing in a Ready must be visible here from the
/// moment its response (async) or `advance` (sync) reaches raft.
pub trait Storage {
    /// The stored hard state and the configuration at the applied index. Asked once, at start.
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError>;
    /// Entries in `lo..hi`: as many as fit in `max_bytes` (by [`Entry::size`]), at least one.
    /// `Compacted` if `lo` is gone, `Unavailable` if it is not in memory now.
    fn entries(&self, lo: u64, hi: u64, max_bytes: u64) -> Result<Vec<Entry>, StorageError>;
    /// The term of entry `index`, for `first_index() - 1 ..= last_index()`; must not need the disk.
    fn term(&self, index: u64) -> Result<u64, StorageError>;
    /// The first index whose entry is still there.
    fn first_index(&self) -> Result<u64, StorageError>;
    /// The last index; `first_index() - 1` if there are no entries.
    fn last_index(&self) -> Result<u64, StorageError>;
    /// The newest snapshot, or `SnapshotTemporarilyUnavailable` while it is made.
    fn snapshot(&self) -> Result<Snapshot, StorageError>;
}

/// A [`Storage`] in memory, for tests, examples and measurements.
#[derive(Clone, Debug, Default)]
pub struct MemoryStorage {
    hard_state: HardState,
    snapshot: Snapshot,
    /// (index, term) of the entry before `entries[0]`.
    before: (u64, u64),
    entries: Vec<Entry>,
}

impl MemoryStorage {
    /// An empty log.
    pub fn new() -> MemoryStorage {
        MemoryStorage::default()
    }

    /// The log of a group that starts with these voters: every first member is given the same.
    ///
    /// It is empty and starts behind a snapshot at index 1, term 1, which holds the voters. Not at
    /// index 0: a member that joins later with nothing could then be sent all entries there ever were,
    /// and would still not know the voters, for no entry names them. This way it needs the snapshot.
    pub fn with_voters(voters: &[u64]) -> MemoryStorage {
        let conf_state = ConfState {
            voters: voters.to_vec(),
            ..ConfState::default()
        };
        let snapshot = Snapshot {
            meta: SnapshotMeta {
                conf_state,
                index: 1,
                term: 1,
            },
            data: Bytes::new(),
        };
        MemoryStorage {
            snapshot,
            before: (1, 1),
            ..MemoryStorage::default()
        }
    }

    /// Stores `state` (nothing, if it is empty).
    pub fn set_hard_state(&mut self, state: HardState) {
        if !state.is_empty() {
            self.hard_state = state;
        }
    }

    /// The stored hard state.
    pub fn hard_state(&self) -> HardState {
        self.hard_state
    }

    /// Appends `entries`, replacing whatever there is from the first of them on.
    ///
    /// # Errors
    /// `Gap` if they do not connect to the log.
    pub fn append(&mut self, entries: &[Entry]) -> Result<(), StorageError> {
        let skip = entries.partition_point(|entry| entry.index <= self.before.0);
        let Some(first) = entries.get(skip) else {
            return Ok(());
        };
        let keep = (first.index - self.before.0 - 1) as usize;
        if keep > self.entries.len() {
            return Err(StorageError::Gap {
                index: first.index,
                last: self.last(),
            });
        }
        self.entries.truncate(keep);
        self.entries.extend_from_slice(&entries[skip..]);
        Ok(())
    }

    /// Replaces everything by `snapshot`.
    ///
    /// # Errors
    /// `SnapshotOutOfDate` if there is a newer one.
    pub fn apply_snapshot(&mut self, snapshot: Snapshot) -> Result<(), StorageError> {
        // A snapshot at index 0 only bootstraps the configuration: it is older than anything.
        if self.snapshot.meta.index != 0 && self.snapshot.meta.index >= snapshot.meta.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.before = (snapshot.meta.index, snapshot.meta.term);
        self.entries.clear();
        self.snapshot = snapshot;
        Ok(())
    }

    /// Makes the snapshot that [`Storage::snapshot`] returns from now on.
    ///
    /// # Errors
    /// `SnapshotOutOfDate` or `Unavailable` if `index` is before the last one or after the log.
    pub fn create_snapshot(
        &mut self,
        index: u64,
        conf_state: Option<ConfState>,
        data: Bytes,
    ) -> Result<(), StorageError> {
        if index <= self.snapshot.meta.index {
            return Err(StorageError::SnapshotOutOfDate);
        }
        self.snapshot.meta.term = self.term(index)?;
        self.snapshot.meta.index = index;
        if let Some(conf_state) = conf_state {
            self.snapshot.meta.conf_state = conf_state;
        }
        self.snapshot.data = data;
        Ok(())
    }

    /// Drops all entries up to and including `index`. Only applied entries may be dropped.
    ///
    /// # Errors
    /// `Compacted` if they are gone, `Unavailable` if the log is shorter.
    pub fn compact(&mut self, index: u64) -> Result<(), StorageError> {
        if index <= self.before.0 {
            return Err(StorageError::Compacted);
        }
        let term = self.term(index)?;
        self.entries.drain(..(index - self.before.0) as usize);
        self.before = (index, term);
        Ok(())
    }

    fn last(&self) -> u64 {
        self.before.0 + self.entries.len() as u64
    }
}

impl Storage for MemoryStorage {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        Ok((self.hard_state, self.snapshot.meta.conf_state.clone()))
    }

    fn entries(&self, lo: u64, hi: u64, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        if lo <= self.before.0 {
            return Err(StorageError::Compacted);
        }
        if hi > self.last() + 1 || lo > hi {
            return Err(StorageError::Unavailable);
        }
        let base = self.before.0 + 1;
        let wanted = &self.entries[(lo - base) as usize..(hi - base) as usize];
        Ok(limit_size(wanted, max_bytes).to_vec())
    }

    fn term(&self, index: u64) -> Result<u64, StorageError> {
        if index < self.before.0 {
            return Err(StorageError::Compacted);
        }
        if index == self.before.0 {
            return Ok(self.before.1);
        }
        let position = (index - self.before.0 - 1) as usize;
        self.entries
            .get(position)
            .map(|entry| entry.term)
            .ok_or(StorageError::Unavailable)
    }

    fn first_index(&self) -> Result<u64, StorageError> {
        Ok(self.before.0 + 1)
    }

    fn last_index(&self) -> Result<u64, StorageError> {
        Ok(self.last())
    }

    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        Ok(self.snapshot.clone())
    }
}

/// The longest prefix of `entries` that fits in `max_bytes`, but at least one entry.
pub fn limit_size(entries: &[Entry], max_bytes: u64) -> &[Entry] {
    let mut size = 0u64;
    for (count, entry) in entries.iter().enumerate() {
        size = size.saturating_add(entry.size());
        if size > max_bytes && count > 0 {
            return &entries[..count];
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry {
            index,
            term,
            ..Entry::default()
        }
    }

    fn storage() -> MemoryStorage {
        let mut storage = MemoryStorage::new();
        storage
            .append(&[entry(1, 1), entry(2, 1), entry(3, 2), entry(4, 2)])
            .unwrap();
        storage
    }

    #[test]
    fn append_replaces_and_refuses_gaps() {
        let mut storage = storage();
        storage.append(&[entry(3, 3)]).unwrap();
        assert_eq!(storage.last_index(), Ok(3));
        assert_eq!(storage.term(3), Ok(3));
        let gap = Err(StorageError::Gap { index: 5, last: 3 });
        assert_eq!(storage.append(&[entry(5, 3)]), gap);
        storage.append(&[]).unwrap();
    }

    #[test]
    fn compaction_keeps_the_term_before() {
        let mut storage = storage();
        storage.compact(2).unwrap();
        assert_eq!(storage.first_index(), Ok(3));
        assert_eq!(storage.term(2), Ok(1));
        assert_eq!(storage.term(1), Err(StorageError::Compacted));
        assert_eq!(
            storage.entries(2, 4, u64::MAX),
            Err(StorageError::Compacted)
        );
        assert_eq!(storage.compact(2), Err(StorageError::Compacted));
        assert_eq!(storage.compact(9), Err(StorageError::Unavailable));
        // An append that reaches below the first index only replaces what is left.
        storage.append(&[entry(2, 1), entry(3, 4)]).unwrap();
        assert_eq!(storage.entries(3, 4, u64::MAX).unwrap(), vec![entry(3, 4)]);
    }

    #[test]
    fn snapshots_only_go_forward() {
        let mut storage = storage();
        storage
            .create_snapshot(3, None, Bytes::from_static(b"s"))
            .unwrap();
        assert_eq!(storage.snapshot().unwrap().meta.term, 2);
        let stale = storage.create_snapshot(2, None, Bytes::new());
        assert_eq!(stale, Err(StorageError::SnapshotOutOfDate));
        let meta = SnapshotMeta {
            index: 9,
            term: 5,
            ..SnapshotMeta::default()
        };
        storage
            .apply_snapshot(Snapshot {
                meta,
                data: Bytes::new(),
            })
            .unwrap();
        assert_eq!(storage.last_index(), Ok(9));
        assert_eq!(storage.term(9), Ok(5));
    }

    #[test]
    fn size_limit_returns_at_least_one() {
        let storage = storage();
        assert_eq!(storage.entries(1, 5, 0).unwrap().len(), 1);
        let two = entry(1, 1).size() * 2;
        assert_eq!(storage.entries(1, 5, two).unwrap().len(), 2);
        assert_eq!(storage.entries(1, 5, u64::MAX).unwrap().len(), 4);
    }
}
