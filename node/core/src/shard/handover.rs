//! Three shards beside each other, with a network and disks that take no time: what becomes of proposals and
//! leases when leadership moves.

use std::collections::VecDeque;

use henge_api::{Error, Outcome};
use henge_mvcc::PutRequest;
use henge_raft::{
    LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, Message, MessageKind, NONE, Storage as _,
};

use super::log::{Position, TailLog};
use super::renewals::WAITING_MAX;
use super::request::{Answer, AnswerReceiver, Request, RequestKind};
use super::{Shard, tests};
use crate::machine::{Command, Response};
use crate::shard::recover::RecoveredGroup;

const VOTERS: [u64; 3] = [1, 2, 3];

/// Members 1 to 3.
pub(super) struct Trio {
    pub(super) shards: Vec<Shard>,
    wire: VecDeque<Message>,
    now_ms: u64,
}

impl Trio {
    /// Of which member 1 leads.
    pub(super) fn led() -> Trio {
        let shards = VOTERS.map(|id| tests::start_as(id, &VOTERS, 1_000 * id));
        let mut trio = Trio {
            shards: shards.into(),
            wire: VecDeque::new(),
            now_ms: 1,
        };
        trio.at(1).raft.campaign().expect("sound");
        trio.settle();
        assert_eq!(trio.leader(), 1);
        trio
    }

    fn at(&mut self, id: u64) -> &mut Shard {
        &mut self.shards[id as usize - 1]
    }

    /// Whom all of them follow.
    fn leader(&self) -> u64 {
        let leader = self.shards[0].raft.leader();
        let agree = self.shards.iter().all(|it| it.raft.leader() == leader);
        if agree { leader } else { NONE }
    }

    /// What one has to say and do, without delivering it.
    fn run(&mut self, id: u64) {
        let now_ms = self.now_ms;
        let shard = self.at(id);
        shard.advance_time(now_ms);
        shard.ask_read_index(now_ms);
        let mut said: Vec<_> = shard.outbox.drain(..).collect();
        shard.propose(now_ms);
        while shard.raft.has_ready() {
            let ready = shard.raft.ready();
            for state in ready.read_states {
                shard.confirm_read(&state.context, state.index);
            }
            for message in ready.messages {
                match message.to {
                    LOCAL_APPEND_THREAD => {
                        shard.raft.storage_mut().append(&message.entries);
                        for response in message.responses {
                            match response.to {
                                to if to == id => drop(shard.raft.step(response)),
                                _ => said.push(response),
                            }
                        }
                    }
                    LOCAL_APPLY_THREAD => {
                        shard.apply(message);
                        shard.apply_on(u64::MAX, now_ms);
                    }
                    _ => said.extend(shard.times_asked(message)),
                }
            }
            shard.times_told(u64::MAX, now_ms, |message| said.push(message));
            shard.answer_reads(now_ms);
            shard.propose(now_ms);
        }
        if let Some(chain) = shard.flush_answers() {
            chain.release();
        }
        self.wire.extend(said);
    }

    fn deliver(&mut self, message: Message) {
        let now_ms = self.now_ms;
        let to = message.to;
        self.at(to).step_peer(message, now_ms);
        self.run(to);
    }

