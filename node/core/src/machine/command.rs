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
//! Must never know: how a command is applied, whether its caller may ask.

mod estimate;
mod peek;

use henge_api::{AlarmAction, AlarmMember, Caller};
use henge_mvcc::check::TXN_DEPTH_MAX;
use henge_mvcc::{DeleteRangeRequest, PutRequest, RangeRequest, TxnRequest};

use super::decode::Reader;
use super::encode::{
    PUT_FIXED, encode_delete, encode_put, encode_range, encode_txn, put_i64, put_ids,
};

pub(super) use estimate::Adding;
pub use estimate::txn_bytes;
pub use peek::{
    adds, cost, get_key, is_alarm, is_compact, is_dear, kind, put_key, stamp, stamp_of,
};

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
    /// Who asked. Format 1 has no bytes for it: what was encoded was asked by nobody.
    pub caller: Caller,
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
    /// A byte of the head that no build of this version writes.
    #[error("command has {byte:#04x} in its reserved byte {at}: a later build may have written it")]
    Reserved {
        /// Where, from the command's beginning.
        at: usize,
        /// What stood there.
        byte: u8,
    },
    /// Flags that no build of this version sets.
    #[error("command has flags {byte:#04x} of a {what}, of which this build knows {known:#04x}")]
    Flags {
        /// Whose.
        what: &'static str,
        /// What stood there.
        byte: u8,
        /// Those that are known.
        known: u8,
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

/// Whether an encoded command may enter the log: whoever applies it will understand it, and it is none that
/// only reads.
pub fn proposable(encoded: &[u8]) -> Result<(), CommandError> {
    if encoded.get(1) == Some(&tag::TXN) {
        return skim(encoded).map(drop);
    }
    match decode(encoded)?.1 {
        Command::Range(_) => Err(CommandError::Tag {
            what: "logged command",
            tag: tag::RANGE,
        }),
        _ => Ok(()),
    }
}

/// Goes through an encoded transaction, which is refused as [`decode`] refuses it, and keeps nothing of it.
fn skim(encoded: &[u8]) -> Result<Adding, CommandError> {
    let mut reader = Reader { bytes: encoded };
    head(&mut reader)?;
    let found = reader.skim_txn(0)?;
    at_end(&reader)?;
    Ok(found)
}

/// Takes a command's head off: what kind it is, and whose.
fn head(reader: &mut Reader<'_>) -> Result<(u8, Stamp), CommandError> {
    let version = reader.u8()?;
    if version != VERSION {
        return Err(CommandError::Version(version));
    }
    let kind = reader.u8()?;
    // What a later build says there, this one would leave undone: it must not seem to understand.
    let reserved: [u8; 6] = reader.array()?;
    if let Some((at, byte)) = (2..).zip(reserved).find(|(_, byte)| *byte != 0) {
        return Err(CommandError::Reserved { at, byte });
    }
    let stamp = Stamp {
        origin: reader.u64()?,
        id: reader.u64()?,
        caller: Caller::nobody(),
    };
    Ok((kind, stamp))
}

fn at_end(reader: &Reader<'_>) -> Result<(), CommandError> {
    match reader.bytes.len() {
        0 => Ok(()),
        left => Err(CommandError::Trailing(left)),
    }
}

/// Decodes one command and its stamp from an entry's payload.
pub fn decode(bytes: &[u8]) -> Result<(Stamp, Command<'_>), CommandError> {
    let mut reader = Reader { bytes };
    let (kind, stamp) = head(&mut reader)?;
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
    at_end(&reader)?;
    Ok((stamp, command))
}

#[cfg(test)]
mod tests;
