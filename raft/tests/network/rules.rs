//! What must hold in every raft cluster (paper, figure 3), checked from outside.

use std::collections::BTreeMap;

use henge_raft::{ConfState, Entry, RawNode, RoleKind, Storage};

/// What has been seen so far, by anyone.
#[derive(Default)]
pub struct Rules {
    leaders: BTreeMap<u64, u64>,
    /// Every entry ever stored, by (index, term): its payload and the term of the entry before.
    stored: BTreeMap<(u64, u64), (Vec<u8>, u64)>,
    /// What was applied at each index.
    applied: BTreeMap<u64, Entry>,
    configurations: BTreeMap<u64, ConfState>,
    /// Reads under way: the highest index applied anywhere when it was asked for.
    reads: BTreeMap<u64, u64>,
    pub commands: u64,
    pub reads_done: u64,
}

impl Rules {
    /// The highest index applied by anyone: its write may have been acknowledged to a client.
    pub fn applied_max(&self) -> u64 {
        self.applied.last_key_value().map_or(0, |(index, _)| *index)
    }

    /// Election Safety and Leader Completeness.
    pub fn check_node<S: Storage>(&mut self, node: &RawNode<S>) {
        assert_eq!(node.fault(), None, "node {} stopped", node.id());
        assert!(node.commit_index() <= node.last_index());
        assert!(node.applied_index() <= node.commit_index());
        if node.role() != RoleKind::Leader {
            return;
        }
        let first = *self.leaders.entry(node.term()).or_insert(node.id());
        assert_eq!(first, node.id(), "two leaders in term {}", node.term());
        // A leader of an old term, cut off, cannot know what came after it.
        let newest = self.leaders.last_key_value().map_or(0, |(term, _)| *term);
        if node.term() == newest {
            let (last, applied) = (node.last_index(), self.applied_max());
            assert!(
                last >= applied,
                "leader {} lacks {applied}, has {last}",
                node.id()
            );
        }
    }

    /// Log Matching: an index and a term name an entry, and all before it.
    pub fn check_stored(&mut self, entries: &[Entry], mut term_before: u64) {
        for entry in entries {
            let now = (entry.data.to_vec(), term_before);
            let known = self
                .stored
                .entry((entry.index, entry.term))
                .or_insert_with(|| now.clone());
            assert_eq!(*known, now, "two entries {}/{}", entry.term, entry.index);
            term_before = entry.term;
        }
    }

    /// State Machine Safety: everybody applies the same, in order.
    pub fn check_applied(&mut self, id: u64, entry: &Entry, before: u64) {
        assert_eq!(
            entry.index,
            before + 1,
            "node {id} leaves entries out, or repeats them"
        );
        if let Some(known) = self.applied.get(&entry.index) {
            assert_eq!(known, entry, "node {id} applies something else");
        } else {
            self.commands += u64::from(!entry.data.is_empty());
            self.applied.insert(entry.index, entry.clone());
        }
    }

    /// The same change gives the same configuration everywhere.
    pub fn check_configuration(&mut self, index: u64, state: &ConfState) {
        let known = self
            .configurations
            .entry(index)
            .or_insert_with(|| state.clone());
        assert!(
            known.is_equivalent(state),
            "different configurations at {index}"
        );
    }

    pub fn read_asked(&mut self, read: u64) {
        self.reads.insert(read, self.applied_max());
    }

    /// Reads are linearizable: they see what was acknowledged before they were asked for.
    pub fn check_read(&mut self, read: u64, index: u64) {
        let Some(floor) = self.reads.get(&read) else {
            panic!("read {read} was never asked for")
        };
        assert!(
            index >= *floor,
            "stale read {read}: index {index}, {floor} was acknowledged"
        );
        self.reads_done += 1;
    }
}
