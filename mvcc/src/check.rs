//! What etcd refuses before it proposes: pure checks of a request's form.
//!
//! The edge calls these so that a bad request costs no consensus round. They look at nothing but
//! the request. The store itself accepts unchecked requests without panicking, so these are
//! policy, not safety. Tested by the tables at the end.

mod changes;

use crate::error::Error;
use crate::types::{DeleteRangeRequest, PutRequest, RangeRequest, RequestOp, TxnRequest};
use changes::changes;

/// Levels of transactions below the outermost one: what etcd's limit on operations allows at its default,
/// whatever that limit is. Whoever decodes transactions refuses deeper ones, too; the store applies none.
pub const TXN_DEPTH_MAX: usize = 128;

/// Bounds on a request's form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Most compares, and most operations per branch, of a transaction (etcd's --max-txn-ops). A
    /// nested transaction has what its parent left over, which also bounds the depth; so does
    /// [`TXN_DEPTH_MAX`].
    pub txn_ops_max: usize,
}

impl Default for Limits {
    /// etcd's default, 128.
    fn default() -> Self {
        Limits { txn_ops_max: 128 }
    }
}

/// Checks a range.
pub fn range(request: &RangeRequest<'_>, _limits: &Limits) -> Result<(), Error> {
    key_given(request.range.key)
}

/// Checks a put.
pub fn put(request: &PutRequest<'_>, _limits: &Limits) -> Result<(), Error> {
    key_given(request.key)?;
    if request.ignore_value && !request.value.is_empty() {
        return Err(Error::ValueProvided);
    }
    if request.ignore_lease && request.lease != 0 {
        return Err(Error::LeaseProvided);
    }
    Ok(())
}

/// Checks a delete.
pub fn delete_range(request: &DeleteRangeRequest<'_>, _limits: &Limits) -> Result<(), Error> {
    key_given(request.range.key)
}

/// Checks a transaction: first its form at every level, then that no path changes a key twice.
pub fn txn(request: &TxnRequest<'_>, limits: &Limits) -> Result<(), Error> {
    txn_form(request, limits.txn_ops_max, 0, limits)?;
    for branch in [&request.success, &request.failure] {
        changes(branch)?;
    }
    Ok(())
}

fn key_given(key: &[u8]) -> Result<(), Error> {
    if key.is_empty() {
        Err(Error::EmptyKey)
    } else {
        Ok(())
    }
}

