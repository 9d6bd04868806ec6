//! Small clusters in memory: elections, replication, partitions, reads, transfers, memberships.
//!
//! Each test says which rule of the raft paper or thesis it is about.

mod common;

use bytes::Bytes;
use common::Cluster;
use henge_raft::membership::{ConfChangeKind, ConfChangeV2, Transition, parse_changes};
use henge_raft::{
    Config, DropReason, MemoryStorage, Message, MessageKind, NONE, ProposeError, RawNode, ReadOnly,
    RoleKind, Storage,
};

fn plain(_: &mut Config) {}

fn asynchronous(config: &mut Config) {
    config.async_storage_writes = true;
}

fn guarded(config: &mut Config) {
    config.check_quorum = true;
    config.pre_vote = true;
}

#[test]
fn section_5_2_groups_of_every_size_elect_and_commit() {
    for count in 1..=5 {
        for change in [plain as fn(&mut Config), asynchronous, guarded] {
            let mut cluster = Cluster::new(count, change);
            cluster.tick(40);
            let leader = cluster.leader();
            assert_ne!(leader, NONE, "{count} nodes");
            cluster.propose(leader, "a");
            cluster.propose(leader, "b");
            cluster.tick(2);
            cluster.assert_commands(&["a", "b"]);
        }
    }
}

/// Paper 5.1: a follower passes requests on to the leader.
#[test]
fn section_8_followers_forward_proposals() {
    let mut cluster = Cluster::new(3, plain);
    let early = cluster.node(2).propose(Bytes::from_static(b"x"));
    assert_eq!(early, Err(ProposeError::Dropped(DropReason::NoLeader)));
    cluster.elect(1);
    cluster.propose(2, "via 2");
    cluster.assert_commands(&["via 2"]);
    assert_eq!(cluster.node(1).propose_batch([]), Err(ProposeError::Empty));
}

/// Paper 5.2: at most one vote per term, also after a restart with what was durable.
#[test]
fn section_5_2_a_vote_survives_a_restart() {
    let mut cluster = Cluster::new(3, plain);
    cluster.isolate(3);
    cluster.elect(1);
    let storage = cluster.node(2).storage().clone();
    assert_eq!(storage.hard_state().vote, 1);
    cluster.start(2, storage, plain);
    cluster.heal();
    let request = Message {
        kind: MessageKind::Vote,
        from: 3,
        to: 2,
        term: 1,
        index: 99,
        log_term: 1,
        ..Message::default()
    };
    cluster.node(2).step(request).unwrap();
    let ready = cluster.node(2).ready();
    assert_eq!(ready.messages[0].kind, MessageKind::VoteResp);
    assert!(ready.messages[0].reject);
}

/// Paper 5.3: a deposed leader's uncommitted entries are replaced by its successor's.
#[test]
fn section_5_3_a_partitioned_leader_loses_what_it_could_not_commit() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "kept");
    cluster.isolate(1);
    cluster.propose(1, "lost 1");
    cluster.propose(1, "lost 2");
    cluster.elect(2);
    cluster.propose(2, "new");
    cluster.heal();
    cluster.tick(3);
    assert_eq!(cluster.leader(), 2);
    cluster.assert_commands(&["kept", "new"]);
    assert_eq!(cluster.node(1).role(), RoleKind::Follower);
}

/// Paper 5.4.1: who lacks committed entries does not win.
#[test]
fn section_5_4_1_a_short_log_does_not_win() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.isolate(3);
    cluster.propose(1, "a");
    cluster.heal();
    cluster.lose = |message| message.kind == MessageKind::App;
    cluster.elect(3);
    assert_ne!(cluster.leader(), 3);
    cluster.heal();
    cluster.tick(40);
    cluster.assert_commands(&["a"]);
}

