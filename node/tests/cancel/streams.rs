//! Streams: a `next` that is dropped takes nothing, and what it would have returned comes with the next one.

use std::sync::Arc;

use henge::api::{Backend as _, WatchCommand, WatchCreate, WatchSession as _};
use henge::{Batch, Engine};

use crate::case::all;
use crate::polled::{Polled, Rest, dropped_at};

/// The methods that are tried here.
pub const TRIED: &[(&str, &str)] = &[
    ("Watcher", "next"),
    ("ShardedWatcher", "next"),
    ("Snapshot", "next"),
    ("WatchSession", "next"),
];

/// A watcher whose `next` is dropped all the time sees every event once and in order.
pub async fn try_watch(db: Engine, rest: Rest) {
    let mut watcher = db
        .watch(WatchCreate {
            key: "w".into(),
            ..WatchCreate::default()
        })
        .expect("watch");
    assert!(watcher.next().await.expect("created").created);
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for k in 0..60 {
        let written = db.put("w", k.to_string()).await.expect("put");
        expected.push(written.header.revision);
        let tried = dropped_at(watcher.next(), k % 7, Polled::Always, rest).await;
        if let Some(response) = tried.output {
            let events = response.expect("not stopped").events;
            seen.extend(events.iter().map(|event| event.kv.mod_revision));
        }
        // The stream may keep the waker of the latest poll, and no other.
        assert!(Arc::strong_count(&tried.waker) <= 2);
    }
    while seen.len() < expected.len() {
        let events = watcher.next().await.expect("not stopped").events;
        seen.extend(events.iter().map(|event| event.kv.mod_revision));
    }
    assert_eq!(seen, expected);
    drop(watcher);
    db.put("w", "last").await.expect("put");
    rest.until("no watchers", || db.stats().watchers == 0).await;
}

/// A snapshot whose `next` is dropped all the time shows every key once.
pub async fn try_snapshot(db: Engine, rest: Rest) {
    let mut batch = Batch::new();
    for number in 0..20_000 {
        batch.put(format!("s-{number:05}"), "x");
    }
    db.batch(&batch).await.all().expect("filled");
    let everything = db.range(&all()).await.expect("range").body.kvs;
    let mut snapshot = db.snapshot().await.expect("begins");
    let mut seen = Vec::new();
    for k in (0..7).cycle() {
        match dropped_at(snapshot.next(), k, Polled::Always, rest)
            .await
            .output
        {
            Some(Some(piece)) => seen.extend(piece.expect("a piece").kvs),
            Some(None) => break,
            None => {}
        }
    }
    // Shard after shard.
    seen.sort_by(|left, right| left.key.cmp(&right.key));
    assert_eq!(seen.len(), everything.len());
    assert!(seen == everything);
}

/// The same over several shards.
pub async fn try_watch_over_shards(db: Engine, rest: Rest) {
    let create = WatchCreate {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        ..WatchCreate::default()
    };
    let mut watcher = db.watch_after(&create, None).expect("watch");
    for _ in 0..db.shards() {
        let (_, first) = watcher.next().await.expect("created");
        assert!(first.created);
    }
    let mut expected = Vec::new();
    let mut seen = Vec::new();
    for k in 0..60 {
        let key = format!("key-{k}");
        db.put(&key, "x").await.expect("put");
        expected.push(key);
        let tried = dropped_at(watcher.next(), k % 7, Polled::Always, rest).await;
        let events = tried.output.map(|next| next.expect("not stopped").1.events);
        seen.extend(events.into_iter().flatten().map(|event| event.kv.key));
        // Each of its streams may keep the waker of the latest poll.
        assert!(Arc::strong_count(&tried.waker) <= 1 + db.shards());
    }
    while seen.len() < expected.len() {
        let (_, response) = watcher.next().await.expect("not stopped");
        seen.extend(response.events.into_iter().map(|event| event.kv.key));
    }
    seen.sort();
    expected.sort();
    assert!(seen == expected, "lost or repeated");
    // In order within each shard: the last of each is what it says of it.
    assert_eq!(
        watcher.revisions(),
        &db.revisions().await.expect("revisions")
    );
    drop(watcher);
    rest.until("no watchers", || db.stats().watchers == 0).await;
}

/// The same on an etcd client's stream, whose words are answered once each.
pub async fn try_session(db: Engine, rest: Rest) {
    let mut session = db.keyspace(0).expect("one shard").watch_session();
    let (mut created, mut cancelled) = (0, 0);
    for k in 0..30 {
        let watch_id = i64::try_from(k).expect("small") + 1;
        session.command(WatchCommand::Create(WatchCreate {
            key: "s".into(),
            watch_id,
            ..WatchCreate::default()
        }));
        session.command(WatchCommand::Cancel { watch_id });
        let tried = dropped_at(session.next(), k % 7, Polled::Always, rest).await;
        if let Some(response) = tried.output {
            let response = response.expect("not stopped");
            created += usize::from(response.created);
            cancelled += usize::from(response.canceled);
        }
    }
    while created + cancelled < 60 {
        let response = session.next().await.expect("not stopped");
        created += usize::from(response.created);
        cancelled += usize::from(response.canceled);
    }
    assert_eq!((created, cancelled), (30, 30));
    drop(session);
    rest.until("no watchers", || db.stats().watchers == 0).await;
}
