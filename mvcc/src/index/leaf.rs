//! Leaves of the index: key numbers in key order, and beside each a *head*: 8 of its key's bytes.
//!
//! Which 8 is each leaf's choice: the places where its keys first differ from their neighbours. Bytes
//! taken from such places order as the keys do (this is the partial key of a height-optimised trie),
//! so keys that share long prefixes, or long middles, as paths do, are told apart without being read:
//! a lookup reads the one key it confirms. Only a guess depends on the choice: a position is always
//! confirmed by reading the keys beside it, else found by comparing whole keys.
//!
//! Invariant: heads never decrease; a head is what its key has at the leaf's places, zero where the
//! key is too short. Tested by the index's tests, which check it.

use std::cmp::Ordering;
use std::hint::black_box;
use std::ops::ControlFlow;

use super::super::keys::{KeyId, Keys};
use super::node::common;

/// Keys in a leaf: this makes a leaf 768 bytes, an allocator's size class.
pub(super) const LEAF_MAX: usize = 62;
/// Most keys that a scan touches ahead: about as many loads as a core keeps in flight.
pub(super) const TOUCH_MAX: usize = 16;
/// Set on a key number when the key does not count.
const DEAD: u32 = 1 << 31;
/// Bytes of a head.
const PLACES: usize = 8;
/// After choosing places did not help, so many inserts pass before it is tried again.
const RETRY_INSERTS: u16 = 8;

#[derive(Debug)]
pub(super) struct Leaf {
    /// Ascending.
    places: [u16; PLACES],
    len: u16,
    /// The length from which choosing places is worth trying.
    retry_len: u16,
    heads: [u64; LEAF_MAX],
    ids: [u32; LEAF_MAX],
}

/// How many keys a scan touches ahead: few at first, as it may end after one.
#[derive(Debug)]
pub(super) struct Ahead(usize);

impl Ahead {
    pub(super) fn new() -> Self {
        Ahead(1)
    }
}