    /// Until nobody has anything to say.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            VOTERS.into_iter().for_each(|id| self.run(id));
            match self.wire.pop_front() {
                Some(message) => self.deliver(message),
                None => return,
            }
        }
        panic!("they talk without end");
    }

    fn tick(&mut self) {
        self.now_ms += 100;
        self.settle();
    }

    fn ask(&mut self, id: u64, kind: RequestKind) -> AnswerReceiver {
        let (answer, receiver) = Answer::channel();
        let now_ms = self.now_ms;
        self.at(id).admit(Request { kind, answer }, now_ms);
        receiver
    }

    fn put(&mut self, id: u64, key: &str) -> AnswerReceiver {
        let put = Command::Put(PutRequest {
            key: key.as_bytes(),
            value: b"v",
            ..PutRequest::default()
        });
        self.ask(id, RequestKind::Write(put.encode()))
    }

    pub(super) fn grant(&mut self, id: i64, ttl_s: i64) {
        let grant = Command::LeaseGrant { id, ttl_s };
        let mut granted = self.ask(1, RequestKind::Write(grant.encode()));
        self.settle();
        assert!(done(&mut granted));
    }

    /// Ends a member and starts it from what its log holds.
    fn restart(&mut self, id: u64) {
        let (now_ms, old) = (self.now_ms, self.at(id));
        let log = old.raft.storage();
        let last = log.last_index().expect("sound");
        let entries = log.entries(1, last + 1, u64::MAX).expect("in memory");
        let voters = VOTERS.to_vec();
        let conf_state = henge_raft::ConfState {
            voters,
            ..Default::default()
        };
        let mut log = TailLog::new(conf_state, Position::default());
        log.append(&entries);
        let found = RecoveredGroup {
            hard_state: henge_raft::HardState {
                term: old.raft.term(),
                vote: NONE,
                commit: old.raft.commit_index(),
            },
            log: Some(log),
            ..RecoveredGroup::default()
        };
        *self.at(id) = tests::start_from(found, id, &VOTERS, 1_000 * id + 500, now_ms);
    }

    /// What each member says is left of a lease, and how many keys it has.
    fn left(&mut self, lease: i64) -> [(i64, usize); 3] {
        let kind = || RequestKind::LeaseTimeToLive {
            id: lease,
            keys: true,
        };
        let asked = VOTERS.map(|id| self.ask(id, kind()));
        self.settle();
        asked.map(|mut asked| {
            let answer = asked.try_recv().expect("answered").expect("done");
            match answer.body {
                Response::Ttl(left) => (left.ttl_s, left.keys.len()),
                other => panic!("{other:?}"),
            }
        })
    }

    /// How often each put was done, on every member.
    fn versions(&mut self, key: &str) -> Vec<i64> {
        let range = henge_mvcc::RangeRequest {
            range: henge_mvcc::KeyRange::one(key.as_bytes()),
            ..Default::default()
        };
        let found = self.shards.iter().map(|shard| {
            let found = shard.machine.store.range(&range).expect("valid");
            found.kvs.first().map_or(0, |kv| kv.version)
        });
        found.collect()
    }

    fn entries(&self, id: u64) -> u64 {
        self.shards[id as usize - 1]
            .raft
            .storage()
            .last_index()
            .expect("sound")
    }
}

fn done(receiver: &mut AnswerReceiver) -> bool {
    receiver.try_recv().is_some_and(|answer| answer.is_ok())
}

fn renewed(receiver: &mut AnswerReceiver) -> Option<Result<i64, Error>> {
    receiver.try_recv().map(|answer| match answer?.body {
        Response::Renewed(ttl_s) => Ok(ttl_s),
        other => panic!("{other:?}"),
    })
}

/// A leader that handed over answered its own callers *too many requests*, and forgot what its followers had
/// forwarded: those heard nothing for seven seconds.
#[test]
fn regression_what_is_asked_while_leadership_is_handed_over_is_done_once() {
    let mut trio = Trio::led();
    // Under way before, to the leader of before.
    let mut early = trio.put(3, "early");
    trio.run(3);
    trio.at(1).hand_over();
    let mut own = trio.put(1, "own");
    trio.run(1);
    assert!(own.try_recv().is_none(), "it waits");
    // Handed over to member 2; while that is under way, from every member.
    let mut puts: Vec<_> = VOTERS.map(|id| trio.put(id, &format!("late/{id}"))).into();
    trio.settle();
    assert_eq!(trio.leader(), 2);
    // What came back waits a moment, if it did not hear of the new leader first.
    trio.now_ms += 50;
    trio.settle();
    assert!(done(&mut early) && done(&mut own));
    assert!(puts.iter_mut().all(done));
    for key in ["early", "own", "late/1", "late/2", "late/3"] {
        assert_eq!(trio.versions(key), [1, 1, 1], "{key}");
    }
    for id in VOTERS {
        let shard = trio.at(id);
        assert_eq!((shard.pending_bytes, shard.waiting()), (0, 0), "{id}");
    }
}

/// Forwarded to a leader of before, when the one who forwarded it leads by now: it came round to him as from
/// himself, and raft refuses such messages.
#[test]
fn regression_a_proposal_that_comes_round_to_the_new_leader_is_done() {
    let mut trio = Trio::led();
    let mut put = trio.put(2, "k");
    trio.run(2);
    let forwarded = trio.wire.pop_back().expect("it was forwarded");
    assert_eq!((forwarded.kind, forwarded.to), (MessageKind::Prop, 1));
    trio.at(1).hand_over();
    trio.settle();
    assert_eq!(trio.leader(), 2);
    trio.deliver(forwarded);
    trio.settle();
    trio.now_ms += 50;
    trio.settle();
    assert!(done(&mut put));
    assert_eq!(trio.versions("k"), [1, 1, 1]);
}

