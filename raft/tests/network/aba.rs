//! How some runs begin: a listener whose threads are slow hears an entry from one leader, another at the
//! same index from a second, and the first entry again, because the first leads once more (the ABA
//! problem, see `append_response` in `src/ready.rs`). What its disk says of the first time must not be
//! taken for the last: then the disk holds the second leader's entry.
//!
//! Step by step, because by chance alone it hardly comes to this (one of 2,000 seeds in which two rivals
//! take turns, `duel`).

use henge_raft::RoleKind;

use crate::sim::Sim;

const ELECTION_STEPS_MAX: usize = 200;
/// A candidate that was refused, or not heard, tries again.
const CAMPAIGN_STEPS: usize = 40;
const ROUNDS_MAX: usize = 100;

impl Sim {
    /// In a cluster that has done nothing yet.
    pub fn aba(&mut self) {
        let mut ids = self.first_members.clone();
        let by = self.below(ids.len() as u64) as usize;
        ids.rotate_left(by);
        let [a, b, listener, ref others @ ..] = ids[..] else {
            return;
        };
        self.options.slow_inbox = listener;
        let with = |leader: u64| -> Vec<u64> { [&[leader], others].concat() };
        for rival in [a, b] {
            self.elect_by(rival, &with(rival));
            self.whisper(&[rival, listener]);
            self.lose_wire();
        }
        self.crash(a);
        self.restart(a);
        self.elect_by(a, &with(a));
        // What is replicated and committed now is not known to the listener.
        self.talk(&with(a));
        self.whisper(&[a, listener]);
        // Its disk answers the leader, and so learns the leader what to send, before the listener has heard
        // of its own disk.
        while !self.host(listener).append_work.is_empty() {
            self.work_append(listener);
        }
        self.whisper(&[a, listener]);
        self.work_inbox(listener);
        for _ in 0..self.host(listener).apply_work.len() {
            self.work_apply(listener);
        }
        self.options.slow_inbox = self.first_members[self.first_members.len() - 1];
    }

    /// Makes `rival` the leader by the votes of these, who hear of nothing that it says as one.
    fn elect_by(&mut self, rival: u64, voters: &[u64]) {
        for step in 0..ELECTION_STEPS_MAX {
            if self.node(rival).map(|node| node.role()) == Some(RoleKind::Leader) {
                break;
            }
            if step % CAMPAIGN_STEPS == 0 {
                // Nobody keeps to the leader before.
                for id in voters {
                    if let Some(node) = self.node(*id) {
                        node.forget_leader();
                    }
                }
                self.campaign(rival);
            }
            let id = voters[step % voters.len()];
            self.work_append(id);
            self.pass(voters);
        }
        // The leader's first entry becomes durable.
        while !self.host(rival).append_work.is_empty() {
            self.work_append(rival);
        }
    }

    /// These say what they have to say to each other, and store nothing new.
    fn whisper(&mut self, ids: &[u64]) {
        for _ in 0..ROUNDS_MAX {
            if !self.pass(ids) {
                break;
            }
        }
    }

    /// These work and talk to each other until nothing is left to do.
    fn talk(&mut self, ids: &[u64]) {
        for _ in 0..ROUNDS_MAX {
            for id in ids {
                self.work_append(*id);
                self.work_apply(*id);
            }
            self.pass(ids);
        }
    }

    /// Delivers a message from one of these to another, if there is one.
    fn pass(&mut self, ids: &[u64]) -> bool {
        let is_theirs = |id: &u64| ids.contains(id);
        let mut wire = self.wire.iter();
        let found = wire.position(|it| is_theirs(&it.from) && is_theirs(&it.to));
        if let Some(at) = found {
            let message = self.wire.remove(at);
            self.deliver(message);
        }
        found.is_some()
    }
}
