//! Cursors that are open for long: whatever is written, compacted and removed meanwhile, each gives what was
//! there when it began, and what is read beside them is what the model has.

mod support;

use henge_mvcc::{
    HashCursor, RangeCursor, RangeRequest, RangeResponse, Restorer, SliceLimits, SnapshotCursor,
    Store,
};
use support::commands::Pair;
use support::*;

/// A cursor, and what it has to come to.
enum Open {
    Snapshot(SnapshotCursor, Vec<u8>, Vec<u8>),
    Hash(HashCursor, (u32, i64)),
    Range(Box<RangeCursor>, Vec<henge_mvcc::KeyValue>, RangeResponse),
}

/// A snapshot in one slice.
fn at_once(store: &Store) -> Vec<u8> {
    let mut whole = Vec::new();
    let mut cursor = store.snapshot_begin();
    while store.snapshot_next(&mut cursor, 1 << 20, &mut whole) {}
    whole
}

fn begin(pair: &mut Pair) -> Option<Open> {
    let store = &pair.store;
    let oldest = store.compacted_revision().max(1);
    let revision = oldest + pair.dice.below((store.revision() - oldest + 1) as u64) as i64;
    match pair.dice.below(3) {
        0 => {
            let whole = at_once(store);
            Some(Open::Snapshot(store.snapshot_begin(), Vec::new(), whole))
        }
        1 => {
            let whole = store.hash_kv(revision).ok()?;
            Some(Open::Hash(store.hash_begin(revision).ok()?, whole))
        }
        _ => {
            let request = RangeRequest {
                revision,
                ..range_request("\0..")
            };
            let whole = store.range(&request).ok()?;
            let cursor = store.range_begin(&request).ok()?;
            Some(Open::Range(Box::new(cursor), Vec::new(), whole))
        }
    }
}

/// A slice; whether the cursor has come to its end, and to what it had to.
fn go_on(store: &Store, open: &mut Open) -> bool {
    match open {
        Open::Snapshot(cursor, found, whole) => {
            let more = store.snapshot_next(cursor, 60, found);
            if !more {
                // Slices show in the stream, not in what it says.
                let mut restorer = Restorer::new();
                restorer.push(found).expect("sound");
                let restored = restorer.finish().expect("sound");
                assert!(at_once(&restored) == *whole, "a snapshot");
            }
            !more
        }
        Open::Hash(cursor, whole) => match store.hash_step(cursor, 3) {
            None => false,
            Some(found) => {
                assert_eq!(found, *whole, "a hash");
                true
            }
        },
        Open::Range(cursor, found, whole) => {
            let limits = SliceLimits {
                keys_max: 2,
                bytes_max: 1 << 20,
            };
            let slice = store.range_next(cursor, limits);
            found.extend(slice.kvs);
            let Some(end) = slice.end else {
                return false;
            };
            assert_eq!(
                (found as &Vec<_>, end.count),
                (&whole.kvs, whole.count),
                "a range"
            );
            true
        }
    }
}

#[test]
fn every_cursor_gives_what_was_there_when_it_began() {
    let mut ended = 0;
    for_seeds("cursors", 150, |seed| {
        let mut pair = Pair::new(Store::new(), seed);
        let mut cursors: Vec<Open> = Vec::new();
        for _ in 0..600 {
            pair.write();
            if pair.dice.one_in(12) {
                pair.compact();
            }
            if pair.dice.one_in(4) {
                let budget = pair.dice.below(40) as usize;
                pair.store.compact_step(budget);
            }
            if cursors.len() < 4 && pair.dice.one_in(10) {
                cursors.extend(begin(&mut pair));
            }
            let store = &pair.store;
            if !cursors.is_empty() && pair.dice.one_in(3) {
                let at = pair.dice.below(cursors.len() as u64) as usize;
                if go_on(store, &mut cursors[at]) {
                    cursors.swap_remove(at);
                    ended += 1;
                }
            }
            pair.read();
        }
        for open in &mut cursors {
            while !go_on(&pair.store, open) {}
        }
        drop(cursors);
        compact_all(&mut pair.store);
        assert!(!pair.store.compaction_pending());
        pair.compare_rest();
        (0..40).for_each(|_| pair.read());
    });
    assert!(
        ended > 100 || std::env::var("HENGE_SEED").is_ok(),
        "{ended}"
    );
}