/// Only what waits comes back, once: a repeated word of it does not make a second proposal.
#[test]
fn what_comes_back_twice_is_proposed_once() {
    let mut trio = Trio::led();
    let mut put = trio.put(3, "k");
    trio.run(3);
    let forwarded = trio.wire.pop_back().expect("it was forwarded");
    let mut refusal = forwarded.clone();
    (refusal.from, refusal.to, refusal.reject) = (1, 3, true);
    // Of another command under the same id: not what waits.
    let mut other = refusal.clone();
    let mut entry = other.entries[0].clone();
    entry.data = entry.data.slice(..entry.data.len() - 1);
    other.entries = entry.into();
    trio.deliver(other);
    assert_eq!(trio.at(3).returned.len(), 0);
    trio.deliver(refusal.clone());
    trio.deliver(refusal.clone());
    assert_eq!(trio.at(3).returned.len(), 1, "it waits for a moment");
    trio.now_ms += 50;
    trio.settle();
    assert!(done(&mut put));
    trio.deliver(refusal);
    trio.now_ms += 50;
    trio.settle();
    assert_eq!(trio.versions("k"), [1, 1, 1]);
}

/// What came back keeps its order and its deadline: then it is *not done*, and says so.
#[test]
fn what_comes_back_again_and_again_ends_at_its_deadline_in_order() {
    let mut trio = Trio::led();
    let mut puts: Vec<_> = (0..3).map(|n| trio.put(3, &format!("k{n}"))).collect();
    let began_ms = trio.now_ms;
    let mut rounds = 0;
    while trio.now_ms < began_ms + 7_000 {
        trio.run(3);
        let forwarded: Vec<_> = trio.wire.drain(..).collect();
        for mut message in forwarded {
            if message.kind == MessageKind::Prop {
                let keys: Vec<_> = message.entries.iter().map(|it| it.data.clone()).collect();
                assert!(keys.is_sorted_by_key(|it| it[it.len() - 6]), "k0, k1, k2");
                (message.from, message.to, message.reject) = (1, 3, true);
                trio.deliver(message);
                rounds += 1;
            }
        }
        // A follower that hears its leader all the time.
        let heartbeat = Message {
            kind: MessageKind::Heartbeat,
            from: 1,
            to: 3,
            term: trio.at(1).raft.term(),
            ..Message::default()
        };
        trio.now_ms += 50;
        trio.deliver(heartbeat);
    }
    assert!(rounds > 50, "{rounds}");
    trio.run(3);
    for put in &mut puts {
        let late = Error::Timeout {
            outcome: Outcome::NotDone,
        };
        assert_eq!(put.try_recv(), Some(Err(late)));
    }
    let shard = trio.at(3);
    assert_eq!((shard.pending_bytes, shard.waiting()), (0, 0));
}

/// Without a leader, or with one that does not answer, what is forwarded is never lost for the want of a
/// connection.
#[test]
fn what_the_transport_did_not_take_is_proposed_again() {
    let mut trio = Trio::led();
    let mut put = trio.put(3, "k");
    trio.run(3);
    let forwarded = trio.wire.pop_back().expect("it was forwarded");
    let now_ms = trio.now_ms;
    trio.at(3).send_back(&forwarded.entries, now_ms);
    // What was passed on for somebody else goes back to him.
    trio.at(2).send_back(&forwarded.entries, now_ms);
    let sent: Vec<_> = trio
        .at(2)
        .outbox
        .iter()
        .map(|it| (it.to, it.reject))
        .collect();
    assert_eq!(sent, [(3, true)]);
    trio.now_ms += 50;
    trio.settle();
    assert!(done(&mut put));
    assert_eq!(trio.versions("k"), [1, 1, 1]);
}

/// Each renewal was an entry of its own.
#[test]
fn regression_renewals_that_arrive_together_are_one_entry_and_each_is_answered() {
    let mut trio = Trio::led();
    (1..=100).for_each(|id| trio.grant(id, 60));
    let before = trio.entries(1);
    let mut renewals: Vec<_> = (1..=101)
        .map(|id| trio.ask(3, RequestKind::LeaseKeepAlive(id)))
        .collect();
    trio.settle();
    assert_eq!(trio.entries(1), before + 1);
    for (at, renewal) in renewals.iter_mut().enumerate() {
        let expected = if at < 100 { 60 } else { 0 };
        assert_eq!(renewed(renewal), Some(Ok(expected)), "{at}");
    }
}

