//! A call's request body as messages: framing, limits and compression with grpc-go's words for what is
//! wrong (`rpc_util.go`: `recvMsg`, `checkRecvPayload`).
//!
//! The thin layer takes the one message of a unary call from here; tonic's services get a body of
//! messages that are whole, plain and within the limits, so that both paths and all services behave
//! alike. A call that has one request ends with it: what comes after is not looked at, and the client
//! need not say that it is done. Must never know: what a message says.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tonic::Status;

use super::gate::Encoding;
use super::gzip;
use crate::counters::Messages;

/// Bytes before every gRPC message: compressed flag and length.
pub(crate) const PREFIX_BYTES: usize = 5;

/// Bytes set aside at once for a message that arrives in pieces; more only as it really arrives,
/// so that a length alone costs no memory.
const FIRST_BUFFER_BYTES: usize = 64 * 1024;

/// What has arrived of a call's messages. Nearly always one chunk, which is then used as it is.
#[derive(Debug)]
pub(crate) struct Gathered {
    encoding: Encoding,
    max_bytes: usize,
    first: Bytes,
    rest: Option<BytesMut>,
}

impl Gathered {
    pub(crate) fn new(encoding: Encoding, max_bytes: usize) -> Gathered {
        Gathered {
            encoding,
            max_bytes,
            first: Bytes::new(),
            rest: None,
        }
    }

    pub(crate) fn push(&mut self, chunk: Bytes) {
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
    }

    /// The next message, unpacked, if it is whole.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, Status> {
        let Some(&[flag, len @ ..]) = self.bytes().first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(len) as usize;
        if len > self.max_bytes {
            return Err(message_too_large(len, self.max_bytes));
        }
        if self.bytes().len() < PREFIX_BYTES + len {
            return Ok(None);
        }
        let mut message = self.take(PREFIX_BYTES + len);
        message.advance(PREFIX_BYTES);
        match (flag, self.encoding) {
            (0, _) => Ok(Some(message)),
            (1, Encoding::Gzip) => gzip::unpack(&message, self.max_bytes).map(Some),
            (1, Encoding::Identity) => Err(Status::internal(
                "grpc: compressed flag set with identity or empty encoding",
            )),
            (flag, _) => Err(Status::internal(format!(
                "grpc: received unexpected payload format {flag}"
            ))),
        }
    }

    /// What is wrong when the client is done and the next message is not there.
    pub(crate) fn cut_off(&self) -> Status {
        // Go's io.EOF and io.ErrUnexpectedEOF, which have no code of their own.
        Status::unknown(if self.bytes().is_empty() {
            "EOF"
        } else {
            "unexpected EOF"
        })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes().is_empty()
    }

    fn bytes(&self) -> &[u8] {
        self.rest.as_deref().unwrap_or(&self.first)
    }

    fn take(&mut self, bytes: usize) -> Bytes {
        match &mut self.rest {
            None => self.first.split_to(bytes),
            Some(rest) => {
                let taken = rest.split_to(bytes).freeze();
                if rest.is_empty() {
                    // The next message may again be one chunk.
                    (self.first, self.rest) = (Bytes::new(), None);
                }
                taken
            }
        }
    }
}

/// Reads the one message of a unary call.
pub(crate) async fn read_one(
    mut body: Incoming,
    encoding: Encoding,
    max_bytes: usize,
) -> Result<Bytes, Status> {
    let mut got = Gathered::new(encoding, max_bytes);
    loop {
        let chunk = std::future::poll_fn(|cx| poll_data(&mut body, cx)).await?;
        let Some(chunk) = chunk else {
            return Err(got.cut_off());
        };
        got.push(chunk);
        if let Some(message) = got.next()? {
            return Ok(message);
        }
    }
}

/// The next bytes of a body, or None at its end.
fn poll_data(body: &mut Incoming, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
    loop {
        match ready!(Pin::new(&mut *body).poll_frame(cx)) {
            None => return Poll::Ready(Ok(None)),
            Some(Err(e)) => {
                return Poll::Ready(Err(Status::cancelled(format!("request body: {e}"))));
            }
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    return Poll::Ready(Ok(Some(data)));
                }
            }
        }
    }
}

/// A request body for tonic: plain, whole messages.
#[derive(Debug)]
pub(crate) struct Inbound {
    /// None once nothing more is wanted of it.
    body: Option<Incoming>,
    got: Gathered,
    /// The call has one request.
    single: bool,
    messages: Messages,
}

