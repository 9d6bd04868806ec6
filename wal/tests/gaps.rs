//! Ways in which a hole was once reported wrongly, each with a small log made by hand: found with
//! `tests/bridge.rs`, seeds 1 to 200. What is due is what was written.

mod common;

use common::honest::{is_honest, layout, open, repair, repaired, spans};
use common::model::{Rec, Twin};
use common::small;
use henge_wal::Collect;
use henge_wal::disk::sim::{Keep, SimHandle};

/// A log that is written batch by batch.
struct Log(Twin);

impl Log {
    fn new() -> Self {
        let mut twin = Twin::new(SimHandle::new(7, 1), small());
        twin.open().expect("a new log");
        Self(twin)
    }

    /// One batch.
    fn batch(&mut self, recs: Vec<Rec>) {
        recs.into_iter().for_each(|rec| self.0.stage(rec));
        self.0.submit();
        self.0.settle();
    }

    /// Batches of group 9, up to the next segment and into it.
    fn rotate(&mut self) {
        let begun = self.segment();
        while self.segment() == begun {
            let last = self.0.newest().groups.get(&9).map_or(0, |log| log.last());
            self.batch(vec![
                Rec::Entry(9, 1, last + 1, vec![9; 7_000]),
                Rec::Compacted(9, last + 1, 1),
            ]);
        }
    }

    fn segment(&self) -> String {
        layout(&self.0.machine).into_keys().next_back().expect("it")
    }

    /// What was written, the log being stopped.
    fn close(mut self) -> (SimHandle, Collect) {
        let due = self.0.newest();
        self.0.close();
        (self.0.machine, due)
    }
}

fn entry(group: u64, index: u64) -> Rec {
    Rec::Entry(group, 1, index, vec![index as u8; 100])
}

fn hard(group: u64, term: u64, commit: u64) -> Rec {
    Rec::Hard(group, term, 2, commit)
}

fn zero(machine: &SimHandle, name: &str, from: usize, to: usize) {
    let mut bytes = machine.file(name).expect("a segment");
    bytes[from..to].fill(0);
    machine.set_file(name, Some(bytes));
}

/// The n-th batch of a segment is gone.
fn lose(machine: &SimHandle, name: &str, n: usize) {
    let (from, to) = layout(&machine.fork(1))[name][n];
    zero(machine, name, from, to);
}

/// Segments that are not needed any more are gone.
fn purge(machine: &SimHandle) {
    let low_seq = open(&machine.fork(1)).expect("it").wal.stats().low_seq;
    for name in machine.names() {
        if name.ends_with(".seg") && name < format!("{low_seq:016x}.seg") {
            machine.set_file(&name, None);
        }
    }
}

/// Both copies of a segment's header are gone.
fn behead(machine: &SimHandle, name: &str) {
    zero(machine, name, 0, 8_192);
}

/// Seeds 13, 28: entries were written again so that their old segment could go, and that batch is lost. No
/// record of the group is missing in between, and its end is right.
#[test]
fn regression_entries_written_again_in_a_hole_are_lost() {
    let mut log = Log::new();
    log.batch(vec![entry(1, 1), entry(1, 2), hard(1, 1, 2)]);
    log.rotate();
    log.batch(vec![entry(1, 3)]);
    let again = log.segment();
    // The first one begins the segment; the hole is the second.
    log.batch(vec![entry(1, 1), entry(1, 2), entry(1, 3)]);
    let hole = layout(&log.0.machine)[&again].len() - 1;
    log.batch(vec![entry(1, 4)]);
    log.rotate();
    let (machine, due) = log.close();
    purge(&machine);
    assert!(open(&machine.fork(1)).expect("purged").found == due);
    lose(&machine, &again, hole);
    let opened = open(&machine).expect("the footer says whose it was");
    // Entry 3 was written before, in the same segment, and is there.
    assert_eq!(spans(&opened.report.damaged), [(1, 1, 2)]);
    is_honest(&opened, &due, "written again");
}

/// Seeds 38, 57: a bridge took the place of the first batch of a segment, which says what groups there are;
/// the segments before it were not needed, went, and the damage was forgotten.
#[test]
fn regression_damage_is_known_without_the_segments_before_the_bridge() {
    let mut log = Log::new();
    log.batch(vec![
        entry(1, 1),
        entry(1, 2),
        hard(1, 1, 2),
        Rec::Compacted(1, 2, 1),
        entry(2, 1),
    ]);
    log.rotate();
    let name = log.segment();
    log.batch(vec![entry(1, 3)]);
    let (machine, due) = log.close();
    lose(&machine, &name, 0);
    let plan = repair(&machine.fork(1)).expect("it can be bridged");
    assert!(plan.reopens());
    assert!(repaired(&machine, &due, "the first batch of a segment"));
}

/// Seeds 48, 102: a group left in a batch of which only the marks can be read; it was back, as it had been
/// some time before, and passed for whole.
#[test]
fn regression_a_group_that_left_in_a_lost_batch_is_not_back() {
    let mut log = Log::new();
    log.batch(vec![entry(1, 1), entry(2, 1), hard(2, 1, 0)]);
    log.batch(vec![
        entry(1, 2),
        Rec::Entry(2, 1, 2, vec![2; 6_000]),
        Rec::Removed(2),
    ]);
    log.batch(vec![entry(1, 3)]);
    let (machine, due) = log.close();
    let (name, batches) = layout(&machine).pop_first().expect("a segment");
    zero(&machine, &name, batches[1].0 + 4_096, batches[1].0 + 4_200);
    let opened = open(&machine).expect("its marks are there");
    assert_eq!(spans(&opened.report.damaged), [(1, 2, 2)]);
    assert!(!opened.found.groups.contains_key(&2));
    is_honest(&opened, &due, "it left");
}

