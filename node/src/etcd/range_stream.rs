//! `KV.RangeStream` (etcd 3.7): a Range answered in chunks, so that no side ever holds it whole.
//!
//! Promises etcd's contract: all chunks are read at one revision, pinned by the first; header,
//! `more` and `count` come with the last message only; merging all messages gives exactly the
//! answer of the unary Range. Each chunk is an ordinary limited Range of the engine; an answer in another
//! order than the keys' is read at once, as it is for the unary Range.

use std::iter::Peekable;
use std::vec;

use bytes::{BufMut, Bytes, BytesMut};
use henge_mvcc as mvcc;
use henge_mvcc::KeyValue;
use prost::Message;
use tonic::Status;

use super::errors::status;
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::streams::{Answers, unfold};
use super::translate;
use crate::api::{Backend, Error, Header};

/// Keys in the first chunk (etcd's choice).
const FIRST_CHUNK_KEYS: i64 = 10;
/// Bytes that a chunk aims at, at the most: it is encoded in one go.
const CHUNK_BYTES_MAX: usize = 2 << 20;
/// Bytes of a pair beside key and value, about.
const PAIR_BYTES_BESIDE: usize = 32;

/// Checks `req` and starts its stream. `max_request_bytes` steers the chunk size, as in etcd.
pub(crate) fn start<B: Backend>(
    backend: B,
    req: pb::RangeRequest,
    max_request_bytes: usize,
) -> Result<Answers<pb::RangeStreamResponse>, Status> {
    let max_request_bytes = max_request_bytes.min(CHUNK_BYTES_MAX);
    let t = translate::range(&req);
    mvcc::check::range(&t.request, &mvcc::check::Limits::default())
        .map_err(|e| status(&Error::Invalid(e)))?;
    if let Some(e) = t.late {
        return Err(status(&Error::Invalid(e)));
    }
    let filters = [
        req.min_mod_revision,
        req.max_mod_revision,
        req.min_create_revision,
        req.max_create_revision,
    ];
    if filters.iter().any(|f| *f != 0) {
        return Err(Status::unimplemented(
            "RangeStream does not support revision filters",
        ));
    }
    if needs_sorting(&req) {
        let whole = Whole {
            backend,
            req,
            max_bytes: max_request_bytes,
            left: None,
        };
        return Ok(unfold(whole, |whole| whole.step()));
    }
    let walk = Walk {
        backend,
        left: req.limit,
        limited: req.limit > 0,
        chunk: FIRST_CHUNK_KEYS,
        max_request_bytes,
        first: None,
        finished: false,
        req,
    };
    Ok(unfold(walk, |walk| walk.step()))
}

/// Whether the keys' own order, in which chunks can be read one after another, is not what is wanted.
fn needs_sorting(req: &pb::RangeRequest) -> bool {
    use pb::range_request::{SortOrder, SortTarget};
    req.sort_target != SortTarget::Key as i32 || req.sort_order == SortOrder::Descend as i32
}

/// A stream in another order: only who has read everything knows what comes first, so it is read as the
/// unary Range is, and sent in pieces.
struct Whole<B> {
    backend: B,
    req: pb::RangeRequest,
    /// Bytes of keys and values per message, but for a larger pair.
    max_bytes: usize,
    /// What was not sent yet, once it was read; empty when all was.
    left: Option<Left>,
}

/// What was read and not sent. Each piece is converted as it goes: a million pairs at once would stop the core.
struct Left {
    /// Header, count, and whether there is more: they come with the last piece.
    end: (Header, i64, bool),
    pairs: Peekable<vec::IntoIter<KeyValue>>,
    is_sent: bool,
}

