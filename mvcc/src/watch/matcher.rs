//! Which watchers want to know about a key.
//!
//! Watchers of one key are found by that key; watchers of intervals through an interval tree (a
//! treap by start with the largest end per subtree), so that a change costs what matches and a
//! logarithm, not the number of watchers. Both are in an order in which a walk can go on after a pause,
//! whoever comes or goes meanwhile. Priorities are a fixed mix of the watcher's number: the shape is the
//! same on every run. Tested against a linear list.

use std::collections::{BTreeMap, BTreeSet};
use std::mem;
use std::ops::Bound;

use bytes::Bytes;

use crate::types::{OwnedRange, WatcherId};

/// The watchers in sync, by what they watch.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    /// Sets: of very many watchers of one key, each that leaves must not look at the others.
    points: BTreeMap<Bytes, BTreeSet<WatcherId>>,
    intervals: Tree,
    interval_count: usize,
    len: usize,
}

impl Matcher {
    /// Adds a watcher that is not there.
    pub fn insert(&mut self, range: &OwnedRange, id: WatcherId) {
        self.len += 1;
        if range.as_range().is_one() {
            self.points.entry(range.key.clone()).or_default().insert(id);
        } else {
            self.interval_count += 1;
            insert(&mut self.intervals, Interval::new(range, id));
        }
    }

    /// Removes a watcher, given what it watches.
    pub fn remove(&mut self, range: &OwnedRange, id: WatcherId) {
        self.len -= 1;
        if !range.as_range().is_one() {
            self.interval_count -= 1;
            remove(&mut self.intervals, &Interval::new(range, id));
        } else if let Some(ids) = self.points.get_mut(&range.key) {
            ids.remove(&id);
            if ids.is_empty() {
                self.points.remove(&range.key);
            }
        }
    }

    /// Appends the watchers of `key` to `out`. Returns how many intervals were looked at.
    pub fn matches(&self, key: &[u8], out: &mut Vec<WatcherId>) -> usize {
        if let Some(ids) = self.points.get(key) {
            out.extend(ids);
        }
        stab(&self.intervals, key, out)
    }

    /// How many watchers `key` has, or a little more; more than `most` if those it has are. And how many
    /// were looked at for that.
    pub fn count(&self, key: &[u8], most: usize) -> (usize, usize) {
        let points = self.points.get(key).map_or(0, BTreeSet::len);
        if points > most || points + self.interval_count <= most {
            return (points + self.interval_count, 1);
        }
        let (mut place, mut out) = (Place::Intervals(None), Vec::new());
        let looked_at = self.matches_from(key, &mut place, most + 1 - points, &mut out);
        (points + looked_at, 1 + looked_at)
    }

    /// Goes on with the watchers of `key` from `place`: appends some of them to `out`, and moves `place`
    /// on. Returns how many were looked at, which is not many more than `most`. Each watcher that is there
    /// all the while is appended once.
    pub fn matches_from(
        &self,
        key: &[u8],
        place: &mut Place,
        most: usize,
        out: &mut Vec<WatcherId>,
    ) -> usize {
        let before = out.len();
        if let Place::Points(from) = *place {
            if let Some(ids) = self.points.get(key) {
                out.extend(ids.range((from, Bound::Unbounded)).take(most));
            }
            let found = out.len() - before;
            *place = match out.last() {
                Some(&last) if found == most => Place::Points(Bound::Excluded(last)),
                _ => Place::Intervals(None),
            };
        }
        let mut looked_at = out.len() - before;
        if looked_at < most
            && let Place::Intervals(after) = place
        {
            let after = after.take();
            let mut walk = Walk {
                key,
                after: after.as_ref(),
                most,
                looked_at,
                last: None,
            };
            let is_through = walk.on(&self.intervals, out);
            looked_at = walk.looked_at;
            *place = match walk.last {
                Some(last) if !is_through => Place::Intervals(Some(last.clone())),
                _ => Place::End,
            };
        }
        looked_at
    }

    pub fn len(&self) -> usize {
        self.len
    }

    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// How far a walk through the watchers of a key has come.
#[derive(Debug)]
pub(super) enum Place {
    /// Among those of the key alone.
    Points(Bound<WatcherId>),
    /// Among those of intervals, after this one.
    Intervals(Option<Interval>),
    /// Through.
    End,
}

impl Default for Place {
    fn default() -> Self {
        Place::Points(Bound::Unbounded)
    }
}

impl Place {
    pub fn is_start(&self) -> bool {
        matches!(self, Place::Points(Bound::Unbounded))
    }
}

/// `end` `None` is no bound.
#[derive(Clone, Debug)]
pub(super) struct Interval {
    start: Bytes,
    end: Option<Bytes>,
    id: WatcherId,
}

impl Interval {
    fn new(range: &OwnedRange, id: WatcherId) -> Self {
        let end = range.as_range().end_bound().map(|_| range.end.clone());
        Interval {
            start: range.key.clone(),
            end,
            id,
        }
    }

