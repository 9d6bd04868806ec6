//! The binary form of a request: what travels from a caller to its shard, and what a raft entry holds.
//!
//! A request is encoded once, on the caller's thread, so the shard's core neither clones keys nor
//! builds trees: it stamps the header and hands the same bytes to raft. Decoding borrows from them.
//! The layout is drawn in docs/format.md ("Commands"); numbers are little-endian. Every read is
//! bounds-checked: the bytes may come from a peer or from a disk. Nested transactions are bounded by
//! [`TXN_DEPTH_MAX`], and no count is trusted further than the bytes that are left.
//!
//! Invariant: what enters the log was decoded here before, by whoever proposes it ([`proposable`]), so no
//! committed entry of this build is refused by [`decode`].

use henge_mvcc::check::TXN_DEPTH_MAX;
use henge_mvcc::{
    CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest,
};

use super::decode::Reader;
use super::encode::{
    PUT_FIXED, encode_delete, encode_put, encode_range, encode_txn, put_i64, put_ids,
};
#[cfg(doc)]
use crate::api::AppliedTimes;
use crate::api::{AlarmAction, AlarmMember};

/// Bytes before the body: version, kind, reserved, origin, id.
pub const HEADER_BYTES: usize = 24;
/// Format version of the command encoding.
pub const VERSION: u8 = 1;

/// Leases in one command: what one entry asks of whoever applies it is bounded.
pub const LEASES_MAX: usize = 1_024;

/// Who asked, so that the answer finds its waiter after replication.
///
/// `origin` is the member that took the request from its caller; `id` grows strictly over that
/// member's whole life (it starts from the wall clock at boot, as etcd's request ids do), so an entry
/// that was proposed before a restart can never be mistaken for one proposed after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamp {
    /// Member id of the node that proposed the command.
    pub origin: u64,
    /// Request id, unique per origin.
    pub id: u64,
}

/// A decoded command; it borrows from the entry's payload.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// Write one key.
    Put(PutRequest<'a>),
    /// Delete a range of keys.
    DeleteRange(DeleteRangeRequest<'a>),
    /// Compare, then one of two lists of operations.
    Txn(TxnRequest<'a>),
    /// Read; never enters the log.
    Range(RangeRequest<'a>),
    /// Forget history below a revision.
    Compact {
        /// First revision that stays readable.
        revision: i64,
        /// Answer only when the physical removal is over.
        physical: bool,
    },
    /// Create a lease.
    LeaseGrant {
        /// Lease id, never 0.
        id: i64,
        /// Granted time to live in seconds.
        ttl_s: i64,
    },
    /// Delete a lease and its keys.
    LeaseRevoke {
        /// Lease id.
        id: i64,
    },
    /// Renew a lease on every replica. Read only: what is written is [`Command::LeaseRenewMany`].
    LeaseRenew {
        /// Lease id.
        id: i64,
    },
    /// Raise or lower an alarm.
    Alarm {
        /// Which of the two.
        action: AlarmAction,
        /// Which alarm, and whose.
        alarm: AlarmMember,
    },
    /// Delete a lease that ran out, unless it was renewed behind `seen`. Read only: what is written is
    /// [`Command::LeaseExpireMany`].
    LeaseExpire {
        /// Lease id.
        id: i64,
        /// Applied index of the leader that found it run out.
        seen: u64,
    },
    /// Renew leases on every replica: those that were asked for together, in this order.
    LeaseRenewMany {
        /// Lease ids, at most [`LEASES_MAX`].
        ids: Vec<i64>,
    },
    /// Delete leases that ran out, each unless it was renewed behind `seen`.
    LeaseExpireMany {
        /// Applied index of the leader that found them run out.
        seen: u64,
        /// Lease ids, at most [`LEASES_MAX`].
        ids: Vec<i64>,
    },
}

/// Bytes that are not a command of this version.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// Fewer bytes than the fields announce.
    #[error("command is cut short")]
    Short,
    /// Written by another version.
    #[error("command version {0} is not known to this build (it knows {VERSION})")]
    Version(u8),
    /// An unknown tag where a kind of thing is named.
    #[error("command has an unknown {what} tag {tag}")]
    Tag {
        /// Which field.
        what: &'static str,
        /// What stood there.
        tag: u8,
    },
    /// Transactions nested deeper than [`TXN_DEPTH_MAX`].
    #[error("transactions are nested deeper than {TXN_DEPTH_MAX}")]
    Depth,
    /// This replica has no number left for another key: its physical compaction is too far behind.
    #[error(
        "no room for another key in this replica: start it again, which gives back what is compacted"
    )]
    NoRoom,
    /// More leases than [`LEASES_MAX`].
    #[error("{0} leases in one command; at most {LEASES_MAX} may be")]
    Leases(usize),
    /// Bytes after the command's end.
    #[error("{0} bytes follow the command")]
    Trailing(usize),
}

