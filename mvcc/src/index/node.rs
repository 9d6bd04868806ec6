//! Nodes of the index: inner nodes with separators and live counts above the leaves.
//!
//! An inner node has a head per separator, as leaves have for keys (see `places`). The child that heads
//! point to is *likely* right: separators show only some of the places where the keys below differ.
//! The leaf at the end tells, for nothing: see `Path::is_sure`. So the separators themselves, which lie
//! elsewhere in memory, are read only where heads are equal, or where a guess was wrong.
//!
//! Invariants: `separators[i]` is greater than every key under `children[i]` and not greater than any
//! key under `children[i + 1]`; `live[i]` is the number of live keys under `children[i]`. Tested by the
//! index's tests, which check them all.

use std::mem;
use std::ops::ControlFlow;

use super::super::keys::Keys;
use super::leaf::{Ahead, LEAF_MAX, Leaf};
use super::path::{Path, Place};
use super::places::{Heads, common};
use crate::names::KeyId;

/// Children of an inner node.
pub(super) const INNER_MAX: usize = 64;

#[derive(Debug)]
pub(super) enum Node {
    Leaf(Box<Leaf>),
    Inner(Box<Inner>),
}

#[derive(Debug)]
pub(super) struct Inner {
    /// Of the separators: a search reads little else.
    heads: Heads<INNER_MAX>,
    pub(super) children: Vec<Node>,
    pub(super) live: Vec<u32>,
    separators: Vec<Box<[u8]>>,
    /// Heap bytes of this node and all under it.
    bytes: usize,
}

/// A new right sibling and the separator before it.
pub(super) type Split = Option<(Box<[u8]>, Node)>;

impl Default for Node {
    fn default() -> Self {
        Node::Leaf(Box::new(Leaf::new()))
    }
}

impl Node {
    /// Inserts a key at its place.
    pub(super) fn insert(
        &mut self,
        keys: &Keys,
        place: &Place,
        level: usize,
        key: &[u8],
        id: KeyId,
    ) -> Split {
        match self {
            Node::Leaf(leaf) => add_to(leaf, keys, place.at, key, id),
            Node::Inner(inner) => {
                let at = inner.step(&place.path, level, key);
                inner.add(keys, at, |child| {
                    child.insert(keys, place, level + 1, key, id)
                })
            }
        }
    }

    /// Inserts a key that is greater than all others.
    pub(super) fn append(&mut self, keys: &Keys, key: &[u8], id: KeyId) -> Split {
        match self {
            Node::Leaf(leaf) => add_to(leaf, keys, leaf.len(), key, id),
            Node::Inner(inner) => {
                let last = inner.children.len() - 1;
                inner.add(keys, last, |child| child.append(keys, key, id))
            }
        }
    }

