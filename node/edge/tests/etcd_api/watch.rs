//! Watch streams.

use henge_edge::EdgeConfig;
use henge_edge::etcd::proto::etcdserverpb as pb;
use henge_edge::etcd::proto::etcdserverpb::watch_request::RequestUnion;
use tokio::sync::mpsc;
use tonic::transport::Channel;
use tonic::{Code, Request, Status, Streaming};

use super::{Server, soon, until};

/// A client's end of one stream.
struct Stream {
    ask: mpsc::UnboundedSender<pb::WatchRequest>,
    answers: Streaming<pb::WatchResponse>,
}

/// A receiver as the request stream that tonic wants.
struct Asked(mpsc::UnboundedReceiver<pb::WatchRequest>);

impl futures_core::Stream for Asked {
    type Item = pb::WatchRequest;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        cx: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<pb::WatchRequest>> {
        self.0.poll_recv(cx)
    }
}

impl Stream {
    async fn open(channel: Channel, leader: bool) -> Result<Stream, Status> {
        let (ask, asked) = mpsc::unbounded_channel();
        let mut request = Request::new(Asked(asked));
        if leader {
            request
                .metadata_mut()
                .insert("hasleader", "true".parse().expect("ascii"));
        }
        let client = pb::watch_client::WatchClient::new(channel);
        let mut client = client.max_decoding_message_size(64 << 20);
        let answers = client.watch(request).await?.into_inner();
        Ok(Stream { ask, answers })
    }

    fn say(&self, union: RequestUnion) {
        let request = pb::WatchRequest {
            request_union: Some(union),
        };
        self.ask.send(request).expect("the stream is open");
    }

    async fn create(&mut self, create: pb::WatchCreateRequest) -> pb::WatchResponse {
        self.say(RequestUnion::CreateRequest(create));
        let created = self.next().await;
        assert!(created.created, "{created:?}");
        created
    }

    async fn next(&mut self) -> pb::WatchResponse {
        let answer = soon("watch response", self.answers.message()).await;
        answer.expect("no error").expect("an answer")
    }
}

fn prefix() -> pb::WatchCreateRequest {
    pb::WatchCreateRequest {
        key: "k".into(),
        range_end: "l".into(),
        ..Default::default()
    }
}

fn put(key: &str, n: usize) -> pb::PutRequest {
    let value = vec![b'v'; n].into();
    pb::PutRequest {
        key: key.to_owned().into(),
        value,
        ..Default::default()
    }
}

