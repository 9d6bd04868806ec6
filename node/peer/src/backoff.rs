//! Backoff: how long to wait before the next attempt to reach a peer.
//!
//! Doubles from a floor to a ceiling, each time somewhere in the upper half, so that nodes that
//! lost each other at the same moment do not call at the same moment (fault N9). The dice are a
//! seed from the caller: no global randomness.
//!
//! Must never know: clocks or sockets. Tested below.

use std::time::Duration;

/// Delays between attempts; one per peer.
#[derive(Debug)]
pub(super) struct Backoff {
    floor: Duration,
    ceiling: Duration,
    next: Duration,
    dice: Dice,
}

impl Backoff {
    pub(super) fn new(floor: Duration, ceiling: Duration, seed: u64) -> Backoff {
        Backoff {
            floor,
            ceiling,
            next: floor,
            dice: Dice(seed),
        }
    }

    /// The delay before the next attempt; the one after it is about twice as long.
    pub(super) fn delay(&mut self) -> Duration {
        let delay = self.jitter(self.next);
        self.next = self.next.saturating_mul(2).min(self.ceiling);
        delay
    }

    /// The shortest delay: for when there is news that the peer is up. Leaves the doubling alone,
    /// so that false news cannot make us call faster for long.
    pub(super) fn shortest(&mut self) -> Duration {
        self.jitter(self.floor)
    }

    /// To be called when a connection proved good.
    pub(super) fn reset(&mut self) {
        self.next = self.floor;
    }

    fn jitter(&mut self, delay: Duration) -> Duration {
        let half = delay / 2;
        let span = u64::try_from(half.as_micros()).unwrap_or(u64::MAX);
        half + Duration::from_micros(self.dice.roll() % span.saturating_add(1))
    }
}

/// SplitMix64 (Steele, Lea, Flood 2014): tiny, and good enough to spread nodes apart.
#[derive(Debug)]
pub(super) struct Dice(pub(super) u64);

impl Dice {
    pub(super) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FLOOR: Duration = Duration::from_millis(20);
    const CEILING: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_within_bounds_and_starts_again() {
        let mut backoff = Backoff::new(FLOOR, CEILING, 7);
        for full_ms in [20, 40, 80, 160, 320, 640, 1_000, 1_000, 1_000] {
            let full = Duration::from_millis(full_ms);
            let delay = backoff.delay();
            assert!(delay >= full / 2 && delay <= full, "{delay:?} for {full:?}");
        }
        assert!(backoff.shortest() <= FLOOR);
        assert!(backoff.delay() >= CEILING / 2, "news does not reset");
        backoff.reset();
        assert!(backoff.delay() <= FLOOR);
    }

    #[test]
    fn two_seeds_do_not_walk_in_step() {
        let delays = |seed| {
            let mut backoff = Backoff::new(FLOOR, CEILING, seed);
            (0..6).map(|_| backoff.delay()).collect::<Vec<_>>()
        };
        assert_eq!(delays(1), delays(1));
        assert_ne!(delays(1), delays(2));
    }
}
