//! The Watch stream: commands in, answers out, fragments of what is too large.
//!
//! The engine's session already speaks etcd's semantics (ids, created/canceled answers, reasons,
//! progress only when synced); this file owns the wire: the empty-key rule, filters,
//! fragmentation, and how a stream ends. Dropping the stream drops the session, which cancels its
//! watchers.

use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut, Bytes, BytesMut};
use henge_api::{Backend, Refusal, WatchCommand, WatchCreate, WatchResponse, WatchSession};
use henge_mvcc::Event;
use prost::Message;
use tonic::codec::Codec;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::asked::Asked;
use super::errors::{self, text};
use super::header::header;
use super::long_answer::{self, Field, LongAnswer, Rest, SHORT_BYTES};
use super::proto::etcdserverpb as pb;
use super::streams::{Answers, Draining, LeaderMonitor, drained, unfold};
use super::translate;
use super::unary;
use crate::config::EdgeConfig;
use crate::counters::Meter;
use crate::door::body::{EdgeBody, Next, Pieces, Written};
use crate::door::inbound::{Inbound, PREFIX_BYTES};

/// Events of an answer that is encoded at once.
const SHORT_EVENTS: usize = 500;

/// The Watch service over a backend.
#[derive(Debug)]
pub struct Watch<B> {
    asked: Asked<B>,
    config: Arc<EdgeConfig>,
    draining: Draining,
}

impl<B: Backend> Watch<B> {
    /// A service that watches what is asked until `draining` says so.
    pub(crate) fn new(asked: Asked<B>, config: Arc<EdgeConfig>, draining: Draining) -> Watch<B> {
        Watch {
            asked,
            config,
            draining,
        }
    }
}

impl<B: Backend> Watch<B> {
    /// Serves a call whose requests come in `body`.
    pub(crate) fn call(&self, metadata: &MetadataMap, body: Inbound, meter: Meter) -> EdgeBody {
        let mut codec = ProstCodec::<pb::WatchResponse, pb::WatchRequest>::default();
        let max = Some(self.config.max_message_bytes());
        let requests = Streaming::new_request(codec.decoder(), body, None, max);
        let timeout = self.config.election_timeout;
        let backend = self.asked.of(metadata);
        let call = Call::<B> {
            session: backend.watch_session(),
            leader: LeaderMonitor::new(backend, metadata, timeout),
            requests: Some(requests),
            draining: self.draining.clone(),
            max_bytes: self.config.max_message_bytes(),
            left: None,
        };
        EdgeBody::answers(Sending(unfold(call, |call| call.step())), meter)
    }
}

/// What goes out next.
#[derive(Debug)]
enum Sent {
    /// Encoded at once.
    Short(pb::WatchResponse),
    /// Encoded as it goes out.
    Long(LongAnswer),
}

/// The answers of a call.
struct Sending(Answers<Sent>);

impl Written for Sending {
    fn poll_next(&mut self, cx: &mut Context<'_>, out: &mut BytesMut) -> Poll<Option<Next>> {
        self.0.as_mut().poll_next(cx).map(|answer| {
            Some(answer?.map(|sent| match sent {
                Sent::Short(message) => {
                    put_framed(&message, out);
                    None
                }
                Sent::Long(long) => Some(Box::new(long) as Box<dyn Pieces>),
            }))
        })
    }
}

fn put_framed(message: &pb::WatchResponse, out: &mut BytesMut) {
    let bytes = message.encoded_len();
    out.reserve(PREFIX_BYTES + bytes);
    out.put_u8(0);
    // What has few events is short.
    out.put_u32(u32::try_from(bytes).unwrap_or(u32::MAX));
    message.encode_raw(out);
}

/// One Watch call.
struct Call<B: Backend> {
    session: B::Watch,
    leader: LeaderMonitor<B>,
    /// None once the client has closed its side: watchers go on until it goes away.
    requests: Option<Streaming<pb::WatchRequest>>,
    draining: Draining,
    /// Size from which an answer is split, in bytes.
    max_bytes: usize,
    /// What still has to go out of the last answer.
    left: Option<Fragments>,
}