pub(super) mod tag {
    pub const PUT: u8 = 1;
    pub const DELETE_RANGE: u8 = 2;
    pub const TXN: u8 = 3;
    pub const RANGE: u8 = 4;
    pub const COMPACT: u8 = 5;
    pub const LEASE_GRANT: u8 = 6;
    pub const LEASE_REVOKE: u8 = 7;
    pub const LEASE_RENEW: u8 = 8;
    pub const LEASE_EXPIRE: u8 = 9;
    pub const ALARM: u8 = 10;
    pub const LEASE_RENEW_MANY: u8 = 11;
    pub const LEASE_EXPIRE_MANY: u8 = 12;
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

impl Command<'_> {
    /// Encodes with an empty stamp; [`stamp`] fills it in when the shard takes the request.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.bytes_hint());
        out.extend_from_slice(&[VERSION, self.tag(), 0, 0, 0, 0, 0, 0]);
        out.extend_from_slice(&[0; 16]);
        match self {
            Command::Put(put) => encode_put(&mut out, put),
            Command::DeleteRange(delete) => encode_delete(&mut out, delete),
            Command::Txn(txn) => encode_txn(&mut out, txn),
            Command::Range(range) => encode_range(&mut out, range),
            Command::Compact { revision, physical } => {
                put_i64(&mut out, *revision);
                out.push(u8::from(*physical));
            }
            Command::LeaseGrant { id, ttl_s } => {
                put_i64(&mut out, *id);
                put_i64(&mut out, *ttl_s);
            }
            Command::LeaseRevoke { id } | Command::LeaseRenew { id } => put_i64(&mut out, *id),
            Command::LeaseExpire { id, seen } => {
                put_i64(&mut out, *id);
                put_i64(&mut out, seen.cast_signed());
            }
            Command::Alarm { action, alarm } => {
                out.extend_from_slice(&[*action as u8, alarm.alarm as u8]);
                put_i64(&mut out, alarm.member_id.cast_signed());
            }
            Command::LeaseRenewMany { ids } => put_ids(&mut out, ids),
            Command::LeaseExpireMany { seen, ids } => {
                put_i64(&mut out, seen.cast_signed());
                put_ids(&mut out, ids);
            }
        }
        out
    }

    /// Its encoded size: exact for a put, about right for the rest.
    pub fn bytes_hint(&self) -> usize {
        HEADER_BYTES + self.body_hint()
    }

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

    fn tag(&self) -> u8 {
        match self {
            Command::Put(_) => tag::PUT,
            Command::DeleteRange(_) => tag::DELETE_RANGE,
            Command::Txn(_) => tag::TXN,
            Command::Range(_) => tag::RANGE,
            Command::Compact { .. } => tag::COMPACT,
            Command::LeaseGrant { .. } => tag::LEASE_GRANT,
            Command::LeaseRevoke { .. } => tag::LEASE_REVOKE,
            Command::LeaseRenew { .. } => tag::LEASE_RENEW,
            Command::LeaseExpire { .. } => tag::LEASE_EXPIRE,
            Command::Alarm { .. } => tag::ALARM,
            Command::LeaseRenewMany { .. } => tag::LEASE_RENEW_MANY,
            Command::LeaseExpireMany { .. } => tag::LEASE_EXPIRE_MANY,
        }
    }

    /// Exact for a put, so that the hot path allocates once and wastes nothing.
    fn body_hint(&self) -> usize {
        match self {
            Command::Put(put) => PUT_FIXED + put.key.len() + put.value.len(),
            Command::Txn(_) => 256,
            Command::Range(range) => 128 + range.range.key.len() + range.range.end.len(),
            Command::DeleteRange(delete) => 16 + delete.range.key.len() + delete.range.end.len(),
            Command::LeaseRenewMany { ids } | Command::LeaseExpireMany { ids, .. } => {
                12 + 8 * ids.len()
            }
            _ => 16,
        }
    }
}

