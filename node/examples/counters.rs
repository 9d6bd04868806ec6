//! Counters with transactions: several threads add to the same counters, and no addition is lost.
//! `cargo run --example counters`
//!
//! A transaction compares, then writes: if somebody else wrote in between, nothing is written and the
//! counter is read again.

use henge::api::Error;
use henge::mvcc::{
    Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest,
};
use henge::{Blocking, Engine};

const THREADS: u64 = 4;
const ROUNDS: u64 = 250;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let engine = Engine::builder("counters.henge").open()?;
    let db = engine.blocking();
    let before = read(&db, "visits")?.0 + read(&db, "bytes")?.0;

    std::thread::scope(|scope| {
        let threads = (0..THREADS).map(|_| {
            let db = db.clone();
            scope.spawn(move || {
                (0..ROUNDS).try_for_each(|_| add(&db, &[("visits", 1), ("bytes", 512)]))
            })
        });
        let threads: Vec<_> = threads.collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().expect("no thread panics"))
    })?;

    let (visits, bytes) = (read(&db, "visits")?.0, read(&db, "bytes")?.0);
    println!("{visits} visits, {bytes} bytes");
    assert_eq!(visits + bytes - before, THREADS * ROUNDS * 513);
    db.stop();
    Ok(())
}

/// The counter and the revision it was read at (0 if it does not exist).
fn read(db: &Blocking, name: &str) -> Result<(u64, i64), Error> {
    let Some(found) = db.get(name)? else {
        return Ok((0, 0));
    };
    let number = String::from_utf8_lossy(&found.value).parse().unwrap_or(0);
    Ok((number, found.mod_revision))
}

/// Adds to several counters at once: all of them or none.
fn add(db: &Blocking, additions: &[(&str, u64)]) -> Result<(), Error> {
    loop {
        let mut sums = Vec::new();
        let mut compare = Vec::new();
        for (name, amount) in additions {
            let (number, revision) = read(db, name)?;
            sums.push((name, (number + amount).to_string()));
            // A key that does not exist compares as revision 0.
            compare.push(Compare {
                range: KeyRange::one(name.as_bytes()),
                result: CompareResult::Equal,
                target: CompareTarget::ModRevision(revision),
            });
        }
        let puts = sums.iter().map(|(name, sum)| {
            RequestOp::Put(PutRequest {
                key: name.as_bytes(),
                value: sum.as_bytes(),
                ..PutRequest::default()
            })
        });
        let txn = TxnRequest {
            compare,
            success: puts.collect(),
            failure: Vec::new(),
        };
        if db.txn(&txn)?.body.succeeded {
            return Ok(());
        }
    }
}
