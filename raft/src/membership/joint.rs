//! Transitions between configurations: simple, into joint, out of joint.
//!
//! Promises: a transition that is not allowed is an error and changes nothing; one that is leaves
//! every invariant of [`Changer::check`] intact.
//! Must never know: who asked, whether the change is committed, or what role this node has.
//! Tests: etcd's `confchange` transcripts (`tests/transcripts`) and the cases below.

use std::fmt;

use crate::membership::change::{ConfChangeKind, ConfChangeSingle, ConfChangeV2};
use crate::progress::{Progress, ProgressMap};
use crate::quorum::MajorityConfig;
use crate::status::Membership;

/// Why a configuration cannot follow another. The words are etcd's.
#[non_exhaustive]
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// Joint configurations do not nest.
    AlreadyJoint,
    /// There is nobody whose agreement the new configuration would need.
    NoVoters,
    /// Only a joint configuration can be left.
    NotJoint,
    /// A joint configuration must be left first.
    SimpleInJoint,
    /// Old and new majority might not meet.
    TooManyVoters,
    /// A group without voters can never decide anything again.
    RemovedAllVoters,
    /// A configuration, or what is tracked for it, contradicts itself.
    Inconsistent {
        /// The member it is about.
        id: u64,
        /// What is wrong.
        what: &'static str,
    },
    /// The payload of the change does not decode.
    Decode(crate::membership::DecodeError),
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::AlreadyJoint => f.write_str("config is already joint"),
            ChangeError::NoVoters => f.write_str("can't make a zero-voter config joint"),
            ChangeError::NotJoint => f.write_str("can't leave a non-joint config"),
            ChangeError::SimpleInJoint => {
                f.write_str("can't apply simple config change in joint config")
            }
            ChangeError::TooManyVoters => {
                f.write_str("more than one voter changed without entering joint config")
            }
            ChangeError::RemovedAllVoters => f.write_str("removed all voters"),
            ChangeError::Inconsistent { id, what } => write!(f, "{id} {what}"),
            ChangeError::Decode(inner) => {
                write!(f, "configuration change does not decode: {inner}")
            }
        }
    }
}

impl std::error::Error for ChangeError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ChangeError::Decode(error) => Some(error),
            _ => None,
        }
    }
}

impl From<crate::membership::DecodeError> for ChangeError {
    fn from(error: crate::membership::DecodeError) -> ChangeError {
        ChangeError::Decode(error)
    }
}

/// A configuration and its members' progress, to be changed together.
#[derive(Clone, Debug)]
pub struct Changer {
    /// Who is in it.
    pub membership: Membership,
    /// What the leader knows of each.
    pub progress: ProgressMap,
    /// New members are first probed here.
    pub last_index: u64,
    /// Inflight limits for new members: messages and bytes (0: no limit).
    pub inflight_max: (usize, u64),
}

type Outcome = Result<(Membership, ProgressMap), ChangeError>;