    fn before(&self, other: &Interval) -> bool {
        (&self.start, self.id) < (&other.start, other.id)
    }
}

type Tree = Option<Box<TreeNode>>;

#[derive(Debug)]
struct TreeNode {
    interval: Interval,
    priority: u64,
    /// Largest end in this subtree.
    end_max: Option<Bytes>,
    left: Tree,
    right: Tree,
}

fn insert(tree: &mut Tree, interval: Interval) {
    let (left, right) = split(tree.take(), &interval);
    let end_max = interval.end.clone();
    let priority = mix(interval.id.0);
    let node = TreeNode {
        interval,
        priority,
        end_max,
        left: None,
        right: None,
    };
    *tree = merge(merge(left, Some(Box::new(node))), right);
}

fn remove(tree: &mut Tree, interval: &Interval) {
    let Some(node) = tree else { return };
    if interval.before(&node.interval) {
        remove(&mut node.left, interval);
    } else if node.interval.before(interval) {
        remove(&mut node.right, interval);
    } else {
        *tree = merge(node.left.take(), node.right.take());
        return;
    }
    node.update();
}

impl TreeNode {
    fn update(&mut self) {
        let ends = [&self.left, &self.right]
            .into_iter()
            .flatten()
            .map(|child| &child.end_max);
        self.end_max = ends.fold(self.interval.end.clone(), |max, end| match (max, end) {
            (Some(max), Some(end)) => Some(max.max(end.clone())),
            _ => None,
        });
    }
}

/// Splits into what comes before `at` and the rest.
fn split(tree: Tree, at: &Interval) -> (Tree, Tree) {
    let Some(mut node) = tree else {
        return (None, None);
    };
    if node.interval.before(at) {
        let (left, right) = split(node.right.take(), at);
        node.right = left;
        node.update();
        (Some(node), right)
    } else {
        let (left, right) = split(node.left.take(), at);
        node.left = right;
        node.update();
        (left, Some(node))
    }
}

fn merge(left: Tree, right: Tree) -> Tree {
    match (left, right) {
        (Some(mut left), Some(mut right)) => {
            if left.priority >= right.priority {
                left.right = merge(left.right.take(), Some(right));
                left.update();
                Some(left)
            } else {
                right.left = merge(Some(left), right.left.take());
                right.update();
                Some(right)
            }
        }
        (left, right) => left.or(right),
    }
}

/// Returns how many intervals were looked at.
fn stab(tree: &Tree, key: &[u8], out: &mut Vec<WatcherId>) -> usize {
    let Some(node) = tree else { return 0 };
    if node.end_max.as_deref().is_some_and(|end| end <= key) {
        return 1;
    }
    let mut looked_at = 1 + stab(&node.left, key, out);
    if &node.interval.start[..] <= key {
        if node.interval.end.as_deref().is_none_or(|end| key < end) {
            out.push(node.interval.id);
        }
        looked_at += stab(&node.right, key, out);
    }
    looked_at
}

/// A walk through the intervals in their order, from one of them on.
struct Walk<'a> {
    key: &'a [u8],
    after: Option<&'a Interval>,
    /// It pauses once it has looked at so many, and come by one.
    most: usize,
    looked_at: usize,
    /// The one that it came by last.
    last: Option<&'a Interval>,
}

impl<'a> Walk<'a> {
    /// Returns whether it came to the end.
    fn on(&mut self, tree: &'a Tree, out: &mut Vec<WatcherId>) -> bool {
        let Some(node) = tree else { return true };
        let interval = &node.interval;
        if node.end_max.as_deref().is_some_and(|end| end <= self.key) {
            self.looked_at += 1;
            return true;
        }
        if self.after.is_none_or(|after| after.before(interval)) {
            if !self.on(&node.left, out) || self.looked_at >= self.most && self.last.is_some() {
                return false;
            }
            self.looked_at += 1;
            self.last = Some(interval);
            let is_open = interval.end.as_deref().is_none_or(|end| self.key < end);
            if interval.start[..] <= *self.key && is_open {
                out.push(interval.id);
            }
        }
        interval.start[..] > *self.key || self.on(&node.right, out)
    }
}

