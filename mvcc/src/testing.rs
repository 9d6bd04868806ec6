//! Dice for the crate's own tests: a seed that is printed, and taken back from `HENGE_SEED`.

/// SplitMix64: small, fast, and the same everywhere.
pub(crate) struct Dice(u64);

impl Dice {
    /// Dice with a fixed seed.
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    /// Dice seeded by `HENGE_SEED`, or by a fixed default; says which (shown when the test fails).
    pub fn from_env(test: &str) -> Self {
        let seed = std::env::var("HENGE_SEED")
            .ok()
            .and_then(|seed| seed.parse().ok())
            .unwrap_or(42);
        println!("{test}: HENGE_SEED={seed}");
        Dice(seed)
    }

    /// The next 64 bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}
