//! Watching: rules by name. The nine guarantees on random histories are in `watch_guarantees.rs`.

mod support;

use bytes::Bytes;
use henge_mvcc::{
    Config, DeleteRangeRequest, OwnedRange, RequestOp, Restorer, Store, TxnRequest, WatchBatch,
    WatchFilters, WatchSpec,
};
use support::watch::{drain, show_batch, spec};
use support::*;

#[test]
fn a_watcher_sees_changes_of_its_keys_from_now_on() {
    let mut store = Store::new();
    put(&mut store, "a", "0");
    let id = store.watch(spec("a..c"));
    assert!(store.watch_synced(id));
    assert_eq!(store.watch_ready(), None);
    put(&mut store, "b", "1");
    put(&mut store, "c", "2");
    delete(&mut store, "a");
    assert!(!store.watch_synced(id));
    assert_eq!(drain(&mut store, id), "+b=1@3 -a@5");
    assert!(store.watch_synced(id));
}

#[test]
fn a_watcher_from_the_past_gets_all_of_it() {
    let mut store = Store::new();
    for (key, value) in [("a", "1"), ("b", "2"), ("a", "3")] {
        put(&mut store, key, value);
    }
    delete(&mut store, "a");
    put(&mut store, "a", "4");
    let table = [
        ("a", 1, "+a=1@2 +a=3@4(was 1) -a@5(was 3) +a=4@6"),
        ("a", 4, "+a=3@4(was 1) -a@5(was 3) +a=4@6"),
        ("a", 6, "+a=4@6"),
        ("a", 7, ""),
        ("a..", 3, "+b=2@3 +a=3@4(was 1) -a@5(was 3) +a=4@6"),
        ("b..", 2, "+b=2@3"),
        ("x", 2, ""),
    ];
    for (range, start_revision, expected) in table {
        let id = store.watch(WatchSpec {
            start_revision,
            prev_kv: true,
            ..spec(range)
        });
        assert_eq!(
            drain(&mut store, id),
            expected,
            "{range} from {start_revision}"
        );
        assert!(store.watch_synced(id));
        assert!(store.unwatch(id));
        assert!(!store.unwatch(id));
    }
}

/// etcd #20221: a watch on a future revision must not be given what comes before it.
#[test]
fn regression_20221_a_future_start_revision_withholds_what_is_earlier() {
    let mut store = Store::new();
    let id = store.watch(WatchSpec {
        start_revision: 4,
        ..spec("a")
    });
    assert!(store.watch_synced(id));
    for value in ["2", "3", "4", "5"] {
        put(&mut store, "a", value);
    }
    assert_eq!(drain(&mut store, id), "+a=4@4 +a=5@5");
}

/// A progress note named a revision below where a watcher begins: its client resumed after the note and
/// was given what it had not asked for (etcd #19287).
#[test]
fn regression_a_watcher_that_begins_in_the_future_may_not_be_told_of_earlier_revisions() {
    let mut store = Store::new();
    put(&mut store, "b", "1");
    let at = |store: &mut Store, start_revision| {
        store.watch(WatchSpec {
            start_revision,
            ..spec("a")
        })
    };
    let (now, next, later) = (at(&mut store, 0), at(&mut store, 3), at(&mut store, 5));
    let may_note = |store: &Store| [now, next, later].map(|watcher| store.watch_may_note(watcher));
    assert_eq!(may_note(&store), [true, false, false]);
    put(&mut store, "b", "2");
    assert_eq!(may_note(&store), [true, true, false]);
    put(&mut store, "a", "3");
    // Those that have something to come are not told before they have it.
    assert_eq!(may_note(&store), [false, false, false]);
    for watcher in [now, next] {
        assert!(store.watch_next(watcher, 1_000).is_some());
    }
    assert_eq!(may_note(&store), [true, true, false]);
    put(&mut store, "b", "4");
    assert_eq!(may_note(&store), [true, true, true]);
}

