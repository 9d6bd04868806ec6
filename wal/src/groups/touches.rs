//! What the records of a batch do to groups, noted as they are staged or replayed: one *touch* per group
//! and batch where order allows, so that what a batch does is applied at once.
//!
//! Must never know: what the groups are before.

use crate::record::HardState;
use crate::{GroupId, Record};

/// What happened to the log of a group: at most one of these before the entries of a [`Touch`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Change {
    #[default]
    None,
    Compacted(u64, u64),
    Restored(u64, u64),
    Removed,
}

/// What some consecutive records of a batch do to one group: `change`, then `count` entries that
/// end at `last`, then `hard`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Touch {
    pub(crate) group: GroupId,
    pub(super) change: Change,
    /// Smallest index among the entries.
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) last_term: u64,
    pub(super) count: u64,
    pub(super) bytes: u64,
    pub(super) hard: Option<HardState>,
}

/// What the records of a batch do, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touches {
    pub(super) all: Vec<Touch>,
    /// The one that took the last record.
    at: usize,
    /// There are changes among them: then order between touches of a group matters.
    changes: bool,
}

impl Touches {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.at = 0;
        self.changes = false;
    }

    pub(crate) fn has(&self, group: GroupId) -> bool {
        self.all.iter().any(|touch| touch.group == group)
    }

    /// Note a record. Records of one group that follow each other share a touch.
    pub(crate) fn add(&mut self, record: &Record<'_>) {
        match *record {
            Record::Entry {
                group,
                term,
                index,
                payload,
                ..
            } => self.entry(group, term, index, payload.len()),
            Record::HardState {
                group,
                term,
                vote,
                commit,
            } => {
                self.hard(group, HardState { term, vote, commit });
            }
            Record::Compacted { group, index, term } => {
                self.change(group, Change::Compacted(index, term));
            }
            Record::Restored { group, index, term } => {
                self.change(group, Change::Restored(index, term));
            }
            Record::Removed { group } => self.change(group, Change::Removed),
        }
    }

    pub(crate) fn entry(&mut self, group: GroupId, term: u64, index: u64, bytes: usize) {
        let touch = self.touch(group);
        touch.first = if touch.count == 0 {
            index
        } else {
            touch.first.min(index)
        };
        (touch.last, touch.last_term) = (index, term);
        touch.count += 1;
        touch.bytes += bytes as u64;
    }

    pub(crate) fn hard(&mut self, group: GroupId, hard: HardState) {
        self.touch(group).hard = Some(hard);
    }

    pub(crate) fn change(&mut self, group: GroupId, change: Change) {
        self.changes = true;
        self.all.push(Touch {
            group,
            change,
            ..Touch::default()
        });
    }

    /// The touch that takes the next record of a group: the one of the last record, or the one after it
    /// (turns that share a batch visit the groups in the same order: 64 groups of 16 turns would
    /// otherwise be a thousand touches), or a new one.
    fn touch(&mut self, group: GroupId) -> &mut Touch {
        let is = |at: usize| self.all.get(at).is_some_and(|touch| touch.group == group);
        let last = self.all.len().saturating_sub(1);
        let next = if self.at >= last { 0 } else { self.at + 1 };
        if self.changes {
            self.at = last;
        }
        if !is(self.at) {
            self.at = if !self.changes && is(next) {
                next
            } else {
                self.all.push(Touch {
                    group,
                    ..Touch::default()
                });
                self.all.len() - 1
            };
        }
        &mut self.all[self.at]
    }
}
