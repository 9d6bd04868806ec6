//! The store's work as it counts it against the processor time that it takes.
//!
//! Who shares a thread with the store bounds it by counted work (`henge_mvcc::Work`), whose weights stand for
//! a reference machine. Promises: each kind of work that a client can ask for, in slices as a core gives
//! them, with the time of all slices over what they counted, and the longest. A ratio above 1 says that turns
//! of this kind are longer on this machine than the core believes.
//! Must never know: what bounds a turn has. Tested by running it.

use std::hint::black_box;

use bytes::Bytes;
use henge_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, LongRequest, LongWrite,
    PutRequest, RangeRequest, RequestOp, SliceLimits, SortOrder, SortTarget, Store, TxnRequest,
};

use crate::mvcc_load::{Batch, Dice, Shape, cpu_ns, shuffled};

/// Counted work of a slice, as a core gives it.
const SLICE_NANOS: u64 = 500_000;
/// Requests of a kind that is short, between two looks at the clock.
const GROUP: usize = 500;
/// Versions of a slice of a hash.
const HASH_SLICE: usize = 2_000;
const LEASE: i64 = 7;
const LARGE_BYTES: usize = 256 << 10;

/// What one kind of work took.
#[derive(Clone, Debug)]
pub struct Weighed {
    /// For the table.
    pub name: &'static str,
    /// What was counted, in nanoseconds.
    pub counted_ns: u64,
    /// Processor time.
    pub cpu_ns: u64,
    /// Of each slice: processor time, and what was counted.
    pub slices: Vec<(u64, u64)>,
}

impl Weighed {
    /// Processor time over what was counted.
    pub fn ratio(&self) -> f64 {
        self.cpu_ns as f64 / self.counted_ns.max(1) as f64
    }

    /// The longest slices' processor time at this part of all, in microseconds.
    pub fn slice_us(&self, quantile: f64) -> f64 {
        let mut times: Vec<_> = self.slices.iter().map(|slice| slice.0).collect();
        times.sort_unstable();
        crate::mvcc_load::quantile_us(&times, quantile)
    }
}

/// A store of so many keys, each written twice, that is asked for everything; at the end it is empty.
pub fn weigh(shape: Shape, keys: u64) -> Vec<Weighed> {
    let mut scales = Scales {
        store: Store::new(),
        found: Vec::new(),
    };
    let numbers: Vec<u64> = shuffled(keys).collect();
    let all = Batch::new(shape, numbers.iter().copied());
    let mut dice = Dice(keys);
    let some = Batch::new(shape, (0..keys.min(500_000)).map(|_| dice.below(keys)));
    scales.puts("put of new keys", &all, 0);
    scales.puts("put of keys that are there", &some, 0);
    scales.gets(&some);
    scales.ranges();
    scales.transactions();
    scales.hash();
    scales.large();
    scales.puts("put with a lease", &some, LEASE);
    scales.compact();
    scales.ends();
    scales.found
}

struct Scales {
    store: Store,
    found: Vec<Weighed>,
}

impl Scales {
    /// Runs slices until one says that there are no more.
    fn weigh(&mut self, name: &'static str, mut slice: impl FnMut(&mut Store) -> bool) {
        let mut slices = Vec::new();
        loop {
            let (counted, begun) = (self.store.work().nanos(), cpu_ns());
            let more = slice(&mut self.store);
            slices.push((cpu_ns() - begun, self.store.work().nanos() - counted));
            if !more {
                break;
            }
        }
        self.found.push(Weighed {
            name,
            counted_ns: slices.iter().map(|slice| slice.1).sum(),
            cpu_ns: slices.iter().map(|slice| slice.0).sum(),
            slices,
        });
    }

    fn puts(&mut self, name: &'static str, batch: &Batch, lease: i64) {
        if lease != 0 {
            // Refused only where it is there already.
            let _ = self.store.lease_grant(lease, 60_000, 0);
        }
        let keys: Vec<&[u8]> = batch.iter().collect();
        let mut groups = keys.chunks(GROUP);
        self.weigh(name, |store| {
            for key in groups.next().unwrap_or_default() {
                let put = PutRequest {
                    key,
                    value: &[7; 64],
                    lease,
                    ..PutRequest::default()
                };
                assert!(store.put(&put).is_ok(), "a put of a key");
            }
            groups.len() > 0
        });
    }

    fn gets(&mut self, batch: &Batch) {
        let keys: Vec<&[u8]> = batch.iter().collect();
        let mut groups = keys.chunks(GROUP);
        self.weigh("get", |store| {
            for key in groups.next().unwrap_or_default() {
                let get = RangeRequest {
                    range: KeyRange::one(key),
                    ..RangeRequest::default()
                };
                assert!(store.range(&get).is_ok_and(|found| found.count == 1));
            }
            groups.len() > 0
        });
    }

