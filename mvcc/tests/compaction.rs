//! What compaction keeps, and that its physical part goes in slices and keeps only what cursors read.

mod support;

use henge_mvcc::{Error, RangeRequest, SliceLimits, Store};
use support::*;

#[test]
fn which_compact_revisions_are_accepted() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    assert_eq!(
        store.compact(-1),
        Err(Error::Compacted {
            requested: -1,
            compacted: -1
        })
    );
    assert_eq!(store.compact(0), Ok(()), "the first compact revision is -1");
    assert_eq!(
        store.compact(0),
        Err(Error::Compacted {
            requested: 0,
            compacted: 0
        })
    );
    assert_eq!(
        store.compact(3),
        Err(Error::FutureRevision {
            requested: 3,
            current: 2
        })
    );
    assert_eq!(store.compact(2), Ok(()));
    assert_eq!(store.compacted_revision(), 2);
}

#[test]
fn the_compact_revision_itself_stays_readable() {
    let mut store = Store::new();
    for value in ["1", "2", "3"] {
        put(&mut store, "a", value);
    }
    store.compact(3).expect("possible");
    for physical in [false, true] {
        assert_eq!(get_at(&store, "a", 3), "a=2@3", "physical {physical}");
        assert_eq!(get_at(&store, "a", 4), "a=3@4");
        let request = RangeRequest {
            revision: 2,
            ..range_request("a")
        };
        let compacted = Err(Error::Compacted {
            requested: 2,
            compacted: 3,
        });
        assert_eq!(store.range(&request), compacted);
        compact_all(&mut store);
    }
}

#[test]
fn versions_and_dead_keys_go() {
    let mut store = Store::new();
    for n in 0..100 {
        put(&mut store, "hot", &n.to_string());
    }
    put(&mut store, "dead", "1");
    delete(&mut store, "dead");
    put(&mut store, "cold", "1");
    store.compact(store.revision()).expect("possible");
    assert_eq!(store.stats().versions, 103);
    compact_all(&mut store);
    let stats = store.stats();
    assert_eq!((stats.versions, stats.keys, stats.keys_held), (2, 2, 2));
    assert!(stats.bytes.versions < 40, "{:?}", stats.bytes);
    assert_eq!(get(&store, "a.."), "cold=1@104 hot=99@101");
}

/// A tombstone exactly at the compact revision is kept (etcd 3.5.16, #19179), until the next one.
#[test]
fn the_tombstone_at_the_compact_revision_stays_until_the_next_compaction() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    put(&mut store, "b", "1");
    delete(&mut store, "a");
    let at = store.revision();
    store.compact(at).expect("possible");
    compact_all(&mut store);
    assert_eq!(store.stats().keys_held, 2);
    put(&mut store, "b", "2");
    store.compact(at + 1).expect("possible");
    compact_all(&mut store);
    assert_eq!(store.stats().keys_held, 1);
    assert_eq!(store.stats().versions, 1);
}

#[test]
fn a_key_made_again_after_compaction_starts_anew() {
    let mut store = Store::new();
    put(&mut store, "a", "1");
    delete(&mut store, "a");
    put(&mut store, "b", "1");
    store.compact(4).expect("possible");
    compact_all(&mut store);
    put(&mut store, "a", "2");
    let pair = store.range(&range_request("a")).expect("valid").kvs[0].clone();
    assert_eq!((pair.create_revision, pair.version), (5, 1));
}

#[test]
fn a_step_does_no_more_than_its_budget() {
    let mut store = Store::new();
    for n in 0..1_000 {
        put(&mut store, "a", &n.to_string());
    }
    assert!(!store.compact_step(10), "nothing to do");
    store.compact(1_001).expect("possible");
    let mut steps = 0;
    loop {
        let before = store.stats().versions;
        let more = store.compact_step(10);
        steps += 1;
        assert!(before - store.stats().versions <= 10);
        // Writes go on in between.
        put(&mut store, "b", "x");
        if !more {
            break;
        }
    }
    // 999 changes below the compact revision and one at it; looking for them costs too.
    assert!((101..1_500).contains(&steps), "{steps}");
    assert_eq!(get(&store, "a"), "a=999@1001");
}

#[test]
fn a_cursor_keeps_what_it_reads_until_it_has_gone() {
    let mut store = Store::new();
    for n in 0..10 {
        put(&mut store, "a", &n.to_string());
    }
    let cursor = store.snapshot_begin();
    store.compact(11).expect("possible");
    compact_all(&mut store);
    // What can be done is done: nobody has to wait for the cursor.
    assert!(!store.compaction_pending());
    assert_eq!(store.compacted_physically(), 11);
    assert_eq!(store.stats().versions, 10);
    drop(cursor);
    compact_all(&mut store);
    assert!(!store.compaction_pending());
    assert_eq!(store.stats().versions, 1);
}