#[test]
fn filters() {
    let mut store = Store::new();
    let filters = |no_put, no_delete| WatchFilters { no_put, no_delete };
    let table = [
        (filters(true, false), "-a@3"),
        (filters(false, true), "+a=1@2"),
        (filters(true, true), ""),
    ];
    let live: Vec<_> = table
        .iter()
        .map(|row| {
            store.watch(WatchSpec {
                filters: row.0,
                ..spec("a")
            })
        })
        .collect();
    put(&mut store, "a", "1");
    delete(&mut store, "a");
    for (id, (filters, expected)) in live.into_iter().zip(table) {
        let shown = store
            .watch_next(id, usize::MAX)
            .map_or(String::new(), |b| show_batch(&b));
        assert_eq!(shown, expected);
        let late = store.watch(WatchSpec {
            filters,
            start_revision: 2,
            ..spec("a..")
        });
        let shown = store
            .watch_next(late, usize::MAX)
            .map_or(String::new(), |b| show_batch(&b));
        assert_eq!(shown, expected);
    }
}

#[test]
fn previous_pairs_are_those_before_the_revision_and_gone_once_compacted() {
    let mut store = Store::new();
    let id = store.watch(WatchSpec {
        prev_kv: true,
        ..spec("a")
    });
    put(&mut store, "a", "1");
    put(&mut store, "a", "2");
    delete(&mut store, "a");
    assert_eq!(drain(&mut store, id), "+a=1@2 +a=2@3(was 1) -a@4(was 2)");
    store.unwatch(id);
    store.compact(3).expect("possible");
    // Revision 2, where the old value of revision 3 was, can no longer be read.
    let late = WatchSpec {
        prev_kv: true,
        start_revision: 3,
        ..spec("a")
    };
    let id = store.watch(late.clone());
    assert_eq!(drain(&mut store, id), "+a=2@3 -a@4(was 2)");
    store.unwatch(id);
    compact_all(&mut store);
    let id = store.watch(late);
    assert_eq!(drain(&mut store, id), "+a=2@3 -a@4(was 2)");
}

/// etcd #18089 and #19179: compaction at the revision of a delete must not hide it from a watcher
/// that begins there.
#[test]
fn regression_18089_19179_a_delete_at_the_compact_revision_is_still_delivered() {
    for range in ["a", "a.."] {
        let mut store = Store::new();
        put(&mut store, "a", "1");
        delete(&mut store, "a");
        store.compact(3).expect("possible");
        compact_all(&mut store);
        let id = store.watch(WatchSpec {
            start_revision: 3,
            ..spec(range)
        });
        assert_eq!(drain(&mut store, id), "-a@3");
    }
}

#[test]
fn a_start_below_the_compact_revision_ends_the_watcher() {
    let mut store = Store::new();
    for value in ["1", "2", "3"] {
        put(&mut store, "a", value);
    }
    store.compact(3).expect("possible");
    let id = store.watch(WatchSpec {
        start_revision: 2,
        ..spec("a")
    });
    assert!(!store.watch_synced(id));
    assert_eq!(drain(&mut store, id), "compacted 3");
    assert!(!store.unwatch(id), "it is gone");
    assert_eq!(store.stats().watchers, 0);
}

/// etcd #17529: a slow watcher overtaken by compaction must be told, never skip.
#[test]
fn regression_17529_a_slow_watcher_is_overtaken_only_with_notice() {
    let config = Config {
        watch_buffer_bytes_max: 600,
        ..Config::default()
    };
    let mut store = Store::with_config(config);
    let id = store.watch(spec("a"));
    for n in 0..20 {
        put(&mut store, "a", &n.to_string());
    }
    assert_eq!(store.stats().watchers_behind, 1);
    let Some(WatchBatch::Events { revision, .. }) = store.watch_next(id, usize::MAX) else {
        panic!("what was buffered comes first")
    };
    store.compact(20).expect("possible");
    compact_all(&mut store);
    assert!(revision < 19);
    let next = store.watch_next(id, usize::MAX);
    assert_eq!(
        next,
        Some(WatchBatch::Compacted {
            compact_revision: 20
        })
    );
    assert_eq!(store.watch_next(id, usize::MAX), None);
}

