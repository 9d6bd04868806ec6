//! etcd's key-value semantics, one table or story per rule (reference: the v3 API documentation and
//! the server's apply code). Names of tests say the rule.

mod support;

use henge_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, Error, PutRequest, RangeRequest,
    RequestOp, ResponseOp, SortOrder, SortTarget, Store, TxnRequest, check,
};
use support::*;

/// a=1@2 b=2@3 c=3@4, then b=4@5, delete c @6, c=5@7.
fn some_store() -> Store {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    put(&mut store, "b", "2");
    put(&mut store, "c", "3");
    put(&mut store, "b", "4");
    delete(&mut store, "c");
    put(&mut store, "c", "5");
    store
}

fn put_op<'a>(key: &'a str, value: &'a str) -> RequestOp<'a> {
    RequestOp::Put(put_request(key, value))
}

fn delete_op(range: &str) -> RequestOp<'_> {
    RequestOp::DeleteRange(DeleteRangeRequest {
        range: keys(range),
        prev_kv: false,
    })
}

fn range_op(range: &str) -> RequestOp<'_> {
    RequestOp::Range(range_request(range))
}

fn compare<'a>(range: &'a str, result: CompareResult, target: CompareTarget<'a>) -> Compare<'a> {
    Compare {
        range: keys(range),
        result,
        target,
    }
}