impl Changer {
    /// The transition that `change` asks for.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub fn change(&self, change: &ConfChangeV2) -> Outcome {
        if change.leaves_joint() {
            return self.leave_joint();
        }
        match change.enters_joint() {
            Some(auto_leave) => self.enter_joint(auto_leave, &change.changes),
            None => self.simple(&change.changes),
        }
    }

    /// From `C_old` to `C_new,old` (thesis, 4.3): keeps the old voters as the outgoing half and
    /// applies the steps to the incoming one.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub fn enter_joint(&self, auto_leave: bool, steps: &[ConfChangeSingle]) -> Outcome {
        let mut next = self.checked()?;
        if next.membership.is_joint() {
            return Err(ChangeError::AlreadyJoint);
        }
        if next.membership.voters.incoming.is_empty() {
            return Err(ChangeError::NoVoters);
        }
        next.membership.voters.outgoing = next.membership.voters.incoming.clone();
        next.apply(steps)?;
        next.membership.auto_leave = auto_leave;
        next.finish()
    }

    /// From `C_new,old` to `C_new`: drops the outgoing half; voters that were to become learners do.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub fn leave_joint(&self) -> Outcome {
        let mut next = self.checked()?;
        if !next.membership.is_joint() {
            return Err(ChangeError::NotJoint);
        }
        let learners_next = std::mem::take(&mut next.membership.learners_next);
        for id in learners_next.iter() {
            next.membership.learners.insert(id);
            if let Some(progress) = next.progress.get_mut(id) {
                progress.is_learner = true;
            }
        }
        let outgoing = std::mem::take(&mut next.membership.voters.outgoing);
        for id in outgoing.iter() {
            if !next.membership.voters.incoming.contains(id)
                && !next.membership.learners.contains(id)
            {
                next.progress.remove(id);
            }
        }
        next.membership.auto_leave = false;
        next.finish()
    }

    /// Steps that together change at most one voter: any old and any new majority then meet.
    ///
    /// # Errors
    /// [`ChangeError`]; nothing is changed then.
    pub fn simple(&self, steps: &[ConfChangeSingle]) -> Outcome {
        let mut next = self.checked()?;
        if next.membership.is_joint() {
            return Err(ChangeError::SimpleInJoint);
        }
        next.apply(steps)?;
        let (old, new) = (
            &self.membership.voters.incoming,
            &next.membership.voters.incoming,
        );
        if old.symmetric_difference(new) > 1 {
            return Err(ChangeError::TooManyVoters);
        }
        next.finish()
    }

    fn apply(&mut self, steps: &[ConfChangeSingle]) -> Result<(), ChangeError> {
        for step in steps {
            match step.kind {
                // A host that decides against a committed change sets its node to 0.
                _ if step.node_id == 0 => {}
                ConfChangeKind::AddNode => self.make_voter(step.node_id),
                ConfChangeKind::AddLearnerNode => self.make_learner(step.node_id),
                ConfChangeKind::RemoveNode => self.remove(step.node_id),
                ConfChangeKind::UpdateNode => {}
            }
        }
        match self.membership.voters.incoming.is_empty() {
            true => Err(ChangeError::RemovedAllVoters),
            false => Ok(()),
        }
    }

    fn make_voter(&mut self, id: u64) {
        match self.progress.get_mut(id) {
            Some(progress) => progress.is_learner = false,
            None => self.track(id, false),
        }
        self.membership.learners.remove(id);
        self.membership.learners_next.remove(id);
        self.membership.voters.incoming.insert(id);
    }

    /// A voter of the outgoing half cannot be a learner at once, or it would be counted in two ways:
    /// it waits in `learners_next` until the joint configuration is left.
    fn make_learner(&mut self, id: u64) {
        let Some(mut progress) = self.progress.get(id).cloned() else {
            self.track(id, true);
            self.membership.learners.insert(id);
            return;
        };
        if progress.is_learner {
            return;
        }
        self.remove(id);
        if self.membership.voters.outgoing.contains(id) {
            self.membership.learners_next.insert(id);
        } else {
            progress.is_learner = true;
            self.membership.learners.insert(id);
        }
        self.progress.insert(id, progress);
    }

    fn remove(&mut self, id: u64) {
        if self.progress.get(id).is_none() {
            return;
        }
        self.membership.voters.incoming.remove(id);
        self.membership.learners.remove(id);
        self.membership.learners_next.remove(id);
        // A voter of the outgoing half still decides: its progress is needed.
        if !self.membership.voters.outgoing.contains(id) {
            self.progress.remove(id);
        }
    }

    fn track(&mut self, id: u64, is_learner: bool) {
        let (messages, bytes) = self.inflight_max;
        // Probe at the end of our log: the first rejection tells where it really ends.
        let mut progress = Progress::new(self.last_index.max(1), messages, bytes);
        progress.is_learner = is_learner;
        // Or a CheckQuorum before its first answer would count it as dead.
        progress.recent_active = true;
        self.progress.insert(id, progress);
    }

    fn checked(&self) -> Result<Changer, ChangeError> {
        self.check()?;
        Ok(self.clone())
    }

    fn finish(self) -> Outcome {
        self.check()?;
        Ok((self.membership, self.progress))
    }

    /// What holds of every configuration: all members are tracked; a node is a voter or a learner;
    /// who waits to be a learner is an outgoing voter; and only a joint configuration has leftovers.
    fn check(&self) -> Result<(), ChangeError> {
        let Membership {
            voters,
            learners,
            learners_next,
            auto_leave,
        } = &self.membership;
        let wrong = |id, what| Err(ChangeError::Inconsistent { id, what });
        let all = [&voters.incoming, &voters.outgoing, learners, learners_next];
        if let Some(id) = all
            .into_iter()
            .flat_map(MajorityConfig::iter)
            .find(|id| self.progress.get(*id).is_none())
        {
            return wrong(id, "has no progress");
        }
        let is_learner = |id| {
            self.progress
                .get(id)
                .is_some_and(|progress| progress.is_learner)
        };
        for id in learners_next.iter() {
            if !voters.outgoing.contains(id) {
                return wrong(id, "is in LearnersNext, but not Voters[1]");
            }
            if is_learner(id) {
                return wrong(id, "is in LearnersNext, but is already marked as learner");
            }
        }
        for id in learners.iter() {
            if voters.outgoing.contains(id) {
                return wrong(id, "is in Learners and Voters[1]");
            }
            if voters.incoming.contains(id) {
                return wrong(id, "is in Learners and Voters[0]");
            }
            if !is_learner(id) {
                return wrong(id, "is in Learners, but is not marked as learner");
            }
        }
        if voters.outgoing.is_empty() && *auto_leave {
            return wrong(0, "AutoLeave must be false when not joint");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::membership::parse_changes;

    fn changer(voters: &str) -> Changer {
        let mut changer = Changer {
            membership: Membership::default(),
            progress: ProgressMap::default(),
            last_index: 1,
            inflight_max: (10, 0),
        };
        for step in parse_changes(voters).unwrap() {
            let (membership, progress) = changer.simple(&[step]).unwrap();
            changer = Changer {
                membership,
                progress,
                ..changer
            };
        }
        changer
    }

    #[test]
    fn one_voter_at_a_time_without_joint() {
        let changer = changer("v1 v2 v3");
        let two = parse_changes("v4 v5").unwrap();
        assert_eq!(
            changer.simple(&two).unwrap_err(),
            ChangeError::TooManyVoters
        );
        assert!(changer.simple(&parse_changes("v4 l5").unwrap()).is_ok());
        let all = parse_changes("r1 r2 r3").unwrap();
        assert_eq!(
            changer.enter_joint(false, &all).unwrap_err(),
            ChangeError::RemovedAllVoters
        );
    }

    #[test]
    fn a_demoted_voter_waits_in_learners_next() {
        let first = changer("v1 v2 v3");
        let (membership, progress) = first
            .enter_joint(true, &parse_changes("l3 v4").unwrap())
            .unwrap();
        assert_eq!(
            membership.to_string(),
            "voters=(1 2 4)&&(1 2 3) learners_next=(3) autoleave"
        );
        let second = Changer {
            membership,
            progress,
            ..first
        };
        assert_eq!(second.simple(&[]).unwrap_err(), ChangeError::SimpleInJoint);
        let (membership, progress) = second.leave_joint().unwrap();
        assert_eq!(membership.to_string(), "voters=(1 2 4) learners=(3)");
        assert!(progress.get(3).unwrap().is_learner);
    }
}
