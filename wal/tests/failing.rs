//! Operations that fail, each in turn, once or for ever, and a disk that is full: nothing acknowledged is
//! lost, nothing is acknowledged after a failed write, nothing panics or hangs.

mod common;

use common::model::{Rec, Twin};
use common::small;
use henge_wal::disk::sim::{Fault, Keep, SimHandle};
use henge_wal::{Event, OpenError, Shortage, WalError};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

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
    assert_eq!(twin.events, [Event::SpaceLow(Shortage::Space)]);
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
    assert_eq!(
        twin.events,
        [Event::SpaceLow(Shortage::Space), Event::SpaceOk]
    );
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

/// Said as a full disk, it sent operators to look for space that was there.
#[test]
fn regression_what_the_log_lacks_is_said() {
    let (emfile, efbig) = (24, 27);
    for (code, lacks) in [
        (emfile, Shortage::Descriptors),
        (efbig, Shortage::FileSize),
        (ENOSPC, Shortage::Space),
    ] {
        let mut twin = Twin::new(SimHandle::new(3, 2), small());
        // Room for the first segment alone: the next one is being made as the log is opened.
        twin.open().expect("a new log");
        twin.machine.fail(0, Fault::ErrorForEver(code));
        for index in 1..=20 {
            twin.stage(Rec::Entry(1, 1, index, vec![7; 9_000]));
        }
        twin.run(3_000);
        let stats = twin.wal.as_ref().map(|w| w.stats()).expect("open");
        assert_eq!(stats.shortage, Some(lacks), "errno {code}");
        assert_eq!(twin.events, [Event::SpaceLow(lacks)], "errno {code}");
        twin.machine.heal();
        twin.run(3_000);
        assert_eq!(twin.events.last(), Some(&Event::SpaceOk));
    }
}

/// Every start began a segment of its own. On a full disk the first one after a kill took the ballast, and
/// the second could not write who leads: nothing was served until others made room.
#[test]
fn regression_a_full_disk_survives_many_restarts() {
    let mut twin = Twin::new(SimHandle::new(3, 2), small());
    twin.machine.set_capacity(Some(3 * 64 * 1024 + 1_000));
    twin.open().expect("room for three segments");
    for index in 1..=9 {
        twin.stage(Rec::Entry(1, 1, index, vec![7; 9_000]));
        twin.submit();
        twin.run(300);
    }
    // The third segment is in use, and there is no other.
    let stats = twin.wal.as_ref().map(|w| w.stats()).expect("open");
    assert!(
        stats.space_low && stats.ready_segments == 0 && twin.acked == 9,
        "{stats:?}"
    );
    for restart in 0..8 {
        match restart % 3 {
            0 => twin.crash(&Keep::Nothing),
            1 => twin.crash(&Keep::Everything),
            _ => twin.close(),
        }
        twin.open().expect("all of it is there");
        let before = twin.acked;
        twin.stage(Rec::Hard(1, 2 + restart, 1, 9));
        twin.submit();
        twin.run(2_000);
        assert_eq!(twin.acked, before + 1, "restart {restart}");
    }
    twin.machine.set_capacity(None);
    for index in 10..=20 {
        twin.stage(Rec::Entry(1, 10, index, vec![8; 9_000]));
        twin.submit();
        twin.run(3_000);
    }
    assert_eq!(twin.events.last(), Some(&Event::SpaceOk));
    twin.close();
    twin.open().expect("all of it is there");
}

/// With room for two segments, the one being written was never let go, whatever was compacted.
#[test]
fn a_log_of_two_segments_goes_round() {
    let mut twin = Twin::new(SimHandle::new(3, 2), small());
    twin.machine.set_capacity(Some(2 * 64 * 1024 + 1_000));
    twin.open().expect("room for two segments");
    let mut index = 0;
    for round in 0..6 {
        for _ in 0..4 {
            index += 1;
            twin.stage(Rec::Entry(1, 1, index, vec![round; 9_000]));
            twin.submit();
            twin.run(300);
        }
        let wal = twin.wal.as_mut().expect("open");
        assert!(!wal.let_go(), "its entries are needed");
        twin.stage(Rec::Compacted(1, index, 1));
        twin.submit();
        twin.run(300);
        let wal = twin.wal.as_mut().expect("open");
        assert!(wal.stats().space_low && wal.let_go(), "round {round}");
        twin.submitted += 1;
        twin.run(3_000);
        let stats = twin.wal.as_ref().expect("open").stats();
        assert_eq!((stats.segments, stats.ready_segments), (1, 1), "{round}");
    }
    twin.crash(&Keep::Nothing);
    twin.open().expect("all of it is there");
}

