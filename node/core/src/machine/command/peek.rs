//! What a shard asks of an encoded command that it does not want to decode.
//!
//! Promises: bytes that are no command, or are cut short, answer nothing or "no"; decoding refuses them. A
//! transaction is gone through, but not kept. Tested with the commands.
//! Must never know: the store.

use super::estimate::{LEASE_COST, PUT_COST};
use super::{HEADER_BYTES, Stamp, skim, tag};
use crate::machine::decode::Reader;
use crate::machine::encode::PUT_FIXED;
#[cfg(doc)]
use henge_api::AppliedTimes;
use henge_api::Caller;

/// Bytes of a transaction above which it is decoded once: some four hundred empty operations.
const DEAR_BYTES: usize = 4 << 10;

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
        caller: Caller::nobody(),
    })
}

/// Whether an encoded command may add data (puts, transactions with puts, lease grants): what a full
/// store refuses. Judged by its kind; a transaction is looked into.
pub fn adds(encoded: &[u8]) -> bool {
    match encoded.get(1) {
        Some(&tag::PUT | &tag::LEASE_GRANT) => true,
        Some(&tag::TXN) => skim(encoded).is_ok_and(|found| found.adds),
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

/// Whether to decode a command takes so long that it is done once: a large transaction, of however many
/// operations.
pub fn is_dear(encoded: &[u8]) -> bool {
    encoded.len() > DEAR_BYTES && encoded.get(1) == Some(&tag::TXN)
}

/// Whether an encoded command is a compaction.
pub fn is_compact(encoded: &[u8]) -> bool {
    encoded.get(1) == Some(&tag::COMPACT)
}

/// The place of an encoded command's kind in [`AppliedTimes::KINDS`]; what ends a lease is one kind, however
/// it is said, and so is what renews one.
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
        Some(&tag::TXN) => skim(encoded).map_or(0, |found| found.cost),
        _ => 0,
    }
}

/// Whether an encoded command raises or lowers an alarm.
pub fn is_alarm(encoded: &[u8]) -> bool {
    encoded.get(1) == Some(&tag::ALARM)
}
