//! The one response body of the edge: a unary gRPC answer, a watch's answers, tonic's body, or plain bytes.
//!
//! A unary answer is one DATA frame and the trailers `grpc-status: 0`, without a box or a stream
//! machine; that is a good part of what the thin layer saves. A long one comes in pieces. The answer to a
//! caller who packs its messages is packed here, whatever made it.
//! Must never know: what an answer says; whoever answers writes it ([`Pieces`], [`Written`]).

use std::convert::Infallible;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, Response};
use http_body::{Body, Frame, SizeHint};
use tonic::{Code, Status};

use super::gate::Encoding;
use super::gzip::Packer;
use super::outgoing::Outgoing;
use crate::counters::{Call, Messages, Meter};

/// The future of one request.
pub type EdgeFuture = Pin<Box<dyn Future<Output = Result<Response<EdgeBody>, Infallible>> + Send>>;

/// A framed message that is written a piece at a time, as there is room for it.
pub(crate) trait Pieces: fmt::Debug + Send {
    /// The next piece; `None` at the end.
    fn piece(&mut self) -> Option<Bytes>;

    /// Whether there is no other.
    fn is_over(&self) -> bool;
}

/// An answer of a stream: written, or to come in pieces; or why the stream ends.
pub(crate) type Next = Result<Option<Box<dyn Pieces>>, Status>;

/// A stream of answers that write themselves.
pub(crate) trait Written: Send {
    /// Writes the next answer behind `out`, framed; a long one comes in pieces instead.
    fn poll_next(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Option<Next>>;
}

/// Bytes of small answers of a stream after which they go out.
const TOGETHER_BYTES: usize = 32 << 10;
/// Bytes of a piece that counts as an answer under way until the socket has taken it. A smaller one waits for
/// nobody but a client that does not read at all.
const KEPT_BYTES: usize = 4 << 10;

/// A response body.
#[derive(Debug)]
pub struct EdgeBody {
    kind: Kind,
    meter: Option<Meter>,
    /// Counts its messages.
    outgoing: Option<Outgoing>,
    /// Packs its messages, if the caller's were packed.
    packer: Option<Box<Packer>>,
    /// Its call is under way until the last of it has left.
    call: Option<Call>,
    /// The thread was others' since the last slice of packing.
    rested: bool,
}

/// Bytes that wait for the socket's room.
struct Kept {
    bytes: Bytes,
    /// Under way for as long.
    _call: Call,
}

impl AsRef<[u8]> for Kept {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

#[derive(Debug)]
enum Kind {
    Empty,
    Plain(Option<Bytes>),
    Unary {
        message: Option<Bytes>,
        trailers: bool,
    },
    Long {
        answer: Box<dyn Pieces>,
        trailers: bool,
    },
    Watch(Watching),
    Tonic(tonic::body::Body),
}

/// A stream of answers.
struct Watching {
    answers: Box<dyn Written>,
    /// The answer that is going out.
    long: Option<Box<dyn Pieces>>,
    /// It ended like this, which is still to be said.
    ended: Option<Status>,
    is_over: bool,
}

impl fmt::Debug for Watching {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watching")
    }
}

impl EdgeBody {
    /// Bytes of a known length, for plain HTTP.
    pub(crate) fn plain(bytes: impl Into<Bytes>) -> EdgeBody {
        EdgeBody {
            kind: Kind::Plain(Some(bytes.into())),
            ..EdgeBody::default()
        }
    }

    /// A successful unary answer: one framed message, then `grpc-status: 0`.
    pub(crate) fn unary(framed: Bytes) -> EdgeBody {
        EdgeBody {
            kind: Kind::Unary {
                message: Some(framed),
                trailers: true,
            },
            ..EdgeBody::default()
        }
    }

    /// The same in pieces.
    pub(crate) fn long(answer: impl Pieces + 'static) -> EdgeBody {
        EdgeBody {
            kind: Kind::Long {
                answer: Box::new(answer),
                trailers: true,
            },
            ..EdgeBody::default()
        }
    }

    /// A stream of answers, whose end `meter` learns.
    pub(crate) fn answers(answers: impl Written + 'static, mut meter: Meter) -> EdgeBody {
        EdgeBody {
            kind: Kind::Watch(Watching {
                answers: Box::new(answers),
                long: None,
                ended: None,
                is_over: false,
            }),
            outgoing: Some(Outgoing::new(meter.messages().clone())),
            call: meter.take_call(),
            meter: Some(meter),
            ..EdgeBody::default()
        }
    }

    /// What a tonic service answered; `meter` learns the status from its trailers.
    pub(crate) fn tonic(body: tonic::body::Body, mut meter: Option<Meter>) -> EdgeBody {
        EdgeBody {
            kind: Kind::Tonic(body),
            outgoing: meter.as_ref().map(|m| Outgoing::new(m.messages().clone())),
            call: meter.as_mut().and_then(Meter::take_call),
            meter,
            ..EdgeBody::default()
        }
    }

