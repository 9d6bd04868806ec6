//! When each shard wants to be looked at: a hierarchical timer wheel (Varghese and Lauck, scheme 7).
//!
//! Setting a timer and taking one that is due cost a constant, and a timer that is far away costs
//! nothing until then: ten thousand idle shards are ten thousand entries that nobody touches. Levels of
//! 64 slots, one millisecond wide on the lowest, 64 times as wide on each next; an entry falls down a
//! level when its slot's time comes.
//! Promises: a timer fires once, not before its time. One timer per shard; only an earlier time replaces
//! it, as whoever is looked at too early says again when it wants to be.
//! Must never know: what a shard is, a clock.

use crate::seats::Slot;

const SLOTS: usize = 64;
const LEVELS: usize = 6;
/// No timer set.
const NEVER: u64 = u64::MAX;
/// Farther than this counts as this far: about two years of milliseconds.
const FAR_MS: u64 = (1 << (6 * LEVELS)) - 1;

/// The timers of a core's shards.
#[derive(Debug)]
pub struct Timers {
    now_ms: u64,
    levels: Vec<Level>,
    /// Of each shard; entries of the wheel that say otherwise are stale.
    armed: Vec<u64>,
}

#[derive(Debug, Default)]
struct Level {
    /// One bit per slot that is not empty.
    occupied: u64,
    slots: Vec<Vec<(Slot, u64)>>,
}

/// None are set. Times start at 0.
impl Default for Timers {
    fn default() -> Self {
        let level = || Level {
            occupied: 0,
            slots: vec![Vec::new(); SLOTS],
        };
        Timers {
            now_ms: 0,
            levels: (0..LEVELS).map(|_| level()).collect(),
            armed: Vec::new(),
        }
    }
}

impl Timers {
    /// Wants shard `at` to be looked at then, if nothing earlier is set. `u64::MAX` sets nothing.
    pub fn arm(&mut self, at: Slot, when_ms: u64) {
        if when_ms == NEVER {
            return;
        }
        if self.armed.len() <= at.at() {
            self.armed.resize(at.at() + 1, NEVER);
        }
        let armed = &mut self.armed[at.at()];
        let when_ms = when_ms.clamp(self.now_ms + 1, self.now_ms + FAR_MS);
        if when_ms < *armed {
            *armed = when_ms;
            self.insert(at, when_ms);
        }
    }

    /// Takes every timer that is due.
    pub fn take_due(&mut self, now_ms: u64, mut due: impl FnMut(Slot)) {
        while let Some((level, slot, start_ms)) = self.first() {
            if start_ms > now_ms {
                break;
            }
            self.now_ms = self.now_ms.max(start_ms);
            let entries = self.levels[level].take(slot);
            for (at, when_ms) in entries {
                if self.armed[at.at()] != when_ms {
                    continue;
                }
                if when_ms <= now_ms {
                    self.armed[at.at()] = NEVER;
                    due(at);
                } else {
                    self.insert(at, when_ms);
                }
            }
        }
        self.now_ms = self.now_ms.max(now_ms);
    }

    /// When to look again; not later than the first timer.
    pub fn next_ms(&self) -> u64 {
        self.first().map_or(NEVER, |(_, _, start_ms)| start_ms)
    }

    fn insert(&mut self, at: Slot, when_ms: u64) {
        // The level is where the times differ: below it, the entry's slot would come round too early.
        let differ = (self.now_ms ^ when_ms) | (SLOTS as u64 - 1);
        let level = ((63 - differ.leading_zeros()) / 6) as usize;
        let level = level.min(LEVELS - 1);
        let slot = (when_ms >> (6 * level)) as usize % SLOTS;
        self.levels[level].slots[slot].push((at, when_ms));
        self.levels[level].occupied |= 1 << slot;
    }

    /// The slot whose time comes first: level, slot, and when it begins.
    fn first(&self) -> Option<(usize, usize, u64)> {
        // Every occupied slot of a level comes before those of the levels above.
        let level = self.levels.iter().position(|level| level.occupied != 0)?;
        let width = 6 * level as u32;
        let here = (self.now_ms >> width) % SLOTS as u64;
        let ahead = self.levels[level].occupied.rotate_right(here as u32);
        let distance = u64::from(ahead.trailing_zeros());
        let slot = (here + distance) % SLOTS as u64;
        let start_ms = ((self.now_ms >> width) + distance) << width;
        Some((level, slot as usize, start_ms))
    }
}

impl Level {
    fn take(&mut self, slot: usize) -> Vec<(Slot, u64)> {
        self.occupied &= !(1 << slot);
        std::mem::take(&mut self.slots[slot])
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn dice(state: &mut u64) -> u64 {
        *state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        *state >> 20
    }

    #[test]
    fn fires_once_not_early_and_not_late_whatever_the_distance() {
        let seed = std::env::var("HENGE_SEED")
            .ok()
            .and_then(|s| s.parse().ok());
        let mut state = seed.unwrap_or(7);
        println!("HENGE_SEED={state}");
        const SHARDS: usize = 50;
        let mut timers = Timers::default();
        let mut model = BTreeMap::new();
        let mut now = 0;
        for _ in 0..200_000 {
            let at = (dice(&mut state) % SHARDS as u64) as usize;
            let far = 1 << (dice(&mut state) % 30);
            let when = now + 1 + dice(&mut state) % far;
            timers.arm(Slot::new(at), when);
            let set = model.entry(at).or_insert(when);
            *set = when.min(*set);
            if dice(&mut state).is_multiple_of(3) {
                let first = model.values().min().copied().unwrap_or(now);
                assert!(timers.next_ms() <= first, "looks too late");
                now += dice(&mut state) % (1 << (dice(&mut state) % 20));
                let mut fired = Vec::new();
                timers.take_due(now, |at| fired.push(at.at()));
                fired.sort_unstable();
                let due: Vec<_> = model.extract_if(.., |_, when| *when <= now).collect();
                assert_eq!(fired, due.into_iter().map(|(at, _)| at).collect::<Vec<_>>());
            }
        }
    }

    #[test]
    fn following_next_never_stalls_and_ends() {
        let mut timers = Timers::default();
        timers.arm(Slot::new(0), 70);
        timers.arm(Slot::new(1), 300_000_000);
        timers.arm(Slot::new(2), 1 << 50);
        timers.arm(Slot::new(2), NEVER);
        let (mut now, mut looks, mut fired) = (0, 0, Vec::new());
        while timers.next_ms() != NEVER {
            assert!(timers.next_ms() > now);
            now = timers.next_ms();
            timers.take_due(now, |at| fired.push((at.at(), now)));
            looks += 1;
        }
        assert_eq!(fired, [(0, 70), (1, 300_000_000), (2, FAR_MS)]);
        assert!(looks < 30, "{looks} looks");
    }
}