/// etcd #15220: progress may be told only to a watcher that has been given everything.
#[test]
fn regression_15220_a_watcher_with_something_left_is_not_synced() {
    let mut store = Store::new();
    for n in 0..3_000 {
        put(&mut store, "b", &n.to_string());
    }
    let behind = store.watch(WatchSpec {
        start_revision: 2,
        ..spec("a..b")
    });
    let mut slices = 0;
    while !store.watch_synced(behind) {
        assert_eq!(store.watch_ready(), Some(behind));
        assert_eq!(store.watch_next(behind, 1_000), None, "nothing matches");
        slices += 1;
    }
    assert!(slices > 2, "looking through the log went in slices");
    put(&mut store, "a", "1");
    assert!(!store.watch_synced(behind));
    assert_eq!(drain(&mut store, behind), "+a=1@3002");
}

#[test]
fn a_revision_is_never_split_and_batches_keep_to_their_bytes() {
    let mut store = Store::new();
    let live = store.watch(spec("a.."));
    for _ in 0..5 {
        let puts = ["a", "b", "c"].map(|key| RequestOp::Put(put_request(key, "0123456789")));
        store
            .txn(&TxnRequest {
                success: puts.into(),
                ..TxnRequest::default()
            })
            .expect("valid");
    }
    let late = store.watch(WatchSpec {
        start_revision: 2,
        ..spec("a..")
    });
    for id in [live, late] {
        for max_bytes in [0, 1, 900] {
            let Some(WatchBatch::Events { revision, events }) = store.watch_next(id, max_bytes)
            else {
                panic!("events are left")
            };
            assert_eq!(events.len(), 3, "one revision at a time");
            assert!(events.iter().all(|event| event.kv.mod_revision == revision));
        }
        let Some(WatchBatch::Events { events, .. }) = store.watch_next(id, 1 << 20) else {
            panic!("events are left")
        };
        assert_eq!(events.len(), 6);
        assert!(store.watch_synced(id));
    }
}

#[test]
fn a_revision_larger_than_the_buffer_comes_whole_from_the_log() {
    let config = Config {
        watch_buffer_bytes_max: 700,
        ..Config::default()
    };
    let mut store = Store::with_config(config);
    let id = store.watch(spec("a.."));
    put(&mut store, "a", "1");
    let puts = (0..50)
        .map(|_| RequestOp::Put(put_request("b", "2")))
        .collect();
    store
        .txn(&TxnRequest {
            success: puts,
            ..TxnRequest::default()
        })
        .expect("valid");
    let sizes: Vec<_> = std::iter::from_fn(|| store.watch_next(id, usize::MAX))
        .map(|batch| match batch {
            WatchBatch::Events { events, .. } => events.len(),
            WatchBatch::Compacted { .. } => panic!("nothing is compacted"),
        })
        .collect();
    assert_eq!(sizes, [1, 50]);
    assert!(store.watch_synced(id));
}

#[test]
fn an_empty_key_is_the_zero_key_and_an_empty_range_matches_nothing() {
    let mut store = Store::new();
    let all = store.watch(WatchSpec {
        range: OwnedRange {
            key: Bytes::new(),
            end: Bytes::from_static(b"\0"),
        },
        ..WatchSpec::default()
    });
    let none = store.watch(spec("b..a"));
    put(&mut store, "aa", "1");
    assert_eq!(drain(&mut store, all), "+aa=1@2");
    assert!(store.watch_synced(none));
    let none_late = store.watch(WatchSpec {
        start_revision: 1,
        ..spec("b..a")
    });
    assert_eq!(drain(&mut store, none_late), "");
}

#[test]
fn buffered_memory_is_accounted_and_freed() {
    let mut store = Store::new();
    let before = store.stats().bytes.watch;
    let ids: Vec<_> = (0..10).map(|_| store.watch(spec("a"))).collect();
    let idle = store.stats().bytes.watch;
    put(&mut store, "a", &"x".repeat(1_000));
    assert!(store.stats().bytes.watch >= idle + 10_000);
    for (n, id) in ids.into_iter().enumerate() {
        if n % 2 == 0 {
            assert!(store.watch_next(id, usize::MAX).is_some());
        }
        store.unwatch(id);
    }
    assert_eq!(store.stats().bytes.watch, before);
    assert_eq!(store.watch_ready(), None);
}

