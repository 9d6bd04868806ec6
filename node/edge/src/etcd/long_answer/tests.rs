//! Long answers are the same bytes as short ones, in pieces.

use std::pin::pin;
use std::task::{Context, Waker};

use henge_api::Header;
use henge_mvcc::{DeleteRangeResponse, PutResponse, RangeResponse, TxnResponse};
use proptest::prelude::*;

use super::*;

fn pair(n: u64, bytes: usize) -> KeyValue {
    KeyValue {
        key: format!("key {n}").into(),
        value: vec![7; bytes].into(),
        create_revision: n as i64,
        mod_revision: -(n as i64),
        version: (n % 3) as i64,
        lease: (n % 2) as i64,
    }
}

fn range(count: u64, bytes: usize) -> ResponseOp {
    ResponseOp::Range(RangeResponse {
        kvs: (0..count).map(|n| pair(n, bytes)).collect(),
        more: count.is_multiple_of(2),
        count: count as i64,
    })
}

fn reply(body: ResponseOp) -> Reply<ResponseOp> {
    let header = Header {
        revision: 300,
        member_id: u64::MAX,
        ..Header::default()
    };
    Reply { header, body }
}

/// Measures and encodes; also how often it paused, and the largest piece.
fn encoded(body: ResponseOp) -> (Vec<u8>, usize, usize) {
    gathered(LongAnswer::measure(reply(body)))
}

fn gathered(measuring: impl Future<Output = LongAnswer>) -> (Vec<u8>, usize, usize) {
    let mut measuring = pin!(measuring);
    let (mut pauses, mut out, mut largest) = (0, Vec::new(), 0);
    let mut cx = Context::from_waker(Waker::noop());
    let mut answer = loop {
        match measuring.as_mut().poll(&mut cx) {
            Poll::Ready(answer) => break answer,
            Poll::Pending => pauses += 1,
        }
    };
    while let Some(piece) = answer.piece() {
        largest = largest.max(piece.len());
        out.extend_from_slice(&piece);
    }
    assert!(answer.is_over());
    (out, pauses, largest)
}

fn at_once(body: ResponseOp) -> Vec<u8> {
    let message = match message(reply(body)) {
        Response::ResponseRange(message) => message.encode_to_vec(),
        Response::ResponsePut(message) => message.encode_to_vec(),
        Response::ResponseDeleteRange(message) => message.encode_to_vec(),
        Response::ResponseTxn(message) => message.encode_to_vec(),
    };
    frame(message)
}

fn frame(message: Vec<u8>) -> Vec<u8> {
    let mut framed = vec![0];
    framed.extend((message.len() as u32).to_be_bytes());
    framed.extend(message);
    framed
}

fn any_answer() -> impl Strategy<Value = ResponseOp> {
    let leaf = prop_oneof![
        (0..40_u64, 0..300_usize).prop_map(|(count, bytes)| range(count, bytes)),
        (0..2_u64, 0..300_usize).prop_map(|(count, bytes)| {
            let prev_kv = (count > 0).then(|| pair(9, bytes));
            ResponseOp::Put(PutResponse { prev_kv })
        }),
        (0..5_u64, 0..200_000_usize).prop_map(|(count, bytes)| {
            ResponseOp::DeleteRange(DeleteRangeResponse {
                deleted: count as i64,
                prev_kvs: (0..count).map(|n| pair(n, bytes)).collect(),
            })
        }),
    ];
    leaf.prop_recursive(4, 30, 6, |inner| {
        let ops = prop::collection::vec(inner, 0..6);
        (any::<bool>(), ops).prop_map(|(succeeded, responses)| {
            ResponseOp::Txn(Box::new(TxnResponse {
                succeeded,
                responses,
            }))
        })
    })
}

proptest! {
    #[test]
    fn pieces_make_up_the_message_of_the_short_way(body in any_answer()) {
        prop_assert_eq!(encoded(body.clone()).0, at_once(body));
    }
}

/// A range over a million keys was converted, measured, encoded and let go in one go of half a second.
#[test]
fn regression_an_answer_of_many_pairs_is_measured_and_encoded_in_steps() {
    let body = range(100_000, 20);
    assert!(!is_short(&body));
    let (out, pauses, largest) = encoded(body.clone());
    assert!(out == at_once(body), "other bytes");
    assert_eq!(pauses, 100_000 / STEP_PAIRS);
    assert!(largest < PIECE_BYTES + 100, "{largest}");
}

