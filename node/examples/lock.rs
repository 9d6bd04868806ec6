//! A lock with a lease: whoever holds it and dies loses it when the lease runs out.
//! `cargo run --example lock`
//!
//! The lock is a key that only one holder can create, attached to the holder's lease. Who wants it
//! watches for its deletion. The revision at which it was created grows with every holder: hand it to
//! whatever the lock protects (a *fencing token*), so that a holder that was paused for longer than its
//! lease can be told from its successor.

use henge::api::{Error, WatchCreate};
use henge::mvcc::{
    Compare, CompareResult, CompareTarget, EventKind, KeyRange, PutRequest, RangeRequest,
    RequestOp, ResponseOp, TxnRequest,
};
use henge::{Blocking, Engine};

const TTL_SECONDS: i64 = 5;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder("lock.henge").open()?;
    std::thread::scope(|scope| {
        let workers = ["ada", "bob", "cleo"].map(|name| {
            let engine = engine.clone();
            scope.spawn(move || work(&engine, name))
        });
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().expect("no worker panics"))
    })?;
    engine.blocking().stop();
    Ok(())
}

fn work(engine: &Engine, name: &str) -> Result<(), Error> {
    let db = engine.blocking();
    let lease = db.wait(engine.lease_grant(0, TTL_SECONDS))?.body.id;
    let token = acquire(engine, &db, name, lease)?;
    println!("{name} holds the lock, fencing token {token}");

    // Longer work renews the lease now and then; 0 would mean that it ran out and the lock is lost.
    assert!(db.wait(engine.lease_keep_alive(lease))?.body > 0);

    println!("{name} lets it go");
    // The key goes with its lease. A holder that crashes here is as good: the lease runs out.
    db.wait(engine.lease_revoke(lease))?;
    Ok(())
}

/// Waits for the lock; returns the revision at which it was taken.
fn acquire(engine: &Engine, db: &Blocking, name: &str, lease: i64) -> Result<i64, Error> {
    let key = b"locks/printer";
    loop {
        let txn = TxnRequest {
            compare: vec![Compare {
                range: KeyRange::one(key),
                result: CompareResult::Equal,
                target: CompareTarget::CreateRevision(0),
            }],
            success: vec![RequestOp::Put(PutRequest {
                key,
                value: name.as_bytes(),
                lease,
                ..PutRequest::default()
            })],
            failure: vec![RequestOp::Range(RangeRequest {
                range: KeyRange::one(key),
                ..RangeRequest::default()
            })],
        };
        let reply = db.txn(&txn)?;
        if reply.body.succeeded {
            return Ok(reply.header.revision);
        }
        if let Some(ResponseOp::Range(holder)) = reply.body.responses.first() {
            let holder = holder.kvs.first().map(|kv| kv.value.clone());
            println!("{name} waits for {:?}", holder.unwrap_or_default());
        }
        // From the revision after the look: a deletion in between is not missed.
        let mut watcher = engine.watch(WatchCreate {
            key: key.as_slice().into(),
            start_revision: reply.header.revision + 1,
            ..WatchCreate::default()
        })?;
        while let Some(response) = db.wait_for(watcher.next())? {
            if response
                .events
                .iter()
                .any(|event| event.kind == EventKind::Delete)
            {
                break;
            }
        }
    }
}
