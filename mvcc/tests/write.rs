//! Puts and deletes as tables: revisions, versions, previous pairs, refusals. Each says what etcd answers.

mod support;

use henge_mvcc::{DeleteRangeRequest, Error, PutRequest, RangeRequest, RequestOp, Store, check};
use support::ops::*;
use support::*;

#[test]
fn an_empty_store_is_at_revision_1_and_the_first_write_makes_2() {
    let mut store = Store::new();
    assert_eq!(store.revision(), 1);
    assert_eq!(store.compacted_revision(), -1);
    assert_eq!(get(&store, "a.."), "");
    assert_eq!(put(&mut store, "a", "1"), 2);
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
