//! A ready-made [`Replay`]: every group's raft log in memory, as the records say it is.
//!
//! For callers that keep their log in memory anyway, and for tests, where it is the naive reading
//! of the log that cleverer code is compared with.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use crate::{GroupId, ReadEntry, Record, Replay};

/// One group's log after replay.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupLog {
    /// Current term.
    pub term: u64,
    /// Member voted for in that term; 0 for none.
    pub vote: u64,
    /// Commit index.
    pub commit: u64,
    /// Last compacted index: the first entry is the one after it.
    pub compacted: u64,
    /// Its term.
    pub compacted_term: u64,
    /// The entries, without gaps but for what is lost.
    pub entries: VecDeque<ReadEntry>,
    /// First and last of the acknowledged entries that cannot be read, if there are any; some between them
    /// may be there.
    pub lost: Option<(u64, u64)>,
}

impl GroupLog {
    /// Index of the last entry; that of the compaction if there is none.
    pub fn last(&self) -> u64 {
        self.entries.back().map_or(self.compacted, |e| e.index)
    }

    fn push(&mut self, entry: ReadEntry) {
        if entry.index <= self.compacted {
            return;
        }
        // It takes the place of what was lost from there on.
        if let Some((first, last)) = self.lost {
            let left = last.min(entry.index - 1);
            self.lost = (left >= first).then_some((first, left));
        }
        if self.lost.is_none() && entry.index > self.last().saturating_add(1) {
            self.entries.clear();
        }
        while self.entries.back().is_some_and(|e| e.index >= entry.index) {
            self.entries.pop_back();
        }
        self.entries.push_back(entry);
        self.trim();
    }

    fn compact(&mut self, index: u64, term: u64) {
        if index < self.compacted {
            return;
        }
        (self.compacted, self.compacted_term) = (index, term);
        let left = |(first, last): (u64, u64)| (last > index).then(|| (first.max(index + 1), last));
        self.lost = self.lost.and_then(left);
        while self.entries.front().is_some_and(|e| e.index <= index) {
            self.entries.pop_front();
        }
        self.trim();
    }

    fn lose(&mut self, first: u64, last: u64) {
        let (from, to) = self.lost.unwrap_or((first, last));
        self.lost = Some((from.min(first), to.max(last)));
    }

    /// What is there is not lost: of two holes the earlier or the later one may have been compacted or
    /// replaced.
    fn trim(&mut self) {
        while let Some((first, last)) = self.lost {
            let has = |index: u64| {
                self.entries
                    .binary_search_by_key(&index, |e| e.index)
                    .is_ok()
            };
            self.lost = match (has(first), has(last)) {
                (false, false) => return,
                _ if first == last => None,
                (true, _) => Some((first + 1, last)),
                (false, true) => Some((first, last - 1)),
            };
        }
    }
}

/// Every group's log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Collect {
    /// The groups that are in the log.
    pub groups: BTreeMap<GroupId, GroupLog>,
}

impl Replay for Collect {
    fn record(&mut self, record: Record<'_>) {
        match record {
            Record::Entry {
                group,
                term,
                index,
                kind,
                payload,
            } => {
                let payload = Bytes::copy_from_slice(payload);
                let entry = ReadEntry {
                    term,
                    index,
                    kind,
                    payload,
                };
                self.groups.entry(group).or_default().push(entry);
            }
            Record::HardState {
                group,
                term,
                vote,
                commit,
            } => {
                let log = self.groups.entry(group).or_default();
                (log.term, log.vote, log.commit) = (term, vote, commit);
            }
            Record::Compacted { group, index, term } => {
                self.groups.entry(group).or_default().compact(index, term);
            }
            Record::Restored { group, index, term } => {
                let log = self.groups.entry(group).or_default();
                log.entries.clear();
                log.lost = None;
                (log.compacted, log.compacted_term) = (index, term);
            }
            Record::Removed { group } => {
                self.groups.remove(&group);
            }
        }
    }

    fn lost(&mut self, group: GroupId, first: u64, last: u64) {
        let log = self.groups.entry(group).or_default();
        if last <= log.compacted {
            return;
        }
        while log.entries.back().is_some_and(|e| e.index >= first) {
            log.entries.pop_back();
        }
        // What it had behind is void, holes too.
        if let Some((earlier, to)) = log.lost {
            log.lost = (earlier < first).then(|| (earlier, to.min(first - 1)));
        }
        log.trim();
        log.lose(first, last);
    }

    fn missing(&mut self, group: GroupId, first: u64, last: u64) {
        self.groups.entry(group).or_default().lose(first, last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn indexes(c: &Collect) -> Vec<(u64, u64)> {
        c.groups[&1]
            .entries
            .iter()
            .map(|e| (e.index, e.term))
            .collect()
    }

    #[test]
    fn follows_the_rules_of_replay() {
        let mut c = Collect::default();
        let entry = |term, index| Record::Entry {
            group: 1,
            term,
            index,
            kind: 0,
            payload: b"",
        };
        (1..=4).for_each(|i| c.record(entry(1, i)));
        c.record(entry(2, 3));
        assert_eq!(indexes(&c), [(1, 1), (2, 1), (3, 2)]);
        c.record(Record::Compacted {
            group: 1,
            index: 2,
            term: 1,
        });
        c.record(entry(1, 2));
        assert_eq!(indexes(&c), [(3, 2)]);
        c.record(entry(2, 9));
        assert_eq!(indexes(&c), [(9, 2)]);
        c.record(Record::Compacted {
            group: 1,
            index: 8,
            term: 2,
        });
        assert_eq!(indexes(&c), [(9, 2)]);
        c.record(Record::Restored {
            group: 1,
            index: 8,
            term: 3,
        });
        assert_eq!((indexes(&c).len(), c.groups[&1].last()), (0, 8));
        c.record(Record::Removed { group: 1 });
        assert!(c.groups.is_empty());
    }

    /// Seeds 39, 111 of `tests/bridge.rs`: of two holes one was replaced and one compacted, and what lay
    /// between them was called lost.
    #[test]
    fn regression_what_lies_between_two_holes_is_not_lost() {
        let mut c = Collect::default();
        let entry = |term, index| Record::Entry {
            group: 1,
            term,
            index,
            kind: 0,
            payload: b"",
        };
        (1..=3).for_each(|i| c.record(entry(1, i)));
        c.lost(1, 4, 6);
        (7..=10).for_each(|i| c.record(entry(1, i)));
        c.lost(1, 11, 11);
        assert_eq!(c.groups[&1].lost, Some((4, 11)));
        c.record(entry(2, 11));
        assert_eq!(c.groups[&1].lost, Some((4, 6)));
        c.record(Record::Compacted {
            group: 1,
            index: 8,
            term: 1,
        });
        assert_eq!(c.groups[&1].lost, None);
        assert_eq!(indexes(&c), [(9, 1), (10, 1), (11, 2)]);
        // What is missing takes nothing away that was replayed.
        c.missing(1, 5, 9);
        assert_eq!(indexes(&c).len(), 3);
    }
}
