//! Bugs of the engine that were found, each with the test that would have found it.

use std::time::Duration;

use henge::api::{Backend as _, WatchCommand, WatchCreate, WatchSession as _};
use henge::engine::route::shard_of;
use henge::{Engine, Revisions, Unavailable, WatchError};

use super::common::Scratch;
use super::host::on_every_host;
use super::small;

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
}

fn watch_of(key: &'static str) -> WatchCreate {
    WatchCreate {
        key: key.into(),
        ..WatchCreate::default()
    }
}

/// Streams were only fed when an entry was applied: a watch from an old revision on a quiet store saw
/// nothing until somebody wrote.
#[test]
fn a_watch_of_old_revisions_on_a_quiet_store_is_served_without_a_write() {
    on_every_host("quiet", |dir, host| {
        let engine = small(dir, host).open().expect("opens");
        runtime().block_on(async {
            for value in ["a", "b", "c"] {
                engine.put("key", value).await.expect("is written");
            }
            let create = WatchCreate {
                start_revision: 2,
                ..watch_of("key")
            };
            let mut watcher = engine.watch(create).expect("one key");
            let mut seen = 0;
            while seen < 3 {
                let next = tokio::time::timeout(Duration::from_secs(20), watcher.next());
                let response = next.await.expect("it comes without another write");
                seen += response.expect("the engine runs").events.len();
            }
            engine.stop().await;
        });
    });
}

/// A damaged shard let watchers in and then said nothing to them, ever.
#[test]
fn a_watch_of_a_damaged_shard_is_cancelled_with_the_reason() {
    on_every_host("watch-damaged", |dir, host| {
        let open = || small(dir, host).shards(2).open().expect("opens");
        let engine = open();
        let db = engine.blocking();
        let home = shard_of(b"victim", 2);
        let mut others = (0..).map(|number| format!("other-{number}"));
        let other = others.find(|key| shard_of(key.as_bytes(), 2) != home);
        let other = other.expect("there are many");
        // What is lost must not be the other shard's too, whose first entries share a batch.
        for key in ["victim", &other] {
            db.put(key, "x").expect("put");
        }
        db.put("victim", "the value that rots").expect("put");
        db.put(&other, "x").expect("put");
        drop((engine, db));
        damage(dir, b"the value that rots");

        let engine = open();
        let db = engine.blocking();
        let responses: Vec<_> = db.watch(watch_of("victim")).expect("handed in").collect();
        assert_eq!(responses.len(), 1, "{responses:?}");
        assert!(responses[0].canceled, "{responses:?}");
        let corrupt = henge::api::Error::Corrupt;
        assert_eq!(responses[0].refusal, Some(corrupt.into()));
        // The other shard's part of a watch over both goes on.
        let everything = WatchCreate {
            range_end: b"\0"[..].into(),
            ..watch_of("\0")
        };
        let mut watch = engine.watch_after(&everything, None).expect("handed in");
        let (mut cancelled, mut seen) = (None, 0);
        while cancelled.is_none() || seen == 0 {
            let (shard, response) = db
                .wait_for(watch.next())
                .expect("elsewhere")
                .expect("one shard runs");
            if response.canceled {
                cancelled = Some(shard);
            } else if response.created {
                db.put(&other, "y").expect("put");
            }
            seen += response.events.len();
        }
        assert_eq!(cancelled, Some(home));
    });
}

/// Turns a bit of the log where these bytes are.
pub(super) fn damage(dir: &std::path::Path, needle: &[u8]) {
    let files = std::fs::read_dir(dir.join("core-0")).expect("list");
    let mut hit = 0;
    for path in files.flatten().map(|entry| entry.path()) {
        if path.extension().is_none_or(|end| end != "seg") {
            continue;
        }
        let mut bytes = std::fs::read(&path).expect("read");
        if let Some(at) = bytes.windows(needle.len()).position(|w| w == needle) {
            bytes[at] ^= 0x20;
            std::fs::write(&path, bytes).expect("write");
            hit += 1;
        }
    }
    assert_eq!(hit, 1);
}

/// A watcher whose history was compacted said so and was then never heard of again: whoever read it to its
/// end hung.
#[test]
fn a_watcher_that_was_cancelled_ends() {
    on_every_host("cancelled", |dir, host| {
        let engine = small(dir, host).shards(2).open().expect("opens");
        let db = engine.blocking();
        for number in 0..20 {
            db.put(format!("key-{number}"), "x").expect("put");
        }
        let now = db.revisions().expect("revisions");
        db.compact_to(&now, true).expect("compacts");
        let create = WatchCreate {
            start_revision: 1,
            ..watch_of("key-0")
        };
        let last = db.watch(create).expect("handed in").last().expect("some");
        assert!(last.canceled && last.compact_revision > 1, "{last:?}");
        // The same over both shards, of which each says so.
        let old: Revisions = [1, 1].into_iter().collect();
        let everything = WatchCreate {
            range_end: b"\0"[..].into(),
            ..watch_of("\0")
        };
        let watch = db.watch_after(&everything, Some(&old)).expect("handed in");
        let cancelled: Vec<_> = watch.filter(|(_, response)| response.canceled).collect();
        assert_eq!(cancelled.len(), 2, "{cancelled:?}");
    });
}

