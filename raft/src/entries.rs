//! A run of entries that many can hold at once.
//!
//! Promises: cloning and slicing copy no entry. One proposed batch is one run: the same memory is in the
//! leader's tail, in the message to every follower, and in what its own storage is asked to write. (With
//! a vector for each of them, counting references to payloads was 58 % of the time of replication.)
//! Must never know: what is in the entries.
//! Tests: below.

use std::fmt;
use std::ops::{Deref, Range};
use std::sync::Arc;

use crate::message::Entry;

/// Entries, shared: reads like a slice, and its clones and [slices](Entries::slice) are the same memory.
/// What is cut off by slicing stays in memory as long as any part of the run is held.
#[derive(Clone, Default)]
pub struct Entries {
    /// `None` for no entries: most messages have none.
    shared: Option<Arc<Vec<Entry>>>,
    from: usize,
    to: usize,
}

impl Entries {
    /// No entries.
    pub const fn new() -> Entries {
        Entries {
            shared: None,
            from: 0,
            to: 0,
        }
    }

    /// The entries at these positions, which lie within the run (they are cut to it otherwise).
    #[must_use]
    pub fn slice(&self, positions: Range<usize>) -> Entries {
        let from = self.from.saturating_add(positions.start).min(self.to);
        let to = self.from.saturating_add(positions.end).min(self.to);
        if from >= to {
            return Entries::new();
        }
        let shared = self.shared.clone();
        Entries { shared, from, to }
    }
}

impl Deref for Entries {
    type Target = [Entry];

    fn deref(&self) -> &[Entry] {
        match &self.shared {
            Some(shared) => &shared[self.from..self.to],
            None => &[],
        }
    }
}

impl From<Vec<Entry>> for Entries {
    fn from(entries: Vec<Entry>) -> Entries {
        let to = entries.len();
        let shared = (to > 0).then(|| Arc::new(entries));
        Entries {
            shared,
            from: 0,
            to,
        }
    }
}

impl From<Entry> for Entries {
    fn from(entry: Entry) -> Entries {
        vec![entry].into()
    }
}

impl FromIterator<Entry> for Entries {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Entries {
        entries.into_iter().collect::<Vec<Entry>>().into()
    }
}

impl<'a> IntoIterator for &'a Entries {
    type Item = &'a Entry;
    type IntoIter = std::slice::Iter<'a, Entry>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl PartialEq for Entries {
    fn eq(&self, other: &Entries) -> bool {
        **self == **other
    }
}

impl Eq for Entries {}

impl fmt::Debug for Entries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(indexes: Range<u64>) -> Entries {
        indexes
            .map(|index| Entry {
                index,
                ..Entry::default()
            })
            .collect()
    }

    #[test]
    fn slices_of_slices_are_the_same_memory() {
        let whole = run(10..20);
        let middle = whole.slice(2..8);
        assert_eq!(middle, run(12..18));
        let inner = middle.slice(1..3);
        assert_eq!(inner, run(13..15));
        assert!(std::ptr::eq(&inner[0], &whole[3]));
        assert!(std::ptr::eq(&whole.clone()[0], &whole[0]));
    }

    #[test]
    fn what_lies_outside_is_cut_and_nothing_is_empty() {
        let whole = run(10..20);
        assert_eq!(whole.slice(8..99), run(18..20));
        assert_eq!(whole.slice(8..99).slice(0..usize::MAX), run(18..20));
        for nothing in [whole.slice(10..12), whole.slice(3..3), Vec::new().into()] {
            assert_eq!(nothing, Entries::new());
            assert!(nothing.is_empty() && nothing.shared.is_none());
        }
    }
}