impl Inbound {
    /// Of a call with one request (`single`), or a stream of them.
    pub(crate) fn new(
        body: Incoming,
        encoding: Encoding,
        max_bytes: usize,
        single: bool,
        messages: Messages,
    ) -> Inbound {
        Inbound {
            body: Some(body),
            got: Gathered::new(encoding, max_bytes),
            single,
            messages,
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        loop {
            if let Some(message) = self.got.next()? {
                return Poll::Ready(Ok(Some(message)));
            }
            let Some(body) = &mut self.body else {
                return Poll::Ready(Ok(None));
            };
            match ready!(poll_data(body, cx))? {
                Some(chunk) => self.got.push(chunk),
                None if self.single || !self.got.is_empty() => {
                    return Poll::Ready(Err(self.got.cut_off()));
                }
                None => self.body = None,
            }
        }
    }
}

impl Body for Inbound {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.body.is_none() {
            return Poll::Ready(None);
        }
        let message = match ready!(this.poll_message(cx)) {
            Ok(Some(message)) => message,
            Ok(None) => return Poll::Ready(None),
            Err(status) => {
                this.body = None;
                return Poll::Ready(Some(Err(status)));
            }
        };
        this.messages.received(message.len());
        if this.single {
            this.body = None;
        }
        let mut framed = BytesMut::with_capacity(PREFIX_BYTES + message.len());
        framed.put_u8(0);
        // It was no longer than the limit.
        framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
        framed.extend_from_slice(&message);
        Poll::Ready(Some(Ok(Frame::data(framed.freeze()))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_none()
    }
}

/// What grpc-go answers when a message is longer than the server's receive limit.
fn message_too_large(found: usize, limit: usize) -> Status {
    Status::resource_exhausted(format!(
        "grpc: received message larger than max ({found} vs. {limit})"
    ))
}

#[cfg(test)]
mod tests {
    use tonic::Code;

    use super::*;

    const MAX: usize = 1_000;

    fn gather(chunks: &[&[u8]]) -> Result<Bytes, Status> {
        let mut got = Gathered::new(Encoding::Identity, MAX);
        for chunk in chunks {
            got.push(Bytes::copy_from_slice(chunk));
            if let Some(message) = got.next()? {
                return Ok(message);
            }
        }
        Err(got.cut_off())
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
    fn messages_in_a_row_come_one_by_one_however_they_are_cut() {
        let row: Vec<u8> = (0..9_u8)
            .flat_map(|n| [&[0, 0, 0, 0, n][..], &vec![n; usize::from(n)]].concat())
            .collect();
        for size in 1..row.len() {
            let mut got = Gathered::new(Encoding::Identity, MAX);
            let mut lengths = Vec::new();
            for chunk in row.chunks(size) {
                got.push(Bytes::copy_from_slice(chunk));
                while let Some(message) = got.next().expect("well formed") {
                    lengths.push(message.len());
                }
            }
            assert_eq!(lengths, (0..9).collect::<Vec<_>>(), "chunks of {size}");
            assert!(got.is_empty());
        }
    }

    #[test]
    fn bad_framing_is_refused_with_grpc_gos_code_and_text() {
        let table: &[(&[&[u8]], Code, &str)] = &[
            (&[], Code::Unknown, "EOF"),
            (&[b"\0\0"], Code::Unknown, "unexpected EOF"),
            (&[b"\0\0\0\0\x03ab"], Code::Unknown, "unexpected EOF"),
            (
                &[b"\x01\0\0\0\x03abc"],
                Code::Internal,
                "grpc: compressed flag set with identity or empty encoding",
            ),
            (
                &[b"\x02\0\0\0\x03abc"],
                Code::Internal,
                "grpc: received unexpected payload format 2",
            ),
            (
                &[b"\0\0\0\x03\xe9"],
                Code::ResourceExhausted,
                "grpc: received message larger than max (1001 vs. 1000)",
            ),
        ];
        for (chunks, code, text) in table {
            let got = gather(chunks).expect_err("must be refused");
            assert_eq!((got.code(), got.message()), (*code, *text), "{chunks:?}");
        }
        // What comes after the first is not looked at.
        assert!(gather(&[b"\0\0\0\0\x03abcd"]).is_ok());
    }
}
