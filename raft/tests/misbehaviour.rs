//! Peers and storage that say anything at all: nobody panics, nothing committed is lost, and the group
//! goes on.

mod common;
#[path = "../src/seeded.rs"]
mod seeded;

use std::cell::Cell;

use bytes::Bytes;
use common::Cluster;
use henge_raft::{
    ConfState, Config, Entry, EntryKind, HardState, LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD,
    MemoryStorage, Message, MessageKind, NONE, RawNode, RoleKind, Snapshot, SnapshotMeta,
    StepError, Storage, StorageError,
};
use proptest::prelude::*;

fn plain(_: &mut Config) {}

/// Small numbers meet each other; huge ones overflow.
fn number() -> impl Strategy<Value = u64> {
    prop_oneof![8 => 0u64..8, 1 => u64::MAX - 3..=u64::MAX, 1 => any::<u64>()]
}

fn entry() -> impl Strategy<Value = Entry> {
    let data = prop::collection::vec(any::<u8>(), 0..14).prop_map(Bytes::from);
    (number(), number(), 0u8..3, data).prop_map(|(term, index, kind, data)| {
        let kind = EntryKind::from_u8(kind).unwrap();
        Entry {
            term,
            index,
            kind,
            data,
        }
    })
}

/// Entries that follow each other, so that some appends get past the first check.
fn run() -> impl Strategy<Value = Vec<Entry>> {
    (1u64..8, 1u64..4, 0usize..4).prop_map(|(first, term, count)| {
        let indexes = (first..).take(count);
        indexes
            .map(|index| Entry {
                term,
                index,
                ..Entry::default()
            })
            .collect()
    })
}

fn snapshot() -> impl Strategy<Value = Option<Box<Snapshot>>> {
    let ids = || prop::collection::vec(0u64..5, 0..4);
    let conf = (ids(), ids(), ids(), ids(), any::<bool>());
    prop::option::of((number(), number(), conf).prop_map(|(index, term, conf)| {
        let (voters, learners, voters_outgoing, learners_next, auto_leave) = conf;
        let conf_state = ConfState {
            voters,
            learners,
            voters_outgoing,
            learners_next,
            auto_leave,
        };
        Box::new(Snapshot {
            meta: SnapshotMeta {
                conf_state,
                index,
                term,
            },
            data: Bytes::new(),
        })
    }))
}

fn message() -> impl Strategy<Value = Message> {
    let from =
        prop_oneof![8 => 0u64..5, 1 => Just(LOCAL_APPEND_THREAD), 1 => Just(LOCAL_APPLY_THREAD)];
    let numbers = prop::array::uniform6(number());
    let entries = prop_oneof![run(), prop::collection::vec(entry(), 0..3)];
    let context = prop_oneof![
        Just(Bytes::new()),
        Just(Bytes::from_static(b"CampaignTransfer")),
        number().prop_map(|number| Bytes::copy_from_slice(&number.to_le_bytes())),
    ];
    (
        0u8..24,
        from,
        numbers,
        any::<bool>(),
        entries,
        context,
        snapshot(),
    )
        .prop_map(
            |(kind, from, numbers, reject, entries, context, snapshot)| {
                let [term, log_term, index, commit, reject_hint, vote] = numbers;
                let kind = MessageKind::from_u8(kind).unwrap();
                Message {
                    to: 1,
                    responses: Vec::new(),
                    kind,
                    from,
                    term,
                    log_term,
                    index,
                    commit,
                    reject_hint,
                    vote,
                    reject,
                    entries: entries.into(),
                    context,
                    snapshot,
                }
            },
        )
}

proptest! {
    #![proptest_config(seeded::cases(600))]

    /// Whatever comes, in whatever role: no panic, the commit index never goes back, and the entries
    /// below it stay. (That a forged message of a valid form can do harm is another matter: the
    /// transport must know who is who.)
    #[test]
    fn arbitrary_messages(
        is_async in any::<bool>(), leads in any::<bool>(),
        messages in prop::collection::vec(message(), 1..40),
    ) {
        let mut cluster = Cluster::new(3, |config| {
            config.async_storage_writes = is_async;
            config.check_quorum = leads;
        });
        if leads {
            cluster.elect(1);
            cluster.propose(1, "a");
        }
        for id in [2, 3] {
            cluster.hosts.remove(&id);
        }
        let mut committed = 0;
        for message in messages {
            let _ = cluster.node(1).step(message);
            cluster.node(1).tick();
            cluster.settle();
            prop_assert!(cluster.node(1).fault().is_none());
            prop_assert!(cluster.node(1).commit_index() >= committed);
            committed = cluster.node(1).commit_index();
            prop_assert!(cluster.node(1).last_index() >= committed);
            prop_assert!(cluster.node(1).applied_index() <= committed);
        }
    }
}

