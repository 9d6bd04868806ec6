//! What the store was asked for, counted as etcd counts it.
//!
//! An operation inside a transaction counts as one outside; comparisons do not; a put or delete that has to
//! look at the pair before it (`prev_kv`, `ignore_value`, `ignore_lease`) is a range as well; the end of a
//! lease is a delete for each of its keys; and a command counts as a transaction if it came to more than one
//! of these, as in etcd's `metrics_txn.go`. Counting is an addition each; what is read through a shared store
//! is atomic only for that. Changes nothing of what commands come to: no hash, snapshot or answer knows of
//! it. Tested below.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::store::Store;
use crate::types::{DeleteRangeRequest, PutRequest};

/// Buckets of [`Tally::lease_ttls`].
pub const LEASE_TTL_BUCKETS: usize = 25;

/// What a store was asked for since it was made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Ranges, also within transactions.
    pub ranges: u64,
    /// Puts, also within transactions.
    pub puts: u64,
    /// Deletes of a key or a range, also within transactions, and keys that went with their leases.
    pub deletes: u64,
    /// Commands that came to more than one of those.
    pub txns: u64,
    /// Bytes of keys and values that were put.
    pub put_bytes: u64,
    /// Versions written: one for each key that a put or a delete changed.
    pub versions: u64,
    /// Leases granted.
    pub leases_granted: u64,
    /// Leases that ended, by whatever.
    pub leases_revoked: u64,
    /// Renewals of leases that were there.
    pub leases_renewed: u64,
    /// Leases granted by their time to live: upper bounds of 2^k seconds, the last bucket has none.
    pub lease_ttls: [u64; LEASE_TTL_BUCKETS],
    /// Sum of those times.
    pub lease_ttl_s_sum: u64,
}

/// The counters of a store.
#[derive(Debug, Default)]
pub(crate) struct Counted {
    tally: Tally,
    /// Operations of the write that is going on.
    in_write: u64,
    /// Of reads, which share the store.
    ranges: AtomicU64,
    txns: AtomicU64,
}

impl Counted {
    /// A read of so many ranges.
    pub fn read(&self, ranges: usize) {
        add(&self.ranges, ranges as u64);
        add(&self.txns, u64::from(ranges > 1));
    }

    /// A range within a write.
    pub fn range(&mut self) {
        self.in_write += 1;
        self.tally.ranges += 1;
    }

    pub fn put(&mut self, request: &PutRequest<'_>, value_bytes: usize) {
        self.in_write += 1;
        self.tally.puts += 1;
        self.tally.put_bytes += (request.key.len() + value_bytes) as u64;
        if request.prev_kv || request.ignore_value || request.ignore_lease {
            self.range();
        }
    }

    pub fn delete(&mut self, request: &DeleteRangeRequest<'_>) {
        self.in_write += 1;
        self.tally.deletes += 1;
        if request.prev_kv {
            self.range();
        }
    }

    /// A key got another version.
    pub fn version(&mut self) {
        self.tally.versions += 1;
    }

    pub fn begin(&mut self) {
        self.in_write = 0;
    }

    /// The write is through.
    pub fn end(&mut self) {
        self.tally.txns += u64::from(self.in_write > 1);
        self.in_write = 0;
    }

    pub fn granted(&mut self, ttl_s: i64) {
        let ttl_s = ttl_s.max(0) as u64;
        let bucket = match ttl_s {
            0 => 0,
            ttl_s => (u64::BITS - (ttl_s - 1).leading_zeros()) as usize,
        };
        self.tally.leases_granted += 1;
        self.tally.lease_ttls[bucket.min(LEASE_TTL_BUCKETS - 1)] += 1;
        self.tally.lease_ttl_s_sum += ttl_s;
    }

    /// A lease ended, and with it so many keys, of which the write that is going on consisted.
    pub fn revoked(&mut self, keys: usize) {
        self.tally.leases_revoked += 1;
        self.tally.deletes += keys as u64;
        self.in_write += keys as u64;
    }

    pub fn renewed(&mut self) {
        self.tally.leases_renewed += 1;
    }
}

/// No other thread adds at the same time; see `work`.
fn add(counter: &AtomicU64, count: u64) {
    let sum = counter.load(Ordering::Relaxed).wrapping_add(count);
    counter.store(sum, Ordering::Relaxed);
}

impl Store {
    /// What it was asked for since it was made.
    pub fn tally(&self) -> Tally {
        let Counted {
            tally,
            ranges,
            txns,
            ..
        } = &self.counted;
        Tally {
            ranges: tally.ranges + ranges.load(Ordering::Relaxed),
            txns: tally.txns + txns.load(Ordering::Relaxed),
            ..*tally
        }
    }

    /// Leases that ended; the same as in [`Store::tally`], for less.
    pub fn leases_revoked(&self) -> u64 {
        self.counted.tally.leases_revoked
    }

    /// Cursors that read it now: each may keep what compaction would remove.
    pub fn cursors(&self) -> usize {
        self.pins.cursors()
    }
}

