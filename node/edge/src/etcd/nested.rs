//! Transactions in transactions, taken out of their bytes level by level.
//!
//! Promises: any depth is read without recursion beyond [`TXN_DEPTH_MAX`] levels; what is deeper is left
//! unread, for `mvcc::check` to refuse as etcd does. (prost by itself refuses the 51st level as malformed,
//! where etcd's limit on operations decides.) Bytes that are not a transaction are a decoding error at
//! whatever level they stand, as they are where the whole is decoded at once.
//! Must never know: what a transaction means. Tested below and over the socket by `tests/etcd_api/kv.rs`.

use bytes::Bytes;
use henge_mvcc::check::TXN_DEPTH_MAX;
use prost::{DecodeError, Message};

use super::proto::etcdserverpb as pb;

/// A transaction with those nested in it, decoded.
#[derive(Debug)]
pub(crate) struct Txn {
    pub(crate) request: pb::TxnRequest,
    /// In the order in which they stand, those of `success` first. None: deeper than is read.
    pub(crate) nested: Vec<Option<Txn>>,
}

impl Txn {
    /// Decodes a message, whole.
    pub(crate) fn decode(message: Bytes) -> Result<Txn, DecodeError> {
        Txn::unfold(pb::TxnRequest::decode(message)?)
    }

    /// Whether it is one of ranges alone, as etcd tells (a nested one counts as writing).
    pub(crate) fn only_reads(&self) -> bool {
        use pb::request_op::Request::RequestRange;
        let mut ops = self.request.success.iter().chain(&self.request.failure);
        ops.all(|op| matches!(op.request, Some(RequestRange(_))))
    }

    /// Decodes what is nested in a transaction.
    pub(crate) fn unfold(request: pb::TxnRequest) -> Result<Txn, DecodeError> {
        at_depth(request, 0)
    }
}

fn at_depth(request: pb::TxnRequest, depth: usize) -> Result<Txn, DecodeError> {
    use pb::request_op::Request::RequestTxn;
    let mut nested = Vec::new();
    for op in request.success.iter().chain(&request.failure) {
        if let Some(RequestTxn(bytes)) = &op.request {
            nested.push(match depth {
                TXN_DEPTH_MAX.. => None,
                _ => {
                    let inner = pb::TxnRequest::decode(bytes.clone())?;
                    Some(at_depth(inner, depth + 1)?)
                }
            });
        }
    }
    Ok(Txn { request, nested })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn around(inner: Bytes) -> pb::TxnRequest {
        let request = Some(pb::request_op::Request::RequestTxn(inner));
        pb::TxnRequest {
            success: vec![pb::RequestOp { request }],
            ..Default::default()
        }
    }

    fn chain(below: usize, innermost: Bytes) -> Bytes {
        (0..below).fold(innermost, |inner, _| around(inner).encode_to_vec().into())
    }

    #[test]
    fn any_depth_is_read_as_far_as_anybody_wants() {
        for below in [0, 1, 60, TXN_DEPTH_MAX, TXN_DEPTH_MAX + 1, 20_000] {
            let txn = Txn::decode(chain(below, Bytes::new())).expect("well formed");
            let (mut levels, mut at) = (0, &txn);
            while let Some(Some(inner)) = at.nested.first() {
                (levels, at) = (levels + 1, inner);
            }
            assert_eq!(levels, below.min(TXN_DEPTH_MAX));
            assert_eq!(at.nested.len(), usize::from(below > TXN_DEPTH_MAX));
        }
    }

    #[test]
    fn bytes_that_are_none_are_refused_at_any_level() {
        for below in [0, 1, 60, TXN_DEPTH_MAX] {
            let broken = chain(below, Bytes::from_static(b"\x0a\xff"));
            assert!(Txn::decode(broken).is_err(), "{below}");
        }
    }
}