/// A leader's heartbeat names a commit index past our log: we have lost entries that we acknowledged.
#[test]
fn a_commit_index_from_the_future_is_refused_with_a_hint() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    let last = cluster.node(2).last_index();
    let (kind, term) = (MessageKind::Heartbeat, cluster.node(1).term());
    let message = Message {
        kind,
        from: 1,
        to: 2,
        term,
        commit: 50,
        ..Message::default()
    };
    let refusal = cluster.node(2).step(message).unwrap_err();
    assert_eq!(
        refusal,
        StepError::CommitBeyondLog {
            from: 1,
            commit: 50,
            last
        }
    );
    let ready = cluster.node(2).ready();
    let hint = ready
        .messages
        .iter()
        .find(|message| message.reject)
        .unwrap();
    assert_eq!((hint.kind, hint.reject_hint), (MessageKind::AppResp, last));
    cluster.node(2).advance();
    cluster.propose(1, "b");
    cluster.assert_commands(&["a", "b"]);
}

/// A node that forgot its log after acknowledging it: the others go on, nobody talks in circles, and
/// when it comes back as a new member it gets everything.
#[test]
fn a_lost_log_does_not_stop_the_others() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    let state = cluster.node(3).storage().hard_state();
    let mut storage = MemoryStorage::with_voters(&[1, 2, 3]);
    storage.set_hard_state(HardState { commit: 1, ..state });
    cluster.start(3, storage, plain);
    cluster.tick(5);
    cluster.propose(1, "b");
    cluster.tick(5);
    assert_eq!(cluster.host(2).commands(), ["a", "b"]);
    assert_eq!(cluster.leader(), 1);
    assert!(
        cluster
            .host(3)
            .errors
            .iter()
            .any(|it| matches!(it, StepError::CommitBeyondLog { .. }))
    );
}

#[test]
fn acknowledgements_of_nothing_commit_nothing() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    let (last, term) = (cluster.node(1).last_index(), cluster.node(1).term());
    for from in [2, 3] {
        let index = last + 5;
        let kind = MessageKind::AppResp;
        let message = Message {
            kind,
            from,
            to: 1,
            term,
            index,
            ..Message::default()
        };
        let refusal = cluster.node(1).step(message).unwrap_err();
        assert_eq!(refusal, StepError::AckBeyondLog { from, index, last });
    }
    cluster.propose(1, "a");
    cluster.assert_commands(&["a"]);
}

/// An append to node 2 of a group of three that has committed "a", from node 3 as leader in term 9.
fn append_from_nowhere(index: u64, log_term: u64, entries: &[(u64, u64)]) -> Message {
    let entries = entries.iter().map(|&(term, index)| Entry {
        term,
        index,
        ..Entry::default()
    });
    Message {
        kind: MessageKind::App,
        from: 3,
        to: 2,
        term: 9,
        log_term,
        index,
        entries: entries.collect(),
        ..Message::default()
    }
}

#[test]
fn entries_that_leave_a_gap_are_refused() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    let (last, committed) = (cluster.node(2).last_index(), cluster.node(2).commit_index());
    let gap = append_from_nowhere(last + 4, 9, &[(9, last + 1)]);
    let refusal = cluster.node(2).step(gap).unwrap_err();
    assert!(matches!(refusal, StepError::Malformed { .. }), "{refusal}");
    // Well-formed, but past our log: a reject says where that ends.
    let ahead = append_from_nowhere(last + 4, 9, &[(9, last + 5)]);
    cluster.node(2).step(ahead).unwrap();
    let ready = cluster.node(2).ready();
    let reject = ready.messages.iter().find(|it| it.reject).unwrap();
    assert_eq!((reject.index, reject.reject_hint), (last + 4, last));
    assert_eq!(cluster.node(2).commit_index(), committed);
    assert_eq!(cluster.node(2).last_index(), last);
}

