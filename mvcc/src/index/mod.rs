//! The ordered index: a B+tree of key numbers with subtree counts.
//!
//! Leaves hold key numbers. Beside each key number, and beside each separator of an inner node, are 8
//! telling bytes of the key (see `places`), so that a search within a node is a binary search over one
//! small array and looks at a key's own memory only to confirm. Each inner node knows how many live
//! keys are under each child, so that counting a range is logarithmic.
//! 12 bytes per key at full leaves; sequential inserts leave leaves full.
//!
//! Promise: the tree holds a number at most once, in the order of its key; a key's bytes never
//! change while it is in the tree. Knows keys only through [`Keys`]; knows no revisions: "live" is
//! a flag that its owner sets. Tested against a `BTreeMap`.

mod leaf;
mod node;
mod path;
mod places;

use std::ops::ControlFlow;

use crate::keys::Keys;
use crate::names::KeyId;
use leaf::{Ahead, Leaf, TOUCH_MAX};
use node::{Inner, Node, Split};
use path::Path;
pub(crate) use path::Place;

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct Index {
    root: Node,
}

impl Index {
    /// The number of a key.
    pub fn find(&self, keys: &Keys, key: &[u8]) -> Option<KeyId> {
        self.locate(keys, key).id
    }

    /// Where a key is or would be, for changes at this place.
    pub fn locate(&self, keys: &Keys, key: &[u8]) -> Place {
        self.guess(keys, key)
            .unwrap_or_else(|| self.locate_surely(keys, key))
    }

    /// As [`Index::locate`], by heads; `None` if they misjudge the key.
    fn guess(&self, keys: &Keys, key: &[u8]) -> Option<Place> {
        let (path, leaf) = self.descend(|inner| inner.likely_child_of(key));
        match leaf.look_up(keys, key)? {
            Ok(at) => Some(Place {
                path,
                at,
                id: Some(leaf.id(at)),
            }),
            Err(at) if path.is_sure(at, leaf.len()) => Some(Place { path, at, id: None }),
            Err(_) => None,
        }
    }

    /// As [`Index::locate`], by whole keys: for one that heads misjudge, or that lies between leaves.
    #[cold]
    fn locate_surely(&self, keys: &Keys, key: &[u8]) -> Place {
        let (path, leaf) = self.descend(|inner| inner.child_of(key));
        match leaf.search(keys, key) {
            Ok(at) => Place {
                path,
                at,
                id: Some(leaf.id(at)),
            },
            Err(at) => Place { path, at, id: None },
        }
    }

    fn descend(&self, choose: impl Fn(&Inner) -> usize) -> (Path, &Leaf) {
        let (mut node, mut path) = (&self.root, Path::default());
        loop {
            std::hint::black_box(node.touch());
            match node {
                Node::Inner(inner) => {
                    let at = choose(inner);
                    path.push(at, inner.children.len());
                    node = &inner.children[at];
                }
                Node::Leaf(leaf) => return (path, leaf),
            }
        }
    }

    /// Loads into the cache what looking up these keys will read, level by level for all of them, so
    /// that the waits for memory overlap: one lookup in a large tree is a chain of such waits. `versions`:
    /// also the newest versions, which a put does not read.
    pub fn touch(&self, keys: &Keys, wanted: &[&[u8]], versions: bool) {
        for group in wanted.chunks(TOUCH_MAX) {
            let mut nodes = [&self.root; TOUCH_MAX];
            let nodes = &mut nodes[..group.len()];
            // All leaves are equally deep.
            while matches!(nodes[0], Node::Inner(_)) {
                for (node, key) in nodes.iter_mut().zip(group) {
                    if let Node::Inner(inner) = *node {
                        *node = &inner.children[inner.likely_child_of(key)];
                    }
                }
                let touched = nodes.iter().fold(0, |sum, node| sum ^ node.touch());
                std::hint::black_box(touched);
            }
            let mut found = [[None; 2]; TOUCH_MAX];
            for ((ids, node), key) in found.iter_mut().zip(nodes).zip(group) {
                if let Node::Leaf(leaf) = *node {
                    *ids = leaf.likely(key);
                }
            }
            let ids = || found.as_flattened().iter().flatten();
            std::hint::black_box(ids().fold(0, |sum, &id| sum ^ keys.touch(id)));
            if versions {
                std::hint::black_box(ids().fold(0, |sum, &id| sum ^ keys.touch_latest(id)));
            }
        }
    }

