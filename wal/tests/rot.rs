//! Every byte flipped, every sector zeroed, every two blocks swapped, every stale block put back: each
//! case over a small sealed log is detected and called what it is, and costs no more than what it hit.

mod common;

use std::collections::BTreeMap;

use common::layout::{Sealed, Tally, locate, open, sealed};
use common::model::{Rec, Twin};
use common::{Dice, holes_are_all_that_differs, seed, small};
use henge_wal::OpenError;
use henge_wal::disk::sim::SimHandle;

#[test]
fn every_flipped_byte() {
    let log = sealed();
    let mut tally = Tally::default();
    for (name, batches) in &log.files {
        let end = batches.last().expect("batches").end;
        // Every byte of what has a meaning; of the many equal bytes of payload and padding some, or, with
        // HENGE_EVERY_BYTE (a minute on two cores), all.
        let dense = |at: usize| {
            at.is_multiple_of(4096)
                || at % 4096 < 130
                || batches.iter().any(|b| {
                    at >= b.offset
                        && at < b.end
                        && (at + 300 >= b.end || at.abs_diff(b.marks_at) < 300)
                })
        };
        let stride = match std::env::var_os("HENGE_EVERY_BYTE") {
            Some(_) => 1,
            None => 31,
        };
        for at in (0..end + 4096).filter(|at| dense(*at) || at.is_multiple_of(stride)) {
            let damaged = log.with(name, |bytes| bytes[at] ^= 1 << (at % 8));
            let what = format!("{name} byte {at}");
            assert!(log.judge(&damaged, &what, &mut tally), "{what}");
        }
    }
    println!("{tally:?}");
    // One bad byte never costs more than the groups whose records it hit.
    assert_eq!((tally.of("refused"), tally.of("not said")), (0, 0));
    let enough = tally.of("noted") > 2_000 && tally.of("damaged") > 1_000 && tally.of("cut") > 0;
    assert!(enough, "{tally:?}");
}

#[test]
fn every_zeroed_sector() {
    let log = sealed();
    let mut tally = Tally::default();
    for (name, batches) in &log.files {
        let end = batches.last().expect("batches").end;
        for at in (0..end).step_by(512) {
            let damaged = log.with(name, |bytes| bytes[at..at + 512].fill(0));
            let what = format!("{name} sector at {at}");
            assert!(log.judge(&damaged, &what, &mut tally), "{what}");
        }
    }
    println!("{tally:?}");
    assert_eq!((tally.of("refused"), tally.of("not said")), (0, 0));
    assert!(
        tally.of("noted") > 20 && tally.of("damaged") > 50,
        "{tally:?}"
    );
}

#[test]
fn every_zeroed_block_run() {
    let log = sealed();
    let mut tally = Tally::default();
    for (name, batches) in &log.files {
        let blocks = batches.last().expect("batches").end / 4096;
        for from in 0..blocks {
            for to in from + 1..=blocks {
                let damaged = log.with(name, |bytes| bytes[from * 4096..to * 4096].fill(0));
                log.judge(&damaged, &format!("{name} blocks {from}..{to}"), &mut tally);
            }
        }
    }
    println!("{tally:?}");
    assert!(
        tally.of("damaged") > 20 && tally.of("refused") > 20 && tally.of("not said") < 40,
        "{tally:?}"
    );
}

#[test]
fn every_two_blocks_swapped() {
    let log = sealed();
    let mut tally = Tally::default();
    let places: Vec<(String, usize)> = log
        .files
        .iter()
        .flat_map(|(name, batches)| {
            let blocks = batches.last().expect("batches").end / 4096;
            (0..blocks).map(move |block| (name.clone(), block * 4096))
        })
        .collect();
    let block = |(name, at): &(String, usize)| {
        log.machine.file(name).expect("a segment")[*at..at + 4096].to_vec()
    };
    for (n, one) in places.iter().enumerate() {
        for two in &places[n + 1..] {
            let (first, second) = (block(one), block(two));
            let copy = log.with(&one.0, |bytes| {
                bytes[one.1..one.1 + 4096].copy_from_slice(&second);
            });
            let mut bytes = copy.file(&two.0).expect("a segment");
            bytes[two.1..two.1 + 4096].copy_from_slice(&first);
            copy.set_file(&two.0, Some(bytes));
            log.judge(&copy, &format!("{one:?} and {two:?}"), &mut tally);
        }
    }
    println!("{tally:?}");
    assert!(
        tally.of("refused") > 20 && tally.of("damaged") > 500 && tally.of("not said") < 40,
        "{tally:?}"
    );
}

