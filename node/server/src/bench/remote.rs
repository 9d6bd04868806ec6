//! A load against servers that speak etcd v3.

use std::sync::Arc;

use bytes::Bytes;
use henge_edge::etcd::proto::etcdserverpb as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

use super::args::{BenchArgs, Work};
use super::clients::{self, Target};
use super::dial::{self, Server, describe};
use super::op::{self, Answer, KEYS_END, Op, RANGE_KEYS};
use super::prefill::Prefill;
use super::report::{Against, RunResult};
use super::seen::seen;
use super::signals::Signals;
use super::supervise::supervise;
use super::tally::Tally;
use super::usage::Usage;
use super::window::Window;
use crate::output::tell;

/// Runs the load to its end.
pub fn run(args: &BenchArgs, signals: &Signals) -> Result<RunResult, String> {
    let window = Window::new();
    let prefill = Arc::new(Prefill::default());
    let (part, seen) = std::thread::scope(|scope| {
        let (shared, filling) = (window.clone(), prefill.clone());
        let client = scope.spawn(move || {
            let _ended = shared.thread();
            client_thread(args, signals, &filling, shared.clone())
        });
        let seen = supervise(args, &window, signals, 1, Usage::now);
        // Also if there was nothing to supervise with.
        window.close();
        let dead = |_| Err("the client thread died".to_owned());
        (client.join().unwrap_or_else(dead), seen)
    });
    let (tally, servers) = part?;
    let seen = seen?;
    if signals.look().is_some() {
        tell!("henge bench: interrupted");
    }
    Ok(RunResult {
        tally,
        window: window.length(),
        left_due: window.left_due(),
        caught: seen.caught.or_else(|| signals.look()),
        usage: seen.meters,
        log: None,
        conns: dial::connections(args),
        prefill,
        against: Against::Remote { servers },
    })
}

fn client_thread(
    args: &BenchArgs,
    signals: &Signals,
    prefill: &Arc<Prefill>,
    window: Arc<Window>,
) -> Result<(Tally, Vec<Server>), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a client runtime: {error}"))?;
    let local = tokio::task::LocalSet::new();
    let outcome = local.block_on(&runtime, async {
        let (channels, servers) = tokio::select! {
            _ = signals.caught() => return Ok((Tally::default(), Vec::new())),
            dialled = dial::dial(args) => dialled?,
        };
        let target = RemoteTarget {
            channels,
            args: args.clone(),
        };
        prefill.run(args, signals, &target).await?;
        let tally = clients::run(args, window, target, 0..args.clients).await?;
        Ok((tally, servers))
    });
    // A name that is still being looked up holds nobody up.
    runtime.shutdown_background();
    outcome
}

#[derive(Clone)]
struct RemoteTarget {
    channels: Vec<Channel>,
    args: BenchArgs,
}

/// One client: its connection, and the events of its watcher, for `watch`.
struct RemoteClient {
    kv: pb::kv_client::KvClient<Channel>,
    channel: Channel,
    events: Option<Events>,
}

/// A watch stream; the requests' side stays open as long as the answers'.
struct Events {
    requests: mpsc::Sender<pb::WatchRequest>,
    responses: Streaming<pb::WatchResponse>,
    watch_id: i64,
}

const WATCH_ENDED: &str = "the watch ended";

impl RemoteTarget {
    fn channel(&self, client: u32) -> Channel {
        self.channels[client as usize % self.channels.len()].clone()
    }

    fn kv(&self, client: u32) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel(client)).max_decoding_message_size(usize::MAX)
    }
}

impl Events {
    /// Opens a stream with one watcher.
    async fn open(channel: Channel, key: Vec<u8>) -> Result<Self, String> {
        let create = pb::WatchCreateRequest {
            key: key.into(),
            ..Default::default()
        };
        let (requests, taken) = mpsc::channel(2);
        // There is room for two.
        let _ = requests.try_send(request(pb::watch_request::RequestUnion::CreateRequest(
            create,
        )));
        let mut watch =
            pb::watch_client::WatchClient::new(channel).max_decoding_message_size(usize::MAX);
        let answer = watch.watch(ReceiverStream::new(taken)).await;
        let responses = answer.map_err(|status| describe(&status))?.into_inner();
        let mut events = Events {
            requests,
            responses,
            watch_id: 0,
        };
        let first = events.next().await?;
        events.watch_id = first.watch_id;
        Ok(events)
    }

    async fn next(&mut self) -> Result<pb::WatchResponse, String> {
        let next = self.responses.message().await;
        let next = next.map_err(|status| format!("{WATCH_ENDED}: {}", describe(&status)))?;
        match next {
            None => Err(WATCH_ENDED.to_owned()),
            Some(response) if response.canceled => {
                Err(format!("{WATCH_ENDED}: {}", response.cancel_reason))
            }
            Some(response) => Ok(response),
        }
    }

    /// Cancels the watcher, and waits until it is.
    async fn cancel(mut self) -> Result<(), String> {
        let cancel = pb::WatchCancelRequest {
            watch_id: self.watch_id,
        };
        let _ = self
            .requests
            .try_send(request(pb::watch_request::RequestUnion::CancelRequest(
                cancel,
            )));
        loop {
            match self.responses.message().await {
                Ok(Some(response)) if response.canceled => return Ok(()),
                Ok(Some(_)) => {}
                Ok(None) => return Err(WATCH_ENDED.to_owned()),
                Err(status) => return Err(describe(&status)),
            }
        }
    }
}

