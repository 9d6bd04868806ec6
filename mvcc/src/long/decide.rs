//! Which branches a transaction takes, found in slices.
//!
//! All comparisons, those of nested transactions on the way included, are of one revision. Knows nothing of
//! what the branches do.

use std::ops::ControlFlow;

use crate::check::TXN_DEPTH_MAX;
use crate::error::Error;
use crate::store::Store;
use crate::txn::{Path, branch_of, satisfies};
use crate::types::{Compare, CompareTarget, KeyRange, RequestOp, TxnRequest};
use crate::version::Version;

/// Operations that are passed together on the way to the next nested transaction.
const OPS_PASSED: usize = 32;

/// What is known of a transaction's path.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Of the outermost transaction, then of those on the path, in the order of their operations.
    outcomes: Vec<bool>,
    /// Where it is: the transactions with an outcome around the one that is next, the outermost first.
    levels: Vec<Level>,
    /// The one that is next has its outcome: it is the last of `levels`.
    is_within: bool,
    /// What it costs to read the request again, in looks.
    reading: Option<usize>,
    /// The comparison to go on with, of the first that has no outcome.
    compare: usize,
    /// Where in its range.
    scan: Option<Scan>,
}

#[derive(Debug)]
struct Level {
    succeeded: bool,
    /// The operation of its branch to go on with.
    next: usize,
}

#[derive(Debug)]
struct Scan {
    after: Vec<u8>,
    /// A key was there.
    any: bool,
}

impl Decided {
    /// The whole path, once all is decided.
    pub fn path(&self, request: &TxnRequest<'_>) -> Path {
        path(request, &mut self.outcomes.iter())
    }

    /// What it costs to read the request again, as every slice does, in looks: all of it, what is not on the
    /// path, too.
    pub fn reading(&mut self, request: &TxnRequest<'_>) -> usize {
        *self.reading.get_or_insert_with(|| parts(request) / 8)
    }

    /// The transactions from the outermost to the one that is next.
    fn way<'r, 'a>(&self, request: &'r TxnRequest<'a>) -> Result<Vec<&'r TxnRequest<'a>>, Error> {
        let mut way = vec![request];
        let around = self.levels.len() - usize::from(self.is_within);
        for (level, at) in self.levels.iter().take(around).zip(0..) {
            let op = level.next.checked_sub(1).and_then(|last| {
                let txn: &&'r TxnRequest<'a> = way.get(at)?;
                branch_of(txn, level.succeeded).get(last)
            });
            let Some(RequestOp::Txn(nested)) = op else {
                // The request is another one.
                return Err(Error::KeyNotFound);
            };
            way.push(nested);
        }
        Ok(way)
    }
}

impl Store {
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

fn path(request: &TxnRequest<'_>, outcomes: &mut std::slice::Iter<'_, bool>) -> Path {
    let succeeded = outcomes.next().copied().unwrap_or_default();
    let nested = branch_of(request, succeeded).iter();
    let nested = nested.filter_map(|op| match op {
        RequestOp::Txn(inner) => Some(path(inner, outcomes)),
        _ => None,
    });
    Path {
        succeeded,
        nested: nested.collect(),
    }
}
