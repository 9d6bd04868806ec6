//! The cluster, its disks and its network, all driven by one seed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use henge_raft::membership::{ConfChangeKind, ConfChangeSingle, ConfChangeV2, Transition};
use henge_raft::{
    Config, Entry, EntryKind, HardState, LOCAL_APPEND_THREAD, MemoryStorage, Message, MessageKind,
    NONE, RawNode, RoleKind, Snapshot, SnapshotStatus, Storage, is_local_target,
};

use crate::rules::Rules;

/// Nodes that can join beside the first members.
const SPARE_NODES: u64 = 2;
/// Messages on the wire; more are lost, as they would be.
const WIRE_MAX: usize = 200;
/// Rounds a healed cluster gets to commit and apply something new everywhere.
const ROUNDS_MAX: usize = 3_000;
/// It is asked to do so now and then, not faster than a small window can carry it.
const PROPOSE_ROUNDS: usize = 50;

struct Host {
    /// `None` while it is down.
    node: Option<RawNode<MemoryStorage>>,
    /// What a restart finds. The log is in the node's storage, which only has what is durable.
    disk: Disk,
    append_work: VecDeque<Message>,
    apply_work: VecDeque<Message>,
    applied: u64,
    /// A snapshot can overtake entries that wait for the apply thread.
    applied_by_snapshot: u64,
}

#[derive(Default)]
struct Disk {
    log: Option<MemoryStorage>,
    /// May lag behind what storage was told: a commit index that nobody waits for is not synced.
    hard_state: HardState,
    hard_state_unsynced: HardState,
}

pub struct Sim {
    dice: u64,
    hosts: BTreeMap<u64, Host>,
    first_members: Vec<u64>,
    wire: Vec<Message>,
    /// Cut off from all others. What is on the wire across the cut may arrive later.
    side: BTreeSet<u64>,
    rules: Rules,
    options: Options,
    proposals: u64,
    changes: u64,
    crashes: u64,
    trace: u64,
}

#[derive(Clone, Copy)]
enum Action {
    Tick,
    Deliver,
    Append,
    Apply,
    Propose,
    Read,
    Change,
    Cut,
    Heal,
    Crash,
    Restart,
    Compact,
    Disturb,
}

#[derive(Clone, Copy)]
struct Options {
    election_tick: u32,
    is_async: bool,
    check_quorum: bool,
    pre_vote: bool,
    inflight: usize,
    message_bytes: u64,
    /// Chances in 1,000.
    loss: u64,
    double: u64,
}

