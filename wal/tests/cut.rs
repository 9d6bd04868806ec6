//! Files of another length than they were made with. What no batch used costs nothing, whoever cut it off or
//! put something behind it; where batches may have been cut off, the log is refused and can be repaired.
//!
//! What is due is computed from where the batches lie, never from what recovery says.

mod common;

use common::honest::{open, repair, repaired, write};
use common::layout::{Sealed, locate, sealed};
use common::model::{Rec, Twin};
use common::{block_on, commit, small};
use henge_wal::disk::sim::{Keep, SimHandle};
use henge_wal::{OpenError, Options, Replay};

const BLOCK: usize = 4096;

/// The last segment of the log, and where its last batch ends.
fn active(log: &Sealed) -> (String, usize) {
    let (name, batches) = log.files.iter().next_back().expect("segments");
    (name.clone(), batches.last().expect("batches").end)
}

/// A log that was killed: no closing mark.
fn killed() -> Sealed {
    let mut twin = Twin::new(SimHandle::new(5, 2), small());
    twin.open().expect("a new log");
    for index in 1..=16u64 {
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 3_000]));
        twin.stage(Rec::Entry(2, 1, index, vec![!index as u8; 100]));
        twin.submit();
        twin.settle();
    }
    let state = twin.newest();
    twin.crash(&Keep::Everything);
    let files = locate(&twin.machine);
    Sealed {
        machine: twin.machine,
        state,
        files,
    }
}

/// It opens with all that it had and says so; what is written then is there after the next open.
fn costs_nothing(machine: &SimHandle, log: &Sealed, what: &str) {
    let opened = open(machine).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert!(opened.found == log.state, "{what}: another state");
    let report = &opened.report;
    assert!(report.cut.is_none() && report.damaged.is_empty(), "{what}");
    assert!(!report.healed.is_empty(), "{what}: went unseen");
    let (mut wal, mut due) = (opened.wal, opened.found);
    let last = due.groups[&1].last();
    block_on(async {
        for index in last + 1..last + 12 {
            wal.entry(1, 1, index, 0, &[7; 9_000]).expect("fits");
            due.record(Rec::Entry(1, 1, index, vec![7; 9_000]).record());
            commit(&mut wal).await;
        }
    });
    machine.crash(&Keep::Everything);
    drop(wal);
    assert!(open(machine).expect("opens").found == due, "{what}");
}

#[test]
fn regression_missing_unused_zeros_cost_nothing() {
    // 4,096 bytes cut from space that was never written: "acknowledged batch 0 is damaged".
    for log in [sealed(), killed()] {
        let (name, end) = active(&log);
        let full = log.machine.file(&name).expect("a segment").len();
        for keep in (end + BLOCK..full)
            .step_by(BLOCK)
            .chain([full - 1, end + BLOCK + 7])
        {
            let cut = log.with(&name, |bytes| bytes.truncate(keep));
            costs_nothing(&cut, &log, &format!("{name} cut to {keep} of {full}"));
        }
    }
}

#[test]
fn a_file_that_grew_costs_nothing() {
    let log = sealed();
    for name in log.machine.names().iter().filter(|n| n.ends_with(".seg")) {
        for more in [1, BLOCK, 100_000] {
            let grown = log.with(name, |bytes| bytes.resize(bytes.len() + more, 0xee));
            costs_nothing(&grown, &log, &format!("{name} and {more} bytes"));
        }
    }
}

#[test]
fn a_spare_segment_of_a_wrong_length_costs_nothing() {
    let log = sealed();
    let spare = |name: &&String| name.ends_with(".seg") && !log.files.contains_key(*name);
    let names = log.machine.names();
    let mut spares = 0;
    for name in names.iter().filter(spare) {
        for keep in [BLOCK, 2 * BLOCK, 5 * BLOCK, 40_001] {
            let cut = log.with(name, |bytes| bytes.truncate(keep));
            costs_nothing(&cut, &log, &format!("spare {name} cut to {keep}"));
        }
        spares += 1;
    }
    assert!(spares > 0);
}

#[test]
fn a_sealed_segment_without_its_footer_costs_nothing_and_without_a_batch_what_was_in_it() {
    let log = sealed();
    let sealed = log.files.iter().rev().skip(1);
    for (name, batches) in sealed {
        let end = batches.last().expect("batches").end;
        let full = log.machine.file(name).expect("a segment").len();
        for keep in (end..full).step_by(BLOCK) {
            let cut = log.with(name, |bytes| bytes.truncate(keep));
            costs_nothing(&cut, &log, &format!("{name} cut to {keep} of {full}"));
        }
        for keep in [2 * BLOCK, batches[1].offset, end - 1, end - BLOCK] {
            let cut = log.with(name, |bytes| bytes.truncate(keep));
            let what = format!("{name} cut to {keep}, batches up to {end}");
            let refused = open(&cut).expect_err(&what);
            assert!(refused.facts().contains(name), "{what}: {refused}");
            assert!(repaired(&cut, &log.state, &what), "{what}: no repair");
        }
    }
}

