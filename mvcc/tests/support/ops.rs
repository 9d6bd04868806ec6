//! The store that the tables of reads, writes and transactions ask, and operations in a word.

use henge_mvcc::{DeleteRangeRequest, RequestOp, Store, TxnRequest};

use super::{delete, keys, put, put_request, range_request};

/// a=1@2 b=2@3 c=3@4, then b=4@5, delete c @6, c=5@7.
pub fn some_store() -> Store {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    put(&mut store, "b", "2");
    put(&mut store, "c", "3");
    put(&mut store, "b", "4");
    delete(&mut store, "c");
    put(&mut store, "c", "5");
    store
}

pub fn put_op<'a>(key: &'a str, value: &'a str) -> RequestOp<'a> {
    RequestOp::Put(put_request(key, value))
}

pub fn delete_op(range: &str) -> RequestOp<'_> {
    RequestOp::DeleteRange(DeleteRangeRequest {
        range: keys(range),
        prev_kv: false,
    })
}

pub fn range_op(range: &str) -> RequestOp<'_> {
    RequestOp::Range(range_request(range))
}

pub fn success(ops: Vec<RequestOp<'_>>) -> TxnRequest<'_> {
    TxnRequest {
        success: ops,
        ..TxnRequest::default()
    }
}
