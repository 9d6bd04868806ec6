//! Whole directories of arbitrary bytes: recovery answers with a log or a typed error, whatever lies
//! there; it never panics, never hangs, and what it opened can be written to, stopped and opened again
//! with the same contents.
//!
//! Inputs begin as logs that were really written (long and short lives, purged, torn, damaged) and are
//! then cut, mixed, overwritten, renamed, and, which random bytes never would, changed in fields with
//! the checksums put right again. Short in `cargo test`; ten minutes:
//! `HENGE_FUZZ_CASES=4000000 HENGE_SEED=7 cargo test -p henge-wal --test fuzz`
//! (about ten minutes). The seed and the case that fails are printed.

mod common;

use common::model::Twin;
use common::{Dice, Opened, seed, small};
use henge_wal::disk::sim::{Keep, SimHandle};
use henge_wal::{OpenError, inspect};

const CASES: u64 = 20_000;
/// Seeds and cases that once failed.
const FAILED: [(u64, u64); 4] = [(7, 192_853), (2, 139_986), (1, 35_616), (3, 325_557)];

/// Directories to begin with.
fn corpus(seed: u64) -> Vec<SimHandle> {
    let mut all = Vec::new();
    for life in 0..8 {
        let mut dice = Dice(seed.wrapping_add(life * 77));
        let mut twin = Twin::new(SimHandle::new(life, 1 + life), small());
        for _ in 0..1 + life % 3 {
            twin.open().expect("a log");
            for _ in 0..10 + dice.below(40) {
                twin.random_turn(&mut dice);
                twin.submit();
                twin.run(5);
            }
            match dice.below(3) {
                0 => {
                    twin.settle();
                    twin.close();
                }
                1 => twin.crash(&Keep::Everything),
                _ => twin.crash(&Keep::Seeded(life)),
            }
        }
        all.push(twin.machine.fork(life));
    }
    all
}

/// Change a field of some structure and put its checksum right.
fn forge(bytes: &mut [u8], dice: &mut Dice) {
    let blocks = (bytes.len() / 4096) as u64;
    if blocks == 0 {
        return;
    }
    let at = dice.below(blocks) as usize * 4096;
    let odd = match dice.below(6) {
        0 => 0,
        1 => u64::MAX,
        2 => u64::MAX - 1,
        3 => dice.below(100),
        4 => 1 << dice.below(64),
        _ => dice.roll(),
    };
    let put = |bytes: &mut [u8], at: usize, width: usize| {
        bytes[at..at + width].copy_from_slice(&odd.to_le_bytes()[..width]);
    };
    match &bytes[at..at + 4] {
        b"HngS" => {
            let field = [32, 40, 48, 56, 64, 72, 88, 92, 94][dice.below(9) as usize];
            put(
                bytes,
                at + field,
                if field >= 92 {
                    2
                } else if field == 88 {
                    4
                } else {
                    8
                },
            );
            // Both copies alike, or only one.
            for copy in [at, at ^ 4096] {
                if copy != at && (dice.below(2) == 0 || copy + 4096 > bytes.len()) {
                    continue;
                }
                let width = 8.min(4092 - field);
                let value: Vec<u8> = bytes[at + field..at + field + width].to_vec();
                bytes[copy + field..copy + field + width].copy_from_slice(&value);
                let crc = crc32c::crc32c(&bytes[copy..copy + 4092]);
                bytes[copy + 4092..copy + 4096].copy_from_slice(&crc.to_le_bytes());
            }
        }
        b"HngB" => {
            let word = |bytes: &[u8], at: usize| {
                u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
                    as usize
            };
            let (len, marks_at) = (word(bytes, at + 64), word(bytes, at + 68));
            let end = at + len;
            let sane = len.is_multiple_of(4096) && (256..len).contains(&(marks_at + 128));
            if end > bytes.len() || !sane {
                return;
            }
            if dice.below(2) == 0 {
                let field = [6, 40, 48, 56, 64, 68, 72, 76, 80, 84][dice.below(10) as usize];
                put(
                    bytes,
                    at + field,
                    if field == 6 {
                        2
                    } else if field < 64 {
                        8
                    } else {
                        4
                    },
                );
            } else {
                // Inside the records or the marks: group, term, index, lengths.
                let from = if dice.below(2) == 0 { 128 } else { marks_at };
                let to = if from == 128 { marks_at } else { len - 128 };
                let word = dice.below(((to - from) / 8).max(1) as u64) as usize;
                put(
                    bytes,
                    at + from + word * 8,
                    if dice.below(2) == 0 { 8 } else { 4 },
                );
            }
            let records = crc32c::crc32c(&bytes[at + 128..at + marks_at]);
            let marks = crc32c::crc32c(&bytes[at + marks_at..end - 128]);
            bytes[at + 88..at + 92].copy_from_slice(&records.to_le_bytes());
            bytes[at + 92..at + 96].copy_from_slice(&marks.to_le_bytes());
            let header: Vec<u8> = bytes[at..at + 124].to_vec();
            for (copy, flag) in [(at, 0u8), (end - 128, 1)] {
                bytes[copy..copy + 124].copy_from_slice(&header);
                bytes[copy + 6] = bytes[copy + 6] & !1 | flag;
                let crc = crc32c::crc32c(&bytes[copy..copy + 124]);
                bytes[copy + 124..copy + 128].copy_from_slice(&crc.to_le_bytes());
            }
        }
        _ => {}
    }
}