#[test]
fn where_batches_may_have_been_cut_off_the_log_is_refused_and_can_be_repaired() {
    let log = killed();
    let (name, end) = active(&log);
    let batches = &log.files[&name];
    let before = batches[0].end;
    // Behind the last batch there is not a whole block left: another one may have been there.
    for keep in [end, end + 100, end - 1, before, before + 10, 2 * BLOCK] {
        let cut = log.with(&name, |bytes| bytes.truncate(keep));
        let what = format!("{name} cut to {keep}, batches up to {end}");
        match open(&cut) {
            Err(OpenError::Corrupt(_)) => {}
            other => panic!("{what}: {other:?}"),
        }
        assert!(repaired(&cut, &log.state, &what), "{what}: no repair");
    }
}

#[test]
fn an_emptied_segment_is_refused_by_its_name_and_can_be_repaired() {
    let log = killed();
    for name in log.machine.names().iter().filter(|n| n.ends_with(".seg")) {
        let cut = log.with(name, |bytes| bytes.truncate(100));
        // A file below the log's end that is not in the log is nobody's.
        let refused = open(&cut).expect_err(name);
        let text = refused.facts();
        assert!(text.contains(name) && text.contains("100 bytes"), "{text}");
        assert!(repaired(&cut, &log.state, name), "{name}: no repair");
    }
}

#[test]
fn a_lost_newest_segment_that_only_a_footer_speaks_of_can_be_repaired() {
    let mut tried = 0;
    for seed in 0..40 {
        let (machine, due) = write(seed, 26);
        let names: Vec<String> = machine
            .names()
            .into_iter()
            .filter(|n| n.ends_with(".seg"))
            .collect();
        for from in 1..names.len() {
            let cut = machine.fork(1);
            names[from..]
                .iter()
                .for_each(|name| cut.set_file(name, None));
            if let Err(OpenError::MissingSegment { path }) = open(&cut) {
                let what = format!("seed {seed}: nothing from {} on: {path:?}", names[from]);
                assert!(repair(&cut).is_ok(), "{what}: no repair");
                assert!(repaired(&cut, &due, &what) || open(&cut).is_ok(), "{what}");
                tried += 1;
            }
        }
    }
    assert!(tried > 5, "{tried}");
}

/// What docs say of the end of a log: a batch says what was durable when it was *written*. Those that were in
/// flight with it say nothing of each other, though all of them were acknowledged: as many as may be in
/// flight can pass for torn, and not one more.
#[test]
fn as_many_acknowledged_batches_as_may_be_in_flight_can_pass_for_torn() {
    for depth in 1..=6u64 {
        let options = Options {
            depth: depth as usize,
            ..small()
        };
        let mut twin = Twin::new(SimHandle::new(depth, 8), options);
        twin.open().expect("a new log");
        let put = |twin: &mut Twin, index: u64| {
            twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 200]));
            twin.submit();
        };
        put(&mut twin, 1);
        twin.settle();
        // All at once: none of them knows of another that it is durable.
        (2..2 + depth).for_each(|index| put(&mut twin, index));
        twin.settle();
        assert_eq!(twin.acked, 1 + depth, "all are acknowledged");
        let state = twin.newest();
        twin.crash(&Keep::Everything);
        let files = locate(&twin.machine);
        let (name, batches) = files.iter().next_back().expect("segments");
        let rotten = |batch: usize| {
            let copy = twin.machine.fork(1);
            let mut bytes = copy.file(name).expect("a segment");
            bytes[batches[batch].offset + 200] ^= 1;
            copy.set_file(name, Some(bytes));
            open(&copy).expect("opens")
        };
        let opened = rotten(1);
        assert!(opened.report.cut.is_some() && opened.report.damaged.is_empty());
        let left = opened.found.groups[&1].entries.len() as u64;
        assert_eq!(left, 1, "depth {depth}: all {depth} are cut");
        // The one before them is known to have been durable: its loss is named.
        let opened = rotten(0);
        assert!(opened.report.cut.is_none());
        assert_eq!(opened.report.damaged.len(), 1, "depth {depth}");
        assert_eq!(opened.found.groups[&1].last(), state.groups[&1].last());
    }
}
