//! What a program that embeds an engine counts on: bounded history, an end that loses no answer, errors
//! instead of waiting for oneself, nothing left behind by an open that failed.

use std::path::Path;
use std::time::Duration;

use henge::api::{Error, Member, Outcome, WatchCreate};
use henge::mvcc::{PutRequest, RequestOp, TxnRequest};
use henge::{
    Batch, BatchError, BatchMistake, ClusterConfig, Engine, HostKind, OpenError, PutError,
    PutMistake, RangeError, TxnError, TxnMistake, Unavailable, Unknown, WatchError,
};

use super::common::Scratch;
use super::host::on_every_host;
use super::{open, small};

/// One key that is overwritten kept every version it ever had.
#[test]
fn regression_history_is_bounded_unless_asked_otherwise() {
    const WRITES: usize = 130_000;
    let dir = Scratch::new("bounded");
    let engine = Engine::builder(&dir.0).open().expect("opens");
    let db = engine.blocking();
    for _ in 0..WRITES / 10_000 {
        let puts: Vec<_> = (0..10_000).map(|_| engine.put("k", "v")).collect();
        for put in puts {
            db.wait(put).expect("put");
        }
    }
    // The last 100,000 revisions stay, and up to an eighth more; slices of later turns remove the rest.
    // Versions are counted once a tick, so their count may be of a time when fewer had been written.
    let mut seen = 0;
    let is_bounded = (0..200_000).any(|_| {
        db.put("k", "v").expect("put");
        let found = engine.metrics(0).expect("one shard");
        let kept = found.revision - found.compact_revision.max(0);
        assert!(kept >= 100_000.min(found.revision), "{kept}: too young");
        seen = found.versions;
        found.revision > WRITES as i64 && (100_000..=112_600).contains(&seen)
    });
    assert!(is_bounded, "{seen}");
}

/// Twenty thousand puts and then the end: most of them were unknown.
#[test]
fn regression_a_stop_after_a_drain_leaves_no_answer_unknown() {
    on_every_host("drain", |dir, host| {
        let engine = open(dir, host);
        let puts: Vec<_> = (0..20_000)
            .map(|key| engine.put(format!("k{key}"), "v"))
            .collect();
        let db = engine.blocking();
        db.stop_after_drain(Duration::from_secs(60));
        // Taken and done, or refused at the door: nothing in between.
        let mut done = Vec::new();
        for (key, put) in puts.into_iter().enumerate() {
            match db.wait(put) {
                Ok(_) => done.push(key),
                Err(error) => {
                    assert_eq!(error, PutError::Unavailable(Unavailable::TooManyRequests));
                }
            }
        }
        assert!(done.len() > 1_000, "{}", done.len());
        let late = db.put("late", "v");
        assert_eq!(
            late.map(drop),
            Err(PutError::Unavailable(Unavailable::Stopped))
        );
        drop((db, engine));
        let engine = open(dir, host);
        let db = engine.blocking();
        for key in done.into_iter().step_by(97) {
            assert!(db.get(format!("k{key}")).expect("get").is_some(), "{key}");
        }
    });
}

/// Whatever is not answered at the deadline is told so.
#[test]
fn a_drain_ends_at_its_deadline() {
    on_every_host("deadline", |dir, host| {
        // Nobody leads: what is asked waits for a leader.
        let member = |id| Member {
            id,
            name: id.to_string(),
            ..Member::default()
        };
        let cluster = ClusterConfig {
            cluster_id: 7,
            member_id: 1,
            members: vec![member(1), member(2), member(3)],
            ..ClusterConfig::default()
        };
        let engine = small(dir, host).cluster(cluster).open().expect("opens");
        let put = engine.put("k", "v");
        let db = engine.blocking();
        db.stop_after_drain(Duration::from_millis(50));
        assert_eq!(
            db.wait(put).map(drop),
            Err(PutError::Unavailable(Unavailable::Stopped))
        );
        assert!(engine.has_ended());
    });
}

