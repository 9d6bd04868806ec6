//! How often plain HTTP was asked for what, and how that ended.
//!
//! Must never know: what makes a check pass.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::health::CHECKS;

/// The two paths that make checks.
const PROBES: [&str; 2] = ["livez", "readyz"];

/// Counters of the plain paths, shared by all connections.
#[derive(Debug, Default)]
pub struct PlainCounters {
    /// Answers of `/health`: ill, well.
    health: [AtomicU64; 2],
    /// Of each probe, each check.
    checks: [[Check; CHECKS.len()]; 2],
    /// Scrapes under way, and those that were answered.
    scrapes: [AtomicU64; 2],
}

#[derive(Debug, Default)]
struct Check {
    /// Failed, passed.
    counts: [AtomicU64; 2],
    /// 0: never made; then one more than how it ended last.
    last: AtomicU64,
}

/// One check of one probe.
pub(super) struct Shown {
    pub(super) of: &'static str,
    pub(super) name: &'static str,
    pub(super) failed: u64,
    pub(super) passed: u64,
    /// How it ended last.
    pub(super) last: Option<bool>,
}

/// See [`PlainCounters::scrape`].
pub(super) struct Scrape<'c>(&'c PlainCounters);

impl Scrape<'_> {
    /// It was answered.
    pub(super) fn answered(&self) {
        self.0.scrapes[1].fetch_add(1, Relaxed);
    }
}

impl Drop for Scrape<'_> {
    fn drop(&mut self) {
        self.0.scrapes[0].fetch_sub(1, Relaxed);
    }
}

impl PlainCounters {
    pub(super) fn answered_health(&self, well: bool) {
        self.health[usize::from(well)].fetch_add(1, Relaxed);
    }

    /// Of a probe (whether of readiness), by a check's place.
    pub(super) fn checked(&self, ready: bool, check: usize, passed: bool) {
        if let Some(check) = self.checks[usize::from(ready)].get(check) {
            check.counts[usize::from(passed)].fetch_add(1, Relaxed);
            check.last.store(1 + u64::from(passed), Relaxed);
        }
    }

    /// A scrape is under way for as long as the answer lives.
    pub(super) fn scrape(&self) -> Scrape<'_> {
        self.scrapes[0].fetch_add(1, Relaxed);
        Scrape(self)
    }

    /// Ill, well.
    pub(super) fn health(&self) -> (u64, u64) {
        (self.health[0].load(Relaxed), self.health[1].load(Relaxed))
    }

    /// Under way, answered.
    pub(super) fn scrapes(&self) -> (u64, u64) {
        let [under_way, answered] = &self.scrapes;
        (under_way.load(Relaxed), answered.load(Relaxed))
    }

    pub(super) fn checks(&self) -> impl Iterator<Item = Shown> {
        let probes = PROBES.into_iter().zip(&self.checks);
        probes.flat_map(|(of, checks)| {
            checks.iter().zip(CHECKS).map(move |(check, name)| Shown {
                of,
                name: name.name(),
                failed: check.counts[0].load(Relaxed),
                passed: check.counts[1].load(Relaxed),
                last: check
                    .last
                    .load(Relaxed)
                    .checked_sub(1)
                    .map(|last| last == 1),
            })
        })
    }
}
