//! The cluster, its disks and its network, all driven by one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use henge_raft::{MemoryStorage, Message, NONE, RawNode, RoleKind, Storage};

use crate::host::{Disk, Host};
use crate::rules::Rules;

/// Nodes that can join beside the first members.
const SPARE_NODES: u64 = 2;
/// Rounds a healed cluster gets to commit and apply something new everywhere.
const ROUNDS_MAX: usize = 3_000;
/// It is asked to do so now and then, not faster than a small window can carry it.
const PROPOSE_ROUNDS: usize = 50;

pub struct Sim {
    pub dice: u64,
    pub hosts: BTreeMap<u64, Host>,
    pub first_members: Vec<u64>,
    pub wire: Vec<Message>,
    /// Cut off from all others. What is on the wire across the cut may arrive later.
    pub side: BTreeSet<u64>,
    /// Links, (from, to), on which nothing arrives.
    pub broken: BTreeSet<(u64, u64)>,
    /// Stopped in the middle of everything (SIGSTOP, a virtual machine that moves), or [`NONE`]: its
    /// clock stands still, and what is sent to it waits.
    pub paused: u64,
    /// Of the last episode.
    pub last_candidate: u64,
    /// An episode takes many at once.
    pub steps_left: u64,
    pub rules: Rules,
    pub options: Options,
    pub proposals: u64,
    pub changes: u64,
    pub crashes: u64,
    pub trace: u64,
}

#[derive(Clone, Copy)]
enum Action {
    Tick,
    Deliver,
    Append,
    Apply,
    Inbox,
    Propose,
    Read,
    Change,
    Cut,
    Heal,
    Crash,
    Restart,
    Compact,
    Disturb,
    Pause,
    Resume,
    Episode,
    Duel,
}

#[derive(Clone, Copy)]
pub struct Options {
    pub election_tick: u32,
    pub is_async: bool,
    pub check_quorum: bool,
    pub pre_vote: bool,
    pub inflight: usize,
    pub message_bytes: u64,
    /// Chances in 1,000.
    pub loss: u64,
    pub double: u64,
    /// Whose disk takes long, or [`NONE`].
    pub slow_disk: u64,
    pub slow_chance: u64,
    /// Who hears late what its own threads have done, or [`NONE`].
    pub slow_inbox: u64,
    /// Everybody wants to lead, all the time: entries are overwritten before they are committed, as in
    /// figure 8 of the paper.
    pub is_fickle: bool,
    /// The run begins with `aba`.
    pub begins_with_aba: bool,
}

impl Sim {
    pub fn new(seed: u64) -> Sim {
        let mut sim = Sim {
            dice: seed,
            hosts: BTreeMap::new(),
            first_members: Vec::new(),
            wire: Vec::new(),
            side: BTreeSet::new(),
            broken: BTreeSet::new(),
            paused: NONE,
            last_candidate: NONE,
            steps_left: 0,
            rules: Rules::default(),
            options: Options {
                election_tick: 10,
                is_async: true,
                check_quorum: false,
                pre_vote: false,
                inflight: 1,
                message_bytes: 0,
                loss: 0,
                double: 0,
                slow_disk: NONE,
                slow_chance: 0,
                slow_inbox: NONE,
                is_fickle: false,
                begins_with_aba: false,
            },
            proposals: 0,
            changes: 0,
            crashes: 0,
            trace: 0,
        };
        sim.options = Options {
            election_tick: 3 + sim.below(8) as u32,
            is_async: sim.chance(800),
            check_quorum: sim.chance(500),
            pre_vote: sim.chance(500),
            inflight: 1 + sim.below(6) as usize,
            message_bytes: sim.below(3) * 60,
            loss: sim.below(3) * 30,
            double: sim.below(3) * 40,
            slow_disk: match sim.below(3) {
                0 => 1 + sim.below(3),
                _ => NONE,
            },
            slow_chance: 20 + sim.below(3) * 100,
            slow_inbox: match sim.below(4) {
                0 => 1 + sim.below(3),
                _ => NONE,
            },
            is_fickle: sim.chance(300),
            begins_with_aba: false,
        };
        if sim.options.is_fickle {
            // Either would keep the peace.
            (sim.options.check_quorum, sim.options.pre_vote) = (false, sim.chance(300));
        }
        let spread = if sim.chance(400) { 5 } else { 2 };
        let count = 3 + sim.below(spread);
        sim.first_members = (1..=count).collect();
        for id in 1..=count + SPARE_NODES {
            let log = match id <= count {
                true => MemoryStorage::with_voters(&sim.first_members),
                false => MemoryStorage::new(),
            };
            let applied = log.snapshot().map_or(0, |snapshot| snapshot.meta.index);
            let disk = Disk {
                log: Some(log),
                ..Disk::default()
            };
            sim.hosts.insert(
                id,
                Host {
                    node: None,
                    disk,
                    append_work: VecDeque::new(),
                    apply_work: VecDeque::new(),
                    inbox: VecDeque::new(),
                    applied,
                    applied_by_snapshot: 0,
                },
            );
            sim.restart(id);
        }
        // Of fewer than five, nobody is elected without the listener and a rival.
        sim.options.begins_with_aba = sim.options.is_async && count >= 5 && seed % 8 == 7;
        sim
    }

