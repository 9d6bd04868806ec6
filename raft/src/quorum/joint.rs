//! Two sets of nodes that must both agree (thesis, 4.3).
//!
//! Promises: with an empty outgoing half it is the incoming half.
//! Must never know: why there are two.
//! Tests: etcd's transcripts, and the symmetry below.

use std::fmt;

use crate::quorum::{MajorityConfig, VoteResult};

/// The voters of a configuration that may be joint.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JointConfig {
    /// The configuration to be; outside of a joint one, the configuration.
    pub incoming: MajorityConfig,
    /// The configuration that was; empty outside of a joint one.
    pub outgoing: MajorityConfig,
}

impl JointConfig {
    /// All voters of either half, in rising order.
    pub fn ids(&self) -> MajorityConfig {
        let mut all = self.incoming.clone();
        for id in self.outgoing.iter() {
            all.insert(id);
        }
        all
    }

    /// Whether `id` votes in either half.
    pub fn contains(&self, id: u64) -> bool {
        self.incoming.contains(id) || self.outgoing.contains(id)
    }

    /// The highest index that both halves have acknowledged.
    pub fn committed_index(&self, acked: impl Fn(u64) -> Option<u64>) -> u64 {
        let incoming = self.incoming.committed_index(&acked);
        if self.outgoing.is_empty() {
            return incoming;
        }
        incoming.min(self.outgoing.committed_index(&acked))
    }

    /// How the vote stands: both halves must say yes, one no is enough.
    pub fn vote_result(&self, voted: impl Fn(u64) -> Option<bool>) -> VoteResult {
        match (
            self.incoming.vote_result(&voted),
            self.outgoing.vote_result(&voted),
        ) {
            (one, two) if one == two => one,
            (VoteResult::Lost, _) | (_, VoteResult::Lost) => VoteResult::Lost,
            _ => VoteResult::Pending,
        }
    }

    /// See [`MajorityConfig::describe`].
    pub fn describe(&self, acked: impl Fn(u64) -> Option<u64>) -> String {
        self.ids().describe(acked)
    }
}

impl fmt::Display for JointConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.incoming)?;
        match self.outgoing.is_empty() {
            true => Ok(()),
            false => write!(f, "&&{}", self.outgoing),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(crate::seeded::cases(256))]

        #[test]
        fn halves_can_be_swapped(
            one in prop::collection::vec(1u64..9, 0..6),
            two in prop::collection::vec(1u64..9, 0..6),
            acked in prop::collection::btree_map(1u64..9, 1u64..30, 0..9),
            votes in prop::collection::btree_map(1u64..9, any::<bool>(), 0..9),
        ) {
            let (one, two) = (MajorityConfig::new(&one), MajorityConfig::new(&two));
            let joint = JointConfig { incoming: one.clone(), outgoing: two.clone() };
            let swapped = JointConfig { incoming: two, outgoing: one };
            let acked = |id| acked.get(&id).copied();
            let voted = |id| votes.get(&id).copied();
            prop_assert_eq!(joint.committed_index(acked), swapped.committed_index(acked));
            prop_assert_eq!(joint.vote_result(voted), swapped.vote_result(voted));
        }
    }
}
