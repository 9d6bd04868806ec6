//! What damage costs and what it does not: the other groups serve, votes are kept, and what was purged is
//! never passed over where it was the only copy.

mod common;

use common::layout::{locate, open};
use common::model::{Rec, Twin};
use common::{holes_are_all_that_differs, small};
use henge_wal::OpenError;
use henge_wal::disk::sim::{Keep, SimHandle};

/// One group of many is hit: the others go on, also through writing, rotation, a stop and another open;
/// the hole is named as long as it is there, and is gone when it is compacted.
#[test]
fn one_damaged_group_leaves_the_others_serving() {
    let mut twin = Twin::new(SimHandle::new(4, 2), small());
    twin.open().expect("a new log");
    for index in 1..=6 {
        for group in 1..=5 {
            twin.stage(Rec::Entry(group, 1, index, vec![group as u8; 2_000]));
            twin.submit();
            twin.settle();
        }
    }
    twin.stage(Rec::Hard(3, 7, 2, 4));
    twin.submit();
    twin.settle();
    let due = twin.newest();
    twin.close();
    // Entry 4 of group 3 is alone in its batch.
    let needle = {
        let mut head = 3u64.to_le_bytes().to_vec();
        head.extend(1u64.to_le_bytes());
        head.extend(4u64.to_le_bytes());
        head
    };
    let mut lies = None;
    for file in twin.machine.names().iter().filter(|n| n.ends_with(".seg")) {
        let found = twin.machine.file(file).expect("a file");
        if let Some(n) = found.windows(24).position(|w| w == needle) {
            lies = Some((file.clone(), n, found));
        }
    }
    let (name, at, mut bytes) = lies.expect("the entry lies somewhere");
    bytes[at + 100] ^= 1;
    twin.machine.set_file(&name, Some(bytes));

    let opened = open(&twin.machine).expect("the others serve");
    let hit: Vec<_> = opened
        .report
        .damaged
        .iter()
        .map(|d| (d.group, d.first, d.last))
        .collect();
    assert_eq!(hit, [(3, 4, 4)]);
    holes_are_all_that_differs(&opened, &due);
    let mut wal = opened.wal;
    common::block_on(async {
        for index in 7..=20 {
            for group in [1, 2, 4, 5] {
                wal.entry(group, 1, index, 0, &[9; 3_000]).expect("fits");
            }
            common::commit(&mut wal).await;
        }
        wal.read(1, 1, 20, usize::MAX);
        let all = loop {
            if let henge_wal::Event::Read { result, .. } = common::event(&mut wal).await {
                break result.expect("whole");
            }
        };
        assert_eq!(all.len(), 20);
        wal.read(3, 4, 4, 100);
        let lost = loop {
            if let henge_wal::Event::Read { result, .. } = common::event(&mut wal).await {
                break result;
            }
        };
        assert!(
            matches!(lost, Err(henge_wal::ReadError::Damaged { .. })),
            "{lost:?}"
        );
        common::close(wal).await;
    });
    let again = open(&twin.machine).expect("opens");
    assert_eq!(again.report.damaged.len(), 1);
    assert_eq!(again.found.groups[&1].entries.len(), 20);
    let mut wal = again.wal;
    common::block_on(async {
        wal.compacted(3, 5, 1);
        common::commit(&mut wal).await;
        common::close(wal).await;
    });
    let healed = open(&twin.machine).expect("opens");
    assert_eq!(healed.report.damaged, []);
    assert_eq!(healed.found.groups[&3].last(), 6);
}

/// A vote in the last batch, acknowledged and then hit by one bad sector, looks like a torn tail. The
/// entries go, the vote stays: over a crash before the next segment has a batch, too.
#[test]
fn a_vote_in_a_torn_batch_is_kept() {
    for sector in 0..8 {
        let mut twin = Twin::new(SimHandle::new(sector, 1), small());
        twin.open().expect("a new log");
        twin.stage(Rec::Entry(1, 1, 1, vec![1; 100]));
        twin.stage(Rec::Hard(1, 1, 1, 0));
        twin.submit();
        twin.settle();
        twin.stage(Rec::Hard(1, 9, 3, 1));
        twin.submit();
        twin.settle();
        let name = twin
            .machine
            .names()
            .into_iter()
            .find(|n| n.ends_with(".seg"));
        let name = name.expect("a segment");
        twin.crash(&Keep::Everything);
        let mut bytes = twin.machine.file(&name).expect("it");
        let from = 8192 + 4096 + 512 * sector as usize;
        bytes[from..from + 512].iter_mut().for_each(|b| *b ^= 0x55);
        twin.machine.set_file(&name, Some(bytes));
        for round in 0..4u64 {
            let opened = open(&twin.machine).expect("a torn tail");
            let log = &opened.found.groups[&1];
            assert_eq!(
                (log.term, log.vote),
                (9, 3),
                "sector {sector} round {round}"
            );
            let mut wal = opened.wal;
            // The next batch's header arrives, the batch does not; then both; then a stop.
            twin.machine.set_manual(true);
            wal.entry(1, 9, 2, 0, &[2; 100]).expect("fits");
            wal.submit().expect("healthy");
            match round {
                0 => twin.machine.crash(&Keep::Nothing),
                1 => twin.machine.crash(&Keep::Sectors(&|sector| sector < 16)),
                _ => twin.machine.crash(&Keep::Everything),
            }
            twin.machine.set_manual(false);
        }
    }
}