/// Renewals were admitted like writes: with a full queue they were refused, while leases went on to end.
#[test]
fn regression_a_renewal_passes_where_a_write_is_refused_and_before_any_lease_ends() {
    let mut trio = Trio::led();
    trio.grant(5, 2);
    trio.at(1).config.pending_bytes_max = 60;
    let mut first = trio.put(1, "first");
    let mut refused = trio.put(1, "refused");
    assert_eq!(refused.try_recv(), Some(Err(Error::TooManyRequests)));
    let mut renewal = trio.ask(1, RequestKind::LeaseKeepAlive(5));
    trio.settle();
    assert_eq!(renewed(&mut renewal), Some(Ok(2)));
    assert!(done(&mut first));
    // No room even for renewals: then no lease ends before the next tick.
    let full: Vec<_> = (0..WAITING_MAX)
        .map(|_| trio.ask(1, RequestKind::LeaseKeepAlive(7)))
        .collect();
    let mut refused = trio.ask(1, RequestKind::LeaseKeepAlive(5));
    let now_ms = trio.now_ms + 60_000;
    let shard = trio.at(1);
    if let Some(chain) = shard.flush_answers() {
        chain.release();
    }
    assert_eq!(renewed(&mut refused), Some(Err(Error::TooManyRequests)));
    drop(full);
    shard.expire_leases(now_ms);
    let mut proposed = std::iter::from_fn(|| shard.renewals.next(Some(shard.raft.term())));
    assert!(proposed.all(|(_, callers)| callers.are_renewals()));
    shard.expire_leases(now_ms);
    assert!(
        shard.renewals.next(Some(shard.raft.term())).is_some(),
        "the lease ends now"
    );
    // A log that takes no renewal takes no end of a lease either.
    shard.log_full = true;
    shard.expire_leases(now_ms + 10_000);
    assert!(shard.renewals.is_empty());
}

/// A follower whose log is full refused renewals, while its leader ended the leases; to pass them on it needs
/// no log.
#[test]
fn regression_a_follower_with_a_full_log_passes_renewals_on() {
    let mut trio = Trio::led();
    trio.grant(5, 2);
    for id in VOTERS {
        trio.at(id).log_full = true;
        let mut renewal = trio.ask(id, RequestKind::LeaseKeepAlive(5));
        let expected = match id {
            1 => Err(Error::NoSpace),
            _ => {
                trio.at(1).log_full = false;
                Ok(2)
            }
        };
        trio.settle();
        assert_eq!(renewed(&mut renewal), Some(expected), "{id}");
    }
}

/// What a leader had decided to end and not proposed went to its successor with the index of before. It would
/// have done no harm to a lease that was renewed since (the log's order decides), but a new leader gives
/// every lease its time again, and means it.
#[test]
fn regression_a_leader_that_steps_down_ends_no_lease_any_more() {
    let mut trio = Trio::led();
    trio.grant(5, 2);
    let now_ms = trio.now_ms + 3_000;
    trio.at(1).expire_leases(now_ms);
    assert!(!trio.at(1).renewals.is_empty());
    trio.at(1).hand_over();
    trio.settle();
    assert_eq!(trio.leader(), 2);
    trio.settle();
    for id in VOTERS {
        let shard = trio.at(id);
        assert_eq!(shard.machine.store.leases(), [5], "{id}");
        assert!(shard.renewals.is_empty());
    }
    // It ends all the same, by the new leader's clock: its time, and an election timeout.
    for _ in 0..40 {
        trio.tick();
    }
    for id in VOTERS {
        assert!(trio.at(id).machine.store.leases().is_empty(), "{id}");
    }
}

