//! Nodes of the index: inner nodes with separators and live counts above the leaves.
//!
//! Invariants: `prefix` is common to a node's separators, its heads and tails are the 8 and 16 bytes
//! that follow it (zero-padded); `separators[i]` is greater than every key under `children[i]` and
//! not greater than any key under `children[i + 1]`; `live[i]` is the number of live keys under
//! `children[i]`. Tested by the index's tests, which check them all.

use std::cmp::Ordering;
use std::mem;
use std::ops::{ControlFlow, Range};

use super::super::keys::{KeyId, Keys};
use super::leaf::{Ahead, LEAF_MAX, Leaf};

/// Children of an inner node.
pub(super) const INNER_MAX: usize = 64;
/// Longest prefix that a node cuts off its keys.
const PREFIX_MAX: usize = 63;
#[derive(Debug)]
pub(super) enum Node {
    Leaf(Box<Leaf>),
    Inner(Box<Inner>),
}

#[derive(Debug)]
pub(super) struct Inner {
    prefix: Prefix,
    /// Of the separators, in place: a search reads little else.
    heads: [u64; INNER_MAX],
    /// The 16 bytes after each head, for separators with the same head: keys that are paths share
    /// much even after a node's prefix.
    tails: [u128; INNER_MAX],
    separators: Vec<Box<[u8]>>,
    /// Heap bytes of this node and all under it.
    bytes: usize,
    pub(super) live: Vec<u32>,
    pub(super) children: Vec<Node>,
}

/// Bytes that all keys of a node start with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Prefix {
    len: u8,
    bytes: [u8; PREFIX_MAX],
}

/// A new right sibling and the separator before it.
pub(super) type Split = Option<(Box<[u8]>, Node)>;

impl Default for Node {
    fn default() -> Self {
        Node::Leaf(Box::new(Leaf::new()))
    }
}

impl Node {
    pub(super) fn insert(&mut self, keys: &Keys, key: &[u8], id: KeyId) -> Split {
        match self {
            Node::Leaf(leaf) => match leaf.search(keys, key) {
                Ok(_) => None,
                Err(at) => add_to(leaf, keys, at, key, id),
            },
            Node::Inner(inner) => inner.insert(keys, key, id),
        }
    }

    /// Inserts a key that is greater than all others.
    pub(super) fn append(&mut self, keys: &Keys, key: &[u8], id: KeyId) -> Split {
        match self {
            Node::Leaf(leaf) => add_to(leaf, keys, leaf.len(), key, id),
            Node::Inner(inner) => {
                let last = inner.children.len() - 1;
                inner.add(last, |child| child.append(keys, key, id))
            }
        }
    }

    /// Returns whether the key was there and live.
    pub(super) fn remove(&mut self, keys: &Keys, key: &[u8]) -> bool {
        match self {
            Node::Leaf(leaf) => leaf.search(keys, key).is_ok_and(|at| leaf.remove(at)),
            Node::Inner(inner) => inner.remove(keys, key),
        }
    }