/// What purged segments held is repeated in the first batch of the oldest one that is left, and nowhere
/// before: damage to it is never passed over, unless later segments say the same (row 1b).
#[test]
fn the_only_copy_of_what_was_purged() {
    let mut twin = Twin::new(SimHandle::new(12, 1), small());
    twin.open().expect("a new log");
    // A group that said something long ago, and nothing since.
    twin.stage(Rec::Hard(7, 5, 3, 0));
    for index in 1..=60 {
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 8_000]));
        if index > 2 {
            twin.stage(Rec::Compacted(1, index - 2, 1));
        }
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    twin.close();
    let files = locate(&twin.machine);
    let (oldest, batches) = files.first_key_value().expect("segments");
    let at = batches[0].offset;
    let mut bytes = twin.machine.file(oldest).expect("it");
    let marks_at = u32::from_le_bytes([
        bytes[at + 68],
        bytes[at + 69],
        bytes[at + 70],
        bytes[at + 71],
    ]);
    bytes[at + marks_at as usize + 3] ^= 1;
    twin.machine.set_file(oldest, Some(bytes));
    match open(&twin.machine) {
        Err(OpenError::Corrupt(c)) => assert!(c.what.contains("marks"), "{c}"),
        Err(other) => panic!("{other}"),
        // The segments behind it repeat it, each in its own first batch: then nothing is lost.
        Ok(opened) => {
            assert!(!opened.report.healed.is_empty(), "it went unseen");
            holes_are_all_that_differs(&opened, &state);
            assert_eq!(opened.report.damaged, []);
        }
    }
}

/// A hole in which a group's entries were replaced, of which the footer tells: those before it that were
/// not committed are as doubtful as those in it. (Only the last of them was named; the others were taken
/// for good.)
#[test]
fn regression_entries_that_were_replaced_in_a_hole_are_not_taken_for_good() {
    let mut twin = Twin::new(SimHandle::new(3, 1), small());
    twin.open().expect("a new log");
    let turns: [&[Rec]; 3] = [
        &[
            Rec::Hard(1, 1, 1, 1),
            Rec::Entry(1, 1, 1, vec![1; 50]),
            Rec::Entry(1, 1, 2, vec![1; 50]),
            Rec::Entry(1, 1, 3, vec![1; 50]),
            Rec::Entry(1, 1, 4, vec![1; 50]),
        ],
        &[
            Rec::Hard(1, 2, 3, 1),
            Rec::Entry(1, 2, 2, vec![2; 50]),
            Rec::Entry(1, 2, 3, vec![2; 50]),
        ],
        &[Rec::Entry(1, 2, 4, vec![2; 50])],
    ];
    for turn in turns {
        turn.iter().for_each(|rec| twin.stage(rec.clone()));
        twin.submit();
        twin.settle();
    }
    for index in 1..=8 {
        twin.stage(Rec::Entry(9, 1, index, vec![9; 10_000]));
        twin.submit();
        twin.settle();
    }
    let due = twin.newest();
    twin.close();
    let (name, batches) = locate(&twin.machine).pop_first().expect("segments");
    let mut bytes = twin.machine.file(&name).expect("it");
    assert!(bytes[batches.last().expect("batches").end..].starts_with(b"HngB"));
    bytes[batches[1].offset..batches[1].end].fill(0);
    twin.machine.set_file(&name, Some(bytes));
    let opened = open(&twin.machine).expect("the footer tells whose it was");
    let lost = opened
        .report
        .damaged
        .iter()
        .map(|d| (d.group, d.first, d.last));
    assert_eq!(lost.collect::<Vec<_>>(), [(1, 2, 3)]);
    holes_are_all_that_differs(&opened, &due);
}