fn txn_form(
    request: &TxnRequest<'_>,
    ops_max: usize,
    depth: usize,
    limits: &Limits,
) -> Result<(), Error> {
    let ops = request
        .compare
        .len()
        .max(request.success.len())
        .max(request.failure.len());
    if ops > ops_max || depth > TXN_DEPTH_MAX {
        return Err(Error::TooManyOps);
    }
    for compare in &request.compare {
        key_given(compare.range.key)?;
    }
    for op in request.success.iter().chain(&request.failure) {
        match op {
            RequestOp::Range(r) => range(r, limits)?,
            RequestOp::Put(r) => put(r, limits)?,
            RequestOp::DeleteRange(r) => delete_range(r, limits)?,
            RequestOp::Txn(r) => txn_form(r, ops_max - ops, depth + 1, limits)?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Compare, KeyRange};

    fn put_op(key: &[u8]) -> RequestOp<'_> {
        RequestOp::Put(PutRequest {
            key,
            ..PutRequest::default()
        })
    }

    fn delete_op<'a>(key: &'a [u8], end: &'a [u8]) -> RequestOp<'a> {
        RequestOp::DeleteRange(DeleteRangeRequest {
            range: KeyRange { key, end },
            ..DeleteRangeRequest::default()
        })
    }

    fn nested<'a>(success: Vec<RequestOp<'a>>, failure: Vec<RequestOp<'a>>) -> RequestOp<'a> {
        RequestOp::Txn(Box::new(TxnRequest {
            success,
            failure,
            ..TxnRequest::default()
        }))
    }

    fn check(success: Vec<RequestOp<'_>>) -> Result<(), Error> {
        txn(
            &TxnRequest {
                success,
                ..TxnRequest::default()
            },
            &Limits::default(),
        )
    }

    #[test]
    fn forms_of_single_requests() {
        let limits = Limits::default();
        let empty = KeyRange::default();
        let range_request = RangeRequest {
            range: empty,
            ..RangeRequest::default()
        };
        assert_eq!(range(&range_request, &limits), Err(Error::EmptyKey));
        let delete = DeleteRangeRequest {
            range: empty,
            prev_kv: false,
        };
        assert_eq!(delete_range(&delete, &limits), Err(Error::EmptyKey));
        let mut request = PutRequest {
            value: b"v",
            lease: 7,
            ..PutRequest::default()
        };
        assert_eq!(put(&request, &limits), Err(Error::EmptyKey));
        request.key = b"k";
        assert_eq!(put(&request, &limits), Ok(()));
        request.ignore_value = true;
        assert_eq!(put(&request, &limits), Err(Error::ValueProvided));
        request.value = b"";
        request.ignore_lease = true;
        assert_eq!(put(&request, &limits), Err(Error::LeaseProvided));
        request.lease = 0;
        assert_eq!(put(&request, &limits), Ok(()));
    }

    #[test]
    fn duplicate_rule() {
        let duplicate = Err(Error::DuplicateKey);
        let table = [
            ("two keys", vec![put_op(b"a"), put_op(b"b")], Ok(())),
            (
                "same key",
                vec![put_op(b"a"), put_op(b"a")],
                duplicate.clone(),
            ),
            (
                "put then delete",
                vec![put_op(b"a"), delete_op(b"a", b"")],
                duplicate.clone(),
            ),
            (
                "put in a range",
                vec![delete_op(b"a", b"c"), put_op(b"b")],
                duplicate.clone(),
            ),
            (
                "put at its end",
                vec![delete_op(b"a", b"c"), put_op(b"c")],
                Ok(()),
            ),
            (
                "put above from-key",
                vec![delete_op(b"a", b"\0"), put_op(b"z")],
                duplicate.clone(),
            ),
            (
                "overlapping deletes",
                vec![delete_op(b"a", b"c"), delete_op(b"b", b"")],
                Ok(()),
            ),
            (
                "exclusive branches",
                vec![nested(vec![put_op(b"a")], vec![put_op(b"a")])],
                Ok(()),
            ),
            (
                "branch against parent",
                vec![nested(vec![], vec![put_op(b"a")]), put_op(b"a")],
                duplicate.clone(),
            ),
            (
                "two nested",
                vec![
                    nested(vec![put_op(b"a")], vec![]),
                    nested(vec![], vec![put_op(b"a")]),
                ],
                duplicate.clone(),
            ),
            (
                "nested put, parent delete after it",
                vec![nested(vec![put_op(b"a")], vec![]), delete_op(b"a", b"")],
                duplicate.clone(),
            ),
            (
                "nested delete, sibling put after it",
                vec![nested(vec![delete_op(b"a", b"")], vec![]), put_op(b"a")],
                duplicate.clone(),
            ),
        ];
        for (name, ops, expected) in table {
            assert_eq!(check(ops), expected, "{name}");
        }
    }

    #[test]
    fn success_and_failure_are_independent() {
        let request = TxnRequest {
            success: vec![put_op(b"a")],
            failure: vec![put_op(b"a"), delete_op(b"b", b"")],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&request, &Limits::default()), Ok(()));
    }

    #[test]
    fn operations_are_limited_per_level() {
        let limits = Limits { txn_ops_max: 2 };
        let ok = TxnRequest {
            success: vec![nested(vec![put_op(b"a")], vec![])],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&ok, &limits), Ok(()));
        // One operation outside leaves one inside: two are too many.
        let deep = TxnRequest {
            success: vec![nested(vec![put_op(b"a"), put_op(b"b")], vec![])],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&deep, &limits), Err(Error::TooManyOps));
        let compare = Compare {
            range: KeyRange::one(b"a"),
            ..Compare::default()
        };
        let wide = TxnRequest {
            compare: vec![compare; 3],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&wide, &limits), Err(Error::TooManyOps));
        let chain = |below: usize| {
            let innermost = TxnRequest {
                success: vec![put_op(b"a")],
                ..TxnRequest::default()
            };
            (0..below).fold(innermost, |txn, _| TxnRequest {
                success: vec![RequestOp::Txn(Box::new(txn))],
                ..TxnRequest::default()
            })
        };
        // As etcd at its default: the 129th transaction has no operation left. With a larger limit the
        // depth is bounded all the same.
        let default = Limits::default();
        assert_eq!(txn(&chain(127), &default), Ok(()));
        assert_eq!(txn(&chain(128), &default), Err(Error::TooManyOps));
        let generous = Limits {
            txn_ops_max: 100_000,
        };
        assert_eq!(txn(&chain(TXN_DEPTH_MAX), &generous), Ok(()));
        let deeper = chain(TXN_DEPTH_MAX + 1);
        assert_eq!(txn(&deeper, &generous), Err(Error::TooManyOps));
        let empty = TxnRequest {
            compare: vec![Compare::default()],
            ..TxnRequest::default()
        };
        assert_eq!(txn(&empty, &limits), Err(Error::EmptyKey));
    }
}
