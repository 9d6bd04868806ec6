//! The Watch stream: commands in, answers out, fragments of what is too large.
//!
//! The engine's session already speaks etcd's semantics (ids, created/canceled answers, reasons,
//! progress only when synced); this file owns the wire: the empty-key rule, filters,
//! fragmentation, and how a stream ends. Dropping the stream drops the session, which cancels its
//! watchers.

use std::iter::Peekable;
use std::sync::Arc;
use std::vec;

use bytes::Bytes;
use henge_mvcc::Event;
use prost::Message;
use tonic::codec::Codec;
use tonic::metadata::MetadataMap;
use tonic::{Status, Streaming};
use tonic_prost::ProstCodec;

use super::body::{EdgeBody, Sent};
use super::config::EdgeConfig;
use super::counters::Meter;
use super::errors::{self, text};
use super::header::header;
use super::inbound::Inbound;
use super::long_answer::{self, Field, LongAnswer};
use super::proto::etcdserverpb as pb;
use super::streams::{Draining, LeaderMonitor, drained, unfold};
use super::translate;
use crate::api::{Backend, WatchCommand, WatchCreate, WatchResponse, WatchSession};

/// Events of an answer that is encoded at once.
const SHORT_EVENTS: usize = 500;

/// The Watch service over a backend.
#[derive(Debug)]
pub struct Watch<B> {
    backend: B,
    config: Arc<EdgeConfig>,
    draining: Draining,
}

impl<B: Backend> Watch<B> {
    /// A service that watches `backend` until `draining` says so.
    pub(crate) fn new(backend: B, config: Arc<EdgeConfig>, draining: Draining) -> Watch<B> {
        Watch {
            backend,
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
        let call = Call::<B> {
            session: self.backend.watch_session(),
            leader: LeaderMonitor::new(self.backend.clone(), metadata, timeout),
            requests: Some(requests),
            draining: self.draining.clone(),
            max_bytes: self.config.max_message_bytes(),
            left: None,
        };
        EdgeBody::answers(unfold(call, |call| call.step()), meter)
    }
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
                return Some((Ok(sent(piece).await), self));
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
                    if is_split(&r, self.max_bytes).await {
                        self.left = Some(Fragments::new(r));
                    } else {
                        return Some((Ok(sent(whole(r)).await), self));
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
type Piece = (pb::WatchResponse, Vec<Event>);

fn whole(r: WatchResponse) -> Piece {
    let wire = pb::WatchResponse {
        header: header(r.header),
        watch_id: r.watch_id,
        created: r.created,
        canceled: r.canceled,
        compact_revision: r.compact_revision,
        cancel_reason: r.cancel_reason,
        fragment: false,
        events: Vec::new(),
    };
    (wire, r.events)
}

async fn sent((mut wire, events): Piece) -> Sent {
    if events.len() > SHORT_EVENTS {
        let bytes = long_answer::measure(&events, &mut 0).await;
        return Sent::Long(LongAnswer::events(&wire, events, bytes));
    }
    wire.events = events.into_iter().map(translate::event).collect();
    Sent::Short(wire)
}

/// Whether an answer goes out in fragments: if that is wanted, and it has several events and so many bytes.
async fn is_split(r: &WatchResponse, max_bytes: usize) -> bool {
    if !r.fragment || r.events.len() < 2 {
        return false;
    }
    let beside = pb::WatchResponse {
        header: header(r.header),
        watch_id: r.watch_id,
        ..Default::default()
    };
    long_answer::measure(&r.events, &mut 0).await + beside.encoded_len() >= max_bytes
}

/// An answer in fragments below a size where events allow it; every one but the last says so. A single event
/// is never split (etcd's `sendFragments`).
struct Fragments {
    wire: pb::WatchResponse,
    /// Bytes of the above.
    beside: usize,
    events: Peekable<vec::IntoIter<Event>>,
}

impl Fragments {
    fn new(r: WatchResponse) -> Self {
        let (mut wire, events) = whole(r);
        wire.fragment = true;
        Fragments {
            beside: wire.encoded_len(),
            wire,
            events: events.into_iter().peekable(),
        }
    }

    /// The next fragment, and whether it is the last.
    fn next(&mut self, max_bytes: usize) -> (Piece, bool) {
        let (mut events, mut size) = (Vec::new(), self.beside);
        while let Some(event) = self.events.peek() {
            let bytes = long_answer::field_len(event.bytes());
            if !events.is_empty() && size + bytes >= max_bytes {
                return ((self.wire.clone(), events), false);
            }
            size += bytes;
            events.extend(self.events.next());
        }
        self.wire.fragment = false;
        ((self.wire.clone(), events), true)
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

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
        if !at_once(is_split(&response, max)) {
            return vec![short(whole(response))];
        }
        let (mut left, mut out) = (Fragments::new(response), Vec::new());
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
        message.events = events.into_iter().map(translate::event).collect();
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
