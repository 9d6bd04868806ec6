//! Short hands for the tests of this folder, and their dice.
#![allow(dead_code)] // Each test file uses its part.

pub mod commands;
pub mod model;
pub mod ops;
pub mod watch;

use henge_mvcc::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RangeResponse, Store};

/// `a..c`, `a..` (from key on), `a` (one key).
pub fn keys(text: &str) -> KeyRange<'_> {
    match text.split_once("..") {
        None => KeyRange::one(text.as_bytes()),
        Some((key, "")) => KeyRange {
            key: key.as_bytes(),
            end: b"\0",
        },
        Some((key, end)) => KeyRange {
            key: key.as_bytes(),
            end: end.as_bytes(),
        },
    }
}

pub fn put_request<'a>(key: &'a str, value: &'a str) -> PutRequest<'a> {
    PutRequest {
        key: key.as_bytes(),
        value: value.as_bytes(),
        ..PutRequest::default()
    }
}

pub fn put(store: &mut Store, key: &str, value: &str) -> i64 {
    store.put(&put_request(key, value)).expect("valid");
    store.revision()
}

pub fn delete(store: &mut Store, range: &str) -> i64 {
    let request = DeleteRangeRequest {
        range: keys(range),
        prev_kv: false,
    };
    store.delete_range(&request).expect("valid").deleted
}

pub fn range_request(range: &str) -> RangeRequest<'_> {
    RangeRequest {
        range: keys(range),
        ..RangeRequest::default()
    }
}

/// The pairs as `key=value@mod`, joined by spaces.
pub fn show(response: &RangeResponse) -> String {
    let pairs = response.kvs.iter().map(|kv| {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        format!("{}={}@{}", text(&kv.key), text(&kv.value), kv.mod_revision)
    });
    pairs.collect::<Vec<_>>().join(" ")
}

pub fn get(store: &Store, range: &str) -> String {
    show(&store.range(&range_request(range)).expect("valid"))
}

pub fn get_at(store: &Store, range: &str, revision: i64) -> String {
    show(
        &store
            .range(&RangeRequest {
                revision,
                ..range_request(range)
            })
            .expect("readable"),
    )
}

/// Physical compaction to the end.
pub fn compact_all(store: &mut Store) {
    while store.compact_step(10) {}
}

/// SplitMix64 dice.
#[derive(Clone)]
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Dice(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len() as u64) as usize]
    }
}

/// Runs a test over seeds `0..count`, or over the one in `HENGE_SEED`; prints each seed first.
pub fn for_seeds(test: &str, count: u64, mut run: impl FnMut(u64)) {
    match std::env::var("HENGE_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
    {
        Some(seed) => {
            println!("{test}: HENGE_SEED={seed}");
            run(seed);
        }
        None => (0..count).for_each(|seed| {
            println!("{test}: HENGE_SEED={seed}");
            run(seed);
        }),
    }
}
