//! Batches: whole per shard, each shard with its own outcome, and nothing of a batch that is wrong in form.

use std::path::Path;

use henge::api::Outcome;
use henge::mvcc::{KeyRange, RangeRequest};
use henge::{Batch, BatchError, BatchMistake, Engine, Router};

use super::host::{Host, on_every_host};
use super::small;

/// Two shards: keys below "n", and the others.
fn halves(dir: &Path, host: Host, request_bytes_max: usize) -> Engine {
    let builder = small(dir, host).shards(2);
    let builder = builder.router(Router::Ranges(vec!["n".into()]));
    // The segments must hold the largest request.
    let builder = builder.wal_segment_bytes(4 << 20);
    let engine = builder.request_bytes_max(request_bytes_max).open();
    engine.expect("opens")
}

fn count(engine: &Engine) -> i64 {
    let everything = RangeRequest {
        range: KeyRange {
            key: b"\0",
            end: b"\0",
        },
        ..RangeRequest::default()
    };
    let found = engine.blocking().range(&everything);
    found.expect("range").body.count
}

#[test]
fn a_part_is_one_revision_and_survives_a_reopen() {
    on_every_host("batch", |dir, host| {
        let open = || small(dir, host).shards(3).open();
        let engine = open().expect("opens");
        let db = engine.blocking();
        db.put("key-0007", "old").expect("put");
        let mut batch = Batch::new();
        for number in 0..1_000 {
            batch.put(format!("key-{number:04}"), format!("value {number}"));
        }
        batch.delete("key-0500").delete("never there");
        let parts = db.batch(&batch).all().expect("done");
        assert_eq!(parts.len(), 3);
        let mut operations = Vec::<usize>::new();
        for part in &parts {
            let made = part.result.as_ref().expect("done").revision;
            for at in part.operations.iter().filter(|at| **at < 1_000) {
                let found = db.get(format!("key-{at:04}")).expect("get");
                let found = found.unwrap_or_else(|| panic!("key {at}"));
                assert_eq!(
                    (found.mod_revision, found.value),
                    (made, format!("value {at}").into())
                );
            }
            operations.extend(&part.operations);
        }
        // All but the put that the delete of the same key replaced.
        operations.sort_unstable();
        assert_eq!(
            operations,
            (0..1_002).filter(|at| *at != 500).collect::<Vec<_>>()
        );
        drop((engine, db));
        assert_eq!(count(&open().expect("opens")), 999);
    });
}

#[test]
fn a_part_that_is_refused_leaves_the_others_alone() {
    on_every_host("batch-parts", |dir, host| {
        let engine = halves(dir, host, 1_000);
        let mut batch = Batch::new();
        batch
            .put("a", "small")
            .put("z", vec![b'x'; 2_000])
            .put("b", "small");
        let report = engine.blocking().batch(&batch);
        let [low, high] = &report.parts[..] else {
            panic!("{report:?}");
        };
        assert_eq!((low.shard, &low.operations[..]), (0, &[0, 2][..]));
        assert!(low.result.is_ok());
        assert_eq!((high.shard, &high.operations[..]), (1, &[1][..]));
        let refused = high.result.clone().expect_err("too large");
        assert!(
            matches!(
                refused,
                BatchError::Caller(BatchMistake::TooLarge { max: 1_000, .. })
            ),
            "{refused}"
        );
        assert_eq!(report.all(), Err(refused));
        assert_eq!(count(&engine), 2);
    });
}

#[test]
fn what_is_wrong_in_form_does_nothing_anywhere() {
    on_every_host("batch-form", |dir, host| {
        let engine = halves(dir, host, 1_000_000);
        let db = engine.blocking();
        let lease = db
            .wait(engine.lease_grant_for("a", 60))
            .expect("lease")
            .body
            .id;

        let mut batch = Batch::new();
        let report = db.batch(batch.put("a", "1").put("z", "2").delete(""));
        assert_eq!(report.parts.len(), 2);
        for part in report.parts {
            assert_eq!(part.result, Err(BatchError::Caller(BatchMistake::EmptyKey)));
        }
        batch.clear();
        batch.put("a", "1").put_with_lease("z", "2", lease);
        for part in db.batch(&batch).parts {
            let elsewhere = BatchMistake::LeaseElsewhere {
                key: "z".into(),
                lease,
            };
            assert_eq!(part.result, Err(BatchError::Caller(elsewhere)));
        }
        assert_eq!(count(&engine), 0);

        // A lease that is gone is found out by its shard, and costs that shard's part only.
        db.wait(engine.lease_revoke(lease)).expect("revoked");
        batch.clear();
        batch
            .put_with_lease("a", "1", lease)
            .put("b", "1")
            .put("z", "2");
        let report = db.batch(&batch);
        let mistake = BatchError::Caller(BatchMistake::LeaseNotFound);
        assert_eq!(report.parts[0].result, Err(mistake));
        assert!(report.parts[1].result.is_ok());
        assert_eq!(count(&engine), 1);
    });
}

#[test]
fn an_empty_batch_is_done_and_one_for_a_stopped_engine_is_not() {
    on_every_host("batch-stopped", |dir, host| {
        let engine = halves(dir, host, 1_000_000);
        let db = engine.blocking();
        let mut batch = Batch::new();
        assert_eq!(db.batch(&batch).all().expect("nothing to do"), []);
        db.stop();
        let refused = db.batch(batch.put("a", "1")).all().expect_err("stopped");
        assert_eq!(refused.outcome(), Outcome::NotDone);
    });
}
