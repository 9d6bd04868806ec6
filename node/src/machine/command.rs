//! The binary form of a request: what travels from a caller to its shard, and what a raft entry holds.
//!
//! A request is encoded once, on the caller's thread, so the shard's core neither clones keys nor
//! builds trees: it stamps the header and hands the same bytes to raft. Decoding borrows from them.
//! The layout is drawn in docs/format.md ("Commands"); numbers are little-endian. Every read is
//! bounds-checked: the bytes may come from a peer or from a disk. Nested transactions are bounded by
//! [`DEPTH_MAX`], and no count is trusted further than the bytes that are left.

use henge_mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, SortOrder, SortTarget, TxnRequest,
};

/// Bytes before the body: version, kind, reserved, origin, id.
pub const HEADER_BYTES: usize = 24;
/// Format version of the command encoding.
pub const VERSION: u8 = 1;
/// Deepest nesting of transactions that is decoded.
pub const DEPTH_MAX: usize = 64;

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
    /// Renew a lease on every replica.
    LeaseRenew {
        /// Lease id.
        id: i64,
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
    /// Transactions nested deeper than [`DEPTH_MAX`].
    #[error("transactions are nested deeper than {DEPTH_MAX}")]
    Depth,
    /// Bytes after the command's end.
    #[error("{0} bytes follow the command")]
    Trailing(usize),
}

mod tag {
    pub const PUT: u8 = 1;
    pub const DELETE_RANGE: u8 = 2;
    pub const TXN: u8 = 3;
    pub const RANGE: u8 = 4;
    pub const COMPACT: u8 = 5;
    pub const LEASE_GRANT: u8 = 6;
    pub const LEASE_REVOKE: u8 = 7;
    pub const LEASE_RENEW: u8 = 8;
}

