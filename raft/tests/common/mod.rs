//! A cluster in memory: nodes, their storage, and a network that can be cut.
//!
//! Everything is deterministic: messages are delivered in the order they were sent.

#![allow(dead_code)] // Each test file uses its own part.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use henge_raft::membership::ConfChangeV2;
use henge_raft::{
    ConfState, Config, Entry, EntryKind, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, MemoryStorage,
    Message, NONE, RawNode, ReadState, RoleKind, StepError, is_local_target,
};

/// Rounds after which a cluster that still has work is stuck in a loop.
const ROUNDS_MAX: usize = 10_000;

/// A node and what its host keeps.
pub struct Host {
    pub node: RawNode<MemoryStorage>,
    pub is_async: bool,
    /// Work of the two local threads, in order.
    pub append_work: VecDeque<Message>,
    pub apply_work: VecDeque<Message>,
    /// What the state machine has seen.
    pub applied: Vec<(u64, Bytes)>,
    pub reads: Vec<ReadState>,
    pub errors: Vec<StepError>,
    /// The append thread does nothing while this is set.
    pub is_append_stopped: bool,
}

impl Host {
    /// Takes one Ready; returns messages for others.
    fn handle_ready(&mut self) -> Vec<Message> {
        let ready = self.node.ready();
        self.reads.extend(ready.read_states.iter().cloned());
        if !self.is_async {
            self.store(&ready.entries, ready.hard_state, ready.snapshot.as_ref());
            self.apply(&ready.committed_entries);
            self.node.advance();
            return ready.messages;
        }
        let (local, remote): (Vec<Message>, Vec<Message>) = ready
            .messages
            .into_iter()
            .partition(|message| is_local_target(message.to));
        for message in local {
            match message.to {
                LOCAL_APPEND_THREAD => self.append_work.push_back(message),
                LOCAL_APPLY_THREAD => self.apply_work.push_back(message),
                _ => unreachable!(),
            }
        }
        remote
    }

    /// Lets each thread do one piece of work; returns what they answer.
    fn handle_threads(&mut self) -> Vec<Message> {
        let mut out = Vec::new();
        if !self.is_append_stopped
            && let Some(work) = self.append_work.pop_front()
        {
            self.store(&work.entries, work.hard_state(), work.snapshot.as_deref());
            out.extend(work.responses);
        }
        if let Some(work) = self.apply_work.pop_front() {
            self.apply(&work.entries);
            out.extend(work.responses);
        }
        out
    }

    fn store(
        &mut self,
        entries: &[Entry],
        state: henge_raft::HardState,
        snapshot: Option<&henge_raft::Snapshot>,
    ) {
        let storage = self.node.storage_mut();
        if let Some(snapshot) = snapshot {
            storage.apply_snapshot(snapshot.clone()).unwrap();
            self.applied = decode(&snapshot.data);
        }
        storage.append(entries).unwrap();
        storage.set_hard_state(state);
    }

    fn apply(&mut self, entries: &[Entry]) {
        for entry in entries {
            if entry.kind == EntryKind::Normal {
                self.applied.push((entry.index, entry.data.clone()));
                continue;
            }
            let change = ConfChangeV2::from_entry(entry.kind, &entry.data).unwrap();
            if let Ok(state) = self.node.apply_conf_change(&change) {
                self.snapshot(entry.index, state);
            }
        }
    }

    /// Makes a snapshot at `index`, which is the last applied one.
    pub fn snapshot(&mut self, index: u64, state: ConfState) {
        let data = encode(&self.applied);
        self.node
            .storage_mut()
            .create_snapshot(index, Some(state), data)
            .unwrap();
    }

    /// The commands applied, without the empty entries of new leaders.
    pub fn commands(&self) -> Vec<String> {
        let data = self
            .applied
            .iter()
            .map(|(_, data)| data)
            .filter(|data| !data.is_empty());
        data.map(|data| String::from_utf8(data.to_vec()).unwrap())
            .collect()
    }
}

/// Nodes 1..=n and what is on the wire between them.
pub struct Cluster {
    pub hosts: BTreeMap<u64, Host>,
    pub wire: VecDeque<Message>,
    /// Pairs (from, to) whose messages are lost.
    pub cut: BTreeSet<(u64, u64)>,
    /// Messages that are lost everywhere.
    pub lose: fn(&Message) -> bool,
}

impl Cluster {
    /// `count` voters with the plain configuration of these tests, changed by `change`.
    pub fn new(count: u64, change: impl Fn(&mut Config)) -> Cluster {
        let voters: Vec<u64> = (1..=count).collect();
        let mut cluster = Cluster {
            hosts: BTreeMap::new(),
            wire: VecDeque::new(),
            cut: BTreeSet::new(),
            lose: |_| false,
        };
        for id in voters.iter().copied() {
            cluster.start(id, MemoryStorage::with_voters(&voters), &change);
        }
        cluster
    }