/// Words on watch streams passed a full inbox: whoever began watches faster than a core takes them grew it
/// without bound.
#[test]
fn watches_that_are_begun_faster_than_they_are_taken_are_refused() {
    let dir = Scratch::new("words");
    tokio::task::LocalSet::new().block_on(&runtime(), async {
        let (local, driver) = Engine::builder(&dir.0).open_local().expect("opens");
        // Nobody drives it: nothing is taken in meanwhile.
        let (mut begun, mut refused) = (Vec::new(), 0);
        for _ in 0..100_000 {
            match local.watch(watch_of("key")) {
                Ok(watcher) => begun.push(watcher),
                Err(WatchError::Unavailable(Unavailable::TooManyRequests)) => refused += 1,
                Err(other) => panic!("{other}"),
            }
        }
        assert_eq!(begun.len(), henge_core::inbox::ITEMS_MAX / 2);
        assert_eq!(begun.len() + refused, 100_000);
        // A client's stream says so itself, for each word, until its client reads; then it ends.
        let keyspace = local.remote().keyspace(0).expect("one shard");
        let mut session = keyspace.watch_session();
        let refusal = session.next().await.expect("an answer");
        let full = henge::api::Error::TooManyRequests;
        assert_eq!(refusal.refusal, Some(full.into()));
        assert!(refusal.created && refusal.canceled);
        session.command(WatchCommand::Progress);
        assert!(session.next().await.is_none());

        // Those that were taken in are served, and there is room again.
        let driver = tokio::task::spawn_local(driver);
        let mut last = begun.pop().expect("many");
        assert!(last.next().await.expect("it runs").created);
        begun.clear();
        local.put("key", "x").await.expect("put");
        let event = last.next().await.expect("it runs").events.remove(0);
        assert_eq!(event.kv.value, "x");
        local.watch(watch_of("key")).expect("there is room");
        local.stop().await;
        driver.await.expect("it ends");
        let stopped = local.watch(watch_of("key")).err();
        let expected = WatchError::Unavailable(Unavailable::Stopped);
        assert_eq!(stopped, Some(expected));
    });
}

/// Tasks beside a core waited in a queue without a bound.
#[test]
fn tasks_beside_a_core_that_does_not_start_them_are_refused() {
    on_every_host("tasks", |dir, host| {
        let engine = small(dir, host).open().expect("opens");
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let blocking = move || -> henge::host::LocalFuture {
            // It holds up the thread that starts the others.
            let _ = wait.recv();
            Box::pin(async {})
        };
        assert!(engine.spawn_beside(0, Box::new(blocking)));
        let accepted = (0..100_000)
            .filter(|_| engine.spawn_beside(0, Box::new(|| Box::pin(async {}))))
            .count();
        assert!((1_000..2_000).contains(&accepted), "{accepted}");
        drop(go);
        engine.blocking().put("key", "x").expect("it goes on");
    });
}

/// 65 levels of transactions were committed, and then nobody could decode them: the shard was corrupt, and
/// every reopen found it so. Deeper ones than any are refused, whatever the limit on operations.
#[test]
fn regression_a_deep_transaction_is_applied_and_found_again_or_refused() {
    use henge::mvcc::{Error, PutRequest, RequestOp, TxnRequest};
    fn chain(depth: usize) -> TxnRequest<'static> {
        let innermost = TxnRequest {
            success: vec![RequestOp::Put(PutRequest {
                key: b"deep",
                value: b"v",
                ..Default::default()
            })],
            ..Default::default()
        };
        (1..depth).fold(innermost, |inner, _| TxnRequest {
            success: vec![RequestOp::Txn(Box::new(inner))],
            ..Default::default()
        })
    }
    on_every_host("deep", |dir, host| {
        let open = || small(dir, host).txn_ops_max(1_000).open().expect("opens");
        let engine = open();
        let db = engine.blocking();
        for depth in [1, 64, 65, 66, 128, 129] {
            let done = db.wait(engine.txn(&chain(depth)));
            assert!(done.is_ok(), "{depth}: {done:?}");
        }
        for depth in [130, 1_000] {
            let refused = db.wait(engine.txn(&chain(depth))).expect_err("too deep");
            let error = henge::api::Error::from(refused);
            assert_eq!(error, Error::TooManyOps.into(), "{depth}");
        }
        drop((engine, db));
        let engine = open();
        let found = engine.blocking().get("deep").expect("it serves");
        assert!(found.is_some());
    });
}
