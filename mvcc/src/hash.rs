//! A hash of the logical content that all replicas agree on.
//!
//! Covered: every key with its readable versions (see `compact`) up to a revision: key, main and
//! sub revision, create revision, version, lease, tombstone, value. Not covered: leases without
//! keys, and anything physical, so replicas agree wherever their physical compaction stands. etcd's
//! own hash depends on its disk format, so a different engine has to differ; what matters is that
//! members agree. The mix is multiply-and-fold over 8-byte words (after wyhash); it finds accidents,
//! it does not resist an adversary. Works in slices through [`HashCursor`]. Tested at the end and
//! by the model.

use std::ops::ControlFlow;

use crate::error::Error;
use crate::pins::Pin;
use crate::store::Store;

const MULTIPLIERS: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

/// A hash that is being computed. While it exists physical compaction waits.
#[derive(Debug)]
pub struct HashCursor {
    revision: i64,
    compacted: i64,
    /// The key to go on after.
    after: Option<Vec<u8>>,
    hash: Hash64,
    _pin: Pin,
}

impl Store {
    /// The hash at a revision (0 or less: the current one), and the compact revision it assumes.
    /// Walks everything: [`Store::hash_begin`] does it in slices.
    pub fn hash_kv(&self, revision: i64) -> Result<(u32, i64), Error> {
        let mut cursor = self.hash_begin(revision)?;
        loop {
            if let Some(done) = self.hash_step(&mut cursor, usize::MAX) {
                return Ok(done);
            }
        }
    }

    /// Begins a hash at a revision (0 or less: the current one).
    pub fn hash_begin(&self, revision: i64) -> Result<HashCursor, Error> {
        if revision > self.revision {
            return Err(Error::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        if revision > 0 && revision < self.compacted {
            return Err(Error::Compacted {
                requested: revision,
                compacted: self.compacted,
            });
        }
        let revision = if revision <= 0 {
            self.revision
        } else {
            revision
        };
        Ok(HashCursor {
            revision,
            compacted: self.compacted,
            after: None,
            hash: Hash64::default(),
            _pin: self.pins.pin(self.revision_seen()),
        })
    }

    /// Hashes up to `budget` keys; returns hash and compact revision when done.
    pub fn hash_step(&self, cursor: &mut HashCursor, budget: usize) -> Option<(u32, i64)> {
        let start = cursor.after.take();
        let mut left = budget.max(1);
        let stopped = self
            .index
            .scan(&self.keys, start.as_deref().unwrap_or_default(), |id| {
                let key = self.keys.key(id);
                if start.as_deref() == Some(key) {
                    return ControlFlow::Continue(());
                }
                if left == 0 {
                    return ControlFlow::Break(());
                }
                left -= 1;
                let mut first = true;
                for version in self.readable(id, cursor.compacted, cursor.revision, i64::MIN) {
                    if std::mem::take(&mut first) {
                        cursor.hash.bytes(key);
                    }
                    cursor.hash.number(version.main as u64);
                    cursor
                        .hash
                        .number(u64::from(version.sub) << 1 | u64::from(version.tombstone));
                    cursor.hash.number(version.create as u64);
                    cursor.hash.number(version.version as u64);
                    cursor.hash.number(version.lease as u64);
                    cursor.hash.bytes(version.value);
                }
                if left == 0 {
                    cursor.after = Some(key.to_vec());
                }
                ControlFlow::Continue(())
            });
        if stopped.is_some() {
            return None;
        }
        let hash = cursor.hash.finish();
        Some(((hash ^ (hash >> 32)) as u32, cursor.compacted))
    }
}

/// A running 64-bit hash of numbers and byte strings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hash64(u64);

impl Hash64 {
    pub fn number(&mut self, number: u64) {
        self.0 = fold(self.0 ^ MULTIPLIERS[0], number ^ MULTIPLIERS[1]).wrapping_add(number);
    }

    /// The length goes in too, so that neighbouring strings cannot trade bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        let (words, rest) = bytes.as_chunks::<8>();
        words
            .iter()
            .for_each(|word| self.number(u64::from_le_bytes(*word)));
        let mut last = [0; 8];
        last[..rest.len()].copy_from_slice(rest);
        self.number(u64::from_le_bytes(last));
    }

    pub fn finish(self) -> u64 {
        fold(self.0 ^ MULTIPLIERS[1], MULTIPLIERS[0])
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::PutRequest;
    use crate::version::Version;

    fn hash_of(bytes: &[u8]) -> u64 {
        let mut hash = Hash64::default();
        hash.bytes(bytes);
        hash.finish()
    }

    #[test]
    fn every_bit_and_the_length_count() {
        let bytes = [0u8; 33];
        let mut seen = vec![hash_of(&bytes), hash_of(&bytes[..32]), hash_of(&[])];
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes;
            flipped[bit / 8] ^= 1 << (bit % 8);
            seen.push(hash_of(&flipped));
        }
        let count = seen.len();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen.len(), count);
    }

    #[test]
    fn every_field_of_a_version_counts() {
        let base = Version {
            main: 9,
            create: 5,
            version: 3,
            value: b"v",
            ..Version::default()
        };
        let others = [
            base,
            Version { main: 8, ..base },
            Version { sub: 1, ..base },
            Version { create: 4, ..base },
            Version { version: 4, ..base },
            Version { lease: 1, ..base },
            Version {
                value: b"w",
                ..base
            },
            Version::tombstone(9, 0),
        ];
        let mut hashes = others.map(|version| {
            let mut store = Store::new();
            store.revision = 9;
            let place = store.index.locate(&store.keys, b"k");
            let id = store.keys.insert(b"k", &version).expect("room");
            store.index.insert(&store.keys, &place, id);
            store.hash_kv(0).expect("current").0
        });
        hashes.sort_unstable();
        assert!(
            hashes.is_sorted_by(|a, b| a < b),
            "all different: {hashes:?}"
        );
    }

    #[test]
    fn slices_give_the_same_hash_while_writes_go_on() {
        let mut store = Store::new();
        for n in 0..500u32 {
            let put = PutRequest {
                key: &(n % 300).to_be_bytes(),
                value: b"v",
                ..PutRequest::default()
            };
            store.put(&put).expect("valid");
        }
        let whole = store.hash_kv(0).expect("current");
        let mut cursor = store.hash_begin(0).expect("current");
        let mut steps = 0u32;
        let sliced = loop {
            if let Some(done) = store.hash_step(&mut cursor, 7) {
                break done;
            }
            steps += 1;
            let put = PutRequest {
                key: &steps.to_be_bytes(),
                value: b"w",
                ..PutRequest::default()
            };
            store.put(&put).expect("valid");
        };
        assert!(steps > 10);
        assert_eq!(sliced, whole);
        assert_ne!(store.hash_kv(0).expect("current"), whole);
        assert_eq!(store.hash_kv(501).expect("old"), whole);
        assert!(matches!(
            store.hash_kv(5_000),
            Err(Error::FutureRevision { .. })
        ));
    }
}
