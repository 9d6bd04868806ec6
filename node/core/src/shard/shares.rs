//! One shard with a log of its own, turned by hand: what its share of a turn goes to while there is more to
//! apply than fits.

use std::collections::VecDeque;
use std::path::Path;

use henge_api::Error;
use henge_mvcc::PutRequest;
use henge_raft::{Entry, Message, MessageKind};
use henge_wal::disk::sim::SimHandle;
use henge_wal::{Identity, Options, Wal};

use super::log::{Position, TailLog};
use super::persist::Outputs;
use super::request::{Answer, AnswerReceiver, Request, RequestKind};
use super::{Shard, conf_state, tests, times};
use crate::gauges::Stopwatch;
use crate::machine::{Command, Response};
use crate::seats::Slot;
use crate::shard::recover::{RecoveredGroup, Recovery};
use crate::work::TurnWork;

/// A shard and where its outputs go.
struct Desk {
    shard: Shard,
    wal: Wal,
    now_ms: u64,
}

impl Desk {
    fn new(mut shard: Shard) -> Desk {
        let identity = Identity {
            cluster_id: 7,
            member_id: 1,
        };
        let mut recovery = Recovery::new(conf_state(&shard.config), 0);
        let disk = Box::new(SimHandle::new(1, 2).disk());
        let path = Path::new("core-0");
        let (wal, _) = Wal::open(path, &Options::default(), &identity, disk, &mut recovery)
            .expect("an empty disk");
        shard.turn = TurnWork::bounded();
        Desk {
            shard,
            wal,
            now_ms: 1,
        }
    }

    /// One share of a new turn, and the log's part, which takes no time; what it says to peers.
    fn share(&mut self) -> Vec<Message> {
        self.shard.turn.begin();
        let (mut messages, mut parked) = (Vec::new(), VecDeque::new());
        let mut out = Outputs {
            wal: &mut self.wal,
            parked: &mut parked,
            messages: &mut messages,
            last_lsn: &mut Default::default(),
            durable_lsn: Default::default(),
            log_reserve: 0,
            now_ms: self.now_ms,
            stopwatch: &Stopwatch::default(),
            apply_micros: 0,
            applied: 0,
            held_back: &mut Vec::new(),
        };
        self.shard.process_ready(Slot::new(0), &mut out);
        for parked in parked {
            self.shard.deliver(parked.responses, &mut messages);
        }
        if let Some(chain) = self.shard.flush_answers() {
            chain.release();
        }
        messages.into_iter().map(|(_, message)| message).collect()
    }

    fn keep_alive(&mut self, id: i64) -> AnswerReceiver {
        let (answer, receiver) = Answer::channel();
        let kind = RequestKind::LeaseKeepAlive(id);
        self.shard.admit(Request { kind, answer }, self.now_ms);
        receiver
    }

    /// Many puts, committed.
    fn commit_puts(&mut self, count: u64) {
        let put = Command::Put(PutRequest {
            key: b"k",
            value: b"v",
            ..PutRequest::default()
        });
        let first = self.shard.machine.applied_index + 1;
        let entries = (first..first + count).map(|index| entry(index, &put));
        self.shard.apply(Message {
            entries: entries.collect::<Vec<_>>().into(),
            ..Message::default()
        });
    }
}

fn entry(index: u64, command: &Command<'_>) -> Entry {
    Entry {
        term: 1,
        index,
        data: command.encode().into(),
        ..Entry::default()
    }
}

fn renewed(receiver: &mut AnswerReceiver) -> Option<Result<i64, Error>> {
    receiver.try_recv().map(|answer| match answer?.body {
        Response::Renewed(ttl_s) => Ok(ttl_s),
        other => panic!("{other:?}"),
    })
}

/// A lone member that had just started answered by the store of its checkpoint: "no such lease" for one that
/// was granted and acknowledged before, which ends a client's session.
#[test]
fn regression_a_lone_member_renews_no_lease_before_it_has_applied_what_it_acknowledged() {
    let mut log = TailLog::new(
        conf_state(&tests::start(&[1], 1).config),
        Position::default(),
    );
    let put = Command::Put(PutRequest {
        key: b"k",
        value: b"v",
        ..PutRequest::default()
    });
    let mut entries: Vec<_> = (1..=3_000).map(|index| entry(index, &put)).collect();
    entries.push(entry(3_001, &Command::LeaseGrant { id: 5, ttl_s: 60 }));
    log.append(&entries);
    let found = RecoveredGroup {
        hard_state: henge_raft::HardState {
            term: 1,
            vote: 1,
            commit: 3_001,
        },
        log: Some(log),
        ..RecoveredGroup::default()
    };
    let mut desk = Desk::new(tests::start_from(found, 1, &[1], 1, 0));
    let mut waits = [desk.keep_alive(5), desk.keep_alive(6)];
    let mut shares = 0;
    while desk.shard.machine.applied_index < 3_001 {
        desk.share();
        shares += 1;
        assert!(shares < 100, "it applies what it finds");
        if desk.shard.machine.applied_index < 3_001 {
            assert!(waits.iter_mut().all(|it| renewed(it).is_none()));
            assert!(!desk.shard.is_quiet());
        }
    }
    assert!(shares > 1, "not in one go");
    desk.share();
    assert_eq!(waits.each_mut().map(renewed), [Some(Ok(60)), Some(Ok(0))]);
    // From then on, at once.
    let mut at_once = desk.keep_alive(5);
    if let Some(chain) = desk.shard.flush_answers() {
        chain.release();
    }
    assert_eq!(renewed(&mut at_once), Some(Ok(60)));
}

