//! What a command adds to the store, and how much of it is content: what budgets and quotas go by.
//!
//! Estimates as etcd makes them; whoever applies a command does not look here. Tested with the commands.
//! Must never know: what is done with an estimate.

use henge_mvcc::{CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest};

use super::Command;

/// etcd's estimates of what a key and a lease take beside their own bytes.
pub(super) const PUT_COST: u64 = 256;
pub(super) const LEASE_COST: u64 = 64;

fn put_cost(put: &PutRequest<'_>) -> u64 {
    PUT_COST + (put.key.len() + put.value.len()) as u64
}

fn txn_cost(txn: &TxnRequest<'_>) -> u64 {
    let of = |ops: &[RequestOp<'_>]| -> u64 {
        let costs = ops.iter().map(|op| match op {
            RequestOp::Put(put) => put_cost(put),
            RequestOp::Txn(nested) => txn_cost(nested),
            RequestOp::Range(_) | RequestOp::DeleteRange(_) => 0,
        });
        costs.sum()
    };
    of(&txn.success).max(of(&txn.failure))
}

fn txn_adds(txn: &TxnRequest<'_>) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(nested) => txn_adds(nested),
        RequestOp::Range(_) | RequestOp::DeleteRange(_) => false,
    })
}

impl Command<'_> {
    /// Whether it may add data: what a full store refuses.
    pub fn adds(&self) -> bool {
        match self {
            Command::Put(_) | Command::LeaseGrant { .. } => true,
            Command::Txn(txn) => txn_adds(txn),
            _ => false,
        }
    }

    /// Bytes that it may add, by etcd's estimate (`server/storage/quota.go`). Transactions within transactions,
    /// which etcd counts as nothing, are counted.
    pub fn cost(&self) -> u64 {
        match self {
            Command::Put(put) => put_cost(put),
            Command::LeaseGrant { .. } => LEASE_COST,
            Command::Txn(txn) => txn_cost(txn),
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
