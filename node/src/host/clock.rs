//! The one place where the engine reads a clock. Everything inward gets the time as a parameter.

use std::time::{Duration, Instant};

use henge_core::Now;

/// A monotonic clock that starts at zero with its host.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: Instant,
}

impl Clock {
    /// Starts at zero.
    #[expect(clippy::disallowed_methods, reason = "the boundary where time enters")]
    pub fn start() -> Self {
        Clock {
            start: Instant::now(),
        }
    }

    /// The time since then.
    #[expect(clippy::disallowed_methods, reason = "the boundary where time enters")]
    pub fn now(&self) -> Now {
        let elapsed = Instant::now().duration_since(self.start);
        Now {
            micros: u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX),
        }
    }

    /// The instant of a time of this clock.
    pub fn instant(&self, millis: u64) -> Instant {
        self.start + Duration::from_millis(millis)
    }
}

/// Milliseconds since 1970: only to make request ids grow over restarts, as etcd does.
#[expect(clippy::disallowed_methods, reason = "the boundary where time enters")]
pub fn wall_clock_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
}
