//! Heads: beside each of a node's sorted keys, 8 of its bytes, by which a search finds its way.
//!
//! Which 8 is each node's choice: the places where its keys first differ from their neighbours. Bytes
//! taken from such places order as the keys do (this is the partial key of a height-optimised trie),
//! so keys that share long prefixes, or long middles, as paths do, are told apart without being read.
//! A key that is not among a node's own may be misjudged by them, so what is found with heads is a
//! guess: whoever uses it confirms it by whole keys.
//!
//! Invariant: heads never decrease; a head is what its key has at the places, zero where the key is
//! too short. Knows no tree. Tested here and by the index's tests, which check it.

use std::ops::Range;

/// Bytes of a head.
const PLACES: usize = 8;
/// After choosing places did not help, so many inserts pass before it is tried again.
const RETRY_INSERTS: u16 = 8;
/// Most places before all others that are chosen without need.
const BEFORE_MAX: usize = 2;

/// The heads of up to `N` sorted keys.
#[derive(Debug)]
pub(super) struct Heads<const N: usize> {
    /// Ascending.
    places: [u16; PLACES],
    len: u16,
    /// The length from which choosing places is worth trying.
    retry_len: u16,
    heads: [u64; N],
}

impl<const N: usize> Heads<N> {
    pub(super) fn new() -> Self {
        Heads {
            places: std::array::from_fn(|at| at as u16),
            len: 0,
            retry_len: 0,
            heads: [0; N],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len as usize
    }

    /// Where the keys are that have the head of `key`: after those before it, and before those after
    /// it, if it is one of these keys or like them.
    pub(super) fn same(&self, key: &[u8]) -> Range<usize> {
        let head = head(&self.places, key);
        let heads = &self.heads[..self.len()];
        let first = heads.partition_point(|&other| other < head);
        let same = heads[first..].iter().take_while(|&&other| other == head);
        first..first + same.count()
    }

    /// Loads every cache line that a search may read. The result only keeps the loads.
    pub(super) fn touch(&self) -> u64 {
        let heads = self.heads.iter().step_by(8).fold(0, |sum, head| sum ^ head);
        heads ^ u64::from(self.len)
    }

    /// Takes in a key at its position. Returns whether to [`Heads::choose`]: its head is out of order,
    /// or not its own.
    pub(super) fn insert(&mut self, at: usize, key: &[u8]) -> bool {
        let len = self.len();
        let head = head(&self.places, key);
        let before = at.checked_sub(1).map(|before| self.heads[before]);
        let after = (at < len).then(|| self.heads[at]);
        self.heads.copy_within(at..len, at + 1);
        self.heads[at] = head;
        self.len += 1;
        let ordered = before.is_none_or(|b| b <= head) && after.is_none_or(|a| head <= a);
        let tied = before == Some(head) || after == Some(head);
        !ordered || tied && self.len >= self.retry_len
    }

    pub(super) fn remove(&mut self, at: usize) {
        let len = self.len();
        self.heads.copy_within(at + 1..len, at);
        self.len -= 1;
        self.retry_len = 0;
    }

    /// Gives up those from `at` on, which keep their heads.
    pub(super) fn split_off(&mut self, at: usize) -> Self {
        let mut right = Heads::new();
        right.places = self.places;
        right.len = self.len - at as u16;
        right.heads[..right.len as usize].copy_from_slice(&self.heads[at..self.len()]);
        self.len = at as u16;
        self.retry_len = 0;
        right
    }

    /// Chooses the places anew for these keys: where neighbours first differ, also `beyond` the first and
    /// the last, the foremost if there are more than fit; if there are fewer then the `telling` ones and
    /// those around all of them, where their like will differ next.
    pub(super) fn choose<'a>(
        &mut self,
        len: usize,
        key: impl Fn(usize) -> &'a [u8],
        beyond: impl Iterator<Item = usize>,
        telling: impl Iterator<Item = usize>,
    ) {
        let (mut chosen, mut more) = (Chosen::default(), Chosen::default());
        beyond.for_each(|place| chosen.add(place));
        (1..len).for_each(|at| chosen.add(common(key(at - 1), key(at))));
        if chosen.len < PLACES {
            telling.for_each(|place| more.add(place));
            chosen.fill(&more.places[..more.len]);
        }
        self.places = chosen.places;
        self.len = len as u16;
        for at in 0..len {
            self.heads[at] = head(&self.places, key(at));
        }
        let tied = self.heads[..len].windows(2).any(|pair| pair[0] == pair[1]);
        self.retry_len = if tied { self.len + RETRY_INSERTS } else { 0 };
    }

