//! How long the queue of a core may get that is asked for more than it can do.
//!
//! A queue absorbs bursts; one that stays full only makes everybody wait, and makes each write dearer: what
//! waits for a tenth of a second is in no cache any more when its turn comes. Measured at five times the
//! peak, with 64 MiB of writes waiting a core did 0.62 to 0.73 of its peak, with 4 MiB 0.84 to 0.86 (and each
//! waited 12 ms). So a budget that refuses holds [`PRESSED_BYTES`] only, until a whole [`WINDOW_MS`] went by
//! in which it refused nobody. (The idea of CoDel, Nichols and Jacobson 2012: it is not the length of a queue
//! that is wrong, it is that it stands.)
//! Promises: whom the whole budget would hold is never refused by a budget that has refused nobody within
//! two windows.
//! Tested below, by `node/tests/pressure.rs` and by `benches --bin cores -- overload`.
//! Must never know: shards, requests; it knows budgets only.

use super::budget::Budget;
use super::seats::Slot;
use super::turn::{Core, Now};

/// Bytes of writes that may wait while callers are being refused: several log batches' worth.
pub(super) const PRESSED_BYTES: usize = 4 << 20;
/// How often refusals are looked at.
const WINDOW_MS: u64 = 100;

/// What a core remembers of its budgets.
#[derive(Debug, Default)]
pub(super) struct Pressure {
    /// The end of this window.
    until_ms: u64,
    /// Shards whose budgets are pressed.
    shards: Vec<Slot>,
    /// The core's own is.
    core: bool,
}

impl Pressure {
    /// When a core that rests has to look again: a burst after a rest finds the whole budget.
    pub fn next_ms(&self) -> u64 {
        match self.core || !self.shards.is_empty() {
            true => self.until_ms,
            false => u64::MAX,
        }
    }
}

impl Core {
    /// Presses the budgets that refused somebody, and lets go of those that did not. `run`: the shards of
    /// this turn; one that refuses is in most of them.
    pub(super) fn press(&mut self, run: &[Slot], now: Now) {
        let now_ms = now.millis();
        if now_ms < self.pressure.until_ms {
            return;
        }
        self.pressure.until_ms = now_ms + WINDOW_MS;
        let seats = &mut self.shards;
        let press = |at: &Slot| seats.get_mut(*at).is_some_and(|it| it.door.budget.press());
        let shards = &mut self.pressure.shards;
        shards.extend(run);
        shards.sort_unstable();
        shards.dedup();
        shards.retain(press);
        self.pressure.core = self.config.inbox.budget().press();
    }
}

impl Budget {
    /// Holds less if it refused somebody since this was asked last, else its whole; whether it holds less.
    fn press(&self) -> bool {
        let pressed = self.refused_lately();
        self.limit_to(if pressed { PRESSED_BYTES } else { usize::MAX });
        pressed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_that_refuses_holds_less_until_it_refuses_nobody() {
        let budget = Budget::new(3 * PRESSED_BYTES);
        assert!(budget.take(2 * PRESSED_BYTES) && !budget.press());
        assert!(budget.take(PRESSED_BYTES), "nobody was refused");
        assert!(!budget.take(1));
        assert!(budget.press());
        budget.give_back(2 * PRESSED_BYTES);
        assert!(!budget.has_room(1) && !budget.take(1));
        assert!(budget.press(), "it still refuses");
        budget.give_back(1_000);
        assert!(budget.take(1_000) && !budget.take(1));
        assert!(budget.press());
        assert!(!budget.press(), "a window without refusals");
        assert!(budget.take(2 * PRESSED_BYTES));
    }

    /// What was larger than a pressed budget fitted only while nothing at all was held: beside callers that
    /// ask without a pause it was refused for ever, and each refusal kept the budget pressed.
    #[test]
    fn regression_a_large_write_has_its_turn_in_a_pressed_budget() {
        let budget = Budget::new(3 * PRESSED_BYTES);
        let small = 1_000;
        while budget.take(small) {}
        assert!(budget.press());
        budget.give_back(budget.held());
        // Small ones are always there first.
        while budget.take(small) {}
        assert!(budget.held() < PRESSED_BYTES + small);
        assert!(
            !budget.take(PRESSED_BYTES + small),
            "as full for it as for them"
        );
        budget.give_back(2 * small);
        assert!(
            budget.take(PRESSED_BYTES + small),
            "as much room as for them"
        );
        assert!(!budget.take(small) && !budget.take(PRESSED_BYTES));
        assert!(budget.held() < 3 * PRESSED_BYTES);
        // And never more than the whole.
        budget.give_back(budget.held() - small);
        assert!(!budget.take(3 * PRESSED_BYTES));
    }

    #[test]
    fn a_budget_smaller_than_that_stays_as_it_is() {
        let budget = Budget::new(100);
        assert!(budget.take(100) && !budget.take(1));
        assert!(budget.press());
        assert!(!budget.take(1));
        budget.give_back(1);
        assert!(budget.take(1));
    }
}
