//! A listener that hears every event knows every node's state: here it rebuilds role, term, vote, leader,
//! commit index, end of log and configuration from the events alone, and is compared with the node after
//! every step of a run in which nodes are cut off, restart, and change their members.
//!
//! `HENGE_SEED=n` runs one seed.

mod common;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use common::{Cluster, throw};
use henge_raft::membership::{ConfChangeKind, ConfChangeV2};
use henge_raft::{ConfState, Config, EntryId, NONE, RoleKind, TraceEvent, Tracer};

const SEEDS: u64 = 60;
const STEPS: usize = 300;

/// What one node's events add up to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Seen {
    role: RoleKind,
    term: u64,
    vote: u64,
    leader: u64,
    commit: u64,
    last: EntryId,
    state: ConfState,
}

#[derive(Default)]
struct Listener {
    seen: Mutex<BTreeMap<u64, Seen>>,
    /// Everything, to be looked at.
    events: Mutex<Vec<(u64, TraceEvent)>>,
}

impl Tracer for Listener {
    fn trace(&self, id: u64, event: TraceEvent) {
        let mut seen = self.seen.lock().unwrap();
        let seen = seen.entry(id).or_default();
        match &event {
            &TraceEvent::Started {
                term,
                vote,
                commit,
                last,
            } => {
                let state = std::mem::take(&mut seen.state);
                *seen = Seen {
                    term,
                    vote,
                    commit,
                    last,
                    state,
                    ..Seen::default()
                };
            }
            &TraceEvent::TermChanged { term } => {
                assert!(term > seen.term, "terms only grow");
                (seen.term, seen.vote) = (term, NONE);
            }
            &TraceEvent::RoleChanged { role } => seen.role = role,
            &TraceEvent::LeaderChanged { leader } => seen.leader = leader,
            &TraceEvent::Voted { candidate } => seen.vote = candidate,
            &TraceEvent::LogChanged { first, last } => {
                assert!(first > seen.commit, "what is committed stays");
                seen.last = last;
            }
            &TraceEvent::Committed { index } => {
                assert!(index > seen.commit, "commit indexes only grow");
                seen.commit = index;
            }
            &TraceEvent::SnapshotRestored { last } => (seen.last, seen.commit) = (last, last.index),
            TraceEvent::ConfChanged { state } => seen.state = state.clone(),
            _ => {}
        }
        self.events.lock().unwrap().push((id, event));
    }
}

impl Listener {
    fn compare(&self, cluster: &Cluster) {
        let seen = self.seen.lock().unwrap();
        for (id, host) in &cluster.hosts {
            let status = host.node.status();
            let real = Seen {
                role: status.soft_state.role,
                term: status.hard_state.term,
                vote: status.hard_state.vote,
                leader: status.soft_state.leader,
                commit: status.hard_state.commit,
                last: EntryId {
                    term: seen[id].last.term,
                    index: status.last_index,
                },
                state: status.membership.conf_state(),
            };
            assert_eq!(seen[id], real, "node {id}");
        }
    }

    fn count(&self, is_it: fn(&TraceEvent) -> bool) -> usize {
        let events = self.events.lock().unwrap();
        events.iter().filter(|(_, event)| is_it(event)).count()
    }
}

#[test]
fn events_add_up_to_the_state() {
    let one = std::env::var("HENGE_SEED").ok();
    let seeds = match one.map(|seed| seed.parse::<u64>().expect("a number")) {
        Some(seed) => seed..seed + 1,
        None => 0..SEEDS,
    };
    for seed in seeds {
        println!("HENGE_SEED={seed}");
        run(seed);
    }
}

fn run(seed: u64) {
    let listener = Arc::new(Listener::default());
    let configure = |config: &mut Config| {
        config.async_storage_writes = seed.is_multiple_of(2);
        config.pre_vote = seed.is_multiple_of(3);
        config.check_quorum = seed.is_multiple_of(5);
        config.tracer = Some(listener.clone());
    };
    let mut cluster = Cluster::new(3, configure);
    listener.compare(&cluster);
    let mut dice = seed;
    for _ in 0..STEPS {
        let id = 1 + throw(&mut dice) % 3;
        match throw(&mut dice) % 16 {
            0 => drop(cluster.node(id).campaign()),
            1..5 => drop(cluster.node(id).propose(Bytes::from_static(b"x"))),
            5 => cluster.node(id).read_index(Bytes::from_static(b"r")),
            6 => cluster.isolate(id),
            7 | 8 => cluster.heal(),
            9 => cluster.node(id).transfer_leader(1 + id % 3),
            10 => cluster.node(id).forget_leader(),
            11 => {
                let kinds = [ConfChangeKind::AddNode, ConfChangeKind::AddLearnerNode];
                let kind = kinds[(throw(&mut dice) % 2) as usize];
                let change = ConfChangeV2::single(kind, 1 + throw(&mut dice) % 3);
                let _ = cluster.node(id).propose_conf_change(&change);
            }
            12 => {
                let storage = cluster.node(id).storage().clone();
                let applied = cluster.node(id).applied_index();
                cluster.start(id, storage, |config| {
                    configure(config);
                    config.applied = applied;
                });
            }
            _ => cluster.tick(1),
        }
        listener.compare(&cluster);
        cluster.settle();
        listener.compare(&cluster);
    }
}

/// What is not state is told, too, and by whom.
#[test]
fn appends_snapshots_and_reads_are_told() {
    let listener = Arc::new(Listener::default());
    let mut cluster = Cluster::new(3, |config| config.tracer = Some(listener.clone()));
    cluster.elect(1);
    cluster.isolate(3);
    cluster.propose(1, "a");
    cluster.propose(1, "b");
    let sent = listener.count(|event| matches!(event, TraceEvent::AppendSent { count: 1.., .. }));
    let received =
        listener.count(|event| matches!(event, TraceEvent::AppendReceived { count: 1.., .. }));
    assert!(sent > received && received >= 3, "{sent} {received}");
    // Node 3 lacks what is gone: it gets a snapshot.
    let state = cluster.node(1).conf_state();
    cluster.host(1).snapshot(4, state);
    cluster.node(1).storage_mut().compact(4).unwrap();
    cluster.heal();
    cluster.tick(3);
    let last = EntryId { term: 1, index: 4 };
    let told = listener.events.lock().unwrap().clone();
    assert!(told.contains(&(1, TraceEvent::SnapshotSent { to: 3, last })));
    assert!(told.contains(&(3, TraceEvent::SnapshotRestored { last })));
    // A follower's read, and the leader's own.
    cluster.node(1).read_index(Bytes::from_static(b"own"));
    cluster.node(2).read_index(Bytes::from_static(b"forwarded"));
    cluster.settle();
    let told = listener.events.lock().unwrap().clone();
    for from in [NONE, 2] {
        assert!(told.contains(&(1, TraceEvent::ReadConfirmed { from, index: 4 })));
    }
    let is_ack = |event: &TraceEvent| matches!(event, TraceEvent::AppendAcknowledged { .. });
    assert!(listener.count(is_ack) > 0);
}
