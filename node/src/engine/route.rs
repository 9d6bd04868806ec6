//! Which shard holds a key.
//!
//! Keys are spread by a fixed hash (FNV-1a, finished with a multiply-shift): it must never change, since
//! it says where data is. One shard needs no hash.

use bytes::Bytes;
use henge_api::Error;
use henge_mvcc as mvcc;
use henge_mvcc::RequestOp;

use super::{Engine, Router, owned};

/// The shard of a key among `shards`.
///
/// ```
/// use henge::engine::route::shard_of;
///
/// assert!(shard_of(b"accounts/ada", 16) < 16);
/// assert_eq!(shard_of(b"accounts/ada", 16), shard_of(b"accounts/ada", 16));
/// ```
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

    /// The shards that can hold keys of a range.
    pub(crate) fn shards_of(&self, range: &mvcc::KeyRange<'_>) -> std::ops::Range<usize> {
        if range.is_one() {
            let shard = self.route(range.key);
            return shard..shard + 1;
        }
        match &self.inner().router {
            Router::Hash => 0..self.shards(),
            Router::Ranges(splits) => spanned(splits, range),
        }
    }

    pub(crate) fn one_shard(&self, what: &'static str) -> Result<usize, Error> {
        if self.shards() == 1 {
            Ok(0)
        } else {
            Err(Error::OneShardOnly(what))
        }
    }

    /// The one shard that holds all of a range.
    pub(crate) fn route_range(
        &self,
        range: &mvcc::KeyRange<'_>,
        what: &'static str,
    ) -> Result<usize, Error> {
        let shards = self.shards_of(range);
        if shards.len() == 1 {
            Ok(shards.start)
        } else {
            Err(Error::OneShardOnly(what))
        }
    }

    /// The one shard all keys of a transaction live in.
    pub(crate) fn route_txn(&self, txn: &mvcc::TxnRequest<'_>) -> Result<usize, Error> {
        if self.shards() == 1 {
            return Ok(0);
        }
        let mut first = None;
        self.meet(txn, &mut first)?;
        Ok(first.map_or(0, |(shard, _)| shard))
    }

    /// Walks a transaction; every key must be in the shard of the first.
    fn meet<'a>(
        &self,
        txn: &mvcc::TxnRequest<'a>,
        first: &mut Option<(usize, &'a [u8])>,
    ) -> Result<(), Error> {
        let mut one = |range: &mvcc::KeyRange<'a>| {
            let shard =
                self.route_range(range, "a range over several shards inside a transaction")?;
            let (met, key) = *first.get_or_insert((shard, range.key));
            if met == shard {
                return Ok(());
            }
            Err(Error::CrossShard {
                first: owned(key),
                other: owned(range.key),
            })
        };
        for compare in &txn.compare {
            one(&compare.range)?;
        }
        let mut nested = Vec::new();
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                RequestOp::Range(range) => one(&range.range)?,
                RequestOp::Put(put) => {
                    one(&mvcc::KeyRange::one(put.key))?;
                    self.check_lease(put.key, put.lease)?;
                }
                RequestOp::DeleteRange(delete) => one(&delete.range)?,
                RequestOp::Txn(txn) => nested.push(txn),
            }
        }
        nested.into_iter().try_for_each(|txn| self.meet(txn, first))
    }
}

/// The shards between split keys that a range touches. An empty range touches the one it begins in.
fn spanned(splits: &[Bytes], range: &mvcc::KeyRange<'_>) -> std::ops::Range<usize> {
    let first = splits.partition_point(|split| split[..] <= *range.key);
    // etcd: a range end of one zero byte means all keys from the first on.
    let last = if range.end == b"\0" {
        splits.len()
    } else {
        splits.partition_point(|split| split[..] < *range.end)
    };
    first..last.max(first) + 1
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
    fn ranges_touch_the_shards_between_their_ends() {
        let splits = [Bytes::from_static(b"g"), Bytes::from_static(b"p")];
        let span = |key: &'static [u8], end: &'static [u8]| {
            let touched = spanned(&splits, &mvcc::KeyRange { key, end });
            (touched.start, touched.end)
        };
        assert_eq!(span(b"a", b"g"), (0, 1));
        assert_eq!(span(b"a", b"g\0"), (0, 2));
        assert_eq!(span(b"g", b"p"), (1, 2));
        assert_eq!(span(b"b", b"\0"), (0, 3));
        assert_eq!(span(b"q", b"\0"), (2, 3));
        assert_eq!(span(b"z", b"a"), (2, 3));
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