    /// Starts (or restarts) node `id` on `storage`.
    pub fn start(&mut self, id: u64, storage: MemoryStorage, change: impl Fn(&mut Config)) {
        let mut config = Config::new(id);
        config.check_quorum = false;
        config.pre_vote = false;
        change(&mut config);
        let host = Host {
            is_async: config.async_storage_writes,
            node: RawNode::new(config, storage).unwrap(),
            append_work: VecDeque::new(),
            apply_work: VecDeque::new(),
            applied: Vec::new(),
            reads: Vec::new(),
            errors: Vec::new(),
            is_append_stopped: false,
        };
        self.hosts.insert(id, host);
    }

    pub fn host(&mut self, id: u64) -> &mut Host {
        self.hosts.get_mut(&id).unwrap()
    }

    pub fn node(&mut self, id: u64) -> &mut RawNode<MemoryStorage> {
        &mut self.host(id).node
    }

    /// Cuts `id` off from everyone, both ways.
    pub fn isolate(&mut self, id: u64) {
        let others: Vec<u64> = self
            .hosts
            .keys()
            .copied()
            .filter(|other| *other != id)
            .collect();
        for other in others {
            self.cut.insert((id, other));
            self.cut.insert((other, id));
        }
    }

    pub fn heal(&mut self) {
        self.cut.clear();
        self.lose = |_| false;
    }

    /// Works until nobody has anything to do.
    pub fn settle(&mut self) {
        for _ in 0..ROUNDS_MAX {
            let mut is_idle = true;
            let ids: Vec<u64> = self.hosts.keys().copied().collect();
            for id in ids {
                let host = self.host(id);
                if host.node.has_ready() {
                    let out = host.handle_ready();
                    self.wire.extend(out);
                    is_idle = false;
                }
                let out = self.host(id).handle_threads();
                is_idle &= out.is_empty();
                self.wire.extend(out);
            }
            is_idle &= !self.deliver();
            if is_idle {
                return;
            }
        }
        panic!("the cluster does not come to rest");
    }

    fn deliver(&mut self) -> bool {
        let mut is_any = false;
        while let Some(message) = self.wire.pop_front() {
            is_any = true;
            let is_local = message.from == message.to || is_local_target(message.from);
            let is_lost = self.cut.contains(&(message.from, message.to)) || (self.lose)(&message);
            if is_lost && !is_local {
                continue;
            }
            if let Some(host) = self.hosts.get_mut(&message.to)
                && let Err(error) = host.node.step(message)
            {
                host.errors.push(error);
            }
        }
        is_any
    }

    /// Ticks everyone `count` times, working in between.
    pub fn tick(&mut self, count: usize) {
        for _ in 0..count {
            self.hosts.values_mut().for_each(|host| host.node.tick());
            self.settle();
        }
    }

    /// Makes `id` campaign and works until it is decided.
    pub fn elect(&mut self, id: u64) {
        self.node(id).campaign().unwrap();
        self.settle();
    }

    pub fn propose(&mut self, id: u64, data: &'static str) {
        self.node(id)
            .propose(Bytes::from_static(data.as_bytes()))
            .unwrap();
        self.settle();
    }

    /// The leader of the highest term, or [`NONE`].
    pub fn leader(&self) -> u64 {
        let leaders = self
            .hosts
            .values()
            .filter(|host| host.node.role() == RoleKind::Leader);
        leaders
            .max_by_key(|host| host.node.term())
            .map_or(NONE, |host| host.node.id())
    }

    /// Whom `id` follows.
    pub fn leader_of(&self, id: u64) -> u64 {
        self.hosts[&id].node.leader()
    }

    pub fn assert_commands(&self, expected: &[&str]) {
        for (id, host) in &self.hosts {
            assert_eq!(host.commands(), expected, "node {id}");
        }
    }
}

/// The state machine as a snapshot's bytes: one `index command` a line.
fn encode(applied: &[(u64, Bytes)]) -> Bytes {
    let lines = applied.iter().map(|(index, data)| {
        let data = std::str::from_utf8(data).expect("commands of these tests are text");
        format!("{index} {data}\n")
    });
    lines.collect::<String>().into()
}

fn decode(data: &Bytes) -> Vec<(u64, Bytes)> {
    let text = std::str::from_utf8(data).expect("written by encode");
    let lines = text
        .lines()
        .map(|line| line.split_once(' ').expect("written by encode"));
    lines
        .map(|(index, data)| (index.parse().unwrap(), Bytes::from(data.to_string())))
        .collect()
}

/// SplitMix64: the next number of a seed's sequence.
pub fn throw(dice: &mut u64) -> u64 {
    *dice = dice.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut mixed = *dice;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
