//! What the records of a batch do to groups, noted as they are staged or replayed: one *touch* per group
//! and batch where order allows, so that what a batch does is applied at once.
//!
//! Must never know: what the groups are before.

use std::collections::BTreeMap;

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
    /// A later touch of the group takes its records now.
    is_past: bool,
}

/// What the records of a batch do, in their order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touches {
    pub(super) all: Vec<Touch>,
    /// The one that took the last record.
    at: usize,
    /// The latest of each group.
    latest: BTreeMap<GroupId, usize>,
}

impl Touches {
    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn clear(&mut self) {
        self.all.clear();
        self.at = 0;
        self.latest.clear();
    }

    pub(crate) fn has(&self, group: GroupId) -> bool {
        self.latest.contains_key(&group)
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
        self.at = self.push(Touch {
            group,
            change,
            ..Touch::default()
        });
    }

    /// The touch that takes the next record of a group: its latest one, wherever that is (64 groups of 16
    /// turns would otherwise be a thousand touches), or a new one. Never an earlier one: its records
    /// would be applied before those that came between, and look like a gap. Tried first are the touch of
    /// the last record and the one after it, because turns mostly visit the groups in the same order.
    fn touch(&mut self, group: GroupId) -> &mut Touch {
        let is = |at: usize| {
            let touch = self.all.get(at);
            touch.is_some_and(|touch| touch.group == group && !touch.is_past)
        };
        let next = if self.at + 1 < self.all.len() {
            self.at + 1
        } else {
            0
        };
        if !is(self.at) {
            self.at = if is(next) {
                next
            } else if let Some(latest) = self.latest.get(&group) {
                *latest
            } else {
                self.push(Touch {
                    group,
                    ..Touch::default()
                })
            };
        }
        &mut self.all[self.at]
    }

    fn push(&mut self, touch: Touch) -> usize {
        let at = self.all.len();
        if let Some(before) = self.latest.insert(touch.group, at) {
            self.all[before].is_past = true;
        }
        self.all.push(touch);
        at
    }
}