/// Paper 5.4.2, figure 8: an entry of an earlier term is not committed by counting.
#[test]
fn section_5_4_2_entries_of_earlier_terms_wait_for_one_of_this_term() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.isolate(1);
    cluster.propose(1, "old");
    let before = cluster.node(1).commit_index();
    cluster.heal();
    cluster.lose = |message| message.kind == MessageKind::AppResp && !message.reject;
    let storage = cluster.node(1).storage().clone();
    cluster.start(1, storage, plain);
    cluster.elect(1);
    assert_eq!(cluster.node(1).term(), 2);
    // Followers got "old" now, and the leader has heard of none of it.
    assert_eq!(cluster.node(1).commit_index(), before);
    let old = before + 1;
    let acknowledge = |from| Message {
        kind: MessageKind::AppResp,
        from,
        to: 1,
        term: 2,
        index: old,
        ..Message::default()
    };
    cluster.node(1).step(acknowledge(2)).unwrap();
    cluster.node(1).step(acknowledge(3)).unwrap();
    assert_eq!(
        cluster.node(1).commit_index(),
        before,
        "a quorum has it, and that is not enough"
    );
    cluster.heal();
    cluster.tick(3);
    cluster.assert_commands(&["old"]);
}

/// With async writes, a vote or an acknowledgement leaves only when what it rests on is durable, and
/// committed entries are applied only when they are durable here.
#[test]
fn thesis_3_8_nothing_is_acknowledged_before_it_is_durable() {
    let mut cluster = Cluster::new(3, asynchronous);
    for id in [2, 3] {
        cluster.host(id).is_append_stopped = true;
    }
    cluster.elect(1);
    assert_eq!(cluster.leader(), NONE, "votes wait for the disk");
    cluster.host(2).is_append_stopped = false;
    cluster.settle();
    assert_eq!(cluster.leader(), 1);
    cluster.host(1).is_append_stopped = true;
    cluster.host(3).is_append_stopped = false;
    cluster.propose(1, "a");
    // 2 and 3 are a quorum; the leader's own disk is slow.
    let commit = cluster.node(1).commit_index();
    assert_eq!(commit, cluster.node(1).last_index());
    assert_eq!(cluster.host(2).commands(), ["a"]);
    assert!(
        cluster.host(1).commands().is_empty(),
        "committed, but not durable here"
    );
    cluster.host(1).is_append_stopped = false;
    cluster.settle();
    cluster.assert_commands(&["a"]);
}

/// With async writes, the votes of others do not make a leader whose own vote is not durable: after a
/// crash it would campaign in the same term again, and lead it with other entries.
#[test]
fn thesis_3_8_a_leader_has_voted_for_itself() {
    for early in [false, true] {
        let mut cluster = Cluster::new(3, |config| {
            asynchronous(config);
            config.dangerous_early_vote_requests = early;
        });
        cluster.host(1).is_append_stopped = true;
        cluster.elect(1);
        // Without the option it is not even asked for.
        assert_eq!(cluster.node(2).term(), u64::from(early));
        assert_eq!(cluster.leader(), NONE, "1 could forget that it asked");
        cluster.host(1).is_append_stopped = false;
        cluster.settle();
        assert_eq!(cluster.leader(), 1);
    }
}

/// Several appends in flight to the disk, acknowledged in order.
#[test]
fn thesis_10_2_1_appends_are_pipelined() {
    let mut cluster = Cluster::new(1, asynchronous);
    cluster.elect(1);
    cluster.host(1).is_append_stopped = true;
    for data in ["a", "b", "c"] {
        cluster.propose(1, data);
    }
    assert_eq!(cluster.host(1).append_work.len(), 3);
    assert!(cluster.host(1).commands().is_empty());
    cluster.host(1).is_append_stopped = false;
    cluster.settle();
    cluster.assert_commands(&["a", "b", "c"]);
}

/// Thesis 9.6 and 4.2.3: a node that comes back from a partition deposes nobody.
#[test]
fn thesis_9_6_pre_vote_keeps_a_returning_node_from_disrupting() {
    let mut cluster = Cluster::new(3, guarded);
    cluster.elect(1);
    let term = cluster.node(1).term();
    cluster.isolate(3);
    cluster.tick(60);
    assert_eq!(
        cluster.node(3).term(),
        term,
        "pre-votes do not raise the term"
    );
    cluster.heal();
    cluster.tick(30);
    assert_eq!((cluster.leader(), cluster.node(1).term()), (1, term));
    assert_eq!(cluster.node(3).leader(), 1);
}

