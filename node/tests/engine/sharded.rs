//! Several shards as one engine: routing by order, ranges and watches with a revision per shard, leases.
//!
//! What the engine promises of several shards, and the test that fails if it is not so:
//!
//! | promise | test |
//! |---|---|
//! | operations on a key are linearizable in its shard, whatever fails | henge-tests `no_seed_breaks_a_shards_promise_on_any_number_of_cores`, `--bin crash -- --embedded-shards` |
//! | a transaction stays in a shard; else the error names two keys | `keys_in_order_stay_together_and_keep_their_split`, `a_crossing_transaction_is_refused_by_both_keys` |
//! | ranges merge in key order: limit, order, keys only, count | `twin.rs`, against one shard |
//! | the same at a revision of each shard, and its hash, over restarts and other numbers of cores | `twin.rs`, `pages_read_at_a_revision_of_each_shard_see_one_state` |
//! | what cannot be merged is refused | `what_has_no_order_over_shards_is_refused` |
//! | a watch goes on where it was left | `a_watch_over_shards_goes_on_where_it_was_left`, `a_watch_goes_on_over_restarts_with_other_numbers_of_cores` |
//! | compaction is each shard's own | `compaction_goes_as_far_in_each_shard_as_it_is_told` |

use henge::api::WatchCreate;
use henge::mvcc::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest};
use henge::{
    PutError, PutMistake, RangeError, RangeMistake, Revisions, Router, TxnError, TxnMistake,
    WatchError, WatchMistake,
};

use super::host::on_every_host;
use super::small;

fn span<'a>(key: &'a [u8], end: &'a [u8]) -> RangeRequest<'a> {
    RangeRequest {
        range: KeyRange { key, end },
        ..Default::default()
    }
}

fn keys(kvs: &[henge::mvcc::KeyValue]) -> Vec<&str> {
    kvs.iter()
        .map(|kv| std::str::from_utf8(&kv.key).expect("text"))
        .collect()
}

#[test]
fn pages_read_at_a_revision_of_each_shard_see_one_state() {
    on_every_host("pages", |dir, host| {
        let builder = || small(dir, host);
        let engine = builder().cores(2).shards(5).open().expect("opens");
        let wait = engine.blocking();
        for number in 0..40 {
            wait.put(format!("k{number:02}"), "old").expect("put");
        }
        let request = RangeRequest {
            limit: 15,
            ..span(b"k", b"l")
        };
        let first = wait.wait(engine.range_at(&request, None)).expect("range");
        assert!(first.body.more);
        assert_eq!((first.body.count, first.body.kvs.len()), (40, 15));
        for number in 0..40 {
            wait.put(format!("k{number:02}"), "new").expect("put");
            wait.put(format!("k{number:02}-more"), "new").expect("put");
        }
        let at = Revisions::decode(&first.revisions.encode()).expect("round trip");
        let mut all = first.body.kvs;
        while all.len() < 40 {
            let next = [&all[all.len() - 1].key[..], b"\0"].concat();
            let request = RangeRequest {
                limit: 15,
                ..span(&next, b"l")
            };
            let page = wait
                .wait(engine.range_at(&request, Some(&at)))
                .expect("page");
            assert_eq!(page.revisions, at);
            all.extend(page.body.kvs);
        }
        let expected: Vec<_> = (0..40).map(|number| format!("k{number:02}")).collect();
        assert_eq!(keys(&all), expected);
        assert!(all.iter().all(|kv| kv.value == "old"));

        let now = wait.wait(engine.revisions()).expect("revisions");
        assert!(now.covers(&at) && !at.covers(&now));
        let before = wait.wait(engine.hashes(Some(&at))).expect("hashes");
        assert_eq!(wait.wait(engine.hashes(Some(&at))).expect("hashes"), before);
        wait.wait(engine.compact_to(&now, true)).expect("compacts");
        wait.wait(engine.compact_to(&now, true))
            .expect("twice is no error");
        let gone = wait.wait(engine.range_at(&span(b"k", b"l"), Some(&at)));
        assert_eq!(
            gone.expect_err("compacted").to_string(),
            "mvcc: required revision has been compacted"
        );
        let other = wait.wait(engine.range_at(&span(b"k", b"l"), Some(&Revisions::unknown(3))));
        assert_eq!(
            other,
            Err(RangeError::Caller(RangeMistake::OtherShards {
                given: 3,
                shards: 5
            }))
        );
    });
}