    /// Removes the key at a place; returns whether it was live.
    pub(super) fn remove(&mut self, keys: &Keys, place: &Place, level: usize, key: &[u8]) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.remove(place.at),
            Node::Inner(inner) => inner.remove(keys, place, level, key),
        }
    }

    /// Returns the change of the number of live keys.
    pub(super) fn set_live(&mut self, place: &Place, level: usize, key: &[u8], live: bool) -> i32 {
        match self {
            Node::Leaf(leaf) => leaf.set_live(place.at, live),
            Node::Inner(inner) => {
                let at = inner.step(&place.path, level, key);
                let change = inner.children[at].set_live(place, level + 1, key, live);
                inner.live[at] = inner.live[at].wrapping_add_signed(change);
                change
            }
        }
    }

    pub(super) fn live(&self) -> usize {
        match self {
            Node::Leaf(leaf) => leaf.live_before(leaf.len()),
            Node::Inner(inner) => inner.live.iter().map(|&live| live as usize).sum(),
        }
    }

    /// Visits keys in order, from a place on or else all.
    pub(super) fn scan<B>(
        &self,
        keys: &Keys,
        start: Option<(&Place, &[u8])>,
        level: usize,
        ahead: &mut Ahead,
        visit: &mut impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self {
            Node::Leaf(leaf) => {
                let from = start.map_or(0, |(place, _)| place.at);
                leaf.visit(keys, from, ahead, visit)
            }
            Node::Inner(inner) => {
                let from = start.map_or(0, |(place, key)| inner.step(&place.path, level, key));
                inner.children[from].scan(keys, start, level + 1, ahead, visit)?;
                inner.children[from + 1..]
                    .iter()
                    .try_for_each(|child| child.scan(keys, None, level + 1, ahead, visit))
            }
        }
    }

    /// Visits keys in descending order, from before a place on or else all.
    pub(super) fn scan_back<B>(
        &self,
        keys: &Keys,
        end: Option<(&Place, &[u8])>,
        level: usize,
        ahead: &mut Ahead,
        visit: &mut impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self {
            Node::Leaf(leaf) => {
                let upto = end.map_or(leaf.len(), |(place, _)| place.at);
                leaf.visit_back(keys, upto, ahead, visit)
            }
            Node::Inner(inner) => {
                let last = inner.children.len() - 1;
                let from = end.map_or(last, |(place, key)| inner.step(&place.path, level, key));
                inner.children[from].scan_back(keys, end, level + 1, ahead, visit)?;
                let before = inner.children[..from].iter().rev();
                before
                    .map(|child| child.scan_back(keys, None, level + 1, ahead, visit))
                    .find(ControlFlow::is_break)
                    .unwrap_or(ControlFlow::Continue(()))
            }
        }
    }

    /// Loads every cache line that a search of this node may read. The result only keeps the loads.
    pub(super) fn touch(&self) -> u64 {
        match self {
            Node::Leaf(leaf) => leaf.touch(),
            Node::Inner(inner) => {
                let children = inner.children.iter().step_by(4);
                children.fold(inner.heads.touch(), |sum, child| {
                    sum ^ u64::from(matches!(child, Node::Leaf(_)))
                })
            }
        }
    }

    /// Bytes on the heap, of this node and all under it.
    pub(super) fn heap_bytes(&self) -> usize {
        match self {
            Node::Leaf(_) => mem::size_of::<Leaf>(),
            Node::Inner(inner) => inner.bytes,
        }
    }

    /// The key at the end of this subtree that `choose` picks of so many.
    fn end_key<'a>(&self, keys: &'a Keys, choose: impl Fn(usize) -> usize) -> Option<&'a [u8]> {
        let mut node = self;
        loop {
            match node {
                Node::Inner(inner) => node = inner.children.get(choose(inner.children.len()))?,
                Node::Leaf(leaf) => {
                    let at = choose(leaf.len());
                    return (at < leaf.len()).then(|| keys.key(leaf.id(at)));
                }
            }
        }
    }

    fn is_empty(&self) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.len() == 0,
            Node::Inner(inner) => inner.children.is_empty(),
        }
    }

    /// Takes over a right sibling if both fit in three quarters of a node (so that the next insert
    /// does not split again). Gives it back otherwise.
    fn absorb(&mut self, keys: &Keys, separator: &[u8], right: Node) -> Result<(), Node> {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right))
                if left.len() + right.len() <= LEAF_MAX * 3 / 4 =>
            {
                left.absorb(keys, &right);
                Ok(())
            }
            (Node::Inner(left), Node::Inner(mut right))
                if left.children.len() + right.children.len() <= INNER_MAX * 3 / 4 =>
            {
                left.separators.push(separator.into());
                left.separators.append(&mut right.separators);
                left.live.append(&mut right.live);
                left.children.append(&mut right.children);
                left.choose(keys);
                left.count_bytes();
                Ok(())
            }
            (_, right) => Err(right),
        }
    }
}

impl Inner {
    pub(super) fn of_two(keys: &Keys, left: Node, separator: Box<[u8]>, right: Node) -> Self {
        let live = vec![left.live() as u32, right.live() as u32];
        Inner::new(keys, vec![left, right], live, vec![separator])
    }

    fn new(keys: &Keys, children: Vec<Node>, live: Vec<u32>, separators: Vec<Box<[u8]>>) -> Self {
        let mut inner = Inner {
            heads: Heads::new(),
            children,
            live,
            separators,
            bytes: 0,
        };
        inner.choose(keys);
        inner.count_bytes();
        inner
    }

    /// Which child a key belongs to.
    pub(super) fn child_of(&self, key: &[u8]) -> usize {
        self.separators
            .partition_point(|separator| **separator <= *key)
    }

    /// Which child a key probably belongs to.
    pub(super) fn likely_child_of(&self, key: &[u8]) -> usize {
        let same = self.heads.same(key);
        let separators = &self.separators[same.clone()];
        same.start + separators.partition_point(|separator| **separator <= *key)
    }

    /// Which child a path to a key takes.
    pub(super) fn step(&self, path: &Path, level: usize, key: &[u8]) -> usize {
        path.step(level).unwrap_or_else(|| self.child_of(key))
    }

    /// Adds a key under the child at a position.
    fn add(&mut self, keys: &Keys, at: usize, insert: impl FnOnce(&mut Node) -> Split) -> Split {
        let before = self.children[at].heap_bytes();
        let Some((separator, right)) = insert(&mut self.children[at]) else {
            self.live[at] += 1;
            self.bytes += self.children[at].heap_bytes() - before;
            return None;
        };
        self.live[at] = self.children[at].live() as u32;
        self.live.insert(at + 1, right.live() as u32);
        self.children.insert(at + 1, right);
        self.separators.insert(at, separator);
        if self.heads.insert(at, &self.separators[at]) {
            self.choose(keys);
        }
        self.count_bytes();
        (self.children.len() > INNER_MAX).then(|| self.split(keys, at + 2 == self.children.len()))
    }

    /// Moves the upper half (when appending: the last child) to a new right sibling.
    fn split(&mut self, keys: &Keys, appending: bool) -> (Box<[u8]>, Node) {
        let middle = if appending {
            self.children.len() - 1
        } else {
            self.children.len() / 2
        };
        let right = Inner::new(
            keys,
            self.children.split_off(middle),
            self.live.split_off(middle),
            self.separators.split_off(middle),
        );
        let separator = self.separators.pop().unwrap_or_default();
        self.choose(keys);
        self.count_bytes();
        (separator, Node::Inner(Box::new(right)))
    }

