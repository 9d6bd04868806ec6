//! Commands and reads in slices: whatever the slices, they answer as in one go, and nobody sees half of one.
//! Random histories against the naive twin and against a store that does everything in one go.
//! `HENGE_SEED=n` runs one history.

mod support;

use std::collections::BTreeMap;

use henge_mvcc::{
    DeleteRangeRequest, Error, Event, KeyRange, LongAnswer, LongRequest, LongWrite, OwnedRange,
    PutRequest, RangeRequest, RequestOp, Restorer, Store, TxnRequest, WatchBatch, WatchSpec,
    WatcherId, check,
};
use support::commands::{Pair, some_delete, some_put, some_range, some_txn};
use support::{Dice, for_seeds, put};

/// Work that a call may do beyond what it was given: the last step's. One that deletes looks at 256 keys
/// first; a run of 256 keys is sorted at a time.
const SLACK_NANOS: u64 = 300_000;

/// A command that may be done in slices.
enum Command<'a> {
    Delete(DeleteRangeRequest<'a>),
    Txn(TxnRequest<'a>),
    Revoke(i64),
}

impl Command<'_> {
    fn as_long(&self) -> LongRequest<'_, '_> {
        match self {
            Command::Delete(delete) => LongRequest::DeleteRange(delete),
            Command::Txn(txn) => LongRequest::Txn(txn),
            Command::Revoke(id) => LongRequest::LeaseRevoke(*id),
        }
    }

    fn in_one_go(&self, store: &mut Store) -> Result<LongAnswer, Error> {
        match self {
            Command::Delete(delete) => store.delete_range(delete).map(LongAnswer::DeleteRange),
            Command::Txn(txn) => store.txn(txn).map(LongAnswer::Txn),
            Command::Revoke(id) => store.lease_revoke(*id).map(LongAnswer::LeaseRevoke),
        }
    }
}

/// What watchers have delivered.
#[derive(Default)]
struct Watched(BTreeMap<WatcherId, Vec<Event>>);

impl Watched {
    /// Delivers what there is, and no event of a revision that is not there yet.
    fn drain(&mut self, store: &mut Store) {
        for _ in 0..10_000 {
            let Some(id) = store.watch_ready() else {
                return;
            };
            match store.watch_next(id, 300) {
                Some(WatchBatch::Events { revision, events }) => {
                    assert!(revision <= store.revision(), "of an open write");
                    let seen = self.0.entry(id).or_default();
                    assert!(
                        seen.last()
                            .is_none_or(|last| last.kv.mod_revision < events[0].kv.mod_revision),
                        "a revision was split"
                    );
                    seen.extend(events);
                }
                Some(WatchBatch::Compacted { .. }) => {
                    self.0.remove(&id);
                }
                None => {}
            }
        }
        panic!("watchers ask for ever");
    }
}

fn watch(store: &mut Store, dice: &mut Dice) -> WatcherId {
    let ranges: [(&[u8], &[u8]); 4] = [(b"\0", b"\0"), (b"b", b"c"), (b"a", b""), (b"b/1", b"")];
    let (key, end) = ranges[dice.below(4) as usize];
    let back = dice.below(6) as i64;
    store.watch(WatchSpec {
        range: OwnedRange {
            key: key.to_vec().into(),
            end: end.to_vec().into(),
        },
        start_revision: match dice.below(3) {
            0 => 0,
            1 => store.revision() + back,
            _ => (store.revision() - back)
                .max(store.compacted_revision())
                .max(1),
        },
        prev_kv: dice.below(2) == 0,
        ..WatchSpec::default()
    })
}

#[test]
fn commands_in_slices_answer_as_in_one_go_and_are_invisible_until_their_end() {
    for_seeds("long", 60, |seed| {
        let mut pair = Pair::new(Store::new(), seed);
        let mut twin = Store::new();
        let (mut here, mut there) = (Watched::default(), Watched::default());
        let mut dice = Dice::new(seed ^ 7);
        for _ in 0..150 {
            // Leases and plain puts, in one go on both.
            let id = 1 + dice.below(3) as i64;
            let granted = pair.store.lease_grant(id, 60, 0);
            assert_eq!(granted, twin.lease_grant(id, 60, 0));
            assert_eq!(granted, pair.model.lease_grant(id, 60));
            for _ in 0..2 {
                let request = some_put(&mut dice);
                let done = pair.store.put(&request);
                assert_eq!(done, twin.put(&request));
                assert_eq!(done, pair.model.put(&request));
            }
            if dice.below(4) == 0 {
                let mut same = dice.clone();
                let a = watch(&mut pair.store, &mut dice);
                assert_eq!(a, watch(&mut twin, &mut same));
            }
            let revision = pair.model.revision();
            let command = match dice.below(4) {
                0 => Command::Delete(some_delete(&mut dice)),
                1 => Command::Revoke(1 + dice.below(4) as i64),
                _ => {
                    let txn = some_txn(&mut dice, revision, 0);
                    if check::txn(&txn, &check::Limits::default()).is_err() {
                        continue;
                    }
                    Command::Txn(txn)
                }
            };
            let done = in_slices(&mut pair, &command, &mut dice, &mut here);
            assert_eq!(done, command.in_one_go(&mut twin));
            let expected = match &command {
                Command::Delete(delete) => {
                    Ok(LongAnswer::DeleteRange(pair.model.delete_range(delete)))
                }
                Command::Txn(txn) => pair.model.txn(txn).map(LongAnswer::Txn),
                Command::Revoke(id) => pair.model.lease_revoke(*id).map(LongAnswer::LeaseRevoke),
            };
            assert_eq!(done, expected);
            pair.read();
            pair.compare_rest();
            assert_eq!(pair.store.hash_kv(0), twin.hash_kv(0));
            // Before a compaction takes what was before an event.
            here.drain(&mut pair.store);
            there.drain(&mut twin);
            if dice.below(20) == 0 {
                let at = revision - dice.below(10) as i64;
                assert_eq!(pair.store.compact(at), twin.compact(at));
                let _ = pair.model.compact(at);
            }
        }
        assert_eq!(here.0, there.0, "watchers hear the same");
    });
}

