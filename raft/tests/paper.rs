//! The raft paper's sections 5.1 to 6 and the thesis' chapter 4, rule by rule, on one node that is spoken
//! to by hand, or on a small cluster. What needs a longer story is in `cluster.rs`, under names of the
//! same form.

mod common;

use bytes::Bytes;
use common::{Cluster, throw};
use henge_raft::membership::{ConfChangeKind, ConfChangeV2};
use henge_raft::{
    Config, Entries, Entry, HardState, MemoryStorage, Message, MessageKind, NONE, RawNode, RoleKind,
};

/// Node 1 of 1, 2, 3 whose log has entries of these terms from index 2 on (index 1, of term 1, is where
/// all logs of these tests begin), in `term`.
fn node(term: u64, terms: &[u64]) -> RawNode<MemoryStorage> {
    let mut storage = MemoryStorage::with_voters(&[1, 2, 3]);
    storage.append(&entries(2, terms)).unwrap();
    storage.set_hard_state(HardState {
        term,
        vote: NONE,
        commit: 1,
    });
    let config = Config {
        pre_vote: false,
        check_quorum: false,
        ..Config::new(1)
    };
    RawNode::new(config, storage).unwrap()
}

fn entries(first: u64, terms: &[u64]) -> Entries {
    let ids = terms.iter().zip(first..);
    ids.map(|(&term, index)| Entry {
        term,
        index,
        ..Entry::default()
    })
    .collect()
}

fn message(kind: MessageKind, from: u64, term: u64) -> Message {
    Message {
        kind,
        to: 1,
        from,
        term,
        ..Message::default()
    }
}

/// Everything the node says now, in synchronous mode.
fn said(node: &mut RawNode<MemoryStorage>) -> Vec<Message> {
    let mut said = Vec::new();
    while node.has_ready() {
        let ready = node.ready();
        node.storage_mut().append(&ready.entries).unwrap();
        node.storage_mut().set_hard_state(ready.hard_state);
        said.extend(ready.messages);
        node.advance();
    }
    said
}

/// Makes node 1 the leader of the next term.
fn lead(node: &mut RawNode<MemoryStorage>) {
    node.campaign().unwrap();
    said(node);
    let vote = message(MessageKind::VoteResp, 2, node.term());
    node.step(vote).unwrap();
    assert_eq!(node.role(), RoleKind::Leader);
}

/// Whoever sees a higher term takes it, whatever its role, and follows.
#[test]
fn section_5_1_terms_are_taken_from_messages() {
    for role in [RoleKind::Follower, RoleKind::Candidate, RoleKind::Leader] {
        let mut node = node(1, &[]);
        match role {
            RoleKind::Candidate => node.campaign().unwrap(),
            RoleKind::Leader => lead(&mut node),
            _ => {}
        }
        let before = message(MessageKind::App, 2, 9);
        let append = Message {
            index: 1,
            log_term: 1,
            ..before
        };
        node.step(append).unwrap();
        assert_eq!((node.term(), node.role()), (9, RoleKind::Follower));
        assert_eq!(node.leader(), 2);
    }
}

/// What belongs to an earlier term changes nothing.
#[test]
fn section_5_1_stale_terms_are_ignored() {
    let mut node = node(5, &[]);
    let stale = Message {
        index: 1,
        log_term: 1,
        entries: entries(2, &[2]),
        ..message(MessageKind::App, 2, 4)
    };
    node.step(stale).unwrap();
    assert_eq!((node.last_index(), node.leader()), (1, NONE));
    assert!(said(&mut node).is_empty());
}

/// A candidate of an earlier term is told of ours, or it might campaign behind us for ever.
#[test]
fn section_5_1_stale_candidates_learn_the_term() {
    let mut node = node(5, &[]);
    let stale = Message {
        index: 9,
        log_term: 4,
        ..message(MessageKind::Vote, 2, 4)
    };
    node.step(stale).unwrap();
    let said = said(&mut node);
    assert_eq!((said[0].kind, said[0].to), (MessageKind::VoteResp, 2));
    assert_eq!((said[0].term, said[0].reject), (5, true));
    assert_eq!(node.term(), 5);
}

/// One vote for each term, first come, first served.
#[test]
fn section_5_2_one_vote_per_term() {
    let mut node = node(1, &[]);
    let ask = |from| Message {
        index: 1,
        log_term: 1,
        ..message(MessageKind::Vote, from, 2)
    };
    let answers: Vec<(u64, bool)> = [2, 3, 2]
        .into_iter()
        .flat_map(|from| {
            node.step(ask(from)).unwrap();
            said(&mut node)
        })
        .map(|answer| (answer.to, answer.reject))
        .collect();
    assert_eq!(answers, [(2, false), (3, true), (2, false)]);
}

