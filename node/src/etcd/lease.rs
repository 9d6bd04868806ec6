//! The Lease service. Keep-alives of one stream are answered one by one, in order, as etcd does.

use std::sync::Arc;

use tonic::{Request, Response, Status, Streaming};

use super::config::EdgeConfig;
use super::errors::{inbound, status};
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::streams::{Answers, Draining, LeaderMonitor, drained, unfold};
use crate::api::Backend;

/// The Lease service over a backend.
#[derive(Debug)]
pub struct Lease<B> {
    backend: B,
    config: Arc<EdgeConfig>,
    draining: Draining,
}

impl<B: Backend> Lease<B> {
    /// A service that keeps leases of `backend` alive until `draining` says so.
    pub(crate) fn new(backend: B, config: Arc<EdgeConfig>, draining: Draining) -> Lease<B> {
        Lease {
            backend,
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
        let r = request.into_inner();
        let reply = self
            .backend
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
        let id = request.into_inner().id;
        let reply = self
            .backend
            .lease_revoke(id)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::LeaseRevokeResponse {
            header: header(reply.header),
        }))
    }

    type LeaseKeepAliveStream = Answers<pb::LeaseKeepAliveResponse>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<pb::LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let leader = LeaderMonitor::new(
            self.backend.clone(),
            request.metadata(),
            self.config.election_timeout,
        );
        let call = KeepAlive {
            backend: self.backend.clone(),
            leader,
            requests: request.into_inner(),
            draining: self.draining.clone(),
        };
        Ok(Response::new(unfold(call, |call| call.step())))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<pb::LeaseTimeToLiveRequest>,
    ) -> Result<Response<pb::LeaseTimeToLiveResponse>, Status> {
        let r = request.into_inner();
        let reply = self
            .backend
            .lease_time_to_live(r.id, r.keys)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::LeaseTimeToLiveResponse {
            header: header(reply.header),
            id: reply.body.id,
            ttl: reply.body.ttl_s,
            granted_ttl: reply.body.granted_ttl_s,
            keys: reply.body.keys,
        }))
    }

    async fn lease_leases(
        &self,
        _: Request<pb::LeaseLeasesRequest>,
    ) -> Result<Response<pb::LeaseLeasesResponse>, Status> {
        let reply = self.backend.leases().await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::LeaseLeasesResponse {
            header: header(reply.header),
            leases: reply
                .body
                .into_iter()
                .map(|id| pb::LeaseStatus { id })
                .collect(),
        }))
    }
}

/// One LeaseKeepAlive call.
struct KeepAlive<B> {
    backend: B,
    leader: LeaderMonitor<B>,
    requests: Streaming<pb::LeaseKeepAliveRequest>,
    draining: Draining,
}

impl<B: Backend> KeepAlive<B> {
    async fn step(mut self) -> Option<(Result<pb::LeaseKeepAliveResponse, Status>, Self)> {
        let request = tokio::select! {
            r = self.requests.message() => r.map_err(inbound),
            status = drained(&mut self.draining) => Err(status),
            status = self.leader.lost() => Err(status),
        };
        let id = match request {
            Ok(Some(r)) => r.id,
            Ok(None) => return None,
            Err(e) => return Some((Err(e), self)),
        };
        // An unknown or expired lease is no error: its answer says TTL 0.
        let answer = match self.backend.lease_keep_alive(id).await {
            Ok(reply) => Ok(pb::LeaseKeepAliveResponse {
                header: header(reply.header),
                id,
                ttl: reply.body,
            }),
            Err(e) => Err(status(&e)),
        };
        Some((answer, self))
    }
}
