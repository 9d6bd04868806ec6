//! Every public future is dropped at its k-th poll, for every k until it is done, on every host: no
//! operation is lost, torn or done twice, and nothing is left behind.
//!
//! Exactly once is seen from outside: a write of its own before and after every tried operation counts
//! the revisions in between. Nothing left behind: no caller pending, no watcher, and no waker of ours
//! held by anybody.

mod common;

use std::future::Future;
use std::path::Path;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use henge::api::{Error, Outcome, WatchCreate};
use henge::mvcc::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest};
use henge::{Batch, Driver, Engine, HostKind, Local, PutError, Unavailable};

use common::{Scratch, on_every_host};

/// Every k up to here is tried, then each twice the one before, until the future is done by then.
const EVERY: usize = 12;
/// Looks at something that must become true before the test fails.
const PATIENCE: usize = 20_000;

/// When a future is polled again.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Polled {
    /// Once it woke its waker.
    WhenWoken,
    /// Always.
    Always,
}

/// Lets everything else on this thread run.
#[derive(Clone, Copy)]
enum Rest {
    Tokio,
    TokioUring,
    #[cfg(feature = "glommio")]
    Glommio,
}

impl Rest {
    async fn a_moment(self) {
        match self {
            Rest::Tokio => tokio::task::yield_now().await,
            // Not a yield: executors with a task that can always run do not look at their rings.
            Rest::TokioUring => tokio::time::sleep(Duration::from_micros(20)).await,
            #[cfg(feature = "glommio")]
            Rest::Glommio => glommio::timer::sleep(Duration::from_micros(20)).await,
        }
        std::thread::yield_now();
    }

    async fn until(self, what: &str, mut is_so: impl FnMut() -> bool) {
        for _ in 0..PATIENCE {
            if is_so() {
                return;
            }
            self.a_moment().await;
        }
        panic!("still not so: {what}");
    }
}

#[derive(Default)]
struct Count(AtomicUsize);

impl Wake for Count {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A future polled at most `polls` times and then dropped.
struct Tried<T> {
    output: Option<T>,
    waker: Arc<Count>,
}

async fn dropped_at<T>(
    future: impl Future<Output = T>,
    polls: usize,
    when: Polled,
    rest: Rest,
) -> Tried<T> {
    let count = Arc::<Count>::default();
    let waker = Waker::from(count.clone());
    let mut output = None;
    {
        let mut future = pin!(future);
        for poll in 0..polls {
            let woken = count.0.load(Ordering::SeqCst);
            match future.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(value) => {
                    output = Some(value);
                    break;
                }
                Poll::Pending if poll + 1 == polls => {}
                Poll::Pending if when == Polled::Always => rest.a_moment().await,
                Poll::Pending => {
                    rest.until("woken", || count.0.load(Ordering::SeqCst) > woken)
                        .await;
                }
            }
        }
    }
    drop(waker);
    Tried {
        output,
        waker: count,
    }
}

/// The k to try, in order.
fn polls() -> impl Iterator<Item = usize> {
    let doubled = std::iter::successors(Some(EVERY * 2), |k| Some(k * 2));
    (0..=EVERY).chain(doubled.take(20))
}

type Answer = Pin<Box<dyn Future<Output = Result<(), Error>>>>;
type Check = Pin<Box<dyn Future<Output = bool>>>;

/// One operation: what to do before, itself, how many revisions it makes, and what must be so after.
struct Case {
    name: &'static str,
    revisions: i64,
    before: fn(&Engine, usize) -> Option<Answer>,
    operation: fn(&Engine, usize) -> Answer,
    after: fn(&Engine, usize) -> Check,
}

fn key(k: usize) -> String {
    format!("key-{k}")
}

fn lease(k: usize) -> i64 {
    1_000 + i64::try_from(k).expect("small")
}

fn all() -> RangeRequest<'static> {
    RangeRequest {
        range: KeyRange {
            key: b"\0",
            end: b"\0",
        },
        ..RangeRequest::default()
    }
}

fn boxed<T, E: Into<Error>>(operation: impl Future<Output = Result<T, E>> + 'static) -> Answer {
    Box::pin(async move { operation.await.map(drop).map_err(E::into) })
}

fn put(db: &Engine, k: usize) -> Answer {
    boxed(db.put(key(k), format!("value-{k}")))
}

fn grant(db: &Engine, k: usize) -> Answer {
    boxed(db.lease_grant(lease(k), 600))
}

