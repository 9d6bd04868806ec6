//! Answers of many pairs or events, encoded piece by piece as their callers take them.
//!
//! A range over a million keys is some hundred megabytes, which takes a good part of a second to encode in
//! one go; every other connection of the core, and the core itself, would wait for it. The same goes for the
//! events of one revision that deletes them. So such an answer is measured in steps, with a pause for the
//! others between two, and encoded a piece at a time: HTTP/2's flow control asks for the next piece when
//! there is room for it; the answers of a transaction's operations are converted one after another. Short
//! answers take the short way ([`super::unary`]).
//! Promises: the same bytes as the short way; each pair or event is let go as it is encoded. Must never know:
//! how they were found, or where the pieces go.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::task::Poll;
use std::{mem, vec};

use bytes::{BufMut, Bytes, BytesMut};
use henge_api::{Header, Reply};
use henge_mvcc::{Event, EventKind, KeyValue, ResponseOp, TxnResponse};
use pb::response_op::Response;
use prost::{Message, encode_length_delimiter, length_delimiter_len};

use super::header::header;
use super::proto::etcdserverpb as pb;
use super::translate::{self, Position};
use crate::door::body::Pieces;
use crate::door::inbound::PREFIX_BYTES;

/// Pairs of a short answer, and operations.
const SHORT_PAIRS: usize = 500;
/// Bytes of keys and values of a short answer of more than one pair.
pub(crate) const SHORT_BYTES: usize = 512 << 10;
/// The longest message etcd sends, before it is packed (its `maxSendBytes`); gRPC's format ends at twice
/// that.
pub(crate) const SEND_BYTES_MAX: usize = i32::MAX as usize;
/// Pairs measured between two pauses.
const STEP_PAIRS: usize = 2_000;
/// Bytes after which a piece ends: a fraction of a millisecond's work.
const PIECE_BYTES: usize = 64 << 10;
/// Pairs that are let go on the spot when their caller has gone.
const DROPPED_PAIRS_MAX: usize = 20_000;

/// Field numbers of rpc.proto: pairs or events in an answer, an operation's answer in a transaction's, its
/// kinds.
const RANGE_KVS: u8 = 2;
const PUT_PREV_KV: u8 = 2;
const DELETE_PREV_KVS: u8 = 3;
const TXN_RESPONSES: u8 = 3;
const WATCH_EVENTS: u8 = 11;
const LEASE_KEYS: u8 = 5;
const LEASES: u8 = 2;
const OP_RANGE: u8 = 1;
const OP_PUT: u8 = 2;
const OP_DELETE: u8 = 3;
const OP_TXN: u8 = 4;

/// Whether an answer is encoded at once.
pub(crate) fn is_short(answer: &ResponseOp) -> bool {
    let mut size = Size::default();
    size.count(answer);
    let Size { ops, pairs, bytes } = size;
    ops <= SHORT_PAIRS && (pairs <= 1 || pairs <= SHORT_PAIRS && bytes <= SHORT_BYTES)
}

/// What there is in an answer, as long as it is little.
#[derive(Default)]
struct Size {
    ops: usize,
    pairs: usize,
    bytes: usize,
}

impl Size {
    fn count(&mut self, answer: &ResponseOp) {
        let found = match answer {
            ResponseOp::Range(range) => &range.kvs[..],
            ResponseOp::Put(put) => put.prev_kv.as_slice(),
            ResponseOp::DeleteRange(delete) => &delete.prev_kvs[..],
            ResponseOp::Txn(txn) => {
                self.ops += txn.responses.len();
                if self.ops <= SHORT_PAIRS {
                    txn.responses.iter().for_each(|op| self.count(op));
                }
                return;
            }
        };
        self.pairs += found.len();
        if found.len() <= SHORT_PAIRS {
            let sizes = found.iter().map(|pair| pair.key.len() + pair.value.len());
            self.bytes += sizes.sum::<usize>();
        }
    }
}