fn request(union: pb::watch_request::RequestUnion) -> pb::WatchRequest {
    pb::WatchRequest {
        request_union: Some(union),
    }
}

impl Target for RemoteTarget {
    type Client = RemoteClient;

    async fn client(&self, number: u32) -> Result<RemoteClient, String> {
        let mut client = RemoteClient {
            kv: self.kv(number),
            channel: self.channel(number),
            events: None,
        };
        self.mend(number, &mut client).await?;
        Ok(client)
    }

    async fn execute(&self, client: &mut RemoteClient, op: Op) -> Result<Answer, String> {
        let RemoteClient {
            kv,
            channel,
            events,
        } = client;
        let done = |()| Answer::default();
        match op {
            Op::Put { key, value } => kv.put(put(key, value)).await.map(drop).map(done),
            Op::Get { key } => {
                let request = pb::RangeRequest {
                    key: key.into(),
                    ..Default::default()
                };
                let found = kv.range(request).await;
                found.map(|found| Answer::found(found.get_ref().kvs.len()))
            }
            Op::Range { key } => {
                let found = kv.range(range(key, RANGE_KEYS)).await;
                found.map(|found| Answer::found(found.get_ref().kvs.len()))
            }
            Op::Txn { key, value } => kv.txn(txn(key, value)).await.map(drop).map(done),
            Op::Seen { key, value } => {
                let outcome = put_and_see(kv, events, key, value).await;
                if outcome
                    .as_ref()
                    .is_err_and(|error| error.starts_with(WATCH_ENDED))
                {
                    *events = None;
                }
                return outcome;
            }
            Op::Open { key } => {
                let opened = Events::open(channel.clone(), key).await?;
                return opened.cancel().await.map(done);
            }
        }
        .map_err(|status| describe(&status))
    }

    async fn mend(&self, number: u32, client: &mut RemoteClient) -> Result<(), String> {
        if self.args.work == Work::Watch && client.events.is_none() {
            let key = op::own_key(&self.args, number);
            client.events = Some(Events::open(client.channel.clone(), key).await?);
        }
        Ok(())
    }

    async fn keys(&self, from: Vec<u8>, limit: i64) -> Result<Vec<Bytes>, String> {
        let request = pb::RangeRequest {
            keys_only: true,
            ..range(from, limit)
        };
        let found = self.kv(0).range(request).await;
        let found = found.map_err(|status| describe(&status))?.into_inner();
        Ok(found.kvs.into_iter().map(|kv| kv.key).collect())
    }

    async fn write(&self, pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Result<(), String> {
        let spread = pairs
            .first()
            .and_then(|(key, _)| op::number(&self.args, key));
        let success = pairs.into_iter().map(|(key, value)| pb::RequestOp {
            request: Some(pb::request_op::Request::RequestPut(put(key, value))),
        });
        let request = pb::TxnRequest {
            success: success.collect(),
            ..Default::default()
        };
        let conns = self.channels.len() as u64;
        // Below the number of connections, which is a u32.
        let client = (spread.unwrap_or_default() / 100 % conns) as u32;
        let written = self.kv(client).txn(request).await;
        written.map(drop).map_err(|status| describe(&status))
    }
}

async fn put_and_see(
    kv: &mut pb::kv_client::KvClient<Channel>,
    events: &mut Option<Events>,
    key: Vec<u8>,
    value: Vec<u8>,
) -> Result<Answer, String> {
    let events = events.as_mut().ok_or(WATCH_ENDED)?;
    let put = async {
        let written = kv.put(put(key, value)).await;
        let header = written
            .map_err(|status| describe(&status))?
            .into_inner()
            .header;
        Ok(header.map_or(0, |header| header.revision))
    };
    seen(put, async || {
        let shown = events.next().await?.events;
        Ok(shown
            .into_iter()
            .filter_map(|event| Some(event.kv?.mod_revision))
            .collect())
    })
    .await
}

fn put(key: Vec<u8>, value: Vec<u8>) -> pb::PutRequest {
    pb::PutRequest {
        key: key.into(),
        value: value.into(),
        ..Default::default()
    }
}

/// From a key on, to the end of the keyspace.
fn range(key: Vec<u8>, limit: i64) -> pb::RangeRequest {
    pb::RangeRequest {
        key: key.into(),
        range_end: Bytes::from_static(KEYS_END),
        limit,
        ..Default::default()
    }
}

fn txn(key: Vec<u8>, value: Vec<u8>) -> pb::TxnRequest {
    use pb::compare::{CompareResult, CompareTarget, TargetUnion};
    let compare = pb::Compare {
        result: CompareResult::Greater.into(),
        target: CompareTarget::Mod.into(),
        key: key.clone().into(),
        target_union: Some(TargetUnion::ModRevision(-1)),
        ..Default::default()
    };
    let request = Some(pb::request_op::Request::RequestPut(put(key, value)));
    pb::TxnRequest {
        compare: vec![compare],
        success: vec![pb::RequestOp { request }],
        failure: Vec::new(),
    }
}
