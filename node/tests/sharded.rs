//! Several shards as one engine: routing by order, ranges and watches with a revision per shard, leases.

use std::path::PathBuf;

use henge::api::WatchCreate;
use henge::mvcc::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest};
use henge::{
    Engine, EngineBuilder, HostKind, PutError, PutMistake, RangeError, RangeMistake, Revisions,
    Router, TxnError, TxnMistake, WatchError, WatchMistake,
};

struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A directory of its own beside the build, and an engine description with small logs.
fn scratch(name: &str) -> (Scratch, impl Fn() -> EngineBuilder + use<>) {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let dir = dir.join(format!("sharded-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&dir);
    let builder = {
        let dir = dir.clone();
        move || {
            let wal = henge::wal::Options {
                segment_bytes: 1 << 20,
                ..Default::default()
            };
            Engine::builder(&dir).host(HostKind::Thread).wal(wal)
        }
    };
    (Scratch(dir), builder)
}

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
    let (_dir, builder) = scratch("pages");
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
}

#[test]
fn a_watch_over_shards_goes_on_where_it_was_left() {
    let (_dir, builder) = scratch("watch");
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
            let (_, response) = wait.wait(watcher.next()).expect("response");
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
}

#[test]
fn keys_in_order_stay_together_and_keep_their_split() {
    let (_dir, builder) = scratch("ranges");
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
}

#[test]
fn split_keys_that_make_no_sense_are_refused() {
    let (_dir, builder) = scratch("splits");
    for splits in [vec!["b"], vec!["b", "a"], vec!["", "a"], vec!["a", "a"]] {
        let router = Router::Ranges(splits.iter().map(|split| (*split).into()).collect());
        let refused = builder().shards(3).router(router).open();
        assert!(refused.is_err(), "{splits:?}");
    }
}

#[test]
fn a_lease_lives_in_the_shard_its_id_says() {
    let (_dir, builder) = scratch("lease");
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
}
