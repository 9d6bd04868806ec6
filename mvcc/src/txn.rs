//! Transactions: compare, then one of two branches, atomically, in one revision.
//!
//! In etcd's order: all compares, nested ones included, are evaluated on the state before; then every
//! operation on the path taken is checked, one after another; only then is anything changed. So a transaction
//! that fails has changed nothing. (etcd 3.5 checks all puts before all ranges, and that a key is there
//! before its lease: of several mistakes it names another one.) Tested by `tests/txn.rs` and the model.

use std::cmp::Ordering;
use std::ops::ControlFlow;

use crate::check::TXN_DEPTH_MAX;
use crate::error::Error;
use crate::store::{Moment, Store};
use crate::types::{
    Compare, CompareResult, CompareTarget, RequestOp, ResponseOp, TxnRequest, TxnResponse,
};
use crate::version::Version;

/// The branch taken by a transaction and by each nested one on its path.
pub(crate) struct Path {
    pub succeeded: bool,
    /// One per nested transaction of the branch, in order.
    pub nested: Vec<Path>,
}

impl Store {
    /// Runs a transaction.
    pub fn txn(&mut self, request: &TxnRequest<'_>) -> Result<TxnResponse, Error> {
        let path = self.path(request, 0)?;
        self.check_path_at(request, &path, self.moment())?;
        self.write_begin();
        let response = self.apply_path(request, &path);
        self.write_end();
        response
    }

    /// Runs a transaction that only reads (see [`TxnRequest::is_read_only`]). Operations of
    /// another kind are refused as not found, as etcd does with an operation it does not know.
    pub fn txn_read(&self, request: &TxnRequest<'_>) -> Result<TxnResponse, Error> {
        let path = self.path(request, 0)?;
        self.check_path_at(request, &path, self.moment())?;
        self.counted.read(branch(request, &path).len());
        let responses = branch(request, &path).iter().map(|op| match op {
            RequestOp::Range(range) => self.range_at(range, self.moment()).map(ResponseOp::Range),
            _ => Err(Error::KeyNotFound),
        });
        Ok(TxnResponse {
            succeeded: path.succeeded,
            responses: responses.collect::<Result<_, _>>()?,
        })
    }

    fn path(&self, request: &TxnRequest<'_>, depth: usize) -> Result<Path, Error> {
        if depth > TXN_DEPTH_MAX {
            return Err(Error::TooManyOps);
        }
        let mut path = Path {
            succeeded: request.compare.iter().all(|compare| self.holds(compare)),
            nested: Vec::new(),
        };
        for op in branch(request, &path) {
            if let RequestOp::Txn(nested) = op {
                let nested = self.path(nested, depth + 1)?;
                path.nested.push(nested);
            }
        }
        Ok(path)
    }

    /// Every operation on the path, in order.
    pub(crate) fn check_path_at(
        &self,
        request: &TxnRequest<'_>,
        path: &Path,
        moment: Moment,
    ) -> Result<(), Error> {
        self.each_op(request, path, &|op| self.check_op(op, moment))
    }

    pub(crate) fn check_op(&self, op: &RequestOp<'_>, moment: Moment) -> Result<(), Error> {
        match op {
            RequestOp::Put(put) => self.check_put(put),
            RequestOp::DeleteRange(delete) if delete.range.key.is_empty() => Err(Error::EmptyKey),
            RequestOp::Range(range) if range.range.key.is_empty() => Err(Error::EmptyKey),
            RequestOp::Range(range) => check_range_revision(range.revision, moment),
            _ => Ok(()),
        }
    }

    /// Every operation on the path, in order, but nested transactions themselves.
    fn each_op(
        &self,
        request: &TxnRequest<'_>,
        path: &Path,
        check: &dyn Fn(&RequestOp<'_>) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let mut nested = path.nested.iter();
        for op in branch(request, path) {
            match op {
                RequestOp::Txn(inner) => {
                    if let Some(path) = nested.next() {
                        self.each_op(inner, path, check)?;
                    }
                }
                op => check(op)?,
            }
        }
        Ok(())
    }

    fn apply_path(&mut self, request: &TxnRequest<'_>, path: &Path) -> Result<TxnResponse, Error> {
        let mut nested = path.nested.iter();
        let mut response = TxnResponse {
            succeeded: path.succeeded,
            responses: Vec::new(),
        };
        for op in branch(request, path) {
            response.responses.push(match op {
                RequestOp::Range(range) => {
                    self.counted.range();
                    ResponseOp::Range(self.range_seen(range)?)
                }
                RequestOp::Put(put) => ResponseOp::Put(self.apply_put(put)?),
                RequestOp::DeleteRange(delete) => {
                    ResponseOp::DeleteRange(self.apply_delete(delete))
                }
                RequestOp::Txn(inner) => {
                    let path = nested.next().ok_or(Error::KeyNotFound)?;
                    ResponseOp::Txn(Box::new(self.apply_path(inner, path)?))
                }
            });
        }
        Ok(response)
    }

    /// Every key of the range must satisfy it; no key at all compares as a pair of zeros, but for
    /// values, where it is false.
    fn holds(&self, compare: &Compare<'_>) -> bool {
        let mut any = false;
        let mut all = true;
        self.scan_range(compare.range, |id| {
            self.meter.look(1);
            // Not the latest: a write may be under way.
            let found = self.keys.at(id, self.revision);
            let Some(version) = found.filter(|version| !version.tombstone) else {
                return ControlFlow::Continue(());
            };
            any = true;
            all = satisfies(compare, &version);
            if all {
                ControlFlow::Continue(())
            } else {
                ControlFlow::Break(())
            }
        });
        if any {
            return all;
        }
        !matches!(compare.target, CompareTarget::Value(_))
            && satisfies(compare, &Version::default())
    }
}

/// Inside a transaction a negative revision is not the current one: it is compared with the compact revision
/// (which starts at -1) like any other, as etcd does.
fn check_range_revision(requested: i64, moment: Moment) -> Result<(), Error> {
    let Moment {
        revision: current,
        compacted,
    } = moment;
    if requested > current {
        return Err(Error::FutureRevision { requested, current });
    }
    if requested != 0 && requested < compacted {
        return Err(Error::Compacted {
            requested,
            compacted,
        });
    }
    Ok(())
}

pub(crate) fn branch<'r, 'a>(request: &'r TxnRequest<'a>, path: &Path) -> &'r [RequestOp<'a>] {
    branch_of(request, path.succeeded)
}

pub(crate) fn branch_of<'r, 'a>(
    request: &'r TxnRequest<'a>,
    succeeded: bool,
) -> &'r [RequestOp<'a>] {
    if succeeded {
        &request.success
    } else {
        &request.failure
    }
}

pub(crate) fn satisfies(compare: &Compare<'_>, stored: &Version<'_>) -> bool {
    let order = match compare.target {
        CompareTarget::Version(given) => stored.version.cmp(&given),
        CompareTarget::CreateRevision(given) => stored.create.cmp(&given),
        CompareTarget::ModRevision(given) => stored.main.cmp(&given),
        CompareTarget::Value(given) => stored.value.cmp(given),
        CompareTarget::Lease(given) => stored.lease.cmp(&given),
    };
    match compare.result {
        CompareResult::Equal => order == Ordering::Equal,
        CompareResult::Greater => order == Ordering::Greater,
        CompareResult::Less => order == Ordering::Less,
        CompareResult::NotEqual => order != Ordering::Equal,
    }
}
