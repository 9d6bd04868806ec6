//! One shard without a core: what its parts promise, and the bugs found in them.

use henge_mvcc::{DeleteRangeRequest, KeyRange, PutRequest};
use henge_raft::{Message, MessageKind};

use super::reads::Read;
use super::request::{Request, RequestKind};
use super::{Shard, ShardConfig};
use crate::api::Error;
use crate::core::recover::RecoveredGroup;
use crate::machine::Command;
use crate::shard::answer::{Answer, AnswerReceiver};

fn config(voters: &[u64], first_request_id: u64) -> ShardConfig {
    ShardConfig {
        group: 1,
        cluster_id: 7,
        member_id: 1,
        voters: voters.to_vec(),
        election_ticks: 10,
        tick_ms: 100,
        request_timeout_ms: 7_000,
        request_bytes_max: 1_000,
        pending_bytes_max: 10_000,
        apply_gap_max: 5_000,
        quota_bytes: 0,
        progress_notify_ms: 600_000,
        checkpoint_bytes: 1 << 30,
        log_bytes_replayed: 0,
        seed: 1,
        first_request_id,
    }
}

fn start(voters: &[u64], first_request_id: u64) -> Shard {
    Shard::start(
        config(voters, first_request_id),
        RecoveredGroup::default(),
        0,
    )
    .expect("valid")
}

/// A follower of member 2, with one linearizable read under way.
fn reading(first_request_id: u64) -> (Shard, AnswerReceiver, u64) {
    let mut shard = start(&[1, 2, 3], first_request_id);
    shard.step_peer(Message {
        kind: MessageKind::Heartbeat,
        from: 2,
        to: 1,
        term: 1,
        ..Message::default()
    });
    let (answer, receiver) = Answer::channel();
    shard.read_later(Read::Barrier, answer, 0);
    shard.ask_read_index(0);
    let context = shard.reads.last_context();
    (shard, receiver, context)
}

fn deliver(shard: &mut Shard) {
    shard.answer_reads(0);
    if let Some(chain) = shard.flush_answers() {
        chain.release();
    }
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

fn refused(shard: &mut Shard, command: &Command<'_>) -> Option<Error> {
    let (answer, mut receiver) = Answer::channel();
    let kind = RequestKind::Write(command.encode());
    shard.admit(Request { kind, answer }, 0);
    receiver
        .try_recv()
        .map(|answer| answer.expect_err("a write is not answered at once"))
}

/// What adds data is refused while there is no room for another segment; with the last segment in use
/// everything is, except what makes room.
#[test]
fn a_full_log_takes_only_what_makes_room() {
    let put = Command::Put(PutRequest {
        key: b"k",
        value: b"v",
        ..PutRequest::default()
    });
    let delete = Command::DeleteRange(DeleteRangeRequest {
        range: KeyRange::one(b"k"),
        ..DeleteRangeRequest::default()
    });
    let compact = Command::Compact {
        revision: 1,
        physical: false,
    };
    let mut shard = start(&[1], 1);
    assert_eq!(refused(&mut shard, &put), None);
    shard.space_low = true;
    assert_eq!(refused(&mut shard, &put), Some(Error::NoSpace));
    assert_eq!(refused(&mut shard, &delete), None);
    shard.log_full = true;
    assert_eq!(refused(&mut shard, &delete), Some(Error::NoSpace));
    assert_eq!(refused(&mut shard, &compact), None);
    (shard.space_low, shard.log_full) = (false, false);
    assert_eq!(refused(&mut shard, &put), None);
}

/// A request that is too large, or one too many, costs nothing: what was queued stays counted right.
#[test]
fn refusals_leave_no_bytes_behind() {
    let mut shard = start(&[1], 1);
    let value = vec![0; 900];
    let put = Command::Put(PutRequest {
        key: b"k",
        value: &value,
        ..PutRequest::default()
    });
    let large = vec![0; 1_000];
    let too_large = Command::Put(PutRequest {
        key: b"k",
        value: &large,
        ..PutRequest::default()
    });
    assert!(matches!(
        refused(&mut shard, &too_large),
        Some(Error::RequestTooLarge { max: 1_000, .. })
    ));
    assert_eq!(shard.pending_bytes, 0);
    let taken = (0..100)
        .take_while(|_| refused(&mut shard, &put).is_none())
        .count();
    assert_eq!(taken, 10_000 / put.encode().len());
    assert_eq!(refused(&mut shard, &put), Some(Error::TooManyRequests));
    shard.expire_queue(u64::MAX);
    assert_eq!(shard.pending_bytes, 0);
}