impl<B: Backend> Call<B> {
    async fn step(mut self) -> Option<(Result<Sent, Status>, Call<B>)> {
        loop {
            if let Some(left) = &mut self.left {
                let (piece, is_last) = left.next(self.max_bytes);
                if is_last {
                    self.left = None;
                }
                return Some((sendable(sent(piece).await), self));
            }
            let input = match self.input().await {
                Ok(input) => input,
                Err(status) => return Some((Err(status), self)),
            };
            match input {
                Input::Command(command) => self.session.command(command),
                Input::Nothing => {}
                Input::Closed => self.requests = None,
                Input::Answer(r) => {
                    let fragment = r.fragment;
                    let piece = whole(r);
                    if fragment && is_split(&piece, self.max_bytes).await {
                        self.left = Some(Fragments::new(piece));
                    } else {
                        return Some((sendable(sent(piece).await), self));
                    }
                }
            }
        }
    }

    async fn input(&mut self) -> Result<Input, Status> {
        tokio::select! {
            r = next_request(&mut self.requests) => match r {
                Ok(Some(request)) => Ok(command(request)),
                Ok(None) => Ok(Input::Closed),
                Err(e) => Err(errors::inbound(e)),
            },
            r = self.session.next() => match r {
                Some(response) => Ok(Input::Answer(response)),
                None => Err(Status::unavailable(text::STOPPED)),
            },
            status = drained(&mut self.draining) => Err(status),
            status = self.leader.lost() => Err(status),
        }
    }
}

enum Input {
    Command(WatchCommand),
    Nothing,
    Closed,
    Answer(WatchResponse),
}

async fn next_request(
    requests: &mut Option<Streaming<pb::WatchRequest>>,
) -> Result<Option<pb::WatchRequest>, Status> {
    match requests {
        Some(requests) => requests.message().await,
        None => std::future::pending().await,
    }
}

/// What the client wants. An empty union is ignored, as etcd does.
fn command(r: pb::WatchRequest) -> Input {
    use pb::watch_request::RequestUnion;
    Input::Command(match r.request_union {
        Some(RequestUnion::CreateRequest(r)) => create(r),
        Some(RequestUnion::CancelRequest(r)) => WatchCommand::Cancel {
            watch_id: r.watch_id,
        },
        Some(RequestUnion::ProgressRequest(_)) => WatchCommand::Progress,
        None => return Input::Nothing,
    })
}

fn create(r: pb::WatchCreateRequest) -> WatchCommand {
    use pb::watch_create_request::FilterType;
    // etcd's recvLoop: \x00 is the smallest key, so an empty key watches from there on.
    let key = if r.key.is_empty() {
        Bytes::from_static(b"\0")
    } else {
        r.key
    };
    WatchCommand::Create(WatchCreate {
        key,
        range_end: r.range_end,
        start_revision: r.start_revision,
        progress_notify: r.progress_notify,
        no_put: r.filters.contains(&(FilterType::Noput as i32)),
        no_delete: r.filters.contains(&(FilterType::Nodelete as i32)),
        prev_kv: r.prev_kv,
        watch_id: r.watch_id,
        fragment: r.fragment,
    })
}

/// An answer as it goes out, without its events, and those.
type Piece = (pb::WatchResponse, Rest<Event>);

/// etcd's words for it.
fn reason(refusal: &Refusal) -> String {
    match refusal {
        Refusal::EmptyRange | Refusal::DuplicateId => format!("mvcc: {refusal}"),
        Refusal::BeforeHistory => format!("etcdserver: mvcc: {refusal}"),
        Refusal::Error(error) => format!("etcdserver: {error}"),
    }
}

fn whole(r: WatchResponse) -> Piece {
    let wire = pb::WatchResponse {
        header: header(r.header),
        watch_id: r.watch_id,
        created: r.created,
        canceled: r.canceled,
        compact_revision: r.compact_revision,
        cancel_reason: r.refusal.as_ref().map_or_else(String::new, reason),
        fragment: false,
        events: Vec::new(),
    };
    (wire, Rest::new(r.events))
}

async fn sent((mut wire, mut events): Piece) -> Sent {
    let count = events.as_slice().len();
    // A single event is short, whatever its value has.
    if count > 1 {
        let bytes = long_answer::measure(events.as_slice(), &mut 0).await;
        if count > SHORT_EVENTS || bytes > SHORT_BYTES {
            return Sent::Long(LongAnswer::events(&wire, events, bytes));
        }
    }
    wire.events = std::iter::from_fn(|| events.next())
        .map(translate::event)
        .collect();
    Sent::Short(wire)
}

