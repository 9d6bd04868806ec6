//! Very many leases on one stream, through a follower.
//!
//! Promises: every lease that was granted is renewed in time, as the client that etcd's own library is would
//! do it (a third of its time to live after it was renewed last), and lives at the end.
//! Must never know: the server's inside. Tested by `crash --leases` against Henge and etcd.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use prost::Message;
use tokio::sync::{Semaphore, mpsc};
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::tokio_stream::Stream;
use tonic::transport::Endpoint;
use tonic_prost::ProstCodec;

use crate::etcd::{Client, Headed, Header};
use crate::process::Member;

/// Time to live of each, in seconds.
const TTL_S: i64 = 5;
/// Rounds of renewals, a third of the time to live apart: three times to live in all.
const ROUNDS: u32 = 9;
/// Leases granted at a time.
const GRANTS: usize = 128;
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// `etcdserverpb.LeaseGrantRequest`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Grant {
    #[prost(int64, tag = "1")]
    ttl: i64,
    #[prost(int64, tag = "2")]
    id: i64,
}

/// `etcdserverpb.LeaseKeepAliveRequest`.
#[derive(Clone, Copy, PartialEq, Message)]
struct KeepAlive {
    #[prost(int64, tag = "1")]
    id: i64,
}

/// `etcdserverpb.LeaseKeepAliveResponse`.
#[derive(Clone, Copy, PartialEq, Message)]
struct KeptAlive {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(int64, tag = "2")]
    id: i64,
    #[prost(int64, tag = "3")]
    ttl: i64,
}

/// `etcdserverpb.LeaseLeasesRequest`.
#[derive(Clone, Copy, PartialEq, Message)]
struct ListLeases {}

/// `etcdserverpb.LeaseStatus`.
#[derive(Clone, Copy, PartialEq, Message)]
struct Listed {
    #[prost(int64, tag = "1")]
    id: i64,
}

/// `etcdserverpb.LeaseLeasesResponse`.
#[derive(Clone, PartialEq, Message)]
struct List {
    #[prost(message, optional, tag = "1")]
    header: Option<Header>,
    #[prost(message, repeated, tag = "2")]
    leases: Vec<Listed>,
}

/// What is asked on a stream.
struct Asked(mpsc::UnboundedReceiver<KeepAlive>);

impl Stream for Asked {
    type Item = KeepAlive;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<KeepAlive>> {
        self.0.poll_recv(cx)
    }
}

/// Grants `count` leases and keeps them alive; a line of figures.
pub async fn run(members: &[Member], count: u32) -> Result<String, String> {
    let ports: Vec<u16> = members.iter().map(|member| member.client_port).collect();
    let follower = follower(&ports).await?;
    let endpoint =
        Endpoint::try_from(format!("http://127.0.0.1:{follower}")).map_err(|e| e.to_string())?;
    let channel = endpoint.connect().await.map_err(|e| e.to_string())?;
    let mut grpc = tonic::client::Grpc::new(channel);
    let (ask, asked) = mpsc::unbounded_channel();
    grpc.ready().await.map_err(|e| e.to_string())?;
    let path = PathAndQuery::from_static("/etcdserverpb.Lease/LeaseKeepAlive");
    let codec = ProstCodec::<KeepAlive, KeptAlive>::default();
    let request = tonic::Request::new(Asked(asked));
    let answers = grpc.streaming(request, path, codec).await;
    let mut answers = answers.map_err(|e| e.to_string())?.into_inner();

    // Those that are there already must not run out while the rest is granted.
    let begun = Instant::now();
    let mut granted = 0_i64;
    while granted < i64::from(count) {
        let next = (granted + 2_000).min(i64::from(count));
        grant(follower, granted + 1, next).await?;
        granted = next;
        renew(&ask, &mut answers, granted).await?;
    }
    let granting = begun.elapsed();

    let mut longest = Duration::ZERO;
    let pause = Duration::from_secs(TTL_S as u64) / 3;
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        renew(&ask, &mut answers, granted).await?;
        longest = longest.max(begun.elapsed());
        tokio::time::sleep(pause.saturating_sub(begun.elapsed())).await;
    }
    let mut client = Client::new(follower, ANSWER_MAX);
    let listed = client
        .call("/etcdserverpb.Lease/LeaseLeases", ListLeases {})
        .await;
    let listed: List = listed.map_err(|status| format!("leases cannot be listed: {status}"))?;
    if listed.leases.len() != count as usize {
        return Err(format!("{} of {count} leases live", listed.leases.len()));
    }
    Ok(format!(
        "leases={count} granting_ms={} renewing_all_ms_max={}",
        granting.as_millis(),
        longest.as_millis()
    ))
}

/// Grants leases of these ids, many at a time.
async fn grant(port: u16, first: i64, last: i64) -> Result<(), String> {
    let client = Client::new(port, ANSWER_MAX);
    let room = Arc::new(Semaphore::new(GRANTS));
    let mut grants = Vec::new();
    for id in first..=last {
        let permit = Arc::clone(&room).acquire_owned().await;
        let permit = permit.map_err(|e| e.to_string())?;
        let mut client = client.clone();
        grants.push(tokio::spawn(async move {
            let grant = Grant { ttl: TTL_S, id };
            let granted = client.call("/etcdserverpb.Lease/LeaseGrant", grant).await;
            drop(permit);
            granted.map(|_: Headed| ())
        }));
    }
    for grant in grants {
        let granted = grant.await.map_err(|e| e.to_string())?;
        granted.map_err(|status| format!("a lease was not granted: {status}"))?;
    }
    Ok(())
}

/// Asks for all at once and waits for all the answers, which come in the same order.
async fn renew(
    ask: &mpsc::UnboundedSender<KeepAlive>,
    answers: &mut tonic::Streaming<KeptAlive>,
    last: i64,
) -> Result<(), String> {
    for id in 1..=last {
        ask.send(KeepAlive { id }).map_err(|e| e.to_string())?;
    }
    for id in 1..=last {
        let answer = tokio::time::timeout(ANSWER_MAX, answers.message()).await;
        let answer = answer.map_err(|_| format!("no answer to the renewal of {id}"))?;
        let answer = answer.map_err(|status| format!("the renewal of {id}: {status}"))?;
        match answer {
            Some(answer) if (answer.id, answer.ttl) == (id, TTL_S) => {}
            other => return Err(format!("the renewal of {id} was answered {other:?}")),
        }
    }
    Ok(())
}

/// A member that does not lead, if there are several.
async fn follower(ports: &[u16]) -> Result<u16, String> {
    for port in ports {
        let mut client = Client::new(*port, ANSWER_MAX);
        let status = client.status().await.map_err(|e| e.to_string())?;
        let own = status.header.map_or(0, |header| header.member_id);
        if status.leader != own || ports.len() == 1 {
            return Ok(*port);
        }
    }
    Err("no member follows".to_owned())
}
