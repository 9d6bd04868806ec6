//! A change that very many watchers are told of: in slices of bounded work, and each hears what it would have
//! heard in one go. `HENGE_SEED=n` runs one history.

mod support;

use std::collections::{BTreeMap, BTreeSet};

use henge_mvcc::{
    Config, DeleteRangeRequest, Event, KeyRange, LongAnswer, LongRequest, LongWrite, PutRequest,
    RequestOp, Restorer, Store, TxnRequest, WatchBatch, WatchFilters, WatchSpec, WatcherId,
};
use support::watch::spec;
use support::{Dice, for_seeds};

/// Work that a call may do beyond what it was given.
const SLACK_NANOS: u64 = 300_000;
const SLICE_NANOS: u64 = 500_000;

fn put<'a>(key: &'a [u8], value: &'a [u8]) -> PutRequest<'a> {
    PutRequest {
        key,
        value,
        ..PutRequest::default()
    }
}

/// Events that are there to be had, per watcher.
fn drain(store: &mut Store, seen: &mut BTreeMap<WatcherId, Vec<Event>>) {
    while let Some(id) = store.watch_ready() {
        if let Some(WatchBatch::Events { events, .. }) = store.watch_next(id, usize::MAX) {
            seen.entry(id).or_default().extend(events);
        }
    }
}

/// A put, a delete, a transaction, the end of a lease: each told all watchers of its keys in one go, 25 ms
/// for 100,000 of them; whether of the key alone or of intervals, also of those that do not match.
#[test]
fn regression_a_change_with_very_many_watchers_is_told_in_slices() {
    const MANY: usize = 100_000;
    for ranges in [
        &["k"][..],
        &["a..z"],
        &["k", "a..z", "k..l", "x..z", "a..b"],
    ] {
        let mut store = Store::new();
        store.lease_grant(1, 60, 0).expect("new");
        let ids: Vec<_> = ranges.iter().cycle().take(MANY).collect();
        let ids: Vec<_> = ids.iter().map(|range| store.watch(spec(range))).collect();
        let owed = ranges
            .iter()
            .filter(|range| !matches!(**range, "x..z" | "a..b"));
        let owed = owed.count() * MANY / ranges.len();
        let leased = PutRequest {
            lease: 1,
            ..put(b"k", b"1")
        };
        let txn = TxnRequest {
            success: vec![RequestOp::Put(put(b"k", b"2"))],
            ..TxnRequest::default()
        };
        let delete = DeleteRangeRequest {
            range: KeyRange::one(b"k"),
            prev_kv: false,
        };
        let of_many = DeleteRangeRequest {
            range: KeyRange {
                key: b"a",
                end: b"z",
            },
            prev_kv: false,
        };
        for request in [
            LongRequest::Txn(&txn),
            LongRequest::DeleteRange(&delete),
            LongRequest::Put(&leased),
            LongRequest::LeaseRevoke(1),
            LongRequest::Txn(&txn),
            LongRequest::DeleteRange(&of_many),
        ] {
            assert!(store.write_is_long(request), "{request:?}");
            let (mut write, mut slices) = (LongWrite::default(), 0);
            let revision = store.revision();
            let answer = loop {
                let before = store.work().nanos();
                let answer = store.write_next(&mut write, request, SLICE_NANOS);
                let done = store.work().nanos() - before;
                assert!(done <= SLICE_NANOS + SLACK_NANOS, "{request:?}: {done} ns");
                slices += 1;
                if let Some(answer) = answer {
                    break answer;
                }
                // A note of now says that everything up to now was given, and nothing more.
                assert_eq!(store.revision(), revision);
                assert!(store.watch_may_note(ids[slices]));
                assert_eq!(store.watch_ready(), None);
            };
            assert!(answer.is_ok(), "{answer:?}");
            assert!(slices >= owed / 2_000, "{slices} slices");
            assert_eq!(store.revision(), revision + 1);
            assert!(
                !store.watch_may_note(ids[0]),
                "it has not been given the event"
            );
            let mut seen = BTreeMap::new();
            drain(&mut store, &mut seen);
            assert_eq!(seen.len(), owed);
            assert!(seen.values().all(|events| events.len() == 1));
            assert!(store.watch_may_note(ids[0]));
        }
    }
}

/// Watchers that leave with something to be had were looked for one after the other in one call.
#[test]
fn a_call_passes_over_a_bounded_number_of_watchers_that_have_gone() {
    let mut store = Store::new();
    let ids: Vec<_> = (0..20_000).map(|_| store.watch(spec("k"))).collect();
    store.put(&put(b"k", b"")).expect("valid");
    for id in &ids[..19_999] {
        assert!(store.unwatch(*id));
    }
    let mut calls = 0;
    loop {
        let before = store.work().nanos();
        let ready = store.watch_ready();
        assert!(store.work().nanos() - before <= SLACK_NANOS);
        calls += 1;
        if ready == Some(ids[19_999]) {
            break;
        }
        assert_eq!(store.watch_next(ready.expect("there"), 1), None);
    }
    assert!(calls >= 20, "{calls}");
}

