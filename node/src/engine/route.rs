//! Which shard holds a key.
//!
//! Keys are spread by a fixed hash (FNV-1a, finished with a multiply-shift): it must never change, since
//! it says where data is. One shard needs no hash.

use henge_mvcc as mvcc;
use henge_mvcc::RequestOp;

use super::{Engine, Router, Ticket, owned};
use crate::api::{Error, Header, Reply};
use crate::machine::Command;
use crate::shard::request::RequestKind;

/// The shard of a key among `shards`.
pub fn shard_of(key: &[u8], shards: usize) -> usize {
    if shards <= 1 {
        return 0;
    }
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    usize::try_from((u128::from(hash) * shards as u128) >> 64).unwrap_or(0)
}

impl Engine {
    pub(crate) fn route(&self, key: &[u8]) -> usize {
        match &self.inner().router {
            Router::Hash => shard_of(key, self.shards()),
            Router::Ranges(splits) => splits.partition_point(|split| split[..] <= *key),
        }
    }

    pub(crate) fn one_shard(&self, what: &'static str) -> Result<usize, Error> {
        if self.shards() == 1 {
            Ok(0)
        } else {
            Err(Error::OneShardOnly(what))
        }
    }

    pub(crate) fn route_range(
        &self,
        range: &mvcc::KeyRange<'_>,
        what: &'static str,
    ) -> Result<usize, Error> {
        if range.is_one() {
            Ok(self.route(range.key))
        } else {
            self.one_shard(what)
        }
    }

    /// The one shard all keys of a transaction live in.
    pub(crate) fn route_txn(&self, txn: &mvcc::TxnRequest<'_>) -> Result<usize, Error> {
        if self.shards() == 1 {
            return Ok(0);
        }
        let mut keys = Vec::new();
        collect_keys(txn, &mut keys)?;
        let Some(first) = keys.first() else {
            return Ok(0);
        };
        let shard = self.route(first);
        match keys.iter().find(|key| self.route(key) != shard) {
            None => Ok(shard),
            Some(other) => Err(Error::CrossShard {
                first: owned(first),
                other: owned(other),
            }),
        }
    }

    pub(crate) fn range_tickets(
        &self,
        request: &mvcc::RangeRequest<'_>,
    ) -> Result<Vec<Ticket>, Error> {
        mvcc::check::range(request, &self.inner().limits)?;
        let encoded = Command::Range(request.clone()).encode();
        let read = |encoded| RequestKind::Read {
            encoded,
            serializable: false,
        };
        if request.range.is_one() || self.shards() == 1 {
            return Ok(vec![
                self.submit(self.route(request.range.key), read(encoded)),
            ]);
        }
        if request.revision > 0 || request.sort_target != mvcc::SortTarget::Key {
            return Err(Error::OneShardOnly(
                "a range at a past revision or in another order",
            ));
        }
        Ok((0..self.shards())
            .map(|shard| self.submit(shard, read(encoded.clone())))
            .collect())
    }
}

/// Merges the shards' answers in key order; each is sorted already.
pub(crate) fn merge(
    mut parts: Vec<Reply<mvcc::RangeResponse>>,
    limit: i64,
) -> Result<Reply<mvcc::RangeResponse>, Error> {
    if parts.len() == 1
        && let Some(only) = parts.pop()
    {
        return Ok(only);
    }
    let mut header = Header::default();
    let mut body = mvcc::RangeResponse::default();
    for part in parts {
        if part.header.revision >= header.revision {
            header = part.header;
        }
        body.count += part.body.count;
        body.more |= part.body.more;
        body.kvs.extend(part.body.kvs);
    }
    body.kvs.sort_by(|left, right| left.key.cmp(&right.key));
    if let Ok(limit) = usize::try_from(limit)
        && limit > 0
        && body.kvs.len() > limit
    {
        body.kvs.truncate(limit);
        body.more = true;
    }
    Ok(Reply { header, body })
}

fn collect_keys<'a>(txn: &mvcc::TxnRequest<'a>, keys: &mut Vec<&'a [u8]>) -> Result<(), Error> {
    let mut one = |range: &mvcc::KeyRange<'a>| {
        if !range.is_one() {
            return Err(Error::OneShardOnly("a range inside a transaction"));
        }
        keys.push(range.key);
        Ok(())
    };
    let mut nested = Vec::new();
    for compare in &txn.compare {
        one(&compare.range)?;
    }
    for op in txn.success.iter().chain(&txn.failure) {
        match op {
            RequestOp::Range(range) => one(&range.range)?,
            RequestOp::Put(put) => one(&mvcc::KeyRange::one(put.key))?,
            RequestOp::DeleteRange(delete) => one(&delete.range)?,
            RequestOp::Txn(txn) => nested.push(txn),
        }
    }
    nested
        .into_iter()
        .try_for_each(|txn| collect_keys(txn, keys))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_never_changes() {
        // Data of existing directories lies where these say.
        let found: Vec<_> = ["", "a", "b", "key-1", "key-2", "registry/pods"]
            .map(|key| shard_of(key.as_bytes(), 1_000))
            .into();
        assert_eq!(found, [521, 510, 289, 903, 532, 302]);
    }

    #[test]
    fn keys_spread_evenly() {
        let mut counts = [0_u32; 8];
        for number in 0..80_000 {
            counts[shard_of(format!("key-{number}").as_bytes(), 8)] += 1;
        }
        assert!(
            counts.iter().all(|count| (9_000..11_000).contains(count)),
            "{counts:?}"
        );
    }
}