#[tokio::test]
async fn watchers_of_one_stream_get_ids_events_and_cancellations() {
    let server = Server::thin(true);
    let mut kv = server.kv().await;
    let mut stream = Stream::open(server.channel().await, false)
        .await
        .expect("a stream");
    let first = stream.create(prefix()).await;
    assert_eq!((first.watch_id, first.canceled), (0, false));
    assert_eq!(first.header.expect("header").revision, 1);
    let chosen = stream
        .create(pb::WatchCreateRequest {
            watch_id: 7,
            ..prefix()
        })
        .await;
    assert_eq!(chosen.watch_id, 7);

    let twice = stream
        .create(pb::WatchCreateRequest {
            watch_id: 7,
            ..prefix()
        })
        .await;
    assert_eq!((twice.watch_id, twice.canceled), (-1, true));
    assert_eq!(
        twice.cancel_reason,
        "mvcc: duplicate watch ID provided on the WatchStream"
    );
    let empty = pb::WatchCreateRequest {
        key: "b".into(),
        range_end: "a".into(),
        ..prefix()
    };
    let empty = stream.create(empty).await;
    assert_eq!((empty.watch_id, empty.canceled), (-1, true));
    assert_eq!(empty.cancel_reason, "mvcc: watcher range is empty");

    kv.put(put("k1", 1)).await.expect("put");
    let (a, b) = (stream.next().await, stream.next().await);
    assert_eq!((a.watch_id, b.watch_id), (0, 7));
    assert_eq!((a.events.len(), a.header.expect("header").revision), (1, 2));
    assert_eq!(a.events[0].prev_kv, None);

    // An unknown id is ignored; the known one is answered without a reason.
    stream.say(RequestUnion::CancelRequest(pb::WatchCancelRequest {
        watch_id: 99,
    }));
    stream.say(RequestUnion::CancelRequest(pb::WatchCancelRequest {
        watch_id: 0,
    }));
    let canceled = stream.next().await;
    assert_eq!((canceled.watch_id, canceled.canceled), (0, true));
    assert_eq!(canceled.cancel_reason, "");
    stream.say(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    let progress = stream.next().await;
    assert_eq!((progress.watch_id, progress.events.len()), (-1, 0));
    assert_eq!(progress.header.expect("header").revision, 2);
    assert_eq!(server.double.watchers(), 1);

    drop(stream);
    until("the watchers to go with their stream", || {
        server.double.sessions() == 0
    })
    .await;
}

#[tokio::test]
async fn options_reach_the_watcher() {
    let server = Server::thin(true);
    let mut kv = server.kv().await;
    kv.put(put("k1", 1)).await.expect("put");
    kv.put(put("k1", 2)).await.expect("put");
    let delete = pb::DeleteRangeRequest {
        key: "k1".into(),
        ..Default::default()
    };
    kv.delete_range(delete).await.expect("delete");
    let mut stream = Stream::open(server.channel().await, false)
        .await
        .expect("a stream");
    let full = pb::WatchCreateRequest {
        start_revision: 2,
        prev_kv: true,
        ..prefix()
    };
    stream.create(full.clone()).await;
    let history = stream.next().await;
    let seen: Vec<(i32, usize)> = history
        .events
        .iter()
        .map(|e| (e.r#type, e.prev_kv.as_ref().map_or(0, |kv| kv.value.len())))
        .collect();
    assert_eq!(seen, [(0, 0), (0, 1), (1, 2)]);
    for (filter, kinds) in [(0, vec![1]), (1, vec![0, 0])] {
        stream
            .create(pb::WatchCreateRequest {
                filters: vec![filter],
                ..full.clone()
            })
            .await;
        let got: Vec<i32> = stream
            .next()
            .await
            .events
            .iter()
            .map(|e| e.r#type)
            .collect();
        assert_eq!(got, kinds, "filter {filter}");
    }
    // No key at all means everything, as in etcd.
    let everything = pb::WatchCreateRequest {
        range_end: "\0".into(),
        ..Default::default()
    };
    let id = stream.create(everything).await.watch_id;
    kv.put(put("zzz", 1)).await.expect("put");
    assert_eq!(stream.next().await.watch_id, id);
}

#[tokio::test]
async fn a_large_batch_is_split_only_for_those_who_asked() {
    let config = EdgeConfig {
        max_request_bytes: 1_000,
        drain_limit: super::SHORT,
        ..EdgeConfig::default()
    };
    let max = config.max_message_bytes();
    let server = Server::start(config);
    {
        let mut state = server.double.state();
        let big = vec![b'v'; 200_000];
        for i in 0..10_i64 {
            let key = bytes::Bytes::from(format!("k{i}"));
            let kv = henge_mvcc::KeyValue {
                key: key.clone(),
                value: big.clone().into(),
                create_revision: i + 2,
                mod_revision: i + 2,
                version: 1,
                lease: 0,
            };
            state.history.insert(key, vec![(i + 2, Some(kv))]);
        }
        state.revision = 11;
    }
    let mut stream = Stream::open(server.channel().await, false)
        .await
        .expect("a stream");
    stream
        .create(pb::WatchCreateRequest {
            start_revision: 1,
            fragment: true,
            ..prefix()
        })
        .await;
    let mut keys = Vec::new();
    let mut pieces = 0;
    loop {
        let piece = stream.next().await;
        assert!(prost::Message::encoded_len(&piece) < max);
        pieces += 1;
        keys.extend(
            piece
                .events
                .iter()
                .map(|e| e.kv.as_ref().expect("kv").mod_revision),
        );
        if !piece.fragment {
            break;
        }
    }
    assert_eq!(keys, (2..12).collect::<Vec<i64>>());
    assert!(pieces >= 4, "{pieces}");
    stream
        .create(pb::WatchCreateRequest {
            start_revision: 1,
            ..prefix()
        })
        .await;
    let whole = stream.next().await;
    assert_eq!((whole.events.len(), whole.fragment), (10, false));
}

#[tokio::test]
async fn a_stream_that_requires_a_leader_is_refused_or_ended_without_one() {
    let config = EdgeConfig {
        election_timeout: std::time::Duration::from_millis(20),
        drain_limit: super::SHORT,
        ..EdgeConfig::default()
    };
    let server = Server::start(config);
    let mut stream = Stream::open(server.channel().await, true)
        .await
        .expect("a stream");
    let mut careless = Stream::open(server.channel().await, false)
        .await
        .expect("a stream");
    stream.create(prefix()).await;
    careless.create(prefix()).await;
    server.double.state().metrics.has_leader = false;
    let end = soon("the end", stream.answers.message())
        .await
        .expect_err("no leader");
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    let refused = Stream::open(server.channel().await, true)
        .await
        .err()
        .expect("refused");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::Unavailable, "etcdserver: no leader")
    );
    // Who did not ask keeps its stream.
    careless.say(RequestUnion::ProgressRequest(pb::WatchProgressRequest {}));
    assert_eq!(careless.next().await.watch_id, -1);
}

#[tokio::test]
async fn a_drain_ends_streams_and_lets_calls_in_flight_finish() {
    let server = Server::start(EdgeConfig {
        drain_limit: super::HANG,
        ..EdgeConfig::default()
    });
    let mut stream = Stream::open(server.channel().await, false)
        .await
        .expect("a stream");
    stream.create(prefix()).await;
    let (open, gate) = tokio::sync::watch::channel(false);
    server.double.state().gate = Some(gate);
    let mut kv = server.kv().await;
    let call = tokio::spawn(async move { kv.put(put("z", 1)).await });
    until("the call inside", || server.double.state().calls == 1).await;
    server.shutdown.begin();
    let end = soon("the end", stream.answers.message())
        .await
        .expect_err("ends");
    assert_eq!(
        (end.code(), end.message()),
        (Code::Unavailable, "etcdserver: server stopped")
    );
    until("the listener to close", || {
        std::net::TcpStream::connect(server.address).is_err()
    })
    .await;
    open.send(true).expect("the double listens");
    let answer = soon("the answer", call).await.expect("no panic");
    assert_eq!(
        answer
            .expect("finished")
            .into_inner()
            .header
            .expect("header")
            .revision,
        2
    );
}

/// The first step of an end: another member takes over the lead meanwhile.
#[tokio::test]
async fn once_closed_nobody_new_is_let_in_and_who_is_here_is_served() {
    let server = Server::thin(true);
    let mut kv = server.kv().await;
    kv.put(put("a", 1)).await.expect("served");
    let mut stream = Stream::open(server.channel().await, false)
        .await
        .expect("a stream");
    stream.create(prefix()).await;
    server.shutdown.close();
    until("the listener to close", || {
        std::net::TcpStream::connect(server.address).is_err()
    })
    .await;
    kv.put(put("k1", 1)).await.expect("still served");
    assert_eq!(stream.next().await.events.len(), 1);
    assert!(!server.shutdown.has_begun());
}

#[tokio::test]
async fn the_events_of_a_large_revision_come_in_one_answer_or_in_fragments() {
    let server = Server::start(EdgeConfig {
        max_request_bytes: 1 << 20,
        drain_limit: super::SHORT,
        ..Default::default()
    });
    let mut kv = server.kv().await;
    for i in 0..1_500 {
        kv.put(put(&format!("k{i:04}"), 2_000)).await.expect("put");
    }
    let channel = server.channel().await;
    let mut stream = Stream::open(channel, false).await.expect("a stream");
    for fragment in [false, true] {
        let create = pb::WatchCreateRequest {
            prev_kv: true,
            fragment,
            ..prefix()
        };
        stream.create(create).await;
    }
    let delete = pb::DeleteRangeRequest {
        key: "k".into(),
        range_end: "l".into(),
        prev_kv: false,
    };
    kv.delete_range(delete).await.expect("delete");
    let (mut whole, mut pieces) = (Vec::new(), Vec::new());
    while whole.is_empty() || pieces.last().is_none_or(|p: &pb::WatchResponse| p.fragment) {
        let answer = stream.next().await;
        match answer.watch_id {
            0 => whole.push(answer),
            _ => pieces.push(answer),
        }
    }
    assert_eq!((whole.len(), whole[0].events.len()), (1, 1_500));
    assert!(pieces.len() > 1, "{}", pieces.len());
    let together: Vec<_> = pieces.iter().flat_map(|piece| &piece.events).collect();
    assert!(together.into_iter().eq(&whole[0].events), "they differ");
}
