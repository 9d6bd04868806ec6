//! A hash of the logical content that all replicas agree on.
//!
//! Covered: every key with its readable versions (see `compact`) up to a revision: key, main and
//! sub revision, create revision, version, lease, tombstone, value. Not covered: leases without
//! keys, and anything physical, so replicas agree wherever their physical compaction stands. etcd's
//! own hash depends on its disk format, so a different engine has to differ; what matters is that
//! members agree. The mix is multiply-and-fold over 8-byte words (after wyhash); it finds accidents,
//! it does not resist an adversary. Works in slices through [`HashCursor`].
//!
//! The hash at a revision follows from the content between the compact revision and it, so it changes when
//! that revision is compacted at. Members are compared while one has compacted and another has not; so the
//! hashes at the last compact revisions are kept as they were, with the compact revision they assume
//! ([`Store::keep_compaction_hashes`]): two answers can be compared if they agree on both revisions.
//! Tested at the end and by the model.

use std::collections::VecDeque;
use std::ops::ControlFlow;

use crate::error::Error;
use crate::pins::{Pin, Span};
use crate::store::Store;
use crate::version::Version;

const MULTIPLIERS: [u64; 2] = [0xa076_1d64_78bd_642f, 0xe703_7ed1_a0b4_28db];

/// Bytes of a value that are hashed in about the time of a look at a version.
const BYTES_PER_LOOK: usize = 512;
/// Hashes of compact revisions that are kept (etcd's figure).
const KEPT_MAX: usize = 10;

/// A hash that is being computed. While it exists what it reads is not removed.
#[derive(Debug)]
pub struct HashCursor {
    revision: i64,
    compacted: i64,
    /// Where to go on.
    after: Option<After>,
    hash: Hash64,
    /// It was computed before.
    known: Option<(u32, i64)>,
    _pin: Pin,
}

/// The last key looked at.
#[derive(Debug)]
struct After {
    key: Vec<u8>,
    /// The last revision hashed of it, if there are more.
    main: Option<i64>,
}

impl HashCursor {
    /// The revision that is hashed.
    pub fn revision(&self) -> i64 {
        self.revision
    }
}

/// Hashes at the last compact revisions, as of before the compaction (see [`Store::keep_compaction_hashes`]).
#[derive(Debug, Default)]
pub(crate) struct Kept {
    enabled: bool,
    /// Compaction waits for it.
    running: Option<HashCursor>,
    /// Revision, hash, and the compact revision that it assumes.
    done: VecDeque<(i64, u32, i64)>,
}

impl Kept {
    pub fn is_running(&self) -> bool {
        self.running.is_some()
    }
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

    /// Begins a hash at a revision (0 or less: the current one). At a revision that was compacted at, and
    /// whose hash was kept, it is the one of before.
    pub fn hash_begin(&self, revision: i64) -> Result<HashCursor, Error> {
        let known = self.kept_hash(revision);
        if revision > self.revision {
            return Err(Error::FutureRevision {
                requested: revision,
                current: self.revision,
            });
        }
        if known.is_none() && revision > 0 && revision < self.compacted {
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
        let cursor = self.hash_from(revision);
        Ok(HashCursor { known, ..cursor })
    }

    /// Goes on for a budget of versions looked at; returns hash and compact revision when done.
    pub fn hash_step(&self, cursor: &mut HashCursor, budget: usize) -> Option<(u32, i64)> {
        if cursor.known.is_some() {
            return cursor.known;
        }
        let resume = cursor.after.take();
        let start = resume.as_ref().map_or(&[][..], |after| &after.key);
        let mut left = budget.max(1);
        let stopped = self.index.scan(&self.keys, start, |id| {
            let key = self.keys.key(id);
            let from = match &resume {
                Some(after) if after.key == key => match after.main {
                    Some(main) => main.saturating_add(1),
                    None => return ControlFlow::Continue(()),
                },
                _ => i64::MIN,
            };
            if left == 0 {
                return ControlFlow::Break(());
            }
            let (mut is_begun, mut last) = (from != i64::MIN, None);
            for version in self.readable(id, cursor.compacted, cursor.revision, from) {
                // The changes of a revision are not taken apart.
                if left == 0 && last.is_some_and(|last| last != version.main) {
                    let key = key.to_vec();
                    cursor.after = Some(After { key, main: last });
                    return ControlFlow::Break(());
                }
                if !std::mem::replace(&mut is_begun, true) {
                    cursor.hash.bytes(key);
                }
                cursor.hash.version(&version);
                // It is looked at, and hashed byte by byte.
                self.meter.look(2);
                self.meter.bytes(version.value.len());
                left = left.saturating_sub(1 + version.value.len() / BYTES_PER_LOOK);
                last = Some(version.main);
            }
            left = left.saturating_sub(usize::from(last.is_none()));
            if left == 0 {
                let key = key.to_vec();
                cursor.after = Some(After { key, main: None });
            }
            ControlFlow::Continue(())
        });
        if stopped.is_some() {
            return None;
        }
        let hash = cursor.hash.finish();
        Some(((hash ^ (hash >> 32)) as u32, cursor.compacted))
    }

    /// Says whether the hash at each compact revision is to be computed before the compaction removes
    /// anything, and kept: the last ten, as etcd does. So a member that has compacted can be compared with
    /// one that has not. The price is a look at everything for each compaction that finds the one before done
    /// (one that comes earlier has none kept); so it is off unless asked for.
    pub fn keep_compaction_hashes(&mut self, enabled: bool) {
        self.kept.enabled = enabled;
    }

    /// The hash at a compact revision as of before the compaction, with the compact revision it assumes.
    fn kept_hash(&self, revision: i64) -> Option<(u32, i64)> {
        let mut kept = self.kept.done.iter();
        let &(_, hash, compacted) = kept.find(|&&(at, ..)| at == revision)?;
        Some((hash, compacted))
    }

    /// A compaction at `revision` is about to begin.
    pub(crate) fn keep_hash(&mut self, revision: i64) {
        if self.kept.enabled && revision > 0 && !self.kept.is_running() && !self.has_to_walk() {
            self.kept.running = Some(self.hash_from(revision));
        }
    }

    /// Goes on with the hash that compaction waits for; returns what is left of the budget.
    pub(crate) fn keep_hash_step(&mut self, budget: usize) -> usize {
        let Some(mut cursor) = self.kept.running.take() else {
            return budget;
        };
        if budget == 0 {
            self.kept.running = Some(cursor);
        } else if let Some((hash, compacted)) = self.hash_step(&mut cursor, budget) {
            self.kept.done.push_back((cursor.revision, hash, compacted));
            if self.kept.done.len() > KEPT_MAX {
                self.kept.done.pop_front();
            }
        } else {
            self.kept.running = Some(cursor);
        }
        0
    }

    fn hash_from(&self, revision: i64) -> HashCursor {
        HashCursor {
            revision,
            compacted: self.compacted,
            after: None,
            hash: Hash64::default(),
            known: None,
            _pin: self.pins.pin(Span {
                first: self.compacted,
                last: revision,
            }),
        }
    }
}

/// A running 64-bit hash of numbers and byte strings.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Hash64(u64);

impl Hash64 {
    pub fn number(&mut self, number: u64) {
        self.0 = fold(self.0 ^ MULTIPLIERS[0], number ^ MULTIPLIERS[1]).wrapping_add(number);
    }

