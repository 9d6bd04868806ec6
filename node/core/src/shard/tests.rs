//! One shard without a core: what its parts promise, and the bugs found in them.

mod reads;

use henge_api::Error;
use henge_mvcc::{DeleteRangeRequest, KeyRange, PutRequest, RangeRequest, RequestOp, TxnRequest};
use henge_raft::{Message, MessageKind};

use super::log::{Position, TailLog};
use super::request::{Request, RequestKind};
use super::{Shard, ShardConfig, TRIM_BYTES};
use crate::machine::{Command, Response, command};
use crate::shard::answer::Answer;
use crate::shard::recover::RecoveredGroup;

fn config(voters: &[u64], first_request_id: u64) -> ShardConfig {
    ShardConfig {
        members: Default::default(),
        group: 1,
        cluster_id: 7,
        member_id: 1,
        voters: voters.to_vec(),
        election_ticks: 10,
        tick_ms: 100,
        request_timeout_ms: 7_000,
        request_bytes_max: 1_000,
        pending_bytes_max: 10_000,
        auto_compaction: Default::default(),
        apply_gap_max: 5_000,
        quota_bytes: 0,
        progress_notify_ms: 600_000,
        checkpoint_bytes: 1 << 30,
        log_bytes_replayed: 0,
        seed: 1,
        first_request_id,
    }
}

pub(super) fn start(voters: &[u64], first_request_id: u64) -> Shard {
    start_as(1, voters, first_request_id)
}

pub(super) fn start_as(member_id: u64, voters: &[u64], first_request_id: u64) -> Shard {
    let found = RecoveredGroup::default();
    start_from(found, member_id, voters, first_request_id, 0)
}

pub(super) fn start_from(
    found: RecoveredGroup,
    member_id: u64,
    voters: &[u64],
    first_request_id: u64,
    now_ms: u64,
) -> Shard {
    let config = ShardConfig {
        member_id,
        ..config(voters, first_request_id)
    };
    Shard::start(config, found, now_ms).expect("valid")
}

fn deliver(shard: &mut Shard) {
    shard.answer_reads(0);
    if let Some(chain) = shard.flush_answers() {
        chain.release();
    }
}

/// So it must have all that it acknowledged before it leads, also where no later write says that the last one
/// was committed.
#[test]
fn what_a_lone_member_finds_in_its_log_is_committed() {
    for (voters, commit) in [(&[1][..], 3), (&[1, 2, 3], 1)] {
        let entry = |index| henge_raft::Entry {
            term: 1,
            index,
            ..Default::default()
        };
        let mut log = TailLog::new(super::conf_state(&config(voters, 1)), Position::default());
        log.append(&[entry(1), entry(2), entry(3)]);
        let hard_state = henge_raft::HardState {
            term: 1,
            vote: 1,
            commit: 1,
        };
        let recovered = RecoveredGroup {
            hard_state,
            log: Some(log),
            ..RecoveredGroup::default()
        };
        let shard = Shard::start(config(voters, 1), recovered, 0).expect("valid");
        assert_eq!(shard.raft.commit_index(), commit, "{voters:?}");
    }
}

/// What was taken in before the log ran out of segments is not proposed any more: it would take what is left
/// for what makes room.
#[test]
fn what_waits_when_the_log_is_full_is_refused() {
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
    for command in [&put, &delete, &compact] {
        assert_eq!(refused(&mut shard, command), None);
    }
    shard.shed(false, false);
    assert_eq!(shard.queue.len(), 3, "there is room");
    shard.shed(true, false);
    assert_eq!(shard.queue.len(), 2, "a delete makes room");
    shard.shed(true, true);
    assert_eq!(shard.queue.len(), 1);
    let held: usize = shard.queue.iter().map(|p| p.encoded.len()).sum();
    assert_eq!(shard.pending_bytes, held);
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
    shard.shortage = Some(henge_wal::Shortage::Space);
    assert_eq!(refused(&mut shard, &put), Some(Error::NoSpace));
    shard.shortage = Some(henge_wal::Shortage::Descriptors);
    assert_eq!(refused(&mut shard, &put), Some(Error::NoDescriptors));
    shard.shortage = Some(henge_wal::Shortage::Space);
    assert_eq!(refused(&mut shard, &delete), None);
    shard.log_full = true;
    assert_eq!(refused(&mut shard, &delete), Some(Error::NoSpace));
    assert_eq!(refused(&mut shard, &compact), None);
    (shard.shortage, shard.log_full) = (None, false);
    assert_eq!(refused(&mut shard, &put), None);
}

