//! Which branches a transaction takes, found in slices.
//!
//! All comparisons, those of nested transactions on the way included, are of one revision. Knows nothing of
//! what the branches do.

use std::ops::ControlFlow;

use super::walk::{Level, around};
use crate::check::TXN_DEPTH_MAX;
use crate::error::Error;
use crate::store::Store;
use crate::txn::{branch_of, satisfies};
use crate::types::{Compare, CompareTarget, KeyRange, RequestOp, TxnRequest};
use crate::version::Version;

/// Operations that are passed together on the way to the next nested transaction.
const OPS_PASSED: usize = 32;

/// Parts of a request that are read in the time of a look, and let go in half of it.
const PARTS_READ: usize = 8;

/// What is known of a transaction's path.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Of the outermost transaction, then of those on the path, in the order of their operations.
    outcomes: Vec<bool>,
    /// Where it is: the transactions with an outcome around the one that is next, the outermost first.
    levels: Vec<Level>,
    /// The one that is next has its outcome: it is the last of `levels`.
    is_within: bool,
    /// Transactions, operations and comparisons of the request, once they were counted.
    parts: Option<usize>,
    /// The comparison to go on with, of the first that has no outcome.
    compare: usize,
    /// Where in its range.
    scan: Option<Scan>,
}

#[derive(Debug)]
struct Scan {
    after: Vec<u8>,
    /// A key was there.
    any: bool,
}

impl Decided {
    /// Which way the transactions on the path go, in their order, once all is decided.
    pub fn outcomes(&self) -> &[bool] {
        &self.outcomes
    }

    /// Transactions, operations and comparisons of the request, as far as they were counted.
    pub fn parts(&self) -> usize {
        self.parts.unwrap_or(0)
    }

    /// See `Store::read_once`: it was not once.
    pub fn count_again(&mut self) {
        self.parts = None;
    }

    /// The transactions from the outermost to the one that is next.
    fn way<'r, 'a>(&self, request: &'r TxnRequest<'a>) -> Result<Vec<&'r TxnRequest<'a>>, Error> {
        let outer = self.levels.len() - usize::from(self.is_within);
        around(request, self.levels.get(..outer).unwrap_or_default())
    }
}

impl Store {
    /// Counts what it took to read a request, all of it, what is not on the path, too: once, as whoever
    /// drives the store keeps it as it was read.
    pub(super) fn read_once(&self, decided: &mut Decided, request: &TxnRequest<'_>) {
        if decided.parts.is_none() {
            let parts = parts(request);
            decided.parts = Some(parts);
            self.meter.look(parts / PARTS_READ);
        }
    }

    /// Counts that a request is let go, which its driver does once it is done.
    pub(super) fn let_request_go(&self, decided: &Decided) {
        self.meter.look(decided.parts() / PARTS_READ / 2);
    }

    /// Goes on comparing, as of a revision, until it is late; returns whether all is decided.
    pub(super) fn decide_on(
        &self,
        decided: &mut Decided,
        request: &TxnRequest<'_>,
        at: i64,
        until: u64,
    ) -> Result<bool, Error> {
        let mut way = decided.way(request)?;
        while let Some(&txn) = way.last() {
            if !decided.is_within {
                if decided.levels.len() > TXN_DEPTH_MAX {
                    return Err(Error::TooManyOps);
                }
                let Some(holds) = self.compare_on(decided, txn, at, until) else {
                    return Ok(false);
                };
                decided.outcomes.push(holds);
                decided.compare = 0;
                decided.levels.push(Level {
                    succeeded: holds,
                    next: 0,
                });
                decided.is_within = true;
            }
            let Some(level) = decided.levels.last_mut() else {
                break;
            };
            let ops = branch_of(txn, level.succeeded).get(level.next..);
            let ops = ops.unwrap_or_default();
            let mut passed = ops.iter().take(OPS_PASSED);
            let nested = passed.find_map(|op| match op {
                RequestOp::Txn(nested) => Some(nested),
                _ => None,
            });
            let left = passed.len();
            let looked_at = ops.len().min(OPS_PASSED) - left;
            level.next += looked_at;
            self.meter.look(1);
            if let Some(nested) = nested {
                way.push(nested);
                decided.is_within = false;
            } else if looked_at == ops.len() {
                way.pop();
                decided.levels.pop();
            }
            if !way.is_empty() && self.is_late(until) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Goes on with a transaction's comparisons. Nothing: it is late.
    fn compare_on(
        &self,
        decided: &mut Decided,
        txn: &TxnRequest<'_>,
        at: i64,
        until: u64,
    ) -> Option<bool> {
        let mut holds = true;
        while holds && let Some(compare) = txn.compare.get(decided.compare) {
            holds = self.holds_on(compare, &mut decided.scan, at, until)?;
            decided.compare += 1;
            if holds && self.is_late(until) {
                return None;
            }
        }
        Some(holds)
    }

    /// Goes on with one comparison: see `Store::holds`. Nothing: it is late.
    fn holds_on(
        &self,
        compare: &Compare<'_>,
        scan: &mut Option<Scan>,
        at: i64,
        until: u64,
    ) -> Option<bool> {
        let resume = scan.take();
        let range = resume.as_ref().map_or(compare.range, |scan| KeyRange {
            key: &scan.after,
            end: compare.range.end,
        });
        let (mut any, mut all) = (resume.as_ref().is_some_and(|scan| scan.any), true);
        let mut stopped = None;
        self.scan_range(range, |id| {
            let key = self.keys.key(id);
            if resume.as_ref().is_some_and(|scan| scan.after == key) {
                return ControlFlow::Continue(());
            }
            self.meter.look(1);
            let version = self.keys.at(id, at).filter(|version| !version.tombstone);
            if let Some(version) = version {
                any = true;
                if matches!(compare.target, CompareTarget::Value(_)) {
                    self.meter.bytes(version.value.len());
                }
                all = satisfies(compare, &version);
                if !all {
                    return ControlFlow::Break(());
                }
            }
            if self.is_late(until) {
                stopped = Some(key.to_vec());
                return ControlFlow::Break(());
            }
            ControlFlow::Continue(())
        });
        if let Some(after) = stopped {
            *scan = Some(Scan { after, any });
            return None;
        }
        if any {
            return Some(all);
        }
        let compares_zeros = !matches!(compare.target, CompareTarget::Value(_));
        Some(compares_zeros && satisfies(compare, &Version::default()))
    }
}

/// Transactions, operations and comparisons, those within included.
fn parts(request: &TxnRequest<'_>) -> usize {
    let both = request.success.iter().chain(&request.failure);
    let ops = both.map(|op| match op {
        RequestOp::Txn(nested) => parts(nested),
        _ => 1,
    });
    1 + request.compare.len() + ops.sum::<usize>()
}
