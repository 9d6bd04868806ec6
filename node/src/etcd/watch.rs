//! The Watch stream: commands in, answers out, fragments of what is too large.
//!
//! The engine's session already speaks etcd's semantics (ids, created/canceled answers, reasons,
//! progress only when synced); this file owns the wire: the empty-key rule, filters,
//! fragmentation, and how a stream ends. Dropping the stream drops the session, which cancels its
//! watchers.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use tonic::{Request, Response, Status, Streaming};

use super::config::EdgeConfig;
use super::errors::{self, text};
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::streams::{Answers, Draining, LeaderMonitor, drained, unfold};
use super::translate;
use crate::api::{Backend, WatchCommand, WatchCreate, WatchResponse, WatchSession};

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

#[tonic::async_trait]
impl<B: Backend> pb::watch_server::Watch for Watch<B> {
    type WatchStream = Answers<pb::WatchResponse>;

    async fn watch(
        &self,
        request: Request<Streaming<pb::WatchRequest>>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let leader = LeaderMonitor::new(
            self.backend.clone(),
            request.metadata(),
            self.config.election_timeout,
        );
        let call = Call::<B> {
            session: self.backend.watch_session(),
            leader,
            requests: Some(request.into_inner()),
            draining: self.draining.clone(),
            max_bytes: self.config.max_message_bytes(),
            ready: VecDeque::new(),
        };
        Ok(Response::new(unfold(call, |call| call.step())))
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
    /// Pieces of the last answer that still have to go out.
    ready: VecDeque<pb::WatchResponse>,
}

impl<B: Backend> Call<B> {
    async fn step(mut self) -> Option<(Result<pb::WatchResponse, Status>, Call<B>)> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Some((Ok(piece), self));
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
                    split(wire(r), fragment, self.max_bytes, &mut self.ready);
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

fn wire(r: WatchResponse) -> pb::WatchResponse {
    pb::WatchResponse {
        header: header(r.header),
        watch_id: r.watch_id,
        created: r.created,
        canceled: r.canceled,
        compact_revision: r.compact_revision,
        cancel_reason: r.cancel_reason,
        fragment: false,
        events: r.events.into_iter().map(translate::event).collect(),
    }
}

/// Splits `whole` into answers below `max_bytes` where events allow it; every piece but the last
/// says `fragment`. A single event is never split (etcd's `sendFragments`).
fn split(
    mut whole: pb::WatchResponse,
    wanted: bool,
    max_bytes: usize,
    out: &mut VecDeque<pb::WatchResponse>,
) {
    if !wanted || whole.events.len() < 2 || whole.encoded_len() < max_bytes {
        out.push_back(whole);
        return;
    }
    let events = std::mem::take(&mut whole.events);
    whole.fragment = true;
    let frame = whole.encoded_len();
    let mut piece = whole.clone();
    let mut size = frame;
    for event in events {
        let bytes = event.encoded_len();
        // One byte of tag (field 11), then the length, then the event.
        let bytes = 1 + prost::length_delimiter_len(bytes) + bytes;
        if !piece.events.is_empty() && size + bytes >= max_bytes {
            out.push_back(std::mem::replace(&mut piece, whole.clone()));
            size = frame;
        }
        size += bytes;
        piece.events.push(event);
    }
    piece.fragment = false;
    out.push_back(piece);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::etcd::proto::mvccpb;

    fn response(sizes: &[usize]) -> pb::WatchResponse {
        let event = |n: &usize| mvccpb::Event {
            kv: Some(mvccpb::KeyValue {
                value: vec![7; *n].into(),
                ..Default::default()
            }),
            ..Default::default()
        };
        pb::WatchResponse {
            watch_id: 5,
            events: sizes.iter().map(event).collect(),
            ..Default::default()
        }
    }

    fn pieces(sizes: &[usize], wanted: bool, max: usize) -> Vec<pb::WatchResponse> {
        let mut out = VecDeque::new();
        split(response(sizes), wanted, max, &mut out);
        out.into()
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
