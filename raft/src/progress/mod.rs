//! What a leader knows of one follower, and what it may send to it next.
//!
//! Promises: `matched < next` always; transitions are methods, and nobody else writes the state.
//! Must never know: messages, terms, or the log behind the indexes.
//! Tests: each transition below, and all of them against a naive twin.

mod inflights;
mod map;

use std::fmt;

pub use inflights::Inflights;
pub use map::ProgressMap;

/// How the leader talks to a follower.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ProgressState {
    /// One append per heartbeat interval, to find out where the logs match.
    #[default]
    Probe,
    /// Appends are sent ahead of their answers.
    Replicate,
    /// A snapshot is under way; no appends.
    Snapshot,
}

impl fmt::Display for ProgressState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "State{self:?}")
    }
}

/// One follower, as its leader sees it. The leader keeps one for itself, too.
#[derive(Clone, Debug)]
pub struct Progress {
    /// The follower's log is known to match ours up to here.
    pub matched: u64,
    /// The next entry to send; what lies between is in flight.
    pub next: u64,
    /// The highest commit index sent, as far as it may have arrived.
    sent_commit: u64,
    /// How the leader talks to it.
    pub state: ProgressState,
    /// In `Snapshot`: the index of the snapshot under way; 0 otherwise. Any append response that
    /// reconnects the follower to our log ends the state, whichever snapshot it came from.
    pub pending_snapshot: u64,
    /// Whether it was heard from since the last CheckQuorum. Always true of the leader.
    pub recent_active: bool,
    /// Whether appends wait for the next heartbeat response (or an ack that makes room).
    pub append_paused: bool,
    /// The appends in flight.
    pub inflights: Inflights,
    /// Whether it is a learner.
    pub is_learner: bool,
}

impl Progress {
    /// A follower of which nothing is known; the first probe is at `next`.
    pub fn new(next: u64, inflight_msgs_max: usize, inflight_bytes_max: u64) -> Progress {
        Progress {
            matched: 0,
            next,
            sent_commit: 0,
            state: ProgressState::Probe,
            pending_snapshot: 0,
            recent_active: false,
            append_paused: false,
            inflights: Inflights::new(inflight_msgs_max, inflight_bytes_max),
            is_learner: false,
        }
    }

    /// Forgets everything but whether this is a learner: a new term begins.
    pub fn reset(&mut self, next: u64) {
        self.matched = 0;
        self.next = next;
        self.sent_commit = 0;
        self.recent_active = false;
        self.enter(ProgressState::Probe);
    }

    /// Find out where the logs match. After a snapshot, expect it to have arrived.
    pub fn become_probe(&mut self) {
        let behind = match self.state {
            ProgressState::Snapshot => self.matched.max(self.pending_snapshot),
            _ => self.matched,
        };
        self.enter(ProgressState::Probe);
        self.next = behind + 1;
        self.sent_commit = self.sent_commit.min(self.next - 1);
    }

    /// The logs match at `matched`: send ahead.
    pub fn become_replicate(&mut self) {
        self.enter(ProgressState::Replicate);
        self.next = self.matched + 1;
    }

    /// A snapshot up to `index` is sent.
    pub fn become_snapshot(&mut self, index: u64) {
        self.enter(ProgressState::Snapshot);
        self.pending_snapshot = index;
        self.next = index + 1;
        self.sent_commit = index;
    }

    /// The snapshot did not arrive.
    pub fn snapshot_failed(&mut self) {
        self.pending_snapshot = 0;
    }

    /// `entries` entries of `bytes` payload bytes were sent from `next` on.
    pub fn sent_entries(&mut self, entries: u64, bytes: u64) {
        match self.state {
            ProgressState::Replicate => {
                if entries > 0 {
                    self.next += entries;
                    self.inflights.add(self.next - 1, bytes);
                }
                // With a full window this message is the probe that keeps the flow alive.
                self.append_paused = self.inflights.is_full();
            }
            // An empty probe does not pause: it was sent for its commit index.
            ProgressState::Probe => self.append_paused |= entries > 0,
            ProgressState::Snapshot => {}
        }
    }

