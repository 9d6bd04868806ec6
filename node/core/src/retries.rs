//! When checkpoints that failed are tried again, and when a log without room asks for early ones.
//!
//! Room is made by others (files removed, a quota raised), and by what makes a store smaller: neither says
//! so, and a log that takes no writes never comes to the size at which the next checkpoint is due. So time
//! decides. (Seen: a checkpoint that failed was tried again after a gigabyte more of log, which the full
//! disk had no room for: everything was deleted, and not a byte could be written until a restart.)
//!
//! Promises: room is looked for once a second where that is what lacked; what cost I/O is repeated less
//! often; of many shards each has its turn. Must never know: shards, files.

use std::collections::VecDeque;

use super::seats::Slot;

/// Between two looks for room.
const ROOM_MICROS: u64 = 1_000_000;
/// After an attempt that wrote until there was no room.
const COSTLY_MICROS: u64 = 2_000_000;
/// After a failure that has nothing to do with room.
const BROKEN_MICROS: u64 = 10_000_000;
/// Checkpoints tried again at a time.
const AT_ONCE_MAX: usize = 16;

/// Shards whose last checkpoint failed, and the next look.
#[derive(Debug, Default)]
pub(super) struct Retries {
    /// Who waits longest comes first.
    failed: VecDeque<Slot>,
    at_micros: u64,
}

impl Retries {
    /// A shard's checkpoint failed.
    pub(super) fn failed(&mut self, at: Slot, now_micros: u64, lacks_room: bool, cheap: bool) {
        self.done(at);
        self.failed.push_back(at);
        let wait = match (lacks_room, cheap) {
            (false, _) => BROKEN_MICROS,
            (true, false) => COSTLY_MICROS,
            (true, true) => ROOM_MICROS,
        };
        self.at_micros = self.at_micros.max(now_micros.saturating_add(wait));
    }

    /// A shard's checkpoint was written, or is not needed.
    pub(super) fn done(&mut self, at: Slot) {
        self.failed.retain(|shard| *shard != at);
    }

    /// Whether there is a reason to look and it is time; the next look is later.
    pub(super) fn take_due(&mut self, now_micros: u64, log_lacks: bool) -> bool {
        let due = (log_lacks || !self.failed.is_empty()) && now_micros >= self.at_micros;
        if due {
            self.at_micros = now_micros.saturating_add(ROOM_MICROS);
        }
        due
    }

    /// Those to try again now.
    pub(super) fn next(&mut self) -> Vec<Slot> {
        let count = self.failed.len().min(AT_ONCE_MAX);
        let next = self.failed.iter().take(count).copied().collect();
        self.failed.rotate_left(count);
        next
    }

    /// When to look next, in milliseconds.
    pub(super) fn next_ms(&self, log_lacks: bool) -> u64 {
        match log_lacks || !self.failed.is_empty() {
            true => self.at_micros.div_ceil(1_000),
            false => u64::MAX,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: u64 = 1_000_000;

    #[test]
    fn regression_time_and_not_more_log_brings_a_checkpoint_that_failed_back() {
        let mut retries = Retries::default();
        assert!(!retries.take_due(SECOND, false), "nothing failed");
        assert_eq!(retries.next_ms(false), u64::MAX);
        // A log that cannot get a segment asks at once, and then every second.
        assert!(retries.take_due(SECOND, true));
        assert!(!retries.take_due(SECOND + 1, true));
        assert_eq!(retries.next_ms(true), 2_000);
        assert!(retries.take_due(2 * SECOND, true));
        retries.failed(Slot::new(7), 2 * SECOND, true, true);
        assert_eq!(retries.next_ms(false), 3_000);
        assert!(retries.take_due(3 * SECOND, false));
        assert_eq!(retries.next(), [Slot::new(7)]);
        // What wrote for nothing, and what has nothing to do with room, can wait.
        retries.failed(Slot::new(7), 3 * SECOND, true, false);
        assert_eq!(retries.next_ms(false), 5_000);
        retries.failed(Slot::new(7), 6 * SECOND, false, true);
        assert_eq!(retries.next_ms(false), 16_000);
        retries.done(Slot::new(7));
        assert_eq!(retries.next_ms(false), u64::MAX);
    }

    #[test]
    fn of_many_that_fail_each_has_its_turn() {
        let mut retries = Retries::default();
        (0..40).for_each(|at| retries.failed(Slot::new(at), 0, true, true));
        let mut tried = Vec::new();
        for _ in 0..3 {
            tried.extend(retries.next());
        }
        tried.sort_unstable();
        tried.dedup();
        assert_eq!(tried.len(), 40);
    }
}