/// The message that an answer becomes.
pub(crate) fn message(reply: Reply<ResponseOp>) -> Response {
    let Reply { header, body } = reply;
    match body {
        ResponseOp::Range(range) => {
            Response::ResponseRange(translate::range_response(header, range))
        }
        ResponseOp::Put(put) => Response::ResponsePut(translate::put_response(header, put)),
        ResponseOp::DeleteRange(delete) => {
            Response::ResponseDeleteRange(translate::delete_response(header, delete))
        }
        ResponseOp::Txn(txn) => {
            Response::ResponseTxn(translate::txn_response(Reply { header, body: *txn }))
        }
    }
}

/// An answer on its way out: a framed gRPC message.
#[derive(Debug, Default)]
pub(crate) struct LongAnswer {
    parts: VecDeque<Part>,
    /// What comes behind them, while it is put together.
    tail: BytesMut,
    /// Bytes of the message.
    len: usize,
}

/// A message that is longer than etcd sends any: of so many bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooLong(pub(crate) usize);

#[derive(Debug)]
enum Part {
    Bytes(Bytes),
    /// A repeated field of this number.
    Pairs(u8, Rest<KeyValue>),
    Events(Rest<Event>),
    Keys(Rest<Bytes>),
    Leases(Rest<i64>),
}

impl Pieces for LongAnswer {
    fn piece(&mut self) -> Option<Bytes> {
        let mut piece = BytesMut::new();
        while piece.len() < PIECE_BYTES {
            let is_through = match self.parts.front_mut() {
                None => break,
                Some(Part::Bytes(bytes)) => {
                    piece.extend_from_slice(bytes);
                    true
                }
                Some(Part::Pairs(field, pairs)) => pairs.encode(*field, &mut piece),
                Some(Part::Events(events)) => events.encode(WATCH_EVENTS, &mut piece),
                Some(Part::Keys(keys)) => keys.encode(LEASE_KEYS, &mut piece),
                Some(Part::Leases(ids)) => ids.encode(LEASES, &mut piece),
            };
            if is_through {
                self.parts.pop_front();
            }
        }
        (!piece.is_empty()).then(|| piece.freeze())
    }

    fn is_over(&self) -> bool {
        self.parts.is_empty()
    }
}

impl LongAnswer {
    /// Measures an answer, with pauses.
    pub(crate) async fn measure(reply: Reply<ResponseOp>) -> LongAnswer {
        let Reply { header, body } = reply;
        let (mut answer, mut step) = (LongAnswer::default(), 0);
        let prefix = answer.gap();
        let len = match body {
            ResponseOp::Txn(txn) => answer.add_txn(header, *txn, &mut step).await,
            body => answer.add(message_of(Reply { header, body }, &mut step).await),
        };
        answer.frame(prefix, len);
        answer
    }

    /// Events of a watcher, of these bytes as a repeated field, behind the rest of their message.
    pub(crate) fn events(message: &pb::WatchResponse, events: Rest<Event>, bytes: usize) -> Self {
        LongAnswer::framed(|answer| {
            let own = answer.bytes(message);
            answer.push(Part::Events(events));
            own + bytes
        })
    }

    /// The keys of a lease, behind the rest of their message.
    pub(crate) async fn keys(message: &pb::LeaseTimeToLiveResponse, keys: Vec<Bytes>) -> Self {
        let keys = Rest(keys.into_iter());
        let bytes = measure(keys.0.as_slice(), &mut 0).await;
        LongAnswer::framed(|answer| {
            let own = answer.bytes(message);
            answer.push(Part::Keys(keys));
            own + bytes
        })
    }

    /// The ids of leases, behind the rest of their message.
    pub(crate) async fn leases(message: &pb::LeaseLeasesResponse, ids: Vec<i64>) -> Self {
        let bytes = measure(&ids, &mut 0).await;
        LongAnswer::framed(|answer| {
            let own = answer.bytes(message);
            answer.push(Part::Leases(Rest(ids.into_iter())));
            own + bytes
        })
    }

