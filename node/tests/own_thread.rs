//! An engine inside its caller's executor: every operation begins, goes through the log and ends on the
//! caller's thread. The only other threads do what blocks in the kernel whatever one does: making log files,
//! and making, syncing and naming checkpoints. A process of its own, as it counts the process's threads; so
//! one test only.
//!
//! The plain host is left out: helper threads that write are what it is for.

mod common;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake, Waker};
use std::thread::ThreadId;
use std::time::Duration;

use henge::api::WatchCreate;
use henge::{Batch, Driver, Engine, HostKind, Local};

use common::on_every_host;

/// The threads that may appear; the kernel cuts names at 15 bytes.
const HELPERS: [&str; 2] = ["henge-wal-file", "henge-wal-aside"];
/// Operations of each kind, enough for some segments of log and checkpoints.
const ROUNDS: usize = 300;

/// Notes which threads woke it.
struct Woken {
    by: Mutex<Vec<ThreadId>>,
    waker: Waker,
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        let mut by = self.by.lock().expect("no test panics with it");
        by.push(std::thread::current().id());
        self.waker.wake_by_ref();
    }
}

/// Awaits it; fails if another thread had a hand in it. Counts those that did not complete at once.
async fn here<T>(future: impl Future<Output = T>, waited: &mut usize) -> T {
    let mut future = pin!(future);
    let (mut by, mut was_pending) = (Vec::new(), false);
    let output = std::future::poll_fn(|cx| {
        let woken = Arc::new(Woken {
            by: Mutex::default(),
            waker: cx.waker().clone(),
        });
        let waker = Waker::from(woken.clone());
        let polled = future.as_mut().poll(&mut Context::from_waker(&waker));
        was_pending |= polled.is_pending();
        by.push(woken);
        polled
    })
    .await;
    let here = std::thread::current().id();
    for woken in by {
        let by = woken.by.lock().expect("no test panics with it");
        assert!(by.iter().all(|thread| *thread == here), "{by:?}");
    }
    *waited += usize::from(was_pending);
    output
}

/// Names of this process's threads, those of the kernel's that write for io_uring left out.
///
/// A thread is born with its parent's name and takes its own a moment later, the kernel's too: so who is
/// new and has this thread's name is looked at again. One that never takes a name of its own is told.
fn threads(before: &BTreeSet<(String, String)>) -> BTreeSet<(String, String)> {
    let own = std::fs::read_to_string("/proc/thread-self/comm").expect("there is /proc");
    let mut found = named();
    for _ in 0..1000 {
        if found.difference(before).all(|(_, name)| name != own.trim()) {
            break;
        }
        std::thread::park_timeout(Duration::from_millis(10));
        found = named();
    }
    found
}

fn named() -> BTreeSet<(String, String)> {
    let tasks = std::fs::read_dir("/proc/self/task").expect("there is /proc");
    let named = tasks.flatten().map(|task| {
        let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        (task.file_name().to_string_lossy().into_owned(), name)
    });
    let ours = named.filter(|(_, name)| !name.starts_with("iou-"));
    ours.map(|(id, name)| (id, name.trim().to_owned()))
        .collect()
}

async fn use_it(local: &Local) -> usize {
    let mut waited = 0;
    let w = &mut waited;
    let everything = WatchCreate {
        key: b"\0"[..].into(),
        range_end: b"\0"[..].into(),
        ..WatchCreate::default()
    };
    let mut watcher = local.watch_after(&everything, None).expect("watch");
    for round in 0..ROUNDS {
        let key = format!("key-{round}");
        here(local.put(&key, vec![b'x'; 20_000]), w)
            .await
            .expect("put");
        here(watcher.next(), w).await.expect("it runs");
        let found = here(local.get(&key), w).await.expect("get");
        assert_eq!(found.map(|kv| kv.value.len()), Some(20_000));
        let mut batch = Batch::new();
        batch.put(&key, "small").delete(&key);
        here(local.batch(&batch), w).await.all().expect("batch");
    }
    let lease = here(local.lease_grant_for("key", 60), w).await;
    let lease = lease.expect("lease").body.id;
    here(local.lease_revoke(lease), w).await.expect("revoke");
    let mut snapshot = here(local.snapshot(), w).await.expect("snapshot");
    while here(snapshot.next(), w).await.is_some() {}
    drop(snapshot);
    let now = here(local.revisions(), w).await.expect("revisions");
    here(local.compact_to(&now, true), w)
        .await
        .expect("compact");
    waited
}

async fn try_it(dir: &Path, host: HostKind, spawn: impl Fn(Driver)) {
    let before = named();
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    let builder = Engine::builder(dir).host(host).wal(wal).shards(3);
    let builder = builder.checkpoint_bytes(1 << 20);
    let (local, driver) = builder.open_local().expect("opens");
    spawn(driver);
    let waited = use_it(&local).await;
    assert!(waited > ROUNDS, "only {waited} had to wait for anything");
    let others = threads(&before);
    let others: Vec<_> = others.difference(&before).map(|(_, name)| name).collect();
    let is_helper = |name: &&String| HELPERS.contains(&&name[..]);
    assert!(others.iter().all(is_helper), "{host}: {others:?}");
    here(local.stop(), &mut 0).await;
}

fn tokio_spawn(driver: Driver) {
    drop(tokio::task::spawn_local(driver));
}

#[test]
fn an_engine_on_its_callers_thread_has_no_other() {
    let other = std::thread::spawn(|| std::thread::park_timeout(Duration::from_millis(50)));
    assert!(named().len() >= 2, "they are counted");
    other.join().expect("it ends");
    on_every_host("own-thread", |dir, host| {
        let dir = dir.to_path_buf();
        match host {
            HostKind::Thread => {}
            HostKind::TokioUring => {
                tokio_uring::start(async move { try_it(&dir, host, tokio_spawn).await });
            }
            #[cfg(feature = "glommio")]
            HostKind::Glommio => {
                let executor = glommio::LocalExecutorBuilder::new(glommio::Placement::Unbound);
                let executor = executor.io_memory(2 << 20).make().expect("an executor");
                let spawn = |driver| drop(glommio::spawn_local(driver).detach());
                executor.run(async move { try_it(&dir, host, spawn).await });
            }
            _ => {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let set = tokio::task::LocalSet::new();
                set.block_on(&runtime, async { try_it(&dir, host, tokio_spawn).await });
            }
        }
    });
}
