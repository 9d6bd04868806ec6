//! What must be true of a node between any two calls, whatever its peers, its host and its storage do.
//!
//! Promises: it is asked before anything leaves the node. If it is not true, there is a bug in this crate:
//! the group stops ([`Fault::Invariant`]), nothing more leaves it, and the other groups of the process go on.
//! Must never know: how it could come to that.
//! Tests: below, one for each; in every other test all of them hold.

use crate::error::Fault;
use crate::message::HardState;
use crate::raft::Raft;
use crate::role::Role;
use crate::storage::Storage;

impl<S: Storage> Raft<S> {
    /// Stops the group if something cannot be. `before` is the hard state that left the node last.
    pub(crate) fn check_invariants(&mut self, before: HardState) {
        if let Some(what) = self.broken_invariant(before) {
            self.poison(Fault::Invariant(what));
        }
    }

    fn broken_invariant(&self, before: HardState) -> Option<&'static str> {
        let (log, last) = (&self.log, self.log.last().index);
        if log.applied > log.applying {
            return Some("more is applied than was handed out");
        }
        if log.applying > log.committed {
            return Some("more is handed out than is committed");
        }
        if log.committed > last {
            return Some("more is committed than the log has");
        }
        if !log.unstable.ends_at(last) {
            return Some("the unstable tail is not the end of the log");
        }
        if self.term < before.term {
            return Some("the term went back");
        }
        if self.term == before.term && before.vote != 0 && self.vote != before.vote {
            return Some("a vote was given twice");
        }
        if log.committed < before.commit {
            return Some("the commit index went back");
        }
        match &self.role {
            Role::Leader(_) if self.leader != self.id => Some("a leader follows another"),
            Role::Leader(leadership) if leadership.term_start > last => {
                Some("a leader without an entry of its term")
            }
            Role::Candidate(_) if self.vote != self.id => {
                Some("a candidate that votes for another")
            }
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Config;
    use crate::message::RoleKind;
    use crate::node::RawNode;
    use crate::ready::Ready;
    use crate::storage::MemoryStorage;

    type Node = RawNode<MemoryStorage>;
    type Break = fn(&mut Node);

    /// A lone leader in term 1, with its first entry committed, and nothing to do.
    fn node() -> Node {
        let config = Config {
            pre_vote: false,
            ..Config::new(1)
        };
        let mut node = RawNode::new(config, MemoryStorage::with_voters(&[1])).unwrap();
        node.campaign().unwrap();
        while node.has_ready() {
            let ready = node.ready();
            node.storage_mut().append(&ready.entries).unwrap();
            node.advance();
        }
        assert_eq!((node.role(), node.commit_index()), (RoleKind::Leader, 2));
        node
    }

    #[test]
    fn a_broken_invariant_stops_the_group_and_no_other() {
        let breaks: [(&str, Break); 9] = [
            ("more is applied than was", |it| it.raft.log.applied = 99),
            ("more is handed out than", |it| it.raft.log.applying = 99),
            ("more is committed than", |it| {
                it.raft.log.committed = 99;
            }),
            ("not the end of the log", |it| {
                it.raft.log.unstable.offset = 1
            }),
            ("the term went back", |it| it.raft.term = 0),
            ("given twice", |it| it.raft.vote = 2),
            ("the commit index went back", |it| {
                (it.raft.log.committed, it.raft.log.applying) = (1, 1);
                it.raft.log.applied = 1;
            }),
            ("follows another", |it| it.raft.leader = 2),
            ("without an entry", |it| {
                it.raft.leadership().unwrap().term_start = 99;
            }),
        ];
        let mut other = node();
        for (expected, break_it) in breaks {
            let mut node = node();
            break_it(&mut node);
            assert_eq!(node.ready(), Ready::default(), "{expected}");
            let fault = node.fault().expect(expected).clone();
            assert!(fault.to_string().contains(expected), "{fault}");
            assert!(matches!(fault, Fault::Invariant(_)));
            assert!(!node.has_ready());
            assert_eq!(node.propose("x".into()), Err(fault.clone().into()));
            assert_eq!(node.campaign(), Err(fault.into()));
            node.tick();
            node.advance();
            other.propose("x".into()).unwrap();
            assert!(!other.ready().entries.is_empty());
            other.advance();
        }
    }
}
