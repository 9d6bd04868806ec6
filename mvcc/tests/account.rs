//! Memory: the accounting follows what is stored, and the overheads keep to the design's budget
//! (64 bytes per key, 24 per extra version, beside the bytes of keys and values).

mod support;

use henge_mvcc::{KeyRange, PutRequest, RangeRequest, Store};
use support::*;

fn put_bytes(store: &mut Store, key: &[u8], value: &[u8]) {
    store
        .put(&PutRequest {
            key,
            value,
            ..PutRequest::default()
        })
        .expect("valid");
}

/// 16-byte keys in random order.
fn key(n: u64) -> [u8; 16] {
    let mut dice = Dice::new(n);
    let mut key = [0; 16];
    key[..8].copy_from_slice(&dice.next().to_be_bytes());
    key[8..].copy_from_slice(&dice.next().to_be_bytes());
    key
}

#[test]
fn overhead_per_key_is_within_budget() {
    const COUNT: u64 = 200_000;
    let mut store = Store::new();
    let value = [7; 256];
    (0..COUNT).for_each(|n| put_bytes(&mut store, &key(n), &value));
    let stats = store.stats();
    let over = stats.bytes.total() as f64 / COUNT as f64 - 272.0;
    println!(
        "{over:.1} bytes per key beside the bytes: {:?}",
        stats.bytes
    );
    assert!(over <= 64.0, "{over}");
}

#[test]
fn overhead_per_version_is_within_budget() {
    const COUNT: u64 = 1_000;
    const VERSIONS: u64 = 20;
    let mut store = Store::new();
    let value = [7; 256];
    (0..COUNT).for_each(|n| put_bytes(&mut store, &key(n), &value));
    let before = store.stats().bytes.total();
    for n in 0..COUNT * VERSIONS {
        put_bytes(&mut store, &key(n % COUNT), &value);
    }
    let stats = store.stats();
    assert_eq!(stats.versions, COUNT * (VERSIONS + 1));
    let over = (stats.bytes.total() - before) as f64 / (COUNT * VERSIONS) as f64 - 256.0;
    println!(
        "{over:.1} bytes per version beside the bytes: {:?}",
        stats.bytes
    );
    assert!(over <= 24.0, "{over}");
}

#[test]
fn what_is_deleted_and_compacted_is_given_back() {
    let mut store = Store::new();
    (0..20_000).for_each(|n| put_bytes(&mut store, &key(n), &[7; 100]));
    (0..20_000).for_each(|n| put_bytes(&mut store, &key(n), &[8; 100]));
    let full = store.stats().bytes;
    delete(&mut store, "\0..");
    put(&mut store, "last", "1");
    store.compact(store.revision()).expect("possible");
    compact_all(&mut store);
    let stats = store.stats();
    assert_eq!((stats.keys, stats.keys_held, stats.versions), (1, 1, 1));
    assert!(stats.bytes.versions < 20, "{:?}", stats.bytes);
    assert!(stats.bytes.spare < 16 << 10, "{:?}", stats.bytes);
    // What was emptied waits to be given back, and is, as much at a time as is asked.
    let idle = stats.bytes.idle;
    assert!(idle > 1 << 20, "{:?}", stats.bytes);
    assert!(store.trim(1 << 20), "there is more");
    assert_eq!(store.memory().idle, idle - (1 << 20));
    assert!(!store.trim(usize::MAX));
    assert_eq!(store.memory().idle, 0);
    assert!(stats.bytes.log < full.log / 4, "{:?}", stats.bytes);
    // What was counted key by key is the same as what is there.
    let all = RangeRequest {
        range: KeyRange::all(),
        ..RangeRequest::default()
    };
    assert_eq!(store.range(&all).expect("valid").count, 1);
}

#[test]
fn the_report_names_every_class_and_adds_up() {
    let mut store = Store::new();
    (0..100).for_each(|n| put_bytes(&mut store, &key(n), &[7; 100]));
    store.lease_grant(1, 60, 0).expect("new");
    let report = store.stats().to_string();
    assert_eq!(report.lines().count(), 15, "{report}");
    assert!(
        report.starts_with("keys                                   100\n"),
        "{report}"
    );
    let total = store.memory().total().to_string();
    assert!(report.ends_with(&total), "{report}");
}
