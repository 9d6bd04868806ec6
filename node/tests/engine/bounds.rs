//! What bounds an engine that is asked for more than it can do: budgets of waiting writes, and history that
//! it gives up by itself.

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use henge::engine::route::shard_of;
use henge::mvcc::{KeyRange, RangeRequest};
use henge::{AutoCompaction, Engine, PutError, RangeError, RangeMistake};
use henge::{Unavailable, Unknown};

use super::host::on_every_host;
use super::small;

const BUDGET: usize = 64 << 10;

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
    on_every_host("budget", |dir, host| {
        let engine = small(dir, host)
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
    });
}

#[test]
fn one_shards_burst_leaves_room_for_the_others() {
    on_every_host("neighbours", |dir, host| {
        let engine = small(dir, host)
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
    });
}

#[test]
fn a_request_larger_than_the_budget_is_served_alone_and_a_full_engine_stops_as_stopped() {
    on_every_host("large", |dir, host| {
        let engine = small(dir, host)
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
    });
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

/// They were asked for once per tick: a shard that makes sixty thousand revisions in one had as many to
/// remove at once, in no cache any more.
#[test]
fn regression_revisions_are_given_up_as_they_are_made_and_not_at_a_tick() {
    on_every_host("at-once", |dir, host| {
        // No tick comes within the test.
        let engine = small(dir, host)
            .timeouts(3_600_000, 36_000_000)
            .auto_compaction(AutoCompaction::Revisions(100));
        let engine = engine.open().expect("opens");
        let wait = engine.blocking();
        let mut last = 0;
        for number in 0..300 {
            let put = wait.put("key", format!("{number}")).expect("put");
            last = put.header.revision;
        }
        // What the last put made due is asked for behind it.
        until("a compaction", || oldest(&engine) >= last - 114);
    });
}

#[test]
fn history_beyond_the_revisions_kept_goes_and_the_rest_stays() {
    on_every_host("revisions", |dir, host| {
        let open = || small(dir, host).auto_compaction(AutoCompaction::Revisions(100));
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
    });
}

#[test]
fn history_older_than_its_period_goes_also_from_a_shard_at_rest() {
    on_every_host("period", |dir, host| {
        let rule = AutoCompaction::Periodic(Duration::from_millis(300));
        let engine = small(dir, host)
            .auto_compaction(rule)
            .open()
            .expect("opens");
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
    });
}
