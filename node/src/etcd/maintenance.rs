//! The Maintenance service: status, hashes, alarms. Defragment has nothing to do here (the store
//! never fragments a file) and says OK, as operators' cron jobs expect.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::config::{EdgeConfig, cluster_version};
use super::errors::status;
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::streams::Answers;
use crate::api::{Backend, Metrics};

/// The Maintenance service over a backend.
#[derive(Debug)]
pub struct Maintenance<B> {
    backend: B,
    config: Arc<EdgeConfig>,
}

impl<B: Backend> Maintenance<B> {
    /// A service that tells the state of `backend`.
    pub fn new(backend: B, config: Arc<EdgeConfig>) -> Maintenance<B> {
        Maintenance { backend, config }
    }
}

/// The alarms that hold now. They follow the engine's state and clear by themselves.
pub(crate) fn alarms(m: &Metrics) -> Vec<pb::AlarmType> {
    if m.space_low {
        vec![pb::AlarmType::Nospace]
    } else {
        Vec::new()
    }
}

fn not_yet<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "etcdserver: {what} is not supported by this server yet"
    )))
}

#[tonic::async_trait]
impl<B: Backend> pb::maintenance_server::Maintenance for Maintenance<B> {
    /// GET lists; DEACTIVATE removes nothing, since an alarm here ends with its cause; ACTIVATE
    /// by hand is refused.
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction;
        let action = AlarmAction::try_from(request.into_inner().action);
        let reply = self.backend.status().await.map_err(|e| status(&e))?;
        let alarms = match action {
            Ok(AlarmAction::Get) => alarms(&self.backend.metrics()),
            Ok(AlarmAction::Deactivate) => Vec::new(),
            Ok(AlarmAction::Activate) | Err(_) => return not_yet("raising an alarm by hand"),
        };
        let of = |alarm| pb::AlarmMember {
            member_id: reply.header.member_id,
            alarm: alarm as i32,
        };
        Ok(Response::new(pb::AlarmResponse {
            header: header(reply.header),
            alarms: alarms.into_iter().map(of).collect(),
        }))
    }

    async fn status(
        &self,
        _: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let reply = self.backend.status().await.map_err(|e| status(&e))?;
        let s = reply.body;
        Ok(Response::new(pb::StatusResponse {
            header: header(reply.header),
            storage_version: cluster_version(&s.version),
            version: s.version,
            db_size: s.db_size,
            leader: s.leader,
            raft_index: s.raft_index,
            raft_term: s.raft_term,
            raft_applied_index: s.raft_applied_index,
            errors: s.errors,
            db_size_in_use: s.db_size_in_use,
            is_learner: s.is_learner,
            db_size_quota: self.config.quota_bytes,
            downgrade_info: Some(pb::DowngradeInfo::default()),
        }))
    }

    async fn defragment(
        &self,
        _: Request<pb::DefragmentRequest>,
    ) -> Result<Response<pb::DefragmentResponse>, Status> {
        // etcd sends no header here either.
        Ok(Response::new(pb::DefragmentResponse { header: None }))
    }

    async fn hash(
        &self,
        _: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let reply = self.backend.hash_kv(0).await.map_err(|e| status(&e))?;
        Ok(Response::new(pb::HashResponse {
            header: header(reply.header),
            hash: reply.body.hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let revision = request.into_inner().revision;
        let reply = self
            .backend
            .hash_kv(revision)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::HashKvResponse {
            header: header(reply.header),
            hash: reply.body.hash,
            compact_revision: reply.body.compact_revision,
            hash_revision: reply.body.hash_revision,
        }))
    }

    type SnapshotStream = Answers<pb::SnapshotResponse>;

    async fn snapshot(
        &self,
        _: Request<pb::SnapshotRequest>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        not_yet("Snapshot")
    }

    async fn move_leader(
        &self,
        _: Request<pb::MoveLeaderRequest>,
    ) -> Result<Response<pb::MoveLeaderResponse>, Status> {
        not_yet("MoveLeader")
    }

    async fn downgrade(
        &self,
        _: Request<pb::DowngradeRequest>,
    ) -> Result<Response<pb::DowngradeResponse>, Status> {
        not_yet("Downgrade")
    }
}