/// Seeds 24, 46, 152: the last batch of a segment, its footer, and the header and first batch of the next one
/// are gone. The footer of that one counts only its own batches: what was lost before passed for nothing.
#[test]
fn regression_what_a_lost_header_leaves_unproven_is_bridged() {
    let mut log = Log::new();
    log.batch(vec![entry(1, 1), entry(1, 2), hard(1, 1, 1)]);
    log.rotate();
    let before = log.segment();
    for index in 100..105 {
        log.batch(vec![
            Rec::Entry(8, 1, index, vec![8; 7_000]),
            Rec::Compacted(8, index, 1),
        ]);
    }
    // At the end of this segment a new leader replaces entry 2.
    let replaces = vec![hard(1, 2, 1), Rec::Entry(1, 2, 2, vec![5; 100])];
    log.batch(replaces);
    let last = *layout(&log.0.machine)[&before].last().expect("batches");
    log.rotate();
    let name = log.segment();
    log.batch(vec![hard(9, 1, 3)]);
    log.batch(vec![hard(9, 1, 4)]); // so that there is room for the footer
    log.batch(vec![Rec::Entry(1, 2, 3, vec![5; 100])]);
    log.rotate();
    let (machine, due) = log.close();
    let all = layout(&machine);
    assert_eq!(
        all[&before].last(),
        Some(&last),
        "it is the last of its segment"
    );
    zero(&machine, &before, last.0, 64 * 1024);
    zero(&machine, &name, 0, all[&name][0].1);
    assert!(repaired(&machine, &due, "the end and the begin"));
}

/// Seeds 21, 25: two headers in a row are zeros. The first of these files passed for one that was never used,
/// and the second was made to follow the segment before both.
#[test]
fn regression_a_segment_with_a_header_of_zeros_is_still_one() {
    let mut log = Log::new();
    log.batch(vec![entry(1, 1), hard(1, 1, 1)]);
    for index in 2..=4 {
        log.rotate();
        log.batch(vec![entry(1, index)]);
    }
    let (machine, due) = log.close();
    let all = layout(&machine);
    let names: Vec<&String> = all.keys().collect();
    for whole in [true, false] {
        let copy = machine.fork(1);
        // With the begin of its first batch: what is looked at first.
        zero(&copy, names[1], 0, 12_288);
        zero(&copy, names[2], 0, all[names[2]][0].1);
        if !whole {
            zero(&copy, names[1], 0, 64 * 1024);
        }
        assert!(repaired(&copy, &due, "two headers of zeros"));
        let opened = open(&copy).expect("repaired");
        // What of the first can be read is in the log.
        let has = |index| {
            opened.found.groups[&1]
                .entries
                .iter()
                .any(|e| e.index == index)
        };
        assert!(
            has(1) && has(4) && has(2) == whole,
            "{:?}",
            opened.found.groups[&1]
        );
    }
}

/// A tail was cut, the log went on in the next segment, and that one's header is lost: what was cut is none
/// of the log, though some of its batches are whole.
#[test]
fn regression_a_header_is_not_made_from_a_tail_that_was_cut() {
    let mut log = Log::new();
    log.batch(vec![entry(1, 1), hard(1, 1, 1)]);
    log.0.machine.set_manual(true);
    log.0.stage(entry(1, 2));
    log.0.submit();
    log.0.run(1);
    log.0.stage(entry(1, 3));
    log.0.submit();
    log.0.run(1);
    // The first of two batches in flight tears, the second arrives.
    log.0.machine.crash(&Keep::Sectors(&|sector| sector >= 8));
    log.0.wal = None;
    log.0.machine.set_manual(false);
    log.0.open().expect("a torn tail");
    assert_eq!(log.0.newest().groups[&1].last(), 1);
    log.batch(vec![Rec::Entry(1, 2, 2, vec![7; 100]), hard(1, 2, 1)]);
    log.batch(vec![Rec::Entry(1, 2, 3, vec![7; 100])]);
    let (machine, due) = log.close();
    let name = layout(&machine).into_keys().next_back().expect("it");
    behead(&machine, &name);
    assert!(repaired(&machine, &due, "behind a cut"));
    let opened = open(&machine).expect("repaired");
    assert_eq!(spans(&opened.report.damaged), []);
}

/// A vote lies in a hole, without entries, and the marks that say it again are bad.
#[test]
fn regression_a_vote_in_a_hole_is_known_from_the_footer() {
    let mut log = Log::new();
    log.batch(vec![entry(1, 1), hard(1, 1, 1)]);
    log.batch(vec![hard(1, 8, 1)]);
    log.batch(vec![entry(9, 1)]);
    let before = log.segment();
    log.rotate();
    let name = log.segment();
    let (machine, due) = log.close();
    let (_, end) = layout(&machine)[&name][0];
    let mut bytes = machine.file(&name).expect("a segment");
    bytes[end - 200] ^= 1;
    machine.set_file(&name, Some(bytes));
    lose(&machine, &before, 1);
    let opened = open(&machine).expect("the footer says whose it was");
    assert_eq!(spans(&opened.report.damaged), []);
    let log = &opened.found.groups[&1];
    assert_eq!((log.term, log.vote), (8, 2));
    is_honest(&opened, &due, "a vote");
}
