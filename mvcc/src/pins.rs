//! What open cursors read, and the keys of which something stays for them alone.
//!
//! A cursor holds a [`Pin`] and says nothing when it goes, so compaction looks who is still there. What
//! nobody else can read of a key is removed but for what some cursor reads; the key is then listed here,
//! once, and looked at again when a cursor has gone. A cursor that compaction did not overtake held nothing
//! up and costs no such look. One that stays while others come and go would have all of its keys looked at
//! for each of them; so the list is gone through only once a quarter as much may be found as it is long, and
//! all of it when no cursor is left.
//! Knows nothing of what is read. Tested below, by `tests/compaction.rs` and `tests/cursors.rs`.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use crate::names::KeyId;

/// What share of the listed keys has to be worth a look.
const SWEEP_SHARE: u64 = 4;

/// The revisions that a cursor reads, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Span {
    /// The oldest.
    pub first: i64,
    /// The newest.
    pub last: i64,
}

impl Span {
    /// One revision.
    pub fn at(revision: i64) -> Self {
        Span {
            first: revision,
            last: revision,
        }
    }
}

/// Held by a cursor for as long as it reads.
pub(crate) type Pin = Arc<Pinned>;

/// What is known of it.
#[derive(Debug)]
pub(crate) struct Pinned {
    span: Span,
    /// Versions held back for cursors when it began.
    held_before: u64,
}

/// Open cursors, and the keys that are listed for them.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    /// In the order of their beginning. Locked only so that a cursor can begin where the store is read.
    open: Mutex<Vec<Pin>>,
    /// What they read below the compact revision, as of the last look: ascending, disjoint.
    spans: Vec<Span>,
    keys: VecDeque<KeyId>,
    /// Keys yet to be looked at again.
    to_sweep: usize,
    /// So often something was held back.
    held: u64,
    /// So much of it may be worth a look now.
    freed: u64,
}

impl Pins {
    /// What a cursor that begins now has to hold.
    pub fn pin(&self, span: Span) -> Pin {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        // What was held back since then was not for a newcomer, so only the newest is shared.
        if let Some(last) = open.last().filter(|last| last.span == span) {
            return Arc::clone(last);
        }
        let pin = Arc::new(Pinned {
            span,
            held_before: self.held,
        });
        open.push(Arc::clone(&pin));
        pin
    }

    /// How many are held now.
    pub fn cursors(&self) -> usize {
        let open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.iter().map(|pin| Arc::strong_count(pin) - 1).sum()
    }

    /// Looks who has gone. Call before [`Pins::spans`] is asked.
    pub fn look(&mut self, compacted: i64) {
        let open = self.open.get_mut().unwrap_or_else(PoisonError::into_inner);
        open.retain(|pin| {
            let is_open = Arc::strong_count(pin) > 1;
            if !is_open && pin.span.first < compacted {
                self.freed += self.held - pin.held_before;
            }
            is_open
        });
        self.spans.clear();
        let overtaken = open.iter().map(|pin| pin.span);
        self.spans
            .extend(overtaken.filter(|span| span.first < compacted));
        self.spans.sort_unstable();
        self.spans.dedup_by(|next, span| {
            let is_one = next.first <= span.last;
            if is_one {
                span.last = span.last.max(next.last);
            }
            is_one
        });
        let listed = self.keys.len();
        let is_all = self.spans.is_empty() && self.to_sweep == 0;
        if is_all || self.freed > 0 && self.freed * SWEEP_SHARE >= listed as u64 {
            (self.to_sweep, self.freed) = (listed, 0);
        }
    }

    /// What open cursors read below the compact revision; give it back by [`Pins::give_back`].
    pub fn take_spans(&mut self) -> Vec<Span> {
        std::mem::take(&mut self.spans)
    }

    /// Keeps the memory.
    pub fn give_back(&mut self, spans: Vec<Span>) {
        self.spans = spans;
    }

    /// Something of a key was held back, in one of its changes; `is_new`: the key has to be listed.
    pub fn hold(&mut self, id: KeyId, is_new: bool) {
        self.held += 1;
        if is_new {
            self.keys.push_back(id);
        }
    }

    /// The next key to be looked at again. It is not listed any more.
    pub fn next(&mut self) -> Option<KeyId> {
        self.to_sweep = self.to_sweep.checked_sub(1)?;
        self.keys.pop_front()
    }

    /// The look at a key did not come to its end: it is the next one again.
    pub fn put_back(&mut self, id: KeyId) {
        self.to_sweep += 1;
        self.keys.push_front(id);
    }

    /// Something of the key is held still.
    pub fn keep(&mut self, id: KeyId) {
        self.keys.push_back(id);
    }

    /// Are there keys to be looked at?
    pub fn has_to_sweep(&self) -> bool {
        self.to_sweep > 0
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        self.keys.capacity() * size_of::<KeyId>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_open_cursors_read_is_joined_and_the_present_left_out() {
        let mut pins = Pins::default();
        let open: Vec<_> = [(5, 9), (20, 20), (7, 12), (3, 3), (30, 40)]
            .map(|(first, last)| pins.pin(Span { first, last }))
            .into();
        pins.look(30);
        let found: Vec<_> = pins.spans.iter().map(|s| (s.first, s.last)).collect();
        assert_eq!(found, [(3, 3), (5, 12), (20, 20)]);
        drop(open);
        pins.look(30);
        assert_eq!(pins.spans, []);
    }

    #[test]
    fn keys_are_looked_at_again_once_enough_may_be_found() {
        let mut pins = Pins::default();
        let stays = pins.pin(Span::at(5));
        (0..100).for_each(|id| pins.hold(id, true));
        for overtaken in 1..=3 {
            let short = pins.pin(Span::at(5 + overtaken));
            (0..9).for_each(|id| pins.hold(id, false));
            drop(short);
            pins.look(50);
            assert_eq!(pins.has_to_sweep(), overtaken == 3, "{overtaken}");
        }
        let looked_at = std::iter::from_fn(|| {
            let id = pins.next()?;
            pins.keep(id);
            Some(id)
        });
        assert_eq!(looked_at.count(), 100);
        drop(pins.pin(Span::at(60)));
        pins.look(50);
        assert!(!pins.has_to_sweep(), "it was not overtaken");
        drop(stays);
        pins.look(50);
        assert!(pins.has_to_sweep());
    }
}
