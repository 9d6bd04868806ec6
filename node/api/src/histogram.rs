//! Counts of values by size, in etcd's buckets: upper bounds that double.
//!
//! Promises: any thread may count or read at any time, without a lock; a reading is of one moment to within
//! the counts that are being made. Must never know: what is counted, or in which unit.

use std::sync::atomic::{AtomicU64, Ordering};

/// Most bounds of a [`Scale`].
const BOUNDS_MAX: usize = 24;

/// The upper bounds of buckets: the first, and how many, each twice the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scale {
    first: u64,
    bounds: usize,
}

impl Scale {
    /// Bounds from `first` on; no more than 24.
    pub const fn new(first: u64, bounds: usize) -> Self {
        assert!(first > 0 && bounds <= BOUNDS_MAX, "a scale that fits");
        Scale { first, bounds }
    }

    /// The bounds.
    pub fn bounds(self) -> impl Iterator<Item = u64> {
        (0..self.bounds).map(move |at| self.first << at)
    }

    /// The bucket of a value, the last of which has no bound.
    fn bucket(self, value: u64) -> usize {
        let times = value.div_ceil(self.first);
        let bucket = match times {
            0 | 1 => 0,
            times => (u64::BITS - (times - 1).leading_zeros()) as usize,
        };
        bucket.min(self.bounds)
    }
}

/// The counts, and the sum of the values. Whoever counts and whoever reads uses the same [`Scale`].
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; BOUNDS_MAX + 1],
    sum: AtomicU64,
}

impl Histogram {
    /// Counts a value so many times.
    pub fn record(&self, scale: Scale, value: u64, times: u64) {
        self.counts[scale.bucket(value)].fetch_add(times, Ordering::Relaxed);
        self.sum
            .fetch_add(value.saturating_mul(times), Ordering::Relaxed);
    }

    /// Adds to the sum alone: what rounding left out.
    pub fn add_to_sum(&self, value: u64) {
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Per bucket, in the scale's order; the last has no bound.
    pub fn counts(&self, scale: Scale) -> impl Iterator<Item = u64> {
        let counts = self.counts.iter().take(scale.bounds + 1);
        counts.map(|count| count.load(Ordering::Relaxed))
    }

    /// How many values were counted.
    pub fn total(&self) -> u64 {
        let counts = self.counts.iter();
        counts.map(|count| count.load(Ordering::Relaxed)).sum()
    }

    /// Their sum.
    pub fn sum(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_in_the_first_bucket_whose_bound_it_does_not_pass() {
        let scale = Scale::new(100, 4);
        assert_eq!(scale.bounds().collect::<Vec<_>>(), [100, 200, 400, 800]);
        let histogram = Histogram::default();
        for (value, bucket) in [
            (0, 0),
            (1, 0),
            (100, 0),
            (101, 1),
            (200, 1),
            (201, 2),
            (400, 2),
            (800, 3),
            (801, 4),
            (u64::MAX >> 8, 4),
        ] {
            assert_eq!(scale.bucket(value), bucket, "{value}");
            histogram.record(scale, value.min(1_000), 2);
        }
        let counts: Vec<_> = histogram.counts(scale).collect();
        assert_eq!(counts, [6, 4, 4, 2, 4]);
        assert_eq!((histogram.total(), histogram.sum()), (20, 2 * 3_604));
    }
}