impl Tally {
    /// What was added since an earlier reading.
    pub fn since(&self, earlier: &Tally) -> Tally {
        let mut lease_ttls = self.lease_ttls;
        for (now, before) in lease_ttls.iter_mut().zip(earlier.lease_ttls) {
            *now = now.saturating_sub(before);
        }
        Tally {
            ranges: self.ranges.saturating_sub(earlier.ranges),
            puts: self.puts.saturating_sub(earlier.puts),
            deletes: self.deletes.saturating_sub(earlier.deletes),
            txns: self.txns.saturating_sub(earlier.txns),
            put_bytes: self.put_bytes.saturating_sub(earlier.put_bytes),
            versions: self.versions.saturating_sub(earlier.versions),
            leases_granted: self.leases_granted.saturating_sub(earlier.leases_granted),
            leases_revoked: self.leases_revoked.saturating_sub(earlier.leases_revoked),
            leases_renewed: self.leases_renewed.saturating_sub(earlier.leases_renewed),
            lease_ttls,
            lease_ttl_s_sum: self.lease_ttl_s_sum.saturating_sub(earlier.lease_ttl_s_sum),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::long::{LongRequest, LongWrite};
    use crate::types::{KeyRange, RangeRequest, RequestOp, TxnRequest};

    fn put(key: &[u8], prev_kv: bool) -> PutRequest<'_> {
        PutRequest {
            key,
            value: b"12345",
            prev_kv,
            ..PutRequest::default()
        }
    }

    fn range(key: &[u8]) -> RangeRequest<'_> {
        RangeRequest {
            range: KeyRange::one(key),
            ..RangeRequest::default()
        }
    }

    fn txn(success: Vec<RequestOp<'_>>) -> TxnRequest<'_> {
        TxnRequest {
            success,
            ..TxnRequest::default()
        }
    }

    /// Ranges, puts, deletes, transactions: what each step of this added in etcd 3.7.3.
    #[test]
    fn each_kind_of_request_counts_as_in_etcd() {
        let mut store = Store::new();
        let mut before = Tally::default();
        let mut added = |store: &Store| {
            let added = store.tally().since(&before);
            before = store.tally();
            [added.ranges, added.puts, added.deletes, added.txns]
        };
        store.put(&put(b"k", false)).expect("valid");
        assert_eq!(added(&store), [0, 1, 0, 0]);
        store.put(&put(b"k", true)).expect("valid");
        assert_eq!(added(&store), [1, 1, 0, 1], "with the pair before");
        store.range(&range(b"k")).expect("valid");
        assert_eq!(added(&store), [1, 0, 0, 0]);
        let delete = |key, prev_kv| DeleteRangeRequest {
            range: KeyRange::one(key),
            prev_kv,
        };
        store.delete_range(&delete(b"k", true)).expect("valid");
        assert_eq!(added(&store), [1, 0, 1, 1]);
        store.delete_range(&delete(b"none", false)).expect("valid");
        assert_eq!(added(&store), [0, 0, 1, 0], "of nothing");
        let one = txn(vec![RequestOp::Put(put(b"a", false))]);
        store.txn(&one).expect("valid");
        assert_eq!(added(&store), [0, 1, 0, 0], "of one operation");
        let two = txn(vec![
            RequestOp::Range(range(b"a")),
            RequestOp::Put(put(b"a", false)),
        ]);
        store.txn(&two).expect("valid");
        assert_eq!(added(&store), [1, 1, 0, 1]);
        let reads = txn(vec![
            RequestOp::Range(range(b"a")),
            RequestOp::Range(range(b"b")),
        ]);
        store.txn_read(&reads).expect("valid");
        assert_eq!(added(&store), [2, 0, 0, 1]);
        for ttl_s in [3, 100] {
            store.lease_grant(ttl_s, ttl_s, 0).expect("valid");
        }
        for key in [&b"l1"[..], b"l2"] {
            let attached = PutRequest {
                lease: 3,
                ..put(key, false)
            };
            store.put(&attached).expect("valid");
        }
        added(&store);
        store.lease_revoke(3).expect("granted");
        assert_eq!(added(&store), [0, 0, 2, 1], "a lease with two keys");
        let tally = store.tally();
        assert_eq!((tally.leases_granted, tally.leases_revoked), (2, 1));
        let of = |bound: u64| tally.lease_ttls[bound.ilog2() as usize];
        assert_eq!((of(4), of(128), tally.lease_ttl_s_sum), (1, 1, 103));
        assert_eq!(tally.put_bytes, 4 * 6 + 2 * 7);
        assert_eq!(tally.versions, 6 + 3, "puts, and deletes of what was there");
        assert_eq!(store.stats().versions, tally.versions, "none was removed");
    }

    /// What is done in slices counts as what is done in one go, also where nobody waits for the answer.
    #[test]
    fn slices_count_as_one_request() {
        let mut whole = Store::new();
        let keys: Vec<[u8; 2]> = (0..2_000u16).map(u16::to_be_bytes).collect();
        keys.iter().for_each(|key| {
            whole.put(&put(key, false)).expect("valid");
        });
        let ops = || {
            let all = KeyRange {
                key: b"\0",
                end: b"\0",
            };
            let every = RangeRequest {
                range: all,
                ..RangeRequest::default()
            };
            let delete = DeleteRangeRequest {
                range: all,
                prev_kv: true,
            };
            vec![
                RequestOp::Range(every),
                RequestOp::Put(put(b"a", false)),
                RequestOp::DeleteRange(delete),
            ]
        };
        let before = whole.tally();
        for unheard in [false, true] {
            let mut write = match unheard {
                true => LongWrite::unheard(),
                false => LongWrite::default(),
            };
            let request = txn(ops());
            let mut slices = 0;
            while whole
                .write_next(&mut write, LongRequest::Txn(&request), 10_000)
                .is_none()
            {
                // Others read between the slices.
                whole.range(&range(b"a")).expect("valid");
                slices += 1;
            }
            assert!(slices > 2 || unheard, "{slices}");
            let added = whole.tally().since(&before);
            let times = 1 + u64::from(unheard);
            assert_eq!(
                (added.puts, added.deletes, added.txns),
                (times, times, times)
            );
        }
    }
}
