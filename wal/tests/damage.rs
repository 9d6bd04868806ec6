//! Damage anywhere: flipped bytes, zeroed sectors, swapped blocks, mutated directories. Each is detected and
//! called what it is; nothing acknowledged is silently lost, nothing invented.

mod common;

use common::sealed::{live, open_again, sealed};
use common::{Dice, seed};
use henge_wal::disk::sim::SimHandle;
use henge_wal::{Collect, OpenError};

/// What a case of damage came to.
#[derive(Debug, Default)]
struct Tally {
    corrupt: u64,
    noted: u64,
    unharmed: u64,
    cut: u64,
    missing: u64,
    damaged: u64,
}

impl Tally {
    /// Damage at `offset` of a file whose log part is `end` bytes.
    fn judge(
        &mut self,
        machine: &SimHandle,
        state: &Collect,
        name: &str,
        offset: usize,
        end: usize,
    ) {
        match open_again(machine) {
            Ok(opened) if !opened.report.damaged.is_empty() => {
                for damage in &opened.report.damaged {
                    assert!(damage.file.ends_with(name), "{name} {offset}: {damage}");
                    assert!(damage.offset <= offset as u64, "{name} {offset}: {damage}");
                }
                common::holes_are_all_that_differs(&opened, state);
                self.damaged += 1;
            }
            Ok(opened) => {
                let (found, notes) = (opened.found, opened.report.healed);
                let cut = opened.report.cut.is_some();
                assert!(
                    found == *state,
                    "{name} {offset}: opened with another state"
                );
                match (notes.is_empty(), cut) {
                    (_, true) => self.cut += 1,
                    (false, false) => self.noted += 1,
                    (true, false) => {
                        assert!(offset >= end, "{name} {offset}: damage went unseen");
                        self.unharmed += 1;
                    }
                }
            }
            Err(OpenError::Corrupt(corruption)) => {
                assert!(
                    corruption.file.ends_with(name),
                    "{name} {offset}: {corruption}"
                );
                assert!(
                    corruption.offset <= offset as u64,
                    "{name} {offset}: {corruption}"
                );
                self.corrupt += 1;
            }
            Err(OpenError::MissingSegment { .. }) => self.missing += 1,
            Err(other) => panic!("{name} {offset}: {other}"),
        }
    }
}

#[test]
fn a_flipped_byte_anywhere_is_seen_and_named() {
    let (machine, state) = sealed();
    let live = live(&machine);
    assert!(live.len() >= 3, "{live:?}");
    let mut tally = Tally::default();
    for (name, end) in &live {
        let good = machine.file(name).expect("a segment");
        // A prime stride meets every field of every structure over the segments.
        for offset in (0..good.len()).step_by(37) {
            let copy = machine.fork(offset as u64);
            let mut bad = good.clone();
            bad[offset] ^= 1 << (offset % 8);
            copy.set_file(name, Some(bad));
            tally.judge(&copy, &state, name, offset, *end);
        }
    }
    println!("{tally:?}");
    assert!(
        tally.damaged > 1_000 && tally.noted > 100 && tally.unharmed > 0,
        "{tally:?}"
    );
    // Only the records of the closing mark, the very last batch, may be taken for a torn tail; and one
    // bad byte never costs more than the groups it hits.
    assert!(tally.cut > 0 && tally.cut <= 512 / 37 + 1, "{tally:?}");
    assert!(tally.missing == 0 && tally.corrupt == 0, "{tally:?}");
}

#[test]
fn the_groups_and_indexes_that_are_hit_are_named() {
    let (machine, _) = sealed();
    let (name, _) = &live(&machine)[0];
    let mut bytes = machine.file(name).expect("a segment");
    // The first batch holds entry 1 of both groups; its records begin after the header.
    bytes[8192 + 128 + 40] ^= 1;
    machine.set_file(name, Some(bytes));
    let opened = open_again(&machine).expect("the log opens, the groups are damaged");
    let damaged = opened.report.damaged;
    let hit: Vec<_> = damaged.iter().map(|d| (d.group, d.first, d.last)).collect();
    assert_eq!(hit, [(1, 1, 1), (2, 1, 1)]);
    assert_eq!((damaged[0].offset, damaged[0].lsn), (8192, 1));
    let text = damaged[0].to_string();
    assert!(text.contains("group 1 lost entries 1..=1"), "{text}");
    drop(opened.wal);
    // It is said again at every open, until the hole is compacted or replaced.
    let again = open_again(&machine).expect("the same");
    assert_eq!(again.report.damaged, damaged);
}

