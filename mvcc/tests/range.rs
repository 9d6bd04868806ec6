//! Reads as tables: ends, revisions, limits, sorts, filters, counts. Each says what etcd answers.

mod support;

use henge_mvcc::{Error, PutRequest, RangeRequest, SortOrder, SortTarget, Store, check};
use support::ops::*;
use support::*;

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
