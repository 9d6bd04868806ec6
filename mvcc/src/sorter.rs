//! The order of a sorted range, found in slices.
//!
//! A range sorted by anything but the key needs everything before its first pair. Its pairs come here as
//! a cursor finds them, in key order, and what has to be done between the last of them and the answer is
//! done in bounded pieces: nothing is ever sorted that is longer than a slice.
//!
//! With a limit of up to [`BEST_MAX`] only so many pairs are held: those of a slice that beat the worst
//! are sorted in among the best. Otherwise each slice's pairs make a sorted run, runs are merged two by
//! two (each pair of the answer is moved once per doubling of runs: ten times with a thousand slices,
//! which is a million keys), and then the pairs themselves change places. Ties are in key order, for
//! either direction. The rest of the memory is 32 bytes per pair.
//! Never knows revisions, limits' meaning, or the store. Tested at the end, and through the cursor
//! against the plain range.

use std::cmp::Ordering;
use std::mem;

use bytes::Bytes;

use crate::types::{KeyValue, RangeRequest, SortOrder, SortTarget};
use crate::version::Version;

/// The longest limit for which only the best are held: they are sorted in every slice.
const BEST_MAX: usize = 1_000;
/// Most pairs that room is made for ahead.
const PAIRS_AHEAD_MAX: usize = 4 << 20;
/// Moves of a merge that take about as long as looking at a key.
const MOVES_PER_KEY: usize = 8;
/// Bytes of two values that are compared in the time of a move.
const BYTES_PER_MOVE: usize = 64;

/// What pairs are sorted by.
#[derive(Clone, Copy, Debug)]
pub(crate) struct By {
    target: SortTarget,
    descending: bool,
}

impl By {
    /// The sort of a request, if it is not by key.
    pub fn of(request: &RangeRequest<'_>) -> Option<Self> {
        (request.sort_target != SortTarget::Key).then_some(By {
            target: request.sort_target,
            descending: request.sort_order == SortOrder::Descend,
        })
    }

    /// Are values compared?
    pub fn is_by_value(self) -> bool {
        self.target == SortTarget::Value
    }

    /// A number that orders as the target does, but for values that begin alike.
    fn rank(self, version: i64, create: i64, main: i64, value: &[u8]) -> u64 {
        // Numbers of the store are not negative; those of a snapshot may be anything.
        let number = |n: i64| n as u64 ^ 1 << 63;
        let rank = match self.target {
            SortTarget::Version => number(version),
            SortTarget::Create => number(create),
            SortTarget::Mod => number(main),
            SortTarget::Value | SortTarget::Key => {
                let mut first = [0; 8];
                let len = value.len().min(first.len());
                first[..len].copy_from_slice(&value[..len]);
                u64::from_be_bytes(first)
            }
        };
        if self.descending { !rank } else { rank }
    }

    fn rank_of(self, kv: &KeyValue) -> u64 {
        self.rank(kv.version, kv.create_revision, kv.mod_revision, &kv.value)
    }

    /// Compares what ranks leave open; equal pairs keep their order.
    fn compare_values(self, a: &[u8], b: &[u8]) -> Ordering {
        match self.target {
            SortTarget::Value if self.descending => b.cmp(a),
            SortTarget::Value => a.cmp(b),
            _ => Ordering::Equal,
        }
    }
}

/// A pair's place in key order, with its rank.
#[derive(Clone, Copy, Debug)]
struct Ranked {
    rank: u64,
    at: u32,
}

/// Pairs on their way into an order.
#[derive(Debug)]
pub(crate) struct Sorter {
    by: By,
    /// Most pairs of the answer.
    limit: usize,
    strip_values: bool,
    /// The best so far in their order, or all in key order.
    pairs: Vec<KeyValue>,
    bytes: usize,
    /// Versions that there were.
    offered: usize,
    /// Runs one behind the other, and where each ends.
    order: Vec<Ranked>,
    ends: Vec<usize>,
    merge: Merge,
    /// Positions before this have their pairs.
    settled: usize,
    /// The position that is next: that one, or one further on the way round from it.
    next: usize,
}

