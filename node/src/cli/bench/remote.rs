//! A load against servers that speak etcd v3.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_stream::StreamExt as _;
use tonic::transport::{Channel, Endpoint};

use super::args::{BenchArgs, Work};
use super::load::{self, Op, RANGE_KEYS, Shared, Target};
use super::report::{RunResult, Usage};
use crate::etcd::proto::etcdserverpb as pb;

/// Runs the load to its end.
pub fn run(args: &BenchArgs) -> Result<RunResult, String> {
    let usage = Usage::now();
    let shared = Shared::new();
    let running = AtomicUsize::new(1);
    let part = std::thread::scope(|scope| {
        let (clients, running) = (shared.clone(), &running);
        let client = scope.spawn(move || {
            let part = client_thread(args, clients);
            running.store(0, Ordering::Relaxed);
            part
        });
        load::supervise(args, &shared, &|| running.load(Ordering::Relaxed) == 0);
        client
            .join()
            .unwrap_or_else(|_| Err("the client thread died".to_owned()))
    })?;
    let usage = Usage::now().since(&usage);
    Ok(RunResult::remote(
        load::collect(&shared, std::iter::once(part)),
        usage,
        &args.endpoints,
    ))
}

type Part = (hdrhistogram::Histogram<u64>, Option<String>);

fn client_thread(args: &BenchArgs, shared: std::sync::Arc<Shared>) -> Result<Part, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start a client runtime: {error}"))?;
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let target = connect(args).await?;
        Ok(load::run_clients(args, shared, target, 0..args.clients).await)
    })
}

#[derive(Clone)]
struct RemoteTarget {
    channels: Vec<Channel>,
    watch: bool,
}

/// Opens the connections in turn over the endpoints; the first that fails is named.
async fn connect(args: &BenchArgs) -> Result<RemoteTarget, String> {
    let conns = args.conns.unwrap_or(10).min(args.clients) as usize;
    let mut channels = Vec::with_capacity(conns);
    for url in args.endpoints.iter().cycle().take(conns) {
        let named = |error: tonic::transport::Error| {
            let mut text = format!("{url}: {error}");
            let mut cause = std::error::Error::source(&error);
            while let Some(source) = cause {
                text = format!("{text}: {source}");
                cause = source.source();
            }
            text
        };
        let url = if url.contains("://") {
            url.clone()
        } else {
            format!("http://{url}")
        };
        let endpoint = Endpoint::from_shared(url.clone())
            .map_err(named)?
            .tcp_nodelay(true);
        channels.push(endpoint.connect().await.map_err(named)?);
    }
    Ok(RemoteTarget {
        channels,
        watch: args.work == Work::Watch,
    })
}

impl Target for RemoteTarget {
    async fn execute(&self, client: u32, op: Op) -> Result<(), String> {
        let channel = self.channels[client as usize % self.channels.len()].clone();
        if let (Op::Put { key, value }, true) = (&op, self.watch) {
            return put_and_see(channel, key, value).await.map_err(describe);
        }
        let mut kv = pb::kv_client::KvClient::new(channel);
        match op {
            Op::Put { key, value } => kv.put(put(key, value)).await.map(|_| ()),
            Op::Get { key } => {
                let request = pb::RangeRequest {
                    key: key.into(),
                    ..Default::default()
                };
                kv.range(request).await.map(|_| ())
            }
            Op::Range { key } => {
                let request = pb::RangeRequest {
                    key: key.into(),
                    range_end: vec![0].into(),
                    limit: RANGE_KEYS,
                    ..Default::default()
                };
                kv.range(request).await.map(|_| ())
            }
            Op::Txn { key, value } => kv.txn(txn(key, value)).await.map(|_| ()),
        }
        .map_err(describe)
    }
}

fn describe(status: tonic::Status) -> String {
    format!("{:?}: {}", status.code(), status.message())
}

fn put(key: Vec<u8>, value: Vec<u8>) -> pb::PutRequest {
    pb::PutRequest {
        key: key.into(),
        value: value.into(),
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

/// Opens a watcher on the key, writes it, and waits for the event.
async fn put_and_see(channel: Channel, key: &[u8], value: &[u8]) -> Result<(), tonic::Status> {
    use pb::watch_request::RequestUnion;
    let create = pb::WatchCreateRequest {
        key: key.to_vec().into(),
        ..Default::default()
    };
    let first = pb::WatchRequest {
        request_union: Some(RequestUnion::CreateRequest(create)),
    };
    // The request stream stays open behind the first message, as a watching client's does.
    let requests = tokio_stream::once(first).chain(tokio_stream::pending());
    let mut watch = pb::watch_client::WatchClient::new(channel.clone());
    let mut events = watch.watch(requests).await?.into_inner();
    events.message().await?;
    let mut kv = pb::kv_client::KvClient::new(channel);
    let written = kv
        .put(put(key.to_vec(), value.to_vec()))
        .await?
        .into_inner();
    let revision = written.header.map_or(0, |header| header.revision);
    while let Some(response) = events.message().await? {
        if response
            .events
            .iter()
            .any(|e| e.kv.as_ref().is_some_and(|kv| kv.mod_revision >= revision))
        {
            break;
        }
    }
    Ok(())
}
