//! KV over both gRPC paths.

use henge::api::{Error, Outcome};
use henge_edge::EdgeConfig;
use henge_edge::etcd::proto::etcdserverpb as pb;
use henge_edge::etcd::proto::etcdserverpb::request_op::Request as Op;
use henge_edge::etcd::proto::etcdserverpb::response_op::Response as Answer;
use prost::Message;
use tonic::{Code, Status};

use super::double::{CLUSTER, MEMBER, TERM};
use super::{Server, soon};

pub(super) fn put(key: &str, value: impl Into<Vec<u8>>) -> pb::PutRequest {
    let value: Vec<u8> = value.into();
    pb::PutRequest {
        key: key.to_owned().into(),
        value: value.into(),
        ..Default::default()
    }
}

pub(super) fn get(key: &str) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.to_owned().into(),
        ..Default::default()
    }
}

pub(super) fn all() -> pb::RangeRequest {
    pb::RangeRequest {
        range_end: "\0".into(),
        ..get("\0")
    }
}

pub(super) fn op(request: Op) -> pb::RequestOp {
    pb::RequestOp {
        request: Some(request),
    }
}

pub(super) fn is(got: &Status, code: Code, message: &str) {
    assert_eq!((got.code(), got.message()), (code, message));
}

#[tokio::test]
async fn writes_reads_and_deletes_come_back_as_etcd_says() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        let first = kv.put(put("a", "1")).await.expect("put").into_inner();
        let header = first.header.expect("a header");
        assert_eq!((header.cluster_id, header.member_id), (CLUSTER, MEMBER));
        assert_eq!((header.revision, header.raft_term), (2, TERM));
        assert_eq!(first.prev_kv, None);
        let again = pb::PutRequest {
            prev_kv: true,
            ..put("a", "2")
        };
        let again = kv.put(again).await.expect("put").into_inner();
        assert_eq!(again.prev_kv.expect("the old pair").value, "1");
        kv.put(put("b", "")).await.expect("an empty value");

        let limited = pb::RangeRequest { limit: 1, ..all() };
        let limited = kv.range(limited).await.expect("range").into_inner();
        assert_eq!(
            (limited.kvs.len(), limited.more, limited.count),
            (1, true, 2)
        );
        let a = &limited.kvs[0];
        assert_eq!((a.create_revision, a.mod_revision, a.version), (2, 3, 2));
        let old = pb::RangeRequest {
            revision: 2,
            ..get("a")
        };
        let old = kv.range(old).await.expect("an old revision").into_inner();
        assert_eq!(
            (
                old.kvs[0].value.as_ref(),
                old.header.expect("header").revision
            ),
            (&b"1"[..], 4)
        );

        let gone = pb::DeleteRangeRequest {
            key: "a".into(),
            range_end: "\0".into(),
            prev_kv: true,
        };
        let gone = kv.delete_range(gone).await.expect("delete").into_inner();
        assert_eq!((gone.deleted, gone.prev_kvs.len()), (2, 2));
        let none = kv.range(all()).await.expect("range").into_inner();
        assert_eq!((none.count, none.header.expect("header").revision), (0, 5));
        kv.compact(pb::CompactionRequest {
            revision: 4,
            physical: true,
        })
        .await
        .expect("compact");
        let e = kv
            .range(pb::RangeRequest {
                revision: 3,
                ..get("a")
            })
            .await
            .expect_err("compacted");
        is(
            &e,
            Code::OutOfRange,
            "etcdserver: mvcc: required revision has been compacted",
        );
        let e = kv
            .range(pb::RangeRequest {
                revision: 9,
                ..get("a")
            })
            .await
            .expect_err("future");
        is(
            &e,
            Code::OutOfRange,
            "etcdserver: mvcc: required revision is a future revision",
        );
    }
}