/// Thesis 6.2: a leader without a quorum steps down.
#[test]
fn thesis_6_2_check_quorum_deposes_a_lonely_leader() {
    let mut cluster = Cluster::new(3, guarded);
    cluster.elect(1);
    cluster.isolate(1);
    cluster.tick(100);
    assert_ne!(cluster.node(1).role(), RoleKind::Leader);
    assert_ne!(cluster.leader(), NONE);
    assert_ne!(cluster.leader(), 1);
}

/// Thesis 6.4: a leader that may have been deposed answers no reads; others ask the leader.
#[test]
fn thesis_6_4_reads_are_confirmed_by_a_quorum() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    let commit = cluster.node(1).commit_index();
    cluster
        .node(1)
        .read_index(Bytes::from_static(b"at the leader"));
    cluster
        .node(3)
        .read_index(Bytes::from_static(b"at a follower"));
    cluster.settle();
    for (id, context) in [(1, "at the leader"), (3, "at a follower")] {
        let reads = &cluster.host(id).reads;
        assert_eq!(reads.len(), 1);
        assert_eq!(
            (reads[0].index, reads[0].context.as_ref()),
            (commit, context.as_bytes())
        );
    }
    cluster.isolate(1);
    cluster.elect(2);
    cluster.node(1).read_index(Bytes::from_static(b"stale"));
    cluster.settle();
    assert_eq!(cluster.host(1).reads.len(), 1, "no answer without a quorum");
}

/// A new leader does not know what is committed until it has committed something itself: also when it
/// is alone, for its stored commit index may lag.
#[test]
fn thesis_6_4_reads_wait_for_the_first_commit_of_the_term() {
    for count in [1, 3] {
        let mut cluster = Cluster::new(count, asynchronous);
        cluster.elect(1);
        cluster.propose(1, "a");
        let mut storage = cluster.node(1).storage().clone();
        // As after a crash that lost the last commit index, which nobody waits for.
        let mut state = storage.hard_state();
        state.commit = 1;
        storage.set_hard_state(state);
        cluster.start(1, storage, asynchronous);
        cluster.host(1).is_append_stopped = true;
        cluster.node(1).campaign().unwrap();
        cluster.host(1).is_append_stopped = false;
        cluster.settle();
        cluster.node(1).read_index(Bytes::from_static(b"r"));
        cluster.settle();
        let last = cluster.node(1).last_index();
        assert_eq!(
            cluster.host(1).reads.last().unwrap().index,
            last,
            "{count} nodes"
        );
    }
}

#[test]
fn thesis_6_4_1_lease_reads_are_answered_at_once() {
    let lease = |config: &mut Config| {
        guarded(config);
        config.read_only = ReadOnly::LeaseBased;
    };
    let mut cluster = Cluster::new(3, lease);
    cluster.elect(1);
    cluster.node(1).read_index(Bytes::from_static(b"r"));
    assert_eq!(cluster.node(1).ready().read_states.len(), 1);
}

/// The one to whom leadership is handed is elected although all followers hear from their leader: a lease
/// says nothing then, also when nothing comes of the transfer for now.
#[test]
fn thesis_6_4_1_a_lease_ends_with_a_transfer() {
    let mut cluster = Cluster::new(3, |config| {
        guarded(config);
        config.read_only = ReadOnly::LeaseBased;
    });
    cluster.elect(1);
    cluster.propose(1, "a");
    let node = cluster.node(1);
    node.transfer_leader(2);
    assert!(
        node.ready()
            .messages
            .iter()
            .any(|message| message.kind == MessageKind::TimeoutNow)
    );
    node.advance();
    node.read_index(Bytes::from_static(b"read"));
    let ready = node.ready();
    assert!(ready.read_states.is_empty(), "2 may lead by now");
    let asks = |message: &&Message| message.kind == MessageKind::Heartbeat;
    assert_eq!(ready.messages.iter().filter(asks).count(), 2);
    node.advance();
    // A quorum still follows.
    let heartbeat = ready.messages.iter().find(asks).unwrap();
    let (from, context) = (heartbeat.to, heartbeat.context.clone());
    let kind = MessageKind::HeartbeatResp;
    let answer = Message {
        kind,
        from,
        to: 1,
        term: heartbeat.term,
        context,
        ..Message::default()
    };
    node.step(answer).unwrap();
    assert_eq!(node.ready().read_states.len(), 1);
}

