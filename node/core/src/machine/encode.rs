//! Writing the fields of a command; see `command` for the layout.
//! Must never know: what the fields mean.

use henge_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, SortOrder, SortTarget, TxnRequest,
};

use super::command::tag;

pub(super) const PUT_FIXED: usize = 1 + 8 + 4 + 4;

pub(super) fn encode_put(out: &mut Vec<u8>, put: &PutRequest<'_>) {
    out.push(flags([
        put.prev_kv,
        put.ignore_value,
        put.ignore_lease,
        false,
    ]));
    put_i64(out, put.lease);
    put_bytes(out, put.key);
    put_bytes(out, put.value);
}

pub(super) fn encode_delete(out: &mut Vec<u8>, delete: &DeleteRangeRequest<'_>) {
    out.push(flags([delete.prev_kv, false, false, false]));
    encode_key_range(out, &delete.range);
}

pub(super) fn encode_key_range(out: &mut Vec<u8>, range: &KeyRange<'_>) {
    put_bytes(out, range.key);
    put_bytes(out, range.end);
}

pub(super) fn encode_range(out: &mut Vec<u8>, range: &RangeRequest<'_>) {
    out.push(flags([
        range.keys_only,
        range.count_only,
        range.may_end_early,
        false,
    ]));
    out.push(match range.sort_order {
        SortOrder::None => 0,
        SortOrder::Ascend => 1,
        SortOrder::Descend => 2,
    });
    out.push(match range.sort_target {
        SortTarget::Key => 0,
        SortTarget::Version => 1,
        SortTarget::Create => 2,
        SortTarget::Mod => 3,
        SortTarget::Value => 4,
    });
    for number in [
        range.limit,
        range.revision,
        range.min_mod_revision,
        range.max_mod_revision,
        range.min_create_revision,
        range.max_create_revision,
    ] {
        put_i64(out, number);
    }
    encode_key_range(out, &range.range);
}

pub(super) fn encode_txn(out: &mut Vec<u8>, txn: &TxnRequest<'_>) {
    put_len(out, txn.compare.len());
    for compare in &txn.compare {
        encode_compare(out, compare);
    }
    for ops in [&txn.success, &txn.failure] {
        put_len(out, ops.len());
        for op in ops {
            match op {
                RequestOp::Range(range) => {
                    out.push(tag::RANGE);
                    encode_range(out, range);
                }
                RequestOp::Put(put) => {
                    out.push(tag::PUT);
                    encode_put(out, put);
                }
                RequestOp::DeleteRange(delete) => {
                    out.push(tag::DELETE_RANGE);
                    encode_delete(out, delete);
                }
                RequestOp::Txn(nested) => {
                    out.push(tag::TXN);
                    encode_txn(out, nested);
                }
            }
        }
    }
}

pub(super) fn encode_compare(out: &mut Vec<u8>, compare: &Compare<'_>) {
    out.push(match compare.result {
        CompareResult::Equal => 0,
        CompareResult::Greater => 1,
        CompareResult::Less => 2,
        CompareResult::NotEqual => 3,
    });
    match compare.target {
        CompareTarget::Version(number) => put_target(out, 0, number),
        CompareTarget::CreateRevision(number) => put_target(out, 1, number),
        CompareTarget::ModRevision(number) => put_target(out, 2, number),
        CompareTarget::Value(value) => {
            out.push(3);
            put_bytes(out, value);
        }
        CompareTarget::Lease(number) => put_target(out, 4, number),
    }
    encode_key_range(out, &compare.range);
}

pub(super) fn put_target(out: &mut Vec<u8>, tag: u8, number: i64) {
    out.push(tag);
    put_i64(out, number);
}

pub(super) fn put_i64(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(&number.to_le_bytes());
}

pub(super) fn put_ids(out: &mut Vec<u8>, ids: &[i64]) {
    put_len(out, ids.len());
    ids.iter().for_each(|id| put_i64(out, *id));
}

/// Lengths and counts are u32: a request is bounded far below 4 GiB at admission.
pub(super) fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

pub(super) fn flags(bits: [bool; 4]) -> u8 {
    bits.iter()
        .enumerate()
        .fold(0, |byte, (at, bit)| byte | (u8::from(*bit) << at))
}
