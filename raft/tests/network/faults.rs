//! What goes wrong: cuts, pauses, crashes, and what a host may do at any time.

use std::collections::BTreeSet;

use bytes::Bytes;
use henge_raft::{ConfState, Config, NONE, RawNode, Storage};

use crate::sim::Sim;

/// Enough for figure 8 and a little more.
const EPISODES_MAX: u64 = 8;

impl Sim {
    /// Cuts the cluster in two, or some links one way. Half of the time along a line that matters:
    /// around a leader, or around the fewest with whom it can go on; should the others find enough votes
    /// among themselves (and one of them may try at once), the two sides go different ways.
    pub fn cut(&mut self) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        let leader = self
            .leader()
            .map(|leader| (leader.id(), leader.conf_state()));
        match (self.below(6), leader) {
            (0, Some((leader, _))) => self.side = BTreeSet::from([leader]),
            (1 | 2, Some(_)) => self.cut_around_leader(),
            (3, _) => {
                let links = ids
                    .iter()
                    .flat_map(|from| ids.iter().map(|to| (*from, *to)));
                self.broken = links.filter(|_| self.chance(300)).collect();
            }
            _ => self.side = ids.into_iter().filter(|_| self.chance(400)).collect(),
        }
    }

    /// Leaves the leader the fewest with whom it can go on.
    pub fn cut_around_leader(&mut self) {
        let Some(leader) = self.leader() else { return };
        let (leader, state) = (leader.id(), leader.conf_state());
        self.side = self.bare_majority(leader, &state);
        if self.chance(500) {
            self.propose(leader);
        }
        if self.chance(700) {
            self.replace_leader();
        }
    }

    /// The hosts of those who are cut off from the leader, or see it paused, know better than any
    /// timeout that it is gone, and one of them tries to lead.
    fn replace_leader(&mut self) {
        let others: Vec<u64> = self.hosts.keys().copied().collect();
        let others: Vec<u64> = others
            .into_iter()
            .filter(|id| !self.side.contains(id) && *id != self.paused)
            .filter(|id| *id <= self.first_members.len() as u64)
            .collect();
        for id in &others {
            if let Some(node) = self.node(*id) {
                node.forget_leader();
            }
        }
        if !others.is_empty() {
            let one = others[self.below(others.len() as u64) as usize];
            self.campaign(one);
        }
    }

    /// Several [`episode`](Sim::episode)s in a row, without peace in between.
    pub fn episodes(&mut self) {
        for _ in 0..=self.below(EPISODES_MAX) {
            // Who has tried before, or is slow, leaves more behind.
            let id = match self.below(8) {
                0 if self.options.slow_disk != NONE => self.options.slow_disk,
                1 | 2 if self.last_candidate != NONE => self.last_candidate,
                _ => 1 + self.below(self.first_members.len() as u64),
            };
            self.last_candidate = id;
            self.episode(id);
        }
        if self.chance(700) {
            self.heal();
        }
    }

    /// Someone wants to lead, and for a while only a few hear of it: what the paper's figures 7 and 8 are
    /// made of. At the end it may crash, or try again.
    fn episode(&mut self, id: u64) {
        self.restart(id);
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        self.side = ids.into_iter().filter(|_| self.chance(550)).collect();
        self.side.insert(id);
        self.campaign(id);
        let length = [15, 40, 100][self.below(3) as usize];
        let steps = self.below(length);
        self.steps_left = self.steps_left.saturating_sub(steps);
        for _ in 0..steps {
            match self.below(20) {
                0 => self.propose(id),
                1 => self.work_somewhere(id, |host| &host.apply_work, Self::work_apply),
                2..8 => {
                    let near = self.any_id();
                    self.work_somewhere(near, |host| &host.append_work, Self::work_append);
                }
                _ => self.deliver_within(),
            }
            self.handle_ready(id);
        }
        if self.chance(200) {
            self.crash(id);
            self.restart(id);
        }
        if self.chance(500) {
            self.lose_wire();
        }
        if self.chance(200) {
            self.campaign(id);
        }
    }

    pub fn campaign(&mut self, id: u64) {
        if let Some(node) = self.node(id) {
            let _ = node.campaign();
        }
        self.handle_ready(id);
    }

    pub fn heal(&mut self) {
        self.side.clear();
        self.broken.clear();
    }

    pub fn is_cut(&self, from: u64, to: u64) -> bool {
        self.side.contains(&from) != self.side.contains(&to) || self.broken.contains(&(from, to))
    }

    /// `leader` and just enough others for a majority of the incoming voters, newcomers first.
    fn bare_majority(&mut self, leader: u64, state: &ConfState) -> BTreeSet<u64> {
        let mut others = state.voters.clone();
        others.retain(|id| *id != leader);
        if !others.is_empty() {
            let first = self.below(others.len() as u64) as usize;
            others.rotate_left(first);
        }
        others.sort_by_key(|id| state.voters_outgoing.contains(id));
        let needed = state.voters.len() / 2 + usize::from(!state.voters.contains(&leader));
        others.truncate(needed);
        others.into_iter().chain([leader]).collect()
    }

    /// Stops a node in the middle of everything; half of the time one whose silence matters.
    pub fn pause(&mut self, id: u64) {
        if self.paused != NONE {
            return;
        }
        let leader = self.leader().map(RawNode::id).filter(|_| self.chance(700));
        let id = leader.unwrap_or(id);
        // In the middle of a read, for one thing.
        self.read(id);
        self.handle_ready(id);
        if self.chance(500) {
            let near = self.wire.len().min(3);
            (0..near).for_each(|_| self.deliver_within());
        }
        self.paused = id;
        if self.chance(500) {
            self.replace_leader();
        }
    }

    /// It goes on where it was, and may be asked at once what it believes; then comes what was sent to it
    /// meanwhile, the oldest first.
    pub fn resume(&mut self) {
        let id = std::mem::replace(&mut self.paused, NONE);
        if id == NONE {
            return;
        }
        if self.chance(500) {
            self.read(id);
            self.handle_ready(id);
        }
        let count = self.wire.iter().filter(|message| message.to == id).count();
        for _ in 0..self.below(count as u64 + 1) {
            let Some(at) = self.wire.iter().position(|message| message.to == id) else {
                return;
            };
            let message = self.wire.remove(at);
            self.deliver(message);
        }
    }

    /// Half of the time where something is lost by it.
    pub fn crash_somewhere(&mut self, id: u64) {
        let mut busy = self
            .hosts
            .range(id..)
            .filter(|(_, host)| !host.append_work.is_empty());
        let victim = busy.next().map_or(id, |(busy, _)| *busy);
        let id = if self.chance(500) { victim } else { id };
        self.crash(id);
        if self.chance(600) {
            self.restart(id);
            // Some hosts do not wait for a timeout after a restart.
            if self.chance(300) {
                self.campaign(id);
            }
        }
    }

    /// Loses everything that is not durable.
    pub fn crash(&mut self, id: u64) {
        if self.paused == id {
            self.paused = NONE;
        }
        let host = self.host(id);
        host.append_work.clear();
        host.apply_work.clear();
        host.inbox.clear();
        if let Some(node) = host.node.take() {
            host.disk.log = Some(node.storage().clone());
            self.crashes += 1;
        }
    }

    pub fn restart(&mut self, id: u64) {
        let (options, seed) = (self.options, self.throw());
        let host = self.host(id);
        let Some(mut log) = host.disk.log.take() else {
            return;
        };
        log.set_hard_state(host.disk.hard_state);
        host.disk.hard_state_unsynced = host.disk.hard_state;
        // The state machine starts from its last snapshot.
        host.applied = log.snapshot().map_or(0, |snapshot| snapshot.meta.index);
        let config = Config {
            applied: host.applied,
            election_tick: options.election_tick,
            async_storage_writes: options.is_async,
            check_quorum: options.check_quorum,
            pre_vote: options.pre_vote,
            max_inflight_msgs: options.inflight,
            max_size_per_msg: options.message_bytes,
            random_seed: seed,
            ..Config::new(id)
        };
        host.node = Some(RawNode::new(config, log).expect("what was durable makes sense"));
    }

    pub fn compact(&mut self, id: u64) {
        let applied = self.host(id).applied;
        let Some(node) = self.node(id) else { return };
        // What the node does not know to be applied must stay readable; and it is the host's own business to
        // know which configuration belongs to an index that is not the last one it applied.
        if node.applied_index() < applied {
            return;
        }
        let (index, state) = (applied, node.conf_state());
        let storage = node.storage_mut();
        if storage
            .create_snapshot(index, Some(state), Bytes::new())
            .is_ok()
        {
            let _ = storage.compact(index);
        }
    }

    /// Things a host may do at any time.
    pub fn disturb(&mut self, id: u64) {
        let (what, other) = (self.below(5), self.any_id());
        let Some(node) = self.node(id) else { return };
        match what {
            0 => node.transfer_leader(other),
            1 | 2 => drop(node.campaign()),
            3 => node.forget_leader(),
            _ => node.report_unreachable(other),
        }
    }
}
