//! A caller's panic is the caller's: wakers, tasks and owners of bytes that panic end nothing of ours.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use bytes::Bytes;
use henge::api::WatchCreate;
use henge::host::{LocalFuture, LocalTask};
use henge::{Batch, Engine};

use super::host::on_every_host;
use super::{all, open, small};

/// A waker that panics when it is used.
struct Grenade;

impl Wake for Grenade {
    fn wake(self: Arc<Self>) {
        panic!("a caller's waker");
    }
}

/// A value that panics when it is dropped, unless somebody panics already.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("a caller's drop");
        }
    }
}

/// A waker whose last owner's drop panics.
struct Sticky {
    _bomb: Bomb,
}

impl Wake for Sticky {
    fn wake(self: Arc<Self>) {}
}

/// Polls a future once with such a waker and leaves it; what it had to say, if the core was that quick.
fn poll_once<F: Future + Unpin>(future: &mut F, waker: &Waker) -> Option<F::Output> {
    match Pin::new(future).poll(&mut Context::from_waker(waker)) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}

fn serves(engine: &Engine) {
    let db = engine.blocking();
    db.put("alive", "yes").expect("it serves");
    assert!(db.get("alive").expect("it serves").is_some());
    assert!(!engine.has_ended());
}

/// A panic in a caller's waker came up in the core, which ended with all its shards.
#[test]
fn regression_a_waker_that_panics_is_its_callers_alone() {
    on_every_host("wakers", |dir, host| {
        let engine = open(dir, host);
        let db = engine.blocking();
        db.put("k", "0").expect("put");
        let waker = Waker::from(Arc::new(Grenade));
        for round in 0..8 {
            // Several, so that they come into one chain.
            let mut gets: Vec<_> = (0..8).map(|_| engine.get("k")).collect();
            let mut puts: Vec<_> = (0..8).map(|_| engine.put("k", "1")).collect();
            let got: Vec<_> = gets.iter_mut().map(|get| poll_once(get, &waker)).collect();
            let put: Vec<_> = puts.iter_mut().map(|put| poll_once(put, &waker)).collect();
            let mut range = Box::pin(engine.range(&all()));
            let mut batch = Box::pin(engine.batch(Batch::new().put("b", "1")));
            let mut snapshot = Box::pin(engine.snapshot());
            let ranged = poll_once(&mut range, &waker);
            let batched = poll_once(&mut batch, &waker);
            let begun = poll_once(&mut snapshot, &waker);
            let create = WatchCreate {
                key: "k".into(),
                ..WatchCreate::default()
            };
            let mut watcher = engine.watch(create).expect("watch");
            let created = poll_once(&mut Box::pin(watcher.next()), &waker);
            serves(&engine);
            // Their answers are there all the same.
            for (get, got) in gets.into_iter().zip(got) {
                let got = got.unwrap_or_else(|| db.wait(get));
                assert!(got.expect("get").is_some());
            }
            for (again, put) in puts.into_iter().zip(put) {
                put.unwrap_or_else(|| db.wait(again)).expect("put");
            }
            let ranged = ranged.unwrap_or_else(|| db.wait(range));
            assert!(ranged.expect("range").body.count > 0);
            let batched = batched.unwrap_or_else(|| db.wait_for(batch).expect("elsewhere"));
            batched.all().expect("batch");
            drop(
                begun
                    .unwrap_or_else(|| db.wait(snapshot))
                    .expect("snapshot"),
            );
            if round % 2 == 0 {
                let created =
                    created.unwrap_or_else(|| db.wait_for(watcher.next()).expect("elsewhere"));
                assert!(created.expect("created").created);
            }
        }
        let mut last = engine.put("k", "2");
        let create = WatchCreate {
            key: "k".into(),
            ..WatchCreate::default()
        };
        let mut watcher = engine.watch(create).expect("watch");
        db.wait_for(watcher.next()).expect("elsewhere");
        poll_once(&mut last, &waker);
        poll_once(&mut Box::pin(watcher.next()), &waker);
        db.stop();
    });
}

/// What callers hand in is dropped on their threads, or where it may panic.
#[test]
fn what_a_caller_hands_in_is_not_dropped_by_a_core() {
    on_every_host("drops", |dir, host| {
        let engine = open(dir, host);
        let caller = std::thread::spawn({
            let engine = engine.clone();
            move || {
                struct Owner(Bomb);
                impl AsRef<[u8]> for Owner {
                    fn as_ref(&self) -> &[u8] {
                        let _ = &self.0;
                        b"k"
                    }
                }
                let create = WatchCreate {
                    key: Bytes::from_owner(Owner(Bomb)),
                    ..WatchCreate::default()
                };
                // The drop of the caller's key is here.
                let _ = engine.watch(create);
            }
        });
        assert!(
            caller.join().is_err(),
            "its owner panicked where it was handed in"
        );
        serves(&engine);
        for _ in 0..8 {
            let waker = Waker::from(Arc::new(Sticky { _bomb: Bomb }));
            let mut get = engine.get("k");
            let mut watcher = engine.watch(WatchCreate::default()).expect("watch");
            poll_once(&mut get, &waker);
            // Whoever has the last one panics: here, or the core as it wakes.
            let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
            serves(&engine);
            let waker = Waker::from(Arc::new(Sticky { _bomb: Bomb }));
            poll_once(&mut Box::pin(watcher.next()), &waker);
            let _ = catch_unwind(AssertUnwindSafe(|| drop(waker)));
            serves(&engine);
            let _ = catch_unwind(AssertUnwindSafe(|| drop((get, watcher))));
            serves(&engine);
        }
    });
}

/// A task that panicked as it was made ended the task that starts tasks: nobody's were started any more.
#[test]
fn regression_a_task_beside_a_core_that_panics_ends_alone() {
    on_every_host("tasks", |dir, host| {
        let engine = small(dir, host).open().expect("opens");
        let bombs: Vec<LocalTask> = vec![
            Box::new(|| -> LocalFuture { panic!("as it is made") }),
            Box::new(|| -> LocalFuture { Box::pin(async { panic!("as it runs") }) }),
            Box::new(|| -> LocalFuture {
                Box::pin(async {
                    let _bomb = Bomb;
                })
            }),
            Box::new(|| -> LocalFuture {
                let bomb = Bomb;
                Box::pin(async move {
                    let _bomb = bomb;
                    std::future::pending::<()>().await;
                })
            }),
            Box::new(|| -> LocalFuture { std::panic::panic_any(Bomb) }),
        ];
        for bomb in bombs {
            assert!(engine.spawn_beside(0, bomb));
            let (say, heard) = std::sync::mpsc::channel();
            let task = move || {
                Box::pin(async move {
                    let _ = say.send(());
                }) as _
            };
            assert!(engine.spawn_beside(0, Box::new(task)));
            heard.recv().expect("the next one runs");
            serves(&engine);
        }
        engine.blocking().stop();
    });
}