/// An expiry that was proposed by the leader of before, and comes to the log through the leader of now,
/// spares what was renewed in between: indexes count across terms.
#[test]
fn an_expiry_of_an_earlier_term_spares_a_lease_renewed_since() {
    let mut trio = Trio::led();
    trio.grant(5, 2);
    trio.grant(6, 2);
    let now_ms = trio.now_ms + 3_000;
    let expiry = trio.at(1).expiries(now_ms).remove(0);
    trio.at(1).hand_over();
    trio.settle();
    let mut renewal = trio.ask(3, RequestKind::LeaseKeepAlive(5));
    trio.settle();
    assert_eq!(renewed(&mut renewal), Some(Ok(2)));
    trio.at(2).raft.propose(expiry.into()).expect("it leads");
    trio.settle();
    assert_eq!(trio.at(3).machine.store.leases(), [5]);
}

/// A linearizable read whose round went to the leader of before waited half a second.
#[test]
fn regression_a_read_is_asked_again_of_the_new_leader_at_once() {
    let mut trio = Trio::led();
    let mut read = trio.ask(3, RequestKind::Barrier);
    trio.run(3);
    let asked = trio.wire.pop_back().expect("it was asked");
    assert_eq!((asked.kind, asked.to), (MessageKind::ReadIndex, 1));
    trio.at(1).hand_over();
    trio.settle();
    assert!(done(&mut read));
}

/// A follower answered by its own clock, and one that had just started said of every lease that it had all of
/// its time.
#[test]
fn regression_what_is_left_of_a_lease_is_what_its_leader_says() {
    let mut trio = Trio::led();
    trio.grant(5, 60);
    let put = Command::Put(PutRequest {
        key: b"k",
        lease: 5,
        ..PutRequest::default()
    });
    let mut put = trio.ask(1, RequestKind::Write(put.encode()));
    trio.settle();
    assert!(done(&mut put));
    for _ in 0..400 {
        trio.tick();
    }
    assert_eq!(trio.left(5), [(20, 1); 3], "after forty seconds");
    trio.restart(3);
    for _ in 0..3 {
        trio.tick();
    }
    assert_eq!(trio.left(5), [(19, 1); 3], "member 3 has just started");
    // A renewal that is acknowledged counts, wherever it is asked for.
    let mut renewal = trio.ask(3, RequestKind::LeaseKeepAlive(5));
    trio.settle();
    assert_eq!(renewed(&mut renewal), Some(Ok(60)));
    assert_eq!(trio.left(5), [(60, 1); 3]);
    // Leases that there are not.
    assert_eq!(trio.left(6), [(-1, 0); 3]);
    // A new leader gives a lease its time again and an election timeout, and everybody says so.
    for _ in 0..300 {
        trio.tick();
    }
    trio.at(1).hand_over();
    trio.settle();
    assert_eq!(trio.leader(), 2);
    assert_eq!(trio.left(5), [(61, 1); 3]);
}

/// Its own clock, then: a leader of an older version sends the question back.
#[test]
fn a_leader_that_says_nothing_of_leases_does_not_keep_a_follower_from_answering() {
    let mut trio = Trio::led();
    trio.grant(5, 60);
    let kind = RequestKind::LeaseTimeToLive { id: 5, keys: false };
    let mut asked = trio.ask(3, kind);
    trio.run(3);
    let question = trio.wire.pop_back().expect("it was asked");
    assert_eq!((question.kind, question.to), (MessageKind::ReadIndex, 1));
    let leader = &trio.at(1).raft;
    let (index, term) = (leader.commit_index(), leader.term());
    trio.wire.push_back(Message {
        kind: MessageKind::ReadIndexResp,
        from: 1,
        to: 3,
        term,
        index,
        ..question
    });
    trio.settle();
    let answer = asked.try_recv().expect("answered").expect("done");
    assert!(matches!(answer.body, Response::Ttl(left) if left.ttl_s == 60));
}

/// As etcd counts: a heartbeat that leaves later than after two intervals, once for each of the others.
#[test]
fn a_leaders_late_heartbeats_are_counted() {
    let mut trio = Trio::led();
    let late = |trio: &mut Trio, id: u64, after_ms: u64| {
        trio.now_ms += after_ms;
        trio.settle();
        let mut metrics = henge_api::Metrics::default();
        trio.at(id).metrics(&mut metrics);
        metrics.late_heartbeats
    };
    assert_eq!(late(&mut trio, 1, 100), 0);
    assert_eq!(late(&mut trio, 1, 200), 0, "two intervals");
    assert_eq!(late(&mut trio, 1, 201), 2, "one to each of the others");
    assert_eq!(late(&mut trio, 1, 100), 2);
    assert_eq!(late(&mut trio, 2, 500), 0, "it does not lead");
}