    /// The same, if it is not longer than etcd sends any.
    pub(crate) fn checked(self) -> Result<LongAnswer, TooLong> {
        match self.len {
            bytes if bytes > SEND_BYTES_MAX => Err(TooLong(bytes)),
            _ => Ok(self),
        }
    }

    fn framed(add: impl FnOnce(&mut LongAnswer) -> usize) -> LongAnswer {
        let mut answer = LongAnswer::default();
        let prefix = answer.gap();
        let len = add(&mut answer);
        answer.frame(prefix, len);
        answer
    }

    /// Ends a message of so many bytes, which begins behind this gap.
    fn frame(&mut self, prefix: usize, len: usize) {
        self.end_tail();
        let mut framing = BytesMut::with_capacity(PREFIX_BYTES);
        framing.put_u8(0);
        // What is longer than that is refused before it is sent.
        framing.put_u32(u32::try_from(len).unwrap_or(u32::MAX));
        self.fill(prefix, framing);
        self.len = len;
    }

    /// Room for what is known later.
    fn gap(&mut self) -> usize {
        self.push(Part::Bytes(Bytes::new()));
        self.parts.len() - 1
    }

    fn fill(&mut self, gap: usize, bytes: BytesMut) {
        if let Some(part) = self.parts.get_mut(gap) {
            *part = Part::Bytes(bytes.freeze());
        }
    }

    fn push(&mut self, part: Part) {
        self.end_tail();
        self.parts.push_back(part);
    }

    fn end_tail(&mut self) {
        if !self.tail.is_empty() {
            let tail = mem::take(&mut self.tail).freeze();
            self.parts.push_back(Part::Bytes(tail));
        }
    }

    /// Adds a message; returns its length.
    fn bytes(&mut self, message: &impl Message) -> usize {
        let before = self.tail.len();
        message.encode_raw(&mut self.tail);
        let len = self.tail.len() - before;
        if self.tail.len() >= PIECE_BYTES {
            self.end_tail();
        }
        len
    }

    /// Adds a message and its pairs where they belong; returns its length.
    fn add(&mut self, listed: Listed) -> usize {
        let Listed {
            before,
            pairs: (field, pairs, bytes),
            after,
        } = listed;
        let mut len = self.add_plain(&before) + bytes;
        if bytes > 0 {
            self.push(Part::Pairs(field, pairs));
        }
        if let Some(after) = after {
            len += self.bytes(&after);
        }
        len
    }

    fn add_plain(&mut self, message: &Response) -> usize {
        match message {
            Response::ResponseRange(message) => self.bytes(message),
            Response::ResponsePut(message) => self.bytes(message),
            Response::ResponseDeleteRange(message) => self.bytes(message),
            Response::ResponseTxn(message) => self.bytes(message),
        }
    }

    /// Adds a transaction's answers, one after another; returns its length.
    async fn add_txn(&mut self, header: Header, txn: TxnResponse, step: &mut usize) -> usize {
        let mut at = Position::before(header, &txn);
        let mut around = vec![self.open_txn(header, txn)];
        let mut len = 0;
        while let Some(innermost) = around.last_mut() {
            innermost.len += mem::take(&mut len);
            *step += 1;
            if *step >= STEP_PAIRS {
                *step = 0;
                pause().await;
            }
            match innermost.ops.next() {
                None => {
                    let ended = innermost.len;
                    let gap = innermost.gap;
                    around.pop();
                    if around.is_empty() {
                        return ended;
                    }
                    let lengths = lengths(OP_TXN, ended);
                    len = lengths.len() + ended;
                    self.fill(gap, lengths);
                }
                Some(ResponseOp::Txn(txn)) => {
                    let gap = self.gap();
                    let opened = self.open_txn(Header::default(), *txn);
                    around.push(Around { gap, ..opened });
                }
                Some(body) => {
                    let header = at.pass(&body);
                    let listed = message_of(Reply { header, body }, step).await;
                    let (field, own) = (listed.op(), listed.len());
                    let lengths = lengths(field, own);
                    self.tail.extend_from_slice(&lengths);
                    len = lengths.len() + self.add(listed);
                }
            }
        }
        len
    }