/// Who had no descriptor left was told to make room on a disk that had it.
#[test]
fn regression_a_lack_of_descriptors_is_no_alarm_for_space_and_says_its_name() {
    let mut shard = start(&[1], 1);
    let mut told = |shortage| {
        shard.shortage = shortage;
        let status = shard.status();
        assert_eq!(status.alarms, shard.alarms());
        (status.alarms.len(), status.lacks_descriptors)
    };
    assert_eq!(told(None), (0, false));
    assert_eq!(told(Some(henge_wal::Shortage::Descriptors)), (0, true));
    assert_eq!(told(Some(henge_wal::Shortage::Space)), (1, false));
}

/// Above the quota nothing is taken that adds data, whatever it is part of; what makes room is. Memory that
/// is kept for what comes, or is on its way back to the allocator, is not held against anybody.
#[test]
fn above_the_quota_only_what_adds_data_is_refused() {
    let put = PutRequest {
        key: b"k",
        value: b"v",
        ..PutRequest::default()
    };
    let delete = DeleteRangeRequest {
        range: KeyRange::one(b"k"),
        ..DeleteRangeRequest::default()
    };
    let txn = |success, failure| TxnRequest {
        success,
        failure,
        ..TxnRequest::default()
    };
    let deletes = txn(vec![RequestOp::DeleteRange(delete.clone())], vec![]);
    let may_put = txn(vec![], vec![RequestOp::Put(put.clone())]);
    let nested = txn(vec![RequestOp::Txn(Box::new(may_put.clone()))], vec![]);
    let physical = true;
    let table = [
        (Command::Put(put), true),
        (Command::Txn(may_put), true),
        (Command::Txn(nested), true),
        (Command::LeaseGrant { id: 5, ttl_s: 10 }, true),
        (Command::DeleteRange(delete), false),
        (Command::Txn(deletes), false),
        (Command::LeaseRevoke { id: 5 }, false),
        (Command::LeaseRenew { id: 5 }, false),
        (
            Command::Compact {
                revision: 1,
                physical,
            },
            false,
        ),
    ];
    for (command, adds) in &table {
        let mut shard = start(&[1], 1);
        let used = shard.machine.store.memory().in_use();
        // As etcd: what is there and what is asked for must be below the quota.
        shard.config.quota_bytes = used + command.cost() + 1;
        assert_eq!(refused(&mut shard, command), None, "{command:?}");
        shard.config.quota_bytes = used + command.cost();
        let expected = adds.then_some(Error::NoSpace);
        assert_eq!(refused(&mut shard, command), expected, "{command:?}");
        // Whoever finds the quota spent asks for the alarm, once.
        refused(&mut shard, command);
        let asked = shard.queue.iter().filter(|p| command::is_alarm(&p.encoded));
        assert_eq!(asked.count(), usize::from(*adds), "{command:?}");
    }
}

/// A shard's own compaction waited behind its callers' writes: in overload tens of thousands of them. It does
/// not hold up the deadlines of those either, although it came later.
#[test]
fn a_command_of_the_shards_own_goes_before_what_waits_and_ends_no_deadline() {
    let mut shard = start(&[1], 1);
    let put = Command::Put(PutRequest {
        key: b"k",
        value: b"v",
        ..PutRequest::default()
    });
    for _ in 0..5 {
        assert_eq!(refused(&mut shard, &put), None);
    }
    let compact = Command::Compact {
        revision: 1,
        physical: false,
    };
    let (answer, mut own) = Answer::channel();
    shard.queue_first(compact.encode(), answer, 5_000);
    let first = shard.queue.front().expect("queued");
    assert_eq!(first.encoded, compact.encode());
    shard.expire_queue(6_999);
    assert_eq!(shard.queue.len(), 6);
    shard.expire_queue(7_000);
    assert_eq!((shard.queue.len(), shard.pending_bytes), (0, 0));
    assert!(own.try_recv().is_some_and(|answer| answer.is_err()));
    // Where nothing waits, it has its own time.
    let (answer, _own) = Answer::channel();
    shard.queue_first(compact.encode(), answer, 8_000);
    shard.expire_queue(14_999);
    assert_eq!(shard.queue.len(), 1);
    shard.expire_queue(15_000);
    assert!(shard.queue.is_empty());
}

