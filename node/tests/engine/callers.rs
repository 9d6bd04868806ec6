//! Callers: many at once, those that go away, those that wait when the engine stops.

use std::time::Duration;

use henge::api::Outcome;
use henge::mvcc::{
    Compare, CompareResult, CompareTarget, KeyRange, PutRequest, RequestOp, TxnRequest,
};

use super::host::on_every_host;
use super::{all, open};

#[test]
fn a_dropped_future_does_not_drop_the_operation() {
    on_every_host("dropped", |dir, host| {
        let engine = open(dir, host);
        drop(engine.put("abandoned", "value"));
        // Nobody was told that the put is done, so a read may still overtake it; a later write cannot.
        engine.blocking().put("later", "value").expect("put");
        let found = engine.blocking().get("abandoned").expect("get");
        assert_eq!(found.map(|kv| kv.value), Some("value".into()));
    });
}

#[test]
fn many_callers_at_once_all_get_their_own_answer() {
    on_every_host("many", |dir, host| {
        let engine = open(dir, host);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("rt");
        runtime.block_on(async {
            let puts: Vec<_> = (0..5_000)
                .map(|n| engine.put(format!("m{n}"), n.to_string()))
                .collect();
            let mut revisions = Vec::new();
            for put in puts {
                revisions.push(put.await.expect("put").header.revision);
            }
            assert!(revisions.is_sorted_by(|left, right| left < right));
            let watchdog = Duration::from_secs(60);
            let found = tokio::time::timeout(watchdog, engine.range(&all()))
                .await
                .expect("in time");
            assert_eq!(found.expect("range").body.count, 5_000);
        });
    });
}

#[test]
fn every_operation_in_flight_is_answered_when_the_engine_stops() {
    on_every_host("stopping", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        let mut puts = Vec::new();
        for number in 0..2_000 {
            puts.push(engine.put(format!("s{number}"), vec![b'v'; 500]));
        }
        let read = engine.range(&all());
        blocking.stop();
        let (mut done, mut unknown, mut refused) = (0, 0, 0);
        for put in puts {
            match blocking.wait(put) {
                Ok(_) => done += 1,
                Err(error) => match error.outcome() {
                    Outcome::Unknown => unknown += 1,
                    Outcome::NotDone => refused += 1,
                },
            }
        }
        // Answered at all is what counts here; a read has either.
        let _ = blocking.wait(read);
        assert!(engine.has_ended());
        drop((engine, blocking));
        let kept = open(dir, host)
            .blocking()
            .range(&all())
            .expect("range")
            .body;
        let kept = usize::try_from(kept.count).expect("counts");
        assert_eq!(done + unknown + refused, 2_000);
        assert!(
            (done..=done + unknown).contains(&kept),
            "{done} done, {unknown} unknown, {kept} kept"
        );
    });
}

#[test]
fn threads_that_share_an_engine_lose_no_increment() {
    on_every_host("threads", |dir, host| {
        let engine = open(dir, host).blocking();
        engine.put("n", "0").expect("put");
        std::thread::scope(|scope| {
            for _ in 0..4 {
                let engine = engine.clone();
                scope.spawn(move || {
                    for _ in 0..25 {
                        increment(&engine);
                    }
                });
            }
        });
        let found = engine.get("n").expect("get").expect("is there");
        assert_eq!((found.value, found.version), ("100".into(), 101));
    });
}

/// Reads, adds one, writes if nobody else did meanwhile.
fn increment(engine: &henge::Blocking) {
    loop {
        let found = engine.get("n").expect("get").expect("is there");
        let number: u64 = String::from_utf8_lossy(&found.value).parse().expect("ours");
        let next = (number + 1).to_string();
        let txn = TxnRequest {
            compare: vec![Compare {
                range: KeyRange::one(b"n"),
                result: CompareResult::Equal,
                target: CompareTarget::ModRevision(found.mod_revision),
            }],
            success: vec![RequestOp::Put(PutRequest {
                key: b"n",
                value: next.as_bytes(),
                ..Default::default()
            })],
            failure: Vec::new(),
        };
        if engine.txn(&txn).expect("txn").body.succeeded {
            return;
        }
    }
}
