//! The thin gRPC layer for the hot unary KV calls, straight on hyper: read one framed message,
//! decode, call, frame the answer.
//!
//! Same behaviour as the tonic path (`tests/etcd_api.rs` runs the same tests over both), without
//! its codec machinery: no stream state, no boxed body, no async-trait box. Anything unusual (a
//! compressed request) is handed to tonic untouched.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response};
use http_body::Body;
use hyper::body::Incoming;
use prost::{DecodeError, Message};
use tonic::{Code, Status};

use super::body::EdgeBody;
use super::counters::Meter;
use super::errors::{message_too_large, status};
use super::kv::Kv;
use super::nested::Txn;
use super::server::EdgeFuture;
use crate::api::{Backend, Error};

/// Bytes before every gRPC message: compressed flag and length.
const PREFIX_BYTES: usize = 5;

/// Bytes set aside at once for a message that arrives in pieces; more only as it really arrives,
/// so that a length alone costs no memory.
const FIRST_BUFFER_BYTES: usize = 64 * 1024;

/// A call served here.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Hot {
    Put,
    Range,
    Txn,
    DeleteRange,
}

/// The hot call that `request` makes, unless it asks for something only tonic can do.
pub(crate) fn hot(path: &str, request: &Request<Incoming>) -> Option<Hot> {
    let hot = match path {
        "/etcdserverpb.KV/Put" => Hot::Put,
        "/etcdserverpb.KV/Range" => Hot::Range,
        "/etcdserverpb.KV/Txn" => Hot::Txn,
        "/etcdserverpb.KV/DeleteRange" => Hot::DeleteRange,
        _ => return None,
    };
    (!request.headers().contains_key("grpc-encoding")).then_some(hot)
}

/// Answers one hot call. A message may have `max_bytes`.
pub(crate) fn call<B: Backend>(
    kv: Arc<Kv<B>>,
    hot: Hot,
    request: Request<Incoming>,
    max_bytes: usize,
    meter: Meter,
) -> EdgeFuture {
    let body = request.into_body();
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
    body: Incoming,
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
    let answer = match read(body, max_bytes).await.and_then(decode) {
        Ok(request) => call(request).await.map_err(|e| status(&e)),
        Err(status) => Err(status),
    };
    Ok(match answer {
        Ok(message) => {
            meter.finish(Code::Ok);
            let mut response = Response::new(EdgeBody::unary(frame(&message)));
            let grpc = HeaderValue::from_static("application/grpc");
            response.headers_mut().insert(CONTENT_TYPE, grpc);
            response
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

/// Reads the one message of a unary call and the end of the client's side.
async fn read(body: Incoming, max_bytes: usize) -> Result<Bytes, Status> {
    let mut body = body;
    let mut got = Gathered::default();
    while let Some(chunk) = next_data(&mut body).await? {
        got.push(chunk, max_bytes)?;
        if body.is_end_stream() {
            break;
        }
    }
    got.finish()
}

async fn next_data(body: &mut Incoming) -> Result<Option<Bytes>, Status> {
    loop {
        let frame = std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        match frame {
            None => return Ok(None),
            Some(Err(e)) => return Err(Status::cancelled(format!("request body: {e}"))),
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Ok(Some(data));
                }
            }
        }
    }
}

/// The bytes of a message so far. Nearly always one chunk, which is then used as it is.
#[derive(Default)]
struct Gathered {
    first: Bytes,
    rest: Option<BytesMut>,
}

impl Gathered {
    fn push(&mut self, chunk: Bytes, max_bytes: usize) -> Result<(), Status> {
        if let Some(rest) = &mut self.rest {
            rest.extend_from_slice(&chunk);
        } else if self.first.is_empty() {
            self.first = chunk;
        } else {
            let mut rest = BytesMut::with_capacity(FIRST_BUFFER_BYTES.max(chunk.len()));
            rest.extend_from_slice(&self.first);
            rest.extend_from_slice(&chunk);
            self.rest = Some(rest);
        }
        match self.declared() {
            Some(len) if len > max_bytes => Err(message_too_large(len, max_bytes)),
            Some(len) if self.bytes().len() > PREFIX_BYTES + len => Err(more_than_one()),
            _ => Ok(()),
        }
    }

    fn bytes(&self) -> &[u8] {
        self.rest.as_deref().unwrap_or(&self.first)
    }

    /// Length of the message as its prefix says.
    fn declared(&self) -> Option<usize> {
        let prefix = self.bytes().get(1..PREFIX_BYTES)?;
        Some(prefix.iter().fold(0, |n, b| (n << 8) | usize::from(*b)))
    }

    fn finish(self) -> Result<Bytes, Status> {
        let Some(len) = self.declared() else {
            return Err(Status::internal("Missing request message."));
        };
        if self.bytes().first() != Some(&0) {
            // A flag without a grpc-encoding header: grpc-go's code for it.
            return Err(Status::internal(
                "grpc: compressed flag set with identity or empty encoding",
            ));
        }
        let mut message = self.rest.map_or(self.first, BytesMut::freeze);
        if message.len() < PREFIX_BYTES + len {
            return Err(Status::internal("Unexpected EOF decoding stream."));
        }
        message.advance(PREFIX_BYTES);
        Ok(message)
    }
}

fn more_than_one() -> Status {
    Status::internal("Unexpected extra message in a unary call.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 1_000;

    fn gather(chunks: &[&[u8]]) -> Result<Bytes, Status> {
        let mut got = Gathered::default();
        for chunk in chunks {
            got.push(Bytes::copy_from_slice(chunk), MAX)?;
        }
        got.finish()
    }

    #[test]
    fn a_message_is_the_same_in_one_piece_or_byte_by_byte() {
        let whole = b"\0\0\0\0\x03abc";
        assert_eq!(gather(&[whole]).expect("whole").as_ref(), b"abc");
        let single: Vec<&[u8]> = whole.chunks(1).collect();
        assert_eq!(gather(&single).expect("pieces").as_ref(), b"abc");
        assert_eq!(gather(&[b"\0\0\0\0\0"]).expect("empty").len(), 0);
    }

    #[test]
    fn bad_framing_is_refused_with_the_right_code() {
        let table: &[(&[&[u8]], Code)] = &[
            (&[], Code::Internal),
            (&[b"\0\0"], Code::Internal),
            (&[b"\0\0\0\0\x03ab"], Code::Internal),
            (&[b"\0\0\0\0\x03abcd"], Code::Internal),
            (&[b"\x01\0\0\0\x03abc"], Code::Internal),
            (&[b"\0\0\0\x03\xe9"], Code::ResourceExhausted),
        ];
        for (chunks, code) in table {
            let got = gather(chunks).expect_err("must be refused");
            assert_eq!(got.code(), *code, "{chunks:?}: {got:?}");
        }
    }
}
