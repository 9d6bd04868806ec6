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

use std::collections::{BTreeMap, VecDeque};
use std::mem;

use crate::arena::{Arena, LOC_BYTES, Loc, Move, Record};
pub(crate) use crate::slots::KeyId;
use crate::slots::{HEAD_BYTES, Slots};
use crate::version::Version;

/// Changes of a key between two waypoints.
const WAYPOINT_CHANGES: u64 = 32;
/// What a put has to know of the newest version, packed:
/// `create:40 version:15 changes:5 flags:4` (changes: since the last waypoint).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Summary(u64);

const TOMBSTONE: u64 = 1;
/// There is a lease, or a number does not fit: ask the version itself.
const INCOMPLETE: u64 = 2;
/// The key has waypoints.
const HAS_WAYPOINTS: u64 = 4;

impl Summary {
    fn new(version: &Version<'_>, changes: u64, has_waypoints: bool) -> Self {
        let (create, count) = (version.create as u64, version.version as u64);
        let mut bits = changes << 4;
        if version.tombstone {
            bits |= TOMBSTONE;
        }
        if has_waypoints {
            bits |= HAS_WAYPOINTS;
        }
        if version.lease != 0 || create >> 40 != 0 || count >> 15 != 0 {
            bits |= INCOMPLETE;
        } else {
            bits |= create << 24 | count << 9;
        }
        Summary(bits)
    }

    fn has(self, flag: u64) -> bool {
        self.0 & flag != 0
    }

    fn changes(self) -> u64 {
        self.0 >> 4 & 0x1f
    }
}

/// The newest version of a key without its value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Newest {
    /// The key is deleted; all fields below are zero then.
    pub tombstone: bool,
    /// Create revision of the generation.
    pub create: i64,
    /// Puts since creation.
    pub version: i64,
    /// Lease or 0.
    pub lease: i64,
}

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
}

/// All slots.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    slots: Slots,
    arena: Arena,
    waypoints: BTreeMap<KeyId, VecDeque<Waypoint>>,
    waypoint_count: usize,
    versions: u64,
}

impl Keys {
    /// Adds a key with its first version. `None` when all numbers are taken.
    pub fn insert(&mut self, key: &[u8], version: &Version<'_>) -> Option<KeyId> {
        let id = self.slots.insert(key)?;
        let loc = self.arena.append(id, None, version);
        self.versions += 1;
        self.set_head(id, loc, Summary::new(version, 0, false));
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
        let mut has_waypoints = summary.has(HAS_WAYPOINTS);
        if changes >= WAYPOINT_CHANGES {
            (changes, has_waypoints) = (0, true);
            let main = version.main;
            self.waypoints
                .entry(id)
                .or_default()
                .push_back(Waypoint { main, loc });
            self.waypoint_count += 1;
        }
        self.versions += 1;
        self.set_head(id, loc, Summary::new(version, changes, has_waypoints));
    }

    /// Removes the versions older than `main`, but not the newest; returns how many, and how many
    /// versions were looked at to find them.
    pub fn drop_older_than(&mut self, id: KeyId, main: i64) -> (usize, usize) {
        let mut survivor = self.walk_from(id, |waypoint| waypoint.main >= main);
        let mut looked_at = 1;
        let mut gone = loop {
            let Some(older) = self.arena.get(survivor).and_then(|record| record.before) else {
                return (0, looked_at);
            };
            looked_at += 1;
            match self.arena.get(older) {
                Some(record) if record.main >= main => survivor = older,
                _ => break Some(older),
            }
        };
        self.arena.set_before(survivor, None);
        let mut dropped = 0;
        while let Some(loc) = gone {
            gone = self.arena.kill(loc);
            dropped += 1;
        }
        self.versions -= dropped as u64;
        self.drop_waypoints(id, main);
        (dropped, looked_at + dropped)
    }

