//! Why a watch has ended, for each reason there is and for each kind of caller: the engine, one that blocks,
//! one on the engine's own thread; over one shard and over several.

use std::collections::BTreeMap;
use std::path::Path;

use henge::api::{Refusal, WatchCreate};
use henge::engine::route::shard_of;
use henge::wal::disk::sim::{Fault, SimHandle};
use henge::{BlockingIter, Engine, HostKind, Revisions, ShardedWatcher, WatchEnd, Watcher};

use super::common::Scratch;
use super::host::{Host, on_every_host};
use super::regressions::damage;
use super::small;

fn key(key: &str, start_revision: i64) -> WatchCreate {
    WatchCreate {
        key: key.to_owned().into(),
        start_revision,
        ..WatchCreate::default()
    }
}

fn everything() -> WatchCreate {
    WatchCreate {
        range_end: b"\0"[..].into(),
        ..key("\0", 0)
    }
}

fn shards(dir: &Path, host: Host, shards: usize) -> Engine {
    small(dir, host).shards(shards).open().expect("opens")
}

/// Read to its end as one that blocks does, and as the engine's own.
fn end(mut watch: BlockingIter<Watcher>) -> WatchEnd {
    assert_eq!(watch.stream().end(), None, "before anything was read");
    watch.by_ref().for_each(drop);
    assert_eq!(watch.failure(), None);
    let mut watcher = watch.into_stream();
    let end = watcher.end().expect("it has ended").clone();
    // It stays what it was.
    let again = futures_lite::future::block_on(watcher.next());
    assert_eq!((again, watcher.end()), (None, Some(&end)));
    end
}

fn ends(mut watch: BlockingIter<ShardedWatcher>) -> BTreeMap<usize, WatchEnd> {
    watch.by_ref().for_each(drop);
    watch.stream().ends().clone()
}

#[test]
fn a_watchers_end_says_that_its_history_is_compacted_and_up_to_where() {
    on_every_host("ends-compacted", |dir, host| {
        let engine = shards(dir, host, 2);
        let db = engine.blocking();
        for number in 0..40 {
            db.put(format!("key-{number}"), "v").expect("put");
        }
        let now = db.revisions().expect("revisions");
        db.compact_to(&now, true).expect("compacts");
        let at = now.get(shard_of(b"key-0", 2));
        let compacted = |revision| WatchEnd::Compacted { revision };
        let watch = db.watch(key("key-0", 1)).expect("handed in");
        assert_eq!(end(watch), compacted(at));
        // As far as it says, and no farther: from there on it is watched.
        let watch = db.watch(key("key-0", at - 1)).expect("handed in");
        assert_eq!(end(watch), compacted(at));
        let mut watch = db.watch(key("key-0", at)).expect("handed in");
        db.put("key-0", "again").expect("put");
        let seen = watch.by_ref().any(|response| !response.events.is_empty());
        assert!(seen && watch.stream().end().is_none());
        let old: Revisions = [1, 1].into_iter().collect();
        let watch = db.watch_after(&everything(), Some(&old));
        let both = [0, 1].map(|shard| (shard, compacted(now.get(shard))));
        assert_eq!(ends(watch.expect("handed in")), both.into());
    });
}

#[test]
fn a_watchers_end_says_that_it_was_not_let_in() {
    on_every_host("ends-refused", |dir, host| {
        let engine = shards(dir, host, 1);
        let db = engine.blocking();
        let empty = WatchCreate {
            range_end: "a".into(),
            ..key("k", 0)
        };
        let reason = WatchEnd::Refused(Refusal::EmptyRange);
        assert_eq!(end(db.watch(empty).expect("handed in")), reason);
        let watch = db.watch(key("k", -1)).expect("handed in");
        let reason = WatchEnd::Refused(Refusal::BeforeHistory);
        assert_eq!(end(watch), reason);
        // The engine stops behind it: that is not why.
        let mut watch = db.watch(key("k", -1)).expect("handed in");
        db.get("k").expect("it has been looked at");
        db.stop();
        assert!(watch.by_ref().all(|response| response.canceled));
        assert_eq!(watch.stream().end(), Some(&reason));
    });
}

