//! `KV.RangeStream` (etcd 3.7): a Range answered in chunks, so that no side ever holds it whole.
//!
//! Promises etcd's contract: all chunks are read at one revision, pinned by the first; header,
//! `more` and `count` come with the last message only; merging all messages gives exactly the
//! answer of the unary Range. Each chunk is an ordinary limited Range of the engine; an answer in another
//! order than the keys' is read at once, as it is for the unary Range.

use bytes::{BufMut, Bytes, BytesMut};
use henge_api::{Backend, Error, Header};
use henge_mvcc as mvcc;
use henge_mvcc::KeyValue;
use tonic::Status;

use super::errors::status;
use super::header::header;
use super::long_answer::Rest;
use super::proto::etcdserverpb as pb;
use super::streams::{Answers, unfold};
use super::translate;

/// Keys in the first chunk (etcd's choice).
const FIRST_CHUNK_KEYS: i64 = 10;
/// Keys in a chunk, at the most; it ends before where they are large.
const CHUNK_KEYS_MAX: i64 = 4_096;
/// Bytes that a chunk aims at, and a message has but for a larger pair, at the most: that is encoded in one
/// go.
const CHUNK_BYTES_MAX: usize = 2 << 20;
/// Bytes of a pair beside key and value, about.
const PAIR_BYTES_BESIDE: usize = 32;

/// Checks `req` and starts its stream. `max_request_bytes` steers the chunk size, as in etcd.
pub(crate) fn start<B: Backend>(
    backend: B,
    req: pb::RangeRequest,
    max_request_bytes: usize,
) -> Result<Answers<pb::RangeStreamResponse>, Status> {
    let max_bytes = max_request_bytes.min(CHUNK_BYTES_MAX);
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
            max_bytes,
            left: None,
        };
        return Ok(unfold(whole, |whole| whole.step()));
    }
    let walk = Walk {
        backend,
        left: req.limit,
        limited: req.limit > 0,
        chunk: FIRST_CHUNK_KEYS,
        max_bytes,
        first: None,
        sending: None,
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

/// What was read and not sent. Each piece is converted as it goes: a million pairs at once would stop the
/// core.
struct Left {
    /// Header, count, and whether there is more: they come with the last piece, unless others follow.
    end: Option<(Header, i64, bool)>,
    pairs: Rest<KeyValue>,
    is_sent: bool,
}

impl Left {
    fn answer(&mut self, max_bytes: usize) -> pb::RangeStreamResponse {
        pb::RangeStreamResponse {
            range_response: Some(self.piece(max_bytes)),
        }
    }

    fn piece(&mut self, max_bytes: usize) -> pb::RangeResponse {
        let (mut piece, mut size) = (pb::RangeResponse::default(), 0);
        while let Some(pair) = self.pairs.as_slice().first() {
            size += bytes(pair);
            if size > max_bytes && !piece.kvs.is_empty() {
                return piece;
            }
            piece
                .kvs
                .extend(self.pairs.next().map(translate::key_value));
        }
        self.is_sent = true;
        if let Some((found, count, more)) = self.end {
            (piece.header, piece.count, piece.more) = (header(found), count, more);
        }
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
        let answer = left.answer(self.max_bytes);
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
            end: Some((reply.header, reply.body.count, reply.body.more)),
            pairs: Rest::new(reply.body.kvs),
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
    max_bytes: usize,
    /// Header and count of the first chunk: they hold for the whole.
    first: Option<(Header, i64)>,
    /// The chunk that was read last.
    sending: Option<Left>,
}

impl<B: Backend> Walk<B> {
    async fn step(mut self) -> Option<(Result<pb::RangeStreamResponse, Status>, Walk<B>)> {
        let mut sending = match self.sending.take() {
            Some(Left {
                is_sent: true,
                end: Some(_),
                ..
            }) => return None,
            Some(sending) if !sending.is_sent => sending,
            _ => match self.read().await {
                Ok(chunk) => chunk,
                Err(e) => return Some((Err(status(&e)), self)),
            },
        };
        let answer = sending.answer(self.max_bytes);
        self.sending = Some(sending);
        Some((Ok(answer), self))
    }

    /// The next chunk.
    async fn read(&mut self) -> Result<Left, Error> {
        self.req.limit = if self.limited {
            self.chunk.min(self.left)
        } else {
            self.chunk
        };
        let call = {
            let mut t = translate::range(&self.req);
            // The first says how many there are in all, of which no other is asked.
            t.request.may_end_early = self.first.is_some();
            self.backend.range(&t.request, self.req.serializable)
        };
        let reply = call.await?;
        let (pinned, count) = *self.first.get_or_insert((reply.header, reply.body.count));
        if self.req.revision <= 0 {
            self.req.revision = pinned.revision;
        }
        let (more, pairs) = (reply.body.more, reply.body.kvs);
        self.left -= i64::try_from(pairs.len()).unwrap_or(i64::MAX);
        let goes_on = more && !(self.limited && self.left <= 0);
        let last = pairs.last().filter(|_| goes_on).map(|kv| kv.key.clone());
        let end = match last {
            Some(key) => {
                self.advance(&key, pairs.iter().map(bytes).sum());
                None
            }
            None => Some((pinned, count, more)),
        };
        Ok(Left {
            end,
            pairs: Rest::new(pairs),
            is_sent: false,
        })
    }

    /// Continues behind `key`; chunks aim at half to twice the largest request.
    fn advance(&mut self, key: &Bytes, bytes: usize) {
        let mut next = BytesMut::with_capacity(key.len() + 1);
        next.extend_from_slice(key);
        next.put_u8(0);
        self.req.key = next.freeze();
        if bytes < self.max_bytes / 2 {
            self.chunk = self.chunk.saturating_mul(2).min(CHUNK_KEYS_MAX);
        } else if bytes > self.max_bytes.saturating_mul(2) {
            // At once: after many small pairs a chunk of large ones is longer by far.
            let times = i64::try_from(bytes / self.max_bytes.max(1)).unwrap_or(i64::MAX);
            self.chunk = (self.chunk / times.max(2)).max(1);
        }
    }
}

/// Bytes of a pair, about.
fn bytes(pair: &KeyValue) -> usize {
    pair.key.len() + pair.value.len() + PAIR_BYTES_BESIDE
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(count: usize, value: usize) -> Vec<KeyValue> {
        let pair = KeyValue {
            key: "key".into(),
            value: vec![7; value].into(),
            ..KeyValue::default()
        };
        vec![pair; count]
    }

    /// A chunk was converted and encoded in one go, whatever it had come to after chunks of small pairs.
    #[test]
    fn regression_a_chunk_of_large_pairs_goes_out_in_pieces() {
        let mut chunk = Left {
            end: None,
            pairs: Rest::new(pairs(4_000, 10_000)),
            is_sent: false,
        };
        let mut found = 0;
        while !chunk.is_sent {
            let answer = chunk.answer(1 << 20).range_response.expect("a response");
            let sizes = answer.kvs.iter().map(|kv| kv.value.len());
            assert!(sizes.sum::<usize>() <= 1 << 20);
            assert!(answer.header.is_none() && answer.count == 0 && !answer.more);
            found += answer.kvs.len();
        }
        assert_eq!(found, 4_000);
    }
}
