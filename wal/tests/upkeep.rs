//! What a log does for itself in a long life: rewrites groups that lag, names those that pin, scrubs what
//! is sealed, measures its disk by the time it is told; all of it through crashes and failing disks.

mod common;

use std::task::{Context, Poll, Waker};

use common::model::{Rec, Twin};
use common::{Dice, seed, small};
use henge_wal::disk::sim::{Fault, Keep, SimHandle};
use henge_wal::{Event, Options, Wal};

fn stats(twin: &Twin) -> henge_wal::Stats {
    twin.wal.as_ref().expect("open").stats()
}

/// A busy group that is compacted, and some that said little, long ago.
fn life(twin: &mut Twin, turns: u64, from: u64) {
    for index in from..from + turns {
        twin.stage(Rec::Entry(9, 1, index, vec![index as u8; 6_000]));
        if index > 3 {
            twin.stage(Rec::Compacted(9, index - 3, 1));
        }
        twin.submit();
        twin.run(40);
    }
}

fn laggards(twin: &mut Twin) {
    for group in 1..=4 {
        for index in 1..=3 {
            twin.stage(Rec::Entry(group, 1, index, vec![group as u8; 500]));
        }
        twin.stage(Rec::Hard(group, 3, group, 2));
    }
    twin.submit();
    twin.settle();
}

#[test]
fn groups_that_lag_are_rewritten_and_their_segments_go() {
    let mut twin = Twin::new(SimHandle::new(1, 2), small());
    twin.open().expect("a new log");
    laggards(&mut twin);
    life(&mut twin, 200, 1);
    twin.settle();
    let now = stats(&twin);
    assert!(now.rewritten >= 12, "{now:?}");
    assert!(now.segments <= 7, "{now:?}");
    let state = twin.newest();
    twin.close();
    twin.open().expect("opens");
    assert!(twin.newest() == state, "nothing was changed by it");
    assert_eq!(state.groups[&2].entries.len(), 3);
}

#[test]
fn regression_closing_while_a_group_is_being_read_to_be_rewritten_ends() {
    // What was read was staged into the closing log, which then waited for a segment that nobody made.
    let seed = seed(4);
    let mut rewritten = 0;
    for life_no in 0..6_000 {
        let mut dice = Dice(seed.wrapping_mul(37).wrapping_add(life_no));
        let options = Options {
            batch_bytes_max: 48 * 1024,
            ..small()
        };
        let mut twin = Twin::new(SimHandle::new(dice.roll(), 2), options);
        twin.open().expect("a new log");
        for group in 1..=4 {
            twin.stage(Rec::Entry(group, 1, 1, vec![group as u8; 10_000]));
        }
        twin.submit();
        twin.settle();
        for index in 1..=20 + dice.below(30) {
            let bytes = 500 + dice.below(30_000) as usize;
            twin.stage(Rec::Entry(9, 1, index, vec![index as u8; bytes]));
            if index > 3 {
                twin.stage(Rec::Compacted(9, index - 3, 1));
            }
            twin.submit();
            twin.run(dice.below(12) as usize);
        }
        let state = twin.newest();
        rewritten += stats(&twin).rewritten;
        twin.close();
        twin.open().expect("opens");
        assert!(twin.newest() == state, "life {life_no}");
    }
    assert!(rewritten > 0, "none of these lives came to rewriting");
}

#[test]
fn restarts_do_not_make_the_log_grow() {
    let mut twin = Twin::new(SimHandle::new(2, 2), small());
    for restart in 1..=60 {
        twin.open().expect("opens");
        twin.stage(Rec::Entry(1, 1, restart, vec![1; 20]));
        twin.submit();
        twin.settle();
        twin.crash(&Keep::Everything);
    }
    let files = twin.machine.names();
    assert!(files.len() < 14, "{} files: {files:?}", files.len());
    twin.open().expect("opens");
    assert_eq!(twin.newest().groups[&1].entries.len(), 60);
}

#[test]
fn rewriting_survives_crashes_anywhere() {
    let seed = seed(3);
    for life_no in 0..120 {
        let mut dice = Dice(seed.wrapping_mul(31).wrapping_add(life_no));
        let mut twin = Twin::new(SimHandle::new(dice.roll(), 1 + dice.below(6)), small());
        twin.open().expect("a new log");
        laggards(&mut twin);
        let mut index = 1;
        for _ in 0..4 {
            let turns = 20 + dice.below(60);
            let at = dice.below(600);
            match dice.below(3) {
                0 => twin.machine.fail(at, Fault::Crash),
                1 => twin.machine.fail(at, Fault::Error(5)),
                _ => twin.machine.fail(at, Fault::ErrorForEver(5)),
            }
            life(&mut twin, turns, index);
            // Groups that lagged move, also while they are being rewritten.
            let group = 1 + dice.below(4);
            let last = twin.newest().groups.get(&group).map_or(0, |log| log.last());
            twin.stage(Rec::Entry(group, 4, last.max(1), vec![8; 100]));
            twin.submit();
            twin.run(dice.below(30) as usize);
            twin.crash(&Keep::Seeded(dice.roll()));
            twin.machine.heal();
            twin.open()
                .unwrap_or_else(|e| panic!("life {life_no}: {e}"));
            index = twin.newest().groups.get(&9).map_or(0, |log| log.last()) + 1;
        }
    }
}