const FAULTS: [Fault; 4] = [
    Fault::Error(EIO),
    Fault::ErrorForEver(EIO),
    Fault::Error(ENOSPC),
    Fault::ErrorForEver(ENOSPC),
];

/// Every operation of the recovery of a log with a torn tail fails in turn: a typed error or a log that
/// holds everything, and the next open finds all that was acknowledged.
#[test]
fn the_nth_operation_of_a_recovery_fails_for_all_n() {
    let mut twin = Twin::new(SimHandle::new(11, 2), small());
    twin.open().expect("a new log");
    for index in 1..=14u64 {
        twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 12_000]));
        twin.stage(Rec::Hard(1, 1, 2, index - 1));
        twin.submit();
        twin.settle();
    }
    twin.machine.set_manual(true);
    twin.stage(Rec::Entry(1, 1, 15, vec![15; 9_000]));
    twin.submit();
    let torn = |sector: usize| sector != 3;
    twin.crash(&Keep::Sectors(&torn));
    twin.machine.set_manual(false);
    let (mut failed, mut opened) = (0, 0);
    for fault in FAULTS {
        for n in 0.. {
            let machine = twin.machine.fork(n);
            let before = machine.ops();
            let again = |machine: &SimHandle| {
                let mut other = Twin::new(machine.clone(), small());
                (other.base, other.batches) = (twin.base.clone(), twin.batches.clone());
                (other.acked, other.submitted) = (twin.acked, twin.submitted);
                other.open().map(|()| other)
            };
            machine.fail(n, fault);
            match again(&machine) {
                Ok(mut other) => {
                    opened += 1;
                    other.settle();
                    other.crash(&Keep::Everything);
                }
                Err(OpenError::Io { .. }) => failed += 1,
                Err(other) => panic!("{fault:?} at {n}: {other}"),
            }
            let reached = machine.ops() > before + n;
            machine.heal();
            machine.crash(&Keep::Seeded(n));
            again(&machine).unwrap_or_else(|e| panic!("{fault:?} at {n}: {e}"));
            if !reached {
                break;
            }
        }
    }
    println!("{failed} refused, {opened} opened");
    assert!(failed > 40 && opened > 4, "{failed} {opened}");
}

/// Every operation of a life with purging, recycling and rewriting fails in turn.
#[test]
fn the_nth_operation_of_purging_and_rewriting_fails_for_all_n() {
    let life = |twin: &mut Twin| {
        for group in 1..=2 {
            twin.stage(Rec::Entry(group, 1, 1, vec![group as u8; 500]));
            twin.stage(Rec::Hard(group, 3, group, 0));
        }
        twin.submit();
        twin.settle();
        for index in 1..=60u64 {
            twin.stage(Rec::Entry(9, 1, index, vec![index as u8; 9_000]));
            if index > 3 {
                twin.stage(Rec::Compacted(9, index - 3, 1));
            }
            twin.submit();
            twin.run(40);
        }
        twin.settle();
        twin.wal.as_ref().map_or((0, 0), |wal| {
            let stats = wal.stats();
            (stats.rewritten, stats.recycled)
        })
    };
    let (mut cases, mut poisoned) = (0, 0);
    for fault in FAULTS {
        for n in 0.. {
            let mut twin = Twin::new(SimHandle::new(3, 2), small());
            twin.open().expect("a new log");
            let before = twin.machine.ops();
            twin.machine.fail(n, fault);
            let (rewritten, recycled) = life(&mut twin);
            let reached = twin.machine.ops() > before + n;
            twin.machine.heal();
            let said = twin
                .events
                .iter()
                .filter(|e| matches!(e, Event::Poisoned(_)));
            poisoned += said.count();
            twin.crash(&Keep::Seeded(n));
            twin.open()
                .unwrap_or_else(|e| panic!("{fault:?} at {n}: {e}"));
            if !reached {
                assert!(rewritten > 0 && recycled > 0, "{rewritten} {recycled}");
                break;
            }
            cases += 1;
        }
    }
    println!("{cases} faults, {poisoned} poisoned logs");
    assert!(cases > 200 && poisoned > 100, "{cases} {poisoned}");
}
