//! Rebuilds the shards of a core from its log.
//!
//! The log is replayed once, in order. A group's hard state, repeated in every batch it takes part in,
//! says how far it had committed: entries up to there are applied at once and forgotten, so memory
//! holds only the uncommitted tail, which becomes raft's. An entry that repeats an index replaces it and
//! all after it, as in the log itself.
//! Must never know: who runs the shards, callers.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use henge_raft::{ConfState, Entry, EntryKind, HardState};
use henge_wal::{Record, Replay};

use crate::machine::{CommandError, Machine};
use crate::shard::log::{Position, TailLog, TermRuns};

/// What the log knew about one group.
#[derive(Default)]
pub struct RecoveredGroup {
    /// The state machine as of the last entry known to be committed.
    pub machine: Machine,
    /// The last hard state.
    pub hard_state: HardState,
    /// The entries after that, if there were any.
    pub log: Option<TailLog>,
    /// Acknowledged entries that the log lost, first and last: the group must not serve, vote or
    /// campaign, as it no longer has what it promised to have.
    pub lost: Option<(u64, u64)>,
}

/// Collects groups while the log is replayed.
pub struct Recovery {
    groups: BTreeMap<u64, Group>,
    conf_state: ConfState,
    now_ms: u64,
    /// The groups that live here; `None`: all.
    only: Option<BTreeSet<u64>>,
    /// Groups that are in the log and do not live here, as far as it was replayed.
    strangers: BTreeSet<u64>,
    refuse_if_nothing_is_left: bool,
    /// The first entry that could not be understood.
    fault: Option<RecoverFault>,
}

/// What was found cannot be turned into groups.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoverFault {
    /// A committed entry that this build does not understand.
    #[error(
        "group {group}, entry {index}: {error}; the log is intact, start the version that wrote it"
    )]
    Command {
        /// Its group.
        group: u64,
        /// Its index.
        index: u64,
        /// What is wrong.
        error: CommandError,
    },
    /// The log begins after a checkpoint that is not there.
    #[error(
        "group {group}: the log goes on after entry {needed}, but the newest checkpoint ends at \
         entry {found}; put the missing checkpoint file back; other members may \
         have what is lost (docs/faults.md, a member that lost its log)"
    )]
    MissingCheckpoint {
        /// Its group.
        group: u64,
        /// The entry a checkpoint must reach.
        needed: u64,
        /// The entry the newest one reaches; 0 if there is none.
        found: u64,
    },
    /// A group that lives on another core.
    #[error(
        "the log holds group {group}, which LAYOUT places on another core; put back the LAYOUT file that \
         belongs to these logs"
    )]
    Stranger {
        /// The group.
        group: u64,
    },
}

struct Group {
    machine: Machine,
    /// The checkpoint it started from.
    restored: Position,
    hard_state: HardState,
    /// The log says that a checkpoint reaches this far.
    compacted: u64,
    /// Not yet known to be committed.
    tail: VecDeque<Entry>,
    /// The terms of all entries after `restored`.
    terms: TermRuns,
    /// The entries up to here are in no checkpoint, and were not in the log so far.
    missing: Option<u64>,
    /// A hole in the log, not covered by the checkpoint it started from.
    lost: Option<(u64, u64)>,
}

impl Recovery {
    /// Starts empty. `now_ms` dates the leases that are granted again.
    pub fn new(conf_state: ConfState, now_ms: u64) -> Self {
        Recovery {
            groups: BTreeMap::new(),
            conf_state,
            now_ms,
            only: None,
            strangers: BTreeSet::new(),
            refuse_if_nothing_is_left: false,
            fault: None,
        }
    }

    /// Only these groups live on this core. Others may have been here, and must have left.
    pub fn only(&mut self, groups: impl IntoIterator<Item = u64>) {
        self.only = Some(groups.into_iter().collect());
    }

    /// A group that was restored from a checkpoint starts from there.
    pub fn restored(&mut self, group: u64, machine: Machine) {
        let restored = Position {
            index: machine.applied_index,
            term: machine.applied_term,
        };
        self.groups
            .insert(group, Group::starting(machine, restored));
    }

    /// The log may hold nothing but these groups' damage: then it is refused whole, as it was found,
    /// rather than opened for nobody.
    pub fn refuse_if_nothing_is_left(&mut self, refuse: bool) {
        self.refuse_if_nothing_is_left = refuse;
    }

