//! Watching: rules by name, then the nine guarantees on random histories with slow, resuming,
//! cancelled and overtaken watchers.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use henge_mvcc::{
    Config, DeleteRangeRequest, Event, EventKind, KeyRange, OwnedRange, RequestOp, Restorer, Store,
    TxnRequest, WatchBatch, WatchFilters, WatchSpec, WatcherId,
};
use support::commands::{Pair, some_key_range};
use support::model::contains;
use support::*;

fn spec(range: &str) -> WatchSpec {
    spec_of(keys(range))
}

fn spec_of(range: KeyRange<'_>) -> WatchSpec {
    let owned = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    WatchSpec {
        range: OwnedRange {
            key: owned(range.key),
            end: owned(range.end),
        },
        ..WatchSpec::default()
    }
}

/// `+key=value@rev` for puts, `-key@rev` for deletes, `(was value)` behind; batches joined by `|`.
fn show_batch(batch: &WatchBatch) -> String {
    match batch {
        WatchBatch::Compacted { compact_revision } => format!("compacted {compact_revision}"),
        WatchBatch::Events { revision, events } => {
            assert_eq!(
                events.last().map(|event| event.kv.mod_revision),
                Some(*revision)
            );
            events.iter().map(show_event).collect::<Vec<_>>().join(" ")
        }
    }
}

fn show_event(event: &Event) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (key, main) = (text(&event.kv.key), event.kv.mod_revision);
    let was = event
        .prev_kv
        .as_ref()
        .map_or(String::new(), |kv| format!("(was {})", text(&kv.value)));
    match event.kind {
        EventKind::Put => format!("+{key}={}@{main}{was}", text(&event.kv.value)),
        EventKind::Delete => format!("-{key}@{main}{was}"),
    }
}

/// Everything that is ready, for one watcher.
fn drain(store: &mut Store, id: WatcherId) -> String {
    let mut shown = Vec::new();
    while let Some(ready) = store.watch_ready() {
        assert_eq!(ready, id);
        shown.extend(store.watch_next(id, usize::MAX).iter().map(show_batch));
    }
    shown.join("|")
}

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

/// A watcher of the random test, and what it has been told.
struct Reader {
    range: KeyRange<'static>,
    filters: WatchFilters,
    prev_kv: bool,
    /// The first revision that it is owed.
    from: i64,
    last: i64,
    got: Vec<Event>,
    /// Reads only every so many rounds, a little at a time.
    slow: bool,
}

impl Reader {
    fn spec(&self) -> WatchSpec {
        WatchSpec {
            start_revision: self.from,
            filters: self.filters,
            prev_kv: self.prev_kv,
            ..spec_of(self.range)
        }
    }

    fn wants(&self, event: &Event) -> bool {
        let filtered = match event.kind {
            EventKind::Put => self.filters.no_put,
            EventKind::Delete => self.filters.no_delete,
        };
        !filtered && contains(&self.range, &event.kv.key) && event.kv.mod_revision >= self.from
    }

    /// Ordered, unique, atomic, as far as one batch can tell.
    fn take(&mut self, revision: i64, events: Vec<Event>) {
        assert!(!events.is_empty());
        let first = events[0].kv.mod_revision;
        assert!(first > self.last, "atomic: {first} after {}", self.last);
        let revisions = events.iter().map(|event| event.kv.mod_revision);
        assert!(revisions.clone().is_sorted(), "ordered");
        assert_eq!(revisions.last(), Some(revision));
        self.last = revision;
        self.got.extend(events);
    }

    /// Filter, resumable, reliable, prev_kv, is-create: what was got is exactly what the model has
    /// up to the last revision seen (or the progress told).
    fn check(&self, all: &[Event], upto: i64) {
        let expected: Vec<_> = all
            .iter()
            .filter(|event| self.wants(event) && event.kv.mod_revision <= upto)
            .collect();
        assert_eq!(self.got.len(), expected.len(), "reliable");
        let mut seen = BTreeSet::new();
        for (got, expected) in self.got.iter().zip(expected) {
            assert_eq!((got.kind, &got.kv), (expected.kind, &expected.kv));
            assert!(
                seen.insert((got.kv.mod_revision, got.kv.key.clone())),
                "unique"
            );
            // Absent is allowed: it may have been compacted.
            if let Some(before) = &got.prev_kv {
                assert!(self.prev_kv);
                assert_eq!(Some(before), expected.prev_kv.as_ref(), "prev_kv");
            }
            let creates =
                got.kind == EventKind::Put && got.kv.create_revision == got.kv.mod_revision;
            assert_eq!(
                creates,
                got.kind == EventKind::Put && expected.prev_kv.is_none(),
                "is-create"
            );
        }
    }
}

fn some_reader(pair: &mut Pair) -> Reader {
    let revision = pair.model.revision();
    let from = match pair.dice.below(4) {
        0 => revision + 1 + pair.dice.below(10) as i64,
        1 => revision + 1,
        _ => (revision - pair.dice.below(60) as i64).max(1),
    };
    Reader {
        range: some_key_range(&mut pair.dice),
        filters: WatchFilters {
            no_put: pair.dice.one_in(6),
            no_delete: pair.dice.one_in(6),
        },
        prev_kv: pair.dice.one_in(2),
        from,
        last: 0,
        got: Vec::new(),
        slow: pair.dice.one_in(2),
    }
}