/// A store takes the watchers over from one that is half through such a write: those that were told of it
/// already were told again.
#[test]
fn regression_watchers_taken_over_within_a_write_hear_of_it_once() {
    let mut old = Store::new();
    let ids: Vec<_> = (0..5_000).map(|_| old.watch(spec("k"))).collect();
    let request = put(b"k", b"");
    let mut write = LongWrite::default();
    for _ in 0..5 {
        assert_eq!(
            old.write_next(&mut write, LongRequest::Put(&request), 1),
            None
        );
    }
    let mut store = Store::new();
    store.adopt_watchers(&mut old);
    let mut seen = BTreeMap::new();
    drain(&mut store, &mut seen);
    assert!(seen.is_empty(), "it was never made");
    store.put(&request).expect("valid");
    drain(&mut store, &mut seen);
    assert_eq!(seen.len(), ids.len());
    assert!(seen.values().all(|events| events.len() == 1));
}

/// What is short stays on the straight way.
#[test]
fn few_watchers_make_no_write_long() {
    let mut store = Store::new();
    for n in 0..3_000 {
        store.watch(spec(&format!("{n}")));
    }
    let more = |store: &mut Store, range, count| {
        for _ in 0..count {
            store.watch(spec(range));
        }
    };
    more(&mut store, "k", 900);
    more(&mut store, "a..z", 50);
    let short = put(b"k", b"");
    let txn = |count: usize| TxnRequest {
        success: vec![RequestOp::Put(short.clone()); count],
        ..TxnRequest::default()
    };
    assert!(!store.write_is_long(LongRequest::Put(&short)));
    assert!(!store.write_is_long(LongRequest::Put(&put(b"7", b""))));
    assert!(!store.write_is_long(LongRequest::Txn(&txn(1))));
    assert!(store.write_is_long(LongRequest::Txn(&txn(2))));
    more(&mut store, "k", 51);
    assert!(store.write_is_long(LongRequest::Put(&short)));
    // Those of other keys do not count where keys are named.
    assert!(!store.write_is_long(LongRequest::Put(&put(b"8", b""))));
    let all = DeleteRangeRequest {
        range: KeyRange::all(),
        prev_kv: false,
    };
    assert!(
        !store.write_is_long(LongRequest::DeleteRange(&all)),
        "of nothing"
    );
    store.put(&short).expect("valid");
    assert!(store.write_is_long(LongRequest::DeleteRange(&all)));
}

/// A store, its watchers, and what they have been given.
struct Side {
    store: Store,
    seen: BTreeMap<WatcherId, Vec<Event>>,
}

impl Side {
    fn new(config: Config) -> Self {
        Side {
            store: Store::with_config(config),
            seen: BTreeMap::new(),
        }
    }

    /// Delivers up to so much: in order, whole revisions, nothing of one that is not there yet.
    fn deliver(&mut self, most: u64) {
        for _ in 0..most {
            let Some(id) = self.store.watch_ready() else {
                return;
            };
            match self.store.watch_next(id, 200) {
                Some(WatchBatch::Events { revision, events }) => {
                    assert!(revision <= self.store.revision(), "of an open write");
                    let seen = self.seen.entry(id).or_default();
                    let last = seen.last().map_or(0, |last| last.kv.mod_revision);
                    assert!(last < events[0].kv.mod_revision, "split, or twice");
                    seen.extend(events);
                }
                Some(WatchBatch::Compacted { .. }) => panic!("all was given before"),
                None => {}
            }
        }
    }

    /// Who may be told of now has all up to now, and whoever has not may not.
    fn check_notes(&self, whole: &Side) {
        for (id, seen) in whole.seen.iter().step_by(7) {
            if self.store.watch_may_note(*id) {
                let now = self.store.revision();
                let owed = seen.iter().filter(|event| event.kv.mod_revision <= now);
                let given = self.seen.get(id).map_or(0, Vec::len);
                assert_eq!(given, owed.count(), "a note would overtake events");
            }
        }
    }

    fn reinstall(&mut self, config: Config) {
        let (mut stream, mut cursor) = (Vec::new(), self.store.snapshot_begin());
        while self.store.snapshot_next(&mut cursor, 1_000, &mut stream) {}
        let mut restorer = Restorer::with_config(config);
        restorer.push(&stream).expect("sound");
        let mut store = restorer.finish().expect("complete");
        store.adopt_watchers(&mut self.store);
        self.store = store;
    }
}

