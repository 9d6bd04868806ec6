//! Snapshots: everything at one revision per shard, whatever happens meanwhile, and nothing left behind.

use std::collections::BTreeMap;
use std::path::Path;

use henge::api::WatchCreate;
use henge::mvcc::{KeyRange, RangeRequest};
use henge::{Blocking, Engine, RangeError, Unavailable};

use super::host::{Host, on_every_host};
use super::small;

const KEYS: usize = 5_000;

fn open(dir: &Path, host: Host, shards: usize) -> Engine {
    small(dir, host).shards(shards).open().expect("opens")
}

fn fill(db: &Blocking, value: &str) {
    let mut batch = henge::Batch::new();
    for number in 0..KEYS {
        batch.put(format!("key-{number:05}"), value);
    }
    db.batch(&batch).all().expect("filled");
}

#[test]
fn it_shows_each_shard_at_its_revision_while_everything_changes() {
    on_every_host("snapshot", |dir, host| {
        let engine = open(dir, host, 3);
        let db = engine.blocking();
        fill(&db, "then");
        let snapshot = db.snapshot().expect("begins");
        let at = snapshot.revisions().clone();
        assert_eq!(Ok(at.clone()), db.wait(engine.revisions()));

        let (mut found, mut last) = (BTreeMap::new(), (0, Vec::new()));
        for (number, piece) in db.iter(snapshot).expect("elsewhere").enumerate() {
            let piece = piece.expect("a piece");
            assert!((1..=1_000).contains(&piece.kvs.len()));
            for kv in piece.kvs {
                assert_eq!(kv.value, "then");
                let place = (piece.shard, kv.key.to_vec());
                assert!(place > last, "{place:?} after {last:?}");
                last = place;
                found.insert(kv.key, kv.mod_revision);
            }
            // All of it is overwritten and deleted, and its history compacted, while it is read.
            match number {
                0 => fill(&db, "later"),
                1 => {
                    db.delete("key-04999").expect("delete");
                    let now = db.wait(engine.revisions()).expect("revisions");
                    db.wait(engine.compact_to(&now, false)).expect("compact");
                }
                _ => {}
            }
        }
        assert_eq!(found.len(), KEYS);
        let newest = found.values().max().copied();
        assert_eq!(newest, (0..3).map(|shard| at.get(shard)).max());
    });
}

#[test]
fn what_it_shows_and_a_watch_after_it_are_everything() {
    on_every_host("snapshot-watch", |dir, host| {
        let engine = open(dir, host, 4);
        let db = engine.blocking();
        fill(&db, "then");
        let mut snapshot = db.snapshot().expect("begins");
        for number in 0..KEYS / 2 {
            drop(engine.put(format!("key-{:05}", number * 3 % KEYS), number.to_string()));
        }
        let mut state = BTreeMap::new();
        while let Some(piece) = db.wait_for(snapshot.next()).expect("elsewhere") {
            let kvs = piece.expect("a piece").kvs;
            state.extend(kvs.into_iter().map(|kv| (kv.key, kv.value)));
        }
        let create = WatchCreate {
            key: b"\0"[..].into(),
            range_end: b"\0"[..].into(),
            ..WatchCreate::default()
        };
        let watch = engine.watch_after(&create, Some(snapshot.revisions()));
        let events = db
            .iter(watch.expect("begins"))
            .expect("elsewhere")
            .flat_map(|(_, r)| r.events);
        for event in events.take(KEYS / 2) {
            state.insert(event.kv.key, event.kv.value);
        }
        let everything = RangeRequest {
            range: KeyRange {
                key: b"\0",
                end: b"\0",
            },
            ..RangeRequest::default()
        };
        let now = db.range(&everything).expect("range").body.kvs;
        let now: BTreeMap<_, _> = now.into_iter().map(|kv| (kv.key, kv.value)).collect();
        assert_eq!(state, now);
    });
}

#[test]
fn history_goes_once_it_is_dropped() {
    on_every_host("snapshot-dropped", |dir, host| {
        let engine = open(dir, host, 1);
        let db = engine.blocking();
        fill(&db, "then");
        let mut snapshot = db.snapshot().expect("begins");
        db.wait_for(snapshot.next())
            .expect("elsewhere")
            .expect("a piece")
            .expect("a piece");
        fill(&db, "later");
        let now = db.put("last", "x").expect("put").header.revision;
        let compaction = engine.compact(now, true);
        // Compacted, and still there for whom it was kept.
        let piece = db
            .wait_for(snapshot.next())
            .expect("elsewhere")
            .expect("a piece")
            .expect("a piece");
        assert!(piece.kvs.iter().all(|kv| kv.value == "then"));
        drop(snapshot);
        db.wait(compaction).expect("compact");
        let gone = (0..1_000_000).any(|_| {
            // Counted at the shard's next tick; a read sees to it that time passes.
            db.get("last").expect("get");
            engine.stats().versions <= KEYS as u64 + 1
        });
        assert!(gone, "{} versions", engine.stats().versions);
    });
}

#[test]
fn an_empty_store_has_no_pieces_and_a_stopped_engine_no_snapshot() {
    on_every_host("snapshot-empty", |dir, host| {
        let engine = open(dir, host, 2);
        let db = engine.blocking();
        let mut snapshot = db.snapshot().expect("begins");
        assert_eq!(db.wait_for(snapshot.next()).expect("elsewhere"), None);
        assert_eq!(db.wait_for(snapshot.next()).expect("elsewhere"), None);
        assert_eq!(snapshot.revisions().get(1), 1);

        fill(&db, "then");
        let mut snapshot = db.snapshot().expect("begins");
        db.stop();
        let stopped = RangeError::Unavailable(Unavailable::Stopped);
        assert_eq!(
            db.wait_for(snapshot.next()).expect("elsewhere"),
            Some(Err(stopped.clone()))
        );
        assert_eq!(db.wait_for(snapshot.next()).expect("elsewhere"), None);
        assert_eq!(db.snapshot().err(), Some(stopped));
    });
}