/// A candidate that hears from a leader of its term follows it; a majority of noes ends its campaign.
#[test]
fn section_5_2_candidates_give_up() {
    for kind in [MessageKind::App, MessageKind::Heartbeat] {
        let mut node = node(1, &[]);
        node.campaign().unwrap();
        let leader = message(kind, 3, 2);
        let leader = Message {
            index: 1,
            log_term: 1,
            ..leader
        };
        node.step(leader).unwrap();
        assert_eq!((node.role(), node.leader()), (RoleKind::Follower, 3));
    }
    let mut node = node(1, &[]);
    node.campaign().unwrap();
    said(&mut node);
    for from in [2, 3] {
        let no = message(MessageKind::VoteResp, from, 2);
        let _ = node.step(Message { reject: true, ..no });
    }
    assert_eq!((node.role(), node.term()), (RoleKind::Follower, 2));
}

/// Timeouts differ: between nodes, and each time; all lie in one to two election timeouts.
#[test]
fn section_5_2_timeouts_are_randomized() {
    let ticks_to_campaign = |seed: u64| {
        let storage = MemoryStorage::with_voters(&[1, 2, 3]);
        let config = Config {
            pre_vote: false,
            random_seed: seed,
            ..Config::new(1)
        };
        let mut node = RawNode::new(config, storage).unwrap();
        let ticks = (1..).find(|_| {
            node.tick();
            node.role() == RoleKind::Candidate
        });
        ticks.unwrap()
    };
    let mut seen: Vec<u32> = (0..200).map(ticks_to_campaign).collect();
    assert!(seen.iter().all(|ticks| (10..20).contains(ticks)));
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen.len(), 10, "every value there is");
}

/// The consistency check: an append is taken if the entry before it is there, with that term.
#[test]
fn section_5_3_appends_need_the_entry_before() {
    let cases = [
        // (before, its term, accepted)
        (1, 1, true),
        (2, 1, true),
        (3, 2, true),
        (3, 3, false),
        (4, 2, false),
    ];
    for (index, log_term, is_accepted) in cases {
        let mut node = node(3, &[1, 2]);
        let append = Message {
            index,
            log_term,
            ..message(MessageKind::App, 2, 3)
        };
        node.step(append).unwrap();
        let answer = said(&mut node).pop().unwrap();
        assert_eq!(answer.kind, MessageKind::AppResp);
        assert_eq!(!answer.reject, is_accepted, "{index}/{log_term}");
    }
}

