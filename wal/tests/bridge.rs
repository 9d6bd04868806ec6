//! Repair of damage that no group can be named for: whatever was hit, the log opens afterwards, and every
//! group that may have lost something is damaged; no group is silently short, none has what it never had.
//!
//! What is due is computed from what was written, never from what recovery says. A dozen seeds by default;
//! `HENGE_SEED=1000 HENGE_SEEDS=2000 cargo test -p henge-wal --test bridge whatever` tries 2,000 from 1,000
//! on (ten minutes); what fails says its seed, which alone is `HENGE_SEED=n HENGE_SEEDS=1`.

mod common;

use common::honest::{is_honest, layout, open, repair, repaired, write};
use common::model::{Rec, Twin};
use common::{Dice, seed, small};
use henge_wal::disk::sim::{Fault, Keep, SimHandle};
use henge_wal::{Collect, Damage};

/// How many seeds are tried, one after the other from the first on: a minute for 200.
fn seeds() -> u64 {
    let asked = std::env::var("HENGE_SEEDS").ok();
    asked.and_then(|n| n.parse().ok()).unwrap_or(12)
}

/// Logs of one seed, each damaged in many ways; how many cases, and how many of them needed a repair.
fn whatever(seed: u64) -> (u64, u64) {
    let (mut bridged, mut cases) = (0, 0);
    for log in 0..24 {
        let (machine, due) = write(seed.wrapping_mul(1_000).wrapping_add(log), 26);
        let mut dice = Dice(seed.wrapping_add(log));
        let layout = layout(&machine);
        let names: Vec<&String> = layout.keys().collect();
        for _ in 0..14 {
            let copy = machine.fork(1);
            let mut what = format!("seed {seed} log {log}:");
            for _ in 0..1 + dice.below(3) {
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
    (cases, bridged)
}

#[test]
fn whatever_blocks_are_gone_no_group_is_silently_short() {
    let first = seed(1);
    for seed in first..first.saturating_add(seeds()) {
        let (cases, bridged) = whatever(seed);
        println!("seed {seed}: {bridged} of {cases} needed a bridge");
        assert!(bridged > 60, "{bridged}");
    }
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
