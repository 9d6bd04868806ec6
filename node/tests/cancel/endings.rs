//! Ends: a stop that nobody waits for, a driver that is dropped, a local engine where there is none.

use std::path::Path;
use std::time::Duration;

use henge::api::{Error, Outcome, WatchCreate};
use henge::{Driver, HostKind, Local, PutError, Unavailable};

use crate::common::{Scratch, on_every_host};
use crate::polled::{Polled, Rest, builder, dropped_at, on_tokio, spawn, where_it_lives};

/// The methods that are tried here.
pub const TRIED: &[(&str, &str)] = &[
    ("Engine", "stop"),
    ("Engine", "stop_after_drain"),
    ("Local", "stop"),
    ("Local", "stop_after_drain"),
];

/// Longer than anything here takes.
const DRAIN: Duration = Duration::from_secs(60);

/// `stop` begins at its first poll, and then goes on whether or not anybody waits for it.
#[test]
fn a_stop_that_is_dropped_stops_all_the_same() {
    on_every_host("cancel-stop", |dir, host| {
        for (k, drains) in (0..4).flat_map(|k| [(k, false), (k, true)]) {
            let engine = builder(dir, host).open().expect("opens");
            on_tokio(async {
                engine.put("k", k.to_string()).await.expect("put");
                if drains {
                    let stop = engine.stop_after_drain(DRAIN);
                    drop(dropped_at(stop, k, Polled::Always, Rest::Tokio).await);
                } else {
                    drop(dropped_at(engine.stop(), k, Polled::Always, Rest::Tokio).await);
                }
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

/// The same of a local engine: its driver ends.
#[test]
fn a_local_stop_that_is_dropped_stops_all_the_same() {
    on_every_host("cancel-local-stop", |dir, host| {
        let dir = dir.to_path_buf();
        where_it_lives(host, move |rest| async move {
            for k in 1..4 {
                let (local, driver) = builder(&dir, host).open_local().expect("opens");
                let put = local.put("k", k.to_string());
                drop(dropped_at(local.stop(), k, Polled::Always, rest).await);
                driver.await;
                assert!(local.has_ended());
                // Nobody drove it before it was told to stop.
                let refused = put.await.expect_err("not begun");
                assert_eq!(refused.outcome(), Outcome::NotDone, "{refused}");
                for _ in 0..200 {
                    rest.a_moment().await;
                }
            }
        });
    });
}

/// Here what was begun before is done, as nobody drove it before it was told to drain either.
#[test]
fn a_local_drain_that_is_dropped_drains_all_the_same() {
    on_every_host("cancel-local-drain", |dir, host| {
        let dir = dir.to_path_buf();
        where_it_lives(host, move |rest| async move {
            for k in 1..4 {
                let (local, driver) = builder(&dir, host).open_local().expect("opens");
                let put = local.put("k", k.to_string());
                drop(dropped_at(local.stop_after_drain(DRAIN), k, Polled::Always, rest).await);
                driver.await;
                assert!(local.has_ended());
                put.await.expect("drained");
                for _ in 0..200 {
                    rest.a_moment().await;
                }
            }
        });
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