/// One turn renewed as many leases as asked: sixty-five thousand.
#[test]
fn regression_a_lone_members_renewals_take_their_share_of_a_turn_and_no_lease_ends_meanwhile() {
    let mut desk = Desk::new(tests::start(&[1], 1));
    let mut shares = 0..10;
    while !desk.shard.is_leader() {
        shares.next().expect("it comes to lead");
        desk.share();
    }
    let count = 20_000;
    for id in 1..=count {
        let store = &mut desk.shard.machine.store;
        store.lease_grant(id, 10, 0).expect("new");
    }
    desk.shard.charge();
    desk.shard.turn.begin();
    desk.now_ms = 9_999;
    let mut waits: Vec<_> = (1..=count).map(|id| desk.keep_alive(id)).collect();
    let spent = desk.shard.turn.spent();
    assert!(spent < 2_000_000, "taking them in took {spent} ns");
    // They ran out while they waited.
    desk.now_ms = 10_001;
    let mut shares = 0;
    while desk.shard.is_behind() {
        desk.shard.expire_leases(desk.now_ms);
        assert!(desk.shard.renewals.is_empty());
        desk.share();
        shares += 1;
        let spent = desk.shard.turn.spent();
        assert!(spent < 2_000_000, "{spent} ns in a share");
    }
    assert!(shares > 10, "{shares}");
    assert!(waits.iter_mut().all(|it| renewed(it) == Some(Ok(10))));
    let left = desk.shard.machine.lease_time_to_live(count, false, 10_001);
    assert_eq!(left.ttl_s, 10);
}

/// What others wanted to know of leases came after what was to apply, with the same bound: never, while there
/// was more to apply. And who asked again took another place.
#[test]
fn regression_a_leader_with_more_to_apply_than_fits_tells_what_is_left_of_leases_and_once() {
    let mut trio = super::handover::Trio::led();
    trio.grant(5, 60);
    let shard = trio.shards.swap_remove(0);
    let mut desk = Desk::new(shard);
    desk.commit_puts(100_000);
    let question = Message {
        kind: MessageKind::ReadIndexResp,
        from: 1,
        to: 2,
        term: desk.shard.raft.term(),
        index: desk.shard.machine.applied_index,
        entries: vec![Entry {
            data: times::question(77, &[5]),
            ..Entry::default()
        }]
        .into(),
        ..Message::default()
    };
    for _ in 0..3 {
        assert!(desk.shard.times_asked(question.clone()).is_none(), "kept");
    }
    let mut of_another = question.clone();
    of_another.to = 3;
    assert!(desk.shard.times_asked(of_another).is_none());
    let applied = desk.shard.machine.applied_index;
    let said = desk.share();
    let told: Vec<_> = said
        .iter()
        .filter(|message| message.kind == MessageKind::ReadIndexResp)
        .map(|message| (message.to, message.entries[0].data.len()))
        .collect();
    assert_eq!(told, [(2, 8 + 16), (3, 8 + 16)]);
    assert!(!desk.shard.applying.is_empty(), "more than fits");
    assert!(desk.shard.machine.applied_index > applied, "nor less");
}

/// Sixty-four rounds were cut off the front of all that waited, one after another in one turn, and each moved
/// the rest.
#[test]
fn regression_questions_about_very_many_leases_are_asked_in_several_turns() {
    let mut shard = tests::start(&[1, 2, 3], 1);
    let heartbeat = Message {
        kind: MessageKind::Heartbeat,
        from: 2,
        to: 1,
        term: 1,
        ..Message::default()
    };
    shard.step_peer(heartbeat, 0);
    let count = 20 * times::ASKED_MAX;
    let mut open = Vec::new();
    for id in 0..count {
        let (answer, receiver) = Answer::channel();
        let (id, keys) = (1 + id as i64, false);
        let kind = RequestKind::LeaseTimeToLive { id, keys };
        shard.admit(Request { kind, answer }, 0);
        open.push(receiver);
    }
    let (mut asked, mut turns) = (Vec::new(), 0);
    while turns == 0 || shard.asks_more() {
        turns += 1;
        shard.ask_read_index(0);
        let messages = shard.raft.ready().messages;
        let questions = messages
            .iter()
            .filter(|it| it.kind == MessageKind::ReadIndex);
        let before = asked.len();
        for question in questions {
            let (ids, _) = question.entries[0].data[8..].as_chunks();
            asked.extend(ids.iter().map(|id| i64::from_le_bytes(*id)));
        }
        assert!(asked.len() - before <= 8 * times::ASKED_MAX);
    }
    assert_eq!(turns, 3);
    assert!(asked.into_iter().eq(1..=count as i64), "in their order");
}
