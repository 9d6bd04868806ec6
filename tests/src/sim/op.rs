//! What clients ask: operations that own their bytes, can be encoded for a shard, and can be executed on
//! the checker's model.
//!
//! Every value carries the number of the operation that wrote it, so that a value seen anywhere names
//! its writer.

use bytes::Bytes;
use henge_core::machine::Command;
use henge_mvcc as mvcc;

/// Identifies an operation within a run, from 1.
pub type OpId = u64;

/// One request of one client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// Write one key.
    Put {
        /// The key.
        key: Bytes,
        /// The value; see [`value`].
        value: Bytes,
        /// Ask for the pair before.
        prev_kv: bool,
    },
    /// Delete a key or a range.
    Delete {
        /// First key.
        key: Bytes,
        /// etcd's `range_end`.
        end: Bytes,
        /// Ask for the pairs before.
        prev_kv: bool,
    },
    /// Compare one key, then write or read.
    Txn {
        /// The compared key.
        key: Bytes,
        /// What must hold.
        guard: Guard,
        /// If it holds.
        success: Vec<Op>,
        /// If not.
        failure: Vec<Op>,
    },
    /// Read.
    Range {
        /// First key.
        key: Bytes,
        /// etcd's `range_end`.
        end: Bytes,
        /// 0, or an older revision.
        revision: i64,
        /// 0, or at most so many pairs.
        limit: i64,
        /// Leave the values out.
        keys_only: bool,
        /// Only count.
        count_only: bool,
        /// May be stale.
        serializable: bool,
    },
    /// Forget history.
    Compact {
        /// First revision that stays readable.
        revision: i64,
    },
    /// Hash the local content as of now.
    Hash,
}

/// A transaction's condition on its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Missing,
    /// The key exists.
    Exists,
    /// It was last changed at this revision.
    ModRevision(i64),
    /// It has this value.
    Value(Bytes),
}

/// A value that names its writer, padded to `bytes`.
pub fn value(op: OpId, bytes: usize) -> Bytes {
    let mut value = op.to_be_bytes().to_vec();
    value.resize(bytes.max(8), b'.');
    value.into()
}

/// The writer of a value.
pub fn writer(value: &[u8]) -> Option<OpId> {
    Some(OpId::from_be_bytes(*value.first_chunk::<8>()?))
}

impl Op {
    /// A read of everything.
    pub fn read_all(serializable: bool) -> Op {
        Op::Range {
            key: Bytes::from_static(b"\0"),
            end: Bytes::from_static(b"\0"),
            revision: 0,
            limit: 0,
            keys_only: false,
            count_only: false,
            serializable,
        }
    }

    /// Whether it goes through the log.
    pub fn is_write(&self) -> bool {
        !matches!(self, Op::Range { .. } | Op::Hash)
    }

    /// The command as a shard takes it.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Op::Put { .. } | Op::Delete { .. } | Op::Range { .. } => match self.request_op() {
                mvcc::RequestOp::Put(put) => Command::Put(put).encode(),
                mvcc::RequestOp::DeleteRange(delete) => Command::DeleteRange(delete).encode(),
                mvcc::RequestOp::Range(range) => Command::Range(range).encode(),
                mvcc::RequestOp::Txn(txn) => Command::Txn(*txn).encode(),
            },
            Op::Txn {
                key,
                guard,
                success,
                failure,
            } => Command::Txn(mvcc::TxnRequest {
                compare: vec![guard.compare(key)],
                success: success.iter().map(Op::request_op).collect(),
                failure: failure.iter().map(Op::request_op).collect(),
            })
            .encode(),
            Op::Compact { revision } => Command::Compact {
                revision: *revision,
                physical: false,
            }
            .encode(),
            Op::Hash => Vec::new(),
        }
    }

    /// The form inside a transaction. Only puts, deletes and ranges are generated there.
    fn request_op(&self) -> mvcc::RequestOp<'_> {
        match self {
            Op::Put {
                key,
                value,
                prev_kv,
            } => mvcc::RequestOp::Put(mvcc::PutRequest {
                key,
                value,
                prev_kv: *prev_kv,
                ..mvcc::PutRequest::default()
            }),
            Op::Delete { key, end, prev_kv } => {
                mvcc::RequestOp::DeleteRange(mvcc::DeleteRangeRequest {
                    range: mvcc::KeyRange { key, end },
                    prev_kv: *prev_kv,
                })
            }
            Op::Range {
                key,
                end,
                revision,
                limit,
                keys_only,
                count_only,
                ..
            } => mvcc::RequestOp::Range(mvcc::RangeRequest {
                range: mvcc::KeyRange { key, end },
                revision: *revision,
                limit: *limit,
                keys_only: *keys_only,
                count_only: *count_only,
                ..mvcc::RangeRequest::default()
            }),
            Op::Txn { .. } | Op::Compact { .. } | Op::Hash => mvcc::RequestOp::Txn(Box::default()),
        }
    }
}

impl Guard {
    fn compare<'a>(&'a self, key: &'a [u8]) -> mvcc::Compare<'a> {
        use mvcc::CompareResult::{Equal, NotEqual};
        let (result, target) = match self {
            Guard::Missing => (Equal, mvcc::CompareTarget::Version(0)),
            Guard::Exists => (NotEqual, mvcc::CompareTarget::CreateRevision(0)),
            Guard::ModRevision(revision) => (Equal, mvcc::CompareTarget::ModRevision(*revision)),
            Guard::Value(value) => (Equal, mvcc::CompareTarget::Value(value)),
        };
        mvcc::Compare {
            range: mvcc::KeyRange::one(key),
            result,
            target,
        }
    }
}