    /// Checks the invariants of this file.
    #[cfg(test)]
    pub(super) fn verify<'a>(&self, len: usize, key: impl Fn(usize) -> &'a [u8]) {
        assert_eq!(self.len(), len);
        assert!(self.heads[..len].is_sorted());
        assert!(self.places.is_sorted_by(|a, b| a < b));
        (0..len).for_each(|at| assert_eq!(self.heads[at], head(&self.places, key(at))));
    }
}

/// A set of the smallest places.
#[derive(Default)]
struct Chosen {
    places: [u16; PLACES],
    len: usize,
}

impl Chosen {
    fn add(&mut self, place: usize) {
        // What differs only behind that is compared in full.
        let place = place.min(usize::from(u16::MAX) - PLACES) as u16;
        let at = self.places[..self.len].partition_point(|&other| other < place);
        if at == PLACES || at < self.len && self.places[at] == place {
            return;
        }
        let kept = self.len.min(PLACES - 1);
        self.places.copy_within(at..kept, at + 1);
        self.places[at] = place;
        self.len = kept + 1;
    }

    /// Adds further places until there are enough. No place may be left out that is before one added.
    fn fill(&mut self, telling: &[u16]) {
        for &place in telling {
            if self.len < PLACES {
                self.add(usize::from(place));
            }
        }
        if self.len == 0 {
            self.add(0);
        }
        // Numbers that were counted up differ in the place before next.
        for _ in 0..BEFORE_MAX {
            if self.len < PLACES && self.places[0] > 0 {
                self.add(usize::from(self.places[0]) - 1);
            }
        }
        while self.len < PLACES {
            // The place after each run of places, beginning with the rearmost.
            for at in (0..self.len).rev() {
                let next = self.places[at] + 1;
                if self.len < PLACES && self.places.get(at + 1).is_none_or(|&p| p != next) {
                    self.add(usize::from(next));
                }
            }
        }
    }
}

/// Length of the common prefix.
pub(super) fn common(a: &[u8], b: &[u8]) -> usize {
    let (words_a, words_b) = (a.as_chunks::<8>().0, b.as_chunks::<8>().0);
    let same = words_a
        .iter()
        .zip(words_b)
        .take_while(|(a, b)| a == b)
        .count()
        * 8;
    let rest = a[same..].iter().zip(&b[same..]);
    same + rest.take_while(|(a, b)| a == b).count()
}

/// What a key has at these places, as a number that orders as those bytes do.
fn head(places: &[u16; PLACES], key: &[u8]) -> u64 {
    let first = usize::from(places[0]);
    if usize::from(places[PLACES - 1]) == first + PLACES - 1
        && let Some(bytes) = key
            .get(first..)
            .and_then(|rest| rest.first_chunk::<PLACES>())
    {
        return u64::from_be_bytes(*bytes);
    }
    let byte = |place: u16| key.get(usize::from(place)).copied().unwrap_or_default();
    u64::from_be_bytes(places.map(byte))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter;

    #[test]
    fn places_are_the_foremost_differences_and_what_is_around_them() {
        let table: [(&[usize], &[u16], [u16; PLACES]); 6] = [
            (&[], &[], [0, 1, 2, 3, 4, 5, 6, 7]),
            (&[3], &[], [1, 2, 3, 4, 5, 6, 7, 8]),
            (&[30, 3], &[], [1, 2, 3, 4, 5, 30, 31, 32]),
            (&[30, 3], &[3, 17, 50], [1, 2, 3, 17, 30, 31, 50, 51]),
            (&[9, 8, 7, 6, 5, 4, 3, 2, 1], &[], [1, 2, 3, 4, 5, 6, 7, 8]),
            (
                &[1, 20, 3, 40, 5, 60, 7, 80, 9],
                &[],
                [1, 3, 5, 7, 9, 20, 40, 60],
            ),
        ];
        for (differences, telling, expected) in table {
            let mut chosen = Chosen::default();
            differences.iter().for_each(|&place| chosen.add(place));
            chosen.fill(telling);
            assert_eq!(chosen.places, expected, "{differences:?}");
        }
    }

    #[test]
    fn heads_follow_their_keys() {
        let keys: [&[u8]; 5] = [b"a", b"a/1", b"a/1/x", b"a/2", b"b"];
        let mut heads = Heads::<8>::new();
        heads.choose(keys.len(), |at| keys[at], iter::empty(), iter::empty());
        heads.verify(keys.len(), |at| keys[at]);
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(heads.same(key), at..at + 1);
        }
        heads.remove(1);
        assert_eq!(heads.same(b"a/1/x"), 1..2);
        assert!(!heads.insert(1, b"a/1"), "it has a head of its own");
        assert!(heads.insert(0, b"a"), "another of the kind");
        let right = heads.split_off(3);
        assert_eq!((heads.len(), right.len()), (3, 3));
        assert_eq!(right.same(b"b"), 2..3);
    }
}