/// Thesis 3.10, with CheckQuorum on: the lease is no obstacle when the leader itself asks.
#[test]
fn thesis_3_10_leadership_is_transferred() {
    let mut cluster = Cluster::new(3, guarded);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.node(1).transfer_leader(3);
    let dropped = cluster.node(1).propose(Bytes::from_static(b"x"));
    assert_eq!(
        dropped,
        Err(ProposeError::Dropped(DropReason::TransferInProgress))
    );
    cluster.settle();
    assert_eq!(cluster.leader(), 3);
    cluster.propose(3, "b");
    cluster.assert_commands(&["a", "b"]);
    // Asking a follower works, too.
    cluster.node(1).transfer_leader(2);
    cluster.settle();
    assert_eq!(cluster.leader(), 2);
}

/// A transfer to someone who does not answer is given up after an election timeout.
#[test]
fn thesis_3_10_a_transfer_that_fails_is_given_up() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.isolate(3);
    cluster.node(1).transfer_leader(3);
    assert_eq!(cluster.node(1).status().transferee, 3);
    cluster.tick(12);
    assert_eq!(cluster.node(1).status().transferee, NONE);
    cluster.heal();
    cluster.tick(3);
    let leader = cluster.leader();
    cluster.propose(leader, "a");
}

#[test]
fn a_follower_that_forgets_its_leader_votes_for_another() {
    let mut cluster = Cluster::new(3, guarded);
    cluster.elect(1);
    cluster.isolate(1);
    cluster.elect(2);
    assert_eq!(
        cluster.leader(),
        1,
        "3 still hears from 1, as far as it knows"
    );
    for id in [2, 3] {
        cluster.node(id).forget_leader();
    }
    cluster.elect(2);
    assert_eq!(cluster.leader(), 2);
}

/// Paper 7: a follower whose entries are compacted away gets a snapshot, then the rest.
#[test]
fn section_7_a_follower_far_behind_gets_a_snapshot() {
    for change in [plain as fn(&mut Config), asynchronous] {
        let mut cluster = Cluster::new(3, change);
        cluster.elect(1);
        cluster.isolate(3);
        for data in ["a", "b", "c"] {
            cluster.propose(1, data);
        }
        let applied = cluster.node(1).applied_index();
        let conf_state = cluster.node(1).conf_state();
        cluster.host(1).snapshot(applied, conf_state);
        cluster.node(1).storage_mut().compact(applied).unwrap();
        cluster.propose(1, "d");
        cluster.heal();
        cluster.tick(5);
        assert_eq!(
            cluster.node(3).commit_index(),
            cluster.node(1).commit_index()
        );
        assert_eq!(cluster.node(3).storage().first_index(), Ok(applied + 1));
        cluster.assert_commands(&["a", "b", "c", "d"]);
    }
}

/// A node joins as a learner, is promoted, and the old leader leaves.
#[test]
fn thesis_4_1_members_come_and_go_one_by_one() {
    let mut cluster = Cluster::new(2, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.start(3, MemoryStorage::new(), plain);
    let change = |cluster: &mut Cluster, leader, kind, id| {
        cluster
            .node(leader)
            .propose_conf_change(&ConfChangeV2::single(kind, id))
            .unwrap();
        cluster.settle();
        cluster.tick(2);
    };
    change(&mut cluster, 1, ConfChangeKind::AddLearnerNode, 3);
    assert_eq!(cluster.node(1).conf_state().learners, [3]);
    assert_eq!(cluster.host(3).commands(), ["a"]);
    cluster.elect(3);
    assert_eq!(cluster.leader(), 1, "learners do not campaign");
    change(&mut cluster, 1, ConfChangeKind::AddNode, 3);
    assert_eq!(cluster.node(3).conf_state().voters, [1, 2, 3]);
    change(&mut cluster, 1, ConfChangeKind::RemoveNode, 1);
    assert_eq!(
        cluster.node(1).role(),
        RoleKind::Follower,
        "steps down once removed"
    );
    let removed = cluster.node(1).propose(Bytes::from_static(b"x"));
    assert!(removed.is_err());
    cluster.elect(2);
    cluster.propose(2, "b");
    assert_eq!(cluster.host(3).commands(), ["a", "b"]);
}

/// Thesis 4.3: two members change at once through a joint configuration, which the leader leaves by
/// itself.
#[test]
fn section_6_a_joint_change_replaces_several_members() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    for id in [4, 5] {
        cluster.start(id, MemoryStorage::new(), plain);
    }
    let changes = parse_changes("r2 r3 v4 v5").unwrap();
    let change = ConfChangeV2 {
        changes,
        ..ConfChangeV2::default()
    };
    cluster.node(1).propose_conf_change(&change).unwrap();
    cluster.settle();
    cluster.tick(3);
    for id in [1, 4, 5] {
        let state = cluster.node(id).conf_state();
        assert_eq!(state.voters, [1, 4, 5], "node {id}");
        assert!(state.voters_outgoing.is_empty(), "node {id}");
    }
    cluster.propose(1, "b");
    assert_eq!(cluster.host(5).commands(), ["a", "b"]);
}

