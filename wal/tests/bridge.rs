//! Repair of damage that no group can be named for: whatever was hit, the log opens afterwards, and every
//! group that may have lost something is damaged; no group is silently short, none has what it never had.
//!
//! What is due is computed from what was written, never from what recovery says.

mod common;

use std::collections::BTreeMap;

use common::model::{Rec, Twin};
use common::{Dice, Opened, nothing_is_invented, seed, small};
use henge_wal::disk::sim::{Fault, Keep, SimHandle};
use henge_wal::repair::{Plan, RepairError, apply_on};
use henge_wal::{BatchInfo, Collect, Damage, OpenError, Record, Replay, Wal};

/// A log of a few segments, as groups of raft write it: what is committed is never replaced, terms never
/// fall. Some groups speak often, some rarely, one is removed, one is restored from a snapshot.
fn write(seed: u64, turns: u64) -> (SimHandle, Collect) {
    let mut dice = Dice(seed);
    let mut twin = Twin::new(SimHandle::new(seed, 2), small());
    twin.open().expect("a new log");
    let mut gone = std::collections::BTreeSet::new();
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

fn term_at(log: &henge_wal::GroupLog, index: u64) -> u64 {
    let entry = log.entries.iter().find(|e| e.index == index);
    entry.map_or(log.compacted_term, |e| e.term)
}

fn open(machine: &SimHandle) -> Result<Opened, OpenError> {
    common::open("sim".as_ref(), &small(), Box::new(machine.disk()))
}

fn repair(machine: &SimHandle) -> Result<Plan, RepairError> {
    apply_on(&mut machine.disk(), "sim".as_ref())
}

/// File -> batches: offset and end.
fn layout(machine: &SimHandle) -> BTreeMap<String, Vec<(usize, usize)>> {
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
    Wal::open("sim".as_ref(), &small(), &common::US, disk, &mut layout).expect("a good log");
    layout.0
}

/// No group is silently short, none has what it never had.
fn is_honest(opened: &Opened, due: &Collect, what: &str) {
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
fn repaired(machine: &SimHandle, due: &Collect, what: &str) -> bool {
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
    common::block_on(async {
        for index in 1..=9 {
            wal.entry(1_000, 1, index, 0, &[7; 9_000]).expect("fits");
            common::commit(&mut wal).await;
        }
        common::close(wal).await;
    });
    let again = open(machine).unwrap_or_else(|e| panic!("{what}: went on, then {e}"));
    assert_eq!(again.report.damaged, plan.damaged, "{what}: later");
    assert_eq!(again.found.groups[&1_000].entries.len(), 9, "{what}");
    let mut again = again;
    again.found.groups.remove(&1_000);
    is_honest(&again, due, &format!("{what}, later"));
    drop(again.wal);
    assert!(
        !repair(machine).expect("it opens").reopens(),
        "{what}: done"
    );
    true
}

#[test]
fn whatever_blocks_are_gone_no_group_is_silently_short() {
    let seed = seed(1);
    let (mut bridged, mut cases) = (0, 0);
    for log in 0..24 {
        let (machine, due) = write(seed.wrapping_mul(1_000).wrapping_add(log), 26);
        let mut dice = Dice(seed.wrapping_add(log));
        let layout = layout(&machine);
        let names: Vec<&String> = layout.keys().collect();
        for _ in 0..14 {
            let copy = machine.fork(1);
            let mut what = format!("seed {seed} log {log}:");
            for _ in 0..1 + dice.below(2) {
                let name = names[dice.below(names.len() as u64) as usize];
                let batches = &layout[name];
                let (begin, end) = *batches.last().expect("batches");
                let last = name == *names.last().expect("files");
                // The last batch may pass for a torn one: not that.
                let end = if last { begin } else { end + 4096 };
                let end = (end / 4096).min(16);
                let from = dice.below(end as u64) as usize;
                let to = (from + 1 + dice.below(6) as usize).min(end);
                let mut bytes = copy.file(name).expect("a segment");
                match dice.below(3) {
                    0 => bytes[from * 4096..to * 4096].fill(0),
                    1 => bytes[from * 4096..to * 4096]
                        .iter_mut()
                        .for_each(|b| *b ^= 0x3c),
                    _ => (from..to).for_each(|block| bytes[block * 4096 + 5] ^= 1),
                }
                what += &format!(" {name} blocks {from}..{to} of {end};");
                copy.set_file(name, Some(bytes));
            }
            cases += 1;
            bridged += u64::from(repaired(&copy, &due, &what));
        }
    }
    println!("{bridged} of {cases} needed a bridge");
    assert!(bridged > 60, "{bridged}");
}

/// A log that was closed, with at least four segments.
fn long() -> (SimHandle, Collect, Vec<String>) {
    let (machine, due) = write(4, 40);
    let names: Vec<String> = layout(&machine).into_keys().collect();
    assert!(names.len() >= 4, "{names:?}");
    (machine, due, names)
}

#[test]
fn a_header_without_a_copy_is_made_again_and_costs_nothing() {
    let (machine, due, names) = long();
    for (at, name) in names.iter().enumerate() {
        let copy = machine.fork(1);
        let good = copy.file(name).expect("a segment");
        let mut bytes = good.clone();
        [10, 4106].iter().for_each(|at| bytes[*at] ^= 1);
        copy.set_file(name, Some(bytes));
        if at == 0 && open(&copy.fork(1)).is_ok() {
            continue;
        }
        let plan = repair(&copy).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(plan.headers.len(), 1, "{name}");
        assert_eq!((plan.bridges.len(), plan.damaged.len()), (0, 0), "{name}");
        let opened = open(&copy).expect("repaired");
        assert!(
            opened.found == due && opened.report.damaged.is_empty(),
            "{name}"
        );
    }
}

#[test]
fn a_segment_that_is_gone_costs_what_was_in_it() {
    let (machine, due, names) = long();
    for name in &names {
        let copy = machine.fork(1);
        copy.set_file(name, None);
        assert!(repaired(&copy, &due, &format!("{name} is gone")), "{name}");
        let two = machine.fork(1);
        two.set_file(name, None);
        let other = names
            .iter()
            .find(|other| *other != name)
            .expect("more than one");
        let mut bytes = two.file(other).expect("a segment");
        bytes[8192 + 4096..16 * 4096].fill(0);
        two.set_file(other, Some(bytes));
        assert!(repaired(
            &two,
            &due,
            &format!("{name} is gone, {other} is hit")
        ));
    }
}

#[test]
fn a_group_that_spoke_behind_the_hole_as_it_did_before_is_whole() {
    let mut twin = Twin::new(SimHandle::new(3, 1), small());
    twin.open().expect("a new log");
    let mut say = |group: u64, index: u64| {
        twin.stage(Rec::Entry(group, 1, index, vec![index as u8; 300]));
        twin.stage(Rec::Hard(group, 1, 2, index - 1));
        twin.submit();
        twin.settle();
    };
    // The hole takes the batch of group 2 with entry 2; the others go on behind it, but for group 4.
    for (group, index) in [
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (2, 2),
        (1, 2),
        (2, 3),
        (3, 2),
    ] {
        say(group, index);
    }
    let due = twin.newest();
    let machine = twin.machine.fork(1);
    let (name, batches) = layout(&machine).pop_first().expect("a segment");
    let mut bytes = machine.file(&name).expect("it");
    bytes[batches[4].0..batches[4].1].fill(0);
    machine.set_file(&name, Some(bytes));
    let plan = repair(&machine).expect("it can be bridged");
    let hit: Vec<_> = plan
        .damaged
        .iter()
        .map(|d| (d.group, d.first, d.last))
        .collect();
    assert_eq!(hit, [(2, 2, 2), (4, 1, Damage::NO_END)]);
    // A group that began in the hole and said no more cannot be excluded.
    assert!(plan.nameless);
    let bridge = &plan.bridges[0];
    assert_eq!(
        (bridge.offset as usize, bridge.batches),
        (batches[4].0, (5, 5))
    );
    let kept = machine
        .names()
        .into_iter()
        .find(|name| name.ends_with(".lost"));
    let kept = machine.file(&kept.expect("a copy is kept")).expect("it");
    assert_eq!(kept.len(), 4_096);
    let opened = open(&machine).expect("bridged");
    is_honest(&opened, &due, "one batch");
    assert!(!opened.wal.knows(9) && opened.wal.knows(4));
}

/// Every operation of a repair fails, once, from then on, or with the power: then it is done again.
#[test]
fn a_repair_can_be_interrupted_anywhere() {
    let (machine, due, names) = long();
    let hit = machine.fork(1);
    let layout = layout(&machine);
    for name in &names[1..3] {
        let end = layout[name].last().expect("batches").1;
        let mut bytes = hit.file(name).expect("a segment");
        // With the footer, which would say whose they were.
        bytes[end - 3 * 4096..(end + 4096).min(64 * 1024)].fill(0);
        hit.set_file(name, Some(bytes));
    }
    hit.set_file(&names[3], {
        let mut bytes = hit.file(&names[3]).expect("a segment");
        [10, 4106].iter().for_each(|at| bytes[*at] ^= 1);
        Some(bytes)
    });
    let whole = hit.fork(1);
    let plan = repair(&whole).expect("it can be repaired");
    assert!(
        plan.bridges.len() >= 2 && plan.headers.len() == 1,
        "{plan:?}"
    );
    let due_damage = open(&whole).expect("repaired").report.damaged;
    let mut cases = 0;
    for fault in [
        Fault::Error(5),
        Fault::ErrorForEver(5),
        Fault::Error(28),
        Fault::Crash,
    ] {
        for n in 0.. {
            let copy = hit.fork(n);
            let before = copy.ops();
            copy.fail(n, fault);
            let done = repair(&copy);
            let reached = copy.ops() > before + n;
            copy.heal();
            match fault {
                Fault::Crash => copy.crash(&Keep::Seeded(n)),
                _ => copy.crash(&Keep::Everything),
            }
            if !reached {
                assert!(done.is_ok());
                break;
            }
            cases += 1;
            if open(&copy.fork(1)).is_err() {
                repair(&copy).unwrap_or_else(|e| panic!("{fault:?} at {n}: {e}"));
            }
            let opened = open(&copy).unwrap_or_else(|e| panic!("{fault:?} at {n}: {e}"));
            assert_eq!(opened.report.damaged, due_damage, "{fault:?} at {n}");
            is_honest(&opened, &due, &format!("{fault:?} at {n}"));
        }
    }
    println!("{cases} interruptions");
    assert!(cases > 100, "{cases}");
}

/// What is there twice and was read from its other copy is reported, and a repair brings back the very
/// bytes that were there.
#[test]
fn damaged_copies_are_reported_and_made_good_again() {
    let (machine, due, names) = long();
    let layout = layout(&machine);
    let (name, batches) = (&names[1], &layout[&names[1]]);
    let (at, end) = batches[1];
    let good = machine.file(name).expect("a segment");
    for (hit, offset, what) in [
        (20, 0, "segment header"),
        (4_200, 0, "segment header"),
        (at + 60, at, "header of batch"),
        (end - 60, at, "trailer of batch"),
    ] {
        let copy = machine.fork(1);
        let mut bytes = good.clone();
        bytes[hit] ^= 8;
        copy.set_file(name, Some(bytes));
        let opened = open(&copy).expect("it is there twice");
        let healed = &opened.report.healed;
        assert_eq!(healed.len(), 1, "{healed:?}");
        assert!(
            healed[0].mendable && healed[0].what.contains(what),
            "{healed:?}"
        );
        assert!(healed[0].file.ends_with(name) && healed[0].offset == offset as u64);
        assert_eq!(opened.wal.stats().healed, 1);
        drop(opened.wal);
        let plan = repair(&copy).expect("it opens");
        assert_eq!((plan.mended.len(), plan.reopens()), (1, false));
        assert!(
            copy.file(name).as_ref() == Some(&good),
            "{what}: other bytes"
        );
        let opened = open(&copy).expect("whole");
        assert!(opened.report.healed.is_empty() && opened.found == due);
        drop(opened.wal);
        assert!(repair(&copy).expect("whole").is_empty());
    }
    // Marks and footers repeat what records say: they are named, and go with their segment.
    let copy = machine.fork(1);
    let mut bytes = good.clone();
    bytes[end - 200] ^= 8;
    copy.set_file(name, Some(bytes));
    let opened = open(&copy).expect("the records are whole");
    assert!(
        opened
            .report
            .healed
            .iter()
            .all(|h| !h.mendable && h.what.contains("marks"))
    );
    drop(opened.wal);
    let plan = repair(&copy).expect("it opens");
    assert_eq!((plan.mended.len(), plan.unmended.len()), (0, 1));
}

/// How a group's logs differ, in few words.
fn differ(found: &henge_wal::GroupLog, due: &henge_wal::GroupLog) -> String {
    let brief = |log: &henge_wal::GroupLog| {
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