    /// Adds a key that is not in the tree, as live, at its place.
    pub fn insert(&mut self, keys: &Keys, place: &Place, id: KeyId) {
        let split = self.root.insert(keys, place, 0, keys.key(id), id);
        self.grow(keys, split);
    }

    /// Adds a key that is greater than all in the tree, as live.
    pub fn append(&mut self, keys: &Keys, id: KeyId) {
        let split = self.root.append(keys, keys.key(id), id);
        self.grow(keys, split);
    }

    fn grow(&mut self, keys: &Keys, split: Split) {
        if let Some((separator, right)) = split {
            let left = std::mem::take(&mut self.root);
            self.root = Node::Inner(Box::new(Inner::of_two(keys, left, separator, right)));
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, keys: &Keys, key: &[u8]) {
        let place = self.locate(keys, key);
        if place.id.is_none() {
            return;
        }
        self.root.remove(keys, &place, 0, key);
        while let Node::Inner(inner) = &mut self.root {
            match inner.children.len() {
                0 => self.root = Node::default(),
                1 => self.root = inner.children.remove(0),
                _ => break,
            }
        }
    }

    /// Says whether a key counts.
    pub fn set_live(&mut self, keys: &Keys, key: &[u8], live: bool) {
        let place = self.locate(keys, key);
        self.set_live_at(&place, key, live);
    }

    /// Says whether the key at a place counts.
    pub fn set_live_at(&mut self, place: &Place, key: &[u8], live: bool) {
        if place.id.is_some() {
            self.root.set_live(place, 0, key, live);
        }
    }

    /// How many live keys there are.
    pub fn live(&self) -> usize {
        self.root.live()
    }

    /// How many live keys are less than `key`.
    pub fn rank(&self, keys: &Keys, key: &[u8]) -> usize {
        let place = self.locate(keys, key);
        let (mut node, mut before) = (&self.root, 0);
        for level in 0.. {
            match node {
                Node::Inner(inner) => {
                    let at = inner.step(&place.path, level, key);
                    before += inner.live[..at]
                        .iter()
                        .map(|&live| live as usize)
                        .sum::<usize>();
                    node = &inner.children[at];
                }
                Node::Leaf(leaf) => {
                    before += leaf.live_before(place.at);
                    break;
                }
            }
        }
        before
    }

    /// Visits keys in order, from `start` on, live or not, until told to stop.
    pub fn scan<B>(
        &self,
        keys: &Keys,
        start: &[u8],
        mut visit: impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> Option<B> {
        let place = self.locate(keys, start);
        self.root
            .scan(
                keys,
                Some((&place, start)),
                0,
                &mut Ahead::new(),
                &mut visit,
            )
            .break_value()
    }

    /// Visits keys in descending order, from the last one before `end` on, or else from the last of all, live
    /// or not, until told to stop.
    pub fn scan_back<B>(
        &self,
        keys: &Keys,
        end: Option<&[u8]>,
        mut visit: impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> Option<B> {
        let place = end.map(|end| (self.locate(keys, end), end));
        let end = place.as_ref().map(|(place, end)| (place, *end));
        let ahead = &mut Ahead::new();
        let walk = self.root.scan_back(keys, end, 0, ahead, &mut visit);
        walk.break_value()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.root.heap_bytes()
    }
}

#[cfg(test)]
mod tests;
