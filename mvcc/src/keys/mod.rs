//! The keys and their versions, by number.
//!
//! Each key that has a version which can still be read lies in a slot, named by a small number
//! (`KeyId`) that stays the same for as long as the key lives, so that the ordered index and the
//! revision log need 4 bytes to name it. Beside the key the slot's head holds where the newest
//! version lies in the [`Arena`], and what the next put has to know of it, so that a put reads no
//! older version. Older ones hang on the newest as a chain; every 32nd change of a key is noted as a
//! waypoint, so that the past of a key that changes often is found by a search and a short walk.
//! Knows no order of keys and no rules of revisions. Tested here against a list, and through the
//! store.

mod cut;
mod since;
mod summary;

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use crate::arena::{Arena, Loc, Move, Record};
use crate::names::{KeyId, LOC_BYTES};
use crate::slots::{HEAD_BYTES, Slots};
use crate::version::Version;
use cut::Doomed;
pub(crate) use cut::{Cut, Needs};
pub(crate) use summary::Newest;
use summary::{HAS_WAYPOINTS, INCOMPLETE, KEPT, Summary, TOMBSTONE};

/// Changes of a key between two waypoints.
const WAYPOINT_CHANGES: u64 = 32;
/// Keys whose versions are loaded together.
const TOUCH_KEYS: usize = 16;
/// Versions loaded of each: compaction of a key that changes now and then looks at one that stays above
/// the compact revision, one that stays at it, and one that goes.
const TOUCH_VERSIONS: usize = 3;

/// A change of a key that has many.
#[derive(Clone, Copy, Debug)]
struct Waypoint {
    main: i64,
    loc: Loc,
}

/// Running totals, kept exact at every change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeysTotals {
    /// Versions held, tombstones included.
    pub versions: u64,
    /// Bytes of keys with what the next put has to know.
    pub key_bytes: u64,
    /// Bytes of versions held.
    pub version_bytes: u64,
    /// Bytes kept for versions beside those: room to grow into, versions that are gone and not yet
    /// given back, waypoints.
    pub spare_bytes: u64,
    /// Bytes of emptied segments, kept for versions to come.
    pub idle_bytes: u64,
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    slots: Slots,
    arena: Arena,
    waypoints: BTreeMap<KeyId, VecDeque<Waypoint>>,
    waypoint_count: usize,
    /// Cut out and not removed yet.
    doomed: Option<Doomed>,
    versions: u64,
}

impl Keys {
    /// Adds a key with its first version. `None` when all numbers are taken.
    pub fn insert(&mut self, key: &[u8], version: &Version<'_>) -> Option<KeyId> {
        let id = self.slots.insert(key)?;
        let loc = self.arena.append(id, None, version);
        self.versions += 1;
        self.set_head(id, loc, Summary::new(version, 0, 0));
        Some(id)
    }

    /// Forgets a key and all its versions.
    pub fn remove(&mut self, id: KeyId) {
        let mut gone = Some(self.head(id).0);
        while let Some(loc) = gone {
            gone = self.arena.kill(loc);
            self.versions -= 1;
        }
        if let Some(waypoints) = self.waypoints.remove(&id) {
            self.waypoint_count -= waypoints.len();
        }
        self.slots.remove(id);
    }

    /// Makes `version` the newest; the one before becomes history.
    pub fn push(&mut self, id: KeyId, version: &Version<'_>) {
        let (before, summary) = self.head(id);
        let loc = self.arena.append(id, Some(before), version);
        let mut changes = summary.changes() + 1;
        let mut kept = summary.0 & KEPT;
        if changes >= WAYPOINT_CHANGES {
            (changes, kept) = (0, kept | HAS_WAYPOINTS);
            let main = version.main;
            self.waypoints
                .entry(id)
                .or_default()
                .push_back(Waypoint { main, loc });
            self.waypoint_count += 1;
        }
        self.versions += 1;
        self.set_head(id, loc, Summary::new(version, changes, kept));
    }

