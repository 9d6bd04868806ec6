//! Damage: flipped bytes, zeroed sectors, swapped blocks, lost and stale files, failing and full disks.
//! Each is detected and called what it is; nothing acknowledged is silently lost, nothing invented.

mod common;

use common::model::{Rec, Twin};
use common::{Dice, TempDir, seed, small};
use henge_wal::disk::sim::{Fault, Keep, SimHandle};
use henge_wal::inspect::{self, Verdict};
use henge_wal::{Collect, Event, Identity, OpenError, Wal, WalError};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

/// A log of a few segments, stopped cleanly; its state.
fn sealed() -> (SimHandle, Collect) {
    let mut twin = Twin::new(SimHandle::new(5, 2), small());
    twin.open().expect("a new log");
    for index in 1..=28u64 {
        let bytes = 300 + (index as usize * 1_997) % 11_000;
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; bytes]));
        twin.stage(Rec::Entry(2, 1, index, vec![!index as u8; 100]));
        twin.stage(Rec::Hard(1, 1, 2, index));
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    twin.close();
    (twin.machine, state)
}

/// The segments of the log (not the ready ones), with the bytes of them that are log.
fn live(machine: &SimHandle) -> Vec<(String, usize)> {
    let dir = TempDir::new("live");
    write_out(machine, &dir);
    let mut ends = std::collections::BTreeMap::new();
    let mut see = Ends(&mut ends);
    inspect::read(dir.path(), &mut see).expect("a good log");
    ends.into_iter()
        .map(|(seq, end)| (format!("{seq:016x}.seg"), end as usize))
        .collect()
}

struct Ends<'a>(&'a mut std::collections::BTreeMap<u64, u64>);

impl henge_wal::Replay for Ends<'_> {
    fn record(&mut self, _: henge_wal::Record<'_>) {}

    fn batch(&mut self, batch: &henge_wal::BatchInfo) {
        self.0
            .insert(batch.seq, batch.offset + u64::from(batch.bytes));
    }
}

/// The simulated directory as a real one, for the tools.
fn write_out(machine: &SimHandle, dir: &TempDir) {
    std::fs::create_dir_all(dir.path().join("cut")).expect("a directory");
    for name in machine.names() {
        let bytes = machine.file(&name).expect("it was listed");
        std::fs::write(dir.path().join(name), bytes).expect("written");
    }
}

/// Open a machine's log; its state, and what was noted.
fn reopened(machine: &SimHandle) -> Result<(Collect, Vec<String>, bool), OpenError> {
    let opened = open_again(machine)?;
    assert_eq!(opened.report.damaged, [], "no group is damaged");
    let (found, report) = (opened.found, opened.report);
    Ok((found, report.notes, report.cut.is_some()))
}

fn open_again(machine: &SimHandle) -> Result<common::Opened, OpenError> {
    common::open("sim".as_ref(), &small(), Box::new(machine.disk()))
}

