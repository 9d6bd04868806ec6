//! The Lease service. Keep-alives of one stream are answered in their order, as etcd does, but need not wait
//! for each other: those under way together become one command (decision 2).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use henge_api::{Backend, Caller, Error, Reply};
use tonic::{Request, Response, Status, Streaming};

use super::asked::Asked;
use super::errors::{inbound, status};
use super::header::header;
use super::long_answer::LongAnswer;
use super::proto::etcdserverpb as pb;
use super::streams::{Answers, Draining, LeaderMonitor, drained, unfold};
use super::unary::{self, Framed};
use crate::config::EdgeConfig;

/// The Lease service over a backend.
#[derive(Debug)]
pub struct Lease<B> {
    asked: Asked<B>,
    config: Arc<EdgeConfig>,
    draining: Draining,
}

impl<B: Backend> Lease<B> {
    /// A service that keeps leases of what is asked alive until `draining` says so.
    pub(crate) fn new(asked: Asked<B>, config: Arc<EdgeConfig>, draining: Draining) -> Lease<B> {
        Lease {
            asked,
            config,
            draining,
        }
    }
}

#[tonic::async_trait]
impl<B: Backend> pb::lease_server::Lease for Lease<B> {
    async fn lease_grant(
        &self,
        request: Request<pb::LeaseGrantRequest>,
    ) -> Result<Response<pb::LeaseGrantResponse>, Status> {
        let backend = self.asked.of(request.metadata());
        let r = request.into_inner();
        let reply = backend
            .lease_grant(r.id, r.ttl)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::LeaseGrantResponse {
            header: header(reply.header),
            id: reply.body.id,
            ttl: reply.body.ttl_s,
            error: String::new(),
        }))
    }

    async fn lease_revoke(
        &self,
        request: Request<pb::LeaseRevokeRequest>,
    ) -> Result<Response<pb::LeaseRevokeResponse>, Status> {
        let backend = self.asked.of(request.metadata());
        let id = request.into_inner().id;
        let reply = backend.lease_revoke(id).await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::LeaseRevokeResponse {
            header: header(reply.header),
        }))
    }

    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let backend = self.asked.of(request.metadata());
        let leader = LeaderMonitor::new(
            backend.clone(),
            request.metadata(),
            self.config.election_timeout,
        );
        let call = KeepAlive {
            backend,
            leader,
            requests: request.into_inner(),
            draining: self.draining.clone(),
            under_way: VecDeque::new(),
            end: None,
        };
        Ok(Response::new(unfold(call, |call| call.step())))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let of = self.asked.caller(&metadata);
        drop(metadata);
        let found = self.time_to_live(of, request).await;
        let (mut message, keys) = found.map_err(|e| status(&e))?;
        message.keys = keys;
        Ok(Response::new(message))
    }

    async fn lease_leases(
        &self,
        request: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let (mut message, ids) = self
            .leases(self.asked.caller(request.metadata()))
            .await
            .map_err(|e| status(&e))?;
        message.leases = ids.into_iter().map(|id| pb::LeaseStatus { id }).collect();
        Ok(Response::new(message))
    }
}

impl<B: Backend> Lease<B> {
    /// What is left of a lease; its keys beside the message.
    async fn time_to_live(
        &self,
        of: Caller,
        r: pb::LeaseTimeToLiveRequest,
    ) -> Result<(pb::LeaseTimeToLiveResponse, Vec<Bytes>), Error> {
        let reply = self.asked.by(of).lease_time_to_live(r.id, r.keys).await?;
        let message = pb::LeaseTimeToLiveResponse {
            header: header(reply.header),
            id: reply.body.id,
            ttl: reply.body.ttl_s,
            granted_ttl: reply.body.granted_ttl_s,
            keys: Vec::new(),
        };
        Ok((message, reply.body.keys))
    }

    /// All leases; their ids beside the message.
    async fn leases(&self, of: Caller) -> Result<(pb::LeaseLeasesResponse, Vec<i64>), Error> {
        let reply = self.asked.by(of).leases().await?;
        let message = pb::LeaseLeasesResponse {
            header: header(reply.header),
            leases: Vec::new(),
        };
        Ok((message, reply.body))
    }

    /// [`Lease::time_to_live`] as it goes out: in pieces, as a lease may have a million keys.
    pub(crate) async fn time_to_live_framed(
        &self,
        of: Caller,
        r: pb::LeaseTimeToLiveRequest,
    ) -> Result<Framed, Error> {
        let (message, keys) = self.time_to_live(of, r).await?;
        if keys.is_empty() {
            return Ok(Framed::Short(unary::frame(&message)));
        }
        Ok(Framed::Long(LongAnswer::keys(&message, keys).await))
    }

    /// [`Lease::leases`] as it goes out: in pieces, as there may be a million.
    pub(crate) async fn leases_framed(&self, of: Caller) -> Result<Framed, Error> {
        let (message, ids) = self.leases(of).await?;
        Ok(Framed::Long(LongAnswer::leases(&message, ids).await))
    }
}

/// Renewals of one stream that may be under way; the client's further ones wait in its HTTP/2 window. A
/// client that renews 20,000 leases at once is served in a few turns.
const UNDER_WAY_MAX: usize = 4_096;

type Renewing = Pin<Box<dyn Future<Output = Result<Reply<i64>, Error>> + Send>>;

/// One LeaseKeepAlive call.
struct KeepAlive<B> {
    backend: B,
    leader: LeaderMonitor<B>,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    draining: Draining,
    /// Leases that are being renewed, in the order of their requests.
    under_way: VecDeque<(i64, Renewing)>,
    /// Nothing more is read; what ends the stream once the rest is answered.
    end: Option<Result<(), Status>>,
}

impl<B: Backend> KeepAlive<B> {
    /// The next answer. Requests are taken in until the first of them is answered.
    async fn step(mut self) -> Option<(Result<pb::LeaseKeepAliveResponse, Status>, Self)> {
        loop {
            if self.under_way.is_empty()
                && let Some(end) = self.end.take()
            {
                return end.err().map(|status| (Err(status), self));
            }
            let goes_on = self.end.is_none();
            let reads = goes_on && self.under_way.len() < UNDER_WAY_MAX;
            let KeepAlive {
                requests,
                under_way,
                draining,
                leader,
                ..
            } = &mut self;
            let first = async {
                match under_way.front_mut() {
                    // Only the first needs to be polled: the others are answered wherever they wait.
                    Some((id, renewing)) => (*id, renewing.as_mut().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                (id, answer) = first => {
                    self.under_way.pop_front();
                    return Some((renewed(id, answer), self));
                }
                request = requests.message(), if reads => match request {
                    Ok(Some(r)) => {
                        let renewing = Box::pin(self.backend.lease_keep_alive(r.id));
                        self.under_way.push_back((r.id, renewing));
                    }
                    Ok(None) => self.end = Some(Ok(())),
                    Err(e) => return Some((Err(inbound(e)), self)),
                },
                status = drained(draining), if goes_on => self.end = Some(Err(status)),
                status = leader.lost() => return Some((Err(status), self)),
            }
        }
    }
}

/// An unknown or expired lease is no error: its answer says TTL 0.
fn renewed(
    id: i64,
    answer: Result<Reply<i64>, Error>,
) -> Result<pb::LeaseKeepAliveResponse, Status> {
    let reply = answer.map_err(|e| status(&e))?;
    Ok(pb::LeaseKeepAliveResponse {
        header: header(reply.header),
        id,
        ttl: reply.body,
    })
}
