//! What bounds an engine that is asked for more than it can do: budgets of waiting writes, and history that
//! it gives up by itself.

#[allow(dead_code, reason = "shared with the tests that run on every host")]
mod common;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::Scratch;
use henge::engine::route::shard_of;
use henge::mvcc::{KeyRange, RangeRequest};
use henge::{AutoCompaction, Engine, EngineBuilder, HostKind, PutError, RangeError, RangeMistake};
use henge::{Unavailable, Unknown};

const BUDGET: usize = 64 << 10;

fn builder(dir: &Scratch) -> EngineBuilder {
    let wal = henge::wal::Options {
        segment_bytes: 1 << 20,
        ..Default::default()
    };
    Engine::builder(&dir.0).host(HostKind::Thread).wal(wal)
}

/// Starts so many puts without waiting for any; how many were taken in and done, and how many refused.
fn burst(engine: &Engine, key: &[u8], count: usize) -> (usize, usize) {
    let mut cx = Context::from_waker(Waker::noop());
    let mut waiting = Vec::new();
    let mut refused = 0;
    for _ in 0..count {
        let mut put = engine.put(key, [7; 1_000]);
        match Pin::new(&mut put).poll(&mut cx) {
            // Answered already, or refused: there is no other answer at once.
            Poll::Ready(Err(PutError::Unavailable(Unavailable::TooManyRequests))) => refused += 1,
            Poll::Ready(answer) => drop(answer.expect("done")),
            Poll::Pending => waiting.push(put),
        }
    }
    for put in waiting {
        engine
            .blocking()
            .wait(put)
            .expect("what was taken in is done");
    }
    (count - refused, refused)
}

#[test]
fn what_goes_beyond_the_budget_is_refused_at_once_and_room_comes_back() {
    let dir = Scratch::new("budget");
    let engine = builder(&dir)
        .pending_bytes_max(BUDGET)
        .open()
        .expect("opens");
    let mut done = 0;
    for round in 1..=20 {
        let before = engine.metrics(0).expect("one shard").refused;
        let (taken, refused) = burst(&engine, b"key", 5_000);
        // Every round finds as much room as the first: nothing that was taken is forgotten.
        assert!(
            taken >= BUDGET / 1_400,
            "round {round}: only {taken} were taken in"
        );
        assert!(
            refused > 0,
            "five megabytes at once fit into {BUDGET} bytes"
        );
        let counted = engine.metrics(0).expect("one shard").refused - before;
        assert_eq!(counted, refused as u64);
        done += taken;
    }
    let found = engine.blocking().get("key").expect("reads").expect("there");
    assert_eq!(found.version, done as i64, "refused ones had no effect");
    assert_eq!(
        engine.stats().refused,
        engine.metrics(0).expect("one").refused
    );
}

/// On one thread, so that nothing happens between a burst's puts.
#[test]
#[allow(clippy::disallowed_methods, reason = "a test waits, not a core")]
fn a_queue_that_refuses_gets_short_and_has_its_whole_length_again_after_a_rest() {
    const WHOLE: usize = 12 << 20;
    let dir = Scratch::new("pressure");
    let engine = builder(&dir).pending_bytes_max(WHOLE);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let (db, driver) = engine.open_local().expect("opens");
        let driver = tokio::task::spawn_local(driver);
        // How many of as many as do not fit are taken in; all of them are done afterwards.
        let burst = async || {
            let mut cx = Context::from_waker(Waker::noop());
            let mut waiting = Vec::new();
            for _ in 0..12_000 {
                let mut put = db.put("key", [7; 1_000]);
                if Pin::new(&mut put).poll(&mut cx).is_pending() {
                    waiting.push(put);
                }
            }
            let taken = waiting.len();
            for put in waiting {
                put.await.expect("what was taken in is done");
            }
            taken
        };
        let whole = burst().await;
        assert!((8_000..12_000).contains(&whole), "{whole}");
        // The refusals are looked at every tenth of a second; before that another burst may find all.
        let mut short = whole;
        for _ in 0..100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            short = burst().await;
            if short < whole {
                break;
            }
        }
        assert!(short * 3 <= whole + 1_000, "{short} of {whole}");
        // By a timer of the core's own: nothing else happens meanwhile.
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(burst().await, whole);
        db.stop().await;
        driver.await.expect("the driver ends");
    });
}