impl Sim {
    pub fn new(seed: u64) -> Sim {
        let mut sim = Sim {
            dice: seed,
            hosts: BTreeMap::new(),
            first_members: Vec::new(),
            wire: Vec::new(),
            side: BTreeSet::new(),
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
        };
        let spread = if sim.chance(250) { 5 } else { 2 };
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
            let (append_work, apply_work) = (VecDeque::new(), VecDeque::new());
            sim.hosts.insert(
                id,
                Host {
                    node: None,
                    disk,
                    append_work,
                    apply_work,
                    applied,
                    applied_by_snapshot: 0,
                },
            );
            sim.restart(id);
        }
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
        for _ in 0..steps {
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
            (Action::Propose, 80),
            (Action::Read, 30),
            (Action::Change, 20),
            (Action::Cut, 4),
            (Action::Heal, 6),
            (Action::Crash, 3),
            (Action::Restart, 24),
            (Action::Compact, 6),
            (Action::Disturb, 6),
        ];
        usual
            .map(|(action, weight)| (action, weight * self.factor(action)))
            .to_vec()
    }

    fn factor(&mut self, action: Action) -> u64 {
        let factors = match action {
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
            Action::Propose => self.propose(id),
            Action::Read => self.read(id),
            Action::Change => self.change_members(id),
            Action::Cut => self.cut(),
            Action::Heal => self.side.clear(),
            Action::Crash => self.crash_somewhere(id),
            Action::Restart => self.restart(id),
            Action::Compact => self.compact(id),
            Action::Disturb => self.disturb(id),
        }
    }

    /// Everything works again: the group must go on, and everyone must get to the same state.
    pub fn heal_and_finish(&mut self) {
        self.side.clear();
        (self.options.loss, self.options.double) = (0, 0);
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        ids.iter().for_each(|id| self.restart(*id));
        let target = self.rules.applied_max() + 1;
        for round in 0..ROUNDS_MAX {
            for &id in &ids {
                self.tick(id);
                if round % PROPOSE_ROUNDS == 0 {
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
            let Some(at) = self.wire.iter().position(|message| message.to == id) else {
                break;
            };
            let message = self.wire.remove(at);
            self.deliver(message);
        }
    }

    /// Time passes for everyone, but clocks differ.
    fn tick_most(&mut self) {
        for id in 1..=self.first_members.len() as u64 + SPARE_NODES {
            if self.chance(900) {
                self.tick(id);
                self.handle_ready(id);
            }
        }
    }

    fn tick(&mut self, id: u64) {
        if let Some(node) = self.node(id) {
            node.tick();
        }
    }

    fn deliver_any(&mut self) {
        if self.wire.is_empty() {
            return;
        }
        let at = self.below(self.wire.len() as u64) as usize;
        let (from, to) = (self.wire[at].from, self.wire[at].to);
        let is_cut = self.side.contains(&from) != self.side.contains(&to);
        // Most of what is on the wire across a cut arrives when it is healed; meanwhile, time passes.
        if is_cut && !self.chance(50) {
            if self.chance(30) {
                self.tick_most();
            }
            return;
        }
        let message = match self.chance(self.options.double) {
            true => self.wire[at].clone(),
            false => self.wire.swap_remove(at),
        };
        if is_cut || self.chance(self.options.loss) {
            return self.lose(&message);
        }
        self.deliver(message);
    }

    fn deliver(&mut self, message: Message) {
        let (to, from, kind) = (message.to, message.from, message.kind);
        self.note(message.kind as u64 + message.to * 31 + message.index);
        if let Some(node) = self.node(to) {
            // Old members, forgotten by the rest, may say things that are refused.
            let _ = node.step(message);
        } else {
            return self.lose(&message);
        }
        if kind == MessageKind::Snap
            && let Some(sender) = self.node(from)
        {
            sender.report_snapshot(to, SnapshotStatus::Finish);
        }
        self.handle_ready(to);
    }

    /// The transport reports what it could not bring.
    fn lose(&mut self, message: &Message) {
        let (kind, to) = (message.kind, message.to);
        let report = self.chance(500);
        if let Some(node) = self.node(message.from) {
            if kind == MessageKind::Snap {
                node.report_snapshot(to, SnapshotStatus::Failure);
            } else if report {
                node.report_unreachable(to);
            }
        }
    }

    fn handle_ready(&mut self, id: u64) {
        let Some(node) = self.node(id).filter(|node| node.has_ready()) else {
            return;
        };
        let ready = node.ready();
        for state in &ready.read_states {
            let read = state.context.as_ref().try_into().map(u64::from_le_bytes);
            self.rules
                .check_read(read.expect("we only ask with numbers"), state.index);
        }
        if !self.options.is_async {
            let is_lazy = !ready.must_sync && self.chance(500);
            self.store(
                id,
                &ready.entries,
                ready.hard_state,
                ready.snapshot.as_ref(),
                is_lazy,
            );
            self.apply(id, &ready.committed_entries);
            if let Some(node) = self.node(id) {
                node.advance();
            }
        }
        for message in ready.messages {
            match message.to {
                to if !is_local_target(to) => self.put_on_wire(message),
                LOCAL_APPEND_THREAD => self.host(id).append_work.push_back(message),
                _ => self.host(id).apply_work.push_back(message),
            }
        }
        if let Some(node) = self.hosts.get(&id).and_then(|host| host.node.as_ref()) {
            self.rules.check_node(node);
        }
    }

    fn is_idle(&self) -> bool {
        let has_work = |host: &Host| !host.append_work.is_empty() || !host.apply_work.is_empty();
        self.wire.is_empty() && !self.hosts.values().any(has_work)
    }

    /// Lets the next node from `id` on work that has something to do.
    fn work_somewhere(
        &mut self,
        id: u64,
        work: fn(&Host) -> &VecDeque<Message>,
        handle: fn(&mut Self, u64),
    ) {
        let busy = |(_, host): &(&u64, &Host)| !work(host).is_empty();
        let next = self
            .hosts
            .range(id..)
            .chain(self.hosts.range(..id))
            .find(busy);
        if let Some((&next, _)) = next {
            handle(self, next);
        }
    }

    fn work_append(&mut self, id: u64) {
        let Some(work) = self.host(id).append_work.pop_front() else {
            return;
        };
        let is_lazy = work.responses.is_empty() && self.chance(500);
        self.store(
            id,
            &work.entries,
            work.hard_state(),
            work.snapshot.as_deref(),
            is_lazy,
        );
        self.respond(id, work.responses);
    }

    fn work_apply(&mut self, id: u64) {
        let Some(work) = self.host(id).apply_work.pop_front() else {
            return;
        };
        self.apply(id, &work.entries);
        self.respond(id, work.responses);
    }

    fn respond(&mut self, id: u64, responses: Vec<Message>) {
        for response in responses {
            if response.to != id {
                self.put_on_wire(response);
            } else if let Some(node) = self.node(id) {
                let _ = node.step(response);
            }
        }
        self.handle_ready(id);
    }

    fn store(
        &mut self,
        id: u64,
        entries: &[Entry],
        state: HardState,
        snapshot: Option<&Snapshot>,
        is_lazy: bool,
    ) {
        let host = self.host(id);
        let Some(node) = host.node.as_mut() else {
            return;
        };
        let storage = node.storage_mut();
        if let Some(snapshot) = snapshot {
            storage
                .apply_snapshot(snapshot.clone())
                .expect("raft only goes forward");
            host.applied = snapshot.meta.index;
            host.applied_by_snapshot = snapshot.meta.index;
        }
        storage.append(entries).expect("raft leaves no gaps");
        if !state.is_empty() {
            host.disk.hard_state_unsynced = state;
        }
        if !is_lazy {
            // Whoever is answered now relies on all that came before, too.
            host.disk.hard_state = host.disk.hard_state_unsynced;
        }
        if let Some(first) = entries.first() {
            let before = storage.term(first.index - 1).unwrap_or(0);
            self.rules.check_stored(entries, before);
        }
    }

    fn apply(&mut self, id: u64, entries: &[Entry]) {
        for entry in entries {
            let host = self.host(id);
            if entry.index <= host.applied_by_snapshot {
                continue;
            }
            let before = std::mem::replace(&mut host.applied, entry.index);
            self.rules.check_applied(id, entry, before);
            if entry.kind == EntryKind::Normal {
                continue;
            }
            let change = ConfChangeV2::from_entry(entry.kind, &entry.data).expect("we encoded it");
            let Some(node) = self.node(id) else { continue };
            let _ = node.apply_conf_change(&change);
            let state = node.conf_state();
            // So that a new member's snapshot names it.
            let _ =
                node.storage_mut()
                    .create_snapshot(entry.index, Some(state.clone()), Bytes::new());
            self.rules.check_configuration(entry.index, &state);
            self.changes += 1;
        }
    }

    fn propose(&mut self, id: u64) {
        self.proposals += 1;
        let data = self.proposals.to_le_bytes();
        if let Some(node) = self.node(id) {
            let _ = node.propose(Bytes::copy_from_slice(&data));
        }
    }

    fn read(&mut self, id: u64) {
        self.proposals += 1;
        let read = self.proposals;
        self.rules.read_asked(read);
        if let Some(node) = self.node(id) {
            node.read_index(Bytes::copy_from_slice(&read.to_le_bytes()));
        }
    }

    fn change_members(&mut self, id: u64) {
        // Without either, a removed member that still campaigns can lift a member to a term in which it
        // hears of no leader, for good; as in etcd's library. Groups that change need one of them.
        if !self.options.check_quorum && !self.options.pre_vote {
            return;
        }
        let mut changes = Vec::new();
        for _ in 0..=self.below(3) {
            let kind = match self.below(3) {
                0 => ConfChangeKind::AddNode,
                1 => ConfChangeKind::AddLearnerNode,
                _ => ConfChangeKind::RemoveNode,
            };
            changes.push(ConfChangeSingle {
                kind,
                node_id: self.any_id(),
            });
        }
        let transition = match self.below(3) {
            0 => Transition::JointImplicit,
            _ => Transition::Auto,
        };
        if let Some(node) = self.node(id).filter(|node| node.role() == RoleKind::Leader) {
            let change = ConfChangeV2 {
                transition,
                changes,
                context: Bytes::new(),
            };
            let _ = node.propose_conf_change(&change);
        }
    }

    /// Half of the time along a line that matters: through a joint configuration, or around a leader.
    fn cut(&mut self) {
        let ids: Vec<u64> = self.hosts.keys().copied().collect();
        self.side = ids.into_iter().filter(|_| self.chance(400)).collect();
        let nodes = self.hosts.values().filter_map(|host| host.node.as_ref());
        let Some(leader) = nodes.filter(|node| node.role() == RoleKind::Leader).last() else {
            return;
        };
        let (own, state) = (leader.id(), leader.conf_state());
        match self.below(4) {
            0 if !state.voters_outgoing.is_empty() => {
                self.side = state.voters.into_iter().collect()
            }
            1 => self.side = BTreeSet::from([own]),
            _ => {}
        }
    }

    /// Half of the time where something is lost by it.
    fn crash_somewhere(&mut self, id: u64) {
        let mut busy = self
            .hosts
            .range(id..)
            .filter(|(_, host)| !host.append_work.is_empty());
        let victim = busy.next().map_or(id, |(busy, _)| *busy);
        let id = if self.chance(500) { victim } else { id };
        self.crash(id);
        if self.chance(600) {
            self.restart(id);
        }
    }

    /// Loses everything that is not durable.
    fn crash(&mut self, id: u64) {
        let host = self.host(id);
        host.append_work.clear();
        host.apply_work.clear();
        if let Some(node) = host.node.take() {
            host.disk.log = Some(node.storage().clone());
            self.crashes += 1;
        }
    }

    fn restart(&mut self, id: u64) {
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

    fn compact(&mut self, id: u64) {
        let applied = self.host(id).applied;
        let Some(node) = self.node(id) else { return };
        // What is handed out to be applied and is not yet must stay readable.
        let index = applied.min(node.applied_index());
        let state = node.conf_state();
        let storage = node.storage_mut();
        if storage
            .create_snapshot(index, Some(state), Bytes::new())
            .is_ok()
        {
            let _ = storage.compact(index);
        }
    }

    /// Things a host may do at any time.
    fn disturb(&mut self, id: u64) {
        let (what, other) = (self.below(5), self.any_id());
        let Some(node) = self.node(id) else { return };
        match what {
            0 => node.transfer_leader(other),
            1 | 2 => drop(node.campaign()),
            3 => node.forget_leader(),
            _ => node.report_unreachable(other),
        }
    }

    fn put_on_wire(&mut self, message: Message) {
        if message.to == NONE || self.wire.len() >= WIRE_MAX {
            return self.lose(&message);
        }
        self.wire.push(message);
    }

    fn host(&mut self, id: u64) -> &mut Host {
        self.hosts
            .get_mut(&id)
            .expect("ids come from any_id or from the hosts")
    }

    fn node(&mut self, id: u64) -> Option<&mut RawNode<MemoryStorage>> {
        self.hosts.get_mut(&id)?.node.as_mut()
    }

    fn any_id(&mut self) -> u64 {
        1 + self.below(self.first_members.len() as u64 + SPARE_NODES)
    }

    fn note(&mut self, what: u64) {
        self.trace = self.trace.wrapping_mul(31).wrapping_add(what);
    }

    fn chance(&mut self, per_thousand: u64) -> bool {
        self.below(1_000) < per_thousand
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.throw() % limit
    }

    /// SplitMix64.
    fn throw(&mut self) -> u64 {
        self.dice = self.dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.dice;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}
