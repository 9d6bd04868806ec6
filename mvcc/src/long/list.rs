//! All leases in the order in which they run out, listed in slices.
//!
//! Gathered in the order of their ids, a slice at a time sorted, and the sorted pieces merged. A lease that
//! is there from the beginning to the end is listed once, by the deadline that it had when its slice came;
//! one that comes or goes meanwhile may be listed or not. Tested by `tests/lease.rs`.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::ops::Bound;

use crate::store::Store;

/// The most leases that are listed in one go.
const SHORT_MAX: usize = 1_000;
/// Leases that are gathered and sorted together.
const PIECE: usize = 1_000;
/// Leases that are merged together.
const MERGED: usize = 500;

/// Leases that are being listed.
#[derive(Debug)]
pub struct LongLeases {
    /// Where gathering goes on; none when all are there.
    from: Option<Bound<i64>>,
    /// Deadlines and ids, each piece sorted.
    pieces: Vec<std::vec::IntoIter<(u64, i64)>>,
    /// The first of each piece that is not merged.
    firsts: BinaryHeap<Reverse<((u64, i64), usize)>>,
    ids: Vec<i64>,
}

impl LongLeases {
    /// Bytes that it holds.
    pub fn held_bytes(&self) -> usize {
        let left = self.pieces.iter().map(|piece| piece.len() * 16);
        left.sum::<usize>() + self.ids.capacity() * 8
    }
}

impl Store {
    /// Should leases be listed in slices, as [`Store::leases`] might take longer than one?
    pub fn leases_are_many(&self) -> bool {
        self.leases.len() > SHORT_MAX
    }

    /// Begins to list the leases.
    pub fn leases_begin(&self) -> LongLeases {
        LongLeases {
            from: Some(Bound::Unbounded),
            pieces: Vec::new(),
            firsts: BinaryHeap::new(),
            ids: Vec::new(),
        }
    }

    /// Goes on for about so many nanoseconds' work; the ids once it has all.
    pub fn leases_next(&self, list: &mut LongLeases, nanos: u64) -> Option<Vec<i64>> {
        let until = self.meter.nanos().saturating_add(nanos);
        while let Some(from) = list.from {
            let mut piece = self.leases.deadlines_from(from, PIECE);
            self.meter.look(piece.len() / 2 + 1);
            list.from = match piece.last() {
                Some(&(_, last)) if piece.len() == PIECE => Some(Bound::Excluded(last)),
                _ => None,
            };
            piece.sort_unstable();
            let mut piece = piece.into_iter();
            let at = list.pieces.len();
            list.firsts
                .extend(piece.next().map(|first| Reverse((first, at))));
            list.pieces.push(piece);
            if self.is_late(until) {
                return None;
            }
        }
        loop {
            for _ in 0..MERGED {
                let Some(mut first) = list.firsts.peek_mut() else {
                    return Some(std::mem::take(&mut list.ids));
                };
                let Reverse(((_, id), at)) = *first;
                list.ids.push(id);
                match list.pieces[at].next() {
                    Some(next) => *first = Reverse((next, at)),
                    None => drop(std::collections::binary_heap::PeekMut::pop(first)),
                }
            }
            self.meter.look(MERGED / 2);
            if self.is_late(until) {
                return None;
            }
        }
    }
}