/// The runs of the next pass: merged so far from the runs of this one.
#[derive(Debug, Default)]
struct Merge {
    merged: Vec<Ranked>,
    ends: Vec<usize>,
    /// The run of this pass that is merged with the one behind it.
    run: usize,
    /// How far in both.
    left: usize,
    right: usize,
    /// All of the first come before all of the second.
    is_ordered: bool,
}

impl Sorter {
    /// For a request whose values are to be left out in the end, or not.
    pub fn new(by: By, limit: usize, strip_values: bool) -> Self {
        Sorter {
            by,
            limit,
            strip_values,
            pairs: Vec::new(),
            bytes: 0,
            offered: 0,
            order: Vec::new(),
            ends: Vec::new(),
            merge: Merge::default(),
            settled: 0,
            next: 0,
        }
    }

    /// Takes note of the next version; can it be part of the answer?
    pub fn wants(&mut self, version: &Version<'_>) -> bool {
        self.offered += 1;
        if !self.holds_best() || self.pairs.len() < self.limit {
            return true;
        }
        // It comes later in key order than all that are held, so a tie is not enough.
        self.pairs.last().is_some_and(|worst| {
            let Version {
                version: count,
                create,
                main,
                value,
                ..
            } = *version;
            let rank = self.by.rank(count, create, main, value);
            let order = rank.cmp(&self.by.rank_of(worst));
            order
                .then_with(|| self.by.compare_values(value, &worst.value))
                .is_lt()
        })
    }

    /// Were there more than the limit allows?
    pub fn cuts_off(&self) -> bool {
        self.offered > self.limit
    }

    /// Makes room for so many pairs more: to grow into it would copy them all in some slice.
    pub fn reserve(&mut self, pairs: usize) {
        if !self.holds_best() {
            let pairs = pairs.min(PAIRS_AHEAD_MAX);
            self.pairs.reserve_exact(pairs);
            self.order.reserve_exact(pairs);
        }
    }

    /// Takes in the pairs of a slice, which follow all before them in key order.
    pub fn push(&mut self, slice: &mut Vec<KeyValue>) {
        self.bytes += slice.iter().map(bytes_of).sum::<usize>();
        let first = self.pairs.len();
        self.pairs.append(slice);
        let by = self.by;
        if self.holds_best() {
            self.pairs.sort_by(|a, b| {
                let order = by.rank_of(a).cmp(&by.rank_of(b));
                order.then_with(|| by.compare_values(&a.value, &b.value))
            });
            let dropped = self.pairs.drain(self.limit.min(self.pairs.len())..);
            self.bytes -= dropped.map(|kv| bytes_of(&kv)).sum::<usize>();
            return;
        }
        let new = (first..).zip(&self.pairs[first..]);
        self.order.extend(new.map(|(at, kv)| Ranked {
            rank: by.rank_of(kv),
            at: at as u32,
        }));
        let pairs = &self.pairs;
        self.order[first..].sort_by(|a, b| compare(by, pairs, a, b).0);
        if self.order.len() > first {
            self.ends.push(self.order.len());
        }
    }

    /// The pairs held: nobody wants them sorted any more.
    pub fn into_pairs(self) -> Vec<KeyValue> {
        self.pairs
    }

    /// Bytes of the pairs held.
    pub fn held_bytes(&self) -> usize {
        self.bytes
    }

    /// Goes on with the order, for about as long as `keys` keys take to be looked at. Returns the pairs once
    /// they are in it.
    pub fn step(&mut self, keys: usize) -> Option<Vec<KeyValue>> {
        let mut budget = keys.max(1) * MOVES_PER_KEY;
        if !self.holds_best() {
            if self.ends.len() > 1 {
                self.merge_on(&mut budget);
                if self.ends.len() <= 1 {
                    // Not with the pairs: for a million keys it is 16 MB.
                    self.merge = Merge::default();
                }
            }
            if self.ends.len() > 1 || !self.settle(&mut budget) {
                return None;
            }
        } else if self.strip_values {
            self.pairs.iter_mut().for_each(|kv| kv.value = Bytes::new());
        }
        self.bytes = 0;
        Some(mem::take(&mut self.pairs))
    }

