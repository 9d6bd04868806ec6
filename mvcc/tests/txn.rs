//! Transactions as tables: compares, nesting, what their reads see, refusals. Each says what etcd answers.

mod support;

use henge_mvcc::{
    Compare, CompareResult, CompareTarget, Error, PutRequest, RangeRequest, RequestOp, ResponseOp,
    Store, TxnRequest,
};
use support::ops::*;
use support::*;

fn compare<'a>(range: &'a str, result: CompareResult, target: CompareTarget<'a>) -> Compare<'a> {
    Compare {
        range: keys(range),
        result,
        target,
    }
}

#[test]
fn compares() {
    use CompareResult::{Equal, Greater, Less, NotEqual};
    use CompareTarget::{CreateRevision, Lease, ModRevision, Value, Version};
    let store = some_store();
    let table = [
        ("b", Equal, Version(2), true),
        ("b", Greater, Version(1), true),
        ("b", Less, Version(2), false),
        ("b", NotEqual, Version(2), false),
        ("b", Equal, CreateRevision(3), true),
        ("b", Equal, ModRevision(5), true),
        ("b", Equal, Value(b"4"), true),
        ("b", Less, Value(b"40"), true),
        ("b", Equal, Lease(0), true),
        // A missing key is a pair of zeros, but for its value.
        ("x", Equal, Version(0), true),
        ("x", Equal, CreateRevision(0), true),
        ("x", Equal, ModRevision(0), true),
        ("x", Equal, Lease(0), true),
        ("x", Greater, Version(-1), true),
        ("x", Equal, Value(b""), false),
        ("x", NotEqual, Value(b"1"), false),
        // All keys of a range; none is as a missing key.
        ("a..d", Greater, Version(0), true),
        ("a..d", Equal, Version(1), false),
        ("b..", NotEqual, Value(b"9"), true),
        ("x..", Equal, Version(0), true),
        ("x..", NotEqual, Value(b"1"), false),
        ("c..a", Equal, Version(0), true),
    ];
    for (range, result, target, expected) in table {
        let request = TxnRequest {
            compare: vec![compare(range, result, target)],
            ..TxnRequest::default()
        };
        let response = store.txn_read(&request).expect("valid");
        assert_eq!(
            response.succeeded, expected,
            "{range} {result:?} {target:?}"
        );
    }
}

#[test]
fn a_txn_is_one_revision_and_its_reads_see_its_writes() {
    let mut store = some_store();
    let request = success(vec![
        range_op("a.."),
        put_op("d", "6"),
        delete_op("a"),
        range_op("a.."),
        RequestOp::Range(RangeRequest {
            revision: 7,
            ..range_request("a..")
        }),
    ]);
    let response = store.txn(&request).expect("valid");
    assert_eq!(store.revision(), 8);
    let shown: Vec<_> = response
        .responses
        .iter()
        .map(|op| match op {
            ResponseOp::Range(range) => format!("{} ({})", show(range), range.count),
            ResponseOp::Put(_) => "put".into(),
            ResponseOp::DeleteRange(delete) => format!("deleted {}", delete.deleted),
            ResponseOp::Txn(_) => "txn".into(),
        })
        .collect();
    assert_eq!(
        shown,
        [
            "a=1@2 b=4@5 c=5@7 (3)",
            "put",
            "deleted 1",
            "b=4@5 c=5@7 d=6@8 (3)",
            "a=1@2 b=4@5 c=5@7 (3)",
        ]
    );
}

#[test]
fn a_txn_that_changes_nothing_keeps_the_revision() {
    let mut store = some_store();
    let request = success(vec![delete_op("x"), range_op("a")]);
    store.txn(&request).expect("valid");
    assert_eq!(store.revision(), 7);
}

#[test]
fn nested_compares_see_the_state_before_the_whole_txn() {
    let mut store = Store::new();
    let absent = || compare("a", CompareResult::Equal, CompareTarget::Version(0));
    let nested = TxnRequest {
        compare: vec![absent()],
        success: vec![put_op("b", "absent")],
        failure: vec![put_op("b", "present")],
    };
    let request = success(vec![put_op("a", "1"), RequestOp::Txn(Box::new(nested))]);
    let response = store.txn(&request).expect("valid");
    assert_eq!(get(&store, "a.."), "a=1@2 b=absent@2");
    assert!(matches!(&response.responses[1], ResponseOp::Txn(inner) if inner.succeeded));
}

/// etcd #18667: a transaction that reads a compacted revision must fail as a whole.
#[test]
fn regression_18667_a_bad_revision_in_a_txn_fails_it_before_anything_is_applied() {
    let mut store = some_store();
    store.compact(5).expect("possible");
    let at = |revision| {
        RequestOp::Range(RangeRequest {
            revision,
            ..range_request("a")
        })
    };
    let compacted = Err(Error::Compacted {
        requested: 4,
        compacted: 5,
    });
    assert_eq!(
        store.txn(&success(vec![put_op("a", "9"), at(4)])),
        compacted
    );
    let nested = RequestOp::Txn(Box::new(success(vec![at(4)])));
    assert_eq!(
        store.txn(&success(vec![put_op("a", "9"), nested])),
        compacted
    );
    assert_eq!(store.txn_read(&success(vec![at(4)])), compacted);
    // The future begins after the state before the transaction.
    let future = Err(Error::FutureRevision {
        requested: 8,
        current: 7,
    });
    assert_eq!(store.txn(&success(vec![put_op("a", "9"), at(8)])), future);
    assert_eq!((store.revision(), get(&store, "a").as_str()), (7, "a=1@2"));
    // In a transaction a negative revision is a revision.
    assert!(matches!(
        store.txn(&success(vec![at(-2)])),
        Err(Error::Compacted { .. })
    ));
    assert!(store.txn(&success(vec![at(5), at(7), at(0)])).is_ok());
    // The branch not taken is not looked at.
    let other = TxnRequest {
        failure: vec![at(4)],
        ..success(vec![])
    };
    assert!(store.txn(&other).is_ok());
}

#[test]
fn of_several_mistakes_the_first_is_named() {
    let mut store = some_store();
    let keep = PutRequest {
        key: b"missing",
        ignore_value: true,
        lease: 99,
        ..PutRequest::default()
    };
    let future = RangeRequest {
        range: keys("a"),
        revision: 1_000,
        ..RangeRequest::default()
    };
    let mistakes = [
        (RequestOp::Put(keep), Error::LeaseNotFound),
        (
            RequestOp::Range(future),
            Error::FutureRevision {
                requested: 1_000,
                current: store.revision(),
            },
        ),
    ];
    for (first, second) in [(0, 1), (1, 0)] {
        let request = TxnRequest {
            success: vec![mistakes[first].0.clone(), mistakes[second].0.clone()],
            ..TxnRequest::default()
        };
        assert_eq!(store.txn(&request), Err(mistakes[first].1.clone()));
    }
}
