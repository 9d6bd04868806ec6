//! The thin gRPC layer for the hot unary KV calls and those of leases with long answers, straight on hyper:
//! read one framed message, decode, call, frame the answer.
//!
//! Same behaviour as the tonic path (`tests/etcd_api` runs the same tests over both), without
//! its codec machinery, and with the same metadata of the call: no stream state, no boxed body, no
//! async-trait box.

use std::future::Future;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use henge_api::{Backend, Error, Reply};
use henge_mvcc::ResponseOp;
use http::{Request, Response};
use hyper::body::Incoming;
use prost::{DecodeError, Message};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

use super::errors::status;
use super::kv::Kv;
use super::lease::Lease;
use super::long_answer::{self, LongAnswer, SEND_BYTES_MAX, TooLong};
use super::nested::Txn;
use super::proto::etcdserverpb as pb;
use crate::counters::Meter;
use crate::door::body::{EdgeBody, EdgeFuture, success};
use crate::door::gate::Encoding;
use crate::door::inbound::{self, PREFIX_BYTES};

/// A call served here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hot {
    Put,
    Range,
    Txn,
    DeleteRange,
    LeaseLeases,
    LeaseTimeToLive,
}

/// The hot call that `path` means.
pub(crate) fn hot(path: &str) -> Option<Hot> {
    match path {
        "/etcdserverpb.KV/Put" => Some(Hot::Put),
        "/etcdserverpb.KV/Range" => Some(Hot::Range),
        "/etcdserverpb.KV/Txn" => Some(Hot::Txn),
        "/etcdserverpb.KV/DeleteRange" => Some(Hot::DeleteRange),
        "/etcdserverpb.Lease/LeaseLeases" => Some(Hot::LeaseLeases),
        "/etcdserverpb.Lease/LeaseTimeToLive" => Some(Hot::LeaseTimeToLive),
        _ => None,
    }
}

/// Answers one hot call. A message may have `max_bytes`.
pub(crate) fn call<B: Backend>(
    (kv, lease): (Arc<Kv<B>>, Arc<Lease<B>>),
    hot: Hot,
    request: Request<Incoming>,
    encoding: Encoding,
    max_bytes: usize,
    meter: Meter,
) -> EdgeFuture {
    let (parts, body) = request.into_parts();
    // Nothing else of the headers is kept while the body comes.
    let of = kv.caller(&MetadataMap::from_headers(parts.headers));
    let body = (body, encoding);
    match hot {
        Hot::Put => Box::pin(run(
            body,
            (max_bytes, meter, |_| false),
            Message::decode,
            move |r| async move { Ok(pairs(kv.put(of, r).await?.map(ResponseOp::Put)).await) },
        )),
        Hot::Range => Box::pin(run(
            body,
            (max_bytes, meter, |_| false),
            Message::decode,
            move |r| async move { Ok(pairs(kv.range(of, r).await?.map(ResponseOp::Range)).await) },
        )),
        Hot::Txn => Box::pin(run(
            body,
            (max_bytes, meter, Txn::only_reads),
            Txn::decode,
            move |r| async move {
                let reply = kv.txn(of, r).await?;
                Ok(pairs(reply.map(|txn| ResponseOp::Txn(Box::new(txn)))).await)
            },
        )),
        Hot::DeleteRange => Box::pin(run(
            body,
            (max_bytes, meter, |_| false),
            Message::decode,
            move |r| async move {
                let reply = kv.delete_range(of, r).await?;
                Ok(pairs(reply.map(ResponseOp::DeleteRange)).await)
            },
        )),
        Hot::LeaseLeases => Box::pin(run(
            body,
            (max_bytes, meter, |_| false),
            Message::decode,
            move |_: pb::LeaseLeasesRequest| async move { lease.leases_framed(of).await },
        )),
        Hot::LeaseTimeToLive => Box::pin(run(
            body,
            (max_bytes, meter, |_| false),
            Message::decode,
            move |r| async move { lease.time_to_live_framed(of, r).await },
        )),
    }
}

async fn run<Q, F, C>(
    (body, encoding): (Incoming, Encoding),
    (max_bytes, mut meter, only_reads): (usize, Meter, fn(&Q) -> bool),
    decode: fn(Bytes) -> Result<Q, DecodeError>,
    call: C,
) -> Result<Response<EdgeBody>, std::convert::Infallible>
where
    F: Future<Output = Result<Framed, Error>>,
    C: FnOnce(Q) -> F,
{
    // tonic's code and text for the same mistake.
    let decode = |message| decode(message).map_err(|e| Status::internal(e.to_string()));
    let message = inbound::read_one(body, encoding, max_bytes).await;
    let messages = meter.messages().clone();
    if let Ok(message) = &message {
        messages.received(message.len());
    }
    let answer = match message.and_then(decode) {
        Ok(request) => {
            if only_reads(&request) {
                meter.only_reads();
            }
            let answer = call(request).await.map_err(|e| status(&e));
            answer.and_then(sendable)
        }
        Err(status) => Err(status),
    };
    Ok(match answer {
        Ok(framed) => {
            let body = match framed {
                Framed::Short(message) => EdgeBody::unary(message),
                Framed::Long(answer) => EdgeBody::long(answer),
            };
            meter.finish(Code::Ok);
            success(body.counted(messages, meter.take_call()), encoding)
        }
        Err(status) => {
            meter.finish(status.code());
            status.into_http()
        }
    })
}

/// An answer as it goes out.
#[derive(Debug)]
pub(crate) enum Framed {
    /// At once.
    Short(Bytes),
    /// In pieces.
    Long(LongAnswer),
}

/// grpc-go's answer instead of one that is longer than etcd sends.
fn sendable(answer: Framed) -> Result<Framed, Status> {
    match answer {
        Framed::Short(_) => Ok(answer),
        Framed::Long(long) => match long.checked() {
            Ok(long) => Ok(Framed::Long(long)),
            Err(e) => Err(too_long(e, "grpc: ")),
        },
    }
}

/// Of a unary call grpc-go says whose text it is, of a stream it does not.
pub(crate) fn too_long(TooLong(bytes): TooLong, whose: &str) -> Status {
    Status::resource_exhausted(format!(
        "{whose}trying to send message larger than max ({bytes} vs. {SEND_BYTES_MAX})"
    ))
}

async fn pairs(reply: Reply<ResponseOp>) -> Framed {
    use pb::response_op::Response;
    if !long_answer::is_short(&reply.body) {
        return Framed::Long(LongAnswer::measure(reply).await);
    }
    Framed::Short(match long_answer::message(reply) {
        Response::ResponseRange(message) => frame(&message),
        Response::ResponsePut(message) => frame(&message),
        Response::ResponseDeleteRange(message) => frame(&message),
        Response::ResponseTxn(message) => frame(&message),
    })
}

/// A message in one go.
pub(crate) fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
    out.put_u8(0);
    // Only short answers come here.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode_raw(&mut out);
    out.freeze()
}
