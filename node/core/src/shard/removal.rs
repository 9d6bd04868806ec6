//! Physical compaction in slices, and callers that wait for what it removes.
//!
//! Promises: whoever waits is answered once all is removed that no open cursor reads, up to the revision
//! asked for: neither later compactions nor reads that go on keep the answer back. If removal does not get on
//! for as long as a request may wait, the answer is that nobody knows; the compaction itself is done by then.
//! Must never know: what a version is.

use henge_api::{Error, Outcome};

use super::Shard;
use super::answer::Answer;
use crate::machine::Response;

/// Versions a compaction may remove in one slice between other work: 0.1 to 0.2 ms.
pub(crate) const COMPACT_SLICE: usize = 500;

/// Callers of one shard that wait for removal.
#[derive(Debug, Default)]
pub struct Removals {
    waiting: Vec<(i64, Answer)>,
    /// Slices since the last look at the time, and when there was one.
    slices: u64,
    progress_ms: u64,
}

impl Removals {
    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Waits until everything below `revision` is removed.
    pub fn push(&mut self, revision: i64, answer: Answer) {
        self.waiting.push((revision, answer));
        self.slices += 1;
    }

    /// Answers *unknown* where removal does not get on; forgets callers that have gone.
    pub fn expire(&mut self, now_ms: u64, timeout_ms: u64) {
        if std::mem::take(&mut self.slices) > 0 || self.waiting.is_empty() {
            self.progress_ms = now_ms;
        }
        self.waiting.retain(|(_, answer)| !answer.is_abandoned());
        if self.progress_ms + timeout_ms <= now_ms {
            let outcome = Outcome::Unknown;
            self.fail_all(&Error::Timeout { outcome });
        }
    }

    /// Answers everyone with the same error.
    pub fn fail_all(&mut self, error: &Error) {
        for (_, answer) in self.waiting.drain(..) {
            answer.send(Err(error.clone()));
        }
    }
}

impl Shard {
    /// Does one slice of physical compaction; returns whether more is left.
    pub(super) fn compact_slice(&mut self) -> bool {
        if self.machine.store.compaction_pending() {
            // What is shown of the store's size is looked at once more when this is through.
            self.stats_applied = u64::MAX;
        }
        let more = self.machine.store.compact_step(COMPACT_SLICE);
        if self.removals.is_empty() {
            return more;
        }
        self.removals.slices += 1;
        let store = &self.machine.store;
        let (done, newest) = (store.compacted_physically(), store.compacted_revision());
        // The last one has its memory given back as well; before that there is always more to give back.
        let is_done =
            |(revision, _): &mut (i64, Answer)| *revision <= done && (!more || *revision < newest);
        let answers: Vec<_> = self.removals.waiting.extract_if(.., is_done).collect();
        for (_, answer) in answers {
            self.answer(answer, Ok(Response::Done));
        }
        more
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removal_that_gets_on_has_no_deadline_and_one_that_does_not_ends() {
        let mut removals = Removals::default();
        let (answer, mut receiver) = Answer::channel();
        removals.expire(1_000, 7_000);
        removals.push(5, answer);
        for now_ms in [2_000, 8_000, 14_000] {
            removals.slices += 1;
            removals.expire(now_ms, 7_000);
        }
        removals.expire(20_999, 7_000);
        assert!(receiver.try_recv().is_none());
        removals.expire(21_000, 7_000);
        let outcome = Outcome::Unknown;
        let late = receiver.try_recv().expect("answered");
        assert_eq!(late, Err(Error::Timeout { outcome }));
        assert!(removals.is_empty());
        let (answer, receiver) = Answer::channel();
        removals.push(5, answer);
        drop(receiver);
        removals.expire(21_001, 7_000);
        assert!(removals.is_empty(), "its caller has gone");
    }
}