/// Writes origin and id into an encoded command. Bytes shorter than a header are left alone (decoding
/// refuses them).
pub fn stamp(encoded: &mut [u8], stamp: Stamp) {
    if let Some(fields) = encoded.get_mut(8..HEADER_BYTES) {
        fields[..8].copy_from_slice(&stamp.origin.to_le_bytes());
        fields[8..].copy_from_slice(&stamp.id.to_le_bytes());
    }
}

/// The stamp of an encoded command, without looking at the rest; nothing if it is shorter than a header.
pub fn stamp_of(encoded: &[u8]) -> Option<Stamp> {
    let mut reader = Reader {
        bytes: encoded.get(8..HEADER_BYTES)?,
    };
    Some(Stamp {
        origin: reader.u64().ok()?,
        id: reader.u64().ok()?,
    })
}

/// Whether an encoded command may add data (puts, transactions with puts, lease grants): what a full
/// store refuses. Judged by its kind; a transaction is looked into.
pub fn adds(encoded: &[u8]) -> bool {
    match encoded.get(1) {
        Some(&tag::PUT | &tag::LEASE_GRANT) => true,
        Some(&tag::TXN) => match decode(encoded) {
            Ok((_, Command::Txn(txn))) => txn_adds(&txn),
            _ => false,
        },
        _ => false,
    }
}

/// The key of an encoded put, without decoding the rest: for hints.
pub fn put_key(encoded: &[u8]) -> Option<&[u8]> {
    if encoded.get(1) != Some(&tag::PUT) {
        return None;
    }
    // Flags and lease come before the key.
    Reader {
        bytes: encoded.get(HEADER_BYTES + 9..)?,
    }
    .slice()
    .ok()
}

/// The key of an encoded range of one key. Says nothing of one that is damaged.
pub fn get_key(encoded: &[u8]) -> Option<&[u8]> {
    if encoded.get(1) != Some(&tag::RANGE) {
        return None;
    }
    // Flags, sort and six numbers come before the key.
    let mut reader = Reader {
        bytes: encoded.get(HEADER_BYTES + 3 + 6 * 8..)?,
    };
    let key = reader.slice().ok()?;
    reader.slice().ok()?.is_empty().then_some(key)
}

/// Whether an encoded command is a compaction.
pub fn is_compact(encoded: &[u8]) -> bool {
    encoded.get(1) == Some(&tag::COMPACT)
}

/// The place of an encoded command's kind in [`AppliedTimes::KINDS`]; what ends a lease is one kind, however it is
/// said, and so is what renews one.
pub fn kind(encoded: &[u8]) -> Option<usize> {
    Some(match *encoded.get(1)? {
        tag::PUT => 0,
        tag::DELETE_RANGE => 1,
        tag::TXN => 2,
        tag::COMPACT => 3,
        tag::LEASE_GRANT => 4,
        tag::LEASE_REVOKE | tag::LEASE_EXPIRE | tag::LEASE_EXPIRE_MANY => 5,
        tag::LEASE_RENEW | tag::LEASE_RENEW_MANY => 6,
        tag::ALARM => 7,
        _ => return None,
    })
}

/// What an encoded command may add, without decoding a put.
pub fn cost(encoded: &[u8]) -> u64 {
    match encoded.get(1) {
        Some(&tag::PUT) => {
            let bytes = encoded.len().saturating_sub(HEADER_BYTES + PUT_FIXED);
            PUT_COST + bytes as u64
        }
        Some(&tag::LEASE_GRANT) => LEASE_COST,
        Some(&tag::TXN) => decode(encoded).map_or(0, |(_, command)| command.cost()),
        _ => 0,
    }
}

/// Whether an encoded command raises or lowers an alarm.
pub fn is_alarm(encoded: &[u8]) -> bool {
    encoded.get(1) == Some(&tag::ALARM)
}

/// etcd's estimates of what a key and a lease take beside their own bytes.
const PUT_COST: u64 = 256;
const LEASE_COST: u64 = 64;

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