/// The key's value is whole and was written exactly once.
fn is_there(db: &Engine, k: usize) -> Check {
    let get = db.get(key(k));
    Box::pin(async move {
        let found = get.await.expect("get");
        found.is_some_and(|kv| kv.version == 1 && kv.value == format!("value-{k}"))
    })
}

fn is_gone(db: &Engine, k: usize) -> Check {
    let get = db.get(key(k));
    Box::pin(async move { get.await.expect("get").is_none() })
}

fn has_lease(db: &Engine, k: usize) -> Check {
    let ttl = db.lease_time_to_live(lease(k), false);
    Box::pin(async move { ttl.await.expect("ttl").body.granted_ttl_s == 600 })
}

fn nothing(_: &Engine, _: usize) -> Option<Answer> {
    None
}

fn fine(_: &Engine, _: usize) -> Check {
    Box::pin(async { true })
}

const CASES: &[Case] = &[
    Case {
        name: "put",
        revisions: 1,
        before: nothing,
        operation: put,
        after: is_there,
    },
    Case {
        name: "get",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.get("barrier")),
        after: fine,
    },
    Case {
        name: "range",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.range(&all())),
        after: fine,
    },
    Case {
        name: "delete",
        revisions: 1,
        before: |db, k| Some(put(db, k)),
        operation: |db, k| boxed(db.delete(key(k))),
        after: is_gone,
    },
    Case {
        name: "delete_range",
        revisions: 1,
        before: |db, k| Some(put(db, k)),
        operation: |db, _| {
            let range = KeyRange {
                key: b"key-",
                end: b"key.",
            };
            let prev_kv = true;
            boxed(db.delete_range(&DeleteRangeRequest { range, prev_kv }))
        },
        after: is_gone,
    },
    Case {
        name: "txn",
        revisions: 1,
        before: nothing,
        operation: |db, k| {
            let (left, right) = (format!("left-{k}"), format!("right-{k}"));
            let put = |key| {
                RequestOp::Put(PutRequest {
                    key,
                    value: b"both",
                    ..PutRequest::default()
                })
            };
            boxed(db.txn(&TxnRequest {
                compare: Vec::new(),
                success: vec![put(left.as_bytes()), put(right.as_bytes())],
                failure: Vec::new(),
            }))
        },
        after: |db, k| {
            let (left, right) = (db.get(format!("left-{k}")), db.get(format!("right-{k}")));
            Box::pin(async move {
                let (left, right) = (left.await.expect("get"), right.await.expect("get"));
                match (left, right) {
                    (Some(left), Some(right)) => {
                        left.mod_revision == right.mod_revision && left.version == 1
                    }
                    _ => false,
                }
            })
        },
    },
    Case {
        name: "batch",
        revisions: 1,
        before: nothing,
        operation: |db, k| {
            let mut batch = Batch::new();
            batch
                .put(key(k), format!("value-{k}"))
                .put(format!("beside-{k}"), "x");
            let batch = db.batch(&batch);
            boxed(async move { batch.await.all() })
        },
        after: is_there,
    },
    Case {
        name: "snapshot",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.snapshot()),
        after: fine,
    },
    Case {
        name: "lease_grant",
        revisions: 0,
        before: nothing,
        operation: grant,
        after: has_lease,
    },
    Case {
        name: "lease_keep_alive",
        revisions: 0,
        before: |db, k| Some(grant(db, k)),
        operation: |db, k| boxed(db.lease_keep_alive(lease(k))),
        after: has_lease,
    },
    Case {
        name: "lease_time_to_live",
        revisions: 0,
        before: |db, k| Some(grant(db, k)),
        operation: |db, k| boxed(db.lease_time_to_live(lease(k), true)),
        after: has_lease,
    },
    Case {
        name: "lease_revoke",
        // The key goes with its lease.
        revisions: 1,
        before: |db, k| {
            let db = db.clone();
            Some(Box::pin(async move {
                grant(&db, k).await?;
                let key = key(k);
                let put = PutRequest {
                    key: key.as_bytes(),
                    value: b"leased",
                    lease: lease(k),
                    ..PutRequest::default()
                };
                let put = db.put_with(&put);
                put.await?;
                Ok(())
            }))
        },
        operation: |db, k| boxed(db.lease_revoke(lease(k))),
        after: is_gone,
    },
    Case {
        name: "compact",
        revisions: 0,
        before: |db, k| Some(put(db, k)),
        operation: |db, _| {
            let now = db.metrics(0).expect("one shard").revision;
            boxed(db.compact(now, true))
        },
        after: |db, _| {
            let old = db.range(&RangeRequest {
                revision: 1,
                ..all()
            });
            Box::pin(async move { old.await.is_err() })
        },
    },
];

