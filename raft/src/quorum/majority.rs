//! A set of nodes that decides by majority.
//!
//! Promises: the empty set agrees to everything (its committed index is the highest number, its votes
//! are won), so that it is neutral in a joint pair.
//! Must never know: what is counted.
//! Tests: naive twins below.

use std::fmt::{self, Write};

use crate::quorum::VoteResult;

/// Up to this many members are counted without allocating; more than seven voters are rare.
const ON_STACK_MAX: usize = 7;

/// A sorted set of node ids.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MajorityConfig(Vec<u64>);

impl MajorityConfig {
    /// The set of these ids.
    pub fn new(ids: &[u64]) -> MajorityConfig {
        let mut ids = ids.to_vec();
        ids.sort_unstable();
        ids.dedup();
        MajorityConfig(ids)
    }

    /// The ids in rising order.
    pub fn as_slice(&self) -> &[u64] {
        &self.0
    }

    /// The ids in rising order.
    pub fn iter(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().copied()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether `id` is one of them.
    pub fn contains(&self, id: u64) -> bool {
        self.0.binary_search(&id).is_ok()
    }

    /// Adds `id`.
    pub fn insert(&mut self, id: u64) {
        if let Err(position) = self.0.binary_search(&id) {
            self.0.insert(position, id);
        }
    }

    /// Takes `id` out.
    pub fn remove(&mut self, id: u64) {
        if let Ok(position) = self.0.binary_search(&id) {
            self.0.remove(position);
        }
    }

    /// How many ids are in one of the two sets only.
    pub fn symmetric_difference(&self, other: &MajorityConfig) -> usize {
        let mine = self.iter().filter(|id| !other.contains(*id)).count();
        let theirs = other.iter().filter(|id| !self.contains(*id)).count();
        mine + theirs
    }

    /// The highest index that a majority has acknowledged. `acked` knows nothing of a node: 0.
    pub fn committed_index(&self, acked: impl Fn(u64) -> Option<u64>) -> u64 {
        match self.0.as_slice() {
            [] => u64::MAX,
            [id] => acked(*id).unwrap_or(0),
            ids if ids.len() <= ON_STACK_MAX => {
                let mut indexes = [0; ON_STACK_MAX];
                let indexes = &mut indexes[..ids.len()];
                for (index, id) in indexes.iter_mut().zip(ids) {
                    *index = acked(*id).unwrap_or(0);
                }
                quorum_of(indexes)
            }
            ids => {
                let mut indexes: Vec<u64> = ids.iter().map(|id| acked(*id).unwrap_or(0)).collect();
                quorum_of(&mut indexes)
            }
        }
    }

    /// How the vote stands. `voted` says what a node answered, if it did.
    pub fn vote_result(&self, voted: impl Fn(u64) -> Option<bool>) -> VoteResult {
        if self.0.is_empty() {
            return VoteResult::Won;
        }
        let (mut yes, mut missing) = (0, 0);
        for id in self.iter() {
            match voted(id) {
                Some(true) => yes += 1,
                Some(false) => {}
                None => missing += 1,
            }
        }
        let quorum = self.0.len() / 2 + 1;
        if yes >= quorum {
            VoteResult::Won
        } else if yes + missing >= quorum {
            VoteResult::Pending
        } else {
            VoteResult::Lost
        }
    }

    /// A bar graph of what was acknowledged, for people and transcripts. A longer bar is a higher
    /// index.
    pub fn describe(&self, acked: impl Fn(u64) -> Option<u64>) -> String {
        if self.0.is_empty() {
            return "<empty majority quorum>".to_string();
        }
        let count = self.0.len();
        let indexes: Vec<u64> = self.iter().map(|id| acked(id).unwrap_or(0)).collect();
        let mut out = format!("{:count$}    idx\n", "");
        for (id, index) in self.iter().zip(&indexes) {
            // As many `x` as there are members strictly behind.
            let bar = indexes.iter().filter(|other| *other < index).count();
            let drawn = match acked(id) {
                None => format!("?{:count$}", ""),
                Some(_) => format!("{:x<bar$}>{:pad$}", "", "", pad = count - bar),
            };
            // Writing to a String cannot fail.
            let _ = writeln!(out, "{drawn} {index:>5}    (id={id:x})");
        }
        out
    }
}

impl fmt::Display for MajorityConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_char('(')?;
        for (position, id) in self.iter().enumerate() {
            let space = if position == 0 { "" } else { " " };
            write!(f, "{space}{id:x}")?;
        }
        f.write_char(')')
    }
}

/// The highest index that more than half have reached.
fn quorum_of(indexes: &mut [u64]) -> u64 {
    indexes.sort_unstable();
    indexes[indexes.len() - (indexes.len() / 2 + 1)]
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    /// Tries every acknowledged index and counts who is at least there.
    fn naive_committed(config: &MajorityConfig, acked: &BTreeMap<u64, u64>) -> u64 {
        let quorum = config.len() / 2 + 1;
        let reached = |index: u64| {
            config
                .iter()
                .filter(|id| acked.get(id) >= Some(&index))
                .count()
        };
        let candidates = config.iter().filter_map(|id| acked.get(&id).copied());
        candidates
            .filter(|index| reached(*index) >= quorum)
            .max()
            .unwrap_or(0)
    }

    proptest! {
        #![proptest_config(crate::seeded::cases(256))]

        #[test]
        fn committed_as_the_naive_twin(
            ids in prop::collection::btree_set(1u64..12, 1..10),
            acked in prop::collection::btree_map(1u64..12, 1u64..30, 0..12),
        ) {
            let config = MajorityConfig::new(&ids.into_iter().collect::<Vec<_>>());
            let index = config.committed_index(|id| acked.get(&id).copied());
            prop_assert_eq!(index, naive_committed(&config, &acked));
        }

        #[test]
        fn a_vote_is_decided_when_no_answer_can_change_it(
            ids in prop::collection::btree_set(1u64..9, 1..8),
            votes in prop::collection::btree_map(1u64..9, any::<bool>(), 0..8),
        ) {
            let config = MajorityConfig::new(&ids.into_iter().collect::<Vec<_>>());
            let outcome = |missing: bool| {
                let yes = config.iter().filter(|id| *votes.get(id).unwrap_or(&missing)).count();
                yes * 2 > config.len()
            };
            let expected = match (outcome(false), outcome(true)) {
                (true, _) => VoteResult::Won,
                (false, true) => VoteResult::Pending,
                (false, false) => VoteResult::Lost,
            };
            prop_assert_eq!(config.vote_result(|id| votes.get(&id).copied()), expected);
        }
    }

    #[test]
    fn the_empty_set_agrees() {
        let empty = MajorityConfig::default();
        assert_eq!(empty.committed_index(|_| None), u64::MAX);
        assert_eq!(empty.vote_result(|_| None), VoteResult::Won);
        assert_eq!(empty.to_string(), "()");
    }
}