#[test]
fn zeroed_sectors_and_swapped_blocks_are_seen() {
    let (machine, state) = sealed();
    let live = live(&machine);
    let mut tally = Tally::default();
    for (name, end) in &live {
        let good = machine.file(name).expect("a segment");
        for offset in (0..*end).step_by(512) {
            if good[offset..offset + 512].iter().all(|b| *b == 0) {
                continue;
            }
            let copy = machine.fork(1);
            let mut bad = good.clone();
            bad[offset..offset + 512].fill(0);
            copy.set_file(name, Some(bad));
            tally.judge(&copy, &state, name, offset + 511, *end);
        }
        let mut dice = Dice(9);
        for _ in 0..100 {
            let (a, b) = (
                dice.below(*end as u64 / 4096),
                dice.below(*end as u64 / 4096),
            );
            let (a, b) = (a.min(b) as usize * 4096, a.max(b) as usize * 4096);
            if good[a..a + 4096] == good[b..b + 4096] {
                continue;
            }
            let copy = machine.fork(1);
            let mut bad = good.clone();
            bad.copy_within(b..b + 4096, a);
            bad[b..b + 4096].copy_from_slice(&good[a..a + 4096]);
            copy.set_file(name, Some(bad));
            tally.judge(&copy, &state, name, b + 4095, *end);
        }
    }
    println!("{tally:?}");
    assert!(tally.damaged > 100 && tally.noted > 50, "{tally:?}");
}

/// Whole directories of mutated bytes: a prefix or a typed error, never a panic, never an invention.
#[test]
fn mutated_directories_yield_a_prefix_or_an_error() {
    let seed = seed(1);
    let (machine, state) = sealed();
    let files: Vec<String> = machine
        .names()
        .into_iter()
        .filter(|n| n.ends_with(".seg"))
        .collect();
    let last = state.groups[&1].last();
    let (mut opened, mut opened_damaged, mut refused) = (0, 0, 0);
    for case in 0..1_500 {
        let mut dice = Dice(seed.wrapping_mul(7_919).wrapping_add(case));
        let copy = machine.fork(case);
        for _ in 0..1 + dice.below(4) {
            let name = &files[dice.below(files.len() as u64) as usize];
            let Some(mut bytes) = copy.file(name) else {
                continue;
            };
            let at = dice.below(bytes.len() as u64) as usize;
            let until = (at + dice.below(9_000) as usize).min(bytes.len());
            match dice.below(5) {
                0 => bytes[at] = dice.roll() as u8,
                1 => bytes[at..until].fill(0),
                2 => bytes[at..until]
                    .iter_mut()
                    .for_each(|b| *b = dice.roll() as u8),
                3 => bytes.truncate(at),
                _ => {
                    let from = at / 4096 * 4096;
                    let to = (dice.below(bytes.len() as u64) as usize / 4096 * 4096)
                        .min(bytes.len() - (until - from));
                    bytes.copy_within(from..until, to);
                }
            }
            copy.set_file(name, Some(bytes));
        }
        match open_again(&copy) {
            Ok(opened) if !opened.report.damaged.is_empty() => {
                opened_damaged += 1;
                common::nothing_is_invented(&opened.found, &state);
            }
            Ok(common::Opened { found, .. }) => {
                // Several faults at once can pass for a torn tail, but never for other contents.
                opened += 1;
                for (group, log) in &found.groups {
                    let due = &state.groups[group];
                    assert!(log.last() <= last, "case {case}");
                    assert!(
                        log.entries
                            .iter()
                            .eq(due.entries.range(..log.entries.len())),
                        "case {case}"
                    );
                }
            }
            Err(_) => refused += 1,
        }
    }
    println!("{opened} opened, {opened_damaged} with damaged groups, {refused} refused");
    assert!(opened > 100 && opened_damaged > 100 && refused > 300);
}
