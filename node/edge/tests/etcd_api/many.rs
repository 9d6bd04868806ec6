//! Answers of many pairs, in pieces or as streams, over both gRPC paths.

use henge_edge::EdgeConfig;
use henge_edge::etcd::proto::etcdserverpb as pb;
use henge_edge::etcd::proto::etcdserverpb::request_op::Request as Op;
use prost::Message;
use tonic::Code;

use super::kv::{all, get, is, op, put};
use super::{Server, soon};

#[tokio::test]
async fn a_streamed_range_merges_to_exactly_the_unary_one() {
    let server = Server::start(EdgeConfig {
        max_request_bytes: 2_000,
        drain_limit: super::SHORT,
        ..Default::default()
    });
    let mut kv = server.kv().await;
    for i in 0..137 {
        kv.put(put(&format!("k{i:03}"), vec![b'v'; i]))
            .await
            .expect("put");
    }
    let requests = [
        all(),
        get("k005"),
        get("missing"),
        pb::RangeRequest { limit: 25, ..all() },
        pb::RangeRequest {
            limit: 137,
            ..all()
        },
        pb::RangeRequest { limit: 10, ..all() },
        pb::RangeRequest {
            keys_only: true,
            ..all()
        },
        pb::RangeRequest {
            count_only: true,
            ..all()
        },
        pb::RangeRequest {
            revision: 50,
            ..all()
        },
    ];
    // Any order there is is answered as the unary Range answers it; which that is, is the engine's.
    let sorted = (0..3).flat_map(|sort_order| {
        (0..5).map(move |sort_target| pb::RangeRequest {
            sort_order,
            sort_target,
            ..all()
        })
    });
    for request in requests.into_iter().chain(sorted) {
        let whole = kv.range(request.clone()).await.expect("range").into_inner();
        let mut stream = kv
            .range_stream(request.clone())
            .await
            .expect("stream")
            .into_inner();
        let mut merged = Vec::new();
        let mut messages = 0;
        while let Some(part) = soon("part", stream.message()).await.expect("a part") {
            let part = part.range_response.expect("a response");
            merged.extend_from_slice(&part.encode_to_vec());
            messages += 1;
        }
        // Concatenated encodings are protobuf's definition of merging.
        let merged = pb::RangeResponse::decode(&merged[..]).expect("decodes");
        assert_eq!(merged, whole, "{request:?}");
        assert!(
            messages > 1 || whole.kvs.len() <= 10,
            "{messages} messages for {request:?}"
        );
    }
    let e = kv
        .range_stream(pb::RangeRequest {
            min_mod_revision: 1,
            ..all()
        })
        .await
        .expect_err("f");
    is(
        &e,
        Code::Unimplemented,
        "RangeStream does not support revision filters",
    );
    let e = kv.range_stream(get("")).await.expect_err("no key");
    is(&e, Code::InvalidArgument, "etcdserver: key is not provided");
}

/// Long answers leave in pieces on the thin path and in one on tonic's: they say the same.
#[tokio::test]
async fn an_answer_of_many_pairs_is_the_same_in_pieces() {
    let answers = async |thin| {
        let server = Server::thin(thin);
        let mut kv = server.kv().await.max_decoding_message_size(64 << 20);
        for i in 0..1_200 {
            let key = format!("k{i:04}");
            kv.put(put(&key, vec![b'v'; i])).await.expect("put");
        }
        let sorted = pb::RangeRequest {
            sort_order: 2,
            sort_target: 4,
            ..all()
        };
        let range = kv.range(sorted.clone()).await.expect("range").into_inner();
        let delete = pb::DeleteRangeRequest {
            key: "k0".into(),
            range_end: "k1".into(),
            prev_kv: true,
        };
        let again = pb::PutRequest {
            prev_kv: true,
            ..put("k1100", "")
        };
        let inner = pb::TxnRequest {
            success: vec![
                op(Op::RequestRange(all())),
                op(Op::RequestDeleteRange(delete)),
            ],
            ..Default::default()
        };
        // Many operations that find nothing are a long answer, too.
        let nothing = pb::TxnRequest {
            success: vec![op(Op::RequestRange(get("missing"))); 100],
            ..Default::default()
        };
        let nothing = op(Op::RequestTxn(nothing.encode_to_vec().into()));
        let nothing = pb::TxnRequest {
            success: vec![nothing; 10],
            ..Default::default()
        };
        let nothing = kv.txn(nothing).await.expect("txn").into_inner();
        let success = vec![
            op(Op::RequestRange(sorted)),
            op(Op::RequestPut(again)),
            op(Op::RequestTxn(inner.encode_to_vec().into())),
            op(Op::RequestRange(get("missing"))),
        ];
        let txn = pb::TxnRequest {
            success,
            ..Default::default()
        };
        let txn = kv.txn(txn).await.expect("txn").into_inner();
        let rest = pb::DeleteRangeRequest {
            prev_kv: true,
            key: "\0".into(),
            range_end: "\0".into(),
        };
        let rest = kv.delete_range(rest).await.expect("delete").into_inner();
        (range, txn, rest, nothing)
    };
    let (pieces, whole) = (answers(true).await, answers(false).await);
    assert_eq!((pieces.0.kvs.len(), pieces.2.deleted), (1_200, 200));
    assert!(pieces == whole, "they differ");
}