    /// Commands, reads, membership changes and crashes.
    pub fn counts(&self) -> [u64; 4] {
        [
            self.rules.commands,
            self.rules.reads_done,
            self.changes,
            self.crashes,
        ]
    }

    /// A number that depends on all that happened.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    pub fn run(&mut self, steps: usize) {
        let weights = self.weights();
        let total = weights.iter().map(|(_, weight)| weight).sum();
        self.steps_left = steps as u64;
        if self.options.begins_with_aba {
            self.aba();
        }
        while self.steps_left > 0 {
            self.steps_left -= 1;
            let id = self.any_id();
            let mut point = self.below(total);
            let chosen = weights.iter().find(|(_, weight)| {
                let is_here = point < *weight;
                point = point.saturating_sub(*weight);
                is_here
            });
            if let Some((action, _)) = chosen {
                self.act(*action, id);
            }
            self.handle_ready(id);
        }
    }

    /// How often each thing happens. Every seed has its own character (swarm testing: Groce et al.,
    /// 2012): in one hardly anything is applied, in another nodes crash all the time.
    fn weights(&mut self) -> Vec<(Action, u64)> {
        let usual = [
            (Action::Tick, 12),
            (Action::Deliver, 800),
            (Action::Append, 160),
            (Action::Apply, 150),
            (Action::Inbox, 10),
            (Action::Propose, 80),
            (Action::Read, 30),
            (Action::Change, 20),
            (Action::Cut, 4),
            (Action::Heal, 6),
            (Action::Crash, 3),
            (Action::Restart, 24),
            (Action::Compact, 6),
            (Action::Disturb, 6),
            (Action::Pause, 3),
            (Action::Resume, 3),
            (Action::Episode, 2),
            // Of fewer than five, nobody is elected without the other two.
            (Action::Duel, 2 * u64::from(self.first_members.len() >= 5)),
        ];
        usual
            .map(|(action, weight)| (action, weight * self.factor(action)))
            .to_vec()
    }

    fn factor(&mut self, action: Action) -> u64 {
        let factors = match action {
            Action::Episode if self.options.is_fickle => [4, 10, 25],
            Action::Duel => [0, 4, 16],
            Action::Episode => [0, 1, 2],
            Action::Crash | Action::Disturb => [1, 4, 20],
            Action::Append => [1, 2, 8],
            _ => [1, 2, 6],
        };
        factors[self.below(3) as usize]
    }

    fn act(&mut self, action: Action, id: u64) {
        match action {
            Action::Tick => self.tick_most(),
            // When nothing is under way, time passes.
            Action::Deliver if self.is_idle() => self.tick_most(),
            Action::Deliver => self.deliver_any(),
            Action::Append => self.work_somewhere(id, |host| &host.append_work, Self::work_append),
            Action::Apply => self.work_somewhere(id, |host| &host.apply_work, Self::work_apply),
            Action::Inbox if self.options.slow_inbox == NONE => {}
            Action::Inbox => self.work_inbox(self.options.slow_inbox),
            Action::Propose => self.propose(id),
            Action::Read => self.read(id),
            Action::Change => self.change_members(id),
            Action::Cut => self.cut(),
            Action::Heal => self.heal(),
            Action::Crash => self.crash_somewhere(id),
            Action::Restart => self.restart(id),
            Action::Compact => self.compact(id),
            Action::Disturb => self.disturb(id),
            Action::Pause => self.pause(id),
            Action::Resume => self.resume(),
            Action::Episode => self.episodes(),
            Action::Duel => self.duel(),
        }
    }

    /// Everything works again: the group must go on, and everyone must get to the same state.
    pub fn heal_and_finish(&mut self) {
        self.heal();
        self.paused = NONE;
        (self.options.loss, self.options.double) = (0, 0);
        (self.options.slow_disk, self.options.slow_inbox) = (NONE, NONE);
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        ids.iter().for_each(|id| self.restart(*id));
        let target = self.rules.applied_max() + 1;
        for round in 0..ROUNDS_MAX {
            for &id in &ids {
                self.tick(id);
                if round % PROPOSE_ROUNDS == 0 {
                    self.leave_joint(id);
                    self.propose(id);
                }
                self.settle(id);
            }
            if self.all_members_have(target) {
                return;
            }
        }
        let status: Vec<_> = self
            .hosts
            .values()
            .flat_map(|host| &host.node)
            .map(|node| node.status())
            .collect();
        panic!("the healed group does not go on to {target}: {status:?}");
    }

    fn all_members_have(&self, target: u64) -> bool {
        let nodes = self.hosts.values().filter_map(|host| host.node.as_ref());
        let Some(newest) = nodes.max_by_key(|node| node.commit_index()) else {
            return false;
        };
        let state = newest.conf_state();
        let is_settled = state.voters_outgoing.is_empty();
        is_settled
            && self
                .hosts
                .iter()
                .filter(|(id, _)| state.contains(**id))
                .all(|(_, it)| it.applied >= target)
    }

    fn settle(&mut self, id: u64) {
        // Messages of others are delivered here, too: order between nodes does not matter now.
        loop {
            self.handle_ready(id);
            self.work_append(id);
            self.work_apply(id);
            self.work_inbox(id);
            let Some(at) = self.wire.iter().position(|message| message.to == id) else {
                break;
            };
            let message = self.wire.remove(at);
            self.deliver(message);
        }
    }

    /// Time passes for everyone, but clocks differ.
    pub fn tick_most(&mut self) {
        for id in 1..=self.first_members.len() as u64 + SPARE_NODES {
            if self.chance(900) {
                self.tick(id);
                self.handle_ready(id);
            }
        }
    }

    pub fn tick(&mut self, id: u64) {
        if let Some(node) = self.node(id) {
            node.tick();
        }
    }

    pub fn is_idle(&self) -> bool {
        let has_work = |host: &Host| {
            let queues = [&host.append_work, &host.apply_work, &host.inbox];
            queues.iter().any(|queue| !queue.is_empty())
        };
        self.wire.is_empty() && !self.hosts.values().any(has_work)
    }

    pub fn host(&mut self, id: u64) -> &mut Host {
        self.hosts
            .get_mut(&id)
            .expect("ids come from any_id or from the hosts")
    }

    pub fn node(&mut self, id: u64) -> Option<&mut RawNode<MemoryStorage>> {
        match id == self.paused {
            true => None,
            false => self.hosts.get_mut(&id)?.node.as_mut(),
        }
    }

    /// The leader of the newest term.
    pub fn leader(&self) -> Option<&RawNode<MemoryStorage>> {
        let nodes = self.hosts.values().filter_map(|host| host.node.as_ref());
        let leaders = nodes.filter(|node| node.role() == RoleKind::Leader);
        leaders.max_by_key(|node| node.term())
    }

    pub fn any_id(&mut self) -> u64 {
        1 + self.below(self.first_members.len() as u64 + SPARE_NODES)
    }

    pub fn note(&mut self, what: u64) {
        self.trace = self.trace.wrapping_mul(31).wrapping_add(what);
    }

    pub fn chance(&mut self, per_thousand: u64) -> bool {
        self.below(1_000) < per_thousand
    }

    pub fn below(&mut self, limit: u64) -> u64 {
        self.throw() % limit
    }

    /// SplitMix64.
    pub fn throw(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
