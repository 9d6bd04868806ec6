//! Ordered maps that the store's index could have been, measured alone: key to number, nothing else.
//!
//! Promises: the same keys in the same random order for each; memory as the kernel sees it. The store
//! runs along with everything it does per put, so a map that is slower than it is out.
//! Must never know: the store. Tested by running it: `--features alternatives`, `--alternatives`.

use std::collections::BTreeMap;
use std::hint::black_box;

use henge_mvcc::{PutRequest, Store};

use crate::mvcc_load::{Batch, Dice, Rate, Shape, resident_bytes, shuffled};

/// What one map took.
#[derive(Clone, Copy, Debug)]
pub struct Taken {
    /// Which.
    pub name: &'static str,
    /// Nanoseconds per insert.
    pub insert_ns: f64,
    /// Nanoseconds per lookup of a key that is there.
    pub get_ns: f64,
    /// Bytes per key beside the key's own.
    pub bytes: f64,
}

/// Names, as `measure` takes them.
pub const NAMES: [&str; 4] = ["store", "std", "indexset", "scc"];

/// One of them. Its bytes mean something only if it is the first in its process.
pub fn measure(name: &str, shape: Shape, count: u64) -> Taken {
    match name {
        "store" => run("store, all of a put", shape, count, Store::new(), put, get),
        "std" => run(
            "std BTreeMap",
            shape,
            count,
            BTreeMap::<Box<[u8]>, u32>::new(),
            |map, key, n| {
                map.insert(key.into(), n);
            },
            |map, key| map.contains_key(key),
        ),
        "indexset" => run(
            "indexset BTreeMap",
            shape,
            count,
            indexset::BTreeMap::<Box<[u8]>, u32>::new(),
            |map, key, n| {
                map.insert(key.into(), n);
            },
            |map, key| map.get(key).is_some(),
        ),
        _ => run(
            "scc TreeIndex",
            shape,
            count,
            scc::TreeIndex::<Box<[u8]>, u32>::new(),
            |map, key, n| {
                black_box(map.insert_sync(key.into(), n).is_ok());
            },
            |map, key| map.contains(key),
        ),
    }
}

fn run<M>(
    name: &'static str,
    shape: Shape,
    count: u64,
    mut map: M,
    insert: fn(&mut M, &[u8], u32),
    get: fn(&M, &[u8]) -> bool,
) -> Taken {
    let keys = Batch::new(shape, shuffled(count));
    let key_bytes: usize = keys.iter().map(<[u8]>::len).sum();
    let before = resident_bytes();
    let (mut inserts, mut gets) = (Rate::default(), Rate::default());
    inserts.time(keys.len(), || {
        keys.iter()
            .zip(0..)
            .for_each(|(key, n)| insert(&mut map, key, n));
    });
    let taken = resident_bytes().saturating_sub(before) as f64 - key_bytes as f64;
    let mut dice = Dice(1);
    let wanted = Batch::new(shape, (0..count).map(|_| dice.below(count)));
    gets.time(wanted.len(), || {
        assert!(
            wanted.iter().all(|key| get(&map, key)),
            "every key is there"
        );
    });
    Taken {
        name,
        insert_ns: inserts.ns(),
        get_ns: gets.ns(),
        bytes: taken / count as f64,
    }
}

fn put(store: &mut Store, key: &[u8], _: u32) {
    let request = PutRequest {
        key,
        ..PutRequest::default()
    };
    black_box(store.put(&request).is_ok());
}

fn get(store: &Store, key: &[u8]) -> bool {
    let request = henge_mvcc::RangeRequest {
        range: henge_mvcc::KeyRange::one(key),
        count_only: true,
        ..henge_mvcc::RangeRequest::default()
    };
    store.range(&request).is_ok_and(|found| found.count == 1)
}
