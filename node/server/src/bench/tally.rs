//! What one thread of clients counts, and how their counts become one.
//!
//! Promises: an operation is counted once, as answered or as failed, and a read also as one that found
//! something or nothing; failures by what was said, in a bounded number of kinds.
//! Must never know: what the operations are.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;

use super::op::Answer;

/// Kinds of failures that are kept apart; those beyond are counted together.
const KINDS_MAX: usize = 16;
const OTHER_KINDS: &str = "others";

/// Counts of a window.
#[derive(Clone, Debug)]
pub struct Tally {
    /// Nanoseconds of each operation that was answered.
    pub latency: Histogram<u64>,
    /// Reads that found something, and that found nothing.
    pub hits: u64,
    pub misses: u64,
    /// Keys that reads found.
    pub keys_found: u64,
    /// Events that watchers were shown.
    pub events: u64,
    /// Failures by what was said.
    pub errors: BTreeMap<String, u64>,
    /// What was said first.
    pub first_error: Option<String>,
    /// Operations that were not over when the window was, and how long the oldest had taken by then.
    pub unfinished: u64,
    pub unfinished_oldest: Duration,
}

impl Default for Tally {
    fn default() -> Self {
        // 1 ns to 10 minutes with 3 digits: the bounds are constants that the library accepts.
        let latency = Histogram::new_with_bounds(1, 600_000_000_000, 3);
        Tally {
            latency: latency.expect("constant bounds are valid"),
            hits: 0,
            misses: 0,
            keys_found: 0,
            events: 0,
            errors: BTreeMap::new(),
            first_error: None,
            unfinished: 0,
            unfinished_oldest: Duration::ZERO,
        }
    }
}

impl Tally {
    /// Operations that were answered.
    pub fn ops(&self) -> u64 {
        self.latency.len()
    }

    /// Operations that failed.
    pub fn failures(&self) -> u64 {
        self.errors.values().sum()
    }

    /// One was answered.
    pub fn answered(&mut self, answer: &Answer, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.latency.saturating_record(nanos);
        self.events += answer.events;
        match answer.found {
            Some(0) => self.misses += 1,
            Some(keys) => {
                self.hits += 1;
                self.keys_found += keys;
            }
            None => {}
        }
    }

    /// One failed.
    pub fn failed(&mut self, error: String) {
        if self.first_error.is_none() {
            self.first_error = Some(error.clone());
        }
        self.count_error(error, 1);
    }

    /// One was still under way.
    pub fn under_way(&mut self, since: Duration) {
        self.unfinished += 1;
        self.unfinished_oldest = self.unfinished_oldest.max(since);
    }

    /// Adds another thread's.
    pub fn add(&mut self, other: Tally) {
        // Histograms of equal bounds always add up.
        let _ = self.latency.add(&other.latency);
        self.hits += other.hits;
        self.misses += other.misses;
        self.keys_found += other.keys_found;
        self.events += other.events;
        for (error, count) in other.errors {
            self.count_error(error, count);
        }
        self.first_error = self.first_error.take().or(other.first_error);
        self.unfinished += other.unfinished;
        self.unfinished_oldest = self.unfinished_oldest.max(other.unfinished_oldest);
    }

    fn count_error(&mut self, error: String, count: u64) {
        let known = self.errors.contains_key(&error) || self.errors.len() < KINDS_MAX;
        let kind = if known { error } else { OTHER_KINDS.to_owned() };
        *self.errors.entry(kind).or_default() += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_what_was_said_in_a_bounded_number_of_kinds() {
        let (mut one, mut two) = (Tally::default(), Tally::default());
        for number in 0..100 {
            one.failed(format!("error {number}"));
            two.failed("the same".to_owned());
        }
        two.answered(&Answer::found(0), Duration::from_nanos(7));
        two.answered(&Answer::found(3), Duration::from_nanos(7));
        two.add(one);
        assert_eq!((two.failures(), two.ops()), (200, 2));
        assert_eq!((two.hits, two.misses, two.keys_found), (1, 1, 3));
        assert_eq!(two.errors["the same"], 100);
        assert!(two.errors.len() <= KINDS_MAX + 1, "{:?}", two.errors);
        assert_eq!(two.first_error.as_deref(), Some("the same"));
    }
}
