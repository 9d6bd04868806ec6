//! Cores that fail: what their callers are told, what the others go on with, what is left behind. And what a
//! slow one says of itself.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use henge::api::{Outcome, WatchCreate};
use henge::engine::route::shard_of;
use henge::wal::disk::sim::{Fault, SimHandle};
use henge::wal::disk::{Completion, Disk, Op, Token};
use henge::{Engine, EngineBuilder, HostKind, PutError};
use henge_api::STAGE_NAMES;

use super::common::{HOSTS, Scratch, usable};
use super::simulated::SimulatedDisk;

/// A disk that does something of its own at each submission.
struct Odd<F> {
    inner: SimulatedDisk,
    submitting: F,
}

impl<F: Fn() + Send> Disk for Odd<F> {
    henge::wal::forward_disk!(inner);

    fn submit(&mut self, token: Token, op: Op) {
        (self.submitting)();
        self.inner.submit(token, op);
    }
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Completion> {
        self.inner.poll(cx)
    }
}

fn small(dir: &Path) -> EngineBuilder {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    Engine::builder(dir).host(HostKind::Thread).wal(wal)
}

/// A key that the first, or the second, of two shards holds.
fn key_of(shard: usize) -> String {
    let mut keys = (0..).map(|number| format!("key-{number}"));
    let key = keys.find(|key| shard_of(key.as_bytes(), 2) == shard);
    key.expect("there are many")
}

fn watch_of(key: &str) -> WatchCreate {
    WatchCreate {
        key: key.to_owned().into(),
        ..WatchCreate::default()
    }
}

#[test]
fn a_core_that_cannot_be_opened_ends_those_before_it_and_frees_the_directory() {
    let dir = Scratch::new("half-open");
    let open = || small(&dir.0).shards(2).cores(2).open();
    let engine = open().expect("opens").blocking();
    engine.put(key_of(0), "x").expect("put");
    engine.put(key_of(1), "x").expect("put");
    drop(engine);
    let identity = dir.0.join("core-1/IDENTITY");
    let kept = std::fs::read(&identity).expect("read");
    std::fs::write(&identity, b"somebody else's").expect("write");
    for _ in 0..3 {
        let refused = open().expect_err("refused").to_string();
        assert!(refused.contains("core-1"), "{refused}");
    }
    std::fs::write(&identity, kept).expect("write");
    let engine = open().expect("nobody holds the directory").blocking();
    assert!(engine.get(key_of(0)).expect("get").is_some());
}

#[test]
fn one_cores_failed_log_is_said_and_leaves_the_other_serving() {
    let dir = Scratch::new("one-poisoned");
    std::fs::create_dir_all(&dir.0).expect("mkdir");
    let machines = [SimHandle::new(1, 1), SimHandle::new(2, 1)];
    let disks = machines.clone();
    let engine = small(&dir.0)
        .shards(2)
        .cores(2)
        .disks(move |core| Box::new(disks[core].disk()))
        .open()
        .expect("opens");
    let db = engine.blocking();
    let (good, bad) = (key_of(0), key_of(1));
    db.put(&good, "x").expect("put");
    db.put(&bad, "x").expect("put");
    let watch = db.watch(watch_of(&bad)).expect("handed in");
    machines[1].fail(0, Fault::ErrorForEver(5));
    // Under way when it fails, and after.
    let puts: Vec<_> = (0..100).map(|n| engine.put(&bad, n.to_string())).collect();
    for put in puts {
        let error = db.wait(put).expect_err("not durable");
        assert!(matches!(error, PutError::Poisoned(_)), "{error}");
        assert_eq!(error.outcome(), Outcome::Unknown);
    }
    let error = db.put(&bad, "later").expect_err("not durable");
    assert!(matches!(error, PutError::Poisoned(_)), "{error}");
    // Its watchers end instead of waiting for what will not come.
    assert!(watch.count() <= 1);
    assert_eq!(db.watch(watch_of(&bad)).expect("handed in").count(), 0);
    db.put(&good, "y").expect("the other core serves");
    let stats = engine.stats();
    assert!(stats.poisoned && stats.cores[1].poisoned && !stats.cores[0].poisoned);
    db.stop();
}

#[test]
fn a_core_that_panics_answers_its_callers_and_the_other_serves() {
    let hosts = HOSTS.iter().filter(|host| usable(**host).is_ok());
    for host in hosts {
        panic_on(*host);
    }
}

fn panic_on(host: HostKind) {
    let dir = Scratch::new("panic");
    let armed = Arc::new(AtomicBool::new(false));
    let shared = armed.clone();
    let builder = small(&dir.0).shards(2).cores(2).host(host);
    let engine = builder.disks(move |core| {
        let armed = shared.clone();
        let submitting = move || {
            if core == 1 && armed.load(Ordering::SeqCst) {
                panic!("planted: the disk's code has a bug");
            }
        };
        let inner = SimulatedDisk::new(core as u64);
        Box::new(Odd { inner, submitting })
    });
    let engine = engine.open().expect("opens");
    let db = engine.blocking();
    let (good, bad) = (key_of(0), key_of(1));
    db.put(&bad, "x").expect("put");
    let watch = db.watch(watch_of(&bad)).expect("handed in");
    armed.store(true, Ordering::SeqCst);
    let puts: Vec<_> = (0..100).map(|n| engine.put(&bad, n.to_string())).collect();
    for put in puts {
        db.wait(put).expect_err("nobody is there");
    }
    db.put(&bad, "later").expect_err("nobody is there");
    assert!(watch.count() <= 1);
    db.put(&good, "y").expect("the other core serves");
    db.stop();
    assert!(engine.has_ended());
}

#[test]
#[allow(clippy::disallowed_methods, reason = "the disk is to be slow")]
fn a_slow_turn_names_its_stage_to_whoever_asks() {
    let dir = Scratch::new("slow-turn");
    let engine = small(&dir.0).disks(|core| {
        let submitting = || std::thread::sleep(Duration::from_millis(25));
        let inner = SimulatedDisk::new(core as u64);
        Box::new(Odd { inner, submitting })
    });
    let engine = engine.open().expect("opens");
    engine.blocking().put("key", "x").expect("put");
    engine.blocking().get("key").expect("get");
    let core = engine.core_metrics(0).expect("one core");
    let submit = STAGE_NAMES.iter().position(|name| *name == "submit");
    let submit = submit.expect("a stage");
    assert!(core.slow_turns[submit] > 0, "{:?}", core.slow_turns);
    assert!(core.stage_micros[submit] >= 25_000);
}
