//! From a stored [`ConfState`] back to a configuration.
//!
//! Promises: the result describes exactly the given state, or there is an error: the same transitions
//! as at run time are used, so a configuration that no sequence of changes could reach is refused.
//! Must never know: where the state was stored.
//! Tests: round trips below.

use crate::membership::change::{ConfChangeKind, ConfChangeSingle};
use crate::membership::joint::{ChangeError, Changer};
use crate::message::ConfState;
use crate::progress::ProgressMap;
use crate::status::Membership;

/// The configuration that `state` describes, with fresh progress for every member.
///
/// # Errors
/// [`ChangeError`] if `state` contradicts itself.
pub fn restore(
    state: &ConfState,
    last_index: u64,
    inflight_max: (usize, u64),
) -> Result<(Membership, ProgressMap), ChangeError> {
    let mut changer = Changer {
        membership: Membership::default(),
        progress: ProgressMap::default(),
        last_index,
        inflight_max,
    };
    let incoming = incoming_steps(state);
    if state.voters_outgoing.is_empty() {
        simple_each(&mut changer, &incoming)?;
    } else {
        // First make the outgoing half the whole configuration, then enter the joint one from there.
        simple_each(
            &mut changer,
            &steps(ConfChangeKind::AddNode, &state.voters_outgoing),
        )?;
        let (membership, progress) = changer.enter_joint(state.auto_leave, &incoming)?;
        changer = Changer {
            membership,
            progress,
            ..changer
        };
    }
    if !changer.membership.conf_state().is_equivalent(state) {
        return Err(ChangeError::Inconsistent {
            id: 0,
            what: "ConfState lists a node twice",
        });
    }
    Ok((changer.membership, changer.progress))
}

/// From the outgoing half to the incoming one: all out, then everyone in where they belong.
fn incoming_steps(state: &ConfState) -> Vec<ConfChangeSingle> {
    let mut all = steps(ConfChangeKind::RemoveNode, &state.voters_outgoing);
    all.extend(steps(ConfChangeKind::AddNode, &state.voters));
    all.extend(steps(ConfChangeKind::AddLearnerNode, &state.learners));
    all.extend(steps(ConfChangeKind::AddLearnerNode, &state.learners_next));
    all
}

fn steps(kind: ConfChangeKind, ids: &[u64]) -> Vec<ConfChangeSingle> {
    ids.iter()
        .map(|&node_id| ConfChangeSingle { kind, node_id })
        .collect()
}

fn simple_each(changer: &mut Changer, steps: &[ConfChangeSingle]) -> Result<(), ChangeError> {
    for step in steps {
        let (membership, progress) = changer.simple(std::slice::from_ref(step))?;
        changer.membership = membership;
        changer.progress = progress;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restores_what_was_stored() {
        let states = [
            ConfState::default(),
            ConfState {
                voters: vec![3, 1, 2],
                learners: vec![5],
                ..ConfState::default()
            },
            ConfState {
                voters: vec![1, 2, 3],
                voters_outgoing: vec![1, 2, 4, 6],
                learners: vec![5],
                learners_next: vec![4],
                auto_leave: true,
            },
        ];
        for state in states {
            let (membership, progress) = restore(&state, 20, (10, 0)).unwrap();
            assert!(membership.conf_state().is_equivalent(&state), "{state:?}");
            assert_eq!(progress.len(), membership.member_count(), "{state:?}");
        }
    }

    #[test]
    fn refuses_contradictions() {
        let twice = ConfState {
            voters: vec![1, 2],
            learners: vec![2],
            ..ConfState::default()
        };
        assert!(restore(&twice, 1, (10, 0)).is_err());
        let nobody = ConfState {
            learners: vec![2],
            ..ConfState::default()
        };
        assert_eq!(
            restore(&nobody, 1, (10, 0)).unwrap_err(),
            ChangeError::RemovedAllVoters
        );
    }
}
