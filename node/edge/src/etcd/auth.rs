//! The Auth service while there is no authentication: clients that ask are told so, in etcd's words.

use henge_api::Backend;
use tonic::{Request, Response, Status};

use super::asked::Asked;
use super::errors::{status, text};
use super::header::header;
use super::proto::etcdserverpb as pb;

/// The Auth service over a backend.
#[derive(Debug)]
pub struct Auth<B> {
    asked: Asked<B>,
}

impl<B: Backend> Auth<B> {
    /// A service that says that authentication is off.
    pub fn new(asked: Asked<B>) -> Auth<B> {
        Auth { asked }
    }
}

/// The revision of an auth store that was never changed (etcd counts from 1).
const AUTH_REVISION: u64 = 1;

fn not_yet<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented(
        "etcdserver: users and roles are not supported by this server yet",
    ))
}

#[tonic::async_trait]
impl<B: Backend> pb::auth_server::Auth for Auth<B> {
    async fn auth_enable(
        &self,
        _: Request<pb::AuthEnableRequest>,
    ) -> Result<Response<pb::AuthEnableResponse>, Status> {
        not_yet()
    }

    /// Off already: etcd answers OK.
    async fn auth_disable(
        &self,
        request: Request<pb::AuthDisableRequest>,
    ) -> Result<Response<pb::AuthDisableResponse>, Status> {
        let reply = self
            .asked
            .of(request.metadata())
            .status()
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::AuthDisableResponse {
            header: header(reply.header),
        }))
    }

    async fn auth_status(
        &self,
        request: Request<pb::AuthStatusRequest>,
    ) -> Result<Response<pb::AuthStatusResponse>, Status> {
        let reply = self
            .asked
            .of(request.metadata())
            .status()
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(pb::AuthStatusResponse {
            header: header(reply.header),
            enabled: false,
            auth_revision: AUTH_REVISION,
        }))
    }

    async fn authenticate(
        &self,
        _: Request<pb::AuthenticateRequest>,
    ) -> Result<Response<pb::AuthenticateResponse>, Status> {
        Err(Status::failed_precondition(text::AUTH_NOT_ENABLED))
    }

    async fn user_add(
        &self,
        _: Request<pb::AuthUserAddRequest>,
    ) -> Result<Response<pb::AuthUserAddResponse>, Status> {
        not_yet()
    }

    async fn user_get(
        &self,
        _: Request<pb::AuthUserGetRequest>,
    ) -> Result<Response<pb::AuthUserGetResponse>, Status> {
        not_yet()
    }

    async fn user_list(
        &self,
        _: Request<pb::AuthUserListRequest>,
    ) -> Result<Response<pb::AuthUserListResponse>, Status> {
        not_yet()
    }

    async fn user_delete(
        &self,
        _: Request<pb::AuthUserDeleteRequest>,
    ) -> Result<Response<pb::AuthUserDeleteResponse>, Status> {
        not_yet()
    }

    async fn user_change_password(
        &self,
        _: Request<pb::AuthUserChangePasswordRequest>,
    ) -> Result<Response<pb::AuthUserChangePasswordResponse>, Status> {
        not_yet()
    }

    async fn user_grant_role(
        &self,
        _: Request<pb::AuthUserGrantRoleRequest>,
    ) -> Result<Response<pb::AuthUserGrantRoleResponse>, Status> {
        not_yet()
    }

    async fn user_revoke_role(
        &self,
        _: Request<pb::AuthUserRevokeRoleRequest>,
    ) -> Result<Response<pb::AuthUserRevokeRoleResponse>, Status> {
        not_yet()
    }

    async fn role_add(
        &self,
        _: Request<pb::AuthRoleAddRequest>,
    ) -> Result<Response<pb::AuthRoleAddResponse>, Status> {
        not_yet()
    }

    async fn role_get(
        &self,
        _: Request<pb::AuthRoleGetRequest>,
    ) -> Result<Response<pb::AuthRoleGetResponse>, Status> {
        not_yet()
    }

    async fn role_list(
        &self,
        _: Request<pb::AuthRoleListRequest>,
    ) -> Result<Response<pb::AuthRoleListResponse>, Status> {
        not_yet()
    }

    async fn role_delete(
        &self,
        _: Request<pb::AuthRoleDeleteRequest>,
    ) -> Result<Response<pb::AuthRoleDeleteResponse>, Status> {
        not_yet()
    }

    async fn role_grant_permission(
        &self,
        _: Request<pb::AuthRoleGrantPermissionRequest>,
    ) -> Result<Response<pb::AuthRoleGrantPermissionResponse>, Status> {
        not_yet()
    }

    async fn role_revoke_permission(
        &self,
        _: Request<pb::AuthRoleRevokePermissionRequest>,
    ) -> Result<Response<pb::AuthRoleRevokePermissionResponse>, Status> {
        not_yet()
    }
}
