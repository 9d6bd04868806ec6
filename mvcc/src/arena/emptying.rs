//! Which segment is emptied next: the one of which most is dead, once a third of everything is.
//!
//! To empty a segment costs what still lives in it, so the deadest comes first, and none before memory asks
//! for it: with keys overwritten at random, and a third of all bytes dead, the deadest segment is 58 % dead
//! (Rosenblum and Ousterhout, "The design and implementation of a log-structured file system", 1992,
//! section 3.5), and 0.7 records are moved for one that dies. Segments emptied as soon as each was a third
//! dead moved two.
//! Promises: what is not to be emptied is at least two thirds alive, taken together.
//! Knows segments by number and counts only. Tested below, and by [`super`]'s tests.

/// Steps in which the dead share of a segment is known. A segment is listed once per step at most.
const LEVELS: usize = 16;
/// What is less dead than this need not be listed: where a third of everything is dead, some segment is
/// a third dead.
const LEVEL_MIN: usize = LEVELS / 3;

/// The dead share of a segment, in sixteenths; 0 if that is not worth knowing.
pub(super) type Level = u8;

/// Segments that grow no more, by how much of them is dead.
#[derive(Debug, Default)]
pub(super) struct Emptying {
    /// By level, from [`LEVEL_MIN`] on. A segment that died further is listed again; the older entry is
    /// passed over when its turn comes.
    listed: [Vec<usize>; LEVELS + 1 - LEVEL_MIN],
    bytes: usize,
    dead: usize,
}

impl Emptying {
    /// A segment grows no more.
    pub fn add(&mut self, bytes: usize, dead: usize) {
        self.bytes += bytes;
        self.dead += dead;
    }

    /// So much more of one is dead.
    pub fn dies(&mut self, bytes: usize) {
        self.dead += bytes;
    }

    /// A segment counts no more.
    pub fn remove(&mut self, bytes: usize, dead: usize) {
        self.bytes -= bytes;
        self.dead -= dead;
    }

    /// The level of a segment, which is listed there unless it was already.
    pub fn list(&mut self, number: usize, before: Level, bytes: usize, dead: usize) -> Level {
        let level = (dead * LEVELS).checked_div(bytes).unwrap_or(LEVELS);
        let Some(listed) = level
            .checked_sub(LEVEL_MIN)
            .and_then(|at| self.listed.get_mut(at))
        else {
            return 0;
        };
        let level = level as Level;
        if level != before {
            listed.push(number);
        }
        level
    }

    /// Is there a segment to be emptied? What is all dead always is.
    pub fn has_any(&self) -> bool {
        let all_dead = self.listed.last().is_some_and(|listed| !listed.is_empty());
        all_dead || self.dead > 0 && self.dead * 3 >= self.bytes
    }

    /// The deadest segment, and the level it was listed at: if it has another one by now, ask again.
    pub fn next(&mut self) -> Option<(usize, Level)> {
        if !self.has_any() {
            return None;
        }
        let levels = self.listed.iter_mut().enumerate().rev();
        levels
            .filter_map(|(at, listed)| Some((listed.pop()?, (at + LEVEL_MIN) as Level)))
            .next()
    }

    /// Bytes on the heap.
    pub fn heap_bytes(&self) -> usize {
        let capacities = self.listed.iter().map(Vec::capacity);
        capacities.sum::<usize>() * size_of::<usize>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deadest_comes_first_and_only_when_a_third_of_everything_is_dead() {
        let mut emptying = Emptying::default();
        let mut levels = [0; 3];
        for _ in &levels {
            emptying.add(160, 0);
        }
        let mut dies = |emptying: &mut Emptying, number: usize, bytes, dead| {
            emptying.dies(bytes);
            levels[number] = emptying.list(number, levels[number], 160, dead);
            levels[number]
        };
        assert_eq!(dies(&mut emptying, 0, 40, 40), 0, "not worth listing");
        assert_eq!(dies(&mut emptying, 1, 60, 60), 6);
        assert_eq!(dies(&mut emptying, 1, 5, 65), 6, "listed once");
        assert_eq!(emptying.next(), None, "105 of 480 are dead");
        assert_eq!(dies(&mut emptying, 2, 70, 70), 7);
        assert_eq!(emptying.next(), Some((2, 7)));
        emptying.remove(160, 70);
        // 105 of 320.
        assert_eq!(emptying.next(), None);
        assert_eq!(dies(&mut emptying, 0, 60, 100), 10);
        assert_eq!(emptying.next(), Some((0, 10)));
        emptying.remove(160, 100);
        assert_eq!(emptying.next(), Some((1, 6)));
        emptying.remove(160, 65);
        assert_eq!((emptying.bytes, emptying.dead), (0, 0));
        assert_eq!(emptying.next(), None);
    }

    #[test]
    fn what_is_all_dead_goes_whatever_lives() {
        let mut emptying = Emptying::default();
        emptying.add(10_000, 0);
        emptying.add(100, 0);
        emptying.dies(100);
        assert_eq!(emptying.list(5, 0, 100, 100), 16);
        assert_eq!(emptying.next(), Some((5, 16)));
        // One without bytes.
        assert_eq!(emptying.list(6, 0, 0, 0), 16);
        assert_eq!(emptying.next(), Some((6, 16)));
        emptying.remove(100, 100);
        assert!(!emptying.has_any());
    }
}
