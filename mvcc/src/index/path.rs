//! Where a key is in the tree, or would be: the child taken in each inner node, and the position in
//! the leaf. Found once, it serves what follows on the same tree: an insert goes down without searching
//! again. Knows nothing of nodes. Tested by the index's tests.

use crate::names::KeyId;

/// Levels of inner nodes that a path remembers. Two neighbours together fill three quarters of a node,
/// so 8 levels hold more keys than have numbers; a taller tree would be searched once more below.
const LEVELS_MAX: usize = 16;

/// A place of the tree. Any change of the tree but at this place makes it worthless.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    pub(super) path: Path,
    /// Position in the leaf.
    pub(super) at: usize,
    /// The key's number, if it is in the tree.
    pub id: Option<KeyId>,
}

/// The children taken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Path {
    steps: [u8; LEVELS_MAX],
    len: u8,
    /// Not always the first child.
    has_left: bool,
    /// Not always the last.
    has_right: bool,
}

impl Path {
    /// Goes on to child `at` of `children`.
    pub(super) fn push(&mut self, at: usize, children: usize) {
        if let Some(step) = self.steps.get_mut(usize::from(self.len)) {
            *step = at as u8;
            self.len += 1;
        }
        self.has_left |= at > 0;
        self.has_right |= at + 1 < children;
    }

    /// The child taken at a level, counted from the root.
    pub(super) fn step(&self, level: usize) -> Option<usize> {
        let steps = &self.steps[..usize::from(self.len)];
        steps.get(level).map(|&at| usize::from(at))
    }

    /// Does a key that belongs at position `at` of the `len` keys of the leaf at this path's end belong
    /// to this leaf? Surely if it lies between two of them, as nothing else does; and outside of them
    /// if there is no leaf beyond.
    pub(super) fn is_sure(&self, at: usize, len: usize) -> bool {
        (at > 0 || !self.has_left) && (at < len || !self.has_right)
    }
}