impl Left {
    fn piece(&mut self, max_bytes: usize) -> pb::RangeResponse {
        let (mut piece, mut bytes) = (pb::RangeResponse::default(), 0);
        while let Some(pair) = self.pairs.peek() {
            bytes += pair.key.len() + pair.value.len() + PAIR_BYTES_BESIDE;
            if bytes > max_bytes && !piece.kvs.is_empty() {
                return piece;
            }
            piece
                .kvs
                .extend(self.pairs.next().map(translate::key_value));
        }
        let (found, count, more) = self.end;
        self.is_sent = true;
        (piece.header, piece.count, piece.more) = (header(found), count, more);
        piece
    }
}

impl<B: Backend> Whole<B> {
    async fn step(mut self) -> Option<(Result<pb::RangeStreamResponse, Status>, Whole<B>)> {
        let mut left = match self.left.take() {
            Some(left) if left.is_sent => return None,
            Some(left) => left,
            None => match self.read().await {
                Ok(left) => left,
                Err(e) => return Some((Err(status(&e)), self)),
            },
        };
        let answer = pb::RangeStreamResponse {
            range_response: Some(left.piece(self.max_bytes)),
        };
        self.left = Some(left);
        Some((Ok(answer), self))
    }

    async fn read(&mut self) -> Result<Left, Error> {
        let call = {
            let t = translate::range(&self.req);
            self.backend.range(&t.request, self.req.serializable)
        };
        let reply = call.await?;
        Ok(Left {
            end: (reply.header, reply.body.count, reply.body.more),
            pairs: reply.body.kvs.into_iter().peekable(),
            is_sent: false,
        })
    }
}

/// Where a stream is.
struct Walk<B> {
    backend: B,
    /// What is still to be read: key and revision move with every chunk.
    req: pb::RangeRequest,
    limited: bool,
    /// Keys the caller may still get, if `limited`.
    left: i64,
    /// Keys to ask for next.
    chunk: i64,
    max_request_bytes: usize,
    /// Header and count of the first chunk: they hold for the whole.
    first: Option<(Header, i64)>,
    finished: bool,
}

impl<B: Backend> Walk<B> {
    async fn step(mut self) -> Option<(Result<pb::RangeStreamResponse, Status>, Walk<B>)> {
        if self.finished {
            return None;
        }
        let answer = self.chunk().await.map_err(|e| status(&e));
        Some((answer, self))
    }

    async fn chunk(&mut self) -> Result<pb::RangeStreamResponse, Error> {
        self.req.limit = if self.limited {
            self.chunk.min(self.left)
        } else {
            self.chunk
        };
        let call = {
            let t = translate::range(&self.req);
            self.backend.range(&t.request, self.req.serializable)
        };
        let reply = call.await?;
        let (pinned, count) = *self.first.get_or_insert((reply.header, reply.body.count));
        if self.req.revision <= 0 {
            self.req.revision = pinned.revision;
        }
        let (more, keys) = (reply.body.more, reply.body.kvs.len());
        let last_key = reply.body.kvs.last().map(|kv| kv.key.clone());
        let mut response = translate::range_response(reply.header, reply.body);
        response.header = None;
        response.more = false;
        response.count = 0;
        self.left -= i64::try_from(keys).unwrap_or(i64::MAX);
        match last_key {
            Some(key) if more && !(self.limited && self.left <= 0) => self.advance(&key, &response),
            _ => {
                response.header = header(pinned);
                response.more = more;
                response.count = count;
                self.finished = true;
            }
        }
        Ok(pb::RangeStreamResponse {
            range_response: Some(response),
        })
    }

    /// Continues behind `key`; chunks aim at half to twice the largest request.
    fn advance(&mut self, key: &Bytes, sent: &pb::RangeResponse) {
        let mut next = BytesMut::with_capacity(key.len() + 1);
        next.extend_from_slice(key);
        next.put_u8(0);
        self.req.key = next.freeze();
        let bytes = sent.encoded_len();
        if bytes < self.max_request_bytes / 2 {
            self.chunk = self.chunk.saturating_mul(2);
        } else if bytes > self.max_request_bytes.saturating_mul(2) {
            self.chunk = (self.chunk / 2).max(1);
        }
    }
}