    /// Returns the change of the number of live keys.
    pub(super) fn set_live(&mut self, keys: &Keys, key: &[u8], live: bool) -> i32 {
        match self {
            Node::Leaf(leaf) => leaf
                .search(keys, key)
                .map_or(0, |at| leaf.set_live(at, live)),
            Node::Inner(inner) => {
                let at = inner.child_of(key);
                let change = inner.children[at].set_live(keys, key, live);
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

    pub(super) fn scan<B>(
        &self,
        keys: &Keys,
        start: Option<&[u8]>,
        ahead: &mut Ahead,
        visit: &mut impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        match self {
            Node::Leaf(leaf) => {
                let from = start.map_or(0, |key| leaf.search(keys, key).unwrap_or_else(|at| at));
                leaf.visit(keys, from, ahead, visit)
            }
            Node::Inner(inner) => {
                let from = start.map_or(0, |key| inner.child_of(key));
                inner.children[from].scan(keys, start, ahead, visit)?;
                inner.children[from + 1..]
                    .iter()
                    .try_for_each(|child| child.scan(keys, None, ahead, visit))
            }
        }
    }

    /// Loads every cache line that a search of this node may read. The result only keeps the loads.
    pub(super) fn touch(&self) -> u64 {
        let heads = |heads: &[u64]| heads.iter().step_by(8).fold(0, |sum, head| sum ^ head);
        match self {
            Node::Leaf(leaf) => leaf.touch(),
            Node::Inner(inner) => {
                heads(&inner.heads[..inner.separators.len()]) ^ u64::from(inner.prefix.len)
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
                left.rebuild_heads();
                Ok(())
            }
            (_, right) => Err(right),
        }
    }
}

impl Inner {
    pub(super) fn of_two(left: Node, separator: Box<[u8]>, right: Node) -> Self {
        let mut inner = Inner {
            prefix: Prefix::EMPTY,
            heads: [0; INNER_MAX],
            tails: [0; INNER_MAX],
            separators: vec![separator],
            bytes: 0,
            live: vec![left.live() as u32, right.live() as u32],
            children: vec![left, right],
        };
        inner.rebuild_heads();
        inner
    }

    /// Which child a key belongs to.
    pub(super) fn child_of(&self, key: &[u8]) -> usize {
        let heads = &self.heads[..self.separators.len()];
        let (low, high) = match search_heads(&self.prefix, heads, key) {
            Ok(same) => (same.start, same.end),
            Err(at) => return at,
        };
        if low == high {
            return low;
        }
        let (tail, same) = (self.prefix.tail(key), &self.tails[low..high]);
        let first = low + same.partition_point(|&other| other < tail);
        let same = first..low + same.partition_point(|&other| other <= tail);
        same.start + self.separators[same].partition_point(|separator| **separator <= *key)
    }

    fn insert(&mut self, keys: &Keys, key: &[u8], id: KeyId) -> Split {
        let at = self.child_of(key);
        self.add(at, |child| child.insert(keys, key, id))
    }

    /// Adds a key under the child at a position.
    fn add(&mut self, at: usize, insert: impl FnOnce(&mut Node) -> Split) -> Split {
        let before = self.children[at].heap_bytes();
        let Some((separator, right)) = insert(&mut self.children[at]) else {
            self.live[at] += 1;
            self.bytes += self.children[at].heap_bytes() - before;
            return None;
        };
        self.live[at] = self.children[at].live() as u32;
        self.live.insert(at + 1, right.live() as u32);
        self.children.insert(at + 1, right);
        if self.prefix.is_prefix_of(&separator) {
            self.heads.copy_within(at..self.separators.len(), at + 1);
            self.tails.copy_within(at..self.separators.len(), at + 1);
            self.heads[at] = self.prefix.head(&separator);
            self.tails[at] = self.prefix.tail(&separator);
            self.separators.insert(at, separator);
            self.count_bytes();
        } else {
            self.separators.insert(at, separator);
            self.rebuild_heads();
        }
        (self.children.len() > INNER_MAX).then(|| self.split(at + 2 == self.children.len()))
    }

    /// Moves the upper half (when appending: the last child) to a new right sibling.
    fn split(&mut self, appending: bool) -> (Box<[u8]>, Node) {
        let middle = if appending {
            self.children.len() - 1
        } else {
            self.children.len() / 2
        };
        let mut right = Inner {
            prefix: Prefix::EMPTY,
            heads: [0; INNER_MAX],
            tails: [0; INNER_MAX],
            separators: self.separators.split_off(middle),
            bytes: 0,
            live: self.live.split_off(middle),
            children: self.children.split_off(middle),
        };
        right.rebuild_heads();
        let separator = self.separators.pop().unwrap_or_default();
        self.rebuild_heads();
        (separator, Node::Inner(Box::new(right)))
    }

    fn remove(&mut self, keys: &Keys, key: &[u8]) -> bool {
        let at = self.child_of(key);
        let before = self.children[at].heap_bytes();
        let was_live = self.children[at].remove(keys, key);
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
            self.heads
                .copy_within(separator + 1..self.separators.len(), separator);
            self.tails
                .copy_within(separator + 1..self.separators.len(), separator);
            self.separators.remove(separator);
        }
        self.count_bytes();
    }

    fn rebuild_heads(&mut self) {
        self.prefix = match self.separators.as_slice() {
            [first, .., last] => Prefix::common(first, last),
            _ => Prefix::EMPTY,
        };
        for (at, separator) in self.separators.iter().enumerate() {
            self.heads[at] = self.prefix.head(separator);
            self.tails[at] = self.prefix.tail(separator);
        }
        self.count_bytes();
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

impl Prefix {
    const EMPTY: Prefix = Prefix {
        len: 0,
        bytes: [0; PREFIX_MAX],
    };

    fn common(first: &[u8], last: &[u8]) -> Self {
        let len = common(first, last).min(PREFIX_MAX);
        let mut prefix = Prefix {
            len: len as u8,
            ..Prefix::EMPTY
        };
        prefix.bytes[..len].copy_from_slice(&first[..len]);
        prefix
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len as usize]
    }

    fn is_prefix_of(&self, key: &[u8]) -> bool {
        key.starts_with(self.as_bytes())
    }

    /// The 16 bytes after those of the head, as a number that orders as they do.
    fn tail(&self, key: &[u8]) -> u128 {
        let rest = key.get(self.len as usize + 8..).unwrap_or_default();
        match rest.first_chunk::<16>() {
            Some(bytes) => u128::from_be_bytes(*bytes),
            None => {
                let mut bytes = [0; 16];
                bytes[..rest.len()].copy_from_slice(rest);
                u128::from_be_bytes(bytes)
            }
        }
    }

    /// The 8 bytes after the prefix, as a number that orders as they do.
    fn head(&self, key: &[u8]) -> u64 {
        let rest = key.get(self.len as usize..).unwrap_or_default();
        match rest.first_chunk::<8>() {
            Some(bytes) => u64::from_be_bytes(*bytes),
            None => {
                let mut bytes = [0; 8];
                bytes[..rest.len()].copy_from_slice(rest);
                u64::from_be_bytes(bytes)
            }
        }
    }
}

/// Length of the common prefix.
pub(super) fn common(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let same = words_a
        .iter()
        .zip(words_b)
        .take_while(|(a, b)| a == b)
        .count()
        * 8;
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

fn add_to(leaf: &mut Leaf, keys: &Keys, at: usize, key: &[u8], id: KeyId) -> Split {
    let (separator, right) = leaf.insert(keys, at, key, id)?;
    Some((separator, Node::Leaf(right)))
}

/// Where keys with the head of `key` are, or would be; `Err` if its prefix is another.
fn search_heads(prefix: &Prefix, heads: &[u64], key: &[u8]) -> Result<Range<usize>, usize> {
    let shared = prefix.as_bytes();
    match key[..shared.len().min(key.len())].cmp(shared) {
        Ordering::Less => return Err(0),
        Ordering::Greater => return Err(heads.len()),
        Ordering::Equal => {}
    }
    let head = prefix.head(key);
    let low = heads.partition_point(|&other| other < head);
    let same = heads[low..]
        .iter()
        .take_while(|&&other| other == head)
        .count();
    Ok(low..low + same)
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
                for (head, separator) in inner.heads.iter().zip(&inner.separators) {
                    assert_eq!(*head, inner.prefix.head(separator));
                }
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