#[tokio::test]
async fn a_transaction_answers_by_position_with_etcds_inner_headers() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        kv.put(put("a", "1")).await.expect("put");
        let compare = pb::Compare {
            result: pb::compare::CompareResult::Equal as i32,
            target: pb::compare::CompareTarget::Mod as i32,
            key: "a".into(),
            target_union: Some(pb::compare::TargetUnion::ModRevision(2)),
            range_end: Default::default(),
        };
        let nested = pb::TxnRequest {
            success: vec![op(Op::RequestPut(put("c", "3")))],
            ..Default::default()
        };
        let txn = pb::TxnRequest {
            compare: vec![compare.clone()],
            success: vec![
                op(Op::RequestRange(get("a"))),
                op(Op::RequestPut(put("b", "2"))),
                op(Op::RequestRange(all())),
                op(Op::RequestTxn(nested.encode_to_vec().into())),
                op(Op::RequestDeleteRange(pb::DeleteRangeRequest {
                    key: "none".into(),
                    ..Default::default()
                })),
            ],
            failure: vec![op(Op::RequestRange(get("a")))],
        };
        let done = kv.txn(txn.clone()).await.expect("txn").into_inner();
        assert!(done.succeeded);
        assert_eq!(done.header.expect("header").revision, 3);
        let revisions: Vec<i64> = done
            .responses
            .iter()
            .map(|r| match r.response.as_ref().expect("an answer") {
                Answer::ResponseRange(r) => r.header.expect("header").revision,
                Answer::ResponsePut(r) => r.header.expect("header").revision,
                Answer::ResponseDeleteRange(r) => r.header.expect("header").revision,
                Answer::ResponseTxn(r) => {
                    assert_eq!(r.responses.len(), 1);
                    r.header.expect("header").revision
                }
            })
            .collect();
        // Before the first change the old revision, then the new one; a nested one's is empty.
        assert_eq!(revisions, [2, 3, 3, 0, 3]);

        // The comparison no longer holds once "a" moved on: the other branch, which only reads.
        kv.put(put("a", "x")).await.expect("put");
        let other = kv.txn(txn).await.expect("txn").into_inner();
        assert!(!other.succeeded);
        let Some(Answer::ResponseRange(r)) = &other.responses[0].response else {
            panic!("not a range")
        };
        assert_eq!(r.header.expect("header").revision, 4);

        // Numbers etcd does not know: an unknown result is true, an unknown target equal.
        for (result, target, truth) in [(9, 0, true), (0, 9, true), (1, 9, false), (3, 9, false)] {
            let odd = pb::Compare {
                result,
                target,
                ..compare.clone()
            };
            let odd = pb::TxnRequest {
                compare: vec![odd],
                ..Default::default()
            };
            let odd = kv.txn(odd).await.expect("txn").into_inner();
            assert_eq!(odd.succeeded, truth, "result {result} target {target}");
        }
    }
}

#[tokio::test]
async fn the_callers_mistakes_are_refused_before_the_engine_sees_them() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        let bad = |code, text: &str| (code, format!("etcdserver: {text}"));
        let invalid = |text| bad(Code::InvalidArgument, text);
        let puts = [
            (put("", "v"), invalid("key is not provided")),
            (
                pb::PutRequest {
                    ignore_value: true,
                    ..put("k", "v")
                },
                invalid("value is provided"),
            ),
            (
                pb::PutRequest {
                    ignore_lease: true,
                    lease: 1,
                    ..put("k", "")
                },
                invalid("lease is provided"),
            ),
        ];
        for (request, (code, text)) in puts {
            is(&kv.put(request).await.expect_err("bad put"), code, &text);
        }
        let ranges = [
            (
                pb::RangeRequest {
                    sort_order: 9,
                    ..get("")
                },
                invalid("key is not provided"),
            ),
            (
                pb::RangeRequest {
                    sort_order: 9,
                    ..get("k")
                },
                invalid("invalid sort option"),
            ),
            (
                pb::RangeRequest {
                    sort_target: -1,
                    ..get("k")
                },
                invalid("invalid sort option"),
            ),
        ];
        for (request, (code, text)) in ranges {
            is(
                &kv.range(request).await.expect_err("bad range"),
                code,
                &text,
            );
        }
        let e = kv
            .delete_range(pb::DeleteRangeRequest::default())
            .await
            .expect_err("no key");
        is(&e, Code::InvalidArgument, "etcdserver: key is not provided");
        let many = vec![op(Op::RequestRange(get("k"))); 129];
        let sort = op(Op::RequestRange(pb::RangeRequest {
            sort_target: 7,
            ..get("k")
        }));
        let twice = vec![
            op(Op::RequestPut(put("k", "1"))),
            op(Op::RequestPut(put("k", "2"))),
        ];
        let txns = [
            (many, "too many operations in txn request"),
            (twice, "duplicate key given in txn request"),
            (vec![sort], "invalid sort option"),
            (vec![pb::RequestOp::default()], "key not found"),
            (
                vec![op(Op::RequestPut(put("", "1")))],
                "key is not provided",
            ),
        ];
        for (success, text) in txns {
            let request = pb::TxnRequest {
                success,
                ..Default::default()
            };
            let e = kv.txn(request).await.expect_err("bad txn");
            is(&e, Code::InvalidArgument, &format!("etcdserver: {text}"));
        }
        assert_eq!(
            server.double.state().calls,
            0,
            "none of these may be proposed"
        );
    }
}