impl Command<'_> {
    /// Encodes with an empty stamp; [`stamp`] fills it in when the shard takes the request.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(HEADER_BYTES + self.body_hint());
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
        }
        out
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
        }
    }

    /// Exact for a put, so that the hot path allocates once and wastes nothing.
    fn body_hint(&self) -> usize {
        match self {
            Command::Put(put) => PUT_FIXED + put.key.len() + put.value.len(),
            Command::Txn(_) => 256,
            Command::Range(range) => 128 + range.range.key.len() + range.range.end.len(),
            Command::DeleteRange(delete) => 16 + delete.range.key.len() + delete.range.end.len(),
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

/// Whether an encoded command is a compaction.
pub fn is_compact(encoded: &[u8]) -> bool {
    encoded.get(1) == Some(&tag::COMPACT)
}

fn txn_adds(txn: &TxnRequest<'_>) -> bool {
    txn.success.iter().chain(&txn.failure).any(|op| match op {
        RequestOp::Put(_) => true,
        RequestOp::Txn(nested) => txn_adds(nested),
        RequestOp::Range(_) | RequestOp::DeleteRange(_) => false,
    })
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

const PUT_FIXED: usize = 1 + 8 + 4 + 4;

fn encode_put(out: &mut Vec<u8>, put: &PutRequest<'_>) {
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

fn encode_delete(out: &mut Vec<u8>, delete: &DeleteRangeRequest<'_>) {
    out.push(flags([delete.prev_kv, false, false, false]));
    encode_key_range(out, &delete.range);
}

fn encode_key_range(out: &mut Vec<u8>, range: &KeyRange<'_>) {
    put_bytes(out, range.key);
    put_bytes(out, range.end);
}

fn encode_range(out: &mut Vec<u8>, range: &RangeRequest<'_>) {
    out.push(flags([range.keys_only, range.count_only, false, false]));
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

fn encode_txn(out: &mut Vec<u8>, txn: &TxnRequest<'_>) {
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

fn encode_compare(out: &mut Vec<u8>, compare: &Compare<'_>) {
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

fn put_target(out: &mut Vec<u8>, tag: u8, number: i64) {
    out.push(tag);
    put_i64(out, number);
}

fn put_i64(out: &mut Vec<u8>, number: i64) {
    out.extend_from_slice(&number.to_le_bytes());
}

/// Lengths and counts are u32: a request is bounded far below 4 GiB at admission.
fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_len(out, bytes.len());
    out.extend_from_slice(bytes);
}

fn flags(bits: [bool; 4]) -> u8 {
    bits.iter()
        .enumerate()
        .fold(0, |byte, (at, bit)| byte | (u8::from(*bit) << at))
}

struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    fn take(&mut self, count: usize) -> Result<&'a [u8], CommandError> {
        let (head, tail) = self
            .bytes
            .split_at_checked(count)
            .ok_or(CommandError::Short)?;
        self.bytes = tail;
        Ok(head)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], CommandError> {
        let (head, tail) = self
            .bytes
            .split_first_chunk::<N>()
            .ok_or(CommandError::Short)?;
        self.bytes = tail;
        Ok(*head)
    }

    fn u8(&mut self) -> Result<u8, CommandError> {
        Ok(self.array::<1>()?[0])
    }

    fn u64(&mut self) -> Result<u64, CommandError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, CommandError> {
        Ok(i64::from_le_bytes(self.array()?))
    }

    fn bool(&mut self) -> Result<bool, CommandError> {
        match self.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            tag => Err(CommandError::Tag {
                what: "boolean",
                tag,
            }),
        }
    }

    fn len(&mut self) -> Result<usize, CommandError> {
        Ok(u32::from_le_bytes(self.array()?) as usize)
    }

    fn slice(&mut self) -> Result<&'a [u8], CommandError> {
        let len = self.len()?;
        self.take(len)
    }

    /// A count of things that each take at least `least` bytes: it cannot make us reserve more memory
    /// than the input could fill.
    fn count(&mut self, least: usize) -> Result<usize, CommandError> {
        let count = self.len()?;
        if count > self.bytes.len() / least {
            return Err(CommandError::Short);
        }
        Ok(count)
    }

    fn key_range(&mut self) -> Result<KeyRange<'a>, CommandError> {
        Ok(KeyRange {
            key: self.slice()?,
            end: self.slice()?,
        })
    }

    fn put(&mut self) -> Result<PutRequest<'a>, CommandError> {
        let flags = self.u8()?;
        Ok(PutRequest {
            lease: self.i64()?,
            key: self.slice()?,
            value: self.slice()?,
            prev_kv: flags & 1 != 0,
            ignore_value: flags & 2 != 0,
            ignore_lease: flags & 4 != 0,
        })
    }

    fn delete(&mut self) -> Result<DeleteRangeRequest<'a>, CommandError> {
        let flags = self.u8()?;
        Ok(DeleteRangeRequest {
            range: self.key_range()?,
            prev_kv: flags & 1 != 0,
        })
    }

    fn range(&mut self) -> Result<RangeRequest<'a>, CommandError> {
        let flags = self.u8()?;
        let sort_order = match self.u8()? {
            0 => SortOrder::None,
            1 => SortOrder::Ascend,
            2 => SortOrder::Descend,
            tag => {
                return Err(CommandError::Tag {
                    what: "sort order",
                    tag,
                });
            }
        };
        let sort_target = match self.u8()? {
            0 => SortTarget::Key,
            1 => SortTarget::Version,
            2 => SortTarget::Create,
            3 => SortTarget::Mod,
            4 => SortTarget::Value,
            tag => {
                return Err(CommandError::Tag {
                    what: "sort target",
                    tag,
                });
            }
        };
        Ok(RangeRequest {
            keys_only: flags & 1 != 0,
            count_only: flags & 2 != 0,
            sort_order,
            sort_target,
            limit: self.i64()?,
            revision: self.i64()?,
            min_mod_revision: self.i64()?,
            max_mod_revision: self.i64()?,
            min_create_revision: self.i64()?,
            max_create_revision: self.i64()?,
            range: self.key_range()?,
        })
    }

    fn txn(&mut self, depth: usize) -> Result<TxnRequest<'a>, CommandError> {
        if depth >= DEPTH_MAX {
            return Err(CommandError::Depth);
        }
        let count = self.count(10)?;
        let mut compare = Vec::with_capacity(count);
        for _ in 0..count {
            compare.push(self.compare()?);
        }
        Ok(TxnRequest {
            compare,
            success: self.ops(depth)?,
            failure: self.ops(depth)?,
        })
    }

    fn ops(&mut self, depth: usize) -> Result<Vec<RequestOp<'a>>, CommandError> {
        let count = self.count(10)?;
        let mut ops = Vec::with_capacity(count);
        for _ in 0..count {
            ops.push(match self.u8()? {
                tag::RANGE => RequestOp::Range(self.range()?),
                tag::PUT => RequestOp::Put(self.put()?),
                tag::DELETE_RANGE => RequestOp::DeleteRange(self.delete()?),
                tag::TXN => RequestOp::Txn(Box::new(self.txn(depth + 1)?)),
                tag => {
                    return Err(CommandError::Tag {
                        what: "operation",
                        tag,
                    });
                }
            });
        }
        Ok(ops)
    }

    fn compare(&mut self) -> Result<Compare<'a>, CommandError> {
        let result = match self.u8()? {
            0 => CompareResult::Equal,
            1 => CompareResult::Greater,
            2 => CompareResult::Less,
            3 => CompareResult::NotEqual,
            tag => {
                return Err(CommandError::Tag {
                    what: "compare result",
                    tag,
                });
            }
        };
        let target = match self.u8()? {
            0 => CompareTarget::Version(self.i64()?),
            1 => CompareTarget::CreateRevision(self.i64()?),
            2 => CompareTarget::ModRevision(self.i64()?),
            3 => CompareTarget::Value(self.slice()?),
            4 => CompareTarget::Lease(self.i64()?),
            tag => {
                return Err(CommandError::Tag {
                    what: "compare target",
                    tag,
                });
            }
        };
        Ok(Compare {
            result,
            target,
            range: self.key_range()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
    fn a_put_is_encoded_without_spare_capacity() {
        let encoded = samples().remove(0);
        assert_eq!(encoded.len(), encoded.capacity());
    }

    #[test]
    fn nesting_is_bounded() {
        let mut txn = TxnRequest::default();
        for _ in 0..DEPTH_MAX {
            txn = TxnRequest {
                success: vec![RequestOp::Txn(Box::new(txn))],
                ..Default::default()
            };
        }
        assert_eq!(
            decode(&Command::Txn(txn).encode()),
            Err(CommandError::Depth)
        );
    }

    #[test]
    fn only_what_adds_data_is_refused_when_full() {
        let adds: Vec<_> = samples().iter().map(|encoded| adds(encoded)).collect();
        assert_eq!(adds, [true, false, false, true, false, true, false, false]);
    }

    proptest! {
        #[test]
        fn any_bytes_decode_or_are_refused(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = decode(&bytes);
        }

        #[test]
        fn damaged_commands_decode_or_are_refused(which in 0..8_usize, at in any::<usize>(), to in any::<u8>()) {
            let mut encoded = samples().swap_remove(which);
            let at = at % encoded.len();
            encoded[at] = to;
            let _ = decode(&encoded);
        }
    }
}
