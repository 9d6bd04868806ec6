//! Ranges read in slices: the whole is what the plain range answered when the cursor began, whatever
//! is written, deleted and compacted in between.

mod support;

use henge_mvcc::{
    EARLY_BYTES, KeyRange, KeyValue, PutRequest, RangeCursor, RangeRequest, RangeResponse,
    SliceLimits, SortOrder, SortTarget, Store,
};
use support::commands::{Pair, some_range};
use support::*;

const SMALL: SliceLimits = SliceLimits {
    keys_max: 2,
    bytes_max: 40,
};

#[test]
fn slices_make_up_the_range_at_the_revision_where_the_cursor_began() {
    let (mut slices, mut held) = (0, 0);
    for_seeds("cursor", 100, |seed| {
        let mut pair = Pair::new(Store::new(), seed);
        for _ in 0..100 {
            for _ in 0..3 {
                pair.write();
            }
            if pair.dice.one_in(10) {
                pair.compact();
            }
            let revision = pair.model.revision();
            let request = some_range(&mut pair.dice, revision);
            let expected = pair.store.range(&request);
            let mut cursor = match pair.store.range_begin(&request) {
                Ok(cursor) => cursor,
                Err(error) => {
                    assert_eq!(expected, Err(error));
                    continue;
                }
            };
            let mut whole = RangeResponse::default();
            let limits = SliceLimits {
                keys_max: 1 + pair.dice.below(3) as usize,
                ..SMALL
            };
            loop {
                let slice = pair.store.range_next(&mut cursor, limits);
                slices += 1;
                let is_whole = !RangeCursor::streams(&request) && slice.end.is_some();
                assert!(is_whole || slice.kvs.len() <= limits.keys_max);
                held = held.max(cursor.held_bytes());
                whole.kvs.extend(slice.kvs);
                if let Some(end) = slice.end {
                    (whole.more, whole.count) = (end.more, end.count);
                    break;
                }
                pair.write();
                if pair.dice.one_in(5) {
                    pair.compact();
                }
            }
            assert_eq!(Ok(whole), expected, "{request:?}");
            let after = pair.store.range_next(&mut cursor, SMALL);
            assert_eq!(
                (after.kvs.len(), after.end),
                (0, None),
                "the end is the end"
            );
        }
    });
    assert!(slices > 100, "{slices} slices");
    assert!(held > 100, "{held} bytes were held by a sorter");
}

#[test]
fn a_cursor_outlives_a_compaction_past_its_revision() {
    let mut store = Store::new();
    for n in 0..10 {
        put(&mut store, &format!("k{n}"), "old");
    }
    let request = range_request("k..l");
    let expected = store.range(&request).expect("valid");
    let mut cursor = store.range_begin(&request).expect("valid");
    assert_eq!(cursor.revision(), 11);
    let mut kvs = store.range_next(&mut cursor, SMALL).kvs;
    delete(&mut store, "k..l");
    put(&mut store, "other", "1");
    store.compact(store.revision()).expect("possible");
    assert!(!store.compact_step(1_000), "it waits for the cursor");
    while kvs.len() < 10 {
        kvs.extend(store.range_next(&mut cursor, SMALL).kvs);
    }
    assert_eq!(kvs, expected.kvs);
    drop(cursor);
    compact_all(&mut store);
    assert_eq!(store.stats().keys_held, 1);
}

#[test]
fn a_slice_keeps_to_its_bounds() {
    let mut store = Store::new();
    for n in 0..1_000 {
        put(&mut store, &format!("k{n:04}"), &"v".repeat(95));
    }
    let request = range_request("\0..");
    let mut cursor = store.range_begin(&request).expect("valid");
    let limits = SliceLimits {
        keys_max: 1_000,
        bytes_max: 1_000,
    };
    assert_eq!(store.range_next(&mut cursor, limits).kvs.len(), 10);
    let limits = SliceLimits {
        keys_max: 7,
        bytes_max: 1 << 20,
    };
    assert_eq!(store.range_next(&mut cursor, limits).kvs.len(), 7);
    // Also where nothing is given out.
    let nothing = RangeRequest {
        min_mod_revision: 5_000,
        ..request
    };
    let mut cursor = store.range_begin(&nothing).expect("valid");
    let slice = store.range_next(&mut cursor, limits);
    assert_eq!((slice.kvs.len(), slice.end), (0, None));
    let whole = store.range_through(&nothing, limits);
    assert_eq!(whole, store.range(&nothing));
}

/// Who put the slices of a sorted range together went through a million pairs again in the last one, to know.
#[test]
fn a_slice_says_what_its_pairs_take_also_where_they_are_sorted() {
    let mut store = Store::new();
    for n in 0..3_000 {
        put(&mut store, &format!("k{n:04}"), &"v".repeat(n % 90));
    }
    for sort_target in [SortTarget::Key, SortTarget::Mod, SortTarget::Value] {
        let request = RangeRequest {
            range: KeyRange::all(),
            sort_target,
            sort_order: SortOrder::Descend,
            ..RangeRequest::default()
        };
        let mut cursor = store.range_begin(&request).expect("valid");
        let (mut said, mut found) = (0, 0);
        loop {
            let slice = store.range_next(&mut cursor, SliceLimits::default());
            said += slice.bytes;
            let pairs = slice.kvs.iter();
            found += pairs
                .map(|kv| kv.key.len() + kv.value.len() + size_of::<KeyValue>())
                .sum::<usize>();
            if slice.end.is_some() {
                break;
            }
        }
        assert_eq!(said, found, "{sort_target:?}");
    }
}

