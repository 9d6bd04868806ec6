//! Reading and writing keys: transactions, ranges, limits, compaction, leases, refusals.

use henge::api::{Outcome, WatchCreate};
use henge::mvcc::{
    Compare, CompareResult, CompareTarget, DeleteRangeRequest, KeyRange, PutRequest, RangeRequest,
    RequestOp, TxnRequest,
};
use henge::{PutError, PutMistake};

use super::host::on_every_host;
use super::{all, open};

#[test]
fn a_transaction_takes_one_branch_at_one_revision() {
    on_every_host("txn", |dir, host| {
        let engine = open(dir, host).blocking();
        let put = |key, value| {
            RequestOp::Put(PutRequest {
                key,
                value,
                ..Default::default()
            })
        };
        let create = TxnRequest {
            compare: vec![Compare {
                range: KeyRange::one(b"lock"),
                result: CompareResult::Equal,
                target: CompareTarget::CreateRevision(0),
            }],
            success: vec![put(b"lock", b"me"), put(b"count", b"1")],
            failure: vec![RequestOp::Range(RangeRequest {
                range: KeyRange::one(b"lock"),
                ..Default::default()
            })],
        };
        let won = engine.txn(&create).expect("txn");
        assert!(won.body.succeeded);
        let lost = engine.txn(&create).expect("txn");
        assert!(!lost.body.succeeded);
        assert_eq!(lost.header.revision, won.header.revision);
        let both = engine.range(&all()).expect("range").body.kvs;
        assert!(both.iter().all(|kv| kv.mod_revision == won.header.revision));
    });
}

#[test]
fn refusals_are_typed_and_have_no_effect() {
    on_every_host("refusals", |dir, host| {
        let engine = host
            .engine(dir)
            .request_bytes_max(1_000)
            .open()
            .expect("opens")
            .blocking();
        let too_large = engine.put("k", vec![0; 2_000]).expect_err("too large");
        assert!(
            matches!(
                too_large,
                PutError::Caller(PutMistake::TooLarge { max: 1_000, .. })
            ),
            "{too_large}"
        );
        assert_eq!(
            engine.put("", "v").expect_err("no key").to_string(),
            "key is not provided"
        );
        let future = RangeRequest {
            revision: 99,
            ..all()
        };
        let refused = engine.range(&future).expect_err("future");
        assert_eq!(
            refused.to_string(),
            "mvcc: required revision is a future revision"
        );
        assert_eq!(refused.outcome(), Outcome::NotDone);
        assert_eq!(engine.range(&all()).expect("range").header.revision, 1);
    });
}

#[test]
fn compaction_forgets_and_says_so() {
    on_every_host("compact", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        for number in 0..3_000 {
            blocking
                .wait(engine.put("k", number.to_string()))
                .expect("put");
        }
        blocking.wait(engine.compact(3_000, true)).expect("compact");
        let old = RangeRequest {
            revision: 2_999,
            ..all()
        };
        let refused = blocking.range(&old).expect_err("compacted");
        assert_eq!(
            refused.to_string(),
            "mvcc: required revision has been compacted"
        );
        let kept = RangeRequest {
            revision: 3_000,
            ..all()
        };
        assert_eq!(
            blocking.range(&kept).expect("kept").body.kvs[0].value,
            "2998"
        );
    });
}

#[test]
fn a_range_can_be_limited_counted_and_deleted() {
    on_every_host("ranges", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        for number in 0..50 {
            blocking.put(format!("r{number:02}"), "v").expect("put");
        }
        let range = KeyRange {
            key: b"r10",
            end: b"r30",
        };
        let some = RangeRequest {
            range,
            limit: 5,
            ..Default::default()
        };
        let found = blocking.range(&some).expect("range").body;
        assert_eq!((found.kvs.len(), found.count, found.more), (5, 20, true));
        let count = RangeRequest {
            range,
            count_only: true,
            ..Default::default()
        };
        assert_eq!(blocking.range(&count).expect("count").body.kvs.len(), 0);
        let delete = DeleteRangeRequest {
            range,
            prev_kv: true,
        };
        let gone = blocking
            .wait(engine.delete_range(&delete))
            .expect("delete")
            .body;
        assert_eq!((gone.deleted, gone.prev_kvs.len()), (20, 20));
        assert_eq!(blocking.range(&all()).expect("range").body.count, 30);
    });
}

#[test]
fn values_up_to_the_limit_come_back_whole() {
    let builder = |dir: &std::path::Path, host: super::host::Host| {
        let wal = henge::wal::Options {
            segment_bytes: 8 << 20,
            ..Default::default()
        };
        host.engine(dir).wal(wal)
    };
    on_every_host("large", |dir, host| {
        let engine = builder(dir, host).open().expect("opens").blocking();
        let value: Vec<u8> = (0..1_400_000_u32).map(|at| (at * 7 % 251) as u8).collect();
        for name in ["a", "b", "c"] {
            engine.put(name, &value).expect("put");
        }
        drop(engine);
        let engine = builder(dir, host).open().expect("opens").blocking();
        for name in ["a", "b", "c"] {
            let found = engine.get(name).expect("get").expect("is there");
            assert!(found.value == value[..], "{name} differs");
        }
    });
}

#[test]
fn a_lease_takes_its_keys_along_when_it_expires() {
    on_every_host("lease", |dir, host| {
        let engine = open(dir, host);
        let blocking = engine.blocking();
        let lease = blocking.wait(engine.lease_grant(0, 1)).expect("grant").body;
        assert!(lease.id > 0);
        let put = PutRequest {
            key: b"short",
            value: b"life",
            lease: lease.id,
            ..Default::default()
        };
        blocking.wait(engine.put_with(&put)).expect("put");
        let create = WatchCreate {
            key: "short".into(),
            ..Default::default()
        };
        let mut watcher = engine.watch(create).expect("watch");
        assert!(
            blocking
                .wait_for(watcher.next())
                .expect("elsewhere")
                .expect("created")
                .created
        );
        let gone = blocking
            .wait_for(watcher.next())
            .expect("elsewhere")
            .expect("the delete");
        assert_eq!(gone.events[0].kind, henge::mvcc::EventKind::Delete);
        assert_eq!(
            blocking
                .wait(engine.lease_keep_alive(lease.id))
                .expect("answer")
                .body,
            0
        );
    });
}