/// Writes and waits: everything handed in before is done. Returns the revision.
async fn barrier(db: &Engine) -> i64 {
    let written = db.put("barrier", "x").await.expect("put");
    written.header.revision
}

/// All operations, dropped everywhere.
async fn try_operations(db: Engine, rest: Rest) {
    for case in CASES {
        for when in [Polled::WhenWoken, Polled::Always] {
            let mut tried_to_the_end = false;
            for (number, k) in polls().enumerate() {
                // A key and a lease of its own for each try.
                let id = number + if when == Polled::Always { 500 } else { 0 };
                if try_once(&db, case, id, k, when, rest).await {
                    tried_to_the_end = true;
                    break;
                }
            }
            assert!(tried_to_the_end, "{}: never done", case.name);
            clear(&db).await;
        }
    }
}

/// Whether the operation was done by its k-th poll.
async fn try_once(db: &Engine, case: &Case, id: usize, k: usize, when: Polled, rest: Rest) -> bool {
    let what = format!("{} dropped at poll {k} ({when:?})", case.name);
    if let Some(before) = (case.before)(db, id) {
        before.await.expect("prepared");
    }
    let first = barrier(db).await;
    let tried = dropped_at((case.operation)(db, id), k, when, rest).await;
    let second = barrier(db).await;
    assert_eq!(second - first, case.revisions + 1, "{what}");
    assert!((case.after)(db, id).await, "{what}");
    if let Some(answer) = &tried.output {
        assert_eq!(answer, &Ok(()), "{what}");
    }
    rest.until(&what, || Arc::strong_count(&tried.waker) == 1)
        .await;
    rest.until(&what, || db.metrics(0).expect("one shard").pending == 0)
        .await;
    tried.output.is_some()
}

async fn clear(db: &Engine) {
    let range = all().range;
    let delete = DeleteRangeRequest {
        range,
        prev_kv: false,
    };
    db.delete_range(&delete).await.expect("delete");
    for id in (0..50).chain(500..550) {
        // Most do not exist.
        let _ = db.lease_revoke(lease(id)).await;
    }
}

/// A watcher whose `next` is dropped all the time sees every event once and in order.
async fn try_watch(db: Engine, rest: Rest) {
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
    barrier(&db).await;
    rest.until("no watchers", || {
        db.metrics(0).expect("one shard").watchers == 0
    })
    .await;
}

/// A snapshot whose `next` is dropped all the time shows every key once.
async fn try_snapshot(db: Engine, rest: Rest) {
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
    assert_eq!(seen.len(), everything.len());
    assert!(seen == everything);
}

fn builder(dir: &Path, host: HostKind) -> henge::EngineBuilder {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    Engine::builder(dir).host(host).wal(wal)
}

fn on_tokio<T>(body: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, body)
}

/// Runs `body` in the executor that a local engine of this host lives in.
fn where_it_lives<F: Future<Output = ()> + 'static>(
    host: HostKind,
    body: impl FnOnce(Rest) -> F + 'static,
) {
    match host {
        HostKind::TokioUring => tokio_uring::start(body(Rest::TokioUring)),
        #[cfg(feature = "glommio")]
        HostKind::Glommio => glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound)
            .io_memory(2 << 20)
            .make()
            .expect("an executor")
            .run(body(Rest::Glommio)),
        _ => on_tokio(body(Rest::Tokio)),
    }
}

fn spawn(driver: Driver, rest: Rest) {
    match rest {
        Rest::Tokio | Rest::TokioUring => drop(tokio::task::spawn_local(driver)),
        #[cfg(feature = "glommio")]
        Rest::Glommio => drop(glommio::spawn_local(driver).detach()),
    }
}

#[test]
fn operations_of_an_engine_are_done_exactly_once() {
    on_every_host("cancel", |dir, host| {
        let engine = builder(dir, host).open().expect("opens");
        on_tokio(try_operations(engine.clone(), Rest::Tokio));
        on_tokio(try_watch(engine.clone(), Rest::Tokio));
        on_tokio(try_snapshot(engine, Rest::Tokio));
    });
}

