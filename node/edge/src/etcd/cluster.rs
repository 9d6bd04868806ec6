//! The Cluster service: who the members are. Changing them at run time is answered with
//! Unimplemented until the engine can do it.

use henge_api::{Backend, Member};
use tonic::{Request, Response, Status};

use super::asked::Asked;
use super::errors::status;
use super::header::without_revision;
use super::proto::etcdserverpb as pb;

/// The Cluster service over a backend.
#[derive(Debug)]
pub struct Cluster<B> {
    asked: Asked<B>,
}

impl<B: Backend> Cluster<B> {
    /// A service that lists the members what is asked knows.
    pub fn new(asked: Asked<B>) -> Cluster<B> {
        Cluster { asked }
    }
}

fn member(m: Member) -> pb::Member {
    pb::Member {
        id: m.id,
        name: m.name,
        peer_ur_ls: m.peer_urls,
        client_ur_ls: m.client_urls,
        is_learner: m.is_learner,
    }
}

fn fixed<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "etcdserver: membership is fixed by --initial-cluster in this version",
    ))
}

#[tonic::async_trait]
impl<B: Backend> pb::cluster_server::Cluster for Cluster<B> {
    async fn member_add(
        &self,
        _: Request<pb::MemberAddRequest>,
    ) -> Result<Response<pb::MemberAddResponse>, Status> {
        fixed()
    }

    async fn member_remove(
        &self,
        _: Request<pb::MemberRemoveRequest>,
    ) -> Result<Response<pb::MemberRemoveResponse>, Status> {
        fixed()
    }

    async fn member_update(
        &self,
        _: Request<pb::MemberUpdateRequest>,
    ) -> Result<Response<pb::MemberUpdateResponse>, Status> {
        fixed()
    }

    async fn member_list(
        &self,
        request: Request<pb::MemberListRequest>,
    ) -> Result<Response<pb::MemberListResponse>, Status> {
        let backend = self.asked.of(request.metadata());
        let linearizable = request.into_inner().linearizable;
        let reply = backend
            .members(linearizable)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::MemberListResponse {
            header: without_revision(reply.header),
            members: reply.body.into_iter().map(member).collect(),
        }))
    }

    async fn member_promote(
        &self,
        _: Request<pb::MemberPromoteRequest>,
    ) -> Result<Response<pb::MemberPromoteResponse>, Status> {
        fixed()
    }
}