    fn holds_best(&self) -> bool {
        self.limit <= BEST_MAX
    }

    /// Merges runs while the budget lasts.
    fn merge_on(&mut self, budget: &mut usize) {
        if self.merge.merged.capacity() < self.order.len() {
            self.merge.merged.reserve_exact(self.order.len());
        }
        while self.ends.len() > 1 && *budget > 0 {
            let run = self.merge.run;
            let Some(&middle) = self.ends.get(run) else {
                self.end_pass();
                continue;
            };
            let begin = self.merge.merged.len() - self.merge.left - self.merge.right;
            // The last of an odd number of runs is only copied.
            let end = self.ends.get(run + 1).copied().unwrap_or(middle);
            self.merge.merge(
                self.by,
                &self.pairs,
                [&self.order[begin..middle], &self.order[middle..end]],
                budget,
            );
            if self.merge.merged.len() == end {
                self.merge.ends.push(end);
                self.merge.run += 2;
                (self.merge.left, self.merge.right) = (0, 0);
            }
        }
    }

    fn end_pass(&mut self) {
        mem::swap(&mut self.order, &mut self.merge.merged);
        mem::swap(&mut self.ends, &mut self.merge.ends);
        self.merge.merged.clear();
        self.merge.ends.clear();
        self.merge.run = 0;
    }

    /// Brings pairs to their positions while the budget lasts; returns whether all are. Each swap gives one
    /// position its pair, and goes on where that was taken from, until the way leads back.
    fn settle(&mut self, budget: &mut usize) -> bool {
        while let Some(start) = self.order.get(self.settled).map(|_| self.settled) {
            if *budget == 0 {
                return false;
            }
            let position = self.next;
            let from = mem::replace(&mut self.order[position].at, position as u32) as usize;
            if from == start {
                self.settled += 1;
                self.next = self.settled;
                *budget -= 1;
            } else {
                self.pairs.swap(position, from);
                self.next = from;
                // Two pairs somewhere in memory: as long as looking at a key.
                *budget = budget.saturating_sub(MOVES_PER_KEY);
            }
            if self.strip_values {
                self.pairs[position].value = Bytes::new();
            }
        }
        // What the limit cuts off is let go in pieces, too.
        let excess = self.pairs.len().saturating_sub(self.limit);
        let dropped = excess.min(*budget);
        self.pairs.truncate(self.pairs.len() - dropped);
        dropped == excess
    }
}

impl Merge {
    /// Goes on merging two runs while the budget lasts.
    fn merge(
        &mut self,
        by: By,
        pairs: &[KeyValue],
        [left, right]: [&[Ranked]; 2],
        budget: &mut usize,
    ) {
        if (self.left, self.right) == (0, 0)
            && let (Some(last), Some(first)) = (left.last(), right.first())
        {
            self.is_ordered = compare(by, pairs, last, first).0.is_le();
        }
        while *budget > 0 {
            let (a, b) = (left.get(self.left), right.get(self.right));
            let takes_left = match (a, b) {
                (None, None) => return,
                (Some(a), Some(b)) if !self.is_ordered => {
                    let (order, cost) = compare(by, pairs, a, b);
                    *budget = budget.saturating_sub(cost);
                    order.is_le()
                }
                (a, _) => a.is_some(),
            };
            *budget = budget.saturating_sub(1);
            let taken = if takes_left {
                self.left += 1;
                a
            } else {
                self.right += 1;
                b
            };
            self.merged.extend(taken);
        }
    }
}