/// Transactions nested deeper than 50 were refused as malformed, by the decoder's own limit, where etcd runs
/// them: its limit on operations allows 128 one in the other.
#[tokio::test]
async fn regression_deep_transactions_are_run_or_refused_as_etcd_does() {
    let around = |inner: pb::TxnRequest| pb::TxnRequest {
        success: vec![op(Op::RequestTxn(inner.encode_to_vec().into()))],
        ..Default::default()
    };
    let chain = |depth: usize| {
        let innermost = pb::TxnRequest {
            success: vec![op(Op::RequestPut(put(&format!("at {depth}"), "v")))],
            ..Default::default()
        };
        (1..depth).fold(innermost, |inner, _| around(inner))
    };
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        for depth in [1, 50, 51, 65, 127, 128] {
            // The client at hand reads answers no deeper than 50.
            let _ = kv.txn(chain(depth)).await;
            let found = kv.range(get(&format!("at {depth}"))).await.expect("range");
            assert_eq!(found.into_inner().count, 1, "{depth}");
        }
        for depth in [129, 130, 1_000, 5_000] {
            let e = kv.txn(chain(depth)).await.expect_err("too deep");
            let text = "etcdserver: too many operations in txn request";
            is(&e, Code::InvalidArgument, text);
        }
        // No transaction, sixty levels down.
        let broken = pb::TxnRequest {
            success: vec![op(Op::RequestTxn((&b"\x0a\xff"[..]).into()))],
            ..Default::default()
        };
        let broken = (0..60).fold(broken, |inner, _| around(inner));
        let e = kv.txn(broken).await.expect_err("malformed");
        assert_eq!(e.code(), Code::Internal, "{e:?}");
    }
}

#[tokio::test]
async fn the_engines_errors_have_the_same_code_and_text_on_every_call() {
    let outcome = Outcome::Unknown;
    let errors = [
        (Error::TooManyRequests, Code::Unknown, "too many requests"),
        (Error::NoLeader, Code::Unavailable, "no leader"),
        (Error::LeaderChanged, Code::Unavailable, "leader changed"),
        (
            Error::Timeout { outcome },
            Code::Unavailable,
            "request timed out",
        ),
        (
            Error::Stopped { outcome },
            Code::Unavailable,
            "server stopped",
        ),
        (
            Error::NoSpace,
            Code::ResourceExhausted,
            "mvcc: database space exceeded",
        ),
        (Error::Corrupt, Code::DataLoss, "corrupt cluster"),
    ];
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        for (error, code, text) in &errors {
            for _ in 0..5 {
                server.double.state().failures.push_back(error.clone());
            }
            let got = [
                kv.put(put("k", "v")).await.expect_err("put"),
                kv.range(get("k")).await.expect_err("range"),
                kv.txn(pb::TxnRequest::default()).await.expect_err("txn"),
                kv.delete_range(pb::DeleteRangeRequest {
                    key: "k".into(),
                    ..Default::default()
                })
                .await
                .expect_err("delete"),
                kv.compact(pb::CompactionRequest::default())
                    .await
                    .expect_err("compact"),
            ];
            for e in &got {
                is(e, *code, &format!("etcdserver: {text}"));
            }
        }
    }
}