    /// Does up to `budget` records' worth of giving back what dead versions took; returns what is
    /// left of the budget, 0 if there may be more to do.
    pub fn give_back(&mut self, budget: usize) -> usize {
        // Who moves a record has to find what leads to it.
        let budget = self.bury(budget);
        for left in (1..=budget).rev() {
            match self.arena.next_to_move() {
                Move::Live(loc) => self.move_away(loc),
                Move::Passed => {}
                Move::Idle => return left,
            }
        }
        0
    }

    /// Would [`Keys::give_back`] do something?
    pub fn has_to_give_back(&self) -> bool {
        self.has_to_bury() || self.arena.has_to_move()
    }

    /// Gives memory that is kept for versions to come back to the allocator; whether there is more.
    pub fn trim(&mut self, bytes_max: usize) -> bool {
        self.arena.trim(bytes_max)
    }

    /// Compaction is through: also what was written last may be worth giving back.
    pub fn compacted(&mut self) {
        self.arena.close();
    }

    /// Loads the key. The result only keeps the load.
    pub fn touch(&self, id: KeyId) -> u8 {
        self.slots.touch(id)
    }

    /// Loads the beginning of the newest version. The result only keeps the load.
    pub fn touch_latest(&self, id: KeyId) -> u8 {
        self.arena.touch(self.head(id).0)
    }

    /// Loads the beginnings of the newest versions of some keys and of those before: step by step for all
    /// keys, since only what was loaded tells where the next is. The result only keeps the loads.
    pub fn touch_chains(&self, ids: &[KeyId]) -> u8 {
        let mut loaded = 0;
        let mut places = [None; TOUCH_KEYS];
        for ids in ids.chunks(TOUCH_KEYS) {
            let places = &mut places[..ids.len()];
            for (place, &id) in places.iter_mut().zip(ids) {
                *place = Some(self.head(id).0);
            }
            for _ in 0..TOUCH_VERSIONS {
                let known = places.iter().flatten();
                loaded ^= known.fold(0, |sum, &loc| sum ^ self.arena.touch_head(loc));
                for place in places.iter_mut() {
                    *place = place.and_then(|loc| self.arena.before(loc));
                }
            }
        }
        loaded
    }

    /// The key's bytes.
    pub fn key(&self, id: KeyId) -> &[u8] {
        self.slots.key(id)
    }