/// It was acknowledged up to the commit index, as a late append is: the leader would have taken that for a
/// proof that its own log, with other entries, is the same up to there, and committed them.
#[test]
fn a_conflict_with_committed_entries_is_refused_and_not_acknowledged() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    cluster.propose(1, "b");
    let (last, committed) = (cluster.node(2).last_index(), cluster.node(2).commit_index());
    assert_eq!(last, committed);
    let others = [
        // Others in place of the last two; of the last; only an entry before that is not ours.
        append_from_nowhere(last - 2, 1, &[(8, last - 1), (9, last)]),
        append_from_nowhere(last - 1, 1, &[(9, last)]),
        append_from_nowhere(last, 8, &[(9, last + 1)]),
        append_from_nowhere(last - 1, 8, &[]),
    ];
    for (message, at) in others.into_iter().zip([last - 1, last, last, last - 1]) {
        let refusal = cluster.node(2).step(message).unwrap_err();
        let expected = StepError::ConflictsWithCommitted {
            index: at,
            committed,
            from: 3,
        };
        assert_eq!(refusal, expected);
        let ready = cluster.node(2).ready();
        assert_eq!(ready.messages, [], "no answer is the answer");
        cluster.node(2).advance();
    }
    assert_eq!(cluster.node(2).last_index(), last);
    // The group goes on, under whoever is elected in a later term.
    cluster.tick(60);
    let leader = cluster.leader();
    cluster.propose(leader, "c");
    cluster.assert_commands(&["a", "b", "c"]);
}

/// A snapshot that ends in the committed log with another term was ignored, and acknowledged all the same.
#[test]
fn a_snapshot_of_another_history_is_refused() {
    let mut cluster = Cluster::new(3, plain);
    cluster.elect(1);
    cluster.propose(1, "a");
    let node = cluster.node(2);
    let (committed, term, conf_state) = (node.commit_index(), node.term(), node.conf_state());
    // Another entry at the commit index; a later index, but an earlier term than what is committed.
    for (index, of_term) in [(committed, 7), (committed + 5, term - 1)] {
        let meta = SnapshotMeta {
            conf_state: conf_state.clone(),
            index,
            term: of_term,
        };
        let snapshot = Snapshot {
            meta,
            ..Snapshot::default()
        };
        let message = Message {
            kind: MessageKind::Snap,
            from: 3,
            to: 2,
            term: 9,
            snapshot: Some(Box::new(snapshot)),
            ..Message::default()
        };
        let refusal = cluster.node(2).step(message).unwrap_err();
        let expected = StepError::ConflictsWithCommitted {
            index: committed,
            committed,
            from: 3,
        };
        assert_eq!(refusal, expected);
        let ready = cluster.node(2).ready();
        assert_eq!((ready.messages, ready.snapshot), (Vec::new(), None));
        cluster.node(2).advance();
    }
    assert_eq!(cluster.node(2).commit_index(), committed);
}

#[test]
fn local_messages_from_the_network_are_refused() {
    let mut cluster = Cluster::new(3, plain);
    for kind in MessageKind::ALL
        .iter()
        .copied()
        .filter(|kind| kind.is_local())
    {
        let message = Message {
            kind,
            from: 2,
            to: 1,
            ..Message::default()
        };
        let refusal = cluster.node(1).step(message).unwrap_err();
        assert_eq!(refusal, StepError::LocalMessage { kind, from: 2 });
    }
    let (kind, from) = (MessageKind::VoteResp, 9);
    let stranger = Message {
        kind,
        from,
        to: 1,
        term: 1,
        ..Message::default()
    };
    let refusal = cluster.node(1).step(stranger).unwrap_err();
    assert_eq!(refusal, StepError::PeerNotFound { kind, from });
    let (kind, from) = (MessageKind::Heartbeat, 2);
    let astray = Message {
        kind,
        from,
        to: 7,
        term: 1,
        ..Message::default()
    };
    let refusal = cluster.node(1).step(astray).unwrap_err();
    assert_eq!(
        refusal,
        StepError::WrongTarget {
            kind,
            from,
            to: 7,
            id: 1
        }
    );
}

/// Storage that has to fetch: `entries` and `snapshot` answer "later" while `busy` is set.
#[derive(Debug)]
struct Fetching {
    inner: MemoryStorage,
    busy: Cell<bool>,
    broken: Cell<bool>,
}

impl Storage for Fetching {
    fn initial_state(&self) -> Result<(HardState, ConfState), StorageError> {
        self.inner.initial_state()
    }
    fn entries(&self, lo: u64, hi: u64, max_bytes: u64) -> Result<Vec<Entry>, StorageError> {
        match (self.busy.get(), self.broken.get()) {
            (true, _) => Err(StorageError::Unavailable),
            (_, true) => Err(StorageError::Other("disk on fire".to_string())),
            _ => self.inner.entries(lo, hi, max_bytes),
        }
    }
    fn term(&self, index: u64) -> Result<u64, StorageError> {
        self.inner.term(index)
    }
    fn first_index(&self) -> Result<u64, StorageError> {
        self.inner.first_index()
    }
    fn last_index(&self) -> Result<u64, StorageError> {
        self.inner.last_index()
    }
    fn snapshot(&self) -> Result<Snapshot, StorageError> {
        match self.busy.get() {
            true => Err(StorageError::SnapshotTemporarilyUnavailable),
            false => self.inner.snapshot(),
        }
    }
}

