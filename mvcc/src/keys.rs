//! The keys and their versions, by number.
//!
//! Each key that has a version which can still be read lives in a slot, named by a small number
//! (`KeyId`) that stays the same for as long as the key lives, so that the ordered index and the
//! revision log need 4 bytes to name it. A slot holds the newest version in one allocation together
//! with the key (`length:varint key body`), and the older ones in a [`History`]. Slots come in
//! blocks, so growing never moves what is there. Knows no order of keys and no rules of revisions.
//! Tested here and through the store.

use std::mem;

use crate::history::History;
use crate::varint;
use crate::version::Version;

/// Names a slot. 31 bits: the index keeps a flag in the top bit.
pub(crate) type KeyId = u32;

/// Most keys of one store (2^31 - 1 slots, kept clear of the index's flag bit).
pub(crate) const KEYS_MAX: usize = (1 << 31) - 1;

const BLOCK_SLOTS: usize = 4096;

#[derive(Debug, Default)]
struct Slot {
    /// Main revision of the newest version.
    main: i64,
    /// Key and newest version; empty in a free slot.
    record: Box<[u8]>,
    older: Option<Box<History>>,
}

/// Running totals, kept exact at every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeysTotals {
    /// Versions held, tombstones included.
    pub versions: u64,
    /// Bytes of newest versions with their keys.
    pub record_bytes: u64,
    /// Bytes of older versions, packed, with their packs.
    pub history_bytes: u64,
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    blocks: Vec<Vec<Slot>>,
    free: Vec<KeyId>,
    totals: KeysTotals,
}

impl Keys {
    /// Adds a key with its first version. `None` when all numbers are taken.
    pub fn insert(&mut self, key: &[u8], version: &Version<'_>) -> Option<KeyId> {
        let record = encode_record(key, version);
        self.totals.versions += 1;
        self.totals.record_bytes += record.len() as u64;
        let slot = Slot {
            main: version.main,
            record,
            older: None,
        };
        if let Some(id) = self.free.pop() {
            *self.slot_mut(id) = slot;
            return Some(id);
        }
        let full = self
            .blocks
            .last()
            .is_none_or(|block| block.len() == BLOCK_SLOTS);
        if full {
            self.blocks
                .push(Vec::with_capacity(if self.blocks.is_empty() {
                    0
                } else {
                    BLOCK_SLOTS
                }));
        }
        let before = (self.blocks.len() - 1) * BLOCK_SLOTS;
        let block = self.blocks.last_mut()?;
        let id = before + block.len();
        if id >= KEYS_MAX {
            return None;
        }
        block.push(slot);
        Some(id as KeyId)
    }

    /// Forgets a key and all its versions.
    pub fn remove(&mut self, id: KeyId) {
        let slot = mem::take(self.slot_mut(id));
        self.totals.versions -= 1;
        self.totals.record_bytes -= slot.record.len() as u64;
        if let Some(mut older) = slot.older {
            self.totals.history_bytes -= older.heap_bytes() as u64;
            while older.pop_front().is_some() {
                self.totals.versions -= 1;
            }
        }
        self.free.push(id);
    }

    /// Makes `version` the newest; the one before moves to the history.
    pub fn push(&mut self, id: KeyId, version: &Version<'_>) {
        let slot = self.slot_mut(id);
        let (key, body) = split_record(&slot.record);
        let mut grown = 0;
        let older = slot.older.get_or_insert_with(|| {
            grown += mem::size_of::<History>();
            Box::default()
        });
        grown += older.push(slot.main, body);
        let record = encode_record(key, version);
        let (before, after) = (slot.record.len() as u64, record.len() as u64);
        slot.record = record;
        slot.main = version.main;
        self.totals.versions += 1;
        self.totals.history_bytes += grown as u64;
        self.totals.record_bytes += after;
        self.totals.record_bytes -= before;
    }

    /// Removes the versions older than `main` from the history; returns how many.
    pub fn drop_older_than(&mut self, id: KeyId, main: i64) -> usize {
        let slot = self.slot_mut(id);
        let Some(older) = &mut slot.older else {
            return 0;
        };
        let (mut dropped, mut freed) = (0, 0);
        while older.front_main().is_some_and(|front| front < main) {
            freed += older.pop_front().map_or(0, |popped| popped.freed);
            dropped += 1;
        }
        if older.is_empty() {
            freed += older.heap_bytes();
            slot.older = None;
        }
        self.totals.versions -= dropped as u64;
        self.totals.history_bytes -= freed as u64;
        dropped
    }

    /// Loads the slot of a key, not its record. The result only keeps the load.
    pub fn touch_slot(&self, id: KeyId) -> u64 {
        self.slot(id).main.cast_unsigned()
    }

    /// Reads a byte of the key's record, so that it is in the cache when it is needed.
    pub fn touch(&self, id: KeyId) -> u8 {
        self.slot(id).record.first().copied().unwrap_or_default()
    }

    /// The key's bytes.
    pub fn key(&self, id: KeyId) -> &[u8] {
        split_record(&self.slot(id).record).0
    }