/// Segments are recycled without being zeroed: blocks of an earlier life that come back (a lost write)
/// are never taken for what should lie there.
#[test]
fn stale_blocks_of_an_earlier_life_are_recognised() {
    let mut twin = Twin::new(SimHandle::new(6, 1), small());
    twin.open().expect("a new log");
    let mut old: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut index = 0;
    // Until a file is used for the second time, remember what every file looked like before.
    while twin
        .wal
        .as_ref()
        .is_some_and(|wal| wal.stats().recycled < 3)
    {
        index += 1;
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 9_000]));
        twin.stage(Rec::Entry(2, 1, index, vec![index as u8; 50]));
        if index > 3 {
            twin.stage(Rec::Compacted(1, index - 3, 1));
            twin.stage(Rec::Compacted(2, index - 3, 1));
        }
        twin.submit();
        twin.settle();
    }
    let begun = index;
    for name in twin.machine.names().iter().filter(|n| n.ends_with(".seg")) {
        old.insert(name.clone(), twin.machine.file(name).expect("a file"));
    }
    while index < begun + 9 {
        index += 1;
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 9_000]));
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    twin.close();
    let files = locate(&twin.machine);
    let log = Sealed {
        machine: twin.machine,
        state,
        files,
    };
    let mut tally = Tally::default();
    let stale = old.iter().filter(|(name, _)| log.files.contains_key(*name));
    for (name, before) in stale {
        let now = log.machine.file(name).expect("a file");
        let end = log.files[name].last().expect("batches").end;
        for from in (0..end).step_by(4096) {
            // A whole end replaced by what was there before is a lost tail, which nothing in the log can
            // testify: the closing mark stays.
            for to in [from + 4096, (end - 4096).max(from + 4096)] {
                if now[from..to] == before[from..to] {
                    continue;
                }
                let what = format!("{name} {from}..{to} of {end}");
                let copy = log.with(name, |bytes| {
                    bytes[from..to].copy_from_slice(&before[from..to])
                });
                log.judge(&copy, &what, &mut tally);
            }
        }
    }
    println!("{tally:?}");
    assert!(tally.of("refused") + tally.of("damaged") > 5, "{tally:?}");
}

/// Two damaged places at a time, anywhere: never another state, never a panic.
#[test]
fn two_damaged_places() {
    let seed = seed(1);
    let log = sealed();
    let names: Vec<&String> = log.files.keys().collect();
    let mut tally = Tally::default();
    let mut dice = Dice(seed);
    for case in 0..4_000 {
        let copy = log.machine.fork(1);
        for _ in 0..2 {
            let name = names[dice.below(names.len() as u64) as usize];
            let end = log.files[name].last().expect("batches").end as u64;
            // Not the last batch: damage there may pass for a tear.
            let sector = dice.below((end - 4096) / 512) as usize * 512;
            let mut bytes = copy.file(name).expect("a segment");
            bytes[sector..sector + 512]
                .iter_mut()
                .for_each(|b| *b ^= 0xa5);
            copy.set_file(name, Some(bytes));
        }
        match open(&copy) {
            Ok(opened) => {
                holes_are_all_that_differs(&opened, &log.state);
                tally.count(if opened.report.damaged.is_empty() {
                    "whole"
                } else {
                    "damaged"
                });
            }
            Err(OpenError::Corrupt(_)) => tally.count("refused"),
            Err(other) => panic!("case {case}: {other}"),
        }
    }
    println!("{tally:?}");
    assert!(
        tally.of("damaged") > 500 && tally.of("whole") > 20,
        "{tally:?}"
    );
}
