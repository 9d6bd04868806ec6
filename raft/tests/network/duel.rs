//! Two who take turns at leading, and a third who hears both and is too slow to store what it hears: each
//! replaces what the other told it, while that is still being written (the ABA problem, see
//! `append_response` in `src/ready.rs`).

use std::collections::BTreeSet;

use henge_raft::RoleKind;

use crate::sim::Sim;

const ROUNDS_MAX: u64 = 4;
/// Steps a rival gets to be elected, and campaigns within them.
const ELECTION_STEPS_MAX: usize = 90;
const CAMPAIGNS_MAX: usize = 3;
const LISTENING_STEPS_MAX: u64 = 40;
const PEACE_STEPS_MAX: u64 = 400;

impl Sim {
    pub fn duel(&mut self) {
        if !self.options.is_async {
            return;
        }
        let mut ids = self.first_members.clone();
        let first = self.below(ids.len() as u64) as usize;
        ids.rotate_left(first);
        let (rivals, listener) = ([ids[0], ids[1]], ids[2]);
        self.options.slow_inbox = listener;
        let rounds = 2 + self.below(ROUNDS_MAX - 1);
        for round in 0..rounds {
            let at = (round % 2) as usize;
            let (rival, other) = (rivals[at], rivals[1 - at]);
            if self.chance(500) {
                self.lose_wire();
            }
            // Elected without the listener, whose vote would wait for its disk.
            let mut supporters: BTreeSet<u64> = self.hosts.keys().copied().collect();
            supporters.remove(&other);
            supporters.remove(&listener);
            self.side = supporters.clone();
            let is_last = round + 1 == rounds;
            if !is_last && self.chance(200) {
                // Before its own disk has heard of it, if that were possible; then it forgets it again.
                self.elect(rival, false);
                self.listen(rival, listener);
                self.crash(rival);
            }
            self.elect(rival, true);
            // Nobody but the listener hears of the one who will be overthrown.
            self.side = match is_last {
                true => supporters,
                false => BTreeSet::from([rival]),
            };
            self.side.insert(listener);
            self.listen(rival, listener);
            if is_last {
                // What the disk did late is known to the others before the listener itself knows.
                self.drain_disk(listener);
                self.listen(rival, listener);
            }
        }
        // The last one leads on, while the listener's disk is as slow as ever.
        self.heal();
        if self.chance(500) {
            self.lose_wire();
        }
        for _ in 0..self.below(PEACE_STEPS_MAX) {
            self.spend_step();
            if self.chance(150) {
                self.tick_most();
            }
            self.deliver_within();
            self.work_all_but_disk(listener);
        }
    }

    fn elect(&mut self, rival: u64, with_disk: bool) {
        let voters: Vec<u64> = self.side.iter().copied().collect();
        self.restart(rival);
        for step in 0..ELECTION_STEPS_MAX {
            if step % (ELECTION_STEPS_MAX / CAMPAIGNS_MAX) == 0 {
                // Nobody keeps to the leader before.
                for id in &voters {
                    if let Some(node) = self.node(*id) {
                        node.forget_leader();
                    }
                }
                self.campaign(rival);
            }
            let role = self.node(rival).map(|node| node.role());
            if role == Some(RoleKind::Leader) {
                return;
            }
            self.spend_step();
            let near = voters[self.below(voters.len() as u64) as usize];
            if with_disk || near != rival {
                self.work_append(near);
            }
            self.deliver_within();
        }
    }

    /// The rival leads; the listener's disk does all there is to do at once, at some time or not at all.
    fn listen(&mut self, rival: u64, listener: u64) {
        let steps = self.below(LISTENING_STEPS_MAX);
        let burst = self.below(4 * LISTENING_STEPS_MAX);
        let inbox = [0, 0, 0, 0, 0, 200][self.below(6) as usize];
        // Who says more replaces all that the other said.
        let talk = [50, 150, 500][self.below(3) as usize];
        for step in 0..steps {
            self.spend_step();
            if self.chance(talk) {
                self.propose(rival);
                self.handle_ready(rival);
            }
            for id in self.side.clone() {
                if id != listener && self.chance(500) {
                    self.work_append(id);
                }
            }
            self.deliver_within();
            if step == burst {
                self.drain_disk(listener);
            }
            if self.chance(inbox) {
                self.work_inbox(listener);
            }
        }
    }

    fn drain_disk(&mut self, id: u64) {
        for _ in 0..self.host(id).append_work.len() {
            self.work_append(id);
        }
    }

    /// Someone's threads work, but not the append thread of `slow`.
    fn work_all_but_disk(&mut self, slow: u64) {
        let id = self.any_id();
        match id == slow {
            true => self.work_inbox(id),
            false => self.work_append(id),
        }
        self.work_apply(id);
    }

    fn spend_step(&mut self) {
        self.steps_left = self.steps_left.saturating_sub(1);
    }
}
