//! The ordered index: a B+tree of key numbers with subtree counts.
//!
//! Leaves hold key numbers and, beside each, 8 telling bytes of its key (see `leaf`), so that a
//! search within a node is a binary search over one small array and looks at a key's own memory only
//! to confirm. Each inner node knows how many live keys are under each child, so that counting a
//! range is logarithmic.
//! 12 bytes per key at full leaves; sequential inserts leave leaves full.
//!
//! Promise: the tree holds a number at most once, in the order of its key; a key's bytes never
//! change while it is in the tree. Knows keys only through [`Keys`]; knows no revisions: "live" is
//! a flag that its owner sets. Tested against a `BTreeMap`.

mod leaf;
mod node;

use std::ops::ControlFlow;

use crate::keys::{KeyId, Keys};
use leaf::{Ahead, TOUCH_MAX};
use node::{Inner, Node, Split};

/// The tree.
#[derive(Debug, Default)]
pub(crate) struct Index {
    root: Node,
}

impl Index {
    /// The number of a key.
    pub fn find(&self, keys: &Keys, key: &[u8]) -> Option<KeyId> {
        let mut node = &self.root;
        loop {
            match node {
                Node::Inner(inner) => node = &inner.children[inner.child_of(key)],
                Node::Leaf(leaf) => {
                    std::hint::black_box(node.touch());
                    return leaf.find(keys, key);
                }
            }
        }
    }

    /// Loads into the cache what looking up these keys will read, level by level for all of them, so
    /// that the waits for memory overlap: one lookup in a large tree is a chain of such waits.
    pub fn touch(&self, keys: &Keys, wanted: &[&[u8]]) {
        for group in wanted.chunks(TOUCH_MAX) {
            let mut nodes = [&self.root; TOUCH_MAX];
            let nodes = &mut nodes[..group.len()];
            // All leaves are equally deep.
            while matches!(nodes[0], Node::Inner(_)) {
                for (node, key) in nodes.iter_mut().zip(group) {
                    if let Node::Inner(inner) = *node {
                        *node = &inner.children[inner.child_of(key)];
                    }
                }
                let touched = nodes.iter().fold(0, |sum, node| sum ^ node.touch());
                std::hint::black_box(touched);
            }
            let mut found = [None; TOUCH_MAX];
            for ((id, node), key) in found.iter_mut().zip(nodes).zip(group) {
                if let Node::Leaf(leaf) = *node {
                    *id = leaf.likely(key);
                }
            }
            let touched = found
                .iter()
                .flatten()
                .fold(0, |sum, &id| sum ^ keys.touch(id));
            std::hint::black_box(touched);
        }
    }

    /// Adds a key that is not in the tree, as live.
    pub fn insert(&mut self, keys: &Keys, id: KeyId) {
        let split = self.root.insert(keys, keys.key(id), id);
        self.grow(split);
    }

    /// Adds a key that is greater than all in the tree, as live.
    pub fn append(&mut self, keys: &Keys, id: KeyId) {
        let split = self.root.append(keys, keys.key(id), id);
        self.grow(split);
    }

    fn grow(&mut self, split: Split) {
        if let Some((separator, right)) = split {
            let left = std::mem::take(&mut self.root);
            self.root = Node::Inner(Box::new(Inner::of_two(left, separator, right)));
        }
    }

    /// Takes a key out.
    pub fn remove(&mut self, keys: &Keys, key: &[u8]) {
        self.root.remove(keys, key);
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
        self.root.set_live(keys, key, live);
    }

    /// How many live keys there are.
    pub fn live(&self) -> usize {
        self.root.live()
    }

    /// How many live keys are less than `key`.
    pub fn rank(&self, keys: &Keys, key: &[u8]) -> usize {
        let mut node = &self.root;
        let mut before = 0;
        loop {
            match node {
                Node::Inner(inner) => {
                    let at = inner.child_of(key);
                    before += inner.live[..at]
                        .iter()
                        .map(|&live| live as usize)
                        .sum::<usize>();
                    node = &inner.children[at];
                }
                Node::Leaf(leaf) => {
                    let at = leaf.search(keys, key).unwrap_or_else(|at| at);
                    return before + leaf.live_before(at);
                }
            }
        }
    }

    /// Visits keys in order, from `start` on, live or not, until told to stop.
    pub fn scan<B>(
        &self,
        keys: &Keys,
        start: &[u8],
        mut visit: impl FnMut(KeyId) -> ControlFlow<B>,
    ) -> Option<B> {
        self.root
            .scan(keys, Some(start), &mut Ahead::new(), &mut visit)
            .break_value()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.root.heap_bytes()
    }
}

#[cfg(test)]
mod tests;