    /// Does up to `budget` records' worth of giving back what dead versions took; returns what is
    /// left of the budget, 0 if there may be more to do.
    pub fn give_back(&mut self, budget: usize) -> usize {
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
        self.arena.has_to_move()
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

    /// All versions with a main revision of at least `from`, oldest first.
    pub fn since(&self, id: KeyId, from: i64) -> Since<'_> {
        let waypoints = self.waypoints_of(id);
        let next = waypoints.map_or(0, |all| {
            all.partition_point(|waypoint| waypoint.main < from)
        });
        let mut since = Since {
            keys: self,
            waypoints,
            next,
            newest: Some(self.head(id).0),
            from,
            older: Vec::new(),
            first: None,
        };
        since.fill();
        since
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
        let spare = self.arena.heap_bytes() - version_bytes;
        let waypoints = self.waypoint_count * mem::size_of::<Waypoint>()
            + self.waypoints.len() * mem::size_of::<(KeyId, VecDeque<Waypoint>)>();
        KeysTotals {
            versions: self.versions,
            key_bytes: self.slots.key_bytes() as u64,
            version_bytes: version_bytes as u64,
            spare_bytes: (spare + waypoints) as u64,
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

    fn drop_waypoints(&mut self, id: KeyId, main: i64) {
        let (loc, summary) = self.head(id);
        if !summary.has(HAS_WAYPOINTS) {
            return;
        }
        let Some(waypoints) = self.waypoints.get_mut(&id) else {
            return;
        };
        let gone = waypoints.partition_point(|waypoint| waypoint.main < main);
        waypoints.drain(..gone);
        self.waypoint_count -= gone;
        if waypoints.is_empty() {
            self.waypoints.remove(&id);
            self.set_head(id, loc, Summary(summary.0 & !HAS_WAYPOINTS));
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

/// Versions of a key, oldest first: chains run the other way, so a stretch between two waypoints is
/// walked first and then given out from its end.
#[derive(Debug)]
pub(crate) struct Since<'a> {
    keys: &'a Keys,
    waypoints: Option<&'a VecDeque<Waypoint>>,
    /// The waypoint that ends the next stretch.
    next: usize,
    /// The end of the last stretch; taken once that is begun.
    newest: Option<Loc>,
    from: i64,
    /// What is left of this stretch, but for its end.
    older: Vec<Loc>,
    /// Its end.
    first: Option<Loc>,
}

impl Since<'_> {
    /// Begins the next stretch.
    fn fill(&mut self) {
        let waypoint_at = |at: usize| Some(self.waypoints?.get(at)?.loc);
        let stop = self.next.checked_sub(1).and_then(waypoint_at);
        let end = match waypoint_at(self.next) {
            Some(loc) => loc,
            None => match self.newest.take() {
                // The newest version may be a waypoint itself, and done with.
                Some(loc) if Some(loc) != stop => loc,
                _ => return,
            },
        };
        self.next += 1;
        let record_at = |loc| {
            self.keys
                .arena
                .get(loc)
                .filter(|record| record.main >= self.from)
        };
        let Some(mut record) = record_at(end) else {
            return;
        };
        self.first = Some(end);
        while let Some(before) = record.before.filter(|&loc| Some(loc) != stop) {
            match record_at(before) {
                Some(older) => record = older,
                None => break,
            }
            self.older.push(before);
        }
    }
}

impl<'a> Iterator for Since<'a> {
    type Item = Version<'a>;

    fn next(&mut self) -> Option<Version<'a>> {
        let loc = match self.older.pop() {
            Some(loc) => loc,
            None => {
                let loc = self.first.take()?;
                self.fill();
                loc
            }
        };
        self.keys.arena.get(loc)?.version()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

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
        assert_eq!((keys.len(), keys.totals().versions), (10_000, 20_000));
        for &id in &ids[..5_000] {
            assert_eq!(keys.drop_older_than(id, 20_000).0, 1);
        }
        ids.iter().for_each(|&id| keys.remove(id));
        keys.compacted();
        while keys.give_back(100) == 0 {}
        let KeysTotals {
            versions,
            key_bytes,
            version_bytes,
            ..
        } = keys.totals();
        assert_eq!(
            (keys.len(), versions, key_bytes, version_bytes),
            (0, 0, 0, 0)
        );
        let again = keys.insert(b"again", &version(1, b"")).expect("room");
        assert!(ids.contains(&again));
        assert_eq!(keys.key(again), b"again");
    }

    #[test]
    fn the_summary_says_what_the_version_says() {
        let big = Version {
            create: 1 << 40,
            version: 3,
            ..version(1 << 41, b"")
        };
        let table = [
            version(5, b"v"),
            Version {
                create: 3,
                version: 0x7fff,
                ..version(9, b"")
            },
            Version {
                create: 3,
                version: 0x8000,
                ..version(9, b"")
            },
            Version {
                lease: 7,
                ..version(9, b"")
            },
            Version {
                create: -5,
                ..version(9, b"")
            },
            big,
            Version::tombstone(9, 3),
        ];
        for wanted in table {
            let mut keys = Keys::default();
            let id = keys.insert(b"k", &wanted).expect("room");
            let Version {
                tombstone,
                create,
                version,
                lease,
                ..
            } = wanted;
            assert_eq!(
                keys.newest(id),
                Newest {
                    tombstone,
                    create,
                    version,
                    lease
                }
            );
            assert_eq!(keys.latest(id), wanted);
        }
    }

    #[test]
    fn changes_are_found_with_what_is_between() {
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
        let change = |main, sub| keys.change(id, main, sub).map(|v| v.value);
        assert_eq!(change(2, 0), Some(&b"a"[..]));
        assert_eq!(change(5, 1), Some(&b"b"[..]));
        assert_eq!(change(5, 3), Some(&b"c"[..]));
        assert_eq!(change(9, 0), Some(&b"d"[..]));
        assert_eq!((change(5, 2), change(3, 0)), (None, None));
        assert_eq!(keys.at(id, 8).map(|v| v.value), Some(&b"c"[..]));
        assert_eq!(keys.at(id, 1), None);
        assert_eq!(keys.since(id, 3).count(), 3);
    }

    /// Random pushes, compactions and moves, against a list per key.
    #[test]
    fn behaves_as_lists_of_versions() {
        let mut dice = Dice::from_env("keys");
        let mut keys = Keys::default();
        let mut naive: Vec<(KeyId, Vec<(i64, usize)>)> = Vec::new();
        let value = [7; 3_000];
        for main in 1..20_000i64 {
            let size = [0, 10, 100, 3_000][dice.below(4) as usize];
            let pushed = version(main, &value[..size]);
            if dice.below(50) == 0 || naive.is_empty() {
                let id = keys.insert(&main.to_le_bytes(), &pushed).expect("room");
                naive.push((id, vec![(main, size)]));
            } else {
                // Some keys change very often.
                let at = dice.below(naive.len() as u64).min(dice.below(40)) as usize;
                keys.push(naive[at].0, &pushed);
                naive[at].1.push((main, size));
            }
            if dice.below(20) == 0 {
                let at = dice.below(naive.len().min(40) as u64) as usize;
                let (id, list) = &mut naive[at];
                let oldest = main - dice.below(2_000) as i64;
                let keep = list.iter().filter(|v| v.0 >= oldest).count().max(1);
                let gone = list.len() - keep;
                assert_eq!(keys.drop_older_than(*id, oldest).0, gone);
                list.drain(..gone);
            }
            if dice.below(100) == 0 {
                keys.give_back(dice.below(300) as usize);
            }
            if dice.below(3_000) == 0 && naive.len() > 1 {
                keys.compacted();
                let (id, _) = naive.swap_remove(dice.below(naive.len() as u64) as usize);
                keys.remove(id);
            }
            if main % 10 == 0 {
                let (id, list) = &naive[dice.below(naive.len().min(60) as u64) as usize];
                let from =
                    list[dice.below(list.len() as u64) as usize].0 + dice.below(3) as i64 - 1;
                let found: Vec<_> = keys
                    .since(*id, from)
                    .map(|v| (v.main, v.value.len()))
                    .collect();
                let expected: Vec<_> = list.iter().filter(|v| v.0 >= from).copied().collect();
                assert_eq!(found, expected, "since {from} at {main}");
                let expected = list.iter().rev().find(|v| v.0 <= from).copied();
                assert_eq!(
                    keys.at(*id, from).map(|v| (v.main, v.value.len())),
                    expected
                );
                let expected = list.iter().find(|v| v.0 == from).copied();
                assert_eq!(
                    keys.change(*id, from, 0).map(|v| (v.main, v.value.len())),
                    expected
                );
            }
        }
        let versions: usize = naive.iter().map(|(_, list)| list.len()).sum();
        assert_eq!(keys.totals().versions, versions as u64);
    }
}