/// Whether an encoded command may enter the log: whoever applies it will understand it, and it is none that
/// only reads.
pub fn proposable(encoded: &[u8]) -> Result<(), CommandError> {
    match decode(encoded)?.1 {
        Command::Range(_) => Err(CommandError::Tag {
            what: "logged command",
            tag: tag::RANGE,
        }),
        _ => Ok(()),
    }
}

/// Decodes one command and its stamp from an entry's payload.
pub fn decode(bytes: &[u8]) -> Result<(Stamp, Command<'_>), CommandError> {
    let mut reader = Reader { bytes };
    let version = reader.u8()?;
    if version != VERSION {
        return Err(CommandError::Version(version));
    }
    let kind = reader.u8()?;
    reader.take(6)?;
    let stamp = Stamp {
        origin: reader.u64()?,
        id: reader.u64()?,
    };
    let command = match kind {
        tag::PUT => Command::Put(reader.put()?),
        tag::DELETE_RANGE => Command::DeleteRange(reader.delete()?),
        tag::TXN => Command::Txn(reader.txn(0)?),
        tag::RANGE => Command::Range(reader.range()?),
        tag::COMPACT => Command::Compact {
            revision: reader.i64()?,
            physical: reader.bool()?,
        },
        tag::LEASE_GRANT => Command::LeaseGrant {
            id: reader.i64()?,
            ttl_s: reader.i64()?,
        },
        tag::LEASE_REVOKE => Command::LeaseRevoke { id: reader.i64()? },
        tag::LEASE_RENEW => Command::LeaseRenew { id: reader.i64()? },
        tag::LEASE_EXPIRE => Command::LeaseExpire {
            id: reader.i64()?,
            seen: reader.u64()?,
        },
        tag::ALARM => reader.alarm()?,
        tag::LEASE_RENEW_MANY => Command::LeaseRenewMany {
            ids: reader.lease_ids()?,
        },
        tag::LEASE_EXPIRE_MANY => Command::LeaseExpireMany {
            seen: reader.u64()?,
            ids: reader.lease_ids()?,
        },
        tag => {
            return Err(CommandError::Tag {
                what: "command",
                tag,
            });
        }
    };
    match reader.bytes.len() {
        0 => Ok((stamp, command)),
        left => Err(CommandError::Trailing(left)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use henge_mvcc::{Compare, CompareResult, SortOrder, SortTarget};

    use super::*;

    fn samples() -> Vec<Vec<u8>> {
        let put = PutRequest {
            key: b"k",
            value: b"value",
            lease: 7,
            prev_kv: true,
            ..Default::default()
        };
        let range = RangeRequest {
            range: KeyRange {
                key: b"a",
                end: b"z",
            },
            limit: 10,
            sort_order: SortOrder::Descend,
            sort_target: SortTarget::Mod,
            keys_only: true,
            ..Default::default()
        };
        let delete = DeleteRangeRequest {
            range: KeyRange::one(b"k"),
            prev_kv: true,
        };
        let compare = |target| Compare {
            range: KeyRange::one(b"k"),
            result: CompareResult::Less,
            target,
        };
        let inner = TxnRequest {
            compare: vec![
                compare(CompareTarget::Value(b"v")),
                compare(CompareTarget::Lease(3)),
            ],
            success: vec![RequestOp::DeleteRange(delete.clone())],
            failure: vec![RequestOp::Range(range.clone())],
        };
        let txn = TxnRequest {
            compare: vec![compare(CompareTarget::ModRevision(9))],
            success: vec![RequestOp::Put(put.clone()), RequestOp::Txn(Box::new(inner))],
            failure: Vec::new(),
        };
        let commands = [
            Command::Put(put),
            Command::Range(range),
            Command::DeleteRange(delete),
            Command::Txn(txn),
            Command::Compact {
                revision: 5,
                physical: true,
            },
            Command::LeaseGrant { id: 1, ttl_s: 60 },
            Command::LeaseRevoke { id: 1 },
            Command::LeaseRenew { id: 1 },
            Command::LeaseExpire { id: 1, seen: 12 },
            Command::Alarm {
                action: AlarmAction::Activate,
                alarm: AlarmMember {
                    alarm: crate::api::Alarm::NoSpace,
                    member_id: u64::MAX,
                },
            },
            Command::LeaseRenewMany {
                ids: vec![1, -2, i64::MAX],
            },
            Command::LeaseExpireMany {
                seen: 12,
                ids: (1..=LEASES_MAX as i64).collect(),
            },
        ];
        commands
            .into_iter()
            .map(|command| {
                let mut encoded = command.encode();
                stamp(&mut encoded, Stamp { origin: 3, id: 4 });
                assert_eq!(decode(&encoded), Ok((Stamp { origin: 3, id: 4 }, command)));
                encoded
            })
            .collect()
    }

    #[test]
    fn every_command_comes_back_and_no_prefix_of_it_is_accepted() {
        for encoded in samples() {
            for cut in 0..encoded.len() {
                assert!(
                    decode(&encoded[..cut]).is_err(),
                    "cut at {cut} of {encoded:?}"
                );
            }
            let mut longer = encoded.clone();
            longer.push(0);
            assert_eq!(decode(&longer), Err(CommandError::Trailing(1)));
        }
    }

    #[test]
    fn the_key_of_a_put_is_found_without_decoding() {
        let keys: Vec<_> = samples()
            .iter()
            .map(|encoded| put_key(encoded).map(<[u8]>::to_vec))
            .collect();
        assert_eq!(keys[0].as_deref(), Some(&b"k"[..]));
        assert!(keys[1..].iter().all(Option::is_none));
    }

    #[test]
    fn the_key_of_a_range_of_one_key_is_found_without_decoding() {
        let one = Command::Range(RangeRequest {
            range: KeyRange::one(b"key"),
            limit: 3,
            ..RangeRequest::default()
        });
        assert_eq!(get_key(&one.encode()), Some(&b"key"[..]));
        let all = Command::Range(RangeRequest {
            range: KeyRange::all(),
            ..RangeRequest::default()
        });
        assert_eq!(get_key(&all.encode()), None);
        let put = Command::Put(PutRequest {
            key: b"key",
            ..PutRequest::default()
        });
        assert_eq!(get_key(&put.encode()), None);
        let encoded = one.encode();
        (0..encoded.len()).for_each(|cut| assert_eq!(get_key(&encoded[..cut]), None, "{cut}"));
    }

    #[test]
    fn a_put_is_encoded_without_spare_capacity() {
        let encoded = samples().remove(0);
        assert_eq!(encoded.len(), encoded.capacity());
    }

    /// The decoder refused at 64 what the check let through until 128: such an entry, once committed, ended
    /// its shard for good.
    #[test]
    fn regression_what_the_check_lets_through_is_decoded() {
        let limits = henge_mvcc::check::Limits {
            txn_ops_max: usize::MAX,
        };
        for below in [0, 63, 64, 65, 127, TXN_DEPTH_MAX, TXN_DEPTH_MAX + 1, 1_000] {
            let txn = (0..below).fold(TxnRequest::default(), |txn, _| TxnRequest {
                success: vec![RequestOp::Txn(Box::new(txn))],
                ..Default::default()
            });
            let checked = henge_mvcc::check::txn(&txn, &limits);
            let encoded = Command::Txn(txn).encode();
            assert_eq!(checked.is_ok(), proposable(&encoded).is_ok(), "{below}");
            assert_eq!(checked.is_ok(), below <= TXN_DEPTH_MAX, "{below}");
        }
    }

    #[test]
    fn only_what_adds_data_is_refused_when_full() {
        let adds: Vec<_> = samples().iter().map(|encoded| adds(encoded)).collect();
        assert_eq!(
            adds,
            [
                true, false, false, true, false, true, false, false, false, false, false, false
            ]
        );
    }

    fn any_range() -> impl Strategy<Value = KeyRange<'static>> {
        let keys: [&'static [u8]; 4] = [b"", b"\0", b"a", &[0xff; 40]];
        (0..4_usize, 0..4_usize).prop_map(move |(key, end)| KeyRange {
            key: keys[key],
            end: keys[end],
        })
    }

    fn any_op() -> impl Strategy<Value = RequestOp<'static>> {
        let range = (any_range(), any::<i64>(), 0..5_usize).prop_map(|(range, limit, target)| {
            let targets = [
                SortTarget::Key,
                SortTarget::Version,
                SortTarget::Create,
                SortTarget::Mod,
                SortTarget::Value,
            ];
            RequestOp::Range(RangeRequest {
                range,
                limit,
                max_create_revision: limit,
                sort_target: targets[target],
                ..Default::default()
            })
        });
        let put = (any_range(), any::<i64>(), any::<bool>()).prop_map(|(range, lease, prev_kv)| {
            RequestOp::Put(PutRequest {
                key: range.key,
                value: range.end,
                lease,
                prev_kv,
                ..Default::default()
            })
        });
        let delete = any_range().prop_map(|range| {
            RequestOp::DeleteRange(DeleteRangeRequest {
                range,
                prev_kv: true,
            })
        });
        prop_oneof![range, put, delete]
    }

    /// Transactions of up to a few operations per level, in a chain as deep as said.
    fn any_txn(below_max: usize) -> impl Strategy<Value = TxnRequest<'static>> {
        let level = (
            proptest::collection::vec(any_range(), 0..3),
            proptest::collection::vec(any_op(), 0..3),
            any::<bool>(),
        );
        proptest::collection::vec(level, 1..below_max).prop_map(|levels| {
            levels
                .into_iter()
                .fold(None, |inner: Option<TxnRequest<'static>>, level| {
                    let (compares, mut success, swap) = level;
                    success.extend(inner.map(|txn| RequestOp::Txn(Box::new(txn))));
                    let compare = compares.into_iter().map(|range| Compare {
                        range,
                        result: CompareResult::Greater,
                        target: CompareTarget::Value(range.end),
                    });
                    let (success, failure) = match swap {
                        true => (Vec::new(), success),
                        false => (success, Vec::new()),
                    };
                    Some(TxnRequest {
                        compare: compare.collect(),
                        success,
                        failure,
                    })
                })
                .unwrap_or_default()
        })
    }

    #[test]
    fn what_a_command_may_add_is_estimated_as_by_etcd() {
        let costs: Vec<_> = samples().iter().map(|encoded| cost(encoded)).collect();
        let of_put = 256 + 1 + 5;
        assert_eq!(costs, [of_put, 0, 0, of_put, 0, 64, 0, 0, 0, 0, 0, 0]);
        for encoded in samples() {
            let (_, command) = decode(&encoded).expect("a sample");
            assert_eq!(cost(&encoded), command.cost(), "{command:?}");
            assert_eq!(adds(&encoded), command.adds(), "{command:?}");
        }
        // Of a transaction the dearer side.
        fn put(value: &[u8]) -> RequestOp<'_> {
            RequestOp::Put(PutRequest {
                key: b"k",
                value,
                ..Default::default()
            })
        }
        let txn = TxnRequest {
            success: vec![put(b"1"), put(b"22")],
            failure: vec![put(&[7; 900])],
            ..Default::default()
        };
        assert_eq!(Command::Txn(txn).cost(), 256 + 1 + 900);
    }

    #[test]
    fn leases_in_one_command_are_bounded() {
        let ids = vec![7; LEASES_MAX + 1];
        let renewals = Command::LeaseRenewMany { ids }.encode();
        let refusal = CommandError::Leases(LEASES_MAX + 1);
        assert_eq!(decode(&renewals), Err(refusal));
    }

    #[test]
    fn a_stamp_is_found_without_decoding() {
        for encoded in samples() {
            assert_eq!(stamp_of(&encoded), Some(Stamp { origin: 3, id: 4 }));
            assert_eq!(stamp_of(&encoded[..HEADER_BYTES - 1]), None);
        }
    }

    proptest! {
        /// Whatever a caller builds is either refused before it is proposed, or comes back as it was: no entry
        /// that may be committed is undecodable.
        #[test]
        fn what_may_be_proposed_comes_back_as_it_was(txn in any_txn(200)) {
            let limits = henge_mvcc::check::Limits { txn_ops_max: usize::MAX };
            let encoded = Command::Txn(txn.clone()).encode();
            match proposable(&encoded) {
                Ok(()) => prop_assert_eq!(decode(&encoded), Ok((Stamp::default(), Command::Txn(txn)))),
                Err(error) => {
                    prop_assert_eq!(error, CommandError::Depth);
                    prop_assert!(henge_mvcc::check::txn(&txn, &limits).is_err());
                }
            }
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn damaged_commands_decode_or_are_refused(which in 0..12_usize, at in any::<usize>(), to in any::<u8>()) {
            let mut encoded = samples().swap_remove(which);
            let at = at % encoded.len();
            encoded[at] = to;
            let _ = decode(&encoded);
        }
    }
}