    fn ranges(&mut self) {
        let now = self.store.revision();
        let everything = |sort_target, sort_order, revision| RangeRequest {
            range: KeyRange::all(),
            sort_target,
            sort_order,
            revision,
            ..RangeRequest::default()
        };
        use SortOrder::{Descend, None};
        use SortTarget::{Key, Mod, Value};
        self.range("range of everything", &everything(Key, None, 0));
        self.range("  descending", &everything(Key, Descend, 0));
        self.range("  at an old revision", &everything(Key, None, now / 2));
        self.range("  sorted by value", &everything(Value, Descend, 0));
        let first = RangeRequest {
            limit: 1,
            ..everything(Mod, Descend, 0)
        };
        self.range("  sorted, limit 1", &first);
        let count = RangeRequest {
            count_only: true,
            ..everything(Key, None, now / 2)
        };
        self.range("count at an old revision", &count);
    }

    fn range(&mut self, name: &'static str, request: &RangeRequest<'_>) {
        let begun = self.store.range_begin(request);
        let mut cursor = begun.expect("a revision that is there");
        self.weigh(name, |store| {
            let slice = store.range_next(&mut cursor, SliceLimits::default());
            black_box(&slice.kvs);
            slice.end.is_none()
        });
    }

    fn transactions(&mut self) {
        let sorted = RangeRequest {
            range: KeyRange::all(),
            sort_target: SortTarget::Value,
            sort_order: SortOrder::Descend,
            limit: 1,
            ..RangeRequest::default()
        };
        let all_are_there = Compare {
            range: KeyRange::all(),
            result: CompareResult::Greater,
            target: CompareTarget::Version(0),
        };
        let reads = TxnRequest {
            success: vec![RequestOp::Range(sorted); 2],
            ..TxnRequest::default()
        };
        let mut read = self.store.txn_read_begin(&reads);
        self.weigh("transaction of two sorted ranges", |store| {
            let done = store.txn_read_next(&mut read, &reads, SLICE_NANOS);
            done.is_none()
        });
        drop(read);
        let compares = TxnRequest {
            compare: vec![all_are_there; 2],
            ..TxnRequest::default()
        };
        self.write("transaction of two compares", LongRequest::Txn(&compares));
        let keys: Vec<_> = (0..20_000).map(|n| format!("new {n:06}")).collect();
        let puts = keys.iter().map(|key| {
            RequestOp::Put(PutRequest {
                key: key.as_bytes(),
                value: &[7; 64],
                ..PutRequest::default()
            })
        });
        let puts = TxnRequest {
            success: puts.collect(),
            ..TxnRequest::default()
        };
        self.write("transaction of 20,000 puts", LongRequest::Txn(&puts));
    }

    fn write(&mut self, name: &'static str, request: LongRequest<'_, '_>) {
        let mut write = LongWrite::default();
        self.weigh(name, |store| {
            let done = store.write_next(&mut write, request, SLICE_NANOS);
            assert!(!matches!(done, Some(Err(_))), "{name}: {done:?}");
            done.is_none()
        });
    }

    fn hash(&mut self) {
        let mut hash = self.store.hash_begin(0).expect("of now");
        self.weigh("hash of everything", |store| {
            store.hash_step(&mut hash, HASH_SLICE).is_none()
        });
    }

    /// Values that are mostly bytes.
    fn large(&mut self) {
        let value = Bytes::from(vec![7; LARGE_BYTES]);
        let mut left = 200;
        self.weigh("put of 256 KiB", |store| {
            left -= 1;
            let key = format!("large {left:03}");
            let put = PutRequest {
                key: key.as_bytes(),
                value: &value,
                ..PutRequest::default()
            };
            assert!(store.put(&put).is_ok(), "a put of a key");
            left > 0
        });
        let all = RangeRequest {
            range: KeyRange {
                key: b"large ",
                end: b"large!",
            },
            ..RangeRequest::default()
        };
        self.range("range of 256 KiB values", &all);
    }

    fn compact(&mut self) {
        let compacted = self.store.compact(self.store.revision());
        assert!(compacted.is_ok(), "the present can be compacted");
        self.weigh("compaction", |store| store.compact_step(GROUP));
    }

    /// What leaves nothing.
    fn ends(&mut self) {
        self.write(
            "end of a lease with its keys",
            LongRequest::LeaseRevoke(LEASE),
        );
        let delete = DeleteRangeRequest {
            range: KeyRange::all(),
            prev_kv: true,
        };
        self.write("delete of everything", LongRequest::DeleteRange(&delete));
        assert_eq!(self.store.stats().keys, 0);
    }
}
