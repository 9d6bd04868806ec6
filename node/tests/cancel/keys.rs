//! Operations on keys, in one shard.

use henge::Batch;
use henge::mvcc::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest};

use crate::case::{Case, all, boxed, fine, is_gone, is_there, key, nothing, put};

pub const CASES: &[Case] = &[
    Case {
        of: "Engine",
        name: "put",
        revisions: 1,
        before: nothing,
        operation: put,
        after: is_there,
    },
    Case {
        of: "Engine",
        name: "put_with",
        revisions: 1,
        before: nothing,
        operation: |db, k| {
            let (key, value) = (key(k), format!("value-{k}"));
            boxed(db.put_with(&PutRequest {
                key: key.as_bytes(),
                value: value.as_bytes(),
                ..PutRequest::default()
            }))
        },
        after: is_there,
    },
    Case {
        of: "Engine",
        name: "get",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.get("barrier")),
        after: fine,
    },
    Case {
        of: "Engine",
        name: "range",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.range(&all())),
        after: fine,
    },
    Case {
        of: "Engine",
        name: "delete",
        revisions: 1,
        before: |db, k| Some(put(db, k)),
        operation: |db, k| boxed(db.delete(key(k))),
        after: is_gone,
    },
    Case {
        of: "Engine",
        name: "delete_range",
        revisions: 1,
        before: |db, k| Some(put(db, k)),
        operation: |db, _| {
            let range = KeyRange {
                key: b"key-",
                end: b"key.",
            };
            let prev_kv = true;
            boxed(db.delete_range(&DeleteRangeRequest { range, prev_kv }))
        },
        after: is_gone,
    },
    Case {
        of: "Engine",
        name: "txn",
        revisions: 1,
        before: nothing,
        operation: |db, k| {
            let (left, right) = (format!("left-{k}"), format!("right-{k}"));
            let put = |key| {
                RequestOp::Put(PutRequest {
                    key,
                    value: b"both",
                    ..PutRequest::default()
                })
            };
            boxed(db.txn(&TxnRequest {
                compare: Vec::new(),
                success: vec![put(left.as_bytes()), put(right.as_bytes())],
                failure: Vec::new(),
            }))
        },
        after: |db, k| {
            let (left, right) = (db.get(format!("left-{k}")), db.get(format!("right-{k}")));
            Box::pin(async move {
                let (left, right) = (left.await.expect("get"), right.await.expect("get"));
                match (left, right) {
                    (Some(left), Some(right)) => {
                        left.mod_revision == right.mod_revision && left.version == 1
                    }
                    _ => false,
                }
            })
        },
    },
    Case::reading("Engine", "txn", |db, _| {
        boxed(db.txn(&TxnRequest {
            success: vec![RequestOp::Range(all())],
            ..TxnRequest::default()
        }))
    }),
    Case {
        of: "Engine",
        name: "batch",
        revisions: 1,
        before: nothing,
        operation: |db, k| {
            let mut batch = Batch::new();
            batch
                .put(key(k), format!("value-{k}"))
                .put(format!("beside-{k}"), "x");
            let batch = db.batch(&batch);
            boxed(async move { batch.await.all() })
        },
        after: is_there,
    },
    Case {
        of: "Engine",
        name: "snapshot",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.snapshot()),
        // It would wait for ever for a snapshot that was left behind.
        after: |db, _| {
            let compact = db.compact(db.metrics(0).expect("one shard").revision, true);
            Box::pin(async move { compact.await.is_ok() })
        },
    },
    Case {
        of: "Engine",
        name: "compact",
        revisions: 0,
        before: |db, k| Some(put(db, k)),
        operation: |db, _| {
            let now = db.metrics(0).expect("one shard").revision;
            boxed(db.compact(now, true))
        },
        after: |db, _| {
            let old = db.range(&RangeRequest {
                revision: 1,
                ..all()
            });
            Box::pin(async move { old.await.is_err() })
        },
    },
];
