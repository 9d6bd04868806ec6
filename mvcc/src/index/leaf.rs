//! Leaves of the index: key numbers in key order, and beside each its key's head (see `places`).
//!
//! Thanks to the heads a lookup reads the one key it confirms. Only a guess depends on them: a position
//! is always confirmed by reading the keys beside it, else found by comparing whole keys. Tested by
//! the index's tests.

use std::cmp::Ordering;
use std::hint::black_box;
use std::iter;
use std::ops::ControlFlow;

use super::super::keys::Keys;
use super::places::{Heads, common};
use crate::names::KeyId;

/// Keys in a leaf: this makes a leaf 768 bytes, an allocator's size class.
pub(super) const LEAF_MAX: usize = 62;
/// Keys that a lookup of many touches together: about as many loads as a core keeps in flight.
pub(super) const TOUCH_MAX: usize = 16;
/// Most keys that a scan touches ahead. More than are loaded at a time, as each round of it ends in a
/// wait for its last.
const AHEAD_MAX: usize = 32;
/// Set on a key number when the key does not count.
const DEAD: u32 = 1 << 31;

#[derive(Debug)]
pub(super) struct Leaf {
    heads: Heads<LEAF_MAX>,
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
            heads: Heads::new(),
            ids: [0; LEAF_MAX],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.heads.len()
    }

    pub(super) fn id(&self, at: usize) -> KeyId {
        self.ids[at] & !DEAD
    }

    pub(super) fn live_before(&self, at: usize) -> usize {
        self.ids[..at].iter().filter(|&&id| id & DEAD == 0).count()
    }

    /// Loads every cache line that a search may read. The result only keeps the loads.
    pub(super) fn touch(&self) -> u64 {
        let ids = self.ids.iter().step_by(16).fold(0, |sum, id| sum ^ id);
        self.heads.touch() ^ u64::from(ids)
    }

    /// Position of a key, or where it would be inserted if it belongs here; `None` if the keys beside the
    /// place that heads point to do not say so.
    pub(super) fn look_up(&self, keys: &Keys, key: &[u8]) -> Option<Result<usize, usize>> {
        let mut same = self.heads.same(key);
        let guess = same.start;
        match same.find(|&at| keys.key(self.id(at)) == key) {
            Some(at) => Some(Ok(at)),
            None => self.confirm(keys, key, guess),
        }
    }

    /// The keys that a look-up will compare, as far as heads tell: that with the same head, or else those
    /// on both sides of the place. No key is read for it.
    pub(super) fn likely(&self, key: &[u8]) -> [Option<KeyId>; 2] {
        let same = self.heads.same(key);
        let at = |at: usize| (at < self.len()).then(|| self.id(at));
        if same.is_empty() {
            [same.start.checked_sub(1).and_then(at), at(same.start)]
        } else {
            [at(same.start), None]
        }
    }

    /// Position of a key, or where it would be inserted.
    pub(super) fn search(&self, keys: &Keys, key: &[u8]) -> Result<usize, usize> {
        let guess = self.heads.same(key).start;
        self.confirm(keys, key, guess).unwrap_or_else(|| {
            self.load(keys);
            self.ids[..self.len()].binary_search_by(|&id| keys.key(id & !DEAD).cmp(key))
        })
    }

    fn confirm(&self, keys: &Keys, key: &[u8], guess: usize) -> Option<Result<usize, usize>> {
        // The keys on both sides of it are read at once.
        let beside = self.ids[guess.saturating_sub(1)..(guess + 1).min(self.len())].iter();
        black_box(beside.fold(0, |sum, id| sum ^ keys.touch(id & !DEAD)));
        let compare = |at: usize| keys.key(self.id(at)).cmp(key);
        let is_after = |at: usize| at == 0 || compare(at - 1) == Ordering::Less;
        // The key at the guess may have the same head: then the place may be behind it.
        for at in [guess, guess + 1] {
            match (at < self.len()).then(|| compare(at)) {
                Some(Ordering::Equal) => return Some(Ok(at)),
                Some(Ordering::Less) => {}
                _ if at <= self.len() && is_after(at) => return Some(Err(at)),
                _ => break,
            }
        }
        None
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
        let touch_keys = |ids: &[u32]| ids.iter().fold(0, |sum, id| sum ^ keys.touch(id & !DEAD));
        let touch_latest = |ids: &[u32]| {
            let ids = ids.iter().map(|id| id & !DEAD);
            ids.fold(0, |sum, id| sum ^ keys.touch_latest(id))
        };
        let ids = &self.ids[from.min(self.len())..self.len()];
        let (mut now, mut rest) = ids.split_at(ids.len().min(ahead.0));
        black_box(touch_keys(now));
        while !now.is_empty() {
            ahead.0 = (ahead.0 * 2).min(AHEAD_MAX);
            let (next, later) = rest.split_at(rest.len().min(ahead.0));
            // Versions of these and keys of the next are waited for together.
            black_box(touch_latest(now) ^ touch_keys(next));
            now.iter().try_for_each(|id| visit(id & !DEAD))?;
            (now, rest) = (next, later);
        }
        ControlFlow::Continue(())
    }

    /// Visits the keys before a position, the last first, touched ahead as in [`Leaf::visit`].
    pub(super) fn visit_back<B>(
        &self,
        keys: &Keys,
        upto: usize,
        ahead: &mut Ahead,
        visit: &mut impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut rest = &self.ids[..upto.min(self.len())];
        while !rest.is_empty() {
            let (before, now) = rest.split_at(rest.len().saturating_sub(ahead.0));
            ahead.0 = (ahead.0 * 2).min(AHEAD_MAX);
            let ids = || now.iter().map(|id| id & !DEAD);
            black_box(ids().fold(0, |sum, id| sum ^ keys.touch(id)));
            black_box(ids().fold(0, |sum, id| sum ^ keys.touch_latest(id)));
            ids().rev().try_for_each(&mut *visit)?;
            rest = before;
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
        right.ids[..len - middle].copy_from_slice(&self.ids[middle..len]);
        right.heads = self.heads.split_off(middle);
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
        self.ids.copy_within(at + 1..len, at);
        self.heads.remove(at);
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
        self.choose(keys, from + more);
    }

    fn insert_at(&mut self, keys: &Keys, at: usize, key: &[u8], id: KeyId) {
        let len = self.len();
        self.ids.copy_within(at..len, at + 1);
        self.ids[at] = id;
        if self.heads.insert(at, key) {
            self.choose(keys, len + 1);
        }
    }

    fn choose(&mut self, keys: &Keys, len: usize) {
        let ids = &self.ids[..len];
        black_box(ids.iter().fold(0, |sum, id| sum ^ keys.touch(id & !DEAD)));
        let key = |at: usize| keys.key(ids[at] & !DEAD);
        self.heads.choose(len, key, iter::empty(), iter::empty());
    }

    fn load(&self, keys: &Keys) {
        let ids = self.ids[..self.len()].iter().map(|id| id & !DEAD);
        black_box(ids.fold(0, |sum, id| sum ^ keys.touch(id)));
    }
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
        self.heads.verify(self.len(), |at| keys.key(self.id(at)));
        for at in 0..self.len() {
            let key = keys.key(self.id(at));
            assert!(key >= low && high.is_none_or(|high| key < high));
            out.push((self.id(at), self.ids[at] & DEAD == 0));
        }
    }
}
