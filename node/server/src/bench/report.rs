//! What a run measured, and what follows from it.
//!
//! Promises: a rate that was missed and reads that found nothing are said, never folded into the
//! throughput; figures of a window that never was are none. Must never know: how they are shown.

use std::sync::Arc;
use std::time::Duration;

use super::args::BenchArgs;
use super::dial::Server;
use super::prefill::Prefill;
use super::signals::Signal;
use super::tally::Tally;
use super::usage::Usage;

/// What a load ran against.
pub enum Against {
    /// An engine in this process.
    Embedded {
        /// What drove its cores.
        host: String,
        /// Its data directory.
        dir: String,
        /// Which was made for the run, and is gone.
        temporary: bool,
        /// And was in memory, where nothing is durable.
        in_memory: bool,
    },
    /// Servers.
    Remote {
        /// Those that were used.
        servers: Vec<Server>,
    },
}

/// What a run measured, from whichever side.
pub struct RunResult {
    /// The operations.
    pub tally: Tally,
    /// How long it was measured; none if it never began.
    pub window: Option<Duration>,
    /// Operations that were due and had no free client.
    pub left_due: u64,
    /// The signal that ended it early.
    pub caught: Option<Signal>,
    /// What the process had used at the beginning and at the end.
    pub usage: Option<(Usage, Usage)>,
    /// Log batches and bytes; none for servers.
    pub log: Option<(u64, u64)>,
    /// Connections, or threads of clients.
    pub conns: u32,
    /// What was written before.
    pub prefill: Arc<Prefill>,
    /// Against what.
    pub against: Against,
}

/// A rate that was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    /// Operations per second, as asked.
    pub wanted: u64,
    /// As answered.
    pub reached: f64,
    /// Whether that is less.
    pub missed: bool,
}

impl RunResult {
    /// That many in the window, per second.
    pub fn per_second(&self, count: u64) -> f64 {
        match self.window {
            Some(window) => count as f64 / window.as_secs_f64().max(1e-9),
            None => 0.0,
        }
    }

    /// Nanoseconds at a quantile; none if nothing was answered.
    pub fn latency(&self, quantile: f64) -> Option<u64> {
        let latency = &self.tally.latency;
        (!latency.is_empty()).then(|| latency.value_at_quantile(quantile))
    }

    /// Microseconds of this process for each operation, and of its cores' threads.
    pub fn cpu_per_op(&self) -> (f64, f64) {
        let per_op = |cpu: Duration| cpu.as_secs_f64() * 1e6 / (self.tally.ops() as f64).max(1.0);
        match &self.usage {
            Some((before, after)) => (
                per_op(after.process_since(before)),
                per_op(after.cores_since(before)),
            ),
            None => (0.0, 0.0),
        }
    }

    /// Peak memory in bytes.
    pub fn resident_max(&self) -> u64 {
        self.usage.map_or(0, |(_, after)| after.resident_max)
    }

    /// Operations and bytes for each log batch; none if there was none.
    pub fn batch_means(&self) -> Option<(f64, f64)> {
        let (batches, bytes) = self.log.filter(|(batches, _)| *batches > 0)?;
        let batches = batches as f64;
        Some((self.tally.ops() as f64 / batches, bytes as f64 / batches))
    }

    /// The part of the reads that found something; none if nothing was read.
    pub fn hit_rate(&self) -> Option<f64> {
        let reads = self.tally.hits + self.tally.misses;
        (reads > 0).then(|| self.tally.hits as f64 / reads as f64)
    }

    /// How the rate that was asked for was kept.
    pub fn rate(&self, args: &BenchArgs) -> Option<Rate> {
        let (wanted, window) = (args.rate?, self.window?);
        let usual = Duration::from_nanos(self.latency(0.5).unwrap_or_default());
        let ops = self.tally.ops();
        Some(Rate {
            wanted,
            reached: self.per_second(ops),
            missed: is_missed(wanted, window, ops, usual),
        })
    }

    /// What has to be said about the figures, in words.
    pub fn remarks(&self, args: &BenchArgs) -> Vec<String> {
        let mut remarks = Vec::new();
        if let Some(rate) = self.rate(args).filter(|rate| rate.missed) {
            let busy = if self.left_due > self.tally.ops() / 100 {
                "; every client was busy: more of them (--clients) would ask in time"
            } else {
                ""
            };
            remarks.push(format!(
                "RATE MISSED: {} ops/s wanted, {:.0} reached ({:.1} %){busy}",
                rate.wanted,
                rate.reached,
                rate.reached * 100.0 / rate.wanted as f64
            ));
        }
        if self.tally.misses > 0 {
            let reads = self.tally.hits + self.tally.misses;
            remarks.push(format!(
                "{} of {reads} reads ({:.1} %) found nothing, and are part of the throughput",
                self.tally.misses,
                self.tally.misses as f64 * 100.0 / reads as f64
            ));
        }
        match &self.against {
            Against::Embedded {
                in_memory: true, ..
            } => remarks.push("the data was in memory: nothing was durable".to_owned()),
            Against::Remote { servers } if (1..args.endpoints.len()).contains(&servers.len()) => {
                remarks.push(format!(
                    "{} of {} endpoints were used: there were fewer connections (--conns, --clients)",
                    servers.len(),
                    args.endpoints.len()
                ));
            }
            _ => {}
        }
        remarks
    }

    /// Why the run is a failure, if it is one.
    pub fn failure(&self) -> Option<String> {
        let (ops, failures) = (self.tally.ops(), self.tally.failures());
        let most = self.tally.errors.iter().max_by_key(|(_, count)| **count);
        match most {
            Some((error, count)) => {
                let all = if ops == 0 { "all " } else { "" };
                Some(format!(
                    "{all}{failures} operations failed: {count} × {error}"
                ))
            }
            None if ops == 0 && self.caught.is_none() => Some(format!(
                "no operation was answered ({} were under way at the end)",
                self.tally.unfinished
            )),
            None => None,
        }
    }
}

/// Whether fewer were answered than were due. What is under way at the end for no longer than an operation
/// usually takes is not missed, nor is one in a hundred.
fn is_missed(wanted: u64, window: Duration, ops: u64, usual: Duration) -> bool {
    let due = wanted as f64 * window.as_secs_f64();
    let under_way = wanted as f64 * usual.as_secs_f64();
    due - ops as f64 > due / 100.0 + under_way + 1.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_missed_when_answers_fall_behind_and_not_by_what_is_under_way() {
        let second = Duration::from_secs(1);
        let (fast, slow) = (Duration::from_micros(100), Duration::from_millis(100));
        assert!(!is_missed(1_000, second, 1_000, fast));
        assert!(
            !is_missed(1_000, second, 900, slow),
            "a hundred are under way"
        );
        assert!(is_missed(1_000, second, 880, slow));
        assert!(is_missed(1_000, second, 980, fast));
        assert!(is_missed(1_000_000_000, second, 600_000, fast));
        // Three times what a server can do: half of the latencies are a third of a second, and more.
        assert!(is_missed(3_000, second, 1_000, Duration::from_millis(330)));
        // A total that took a hundred times as long as it was to take.
        assert!(is_missed(
            1_000_000,
            Duration::from_millis(100),
            1_000,
            fast
        ));
        assert!(!is_missed(1, Duration::from_millis(10), 0, Duration::ZERO));
    }
}
