//! The decision table of `recover/mod.rs`, row by row, and that the offline tools come to the same verdict.

mod common;

use common::model::{Rec, Twin};
use common::sealed::{batches, live, open_again, reopened, sealed, write_out};
use common::{TempDir, small};
use henge_wal::disk::sim::{Keep, SimHandle};
use henge_wal::inspect::{self, Verdict};
use henge_wal::{Collect, Healed, OpenError};

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
    let corrupt = |result: Result<(Collect, Vec<Healed>, bool), OpenError>, row: &str| {
        assert!(
            matches!(result, Err(OpenError::Corrupt(_))),
            "row {row}: {:?}",
            result.err()
        );
    };
    let missing = |result: Result<(Collect, Vec<Healed>, bool), OpenError>, row: &str| {
        assert!(
            matches!(result, Err(OpenError::MissingSegment { .. })),
            "row {row}"
        );
    };
    let end_of = |result: Result<(Collect, Vec<Healed>, bool), OpenError>, row: &str| {
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