    /// The newest version.
    pub fn latest(&self, id: KeyId) -> Version<'_> {
        let slot = self.slot(id);
        Version::decode_body(slot.main, split_record(&slot.record).1).unwrap_or_default()
    }

    /// The key and its newest version at or before `main`, tombstone or not.
    pub fn at(&self, id: KeyId, main: i64) -> Option<Version<'_>> {
        let slot = self.slot(id);
        if slot.main <= main {
            return Version::decode_body(slot.main, split_record(&slot.record).1);
        }
        slot.older.as_ref()?.at(main)
    }

    /// All versions with a main revision of at least `from`, oldest first.
    pub fn since(&self, id: KeyId, from: i64) -> impl Iterator<Item = Version<'_>> {
        let slot = self.slot(id);
        let latest = (slot.main >= from).then(|| self.latest(id));
        slot.older
            .as_deref()
            .into_iter()
            .flat_map(move |older| older.since(from))
            .chain(latest)
    }

    /// The change (`main`, `sub`) of a key, and the version before it.
    pub fn change(
        &self,
        id: KeyId,
        main: i64,
        sub: u32,
    ) -> Option<(Version<'_>, Option<Version<'_>>)> {
        let latest = self.latest(id);
        if (latest.main, latest.sub) == (main, sub) {
            let before = self
                .slot(id)
                .older
                .as_ref()
                .and_then(|older| older.at(main));
            return Some((latest, before));
        }
        let mut before = self.at(id, main - 1);
        for version in self
            .since(id, main)
            .take_while(|version| version.main == main)
        {
            if version.sub == sub {
                return Some((version, before));
            }
            before = Some(version);
        }
        None
    }

    /// Running totals.
    pub fn totals(&self) -> KeysTotals {
        self.totals
    }

    /// Keys held, deleted ones that are not compacted included.
    pub fn len(&self) -> usize {
        let last = self.blocks.last().map_or(0, Vec::len);
        self.blocks.len().saturating_sub(1) * BLOCK_SLOTS + last - self.free.len()
    }

    /// Bytes of the slots themselves.
    pub fn slot_bytes(&self) -> usize {
        let last = self.blocks.last().map_or(0, Vec::capacity);
        let slots = self.blocks.len().saturating_sub(1) * BLOCK_SLOTS + last;
        slots * mem::size_of::<Slot>() + self.free.capacity() * mem::size_of::<KeyId>()
    }

    fn slot(&self, id: KeyId) -> &Slot {
        &self.blocks[id as usize / BLOCK_SLOTS][id as usize % BLOCK_SLOTS]
    }

    fn slot_mut(&mut self, id: KeyId) -> &mut Slot {
        &mut self.blocks[id as usize / BLOCK_SLOTS][id as usize % BLOCK_SLOTS]
    }
}

/// Exactly sized, so that making it a box does not allocate again.
fn encode_record(key: &[u8], version: &Version<'_>) -> Box<[u8]> {
    let length = varint::len(key.len() as u64) + key.len() + version.body_len();
    let mut record = Vec::with_capacity(length);
    varint::put(&mut record, key.len() as u64);
    record.extend_from_slice(key);
    version.encode_body(&mut record);
    record.into_boxed_slice()
}

fn split_record(record: &[u8]) -> (&[u8], &[u8]) {
    let mut rest = record;
    let key = varint::take(&mut rest).and_then(|length| varint::take_bytes(&mut rest, length));
    (key.unwrap_or_default(), rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(main: i64, value: &[u8]) -> Version<'_> {
        Version {
            main,
            create: main,
            version: 1,
            value,
            ..Version::default()
        }
    }

    #[test]
    fn slots_are_reused_and_totals_return_to_zero() {
        let mut keys = Keys::default();
        let ids: Vec<_> = (0..10_000)
            .map(|n: i64| {
                keys.insert(&n.to_le_bytes(), &version(n, b"x"))
                    .expect("room")
            })
            .collect();
        for &id in &ids {
            keys.push(id, &version(20_000, b"longer value"));
        }
        assert_eq!(keys.len(), 10_000);
        assert_eq!(keys.totals().versions, 20_000);
        for &id in &ids[..5_000] {
            assert_eq!(keys.drop_older_than(id, 20_000), 1);
        }
        ids.iter().for_each(|&id| keys.remove(id));
        assert_eq!(keys.totals(), KeysTotals::default());
        assert_eq!(keys.len(), 0);
        let again = keys.insert(b"k", &version(1, b"")).expect("room");
        assert!(ids.contains(&again));
        assert_eq!(keys.key(again), b"k");
    }

    #[test]
    fn changes_know_what_was_before() {
        let mut keys = Keys::default();
        let id = keys.insert(b"k", &version(2, b"a")).expect("room");
        keys.push(
            id,
            &Version {
                sub: 1,
                ..version(5, b"b")
            },
        );
        keys.push(
            id,
            &Version {
                sub: 3,
                ..version(5, b"c")
            },
        );
        keys.push(id, &version(9, b"d"));
        let change = |main, sub| {
            let (now, before) = keys.change(id, main, sub)?;
            Some((now.value, before.map(|v| v.value)))
        };
        assert_eq!(change(2, 0), Some((&b"a"[..], None)));
        assert_eq!(change(5, 1), Some((&b"b"[..], Some(&b"a"[..]))));
        assert_eq!(change(5, 3), Some((&b"c"[..], Some(&b"b"[..]))));
        assert_eq!(change(9, 0), Some((&b"d"[..], Some(&b"c"[..]))));
        assert_eq!(change(5, 2), None);
        assert_eq!(keys.at(id, 8).map(|v| v.value), Some(&b"c"[..]));
        assert_eq!(keys.at(id, 1), None);
        assert_eq!(keys.since(id, 3).count(), 3);
    }
}