#[test]
fn a_watch_over_shards_goes_on_where_it_was_left() {
    on_every_host("watch", |dir, host| {
        let builder = || small(dir, host);
        let engine = builder().cores(2).shards(4).open().expect("opens");
        let wait = engine.blocking();
        let create = WatchCreate {
            key: "k".into(),
            range_end: "l".into(),
            ..Default::default()
        };
        let mut seen = Vec::new();
        let mut left: Option<Revisions> = None;
        for round in 0..5 {
            // Between two watches, and during the second.
            let put = |part: &str| {
                for number in 0..20 {
                    let key = format!("k-{round}-{part}-{number}");
                    wait.put(key, "v").expect("put");
                }
            };
            if left.is_some() {
                put("before");
            }
            let mut watcher = engine.watch_after(&create, left.as_ref()).expect("watches");
            let mut created = 0;
            let wanted = seen.len() + if left.is_some() { 40 } else { 20 };
            while created < 4 || seen.len() < wanted {
                let (_, response) = wait
                    .wait_for(watcher.next())
                    .expect("elsewhere")
                    .expect("response");
                if response.created {
                    created += 1;
                    if created == 4 {
                        put("during");
                    }
                }
                seen.extend(response.events.into_iter().map(|event| event.kv.key));
            }
            left = Some(watcher.revisions().clone());
        }
        let distinct: std::collections::BTreeSet<_> = seen.iter().collect();
        assert_eq!(
            (distinct.len(), seen.len()),
            (180, 180),
            "missed or repeated"
        );
        let refused = engine.watch_after(
            &WatchCreate {
                start_revision: 3,
                ..create
            },
            None,
        );
        assert!(matches!(
            refused,
            Err(WatchError::Caller(WatchMistake::OneShardOnly { .. }))
        ));
    });
}