/// The stream ends like grpc-go's where an answer is longer than etcd sends.
fn sendable(answer: Sent) -> Result<Sent, Status> {
    match answer {
        Sent::Short(_) => Ok(answer),
        Sent::Long(long) => match long.checked() {
            Ok(long) => Ok(Sent::Long(long)),
            Err(e) => Err(unary::too_long(e, "")),
        },
    }
}

/// Whether an answer goes out in fragments, if that is wanted: it has several events and so many bytes.
async fn is_split((wire, events): &Piece, max_bytes: usize) -> bool {
    let events = events.as_slice();
    if events.len() < 2 {
        return false;
    }
    long_answer::measure(events, &mut 0).await + wire.encoded_len() >= max_bytes
}

/// An answer in fragments below a size where events allow it; every one but the last says so. A single event
/// is never split (etcd's `sendFragments`).
struct Fragments {
    wire: pb::WatchResponse,
    /// Bytes of the above.
    beside: usize,
    events: Rest<Event>,
}

impl Fragments {
    fn new((mut wire, events): Piece) -> Self {
        wire.fragment = true;
        Fragments {
            beside: wire.encoded_len(),
            wire,
            events,
        }
    }

    /// The next fragment, and whether it is the last.
    fn next(&mut self, max_bytes: usize) -> (Piece, bool) {
        let (mut events, mut size) = (Vec::new(), self.beside);
        while let Some(event) = self.events.as_slice().first() {
            let bytes = long_answer::field_len(event.bytes());
            if !events.is_empty() && size + bytes >= max_bytes {
                return ((self.wire.clone(), Rest::new(events)), false);
            }
            size += bytes;
            events.extend(self.events.next());
        }
        self.wire.fragment = false;
        ((self.wire.clone(), Rest::new(events)), true)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::Waker;

    use henge_mvcc::{EventKind, KeyValue};

    use super::*;

    fn response(sizes: &[usize], fragment: bool) -> WatchResponse {
        let event = |n: &usize| Event {
            kind: EventKind::Put,
            kv: KeyValue {
                value: vec![7; *n].into(),
                ..KeyValue::default()
            },
            prev_kv: None,
        };
        WatchResponse {
            watch_id: 5,
            fragment,
            events: sizes.iter().map(event).collect(),
            ..WatchResponse::default()
        }
    }

    /// Few events are measured without a pause.
    fn at_once<T>(future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => done,
            Poll::Pending => panic!("it waits"),
        }
    }

    fn pieces(sizes: &[usize], fragment: bool, max: usize) -> Vec<pb::WatchResponse> {
        let response = response(sizes, fragment);
        let short = |piece| match at_once(sent(piece)) {
            Sent::Short(wire) => wire,
            Sent::Long(_) => panic!("few events"),
        };
        let piece = whole(response);
        if !fragment || !at_once(is_split(&piece, max)) {
            return vec![short(piece)];
        }
        let (mut left, mut out) = (Fragments::new(piece), Vec::new());
        loop {
            let (piece, is_last) = left.next(max);
            out.push(short(piece));
            if is_last {
                return out;
            }
        }
    }

    #[test]
    fn only_the_last_piece_is_not_a_fragment_and_nothing_is_lost_or_reordered() {
        let sizes = [400, 300, 900, 10, 10, 700];
        let got = pieces(&sizes, true, 1_000);
        assert!(got.len() > 1);
        let flags: Vec<bool> = got.iter().map(|p| p.fragment).collect();
        let (last, rest) = flags.split_last().expect("pieces");
        assert!(!last && rest.iter().all(|f| *f), "{flags:?}");
        for p in &got {
            assert_eq!(p.watch_id, 5);
            assert!(
                p.events.len() == 1 || p.encoded_len() < 1_000,
                "{}",
                p.encoded_len()
            );
        }
        let merged: Vec<usize> = got
            .iter()
            .flat_map(|p| &p.events)
            .map(|e| e.kv.as_ref().expect("kv").value.len())
            .collect();
        assert_eq!(merged, sizes);
    }

