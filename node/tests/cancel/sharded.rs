//! Operations over several shards.

use henge::api::{Alarm, AlarmMember, Backend as _};
use henge::{Batch, Engine, Revisions};

use crate::case::{Answer, Case, Check, all, boxed, key, key_of, nothing};

/// Shards of the engines that these are tried on.
pub const SHARDS: i64 = 3;

/// How far each shard was, as it last said.
fn seen(db: &Engine) -> Revisions {
    let shards = db.stats().shards;
    shards.iter().map(|shard| shard.revision).collect()
}

/// A key in each shard.
fn keys(db: &Engine, k: usize) -> Vec<String> {
    let shards = db.shards();
    let keys = (0..shards).map(|shard| key_of(shard, shards, &key(k)));
    keys.collect()
}

fn all_are_there(db: &Engine, k: usize) -> Check {
    let gets: Vec<_> = keys(db, k).iter().map(|key| db.get(key)).collect();
    Box::pin(async move {
        let mut there = true;
        for get in gets {
            let found = get.await.expect("get");
            there &= found.is_some_and(|kv| kv.version == 1 && kv.value == "x");
        }
        there
    })
}

/// Every shard gives up its history, which would wait for ever for a snapshot that was left behind.
fn nothing_is_kept(db: &Engine, _: usize) -> Check {
    let compact = db.compact_to(&seen(db), true);
    Box::pin(async move { compact.await.is_ok() })
}

fn batch(db: &Engine, k: usize) -> Answer {
    let mut batch = Batch::new();
    for key in keys(db, k) {
        batch.put(key, "x");
    }
    let batch = db.batch(&batch);
    boxed(async move { batch.await.all() })
}

/// One that is not raised: while one is, no write of ours would be taken. That it is lowered though nobody
/// waits is in `engine/alarms.rs`.
fn disarm(db: &Engine, _: usize) -> Answer {
    boxed(db.alarm_disarm(AlarmMember {
        alarm: Alarm::NoSpace,
        member_id: 7,
    }))
}

fn none_is_raised(db: &Engine, _: usize) -> Check {
    let raised = db.alarms();
    Box::pin(async move { raised.await.expect("asked").is_empty() })
}

pub const CASES: &[Case] = &[
    Case {
        of: "Engine",
        name: "batch",
        revisions: SHARDS,
        before: nothing,
        operation: batch,
        after: all_are_there,
    },
    Case::reading("Engine", "alarms", |db, _| boxed(db.alarms())),
    Case {
        of: "Engine",
        name: "alarm_disarm",
        revisions: 0,
        before: nothing,
        operation: disarm,
        after: none_is_raised,
    },
    Case::reading("Engine", "range", |db, _| boxed(db.range(&all()))),
    Case::reading("Engine", "range_at", |db, _| {
        boxed(db.range_at(&all(), None))
    }),
    Case::reading("Engine", "range_at", |db, _| {
        boxed(db.range_at(&all(), Some(&seen(db))))
    }),
    Case::reading("Engine", "revisions", |db, _| boxed(db.revisions())),
    Case::reading("Engine", "hashes", |db, _| boxed(db.hashes(None))),
    Case {
        of: "Engine",
        name: "compact_to",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.compact_to(&seen(db), true)),
        after: |db, _| {
            let old: Revisions = (0..SHARDS).map(|_| 1).collect();
            let old = db.hashes(Some(&old));
            Box::pin(async move { old.await.is_err() })
        },
    },
    Case {
        of: "Engine",
        name: "snapshot",
        revisions: 0,
        before: nothing,
        operation: |db, _| boxed(db.snapshot()),
        after: nothing_is_kept,
    },
    Case {
        of: "Engine",
        name: "lease_grant_for",
        revisions: 0,
        before: nothing,
        operation: |db, k| boxed(db.lease_grant_for(key(k), 600)),
        after: |db, _| {
            let db = db.clone();
            // Once for each try: each is taken away again.
            Box::pin(async move {
                let mut found = Vec::new();
                for shard in 0..db.shards() {
                    let keyspace = db.keyspace(shard).expect("it is there");
                    found.extend(keyspace.leases().await.expect("leases").body);
                }
                for lease in &found {
                    db.lease_revoke(*lease).await.expect("revoke");
                }
                found.len() == 1
            })
        },
    },
];
