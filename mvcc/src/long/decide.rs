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

/// What is known of a transaction's path.
#[derive(Debug, Default)]
pub(super) struct Decided {
    /// Of the outermost transaction, then of those on the path, in the order of their operations.
    outcomes: Vec<bool>,
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
    /// The whole path, once all is decided.
    pub fn path(&self, request: &TxnRequest<'_>) -> Path {
        path(request, &mut self.outcomes.iter())
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
        loop {
            let next = undecided(request, &mut decided.outcomes.iter(), 0);
            let Some((txn, depth)) = next else {
                return Ok(true);
            };
            if depth > TXN_DEPTH_MAX {
                return Err(Error::TooManyOps);
            }
            let mut holds = true;
            while holds && let Some(compare) = txn.compare.get(decided.compare) {
                match self.holds_on(compare, &mut decided.scan, at, until) {
                    Some(outcome) => holds = outcome,
                    None => return Ok(false),
                }
                decided.compare += 1;
                if holds && self.is_late(until) {
                    return Ok(false);
                }
            }
            decided.outcomes.push(holds);
            decided.compare = 0;
        }
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

/// The first transaction on the path that has no outcome, and how deep it is.
fn undecided<'r, 'a>(
    request: &'r TxnRequest<'a>,
    outcomes: &mut std::slice::Iter<'_, bool>,
    depth: usize,
) -> Option<(&'r TxnRequest<'a>, usize)> {
    let Some(&succeeded) = outcomes.next() else {
        return Some((request, depth));
    };
    branch_of(request, succeeded)
        .iter()
        .find_map(|op| match op {
            RequestOp::Txn(nested) => undecided(nested, outcomes, depth + 1),
            _ => None,
        })
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