/// Each watcher had a bound, and all together none: one change under ten thousand of them could take
/// gigabytes before anybody had a chance to deliver any of it.
#[test]
fn regression_what_all_watchers_hold_together_is_bounded() {
    let mut store = Store::new();
    let idle = store.stats().bytes.watch;
    let ids: Vec<_> = (0..600).map(|_| store.watch(spec("a"))).collect();
    let value = "x".repeat(512 << 10);
    put(&mut store, "a", &value);
    let held = store.stats().bytes.watch - idle;
    assert!(held > 128 << 20 && held < 257 << 20, "{held} bytes");
    // Those that found no room read it from history: nobody misses it.
    let mut told = Vec::new();
    while let Some(id) = store.watch_ready() {
        let Some(WatchBatch::Events { revision, events }) = store.watch_next(id, usize::MAX) else {
            panic!("{id:?} has something else to hear");
        };
        assert_eq!((revision, events.len()), (2, 1));
        assert_eq!(&events[0].kv.value[..], value.as_bytes());
        told.push(id);
    }
    assert!(told.len() == ids.len() && ids.iter().all(|id| told.contains(id)));
}

/// etcd #15271: a replica that is set back by an older snapshot must not tell its watchers again
/// what they know.
#[test]
fn regression_15271_an_older_snapshot_does_not_make_watchers_travel_in_time() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    let mut stream = Vec::new();
    let mut cursor = store.snapshot_begin();
    while store.snapshot_next(&mut cursor, 1_000, &mut stream) {}
    let id = store.watch(spec("a"));
    put(&mut store, "a", "2");
    assert_eq!(drain(&mut store, id), "+a=2@3");
    put(&mut store, "a", "3");
    let mut restorer = Restorer::new();
    restorer.push(&stream).expect("sound");
    let mut older = restorer.finish().expect("complete");
    older.adopt_watchers(&mut store);
    // Nor are they told of a revision before what they know: they would resume there.
    assert!(!older.watch_may_note(id));
    for value in ["2", "3", "4"] {
        put(&mut older, "a", value);
    }
    assert_eq!(drain(&mut older, id), "+a=3@4 +a=4@5");
}

/// etcd #17247: an event is delivered once, also when it comes while the watcher catches up.
#[test]
fn regression_17247_no_event_twice_between_catching_up_and_in_sync() {
    let mut store = Store::new();
    for n in 0..2_500 {
        put(&mut store, "a", &n.to_string());
    }
    let id = store.watch(WatchSpec {
        start_revision: 2,
        ..spec("a..")
    });
    let mut seen = Vec::new();
    let mut extra = 0;
    while !store.watch_synced(id) {
        if let Some(WatchBatch::Events { events, .. }) = store.watch_next(id, 20_000) {
            seen.extend(events.iter().map(|event| event.kv.mod_revision));
        }
        if extra < 500 {
            put(&mut store, "a", "more");
            extra += 1;
        }
    }
    assert!(seen.iter().copied().eq(2..=store.revision()));
}

#[test]
fn a_delete_of_many_keys_is_one_batch() {
    let mut store = Store::new();
    for n in 0..5_000 {
        put(&mut store, &format!("k{n:04}"), "v");
    }
    let live = store.watch(spec("k0000..k1000"));
    let request = DeleteRangeRequest {
        range: keys("k.."),
        prev_kv: false,
    };
    assert_eq!(store.delete_range(&request).expect("valid").deleted, 5_000);
    let late = store.watch(WatchSpec {
        start_revision: 5_002,
        ..spec("k..")
    });
    for (id, count) in [(live, 1_000), (late, 5_000)] {
        // It is gathered in slices of a thousand changes.
        let mut calls = (0..10).map(|_| store.watch_next(id, 1));
        match calls.find_map(|batch| batch) {
            Some(WatchBatch::Events {
                revision: 5_002,
                events,
            }) => assert_eq!(events.len(), count),
            other => panic!("{other:?}"),
        }
    }
}