/// Does a command in slices of hardly anything, with everything else in between.
fn in_slices(
    pair: &mut Pair,
    command: &Command<'_>,
    dice: &mut Dice,
    watched: &mut Watched,
) -> Result<LongAnswer, Error> {
    let before = pair.store.hash_kv(0).expect("readable");
    let nanos = [0, 1, 500, 3_000][dice.below(4) as usize];
    let mut write = LongWrite::default();
    loop {
        let work = pair.store.work().nanos();
        if let Some(done) = pair.store.write_next(&mut write, command.as_long(), nanos) {
            return done;
        }
        assert!(pair.store.work().nanos() - work <= nanos + SLACK_NANOS);
        assert_eq!(pair.store.revision(), pair.model.revision());
        match dice.below(7) {
            0 => assert_eq!(pair.store.hash_kv(0), Ok(before)),
            1 => {
                let (mut cursor, mut stream) = (pair.store.snapshot_begin(), Vec::new());
                while pair.store.snapshot_next(&mut cursor, 100, &mut stream) {}
                let mut restorer = Restorer::new();
                restorer.push(&stream).expect("sound");
                let restored = restorer.finish().expect("complete");
                assert_eq!(restored.hash_kv(0), Ok(before));
                assert_eq!(restored.leases(), pair.store.leases());
            }
            2 => pair.compare_leases(),
            3 => {
                pair.store.compact_step(dice.below(20) as usize);
            }
            4 => {
                // Others' transactions read the state before, in one go and in slices.
                let mut txn = TxnRequest::default();
                for _ in 0..3 {
                    let range = some_range(dice, pair.model.revision());
                    txn.success.push(henge_mvcc::RequestOp::Range(range));
                }
                let found = pair.store.txn_read(&txn);
                assert_eq!(found, pair.model.txn(&txn));
                let mut read = pair.store.txn_read_begin(&txn);
                let sliced = loop {
                    if let Some(found) = pair.store.txn_read_next(&mut read, &txn, 300) {
                        break found;
                    }
                };
                assert_eq!(sliced, found);
            }
            _ => {
                pair.read();
                let request = some_range(dice, pair.model.revision());
                let sliced = pair.store.range_through(
                    &request,
                    henge_mvcc::SliceLimits {
                        keys_max: 2,
                        bytes_max: 10,
                    },
                );
                assert_eq!(sliced, pair.model.range(&request), "{request:?}");
            }
        }
        watched.drain(&mut pair.store);
    }
}

/// A transaction that only reads is of the revision at which it began, whatever is written and compacted
/// meanwhile: its comparisons, and every range.
#[test]
fn reads_in_slices_are_of_the_moment_they_began() {
    for_seeds("long reads", 60, |seed| {
        let mut pair = Pair::new(Store::new(), seed);
        let mut dice = Dice::new(seed ^ 9);
        for _ in 0..60 {
            (0..5).for_each(|_| pair.write());
            let revision = pair.model.revision();
            let mut txn = some_txn(&mut dice, revision, 0);
            let only_ranges = |ops: &mut Vec<henge_mvcc::RequestOp<'_>>| {
                ops.retain(|op| matches!(op, henge_mvcc::RequestOp::Range(_)));
            };
            only_ranges(&mut txn.success);
            only_ranges(&mut txn.failure);
            let expected = pair.store.txn_read(&txn);
            let keys_of: Vec<_> = pair.model.leases.keys().copied().collect();
            let leases: Vec<_> = keys_of
                .iter()
                .map(|&id| pair.model.lease_keys(id))
                .collect();
            let mut gathered: Vec<_> = keys_of
                .iter()
                .map(|&id| pair.store.lease_keys_begin(id))
                .collect();
            let mut read = pair.store.txn_read_begin(&txn);
            let mut found = None;
            while found.is_none() {
                found = pair.store.txn_read_next(&mut read, &txn, dice.below(2_000));
                (0..3).for_each(|_| pair.write());
                if dice.below(5) == 0 {
                    pair.compact();
                }
            }
            assert_eq!(found, Some(expected), "{txn:?}");
            for (gathered, keys) in gathered.iter_mut().zip(leases) {
                let found = loop {
                    pair.write();
                    if let Some(keys) = pair.store.lease_keys_next(gathered, 600) {
                        break keys;
                    }
                };
                assert_eq!(found, keys);
            }
        }
    });
}