#[test]
fn a_watchers_end_says_that_the_engine_has_stopped() {
    on_every_host("ends-stopped", |dir, host| {
        let engine = shards(dir, host, 2);
        let db = engine.blocking();
        let one = db.watch(key("k", 0)).expect("handed in");
        let all = db.watch_after(&everything(), None).expect("handed in");
        let dropped = shards(&dir.join("dropped"), host, 1);
        let of_dropped = dropped.blocking().watch(key("k", 0)).expect("handed in");
        db.stop();
        drop(dropped);
        assert_eq!(end(one), WatchEnd::Stopped);
        assert_eq!(end(of_dropped), WatchEnd::Stopped);
        let ends = ends(all);
        let stopped = ends.values().all(|end| *end == WatchEnd::Stopped);
        assert!(stopped && !ends.is_empty(), "{ends:?}");
    });
}

#[test]
fn a_watchers_end_says_that_its_log_failed() {
    let (dir, disk) = (Scratch::new("ends-poisoned"), SimHandle::new(1, 1));
    let disks = disk.clone();
    let engine = Engine::builder(&dir.0)
        .shards(2)
        .disks(move |_| Box::new(disks.disk()))
        .open()
        .expect("opens");
    let db = engine.blocking();
    let one = db.watch(key("k", 0)).expect("handed in");
    let all = db.watch_after(&everything(), None).expect("handed in");
    db.put("k", "v").expect("put");
    disk.fail(0, Fault::ErrorForEver(5));
    assert!(db.put("k", "v").is_err());
    let poisoned = |end: WatchEnd| match end {
        WatchEnd::Poisoned(why) => assert!(why.contains("os error 5"), "{why}"),
        other => panic!("{other:?}"),
    };
    poisoned(end(one));
    let ends = ends(all);
    assert!(!ends.is_empty());
    ends.into_values().for_each(poisoned);
    // Who comes later is told that, too.
    let late = end(db.watch(key("k", 0)).expect("handed in"));
    assert!(matches!(late, WatchEnd::Poisoned(_)), "{late:?}");
}

#[test]
fn a_watchers_end_says_that_its_shard_is_damaged() {
    on_every_host("ends-damaged", |dir, host| {
        let engine = shards(dir, host, 2);
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
        let engine = shards(dir, host, 2);
        let db = engine.blocking();
        let watch = db.watch(key("victim", 0)).expect("handed in");
        assert_eq!(end(watch), WatchEnd::Corrupt);
        let mut all = db.watch_after(&everything(), None).expect("handed in");
        assert!(all.by_ref().any(|(_, response)| response.canceled));
        // The other shard's part goes on.
        assert_eq!(all.stream().ends(), &[(home, WatchEnd::Corrupt)].into());
        db.put(&other, "y").expect("put");
        assert!(all.any(|(_, response)| !response.events.is_empty()));
    });
}

#[test]
fn a_watchers_end_says_why_on_the_engines_own_thread() {
    let dir = Scratch::new("ends-local");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let builder = small(&dir.0, Host::Real(HostKind::Auto));
        let (local, driver) = builder.open_local().expect("opens");
        let driver = tokio::task::spawn_local(driver);
        let now = local.put("k", "v").await.expect("put").header.revision;
        local.compact(now, true).await.expect("compacts");
        let mut old = local.watch(key("k", 1)).expect("handed in");
        while old.next().await.is_some() {}
        let compacted = WatchEnd::Compacted { revision: now };
        assert_eq!(old.end(), Some(&compacted));
        let mut one = local.watch(key("k", 0)).expect("handed in");
        let mut all = local.watch_after(&everything(), None).expect("handed in");
        // A driver that is dropped is an end without a stop.
        driver.abort();
        while one.next().await.is_some() {}
        while all.next().await.is_some() {}
        assert_eq!(one.end(), Some(&WatchEnd::Stopped));
        assert_eq!(all.ends(), &[(0, WatchEnd::Stopped)].into());
    });
}

/// Each a text that tells them apart.
#[test]
fn a_watchers_end_can_be_shown() {
    let ends = [
        WatchEnd::Compacted { revision: 7 },
        WatchEnd::Refused(Refusal::EmptyRange),
        WatchEnd::Stopped,
        WatchEnd::Poisoned("EIO".to_owned()),
        WatchEnd::Corrupt,
    ];
    let shown = ends.map(|end| end.to_string());
    assert_eq!(
        shown,
        [
            "history that the watcher needs is compacted, up to revision 7",
            "watcher range is empty",
            "server stopped",
            "the log is poisoned: EIO",
            "corrupt cluster",
        ]
    );
}
