//! How the disk is doing: distributions of write latency, batch size and writes in flight, and the
//! write that has been under way for longest.
//!
//! The log reads no clock: its owner tells it the time once per turn ([`Wal::set_time`]), so latencies are
//! as fine as the turns are short, and a simulated life has simulated latencies. A disk that hangs
//! completes nothing; that is seen only by asking ([`Wal::oldest_in_flight`]).

use crate::{Wal, segment};

/// Buckets of a [`Histogram`].
pub const BUCKETS: usize = 40;

/// Counts by powers of two: bucket 0 counts zeros, bucket `k` values of `2^(k-1)..2^k`; the last one
/// everything larger.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Histogram {
    /// Values per bucket.
    pub counts: [u64; BUCKETS],
    /// Their sum.
    pub sum: u64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            counts: [0; BUCKETS],
            sum: 0,
        }
    }
}

impl Histogram {
    pub(crate) fn note(&mut self, value: u64) {
        let bucket = (u64::BITS - value.leading_zeros()) as usize;
        self.counts[bucket.min(BUCKETS - 1)] += 1;
        self.sum = self.sum.saturating_add(value);
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// An upper bound of the given part (0.0–1.0) of the values; 0 if there are none.
    pub fn quantile(&self, part: f64) -> u64 {
        let wanted = (self.count() as f64 * part).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted && seen > 0 {
                return (1u64 << bucket) - 1;
            }
        }
        0
    }
}

/// The distributions of a log's writes, since it was opened.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Histograms {
    /// Microseconds from submission to completion of each write of the commit path.
    pub write_micros: Histogram,
    /// Bytes of each batch, padding included.
    pub batch_bytes: Histogram,
    /// Writes in flight as each write was submitted, itself included.
    pub in_flight: Histogram,
}

/// A write that has not completed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InFlight {
    /// The segment file.
    pub file: String,
    /// Byte offset.
    pub offset: u64,
    /// When it was submitted, by the owner's clock.
    pub since_micros: u64,
}

impl Wal {
    /// The time by the owner's monotonic clock; told at the beginning of a turn.
    pub fn set_time(&mut self, now_micros: u64) {
        self.now_micros = self.now_micros.max(now_micros);
    }

    /// The write of the commit path that was submitted first and has not completed. One that is older
    /// than seconds means a stuck disk: stop claiming to be alive.
    pub fn oldest_in_flight(&self) -> Option<InFlight> {
        let flight = self.flights.iter().find(|flight| !flight.done)?;
        Some(InFlight {
            file: segment::name(flight.seq),
            offset: flight.offset,
            since_micros: flight.since_micros,
        })
    }

    /// When that write was submitted, by the owner's clock: cheap enough for every turn.
    pub fn oldest_in_flight_micros(&self) -> Option<u64> {
        let flight = self.flights.iter().find(|flight| !flight.done)?;
        Some(flight.since_micros)
    }

    /// The distributions of this log's writes.
    pub fn histograms(&self) -> &Histograms {
        &self.histograms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_powers_of_two() {
        let mut h = Histogram::default();
        for value in [0, 1, 2, 3, 4, 1_000, u64::MAX] {
            h.note(value);
        }
        assert_eq!(h.counts[..4], [1, 1, 2, 1]);
        assert_eq!((h.counts[10], h.counts[BUCKETS - 1]), (1, 1));
        assert_eq!((h.count(), h.quantile(0.5), h.quantile(0.8)), (7, 3, 1_023));
        assert_eq!(Histogram::default().quantile(0.99), 0);
    }
}