/// A stream's chunk of 4,096 keys was read into memory whatever their size: gigabytes of the largest values.
#[test]
fn regression_a_range_that_may_end_early_gives_out_two_mib_at_a_time() {
    let mut store = Store::new();
    for n in 0..100_u8 {
        let request = PutRequest {
            key: &[b'k', n],
            value: &vec![n; 200 << 10],
            ..PutRequest::default()
        };
        store.put(&request).expect("valid");
    }
    let request = RangeRequest {
        range: KeyRange::all(),
        limit: 90,
        ..RangeRequest::default()
    };
    let limits = SliceLimits::default();
    let whole = store.range_through(&request, limits).expect("valid");
    assert_eq!((whole.kvs.len(), whole.more), (90, true));
    let (mut found, mut chunks) = (Vec::new(), 0);
    loop {
        let mut from: Vec<u8> = found
            .last()
            .map_or(Vec::new(), |kv: &KeyValue| kv.key.to_vec());
        from.push(0);
        let request = RangeRequest {
            range: KeyRange {
                key: &from,
                end: b"\0",
            },
            limit: 90 - found.len() as i64,
            may_end_early: true,
            ..RangeRequest::default()
        };
        let chunk = store.range_through(&request, limits).expect("valid");
        let bytes: usize = chunk.kvs.iter().map(|kv| kv.value.len()).sum();
        assert!(
            !chunk.kvs.is_empty() && bytes < EARLY_BYTES + (512 << 10),
            "{bytes}"
        );
        assert!(chunk.more, "ten are left");
        found.extend(chunk.kvs);
        chunks += 1;
        if found.len() == 90 {
            break;
        }
    }
    assert!((7..=9).contains(&chunks), "{chunks}");
    assert!(found == whole.kvs);
}

/// What is surely answered within a slice needs no cursor.
#[test]
fn which_ranges_are_long() {
    let mut store = Store::new();
    for n in 0..3_000 {
        put(&mut store, &format!("k{n:04}"), "v");
    }
    let all = range_request("\0..");
    let page = RangeRequest {
        limit: 500,
        ..all.clone()
    };
    let count = RangeRequest {
        count_only: true,
        ..all.clone()
    };
    let at = |request: &RangeRequest<'static>, revision| RangeRequest {
        revision,
        ..request.clone()
    };
    let filtered = RangeRequest {
        max_mod_revision: 2_000,
        ..page.clone()
    };
    let sorted = RangeRequest {
        sort_order: SortOrder::Descend,
        ..all.clone()
    };
    let last = RangeRequest {
        sort_order: SortOrder::Descend,
        ..page.clone()
    };
    let short = |page: &RangeRequest<'static>| RangeRequest {
        limit: 8,
        ..page.clone()
    };
    let (few, last_few) = (short(&page), short(&last));
    let newest = RangeRequest {
        sort_target: SortTarget::Mod,
        limit: 1,
        ..last.clone()
    };
    let sorted_count = RangeRequest {
        count_only: true,
        ..newest.clone()
    };
    let table = [
        (range_request("k0001"), false),
        (all.clone(), true),
        // Each of its values may be large.
        (page.clone(), true),
        (few.clone(), false),
        (at(&few, 2_990), false),
        (at(&few, 100), true),
        (count.clone(), false),
        (at(&count, 100), true),
        (filtered, true),
        (sorted, true),
        (last.clone(), true),
        (last_few.clone(), false),
        (newest, true),
        (sorted_count, false),
    ];
    for (request, long) in table {
        assert_eq!(store.range_is_long(&request), long, "{request:?}");
        if long {
            let through = store.range_through(&request, SliceLimits::default());
            assert_eq!(through, store.range(&request), "{request:?}");
        }
    }
    // A page after so many deleted keys took as long as they did, until they were compacted.
    assert_eq!(delete(&mut store, "k0000..k1500"), 1_500);
    assert!(store.range_is_long(&few) && store.range_is_long(&last_few));
    store.compact(store.revision()).expect("possible");
    compact_all(&mut store);
    put(&mut store, "k", "v");
    store.compact(store.revision()).expect("possible");
    compact_all(&mut store);
    assert!(!store.range_is_long(&few) && !store.range_is_long(&last_few));
    for n in 0..1_499 {
        put(&mut store, &format!("k{n:04}"), "v");
    }
    let mut cursor = store.range_begin(&all).expect("valid");
    store.range_next(&mut cursor, SliceLimits::default());
    assert_eq!(store.range_left(&cursor), 2_001);
    let mut cursor = store.range_begin(&page).expect("valid");
    store.range_next(&mut cursor, SMALL);
    assert_eq!(store.range_left(&cursor), 498);
}
