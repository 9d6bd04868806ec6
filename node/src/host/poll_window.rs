//! How long a host looks for new work before it sleeps.
//!
//! Waking a sleeping thread costs tens of microseconds (on a virtual machine more than the rest of a
//! request), so a host whose work comes in short gaps looks again instead of sleeping. The window
//! grows while sleeps turn out short and falls to nothing when one was long, as the kernel's haltpoll
//! does: an idle node sleeps, a node with one eager client does not.
//! Pure: times come in as microseconds.

/// First window after a short sleep, in microseconds.
const FIRST_MICROS: u64 = 25;

/// The adaptive window. All times in microseconds of one clock.
#[derive(Clone, Copy, Debug)]
pub struct PollWindow {
    max: u64,
    window: u64,
    last_work: u64,
    asleep_since: Option<u64>,
}

impl PollWindow {
    /// `max`: longest time to look before sleeping; 0 never looks.
    pub fn new(max: u64) -> Self {
        PollWindow {
            max,
            window: 0,
            last_work: 0,
            asleep_since: None,
        }
    }

    /// Called after each turn with whether it found work. Look again at once, or sleep?
    pub fn look_again(&mut self, now: u64, worked: bool) -> bool {
        if worked {
            // The gap counts from the last work, not from when the thread went to sleep.
            if self.asleep_since.take().is_some() {
                self.adapt(now.saturating_sub(self.last_work));
            }
            self.last_work = now;
        }
        let look = now.saturating_sub(self.last_work) < self.window;
        if !look && self.asleep_since.is_none() {
            self.asleep_since = Some(now);
        }
        look
    }

    fn adapt(&mut self, gap: u64) {
        self.window = if gap > self.max {
            0
        } else {
            (self.window * 2).clamp(FIRST_MICROS.min(self.max), self.max)
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Work every `gap` microseconds, `times` times; turns in between every 5. Returns the sleeps.
    fn run(window: &mut PollWindow, start: u64, gap: u64, times: u64) -> u64 {
        let mut sleeps = 0;
        let mut now = start;
        for _ in 0..times {
            let next = now + gap;
            let mut asleep = false;
            window.look_again(now, true);
            while now < next {
                now += 5;
                if !asleep && !window.look_again(now, false) {
                    asleep = true;
                    sleeps += 1;
                }
            }
            now = next;
        }
        sleeps
    }

    #[test]
    fn short_gaps_are_looked_through() {
        let mut window = PollWindow::new(200);
        let first = run(&mut window, 0, 100, 1_000);
        assert!((1..=5).contains(&first), "it learns first: {first} sleeps");
        assert_eq!(run(&mut window, 100_000, 100, 1_000), 0);
    }

    #[test]
    fn long_gaps_are_slept_through() {
        let mut window = PollWindow::new(200);
        run(&mut window, 0, 100, 50);
        let sleeps = run(&mut window, 1_000_000, 1_000, 100);
        assert_eq!(sleeps, 100);
        assert_eq!(window.window, 0, "and no time is spent looking");
    }

    #[test]
    fn zero_never_looks() {
        let mut window = PollWindow::new(0);
        for now in 0..100 {
            assert!(!window.look_again(now, now % 2 == 0));
        }
    }
}