/// Only pairs made an answer long: that of a nested transaction of 150,000 ranges which find nothing was
/// converted and encoded in one go of some forty milliseconds.
#[test]
fn regression_an_answer_of_many_operations_without_pairs_is_encoded_in_steps() {
    let nothing = |n: usize| match n % 4 {
        0 => ResponseOp::Range(RangeResponse::default()),
        1 => ResponseOp::Put(PutResponse::default()),
        2 => ResponseOp::DeleteRange(DeleteRangeResponse::default()),
        _ => ResponseOp::Txn(Box::default()),
    };
    let of = |responses| {
        ResponseOp::Txn(Box::new(TxnResponse {
            succeeded: true,
            responses,
        }))
    };
    let body = of((0..100)
        .map(|_| of((0..1_000).map(nothing).collect()))
        .collect());
    assert!(!is_short(&body));
    let (out, pauses, largest) = encoded(body.clone());
    assert!(out == at_once(body), "other bytes");
    assert!(pauses >= 100_000 / STEP_PAIRS, "{pauses}");
    assert!(largest < 2 * PIECE_BYTES, "{largest}");
    assert!(is_short(&of((0..SHORT_PAIRS).map(nothing).collect())));
}

#[test]
fn keys_and_ids_of_leases_make_up_their_messages() {
    let mut message = pb::LeaseTimeToLiveResponse {
        id: -7,
        ttl: 3,
        ..Default::default()
    };
    let keys: Vec<Bytes> = (0..9_000).map(|n| format!("{n}").into()).collect();
    let (out, pauses, _) = gathered(LongAnswer::keys(&message, keys.clone()));
    message.keys = keys;
    assert!(out == frame(message.encode_to_vec()) && pauses == 4);

    let mut message = pb::LeaseLeasesResponse {
        header: Some(pb::ResponseHeader::default()),
        ..Default::default()
    };
    for ids in [vec![], vec![0, 1, -1, i64::MAX, i64::MIN]] {
        let (out, ..) = gathered(LongAnswer::leases(&message, ids.clone()));
        message.leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        assert_eq!(out, frame(message.encode_to_vec()));
        message.leases.clear();
    }
}

#[test]
fn few_pairs_or_one_of_any_size_are_short() {
    assert!(is_short(&range(0, 0)));
    assert!(is_short(&range(1, 5 << 20)));
    assert!(is_short(&range(SHORT_PAIRS as u64, 100)));
    assert!(!is_short(&range(SHORT_PAIRS as u64 + 1, 0)));
    assert!(!is_short(&range(2, SHORT_BYTES)));
}

/// Above 4 GiB the length in front of a message was wrong, and above 2 GiB etcd sends none.
#[test]
fn regression_an_answer_longer_than_etcd_sends_is_refused() {
    let shared = pair(1, 1 << 20);
    let answer = |count| {
        let body = ResponseOp::Range(RangeResponse {
            kvs: vec![shared.clone(); count],
            ..RangeResponse::default()
        });
        let mut measuring = pin!(LongAnswer::measure(reply(body)));
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            if let Poll::Ready(answer) = measuring.as_mut().poll(&mut cx) {
                return answer.checked();
            }
        }
    };
    assert!(answer(2_000).is_ok());
    for count in [2_048, 5_000] {
        let TooLong(bytes) = answer(count).expect_err("too long");
        assert!(bytes > count << 20, "{bytes}");
    }
}

#[test]
fn an_answer_whose_caller_has_gone_is_let_go() {
    let mut answer = LongAnswer::default();
    let pairs = (0..DROPPED_PAIRS_MAX as u64 + 1).map(|n| pair(n, 0));
    let shared = Bytes::from(vec![1; 10]);
    let mut pairs: Vec<_> = pairs.collect();
    pairs[0].value = shared.clone();
    answer
        .parts
        .push_back(Part::Pairs(2, Rest(pairs.into_iter())));
    assert!(!shared.is_unique());
    drop(answer);
    while !shared.is_unique() {
        std::thread::yield_now();
    }
}