    #[test]
    fn one_event_or_an_unwilling_watcher_is_never_split() {
        assert_eq!(pieces(&[5_000], true, 1_000).len(), 1);
        assert_eq!(pieces(&[900, 900], false, 1_000).len(), 1);
        let two = pieces(&[5_000, 5_000], true, 1_000);
        assert_eq!(two.len(), 2);
    }

    #[test]
    fn many_events_go_out_in_pieces_that_make_up_the_whole() {
        let response = response(&vec![30; 50_000], false);
        let (mut message, events) = whole(response.clone());
        let events = events.as_slice().iter().cloned();
        message.events = events.map(translate::event).collect();
        let mut sending = pin!(sent(whole(response)));
        let mut cx = Context::from_waker(Waker::noop());
        let mut pauses = 0;
        let mut long = loop {
            match sending.as_mut().poll(&mut cx) {
                Poll::Ready(Sent::Long(long)) => break long,
                Poll::Ready(Sent::Short(_)) => panic!("many events"),
                Poll::Pending => pauses += 1,
            }
        };
        assert!(pauses > 10, "{pauses}");
        let mut out = Vec::new();
        while let Some(piece) = long.piece() {
            assert!(piece.len() < 100_000);
            out.extend_from_slice(&piece);
        }
        assert!(out[5..] == message.encode_to_vec());
        assert_eq!(out[1..5], (message.encoded_len() as u32).to_be_bytes());
    }

    /// Events were short by their count alone: 500 of a megabyte each went out in one go.
    #[test]
    fn regression_few_events_with_many_bytes_go_out_in_pieces() {
        let is_long = |sizes: &[usize]| {
            let sent = at_once(sent(whole(response(sizes, false))));
            matches!(sent, Sent::Long(_))
        };
        assert!(is_long(&[SHORT_BYTES / 2; 2]));
        assert!(!is_long(&[1_000; 500]));
        assert!(!is_long(&[4 * SHORT_BYTES]), "one value's own bytes");
    }

    #[test]
    fn regression_an_answer_longer_than_etcd_sends_ends_its_stream() {
        let mut long = response(&[1 << 20], false);
        let event = long.events.remove(0);
        long.events = vec![event; 2_048];
        let status = sendable(at_once_or_later(sent(whole(long)))).expect_err("too long");
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        let text = status.message();
        assert!(
            text.starts_with("trying to send message larger than max (21"),
            "{text}"
        );
        assert!(text.ends_with(" vs. 2147483647)"), "{text}");
    }

    fn at_once_or_later<T>(future: impl Future<Output = T>) -> T {
        let mut future = pin!(future);
        loop {
            let mut cx = Context::from_waker(Waker::noop());
            if let Poll::Ready(done) = future.as_mut().poll(&mut cx) {
                return done;
            }
        }
    }

    /// A client that left after the first of many fragments had the rest let go on the core's thread.
    #[test]
    fn regression_fragments_whose_client_has_gone_are_let_go_elsewhere() {
        let mut response = response(&[9; 30_000], true);
        let shared = Bytes::from(vec![1; 10]);
        let on = std::sync::Arc::new(std::sync::Mutex::new(None));
        let owner = Owner(shared, on.clone());
        if let Some(last) = response.events.last_mut() {
            last.kv.value = Bytes::from_owner(owner);
        }
        let mut left = Fragments::new(whole(response));
        let (first, is_last) = left.next(1_000);
        assert!(!is_last);
        drop((first, left));
        let on = loop {
            if let Some(on) = *on.lock().expect("no panic") {
                break on;
            }
            std::thread::yield_now();
        };
        assert_ne!(on, std::thread::current().id());
    }

    /// Bytes that tell which thread let go of them.
    struct Owner(
        Bytes,
        std::sync::Arc<std::sync::Mutex<Option<std::thread::ThreadId>>>,
    );

    impl AsRef<[u8]> for Owner {
        fn as_ref(&self) -> &[u8] {
            &self.0
        }
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            *self.1.lock().expect("no panic") = Some(std::thread::current().id());
        }
    }

    #[test]
    fn an_empty_key_watches_from_the_smallest_key() {
        let request = pb::WatchCreateRequest {
            filters: vec![1],
            ..Default::default()
        };
        let WatchCommand::Create(c) = create(request) else {
            panic!("not a create")
        };
        assert_eq!(
            (c.key.as_ref(), c.no_put, c.no_delete),
            (&b"\0"[..], false, true)
        );
    }
}
