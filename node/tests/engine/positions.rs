//! Where a watch over several shards can be resumed, for every way of knowing how far somebody has read:
//! everything, some shards, or nothing.

use std::collections::BTreeSet;

use henge::api::WatchCreate;
use henge::mvcc::{KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest};
use henge::{Batch, Blocking, Engine, Revisions, ShardedWatcher};

use super::host::on_every_host;
use super::small;

const SHARDS: usize = 4;

/// Ways to come by revisions: what each gives, and how it comes by it.
type Way = (&'static str, fn(&Engine, &Blocking) -> Option<Revisions>);

fn span(key: &'static str, end: &'static str) -> RangeRequest<'static> {
    let range = KeyRange {
        key: key.as_bytes(),
        end: end.as_bytes(),
    };
    RangeRequest {
        range,
        ..RangeRequest::default()
    }
}

fn shard_of(key: &str) -> usize {
    henge::engine::route::shard_of(key.as_bytes(), SHARDS)
}

fn advanced(shard: usize, revision: i64) -> Option<Revisions> {
    let mut revisions = Revisions::unknown(SHARDS);
    revisions.advance(shard, revision);
    Some(revisions)
}

fn ways() -> [Way; 14] {
    [
        ("nothing", |_, _| None),
        ("unknown", |_, _| Some(Revisions::unknown(SHARDS))),
        ("below zero", |_, _| {
            Some([-1, 0, -7, 0].into_iter().collect())
        }),
        ("all shards", |_, db| {
            Some(db.revisions().expect("revisions"))
        }),
        ("a range of one key", |_, db| {
            let one = db.range_at(&span("k3", ""), None);
            Some(one.expect("range").revisions)
        }),
        ("a range of everything", |_, db| {
            let all = db.range_at(&span("a", "z"), None);
            Some(all.expect("range").revisions)
        }),
        ("a range at revisions partly known", |_, db| {
            let one = db.range_at(&span("k3", ""), None).expect("range");
            let all = db.range_at(&span("a", "z"), Some(&one.revisions));
            Some(all.expect("range").revisions)
        }),
        ("a snapshot", |_, db| {
            Some(db.snapshot().expect("snapshot").revisions().clone())
        }),
        ("a write's header", |_, db| {
            let put = db.put("k5", "own").expect("put");
            advanced(shard_of("k5"), put.header.revision)
        }),
        ("a transaction's header", |_, db| {
            let put = RequestOp::Put(PutRequest {
                key: b"k6",
                value: b"own",
                ..PutRequest::default()
            });
            let txn = TxnRequest {
                success: vec![put],
                ..TxnRequest::default()
            };
            let header = db.txn(&txn).expect("txn").header;
            advanced(shard_of("k6"), header.revision)
        }),
        ("a batch over some shards", |_, db| {
            let mut batch = Batch::new();
            batch.put("k1", "own").put("k2", "own");
            let mut revisions = Revisions::unknown(SHARDS);
            for part in db.batch(&batch).all().expect("batch") {
                let header = part.result.expect("done");
                revisions.advance(part.shard, header.revision);
            }
            Some(revisions)
        }),
        ("two ranges merged", |_, db| {
            let mut merged = Revisions::unknown(SHARDS);
            for key in ["k1", "k4"] {
                let one = db.range_at(&span(key, ""), None).expect("range");
                for shard in 0..SHARDS {
                    merged.advance(shard, one.revisions.get(shard));
                }
            }
            Some(merged)
        }),
        ("a watcher of one key", |engine, _| {
            let create = WatchCreate {
                key: "k3".into(),
                ..WatchCreate::default()
            };
            let watcher = engine.watch_after(&create, None).expect("watch");
            Some(watcher.revisions().clone())
        }),
        ("what was kept as bytes", |_, db| {
            let one = db.range_at(&span("k3", ""), None).expect("range");
            Some(Revisions::decode(&one.revisions.encode()).expect("round trip"))
        }),
    ]
}

fn watch(engine: &Engine, after: Option<&Revisions>) -> ShardedWatcher {
    let create = WatchCreate {
        key: "k".into(),
        range_end: "l".into(),
        ..WatchCreate::default()
    };
    engine.watch_after(&create, after).expect("watch")
}

/// Sixteen puts, over all shards.
fn puts(db: &Blocking, tag: &str) -> BTreeSet<String> {
    (0..16)
        .map(|number| {
            let value = format!("{tag} {number}");
            db.put(format!("k{number}"), &value).expect("put");
            value
        })
        .collect()
}

/// Reads so many responses, and what they show of these values; each may be shown once.
fn read(db: &Blocking, watcher: &mut ShardedWatcher, responses: usize, seen: &mut Vec<String>) {
    for _ in 0..responses {
        let (_, response) = db
            .wait_for(watcher.next())
            .expect("elsewhere")
            .expect("it runs");
        assert!(!response.canceled, "{response:?}");
        for event in response.events {
            seen.push(String::from_utf8(event.kv.value.to_vec()).expect("text"));
        }
    }
}

/// A watch resumed from revisions that said nothing of some shards began anew there, although their
/// `created` had been read: what was written in between was never shown.
#[test]
fn regression_a_watch_resumed_from_partly_known_revisions_loses_nothing() {
    on_every_host("positions", |dir, host| {
        let engine = small(dir, host)
            .shards(SHARDS)
            .cores(2)
            .open()
            .expect("opens");
        let db = engine.blocking();
        puts(&db, "before");
        for (name, way) in ways() {
            // None of the notes, those of all shards, and some events beside.
            for responses in [0, SHARDS, SHARDS + 3] {
                let tag = format!("{name}, {responses}");
                let after = way(&engine, &db);
                let known = |shard| after.as_ref().is_some_and(|after| after.get(shard) > 0);
                let missed = puts(&db, &format!("{tag}: missed"));
                let mut watcher = watch(&engine, after.as_ref());
                let mut due = puts(&db, &format!("{tag}: watched"));
                let mut seen = Vec::new();
                read(&db, &mut watcher, responses, &mut seen);
                let left = watcher.revisions().clone();
                assert!(
                    (0..SHARDS).all(|shard| left.get(shard) > 0),
                    "{tag}: {left:?}"
                );
                drop(watcher);
                due.extend(puts(&db, &format!("{tag}: away")));
                let key = |value: &str| format!("k{}", value.rsplit(' ').next().unwrap_or(""));
                due.extend(
                    missed
                        .into_iter()
                        .filter(|value| known(shard_of(&key(value)))),
                );
                let mut again = watch(&engine, Some(&left));
                // One more at the end in each shard: then nothing else is to come.
                let ends = puts(&db, &format!("{tag}: end"));
                due.extend(ends.clone());
                while !ends.iter().all(|end| seen.contains(end)) {
                    read(&db, &mut again, 1, &mut seen);
                }
                seen.sort();
                let due: Vec<_> = due.into_iter().collect();
                assert_eq!(seen, due, "{tag}");
            }
        }
        let other = engine.watch_after(&WatchCreate::default(), Some(&Revisions::unknown(3)));
        assert!(other.is_err(), "another number of shards");
    });
}