impl Leaf {
    pub(super) fn new() -> Self {
        Leaf {
            places: std::array::from_fn(|at| at as u16),
            len: 0,
            retry_len: 0,
            heads: [0; LEAF_MAX],
            ids: [0; LEAF_MAX],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    pub(super) fn id(&self, at: usize) -> KeyId {
        self.ids[at] & !DEAD
    }

    pub(super) fn live_before(&self, at: usize) -> usize {
        self.ids[..at].iter().filter(|&&id| id & DEAD == 0).count()
    }

    /// Loads every cache line that a search may read. The result only keeps the loads.
    pub(super) fn touch(&self) -> u64 {
        let heads = self.heads.iter().step_by(8).fold(0, |sum, head| sum ^ head);
        let ids = self.ids.iter().step_by(16).fold(0, |sum, id| sum ^ id);
        heads ^ u64::from(ids) ^ u64::from(self.len)
    }

    /// The number of a key that is here.
    pub(super) fn find(&self, keys: &Keys, key: &[u8]) -> Option<KeyId> {
        let head = head(&self.places, key);
        let first = self.first_at_least(head);
        let same = self.heads[first..self.len()]
            .iter()
            .take_while(|&&other| other == head);
        let mut found = (first..first + same.count()).map(|at| self.id(at));
        found.find(|&id| keys.key(id) == key)
    }

    /// The key that a search would compare first, by heads alone: no key is read for it.
    pub(super) fn likely(&self, key: &[u8]) -> Option<KeyId> {
        let head = head(&self.places, key);
        let at = self.first_at_least(head);
        (at < self.len() && self.heads[at] == head).then(|| self.id(at))
    }

    /// Position of a key, or where it would be inserted.
    pub(super) fn search(&self, keys: &Keys, key: &[u8]) -> Result<usize, usize> {
        let guess = self.first_at_least(head(&self.places, key));
        // The keys on both sides of it are read at once.
        let beside = self.ids[guess.saturating_sub(1)..(guess + 1).min(self.len())].iter();
        black_box(beside.fold(0, |sum, id| sum ^ keys.touch(id & !DEAD)));
        let compare = |at: usize| keys.key(self.id(at)).cmp(key);
        let is_after = |at: usize| at == 0 || compare(at - 1) == Ordering::Less;
        // The key at the guess may have the same head: then the place may be behind it.
        for at in [guess, guess + 1] {
            match (at < self.len()).then(|| compare(at)) {
                Some(Ordering::Equal) => return Ok(at),
                Some(Ordering::Less) => {}
                _ if at <= self.len() && is_after(at) => return Err(at),
                _ => break,
            }
        }
        self.load(keys);
        self.ids[..self.len()].binary_search_by(|&id| keys.key(id & !DEAD).cmp(key))
    }

    /// Visits keys from a position on. Each key and its newest version lie somewhere else in memory,
    /// and visiting waits for them; so the next few are touched together first, which lets those
    /// waits overlap (measured: a range of 500 among a million random keys takes about half the time).
    pub(super) fn visit<B>(
        &self,
        keys: &Keys,
        from: usize,
        ahead: &mut Ahead,
        visit: &mut impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut at = from;
        while at < self.len() {
            let end = (at + ahead.0).min(self.len());
            let ids = self.ids[at..end].iter().map(|id| id & !DEAD);
            black_box(ids.clone().fold(0, |sum, id| sum ^ keys.touch(id)));
            black_box(ids.clone().fold(0, |sum, id| sum ^ keys.touch_latest(id)));
            ids.into_iter().try_for_each(&mut *visit)?;
            at = end;
            ahead.0 = (ahead.0 * 2).min(TOUCH_MAX);
        }
        ControlFlow::Continue(())
    }

    /// Inserts a key at its position. When full, the upper half moves to a new right sibling, which
    /// comes back with the separator before it.
    pub(super) fn insert(
        &mut self,
        keys: &Keys,
        at: usize,
        key: &[u8],
        id: KeyId,
    ) -> Option<(Box<[u8]>, Box<Leaf>)> {
        let len = self.len();
        if len < LEAF_MAX {
            self.insert_at(keys, at, key, id);
            return None;
        }
        // Appending: leave this leaf full, as the next keys will follow the new one.
        let middle = if at == len { len } else { len / 2 };
        let mut right = Box::new(Leaf::new());
        right.places = self.places;
        right.len = (len - middle) as u16;
        right.heads[..len - middle].copy_from_slice(&self.heads[middle..len]);
        right.ids[..len - middle].copy_from_slice(&self.ids[middle..len]);
        self.len = middle as u16;
        self.retry_len = 0;
        if at < middle || at == middle && middle < len {
            self.insert_at(keys, at, key, id);
        } else {
            right.insert_at(keys, at - middle, key, id);
        }
        let last = keys.key(self.id(self.len() - 1));
        let first = keys.key(right.id(0));
        let separator = first[..(common(last, first) + 1).min(first.len())].into();
        Some((separator, right))
    }

    /// Returns whether the key was live.
    pub(super) fn remove(&mut self, at: usize) -> bool {
        let len = self.len();
        let live = self.ids[at] & DEAD == 0;
        self.heads.copy_within(at + 1..len, at);
        self.ids.copy_within(at + 1..len, at);
        self.len -= 1;
        self.retry_len = 0;
        live
    }

    /// Returns the change of the number of live keys.
    pub(super) fn set_live(&mut self, at: usize, live: bool) -> i32 {
        let was = self.ids[at] & DEAD == 0;
        self.ids[at] = self.id(at) | if live { 0 } else { DEAD };
        i32::from(live) - i32::from(was)
    }

    /// Takes over the keys of a right sibling, for which there must be room.
    pub(super) fn absorb(&mut self, keys: &Keys, right: &Leaf) {
        let (from, more) = (self.len(), right.len());
        self.ids[from..from + more].copy_from_slice(&right.ids[..more]);
        self.len += right.len;
        self.choose_places(keys);
    }

    fn first_at_least(&self, head: u64) -> usize {
        self.heads[..self.len()].partition_point(|&other| other < head)
    }

    fn insert_at(&mut self, keys: &Keys, at: usize, key: &[u8], id: KeyId) {
        let len = self.len();
        let head = head(&self.places, key);
        let before = at.checked_sub(1).map(|before| self.heads[before]);
        let after = (at < len).then(|| self.heads[at]);
        self.heads.copy_within(at..len, at + 1);
        self.ids.copy_within(at..len, at + 1);
        self.heads[at] = head;
        self.ids[at] = id;
        self.len += 1;
        let ordered = before.is_none_or(|b| b <= head) && after.is_none_or(|a| head <= a);
        let tied = before == Some(head) || after == Some(head);
        if !ordered || tied && self.len >= self.retry_len {
            self.choose_places(keys);
        }
    }

    /// Chooses the places anew: where neighbours first differ, the foremost if there are more than
    /// fit, and if there are fewer the places that follow, where their like will differ next.
    fn choose_places(&mut self, keys: &Keys) {
        self.load(keys);
        let len = self.len();
        let mut chosen = Chosen::default();
        for pair in self.ids[..len].windows(2) {
            chosen.add(common(keys.key(pair[0] & !DEAD), keys.key(pair[1] & !DEAD)));
        }
        self.places = chosen.filled();
        for at in 0..len {
            self.heads[at] = head(&self.places, keys.key(self.id(at)));
        }
        let tied = self.heads[..len].windows(2).any(|pair| pair[0] == pair[1]);
        self.retry_len = if tied { self.len + RETRY_INSERTS } else { 0 };
    }

    fn load(&self, keys: &Keys) {
        let ids = self.ids[..self.len()].iter().map(|id| id & !DEAD);
        black_box(ids.fold(0, |sum, id| sum ^ keys.touch(id)));
    }
}

/// A set of the smallest places.
#[derive(Default)]
struct Chosen {
    places: [u16; PLACES],
    len: usize,
}

impl Chosen {
    fn add(&mut self, place: usize) {
        // What differs only behind that is compared in full.
        let place = place.min(usize::from(u16::MAX) - PLACES) as u16;
        let at = self.places[..self.len].partition_point(|&other| other < place);
        if at == PLACES || at < self.len && self.places[at] == place {
            return;
        }
        let kept = self.len.min(PLACES - 1);
        self.places.copy_within(at..kept, at + 1);
        self.places[at] = place;
        self.len = kept + 1;
    }

    fn filled(mut self) -> [u16; PLACES] {
        if self.len == 0 {
            self.add(0);
        }
        while self.len < PLACES {
            // The place after each run of places, beginning with the rearmost.
            for at in (0..self.len).rev() {
                let next = self.places[at] + 1;
                if self.len < PLACES && self.places.get(at + 1).is_none_or(|&p| p != next) {
                    self.add(usize::from(next));
                }
            }
        }
        self.places
    }
}

/// What a key has at these places, as a number that orders as those bytes do.
fn head(places: &[u16; PLACES], key: &[u8]) -> u64 {
    let first = usize::from(places[0]);
    if usize::from(places[PLACES - 1]) == first + PLACES - 1
        && let Some(bytes) = key
            .get(first..)
            .and_then(|rest| rest.first_chunk::<PLACES>())
    {
        return u64::from_be_bytes(*bytes);
    }
    let byte = |place: u16| key.get(usize::from(place)).copied().unwrap_or_default();
    u64::from_be_bytes(places.map(byte))
}

#[cfg(test)]
impl Leaf {
    /// Checks the invariants of this file; adds the keys as seen.
    pub(super) fn verify(
        &self,
        keys: &Keys,
        low: &[u8],
        high: Option<&[u8]>,
        out: &mut Vec<(KeyId, bool)>,
    ) {
        assert!(self.heads[..self.len()].is_sorted());
        assert!(self.places.is_sorted_by(|a, b| a < b));
        for at in 0..self.len() {
            let key = keys.key(self.id(at));
            assert_eq!(self.heads[at], head(&self.places, key));
            assert!(key >= low && high.is_none_or(|high| key < high));
            out.push((self.id(at), self.ids[at] & DEAD == 0));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_the_foremost_differences_and_what_follows_them() {
        let table: [(&[usize], [u16; PLACES]); 5] = [
            (&[], [0, 1, 2, 3, 4, 5, 6, 7]),
            (&[3], [3, 4, 5, 6, 7, 8, 9, 10]),
            (&[30, 3], [3, 4, 5, 6, 30, 31, 32, 33]),
            (&[9, 8, 7, 6, 5, 4, 3, 2, 1], [1, 2, 3, 4, 5, 6, 7, 8]),
            (
                &[1, 20, 3, 40, 5, 60, 7, 80, 9],
                [1, 3, 5, 7, 9, 20, 40, 60],
            ),
        ];
        for (differences, expected) in table {
            let mut chosen = Chosen::default();
            differences.iter().for_each(|&place| chosen.add(place));
            assert_eq!(chosen.filled(), expected, "{differences:?}");
        }
    }
}
