//! The window of appends sent and not yet acknowledged.
//!
//! Promises: never holds more than its maximum of messages; the byte limit is soft: the message that
//! reaches it is still taken.
//! Must never know: what the messages contain.
//! Tests: against a naive twin below.

use std::collections::VecDeque;

/// A sliding window over the appends in flight to one follower. It grows as needed and not to its
/// maximum at once: there can be many thousand groups in one process.
#[derive(Clone, Debug)]
pub struct Inflights {
    /// (last index, bytes) of each message, oldest first.
    messages: VecDeque<(u64, u64)>,
    bytes: u64,
    messages_max: usize,
    /// 0: no limit.
    bytes_max: u64,
}

impl Inflights {
    /// An empty window.
    pub fn new(messages_max: usize, bytes_max: u64) -> Inflights {
        Inflights {
            messages: VecDeque::new(),
            bytes: 0,
            messages_max,
            bytes_max,
        }
    }

    /// A message with entries up to `index` was sent. Not to be called when full; a message too many
    /// is not tracked, which only means that it is not waited for.
    pub fn add(&mut self, index: u64, bytes: u64) {
        if !self.is_full() {
            self.messages.push_back((index, bytes));
            self.bytes = self.bytes.saturating_add(bytes);
        }
    }

    /// Everything up to `index` was acknowledged.
    pub fn free_to(&mut self, index: u64) {
        while let Some((last, bytes)) = self.messages.front()
            && *last <= index
        {
            self.bytes = self.bytes.saturating_sub(*bytes);
            self.messages.pop_front();
        }
    }

    /// Whether nothing more may be sent now.
    pub fn is_full(&self) -> bool {
        self.messages.len() >= self.messages_max
            || (self.bytes_max != 0 && self.bytes >= self.bytes_max)
    }

    /// How many messages are in flight.
    pub fn count(&self) -> usize {
        self.messages.len()
    }

    /// Forgets all of them.
    pub fn reset(&mut self) {
        self.messages.clear();
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::seeded::cases(256))]

        #[test]
        fn as_the_naive_twin(steps in prop::collection::vec((any::<bool>(), 1u64..20, 0u64..50), 0..60)) {
            let mut window = Inflights::new(5, 100);
            let mut naive: Vec<(u64, u64)> = Vec::new();
            let mut last = 0;
            for (is_send, step, bytes) in steps {
                if is_send {
                    last += step;
                    let total: u64 = naive.iter().map(|(_, bytes)| bytes).sum();
                    let is_full = naive.len() == 5 || total >= 100;
                    prop_assert_eq!(window.is_full(), is_full);
                    if !is_full {
                        naive.push((last, bytes));
                    }
                    window.add(last, bytes);
                } else {
                    let index = last.saturating_sub(step);
                    naive.retain(|(end, _)| *end > index);
                    window.free_to(index);
                }
                prop_assert_eq!(window.count(), naive.len());
            }
        }
    }
}
