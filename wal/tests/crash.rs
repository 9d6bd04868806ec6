//! Crashes: at every operation of every small workload with every subset of torn sectors, and at random
//! in long ones. After each, the log is a prefix of what was staged and holds what was acknowledged.

mod common;

use common::model::{Rec, Twin};
use common::{Dice, seed, small};
use henge_wal::disk::sim::{Fault, Keep, SimHandle};

/// One step of a small workload.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A small entry.
    Small,
    /// Entries of two groups and a hard state: two blocks.
    Pair,
    /// Half a segment: the second one begins a new segment.
    Large,
    /// Everything but the last entry is in a checkpoint.
    Compact,
    /// Wait until all is durable.
    Wait,
}

const STEPS: [Step; 5] = [
    Step::Small,
    Step::Pair,
    Step::Large,
    Step::Compact,
    Step::Wait,
];

fn play(twin: &mut Twin, steps: &[Step]) {
    let mut index = twin.newest().groups.get(&1).map_or(0, |log| log.last());
    for step in steps {
        index += 1;
        match step {
            Step::Small => twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 40])),
            Step::Pair => {
                twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 3_500]));
                twin.stage(Rec::Entry(2, 1, index, vec![index as u8; 900]));
                twin.stage(Rec::Hard(2, 1, 3, index));
            }
            Step::Large => twin.stage(Rec::Entry(1, 1, index, vec![index as u8; 30_000])),
            Step::Compact => {
                index -= 1;
                if index > 0 {
                    twin.stage(Rec::Compacted(1, index, 1));
                }
            }
            Step::Wait => {
                index -= 1;
                twin.settle();
                continue;
            }
        }
        twin.submit();
        twin.run(1);
    }
    twin.settle();
}

/// Which sectors in flight arrive.
type Subset = Box<dyn Fn(usize) -> bool>;

/// Most sectors of which all subsets are tried. The rest of the cases, a batch of half a segment mostly, get
/// the likely ones: with more time, more of them (`HENGE_EXHAUSTIVE=12`).
fn exhaustive_max() -> usize {
    let asked = std::env::var("HENGE_EXHAUSTIVE").ok();
    asked.and_then(|max| max.parse().ok()).unwrap_or(6)
}

/// All subsets of the sectors that matter.
fn all_subsets(matter: &[usize]) -> Vec<Subset> {
    let subset = |mask: u32| -> Subset {
        let lost: Vec<usize> = (matter.iter().enumerate())
            .filter(|(bit, _)| mask >> bit & 1 == 0)
            .map(|(_, sector)| *sector)
            .collect();
        Box::new(move |n| !lost.contains(&n))
    };
    (0..1u32 << matter.len()).map(subset).collect()
}

/// Every prefix, every suffix, every single loss, and some of the rest.
fn likely_subsets(sectors: usize) -> Vec<Subset> {
    let mut all: Vec<Subset> = Vec::new();
    for cut in 0..=sectors {
        all.push(Box::new(move |n| n < cut));
        all.push(Box::new(move |n| n >= cut));
        all.push(Box::new(move |n| n != cut));
    }
    for salt in 0..16u64 {
        all.push(Box::new(move |n| {
            Dice(salt * 1_000 + n as u64).roll() & 1 == 1
        }));
    }
    all
}

/// After a crash: open, write, stop cleanly, open again.
fn goes_on(mut twin: Twin) {
    twin.open().expect("a crash leaves a log that opens");
    play(&mut twin, &[Step::Pair, Step::Wait]);
    twin.close();
    twin.open().expect("and opens again");
}

/// Every workload of up to three steps, a crash at every disk operation of it.
#[test]
fn every_crash_point_of_every_small_workload() {
    let (mut cases, mut exhausted, mut sampled) = (0u64, 0u64, 0u64);
    let max = exhaustive_max();
    for code in 0..STEPS.len().pow(3) {
        let n = STEPS.len();
        let steps = [
            STEPS[code % n],
            STEPS[code / n % n],
            STEPS[code / n / n % n],
        ];
        for at in 0.. {
            let run = || {
                let mut twin = Twin::new(SimHandle::new(7, 3), small());
                twin.open().expect("a new log");
                twin.machine.fail(at, Fault::Crash);
                play(&mut twin, &steps);
                twin
            };
            let mut probe = run();
            if !probe.machine.is_crashed() {
                break; // past the last operation
            }
            let matter = probe.machine.sectors_that_matter();
            // This workload's share of the likely ones, in turn.
            let (all, stride) = if matter.len() <= max {
                exhausted += 1;
                (all_subsets(&matter), 1)
            } else {
                sampled += 1;
                (likely_subsets(probe.machine.sectors_in_flight()), 29)
            };
            for keep in all.iter().skip(code % stride).step_by(stride) {
                let mut twin = run();
                twin.crash(&Keep::Sectors(keep));
                goes_on(twin);
                cases += 1;
            }
            probe.crash(&Keep::Everything);
            goes_on(probe);
        }
    }
    println!(
        "{cases} crashes; all subsets at {exhausted} crash points, the likely ones at {sampled}"
    );
    assert!(
        cases > 10_000 && exhausted > 2 * sampled,
        "{cases} {exhausted} {sampled}"
    );
}