/// A watcher that comes by a revision of many changes was given a call's worth of all of it.
#[test]
fn a_large_revision_is_gathered_in_slices_and_delivered_whole() {
    let mut store = Store::new();
    for n in 0..20_000_u32 {
        put(&mut store, &format!("{n:05}"), "value");
    }
    let all = DeleteRangeRequest {
        range: KeyRange::all(),
        prev_kv: false,
    };
    assert!(store.write_is_long(LongRequest::DeleteRange(&all)));
    let before = store.revision();
    let mut write = LongWrite::default();
    let mut slices = 0;
    while store
        .write_next(&mut write, LongRequest::DeleteRange(&all), 1_000_000)
        .is_none()
    {
        slices += 1;
    }
    assert!(slices > 10, "{slices}");
    put(&mut store, "after", "1");
    let id = store.watch(WatchSpec {
        range: OwnedRange {
            key: b"\0"[..].into(),
            end: b"\0"[..].into(),
        },
        start_revision: before,
        prev_kv: true,
        ..WatchSpec::default()
    });
    let (mut calls, mut sizes) = (0, Vec::new());
    while let Some(ready) = store.watch_ready() {
        assert_eq!(ready, id);
        let work = store.work().nanos();
        if let Some(WatchBatch::Events { events, .. }) = store.watch_next(id, 1 << 20) {
            sizes.push(events.len());
        }
        assert!(store.work().nanos() - work < 2_000_000);
        calls += 1;
    }
    assert_eq!(sizes.iter().sum::<usize>(), 1 + 20_000 + 1);
    assert!(sizes.contains(&20_000), "{sizes:?}");
    assert!(calls >= 20, "{calls}");
}

/// Which branches are taken was found from the root again for each transaction, which nobody counted: some
/// 80,000 below one another, which fit into a request, took ten seconds in one turn.
#[test]
fn regression_nested_transactions_are_decided_in_slices_each_once() {
    let nest = |txn: TxnRequest<'static>, width: usize| TxnRequest {
        success: vec![RequestOp::Txn(Box::new(txn)); width],
        ..TxnRequest::default()
    };
    let leaf = nest(TxnRequest::default(), 42);
    let mut txn = nest(nest(leaf, 43), 43);
    txn.success.push(RequestOp::Put(PutRequest {
        key: b"key",
        ..PutRequest::default()
    }));
    let mut store = Store::new();
    let request = LongRequest::Txn(&txn);
    assert!(store.write_is_long(request));
    let mut write = LongWrite::default();
    let (before, mut slices) = (store.work().nanos(), 0);
    let answer = loop {
        let work = store.work().nanos();
        let outcome = store.write_next(&mut write, request, 500_000);
        let done = store.work().nanos() - work;
        assert!(done < 5_000_000, "{done} ns in one slice");
        slices += 1;
        if let Some(outcome) = outcome {
            break outcome.expect("it may");
        }
        // What was read once is kept: a slice goes through all of it no more, whatever the others did.
        assert!(slices == 1 || done < 500_000 + SLACK_NANOS, "{done} ns");
    };
    let done = store.work().nanos() - before;
    // Each is looked at, when it is decided, checked and done.
    let looks = 43 * 43 * 42 * 250;
    assert!((looks..10 * looks).contains(&done), "{done} ns");
    assert!(slices > 10, "{slices} slices");
    assert_eq!(Ok(answer), Store::new().txn(&txn).map(LongAnswer::Txn));
}

/// What is short stays on the straight way.
#[test]
fn only_what_may_take_longer_than_a_slice_is_long() {
    let mut store = Store::new();
    store.lease_grant(1, 60, 0).expect("new");
    for n in 0..2_000_u32 {
        let key = n.to_be_bytes();
        let request = PutRequest {
            key: &key,
            lease: i64::from(n % 4 == 0),
            ..PutRequest::default()
        };
        store.put(&request).expect("valid");
    }
    let delete = |key, end| DeleteRangeRequest {
        range: KeyRange { key, end },
        prev_kv: false,
    };
    let is_long = |store: &Store, delete| store.write_is_long(LongRequest::DeleteRange(&delete));
    assert!(!is_long(&store, delete(b"a", b"")));
    assert!(is_long(&store, delete(b"\0", b"\0")));
    assert!(!is_long(&store, delete(b"a", b"b")));
    assert!(!store.write_is_long(LongRequest::LeaseRevoke(1)));
    let range = RangeRequest {
        range: KeyRange::one(b"a"),
        ..RangeRequest::default()
    };
    let txn = |count| TxnRequest {
        success: vec![henge_mvcc::RequestOp::Range(range.clone()); count],
        ..TxnRequest::default()
    };
    assert!(!store.txn_is_long(&txn(8)));
    assert!(store.txn_is_long(&txn(9)));
}
