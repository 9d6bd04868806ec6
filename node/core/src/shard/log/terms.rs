//! Which term each entry of a log has, without the entries: terms only grow, so a run is kept for each
//! and its first index says where it begins. A few elections are a few runs.
//! Must never know: what entries say.

use std::collections::VecDeque;

use super::Position;

/// The terms of the entries from a start on.
#[derive(Clone, Debug)]
pub struct TermRuns {
    /// The first index of each term; terms and indexes grow. Never empty.
    runs: VecDeque<Position>,
}

impl TermRuns {
    /// A log whose entry `start.index` has `start.term`, and nothing after it yet.
    pub fn new(start: Position) -> Self {
        TermRuns {
            runs: VecDeque::from([start]),
        }
    }

    /// Entry `index` was appended, or replaced an entry and all after it.
    pub fn push(&mut self, index: u64, term: u64) {
        while self.runs.len() > 1 && self.runs.back().is_some_and(|run| run.index >= index) {
            self.runs.pop_back();
        }
        if self.runs.back().is_none_or(|run| run.term != term) {
            self.runs.push_back(Position { index, term });
        }
    }

    /// The term of entry `index`, if it is not before the start. Whether there is such an entry is the
    /// caller's to know.
    pub fn term(&self, index: u64) -> Option<u64> {
        let after = self.runs.partition_point(|run| run.index <= index);
        Some(self.runs.get(after.checked_sub(1)?)?.term)
    }

    /// Starts at `start` from now on.
    pub fn begin_at(&mut self, start: Position) {
        while self
            .runs
            .front()
            .is_some_and(|run| run.index <= start.index)
        {
            self.runs.pop_front();
        }
        self.runs.push_front(start);
        // The run that `start` cut in two goes on behind it.
        if self.runs.get(1).is_some_and(|run| run.term == start.term) {
            self.runs.remove(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position { index, term }
    }

    #[test]
    fn the_same_as_a_list_of_terms() {
        // Terms of entries 1.., with a suffix replaced now and then.
        let mut list = vec![0];
        let mut runs = TermRuns::new(at(0, 0));
        let mut state = 7_u64;
        let mut dice = move |sides: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % sides
        };
        let mut term = 1;
        let mut start = 0;
        for _ in 0..3_000 {
            if dice(20) == 0 {
                term += 1;
                let keep = start + 1 + dice(list.len() as u64 - start);
                list.truncate(keep as usize);
            }
            runs.push(list.len() as u64, term);
            list.push(term);
            if dice(200) == 0 {
                start += dice(list.len() as u64 - start);
                runs.begin_at(at(start, list[start as usize]));
            }
            for (index, term) in list.iter().enumerate().skip(start as usize) {
                assert_eq!(runs.term(index as u64), Some(*term), "entry {index}");
            }
            assert_eq!(
                start.checked_sub(1).and_then(|index| runs.term(index)),
                None
            );
        }
        assert!(start > 0 && term > 50);
    }

    #[test]
    fn a_start_beyond_the_end_forgets_everything() {
        let mut runs = TermRuns::new(at(0, 0));
        runs.push(1, 1);
        runs.begin_at(at(9, 4));
        assert_eq!((runs.term(8), runs.term(9)), (None, Some(4)));
    }
}