#[test]
fn operations_of_a_local_engine_are_done_exactly_once() {
    on_every_host("cancel-local", |dir, host| {
        let dir = dir.to_path_buf();
        where_it_lives(host, move |rest| async move {
            let (local, driver) = builder(&dir, host).open_local().expect("opens");
            assert_eq!(local.host(), host);
            spawn(driver, rest);
            try_operations(local.remote(), rest).await;
            try_watch(local.remote(), rest).await;
            try_snapshot(local.remote(), rest).await;
            local.stop().await;
        });
    });
}

/// `stop` begins at its first poll, and then goes on whether or not anybody waits for it.
#[test]
fn a_stop_that_is_dropped_stops_all_the_same() {
    on_every_host("cancel-stop", |dir, host| {
        for k in 0..4 {
            let engine = builder(dir, host).open().expect("opens");
            on_tokio(async {
                engine.put("k", k.to_string()).await.expect("put");
                drop(dropped_at(engine.stop(), k, Polled::Always, Rest::Tokio).await);
                let after = engine.put("after", "x").await;
                if k == 0 {
                    after.expect("not asked to stop");
                } else {
                    assert_eq!(
                        after.map(drop),
                        Err(PutError::Unavailable(Unavailable::Stopped))
                    );
                }
            });
            drop(engine);
            let engine = builder(dir, host).open().expect("opens").blocking();
            let found = engine.get("k").expect("get").expect("is there");
            assert_eq!(found.value, k.to_string());
        }
    });
}

/// A driver that is dropped anywhere leaves nobody waiting, and the directory whole.
#[test]
fn a_driver_dropped_at_any_poll_answers_everybody() {
    on_every_host("cancel-driver", |dir, host| {
        let dir = dir.to_path_buf();
        where_it_lives(host, move |rest| async move {
            let mut certain = None;
            // A poll takes less than a microsecond, a durable write hundreds: the last ones reach it.
            let far = [24, 48, 96, 192, 384, 768, 12_288, 49_152, 196_608, 786_432];
            for k in (0..12).chain(far) {
                if k > 768 && certain.is_some() {
                    break;
                }
                let (local, driver) = reopen(&dir, host, rest).await;
                let mut watcher = local
                    .watch(WatchCreate {
                        key: "d".into(),
                        ..WatchCreate::default()
                    })
                    .expect("one shard");
                let put = local.put("d", k.to_string());
                drop(dropped_at(driver, k, Polled::Always, rest).await);
                // Answered without anybody driving: each of these would hang otherwise.
                match put.await {
                    Ok(_) => certain = Some(k),
                    Err(error) => assert!(
                        matches!(Error::from(error.clone()), Error::Stopped { .. }),
                        "{error}"
                    ),
                }
                let late = local.put("late", "x").await.expect_err("nobody drives");
                assert_eq!(late.outcome(), Outcome::NotDone, "{late}");
                while watcher.next().await.is_some() {}
            }
            let (local, driver) = reopen(&dir, host, rest).await;
            spawn(driver, rest);
            let found = local.get("d").await.expect("get");
            let found = found.map(|kv| String::from_utf8_lossy(&kv.value).parse::<usize>());
            // What was acknowledged is there, or something written after it.
            let found = found.map(|number| number.expect("ours"));
            assert!(certain.is_some(), "it was never driven far enough");
            assert!(found >= certain, "{found:?} after {certain:?}");
            assert!(local.get("late").await.expect("get").is_none());
            local.stop().await;
        });
    });
}

/// Writes of the driver before may still be with the kernel, which holds their files.
async fn reopen(dir: &Path, host: HostKind, rest: Rest) -> (Local, Driver) {
    for _ in 0..200 {
        rest.a_moment().await;
    }
    builder(dir, host).open_local().expect("opens")
}

#[test]
fn a_local_engine_elsewhere_is_refused_with_the_reason() {
    let dir = Scratch::new("nowhere");
    let outside = builder(&dir.0, HostKind::Thread).open_local();
    let why = outside.err().expect("no runtime here").to_string();
    assert!(
        why.contains("inside a tokio current-thread runtime"),
        "{why}"
    );
    let dir = Scratch::new("nowhere-cores");
    on_tokio(async {
        let two = builder(&dir.0, HostKind::Thread).cores(2).shards(2);
        let why = two.open_local().err().expect("one thread").to_string();
        assert!(why.contains("one core"), "{why}");
    });
    let dir = Scratch::new("nowhere-uring");
    on_tokio(async {
        let uring = builder(&dir.0, HostKind::TokioUring).open_local();
        let why = uring.err().expect("a plain tokio runtime").to_string();
        assert!(why.contains("tokio-uring runtime"), "{why}");
    });
}