#[test]
fn one_shards_burst_leaves_room_for_the_others() {
    let dir = Scratch::new("neighbours");
    let engine = builder(&dir)
        .shards(2)
        .pending_bytes_max(BUDGET)
        .open()
        .expect("opens");
    let key = |shard| {
        let key = (0..).map(|number| format!("k{number}"));
        let mut key = key.skip_while(move |key| shard_of(key.as_bytes(), 2) != shard);
        key.next().expect("there are many")
    };
    let (busy, quiet) = (key(0), key(1));
    let mut cx = Context::from_waker(Waker::noop());
    let mut refused = 0;
    let mut waiting = Vec::new();
    for _ in 0..2_000 {
        let mut put = engine.put(&busy, [7; 1_000]);
        match Pin::new(&mut put).poll(&mut cx) {
            Poll::Ready(Err(_)) => refused += 1,
            _ => waiting.push(put),
        }
        if refused == 1 {
            // While the first shard is full.
            let other = engine.put(&quiet, "v");
            engine
                .blocking()
                .wait(other)
                .expect("the other shard has room");
            refused += 1;
        }
    }
    assert!(refused > 0);
}

#[test]
fn a_request_larger_than_the_budget_is_served_alone_and_a_full_engine_stops_as_stopped() {
    let dir = Scratch::new("large");
    let engine = builder(&dir)
        .pending_bytes_max(1_000)
        .open()
        .expect("opens");
    let wait = engine.blocking();
    for _ in 0..3 {
        wait.put("large", [7; 100_000]).expect("alone, it fits");
    }
    let put = engine.put("last", [7; 100_000]);
    wait.stop();
    // Done, or nobody knows: it was proposed.
    assert!(matches!(
        wait.wait(put),
        Ok(_)
            | Err(PutError::Unknown(Unknown::Stopped))
            | Err(PutError::Unavailable(Unavailable::Stopped))
    ));
    assert!(matches!(
        wait.put("later", "v"),
        Err(PutError::Unavailable(Unavailable::Stopped))
    ));
}

fn oldest(engine: &Engine) -> i64 {
    engine.metrics(0).expect("one shard").compact_revision
}

/// Waits for what the engine does by itself.
#[allow(clippy::disallowed_methods, reason = "a test thread waits, not a core")]
fn until(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..3_000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what} did not come to pass in 30 s");
}

#[test]
fn history_beyond_the_revisions_kept_goes_and_the_rest_stays() {
    let dir = Scratch::new("revisions");
    let open = || builder(&dir).auto_compaction(AutoCompaction::Revisions(100));
    let engine = open().open().expect("opens");
    let wait = engine.blocking();
    let mut last = 0;
    for number in 0..500 {
        last = wait
            .put("key", format!("{number}"))
            .expect("put")
            .header
            .revision;
    }
    until("a compaction", || oldest(&engine) >= last - 113);
    assert!(oldest(&engine) <= last - 100, "what is younger stays");
    let at = |revision| {
        let request = RangeRequest {
            range: KeyRange::one(b"key"),
            revision,
            ..Default::default()
        };
        wait.range(&request)
    };
    let kept = at(last - 99).expect("kept");
    assert_eq!(kept.body.kvs[0].value, "400");
    assert!(matches!(
        at(last - 400),
        Err(RangeError::Caller(RangeMistake::Compacted { .. }))
    ));
    until("its removal", || {
        engine.metrics(0).expect("one shard").versions <= 115
    });
}

#[test]
fn history_older_than_its_period_goes_also_from_a_shard_at_rest() {
    let dir = Scratch::new("period");
    let rule = AutoCompaction::Periodic(Duration::from_millis(300));
    let engine = builder(&dir).auto_compaction(rule).open().expect("opens");
    let wait = engine.blocking();
    for number in 0..10 {
        wait.put("key", format!("{number}")).expect("put");
    }
    let last = wait.put("key", "last").expect("put").header.revision;
    until("a compaction at rest", || oldest(&engine) == last);
    assert_eq!(
        wait.get("key").expect("reads").expect("there").value,
        "last"
    );
}