/// SplitMix64's finalizer.
fn mix(id: u64) -> u64 {
    let mut z = id.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bytes on the heap per watcher, about.
pub(crate) const WATCHER_BYTES: usize = mem::size_of::<TreeNode>();

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Dice;

    fn some_range(dice: &mut Dice) -> OwnedRange {
        let word = |dice: &mut Dice| {
            let len = 1 + dice.below(3);
            Bytes::from(
                (0..len)
                    .map(|_| b'a' + dice.below(4) as u8)
                    .collect::<Vec<_>>(),
            )
        };
        let end = match dice.below(4) {
            0 => Bytes::new(),
            1 => Bytes::from_static(b"\0"),
            _ => word(dice),
        };
        OwnedRange {
            key: word(dice),
            end,
        }
    }

    #[test]
    fn behaves_as_a_list() {
        let mut dice = Dice::from_env("matcher");
        let mut matcher = Matcher::default();
        let mut naive: Vec<(OwnedRange, WatcherId)> = Vec::new();
        for step in 0..4_000 {
            if dice.below(5) < 2 && !naive.is_empty() {
                let (range, id) = naive.swap_remove(dice.below(naive.len() as u64) as usize);
                matcher.remove(&range, id);
            } else if step < 3_000 {
                let range = some_range(&mut dice);
                matcher.insert(&range, WatcherId(step));
                naive.push((range, WatcherId(step)));
            }
            let key = some_range(&mut dice).key;
            let mut found = Vec::new();
            matcher.matches(&key, &mut found);
            found.sort();
            // With pauses, during which others go and come again.
            let (mut slowly, mut place) = (Vec::new(), Place::default());
            while !matches!(place, Place::End) {
                let most = 1 + dice.below(4) as usize;
                let before = slowly.len();
                let looked_at = matcher.matches_from(&key, &mut place, most, &mut slowly);
                assert!(looked_at <= most + 64 && slowly.len() - before <= most);
                if !naive.is_empty() {
                    let (range, id) = &naive[dice.below(naive.len() as u64) as usize];
                    matcher.remove(range, *id);
                    matcher.insert(range, *id);
                }
            }
            slowly.sort();
            assert_eq!(slowly, found);
            for most in [0, 1, found.len(), 10_000] {
                let (count, _) = matcher.count(&key, most);
                assert!(count >= found.len() || count > most, "{count} with {most}");
            }
            let mut expected: Vec<_> = naive
                .iter()
                .filter(|(range, _)| range.as_range().contains(&key))
                .map(|&(_, id)| id)
                .collect();
            expected.sort();
            assert_eq!(found, expected, "key {key:?}");
            assert_eq!(matcher.is_empty(), naive.is_empty());
        }
    }

    /// Each watcher that left, or fell behind, looked at all others of its key: of 50,000 that was a second
    /// in one turn. Of these it would be hours: there is no clock here, the test would not end.
    #[test]
    fn regression_very_many_watchers_of_one_key_leave_at_once() {
        const MANY: u64 = 3_000_000;
        let range = OwnedRange {
            key: Bytes::from_static(b"key"),
            end: Bytes::new(),
        };
        let mut matcher = Matcher::default();
        for n in 0..MANY {
            matcher.insert(&range, WatcherId(n));
        }
        for n in (0..MANY).rev() {
            matcher.remove(&range, WatcherId(n));
        }
        assert!(matcher.is_empty());
    }

    /// What one event costs follows from the watchers that want it, and from the logarithm of all.
    #[test]
    fn a_key_is_matched_without_looking_at_all_watchers() {
        let prefix = |n: u64| Bytes::from(format!("prefix/{n:05}/"));
        let mut matcher = Matcher::default();
        for n in 0..10_000 {
            let end = Bytes::from(crate::prefix_end(&prefix(n)));
            let key = prefix(n);
            matcher.insert(&OwnedRange { key, end }, WatcherId(n));
        }
        let everything = OwnedRange {
            key: Bytes::from_static(b"\0"),
            end: Bytes::from_static(b"\0"),
        };
        matcher.insert(&everything, WatcherId(10_000));
        for n in (0..10_000).step_by(97) {
            let mut found = Vec::new();
            let key = [&prefix(n)[..], b"x"].concat();
            let looked_at = matcher.matches(&key, &mut found);
            assert_eq!(found.len(), 2);
            // A treap of 10,000 is some 30 deep; both sides of a way are looked at.
            assert!(looked_at <= 200, "{looked_at} looked at");
        }
    }
}
