//! Logs that are damaged where nothing tells whose the batches were, their repair, and what must be true
//! afterwards: what is due is computed from what was written, never from what recovery says.

use std::collections::{BTreeMap, BTreeSet};

use henge_wal::disk::sim::{Keep, SimHandle};
use henge_wal::repair::{Plan, RepairError, apply_on};
use henge_wal::{BatchInfo, Collect, Damage, GroupLog, OpenError, Record, Replay, Wal};

use super::model::{Rec, Twin};
use super::{Dice, Opened, nothing_is_invented, small};

/// A log of a few segments, as groups of raft write it: what is committed is never replaced, terms never
/// fall. Some groups speak often, some rarely, one is removed, one is restored from a snapshot.
pub fn write(seed: u64, turns: u64) -> (SimHandle, Collect) {
    let mut dice = Dice(seed);
    let mut twin = Twin::new(SimHandle::new(seed, 2), small());
    twin.open().expect("a new log");
    let mut gone = BTreeSet::new();
    for turn in 0..turns {
        for _ in 0..1 + dice.below(2) {
            let group = 1 + dice.below(3 + turn % 4);
            if gone.contains(&group) {
                continue; // a group does not begin anew with terms that it had
            }
            let log = twin.newest().groups.get(&group).cloned();
            let log = log.unwrap_or_default();
            let (last, term) = (log.last(), log.term.max(1));
            match dice.below(16) {
                0 if last > log.commit => {
                    // A new leader replaces what was not committed.
                    let index = log.commit + 1 + dice.below(last - log.commit);
                    twin.stage(Rec::Hard(group, term + 1, 1 + dice.below(3), log.commit));
                    twin.stage(Rec::Entry(group, term + 1, index, vec![turn as u8; 200]));
                }
                1 if log.commit > log.compacted => {
                    twin.stage(Rec::Compacted(group, log.commit, term_at(&log, log.commit)));
                }
                2 if dice.below(3) == 0 => {
                    let index = last + 1 + dice.below(9);
                    twin.stage(Rec::Restored(group, index, term));
                    twin.stage(Rec::Hard(group, term, 2, index));
                }
                3 if group > 3 && dice.below(3) == 0 => {
                    gone.insert(group);
                    twin.stage(Rec::Removed(group));
                }
                4 => twin.stage(Rec::Hard(group, term + dice.below(2), 2, log.commit)),
                _ => {
                    let bytes = if turn % 5 == 0 { 7_000 } else { 300 };
                    for n in 1..=1 + dice.below(3) {
                        let payload = vec![turn as u8 | 1; bytes];
                        twin.stage(Rec::Entry(group, term, last + n, payload));
                    }
                    let commit = log.commit.max(last - dice.below(3).min(last));
                    twin.stage(Rec::Hard(group, term, 2, commit));
                }
            }
        }
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    match seed % 3 {
        0 => twin.crash(&Keep::Everything),
        _ => twin.close(),
    }
    (twin.machine, state)
}

fn term_at(log: &GroupLog, index: u64) -> u64 {
    let entry = log.entries.iter().find(|e| e.index == index);
    entry.map_or(log.compacted_term, |e| e.term)
}

pub fn open(machine: &SimHandle) -> Result<Opened, OpenError> {
    super::open("sim".as_ref(), &small(), Box::new(machine.disk()))
}

pub fn repair(machine: &SimHandle) -> Result<Plan, RepairError> {
    apply_on(&mut machine.disk(), "sim".as_ref())
}

/// File -> batches: offset and end.
pub fn layout(machine: &SimHandle) -> BTreeMap<String, Vec<(usize, usize)>> {
    #[derive(Default)]
    struct Layout(BTreeMap<String, Vec<(usize, usize)>>);
    impl Replay for Layout {
        fn record(&mut self, _: Record<'_>) {}

        fn batch(&mut self, info: &BatchInfo) {
            let (offset, bytes) = (info.offset as usize, info.bytes as usize);
            let batches = self.0.entry(format!("{:016x}.seg", info.seq)).or_default();
            batches.push((offset, offset + bytes));
        }
    }
    let mut layout = Layout::default();
    let disk = Box::new(machine.fork(0).disk());
    Wal::open("sim".as_ref(), &small(), &super::US, disk, &mut layout).expect("a good log");
    layout.0
}

/// No group is silently short, none has what it never had.
pub fn is_honest(opened: &Opened, due: &Collect, what: &str) {
    let report = &opened.report;
    for (group, log) in &due.groups {
        let holes: Vec<&Damage> = report
            .damaged
            .iter()
            .filter(|d| d.group == *group)
            .collect();
        let Some(found) = opened.found.groups.get(group) else {
            assert!(report.nameless.is_some(), "{what}: group {group} is gone");
            continue;
        };
        if holes.is_empty() {
            assert!(
                found == log,
                "{what}: group {group} is not named and differs: {}",
                differ(found, log)
            );
        }
        for entry in &log.entries {
            let has = found.entries.iter().any(|e| e == entry);
            let lost = holes
                .iter()
                .any(|d| (d.first..=d.last).contains(&entry.index));
            let covered = found.compacted >= entry.index;
            assert!(
                has || lost || covered,
                "{what}: group {group} entry {}: {holes:?}, {} entries",
                entry.index,
                found.entries.len()
            );
        }
    }
    // A group that was removed in the hole, and of which nothing is said later, is damaged, not wrong.
    let mut known = opened.found.clone();
    known
        .groups
        .retain(|group, _| due.groups.contains_key(group));
    for group in opened.found.groups.keys() {
        let named = report.damaged.iter().any(|d| d.group == *group);
        assert!(
            due.groups.contains_key(group) || named,
            "{what}: group {group}"
        );
    }
    for (group, log) in &mut known.groups {
        // Behind the begin of a hole without an end nothing is believed.
        let hole = report.damaged.iter().find(|d| d.group == *group);
        let first = hole.map_or(u64::MAX, |d| d.first);
        let ends = hole.is_some_and(|d| d.last < Damage::NO_END);
        // A compaction may have been in the hole: what it covers was written, and is not compared.
        let covered = due.groups[group].compacted;
        log.entries
            .retain(|e| (ends || e.index < first) && e.index > covered);
    }
    nothing_is_invented(&known, due);
}

/// Repair, and say what became of it; `false`: it was not needed.
pub fn repaired(machine: &SimHandle, due: &Collect, what: &str) -> bool {
    let Err(error) = open(&machine.fork(1)) else {
        return false;
    };
    let plan = repair(machine).unwrap_or_else(|e| panic!("{what}: {error}: {e}"));
    assert!(plan.reopens(), "{what}");
    let opened = open(machine).unwrap_or_else(|e| panic!("{what}: repaired, then {e}"));
    assert_eq!(opened.report.damaged, plan.damaged, "{what}");
    assert_eq!(opened.report.nameless.is_some(), plan.nameless, "{what}");
    is_honest(&opened, due, what);
    // It goes on, through rotations; and what is damaged stays so.
    let mut wal = opened.wal;
    super::block_on(async {
        for index in 1..=9 {
            wal.entry(1_000, 1, index, 0, &[7; 9_000]).expect("fits");
            super::commit(&mut wal).await;
        }
        super::close(wal).await;
    });
    let again = open(machine).unwrap_or_else(|e| panic!("{what}: went on, then {e}"));
    assert_eq!(
        spans(&again.report.damaged),
        spans(&plan.damaged),
        "{what}: later"
    );
    assert_eq!(again.found.groups[&1_000].entries.len(), 9, "{what}");
    let mut again = again;
    again.found.groups.remove(&1_000);
    is_honest(&again, due, &format!("{what}, later"));
    let low_seq = again.wal.stats().low_seq;
    drop(again.wal);
    assert!(
        !repair(machine).expect("it opens").reopens(),
        "{what}: done"
    );
    stays_known(machine, low_seq, &again.report.damaged, due, what);
    true
}

/// Groups and indexes. (In which of several holes it was is not always known once older segments are gone.)
pub fn spans(damaged: &[Damage]) -> Vec<(u64, u64, u64)> {
    damaged.iter().map(|d| (d.group, d.first, d.last)).collect()
}

/// Segments that are not needed any more may go at any time, and what was lost stays known.
fn stays_known(machine: &SimHandle, low_seq: u64, damaged: &[Damage], due: &Collect, what: &str) {
    let copy = machine.fork(1);
    for name in copy.names() {
        if name.ends_with(".seg") && name < format!("{low_seq:016x}.seg") {
            copy.set_file(&name, None);
        }
    }
    let opened = open(&copy).unwrap_or_else(|e| panic!("{what}: purged, then {e}"));
    assert_eq!(
        spans(&opened.report.damaged),
        spans(damaged),
        "{what}: purged up to {low_seq}"
    );
    let mut opened = opened;
    opened.found.groups.remove(&1_000);
    is_honest(&opened, due, &format!("{what}, purged up to {low_seq}"));
}

/// How a group's logs differ, in few words.
fn differ(found: &GroupLog, due: &GroupLog) -> String {
    let brief = |log: &GroupLog| {
        let ends = log.entries.front().map(|e| (e.index, e.term));
        let ends = (ends, log.entries.back().map(|e| (e.index, e.term)));
        let hard = (log.term, log.vote, log.commit);
        let compacted = (log.compacted, log.compacted_term);
        format!(
            "hard {hard:?}, compacted {compacted:?}, entries {ends:?}, lost {:?}",
            log.lost
        )
    };
    format!("{}; due {}", brief(found), brief(due))
}
