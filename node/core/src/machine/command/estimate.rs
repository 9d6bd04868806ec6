//! What a command adds to the store, and how much of it is content: what budgets and quotas go by.
//!
//! Estimates as etcd makes them; whoever applies a command does not look here. Tested with the commands.
//! Must never know: what is done with an estimate.

use henge_mvcc::{CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest};

use super::Command;

/// etcd's estimates of what a key and a lease take beside their own bytes.
pub(super) const PUT_COST: u64 = 256;
pub(super) const LEASE_COST: u64 = 64;

/// What a transaction adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::machine) struct Adding {
    /// Whether it may add anything.
    pub adds: bool,
    /// Bytes that it may add.
    pub cost: u64,
}

impl Adding {
    /// One put.
    pub fn put(put: &PutRequest<'_>) -> Self {
        let cost = put_cost(put);
        Adding { adds: true, cost }
    }

    /// Both of two.
    pub fn and(self, other: Self) -> Self {
        Adding {
            adds: self.adds || other.adds,
            cost: self.cost + other.cost,
        }
    }

    /// One of two, which one is not known: the dearer one.
    pub fn or(self, other: Self) -> Self {
        Adding {
            adds: self.adds || other.adds,
            cost: self.cost.max(other.cost),
        }
    }
}

fn put_cost(put: &PutRequest<'_>) -> u64 {
    PUT_COST + (put.key.len() + put.value.len()) as u64
}

fn txn_adding(txn: &TxnRequest<'_>) -> Adding {
    let of = |ops: &[RequestOp<'_>]| {
        let each = ops.iter().map(|op| match op {
            RequestOp::Put(put) => Adding::put(put),
            RequestOp::Txn(nested) => txn_adding(nested),
            RequestOp::Range(_) | RequestOp::DeleteRange(_) => Adding::default(),
        });
        each.fold(Adding::default(), Adding::and)
    };
    of(&txn.success).or(of(&txn.failure))
}

impl Command<'_> {
    /// Whether it may add data: what a full store refuses.
    pub fn adds(&self) -> bool {
        match self {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => txn_adding(txn).adds,
            _ => false,
        }
    }

    /// Bytes that it may add, by etcd's estimate (`server/storage/quota.go`). Transactions within
    /// transactions, which etcd counts as nothing, are counted.
    pub fn cost(&self) -> u64 {
        match self {
            Command::Put(put) => put_cost(put),
            Command::LeaseGrant { .. } => LEASE_COST,
            Command::Txn(txn) => txn_adding(txn).cost,
            _ => 0,
        }
    }

    /// Bytes of its keys and values, which its encoding holds all of.
    pub fn content_bytes(&self) -> usize {
        match self {
            Command::Put(put) => put.key.len() + put.value.len(),
            Command::Txn(txn) => txn_bytes(txn),
            Command::Range(range) => range_bytes(&range.range),
            Command::DeleteRange(delete) => range_bytes(&delete.range),
            _ => 0,
        }
    }
}

/// Bytes of a transaction's keys and values.
pub fn txn_bytes(txn: &TxnRequest<'_>) -> usize {
    let op = |op: &RequestOp<'_>| match op {
        RequestOp::Range(range) => range_bytes(&range.range),
        RequestOp::Put(put) => put.key.len() + put.value.len(),
        RequestOp::DeleteRange(delete) => range_bytes(&delete.range),
        RequestOp::Txn(txn) => txn_bytes(txn),
    };
    let compares = txn.compare.iter().map(|compare| {
        let value = match compare.target {
            CompareTarget::Value(value) => value.len(),
            _ => 0,
        };
        range_bytes(&compare.range) + value
    });
    compares.sum::<usize>()
        + txn
            .success
            .iter()
            .chain(&txn.failure)
            .map(op)
            .sum::<usize>()
}

fn range_bytes(range: &KeyRange<'_>) -> usize {
    range.key.len() + range.end.len()
}