    /// The newest version.
    pub fn latest(&self, id: KeyId) -> Version<'_> {
        let record = self.arena.get(self.head(id).0);
        record
            .and_then(|record| record.version())
            .unwrap_or_default()
    }

    /// The newest version without its value, mostly without reading it.
    pub fn newest(&self, id: KeyId) -> Newest {
        let (_, summary) = self.head(id);
        let tombstone = summary.has(TOMBSTONE);
        if summary.has(INCOMPLETE) {
            let Version {
                create,
                version,
                lease,
                ..
            } = self.latest(id);
            return Newest {
                tombstone,
                create,
                version,
                lease,
            };
        }
        let (create, version) = (summary.0 >> 24, summary.0 >> 9 & 0x7fff);
        Newest {
            tombstone,
            create: create as i64,
            version: version as i64,
            lease: 0,
        }
    }

    /// The key's newest version at or before `main`, tombstone or not.
    pub fn at(&self, id: KeyId, main: i64) -> Option<Version<'_>> {
        let newest = self.arena.get(self.head(id).0)?;
        if newest.main <= main {
            return newest.version();
        }
        let mut record = self
            .arena
            .get(self.walk_from(id, |waypoint| waypoint.main > main))?;
        while record.main > main {
            record = self.arena.get(record.before?)?;
        }
        record.version()
    }

    /// The change (`main`, `sub`) of a key.
    pub fn change(&self, id: KeyId, main: i64, sub: u32) -> Option<Version<'_>> {
        let newest = self.head(id).0;
        let mut loc = newest;
        if self.arena.get(newest)?.main > main {
            loc = self.walk_from(id, |waypoint| waypoint.main > main);
        }
        loop {
            let record = self.arena.get(loc).filter(|record| record.main >= main)?;
            let found = record.version().filter(|v| (v.main, v.sub) == (main, sub));
            if found.is_some() {
                return found;
            }
            loc = record.before?;
        }
    }

    /// Running totals.
    pub fn totals(&self) -> KeysTotals {
        let version_bytes = self.arena.live_bytes();
        let idle = self.arena.idle_bytes();
        let spare = self.arena.heap_bytes() - version_bytes - idle;
        let waypoints = self.waypoint_count * mem::size_of::<Waypoint>()
            + self.waypoints.len() * mem::size_of::<(KeyId, VecDeque<Waypoint>)>();
        KeysTotals {
            versions: self.versions,
            key_bytes: self.slots.key_bytes() as u64,
            version_bytes: version_bytes as u64,
            spare_bytes: (spare + waypoints) as u64,
            idle_bytes: idle as u64,
        }
    }

    /// Keys held, deleted ones that are not compacted included.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Bytes of the slots beside the keys' own.
    pub fn slot_bytes(&self) -> usize {
        self.slots.heap_bytes() - self.slots.key_bytes()
    }

    /// Makes it take less, for tests.
    #[cfg(test)]
    pub fn limit_blocks(&mut self, blocks_max: usize) {
        self.slots.limit_blocks(blocks_max);
    }

    /// No room for another version or key?
    pub fn is_full(&self) -> bool {
        self.arena.is_full() || self.slots.is_full()
    }

    /// Moves a record to the end of the arena and tells whoever names its place.
    fn move_away(&mut self, from: Loc) {
        let Some(Record { id, main, .. }) = self.arena.get(from) else {
            return;
        };
        let Some(to) = self.arena.copy(from) else {
            return;
        };
        let (newest, summary) = self.head(id);
        if newest == from {
            self.set_head(id, to, summary);
        } else {
            let mut newer = self.walk_from(id, |waypoint| waypoint.main > main);
            while let Some(before) = self.arena.get(newer).and_then(|record| record.before) {
                if before == from {
                    self.arena.set_before(newer, Some(to));
                    break;
                }
                newer = before;
            }
        }
        if summary.has(HAS_WAYPOINTS)
            && let Some(waypoints) = self.waypoints.get_mut(&id)
        {
            let at = waypoints.partition_point(|waypoint| waypoint.main < main);
            let same = waypoints
                .range_mut(at..)
                .take_while(|waypoint| waypoint.main == main);
            same.filter(|waypoint| waypoint.loc == from)
                .for_each(|waypoint| waypoint.loc = to);
        }
        self.arena.kill(from);
    }

    /// The oldest waypoint for which `is_newer` holds, else the newest version: where a walk into the
    /// past begins.
    fn walk_from(&self, id: KeyId, is_newer: impl Fn(&Waypoint) -> bool) -> Loc {
        let found = self.waypoints_of(id).and_then(|waypoints| {
            waypoints.get(waypoints.partition_point(|waypoint| !is_newer(waypoint)))
        });
        found.map_or_else(|| self.head(id).0, |waypoint| waypoint.loc)
    }

    fn waypoints_of(&self, id: KeyId) -> Option<&VecDeque<Waypoint>> {
        let (_, summary) = self.head(id);
        if summary.has(HAS_WAYPOINTS) {
            self.waypoints.get(&id)
        } else {
            None
        }
    }

    fn head(&self, id: KeyId) -> (Loc, Summary) {
        let &[a, b, c, d, e, ref summary @ ..] = self.slots.head(id);
        (
            Loc::from_bytes([a, b, c, d, e]),
            Summary(u64::from_le_bytes(*summary)),
        )
    }

    fn set_head(&mut self, id: KeyId, loc: Loc, summary: Summary) {
        let mut head = [0; HEAD_BYTES];
        head[..LOC_BYTES].copy_from_slice(&loc.to_bytes());
        head[LOC_BYTES..].copy_from_slice(&summary.0.to_le_bytes());
        self.slots.set_head(id, head);
    }
}

#[cfg(test)]
mod tests;
