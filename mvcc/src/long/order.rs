//! Keys brought into their order in slices: runs are sorted, then merged two by two.
//!
//! Knows keys by number. Tested at the end.

use std::mem;

use crate::keys::Keys;
use crate::names::KeyId;

/// Keys of a run that is sorted at a time, in about 2,000 comparisons.
const RUN: usize = 256;
/// Comparisons that cost a look at a key: its bytes are most likely in the cache by then.
const COMPARES_PER_LOOK: usize = 2;

/// Keys on their way into an order.
#[derive(Debug)]
pub(super) struct KeyOrder {
    ids: Vec<KeyId>,
    merged: Vec<KeyId>,
    /// Length of the runs that are in order; less than [`RUN`]: those are being made.
    run: usize,
    /// The run or pair of runs to go on with.
    begin: usize,
    left: usize,
    right: usize,
}

impl KeyOrder {
    pub fn new(ids: Vec<KeyId>) -> Self {
        KeyOrder {
            merged: Vec::with_capacity(ids.len()),
            ids,
            run: 1,
            begin: 0,
            left: 0,
            right: 0,
        }
    }

    /// Goes on for about so many looks at keys; the keys once they are in order, and what it took.
    pub fn step(&mut self, keys: &Keys, looks_max: usize) -> (Option<Vec<KeyId>>, usize) {
        let budget = looks_max.max(1).saturating_mul(COMPARES_PER_LOOK);
        let mut compares = 0;
        while compares < budget {
            if self.run < RUN {
                let end = self.ids.len().min(self.begin + RUN);
                let run = &mut self.ids[self.begin..end];
                run.sort_unstable_by(|&a, &b| keys.key(a).cmp(keys.key(b)));
                compares += RUN * 8;
                self.begin = end;
                if end == self.ids.len() {
                    (self.run, self.begin) = (RUN, 0);
                }
            } else if self.run >= self.ids.len() {
                let looks = compares / COMPARES_PER_LOOK;
                return (Some(mem::take(&mut self.ids)), looks);
            } else {
                compares += self.merge(keys, budget - compares);
            }
        }
        (None, compares / COMPARES_PER_LOOK)
    }

    /// Goes on with a pair of runs; how many steps it took, at least one.
    fn merge(&mut self, keys: &Keys, budget: usize) -> usize {
        let len = self.ids.len();
        let middle = len.min(self.begin + self.run);
        let end = len.min(middle + self.run);
        let (left, right) = (&self.ids[self.begin..middle], &self.ids[middle..end]);
        let mut steps = 0;
        while steps < budget {
            let (a, b) = (left.get(self.left), right.get(self.right));
            let takes_left = match (a, b) {
                (None, None) => break,
                (Some(&a), Some(&b)) => keys.key(a) <= keys.key(b),
                (a, _) => a.is_some(),
            };
            let taken = if takes_left {
                self.left += 1;
                a
            } else {
                self.right += 1;
                b
            };
            self.merged.extend(taken);
            steps += 1;
        }
        if self.merged.len() == end {
            (self.begin, self.left, self.right) = (end, 0, 0);
            if end == len {
                mem::swap(&mut self.ids, &mut self.merged);
                self.merged.clear();
                (self.run, self.begin) = (self.run * 2, 0);
            }
        }
        steps.max(1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;
    use crate::version::Version;

    #[test]
    fn any_number_of_keys_comes_into_order_in_small_steps() {
        let mut dice = Dice::from_env("key order");
        for count in [0, 1, 2, 255, 256, 257, 1_000, 5_000] {
            let mut keys = Keys::default();
            let mut texts: Vec<_> = (0..count)
                .map(|n| format!("{}-{n}", dice.below(50)))
                .collect();
            let first = Version::default();
            let ids = texts.iter().map(|key| keys.insert(key.as_bytes(), &first));
            let mut order = KeyOrder::new(ids.map(|id| id.expect("room")).collect());
            texts.sort();
            let looks = 1 + dice.below(300) as usize;
            let mut steps = 0;
            let sorted = loop {
                let (done, took) = order.step(&keys, looks);
                assert!(took <= looks + RUN * 8, "{took} of {looks}");
                steps += 1;
                if let Some(ids) = done {
                    break ids;
                }
            };
            assert!(steps * (looks + RUN * 8) >= count, "{steps}");
            let found = sorted.iter().map(|&id| keys.key(id));
            assert!(found.eq(texts.iter().map(|text| text.as_bytes())));
        }
    }
}