    /// The same, its messages counted as they go out; `call` is under way until they have left.
    pub(crate) fn counted(self, messages: Messages, call: Option<Call>) -> EdgeBody {
        EdgeBody {
            outgoing: Some(Outgoing::new(messages)),
            call,
            ..self
        }
    }

    /// A successful gRPC answer with its messages in gzip.
    pub(crate) fn packed(response: Response<EdgeBody>) -> Response<EdgeBody> {
        let mut response = response.map(|body| EdgeBody {
            packer: Some(Box::default()),
            ..body
        });
        let gzip = HeaderValue::from_static("gzip");
        response.headers_mut().insert("grpc-encoding", gzip);
        response
    }
}

impl Default for EdgeBody {
    fn default() -> EdgeBody {
        EdgeBody {
            kind: Kind::Empty,
            meter: None,
            outgoing: None,
            packer: None,
            call: None,
            rested: true,
        }
    }
}

impl Body for EdgeBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if let Some(packer) = &mut this.packer {
                if let Some(packed) = packer.take() {
                    return Poll::Ready(Some(Ok(Frame::data(this.kept(packed)))));
                }
                if packer.is_busy() {
                    // Others of this core have their turn between two slices, whatever came of the last one.
                    if !std::mem::replace(&mut this.rested, true) {
                        cx.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    packer.work();
                    this.rested = false;
                    continue;
                }
            }
            let frame = match this.poll_plain(cx) {
                Poll::Ready(Some(Ok(frame))) => frame,
                other => return other,
            };
            if let (Some(outgoing), Some(data)) = (&mut this.outgoing, frame.data_ref()) {
                outgoing.pass(data);
            }
            match (&mut this.packer, frame.into_data()) {
                (Some(packer), Ok(data)) => packer.push(&data),
                (None, Ok(data)) => {
                    return Poll::Ready(Some(Ok(Frame::data(this.kept(data)))));
                }
                (_, Err(trailers)) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        if self.packer.as_ref().is_some_and(|p| !p.is_through()) {
            return false;
        }
        match &self.kind {
            Kind::Empty => true,
            Kind::Plain(bytes) => bytes.is_none(),
            Kind::Unary { message, trailers } => message.is_none() && !trailers,
            Kind::Long { answer, trailers } => answer.is_over() && !trailers,
            Kind::Watch(watching) => watching.is_over,
            Kind::Tonic(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.packer.is_some() {
            return SizeHint::default();
        }
        match &self.kind {
            Kind::Empty => SizeHint::with_exact(0),
            Kind::Plain(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |b| b.len() as u64))
            }
            // Not exact: hyper would add a content-length, which gRPC answers do not carry.
            Kind::Unary { .. } | Kind::Long { .. } | Kind::Watch(_) => SizeHint::default(),
            Kind::Tonic(body) => body.size_hint(),
        }
    }
}

impl EdgeBody {
    /// `data`, counted as an answer under way until it has left: what the HTTP/2 layer has taken may wait
    /// long for a slow client.
    fn kept(&self, data: Bytes) -> Bytes {
        match &self.call {
            Some(call) if data.len() >= KEPT_BYTES => Bytes::from_owner(Kept {
                bytes: data,
                _call: call.again(),
            }),
            _ => data,
        }
    }

    /// The next frame as it is, unpacked.
    fn poll_plain(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match &mut self.kind {
            Kind::Empty => Poll::Ready(None),
            Kind::Plain(bytes) => Poll::Ready(bytes.take().map(|b| Ok(Frame::data(b)))),
            Kind::Unary { message, trailers } => {
                if let Some(message) = message.take() {
                    return Poll::Ready(Some(Ok(Frame::data(message))));
                }
                let first = std::mem::take(trailers);
                Poll::Ready(first.then(|| Ok(Frame::trailers(ok_trailers()))))
            }
            Kind::Long { answer, trailers } => {
                if let Some(piece) = answer.piece() {
                    return Poll::Ready(Some(Ok(Frame::data(piece))));
                }
                let first = std::mem::take(trailers);
                Poll::Ready(first.then(|| Ok(Frame::trailers(ok_trailers()))))
            }
            Kind::Watch(watching) => {
                let polled = watching.poll_frame(cx);
                if let Poll::Ready(Some(frame)) = &polled
                    && let (Some(t), Some(meter)) = (frame.trailers_ref(), self.meter.as_mut())
                {
                    meter.finish(status_code(t));
                }
                polled.map(|frame| frame.map(Ok))
            }
            Kind::Tonic(body) => {
                let polled = Pin::new(body).poll_frame(cx);
                if let Poll::Ready(Some(Ok(frame))) = &polled
                    && let (Some(t), Some(meter)) = (frame.trailers_ref(), self.meter.as_mut())
                {
                    meter.finish(status_code(t));
                }
                polled
            }
        }
    }
}

impl Watching {
    /// Small answers that are ready go out together: a frame each would cost more than what is in it.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Frame<Bytes>>> {
        let mut together = BytesMut::new();
        while together.len() < TOGETHER_BYTES && self.ended.is_none() {
            if let Some(long) = &mut self.long {
                if !together.is_empty() {
                    break;
                }
                if let Some(piece) = long.piece() {
                    return Poll::Ready(Some(Frame::data(piece)));
                }
                self.long = None;
            }
            match self.answers.poll_next(cx, &mut together) {
                Poll::Pending if together.is_empty() => return Poll::Pending,
                Poll::Pending => break,
                Poll::Ready(Some(Ok(long))) => self.long = long,
                Poll::Ready(Some(Err(status))) => self.ended = Some(status),
                Poll::Ready(None) => self.ended = Some(Status::ok("")),
            }
        }
        if !together.is_empty() {
            return Poll::Ready(Some(Frame::data(together.freeze())));
        }
        if std::mem::replace(&mut self.is_over, true) {
            return Poll::Ready(None);
        }
        let mut trailers = HeaderMap::with_capacity(2);
        let status = self
            .ended
            .as_ref()
            .map(|status| status.add_header(&mut trailers));
        // Only a text that is no header cannot be written.
        if !matches!(status, Some(Ok(()))) {
            trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("2"));
        }
        Poll::Ready(Some(Frame::trailers(trailers)))
    }
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(Status::GRPC_STATUS, HeaderValue::from_static("0"));
    trailers
}