#[test]
fn keys_in_order_stay_together_and_keep_their_split() {
    on_every_host("ranges", |dir, host| {
        let builder = || small(dir, host);
        let splits =
            |at: &[&'static str]| Router::Ranges(at.iter().map(|split| (*split).into()).collect());
        let open = || builder().shards(3).cores(2).router(splits(&["g", "p"]));
        let engine = open().open().expect("opens");
        let wait = engine.blocking();
        for key in ["a", "f", "g", "h", "p", "z"] {
            wait.put(key, "v").expect("put");
        }
        // Work within one part of the order is one shard's.
        let delete = DeleteRangeRequest {
            range: KeyRange {
                key: b"g",
                end: b"ga",
            },
            prev_kv: false,
        };
        let put = |key| {
            RequestOp::Put(PutRequest {
                key,
                value: b"2",
                ..Default::default()
            })
        };
        let txn = TxnRequest {
            success: vec![RequestOp::DeleteRange(delete), put(b"ga"), put(b"o")],
            ..Default::default()
        };
        assert!(wait.txn(&txn).expect("one shard").body.succeeded);
        let crossing = TxnRequest {
            success: vec![put(b"o"), put(b"p")],
            ..Default::default()
        };
        assert_eq!(
            wait.txn(&crossing),
            Err(TxnError::Caller(TxnMistake::CrossShard {
                first: "o".into(),
                other: "p".into()
            }))
        );
        let found = wait.range(&span(b"\0", b"\0")).expect("range").body;
        assert_eq!(keys(&found.kvs), ["a", "f", "ga", "h", "o", "p", "z"]);
        let touched = wait
            .wait(engine.range_at(&span(b"ga", b"p"), None))
            .expect("range");
        assert_eq!((touched.revisions.get(0), touched.revisions.get(2)), (0, 0));
        assert_eq!(keys(&touched.body.kvs), ["ga", "h", "o"]);
        drop((wait, engine));

        let refused = builder()
            .router(splits(&["g", "q"]))
            .open()
            .expect_err("refused");
        let refused = refused.to_string();
        assert!(
            refused.contains("\"p\"") && refused.contains("\"q\""),
            "{refused}"
        );
        let engine = builder().cores(1).open().expect("opens as it was made");
        let found = engine
            .blocking()
            .range(&span(b"g", b"p"))
            .expect("range")
            .body;
        assert_eq!(found.count, 3);
    });
}

#[test]
fn split_keys_that_make_no_sense_are_refused() {
    on_every_host("splits", |dir, host| {
        let builder = || small(dir, host);
        for splits in [vec!["b"], vec!["b", "a"], vec!["", "a"], vec!["a", "a"]] {
            let router = Router::Ranges(splits.iter().map(|split| (*split).into()).collect());
            let refused = builder().shards(3).router(router).open();
            assert!(refused.is_err(), "{splits:?}");
        }
    });
}

#[test]
fn a_lease_lives_in_the_shard_its_id_says() {
    on_every_host("lease", |dir, host| {
        let builder = || small(dir, host);
        let engine = builder().cores(2).shards(4).open().expect("opens");
        let wait = engine.blocking();
        let mut ids = std::collections::BTreeSet::new();
        for number in 0..20 {
            let key = format!("k{number}");
            let lease = wait
                .wait(engine.lease_grant_for(&key, 100))
                .expect("grant")
                .body
                .id;
            assert!(lease > 0 && ids.insert(lease));
            let put = |key, lease| {
                let request = PutRequest {
                    key,
                    value: b"v",
                    lease,
                    ..Default::default()
                };
                wait.wait(engine.put_with(&request))
            };
            put(key.as_bytes(), lease).expect("put");
            assert!(matches!(
                put(key.as_bytes(), lease + 1),
                Err(PutError::Caller(PutMistake::LeaseElsewhere { .. }))
            ));
            assert_eq!(
                wait.wait(engine.lease_keep_alive(lease))
                    .expect("renew")
                    .body,
                100
            );
            let ttl = wait
                .wait(engine.lease_time_to_live(lease, true))
                .expect("ttl")
                .body;
            assert_eq!(ttl.keys, [key.as_bytes()]);
            if number % 2 == 0 {
                wait.wait(engine.lease_revoke(lease)).expect("revoke");
                assert_eq!(wait.get(&key).expect("get"), None);
            }
        }
        let own = wait
            .wait(engine.lease_grant(7, 100))
            .expect("the caller's own id");
        assert_eq!(own.body.id, 7);
    });
}

#[test]
fn a_crossing_transaction_is_refused_by_both_keys() {
    on_every_host("crossing", |dir, host| {
        let builder = || small(dir, host);
        let engine = builder().shards(8).open().expect("opens");
        let wait = engine.blocking();
        let key = |number: u64| format!("k{number}").into_bytes();
        let shard = |key: &[u8]| henge::engine::route::shard_of(key, 8);
        let home = key(0);
        fn put(key: &[u8]) -> RequestOp<'_> {
            RequestOp::Put(PutRequest {
                key,
                value: b"v",
                ..Default::default()
            })
        }
        let (mut together, mut apart) = (0, 0);
        for number in 1..60 {
            let other = key(number);
            let txn = TxnRequest {
                success: vec![put(&home), put(&other)],
                ..Default::default()
            };
            match wait.txn(&txn) {
                Ok(_) => {
                    assert_eq!(shard(&home), shard(&other));
                    together += 1;
                }
                Err(error) => {
                    assert_ne!(shard(&home), shard(&other));
                    let expected = TxnMistake::CrossShard {
                        first: home.clone().into(),
                        other: other.clone().into(),
                    };
                    assert_eq!(error, TxnError::Caller(expected));
                    assert!(error.to_string().contains(&format!("k{number}")), "{error}");
                    assert_eq!(wait.get(&other).expect("get"), None, "nothing was done");
                    apart += 1;
                }
            }
        }
        assert!(together > 0 && apart > 0);
    });
}

#[test]
fn what_has_no_order_over_shards_is_refused() {
    on_every_host("orders", |dir, host| {
        let builder = || small(dir, host);
        let engine = builder().shards(3).open().expect("opens");
        let wait = engine.blocking();
        let one_shard_only = |answer| {
            matches!(
                answer,
                Err(RangeError::Caller(RangeMistake::OneShardOnly { .. }))
            )
        };
        let past = RangeRequest {
            revision: 1,
            ..span(b"a", b"z")
        };
        assert!(one_shard_only(wait.range(&past).map(|_| ())));
        let by_value = RangeRequest {
            sort_target: henge::mvcc::SortTarget::Value,
            ..span(b"a", b"z")
        };
        assert!(one_shard_only(wait.range(&by_value).map(|_| ())));
        assert!(one_shard_only(
            wait.wait(engine.range_at(&by_value, None)).map(|_| ())
        ));
        // One key is one shard's, and may be asked for as in etcd.
        wait.put("a", "v").expect("put");
        let now = wait.get("a").expect("get").expect("there").mod_revision;
        let one = RangeRequest {
            revision: now,
            ..span(b"a", b"")
        };
        assert_eq!(wait.range(&one).expect("range").body.count, 1);
    });
}

