//! One operation, dropped everywhere: done exactly once, and nothing left behind.
//!
//! Exactly once is seen from outside: a write of its own in every shard before and after each tried
//! operation counts the revisions in between. Nothing left behind: no caller pending, no waker of ours held
//! by anybody, no bytes of the budget taken.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use henge::Engine;
use henge::api::Error;
use henge::engine::route::shard_of;
use henge::mvcc::{KeyRange, RangeRequest};

use crate::polled::{BUDGET, Polled, Rest, dropped_at, polls};

pub type Answer = Pin<Box<dyn Future<Output = Result<(), Error>>>>;
pub type Check = Pin<Box<dyn Future<Output = bool>>>;

/// One operation: what to do before, itself, how many revisions it makes, and what must be so after.
pub struct Case {
    /// Of what, and its name there.
    pub of: &'static str,
    pub name: &'static str,
    pub revisions: i64,
    pub before: fn(&Engine, usize) -> Option<Answer>,
    pub operation: fn(&Engine, usize) -> Answer,
    pub after: fn(&Engine, usize) -> Check,
}

impl Case {
    /// One that changes nothing.
    pub const fn reading(
        of: &'static str,
        name: &'static str,
        operation: fn(&Engine, usize) -> Answer,
    ) -> Self {
        Case {
            of,
            name,
            revisions: 0,
            before: nothing,
            operation,
            after: fine,
        }
    }
}

pub fn key(k: usize) -> String {
    format!("key-{k}")
}

/// Each of the first so many shards' own key.
pub fn key_of(shard: usize, shards: usize, name: &str) -> String {
    let mut keys = (0..).map(|number| format!("{name}-{number}"));
    keys.find(|key| shard_of(key.as_bytes(), shards) == shard)
        .expect("there are many")
}

pub fn lease(k: usize) -> i64 {
    1_000 + i64::try_from(k).expect("small")
}

pub fn all() -> RangeRequest<'static> {
    RangeRequest {
        range: KeyRange {
            key: b"\0",
            end: b"\0",
        },
        ..RangeRequest::default()
    }
}

pub fn boxed<T, E: Into<Error>>(operation: impl Future<Output = Result<T, E>> + 'static) -> Answer {
    Box::pin(async move { operation.await.map(drop).map_err(E::into) })
}

pub fn put(db: &Engine, k: usize) -> Answer {
    boxed(db.put(key(k), format!("value-{k}")))
}

pub fn grant(db: &Engine, k: usize) -> Answer {
    boxed(db.lease_grant(lease(k), 600))
}

/// The key's value is whole and was written exactly once.
pub fn is_there(db: &Engine, k: usize) -> Check {
    let get = db.get(key(k));
    Box::pin(async move {
        let found = get.await.expect("get");
        found.is_some_and(|kv| kv.version == 1 && kv.value == format!("value-{k}"))
    })
}

pub fn is_gone(db: &Engine, k: usize) -> Check {
    let get = db.get(key(k));
    Box::pin(async move { get.await.expect("get").is_none() })
}

pub fn has_lease(db: &Engine, k: usize) -> Check {
    let ttl = db.lease_time_to_live(lease(k), false);
    Box::pin(async move { ttl.await.expect("ttl").body.granted_ttl_s == 600 })
}

pub fn nothing(_: &Engine, _: usize) -> Option<Answer> {
    None
}

pub fn fine(_: &Engine, _: usize) -> Check {
    Box::pin(async { true })
}

/// Writes to every shard and waits: everything handed in before is done. Returns the revisions, added up.
async fn barrier(db: &Engine) -> i64 {
    let shards = db.shards();
    let puts = (0..shards).map(|shard| db.put(key_of(shard, shards, "barrier"), "x"));
    let mut sum = 0;
    for put in puts.collect::<Vec<_>>() {
        sum += put.await.expect("put").header.revision;
    }
    sum
}

/// All of these, dropped everywhere.
pub async fn try_operations(db: Engine, cases: &[Case], rest: Rest) {
    for case in cases {
        for when in [Polled::WhenWoken, Polled::Always] {
            let mut tried_to_the_end = false;
            for (number, k) in polls().enumerate() {
                // A key and a lease of its own for each try.
                let id = number + if when == Polled::Always { 500 } else { 0 };
                if try_once(&db, case, id, k, when, rest).await {
                    tried_to_the_end = true;
                    break;
                }
            }
            assert!(tried_to_the_end, "{}: never done", case.name);
            clear(&db).await;
        }
    }
    // Larger than all of the budget, which lets it pass only if nobody else holds any.
    for shard in 0..db.shards() {
        let put = db.put(key_of(shard, db.shards(), "large"), vec![b'x'; BUDGET]);
        put.await.expect("nothing of the budget is held");
    }
}

/// Whether the operation was done by its k-th poll.
async fn try_once(db: &Engine, case: &Case, id: usize, k: usize, when: Polled, rest: Rest) -> bool {
    let what = format!("{}::{} dropped at poll {k} ({when:?})", case.of, case.name);
    if let Some(before) = (case.before)(db, id) {
        before.await.expect("prepared");
    }
    let first = barrier(db).await;
    let tried = dropped_at((case.operation)(db, id), k, when, rest).await;
    let second = barrier(db).await;
    let own = i64::try_from(db.shards()).expect("few");
    assert_eq!(second - first, case.revisions + own, "{what}");
    assert!((case.after)(db, id).await, "{what}");
    if let Some(answer) = &tried.output {
        assert_eq!(answer, &Ok(()), "{what}");
    }
    rest.until(&what, || Arc::strong_count(&tried.waker) == 1)
        .await;
    rest.until(&what, || db.stats().pending == 0).await;
    tried.output.is_some()
}

async fn clear(db: &Engine) {
    let everything = db.range(&all()).await.expect("range").body.kvs;
    for kv in everything {
        db.delete(&kv.key).await.expect("delete");
    }
    for id in (0..50).chain(500..550) {
        // Most do not exist.
        let _ = db.lease_revoke(lease(id)).await;
    }
}