/// The batches of a log: file, offset, bytes.
fn batches(machine: &SimHandle) -> Vec<(String, usize, usize)> {
    struct Batches(Vec<(String, usize, usize)>);
    impl henge_wal::Replay for Batches {
        fn record(&mut self, _: henge_wal::Record<'_>) {}

        fn batch(&mut self, b: &henge_wal::BatchInfo) {
            let name = format!("{:016x}.seg", b.seq);
            self.0.push((name, b.offset as usize, b.bytes as usize));
        }
    }
    let mut all = Batches(Vec::new());
    let disk = Box::new(machine.fork(0).disk());
    Wal::open("sim".as_ref(), &small(), &common::US, disk, &mut all).expect("a good log");
    all.0
}

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
                let (found, notes) = (opened.found, opened.report.notes);
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

#[test]
fn lost_cut_and_stale_files_are_refused() {
    let (machine, state) = sealed();
    let live = live(&machine);
    for (name, _) in &live {
        let copy = machine.fork(1);
        copy.set_file(name, None);
        let refused = reopened(&copy).expect_err("a segment is missing");
        assert!(
            matches!(refused, OpenError::MissingSegment { .. }),
            "{name}: {refused}"
        );

        for keep in [0, 4096, 20_000] {
            let copy = machine.fork(1);
            let bytes = machine.file(name).expect("a segment");
            copy.set_file(name, Some(bytes[..keep].to_vec()));
            assert!(reopened(&copy).is_err(), "{name} cut to {keep} bytes");
        }
        // An older segment's bytes under another one's name: good checksums, wrong place.
        for (other, _) in live.iter().filter(|(other, _)| other != name) {
            let copy = machine.fork(1);
            copy.set_file(name, machine.file(other));
            assert!(reopened(&copy).is_err(), "{other} as {name}");
        }
    }
    for name in machine.names().iter().filter(|n| n.ends_with(".seg")) {
        if live.iter().all(|(segment, _)| segment != name) {
            let copy = machine.fork(1);
            copy.set_file(name, None);
            assert_eq!(
                reopened(&copy).map(|r| r.0).as_ref(),
                Ok(&state),
                "a ready one: {name}"
            );
        }
    }
    let foreign = sealed_by(99);
    let stray = machine.fork(1);
    stray.set_file("00000000000000ff.seg", foreign.file(&live[0].0));
    assert!(matches!(
        reopened(&stray),
        Err(OpenError::ForeignSegment { .. })
    ));
}

fn sealed_by(seed: u64) -> SimHandle {
    let mut twin = Twin::new(SimHandle::new(seed, 1), small());
    twin.open().expect("a new log");
    twin.stage(Rec::Entry(1, 1, 1, vec![1; 10]));
    twin.submit();
    twin.settle();
    twin.close();
    twin.machine
}

#[test]
fn a_wrong_directory_is_refused_and_not_touched() {
    let (machine, _) = sealed();
    let before: Vec<_> = machine.names().iter().map(|n| machine.file(n)).collect();
    let open_as = |machine: &SimHandle, identity: Identity| {
        let disk = Box::new(machine.disk());
        henge_wal::Wal::open("sim".as_ref(), &small(), &identity, disk, &mut ())
            .map(drop)
            .expect_err("refused")
    };
    let other = Identity {
        cluster_id: 1,
        ..common::US
    };
    assert!(matches!(
        open_as(&machine, other),
        OpenError::WrongIdentity {
            found_cluster: 0xc1,
            ..
        }
    ));
    let unnamed = machine.fork(1);
    unnamed.set_file("IDENTITY", None);
    assert!(matches!(
        open_as(&unnamed, common::US),
        OpenError::BadIdentity { .. }
    ));
    let damaged = machine.fork(1);
    damaged.set_file(
        "IDENTITY",
        machine.file("IDENTITY").map(|mut b| {
            b[20] ^= 1;
            b
        }),
    );
    assert!(matches!(
        open_as(&damaged, common::US),
        OpenError::BadIdentity { .. }
    ));
    let photos = SimHandle::new(1, 1);
    photos.set_file("holiday.jpg", Some(vec![1]));
    assert!(
        matches!(open_as(&photos, common::US), OpenError::NotOurs { ref found, .. } if found == "holiday.jpg")
    );
    assert_eq!(photos.names(), ["holiday.jpg"]);
    let after: Vec<_> = machine.names().iter().map(|n| machine.file(n)).collect();
    assert!(before == after);
}

/// Every operation fails in turn, once or from then on: while opening, writing, compacting.
#[test]
fn the_nth_operation_fails_for_all_n() {
    let mut poisoned = 0;
    for code in [EIO, ENOSPC] {
        for for_ever in [false, true] {
            for n in 0.. {
                let fault = if for_ever {
                    Fault::ErrorForEver(code)
                } else {
                    Fault::Error(code)
                };
                let mut twin = Twin::new(SimHandle::new(n, 2), small());
                twin.machine.fail(n, fault);
                let opened = twin.open();
                if let Err(error) = &opened {
                    assert!(matches!(error, OpenError::Io { .. }), "{error}");
                    twin.machine.heal();
                    twin.open().expect("after the fault it opens");
                }
                for index in 1..=10u64 {
                    let bytes = 4_000 * (index as usize % 3) + 10;
                    twin.stage(Rec::Entry(1, 1, index, vec![index as u8; bytes]));
                    if index > 5 {
                        twin.stage(Rec::Compacted(1, index - 4, 1));
                    }
                    twin.submit();
                    twin.run(20);
                }
                twin.settle();
                let poison = twin
                    .events
                    .iter()
                    .filter(|e| matches!(e, Event::Poisoned(_)))
                    .count();
                assert!(poison <= 1, "said once");
                if poison == 1 {
                    poisoned += 1;
                    let wal = twin.wal.as_mut().expect("open");
                    assert!(matches!(wal.submit(), Err(WalError::Poisoned { .. })));
                    let acked = twin.acked;
                    twin.settle();
                    assert_eq!(
                        twin.acked, acked,
                        "nothing is acknowledged after a failed write"
                    );
                }
                let hit = twin.machine.ops() > n;
                twin.machine.heal();
                twin.crash(&Keep::Seeded(n));
                twin.open()
                    .unwrap_or_else(|e| panic!("errno {code} at {n}: {e}"));
                if !hit {
                    break;
                }
            }
        }
    }
    assert!(poisoned > 40, "{poisoned}");
}

#[test]
fn a_full_disk_is_said_and_passes() {
    let mut twin = Twin::new(SimHandle::new(3, 2), small());
    twin.machine.set_capacity(Some(3 * 64 * 1024 + 1_000));
    twin.open().expect("room for three segments");
    let mut index = 0;
    let mut write = |twin: &mut Twin, n: u64| {
        for _ in 0..n {
            index += 1;
            twin.stage(Rec::Entry(1, 1, index, vec![7; 9_000]));
            twin.submit();
            twin.run(300);
        }
        index
    };
    // Three segments' worth goes in before the ballast is used up; then writes wait.
    write(&mut twin, 20);
    assert_eq!(twin.events, [Event::SpaceLow]);
    let stuck = twin.acked;
    assert!(stuck >= 10, "{stuck}");
    let stats = twin.wal.as_ref().map(|w| w.stats()).expect("open");
    assert!(
        stats.space_low && !stats.poisoned && stats.staged_bytes > 0,
        "{stats:?}"
    );
    // More space: what waited is written by itself.
    twin.machine.set_capacity(Some(8 * 64 * 1024));
    twin.run(3_000);
    assert_eq!(twin.events, [Event::SpaceLow, Event::SpaceOk]);
    assert!(twin.acked > stuck);
    // And compaction makes room where there is none.
    let last = write(&mut twin, 20);
    assert!(twin.events.len() == 3, "{:?}", twin.events);
    twin.machine.set_capacity(None);
    twin.run(3_000);
    twin.stage(Rec::Compacted(1, last - 1, 1));
    twin.submit();
    twin.run(3_000);
    assert!(twin.wal.as_ref().is_some_and(|w| w.stats().segments <= 2));
    twin.close();
    twin.open().expect("all of it is there");
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

#[test]
fn the_tools_say_what_recovery_says() {
    let (machine, state) = sealed();
    let dir = TempDir::new("inspect");
    write_out(&machine, &dir);
    let Verdict::Good(found) = inspect::verify(dir.path()) else {
        panic!("good")
    };
    assert_eq!(found.identity, common::US);
    let mut seen = Collect::default();
    inspect::read(dir.path(), &mut seen).expect("good");
    assert!(seen == state);

    // The last batch, the closing mark, damaged: a torn tail. Looking at it does not cut it.
    let (name, end) = live(&machine).last().cloned().expect("a segment");
    let mut bytes = machine.file(&name).expect("a segment");
    bytes[end - 4096 + 200] ^= 1;
    std::fs::write(dir.path().join(&name), &bytes).expect("written");
    for _ in 0..2 {
        let Verdict::TornTail(_, cut) = inspect::verify(dir.path()) else {
            panic!("torn")
        };
        assert_eq!(cut.offset as usize, end - 4096);
        assert!(!cut.kept.exists());
    }
    // The records of the one before it: its groups are damaged.
    let all = batches(&machine);
    let (_, before, len) = all[all.len() - 2].clone();
    bytes[before + 200] ^= 1;
    std::fs::write(dir.path().join(&name), &bytes).expect("written");
    let Verdict::Damaged(found) = inspect::verify(dir.path()) else {
        panic!("damaged")
    };
    assert_eq!(found.report.damaged.len(), 2);
    // All of it: nothing in the last segment says whose it was.
    bytes[before..before + len].fill(0);
    std::fs::write(dir.path().join(&name), &bytes).expect("written");
    let verdict = inspect::verify(dir.path());
    assert!(
        matches!(verdict, Verdict::Refused(OpenError::Corrupt(_))),
        "{verdict:?}"
    );
}

/// The decision table of `recover.rs`, row by row: a prepared directory and the verdict.
#[test]
fn the_decision_table_row_by_row() {
    let (machine, state) = sealed();
    let live = live(&machine);
    let (first, first_end) = live[0].clone();
    let (last, last_end) = live[live.len() - 1].clone();
    let names = machine.names();
    let ready = names.into_iter().rfind(|n| n.ends_with(".seg"));
    let ready = ready.expect("a ready segment");
    let bytes = |name: &str| machine.file(name).expect("a file");
    // Change one file of a copy of the log, and say what becomes of it.
    let with = |name: &str, change: &dyn Fn(&mut Vec<u8>)| {
        let copy = machine.fork(1);
        let mut changed = bytes(name);
        change(&mut changed);
        copy.set_file(name, Some(changed));
        reopened(&copy)
    };
    let no_ready = |change: &dyn Fn(&mut Vec<u8>)| {
        // Without the ready files' testimony: what the segments alone say.
        let copy = machine.fork(1);
        for name in machine.names().iter().filter(|n| n.ends_with(".seg")) {
            if live.iter().all(|(segment, _)| segment != name) {
                copy.set_file(name, None);
            }
        }
        let mut changed = bytes(&last);
        change(&mut changed);
        copy.set_file(&last, Some(changed));
        reopened(&copy)
    };
    let corrupt = |result: Result<(Collect, Vec<String>, bool), OpenError>, row: &str| {
        assert!(
            matches!(result, Err(OpenError::Corrupt(_))),
            "row {row}: {:?}",
            result.err()
        );
    };
    let missing = |result: Result<(Collect, Vec<String>, bool), OpenError>, row: &str| {
        assert!(
            matches!(result, Err(OpenError::MissingSegment { .. })),
            "row {row}"
        );
    };
    let end_of = |result: Result<(Collect, Vec<String>, bool), OpenError>, row: &str| {
        let (found, _, cut) = result.unwrap_or_else(|e| panic!("row {row}: {e}"));
        assert!(found == state, "row {row}");
        cut
    };

    let damaged = |name: &str, change: &dyn Fn(&mut Vec<u8>), row: &str| {
        let copy = machine.fork(1);
        let mut changed = bytes(name);
        change(&mut changed);
        copy.set_file(name, Some(changed));
        let opened = open_again(&copy).unwrap_or_else(|e| panic!("row {row}: {e}"));
        assert_eq!(opened.report.damaged.len(), 2, "row {row}");
        common::holes_are_all_that_differs(&opened, &state);
    };
    let all = batches(&machine);
    let last_of = |name: &str| {
        let found = all.iter().rfind(|(n, ..)| n == name).expect("a batch");
        (found.1, found.2)
    };

    // 1: all good; and 6: nothing behind the last batch; and 12: a ready file without traces.
    assert!(!end_of(with(&ready, &|_| {}), "1, 6, 12"));
    // 1a: a trailer, before the end that the successor names, and in the last segment.
    assert!(!end_of(with(&first, &|b| b[first_end - 10] ^= 1), "1a"));
    assert!(!end_of(
        with(&last, &|b| b[last_end - 4096 - 10] ^= 1),
        "1a"
    ));
    // 1b: the marks of a purged log's first batch: see `the_only_copy_of_what_was_purged`.
    // 2: records before the end that the successor names.
    let (at, _) = last_of(&first);
    damaged(&first, &|b| b[at + 300] ^= 1, "2");
    // 2a: a whole batch of a segment with a footer; 2b: of one without.
    let has_footer = |(name, end): &&(String, usize)| bytes(name)[*end..].starts_with(b"HngB");
    let (sealed, end) = live.iter().find(has_footer).expect("one has room for it");
    let (at, len) = last_of(sealed);
    damaged(sealed, &|b| b[at..at + len].fill(0), "2a");
    corrupt(with(sealed, &|b| b[at..end + 4096].fill(0)), "2b");
    // 3: another good segment of the same length of numbers would be needed: a header that lies.
    let lie = |b: &mut Vec<u8>, at: usize| {
        for copy in [0, 4096] {
            b[copy + at] ^= 1;
            let crc = crc32c::crc32c(&b[copy..copy + 4092]);
            b[copy + 4092..copy + 4096].copy_from_slice(&crc.to_le_bytes());
        }
    };
    corrupt(with(&live[1].0, &|b| lie(b, 88)), "3 (chain)");
    corrupt(with(&live[1].0, &|b| lie(b, 48)), "3 (number)");
    // 4: records of a batch before the last: the last one says that it was durable. 4a: all of it.
    let (at, len) = (all[all.len() - 2].1, all[all.len() - 2].2);
    damaged(&last, &|b| b[at + 300] ^= 1, "4");
    corrupt(with(&last, &|b| b[at..at + len].fill(0)), "4a");
    // 5: the last batch: nothing says that it was durable, and its trailer is still there.
    assert!(end_of(with(&last, &|b| b[last_end - 4096 + 200] ^= 1), "5"));
    // 6: the last batch wholly gone: the same state, and nothing to cut.
    assert!(!end_of(
        with(&last, &|b| b[last_end - 4096..last_end].fill(0)),
        "6"
    ));
    // 7: a footer, and no next segment.
    let copy = machine.fork(1);
    for name in machine
        .names()
        .iter()
        .filter(|n| n.ends_with(".seg") && *n > sealed)
    {
        copy.set_file(name, None);
    }
    missing(reopened(&copy), "7");
    // 8: no header copy, in the middle.
    let no_header = |b: &mut Vec<u8>| [10, 4106].iter().for_each(|at| b[*at] ^= 1);
    corrupt(with(&live[1].0, &no_header), "8");
    // 9: no file, in the middle.
    let copy = machine.fork(1);
    copy.set_file(&live[1].0, None);
    missing(reopened(&copy), "9");
    // 10: the newest segment without a header, but with batches that prove others durable.
    corrupt(no_ready(&no_header), "10");
    // 11: a rotation that tore: neither header nor proof. The log ends with the segment before.
    let mut twin = Twin::new(SimHandle::new(8, 1), small());
    twin.open().expect("a new log");
    twin.machine.set_manual(true);
    twin.stage(Rec::Entry(1, 1, 1, vec![1; 100]));
    twin.submit();
    let header_lost = |sector: usize| sector >= 16;
    twin.crash(&Keep::Sectors(&header_lost));
    twin.machine.set_manual(false);
    twin.open().expect("a torn rotation is cut");
    assert_eq!(twin.acked, 0, "row 11");
    // 13: the newest segment lost; a ready file testifies that there was one.
    let copy = machine.fork(1);
    copy.set_file(&last, None);
    missing(reopened(&copy), "13");
    // 14: the end of the newest segment lost; a ready file testifies batches beyond it.
    let begin = 8192 + 4096;
    corrupt(with(&last, &|b| b[begin..last_end].fill(0)), "14 or 4");
}