    /// The groups found, or the first entry that could not be understood.
    pub fn finish(self) -> Result<BTreeMap<u64, RecoveredGroup>, RecoverFault> {
        if let Some(fault) = self.fault {
            return Err(fault);
        }
        if let Some(group) = self.strangers.first() {
            return Err(RecoverFault::Stranger { group: *group });
        }
        for (id, group) in &self.groups {
            let found = group.machine.applied_index;
            let missing = group.missing.filter(|_| group.lost.is_none());
            let needed = missing.unwrap_or(0).max(group.compacted);
            if needed > found {
                return Err(RecoverFault::MissingCheckpoint {
                    group: *id,
                    needed,
                    found,
                });
            }
        }
        let conf_state = self.conf_state;
        Ok(self
            .groups
            .into_iter()
            .map(|(id, group)| {
                let applied = Position {
                    index: group.machine.applied_index,
                    term: group.machine.applied_term,
                };
                // Of a damaged group only what is before the hole is believed.
                let (tail, terms) = match group.lost {
                    None => (Vec::from(group.tail), group.terms),
                    Some(_) => (Vec::new(), TermRuns::new(group.restored)),
                };
                let mut log =
                    TailLog::recovered(conf_state.clone(), group.restored, applied, terms);
                log.append(&tail);
                let (machine, hard_state) = (group.machine, group.hard_state);
                (
                    id,
                    RecoveredGroup {
                        machine,
                        hard_state,
                        log: Some(log),
                        lost: group.lost,
                    },
                )
            })
            .collect())
    }
}

impl Recovery {
    /// Whether a record is of a group that does not live here.
    fn is_strange(&mut self, record: &Record<'_>) -> bool {
        let Some(only) = &self.only else { return false };
        let group = record.group();
        if only.contains(&group) {
            return false;
        }
        match record {
            Record::Removed { .. } => self.strangers.remove(&group),
            _ => self.strangers.insert(group),
        };
        true
    }

    /// A group left this log, and may come back in it. What was applied stays: it was committed, and the
    /// log it went to held the same. What was not must be told again.
    fn left(&mut self, group: u64) {
        if let Some(group) = self.groups.get_mut(&group) {
            group.hard_state = HardState::default();
            group.compacted = 0;
            group.tail.clear();
            group.missing = None;
            group.lost = None;
        }
    }
}

impl Replay for Recovery {
    fn record(&mut self, record: Record<'_>) {
        if self.fault.is_some() || self.is_strange(&record) {
            return;
        }
        match record {
            Record::Entry {
                group,
                term,
                index,
                kind,
                payload,
            } => {
                let entry = Entry {
                    term,
                    index,
                    kind: EntryKind::from_u8(kind).unwrap_or_default(),
                    data: Bytes::copy_from_slice(payload),
                };
                self.groups.entry(group).or_default().push(entry);
            }
            Record::HardState {
                group: id,
                term,
                vote,
                commit,
            } => {
                let now_ms = self.now_ms;
                let group = self.groups.entry(id).or_default();
                group.hard_state = HardState { term, vote, commit };
                self.fault = group.apply_to(commit, id, now_ms).err();
            }
            Record::Removed { group } => self.left(group),
            Record::Restored { group, .. } => {
                let group = self.groups.entry(group).or_default();
                group.tail.clear();
                group.lost = None;
            }
            Record::Compacted { group, index, .. } => {
                self.groups.entry(group).or_default().compacted = index;
            }
            _ => {}
        }
    }

    fn refuses(&mut self, _: &[henge_wal::Damage]) -> bool {
        let nothing_left = self.groups.values().all(|group| group.lost.is_some());
        self.refuse_if_nothing_is_left && !self.groups.is_empty() && nothing_left
    }

    fn lost(&mut self, group: u64, first: u64, last: u64) {
        if self
            .only
            .as_ref()
            .is_some_and(|only| !only.contains(&group))
        {
            // It left, or `finish` says that it should have.
            return;
        }
        let group = self.groups.entry(group).or_default();
        // What a checkpoint holds is not missed.
        if last > group.machine.applied_index {
            group.tail.retain(|entry| entry.index < first);
            let from = group.lost.map_or(first, |(earlier, _)| earlier.min(first));
            group.lost = Some((from, last));
        }
    }
}