    fn open_txn(&mut self, of: Header, txn: TxnResponse) -> Around {
        let own = pb::TxnResponse {
            header: header(of),
            succeeded: txn.succeeded,
            responses: Vec::new(),
        };
        Around {
            gap: 0,
            len: self.bytes(&own),
            ops: Rest::new(txn.responses),
        }
    }
}

/// A transaction whose answers are being added.
struct Around {
    /// Where its length belongs.
    gap: usize,
    len: usize,
    ops: Rest<ResponseOp>,
}

/// The message of an operation that is no transaction, and its pairs.
struct Listed {
    before: Response,
    /// The number of their field, and their bytes in it.
    pairs: (u8, Rest<KeyValue>, usize),
    after: Option<pb::RangeResponse>,
}

impl Listed {
    /// Number of the field that it is in a transaction's answer.
    fn op(&self) -> u8 {
        match self.before {
            Response::ResponseRange(_) => OP_RANGE,
            Response::ResponsePut(_) => OP_PUT,
            Response::ResponseDeleteRange(_) => OP_DELETE,
            Response::ResponseTxn(_) => OP_TXN,
        }
    }

    fn len(&self) -> usize {
        let before = match &self.before {
            Response::ResponseRange(message) => message.encoded_len(),
            Response::ResponsePut(message) => message.encoded_len(),
            Response::ResponseDeleteRange(message) => message.encoded_len(),
            Response::ResponseTxn(message) => message.encoded_len(),
        };
        before + self.pairs.2 + self.after.as_ref().map_or(0, Message::encoded_len)
    }
}

/// Takes the pairs out of an answer, and measures them with pauses.
async fn message_of(mut reply: Reply<ResponseOp>, step: &mut usize) -> Listed {
    let (field, pairs) = match &mut reply.body {
        ResponseOp::Range(range) => (RANGE_KVS, mem::take(&mut range.kvs)),
        ResponseOp::Put(put) => (PUT_PREV_KV, put.prev_kv.take().into_iter().collect()),
        ResponseOp::DeleteRange(delete) => (DELETE_PREV_KVS, mem::take(&mut delete.prev_kvs)),
        ResponseOp::Txn(_) => (TXN_RESPONSES, Vec::new()),
    };
    let pairs = Rest::new(pairs);
    let bytes = measure(pairs.as_slice(), step).await;
    let (before, after) = match message(reply) {
        // Its other fields come behind its pairs.
        Response::ResponseRange(mut range) => {
            let header = range.header.take();
            let before = pb::RangeResponse {
                header,
                ..Default::default()
            };
            (Response::ResponseRange(before), Some(range))
        }
        other => (other, None),
    };
    Listed {
        before,
        pairs: (field, pairs, bytes),
        after,
    }
}

/// What comes in front of an operation's message of so many bytes in a transaction's answer.
fn lengths(field: u8, bytes: usize) -> BytesMut {
    let mut lengths = BytesMut::new();
    put_key(TXN_RESPONSES, field_len(bytes), &mut lengths);
    put_key(field, bytes, &mut lengths);
    lengths
}

/// What is left of a list. Letting go of very many takes as long as reading them, and their caller is gone,
/// so another thread does.
#[derive(Debug)]
pub(crate) struct Rest<T: Send + 'static>(vec::IntoIter<T>);

impl<T: Send> Rest<T> {
    pub(crate) fn new(list: Vec<T>) -> Rest<T> {
        Rest(list.into_iter())
    }

    pub(crate) fn as_slice(&self) -> &[T] {
        self.0.as_slice()
    }

    pub(crate) fn next(&mut self) -> Option<T> {
        self.0.next()
    }
}

