//! What the etcd edge awaits: one shard as a whole etcd.

use henge::Engine;
use henge::api::{Alarm, AlarmAction, AlarmMember, Backend as _};
use henge::mvcc::{DeleteRangeRequest, KeyRange, PutRequest, RequestOp, TxnRequest};

use crate::case::{
    Answer, Case, Check, all, boxed, fine, grant, has_lease, is_gone, is_there, key, lease,
    nothing, put,
};

const OF: &str = "Backend";

fn keyspace(db: &Engine) -> henge::Keyspace {
    db.keyspace(0).expect("one shard")
}

fn put_here(db: &Engine, k: usize) -> Answer {
    let (key, value) = (key(k), format!("value-{k}"));
    boxed(keyspace(db).put(&PutRequest {
        key: key.as_bytes(),
        value: value.as_bytes(),
        ..PutRequest::default()
    }))
}

fn txn_here(db: &Engine, k: usize) -> Answer {
    let (key, value) = (key(k), format!("value-{k}"));
    let put = PutRequest {
        key: key.as_bytes(),
        value: value.as_bytes(),
        ..PutRequest::default()
    };
    let txn = TxnRequest {
        success: vec![RequestOp::Put(put)],
        ..TxnRequest::default()
    };
    boxed(keyspace(db).txn(&txn, false))
}

fn old_is_gone(db: &Engine, _: usize) -> Check {
    let old = db.range(&henge::mvcc::RangeRequest {
        revision: 1,
        ..all()
    });
    Box::pin(async move { old.await.is_err() })
}

/// One that changes something.
const fn writing(
    name: &'static str,
    revisions: i64,
    before: fn(&Engine, usize) -> Option<Answer>,
    operation: fn(&Engine, usize) -> Answer,
    after: fn(&Engine, usize) -> Check,
) -> Case {
    Case {
        of: OF,
        name,
        revisions,
        before,
        operation,
        after,
    }
}

pub const CASES: &[Case] = &[
    Case::reading(OF, "range", |db, _| {
        boxed(keyspace(db).range(&all(), false))
    }),
    Case::reading(OF, "range", |db, _| boxed(keyspace(db).range(&all(), true))),
    writing("put", 1, nothing, put_here, is_there),
    writing(
        "delete_range",
        1,
        |db, k| Some(put(db, k)),
        |db, k| {
            let key = key(k);
            boxed(keyspace(db).delete_range(&DeleteRangeRequest {
                range: KeyRange::one(key.as_bytes()),
                prev_kv: true,
            }))
        },
        is_gone,
    ),
    writing("txn", 1, nothing, txn_here, is_there),
    writing(
        "compact",
        0,
        |db, k| Some(put(db, k)),
        |db, _| boxed(keyspace(db).compact(keyspace(db).metrics().revision, true)),
        old_is_gone,
    ),
    writing(
        "lease_grant",
        0,
        nothing,
        |db, k| boxed(keyspace(db).lease_grant(lease(k), 600)),
        has_lease,
    ),
    writing(
        "lease_revoke",
        0,
        |db, k| Some(grant(db, k)),
        |db, k| boxed(keyspace(db).lease_revoke(lease(k))),
        |db, k| {
            let left = db.lease_time_to_live(lease(k), false);
            Box::pin(async move { left.await.expect("asked").body.ttl_s == -1 })
        },
    ),
    writing(
        "lease_keep_alive",
        0,
        |db, k| Some(grant(db, k)),
        |db, k| boxed(keyspace(db).lease_keep_alive(lease(k))),
        has_lease,
    ),
    writing(
        "lease_time_to_live",
        0,
        |db, k| Some(grant(db, k)),
        |db, k| boxed(keyspace(db).lease_time_to_live(lease(k), true)),
        fine,
    ),
    Case::reading(OF, "alarms", |db, _| boxed(keyspace(db).alarms())),
    writing(
        "alarm",
        0,
        nothing,
        |db, _| {
            let alarm = AlarmMember {
                alarm: Alarm::NoSpace,
                member_id: 1,
            };
            boxed(keyspace(db).alarm(AlarmAction::Deactivate, alarm))
        },
        fine,
    ),
    Case::reading(OF, "leases", |db, _| boxed(keyspace(db).leases())),
    Case::reading(OF, "hash_kv", |db, _| boxed(keyspace(db).hash_kv(0))),
    Case::reading(OF, "status", |db, _| boxed(keyspace(db).status())),
    Case::reading(OF, "members", |db, _| boxed(keyspace(db).members(true))),
    Case::reading(OF, "members", |db, _| boxed(keyspace(db).members(false))),
];