#[test]
fn compaction_goes_as_far_in_each_shard_as_it_is_told() {
    on_every_host("compact", |dir, host| {
        let builder = || small(dir, host);
        let engine = builder().shards(3).cores(2).open().expect("opens");
        let wait = engine.blocking();
        for round in 0..4 {
            for number in 0..30 {
                wait.put(format!("k{number}"), round.to_string())
                    .expect("put");
            }
        }
        let now = wait.wait(engine.revisions()).expect("revisions");
        let target: Revisions = [now.get(0), 0, now.get(2) - 5].into_iter().collect();
        wait.wait(engine.compact_to(&target, true))
            .expect("compacts");
        // A vector that one shard cannot serve any more is refused; one at the edge is not.
        let read = |at: &Revisions| wait.wait(engine.range_at(&span(b"k", b"l"), Some(at)));
        let edge: Revisions = [target.get(0), 2, target.get(2)].into_iter().collect();
        assert!(read(&edge).is_ok());
        for (first, last) in [(0, 1), (1, 0)] {
            let beyond = [target.get(0) - first, 2, target.get(2) - last];
            assert!(matches!(
                read(&beyond.into_iter().collect()),
                Err(RangeError::Caller(RangeMistake::Compacted { .. }))
            ));
        }
    });
}

#[test]
fn a_watch_goes_on_over_restarts_with_other_numbers_of_cores() {
    on_every_host("resume", |dir, host| {
        let builder = || small(dir, host);
        let create = WatchCreate {
            key: "k".into(),
            range_end: "l".into(),
            ..Default::default()
        };
        let mut kept = None;
        let mut seen = Vec::new();
        let mut written = 0;
        for cores in [2, 1, 3, 2] {
            let engine = match kept {
                None => builder().shards(6).cores(cores).open(),
                Some(_) => builder().cores(cores).open(),
            };
            let engine = engine.expect("opens");
            let wait = engine.blocking();
            let mut put = |count: usize| {
                for _ in 0..count {
                    wait.put(format!("k{written:03}"), "v").expect("put");
                    written += 1;
                }
            };
            // Before it watches again, after, and more than it reads.
            if kept.is_some() {
                put(15);
            }
            let after = kept
                .as_ref()
                .map(|bytes: &bytes::Bytes| Revisions::decode(bytes).expect("as it was encoded"));
            let mut watcher = engine
                .watch_after(&create, after.as_ref())
                .expect("watches");
            let mut created = 0;
            while created < 6 {
                let (_, response) = wait
                    .wait_for(watcher.next())
                    .expect("elsewhere")
                    .expect("response");
                created += usize::from(response.created);
                seen.extend(response.events.into_iter().map(|event| event.kv.key));
            }
            put(30);
            while seen.len() < written - 10 {
                let (_, response) = wait
                    .wait_for(watcher.next())
                    .expect("elsewhere")
                    .expect("response");
                seen.extend(response.events.into_iter().map(|event| event.kv.key));
            }
            kept = Some(watcher.revisions().encode());
            wait.stop();
        }
        let engine = builder().cores(1).open().expect("opens");
        let after = Revisions::decode(&kept.expect("it was kept")).expect("as it was encoded");
        let mut watcher = engine.watch_after(&create, Some(&after)).expect("watches");
        while seen.len() < written {
            let (_, response) = engine
                .blocking()
                .wait_for(watcher.next())
                .expect("elsewhere")
                .expect("response");
            seen.extend(response.events.into_iter().map(|event| event.kv.key));
        }
        let expected: std::collections::BTreeSet<_> =
            (0..written).map(|number| format!("k{number:03}")).collect();
        let found: std::collections::BTreeSet<_> = seen
            .iter()
            .map(|key| String::from_utf8_lossy(key).into_owned())
            .collect();
        assert_eq!(found, expected, "missed");
        assert_eq!(seen.len(), written, "repeated");
    });
}