/// One delivery; false when the watcher is gone.
fn deliver(pair: &mut Pair, id: WatcherId, reader: &mut Reader, counts: &mut Counts) -> bool {
    let max_bytes = if reader.slow { 300 } else { 5_000 };
    match pair.store.watch_next(id, max_bytes) {
        Some(WatchBatch::Events { revision, events }) => {
            counts.events += events.len();
            reader.take(revision, events);
            true
        }
        Some(WatchBatch::Compacted { compact_revision }) => {
            counts.compacted += 1;
            assert_eq!(compact_revision, pair.model.compacted);
            let next = reader.last.max(reader.from - 1) + 1;
            assert!(next < compact_revision, "only who needs what is gone");
            reader.check(&pair.model.events, reader.last);
            false
        }
        None => true,
    }
}

#[derive(Debug, Default)]
struct Counts {
    events: usize,
    compacted: usize,
    behind: u64,
    synced: usize,
}

#[test]
fn nine_guarantees_on_random_histories() {
    let mut counts = Counts::default();
    for_seeds("watch", 60, |seed| nine_guarantees(seed, &mut counts));
    println!("{counts:?}");
    if std::env::var("HENGE_SEED").is_err() {
        // The histories reach what they are meant to reach.
        assert!(
            counts.events > 10_000 && counts.compacted > 20,
            "{counts:?}"
        );
        assert!(counts.behind > 100 && counts.synced > 100, "{counts:?}");
    }
}

fn nine_guarantees(seed: u64, counts: &mut Counts) {
    let config = Config {
        watch_buffer_bytes_max: 1_500,
        ..Config::default()
    };
    let mut pair = Pair::new(Store::with_config(config), seed);
    let mut readers: BTreeMap<WatcherId, Reader> = BTreeMap::new();
    for round in 0..400 {
        pair.write();
        if pair.dice.one_in(10) {
            let reader = some_reader(&mut pair);
            let id = pair.store.watch(reader.spec());
            assert!(readers.insert(id, reader).is_none(), "ids are not reused");
        }
        if pair.dice.one_in(40) {
            pair.compact();
        }
        if pair.dice.one_in(60) {
            reinstall(&mut pair, config);
        }
        // Whoever is ready may read; slow ones mostly do not.
        for _ in 0..pair.dice.below(8) {
            let Some(id) = pair.store.watch_ready() else {
                break;
            };
            let mut reader = readers.remove(&id).expect("ready means known");
            let waits = reader.slow && round % 16 != 0;
            if waits || deliver(&mut pair, id, &mut reader, counts) {
                readers.insert(id, reader);
            }
        }
        // Some cancel; some cancel and resume after the last revision they saw.
        if pair.dice.one_in(25)
            && let Some((&id, _)) = readers.iter().nth(pair.dice.below(5) as usize)
        {
            let mut reader = readers.remove(&id).expect("chosen");
            assert!(pair.store.unwatch(id));
            reader.check(&pair.model.events, reader.last);
            if pair.dice.one_in(2) && reader.last > 0 {
                reader.from = reader.last + 1;
                reader.got.clear();
                let id = pair.store.watch(reader.spec());
                readers.insert(id, reader);
            }
        }
        counts.behind += pair.store.stats().watchers_behind;
        counts.synced += check_progress(&pair, &readers);
    }
    // At the end everybody reads to the end.
    for (id, mut reader) in readers {
        let mut there = true;
        while there && !pair.store.watch_synced(id) {
            there = deliver(&mut pair, id, &mut reader, counts);
        }
        if there {
            reader.check(&pair.model.events, pair.model.revision());
        }
    }
}

/// Bookmarkable: a watcher that is synced has all events up to the current revision.
fn check_progress(pair: &Pair, readers: &BTreeMap<WatcherId, Reader>) -> usize {
    let synced = readers
        .iter()
        .filter(|(id, _)| pair.store.watch_synced(**id));
    let mut count = 0;
    for (_, reader) in synced {
        reader.check(&pair.model.events, pair.model.revision());
        count += 1;
    }
    count
}

/// A snapshot is installed: a new store takes the place of the old one and its watchers.
fn reinstall(pair: &mut Pair, config: Config) {
    let mut stream = Vec::new();
    let mut cursor = pair.store.snapshot_begin();
    while pair.store.snapshot_next(&mut cursor, 1_000, &mut stream) {}
    let mut restorer = Restorer::with_config(config);
    restorer.push(&stream).expect("sound");
    let mut store = restorer.finish().expect("complete");
    store.adopt_watchers(&mut pair.store);
    pair.store = store;
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
        match store.watch_next(id, 1) {
            Some(WatchBatch::Events {
                revision: 5_002,
                events,
            }) => assert_eq!(events.len(), count),
            other => panic!("{other:?}"),
        }
    }
}