/// In a joint configuration both majorities must agree.
#[test]
fn section_6_a_joint_configuration_needs_both_majorities() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    for id in [4, 5] {
        cluster.start(id, MemoryStorage::new(), plain);
    }
    let changes = parse_changes("r2 r3 v4 v5").unwrap();
    let transition = Transition::JointExplicit;
    let change = ConfChangeV2 {
        changes,
        transition,
        ..ConfChangeV2::default()
    };
    cluster.node(1).propose_conf_change(&change).unwrap();
    cluster.settle();
    cluster.tick(2);
    assert_eq!(cluster.node(1).conf_state().voters_outgoing, [1, 2, 3]);
    cluster.isolate(2);
    cluster.isolate(3);
    cluster.propose(1, "waits");
    assert!(
        cluster.host(4).commands().is_empty(),
        "1, 4 and 5 are not enough"
    );
    // A second change is refused meanwhile, except the one that leaves.
    let early = ConfChangeV2::single(ConfChangeKind::AddNode, 9);
    cluster.node(1).propose_conf_change(&early).unwrap();
    cluster.heal();
    cluster.tick(3);
    assert_eq!(cluster.host(4).commands(), ["waits"]);
    assert_eq!(cluster.node(1).conf_state().voters, [1, 4, 5]);
    cluster
        .node(1)
        .propose_conf_change(&ConfChangeV2::default())
        .unwrap();
    cluster.settle();
    cluster.tick(2);
    assert!(cluster.node(5).conf_state().voters_outgoing.is_empty());
}

#[test]
fn uncommitted_bytes_are_limited() {
    let limited = |config: &mut Config| config.max_uncommitted_entries_size = 10;
    let mut cluster = Cluster::new(3, limited);
    cluster.elect(1);
    cluster.isolate(1);
    let payload = Bytes::from_static(b"0123456789abcdef");
    cluster.node(1).propose(payload.clone()).unwrap();
    let last = cluster.node(1).last_index();
    let full = Err(ProposeError::Dropped(DropReason::UncommittedFull));
    assert_eq!(cluster.node(1).propose(payload.clone()), full);
    assert_eq!(cluster.node(1).last_index(), last, "nothing of it was kept");
    cluster.heal();
    cluster.tick(3);
    cluster.node(1).propose(payload).unwrap();
}

/// From proposal to application a payload stays where it is.
#[test]
fn payloads_are_not_copied() {
    let mut cluster = Cluster::new(1, asynchronous);
    cluster.elect(1);
    let payload = Bytes::from(vec![7u8; 1_000]);
    cluster.node(1).propose(payload.clone()).unwrap();
    cluster.settle();
    let (_, applied) = cluster.host(1).applied.last().unwrap();
    assert_eq!(applied.as_ptr(), payload.as_ptr());
}

/// The stored log may end before the commit index the host thinks it has: a start-up error, not a
/// crash.
#[test]
fn a_lost_log_is_noticed_at_start() {
    let mut storage = MemoryStorage::with_voters(&[1]);
    storage.set_hard_state(henge_raft::HardState {
        term: 1,
        vote: 1,
        commit: 5,
    });
    let error = RawNode::new(Config::new(1), storage).unwrap_err();
    assert!(
        error.to_string().contains("stored commit index 5"),
        "{error}"
    );
}