fn mutate(copy: &SimHandle, others: &[SimHandle], dice: &mut Dice) {
    for _ in 0..1 + dice.below(4) {
        let names = copy.names();
        let Some(name) = names.get(dice.below(names.len() as u64) as usize) else {
            return;
        };
        let mut bytes = copy.file(name).unwrap_or_default();
        let at = dice.below(bytes.len() as u64) as usize;
        let until = (at + dice.below(9_000) as usize).min(bytes.len());
        match dice.below(12) {
            0 if at < bytes.len() => bytes[at] = dice.roll() as u8,
            1 => bytes[at..until].fill(0),
            2 => bytes[at..until]
                .iter_mut()
                .for_each(|b| *b = dice.roll() as u8),
            3 => bytes.truncate(at),
            4 => {
                let from = at / 4096 * 4096;
                let to =
                    dice.below((bytes.len() - (until - from) + 1) as u64) as usize / 4096 * 4096;
                bytes.copy_within(from..until, to);
            }
            5 => {
                let other = &others[dice.below(others.len() as u64) as usize];
                bytes = other.file(name).unwrap_or_default();
            }
            6 => {
                copy.set_file(name, None);
                continue;
            }
            7 => {
                let seq = dice.below(40);
                copy.set_file(&format!("{seq:016x}.seg"), Some(bytes));
                continue;
            }
            _ => forge(&mut bytes, dice),
        }
        copy.set_file(name, Some(bytes));
    }
}

/// Open; what was opened must go on.
fn survive(machine: &SimHandle, case: u64) -> Result<bool, OpenError> {
    let open = || common::open("sim".as_ref(), &small(), Box::new(machine.disk()));
    let Opened {
        mut wal, report, ..
    } = open()?;
    let group = 1_000_000 + case;
    let whole = common::block_on(async {
        for index in 1..=3 {
            wal.entry(group, 1, index, 0, &[7; 9_000]).expect("fits");
            common::commit(&mut wal).await;
        }
        common::close(wal).await;
        report.damaged.is_empty()
    });
    let again = open().unwrap_or_else(|e| panic!("case {case}: opened once, then: {e}"));
    assert_eq!(again.found.groups[&group].entries.len(), 3, "case {case}");
    let named = |all: &[henge_wal::Damage]| {
        let mut named: Vec<_> = all.iter().map(|d| (d.group, d.first, d.last)).collect();
        named.sort_unstable();
        named
    };
    assert_eq!(
        named(&again.report.damaged),
        named(&report.damaged),
        "case {case}"
    );
    Ok(whole)
}

fn cases() -> u64 {
    let asked = std::env::var("HENGE_FUZZ_CASES");
    asked.ok().and_then(|n| n.parse().ok()).unwrap_or(CASES)
}

/// Whether all of it is whole.
fn try_case(corpus: &[SimHandle], seed: u64, case: u64) -> Result<bool, OpenError> {
    let copy = mutated(corpus, seed, case);
    let outcome = std::panic::catch_unwind(|| survive(&copy, case));
    outcome.unwrap_or_else(|_| panic!("seed {seed} case {case}"))
}

fn mutated(corpus: &[SimHandle], seed: u64, case: u64) -> SimHandle {
    let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(case));
    let copy = corpus[dice.below(corpus.len() as u64) as usize].fork(case);
    mutate(&copy, corpus, &mut dice);
    copy
}

#[test]
fn directories_that_once_failed() {
    for (seed, case) in FAILED {
        let _ = try_case(&corpus(seed), seed, case);
    }
}

#[test]
fn any_directory_ends_in_a_log_or_an_error() {
    let (seed, cases) = (seed(1), cases());
    let corpus = corpus(seed);
    let (mut whole, mut damaged, mut refused) = (0, 0, 0);
    for case in 0..cases {
        match try_case(&corpus, seed, case) {
            Ok(true) => whole += 1,
            Ok(false) => damaged += 1,
            Err(_) => refused += 1,
        }
    }
    println!("{whole} whole, {damaged} with damaged groups, {refused} refused");
    assert!(cases < CASES || (whole > 1_000 && damaged > 200 && refused > 3_000));
}

/// The offline tools read the same bytes and come to the same verdict.
#[test]
fn the_tools_agree_with_recovery_on_any_directory() {
    let seed = seed(2);
    let corpus = corpus(seed);
    let dir = common::TempDir::new("fuzz-tools");
    // They read real files: one case costs as much as some hundred of the others.
    for case in 0..cases() / 300 {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(case));
        let copy = corpus[dice.below(corpus.len() as u64) as usize].fork(case);
        mutate(&copy, &corpus, &mut dice);
        let _ = std::fs::remove_dir_all(dir.path());
        std::fs::create_dir_all(dir.path().join("cut")).expect("a directory");
        for name in copy.names() {
            let bytes = copy.file(&name).expect("it was listed");
            std::fs::write(dir.path().join(name), bytes).expect("written");
        }
        let tools = inspect::read(dir.path(), &mut ());
        let opened = common::open("sim".as_ref(), &small(), Box::new(copy.disk()));
        match (&tools, &opened) {
            (Ok(found), Ok(opened)) => {
                assert_eq!(found.report.last_lsn, opened.report.last_lsn, "case {case}");
                assert_eq!(
                    found.report.damaged.len(),
                    opened.report.damaged.len(),
                    "case {case}"
                );
            }
            (Err(_), Err(_)) => {}
            // Whose log it is, is the opener's question.
            (Ok(_), Err(OpenError::WrongIdentity { .. })) => {}
            (tools, opened) => panic!("case {case}: {tools:?} and {:?}", opened.as_ref().err()),
        }
    }
}