/// A blocking call on the thread that drives the engine waited for itself, for ever.
#[test]
fn regression_a_blocking_call_on_a_local_engines_thread_is_an_error() {
    let dir = Scratch::new("own-thread");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (local, driver) = Engine::builder(&dir.0).open_local().expect("opens");
        let driver = tokio::task::spawn_local(driver);
        let db = local.remote().blocking();
        let not_done = Error::OwnThread {
            outcome: Outcome::NotDone,
        };
        let refused = Err(PutError::Caller(PutMistake::Other(not_done.clone())));
        assert_eq!(db.put("k", "v").map(drop), refused);
        assert!(db.get("k").is_err() && db.snapshot().is_err() && db.lease_grant(0, 9).is_err());
        let mut batch = Batch::new();
        let report = db.batch(batch.put("k", "v"));
        let refused = BatchError::Caller(BatchMistake::Other(not_done.clone()));
        assert_eq!(report.parts[0].result, Err(refused));
        // Nothing was done, awaiting is as good as ever, and so is another thread.
        assert_eq!(local.get("k").await.expect("get"), None);
        let elsewhere = local.remote().blocking();
        let (say, heard) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || say.send(elsewhere.put("k", "v").map(drop)));
        heard.await.expect("it ends").expect("put");
        db.stop();
        driver.await.expect("ends");
    });
}

/// Waiting for what was begun before, and reading a stream, panicked there: the library ended its host.
#[test]
fn regression_waiting_on_a_local_engines_thread_is_an_error_and_no_panic() {
    let dir = Scratch::new("own-thread-wait");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (local, driver) = Engine::builder(&dir.0).open_local().expect("opens");
        let driver = tokio::task::spawn_local(driver);
        let (db, own) = (local.remote().blocking(), std::thread::current().id());
        // It was begun, so nobody says that it was not done; and it is done.
        let unknown = PutError::Unknown(Unknown::OwnThread);
        assert_eq!(db.wait(local.put("k", "v")).map(drop), Err(unknown.clone()));
        assert_eq!(unknown.outcome(), Outcome::Unknown);
        local.put("behind", "it").await.expect("put");
        assert!(local.get("k").await.expect("get").is_some());
        // A read has no effect, and what is there already is given.
        let read = RangeError::from(Error::OwnThread {
            outcome: Outcome::NotDone,
        });
        assert_eq!(db.wait(local.get("k")), Err(read.clone()));
        assert_eq!(db.wait(std::future::ready(Ok::<_, Error>(7))), Ok(7));
        let unknown = Error::OwnThread {
            outcome: Outcome::Unknown,
        };
        assert_eq!(
            db.wait_for(std::future::pending::<()>()),
            Err(unknown.clone())
        );
        // Streams: nothing is begun, or nothing is taken.
        let create = WatchCreate {
            key: "k".into(),
            ..WatchCreate::default()
        };
        let refused = db.watch(create.clone()).map(drop);
        let not_done = WatchError::from(unknown.clone());
        assert_eq!(refused, Err(not_done.clone()));
        assert_eq!(db.watch_after(&create, None).map(drop), Err(not_done));
        let snapshot = local.snapshot().await.expect("snapshot");
        assert_eq!(
            db.iter(snapshot).map(drop),
            Err(Error::OwnThread {
                outcome: Outcome::NotDone,
            })
        );
        // Made elsewhere and brought here: it gives nothing, says so, and is read elsewhere again.
        let elsewhere = local.remote().blocking();
        let (say, heard) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            assert_ne!(std::thread::current().id(), own);
            let mut watch = elsewhere.watch(create).expect("begins");
            watch.next().expect("created");
            say.send(watch).expect("it is awaited");
        });
        let mut watch = heard.await.expect("it ends");
        assert_eq!(watch.next(), None);
        assert_eq!(watch.failure(), Some(&unknown));
        assert_eq!(watch.stream().end(), None, "it goes on");
        local.put("k", "w").await.expect("put");
        let (say, heard) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || {
            let next = watch.next().expect("an event");
            assert_eq!(watch.failure(), None);
            say.send(next.events.len()).expect("it is awaited");
        });
        assert_eq!(heard.await.expect("it ends"), 1);
        db.stop();
        driver.await.expect("ends");
    });
}

fn names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).expect("there");
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        entry
            .expect("readable")
            .file_name()
            .to_string_lossy()
            .into_owned()
    };
    entries.map(name).collect()
}