impl<T: Send> Default for Rest<T> {
    fn default() -> Self {
        Rest(vec::IntoIter::default())
    }
}

impl<T: Field> Rest<T> {
    /// Adds what a piece has room for; whether that was all.
    fn encode(&mut self, field: u8, piece: &mut BytesMut) -> bool {
        piece.reserve(PIECE_BYTES);
        while piece.len() < PIECE_BYTES
            && let Some(next) = self.0.next()
        {
            let bytes = next.bytes();
            piece.reserve(1 + length_delimiter_len(bytes) + bytes);
            put_key(field, bytes, piece);
            next.put(piece);
        }
        self.0.len() == 0
    }
}

impl<T: Send> Drop for Rest<T> {
    fn drop(&mut self) {
        if self.0.len() > DROPPED_PAIRS_MAX {
            let left = mem::take(&mut self.0);
            let thread = std::thread::Builder::new().name("henge-drop".to_owned());
            // Where there can be no thread, the closure drops them here.
            drop(thread.spawn(move || drop(left)));
        }
    }
}

/// Bytes of messages as a repeated field, with a pause for each [`STEP_PAIRS`] of them, which `step` counts.
pub(crate) async fn measure<T: Field>(list: &[T], step: &mut usize) -> usize {
    let mut bytes = 0;
    for group in list.chunks(STEP_PAIRS) {
        let fields = group.iter().map(|field| field_len(field.bytes()));
        bytes += fields.sum::<usize>();
        *step += group.len();
        if *step >= STEP_PAIRS {
            *step = 0;
            pause().await;
        }
    }
    bytes
}

/// Bytes of a message with its key and length.
pub(crate) fn field_len(bytes: usize) -> usize {
    1 + length_delimiter_len(bytes) + bytes
}

/// The others of this thread have their turn.
async fn pause() {
    let mut paused = false;
    poll_fn(|cx| {
        if mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

/// Number and wire type of a field that is a message, and its length. All have numbers below 16.
fn put_key(field: u8, bytes: usize, out: &mut BytesMut) {
    out.put_u8(field << 3 | 2);
    // A buffer that grows takes it.
    let _ = encode_length_delimiter(bytes, out);
}

/// What comes in lists.
pub(crate) trait Field: Send + 'static {
    /// Bytes of its message.
    fn bytes(&self) -> usize;

    fn put(self, out: &mut BytesMut);
}

impl Field for KeyValue {
    fn bytes(&self) -> usize {
        let bytes = |bytes: &Bytes| match bytes.len() {
            0 => 0,
            len => field_len(len),
        };
        let number = |n: i64| match n {
            0 => 0,
            n => 1 + length_delimiter_len(n as usize),
        };
        bytes(&self.key)
            + number(self.create_revision)
            + number(self.mod_revision)
            + number(self.version)
            + bytes(&self.value)
            + number(self.lease)
    }

    fn put(self, out: &mut BytesMut) {
        translate::key_value(self).encode_raw(out);
    }
}

impl Field for Event {
    fn bytes(&self) -> usize {
        let kind = match self.kind {
            EventKind::Put => 0,
            EventKind::Delete => 2,
        };
        let before = self.prev_kv.as_ref();
        kind + field_len(self.kv.bytes()) + before.map_or(0, |pair| field_len(pair.bytes()))
    }

    fn put(self, out: &mut BytesMut) {
        translate::event(self).encode_raw(out);
    }
}

/// A key of a lease.
impl Field for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }

    fn put(self, out: &mut BytesMut) {
        out.extend_from_slice(&self);
    }
}

/// A lease's id, as the message LeaseStatus.
impl Field for i64 {
    fn bytes(&self) -> usize {
        match *self {
            0 => 0,
            id => 1 + length_delimiter_len(id as usize),
        }
    }

    fn put(self, out: &mut BytesMut) {
        pb::LeaseStatus { id: self }.encode_raw(out);
    }
}

#[cfg(test)]
mod tests;