/// The beginning of a gRPC answer.
pub(crate) fn success(body: EdgeBody, encoding: Encoding) -> Response<EdgeBody> {
    let mut response = Response::new(body);
    let grpc = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert(CONTENT_TYPE, grpc);
    as_asked(response, encoding)
}

/// In the caller's own encoding, as grpc-go answers.
pub(crate) fn as_asked(response: Response<EdgeBody>, encoding: Encoding) -> Response<EdgeBody> {
    match encoding {
        Encoding::Identity => response,
        Encoding::Gzip => EdgeBody::packed(response),
    }
}

/// The gRPC code in a header map; Unknown if there is none that can be read.
pub(crate) fn status_code(headers: &HeaderMap) -> Code {
    headers
        .get(Status::GRPC_STATUS)
        .map_or(Code::Unknown, |v| Code::from_bytes(v.as_bytes()))
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;
    use crate::counters::{Calls, GrpcCounters};

    /// Polls for a frame; how often it paused before.
    fn next(body: &mut EdgeBody) -> (usize, Option<Frame<Bytes>>) {
        let mut cx = Context::from_waker(Waker::noop());
        let mut pauses = 0;
        loop {
            match Pin::new(&mut *body).poll_frame(&mut cx) {
                Poll::Pending => pauses += 1,
                Poll::Ready(frame) => return (pauses, frame.map(|f| f.expect("no error"))),
            }
        }
    }

    /// One message whose pieces are exactly as long as what is packed in one go.
    #[derive(Debug)]
    struct Even {
        left: usize,
        head: Option<Vec<u8>>,
    }

    const EVEN_BYTES: usize = 64 << 10;

    fn even_pieces(pieces: usize) -> Even {
        let bytes = u32::try_from(pieces * EVEN_BYTES).expect("few");
        let head = [&[0][..], &bytes.to_be_bytes()].concat();
        Even {
            left: pieces,
            head: Some(head),
        }
    }

    impl Pieces for Even {
        fn piece(&mut self) -> Option<Bytes> {
            self.left = self.left.checked_sub(1)?;
            let mut piece = self.head.take().unwrap_or_default();
            piece.resize(piece.len() + EVEN_BYTES, b'k');
            Some(piece.into())
        }

        fn is_over(&self) -> bool {
            self.left == 0
        }
    }

    /// A piece of 64 KiB left nothing over to pause for: all of an answer was packed in one go.
    #[test]
    fn regression_packing_pauses_after_each_slice_of_even_pieces() {
        let answer = success(EdgeBody::long(even_pieces(20)), Encoding::Gzip);
        let mut body = answer.into_body();
        let (pauses, frame) = next(&mut body);
        assert!(frame.is_some_and(|frame| frame.is_data()));
        assert!(pauses >= 19, "{pauses}");
    }

    /// A call was over for its connection while its answer was still on its way out.
    #[test]
    fn regression_an_answer_counts_until_all_of_it_has_left() {
        let calls = Calls::default();
        let messages = || {
            let counters = std::sync::Arc::new(GrpcCounters::new());
            Meter::start(counters, 0).messages().clone()
        };
        for body in [
            EdgeBody::unary(vec![0; 100_000].into()),
            EdgeBody::long(even_pieces(2)),
        ] {
            let mut body = body.counted(messages(), Some(calls.begin()));
            let mut sent = Vec::new();
            while let (_, Some(frame)) = next(&mut body) {
                sent.extend(frame.into_data());
            }
            drop(body);
            for frame in sent {
                assert!(calls.any(), "the socket has not taken {}", frame.len());
                drop(frame);
            }
            assert!(!calls.any());
        }
    }
}
