//! The simulator as part of `cargo test`: some hundred seeds, the same trace twice, and every planted
//! bug found. More seeds: `cargo run --release -p henge-tests --bin sim -- --seeds 1000`.
//!
//! `HENGE_SEED` chooses the first seed; a seed that fails is printed with the command that repeats it.

use henge_tests::sim::aside::{NAMES, Tally};
use henge_tests::sim::planted::ALL;
use henge_tests::sim::{self, Options};

/// Seeds per run of the suite.
const SEEDS: u64 = 400;
/// Machines with many shards per run of the suite.
const MACHINE_SEEDS: u64 = 60;
/// A planted bug must be found within so many seeds: a lost vote needs a crash just then, and is found by
/// seed 115.
const PLANTED_SEEDS: u64 = 200;

fn first_seed() -> u64 {
    let seed = std::env::var("HENGE_SEED")
        .ok()
        .and_then(|text| text.parse().ok())
        .unwrap_or(1);
    println!("HENGE_SEED={seed}");
    seed
}

fn survives(options: &Options) -> sim::Stats {
    match sim::run(options) {
        Ok(stats) => stats,
        Err(violation) => {
            panic!(
                "seed {}: {violation}\nrepeat it with: {}",
                options.seed,
                options.command()
            )
        }
    }
}

#[test]
fn no_seed_breaks_a_promise() {
    let first = first_seed();
    let mut total = sim::Stats::default();
    for seed in first..first + SEEDS {
        total.add(&survives(&Options::new(seed)));
    }
    println!("{total:?}");
    // A simulation in which nothing goes wrong proves nothing.
    let fired = [
        total.crashes,
        total.failed_starts,
        total.poisoned,
        total.frames_lost,
    ];
    assert!(
        fired.iter().all(|fault| *fault > 0),
        "faults never fired: {total:?}"
    );
    assert!(
        total.counts.done > 100 * SEEDS,
        "hardly any work was done: {total:?}"
    );
    assert!(
        total.counts.unknown > 0 && total.watches_compacted > 0 && total.watch_notes > 10 * SEEDS,
        "{total:?}"
    );
    aside_is_exercised(&total);
}

#[test]
fn no_seed_breaks_a_shards_promise_on_any_number_of_cores() {
    let first = first_seed();
    let mut total = sim::Stats::default();
    for seed in first..first + MACHINE_SEEDS {
        total.add(&survives(&Options::machine(seed)));
    }
    println!("{total:?}");
    let fired = [
        total.crashes,
        total.failed_starts,
        total.poisoned,
        total.moves,
    ];
    assert!(
        fired.iter().all(|fault| *fault > MACHINE_SEEDS / 8),
        "faults hardly fired: {total:?}"
    );
    assert!(total.counts.done > 500 * MACHINE_SEEDS, "{total:?}");
    aside_is_exercised(&total);
    let options = Options::machine(first);
    assert_eq!(survives(&options), survives(&options), "not the same trace");
}

/// Checkpoints are written and cut short, segments are purged: fifty of each in an hour of virtual time, and
/// the power is cut at every kind of operation of a checkpoint. (A run of the suite has less than an hour.)
fn aside_is_exercised(total: &sim::Stats) {
    let Tally {
        checkpoints,
        purged,
        cuts,
    } = total.aside;
    let hours = total.virtual_us.div_ceil(3_600_000_000);
    assert!(
        checkpoints >= 50 * hours && purged >= 50 * hours,
        "{total:?}"
    );
    assert!(cuts.iter().all(|cut| *cut > 0), "{NAMES:?}: {cuts:?}");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let first = first_seed();
    for seed in first..first + 6 {
        let options = Options::new(seed);
        assert_eq!(survives(&options), survives(&options), "seed {seed}");
    }
    assert_ne!(
        survives(&Options::new(first)).trace,
        survives(&Options::new(first + 3)).trace
    );
}

#[test]
fn every_planted_bug_is_found() {
    for planted in ALL {
        let found = (1..=PLANTED_SEEDS).find(|seed| sim::run(&planted.options(*seed)).is_err());
        assert!(
            found.is_some(),
            "{planted} was not found in {PLANTED_SEEDS} seeds"
        );
        println!("{planted}: found by seed {found:?}");
    }
}
