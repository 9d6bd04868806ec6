//! The thin gRPC layer for the hot unary KV calls, straight on hyper: read one framed message,
//! decode, call, frame the answer.
//!
//! Same behaviour as the tonic path (`tests/etcd_api.rs` runs the same tests over both), without
//! its codec machinery: no stream state, no boxed body, no async-trait box.

use std::future::Future;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use hyper::body::Incoming;
use prost::{DecodeError, Message};
use tonic::{Code, Status};

use super::body::EdgeBody;
use super::counters::Meter;
use super::errors::status;
use super::gate::Encoding;
use super::inbound::{self, PREFIX_BYTES};
use super::kv::Kv;
use super::nested::Txn;
use super::server::EdgeFuture;
use crate::api::{Backend, Error};

/// A call served here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hot {
    Put,
    Range,
    Txn,
    DeleteRange,
}

/// The hot call that `path` means.
pub(crate) fn hot(path: &str) -> Option<Hot> {
    match path {
        "/etcdserverpb.KV/Put" => Some(Hot::Put),
        "/etcdserverpb.KV/Range" => Some(Hot::Range),
        "/etcdserverpb.KV/Txn" => Some(Hot::Txn),
        "/etcdserverpb.KV/DeleteRange" => Some(Hot::DeleteRange),
        _ => None,
    }
}

/// Answers one hot call. A message may have `max_bytes`.
pub(crate) fn call<B: Backend>(
    kv: Arc<Kv<B>>,
    hot: Hot,
    request: Request<Incoming>,
    encoding: Encoding,
    max_bytes: usize,
    meter: Meter,
) -> EdgeFuture {
    let body = (request.into_body(), encoding);
    match hot {
        Hot::Put => Box::pin(run(
            body,
            max_bytes,
            meter,
            Message::decode,
            move |r| async move { kv.put(r).await },
        )),
        Hot::Range => Box::pin(run(
            body,
            max_bytes,
            meter,
            Message::decode,
            move |r| async move { kv.range(r).await },
        )),
        Hot::Txn => Box::pin(run(
            body,
            max_bytes,
            meter,
            Txn::decode,
            move |r| async move { kv.txn(r).await },
        )),
        Hot::DeleteRange => Box::pin(run(
            body,
            max_bytes,
            meter,
            Message::decode,
            move |r| async move { kv.delete_range(r).await },
        )),
    }
}

async fn run<Q, R, F, C>(
    (body, encoding): (Incoming, Encoding),
    max_bytes: usize,
    mut meter: Meter,
    decode: fn(Bytes) -> Result<Q, DecodeError>,
    call: C,
) -> Result<Response<EdgeBody>, std::convert::Infallible>
where
    R: Message,
    F: Future<Output = Result<R, Error>>,
    C: FnOnce(Q) -> F,
{
    // tonic's code and text for the same mistake.
    let decode = |message| decode(message).map_err(|e| Status::internal(e.to_string()));
    let message = inbound::read_one(body, encoding, max_bytes).await;
    let answer = match message.and_then(decode) {
        Ok(request) => call(request).await.map_err(|e| status(&e)),
        Err(status) => Err(status),
    };
    Ok(match answer {
        Ok(message) => {
            meter.finish(Code::Ok);
            let mut response = Response::new(EdgeBody::unary(frame(&message)));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            // In the caller's own encoding, as grpc-go answers.
            match encoding {
                Encoding::Identity => response,
                Encoding::Gzip => EdgeBody::packed(response),
            }
        }
        Err(status) => {
            meter.finish(status.code());
            status.into_http()
        }
    })
}

fn frame(message: &impl Message) -> Bytes {
    let len = message.encoded_len();
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + len);
    out.put_u8(0);
    // A longer answer than the format can say cannot be built: ranges are bounded well below.
    out.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
    message.encode_raw(&mut out);
    out.freeze()
}