/// A torn tail of one two-block batch: all subsets of those of its sectors that are not zero as before.
#[test]
fn every_subset_of_a_torn_batch() {
    let run = || {
        let mut twin = Twin::new(SimHandle::new(3, 1), small());
        twin.open().expect("a new log");
        play(&mut twin, &[Step::Small, Step::Wait]);
        twin.machine.set_manual(true);
        twin.stage(Rec::Entry(1, 1, 2, vec![9; 3_500]));
        twin.stage(Rec::Entry(2, 1, 1, vec![8; 900]));
        twin.submit();
        assert_eq!(twin.machine.sectors_in_flight(), 16);
        twin
    };
    let (mut lost, mut kept, mut cut) = (0, 0, 0);
    let matter = run().machine.sectors_that_matter();
    assert!((10..=14).contains(&matter.len()), "{matter:?}");
    for keep in all_subsets(&matter) {
        let mut twin = run();
        twin.crash(&Keep::Sectors(&keep));
        twin.machine.set_manual(false);
        twin.open().expect("a torn tail is cut");
        match twin.acked {
            1 => lost += 1,
            2 => kept += 1,
            other => panic!("batch {other}"),
        }
        cut += twin
            .machine
            .names()
            .iter()
            .filter(|n| n.starts_with("cut/"))
            .count();
    }
    // A batch is all of it, or all but the header, the trailer or the marks, which are there twice.
    assert_eq!((lost, kept), ((1 << matter.len()) - 4, 4));
    assert!(cut > lost / 2, "{cut} of {lost}");
}

/// A crash at every operation of the recovery from a crash, and again at every operation of that.
#[test]
fn recovery_can_be_interrupted_anywhere() {
    let run = || {
        let mut twin = Twin::new(SimHandle::new(11, 2), small());
        twin.open().expect("a new log");
        play(
            &mut twin,
            &[
                Step::Large,
                Step::Pair,
                Step::Large,
                Step::Wait,
                Step::Compact,
            ],
        );
        twin.stage(Rec::Entry(1, 1, 4, vec![4; 9_000]));
        twin.submit();
        twin.crash(&Keep::Seeded(5));
        twin
    };
    let mut cases = 0;
    for first in 0.. {
        let mut twin = run();
        twin.machine.fail(first, Fault::Crash);
        if twin.open().is_ok() && !twin.machine.is_crashed() {
            break;
        }
        for second in 0.. {
            let mut twin = run();
            twin.machine.fail(first, Fault::Crash);
            let _ = twin.open();
            twin.crash(&Keep::Seeded(first * 100 + second));
            twin.machine.fail(second, Fault::Crash);
            let opened = twin.open().is_ok();
            if opened && !twin.machine.is_crashed() {
                twin.machine.heal();
                twin.crash(&Keep::Nothing);
                goes_on(twin);
                break;
            }
            twin.crash(&Keep::Seeded(second));
            goes_on(twin);
            cases += 1;
        }
    }
    assert!(cases > 100, "{cases}");
}

/// Long random lives with many crashes, against the naive twin.
#[test]
fn random_lives_with_crashes() {
    let seed = seed(1);
    for life in 0..300 {
        let mut dice = Dice(seed.wrapping_mul(1_000_003).wrapping_add(life));
        let mut options = small();
        options.depth = 1 + dice.below(6) as usize;
        options.batch_bytes_max = 4096 << dice.below(4);
        // Many wanted: then a segment that is let go is at once renamed and used again.
        options.ready_segments = 1 + dice.below(8) as usize;
        let machine = SimHandle::new(dice.roll(), 1 + dice.below(12));
        let mut twin = Twin::new(machine, options);
        for _ in 0..1 + dice.below(6) {
            twin.open().unwrap_or_else(|e| panic!("life {life}: {e}"));
            for _ in 0..dice.below(60) {
                twin.random_turn(&mut dice);
                twin.submit();
                twin.run(dice.below(12) as usize);
            }
            match dice.below(4) {
                0 => {
                    twin.settle();
                    twin.close();
                }
                1 => twin.crash(&Keep::Nothing),
                2 => twin.crash(&Keep::Everything),
                _ => twin.crash(&Keep::Seeded(dice.roll())),
            }
        }
        twin.open().unwrap_or_else(|e| panic!("life {life}: {e}"));
    }
}

/// A compaction in flight lets nothing go yet: if it is lost, what it covered is still needed.
#[test]
fn segments_are_kept_until_the_compaction_is_durable() {
    // More segments wanted than there is room for: one that is let go is at once used again.
    let mut options = small();
    options.ready_segments = 8;
    let mut twin = Twin::new(SimHandle::new(2, 1), options);
    twin.machine.set_capacity(Some(4 * 64 * 1024 + 1_000));
    twin.open().expect("a new log");
    for index in 1..=3 {
        twin.stage(Rec::Entry(1, 1, index, vec![1; 30_000]));
        twin.submit();
        twin.run(300);
    }
    assert_eq!(twin.acked, 3);

    twin.machine.set_manual(true);
    twin.stage(Rec::Entry(1, 1, 4, vec![4; 10]));
    twin.submit();
    twin.stage(Rec::Compacted(1, 2, 1));
    twin.submit();
    // Everything completes but the compaction, the newest of what is in flight now.
    let held = twin.machine.pending() - 1;
    (0..held).for_each(|n| twin.machine.release(n));
    twin.run(20);
    assert_eq!(twin.acked, 4);
    for _ in 0..20 {
        (1..twin.machine.pending()).for_each(|n| twin.machine.release(n));
        twin.run(5);
    }
    assert_eq!(twin.acked, 4);
    twin.crash(&Keep::Nothing);
    twin.machine.set_manual(false);
    twin.open().expect("all segments are there");
    assert_eq!(twin.acked, 4);
}