#[tokio::test]
async fn sizes_up_to_the_limit_pass_and_beyond_it_fail_as_etcd_does() {
    for thin in [true, false] {
        let config = EdgeConfig {
            max_request_bytes: 100_000,
            thin_unary: thin,
            drain_limit: super::SHORT,
            ..Default::default()
        };
        let max_message = config.max_message_bytes();
        let server = Server::start(config);
        let mut kv = server.kv().await;
        let value = |n: usize| vec![b'v'; n];
        let empty = put("k", "x").encoded_len();
        // Tag and three-byte length of the value make the difference to one byte of value.
        // etcd measures a request with the 17 bytes of what it wraps around it.
        let fits = put("k", value(100_000 - 17 - empty - 1));
        assert_eq!(fits.encoded_len(), 100_000 - 17);
        kv.put(fits).await.expect("exactly the limit");
        let e = kv.put(put("k", value(100_000 - 17 - empty))).await;
        is(
            &e.expect_err("a byte over it"),
            Code::InvalidArgument,
            "etcdserver: request is too large",
        );
        let e = kv
            .put(put("k", value(100_000)))
            .await
            .expect_err("over the request limit");
        is(
            &e,
            Code::InvalidArgument,
            "etcdserver: request is too large",
        );
        // A read-only transaction is not proposed and has no such limit.
        let reads = pb::TxnRequest {
            success: vec![op(Op::RequestRange(get(&"k".repeat(150_000))))],
            ..Default::default()
        };
        kv.txn(reads).await.expect("reads are not proposed");
        let e = kv
            .put(put("k", value(max_message)))
            .await
            .expect_err("over the message limit");
        assert_eq!(e.code(), Code::ResourceExhausted);
        assert!(
            e.message()
                .starts_with("grpc: received message larger than max"),
            "{e:?}"
        );
        // The connection survives all that.
        let kept = kv.range(get("k")).await.expect("range").into_inner();
        assert_eq!(kept.kvs[0].value.len(), 100_000 - 17 - empty - 1);
    }
}

#[tokio::test]
async fn many_calls_at_once_on_one_connection_all_get_their_own_answer() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let kv = server.kv().await;
        // More than hyper's default of 200 concurrent streams, held open together.
        let (open, gate) = tokio::sync::watch::channel(false);
        server.double.state().gate = Some(gate);
        let mut calls = tokio::task::JoinSet::new();
        for i in 0..500 {
            let mut kv = kv.clone();
            calls.spawn(async move {
                let request = pb::PutRequest {
                    prev_kv: true,
                    ..put(&format!("k{i}"), "v")
                };
                kv.put(request)
                    .await
                    .map(|r| r.into_inner().header.expect("header").revision)
            });
        }
        super::until("500 calls inside", || server.double.state().calls == 500).await;
        open.send(true).expect("the double listens");
        let mut revisions: Vec<i64> = Vec::new();
        while let Some(done) = soon("answer", calls.join_next()).await {
            revisions.push(done.expect("no panic").expect("put"));
        }
        revisions.sort_unstable();
        assert_eq!(revisions, (2..502).collect::<Vec<i64>>());
    }
}

#[tokio::test]
async fn a_client_that_gives_up_is_counted_as_canceled_and_harms_nobody() {
    for thin in [true, false] {
        let server = Server::thin(thin);
        let mut kv = server.kv().await;
        let (open, gate) = tokio::sync::watch::channel(false);
        server.double.state().gate = Some(gate);
        let mut other = kv.clone();
        let call = tokio::spawn(async move { other.put(put("k", "v")).await });
        super::until("the call inside", || server.double.state().calls == 1).await;
        call.abort();
        // Place 0 of the counters is Put.
        let canceled = || server.counters.handled(0, Code::Cancelled) == 1;
        super::until("the cancellation to be counted", canceled).await;
        open.send(true).expect("the double listens");
        // The operation was the engine's from the start: it is done.
        let kept = kv.range(get("k")).await.expect("range").into_inner();
        assert_eq!(kept.count, 1);
    }
}