/// A leader (node 1 of 1, 2) restarted with five committed entries that are not applied.
fn fetching() -> RawNode<Fetching> {
    let mut inner = MemoryStorage::with_voters(&[1, 2]);
    let entries = (2..=6).map(|index| Entry {
        term: 1,
        index,
        ..Entry::default()
    });
    inner.append(&entries.collect::<Vec<_>>()).unwrap();
    inner.set_hard_state(HardState {
        term: 1,
        vote: 1,
        commit: 6,
    });
    let storage = Fetching {
        inner,
        busy: Cell::new(true),
        broken: Cell::new(false),
    };
    let mut config = Config::new(1);
    (config.pre_vote, config.check_quorum) = (false, false);
    RawNode::new(config, storage).unwrap()
}

fn finish(node: &mut RawNode<Fetching>) -> Vec<Message> {
    let ready = node.ready();
    let storage = node.storage_mut();
    storage.inner.append(&ready.entries).unwrap();
    storage.inner.set_hard_state(ready.hard_state);
    node.advance();
    ready.messages
}

/// A leader whose follower needs entries that storage has to fetch first.
fn waiting_for_storage() -> RawNode<Fetching> {
    let mut node = fetching();
    assert!(node.ready().committed_entries.is_empty());
    node.advance();
    assert!(!node.has_ready(), "no point in asking again at once");
    node.campaign().unwrap();
    assert_eq!(
        node.role(),
        RoleKind::Follower,
        "one of the entries may be a membership change"
    );
    node.storage().busy.set(false);
    node.storage_mut();
    assert_eq!(node.ready().committed_entries.len(), 5);
    node.advance();
    node.campaign().unwrap();
    finish(&mut node);
    let (kind, term) = (MessageKind::VoteResp, 2);
    node.step(Message {
        kind,
        from: 2,
        to: 1,
        term,
        ..Message::default()
    })
    .unwrap();
    assert_eq!(node.role(), RoleKind::Leader);
    finish(&mut node);
    // 2 needs entry 4 on, which storage has to fetch first: nothing is sent, and nothing breaks.
    node.storage().busy.set(true);
    let kind = MessageKind::AppResp;
    let rejection = Message {
        kind,
        from: 2,
        to: 1,
        term,
        index: 6,
        reject: true,
        reject_hint: 3,
        log_term: 1,
        ..Message::default()
    };
    node.step(rejection).unwrap();
    assert!(finish(&mut node).is_empty());
    node
}

#[test]
fn storage_that_fetches_is_asked_again() {
    let mut node = waiting_for_storage();
    let term = 2;
    node.storage().busy.set(false);
    let kind = MessageKind::HeartbeatResp;
    node.step(Message {
        kind,
        from: 2,
        to: 1,
        term,
        ..Message::default()
    })
    .unwrap();
    let sent = finish(&mut node);
    assert_eq!(
        (sent[0].kind, sent[0].index, sent[0].entries.len()),
        (MessageKind::App, 3, 4)
    );
    assert_eq!(node.leader(), 1);
}

/// A laggard got one span of old entries per heartbeat: what was read back was not sent on.
#[test]
fn entries_that_become_available_are_sent_without_a_heartbeat() {
    let mut node = waiting_for_storage();
    node.entries_available();
    assert!(!node.has_ready(), "storage is still fetching");
    node.storage().busy.set(false);
    node.entries_available();
    let sent = finish(&mut node);
    assert_eq!(
        (sent[0].kind, sent[0].index, sent[0].entries.len()),
        (MessageKind::App, 3, 4)
    );
}

#[test]
fn broken_storage_stops_the_group_and_only_that() {
    let mut node = fetching();
    node.storage().busy.set(false);
    node.storage().broken.set(true);
    assert_eq!(node.ready(), henge_raft::Ready::default());
    let fault = node.fault().expect("it cannot go on").clone();
    assert!(fault.to_string().contains("disk on fire"), "{fault}");
    assert!(!node.has_ready());
    assert_eq!(node.campaign(), Err(StepError::Poisoned(fault.clone())));
    assert!(node.propose(Bytes::new()).is_err());
    node.tick();
    assert_eq!(node.leader(), NONE);
}