#[test]
fn a_log_over_its_budget_names_who_pins_it() {
    let options = Options {
        log_bytes_max: 4 * 64 * 1024,
        ..small()
    };
    let mut twin = Twin::new(SimHandle::new(4, 1), options);
    twin.open().expect("a new log");
    let pins = |twin: &Twin| twin.wal.as_ref().expect("open").pins();
    for index in 1..=60 {
        twin.stage(Rec::Entry(1, 1, index, vec![1; 9_000]));
        twin.stage(Rec::Entry(2, 1, index, vec![2; 20]));
        twin.submit();
        twin.settle();
        if index == 10 {
            assert_eq!(pins(&twin), []);
        }
    }
    let named = pins(&twin);
    assert_eq!(named.iter().map(|p| p.group).collect::<Vec<_>>(), [1, 2]);
    let (bytes, bytes_max) = twin.wal.as_ref().expect("open").size();
    assert!(bytes > bytes_max);
    // Compacted up to what was asked for, the oldest segment goes; again and again, until it fits.
    for _ in 0..20 {
        for pin in pins(&twin) {
            twin.stage(Rec::Compacted(pin.group, pin.index, 1));
        }
        twin.submit();
        twin.settle();
    }
    assert_eq!(pins(&twin), []);
    let (bytes, _) = twin.wal.as_ref().expect("open").size();
    assert!(bytes <= bytes_max, "{bytes}");
}

/// Scrub until a pass ends; what was said.
fn scrub(wal: &mut Wal) -> Vec<Event> {
    let mut cx = Context::from_waker(Waker::noop());
    let mut said = Vec::new();
    for _ in 0..2_000 {
        if !wal.scrub_slice(8_192) {
            return said;
        }
        while let Poll::Ready(event) = wal.poll(&mut cx) {
            said.push(event);
        }
        let _ = wal.poll(&mut cx);
    }
    panic!("the pass never ends");
}

#[test]
fn the_scrubber_reads_everything_sealed_and_finds_every_rotten_batch() {
    let mut twin = Twin::new(SimHandle::new(7, 1), small());
    twin.open().expect("a new log");
    for index in 1..=30 {
        twin.stage(Rec::Entry(
            1,
            1,
            index,
            vec![index as u8; 3_000 + 300 * index as usize],
        ));
        twin.submit();
        twin.settle();
    }
    twin.close();
    twin.open().expect("opens");
    let wal = twin.wal.as_mut().expect("open");
    let said = scrub(wal);
    assert!(
        !said.iter().any(|e| matches!(e, Event::Rot { .. })),
        "{said:?}"
    );
    let (passes, bytes) = wal.scrubbed();
    assert!(passes == 1 && bytes > 100_000, "{passes} {bytes}");

    // Rot that came while the log was open.
    for index in [3u64, 9, 20] {
        let mut needle = [1, 1, index].map(u64::to_le_bytes).concat();
        needle.push(index as u8);
        let files: Vec<_> = twin
            .machine
            .names()
            .into_iter()
            .filter(|n| n.ends_with(".seg"))
            .collect();
        for name in files {
            let mut bytes = twin.machine.file(&name).expect("it");
            if let Some(at) = bytes.windows(25).position(|w| w == needle) {
                bytes[at + 200] ^= 4;
                twin.machine.rot(&name, at + 200, &[bytes[at + 200]]);
            }
        }
    }
    let wal = twin.wal.as_mut().expect("open");
    let mut found: Vec<_> = scrub(wal)
        .into_iter()
        .filter_map(|event| match event {
            Event::Rot { groups, .. } => groups.first().map(|d| (d.group, d.first, d.last)),
            _ => None,
        })
        .collect();
    found.sort_unstable();
    // At most one place per segment and pass is named; all three lie in segments of their own.
    assert_eq!(found, [(1, 3, 3), (1, 9, 9), (1, 20, 20)]);
    twin.stage(Rec::Entry(1, 1, 31, vec![1; 10]));
    twin.submit();
    twin.settle();
    assert!(twin.events.iter().all(|e| !matches!(e, Event::Poisoned(_))));
}

#[test]
fn a_stuck_write_is_seen_by_its_age_and_latencies_are_counted() {
    let machine = SimHandle::new(9, 1);
    let mut twin = Twin::new(machine, small());
    twin.open().expect("a new log");
    let wal = twin.wal.as_mut().expect("open");
    wal.set_time(1_000);
    twin.stage(Rec::Entry(1, 1, 1, vec![1; 10]));
    twin.submit();
    twin.run(1);
    twin.wal.as_mut().expect("open").set_time(1_300);
    twin.settle();
    let wal = twin.wal.as_mut().expect("open");
    assert_eq!(wal.oldest_in_flight(), None);
    let before = wal.histograms().clone();
    assert_eq!(before.write_micros.count(), 2, "a header and a batch");
    assert_eq!(before.batch_bytes.sum, 4_096);

    twin.machine.set_manual(true);
    twin.wal.as_mut().expect("open").set_time(5_000);
    twin.stage(Rec::Entry(1, 1, 2, vec![1; 10]));
    twin.submit();
    twin.run(10);
    let wal = twin.wal.as_mut().expect("open");
    wal.set_time(9_000_000);
    let stuck = wal.oldest_in_flight().expect("it does not complete");
    assert_eq!((stuck.since_micros, stuck.offset), (5_000, 8_192 + 4_096));
    twin.machine.release(twin.machine.pending() - 1);
    twin.run(5);
    let wal = twin.wal.as_mut().expect("open");
    assert_eq!(wal.oldest_in_flight(), None);
    assert!(wal.histograms().write_micros.quantile(1.0) >= 8_995_000);
}
