//! Random commands over a small key space, applied to the store and to its naive twin at once.

use henge_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, SortOrder, SortTarget, Store, TxnRequest, check,
};

use super::Dice;
use super::model::Model;

/// Keys that share prefixes, and one that ends in zero.
pub const KEYS: [&[u8]; 12] = [
    b"a",
    b"a\0",
    b"ab",
    b"b",
    b"b/1",
    b"b/2",
    b"b/3",
    b"c",
    b"common-prefix-1",
    b"common-prefix-2",
    b"\xff",
    b"\xff\xff",
];
const VALUES: [&[u8]; 5] = [b"", b"1", b"2", b"a longer value", b"22"];
const ENDS: [&[u8]; 5] = [b"", b"", b"\0", b"b0", b"c"];

pub struct Pair {
    pub store: Store,
    pub model: Model,
    pub dice: Dice,
}

impl Pair {
    pub fn new(store: Store, seed: u64) -> Self {
        Pair {
            store,
            model: Model::new(),
            dice: Dice::new(seed),
        }
    }

    /// One command that changes something (or fails alike on both).
    pub fn write(&mut self) {
        match self.dice.below(20) {
            0..=7 => {
                let request = some_put(&mut self.dice);
                assert_eq!(
                    self.store.put(&request),
                    self.model.put(&request),
                    "{request:?}"
                );
            }
            8..=9 => {
                let request = some_delete(&mut self.dice);
                let expected = self.model.delete_range(&request);
                assert_eq!(
                    self.store.delete_range(&request),
                    Ok(expected),
                    "{request:?}"
                );
            }
            10..=16 => {
                let revision = self.model.revision();
                let request = some_txn(&mut self.dice, revision, 0);
                if check::txn(&request, &check::Limits::default()).is_ok() {
                    assert_eq!(
                        self.store.txn(&request),
                        self.model.txn(&request),
                        "{request:?}"
                    );
                }
            }
            17 => {
                let id = 1 + self.dice.below(3) as i64;
                assert_eq!(
                    self.store.lease_grant(id, 60, 0),
                    self.model.lease_grant(id, 60)
                );
            }
            18 => {
                let id = 1 + self.dice.below(3) as i64;
                assert_eq!(self.store.lease_revoke(id), self.model.lease_revoke(id));
            }
            _ => {
                self.store.compact_step(self.dice.below(20) as usize);
            }
        }
        assert_eq!(self.store.revision(), self.model.revision());
    }

    /// A compaction near the present.
    pub fn compact(&mut self) {
        let back = self.dice.below(30) as i64;
        let revision = self.model.revision() - back + 2;
        assert_eq!(
            self.store.compact(revision),
            self.model.compact(revision),
            "{revision}"
        );
        assert_eq!(self.store.compacted_revision(), self.model.compacted);
    }

    /// A read of everything readable.
    pub fn read(&mut self) {
        let request = some_range(&mut self.dice, self.model.revision());
        assert_eq!(
            self.store.range(&request),
            self.model.range(&request),
            "{request:?}"
        );
    }

    /// Leases and their keys, and what the store says of itself.
    pub fn compare_rest(&self) {
        self.compare_leases();
        let state = self.model.states.last().expect("never empty");
        assert_eq!(self.store.stats().keys, state.len() as u64);
    }

    /// Leases and their keys.
    pub fn compare_leases(&self) {
        let mut leases = self.store.leases();
        leases.sort_unstable();
        assert!(leases.iter().eq(self.model.leases.keys()));
        for &id in self.model.leases.keys() {
            let status = self.store.lease_time_to_live(id, 0, true).expect("known");
            assert_eq!(status.keys, self.model.lease_keys(id));
        }
    }
}

pub fn some_key_range(dice: &mut Dice) -> KeyRange<'static> {
    KeyRange {
        key: dice.pick(&KEYS),
        end: dice.pick(&ENDS),
    }
}

