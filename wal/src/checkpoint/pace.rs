//! When the next piece of a checkpoint may go to the disk: the owner's clock says, in its turns.
//!
//! One piece is in flight, and after it the disk rests for as long as the rate asks, so that a commit waits
//! for one piece at most. A core that takes its turns late finds the pieces of that time due together: the
//! further behind, the more of them go at once, up to a bound; what it is behind beyond that is let go.
//! Must never know: files, what is written.

/// Bytes per second a checkpoint may write, unless it is told otherwise: less than a tenth of what the
/// reference machine's disk writes, so that the log's commits find it free (measured: at full speed the
/// p99 of a commit is 13 times as long).
pub const BYTES_PER_SECOND: u64 = 64 * 1024 * 1024;
/// Written at once: what a commit may have to wait for. Measured side by side, the p99 of a lone
/// writer's commits beside a checkpoint is 1.6 times as long with pieces of 128 KiB, 1.4 with 32.
pub(super) const PIECE_BYTES: usize = 32 * 1024;
/// Behind by so many pieces, another one goes beside the first.
const BEHIND_PER_PIECE: u64 = 4;
/// Most pieces in flight.
const IN_FLIGHT_MAX: usize = 8;
/// What a core that takes its turns late catches up with, at most.
const BEHIND_MICROS_MAX: u64 = 16_000;

/// The pace of one checkpoint.
#[derive(Debug)]
pub(super) struct Pace {
    /// From one piece to the next; 0: none.
    piece_micros: u64,
    /// 0: nothing was written yet.
    due_micros: u64,
    since_micros: u64,
    pub(super) in_flight: usize,
}

impl Pace {
    /// At so many bytes per second; 0: as fast as the disk takes it.
    pub(super) fn new(bytes_per_second: u64) -> Self {
        let piece = (PIECE_BYTES as u64 * 1_000_000).checked_div(bytes_per_second);
        Self {
            piece_micros: piece.unwrap_or(0),
            due_micros: 0,
            since_micros: 0,
            in_flight: 0,
        }
    }

    /// When the next piece may go, unless one must land first. An owner that never says what time it is is
    /// not held up.
    pub(super) fn due_micros(&self, now_micros: u64) -> Option<u64> {
        let due_micros = match self.due_micros {
            0 => now_micros,
            due => due,
        };
        let behind = now_micros.saturating_sub(due_micros);
        let pieces = behind.checked_div(BEHIND_PER_PIECE * self.piece_micros);
        let at_once = 1 + pieces.map_or(IN_FLIGHT_MAX, |pieces| pieces as usize);
        if self.in_flight >= at_once.min(IN_FLIGHT_MAX) {
            return None;
        }
        match now_micros {
            0 => Some(0),
            _ => Some(due_micros),
        }
    }

    /// A piece goes.
    pub(super) fn sent(&mut self, now_micros: u64) {
        self.in_flight += 1;
        self.since_micros = now_micros;
        let due_min = match self.due_micros {
            0 => now_micros,
            _ => now_micros.saturating_sub(BEHIND_MICROS_MAX),
        };
        self.due_micros = self.due_micros.max(due_min) + self.piece_micros;
    }

    /// A piece has landed: the rest begins when it is over, but for a disk that is very slow.
    pub(super) fn landed(&mut self, now_micros: u64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if self.in_flight == 0 {
            let took = now_micros.saturating_sub(self.since_micros);
            self.due_micros += took.min(self.piece_micros);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bytes that are written within a second, in turns so far apart, by a disk that takes so long.
    fn in_a_second(bytes_per_second: u64, turn_micros: u64, write_micros: u64) -> u64 {
        let mut pace = Pace::new(bytes_per_second);
        let (mut now, mut bytes) = (1_000_000, 0);
        let mut landing: Vec<u64> = Vec::new();
        while now < 2_000_000 {
            landing.retain(|at| {
                let lands = *at <= now;
                if lands {
                    pace.landed(now);
                }
                !lands
            });
            while pace.due_micros(now).is_some_and(|due| due <= now) {
                pace.sent(now);
                bytes += PIECE_BYTES as u64;
                landing.push(now + write_micros);
                assert!(landing.len() <= IN_FLIGHT_MAX);
            }
            now += turn_micros;
        }
        bytes
    }

    #[test]
    fn a_checkpoint_keeps_below_its_rate_whatever_the_turns() {
        for turn in [10, 100, 1_000, 5_000] {
            for write in [10, 150, 2_000] {
                let bytes = in_a_second(BYTES_PER_SECOND, turn, write);
                let burst = BYTES_PER_SECOND * BEHIND_MICROS_MAX / 1_000_000;
                assert!(bytes <= BYTES_PER_SECOND + burst, "{turn} {write}: {bytes}");
                let least = BYTES_PER_SECOND / 4;
                assert!(bytes >= least, "{turn} {write}: {bytes} in a second");
            }
        }
    }

    #[test]
    fn one_piece_is_in_flight_unless_the_turns_are_late() {
        let mut pace = Pace::new(BYTES_PER_SECOND);
        pace.sent(1_000_000);
        pace.landed(1_000_100);
        // Behind as far as it may be, as it has just begun; then on time.
        while pace
            .due_micros(2_000_000)
            .is_some_and(|due| due <= 2_000_000)
        {
            pace.sent(2_000_000);
        }
        assert!((4..=IN_FLIGHT_MAX).contains(&pace.in_flight), "{pace:?}");
        (0..IN_FLIGHT_MAX).for_each(|_| pace.landed(2_000_100));
        let mut now = 2_100_000;
        for _ in 0..1_000 {
            while pace.due_micros(now).is_none() {
                now += 100;
                pace.landed(now);
            }
            now = now.max(pace.due_micros(now).unwrap_or(now));
            pace.sent(now);
        }
        assert!(pace.in_flight <= 1);
        // And one that is not told the time goes on.
        let mut timeless = Pace::new(BYTES_PER_SECOND);
        for _ in 0..10 {
            assert_eq!(timeless.due_micros(0), Some(0));
            timeless.sent(0);
            timeless.landed(0);
        }
    }
}