fn some_spec(dice: &mut Dice, revision: i64) -> WatchSpec {
    let ranges = ["a", "a", "b", "a..c", "a..", "b..d", "c..d", "d"];
    WatchSpec {
        start_revision: match dice.below(3) {
            0 => revision + 1 + dice.below(4) as i64,
            _ => 0,
        },
        prev_kv: dice.below(2) == 0,
        filters: WatchFilters {
            no_put: dice.below(8) == 0,
            no_delete: dice.below(8) == 0,
        },
        ..spec(ranges[dice.below(8) as usize])
    }
}

/// Told in slices of hardly anything, with watchers that come, go, read and fall behind in between, each
/// hears the same as from a store that tells all of them in one go.
#[test]
fn slices_tell_each_watcher_what_it_would_hear_in_one_go() {
    let mut pauses = 0;
    for_seeds("fan-out", 12, |seed| {
        let mut dice = Dice::new(seed);
        let config = Config {
            watch_buffer_bytes_max: 1_000,
            ..Config::default()
        };
        let (mut here, mut there) = (Side::new(config), Side::new(config));
        let mut ids = Vec::new();
        let mut gone = BTreeSet::new();
        let watch =
            |here: &mut Side, there: &mut Side, ids: &mut Vec<WatcherId>, spec: WatchSpec| {
                let id = here.store.watch(spec.clone());
                assert_eq!(id, there.store.watch(spec));
                ids.push(id);
            };
        for _ in 0..1_000 {
            let spec = some_spec(&mut dice, 1);
            watch(&mut here, &mut there, &mut ids, spec);
        }
        for _ in 0..40 {
            let revision = there.store.revision();
            let value = vec![b'v'; dice.below(90) as usize];
            let keys = [&b"a"[..], b"b", b"c", b"d"];
            let mut some_key = || keys[dice.below(4) as usize];
            let a_put = put(some_key(), &value);
            let delete = DeleteRangeRequest {
                range: KeyRange::one(some_key()),
                prev_kv: false,
            };
            let (a, b) = (some_key(), some_key());
            let mut txn = TxnRequest {
                success: vec![RequestOp::Put(put(a, &value))],
                ..TxnRequest::default()
            };
            if a != b {
                txn.success.push(RequestOp::Put(put(b, b"")));
            }
            let request = match dice.below(4) {
                0 => LongRequest::DeleteRange(&delete),
                1 => LongRequest::Txn(&txn),
                _ => LongRequest::Put(&a_put),
            };
            let nanos = [0, 1, 100_000][dice.below(3) as usize];
            let mut write = LongWrite::default();
            // Of both, before the one that is whole makes it.
            let mut here_done = here.store.write_next(&mut write, request, nanos);
            let mut comes = Vec::new();
            while here_done.is_none() {
                pauses += 1;
                here.deliver(dice.below(300));
                here.check_notes(&there);
                assert_eq!(here.store.revision(), revision);
                for _ in 0..dice.below(20) {
                    if dice.below(2) == 0 {
                        // One that comes hears of it, as it has not happened yet.
                        let spec = some_spec(&mut dice, revision);
                        comes.push((here.store.watch(spec.clone()), spec));
                    } else {
                        let id = ids[dice.below(ids.len() as u64) as usize];
                        gone.insert(id);
                        here.store.unwatch(id);
                    }
                }
                here.store.compact_step(5);
                here_done = here.store.write_next(&mut write, request, nanos);
            }
            for (id, spec) in comes {
                watch_same(&mut there, id, spec);
                ids.push(id);
            }
            let whole = match request {
                LongRequest::Put(put) => there.store.put(put).map(LongAnswer::Put),
                LongRequest::DeleteRange(delete) => there
                    .store
                    .delete_range(delete)
                    .map(LongAnswer::DeleteRange),
                LongRequest::Txn(txn) => there.store.txn(txn).map(LongAnswer::Txn),
                LongRequest::LeaseRevoke(_) => unreachable!(),
            };
            assert_eq!(here_done, Some(whole));
            there.deliver(u64::MAX);
            here.deliver(dice.below(3_000));
            here.check_notes(&there);
            match dice.below(8) {
                0 => {
                    here.deliver(u64::MAX);
                    let at = there.store.revision();
                    assert_eq!(here.store.compact(at), there.store.compact(at));
                }
                1 => here.reinstall(config),
                _ => {}
            }
        }
        here.deliver(u64::MAX);
        for id in ids {
            let (mut a, b) = (here.seen.remove(&id), there.seen.remove(&id));
            if gone.contains(&id) {
                // It was given the beginning of it.
                let b = b.unwrap_or_default();
                let a = a.get_or_insert_default();
                assert_eq!(a[..], b[..a.len()], "{id:?}");
            } else {
                assert_eq!(a, b, "{id:?}");
            }
        }
    });
    assert!(pauses > 100, "{pauses} pauses");
}

fn watch_same(side: &mut Side, id: WatcherId, spec: WatchSpec) {
    assert_eq!(side.store.watch(spec), id);
}