pub fn some_put(dice: &mut Dice) -> PutRequest<'static> {
    let mut request = PutRequest {
        key: dice.pick(&KEYS),
        value: dice.pick(&VALUES),
        prev_kv: dice.one_in(2),
        ..PutRequest::default()
    };
    if dice.one_in(3) {
        request.lease = 1 + dice.below(3) as i64;
    }
    if dice.one_in(8) {
        (request.ignore_value, request.value) = (true, b"");
    }
    if dice.one_in(8) {
        (request.ignore_lease, request.lease) = (true, 0);
    }
    request
}

pub fn some_delete(dice: &mut Dice) -> DeleteRangeRequest<'static> {
    DeleteRangeRequest {
        range: some_key_range(dice),
        prev_kv: dice.one_in(2),
    }
}

pub fn some_range(dice: &mut Dice, revision: i64) -> RangeRequest<'static> {
    let some_revision = |dice: &mut Dice| match dice.below(9) {
        0 => 0,
        // Mostly near the present: far back everything is compacted.
        1..8 => (revision - dice.below(60) as i64 + 2).max(0),
        _ => dice.below(revision as u64 + 3) as i64,
    };
    let mut request = RangeRequest {
        range: some_key_range(dice),
        ..RangeRequest::default()
    };
    request.revision = some_revision(dice);
    if dice.one_in(2) {
        request.limit = dice.below(6) as i64;
    }
    if dice.one_in(2) {
        request.sort_order = dice.pick(&[SortOrder::None, SortOrder::Ascend, SortOrder::Descend]);
        request.sort_target = dice.pick(&[
            SortTarget::Key,
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ]);
    }
    request.keys_only = dice.one_in(4);
    request.count_only = dice.one_in(6);
    if dice.one_in(4) {
        request.min_mod_revision = some_revision(dice);
        request.max_mod_revision = some_revision(dice);
        request.min_create_revision = some_revision(dice);
        request.max_create_revision = some_revision(dice);
    }
    request
}

pub fn some_txn(dice: &mut Dice, revision: i64, depth: u64) -> TxnRequest<'static> {
    let compare = (0..dice.below(3))
        .map(|_| some_compare(dice, revision))
        .collect();
    let ops = |dice: &mut Dice| -> Vec<RequestOp<'static>> {
        let count = dice.below(4);
        (0..count).map(|_| some_op(dice, revision, depth)).collect()
    };
    let (success, failure) = (ops(dice), ops(dice));
    TxnRequest {
        compare,
        success,
        failure,
    }
}

fn some_op(dice: &mut Dice, revision: i64, depth: u64) -> RequestOp<'static> {
    match dice.below(8) {
        0..=2 => RequestOp::Put(some_put(dice)),
        3 => RequestOp::DeleteRange(some_delete(dice)),
        4 if depth < 3 => RequestOp::Txn(Box::new(some_txn(dice, revision, depth + 1))),
        5 => RequestOp::Range(some_range(dice, revision)),
        _ => RequestOp::Range(RangeRequest {
            revision: 0,
            ..some_range(dice, revision)
        }),
    }
}

fn some_compare(dice: &mut Dice, revision: i64) -> Compare<'static> {
    let number = dice.below(3) as i64;
    let some_revision = (revision - dice.below(80) as i64 + 2).max(0);
    let target = match dice.below(5) {
        0 => CompareTarget::Version(number),
        1 => CompareTarget::CreateRevision(some_revision),
        2 => CompareTarget::ModRevision(some_revision),
        3 => CompareTarget::Value(dice.pick(&VALUES)),
        _ => CompareTarget::Lease(number),
    };
    let results = [
        CompareResult::Equal,
        CompareResult::Greater,
        CompareResult::Less,
        CompareResult::NotEqual,
    ];
    Compare {
        range: some_key_range(dice),
        result: dice.pick(&results),
        target,
    }
}