    /// Whether telling it this commit index could move its own. Only worth a message if what was
    /// sent before does not already reach the end of what it will have.
    pub fn can_bump_commit(&self, commit: u64) -> bool {
        commit > self.sent_commit && self.sent_commit < self.next - 1
    }

    /// A commit index was sent.
    pub fn record_sent_commit(&mut self, commit: u64) {
        self.sent_commit = commit;
    }

    /// It acknowledged everything up to `index`. False if that is old news.
    pub fn maybe_update(&mut self, index: u64) -> bool {
        if index <= self.matched {
            return false;
        }
        self.matched = index;
        self.next = self.next.max(index + 1);
        self.append_paused = false;
        true
    }

    /// It rejected an append at `rejected`, and its log may match at `hint`. False if that is old
    /// news: rejections come late and twice.
    pub fn maybe_decrease(&mut self, rejected: u64, hint: u64) -> bool {
        if self.state == ProgressState::Replicate {
            if rejected <= self.matched {
                return false;
            }
            self.next = self.matched + 1;
        } else {
            // One probe at a time: an answer to another one is late. And what was acknowledged cannot
            // be rejected, unless the follower has lost its log: to answer that would only start an
            // endless exchange at the speed of the network. The next heartbeat tries again.
            if self.next - 1 != rejected || rejected <= self.matched {
                return false;
            }
            self.next = rejected.min(hint.saturating_add(1)).max(self.matched + 1);
            self.append_paused = false;
        }
        // What was sent is unlikely to have arrived.
        self.sent_commit = self.sent_commit.min(self.next - 1);
        true
    }

    /// Whether nothing may be sent to it now.
    pub fn is_paused(&self) -> bool {
        match self.state {
            ProgressState::Probe | ProgressState::Replicate => self.append_paused,
            ProgressState::Snapshot => true,
        }
    }

