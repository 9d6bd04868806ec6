//! Reads of one shard: when they may be answered, and the long ones in slices.

use henge_mvcc::{KeyRange, PutRequest, RangeRequest, SortOrder, SortTarget};
use henge_raft::{Message, MessageKind};

use super::{deliver, start};
use crate::machine::{Command, Response};
use crate::shard::Shard;
use crate::shard::answer::{Answer, AnswerReceiver};
use crate::shard::reads::Read;
use crate::shard::request::{Request, RequestKind};

/// A follower of member 2, with one linearizable read under way.
fn reading(first_request_id: u64) -> (Shard, AnswerReceiver, u64) {
    let mut shard = start(&[1, 2, 3], first_request_id);
    let heartbeat = Message {
        kind: MessageKind::Heartbeat,
        from: 2,
        to: 1,
        term: 1,
        ..Message::default()
    };
    shard.step_peer(heartbeat, 0);
    let (answer, receiver) = Answer::channel();
    shard.read_later(Read::Barrier, answer, 0);
    shard.ask_read_index(0);
    let context = shard.reads.last_context();
    (shard, receiver, context)
}

/// Rounds were numbered from 0 in every run: the leader's late answer to a round of the run before
/// confirmed one of this run at an old index, and a read that had to be linearizable was stale.
#[test]
fn a_late_answer_to_an_earlier_runs_round_confirms_nothing() {
    let (_, _, of_the_first_run) = reading(1_000);
    let (mut shard, mut receiver, own) = reading(2_000);
    shard.confirm_read(&of_the_first_run.to_le_bytes(), 0);
    deliver(&mut shard);
    assert!(receiver.try_recv().is_none());
    shard.confirm_read(&own.to_le_bytes(), 0);
    deliver(&mut shard);
    assert!(receiver.try_recv().is_some_and(|answer| answer.is_ok()));
}

/// On a full disk it may never lead: its vote for itself finds no room in the log. Reads waited for that
/// until their deadlines.
#[test]
fn regression_a_member_that_is_alone_reads_without_leading() {
    let mut shard = start(&[1], 1);
    assert!(!shard.is_leader(), "its vote is not durable yet");
    let (answer, mut receiver) = Answer::channel();
    shard.read_later(Read::Barrier, answer, 0);
    shard.ask_read_index(0);
    deliver(&mut shard);
    assert!(receiver.try_recv().is_some_and(|answer| answer.is_ok()));
}

/// A shard that holds 5,000 keys, and a range of all of them that was asked for at time 0.
fn reading_all() -> (Shard, AnswerReceiver) {
    reading_range(RangeRequest {
        range: KeyRange::all(),
        ..RangeRequest::default()
    })
}

/// The same with any range.
fn reading_range(range: RangeRequest<'_>) -> (Shard, AnswerReceiver) {
    let mut shard = start(&[1], 1);
    for n in 0..5_000 {
        put(&mut shard, &format!("k{n:04}"));
    }
    let kind = RequestKind::Read {
        encoded: Command::Range(range).encode(),
        serializable: true,
    };
    let (answer, receiver) = Answer::channel();
    shard.admit(Request { kind, answer }, 0);
    (shard, receiver)
}

fn put(shard: &mut Shard, key: &str) {
    let request = PutRequest {
        key: key.as_bytes(),
        value: b"v",
        ..PutRequest::default()
    };
    shard.machine.store.put(&request).expect("valid");
}

/// A range of everything was read in one go: with a million keys nothing else was served for 0.4 s.
#[test]
fn a_long_range_is_read_in_slices_and_is_of_its_beginning() {
    let (mut shard, mut receiver) = reading_all();
    let mut slices = 1;
    loop {
        put(&mut shard, &format!("k{slices:04}/later"));
        deliver(&mut shard);
        assert!(receiver.try_recv().is_none(), "after {slices} slices");
        slices += 1;
        if !shard.read_slice() {
            break;
        }
    }
    assert_eq!(slices, 6, "1,000 keys each, and the end");
    deliver(&mut shard);
    let reply = receiver.try_recv().expect("answered").expect("valid");
    assert_eq!(reply.header.revision, 5_001);
    let Response::Range(found) = reply.body else {
        panic!("{:?}", reply.body);
    };
    assert_eq!(
        (found.kvs.len(), found.more, found.count),
        (5_000, false, 5_000)
    );
    assert!(found.kvs.is_sorted_by(|a, b| a.key < b.key));
    assert!(!shard.read_slice() && shard.long_reads.is_empty());
}

/// Ranges that are sorted, or read from their end, were read in one go: 0.2 to 0.3 s with a million keys,
/// whatever the limit.
#[test]
fn sorted_ranges_are_read_in_slices_too() {
    use SortTarget::{Create, Key, Mod, Value, Version};
    let table = [
        (Key, 0),
        (Mod, 0),
        (Value, 1),
        (Create, 3),
        (Version, 4_999),
    ];
    for (sort_target, limit) in table {
        let range = RangeRequest {
            range: KeyRange::all(),
            sort_order: SortOrder::Descend,
            sort_target,
            limit,
            ..RangeRequest::default()
        };
        let expected = reading_all().0.machine.store.range(&range).expect("valid");
        let (mut shard, mut receiver) = reading_range(range);
        let mut slices = 1;
        loop {
            put(&mut shard, "k0000");
            deliver(&mut shard);
            assert!(receiver.try_recv().is_none(), "after {slices} slices");
            slices += 1;
            if !shard.read_slice() {
                break;
            }
        }
        assert!(slices >= 6, "{slices} slices by {sort_target:?}");
        deliver(&mut shard);
        let reply = receiver.try_recv().expect("answered").expect("valid");
        assert_eq!(reply.header.revision, 5_001);
        assert_eq!(reply.body, Response::Range(expected));
        assert!(shard.long_reads.is_empty());
        assert_eq!(shard.long_reads.bytes(), 0);
    }
}

/// Physical compaction waited for reads that were under way, and with one after another for ever.
#[test]
fn regression_physical_compaction_is_answered_while_a_long_range_goes_on() {
    let (mut shard, mut receiver) = reading_all();
    put(&mut shard, "k0000");
    shard.machine.store.compact(5_002).expect("possible");
    let (answer, mut compacted) = Answer::channel();
    shard.removals.push(5_002, answer);
    while shard.compact_slice() {}
    deliver(&mut shard);
    assert!(compacted.try_recv().is_some_and(|answer| answer.is_ok()));
    while shard.read_slice() {}
    deliver(&mut shard);
    let reply = receiver.try_recv().expect("answered").expect("valid");
    assert_eq!(reply.header.revision, 5_001);
}

/// A read had to be done seven seconds after it was asked for: the last of twelve of everything was not.
#[test]
fn regression_a_long_range_ends_with_its_caller_and_not_at_a_time() {
    let (mut shard, mut receiver) = reading_all();
    shard.advance_time(100_000);
    shard.read_slice();
    deliver(&mut shard);
    assert!(receiver.try_recv().is_none() && !shard.long_reads.is_empty());
    drop(receiver);
    shard.advance_time(100_100);
    assert!(shard.long_reads.is_empty());
    assert_eq!(shard.long_reads.bytes(), 0);
    put(&mut shard, "k0000");
    shard.machine.store.compact(5_002).expect("possible");
    while shard.compact_slice() {}
    assert_eq!(shard.machine.store.stats().versions, 5_000, "nor holds it");
}