/// Which of two pairs comes first, the earlier one in key order if nothing else tells; and what it costs to
/// find out, in moves.
fn compare(by: By, pairs: &[KeyValue], a: &Ranked, b: &Ranked) -> (Ordering, usize) {
    let order = a.rank.cmp(&b.rank);
    if order.is_ne() || !by.is_by_value() {
        return (order.then(a.at.cmp(&b.at)), 0);
    }
    let (x, y) = (&pairs[a.at as usize].value, &pairs[b.at as usize].value);
    let order = by.compare_values(x, y).then(a.at.cmp(&b.at));
    let bytes = x.len().min(y.len());
    (order, MOVES_PER_KEY + bytes / BYTES_PER_MOVE)
}

/// What a pair takes while it is held.
pub(crate) fn bytes_of(kv: &KeyValue) -> usize {
    kv.key.len() + kv.value.len() + mem::size_of::<KeyValue>()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    /// Against a stable sort; and the work of a step keeps to its budget.
    #[test]
    fn pairs_of_any_number_are_ordered_in_small_steps() {
        let mut dice = Dice::from_env("sorter");
        let targets = [
            SortTarget::Version,
            SortTarget::Create,
            SortTarget::Mod,
            SortTarget::Value,
        ];
        for round in 0..400 {
            let by = By {
                target: targets[round % 4],
                descending: dice.below(2) == 0,
            };
            let limits = [1, 7, BEST_MAX, BEST_MAX + 1, usize::MAX];
            let limit = limits[dice.below(5) as usize];
            let strip = dice.below(4) == 0;
            let (count, kinds) = (dice.below(3_000), 1 + dice.below(3_000));
            let all: Vec<_> = (0..count)
                .map(|n| some_pair(&mut dice, n, kinds, round as u64))
                .collect();
            let mut sorter = Sorter::new(by, limit, strip);
            let mut rest = all.iter();
            while !rest.as_slice().is_empty() {
                let slice = 1 + dice.below(200) as usize;
                let wanted = rest.by_ref().take(slice);
                let mut slice: Vec<_> = wanted
                    .filter(|kv| sorter.wants(&version_of(kv)))
                    .cloned()
                    .collect();
                sorter.push(&mut slice);
            }
            let mut expected = all;
            expected.sort_by(|a, b| {
                let order = match by.target {
                    SortTarget::Version => a.version.cmp(&b.version),
                    SortTarget::Create => a.create_revision.cmp(&b.create_revision),
                    SortTarget::Mod => a.mod_revision.cmp(&b.mod_revision),
                    _ => a.value.cmp(&b.value),
                };
                if by.descending {
                    order.reverse()
                } else {
                    order
                }
            });
            expected.truncate(limit);
            if strip {
                expected.iter_mut().for_each(|kv| kv.value = Bytes::new());
            }
            let keys = 1 + dice.below(20) as usize;
            let mut steps = 1;
            let found = loop {
                match sorter.step(keys) {
                    Some(found) => break found,
                    None => steps += 1,
                }
            };
            assert!(found == expected, "{by:?}, limit {limit}");
            assert_eq!(sorter.cuts_off(), count as usize > limit);
            assert_eq!(sorter.held_bytes(), 0);
            if limit > BEST_MAX {
                let least = count as usize / (keys * MOVES_PER_KEY);
                assert!(steps >= least, "{steps} steps of {keys} for {count}");
            }
        }
    }

    /// The `n`th pair in key order, of one of so many kinds, some values beginning alike.
    fn some_pair(dice: &mut Dice, n: u64, kinds: u64, round: u64) -> KeyValue {
        let kind = dice.below(kinds);
        let text = if round % 8 < 4 {
            format!("begins alike {kind}")
        } else {
            format!("{kind}")
        };
        KeyValue {
            key: n.to_be_bytes().to_vec().into(),
            value: text.into(),
            create_revision: kind as i64 - 3,
            mod_revision: dice.below(kinds) as i64,
            version: kind as i64,
            lease: 0,
        }
    }

    fn version_of(kv: &KeyValue) -> Version<'_> {
        Version {
            main: kv.mod_revision,
            create: kv.create_revision,
            version: kv.version,
            value: &kv.value,
            ..Version::default()
        }
    }
}