    fn enter(&mut self, state: ProgressState) {
        self.append_paused = false;
        self.pending_snapshot = 0;
        self.state = state;
        self.inflights.reset();
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} match={} next={}",
            self.state, self.matched, self.next
        )?;
        if self.is_learner {
            f.write_str(" learner")?;
        }
        if self.is_paused() {
            f.write_str(" paused")?;
        }
        if self.pending_snapshot > 0 {
            write!(f, " pendingSnap={}", self.pending_snapshot)?;
        }
        if !self.recent_active {
            f.write_str(" inactive")?;
        }
        if self.inflights.count() > 0 {
            write!(f, " inflight={}", self.inflights.count())?;
            if self.inflights.is_full() {
                f.write_str("[full]")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn replicating(matched: u64, next: u64) -> Progress {
        let mut progress = Progress::new(1, 2, 0);
        progress.maybe_update(matched);
        progress.become_replicate();
        progress.sent_entries(next - matched - 1, 1);
        progress
    }

    #[test]
    fn a_full_window_pauses_and_an_ack_resumes() {
        let mut progress = replicating(3, 5);
        assert!(!progress.is_paused());
        progress.sent_entries(1, 1);
        assert!(progress.is_paused());
        assert_eq!(
            progress.to_string(),
            "StateReplicate match=3 next=6 paused inactive inflight=2[full]"
        );
        assert!(progress.maybe_update(4));
        progress.inflights.free_to(4);
        assert!(!progress.is_paused());
        assert!(!progress.maybe_update(4), "an old ack is old news");
    }

    #[test]
    fn rejections() {
        let mut progress = replicating(3, 8);
        assert!(!progress.maybe_decrease(3, 3), "matched already: late");
        assert!(progress.maybe_decrease(7, 5));
        assert_eq!(
            progress.next, 4,
            "a replicating follower is known to match at 3"
        );
        let mut progress = Progress::new(10, 2, 0);
        assert!(!progress.maybe_decrease(8, 2), "not the probe we sent");
        assert!(progress.maybe_decrease(9, 2));
        assert_eq!(progress.next, 3);
        assert!(
            progress.maybe_decrease(2, u64::MAX),
            "a hint from nowhere changes little"
        );
        assert_eq!(progress.next, 2);
        progress.maybe_update(1);
        assert!(
            !progress.maybe_decrease(1, 0),
            "it has lost what it acknowledged"
        );
    }

    #[test]
    fn after_a_snapshot_the_probe_starts_behind_it() {
        let mut progress = replicating(3, 5);
        progress.become_snapshot(9);
        assert!(progress.is_paused());
        progress.become_probe();
        assert_eq!(progress.next, 10);
        progress.become_snapshot(9);
        progress.snapshot_failed();
        progress.become_probe();
        assert_eq!(progress.next, 4);
    }

    #[test]
    fn commit_is_bumped_once() {
        let mut progress = replicating(3, 5);
        assert!(progress.can_bump_commit(4));
        progress.record_sent_commit(4);
        assert!(!progress.can_bump_commit(4));
        assert!(
            !progress.can_bump_commit(5),
            "nothing more is on its way to it"
        );
    }

    /// What a leader could know if it kept a list of all it sent.
    #[derive(Debug)]
    struct Naive {
        replicates: bool,
        matched: u64,
        /// Where the present state began.
        start: u64,
        /// (last index, bytes) of all messages since then, never shortened.
        sent: Vec<(u64, u64)>,
        waits: bool,
    }

    impl Naive {
        fn next(&self) -> u64 {
            let sent = self.sent.iter().map(|(last, _)| last + 1);
            sent.chain([self.start, self.matched + 1])
                .max()
                .unwrap_or(0)
        }

        fn in_flight(&self) -> Vec<u64> {
            let open = self.sent.iter().filter(|(last, _)| *last > self.matched);
            open.map(|(_, bytes)| *bytes).collect()
        }

        fn is_full(&self) -> bool {
            let open = self.in_flight();
            open.len() >= 4 || open.iter().sum::<u64>() >= 100
        }

        fn enter(&mut self, replicates: bool) {
            (self.replicates, self.start, self.waits) = (replicates, self.matched + 1, false);
            self.sent.clear();
        }
    }

    proptest! {
        #![proptest_config(crate::seeded::cases(1_000))]

        /// As a leader uses it: sends, acknowledgements, rejections, heartbeat responses.
        #[test]
        fn as_the_naive_twin(steps in prop::collection::vec((0u8..8, 0u64..6, 0u64..40), 0..80)) {
            let mut progress = Progress::new(1, 4, 100);
            let mut naive = Naive { replicates: false, matched: 0, start: 1, sent: Vec::new(), waits: false };
            for (step, count, bytes) in steps {
                match step {
                    0..4 if !progress.is_paused() => {
                        // A full window is probed with an empty append.
                        let is_full = naive.replicates && naive.is_full();
                        let count = if is_full { 0 } else { count };
                        let next = naive.next();
                        progress.sent_entries(count, bytes);
                        if naive.replicates && count > 0 {
                            naive.sent.push((next + count - 1, bytes));
                        }
                        naive.waits = match naive.replicates {
                            true => naive.is_full(),
                            false => naive.waits || count > 0,
                        };
                    }
                    4 | 5 => {
                        // Nobody acknowledges what was never sent; a probe carries some entries.
                        let end = naive.next() - 1 + if naive.replicates { 0 } else { 3 };
                        let index = end.saturating_sub(count);
                        let is_news = index > naive.matched;
                        prop_assert_eq!(progress.maybe_update(index), is_news);
                        if is_news {
                            naive.matched = index;
                            naive.waits = false;
                            if naive.replicates {
                                progress.inflights.free_to(index);
                            } else {
                                progress.become_replicate();
                                naive.enter(true);
                            }
                        }
                    }
                    6 if naive.replicates => {
                        let rejected = naive.next().saturating_sub(1 + count);
                        let is_news = rejected > naive.matched;
                        prop_assert_eq!(progress.maybe_decrease(rejected, rejected), is_news);
                        if is_news {
                            progress.become_probe();
                            naive.enter(false);
                        }
                    }
                    7 => {
                        progress.append_paused = false;
                        naive.waits = false;
                    }
                    _ => {}
                }
                prop_assert_eq!(progress.matched, naive.matched);
                prop_assert_eq!(progress.next, naive.next(), "{:?}", naive);
                prop_assert_eq!(progress.inflights.count(), naive.in_flight().len());
                prop_assert_eq!(progress.is_paused(), naive.waits);
                prop_assert!(progress.matched < progress.next);
            }
        }
    }
}
