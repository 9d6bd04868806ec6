//! How property tests get their randomness: from `HENGE_SEED`, or from a seed that is always the same.
//!
//! Promises: the seed is printed, and the same one tries the same cases.
//! Must never know: what is tested.

use proptest::test_runner::{Config, RngSeed};

/// A configuration that tries `cases` cases.
pub(crate) fn cases(cases: u32) -> Config {
    let given = std::env::var("HENGE_SEED").ok();
    let seed = given.and_then(|seed| seed.parse().ok()).unwrap_or(1);
    println!("HENGE_SEED={seed}");
    Config {
        cases,
        rng_seed: RngSeed::Fixed(seed),
        failure_persistence: None,
        ..Config::default()
    }
}