    fn version(&mut self, version: &Version<'_>) {
        self.number(version.main as u64);
        self.number(u64::from(version.sub) << 1 | u64::from(version.tombstone));
        self.number(version.create as u64);
        self.number(version.version as u64);
        self.number(version.lease as u64);
        self.bytes(version.value);
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

    /// A key that changed often was hashed in one go, however small the budget.
    #[test]
    fn many_versions_of_one_key_are_hashed_in_slices() {
        let mut store = Store::new();
        let mut put = |key: &[u8], size: usize| {
            let value = vec![7; size];
            let request = PutRequest {
                key,
                value: &value,
                ..PutRequest::default()
            };
            store.put(&request).expect("valid");
        };
        put(b"a", 3);
        (0..1_000).for_each(|_| put(b"hot", 3));
        put(b"large", BYTES_PER_LOOK * 100);
        put(b"z", 3);
        let whole = store.hash_kv(0).expect("current");
        for budget in [1, 10, 64] {
            let mut cursor = store.hash_begin(0).expect("current");
            let mut steps = 1;
            let found = loop {
                match store.hash_step(&mut cursor, budget) {
                    Some(found) => break found,
                    None => steps += 1,
                }
            };
            assert_eq!(found, whole);
            assert!(steps > 1_000 / budget, "{steps}");
        }
    }

    /// A member that has compacted could not be compared with one that has not: its hash at the compact
    /// revision was another one from then on.
    #[test]
    fn regression_the_hash_at_a_compact_revision_stays_what_it_was() {
        let store = || {
            let mut store = Store::new();
            store.keep_compaction_hashes(true);
            for n in 0..60u32 {
                let request = PutRequest {
                    key: &(n % 7).to_be_bytes(),
                    value: &n.to_be_bytes(),
                    ..PutRequest::default()
                };
                store.put(&request).expect("valid");
            }
            store
        };
        let (mut ahead, behind) = (store(), store());
        let wanted = behind.hash_kv(20);
        ahead.compact(20).expect("possible");
        while ahead.compact_step(3) {}
        assert_eq!(ahead.hash_kv(20), wanted);
        assert_eq!(ahead.stats().versions, 60 - 18 + 7 - 1);
        // The next one assumes what the last left, on both sides.
        ahead.compact(30).expect("possible");
        while ahead.compact_step(3) {}
        let (_, assumed) = ahead.hash_kv(30).expect("kept");
        assert_eq!(assumed, 20);
        assert_eq!(ahead.hash_kv(20), wanted, "below the compact revision");
        assert!(matches!(ahead.hash_kv(29), Err(Error::Compacted { .. })));
        // Without a look at everything there is no such hash.
        let mut plain = store();
        plain.keep_compaction_hashes(false);
        plain.compact(20).expect("possible");
        while plain.compact_step(3) {}
        assert_ne!(plain.hash_kv(20), wanted);
        // Ten are kept.
        for at in 31..50 {
            ahead.compact(at).expect("possible");
            while ahead.compact_step(3) {}
        }
        assert!(matches!(ahead.hash_kv(20), Err(Error::Compacted { .. })));
        assert_eq!(ahead.hash_kv(40).expect("kept").1, 39);
    }

    /// One that comes before the last is done has none kept, and nothing waits for nothing.
    #[test]
    fn a_compaction_in_the_middle_of_another_goes_on() {
        let mut store = Store::new();
        store.keep_compaction_hashes(true);
        for n in 0..100u32 {
            let request = PutRequest {
                key: &(n % 9).to_be_bytes(),
                value: b"v",
                ..PutRequest::default()
            };
            store.put(&request).expect("valid");
        }
        let wanted = store.hash_kv(50);
        for at in 50..101 {
            store.compact(at).expect("possible");
            store.compact_step(5);
        }
        while store.compact_step(5) {}
        assert_eq!(store.hash_kv(50), wanted);
        assert_eq!(store.hash_kv(100).expect("now").1, 100, "not kept");
        assert!(!store.compaction_pending());
        // The newest of each key, and what the last change hid only from itself on.
        assert_eq!(store.stats().versions, 10);
    }
}
