//! Clusters on a bad network, by seed: messages are dropped, doubled, reordered and delayed; nodes are
//! cut off, crash with exactly what was durable, and come back; members come and go; clients write and
//! read. After every step the rules of raft are checked (`rules`); at the end everything heals, and the
//! cluster must go on.
//!
//! `HENGE_SEED=n` runs one seed, `HENGE_SEEDS=n` that many (the default is small; 20,000 run clean).
//!
//! `sim` has the cluster and the dice, `host` what a node's host does, `wire` the network, `faults`, `duel`
//! and `aba` what goes wrong, `workload` what clients and operators want.

#![allow(unexpected_cfgs)] // `henge_planted`: see the end of this file.

mod aba;
mod duel;
mod faults;
mod host;
mod rules;
mod sim;
mod wire;
mod workload;

use sim::Sim;

const SEEDS: u64 = 300;
const STEPS: usize = 10_000;

#[test]
fn seeds() {
    let variable = |name| {
        std::env::var(name)
            .ok()
            .map(|it| it.parse::<u64>().expect("a number"))
    };
    let seeds = match variable("HENGE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("HENGE_SEEDS").unwrap_or(SEEDS),
    };
    let (mut commands, mut reads, mut changes, mut crashes) = (0, 0, 0, 0);
    for seed in seeds {
        let result = std::panic::catch_unwind(|| {
            let mut sim = Sim::new(seed);
            sim.run(STEPS);
            sim.heal_and_finish();
            sim.counts()
        });
        let Ok(counts) = result else {
            panic!("failed: repeat with HENGE_SEED={seed}")
        };
        commands += counts[0];
        reads += counts[1];
        changes += counts[2];
        crashes += counts[3];
    }
    println!("{commands} commands, {reads} reads, {changes} membership changes, {crashes} crashes");
}

/// The same seed gives the same run: what a failing seed shows can be looked at again.
#[test]
fn runs_are_repeatable() {
    let run = || {
        let mut sim = Sim::new(7);
        sim.run(STEPS);
        sim.heal_and_finish();
        sim.trace()
    };
    assert_eq!(run(), run());
}

/// Each planted bug is found (or those in `HENGE_PLANTED=Name,Name`): `RUSTFLAGS="--cfg henge_planted" cargo
/// test -p henge-raft --test network`.
#[cfg(henge_planted)]
#[test]
fn planted_bugs_are_found() {
    use henge_raft::planted::{Bug, plant};
    const SEEDS_MAX: u64 = 2_000;
    // What they break is reported by panics, which nobody needs to see here.
    std::panic::set_hook(Box::new(|_| ()));
    let mut missed = Vec::new();
    let only = std::env::var("HENGE_PLANTED").ok();
    for bug in Bug::ALL {
        if only
            .as_ref()
            .is_some_and(|only| !only.split(',').any(|it| it == format!("{bug:?}")))
        {
            continue;
        }
        plant(Some(bug));
        let found = (0..SEEDS_MAX).find(|seed| {
            let run = || {
                let mut sim = Sim::new(*seed);
                sim.run(STEPS);
                sim.heal_and_finish();
            };
            std::panic::catch_unwind(run).is_err()
        });
        plant(None);
        match found {
            Some(seed) => println!("{bug:?}: found by seed {seed}"),
            None => missed.push(bug),
        }
    }
    let _ = std::panic::take_hook();
    println!("not found: {missed:?}");
    assert!(missed.is_empty(), "not found: {missed:?}");
}