fn success(ops: Vec<RequestOp<'_>>) -> TxnRequest<'_> {
    TxnRequest {
        success: ops,
        ..TxnRequest::default()
    }
}

#[test]
fn an_empty_store_is_at_revision_1_and_the_first_write_makes_2() {
    let mut store = Store::new();
    assert_eq!(store.revision(), 1);
    assert_eq!(store.compacted_revision(), -1);
    assert_eq!(get(&store, "a.."), "");
    assert_eq!(put(&mut store, "a", "1"), 2);
}

#[test]
fn range_ends_mean_what_etcd_says() {
    let store = some_store();
    let table = [
        ("a", "a=1@2"),
        ("x", ""),
        ("a..c", "a=1@2 b=4@5"),
        ("b..", "b=4@5 c=5@7"),
        ("\0..", "a=1@2 b=4@5 c=5@7"),
        ("a..a", ""),
        ("c..a", ""),
        ("aa..bb", "b=4@5"),
    ];
    for (range, expected) in table {
        assert_eq!(get(&store, range), expected, "{range:?}");
        let counted = RangeRequest {
            count_only: true,
            ..range_request(range)
        };
        let response = store.range(&counted).expect("valid");
        let count = expected.split_whitespace().count() as i64;
        assert_eq!(
            (response.count, response.kvs.len(), response.more),
            (count, 0, false)
        );
    }
    assert_eq!(store.range(&RangeRequest::default()), Err(Error::EmptyKey));
}

#[test]
fn reading_at_a_revision_is_the_snapshot() {
    let store = some_store();
    let table = [
        (1, ""),
        (2, "a=1@2"),
        (4, "a=1@2 b=2@3 c=3@4"),
        (5, "a=1@2 b=4@5 c=3@4"),
        (6, "a=1@2 b=4@5"),
        (7, "a=1@2 b=4@5 c=5@7"),
        (0, "a=1@2 b=4@5 c=5@7"),
        (-3, "a=1@2 b=4@5 c=5@7"),
    ];
    for (revision, expected) in table {
        assert_eq!(get_at(&store, "a..", revision), expected, "at {revision}");
        let request = RangeRequest {
            revision,
            count_only: true,
            ..range_request("a..")
        };
        let count = store.range(&request).expect("readable").count;
        assert_eq!(
            count,
            expected.split_whitespace().count() as i64,
            "count at {revision}"
        );
    }
    let future = RangeRequest {
        revision: 8,
        ..range_request("a")
    };
    assert_eq!(
        store.range(&future),
        Err(Error::FutureRevision {
            requested: 8,
            current: 7
        })
    );
}

#[test]
fn versions_and_create_revisions_count_within_a_generation() {
    let store = some_store();
    let pair = |key| store.range(&range_request(key)).expect("valid").kvs[0].clone();
    let b = pair("b");
    assert_eq!(
        (b.create_revision, b.mod_revision, b.version, b.lease),
        (3, 5, 2, 0)
    );
    // c was deleted in between: its version begins anew.
    let c = pair("c");
    assert_eq!((c.create_revision, c.mod_revision, c.version), (7, 7, 1));
}

#[test]
fn limit_more_and_count() {
    let store = some_store();
    let limited = |limit| RangeRequest {
        limit,
        ..range_request("a..")
    };
    for (limit, kvs, more) in [
        (0, 3, false),
        (-1, 3, false),
        (1, 1, true),
        (2, 2, true),
        (3, 3, false),
        (9, 3, false),
    ] {
        let response = store.range(&limited(limit)).expect("valid");
        assert_eq!(
            (response.kvs.len(), response.more, response.count),
            (kvs, more, 3),
            "{limit}"
        );
        let old = store
            .range(&RangeRequest {
                revision: 7,
                ..limited(limit)
            })
            .expect("readable");
        assert_eq!(old, response);
    }
}

#[test]
fn sorts() {
    let mut store = Store::new();
    for (key, value) in [("a", "z"), ("b", "x"), ("c", "y"), ("a", "zz"), ("b", "w")] {
        put(&mut store, key, value);
    }
    // a=zz@5 v2, b=w@6 v2, c=y@4 v1
    use SortOrder::{Ascend, Descend, None};
    let table = [
        (Ascend, SortTarget::Key, "a=zz@5 b=w@6 c=y@4"),
        (Descend, SortTarget::Key, "c=y@4 b=w@6 a=zz@5"),
        (None, SortTarget::Key, "a=zz@5 b=w@6 c=y@4"),
        (Ascend, SortTarget::Version, "c=y@4 a=zz@5 b=w@6"),
        (Descend, SortTarget::Create, "c=y@4 b=w@6 a=zz@5"),
        (Ascend, SortTarget::Mod, "c=y@4 a=zz@5 b=w@6"),
        (Descend, SortTarget::Mod, "b=w@6 a=zz@5 c=y@4"),
        (Ascend, SortTarget::Value, "b=w@6 c=y@4 a=zz@5"),
        (None, SortTarget::Value, "b=w@6 c=y@4 a=zz@5"),
    ];
    for (sort_order, sort_target, expected) in table {
        let request = RangeRequest {
            sort_order,
            sort_target,
            ..range_request("a..")
        };
        assert_eq!(show(&store.range(&request).expect("valid")), expected);
        let request = RangeRequest {
            limit: 2,
            ..request
        };
        let response = store.range(&request).expect("valid");
        assert!(response.more);
        assert_eq!(response.count, 3);
        if sort_order != None || sort_target == SortTarget::Key {
            let first: Vec<_> = expected.split(' ').take(2).collect();
            assert_eq!(
                show(&response),
                first.join(" "),
                "limit applies after the sort"
            );
        }
    }
}

#[test]
fn quirk_order_none_with_a_target_sorts_only_the_first_limit_plus_one_keys() {
    let mut store = Store::new();
    for (key, value) in [("a", "4"), ("b", "3"), ("c", "2"), ("d", "1")] {
        put(&mut store, key, value);
    }
    let request = RangeRequest {
        sort_target: SortTarget::Value,
        limit: 1,
        ..range_request("a..")
    };
    // a and b are fetched, b has the lesser value; the least of all would be d.
    assert_eq!(show(&store.range(&request).expect("valid")), "b=3@3");
    let sorted = RangeRequest {
        sort_order: SortOrder::Ascend,
        ..request
    };
    assert_eq!(show(&store.range(&sorted).expect("valid")), "d=1@5");
}

#[test]
fn filters_drop_pairs_but_do_not_change_the_count() {
    let store = some_store();
    let all = range_request("a..");
    let table = [
        (
            RangeRequest {
                min_mod_revision: 5,
                ..all.clone()
            },
            "b=4@5 c=5@7",
        ),
        (
            RangeRequest {
                max_mod_revision: 5,
                ..all.clone()
            },
            "a=1@2 b=4@5",
        ),
        (
            RangeRequest {
                min_create_revision: 3,
                ..all.clone()
            },
            "b=4@5 c=5@7",
        ),
        (
            RangeRequest {
                max_create_revision: 2,
                ..all.clone()
            },
            "a=1@2",
        ),
        (
            RangeRequest {
                min_mod_revision: 3,
                max_mod_revision: 6,
                ..all.clone()
            },
            "b=4@5",
        ),
    ];
    for (request, expected) in table {
        let response = store.range(&request).expect("valid");
        assert_eq!((show(&response).as_str(), response.count), (expected, 3));
        let limited = RangeRequest {
            limit: 1,
            ..request
        };
        let response = store.range(&limited).expect("valid");
        assert_eq!(show(&response), expected.split(' ').next().expect("one"));
        assert_eq!(
            response.more,
            expected.contains(' '),
            "the limit counts what passed"
        );
    }
}

#[test]
fn keys_only_strips_values_after_sorting() {
    let mut store = some_store();
    store.lease_grant(9, 60, 0).expect("new");
    store
        .put(&PutRequest {
            lease: 9,
            ..put_request("d", "0")
        })
        .expect("valid");
    let request = RangeRequest {
        keys_only: true,
        sort_order: SortOrder::Ascend,
        sort_target: SortTarget::Value,
        ..range_request("a..")
    };
    let response = store.range(&request).expect("valid");
    assert_eq!(show(&response), "d=@8 a=@2 b=@5 c=@7");
    assert_eq!(response.kvs[0].lease, 9);
}

#[test]
fn put_gives_back_the_previous_pair_when_asked() {
    let mut store = some_store();
    let request = PutRequest {
        prev_kv: true,
        ..put_request("b", "6")
    };
    let before = store
        .put(&request)
        .expect("valid")
        .prev_kv
        .expect("b was there");
    assert_eq!(
        (&before.value[..], before.mod_revision, before.version),
        (&b"4"[..], 5, 2)
    );
    assert_eq!(
        store.put(&put_request("b", "7")).expect("valid").prev_kv,
        None
    );
    delete(&mut store, "b");
    assert_eq!(store.put(&request).expect("valid").prev_kv, None);
}

#[test]
fn each_put_makes_a_revision_even_with_the_same_value() {
    let mut store = Store::new();
    assert_eq!(put(&mut store, "a", "1"), 2);
    assert_eq!(put(&mut store, "a", "1"), 3);
    assert_eq!(
        store.range(&range_request("a")).expect("valid").kvs[0].version,
        2
    );
}

#[test]
fn ignore_value_and_ignore_lease_need_the_key() {
    let mut store = Store::new();
    store.lease_grant(7, 60, 0).expect("new");
    let ignore_value = PutRequest {
        ignore_value: true,
        lease: 7,
        ..put_request("a", "")
    };
    let ignore_lease = PutRequest {
        ignore_lease: true,
        ..put_request("a", "2")
    };
    for request in [&ignore_value, &ignore_lease] {
        assert_eq!(store.put(request), Err(Error::KeyNotFound));
    }
    assert_eq!(store.revision(), 1);
    put(&mut store, "a", "1");
    store.put(&ignore_value).expect("a is there");
    let pair = |store: &Store| store.range(&range_request("a")).expect("valid").kvs[0].clone();
    assert_eq!(
        (&pair(&store).value[..], pair(&store).lease),
        (&b"1"[..], 7)
    );
    store.put(&ignore_lease).expect("a is there");
    assert_eq!(
        (&pair(&store).value[..], pair(&store).lease),
        (&b"2"[..], 7)
    );
    delete(&mut store, "a");
    for request in [&ignore_value, &ignore_lease] {
        assert_eq!(
            store.put(request),
            Err(Error::KeyNotFound),
            "deleted is missing"
        );
    }
}

#[test]
fn an_unknown_lease_is_refused() {
    let mut store = Store::new();
    let request = PutRequest {
        lease: 5,
        ..put_request("a", "1")
    };
    assert_eq!(store.put(&request), Err(Error::LeaseNotFound));
    assert_eq!(
        store.txn(&success(vec![RequestOp::Put(request)])),
        Err(Error::LeaseNotFound)
    );
    assert_eq!(store.revision(), 1);
}

#[test]
fn delete_counts_and_bumps_only_if_it_deleted() {
    let mut store = some_store();
    assert_eq!((delete(&mut store, "x..z"), store.revision()), (0, 7));
    let request = DeleteRangeRequest {
        range: keys("a..c"),
        prev_kv: true,
    };
    let response = store.delete_range(&request).expect("valid");
    assert_eq!((response.deleted, store.revision()), (2, 8));
    let before: Vec<_> = response.prev_kvs.iter().map(|kv| &kv.value[..]).collect();
    assert_eq!(before, [b"1", b"4"]);
    assert_eq!(get(&store, "a.."), "c=5@7");
    assert_eq!(delete(&mut store, "a..c"), 0);
    assert_eq!(
        store.delete_range(&DeleteRangeRequest::default()),
        Err(Error::EmptyKey)
    );
    assert_eq!(delete(&mut store, "\0.."), 1);
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
fn unchecked_requests_do_not_panic() {
    let mut store = some_store();
    let odd = success(vec![
        put_op("e", "1"),
        put_op("e", "2"),
        delete_op("e"),
        put_op("e", "3"),
        delete_op("a.."),
        put_op("a", "4"),
    ]);
    assert_eq!(
        check::txn(&odd, &check::Limits::default()),
        Err(Error::DuplicateKey)
    );
    store.txn(&odd).expect("applied in order");
    assert_eq!(get(&store, "a.."), "a=4@8");
    assert_eq!(get_at(&store, "a..", 7), "a=1@2 b=4@5 c=5@7");
    store.compact(8).expect("possible");
    compact_all(&mut store);
    put(&mut store, "z", "1");
    store.compact(9).expect("possible");
    compact_all(&mut store);
    assert_eq!(get(&store, "a.."), "a=4@8 z=1@9");
    assert_eq!(store.stats().keys_held, 2);
    let mut deep = success(vec![]);
    for _ in 0..1_000 {
        deep = success(vec![RequestOp::Txn(Box::new(deep))]);
    }
    assert_eq!(store.txn(&deep), Err(Error::TooManyOps));
    assert_eq!(
        store.txn_read(&success(vec![put_op("a", "1")])),
        Err(Error::KeyNotFound)
    );
    let empty = [range_op(""), put_op("", ""), delete_op("")];
    for op in empty {
        assert_eq!(
            store.txn(&success(vec![put_op("a", "5"), op])),
            Err(Error::EmptyKey)
        );
    }
    let nothing = PutRequest {
        ignore_value: true,
        lease: 0,
        ..put_request("a", "ignored")
    };
    store.put(&nothing).expect("the given value is ignored");
    assert_eq!(get(&store, "a"), "a=4@10");
}

#[test]
fn long_binary_and_empty_values_round_trip() {
    let mut store = Store::new();
    let long = vec![0xa5; 3 << 20];
    let key: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    for value in [&long[..], b"", b"\0"] {
        let request = PutRequest {
            key: &key,
            value,
            ..PutRequest::default()
        };
        store.put(&request).expect("valid");
    }
    let range = henge_mvcc::KeyRange::one(&key);
    for (revision, value) in [(2, &long[..]), (3, b""), (4, b"\0")] {
        let request = RangeRequest {
            range,
            revision,
            ..RangeRequest::default()
        };
        assert_eq!(store.range(&request).expect("readable").kvs[0].value, value);
    }
}

/// A page of an old revision counts through the revision log; all of it counts by walking.
#[test]
fn counts_of_old_revisions_agree_however_they_are_found() {
    let mut store = Store::new();
    for n in 0..9_000 {
        put(&mut store, &format!("k{:05}", n * 2), "v");
    }
    let mut dice = Dice::new(7);
    for _ in 0..1_200 {
        let n = dice.below(18_000);
        let (key, end) = (format!("k{n:05}"), format!("k{:05}", n + 50));
        match dice.below(4) {
            0 => drop(delete(&mut store, &key)),
            1 if dice.one_in(10) => drop(delete(&mut store, &format!("{key}..{end}"))),
            2 => {
                let ops = vec![put_op(&key, "w"), delete_op(&end)];
                let txn = success(ops);
                if check::txn(&txn, &check::Limits::default()).is_ok() {
                    store.txn(&txn).expect("valid");
                }
            }
            _ => drop(put(&mut store, &key, "w")),
        }
    }
    store.compact(9_500).expect("possible");
    compact_all(&mut store);
    for (range, back) in [
        ("k..", 0),
        ("k..", 1),
        ("k..", 50),
        ("k..", 400),
        ("k02..k15", 77),
    ] {
        let revision = store.revision() - back;
        let all = store
            .range(&RangeRequest {
                revision,
                ..range_request(range)
            })
            .expect("readable");
        let page = RangeRequest {
            revision,
            limit: 3,
            ..range_request(range)
        };
        let page = store.range(&page).expect("readable");
        assert!(page.more);
        assert_eq!(page.kvs[..], all.kvs[..3]);
        assert_eq!(
            (page.count, all.count),
            (all.kvs.len() as i64, all.kvs.len() as i64)
        );
        let counted = RangeRequest {
            revision,
            count_only: true,
            ..range_request(range)
        };
        assert_eq!(store.range(&counted).expect("readable").count, all.count);
    }
}