/// Figure 7: whatever a follower's log looks like, the new leader makes it its own.
#[test]
fn section_5_3_figure_7() {
    let leader = [1, 1, 4, 4, 5, 5, 6, 6, 6];
    let followers: [&[u64]; 6] = [
        &[1, 1, 4, 4, 5, 5, 6, 6],
        &[1, 1, 4],
        &[1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
        &[1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
        &[1, 1, 4, 4, 4, 4],
        &[1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
    ];
    for follower in followers {
        let mut cluster = Cluster::new(3, |_| {});
        for (id, terms) in [(1, &leader[..]), (2, follower), (3, &leader[..])] {
            let mut storage = MemoryStorage::with_voters(&[1, 2, 3]);
            storage.append(&entries(2, terms)).unwrap();
            storage.set_hard_state(HardState {
                term: 7,
                vote: NONE,
                commit: 1,
            });
            cluster.start(id, storage, |_| {});
        }
        cluster.elect(1);
        cluster.propose(1, "new");
        let log = |cluster: &mut Cluster, id| {
            use henge_raft::Storage;
            let node = cluster.node(id);
            let last = node.last_index();
            node.storage().entries(2, last + 1, u64::MAX).unwrap()
        };
        assert_eq!(cluster.leader(), 1);
        assert_eq!(log(&mut cluster, 2), log(&mut cluster, 1), "{follower:?}");
    }
}

/// A follower commits what the leader has committed, as far as its own log reaches.
#[test]
fn section_5_3_followers_commit_what_they_have() {
    for (commit, expected) in [(1, 1), (2, 2), (3, 3), (9, 3)] {
        let mut node = node(2, &[1]);
        let append = Message {
            index: 2,
            log_term: 1,
            entries: entries(3, &[2]),
            commit,
            ..message(MessageKind::App, 2, 2)
        };
        node.step(append).unwrap();
        assert_eq!(node.commit_index(), expected);
    }
}

/// The voter's log must not be more up to date: by last term, then by length.
#[test]
fn section_5_4_1_who_may_be_voted_for() {
    let cases = [
        // (our log, their last term and index, granted)
        (&[1][..], (1, 2), true),
        (&[1], (1, 3), true),
        (&[1], (2, 1), true),
        (&[1, 1], (1, 2), false),
        (&[2], (1, 9), false),
        (&[2], (2, 1), false),
    ];
    for (log, (log_term, index), is_granted) in cases {
        let mut node = node(2, log);
        let ask = Message {
            index,
            log_term,
            ..message(MessageKind::Vote, 2, 3)
        };
        node.step(ask).unwrap();
        let answer = said(&mut node).pop().unwrap();
        assert_eq!(!answer.reject, is_granted, "{log:?} {log_term}/{index}");
    }
}

/// Messages can come twice and late: what was done once is not undone.
#[test]
fn section_5_5_appends_are_idempotent() {
    let mut node = node(2, &[]);
    let append = |index, log_term, terms: &[u64]| Message {
        index,
        log_term,
        entries: entries(index + 1, terms),
        ..message(MessageKind::App, 2, 2)
    };
    let first = append(1, 1, &[2]);
    let second = append(2, 2, &[2, 2]);
    for message in [&first, &second, &second, &first] {
        node.step(message.clone()).unwrap();
    }
    assert_eq!(node.last_index(), 4, "the late first one cuts nothing off");
}

/// Heartbeats that come faster than timeouts keep the peace.
#[test]
fn section_5_6_heartbeats_prevent_elections() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let term = cluster.node(1).term();
    cluster.tick(200);
    assert_eq!((cluster.leader(), cluster.node(2).term()), (1, term));
}

/// A new server catches up as a learner, which is not counted, and is then promoted.
#[test]
fn thesis_4_2_1_learners_catch_up_first() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.start(4, MemoryStorage::new(), |_| {});
    let change = ConfChangeV2::single(ConfChangeKind::AddLearnerNode, 4);
    cluster.node(1).propose_conf_change(&change).unwrap();
    cluster.settle();
    // With one voter left, a learner is no majority.
    cluster.isolate(2);
    cluster.isolate(3);
    let before = cluster.node(1).commit_index();
    cluster.propose(1, "b");
    assert_eq!(cluster.node(1).commit_index(), before);
    cluster.heal();
    cluster.tick(2);
    let change = ConfChangeV2::single(ConfChangeKind::AddNode, 4);
    cluster.node(1).propose_conf_change(&change).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(4).conf_state().voters, [1, 2, 3, 4]);
    cluster.assert_commands(&["a", "b"]);
}

/// A leader that is removed goes on until the change is applied, and then steps down.
#[test]
fn thesis_4_2_2_a_removed_leader_steps_down() {
    let mut cluster = Cluster::new(3, |_| {});
    cluster.elect(1);
    let change = ConfChangeV2::single(ConfChangeKind::RemoveNode, 1);
    cluster.node(1).propose_conf_change(&change).unwrap();
    cluster.settle();
    assert_eq!(cluster.node(1).role(), RoleKind::Follower);
    cluster.elect(2);
    cluster.propose(2, "without 1");
    assert_eq!(cluster.host(3).commands(), ["without 1"]);
}

/// A removed server that does not know it cannot depose anyone.
#[test]
fn thesis_4_2_3_disruptive_servers_are_ignored() {
    let mut cluster = Cluster::new(3, |config| config.check_quorum = true);
    cluster.elect(1);
    cluster.tick(2);
    let term = cluster.node(1).term();
    cluster.isolate(3);
    let change = ConfChangeV2::single(ConfChangeKind::RemoveNode, 3);
    cluster.node(1).propose_conf_change(&change).unwrap();
    cluster.settle();
    cluster.heal();
    for _ in 0..5 {
        cluster.node(3).campaign().unwrap();
        cluster.settle();
    }
    assert!(cluster.node(3).term() > term);
    assert_eq!((cluster.leader_of(2), cluster.node(1).term()), (1, term));
}

/// Whatever is lost and doubled on the way, everybody applies the same (5.4.3, State Machine Safety).
#[test]
fn section_5_4_3_all_apply_the_same() {
    let mut cluster = Cluster::new(5, |config| config.async_storage_writes = true);
    let mut dice = 3;
    for _ in 0..300 {
        let id = 1 + throw(&mut dice) % 5;
        match throw(&mut dice) % 6 {
            0 => drop(cluster.node(id).campaign()),
            1 => cluster.isolate(id),
            2 => cluster.heal(),
            _ => drop(cluster.node(id).propose(Bytes::from_static(b"x"))),
        }
        cluster.settle();
    }
    cluster.heal();
    cluster.tick(50);
    let applied: Vec<_> = cluster.hosts.values().map(|host| &host.applied).collect();
    assert!(applied[0].len() > 20);
    assert!(applied.iter().all(|it| *it == applied[0]));
}
