//! The Maintenance service: status, hashes, alarms. Defragment has nothing to do here (the store
//! never fragments a file) and says OK, as operators' cron jobs expect.

use std::sync::Arc;

use henge_api::{Alarm, AlarmAction, AlarmMember, Backend, Error, Reply};
use tonic::{Request, Response, Status};

use super::asked::Asked;
use super::errors::{status, text};
use super::header::header;
use super::proto::etcdserverpb as pb;
use super::streams::Answers;
use crate::API_VERSION;
use crate::config::{EdgeConfig, cluster_version};

/// The Maintenance service over a backend.
#[derive(Debug)]
pub struct Maintenance<B> {
    asked: Asked<B>,
    config: Arc<EdgeConfig>,
}

impl<B: Backend> Maintenance<B> {
    /// A service that tells the state of what is asked.
    pub fn new(asked: Asked<B>, config: Arc<EdgeConfig>) -> Maintenance<B> {
        Maintenance { asked, config }
    }
}

/// The kind of alarm that a request names; nothing for none, which is all.
fn named(alarm: i32) -> Result<Option<Alarm>, Status> {
    match pb::AlarmType::try_from(alarm) {
        Ok(pb::AlarmType::None) => Ok(None),
        Ok(pb::AlarmType::Nospace) => Ok(Some(Alarm::NoSpace)),
        Ok(pb::AlarmType::Corrupt) => Ok(Some(Alarm::Corrupt)),
        Err(_) => Err(Status::invalid_argument(format!(
            "etcdserver: there is no alarm {alarm}"
        ))),
    }
}

fn not_yet<T>(what: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "etcdserver: {what} is not supported by this server yet"
    )))
}

#[tonic::async_trait]
impl<B: Backend> pb::maintenance_server::Maintenance for Maintenance<B> {
    /// As etcd's. What a member has for want of room on its disk is listed as well, cannot be lowered, and
    /// falls by itself.
    async fn alarm(
        &self,
        request: Request<pb::AlarmRequest>,
    ) -> Result<Response<pb::AlarmResponse>, Status> {
        use pb::alarm_request::AlarmAction as Action;
        let backend = self.asked.of(request.metadata());
        let request = request.into_inner();
        let kind = named(request.alarm)?;
        let action = match Action::try_from(request.action) {
            Ok(Action::Get) => None,
            Ok(Action::Activate) => Some(AlarmAction::Activate),
            Ok(Action::Deactivate) => Some(AlarmAction::Deactivate),
            Err(_) => {
                return Err(Status::invalid_argument(format!(
                    "etcdserver: there is no alarm action {}",
                    request.action
                )));
            }
        };
        let member_id = request.member_id;
        let reply = match (action, kind) {
            (Some(action), Some(alarm)) => {
                let alarm = AlarmMember { alarm, member_id };
                backend.alarm(action, alarm).await
            }
            _ => backend.alarms().await,
        };
        let Reply { header: of, body } = reply.map_err(|e| status(&e))?;
        // To raise or lower no alarm in particular does nothing.
        let nothing = action.is_some() && kind.is_none();
        let shown = body.into_iter().filter(|found| {
            let asked = kind.is_none_or(|kind| kind == found.alarm);
            asked && !nothing
        });
        let alarms = shown.map(|found| pb::AlarmMember {
            member_id: found.member_id,
            alarm: found.alarm as i32,
        });
        Ok(Response::new(pb::AlarmResponse {
            header: header(of),
            alarms: alarms.collect(),
        }))
    }

    async fn status(
        &self,
        request: Request<pb::StatusRequest>,
    ) -> Result<Response<pb::StatusResponse>, Status> {
        let reply = self
            .asked
            .of(request.metadata())
            .status()
            .await
            .map_err(|e| status(&e))?;
        let s = reply.body;
        Ok(Response::new(pb::StatusResponse {
            header: header(reply.header),
            errors: wrong_with(&s),
            storage_version: cluster_version(API_VERSION),
            version: API_VERSION.to_owned(),
            db_size: s.db_size,
            leader: s.leader,
            raft_index: s.raft_index,
            raft_term: s.raft_term,
            raft_applied_index: s.raft_applied_index,
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
        request: Request<pb::HashRequest>,
    ) -> Result<Response<pb::HashResponse>, Status> {
        let reply = self
            .asked
            .of(request.metadata())
            .hash_kv(0)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::HashResponse {
            header: header(reply.header),
            hash: reply.body.hash,
        }))
    }

    async fn hash_kv(
        &self,
        request: Request<pb::HashKvRequest>,
    ) -> Result<Response<pb::HashKvResponse>, Status> {
        let backend = self.asked.of(request.metadata());
        let revision = request.into_inner().revision;
        let reply = backend.hash_kv(revision).await.map_err(|e| status(&e))?;
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

/// What is wrong with a member, as etcd lists it.
fn wrong_with(status: &henge_api::Status) -> Vec<String> {
    let mut errors = Vec::new();
    if status.leader == 0 {
        errors.push(text::NO_LEADER.to_owned());
    }
    errors.extend(status.alarms.iter().map(ToString::to_string));
    if status.lacks_descriptors {
        errors.push(Error::NoDescriptors.to_string());
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who had no descriptor left was told to make room on a disk that had it.
    #[test]
    fn regression_what_is_wrong_with_a_member_is_said_by_its_name() {
        let full = AlarmMember {
            alarm: Alarm::NoSpace,
            member_id: 1,
        };
        let status = |leader, alarms: &[AlarmMember], lacks_descriptors| henge_api::Status {
            leader,
            alarms: alarms.to_vec(),
            lacks_descriptors,
            ..Default::default()
        };
        assert!(wrong_with(&status(1, &[], false)).is_empty());
        assert_eq!(wrong_with(&status(0, &[], false)), [text::NO_LEADER]);
        let alarm = "memberID:1 alarm:NOSPACE";
        assert_eq!(wrong_with(&status(1, &[full], false)), [alarm]);
        let without = wrong_with(&status(1, &[], true));
        assert!(
            without.len() == 1 && without[0].contains("ulimit -n"),
            "{without:?}"
        );
    }
}
