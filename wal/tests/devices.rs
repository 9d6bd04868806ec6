//! Bad devices, by chance and over long lives: faults D2–D13 and D18 of `docs/faults.md`, one kind at a time.
//! Whatever the device does, nothing is invented, nothing panics or hangs, and what is lost is named; when
//! the faults end, the log opens or says why not.

mod common;

use common::model::Twin;
use common::{Dice, Opened, nothing_is_invented, seed, small};
use henge_wal::disk::sim::{Chances, Keep, SimHandle, Struck};
use henge_wal::{Collect, Event, OpenError};

/// What became of a life on a bad device.
#[derive(Debug, Default)]
struct Fate {
    struck: u64,
    whole: u64,
    damaged: u64,
    refused: u64,
    shorter: u64,
}

fn total(struck: &Struck) -> u64 {
    let all = [
        struck.lost_write,
        struck.misdirected_write,
        struck.misdirected_read,
        struck.rot,
        struck.short_read,
        struck.unreadable,
        struck.write_error,
        struck.no_space,
        struck.quota,
        struck.slow,
        struck.stuck,
        struck.lie,
        struck.again,
    ];
    all.iter().sum()
}

/// Entries of `found` are entries of some state that was staged; how many are missing of `acked`.
fn compare(found: &Collect, newest: &Collect, acked: &Collect) -> u64 {
    nothing_is_invented(found, newest);
    let missing = |(group, log): (&u64, &henge_wal::GroupLog)| {
        let theirs = found.groups.get(group);
        log.entries
            .iter()
            .filter(|e| !theirs.is_some_and(|t| t.compacted >= e.index || t.entries.contains(e)))
            .count() as u64
    };
    acked.groups.iter().map(missing).sum()
}

/// Sets the chance of one kind of fault.
type Kind = fn(&mut Chances, u64);

/// Lives with one kind of fault. `kind` sets its chance.
fn lives(name: &str, kind: Kind, crash: bool) -> Fate {
    let seed = seed(1);
    let mut fate = Fate::default();
    for life in 0..60 {
        let mut dice = Dice(seed.wrapping_mul(7_919).wrapping_add(life));
        let mut twin = Twin::new(SimHandle::new(dice.roll(), 1 + dice.below(4)), small());
        twin.open().expect("a sound device at first");
        let mut chances = Chances::default();
        kind(&mut chances, 5 + dice.below(60));
        twin.machine.set_chances(dice.roll(), chances);
        // Entries only: what is missing afterwards can then be counted.
        for index in 1..=40 + dice.below(40) {
            for group in 1..=3 {
                let bytes = dice.below(3_000) as usize;
                let payload = vec![(index * 3 + group) as u8; bytes];
                twin.stage(common::model::Rec::Entry(group, 1, index, payload));
            }
            twin.submit();
            twin.run(30);
            twin.machine.unstick();
        }
        for _ in 0..20 {
            twin.machine.unstick();
            twin.run(400);
        }
        let (newest, acked) = (twin.newest(), twin.state(twin.acked));
        let poisoned = twin.events.iter().any(|e| matches!(e, Event::Poisoned(_)));
        if name != "reads" {
            twin.machine.set_chances(0, Chances::default());
            twin.machine.unstick();
        }
        if !crash && !poisoned {
            twin.close();
        } else {
            twin.crash(&Keep::Everything);
        }
        let disk = Box::new(twin.machine.disk());
        let opened = common::open("sim".as_ref(), &small(), disk);
        fate.struck += total(&twin.machine.struck());
        match opened {
            Ok(Opened { found, report, .. }) => {
                let missing = compare(&found, &newest, &acked);
                match (report.damaged.is_empty(), missing) {
                    (true, 0) => fate.whole += 1,
                    (false, _) => fate.damaged += 1,
                    (true, _) => fate.shorter += 1,
                }
            }
            Err(
                OpenError::Corrupt(_) | OpenError::MissingSegment { .. } | OpenError::Io { .. },
            ) => fate.refused += 1,
            Err(other) => panic!("{name}, life {life}: {other}"),
        }
    }
    println!("{name}: {fate:?}");
    assert!(fate.struck > 20, "{name}: {fate:?}");
    fate
}

#[test]
fn lost_and_misdirected_writes_are_noticed_after_a_clean_stop() {
    let fate = lives("D2", |c, n| c.lost_write = n, false);
    // The closing mark itself may be what was lost: then the end before it is the end.
    assert!(
        fate.damaged + fate.refused > 20 && fate.shorter <= 6,
        "{fate:?}"
    );
    let fate = lives("D3", |c, n| c.misdirected_write = n, false);
    assert!(
        fate.damaged + fate.refused > 20 && fate.shorter <= 6,
        "{fate:?}"
    );
}

#[test]
fn rot_and_unreadable_sectors_cost_the_groups_they_hit() {
    let fate = lives("D4", |c, n| c.rot = n, false);
    assert!(fate.damaged > 10 && fate.shorter == 0, "{fate:?}");
    let fate = lives("D6", |c, n| c.unreadable = n, false);
    assert!(
        fate.damaged + fate.refused > 10 && fate.shorter == 0,
        "{fate:?}"
    );
}

#[test]
fn reads_that_go_wrong_never_invent_anything() {
    let fate = lives(
        "reads",
        |c, n| (c.misdirected_read, c.short_read) = (n, n),
        false,
    );
    assert!(
        fate.whole + fate.damaged + fate.refused + fate.shorter == 60,
        "{fate:?}"
    );
}

#[test]
fn failing_writes_poison_and_lose_nothing_acknowledged() {
    let fate = lives("D7", |c, n| c.write_error = n, true);
    assert_eq!(
        (fate.damaged, fate.refused, fate.shorter),
        (0, 0, 0),
        "{fate:?}"
    );
}

#[test]
fn full_slow_and_stuck_devices_lose_nothing() {
    let kinds: [(&str, Kind); 5] = [
        ("D9", |c, n| c.no_space = 10 * n),
        ("D10", |c, n| c.quota = 10 * n),
        ("D11", |c, n| c.slow = n),
        ("D12", |c, n| c.stuck = n),
        ("D18", |c, n| c.again = 10 * n),
    ];
    for (name, kind) in kinds {
        for crash in [false, true] {
            let fate = lives(name, kind, crash);
            assert_eq!(
                (fate.damaged, fate.refused, fate.shorter),
                (0, 0, 0),
                "{name}: {fate:?}"
            );
        }
    }
}

/// No promise of a single node (D13), but nothing is invented, and where anything later is left it is
/// noticed.
#[test]
fn a_lying_device_is_survived() {
    let fate = lives("D13", |c, n| c.lie = 10 * n, true);
    assert!(
        fate.whole + fate.damaged + fate.refused + fate.shorter == 60,
        "{fate:?}"
    );
}