    fn remove(&mut self, keys: &Keys, place: &Place, level: usize, key: &[u8]) -> bool {
        let at = self.step(&place.path, level, key);
        let before = self.children[at].heap_bytes();
        let was_live = self.children[at].remove(keys, place, level + 1, key);
        self.live[at] -= u32::from(was_live);
        self.bytes -= before - self.children[at].heap_bytes();
        if self.children[at].is_empty() {
            self.take_child(at);
        } else if !self.merge(keys, at)
            && let Some(before) = at.checked_sub(1)
        {
            self.merge(keys, before);
        }
        was_live
    }

    /// Merges `at + 1` into `at` if they are small enough.
    fn merge(&mut self, keys: &Keys, at: usize) -> bool {
        if at + 1 >= self.children.len() {
            return false;
        }
        let right = mem::replace(
            &mut self.children[at + 1],
            Node::Leaf(Box::new(Leaf::new())),
        );
        match self.children[at].absorb(keys, &self.separators[at], right) {
            Ok(()) => {
                self.live[at] += self.live[at + 1];
                self.take_child(at + 1);
                true
            }
            Err(right) => {
                self.children[at + 1] = right;
                false
            }
        }
    }

    fn take_child(&mut self, at: usize) {
        self.children.remove(at);
        self.live.remove(at);
        let separator = at.saturating_sub(1);
        if separator < self.separators.len() {
            self.heads.remove(separator);
            self.separators.remove(separator);
        }
        self.count_bytes();
    }

    /// Chooses the heads' places. Keys below the first separator and behind the last have to be told from
    /// it as well: a root of two children has one separator, whose end says nothing of where they differ.
    fn choose(&mut self, keys: &Keys) {
        let separators = &self.separators;
        let beyond = [
            (self.first_key(keys), separators.first()),
            (self.last_key(keys), separators.last()),
        ];
        let beyond = beyond
            .into_iter()
            .filter_map(|(key, separator)| Some(common(key?, separator?)));
        // A separator ends where the keys on its two sides differ: others will there, too.
        let ends = separators.iter().filter_map(|s| s.len().checked_sub(1));
        self.heads
            .choose(separators.len(), |at| &separators[at], beyond, ends);
    }

    fn first_key<'a>(&self, keys: &'a Keys) -> Option<&'a [u8]> {
        self.children.first()?.end_key(keys, |_| 0)
    }

    fn last_key<'a>(&self, keys: &'a Keys) -> Option<&'a [u8]> {
        self.children
            .last()?
            .end_key(keys, |len| len.wrapping_sub(1))
    }

    /// After the children changed. What vectors have allocated ahead is left out.
    fn count_bytes(&mut self) {
        let per_child = mem::size_of::<Node>() + mem::size_of::<u32>();
        let per_separator = mem::size_of::<Box<[u8]>>();
        self.bytes = mem::size_of::<Inner>()
            + self.children.len() * per_child
            + self.separators.len() * per_separator
            + self
                .separators
                .iter()
                .map(|separator| separator.len())
                .sum::<usize>()
            + self.children.iter().map(Node::heap_bytes).sum::<usize>();
    }
}

fn add_to(leaf: &mut Leaf, keys: &Keys, at: usize, key: &[u8], id: KeyId) -> Split {
    let (separator, right) = leaf.insert(keys, at, key, id)?;
    Some((separator, Node::Leaf(right)))
}

#[cfg(test)]
impl Node {
    /// Checks the invariants of this file; returns the keys' order as seen.
    pub(super) fn verify(
        &self,
        keys: &Keys,
        low: &[u8],
        high: Option<&[u8]>,
        out: &mut Vec<(KeyId, bool)>,
    ) {
        match self {
            Node::Leaf(leaf) => leaf.verify(keys, low, high, out),
            Node::Inner(inner) => {
                let count = inner.children.len();
                assert!((1..=INNER_MAX).contains(&count));
                assert_eq!(inner.separators.len() + 1, count);
                assert_eq!(inner.live.len(), count);
                inner.heads.verify(count - 1, |at| &inner.separators[at]);
                let separators = inner
                    .separators
                    .iter()
                    .map(|separator| separator.len() + 16);
                let children = inner.children.iter().map(|child| child.heap_bytes() + 20);
                let bytes = separators.chain(children).sum::<usize>() + mem::size_of::<Inner>();
                assert_eq!(inner.bytes, bytes);
                for (at, child) in inner.children.iter().enumerate() {
                    assert!(!child.is_empty());
                    assert_eq!(inner.live[at] as usize, child.live());
                    let child_low = if at == 0 {
                        low
                    } else {
                        &inner.separators[at - 1]
                    };
                    let child_high = inner.separators.get(at).map(|s| &**s).or(high);
                    child.verify(keys, child_low, child_high, out);
                }
            }
        }
    }
}