/// A failed open left a directory that it had made.
#[test]
fn regression_an_open_that_fails_leaves_nothing_behind() {
    let scratch = Scratch::new("failed-open");
    std::fs::create_dir_all(&scratch.0).expect("made");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let member = |id| Member {
        id,
        name: id.to_string(),
        ..Member::default()
    };
    let cluster = ClusterConfig {
        cluster_id: 7,
        member_id: 1,
        members: vec![member(1), member(2)],
        listen: vec![taken.local_addr().expect("bound")],
        ..ClusterConfig::default()
    };
    // After the directory is laid out, and after its cores have logs.
    type Open = Box<dyn Fn(&Path) -> Option<OpenError>>;
    let opens: [Open; 3] = [
        Box::new(|dir| {
            Engine::builder(dir)
                .host(HostKind::Thread)
                .open_local()
                .err()
        }),
        Box::new(move |dir| Engine::builder(dir).cluster(cluster.clone()).open().err()),
        Box::new(|dir| Engine::builder(dir).shards(2).cores(3).open().err()),
    ];
    for (number, open) in opens.iter().enumerate() {
        let outer = scratch.0.join(number.to_string());
        assert!(open(&outer.join("a/b")).is_some(), "{number}");
        assert!(!outer.exists(), "{number}: {:?}", names(&outer));
        // One that was there stays, as it was.
        std::fs::create_dir_all(&outer).expect("made");
        assert!(open(&outer).is_some(), "{number}");
        assert_eq!(names(&outer), Vec::<String>::new(), "{number}");
    }
    // What is somebody's is not touched, whyever it is not opened.
    let dir = scratch.0.join("data");
    let db = Engine::builder(&dir).open().expect("opens").blocking();
    db.put("k", "v").expect("put");
    assert!(Engine::builder(&dir).open().is_err(), "it is in use");
    db.stop();
    drop(db);
    assert!(Engine::builder(&dir).shards(5).open().is_err());
    let layout = std::fs::read(dir.join("LAYOUT")).expect("there");
    std::fs::write(dir.join("LAYOUT"), b"damaged").expect("written");
    assert!(Engine::builder(&dir).open().is_err());
    std::fs::write(dir.join("LAYOUT"), layout).expect("written");
    let db = Engine::builder(&dir).open().expect("opens").blocking();
    assert!(db.get("k").expect("get").is_some());
    let other = scratch.0.join("other");
    std::fs::create_dir_all(other.join("core-0")).expect("made");
    assert!(Engine::builder(&other).open().is_err());
    assert_eq!(names(&other), ["core-0"]);
}

/// Memory opened without a word.
#[test]
fn a_directory_in_memory_says_that_nothing_is_durable() {
    let memory = Path::new("/dev/shm");
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    if !mounts.contains(" /dev/shm tmpfs ") {
        return println!("no memory at /dev/shm: not tried here");
    }
    let dir = memory.join(format!("henge-in-memory-{}", std::process::id()));
    let opened = Engine::builder(&dir).wal(henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    });
    let engine = opened.open().expect("opens");
    assert!(engine.stats().in_memory && engine.metrics(0).expect("one shard").in_memory);
    drop(engine);
    std::fs::remove_dir_all(&dir).expect("removed");
}

/// Three gigabytes were copied and encoded before they were refused.
#[test]
fn regression_what_is_too_large_is_refused_before_it_is_encoded() {
    on_every_host("too-large", |dir, host| {
        let db = open(dir, host).blocking();
        let value = vec![0; 64 << 20];
        // The size of the content: that of the encoding was never known.
        let (bytes, max) = (value.len() + 1, 3 << 19);
        let refused = db.put("k", &value).map(drop);
        assert_eq!(
            refused,
            Err(PutError::Caller(PutMistake::TooLarge { bytes, max }))
        );
        let put = RequestOp::Put(PutRequest {
            key: b"k",
            value: &value,
            ..PutRequest::default()
        });
        let txn = TxnRequest {
            failure: vec![put],
            ..TxnRequest::default()
        };
        let refused = db.txn(&txn).map(drop);
        assert_eq!(
            refused,
            Err(TxnError::Caller(TxnMistake::TooLarge { bytes, max }))
        );
        let mut batch = Batch::new();
        let report = db.batch(batch.put("k", &value));
        let refused = BatchError::Caller(BatchMistake::TooLarge { bytes, max });
        assert_eq!(report.parts[0].result, Err(refused));
        assert_eq!(db.get("k").expect("get"), None);
    });
}