/// While any cursor was open only what was newer than the newest of them went: four ranges after each other,
/// each begun before the one before had ended, kept all history for ever.
#[test]
fn regression_overlapping_ranges_do_not_stop_compaction() {
    let mut store = Store::new();
    for n in 0..50 {
        put(&mut store, &format!("stays-{n:02}"), "x");
    }
    let begin = |store: &Store| store.range_begin(&range_request("\0..")).expect("valid");
    let limits = SliceLimits {
        keys_max: 1,
        bytes_max: 1 << 20,
    };
    let mut cursors: std::collections::VecDeque<_> = (0..4).map(|_| begin(&store)).collect();
    let (mut versions_max, mut log_max) = (0, 0);
    for round in 0..2_000 {
        // New keys, deleted at once, and old ones overwritten.
        let key = format!("comes-and-goes-{round}");
        put(&mut store, &key, "x");
        delete(&mut store, &key);
        put(&mut store, &format!("stays-{:02}", round % 50), "y");
        for cursor in &mut cursors {
            assert_eq!(store.range_next(cursor, limits).end, None, "they read on");
        }
        if round % 10 == 0 {
            cursors.pop_front();
            cursors.push_back(begin(&store));
        }
        store.compact(store.revision()).expect("possible");
        while store.compact_step(100) {}
        versions_max = versions_max.max(store.stats().versions);
        log_max = log_max.max(store.stats().bytes.log);
        assert!(store.stats().keys_held <= 60, "{:?}", store.stats());
    }
    // A version for each of four cursors and now, and what was not swept yet; not 6,000.
    assert!(versions_max <= 50 * 6, "{versions_max}");
    assert!(log_max <= 64 << 10, "{log_max}");
    drop(cursors);
    compact_all(&mut store);
    assert_eq!(store.stats().versions, 50);
}

/// Before, between and behind what cursors read.
#[test]
fn what_lies_around_the_revisions_read_goes() {
    let mut store = Store::new();
    let mut cursors = Vec::new();
    for n in 0..100 {
        put(&mut store, &format!("dies-{n}"), "x");
        delete(&mut store, &format!("dies-{n}"));
        put(&mut store, "hot", &n.to_string());
        if n % 25 == 10 {
            let cursor = store.range_begin(&range_request("\0..")).expect("valid");
            cursors.push((n, cursor));
        }
    }
    put(&mut store, "hot", "last");
    put(&mut store, "other", "x");
    store.compact(store.revision()).expect("possible");
    compact_all(&mut store);
    let stats = store.stats();
    assert_eq!((stats.versions, stats.keys_held), (4 + 2, 2), "{stats:?}");
    for (n, mut cursor) in cursors {
        let slice = store.range_next(&mut cursor, SliceLimits::default());
        let values: Vec<_> = slice.kvs.iter().map(|kv| kv.value.clone()).collect();
        assert_eq!(values, [n.to_string()]);
        drop(cursor);
        compact_all(&mut store);
    }
    assert_eq!(store.stats().versions, 2);
}

/// A hot key that was far behind cost a walk of its versions for each of its changes: removal took
/// longer the farther it was behind.
#[test]
fn what_is_far_behind_costs_no_more_to_remove() {
    let budget_for = |versions: usize, kept: usize| {
        let mut store = Store::new();
        for n in 0..versions + kept {
            put(&mut store, "hot", &n.to_string());
        }
        store.compact(1 + versions as i64).expect("possible");
        let mut steps = 1;
        while store.compact_step(10) {
            steps += 1;
        }
        assert_eq!(store.stats().versions, 1 + kept as u64);
        steps * 10 / versions
    };
    for (versions, kept) in [(1_000, 0), (1_000, 20), (1_000, 1_000), (30_000, 20)] {
        let each = budget_for(versions, kept);
        assert!(each <= 4, "{each} a version of {versions}, {kept} kept");
    }
}

/// All that was overwritten while a checkpoint was written used to stay until its end.
#[test]
fn what_is_newer_than_a_cursor_goes_while_it_is_open() {
    let mut store = Store::new();
    for n in 0..100 {
        put(&mut store, "a", &n.to_string());
        put(&mut store, "b", &n.to_string());
    }
    let mut cursor = store.snapshot_begin();
    let held = store.stats().versions;
    let mut unchanged = Vec::new();
    let mut before = store.snapshot_begin();
    while store.snapshot_next(&mut before, 1_000, &mut unchanged) {}
    drop(before);
    for round in 0..10 {
        for n in 0..100 {
            put(&mut store, "a", &format!("{round}-{n}"));
        }
        delete(&mut store, "b");
        put(&mut store, "c", "new");
        delete(&mut store, "c");
        store.compact(store.revision()).expect("possible");
        while store.compact_step(7) {}
        // What hides nothing yet of `a`, the tombstones of `b` and `c`.
        assert!(store.stats().versions <= held + 3, "{:?}", store.stats());
    }
    let mut read = Vec::new();
    while store.snapshot_next(&mut cursor, 1_000, &mut read) {}
    assert_eq!(read, unchanged, "the cursor reads what it would have read");
    drop(cursor);
    compact_all(&mut store);
    // The last put of `a`, and the tombstone at the compact revision.
    assert_eq!((store.stats().versions, store.stats().keys_held), (2, 2));
}
