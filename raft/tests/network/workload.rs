//! What clients and operators want: writes, reads, other members.

use bytes::Bytes;
use henge_raft::membership::{ConfChangeKind, ConfChangeSingle, ConfChangeV2, Transition};
use henge_raft::{ConfState, RawNode, RoleKind};

use crate::sim::Sim;

impl Sim {
    pub fn propose(&mut self, id: u64) {
        self.proposals += 1;
        let data = self.proposals.to_le_bytes();
        if let Some(node) = self.node(id) {
            let _ = node.propose(Bytes::copy_from_slice(&data));
        }
    }

    pub fn read(&mut self, id: u64) {
        self.proposals += 1;
        let read = self.proposals;
        self.rules.read_asked(read);
        if let Some(node) = self.node(id) {
            node.read_index(Bytes::copy_from_slice(&read.to_le_bytes()));
        }
    }

    pub fn change_members(&mut self, id: u64) {
        // Without either, a removed member that still campaigns can lift a member to a term in which it
        // hears of no leader, for good; as in etcd's library. Groups that change need one of them.
        if !self.options.check_quorum && !self.options.pre_vote {
            return;
        }
        let leader = self.leader().map_or(id, RawNode::id);
        let id = if self.chance(700) { leader } else { id };
        let count = [1, 1, 2, 3][self.below(4) as usize];
        let state = self.leader().map(RawNode::conf_state).unwrap_or_default();
        let change = self.any_change(count, &state);
        // Some operators do not wait for the first change before they ask for the next.
        let next = self.chance(500).then(|| self.any_change(1, &state));
        let Some(node) = self.node(id).filter(|node| node.role() == RoleKind::Leader) else {
            return;
        };
        let _ = node.propose_conf_change(&change);
        if let Some(next) = next {
            let _ = node.propose_conf_change(&next);
        }
        if self.chance(500) {
            self.leave_joint(id);
        }
    }

    /// Leader: out of a joint configuration that is not left by itself.
    pub fn leave_joint(&mut self, id: u64) {
        let Some(node) = self.node(id).filter(|node| node.role() == RoleKind::Leader) else {
            return;
        };
        let state = node.conf_state();
        if !state.voters_outgoing.is_empty() && !state.auto_leave {
            let _ = node.propose_conf_change(&ConfChangeV2::default());
        }
    }

    /// Most of the time something that is not so already.
    fn any_change(&mut self, count: u64, state: &ConfState) -> ConfChangeV2 {
        let mut changes = Vec::new();
        for _ in 0..count {
            let node_id = self.any_id();
            let kind = match (self.below(4), state.voters.contains(&node_id)) {
                (0, _) => ConfChangeKind::AddLearnerNode,
                (1, true) | (2.., false) => ConfChangeKind::AddNode,
                (2.., true) | (1, false) => ConfChangeKind::RemoveNode,
            };
            changes.push(ConfChangeSingle { kind, node_id });
        }
        let transition = match self.below(6) {
            0 | 1 => Transition::JointImplicit,
            2 => Transition::JointExplicit,
            _ => Transition::Auto,
        };
        ConfChangeV2 {
            transition,
            changes,
            context: Bytes::new(),
        }
    }
}
