//! How much may wait for an answer: the bound that callers meet before anything is done for them.
//!
//! A refusal has to be cheaper than the request it refuses, or a core that is asked for more than it can do
//! does less: measured, five times too many requests that were encoded, handed over and refused by the core
//! took a sixth of what it could have done. So bytes are taken here by the caller, with one atomic addition
//! and before the request is encoded, and given back by the core once per turn.
//! Promises: never more than its bound is taken, except by one request that is larger than all of it; what
//! is given back was taken.
//! Must never know: what is asked, or by whom. Tested below and by `benches --bin cores -- overload`.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

/// Bytes of writes between their callers' call and their answers.
#[derive(Debug)]
pub struct Budget {
    held: AtomicUsize,
    max: usize,
    /// What is held now at most: all of `max`, or less (see `pressure`).
    limit: AtomicUsize,
    refused: AtomicU64,
    /// Of those, what was seen already.
    refused_seen: AtomicU64,
}

impl Budget {
    /// So many bytes at most.
    pub fn new(max: usize) -> Self {
        Budget {
            held: AtomicUsize::new(0),
            max,
            limit: AtomicUsize::new(max),
            refused: AtomicU64::new(0),
            refused_seen: AtomicU64::new(0),
        }
    }

    /// Whether a request of this size could be taken now. A look only, which writes nothing unless the
    /// answer is no: a refusal is counted.
    pub fn has_room(&self, bytes: usize) -> bool {
        let room = self.fits(self.held.load(Ordering::Relaxed), bytes);
        if !room {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
        room
    }

    /// Takes it, or refuses. What is taken has to be given back once.
    pub fn take(&self, bytes: usize) -> bool {
        // Relaxed: nothing else is read or written under its protection.
        let before = self.held.fetch_add(bytes, Ordering::Relaxed);
        if self.fits(before, bytes) {
            return true;
        }
        self.give_back(bytes);
        self.refused.fetch_add(1, Ordering::Relaxed);
        false
    }

    /// Gives back what was taken.
    pub fn give_back(&self, bytes: usize) {
        if bytes > 0 {
            self.held.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Bytes taken and not given back.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// Requests refused so far.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Whether a request was refused since this was asked last.
    pub(super) fn refused_lately(&self) -> bool {
        let refused = self.refused();
        self.refused_seen.swap(refused, Ordering::Relaxed) != refused
    }

    /// Holds no more than this from now on, if that is less than the whole. What is held already stays.
    pub(super) fn limit_to(&self, bytes: usize) {
        self.limit.store(bytes.min(self.max), Ordering::Relaxed);
    }

    /// A request that is larger than the whole fits when nothing else waits: it has to hear from its shard
    /// that it is too large, instead of trying for ever. What is held *before* it counts against the limit of
    /// now, so that under pressure a large one waits no longer than a small one for its turn.
    fn fits(&self, held: usize, bytes: usize) -> bool {
        let limit = self.limit.load(Ordering::Relaxed);
        held == 0 || held < limit && held.saturating_add(bytes) <= self.max
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_taken_and_what_is_refused_takes_nothing() {
        let budget = Budget::new(100);
        assert!(budget.has_room(60) && budget.take(60));
        assert!(budget.take(40));
        assert_eq!((budget.held(), budget.refused()), (100, 0));
        assert!(!budget.has_room(1));
        assert!(!budget.take(1));
        assert_eq!((budget.held(), budget.refused()), (100, 2));
        budget.give_back(60);
        assert!(!budget.has_room(61) && budget.take(60));
    }

    #[test]
    fn one_request_larger_than_everything_gets_through_alone() {
        let budget = Budget::new(100);
        assert!(budget.take(1_000));
        assert!(!budget.take(1));
        budget.give_back(1_000);
        assert!(budget.take(1));
        assert!(!budget.take(1_000));
    }

    #[test]
    fn callers_on_many_threads_never_hold_more_than_the_bound() {
        let budget = Budget::new(1_000);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        if budget.take(300) {
                            // Refused ones may be in the count for a moment.
                            assert!(budget.held() <= 1_000 + 3 * 300);
                            budget.give_back(300);
                        }
                    }
                });
            }
        });
        assert_eq!(budget.held(), 0);
    }
}