/// Ten thousand leases that run out together do not become ten thousand entries of one turn.
#[test]
fn leases_that_run_out_together_are_revoked_in_batches() {
    let mut shard = start(&[1], 1);
    for id in 1..=250 {
        shard.machine.store.lease_grant(id, 10, 0).expect("new");
    }
    let mut left = 250;
    for tick in 0..3 {
        let commands = shard.expiries(11_000 + tick);
        assert_eq!(commands.len(), 1, "leases without keys end together");
        left -= left.min(100);
        for encoded in commands {
            let index = shard.machine.applied_index + 1;
            let applied = shard.machine.apply(index, 1, &encoded, 11_000);
            applied
                .expect("known")
                .expect("an answer")
                .1
                .expect("run out");
        }
        assert_eq!(shard.machine.store.leases().len(), left);
    }
}

/// One entry ends many leases, but not more keys than a short turn deletes, unless one lease alone has them.
#[test]
fn leases_with_many_keys_end_in_several_entries() {
    let mut shard = start(&[1], 1);
    for id in 1..=4 {
        shard.machine.store.lease_grant(id, 10, 0).expect("new");
        for n in 0..150 * id {
            let key = format!("{id}/{n}");
            let request = PutRequest {
                key: key.as_bytes(),
                value: b"v",
                lease: id,
                ..PutRequest::default()
            };
            shard.machine.store.put(&request).expect("valid");
        }
    }
    let commands = shard.expiries(11_000);
    let ids: Vec<_> = commands
        .iter()
        .map(|encoded| match command::decode(encoded) {
            Ok((_, Command::LeaseExpireMany { ids, .. })) => ids,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(ids, [vec![1], vec![2], vec![3], vec![4]]);
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

/// A lease's expiry waits in the log behind a renewal that was committed after it was decided: the renewal's
/// caller was told that the lease lives, so it must.
#[test]
fn an_acknowledged_renewal_is_not_undone_by_an_expiry_decided_before_it() {
    let mut shard = start(&[1], 1);
    let mut index = shard.machine.applied_index;
    let mut apply = |shard: &mut Shard, encoded: &[u8], now_ms| {
        index += 1;
        let applied = shard.machine.apply(index, 1, encoded, now_ms);
        applied.expect("known").expect("not empty").1
    };
    let grant = Command::LeaseGrant { id: 5, ttl_s: 10 }.encode();
    apply(&mut shard, &grant, 0).expect("new");
    let expiry = shard.expiries(10_000).pop().expect("run out");
    let renewed = apply(&mut shard, &Command::LeaseRenew { id: 5 }.encode(), 10_001);
    assert_eq!(renewed, Ok(Response::Renewed(10)));
    apply(&mut shard, &expiry, 10_002).expect("nothing to do");
    assert_eq!(shard.machine.store.leases(), [5]);
    let expiry = shard.expiries(20_001).pop().expect("run out again");
    apply(&mut shard, &expiry, 20_002).expect("run out");
    assert!(shard.machine.store.leases().is_empty());
}

/// What compaction emptied went back at once, and the allocator made one later call pay for all of it.
#[test]
fn emptied_memory_goes_back_a_little_with_each_tick() {
    let mut shard = start(&[1], 1);
    for n in 0..8_000u32 {
        let request = PutRequest {
            key: &(n % 4_000).to_be_bytes(),
            value: &[7; 1_000],
            ..PutRequest::default()
        };
        shard.machine.store.put(&request).expect("valid");
    }
    let now = shard.machine.store.revision();
    shard.machine.store.compact(now).expect("possible");
    while shard.compact_slice() {}
    let idle = |shard: &Shard| shard.machine.store.memory().idle;
    let (mut before, mut ticks) = (idle(&shard), 0);
    assert!(before > 3 * TRIM_BYTES as u64, "{before}");
    while before > 0 {
        ticks += 1;
        shard.advance_time(ticks * shard.config.tick_ms);
        assert_eq!(before - idle(&shard), before.min(TRIM_BYTES as u64));
        before = idle(&shard);
    }
}

/// Whatever a peer forwards, or a caller hands in by other ways than the engine's own, enters the log only if
/// whoever applies it will understand it.
#[test]
fn regression_what_nobody_could_apply_is_not_proposed() {
    let deep = |below| {
        let txn = (0..below).fold(TxnRequest::default(), |txn, _| TxnRequest {
            success: vec![RequestOp::Txn(Box::new(txn))],
            ..TxnRequest::default()
        });
        Command::Txn(txn).encode()
    };
    let mut shard = start(&[1], 1);
    shard.config.request_bytes_max = 1 << 20;
    let (answer, mut receiver) = Answer::channel();
    let kind = RequestKind::Write(deep(200));
    shard.admit(Request { kind, answer }, 0);
    let refused = receiver.try_recv().expect("at once").expect_err("too deep");
    assert_eq!(refused, henge_mvcc::Error::TooManyOps.into());
    let forwarded = |data: Vec<u8>| Message {
        kind: MessageKind::Prop,
        entries: vec![henge_raft::Entry {
            data: data.into(),
            ..henge_raft::Entry::default()
        }]
        .into(),
        ..Message::default()
    };
    assert!(shard.is_proposable(&forwarded(deep(128))));
    assert!(shard.is_proposable(&forwarded(Command::LeaseRevoke { id: 1 }.encode())));
    let read = Command::Range(RangeRequest::default()).encode();
    for data in [deep(129), read, vec![1, 2, 3]] {
        assert!(!shard.is_proposable(&forwarded(data)));
    }
}

/// Staged, it would end its group for good. (A log holds 16 MiB, a frame a little more.)
#[test]
fn an_entry_of_a_peer_that_no_log_can_hold_is_not_taken() {
    let append = |bytes: usize| Message {
        kind: MessageKind::App,
        from: 2,
        to: 1,
        term: 1,
        entries: vec![henge_raft::Entry {
            term: 1,
            index: 1,
            data: vec![0; bytes].into(),
            ..henge_raft::Entry::default()
        }]
        .into(),
        ..Message::default()
    };
    let mut shard = start(&[1, 2, 3], 1);
    shard.step_peer(append(henge_wal::ENTRY_BYTES_MAX + 1), 0);
    assert!(!shard.raft.has_ready() && !shard.corrupt);
    shard.step_peer(append(10), 0);
    assert!(shard.raft.has_ready());
}

/// A shard that serves nothing went on to tick, to campaign, and to gather what it would have said: 24 MB a
/// day.
#[test]
fn regression_a_shard_that_is_over_gathers_nothing_and_asks_for_no_time() {
    let damaged = RecoveredGroup {
        lost: Some((1, 2)),
        ..RecoveredGroup::default()
    };
    let damaged = Shard::start(config(&[1, 2, 3], 1), damaged, 0).expect("valid");
    let mut poisoned = start(&[1, 2, 3], 1);
    poisoned.poison();
    let mut without_a_log = start(&[1, 2, 3], 1);
    let error = Error::Poisoned("the disk".to_owned());
    without_a_log.end(&error, &error);
    for (what, mut shard) in [
        ("damaged", damaged),
        ("poisoned", poisoned),
        ("without a log", without_a_log),
    ] {
        for tick in 1..=10_000 {
            shard.advance_time(tick * 100);
            shard.peer_lost(2);
        }
        assert_eq!(shard.next_look_ms(), u64::MAX, "{what}");
        assert!(!shard.is_leader() && shard.status().leader == 0, "{what}");
        let said = shard.raft.ready().messages.len();
        assert!(said < 10, "{what}: {said} messages");
    }
}