impl Default for Group {
    fn default() -> Self {
        Group::starting(Machine::default(), Position::default())
    }
}

impl Group {
    fn starting(machine: Machine, restored: Position) -> Self {
        Group {
            machine,
            restored,
            hard_state: HardState::default(),
            compacted: 0,
            tail: VecDeque::new(),
            terms: TermRuns::new(restored),
            missing: None,
            lost: None,
        }
    }

    fn push(&mut self, entry: Entry) {
        let found = self.machine.applied_index;
        if self.lost.is_some_and(|(first, _)| entry.index <= first) {
            // Another entry took the place of what was lost (a new leader's, or a repair's): nobody
            // misses it, nor what followed it.
            self.lost = None;
            self.tail.retain(|later| later.index < entry.index);
        }
        if entry.index <= found {
            return;
        }
        if entry.index == found + 1 {
            self.missing = None;
        } else if self.lost.is_none() && self.tail.is_empty() {
            // What is between may come yet: a group that pinned an old segment is written again, whole.
            self.missing = Some(entry.index - 1);
        }
        while self
            .tail
            .back()
            .is_some_and(|last| last.index >= entry.index)
        {
            self.tail.pop_back();
        }
        self.terms.push(entry.index, entry.term);
        self.tail.push_back(entry);
    }

    fn apply_to(&mut self, commit: u64, group: u64, now_ms: u64) -> Result<(), RecoverFault> {
        let commit = self
            .lost
            .map_or(commit, |(first, _)| commit.min(first.saturating_sub(1)));
        if self.missing.is_some() {
            return Ok(());
        }
        while let Some(entry) = self.tail.pop_front_if(|entry| entry.index <= commit) {
            let Entry {
                index,
                term,
                kind,
                data,
            } = entry;
            let payload: &[u8] = if kind == EntryKind::Normal {
                &data
            } else {
                &[]
            };
            self.machine
                .apply(index, term, payload, now_ms)
                .map_err(|error| RecoverFault::Command {
                    group,
                    index,
                    error,
                })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use henge_raft::Storage;

    use super::*;

    const GROUP: u64 = 7;

    fn entries(recovery: &mut Recovery, term: u64, range: std::ops::RangeInclusive<u64>) {
        for index in range {
            recovery.record(Record::Entry {
                group: GROUP,
                term,
                index,
                kind: EntryKind::Normal as u8,
                payload: b"",
            });
        }
    }

    fn hard(recovery: &mut Recovery, term: u64, commit: u64) {
        recovery.record(Record::HardState {
            group: GROUP,
            term,
            vote: 1,
            commit,
        });
    }

    fn from_checkpoint(index: u64) -> Recovery {
        let mut recovery = Recovery::new(ConfState::default(), 0);
        let machine = Machine {
            applied_index: index,
            applied_term: 2,
            leases_expired: 0,
            ..Machine::default()
        };
        recovery.restored(GROUP, machine);
        recovery
    }

    /// The entries 41 to 49 were in a segment that was let go once they had been written again, with all
    /// of the group's, behind what it wrote last. Replay meets the later ones first.
    #[test]
    fn the_log_of_a_rewritten_group_begins_after_a_gap() {
        let mut recovery = from_checkpoint(40);
        entries(&mut recovery, 2, 50..=60);
        // Said in every batch the group takes part in: nothing can be applied yet.
        hard(&mut recovery, 3, 60);
        assert_eq!(recovery.groups[&GROUP].machine.applied_index, 40);
        entries(&mut recovery, 2, 41..=60);
        hard(&mut recovery, 3, 58);
        let found = recovery.finish().expect("nothing is missing");
        let group = &found[&GROUP];
        assert_eq!(group.machine.applied_index, 58);
        let log = group.log.as_ref().expect("it has a log");
        let position = |index| log.term(index).ok();
        assert_eq!((log.last_index(), position(60)), (Ok(60), Some(2)));
    }

    #[test]
    fn a_gap_that_is_never_filled_is_a_missing_checkpoint() {
        let mut recovery = from_checkpoint(40);
        entries(&mut recovery, 2, 50..=60);
        hard(&mut recovery, 3, 60);
        assert_eq!(
            recovery.finish().err(),
            Some(RecoverFault::MissingCheckpoint {
                group: GROUP,
                needed: 49,
                found: 40
            })
        );
    }
}
