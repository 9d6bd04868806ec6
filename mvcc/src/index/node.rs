//! Nodes of the index: leaves with heads, inner nodes with separators and live counts.
//!
//! Invariants: a node's heads are the 8 bytes after its prefix of each of its keys (zero-padded);
//! its prefix is common to all its keys; `separators[i]` is greater than every key under
//! `children[i]` and not greater than any key under `children[i + 1]`; `live[i]` is the number of
//! live keys under `children[i]`. Tested by the index's tests, which check them all.

use std::cmp::Ordering;
use std::mem;
use std::ops::{ControlFlow, Range};

use super::super::keys::{KeyId, Keys};

/// Keys in a leaf: with the prefix this makes a leaf just under 896 bytes, an allocator's size class.
pub(super) const LEAF_MAX: usize = 64;
/// Children of an inner node.
pub(super) const INNER_MAX: usize = 64;
/// Longest prefix that a node cuts off its keys.
const PREFIX_MAX: usize = 56;
/// Most keys that a scan touches ahead: about as many loads as a core keeps in flight.
pub(super) const TOUCH_MAX: usize = 16;
/// Set on a key number in a leaf when the key does not count.
const DEAD: u32 = 1 << 31;

#[derive(Debug)]
pub(super) enum Node {
    Leaf(Box<Leaf>),
    Inner(Box<Inner>),
}

#[derive(Debug)]
pub(super) struct Leaf {
    prefix: Prefix,
    len: u16,
    heads: [u64; LEAF_MAX],
    ids: [u32; LEAF_MAX],
    /// One byte of each key's hash: among keys with the same head it mostly tells which one is wanted
    /// without reading the others.
    tags: [u8; LEAF_MAX],
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

/// How many keys a scan touches ahead: few at first, as it may end after one.
#[derive(Debug)]
pub(super) struct Ahead(usize);

impl Ahead {
    pub(super) fn new() -> Self {
        Ahead(1)
    }
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
            Node::Leaf(leaf) => leaf.insert(keys, key, id),
            Node::Inner(inner) => inner.insert(keys, key, id),
        }
    }

    /// Inserts a key that is greater than all others.
    pub(super) fn append(&mut self, keys: &Keys, key: &[u8], id: KeyId) -> Split {
        match self {
            Node::Leaf(leaf) => leaf.insert_new(keys, leaf.len as usize, key, id),
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
            Node::Leaf(leaf) => leaf.live_before(leaf.len as usize),
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
            Node::Leaf(leaf) => {
                let ids = leaf.ids.iter().step_by(16).fold(0, |sum, id| sum ^ id);
                heads(&leaf.heads) ^ u64::from(ids) ^ u64::from(leaf.prefix.len)
            }
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
            Node::Leaf(leaf) => leaf.len == 0,
            Node::Inner(inner) => inner.children.is_empty(),
        }
    }

    /// Takes over a right sibling if both fit in three quarters of a node (so that the next insert
    /// does not split again). Gives it back otherwise.
    fn absorb(&mut self, keys: &Keys, separator: &[u8], right: Node) -> Result<(), Node> {
        match (self, right) {
            (Node::Leaf(left), Node::Leaf(right))
                if (left.len + right.len) as usize <= LEAF_MAX * 3 / 4 =>
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

impl Leaf {
    fn new() -> Self {
        Leaf {
            prefix: Prefix::EMPTY,
            len: 0,
            heads: [0; LEAF_MAX],
            ids: [0; LEAF_MAX],
            tags: [0; LEAF_MAX],
        }
    }

    pub(super) fn id(&self, at: usize) -> KeyId {
        self.ids[at] & !DEAD
    }

    pub(super) fn live_before(&self, at: usize) -> usize {
        self.ids[..at].iter().filter(|&&id| id & DEAD == 0).count()
    }

    /// Visits keys from a position on. Each key and its newest version lie somewhere else in memory,
    /// and visiting waits for them; so the next few are touched together first, which lets those
    /// waits overlap (measured: a range of 500 among a million random keys takes about half the time).
    fn visit<B>(
        &self,
        keys: &Keys,
        from: usize,
        ahead: &mut Ahead,
        visit: &mut impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> ControlFlow<B> {
        let mut at = from;
        while at < self.len as usize {
            let end = (at + ahead.0).min(self.len as usize);
            let ids = self.ids[at..end].iter().map(|id| id & !DEAD);
            let touched = ids.clone().fold(0, |sum, id| sum ^ keys.touch(id));
            std::hint::black_box(touched);
            let touched = ids.clone().fold(0, |sum, id| sum ^ keys.touch_latest(id));
            std::hint::black_box(touched);
            ids.into_iter().try_for_each(&mut *visit)?;
            at = end;
            ahead.0 = (ahead.0 * 2).min(TOUCH_MAX);
        }
        ControlFlow::Continue(())
    }

    /// The number of a key that is here.
    pub(super) fn find(&self, keys: &Keys, key: &[u8]) -> Option<KeyId> {
        if !self.prefix.is_prefix_of(key) {
            return None;
        }
        let head = self.prefix.head(key);
        let heads = &self.heads[..self.len as usize];
        let first = heads.partition_point(|&other| other < head);
        let same = heads[first..]
            .iter()
            .take_while(|&&other| other == head)
            .count();
        let tag = if same > 1 { tag(key) } else { 0 };
        let likely = |&at: &usize| same == 1 || self.tags[at] == tag;
        let mut found = (first..first + same).filter(likely).map(|at| self.id(at));
        found.find(|&id| keys.key(id) == key)
    }

    /// Position of a key, or where it would be inserted.
    pub(super) fn search(&self, keys: &Keys, key: &[u8]) -> Result<usize, usize> {
        let len = self.len as usize;
        let load = |same: Range<usize>| {
            let ids = self.ids[same].iter().map(|id| id & !DEAD);
            std::hint::black_box(ids.fold(0, |sum, id| sum ^ keys.touch(id)));
        };
        search(&self.prefix, &self.heads[..len], key, load, |at| {
            keys.key(self.id(at))
        })
    }

    /// The key that a search would compare first, by heads alone: no key is read for it.
    pub(super) fn likely(&self, key: &[u8]) -> Option<KeyId> {
        let head = self.prefix.head(key);
        let at = self.heads[..self.len as usize].partition_point(|&other| other < head);
        (at < self.len as usize && self.heads[at] == head).then(|| self.id(at))
    }

    fn insert(&mut self, keys: &Keys, key: &[u8], id: KeyId) -> Split {
        match self.search(keys, key) {
            Ok(_) => None,
            Err(at) => self.insert_new(keys, at, key, id),
        }
    }

    fn insert_new(&mut self, keys: &Keys, at: usize, key: &[u8], id: KeyId) -> Split {
        let len = self.len as usize;
        if len < LEAF_MAX {
            self.insert_at(keys, at, key, id);
            return None;
        }
        // Appending: leave this leaf full, as the next keys will follow the new one.
        let middle = if at == len { len } else { len / 2 };
        let mut right = Box::new(Leaf::new());
        right.len = (len - middle) as u16;
        right.ids[..len - middle].copy_from_slice(&self.ids[middle..len]);
        right.tags[..len - middle].copy_from_slice(&self.tags[middle..len]);
        right.heads[..len - middle].copy_from_slice(&self.heads[middle..len]);
        right.prefix = self.prefix;
        self.len = middle as u16;
        right.tighten(keys);
        self.tighten(keys);
        if at < middle || at == middle && middle < len {
            self.insert_at(keys, at, key, id);
        } else {
            right.insert_at(keys, at - middle, key, id);
        }
        let last = keys.key(self.id(self.len as usize - 1));
        let first = keys.key(right.id(0));
        let separator = first[..(common(last, first) + 1).min(first.len())].into();
        Some((separator, Node::Leaf(right)))
    }

    fn insert_at(&mut self, keys: &Keys, at: usize, key: &[u8], id: KeyId) {
        let len = self.len as usize;
        if !self.prefix.is_prefix_of(key) {
            self.prefix.shorten(key);
            self.fill_heads(keys);
        }
        self.heads.copy_within(at..len, at + 1);
        self.ids.copy_within(at..len, at + 1);
        self.tags.copy_within(at..len, at + 1);
        self.heads[at] = self.prefix.head(key);
        self.tags[at] = tag(key);
        self.ids[at] = id;
        self.len += 1;
    }

    fn remove(&mut self, at: usize) -> bool {
        let len = self.len as usize;
        let live = self.ids[at] & DEAD == 0;
        self.heads.copy_within(at + 1..len, at);
        self.ids.copy_within(at + 1..len, at);
        self.tags.copy_within(at + 1..len, at);
        self.len -= 1;
        live
    }

    fn set_live(&mut self, at: usize, live: bool) -> i32 {
        let was = self.ids[at] & DEAD == 0;
        self.ids[at] = self.id(at) | if live { 0 } else { DEAD };
        i32::from(live) - i32::from(was)
    }

    fn absorb(&mut self, keys: &Keys, right: &Leaf) {
        let (from, more) = (self.len as usize, right.len as usize);
        self.ids[from..from + more].copy_from_slice(&right.ids[..more]);
        self.tags[from..from + more].copy_from_slice(&right.tags[..more]);
        self.len += right.len;
        self.rebuild(keys);
    }

    /// After keys went away: a longer prefix may be common now. It is worth reading the keys only
    /// if heads do not tell them apart.
    fn tighten(&mut self, keys: &Keys) {
        let heads = &self.heads[..self.len as usize];
        let tied = heads.windows(2).any(|pair| pair[0] == pair[1]);
        if (tied || self.len < 2) && self.common_prefix(keys) != self.prefix {
            self.rebuild(keys);
        }
    }

    fn rebuild(&mut self, keys: &Keys) {
        self.prefix = self.common_prefix(keys);
        self.fill_heads(keys);
    }

    /// Of a single key nothing is cut off: the next one would shorten it at once.
    fn common_prefix(&self, keys: &Keys) -> Prefix {
        match self.len as usize {
            0 | 1 => Prefix::EMPTY,
            len => Prefix::common(keys.key(self.id(0)), keys.key(self.id(len - 1))),
        }
    }

    fn fill_heads(&mut self, keys: &Keys) {
        let ids = self.ids[..self.len as usize].iter().map(|id| id & !DEAD);
        std::hint::black_box(ids.fold(0, |sum, id| sum ^ keys.touch(id)));
        for at in 0..self.len as usize {
            self.heads[at] = self.prefix.head(keys.key(self.id(at)));
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

    fn shorten(&mut self, key: &[u8]) {
        *self = Prefix::common(self.as_bytes(), key);
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
fn common(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// A byte of a key's hash: multiply and fold, 8 bytes at a time.
fn tag(key: &[u8]) -> u8 {
    let (words, rest) = key.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words
        .iter()
        .chain([&last])
        .map(|word| u64::from_le_bytes(*word));
    let hash = words.fold(key.len() as u64, |hash, word| {
        (hash ^ word)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    });
    (hash ^ (hash >> 32)) as u8
}

/// Binary search by heads, then by whole keys among equal heads (which also settles zero padding:
/// `a` and `a\0` have the same head). `load` is told which keys may be read, where they are several.
fn search<'a>(
    prefix: &Prefix,
    heads: &[u64],
    key: &[u8],
    load: impl Fn(Range<usize>),
    key_at: impl Fn(usize) -> &'a [u8],
) -> Result<usize, usize> {
    let Range {
        start: mut low,
        end: mut high,
    } = match search_heads(prefix, heads, key) {
        Ok(same) => same,
        Err(at) => return Err(at),
    };
    if high > low + 2 {
        load(low..high);
    }
    while low < high {
        let middle = low + (high - low) / 2;
        match key_at(middle).cmp(key) {
            Ordering::Less => low = middle + 1,
            Ordering::Greater => high = middle,
            Ordering::Equal => return Ok(middle),
        }
    }
    Err(low)
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
            Node::Leaf(leaf) => {
                for at in 0..leaf.len as usize {
                    let key = keys.key(leaf.id(at));
                    assert!(leaf.prefix.is_prefix_of(key));
                    assert_eq!(leaf.heads[at], leaf.prefix.head(key));
                    assert_eq!(leaf.tags[at], tag(key));
                    assert!(key >= low && high.is_none_or(|high| key < high));
                    out.push((leaf.id(at), leaf.ids[at] & DEAD == 0));
                }
            }
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
